"""`Ledger`: what those who share a store tell each other in it, in small files that no object's key can clash with."""

import hashlib
import json
import math
import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple
from urllib.parse import urlsplit, urlunsplit

from lfs_agent import log
from lfs_agent.errors import (
    ConflictError,
    DeniedError,
    DiskError,
    MissingError,
    ObjectError,
    StoppedError,
    UnsupportedError,
)
from lfs_agent.layout import RESERVED, below
from lfs_agent.lease import lease
from lfs_agent.modes import Modes
from lfs_agent.pointer import Oid, parse_oid
from lfs_agent.session import Moment, name_user
from lfs_agent.store import Content, ObjectStat, Stock, Store, Stored
from lfs_agent.turns import Flag, Mutex

STALE_S: Final = 3600.0
"""After so long nobody is at work on a deletion that was begun: it is sent within a minute, or not at all."""

_VERSION: Final = 1
_MOST: Final = 64 << 20
"""Bytes of what is read of a ledger's file."""
_TRIES: Final = 3
_REGISTERED_FOR_S: Final = 600.0
"""So long a clone believes that it is registered; then it says so again: somebody may have taken it out, or made the
bucket anew, and what is pushed after that would be nobody's."""
_LOOK_EVERY_S: Final = 10.0
"""So often whoever pushes many objects looks whether it is time."""
_MARKS_FOR_S: Final = 600.0
"""So long what was read of the marks is believed."""
_WAIT_S: Final = 15.0
_ENDS_FOR_S: Final = 0.5
_POLL_S: Final = 0.5
_RUN: Final = r"[0-9a-f]{16}"


class Mark(NamedTuple):
    """An object that no repository named when a gc looked, and that may go after a while.

    `size` in bytes; `modified`, `marked`: seconds since the epoch by the store's clock. `run`: the gc that marked it.
    """

    oid: Oid
    size: int
    etag: str
    modified: int
    run: str
    marked: int


class Marks(NamedTuple):
    """All that are marked. `etag`: of the file that says so, "" where there is none."""

    marks: Sequence[Mark]
    etag: str = ""


class Note(NamedTuple):
    """What becomes of a marked object: a push keeps it, or a gc deletes it. Whoever writes it first decides."""

    state: Literal["saved", "deleting"]
    by: str
    at: str


class Registration(NamedTuple):
    """A repository whose objects are in the store. `url`: as others may read it; `since`: UTC, ISO 8601."""

    url: str
    since: str
    by: str


