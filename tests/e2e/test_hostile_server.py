"""A store that means harm: it gets nothing, breaks nothing, takes neither memory nor time, and paints no terminal."""

import gzip
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from hashlib import sha256
from itertools import repeat
from pathlib import Path
from typing import Self

import pytest

from lfs_agent.parts import MIB
from tests.cellar import random_bytes
from tests.e2e.dialogue import Agent, files_below, keep_local, new_repository
from tests.machine import Home

CONTENT = random_bytes(300_000, 1)
OID = sha256(CONTENT).hexdigest()
Said = Callable[[str], Iterator[bytes]]
"""What is answered to a request with this method, in pieces, which may have no end."""


class Hostile:
    """Says what it likes to whoever connects, and hangs up."""

    def __init__(self, said: Said) -> None:
        self._said = said
        self.requests = 0

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=self._serve, args=self._listener.accept()[:1], daemon=True).start()

    def _serve(self, peer: socket.socket) -> None:
        with suppress(OSError), peer:
            peer.settimeout(20)
            head = b""
            while b"\r\n\r\n" not in head and (block := peer.recv(65536)):
                head += block
            if not head:
                return
            self.requests += 1
            for piece in self._said(head.split(b" ")[0].decode()):
                peer.sendall(piece)
            peer.shutdown(socket.SHUT_WR)
            while peer.recv(65536):
                pass


def answer(status: str, body: bytes = b"", *headers: str) -> Said:
    """One answer, as it stands; without a length of its own where a header has one."""
    length = (
        []
        if any(header.lower().startswith("content-length") for header in headers)
        else [f"Content-Length: {len(body)}"]
    )

    def said(method: str) -> Iterator[bytes]:
        yield "\r\n".join([f"HTTP/1.1 {status}", *length, *headers, "", ""]).encode("latin-1")
        if method != "HEAD":
            yield body

    return said


def endless(start: bytes, piece: bytes, times: int = 1 << 40) -> Said:
    def said(method: str) -> Iterator[bytes]:
        yield start
        yield from repeat(piece, times)

    return said


def error(message: str, code: str = "AccessDenied") -> bytes:
    return f"<Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()


BLOCK = b"x" * MIB
ENTITIES = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 12))
LAUGHS = f'<!DOCTYPE x [<!ENTITY l0 "ha">{ENTITIES}]>' + error("&l11;").decode()
FILE = '<!DOCTYPE x [<!ENTITY f SYSTEM "file:///etc/passwd">]>' + error("&f;").decode()
PAINT = "\u009b31m\u009b2J\u202e" * 20_000
ZEROS = gzip.compress(bytes(64 * MIB))

ATTACKS: dict[str, Said] = {
    "an error without an end": endless(b"HTTP/1.1 403 No\r\nContent-Length: 999999999999999999\r\n\r\n<Error>", BLOCK),
    "an answer without an end": endless(b"HTTP/1.1 200 OK\r\nContent-Length: 999999999999999999\r\n\r\n<x>", BLOCK),
    "chunks without an end": endless(
        b"HTTP/1.1 403 No\r\nTransfer-Encoding: chunked\r\n\r\n", b"100000\r\n" + BLOCK + b"\r\n"
    ),
    "a chunk's size without an end": endless(b"HTTP/1.1 403 No\r\nTransfer-Encoding: chunked\r\n\r\n", b"0" * MIB),
    "a status without an end": endless(b"HTTP/1.1 403 ", BLOCK),
    "a header without an end": endless(b"HTTP/1.1 403 No\r\nX: ", BLOCK),
    "headers without an end": endless(b"HTTP/1.1 403 No\r\n", b"X: y\r\n" * 1000),
    "a billion laughs": answer("403 No", LAUGHS.encode()),
    "a file of this machine": answer("403 No", FILE.encode()),
    "a deep error": answer("403 No", b"<a>" * MIB),
    "words that paint": answer("403 No", error(PAINT, PAINT)),
    "a region that paints": answer(
        "301 Moved", error("x", "PermanentRedirect"), "x-amz-bucket-region: \x9b2J\x1b[2J; x"
    ),
    "a length below zero": answer("200 OK", CONTENT, "Content-Length: -1"),
    "a length that is none": answer("200 OK", CONTENT, "Content-Length: many"),
    "a length beyond reason": answer("200 OK", CONTENT, f"Content-Length: {10**30}"),
    "a range that lies": answer("206 Part", CONTENT, "Content-Range: bytes 5-9/3"),
    "a range that is none": answer("206 Part", CONTENT, "Content-Range: bytes x-y/z"),
    "a range beyond reason": answer("206 Part", CONTENT, f"Content-Range: bytes 0-{'1' * 5000}/{'1' * 5000}"),
    "a range without a size": answer("206 Part", CONTENT, "Content-Range: bytes 0-299999/*"),
    "a checksum that is none": answer(
        "200 OK", CONTENT, "x-amz-checksum-sha256: \xff!", "x-amz-checksum-type: FULL_OBJECT"
    ),
    "a date that is none": answer("200 OK", CONTENT, "Last-Modified: yesterday", "Expires: never"),
    "a tag of two lines": answer("200 OK", CONTENT, 'ETag: "a\r\n \x1b[2Jb"'),
    "a bomb": answer("200 OK", ZEROS, "Content-Encoding: gzip"),
    "a bomb in an error": answer("403 No", ZEROS, "Content-Encoding: gzip"),
    "a wait that is none": answer("503 Busy", error("x", "SlowDown"), "Retry-After: \xb2"),
    "a wait beyond reason": answer("503 Busy", error("x", "SlowDown"), f"Retry-After: {'9' * 5000}"),
    "a date to wait for": answer("503 Busy", error("x", "SlowDown"), "Retry-After: Fri, 31 Dec 9999 23:59:59 -9999"),
    "another protocol": answer("200 OK", b"<html>hello</html>", "Content-Type: text/html"),
    "not HTTP": endless(b"SSH-2.0-OpenSSH_9.2\r\n", BLOCK, times=4),
    "nothing": endless(b"", b"", times=0),
    "go on without an end": endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 1000),
}


