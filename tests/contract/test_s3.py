"""What S3 alone has: metadata that a stranger can check, storage classes, owners, keys that are refused."""

import base64
import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from botocore.credentials import RefreshableCredentials

import lfs_agent
from lfs_agent.config import Settings
from lfs_agent.errors import CredentialsError, DeniedError, MissingError, SessionError, TransientError, UnreachableError
from lfs_agent.parts import MIB
from lfs_agent.store.aws import Aws
from lfs_agent.store.connection import Connection
from lfs_agent.store.s3 import S3Store, S3Upload
from tests.conftest import absent
from tests.contract.conftest import BucketOf
from tests.contract.stores import BytesBody, aws_of, content, crc_of, oid_of, put_parts, read, retrying, s3_store
from tests.proxy import ACCESS_DENIED, EXPIRED_TOKEN, Answer, FaultProxy, Faults, Rule, Seen
from tests.servers import KINDS, Server, Tls, Versitygw, access

DATA = content(1000)
OID = oid_of(DATA)
KEY = f"weights/{OID}"

EVERY = list(KINDS)
WITH_CHECKSUMS = [name for name, kind in KINDS.items() if "checksums" in kind.supports]
WITH_SECRETS = [name for name, kind in KINDS.items() if "wrong_secret_refused" in kind.supports]
WITH_POLICIES = [name for name, kind in KINDS.items() if "policies" in kind.supports]


def put(store: S3Store) -> None:
    store.put(KEY, OID, BytesBody(DATA))


# What a stranger sees


@pytest.mark.parametrize("kind", EVERY)
@pytest.mark.parametrize("size", [1000, 6 * MIB])
def test_metadata_says_what_it_is_and_who_sent_it(bucket_of: BucketOf, kind: str, size: int) -> None:
    place, data = bucket_of(kind), content(size)
    if size > MIB:
        upload = place.store.begin(KEY, oid_of(data), size)
        upload.complete(put_parts(upload, data), crc_of(data))
    else:
        place.store.put(KEY, oid_of(data), BytesBody(data))

    head = place.client.head_object(Bucket=place.bucket, Key=KEY)

    assert head["Metadata"] == {
        "sha256": oid_of(data),
        "size": str(size),
        "agent": f"lfs-agent/{lfs_agent.__version__}",
    }
    assert head["ContentType"] == "application/octet-stream"
    assert head["ContentLength"] == size


@pytest.mark.parametrize("kind", WITH_CHECKSUMS)
def test_a_stranger_can_check_a_whole_object(bucket_of: BucketOf, kind: str) -> None:
    place = bucket_of(kind)
    put(place.s3)

    head = place.client.head_object(Bucket=place.bucket, Key=KEY, ChecksumMode="ENABLED")

    assert head["ChecksumSHA256"] == base64.b64encode(hashlib.sha256(DATA).digest()).decode()


@pytest.mark.parametrize("kind", WITH_CHECKSUMS)
def test_a_stranger_can_check_an_object_of_parts(bucket_of: BucketOf, kind: str) -> None:
    place, data = bucket_of(kind), content(12 * MIB)
    upload = place.store.begin(KEY, oid_of(data), len(data))
    upload.complete(put_parts(upload, data), crc_of(data))

    head = place.client.head_object(Bucket=place.bucket, Key=KEY, ChecksumMode="ENABLED")

    assert (head["ChecksumCRC32C"], head["ChecksumType"]) == (crc_of(data), "FULL_OBJECT")


@pytest.mark.parametrize("size", [1000, 6 * MIB])
@pytest.mark.parametrize("tier, sse, key", [("STANDARD_IA", "aws:kms", "alias/weights"), ("GLACIER_IR", "AES256", "")])
def test_storage_class_and_encryption_are_as_they_were_asked_for(
    bucket_of: BucketOf, size: int, tier: str, sse: str, key: str
) -> None:
    place, data = bucket_of("localstack"), content(size)
    store = place.store_with(storage_class=tier, sse=sse, sse_kms_key_id=key or None)
    if size > MIB:
        upload = store.begin(KEY, oid_of(data), size)
        upload.complete(put_parts(upload, data), crc_of(data))
    else:
        store.put(KEY, oid_of(data), BytesBody(data))

    head = place.client.head_object(Bucket=place.bucket, Key=KEY)

    assert head["StorageClass"] == tier
    assert head["ServerSideEncryption"] == sse
    assert head.get("SSEKMSKeyId", "").endswith(f":key/{key}" if key else "")
    assert read(store, KEY, 0, size)[1] == data


