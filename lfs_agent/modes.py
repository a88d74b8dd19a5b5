"""`Modes`: files and folders that whoever shares the repository can go on with, as `core.sharedRepository` says."""

import os
import stat
from contextlib import suppress
from os import PathLike
from pathlib import Path
from typing import Final, NamedTuple

StrPath = str | PathLike[str]
"""A path as os takes it: where each object has some, to build a Path costs more than to use it."""

_NO_LINK: Final = getattr(os, "O_NOFOLLOW", 0)


class Modes(NamedTuple):
    """The mode of each new file, `file`; None: the umask decides."""

    file: int | None = None

    @property
    def folder(self) -> int | None:
        """The mode of each new folder: who may read may also enter, as git itself has it."""
        return None if self.file is None else self.file | (self.file & 0o444) >> 2

    def make(self, folder: Path) -> None:
        """Makes the folder, and what is missing above it. Raises OSError."""
        if self.folder is None:
            folder.mkdir(parents=True, exist_ok=True)
        elif not folder.is_dir():
            self.make(folder.parent)
            folder.mkdir(exist_ok=True)
            with suppress(PermissionError):  # another user was faster
                folder.chmod(folder.stat().st_mode & stat.S_ISGID | self.folder)

    def open(self, path: StrPath, flags: int, *, links: bool = False) -> int:
        """An open file, made where it is missing, in a folder of the kind. Raises OSError, ELOOP for a link.

        Who shares the folder could lead us by one to a file of ours, to be overwritten; `links` are nobody else's.
        """
        flags |= os.O_CREAT | (0 if links else _NO_LINK)
        try:
            fd = os.open(path, flags, 0o666)
        except FileNotFoundError:
            self.make(Path(path).parent)
            fd = os.open(path, flags, 0o666)
        self.set(fd)
        return fd

    def set(self, fd: int) -> None:
        """Gives an open file the mode; one of another user has it already, or a file system knows none."""
        if self.file is not None:
            with suppress(PermissionError):
                os.fchmod(fd, self.file)

    def replace(self, path: Path, text: str) -> None:
        """Puts a file with this text in the place of what is at `path`, whole or not at all. Raises OSError."""
        temporary = path.with_name(f"{path.name}.{os.getpid()}")
        try:
            with os.fdopen(self.open(temporary, os.O_WRONLY | os.O_TRUNC), "w") as file:
                file.write(text)
            temporary.replace(path)
        except OSError:
            with suppress(OSError):
                temporary.unlink()
            raise


UMASK: Final = Modes()
"""For what nobody shares."""
