"""What stores say in place of an object: each a sentence with the next step, asked no more often than it helps."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from lfs_agent.errors import (
    ArchivedError,
    BucketError,
    CredentialsError,
    DeniedError,
    ObjectError,
    SessionError,
)
from lfs_agent.parts import MIB
from lfs_agent.pointer import Pointer
from lfs_agent.selection import Wanted
from lfs_agent.store import Store
from lfs_agent.verify import Judge
from tests.contract.conftest import BucketOf, InBucket
from tests.contract.desk import KEY, Desk
from tests.contract.stores import BytesBody, content, oid_of, read, retrying
from tests.proxy import Answer, FaultProxy, Faults, Rule, Seen

DATA = content(1000)
OID = oid_of(DATA)


def refusal(
    status: int, code: str, message: str = "", *, more: str = "", headers: tuple[tuple[str, str], ...] = ()
) -> Answer:
    body = f"<Error><Code>{code}</Code><Message>{message}</Message>{more}</Error>"
    return Answer(status, code, headers, body.encode())


Request = Callable[[Store], object]
REQUESTS: dict[str, Request] = {
    "HEAD": lambda store: store.stat(KEY),
    "GET": lambda store: read(store, KEY, 0, 1000),
    "PUT": lambda store: store.put(KEY, OID, BytesBody(DATA)),
    "Create": lambda store: store.begin(KEY, OID, 6 * MIB),
}
each_request = pytest.mark.parametrize("request_", [pytest.param(call, id=name) for name, call in REQUESTS.items()])


# Other regions, other hosts


@pytest.fixture
def trap() -> Iterator[FaultProxy]:
    """Another host: whatever it hears, it should not have heard."""
    with FaultProxy("http://127.0.0.1:1", Faults()) as proxy:
        yield proxy


REGION = ("x-amz-bucket-region", "eu-west-3")
TO_REGION = r"the bucket is in another region: set lfs-agent\.region to eu-west-3"
ELSEWHERE = r"sends elsewhere.*where nothing is sent: set lfs-agent\.region to the bucket's, or correct the endpoint"


@each_request
@pytest.mark.parametrize(
    "answer, says",
    [
        pytest.param(refusal(301, "PermanentRedirect", headers=(REGION,)), TO_REGION, id="301"),
        pytest.param(refusal(307, "TemporaryRedirect", headers=(REGION,)), TO_REGION, id="307"),
        pytest.param(
            refusal(400, "AuthorizationHeaderMalformed", "the region is wrong", more="<Region>eu-west-3</Region>"),
            TO_REGION,
            id="400",
        ),
        pytest.param(
            refusal(400, "AuthorizationHeaderMalformed", "the region 'us-east-1' is wrong; expecting 'eu-west-3'"),
            TO_REGION,
            id="400-in-words",
        ),
        pytest.param(refusal(301, "PermanentRedirect"), ELSEWHERE, id="301-without-region"),
        pytest.param(refusal(307, "TemporaryRedirect"), ELSEWHERE, id="307-without-region"),
        pytest.param(Answer(302, body=b"<html>log in</html>"), ELSEWHERE, id="302-of-somebody-else"),
        pytest.param(Answer(308), ELSEWHERE, id="308"),
        pytest.param(
            refusal(301, "PermanentRedirect", headers=(("x-amz-bucket-region", "x.evil.example/#"),)),
            ELSEWHERE,
            id="301-hostile-region",
        ),
        pytest.param(
            refusal(301, "PermanentRedirect", headers=(("x-amz-bucket-region", "1"),)), ELSEWHERE, id="301-number"
        ),
    ],
)
def test_a_redirect_is_a_sentence_and_nothing_goes_where_it_leads(
    bucket_of: BucketOf, trap: FaultProxy, answer: Answer, says: str, request_: Request
) -> None:
    place = bucket_of("versitygw")
    host = trap.endpoint.removeprefix("http://")
    more = (("Location", f"http://{host}/{place.bucket}/{KEY}"),)
    body = (answer.body or b"").replace(b"</Error>", f"<Endpoint>{host}</Endpoint></Error>".encode())
    sent_on = Answer(answer.status, answer.code, answer.headers + more, body)
    with place.through(Rule(sent_on)) as proxy:
        with pytest.raises(BucketError, match=says):
            request_(retrying(place.store_with(endpoint=proxy.endpoint)))
        assert len(proxy.requests) <= 5

    assert trap.requests == []


@pytest.mark.parametrize("size", [1000, 12 * MIB])
def test_the_region_that_a_store_names_is_signed_for(bucket_of: BucketOf, desk: Desk, size: int) -> None:
    """To the same endpoint; some stores know one region only, and HEAD has no room for its name."""
    place = bucket_of("localstack")
    wrong = refusal(400, "AuthorizationHeaderMalformed", "wrong", more="<Region>garage</Region>")

    def demand(seen: Seen) -> tuple[Any, ...]:
        return () if "/garage/s3/" in seen.headers["authorization"] else (wrong,)

    with place.through() as proxy:
        proxy.faults = demand
        oid = desk.write(content(size))
        desk.up(retrying(place.store_with(endpoint=proxy.endpoint)), oid)
        refused = [seen.method for seen in proxy.requests if seen.fault]
        assert desk.down(retrying(place.store_with(endpoint=proxy.endpoint)), oid, size).read_bytes() == content(size)

    assert refused == ["HEAD", "GET", "GET"]  # without boto3's client, then by it, which goes on
    assert place.objects() == {KEY: content(size)}


def test_keys_that_a_store_cannot_read_are_told(bucket_of: BucketOf) -> None:
    place = bucket_of("versitygw")
    answer = refusal(400, "AuthorizationHeaderMalformed", "a non-empty Access Key (AKID) must be provided")
    with place.through(Rule(answer)) as proxy, pytest.raises(CredentialsError, match=r"AKID.*the keys are not right"):
        place.store_with(endpoint=proxy.endpoint).stat(KEY)


# Clocks


@each_request
def test_a_wrong_clock_is_told_with_what_to_do(bucket_of: BucketOf, request_: Request) -> None:
    place = bucket_of("versitygw")
    words = "The difference between the request time and the current time is too large."
    with place.through(Rule(refusal(403, "RequestTimeTooSkewed", words))) as proxy:
        with pytest.raises(CredentialsError, match=r"too large.*clock is wrong: set it \(timedatectl set-ntp true\)"):
            request_(retrying(place.store_with(endpoint=proxy.endpoint)))
        assert len(proxy.requests) <= 2  # a HEAD and the GET that hears why


# Keys of KMS

ARN = "arn:aws:kms:eu-central-1:123456789012:key/0000"
WHO = "User: arn:aws:sts::123456789012:assumed-role/keeper/vera is not authorized to perform"


@pytest.mark.parametrize(
    "request_, action, why",
    [
        ("PUT", "kms:GenerateDataKey", "because no identity-based policy allows the kms:GenerateDataKey action"),
        (
            "GET",
            "kms:Decrypt",
            "because the resource does not exist in this Region, no resource-based policies allow access, or a "
            "resource-based policy explicitly denies access",
        ),
        ("HEAD", "kms:Decrypt", ""),
        ("Create", "kms:Decrypt", ""),
    ],
)
def test_a_right_on_a_key_that_is_lacking_is_named_with_the_key(
    bucket_of: BucketOf, request_: str, action: str, why: str
) -> None:
    place = bucket_of("versitygw")
    denied = refusal(403, "AccessDenied", f"{WHO}: {action} on resource: {ARN} {why}")
    with place.through(Rule(denied)) as proxy:
        with pytest.raises(DeniedError, match=rf"{ARN}.*; .*{action} (is needed|would tell)"):
            REQUESTS[request_](retrying(place.store_with(endpoint=proxy.endpoint)))
        assert len(proxy.requests) == (2 if request_ == "HEAD" else 1)


@pytest.mark.parametrize("request_", list(REQUESTS))
@pytest.mark.parametrize(
    "code, words",
    [
        ("KMS.DisabledException", "is disabled."),
        ("KMS.NotFoundException", "does not exist"),
        ("KMS.KMSInvalidStateException", "is pending deletion."),
        ("KMSInvalidStateException", "is pending import."),
        ("KMS.InvalidKeyUsageException", "key usage is SIGN_VERIFY"),
    ],
)
def test_a_key_that_cannot_be_used_is_named_and_not_asked_for_again(
    bucket_of: BucketOf, request_: str, code: str, words: str
) -> None:
    place = bucket_of("versitygw")
    with place.through(Rule(refusal(400, code, f"{ARN} {words}"))) as proxy:
        with pytest.raises(ObjectError, match=rf"400 {code} .*{ARN}.*; the KMS key can't be used.*sseKmsKeyId"):
            REQUESTS[request_](retrying(place.store_with(endpoint=proxy.endpoint)))
        assert len(proxy.requests) == (2 if request_ == "HEAD" else 1)


@pytest.mark.parametrize("code", ["ThrottlingException", "KMS.ThrottlingException"])
@pytest.mark.parametrize("size", [1000, 12 * MIB])
def test_a_key_that_is_busy_is_asked_for_again(bucket_of: BucketOf, desk: Desk, code: str, size: int) -> None:
    place = bucket_of("versitygw")
    words = "You have exceeded the rate at which you may call KMS. Reduce the frequency of your calls."
    busy = refusal(400, code, words)
    once = [Rule(busy, method, times=1) for method in ("PUT", "POST", "GET")]
    with place.through(*once, Rule(busy, "HEAD", times=1)) as proxy:
        oid = desk.write(content(size))
        desk.up(retrying(place.store_with(endpoint=proxy.endpoint)), oid)
        path = desk.down(retrying(place.store_with(endpoint=proxy.endpoint)), oid, size)
        assert path.read_bytes() == content(size)
        assert {seen.method for seen in proxy.requests if seen.fault} >= {"PUT", "HEAD"}


# Keys of one's own


@pytest.mark.parametrize("kind", ["localstack", "ceph"])
def test_what_is_encrypted_with_a_key_of_ones_own_is_refused_with_the_way_out(
    bucket_of: BucketOf, desk: Desk, kind: str
) -> None:
    place = bucket_of(kind)
    key: Any = {"SSECustomerAlgorithm": "AES256", "SSECustomerKey": "0" * 32}
    place.client.put_object(Bucket=place.bucket, Key=KEY, Body=DATA, **key)
    store, says = retrying(place.store), rf"\(SSE-C\), which is not supported.*aws s3 cp s3://{place.bucket}/{KEY} "

    with pytest.raises(ObjectError, match=says):
        store.stat(KEY)
    with pytest.raises(ObjectError, match=says):
        desk.up(store, desk.write(DATA))
    with pytest.raises(ObjectError, match=says):
        desk.down(store, OID, len(DATA))
    for deep in (False, True):
        (finding,) = findings(place, deep=deep)
        assert finding.status == "unknown"
        assert "(SSE-C), which is not supported" in finding.reason
    got = place.client.get_object(Bucket=place.bucket, Key=KEY, **key)
    assert got["Body"].read() == DATA


def findings(place: InBucket, *, deep: bool) -> list[Any]:
    judge = Judge(retrying(place.store), lambda oid: KEY, depth="deep" if deep else "presence")
    return list(judge.find([Wanted(Pointer(OID, len(DATA)), ["weights.bin"])], threads=1))


# Archives


def restore_command(place: InBucket, days: str = "Days=7") -> str:
    return (
        f"aws s3api restore-object --bucket {place.bucket} --key {KEY} --restore-request {days} "
        f"--endpoint-url {place.server.endpoint}"
    )


@pytest.mark.parametrize("tier", ["GLACIER", "DEEP_ARCHIVE"])
def test_an_archived_object_is_told_with_the_command_that_restores_it(
    bucket_of: BucketOf, desk: Desk, tier: Any
) -> None:
    place = bucket_of("localstack")
    place.client.put_object(Bucket=place.bucket, Key=KEY, Body=DATA, StorageClass=tier)
    says = f"it is archived ({tier}); restore it, and pull when that is done: {restore_command(place)}"

    assert desk.up(retrying(place.store), desk.write(DATA)).how == "skipped"
    with pytest.raises(ArchivedError) as raised:
        desk.down(retrying(place.store), OID, len(DATA))
    assert str(raised.value).endswith(says)
    for deep in (False, True):
        assert [(found.status, found.reason) for found in findings(place, deep=deep)] == [("archived", says)]

    place.client.restore_object(Bucket=place.bucket, Key=KEY, RestoreRequest={"Days": 7})
    assert [found.status for found in findings(place, deep=True)] == ["present"]
    assert desk.down(retrying(place.store), OID, len(DATA)).read_bytes() == DATA


def test_an_object_that_is_being_restored_is_waited_for(bucket_of: BucketOf) -> None:
    place = bucket_of("versitygw")
    head = Answer(200, headers=(("x-amz-storage-class", "GLACIER"), ("x-amz-restore", 'ongoing-request="true"')))
    with place.through(Rule(head, "HEAD")) as proxy:
        found = place.store_with(endpoint=proxy.endpoint).stat(KEY)

    assert found is not None
    assert found.archived == "it is being restored from GLACIER: pull later"


@pytest.mark.parametrize("tier", ["ARCHIVE_ACCESS", "DEEP_ARCHIVE_ACCESS"])
def test_what_tiering_has_archived_is_restored_for_good(bucket_of: BucketOf, tier: str) -> None:
    place = bucket_of("versitygw")
    class_ = ("x-amz-storage-class", "INTELLIGENT_TIERING")
    more = f"<StorageClass>INTELLIGENT_TIERING</StorageClass><AccessTier>{tier}</AccessTier>"
    head = Rule(Answer(200, headers=(class_, ("x-amz-archive-status", tier))), "HEAD")
    get = Rule(refusal(403, "InvalidObjectState", "The operation is not valid", more=more), "GET")
    with place.through(head, get) as proxy:
        store = place.store_with(endpoint=proxy.endpoint)
        found = store.stat(KEY)
        with pytest.raises(ArchivedError, match=rf"\({tier}\).* --restore-request '\{{\}}'"):
            read(store, KEY, 0, 1000)

    assert found is not None
    assert f"({tier})" in found.archived
    assert "--restore-request '{}'" in found.archived


def test_tiers_that_can_be_read_are(bucket_of: BucketOf, desk: Desk) -> None:
    place = bucket_of("localstack")
    for tier in ("STANDARD_IA", "GLACIER_IR", "INTELLIGENT_TIERING"):
        place.client.put_object(Bucket=place.bucket, Key=KEY, Body=DATA, StorageClass=tier)
        assert [found.status for found in findings(place, deep=True)] == ["present"]


# What answers is no store


@pytest.mark.parametrize(
    "answer", [Answer(400, body=b"<html>The plain HTTP request was sent to HTTPS port"), Answer(400)]
)
def test_something_else_than_s3_that_answers_is_told(bucket_of: BucketOf, answer: Answer) -> None:
    place = bucket_of("versitygw")
    with place.through(Rule(answer)) as proxy:
        with pytest.raises(SessionError, match=r"is not S3.*is it http or https"):
            retrying(place.store_with(endpoint=proxy.endpoint)).stat(KEY)
        assert [seen.method for seen in proxy.requests] == ["HEAD", "GET"]


@pytest.mark.parametrize(
    "answer, told",
    [
        (
            Answer(413, body=b"<html>413 Request Entity Too Large"),
            r": 413( \(.*\))?; .*nginx: client_max_body_size.*partSize",
        ),
        (
            refusal(403, "QuotaExceeded"),
            r": 403 QuotaExceeded; make room in .*lfs-agent uploads.*have the quota raised",
        ),
        (
            Answer(403, body=b'<Error xmlns="urn:own"><Code>QuotaExceeded</Code><Message>full</Message></Error>'),
            r": 403 QuotaExceeded \(full\); make room in ",
        ),
        (Answer(403, body=b"<html>Blocked"), r": 403( \(.*\))?; s3:PutObject is needed"),
    ],
)
def test_who_takes_no_more_is_told_as_such(bucket_of: BucketOf, answer: Answer, told: str) -> None:
    place = bucket_of("versitygw")
    with place.through(Rule(answer, "PUT")) as proxy:
        with pytest.raises(ObjectError, match=told):
            retrying(place.store_with(endpoint=proxy.endpoint)).put(KEY, OID, BytesBody(DATA))
        assert len(proxy.requests) == 1
