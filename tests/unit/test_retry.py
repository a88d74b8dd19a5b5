"""Who asks again, how often, how long; over a dict that fails. Over S3: tests/contract/test_patience.py."""

import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from lfs_agent.errors import ObjectError, StoppedError, TransientError, UnreachableError
from lfs_agent.parts import MIB
from lfs_agent.retry import Lanes, Patience
from lfs_agent.session import Budget, Contact
from tests.contract.desk import KEY
from tests.contract.stores import (
    BytesBody,
    DictStore,
    FlakyStore,
    Notices,
    content,
    crc_of,
    oid_of,
    patience,
    put_parts,
    read,
    retrying,
)

DATA = content(1000)
OID = oid_of(DATA)


def test_a_fetch_goes_on_where_it_broke_off() -> None:
    store = DictStore()
    store.objects[KEY] = content(1_000_000)
    flaky = FlakyStore(store, [TransientError("reset"), TransientError("reset")])

    found, data = read(retrying(flaky), KEY, 0, 1_000_000)

    assert (found.size, data) == (1_000_000, content(1_000_000))
    assert flaky.calls == ["fetch 0-1000000", "fetch 500000-1000000", "fetch 750000-1000000"]


def test_every_call_is_asked_again() -> None:
    data = content(6 * MIB)
    again = TransientError("busy", heard=True)
    store = DictStore()
    flaky = FlakyStore(store, [again, None] * 6)
    patient = retrying(flaky)

    assert patient.stat(KEY) is None
    patient.put("small", OID, BytesBody(DATA))
    upload = patient.begin(KEY, oid_of(data), len(data))
    upload.complete(put_parts(upload, data), crc_of(data))

    assert store.objects == {"small": DATA, KEY: data}
    calls = ["stat", "put", "begin", "part 2", "part 1", "complete"]
    assert flaky.calls == [call for call in calls for _ in range(2)]


def test_a_disk_that_is_full_is_no_reason_to_ask_again() -> None:
    flaky = FlakyStore(DictStore(), [OSError(28, "No space left on device")])

    with pytest.raises(OSError, match="No space left"):
        retrying(flaky).stat(KEY)

    assert flaky.calls == ["stat"]


def test_who_is_told_to_stop_asks_no_more() -> None:
    stop = threading.Event()
    flaky = FlakyStore(DictStore(), [TransientError("busy", heard=True, retry_after_s=10)])
    threading.Timer(0.1, stop.set).start()
    started = time.monotonic()

    with pytest.raises(StoppedError):
        retrying(flaky, stop=stop).stat(KEY)
    with pytest.raises(StoppedError):
        retrying(flaky, stop=stop).stat(KEY)

    assert time.monotonic() - started < 2
    assert flaky.calls == ["stat"]


def test_what_was_meant_for_the_end_is_raised_at_the_end() -> None:
    unreachable = UnreachableError("nobody answers")
    flaky = FlakyStore(DictStore(), [TransientError("refused", last=unreachable)] * 99)

    with pytest.raises(UnreachableError, match="nobody answers"):
        retrying(flaky, first_deadline_s=0.3).stat(KEY)


def test_what_another_worker_heard_of_the_store_gives_a_first_request_more_time(tmp_path: Path) -> None:
    def slow() -> str:
        time.sleep(0.5)
        return "answer"

    first, second = (
        Patience(
            first_deadline_s=0.1,
            deadline_s=20,
            budget=Budget(1),
            stop=threading.Event(),
            contact=Contact(tmp_path / "one.contact"),
        )
        for _ in range(2)
    )

    assert first.call("test", lambda: "answer") == "answer"
    assert second.call("test", slow) == "answer"


def test_repetitions_are_counted() -> None:
    patient = patience()
    failures = [TransientError("busy", heard=True), TransientError("busy", heard=True)]

    def call() -> str:
        if failures:
            raise failures.pop()
        return "answer"

    assert patient.call("test", call) == "answer"
    assert patient.retries == 2
    assert patient.call("test", call) == "answer"
    assert patient.retries == 2


def test_an_object_error_says_how_often_it_was_asked() -> None:
    busy = [TransientError("503 SlowDown", heard=True)] * 99

    with pytest.raises(ObjectError, match=r"^503 SlowDown \(asked [2-9] times\)$"):
        retrying(FlakyStore(DictStore(), busy), deadline_s=0.8).stat(KEY)


