"""`FolderStock`, `FolderUploads`: all that lies in a shared folder, whole or not, by its own clock."""

import errno
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from lfs_agent.errors import DiskError
from lfs_agent.pointer import Oid, parse_oid
from lfs_agent.session import Moment
from lfs_agent.store import Marker, Progress, Stored, Unfinished
from lfs_agent.store.folder import LOST, UNFINISHED, FolderStore, etag_of, sync_folder

_STAT_BLOCK: Final = 512
"""Bytes: the unit of st_blocks."""


class _Clock:
    """That of the machine that has the disk; ours, until it was read.

    From there on it goes by time.monotonic(): ours may be set meanwhile, by days where it was wrong.
    """

    def __init__(self, store: FolderStore) -> None:
        self._store = store
        self._read = Moment.now()

    def read(self) -> None:
        """Looks at it, by a file that is made for that; after `FolderStore.connect`."""
        file = self._store.root / UNFINISHED / f"clock-{os.urandom(8).hex()}"
        found = Moment.now()
        try:
            self._store.make(file.parent)
            file.touch()
            found = Moment(file.stat().st_mtime, time.monotonic())
            file.unlink()
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):  # who may only look judges by our clock
                raise self._store.translated(error, UNFINISHED) from error
        self._read = found  # also where a share lets us add files, and delete none

    def now(self) -> float:
        return self._read.wall + time.monotonic() - self._read.monotonic


class FolderUploads:
    """The files in a store that are not whole yet: each belongs to the object that its name begins with.

    `key`: where an object lies.
    """

    def __init__(self, store: FolderStore, key: Callable[[Oid], str]) -> None:
        self._store = store
        self._folder = store.root / UNFINISHED
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
            with self._store.inside(self._folder):
                names = sorted(os.listdir(self._folder))
        except FileNotFoundError:
            self.connect()
            names = []
        except OSError as error:
            raise self._store.translated(error, UNFINISHED) from error
        return [Unfinished(self._key_of(name), name, None) for name in names], None

    def _key_of(self, name: str) -> str:
        try:
            return self._key(parse_oid(name.partition("-")[0]))
        except ValueError:
            return f"{UNFINISHED}/{name}"

    def progress(self, upload: Unfinished) -> Progress | None:
        try:
            found = os.stat(self._folder / upload.upload_id)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._store.translated(error, upload.key) from error
        size = min(found.st_size, found.st_blocks * _STAT_BLOCK)  # it is written in any order, with holes
        return Progress(int(size > 0), size, found.st_mtime, max(0.0, self._clock.now() - found.st_mtime))

    def abort(self, upload: Unfinished) -> None:
        try:
            with suppress(FileNotFoundError), self._store.inside(self._folder) as folder:
                os.unlink(upload.upload_id, dir_fd=folder)
        except OSError as error:
            raise self._store.translated(error, upload.key) from error


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
        top = self._store.root / prefix
        try:
            with self._store.inside(top):
                folders = sorted(entry.name for entry in os.scandir(top) if entry.is_dir(follow_symlinks=False))
        except FileNotFoundError:
            self._store.connect()
            return [], ""
        except OSError as error:
            raise self._store.translated(error, prefix) from error
        following = next((name for name in folders if name > after and name not in (UNFINISHED, LOST)), "")
        try:
            found = [each for path in _files(top / after, deep=bool(after)) if (each := self.look(path))]
        except OSError as error:
            raise self._store.translated(error, f"{prefix}{after}") from error
        return found, following

    def look(self, key: str | Path) -> Stored | None:
        path = self._store.root / key
        try:
            found = os.lstat(path)
        except FileNotFoundError:
            self._store.connect()
            return None
        except OSError as error:
            raise self._store.translated(error, str(key)) from error
        if not stat.S_ISREG(found.st_mode):
            return None
        name = path.relative_to(self._store.root).as_posix()
        return Stored(name, found.st_size, etag_of(found), int(found.st_mtime))

    def delete(self, key: str, etag: str) -> bool:
        path = self._store.root / key
        try:
            with self._store.held(key, etag), self._store.inside(path.parent) as folder:
                os.unlink(path.name, dir_fd=folder)
            sync_folder(path.parent)
        except OSError as error:
            raise self._store.translated(error, key) from error
        return False


def _files(folder: Path, *, deep: bool) -> Iterator[Path]:
    """The files in a folder, and in all below it where it is `deep`. Raises OSError: what is not seen is not known."""

    def fail(error: OSError) -> None:
        raise error

    for place, _, names in os.walk(folder, onerror=fail):
        yield from (Path(place, name) for name in names)
        if not deep:
            return
