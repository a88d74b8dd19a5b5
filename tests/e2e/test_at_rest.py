"""`verify` by S3 Inventory and by the report of a Compute checksum job, and the job itself."""

import json
import shlex
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from tests.amazon import YESTERDAY, Entry, Inventory, JobReport, failed, succeeded
from tests.cellar import ASKED_TWICE, Cellar
from tests.servers import Server

SIZE = 1000
AS_OF = "2026-11-20T01:00:00+00:00"
ROLE = "arn:aws:iam::123456789012:role/cellar-checksums"
OPERATIONS = {"HeadObject", "GetObject", "ListObjectsV2"}


def verify(cellar: Cellar, *arguments: str | Path, **environ: str) -> subprocess.CompletedProcess[str]:
    words = map(str, arguments)
    return cellar.home.run("lfs-agent", "verify", *words, cwd=cellar.work, check=False, env=environ)


def findings(done: subprocess.CompletedProcess[str]) -> dict[str, dict[str, Any]]:
    """By oid, from the output of --json."""
    found = [json.loads(line) for line in done.stdout.splitlines()]
    return {finding["oid"]: finding for finding in found}


@pytest.fixture
def oids(cellar: Cellar) -> list[str]:
    """Six objects of SIZE bytes, pushed."""
    found = [cellar.write(f"model-{n}.pt", SIZE, seed=n) for n in range(6)]
    cellar.commit("Add models")
    cellar.push()
    return found


@pytest.fixture
def reports(cellar: Cellar) -> str:
    """A bucket for what Amazon writes; the cellar's is not it."""
    name = f"{cellar.bucket}-reports"[-63:].lstrip("-")
    cellar.server.client().create_bucket(Bucket=name)
    return name


def upload(cellar: Cellar, folder: Path, bucket: str, prefix: str) -> None:
    client = cellar.server.client()
    for file in folder.rglob("*"):
        if file.is_file():
            key = f"{prefix}/{file.relative_to(folder)}"
            client.put_object(Bucket=bucket, Key=key, Body=file.read_bytes())


def content_of(cellar: Cellar, oid: str) -> bytes:
    return cellar.local_object(oid).read_bytes()


# The inventory


@pytest.mark.parametrize("form, place", [("CSV", "disk"), ("Parquet", "bucket")])
def test_what_an_inventory_has_is_not_asked_for_and_what_it_lacks_is(
    cellar: Cellar, oids: list[str], reports: str, tmp_path: Path, form: str, place: str
) -> None:
    """Present as of its date; pushed since, missing, of another size, archived: the store says what is so now."""
    first, second, pushed_since, gone, grown, frozen = oids
    s3 = cellar.server.client()
    s3.delete_object(Bucket=cellar.bucket, Key=cellar.key(gone))
    entries = [Entry(cellar.key(oid), SIZE) for oid in (first, second)]
    others = [Entry(cellar.key(grown), SIZE + 1), Entry(cellar.key(frozen), SIZE, "GLACIER"), Entry("other", 1)]
    inventory = Inventory(tmp_path / "inventory", cellar.bucket, form)
    where: Path | str = inventory.write(entries, others)
    if place == "bucket":
        upload(cellar, tmp_path / "inventory", reports, f"inventories/{cellar.bucket}/daily")
        where = f"s3://{reports}/inventories/{cellar.bucket}/daily/2026-11-20T01-00Z/manifest.json"
    before = cellar.server.mark()

    done = verify(cellar, "--json", "--inventory", where)

    assert done.returncode == 1, done
    found = findings(done)
    assert {oid: (finding["status"], finding["as_of"]) for oid, finding in found.items()} == {
        first: ("present", AS_OF),
        second: ("present", AS_OF),
        pushed_since: ("present", None),
        gone: ("missing", None),
        grown: ("present", None),
        frozen: ("present", None),
    }
    assert not found[first]["proven"]
    assert f"5 rows of an inventory of {AS_OF}: it has 2 of 6 objects" in done.stderr
    assert "5 present (3 proven, 2 as of an earlier day), 1 missing" in done.stderr
    asked = {r.key for r in cellar.server.requests(before) if r.bucket == cellar.bucket and r.operation in OPERATIONS}
    assert asked == {cellar.key(oid) for oid in (pushed_since, gone, grown, frozen)}


