"""The light door: git-lfs starts this file eight times for one object, and waits for each answer to `init`.

Run as `python -I -S worker.py`. Until there is an object to move, nothing is imported but what the
interpreter has loaded anyway; standard output becomes ours alone, and no child can read standard input.
"""

import os
import sys
import time
from io import BufferedReader


def take_streams() -> tuple[BufferedReader, int]:
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
    return open(requests, "rb"), answers


def main() -> int:
    """Answers `init`; stays that small until the first object comes."""
    started = time.time()
    try:
        requests, answers = take_streams()
        first = requests.readline()
        if not first:
            return 0
        if not _is_usual_init(first):
            return converse(first, b"", requests, answers, started)
        os.write(answers, b"{}\n")
        second = requests.readline()
        if not second or b'"event":"terminate"' in second:
            return 0
        return converse(first, second, requests, answers, started)
    except (KeyboardInterrupt, BrokenPipeError):
        return 130


def _is_usual_init(line: bytes) -> bool:
    """Whether it can be accepted without a closer look."""
    operation = b'"operation":"upload"' in line or b'"operation":"download"' in line
    return operation and b'"event":"init"' in line and line.endswith(b"}\n")


def converse(first: bytes, second: bytes, requests: BufferedReader, answers: int, started: float) -> int:
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