@pytest.fixture
def work(home: Home, tmp_path: Path) -> Path:
    home.environ |= {
        "AWS_ACCESS_KEY_ID": "demoaccess",
        "AWS_SECRET_ACCESS_KEY": "demosecret",
        "LFS_AGENT_FIRST_DEADLINE": "1",
        "LFS_AGENT_DEADLINE": "0.5",
        "LFS_AGENT_READ_TIMEOUT": "1",
    }
    return new_repository(home, tmp_path / "work", "s3::cellar/weights")


@pytest.mark.parametrize("said", ATTACKS.values(), ids=ATTACKS.keys())
def test_what_a_store_answers_ends_in_a_sentence(home: Home, work: Path, said: Said) -> None:
    local = keep_local(work, OID, CONTENT)
    with Hostile(said) as store:
        home.environ["AWS_ENDPOINT_URL_S3"] = f"http://127.0.0.1:{store.port}"
        for operation in ("upload", "download"):
            with Agent(home, work) as agent:
                agent.init(operation, workers=1)
                if operation == "upload":
                    agent.upload(OID, local)
                else:
                    agent.download(OID[::-1], len(CONTENT))
                last = agent.until_complete()[-1]
                assert peak(agent.process.pid) < 160 * MIB
                assert agent.end() == 0
                assert (operation, last.get("error")) != ("download", None), last
                check_sentence(last.get("error", {}).get("message", ""))
                assert "Traceback" not in agent.stderr
        assert store.requests > 0
    assert [name for name in files_below(work / ".git" / "lfs" / "objects") if OID not in name] == []
    assert not [name for name in files_below(work / ".git" / "lfs") if name.startswith("tmp")]


@pytest.mark.parametrize(
    "status, code",
    [
        ("301 Moved", "PermanentRedirect"),
        ("302 Found", "TemporaryRedirect"),
        ("307 Temporary Redirect", "TemporaryRedirect"),
        ("308 Permanent Redirect", "PermanentRedirect"),
        ("400 Bad Request", "AuthorizationHeaderMalformed"),
    ],
)
def test_a_redirect_leads_nowhere(home: Home, work: Path, status: str, code: str) -> None:
    local = keep_local(work, OID, CONTENT)
    with Hostile(answer("200 OK")) as third:
        there = f"127.0.0.1:{third.port}"
        body = f"<Error><Code>{code}</Code><Endpoint>{there}</Endpoint><Region>{there}/x</Region></Error>".encode()
        headers = (f"Location: http://{there}/", f"x-amz-bucket-region: {there}/")
        with Hostile(answer(status, body, *headers)) as store:
            home.environ["AWS_ENDPOINT_URL_S3"] = f"http://127.0.0.1:{store.port}"
            with Agent(home, work) as agent:
                agent.init("upload", workers=1)
                agent.upload(OID, local)
                last = agent.until_complete()[-1]
                assert agent.end() == 0
            assert 1 <= store.requests < 20

        assert third.requests == 0
    check_sentence(last["error"]["message"])


def test_what_a_store_says_paints_no_terminal(home: Home, work: Path) -> None:
    """Not by a push, not by the commands that tell of it later."""
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{OID}\nsize {len(CONTENT)}\n"
    (work / "a.bin").write_text(pointer)
    home.git("add", "a.bin", cwd=work)
    home.git("commit", "-q", "-m", "Add a.bin", cwd=work)
    with Hostile(answer("403 No", error(PAINT[:60]))) as store:
        home.environ |= {"AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{store.port}", "LFS_AGENT_FIRST_DEADLINE": "60"}
        with Agent(home, work) as agent:
            agent.init("download", workers=1)
            agent.download(OID, len(CONTENT))
            agent.until_complete()
            agent.end()
        said = [
            home.run("lfs-agent", *words, cwd=work, check=False).stdout
            for words in (["verify"], ["verify", "--deep", "--json"], ["log"], ["log", "--json"])
        ]

    assert ["?31m?2J?" in text or "\\u009b31m" in text for text in said] == [True] * 4
    for text in said:
        check_sentence(text)


def peak(pid: int) -> int:
    """The most memory that a process has had, in bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def check_sentence(text: str) -> None:
    assert len(text) < 6000
    assert all(c.isprintable() or c in "\t\n" for c in text)
    assert "please report it" not in text
    assert "root:" not in text
