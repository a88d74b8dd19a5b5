"""What all servers are to a test: an endpoint, keys, a client, an access log."""

import atexit
import http.client
import os
import shutil
import socket
import ssl
import subprocess
import sys
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, ClassVar, Self

from tests.servers.access import Request

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

LEASH = Path(__file__).with_name("leash.py")


class ServerError(Exception):
    """A server did not start, or died."""


@dataclass(frozen=True)
class Tls:
    """A server's certificate: PEM files; `ca` is what a client has to trust."""

    certificate: Path
    key: Path
    ca: Path


def cache() -> Path:
    """Where tests/install/install.sh puts what it builds."""
    if named := os.environ.get("LFS_AGENT_TEST_CACHE"):
        return Path(named)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "lfs-agent-tests"


def make_certificate(folder: Path) -> Tls:
    """A fresh self-signed certificate for localhost, 127.0.0.1, s3.test and *.s3.test. Needs openssl."""
    folder.mkdir(parents=True, exist_ok=True)
    certificate, key = folder / "server.pem", folder / "server.key"
    names = "subjectAltName=DNS:localhost,DNS:s3.test,DNS:*.s3.test,IP:127.0.0.1"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
        + ["-addext", names, "-keyout", key, "-out", certificate],
        check=True,
        capture_output=True,
        stdin=subprocess.DEVNULL,
    )
    return Tls(certificate, key, certificate)


def free_port(first: int = 0, last: int = 0, width: int = 1) -> int:
    """A port on 127.0.0.1 that nobody listens on now, any or from a range; `width`: the first of so many."""
    candidates: Sequence[int] = [0] * 20
    if first:
        start = first + int.from_bytes(os.urandom(2)) % (last - first)
        candidates = range(start, start + 100 * width, width)
    for candidate in candidates:
        try:
            with socket.create_server(("127.0.0.1", candidate)) as taken:
                port: int = taken.getsockname()[1]
                for further in range(1, width):
                    socket.create_server(("127.0.0.1", port + further)).close()
                return port
        except OSError:
            continue
    raise ServerError("no free port on 127.0.0.1")


