"""`Turns`: tasks that share a thread: who waits lets the others go on. Without them, a thread waits as usual."""

import math
import os
import select
import threading
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple, Self, TypeVar

T = TypeVar("T")

_NAP_S: Final = 0.001
"""Between two looks at a mutex."""


_MANY: Final = 4096


class _Wait(NamedTuple):
    """What a task waits for: one of these descriptors, that time.monotonic(), or that some flag is set."""

    fds: Collection[int]
    until: float
    for_flag: bool = False


class Turns:
    """Tasks of the thread that enters the block, one at a time. Raises ImportError where greenlet is not there.

    While it waits a task may hold no lock that others of them take; a `Mutex` it may.
    """

    def __init__(self) -> None:
        import greenlet  # 2 ms, for who has tasks only

        self._new, self._current = greenlet.greenlet, greenlet.getcurrent
        self._main = greenlet.getcurrent()
        self._new_ones: list[Any] = []
        self._waits: dict[Any, _Wait] = {}
        self._by_fd: dict[int, Any] = {}
        self._poll = select.poll()
        self._woken, self._wakes = os.pipe()
        for end in (self._woken, self._wakes):
            os.set_blocking(end, False)
        self._poll.register(self._woken, select.POLLIN)

    def __enter__(self) -> Self:
        global _entered
        _entered = self
        return self

    def __exit__(self, *_: object) -> None:
        global _entered
        _entered = None
        os.close(self._woken)
        os.close(self._wakes)

    def start(self, run: Callable[[], None]) -> Any:
        """A new task, which begins when whoever calls waits."""
        task = self._new(run, self._main)
        self._new_ones.append(task)
        return task

    def run_while(self, goes_on: Callable[[], bool], tick: Callable[[], None], tick_s: float) -> None:
        """Lets the tasks run; between them `tick`, every so many seconds."""
        next_tick = 0.0
        while goes_on():
            while self._new_ones:
                self._new_ones.pop().switch()
            if (now := time.monotonic()) >= next_tick:
                tick()
                next_tick = now + tick_s
                continue  # it may have been the end
            until = min((wait.until for wait in self._waits.values()), default=next_tick)
            until = min(until, next_tick)
            fds = {fd for fd, _ in self._poll.poll(max(0.0, 1000 * (until - now)))}
            for task, is_ready in self._ready(fds).items():
                if task in self._waits:  # nobody before has ended it
                    task.switch(is_ready)

    def _ready(self, fds: set[int]) -> dict[Any, bool]:
        """The tasks that go on, and whether because one of these descriptors is ready."""
        is_woken = self._woken in fds
        if is_woken:
            os.read(self._woken, _MANY)
            fds.remove(self._woken)
        ready = {self._by_fd[fd]: True for fd in fds}
        now = time.monotonic()
        for task, wait in self._waits.items():
            if wait.until <= now or (is_woken and wait.for_flag):
                ready.setdefault(task, False)
        return ready

    def throw(self, task: Any, error: BaseException) -> None:
        """Raises the error where the task waits; not where it has ended."""
        if task in self._waits:
            task.throw(error)

    def until_ready(self, reads: Sequence[int], writes: Sequence[int], seconds: float) -> bool:
        """Whether one of the descriptors got ready in that time: to be read, to be written, or to tell an error."""
        events = dict.fromkeys(reads, select.POLLIN)
        for fd in writes:
            events[fd] = events.get(fd, 0) | select.POLLOUT
        task = self._current()
        for fd, event in events.items():
            self._poll.register(fd, event)
            self._by_fd[fd] = task
        return self._wait(_Wait(events, time.monotonic() + seconds))

    def sleep(self, seconds: float) -> None:
        self._wait(_Wait((), time.monotonic() + seconds))

    def until_flag(self, seconds: float) -> None:
        """Waits so long, or until some flag is set."""
        self._wait(_Wait((), time.monotonic() + seconds, for_flag=True))

    def wake(self) -> None:
        """Some flag is set; from any thread."""
        with suppress(OSError):  # so many are that nobody has looked at
            os.write(self._wakes, b"\0")

    def _wait(self, wait: _Wait) -> bool:
        task = self._current()
        self._waits[task] = wait
        try:
            return bool(self._main.switch())
        finally:
            del self._waits[task]
            for fd in wait.fds:
                self._poll.unregister(fd)
                del self._by_fd[fd]

    @property
    def _is_here(self) -> bool:
        return self._current().parent is self._main  # in another thread nothing has this parent


_entered: Turns | None = None


def are_possible() -> bool:
    """Whether there can be any."""
    try:
        import greenlet
    except ImportError:  # of a system for which nobody has built it
        return False
    return bool(greenlet.greenlet)


def turns() -> Turns | None:
    """Those that whoever calls is a task of; None for a thread of its own."""
    return _entered if _entered and _entered._is_here else None


def pause(seconds: float) -> None:
    """Waits so long."""
    if (shared := turns()) is None:
        time.sleep(seconds)
    else:
        shared.sleep(seconds)


def beside(work: Callable[[], T]) -> T:
    """What `work` gives, which waits in ways of its own: for a task, another thread does it."""
    if turns() is None:
        return work()
    results: list[T] = []
    failures: list[BaseException] = []
    over = Flag()

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:
            failures.append(error)
        over.set()

    threading.Thread(target=run, daemon=True).start()
    over.wait()
    if failures:
        raise failures[0]
    return results[0]


class Flag(threading.Event):
    """An event that a task may wait for, too."""

    def wait(self, timeout: float | None = None) -> bool:
        if (shared := turns()) is None:
            return super().wait(timeout)
        until = math.inf if timeout is None else time.monotonic() + timeout
        while not self.is_set() and (left_s := until - time.monotonic()) > 0:
            shared.until_flag(left_s)
        return self.is_set()

    def set(self) -> None:
        super().set()
        if shared := _entered:
            shared.wake()


class Mutex:
    """A lock that a task may hold while it waits."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        if (shared := turns()) is None:
            self._lock.acquire()
        else:
            while not self._lock.acquire(blocking=False):
                shared.sleep(_NAP_S)
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()
