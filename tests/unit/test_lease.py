"""One at a time may work on a file, and it is the file that is at the path."""

import errno
import fcntl
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import ClassVar

import pytest

from lfs_agent.errors import DiskError, StoppedError
from lfs_agent.lease import lease, take
from tests.disk import make_stale


def never() -> threading.Event:
    return threading.Event()


def stopped() -> threading.Event:
    event = threading.Event()
    event.set()
    return event


def test_the_file_is_made_with_its_folders(tmp_path: Path) -> None:
    with lease(tmp_path / "a" / "b" / "file", never()) as (fd, _):
        os.write(fd, b"weights")

    assert (tmp_path / "a" / "b" / "file").read_bytes() == b"weights"


def test_what_is_there_is_kept(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"weights")

    with lease(tmp_path / "file", never()) as (fd, _):
        assert os.read(fd, 100) == b"weights"


def test_a_second_one_waits_until_the_first_is_done(tmp_path: Path) -> None:
    order: list[str] = []

    def second() -> None:
        with lease(tmp_path / "file", never()):
            order.append("second")

    with lease(tmp_path / "file", never()):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.3)
        order.append("first")
    thread.join()

    assert order == ["first", "second"]


def test_a_second_one_stops_waiting_when_it_is_told_to(tmp_path: Path) -> None:
    with lease(tmp_path / "file", never()), pytest.raises(StoppedError), lease(tmp_path / "file", stopped()):
        pytest.fail("two hold the lease")


def test_a_second_one_gets_a_file_of_its_own_when_the_first_is_moved_away(tmp_path: Path) -> None:
    inodes: list[int] = []

    def second() -> None:
        with lease(tmp_path / "file", never()) as (fd, _):
            inodes.append(os.fstat(fd).st_ino)

    with lease(tmp_path / "file", never()) as (fd, _):
        inodes.append(os.fstat(fd).st_ino)
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.3)
        (tmp_path / "file").rename(tmp_path / "done")
    thread.join()

    assert inodes == [(tmp_path / "done").stat().st_ino, (tmp_path / "file").stat().st_ino]
    assert len(set(inodes)) == 2


def test_a_second_one_does_not_wait_for_a_file_that_was_moved_away(tmp_path: Path) -> None:
    """Its holder may keep it for long."""
    with lease(tmp_path / "file", never()):
        (tmp_path / "file").rename(tmp_path / "done")
        with lease(tmp_path / "file", never()) as held:
            assert os.fstat(held.fd).st_ino == (tmp_path / "file").stat().st_ino
        assert take(tmp_path / "done") is None

    fd = take(tmp_path / "done")
    assert fd is not None
    os.close(fd)


def test_another_process_waits_and_a_killed_one_lets_go(tmp_path: Path) -> None:
    program = """
import sys, threading, time
from pathlib import Path
from lfs_agent.lease import lease

with lease(Path(sys.argv[1]), threading.Event()):
    print("held", flush=True)
    time.sleep(60)
"""
    holder = subprocess.Popen([sys.executable, "-c", program, tmp_path / "file"], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    with pytest.raises(StoppedError), lease(tmp_path / "file", stopped()):
        pytest.fail("two hold the lease")
    holder.kill()
    holder.communicate()
    started = time.monotonic()
    with lease(tmp_path / "file", never()):
        assert time.monotonic() - started < 5


def test_who_waits_looks_soon_then_less_often(tmp_path: Path) -> None:
    class Counting(threading.Event):
        waits: ClassVar[list[float]] = []

        def wait(self, timeout: float | None = None) -> bool:
            self.waits.append(timeout or 0)
            return len(self.waits) == 8

    with lease(tmp_path / "file", never()), pytest.raises(StoppedError), lease(tmp_path / "file", Counting()):
        pytest.fail("two hold the lease")

    assert Counting.waits == [0.005, 0.01, 0.02, 0.04, 0.08, 0.1, 0.1, 0.1]


def test_a_folder_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")

    with pytest.raises(DiskError, match="LFS storage must be writable"), lease(tmp_path / "file" / "x", never()):
        pytest.fail("no such folder")


def test_a_file_that_another_machine_has_taken_away_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over NFS nothing more can be asked of it then."""
    stale = make_stale(monkeypatch)
    with lease(tmp_path / "file", never()) as held:
        assert held.fd >= 0

    assert not stale


@pytest.fixture
def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some parallel file systems have none, as they are mounted."""

    def flock(fd: int, operation: int) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", flock)


@pytest.mark.usefixtures("no_locks")
def test_a_file_system_without_locks_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(DiskError, match="mount its file system with flock"), lease(tmp_path / "file", never()):
        pytest.fail("nobody can hold it")


@pytest.mark.usefixtures("no_locks")
@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="descriptors are counted in /proc")
def test_where_there_are_no_locks_no_descriptor_is_left_open(tmp_path: Path) -> None:
    """A push goes on there, and tries again and again."""
    (tmp_path / "file").touch()
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        with pytest.raises(DiskError):
            take(tmp_path / "file")

    assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="descriptors are counted in /proc")
def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        with lease(tmp_path / "file", never()), pytest.raises(StoppedError), lease(tmp_path / "file", stopped()):
            pytest.fail("two hold the lease")

    assert len(list(Path("/proc/self/fd").iterdir())) == before
