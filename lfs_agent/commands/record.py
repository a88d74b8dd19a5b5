"""`open_record`: where a command that changes something writes what it does, beside the records of pushes and pulls."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from lfs_agent import __version__, log
from lfs_agent.cellar import Cellar
from lfs_agent.session import SessionFiles, name_command, name_user, sweep


@contextmanager
def open_record(cellar: Cellar, operation: str, totals: Callable[[], dict[str, Any]]) -> Iterator[log.Log]:
    """The log of this command, from its first line to its last; `totals`: what the last one says."""
    files = SessionFiles(cellar.state_dir / "sessions", name_command())
    with suppress(OSError):  # without a record, too, all goes on
        cellar.repo.modes.make(files.folder)
    settings = cellar.settings
    record = log.Lines(files.record, modes=cellar.repo.modes)  # no limit: each change has its line
    audit = log.Audit(cellar.state_dir / "audit.jsonl", cellar.repo.modes)
    bound: dict[str, Any] = {
        "session": files.name,
        "operation": operation,
        "remote": cellar.remote,
        "store": str(cellar.target),
        "user": name_user(),
    }
    opened = log.Log(record, settings.logs_from, settings.log_file, audit, **bound)
    sweep(cellar.state_dir)
    opened.info("started", version=__version__, pid=os.getpid(), workers=1)
    try:
        yield opened
    finally:
        opened.info("ended", **totals())
