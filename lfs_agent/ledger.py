"""`Ledger`: what those who share a store tell each other in it, in small files that no object's key can clash with."""

import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import count
from typing import Any, Final, Literal, NamedTuple

from lfs_agent.errors import (
    ConflictError,
    DeniedError,
    MissingError,
    ObjectError,
    UnsupportedError,
)
from lfs_agent.layout import RESERVED, below
from lfs_agent.pointer import Oid, parse_oid
from lfs_agent.session import name_user
from lfs_agent.store import Content, ObjectStat, Stock, Store

STALE_S: Final = 3600.0
"""After so long nobody is at work on a deletion that was begun: it is sent within a minute, or not at all."""

_VERSION: Final = 1
_MOST: Final = 64 << 20
"""Bytes of what is read of a ledger's file."""
_TRIES: Final = 3
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


def age_of(stock: Stock, key: str) -> float | None:
    """How long ago the key was written, in seconds, by the store's clock; None where nothing is there."""
    found = stock.look(key)
    return None if found is None else stock.now() - found.modified


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
