"""`open_record`: where a command that changes something writes what it does, beside the records of pushes and pulls."""

import getpass
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from lfs_agent import __version__, log
from lfs_agent.cellar import Cellar
from lfs_agent.session import SessionFiles, name_command, sweep


@contextmanager
def open_record(cellar: Cellar, operation: str, totals: Callable[[], dict[str, Any]]) -> Iterator[log.Log]:
    """The log of this command, from its first line to its last; `totals`: what the last one says."""
    files = SessionFiles(cellar.state_dir / "sessions", name_command())
    with suppress(OSError):  # without a record, too, all goes on
        cellar.repo.modes.make(files.folder)
    settings = cellar.settings
    level = settings.log_level or ("info" if settings.log_file else None)
    record = log.Lines(files.record, modes=cellar.repo.modes)  # no limit: each change has its line
    bound = {"session": files.name, "operation": operation, "remote": cellar.remote, "store": str(cellar.target)}
    opened = log.Log(record, level, settings.log_file, **bound)
    sweep(cellar.state_dir)
    opened.info("started", version=__version__, pid=os.getpid(), workers=1, user=_user())
    try:
        yield opened
    finally:
        opened.info("ended", **totals())


def _user() -> str:
    """Who does it, as the system knows them."""
    try:
        name = getpass.getuser()
    except (OSError, KeyError, ImportError):  # a user without a name, in a container
        name = str(os.geteuid()) if hasattr(os, "geteuid") else ""
    return f"{name}@{socket.gethostname()}"
