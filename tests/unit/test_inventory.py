"""Inventories as Amazon documents them, and as somebody else might write them."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from lfs_agent.errors import ReportError
from lfs_agent.inventory import read_inventory
from lfs_agent.store.s3files import DiskFiles
from tests import amazon
from tests.amazon import YESTERDAY, Entry, Inventory

BUCKET = "my-cellar"
KEY = f"a+b/{'ab' * 32}"


def read(manifest: Path, *keys: str) -> set[str]:
    return set(read_inventory(DiskFiles(manifest), BUCKET, dict.fromkeys(keys or (KEY,), 10)).found)


@pytest.mark.parametrize("form", ["CSV", "Parquet"])
def test_an_object_is_there_with_its_size_and_where_it_can_be_read(tmp_path: Path, form: str) -> None:
    """A key with a plus is one: a space is another key."""
    inventory = Inventory(tmp_path, BUCKET, form)
    parts = [[Entry(KEY, 10)], [Entry("cut", 9), Entry("frozen", 10, "DEEP_ARCHIVE"), Entry("strange", 10, "NEW")]]
    where = inventory.write(*parts, [Entry("c d", 10), Entry("twice", 10), Entry("twice", 11)])
    assert read(where, KEY, "cut", "frozen", "strange", "c+d", "twice", "absent") == {KEY}
    found = read_inventory(DiskFiles(where), BUCKET, {KEY: 10})
    assert (found.date, found.rows) == (YESTERDAY, 7)


@pytest.mark.parametrize("form", ["CSV", "Parquet"])
def test_of_versions_only_the_latest_counts_where_it_is_no_delete_marker(tmp_path: Path, form: str) -> None:
    entries = [
        Entry("latest", 9, latest=False),
        Entry("latest", 10),
        Entry("superseded", 10, latest=False),
        Entry("marked", 10, latest=False),
        Entry("marked", 0, delete_marker=True),
    ]
    where = Inventory(tmp_path, BUCKET, form, amazon.VERSIONED).write(entries)
    assert read(where, "latest", "superseded", "marked") == {"latest"}


Damage = Callable[[Inventory, Path], object]
NAMED = {"key": "inventories/my-cellar/daily/data/part-0.csv.gz", "size": 1, "MD5checksum": "0" * 32}


def append(text: str) -> Damage:
    """To the file, which the manifest then knows as it is."""

    def damage(inventory: Inventory, file: Path) -> None:
        with gzip.open(file, "at") as lines:
            lines.write(text)
        inventory.write_manifest([file])

    return damage


def say(**changed: object) -> Damage:
    """In the manifest."""
    return lambda inventory, file: inventory.write_manifest([file], **changed)


BROKEN: dict[str, tuple[Damage, str]] = {
    "cut off": (lambda _, file: file.write_bytes(file.read_bytes()[:-20]), "is broken, or cut off"),
    "not gzip": (lambda _, file: file.write_bytes(b"Bucket,Key"), "is broken, or cut off"),
    "another": (say(files=[NAMED]), "its MD5 is not the one in"),
    "no MD5": (say(files=[{**NAMED, "MD5checksum": ""}]), "a file without an MD5"),
    "lacking": (lambda _, file: file.unlink(), "which is not beside it"),
    "bucket": (say(sourceBucket="other"), "it is an inventory of the bucket 'other', not of my-cellar"),
    "row": (append('"other","k","1","","","STANDARD"\n'), "a row is about the bucket 'other', not my-cellar"),
    "ORC": (say(fileFormat="ORC", fileSchema=amazon.ORC), "it is in 'ORC', which is not read here"),
    "columns": (say(fileSchema="Bucket, Key, Size, ETag"), "the inventory lacks StorageClass"),
    "versions": (
        say(fileSchema="Bucket, Key, Size, IsLatest, ETag, StorageClass"),
        "the inventory lacks IsDeleteMarker",
    ),
    "width": (say(fileSchema="Bucket, Key, Size, a, b, StorageClass, c"), "a row has 6 columns, not 7"),
    "size": (append('"my-cellar","k","much","","","STANDARD"\n'), "it is not what Amazon writes"),
    "quotes": (append('"my-cellar","k"x,"1","","","STANDARD"\n'), "it is not what Amazon writes"),
    "line": (append("x" * (8 << 20)), "a line of more than 131072 characters"),
    "lines": (append('"' + "x\n" * (8 << 20)), "field larger than field limit"),
    "path": (say(files=[{**NAMED, "key": "../.."}]), "which is none of Amazon's"),
    "device": (say(files=[{**NAMED, "key": "/dev/zero"}]), "which is not beside it"),
    "date": (say(creationTimestamp="9" * 30), "it is not what Amazon writes"),
    "list": (say(files="all"), "it is not what Amazon writes"),
    "JSON": (lambda inventory, _: inventory.manifest.write_text("[" * 100_000), "it is not what Amazon writes"),
    "bytes": (lambda inventory, _: inventory.manifest.write_bytes(b"\x89PNG"), "it is not what Amazon writes"),
    "large": (lambda inventory, _: inventory.manifest.write_text(" " * (1 << 24) + "7"), "more than 16777216 bytes"),
    "number": (lambda inventory, _: inventory.manifest.write_text("7"), "it is not what Amazon writes"),
    "no file": (lambda inventory, _: inventory.manifest.unlink(), "No such file or directory"),
    "Parquet": (say(fileFormat="Parquet"), "it is not what Amazon writes"),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_or_hostile_inventory_is_an_error_in_one_line(tmp_path: Path, how: str) -> None:
    inventory = Inventory(tmp_path, BUCKET)
    where = inventory.write([Entry(KEY, 10)])
    damage, sentence = BROKEN[how]
    damage(inventory, tmp_path / "data" / "part-0.csv.gz")
    with pytest.raises(ReportError) as error:
        read(where)
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("column", ["Size", "Bucket", "StorageClass"])
def test_a_parquet_inventory_without_what_is_needed_is_an_error(tmp_path: Path, column: str) -> None:
    columns = [name for name in amazon.COLUMNS if name != column]
    with pytest.raises(ReportError, match=f"the inventory lacks {amazon.SNAKE[column]}"):
        read(Inventory(tmp_path, BUCKET, "Parquet", columns).write([Entry(KEY, 10)]))


def test_a_parquet_inventory_of_another_bucket_is_an_error_whatever_its_manifest_says(tmp_path: Path) -> None:
    where = Inventory(tmp_path, "other", "Parquet").write([Entry(KEY, 10)])
    manifest = json.loads(where.read_text())
    where.write_text(json.dumps({**manifest, "sourceBucket": BUCKET}))
    with pytest.raises(ReportError, match="a row is about another bucket than my-cellar"):
        read(where)


def test_a_parquet_inventory_of_other_types_is_an_error(tmp_path: Path) -> None:
    """pyarrow's own errors are not all of Python's kinds."""
    inventory = Inventory(tmp_path, BUCKET, "Parquet")
    inventory.write([Entry(KEY, 10)])
    file = tmp_path / "data" / "part-0.parquet"
    parquet.write_table(pyarrow.table({"bucket": [1], "key": [KEY], "size": [10], "storage_class": ["STANDARD"]}), file)
    with pytest.raises(ReportError, match="it is not what Amazon writes"):
        read(inventory.write_manifest([file]))
