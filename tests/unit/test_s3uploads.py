"""What a store answers about unfinished uploads, read with care: its clock, and lists that never end."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, cast

from lfs_agent.store import Unfinished
from lfs_agent.store.s3 import S3Store
from lfs_agent.store.s3uploads import S3Uploads

LONG_AGO = datetime(2001, 1, 1, tzinfo=UTC)
UPLOAD = Unfinished("weights/key", "id", LONG_AGO.timestamp())


class Answers:
    """The part of an S3Store that is asked, with answers that are given."""

    def __init__(self, *parts: dict[str, Any], date: str = "", page: dict[str, Any] | None = None) -> None:
        self._parts = list(parts)
        self._headers = {"date": date} if date else {}
        self._page = page or {}

    def pages_of_parts(self, key: str, upload_id: str, page_size: int) -> Iterator[dict[str, Any]]:
        yield {"Parts": self._parts, "IsTruncated": False, "ResponseMetadata": {"HTTPHeaders": self._headers}}

    @contextmanager
    def understanding(self, key: str, doing: str) -> Iterator[None]:
        yield

    def ask(self, doing: str, operation: str, key: str, **parameters: Any) -> dict[str, Any]:
        return self._page


def uploads(answers: Answers) -> S3Uploads:
    return S3Uploads(cast(S3Store, answers), "weights")


def part(size: int, second: int) -> dict[str, Any]:
    return {"Size": size, "LastModified": LONG_AGO.replace(second=second)}


def test_age_is_by_the_clock_of_the_store_however_wrong_this_machines_is() -> None:
    answers = Answers(part(5, 0), part(5, 30), part(2, 10), date="Mon, 01 Jan 2001 01:00:00 GMT")

    progress = uploads(answers).progress(UPLOAD)

    assert progress is not None
    assert (progress.parts, progress.size, progress.newest) == (3, 12, LONG_AGO.timestamp() + 30)
    assert progress.age_s == 3570


def test_without_parts_it_is_as_old_as_its_beginning() -> None:
    progress = uploads(Answers(date="Tue, 02 Jan 2001 00:00:00 GMT")).progress(UPLOAD)

    assert progress is not None
    assert (progress.parts, progress.size, progress.newest) == (0, 0, LONG_AGO.timestamp())
    assert progress.age_s == 86400


def test_without_a_clock_of_the_store_this_machines_has_to_do() -> None:
    for date in ("", "yesterday"):
        progress = uploads(Answers(date=date)).progress(UPLOAD)
        assert progress is not None
        assert progress.age_s > 20 * 365 * 86400


def test_a_part_from_the_future_is_new() -> None:
    progress = uploads(Answers(part(5, 30), date="Mon, 01 Jan 2001 00:00:00 GMT")).progress(UPLOAD)

    assert progress is not None
    assert progress.age_s == 0


def test_a_list_that_begins_again_where_it_began_is_at_its_end() -> None:
    page = {"Uploads": [], "IsTruncated": True, "NextKeyMarker": "weights/key", "NextUploadIdMarker": "id"}

    assert uploads(Answers(page=page)).listed(None) == ([], ("weights/key", "id"))
    assert uploads(Answers(page=page)).listed(("weights/key", "id")) == ([], None)
