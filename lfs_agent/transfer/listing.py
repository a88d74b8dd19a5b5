"""`Listing`: what the store has said lately, in lists, that it has; one worker asks, all of a session look there."""

import os
import struct
import threading
from bisect import bisect_left
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from lfs_agent.errors import AgentError, DiskError
from lfs_agent.layout import below, oid_at
from lfs_agent.lease import take
from lfs_agent.pointer import Oid
from lfs_agent.session import Moment
from lfs_agent.store import ObjectStat, Store

_TRUSTED_S: Final = 10.0
"""So long after it was asked for a page is believed; then it is asked for anew, while it is still of use."""
_RUN: Final = 8
"""Objects in a row that were there: after each so many a worker takes a page to be worth it, which costs as much as
some of the questions that it may save."""
_MOST_PAGES: Final = 32
"""Of what lies in more pages, too little is on each."""

_HEADING: Final = struct.Struct(">ddQ")
"""When a page was asked for (`Moment`), and how many objects are on it; none: no other page will follow."""
_ENTRY: Final = struct.Struct(">32sQ")
"""Name and size of an object; their order is that of the bytes."""
_TOO_LARGE: Final = 1 << 63
"""Bytes; no object has as many, whatever a store says."""
_NAME: Final = 32
"""Bytes of an entry."""


class _Page(NamedTuple):
    """A part of what is there, in order."""

    asked: Moment
    entries: bytes

    def covers(self, entry: bytes) -> bool:
        """Whether the object would be on this page."""
        return self.entries[:_NAME] <= entry[:_NAME] <= self.entries[-_ENTRY.size :][:_NAME]

    def has(self, entry: bytes) -> bool:
        """Whether it is, in that size."""
        return self._at(bisect_left(range(len(self.entries) // _ENTRY.size), entry, key=self._at)) == entry

    def _at(self, index: int) -> bytes:
        return self.entries[index * _ENTRY.size : (index + 1) * _ENTRY.size]


class Listing:
    """What a worker knows to be in the store although it has not asked for it. For one thread at a time.

    Its pages are in the file at `path`, which only grows: whoever has a lease of it asks the store. `key`: where an
    object lies, below `prefix`. `trusted_s`: how long a page is believed.
    """

    def __init__(
        self, store: Store, prefix: str, key: Callable[[Oid], str], path: Path, trusted_s: float = _TRUSTED_S
    ) -> None:
        self._trusted_s = trusted_s
        self._store = store
        self._prefix = below(prefix)
        self._key = key
        self._path = path
        self._name = str(path)
        self._first, self._last = key(Oid("0" * 64)), key(Oid("f" * 64))
        self._in_a_row = 0
        self._pages: list[_Page] = []
        self._file = -1
        self._read_up_to = 0
        self._over = False
        """Nobody lists any more: the store refuses, or there is too much."""

        self._leased = -1
        self._asking: threading.Thread | None = None
        self._after = ""
        self._round: Moment | None = None
        """When the first page was asked for, the last time."""

    def seen_at(self, oid: Oid, size: int) -> float | None:
        """When the store had an object of this name and size, as time.monotonic(); None where that is not known."""
        self._read()
        entry = _entry(oid, size)
        page = next((page for page in reversed(self._trusted()) if page.covers(entry)), None)
        return page.asked.monotonic if page and page.has(entry) else None

    def count(self, *, was_there: bool) -> None:
        """Hears of each object that was pushed; after some in a row that were there the next page is asked for."""
        self._in_a_row = self._in_a_row + 1 if was_there else 0
        if was_there and self._in_a_row % _RUN == 0 and self._is_due() and self._is_ours():
            # Beside the objects: none of them has to wait for a list, which may take long, or never come.
            self._asking = threading.Thread(target=self._ask, daemon=True)
            self._asking.start()

    # Reading

    def _read(self) -> None:
        """Takes up the pages that have come since, and lets go of the old ones."""
        if self._file < 0 and not os.access(self._name, os.F_OK):  # mostly: an exception would take four times as long
            return
        with suppress(OSError):
            if self._file < 0:
                self._file = os.open(self._path, os.O_RDONLY)
            new = os.fstat(self._file).st_size - self._read_up_to
            if new > 0:
                self._take_up(os.pread(self._file, new, self._read_up_to))
                self._pages = self._trusted()

    def _trusted(self) -> list[_Page]:
        return [page for page in self._pages if page.asked.is_within(self._trusted_s)]

    def _take_up(self, new: bytes) -> None:
        at = 0
        while len(new) - at >= _HEADING.size:
            wall, monotonic, count = _HEADING.unpack_from(new, at)
            end = at + _HEADING.size + count * _ENTRY.size
            if end > len(new):  # it is being written
                break
            self._over = not count
            self._pages.append(_Page(Moment(wall, monotonic), new[at + _HEADING.size : end]))
            at = end
        self._read_up_to += at

    # Asking

    def _is_due(self) -> bool:
        if self._over or (self._asking and self._asking.is_alive()):
            return False
        return bool(self._after) or self._round is None or not self._round.is_within(self._trusted_s)

    def _is_ours(self) -> bool:
        """Whether we are the one who asks."""
        with suppress(OSError, DiskError):
            if self._leased < 0:
                self._path.touch()
                if (leased := take(self._path)) is not None:
                    self._leased = leased
                    self._read()
                    os.ftruncate(leased, self._read_up_to)  # behind that is what a killed one was writing
        return self._leased >= 0 and not self._over

    def _ask(self) -> None:
        """Asks for the next page, the first after the last, and writes it down."""
        asked = Moment.now()
        if not self._after:
            self._round = asked
        found: list[ObjectStat] = []
        with suppress(AgentError):  # not allowed, or of no use: each object is asked for, and says what is wrong
            found, self._after = self._store.listed(self._prefix, self._after or self._first)
        sane = (each for each in found if 0 <= each.size < _TOO_LARGE)
        entries = sorted(_entry(oid, each.size) for each in sane if (oid := oid_at(each.key, self._key)))
        if self._after > self._last:
            self._after = ""
        if self._round is asked and self._after and _is_little(entries):
            entries = []
        self._over = not entries
        page = _HEADING.pack(*asked, len(entries)) + b"".join(entries)
        try:
            self._over |= os.pwrite(self._leased, page, os.fstat(self._leased).st_size) < len(page)
        except OSError:  # a full disk
            self._over = True


def _entry(oid: Oid, size: int) -> bytes:
    return _ENTRY.pack(bytes.fromhex(oid), size)


def _is_little(first: Sequence[bytes]) -> bool:
    """Whether the first page is one of too many: names are hashes, as many here as there."""
    return bool(first) and int.from_bytes(first[-1][:4]) * _MOST_PAGES < 1 << 32
