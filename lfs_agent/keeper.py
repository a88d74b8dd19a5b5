"""`Keeper`: sees to it that no gc deletes what a push leaves in the store, since it is there already."""

import threading
import time
from collections.abc import Callable
from typing import Final

from lfs_agent.errors import ObjectError, StoppedError
from lfs_agent.ledger import Ledger, age_of
from lfs_agent.pointer import Oid
from lfs_agent.session import Moment
from lfs_agent.store import Stock, Stored
from lfs_agent.turns import Mutex

_MARKS_FOR_S: Final = 600.0
"""So long what was read of the marks is believed."""
_WAIT_S: Final = 15.0
_POLL_S: Final = 0.5


class Keeper:
    """For the objects of one store.

    `open_stock`: opened only where a deletion was begun. `on_saved` is told of each object that was marked.
    """

    def __init__(
        self,
        ledger: Ledger,
        key: Callable[[Oid], str],
        open_stock: Callable[[], Stock],
        stop: threading.Event,
        on_saved: Callable[[Oid], None] = lambda oid: None,
    ) -> None:
        self._ledger = ledger
        self._key = key
        self._open_stock = open_stock
        self._stop = stop
        self._on_saved = on_saved
        self._reading = Mutex()  # of the three below: one thread reads the marks for all
        self._read_at: Moment | None = None
        self._any_gc = False
        """Whether there has ever been one at this store: the list of marks stays, even when nothing is marked."""
        self._marks: dict[bytes, tuple[str, int]] = {}
        """The run, and when the object was stored that it marked."""

    def read(self) -> None:
        """Reads the marks, unless that was done a moment ago."""
        with self._reading:
            if not self._read_at or not self._read_at.is_within(_MARKS_FOR_S):
                found = self._ledger.marks()
                self._any_gc = bool(found.etag)
                self._marks = {bytes.fromhex(mark.oid): (mark.run, mark.modified) for mark in found.marks}
                self._read_at = Moment.now()

    def marked(self, oid: Oid) -> bool:
        """Whether a gc has marked the object."""
        return self._mark(oid) is not None

    def _mark(self, oid: Oid) -> tuple[str, int] | None:
        self.read()
        return self._marks.get(bytes.fromhex(oid))

    def keep(self, oid: Oid, seen_at: float) -> bool:
        """Whether the object, which was in the store at that time.monotonic(), stays there; else it is gone now.

        Raises ObjectError where a gc is deleting it and has not come to an end.
        """
        if (mark := self._mark(oid)) is None:
            # A gc may have deleted it, and taken the mark away, before the marks were read.
            assert self._read_at, "they were just read"
            return not self._any_gc or seen_at > self._read_at.monotonic or self._ledger.is_there(self._key(oid))
        run, modified = mark
        stock: list[Stock] = []

        def opened() -> Stock:
            if not stock:
                stock.append(self._open_stock())
                stock[0].connect()
            return stock[0]

        note = self._ledger.decide((run, oid), "saved", lambda key: age_of(opened(), key))
        if note is None or note.state == "saved":
            self._on_saved(oid)
            return True
        if (left := self._left(opened(), oid, modified)) is None:
            return False
        if left.modified != modified:  # a deletion is sent once: what was stored after it stays
            return True
        raise ObjectError(
            f"{self._ledger.address(self._key(oid))} is just being deleted by lfs-agent gc (by {note.by}, {note.at}): "
            "push again in a few minutes; if that gc was killed, in an hour"
        )

    def _left(self, stock: Stock, oid: Oid, modified: int) -> Stored | None:
        """What is at the object's key, as soon as it is not the one stored at `modified`, or after a while."""
        until = time.monotonic() + _WAIT_S
        while (found := stock.look(self._key(oid))) and found.modified == modified and time.monotonic() < until:
            if self._stop.wait(_POLL_S):
                raise StoppedError("stopped")
        return found
