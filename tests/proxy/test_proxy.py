"""Each action of the fault proxy, once, before an http.server that keeps objects in a dict."""

import http.client
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.proxy import (
    ACCESS_DENIED,
    CONFLICT,
    ERROR_IN_200,
    EXPIRED_TOKEN,
    INTERNAL_ERROR,
    NOT_IMPLEMENTED,
    SLOW_DOWN,
    Action,
    Answer,
    BlackHole,
    FaultProxy,
    Faults,
    Flip,
    Key,
    ReplaceHeaders,
    Reset,
    Rule,
    Seen,
    Stall,
    StripHeaders,
    Throttle,
    Truncate,
    Whitespace,
)
from tests.proxy.sign import sign_again
from tests.proxy.wire import Head

BODY = bytes(range(256)) * 8


class Upstream(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.heads: list[dict[str, str]] = []
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *_: Any) -> None:
        """A reset connection is what these tests are about."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Upstream

    def do_PUT(self) -> None:
        self.server.heads.append({name.lower(): value for name, value in self.headers.items()})
        if self.path.startswith("/refused-early"):
            return self._answer(403, b"denied", close=True)
        try:
            body = self._chunked() if "transfer-encoding" in self.headers else self._sized()
        except EOFError:
            self.close_connection = True
            return None
        self.server.objects[self.path] = body
        return self._answer(200, b"")

    do_POST = do_PUT

    def do_GET(self) -> None:
        if self.path.startswith("/chunked"):
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"4\r\nabcd\r\n3;x=y\r\nefg\r\n0\r\nx-checksum: 1\r\n\r\n")
        elif self.path.startswith("/until-close"):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"to the end")
            self.close_connection = True
        else:
            self._answer(200, self.server.objects.get(self.path, BODY))

    do_HEAD = do_GET

    def do_DELETE(self) -> None:
        self.send_response(204)
        self.end_headers()

    def _answer(self, status: int, body: bytes, *, close: bool = False) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", '"e"')
        if close:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _sized(self) -> bytes:
        size = int(self.headers.get("content-length", 0))
        body = self.rfile.read(size)
        if len(body) < size:
            raise EOFError
        return body

    def _chunked(self) -> bytes:
        """All of it as it came, framing and trailers too."""
        lines: list[bytes] = []
        while (line := self.rfile.readline()) != b"\r\n" or not lines[-1].startswith((b"0", b"x-")):
            if not line:
                raise EOFError
            lines.append(line)
        return b"".join(lines)

    def log_message(self, *_: Any) -> None:
        pass


class Client(http.client.HTTPConnection):
    """One connection; `ask` reads the whole answer."""

    def __init__(self, endpoint: str) -> None:
        super().__init__(urlsplit(endpoint).netloc, timeout=5)

    def ask(
        self, method: str, target: str, body: bytes | None = None, **headers: str
    ) -> tuple[int, bytes, http.client.HTTPMessage]:
        self.request(method, target, body, {name.replace("_", "-"): value for name, value in headers.items()})
        answer = self.getresponse()
        return answer.status, answer.read(), answer.headers


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@contextmanager
def faulty(upstream: Upstream, *rules: Rule, seed: int = 0) -> Iterator[tuple[FaultProxy, Client]]:
    with FaultProxy(upstream.url, Faults(rules, seed)) as proxy:
        client = Client(proxy.endpoint)
        yield proxy, client
        client.close()


def wait_ended(seen: Seen) -> Seen:
    deadline = time.monotonic() + 5
    while seen.ended is None and time.monotonic() < deadline:
        time.sleep(0.005)
    return seen


def errors(body: bytes) -> list[str]:
    return re.findall(r"<Code>(.*?)</Code>", body.decode())


# Without faults: nothing is changed


def test_requests_and_answers_pass_unchanged_over_one_connection(upstream: Upstream) -> None:
    with faulty(upstream) as (proxy, client):
        assert client.ask("PUT", "/b/k?x=1", BODY, X_Two="a  b")[0] == 200
        first_socket = client.sock
        assert client.ask("GET", "/b/k?x=1")[:2] == (200, BODY)
        assert client.ask("HEAD", "/b/k?x=1")[2]["Content-Length"] == "2048"
        assert client.ask("DELETE", "/b/k")[:2] == (204, b"")
        assert client.sock is first_socket
        assert upstream.heads[0]["host"] == urlsplit(proxy.endpoint).netloc
        assert upstream.heads[0]["x-two"] == "a  b"
        assert [(seen.method, seen.path, seen.query) for seen in proxy.requests] == [
            ("PUT", "/b/k", "x=1"),
            ("GET", "/b/k", "x=1"),
            ("HEAD", "/b/k", "x=1"),
            ("DELETE", "/b/k", ""),
        ]
        assert [(s.request_bytes, s.response_bytes, s.status, s.fault, s.error) for s in proxy.requests] == [
            (2048, 0, 200, "", ""),
            (0, 2048, 200, "", ""),
            (0, 0, 200, "", ""),
            (0, 0, 204, "", ""),
        ]


def test_chunks_and_trailers_pass_as_bytes(upstream: Upstream) -> None:
    chunked = b"5;chunk-signature=1\r\nhello\r\n0\r\nx-amz-checksum-crc32: AAAAAA==\r\n\r\n"
    with faulty(upstream) as (proxy, client):
        client.putrequest("PUT", "/b/k")
        client.putheader("Transfer-Encoding", "chunked")
        client.endheaders()
        client.send(chunked)
        assert client.getresponse().read() == b""
        assert upstream.objects["/b/k"] == chunked[:-2]
        assert client.ask("GET", "/chunked")[1] == b"abcdefg"
        assert [seen.request_bytes for seen in proxy.requests] == [5, 0]
        assert client.ask("GET", "/until-close")[1] == b"to the end"
        assert [seen.response_bytes for seen in proxy.requests] == [0, 7, 10]


def test_expect_100_continue_is_asked_of_the_store(upstream: Upstream) -> None:
    with faulty(upstream, Rule(ACCESS_DENIED, target="denied")) as (proxy, _):
        assert _put_expecting(proxy, "/b/k") == [b"HTTP/1.1 100 Continue", b"HTTP/1.1 200 OK"]
        assert upstream.objects["/b/k"] == b"hello"
        assert _put_expecting(proxy, "/b/denied") == [b"HTTP/1.1 403 Forbidden"]
        assert "/b/denied" not in upstream.objects


def _put_expecting(proxy: FaultProxy, target: str) -> list[bytes]:
    """The status lines in answer to a client that waits for leave to send its body."""
    with socket.create_connection(("127.0.0.1", urlsplit(proxy.endpoint).port or 0), timeout=5) as sock:
        head = f"PUT {target} HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"
        sock.sendall(head.encode())
        got = sock.recv(4096)
        if b" 100 " in got:
            sock.sendall(b"hello")
            got += sock.recv(4096)
    return re.findall(rb"HTTP/1.1 [^\r]*", got)


def test_a_store_that_refuses_before_the_body_is_heard(upstream: Upstream) -> None:
    with faulty(upstream) as (proxy, client):
        assert client.ask("PUT", "/refused-early", b"x" * 300_000)[:2] == (403, b"denied")
        assert wait_ended(proxy.requests[0]).request_bytes == 300_000


def test_many_connections_at_once(upstream: Upstream) -> None:
    def put(number: int) -> None:
        client = Client(proxy.endpoint)
        client.ask("PUT", f"/b/{number}", bytes([number]) * 100_000)
        client.close()

    with faulty(upstream) as (proxy, _):
        threads = [threading.Thread(target=put, args=[number]) for number in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert upstream.objects == {f"/b/{number}": bytes([number]) * 100_000 for number in range(16)}


# Answers of the proxy's own


@pytest.mark.parametrize(
    "answer,status,code",
    [
        (SLOW_DOWN, 503, "SlowDown"),
        (INTERNAL_ERROR, 500, "InternalError"),
        (ACCESS_DENIED, 403, "AccessDenied"),
        (EXPIRED_TOKEN, 403, "ExpiredToken"),
        (CONFLICT, 409, "ConditionalRequestConflict"),
    ],
)
def test_an_error_reaches_the_client_and_nothing_the_store(
    upstream: Upstream, answer: Answer, status: int, code: str
) -> None:
    with faulty(upstream, Rule(answer, times=1)) as (proxy, client):
        got, body, _ = client.ask("PUT", "/b/k", BODY)
        assert (got, errors(body)) == (status, [code])
        assert upstream.objects == {}
        assert client.ask("PUT", "/b/k", BODY)[0] == 200
        assert [seen.fault for seen in proxy.requests] == [f"{status} {code}", ""]
        assert [seen.store_status for seen in proxy.requests] == [None, 200]


def test_slow_down_can_say_when_to_come_back(upstream: Upstream) -> None:
    with faulty(upstream, Rule(Answer(503, "SlowDown", (("Retry-After", "2"),)))) as (_, client):
        assert client.ask("GET", "/b/k")[2]["Retry-After"] == "2"


def test_an_answer_to_head_has_no_body(upstream: Upstream) -> None:
    with faulty(upstream, Rule(SLOW_DOWN, times=1)) as (_, client):
        assert client.ask("HEAD", "/b/k")[:2] == (503, b"")
        assert client.ask("HEAD", "/b/k")[0] == 200


def test_a_header_can_be_not_implemented(upstream: Upstream) -> None:
    with faulty(upstream, Rule(NOT_IMPLEMENTED, header="If-None-Match")) as (_, client):
        assert client.ask("PUT", "/b/k", BODY, If_None_Match="*")[0] == 501
        assert client.ask("PUT", "/b/k", BODY)[0] == 200


@pytest.mark.parametrize("forward,stored", [(False, {}), (True, {"/b/k?uploadId=u": b"<Complete/>"})])
def test_completion_can_answer_200_with_an_error(upstream: Upstream, forward: bool, stored: dict[str, bytes]) -> None:
    answer = Answer(200, "InternalError", forward=True) if forward else ERROR_IN_200
    with faulty(upstream, Rule(answer, method="POST", target=r"\?uploadId=")) as (proxy, client):
        status, body, _ = client.ask("POST", "/b/k?uploadId=u", b"<Complete/>")
        assert (status, errors(body)) == (200, ["InternalError"])
        assert upstream.objects == stored
        assert proxy.requests[0].store_status == (200 if forward else None)


# Resets


def test_reset_before_the_body_never_reaches_the_store(upstream: Upstream) -> None:
    with faulty(upstream, Rule(Reset("request-head"))) as (proxy, client):
        with pytest.raises(ConnectionError):
            client.ask("PUT", "/b/k", BODY)
        assert wait_ended(proxy.requests[0]).fault == "reset request-head"
        assert upstream.heads == []


def test_reset_in_the_request_body_stores_nothing(upstream: Upstream) -> None:
    with faulty(upstream, Rule(Reset("request-body", at=0.5))) as (proxy, client):
        with pytest.raises(ConnectionError):
            client.ask("PUT", "/b/k", b"x" * 1_000_000)
        assert wait_ended(proxy.requests[0]).fault == "reset request-body"
        assert proxy.requests[0].request_bytes == 500_000
        assert upstream.objects == {}


def test_a_lost_answer_leaves_the_work_done(upstream: Upstream) -> None:
    with faulty(upstream, Rule(Reset("answer-head"))) as (proxy, client):
        with pytest.raises(ConnectionError):
            client.ask("PUT", "/b/k", BODY)
        assert wait_ended(proxy.requests[0]).fault == "reset answer-head"
        assert (proxy.requests[0].store_status, proxy.requests[0].status) == (200, None)
        assert upstream.objects == {"/b/k": BODY}


@pytest.mark.parametrize("target,sent", [("/b/k", 1024), ("/chunked", 2)])
def test_reset_in_the_answer_body(upstream: Upstream, target: str, sent: int) -> None:
    with faulty(upstream, Rule(Reset("answer-body", at=0.5))) as (proxy, client):
        with pytest.raises((ConnectionError, http.client.IncompleteRead)):
            client.ask("GET", target)
        assert wait_ended(proxy.requests[0]).fault == "reset answer-body"
        assert proxy.requests[0].response_bytes == sent


# Stalls, flips, cuts


@pytest.mark.parametrize(
    "stall",
    [
        Stall("request-head", 0.2),
        Stall("request-body", 0.2),
        Stall("answer-head", 0.2),
        Stall("answer-body", 0.2),
    ],
)
def test_a_stall_delays_and_changes_nothing(upstream: Upstream, stall: Stall) -> None:
    upstream.objects["/b/k"] = BODY
    method = "PUT" if stall.where.startswith("request") else "GET"
    with faulty(upstream, Rule(stall)) as (proxy, client):
        start = time.monotonic()
        client.ask(method, "/b/k", BODY if method == "PUT" else None)
        assert time.monotonic() - start >= 0.2
        assert proxy.requests[0].fault == f"stall {stall.where}"
        assert upstream.objects == {"/b/k": BODY}


def test_the_proxy_closes_while_it_stalls(upstream: Upstream) -> None:
    with FaultProxy(upstream.url, Faults((Rule(Stall("request-head", 600)),))) as proxy:
        client = Client(proxy.endpoint)
        client.request("GET", "/b/k")
        while not proxy.requests:
            time.sleep(0.005)
    with pytest.raises(ConnectionError):
        client.getresponse()


@pytest.mark.parametrize("at,position", [(0.0, 0), (0.5, 1024), (0.9999, 2047)])
def test_one_byte_of_the_request_is_flipped(upstream: Upstream, at: float, position: int) -> None:
    with faulty(upstream, Rule(Flip("request-body", at=at))) as (_, client):
        assert client.ask("PUT", "/b/k", BODY)[0] == 200
        stored = upstream.objects["/b/k"]
        assert [i for i in range(2048) if stored[i] != BODY[i]] == [position]
        assert len(stored) == 2048


def test_one_byte_of_the_answer_is_flipped(upstream: Upstream) -> None:
    with faulty(upstream, Rule(Flip("answer-body"))) as (proxy, client):
        status, body, headers = client.ask("GET", "/b/k")
        assert (status, headers["Content-Length"], len(body)) == (200, "2048", 2048)
        assert sum(a != b for a, b in zip(body, BODY, strict=True)) == 1
        assert proxy.requests[0].fault == "flip answer-body"


def test_a_flip_in_chunks_spares_their_framing(upstream: Upstream) -> None:
    with faulty(upstream, Rule(Flip("answer-body", at=0.5))) as (_, client):
        assert client.ask("GET", "/chunked")[1] == b"abbdefg"


def test_an_empty_body_meets_no_fault(upstream: Upstream) -> None:
    with faulty(upstream, Rule(Flip("request-body")), Rule(Truncate())) as (proxy, client):
        assert client.ask("HEAD", "/b/k")[0] == 200
        assert client.ask("DELETE", "/b/k")[0] == 204
        assert [seen.fault for seen in proxy.requests] == ["", ""]


def test_a_truncated_answer_keeps_its_head(upstream: Upstream) -> None:
    with faulty(upstream, Rule(Truncate(at=0.25))) as (proxy, client):
        client.request("GET", "/b/k")
        answer = client.getresponse()
        assert answer.headers["Content-Length"] == "2048"
        with pytest.raises(http.client.IncompleteRead) as caught:
            answer.read()
        assert caught.value.partial == BODY[:512]
        assert wait_ended(proxy.requests[0]).fault == "truncate answer-body"


def test_two_requests_share_a_throttled_link(upstream: Upstream) -> None:
    upstream.objects["/b/k"] = b"x" * 10_000
    with faulty(upstream, Rule(Throttle(up=50_000, down=50_000))) as (_, client):
        start = time.monotonic()
        client.ask("PUT", "/b/other", b"x" * 10_000)
        middle = time.monotonic()
        client.ask("GET", "/b/k")
        assert 0.2 <= middle - start < 1
        assert 0.2 <= time.monotonic() - middle < 1


DOCUMENT = b'<?xml version="1.0"?>\n<Done/>'


@pytest.mark.parametrize(
    "after_declaration,begins", [(True, rb'<\?xml version="1\.0"\?> {3,}'), (False, rb" {3,}<\?xml")]
)
def test_blanks_come_before_an_answer(upstream: Upstream, after_declaration: bool, begins: bytes) -> None:
    upstream.objects["/b/k"] = DOCUMENT
    with faulty(upstream, Rule(Whitespace(0.3, after_declaration))) as (proxy, client):
        status, body, headers = client.ask("GET", "/b/k")
        assert (status, headers["ETag"], headers["Content-Length"]) == (200, '"e"', None)
        assert re.match(begins, body)
        assert body.replace(b" ", b"") == DOCUMENT.replace(b" ", b"")
        assert proxy.requests[0].fault == "whitespace answer-body"
        assert client.ask("HEAD", "/b/k")[0] == 200  # on the same connection


def test_a_refusal_after_blanks_is_a_200(upstream: Upstream) -> None:
    with faulty(upstream, Rule(Whitespace(0.1))) as (proxy, client):
        status, body, _ = client.ask("PUT", "/refused-early", BODY)
        assert (status, body.strip()) == (200, b"denied")
        assert proxy.requests[0].store_status == 403


# Headers


def test_a_header_of_the_answer_is_replaced_where_it_is_there(upstream: Upstream) -> None:
    replace = ReplaceHeaders((("ETag", '"no md5"'), ("x-amz-checksum-crc32c", "AAAAAA==")))
    with faulty(upstream, Rule(replace)) as (_, client):
        headers = client.ask("PUT", "/b/k", BODY)[2]
        assert headers["ETag"] == '"no md5"'
        assert headers["x-amz-checksum-crc32c"] is None


def test_headers_are_stripped_both_ways_beside_a_fault(upstream: Upstream) -> None:
    strip = StripHeaders(request=("If-None-Match",), answer=("ETag",))
    with faulty(upstream, Rule(strip), Rule(Flip("request-body", at=0.0))) as (proxy, client):
        assert client.ask("PUT", "/b/k", b"hello", If_None_Match="*")[2]["ETag"] is None
        assert "if-none-match" not in upstream.heads[0]
        assert proxy.requests[0].headers["if-none-match"] == "*"
        assert upstream.objects == {"/b/k": b"iello"}


def test_signature_of_amazons_own_example() -> None:
    """docs.aws.amazon.com, "Signature Calculations for the Authorization Header", example GET Object."""
    head = Head(
        "GET /test.txt HTTP/1.1",
        (
            "Host: examplebucket.s3.amazonaws.com",
            "Range: bytes=0-9",
            f"x-amz-content-sha256: {sha256().hexdigest()}",
            "x-amz-date: 20130524T000000Z",
            "Authorization: AWS4-HMAC-SHA256 Credential=old/20130524/us-east-1/s3/aws4_request, "
            "SignedHeaders=host;if-none-match;range;x-amz-content-sha256;x-amz-date, Signature=0",
        ),
    )
    key = Key("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
    assert sign_again(head, key).headers["authorization"] == (
        "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request, "
        "SignedHeaders=host;range;x-amz-content-sha256;x-amz-date, "
        "Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"
    )


# The plan


def put(target: str) -> Seen:
    path, _, query = target.partition("?")
    return Seen("PUT", path, query, {"content-length": "5"}, at=0.0)


def fates(faults: Faults, targets: list[str]) -> list[tuple[Action, ...]]:
    return [faults(put(target)) for target in targets]


def test_a_rule_fires_from_its_nth_match_and_so_many_times() -> None:
    faults = Faults((Rule(SLOW_DOWN, target="/b/", nth=2, times=2),))
    targets = ["/b/1", "/c/1", "/b/2", "/b/3", "/b/4"]
    assert fates(faults, targets) == [(), (), (SLOW_DOWN,), (SLOW_DOWN,), ()]


def test_rules_read_as_a_sequence() -> None:
    faults = Faults((Rule(SLOW_DOWN, times=1), Rule(CONFLICT, times=1)))
    assert (fates(faults, ["/b/k"]), faults.fired) == ([(SLOW_DOWN,)], {0})
    assert (fates(faults, ["/b/k"] * 2), faults.fired) == ([(CONFLICT,), ()], {0, 1})


def test_each_request_can_have_its_own_count() -> None:
    faults = Faults((Rule(SLOW_DOWN, times=1, each=True),))
    targets = [f"/b/k?partNumber={n}&uploadId=u" for n in (1, 2, 1, 2)]
    assert fates(faults, targets) == [(SLOW_DOWN,), (SLOW_DOWN,), (), ()]


def test_a_seed_fixes_each_request_s_fate_in_any_order() -> None:
    rules = (Rule(SLOW_DOWN, probability=0.3), Rule(Flip("request-body"), probability=0.3))
    targets = [f"/b/k?partNumber={n}&uploadId=u" for n in range(200)]
    other_upload = [target.replace("=u", "=v") for target in reversed(targets)]
    forth = fates(Faults(rules, seed=7), targets)
    assert fates(Faults(rules, seed=7), other_upload)[::-1] == forth
    assert fates(Faults(rules, seed=8), targets) != forth
    assert 30 < sum(fate == (SLOW_DOWN,) for fate in forth) < 90


def test_a_plan_may_be_any_callable_and_be_replaced(upstream: Upstream) -> None:
    with FaultProxy(upstream.url, lambda seen: (EXPIRED_TOKEN,) if seen.query else ()) as proxy:
        client = Client(proxy.endpoint)
        assert [client.ask("GET", target)[0] for target in ("/b/k", "/b/k?x")] == [200, 403]
        proxy.faults = Faults()
        assert client.ask("GET", "/b/k?x")[0] == 200
        client.close()


# Stores that are not there


def test_an_unreachable_store_resets_the_client() -> None:
    with BlackHole(accept=False) as nobody, FaultProxy(nobody.endpoint) as proxy:
        with pytest.raises(ConnectionError):
            Client(proxy.endpoint).ask("GET", "/b/k")
        assert "ConnectionRefusedError" in wait_ended(proxy.requests[0]).error


def test_a_black_hole_accepts_and_never_answers() -> None:
    with BlackHole() as hole:
        client = Client(hole.endpoint)
        client.request("GET", "/b/k")
        assert client.sock is not None
        client.sock.settimeout(0.2)
        with pytest.raises(TimeoutError):
            client.getresponse()
        client.close()


def test_a_port_can_refuse() -> None:
    with BlackHole(accept=False) as nobody, pytest.raises(ConnectionRefusedError):
        Client(nobody.endpoint).ask("GET", "/b/k")
