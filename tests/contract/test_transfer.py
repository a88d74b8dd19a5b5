"""`upload` and `download` over each kind of store: what is published, what is not, what is sent again."""

import hashlib
import json
import os
import threading
import tracemalloc
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import parse_qsl

import pytest

from lfs_agent.config import Settings
from lfs_agent.errors import DamagedError, LocalError, MissingError, ObjectError, StoppedError
from lfs_agent.lease import lease
from lfs_agent.modes import UMASK
from lfs_agent.parts import MIB, Limits, Part
from lfs_agent.pointer import Oid
from lfs_agent.store import ObjectStat, Store
from lfs_agent.store.abilities import MultipartChecksum
from lfs_agent.store.aws import Aws
from lfs_agent.store.connection import Connection
from lfs_agent.store.s3 import S3Store
from lfs_agent.transfer.download import Folders, download
from lfs_agent.transfer.meter import Meter
from lfs_agent.transfer.upload import upload
from tests.contract.conftest import BucketOf, Place
from tests.contract.desk import KEY, Desk
from tests.contract.stores import SMALL_PARTS, BytesBody, DictStore, FlakyStore, content, crc_of, oid_of, retrying
from tests.proxy import (
    ACCESS_DENIED,
    CONFLICT,
    ERROR_IN_200,
    INTERNAL_ERROR,
    SLOW_DOWN,
    Answer,
    FaultProxy,
    Flip,
    Reset,
    Rule,
    Truncate,
)
from tests.servers import KINDS
from tests.servers.access import operation_of

SIZES = {"whole": 100_000, "in parts": 12 * MIB}
by_size = pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
by_kind = pytest.mark.parametrize("kind", list(KINDS))


# Over every store


@pytest.mark.parametrize("size", [0, 1, 5 * MIB, 5 * MIB + 1, 12 * MIB])
def test_an_object_goes_and_comes_back(place: Place, desk: Desk, size: int) -> None:
    oid = desk.write(content(size))

    assert desk.up(retrying(place.store), oid).how == "uploaded"
    assert (desk.meter.done, desk.meter.moved) == (size, size)
    assert place.objects() == {KEY: content(size)}
    assert place.unfinished() == 0

    path = desk.down(retrying(place.store), oid, size)
    assert path.read_bytes() == content(size)
    assert (desk.meter.done, desk.meter.moved) == (size, size)
    assert desk.left() == [f"tmp/{path.name}"]


@by_size
def test_what_is_there_is_not_sent(place: Place, desk: Desk, size: int) -> None:
    oid = desk.write(content(size))
    desk.up(place.store, oid)

    sent = desk.up(place.store, oid)

    assert sent.how == "skipped"
    assert sent.proven or size > MIB or "checksums" not in place.can
    assert (desk.meter.done, desk.meter.moved) == (size, 0)


@by_size
def test_something_else_under_the_name_is_not_replaced(place: Place, desk: Desk, size: int) -> None:
    oid = desk.write(content(size))
    place.replace(KEY, b"something else")

    with pytest.raises(DamagedError, match=f"14 bytes, not {size}.*not replaced"):
        desk.up(place.store, oid)

    assert place.objects() == {KEY: b"something else"}


@pytest.mark.parametrize("size", [*SIZES.values(), 600_000], ids=[*SIZES, "read twice"])
def test_a_file_that_is_not_the_object_never_shows(place: Place, desk: Desk, size: int) -> None:
    desk.write(content(size))
    other = oid_of(content(size, seed=1))

    with pytest.raises(LocalError, match="holds something else"):
        desk.up(place.store, other)

    assert place.objects() == {}
    assert place.unfinished() == 0


def test_a_file_of_another_size_is_not_read(place: Place, desk: Desk) -> None:
    oid = desk.write(content(1000))

    with pytest.raises(LocalError, match="has 1000 bytes, not 1001"):
        desk.up(place.store, oid, 1001)
    desk.path.unlink()
    with pytest.raises(LocalError, match="cannot read"):
        upload(
            place.store, KEY, oid, desk.path, Meter(1000, desk.stop), state=desk.state, limits=SMALL_PARTS, streams=2
        )

    assert place.objects() == {}


class Meddling(FlakyStore):
    """A Store around a Store: `meddle` is called before anything is sent or published."""

    def __init__(self, store: Store, meddle: Callable[[str], object]) -> None:
        super().__init__(store, [])
        self._meddle = meddle

    def _next(self, call: str) -> None:
        super()._next(call)
        if call not in ("stat", "begin", "abort"):
            self._meddle(call)


