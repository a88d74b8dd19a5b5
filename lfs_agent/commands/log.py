"""Shows what the last push or pull did, and what failed in it.

All workers that one git-lfs process started are one session. The records of the last sessions are kept in the LFS
storage folder; a session that still runs is shown as far as it is.
"""

import argparse
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from lfs_agent.commands.screen import Column, Layout, Screen, waiting
from lfs_agent.commands.wording import plain, spell_count, spell_seconds, spell_size
from lfs_agent.errors import AgentError
from lfs_agent.gitrepo import Repository
from lfs_agent.session import records_in

EXAMPLES = """\
examples:
  lfs-agent log                  the last session, for people
  lfs-agent log --json -n 5      the last five, one JSON object on a line each, the newest first
"""

_SHOWN_FAILURES: Final = 20
_MOVED: Final = ("uploaded", "replaced", "downloaded", "pruned", "deleted", "gave up")
_OPERATIONS: Final = {
    "upload": ("push to", "sent"),
    "download": ("pull from", "received"),
    "push-missing": ("push-missing to", "sent"),
    "repair": ("repair of", "sent"),
    "prune": ("prune against", "deleted here"),
    "gc": ("gc of", "deleted there"),
    "uploads": ("uploads to", "given up"),
}
"""What a session is called, and what it did with objects."""
_DELETING: Final = ("prune", "gc", "uploads")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-n", type=_positive, default=1, metavar="N", dest="count", help="the last N sessions (default: 1)"
    )
    parser.add_argument("--json", action="store_true", help="print each session as one JSON object on a line")


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"not a number of sessions: {text!r}")
    return int(text)


def run(arguments: argparse.Namespace, environ: Mapping[str, str]) -> int:
    repo = Repository(Path.cwd())
    records = reversed(records_in(repo.storage / "lfs-agent"))
    summaries = [summary for record in records if (summary := summarize(record.stem, read(record)))]
    if not summaries:
        raise AgentError("nothing is recorded here: no push or pull has moved objects through lfs-agent in this clone")
    shown = summaries[: arguments.count]
    places: Places = {}
    if any(summary.failures for summary in shown):
        with waiting(repo):
            places = find_places(repo)
    screen = Screen()
    for number, summary in enumerate(shown):
        if arguments.json:
            screen.line(json.dumps(to_json(summary, places)))
            continue
        if number:
            screen.line("")
        show(screen, summary, places)
    return 0


def read(record: Path) -> Iterator[dict[str, Any]]:
    """The events of a record. A line that is not whole (its worker is writing, or was killed) is no event."""
    try:
        lines = record.read_bytes().split(b"\n")
    except OSError:  # swept away meanwhile
        return
    for line in lines:
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict) and isinstance(event.get("event"), str):
            yield event


@dataclass
class Failure:
    """An object that did not get there, and the first cause that was told for it."""

    oid: str
    size: int
    code: int
    error: str
    message: str


@dataclass
class Summary:
    """One session, all of its workers together. Times in seconds since the epoch, sizes in bytes."""

    session: str
    operation: str = ""
    remote: str = ""
    store: str = ""
    started: float = 0.0
    ended: float = 0.0
    workers: int = 0
    finished: int = 0
    objects: int = 0
    """Moved over the wire, `replaced` of them in the place of damaged ones, or deleted.

    `skipped` ones were there already, `unproven` of these by key and size alone.
    """
    replaced: int = 0
    bytes: int = 0
    parts: int = 0
    skipped: int = 0
    unproven: int = 0
    retries: int = 0
    failures: dict[str, Failure] = field(default_factory=dict)
    unrecorded: int = 0
    """Failures for which the record of a push or pull had no room."""
    waiting: str = ""
    """For what, if nothing has happened since."""

    @property
    def failed(self) -> int:
        return len(self.failures) + self.unrecorded

    @property
    def seconds(self) -> float:
        return max(0.0, self.ended - self.started)

    @property
    def rate(self) -> float:
        """Bytes a second over the wire: 0 where they were deleted."""
        return self.bytes / self.seconds if self.seconds and self.operation not in _DELETING else 0.0


def summarize(session: str, events: Iterable[Mapping[str, Any]]) -> Summary | None:
    """What the events of one session come to; None where there are none."""
    summary = Summary(session)
    totals = Summary(session)
    known = False
    lost = 0
    for event in events:
        known = True
        _note_frame(summary, event)
        summary.waiting = str(event.get("message", "")) if event["event"] == "waiting" else ""
        match event["event"]:
            case "started":
                summary.workers += 1
            case "ended":
                summary.finished += 1
                _add_worker(totals, event)
                lost += _number(event, "failed")
            case "uploaded" | "replaced" | "downloaded" | "pruned" | "deleted" | "gave up" | "skipped":
                _add_object(summary, event)
            case "failed":
                _add_failure(summary, event)
                lost -= 1
            case "retry":
                summary.retries += 1
    # A record that grew too long has left events out: then the workers' own sums say more.
    for name in ("objects", "bytes", "parts", "skipped", "unproven", "retries"):
        setattr(summary, name, max(getattr(summary, name), getattr(totals, name)))
    if summary.operation in ("upload", "download"):  # what a command counts as failed has not always such an event
        summary.unrecorded = max(0, lost)
    return summary if known else None


def _note_frame(summary: Summary, event: Mapping[str, Any]) -> None:
    for name in ("operation", "remote", "store"):
        if isinstance(value := event.get(name), str) and value:
            setattr(summary, name, value)
    try:
        at = datetime.fromisoformat(str(event.get("at"))).timestamp()
    except (ValueError, OverflowError, OSError):
        return
    summary.started = min(summary.started or at, at)
    summary.ended = max(summary.ended, at)