def test_waits_are_random_and_grow() -> None:
    notices = Notices()
    busy = [TransientError("503 SlowDown", heard=True)] * 4

    assert retrying(FlakyStore(DictStore(), busy), notices=notices).stat(KEY) is None

    assert len(set(notices.waits_s)) == 4
    assert all(wait <= most for wait, most in zip(notices.waits_s, [0.25, 0.5, 1.0, 2.0], strict=True))


def test_an_abort_is_tried_once_and_never_waited_for() -> None:
    flaky = FlakyStore(DictStore(), [None, TransientError("reset")])
    upload = retrying(flaky).begin(KEY, OID, 1000)

    with pytest.raises(TransientError):
        upload.abort()

    assert flaky.calls == ["begin", "abort"]


def test_what_comes_in_pieces_is_asked_for_as_long_as_something_comes() -> None:
    store = DictStore()
    store.objects[KEY] = content(1_000_000)
    flaky = FlakyStore(store, [TransientError("reset", heard=True)] * 10)
    notices = Notices()

    found, data = read(retrying(flaky, deadline_s=0.01, notices=notices), KEY, 0, 1_000_000)

    assert (found.size, data) == (1_000_000, content(1_000_000))
    assert len(notices.reasons) == 10


def test_a_spent_budget_ends_the_session() -> None:
    store = retrying(FlakyStore(DictStore(), [TransientError("500", heard=True)] * 100), retries=3)

    with pytest.raises(UnreachableError, match=r"^500; all in all .* too often \(3 times more"):
        store.stat(KEY)


def test_success_gives_back_what_was_spent() -> None:
    failures = [TransientError("500", heard=True), None, None, None] * 20  # two that fail at once would spend more
    store = retrying(FlakyStore(DictStore(), failures), retries=3)

    for _ in range(60):
        assert store.stat(KEY) is None


def under_way_of(asking: Patience, calls: int, call: Callable[[], None]) -> None:
    threads = [threading.Thread(target=lambda: asking.call("stat", call)) for _ in range(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_fewer_go_at_once_when_the_store_asks_for_that_and_more_again_after_successes() -> None:
    asking = patience(deadline_s=30)
    asking.answered()
    crowd, lock = [0], threading.Lock()
    most: list[int] = []
    all_there = threading.Barrier(8)
    refused = threading.local()

    def busy_once() -> None:
        with lock:
            crowd[0] += 1
            most.append(crowd[0])
        try:
            if not hasattr(refused, "once"):
                refused.once = True
                all_there.wait(10)
                raise TransientError("503 SlowDown", heard=True, busy=True)
            time.sleep(0.02)
        finally:
            with lock:
                crowd[0] -= 1

    under_way_of(asking, 8, busy_once)
    assert max(most) == 8
    assert max(most[8:]) <= 5  # half of them, and one more after four successes

    most.clear()
    refused.once = True
    for _ in range(12):
        under_way_of(asking, 8, lambda: busy_later(crowd, most, lock))
    assert max(most) > 5


def busy_later(crowd: list[int], most: list[int], lock: threading.Lock) -> None:
    with lock:
        crowd[0] += 1
        most.append(crowd[0])
    time.sleep(0.02)
    with lock:
        crowd[0] -= 1


def test_who_waits_for_a_lane_stops_when_it_is_told_to() -> None:
    stop = threading.Event()
    lanes = Lanes()

    def busy() -> None:
        raise TransientError("503", heard=True, busy=True)

    def another() -> None:
        threading.Timer(0.1, stop.set).start()
        with pytest.raises(StoppedError):
            lanes.take(lambda: pytest.fail("there is one lane only"), stop)

    with pytest.raises(TransientError):
        lanes.take(busy, stop)
    lanes.take(another, stop)


def test_who_is_sent_away_together_halves_the_lanes_once() -> None:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # so that they leave all at once
    try:
        for _ in range(300):
            lanes, all_there, half_there = Lanes(), threading.Barrier(8), threading.Barrier(4)
            with ThreadPoolExecutor(8) as pool:
                assert all(pool.map(partial(in_lane, lanes), [all_there] * 8, [True] * 8))
                assert all(pool.map(partial(in_lane, lanes), [half_there] * 4, [False] * 4))
    finally:
        sys.setswitchinterval(interval)


def in_lane(lanes: Lanes, together: threading.Barrier, busy: bool) -> bool:
    """Meets the others in a lane of its own; whether they all came."""

    def meet() -> bool:
        try:
            together.wait(10)
        except threading.BrokenBarrierError:
            return False
        if busy:
            raise TransientError("503 SlowDown", heard=True, busy=True)
        return True

    with suppress(TransientError):
        return lanes.take(meet, threading.Event())
    return True
