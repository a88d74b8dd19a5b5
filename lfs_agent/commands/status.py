"""`StatusLine`: how far a command is, on a terminal, once it takes longer than a moment."""

import sys
import threading
import time
from typing import Final

_AFTER_S: Final = 1.0
_EVERY_S: Final = 0.2


class StatusLine:
    """One line on standard error; nothing where that is not `visible`. Usable from several threads."""

    def __init__(self, visible: bool) -> None:
        self._visible = visible
        self._painted = False
        self._next_s = time.monotonic() + _AFTER_S
        self._painting = threading.Lock()  # of one line on the terminal

    def paint(self, text: str) -> None:
        """Shows the text in place of the last one, a few times a second."""
        if not self._visible:
            return
        with self._painting:
            now_s = time.monotonic()
            if now_s >= self._next_s:
                print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
                self._painted = True
                self._next_s = now_s + _EVERY_S

    def erase(self) -> None:
        """Takes it from the terminal, before anything else is printed."""
        with self._painting:
            if self._painted:
                print("\r\x1b[K", end="", file=sys.stderr, flush=True)
                self._painted = False