def change(path: Path, harm: str) -> None:
    if harm == "truncated":
        os.truncate(path, 1000)
    else:
        with path.open("r+b") as file:
            file.write(b"changed")


@pytest.mark.parametrize("size", [600_000, SIZES["in parts"]], ids=SIZES)
@pytest.mark.parametrize("harm", ["altered", "truncated"])
def test_a_file_that_changes_while_it_is_sent_never_shows(place: Place, desk: Desk, size: int, harm: str) -> None:
    oid = desk.write(content(size))

    with pytest.raises(LocalError, match=harm if harm == "truncated" else "changed while it was read"):
        desk.up(retrying(Meddling(place.store, lambda call: change(desk.path, harm))), oid)

    assert place.objects() == {}
    assert place.unfinished() == 0


@pytest.mark.parametrize("harm", ["altered", "truncated"])
def test_a_small_file_that_changes_after_it_was_read_is_stored_as_it_was(place: Place, desk: Desk, harm: str) -> None:
    oid = desk.write(content(SIZES["whole"]))

    desk.up(retrying(Meddling(place.store, lambda call: change(desk.path, harm))), oid)

    assert place.objects() == {KEY: content(SIZES["whole"])}


@by_size
def test_an_upload_that_is_stopped_shows_nothing_and_goes_on_later(place: Place, desk: Desk, size: int) -> None:
    oid = desk.write(content(size))

    with pytest.raises(StoppedError):
        desk.up(retrying(Meddling(place.store, lambda call: desk.stop.set()), stop=desk.stop), oid)

    assert place.objects() == {}
    kept = place.unfinished()
    assert kept == len([name for name in desk.left() if name.endswith(".upload")])
    assert kept <= 1
    desk.stop.clear()
    again = FlakyStore(place.store, [])
    assert desk.up(retrying(again), oid).how == "uploaded"
    assert ("resume" in again.calls, "begin" in again.calls) == (kept == 1, size > MIB and kept == 0)
    assert (place.objects(), place.unfinished(), desk.left()) == ({KEY: content(size)}, 0, [])


def test_an_upload_that_broke_off_sends_only_what_is_missing(place: Place, desk: Desk) -> None:
    oid = desk.write(content(26 * MIB))
    failures = [None, None, None, None, None, StoppedError("killed")]  # stat, begin, and three parts get there
    with pytest.raises(StoppedError):
        desk.up(FlakyStore(place.store, failures), oid)
    resumes = place.unfinished() == 1  # a folder gives no upload back, and keeps none

    again = FlakyStore(place.store, [])
    sent = desk.up(again, oid)

    parts = [call for call in again.calls if call.startswith("part")]
    assert sent.how == "uploaded"
    assert again.calls[1] == ("resume" if resumes else "begin")
    assert (len(parts) <= 3) if resumes else (len(parts) == 6)
    assert again.calls.count("complete") == 1
    assert desk.meter.done == 26 * MIB
    assert (desk.meter.moved < 26 * MIB) == resumes
    assert (place.objects(), place.unfinished(), desk.left()) == ({KEY: content(26 * MIB)}, 0, [])


def test_a_file_that_has_changed_since_sends_the_changed_parts_again_and_publishes_nothing(
    place: Place, desk: Desk
) -> None:
    oid = desk.write(content(26 * MIB))
    with pytest.raises(StoppedError):
        desk.up(FlakyStore(place.store, [None, None, None, None, None, StoppedError("killed")]), oid)
    with desk.path.open("r+b") as file:
        file.write(b"changed")

    with pytest.raises(LocalError, match="holds something else"):
        desk.up(place.store, oid)

    assert (place.objects(), place.unfinished(), desk.left()) == ({}, 0, [])


