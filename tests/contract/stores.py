"""Stores to test with: a Store in a dict, one that fails when it is told to, and S3 stores on the tests' servers."""

import base64
import hashlib
import random
import threading
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from google_crc32c import value

from lfs_agent.config import Settings
from lfs_agent.errors import AgentError, BucketError, ConflictError, DamagedError, MissingError, TransientError
from lfs_agent.parts import MIB, Limits, Part
from lfs_agent.pointer import Oid
from lfs_agent.retry import Patience, RetryingStore
from lfs_agent.session import Budget
from lfs_agent.store import Body, Chunk, MultipartUpload, ObjectStat, Replacing, SentPart, Store, StoredPart, Write
from lfs_agent.store.aws import Aws
from lfs_agent.store.connection import Connection
from lfs_agent.store.s3 import S3Store
from tests.servers import Server

SMALL_PARTS = Limits(part_size=5 * MIB)
"""The smallest parts that S3 allows."""


@cache
def content(size: int, seed: int = 0) -> bytes:
    """Bytes that do not repeat, the same every time."""
    return random.Random(seed).randbytes(size)


def oid_of(data: bytes) -> Oid:
    return Oid(hashlib.sha256(data).hexdigest())


def crc_of(data: bytes) -> str:
    """CRC-32C in base64."""
    return base64.b64encode(value(data).to_bytes(4)).decode()


