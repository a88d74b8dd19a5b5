"""A bandwidth over half a minute: what all workers of a push, and of a pull, make of it."""

import shutil
import time
from pathlib import Path

from tests.bench.source import make_source
from tests.machine import Home
from tests.servers import Server
from tests.soak.book import MIB, Book

RATE = 20 * MIB
_COUNT = 12
_SECONDS = 30


def keep_to_it(folder: Path, server: Server, git_lfs: Path | None, book: Book) -> None:
    """Moves thirty seconds' worth up and down."""
    home = Home(folder / "home", git_lfs=git_lfs)
    home.environ.update(server.environ() | {"LFS_AGENT_BANDWIDTH": f"{RATE // MIB}MB/s"})
    server.client().create_bucket(Bucket="soak")
    size = RATE * _SECONDS // _COUNT
    source = make_source(home, folder / "source", _COUNT, size, "[lfs]\n\turl = s3::soak/cellar\n")
    home.install()
    _enter(book, "push", _timed(home, source.work, "push"), _COUNT * size)
    shutil.rmtree(source.objects)
    _enter(book, "fetch", _timed(home, source.work, "fetch"), _COUNT * size)


def _timed(home: Home, work: Path, command: str) -> float:
    started = time.monotonic()
    home.git("lfs", command, "origin", "main", cwd=work)
    return time.monotonic() - started


def _enter(book: Book, name: str, seconds: float, size: int) -> None:
    rate = size / seconds
    book.claim(f"{name} within 10 % of {RATE / MIB:g} MiB/s", abs(rate / RATE - 1) < 0.1, f"{rate / MIB:.2f} MiB/s")
