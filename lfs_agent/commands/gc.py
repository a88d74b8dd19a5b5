"""Deletes from the store what no repository names any more, in two runs.

Asks every repository that is registered at the store for all its refs, with their history, and this clone for its
index, stashes, reflogs and work trees, too. With --apply, objects that none of them names, and that are older than the
grace period, are marked in the store; a push that would leave such an object there, since it has it, saves it. A run
after the grace period asks again, and deletes what is still named nowhere and was not saved. One repository that can't
be read stops it all. Without --apply nothing is changed.
"""

import argparse
import json
import math
import shlex
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import parse_qsl

from lfs_agent.cellar import Cellar
from lfs_agent.collector import Collector, Orphan, Survey, count
from lfs_agent.commands.place import add_remote, choose_remote, current_repository
from lfs_agent.commands.record import open_record
from lfs_agent.commands.screen import Column, Layout, Screen
from lfs_agent.commands.steps import Steps
from lfs_agent.commands.uploads import duration
from lfs_agent.commands.wording import plain, spell_count, spell_seconds, spell_size
from lfs_agent.config import FOREVER, Value, from_query, parse_age, resolve
from lfs_agent.elsewhere import mirror, refs_at
from lfs_agent.errors import AgentError, LocalError, TargetError, UsageError
from lfs_agent.git import show_originals
from lfs_agent.gitconfig import Entry
from lfs_agent.gitrepo import EVERYTHING, KNOWN, Repository
from lfs_agent.ledger import Ledger, Registration
from lfs_agent.pointer import Oid, Pointer
from lfs_agent.store.url import FolderTarget, Target, parse_target

EXAMPLES = """\
examples:
  lfs-agent gc                         what does no repository name, and what of it would be deleted now?
  lfs-agent gc --apply                 delete what was marked long enough ago, and mark the rest
  lfs-agent gc --repositories          who is asked?
"""

THREADS: Final = 8
_ORPHAN: Final[Layout] = (Column(9), Column(12), Column(10, right=True), Column(27), Column())
_GRACE_S: Final = 7 * 86400.0
_HASTY_S: Final = 3600.0
_NAMED: Final = "a repository names it now"
_MISLEADING: Final = (
    "GIT_DIR", "GIT_COMMON_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_NAMESPACE",
)  # fmt: skip
"""With one of these git would look into one repository when it is asked about another."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_remote(parser)
    parser.add_argument(
        "--grace",
        type=duration,
        metavar="AGE",
        default=_GRACE_S,
        help="how old an object must be to be marked, and a mark to be carried out: 12h, 7d, 4w (default: 7d); a "
        "longer retention holds",
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--apply", action="store_true", help="delete what was marked, and mark what is not")
    what.add_argument(
        "--dry-run", action="store_true", help="show what would be done, and change nothing (the default)"
    )
    what.add_argument("--repositories", action="store_true", help="show which repositories are registered at the store")
    what.add_argument(
        "--register", action="store_true", help="register this one; its first push of an object does the same"
    )
    what.add_argument("--forget", metavar="URL", help="take a repository out: what only that one names may go")
    parser.add_argument(
        "--expect-objects", type=int, metavar="N", help="with --apply: delete only where it comes to so many objects"
    )
    parser.add_argument("--expect-bytes", type=int, metavar="N", help="with --apply: and to so many bytes")
    parser.add_argument("--json", action="store_true", help="print every object as one JSON object on a line")


def run(arguments: argparse.Namespace, environ: Mapping[str, str]) -> int:
    expected = (arguments.expect_objects, arguments.expect_bytes)
    if any(each is not None for each in expected) and not arguments.apply:
        raise UsageError("--expect-objects and --expect-bytes are for --apply; without that nothing is changed")
    if (arguments.expect_objects is None) != (arguments.expect_bytes is None):
        raise UsageError("--expect-objects and --expect-bytes go together: a run without --apply prints both")
    if said := [name for name in _MISLEADING if environ.get(name)]:
        raise UsageError(
            f"{said[0]} is set, and would lead git to the wrong repository: unset it, and run in the clone"
        )
    show_originals()
    repo = current_repository()
    cellar = Cellar(repo, "upload", choose_remote(repo, arguments.remote), environ)
    stop = threading.Event()
    store, patience = cellar.open(stop=stop, connections=THREADS)
    stock = cellar.stock(stop=stop, connections=THREADS)
    try:
        store.connect()
        stock.connect()
        ledger = Ledger(store, cellar.prefix)
        age_s = _age_s(cellar, arguments.grace)
        collector = Collector(ledger, stock, cellar.prefix, cellar.key, older_than_s=age_s)
        if arguments.register:
            return register(cellar, ledger, Steps(False, arguments.json))
        if arguments.forget:
            return forget(collector, arguments.forget, Steps(False, arguments.json))
        entries = collector.registered()
        if arguments.repositories:
            return show(entries, as_json=arguments.json)
        _check_ends(cellar, age_s, "lfs-agent.retention")
        _check_registered(cellar, entries)
        with Work(arguments, cellar, collector, age_s) as work:
            return work.run(entries, stop, lambda: patience.retries)
    finally:
        stop.set()


def _age_s(cellar: Cellar, grace_s: float) -> float:
    """The longest of what the command line, the user and the repository say: none of them can shorten another's."""
    committed, _ = resolve(from_query(cellar.target.query, cellar.named.origin))
    said = [text for text in (committed.retention, cellar.settings.retention) if text]
    return max([grace_s, *map(_seconds, said)])