@pytest.mark.parametrize("name", ["another.pt", "zoo.pt"])  # before and after the one with the right size
def test_of_an_object_with_two_sizes_the_store_is_asked(
    cellar: Cellar, oids: list[str], tmp_path: Path, name: str
) -> None:
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{oids[0]}\nsize {SIZE + 1}\n"
    (cellar.work / name).write_text(pointer)
    past_the_filter = ("-c", "filter.lfs.clean=", "-c", "filter.lfs.process=", "-c", "filter.lfs.required=false")
    cellar.git(*past_the_filter, "add", name)
    cellar.git(*past_the_filter, "commit", "-q", "-m", "Say another size")
    where = Inventory(tmp_path / "inventory", cellar.bucket).write([Entry(cellar.key(oid), SIZE) for oid in oids])

    done = verify(cellar, "--json", "--inventory", where)

    assert done.returncode == 1
    found = {each["paths"][0]: each for each in map(json.loads, done.stdout.splitlines())}
    assert (found["model-0.pt"]["status"], found[name]["status"]) == ("present", "damaged")
    assert found[name]["reason"] == f"it has {SIZE} bytes, not {SIZE + 1}"
    assert "it has 5 of 6 objects" in done.stderr


@pytest.mark.parametrize("days", ["99999999999", "-1", "0", "seven"])
def test_an_age_is_a_number_of_days(cellar: Cellar, days: str) -> None:
    done = verify(cellar, "--inventory", "manifest.json", "--max-age", days)
    assert done.returncode == 2
    assert f"argument --max-age: not a number of days: '{days}'" in done.stderr


@pytest.mark.parametrize("prefix", ["team@example.org/daily", "it's (new)/daily"])
def test_a_report_lies_below_any_prefix_that_a_url_takes(
    cellar: Cellar, oids: list[str], reports: str, tmp_path: Path, prefix: str
) -> None:
    prefix = prefix.replace(" ", "+")
    inventory = Inventory(tmp_path / "inventory", cellar.bucket)
    manifest = inventory.write([Entry(cellar.key(oid), SIZE) for oid in oids])
    manifest.write_text(manifest.read_text().replace(inventory.keys, f"{prefix}/data/"))
    upload(cellar, tmp_path / "inventory", reports, prefix)

    done = verify(cellar, "--inventory", f"s3://{reports}/{prefix}/2026-11-20T01-00Z/manifest.json")

    assert done.returncode == 0, done
    assert "it has 6 of 6 objects" in done.stdout


def test_a_report_that_is_missing_or_empty_is_no_missing_object(cellar: Cellar, oids: list[str], reports: str) -> None:
    cellar.server.client().put_object(Bucket=reports, Key="empty/manifest.json", Body=b"")
    for name, said in (("none", "nothing is there, or it was deleted"), ("empty", "it is ")):
        done = verify(cellar, "--batch-report", f"s3://{reports}/{name}/manifest.json")
        assert (done.returncode, done.stdout) == (3, "")
        assert f"s3://{reports}/{name}/manifest.json: {said}" in done.stderr
        assert "pushed" not in done.stderr
        assert "object" not in done.stderr


def test_an_inventory_that_cannot_serve_is_refused_in_a_sentence(
    cellar: Cellar, oids: list[str], tmp_path: Path
) -> None:
    """Too old, of a depth that it has not, in a format without its library, cut off."""
    entries = [Entry(cellar.key(oid), SIZE) for oid in oids]
    old = Inventory(tmp_path / "old", cellar.bucket, date=YESTERDAY.replace(year=2020)).write(entries)
    done = verify(cellar, "--inventory", old, "--max-age", "7")
    assert (done.returncode, done.stdout) == (3, "")
    assert "it is of 2020-11-20T01:00:00+00:00, more than 7 days old" in done.stderr
    assert verify(cellar, "--inventory", old, "--deep").returncode == 2

    (tmp_path / "pyarrow.py").write_text("raise ImportError\n")
    where = Inventory(tmp_path / "parquet", cellar.bucket, "Parquet").write(entries)
    done = verify(cellar, "--inventory", where, PYTHONPATH=str(tmp_path))
    assert (done.returncode, done.stdout) == (2, "")
    assert "pip install 'lfs-agent[inventory]'" in done.stderr

    file = tmp_path / "old" / "data" / "part-0.csv.gz"
    file.write_bytes(file.read_bytes()[:-20])
    done = verify(cellar, "--inventory", old)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith("lfs-agent verify: ")
    assert "the compressed file is broken, or cut off" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("what", ["--inventory", "--batch-report", "--batch"])
