"""`Zygote`: a process that has loaded everything, and forks from that what does the work of its session's others."""

import _socket as socket  # of the module around it 8 ms
import os
import select
import signal
import sys
import time
from array import array
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from lfs_agent.session import SHELLS, process_of
from lfs_agent.worker import SAID, started_at

_LONGEST: Final = 1 << 16
"""Bytes of what a process may have heard that hands it over."""
_WAITING: Final = 64
_ASKS_FOR_S: Final = 1.0
"""Who asks says it all at once."""
_TAKEN_OVER: Final = b"+"
_GIVEN_BACK: Final = b"="
_ENDS_FOR_S: Final = 1.0
"""Most that the first worker waits for the others, which git-lfs tells to end at the same time."""
_POLL_S: Final = 0.002
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM))


class Asked(NamedTuple):
    """What somebody is to do for the process that git-lfs has started, `pid`, which waits for that at the other end.

    `requests`, `answers`, `errors`: its streams. `taken`: it has been told that somebody does.
    """

    request: bytes
    pid: int
    link: socket.socket
    requests: int
    answers: int
    errors: int
    taken: bool = False

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

    def take(self) -> "Asked":
        """Tells that somebody does it. Raises OSError where nobody waits."""
        if not self.taken:
            self.link.send(_TAKEN_OVER)
        return self._replace(taken=True)

    def tell(self, status: int) -> None:
        """Says the exit status to who waits."""
        with suppress(OSError):
            self.link.send(bytes([status]))

    def give_back(self, request: bytes) -> bool:
        """Whether who waits goes on with the conversation, from this request on."""
        if len(request) >= _LONGEST:
            return False
        try:
            self.link.send(_GIVEN_BACK + request)
        except OSError:
            return False
        self.close()
        return True

    def close(self) -> None:
        """Somebody else does it, or nobody."""
        self.link.close()
        for fd in (self.requests, self.answers, self.errors):
            os.close(fd)


class Forked(NamedTuple):
    """What a new process is for: `asked`; where `zygote` is a link to that, all that is small, too, as it comes."""

    asked: Asked
    zygote: socket.socket | None


def hand_over(link: socket.socket, asked: Asked) -> bool:
    """Whether another process does it from now on."""
    told = b"%d %d\n" % (asked.pid, asked.taken) + asked.request
    if len(told) > _LONGEST:
        return False
    try:
        fds = array("i", [asked.link.fileno(), asked.requests, asked.answers, asked.errors])
        link.sendmsg([told], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)], socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
    except OSError:  # it is gone, or has too much to do
        return False
    asked.close()
    return True


def receive(link: socket.socket) -> Asked | None:
    """The next that was handed over; None where there will be no more. Waits."""
    fds = array("i")
    try:
        try:
            told, sent = _received(link)
        except ConnectionResetError:  # who has ended did not hear all; what it said before that comes now
            told, sent = _received(link)
        fds.frombytes(sent)
        heading, _, request = told.partition(b"\n")
        pid, taken = map(int, heading.split())
        number, requests, answers, errors = fds
    except (OSError, ValueError):
        for fd in fds:  # no more than a process may have: who waits at the other end must hear that nobody is here
            os.close(fd)
        return None
    return Asked(request, pid, socket.socket(fileno=number), requests, answers, errors, bool(taken))


def _received(link: socket.socket) -> tuple[bytes, bytes]:
    space = socket.CMSG_SPACE(4 * array("i").itemsize)
    told, sent, *_ = link.recvmsg(_LONGEST, space, socket.MSG_CMSG_CLOEXEC)
    return told, b"".join(data for _, _, data in sent)


