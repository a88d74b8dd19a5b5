"""Finds what no repository names in a store, marks it, and deletes later what still nobody names or has saved."""

import os
import re
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from lfs_agent.errors import ConflictError, MissingError, ObjectError, StoppedError, TransientError
from lfs_agent.layout import RESERVED, below, oid_at
from lfs_agent.ledger import Ledger, Mark, Marks, Registration, age_of
from lfs_agent.log import Log
from lfs_agent.parallel import in_parallel
from lfs_agent.pointer import Oid
from lfs_agent.session import Moment
from lfs_agent.store import Stock, Stored

Status = Literal["orphan", "young", "marked", "waiting", "deletable", "deleted", "saved", "gone", "changed", "failed"]

MOST_MARKS: Final = 100_000
"""Objects that are marked at once: a push reads the list of them."""
_RUN_S: Final = 6 * 3600.0
"""So long after it has read the marks a gc may decide about one; what is left over waits for the next."""
_NOTES_S: Final = 2 * _RUN_S
"""After so long without a change of the marks, no gc is at work that could need the note about another one."""
_SEND_WITHIN_S: Final = 60.0
"""Of the decision: others count on it that a deletion which was not sent by then never is."""


@dataclass(frozen=True, slots=True)
class Orphan:
    """An object that no repository names, and what becomes of it.

    `mark`: as it is marked, or would be. `reason`: why it stays; `kept_version`: the store has it as an old version.
    """

    status: Status
    oid: Oid
    size: int
    key: str
    address: str
    modified: int
    mark: Mark
    reason: str = ""
    kept_version: bool = False


@dataclass
class Survey:
    """What is to be done in a store: `orphans` of all kinds, and how many objects there are in all."""

    orphans: list[Orphan] = field(default_factory=list)
    objects: int = 0
    young: int = 0
    """Orphans that are too young to be marked."""
    more: int = 0
    """Orphans beyond those that are marked at once."""
    dropped: int = 0
    """Marks of objects that are named again."""

    def of(self, status: Status) -> list[Orphan]:
        return [orphan for orphan in self.orphans if orphan.status == status]


