"""The Compute checksum job of S3 Batch Operations: its manifest, the request for it, and the report that it leaves."""

import base64
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import quote

from lfs_agent.errors import ReportError
from lfs_agent.sheets import Files, key_in, read_manifest, reading, rows
from lfs_agent.verify import Computed

_COLUMNS: Final = ("Bucket", "Key", "VersionId", "TaskStatus", "ErrorCode", "HTTPStatusCode", "ResultMessage")
"""As Amazon documents them; in the reports that it writes ErrorCode and HTTPStatusCode have changed places."""
_TOLD: Final = 200
"""Characters of what a failed task says that are told."""


@dataclass(frozen=True, slots=True)
class Job:
    """Everything that decides a job. `report_prefix` is below `report_bucket`, "" for none."""

    account: str
    role: str
    token: str
    """By which a second request for the same job is known."""
    manifest_bucket: str
    manifest_key: str
    manifest_etag: str
    manifest_version: str
    report_bucket: str
    report_prefix: str
    report_owner: str
    priority: int
    partition: str

    def request(self) -> dict[str, Any]:
        """The parameters of CreateJob."""
        location = {"ObjectArn": self._arn(f"{self.manifest_bucket}/{self.manifest_key}"), "ETag": self.manifest_etag}
        if self.manifest_version:
            location["ObjectVersionId"] = self.manifest_version
        report = {
            "Bucket": self._arn(self.report_bucket),
            "Format": "Report_CSV_20180820",
            "Enabled": True,
            "ReportScope": "AllTasks",
            "ExpectedBucketOwner": self.report_owner,
        }
        if self.report_prefix:
            report["Prefix"] = self.report_prefix
        checksum = {"ChecksumAlgorithm": "SHA256", "ChecksumType": "FULL_OBJECT"}
        return {
            "AccountId": self.account,
            "ConfirmationRequired": False,
            "Operation": {"S3ComputeObjectChecksum": checksum},
            "Manifest": {
                "Spec": {"Format": "S3BatchOperations_CSV_20180820", "Fields": ["Bucket", "Key"]},
                "Location": location,
            },
            "Report": report,
            "ClientRequestToken": self.token,
            "Description": "lfs-agent verify --batch",
            "Priority": self.priority,
            "RoleArn": self.role,
        }

    def _arn(self, name: str) -> str:
        return f"arn:{self.partition}:s3:::{name}"


def manifest_lines(bucket: str, keys: Iterable[str]) -> Iterator[bytes]:
    """The manifest's lines.

    >>> b"".join(manifest_lines("cellar", ["a+b/cd"]))
    b'cellar,a%2Bb/cd\\n'
    """
    return (f"{bucket},{quote(key)}\n".encode() for key in keys)


@dataclass(frozen=True, slots=True)
class Report:
    """What a job has found, by key; `date` None where nothing says it. `rows`: how many lines the report has."""

    date: datetime | None
    computed: Mapping[str, Computed]
    rows: int


def read_report(files: Files, bucket: str, wanted: Mapping[str, object]) -> Report:
    """What the completion report says of the keys `wanted`: that of a manifest.json, or one CSV file of it.

    Raises ReportError where it is broken, or about other buckets only.
    """
    listed, date = [("", "")], None
    if not files.name.endswith((".csv", ".csv.gz")):
        listed, date = _listed(files)
    computed: dict[str, Computed] = {}
    count, others = 0, ""
    for key, md5 in listed:
        for row in rows(files, key, md5, len(_COLUMNS)):
            if row[0] == "Bucket" and row[1] == "Key":
                continue
            count += 1
            with reading(files, key):
                name = key_in(row[1])
            if row[0] != bucket:
                others = row[0]
            elif name in wanted:
                said = _said(row)
                computed[name] = said if computed.get(name, said) == said else _AMBIGUOUS
    if others and not computed:
        raise ReportError(f"{files.name}: it is about the bucket {others[:80]!r}, not about {bucket}")
    return Report(date, computed, count)


_AMBIGUOUS: Final = Computed("", "", "the report says two things of it")


def _listed(files: Files) -> tuple[list[tuple[str, str]], datetime]:
    """The files of a report, with their MD5, and when it was written."""
    manifest = read_manifest(files)
    with reading(files):
        form, schema = str(manifest["Format"]), str(manifest["ReportSchema"])
        if form != "Report_CSV_20180820" or [name.strip() for name in schema.split(",")] != list(_COLUMNS):
            raise ValueError(f"{form[:40]} with the columns {schema[:120]}")
        date = datetime.fromisoformat(manifest["ReportCreationDate"])
        listed = [(str(each["Key"]), str(each["MD5Checksum"])) for each in manifest["Results"]]
        if not all(key and md5 for key, md5 in listed):
            raise ValueError("a file without a name or an MD5")
    return listed, date if date.tzinfo else date.replace(tzinfo=UTC)


def _said(row: list[str]) -> Computed:
    *_, status, one, other, message = row
    if status != "succeeded":
        said = " ".join(f"{one} {other} {message}".split())[:_TOLD]
        return Computed("", "", f"the job failed for it: {said or 'it does not say why'}")
    try:
        found = json.loads(message)
        algorithm, kind = str(found["checksumAlgorithm"]), str(found["checksumType"])
        etag = str(found.get("etag") or found.get("ETag") or "")
        digest = base64.b64decode(found["checksum_base64"], validate=True)
    except (LookupError, ValueError, TypeError, AttributeError, RecursionError):
        return Computed("", "", "the report has no checksum of it")
    if (algorithm, kind, len(digest)) != ("SHA256", "FULL_OBJECT", 32):
        return Computed("", "", f"the job computed {algorithm[:20]} ({kind[:20]}), not the SHA-256 of the whole object")
    return Computed(digest.hex(), etag.strip('"'), "")