@pytest.mark.parametrize("checksum", ["full", "composite", "none"])
def test_a_part_that_the_store_has_otherwise_is_sent_again(
    bucket_of: BucketOf, desk: Desk, checksum: MultipartChecksum
) -> None:
    """By its own checksum, or its MD5 where it knows none: without one a completion would publish anything."""
    place, data = bucket_of("versitygw"), content(12 * MIB)
    place.s3.abilities.learn(multipart_checksum=checksum)
    oid, other = desk.write(data), content(5 * MIB, seed=1)
    with pytest.raises(StoppedError):
        desk.up(FlakyStore(place.store, [None, None, None, StoppedError("killed")]), oid)
    (notes,) = desk.state.glob("*.upload")
    begun = place.s3.resume(KEY, len(data), json.loads(notes.read_text().splitlines()[0])["token"])
    assert begun
    begun[0].put_part(Part(1, 0, len(other)), BytesBody(other), crc_of(other))

    assert desk.up(place.store, oid).how == "uploaded"
    assert (place.objects(), place.unfinished(), desk.left()) == ({KEY: data}, 0, [])


KEYS = {"AWS_ACCESS_KEY_ID": "first", "AWS_SECRET_ACCESS_KEY": "hush-hush"}
OTHERS = {"AWS_ACCESS_KEY_ID": "second", "AWS_SECRET_ACCESS_KEY": "hush-hush"}
RENEWED = {**OTHERS, "AWS_SESSION_TOKEN": "renewed"}
TEMPORARY = {**KEYS, "AWS_SESSION_TOKEN": "token"}
WORK, WINE = {"AWS_PROFILE": "work"}, {"AWS_PROFILE": "wine"}
ONE, TWO = {"AWS_ACCOUNT_ID": "111111111111"}, {"AWS_ACCOUNT_ID": "222222222222"}


@pytest.mark.parametrize(
    "before, after, goes_on",
    [
        pytest.param(KEYS, KEYS, True, id="the same keys"),
        pytest.param(KEYS, OTHERS, False, id="other keys"),
        pytest.param(TEMPORARY, RENEWED, True, id="renewed keys"),
        pytest.param(TEMPORARY, OTHERS, False, id="keys of somebody's in place of renewed ones"),
        pytest.param(WORK, WORK, True, id="the same profile"),
        pytest.param(WORK, WINE, False, id="another profile"),
        pytest.param(KEYS | ONE, OTHERS | ONE, True, id="other keys of the same account"),
        pytest.param(TEMPORARY | ONE, RENEWED | ONE, True, id="renewed keys of the same account"),
        pytest.param(TEMPORARY | ONE, RENEWED | TWO, False, id="another account"),
    ],
)
def test_an_upload_is_taken_up_by_the_same_account_only(
    bucket_of: BucketOf,
    desk: Desk,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    before: dict[str, str],
    after: dict[str, str],
    goes_on: bool,
) -> None:
    """Over LocalStack, which takes any keys."""
    place, oid = bucket_of("localstack"), desk.write(content(12 * MIB))
    logins = tmp_path / "logins"
    for profile in ("work", "wine"):
        keys = "aws_access_key_id = again\naws_secret_access_key = hush-hush\naws_session_token = token\n"
        with logins.open("a") as file:
            file.write(f"[{profile}]\n{keys}")

    def store_of(environ: dict[str, str], *failures: BaseException | None) -> FlakyStore:
        with monkeypatch.context() as env:
            for name in KEYS | TEMPORARY | WORK | ONE:
                env.delenv(name, raising=False)
            for name, value in {**environ, "AWS_SHARED_CREDENTIALS_FILE": str(logins)}.items():
                env.setenv(name, value)
            aws = Aws(Settings(), dict(os.environ))
            to = Connection(aws, place.server.endpoint, "us-east-1", True, aws.said.profile, "", "")
            store = S3Store(place.bucket, to, Settings())
            store.connect()
        return FlakyStore(store, failures)

    with pytest.raises(StoppedError):
        desk.up(store_of(before, None, None, None, StoppedError("killed")), oid)
    again = store_of(after)

    assert desk.up(again, oid).how == "uploaded"
    assert ("resume" in again.calls, "begin" in again.calls) == (goes_on, not goes_on)
    assert (place.objects(), place.unfinished()) == ({KEY: content(12 * MIB)}, 0 if goes_on else 1)
    assert len(desk.left()) == (0 if goes_on else 1)  # whose it is goes on with it


def test_what_was_begun_is_given_up_where_the_object_is_there_by_now(place: Place, desk: Desk) -> None:
    """Somebody else has sent it."""
    oid = desk.write(content(12 * MIB))
    with pytest.raises(StoppedError):
        desk.up(FlakyStore(place.store, [None, None, None, StoppedError("killed")]), oid)
    place.replace(KEY, content(12 * MIB))

    assert desk.up(place.store, oid).how == "skipped"
    assert (place.objects(), place.unfinished(), desk.left()) == ({KEY: content(12 * MIB)}, 0, [])


