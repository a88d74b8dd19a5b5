"""Many objects and nowhere to put them: how soon a push or a pull ends, and what it says."""

import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tests.bench.source import Source, make_source
from tests.disk import Disk
from tests.machine import Home
from tests.proxy import BlackHole
from tests.servers import Server
from tests.soak.book import Book

_DEADLINE_S = 30.0
_WORKERS = 8
_KEYS = {"AWS_ACCESS_KEY_ID": "demoaccess", "AWS_SECRET_ACCESS_KEY": "demosecret", "AWS_DEFAULT_REGION": "us-east-1"}


@dataclass(frozen=True)
class Refused:
    """Pushes and a pull of `count` small objects that all have to fail."""

    folder: Path
    count: int
    git_lfs: Path | None

    def push_in_vain(self, book: Book) -> None:
        with BlackHole(accept=False) as closed, BlackHole() as silent:
            self._push(_KEYS | _endpoint(closed), "an endpoint that refuses connections", book)
            self._push(_KEYS | _endpoint(silent), "an endpoint that never answers", book)
            self._push(_endpoint(closed), "no credentials", book)

    def pull_in_vain(self, server: Server, book: Book) -> None:
        """Onto a disk that has no room for a byte."""
        home, source = self._source
        clone = self.folder / "clone"
        home.environ |= server.environ()
        server.client().create_bucket(Bucket="soak")
        home.run("git", "push", "-q", "origin", "main", cwd=source.work, timeout_s=40 * _DEADLINE_S)
        home.git("clone", "-q", source.origin, clone, env={"GIT_LFS_SKIP_SMUDGE": "1"})
        with Disk(clone / ".git" / "lfs", "1m") as disk:
            disk.fill()
            pull = [*disk.inside(), "git", "lfs", "pull"]
            # What a full disk has no room for, either, is a word to the other workers.
            self._try(pull, clone, {}, "a full disk", book, by_each_worker=True)

    @cached_property
    def _source(self) -> tuple[Home, Source]:
        home = Home(self.folder / "home", git_lfs=self.git_lfs)
        source = make_source(home, self.folder / "source", self.count, 1000, "[lfs]\n\turl = s3::soak/cellar\n")
        home.install()
        home.git("lfs", "update", cwd=source.work)
        return home, source

    def _push(self, environ: Mapping[str, str], what: str, book: Book) -> None:
        self._try(["git", "push", "-q", "origin", "main"], self._source[1].work, environ, what, book)

    def _try(
        self,
        words: Sequence[str],
        cwd: Path,
        environ: Mapping[str, str],
        what: str,
        book: Book,
        *,
        by_each_worker: bool = False,
    ) -> None:
        home = self._source[0]
        started = time.monotonic()
        done = home.run(*words, cwd=cwd, check=False, env=environ, timeout_s=40 * _DEADLINE_S)
        seconds = time.monotonic() - started
        lines = (done.stdout + done.stderr).splitlines()
        book.title(f"{self.count} objects, {what}: {seconds:.1f} s, {len(lines)} lines, status {done.returncode}")
        for cause, count in _causes(lines).most_common(6):
            book.line(f"{count:6} x {cause[:300]}")
        book.claim("it fails", done.returncode != 0)
        book.claim(f"in less than {_DEADLINE_S:.0f} s", seconds < _DEADLINE_S, f"{seconds:.1f} s")
        book.claim("no traceback", not any("Traceback" in line for line in lines))
        told = [line for line in lines if "lfs-agent log" not in line and "error transferring" in line]
        most = _WORKERS if by_each_worker else 1
        book.claim(
            f"the cause is told {'by each worker ' * by_each_worker}once", 1 <= len(told) <= most, f"{len(told)} x"
        )


def _endpoint(hole: BlackHole) -> dict[str, str]:
    return {"AWS_ENDPOINT_URL_S3": hole.endpoint}


def _causes(lines: list[str]) -> Counter[str]:
    """Lines that are equal but for the object that they name, and how many.

    >>> _causes([f"no {'a' * 64}", f"no {'b' * 64}", ""])
    Counter({'no OID': 2})
    """
    return Counter(re.sub(r"[0-9a-f]{64}", "OID", line).strip() for line in lines if line.strip())
