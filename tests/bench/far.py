"""A link to a store that is far away: toxiproxy before it."""

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Self

from tests.servers import Server, cache
from tests.servers.server import LEASH, free_port

PROGRAM = cache() / "toxiproxy-2.12.0" / "server"
ROUND_TRIP_MS = 20
RATE_KB = 90_000
"""A second, for each connection and each way."""


def missing() -> str | None:
    """Why there is no such link here, and what installs it."""
    return (
        None if PROGRAM.exists() else "toxiproxy is not installed: run `tests/install/install.sh toxiproxy` (needs Go)"
    )


class Far:
    """`with Far(server, folder) as far:` — the server, far away, at `far.endpoint`.

    A connection is accepted at once, as if the store were near: only what goes over it takes its time.
    """

    def __init__(self, server: Server, folder: Path) -> None:
        self._server = server
        self._folder = folder
        self._port = 0

    @property
    def endpoint(self) -> str:
        return f"{'https' if self._server.tls else 'http'}://127.0.0.1:{self._port}"

    def __enter__(self) -> Self:
        self._port, api = free_port(), free_port()
        with (self._folder / "toxiproxy.log").open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", LEASH, PROGRAM, "-port", str(api)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        upstream = f"127.0.0.1:{self._server.port}"
        proxy = {"name": "s3", "listen": f"127.0.0.1:{self._port}", "upstream": upstream, "enabled": True}
        _post(api, "/proxies", proxy)
        for stream in ("upstream", "downstream"):
            for kind, attributes in (("latency", {"latency": ROUND_TRIP_MS // 2}), ("bandwidth", {"rate": RATE_KB})):
                _post(api, "/proxies/s3/toxics", {"type": kind, "stream": stream, "attributes": attributes})
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin
        self._process.stdin.close()  # the leash
        self._process.wait()


def _post(port: int, path: str, content: object) -> None:
    """To toxiproxy's API, once it listens."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", json.dumps(content).encode(), method="POST")
    deadline = time.monotonic() + 10
    while True:
        try:
            urllib.request.urlopen(request, timeout=10).close()
            return
        except urllib.error.HTTPError:
            raise
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
