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
_SHELLS = (b"sh", b"dash", b"bash", b"zsh", b"busybox")
TAKEN_OVER = b"+"


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
    return FileIO(requests), answers  # nothing is read beyond a line: another process may go on


def main() -> int:
    """Answers `init`; stays that small until the first object comes."""
    started = time.time()
    said = os.environb.pop(SAID, b"") if os.name == "posix" else b""
    try:
        requests, answers = take_streams()
        if not (heard := _lines(said) if said else _greeted(requests, answers)):
            return 0
        first, second = heard
        started = _shell_started(started) if said else started
        status = _forked(first, second, requests.fileno(), answers, started) if second else None
        return converse(first, second, requests, answers, started) if status is None else status
    except (KeyboardInterrupt, BrokenPipeError):
        return 130


def _lines(said: bytes) -> tuple[bytes, bytes]:
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


def _shell_started(now: float) -> float:
    """When this process was, as time.time(); the interpreter came later. Not before that, whatever is rounded."""
    try:
        ticks = int(_process(os.getpid())[3]) + 1
    except OSError:  # the system has lost its /proc since the installation
        return now
    return now - time.clock_gettime(time.CLOCK_BOOTTIME) + ticks / os.sysconf("SC_CLK_TCK")


def meeting_point(parent: int) -> bytes:
    """The abstract socket of the git-lfs process that started a worker, maybe by a shell; b"" where there is none.

    Its name is told by nobody, but not secret either: who meets there looks at who the other one is.
    """
    if sys.platform != "linux":
        return b""
    try:
        pid, parent, name, started = _process(parent)
        while name in _SHELLS:
            pid, parent, name, started = _process(parent)
        world = os.stat("/proc/self/ns/pid").st_ino
    except (OSError, ValueError, IndexError):
        return b""
    return b"\0lfs-agent/%d/%d/%d/%s" % (os.geteuid(), world, pid, started)


def _process(pid: int) -> tuple[int, int, bytes, bytes]:
    """A process, its parent, its name, and when it was started, in ticks."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        before, _, after = file.read().rpartition(b") ")
    fields = after.split()
    return pid, int(fields[1]), before.partition(b"(")[2], fields[19]


def _forked(first: bytes, second: bytes, requests: int, answers: int, started: float) -> int | None:
    """The exit status of a worker that a loaded process of the session forks in our place; None where none does."""
    if not (address := meeting_point(os.getppid())):
        return None
    import _socket as socket  # of the module around it 8 ms

    try:
        link = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        link.setblocking(False)  # anybody may listen there, and let us queue for ever
        link.connect(address)
        link.setblocking(True)
        pid, user = peer(link.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if user != os.geteuid() or meeting_point(_process(pid)[1]) != address:  # no other worker of the session
            return None
        streams = b"".join(fd.to_bytes(4, sys.byteorder) for fd in (requests, answers, 2))
        told = b"%r\n" % started + first + second
        link.sendmsg([told], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, streams)])
        if link.recv(1) != TAKEN_OVER:
            return None
    except OSError:
        return None
    status = link.recv(1) or b"\1"  # nothing: it was killed
    link.recv(1)  # until it is gone
    return int.from_bytes(status)


def peer(credentials: bytes) -> tuple[int, int]:
    """Process and user at the other end, as SO_PEERCRED tells them; 0 for a process that is out of sight."""
    return int.from_bytes(credentials[:4], sys.byteorder), int.from_bytes(credentials[4:8], sys.byteorder)


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
