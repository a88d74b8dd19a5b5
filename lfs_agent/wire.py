"""`Wire`: what git-lfs says to a worker, a line at a time, and whether it has hung up."""

import math
import os
import select
import threading
from typing import Final

from lfs_agent.parts import KIB
from lfs_agent.turns import turns

_HEARD: Final = 64 * KIB


class Wire:
    """`requests`: a descriptor; `heard`: what was read from it already."""

    def __init__(self, requests: int, heard: bytes = b"") -> None:
        self._requests = requests
        self._heard = heard
        self._reading = threading.Lock()  # of the requests: one thread waits for them, another one looks for their end
        self._ended = False

    def next(self) -> bytes:
        """Waits for the next line; b"" at the end."""
        with self._reading:
            while b"\n" not in self._heard and self._read_more():
                pass
            line, end, self._heard = self._heard.partition(b"\n")
            self._ended = self._ended or b'"terminate"' in line
            return line + end

    def _read_more(self) -> bool:
        if shared := turns():
            shared.until_ready([self._requests], [], math.inf)
        more = os.read(self._requests, _HEARD)
        self._heard += more
        return bool(more)

    @property
    def is_ahead(self) -> bool:
        """Whether more was read than was taken."""
        return bool(self._heard)

    def broke_off(self) -> bool:
        """Whether git-lfs has hung up without a terminate. Nobody knows that while the next line is waited for."""
        if self._ended or not hasattr(select, "poll") or not self._reading.acquire(blocking=False):
            return False
        try:
            ends = select.poll()
            ends.register(self._requests, 0)
            if not ends.poll(0):
                return False
            self._ended = True
            while self._read_more():  # all was said, and what was asked for is done first
                pass
            return b'"terminate"' not in self._heard.rstrip().rpartition(b"\n")[2]
        finally:
            self._reading.release()
