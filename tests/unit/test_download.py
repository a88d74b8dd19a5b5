"""The local side of a download; the other side: tests/contract/test_transfer.py."""

import errno
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from lfs_agent.errors import DamagedError, DiskError, StoppedError
from lfs_agent.modes import UMASK, Modes
from lfs_agent.parts import MIB
from lfs_agent.transfer.download import Folders, download
from lfs_agent.transfer.meter import Meter
from tests.contract.desk import KEY, Desk
from tests.contract.stores import SMALL_PARTS, DictStore, FlakyStore, content, oid_of, retrying

by_size = pytest.mark.parametrize("size", [100_000, 12 * MIB], ids=["whole", "in-parts"])


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    folder = tmp_path / "desk"
    folder.mkdir()
    return Desk(folder)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT], ids=["full", "quota"])
@by_size
def test_a_full_disk_ends_the_session_and_keeps_only_what_can_be_gone_on_with(desk: Desk, size: int, code: int) -> None:
    store = DictStore()
    store.objects[KEY] = content(size)
    oid = oid_of(content(size))
    full = OSError(code, os.strerror(code))
    failures = [full] if size < MIB else [None, None, full]

    with pytest.raises(DiskError, match="is full"):
        desk.down(retrying(FlakyStore(store, failures)), oid, size)

    assert desk.left() == ([] if size < MIB else [f"incomplete/lfs-agent/{oid}", f"incomplete/lfs-agent/{oid}.ranges"])


def test_a_disk_that_fails_keeps_nothing(desk: Desk) -> None:
    """What can't be read back would stop every later pull, too."""
    store = DictStore()
    store.objects[KEY] = content(12 * MIB)

    with pytest.raises(DiskError, match="Input/output error"):
        desk.down(
            FlakyStore(store, [None, None, OSError(errno.EIO, "Input/output error")]),
            oid_of(content(12 * MIB)),
            12 * MIB,
        )

    assert desk.left() == []


@by_size
def test_a_download_that_is_stopped_hands_nothing_over(desk: Desk, size: int) -> None:
    store = DictStore()
    store.objects[KEY] = content(size)
    desk.stop.set()

    with pytest.raises(StoppedError):
        desk.down(store, oid_of(content(size)), size)

    assert [name for name in desk.left() if not name.startswith("incomplete/lfs-agent/")] == []


@pytest.mark.parametrize("mode,expected", [(None, 0o640), (0o664, 0o664), (0o660, 0o660)])
def test_the_mode_is_the_umasks_or_the_repositorys(desk: Desk, mode: int | None, expected: int) -> None:
    store = DictStore()
    store.objects[KEY] = b"weights"
    desk.modes = Modes(mode)
    umask = os.umask(0o027)
    try:
        path = desk.down(store, oid_of(b"weights"), 7)
    finally:
        os.umask(umask)

    assert stat.S_IMODE(path.stat().st_mode) == expected


def test_a_storage_that_cannot_be_written_is_a_sentence(desk: Desk) -> None:
    desk.storage.write_text("not a folder")
    store = DictStore()
    store.objects[KEY] = b"weights"

    with pytest.raises(DiskError, match="LFS storage must be writable"):
        desk.down(store, oid_of(b"weights"), 7)


def test_two_that_fetch_the_same_object_both_get_it(desk: Desk, tmp_path: Path) -> None:
    store = DictStore()
    store.objects[KEY] = content(12 * MIB)
    oid = oid_of(content(12 * MIB))

    def down(number: int) -> bytes:
        meter = Meter(12 * MIB, desk.stop)
        folders = Folders(desk.storage, UMASK)
        path = download(store, KEY, oid, meter, folders, limits=SMALL_PARTS, streams=2)
        return path.rename(tmp_path / str(number)).read_bytes()

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(down, range(2))) == [content(12 * MIB)] * 2
    assert desk.left() == []


def test_a_damaged_object_is_fetched_twice_and_no_more(desk: Desk) -> None:
    store = DictStore()
    store.objects[KEY] = b"weighty"
    flaky = FlakyStore(store, [])

    with pytest.raises(DamagedError, match="damaged"):
        desk.down(flaky, oid_of(b"weights"), 7)

    assert flaky.calls == ["fetch 0-7", "fetch 0-7"]
    assert desk.meter.done == 7


@by_size
def test_what_an_earlier_one_left_is_not_trusted(desk: Desk, size: int) -> None:
    store, weights = DictStore(), content(size)
    store.objects[KEY] = weights
    partial = desk.storage / "incomplete" / "lfs-agent" / oid_of(weights)
    partial.parent.mkdir(parents=True)
    partial.write_bytes(b"x" * size + b"something longer that was left behind")

    assert desk.down(store, oid_of(weights), size).read_bytes() == weights


@by_size
def test_a_short_write_loses_nothing(desk: Desk, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """A signal cuts it, or a disk that has hardly any room left."""
    store, weights, whole = DictStore(), content(size), os.pwrite
    store.objects[KEY] = weights

    def short(fd: int, data: memoryview, offset: int) -> int:
        return whole(fd, data[: max(1, len(data) // 2)], offset)

    monkeypatch.setattr(os, "pwrite", short)

    assert desk.down(store, oid_of(weights), size).read_bytes() == weights


def test_what_a_killed_git_lfs_did_not_take_is_handed_over_again(desk: Desk) -> None:
    left = desk.storage / "tmp" / f"lfs-agent-{oid_of(b'weights')}-1"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"weights")
    flaky = FlakyStore(DictStore(), [])

    path = desk.down(flaky, oid_of(b"weights"), 7)

    assert path.read_bytes() == b"weights"
    assert flaky.calls == []
    assert desk.meter.done == 7
    assert desk.left() == [str(path.relative_to(desk.storage))]


def test_what_was_left_over_and_is_not_the_object_is_thrown_away(desk: Desk) -> None:
    left = desk.storage / "tmp" / f"lfs-agent-{oid_of(b'weights')}-1"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"weighty")
    store = DictStore()
    store.objects[KEY] = b"weights"

    path = desk.down(store, oid_of(b"weights"), 7)

    assert path.read_bytes() == b"weights"
    assert desk.left() == [str(path.relative_to(desk.storage))]


def test_what_git_lfs_is_about_to_take_is_not_taken_from_it(desk: Desk) -> None:
    store = DictStore()
    store.objects[KEY] = b"weights"
    other = desk.storage / "tmp" / f"lfs-agent-{oid_of(b'weights')}-1"

    with ExitStack() as hold:
        folders = Folders(desk.storage, UMASK)
        meter, limits = Meter(7, desk.stop), SMALL_PARTS
        first = download(store, KEY, oid_of(b"weights"), meter, folders, limits=limits, streams=2, hold=hold)
        first.rename(other)
        second = desk.down(store, oid_of(b"weights"), 7)
        assert other.exists()
    third = desk.down(FlakyStore(DictStore(), []), oid_of(b"weights"), 7)

    assert other not in (second, third)
    assert third.read_bytes() == b"weights"


def test_the_file_lies_in_the_storage_under_a_name_of_its_own(desk: Desk) -> None:
    store = DictStore()
    store.objects[KEY] = b"weights"

    path = desk.down(store, oid_of(b"weights"), 7)

    assert path.parent == desk.storage / "tmp"
    assert path.name.startswith(f"lfs-agent-{oid_of(b'weights')}-")
