"""What a person sees: columns and a bar on a terminal, plain lines in a pipe; no terminal obeys a file's name."""

import json
import os
import re
import shutil
import sys
from pathlib import Path

import pytest

from tests.cellar import Cellar
from tests.e2e.terminal import on_terminal
from tests.proxy import FaultProxy, Faults, Rule, Stall

SIZE = 100_000
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def add_lost(cellar: Cellar, path: str) -> str:
    """Commits and pushes an object, which the store then loses; gives its oid."""
    oid = cellar.add(path, SIZE)
    cellar.push()
    cellar.server.client().delete_object(Bucket=cellar.bucket, Key=cellar.key(oid))
    return oid


@pytest.mark.parametrize("columns", [80, 120])
def test_columns_fit_the_terminal_and_an_address_can_be_copied_whole(cellar: Cellar, columns: int) -> None:
    folder = "a name/that is longer/than any terminal/is wide/" + "and has no end " * 8
    oid = add_lost(cellar, f"{folder}[red]m\x1b[2Jodel[/red].pt")
    address = f"s3://{cellar.bucket}/{cellar.key(oid)}"

    seen = on_terminal(cellar.home, "lfs-agent", "verify", cwd=cellar.work, columns=columns)

    assert seen.returncode == 1
    assert "\x1b[31mmissing" in seen.terminal
    assert "\x1b[2J" not in seen.terminal
    text = COLOUR.sub("", seen.terminal)
    head, *more = text.split("  s3://")[0].splitlines()
    assert all(len(line) <= columns for line in (head, *more))
    assert head.startswith(f"missing   {oid[:12]}    97.7 KiB  a name/that is longer/than ")
    assert {line[:36].strip() for line in more} == {""}, "what does not fit goes on in its own column"
    assert "[red]m?[2Jodel[/red].pt" in "".join(line[36:].strip() for line in (head, *more))
    assert f"\n  {address}: nobody has pushed it here, or it was deleted\nHEAD at {cellar.url}: 1 object, " in text

    plain = on_terminal(cellar.home, "lfs-agent", "verify", cwd=cellar.work, columns=columns, env={"NO_COLOR": "1"})
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]m", plain.terminal)
    as_json = on_terminal(cellar.home, "lfs-agent", "verify", "--json", cwd=cellar.work, columns=columns)
    assert json.loads(as_json.terminal.splitlines()[0])["address"] == address


@pytest.mark.parametrize("columns", [40, 80])
def test_a_narrow_terminal_leaves_nothing_out(cellar: Cellar, columns: int) -> None:
    """Of a long URL, at 80 columns, neither its end nor who says it; at 40 not the file that is missing."""
    oid = add_lost(cellar, "model.pt")
    folder = "/srv/a-share/" + "of-which-the-name-is-long/" * 4 + "ca.pem"
    cellar.git("config", "lfs-agent.ca", folder)
    environ = {"NO_COLOR": "1"}

    def seen(*words: str) -> list[str]:
        said = on_terminal(cellar.home, "lfs-agent", *words, cwd=cellar.work, columns=columns, env=environ)
        return said.terminal.splitlines()

    (ca,) = [line for line in seen("config", "--show-origin") if line.startswith("ca ")]
    assert ca == f"ca{' ' * 16}{folder}  git config, file:.git/config"
    cellar.git("config", "--unset", "lfs-agent.ca")
    assert seen("verify")[0].rstrip() == f"missing   {oid[:12]}    97.7 KiB  model.pt"


@pytest.mark.parametrize("pipe", ["", "stdout", "stderr"])
def test_the_bar_is_for_a_terminal_and_a_pipe_gets_plain_lines(cellar: Cellar, pipe: str) -> None:
    oid = add_lost(cellar, "model.pt")
    row = "\t".join(
        ("missing", oid[:12], "97.7 KiB", "model.pt", f"s3://{cellar.bucket}/{cellar.key(oid)}: nobody has pushed it")
    )
    with FaultProxy(cellar.server.endpoint, Faults((Rule(Stall("answer-head", seconds=1.5), "HEAD"),))) as proxy:
        environ = {"AWS_ENDPOINT_URL_S3": proxy.endpoint, "FORCE_COLOR": "1"}
        seen = on_terminal(cellar.home, "lfs-agent", "verify", cwd=cellar.work, pipe=pipe, env=environ)

    assert ("1 of 1 objects" in seen.terminal) == (pipe != "stderr")
    if pipe != "stderr":
        assert re.search(r"━.*\x1b\[\?25h.*\x1b\[2K", seen.terminal, re.DOTALL), "at its end the bar is gone"
    if pipe == "stdout":
        assert seen.piped.startswith(row)
        assert "\x1b" not in seen.piped
        assert "missing" not in seen.terminal
    else:
        assert f"{oid[:12]}    97.7 KiB  model.pt\n" in seen.terminal
        assert seen.piped == ""


