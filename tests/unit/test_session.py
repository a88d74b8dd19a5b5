"""What the workers of one git-lfs process share."""

import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from lfs_agent.errors import StoppedError
from lfs_agent.session import (
    KEPT_SESSIONS,
    Bandwidth,
    Breaker,
    Budget,
    Handover,
    Slots,
    name_session,
    records_in,
    sweep,
)

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
    started, pid, machine = name_session().split("-")

    assert time.strptime(started, "%Y%m%dT%H%M%SZ")
    assert pid.isdigit()
    assert re.fullmatch("[0-9a-f]{4}", machine)


def test_containers_and_machines_that_share_a_storage_have_sessions_of_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other = os.uname_result(("Linux", "another-container", "6", "1", "x86_64"))
    here = name_session()

    monkeypatch.setattr(os, "uname", lambda: other)

    assert name_session().rpartition("-")[0] == here.rpartition("-")[0]
    assert name_session() != here


def test_where_nobody_tells_when_a_process_began_it_is_no_session_of_before(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("lfs_agent.session.process_of", lambda pid: (_ for _ in ()).throw(OSError))
    monkeypatch.setenv("PATH", str(tmp_path))

    assert not name_session().startswith("1970")


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


@pytest.mark.parametrize("written", [b"", b'{"mess'])
def test_a_cause_for_which_there_was_no_room_is_that_there_is_none(tmp_path: Path, written: bytes) -> None:
    path = tmp_path / "one.stop"
    path.write_bytes(written)

    cause = Breaker(path).met()

    assert cause is not None
    assert cause.message.startswith(f"the disk of {tmp_path} is full: make room")
    assert cause.at == path.stat().st_mtime


def test_a_cause_that_cannot_be_kept_is_told_by_whoever_meets_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")

    assert Breaker(tmp_path / "file" / "sessions" / "one.stop").trip("the disk is full")


def test_where_nobody_may_look_there_is_no_cause(tmp_path: Path) -> None:
    nowhere = Breaker(tmp_path / ("x" * 300))

    assert (nowhere.tripped, nowhere.met()) == (False, None)


def test_records_are_in_order_and_only_the_last_ones_are_kept(tmp_path: Path) -> None:
    sessions = tmp_path / "sessions"
    sessions.mkdir()
    names = [f"20260101T0000{number:02}Z-1" for number in range(KEPT_SESSIONS + 5)]
    for number, name in reversed(list(enumerate(names))):
        (sessions / f"{name}.jsonl").write_bytes(b"")
        os.utime(sessions / f"{name}.jsonl", (number, number))
    for suffix in (".12345678.stop", ".bandwidth", ".12345678.slot3"):
        (sessions / f"{names[0]}{suffix}").write_bytes(b"")
        os.utime(sessions / f"{names[0]}{suffix}", (0, 0))
    (sessions / f"{names[-1]}.stop").write_bytes(b"")

    sweep(tmp_path)

    assert [path.stem for path in records_in(tmp_path)] == names[5:]
    others = [path.name for path in sessions.iterdir() if path.suffix != ".jsonl"]
    assert others == [f"{names[-1]}.stop"]


def test_the_running_session_is_kept_whatever_the_clock_said_before(tmp_path: Path) -> None:
    sessions = tmp_path / "sessions"
    sessions.mkdir()
    future = time.time() + 365 * 24 * 3600
    for number in range(KEPT_SESSIONS + 5):
        (sessions / f"2040-{number:02}.jsonl").touch()
        os.utime(sessions / f"2040-{number:02}.jsonl", (future, future))
    for suffix in (".jsonl", ".stop"):
        (sessions / f"2026{suffix}").touch()

    sweep(tmp_path, "2026")

    assert {"2026.jsonl", "2026.stop"} <= {path.name for path in sessions.iterdir()}
    assert len(records_in(tmp_path)) == KEPT_SESSIONS + 1


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="processes are looked up in /proc")
def test_a_session_whose_process_is_there_is_kept_however_long_it_was_silent(tmp_path: Path) -> None:
    sessions = tmp_path / "sessions"
    sessions.mkdir()
    running = name_session()
    with subprocess.Popen(["true"]) as ended:
        over = re.sub("-[0-9]+-", f"-{ended.pid}-", running)
    for name in (running, over):
        (sessions / f"{name}.jsonl").touch()
        os.utime(sessions / f"{name}.jsonl", (0, 0))
    for number in range(KEPT_SESSIONS):
        (sessions / f"2026-{number:02}.jsonl").touch()

    sweep(tmp_path)

    kept = [path.stem for path in records_in(tmp_path)]
    assert running in kept
    assert over not in kept


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


