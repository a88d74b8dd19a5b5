"""A push or pull that is killed again and again, at any moment, by any signal: nothing is left, and it gets there."""

import fcntl
import os
import random
import signal
import subprocess
import termios
import threading
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from tests.cellar import Cellar
from tests.e2e.dialogue import files_below, kill_all, left_in_tmp, processes_of, wait_for
from tests.machine import Home
from tests.proxy import FaultProxy, Faults, Rule, Throttle
from tests.servers import Server

MIB = 1 << 20
PARTS = 4
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL)
SLOW = Faults((Rule(Throttle(up=8 * MIB, down=8 * MIB)),))
"""A part takes six tenths of a second."""

Process = subprocess.Popen[bytes]
Kill = Callable[[Process, Home, signal.Signals], None]


def everything(process: Process, _: Home, by: signal.Signals) -> None:
    """As the terminal does it: git, git-lfs, the agents."""
    os.killpg(process.pid, by)


def git_lfs_alone(_: Process, home: Home, by: signal.Signals) -> None:
    kill_all(home, by, "git-lfs")


def agents_alone(_: Process, home: Home, by: signal.Signals) -> None:
    kill_all(home, by, "worker.py")


def broken_off(
    cellar: Cellar, work: Path, command: list[str], kill: Kill, by: signal.Signals, draw: random.Random
) -> bool:
    """Runs git in `work` and kills at a drawn moment; whether it had got through before."""
    process = subprocess.Popen(
        ["git", *command],
        cwd=work,
        env=cellar.home.environ,
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        process.wait(draw.uniform(0.1, 1.6))
    except subprocess.TimeoutExpired:
        kill(process, cellar.home, by)
    _, said = process.communicate(timeout=90)
    wait_for(lambda: processes_of(cellar.home) == {}, 15)
    assert b"Traceback" not in said
    return process.returncode == 0


def parts_at(server: Server, bucket: str) -> set[int]:
    """The parts of unfinished uploads."""
    client = server.client()
    return {
        part["PartNumber"]
        for upload in client.list_multipart_uploads(Bucket=bucket).get("Uploads", [])
        for part in client.list_parts(Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"]).get("Parts", [])
    }


@pytest.fixture
def slow(cellar: Cellar, any_server: Server) -> Iterator[FaultProxy]:
    """A slow link."""
    cellar.home.environ |= {"LFS_AGENT_PART_SIZE": "5MiB", "LFS_AGENT_STREAMS": "1"}
    with FaultProxy(any_server.endpoint, SLOW) as proxy:
        yield proxy


@pytest.mark.parametrize("kill", [everything, git_lfs_alone, agents_alone])
def test_a_push_that_is_killed_again_and_again_gets_there(
    cellar: Cellar, any_server: Server, slow: FaultProxy, kill: Kill
) -> None:
    oid = cellar.add("weights.bin", PARTS * 5 * MIB)
    key, draw, there = cellar.key(oid), random.Random(f"push {kill.__name__}"), set[int]()
    cellar.home.environ["AWS_ENDPOINT_URL_S3"] = slow.endpoint
    for by in draw.sample(SIGNALS * 2, 8):
        if broken_off(cellar, cellar.work, ["push", "-q", "origin", "HEAD"], kill, by, draw) or cellar.keys() == [key]:
            there = set(range(PARTS))
            break
        assert cellar.keys() == []
        any_server.mark()  # it may still be writing what it had got
        now = parts_at(any_server, cellar.bucket)
        assert now >= there
        there = now

    before, slow.faults = len(slow.requests), Faults()
    cellar.push()

    assert sum(seen.method == "PUT" for seen in slow.requests[before:]) <= PARTS - len(there)
    content = any_server.client().get_object(Bucket=cellar.bucket, Key=key)["Body"].read()
    assert sha256(content).hexdigest() == oid
    assert cellar.keys() == [key]
    assert parts_at(any_server, cellar.bucket) == set()  # an upload that nobody got to know of has none
    storage = cellar.work / ".git" / "lfs"
    assert files_below(storage / "incomplete") == left_in_tmp(storage) == []


@pytest.mark.parametrize("kill", [everything, git_lfs_alone, agents_alone])
def test_a_pull_that_is_killed_again_and_again_gets_there(
    cellar: Cellar, slow: FaultProxy, tmp_path: Path, kill: Kill
) -> None:
    oid = cellar.add("weights.bin", PARTS * 5 * MIB)
    cellar.push()
    clone, draw, noted = tmp_path / "clone", random.Random(f"pull {kill.__name__}"), list[str]()
    cellar.home.git("clone", "-q", cellar.origin, clone, env={"GIT_LFS_SKIP_SMUDGE": "1"})
    cellar.home.environ["AWS_ENDPOINT_URL_S3"] = slow.endpoint
    storage = clone / ".git" / "lfs"
    for by in draw.sample(SIGNALS * 2, 8):
        got_through = broken_off(cellar, clone, ["lfs", "pull"], kill, by, draw)
        if got_through or left_in_tmp(storage) or cellar.local_object(oid, clone).exists():
            noted = ["done"] * PARTS
            break
        assert files_below(storage / "objects") == []
        notes = storage / "incomplete" / "lfs-agent" / f"{oid}.ranges"
        now = notes.read_text().splitlines()[1:] if notes.exists() else []
        assert now[: len(noted)] == noted
        noted = now

    before, slow.faults = len(slow.requests), Faults()
    was_written = cellar.local_object(oid, clone).exists()
    (clone / ".git" / "index.lock").unlink(missing_ok=True)  # of a git that was killed: it says itself what to do
    cellar.home.git("lfs", "pull", cwd=clone)

    assert sum(seen.method == "GET" for seen in slow.requests[before:]) == PARTS - len(noted)
    if was_written:  # git-lfs may have been killed while it wrote the file of the work tree: no pull writes over that
        cellar.home.git("restore", ".", cwd=clone)
    assert sha256((clone / "weights.bin").read_bytes()).hexdigest() == oid
    objects = {path.name: path for path in (storage / "objects").rglob("*") if path.is_file()}
    assert oid in objects
    # What was half-written git itself may have cleaned, which makes an object of it: by its own name.
    assert len(objects) == 1 or was_written
    assert [sha256(path.read_bytes()).hexdigest() for path in objects.values()] == [*objects]
    assert files_below(storage / "incomplete") == left_in_tmp(storage) == []


@pytest.mark.parametrize("command", [["push", "origin", "HEAD"], ["lfs", "pull"]], ids=["push", "pull"])
def test_ctrl_c_leaves_a_sane_terminal(
    git_lfs: Path | None, cellar: Cellar, slow: FaultProxy, tmp_path: Path, command: list[str]
) -> None:
    cellar.add("weights.bin", PARTS * 5 * MIB)
    work = cellar.work
    if command[0] == "lfs":
        cellar.push()
        work = tmp_path / "clone"
        cellar.home.git("clone", "-q", cellar.origin, work, env={"GIT_LFS_SKIP_SMUDGE": "1"})
    cellar.home.environ["AWS_ENDPOINT_URL_S3"] = slow.endpoint
    keyboard, terminal = os.openpty()
    before = termios.tcgetattr(terminal)
    process = subprocess.Popen(
        ["git", *command],
        cwd=work,
        env=cellar.home.environ,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
    )
    screen: list[bytes] = []
    reading = threading.Thread(target=lambda: read_all(keyboard, screen), daemon=True)
    reading.start()
    wait_for(lambda: any(seen.request_bytes + seen.response_bytes > MIB for seen in slow.requests), 60)
    os.write(keyboard, b"\x03")
    process.wait(60)
    wait_for(lambda: processes_of(cellar.home) == {}, 15)
    after = termios.tcgetattr(terminal)
    os.close(terminal)
    reading.join(5)
    os.close(keyboard)

    assert process.returncode != 0
    assert sum(seen.request_bytes + seen.response_bytes for seen in slow.requests) < PARTS * 5 * MIB
    assert after == before
    shown = b"".join(screen).decode()
    assert "Traceback" not in shown
    assert "KeyboardInterrupt" not in shown
    assert len(shown.splitlines()) <= 10, shown


def read_all(fd: int, into: list[bytes]) -> None:
    """Until the other end of the terminal is closed."""
    try:
        while block := os.read(fd, 65536):
            into.append(block)
    except OSError:  # what Linux says then
        pass


@pytest.mark.parametrize("loading", ["argparse", "lfs_agent.cli", "lfs_agent.cellar", "lfs_agent.verify"])
def test_ctrl_c_while_a_command_is_loaded_is_no_fault(home: Home, tmp_path: Path, loading: str) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import os, signal, sys\n"
        "def interrupt(event, words):\n"
        f"    if event == 'import' and words[0] == {loading!r}:\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.addaudithook(interrupt)\n"
    )
    done = home.run("lfs-agent", "verify", env={"PYTHONPATH": str(tmp_path)}, check=False)

    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
