"""What a seed means: the objects, and for each way the faults that meet them. Pure values, no I/O."""

import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final, Literal, get_args

from tests.proxy import (
    ACCESS_DENIED,
    CONFLICT,
    EXPIRED_TOKEN,
    INTERNAL_ERROR,
    NOT_IMPLEMENTED,
    SLOW_DOWN,
    Action,
    Answer,
    Flip,
    ReplaceHeaders,
    Reset,
    Rule,
    Stall,
    StripHeaders,
    Throttle,
    Truncate,
    Whitespace,
)
from tests.proxy.faults import Moment

Way = Literal["up", "down"]
Through = Literal["conversation", "git"]
Step = Literal["any", "look", "put", "create", "part", "complete", "get"]

PART: Final = 5 << 20
"""Bytes of a part: the least that S3 takes."""

_STEPS: Final[Mapping[Step, tuple[str, str]]] = {
    "any": (".*", ""),
    "look": ("HEAD", ""),
    "put": ("PUT", r"^(?!.*uploadId=)"),
    "create": ("POST", r"\?uploads"),
    "part": ("PUT", "partNumber="),
    "complete": ("POST", "[?&]uploadId="),
    "get": ("GET", ""),
}
"""The methods and targets of requests."""
_OF_GIT_LFS: Final = 8
"""Workers that git-lfs starts."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of fault: in which steps of which way it may happen, and how it is drawn."""

    name: str
    up: tuple[Step, ...]
    down: tuple[Step, ...]
    draw: Callable[[Random], Action]
    lasting: bool = False  # from its beginning on, for all requests
    kills: bool = False

    def steps(self, way: Way, sizes: Sequence[int]) -> tuple[Step, ...]:
        """Those in which it can happen to objects of such sizes."""
        absent: set[Step] = set()
        if all(size <= PART for size in sizes):
            absent = {"create", "part", "complete"}
        elif all(size > PART for size in sizes):
            absent = {"put"}
        return tuple(step for step in (self.up if way == "up" else self.down) if step not in absent)


def _always(action: Action) -> Callable[[Random], Action]:
    return lambda _: action


def _one_of(*actions: Action) -> Callable[[Random], Action]:
    return lambda random: random.choice(actions)


_NO_STORE = b"<html><body>Please log in to this network</body></html>"
_HALT_S = 5.0
"""For so long a request stands still in which everything is killed: it is dead before."""

_SUMS: Final = ("x-amz-checksum-sha256", "x-amz-checksum-crc32c", "x-amz-checksum-algorithm", "x-amz-checksum-type")
_MISSING: Final = (Answer(404, "NoSuchUpload"), Answer(404, "NoSuchKey"), Answer(404, "NoSuchBucket"))
_REFUSED_HEADERS: Final[Mapping[Step, str]] = {
    "put": "x-amz-checksum-sha256",
    "create": "x-amz-checksum-algorithm",
    "part": "x-amz-checksum-crc32c",
}
_EVERY: Final[tuple[Step, ...]] = ("any", "look", "put", "create", "part", "complete")
_SENDING: Final[tuple[Step, ...]] = ("put", "part", "complete")
_POSTED: Final[tuple[Step, ...]] = ("create", "complete")
_READ: Final[tuple[Step, ...]] = ("any", "look", "get")

KINDS: Final[tuple[Kind, ...]] = (
    Kind("reset before a request", _EVERY, _READ, _always(Reset("request-head"))),
    Kind("reset in a request's body", _SENDING, (), _always(Reset("request-body"))),
    Kind("answer lost", _EVERY, _READ, _always(Reset("answer-head"))),
    Kind("reset in an answer's body", _POSTED, ("get",), _always(Reset("answer-body"))),
    Kind("answer cut short", _POSTED, ("get",), _always(Truncate())),
    Kind("silence before a request", _EVERY, _READ, _one_of(Stall("request-head", 0.3), Stall("request-head", 1.0))),
    Kind("silence in a request's body", _SENDING, (), _one_of(Stall("request-body", 0.3), Stall("request-body", 1.0))),
    Kind("silence before an answer", _EVERY, _READ, _one_of(Stall("answer-head", 0.3), Stall("answer-head", 1.0))),
    Kind(
        "silence in an answer's body",
        _POSTED,
        ("get",),
        _one_of(Stall("answer-body", 0.3), Stall("answer-body", 1.0)),
    ),
    Kind("slow bytes", ("any",), ("any",), lambda random: _slow(random), lasting=True),
    Kind("byte flipped in a request", _SENDING, (), _always(Flip("request-body"))),
    Kind("byte flipped in an answer", _POSTED, ("get",), _always(Flip("answer-body"))),
    Kind("500", _EVERY, _READ, _always(INTERNAL_ERROR)),
    Kind("500 after the work", _SENDING + _POSTED, (), _always(Answer(500, "InternalError", forward=True))),
    Kind(
        "503 SlowDown",
        _EVERY,
        _READ,
        _one_of(SLOW_DOWN, Answer(503, "SlowDown", (("Retry-After", "1"),)), Answer(429, "TooManyRequests")),
    ),
    Kind("409 without an object", ("put", "complete"), (), _always(CONFLICT)),
    Kind("412 without an object", ("put", "complete"), (), _always(Answer(412, "PreconditionFailed"))),
    Kind(
        "200 with an error in it",
        _SENDING + _POSTED,
        ("get",),
        _one_of(Answer(200, "InternalError"), Answer(200, "InternalError", forward=True)),
    ),
    Kind(
        "blanks before an answer",
        _POSTED,
        (),
        _one_of(Whitespace(0.3), Whitespace(1.0), Whitespace(0.3, after_declaration=False)),
    ),
    Kind("200 by something that is no store", _EVERY, _READ, _always(Answer(200, body=_NO_STORE))),
    Kind("no ETag", ("put", "part"), ("look", "get"), _always(StripHeaders(answer=("ETag",)))),
    Kind("ETag that is no MD5", ("put", "part"), (), _always(ReplaceHeaders((("ETag", '"7-storm"'),)))),
    Kind(
        "no checksum in an answer", ("any", "put", "create", "complete"), ("any",), _always(StripHeaders(answer=_SUMS))
    ),
    Kind("checksum refused", ("put", "create", "part"), (), _always(Answer(400, "InvalidRequest"))),
    Kind("condition refused", ("put", "complete"), (), _always(NOT_IMPLEMENTED)),
    Kind("credentials expired", _EVERY, _READ, _always(EXPIRED_TOKEN), lasting=True),
    Kind("wrong clock", _EVERY, _READ, _always(Answer(403, "RequestTimeTooSkewed"))),
    Kind("denied", _EVERY, _READ, _always(ACCESS_DENIED)),
    Kind(
        "KMS",
        _SENDING + _POSTED,
        ("get",),
        _one_of(Answer(400, "KMS.DisabledException"), Answer(400, "KMS.ThrottlingException"), ACCESS_DENIED),
    ),
    Kind(
        "other region",
        _EVERY,
        _READ,
        _one_of(
            Answer(301, "PermanentRedirect", (("x-amz-bucket-region", "eu-south-2"),)),
            Answer(307, "TemporaryRedirect", (("Location", "http://127.0.0.1:9/"),)),
        ),
    ),
    Kind("404", ("any", "put", "create", "part", "complete"), _READ, _one_of(*_MISSING)),
    Kind("SIGKILL", _EVERY, _READ, lambda random: _halt(random), kills=True),
    Kind("SIGTERM", _EVERY, _READ, lambda random: _halt(random), kills=True),
)
SIGNALS: Final = {"SIGKILL": signal.SIGKILL, "SIGTERM": signal.SIGTERM}


