"""What every Store promises, on each kind of store, as it is and inside a RetryingStore."""

import itertools
from concurrent.futures import ThreadPoolExecutor

import pytest

from lfs_agent.errors import (
    AgentError,
    BucketError,
    ConflictError,
    DamagedError,
    MissingError,
    TransientError,
)
from lfs_agent.parts import MIB, Part
from lfs_agent.retry import RetryingStore
from lfs_agent.store import Store
from tests.contract.conftest import InBucket, Place
from tests.contract.stores import BytesBody, content, crc_of, oid_of, put_parts, read, retrying

KEY = "weights.v1/(a)+b=c/ab/cd/abcd"


@pytest.mark.parametrize("size", [0, 1, 65536, 5 * MIB])
def test_what_is_put_comes_back(place: Place, store: Store, size: int) -> None:
    data = content(size)
    assert store.stat(KEY) is None

    store.put(KEY, oid_of(data), BytesBody(data))

    found = store.stat(KEY)
    assert found is not None
    assert (found.key, found.size, found.archived) == (KEY, size, "")
    got, bytes_got = read(store, KEY, 0, size)
    assert (got.size, bytes_got) == (size, data)
    assert place.objects() == {KEY: data}
    assert place.unfinished() == 0


def test_a_whole_object_is_proven_where_the_store_has_checksums(place: Place, store: Store) -> None:
    data = content(1000)
    store.put(KEY, oid_of(data), BytesBody(data))

    found = store.stat(KEY)

    assert found is not None
    assert found.proves(oid_of(data)) == ("checksums" in place.can)
    assert not found.proves(oid_of(b"other"))


def test_ranges_are_exact(place: Place, store: Store) -> None:
    data = content(3 * MIB)
    place.replace(KEY, data)
    edges = [0, 1, 16384, 16385, MIB, 3 * MIB - 1, 3 * MIB]

    for start, stop in itertools.combinations(edges, 2):
        got, bytes_got = read(store, KEY, start, stop)
        assert (got.size, bytes_got == data[start:stop]) == (3 * MIB, True)


def test_an_object_that_is_shorter_than_asked_for_says_so(place: Place, store: Store) -> None:
    place.replace(KEY, b"weights")

    got, bytes_got = read(store, KEY, 0, 1000)

    assert (got.size, bytes_got) == (7, b"weights")


def test_a_put_replaces_nothing(place: Place, store: Store) -> None:
    place.replace(KEY, b"first")

    with pytest.raises(ConflictError):
        store.put(KEY, oid_of(b"other"), BytesBody(b"other"))

    assert place.objects() == {KEY: b"first"}
    assert place.unfinished() == 0


def test_parts_make_an_object_that_shows_only_when_it_is_complete(place: Place, store: Store) -> None:
    data = content(12 * MIB)
    upload = store.begin(KEY, oid_of(data), len(data))
    sent = put_parts(upload, data)
    assert store.stat(KEY) is None
    assert place.objects() == {}

    upload.complete(sent, crc_of(data))

    found = store.stat(KEY)
    assert found is not None
    assert (found.size, found.sha256 in ("", oid_of(data))) == (12 * MIB, True)
    assert found.crc32c == (crc_of(data) if "checksums" in place.can else "")
    assert place.objects() == {KEY: data}
    assert place.unfinished() == 0


def test_parts_may_be_sent_from_several_threads(place: Place, store: Store) -> None:
    data = content(10 * MIB)
    upload = store.begin(KEY, oid_of(data), len(data))
    halves = [(Part(1, 0, 5 * MIB), data[: 5 * MIB]), (Part(2, 5 * MIB, 5 * MIB), data[5 * MIB :])]
    with ThreadPoolExecutor(2) as pool:
        sent = list(pool.map(lambda half: upload.put_part(half[0], BytesBody(half[1]), crc_of(half[1])), halves))

    upload.complete(sent, crc_of(data))

    assert place.objects() == {KEY: data}


def test_a_part_may_be_sent_again(place: Place, store: Store) -> None:
    data = content(6 * MIB)
    upload = store.begin(KEY, oid_of(data), len(data))
    put_parts(upload, data)

    upload.complete(put_parts(upload, data), crc_of(data))

    assert place.objects() == {KEY: data}