class Server(ABC):
    """One S3 server: `with Versitygw(folder) as server: server.client().create_bucket(Bucket="bucket")`.

    `folder` holds all its state. start() chooses the port unless one is given. What `supports` can name:
    access_log, checksums (wrong ones are refused), conditional_put, conditional_complete, files (objects are
    plain files: `object_file`), policies (of buckets, enforced), stored_headers (HEAD shows storage class and
    SSE), tls, wrong_secret_refused.
    """

    name: ClassVar[str]
    supports: ClassVar[frozenset[str]]

    region = "us-east-1"
    access_key = "demoaccess"
    secret_key = "demosecret"
    virtual_host = "s3.test"
    """A bucket is also a host, of this name behind its own."""
    start_timeout_s = 60.0

    def __init__(self, folder: Path, *, port: int | None = None, tls: Tls | None = None) -> None:
        if tls is not None and "tls" not in self.supports:
            raise ValueError(f"{self.name} has no TLS here")
        self.folder = folder.absolute()
        self.tls = tls
        self.port = port or 0
        self._port_is_given = port is not None
        self._processes: list[subprocess.Popen[bytes]] = []

    @classmethod
    @abstractmethod
    def missing(cls) -> str | None:
        """Why this server cannot run here and what installs it, as a sentence; None where it can."""

    @abstractmethod
    def _launch(self) -> None:
        """Starts the processes on `self.port`, state in `self.folder`."""

    @abstractmethod
    def _ready(self) -> bool:
        """Answers already?"""

    @abstractmethod
    def _access_log(self) -> Path: ...

    @staticmethod
    @abstractmethod
    def _parse_line(line: str) -> Request | None: ...

    # Life

    def start(self) -> Self:
        """Starts it and waits until it answers."""
        if reason := self.missing():
            raise ServerError(reason)
        self.folder.mkdir(parents=True, exist_ok=True)
        atexit.register(self.stop)
        for attempt in (1, 2, 3):
            if not self._port_is_given:
                self.port = self._choose_port()
            try:
                self._launch()
                self._wait_until_ready()
            except BaseException as error:
                self.stop()
                # Between choosing a port and listening on it, another process may have taken it.
                if isinstance(error, ServerError) and attempt < 3 and not self._port_is_given:
                    continue
                raise
            return self
        raise AssertionError("unreachable")

    def stop(self) -> None:
        """Ends its processes, last started first. Its folder stays."""
        atexit.unregister(self.stop)
        for process in reversed(self._processes):
            if process.stdin is not None:
                process.stdin.close()
        for process in reversed(self._processes):
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._processes.clear()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def running(self) -> bool:
        return bool(self._processes) and all(process.poll() is None for process in self._processes)

    # What a test uses

    @property
    def endpoint(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    @property
    def virtual_endpoint(self) -> str:
        """The endpoint whose buckets are host names, which somebody has to resolve to 127.0.0.1."""
        return f"{'https' if self.tls else 'http'}://{self.virtual_host}:{self.port}"

    def environ(self) -> dict[str, str]:
        """What a child process needs to reach it by AWS's own settings."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_ENDPOINT_URL_S3": self.endpoint,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def client(self) -> "S3Client":
        """The test's own client: looks, places and damages objects behind the agent's back."""
        import boto3
        from botocore.config import Config

        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name=self.region,
            verify=str(self.tls.ca) if self.tls else None,
            config=Config(
                s3={"addressing_style": "path"},
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )

    def keys(self, bucket: str, prefix: str = "", *, ledger: bool = False) -> list[str]:
        """The keys of all objects there, in order; those of the agent's ledger beside them only on demand."""
        pages = self.client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        keys = [entry["Key"] for page in pages for entry in page.get("Contents", [])]
        return [key for key in keys if ledger or not is_ledger(key)]

    def mark(self) -> int:
        """The place in the access log after all requests so far: `requests(since=…)` begins there."""
        self._settle()
        return self._access_log().stat().st_size

    def requests(self, since: int = 0, *, ledger: bool = False) -> list[Request]:
        """The requests since that mark, as the server's own access log has them, in its order.

        Those for the agent's ledger, beside the objects, only on demand.
        """
        self._settle()
        parsed = (self._parse_line(line) for line in self._read_log(since).splitlines())
        found = [request for request in parsed if request and not request.bucket.startswith(_SENTINEL)]
        return [request for request in found if ledger or not is_ledger(request.key)]

    def _read_log(self, since: int) -> str:
        with self._access_log().open("rb") as log:
            log.seek(since)
            return log.read().decode(errors="replace")

    def _settle(self) -> None:
        """Logs are written after the answer: asks for a bucket that is not there, waits for that line, and for quiet.

        A request on another connection may be answered before that line and written after it.
        """
        sentinel = f"{_SENTINEL}{uuid.uuid4().hex[:20]}"
        since = self._access_log().stat().st_size if self._access_log().exists() else 0
        self._ask("HEAD", f"/{sentinel}")
        deadline = time.monotonic() + 10
        while f"/{sentinel}" not in self._read_log(since):
            if time.monotonic() > deadline:
                raise ServerError(f"{self.name} wrote nothing to {self._access_log()} for 10 s")
            time.sleep(0.005)
        size = -1
        while size != (size := self._access_log().stat().st_size):
            time.sleep(0.1)

    # For the kinds of servers

    def _choose_port(self) -> int:
        return free_port()

    def _spawn(
        self,
        argv: Sequence[str | Path],
        *,
        environ: Mapping[str, str] | None = None,
        log: str,
    ) -> None:
        """Starts a process on a leash, its output in `folder/log`, its environment made from nothing."""
        clean = {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(self.folder), "LANG": "C.UTF-8"}
        with (self.folder / log).open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", LEASH, *argv],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                cwd=self.folder,
                env={**clean, **(environ or {})},
                start_new_session=True,
            )
        self._processes.append(process)

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + self.start_timeout_s
        while not self._ready():
            if not self.running:
                raise ServerError(f"{self.name} ended while it was starting:\n{self._last_words()}")
            if time.monotonic() > deadline:
                raise ServerError(f"{self.name} did not answer in {self.start_timeout_s:.0f} s:\n{self._last_words()}")
            time.sleep(0.05)

    def _last_words(self) -> str:
        logs = sorted(self.folder.glob("*.log")) + sorted(self.folder.glob("log/*"))
        return "\n".join(f"{log.name}: {_tail(log)}" for log in logs if log.stat().st_size)

    def _ask(self, method: str, target: str) -> int | None:
        """The status of an unsigned request; None where nobody answers."""
        connection: http.client.HTTPConnection
        if self.tls:
            trusting = ssl._create_unverified_context()
            connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=5, context=trusting)
        else:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request(method, target)
            answer = connection.getresponse()
            answer.read()
            return answer.status
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()


_SENTINEL = "settle-"


def is_ledger(key: str) -> bool:
    """Whether a key is of what those who share a store tell each other in it."""
    return ".lfs-agent/" in key


def _tail(path: Path, size: int = 2000) -> str:
    stream: IO[bytes]
    with path.open("rb") as stream:
        stream.seek(max(0, path.stat().st_size - size))
        return stream.read().decode(errors="replace").strip()


def program(name: str) -> str | None:
    """The path of a system program; daemons live in sbin, which is not on every PATH."""
    return shutil.which(name, path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin")