def test_what_another_process_is_sending_is_not_given_up_where_the_object_is_there_by_now(
    bucket_of: BucketOf, desk: Desk
) -> None:
    place, oid = bucket_of("versitygw"), desk.write(content(12 * MIB))
    with pytest.raises(StoppedError):
        desk.up(FlakyStore(place.store, [None, None, None, StoppedError("killed")]), oid)
    place.replace(KEY, content(12 * MIB))
    (notes,) = desk.state.glob("*.upload")

    with lease(notes, threading.Event()):
        assert desk.up(place.store, oid).how == "skipped"

    assert (place.unfinished(), notes.exists()) == (1, True)


@pytest.mark.parametrize("token", [5, ["full"], "full", "full ", "full no-such-upload"], ids=str)
@by_kind
def test_notes_of_an_upload_that_are_nonsense_do_no_harm(
    bucket_of: BucketOf, desk: Desk, kind: str, token: object
) -> None:
    place, data = bucket_of(kind), content(12 * MIB)
    oid = desk.write(data)
    with pytest.raises(StoppedError):
        desk.up(FlakyStore(place.store, [None, None, StoppedError("killed")]), oid)
    (notes,) = desk.state.glob("*.upload")
    nonsense = json.dumps({"size": len(data), "part_size": 5 * MIB, "token": token}) + "\n"

    for how in ("uploaded", "skipped"):
        notes.write_text(nonsense)
        assert desk.up(place.store, oid).how == how
        assert (place.objects(), desk.left()) == ({KEY: data}, [])


def test_an_upload_that_is_gone_meanwhile_is_begun_anew(place: Place, desk: Desk) -> None:
    oid = desk.write(content(12 * MIB))
    with pytest.raises(StoppedError):
        desk.up(FlakyStore(place.store, [None, None, None, StoppedError("killed")]), oid)
    place.forget_uploads()

    assert desk.up(place.store, oid).how == "uploaded"
    assert (place.objects(), place.unfinished(), desk.left()) == ({KEY: content(12 * MIB)}, 0, [])


def test_an_upload_that_is_given_up_under_a_push_is_begun_anew(place: Place, desk: Desk) -> None:
    """By a lifecycle rule, or by somebody who clears up without patience."""
    oid = desk.write(content(12 * MIB))
    rule = iter([place.forget_uploads])

    def meddle(call: str) -> None:
        if call == "part 2" and (forget := next(rule, None)):
            forget()

    store = Meddling(place.store, meddle)

    assert desk.up(retrying(store), oid).how == "uploaded"
    assert store.calls.count("begin") == 2
    assert (place.objects(), place.unfinished(), desk.left()) == ({KEY: content(12 * MIB)}, 0, [])


def test_a_pull_that_broke_off_asks_only_for_what_is_missing(place: Place, desk: Desk) -> None:
    size = 26 * MIB
    oid = oid_of(content(size))
    place.replace(KEY, content(size))
    with pytest.raises(StoppedError):
        desk.down(FlakyStore(place.store, [None, None, None, StoppedError("killed")]), oid, size)

    again = FlakyStore(place.store, [])
    path = desk.down(again, oid, size)

    assert path.read_bytes() == content(size)
    assert 1 <= len([call for call in again.calls if call.startswith("fetch")]) <= 4
    assert (desk.meter.done, desk.meter.moved < size) == (size, True)
    assert desk.left() == [f"tmp/{path.name}"]


def test_what_is_damaged_in_a_pull_that_broke_off_is_fetched_anew(place: Place, desk: Desk) -> None:
    size = 26 * MIB
    oid = oid_of(content(size))
    place.replace(KEY, content(size))
    with pytest.raises(StoppedError):
        desk.down(FlakyStore(place.store, [None, None, None, StoppedError("killed")]), oid, size)
    with (desk.state / oid).open("r+b") as file:
        file.write(b"damaged")

    assert desk.down(place.store, oid, size).read_bytes() == content(size)


