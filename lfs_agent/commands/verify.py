"""Proves that the store has what the pointers name.

Looks at the pointers of HEAD, of each REV, at those in every commit of a range A..B, or at each OID that some commit
names; PATH limits them, as git's pathspecs do. Needs no local objects, and no more than the right to read. An object is
present where the store has its key, with its size; with --checksum only where the store's own checksum says that it is
the object, with --deep only where its content, read and hashed, is its name.
"""

import argparse
import json
import math
import random
import re
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from xml.etree import ElementTree

from lfs_agent.cellar import Cellar
from lfs_agent.commands import at_rest, unreferenced
from lfs_agent.commands.place import add_remote, choose_remote, current_repository
from lfs_agent.commands.screen import OBJECT, Column, Layout, Screen, waiting
from lfs_agent.commands.wording import plain, spell_count, spell_not_asked, spell_paths, spell_size
from lfs_agent.errors import UsageError
from lfs_agent.git import show_originals
from lfs_agent.gitconfig import HIDING, is_include, is_yes
from lfs_agent.gitrepo import Repository
from lfs_agent.log import redact
from lfs_agent.pointer import Oid
from lfs_agent.selection import Wanted, select, trees
from lfs_agent.verify import NOT_ASKED, Depth, Finding, Judge

EXAMPLES = """\
examples:
  lfs-agent verify --deep                                read and hash everything that HEAD needs
  lfs-agent verify origin/main..HEAD -- vit-l/0.2        has everything that this branch adds there been pushed?
"""

STAT_THREADS = 16
READ_THREADS = 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = (
        "lfs-agent verify [-h] [--remote NAME] [--checksum | --deep [--sample N%%]] [--json] [--junit FILE]\n"
        "                        [--inventory MANIFEST | --batch-report REPORT] [--max-age DAYS]\n"
        "                        [--batch FILE [--role ARN] [--report URL] [--account ID] [--priority N] [--dry-run]]\n"
        "                        [--all] [--stdin] [REV | A..B | OID]... [-- PATH...]"
    )
    parser.add_argument("revisions", nargs="*", metavar="REV | A..B | OID", help="what to look at (default: HEAD)")
    parser.add_argument(
        "--all",
        action="store_true",
        help="look at the whole history of all refs, and list what the store has beside that",
    )
    parser.add_argument("--stdin", action="store_true", help="read what to look at from standard input, too")
    add_remote(parser)
    depth = parser.add_mutually_exclusive_group()
    depth.add_argument("--checksum", action="store_true", help="demand a checksum that the store itself has computed")
    depth.add_argument("--deep", action="store_true", help="read every object, and hash it")
    at_rest.add_arguments(parser, depth)
    parser.add_argument("--sample", metavar="N%", type=_percent, help="with --deep: read so many of them, at random")
    parser.add_argument("--json", action="store_true", help="print every finding as one JSON object on a line")
    parser.add_argument("--junit", metavar="FILE", type=Path, help="write the findings as JUnit XML, too")
    parser.set_defaults(paths=[])


def _percent(text: str) -> float:
    match = re.fullmatch(r"([0-9]{1,3}(?:\.[0-9]+)?)%", text)
    if not match or not 0 < float(match[1]) <= 100:
        raise argparse.ArgumentTypeError(f"not a share such as 5%: {text!r}")
    return float(match[1]) / 100


