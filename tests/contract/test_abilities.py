"""What a store can do beyond plain S3 is found out once, and remembered: each gets its way."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from lfs_agent.errors import ConflictError, DamagedError, DeniedError, ObjectError, UnsupportedError
from lfs_agent.ledger import Ledger
from lfs_agent.parts import MIB
from lfs_agent.store.abilities import obeys_conditions
from lfs_agent.store.s3 import S3Store
from tests.contract.conftest import BucketOf, InBucket
from tests.contract.desk import KEY, Desk
from tests.contract.stores import BytesBody, content, oid_of, put_parts, retrying
from tests.proxy import NOT_IMPLEMENTED, Answer, FaultProxy, Faults, Flip, Rule, StripHeaders
from tests.servers import KINDS

SMALL, LARGE = 1000, 12 * MIB
INVALID = Answer(400, "InvalidArgument")
NO_MD5 = Answer(
    400,
    "InvalidRequest",
    body=b"<Error><Code>InvalidRequest</Code><Message>Content-MD5 OR x-amz-checksum- HTTP header is required for Put "
    b"Part requests with Object Lock parameters</Message></Error>",
)

PUT_SUM, PART_SUM = "x-amz-checksum-sha256", "x-amz-checksum-crc32c"
ALGORITHM = "x-amz-checksum-algorithm"
CREATE = r"\?uploads"
COMPLETE = r"\?uploadId="


def _list_of(size: int, crc32c: bytes) -> bytes:
    part = b"<Part><PartNumber>1</PartNumber><ETag>e</ETag><Size>%d</Size><ChecksumCRC32C>%b</ChecksumCRC32C></Part>"
    return b"<ListPartsResult>" + part % (size, crc32c) + b"</ListPartsResult>"


class Counter:
    """Sends objects through a proxy, each with a store of its own: what the last one learned is in the file."""

    def __init__(self, place: InBucket, proxy: FaultProxy, path: Path, desk: Desk) -> None:
        self._place, self._proxy, self._path, self._desk = place, proxy, path, desk
        self._number = 0

    def send(self, size: int) -> int:
        """How many requests that took."""
        self._number += 1
        before = len(self._proxy.requests)
        oid = self._desk.write(content(size, seed=self._number))
        self._desk.up(retrying(self.store()), oid, key=f"{KEY}{self._number}")
        assert self._place.objects()[f"{KEY}{self._number}"] == content(size, seed=self._number)
        assert self._place.unfinished() == 0
        return len(self._proxy.requests) - before

    def store(self) -> S3Store:
        return self._place.store_with(endpoint=self._proxy.endpoint, abilities=self._path)

    @property
    def learned(self) -> dict[str, Any]:
        """What is remembered of this endpoint, apart from what Amazon's own store can do."""
        amazon = {
            "conditional_put": True,
            "conditional_complete": True,
            "put_checksum": True,
            "multipart_checksum": "full",
            "shown_checksum": True,
        }
        if not self._path.exists():
            return {}
        (known,) = json.loads(self._path.read_text()).values()
        return {name: value for name, value in known.items() if value != amazon.get(name, value)}