@by_size
def test_two_that_send_the_same_object_both_end_well(place: Place, desk: Desk, size: int) -> None:
    oid = desk.write(content(size))
    both = threading.Barrier(2, timeout=20)

    def meet(call: str) -> None:
        if call in ("put", "complete"):
            both.wait()

    def up(number: int) -> tuple[str, int]:
        meter = Meter(size, desk.stop)
        store = retrying(Meddling(place.store, meet))
        clone = desk.state / str(number)
        sent = upload(store, KEY, oid, desk.path, meter, state=clone, limits=SMALL_PARTS, streams=2)
        return sent.how, meter.done

    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(up, range(2)))

    assert [done for _, done in results] == [size, size]
    assert "uploaded" in [how for how, _ in results]
    assert place.objects() == {KEY: content(size)}
    assert place.unfinished() == 0


def test_two_of_one_clone_send_an_object_once(place: Place, desk: Desk) -> None:
    oid = desk.write(content(12 * MIB))
    stores = [FlakyStore(place.store, []) for _ in range(2)]

    def up(store: FlakyStore) -> str:
        meter = Meter(12 * MIB, desk.stop)
        return upload(store, KEY, oid, desk.path, meter, state=desk.state, limits=SMALL_PARTS, streams=2).how

    with ThreadPoolExecutor(2) as pool:
        results = sorted(pool.map(up, stores))

    assert results == ["skipped", "uploaded"]
    assert [store.calls.count("begin") for store in stores].count(1) == 1


# Somebody mends what is damaged at the same time


class Between(FlakyStore):
    """A Store around a Store: what is scripted for a call happens after the look, before the publication, once."""

    def __init__(self, store: Store, **script: Callable[[], object]) -> None:
        super().__init__(store, [])
        self._script = script

    def _next(self, call: str) -> None:
        super()._next(call)
        if call in ("put", "complete") and (meddle := self._script.pop("publishing", None)):
            meddle()

    def stat(self, key: str) -> ObjectStat | None:
        if self.calls and (meddle := self._script.pop("looking_again", None)):
            meddle()
        found = super().stat(key)
        if meddle := self._script.pop("looked", None):
            meddle()
        return found


def overwrites(place: Place, size: int) -> bool:
    """Ceph heeds no condition on the completion of parts: see docs/explanation/stores.md."""
    return size > 5 * MIB and "conditional_complete" not in place.can


@by_size
def test_what_is_mended_after_the_look_is_told_as_it_was_seen_and_left_as_it_is(
    place: Place, desk: Desk, size: int
) -> None:
    oid = desk.write(content(size))
    place.replace(KEY, b"damaged")

    def mend() -> None:
        place.remove(KEY)
        place.replace(KEY, content(size))

    with pytest.raises(DamagedError, match=f"7 bytes, not {size}.*not replaced"):
        desk.up(retrying(Between(place.store, looked=mend)), oid)

    assert place.objects() == {KEY: content(size)}
    again = FlakyStore(place.store, [])
    assert desk.up(again, oid).how == "skipped"
    assert again.calls == ["stat"]


@by_size
def test_what_is_mended_before_the_push_publishes_stays_and_the_push_ends_well(
    place: Place, desk: Desk, size: int
) -> None:
    """The damaged one was deleted, and the right one comes while the push sends it, too."""
    oid = desk.write(content(size))
    store = Between(place.store, publishing=lambda: place.replace(KEY, content(size)))

    sent = desk.up(retrying(store), oid)

    assert sent.how == ("uploaded" if overwrites(place, size) else "skipped")
    assert store.calls.count("put") + store.calls.count("complete") == 1
    assert (place.objects(), place.unfinished(), desk.left()) == ({KEY: content(size)}, 0, [])


def test_who_was_slower_soon_stops_sending(desk: Desk) -> None:
    """Of an object in many parts, which somebody else stored while the first of them were sent."""
    store, data = DictStore(), content(200_000)
    oid = desk.write(data)

    def finish(call: str) -> None:
        if call == "part 10":
            store.objects[KEY] = data

    slower = Meddling(store, finish)

    assert desk.up(retrying(slower), oid, limits=Limits(min_part=1, part_size=1000)).how == "skipped"
    assert 10 <= len([call for call in slower.calls if call.startswith("part")]) < 70
    assert (desk.meter.done, desk.left(), store.uploads) == (200_000, [], [])


@by_size
def test_what_is_damaged_before_the_push_publishes_is_named_and_stays(place: Place, desk: Desk, size: int) -> None:
    oid = desk.write(content(size))
    store = retrying(Between(place.store, publishing=lambda: place.replace(KEY, b"damaged")))

    if overwrites(place, size):
        desk.up(store, oid)
    else:
        with pytest.raises(DamagedError, match=f"7 bytes, not {size}.*not replaced"):
            desk.up(store, oid)

    assert place.objects() == {KEY: content(size) if overwrites(place, size) else b"damaged"}
    assert (place.unfinished(), desk.left()) == (0, [])


