"""What a journal gives back after a kill."""

import os
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lfs_agent.transfer.journal import KEPT_S, Journal, sweep_stale


@contextmanager
def opened(path: Path) -> Iterator[Journal]:
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        yield Journal(fd)
    finally:
        os.close(fd)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal"


def test_notes_come_back_under_their_heading(path: Path) -> None:
    with opened(path) as journal:
        journal.begin({"etag": "a"})
        journal.note(3)
        journal.note(1)

    with opened(path) as journal:
        assert (journal.heading, journal.notes) == ({"etag": "a"}, [3, 1])


def test_a_new_heading_forgets_the_notes(path: Path) -> None:
    with opened(path) as journal:
        journal.begin({"etag": "a"})
        journal.note(3)
        journal.begin({"etag": "b"})

    with opened(path) as journal:
        assert (journal.heading, journal.notes) == ({"etag": "b"}, [])


def test_what_is_forgotten_is_gone(path: Path) -> None:
    with opened(path) as journal:
        journal.begin({"etag": "a"})
        journal.forget()
        assert (journal.heading, journal.notes) == ({}, [])

    assert path.read_bytes() == b""


def test_a_line_that_a_kill_cut_off_is_no_note_and_not_in_the_way(path: Path) -> None:
    path.write_bytes(b'{"etag": "a"}\n3\n4')

    with opened(path) as journal:
        assert journal.notes == [3]
        journal.note(5)

    with opened(path) as journal:
        assert journal.notes == [3, 5]


@pytest.mark.parametrize("content", [b"", b"\n", b"{not json\n3\n", b"\xff\xfe\n", b"[1]\n3\n", b"\0" * 4096])
def test_what_is_no_journal_has_no_heading(path: Path, content: bytes) -> None:
    path.write_bytes(content)

    with opened(path) as journal:
        assert journal.heading == {}
        journal.begin({"etag": "a"})
        assert journal.heading == {"etag": "a"}


def test_a_journal_without_a_file_keeps_its_notes_to_itself() -> None:
    journal = Journal(None)
    journal.begin({"etag": "a"})
    journal.note(3)
    assert (journal.heading, journal.notes) == ({"etag": "a"}, [3])
    journal.forget()
    assert journal.heading == {}


def test_a_full_disk_leaves_no_half_note_before_the_next(path: Path) -> None:
    with opened(path) as journal:
        journal.begin({"etag": "a"})
        no_limit = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 1, no_limit[1]))  # room for a byte
        try:
            journal.note(12)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, no_limit)
        journal.note(34)

    with opened(path) as journal:
        assert (journal.heading, journal.notes) == ({"etag": "a"}, [34])


def test_what_cannot_be_forgotten_gets_no_further_notes(path: Path) -> None:
    path.write_bytes(b'{"etag": "a"}\n3\n')
    fd = os.open(path, os.O_RDONLY)
    journal = Journal(fd)
    journal.begin({"etag": "b"})
    journal.note(4)
    os.close(fd)

    assert (journal.heading, journal.notes) == ({"etag": "b"}, [4])
    assert path.read_bytes() == b'{"etag": "a"}\n3\n'


def test_only_what_nobody_took_up_for_long_is_swept(tmp_path: Path) -> None:
    (tmp_path / "old").touch()
    (tmp_path / "young").touch()
    long_ago = time.time() - KEPT_S - 60
    os.utime(tmp_path / "old", (long_ago, long_ago))

    sweep_stale(tmp_path)
    sweep_stale(tmp_path / "missing")

    assert [path.name for path in tmp_path.iterdir()] == ["young"]
