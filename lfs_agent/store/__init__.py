"""What a store is: `Store`, the face that transfers and `verify` see; `Uploads` and `Stock`, what is left in one."""

from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from typing import Any, Literal, NamedTuple, Protocol

from lfs_agent.parts import Part
from lfs_agent.pointer import Oid

Replacing = Literal["never", "whole", "parts"]
"""How a store puts an object in the place of exactly the one that was judged: not at all, in one piece, or in parts."""

Chunk = bytes | memoryview
Write = Callable[[int, Chunk], None]
"""Takes a chunk of an object, which holds until it returns, and the offset in the object where it belongs."""


class ObjectStat(NamedTuple):
    """What a store says of a key, without its content. `size` in bytes; `etag` is "" where there is none."""

    key: str
    size: int
    etag: str = ""
    sha256: str = ""
    """The SHA-256 of the whole object in hex, where the store itself computed it; else ""."""
    crc32c: str = ""
    """The CRC-32C of the whole object in base64, where the store itself computed it; else ""."""
    recorded: str = ""
    """The SHA-256 in hex that whoever stored it wrote beside it; else ""."""
    archived: str = ""
    """Why the object can't be read now, and what to do; "" where it can."""

    def proves(self, oid: Oid) -> bool:
        """Whether the store's own checksum says that this is the object `oid`."""
        return self.sha256 == oid


class Body(Protocol):
    """Bytes to send, readable more than once: `read` gives the next block, of whatever length suits it."""

    def read(self, size: int = -1, /) -> bytes: ...
    def seek(self, offset: int, whence: int = 0, /) -> int: ...
    def tell(self) -> int: ...
    def __len__(self) -> int: ...
    def sending(self) -> None:
        """The store is about to send it (a store may have read it before, to sign it)."""


class Content(BytesIO):
    """A Body of a few bytes."""

    def __len__(self) -> int:
        return len(self.getbuffer())

    def sending(self) -> None:
        pass


class StoredPart(NamedTuple):
    """A part that a store has, of an upload that was broken off. `length` in bytes, `crc32c` in base64 or ""."""

    number: int
    length: int
    etag: str
    crc32c: str


class SentPart(NamedTuple):
    """A part that the store has: `etag` as it gave it, `crc32c` in base64 as we computed it."""

    part: Part
    etag: str
    crc32c: str


class MultipartUpload(Protocol):
    """An object on its way in parts; nothing shows at the key before `complete`."""

    @property
    def token(self) -> str:
        """By which `Store.resume` finds it again; "" where it can't."""

    def put_part(self, part: Part, body: Body, crc32c: str) -> SentPart:
        """Sends one part. Parts may be sent in any order, from several threads."""

    def complete(self, parts: Sequence[SentPart], crc32c: str) -> None:
        """Publishes the object, where nothing is at the key, or what it was begun to replace.

        Raises ConflictError where something else is, or may be: only `Store.stat` can tell.
        """

    def abort(self) -> None:
        """Gives the parts up."""


class Store(Protocol):
    """Objects under keys. Every method may be called from several threads.

    Replaces none but the one whose etag it is given as `replacing`, and that only where `can_replace` says so.

    All methods raise TransientError where asking again may help, DeniedError, or a SessionError.
    """

    def address(self, key: str) -> str:
        """The key as people write it, for messages: `s3://bucket/key`."""

    def identity(self, key: str) -> str:
        """The key with all that decides which object it is: whose store, and as whom it is used."""

    def load(self) -> None:
        """Loads the modules that requests need, for all processes that are forked after that."""

    def takes_turns(self) -> bool:
        """Whether a task that waits for an answer lets others go on (`Turns`), as far as that is known."""

    def connect(self) -> None:
        """Makes ready what the first request needs (credentials, mostly), without a request to the store."""

    def stat(self, key: str) -> ObjectStat | None:
        """What is at `key`; None where nothing is."""

    def listed(self, prefix: str, after: str = "") -> tuple[list[ObjectStat], str]:
        """A page of what is at keys that begin with `prefix`, and behind which key the next one begins; "" at the end.

        Without checksums. Raises UnsupportedError where a list is no cheaper than `stat`.
        """

    def can_replace(self, key: str) -> Replacing:
        """What is known of the store, or found out without harm to what is at `key`."""

    def put(self, key: str, oid: Oid, body: Body, replacing: str = "") -> bool:
        """Stores `body` at `key`, if its SHA-256 is `oid` and nothing is there; whether the store has proven that.

        Raises ConflictError where something (else) is, or may be: only `stat` can tell; DamagedError where the store
        took something else than was sent.
        """

    def begin(self, key: str, oid: Oid, size: int, replacing: str = "") -> MultipartUpload:
        """Starts an object of `size` bytes in parts."""

    def resume(
        self, key: str, size: int, token: str, replacing: str = ""
    ) -> tuple[MultipartUpload, list[StoredPart]] | None:
        """An upload that was begun before, and its parts; None where it is gone, or can't be asked for."""

    def fetch(self, key: str, start: int, stop: int, write: Write, etag: str = "") -> ObjectStat:
        """Hands bytes `start` to `stop` of the object to `write`, in order; its size and etag come back.

        With `etag`, only of that very object: DamagedError where it was replaced meanwhile.
        Raises MissingError, ArchivedError.
        """


