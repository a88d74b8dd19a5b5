"""`Journal`: what survives a kill, in a file of lines: a heading, then what is done."""

import json
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

KEPT_S: Final = 14 * 24 * 3600
"""Seconds for which the state of a transfer that nobody took up again is kept."""


class Journal:
    """The notes of one transfer, in the open file `fd`, which its holder has a lease of.

    The heading says what the notes are about; notes about anything else are worth nothing. Where the disk takes no
    notes (`fd` None: not even the file), the transfer goes on, and nothing of it survives a kill.
    """

    def __init__(self, fd: int | None) -> None:
        self._fd = fd
        self._lines = self._read() if fd is not None else []

    @property
    def heading(self) -> dict[str, Any]:
        """What the notes are about; {} where there are none."""
        head = self._lines[0] if self._lines else {}
        return head if isinstance(head, dict) else {}

    @property
    def notes(self) -> list[Any]:
        """What was noted, in order."""
        return self._lines[1:]

    def begin(self, heading: dict[str, Any]) -> None:
        """Forgets everything, and says what the next notes are about."""
        self.forget()
        self.note(heading)

    def forget(self) -> None:
        """Nothing is left to go on with."""
        self._lines = []
        self._cut(0)

    def note(self, line: Any) -> None:
        """Adds a note, by one write: after a kill it is there, or it is not."""
        self._lines.append(line)
        if self._fd is None:
            return
        text = json.dumps(line).encode() + b"\n"
        with suppress(OSError):
            end = os.fstat(self._fd).st_size
            if os.pwrite(self._fd, text, end) < len(text):  # the disk is full
                self._cut(end)

    def _cut(self, length: int) -> None:
        """Leaves the first `length` bytes; where that can't be done, nothing is added to what else is there."""
        if self._fd is not None:
            try:
                os.ftruncate(self._fd, length)
            except OSError:
                self._fd = None

    def _read(self) -> list[Any]:
        assert self._fd is not None
        content = os.pread(self._fd, os.fstat(self._fd).st_size, 0)
        lines = content.split(b"\n")
        whole, rest = lines[:-1], lines[-1]
        try:
            read = [json.loads(line) for line in whole]
        except ValueError:
            return []
        if rest:  # a line that was not finished
            self._cut(len(content) - len(rest))
        return read


def sweep_stale(folder: Path) -> None:
    """Lets go of what transfers left in `folder` so long ago that nobody will take it up again."""
    with suppress(OSError):
        for path in folder.iterdir():
            with suppress(OSError):
                if time.time() - path.stat().st_mtime > KEPT_S:
                    path.unlink()
