"""`FolderStore`: objects as files in a folder that several machines may share, by the standard library alone."""

import errno
import hashlib
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
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
    ObjectError,
    TransientError,
    UnsupportedError,
)
from lfs_agent.layout import RESERVED
from lfs_agent.lease import FULL, lease
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
_LOST: Final = "lost+found"
"""What a new file system has at its root: root's own, and nobody's objects."""
_KINDS: Final = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
_AT_ONCE: Final = getattr(os, "O_NONBLOCK", 0)
"""To open a pipe waits for a writer without that; of a file it changes nothing."""
_STAT_BLOCK: Final = 512
"""Bytes: the unit of st_blocks."""


class FolderStore:
    """A Store below `root`, where something must be: an unmounted share is not an empty store."""

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
        if self.is_empty():
            raise BucketError(
                f"{self._root} is empty: mount the share; or, where it is to be a new store: {self._creation()}"
            )

    def _creation(self) -> str:
        from shlex import quote  # here: mostly nobody needs it

        return f"mkdir -p {quote(str(self._root / RESERVED))}"

    def create(self) -> bool:
        """Makes an empty folder a store; False where something is in it already. Raises BucketError, DeniedError."""
        if not self.is_empty():
            return False
        try:
            self._make(self._root / RESERVED)
        except OSError as error:
            raise self._translated(error, RESERVED) from error
        return True

    def is_empty(self) -> bool:
        """Whether nothing is in the folder, as in one to which nothing is mounted. Raises BucketError."""
        try:
            if (self._root / RESERVED).is_dir():  # one question, however much there is
                return False
            with os.scandir(self._root) as entries:
                return all(entry.name == _LOST for entry in entries)
        except (FileNotFoundError, NotADirectoryError):
            raise BucketError(f"there is no folder {self._root}: mount it, or create it ({self._creation()})") from None
        except PermissionError as error:
            raise BucketError(
                f"the shared folder {self._root}: {error.strerror}; its owner, or that of a folder above it, can give "
                "you the right"
            ) from error
        except OSError as error:
            raise BucketError(f"the shared folder {self._root}: {error.strerror}; mount it anew") from error

    def _make(self, folder: Path) -> None:
        """Makes a folder, and what is missing above it, for all who may use the share. Raises OSError."""
        if folder == self._root or folder.is_dir():
            return
        self._make(folder.parent)
        try:
            folder.mkdir()
        except FileExistsError:
            if not folder.is_dir():  # else somebody was faster
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder)) from None
        else:
            self._open_up(folder, 0o1777)

    def _open_up(self, made: Path | int, most: int) -> None:
        """Gives what this user has made the rights of the share's root, as far as `most` has them.

        They come to those that the umask has left: with that alone, what one user makes may be closed to the next.
        """
        with suppress(OSError):  # a file system that knows no modes, or a lock that another user has left
            mode = stat.S_IMODE(os.stat(made).st_mode)
            wanted = mode | stat.S_IMODE(os.stat(self._root).st_mode) & most
            if wanted != mode:
                os.chmod(made, wanted)

    def stat(self, key: str) -> ObjectStat | None:
        try:
            found = os.stat(self._root / key)
        except FileNotFoundError:
            self._check_missing(key)
            return None
        except OSError as error:
            raise self._translated(error, key) from error
        return self._file(key, found)

    def _check_missing(self, key: str) -> None:
        """Raises what is wrong where more than the object is missing: BucketError, or ObjectError for a link."""
        self.connect()
        if (self._root / key).is_symlink():
            raise ObjectError(f"{self.address(key)} is a link that leads nowhere: look at it, and move it away")

    def _file(self, key: str, found: os.stat_result) -> ObjectStat:
        """What is at the key. Raises ObjectError where that is no file: to read it could take for ever."""
        if not stat.S_ISREG(found.st_mode):
            kind = _KINDS.get(stat.S_IFMT(found.st_mode), "a device")
            raise ObjectError(f"{self.address(key)} is {kind}, and no file: look at it, and move it away")
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
            self._make(temporary.parent)
            self._make((self._root / key).parent)
            fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o444)
        except OSError as error:
            raise self._translated(error, key) from error
        self._open_up(fd, 0o444)
        return FolderUpload(self, key, oid, temporary, fd, replacing)

    def resume(
        self, key: str, size: int, token: str, replacing: str = ""
    ) -> "tuple[FolderUpload, list[StoredPart]] | None":
        return None  # its parts are in a file that nobody vouches for: to send it again costs a copy

    def fetch(self, key: str, start: int, stop: int, write: Write, etag: str = "") -> ObjectStat:
        try:
            fd = os.open(self._root / key, os.O_RDONLY | _AT_ONCE)
        except FileNotFoundError:
            self._check_missing(key)
            raise MissingError(
                f"404: there is no {self.address(key)}; nobody has pushed it here, or it was deleted: "
                "see lfs-agent verify"
            ) from None
        except OSError as error:
            raise self._translated(error, key) from error
        try:
            found = self._file(key, self._opened(fd, key))
            if etag and etag != found.etag:
                raise DamagedError(f"{self.address(key)} was replaced while it was read")
            while start < stop and (chunk := self._read(fd, key, min(_BLOCK, stop - start), start)):
                write(start, chunk)
                start += len(chunk)
            return found
        finally:
            os.close(fd)

    def _opened(self, fd: int, key: str) -> os.stat_result:
        try:
            return os.fstat(fd)
        except OSError as error:  # over NFS: another machine has just put a new file in its place
            raise self._translated(error, key) from error

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
        self.connect()
        self._make(lock.parent)
        with self._locked(lock):
            try:
                found = self.stat(key)
                if found is None or found.etag != etag:
                    raise ConflictError(f"{self.address(key)} is not the file that was judged any more")
                yield
            finally:
                lock.unlink(missing_ok=True)

    @contextmanager
    def _locked(self, lock: Path) -> Iterator[None]:
        with ExitStack() as stack:
            try:
                held = stack.enter_context(lease(lock, threading.Event()))
            except DiskError as error:  # said as of a file in the LFS storage
                raise self._unlocked(lock, error) from error
            self._open_up(held.fd, 0o666)
            yield

    def _unlocked(self, lock: Path, error: DiskError) -> AgentError:
        cause = error.__cause__
        if not isinstance(cause, OSError) or cause.errno in (errno.EMFILE, errno.ENFILE):
            return error
        if isinstance(cause, PermissionError) and os.path.lexists(lock):
            return ObjectError(
                f"{lock}: {cause.strerror}; another user's repair or gc is at work there, or was killed: when it is "
                "certain that none is, delete it, or let lfs-agent uploads --abort --older-than 1h do that"
            )
        return self._translated(cause, f"{_UNFINISHED}/{lock.name}")

    def _translated(self, error: OSError, key: str) -> AgentError:
        if error.errno in FULL:
            return DiskError(
                f"the shared folder {self._root} is full: make room; what killed pushes have left there, "
                "lfs-agent uploads --abort --older-than 7d gives up"
            )
        if error.errno == errno.EROFS:
            return BucketError(f"the shared folder {self._root} can only be read: {error.strerror}")
        try:
            self.connect()
        except BucketError as lost:  # it is not about this key
            return lost
        where = error.filename2 or error.filename or self.address(key)
        match error.errno:
            case errno.EACCES | errno.EPERM:
                return DeniedError(f"{where}: {error.strerror}; the folder's owner can give you the right")
            case errno.ESTALE | errno.EIO | errno.ETIMEDOUT | errno.EAGAIN:
                return TransientError(f"{where}: {error.strerror}")
        return DeniedError(f"{where}: {error.strerror}")