class Collector:
    """The gc of one store. `older_than_s`: objects go only after so long, and so long after they were marked.

    `key`: where an object lies.
    """

    def __init__(
        self, ledger: Ledger, stock: Stock, prefix: str, key: Callable[[Oid], str], *, older_than_s: float
    ) -> None:
        self._ledger = ledger
        self._stock = stock
        self._prefix = prefix
        self._key = key
        self.older_than_s = older_than_s
        self._run = os.urandom(8).hex()
        self._clock = Moment.now()
        self._found = Marks([])
        self._probing = threading.Lock()  # one decision shows whether the store holds to the first one
        self._probed = False

    # Repositories

    def registered(self) -> list[Registration]:
        """The repositories that are registered at the store. Raises ObjectError where one can't be read."""
        found = []
        for key in [stored.key for stored in all_below(self._stock, self._ledger.repositories)]:
            if entry := self._ledger.registration(key):
                found.append(entry)
            elif self._stock.look(key):  # it was not taken out meanwhile
                raise ObjectError(f"{self._ledger.address(key)} registers a repository, and can't be read here")
        return sorted(found, key=lambda each: each.url)

    def forget(self, url: str) -> bool:
        """Takes a registration out; whether it was there."""
        key = self._ledger.repository_key(url)
        found = self._stock.look(key)
        if found is not None:
            self._stock.delete(key, found.etag)
        return found is not None

    def check_alone(self) -> None:
        """Raises ObjectError where this store lies where another one around it would have objects."""
        if around := _SHARD.fullmatch(self._prefix):
            other = self._ledger.at(around[1] or "").repositories
            if self._stock.listed(other)[0]:
                raise ObjectError(f"{self._stock.address(other)}: this store lies inside of another one; {_APART}")

    # Looking

    def read_marks(self) -> int:
        """Reads what is marked, before the repositories are asked; how many that are."""
        self._clock = Moment.now()
        self._found = self._ledger.marks()
        return len(self._found.marks)

    def survey(self, named: Callable[[Oid], bool], tell: Callable[[int], None] = lambda count: None) -> Survey:
        """Looks at all that is stored; `named`: whether a repository names it. `tell` is told how many so far."""
        found = Survey()
        unseen = {mark.oid: mark for mark in self._found.marks}
        for stored in self._objects():
            found.objects += 1
            tell(found.objects)
            oid = Oid(stored.key.rpartition("/")[2])
            mark = unseen.pop(oid, None)
            if named(oid):
                found.dropped += mark is not None
                continue
            orphan = self._judged(oid, stored, mark)
            if orphan.status == "young":
                found.young += 1
            elif orphan.status == "orphan" and len(found.orphans) >= MOST_MARKS:
                found.more += 1
            else:
                found.orphans.append(orphan)
        found.orphans += [self._orphan("gone", mark.oid, mark.size, mark.modified, mark) for mark in unseen.values()]
        return found

    def _objects(self) -> Iterator[Stored]:
        for stored in all_below(self._stock, below(self._prefix)):
            if stored.key.startswith(self._ledger.root):
                continue
            inside, reserved, _ = stored.key.removeprefix(below(self._prefix)).partition(f"/{RESERVED}/")
            if reserved and _SHARD.fullmatch(inside):
                raise ObjectError(f"{self._stock.address(stored.key)}: another store lies inside of this one; {_APART}")
            if oid_at(stored.key, self._key):
                yield stored

    def _judged(self, oid: Oid, stored: Stored, mark: Mark | None) -> Orphan:
        now = self._stock.now()
        status: Status = "orphan" if _age_s(now, stored.modified) >= self.older_than_s else "young"
        if mark and not _is_marked(stored, mark):
            return self._orphan("changed", oid, stored.size, stored.modified, mark, "it was stored anew since")
        if mark:
            status = "deletable" if _age_s(now, mark.marked) >= self.older_than_s else "waiting"
        else:
            mark = Mark(oid, stored.size, stored.etag, stored.modified, self._run, int(now))
        return self._orphan(status, oid, stored.size, stored.modified, mark)

    def _orphan(self, status: Status, oid: Oid, size: int, modified: int, mark: Mark, reason: str = "") -> Orphan:
        key = self._key(oid)
        return Orphan(status, oid, size, key, self._stock.address(key), modified, mark, reason)

    # Deleting

    def collect(
        self, orphans: Sequence[Orphan], log: Log, stop: threading.Event, *, threads: int
    ) -> Generator[Orphan, None, None]:
        """What became of each that was deletable, in order."""

        def collected(orphan: Orphan) -> Orphan:
            about = {"oid": orphan.oid, "size": orphan.size, "key": orphan.key}
            if stop.is_set():
                raise StoppedError("stopped")
            try:
                return self._collected(orphan, log)
            except ObjectError as error:
                log.error("failed", **about, code=error.code, **error.details())
                return replace(orphan, status="failed", reason=str(error))

        return in_parallel(collected, orphans, threads=threads)

    def _collected(self, orphan: Orphan, log: Log) -> Orphan:
        found = self._stock.look(orphan.key)
        if found is None:
            return replace(orphan, status="gone")
        if not _is_marked(found, orphan.mark):
            return replace(orphan, status="changed", reason="it was stored anew since")
        if self._clock.elapsed_s > _RUN_S:
            return replace(orphan, status="waiting", reason="this gc has been at work for too long: the next goes on")
        decided = Moment.now()
        mark = orphan.mark.run, orphan.oid
        first = self._ledger.decide(mark, "deleting", lambda key: age_of(self._stock, key))
        if first and first.state == "saved":
            return replace(orphan, status="saved", reason=f"a push has saved it ({first.by}, {first.at})")
        if first:
            return replace(orphan, status="waiting", reason=f"another gc is at it ({first.by}, {first.at})")
        self._check_firsts(mark)
        return self._deleted(orphan, decided, log)

    def _check_firsts(self, mark: tuple[str, Oid]) -> None:
        """Raises ObjectError where the store lets a second decision take the place of the first."""
        with self._probing:
            if not self._probed and self._ledger.decide(mark, "saved", lambda key: 0.0) is None:
                raise ObjectError(
                    "this store obeys no condition on what is written: two could decide about the same object, and "
                    "nothing is deleted"
                )
            self._probed = True

    def _deleted(self, orphan: Orphan, decided: Moment, log: Log) -> Orphan:
        about = {"oid": orphan.oid, "size": orphan.size, "key": orphan.key, "etag": orphan.mark.etag}
        log.warning("deleting", **about)
        self._stock.connect()  # a login that waits for a person must not hold back a deletion past its time
        if decided.elapsed_s > _SEND_WITHIN_S:
            raise ObjectError(f"{orphan.address}: the store took too long to decide; the next gc goes on in an hour")
        kept = False
        try:
            kept = self._stock.delete(orphan.key, orphan.mark.etag)
        except MissingError:
            pass
        except ConflictError:
            return replace(orphan, status="changed", reason="it was stored anew since")
        except TransientError as error:  # it may have been deleted: it is not asked for again, but looked at
            left = self._stock.look(orphan.key)
            if left is not None and _is_marked(left, orphan.mark):
                raise ObjectError(f"{error}; it is not asked for again now: the next gc goes on in an hour") from error
        left = self._stock.look(orphan.key)
        if left is not None and _is_marked(left, orphan.mark):
            raise ObjectError(f"{orphan.address} was deleted, and is still there: is it locked, or a copy of a cache?")
        log.info("deleted", **about, bytes=orphan.size)
        return replace(orphan, status="deleted", kept_version=kept)

    # Afterwards

    def write(self, survey: Survey, collected: Sequence[Orphan]) -> int:
        """Marks what is to be marked, and forgets what is done with; how many are marked now.

        Raises ObjectError where another gc has written meanwhile.
        """
        done = {orphan.oid: orphan.status for orphan in collected}
        self._stock.connect()  # a share's clock is read again: what it goes on by stands still while a machine sleeps
        now = int(self._stock.now())  # a push sees a new mark from now on, however long somebody was asked before
        kept = [
            each.mark._replace(marked=now) if each.status == "orphan" else each.mark
            for each in survey.orphans
            if done.get(each.oid, each.status) in _STAY
        ]
        if list(kept) == list(self._found.marks) and self._found.etag:
            return len(kept)
        if not kept and not self._found.etag:
            return 0
        try:
            self._ledger.replace_marks(kept, self._found)
        except ConflictError as error:
            raise ObjectError(f"another gc has marked objects meanwhile ({error}); run this one again") from error
        return len(kept)

    def sweep(self) -> int:
        """Deletes notes that nobody can need any more; how many."""
        marks = self._stock.look(self._ledger.marks_key)
        if marks is None or self._stock.now() - marks.modified < _NOTES_S or not self._is_unchanged(marks):
            return 0
        swept = 0
        needed = {f"{self._ledger.notes}{mark.run}/{mark.oid}" for mark in self._found.marks}
        for note in list(all_below(self._stock, self._ledger.notes)):
            if note.key.rpartition(".")[0] not in needed and self._stock.now() - note.modified >= _NOTES_S:
                self._stock.delete(note.key, note.etag)
                swept += 1
        return swept

    def _is_unchanged(self, marks: Stored) -> bool:
        return marks.etag.strip('"') == self._found.etag.strip('"')


_SHARD: Final = re.compile(r"(?:(.*)/)?[0-9a-f]{2}/[0-9a-f]{2}")
"""A prefix below which the objects of a flat layout are where those of another store might be."""
_STAY: Final = ("orphan", "waiting", "deletable", "failed")
_APART: Final = "nobody can tell whose objects are whose: move one of them"


def _is_marked(stored: Stored, mark: Mark) -> bool:
    """Whether it is the very object that was marked, not the same content stored again."""
    return (stored.etag.strip('"'), stored.modified) == (mark.etag.strip('"'), mark.modified)


def _age_s(now: float, then: float) -> float:
    # There are servers that look at the clock once a second only: what was just stored is of the future then.
    return max(0.0, now - then)


def all_below(stock: Stock, prefix: str) -> Iterator[Stored]:
    """All that lies at keys that begin with `prefix`: "", or something with a slash at its end."""
    page, after = stock.listed(prefix)
    yield from page
    while after:
        page, after = stock.listed(prefix, after)
        yield from page


def count(orphans: Sequence[Orphan]) -> tuple[int, int]:
    """Objects and bytes."""
    return len(orphans), sum(orphan.size for orphan in orphans)
