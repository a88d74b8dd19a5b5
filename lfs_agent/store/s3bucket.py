"""`S3Bucket`: a bucket itself, not what is in it."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, Final, NamedTuple

from lfs_agent.errors import BucketError, MissingError, ObjectError
from lfs_agent.layout import below
from lfs_agent.store import Aspect
from lfs_agent.store.abilities import Abilities
from lfs_agent.store.s3 import Call, S3Store

_NOT_YET: Final = {"ExpectedBucketOwner": None, "RequestPayer": None}
"""What goes with every other request, and not with the one that makes the bucket."""


class _Calls(NamedTuple):
    """boto3's calls for an aspect; `inside`: where the answer has it, "" for the answer itself."""

    get: str
    put: str
    inside: str = ""


_ASPECTS: Final[dict[Aspect, _Calls]] = {
    "versioning": _Calls("get_bucket_versioning", "put_bucket_versioning"),
    "public access block": _Calls(
        "get_public_access_block", "put_public_access_block", "PublicAccessBlockConfiguration"
    ),
    "lifecycle": _Calls("get_bucket_lifecycle_configuration", "put_bucket_lifecycle_configuration"),
    "encryption": _Calls("get_bucket_encryption", "put_bucket_encryption", "ServerSideEncryptionConfiguration"),
}


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
        answer = self._ask("listing", "list_objects_v2", Prefix=below(prefix) or None, MaxKeys=1)
        headers = answer["ResponseMetadata"]["HTTPHeaders"]
        return Greeting(headers.get("x-amz-bucket-region", ""), _skew(headers.get("date", ""), sent, time.time()))

    def exists(self) -> bool:
        try:
            self._ask("listing", "list_objects_v2", MaxKeys=1)
        except BucketError as error:
            if "NoSuchBucket" not in str(error):
                raise
            return False
        return True

    def create(self) -> None:
        region = self._store.region
        where = {"LocationConstraint": region} if region != "us-east-1" else None
        try:
            self._ask("creating", "create_bucket", **_NOT_YET, CreateBucketConfiguration=where)
        except ObjectError as error:
            if "InvalidLocationConstraint" not in str(error) or not self._store.has_endpoint:
                raise
            self._ask("creating", "create_bucket", **_NOT_YET)  # a store that has one region only

    def configuration(self, aspect: Aspect) -> Mapping[str, Any]:
        of = _ASPECTS[aspect]
        try:
            answer = self._ask(f"looking at the {aspect} of", of.get, RequestPayer=None)
        except MissingError:
            return {}
        found: Mapping[str, Any] = answer.get(of.inside, {}) if of.inside else answer
        return found

    def configure(self, aspect: Aspect, parameters: Mapping[str, Any]) -> None:
        self._ask(f"setting the {aspect} of", _ASPECTS[aspect].put, RequestPayer=None, **parameters)

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
