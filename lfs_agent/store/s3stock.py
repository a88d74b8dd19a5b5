"""`S3Stock`: all objects in a bucket, and how they are deleted."""

import time
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any

from lfs_agent.errors import MissingError
from lfs_agent.store import Stored
from lfs_agent.store.abilities import Abilities
from lfs_agent.store.s3 import S3Store
from lfs_agent.store.s3uploads import date_of


class S3Stock:
    """The Stock of the bucket of a store, a page of at most `page_size` at a time."""

    def __init__(self, store: S3Store, *, page_size: int = 1000) -> None:
        self._store = store
        self._page_size = page_size
        self._ahead_s = 0.0
        """Of this machine's clock, by the last answer."""

    def address(self, key: str) -> str:
        return self._store.address(key)

    def connect(self) -> None:
        self._store.connect()

    def now(self) -> float:
        return time.time() + self._ahead_s

    def listed(self, prefix: str, after: str = "") -> tuple[list[Stored], str]:
        page = self._ask(
            "listing", "list_objects_v2", "", Prefix=prefix or None, StartAfter=after or None, MaxKeys=self._page_size
        )
        with self._store.understanding("", "listing"):
            found = [
                _stored(each["Key"], each["Size"], each["LastModified"], each) for each in page.get("Contents", [])
            ]
            last = found[-1].key if found and page["IsTruncated"] else ""
            if page["IsTruncated"] and last <= after:
                raise ValueError(f"after {after} comes {last}")  # and so on without an end
        return found, last

    def look(self, key: str) -> Stored | None:
        try:
            head = self._ask("looking at", "head_object", key)
        except MissingError:
            return None
        with self._store.understanding(key, "looking at"):
            written = parsedate_to_datetime(head["ResponseMetadata"]["HTTPHeaders"]["last-modified"])
            return _stored(key, head["ContentLength"], written, head)

    def delete(self, key: str, etag: str) -> bool:
        def delete(can: Abilities) -> dict[str, Any]:
            return self._ask("deleting", "delete_object", key, IfMatch=etag if can.conditional_delete else None)

        return bool(self._store.asked(delete, {"conditional_delete": False}).get("DeleteMarker"))

    def _ask(self, doing: str, operation: str, key: str, **parameters: Any) -> dict[str, Any]:
        answer = self._store.ask(doing, operation, key, **parameters)
        self._ahead_s = date_of(answer) - time.time()
        return answer


def _stored(key: str, size: int, written: datetime, said: Any) -> Stored:
    # A list tells parts of a second, an answer to HEAD doesn't.
    return Stored(key, size, said.get("ETag", ""), int(written.timestamp()))
