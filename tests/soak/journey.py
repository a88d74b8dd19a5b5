"""There and back: objects pushed by plain git, cloned elsewhere, compared; memory and disk watched."""

import hashlib
import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from tests.bench.source import Source, make_source
from tests.machine import Home
from tests.servers import Server, is_ledger
from tests.soak.book import MIB, Book
from tests.soak.sampling import Sampler

PSS_LIMIT = 300 * MIB
"""All workers together, with one large object (row T8)."""
_SLACK = 64 * MIB
"""What pointers, records and git itself may add to a folder."""
_DAY_S = 86_400


@dataclass(frozen=True)
class Journey:
    """A push and a clone of `count` objects through `endpoint`, with a user and folders of its own."""

    folder: Path
    server: Server
    endpoint: str
    count: int
    object_size: int
    git_lfs: Path | None
    pss_limit: int = PSS_LIMIT

    def travel(self, book: Book) -> None:
        """Pushes, deletes the source, clones, compares; prints what that took."""
        home = Home(self.folder / "home", git_lfs=self.git_lfs)
        home.environ.update(self.server.environ() | {"AWS_ENDPOINT_URL_S3": self.endpoint})
        self.server.client().create_bucket(Bucket="soak")
        lfsconfig = "[lfs]\n\turl = s3::soak/cellar\n"
        source = make_source(home, self.folder / "source", self.count, self.object_size, lfsconfig)
        oids = {path.name for path in source.objects.rglob("*") if path.is_file()}
        home.install()
        home.git("lfs", "update", cwd=source.work)  # the pre-push hook
        self._push(home, source, book)
        shutil.rmtree(source.work)
        self._clone(home, source, oids, book)
        shutil.rmtree(self.folder / "clone")

    def _push(self, home: Home, source: Source, book: Book) -> None:
        with Sampler(source.work, home.folder) as sampler:
            seconds = _timed(home, "push", "-q", "origin", "main", cwd=source.work)
        self._enter(book, "push", seconds, sampler)
        book.claim("no copy of what is uploaded", sampler.disk < _SLACK, f"+{sampler.disk / MIB:.0f} MiB on disk")
        pages = self.server.client().get_paginator("list_objects_v2").paginate(Bucket="soak")
        entries = [entry for page in pages for entry in page.get("Contents", [])]
        stored = [entry["Size"] for entry in entries if not is_ledger(entry["Key"])]
        book.claim("the bucket has the objects", stored == [self.object_size] * self.count, f"{sum(stored)} bytes")
        _say_retries(book, source.work)

    def _clone(self, home: Home, source: Source, oids: set[str], book: Book) -> None:
        clone = self.folder / "clone"
        with Sampler(clone, home.folder) as sampler:
            seconds = _timed(home, "clone", "-q", source.origin, clone)
        self._enter(book, "clone", seconds, sampler)
        found = {_sha256(path) for path in clone.rglob("*.bin")}
        book.claim("the files have the SHA-256 that was pushed", found == oids, ", ".join(sorted(found))[:64])
        twice = 2 * source.size + _SLACK  # git-lfs's store and the work tree
        book.claim("no more than git-lfs needs on disk", sampler.disk < twice, f"+{sampler.disk / MIB:.0f} MiB")
        _say_retries(book, clone)

    def _enter(self, book: Book, name: str, seconds: float, sampler: Sampler) -> None:
        size = self.count * self.object_size
        book.step(name, seconds=seconds, size=size, pss=sampler.pss, workers=sampler.workers, disk=sampler.disk)
        held = 0 < sampler.pss < self.pss_limit
        book.claim(f"all workers together under {self.pss_limit // MIB} MiB", held, f"{sampler.pss / MIB:.0f} MiB")


def _timed(home: Home, *arguments: str | Path, cwd: Path | None = None) -> float:
    started = time.monotonic()
    home.run("git", *arguments, cwd=cwd, timeout_s=_DAY_S)
    return time.monotonic() - started


def _say_retries(book: Book, work: Path) -> None:
    events = [
        json.loads(line)
        for record in (work / ".git" / "lfs" / "lfs-agent" / "sessions").glob("*.jsonl")
        for line in record.read_text().splitlines()
    ]
    retries = [event for event in events if event["event"] == "retry"]
    if retries:
        book.line(f"        {len(retries)} retries, the first: {retries[0].get('message')}")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