def test_what_was_begun_in_another_way_is_given_up_and_not_gone_on_with(bucket_of: BucketOf) -> None:
    """Its parts would make an object of the storage class, or under the key, that the user had chosen before."""
    place, size = bucket_of("versitygw"), 12 * MIB
    token = place.store_with().begin(KEY, OID, size).token
    assert place.store_with().resume(KEY, size, token) is not None

    assert place.store_with(storage_class="STANDARD_IA").resume(KEY, size, token) is None
    assert place.unfinished() == 0


# Refusals


@pytest.mark.parametrize("kind", ["versitygw"])
def test_a_bucket_of_somebody_else_is_refused(bucket_of: BucketOf, kind: str) -> None:
    place = bucket_of(kind)
    store = place.store_with(expected_owner="123456789012")
    says = r"403 AccessDenied.*, or the bucket is not of 123456789012 \(lfs-agent\.expectedOwner\)"

    with pytest.raises(DeniedError, match=says):
        put(store)
    with pytest.raises(DeniedError, match=says):
        store.stat(KEY)
    with pytest.raises(DeniedError, match=says):
        read(store, KEY, 0, 10)
    with pytest.raises(DeniedError, match=says):
        store.begin(KEY, OID, 6 * MIB)

    assert place.objects() == {}


@pytest.mark.parametrize("pays", [True, False])
def test_who_pays_says_so_in_every_request(bucket_of: BucketOf, pays: bool) -> None:
    place, data = bucket_of("localstack"), content(6 * MIB)
    with place.through() as proxy:
        store = place.store_with(endpoint=proxy.endpoint, requester_pays=pays)
        put(store)
        store.stat(KEY)
        read(store, KEY, 0, 1000)
        upload = store.begin("parts", oid_of(data), len(data))
        sent = put_parts(upload, data)
        assert store.resume("parts", len(data), upload.token) is not None
        upload.complete(sent, crc_of(data))
        store.begin("given-up", oid_of(data), len(data)).abort()
        told = [seen.headers.get("x-amz-request-payer") for seen in proxy.requests]

    assert told == ["requester" if pays else None] * 10
    assert {operation_of(seen) for seen in proxy.requests} == {
        "PutObject",
        "HeadObject",
        "GetObject",
        "CreateMultipartUpload",
        "UploadPart",
        "ListParts",
        "CompleteMultipartUpload",
        "AbortMultipartUpload",
    }


def operation_of(seen: Seen) -> str:
    bucket, key, query = access.parse_target(seen.target)
    return access.operation_of(seen.method, bucket, key, query)


@pytest.mark.parametrize("kind", WITH_SECRETS)
def test_a_wrong_secret_is_told_by_every_request(bucket_of: BucketOf, kind: str) -> None:
    place = bucket_of(kind)
    store = place.store_with(secret_key="wrong")

    with pytest.raises(CredentialsError, match=r"SignatureDoesNotMatch.*keys are not right"):
        put(store)
    with pytest.raises(CredentialsError, match="SignatureDoesNotMatch"):
        store.begin(KEY, OID, 6 * MIB)
    with pytest.raises(CredentialsError, match="SignatureDoesNotMatch"):
        read(store, KEY, 0, 10)
    with pytest.raises(CredentialsError, match="SignatureDoesNotMatch"):
        store.stat(KEY)  # whose own answer has no room for the reason


def test_whether_tasks_can_take_turns_asks_nobody(bucket_of: BucketOf, monkeypatch: pytest.MonkeyPatch) -> None:
    place = bucket_of("versitygw")
    store, odd = place.store_with(), S3Store(place.bucket, connection(place.server, aws=aws_of("a+b", "x")), Settings())
    assert (store.takes_turns(), odd.takes_turns()) == (True, True)
    put(store)
    with pytest.raises(CredentialsError):
        put(odd)

    def refuse(_: object) -> None:
        raise OSError("the helper is gone")

    monkeypatch.setattr("lfs_agent.store.login.Login.get_frozen_credentials", refuse)
    assert (store.takes_turns(), odd.takes_turns()) == (True, False)  # libcurl would quote the plus


