"""What the workers of one git-lfs process share: a name, a record, and the cause that stops them all."""

import json
import os
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

KEPT_SESSIONS: Final = 20
RECORD_LIMIT: Final = 4 << 20
"""Bytes; a record that is longer keeps only warnings and errors."""

_SHELLS: Final = frozenset({"sh", "dash", "bash", "zsh", "busybox"})


def name_session() -> str:
    """`<UTC start>-<pid>` of the git-lfs process that started this worker: the same in all of its workers."""
    pid = os.getppid()
    if (found := _process(pid)) and found[0] in _SHELLS:  # git-lfs starts us through sh -c
        pid = found[1]
        found = _process(pid)
    started = found[2] if found else _started(pid)
    return f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime(started))}-{pid}"


def _process(pid: int) -> tuple[str, int, float] | None:
    """Name, parent and start (seconds since the epoch) of a process, where /proc tells."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        boot = next(line for line in Path("/proc/stat").read_text().splitlines() if line.startswith("btime "))
    except (OSError, StopIteration):
        return None
    name = stat[stat.index("(") + 1 : stat.rindex(")")]
    fields = stat[stat.rindex(")") + 2 :].split()
    return name, int(fields[1]), int(boot.split()[1]) + int(fields[19]) / os.sysconf("SC_CLK_TCK")


def _started(pid: int) -> float:
    """The start of a process as `ps` tells it, where there is no /proc; 0 where it doesn't."""
    done = subprocess.run(
        ["ps", "-o", "lstart=", "-p", str(pid)],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "LC_ALL": "C"},
    )
    try:
        return time.mktime(time.strptime(done.stdout.strip()))
    except ValueError:
        return 0.0


class Cause(NamedTuple):
    """What ended a session: the sentence, and when it was met (time.time())."""

    message: str
    at: float


class Breaker:
    """The cause that ends a session, told by the worker that met it to all others, through a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def trip(self, message: str) -> bool:
        """Tells the others, in a sentence without secrets; whether we are the first to say so."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        except FileExistsError:
            return False
        except OSError:
            return True
        with suppress(OSError), os.fdopen(fd, "w") as file:  # a full disk: that there is a cause is enough
            json.dump({"message": message, "at": time.time()}, file)
        return True

    @property
    def tripped(self) -> bool:
        """Whether anybody has met a cause."""
        return self._path.exists()

    def met(self) -> Cause | None:
        """What a worker told; None where nobody did."""
        try:
            told = json.loads(self._path.read_bytes())
            return Cause(str(told["message"]), float(told["at"]))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, LookupError, TypeError):
            return Cause("", 0.0)  # it is being written


def records_in(state_dir: Path) -> list[Path]:
    """The records of the last sessions, oldest first."""
    return sorted((state_dir / "sessions").glob("*.jsonl"))


def sweep(state_dir: Path) -> None:
    """Lets go of all but the last sessions."""
    changed: dict[str, float] = {}
    with suppress(OSError):  # swept by another worker meanwhile
        for path in (state_dir / "sessions").glob("*.*"):
            changed[path.stem] = max(changed.get(path.stem, 0.0), path.stat().st_mtime)
    for name in sorted(changed, key=lambda name: changed[name])[:-KEPT_SESSIONS]:
        for suffix in (".jsonl", ".stop"):
            with suppress(OSError):
                (state_dir / "sessions" / f"{name}{suffix}").unlink(missing_ok=True)
