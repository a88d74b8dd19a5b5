"""Reports of Compute checksum jobs as Amazon documents them, and as somebody else might write them."""

import gzip
import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest

from lfs_agent.batch import Report, read_report
from lfs_agent.errors import ReportError
from lfs_agent.store.s3files import DiskFiles
from lfs_agent.verify import Computed
from tests import amazon
from tests.amazon import YESTERDAY, JobReport, failed, succeeded

BUCKET = "my-cellar"
KEY = "a+b/key"
CONTENT = b"model"
ETAG = "ab" * 16
GOOD = succeeded(BUCKET, KEY, CONTENT, f'"{ETAG}"')
FOUND = Computed(sha256(CONTENT).hexdigest(), ETAG)


def read(where: Path) -> Report:
    return read_report(DiskFiles(where), BUCKET, {KEY: None})


def test_a_report_tells_the_checksum_and_the_etag_of_what_is_wanted(tmp_path: Path) -> None:
    others = [failed(BUCKET, "else", "404", "NoSuchKey", "gone"), succeeded("other", KEY, b"else", ETAG)]
    report = read(JobReport(tmp_path).write([GOOD, *others]))
    assert report == Report(YESTERDAY, {KEY: FOUND}, 3)


def test_an_etag_may_be_quoted_and_spelled_as_a_header_is(tmp_path: Path) -> None:
    message = json.dumps(json.loads(GOOD[-1]) | {"etag": "", "ETag": f'"{ETAG}"'})
    assert read(JobReport(tmp_path).write([[*GOOD[:-1], message]])).computed == {KEY: FOUND}


def test_files_may_be_compressed_by_whoever_keeps_them(tmp_path: Path) -> None:
    where = JobReport(tmp_path).write([GOOD])
    (file,) = (tmp_path / "results").iterdir()
    file.with_name(f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
    file.unlink()
    assert read(where).computed == {KEY: FOUND}


def test_a_date_without_a_zone_is_in_utc(tmp_path: Path) -> None:
    report = JobReport(tmp_path)
    where = report.write([GOOD])
    (file,) = (tmp_path / "results").iterdir()
    report.write_manifest({"succeeded": file}, ReportCreationDate=f"{YESTERDAY:%Y-%m-%dT%H:%M:%S}")
    assert read(where).date == YESTERDAY


@pytest.mark.parametrize("name", ["all.csv", "all.csv.gz"])
def test_one_file_of_a_report_is_read_without_its_manifest_and_has_no_date(tmp_path: Path, name: str) -> None:
    text = "Bucket,Key,VersionId,TaskStatus,ErrorCode,HTTPStatusCode,ResultMessage\n" + amazon.csv_line(GOOD)
    where = tmp_path / name
    where.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    assert read(where) == Report(None, {KEY: FOUND}, 1)


UNCLEAR = {
    "failed": (
        [failed(BUCKET, KEY, "403", "AccessDenied", "Access\nDenied")],
        "the job failed for it: 403 AccessDenied Access Denied",
    ),
    "algorithm": (
        [succeeded(BUCKET, KEY, CONTENT, ETAG, checksumAlgorithm="CRC32")],
        "the job computed CRC32 (FULL_OBJECT), not the SHA-256 of the whole object",
    ),
    "type": (
        [succeeded(BUCKET, KEY, CONTENT, ETAG, checksumType="COMPOSITE")],
        "the job computed SHA256 (COMPOSITE), not the SHA-256 of the whole object",
    ),
    "short": (
        [succeeded(BUCKET, KEY, CONTENT, ETAG, checksum_base64="YWI=")],
        "the job computed SHA256 (FULL_OBJECT), not the SHA-256 of the whole object",
    ),
    "no base64": ([succeeded(BUCKET, KEY, CONTENT, ETAG, checksum_base64="?")], "the report has no checksum of it"),
    "no JSON": ([[*GOOD[:-1], "Successful"]], "the report has no checksum of it"),
    "nested": ([[*GOOD[:-1], "[" * 50_000]], "the report has no checksum of it"),
    "a list": ([[*GOOD[:-1], "[1]"]], "the report has no checksum of it"),
    "twice": ([GOOD, succeeded(BUCKET, KEY, b"other", ETAG)], "the report says two things of it"),
    "failed, too": (
        [GOOD, failed(BUCKET, KEY, "500", "InternalError", "")],
        "the report says two things of it",
    ),
}


@pytest.mark.parametrize("how", UNCLEAR)
def test_what_a_report_does_not_say_clearly_is_no_checksum(tmp_path: Path, how: str) -> None:
    rows, reason = UNCLEAR[how]
    assert read(JobReport(tmp_path).write(rows)).computed == {KEY: Computed("", "", reason)}


def change(**changed: object) -> Callable[[JobReport, Path], object]:
    return lambda report, file: report.write_manifest({"succeeded": file}, **changed)


BROKEN: dict[str, tuple[Callable[[JobReport, Path], object], str]] = {
    "cut off": (lambda _, file: file.write_text(""), "its MD5 is not the one in"),
    "columns": (change(ReportSchema="Key, Bucket, Sum"), "with the columns Key, Bucket, Sum"),
    "format": (change(Format="Report_2030"), "Report_2030 with the columns"),
    "date": (change(ReportCreationDate="lately"), "it is not what Amazon writes"),
    "results": (change(Results={"Key": "x"}), "it is not what Amazon writes"),
    "no MD5": (change(Results=[{"Key": "x", "MD5Checksum": ""}]), "a file without a name or an MD5"),
    "no name": (change(Results=[{"Key": "", "MD5Checksum": "0" * 32}]), "a file without a name or an MD5"),
    "width": (lambda _, file: file.write_text(amazon.csv_line([*GOOD, "more"])), "a row has 8 columns, not 7"),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_report_is_an_error_in_one_line(tmp_path: Path, how: str) -> None:
    report = JobReport(tmp_path)
    where = report.write([GOOD])
    (file,) = (tmp_path / "results").iterdir()
    damage, sentence = BROKEN[how]
    damage(report, file)
    with pytest.raises(ReportError) as error:
        read(where)
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


def test_a_report_about_other_buckets_only_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="it is about the bucket 'other', not about my-cellar"):
        read(JobReport(tmp_path).write([succeeded("other", KEY, CONTENT, ETAG)]))
