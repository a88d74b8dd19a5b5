"""What every store promises where a damaged object is replaced: that one, by the right one, or nothing."""

import pytest

from lfs_agent.errors import ConflictError, DamagedError, LocalError, UnsupportedError
from lfs_agent.parts import MIB, Limits
from lfs_agent.store import Store
from tests.contract.conftest import BucketOf, InBucket, Place
from tests.contract.desk import KEY, Desk
from tests.contract.stores import SMALL_PARTS, BytesBody, DictStore, content, crc_of, oid_of, put_parts, retrying
from tests.proxy import NOT_IMPLEMENTED, Reset, Rule, StripHeaders

SIZES = [1000, 12 * MIB]
WRONG = b"something else"


def harm(place: Place, data: bytes = WRONG) -> str:
    """Puts something else under the key; its etag."""
    place.replace(KEY, data)
    found = place.store.stat(KEY)
    assert found is not None
    return found.etag


def expected(place: Place) -> str:
    """Ceph 16 looks at the condition of a put only."""
    return "whole" if isinstance(place, InBucket) and place.server.name == "ceph" else "parts"


def test_how_a_store_replaces_is_found_out_without_a_trace(place: Place, store: Store) -> None:
    harm(place)

    assert store.can_replace(KEY) == expected(place)
    assert place.objects() == {KEY: WRONG}
    assert place.unfinished() == 0


def test_a_put_replaces_what_was_judged_and_nothing_else(place: Place, store: Store) -> None:
    data = content(1000)
    judged = harm(place)
    harm(place, b"by somebody else")

    with pytest.raises(ConflictError):
        store.put(KEY, oid_of(data), BytesBody(data), judged)
    assert place.objects() == {KEY: b"by somebody else"}

    store.put(KEY, oid_of(data), BytesBody(data), harm(place))
    assert place.objects() == {KEY: data}
    assert place.unfinished() == 0


def test_parts_replace_what_was_judged_and_nothing_else(place: Place, store: Store) -> None:
    if store.can_replace(KEY) != "parts":
        pytest.skip("it does not look at the condition of a completion, and is never asked to")
    data = content(6 * MIB)
    judged = harm(place)
    harm(place, b"by somebody else")

    upload = store.begin(KEY, oid_of(data), len(data), judged)
    with pytest.raises(ConflictError):
        upload.complete(put_parts(upload, data), crc_of(data))
    assert place.objects() == {KEY: b"by somebody else"}
    upload.abort()

    upload = store.begin(KEY, oid_of(data), len(data), harm(place))
    upload.complete(put_parts(upload, data), crc_of(data))
    assert place.objects() == {KEY: data}


def test_what_is_gone_is_not_replaced(place: Place, store: Store) -> None:
    data = content(1000)
    judged = harm(place)
    place.remove(KEY)

    with pytest.raises(ConflictError):
        store.put(KEY, oid_of(data), BytesBody(data), judged)
    assert place.objects() == {}


# Whole uploads


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("wrong", [WRONG, b""])
def test_an_upload_takes_the_place_of_what_is_damaged(place: Place, desk: Desk, size: int, wrong: bytes) -> None:
    data = content(size)
    judged = harm(place, wrong)

    sent = desk.up(place.store, desk.write(data), replacing=judged)

    assert sent.how == "replaced"
    assert place.objects() == {KEY: data}
    assert place.unfinished() == 0
    assert desk.left() == []


@pytest.mark.parametrize("size", SIZES)
def test_a_local_copy_that_is_damaged_too_replaces_nothing(place: Place, desk: Desk, size: int) -> None:
    judged = harm(place)
    desk.write(content(size, seed=1))

    with pytest.raises(LocalError):
        desk.up(place.store, oid_of(content(size)), replacing=judged)
    assert place.objects() == {KEY: WRONG}
    assert place.unfinished() == 0


@pytest.mark.parametrize("size", SIZES)
def test_what_somebody_put_there_meanwhile_is_left_alone(place: Place, desk: Desk, size: int) -> None:
    data = content(size)
    oid = desk.write(data)
    judged = harm(place)

    harm(place, b"by somebody else")
    with pytest.raises(DamagedError, match="it was not replaced"):
        desk.up(place.store, oid, replacing=judged)
    assert place.objects() == {KEY: b"by somebody else"}

    place.replace(KEY, data)
    assert desk.up(place.store, oid, replacing=judged).how == "skipped"


