"""One object from a file to the store: hashed while it goes, and published only when the hash is its name."""

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final, Literal, NamedTuple

from lfs_agent.errors import (
    MENDED_BY,
    AgentError,
    ConflictError,
    DamagedError,
    DeniedError,
    ObjectError,
    TransientError,
    UnsupportedError,
)
from lfs_agent.lease import idle, lease_if_possible
from lfs_agent.modes import UMASK, Modes, StrPath
from lfs_agent.parts import GIB, KIB, Limits, Part, Plan, plan_parts
from lfs_agent.pointer import Oid
from lfs_agent.store import MultipartUpload, ObjectStat, SentPart, Store, StoredPart
from lfs_agent.transfer.journal import Journal
from lfs_agent.transfer.listing import Listing
from lfs_agent.transfer.local import FileBody, Hashing, md5_of, opened, spell_crc, whole_body
from lfs_agent.transfer.meter import Meter

_TRIES: Final = 2
_JOURNAL: Final = ".upload"
_UNASKED: Final = 128 * KIB
"""Bytes of an object that is put without a question before: more would be sent in vain where it is there."""
_FIRST: Final = 16 * KIB
"""The same before one has gone well: over a slow link more would take longer than the store has for a first answer."""
_IN_VAIN: Final = GIB
"""Bytes, of so many parts at most, that are sent before it is asked again whether somebody else was faster."""
_LOOK_EVERY: Final = 64


class Sent(NamedTuple):
    """How an upload ended well: by sending, or because the store had it. `proven`: by the store's own checksum."""

    how: Literal["uploaded", "replaced", "skipped"]
    proven: bool
    seen_at: float = math.inf
    """When the store had it, as time.monotonic(), where only a list says so that was asked for before."""


class Asking:
    """Whether the objects of a process are asked for before they are sent.

    Small ones are not, as soon as the store is known to replace nothing, until one of them turns out to be there: of
    those that follow, more will be. Another process may find out first what `replaces_nothing` tells. Of
    what the `listing` knows to be there the store is not asked.
    """

    def __init__(self, replaces_nothing: Callable[[], bool], listing: Listing | None = None) -> None:
        self._replaces_nothing = replaces_nothing
        self._most = _FIRST
        self._known = False
        self._met = False
        self._listing = listing

    def is_needed(self, size: int) -> bool:
        """Whether the store is to be asked for an object of so many bytes first."""
        if size > self._most or self._met:
            return True
        self._known = self._known or self._replaces_nothing()
        return not self._known

    def met(self) -> None:
        """One was there."""
        self._met = True

    def seen_at(self, oid: Oid, size: int) -> float | None:
        """As `Listing.seen_at`."""
        return self._listing.seen_at(oid, size) if self._listing else None

    def count(self, sent: Sent) -> None:
        """Hears how it went, which was well."""
        self._most = _UNASKED
        if self._listing:
            self._listing.count(was_there=sent.how == "skipped")


class _Job(NamedTuple):
    """What is sent where: the open file `fd` as the object `oid`, to `key`.

    `damaged`: the etag of what it takes the place of; "" where nothing is there.
    """

    store: Store
    key: str
    oid: Oid
    fd: int
    meter: Meter
    damaged: str

    @property
    def address(self) -> str:
        return self.store.address(self.key)

    @property
    def how(self) -> Literal["uploaded", "replaced"]:
        return "replaced" if self.damaged else "uploaded"


def upload(
    store: Store,
    key: str,
    oid: Oid,
    path: StrPath,
    meter: Meter,
    *,
    state: Path,
    modes: Modes = UMASK,
    limits: Limits,
    streams: int,
    replacing: str = "",
    asking: Asking | None = None,
) -> Sent:
    """Brings the object to the store, where it isn't there already.

    `state`: a folder for what has to survive a kill, in files with the `modes`. `streams`: parts in flight at once.
    `replacing`: the etag of what was judged to be damaged; that, and nothing else, the object takes the place of.
    `asking`: what is known of the objects before this one; None: the store is asked.

    Raises LocalError where the file is not the object: then nothing was published; DamagedError where something else
    is at the key: it is not replaced; UnsupportedError where the store can't replace exactly what was judged; and what
    the store raises.
    """
    with opened(path, oid, meter.size) as fd:
        if asking and not replacing and (seen_at := asking.seen_at(oid, meter.size)) is not None:
            meter.finished()
            _let_go(store, key, meter.size, _notes(store, key, oid, state))
            return Sent("skipped", False, seen_at)
        for attempt in range(_TRIES):
            asks = attempt > 0 or bool(replacing) or asking is None or asking.is_needed(meter.size)
            found = _look(store, key) if asks else None
            if found is not None and not _is_judged(found, replacing):
                if asking:
                    asking.met()
                skipped = _skip(store, found, oid, meter)
                if meter.size > limits.min_part:  # else there were never parts of it
                    _let_go(store, key, meter.size, _notes(store, key, oid, state))
                return skipped
            job = _Job(store, key, oid, fd, meter, damaged=found.etag if found else "")
            try:
                sent = _send(job, state, modes, limits, streams)
            except ConflictError as conflict:
                if asking:
                    asking.met()
                found = _look(store, key) if attempt < _TRIES - 1 else store.stat(key)
                if found is not None and not _is_judged(found, replacing):
                    return _skip(store, found, oid, meter)
                if attempt == _TRIES - 1:  # else a race without a winner, or an upload that is gone: from the start
                    if found is not None:
                        raise ObjectError(f"{conflict}; and yet it is as it was: nothing was replaced") from conflict
                    raise ObjectError(f"{conflict}; and yet nothing is there: push again") from conflict
            else:
                return sent
    raise AssertionError("unreachable")


