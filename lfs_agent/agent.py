"""The conversation with git-lfs: a request at a time in, progress and one result out, from one thread."""

import gc
import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple

from lfs_agent import __version__, log, protocol
from lfs_agent.cellar import Cellar
from lfs_agent.errors import (
    AgentError,
    LocalError,
    ObjectError,
    ProtocolError,
    SessionError,
    StoppedError,
    UsageError,
)
from lfs_agent.gitrepo import Repository
from lfs_agent.layout import sharded
from lfs_agent.ledger import Keeper, Ledger, Registrar
from lfs_agent.parts import Limits
from lfs_agent.pointer import Oid
from lfs_agent.protocol import Download, Init, Terminate, Unusable, Upload
from lfs_agent.retry import Patience
from lfs_agent.session import RECORD_LIMIT, Breaker, SessionFiles, name_session, sweep
from lfs_agent.store import Store
from lfs_agent.transfer.download import Folders, download
from lfs_agent.transfer.journal import sweep_stale
from lfs_agent.transfer.meter import Meter
from lfs_agent.transfer.upload import Asking, Sent, upload

_TICK_S: Final = 0.1
_HEARTBEAT_S: Final = 0.5
_GRACE_S: Final = 1.0
"""How long a worker may take to notice that it is to stop: a login helper, or a silent store, may hold it."""
_BUDGET_STREAMS: Final = 16
"""Parts in flight in all workers together."""

_TRIES: Final = 2
_NOT_TRIED: Final = "not tried: the whole session was stopped by the cause that is told once; see lfs-agent log"

Write = Callable[[bytes], None]


def run(first: bytes, second: bytes, requests: BinaryIO, answers: int, started: float) -> int:
    """Serves git-lfs until it says terminate, goes away, or a signal comes; the exit status.

    The line `first` was read already; where `second` was, too, `first` has been answered. `started`: when this
    process was, as time.time().
    """
    stop = threading.Event()
    lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    if second:
        lines.put(second)

    def listen() -> None:
        """Knows while a transfer runs when git-lfs is gone: it is killed sooner than it says terminate."""
        line = b""
        for line in requests:
            lines.put(line)
        if b'"terminate"' not in line:  # else all was said, and what was asked for is done first
            stop.set()
        lines.put(b"")

    def leave(*_: object) -> None:
        stop.set()
        lines.put(b"")

    for name in (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):
        signal.signal(name, leave)
    threading.Thread(target=listen, daemon=True).start()
    threading.Thread(target=_give_up, args=(stop,), daemon=True).start()

    def write(line: bytes) -> None:
        try:
            os.write(answers, line)
        except OSError:  # git-lfs is gone
            leave()

    serve(first, iter(lines.get, b""), write, stop, started, init_answered=bool(second))
    return 130 if stop.is_set() else 0


def _give_up(stop: threading.Event) -> None:
    """Ends the process a moment after `stop`: a blocked thread can't be ended, and what must survive is in files."""
    stop.wait()
    time.sleep(_GRACE_S)
    os._exit(130)


def serve(
    first: bytes, lines: Iterable[bytes], write: Write, stop: threading.Event, started: float, *, init_answered: bool
) -> None:
    """The conversation: `lines` after the `first`, answers to `write`, whole lines each, until `stop`."""
    try:
        init = protocol.parse_request(first)
        state = protocol.advance("new", init)
    except ProtocolError as error:
        if not init_answered:  # a second answer would be taken for that of the first object
            write(protocol.init_refused(error))
        return
    if not isinstance(init, Init):
        return
    if not init_answered:
        write(protocol.init_accepted())
    worker = Worker(init, write, stop, started)
    for request in _requests(lines, worker):
        try:
            state = protocol.advance(state, request)
        except ProtocolError as error:
            worker.note_unknown(error)
            if not isinstance(request, Upload | Download):
                continue
            request = Unusable(request.oid, str(error))  # who asks for an object waits for an answer
        if isinstance(request, Terminate):
            break
        assert isinstance(request, Upload | Download | Unusable)
        worker.answer(request)
        if stop.is_set():
            break
    worker.end()