@pytest.mark.parametrize("size", SIZES)
def test_what_was_deleted_meanwhile_is_stored(place: Place, desk: Desk, size: int) -> None:
    data = content(size)
    judged = harm(place)
    place.remove(KEY)

    assert desk.up(place.store, desk.write(data), replacing=judged).how == "uploaded"
    assert place.objects() == {KEY: data}


@pytest.mark.parametrize("server", ["versitygw"], indirect=True)
@pytest.mark.parametrize("size", SIZES)
def test_a_lost_answer_to_a_replacement_is_decided_by_a_look(place: Place, desk: Desk, size: int) -> None:
    assert isinstance(place, InBucket)
    data = content(size)
    judged = harm(place)
    last = Rule(Reset("answer-head"), "PUT|POST", f"{KEY}$" if size == SIZES[0] else "uploadId=[^&]*$", times=1)
    with place.through(last) as proxy:
        store = place.store_with(endpoint=proxy.endpoint)
        store.abilities.learn(replacing="parts")
        sent = desk.up(retrying(store), desk.write(data), replacing=judged)
        faults = [seen for seen in proxy.requests if seen.fault]

    assert len(faults) == 1
    assert sent.how == "skipped"
    assert place.objects() == {KEY: data}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", ["versitygw", "localstack"])
def test_a_store_that_ignores_conditions_is_not_asked_to_replace(
    bucket_of: BucketOf, desk: Desk, kind: str, size: int
) -> None:
    place = bucket_of(kind)
    judged = harm(place)
    oid = desk.write(content(size))
    with place.through(Rule(StripHeaders(request=("if-match",)))) as proxy:
        store = place.store_with(endpoint=proxy.endpoint)
        with pytest.raises(UnsupportedError, match="was not replaced: this store can't be held to replace"):
            desk.up(store, oid, replacing=judged)

    assert store.can_replace(KEY) == "never"
    assert place.objects() == {KEY: WRONG, f"{KEY}.probe": b""}
    assert place.unfinished() == 0


def test_a_store_that_refuses_the_condition_is_not_asked_again(bucket_of: BucketOf, desk: Desk) -> None:
    place = bucket_of("versitygw")
    judged = harm(place)
    with place.through(Rule(NOT_IMPLEMENTED, "PUT|POST", header="if-match")) as proxy:
        store = place.store_with(endpoint=proxy.endpoint)
        for _ in range(2):
            with pytest.raises(UnsupportedError):
                desk.up(store, desk.write(content(1000)), replacing=judged)
        asked = [seen for seen in proxy.requests if "if-match" in seen.headers]

    assert len(asked) == 1
    assert place.objects() == {KEY: WRONG}


@pytest.mark.parametrize("kind", ["ceph"])
def test_a_store_that_replaces_whole_objects_only_gets_them_whole_and_no_larger(
    bucket_of: BucketOf, desk: Desk, kind: str
) -> None:
    place = bucket_of(kind)
    data = content(12 * MIB)
    small = Limits(part_size=SMALL_PARTS.part_size, max_part=6 * MIB)
    with pytest.raises(UnsupportedError, match="12582912 bytes only as long as it is the one that was judged"):
        desk.up(place.store, desk.write(data), replacing=harm(place), limits=small)
    assert place.objects() == {KEY: WRONG}

    assert desk.up(place.store, desk.write(data), replacing=harm(place)).how == "replaced"
    assert place.objects() == {KEY: data}
    found = place.store.stat(KEY)
    assert found is not None
    assert "-" not in found.etag


def test_what_is_to_be_replaced_is_no_faster_push(desk: Desk) -> None:
    """Of many parts: now and then it is looked at again."""
    store, data = DictStore(), content(200_000)
    store.objects[KEY] = b"damaged"
    limits = Limits(min_part=1, part_size=1000)

    sent = desk.up(store, desk.write(data), replacing=oid_of(b"damaged"), limits=limits)

    assert sent.how == "replaced"
    assert (store.objects, store.uploads, desk.left()) == ({KEY: data}, [], [])