class BytesBody:
    """A Body in memory, handed out in blocks."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    def __len__(self) -> int:
        return len(self._data)

    def read(self, size: int = -1, /) -> bytes:
        block = self._data[self._position : self._position + 65536]
        self._position += len(block)
        return block

    def seek(self, offset: int, whence: int = 0, /) -> int:
        self._position = offset + {0: 0, 1: self._position, 2: len(self._data)}[whence]
        return self._position

    def tell(self) -> int:
        return self._position

    def sending(self) -> None:
        pass


def read(store: Store, key: str, start: int, stop: int, etag: str = "") -> tuple[ObjectStat, bytes]:
    """What the store hands over, which has to come in order."""
    got = bytearray()

    def write(offset: int, chunk: Chunk) -> None:
        assert offset == start + len(got)
        got.extend(chunk)

    return store.fetch(key, start, stop, write, etag), bytes(got)


def put_parts(upload: MultipartUpload, data: bytes, part_size: int = 5 * MIB) -> list[SentPart]:
    """All parts, the last one first."""
    parts = [
        Part(number, offset, min(part_size, len(data) - offset))
        for number, offset in enumerate(range(0, len(data), part_size), 1)
    ]
    return [
        upload.put_part(part, BytesBody(piece := data[part.offset : part.offset + part.length]), crc_of(piece))
        for part in reversed(parts)
    ]


# A Store in a dict


class DictStore:
    """A Store whose keys are those of `objects`; all that S3 promises, without S3."""

    def __init__(self, *, missing: bool = False) -> None:
        self.objects: dict[str, bytes] = {}
        self.uploads: list[DictUpload] = []
        self.missing = missing
        """There is no such bucket."""
        self.lock = threading.Lock()  # between the look and the publication

    def address(self, key: str) -> str:
        return f"dict://{key}"

    def identity(self, key: str) -> str:
        return self.address(key)

    def load(self) -> None:
        pass

    def takes_turns(self) -> bool:
        return False

    def connect(self) -> None:
        if self.missing:
            raise BucketError("there is no dict")

    def stat(self, key: str) -> ObjectStat | None:
        self.connect()
        if (data := self.objects.get(key)) is None:
            return None
        return ObjectStat(key, len(data), etag=oid_of(data), sha256=oid_of(data), crc32c=crc_of(data))

    def listed(self, prefix: str, after: str = "") -> tuple[list[ObjectStat], str]:
        self.connect()
        keys = sorted(key for key in self.objects if key.startswith(prefix) and key > after)
        page = [ObjectStat(key, len(self.objects[key])) for key in keys[:3]]
        return page, page[-1].key if len(keys) > 3 else ""

    def can_replace(self, key: str) -> Replacing:
        return "parts"

    def put(self, key: str, oid: Oid, body: Body, replacing: str = "") -> bool:
        data = self._received(body)
        if oid_of(data) != oid:
            raise TransientError("400 BadDigest", heard=True)
        self._publish(key, data, replacing)
        return True

    def begin(self, key: str, oid: Oid, size: int, replacing: str = "") -> "DictUpload":
        self.connect()
        upload = DictUpload(self, key, size, replacing)
        self.uploads.append(upload)
        return upload

    def resume(
        self, key: str, size: int, token: str, replacing: str = ""
    ) -> "tuple[DictUpload, list[StoredPart]] | None":
        upload = next((upload for upload in self.uploads if upload.token == token), None)
        return (upload, upload.stored()) if upload else None

    def fetch(self, key: str, start: int, stop: int, write: Write, etag: str = "") -> ObjectStat:
        if (found := self.stat(key)) is None:
            raise MissingError(f"404: there is no {self.address(key)}")
        if etag and etag != found.etag:
            raise DamagedError(f"{self.address(key)} was replaced while it was read")
        wanted = self.objects[key][start:stop]
        for offset in range(0, len(wanted), 65536):
            write(start + offset, wanted[offset : offset + 65536])
        return found

    def _received(self, body: Body) -> bytes:
        self.connect()
        body.seek(0)
        body.sending()
        return b"".join(iter(lambda: body.read(65536), b""))

    def _publish(self, key: str, data: bytes, replacing: str) -> None:
        with self.lock:
            found = self.objects.get(key)
            if (oid_of(found) if found is not None else "") != replacing:
                raise ConflictError(f"412 {self.address(key)}")
            self.objects[key] = data


class DictUpload:
    """A MultipartUpload to a DictStore."""

    def __init__(self, store: DictStore, key: str, size: int, replacing: str) -> None:
        self._store = store
        self._replacing = replacing
        self._key = key
        self._size = size
        self._parts: dict[int, bytes] = {}
        self.token = uuid.uuid4().hex

    def stored(self) -> list[StoredPart]:
        return [StoredPart(n, len(data), oid_of(data), crc_of(data)) for n, data in self._parts.items()]

    def put_part(self, part: Part, body: Body, crc32c: str) -> SentPart:
        data = self._store._received(body)
        if len(data) != part.length or crc_of(data) != crc32c:
            raise TransientError("400 BadDigest", heard=True)
        self._parts[part.number] = data
        return SentPart(part, oid_of(data), crc32c)

    def complete(self, parts: Sequence[SentPart], crc32c: str) -> None:
        if self not in self._store.uploads:
            raise ConflictError("404 NoSuchUpload")
        whole = b"".join(self._parts[sent.part.number] for sent in sorted(parts, key=lambda sent: sent.part.number))
        if len(whole) != self._size or crc_of(whole) != crc32c:
            raise DamagedError("400 BadDigest")
        self._store._publish(self._key, whole, self._replacing)
        self.abort()

    def abort(self) -> None:
        if self in self._store.uploads:
            self._store.uploads.remove(self)


# A Store that fails


class FlakyStore:
    """A Store around a Store: before each call it raises the next of `failures`, where that is not None."""

    def __init__(self, store: Store, failures: Sequence[BaseException | None]) -> None:
        self._store = store
        self._failures: Iterator[BaseException | None] = iter(failures)
        self.calls: list[str] = []

    def _next(self, call: str) -> None:
        self.calls.append(call)
        if failure := next(self._failures, None):
            raise failure

    def address(self, key: str) -> str:
        return self._store.address(key)

    def identity(self, key: str) -> str:
        return self._store.identity(key)

    def load(self) -> None:
        self._store.load()

    def takes_turns(self) -> bool:
        return self._store.takes_turns()

    def connect(self) -> None:
        self._store.connect()

    def stat(self, key: str) -> ObjectStat | None:
        self._next("stat")
        return self._store.stat(key)

    def listed(self, prefix: str, after: str = "") -> tuple[list[ObjectStat], str]:
        self._next("list")
        return self._store.listed(prefix, after)

    def can_replace(self, key: str) -> Replacing:
        self._next("can replace")
        return self._store.can_replace(key)

    def put(self, key: str, oid: Oid, body: Body, replacing: str = "") -> bool:
        self._next("put")
        return self._store.put(key, oid, body, replacing)

    def begin(self, key: str, oid: Oid, size: int, replacing: str = "") -> MultipartUpload:
        self._next("begin")
        return _FlakyUpload(self, self._store.begin(key, oid, size, replacing))

    def resume(
        self, key: str, size: int, token: str, replacing: str = ""
    ) -> tuple[MultipartUpload, list[StoredPart]] | None:
        self._next("resume")
        found = self._store.resume(key, size, token, replacing)
        return (_FlakyUpload(self, found[0]), found[1]) if found else None

    def fetch(self, key: str, start: int, stop: int, write: Write, etag: str = "") -> ObjectStat:
        """Breaks off in the middle, where it fails."""
        self.calls.append(f"fetch {start}-{stop}")
        if failure := next(self._failures, None):
            self._store.fetch(key, start, (start + stop) // 2, write, etag)
            raise failure
        return self._store.fetch(key, start, stop, write, etag)


@dataclass
class _FlakyUpload:
    flaky: FlakyStore
    upload: MultipartUpload

    @property
    def token(self) -> str:
        return self.upload.token

    def put_part(self, part: Part, body: Body, crc32c: str) -> SentPart:
        self.flaky._next(f"part {part.number}")
        return self.upload.put_part(part, body, crc32c)

    def complete(self, parts: Sequence[SentPart], crc32c: str) -> None:
        self.flaky._next("complete")
        self.upload.complete(parts, crc32c)

    def abort(self) -> None:
        self.flaky._next("abort")
        self.upload.abort()


class Notices:
    """Collects what a Patience tells of its repetitions."""

    def __init__(self) -> None:
        self.reasons: list[AgentError] = []
        self.waits_s: list[float] = []

    def __call__(self, what: str, reason: AgentError, wait_s: float) -> None:
        self.reasons.append(reason)
        self.waits_s.append(wait_s)


def patience(
    *,
    first_deadline_s: float = 5.0,
    deadline_s: float = 20.0,
    retries: int = 1000,
    stop: threading.Event | None = None,
    notices: Notices | None = None,
) -> Patience:
    return Patience(
        first_deadline_s=first_deadline_s,
        deadline_s=deadline_s,
        budget=Budget(retries),
        stop=stop or threading.Event(),
        notice=notices,
    )


def retrying(store: Store, **settings: Any) -> RetryingStore:
    return RetryingStore(store, patience(**settings))


# S3


@cache
def aws_of(access_key: str, secret_key: str) -> Aws:
    """An environment with these keys, and nothing else."""
    files = {"AWS_CONFIG_FILE": "/nowhere/config", "AWS_SHARED_CREDENTIALS_FILE": "/nowhere/credentials"}
    return Aws(Settings(), {"AWS_ACCESS_KEY_ID": access_key, "AWS_SECRET_ACCESS_KEY": secret_key, **files})


def s3_store(
    server: Server,
    bucket: str,
    *,
    endpoint: str = "",
    secret_key: str = "",
    abilities: Path | None = None,
    lean: bool = True,
    **settings: Any,
) -> S3Store:
    """A store in `bucket`, at `endpoint` where something stands between. `settings`: fields of Settings."""
    connection = Connection(
        aws=aws_of(server.access_key, secret_key or server.secret_key),
        endpoint=endpoint or server.endpoint,
        region=server.region,
        path_style=True,
        profile="",
        ca="",
        proxy="",
        lean=lean,
    )
    return S3Store(bucket, connection, Settings(**settings), abilities=abilities)