def test_a_bucket_of_the_command_line_that_is_not_there_is_not_the_store(
    cellar: Cellar, oids: list[str], what: str
) -> None:
    done = verify(cellar, what, "s3://nobody-made-this-bucket/manifest.json")
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.endswith(f"; create the bucket at {cellar.server.endpoint}, or correct the URL\n")


@pytest.mark.parametrize("server", ["localstack"], indirect=True)
def test_an_archived_inventory_says_nothing_of_the_objects(
    server: Server, cellar: Cellar, oids: list[str], reports: str
) -> None:
    cellar.server.client().put_object(Bucket=reports, Key="manifest.json", Body=b"{}", StorageClass="GLACIER")
    done = verify(cellar, "--inventory", f"s3://{reports}/manifest.json")
    assert (done.returncode, done.stdout) == (3, "")
    assert "it is archived (GLACIER); restore it" in done.stderr


# The report of a job


@pytest.mark.parametrize("place", ["disk", "bucket"])
def test_an_altered_object_is_found_by_a_report_without_a_download(
    cellar: Cellar, oids: list[str], reports: str, tmp_path: Path, place: str
) -> None:
    good, altered, denied, absent, replaced, gone = oids
    s3 = cellar.server.client()
    flipped = bytes([content_of(cellar, altered)[0] ^ 1]) + content_of(cellar, altered)[1:]
    s3.put_object(Bucket=cellar.bucket, Key=cellar.key(altered), Body=flipped)
    etags = {oid: s3.head_object(Bucket=cellar.bucket, Key=cellar.key(oid))["ETag"] for oid in oids}
    s3.delete_object(Bucket=cellar.bucket, Key=cellar.key(gone))
    rows = [
        succeeded(cellar.bucket, cellar.key(good), content_of(cellar, good), etags[good]),
        succeeded(cellar.bucket, cellar.key(altered), flipped, etags[altered]),
        failed(cellar.bucket, cellar.key(denied), "403", "AccessDenied", "Access Denied"),
        succeeded(cellar.bucket, cellar.key(replaced), content_of(cellar, replaced), "0" * 32),
        succeeded(cellar.bucket, cellar.key(gone), content_of(cellar, gone), etags[gone]),
    ]
    where: Path | str = JobReport(tmp_path / "job-1").write(rows)
    if place == "bucket":
        upload(cellar, tmp_path, reports, "reports")
        where = f"s3://{reports}/reports/job-1/manifest.json"
    before = cellar.server.mark()

    done = verify(cellar, "--json", "--batch-report", where)

    assert done.returncode == 1, done
    found = findings(done)
    assert {oid: finding["status"] for oid, finding in found.items()} == {
        good: "present",
        altered: "damaged",
        denied: "unproven",
        absent: "unproven",
        replaced: "unproven",
        gone: "missing",
    }
    assert (found[good]["proof"], found[good]["proven"], found[good]["depth"]) == ("store", True, "report")
    assert found[good]["as_of"] == AS_OF
    assert found[altered]["reason"].endswith("as a Compute checksum job at the store found")
    assert found[denied]["reason"] == "the job failed for it: 403 AccessDenied Access Denied"
    assert "the report has nothing of it" in found[absent]["reason"]
    assert "it was replaced since" in found[replaced]["reason"]
    read = [r for r in cellar.server.requests(before) if r.bucket == cellar.bucket and r.operation == "GetObject"]
    assert [request for request in read if request.key != cellar.key(gone)] == []


# The job