def _seconds(retention: str) -> float:
    return math.inf if retention == FOREVER else parse_age(retention)


def _check_ends(cellar: Cellar, age_s: float, who: str) -> None:
    if age_s == math.inf:
        raise UsageError(f"{cellar.target} keeps its objects forever ({who}): nothing is marked")


def _retentions(target: Target, entries: Iterable[Entry]) -> Iterator[Value]:
    """What the entries of a repository's `.lfsconfig` say of this store."""
    named = [(store, entry) for entry in entries if (store := _store(entry.value))]
    same = [(store, entry) for store, entry in named if str(store) == str(target)]
    if not same and isinstance(target, FolderTarget):  # each machine may have another path to a share
        same = [(store, entry) for store, entry in named if isinstance(store, FolderTarget)]
    for store, entry in same:
        if text := dict(parse_qsl(store.query)).get("retention"):
            yield Value(text, f"{entry.key} in .lfsconfig")


def _store(url: str) -> Target | None:
    try:
        return parse_target(url)
    except TargetError:
        return None


# Who is asked


def register(cellar: Cellar, ledger: Ledger, steps: Steps) -> int:
    """`--register`."""
    for url in cellar.repositories:
        news = ledger.register(url)
        text = f"{url} is registered {'now' if news else 'already'} at {cellar.target}"
        steps.tell("register", text, changed=news)
    return 0


def forget(collector: Collector, url: str, steps: Steps) -> int:
    """`--forget`."""
    if not collector.forget(url):
        raise UsageError(f"{url} is not registered: see lfs-agent gc --repositories")
    text = f"{url} is not asked any more: what only that repository names may be deleted from now on"
    steps.tell("forget", text, changed=True)
    return 0


def show(entries: Sequence[Registration], *, as_json: bool) -> int:
    """`--repositories`."""
    screen = Screen()
    for entry in entries:
        if as_json:
            screen.line(json.dumps(entry._asdict()))
        else:
            screen.row((Column(),), entry.url, note=f"since {entry.since}, by {entry.by}")
    return 0


def _check_registered(cellar: Cellar, entries: Sequence[Registration]) -> None:
    urls = {entry.url for entry in entries}
    if not urls & set(cellar.repositories):
        others = f"only {', '.join(sorted(urls))} {'is' if len(urls) == 1 else 'are'}" if urls else "no repository is"
        raise UsageError(
            f"this repository ({', '.join(cellar.repositories)}) is not registered at "
            f"{cellar.target} ({others}): run lfs-agent gc --register here, and in each other one that shares the store"
        )


