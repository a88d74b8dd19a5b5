"""`python -m tests.soak`: large objects, a slow link, a bandwidth, 10,000 refused objects, an inventory, storms.

Ends with 1 where a claim does not hold. Needs four times the size of the large objects on disk.
"""

import argparse
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.machine import Home
from tests.proxy import FaultProxy, Faults, Rule, Throttle
from tests.servers import KINDS, Ceph, Server, Versitygw, cache
from tests.soak import limit
from tests.soak.at_rest import AtRest
from tests.soak.book import MIB, Book
from tests.soak.journey import Journey
from tests.soak.refused import Refused
from tests.storm.campaign import Campaign
from tests.storm.crew import Crew, running_servers

PARTS = ("large", "many", "slow", "limit", "refused", "inventory", "storm")
SLOW = 1_000_000
"""Bytes a second of the slow link."""


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", default=",".join(PARTS), help="some of %(default)s")
    parser.add_argument("--servers", default="versitygw,ceph", help="for the large object (default: %(default)s)")
    parser.add_argument(
        "--size",
        type=float,
        default=6,
        metavar="GIB",
        help="of it; each of eight has a sixth of that (default: %(default)s)",
    )
    parser.add_argument("--minutes", type=float, default=2, help="on the slow link, both ways (default: %(default)s)")
    parser.add_argument("--objects", type=int, default=10_000, help="that nobody takes (default: %(default)s)")
    parser.add_argument("--rows", type=int, default=10_000_000, help="of the inventory (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=10_000, help="of storms (default: %(default)s)")
    parser.add_argument("--storm-minutes", type=float, default=60, help="for them, in this call (default: %(default)s)")
    parser.add_argument("--at-once", type=int, default=2, help="of them (default: %(default)s)")
    parser.add_argument(
        "--results",
        type=Path,
        default=cache() / "storm",
        help="of storms; a further call goes on with the seeds that are left (default: %(default)s)",
    )
    parser.add_argument("--folder", type=Path, help="where to work (default: the system's temporary folder)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse_arguments(argv)
    book = Book()
    newest = cache() / "git-lfs-3.8.1"
    git_lfs = newest if newest.exists() else None
    parts = arguments.parts.split(",")
    size = int(arguments.size * (1 << 30))
    base = Path(arguments.folder or tempfile.gettempdir())
    needed = 4 * max(size * ("large" in parts), 8 * (size // 6) * ("many" in parts))
    if shutil.disk_usage(base).free < needed:
        print(f"{base} has less than {needed / (1 << 30):.0f} GiB free: name another --folder", file=sys.stderr)
        return 1
    with _folder(base) as folder:
        book.title(Home(folder / "home", git_lfs=git_lfs).run("git", "lfs", "version").stdout.strip())
    if "large" in parts:
        for name in arguments.servers.split(","):
            _large(base, name, size, git_lfs, book)
    if "many" in parts:
        _many(base, size // 6, git_lfs, book)
    if "slow" in parts:
        _slow(base, arguments.minutes, git_lfs, book)
    if "limit" in parts:
        _limit(base, git_lfs, book)
    if "refused" in parts:
        _refused(base, arguments.objects, git_lfs, book)
    if "inventory" in parts:
        book.title(f"an inventory of {arguments.rows:,} rows")
        with _folder(base) as folder:
            AtRest(folder, arguments.rows).verify(book)
    if "storm" in parts:
        _storm(base, arguments, book)
    book.title(f"BROKEN: {len(book.broken)}" if book.broken else "All claims hold.")
    return bool(book.broken)


def _large(base: Path, name: str, size: int, git_lfs: Path | None, book: Book) -> None:
    kind = KINDS[name]
    if reason := kind.missing():
        book.title(f"skipped: {reason}")
        return
    book.title(f"one object of {size / (1 << 30):g} GiB, {name}")
    with _folder(base) as folder, _server(kind, folder / "s") as server:
        Journey(folder, server, server.endpoint, 1, size, git_lfs).travel(book)


def _many(base: Path, size: int, git_lfs: Path | None, book: Book) -> None:
    """Eight at once, a worker each."""
    if reason := Versitygw.missing():
        book.title(f"skipped: {reason}")
        return
    book.title(f"eight objects of {size / (1 << 30):g} GiB, versitygw")
    with _folder(base) as folder, Versitygw(folder / "s") as server:
        Journey(folder, server, server.endpoint, 8, size, git_lfs, pss_limit=500 * MIB).travel(book)


def _limit(base: Path, git_lfs: Path | None, book: Book) -> None:
    if reason := Versitygw.missing():
        book.title(f"skipped: {reason}")
        return
    book.title(f"a bandwidth of {limit.RATE // MIB} MiB/s over half a minute")
    with _folder(base) as folder, Versitygw(folder / "s") as server:
        limit.keep_to_it(folder, server, git_lfs, book)


def _refused(base: Path, count: int, git_lfs: Path | None, book: Book) -> None:
    with _folder(base) as folder:
        refused = Refused(folder, count, git_lfs)
        refused.push_in_vain(book)
        if reason := Versitygw.missing():
            book.title(f"skipped: {reason}")
            return
        try:
            with Versitygw(folder / "s") as server:
                refused.pull_in_vain(server, book)
        except pytest.skip.Exception as reason:
            book.title(f"skipped: {reason}")


def _storm(base: Path, arguments: argparse.Namespace, book: Book) -> None:
    campaign = Campaign(arguments.results)
    before = len(campaign.done)
    book.title(f"{arguments.seeds} storms, {before} of them before; results in {arguments.results}")
    with (
        _folder(base) as folder,
        running_servers(folder) as server_of,
        Crew(server_of, folder, arguments.at_once) as crew,
    ):
        campaign.go_on(range(arguments.seeds), arguments.storm_minutes, crew, book.line)
    book.title(f"{len(campaign.done) - before} storms in this call, {len(campaign.done)} of {arguments.seeds}")
    campaign.tell(book.line)
    broken = ", ".join(map(str, campaign.broken))
    book.claim("right objects, and right ones only, after every seed", not broken, broken and f"not after {broken}")


def _server(kind: type[Server], folder: Path) -> Server:
    return Ceph(folder, store="bluestore") if kind is Ceph else kind(folder)


def _slow(base: Path, minutes: float, git_lfs: Path | None, book: Book) -> None:
    count = 4
    object_size = int(minutes / 2 * 60 * SLOW / count)
    if reason := Versitygw.missing():
        book.title(f"skipped: {reason}")
        return
    book.title(f"{count} objects of {object_size} bytes over a link of {SLOW} bytes a second, {minutes:g} minutes")
    throttle = Faults((Rule(Throttle(up=SLOW, down=SLOW)),))
    with _folder(base) as folder, Versitygw(folder / "s") as server, FaultProxy(server.endpoint, throttle) as link:
        Journey(folder, server, link.endpoint, count, object_size, git_lfs).travel(book)


@contextmanager
def _folder(base: Path) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="lfs-agent-soak-", dir=base))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that all is cleaned up
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
