"""What is believed of a list, and for how long; pushes that skip by it: tests/e2e/test_push_pull.py, test_gc.py."""

import struct
import threading
import time
from pathlib import Path

import pytest

from lfs_agent.errors import AgentError, DeniedError, ObjectError, UnsupportedError
from lfs_agent.layout import key_of
from lfs_agent.pointer import Oid
from lfs_agent.store import ObjectStat, Store
from lfs_agent.transfer.listing import Listing
from tests.contract.stores import DictStore, FlakyStore, content, oid_of

KEY = key_of("weights", "git-lfs")
OBJECTS = sorted((oid_of(data), len(data)) for data in (content(100 + seed, seed) for seed in range(7)))


def stocked() -> DictStore:
    """Has all of them, on pages of three, among other things."""
    store = DictStore()
    store.objects = {KEY(oid): bytes(size) for oid, size in OBJECTS}
    store.objects |= {"weights/.lfs-agent/gc/marks.jsonl": b"", "weights/readme": b"", "weights2/x": b""}
    return store


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "one.listing"


def worker(path: Path, store: Store | None = None, trusted_s: float = 60) -> Listing:
    """What one of a session knows."""
    return Listing(store or stocked(), "weights", KEY, path, trusted_s)


def skip(listing: Listing, objects: int = 8) -> None:
    """Hears of so many that were there, and waits for a page that is asked for."""
    for _ in range(objects):
        listing.count(was_there=True)
        for thread in threading.enumerate():
            if thread.name.endswith("(_ask)"):
                thread.join(10)


def known(listing: Listing) -> list[Oid]:
    return [oid for oid, size in OBJECTS if listing.seen_at(oid, size) is not None]


def names(count: int) -> list[Oid]:
    return [oid for oid, _ in OBJECTS[:count]]


def test_after_each_eight_in_a_row_that_were_there_a_page_more_is_known_to_all(path: Path) -> None:
    store = FlakyStore(stocked(), [])
    first, second = worker(path, store), worker(path, store)
    before = time.monotonic()
    for _ in range(3):
        skip(first, 7)
        first.count(was_there=False)
    assert store.calls == []

    for calls, count in ((1, 3), (2, 6), (3, 7), (3, 7)):
        skip(first)
        skip(second)  # it leaves that to the first
        assert store.calls == ["list"] * calls
        assert (known(first), known(second)) == (names(count), names(count))

    oid, size = OBJECTS[0]
    assert before < (second.seen_at(oid, size) or 0) < time.monotonic()
    assert second.seen_at(oid, size + 1) is second.seen_at(oid, size - 1) is None
    assert second.seen_at(oid_of(b"never stored"), 12) is None


@pytest.mark.parametrize("wall_s, monotonic_s", [(-60, -60), (-3600, 0), (0, -3600), (60, 60)])
def test_what_was_asked_for_some_time_ago_is_not_believed(path: Path, wall_s: float, monotonic_s: float) -> None:
    """Nor where the machine has slept since, its clock was set, or it was another machine."""
    skip(worker(path))
    page = path.read_bytes()
    assert known(worker(path)) == names(3)
    wall, monotonic = struct.unpack_from(">dd", page)

    path.write_bytes(struct.pack(">dd", wall + wall_s, monotonic + monotonic_s) + page[16:])

    assert known(worker(path)) == []


def test_a_list_that_is_old_is_asked_for_anew(path: Path) -> None:
    store = FlakyStore(stocked(), [])
    first = worker(path, store, trusted_s=0)

    for calls in (1, 2, 3, 4):
        skip(first)
        assert store.calls == ["list"] * calls
        assert known(first) == []

    assert known(worker(path)) == names(7)


def test_of_two_pages_the_newer_one_is_right(path: Path) -> None:
    store = stocked()
    first, (gone, size) = worker(path, store, trusted_s=0), OBJECTS[1]
    skip(first, 24)
    del store.objects[KEY(gone)]
    second = worker(path)
    assert second.seen_at(gone, size)
    skip(first)

    assert second.seen_at(gone, size) is None
    assert len(known(second)) == 6


@pytest.mark.parametrize("refusal", [DeniedError("403"), UnsupportedError("501"), ObjectError("500")])
def test_who_may_not_list_is_told_so_once(path: Path, refusal: AgentError) -> None:
    store = FlakyStore(stocked(), [refusal])
    workers = [worker(path, store), worker(path, store)]
    for each in workers * 2:
        skip(each, 16)

    assert store.calls == ["list"]
    assert known(workers[1]) == []
    skip(worker(path, store))
    assert store.calls == ["list"]


def test_of_too_much_no_more_than_a_page_is_listed(path: Path) -> None:
    store = DictStore()
    store.objects = {KEY(Oid(f"{number:03x}{'0' * 61}")): b"x" for number in range(1, 4096, 16)}
    listing = worker(path, counting := FlakyStore(store, []))
    skip(listing, 80)

    assert counting.calls == ["list"]
    assert listing.seen_at(Oid(f"001{'0' * 61}"), 1) is None


def test_what_a_killed_worker_was_writing_is_written_over(path: Path, tmp_path: Path) -> None:
    skip(worker(tmp_path / "another"))
    page = (tmp_path / "another").read_bytes()
    path.write_bytes(page + page[:-1])
    reader = worker(path)
    assert known(reader) == names(3)

    skip(worker(path), 24)

    assert known(reader) == names(7)


def test_where_nothing_can_be_written_nothing_is_listed(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    listing = worker(tmp_path / "file" / "one.listing", store := FlakyStore(stocked(), []))
    skip(listing, 80)

    assert store.calls == []
    assert known(listing) == []


@pytest.mark.parametrize("size", [-1, 1 << 64])
def test_a_size_that_no_object_has_is_passed_over(path: Path, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    store = stocked()
    listed = store.listed

    def odd(prefix: str, after: str = "") -> tuple[list[ObjectStat], str]:
        found, last = listed(prefix, after)
        return [replace_size(each, size) if each.key == KEY(names(1)[0]) else each for each in found], last

    monkeypatch.setattr(store, "listed", odd)
    listing = worker(path, store)
    skip(listing)

    assert known(listing) == names(3)[1:]


def replace_size(stat: ObjectStat, size: int) -> ObjectStat:
    return ObjectStat(stat.key, size)
