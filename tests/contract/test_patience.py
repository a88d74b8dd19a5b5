"""Who asks again, how often, how long: a RetryingStore over S3 with faults on the way, and over a dict that fails."""

import threading
import time
from collections import Counter

import pytest

from lfs_agent.errors import (
    BucketError,
    ConflictError,
    CredentialsError,
    DeniedError,
    ObjectError,
    TransientError,
    UnreachableError,
)
from lfs_agent.parts import MIB, Limits
from lfs_agent.store import Chunk
from tests.contract.conftest import BucketOf
from tests.contract.desk import KEY, Desk
from tests.contract.stores import (
    BytesBody,
    Notices,
    content,
    crc_of,
    oid_of,
    put_parts,
    read,
    retrying,
)
from tests.proxy import (
    ACCESS_DENIED,
    ERROR_IN_200,
    INTERNAL_ERROR,
    SLOW_DOWN,
    Action,
    Answer,
    BlackHole,
    Reset,
    Rule,
    Stall,
    StripHeaders,
    Throttle,
    Truncate,
)
from tests.servers import KINDS

DATA = content(1000)
OID = oid_of(DATA)


# A tenth of everything fails


@pytest.mark.parametrize("kind", list(KINDS))
def test_when_requests_fail_at_random_everything_arrives(bucket_of: BucketOf, desk: Desk, kind: str) -> None:
    place = bucket_of(kind)
    faults: tuple[Action, ...] = (
        SLOW_DOWN,
        INTERNAL_ERROR,
        Reset("request-head"),
        Reset("request-body"),
        Reset("answer-head"),
        Reset("answer-body"),
        Stall("answer-head", 2.0),
        Truncate(),
    )
    with place.through(*(Rule(fault, probability=0.02) for fault in faults)) as proxy:
        store = retrying(place.store_with(endpoint=proxy.endpoint, read_timeout=1.0))
        for size in (32 * MIB, *range(1000, 1015)):
            oid = desk.write(content(size))
            desk.up(store, oid, key=str(size))
            path = desk.down(store, oid, size, key=str(size))
            assert path.read_bytes() == content(size)
        assert any(seen.fault for seen in proxy.requests)

    assert len(place.objects()) == 16


# What is not asked again


@pytest.mark.parametrize(
    "answer,error",
    [
        (ACCESS_DENIED, DeniedError),
        (Answer(403, "SignatureDoesNotMatch"), CredentialsError),
        (Answer(400, "EntityTooLarge"), ObjectError),
    ],
)
def test_what_is_permanent_is_asked_once(bucket_of: BucketOf, answer: Answer, error: type[Exception]) -> None:
    place = bucket_of("versitygw")
    with place.through(Rule(answer)) as proxy:
        store = retrying(place.store_with(endpoint=proxy.endpoint))
        with pytest.raises(error):
            store.put(KEY, OID, BytesBody(DATA))
        with pytest.raises(error):
            read(store, KEY, 0, 10)
        with pytest.raises(error):
            store.begin(KEY, OID, 6 * MIB)

        assert Counter(seen.method for seen in proxy.requests) == {"PUT": 1, "GET": 1, "POST": 1}


# One layer


@pytest.mark.parametrize("fault", [SLOW_DOWN, INTERNAL_ERROR, Reset("answer-head"), Answer(503), Answer(429)])
def test_nobody_below_asks_again(bucket_of: BucketOf, fault: Answer | Reset) -> None:
    place = bucket_of("versitygw")
    with place.through(Rule(fault)) as proxy:
        store = place.store_with(endpoint=proxy.endpoint)
        with pytest.raises(TransientError):
            store.stat(KEY)
        with pytest.raises(TransientError):
            store.put(KEY, OID, BytesBody(DATA))
        with pytest.raises(TransientError):
            read(store, KEY, 0, 10)

        assert [seen.method for seen in proxy.requests] == ["HEAD", "PUT", "GET"]


