"""How a file is read while it is sent; the other side: tests/contract/test_transfer.py."""

import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from google_crc32c import value

from lfs_agent.errors import (
    ConflictError,
    DamagedError,
    DeniedError,
    LocalError,
    ObjectError,
    StoppedError,
    TransientError,
)
from lfs_agent.parts import KIB, MIB, Limits, Part
from lfs_agent.pointer import Oid
from lfs_agent.store import Body, ObjectStat
from lfs_agent.transfer.local import BlockBody, FileBody
from lfs_agent.transfer.meter import Meter
from lfs_agent.transfer.upload import Asking, upload
from tests.contract.desk import KEY, Desk
from tests.contract.stores import SMALL_PARTS, DictStore, DictUpload, FlakyStore, content, crc_of, oid_of, retrying

DATA = content(3 * MIB)
PART = Part(2, MIB, MIB + 5)
PIECE = DATA[MIB : 2 * MIB + 5]


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


@pytest.fixture
def fd(tmp_path: Path) -> Iterator[int]:
    path = tmp_path / "object"
    path.write_bytes(DATA)
    fd = os.open(path, os.O_RDWR)
    yield fd
    os.close(fd)


def meter() -> Meter:
    return Meter(len(DATA), threading.Event())


def body(fd: int, counting: Meter) -> FileBody:
    return FileBody(fd, PART, value(PIECE), counting)


def block(_: int, counting: Meter) -> BlockBody:
    return BlockBody(PIECE, counting)


def drained(source: Body) -> bytes:
    return b"".join(iter(lambda: source.read(16384), b""))


# FileBody


def test_a_body_is_its_part_of_the_file(fd: int) -> None:
    sent = body(fd, meter())

    assert len(sent) == MIB + 5
    assert drained(sent) == PIECE
    assert sent.read() == b""


def test_a_body_can_be_read_again_from_anywhere(fd: int) -> None:
    sent = body(fd, meter())
    drained(sent)

    assert (sent.seek(0), drained(sent)) == (0, PIECE)
    assert (sent.seek(-5, 2), sent.tell(), drained(sent)) == (MIB, MIB, PIECE[MIB:])
    assert (sent.seek(10), sent.seek(5, 1), drained(sent)) == (10, 15, PIECE[15:])


@pytest.mark.parametrize("new", [body, block])
def test_reading_to_sign_is_not_progress_and_sending_is(fd: int, new: Callable[[int, Meter], Body]) -> None:
    counting = meter()
    sent = new(fd, counting)
    drained(sent)
    assert (counting.done, counting.moved) == (0, 0)

    sent.seek(0)
    sent.sending()
    drained(sent)

    assert (counting.done, counting.moved) == (MIB + 5, MIB + 5)


@pytest.mark.parametrize("new", [body, block])
def test_sending_again_moves_bytes_and_no_progress(fd: int, new: Callable[[int, Meter], Body]) -> None:
    counting = meter()
    sent = new(fd, counting)
    for _ in range(2):
        sent.seek(0)
        sent.sending()
        drained(sent)

    assert (counting.done, counting.moved) == (MIB + 5, 2 * (MIB + 5))


