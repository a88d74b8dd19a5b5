"""Brings a store what it lacks: an object that is missing or damaged there is sent again, from where it is whole."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal, Protocol

from lfs_agent.errors import AgentError, DamagedError, LocalError, ObjectError, SessionError, StoppedError
from lfs_agent.layout import sharded
from lfs_agent.log import Log
from lfs_agent.parts import Limits
from lfs_agent.pointer import Oid, Pointer
from lfs_agent.store import Store
from lfs_agent.transfer.download import Folders, download
from lfs_agent.transfer.meter import Meter
from lfs_agent.transfer.upload import Sent, upload
from lfs_agent.verify import NOT_ASKED, Finding
from lfs_agent.verify import Status as Judgement

Status = Literal[Judgement, "sent", "replaced", "failed"]

_ENDED: Final[dict[str, Status]] = {"uploaded": "sent", "replaced": "replaced", "skipped": "present"}
_UNREPLACEABLE: Final = "the store gives no ETag, by which alone it could be replaced safely"


class Source(Protocol):
    """Where objects may be had. Usable from several threads."""

    @property
    def name(self) -> str:
        """As people know it."""

    def has(self, pointer: Pointer) -> bool:
        """Whether there is something of the right size. Raises SessionError where it can't be asked."""

    def file(self, pointer: Pointer, stop: threading.Event) -> AbstractContextManager[Path]:
        """A file for as long as the block lasts; whether it is the object has still to be proven.

        Raises LocalError where it is known not to be, or can't be had.
        """


@dataclass(frozen=True)
class Files:
    """Objects in a folder of files, as git-lfs keeps them."""

    name: str
    folder: Path

    def has(self, pointer: Pointer) -> bool:
        with suppress(OSError):
            return self._path(pointer).stat().st_size == pointer.size
        return False

    @contextmanager
    def file(self, pointer: Pointer, stop: threading.Event) -> Iterator[Path]:
        yield self._path(pointer)

    def _path(self, pointer: Pointer) -> Path:
        return self.folder / sharded(pointer.oid)


@dataclass(frozen=True)
class OtherStore:
    """Objects in another store: each is fetched, and proven, before it is sent on."""

    name: str
    store: Store
    key: Callable[[Oid], str]
    folders: Folders
    limits: Limits
    streams: int

    def has(self, pointer: Pointer) -> bool:
        with suppress(ObjectError):
            found = self.store.stat(self.key(pointer.oid))
            return found is not None and found.size == pointer.size
        return False

    @contextmanager
    def file(self, pointer: Pointer, stop: threading.Event) -> Iterator[Path]:
        key, oid, meter = self.key(pointer.oid), pointer.oid, Meter(pointer.size, stop)
        try:
            path = download(self.store, key, oid, meter, self.folders, limits=self.limits, streams=self.streams)
        except ObjectError as error:  # another source may have it
            raise LocalError(str(error)) from error
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class Case:
    """An object that the store does not have as it should, and what became of it.

    `source`: from where it can be had, or was; "" where nobody has it. `reason`: what is wrong, or went wrong.
    """

    status: Status
    finding: Finding
    reason: str
    source: str = ""

    @property
    def mendable(self) -> bool:
        """Whether there is something to be done, and to do it with."""
        return bool(self.source) and self.status in ("missing", "damaged")


def plan(finding: Finding, sources: Sequence[Source], *, replaces: bool) -> Case:
    """What can be done about a finding; `replaces`: what is damaged may be replaced.

    Raises SessionError where a source can't be asked.
    """
    case = Case(finding.status, finding, finding.reason)
    if finding.status == "damaged":
        if not replaces:
            return replace(case, reason=f"{finding.reason}: lfs-agent repair replaces it")
        if not (finding.found and finding.found.etag):
            return replace(case, reason=f"{finding.reason}; {_UNREPLACEABLE}")
    elif finding.status != "missing":
        return case
    for source in sources:
        if source.has(finding.pointer):
            return replace(case, source=source.name)
    return replace(case, reason=_lacking(finding, sources))


