"""Lets go of local objects whose copies in the store are proven now: by the store's own checksum, or by a read."""

import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

from lfs_agent.errors import AgentError, LocalError
from lfs_agent.layout import sharded
from lfs_agent.log import Log
from lfs_agent.pointer import Oid, Pointer, parse_oid
from lfs_agent.selection import Wanted
from lfs_agent.session import Moment
from lfs_agent.store import Store
from lfs_agent.transfer.local import hash_file
from lfs_agent.verify import Finding, Judge

Status = Literal["prunable", "pruned", "missing", "damaged", "unproven", "archived", "unknown", "failed"]
Proof = Literal["", "store", "crc32c", "read"]
"""What says that the store has the object: its own SHA-256; its own CRC-32C over all of it, which is that of the local
file, whose SHA-256 was proven in the same pass; we, who read and hashed it there."""

_MARKED: Final = "a gc has marked the store's copy, and may delete it: see lfs-agent gc"
_SAME_FILE: Final = "the store's copy and the local one are one file"
_BELIEVED_FOR_S: Final = 60.0
"""So long what was judged counts as what is there: to read it takes its time, and a machine may sleep meanwhile."""


@dataclass(frozen=True, slots=True)
class Local:
    """An object in the LFS storage. `size` in bytes."""

    oid: Oid
    path: Path
    size: int


@dataclass(frozen=True, slots=True)
class Judged:
    """A local object that git-lfs would let go of, and whether it may go. `reason`: why it was kept."""

    status: Status
    local: Local
    key: str
    address: str
    proof: Proof = ""
    reason: str = ""


def local_objects(storage: Path) -> Iterator[Local]:
    """All objects in an LFS storage."""
    for path in sorted((storage / "objects").glob("??/??/*")):
        with suppress(ValueError, OSError):  # not an object; or it is gone
            oid = parse_oid(path.name)
            if path == storage / "objects" / sharded(oid):
                yield Local(oid, path, path.stat().st_size)


class Pruner:
    """Judges local objects against one store; with a `log` it deletes what is proven. Usable from several threads.

    `deep`: reads the store's copies, whatever their checksums say. `marked`: what is there, and may soon be gone.
    `on_read` is told of the bytes that are read, from any thread.
    """

    def __init__(
        self,
        store: Store,
        key: Callable[[Oid], str],
        *,
        deep: bool,
        marked: Callable[[Oid], object],
        stop: threading.Event,
        log: Log | None = None,
        on_read: Callable[[int], None] = lambda size: None,
    ) -> None:
        self._marked = marked
        self._stop = stop
        self._log = log
        self._judge = Judge(store, key, depth="checksum", stop=stop)
        self._reader = Judge(store, key, depth="deep", stop=stop, on_read=on_read) if deep else None

    @property
    def cause(self) -> AgentError | None:
        """What ended the asking."""
        return self._judge.cause or (self._reader.cause if self._reader else None)

    def look(self, local: Local) -> Judged:
        """What is to be done with it, and that is done."""
        began = Moment.now()
        marked = self._is_marked(local.oid)  # before the look: what is not marked by then is there for a while
        judged = self._judged(local)
        if judged.status == "prunable" and began.elapsed_s > _BELIEVED_FOR_S:  # a gc may have marked and deleted it
            marked, judged = marked or self._is_marked(local.oid), self._looked_again(local, judged)
        if judged.status == "prunable" and marked:
            return replace(judged, status="unproven", proof="", reason=marked)
        if judged.status != "prunable" or self._log is None:
            return judged
        about = {"oid": local.oid, "size": local.size, "key": judged.key}
        # Before it is done: a kill leaves no deletion without a line.
        self._log.info("pruned", **about, bytes=local.size, proof=judged.proof)
        try:
            local.path.unlink(missing_ok=True)
        except OSError as error:
            failure = LocalError(f"cannot delete {local.path}: {error.strerror}")
            self._log.error("failed", **about, code=failure.code, **failure.details())
            return replace(judged, status="failed", reason=str(failure))
        return replace(judged, status="pruned")

    def _is_marked(self, oid: Oid) -> str:
        """Why the store's copy may soon be gone; "" where it stays."""
        try:
            return _MARKED if self._marked(oid) else ""
        except AgentError as error:
            return str(error)

    def _judged(self, local: Local) -> Judged:
        wanted = Wanted(Pointer(local.oid, local.size), [])
        finding = self._judge.judge(wanted)
        is_other = finding.found.size != local.size if finding.found else local.size == 0  # which nobody is asked for
        if is_other and (wrong := self._wrong_here(local)):
            return _kept(finding, local, "unproven", wrong)
        if _is_same_file(finding.address, local.path):
            return _kept(finding, local, "unproven", _SAME_FILE)
        if finding.status not in ("present", "unproven"):
            return _kept(finding, local, _STATUSES[finding.status], finding.reason)
        if self._reader:  # a checksum is as old as the object: what its disk has become since, it does not tell
            return _judged_by_reading(self._reader.judge(wanted), local)
        if finding.proof == "store":
            return Judged("prunable", local, finding.key, finding.address, "store")
        return self._compared(finding, local)

    def _looked_again(self, local: Local, judged: Judged) -> Judged:
        """As it was judged, where it is still there."""
        finding = self._judge.judge(Wanted(Pointer(local.oid, local.size), []))
        if finding.status in ("present", "unproven"):
            return judged
        return _kept(finding, local, _STATUSES[finding.status], finding.reason)

    def _wrong_here(self, local: Local) -> str:
        """What is wrong with the local copy; "" where it is the object."""
        try:
            hash_file(local.path, local.oid, local.size, self._stop)
        except LocalError as error:
            return str(error)
        return ""

    def _compared(self, finding: Finding, local: Local) -> Judged:
        """Of what the store itself knows no SHA-256."""
        crc32c = finding.found.crc32c if finding.found else ""
        if not crc32c:
            return _kept(finding, local, "unproven", "the store has no checksum of it that tells: --deep reads it")
        try:
            own = hash_file(local.path, local.oid, local.size, self._stop)
        except LocalError as error:
            return _kept(finding, local, "unproven", str(error))
        if own != crc32c:
            return _kept(finding, local, "damaged", f"its CRC-32C is {crc32c}, not {own}")
        return Judged("prunable", local, finding.key, finding.address, "crc32c")


def _judged_by_reading(read: Finding, local: Local) -> Judged:
    if read.status == "present":
        return Judged("prunable", local, read.key, read.address, "read")
    return _kept(read, local, _STATUSES[read.status], read.reason)


_STATUSES: Final[dict[str, Status]] = {
    "missing": "missing",
    "damaged": "damaged",
    "unproven": "unproven",
    "archived": "archived",
    "unknown": "unknown",
}


def _kept(finding: Finding, local: Local, status: Status, reason: str) -> Judged:
    return Judged(status, local, finding.key, finding.address, "", reason)


def _is_same_file(address: str, path: Path) -> bool:
    """Whether a store in a folder is the LFS storage itself."""
    with suppress(OSError):
        return path.samefile(address)
    return False