@pytest.mark.parametrize("new", [body, block])
def test_what_was_sent_in_part_is_read_to_sign_again_from_its_beginning(
    fd: int, new: Callable[[int, Meter], Body]
) -> None:
    counting = meter()
    sent = new(fd, counting)
    sent.sending()
    half = len(sent.read(MIB // 2))

    sent.seek(0)
    drained(sent)
    assert (counting.done, counting.moved) == (half, half)

    sent.seek(0)
    sent.sending()
    drained(sent)
    assert (counting.done, counting.moved) == (MIB + 5, half + MIB + 5)


def test_the_last_block_of_a_changed_part_is_never_handed_out(fd: int) -> None:
    sent = body(fd, meter())
    os.pwrite(fd, b"x", MIB + 1)
    sent.sending()
    blocks: list[bytes] = []

    with pytest.raises(LocalError, match="changed while it was read"):
        blocks.extend(iter(lambda: sent.read(16384), b""))

    assert sum(map(len, blocks)) < len(PIECE)


def test_a_part_that_was_cut_off_is_an_error(fd: int) -> None:
    sent = body(fd, meter())
    os.truncate(fd, MIB + 10)

    with pytest.raises(LocalError, match="truncated while it was read"):
        drained(sent)


@pytest.mark.parametrize("new", [body, block])
def test_a_body_stops_when_it_is_told_to(fd: int, new: Callable[[int, Meter], Body]) -> None:
    counting = meter()
    sent = new(fd, counting)
    counting.stop.set()

    with pytest.raises(StoppedError):
        sent.read()


# upload


@pytest.mark.parametrize("size", [0, 10, 512 * KIB])
def test_a_small_object_is_sent_as_it_was_hashed_whatever_becomes_of_the_file(desk: Desk, size: int) -> None:
    class Changing(DictStore):
        def put(self, key: str, oid: Oid, body: Body, replacing: str = "") -> bool:
            desk.path.write_bytes(b"another")
            return super().put(key, oid, body, replacing)

    store = Changing()
    assert desk.up(store, desk.write(content(size))).how == "uploaded"
    assert store.objects == {KEY: content(size)}


def test_an_object_that_no_plan_fits_is_refused_before_a_byte_is_sent(desk: Desk) -> None:
    store = FlakyStore(DictStore(), [])
    oid = desk.write(content(1000))
    limits = Limits(min_part=1, max_part=10, max_parts=10, part_size=10)

    with pytest.raises(ObjectError, match="1000 bytes is more than an object can have here"):
        upload(store, KEY, oid, desk.path, Meter(1000, desk.stop), state=desk.state, limits=limits, streams=2)

    assert store.calls == ["stat"]


def test_nothing_is_asked_for_an_object_that_is_there(desk: Desk) -> None:
    oid = desk.write(b"weights")
    store = DictStore()
    store.objects[KEY] = b"weights"
    flaky = FlakyStore(store, [])

    assert desk.up(flaky, oid).how == "skipped"
    assert flaky.calls == ["stat"]


def test_an_object_of_the_right_size_that_the_store_knows_to_be_another_is_not_present(desk: Desk) -> None:
    oid = desk.write(b"weights")
    store = DictStore()
    store.objects[KEY] = b"weighty"

    with pytest.raises(DamagedError, match="holds something else"):
        desk.up(store, oid)

    assert store.objects == {KEY: b"weighty"}


def test_a_key_that_is_hidden_is_written_if_nothing_is_there(desk: Desk) -> None:
    oid = desk.write(b"weights")
    store = DictStore()
    flaky = FlakyStore(store, [DeniedError("403")])

    assert desk.up(flaky, oid).how == "uploaded"
    assert flaky.calls == ["stat", "put"]


def test_who_may_write_and_not_read_has_uploaded_without_a_proof(desk: Desk) -> None:
    oid = desk.write(content(12 * MIB))
    denied = DeniedError("403")
    store = DictStore()
    flaky = FlakyStore(store, [denied, *[None] * 5, denied])

    sent = desk.up(flaky, oid)

    assert (sent.how, sent.proven) == ("uploaded", False)
    assert store.objects == {KEY: content(12 * MIB)}


def test_a_conflict_without_a_winner_starts_from_the_beginning_once(desk: Desk) -> None:
    oid = desk.write(b"weights")
    store = DictStore()
    flaky = FlakyStore(store, [None, ConflictError("409"), None, None])

    assert desk.up(flaky, oid).how == "uploaded"
    assert flaky.calls == ["stat", "put", "stat", "stat", "put"]


def test_a_conflict_without_a_winner_ends_at_the_second(desk: Desk) -> None:
    oid = desk.write(b"weights")
    flaky = FlakyStore(DictStore(), [None, ConflictError("409"), None, None, ConflictError("409")])

    with pytest.raises(ObjectError, match="409; and yet nothing is there: push again"):
        desk.up(flaky, oid)


@pytest.mark.parametrize(
    "other, words",
    [
        ({"crc32c": crc_of(b"other")}, f"{12 * MIB} bytes with the CRC-32C {crc_of(b'other')}"),
        ({"size": 5 * MIB, "crc32c": ""}, f"the store has {5 * MIB} bytes"),
        (None, "the store has nothing"),
    ],
)
def test_a_whole_that_the_store_sums_up_otherwise_is_damaged(
    desk: Desk, other: dict[str, Any] | None, words: str
) -> None:
    class Liar(DictStore):
        def stat(self, key: str) -> ObjectStat | None:
            found = super().stat(key)
            return found._replace(**other) if found and other else None

    oid = desk.write(content(12 * MIB))

    with pytest.raises(DamagedError, match=re.escape(words)):
        desk.up(Liar(), oid)


def test_progress_never_exceeds_the_object_when_somebody_else_was_first(desk: Desk) -> None:
    oid = desk.write(content(12 * MIB))

    class Overtaken(DictStore):
        def begin(self, key: str, oid: Oid, size: int, replacing: str = "") -> DictUpload:
            self.objects[key] = b""
            upload = super().begin(key, oid, size, replacing)
            self.objects[key] = content(12 * MIB)
            return upload

    assert desk.up(Overtaken(), oid).how == "skipped"
    assert desk.meter.done == 12 * MIB


def test_no_part_is_begun_after_one_that_failed(desk: Desk) -> None:
    oid = desk.write(content(40 * MIB))
    store = DictStore()
    flaky = FlakyStore(store, [None, None, DeniedError("403")])

    with pytest.raises(DeniedError):
        desk.up(flaky, oid)

    assert len([call for call in flaky.calls if call.startswith("part")]) <= 5
    assert flaky.calls[-1] == "abort"
    assert store.uploads == []


@contextmanager
def nobody() -> Iterator[None]:
    """A user who may read no file of ours; root may read all."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    yield
    os.seteuid(before)


def test_an_object_that_may_not_be_read_is_named(desk: Desk) -> None:
    oid = desk.write(b"weights")
    desk.path.chmod(0)
    store = FlakyStore(DictStore(), [])

    with (
        nobody(),
        pytest.raises(LocalError, match=r"object: Permission denied; does it belong to another user\?$"),
    ):
        upload(store, KEY, oid, desk.path, Meter(7, desk.stop), state=desk.state, limits=SMALL_PARTS, streams=2)

    assert store.calls == []


def test_an_object_that_is_not_there_is_named(desk: Desk) -> None:
    with pytest.raises(LocalError, match=r"object: No such file or directory; try: git lfs fetch$"):
        upload(
            DictStore(),
            KEY,
            oid_of(b"weights"),
            desk.path,
            Meter(7, desk.stop),
            state=desk.state,
            limits=SMALL_PARTS,
            streams=2,
        )


def test_an_upload_needs_no_room_on_the_disk(desk: Desk) -> None:
    desk.storage.write_bytes(b"a file where the LFS storage would be")
    oid = desk.write(content(12 * MIB))
    store = DictStore()

    assert desk.up(store, oid).how == "uploaded"
    assert store.objects == {KEY: content(12 * MIB)}


def test_a_failed_abort_does_not_hide_the_cause(desk: Desk) -> None:
    oid = desk.write(content(6 * MIB))
    flaky = FlakyStore(DictStore(), [None, None, DeniedError("the cause"), None, ObjectError("abort failed")])

    with pytest.raises(DeniedError, match="the cause"):
        desk.up(flaky, oid)


def test_a_stop_ends_a_wait_between_two_requests(desk: Desk) -> None:
    oid = desk.write(b"weights")
    busy = TransientError("503", heard=True, retry_after_s=10)
    store = retrying(FlakyStore(DictStore(), [busy]), stop=desk.stop)
    threading.Timer(0.1, desk.stop.set).start()
    started = time.monotonic()

    with pytest.raises(StoppedError):
        desk.up(store, oid)

    assert time.monotonic() - started < 2


# Small objects are put without a question, until one of them is there


def test_small_objects_are_asked_for_only_after_one_was_there(desk: Desk) -> None:
    there = DictStore()
    asking, store = Asking(lambda: True), FlakyStore(there, [])
    small = [content(size * KIB, seed) for seed, size in enumerate((16, 128, 128, 128))]
    there.objects["2"] = small[2]

    hows = []
    for number, data in enumerate(small):
        asking.count(sent := desk.up(store, desk.write(data), key=str(number), asking=asking))
        hows.append(sent.how)

    assert hows == ["uploaded", "uploaded", "skipped", "uploaded"]
    assert store.calls == ["put", "put", "put", "stat", "stat", "put"]
    assert there.objects == {str(number): data for number, data in enumerate(small)}


def test_before_one_has_gone_well_only_tiny_ones_are_put_without_a_question(desk: Desk) -> None:
    asking, store = Asking(lambda: True), FlakyStore(DictStore(), [])

    for number, size in enumerate((16 * KIB + 1, 128 * KIB)):
        asking.count(desk.up(store, desk.write(content(size)), key=str(number), asking=asking))

    assert store.calls == ["stat", "put", "put"]


@pytest.mark.parametrize("size, trusted", [(128 * KIB + 1, True), (10, False)])
def test_large_objects_and_stores_that_may_overwrite_are_asked_first(desk: Desk, size: int, trusted: bool) -> None:
    store = FlakyStore(DictStore(), [])

    desk.up(store, desk.write(content(size)), asking=Asking(lambda: trusted))

    assert store.calls == ["stat", "put"]


def test_something_else_under_the_name_is_not_replaced_where_nobody_asked(desk: Desk) -> None:
    there = DictStore()
    there.objects[KEY] = b"something else"

    with pytest.raises(DamagedError, match="something else is stored under this name"):
        desk.up(there, desk.write(content(10)), asking=Asking(lambda: True))

    assert there.objects == {KEY: b"something else"}


def test_what_another_process_found_out_of_the_store_counts_at_once(desk: Desk) -> None:
    known = [False, False, True]
    asking, store = Asking(lambda: known.pop(0)), FlakyStore(DictStore(), [])

    for number in range(4):
        desk.up(store, desk.write(content(10, number)), key=str(number), asking=asking)

    assert store.calls == ["stat", "put", "stat", "put", "put", "put"]


def test_an_object_that_was_asked_for_and_is_there_makes_others_be_asked_for(desk: Desk) -> None:
    there = DictStore()
    known = [False, True]
    asking, store = Asking(lambda: known.pop(0)), FlakyStore(there, [])
    there.objects["0"] = content(10, 0)

    for number in range(3):
        desk.up(store, desk.write(content(10, number)), key=str(number), asking=asking)

    assert store.calls == ["stat", "stat", "put", "stat", "put"]