class Ledger:
    """The files below `<prefix>/.lfs-agent/` of one store. Usable from several threads."""

    def __init__(self, store: Store, prefix: str) -> None:
        self._store = store
        self.root: Final = f"{below(prefix)}{RESERVED}/"

    def address(self, key: str) -> str:
        """As `Store.address`."""
        return self._store.address(key)

    def is_there(self, key: str) -> bool:
        """Whether anything is at the key."""
        return self._store.stat(key) is not None

    def at(self, prefix: str) -> "Ledger":
        """That of another prefix in the same store."""
        return Ledger(self._store, prefix)

    # Repositories

    @property
    def repositories(self) -> str:
        """Where they are registered: what their keys begin with."""
        return f"{self.root}repositories/"

    def repository_key(self, url: str) -> str:
        """Where a repository is registered."""
        return f"{self.repositories}{hashlib.sha256(url.encode(errors='surrogateescape')).hexdigest()}.json"

    def register(self, url: str, *, again: bool = False) -> bool:
        """Says that the repository is here; False where it was said already.

        `again`: it was, by this clone: mostly it is enough to look.
        """
        key = self.repository_key(url)
        if again and self._read(key):
            return False
        content = _dump(Registration(url, _now(), name_user())._asdict())
        try:
            if self._first(key, content) is not None:
                return False
        except ConflictError:  # something is there, and who may not read need not
            return False
        with suppress(ObjectError):  # a store that refuses to replace what is there is known by that from now on
            self._store.put(key, _name(content), Content(content))
        return True

    def is_registered(self, url: str) -> bool:
        """Whether anybody has said that the repository is here; False also for who may not read it."""
        return self._read(self.repository_key(url)) is not None

    def registration(self, key: str) -> Registration | None:
        """What is registered at the key; None where it was taken out meanwhile.

        Raises ObjectError where it is nothing that `register` has written.
        """
        found = self._read(key)
        if found is None:
            return None
        fields = _fields(found[0])
        entry = Registration(fields.get("url", ""), fields.get("since", ""), fields.get("by", ""))
        if not entry.url or self.repository_key(entry.url) != key:
            raise ObjectError(f"{self.address(key)} registers no repository: look at it, and delete it")
        return entry

    # Marks

    @property
    def marks_key(self) -> str:
        return f"{self.root}gc/marks.jsonl"

    def marks(self) -> Marks:
        """All that are marked now.

        Raises ObjectError where the file is none of ours, or may not be read.
        """
        try:
            found = self._fetched(self.marks_key)
        except DeniedError:
            if self._is_listed(self.marks_key):  # who sees the objects would take what is marked for what stays
                raise
            found = None
        if found is None:
            return Marks([])
        content, stat = found
        try:
            heading, *lines = content.splitlines()
            if json.loads(heading)["version"] != _VERSION:
                raise ValueError("another version")
            return Marks([_mark(json.loads(line)) for line in lines], stat.etag)
        except (ValueError, LookupError, TypeError) as error:
            raise ObjectError(
                f"{self.address(self.marks_key)} is no list of marks that this version can read ({error}): a newer "
                "lfs-agent may have written it; if not, look at it, and delete it"
            ) from error

    def replace_marks(self, marks: Iterable[Mark], found: Marks) -> None:
        """Writes them, in the place of those that were found.

        Raises ConflictError where somebody else has written meanwhile, UnsupportedError where the store can't tell.
        """
        if found.etag and self._store.can_replace(self.marks_key) == "never":
            raise UnsupportedError(
                f"{self.address(self.marks_key)}: this store can't be held to replace only what was read: two that "
                "clean up at once would undo each other's work, and nothing is marked or deleted"
            )
        heading = _dump({"version": _VERSION, "by": name_user(), "at": _now()})
        content = b"\n".join([heading, *(_dump(mark._asdict()) for mark in marks)]) + b"\n"
        self._store.put(self.marks_key, _name(content), Content(content), found.etag)

    # Notes

    @property
    def notes(self) -> str:
        """What the keys of all notes begin with."""
        return f"{self.root}gc/notes/"

    def note_key(self, run: str, oid: Oid, turn: int) -> str:
        """Where the note about a mark is; that of a second turn counts where the first was left behind by a kill."""
        return f"{self.notes}{run}/{oid}.{turn}"

    def decide(
        self, mark: tuple[str, Oid], state: Literal["saved", "deleting"], age_s: Callable[[str], float | None]
    ) -> "Note | None":
        """Decides about a marked object; None where that has succeeded, else who was first.

        `mark`: its run and oid; `age_s`: of a note, by the store's clock, None where it is gone.
        """
        run, oid = mark
        for turn in count(1):
            key = self.note_key(run, oid, turn)
            note = self._noted(key, state)
            if note is None or note.state == "saved":
                return note
            age = age_s(key)
            if age is not None and age < STALE_S:
                return note
        raise AssertionError("unreachable")

    def _noted(self, key: str, state: Literal["saved", "deleting"]) -> Note | None:
        unique = {**Note(state, name_user(), _now())._asdict(), "id": os.urandom(8).hex()}
        if (first := self._first(key, _dump(unique))) is None:
            return None
        fields = _fields(first)
        # What is neither is no promise to delete, and keeps everybody from deleting.
        said: Literal["saved", "deleting"] = "deleting" if fields.get("state") == "deleting" else "saved"
        return Note(said, fields.get("by", ""), fields.get("at", ""))

    # Files

    def _first(self, key: str, content: bytes) -> bytes | None:
        """Writes where nothing is; None where it is ours now, else what was there first.

        Raises ConflictError where something is, and can't be read.
        """
        for attempt in range(_TRIES):
            try:
                self._store.put(key, _name(content), Content(content))
                return None
            except ConflictError:
                if found := self._read(key):
                    return None if found[0] == content else found[0]  # of ours the answer was lost
                if attempt == _TRIES - 1:
                    raise
        raise AssertionError("unreachable")

    def _is_listed(self, key: str) -> bool:
        """Whether the store lists the key; False also for who may not ask for a list."""
        try:
            found, _ = self._store.listed(key)
        except UnsupportedError:  # a folder says what is missing, and what may not be read
            return True
        except DeniedError:
            return False
        return any(stat.key == key for stat in found)

    def _read(self, key: str) -> tuple[bytes, ObjectStat] | None:
        """Content and ETag; None where nothing is there."""
        try:
            return self._fetched(key)
        except DeniedError:
            # Without s3:ListBucket a missing key is forbidden, not missing; who may read nothing never skips an object.
            return None

    def _fetched(self, key: str) -> tuple[bytes, ObjectStat] | None:
        """As `_read`, for who wants to know of a DeniedError."""
        content = bytearray()
        try:
            stat = self._store.fetch(key, 0, _MOST, lambda offset, chunk: content.extend(chunk))
        except MissingError:
            return None
        if len(content) != stat.size:
            raise ObjectError(f"{self.address(key)} has {stat.size} bytes: that is none of ours; look at it")
        return bytes(content), stat


