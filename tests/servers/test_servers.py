import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from tests.conftest import ServerOf, absent
from tests.servers import KINDS, LocalStack, Request, Server, Tls, Versitygw
from tests.servers.server import cache


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_a_server_stores_an_object_and_its_log_shows_it(server: Server, bucket: str) -> None:
    client = server.client()
    mark = server.mark()
    client.put_object(Bucket=bucket, Key="a/b c ü", Body=b"weights")
    stored = client.get_object(Bucket=bucket, Key="a/b c ü")["Body"].read()
    requests = server.requests(since=mark)

    assert stored == b"weights"
    assert server.keys(bucket) == ["a/b c ü"]
    assert requests[0] == Request("PutObject", "PUT", bucket, "a/b c ü", {}, 200, 7)
    assert [(entry.operation, entry.key) for entry in requests[1:]] == [("GetObject", "a/b c ü")]


def test_parts_are_in_the_log(server: Server, bucket: str) -> None:
    client = server.client()
    mark = server.mark()
    upload = client.create_multipart_upload(Bucket=bucket, Key="key")["UploadId"]
    part = client.upload_part(Bucket=bucket, Key="key", UploadId=upload, PartNumber=1, Body=b"weights")
    parts = [{"PartNumber": 1, "ETag": part["ETag"]}]
    client.complete_multipart_upload(
        Bucket=bucket,
        Key="key",
        UploadId=upload,
        MultipartUpload={"Parts": parts},  # type: ignore[typeddict-item]
    )
    requests = server.requests(since=mark)

    assert [entry.operation for entry in requests] == [
        "CreateMultipartUpload",
        "UploadPart",
        "CompleteMultipartUpload",
    ]
    assert requests[1].query["partNumber"] == "1"


def test_a_wrong_checksum_is_refused_where_it_is_said_to_be(server: Server, bucket: str) -> None:
    client = server.client()
    wrong = "ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0="  # SHA-256 of "abc"
    try:
        client.put_object(Bucket=bucket, Key="key", Body=b"weights", ChecksumSHA256=wrong)
    except client.exceptions.ClientError:
        refused = True
    else:
        refused = False

    assert refused == ("checksums" in server.supports)
    assert server.keys(bucket) == ([] if refused else ["key"])


def test_a_public_bucket_answers_anyone_where_policies_are_enforced(server: Server, bucket: str) -> None:
    if "policies" not in server.supports:
        pytest.skip(f"{server.name} enforces no policies")
    client = server.client()
    client.put_object(Bucket=bucket, Key="key", Body=b"weights")
    everyone = '"Effect":"Allow","Principal":"*","Action":"s3:GetObject"'
    policy = f'{{"Version":"2012-10-17","Statement":[{{{everyone},"Resource":"arn:aws:s3:::{bucket}/*"}}]}}'
    url = f"{server.endpoint}/{bucket}/key"
    with pytest.raises(urllib.request.HTTPError, match="403"):
        urllib.request.urlopen(url)
    client.put_bucket_policy(Bucket=bucket, Policy=policy)

    with urllib.request.urlopen(url) as answer:
        assert answer.read() == b"weights"


@pytest.mark.parametrize("kind", ["localstack", "versitygw"])
def test_a_server_speaks_tls(kind: str, tls: Tls, tmp_path: Path) -> None:
    if reason := KINDS[kind].missing():
        absent(reason)
    with KINDS[kind](tmp_path, tls=tls) as server:
        server.client().create_bucket(Bucket="bucket")
        assert server.endpoint.startswith("https://")
        assert server.keys("bucket") == []


PUT_BY_HOST_NAME = """
import boto3
from botocore.config import Config
client = boto3.client("s3", config=Config(s3={"addressing_style": "virtual"}))
client.put_object(Bucket="bucket", Key="a/key", Body=b"weights")
"""


def test_a_bucket_can_be_a_host_name(tmp_path: Path) -> None:
    if reason := Versitygw.missing() or Versitygw.names_missing():
        absent(reason)
    with Versitygw(tmp_path) as server:
        server.client().create_bucket(Bucket="bucket")
        mark = server.mark()
        environ = {**server.environ(), **server.names_environ("bucket"), "AWS_ENDPOINT_URL_S3": server.virtual_endpoint}
        subprocess.run([sys.executable, "-c", PUT_BY_HOST_NAME], env=environ, check=True)

        assert [(entry.bucket, entry.key) for entry in server.requests(since=mark)] == [("bucket", "a/key")]
        assert server.keys("bucket") == ["a/key"]
        assert server.object_file("bucket", "a/key").read_bytes() == b"weights"


@pytest.mark.parametrize("kind", ["localstack", "versitygw"])
def test_no_process_is_left_after_stop(kind: str, tmp_path: Path) -> None:
    if reason := KINDS[kind].missing():
        absent(reason)
    server = KINDS[kind](tmp_path).start()
    assert listens(server.port)
    server.stop()

    assert not listens(server.port)
    assert not server.running


def test_no_process_is_left_when_its_starter_is_killed(tmp_path: Path) -> None:
    kind = "versitygw" if Versitygw.missing() is None else "localstack"
    if reason := KINDS[kind].missing():
        absent(reason)
    starter = subprocess.Popen(
        [sys.executable, "-m", "tests.servers", kind, tmp_path / "server"], stdout=subprocess.PIPE, text=True
    )
    assert starter.stdout is not None
    exports = [starter.stdout.readline() for _ in range(5)]
    (endpoint,) = [line for line in exports if "AWS_ENDPOINT_URL_S3" in line]
    port = int(endpoint.rpartition(":")[2])
    assert listens(port)
    os.kill(starter.pid, signal.SIGKILL)
    starter.communicate()

    deadline = time.monotonic() + 10
    while listens(port) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not listens(port)


def test_localstacks_client_is_pytest_localstacks(server_of: ServerOf) -> None:
    server = server_of("localstack")
    assert isinstance(server, LocalStack)
    assert server.client().meta.endpoint_url == server.endpoint


def test_the_cache_can_be_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LFS_AGENT_TEST_CACHE", str(tmp_path))
    assert cache() == tmp_path
    assert Versitygw.missing() is None or "install.sh versitygw" in str(Versitygw.missing())
