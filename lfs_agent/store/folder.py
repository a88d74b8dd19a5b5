"""`FolderStore`: objects as files in a folder that several machines may share, by the standard library alone."""

import errno
import hashlib
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from lfs_agent.errors import (
    AgentError,
    BucketError,
    ConflictError,
    DamagedError,
    DeniedError,
    DiskError,
    MissingError,
    TransientError,
    UnsupportedError,
)
from lfs_agent.lease import lease
from lfs_agent.parts import MIB, Part
from lfs_agent.pointer import Oid, parse_oid
from lfs_agent.store import (
    Body,
    Marker,
    ObjectStat,
    Progress,
    Replacing,
    SentPart,
    Stored,
    StoredPart,
    Unfinished,
    Write,
)

_BLOCK: Final = MIB
_UNFINISHED: Final = "lfs-agent-unfinished"
_STAT_BLOCK: Final = 512
"""Bytes: the unit of st_blocks."""


class FolderStore:
    """A Store below `root`, which must exist: an unmounted share is not an empty store."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def address(self, key: str) -> str:
        return str(self._root / key)

    def identity(self, key: str) -> str:
        return self.address(key)

    def takes_turns(self) -> bool:
        return False  # a disk is not waited for

    def load(self) -> None:
        pass  # all is there

    def connect(self) -> None:
        if not self._root.is_dir():
            raise BucketError(f"there is no folder {self._root}: mount it, or create it")

    def stat(self, key: str) -> ObjectStat | None:
        try:
            found = os.stat(self._root / key)
        except FileNotFoundError:
            self.connect()
            return None
        except OSError as error:
            raise self._translated(error, key) from error
        return ObjectStat(key, found.st_size, _etag(found))

    def listed(self, prefix: str, after: str = "") -> tuple[list[ObjectStat], str]:
        raise UnsupportedError("in a folder each file is looked at")

    def can_replace(self, key: str) -> Replacing:
        return "parts"

    def put(self, key: str, oid: Oid, body: Body, replacing: str = "") -> bool:
        upload = self.begin(key, oid, len(body), replacing)
        try:
            upload.complete([upload.put_part(Part(1, 0, len(body)), body, "")], "")
        except DamagedError as error:
            raise TransientError(str(error), heard=True, last=error) from error
        finally:
            upload.abort()
        return True

    def begin(self, key: str, oid: Oid, size: int, replacing: str = "") -> "FolderUpload":
        self.connect()
        temporary = self._root / _UNFINISHED / f"{oid}-{os.urandom(8).hex()}"
        try:
            temporary.parent.mkdir(exist_ok=True)
            (self._root / key).parent.mkdir(parents=True, exist_ok=True)
            fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o444)
        except OSError as error:
            raise self._translated(error, key) from error
        return FolderUpload(self, key, oid, temporary, fd, replacing)

    def resume(
        self, key: str, size: int, token: str, replacing: str = ""
    ) -> "tuple[FolderUpload, list[StoredPart]] | None":
        return None  # its parts are in a file that nobody vouches for: to send it again costs a copy

    def fetch(self, key: str, start: int, stop: int, write: Write, etag: str = "") -> ObjectStat:
        try:
            fd = os.open(self._root / key, os.O_RDONLY)
        except FileNotFoundError:
            self.connect()
            raise MissingError(
                f"404: there is no {self.address(key)}; nobody has pushed it here, or it was deleted: "
                "see lfs-agent verify"
            ) from None
        except OSError as error:
            raise self._translated(error, key) from error
        try:
            found = os.fstat(fd)
            if etag and etag != _etag(found):
                raise DamagedError(f"{self.address(key)} was replaced while it was read")
            while start < stop and (chunk := self._read(fd, key, min(_BLOCK, stop - start), start)):
                write(start, chunk)
                start += len(chunk)
            return ObjectStat(key, found.st_size, _etag(found))
        finally:
            os.close(fd)

    def _read(self, fd: int, key: str, length: int, offset: int) -> bytes:
        try:
            return os.pread(fd, length, offset)
        except OSError as error:
            raise self._translated(error, key) from error

    @contextmanager
    def _held(self, key: str, etag: str) -> Iterator[None]:
        """For as long as the block lasts, nobody else replaces or deletes what is at the key, which has that etag.

        Raises ConflictError where it has not.
        """
        lock = self._root / _UNFINISHED / f"{key.rpartition('/')[2]}-replacing"
        lock.parent.mkdir(exist_ok=True)
        with lease(lock, threading.Event()):
            try:
                found = self.stat(key)
                if found is None or found.etag != etag:
                    raise ConflictError(f"{self.address(key)} is not the file that was judged any more")
                yield
            finally:
                lock.unlink(missing_ok=True)

    def _translated(self, error: OSError, key: str) -> AgentError:
        address = self.address(key)
        match error.errno:
            case errno.EACCES | errno.EPERM | errno.EROFS:
                return DeniedError(f"{address}: {error.strerror}; the folder's owner can give you the right")
            case errno.ENOSPC | errno.EDQUOT:
                return DiskError(f"the shared folder {self._root} is full")
            case errno.ESTALE | errno.EIO | errno.ETIMEDOUT | errno.EAGAIN:
                return TransientError(f"{address}: {error.strerror}")
        return DeniedError(f"{address}: {error.strerror}")


class FolderUploads:
    """The files in a store that are not whole yet: each belongs to the object that its name begins with.

    `key`: where an object lies.
    """

    def __init__(self, store: FolderStore, key: Callable[[Oid], str]) -> None:
        self._store = store
        self._folder = store._root / _UNFINISHED
        self._key = key

    def address(self, key: str) -> str:
        return self._store.address(key)

    def connect(self) -> None:
        self._store.connect()

    def listed(self, after: Marker | None) -> tuple[list[Unfinished], Marker | None]:
        try:
            names = sorted(os.listdir(self._folder))
        except FileNotFoundError:
            self.connect()
            names = []
        except OSError as error:
            raise self._store._translated(error, _UNFINISHED) from error
        return [Unfinished(self._key_of(name), name, None) for name in names], None

    def _key_of(self, name: str) -> str:
        try:
            return self._key(parse_oid(name.partition("-")[0]))
        except ValueError:
            return f"{_UNFINISHED}/{name}"

    def progress(self, upload: Unfinished) -> Progress | None:
        try:
            found = os.stat(self._folder / upload.upload_id)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._store._translated(error, upload.key) from error
        size = min(found.st_size, found.st_blocks * _STAT_BLOCK)  # it is written in any order, with holes
        return Progress(int(size > 0), size, found.st_mtime, max(0.0, time.time() - found.st_mtime))

    def abort(self, upload: Unfinished) -> None:
        try:
            (self._folder / upload.upload_id).unlink(missing_ok=True)
        except OSError as error:
            raise self._store._translated(error, upload.key) from error


class FolderStock:
    """All files in a store that are whole; its clock is that of the machine that has the disk."""

    def __init__(self, store: FolderStore) -> None:
        self._store = store
        self._ahead_s = 0.0

    def address(self, key: str) -> str:
        return self._store.address(key)

    def connect(self) -> None:
        self._store.connect()
        clock = self._store._root / _UNFINISHED / f"clock-{os.urandom(8).hex()}"
        try:
            clock.parent.mkdir(exist_ok=True)
            clock.touch()
            self._ahead_s = clock.stat().st_mtime - time.time()
            clock.unlink()
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):  # who may only look judges by our clock
                raise self._store._translated(error, _UNFINISHED) from error

    def now(self) -> float:
        return time.time() + self._ahead_s

    def listed(self, prefix: str, after: str = "") -> tuple[list[Stored], str]:
        """First the files of the folder itself, then those in and below each of its folders, by name."""
        top = self._store._root / prefix
        try:
            folders = sorted(entry.name for entry in os.scandir(top) if entry.is_dir(follow_symlinks=False))
        except FileNotFoundError:
            self._store.connect()
            return [], ""
        except OSError as error:
            raise self._store._translated(error, prefix) from error
        following = next((name for name in folders if name > after and name != _UNFINISHED), "")
        found = [each for path in _files(top / after, deep=bool(after)) if (each := self.look(path))]
        return found, following

    def look(self, key: str | Path) -> Stored | None:
        path = self._store._root / key
        try:
            found = os.lstat(path)
        except FileNotFoundError:
            self._store.connect()
            return None
        except OSError as error:
            raise self._store._translated(error, str(key)) from error
        if not stat.S_ISREG(found.st_mode):
            return None
        name = path.relative_to(self._store._root).as_posix()
        return Stored(name, found.st_size, _etag(found), int(found.st_mtime))

    def delete(self, key: str, etag: str) -> bool:
        path = self._store._root / key
        try:
            with self._store._held(key, etag):
                path.unlink()
            _sync_folder(path.parent)
        except OSError as error:
            raise self._store._translated(error, key) from error
        return False


def _files(folder: Path, *, deep: bool) -> Iterator[Path]:
    """The files in a folder, and in all below it where it is `deep`. Raises OSError: what is not seen is not known."""

    def fail(error: OSError) -> None:
        raise error

    for place, _, names in os.walk(folder, onerror=fail):
        yield from (Path(place, name) for name in names)
        if not deep:
            return


class FolderUpload:
    """A file with a name of its own, linked to the key when it is whole: a kill publishes nothing."""

    def __init__(self, store: FolderStore, key: str, oid: Oid, temporary: Path, fd: int, replacing: str) -> None:
        self._store = store
        self._replacing = replacing
        self._key = key
        self._oid = oid
        self._temporary = temporary
        self._fd = fd

    token: Final = ""

    def put_part(self, part: Part, body: Body, crc32c: str) -> SentPart:
        body.seek(0)
        body.sending()
        offset = part.offset
        try:
            while block := body.read(_BLOCK):
                offset = _write(self._fd, block, offset)
        except OSError as error:
            raise self._store._translated(error, self._key) from error
        return SentPart(part, "", crc32c)

    def _prove(self) -> None:
        """Sees to it that the disk has what was sent, and reads it back.

        Raises DamagedError where it is not the object. A failed fsync is final: a second one would hide it.
        """
        try:
            os.fsync(self._fd)
        except OSError as error:
            raise DamagedError(f"{self._temporary} was not written: {error.strerror}; push again") from error
        digest, offset = hashlib.sha256(), 0
        while block := self._store._read(self._fd, self._key, _BLOCK, offset):
            digest.update(block)
            offset += len(block)
        if digest.hexdigest() != self._oid:
            raise DamagedError(
                f"{self._temporary} does not read back as it was written; nothing was stored: push again"
            )

    def complete(self, parts: Sequence[SentPart], crc32c: str) -> None:
        path = self._store._root / self._key
        self._prove()
        try:
            if self._replacing:
                self._replace(path)
            else:
                _publish(self._temporary, path)
            _sync_folder(path.parent)
        except FileExistsError:
            raise ConflictError(f"{path} is there already") from None
        except FileNotFoundError:
            raise ConflictError(f"{self._temporary} is gone: somebody has cleaned up") from None
        except OSError as error:
            raise self._store._translated(error, self._key) from error
        with suppress(AgentError):  # it is published; its other name is in nobody's way
            self.abort()

    def _replace(self, path: Path) -> None:
        """Gives the file the name of the one that was judged."""
        with self._store._held(self._key, self._replacing):
            self._temporary.replace(path)

    def abort(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            try:
                self._temporary.unlink(missing_ok=True)
            except OSError as error:
                raise self._store._translated(error, self._key) from error


def _etag(found: os.stat_result) -> str:
    return f"{found.st_ino:x}-{found.st_mtime_ns:x}-{found.st_size:x}"


def _publish(temporary: Path, path: Path) -> None:
    """Gives the file its name, unless the name is taken."""
    try:
        os.link(temporary, path)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK):
            raise
        if path.exists():  # a file system without links (exFAT, some SMB shares): the next best there is
            raise FileExistsError(path) from None
        os.rename(temporary, path)


def _write(fd: int, block: bytes, offset: int) -> int:
    """Writes all of the block, in as many calls as it takes; the offset behind it."""
    left = memoryview(block)
    while left:
        written = os.pwrite(fd, left, offset)
        left, offset = left[written:], offset + written
    return offset


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some file systems sync no folders
            raise
    finally:
        os.close(fd)
