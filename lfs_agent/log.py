"""What happened, as JSON lines: the session's record always, the log where somebody asks for it; never a secret."""

import errno
import json
import math
import os
import re
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import quote

from lfs_agent.errors import DiskError
from lfs_agent.lease import disk_error, lease
from lfs_agent.modes import UMASK, Modes

Level = Literal["info", "warning", "error"]
LEVELS: Final[dict[str, int]] = {"debug": 10, "info": 20, "warning": 30, "error": 40}

# Compiled where they are first used, which for most workers is nowhere: 1 ms.
_SIGNATURES: Final = (
    r"(?i)(X-Amz-(?:Signature|Credential|Security-Token)=)[^&\s\"']+"
    r"|(Signature=|Bearer |Authorization\W{1,8}Basic )[A-Za-z0-9%+/=_.-]+"
)
_IDENTITY_TOKEN: Final = r"\beyJ[A-Za-z0-9_-]{8,2000}\.[A-Za-z0-9_-]{4,4000}\.[A-Za-z0-9_-]{4,1000}"
_URL_PASSWORD: Final = (
    r"(?i)\b(?:(s3::(?:s3://)?|[a-z][a-z0-9+.-]{0,30}://)[^/@\s:]{0,1000}:(?![0-9]{1,5}/)[^@\s\"]{1,1000}@"
    r"|(https?://)[^/@\s\"]{1,1000}@)(?:[^/@\s\"]{0,1000}@)*"
)
"""A password may hold a slash; what begins with a port does not. Over http a user may be a token."""

_LINE: Final = json.JSONEncoder(default=str)

_secrets: set[str] = set()
_secrets_lock = threading.Lock()  # secrets come from transfer threads while others log


def keep_secret(text: str) -> None:
    """From now on `text` is left out of everything that `redact` sees."""
    if len(text) >= 6:
        with _secrets_lock:
            _secrets.update((text, quote(text, safe=""), _LINE.encode(text)[1:-1]))


def redact(text: str) -> str:
    """`text` without secrets, signatures, and passwords in URLs.

    >>> redact("https://u:p@host/?X-Amz-Signature=abc")
    'https://***@host/?X-Amz-Signature=***'
    """
    with _secrets_lock:
        for secret in _secrets:
            text = text.replace(secret, "***")
    lower = text.lower()  # each pattern takes as long as all else that is done for a line
    if "=" in text or "bearer " in lower or "basic " in lower:
        text = re.sub(_SIGNATURES, lambda match: f"{match[1] or match[2]}***", text)
    if "eyJ" in text:
        text = re.sub(_IDENTITY_TOKEN, "***", text)
    return re.sub(_URL_PASSWORD, r"\1\2***@", text) if "@" in text else text


def describe(error: BaseException | str) -> str:
    """The sentence of an error, fit for a terminal: redacted, without control characters."""
    return "".join(c if c.isprintable() or c == "\n" else "?" for c in redact(str(error)))


class Lines:
    """Whole lines, appended to a file by one write each, so that several processes may share it.

    `limit`: bytes; `write` is told how much more may be in the file already. `links`: as Modes.open has it. A file that
    can't be written stops nobody.
    """

    def __init__(self, path: Path, limit: int | None = None, modes: Modes = UMASK, *, links: bool = False) -> None:
        self._path = path
        self._modes = modes
        self._limit = limit
        self._links = links
        self._fd = -1

    def write(self, line: str, *, times: float = 2) -> None:
        """Appends the line, unless the file has more than so many times the limit."""
        try:
            if self._fd < 0:
                self._fd = self._modes.open(self._path, os.O_WRONLY | os.O_APPEND, links=self._links)
            if self._limit and os.fstat(self._fd).st_size > self._limit * times:
                return
            os.write(self._fd, line.encode(errors="backslashreplace") + b"\n")
        except OSError:
            pass


AUDITED: Final = frozenset({"deleting", "deleted", "pruned", "replacing", "replaced", "giving up", "gave up", "failed"})
"""Events about what is gone afterwards."""
_AUDIT_LIMIT: Final = 16 << 20
_AUDITS_KEPT: Final = 9


