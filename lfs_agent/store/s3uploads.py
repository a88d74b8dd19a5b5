"""`S3Uploads`: the multipart uploads in a bucket that nobody has finished."""

import time
from email.utils import parsedate_to_datetime
from typing import Any, Final

from lfs_agent.errors import MissingError, UnsupportedError
from lfs_agent.layout import below
from lfs_agent.store import Marker, Progress, Unfinished
from lfs_agent.store.s3 import S3Store, upload_id_of

_LISTING: Final = "listing the unfinished uploads of"


class S3Uploads:
    """Those to keys below `prefix` ("" for all of the bucket), a page of at most `page_size` at a time."""

    def __init__(self, store: S3Store, prefix: str, *, page_size: int = 1000) -> None:
        self._store = store
        self._prefix = prefix
        self._page_size = page_size

    def address(self, key: str) -> str:
        return self._store.address(key)

    def connect(self) -> None:
        self._store.connect()

    def listed(self, after: Marker | None) -> tuple[list[Unfinished], Marker | None]:
        try:
            page = self._page(*(after or (None, None)))
        except UnsupportedError as error:
            if not after:
                raise UnsupportedError(
                    f"{error}; this store does not list unfinished uploads: see whether it gives them up by a rule"
                ) from error
            # versitygw 1.8 refuses the markers that it gives out itself: then on from the next key.
            page = self._page(after[0], None)
        with self._store.understanding("", _LISTING):
            found = [
                Unfinished(upload["Key"], upload_id_of(upload), upload["Initiated"].timestamp())
                for upload in page.get("Uploads", [])
            ]
            end = (page.get("NextKeyMarker", ""), page.get("NextUploadIdMarker", ""))
            return found, end if page["IsTruncated"] and end != after else None

    def _page(self, key: str | None, upload_id: str | None) -> dict[str, Any]:
        return self._store.ask(
            _LISTING,
            "list_multipart_uploads",
            "",
            Prefix=below(self._prefix) or None,
            MaxUploads=self._page_size,
            KeyMarker=key,
            UploadIdMarker=upload_id or None,
        )

    def progress(self, upload: Unfinished) -> Progress | None:
        parts, size, newest, now = 0, 0, upload.begun or 0.0, time.time()
        try:
            for page in self._store.pages_of_parts(upload.key, upload.upload_id, self._page_size):
                now = date_of(page)
                with self._store.understanding(upload.key, "listing the parts of"):
                    _ = page["IsTruncated"]  # else it is no list, and what has no parts may be given up
                    for part in page.get("Parts", []):
                        parts += 1
                        size += part["Size"]
                        newest = max(newest, part["LastModified"].timestamp())
        except MissingError:
            return None
        return Progress(parts, size, newest, max(0.0, now - newest))

    def abort(self, upload: Unfinished) -> None:
        try:
            self._store.ask("giving up", "abort_multipart_upload", upload.key, UploadId=upload.upload_id)
        except MissingError:
            pass


def date_of(answer: dict[str, Any]) -> float:
    """What the store's clock said with an answer: this machine's may be days off, and its uploads are alive."""
    try:
        return parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"]).timestamp()
    except (LookupError, TypeError, ValueError):
        return time.time()
