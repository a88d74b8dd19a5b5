"""Which request meets which fault: values and a seeded plan, no I/O."""

import random
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

# The moments of an exchange, in order. At "answer-head" the store has done its work, the client knows nothing
Moment = Literal["request-head", "request-body", "answer-head", "answer-body"]


@dataclass(frozen=True, slots=True)
class Answer:
    """An S3 error, or `body` as it stands, from the proxy; with `forward` the store does the work first."""

    status: int
    code: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes | None = None
    forward: bool = False


@dataclass(frozen=True, slots=True)
class Reset:
    """The client's connection and the store's are reset. At "answer-head" this is the lost answer."""

    where: Moment
    at: float | None = None  # fraction of the body, 0 <= at < 1; None: drawn from the seed


@dataclass(frozen=True, slots=True)
class Stall:
    """Nothing moves for `seconds`, then all goes on."""

    where: Moment
    seconds: float
    at: float | None = None


@dataclass(frozen=True, slots=True)
class Flip:
    """One byte of the body has one bit changed; no length changes."""

    where: Literal["request-body", "answer-body"]
    at: float | None = None


@dataclass(frozen=True, slots=True)
class Truncate:
    """The answer's head is right, its body ends early, the connection is closed without a reset."""

    at: float | None = None
    where: ClassVar[Moment] = "answer-body"


@dataclass(frozen=True, slots=True)
class Whitespace:
    """200 at once, blanks for `seconds`, at last the answer, were it an error: so Amazon answers completions."""

    seconds: float
    after_declaration: bool = True  # False: even the XML declaration comes after the blanks
    where: ClassVar[Moment] = "answer-body"


@dataclass(frozen=True, slots=True)
class StripHeaders:
    """Headers that the store, or the client, never sees; where signatures count, give the proxy a `key`."""

    request: tuple[str, ...] = ()
    answer: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ReplaceHeaders:
    """Headers of the answer that the client sees with another value, where the store sends them."""

    answer: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Throttle:
    """Bytes a second towards the store and back; one link, shared by all requests under an equal Throttle."""

    up: int | None = None
    down: int | None = None


Placed = Reset | Stall | Flip | Truncate
Fault = Answer | Placed | Whitespace
Action = Fault | StripHeaders | ReplaceHeaders | Throttle

SLOW_DOWN = Answer(503, "SlowDown")
INTERNAL_ERROR = Answer(500, "InternalError")
ACCESS_DENIED = Answer(403, "AccessDenied")
EXPIRED_TOKEN = Answer(403, "ExpiredToken")
NOT_IMPLEMENTED = Answer(501, "NotImplemented")
CONFLICT = Answer(409, "ConditionalRequestConflict")
ERROR_IN_200 = Answer(200, "InternalError")


@dataclass(slots=True)
class Seen:
    """A request and what became of it, filled in as it goes on; payload bytes, times of time.monotonic()."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]  # names in lower case
    at: float
    ended: float | None = None
    fault: str = ""  # its `title` once it has been met; a body that is empty meets none
    status: int | None = None  # what the client was told
    store_status: int | None = None  # what the store said; None if it was never asked
    request_bytes: int = 0
    response_bytes: int = 0
    error: str = ""  # what went wrong without being planned

    @property
    def target(self) -> str:
        return f"{self.path}?{self.query}" if self.query else self.path

    @property
    def has_body(self) -> bool:
        return "transfer-encoding" in self.headers or self.headers.get("content-length", "0") != "0"


# At most one Fault counts, the first; all the others do.
Plan = Callable[[Seen], tuple[Action, ...]]


@dataclass(frozen=True, slots=True)
class Rule:
    """An action for the matches from the `nth` on, `times` at most (None: no end), each with `probability`.

    `method` (whole) and `target` (any part of path and query) are regular expressions; `header` is one that
    the request carries. With `each`, `nth` and `times` count for every request apart (see `identity`).
    """

    action: Action
    method: str = ".*"
    target: str = ""
    header: str = ""
    nth: int = 1
    times: int | None = None
    probability: float = 1.0
    each: bool = False

    def matches(self, seen: Seen) -> bool:
        return (
            re.fullmatch(self.method, seen.method) is not None
            and re.search(self.target, seen.target) is not None
            and (not self.header or self.header.lower() in seen.headers)
            and _can_meet(self.action, seen)
        )


@dataclass(slots=True)
class Faults:
    """A plan from rules: the first that fires gives the fault; those after it do not even count the request.

    A draw hangs on the seed, the rule, the request and how often the rule has matched it: the same seed gives
    each request the same fate in whatever order threads send them. A random bucket name would defeat that.
    """

    rules: tuple[Rule, ...] = ()
    seed: int = 0
    _matched: Counter[tuple[int, str]] = field(default_factory=Counter)
    _fired: Counter[tuple[int, str]] = field(default_factory=Counter)

    def __call__(self, seen: Seen) -> tuple[Action, ...]:
        actions: list[Action] = []
        for number, rule in enumerate(self.rules):
            if isinstance(rule.action, Fault) and any(isinstance(action, Fault) for action in actions):
                continue
            if rule.matches(seen) and (action := self._fire(number, rule, seen)):
                actions.append(action)
        return tuple(actions)

    @property
    def fired(self) -> set[int]:
        """The numbers of the rules that have fired, from 0 on."""
        return {number for number, _ in self._fired}

    def _fire(self, number: int, rule: Rule, seen: Seen) -> Action | None:
        this, scope = (number, identity(seen)), (number, identity(seen) if rule.each else "")
        self._matched.update({this, scope})
        draw = random.Random(f"{self.seed} {this} {self._matched[this]}")
        exhausted = rule.times is not None and self._fired[scope] >= rule.times
        if self._matched[scope] < rule.nth or exhausted or draw.random() >= rule.probability:
            return None
        self._fired[scope] += 1
        return _placed(rule.action, draw.random())


def title(fault: Fault) -> str:
    """The fault's name in a table.

    >>> title(SLOW_DOWN), title(Flip("request-body", at=0.5))
    ('503 SlowDown', 'flip request-body')
    """
    if isinstance(fault, Answer):
        return f"{fault.status} {fault.code}{' after the store' if fault.forward else ''}"
    return f"{type(fault).__name__.lower()} {fault.where}"


def identity(seen: Seen) -> str:
    """What stays of a request when it is sent again, in this run or another.

    >>> identity(Seen("PUT", "/b/k", "partNumber=2&uploadId=x7Gq", {}, at=0.0))
    'PUT /b/k partNumber=2'
    """
    volatile = re.compile(r"(uploadId|versionId|continuation-token|X-Amz-[^=]*)=")
    return f"{seen.method} {seen.path} {'&'.join(p for p in seen.query.split('&') if not volatile.match(p))}"


def _can_meet(action: Action, seen: Seen) -> bool:
    """Whether the request has the body in which the action is to happen, as far as its head can tell."""
    match action:
        case Reset(where="request-body") | Stall(where="request-body") | Flip(where="request-body"):
            return seen.has_body
        case (
            Truncate()
            | Whitespace()
            | Reset(where="answer-body")
            | Stall(where="answer-body")
            | Flip(where="answer-body")
        ):
            return seen.method != "HEAD"
        case _:
            return True


def _placed(action: Action, at: float) -> Action:
    return replace(action, at=at) if isinstance(action, Placed) and action.at is None else action
