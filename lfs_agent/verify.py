"""Judges many objects: for each pointer, a `Finding` of what the store has in its place."""

import hashlib
import threading
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from lfs_agent.errors import (
    AgentError,
    ArchivedError,
    DamagedError,
    MissingError,
    ObjectError,
    SessionError,
    StoppedError,
    UsageError,
)
from lfs_agent.parallel import in_parallel
from lfs_agent.pointer import Oid, Pointer
from lfs_agent.selection import Wanted
from lfs_agent.store import Chunk, ObjectStat, Store

Status = Literal["present", "missing", "damaged", "unproven", "archived", "unknown"]
Depth = Literal["presence", "checksum", "report", "deep"]
"""What is asked: key and size; whether the store's own checksum says that it is the object, one that it keeps or one
that a job has computed; its content, hashed."""
Proof = Literal["", "upload", "store", "read"]
"""Who says that it is the object: nobody; its upload, which recorded the hash, while the store keeps a checksum of its
own over the bytes; the store's own SHA-256; we, who read and hashed it."""

NOT_ASKED: Final = "not asked: the cause is told once"
_TRIES: Final = 2
_WORTH_LISTING: Final = 64
"""Objects: fewer are asked for one by one."""
_OBJECTS_A_PAGE: Final = 10
"""A page of a list may be asked for instead of so many objects."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found for one object. `reason` is "" where nothing is wrong.

    Not proven is not wrong.
    """

    status: Status
    pointer: Pointer
    key: str
    address: str
    reason: str
    paths: Sequence[str]
    proof: Proof = ""
    found: ObjectStat | None = None
    """What the store says of the key; None where nothing is there, or it could not be asked."""
    as_of: str = ""
    """When that was so, by an inventory or a report (ISO 8601, in UTC); "" where the store was asked now."""

    @property
    def proven(self) -> bool:
        """Whether its SHA-256 was seen to be its name, by the store or by us."""
        return self.proof in ("store", "read")


@dataclass(frozen=True, slots=True)
class Verdict:
    """A Finding before anybody says which object it is about."""

    status: Status
    reason: str = ""
    proof: Proof = ""
    found: ObjectStat | None = None
    as_of: str = ""


