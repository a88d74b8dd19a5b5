"""Proves that the store has what the pointers name.

Looks at the pointers of HEAD, of each REV, or at those in every commit of a range A..B; PATH limits them, as git's
pathspecs do. Needs no local objects, and no more than the right to read. An object is present where the store has its
key, with its size; with --deep only where its content, read and hashed, is its name.
"""

import argparse
import json
import sys
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lfs_agent.cellar import Cellar
from lfs_agent.commands.status import StatusLine
from lfs_agent.commands.wording import plain, spell_count, spell_paths, spell_size
from lfs_agent.errors import UsageError
from lfs_agent.gitrepo import Repository
from lfs_agent.pointer import Pointer
from lfs_agent.verify import NOT_ASKED, Finding, Judge, Wanted

EXAMPLES = """\
examples:
  lfs-agent verify --deep                                read and hash everything that HEAD needs
  lfs-agent verify origin/main..HEAD -- vit-l/0.2        has everything that this branch adds there been pushed?
"""

STAT_THREADS = 16
READ_THREADS = 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = "lfs-agent verify [-h] [--remote NAME] [--deep] [--json] [REV | A..B]... [-- PATH...]"
    parser.add_argument("revisions", nargs="*", metavar="REV | A..B", help="commits or ranges (default: HEAD)")
    parser.add_argument("--remote", metavar="NAME", help="whose store (default: the branch's remote, or origin)")
    parser.add_argument("--deep", action="store_true", help="read every object, and hash it")
    parser.add_argument("--json", action="store_true", help="print every finding as one JSON object on a line")
    parser.set_defaults(paths=[])


def run(arguments: argparse.Namespace, environ: Mapping[str, str]) -> int:
    repo = Repository(Path.cwd())
    _ = repo.common_dir  # outside of a repository this says so once, and not each git for itself
    revisions = arguments.revisions or ["HEAD"]
    threads = READ_THREADS if arguments.deep else STAT_THREADS
    cellar = Cellar(repo, "download", choose_remote(repo, arguments.remote), environ)
    wanted = collect(repo, revisions, arguments.paths)
    told = " ".join(plain(revision) for revision in revisions)
    if not wanted:
        print(f"no LFS pointers in {told}: nothing to verify", file=sys.stderr if arguments.json else sys.stdout)
        return 0
    stop = threading.Event()
    store, _ = cellar.open(stop=stop, connections=threads)
    tally = Tally(len(wanted), visible=sys.stderr.isatty())
    judge = Judge(store, cellar.key, deep=arguments.deep, stop=stop, on_read=tally.read)
    try:
        for finding in judge.find(wanted, threads=threads):
            tally.count(finding)
            if arguments.json:
                tally.line.erase()
                print(json.dumps(to_json(finding, deep=arguments.deep)))
            elif finding.status != "present" and finding.reason != NOT_ASKED:
                tally.line.erase()
                print(spell_finding(finding))
    finally:
        stop.set()
        tally.line.erase()
    totals = f"{told} at {plain(cellar.target)}: {tally}"
    print(totals, file=sys.stderr if arguments.json else sys.stdout)
    if judge.cause and arguments.json:
        print(f"lfs-agent verify: {plain(judge.cause)}", file=sys.stderr)
    return tally.status


def choose_remote(repo: Repository, named: str | None) -> str:
    """The remote `named`, or else the one that git-lfs would take.

    Raises UsageError for one that there is not.
    """
    if named is None:
        return repo.default_remote()
    remotes = repo.remotes()
    if named not in remotes and not {":", "/"} & set(named):
        raise UsageError(f"there is no remote {named!r} here (there is: {', '.join(remotes) or 'none'})")
    return named


def collect(repo: Repository, revisions: Sequence[str], paths: Sequence[str]) -> list[Wanted]:
    """Each object that is named in one of `revisions`, once, with all of its paths there."""
    found: dict[Pointer, dict[str, None]] = {}
    for revision in revisions:
        for pointer, path in repo.pointers(revision, paths):
            found.setdefault(pointer, {})[path] = None
    return [Wanted(pointer, list(paths)) for pointer, paths in found.items()]


def to_json(finding: Finding, *, deep: bool) -> dict[str, Any]:
    """A finding as `--json` prints it."""
    return {
        "status": finding.status,
        "oid": finding.pointer.oid,
        "size": finding.pointer.size,
        "paths": list(finding.paths),
        "key": finding.key,
        "address": finding.address,
        "proven": finding.proven,
        "deep": deep,
        "reason": finding.reason,
    }


def spell_finding(finding: Finding) -> str:
    """A finding as a line for people."""
    pointer = finding.pointer
    what = f"{finding.status:7}  {pointer.oid[:12]}  {spell_size(pointer.size):>10}  {spell_paths(finding.paths)}"
    reason = finding.reason if finding.address in finding.reason else f"{finding.address}: {finding.reason}"
    return f"{what}  {plain(reason)}"


@dataclass
class Tally:
    """Counts findings; on a terminal it also shows how far they are, once they take longer than a moment."""

    total: int
    visible: bool
    counts: Counter[str] = field(default_factory=Counter)
    _size: int = 0
    _not_asked: int = 0
    _proven: int = 0
    _read: int = 0
    _reading: threading.Lock = field(default_factory=threading.Lock)  # several threads read
    line: StatusLine = field(init=False)

    def __post_init__(self) -> None:
        self.line = StatusLine(self.visible)

    def count(self, finding: Finding) -> None:
        """One more."""
        self.counts[finding.status] += 1
        self._size += finding.pointer.size
        self._proven += finding.proven
        self._not_asked += finding.reason == NOT_ASKED
        self._paint()

    def read(self, size: int) -> None:
        """So many more bytes have been read."""
        with self._reading:
            self._read += size
        self._paint()

    def _paint(self) -> None:
        read = f", {spell_size(self._read)} read" if self._read else ""
        self.line.paint(f"{self.counts.total():,} of {self.total:,} objects{read}")

    def __str__(self) -> str:
        found = [f"{self.counts['present']:,} present ({self._proven:,} proven)"]
        found += [f"{self.counts[name]:,} {name}" for name in ("missing", "damaged", "unknown") if self.counts[name]]
        not_asked = f" ({self._not_asked:,} not asked: one cause stops them all)" if self._not_asked else ""
        return f"{spell_count(self.total, 'object')}, {spell_size(self._size)}: {', '.join(found)}{not_asked}"

    @property
    def status(self) -> int:
        """The exit status."""
        if self.counts["missing"] or self.counts["damaged"]:
            return 1
        return 3 if self.counts["unknown"] else 0
