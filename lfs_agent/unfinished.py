"""Which uploads to a store are not finished, and which of them nobody will finish: these may be given up."""

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Literal

from lfs_agent.errors import ObjectError, SessionError
from lfs_agent.layout import oid_at
from lfs_agent.lease import idle
from lfs_agent.log import Log
from lfs_agent.parallel import in_parallel
from lfs_agent.pointer import Oid
from lfs_agent.store import Progress, Unfinished, Uploads
from lfs_agent.transfer.upload import journals

Status = Literal["unfinished", "stale", "aborted", "gone", "unknown"]


@dataclass(frozen=True, slots=True)
class Found:
    """An unfinished upload of one object, and what became of it. `reason` is "" where there is nothing to say.

    `progress`: None where that could not be asked, or it is gone.
    """

    status: Status
    upload: Unfinished
    oid: Oid
    address: str
    progress: Progress | None = None
    reason: str = ""


class Janitor:
    """Looks after the unfinished uploads of one cellar.

    `state`: where transfers keep what survives a kill. An upload is stale when its newest part came `older_than_s`
    seconds ago or before that; with `abort` it is given up then, and `log` is told before and after.
    """

    def __init__(
        self,
        uploads: Uploads,
        key: Callable[[Oid], str],
        state: Path,
        *,
        older_than_s: float | None = None,
        abort: bool = False,
        log: Log | None = None,
    ) -> None:
        self._uploads = uploads
        self._key = key
        self._state = state
        self._older_than_s = older_than_s
        self._abort = abort
        self._log = log
        self.others = 0
        """Uploads to keys that are not those of objects here: somebody else's, and left alone."""

    def listed(self) -> list[tuple[Oid, list[Unfinished]]]:
        """The unfinished uploads of each object, by key."""
        self._uploads.connect()
        by_key = groupby(sorted(self._all(), key=_key_of), _key_of)
        found = [(oid_at(key, self._key), list(uploads)) for key, uploads in by_key]
        self.others = sum(len(uploads) for oid, uploads in found if oid is None)
        return [(oid, uploads) for oid, uploads in found if oid is not None]

    def _all(self) -> Iterator[Unfinished]:
        page, after = self._uploads.listed(None)
        yield from page
        while after:
            page, after = self._uploads.listed(after)
            yield from page

    def look(self, listed: list[tuple[Oid, list[Unfinished]]], *, threads: int) -> Generator[list[Found], None, None]:
        """What is found for each object, in order, while the others are asked for."""
        return in_parallel(lambda item: self._look(*item), listed, threads=threads)

    def _look(self, oid: Oid, uploads: list[Unfinished]) -> list[Found]:
        # No push that begins now in this clone, or one that shares its storage, gets between the look and the end.
        with idle(journals(self._state, oid)) as free:
            return [self._judged(oid, upload, free) for upload in uploads]

    def _judged(self, oid: Oid, upload: Unfinished, free: bool) -> Found:
        address = self._uploads.address(upload.key)
        progress: Progress | None = None
        try:
            progress = self._uploads.progress(upload)
            if progress is None:
                return Found("gone", upload, oid, address)
            if self._older_than_s is None or progress.age_s < self._older_than_s:
                return Found("unfinished", upload, oid, address, progress)
            if not free:
                return Found("unfinished", upload, oid, address, progress, "this clone is sending the object now")
            if self._abort:
                self._give_up(oid, upload, progress)
            return Found("aborted" if self._abort else "stale", upload, oid, address, progress)
        except ObjectError as error:
            return Found("unknown", upload, oid, address, progress, str(error))

    def _give_up(self, oid: Oid, upload: Unfinished, progress: Progress) -> None:
        about = {"oid": oid, "size": progress.size, "key": upload.key, "upload_id": upload.upload_id}
        if self._log:
            self._log.warning("giving up", **about)
        try:
            self._uploads.abort(upload)
        except (ObjectError, SessionError) as error:
            if self._log:
                self._log.error("failed", **about, code=error.code, **error.details())
            raise
        if self._log:
            self._log.info("gave up", **about, bytes=progress.size, parts=progress.parts)


def _key_of(upload: Unfinished) -> str:
    return upload.key
