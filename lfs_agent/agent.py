"""The conversation with git-lfs: a request at a time in, progress and one result out, from one thread."""

import gc
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from contextvars import ContextVar
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

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
    out_of_threads,
)
from lfs_agent.gitrepo import Repository
from lfs_agent.layout import sharded
from lfs_agent.parts import KIB, Limits
from lfs_agent.pointer import Oid
from lfs_agent.protocol import Download, Init, Terminate, Unusable, Upload
from lfs_agent.session import RECORD_LIMIT, Breaker, Handover, SessionFiles, name_session, sweep
from lfs_agent.store import Store
from lfs_agent.transfer.download import Folders, download
from lfs_agent.transfer.journal import sweep_stale
from lfs_agent.transfer.meter import Meter
from lfs_agent.turns import Flag, are_possible
from lfs_agent.wire import Wire
from lfs_agent.zygote import Asked, Zygote

if TYPE_CHECKING:
    from lfs_agent.outgoing import Outgoing
    from lfs_agent.transfer.upload import Sent

_TICK_S: Final = 0.1
_HEARTBEAT_S: Final = 0.5
_SMALL: Final = 512 * KIB
"""Bytes of an object that needs no process of its own: it is hashed, and written, in a moment."""
_GRACE_S: Final = 1.0
"""How long a worker may take to notice that it is to stop: a login helper, or a silent store, may hold it."""
_LAST_S: Final = 3
"""After so long a signal ends the worker, whatever it waits for."""
_BUDGET_STREAMS: Final = 16
"""Parts in flight in all workers together."""

_NOT_TRIED: Final = "not tried: the whole session was stopped by the cause that is told once; see lfs-agent log"

Write = Callable[[bytes], None]
Leaves = Callable[[protocol.Request, bytes], bool]
"""Told of each request before it is answered, with its line: whether another process goes on with the conversation."""


def run(first: bytes, second: bytes, requests: FileIO, answers: int, started: float) -> int:
    """Serves git-lfs until it says terminate, goes away, or a signal comes; the exit status.

    The line `first` was read already; where `second` was, too, `first` has been answered. `started`: when this
    process was, as time.time(). It may come back in processes that are forked, each with the end of its own.
    """
    stop = Flag()

    leaves = False

    def leave(*_: object) -> None:
        nonlocal leaves
        if leaves:  # another signal, while the first one is handled, would wait for the lock of the flag for ever
            return
        leaves = True
        if hasattr(signal, "alarm"):  # where git-lfs does not read, this thread may not come to hear of it
            signal.alarm(_LAST_S)
        stop.set()

    def write(line: bytes) -> None:
        try:
            os.write(answers, line)
        except OSError:  # git-lfs is gone
            stop.set()

    _on_signals(leave)
    worker = greeted(first, write, stop, started, init_answered=bool(second))
    if worker is None:
        return 0
    zygote, asked = Zygote(first, requests.fileno(), answers), None
    if second and worker.prepare() and not stop.is_set() and (forked := zygote.start(worker.is_small)):
        _on_signals(leave)  # another process goes on here: as many other workers, or as one
        if forked.zygote:
            from lfs_agent.hub import Hub

            Hub(worker, forked, stop).run()
            return 0
        asked = forked.asked
        second = asked.request
        worker = worker.another(write, stop, asked.started)
    _converse(worker, Wire(requests.fileno(), second), stop, asked)
    worker.end()
    status = 130 if stop.is_set() else 0
    if asked:
        asked.tell(status)
    else:
        zygote.end()
    return status


def _converse(worker: "Worker", wire: Wire, stop: threading.Event, asked: Asked | None) -> None:
    """The conversation, in a thread of its own: this one sees to signals, and to what git-lfs hears meanwhile."""
    over = threading.Event()

    def serve() -> None:
        try:
            worker.serve(wire)
        except BaseException:  # a fault of ours: git-lfs hears the end of us, and does not wait for an answer
            stop.set()
            raise
        over.set()

    try:
        threading.Thread(target=serve, daemon=True).start()
    except RuntimeError:  # no more threads are allowed: git-lfs hears that, and no end of us
        serve()
    while not over.wait(_TICK_S) and not stop.is_set():
        if wire.broke_off() or (asked and asked.is_left):  # git-lfs is killed sooner than it says terminate
            stop.set()
        worker.tick()
    worker.leave()
    over.wait(_GRACE_S if worker.is_busy else 0)  # a blocked thread can't be ended; what must survive is in files


