"""`RetryingStore`: a store with the same face that asks again, and the only place that waits between requests."""

import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

from lfs_agent.errors import ObjectError, StoppedError, TransientError, UnreachableError
from lfs_agent.parts import Part
from lfs_agent.pointer import Oid
from lfs_agent.store import Body, MultipartUpload, ObjectStat, SentPart, Store, Write

T = TypeVar("T")

Notice = Callable[[str, TransientError, float], None]
"""Told of every repetition: what is asked, why again, and in how many seconds."""


class Patience:
    """How long to ask again; shared by everything that talks to one store.

    Until the store has answered for the first time, `first_deadline_s` is all the time there is: a set-up that cannot
    work is told at once. Later, `deadline_s` counts from a request's first failure.
    """

    def __init__(
        self,
        *,
        first_deadline_s: float,
        deadline_s: float,
        stop: threading.Event,
        notice: Notice | None = None,
    ) -> None:
        self._first_deadline_s = first_deadline_s
        self._deadline_s = deadline_s
        self._stop = stop
        self._notice = notice
        self._answered = threading.Event()
        self.retries = 0

    def answered(self) -> None:
        """The store has answered something."""
        self._answered.set()

    def call(self, what: str, call: Callable[[], T]) -> T:
        """The result of `call`, made again after each TransientError while there is time.

        Raises what `call` raises; StoppedError; at the end of time `TransientError.last`, or an ObjectError.
        """
        if self._stop.is_set():
            raise StoppedError("stopped")
        try:
            return self._once(call)
        except TransientError as error:
            return self._again(what, call, error)

    def _once(self, call: Callable[[], T]) -> T:
        if self._answered.is_set():
            return call()
        result = self._first(call)
        self._answered.set()
        return result

    def _first(self, call: Callable[[], T]) -> T:
        """A first request has a thread of its own: no timeout of a client covers names, TLS and silence alike."""
        results: list[T] = []
        failures: list[BaseException] = []
        over = threading.Event()

        def attempt() -> None:
            try:
                results.append(call())
            except BaseException as error:
                failures.append(error)
            over.set()

        threading.Thread(target=attempt, daemon=True).start()
        if not over.wait(self._first_deadline_s) and not self._answered.is_set():
            raise UnreachableError(f"the store has not answered for {self._first_deadline_s:g} s")
        over.wait()
        if failures:
            if not (isinstance(failures[0], TransientError) and failures[0].last):
                self._answered.set()  # a refusal, and a "slow down", are answers; a failed connection is none
            raise failures[0]
        return results[0]

    def _again(self, what: str, call: Callable[[], T], error: TransientError) -> T:
        # Here, not above: 30 ms that a process without failures does not pay.
        from tenacity import RetryCallState, RetryError, Retrying
        from tenacity.retry import retry_if_exception_type
        from tenacity.stop import stop_before_delay
        from tenacity.wait import wait_random_exponential

        jitter = wait_random_exponential(multiplier=0.25, max=20)
        failed = [error]

        def attempt() -> T:
            if failed:
                raise failed.pop()
            return self._once(call)

        def wait(state: RetryCallState) -> float:
            assert state.outcome is not None
            reason = state.outcome.exception()
            asked = reason.retry_after_s if isinstance(reason, TransientError) else None
            return max(asked or 0.0, jitter(state))

        def before_sleep(state: RetryCallState) -> None:
            assert state.outcome is not None
            reason = state.outcome.exception()
            self.retries += 1
            if self._notice and isinstance(reason, TransientError):
                self._notice(what, reason, state.upcoming_sleep)

        retrying = Retrying(
            retry=retry_if_exception_type(TransientError),
            wait=wait,
            stop=stop_before_delay(self._deadline_s if self._answered.is_set() else self._first_deadline_s),
            sleep=self._sleep,
            before_sleep=before_sleep,
        )
        try:
            return retrying(attempt)
        except RetryError as over:
            last = over.last_attempt.exception()
            assert isinstance(last, TransientError)
            attempts = over.last_attempt.attempt_number
            if last.last is not None:
                raise last.last from last
            raise ObjectError(f"{last} (asked {attempts} times)") from last

    def _sleep(self, seconds: float) -> None:
        if self._stop.wait(seconds):
            raise StoppedError("stopped")


class RetryingStore:
    """A Store around a Store."""

    def __init__(self, store: Store, patience: Patience) -> None:
        self._store = store
        self._patience = patience

    def address(self, key: str) -> str:
        return self._store.address(key)

    def connect(self) -> None:
        self._store.connect()

    def stat(self, key: str) -> ObjectStat | None:
        return self._patience.call("stat", lambda: self._store.stat(key))

    def put(self, key: str, oid: Oid, body: Body) -> None:
        self._patience.call("put", lambda: self._store.put(key, oid, body))

    def begin(self, key: str, oid: Oid, size: int) -> MultipartUpload:
        upload = self._patience.call("begin", lambda: self._store.begin(key, oid, size))
        return _RetryingUpload(upload, self._patience)

    def fetch(self, key: str, start: int, stop: int, write: Write, etag: str = "") -> ObjectStat:
        """Goes on where the store broke off; what was written once is not asked for again."""
        position = start

        def keep(offset: int, chunk: bytes) -> None:
            nonlocal position
            self._patience.answered()
            write(offset, chunk)
            position = offset + len(chunk)

        return self._patience.call("fetch", lambda: self._store.fetch(key, position, stop, keep, etag))


class _RetryingUpload:
    """A MultipartUpload around a MultipartUpload."""

    def __init__(self, upload: MultipartUpload, patience: Patience) -> None:
        self._upload = upload
        self._patience = patience

    def put_part(self, part: Part, body: Body, crc32c: str) -> SentPart:
        return self._patience.call(f"part {part.number}", lambda: self._upload.put_part(part, body, crc32c))

    def complete(self, parts: Sequence[SentPart], crc32c: str) -> None:
        self._patience.call("complete", lambda: self._upload.complete(parts, crc32c))

    def abort(self) -> None:
        self._upload.abort()
