"""The proxy itself: one thread, one event loop, one exchange per request."""

import asyncio
import socket
import struct
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Literal, Self
from urllib.parse import urlsplit

from tests.proxy import wire
from tests.proxy.faults import (
    Answer,
    Fault,
    Faults,
    Flip,
    Moment,
    Placed,
    Plan,
    ReplaceHeaders,
    Reset,
    Seen,
    Stall,
    StripHeaders,
    Throttle,
    Truncate,
    Whitespace,
    title,
)
from tests.proxy.sign import Key, sign_again
from tests.proxy.wire import Body, Head
from tests.servers.server import is_ledger

Way = Literal["request-body", "answer-body"]
Pace = Callable[[Throttle, Way, int], Awaitable[None]]
_GONE = (OSError, EOFError, asyncio.LimitOverrunError, ValueError)


class _Hangup(Exception):
    """A planned reset."""


@dataclass(frozen=True, slots=True)
class _Stream:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    def reset(self) -> None:
        """RST instead of FIN: the peer sees "connection reset", and what it has not read may be lost."""
        sock = self.writer.get_extra_info("socket")
        if sock.fileno() >= 0:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


@dataclass(frozen=True, slots=True)
class _Store(_Stream):
    """Writes past the transport, whose first failed write would throw away an early refusal not read yet."""

    sock: socket.socket

    @classmethod
    async def connect(cls, upstream: str) -> Self:
        url = urlsplit(upstream)
        reader, writer = await asyncio.open_connection(url.hostname, url.port, limit=wire.LONGEST_PIECE)
        return cls(reader, writer, writer.get_extra_info("socket").dup())

    async def send(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.sock, data)

    def close(self) -> None:
        self.writer.close()
        self.sock.close()


class FaultProxy:
    """Stands before `upstream` (http://host:port) at `endpoint`, and does to each request what `faults` says.

    Heads and bodies go through byte for byte, Host too, since it is signed. A request that lost a header to
    StripHeaders is signed anew with `key`.
    """

    def __init__(self, upstream: str, faults: Plan | None = None, key: Key | None = None) -> None:
        self.upstream = upstream
        self.faults: Plan = faults or Faults()  # may be replaced at any time
        self.key = key
        self.all_requests: list[Seen] = []
        self._free_at: dict[tuple[Throttle, Way], float] = {}
        self._serving: set[asyncio.Task[None]] = set()  # else asyncio drops a task when its client hangs up
        self._ready = threading.Event()

    @property
    def requests(self) -> list[Seen]:
        """Those that came so far, without the ledger's."""
        return [seen for seen in self.all_requests if not is_ledger(seen.path)]

    def __enter__(self) -> Self:
        listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.endpoint = f"http://127.0.0.1:{listener.getsockname()[1]}"
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main(listener)), daemon=True)
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    async def _main(self, listener: socket.socket) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._serve, sock=listener, limit=wire.LONGEST_PIECE)
        self._ready.set()
        await self._stop.wait()
        server.close()  # asyncio.run cancels what is still under way

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)
        client = _Stream(reader, writer)
        writer.transport.set_write_buffer_limits(0)  # no buffer of ours: a cut is where it was planned
        try:
            while (head := await wire.read_head(reader)) and await self._exchange(client, head):
                pass
            writer.close()
        except _GONE:
            client.reset()
        except asyncio.CancelledError:
            client.reset()  # goes no further: before 3.12 asyncio reports a cancelled handler as an error
        except BaseException:
            client.reset()  # a plan with a mistake in it: asyncio logs it, and the client need not wait
            raise

    async def _exchange(self, client: _Stream, head: Head) -> bool:
        """Whether the connection may carry one more request."""
        method, target, _ = head.start.split(" ")
        path, _, query = target.partition("?")
        seen = Seen(method, path, query, head.headers, at=time.monotonic())
        self.all_requests.append(seen)
        actions = self.faults(seen)
        names = [name for action in actions if isinstance(action, StripHeaders) for name in action.request]
        forwarded = head.without(names)
        if self.key and forwarded != head:
            forwarded = sign_again(forwarded, self.key)
        exchange = _Exchange(
            client=client,
            upstream=self.upstream,
            head=forwarded,
            seen=seen,
            fault=next((action for action in actions if isinstance(action, Fault)), None),
            throttles=[action for action in actions if isinstance(action, Throttle)],
            hidden=[name for action in actions if isinstance(action, StripHeaders) for name in action.answer],
            replaced=[line for action in actions if isinstance(action, ReplaceHeaders) for line in action.answer],
            pace=self._pace,
        )
        keep = False
        try:
            keep = await exchange.run()
        except* _Hangup:
            client.reset()
        except* _GONE as errors:
            seen.error = "; ".join(f"{type(error).__name__}: {error}" for error in errors.exceptions)
            client.reset()
        finally:
            seen.ended = time.monotonic()
        return keep

    async def _pace(self, throttle: Throttle, way: Way, size: int) -> None:
        if rate := throttle.up if way == "request-body" else throttle.down:
            now = self._loop.time()
            free_at = max(now, self._free_at.get((throttle, way), 0.0)) + size / rate
            self._free_at[throttle, way] = free_at
            await asyncio.sleep(free_at - now)


