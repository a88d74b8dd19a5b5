"""`read_inventory`: which of the wanted objects an S3 Inventory has, as of its date."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import ModuleType
from typing import IO, Any, Final

from lfs_agent.errors import ReportError, UsageError
from lfs_agent.sheets import Files, key_in, proven, read_manifest, reading, rows

_READABLE: Final = frozenset({"STANDARD", "REDUCED_REDUNDANCY", "STANDARD_IA", "ONEZONE_IA", "GLACIER_IR"})
"""Storage classes whose objects can be read at once; of all others the store itself is asked."""
_NEEDED: Final = ("Bucket", "Key", "Size", "StorageClass")
_VERSIONS: Final = ("IsLatest", "IsDeleteMarker")
_IN_PARQUET: Final = {
    "Bucket": "bucket",
    "Key": "key",
    "Size": "size",
    "StorageClass": "storage_class",
    "IsLatest": "is_latest",
    "IsDeleteMarker": "is_delete_marker",
}
_BLOCK: Final = 1 << 20
_BATCH: Final = 1 << 16
"""Rows of a Parquet file that are in memory together."""


@dataclass(frozen=True, slots=True)
class Inventory:
    """What a bucket had on a `date`; `rows`: how many lines the inventory has."""

    date: datetime
    found: frozenset[str]
    """The wanted keys that had the wanted size, and could be read at once."""
    rows: int


@dataclass
class _Sieve:
    """Keeps what is wanted of an inventory's rows; what two rows disagree about is not kept."""

    bucket: str
    sizes: Mapping[str, int]
    rows: int = 0
    _found: set[str] = field(default_factory=set)
    _doubtful: set[str] = field(default_factory=set)

    @property
    def found(self) -> frozenset[str]:
        return frozenset(self._found - self._doubtful)

    def add(self, key: str, size: int, storage_class: str) -> None:
        if (wanted := self.sizes.get(key)) is None:
            return
        (self._found if size == wanted and storage_class in _READABLE else self._doubtful).add(key)


def read_inventory(files: Files, bucket: str, sizes: Mapping[str, int]) -> Inventory:
    """What the inventory whose manifest.json is named says of the keys of `sizes` (in bytes).

    Memory is taken for what is found, not for the inventory.

    Raises ReportError where it is another bucket's, broken, or lacks what is needed; UsageError without pyarrow.
    """
    manifest = read_manifest(files)
    with reading(files):
        date = datetime.fromtimestamp(int(manifest["creationTimestamp"]) / 1000, UTC)
        of, form, schema = (str(manifest[name]) for name in ("sourceBucket", "fileFormat", "fileSchema"))
        listed = [(str(each["key"]), str(each["MD5checksum"])) for each in manifest["files"]]
        if not all(md5 for _, md5 in listed):
            raise ValueError("a file without an MD5")
    if of != bucket:
        raise ReportError(f"{files.name}: it is an inventory of the bucket {of[:80]!r}, not of {bucket}")
    if form not in ("CSV", "Parquet"):
        raise ReportError(f"{files.name}: it is in {form[:20]!r}, which is not read here: configure CSV or Parquet")
    sieve = _Sieve(bucket, sizes)
    for key, md5 in listed:
        if form == "CSV":
            _sift_csv(files, key, md5, [name.strip() for name in schema.split(",")], sieve)
        else:
            _sift_parquet(files, key, md5, sieve)
    return Inventory(date, sieve.found, sieve.rows)


def _check_columns(named: str, columns: Sequence[str], needed: Sequence[str]) -> None:
    if lacking := [name for name in needed if name not in columns]:
        raise ReportError(f"{named}: the inventory lacks {' and '.join(lacking)}: add that to its configuration")


def _sift_csv(files: Files, key: str, md5: str, columns: Sequence[str], sieve: _Sieve) -> None:
    versions = _VERSIONS if "IsLatest" in columns else ()
    _check_columns(files.name, columns, (*_NEEDED, *versions))
    at_bucket, at_key, at_size, at_class = map(columns.index, _NEEDED)
    of_version = [columns.index(name) for name in versions]
    with reading(files, key):
        for row in rows(files, key, md5, len(columns)):
            if row[at_bucket] != sieve.bucket:
                raise ReportError(f"{key}: a row is about the bucket {row[at_bucket][:80]!r}, not {sieve.bucket}")
            sieve.rows += 1
            if not versions or [row[at] for at in of_version] == ["true", "false"]:
                sieve.add(key_in(row[at_key]), int(row[at_size] or -1), row[at_class])


def _sift_parquet(files: Files, key: str, md5: str, sieve: _Sieve) -> None:
    arrow, parquet = _pyarrow()
    # The end of a Parquet file is read first: from the network it would come in pieces that no MD5 proves.
    with reading(files, key), tempfile.TemporaryFile() as copy:
        _copy(files, key, md5, copy)
        try:
            # Without these it reads ahead, as far as a row group goes: a gigabyte for ten million rows.
            with parquet.ParquetFile(copy, pre_buffer=False, buffer_size=_BLOCK) as file:
                _sift_batches(arrow, file, key, sieve)
        except arrow.ArrowException as error:
            raise ValueError(str(error)) from error


def _copy(files: Files, key: str, md5: str, to: IO[bytes]) -> None:
    with proven(files, key, md5) as file:
        while block := file.read(_BLOCK):
            to.write(block)
    to.seek(0)


def _sift_batches(arrow: ModuleType, file: Any, key: str, sieve: _Sieve) -> None:
    """Looks at a batch as a whole: only the rows of wanted keys become Python's."""
    compute = arrow.compute
    names = file.schema_arrow.names
    versions = [_IN_PARQUET[name] for name in _VERSIONS] if "is_latest" in names else []
    columns = [*(_IN_PARQUET[name] for name in _NEEDED), *versions]
    _check_columns(key, names, columns)
    wanted = arrow.array(list(sieve.sizes), arrow.string())
    for batch in file.iter_batches(_BATCH, columns=columns, use_threads=False):
        if not compute.all(compute.equal(batch["bucket"], sieve.bucket), skip_nulls=False, min_count=0).as_py():
            raise ReportError(f"{key}: a row is about another bucket than {sieve.bucket}")
        sieve.rows += batch.num_rows
        keys = batch["key"].cast(arrow.string())
        for row in batch.filter(compute.is_in(keys, value_set=wanted)).to_pylist():
            if not versions or [row[name] for name in versions] == [True, False]:
                sieve.add(row["key"], row["size"], row["storage_class"])


def _pyarrow() -> tuple[ModuleType, ModuleType]:
    try:
        import pyarrow  # optional, and large
        import pyarrow.compute
        from pyarrow import parquet
    except ImportError:
        raise UsageError(
            "a Parquet inventory is read by pyarrow, which is not installed: pip install 'lfs-agent[inventory]', "
            "or configure a CSV inventory"
        ) from None
    return pyarrow, parquet