def _requests(lines: Iterable[bytes], worker: "Worker") -> Iterator[protocol.Request]:
    for line in lines:
        try:
            yield protocol.parse_request(line)
        except ProtocolError as error:  # a newer git-lfs may say more than we know
            worker.note_unknown(error)


class Counts:
    """What a worker has done."""

    def __init__(self) -> None:
        self.objects = 0
        self.bytes = 0
        self.skipped = 0
        self.unproven = 0
        self.failed = 0
        self.parts = 0
        self.started: Final = time.monotonic()


class Ready(NamedTuple):
    """What a worker has once it has something to move."""

    cellar: Cellar
    store: Store
    patience: Patience
    keeper: Keeper
    registrar: Registrar
    asking: Asking


class Worker:
    """One process of a session: moves the objects that it is given, one after another."""

    def __init__(self, init: Init, write: Write, stop: threading.Event, started: float) -> None:
        self._init = init
        self._write = write
        self._stop = stop
        self._halt = threading.Event()
        """The transfer at hand is to end: we are told to stop, or another worker has met a cause that ends all."""
        self._counts = Counts()
        self._repo = Repository(Path.cwd())
        self._shared: SessionFiles | None = None
        self._breaker: Breaker | None = None
        self._started = started
        self._cause_met = False
        self._oid = ""
        self._ready: Ready | None = None
        self._handed_over = ExitStack()
        """Holds the last file until git-lfs has renamed it: then it asks for the next one."""
        self._log: log.Log | None = None

    def answer(self, request: Upload | Download | Unusable) -> None:
        """Moves the object, and says how that went."""
        self._oid = request.oid
        self._handed_over.close()
        try:
            if isinstance(request, Unusable):
                raise ObjectError(f"git-lfs asked for what cannot be: {request.reason}")
            line = self._moved(request)
        except AgentError as error:
            line = protocol.failed(request.oid, self._failure(request, error))
        except Exception as error:  # a fault of ours fails one object, with a sentence, and the others go on
            line = protocol.failed(request.oid, self._failure(request, _unexpected(error)))
        self._write(line)

    def note_unknown(self, error: ProtocolError) -> None:
        """Something in the conversation made no sense; it is not answered, since nobody waits for that."""
        self._logger().warning("not understood", message=str(error))

    def end(self) -> None:
        """Writes what was done into the record."""
        if self._log is None:
            return
        counts = self._counts
        self._log.info(
            "ended",
            objects=counts.objects,
            bytes=counts.bytes,
            parts=counts.parts,
            skipped=counts.skipped,
            unproven=counts.unproven,
            failed=counts.failed,
            retries=self._ready.patience.retries if self._ready else 0,
            seconds=round(time.monotonic() - counts.started, 3),
        )

    def _moved(self, request: Upload | Download) -> bytes:
        ready = self._prepare()
        self._write(protocol.progress(request.oid, 1, 0))  # there are credentials: the other workers may start
        meter = Meter(request.size, self._halt)
        started = time.monotonic()
        moving = _InThread(lambda: self._transfer(ready, request, meter))
        self._watch(moving, meter, request.oid)
        result = moving.result()
        self._count(request, result, meter, time.monotonic() - started)
        if isinstance(result, Path):
            return protocol.downloaded(request.oid, _spelled(result))
        with suppress(OSError):  # a folder that can't be written: the next push asks no question, or one too many
            ready.cellar.remember_push()
        return protocol.uploaded(request.oid)

    def _prepare(self) -> Ready:
        """The store, made on the first object."""
        self._logger()
        if stopped := self._stopped_by():
            raise stopped
        if self._ready is None:
            try:
                self._ready = self._opened()
            except UsageError as error:
                raise SessionError(str(error)) from error
            gc.freeze()  # what is loaded stays: the first collection need not look through it for 20 ms
            gc.enable()  # the light door turned it off
        return self._ready

    def _stopped_by(self) -> SessionError | None:
        """What ended the session before; None where nothing did.

        git-lfs asks for what failed in a checkout again, by a new set of workers, and shows only what those say: a
        worker that was started after the cause tells it in full.
        """
        if self._cause_met:
            return SessionError(_NOT_TRIED)
        met = self._breaker.met() if self._breaker else None
        if met is None:
            return None
        self._cause_met = True
        return SessionError(met.message if met.message and met.at < self._started else _NOT_TRIED)

    def _opened(self) -> Ready:
        cellar = Cellar(self._repo, self._init.operation, self._init.remote, os.environ)
        store, patience = cellar.open(stop=self._halt, notice=self._note_retry, shared=self._shared)
        self._log = self._open_log(cellar)
        if profile := cellar.profile_passed_over:
            self._log.info("profile passed over", profile=profile, source=".mlcellar.toml")
        store.connect()
        ledger = Ledger(store, cellar.prefix)
        keeper = cellar.keeper(ledger, self._halt, self._note_saved)
        asking = Asking(cellar.replaces_nothing)
        return Ready(cellar, store, patience, keeper, cellar.registrar(store, ledger), asking)

    def _note_saved(self, oid: Oid) -> None:
        self._logger().info("saved", oid=oid)

    def _transfer(self, ready: Ready, request: Upload | Download, meter: Meter) -> Sent | Path:
        settings = ready.cellar.settings
        limits = Limits(part_size=settings.part_size)
        streams = settings.streams or max(1, _BUDGET_STREAMS // self._init.concurrent_transfers)
        key = ready.cellar.key(request.oid)
        folders = self._folders
        if isinstance(request, Download):
            return download(
                ready.store, key, request.oid, meter, folders, limits=limits, streams=streams, hold=self._handed_over
            )
        path = self._local(request)
        state, modes = folders.incomplete, folders.modes
        for _ in range(_TRIES):
            seen_at = time.monotonic()
            sent = upload(
                ready.store,
                key,
                request.oid,
                path,
                meter,
                state=state,
                modes=modes,
                limits=limits,
                streams=streams,
                asking=ready.asking,
            )
            if sent.how != "skipped" or ready.keeper.keep(request.oid, seen_at):
                ready.registrar.register(self._halt)
                return sent
        raise ObjectError(f"{ready.store.address(key)} comes and goes: push again")

    @property
    def _folders(self) -> Folders:
        return Folders(self._repo.storage, self._repo.modes)

    def _local(self, request: Upload) -> Path:
        """The file to send; git-lfs can't spell a path that is not UTF-8, but it is where it always is."""
        path = Path(request.path)
        if "\ufffd" in request.path and not path.exists():
            path = self._repo.storage / "objects" / sharded(request.oid)
        if not path.is_absolute():
            raise LocalError(f"git-lfs named a file that is not absolute: {request.path[:200]!r}")
        return path

    def _watch(self, moving: "_InThread", meter: Meter, oid: str) -> None:
        """Tells git-lfs how far the transfer is until it is over, and twice a second that we live."""
        told, last = 0, time.monotonic()
        while not moving.over.wait(_TICK_S):
            if self._stop.is_set() or (self._breaker and self._breaker.tripped):
                self._halt.set()
            if (done := meter.done) > told or time.monotonic() - last > _HEARTBEAT_S:
                self._write(protocol.progress(oid, max(1, done), done - told))
                told, last = done, time.monotonic()
        if moving.error is None:
            self._write(protocol.progress(oid, meter.size, meter.size - told))

    def _count(self, request: Upload | Download, result: Sent | Path, meter: Meter, seconds: float) -> None:
        how = result.how if isinstance(result, Sent) else "downloaded"
        proven = result.proven if isinstance(result, Sent) else True
        self._counts.objects += 1
        self._counts.skipped += how == "skipped"
        self._counts.unproven += not proven
        self._counts.bytes += meter.moved
        self._counts.parts += meter.parts
        self._logger().info(
            how,
            **self._object(request),
            bytes=meter.moved,
            parts=meter.parts,
            proven=proven,
            seconds=round(seconds, 3),
        )

    def _failure(self, request: Upload | Download | Unusable, error: AgentError) -> AgentError:
        """What git-lfs is told; a cause that ends the session is told in full by one worker only."""
        self._counts.failed += 1
        told = error
        if isinstance(error, StoppedError) and not self._stop.is_set():
            told = SessionError(_NOT_TRIED)
        if isinstance(error, SessionError) and not self._cause_met:
            self._cause_met = True
            if self._breaker and not self._breaker.trip(log.describe(error)):
                told = SessionError(_NOT_TRIED)
        self._logger().error("failed", **self._object(request), code=error.code, **error.details())
        return type(told)(log.describe(told)) if not isinstance(told, StoppedError) else told

    def _object(self, request: Upload | Download | Unusable) -> dict[str, Any]:
        """What the record says of an object."""
        if isinstance(request, Unusable):
            return {"oid": request.oid}
        where = {"key": self._ready.cellar.key(request.oid)} if self._ready else {}
        return {"oid": request.oid, "size": request.size, **where}

    def _note_retry(self, what: str, reason: AgentError, wait_s: float) -> None:
        self._logger().warning("retry", oid=self._oid, what=what, message=str(reason), wait_s=round(wait_s, 2))

    def _logger(self) -> log.Log:
        if self._log is None:
            self._log = self._open_log(None)
        return self._log

    def _open_log(self, cellar: Cellar | None) -> log.Log:
        """The log; before the settings are known, and outside of a repository, with what there is."""
        session = name_session()
        bound: dict[str, Any] = {"session": session, "operation": self._init.operation, "remote": self._init.remote}
        record = None
        with suppress(AgentError):
            self._shared = SessionFiles(self._repo.storage / "lfs-agent" / "sessions", session)
            self._breaker = Breaker(self._shared.cause)
            record = log.Lines(self._shared.record, RECORD_LIMIT, self._repo.modes)
            with suppress(OSError):  # without a record, too, all goes on
                self._repo.modes.make(self._shared.folder)
        if cellar is None:
            return log.Log(record, None, None, **bound)
        settings = cellar.settings
        level = settings.log_level or ("info" if settings.log_file else None)
        opened = log.Log(record, level, settings.log_file, store=str(cellar.target), **bound)
        sweep(cellar.state_dir, session)
        sweep_stale(self._folders.incomplete)
        opened.info("started", version=__version__, pid=os.getpid(), workers=self._init.concurrent_transfers)
        return opened


def _spelled(path: Path) -> str:
    """The path in UTF-8, as git-lfs needs it: where it can't be, from the folder that git-lfs started us in.

    Raises LocalError where neither can.
    """
    for spelled in (str(path), os.path.relpath(path)):
        with suppress(UnicodeEncodeError):
            spelled.encode()
            return spelled
    raise LocalError(f"git-lfs cannot spell {path.parent}, which is not UTF-8: let lfs.storage name another folder")


def _unexpected(error: BaseException) -> ObjectError:
    return ObjectError(f"unexpected {type(error).__name__}: {error}; please report it")


class _InThread:
    """A call in a thread of its own: `over` is set at its end."""

    def __init__(self, call: Callable[[], Sent | Path]) -> None:
        self.over = threading.Event()
        self.error: BaseException | None = None
        self._result: Sent | Path | None = None
        self._call = call
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        try:
            self._result = self._call()
        except BaseException as error:
            self.error = error
        self.over.set()

    def result(self) -> Sent | Path:
        """What the call gave; raises what it raised, ObjectError for what nobody foresaw."""
        if isinstance(self.error, AgentError):
            raise self.error
        if self.error is not None:
            raise _unexpected(self.error) from self.error
        assert self._result is not None
        return self._result