class Audit:
    """Lines that last: each is on the disk before what it tells of is done.

    At `limit` bytes a new file is begun; the last ones are kept, numbered from the newest.
    """

    def __init__(self, path: Path, modes: Modes = UMASK, limit: int = _AUDIT_LIMIT) -> None:
        self._path = path
        self._modes = modes
        self._limit = limit

    def write(self, line: str) -> None:
        """Appends the line. Raises DiskError where it can't be kept: then nothing may be done."""
        try:
            self._make_room()
            fd = self._modes.open(self._path, os.O_RDWR | os.O_APPEND)
            try:
                left = (b"\n" if _is_torn(fd) else b"") + line.encode(errors="backslashreplace") + b"\n"
                while left:  # the last block of a disk takes a part of it
                    left = left[os.write(fd, left) :]
                os.fsync(fd)
            finally:
                os.close(fd)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise disk_error(error, self._path.parent) from error
            raise DiskError(
                f"{self._path} cannot be written: {error.strerror}; nothing is deleted or replaced without a line "
                "there: make a little room by other means, or let it be writable, and try again"
            ) from error

    def _make_room(self) -> None:
        if not self._path.exists() or self._path.stat().st_size < self._limit:
            return
        with lease(self._path.with_suffix(".lock"), threading.Event(), self._modes):
            if self._path.stat().st_size < self._limit:  # another process was faster
                return
            for number in range(_AUDITS_KEPT, 0, -1):
                older = self._path.with_suffix(f".{number}{self._path.suffix}")
                newer = self._path.with_suffix(f".{number - 1}{self._path.suffix}") if number > 1 else self._path
                if newer.exists():
                    newer.replace(older)


def _is_torn(fd: int) -> bool:
    """Whether an open file ends within a line, for which there was no room, and which nobody is writing now."""
    for _ in range(20):
        size = os.fstat(fd).st_size
        if not size or os.pread(fd, 1, size - 1) == b"\n":
            return False
        time.sleep(0.005)  # a line that goes from one page into the next one is seen by halves
    return True


class Log:
    """Takes events; every line carries `bound`. The `record` has all of them, the log those from `level` up.

    `level` None: nobody asked for a log. `file` None: it goes to stderr. `audit` has those that are AUDITED.
    """

    def __init__(
        self, record: Lines | None, level: str | None, file: str | None, audit: Audit | None = None, **bound: Any
    ) -> None:
        self._record = record
        self._audit = audit
        self._bound = bound
        self._log = _structured(level, file, bound) if level else None

    def info(self, event: str, **fields: Any) -> None:
        """Something that was done. Raises DiskError, as the others do, where the audit can't be kept."""
        self._say("info", event, fields)

    def warning(self, event: str, **fields: Any) -> None:
        """Something that was mended."""
        self._say("warning", event, fields)

    def error(self, event: str, **fields: Any) -> None:
        """Something that failed."""
        self._say("error", event, fields)

    def _say(self, level: Level, event: str, fields: dict[str, Any]) -> None:
        if self._record:
            line = {"at": datetime.now(UTC).isoformat(), "level": level, "event": event, **self._bound, **fields}
            # Of what is left out, only the sums at the end still tell.
            times = math.inf if event in ("started", "ended") else 1 if level == "info" else 2
            text = redact(_LINE.encode(line))
            if self._audit and event in AUDITED:
                self._audit.write(text)
            self._record.write(text, times=times)
        if self._log:
            getattr(self._log, level)(event, **fields)


def _structured(level: str, file: str | None, bound: dict[str, Any]) -> Any:
    structlog = _import_structlog()
    lines = Lines(Path(os.path.expanduser(file)), links=True) if file else None
    write: Callable[[str], None] = lines.write if lines else to_stderr
    return structlog.wrap_logger(
        _Logger(write),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="at"),
            structlog.processors.JSONRenderer(default=str),
            lambda _logger, _method, line: redact(str(line)),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        context_class=dict,
        cache_logger_on_first_use=True,
    ).bind(**bound)


def _import_structlog() -> Any:
    # Here, not above: 70 ms that a push nobody logs does not pay. Its console output, which nobody uses here, would
    # import rich where there is one, for as long again: a module that is None can't be imported.
    without_rich = "rich" not in sys.modules
    if without_rich:
        sys.modules["rich"] = None  # type: ignore[assignment]
    try:
        import structlog
    finally:
        if without_rich:
            del sys.modules["rich"]
    return structlog


class _Logger:
    """What structlog hands the finished lines to."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self.info = self.warning = self.error = write


def to_stderr(line: str) -> None:
    """A line for a person; nobody is stopped where there is no stderr."""
    try:
        sys.stderr.write(line + "\n")
        sys.stderr.flush()
    except (OSError, ValueError):
        pass