def run(arguments: argparse.Namespace, environ: Mapping[str, str]) -> int:
    repo = current_repository()
    if arguments.sample and not arguments.deep:
        raise UsageError("--sample is for --deep")
    at_rest.check_arguments(arguments)
    words = [*arguments.revisions, *(sys.stdin.read().split() if arguments.stdin else [])]
    if not words and not arguments.all and not arguments.stdin:
        words = ["HEAD"]
    depth = _depth(arguments)
    threads = READ_THREADS if arguments.deep else STAT_THREADS
    cellar = Cellar(repo, "download", choose_remote(repo, arguments.remote), environ)
    if arguments.all:
        show_originals()
    with waiting(repo):
        wanted = select(repo, words, arguments.paths, all_refs=arguments.all)
        irregular = list(find_irregular(repo, words, arguments.paths))
    told = spell_words([*(["all refs"] if arguments.all else []), *words]) or "standard input, which is empty"
    report = JUnit(f"lfs-agent verify {told}") if arguments.junit else None
    if not wanted and not irregular:
        print(f"no LFS pointers in {told}: nothing to verify", file=sys.stderr if arguments.json else sys.stdout)
        if report:
            report.write(arguments.junit)  # an earlier one there would speak for this run
        return 0
    stop = threading.Event()
    if arguments.batch:
        return at_rest.start_job(arguments, cellar, wanted, stop)
    evidence = at_rest.evidence_for(arguments, cellar, wanted, stop)
    store, _ = cellar.open(stop=stop, connections=threads)
    screen = Screen()
    tally = Tally(screen, len(wanted), len(irregular))
    sample = _sample(wanted, arguments.sample) if arguments.sample else None
    judge = Judge(store, cellar.key, depth=depth, sample=sample, evidence=evidence, stop=stop, on_read=tally.read)
    for path, reason in irregular:
        if report:
            report.add_irregular(path, reason)
        if arguments.json:
            screen.line(json.dumps(irregular_to_json(path, reason, depth=depth)))
        else:
            screen.row(_IRREGULAR, "irregular", path, note=reason)
    try:
        for finding in judge.find(wanted, threads=threads):
            tally.count(finding)
            if report:
                report.add(finding)
            if arguments.json:
                screen.line(json.dumps(to_json(finding, depth=depth)))
            elif finding.status != "present" and finding.reason != NOT_ASKED:
                show(screen, finding)
        others = ""
        if arguments.all and not arguments.paths and not evidence and not judge.cause:
            named = {each.pointer.oid for each in wanted}
            others = unreferenced.tell(screen, cellar, named, stop, depth if arguments.json else None)
    finally:
        stop.set()
        screen.close()
    totals = f"{told} at {plain(cellar.target)}: {tally}"
    for line in (totals, others) if others else (totals,):
        print(line, file=sys.stderr if arguments.json else sys.stdout)
    if judge.cause and arguments.json:
        print(f"lfs-agent verify: {plain(judge.cause)}", file=sys.stderr)
    if report:
        report.write(arguments.junit)
    return tally.status


def _depth(arguments: argparse.Namespace) -> Depth:
    if arguments.batch_report:
        return "report"
    return "deep" if arguments.deep else "checksum" if arguments.checksum else "presence"


_TOLD: Final = 5


def spell_words(words: Sequence[str]) -> str:
    """What was asked for, as the totals say it; a long list is cut off."""
    more = f" and {len(words) - _TOLD} more" if len(words) > _TOLD else ""
    return " ".join(plain(word[:12] if len(word) == 64 else word) for word in words[:_TOLD]) + more


def _sample(wanted: Sequence[Wanted], share: float) -> set[Oid]:
    """That share of the objects, at least one, chosen anew each time."""
    count = math.ceil(len(wanted) * share)
    return {each.pointer.oid for each in random.sample(wanted, count)}


