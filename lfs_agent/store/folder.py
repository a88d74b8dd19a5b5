"""`FolderStore`: objects as files in a folder that several machines may share, by the standard library alone."""

import errno
import hashlib
import os
import stat
import sys
import threading
from collections.abc import Iterator, Sequence
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
    StoppedError,
    TransientError,
    UnsupportedError,
)
from lfs_agent.layout import RESERVED
from lfs_agent.lease import FULL, about_link, lease
from lfs_agent.parts import MIB, Part
from lfs_agent.pointer import Oid
from lfs_agent.session import Moment
from lfs_agent.store import (
    Body,
    ObjectStat,
    Replacing,
    SentPart,
    StoredPart,
    Write,
)

_BLOCK: Final = MIB
UNFINISHED: Final = "lfs-agent-unfinished"
"""The folder of what is not whole yet, and of locks."""
LOST: Final = "lost+found"
"""What a new file system has at its root: root's own, and nobody's objects."""
_KINDS: Final = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
_AT_ONCE: Final = getattr(os, "O_NONBLOCK", 0)
"""To open a pipe waits for a writer without that; of a file it changes nothing."""
_FOLDER: Final = getattr(os, "O_PATH", os.O_RDONLY) | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0)
"""To open a folder itself, on macOS one that may be read, but no link to one."""
_AT_FDCWD: Final = -100
_RENAME_NOREPLACE: Final = 1
"""Both of Linux, for renameat2."""
_HELD_FOR_S: Final = 60.0
"""A file is renamed or deleted at once: who holds its lock for so long was suspended, or has lost the share."""


