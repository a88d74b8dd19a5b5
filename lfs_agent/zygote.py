"""`Zygote`: a process that has loaded everything, and forks the other workers of its session from that."""

import _socket as socket  # of the module around it 8 ms
import os
import select
import signal
import time
from array import array
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from lfs_agent.worker import SAID, TAKEN_OVER, meeting_point, peer

_LONGEST: Final = 1 << 16
"""Bytes that a worker may have heard."""
_FDS: Final = 3 * 4
_WAITING: Final = 64
_ASKS_FOR_S: Final = 1.0
"""Who asks has written it all at once."""
_ENDS_FOR_S: Final = 1.0
"""Most that the first worker waits for the others, which git-lfs tells to end at the same time."""
_POLL_S: Final = 0.002
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM))

Streams = tuple[int, int, int]
"""Descriptors: what git-lfs writes, what it reads, and stderr."""


class Asked(NamedTuple):
    """What a forked worker has from the process that git-lfs has started for it, and that waits for its end."""

    request: bytes
    started: float
    """When that process was, as time.time()."""
    link: socket.socket

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
        if not (address := meeting_point(os.getppid())):
            return None
        with suppress(OSError):
            self._surroundings = _surroundings(os.getpid())
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            try:
                listener.bind(address)
                listener.listen(_WAITING)
                return self._split(listener)
            finally:
                listener.close()
        return None

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
            asked.link.send(TAKEN_OVER)
        except BaseException:  # whoever asks loads everything itself then
            os._exit(1)
        return asked

    def end(self) -> None:
        """No worker is forked any more; those that were go on, and mostly end now, too."""
        if self._pid > 0:
            os.close(self._life)
            until = time.monotonic() + _ENDS_FOR_S
            with suppress(ChildProcessError):  # started where ended children are ignored
                while os.waitpid(self._pid, os.WNOHANG)[0] == 0 and time.monotonic() < until:
                    time.sleep(_POLL_S)

    def _serve(self, listener: socket.socket, life: int) -> Asked:
        """Comes back in forked workers only."""
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # so that nothing is left of those that were forked and are gone
        null = os.open(os.devnull, os.O_RDWR)
        self._take((null, null, null))  # git-lfs waits until nobody holds those of the first worker
        ends = select.poll()
        ends.register(life, 0)  # is hung up when the first worker ends
        ends.register(listener.fileno(), select.POLLIN)
        while True:
            if any(fd == life for fd, _ in ends.poll()):
                listener.close()
                with suppress(ChildProcessError):  # process 1 of a container may wait for nobody
                    os.wait()
                os._exit(0)
            fd, _ = listener._accept()  # type: ignore[attr-defined] # the rest of it is in the module around it
            link = socket.socket(fileno=fd)
            asked, streams, pid = None, list[int](), -1
            with suppress(OSError, ValueError):  # who asks hears nothing, and loads everything itself
                asked = self._heard(link, streams)
                pid = os.fork()
            if asked and pid == 0:
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                self._take((streams[0], streams[1], streams[2]))
                return asked
            for fd in (*streams, link.detach()):
                os.close(fd)

    def _heard(self, link: socket.socket, streams: list[int]) -> Asked:
        """What somebody asks for, whose descriptors become `streams`.

        Raises ValueError where that is nothing of ours, OSError; what is in `streams` then is to be closed, too.
        """
        pid, user = peer(link.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if user != os.geteuid() or _surroundings(pid) != self._surroundings:
            raise ValueError("none of our session")
        link.settimeout(_ASKS_FOR_S)
        told, ancillary, _, _ = link.recvmsg(_LONGEST, socket.CMSG_LEN(_FDS), socket.MSG_CMSG_CLOEXEC)
        link.settimeout(None)
        streams += array("i", b"".join(data for _, _, data in ancillary))
        started, init, request = told.split(b"\n", 2)
        if len(streams) != 3 or init + b"\n" != self._init or not request.endswith(b"\n"):
            raise ValueError("none of our conversation")
        return Asked(request, float(started), link)

    def _take(self, streams: Streams) -> None:
        """Makes the descriptors those of the conversation, and closes them."""
        requests, answers, errors = streams
        os.dup2(requests, self._requests, inheritable=False)
        os.dup2(answers, self._answers, inheritable=False)
        for fd in (1, 2):
            os.dup2(errors, fd)
        for fd in set(streams):
            os.close(fd)


def _surroundings(pid: int) -> tuple[tuple[int, int], set[bytes]]:
    """What a process has from the one that started it: its folder, and its environment. Raises OSError."""
    process = Path(f"/proc/{pid}")
    folder = (process / "cwd").stat()
    variables = (process / "environ").read_bytes().split(b"\0")
    return (folder.st_dev, folder.st_ino), {each for each in variables if not each.startswith(SAID)}