def _add_object(summary: Summary, event: Mapping[str, Any]) -> None:
    if event["event"] in _MOVED:
        summary.objects += 1
        summary.replaced += event["event"] == "replaced"
    else:
        summary.skipped += 1
        summary.unproven += event.get("proven") is not True
    summary.bytes += _number(event, "bytes")
    summary.parts += _number(event, "parts")
    summary.failures.pop(str(event.get("oid")), None)  # git-lfs asks a second time in a checkout


def _add_worker(totals: Summary, event: Mapping[str, Any]) -> None:
    totals.objects += _number(event, "objects") - _number(event, "skipped")
    for name in ("bytes", "parts", "skipped", "unproven", "retries"):
        setattr(totals, name, getattr(totals, name) + _number(event, name))


def _add_failure(summary: Summary, event: Mapping[str, Any]) -> None:
    oid = str(event.get("oid", ""))
    error, message = str(event.get("error", "")), str(event.get("message", ""))
    summary.failures.setdefault(oid, Failure(oid, _number(event, "size"), _number(event, "code"), error, message))


def _number(event: Mapping[str, Any], name: str) -> int:
    value = event.get(name)
    return value if isinstance(value, int) and 0 <= value < 1 << 63 else 0


Places = Mapping[str, tuple[str, int]]
"""By oid: the path that HEAD has it at, and its size."""


def find_places(repo: Repository) -> Places:
    """Where HEAD has its objects; nothing where HEAD can't be read."""
    try:
        return {pointer.oid: (path, pointer.size) for pointer, path in repo.pointers("HEAD")}
    except AgentError:
        return {}


def to_json(summary: Summary, places: Places) -> dict[str, Any]:
    """A session as `--json` prints it."""
    return {
        "session": summary.session,
        "operation": summary.operation,
        "remote": summary.remote,
        "store": summary.store,
        "started": datetime.fromtimestamp(summary.started).astimezone().isoformat(),
        "seconds": round(summary.seconds, 3),
        "workers": summary.workers,
        "running": summary.workers > summary.finished,
        "objects": summary.objects,
        "replaced": summary.replaced,
        "bytes": summary.bytes,
        "parts": summary.parts,
        "rate": round(summary.rate),
        "skipped": summary.skipped,
        "unproven": summary.unproven,
        "retries": summary.retries,
        "failed": summary.failed,
        "failures": [
            {
                "oid": failure.oid,
                "size": failure.size or places.get(failure.oid, ("", 0))[1],
                "path": places.get(failure.oid, ("", 0))[0],
                "code": failure.code,
                "error": failure.error,
                "message": failure.message,
            }
            for failure in summary.failures.values()
        ],
    }


_FACT: Final[Layout] = (Column(13), Column())
_OBJECT: Final[Layout] = (Column(10, right=True), Column())
"""A size and where it is; its oid, whole, stands below: beside it 80 columns would leave nothing for the path."""


def show(screen: Screen, summary: Summary, places: Places) -> None:
    """A session, for people."""
    called, done = _OPERATIONS.get(summary.operation, _OPERATIONS["download"])
    at = datetime.fromtimestamp(summary.started).strftime("%Y-%m-%d %H:%M:%S")
    where = f"{called} {plain(summary.store)}" if summary.store else f"{called.split()[0]} (no store was reached)"
    remote = f", remote {plain(summary.remote)}" if summary.remote else ""
    screen.line(f"{where}{remote}, {at}, {spell_seconds(summary.seconds)}")
    rate = f", {spell_size(summary.rate)}/s" if summary.rate else ""
    screen.row(_FACT, done, f"{spell_count(summary.objects, 'object')}, {spell_size(summary.bytes)}{rate}")
    if summary.replaced:
        screen.row(_FACT, "replaced", f"{spell_count(summary.replaced, 'object')} of these")
    if summary.skipped:
        unproven = f", {summary.unproven:,} of them unproven" if summary.unproven else ""
        screen.row(_FACT, "already there", f"{spell_count(summary.skipped, 'object')}{unproven}")
    if summary.retries:
        screen.row(_FACT, "asked again", spell_count(summary.retries, "time"))
    if summary.failed:
        full = f", {summary.unrecorded:,} of which the record has no room for" if summary.unrecorded else ""
        screen.row(_FACT, "failed", f"{spell_count(summary.failed, 'object')}{full}")
    if summary.workers > summary.finished:
        screen.line("not at its end: it is still running, or it was killed")
        if summary.waiting:
            screen.line(plain(summary.waiting))
    _show_failures(screen, summary.failures.values(), places)


def _show_failures(screen: Screen, failures: Iterable[Failure], places: Places) -> None:
    groups: dict[str, list[Failure]] = {}
    for failure in failures:
        groups.setdefault(_template(failure), []).append(failure)
    for template, group in groups.items():
        told = group[0].message if len(group) == 1 else template
        screen.line(f"\n{spell_count(len(group), 'object')}: {plain(told)}")
        for failure in group[:_SHOWN_FAILURES]:
            path, size = places.get(failure.oid, ("", failure.size))
            screen.row(_OBJECT, spell_size(size), path, note=failure.oid)
        if len(group) > _SHOWN_FAILURES:
            screen.line(f"and {len(group) - _SHOWN_FAILURES:,} more: lfs-agent log --json has them all")


def _template(failure: Failure) -> str:
    """The message without what only names the object, so that one cause is one group."""
    oid = failure.oid
    if not oid:
        return failure.message
    return failure.message.replace(f"{oid[:2]}/{oid[2:4]}/{oid}", "OID").replace(oid, "OID")