@by_size
def test_what_was_in_the_way_and_is_gone_again_is_stored_by_the_push(place: Place, desk: Desk, size: int) -> None:
    oid = desk.write(content(size))
    store = Between(
        place.store,
        publishing=lambda: place.replace(KEY, b"damaged"),
        looking_again=lambda: None if overwrites(place, size) else place.remove(KEY),
    )

    assert desk.up(retrying(store), oid).how == "uploaded"
    assert store.calls.count("put") + store.calls.count("complete") == (1 if overwrites(place, size) else 2)
    assert (place.objects(), place.unfinished(), desk.left()) == ({KEY: content(size)}, 0, [])


@pytest.mark.parametrize("kind", ["localstack", "versitygw"])  # Ceph 16 refuses every put with If-Match
@by_size
def test_who_replaces_exactly_what_was_damaged_is_not_undone(
    bucket_of: BucketOf, desk: Desk, kind: str, size: int
) -> None:
    """By If-Match, in a bucket that keeps versions: what mended it is the last one after the next push, too."""
    place = bucket_of(kind)
    oid = desk.write(content(size))
    place.client.put_bucket_versioning(Bucket=place.bucket, VersioningConfiguration={"Status": "Enabled"})
    damaged = place.client.put_object(Bucket=place.bucket, Key=KEY, Body=b"damaged")["ETag"]
    mended: list[str] = []

    def mend() -> None:
        answer = place.client.put_object(Bucket=place.bucket, Key=KEY, Body=content(size), IfMatch=damaged)
        mended.append(answer["VersionId"])

    with pytest.raises(DamagedError, match="not replaced"):
        desk.up(retrying(Between(place.store, looked=mend)), oid)
    desk.up(retrying(place.store), oid)

    head = place.client.head_object(Bucket=place.bucket, Key=KEY)
    assert [head["VersionId"]] == mended
    assert place.objects() == {KEY: content(size)}