def find_irregular(repo: Repository, words: Sequence[str], paths: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Files of the trees among `words` that are not as Git LFS needs them, each once: path, and what is wrong.

    Those that belong to it, and are no pointers as it writes them; and a `.lfsconfig` that makes failures successes, or
    leaves to others what it says.
    """
    found: dict[str, str] = {}
    for revision, limits in trees(repo, words, paths):
        tip = revision.rpartition("..")[2] or "HEAD"
        if tip == revision:
            found |= repo.irregular(revision, limits)
        if wrong := _wrong_lfsconfig(repo, tip.removeprefix(".")):
            found[".lfsconfig"] = wrong
    yield from found.items()


def _wrong_lfsconfig(repo: Repository, commit: str) -> str:
    """What is wrong with a commit's `.lfsconfig`; "" where nothing is, or there is none."""
    if repo.is_link(commit, ".lfsconfig"):
        return "it is a symbolic link, which git-lfs follows: put the file itself there"
    values = {entry.key: entry.value for entry in repo.lfsconfig_of(commit)}
    if said := [key for key in HIDING if is_yes(values.get(key, ""))]:
        return f"it sets {' and '.join(said)}: a push or a clone then ends well without its objects"
    if included := [key for key in values if is_include(key)]:
        return f"it sets {included[0]}, and git-lfs obeys what that file says: put that into it"
    return ""


def irregular_to_json(path: str, reason: str, *, depth: Depth) -> dict[str, Any]:
    """Such a file as `--json` prints it."""
    nothing = dict.fromkeys(("oid", "size", "key", "address"))
    told = {"paths": [path], "proof": "", "proven": False, "depth": depth, "as_of": None, "reason": reason}
    return {"status": "irregular", **nothing, **told}


def to_json(finding: Finding, *, depth: Depth) -> dict[str, Any]:
    """A finding as `--json` prints it."""
    return {
        "status": finding.status,
        "oid": finding.pointer.oid,
        "size": finding.pointer.size,
        "paths": list(finding.paths),
        "key": finding.key,
        "address": finding.address,
        "proof": finding.proof,
        "proven": finding.proven,
        "depth": depth,
        "as_of": finding.as_of or None,
        "reason": redact(finding.reason),
    }


_IRREGULAR: Final[Layout] = (Column(9), Column())


def show(screen: Screen, finding: Finding) -> None:
    """A finding as a row for people."""
    pointer = finding.pointer
    reason = finding.reason if finding.address in finding.reason else f"{finding.address}: {finding.reason}"
    paths = spell_paths(finding.paths)
    screen.row(OBJECT, finding.status, pointer.oid[:12], spell_size(pointer.size), paths, note=reason)


class JUnit:
    """Findings as CI servers read them: a test case for each object, failed where it is missing or damaged."""

    def __init__(self, name: str) -> None:
        self._suite = ElementTree.Element("testsuite", name=name)
        self._counts: Counter[str] = Counter()

    def add(self, finding: Finding) -> None:
        """One more."""
        name = f"{spell_paths(finding.paths)} {finding.pointer.oid}"
        case = ElementTree.SubElement(self._suite, "testcase", classname="lfs-agent.verify", name=name)
        self._counts["tests"] += 1
        if finding.status == "present":
            return
        kind = "failure" if finding.status in ("missing", "damaged") else "error"
        self._counts[f"{kind}s"] += 1
        said = ElementTree.SubElement(case, kind, type=finding.status, message=plain(finding.reason))
        said.text = f"{plain(finding.address)}: {plain(finding.reason)}"

    def add_irregular(self, path: str, reason: str) -> None:
        """A file that is no pointer as it should be."""
        case = ElementTree.SubElement(self._suite, "testcase", classname="lfs-agent.verify", name=plain(path))
        ElementTree.SubElement(case, "failure", type="irregular", message=plain(reason))
        self._counts.update(["tests", "failures"])

    def write(self, path: Path) -> None:
        """Into a file. Raises UsageError where it can't be written."""
        for name in ("tests", "failures", "errors"):
            self._suite.set(name, str(self._counts[name]))
        try:
            ElementTree.ElementTree(self._suite).write(path, encoding="utf-8", xml_declaration=True)
        except OSError as error:
            raise UsageError(f"cannot write {path}: {error.strerror}") from None


@dataclass
class Tally:
    """Counts findings, and shows how far they are."""

    screen: Screen
    total: int = 0
    irregular: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    _size: int = 0
    _not_asked: int = 0
    _proven: int = 0
    _earlier: int = 0
    _read: int = 0
    _reading: threading.Lock = field(default_factory=threading.Lock)  # several threads read

    def count(self, finding: Finding) -> None:
        """One more."""
        self.counts[finding.status] += 1
        self._size += finding.pointer.size
        self._proven += finding.proven
        self._earlier += finding.status == "present" and bool(finding.as_of)
        self._not_asked += finding.reason == NOT_ASKED
        self._paint()

    def read(self, size: int) -> None:
        """So many more bytes have been read."""
        with self._reading:
            self._read += size
        self._paint()

    def _paint(self) -> None:
        read = f", {spell_size(self._read)} read" if self._read else ""
        done = self.counts.total()
        self.screen.progress(done, self.total, f"{done:,} of {self.total:,} objects{read}")

    def __str__(self) -> str:
        earlier = f", {self._earlier:,} as of an earlier day" if self._earlier else ""
        found = [f"{self.counts['present']:,} present ({self._proven:,} proven{earlier})"]
        wrong = ("missing", "damaged", "unproven", "archived", "unknown")
        found += [f"{self.counts[name]:,} {name}" for name in wrong if self.counts[name]]
        found += [f"{self.irregular:,} irregular"] if self.irregular else []
        not_asked = f" ({spell_not_asked(self._not_asked)})" if self._not_asked else ""
        return f"{spell_count(self.total, 'object')}, {spell_size(self._size)}: {', '.join(found)}{not_asked}"

    @property
    def status(self) -> int:
        """The exit status."""
        if self.counts["missing"] or self.counts["damaged"] or self.irregular:
            return 1
        return 3 if self.counts["unproven"] or self.counts["archived"] or self.counts["unknown"] else 0
