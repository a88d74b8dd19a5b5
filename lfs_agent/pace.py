"""`PacedStore`: a store with the same face that keeps to a bandwidth."""

import threading
from collections.abc import Sequence

from lfs_agent.parts import Part
from lfs_agent.pointer import Oid
from lfs_agent.session import Bandwidth
from lfs_agent.store import Body, Chunk, MultipartUpload, ObjectStat, Replacing, SentPart, Store, StoredPart, Write


class PacedStore:
    """A Store around a Store that asks again: what is sent twice counts twice."""

    def __init__(self, store: Store, bandwidth: Bandwidth, stop: threading.Event) -> None:
        self._store = store
        self._bandwidth = bandwidth
        self._stop = stop

    def address(self, key: str) -> str:
        return self._store.address(key)

    def identity(self, key: str) -> str:
        return self._store.identity(key)

    def load(self) -> None:
        self._store.load()

    def takes_turns(self) -> bool:
        return False  # it waits where libcurl asks for more

    def connect(self) -> None:
        self._store.connect()

    def stat(self, key: str) -> ObjectStat | None:
        return self._store.stat(key)

    def listed(self, prefix: str, after: str = "") -> tuple[list[ObjectStat], str]:
        return self._store.listed(prefix, after)

    def can_replace(self, key: str) -> Replacing:
        return self._store.can_replace(key)

    def put(self, key: str, oid: Oid, body: Body, replacing: str = "") -> bool:
        return self._store.put(key, oid, _PacedBody(body, self._bandwidth, self._stop), replacing)

    def begin(self, key: str, oid: Oid, size: int, replacing: str = "") -> MultipartUpload:
        return _PacedUpload(self._store.begin(key, oid, size, replacing), self._bandwidth, self._stop)

    def resume(
        self, key: str, size: int, token: str, replacing: str = ""
    ) -> tuple[MultipartUpload, list[StoredPart]] | None:
        found = self._store.resume(key, size, token, replacing)
        return (_PacedUpload(found[0], self._bandwidth, self._stop), found[1]) if found else None

    def fetch(self, key: str, start: int, stop: int, write: Write, etag: str = "") -> ObjectStat:
        def paced(offset: int, chunk: Chunk) -> None:
            self._bandwidth.wait(len(chunk), self._stop)  # until then no more is read, and so no more is sent
            write(offset, chunk)

        return self._store.fetch(key, start, stop, paced, etag)


class _PacedUpload:
    """A MultipartUpload around a MultipartUpload."""

    def __init__(self, upload: MultipartUpload, bandwidth: Bandwidth, stop: threading.Event) -> None:
        self._upload = upload
        self._bandwidth = bandwidth
        self._stop = stop

    @property
    def token(self) -> str:
        return self._upload.token

    def put_part(self, part: Part, body: Body, crc32c: str) -> SentPart:
        return self._upload.put_part(part, _PacedBody(body, self._bandwidth, self._stop), crc32c)

    def complete(self, parts: Sequence[SentPart], crc32c: str) -> None:
        self._upload.complete(parts, crc32c)

    def abort(self) -> None:
        self._upload.abort()


class _PacedBody:
    """A Body around a Body, whose bytes wait for their turn while they are sent.

    The first turn is waited for here: a small first request has only so long until it is answered.
    """

    def __init__(self, body: Body, bandwidth: Bandwidth, stop: threading.Event) -> None:
        self._body = body
        self._bandwidth = bandwidth
        self._stop = stop
        self._sending = False
        self._block = b""
        self._paid = min(len(body), bandwidth.turn)
        bandwidth.wait(self._paid, stop)

    def __len__(self) -> int:
        return len(self._body)

    def sending(self) -> None:
        self._sending = True
        self._body.sending()

    def read(self, size: int = -1, /) -> bytes:
        block = self._block or self._body.read(size)
        if not self._sending:
            return block
        taken, self._block = block[: self._bandwidth.turn], block[self._bandwidth.turn :]
        paid = min(self._paid, len(taken))
        self._paid -= paid
        self._bandwidth.wait(len(taken) - paid, self._stop)
        return taken

    def seek(self, offset: int, whence: int = 0, /) -> int:
        self._sending, self._block = False, b""
        return self._body.seek(offset, whence)

    def tell(self) -> int:
        return self._body.tell() - len(self._block)
