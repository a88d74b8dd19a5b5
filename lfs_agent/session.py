"""What the workers of one git-lfs process share: a name, files of that name, and what they tell each other there."""

import errno
import json
import math
import os
import subprocess
import threading
import time
from binascii import crc32
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple, Self

from lfs_agent.errors import DiskError, StoppedError
from lfs_agent.lease import Held, disk_error, lease_if_possible, take
from lfs_agent.modes import UMASK
from lfs_agent.parts import KIB

KEPT_SESSIONS: Final = 20
RECORD_LIMIT: Final = 4 << 20
"""Bytes; a record that is longer keeps only warnings and errors."""

_TURNS: Final = 16
"""Of moving bytes under a limit, in a second."""
_SHORTEST_TURN: Final = 4 * KIB
_MADE_UP_S: Final = 0.25
"""So much time that nobody took is made up for: threads don't wake up on the dot."""
_FARTHEST_S: Final = 600.0
"""Nobody gives away so much ahead: it was another session, before this machine was started."""
_SLOT_POLL_S: Final = 0.01
_LONGEST_NUMBER: Final = 30
"""Bytes of a number that workers share in a file, with blanks behind it."""

SHELLS: Final = frozenset({"sh", "dash", "bash", "zsh", "busybox"})
"""By which git-lfs may start a worker."""


def name_session() -> str:
    """`<UTC start>-<pid>-<machine>` of the git-lfs process that started this worker: the same in all of its workers."""
    pid = os.getppid()
    try:
        name, parent, ticks = process_of(pid)
        if name in SHELLS:
            pid = parent
            _, _, ticks = process_of(pid)
        boot = next(line for line in Path("/proc/stat").read_text().splitlines() if line.startswith("btime "))
        started = int(boot.split()[1]) + ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, StopIteration):
        started = _started(pid)
    return f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime(started))}-{pid}-{_name_machine()}"


def name_command() -> str:
    """The same of a command that a person runs: `<UTC now>-<pid>-<machine>`, the session of one process."""
    return f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{os.getpid()}-{_name_machine()}"


def _name_machine() -> str:
    """Four digits of what has these numbers of processes: of two containers both may have a 7 that began just now."""
    name = os.uname().nodename if hasattr(os, "uname") else os.environ.get("COMPUTERNAME", "")
    with suppress(OSError):
        name += str(Path("/proc/self/ns/pid").stat().st_ino)
    return f"{crc32(name.encode(errors='surrogateescape')) & 0xFFFF:04x}"


def name_user() -> str:
    """Who does it, as the system knows them: `user@host`."""
    import getpass

    try:
        name = getpass.getuser()
    except (OSError, KeyError, ImportError):  # a user without a name, in a container
        name = str(os.geteuid()) if hasattr(os, "geteuid") else ""
    if hasattr(os, "uname"):
        return f"{name}@{os.uname().nodename}"
    import socket  # 2 ms

    return f"{name}@{socket.gethostname()}"


def process_of(pid: int) -> tuple[str, int, int]:
    """Name, parent, and start in ticks since the machine was started. Raises OSError, also where there is no /proc."""
    before, _, after = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")
    fields = after.split()
    return before.partition("(")[2], int(fields[1]), int(fields[19])


def _started(pid: int) -> float:
    """The start of a process as `ps` tells it, where there is no /proc; where it doesn't, now.

    Then each worker is a session of its own; at least it is none that was.
    """
    try:
        done = subprocess.run(
            ["ps", "-o", "lstart=", "-p", str(pid)],
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "LC_ALL": "C"},
        )
        return time.mktime(time.strptime(done.stdout.strip()))
    except (OSError, ValueError):
        return time.time()


class Moment(NamedTuple):
    """A time that the processes of a machine can compare, also where it slept meanwhile or its clock was set.

    `wall` as time.time(), `monotonic` as time.monotonic() says it.
    """

    wall: float
    monotonic: float

    @classmethod
    def now(cls) -> Self:
        return cls(time.time(), time.monotonic())

    @property
    def elapsed_s(self) -> float:
        return max(time.time() - self.wall, time.monotonic() - self.monotonic)

    def is_within(self, seconds: float) -> bool:
        """Whether it was so lately; what is still to come was another machine's, or before this one was started."""
        return 0 <= self.elapsed_s < seconds


