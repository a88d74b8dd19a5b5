"""One object from the store to a file: ranges in parallel, hashed in order, handed over when the hash is its name."""

import errno
import hashlib
import os
import threading
from contextlib import ExitStack, suppress
from functools import cached_property
from pathlib import Path
from typing import Final

from lfs_agent.errors import DamagedError, MissingError, ObjectError, StoppedError
from lfs_agent.lease import FULL, disk_error, lease, open_own, take
from lfs_agent.modes import Modes
from lfs_agent.parts import KIB, Limits, Part, Plan, plan_parts
from lfs_agent.pointer import Oid
from lfs_agent.store import Chunk, Store
from lfs_agent.transfer.journal import Journal
from lfs_agent.transfer.meter import Meter

_BLOCK: Final = 512 * KIB
_TRIES: Final = 2
_FINISHED: Final = "lfs-agent-"


class Folders:
    """Where files are made: all in the LFS storage folder, so that git-lfs has only to rename."""

    def __init__(self, storage: Path, modes: Modes) -> None:
        self.storage = storage
        self.modes = modes
        """Of what is made there."""
        self.incomplete: Final = storage / "incomplete" / "lfs-agent"
        """For what survives a kill, of both directions."""
        # What follows is asked for each object: names, which cost less than a Path.
        self._incomplete, self._tmp = str(self.incomplete), str(storage / "tmp")
        # None renames what another one has handed over; of two containers both may have a worker 7.
        self._own = os.urandom(8).hex()

    @cached_property
    def left_over(self) -> dict[str, list[Path]]:
        """By oid, what was handed over to a git-lfs that was killed before it renamed it, as it was at first sight."""
        found: dict[str, list[Path]] = {}
        with suppress(OSError):
            for path in (self.storage / "tmp").iterdir():
                if path.name.startswith(_FINISHED):
                    found.setdefault(path.name.removeprefix(_FINISHED).partition("-")[0], []).append(path)
        return found

    def partial(self, oid: Oid) -> str:
        return f"{self._incomplete}/{oid}"

    def ranges(self, oid: Oid) -> str:
        """Beside the partial file: which of its ranges are done."""
        return f"{self._incomplete}/{oid}.ranges"

    def finished(self, oid: Oid) -> str:
        return f"{self._tmp}/{_FINISHED}{oid}-{self._own}"


def download(
    store: Store,
    key: str,
    oid: Oid,
    meter: Meter,
    folders: Folders,
    *,
    limits: Limits,
    streams: int,
    hold: ExitStack | None = None,
) -> Path:
    """The object as a file that is git-lfs's to rename. `streams`: ranges in flight at once.

    `hold`: keeps the lease of the file until git-lfs has renamed it, so that nobody takes it for left over.

    Raises DamagedError where what the store has is not the object, DiskError; and what the store raises.
    """
    with ExitStack() as stack:
        fd, _ = stack.enter_context(lease(folders.partial(oid), meter.stop, folders.modes))
        path = _left_over(folders, oid, meter, stack) or _fetched(store, key, oid, fd, meter, folders, limits, streams)
        if hold is not None:
            hold.enter_context(stack.pop_all())
        return path


def _left_over(folders: Folders, oid: Oid, meter: Meter, stack: ExitStack) -> Path | None:
    """What an earlier git-lfs did not rename any more; None where there is nothing."""
    for path in folders.left_over.get(oid, []):
        with suppress(OSError):
            if (fd := take(path)) is None:
                continue
            stack.callback(os.close, fd)
            digest = hashlib.sha256()
            _hash(fd, Part(1, 0, os.fstat(fd).st_size), digest)
            if digest.hexdigest() == oid:
                os.rename(path, folders.finished(oid))
                _let_go(folders, oid)
                meter.finished()
                return Path(folders.finished(oid))
            path.unlink()
    return None


def _let_go(folders: Folders, oid: Oid) -> None:
    for path in (folders.partial(oid), folders.ranges(oid)):
        with suppress(OSError):  # what led here is what the user has to know
            os.unlink(path)


def _fetched(
    store: Store, key: str, oid: Oid, fd: int, meter: Meter, folders: Folders, limits: Limits, streams: int
) -> Path:
    try:
        for attempt in range(_TRIES):  # twice: it may have been damaged on the way only
            found = _fetch(store, key, fd, meter, folders, oid, limits, streams)
            if found == oid:
                return _hand_over(fd, folders, oid)
            _forget(folders.ranges(oid))
            if attempt == _TRIES - 1:
                raise DamagedError(
                    f"{store.address(key)} is damaged: its SHA-256 is {found}, which is not its name; nothing was "
                    "kept. Where somebody has the object, lfs-agent repair --deep replaces it"
                )
    except BaseException as error:
        if _is_final(error) or not os.path.exists(folders.ranges(oid)):
            _let_go(folders, oid)
        if isinstance(error, OSError) and error.errno == errno.EFBIG:
            raise ObjectError(
                f"the file system of {folders.storage} takes no file of {meter.size} bytes: let lfs.storage name a "
                "folder on another one"
            ) from error
        if isinstance(error, OSError):
            raise disk_error(error, folders.storage) from error
        raise
    raise AssertionError("unreachable")