def test_every_repetition_is_told(bucket_of: BucketOf) -> None:
    place, notices = bucket_of("versitygw"), Notices()
    with place.through(Rule(SLOW_DOWN, times=3)) as proxy:
        retrying(place.store_with(endpoint=proxy.endpoint), notices=notices).stat(KEY)

        assert len(proxy.requests) == 4
    assert ["503" in str(reason) for reason in notices.reasons] == [True] * 3


# Time


def test_a_store_that_asks_for_a_pause_gets_it(bucket_of: BucketOf) -> None:
    place, notices = bucket_of("versitygw"), Notices()
    busy = Answer(503, "SlowDown", (("Retry-After", "1"),))
    with place.through(Rule(busy, times=1)) as proxy:
        retrying(place.store_with(endpoint=proxy.endpoint), notices=notices).stat(KEY)
        first, second = proxy.requests

    assert second.at - first.at >= 1.0
    assert notices.waits_s == [1.0]


@pytest.mark.parametrize(
    "date", ["Fri, 21 Nov 2014 07:28:00 GMT", "Fri, 21 Nov 2014 07:28:00 +9999999999999999", "soon"]
)
def test_a_pause_may_be_a_date(bucket_of: BucketOf, date: str) -> None:
    place, notices = bucket_of("versitygw"), Notices()
    busy = Answer(503, "SlowDown", (("Retry-After", date),))
    with place.through(Rule(busy, times=1)) as proxy:
        retrying(place.store_with(endpoint=proxy.endpoint), notices=notices).stat(KEY)

    assert 0 <= notices.waits_s[0] <= 0.25


def test_a_pause_beyond_the_deadline_is_not_waited_for(bucket_of: BucketOf) -> None:
    place, started = bucket_of("versitygw"), time.monotonic()
    busy = Answer(503, "SlowDown", (("Retry-After", "3600"),))
    with place.through(Rule(busy)) as proxy:
        store = retrying(place.store_with(endpoint=proxy.endpoint))
        with pytest.raises(ObjectError, match=r"503.*\(asked 1 times\)"):
            store.stat(KEY)

    assert time.monotonic() - started < 30


def test_the_deadline_counts_from_the_first_failure(bucket_of: BucketOf) -> None:
    place = bucket_of("versitygw")
    with place.through(Rule(SLOW_DOWN)) as proxy:
        store = retrying(place.store_with(endpoint=proxy.endpoint), deadline_s=1.5)
        started = time.monotonic()
        with pytest.raises(ObjectError, match=r"503.*\(asked [2-9] times\)"):
            store.stat(KEY)

    assert time.monotonic() - started < 15


@pytest.mark.parametrize("accept", [True, False], ids=["silent", "refusing"])
def test_an_endpoint_that_is_dead_from_the_start_is_given_up_soon(bucket_of: BucketOf, accept: bool) -> None:
    place = bucket_of("versitygw")
    with BlackHole(accept=accept) as hole:
        store = retrying(place.store_with(endpoint=hole.endpoint), first_deadline_s=1.0, deadline_s=60)
        started = time.monotonic()
        with pytest.raises(UnreachableError):
            store.stat(KEY)
        assert time.monotonic() - started < 30

        started = time.monotonic()
        with pytest.raises(UnreachableError):  # and is not waited for again
            store.stat(KEY)
        assert time.monotonic() - started < 1


def test_an_endpoint_that_hangs_up_from_the_start_is_given_up_soon(bucket_of: BucketOf) -> None:
    place = bucket_of("versitygw")
    with place.through(Rule(Reset("request-head"))) as proxy:
        store = retrying(place.store_with(endpoint=proxy.endpoint), first_deadline_s=1.0, deadline_s=60)
        started = time.monotonic()
        with pytest.raises(UnreachableError, match=r"asked \d+ times"):
            store.stat(KEY)

    assert time.monotonic() - started < 30


