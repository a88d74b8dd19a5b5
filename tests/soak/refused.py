"""Many objects and nowhere to put them: how soon a push ends, and what it says."""

import re
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.bench.source import make_source
from tests.machine import Home
from tests.proxy import BlackHole
from tests.soak.book import Book

_DEADLINE_S = 30.0
_KEYS = {"AWS_ACCESS_KEY_ID": "demoaccess", "AWS_SECRET_ACCESS_KEY": "demosecret", "AWS_DEFAULT_REGION": "us-east-1"}


@dataclass(frozen=True)
class Refused:
    """Pushes of `count` small objects that all have to fail."""

    folder: Path
    count: int
    git_lfs: Path | None

    def push_in_vain(self, book: Book) -> None:
        home = Home(self.folder / "home", git_lfs=self.git_lfs)
        lfsconfig = "[lfs]\n\turl = s3::soak/cellar\n"
        work = make_source(home, self.folder / "source", self.count, 1000, lfsconfig).work
        home.install()
        home.git("lfs", "update", cwd=work)
        with BlackHole(accept=False) as closed, BlackHole() as silent:
            self._push(home, work, "an endpoint that refuses connections", _KEYS | _endpoint(closed), book)
            self._push(home, work, "an endpoint that never answers", _KEYS | _endpoint(silent), book)
            self._push(home, work, "no credentials", _endpoint(closed), book)

    def _push(self, home: Home, work: Path, what: str, environ: Mapping[str, str], book: Book) -> None:
        started = time.monotonic()
        done = home.run(
            *("git", "push", "-q", "origin", "main"), cwd=work, check=False, env=environ, timeout_s=40 * _DEADLINE_S
        )
        seconds = time.monotonic() - started
        lines = (done.stdout + done.stderr).splitlines()
        book.title(f"{self.count} objects, {what}: {seconds:.1f} s, {len(lines)} lines, status {done.returncode}")
        for cause, count in _causes(lines).most_common(6):
            book.line(f"{count:6} x {cause[:300]}")
        book.claim("the push fails", done.returncode != 0)
        book.claim(f"in less than {_DEADLINE_S:.0f} s", seconds < _DEADLINE_S, f"{seconds:.1f} s")
        book.claim("no traceback", not any("Traceback" in line for line in lines))
        told = [line for line in lines if "lfs-agent log" not in line and "error transferring" in line]
        book.claim("the cause is told once", len(told) == 1, f"{len(told)} x")


def _endpoint(hole: BlackHole) -> dict[str, str]:
    return {"AWS_ENDPOINT_URL_S3": hole.endpoint}


def _causes(lines: list[str]) -> Counter[str]:
    """Lines that are equal but for the object that they name, and how many.

    >>> _causes([f"no {'a' * 64}", f"no {'b' * 64}", ""])
    Counter({'no OID': 2})
    """
    return Counter(re.sub(r"[0-9a-f]{64}", "OID", line).strip() for line in lines if line.strip())