class FolderStore:
    """A Store below `root`, where something must be: an unmounted share is not an empty store."""

    def __init__(self, root: Path) -> None:
        self.root: Final = root

    def address(self, key: str) -> str:
        return str(self.root / key)

    def identity(self, key: str) -> str:
        return self.address(key)

    def takes_turns(self) -> bool:
        return False  # a disk is not waited for

    def load(self) -> None:
        pass  # all is there

    def connect(self) -> None:
        if self.is_empty():
            raise BucketError(
                f"{self.root} is empty: mount the share; or, where it is to be a new store: {self._creation()}"
            )

    def _creation(self) -> str:
        from shlex import quote  # here: mostly nobody needs it

        return f"mkdir -p {quote(str(self.root / RESERVED))}"

    def create(self) -> bool:
        """Makes an empty folder a store; False where something is in it already. Raises BucketError, DeniedError."""
        if not self.is_empty():
            return False
        try:
            self.make(self.root / RESERVED)
        except OSError as error:
            raise self.translated(error, RESERVED) from error
        return True

    def is_empty(self) -> bool:
        """Whether nothing is in the folder, as in one to which nothing is mounted. Raises BucketError."""
        try:
            if (self.root / RESERVED).is_dir():  # one question, however much there is
                return False
            with os.scandir(self.root) as entries:
                return all(entry.name == LOST for entry in entries)
        except (FileNotFoundError, NotADirectoryError):
            raise BucketError(f"there is no folder {self.root}: mount it, or create it ({self._creation()})") from None
        except PermissionError as error:
            raise BucketError(
                f"the shared folder {self.root}: {error.strerror}; its owner, or that of a folder above it, can give "
                "you the right"
            ) from error
        except OSError as error:
            raise BucketError(f"the shared folder {self.root}: {error.strerror}; mount it anew") from error

    def make(self, folder: Path) -> None:
        """Makes a folder, and what is missing above it, for all who may use the share. Raises OSError."""
        if folder == self.root or folder.is_dir():
            return
        self.make(folder.parent)
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
            wanted = mode | stat.S_IMODE(os.stat(self.root).st_mode) & most
            if wanted != mode:
                os.chmod(made, wanted)

    def stat(self, key: str) -> ObjectStat | None:
        try:
            found = os.stat(self.root / key)
        except FileNotFoundError:
            self._check_missing(key)
            return None
        except OSError as error:
            raise self.translated(error, key) from error
        return self._file(key, found)

    def _check_missing(self, key: str) -> None:
        """Raises what is wrong where more than the object is missing: BucketError, or ObjectError for a link."""
        self.connect()
        if (self.root / key).is_symlink():
            raise ObjectError(f"{self.address(key)} is a link that leads nowhere: look at it, and move it away")

    def _file(self, key: str, found: os.stat_result) -> ObjectStat:
        """What is at the key. Raises ObjectError where that is no file: to read it could take for ever."""
        if not stat.S_ISREG(found.st_mode):
            kind = _KINDS.get(stat.S_IFMT(found.st_mode), "a device")
            raise ObjectError(f"{self.address(key)} is {kind}, and no file: look at it, and move it away")
        return ObjectStat(key, found.st_size, etag_of(found))

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
        temporary = self.root / UNFINISHED / f"{oid}-{os.urandom(8).hex()}"
        try:
            self.make(temporary.parent)
            self.make((self.root / key).parent)
            fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o444)
        except OSError as error:
            raise self.translated(error, key) from error
        self._open_up(fd, 0o444)
        return FolderUpload(self, key, oid, temporary, fd, replacing)

    def resume(
        self, key: str, size: int, token: str, replacing: str = ""
    ) -> "tuple[FolderUpload, list[StoredPart]] | None":
        return None  # its parts are in a file that nobody vouches for: to send it again costs a copy

    def fetch(self, key: str, start: int, stop: int, write: Write, etag: str = "") -> ObjectStat:
        try:
            fd = os.open(self.root / key, os.O_RDONLY | _AT_ONCE)
        except FileNotFoundError:
            self._check_missing(key)
            raise MissingError(
                f"404: there is no {self.address(key)}; nobody has pushed it here, or it was deleted: "
                "see lfs-agent verify"
            ) from None
        except OSError as error:
            raise self.translated(error, key) from error
        try:
            found = self._file(key, self._opened(fd, key))
            if etag and etag != found.etag:
                raise DamagedError(f"{self.address(key)} was replaced while it was read")
            while start < stop and (chunk := self.read(fd, key, min(_BLOCK, stop - start), start)):
                write(start, chunk)
                start += len(chunk)
            return found
        finally:
            os.close(fd)

    def _opened(self, fd: int, key: str) -> os.stat_result:
        try:
            return os.fstat(fd)
        except OSError as error:  # over NFS: another machine has just put a new file in its place
            raise self.translated(error, key) from error

    def read(self, fd: int, key: str, length: int, offset: int) -> bytes:
        """At most so many bytes of an open file; b"" at its end."""
        try:
            return os.pread(fd, length, offset)
        except OSError as error:
            raise self.translated(error, key) from error

    @contextmanager
    def inside(self, folder: Path) -> Iterator[int]:
        """A folder of the store, open until the end of the block: it is one, and not what a link on the way leads to.

        Who shares the store could have files deleted by such a link that lie elsewhere, and are another user's.

        Raises ObjectError for a link, OSError.
        """
        fd, way = os.open(self.root.resolve(), _FOLDER), self.root
        try:
            for name in folder.relative_to(self.root).parts:
                way /= name
                fd = self._entered(fd, name, way)
            yield fd
        finally:
            os.close(fd)

    def _entered(self, fd: int, name: str, way: Path) -> int:
        """The folder in an open one, in its place."""
        try:
            inner = os.open(name, _FOLDER, dir_fd=fd)
        except OSError:
            if not way.is_symlink():
                raise
            raise ObjectError(about_link(way)) from None
        os.close(fd)
        return inner

    @contextmanager
    def held(self, key: str, etag: str) -> Iterator[None]:
        """For as long as the block lasts, nobody else replaces or deletes what is at the key, which has that etag.

        Raises ConflictError where it has not; ObjectError where that can't be had soon.
        """
        lock = self.root / UNFINISHED / f"{key.rpartition('/')[2]}-replacing"
        self.connect()
        self.make(lock.parent)
        asked = Moment.now()
        with self._locked(lock):
            try:
                found = self.stat(key)
                if found is None or found.etag != etag:
                    raise ConflictError(f"{self.address(key)} is not the file that was judged any more")
                if asked.elapsed_s > _HELD_FOR_S:  # this machine slept: others count on it that no deletion comes late
                    raise self._busy(lock)
                yield
            finally:
                lock.unlink(missing_ok=True)

    @contextmanager
    def _locked(self, lock: Path) -> Iterator[None]:
        with ExitStack() as stack:
            try:
                held = stack.enter_context(lease(lock, threading.Event(), longest_s=_HELD_FOR_S))
            except DiskError as error:  # said as of a file in the LFS storage
                raise self._unlocked(lock, error) from error
            except StoppedError:
                raise self._busy(lock) from None
            self._open_up(held.fd, 0o666)
            yield

    def _busy(self, lock: Path) -> ObjectError:
        return ObjectError(
            f"{lock}: it took too long to get this lock: another repair or gc at work there is suspended, or this "
            "machine slept; nothing was done to the object: look who is at work, and try again"
        )

    def _unlocked(self, lock: Path, error: DiskError) -> AgentError:
        cause = error.__cause__
        if not isinstance(cause, OSError) or cause.errno in (errno.EMFILE, errno.ENFILE):
            return error
        if isinstance(cause, PermissionError) and os.path.lexists(lock):
            return ObjectError(
                f"{lock}: {cause.strerror}; another user's repair or gc is at work there, or was killed: when it is "
                "certain that none is, delete it, or let lfs-agent uploads --abort --older-than 1h do that"
            )
        return self.translated(cause, f"{UNFINISHED}/{lock.name}")

    def translated(self, error: OSError, key: str) -> AgentError:
        """Our error for what the system says of what is at the key."""
        if error.errno in FULL:
            return DiskError(
                f"the shared folder {self.root} is full: make room; what killed pushes have left there, "
                "lfs-agent uploads --abort --older-than 7d gives up"
            )
        if error.errno == errno.EROFS:
            return BucketError(f"the shared folder {self.root} can only be read: {error.strerror}")
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
            raise self._store.translated(error, self._key) from error
        return SentPart(part, "", crc32c)

    def _prove(self) -> None:
        """Sees to it that the disk has what was sent, and reads it back.

        Raises DamagedError where it is not the object. A failed fsync is final: a second one would hide it.
        """
        try:
            os.fsync(self._fd)
        except OSError as error:
            if error.errno in FULL:  # over NFS the server says so only now
                raise self._store.translated(error, self._key) from error
            raise DamagedError(f"{self._temporary} was not written: {error.strerror}; push again") from error
        digest, offset = hashlib.sha256(), 0
        while block := self._store.read(self._fd, self._key, _BLOCK, offset):
            digest.update(block)
            offset += len(block)
        if digest.hexdigest() != self._oid:
            raise DamagedError(
                f"{self._temporary} does not read back as it was written; nothing was stored: push again"
            )

    def complete(self, parts: Sequence[SentPart], crc32c: str) -> None:
        path = self._store.root / self._key
        self._prove()
        try:
            if self._replacing:
                self._replace(path)
            else:
                _publish(self._temporary, path)
            sync_folder(path.parent)
        except FileExistsError:
            raise ConflictError(f"{path} is there already") from None
        except FileNotFoundError:
            raise ConflictError(f"{self._temporary} is gone: somebody has cleaned up") from None
        except OSError as error:
            raise self._store.translated(error, self._key) from error
        with suppress(AgentError):  # it is published; its other name is in nobody's way
            self.abort()

    def _replace(self, path: Path) -> None:
        """Gives the file the name of the one that was judged."""
        with self._store.held(self._key, self._replacing):
            self._temporary.replace(path)

    def abort(self) -> None:
        if self._fd >= 0:
            fd, self._fd = self._fd, -1  # whatever comes of it: its number may be another file's at once
            with suppress(OSError):  # over NFS a late word on what was written, which nobody wants any more
                os.close(fd)
            try:
                self._temporary.unlink(missing_ok=True)
            except OSError as error:
                raise self._store.translated(error, self._key) from error