def test_an_unknown_key_is_told(bucket_of: BucketOf) -> None:
    place = bucket_of("versitygw")
    aws = aws_of("unknown", "hush-hush")
    store = S3Store(place.bucket, connection(place.server, aws=aws), Settings())

    with pytest.raises(CredentialsError):
        put(store)


@pytest.mark.parametrize("status", [400, 403])
def test_an_expired_login_ends_the_session(bucket_of: BucketOf, status: int) -> None:
    place = bucket_of("versitygw")
    expired = Answer(status, "ExpiredToken")
    with FaultProxy(place.server.endpoint, Faults((Rule(expired),))) as proxy:
        store = place.store_with(endpoint=proxy.endpoint)

        with pytest.raises(CredentialsError, match=r"ExpiredToken.*log in again: aws sso login"):
            put(store)
        with pytest.raises(CredentialsError, match="ExpiredToken"):
            store.stat(KEY)
        with pytest.raises(CredentialsError, match="ExpiredToken"):
            read(store, KEY, 0, 10)


def test_credentials_are_refreshed_before_they_expire(bucket_of: BucketOf) -> None:
    place = bucket_of("versitygw")
    refreshed: list[str] = []

    def keys(secret_key: str, expiry_time: str) -> dict[str, str]:
        token = ""
        access_key = place.server.access_key
        return {"access_key": access_key, "secret_key": secret_key, "token": token, "expiry_time": expiry_time}

    def refresh() -> dict[str, str]:
        refreshed.append("again")
        return keys(place.server.secret_key, "2099-01-01T00:00:00Z")

    class Renewing(Aws):
        def ask_chain(self) -> Any:
            return RefreshableCredentials.create_from_metadata(
                keys("outdated", "2001-01-01T00:00:00Z"), refresh, "test"
            )

    aws = Renewing(Settings(), os.environ)
    store = S3Store(place.bucket, connection(place.server, aws=aws), Settings())
    store.connect()
    put(store)

    assert refreshed == ["again"]
    assert place.objects() == {KEY: DATA}


