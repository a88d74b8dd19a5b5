"""HTTP/1.1 messages as they stand on the wire: heads to read and edit, bodies in bounded pieces."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

Body = int | Literal["chunked", "until-close"]
LONGEST_PIECE = 64 * 1024


@dataclass(frozen=True, slots=True)
class Head:
    """The lines of a head as they came, the first one apart."""

    start: str
    lines: tuple[str, ...]

    @property
    def headers(self) -> Mapping[str, str]:
        return {_name(line): line.partition(":")[2].strip() for line in self.lines}

    @property
    def status(self) -> int:
        return int(self.start.split(" ")[1])

    def without(self, names: Iterable[str]) -> "Head":
        gone = {name.lower() for name in names}
        return Head(self.start, tuple(line for line in self.lines if _name(line) not in gone))

    def with_line(self, name: str, value: str) -> "Head":
        return Head(self.start, (*self.without([name]).lines, f"{name}: {value}"))

    def to_bytes(self) -> bytes:
        return "\r\n".join((self.start, *self.lines, "", "")).encode("latin-1")


def _name(line: str) -> str:
    return line.partition(":")[0].strip().lower()


class Piece(NamedTuple):
    data: bytes
    payload: bool  # False: a chunk's size, its line end, a trailer


async def read_head(reader: asyncio.StreamReader) -> Head | None:
    """The next head, or None where the peer has closed in good order."""
    try:
        raw = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise
        return None
    start, *lines = raw[:-4].decode("latin-1").split("\r\n")
    return Head(start, tuple(lines))


def request_body(head: Head) -> Body:
    headers = head.headers
    return "chunked" if "transfer-encoding" in headers else int(headers.get("content-length", 0))


def answer_body(method: str, head: Head) -> Body:
    headers = head.headers
    if method == "HEAD" or head.status in (204, 304):
        return 0
    if "transfer-encoding" in headers:
        return "chunked"
    return int(headers["content-length"]) if "content-length" in headers else "until-close"


def keeps_alive(head: Head) -> bool:
    return head.headers.get("connection", "").lower() != "close" and "HTTP/1.0" not in head.start


def chunk(data: bytes) -> bytes:
    """The data as one chunk of a body; nothing for nothing, which would end the body.

    >>> chunk(b"abc"), chunk(b"")
    (b'3\\r\\nabc\\r\\n', b'')
    """
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""


async def pieces(reader: asyncio.StreamReader, body: Body, longest: int) -> AsyncIterator[Piece]:
    """Every byte of the body in order, none added, none changed."""
    match body:
        case int():
            async for piece in _exactly(reader, body, longest):
                yield piece
        case "until-close":
            while data := await reader.read(longest):
                yield Piece(data, payload=True)
        case "chunked":
            async for piece in _chunks(reader, longest):
                yield piece


async def _exactly(reader: asyncio.StreamReader, size: int, longest: int) -> AsyncIterator[Piece]:
    while size:
        data = await reader.read(min(size, longest))
        if not data:
            raise asyncio.IncompleteReadError(b"", size)
        size -= len(data)
        yield Piece(data, payload=True)


async def _chunks(reader: asyncio.StreamReader, longest: int) -> AsyncIterator[Piece]:
    size = None
    while size != 0:
        line = await reader.readuntil(b"\r\n")
        size = int(line.split(b";")[0], 16)
        yield Piece(line, payload=False)
        async for piece in _exactly(reader, size, longest):
            yield piece
        if size:
            yield Piece(await reader.readexactly(2), payload=False)
    trailer = b""
    while trailer != b"\r\n":
        trailer = await reader.readuntil(b"\r\n")
        yield Piece(trailer, payload=False)