class SessionFiles(NamedTuple):
    """Where the workers of the session `name` meet, those for each `remote` apart.

    With `lfs.remote.searchall` one git-lfs process asks remote after remote, each of which may have a store of its own.
    """

    folder: Path
    name: str
    remote: str = ""

    @property
    def record(self) -> Path:
        """What was done, in lines; of all remotes."""
        return self.folder / f"{self.name}.jsonl"

    @property
    def cause(self) -> Path:
        """For Breaker."""
        return self._path("stop")

    @property
    def retries(self) -> Path:
        """For Budget."""
        return self._path("retries")

    @property
    def bandwidth(self) -> Path:
        """For Bandwidth."""
        return self._path("bandwidth")

    @property
    def slot(self) -> Path:
        """For Slots."""
        return self._path("slot")

    @property
    def contact(self) -> Path:
        """For Contact."""
        return self._path("contact")

    @property
    def listing(self) -> Path:
        """For transfer's Listing."""
        return self._path("listing")

    @property
    def login(self) -> Path:
        """For Handover: of a login."""
        return self._path("login")

    @property
    def aws(self) -> Path:
        """For Handover: of what AWS's files say."""
        return self._path("aws")

    def _path(self, kind: str) -> Path:
        return self.folder / f"{self.name}.{crc32(self.remote.encode(errors='replace')):08x}.{kind}"


class Cause(NamedTuple):
    """What ended a session: the sentence, and when it was met (time.time())."""

    message: str
    at: float


class Breaker:
    """The cause that ends a session, told by the worker that met it to all others, through a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._name = str(path)

    def trip(self, message: str) -> bool:
        """Tells the others, in a sentence without secrets; whether we are the first to say so."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        except FileExistsError:
            return False
        except OSError:
            return True
        with suppress(OSError), os.fdopen(fd, "w") as file:  # a full disk: that there is a cause says so
            json.dump({"message": message, "at": time.time()}, file)
        return True

    @property
    def tripped(self) -> bool:
        """Whether anybody has met a cause."""
        return os.access(self._name, os.F_OK)  # asked with each object: a Path takes three times as long

    def met(self) -> Cause | None:
        """What a worker told; None where nobody did."""
        if not self.tripped:  # mostly
            return None
        try:
            made_at, content = self._path.stat().st_mtime, self._path.read_bytes()
        except OSError:
            return None
        try:
            told = json.loads(content)
            return Cause(str(told["message"]), float(told["at"]))
        except (ValueError, LookupError, TypeError):  # there was no room for it, or it is just being written
            return Cause(str(disk_error(OSError(errno.ENOSPC, ""), self._path.parent)), made_at)