def _slow(random: Random) -> Action:
    return Throttle(up=random.choice((2, 6, 20)) << 20, down=random.choice((2, 6, 20)) << 20)


def _halt(random: Random) -> Action:
    return Stall(random.choice(get_args(Moment)), _HALT_S)


@dataclass(frozen=True, slots=True)
class Weather:
    """The faults of one way. `kill`: the signal that ends everything as soon as a request halts."""

    kinds: tuple[str, ...]
    rules: tuple[Rule, ...]
    kill: signal.Signals | None


@dataclass(frozen=True, slots=True)
class Case:
    """All that a seed decides. `sizes`: of the objects, in bytes."""

    seed: int
    server: str
    through: Through
    sizes: tuple[int, ...]
    workers: int
    up: Weather
    down: Weather


def case_of(seed: int) -> Case:
    """The same case for the same seed.

    One in ten goes through git; one in eight over LocalStack, one over Ceph, the others over versitygw.

    >>> case_of(3).through, case_of(3).server, case_of(3) == case_of(3)
    ('git', 'versitygw', True)
    """
    random = Random(f"storm {seed}")
    through: Through = "git" if seed % 10 == 3 else "conversation"
    sizes = tuple(_size(random) for _ in range(random.choice((1, 1, 2, 3, 4))))
    workers = random.choice((1, 1, 1, 2, 2, 3))
    return Case(
        seed=seed,
        server={1: "localstack", 5: "ceph"}.get(seed % 8, "versitygw"),
        through=through,
        sizes=sizes,
        workers=_OF_GIT_LFS if through == "git" else workers,
        up=_weather(random, "up", sizes),
        down=_weather(random, "down", sizes),
    )


def _size(random: Random) -> int:
    """Tiny, some hundred kB, just at and above the limit of one part, several parts."""
    return random.choice(
        (
            random.randint(1, 2_000),
            random.randint(1, 2_000),
            random.randint(100_000, 400_000),
            random.randint(100_000, 400_000),
            PART,
            PART + 1,
            2 * PART,
            random.randint(PART + 2, 3 * PART),
        )
    )


def _weather(random: Random, way: Way, sizes: Sequence[int]) -> Weather:
    """Up to four faults at once, of any kinds; of those that kill, one."""
    kinds: list[Kind] = []
    count = random.choice((1, 1, 2, 3, 4))
    while len(kinds) < count:
        kind = random.choice(KINDS)
        halts = kind.kills or kind.name.startswith("silence")
        if kind.steps(way, sizes) and not (halts and any(k.kills for k in kinds)):
            # Silence would be taken for the moment to kill.
            kinds = [k for k in kinds if not (kind.kills and k.name.startswith("silence"))] + [kind]
    kills = [kind.name for kind in kinds if kind.kills]
    return Weather(
        tuple(kind.name for kind in kinds),
        tuple(_rule(random, kind, way, sizes) for kind in kinds),
        SIGNALS[kills[0]] if kills else None,
    )


def _rule(random: Random, kind: Kind, way: Way, sizes: Sequence[int]) -> Rule:
    step = random.choice(kind.steps(way, sizes))
    wide = step in ("any", "part", "get")
    return Rule(
        kind.draw(random),
        *_STEPS[step],
        header=_REFUSED_HEADERS[step] if kind.name == "checksum refused" else "",
        nth=random.choice((1, 1, 2, 3, 5) if wide else (1, 1, 1, 2)),
        times=_times(random, kind),
        probability=1.0 if kind.kills or kind.lasting else random.choice((1.0, 1.0, 0.5)),
    )


def _times(random: Random, kind: Kind) -> int | None:
    if kind.lasting:
        return None
    if kind.kills:
        return 1
    return random.choice((1, 1, 2) if kind.name.startswith("silence") else (1, 1, 1, 2, 3, None))
