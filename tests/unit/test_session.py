"""What the workers of one git-lfs process share."""

import os
import subprocess
import sys
import time
from pathlib import Path

from lfs_agent.session import KEPT_SESSIONS, Breaker, name_session, records_in, sweep

NAME = "from lfs_agent.session import name_session; print(name_session())"


def named_by_children(*commands: list[str]) -> list[str]:
    """What children of this process call their session."""
    done = [subprocess.run(command, capture_output=True, text=True, check=True) for command in commands]
    return [child.stdout.strip() for child in done]


def test_all_workers_of_one_process_have_one_session_also_behind_a_shell() -> None:
    direct = [sys.executable, "-c", NAME]
    behind_shell = ["sh", "-c", f'"{sys.executable}" -c "{NAME}"; true']

    names = named_by_children(direct, behind_shell, direct)

    assert len(set(names)) == 1


def test_a_session_is_named_by_time_and_process() -> None:
    started, _, pid = name_session().partition("-")

    assert time.strptime(started, "%Y%m%dT%H%M%SZ")
    assert pid.isdigit()


def test_the_first_to_meet_a_cause_tells_it_and_all_others_know(tmp_path: Path) -> None:
    path = tmp_path / "sessions" / "one.stop"
    first, second = Breaker(path), Breaker(path)
    assert (first.tripped, second.tripped, first.met()) == (False, False, None)

    assert first.trip("the bucket is gone")
    assert not second.trip("the bucket is gone, too")

    assert (first.tripped, second.tripped) == (True, True)
    cause = second.met()
    assert cause is not None
    assert cause.message == "the bucket is gone"
    assert abs(cause.at - time.time()) < 60


def test_a_cause_that_is_being_written_is_a_cause(tmp_path: Path) -> None:
    path = tmp_path / "one.stop"
    path.write_bytes(b'{"mess')

    cause = Breaker(path).met()

    assert cause is not None
    assert cause.message == ""


def test_a_cause_that_cannot_be_kept_is_told_by_whoever_meets_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")

    assert Breaker(tmp_path / "file" / "sessions" / "one.stop").trip("the disk is full")


def test_records_are_in_order_and_only_the_last_ones_are_kept(tmp_path: Path) -> None:
    sessions = tmp_path / "sessions"
    sessions.mkdir()
    names = [f"20260101T0000{number:02}Z-1" for number in range(KEPT_SESSIONS + 5)]
    for number, name in reversed(list(enumerate(names))):
        (sessions / f"{name}.jsonl").write_bytes(b"")
        os.utime(sessions / f"{name}.jsonl", (number, number))
    (sessions / f"{names[0]}.stop").write_bytes(b"")
    os.utime(sessions / f"{names[0]}.stop", (0, 0))
    (sessions / f"{names[-1]}.stop").write_bytes(b"")

    sweep(tmp_path)

    assert [path.stem for path in records_in(tmp_path)] == names[5:]
    assert [path.name for path in sessions.glob("*.stop")] == [f"{names[-1]}.stop"]


def test_a_long_session_that_still_writes_is_kept(tmp_path: Path) -> None:
    sessions = tmp_path / "sessions"
    sessions.mkdir()
    (sessions / "20250101T000000Z-1.jsonl").write_bytes(b"")
    for number in range(KEPT_SESSIONS):
        (sessions / f"20260101T0000{number:02}Z-1.jsonl").write_bytes(b"")
        os.utime(sessions / f"20260101T0000{number:02}Z-1.jsonl", (number, number))

    sweep(tmp_path)

    assert records_in(tmp_path)[0].stem == "20250101T000000Z-1"


def test_without_records_there_is_nothing_to_sweep(tmp_path: Path) -> None:
    sweep(tmp_path)

    assert records_in(tmp_path) == []