@by_size
def test_a_byte_that_is_wrong_in_the_store_is_never_handed_over(place: Place, desk: Desk, size: int) -> None:
    data = bytearray(content(size))
    data[size // 2] ^= 1
    place.replace(KEY, bytes(data))

    with pytest.raises(DamagedError, match=f"SHA-256 is {oid_of(bytes(data))}"):
        desk.down(retrying(place.store), oid_of(content(size)), size)

    assert desk.left() == []


@by_size
@pytest.mark.parametrize("there", [0, 7])
def test_an_object_of_another_size_is_never_handed_over(place: Place, desk: Desk, size: int, there: int) -> None:
    place.replace(KEY, content(there))

    with pytest.raises(DamagedError):
        desk.down(retrying(place.store), oid_of(content(size)), size)

    assert desk.left() == []


@by_size
def test_an_object_that_is_missing_is_named(place: Place, desk: Desk, size: int) -> None:
    with pytest.raises(MissingError, match="404"):
        desk.down(retrying(place.store), oid_of(b""), size)

    assert desk.left() == []


def test_a_part_is_never_in_memory(bucket_of: BucketOf, desk: Desk) -> None:
    place, size = bucket_of("versitygw"), 96 * MIB
    with desk.path.open("wb") as file:
        for block in range(96):
            file.write(content(MIB, seed=block % 7))
    oid = Oid(hashlib.file_digest(desk.path.open("rb"), "sha256").hexdigest())
    limits = Limits(part_size=64 * MIB)
    place.store.stat(KEY)  # boto3 is loaded
    tracemalloc.start()
    try:
        upload(place.store, KEY, oid, desk.path, Meter(size, desk.stop), state=desk.state, limits=limits, streams=2)
        folders = Folders(desk.storage, UMASK)
        download(place.store, KEY, oid, Meter(size, desk.stop), folders, limits=limits, streams=2)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 8 * MIB


# Faults on the way


def counted(proxy: FaultProxy) -> dict[str, int]:
    """How often each kind of request was made."""
    return Counter(
        operation_of(seen.method, "bucket", "key", dict(parse_qsl(seen.query, keep_blank_values=True)))
        for seen in proxy.requests
    )


PUT = ("PUT", "")
COMPLETE = ("POST", "uploadId=")
Publication = tuple[str, str]
by_publication = pytest.mark.parametrize(
    "size,publication", [(SIZES["whole"], PUT), (SIZES["in parts"], COMPLETE)], ids=["put", "complete"]
)


@by_kind
@by_publication
def test_a_lost_answer_does_not_publish_twice(
    bucket_of: BucketOf, desk: Desk, kind: str, size: int, publication: Publication
) -> None:
    place = bucket_of(kind)
    place.client.put_bucket_versioning(Bucket=place.bucket, VersioningConfiguration={"Status": "Enabled"})
    oid = desk.write(content(size))

    with place.through(Rule(Reset("answer-head"), *publication, times=1)) as proxy:
        desk.up(retrying(place.store_with(endpoint=proxy.endpoint)), oid)
        assert [seen.fault for seen in proxy.requests if seen.fault] == ["reset answer-head"]

    assert desk.meter.done == size
    assert place.objects() == {KEY: content(size)}
    assert place.unfinished() == 0
    if kind != "ceph":  # which, in a bucket with versions, heeds no If-None-Match
        assert len(place.client.list_object_versions(Bucket=place.bucket)["Versions"]) == 1


ANSWERS = [
    CONFLICT,
    Answer(412, "PreconditionFailed"),
    Answer(412, "PreconditionFailed", forward=True),
    INTERNAL_ERROR,
    Answer(500, "InternalError", forward=True),
]
COMPLETED = b'<CompleteMultipartUploadResult><Key>k</Key><ETag>"e-2"</ETag></CompleteMultipartUploadResult>'
XML, SPACES = b'<?xml version="1.0" encoding="UTF-8"?>', b" " * 100_000
"""S3 keeps a connection alive with spaces while it puts parts together, mostly after the declaration."""
ANSWERS_TO_COMPLETE = [
    Answer(200, body=XML + SPACES + COMPLETED, forward=True),
    Answer(200, body=SPACES + XML + COMPLETED, forward=True),
    Answer(200, body=XML + SPACES + b"<Error><Code>InternalError</Code></Error>"),
    ERROR_IN_200,
    Answer(200, "InternalError", forward=True),
    Answer(404, "NoSuchUpload"),
    Answer(404, "NoSuchUpload", forward=True),
]


@by_kind
@pytest.mark.parametrize(
    "size,publication,answer",
    [(SIZES["whole"], PUT, answer) for answer in ANSWERS]
    + [(SIZES["in parts"], COMPLETE, answer) for answer in ANSWERS + ANSWERS_TO_COMPLETE],
    ids=lambda value: (
        f"{value.status}{value.code}{'-done' if value.forward else ''}"
        if isinstance(value, Answer)
        else str(value[0] if isinstance(value, tuple) else value)
    ),
)
def test_what_a_publication_answers_is_decided_by_a_look(
    bucket_of: BucketOf, desk: Desk, kind: str, size: int, publication: Publication, answer: Answer
) -> None:
    place = bucket_of(kind)
    oid = desk.write(content(size))

    with place.through(Rule(answer, *publication, times=1)) as proxy:
        desk.up(retrying(place.store_with(endpoint=proxy.endpoint)), oid)

    assert desk.meter.done == size
    assert place.objects() == {KEY: content(size)}
    assert place.unfinished() == 0


@by_publication
def test_a_conflict_without_a_winner_is_not_asked_for_ever(
    bucket_of: BucketOf, desk: Desk, size: int, publication: Publication
) -> None:
    place = bucket_of("versitygw")
    oid = desk.write(content(size))

    with (
        place.through(Rule(CONFLICT, *publication)) as proxy,
        pytest.raises(ObjectError, match=r"409 ConditionalRequestConflict.*yet nothing is there: push again"),
    ):
        desk.up(retrying(place.store_with(endpoint=proxy.endpoint)), oid)

    assert place.objects() == {}
    assert place.unfinished() == 0


@by_kind
@by_size
def test_bytes_that_change_on_their_way_are_refused_and_sent_again(
    bucket_of: BucketOf, desk: Desk, kind: str, size: int
) -> None:
    place = bucket_of(kind)
    oid = desk.write(content(size))

    with place.through(Rule(Flip("request-body"), method="PUT", times=1)) as proxy:
        desk.up(retrying(place.store_with(endpoint=proxy.endpoint)), oid)
        refused = [seen for seen in proxy.requests if seen.fault]
        assert [seen.store_status for seen in refused] == [400]
        assert len([seen for seen in proxy.requests if seen.method == "PUT"]) == (2 if size < MIB else 4)

    assert (desk.meter.done, desk.meter.moved > size) == (size, True)
    assert place.objects() == {KEY: content(size)}


@by_size
def test_bytes_that_change_on_their_way_here_are_fetched_again(bucket_of: BucketOf, desk: Desk, size: int) -> None:
    place = bucket_of("versitygw")
    place.replace(KEY, content(size))

    with place.through(Rule(Flip("answer-body"), method="GET", times=1)) as proxy:
        path = desk.down(retrying(place.store_with(endpoint=proxy.endpoint)), oid_of(content(size)), size)
        assert counted(proxy)["GetObject"] == (2 if size < MIB else 6)

    assert path.read_bytes() == content(size)
    assert desk.meter.done == size


def test_a_body_that_breaks_off_is_resumed_where_it_broke(bucket_of: BucketOf, desk: Desk) -> None:
    place, size = bucket_of("versitygw"), 4 * MIB
    place.replace(KEY, content(size))

    with place.through(Rule(Truncate(at=0.5), method="GET", times=1)) as proxy:
        path = desk.down(retrying(place.store_with(endpoint=proxy.endpoint)), oid_of(content(size)), size)
        ranges = [seen.headers["range"] for seen in proxy.requests]

    assert path.read_bytes() == content(size)
    assert desk.meter.moved == size
    first, second = (tuple(map(int, span.removeprefix("bytes=").split("-"))) for span in ranges)
    assert first == (0, size - 1)
    assert (MIB < second[0] <= size // 2, second[1]) == (True, size - 1)


@by_kind
@pytest.mark.parametrize("size,requests", [(100_000, 1), (12 * MIB, 1)])
def test_a_skip_is_one_question(bucket_of: BucketOf, desk: Desk, kind: str, size: int, requests: int) -> None:
    place = bucket_of(kind)
    oid = desk.write(content(size))
    place.replace(KEY, content(size))

    with place.through() as proxy:
        assert desk.up(retrying(place.store_with(endpoint=proxy.endpoint)), oid).how == "skipped"
        assert [seen.method for seen in proxy.requests] == ["HEAD"]


@by_size
def test_without_the_right_to_list_a_push_goes_on(bucket_of: BucketOf, desk: Desk, size: int) -> None:
    place = bucket_of("versitygw")
    oid = desk.write(content(size))
    hidden = Answer(403, "AccessDenied")

    with place.through(Rule(hidden, method="HEAD|GET")) as proxy:
        assert desk.up(retrying(place.store_with(endpoint=proxy.endpoint)), oid).how == "uploaded"

    assert place.objects() == {KEY: content(size)}


@pytest.mark.parametrize(
    "size,busy",
    [
        pytest.param(1000, Rule(CONFLICT, "PUT", times=1), id="whole"),
        pytest.param(12 * MIB, Rule(SLOW_DOWN, "POST", r"\?uploadId=", times=1), id="in parts"),
    ],
)
def test_who_may_write_and_not_look_survives_a_busy_store(
    bucket_of: BucketOf, desk: Desk, size: int, busy: Rule
) -> None:
    place = bucket_of("versitygw")
    oid = desk.write(content(size))

    with place.through(Rule(ACCESS_DENIED, "HEAD"), Rule(ACCESS_DENIED, "GET"), busy) as proxy:
        sent = desk.up(retrying(place.store_with(endpoint=proxy.endpoint)), oid)

    assert sent.how == "uploaded"
    assert (place.objects(), place.unfinished()) == ({KEY: content(size)}, 0)


def test_an_upload_that_fails_is_aborted(bucket_of: BucketOf, desk: Desk) -> None:
    place, size = bucket_of("versitygw"), 12 * MIB
    oid = desk.write(content(size))

    with (
        place.through(Rule(Answer(403, "AccessDenied"), target="partNumber=2")) as proxy,
        pytest.raises(ObjectError, match=r"storing part 2 of s3://.*403 AccessDenied.*s3:PutObject is needed"),
    ):
        desk.up(retrying(place.store_with(endpoint=proxy.endpoint)), oid)

    assert counted(proxy)["AbortMultipartUpload"] == 1
    assert (place.objects(), place.unfinished()) == ({}, 0)
