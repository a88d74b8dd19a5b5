"""Lists the uploads that nobody has finished, and gives them up.

A push that was killed leaves parts in the store: no list of objects shows them, and they are billed. The next push of
the same object goes on with them. Looks only at keys of objects below this repository's prefix; what else is on its way
there is somebody else's. Without --abort nothing is changed.
"""

import argparse
import json
import sys
import threading
from collections import Counter
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from lfs_agent.cellar import Cellar
from lfs_agent.commands.place import add_remote, choose_remote, current_repository
from lfs_agent.commands.record import open_record
from lfs_agent.commands.screen import Column, Layout, Screen, busy
from lfs_agent.commands.wording import plain, spell_count, spell_seconds, spell_size
from lfs_agent.config import parse_age
from lfs_agent.errors import UsageError
from lfs_agent.transfer.download import Folders
from lfs_agent.unfinished import Found, Janitor

EXAMPLES = """\
examples:
  lfs-agent uploads                                what is there, and how old is it?
  lfs-agent uploads --abort --older-than 7d        give up what has had no new part for a week
"""

THREADS: Final = 16


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_remote(parser)
    parser.add_argument("--abort", action="store_true", help="give up those that are older than --older-than says")
    parser.add_argument(
        "--older-than",
        type=duration,
        metavar="AGE",
        help="how long ago the newest part came, or the upload was begun where it has none: 30m, 12h, 7d, 2w",
    )
    parser.add_argument("--dry-run", action="store_true", help="with --abort: show what would go, and change nothing")
    parser.add_argument("--json", action="store_true", help="print every upload as one JSON object on a line")


def duration(text: str) -> float:
    """Seconds.

    >>> duration("30m"), duration("2w")
    (1800.0, 1209600.0)
    """
    try:
        return parse_age(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"not an age: {text!r}; say 30m, 12h, 7d or 2w") from None


def run(arguments: argparse.Namespace, environ: Mapping[str, str]) -> int:
    if arguments.abort and arguments.older_than is None:
        raise UsageError("--abort needs to know how old: --older-than 7d")
    if arguments.dry_run and not arguments.abort:
        raise UsageError("--dry-run is for --abort; without that nothing is changed")
    repo = current_repository()
    cellar = Cellar(repo, "upload", choose_remote(repo, arguments.remote), environ)
    stop = threading.Event()
    uploads = cellar.uploads(stop=stop, connections=THREADS)
    abort = arguments.abort and not arguments.dry_run
    screen, tally = Screen(), Tally()
    try:
        with open_record(cellar, "uploads", tally.totals) if abort else nullcontext() as log:
            folder = Folders(repo.storage, repo.modes).incomplete
            janitor = Janitor(uploads, cellar.key, folder, older_than_s=arguments.older_than, abort=abort, log=log)
            with busy("listing the unfinished uploads"):
                listed = janitor.listed()
            total = sum(len(uploads) for _, uploads in listed)
            for founds in janitor.look(listed, threads=THREADS):
                for found in founds:
                    tally.count(found)
                    if arguments.json:
                        screen.line(json.dumps(to_json(found)))
                    else:
                        show(screen, found)
                screen.progress(tally.total, total, f"{tally.total:,} of {total:,} uploads")
    finally:
        stop.set()
        screen.close()
    others = f"; {spell_count(janitor.others, 'upload')} to other keys left alone" if janitor.others else ""
    print(f"{plain(cellar.target)}: {tally}{others}", file=sys.stderr if arguments.json else sys.stdout)
    return 3 if tally.counts["unknown"] else 0


def to_json(found: Found) -> dict[str, Any]:
    """An upload as `--json` prints it."""
    progress = found.progress
    return {
        "status": found.status,
        "oid": found.oid,
        "key": found.upload.key,
        "address": found.address,
        "upload_id": found.upload.upload_id,
        "begun": None if found.upload.begun is None else _iso(found.upload.begun),
        "newest": _iso(progress.newest) if progress else None,
        "age_s": round(progress.age_s) if progress else None,
        "parts": progress.parts if progress else None,
        "size": progress.size if progress else None,
        "reason": found.reason,
    }


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


_UPLOAD: Final[Layout] = (Column(10), Column(12), Column(10, right=True), Column(9, right=True), Column())


def show(screen: Screen, found: Found) -> None:
    """An upload as a row for people."""
    size, parts, times = "", "", []
    if progress := found.progress:
        size, parts = spell_size(progress.size), spell_count(progress.parts, "part")
        times.append(f"newest {spell_seconds(progress.age_s)} ago")
    if found.upload.begun is not None:
        times.append(f"begun {_iso(found.upload.begun).partition('+')[0]}Z")
    told = found.address + (f": {found.reason}" if found.reason else "")
    screen.row(_UPLOAD, found.status, found.oid[:12], size, parts, ", ".join(times), note=told)


@dataclass
class Tally:
    """Counts uploads, and what they hold."""

    counts: Counter[str] = field(default_factory=Counter)
    _sizes: Counter[str] = field(default_factory=Counter)
    _parts: int = 0

    def count(self, found: Found) -> None:
        """One more."""
        self.counts[found.status] += 1
        if found.progress:
            self._sizes[found.status] += found.progress.size
            self._parts += found.progress.parts

    def totals(self) -> dict[str, int]:
        """What the record says at the end."""
        return {"objects": self.counts["aborted"], "failed": self.counts["unknown"]}

    @property
    def total(self) -> int:
        return self.counts.total()

    def __str__(self) -> str:
        size, parts = spell_size(self._sizes.total()), spell_count(self._parts, "part")
        told = [f"{spell_count(self.total, 'unfinished upload')}, {size} in {parts}"]
        told += [
            f"{self.counts[status]:,} {status} ({spell_size(self._sizes[status])})"
            for status in ("stale", "aborted", "gone", "unknown")
            if self.counts[status]
        ]
        return "; ".join(told)
