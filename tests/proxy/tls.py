"""TLS before a server that has none: `with TlsFront(upstream, context) as front:`."""

import select
import socket
import ssl
import threading
from contextlib import suppress
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from tests.servers import Tls


def server_side(tls: Tls, ca: Path | None = None) -> ssl.SSLContext:
    """A server's side of TLS; with `ca` it demands a certificate that this authority vouches for."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tls.certificate, tls.key)
    if ca:
        context.load_verify_locations(ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


class TlsFront:
    """Speaks TLS at `endpoint`, and plain http to `upstream`. Blocking sockets: asyncio swallows TLS's own refusals.

    Without a context it hangs up in the middle of every handshake; the first `broken` connections end in noise.
    """

    def __init__(self, upstream: str, context: ssl.SSLContext | None, *, broken: int = 0) -> None:
        self._upstream = urlsplit(upstream)
        self._context = context
        self._broken = broken
        self.connections = 0
        """How many have come, refused ones too."""

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.endpoint = f"https://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._listen, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)  # else accept() would wait on
        self._listener.close()

    def _listen(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self.connections += 1
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, suppress(OSError):
            client.settimeout(30)
            if self._context is None:
                client.recv(100)
                return
            inside = self._context.wrap_socket(client, server_side=True, do_handshake_on_connect=False)
            with inside:
                try:
                    inside.do_handshake()
                except ssl.SSLError as error:
                    if "CERTIFICATE" in (error.reason or ""):
                        while socket.socket.recv(inside, 1 << 16):  # else a reset would overtake the refusal
                            pass
                    return
                if self.connections <= self._broken:
                    inside.recv(1 << 16)
                    socket.socket.sendall(inside, b"\x17\x03\x03\x00\x20" + bytes(32))  # no key has sealed that
                    return
                with socket.create_connection((str(self._upstream.hostname), self._upstream.port or 80)) as upstream:
                    _relay(inside, upstream)


def _relay(inside: ssl.SSLSocket, upstream: socket.socket) -> None:
    ends: dict[socket.socket, socket.socket] = {inside: upstream, upstream: inside}
    while True:
        ready = [inside] if inside.pending() else select.select(list(ends), [], [])[0]
        for source in ready:
            if not (data := source.recv(1 << 16)):
                return
            ends[source].sendall(data)