@dataclass
class ControlServer:
    """Answers as STS and as S3 Control do; keeps what it was sent. Without a real one nobody else can be asked."""

    status: int = 201
    jobs: list[tuple[str, ElementTree.Element]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    port: int = 0

    def answer(self, url: str, body: bytes) -> tuple[int, str]:
        if b"GetCallerIdentity" in body:
            return 200, (
                '<GetCallerIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><GetCallerIdentityResult>'
                "<Account>123456789012</Account></GetCallerIdentityResult></GetCallerIdentityResponse>"
            )
        self.jobs.append((url, ElementTree.fromstring(body)))
        if self.status == 403:
            return 403, "<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
        return self.status, "<CreateJobResult><JobId>1f-2e</JobId></CreateJobResult>"

    def environ(self) -> dict[str, str]:
        """A client's: the account's own host name, which nobody resolves here, is reached through a proxy."""
        return {
            "AWS_ENDPOINT_URL_STS": f"http://127.0.0.1:{self.port}",
            "AWS_ENDPOINT_URL_S3_CONTROL": "http://localhost:9",
            "HTTP_PROXY": f"http://127.0.0.1:{self.port}",
            "http_proxy": f"http://127.0.0.1:{self.port}",
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
        }


@contextmanager
def control_server(status: int = 201) -> Iterator[ControlServer]:
    control = ControlServer(status)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            control.headers.append(dict(self.headers))
            status, text = control.answer(self.path, body)
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        control.port = server.server_port
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield control
        finally:
            server.shutdown()


def texts(element: ElementTree.Element) -> dict[str, str]:
    """What the leaves of a request say, by their paths."""
    name = element.tag.rpartition("}")[2]
    if len(element) == 0:
        return {name: element.text or ""}
    found: dict[str, str] = {}
    for number, child in enumerate(element):
        for path, text in texts(child).items():
            found[f"{name}/{path}" + (f"[{number}]" if path == "member" else "")] = text
    return found


def test_the_manifest_is_written_and_the_job_is_created(cellar: Cellar, oids: list[str], reports: str) -> None:
    (cellar.work / "empty.pt").write_bytes(b"")
    cellar.commit("Add an empty model")
    with control_server() as control:
        where = f"s3://{reports}/jobs/manifest.csv"
        done = verify(cellar, "--batch", where, "--role", ROLE, "--priority", "7", **control.environ())
        assert done.returncode == 0, done
        again = verify(cellar, "--batch", where, "--role", ROLE, **control.environ())

    manifest = cellar.server.client().get_object(Bucket=reports, Key="jobs/manifest.csv")
    assert sorted(manifest["Body"].read().decode().splitlines()) == sorted(
        f"{cellar.bucket},{cellar.key(oid)}" for oid in oids
    )
    ((url, request),) = control.jobs
    assert url == "http://123456789012.localhost:9/v20180820/jobs"
    found = texts(request)
    assert len(found.pop("CreateJobRequest/ClientRequestToken")) == 36
    assert found == {
        "CreateJobRequest/ConfirmationRequired": "false",
        "CreateJobRequest/Description": "lfs-agent verify --batch",
        "CreateJobRequest/Manifest/Location/ETag": manifest["ETag"].strip('"'),
        "CreateJobRequest/Manifest/Location/ObjectArn": f"arn:aws:s3:::{reports}/jobs/manifest.csv",
        "CreateJobRequest/Manifest/Spec/Fields/member[0]": "Bucket",
        "CreateJobRequest/Manifest/Spec/Fields/member[1]": "Key",
        "CreateJobRequest/Manifest/Spec/Format": "S3BatchOperations_CSV_20180820",
        "CreateJobRequest/Operation/S3ComputeObjectChecksum/ChecksumAlgorithm": "SHA256",
        "CreateJobRequest/Operation/S3ComputeObjectChecksum/ChecksumType": "FULL_OBJECT",
        "CreateJobRequest/Priority": "7",
        "CreateJobRequest/Report/Bucket": f"arn:aws:s3:::{reports}",
        "CreateJobRequest/Report/Enabled": "true",
        "CreateJobRequest/Report/ExpectedBucketOwner": "123456789012",
        "CreateJobRequest/Report/Format": "Report_CSV_20180820",
        "CreateJobRequest/Report/Prefix": "jobs",
        "CreateJobRequest/Report/ReportScope": "AllTasks",
        "CreateJobRequest/RoleArn": ROLE,
    }
    assert control.headers[-1]["x-amz-account-id"] == "123456789012"
    assert "/us-east-1/s3/aws4_request" in control.headers[-1]["Authorization"]
    assert f"lfs-agent verify --batch-report s3://{reports}/jobs/job-1f-2e/manifest.json" in done.stdout
    assert again.returncode == 3  # what is there is somebody's: it is not replaced
    assert "each job needs a manifest of its own: name another key" in again.stderr
    assert len(control.jobs) == 1


def test_without_the_right_the_manifest_stays_and_the_command_is_printed(
    cellar: Cellar, oids: list[str], reports: str
) -> None:
    with control_server(status=403) as control:
        where = f"s3://{reports}/manifest.csv"
        done = verify(cellar, "--batch", where, "--role", ROLE, "--account", "123456789012", **control.environ())
    assert done.returncode == 3
    assert "403 AccessDenied (Access Denied); s3:CreateJob is needed, and iam:PassRole on the job's role" in done.stderr
    assert cellar.server.keys(reports) == ["manifest.csv"]
    command = done.stdout.splitlines()[-1]
    assert command.startswith("aws s3control create-job --account-id 123456789012 --no-confirmation-required ")
    assert '"S3ComputeObjectChecksum": {"ChecksumAlgorithm": "SHA256", "ChecksumType": "FULL_OBJECT"}' in command


def test_a_dry_run_writes_nothing_and_a_file_is_written_with_the_commands_that_go_on(
    cellar: Cellar, oids: list[str], reports: str, tmp_path: Path
) -> None:
    before = cellar.server.mark()
    done = verify(cellar, "--batch", f"s3://{reports}/manifest.csv", "--role", ROLE, "--dry-run")
    assert done.returncode == 0, done
    assert "aws s3control create-job" in done.stdout
    assert cellar.server.requests(before) == []

    file = tmp_path / "manifest.csv"
    done = verify(cellar, "--batch", file, "--report", f"s3://{reports}/job-reports")
    assert done.returncode == 0, done
    assert len(file.read_text().splitlines()) == 6
    assert f"aws s3 cp {file} s3://BUCKET/manifest.csv" in done.stdout
    assert f'"Bucket": "arn:aws:s3:::{reports}"' in done.stdout
    assert '"Prefix": "job-reports"' in done.stdout

    again = verify(cellar, "--batch", file)
    assert (again.returncode, again.stdout) == (2, "")
    assert f"{file} exists, and is not replaced: name another file" in again.stderr
    assert len(file.read_text().splitlines()) == 6

    # Not Amazon's, and nobody has named another endpoint.
    done = verify(cellar, "--batch", f"s3://{reports}/it's(new)/manifest.csv", "--role", ROLE)
    assert done.returncode == 3
    assert "is not Amazon's, and S3 Batch Operations is" in done.stderr
    assert "no job was created; somebody who may do that does it by:\naws s3control create-job" in done.stdout

    done = verify(cellar, "--batch", f"s3://{reports}/it's(new)/manifest.csv", "--dry-run")
    (command,) = [line for line in done.stdout.splitlines() if line.startswith("aws s3api")]
    assert shlex.split(command)[3:7] == ["--bucket", reports, "--key", "it's(new)/manifest.csv"]


def test_a_job_of_which_nothing_was_heard_can_be_asked_for_again(cellar: Cellar, oids: list[str], reports: str) -> None:
    with control_server(status=500) as control:
        where = f"s3://{reports}/manifest.csv"
        environ = {**control.environ(), **ASKED_TWICE}
        done = verify(cellar, "--batch", where, "--role", ROLE, **environ)
    assert done.returncode == 3
    assert "nobody knows whether a job was created; the same request again creates no second one:" in done.stdout
    command = shlex.split(done.stdout.splitlines()[-1])
    asked = {texts(request)["CreateJobRequest/ClientRequestToken"] for _, request in control.jobs}
    assert asked == {command[command.index("--client-request-token") + 1]}


def test_what_is_for_the_job_alone_is_refused_without_it(cellar: Cellar) -> None:
    for words in (["--priority", "0"], ["--priority", "7"], ["--dry-run"], ["--role", ROLE]):
        done = verify(cellar, *words)
        assert done.returncode == 2
        assert f"{words[0]} is for --batch" in done.stderr