class _Clock:
    """That of the machine that has the disk; ours, until it was read."""

    def __init__(self, store: FolderStore) -> None:
        self._store = store
        self._ahead_s = 0.0

    def read(self) -> None:
        """Looks at it, by a file that is made for that; after `FolderStore.connect`."""
        file = self._store._root / _UNFINISHED / f"clock-{os.urandom(8).hex()}"
        try:
            self._store._make(file.parent)
            file.touch()
            self._ahead_s = file.stat().st_mtime - time.time()
            file.unlink()
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):  # who may only look judges by our clock
                raise self._store._translated(error, _UNFINISHED) from error

    def now(self) -> float:
        return time.time() + self._ahead_s


class FolderUploads:
    """The files in a store that are not whole yet: each belongs to the object that its name begins with.

    `key`: where an object lies.
    """

    def __init__(self, store: FolderStore, key: Callable[[Oid], str]) -> None:
        self._store = store
        self._folder = store._root / _UNFINISHED
        self._key = key
        self._clock = _Clock(store)

    def address(self, key: str) -> str:
        return self._store.address(key)

    def connect(self) -> None:
        self._store.connect()
        with suppress(DiskError):  # this is what makes room again
            self._clock.read()

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
        return Progress(int(size > 0), size, found.st_mtime, max(0.0, self._clock.now() - found.st_mtime))

    def abort(self, upload: Unfinished) -> None:
        try:
            (self._folder / upload.upload_id).unlink(missing_ok=True)
        except OSError as error:
            raise self._store._translated(error, upload.key) from error


class FolderStock:
    """All files in a store that are whole."""

    def __init__(self, store: FolderStore) -> None:
        self._store = store
        self._clock = _Clock(store)

    def address(self, key: str) -> str:
        return self._store.address(key)

    def connect(self) -> None:
        self._store.connect()
        self._clock.read()

    def now(self) -> float:
        return self._clock.now()

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
        following = next((name for name in folders if name > after and name not in (_UNFINISHED, _LOST)), "")
        try:
            found = [each for path in _files(top / after, deep=bool(after)) if (each := self.look(path))]
        except OSError as error:
            raise self._store._translated(error, f"{prefix}{after}") from error
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
            if error.errno in FULL:  # over NFS the server says so only now
                raise self._store._translated(error, self._key) from error
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
            fd, self._fd = self._fd, -1  # whatever comes of it: its number may be another file's at once
            with suppress(OSError):  # over NFS a late word on what was written, which nobody wants any more
                os.close(fd)
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
        if os.path.lexists(path):  # a file system without links (exFAT, some SMB shares): the next best there is
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
