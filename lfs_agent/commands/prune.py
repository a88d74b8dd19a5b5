"""Deletes local objects whose copies in the store are proven.

Looks at what git-lfs's own rules would let go of: they keep what HEAD, other work trees, stashes and recent branches
name, and what has not been pushed; what is staged, or put aside by a rebase, is kept, too. Of these objects, one goes
only when its copy in the store that a pull would ask is proven now: by the SHA-256 that the store itself has computed,
by its CRC-32C of all bytes, which is that of the local file. These are as old as the copy; with --deep it is read,
whatever they say. Every other one is kept, and the reason is said. Deletes nothing without --apply.
"""

import argparse
import json
import sys
import threading
from collections import Counter
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Final

from lfs_agent.cellar import Cellar
from lfs_agent.commands import verify
from lfs_agent.commands.place import add_remote, choose_remote, current_repository
from lfs_agent.commands.record import open_record
from lfs_agent.commands.screen import OBJECT, Screen, waiting
from lfs_agent.commands.wording import plain, spell_count, spell_size
from lfs_agent.errors import UsageError
from lfs_agent.gitrepo import STAGED
from lfs_agent.ledger import Ledger
from lfs_agent.parallel import in_parallel
from lfs_agent.prune import Judged, Pruner, local_objects
from lfs_agent.verify import NOT_ASKED

EXAMPLES = """\
examples:
  lfs-agent prune                      what could go, and why the rest can't?
  lfs-agent prune --deep --apply       read the store's copies, and delete here what proves to be right there
"""

_KEPT: Final = ("missing", "damaged", "unproven", "archived", "unknown", "failed")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_remote(parser)
    parser.add_argument("--deep", action="store_true", help="read the store's copies, whatever their checksums say")
    apply = parser.add_mutually_exclusive_group()
    apply.add_argument("--apply", action="store_true", help="delete it")
    apply.add_argument(
        "--dry-run", action="store_true", help="show objects and bytes, and delete nothing (the default)"
    )
    parser.add_argument("--json", action="store_true", help="print every object as one JSON object on a line")


def run(arguments: argparse.Namespace, environ: Mapping[str, str]) -> int:
    repo = current_repository()
    if repo.value("lfs.storage"):
        raise UsageError(
            f"lfs.storage is set: {repo.storage} may have objects of other repositories, which have other stores"
        )
    if not (shared := (repo.storage / "objects").resolve()).is_relative_to(repo.common_dir.resolve()):
        raise UsageError(
            f"{repo.storage} leads to {shared}, out of this repository: there may be objects of other repositories, "
            "which have other stores"
        )
    remote = choose_remote(repo, arguments.remote)
    cellar = Cellar(repo, "download", remote, environ)
    with waiting(repo, "asking git-lfs what could go"):
        objects = {local.oid: local for local in local_objects(repo.storage)}
        # git-lfs 3.3 forgets the index, and every git-lfs what a rebase has put aside; a gc elsewhere may delete from
        # the store what only this clone names.
        staged = {pointer.oid for pointer, _ in chain(repo.pointers(STAGED), repo.put_aside())}
        dropped = [objects[oid] for oid in repo.prunable(remote) if oid in objects and oid not in staged]
    stop = threading.Event()
    threads = verify.READ_THREADS if arguments.deep else verify.STAT_THREADS
    store, patience = cellar.open(stop=stop, connections=threads)
    store.connect()
    screen = Screen()
    tally = Tally(screen, len(objects), len(dropped), as_json=arguments.json)
    recording = open_record(cellar, "prune", lambda: tally.totals() | {"retries": patience.retries})
    try:
        with recording if arguments.apply and dropped else nullcontext() as log:
            marked = cellar.keeper(Ledger(store, cellar.prefix), stop).marked
            pruner = Pruner(
                store, cellar.key, deep=arguments.deep, marked=marked, stop=stop, log=log, on_read=tally.read
            )
            for judged in in_parallel(pruner.look, dropped, threads=threads):
                tally.show(judged)
    finally:
        stop.set()
        screen.close()
    print(f"{plain(cellar.target)}: {tally}", file=sys.stderr if arguments.json else sys.stdout)
    if pruner.cause and arguments.json:
        print(f"lfs-agent prune: {plain(pruner.cause)}", file=sys.stderr)
    return tally.status


def to_json(judged: Judged) -> dict[str, Any]:
    """An object as `--json` prints it."""
    return {
        "status": judged.status,
        "oid": judged.local.oid,
        "size": judged.local.size,
        "path": str(judged.local.path),
        "key": judged.key,
        "address": judged.address,
        "proof": judged.proof,
        "reason": judged.reason,
    }


def show(screen: Screen, judged: Judged) -> None:
    """An object as a row for people."""
    told, local = judged.address, judged.local
    if judged.reason:
        told = f"kept: {judged.reason if told in judged.reason else f'{told}: {judged.reason}'}"
    screen.row(OBJECT[:3], judged.status, local.oid[:12], spell_size(local.size), note=told)


@dataclass
class Tally:
    """Counts and shows objects; `total` are here, of which git-lfs's rules would let go of `dropped`."""

    screen: Screen
    total: int
    dropped: int
    as_json: bool
    counts: Counter[str] = field(default_factory=Counter)
    _sizes: Counter[str] = field(default_factory=Counter)
    _read: int = 0
    _reading: threading.Lock = field(default_factory=threading.Lock)  # several threads read

    def read(self, size: int) -> None:
        """So many more bytes have been read."""
        with self._reading:
            self._read += size
        self._paint()

    def show(self, judged: Judged) -> None:
        """One more; it is printed, unless it only says what another one says."""
        self.counts[judged.status] += 1
        self._sizes[judged.status] += judged.local.size
        if self.as_json:
            self.screen.line(json.dumps(to_json(judged)))
        elif judged.reason != NOT_ASKED:
            show(self.screen, judged)
        self._paint()

    def _paint(self) -> None:
        read = f", {spell_size(self._read)} read" if self._read else ""
        done = self.counts.total()
        self.screen.progress(done, self.dropped, f"{done:,} of {self.dropped:,} objects{read}")

    def totals(self) -> dict[str, int]:
        """What the record says at the end."""
        return {"objects": self.counts["pruned"], "bytes": self._sizes["pruned"], "failed": self.counts["failed"]}

    def __str__(self) -> str:
        told = [f"{spell_count(self.total, 'local object')}, {self.total - self.dropped:,} kept by git-lfs's own rules"]
        for name, words in (("pruned", "deleted"), ("prunable", "proven, would go with --apply")):
            if self.counts[name]:
                told.append(f"{self.counts[name]:,} {words} ({spell_size(self._sizes[name])})")
        if kept := sum(self.counts[name] for name in _KEPT):
            why = ", ".join(f"{self.counts[name]:,} {name}" for name in _KEPT if self.counts[name])
            told.append(f"{kept:,} kept because not proven ({why})")
        return "; ".join(told)

    @property
    def status(self) -> int:
        """The exit status."""
        if self.counts["missing"] or self.counts["damaged"]:
            return 1
        return 3 if any(self.counts[name] for name in _KEPT) else 0
