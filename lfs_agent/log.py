"""The log: structlog events as JSON lines, to a record, a file or stderr; never stdout, never a secret."""

import json
import os
import re
import sys
import threading
from collections.abc import Iterable, MutableMapping
from pathlib import Path
from typing import Any, Final

import structlog

Logger = structlog.typing.FilteringBoundLogger

LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}
_RECORD_LEVEL: Final = LEVELS["info"]
_SIGNATURES: Final = re.compile(
    r"(?i)(X-Amz-(?:Signature|Credential|Security-Token)=)[^&\s\"']+|(Signature=|Bearer )[A-Za-z0-9%+/=_.-]+"
)
_URL_PASSWORD: Final = re.compile(r"(?i)\b([a-z][a-z0-9+.-]*://)[^/@\s:]*:[^/@\s]+@")

_secrets: set[str] = set()
_secrets_lock = threading.Lock()  # secrets come from transfer threads while others log


def keep_secret(text: str) -> None:
    """From now on `text` is left out of everything that `redact` sees."""
    if len(text) >= 6:
        with _secrets_lock:
            _secrets.add(text)


def redact(text: str) -> str:
    """`text` without secrets, signatures, and passwords in URLs.

    >>> redact("https://u:p@host/?X-Amz-Signature=abc")
    'https://***@host/?X-Amz-Signature=***'
    """
    with _secrets_lock:
        for secret in _secrets:
            text = text.replace(secret, "***")
    text = _SIGNATURES.sub(lambda match: f"{match[1] or match[2]}***", text)
    return _URL_PASSWORD.sub(r"\1***@", text)


class Sink:
    """Whole lines, appended to a file by one write each, so that several processes may share it.

    `limit`: bytes after which only warnings and errors are kept.
    """

    def __init__(self, path: Path, level: int, limit: int | None = None) -> None:
        self._path = path
        self._level = level
        self._limit = limit
        self._fd = -1

    def write(self, level: int, line: bytes) -> None:
        """Appends the line, where its level is high enough; a log that can't be written stops nobody."""
        if level < self._level:
            return
        try:
            if self._fd < 0:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
            if self._limit and level < LEVELS["warning"] and os.fstat(self._fd).st_size > self._limit:
                return
            os.write(self._fd, line)
        except OSError:
            self._level = 100


class _Stderr:
    def __init__(self, level: int) -> None:
        self._level = level

    def write(self, level: int, line: bytes) -> None:
        if level >= self._level:
            try:
                sys.stderr.buffer.write(line)
                sys.stderr.buffer.flush()
            except (OSError, ValueError):
                self._level = 100


class _Lines:
    """What structlog calls a logger: takes the finished line."""

    def __init__(self, sinks: Iterable[Sink | _Stderr]) -> None:
        self._sinks = tuple(sinks)

    def msg(self, line: str, *, level: int) -> None:
        for sink in self._sinks:
            sink.write(level, line.encode(errors="backslashreplace") + b"\n")

    debug = info = warning = error = msg


def open_log(
    *,
    level: str = "info",
    file: str | None = None,
    record: Sink | None = None,
    stderr: bool = False,
    **bound: Any,
) -> Logger:
    """A logger whose lines carry `bound`: to `file` from `level` up, to the session's `record` from info up."""
    number = LEVELS[level]
    sinks: list[Sink | _Stderr] = [record] if record else []
    if file:
        sinks.append(Sink(Path(file).expanduser(), number))
    elif stderr:
        sinks.append(_Stderr(number))
    lowest = min(number, _RECORD_LEVEL) if record else number
    logger: Logger = structlog.wrap_logger(
        _Lines(sinks),
        processors=[
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="at"),
            _finish,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(lowest),
        context_class=dict,
    ).bind(**bound)
    return logger


def _finish(_: Any, method: str, event: MutableMapping[str, Any]) -> tuple[tuple[str], dict[str, int]]:
    """The last processor: the line, and its level beside it."""
    words = {"at": event.pop("at"), "level": method, "event": event.pop("event"), **event}
    return (redact(json.dumps(words, default=str)),), {"level": LEVELS[method]}


def describe(error: BaseException) -> str:
    """The sentence of an error, fit for a terminal: redacted, without control characters."""
    return "".join(c if c.isprintable() or c == "\n" else "?" for c in redact(str(error)))
