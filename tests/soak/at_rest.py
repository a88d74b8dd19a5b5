"""Inventories of millions of rows, against a repository of many pointers."""

import gzip
import hashlib
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import pyarrow
from pyarrow import parquet

from tests.amazon import Inventory, csv_line
from tests.cellar import Cellar
from tests.machine import Home
from tests.servers import Versitygw
from tests.soak.book import MIB, Book

POINTERS = 100_000
MEMORY = 512 * MIB
"""What `verify` may take; all the rows in memory would be gigabytes."""
_BUCKET = "my-cellar"
_SIZE = 10
_ROW_GROUP = 1 << 20
_METER = (
    "import resource, subprocess, sys; done = subprocess.run(sys.argv[1:]); "
    "used = resource.getrusage(resource.RUSAGE_CHILDREN); "
    "print(used.ru_utime + used.ru_stime, used.ru_maxrss * 1024, flush=True); sys.exit(done.returncode)"
)
"""A program between us and what is measured: a child begins with the peak of whoever has started it."""
_COLUMNS = ("Bucket", "Key", "Size", "LastModifiedDate", "ETag", "StorageClass")


@dataclass(frozen=True)
class Keys:
    """So many keys below one prefix: those of `oids`, spread evenly, and others."""

    count: int
    oids: Sequence[str]

    def __iter__(self) -> Iterator[str]:
        step = self.count // len(self.oids)
        for number in range(self.count):
            at, rest = divmod(number, step)
            oid = self.oids[at] if rest == 0 and at < len(self.oids) else os.urandom(32).hex()
            yield f"cellar/{oid[:2]}/{oid[2:4]}/{oid}"


class AtRest:
    """`verify` by what Amazon writes. No store is running: whoever asks one fails."""

    def __init__(self, folder: Path, rows: int) -> None:
        self._folder = folder
        home = Home(folder / "home")
        home.environ |= {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1"}
        self._cellar = Cellar(home, Versitygw(folder / "s"), _BUCKET, "cellar", folder / "origin.git", folder / "work")
        self._cellar.build()
        oids = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(POINTERS)]
        self._commit(oids)
        self._keys = Keys(rows, oids)

    def _commit(self, oids: Sequence[str]) -> None:
        """Pointers alone, in one commit."""
        lines = ["commit refs/heads/main", "committer V <v@example.com> 0 +0000", "data 0", "from refs/heads/main^0"]
        for number, oid in enumerate(oids):
            pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {_SIZE}\n"
            lines += [f"M 100644 inline {number % 100}/{number}.pt", f"data {len(pointer)}", pointer]
        self._cellar.home.run("git", "fast-import", "--quiet", cwd=self._cellar.work, stdin="\n".join(lines))

    def verify(self, book: Book) -> None:
        """By each format in turn; prints what it takes."""
        plain = Inventory(self._folder / "csv", _BUCKET, columns=_COLUMNS)
        self._judge(book, "CSV", self._csv(plain), plain)
        columns = Inventory(self._folder / "parquet", _BUCKET, "Parquet")
        self._judge(book, "Parquet", self._parquet(columns), columns)

    def _judge(self, book: Book, name: str, file: Path, inventory: Inventory) -> None:
        manifest = inventory.write_manifest([file])
        words = ["-m", "lfs_agent", "verify", "--inventory", str(manifest)]
        began = time.monotonic()
        done = self._cellar.home.run(
            sys.executable, "-c", _METER, sys.executable, *words, cwd=self._cellar.work, check=False, timeout_s=3600
        )
        seconds = time.monotonic() - began
        text, _, used = done.stdout.strip().rpartition("\n")
        processor, memory = map(float, used.split())
        book.line(
            f"{name:8}{self._keys.count:,} rows in {file.stat().st_size / MIB:.0f} MiB: {seconds:.0f} s, "
            f"{processor:.0f} s of a processor, at most {memory / MIB:.0f} MiB (RSS)"
        )
        there = f"{POINTERS:,} present (0 proven, {POINTERS:,} as of an earlier day)" in text
        right = there and done.returncode == 0
        book.claim("all are there, and no store is asked", right, "" if right else f"{text[-300:]}{done.stderr}")
        book.claim("memory is for the pointers, not for the rows", memory < MEMORY, f"{memory / MIB:.0f} MiB")

    def _csv(self, inventory: Inventory) -> Path:
        file = inventory.folder / "data" / "part-0.csv.gz"
        file.parent.mkdir(parents=True)
        tail = csv_line([_SIZE, inventory.date, "0" * 32, "STANDARD"])
        with gzip.open(file, "wt", 1) as lines:
            lines.writelines(f'"{_BUCKET}","{key}",{tail}' for key in self._keys)
        return file

    def _parquet(self, inventory: Inventory) -> Path:
        file = inventory.folder / "data" / "part-0.parquet"
        file.parent.mkdir(parents=True)
        keys = iter(self._keys)
        schema = pyarrow.schema({"bucket": "string", "key": "string", "size": "int64", "storage_class": "string"})
        with parquet.ParquetWriter(file, schema) as writer:
            while batch := list(islice(keys, _ROW_GROUP)):
                count = len(batch)
                cells = [[_BUCKET] * count, batch, [_SIZE] * count, ["STANDARD"] * count]
                writer.write_batch(pyarrow.record_batch(cells, schema=schema))
        return file