def with_keys_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """AWS's settings in `folder`, and nothing else that could log in; the file of the profile's keys."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(folder / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(folder / "credentials"))
    return folder / "credentials"


def test_keys_that_are_taken_away_after_they_expired_are_told_by_every_request(
    bucket_of: BucketOf, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    place = bucket_of("versitygw")
    keys = with_keys_in(tmp_path, monkeypatch)
    keys.write_text(
        f"[default]\naws_access_key_id = {place.server.access_key}\naws_secret_access_key = {place.server.secret_key}\n"
    )
    with FaultProxy(place.server.endpoint, Faults((Rule(EXPIRED_TOKEN),))) as proxy:
        store = S3Store(place.bucket, connection(place.server, endpoint=proxy.endpoint), Settings())
        store.connect()
        keys.unlink()
        for _ in range(2):
            with pytest.raises(CredentialsError, match="log in again: aws sso login"):
                put(store)


@pytest.mark.parametrize("then", ["echo nonsense", "rm helper"])
def test_a_helper_that_cannot_renew_a_login_is_told_at_once(
    bucket_of: BucketOf, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, then: str
) -> None:
    place = bucket_of("versitygw")
    with_keys_in(tmp_path, monkeypatch)
    soon = (datetime.now(UTC) + timedelta(minutes=5)).isoformat()  # botocore renews it with each request
    key, secret = place.server.access_key, place.server.secret_key
    login = json.dumps({"Version": 1, "AccessKeyId": key, "SecretAccessKey": secret, "Expiration": soon})
    helper = tmp_path / "helper"
    helper.write_text(f"#!/bin/sh\necho '{login}'\n")
    helper.chmod(0o700)
    (tmp_path / "config").write_text(f"[default]\ncredential_process = {helper}\n")
    store = S3Store(place.bucket, connection(place.server), Settings())
    store.connect()
    put(store)

    if then == "rm helper":
        helper.unlink()
    else:
        helper.write_text(f"#!/bin/sh\n{then}\n")
    with pytest.raises(CredentialsError, match=r"custom-process.*see: aws sts get-caller-identity"):
        retrying(store, deadline_s=0.5).stat(KEY)


@pytest.mark.parametrize("kind", ["ceph"])
def test_without_the_right_to_list_a_missing_key_is_unknown_not_missing(bucket_of: BucketOf, kind: str) -> None:
    place = bucket_of(kind)
    allow_reading(place.client, place.bucket)
    store = place.store_with(public=True)

    with pytest.raises(DeniedError, match="nothing is there, or the bucket does not let everybody read it"):
        store.stat(KEY)
    with pytest.raises(DeniedError, match="nothing is there, or the bucket does not let everybody read it"):
        read(store, KEY, 0, 10)


def test_what_hides_missing_keys_is_asked_why_only_once(bucket_of: BucketOf) -> None:
    place = bucket_of("versitygw")
    with FaultProxy(place.server.endpoint, Faults((Rule(ACCESS_DENIED),))) as proxy:
        store = place.store_with(endpoint=proxy.endpoint)
        for _ in range(3):
            with pytest.raises(DeniedError, match=r"missing or forbidden.*s3:ListBucket"):
                store.stat(KEY)

        assert [seen.method for seen in proxy.requests] == ["HEAD", "GET", "HEAD", "HEAD"]


def test_what_hides_missing_keys_is_asked_why_once_more_where_a_login_has_expired(bucket_of: BucketOf) -> None:
    """To HEAD Amazon says 400 then, without a word."""
    place = bucket_of("versitygw")
    missing = Rule(ACCESS_DENIED, times=2)
    with FaultProxy(place.server.endpoint, Faults((missing, Rule(Answer(400, "ExpiredToken"))))) as proxy:
        store = place.store_with(endpoint=proxy.endpoint)
        with pytest.raises(DeniedError, match="missing or forbidden"):
            store.stat(KEY)
        with pytest.raises(CredentialsError, match=r"ExpiredToken.*log in again"):
            store.stat(KEY)


NAMED = (
    "User: arn:aws:iam::123456789012:user/vera is not authorized to perform: kms:GenerateDataKey on resource: "
    "arn:aws:kms:eu-central-1:123456789012:key/1 because no resource-based policy allows the kms:GenerateDataKey action"
)
EXPLICIT = "User: vera is not authorized to perform: s3:PutObject with an explicit deny in a service control policy"


@pytest.mark.parametrize(
    "ask, said, told",
    [
        (put, "Access Denied", "; s3:PutObject is needed (and kms:GenerateDataKey, kms:Decrypt where"),
        (put, NAMED, "; kms:GenerateDataKey is needed"),
        (put, EXPLICIT, "; s3:PutObject is needed, and a policy denies it, whatever another one allows"),
        (put, "is not authorized to perform: \x1b[2J", "; s3:PutObject is needed (and"),
        (lambda store: read(store, KEY, 0, 10), "Access Denied", "; s3:GetObject is needed (and kms:Decrypt where"),
        (lambda store: read(store, KEY, 0, 10), NAMED, "; kms:GenerateDataKey is needed"),
        (lambda store: store.stat(KEY), NAMED, "; missing or forbidden: kms:GenerateDataKey would tell"),
        (lambda store: begun(store).abort(), "Access Denied", "; s3:AbortMultipartUpload is needed"),
        (lambda store: list(begun(store).listed()), "", "; s3:ListMultipartUploadParts is needed"),
    ],
)
def test_a_denial_names_the_missing_action(
    bucket_of: BucketOf, ask: Callable[[S3Store], object], said: str, told: str
) -> None:
    place = bucket_of("versitygw")
    body = f"<Error><Code>AccessDenied</Code><Message>{said}</Message></Error>".encode()
    rule = Rule(Answer(403, body=body), method="PUT|GET|HEAD|DELETE")
    with FaultProxy(place.server.endpoint, Faults((rule,))) as proxy, pytest.raises(DeniedError) as denied:
        ask(place.store_with(endpoint=proxy.endpoint))

    assert told in str(denied.value)
    assert str(denied.value).count(" is needed") + str(denied.value).count(" would tell") == 1


@pytest.mark.parametrize("marker", ["0", "1", "-1", "many"])
def test_a_list_of_parts_without_an_end_ends(bucket_of: BucketOf, marker: str) -> None:
    place = bucket_of("versitygw")
    page = f"<ListPartsResult><IsTruncated>true</IsTruncated><NextPartNumberMarker>{marker}</NextPartNumberMarker>"
    rule = Rule(Answer(200, body=f"{page}</ListPartsResult>".encode()), method="GET")
    with (
        FaultProxy(place.server.endpoint, Faults((rule,))) as proxy,
        pytest.raises(TransientError, match=r"listing the parts of .* gave no sane answer"),
    ):
        list(begun(place.store_with(endpoint=proxy.endpoint)).listed())

    assert len(proxy.requests) <= 3


@pytest.mark.parametrize("size", ["1", "many"])
def test_a_list_of_objects_without_an_end_ends(bucket_of: BucketOf, size: str) -> None:
    place = bucket_of("versitygw")
    entry = f"<Contents><Key>{KEY}</Key><Size>{size}</Size></Contents>"
    page = f"<ListBucketResult><IsTruncated>true</IsTruncated>{entry}</ListBucketResult>"
    with (
        FaultProxy(place.server.endpoint, Faults((Rule(Answer(200, body=page.encode()), method="GET"),))) as proxy,
        pytest.raises(TransientError, match=r"listing s3://.* gave no sane answer"),
    ):
        place.store_with(endpoint=proxy.endpoint).listed("weights/", after=KEY)


def ranged(span: str, body: bytes) -> Answer:
    return Answer(206, headers=(("Content-Range", f"bytes {span}/10"), ("ETag", '"e"')), body=body)


@pytest.mark.parametrize(
    "answer, reason",
    [
        (Answer(200, headers=(("ETag", '"e"'),), body=b"0123456789"), "the store sent bytes from 0, not from 5"),
        (ranged("0-4", b"01234"), "the store sent bytes from 0, not from 5"),
        (ranged("5-9", b"56"), "the store broke off at byte 7"),
        (Answer(206, headers=(("Content-Range", "bytes 5-9/10"),), body=b"56789"), r"gave no sane answer \(no ETag\)"),
    ],
)
def test_a_range_that_is_not_the_one_that_was_asked_for_is_asked_for_again(
    bucket_of: BucketOf, answer: Answer, reason: str
) -> None:
    place = bucket_of("versitygw")
    with place.through(Rule(answer, "GET")) as proxy, pytest.raises(TransientError, match=reason):
        read(place.store_with(endpoint=proxy.endpoint), KEY, 5, 10, '"e"')


def begun(store: S3Store) -> S3Upload:
    return store.begin(KEY, OID, 12 * MIB)


# Ways to a bucket


def allow_reading(client: Any, bucket: str) -> None:
    everyone = {"Effect": "Allow", "Principal": "*", "Action": "s3:GetObject", "Resource": f"arn:aws:s3:::{bucket}/*"}
    client.put_bucket_policy(Bucket=bucket, Policy=json.dumps({"Version": "2012-10-17", "Statement": [everyone]}))


def connection(
    server: Server, *, aws: Aws | None = None, endpoint: str = "", path_style: bool = True, ca: str = ""
) -> Connection:
    return Connection(
        aws=aws or Aws(Settings(), os.environ),
        endpoint=endpoint or server.endpoint,
        region=server.region,
        path_style=path_style,
        profile="",
        ca=ca,
        proxy="",
    )


@pytest.mark.parametrize("kind", WITH_POLICIES)
def test_a_public_bucket_is_read_without_credentials(bucket_of: BucketOf, kind: str) -> None:
    place = bucket_of(kind)
    put(place.s3)
    allow_reading(place.client, place.bucket)
    store = S3Store(place.bucket, connection(place.server), Settings(public=True))

    store.connect()
    found = store.stat(KEY)

    assert found is not None
    assert found.size == 1000
    assert read(store, KEY, 0, 1000)[1] == DATA
    assert read(store, KEY, 10, 20)[1] == DATA[10:20]
    with pytest.raises(DeniedError):
        store.put(f"{KEY}2", OID, BytesBody(DATA))


def test_a_bucket_can_be_a_host_name(tmp_path: Path) -> None:
    if reason := Versitygw.missing():
        absent(reason)
    with Versitygw(tmp_path) as server:
        server.client().create_bucket(Bucket="cellar")
        done = subprocess.run(
            [sys.executable, "-c", VIRTUAL, server.virtual_endpoint],
            env={**server.environ(), **server.names_environ("cellar")},
            capture_output=True,
            text=True,
            check=False,
        )
        if "libnss_wrapper.so" in done.stderr:
            absent("libnss_wrapper is not installed: run `tests/install/install.sh nss-wrapper` (needs apt-get)")
        assert (done.stdout, done.returncode) == ("weights\n", 0), done.stderr
        assert server.keys("cellar") == ["key"]
        assert {request.bucket for request in server.requests()} == {"cellar"}


# The first look-up is made by one thread: nss_wrapper, which knows the names, crashes at times where libcurl makes two.
VIRTUAL = """
import os
import socket
import sys
from lfs_agent.config import Settings
from lfs_agent.store.aws import Aws
from lfs_agent.store.connection import Connection
from lfs_agent.store.s3 import S3Store
from tests.contract.stores import BytesBody, oid_of, read