Marker = tuple[str, str]
"""Where a list of uploads goes on: behind which key, and which upload to it."""


class Unfinished(NamedTuple):
    """An upload in parts that is not finished."""

    key: str
    upload_id: str
    begun: float | None
    """Seconds since the epoch; None where the store does not keep it."""


class Progress(NamedTuple):
    """How far an upload has come: `parts` of together `size` bytes."""

    parts: int
    size: int
    newest: float
    """When its newest part came, or it was begun where it has none: seconds since the epoch."""
    age_s: float
    """Seconds since then, by the store's own clock."""


class Uploads(Protocol):
    """The unfinished uploads to a store, below one prefix. Raises what a Store raises; usable from several threads."""

    def address(self, key: str) -> str:
        """As `Store.address`."""

    def connect(self) -> None:
        """As `Store.connect`."""

    def listed(self, after: Marker | None) -> tuple[list[Unfinished], Marker | None]:
        """A page of them, by key, and where the next begins; None for the first, and at the end."""

    def progress(self, upload: Unfinished) -> Progress | None:
        """How far it has come; None where it is gone: finished, or given up."""

    def abort(self, upload: Unfinished) -> None:
        """Gives it up, with its parts; it may be gone already."""


class Stored(NamedTuple):
    """What lies at a key. `size` in bytes; `modified`: when it was written, by the store's clock, in whole seconds."""

    key: str
    size: int
    etag: str
    modified: int


class Stock(Protocol):
    """All that lies in a store, and may be taken away. Raises what a Store raises; usable from several threads."""

    def address(self, key: str) -> str:
        """As `Store.address`."""

    def connect(self) -> None:
        """As `Store.connect`."""

    def now(self) -> float:
        """The time by the store's own clock, in seconds since the epoch; ours, until it has answered."""

    def listed(self, prefix: str, after: str = "") -> tuple[list[Stored], str]:
        """A page of what is at keys that begin with `prefix`, and where the next begins; "" at the end.

        The prefix is "" or ends with a slash. The order is the store's own; each key is on one page.
        """

    def look(self, key: str) -> Stored | None:
        """What is at `key`; None where nothing is."""

    def delete(self, key: str, etag: str) -> bool:
        """Deletes what is at the key, where it still has that etag; whether the store keeps it as an old version.

        Asked once: whether a TransientError has deleted something, only a look can tell. Raises ConflictError where
        something else is there, MissingError where nothing is. A store that knows no conditions deletes anyhow.
        """


Aspect = Literal["versioning", "public access block", "lifecycle", "encryption"]


class Configured(Protocol):
    """A bucket with what can be set of it, in the words of boto3. Raises what a Store raises."""

    def exists(self) -> bool:
        """Whether it is there; it may be somebody else's."""

    def create(self) -> None:
        """Makes it, in the region that requests are signed for."""

    def configuration(self, aspect: Aspect) -> Mapping[str, Any]:
        """What is set; empty where nothing is."""

    def configure(self, aspect: Aspect, parameters: Mapping[str, Any]) -> None:
        """Sets it."""
