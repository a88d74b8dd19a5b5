"""A worker, as git-lfs starts it: says yes to `init`, and is nothing more until there is an object to move.

Run as `python -I -S worker.py`, by door.sh when that has said yes. Until then nothing is imported but what the
interpreter has loaded anyway; standard output becomes ours alone, and no child can read standard input.
"""

import os
import sys
import time
from io import FileIO

SAID = b"LFS_AGENT_SAID"
"""The variable in which door.sh leaves what git-lfs has said: what is not answered yet, or `init` and a request."""


def take_streams() -> tuple[FileIO, int]:
    """What git-lfs writes, and the descriptor that it reads; from now on 0 is empty, and 1 is stderr."""
    requests, answers = os.dup(0), os.dup(1)
    null = os.open("/dev/null" if os.name == "posix" else "nul", os.O_RDWR)
    os.dup2(null, 0)
    try:
        os.dup2(2, 1)
    except OSError:  # started without a stderr
        os.dup2(null, 1)
        os.dup2(null, 2)
    os.close(null)
    return FileIO(requests), answers


def main() -> int:
    """Answers `init`; stays that small until the first object comes."""
    started = time.time()
    said = os.environb.pop(SAID, b"") if os.name == "posix" else b""
    try:
        requests, answers = take_streams()
        if not (heard := _lines(said) if said else _greeted(requests, answers)):
            return 0
        return converse(*heard, requests, answers, started_at(os.getpid(), started) if said else started)
    except (KeyboardInterrupt, BrokenPipeError):
        return 130


def _lines(said: bytes) -> tuple[bytes, bytes]:
    """As `_greeted`."""
    first, end, second = said.partition(b"\n")
    return first + end, second


def _greeted(requests: FileIO, answers: int) -> tuple[bytes, bytes] | None:
    """`init`, which is answered, and the first request; b"" where it needs a closer look. None: nothing is to do."""
    first = requests.readline()
    operation = b'"operation":"upload"' in first or b'"operation":"download"' in first
    if not (operation and b'"event":"init"' in first and first.endswith(b"}\n")):
        return (first, b"") if first else None
    os.write(answers, b"{}\n")
    second = requests.readline()
    return (first, second) if second and b'"event":"terminate"' not in second else None


def started_at(pid: int, now: float) -> float:
    """When a process was, as time.time(), whatever program it has become; `now` where the system does not tell.

    Not before that, whatever is rounded, and however long others have the processor between a look at the one clock and
    at the other: who was started after a cause has to tell it.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            ticks = int(file.read().rpartition(b") ")[2].split()[19]) + 1
    except OSError:  # the system has lost its /proc since the installation
        return now
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    return time.time() - age


def converse(first: bytes, second: bytes, requests: FileIO, answers: int, started: float) -> int:
    """The rest of the conversation, by the whole agent; where there is a `second` line, `first` is answered."""
    import gc
    import site

    gc.disable()  # loading makes no garbage; the agent turns it on again when it is ready
    site.main()  # what -S left out: the environment's packages
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    if root not in sys.path:
        site.addsitedir(root)
    from lfs_agent.agent import run

    return run(first, second, requests, answers, started)


if __name__ == "__main__":
    os._exit(main())  # without the 70 ms in which an interpreter takes itself apart
