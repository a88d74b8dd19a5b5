"""Sends what the store lacks, and replaces what is damaged there.

Looks at the pointers of HEAD, of each REV, at those in every commit of a range A..B, or at each OID that some commit
names; PATH limits them. Damaged is what has the wrong size, or, as the store itself says, the wrong SHA-256; with
--deep also what was read and has it. It is replaced only as long as it is what was judged, and only by a copy that was
proven by its SHA-256. Copies come from this clone, and from wherever --from says. Every replacement is in the audit log
(.git/lfs/lfs-agent/audit.jsonl): who, which key, the old ETag, the result. lfs-agent log says how many.
"""

import argparse
import json
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from lfs_agent.cellar import Cellar
from lfs_agent.commands import verify
from lfs_agent.commands.place import add_remote, choose_remote, current_repository
from lfs_agent.commands.record import open_record
from lfs_agent.commands.screen import OBJECT, Screen, waiting
from lfs_agent.commands.wording import plain, spell_count, spell_not_asked, spell_paths, spell_size
from lfs_agent.errors import AgentError, BucketError, ObjectError, UsageError
from lfs_agent.git import show_originals
from lfs_agent.gitrepo import LfsUrl, Repository
from lfs_agent.keeper import Keeper
from lfs_agent.ledger import Ledger
from lfs_agent.parallel import in_parallel
from lfs_agent.pointer import Oid
from lfs_agent.registrar import Registrar
from lfs_agent.repair import Case, Files, Mender, OtherStore, Source, plan
from lfs_agent.selection import select
from lfs_agent.store import Store
from lfs_agent.store.url import is_ours
from lfs_agent.transfer.download import Folders
from lfs_agent.verify import NOT_ASKED, Depth, Finding, Judge

EXAMPLES = """\
examples:
  lfs-agent repair --deep --dry-run            read HEAD's objects: what is wrong, and who has it right?
  lfs-agent repair --all --from backup         take what this clone lacks from the store of the remote backup
"""

SEND_THREADS: Final = 8
_STREAMS: Final = 16
"""Parts in flight at once."""
_ANY: Final = Oid("0" * 64)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = (
        "lfs-agent repair [-h] [--remote NAME] [--from REMOTE | PATH | URL]... [--deep] [--dry-run] [--json]\n"
        "                        [--all] [REV | A..B | OID]... [-- PATH...]"
    )
    add_common_arguments(parser)
    parser.add_argument(
        "--from",
        action="append",
        default=[],
        dest="sources",
        metavar="REMOTE | PATH | URL",
        help="where to take what this clone lacks: a remote's store, another clone or LFS storage folder, a store",
    )
    parser.add_argument("--deep", action="store_true", help="read every object in the store, and hash it")


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """What `push-missing` takes, too."""
    parser.add_argument("revisions", nargs="*", metavar="REV | A..B | OID", help="what to look at (default: HEAD)")
    parser.add_argument("--all", action="store_true", help="look at the whole history of all refs")
    add_remote(parser)
    parser.add_argument("--dry-run", action="store_true", help="show objects and bytes, and change nothing")
    parser.add_argument("--json", action="store_true", help="print every object as one JSON object on a line")
    parser.set_defaults(paths=[])


def run(arguments: argparse.Namespace, environ: Mapping[str, str]) -> int:
    return mend(arguments, environ, replaces=True)


