"""`RetryingStore`: a store with the same face that asks again; nobody else waits between requests."""

import math
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from lfs_agent.errors import ObjectError, StoppedError, TransientError, UnreachableError
from lfs_agent.parts import Part
from lfs_agent.pointer import Oid
from lfs_agent.session import Budget, Contact, Slots
from lfs_agent.store import (
    Body,
    Chunk,
    Marker,
    MultipartUpload,
    ObjectStat,
    Progress,
    Replacing,
    SentPart,
    Stock,
    Store,
    Stored,
    StoredPart,
    Unfinished,
    Uploads,
    Write,
)
from lfs_agent.turns import Flag

T = TypeVar("T")

_POLL_S: Final = 0.1
_LANE_POLL_S: Final = 0.01

Notice = Callable[[str, TransientError, float], None]
"""Told of every repetition: what is asked, why again, and in how many seconds."""


class Lanes:
    """How many requests may be under way at once: as many as come, until the store asks for fewer.

    That halves them, once for all that were under way together; then, each time as many have succeeded as there are
    lanes, there is one more, up to the `most` that there may be; with `slots` that is what all workers may have.
    """

    def __init__(self, most: float = math.inf, slots: Slots | None = None) -> None:
        self._changing = threading.Lock()  # of what is below
        self._most = self._width = most
        self._slots = slots
        self._under_way = 0
        self._rounds = 0

    def take(self, call: Callable[[], T], stop: threading.Event) -> T:
        """What `call` gives: one request, in a lane of its own. Raises StoppedError while waiting for it."""
        while (rounds := self._entered()) is None:
            if stop.wait(_LANE_POLL_S):
                raise StoppedError("stopped")
        wider, busy_in = 0.0, None
        try:
            if self._slots is None:
                result = call()
            else:
                with self._slots.one(stop):
                    result = call()
            wider = 1 / self._width
            return result
        except TransientError as error:
            busy_in = rounds if error.busy else None
            raise
        finally:
            self._leave(wider, busy_in)

    def _entered(self) -> int | None:
        """In which round there is a lane now; None where all are taken."""
        with self._changing:
            if self._under_way + 1 > self._width:
                return None
            self._under_way += 1
            return self._rounds

    def _leave(self, wider: float, busy_in: int | None) -> None:
        with self._changing:
            if busy_in == self._rounds:
                self._rounds += 1
                self._width = max(1.0, min(self._width, self._under_way) / 2)
            self._width = min(self._most, self._width + wider)
            self._under_way -= 1