@dataclass(frozen=True, slots=True)
class Computed:
    """What a job at the store found: the SHA-256 of an object in hex, and its ETag then; or why there is none."""

    sha256: str
    etag: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known of objects before the store is asked, by key, and since when (as `Finding.as_of`)."""

    as_of: str = ""
    there: Set[str] = frozenset()
    """Present, by an inventory: of these the store is not asked."""
    computed: Mapping[str, Computed] = field(default_factory=dict)


class Judge:
    """Asks one store. Usable from several threads; after `cause` is set it asks nothing more.

    `sample`: the objects that are read; None: all of them where `depth` is "deep". `on_read` is told of the bytes,
    from any thread. `evidence`: in place of a list where the depth is "presence"; what a job computed for "report".
    """

    def __init__(
        self,
        store: Store,
        key: Callable[[Oid], str],
        *,
        depth: Depth = "presence",
        sample: Set[Oid] | None = None,
        evidence: Evidence | None = None,
        stop: threading.Event | None = None,
        on_read: Callable[[int], None] = lambda size: None,
    ) -> None:
        self._store = store
        self._key = key
        self._depth = depth
        self._sample = sample
        self._evidence = evidence or Evidence()
        self._listed: dict[str, ObjectStat] = {}
        self._stop = stop or threading.Event()
        self._on_read = on_read
        self._alive = threading.Event()
        """Set once it is certain that "nothing there" speaks of the key, not of the whole bucket."""
        self._ending = threading.Lock()  # of the two below: several threads may meet a cause, one finding tells it
        self._told = False
        self.cause: AgentError | None = None
        """What ended the asking."""

    def find(self, wanted: Sequence[Wanted], *, threads: int) -> Generator[Finding, None, None]:
        """A finding for each, in order, while the others are asked for.

        Raises UsageError where a setting makes asking impossible.
        """
        try:
            self._store.connect()
            self._look_up(wanted, threads)
        except UsageError:
            raise
        except AgentError as error:
            self._end(error)
        return in_parallel(self.judge, wanted, threads=threads)

    def _look_up(self, wanted: Sequence[Wanted], threads: int) -> None:
        """Lists what is there, where that takes fewer requests; what is not in the list is asked for by itself."""
        keys = {self._key(each.pointer.oid) for each in wanted} - self._evidence.there
        if self._depth not in ("presence", "report") or len(keys) < _WORTH_LISTING:
            return
        least, most = self._key(Oid("0" * 64)), self._key(Oid("f" * 64))
        digits = next(at for at, (one, other) in enumerate(zip(least, most, strict=True)) if one != other)
        groups = Counter(key[: digits + 1] for key in keys)

        def list_group(group: tuple[str, int]) -> list[ObjectStat]:
            prefix, count = group
            return [found for found in self._pages(prefix, max(1, count // _OBJECTS_A_PAGE)) if found.key in keys]

        for found in in_parallel(list_group, groups.items(), threads=threads):
            self._listed |= {each.key: each for each in found if not each.archived}

    def _pages(self, prefix: str, pages: int) -> list[ObjectStat]:
        found: list[ObjectStat] = []
        after = ""
        with suppress(ObjectError):  # not allowed, or of no use: each is asked for, and says what is wrong
            for _ in range(pages):
                page, after = self._store.listed(prefix, after)
                self._alive.set()
                found += page
                if not after:
                    break
        return found

    def judge(self, wanted: Wanted) -> Finding:
        """What the store has of one object. What ends the asking is the reason of one finding, not of all."""
        pointer, key = wanted.pointer, self._key(wanted.pointer.oid)
        verdict = Verdict("unknown", self._why()) if self.cause else self._asked(key, pointer)
        address = self._store.address(key)
        what = verdict.status, pointer, key, address, verdict.reason, wanted.paths, verdict.proof, verdict.found
        return Finding(*what, verdict.as_of)

    def _asked(self, key: str, pointer: Pointer) -> Verdict:
        try:
            return self._judged(key, pointer)
        except MissingError:
            return Verdict("missing", "nobody has pushed it here, or it was deleted")
        except ArchivedError as error:
            return Verdict("archived", str(error))
        except UsageError:
            raise
        except (SessionError, StoppedError) as error:
            self._end(error)
            return Verdict("unknown", self._why())
        except AgentError as error:
            return Verdict("unknown", str(error))

    def _end(self, error: AgentError) -> None:
        with self._ending:
            self.cause = self.cause or error

    def _why(self) -> str:
        with self._ending:
            told, self._told = self._told, True
            return NOT_ASKED if told else str(self.cause)

    def _judged(self, key: str, pointer: Pointer) -> Verdict:
        if pointer.size == 0:  # git-lfs neither sends nor fetches what is empty
            return Verdict("present", proof="read")
        if key in self._evidence.there:
            return Verdict("present", as_of=self._evidence.as_of)
        found = self._listed.get(key) or self._store.stat(key)
        if found is None:
            self._check_alive(key)
            raise MissingError("nothing is there")
        self._alive.set()
        return replace(self._compared(key, pointer, found), found=found)

    def _compared(self, key: str, pointer: Pointer, found: ObjectStat) -> Verdict:
        if found.size != pointer.size:
            return Verdict("damaged", f"it has {found.size} bytes, not {pointer.size}")
        if found.sha256 and not found.proves(pointer.oid):
            return Verdict("damaged", f"its SHA-256 is {found.sha256}, as the store itself says")
        if self._depth == "report":
            computed = _by_report(pointer, found, self._evidence.computed.get(key))
            if computed.status != "present" or not found.archived:
                return replace(computed, as_of=self._evidence.as_of)
            return Verdict("archived", found.archived, computed.proof, as_of=self._evidence.as_of)
        if found.archived:
            return Verdict("archived", found.archived)
        if self._depth == "deep" and (self._sample is None or pointer.oid in self._sample):
            return self._read(key, pointer, found)
        proof = _proof(pointer, found)
        if self._depth == "checksum" and not proof:
            return Verdict("unproven", "the store has no checksum that says whether it is the object: see --deep")
        return Verdict("present", proof=proof)

    def _check_alive(self, key: str) -> None:
        """Raises what is wrong with the whole store: a HEAD says 404 of key and bucket alike, a GET says which."""
        if not self._alive.is_set():
            with suppress(MissingError):
                self._store.fetch(key, 0, 1, lambda offset, chunk: None)
            self._alive.set()

    def _read(self, key: str, pointer: Pointer, found: ObjectStat) -> Verdict:
        digest = ""
        for _ in range(_TRIES):  # twice: it may have been damaged on the way only
            try:
                digest = self._hash(key, pointer.size, found.etag)
            except DamagedError as error:
                return Verdict("damaged", str(error))
            if digest == pointer.oid:
                return Verdict("present", proof="read")
        return Verdict("damaged", f"its SHA-256 is {digest}")

    def _hash(self, key: str, size: int, etag: str) -> str:
        digest, position = hashlib.sha256(), 0

        def take(offset: int, chunk: Chunk) -> None:
            nonlocal position
            if self._stop.is_set():
                raise StoppedError("stopped")
            if offset != position:
                raise ObjectError(f"the store sent byte {offset} where {position} was due")
            digest.update(chunk)
            position += len(chunk)
            self._on_read(len(chunk))

        self._store.fetch(key, 0, size, take, etag)
        if position != size:
            raise DamagedError(f"it ends at byte {position}, not {size}")
        return digest.hexdigest()


def _by_report(pointer: Pointer, found: ObjectStat, computed: Computed | None) -> Verdict:
    """What a job's report proves of what is there now: its ETag ties the two."""
    if computed is None:
        return Verdict("unproven", "the report has nothing of it: it was pushed later, or was not in the manifest")
    if computed.reason:
        return Verdict("unproven", computed.reason)
    if not (found.etag and computed.etag):
        return Verdict("unproven", "nothing ties the report to what is there now: no ETag is told")
    if found.etag.strip('"') != computed.etag:
        return Verdict("unproven", "it is not the one that the report is about: it was replaced since")
    if computed.sha256 != pointer.oid:
        return Verdict("damaged", f"its SHA-256 is {computed.sha256}, as a Compute checksum job at the store found")
    return Verdict("present", proof="store")


def _proof(pointer: Pointer, found: ObjectStat) -> Proof:
    """Who says, without a read, that it is the object."""
    if found.proves(pointer.oid):
        return "store"
    return "upload" if found.crc32c and found.recorded == pointer.oid else ""