@pytest.mark.parametrize(
    "rules,size,first,later,learned",
    [
        pytest.param([], SMALL, 2, 2, {}, id="amazon-put"),
        pytest.param([], LARGE, 7, 7, {}, id="amazon-parts"),
        pytest.param(
            [Rule(NOT_IMPLEMENTED, "PUT", header="if-none-match")],
            *(SMALL, 3, 2, {"conditional_put": False}),
            id="conditional-put-501",
        ),
        pytest.param(
            [Rule(NOT_IMPLEMENTED, "POST", COMPLETE, header="if-none-match")],
            *(LARGE, 8, 7, {"conditional_complete": False}),
            id="conditional-complete-501",
        ),
        pytest.param([Rule(StripHeaders(request=("if-none-match",)))], SMALL, 2, 2, {}, id="conditions-ignored-put"),
        pytest.param([Rule(StripHeaders(request=("if-none-match",)))], LARGE, 7, 7, {}, id="conditions-ignored-parts"),
        pytest.param(
            [Rule(INVALID, "PUT", header=PUT_SUM)], SMALL, 4, 2, {"put_checksum": False}, id="put-checksum-400"
        ),
        pytest.param(
            [Rule(NOT_IMPLEMENTED, "PUT", header=PUT_SUM), Rule(NOT_IMPLEMENTED, "PUT", header="if-none-match")],
            *(SMALL, 5, 2, {"put_checksum": False, "conditional_put": False}),
            id="put-checksum-501-condition-501",
        ),
        pytest.param([Rule(StripHeaders(request=(PUT_SUM,)))], SMALL, 2, 2, {}, id="put-checksum-ignored"),
        pytest.param(
            [Rule(NOT_IMPLEMENTED, "POST", CREATE, header="x-amz-checksum-type")],
            *(LARGE, 8, 7, {"multipart_checksum": "composite"}),
            id="full-object-501",
        ),
        pytest.param(
            [Rule(INVALID, "POST", CREATE, header=ALGORITHM)],
            *(LARGE, 9, 7, {"multipart_checksum": "none"}),
            id="checksums-400",
        ),
        pytest.param(
            [Rule(StripHeaders(request=(ALGORITHM, "x-amz-checksum-type", PART_SUM)))],
            *(LARGE, 7, 7, {"multipart_checksum": "none"}),
            id="checksums-ignored",
        ),
        pytest.param(
            [Rule(StripHeaders(request=("x-amz-checksum-type",)), "POST", CREATE)],
            *(LARGE, 7, 7, {"multipart_checksum": "composite"}),
            id="full-object-ignored",
        ),
        pytest.param(
            [Rule(INVALID, "HEAD", header="x-amz-checksum-mode")],
            *(SMALL, 5, 2, {"shown_checksum": False}),
            id="checksum-mode-400",
        ),
        pytest.param(
            [Rule(NOT_IMPLEMENTED, "HEAD", header="x-amz-checksum-mode")],
            *(LARGE, 10, 7, {"shown_checksum": False}),
            id="checksum-mode-501",
        ),
    ],
)
def test_each_store_gets_its_way_and_is_asked_once(
    bucket_of: BucketOf,
    desk: Desk,
    tmp_path: Path,
    rules: list[Rule],
    size: int,
    first: int,
    later: int,
    learned: dict[str, Any],
) -> None:
    place = bucket_of("versitygw")
    with place.through(*rules) as proxy:
        counter = Counter(place, proxy, tmp_path / "stores.json", desk)
        assert counter.send(size) == first
        assert counter.learned == learned
        assert counter.send(size) == later
        assert counter.learned == learned


def test_a_checksum_that_is_promised_and_then_refused_costs_one_more_upload(
    bucket_of: BucketOf, desk: Desk, tmp_path: Path
) -> None:
    place = bucket_of("versitygw")
    with place.through(Rule(NOT_IMPLEMENTED, "PUT", "partNumber", header=PART_SUM)) as proxy:
        counter = Counter(place, proxy, tmp_path / "stores.json", desk)
        counter.send(LARGE)
        assert counter.learned == {"multipart_checksum": "none"}
        assert counter.send(LARGE) == 7


@pytest.mark.parametrize("kind", ["ceph"])
@pytest.mark.parametrize("size,requests", [(SMALL, 2), (LARGE, 7)])
def test_content_md5_is_sent_where_no_checksum_is_confirmed(
    bucket_of: BucketOf, desk: Desk, tmp_path: Path, size: int, requests: int, kind: str
) -> None:
    place = bucket_of(kind)
    target = "partNumber" if size == LARGE else ""

    def demand(seen: Any) -> tuple[Any, ...]:
        demanded = seen.method == "PUT" and target in seen.query and "content-md5" not in seen.headers
        return (NO_MD5,) if demanded else ()

    with place.through() as proxy:
        proxy.faults = demand
        counter = Counter(place, proxy, tmp_path / "stores.json", desk)
        assert [counter.send(size), counter.send(size)] == [requests, requests]


def test_what_no_way_helps_is_told_as_it_was_and_not_remembered(
    bucket_of: BucketOf, desk: Desk, tmp_path: Path
) -> None:
    place, path = bucket_of("versitygw"), tmp_path / "stores.json"
    with place.through(Rule(INVALID, "PUT")) as proxy:
        store = place.store_with(endpoint=proxy.endpoint, abilities=path)
        with pytest.raises(UnsupportedError, match="400 InvalidArgument"):
            retrying(store).put(KEY, oid_of(b"weights"), BytesBody(b"weights"))

    assert not path.exists()