def test_a_complete_replaces_nothing_where_the_store_can(place: Place, store: Store) -> None:
    data = content(6 * MIB)
    upload = store.begin(KEY, oid_of(data), len(data))
    sent = put_parts(upload, data)
    place.replace(KEY, b"first")

    if "conditional_complete" in place.can:
        with pytest.raises(ConflictError):
            upload.complete(sent, crc_of(data))
        upload.abort()
        assert place.objects() == {KEY: b"first"}
    else:  # an older store: it is the one or the other, never a mixture
        upload.complete(sent, crc_of(data))
        assert place.objects() == {KEY: data}
    assert place.unfinished() == 0


def test_what_is_aborted_leaves_nothing(place: Place, store: Store) -> None:
    data = content(6 * MIB)
    upload = store.begin(KEY, oid_of(data), len(data))
    put_parts(upload, data)
    assert place.unfinished() == 1

    upload.abort()

    assert store.stat(KEY) is None
    assert place.objects() == {}
    assert place.unfinished() == 0


def test_an_upload_that_is_gone_is_a_conflict_that_only_a_look_can_decide(place: Place) -> None:
    if not isinstance(place, InBucket):
        pytest.skip("only S3 names its uploads")
    data = content(6 * MIB)
    upload = place.store.begin(KEY, oid_of(data), len(data))
    sent = put_parts(upload, data)
    upload.abort()

    with pytest.raises(ConflictError):
        put_parts(upload, data)
    # Ceph says 500 to this, that the completion is in progress.
    with pytest.raises((ConflictError, TransientError) if place.server.name == "ceph" else ConflictError):
        upload.complete(sent, crc_of(data))


def test_other_bytes_than_the_name_says_are_never_put(place: Place, store: Store) -> None:
    with pytest.raises(AgentError):
        store.put(KEY, oid_of(b"weights"), BytesBody(b"weighty"))

    assert store.stat(KEY) is None
    assert place.objects() == {}
    assert place.unfinished() == 0


def test_a_part_with_another_checksum_is_refused_where_the_store_checks(place: Place, store: Store) -> None:
    if "checksums" not in place.can:
        pytest.skip("takes no checksums: a body proves itself while it is read, and by the payload's signature")
    upload = store.begin(KEY, oid_of(b"weights"), 7)

    with pytest.raises(AgentError):
        upload.put_part(Part(1, 0, 7), BytesBody(b"weighty"), crc_of(b"weights"))


def test_a_whole_with_another_checksum_is_not_completed_where_the_store_checks(place: Place, store: Store) -> None:
    if "checksums" not in place.can:
        pytest.skip("takes no checksums")
    data = content(6 * MIB)
    upload = store.begin(KEY, oid_of(data), len(data))
    sent = put_parts(upload, data)

    with pytest.raises(DamagedError):
        upload.complete(sent, crc_of(b"other"))

    assert place.objects() == {}


def test_what_is_missing_is_missing(store: Store) -> None:
    assert store.stat(KEY) is None
    with pytest.raises(MissingError, match="404"):
        read(store, KEY, 0, 10)


def test_an_object_that_was_replaced_meanwhile_is_not_mixed(place: Place, store: Store) -> None:
    place.replace(KEY, content(1000))
    found = store.stat(KEY)
    assert found is not None
    assert read(store, KEY, 10, 20, found.etag)[1] == content(1000)[10:20]
    place.replace(KEY, content(1000, seed=1))

    with pytest.raises(DamagedError, match="replaced"):
        read(store, KEY, 10, 20, found.etag)


def test_a_bucket_that_is_not_there_is_not_an_empty_one(place: Place, store: Store) -> None:
    nowhere = place.without_bucket()
    if isinstance(store, RetryingStore):
        nowhere = retrying(nowhere)

    with pytest.raises(BucketError):
        nowhere.put(KEY, oid_of(b"weights"), BytesBody(b"weights"))
    with pytest.raises(BucketError):
        nowhere.begin(KEY, oid_of(b"weights"), 7)
    with pytest.raises(BucketError):
        read(nowhere, KEY, 0, 7)
