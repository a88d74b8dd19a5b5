"""`Zygote`: a process that has loaded everything, and forks the other workers of its session from that."""

import _socket as socket  # of the module around it 8 ms
import os
import select
import signal
import sys
import time
from array import array
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from lfs_agent.session import SHELLS, process_of
from lfs_agent.worker import SAID, started_at

_LONGEST: Final = 1 << 16
"""Bytes that a worker may have heard."""
_WAITING: Final = 64
_ASKS_FOR_S: Final = 1.0
"""Who asks says it all at once."""
_TAKEN_OVER: Final = b"+"
_ENDS_FOR_S: Final = 1.0
"""Most that the first worker waits for the others, which git-lfs tells to end at the same time."""
_POLL_S: Final = 0.002
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM))


class Asked(NamedTuple):
    """What a forked worker has from the process that git-lfs has started for it, `pid`, which waits for its end."""

    request: bytes
    pid: int
    link: socket.socket

    @property
    def started(self) -> float:
        """When that process was, as time.time()."""
        return started_at(self.pid, time.time())

    @property
    def is_left(self) -> bool:
        """Whether nobody waits any more."""
        ends = select.poll()
        ends.register(self.link.fileno(), 0)
        return bool(ends.poll(0))

    def tell(self, status: int) -> None:
        """Says the exit status to who waits."""
        with suppress(OSError):
            self.link.send(bytes([status]))


class Zygote:
    """A child of the first worker, which forks for as long as that lives. `init`: what git-lfs says to all workers.

    `requests`, `answers`: the descriptors of the conversation, in each worker that is forked, too.
    """

    def __init__(self, init: bytes, requests: int, answers: int) -> None:
        self._init = init
        self._requests = requests
        self._answers = answers
        self._pid = self._life = -1

    def start(self) -> Asked | None:
        """None in the process that calls it; in each worker that is forked, what that has to do.

        Called by a process with one thread, no connections and no leases. Where nobody can meet, or somebody is
        there already, nothing is started, and each worker loads everything itself.
        """
        if sys.platform != "linux":
            return None
        with suppress(OSError):  # there is no /proc, or no descriptor left
            self._surroundings = surroundings_of(os.getpid())
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            try:
                listener.bind(meeting_point(os.getppid()))
                listener.listen(_WAITING)
                return self._split(listener)
            finally:
                listener.close()
        return None

    def end(self) -> None:
        """No worker is forked any more; those that were go on, and mostly end now, too."""
        if self._pid > 0:
            os.close(self._life)
            until = time.monotonic() + _ENDS_FOR_S
            with suppress(ChildProcessError):  # started where ended children are ignored
                while os.waitpid(self._pid, os.WNOHANG)[0] == 0 and time.monotonic() < until:
                    time.sleep(_POLL_S)

    def _split(self, listener: socket.socket) -> Asked | None:
        life, mine = os.pipe()
        self._pid = os.fork()
        if self._pid:
            self._life = mine
            os.close(life)
            return None
        try:
            os.close(mine)
            asked = self._serve(listener, life)
            os.close(life)
            modes = (os.O_RDONLY, os.O_WRONLY, os.O_WRONLY | os.O_APPEND)
            self._take(*(_stream(asked.pid, number, mode) for number, mode in enumerate(modes)))
            asked.link.send(_TAKEN_OVER)
        except BaseException:  # who asks loads everything itself then
            os._exit(1)
        return asked

    def _serve(self, listener: socket.socket, life: int) -> Asked:
        """Comes back in forked workers only."""
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGCHLD, _reap)
        # git-lfs waits until nobody holds those of the first worker.
        self._take(*(os.open(os.devnull, os.O_RDWR) for _ in range(3)))
        ends = select.poll()
        ends.register(life, 0)  # is hung up when the first worker ends
        ends.register(listener.fileno(), select.POLLIN)
        while True:
            if any(fd == life for fd, _ in ends.poll()):
                listener.close()
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                with suppress(ChildProcessError):  # none is left: process 1 of a container may wait for nobody
                    while True:
                        os.wait()
                os._exit(0)
            fd, _ = listener._accept()  # type: ignore[attr-defined] # the rest of it is in the module around it
            link = socket.socket(fileno=fd)
            try:
                asked = self._heard(link)
                if not os.fork():
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    return asked
            except (OSError, ValueError):
                pass  # who asks hears nothing, and loads everything itself
            link.close()

    def _heard(self, link: socket.socket) -> Asked:
        """What somebody asks for. Raises ValueError where that is nothing of ours, OSError."""
        credentials = array("i", link.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 3 * 4))
        pid, user, _ = credentials
        if user != os.geteuid() or surroundings_of(pid) != self._surroundings:
            raise ValueError("none of our session")
        link.settimeout(_ASKS_FOR_S)
        init, _, request = link.recv(_LONGEST).partition(b"\n")
        link.settimeout(None)
        if init + b"\n" != self._init or not request.endswith(b"\n"):
            raise ValueError("none of our conversation, or more than fits")
        return Asked(request, pid, link)

    def _take(self, requests: int, answers: int, errors: int) -> None:
        """Makes the descriptors those of the conversation."""
        os.dup2(requests, self._requests, inheritable=False)
        os.dup2(answers, self._answers, inheritable=False)
        os.dup2(errors, 1)
        os.dup2(errors, 2)
        for fd in (requests, answers, errors):
            os.close(fd)


def _reap(*_: object) -> None:
    """Lets nothing be left of those that were forked, and are gone."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def meeting_point(parent: int) -> bytes:
    """The abstract socket of the git-lfs process that is the parent of a worker, maybe by a shell. Raises OSError.

    Its name is no secret, and anybody may have taken it: who meets there looks at who the other one is.
    """
    pid, (name, parent, started) = parent, process_of(parent)
    while name in SHELLS:
        pid, (name, parent, started) = parent, process_of(parent)
    return f"\0lfs-agent/{os.geteuid()}/{Path('/proc/self/ns/pid').stat().st_ino}/{pid}/{started}".encode()


def surroundings_of(pid: int) -> tuple[tuple[int, int], set[bytes]]:
    """What a process has from the one that started it: its folder, and its environment. Raises OSError."""
    process = Path(f"/proc/{pid}")
    folder = (process / "cwd").stat()
    variables = (process / "environ").read_bytes().split(b"\0")
    return (folder.st_dev, folder.st_ino), {each for each in variables if not each.startswith(SAID)}


def _stream(pid: int, number: int, flags: int) -> int:
    """A descriptor of another process, opened anew. Raises OSError."""
    return os.open(f"/proc/{pid}/fd/{number}", flags | os.O_CLOEXEC)
