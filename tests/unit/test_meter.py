"""Each byte is counted once, however often it is sent."""

import threading
from concurrent.futures import ThreadPoolExecutor

from hypothesis import given
from hypothesis import strategies as st

from lfs_agent.transfer.meter import Meter


def meter(size: int) -> Meter:
    return Meter(size, threading.Event())


def test_parts_add_up() -> None:
    counting = meter(30)
    counting.reached(0, 10, 10)
    counting.reached(20, 25, 5)

    assert (counting.done, counting.moved) == (15, 15)


def test_a_part_that_is_sent_again_is_moved_twice_and_done_once() -> None:
    counting = meter(10)
    counting.reached(0, 8, 8)
    counting.reached(0, 4, 4)
    counting.reached(0, 10, 6)

    assert (counting.done, counting.moved) == (10, 18)


def test_what_is_there_already_is_done_without_a_byte() -> None:
    counting = meter(10)
    counting.finished()

    assert (counting.done, counting.moved, counting.parts) == (10, 0, 0)


def test_what_is_finished_by_another_is_done_once() -> None:
    counting = meter(30)
    counting.reached(0, 10, 10)
    counting.reached(10, 15, 5)
    counting.finished()
    counting.reached(10, 20, 5)

    assert (counting.done, counting.moved) == (30, 20)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 10)), max_size=50))
def test_progress_never_falls_and_never_exceeds_the_object(steps: list[tuple[int, int]]) -> None:
    counting = meter(100)
    last = 0
    for part, position in steps:
        counting.reached(part * 10, part * 10 + position, position)
        assert last <= counting.done <= 100
        last = counting.done


def test_threads_lose_no_byte() -> None:
    counting = meter(8000)

    def part(number: int) -> None:
        for position in range(1, 1001):
            counting.reached(number * 1000, number * 1000 + position, 1)
        counting.finished_part()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(part, range(8)))

    assert (counting.done, counting.moved, counting.parts) == (8000, 8000, 8)
