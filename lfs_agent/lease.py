"""`lease`: one process at a time may work on a file, and it is the file that is at the path now."""

import errno
import math
import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple

from lfs_agent.errors import DiskError, StoppedError
from lfs_agent.modes import UMASK, Modes, StrPath

FULL: Final = (errno.ENOSPC, errno.EDQUOT)
"""What a disk without room says, and a user's quota."""

_OWN: Final = os.O_RDWR | getattr(os, "O_NOFOLLOW", 0)
"""Who shares an LFS storage could put a link where our file will be, and another one of the user's would be written."""

_POLL_S: Final = (0.005, 0.1)
"""Between two looks, the first and the last: most are held for a request or two, some for a whole upload."""

if sys.platform == "win32":  # pragma: no cover

    def _try_lock(fd: int) -> bool:
        import msvcrt

        try:
            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True
else:

    def _try_lock(fd: int) -> bool:
        import fcntl

        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:  # some parallel file systems, as they are mounted
            raise DiskError(
                f"files of the LFS storage cannot be locked ({error.strerror}): mount its file system with flock, or "
                "let lfs.storage name a folder on another one"
            ) from error
        return True


class Held(NamedTuple):
    """An open file that nobody else holds; `waited`: somebody did before."""

    fd: int
    waited: bool


@contextmanager
def lease(path: StrPath, stop: threading.Event, modes: Modes = UMASK, longest_s: float = math.inf) -> Iterator[Held]:
    """The file at `path`, made where it is missing, held by nobody else until the end of the block.

    The kernel lets go of it when the process ends, however it ends. Waits for another holder, no longer
    than `longest_s`.

    Raises StoppedError while waiting, and after that; DiskError where the file can't be made or locked.
    """
    fd, waited, until = -1, False, time.monotonic() + longest_s
    poll_s, longest_poll_s = _POLL_S
    try:
        while fd < 0:
            fd = open_own(path, modes)
            while not (held := _try_lock(fd)) and _is_at(fd, path):
                waited = True
                if stop.wait(poll_s) or time.monotonic() > until:
                    raise StoppedError("stopped while another process works on the same object")
                poll_s = min(2 * poll_s, longest_poll_s)
            if not held or not _is_at(fd, path):  # its last holder has moved it away, and is done
                os.close(fd)
                fd = -1
        yield Held(fd, waited)
    finally:
        if fd >= 0:
            os.close(fd)


@contextmanager
def lease_if_possible(path: StrPath | None, stop: threading.Event, modes: Modes = UMASK) -> Iterator[Held | None]:
    """As `lease`; None without a path, and where the file can't be made or locked: what needs no room goes on, alone.

    Raises StoppedError.
    """
    with ExitStack() as stack:
        held = None
        if path is not None:
            with suppress(DiskError):
                held = stack.enter_context(lease(path, stop, modes))
        yield held


def take(path: StrPath) -> int | None:
    """The open file at `path`, held, as by `lease`, where nobody else holds it; else None.

    Raises OSError, and DiskError where it can't be locked.
    """
    fd, held = os.open(path, _OWN), False
    try:
        held = _try_lock(fd)
    finally:
        if not held:
            os.close(fd)
    return fd if held else None


@contextmanager
def idle(paths: Iterable[Path]) -> Iterator[bool]:
    """Whether nobody has a lease of any of these files; if so, nobody gets one before the end of the block."""
    with ExitStack() as stack:
        yield all(_taken(path, stack) for path in paths)


def _taken(path: Path, stack: ExitStack) -> bool:
    try:
        fd = os.open(path, _OWN)
    except FileNotFoundError:
        return True
    except OSError:  # somebody else's, in a storage that users share: who knows
        return False
    stack.callback(os.close, fd)
    return _try_lock(fd)


def open_own(path: StrPath, modes: Modes) -> int:
    """The open file at `path`, made where it is missing. Raises DiskError, also where a link is in its place."""
    try:
        return modes.open(path, _OWN)
    except OSError as error:
        raise disk_error(error, Path(path).parent) from error


def about_link(path: StrPath) -> str:
    """The sentence for a link where we have made a file or a folder."""
    return f"{path} is a symbolic link, which we never make: look who else may write there, and delete it"


def disk_error(error: OSError, folder: Path) -> DiskError:
    """What the user can do where nothing can be written in `folder`."""
    if error.errno in FULL:
        return DiskError(
            f"the disk of {folder} is full: make room (see lfs-agent prune), and pull again; "
            "what has arrived of large objects is kept"
        )
    if error.errno == errno.ELOOP:
        return DiskError(about_link(error.filename))
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return DiskError(f"cannot write in {folder}: {error.strerror}; raise the limit on open files (ulimit -n)")
    return DiskError(f"cannot write in {folder}: {error.strerror}; the LFS storage must be writable")


def _is_at(fd: int, path: StrPath) -> bool:
    try:
        at, held = os.stat(path), os.fstat(fd)
    except FileNotFoundError:
        return False
    except OSError as error:
        if error.errno == errno.ESTALE:  # over NFS: another machine has moved it away
            return False
        raise disk_error(error, Path(path).parent) from error
    return (at.st_ino, at.st_dev) == (held.st_ino, held.st_dev)