def _is_final(error: BaseException) -> bool:
    """Whether what was fetched is of no use after this; after anything else the next pull goes on with it."""
    broken_disk = isinstance(error, OSError) and error.errno not in FULL
    return broken_disk or isinstance(error, DamagedError | MissingError)


def _fetch(
    store: Store, key: str, fd: int, meter: Meter, folders: Folders, oid: Oid, limits: Limits, streams: int
) -> str:
    """Reads the whole object into the file; its SHA-256."""
    try:
        plan = plan_parts(meter.size, limits)
    except ValueError as error:
        raise DamagedError(f"{store.address(key)}: {error}") from None
    if plan.count == 1:
        os.ftruncate(fd, 0)
        return _fetch_whole(store, key, fd, meter)
    journal = open_own(folders.ranges(oid), folders.modes)  # the partial file's lease holds for it, too
    try:
        return _fetch_ranges(store, key, fd, meter, plan, Journal(journal), streams)
    finally:
        os.close(journal)


def _fetch_whole(store: Store, key: str, fd: int, meter: Meter) -> str:
    digest = hashlib.sha256()
    part = Part(1, 0, meter.size)

    def write(offset: int, chunk: Chunk) -> None:
        _write(fd, offset, chunk, part, meter)
        digest.update(chunk)

    _check_size(store, key, store.fetch(key, 0, meter.size, write).size, meter.size)
    meter.finished_part()
    return digest.hexdigest()


def _fetch_ranges(store: Store, key: str, fd: int, meter: Meter, plan: Plan, journal: Journal, streams: int) -> str:
    from concurrent.futures import ThreadPoolExecutor  # 15 ms that small objects do not pay

    from lfs_agent.parallel import until_one_fails

    found = store.stat(key)
    if found is None:
        with suppress(MissingError):  # a HEAD says 404 of key and bucket alike, a GET says which
            store.fetch(key, 0, 1, lambda at, chunk: None)
        raise MissingError(f"404: there is no {store.address(key)}; nobody has pushed it here, or it was deleted")
    _check_size(store, key, found.size, meter.size)
    heading = {"of": store.identity(key), "etag": found.etag, "part_size": plan.part_size}
    if journal.heading != heading or not found.etag:
        os.ftruncate(fd, 0)
        journal.begin(heading)
    done = {number for number in journal.notes if isinstance(number, int)}
    noting = threading.Lock()  # of the journal: ranges end in several threads
    writing = threading.Lock()  # of the file: who waits for the kernel's own lock of it keeps a core busy

    def write(part: Part, at: int, chunk: Chunk) -> None:
        with writing:
            _write(fd, at, chunk, part, meter)

    @until_one_fails
    def fetch(part: Part) -> None:
        end = part.offset + part.length
        if part.number in done and os.fstat(fd).st_size >= end:
            meter.reached(part.offset, end, 0)
            return
        store.fetch(key, part.offset, end, lambda at, chunk: write(part, at, chunk), found.etag)
        meter.finished_part()
        with noting:
            journal.note(part.number)

    digest = hashlib.sha256()
    with ThreadPoolExecutor(streams) as pool:
        ranges = [(part, pool.submit(fetch, part)) for part in plan.parts()]
        try:
            for part, fetched in ranges:
                fetched.result()
                _hash(fd, part, digest)
        except BaseException:
            for _, waiting in ranges:
                waiting.cancel()
            raise
    return digest.hexdigest()


def _write(fd: int, offset: int, chunk: Chunk, part: Part, meter: Meter) -> None:
    if meter.stop.is_set():
        raise StoppedError("stopped")
    view, position = memoryview(chunk), offset
    while view:
        written = os.pwrite(fd, view, position)
        view, position = view[written:], position + written
    meter.reached(part.offset, position, len(chunk))


def _hash(fd: int, part: Part, digest: "hashlib._Hash") -> None:
    """Follows the ranges in order; what is read is still in the page cache."""
    buffer = memoryview(bytearray(_BLOCK))
    position, end = part.offset, part.offset + part.length
    while position < end and (length := os.preadv(fd, [buffer[: end - position]], position)):
        digest.update(buffer[:length])
        position += length


def _check_size(store: Store, key: str, found: int, size: int) -> None:
    if found != size:
        raise DamagedError(
            f"{store.address(key)} has {found} bytes, not {size}: it is not the object; nothing was kept"
        )


def _hand_over(fd: int, folders: Folders, oid: Oid) -> Path:
    """Gives the file a name of its own: nobody else touches it while git-lfs hashes and renames it."""
    partial, finished = folders.partial(oid), folders.finished(oid)
    try:
        os.rename(partial, finished)
    except FileNotFoundError:
        folders.modes.make(Path(finished).parent)
        os.rename(partial, finished)
    _forget(folders.ranges(oid))
    return Path(finished)


def _forget(path: str) -> None:
    with suppress(FileNotFoundError):  # of an object in one piece there are none
        os.unlink(path)