class Patience:
    """How long to ask again, and how many at once; shared by everything that talks to one store.

    Until there is `contact`, that is until the store has answered anybody, `first_deadline_s` from the first request on
    is all the time there is: a set-up that cannot work is told at once. Later, `deadline_s` counts from a request's
    first failure. The `budget` is what all workers of a session have together.
    """

    def __init__(
        self,
        *,
        first_deadline_s: float,
        deadline_s: float,
        budget: Budget,
        stop: threading.Event,
        notice: Notice | None = None,
        store: str = "the store",
        lanes: Lanes | None = None,
        contact: Contact | None = None,
    ) -> None:
        self._first_deadline_s = first_deadline_s
        self._deadline_s = deadline_s
        self._budget = budget
        self._lanes = lanes or Lanes()
        self._stop = stop
        self._notice = notice
        self._store = store
        self._began_s: float | None = None
        self._contact = contact or Contact()
        self._giving_up = threading.Lock()  # or taking an answer: it comes in time or too late, not both
        self._given_up = False
        self.retries = 0

    def answered(self) -> None:
        """The store has answered something.

        Raises StoppedError where nobody waits for that any more.
        """
        with self._giving_up:
            if self._given_up:
                raise StoppedError("stopped: the answer came too late")
            self._contact.make()

    def call(self, what: str, call: Callable[[], T]) -> T:
        """The result of `call`, made again after each TransientError while there is time.

        Raises what `call` raises; StoppedError; at the end of time `TransientError.last`, or an ObjectError; an
        UnreachableError where the store has never answered, or where the budget of the session is spent.
        """
        if self._stop.is_set():
            raise StoppedError("stopped")
        try:
            result = self._lanes.take(lambda: self._once(call), self._stop)
        except TransientError as error:
            return self._again(what, call, error)
        self._budget.earn()
        return result

    def broke_off(self, what: str, reason: TransientError) -> None:
        """An answer broke off after a part of it had come: the rest will be asked for, as something new."""
        self._note(what, reason, _POLL_S)
        self._sleep(_POLL_S)

    def _note(self, what: str, reason: TransientError, wait_s: float) -> None:
        self.retries += 1
        if self._notice:
            self._notice(what, reason, wait_s)

    def _once(self, call: Callable[[], T]) -> T:
        return call() if self._contact.is_made else self._first(call)

    def _first(self, call: Callable[[], T]) -> T:
        """A first request has a thread of its own: no timeout of a client covers names, TLS and silence alike."""
        results: list[T] = []
        failures: list[BaseException] = []
        over = Flag()

        def attempt() -> None:
            try:
                results.append(call())
                self.answered()
            except TransientError as error:
                failures.append(error)
                if error.heard:
                    self._contact.make()
            except BaseException as error:
                failures.append(error)
                self._contact.make()  # a refusal is an answer, too
            over.set()

        threading.Thread(target=attempt, daemon=True).start()
        while not over.wait(min(_POLL_S, max(0.0, self._left_s(0.0)))):
            if self._stop.is_set():
                raise StoppedError("stopped")
            if self._left_s(0.0) <= 0 and self._give_up():
                raise UnreachableError(
                    f"{self._store} has not answered for {self._first_deadline_s:g} s; check the network, the proxy, "
                    "and the endpoint: lfs-agent config --show-origin"
                )
        over.wait()
        if failures:
            raise failures[0]
        return results[0]

    def _give_up(self) -> bool:
        """Whether the store is given up; not where its answer is on the way."""
        with self._giving_up:
            self._given_up = not self._contact.is_made
            return self._given_up

    def _left_s(self, failing_s: float) -> float:
        """The time left for a request that has been failing for so long."""
        if self._contact.is_made:
            return self._deadline_s - failing_s
        if self._began_s is None:
            self._began_s = time.monotonic()
        return self._began_s + self._first_deadline_s - time.monotonic()

    def _again(self, what: str, call: Callable[[], T], error: TransientError) -> T:
        # Here, not above: 30 ms that a process without failures does not pay.
        from tenacity import RetryCallState, RetryError, Retrying
        from tenacity.retry import retry_if_exception_type
        from tenacity.wait import wait_random_exponential

        jitter = wait_random_exponential(multiplier=0.25, max=20)
        failed = [error]
        queued_s = 0.0

        def attempt() -> T:
            nonlocal queued_s
            if failed:
                raise failed.pop()
            queuing = time.monotonic()

            def in_turn() -> T:
                nonlocal queued_s
                queued_s += time.monotonic() - queuing
                return self._once(call)

            return self._lanes.take(in_turn, self._stop)

        def reason(state: RetryCallState) -> TransientError:
            error = state.outcome.exception() if state.outcome else None
            assert isinstance(error, TransientError)
            return error

        def wait(state: RetryCallState) -> float:
            return max(reason(state).retry_after_s or 0.0, jitter(state))

        def stop(state: RetryCallState) -> bool:
            return state.upcoming_sleep >= self._left_s((state.seconds_since_start or 0.0) - queued_s)

        def before_sleep(state: RetryCallState) -> None:
            if not self._budget.spend(self._stop):
                raise self._spent(reason(state))
            self._note(what, reason(state), state.upcoming_sleep)

        retrying = Retrying(
            retry=retry_if_exception_type(TransientError),
            wait=wait,
            stop=stop,
            sleep=self._sleep,
            before_sleep=before_sleep,
        )
        try:
            return retrying(attempt)
        except RetryError as over:
            last = over.last_attempt.exception()
            assert isinstance(last, TransientError)
            kind = ObjectError if self._contact.is_made else UnreachableError
            raise last.last or kind(f"{last} (asked {over.last_attempt.attempt_number} times)") from last

    def _spent(self, last: TransientError) -> UnreachableError:
        return UnreachableError(
            f"{last}; all in all that was asked again too often ({self._budget.limit} times more than anything "
            f"succeeded): {self._store} is overloaded or out of order; try later, what has arrived is kept"
        )

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

    def identity(self, key: str) -> str:
        return self._store.identity(key)

    def load(self) -> None:
        self._store.load()

    def takes_turns(self) -> bool:
        return self._store.takes_turns()

    def connect(self) -> None:
        self._store.connect()

    def stat(self, key: str) -> ObjectStat | None:
        return self._patience.call("stat", lambda: self._store.stat(key))

    def listed(self, prefix: str, after: str = "") -> tuple[list[ObjectStat], str]:
        return self._patience.call("list", lambda: self._store.listed(prefix, after))

    def can_replace(self, key: str) -> Replacing:
        return self._patience.call("can replace", lambda: self._store.can_replace(key))

    def put(self, key: str, oid: Oid, body: Body, replacing: str = "") -> bool:
        return self._patience.call("put", lambda: self._store.put(key, oid, body, replacing))

    def begin(self, key: str, oid: Oid, size: int, replacing: str = "") -> MultipartUpload:
        upload = self._patience.call("begin", lambda: self._store.begin(key, oid, size, replacing))
        return _RetryingUpload(upload, self._patience)

    def resume(
        self, key: str, size: int, token: str, replacing: str = ""
    ) -> tuple[MultipartUpload, list[StoredPart]] | None:
        found = self._patience.call("resume", lambda: self._store.resume(key, size, token, replacing))
        return (_RetryingUpload(found[0], self._patience), found[1]) if found else None

    def fetch(self, key: str, start: int, stop: int, write: Write, etag: str = "") -> ObjectStat:
        """Goes on where the store broke off, as long as something comes; what was written is not asked for again."""
        position, is_left = start, False
        writing = threading.Lock()  # of that: the thread of a first request may go on when nobody waits for it any more

        def keep(offset: int, chunk: Chunk) -> None:
            nonlocal position
            self._patience.answered()
            with writing:
                if is_left:  # the file is closed, and its number may be another one's by now
                    raise StoppedError("stopped")
                write(offset, chunk)
            position = offset + len(chunk)

        def go_on() -> ObjectStat | None:
            before = position
            try:
                return self._store.fetch(key, position, stop, keep, etag)
            except TransientError as error:
                if position == before:
                    raise
                self._patience.broke_off("fetch", error)
                return None

        try:
            while (found := self._patience.call("fetch", go_on)) is None:
                pass
        finally:
            with writing:
                is_left = True
        return found


