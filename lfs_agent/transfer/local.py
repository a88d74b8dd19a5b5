"""The local file of an upload: opened, hashed in one pass, and given to a store as a body to send."""

import base64
import errno
import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Final, cast

from lfs_agent.errors import LocalError, StoppedError
from lfs_agent.modes import StrPath
from lfs_agent.parts import KIB, Part
from lfs_agent.pointer import Oid
from lfs_agent.store import Content
from lfs_agent.transfer.meter import Meter

_BLOCK: Final = 512 * KIB
"""What is read at once, to be hashed twice, and to be sent: a core's own cache has room for it.

Twice as much has none, and boto3's client wants each to be sent within its timeout.
"""


@contextmanager
def opened(path: StrPath, oid: Oid, size: int) -> Iterator[int]:
    """A descriptor of a local object of that size. Raises LocalError."""
    try:
        fd = os.open(path, os.O_RDONLY)
    except OSError as error:
        hint = _HINTS.get(error.errno or 0, "is its disk in order?")
        raise LocalError(f"cannot read the local object {path}: {error.strerror}; {hint}") from error
    try:
        found = os.fstat(fd).st_size
        if found != size:
            raise LocalError(f"the local object {path} has {found} bytes, not {size}: {_MEND}")
        yield fd
    finally:
        os.close(fd)


_HINTS: Final = {
    errno.ENOENT: "try: git lfs fetch",
    errno.EACCES: "does it belong to another user?",
    errno.EMFILE: "raise the limit on open files (ulimit -n)",
    errno.ENFILE: "raise the limit on open files (sysctl fs.file-max)",
}
_MEND: Final = (
    "it is damaged and was not stored; git lfs fsck moves it away; then run git lfs fetch, or, where the work tree has "
    "the file, git add --renormalize FILE"
)


def hash_file(path: Path, oid: Oid, size: int, stop: threading.Event) -> str:
    """The CRC-32C of a local object in base64, of the same pass that has proven its SHA-256.

    Raises LocalError where it is not the object, StoppedError.
    """
    with opened(path, oid, size) as fd:
        hashing = Hashing(fd, Meter(size, stop))
        hashing.take(Part(1, 0, size))
        hashing.check(oid)
        return spell_crc(hashing.crc)


def whole_body(fd: int, oid: Oid, meter: Meter) -> "BlockBody | FileBody":
    """All of an object, to be sent at once: a small one is read once, a larger one once more when it is sent.

    Raises LocalError where it is not the object, StoppedError.
    """
    part = Part(1, 0, meter.size)
    if meter.size <= _BLOCK:
        content = b"".join(_blocks(fd, part, meter))
        _check(hashlib.sha256(content).hexdigest(), oid)
        return BlockBody(content, meter)
    hashing = Hashing(fd, meter)
    crc = hashing.take(part)
    hashing.check(oid)
    return FileBody(fd, part, crc, meter)


class Hashing:
    """The one pass over the file: its SHA-256, and the CRC-32C of each part, from which follows that of all of it."""

    def __init__(self, fd: int, meter: Meter) -> None:
        self._fd = fd
        self._meter = meter
        self._sha256 = hashlib.sha256()
        self._extend = _crc32c()
        self.crc = 0

    def take(self, part: Part) -> int:
        """Hashes the next part; its CRC."""
        crc = 0
        for block in _blocks(self._fd, part, self._meter):
            self._sha256.update(block)
            crc = self._extend(crc, block)
        self.crc = _joined(self.crc, crc, part.length) if part.offset else crc
        return crc

    def check(self, oid: Oid) -> None:
        """LocalError where what was hashed is not the object."""
        _check(self._sha256.hexdigest(), oid)


def _check(digest: str, oid: Oid) -> None:
    if digest != oid:
        raise LocalError(f"the local object {oid} holds something else (SHA-256 {digest}): {_MEND}")


def _crc32c() -> Callable[[int, bytes], int]:
    from google_crc32c import extend  # 4 ms: small objects do without

    return cast("Callable[[int, bytes], int]", extend)