class Contact:
    """That the store has answered one of the session's workers, which tells all others so through a file.

    Without a `path` this process speaks for itself.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._name = str(path) if path else ""
        self._made = False

    def make(self) -> None:
        """The store has answered."""
        if not self._made:
            self._made = True
            with suppress(OSError):  # a full disk: the others find out for themselves
                if self._name:
                    os.close(os.open(self._name, os.O_WRONLY | os.O_CREAT, 0o666))

    @property
    def is_made(self) -> bool:
        """Whether it has answered anybody."""
        self._made = self._made or (bool(self._name) and os.access(self._name, os.F_OK))
        return self._made


class Budget:
    """How often the workers of a session may ask again, all together; what succeeds gives back.

    The count is in the file `path`; without one it is this process's own.
    """

    def __init__(self, limit: int, path: Path | None = None) -> None:
        self.limit: Final = limit
        self._path = path
        self._counting = threading.Lock()  # of what this process counts
        self._left = limit
        self._earned = 0

    def earn(self) -> None:
        """A request has succeeded at once."""
        self._earned += 1  # of two at the same moment one may be lost: it is a measure, no account

    def spend(self, stop: threading.Event) -> bool:
        """Whether a request may be made again. Raises StoppedError."""
        with lease_if_possible(self._path, stop) as held, self._counting:  # else each worker counts for itself
            earned, self._earned = self._earned, 0
            self._left = min(self.limit, self._read(held) + earned) - 1
            _write_number(held, b"%-20d" % self._left)
            return self._left >= 0

    def _read(self, held: Held | None) -> int:
        with suppress(ValueError):
            return int(_read_number(held))
        return self._left


class Bandwidth:
    """Whose turn it is to move bytes, so that all workers of a session together move `rate` of them a second.

    The file `path` says up to when (by `clock`, which all processes of a machine share) all time is given away; without
    one this process gives away its own.
    """

    def __init__(self, rate: int, path: Path | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self.turn: Final = max(_SHORTEST_TURN, rate // _TURNS)
        """Bytes that are moved in one turn: few, so that no connection is silent for long, however many wait."""
        self._rate = rate
        self._path = path
        self._clock = clock
        self._giving = threading.Lock()  # of the time: this process's threads need not wait for each other at the file
        self._given = -math.inf

    def wait(self, size: int, stop: threading.Event) -> None:
        """Returns when `size` bytes may be moved. Raises StoppedError."""
        while size > 0:
            if stop.wait(max(0.0, self.give(min(size, self.turn), stop) - self._clock())):
                raise StoppedError("stopped")
            size -= self.turn

    def give(self, size: int, stop: threading.Event) -> float:
        """When `size` bytes may be moved: the time that they take is given away. Raises StoppedError."""
        with self._giving, lease_if_possible(self._path, stop) as held:  # else each worker gives away its own time
            now = self._clock()
            begin = max(self._read(held), now - _MADE_UP_S)
            if not begin <= now + _FARTHEST_S:  # or no number
                begin = now
            self._given = begin + size / self._rate
            _write_number(held, b"%-30.6f" % self._given)
            return begin

    def _read(self, held: Held | None) -> float:
        with suppress(ValueError):
            return float(_read_number(held))
        return self._given


def _read_number(held: Held | None) -> bytes:
    """What a file says in which workers share a number; b"" where there is none, or it says nothing."""
    with suppress(OSError):
        if held:
            return os.pread(held.fd, _LONGEST_NUMBER, 0)
    return b""


def _write_number(held: Held | None, text: bytes) -> None:
    with suppress(OSError):  # a full disk: the others count from what it was
        if held:
            os.pwrite(held.fd, text, 0)


class Slots:
    """How many requests all workers of a session may have under way: each holds one of `count` files of their own.

    The kernel lets go of it when a worker ends, however it ends.
    """

    def __init__(self, count: int, path: Path) -> None:
        self._paths = [path.with_name(f"{path.name}{number}") for number in range(count)]

    @contextmanager
    def one(self, stop: threading.Event) -> Iterator[None]:
        """A place for one request. Raises StoppedError while waiting for it."""
        with ExitStack() as stack:
            with suppress(OSError, DiskError):  # a full disk: then each worker has as many places for itself
                while (fd := self._taken()) is None:
                    if stop.wait(_SLOT_POLL_S):
                        raise StoppedError("stopped")
                stack.callback(os.close, fd)
            yield

    def _taken(self) -> int | None:
        for path in self._paths:
            if not path.exists():
                path.touch()
            if (fd := take(path)) is not None:
                return fd
        return None


class Handover:
    """What one worker leaves for all others, a login mostly: in its memory, never in a file.

    The file at `path` only says whose memory. It works on Linux; elsewhere each worker finds out for itself.
    """

    def __init__(self, path: Path, stop: threading.Event) -> None:
        self._path = path
        self._stop = stop
        self._memory = -1

    @contextmanager
    def held(self) -> Iterator[None]:
        """One worker at a time logs in. Raises StoppedError while waiting."""
        with lease_if_possible(self._path, self._stop):
            yield

    def leave(self, found: dict[str, str]) -> None:
        """For the others; {} where there is nothing to spare: each of them may log in, too."""
        with suppress(OSError, AttributeError):
            if self._memory >= 0:
                os.close(self._memory)
                self._memory = -1
            if found:
                self._memory = os.memfd_create(self._label)
                os.write(self._memory, json.dumps(found).encode())
            with os.fdopen(UMASK.open(self._path, os.O_WRONLY | os.O_TRUNC), "w") as file:
                file.write(f"{os.getpid()} {self._memory}")

    def given(self) -> dict[str, str] | None:
        """What another worker has left; None where there is nothing (yet, or any more)."""
        try:
            pid, memory = map(int, self._path.read_text().split())
            if memory < 0:
                return {}
            process = Path(f"/proc/{pid}")
            there = process / "fd" / str(memory)
            if process.stat().st_uid != os.geteuid() or str(there.readlink()) != f"/memfd:{self._label} (deleted)":
                return None  # of a worker that is gone, whose number another process has now
            found = json.loads(there.read_bytes())
        except (OSError, ValueError):
            return None
        return {str(name): str(value) for name, value in found.items()}

    @property
    def _label(self) -> str:
        return f"lfs-agent {self._path.name}"


def records_in(state_dir: Path) -> list[Path]:
    """The records of the last sessions, oldest first."""
    return sorted((state_dir / "sessions").glob("*.jsonl"))


def sweep(state_dir: Path, running: str = "") -> None:
    """Lets go of all but the last sessions; `running` is one of them, whatever the clock says."""
    changed: dict[str, float] = {}
    with suppress(OSError):  # swept by another worker meanwhile
        for path in (state_dir / "sessions").glob("*.*"):
            name = path.name.partition(".")[0]
            changed[name] = max(changed.get(name, 0.0), path.stat().st_mtime)
    changed.pop(running, None)
    for name in sorted(changed, key=lambda name: changed[name])[:-KEPT_SESSIONS]:
        if _is_running(name):  # a long push, while others came and went
            continue
        for path in (state_dir / "sessions").glob(f"{name}.*"):
            with suppress(OSError):
                path.unlink()


def _is_running(name: str) -> bool:
    """Whether the process of the session is there; not where it was on another machine, or one without /proc."""
    _, pid, machine = [*name.split("-"), "", ""][:3]
    return machine == _name_machine() and Path(f"/proc/{pid}").exists()