class Mender:
    """Sends to one store what it lacks, from the first of `sources` whose copy is whole. Usable from several threads.

    `register`: lets others know whose objects these are, before one is sent. `keep`: sees to it that what is there
    after all stays there; False where it doesn't. `on_moved` is told of bytes that are done, from any thread.
    """

    def __init__(
        self,
        store: Store,
        sources: Sequence[Source],
        *,
        folders: Folders,
        limits: Limits,
        streams: int,
        stop: threading.Event,
        log: Log,
        keep: Callable[[Oid, float], bool],
        register: Callable[[], None],
        on_moved: Callable[[int], None] = lambda size: None,
    ) -> None:
        self._store = store
        self._sources = sources
        self._folders = folders
        self._limits = limits
        self._streams = streams
        self._stop = stop
        self._log = log
        self._keep = keep
        self._register = register
        self._on_moved = on_moved
        self._ending = threading.Lock()  # of the two below: several threads may meet a cause, one case tells it
        self._told = False
        self.cause: AgentError | None = None
        """What ended the sending."""

    def mend(self, case: Case) -> Case:
        """Does it. What ends the sending is the reason of one case, not of all."""
        if not case.mendable:
            return case
        if self.cause:
            return replace(case, status="failed", reason=NOT_ASKED)
        try:
            return self._mended(case)
        except (SessionError, StoppedError) as error:
            with self._ending:
                self.cause = self.cause or error
                told, self._told = self._told, True
            return replace(case, status="failed", reason=NOT_ASKED if told else str(error))
        except AgentError as error:
            self._log.error("failed", **_about(case), code=error.code, **error.details())
            status: Status = "damaged" if isinstance(error, DamagedError) else "failed"
            return replace(case, status=status, reason=str(error), source="")

    def _mended(self, case: Case) -> Case:
        """Sent from the first source whose copy is whole; unchanged, with the reasons, where none is."""
        reasons: list[str] = []
        for source in self._sources:
            if not source.has(case.finding.pointer):
                continue
            try:
                with source.file(case.finding.pointer, self._stop) as path:
                    sent = self._send(replace(case, source=source.name), path)
            except LocalError as error:
                reasons.append(str(error) if source is self._sources[0] else f"{source.name}: {error}")
            else:
                return replace(case, status=_ENDED[sent.how], reason="", source=source.name)
        lacking = LocalError("; ".join(reasons) or _lacking(case.finding, self._sources))
        self._log.error("failed", **_about(case), code=lacking.code, **lacking.details())
        return replace(case, reason=str(lacking), source="")

    def _send(self, case: Case, path: Path) -> Sent:
        finding = case.finding
        etag = finding.found.etag if finding.found and finding.status == "damaged" else ""
        if etag:  # before anything is done: a kill leaves a line, too
            self._log.warning("replacing", **_about(case), etag=etag, found=finding.reason, source=case.source)
        meter = _Told(finding.pointer.size, self._stop, self._on_moved)
        started = time.monotonic()
        self._register()
        sent = upload(
            self._store,
            finding.key,
            finding.pointer.oid,
            path,
            meter,
            state=self._folders.incomplete,
            modes=self._folders.modes,
            limits=self._limits,
            streams=self._streams,
            replacing=etag,
        )
        if sent.how == "skipped" and not self._keep(finding.pointer.oid, started):
            raise ObjectError(f"{finding.address} was deleted meanwhile: try again")
        self._log.info(
            sent.how,
            **_about(case),
            bytes=meter.moved,
            parts=meter.parts,
            proven=sent.proven,
            seconds=round(time.monotonic() - started, 3),
            **({"etag": etag} if sent.how == "replaced" else {}),
        )
        return sent


def _about(case: Case) -> dict[str, str | int]:
    pointer = case.finding.pointer
    return {"oid": pointer.oid, "size": pointer.size, "key": case.finding.key}


def _lacking(finding: Finding, sources: Sequence[Source]) -> str:
    return f"{finding.reason}; not in {' or '.join(source.name for source in sources)} either"


class _Told(Meter):
    """A Meter that tells of every byte that is done."""

    def __init__(self, size: int, stop: threading.Event, tell: Callable[[int], None]) -> None:
        super().__init__(size, stop)
        self._tell = tell

    def reached(self, start: int, position: int, moved: int) -> None:
        before = self.done
        super().reached(start, position, moved)
        self._tell(self.done - before)

    def finished(self) -> None:
        before = self.done
        super().finished()
        self._tell(self.done - before)