def test_a_store_that_has_answered_is_given_more_time(bucket_of: BucketOf) -> None:
    place = bucket_of("versitygw")
    with place.through(Rule(Stall("answer-head", 1.0), nth=2, times=1)) as proxy:
        store = retrying(place.store_with(endpoint=proxy.endpoint), first_deadline_s=0.5)
        assert store.stat(KEY) is None
        assert store.stat(KEY) is None


def test_a_first_answer_that_says_busy_is_an_answer(bucket_of: BucketOf) -> None:
    place, notices = bucket_of("versitygw"), Notices()
    busy = Answer(503, "SlowDown", (("Retry-After", "1"),))
    with place.through(Rule(busy, times=1)) as proxy:
        store = retrying(place.store_with(endpoint=proxy.endpoint), first_deadline_s=0.5, notices=notices)
        assert store.stat(KEY) is None
    assert notices.waits_s == [1.0]


def test_a_first_object_may_come_slowly(bucket_of: BucketOf) -> None:
    place = bucket_of("versitygw")
    place.replace(KEY, content(200_000))
    with place.through(Rule(Throttle(down=100_000))) as proxy:
        store = retrying(place.store_with(endpoint=proxy.endpoint), first_deadline_s=0.7)
        assert read(store, KEY, 0, 200_000)[1] == content(200_000)


def test_an_answer_that_comes_too_late_writes_nothing(bucket_of: BucketOf) -> None:
    place, late = bucket_of("versitygw"), threading.Event()
    place.replace(KEY, DATA)
    with place.through(Rule(Stall("answer-head", 1.0))) as proxy:
        store = retrying(place.store_with(endpoint=proxy.endpoint), first_deadline_s=0.2)
        with pytest.raises(UnreachableError):
            store.fetch(KEY, 0, 1000, lambda offset, chunk: late.set())
        assert not late.wait(1.5)


def test_a_request_may_take_longer_than_a_silence(bucket_of: BucketOf, desk: Desk) -> None:
    place, size = bucket_of("versitygw"), 32 * MIB
    oid = desk.write(content(size))
    # What the kernel has taken of the body, up to 8 MiB, is still on its way when the wait for the answer begins.
    with place.through(Rule(Throttle(up=9 * MIB, down=9 * MIB))) as proxy:
        store = retrying(place.store_with(endpoint=proxy.endpoint, read_timeout=3.0))
        desk.up(store, oid, limits=Limits(part_size=64 * MIB))
        assert desk.meter.moved == size
        path = desk.down(store, oid, size, limits=Limits(part_size=64 * MIB))
        assert desk.meter.moved == size

    assert path.read_bytes() == content(size)


def test_something_on_the_way_that_is_not_s3_is_asked_again(bucket_of: BucketOf) -> None:
    place = bucket_of("versitygw")
    portal = Answer(200, body=b"<html><body>Please log in to the Wi-Fi")
    with place.through(Rule(portal, method="POST", times=1), Rule(Answer(502, body=b"<html>"), times=1)) as proxy:
        store = retrying(place.store_with(endpoint=proxy.endpoint))
        data = content(6 * MIB)
        upload = store.begin(KEY, oid_of(data), len(data))
        upload.complete(put_parts(upload, data), crc_of(data))

    assert place.objects() == {KEY: data}


PORTAL = Answer(200, body=b"<html><body>Please log in to the Wi-Fi</body></html>")


@pytest.mark.parametrize(
    "fault, parts", [(PORTAL, ["PUT", "GET", "PUT"]), (StripHeaders(answer=("ETag",)), ["PUT", "GET"])]
)
def test_a_part_is_sent_again_where_the_store_s_list_does_not_have_it(
    bucket_of: BucketOf, fault: Answer | StripHeaders, parts: list[str]
) -> None:
    place = bucket_of("versitygw")
    with place.through(Rule(fault, method="PUT", times=1), Rule(PORTAL, method="POST", times=1)) as proxy:
        store = retrying(place.store_with(endpoint=proxy.endpoint))
        data = content(6 * MIB)
        upload = store.begin(KEY, oid_of(data), len(data))
        upload.complete(put_parts(upload, data), crc_of(data))

    assert place.objects() == {KEY: data}
    assert [seen.method for seen in proxy.requests] == ["POST", "POST", *parts, "PUT", "POST"]


