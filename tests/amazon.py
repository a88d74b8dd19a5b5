"""What Amazon writes about a bucket, in the documented formats: inventories, and reports of Compute checksum jobs.

Nobody here has seen a real one being written: the formats are those of the S3 user guide.
"""

import base64
import gzip
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

import pyarrow
from pyarrow import parquet

COLUMNS = ("Bucket", "Key", "Size", "LastModifiedDate", "ETag", "StorageClass")
VERSIONED = ("Bucket", "Key", "VersionId", "IsLatest", "IsDeleteMarker", "Size", "StorageClass")
YESTERDAY = datetime(2026, 11, 20, 1, 0, tzinfo=UTC)
ORC = "struct<bucket:string,key:string,size:bigint,storage_class:string>"

SNAKE = {
    "Bucket": "bucket", "Key": "key", "VersionId": "version_id", "IsLatest": "is_latest",
    "IsDeleteMarker": "is_delete_marker", "Size": "size", "LastModifiedDate": "last_modified_date", "ETag": "e_tag",
    "StorageClass": "storage_class",
}  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """An object, or a version of one, as an inventory knows it."""

    key: str
    size: int
    storage_class: str = "STANDARD"
    latest: bool = True
    delete_marker: bool = False

    def cells(self, bucket: str, columns: Sequence[str]) -> list[Any]:
        """One for each column, of the type that Parquet has."""
        values = {
            "Bucket": bucket, "Key": self.key, "VersionId": "v1", "IsLatest": self.latest,
            "IsDeleteMarker": self.delete_marker, "Size": None if self.delete_marker else self.size,
            "LastModifiedDate": YESTERDAY, "ETag": "0" * 32, "StorageClass": self.storage_class,
        }  # fmt: skip
        return [values[column] for column in columns]


def csv_line(cells: Iterable[Any]) -> str:
    """A row as Amazon writes it: every cell quoted."""
    return ",".join('"' + _cell(cell).replace('"', '""') + '"' for cell in cells) + "\n"


def _cell(value: Any) -> str:
    match value:
        case None:
            return ""
        case bool():
            return str(value).lower()
        case datetime():
            return value.strftime("%Y-%m-%dT%H:%M:%S.000Z")
    return str(value)


@dataclass(frozen=True)
class Inventory:
    """An inventory in `folder`, laid out as Amazon does below its destination prefix."""

    folder: Path
    bucket: str
    form: str = "CSV"
    columns: Sequence[str] = COLUMNS
    date: datetime = YESTERDAY

    @property
    def manifest(self) -> Path:
        return self.folder / self.date.strftime("%Y-%m-%dT%H-%MZ") / "manifest.json"

    @property
    def keys(self) -> str:
        """What stands before the files' names in the manifest."""
        return f"inventories/{self.bucket}/daily/data/"

    def write(self, *parts: Iterable[Entry]) -> Path:
        """One file for each of `parts`; gives the manifest."""
        data = self.folder / "data"
        data.mkdir(parents=True, exist_ok=True)
        files = [self._part(data, number, entries) for number, entries in enumerate(parts)]
        return self.write_manifest(files)

    def write_manifest(self, files: Sequence[Path], /, **changed: Any) -> Path:
        """The manifest of files that are there; `changed`: what it says otherwise."""
        schema = "message s3.inventory { }" if self.form == "Parquet" else ", ".join(self.columns)
        said = {
            "sourceBucket": self.bucket,
            "destinationBucket": "arn:aws:s3:::my-reports",
            "version": "2016-11-30",
            "creationTimestamp": str(int(self.date.timestamp() * 1000)),
            "fileFormat": self.form,
            "fileSchema": schema,
            "files": [
                {"key": self.keys + file.name, "size": file.stat().st_size, "MD5checksum": md5(file)} for file in files
            ],
        }
        self.manifest.parent.mkdir(parents=True, exist_ok=True)
        self.manifest.write_text(json.dumps({**said, **changed}))
        return self.manifest

    def _part(self, data: Path, number: int, entries: Iterable[Entry]) -> Path:
        if self.form == "Parquet":
            file = data / f"part-{number}.parquet"
            rows = [entry.cells(self.bucket, self.columns) for entry in entries]
            names = [SNAKE[column] for column in self.columns]
            parquet.write_table(pyarrow.table(dict(zip(names, zip(*rows, strict=True), strict=True))), file)
            return file
        file = data / f"part-{number}.csv.gz"
        with gzip.open(file, "wt", newline="") as lines:
            for entry in entries:
                cells = entry.cells(self.bucket, self.columns)
                cells[1] = quote_plus(entry.key, safe="/")
                lines.write(csv_line(cells))
        return file


def md5(file: Path) -> str:
    """In hex, as manifests have it."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "md5").hexdigest()


def succeeded(bucket: str, key: str, content: bytes, etag: str, **changed: str) -> list[str]:
    """A job's row about an object with this content; `changed`: what its message says otherwise."""
    digest = hashlib.sha256(content).digest()
    message = {
        "checksum_base64": base64.b64encode(digest).decode(),
        "etag": etag.strip('"'),
        "checksumAlgorithm": "SHA256",
        "checksumType": "FULL_OBJECT",
        "checksum_hex": digest.hex().upper(),
    }
    return [bucket, quote_plus(key, safe="/"), "", "succeeded", "200", "", json.dumps({**message, **changed})]


def failed(bucket: str, key: str, status: str, code: str, message: str) -> list[str]:
    """A job's row about an object that it could not read."""
    return [bucket, quote_plus(key, safe="/"), "", "failed", status, code, message]


@dataclass(frozen=True)
class JobReport:
    """The completion report of a job, in `folder` as Amazon lays it out below `job-ID`."""

    folder: Path
    prefix: str = "reports/job-1"
    date: datetime = YESTERDAY

    def write(self, rows: Iterable[Sequence[str]]) -> Path:
        """One file for those that succeeded, one for the others; gives the manifest."""
        results = self.folder / "results"
        results.mkdir(parents=True, exist_ok=True)
        kinds: dict[str, list[Sequence[str]]] = {"succeeded": [], "failed": []}
        for row in rows:
            kinds[row[3]].append(row)
        files = {}
        for kind, chosen in kinds.items():
            if chosen:
                files[kind] = results / f"{hashlib.sha1(kind.encode()).hexdigest()}.csv"
                files[kind].write_text("".join(map(csv_line, chosen)))
        return self.write_manifest(files)

    def write_manifest(self, files: dict[str, Path], /, **changed: Any) -> Path:
        """The manifest of files that are there; `changed`: what it says otherwise."""
        said = {
            "Format": "Report_CSV_20180820",
            "ReportCreationDate": self.date.strftime("%Y-%m-%dT%H:%M:%S.000Z"),
            "Results": [
                {
                    "TaskExecutionStatus": kind,
                    "Bucket": "my-reports",
                    "MD5Checksum": md5(file),
                    "Key": f"{self.prefix}/results/{file.name}",
                }
                for kind, file in files.items()
            ],
            "ReportSchema": "Bucket, Key, VersionId, TaskStatus, ErrorCode, HTTPStatusCode, ResultMessage",
        }
        manifest = self.folder / "manifest.json"
        manifest.write_text(json.dumps({**said, **changed}))
        return manifest
