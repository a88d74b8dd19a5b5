"""`S3Bucket`: a bucket itself, not what is in it."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

from lfs_agent.store.abilities import Abilities
from lfs_agent.store.s3 import S3Store

Call = Callable[[str, Callable[[], dict[str, Any]]], dict[str, Any]]
"""Makes a call again while that may help: what it is for, and the call."""


@dataclass(frozen=True, slots=True)
class Greeting:
    """What a bucket's first answer tells. `region`: as the store names it, "" where it doesn't.

    `skew_s`: how many seconds this machine's clock is ahead of the store's; None where the answer has no date.
    """

    region: str
    skew_s: float | None


class S3Bucket:
    """The bucket of a store; each request is made by `call`."""

    def __init__(self, store: S3Store, call: Call) -> None:
        self._store = store
        self._call = call

    @property
    def abilities(self) -> Abilities | None:
        """What the store can do, as far as it has been asked before; None where it has not."""
        return self._store.abilities.now if self._store.abilities.asked else None

    def connect(self) -> None:
        """As `Store.connect`."""
        self._store.connect()

    def greet(self, prefix: str) -> Greeting:
        """Asks for the name of one object below `prefix`.

        Raises what a Store raises.
        """
        sent = time.time()
        answer = self._ask("listing", "list_objects_v2", Prefix=f"{prefix}/" if prefix else None, MaxKeys=1)
        headers = answer["ResponseMetadata"]["HTTPHeaders"]
        return Greeting(headers.get("x-amz-bucket-region", ""), _skew(headers.get("date", ""), sent, time.time()))

    def _ask(self, doing: str, operation: str, **parameters: Any) -> dict[str, Any]:
        return self._call(doing, lambda: self._store.ask(doing, operation, "", **parameters))


def _skew(date: str, sent: float, answered: float) -> float | None:
    """How far the clock that said `date` is behind ours, which said `sent` before and `answered` after it.

    >>> _skew("Sat, 21 Nov 2026 10:00:00 GMT", 1795255200.2, 1795255200.9)
    0.0
    >>> _skew("Sat, 21 Nov 2026 09:50:00 GMT", 1795255200.0, 1795255200.9)
    599.0
    """
    try:
        said = parsedate_to_datetime(date).timestamp()
    except (TypeError, ValueError):
        return None
    # A date is cut to whole seconds.
    return sent - said - 1 if sent > said + 1 else min(0.0, answered - said)