class BlockBody(Content):
    """A small object, to be sent as it was hashed; counts what is sent."""

    def __init__(self, content: bytes, meter: Meter) -> None:
        super().__init__(content)
        self._meter = meter
        self._is_sent = False

    def sending(self) -> None:
        self._is_sent = True

    def read(self, size: int | None = -1, /) -> bytes:
        if self._meter.stop.is_set():
            raise StoppedError("stopped")
        block = super().read(size)
        if self._is_sent:
            self._meter.reached(0, self.tell(), len(block))
        return block

    def seek(self, offset: int, whence: int = 0, /) -> int:
        self._is_sent = False
        return super().seek(offset, whence)


class FileBody:
    """A part of a file, to be sent: a store.Body that counts what is sent, and fails where it has changed."""

    def __init__(self, fd: int, part: Part, crc: int, meter: Meter) -> None:
        self._fd = fd
        self._part = part
        self._crc = crc
        self._extend = _crc32c()
        self._meter = meter
        self._position = 0
        self._sent_crc: int | None = None

    def __len__(self) -> int:
        return self._part.length

    def sending(self) -> None:
        self._sent_crc = 0

    def read(self, size: int = -1, /) -> bytes:
        left = self._part.length - self._position
        if not left:
            return b""
        block = _read(self._fd, min(_BLOCK, left), self._part.offset + self._position, self._meter)
        self._position += len(block)
        if self._sent_crc is not None:
            self._count(block)
        return block

    def _count(self, block: bytes) -> None:
        assert self._sent_crc is not None
        self._sent_crc = self._extend(self._sent_crc, block)
        if self._position == self._part.length and self._sent_crc != self._crc:
            raise LocalError("the local object changed while it was read; nothing was stored: push again")
        offset = self._part.offset
        self._meter.reached(offset, offset + self._position, len(block))

    def seek(self, offset: int, whence: int = 0, /) -> int:
        self._position = offset + {0: 0, 1: self._position, 2: self._part.length}[whence]
        self._sent_crc = None
        return self._position

    def tell(self) -> int:
        return self._position


def md5_of(fd: int, part: Part, meter: Meter) -> str:
    """The MD5 of a part, in hex."""
    digest = hashlib.md5(usedforsecurity=False)
    for block in _blocks(fd, part, meter):
        digest.update(block)
    return digest.hexdigest()


def _blocks(fd: int, part: Part, meter: Meter) -> Iterator[bytes]:
    position, end = part.offset, part.offset + part.length
    while position < end:
        block = _read(fd, min(_BLOCK, end - position), position, meter)
        position += len(block)
        yield block


def _read(fd: int, length: int, offset: int, meter: Meter) -> bytes:
    if meter.stop.is_set():
        raise StoppedError("stopped")
    try:
        block = os.pread(fd, length, offset)
    except OSError as error:
        raise LocalError(f"cannot read the local object: {error.strerror}") from error
    if not block:
        raise LocalError("the local object was truncated while it was read; nothing was stored: push again")
    return block


def _joined(first: int, second: int, length: int) -> int:
    """The CRC-32C of two pieces together, from theirs; `length`: of the second one, in bytes."""
    return _product(first, _shift(length)) ^ second


@lru_cache(2)  # all parts but the last have the same length
def _shift(length: int) -> int:
    """x to the power of 8 * length."""
    power, square = 1 << 31, 1 << 23
    while length:
        if length & 1:
            power = _product(power, square)
        square = _product(square, square)
        length >>= 1
    return power


def _product(one: int, other: int) -> int:
    """Of two polynomials modulo Castagnoli's; as in a CRC, the highest bit is the coefficient of 1."""
    product = 0
    for bit in range(31, -1, -1):
        if one >> bit & 1:
            product ^= other
        other = other >> 1 ^ (0x82F63B78 if other & 1 else 0)
    return product


def spell_crc(crc: int) -> str:
    """In base64, as S3 has it."""
    return base64.b64encode(crc.to_bytes(4)).decode()