class _RetryingUpload:
    """A MultipartUpload around a MultipartUpload."""

    def __init__(self, upload: MultipartUpload, patience: Patience) -> None:
        self._upload = upload
        self._patience = patience

    @property
    def token(self) -> str:
        return self._upload.token

    def put_part(self, part: Part, body: Body, crc32c: str) -> SentPart:
        return self._patience.call(f"part {part.number}", lambda: self._upload.put_part(part, body, crc32c))

    def complete(self, parts: Sequence[SentPart], crc32c: str) -> None:
        self._patience.call("complete", lambda: self._upload.complete(parts, crc32c))

    def abort(self) -> None:
        self._upload.abort()


class RetryingUploads:
    """Uploads around Uploads."""

    def __init__(self, uploads: Uploads, patience: Patience) -> None:
        self._uploads = uploads
        self._patience = patience

    def address(self, key: str) -> str:
        return self._uploads.address(key)

    def connect(self) -> None:
        self._uploads.connect()

    def listed(self, after: Marker | None) -> tuple[list[Unfinished], Marker | None]:
        return self._patience.call("uploads", lambda: self._uploads.listed(after))

    def progress(self, upload: Unfinished) -> Progress | None:
        return self._patience.call("parts", lambda: self._uploads.progress(upload))

    def abort(self, upload: Unfinished) -> None:
        self._patience.call("abort", lambda: self._uploads.abort(upload))


class RetryingStock:
    """A Stock around a Stock; a deletion is asked for once."""

    def __init__(self, stock: Stock, patience: Patience) -> None:
        self._stock = stock
        self._patience = patience

    def address(self, key: str) -> str:
        return self._stock.address(key)

    def connect(self) -> None:
        self._stock.connect()

    def now(self) -> float:
        return self._stock.now()

    def listed(self, prefix: str, after: str = "") -> tuple[list[Stored], str]:
        return self._patience.call("list", lambda: self._stock.listed(prefix, after))

    def look(self, key: str) -> Stored | None:
        return self._patience.call("look", lambda: self._stock.look(key))

    def delete(self, key: str, etag: str) -> bool:
        return self._stock.delete(key, etag)