class Keeper:
    """Sees to it that no gc deletes what a push leaves in the store, since it is there already.

    `open_stock`: opened only where a deletion was begun. `on_saved` is told of each object that was marked.
    """

    def __init__(
        self,
        ledger: Ledger,
        key: Callable[[Oid], str],
        open_stock: Callable[[], Stock],
        stop: threading.Event,
        on_saved: Callable[[Oid], None] = lambda oid: None,
    ) -> None:
        self._ledger = ledger
        self._key = key
        self._open_stock = open_stock
        self._stop = stop
        self._on_saved = on_saved
        self._reading = Mutex()  # of the three below: one thread reads the marks for all
        self._read_at: Moment | None = None
        self._any_gc = False
        """Whether there has ever been one at this store: the list of marks stays, even when nothing is marked."""
        self._marks: dict[bytes, tuple[str, int]] = {}
        """The run, and when the object was stored that it marked."""

    def read(self) -> None:
        """Reads the marks, unless that was done a moment ago."""
        with self._reading:
            if not self._read_at or not self._read_at.is_within(_MARKS_FOR_S):
                found = self._ledger.marks()
                self._any_gc = bool(found.etag)
                self._marks = {bytes.fromhex(mark.oid): (mark.run, mark.modified) for mark in found.marks}
                self._read_at = Moment.now()

    def marked(self, oid: Oid) -> bool:
        """Whether a gc has marked the object."""
        return self._mark(oid) is not None

    def _mark(self, oid: Oid) -> tuple[str, int] | None:
        self.read()
        return self._marks.get(bytes.fromhex(oid))

    def keep(self, oid: Oid, seen_at: float) -> bool:
        """Whether the object, which was in the store at that time.monotonic(), stays there; else it is gone now.

        Raises ObjectError where a gc is deleting it and has not come to an end.
        """
        if (mark := self._mark(oid)) is None:
            # A gc may have deleted it, and taken the mark away, before the marks were read.
            assert self._read_at, "they were just read"
            return not self._any_gc or seen_at > self._read_at.monotonic or self._ledger.is_there(self._key(oid))
        run, modified = mark
        stock: list[Stock] = []

        def opened() -> Stock:
            if not stock:
                stock.append(self._open_stock())
                stock[0].connect()
            return stock[0]

        note = self._ledger.decide((run, oid), "saved", lambda key: age_of(opened(), key))
        if note is None or note.state == "saved":
            self._on_saved(oid)
            return True
        if (left := self._left(opened(), oid, modified)) is None:
            return False
        if left.modified != modified:  # a deletion is sent once: what was stored after it stays
            return True
        raise ObjectError(
            f"{self._ledger.address(self._key(oid))} is just being deleted by lfs-agent gc (by {note.by}, {note.at}): "
            "push again in a few minutes; if that gc was killed, in an hour"
        )

    def _left(self, stock: Stock, oid: Oid, modified: int) -> Stored | None:
        """What is at the object's key, as soon as it is not the one stored at `modified`, or after a while."""
        until = time.monotonic() + _WAIT_S
        while (found := stock.look(self._key(oid))) and found.modified == modified and time.monotonic() < until:
            if self._stop.wait(_POLL_S):
                raise StoppedError("stopped")
        return found


def age_of(stock: Stock, key: str) -> float | None:
    """How long ago the key was written, in seconds, by the store's clock; None where nothing is there."""
    found = stock.look(key)
    return None if found is None else stock.now() - found.modified


