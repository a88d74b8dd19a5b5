"""`lfs-agent log` after real pushes and pulls, whose own output nobody kept."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

from tests.cellar import Cellar, new_share
from tests.e2e.dialogue import Agent, new_repository
from tests.e2e.terminal import on_terminal
from tests.machine import Home
from tests.proxy.dead import BlackHole

SIZE = 100_000


def log(home: Home, work: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return home.run("lfs-agent", "log", *arguments, cwd=work, check=False)


def last(home: Home, work: Path) -> dict[str, Any]:
    done = log(home, work, "--json")
    assert done.returncode == 0, done
    summary: dict[str, Any] = json.loads(done.stdout)
    return summary


def test_without_a_record_it_says_so(cellar: Cellar) -> None:
    done = log(cellar.home, cellar.work)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith("lfs-agent log: nothing is recorded here")


def test_after_a_good_push_it_says_what_was_sent(cellar: Cellar) -> None:
    for n in range(10):
        cellar.write(f"vit-l/0.{n}/model.pt", SIZE, seed=n)
    cellar.write("large.pt", 20_000_000, seed=11)
    cellar.commit("Fill the rack")
    before = cellar.server.mark()
    cellar.push()
    summary = last(cellar.home, cellar.work)
    operations = [request.operation for request in cellar.server.requests(before)]
    assert summary["operation"] == "upload"
    assert summary["remote"] == "origin"
    assert summary["store"] == cellar.url
    assert summary["objects"] == 11
    assert summary["bytes"] == 10 * SIZE + 20_000_000
    assert summary["parts"] == operations.count("PutObject") + operations.count("UploadPart")
    assert (summary["skipped"], summary["failed"], summary["failures"]) == (0, 0, [])
    assert not summary["running"]
    text = log(cellar.home, cellar.work).stdout
    assert re.match(rf"push to {re.escape(cellar.url)}, remote origin, \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d, ", text)
    assert "\nsent\t11 objects, 20.0 MiB, " in text
    assert "failed" not in text


def test_what_was_there_already_is_told_apart(cellar: Cellar) -> None:
    cellar.add("model.pt", SIZE, seed=1)
    cellar.push()
    cellar.git("lfs", "push", "--all", "origin")
    assert (last(cellar.home, cellar.work)["objects"], last(cellar.home, cellar.work)["skipped"]) == (0, 1)
    assert "already there\t1 object" in log(cellar.home, cellar.work).stdout
    both = [json.loads(line) for line in log(cellar.home, cellar.work, "--json", "-n", "5").stdout.splitlines()]
    assert [(summary["objects"], summary["skipped"]) for summary in both] == [(0, 1), (1, 0)]


def test_after_a_failed_push_it_names_the_objects_and_the_reason(cellar: Cellar) -> None:
    good = cellar.write("vit-l/0.1/model.pt", SIZE, seed=1)
    bad = cellar.write("vit-l/0.2/model.pt", SIZE, seed=2)
    cellar.commit("Fill the rack")
    local = cellar.local_object(bad)
    local.chmod(0o644)
    local.write_bytes(bytes(SIZE))
    assert cellar.push(check=False).returncode != 0
    summary = last(cellar.home, cellar.work)
    assert (summary["objects"], summary["failed"]) == (1, 1)
    (failure,) = summary["failures"]
    assert (failure["oid"], failure["size"], failure["path"]) == (bad, SIZE, "vit-l/0.2/model.pt")
    assert failure["error"] == "LocalError"
    lines = log(cellar.home, cellar.work).stdout.splitlines()
    assert f"97.7 KiB\tvit-l/0.2/model.pt\t{bad}" in lines
    shown = on_terminal(cellar.home, "lfs-agent", "log", cwd=cellar.work, columns=80).terminal
    assert "97.7 KiB  vit-l/0.2/model.pt" in shown
    assert bad in shown
    assert f"1 object: {failure['message']}" in lines
    assert good not in "\n".join(lines)


def test_a_cause_that_ended_all_is_told_once(cellar: Cellar) -> None:
    for n in range(30):
        cellar.write(f"model-{n}.pt", 1000, seed=n)
    cellar.commit("Many")
    with BlackHole(accept=False) as nobody:
        cellar.home.environ["AWS_ENDPOINT_URL_S3"] = nobody.endpoint
        assert cellar.push(check=False).returncode != 0
    text = log(cellar.home, cellar.work).stdout
    assert text.count("cannot be reached") <= 1
    assert "failed\t30 objects" in text
    assert len(text.splitlines()) < 40


def test_a_failed_pull_names_what_is_gone(cellar: Cellar, second_home: Home, tmp_path: Path) -> None:
    oids = [cellar.write(f"model-{n}.pt", SIZE, seed=n) for n in range(10)]
    cellar.commit("Ten")
    cellar.push()
    cellar.server.client().delete_object(Bucket=cellar.bucket, Key=cellar.key(oids[3]))
    second_home.environ.update(cellar.server.environ())
    second_home.install()
    work = cellar.clone(tmp_path / "clone", "--no-checkout", home=second_home)
    second_home.environ["GIT_LFS_SKIP_SMUDGE"] = "1"
    second_home.git("checkout", "-q", "main", cwd=work)
    assert second_home.git("lfs", "pull", cwd=work, check=False).returncode != 0
    summary = last(second_home, work)
    assert summary["operation"] == "download"
    assert (summary["objects"], summary["bytes"], summary["failed"]) == (9, 9 * SIZE, 1)
    (failure,) = summary["failures"]
    assert (failure["oid"], failure["path"], failure["code"]) == (oids[3], "model-3.pt", 404)
    text = log(second_home, work).stdout
    assert text.startswith(f"pull from {cellar.url}, remote origin, ")
    assert "received\t9 objects, " in text
    assert f"s3://{cellar.bucket}/{cellar.key(oids[3])}" in text


def test_no_secret_is_in_what_is_kept_or_shown(cellar: Cellar) -> None:
    secret = cellar.server.secret_key
    cellar.home.environ["LFS_AGENT_LOG_LEVEL"] = "debug"
    cellar.home.environ["LFS_AGENT_LOG_FILE"] = str(cellar.home.folder / "agent.log")
    cellar.add("model.pt", SIZE, seed=1)
    cellar.push()
    bad = cellar.add("bad.pt", SIZE, seed=2)
    cellar.local_object(bad).chmod(0o644)
    cellar.local_object(bad).write_bytes(bytes(SIZE))
    cellar.push(check=False)
    sessions = cellar.work / ".git" / "lfs" / "lfs-agent" / "sessions"
    kept = [path for path in sessions.iterdir() if path.suffix != ".contact"]  # that it is there is all that one says
    assert len(kept) >= 2
    texts = [path.read_text() for path in [*kept, cellar.home.folder / "agent.log"]]
    texts += [log(cellar.home, cellar.work, *arguments).stdout for arguments in ([], ["--json", "-n", "9"])]
    for text in texts:
        assert text
        assert secret not in text
        assert "X-Amz-Signature=" not in text


def test_a_record_cut_off_in_the_middle_is_read_as_far_as_it_goes(cellar: Cellar) -> None:
    cellar.add("model.pt", SIZE, seed=1)
    cellar.push()
    (record,) = (cellar.work / ".git" / "lfs" / "lfs-agent" / "sessions").glob("*.jsonl")
    lines = record.read_text().splitlines(keepends=True)
    record.write_text("".join(line for line in lines if '"event": "ended"' not in line) + lines[0][:50])
    assert "not at its end: it is still running, or it was killed" in log(cellar.home, cellar.work).stdout
    assert last(cellar.home, cellar.work)["running"]


def test_of_failures_that_the_record_has_no_room_for_the_number_is_told(home: Home, tmp_path: Path) -> None:
    """By objects that a store with a long name lacks: each takes some 4 KB of the record."""
    share = new_share(tmp_path.joinpath(*["a folder with a long name".ljust(200, ".")] * 17))
    work = new_repository(home, tmp_path / "work", f"dir::{share}")
    with Agent(home, work) as agent:
        assert agent.init("download", workers=1) == {}
        for number in range(2500):
            agent.download(f"{number:064x}", SIZE)
            assert agent.until_complete()[-1]["error"]["code"] == 404
        assert agent.end() == 0

    summary = last(home, work)
    lost = 2500 - len(summary["failures"])
    assert lost > 0
    assert (summary["failed"], summary["running"]) == (2500, False)
    text = log(home, work).stdout
    assert f"\nfailed\t2,500 objects, {lost:,} of which the record has no room for\n" in text
    assert "not at its end" not in text


def test_it_works_in_a_bare_repository(cellar: Cellar) -> None:
    cellar.add("model.pt", SIZE, seed=1)
    cellar.push()
    sessions = cellar.work / ".git" / "lfs" / "lfs-agent"
    shutil.copytree(sessions, cellar.origin / "lfs" / "lfs-agent")
    assert last(cellar.home, cellar.origin)["objects"] == 1