def etag_of(found: os.stat_result) -> str:
    return f"{found.st_ino:x}-{found.st_mtime_ns:x}-{found.st_size:x}"


def _publish(temporary: Path, path: Path) -> None:
    """Gives the file its name, unless the name is taken."""
    try:
        os.link(temporary, path)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK):
            raise
        _rename(temporary, path)  # a file system without links: exFAT, some SMB shares


def _rename(temporary: Path, path: Path) -> None:
    """As `_publish`: in one step where the system knows how, else as well as can be."""
    if sys.platform == "linux":
        import ctypes  # here: mostly nobody needs it

        names = os.fsencode(temporary), os.fsencode(path)
        if rename := getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None):
            if rename(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_NOREPLACE) == 0:
                return
            number = ctypes.get_errno()
            if number not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EPERM):  # else it is not to be had here
                raise OSError(number, os.strerror(number), str(temporary), None, str(path))
    if os.path.lexists(path):
        raise FileExistsError(path)
    os.rename(temporary, path)


def _write(fd: int, block: bytes, offset: int) -> int:
    """Writes all of the block, in as many calls as it takes; the offset behind it."""
    left = memoryview(block)
    while left:
        written = os.pwrite(fd, left, offset)
        left, offset = left[written:], offset + written
    return offset


def sync_folder(folder: Path) -> None:
    """Sees to it that the disk has the names in a folder. Raises OSError."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some file systems sync no folders
            raise
    finally:
        os.close(fd)