class Registrar:
    """Registers the repositories that a clone pushes to, before a push has succeeded.

    `memory`: a folder of the clone for what has been said; `place`: which store, with all that decides that, which
    is known when there are credentials. `looks`: the memory is believed only where the store has it, too: somebody may
    have made it anew a moment ago, and brings back what it had.
    """

    def __init__(
        self,
        ledger: Ledger,
        urls: Sequence[str],
        memory: Path,
        place: Callable[[], str],
        modes: Modes,
        *,
        looks: bool = False,
    ) -> None:
        self._ledger = ledger
        self._urls = urls
        self._memory = memory
        self._of = place
        self._modes = modes
        self._looks = looks
        self._looked: Moment | None = None
        self._beside: Flag | None = None
        """Set when the thread that was begun has ended."""
        self._failure: BaseException | None = None
        """What has ended that thread."""

    @cached_property
    def _place(self) -> str:
        return self._of()

    @cached_property
    def _memories(self) -> dict[str, Path]:
        names = {url: f"{self._place}\n{url}".encode(errors="surrogateescape") for url in self._urls}
        return {url: self._memory / hashlib.sha256(name).hexdigest()[:32] for url, name in names.items()}

    def begin(self, stop: threading.Event) -> None:
        """Lets a thread do what `register` would, which waits for it: beside what is done until then.

        For one thread, as is `register` where this is used.
        """
        if self._beside and not self._beside.is_set():  # it was begun beside another object
            return
        self._beside = self._failure = None
        if not self._has_looked() and (self._looks or not all(map(_is_fresh, self._memories.values()))):
            over = Flag()
            threading.Thread(target=self._try, args=(stop, over), daemon=True).start()
            self._beside = over  # only now: where no thread can be had, nobody would ever set it

    def _try(self, stop: threading.Event, over: Flag) -> None:
        try:
            self._register(stop)
        except BaseException as error:
            self._failure = error
        over.set()

    def register(self, stop: threading.Event) -> None:
        """Nothing, where that was done a moment ago.

        Raises ObjectError where it can't be said: then nothing may count as stored.
        """
        if self._beside:
            self._beside.wait()
            self._beside = None
            if self._failure:
                raise self._failure
        self._register(stop)  # what it was done beside may have taken an hour

    def end(self) -> None:
        """Waits for what was begun beside an object that has failed: a moment, so that it leaves nothing half done."""
        if self._beside:
            self._beside.wait(_ENDS_FOR_S)

    def _has_looked(self) -> bool:
        return self._looked is not None and self._looked.is_within(_LOOK_EVERY_S)

    def _register(self, stop: threading.Event) -> None:
        if self._has_looked():
            return
        for url, file in self._memories.items():
            with ExitStack() as stack:
                if self._is_known(url, file):
                    continue
                with suppress(DiskError):  # without a memory it is said again
                    stack.enter_context(lease(file, stop, self._modes))
                if not self._is_known(url, file):  # else another worker was faster
                    self._say(url, again=_said_s(file) < math.inf)
                    with suppress(OSError):
                        file.write_text(f"{self._place}\n{url}\n", errors="surrogateescape")
        self._looked = Moment.now()

    def _is_known(self, url: str, memory: Path) -> bool:
        return _is_fresh(memory) and (not self._looks or self._ledger.is_registered(url))

    def _say(self, url: str, *, again: bool) -> None:
        try:
            self._ledger.register(url, again=again)
        except ObjectError as error:
            raise ObjectError(
                f"this repository could not be registered beside its objects ({error}); unregistered, it could lose "
                "them when another repository that shares the store cleans up (lfs-agent gc)"
            ) from error


def _is_fresh(memory: Path) -> bool:
    return _said_s(memory) < _REGISTERED_FOR_S


def _said_s(memory: Path) -> float:
    """How long ago that was said; endless where it never was."""
    try:
        found = memory.stat()
    except OSError:
        return math.inf
    return abs(time.time() - found.st_mtime) if found.st_size else math.inf


_ADDRESS: Final = re.compile(r"[A-Za-z0-9]+::")
_SCP: Final = re.compile(r"(?:[^/@:\s]+@)?[A-Za-z0-9[][^/:\s]*:(?!:)\S")


def shareable(url: str, top: Path) -> str:
    """A repository's URL as everybody may read it: without a password or a token; a path begins at the root.

    >>> shareable("https://vera:secret@host.example:8443/cellar.git?token=x", Path("/work"))
    'https://host.example:8443/cellar.git'
    >>> shareable("ssh://git:secret@host.example/cellar.git", Path("/work"))
    'ssh://git@host.example/cellar.git'
    >>> shareable("git@host.example:cellar.git", Path("/work")), shareable("../cellar.git", Path("/work"))
    ('git@host.example:cellar.git', '/cellar.git')
    """
    if _ADDRESS.match(url):
        return log.redact(url)
    if "://" in url:
        scheme, netloc, path, _, _ = urlsplit(url)
        login, at, host = netloc.rpartition("@")
        user = login.partition(":")[0] + at if scheme in ("ssh", "git+ssh", "ssh+git") else ""
        return log.redact(urlunsplit((scheme, user + host, path, "", "")))
    if _SCP.match(url):
        return url
    return os.path.normpath(top / url)  # not resolved: a link may lead elsewhere tomorrow


def _mark(fields: Mapping[str, Any]) -> Mark:
    run = str(fields["run"])
    if not re.fullmatch(_RUN, run):
        raise ValueError("a mark without a run")
    return Mark(
        parse_oid(fields["oid"]),
        int(fields["size"]),
        str(fields["etag"]),
        int(fields["modified"]),
        run,
        int(fields["marked"]),
    )


def _fields(content: bytes) -> dict[str, str]:
    try:
        found = json.loads(content)
    except ValueError:
        return {}
    return {name: value for name, value in found.items() if isinstance(value, str)} if isinstance(found, dict) else {}


def _dump(fields: Mapping[str, Any]) -> bytes:
    return json.dumps(fields, separators=(",", ":")).encode()


def _name(content: bytes) -> Oid:
    return Oid(hashlib.sha256(content).hexdigest())


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