class Zygote:
    """A child of the first worker, which forks for as long as that lives. `init`: what git-lfs says to all workers.

    One process, the hub, is for all whose next object is small; who has another gets a process of their own.
    `requests`, `answers`: the descriptors of the conversation, in such a process, too.
    """

    def __init__(self, init: bytes, requests: int, answers: int) -> None:
        self._init = init
        self._requests = requests
        self._answers = answers
        self._pid = self._life = -1

    def start(self, is_small: Callable[[bytes], bool]) -> Forked | None:
        """None in the process that calls it; in each that is forked, what that has to do.

        `is_small`: whether a request is for the hub. Called by a process with one thread, no connections and no leases.
        Where nobody can meet, or somebody is there already, nothing is started: each worker loads everything itself.
        """
        self._is_small = is_small
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

    def _split(self, listener: socket.socket) -> Forked | None:
        life, mine = os.pipe()
        self._pid = os.fork()
        if self._pid:
            self._life = mine
            os.close(life)
            return None
        try:
            os.close(mine)
            forked = self._serve(listener, life)
            os.close(life)
            if forked.zygote is None:
                asked = forked.asked
                self._take(asked.requests, asked.answers, asked.errors)
                asked.take()
        except BaseException:  # who asks loads everything itself then
            os._exit(1)
        return forked

    def _serve(self, listener: socket.socket, life: int) -> Forked:
        """Comes back in forked processes only."""
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGCHLD, _reap)
        # git-lfs waits until nobody holds those of the first worker.
        self._take(*(os.open(os.devnull, os.O_RDWR) for _ in range(3)))
        self._hubs: list[socket.socket] = []
        """Links to them: the last one is given what comes, from all of them comes what they hand back."""
        for asked, is_small in self._asked(listener, life):
            try:
                if forked := self._given(asked, is_small):
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    return forked
            except OSError:  # no process can be had: who asks loads everything itself
                if not (asked.taken and asked.give_back(asked.request)):
                    asked.close()
        listener.close()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        with suppress(ChildProcessError):  # none is left: process 1 of a container may wait for nobody
            while True:
                os.wait()
        os._exit(0)

    def _asked(self, listener: socket.socket, life: int) -> Iterator[tuple[Asked, bool]]:
        """What others ask for, and hubs hand back, until the first worker has ended; and whether a hub may do it."""
        while life not in (ready := self._ready(life, listener)):
            if hub := next((hub for hub in self._hubs if hub.fileno() in ready), None):
                if asked := receive(hub):
                    yield asked, False
                else:
                    self._forget(hub)
            elif asked := self._accepted(listener):
                yield asked, self._is_small(asked.request)
        for hub in self._hubs:
            hub.shutdown(socket.SHUT_RD)  # what is handed back later nobody hears
        for hub in list(self._hubs):
            while asked := receive(hub):
                yield asked, False
            self._forget(hub)

    def _ready(self, life: int, listener: socket.socket) -> set[int]:
        ends = select.poll()
        ends.register(life, 0)  # is hung up when the first worker ends
        for end in (listener, *self._hubs):
            ends.register(end.fileno(), select.POLLIN)
        return {fd for fd, _ in ends.poll()}

    def _given(self, asked: Asked, is_small: bool) -> Forked | None:
        """Gives it to the hub, or to a new process: in that, what it is for. Raises OSError."""
        if not is_small:
            return None if self._fork(asked) else Forked(asked, None)
        if self._hubs and hand_over(self._hubs[-1], asked):
            return None
        # The last one may be gone, or have too much to do; what it has handed back is still to be heard.
        hub, zygote = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._hubs.append(hub)
        if not self._fork(asked):
            return Forked(asked, zygote)
        zygote.close()
        return None

    def _fork(self, asked: Asked) -> int:
        """As os.fork, for what is asked for. Raises OSError."""
        if pid := os.fork():
            asked.close()
        else:
            for hub in self._hubs:
                hub.close()
        return pid

    def _forget(self, hub: socket.socket) -> None:
        hub.close()
        self._hubs.remove(hub)

    def _accepted(self, listener: socket.socket) -> Asked | None:
        """What a process asks for that comes; None where that is nothing of ours."""
        with suppress(OSError):
            fd, _ = listener._accept()  # type: ignore[attr-defined] # the rest of it is in the module around it
            link = socket.socket(fileno=fd)
            try:
                return self._heard(link)
            except (OSError, ValueError):  # who asks hears nothing, and loads everything itself
                link.close()
        return None

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
        modes = (os.O_RDONLY, os.O_WRONLY, os.O_WRONLY | os.O_APPEND)
        requests, answers, errors = (_stream(pid, number, mode) for number, mode in enumerate(modes))
        return Asked(request, pid, link, requests, answers, errors)

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
