"""git-lfs as the agent sees it, at the price of a fork: `python -m tests.storm.nursery`, an order a line.

Everything is imported once. An order (a JSON object, see `Order`) is done by a process of its own in a session of its
own, which plays git-lfs: it forks the workers, which run the agent's own `worker.main` behind two pipes. Two lines come
back: the number of that process, and, when it has ended, its exit status (negative: the signal).
"""

import hashlib
import json
import os
import signal
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypedDict

# What a worker imports with its first object.
import botocore.signers
import tenacity.wait

import lfs_agent.store.s3
import lfs_agent.transfer.upload
from lfs_agent import agent, worker

PRELOADED = (agent, botocore.signers, lfs_agent.store.s3, lfs_agent.transfer.upload, tenacity.wait)


class Order(TypedDict):
    """A session of git-lfs: `requests` without their event; what is heard goes to files in `folder`."""

    operation: str
    workers: int
    requests: list[dict[str, Any]]
    cwd: str
    environ: dict[str, str]
    objects: str
    """git-lfs's store: what was downloaded is checked, and moved there."""
    folder: str


class Child(NamedTuple):
    """A worker: `heard` has every byte that it says."""

    pid: int
    say: BinaryIO
    hear: BinaryIO
    heard: Path


def main() -> int:
    """Does orders until there are no more."""
    for line in sys.stdin:
        order: Order = json.loads(line)
        pid = _forked(lambda: _be_git_lfs(order))  # noqa: B023 - called at once
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
    return 0


def _forked(be: Callable[[], int]) -> int:
    """The number of a new process that is this and nothing else."""
    if pid := os.fork():
        return pid
    status = 70
    try:
        status = be()
    except BaseException:
        traceback.print_exc()
    os._exit(status)


def _be_git_lfs(order: Order) -> int:
    os.setsid()
    os.chdir(order["cwd"])
    os.environ.clear()
    os.environ.update(order["environ"])
    folder = Path(order["folder"])
    children = [_hired(folder, number) for number in range(order["workers"])]
    left = deque(order["requests"])
    talks = [threading.Thread(target=_talk, args=(child, order, left)) for child in children]
    for talk in talks:
        talk.start()
    for talk in talks:
        talk.join()
    return 0


def _hired(folder: Path, number: int) -> Child:
    there, here = os.pipe(), os.pipe()

    def be_worker() -> int:
        errors = os.open(folder / f"{number}.stderr", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        for target, fd in enumerate((there[0], here[1], errors)):
            os.dup2(fd, target)
        os.closerange(3, 256)
        for name in (signal.SIGINT, signal.SIGTERM):
            signal.signal(name, signal.SIG_DFL)
        sys.stdin = sys.stdout = sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
        return worker.main()

    pid = _forked(be_worker)
    os.close(there[0])
    os.close(here[1])
    return Child(pid, open(there[1], "wb", 0), open(here[0], "rb"), folder / f"{number}.stdout")  # noqa: PTH123


def _talk(child: Child, order: Order, left: deque[dict[str, Any]]) -> None:
    """One worker's part of the conversation, to its end."""
    event = order["operation"]
    with child.heard.open("wb", 0) as heard:

        def hear() -> bytes:
            line = child.hear.readline()
            heard.write(line)
            return line

        init = {"event": "init", "operation": event, "remote": "origin", "concurrent": True}
        _say(child, **init, concurrenttransfers=order["workers"])
        alive = bool(hear())
        while alive and (request := _next(left)):
            _say(child, event=event, **request, action=None)
            while (line := hear()) and b'"complete"' not in line:
                pass
            alive = bool(line)
            if line and event == "download":
                _take(json.loads(line), Path(order["objects"]))
        _say(child, event="terminate")
        while hear():
            pass
    status = os.waitstatus_to_exitcode(os.waitpid(child.pid, 0)[1])
    child.heard.with_suffix(".status").write_text(str(status))


def _next(left: deque[dict[str, Any]]) -> dict[str, Any] | None:
    try:
        return left.popleft()
    except IndexError:
        return None


def _say(child: Child, **message: Any) -> None:
    try:
        child.say.write(json.dumps(message, separators=(",", ":")).encode() + b"\n")
    except BrokenPipeError:
        pass  # what it says, and its status, tell the rest


def _take(answer: dict[str, Any], objects: Path) -> None:
    """Hashes what was downloaded, and moves it to where it belongs, or where it is seen that it is wrong."""
    if "path" not in answer:
        return
    found, oid = Path(answer["path"]), answer["oid"]
    with found.open("rb") as file:
        right = hashlib.file_digest(file, "sha256").hexdigest() == oid
    to = objects / oid[:2] / oid[2:4] / (oid if right else f"{oid}-is-wrong")
    to.parent.mkdir(parents=True, exist_ok=True)
    found.rename(to)


if __name__ == "__main__":
    sys.exit(main())