def _is_judged(found: ObjectStat, replacing: str) -> bool:
    return bool(replacing) and found.etag == replacing


def _look(store: Store, key: str) -> ObjectStat | None:
    try:
        return store.stat(key)
    except DeniedError:
        # Without s3:ListBucket a missing key is forbidden, not missing: the conditional put will tell.
        return None


def _skip(store: Store, found: ObjectStat, oid: Oid, meter: Meter) -> Sent:
    if found.size != meter.size:
        raise DamagedError(
            f"{store.address(found.key)} has {found.size} bytes, not {meter.size}: something else is stored under this "
            f"name; it was not replaced. {MENDED_BY}"
        )
    if found.sha256 and found.sha256 != oid:
        raise DamagedError(
            f"{store.address(found.key)} holds something else (SHA-256 {found.sha256}); it was not replaced. "
            f"{MENDED_BY}"
        )
    meter.finished()
    return Sent("skipped", found.proves(oid))


def _sent(job: _Job, crc32c: str) -> Sent:
    """An upload in parts was answered with success; it is looked at once more, since parts were put together."""
    size = job.meter.size
    try:
        found = job.store.stat(job.key)
    except DeniedError:  # there is a right to write, and none to read
        return Sent(job.how, False)
    if found is None or found.size != size or found.crc32c not in ("", crc32c):
        has = f"{found.size} bytes with the CRC-32C {found.crc32c or 'unknown'}" if found else "nothing"
        raise DamagedError(
            f"{job.address}: stored {size} bytes with the CRC-32C {crc32c}, but the store has {has}. {MENDED_BY}"
        )
    return Sent(job.how, found.proves(job.oid) or bool(found.crc32c))


def journals(state: Path, oid: Oid) -> list[Path]:
    """What is kept of uploads of the object, to whatever store, that are going on or were broken off."""
    return sorted(state.glob(f"{oid}.*{_JOURNAL}"))


def _notes(store: Store, key: str, oid: Oid, state: Path) -> Path:
    """Where what has been done of an upload is kept."""
    of_whom = hashlib.sha256(store.identity(key).encode()).hexdigest()[:16]
    return state / f"{oid}.{of_whom}{_JOURNAL}"


def _send(job: _Job, state: Path, modes: Modes, limits: Limits, streams: int) -> Sent:
    """Sends the object whole, or in parts with notes of what is done in the folder `state`."""
    try:
        plan = plan_parts(job.meter.size, limits)
    except ValueError as error:
        raise ObjectError(f"{job.address}: {error}") from None
    if job.damaged:
        plan = _plan_replacing(job, plan, limits)
    if plan.count == 1:
        return _send_whole(job)
    notes = _notes(job.store, job.key, job.oid, state)
    with lease_if_possible(notes, job.meter.stop, modes) as held:  # without it, the upload is just not resumed
        journal = Journal(held.fd if held else None)
        try:
            if held and held.waited:
                _check_unstored(job)
            return _sent(job, _send_parts(job, plan, streams, journal))
        finally:
            if held and not journal.heading:
                with suppress(OSError):
                    notes.unlink(missing_ok=True)


def _check_unstored(job: _Job) -> None:
    """Raises ConflictError where somebody else was faster."""
    if (found := _look(job.store, job.key)) is not None and not _is_judged(found, job.damaged):
        raise ConflictError(f"{job.address} was stored meanwhile")


def _plan_replacing(job: _Job, plan: Plan, limits: Limits) -> Plan:
    """The plan, in one piece where the store replaces nothing else under a condition."""
    way = job.store.can_replace(job.key)
    if way == "parts":
        return plan
    if way == "whole" and plan.size <= limits.max_part:
        return Plan(plan.size, max(1, plan.size))
    raise UnsupportedError(
        f"{job.address} was not replaced: this store can't be held to replace an object of {plan.size} bytes "
        "only as long as it is the one that was judged; delete it there, and run lfs-agent push-missing"
    )


