"""What several threads do together, and how it ends."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from lfs_agent.parallel import until_one_fails


def test_after_a_failure_nothing_more_is_done_and_all_fail_alike() -> None:
    done: list[int] = []

    @until_one_fails
    def work(number: int) -> int:
        done.append(number)
        if number == 2:
            raise ValueError("number 2")
        return number

    with ThreadPoolExecutor(1) as pool:
        first, *others = [pool.submit(work, number) for number in (1, 2, 3, 4)]

    assert first.result() == 1
    for other in others:
        with pytest.raises(ValueError, match="number 2"):
            other.result()
    assert done == [1, 2]