def _on_signals(leave: Callable[..., None]) -> None:
    for name in (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):
        signal.signal(name, leave)


def greeted(
    first: bytes, write: Write, stop: threading.Event, started: float, *, init_answered: bool
) -> "Worker | None":
    """The worker for an init, which is answered; None where there is nothing to do, and git-lfs has been told why."""
    try:
        init = protocol.parse_request(first)
        protocol.advance("new", init)
    except ProtocolError as error:
        if not init_answered:  # a second answer would be taken for that of the first object
            write(protocol.init_refused(error))
        return None
    if not isinstance(init, Init):
        return None
    if not init_answered:
        write(protocol.init_accepted())
    return Worker(init, write, stop, started)


class Counts:
    """What a worker has done."""

    def __init__(self) -> None:
        self.objects = 0
        self.bytes = 0
        self.skipped = 0
        self.unproven = 0
        self.failed = 0
        self.retries = 0
        self.parts = 0
        self.started: Final = time.monotonic()


class Ready(NamedTuple):
    """What a worker has once it has something to move."""

    cellar: Cellar
    folders: Folders
    limits: Limits
    streams: int
    store: Store


_serving: Final[ContextVar["Worker"]] = ContextVar("worker")
"""Of the thread, or task."""


class Worker:
    """Moves the objects that git-lfs gives to one of its workers, one after another."""

    def __init__(self, init: Init, write: Write, stop: threading.Event, started: float) -> None:
        self._init = init
        self._halt = Flag()
        """The transfer at hand is to end: we are told to stop, or another worker has met a cause that ends all."""
        self._repo = Repository(Path.cwd())
        self._shared: SessionFiles | None = None
        self._breaker: Breaker | None = None
        self._ready: Ready | None = None
        self._outgoing: Outgoing | None = None
        self._log: log.Log | None = None
        self._begin(write, stop, started)

    def _begin(self, write: Write, stop: threading.Event, started: float) -> None:
        """What each conversation has for itself; what is above, all have that are prepared together."""
        self._write = write
        self._stop = stop
        self._started = started
        self._counts = Counts()
        self._connected = False
        self._cause_met = False
        self._oid = ""
        self._handed_over = ExitStack()
        """Holds the last file until git-lfs has renamed it: then it asks for the next one."""
        self._telling = threading.Lock()  # of what follows: progress comes from another thread, and never after the end
        self._moving: Meter | None = None
        self._told, self._told_at = 0, 0.0
        self._ended = False

    def prepare(self) -> bool:
        """Loads and reads what objects need, short of credentials; whether others of the session can begin with it.

        What goes wrong is told with the first object.
        """
        self._logger()
        if not (self._breaker and self._breaker.tripped):
            with suppress(Exception):
                self._open()
        return self._ready is not None and self._init.concurrent_transfers > 1

    def another(self, write: Write, stop: threading.Event, started: float) -> "Worker":
        """One that goes on from what this one has prepared; `started`: when git-lfs started that."""
        assert self._ready
        other = Worker.__new__(Worker)
        vars(other).update(vars(self))
        other._begin(write, stop, started)
        other._ready = self._ready._replace(folders=Folders(self._repo.storage, self._repo.modes))
        other._note_start()
        return other

    def is_small(self, line: bytes) -> bool:
        """Whether a request needs no process of its own."""
        try:
            return are_possible() and self.is_for_hub(protocol.parse_request(line))
        except ProtocolError:
            return False

    def is_for_hub(self, request: protocol.Request) -> bool:
        """The same of one that was understood."""
        is_large = isinstance(request, Upload | Download) and request.size > _SMALL
        return not is_large and self._ready is not None and self._ready.store.takes_turns()

    def serve(self, wire: Wire, leaves: Leaves = lambda _request, _line: False) -> None:
        """The conversation, until there is nothing more to say, or another process goes on with it."""
        _serving.set(self)
        state: protocol.State = self._init.operation
        while (line := wire.next()) and not self._stop.is_set():
            try:
                request = protocol.parse_request(line)
            except ProtocolError as error:  # a newer git-lfs may say more than we know
                self._note_unknown(error)
                continue
            try:
                state = protocol.advance(state, request)
            except ProtocolError as error:
                self._note_unknown(error)
                if not isinstance(request, Upload | Download):
                    continue
                request = Unusable(request.oid, str(error))  # who asks for an object waits for an answer
            if isinstance(request, Terminate):
                return
            assert isinstance(request, Upload | Download | Unusable)
            self._handed_over.close()
            if leaves(request, line):
                return
            self._answer(request)
        self._stop.set()

    @property
    def is_busy(self) -> bool:
        """Whether there is an object at hand."""
        return bool(self._oid)

    def tick(self) -> None:
        """Tells git-lfs how far the transfer is, where that has changed, and twice a second that we live."""
        with self._telling:
            if (meter := self._moving) is None:
                return
            if self._breaker and self._breaker.tripped:
                self._halt.set()
            now, done = time.monotonic(), meter.done
            if now - self._told_at > (_TICK_S if done > self._told else _HEARTBEAT_S):
                self._write(protocol.progress(self._oid, max(1, done), done - self._told))
                self._told, self._told_at = done, now

    def leave(self) -> None:
        """The transfer at hand ends as soon as it can."""
        self._halt.set()

    def end(self) -> None:
        """Writes what was done into the record."""
        with self._telling:
            if self._log is None or self._ended:
                return
            self._ended = True
        counts = self._counts
        self._log.info(
            "ended",
            objects=counts.objects,
            bytes=counts.bytes,
            parts=counts.parts,
            skipped=counts.skipped,
            unproven=counts.unproven,
            failed=counts.failed,
            retries=counts.retries,
            seconds=round(time.monotonic() - counts.started, 3),
        )
        if self._outgoing:
            self._outgoing.end()

    def _answer(self, request: Upload | Download | Unusable) -> None:
        """Moves the object, and says how that went."""
        self._oid = request.oid
        try:
            if isinstance(request, Unusable):
                raise ObjectError(f"git-lfs asked for what cannot be: {request.reason}")
            line = self._moved(request)
        except AgentError as error:
            line = protocol.failed(request.oid, self._failure(request, error))
        except Exception as error:  # a fault of ours fails one object, with a sentence, and the others go on
            line = protocol.failed(request.oid, self._failure(request, _unexpected(error)))
        with self._telling:
            self._moving = None
            self._write(line)
        self._oid = ""

    def _note_unknown(self, error: ProtocolError) -> None:
        """Something in the conversation made no sense; it is not answered, since nobody waits for that."""
        self._logger().warning("not understood", message=str(error))

    def _moved(self, request: Upload | Download) -> bytes:
        is_first = not self._connected
        ready = self._connect()
        meter = Meter(request.size, self._halt)
        self._told, self._told_at = 0, time.monotonic()
        self._moving = meter
        if is_first:  # there are credentials: the other workers may start
            self._write(protocol.progress(request.oid, 1, 0))
        started = time.monotonic()
        result = self._transfer(ready, request, meter)
        with self._telling:  # all that is left takes no time
            self._moving = None
        self._count(request, result, meter, time.monotonic() - started)
        done = protocol.progress(request.oid, meter.size, meter.size - self._told)
        if isinstance(result, Path):
            return done + protocol.downloaded(request.oid, _spelled(result))
        if self._counts.objects == 1:
            with suppress(OSError):  # a folder that can't be written: the next push asks no question, or one too many
                ready.cellar.remember_push()
        return done + protocol.uploaded(request.oid)

    def _connect(self) -> Ready:
        """The store, with credentials from the first object on."""
        self._logger()
        if stopped := self._stopped_by():
            raise stopped
        if not self._connected:
            try:
                ready = self._open()
                ready.store.connect()
            except UsageError as error:
                raise SessionError(str(error)) from error
            self._connected = True
            gc.enable()  # the light door turned it off
        assert self._ready
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
        return SessionError(met.message if met.at < self._started else _NOT_TRIED)

    def _open(self) -> Ready:
        """The store, made once."""
        if self._ready:
            return self._ready
        self._logger()
        handover = Handover(self._shared.aws, self._halt) if self._shared else None
        cellar = Cellar(
            self._repo,
            self._init.operation,
            self._init.remote,
            os.environ,
            handover=handover,
            stop=self._halt,
            on_wait=self._note_waiting,
        )
        store, _ = cellar.open(stop=self._halt, notice=self._note_retry, shared=self._shared)
        store.load()
        self._log = self._open_log(cellar)
        self._note_start()
        if profile := cellar.profile_passed_over:
            self._log.info("profile passed over", profile=profile, source=".mlcellar.toml")
        if self._init.operation == "upload":
            from lfs_agent.outgoing import Outgoing  # 4 ms that a download does not pay

            listing = self._shared.listing if self._shared else None
            self._outgoing = Outgoing(cellar, store, listing, self._halt, self._note_saved)
        self._ready = Ready(
            cellar,
            Folders(self._repo.storage, self._repo.modes),
            cellar.limits,
            cellar.settings.streams or max(1, _BUDGET_STREAMS // self._init.concurrent_transfers),
            store,
        )
        gc.freeze()  # what is loaded stays: the first collection need not look through it for 20 ms
        return self._ready

    def _note_saved(self, oid: Oid) -> None:
        self._logger().info("saved", oid=oid)

    def _transfer(self, ready: Ready, request: Upload | Download, meter: Meter) -> "Sent | Path":
        if isinstance(request, Download):
            return download(
                ready.store,
                ready.cellar.key(request.oid),
                request.oid,
                meter,
                ready.folders,
                limits=ready.limits,
                streams=ready.streams,
                hold=self._handed_over,
            )
        assert self._outgoing is not None, "git-lfs asks for one direction"
        return self._outgoing.send(request.oid, self._local(request), meter, ready.folders, ready.limits, ready.streams)

    def _local(self, request: Upload) -> str:
        """The file to send; git-lfs can't spell a path that is not UTF-8, but it is where it always is."""
        if "\ufffd" in request.path and not os.path.exists(request.path):
            return str(self._repo.storage / "objects" / sharded(request.oid))
        if not os.path.isabs(request.path):
            raise LocalError(f"git-lfs named a file that is not absolute: {request.path[:200]!r}")
        return request.path

    def _count(self, request: Upload | Download, result: "Sent | Path", meter: Meter, seconds: float) -> None:
        how, proven = ("downloaded", True) if isinstance(result, Path) else (result.how, result.proven)
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

    def _note_waiting(self, message: str) -> None:
        self._logger().warning("waiting", message=message)

    def _note_retry(self, what: str, reason: AgentError, wait_s: float) -> None:
        worker = _serving.get(self)  # one of those that share the store
        worker._counts.retries += 1
        of = {"oid": worker._oid} if worker._oid and what != "list" else {}  # what is asked for beside is for all
        self._logger().warning("retry", **of, what=what, message=str(reason), wait_s=round(wait_s, 2))

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
            self._shared = SessionFiles(self._repo.storage / "lfs-agent" / "sessions", session, self._init.remote)
            self._breaker = Breaker(self._shared.cause)
            record = log.Lines(self._shared.record, RECORD_LIMIT, self._repo.modes)
            with suppress(OSError):  # without a record, too, all goes on
                self._repo.modes.make(self._shared.folder)
        if cellar is None:
            return log.Log(record, None, None, **bound)
        settings = cellar.settings
        opened = log.Log(record, settings.logs_from, settings.log_file, store=str(cellar.target), **bound)
        sweep(cellar.state_dir, session)
        sweep_stale(Folders(self._repo.storage, self._repo.modes).incomplete)
        return opened

    def _note_start(self) -> None:
        workers = self._init.concurrent_transfers
        self._logger().info("started", version=__version__, pid=os.getpid(), workers=workers)


def _spelled(path: Path) -> str:
    """The path in UTF-8, as git-lfs needs it: where it can't be, from the folder that git-lfs started us in.

    Raises LocalError where neither can.
    """
    for spell in (str, os.path.relpath):
        with suppress(UnicodeEncodeError):
            spelled = spell(path)
            spelled.encode()
            return spelled
    raise LocalError(f"git-lfs cannot spell {path.parent}, which is not UTF-8: let lfs.storage name another folder")


def _unexpected(error: BaseException) -> AgentError:
    unexpected = ObjectError(f"unexpected {type(error).__name__}: {error}; please report it")
    return out_of_threads(error) or unexpected