@pytest.mark.parametrize("kind", ["ceph"])
@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_a_store_without_checksums_still_stores_no_broken_body(
    bucket_of: BucketOf, desk: Desk, tmp_path: Path, size: int, kind: str
) -> None:
    place = bucket_of(kind)
    with place.through(Rule(Flip("request-body"), "PUT", times=2)) as proxy:
        counter = Counter(place, proxy, tmp_path / "stores.json", desk)
        counter.send(size)
        assert [seen.store_status for seen in proxy.requests if seen.fault] == [400, 400]


@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_a_store_that_ignores_checksums_and_signatures_is_guarded_by_md5(
    bucket_of: BucketOf, desk: Desk, tmp_path: Path, size: int
) -> None:
    """LocalStack does not compare a body with its signature."""
    place = bucket_of("localstack")
    checksums = (PUT_SUM, PART_SUM, ALGORITHM, "x-amz-checksum-type")
    with place.through(Rule(StripHeaders(request=checksums)), Rule(Flip("request-body"), "PUT", times=1)) as proxy:
        counter = Counter(place, proxy, tmp_path / "stores.json", desk)
        counter.send(size)
        assert [seen.store_status for seen in proxy.requests if "flip" in seen.fault] == [400]


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_part_that_is_answered_without_an_etag_is_looked_up(bucket_of: BucketOf, desk: Desk, kind: str) -> None:
    place = bucket_of(kind)
    with place.through(Rule(StripHeaders(answer=("etag",)), "PUT", "partNumber")) as proxy:
        desk.up(retrying(place.store_with(endpoint=proxy.endpoint)), desk.write(content(LARGE)))
        asked = [seen.method for seen in proxy.requests if seen.path.endswith(KEY)]

    assert place.objects() == {KEY: content(LARGE)}
    assert asked.count("PUT") == asked.count("GET") == 3


@pytest.mark.parametrize("kind", ["versitygw", "ceph"])
@pytest.mark.parametrize(
    "list_",
    [
        pytest.param(NOT_IMPLEMENTED, id="none"),
        pytest.param(Answer(403, "AccessDenied"), id="forbidden"),
        pytest.param(Answer(200, body=b"<ListPartsResult></ListPartsResult>"), id="empty"),
        pytest.param(Answer(200, body=_list_of(1000, b"mUwo5A==")), id="of-another-size"),
        pytest.param(Answer(200, body=_list_of(5 * MIB, b"AAAAAA==")), id="of-another-content"),
    ],
)
def test_a_part_without_an_etag_that_no_list_confirms_is_not_published(
    bucket_of: BucketOf, desk: Desk, kind: str, list_: Answer
) -> None:
    place = bucket_of(kind)
    with (
        place.through(
            Rule(StripHeaders(answer=("etag",)), "PUT", "partNumber=1$"), Rule(list_, "GET", "uploadId")
        ) as proxy,
        pytest.raises(ObjectError, match=r"part \d was answered without an ETag.*partSize.*in one piece"),
    ):
        desk.up(retrying(place.store_with(endpoint=proxy.endpoint), deadline_s=0.5), desk.write(content(LARGE)))

    assert place.objects() == {}


@pytest.mark.parametrize("kind", ["ceph"])
@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(Answer(200, headers=(("ETag", '"v1-not-an-md5"'),), forward=True), id="of-its-own-kind"),
        pytest.param(
            Answer(200, headers=(("ETag", f'"{"0" * 32}"'), ("x-amz-server-side-encryption", "aws:kms")), forward=True),
            id="under-kms",
        ),
    ],
)
def test_an_etag_that_is_no_md5_is_not_taken_for_one(
    bucket_of: BucketOf, desk: Desk, answer: Answer, kind: str
) -> None:
    """The store confirms no checksum either: a Content-MD5 went along, and is compared where that can be."""
    place = bucket_of(kind)
    with place.through(Rule(answer, "PUT")) as proxy:
        sent = desk.up(retrying(place.store_with(endpoint=proxy.endpoint)), desk.write(content(SMALL)))
        assert [seen.method for seen in proxy.requests] == ["HEAD", "PUT", "HEAD"]  # so it is looked at

    assert (sent.how, sent.proven) == ("uploaded", False)
    assert place.objects() == {KEY: content(SMALL)}


OTHER_MD5 = Answer(200, headers=(("ETag", f'"{hashlib.md5(b"something else").hexdigest()}"'),), forward=True)
"""As of what a store has encrypted without saying so."""