def never() -> threading.Event:
    return threading.Event()


def test_workers_spend_one_budget_together(tmp_path: Path) -> None:
    one, other = Budget(3, tmp_path / "one.retries"), Budget(3, tmp_path / "one.retries")

    assert [one.spend(never()), other.spend(never()), one.spend(never()), other.spend(never())] == [True] * 3 + [False]


def test_what_one_worker_earns_another_may_spend_and_never_more_than_the_limit(tmp_path: Path) -> None:
    one, other = Budget(2, tmp_path / "one.retries"), Budget(2, tmp_path / "one.retries")
    for _ in range(10):
        one.earn()

    assert one.spend(never())  # 2 of 2, not 12
    assert other.spend(never())
    assert not other.spend(never())
    one.earn()
    one.earn()
    assert one.spend(never())
    assert not other.spend(never())


@pytest.mark.parametrize("content", [b"", b"nonsense", b"-"])
def test_a_budget_that_cannot_be_read_is_each_workers_own(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "one.retries"
    path.write_bytes(content)

    assert Budget(1, path).spend(never())
    assert [Budget(1, tmp_path / "one.retries" / "file").spend(never()) for _ in range(2)] == [True, True]


linux = pytest.mark.skipif(sys.platform != "linux", reason="a login is handed over on Linux only")


@linux
def test_a_login_is_handed_to_another_process_and_is_in_no_file(tmp_path: Path) -> None:
    path = tmp_path / "sessions" / "one.login"
    first = Handover(path, never())
    assert first.given() is None
    with first.held():
        first.leave({"access_key": "who", "secret_key": "canary-of-the-login"})

    child = subprocess.run([sys.executable, "-c", GIVEN, path], capture_output=True, text=True, check=True)

    assert child.stdout.strip() == "{'access_key': 'who', 'secret_key': 'canary-of-the-login'}"
    assert [file.read_bytes() for file in path.parent.iterdir()] == [path.read_bytes()]
    assert b"canary" not in path.read_bytes()


GIVEN = """
import pathlib, sys, threading
from lfs_agent.session import Handover
print(Handover(pathlib.Path(sys.argv[1]), threading.Event()).given())
"""


@linux
def test_a_later_login_takes_the_place_of_the_first(tmp_path: Path) -> None:
    first, second = Handover(tmp_path / "one.login", never()), Handover(tmp_path / "one.login", never())
    first.leave({"access_key": "old"})
    second.leave({"access_key": "new"})

    assert first.given() == second.given() == {"access_key": "new"}


@linux
def test_a_worker_may_have_nothing_to_spare(tmp_path: Path) -> None:
    handover = Handover(tmp_path / "one.login", never())
    handover.leave({})

    assert handover.given() == {}


@linux
def test_nothing_is_read_but_what_a_worker_of_this_session_left(tmp_path: Path) -> None:
    path = tmp_path / "one.login"
    Handover(tmp_path / "other.login", never()).leave({"access_key": "of another session"})
    stranger = os.open(__file__, os.O_RDONLY)
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    pid, memory = (tmp_path / "other.login").read_text().split()

    for content in (f"{pid} {memory}", f"{os.getpid()} {stranger}", f"{int(ended.stdout)} 3", "1 0", "x", "", "1 2 3"):
        path.write_text(content)
        assert Handover(path, never()).given() is None
    os.close(stranger)


@linux
def test_one_worker_at_a_time_logs_in(tmp_path: Path) -> None:
    first, stop = Handover(tmp_path / "one.login", never()), never()
    second = Handover(tmp_path / "one.login", stop)
    stop.set()

    with first.held(), pytest.raises(StoppedError), second.held():
        raise AssertionError("two at once")


class Clock:
    """Time as a test has it pass."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_what_one_worker_moves_the_others_wait_for(tmp_path: Path) -> None:
    stop, clock = threading.Event(), Clock()
    workers = [Bandwidth(1_000_000, tmp_path / "one.bandwidth", clock) for _ in range(8)]

    turns = [workers[number % 8].give(50_000, stop) - clock.now for number in range(80)]

    # Four megabytes take four seconds: but for a quarter, which nobody has moved anything in before.
    assert turns == pytest.approx([0.05 * number - 0.25 for number in range(80)])


def test_time_that_nobody_took_is_not_made_up_for(tmp_path: Path) -> None:
    stop, clock = threading.Event(), Clock()
    one, other = (Bandwidth(1_000_000, tmp_path / "one.bandwidth", clock) for _ in range(2))
    one.give(1_000_000, stop)

    clock.now += 60

    assert [one.give(500_000, stop) - clock.now for _ in range(2)] == pytest.approx([-0.25, 0.25])
    assert other.give(500_000, stop) - clock.now == pytest.approx(0.75)


@pytest.mark.parametrize("left", [b"", b"a page of somebody else's", b"999999999999", b"inf", b"nan"])
def test_a_bandwidth_gets_over_what_else_is_in_its_file(tmp_path: Path, left: bytes) -> None:
    (tmp_path / "one.bandwidth").write_bytes(left)
    bandwidth = Bandwidth(1_000_000, tmp_path / "one.bandwidth", Clock())

    begun = bandwidth.give(1_000_000, threading.Event())

    assert 999 < begun <= 1000
    assert bandwidth.give(1, threading.Event()) == begun + 1


def test_without_a_file_a_bandwidth_is_a_workers_own(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for path in (None, tmp_path / "file" / "one.bandwidth"):
        bandwidth = Bandwidth(1_000_000, path, Clock())

        assert [bandwidth.give(1_000_000, threading.Event()) for _ in range(2)] == [999.75, 1000.75]


def test_who_waits_for_their_turn_can_be_stopped() -> None:
    stop = threading.Event()
    bandwidth = Bandwidth(20_000)
    threading.Timer(0.2, stop.set).start()

    with pytest.raises(StoppedError):
        bandwidth.wait(1_000_000_000, stop)


def test_no_more_requests_are_under_way_than_there_are_slots(tmp_path: Path) -> None:
    stop = threading.Event()
    one, other = (Slots(2, tmp_path / "one.slot") for _ in range(2))
    threading.Timer(0.2, stop.set).start()
    with one.one(stop), other.one(stop), pytest.raises(StoppedError), one.one(stop):
        pass
    with one.one(stop):
        pass


def test_the_slots_of_a_worker_that_was_killed_are_free(tmp_path: Path) -> None:
    path = tmp_path / "one.slot"
    hold = (
        "import sys, threading; from pathlib import Path; from lfs_agent.session import Slots\n"
        "with Slots(1, Path(sys.argv[1])).one(threading.Event()): print(flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", hold, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as worker:
        assert worker.stdout
        worker.stdout.readline()
        slots = Slots(1, path)
        assert slots._taken() is None
        worker.kill()
        with slots.one(threading.Event()):
            pass


def test_without_files_requests_are_made_anyhow(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")

    with Slots(1, tmp_path / "file" / "one.slot").one(threading.Event()):
        pass