def test_a_success_without_an_etag_is_looked_at(bucket_of: BucketOf) -> None:
    """Nothing was stored, whatever the answer says."""
    place = bucket_of("versitygw")
    with place.through(Rule(PORTAL, method="PUT")) as proxy:
        store = retrying(place.store_with(endpoint=proxy.endpoint))
        with pytest.raises(ConflictError, match="gave no sane answer \\('ETag'\\)"):
            store.put(KEY, OID, BytesBody(DATA))

    assert len(proxy.requests) == 1


def test_a_completion_is_asked_for_again_where_the_answer_is_none(bucket_of: BucketOf) -> None:
    place = bucket_of("versitygw")
    data = content(6 * MIB)
    with place.through(Rule(PORTAL, target="[?&]uploadId=", method="POST", times=1)) as proxy:
        store = retrying(place.store_with(endpoint=proxy.endpoint))
        upload = store.begin(KEY, oid_of(data), len(data))
        upload.complete(put_parts(upload, data), crc_of(data))

    assert place.objects() == {KEY: data}
    assert place.unfinished() == 0


@pytest.mark.parametrize("answer", [PORTAL, ERROR_IN_200])
def test_a_page_that_is_not_the_object_is_not_taken_for_a_range_of_it(bucket_of: BucketOf, answer: Answer) -> None:
    place = bucket_of("versitygw")
    place.replace(KEY, DATA)
    with place.through(Rule(answer, method="GET", times=1)) as proxy:
        store = retrying(place.store_with(endpoint=proxy.endpoint))
        found = store.stat(KEY)
        assert found
        assert read(store, KEY, 0, len(DATA), found.etag)[1] == DATA

    assert [seen.method for seen in proxy.requests] == ["HEAD", "GET", "GET"]


def test_a_redirect_to_nowhere_is_followed_once(bucket_of: BucketOf) -> None:
    """As a network does that wants a login first."""
    place = bucket_of("versitygw")
    away = Answer(307, headers=(("Location", "http://127.0.0.1:9/"),))
    with place.through(Rule(away)) as proxy:
        store = retrying(place.store_with(endpoint=proxy.endpoint))
        with pytest.raises(BucketError, match="307"):
            store.stat(KEY)

    assert len(proxy.requests) <= 4


def test_what_came_before_a_silence_is_not_asked_for_again(bucket_of: BucketOf) -> None:
    place = bucket_of("versitygw")
    data = content(1_000_000)
    place.replace(KEY, data)
    with place.through(Rule(Stall("answer-body", 20, at=0.5), times=1)) as proxy:
        store = retrying(place.store_with(endpoint=proxy.endpoint, read_timeout=1))
        assert read(store, KEY, 0, len(data))[1] == data

    assert [seen.headers["range"] for seen in proxy.requests] == ["bytes=0-999999", "bytes=500000-999999"]


def test_a_disk_that_is_full_breaks_off_a_read_from_s3(bucket_of: BucketOf) -> None:
    place = bucket_of("versitygw")
    place.replace(KEY, DATA)
    held = []

    def write(offset: int, chunk: Chunk) -> None:
        held.append(memoryview(chunk))  # as the frames do that the error has come through
        raise OSError(28, "No space left on device")

    with place.through() as proxy:
        store = retrying(place.store_with(endpoint=proxy.endpoint))
        store.stat(KEY)
        with pytest.raises(OSError, match="No space left"):
            store.fetch(KEY, 0, 1000, write)

        assert [seen.method for seen in proxy.requests] == ["HEAD", "GET"]
        assert read(store, KEY, 0, 1000)[1] == DATA