def _send_whole(job: _Job) -> Sent:
    body = whole_body(job.fd, job.oid, job.meter)
    proven = job.store.put(job.key, job.oid, body, job.damaged)
    job.meter.finished_part()
    return Sent(job.how, proven)


def _send_parts(job: _Job, plan: Plan, streams: int, journal: Journal) -> str:
    """The CRC-32C of the whole object, in base64."""
    upload_, plan, stored = _begun(job, plan, journal)
    fd, meter = job.fd, job.meter
    hashing = Hashing(fd, meter)
    sent: list[SentPart] = []
    look_every = max(1, min(_LOOK_EVERY, _IN_VAIN // plan.part_size))

    def missing() -> Iterator[tuple[Part, int]]:
        for part in plan.parts():
            crc = hashing.take(part)
            if (there := stored.get(part.number)) and _is_same(there, part, crc, fd, meter):
                sent.append(SentPart(part, there.etag, spell_crc(crc)))
                meter.reached(part.offset, part.offset + part.length, 0)
            else:
                if part.number % look_every == 0:
                    _check_unstored(job)
                yield part, crc

    def send(part: Part, crc: int) -> SentPart:
        sent = upload_.put_part(part, FileBody(fd, part, crc, meter), spell_crc(crc))
        meter.finished_part()
        return sent

    try:
        sent += _in_parallel(send, missing(), streams)
        hashing.check(job.oid)  # until here nothing shows at the key
        upload_.complete(sent, spell_crc(hashing.crc))
    except BaseException as error:
        if not upload_.token or _is_final(error):
            _give_up(upload_, journal)
        raise
    journal.forget()
    return spell_crc(hashing.crc)


def _is_final(error: BaseException) -> bool:
    """Whether the parts are of no use after this; after anything else the next push goes on with them."""
    out_of_time = isinstance(error.__cause__, TransientError)
    return isinstance(error, ConflictError) or (isinstance(error, ObjectError) and not out_of_time)


def _begun(job: _Job, plan: Plan, journal: Journal) -> tuple[MultipartUpload, Plan, dict[int, StoredPart]]:
    """The upload that was broken off, as it was planned, with its parts; a new one where there is none."""
    match journal.heading:
        case {"size": plan.size, "part_size": int(part_size), "token": str(token)} if part_size > 0:
            if (found := job.store.resume(job.key, plan.size, token, job.damaged)) is not None:
                return found[0], Plan(plan.size, part_size), {part.number: part for part in found[1]}
    upload_ = job.store.begin(job.key, job.oid, plan.size, job.damaged)
    if upload_.token:
        journal.begin({"size": plan.size, "part_size": plan.part_size, "token": upload_.token})
    return upload_, plan, {}


def _let_go(store: Store, key: str, size: int, notes: Path) -> None:
    """Gives up what an earlier push has begun of an object that is there by now; not where somebody is at it."""
    with suppress(AgentError, OSError), idle([notes]) as nobody:
        if nobody:
            with notes.open("r+b") as file:  # there is none, mostly
                token = Journal(file.fileno()).heading.get("token")
            if isinstance(token, str) and (begun := store.resume(key, size, token)) is not None:
                begun[0].abort()
            notes.unlink()


def _give_up(upload_: MultipartUpload, journal: Journal) -> None:
    # What led here is what the user has to know; if this fails, a lifecycle rule sweeps the parts.
    with suppress(AgentError):
        upload_.abort()
    journal.forget()


def _is_same(there: StoredPart, part: Part, crc: int, fd: int, meter: Meter) -> bool:
    """Whether the store's own checksum says that it has this part: its CRC, or its MD5 where it knows no CRC."""
    if there.length != part.length:
        return False
    if there.crc32c:
        return there.crc32c == spell_crc(crc)
    return there.etag.strip('"') == md5_of(fd, part, meter)


def _in_parallel(
    send: Callable[[Part, int], SentPart], hashed: Iterable[tuple[Part, int]], streams: int
) -> list[SentPart]:
    """Sends the parts as they are hashed, and no further ahead than that they are still in the page cache.

    When a part fails no other is begun; those in flight have come to their end when this does.
    """
    from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait  # 15 ms: small objects do without

    from lfs_agent.parallel import until_one_fails

    sent: list[SentPart] = []
    waiting: set[Future[SentPart]] = set()
    send = until_one_fails(send)

    with ThreadPoolExecutor(streams) as pool:
        try:
            for part, crc in hashed:
                waiting.add(pool.submit(send, part, crc))
                done, waiting = wait(waiting, None if len(waiting) == 2 * streams else 0, FIRST_COMPLETED)
                sent += [future.result() for future in done]
            sent += [future.result() for future in waiting]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return sent