@dataclass(slots=True)
class _Exchange:
    client: _Stream
    upstream: str
    head: Head
    seen: Seen
    fault: Fault | None
    throttles: list[Throttle]
    hidden: list[str]
    replaced: list[tuple[str, str]]
    pace: Pace

    async def run(self) -> bool:
        await self._meet("request-head")
        if isinstance(self.fault, Answer) and not self.fault.forward:
            return await self._answer_unasked(self.fault)
        store = await _Store.connect(self.upstream)
        keep = False
        try:
            # Both ways at once: a store may answer 100, or refuse, before it has the body.
            async with asyncio.TaskGroup() as ways:
                sending = ways.create_task(self._send_request(store))
                keep = await self._relay_answer(store)
                if self._awaits_continue and self.seen.request_bytes == 0 and not sending.done():
                    sending.cancel()
        except BaseException:
            store.reset()
            raise
        finally:
            store.close()
        return keep

    @property
    def _awaits_continue(self) -> bool:
        return self.head.headers.get("expect", "").lower() == "100-continue"

    async def _send_request(self, store: _Store) -> None:
        await store.send(self.head.to_bytes())
        await self._copy(self.client, store, wire.request_body(self.head), "request-body")

    async def _relay_answer(self, store: _Store) -> bool:
        head = await self._final_head(store)
        self.seen.store_status = head.status
        body = wire.answer_body(self.seen.method, head)
        if isinstance(self.fault, Answer):
            await self._copy(store, None, body, "answer-body")
            return await self._answer(self.fault, keep=True)
        if isinstance(self.fault, Reset) and self.fault.where == "answer-head":
            await self._copy(store, None, body, "answer-body")  # its end says that the store has finished
        await self._meet("answer-head")
        head = self._changed(head)
        if isinstance(self.fault, Whitespace):
            return await self._answer_late(store, head, body, self.fault)
        self.seen.status = head.status
        await self.client.send(head.to_bytes())
        whole = await self._copy(store, self.client, body, "answer-body")
        return whole and body != "until-close" and wire.keeps_alive(head) and wire.keeps_alive(self.head)

    def _changed(self, head: Head) -> Head:
        for name, value in self.replaced:
            head = head.with_line(name, value) if name.lower() in head.headers else head
        return head.without(self.hidden)

    async def _answer_late(self, store: _Store, head: Head, body: Body, blanks: Whitespace) -> bool:
        content = b"".join([p.data async for p in wire.pieces(store.reader, body, wire.LONGEST_PIECE) if p.payload])
        declared = content.find(b"?>") + 2 if blanks.after_declaration and content.startswith(b"<?xml") else 0
        self.seen.fault, self.seen.status = title(blanks), 200
        lines = head.without(["Content-Length"]).with_line("Transfer-Encoding", "chunked").lines
        await self.client.send(Head("HTTP/1.1 200 OK", lines).to_bytes() + wire.chunk(content[:declared]))
        until = time.monotonic() + blanks.seconds
        while time.monotonic() < until:
            await self.client.send(wire.chunk(b" "))
            await asyncio.sleep(min(0.1, blanks.seconds))
        await self.client.send(wire.chunk(content[declared:]) + b"0\r\n\r\n")
        self.seen.response_bytes += len(content)
        return body != "until-close" and wire.keeps_alive(head) and wire.keeps_alive(self.head)

    async def _final_head(self, store: _Store) -> Head:
        while head := await wire.read_head(store.reader):
            if head.status >= 200:
                return head
            await self.client.send(head.to_bytes())
        raise ConnectionResetError("the store closed the connection without an answer")

    async def _answer_unasked(self, answer: Answer) -> bool:
        if self._awaits_continue:
            return await self._answer(answer, keep=False)  # the client may or may not send its body now
        await self._copy(self.client, None, wire.request_body(self.head), "request-body")
        return await self._answer(answer, keep=wire.keeps_alive(self.head))

    async def _answer(self, answer: Answer, *, keep: bool) -> bool:
        self.seen.fault, self.seen.status = title(answer), answer.status
        body = _error_xml(answer) if answer.body is None else answer.body
        body = b"" if self.seen.method == "HEAD" or answer.status in (204, 304) else body
        headers = [("Content-Type", "application/xml"), ("Content-Length", str(len(body))), *answer.headers]
        headers += [] if keep else [("Connection", "close")]
        start = f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}"
        self.seen.response_bytes += len(body)
        await self.client.send(Head(start, tuple(f"{n}: {v}" for n, v in headers)).to_bytes() + body)
        return keep

    async def _copy(self, source: _Stream, target: _Stream | None, body: Body, way: Way) -> bool:
        """Whether the body went through whole; without a target it is dropped and meets no fault."""
        fault = self.fault if isinstance(self.fault, Placed) and self.fault.where == way and target else None
        done = 0
        async for piece in wire.pieces(source.reader, body, self._longest(way)):
            data = piece.data
            if fault and piece.payload:
                # Of a body of unknown length the first piece stands for the whole.
                spot = int((fault.at or 0.0) * (body if isinstance(body, int) else len(data)))
                if spot < done + len(data):
                    before, data = data[: spot - done], data[spot - done :]
                    await self._pass(before, target, way)
                    await self._meet(way)
                    if isinstance(fault, Truncate):
                        return False
                    data = _flipped(data) if isinstance(fault, Flip) else data
                    fault = None
                done += len(piece.data)
            await self._pass(data, target, way, payload=piece.payload)
        return True

    async def _pass(self, data: bytes, target: _Stream | None, way: Way, *, payload: bool = True) -> None:
        for throttle in self.throttles:
            await self.pace(throttle, way, len(data))
        if payload and way == "request-body":
            self.seen.request_bytes += len(data)
        elif payload and target:
            self.seen.response_bytes += len(data)
        try:
            if target:
                await target.send(data)
        except ConnectionError:
            if way == "answer-body":
                raise
            # A store that refuses early hangs up: its answer may be there, the rest of the body is dropped.

    async def _meet(self, moment: Moment) -> None:
        if isinstance(self.fault, Placed) and self.fault.where == moment:
            self.seen.fault = title(self.fault)
            match self.fault:
                case Reset():
                    raise _Hangup
                case Stall(seconds=seconds):
                    await asyncio.sleep(seconds)

    def _longest(self, way: Way) -> int:
        """Bytes of a piece: under a throttle about 1/20 s of the link."""
        rates = [throttle.up if way == "request-body" else throttle.down for throttle in self.throttles]
        return max(1, min((rate // 20 for rate in rates if rate), default=wire.LONGEST_PIECE))


def _flipped(data: bytes) -> bytes:
    return bytes([data[0] ^ 1]) + data[1:]


def _error_xml(answer: Answer) -> bytes:
    text = f"<Error><Code>{answer.code}</Code><Message>planned</Message><RequestId>0</RequestId></Error>"
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{text}'.encode() if answer.code else b""
