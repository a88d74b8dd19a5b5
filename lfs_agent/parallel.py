"""Work in several threads: `in_parallel` gives the results in order, `until_one_fails` ends a pool's at a failure."""

import functools
import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future
from contextlib import suppress
from typing import Final, ParamSpec, TypeVar

_WAITING: Final = 64
"""Items for each thread that may wait for the ones before them, so that results keep their order."""

T = TypeVar("T")
R = TypeVar("R")
P = ParamSpec("P")


def in_parallel(work: Callable[[T], R], items: Iterable[T], *, threads: int) -> Generator[R, None, None]:
    """The result of `work` for each item, in order. Items are taken only a little faster than results are.

    Daemon threads, not a ThreadPoolExecutor: whoever is interrupted does not wait for a silent store.
    """
    tasks: queue.SimpleQueue[tuple[Future[R], T] | None] = queue.SimpleQueue()

    def serve() -> None:
        while task := tasks.get():
            future, item = task
            try:
                future.set_result(work(item))
            except BaseException as error:
                future.set_exception(error)

    for _ in range(threads):
        threading.Thread(target=serve, daemon=True).start()
    waiting: deque[Future[R]] = deque()
    try:
        for item in items:
            future: Future[R] = Future()
            waiting.append(future)
            tasks.put((future, item))
            if len(waiting) == threads * _WAITING:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        with suppress(queue.Empty):  # what nobody waits for any more
            while True:
                tasks.get_nowait()
        for _ in range(threads):
            tasks.put(None)


def until_one_fails(work: Callable[P, R]) -> Callable[P, R]:
    """`work`, which does nothing more after its first failure, but fails in the same way.

    A pool's thread whose work has failed takes the next that waits before anybody can cancel it.
    """
    failures: list[BaseException] = []

    @functools.wraps(work)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        if failures:
            raise failures[0]
        try:
            return work(*args, **kwargs)
        except BaseException as failure:
            failures.append(failure)
            raise

    return checked
