"""`in_parallel`: the results of many questions, in order, from several threads."""

import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future
from contextlib import suppress
from typing import Final, TypeVar

_WAITING: Final = 64
"""Items for each thread that may wait for the ones before them, so that results keep their order."""

T = TypeVar("T")
R = TypeVar("R")


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