to = Connection(Aws(Settings(), os.environ), sys.argv[1], "us-east-1", path_style=False, profile="", ca="", proxy="")
socket.getaddrinfo("cellar.s3.test", 80)
store = S3Store("cellar", to, Settings())
store.put("key", oid_of(b"weights"), BytesBody(b"weights"))
print(read(store, "key", 0, 7)[1].decode())
"""


def test_a_certificate_nobody_vouches_for_is_refused_until_it_is_named(tls: Tls, tmp_path: Path) -> None:
    if reason := Versitygw.missing():
        absent(reason)
    with Versitygw(tmp_path, tls=tls) as server:
        server.client().create_bucket(Bucket="cellar")
        aws = aws_of(server.access_key, server.secret_key)
        stranger = S3Store("cellar", connection(server, aws=aws), Settings())
        with pytest.raises(UnreachableError, match="certificate that is not trusted"):
            put(stranger)
        trusted = S3Store("cellar", connection(server, aws=aws, ca=str(tls.ca)), Settings())
        put(trusted)
        data = content(6 * MIB)
        upload = trusted.begin("parts", oid_of(data), len(data))
        upload.complete(put_parts(upload, data), crc_of(data))

        assert read(trusted, KEY, 0, 1000)[1] == DATA
        assert read(trusted, "parts", 0, len(data))[1] == data


def test_certificates_that_are_not_there_are_named_at_once(bucket_of: BucketOf, tls: Tls) -> None:
    place = bucket_of("versitygw")
    to = connection(place.server, endpoint="https://127.0.0.1:1", ca="/nowhere/ca.pem")
    store = retrying(S3Store("cellar", to, Settings(public=True)))

    with pytest.raises(SessionError, match=r"/nowhere/ca\.pem"):
        store.stat(KEY)


def test_no_credentials_are_a_sentence_before_any_request(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    to = Connection(Aws(Settings(), os.environ), "http://127.0.0.1:1", "us-east-1", True, "", "", "")

    with pytest.raises(CredentialsError, match=r"no AWS credentials for s3://cellar.*aws configure"):
        S3Store("cellar", to, Settings()).connect()


def test_secrets_are_told_to_whoever_keeps_them_out_of_logs(
    bucket_of: BucketOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = bucket_of("versitygw")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "access")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush-hush")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "token")
    secrets: list[str] = []
    to = connection(place.server)
    S3Store(place.bucket, to, Settings(), on_secret=secrets.append).connect()

    assert secrets == ["hush-hush", "token"]


def test_the_first_requests_of_several_threads_share_one_client(bucket_of: BucketOf) -> None:
    place = bucket_of("versitygw")
    store = s3_store(place.server, place.bucket)
    clients: list[object] = []
    threads = [threading.Thread(target=lambda: clients.append(store._client)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len({id(client) for client in clients}) == 1


def test_a_missing_key_names_the_address_and_what_to_do(bucket_of: BucketOf) -> None:
    place = bucket_of("versitygw")

    with pytest.raises(MissingError) as raised:
        read(place.store, KEY, 0, 10)

    assert str(raised.value) == (
        f"reading s3://{place.bucket}/{KEY}: 404 NoSuchKey (The specified key does not exist.); "
        "nobody has pushed it here, or it was deleted: see lfs-agent verify"
    )