def mend(arguments: argparse.Namespace, environ: Mapping[str, str], *, replaces: bool) -> int:
    """Both commands: what is wrong, who has it right, and then it is sent."""
    repo = current_repository()
    words = arguments.revisions or ([] if arguments.all else ["HEAD"])
    cellar = Cellar(repo, "upload", choose_remote(repo, arguments.remote), environ)
    if arguments.all:
        show_originals()
    with waiting(repo):
        wanted = select(repo, words, arguments.paths, all_refs=arguments.all)
    stop = threading.Event()
    store, patience = cellar.open(stop=stop, connections=verify.STAT_THREADS)
    depth: Depth = "deep" if arguments.deep else "checksum" if replaces else "presence"
    screen = Screen()
    tally = Tally(screen, dry_run=arguments.dry_run, as_json=arguments.json, retries=lambda: patience.retries)
    cause: AgentError | None = None
    try:
        sources = _sources(cellar, store, arguments.sources, stop)
        judge = Judge(store, cellar.key, depth=depth, stop=stop, on_read=tally.looked.read)
        wrong: list[Finding] = []
        ledger = Ledger(store, cellar.prefix)
        keeper, registrar = cellar.keeper(ledger, stop), cellar.registrar(store, ledger, looks=True)
        if not arguments.dry_run:
            try:
                store.connect()
                keeper.read()  # first: what is found after that, and is not marked, stays
            except UsageError:
                raise
            except AgentError as error:
                judge.cause = error
        seen_at = time.monotonic()
        threads = verify.READ_THREADS if arguments.deep else verify.STAT_THREADS
        tally.looked.total = len(wanted)
        for finding in judge.find(wanted, threads=threads):
            if not arguments.dry_run:
                finding = kept(finding, keeper, seen_at)
            tally.looked.count(finding)
            if finding.status not in ("present", "unproven"):
                wrong.append(finding)
        cases = list(in_parallel(lambda finding: plan(finding, sources, replaces=replaces), wrong, threads=threads))
        tally.plan(cases)
        cause = judge.cause
        if arguments.dry_run or not any(case.mendable for case in cases):
            for case in cases:
                tally.show(case)
            if tally.looked.counts["present"] and not arguments.dry_run:
                tell_if_unregistered(arguments.command, registrar, stop)
        else:
            with open_record(cellar, arguments.command, tally.totals) as log:
                mender = Mender(
                    store,
                    sources,
                    folders=Folders(repo.storage, repo.modes),
                    limits=cellar.limits,
                    streams=cellar.settings.streams or max(1, _STREAMS // min(SEND_THREADS, len(cases))),
                    stop=stop,
                    log=log,
                    keep=keeper.keep,
                    register=lambda: registrar.register(stop),
                    on_moved=tally.move,
                )
                for case in in_parallel(mender.mend, cases, threads=SEND_THREADS):
                    tally.show(case)
                cause = cause or mender.cause
            if tally.counts["sent"]:
                cellar.remember_push()
    finally:
        stop.set()
        screen.close()
    told = verify.spell_words([*(["all refs"] if arguments.all else []), *words])
    print(f"{told} at {plain(cellar.target)}: {tally}", file=sys.stderr if arguments.json else sys.stdout)
    if cause and arguments.json:
        print(f"lfs-agent {arguments.command}: {plain(cause)}", file=sys.stderr)
    return tally.status


def tell_if_unregistered(command: str, registrar: Registrar, stop: threading.Event) -> None:
    """Registers the repository where all is there already; who may not write has done no harm, and is told."""
    try:
        registrar.register(stop)
    except (ObjectError, BucketError) as error:
        print(f"lfs-agent {command}: {plain(error)}", file=sys.stderr)


def kept(finding: Finding, keeper: Keeper, seen_at: float) -> Finding:
    """The finding, made after `seen_at`, when it was seen to that no gc deletes what is there."""
    if finding.status not in ("present", "unproven") or not finding.pointer.size:
        return finding
    try:
        there = keeper.keep(finding.pointer.oid, seen_at)
    except ObjectError as error:
        return replace(finding, status="unknown", reason=str(error))
    return finding if there else replace(finding, status="missing", reason="it was deleted just now", found=None)


def _sources(cellar: Cellar, store: Store, named: Sequence[str], stop: threading.Event) -> list[Source]:
    """This clone, then what --from says, in that order."""
    here: Source = Files("this clone", cellar.repo.storage / "objects")
    return [here, *(_source(cellar, store, each, stop) for each in named)]


def _source(cellar: Cellar, store: Store, named: str, stop: threading.Event) -> Source:
    repo = cellar.repo
    if named in repo.remotes():
        other = Cellar(repo, "download", named, cellar.environ)
    elif is_ours(named):
        other = Cellar(repo, "download", "", cellar.environ, given=LfsUrl(named, "--from", False))
    elif (folder := Path(os.path.expanduser(named))).is_dir():
        return Files(named, _objects_in(folder))
    else:
        raise UsageError(
            f"--from {named}: that is no remote of this repository (there is: {', '.join(repo.remotes()) or 'none'}), "
            "no folder, and no URL of a store"
        )
    from_store, _ = other.open(stop=stop, connections=_STREAMS)
    # By where it has an object: another prefix, or layout, in the same bucket is another store.
    if from_store.identity(other.key(_ANY)) == store.identity(cellar.key(_ANY)):
        raise UsageError(f"--from {named}: that is the store that is to be mended")
    from_store.connect()
    folders = Folders(repo.storage, repo.modes)
    return OtherStore(named, from_store, other.key, folders, other.limits, max(1, _STREAMS // SEND_THREADS))


def _objects_in(folder: Path) -> Path:
    """Where a clone, a bare repository, or an LFS storage folder has its objects; else the folder itself."""
    if (folder / ".git").exists() or (folder / "HEAD").is_file():
        return Repository(folder).storage / "objects"
    return folder / "objects" if (folder / "objects").is_dir() else folder


def to_json(case: Case) -> dict[str, Any]:
    """An object as `--json` prints it."""
    finding = case.finding
    return {
        "status": case.status,
        "oid": finding.pointer.oid,
        "size": finding.pointer.size,
        "paths": list(finding.paths),
        "key": finding.key,
        "address": finding.address,
        "source": case.source,
        "etag": finding.found.etag if finding.found else "",
        "reason": case.reason,
    }


_ORIGIN: Final = {
    "sent": " (from {})",
    "replaced": " (from {})",
    "missing": "; would come from {}",
    "damaged": "; would come from {}",
}


def show(screen: Screen, case: Case) -> None:
    """An object as a row for people."""
    finding, pointer = case.finding, case.finding.pointer
    reason = case.reason if finding.address in case.reason else f"{finding.address}: {case.reason}".rstrip(": ")
    source = _ORIGIN.get(case.status, "").format(case.source) if case.source else ""
    cells = case.status, pointer.oid[:12], spell_size(pointer.size), spell_paths(finding.paths)
    screen.row(OBJECT, *cells, note=f"{reason}{source}")


@dataclass
class Tally:
    """Counts and shows objects, and how far they are."""

    screen: Screen
    dry_run: bool
    as_json: bool
    retries: Callable[[], int]
    counts: Counter[str] = field(default_factory=Counter)
    looked: verify.Tally = field(init=False)
    """Of all objects, before anything was done."""
    _sizes: Counter[str] = field(default_factory=Counter)
    _not_asked: Counter[str] = field(default_factory=Counter)
    _mendable: Counter[str] = field(default_factory=Counter)
    _total: int = 0
    _moved: int = 0
    _moving: threading.Lock = field(default_factory=threading.Lock)  # several threads send

    def __post_init__(self) -> None:
        self.looked = verify.Tally(self.screen)

    def plan(self, cases: Sequence[Case]) -> None:
        """What is going to be done."""
        self._total = len(cases)
        for case in cases:
            if case.mendable:
                self._mendable[case.status] += 1
                self._sizes["mendable"] += case.finding.pointer.size

    def move(self, size: int) -> None:
        """So many more bytes are done."""
        with self._moving:
            self._moved += size
        size, objects = self._sizes["mendable"], f"{self.counts.total():,} of {self._total:,} objects"
        self.screen.progress(self._moved, size, f"{objects}, {spell_size(self._moved)} of {spell_size(size)}")

    def show(self, case: Case) -> None:
        """One more is done with; it is printed, unless it only says what another one says."""
        self.counts[case.status] += 1
        self._sizes[case.status] += case.finding.pointer.size
        self._not_asked[case.status] += case.reason == NOT_ASKED
        if self.as_json:
            self.screen.line(json.dumps(to_json(case)))
        elif case.reason != NOT_ASKED:
            show(self.screen, case)

    def totals(self) -> dict[str, int]:
        """What the record says at the end."""
        done = self.counts["sent"] + self.counts["replaced"]
        failed = self.counts.total() - done - self.counts["present"]
        return {"objects": done, "failed": failed, "retries": self.retries()}

    def __str__(self) -> str:
        looked = self.looked.counts
        whole = looked["present"] + looked["unproven"] + self.counts["present"]
        unproven = f" ({looked['unproven']:,} of them unproven)" if looked["unproven"] else ""
        told = [spell_count(looked.total(), "object"), f"{whole:,} present{unproven}"]
        names = ("sent", "replaced", "missing", "damaged", "archived", "unknown", "failed")
        told += [self._spell(name) for name in names if self.counts[name]]
        if self.dry_run and self._mendable:
            would = [
                f"{what} {spell_count(self._mendable[name], 'object')}"
                for name, what in (("missing", "send"), ("damaged", "replace"))
                if self._mendable[name]
            ]
            told.append(f"would {' and '.join(would)}, {spell_size(self._sizes['mendable'])}")
        return ", ".join(told)

    def _spell(self, name: str) -> str:
        not_asked = f"; {spell_not_asked(self._not_asked[name])}" if self._not_asked[name] else ""
        return f"{self.counts[name]:,} {name} ({spell_size(self._sizes[name])}{not_asked})"

    @property
    def status(self) -> int:
        """The exit status; after a dry run, that of what would be left."""
        left = self.counts["missing"] + self.counts["damaged"] - (self._mendable.total() if self.dry_run else 0)
        if left:
            return 1
        return 3 if self.counts["failed"] or self.counts["unknown"] or self.counts["archived"] else 0
