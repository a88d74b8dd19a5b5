"""Tasks that share a thread."""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from lfs_agent.turns import Flag, Mutex, Turns, are_possible, beside, pause, turns

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no select.poll on Windows")


@pytest.fixture
def shared() -> Iterator[Turns]:
    with Turns() as entered:
        yield entered


def run(shared: Turns, *tasks: Callable[[], None], tick: Callable[[], None] = lambda: None) -> None:
    """Lets all run to their end."""
    left = [*tasks]

    def one(task: Callable[[], None]) -> None:
        try:
            task()
        finally:
            left.remove(task)

    for task in tasks:
        shared.start(partial(one, task))
    shared.run_while(lambda: bool(left), tick, 0.01)


def test_who_waits_for_a_descriptor_lets_others_go_on(shared: Turns) -> None:
    read, write = os.pipe()
    said: list[str] = []

    def writer() -> None:
        said.append("writes")
        os.write(write, b"x")

    def answered() -> None:
        said.append(f"waits {shared.until_ready([read], [], 10)}")
        os.read(read, 1)

    run(shared, answered, writer)
    run(shared, writer, answered)

    assert said == ["writes", "waits True"] * 2
    os.close(read)
    os.close(write)


def test_a_descriptor_that_can_be_written_to_is_ready_and_one_without_anything_to_read_is_not(shared: Turns) -> None:
    read, write = os.pipe()
    found: list[bool] = []

    run(shared, lambda: found.append(shared.until_ready([], [write], 10)))
    run(shared, lambda: found.append(shared.until_ready([read], [], 0.01)))
    os.close(write)
    run(shared, lambda: found.append(shared.until_ready([read], [], 10)))

    assert found == [True, False, True]
    os.close(read)


def test_who_sleeps_lets_others_go_on(shared: Turns) -> None:
    order: list[int] = []

    def task(number: int, seconds: float) -> None:
        pause(seconds)
        order.append(number)

    run(shared, lambda: task(1, 0.2), lambda: task(2, 0.1), lambda: task(3, 0))

    assert order == [3, 2, 1]


def test_a_flag_is_waited_for_by_tasks_and_threads(shared: Turns) -> None:
    flag, found = Flag(), []
    threading.Timer(0.1, flag.set).start()
    thread = threading.Thread(target=lambda: found.append(flag.wait(10)))
    thread.start()

    run(shared, lambda: found.append(flag.wait()), lambda: found.append(flag.wait(0.01)))
    thread.join()

    assert sorted(found) == [False, True, True]


def test_whoever_sets_a_flag_wakes_those_who_wait_for_it(shared: Turns) -> None:
    flags, over = [Flag() for _ in range(3)], Flag()

    def passes_on(number: int) -> None:
        flags[number].wait()
        (flags[number + 1] if number < 2 else over).set()

    for number in range(3):
        shared.start(partial(passes_on, number))
    threading.Timer(0.05, flags[0].set).start()
    shared.run_while(lambda: not over.is_set(), lambda: None, 600)

    for _ in range(100_000):  # more than a pipe takes
        over.set()


def test_a_mutex_is_held_while_its_task_waits(shared: Turns) -> None:
    mutex, held = Mutex(), []

    def task() -> None:
        with mutex:
            held.append("in")
            pause(0.02)
            held.append("out")

    thread = threading.Thread(target=task)
    thread.start()
    run(shared, task, task)
    thread.join()

    assert held == ["in", "out"] * 3


def test_what_waits_in_ways_of_its_own_is_done_beside(shared: Turns) -> None:
    order: list[object] = []

    def fails() -> None:
        time.sleep(0.05)
        raise ValueError("no")

    def task() -> None:
        order.append(beside(lambda: Flag().wait(0.1)))
        with pytest.raises(ValueError, match="no"):
            beside(fails)
        order.append("failed")

    run(shared, task, lambda: order.append("went on"))

    assert order == ["went on", False, "failed"]
    assert beside(threading.get_ident) == threading.get_ident()


def test_an_error_is_raised_where_a_task_waits(shared: Turns) -> None:
    met: list[str] = []

    def waits() -> None:
        try:
            pause(10)
        except ValueError as error:
            met.append(str(error))

    task = shared.start(waits)
    shared.run_while(lambda: not met, lambda: shared.throw(task, ValueError("enough")), 0.01)
    shared.throw(task, ValueError("that has ended"))

    assert met == ["enough"]


def test_the_tick_comes_in_time_whatever_is_waited_for(shared: Turns) -> None:
    ticks: list[float] = []

    run(shared, lambda: pause(0.2), tick=lambda: ticks.append(time.monotonic()))

    assert len(ticks) >= 3


def test_outside_of_a_task_all_is_as_usual(shared: Turns) -> None:
    seen: list[object] = []
    thread = threading.Thread(target=lambda: seen.append(turns()))
    thread.start()
    thread.join()
    run(shared, lambda: seen.append(turns()))

    assert (turns(), seen) == (None, [None, shared])
    pause(0.001)
    assert not Flag().wait(0.001)
    with Mutex():
        pass


def test_without_greenlet_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert are_possible()
    monkeypatch.setitem(sys.modules, "greenlet", None)
    assert not are_possible()