class Asked:
    """What the repositories name, and this clone: the oids of all of it."""

    def __init__(self, cellar: Cellar, collector: Collector, screen: Screen) -> None:
        self._cellar = cellar
        self._collector = collector
        self._screen = screen
        self._refs: dict[str, str] = {}
        self._oids: set[bytes] = set()
        self._retentions: dict[str, Value] = {}

    def __contains__(self, oid: Oid) -> bool:
        return bytes.fromhex(oid) in self._oids

    def ask(self) -> None:
        """Asks all that are registered now; a second time only those whose refs have changed.

        What was named once stays named. Raises LocalError for a repository that can't be read.
        """
        entries = self._collector.registered()
        total = len(entries)
        for number, entry in enumerate(entries, 1):
            self._screen.progress(number - 1, total, f"asking {number} of {total} repositories: {plain(entry.url)}")
            try:
                self._ask(entry.url)
            except AgentError as error:
                raise LocalError(
                    f"the repository {entry.url}, which shares this store, can't be read ({error}): nothing was marked "
                    "or deleted. Make it readable here; if it was moved or renamed, say lfs-agent gc --register in a "
                    "clone of it; after that, or if it is gone for good: "
                    f"lfs-agent gc --forget {shlex.quote(entry.url)}"  # a stranger may have registered it
                ) from error
        self._screen.progress(total, total, "asking this clone")
        self._take(self._cellar.repo.pointers(KNOWN))
        self._take(self._cellar.repo.put_aside())

    def _ask(self, url: str) -> None:
        own = self._cellar.repositories
        refs = refs_at(url, own=own)
        if not refs:
            raise LocalError("it has no refs: it was made anew, or shows them to others only")
        if refs != self._refs.get(url):
            with mirror(url, own=own) as other:
                self._take(other.pointers(EVERYTHING))
                self._heed(url, other)
                self._refs[url] = refs_at(str(other.cwd), own=own)  # what was read, not what was there before or after

    def _heed(self, url: str, other: Repository) -> None:
        for value in _retentions(self._cellar.target, other.stores):
            self._retentions[value.text] = Value(value.text, f"{value.origin} of {url}")

    def age_s(self) -> float:
        """How long they want the store to keep what nobody names, by what each has committed.

        Raises UsageError where one of them says forever, or what is no age.
        """
        longest = 0.0
        for value in self._retentions.values():
            settings, _ = resolve({"retention": value})
            said_s = _seconds(settings.retention or "")
            _check_ends(self._cellar, said_s, value.origin)
            longest = max(longest, said_s)
        return longest

    def _take(self, found: Iterable[tuple[Pointer, str]]) -> None:
        self._oids.update(bytes.fromhex(pointer.oid) for pointer, _ in found)


# What is done