@pytest.mark.parametrize("kind", ["ceph"])
def test_an_etag_that_only_looks_like_an_md5_is_found_out_by_reading_once(
    bucket_of: BucketOf, desk: Desk, tmp_path: Path, kind: str
) -> None:
    place, path = bucket_of(kind), tmp_path / "stores.json"
    with place.through(Rule(OTHER_MD5, "PUT")) as proxy:
        for number, asked in enumerate((["HEAD", "PUT", "GET"], ["HEAD", "PUT", "HEAD"])):
            before = len(proxy.requests)
            store = retrying(place.store_with(endpoint=proxy.endpoint, abilities=path))
            sent = desk.up(store, desk.write(content(SMALL, seed=number)), key=f"{KEY}{number}")
            assert (sent.how, sent.proven) == ("uploaded", False)
            assert [seen.method for seen in proxy.requests[before:]] == asked
        upload = place.store_with(endpoint=proxy.endpoint, abilities=path).begin(KEY, oid_of(b"weights"), 7)
        assert len(put_parts(upload, b"weights")) == 1  # a part can't be read

    assert place.objects() == {f"{KEY}{number}": content(SMALL, seed=number) for number in range(2)}


def test_a_part_whose_etag_is_another_md5_is_not_believed_and_told_with_the_way_out(
    bucket_of: BucketOf, desk: Desk
) -> None:
    place = bucket_of("ceph")
    with (
        place.through(Rule(OTHER_MD5, "PUT", "partNumber")) as proxy,
        pytest.raises(ObjectError, match=r"part \d did not arrive as it was sent, or its ETag is no MD5; a partSize"),
    ):
        desk.up(retrying(place.store_with(endpoint=proxy.endpoint), deadline_s=0.5), desk.write(content(LARGE)))

    assert place.objects() == {}


@pytest.mark.parametrize("etag", [hashlib.md5(b"something else").hexdigest(), "v1-not-an-md5"])
def test_who_has_confirmed_one_put_is_not_believed_the_next_without(
    bucket_of: BucketOf, desk: Desk, tmp_path: Path, etag: str
) -> None:
    """Something else may answer for the endpoint by then."""
    place, path = bucket_of("versitygw"), tmp_path / "stores.json"
    with place.through() as proxy:
        store = retrying(place.store_with(endpoint=proxy.endpoint, abilities=path), deadline_s=0.5)
        desk.up(store, desk.write(content(SMALL)), key="weights/first")
        proxy.faults = Faults((Rule(Answer(200, headers=(("ETag", f'"{etag}"'),)), "PUT"),))
        with pytest.raises(ObjectError, match=r"took something else than was sent|and yet nothing is there"):
            desk.up(store, desk.write(content(SMALL, seed=1)))

    assert place.objects() == {"weights/first": content(SMALL)}


@pytest.mark.parametrize(
    "rules, obeyed", [([], True), ([Rule(StripHeaders(request=("if-none-match",)))], False)], ids=["obeyed", "ignored"]
)
def test_whether_a_condition_is_obeyed_is_seen_when_a_repository_is_registered(
    bucket_of: BucketOf, tmp_path: Path, rules: list[Rule], obeyed: bool
) -> None:
    place, path = bucket_of("versitygw"), tmp_path / "stores.json"
    with place.through(*rules) as proxy:
        store = retrying(place.store_with(endpoint=proxy.endpoint, abilities=path))
        assert Ledger(store, "cellar").register("https://host.example/cellar.git")
        assert [seen.method for seen in proxy.all_requests] == ["PUT", "PUT"]
        assert obeys_conditions(proxy.endpoint, path) is obeyed


@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_what_may_not_be_seen_is_not_replaced_where_no_condition_is_taken(
    bucket_of: BucketOf, desk: Desk, size: int
) -> None:
    place = bucket_of("versitygw")
    place.replace(KEY, b"first")
    denied = Answer(403, "AccessDenied")
    rules = [Rule(denied, "HEAD"), Rule(denied, "GET"), Rule(NOT_IMPLEMENTED, "P.*", header="if-none-match")]
    with (
        place.through(*rules) as proxy,
        pytest.raises(DeniedError, match=r"may not see whether something is there.*s3:ListBucket and s3:GetObject"),
    ):
        desk.up(retrying(place.store_with(endpoint=proxy.endpoint)), desk.write(content(size)))

    assert place.objects() == {KEY: b"first"}


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_put_that_confirms_nothing_is_looked_at(bucket_of: BucketOf, desk: Desk, kind: str) -> None:
    place = bucket_of(kind)
    with place.through(Rule(StripHeaders(answer=("etag", PUT_SUM)), "PUT")) as proxy:
        desk.up(retrying(place.store_with(endpoint=proxy.endpoint)), desk.write(content(SMALL)))
        assert [seen.method for seen in proxy.requests] == ["HEAD", "PUT", "HEAD"]

    assert place.objects() == {KEY: content(SMALL)}