@pytest.mark.parametrize(
    "words, slow, told",
    [
        (["verify"], "diff-tree", "reading the pointers"),
        (["verify", "--all"], "rev-list", "reading the pointers"),
        (["repair"], "diff-tree", "reading the pointers"),
        (["prune"], "prune", "asking git-lfs what could go"),
        (["gc"], "clone", "asking 1 of 1 repositories: "),
    ],
)
def test_nobody_waits_for_git_before_a_blank_terminal(
    cellar: Cellar, tmp_path: Path, words: list[str], slow: str, told: str
) -> None:
    cellar.add("model.pt", SIZE)
    cellar.push()
    git = tmp_path / "slow" / "git"
    git.parent.mkdir()
    real = shutil.which("git", path=cellar.home.environ["PATH"])
    git.write_text(f'#!/bin/sh\ncase " $* " in *" {slow} "*) sleep 1.5 ;; esac\nexec {real} "$@"\n')
    git.chmod(0o755)
    environ = {"PATH": f"{git.parent}{os.pathsep}{cellar.home.environ['PATH']}"}

    seen = on_terminal(cellar.home, "lfs-agent", *words, cwd=cellar.work, env=environ)
    piped = cellar.home.run("lfs-agent", *words, cwd=cellar.work)

    assert seen.returncode == 0
    assert told in seen.terminal
    assert COLOUR.sub("", seen.terminal).endswith(piped.stdout), "at its end the bar is gone"
    assert piped.stderr == ""


@pytest.mark.parametrize(
    "words, told",
    [
        (["uploads"], "listing the unfinished uploads"),
        (["verify", "--inventory", "s3://{bucket}/manifest.json"], "reading the inventory"),
        (["verify", "--batch-report", "s3://{bucket}/report.csv"], "reading the report"),
    ],
)
def test_nobody_waits_for_a_long_list_before_a_blank_terminal(cellar: Cellar, words: list[str], told: str) -> None:
    cellar.add("model.pt", SIZE)
    cellar.push()
    words = [word.format(bucket=cellar.bucket) for word in words]
    with FaultProxy(cellar.server.endpoint, Faults((Rule(Stall("answer-head", seconds=1.5), "GET"),))) as proxy:
        environ = {"AWS_ENDPOINT_URL_S3": proxy.endpoint}
        seen = on_terminal(cellar.home, "lfs-agent", *words, cwd=cellar.work, env=environ)
    piped = cellar.home.run("lfs-agent", *words, cwd=cellar.work, check=False)

    assert told in seen.terminal
    assert COLOUR.sub("", seen.terminal).endswith(piped.stdout + piped.stderr), "at its end the bar is gone"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has /dev/full")
@pytest.mark.parametrize("command", ["log", "config", "doctor", "verify"])
def test_an_output_that_cannot_be_written_is_told_once(cellar: Cellar, command: str) -> None:
    cellar.add("model.pt", SIZE)
    cellar.push()
    done = cellar.home.run("sh", "-c", f"lfs-agent {command} > /dev/full", cwd=cellar.work, check=False)
    assert (done.returncode, done.stderr) == (3, f"lfs-agent {command}: No space left on device\n")


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_a_closed_output_is_none_to_fail_at(cellar: Cellar, closed: str) -> None:
    cellar.add("model.pt", SIZE)
    cellar.push()
    for command in ("log", "verify", "config"):
        done = cellar.home.run("sh", "-c", f"lfs-agent {command} {closed}", cwd=cellar.work, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        assert bool(done.stdout) == (closed == "2>&-")