class Work:
    """One run, from what is found to what is done about it."""

    def __init__(self, arguments: argparse.Namespace, cellar: Cellar, collector: Collector, age_s: float) -> None:
        self._arguments = arguments
        self._cellar = cellar
        self._collector = collector
        self._age_s = age_s
        self._screen = Screen()
        self._counts: Counter[str] = Counter()
        self._sizes: Counter[str] = Counter()

    def __enter__(self) -> "Work":
        return self

    def __exit__(self, *_: object) -> None:
        self._screen.close()

    def run(self, entries: Sequence[Registration], stop: threading.Event, retries: Callable[[], int]) -> int:
        """All of it; the exit status."""
        if self._age_s < _HASTY_S:
            self._say(
                f"a grace period of {spell_seconds(self._age_s)} may be shorter than a push takes, or than the ten "
                "minutes that it remembers the marks"
            )
        self._collector.check_alone()
        self._collector.read_marks()  # before the repositories: what is named meanwhile is not deleted
        asked = Asked(self._cellar, self._collector, self._screen)
        asked.ask()
        self._wait(asked.age_s())
        survey = self._collector.survey(
            asked.__contains__, lambda number: self._screen.progress(0, 0, f"{number:,} objects looked at")
        )
        looked = f"{spell_count(len(entries), 'repository')} asked, {spell_count(survey.objects, 'object')} stored"
        if not self._arguments.apply:
            for orphan in survey.orphans:
                self._show(orphan)
            self._screen.close()
            self._total(f"{looked}{self._left(survey)}")
            self._print_next(survey)
            return 0
        deletable = survey.of("deletable")
        self._confirm(deletable)
        if deletable:
            asked.ask()  # again: looking, and thinking about it, take their time
            if asked.age_s() > self._age_s:
                raise LocalError("a repository asks meanwhile to keep objects for longer: run this again")
        done = [replace(orphan, status="saved", reason=_NAMED) for orphan in deletable if orphan.oid in asked]
        deletable = [orphan for orphan in deletable if orphan.oid not in asked]
        for orphan in done:
            self._show(orphan)
        with open_record(self._cellar, "gc", lambda: self._totals() | {"retries": retries()}) as log:
            for orphan in self._collector.collect(deletable, log, stop, threads=THREADS):
                done.append(orphan)
                self._show(orphan)
                self._screen.progress(len(done), len(deletable), f"{len(done):,} of {len(deletable):,} objects")
            marked = self._collector.write(survey, done)
            self._collector.sweep()
        self._screen.close()
        new, size = count(survey.of("orphan"))
        self._total(f"{looked}; {new:,} newly marked ({spell_size(size)}), {marked:,} in all{self._left(survey)}")
        if any(orphan.kept_version for orphan in done):
            self._say(
                "the bucket keeps versions: each deletion has left a marker, and the bytes stay until noncurrent "
                "versions expire (lfs-agent setup-storage sets a rule), longer where Object Lock holds them"
            )
        return 3 if self._counts["failed"] or self._counts["waiting"] else 0

    def _wait(self, age_s: float) -> None:
        """Lets nothing go before it is so old."""
        self._age_s = self._collector.older_than_s = max(self._age_s, age_s)

    def _left(self, survey: Survey) -> str:
        told = [
            f"; {number:,} {what}"
            for number, what in (
                (survey.dropped, "no longer marked: named again"),
                (survey.young, f"younger than {spell_seconds(self._age_s)}"),
                (survey.more, "more will be marked by the next run"),
            )
            if number
        ]
        return "".join(told)

    def _confirm(self, deletable: Sequence[Orphan]) -> None:
        """Nothing, where the user says that so many objects and bytes are to go. Raises UsageError."""
        objects, size = count(deletable)
        wanted = (self._arguments.expect_objects, self._arguments.expect_bytes)
        if wanted != (None, None):
            if wanted != (objects, size):
                raise UsageError(
                    f"{spell_count(objects, 'object')} with {size} bytes would be deleted, not {wanted[0]} with "
                    f"{wanted[1]}: nothing was; look again without --apply"
                )
        elif objects and not sys.stdin.isatty():
            raise UsageError(f"nothing was deleted, since nobody can be asked here; say: {self._command(deletable)}")
        elif objects:
            self._screen.close()
            told = (
                f"{spell_count(objects, 'object')} ({spell_size(size)}) of {plain(self._cellar.target)} will be deleted"
            )
            print(f"{told}. Type their number to go on: ", end="", file=sys.stderr, flush=True)
            if sys.stdin.readline().strip().replace(",", "") != str(objects):
                raise UsageError("nothing was deleted: that is not their number")
            self._screen = Screen()

    def _print_next(self, survey: Survey) -> None:
        deletable = survey.of("deletable")
        if deletable:
            self._say(f"to delete {spell_count(len(deletable), 'object')}: {self._command(deletable)}")
        elif survey.of("orphan"):
            self._say(f"to mark: {self._words()} --apply; a later run deletes what is still named nowhere then")

    def _words(self) -> str:
        remote = f" --remote {self._arguments.remote}" if self._arguments.remote else ""
        grace = f" --grace {self._arguments.grace:.0f}s" if self._arguments.grace != _GRACE_S else ""
        return f"lfs-agent gc{remote}{grace}"

    def _command(self, deletable: Sequence[Orphan]) -> str:
        objects, size = count(deletable)
        return f"{self._words()} --apply --expect-objects {objects} --expect-bytes {size}"

    def _show(self, orphan: Orphan) -> None:
        self._counts[orphan.status] += 1
        self._sizes[orphan.status] += orphan.size
        if self._arguments.json:
            self._screen.line(json.dumps(to_json(orphan)))
        else:
            size, stored = spell_size(orphan.size), f"stored {_iso(orphan.modified).partition('+')[0]}Z"
            cells = (orphan.status, orphan.oid[:12], size, stored, orphan.address)
            self._screen.row(_ORPHAN, *cells, note=orphan.reason)

    def _total(self, told: str) -> None:
        words = [f"{self._counts[name]:,} {name} ({spell_size(self._sizes[name])})" for name in sorted(self._counts)]
        self._say(f"{plain(self._cellar.target)}: {'; '.join([told, *words])}")

    def _say(self, text: str) -> None:
        print(text, file=sys.stderr if self._arguments.json else sys.stdout)

    def _totals(self) -> dict[str, Any]:
        deleted = self._counts["deleted"]
        return {"objects": deleted, "bytes": self._sizes["deleted"], "failed": self._counts["failed"]}


def to_json(orphan: Orphan) -> dict[str, Any]:
    """An object as `--json` prints it."""
    return {
        "status": orphan.status,
        "oid": orphan.oid,
        "size": orphan.size,
        "key": orphan.key,
        "address": orphan.address,
        "modified": _iso(orphan.modified),
        "marked": None if orphan.status == "orphan" else _iso(orphan.mark.marked),
        "reason": orphan.reason,
    }


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