@pytest.mark.parametrize("there", [None, b"first"], ids=["nothing", "something else"])
def test_a_put_that_confirms_nothing_is_no_success_where_it_is_not_there(
    bucket_of: BucketOf, there: bytes | None
) -> None:
    place, data = bucket_of("versitygw"), content(SMALL)
    if there is not None:
        place.replace(KEY, there)
    answer = Answer(200, headers=(("ETag", '"none of an MD5"'),), body=b"")
    with (
        place.through(Rule(answer, "PUT")) as proxy,
        pytest.raises(ConflictError, match="the answer says that it is stored, and it is not there"),
    ):
        place.store_with(endpoint=proxy.endpoint).put(KEY, oid_of(data), BytesBody(data))

    assert place.objects() == ({} if there is None else {KEY: there})


LOGIN_PAGE = Answer(200, body=b"<html>Please log in to the hotel's network</html>")


NAMESPACED = Answer(
    200,
    body=b'<?xml version="1.0"?><Error xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Code>InternalError</Code>'
    b"<Message>try again</Message><Key>weights/key</Key></Error>",
)


@pytest.mark.parametrize("page", [LOGIN_PAGE, Answer(200), NAMESPACED], ids=["html", "empty", "error in a namespace"])
@pytest.mark.parametrize("size, step", [(SMALL, ("PUT", "")), (LARGE, ("POST", CREATE)), (LARGE, ("POST", COMPLETE))])
def test_a_page_in_place_of_an_answer_is_no_success(
    bucket_of: BucketOf, desk: Desk, size: int, step: tuple[str, str], page: Answer
) -> None:
    place = bucket_of("versitygw")
    with place.through(Rule(page, *step)) as proxy:
        store = retrying(place.store_with(endpoint=proxy.endpoint), deadline_s=0.5)
        with pytest.raises(ObjectError, match=r"gave no sane answer|and yet nothing is there|: 500 "):
            desk.up(store, desk.write(content(size)))
        assert place.objects() == {}
        proxy.faults = Faults()
        desk.up(store, desk.write(content(size)))

    assert (place.objects(), place.unfinished()) == ({KEY: content(size)}, 0)


def test_an_empty_object_has_no_first_byte_to_hear_a_reason_by(bucket_of: BucketOf, tmp_path: Path) -> None:
    place = bucket_of("versitygw")
    place.replace(KEY, b"")
    with place.through(Rule(INVALID, "HEAD", header="x-amz-checksum-mode")) as proxy:
        found = place.store_with(endpoint=proxy.endpoint, abilities=tmp_path / "stores.json").stat(KEY)

    assert found is not None
    assert found.size == 0


def test_a_store_that_checks_nothing_is_found_out(bucket_of: BucketOf, desk: Desk) -> None:
    place = bucket_of("localstack")
    nothing = (PUT_SUM, "content-md5")
    with (
        place.through(Rule(StripHeaders(request=nothing)), Rule(Flip("request-body"), "PUT", times=1)) as proxy,
        pytest.raises(DamagedError, match=r"took something else than was sent.*lfs-agent repair --deep replaces it"),
    ):
        desk.up(retrying(place.store_with(endpoint=proxy.endpoint)), desk.write(content(SMALL)))


def test_a_store_that_ignores_conditions_keeps_what_is_there(bucket_of: BucketOf, desk: Desk) -> None:
    place = bucket_of("versitygw")
    place.replace(KEY, b"first")
    with place.through(Rule(StripHeaders(request=("if-none-match",)))) as proxy:
        with pytest.raises(DamagedError, match="was not replaced"):
            desk.up(retrying(place.store_with(endpoint=proxy.endpoint)), desk.write(b"second one"))
        assert [seen.method for seen in proxy.requests] == ["HEAD"]

    assert place.objects() == {KEY: b"first"}
