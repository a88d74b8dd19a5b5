"""What moves without boto3's client: what that would send goes where that would send it, and is signed alike."""

import base64
import hashlib
import http.client
import http.server
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from itertools import count, product
from typing import IO, Any, Self

import pycurl
import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.session import Session

from lfs_agent.config import Settings
from lfs_agent.errors import AgentError, ConflictError, CredentialsError, LocalError, TransientError
from lfs_agent.parts import KIB, MIB, Part
from lfs_agent.store import ObjectStat, SentPart
from lfs_agent.store.aws import Aws
from lfs_agent.store.connection import Connection, resolve_connection
from lfs_agent.store.s3 import S3Store, S3Upload
from lfs_agent.store.s3lean import base_of
from tests.contract.stores import BytesBody, content, crc_of, oid_of, read

DATA = content(1000)
OID = oid_of(DATA)
KEY = f"models/{OID[:2]}/{OID[2:4]}/{OID}"
FILES = {"AWS_CONFIG_FILE": "/nowhere/config", "AWS_SHARED_CREDENTIALS_FILE": "/nowhere/credentials"}
ACCESS_DENIED_XML = b"<Error><Code>AccessDenied</Code><Message>No</Message><RequestId>R</RequestId></Error>"
UPLOAD_ID = "2~a/b+c=d&e f"
BEGUN_XML = f"<R><Key>{KEY}</Key><UploadId>{UPLOAD_ID.replace('&', '&amp;')}</UploadId></R>".encode()
KEYS = {"AWS_ACCESS_KEY_ID": "access", "AWS_SECRET_ACCESS_KEY": "hush-hush", **FILES}


class Listener:
    """A server that keeps every request, and answers all of them with `status` and `headers`."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.status = 200
        self.body = b""
        self.headers = {"ETag": f'"{hashlib.md5(DATA).hexdigest()}"', "Last-Modified": "Sat, 21 Nov 2026 10:00:00 GMT"}
        kept = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # else each body waits 40 ms for the head to be confirmed

            def answer(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                headers = {name.lower(): value for name, value in self.headers.items()}
                kept.requests.append((self.command, self.path, headers))
                self.send_response(kept.status)
                content = kept.body or (BEGUN_XML if self.command == "POST" else b"")
                for name, value in {**kept.headers, "Content-Length": str(len(content))}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    with suppress(ConnectionError):  # who has read enough hangs up
                        self.wfile.write(content)

            do_GET = do_HEAD = do_POST = do_PUT = answer

            def log_message(self, *args: Any) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class Script:
    """A server that answers each request with the next of `answers`, as it stands, and hangs up where that is "bye".

    `nap_s`: before it takes the next 32 KiB of a body; its kernel keeps no more than as many for it.
    """

    def __init__(self, *answers: bytes, nap_s: float = 0.0) -> None:
        self._answers = list(answers)
        self._nap_s = nap_s
        self._listener = socket.create_server(("127.0.0.1", 0))
        if nap_s:
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _PIECE)
        self.endpoint = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.requests: list[tuple[int, str, bytes]] = []
        """On which connection, what, and the body."""

    def __enter__(self) -> Self:
        threading.Thread(target=self._listen, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _listen(self) -> None:
        with suppress(OSError):
            for connection in count(1):
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(connection, client), daemon=True).start()

    def _serve(self, connection: int, client: socket.socket) -> None:
        with client, client.makefile("rb") as sent:
            while method := sent.readline().partition(b" ")[0]:
                headers = http.client.parse_headers(sent)
                body = b"".join(self._pieces(sent, int(headers.get("Content-Length", 0))))
                self.requests.append((connection, method.decode(), body))
                answer, bye, _ = self._answers.pop(0).partition(b"bye")
                client.sendall(answer)
                if bye:
                    return

    def _pieces(self, sent: IO[bytes], left: int) -> Iterator[bytes]:
        while left:
            time.sleep(self._nap_s)
            yield sent.read(min(left, _PIECE))
            left -= min(left, _PIECE)


_PIECE = 32 * KIB


def ok(*headers: str, content: bytes = b"") -> bytes:
    return "\r\n".join(["HTTP/1.1 200 OK", f"Content-Length: {len(content)}", *headers, "", ""]).encode() + content


@pytest.fixture
def listener() -> Iterator[Listener]:
    listener = Listener()
    yield listener
    listener.stop()


@pytest.fixture(autouse=True)
def nothing_of_aws(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("AWS_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


@cache
def aws_in(environ: frozenset[tuple[str, str]]) -> Aws:
    """Of an environment; each has files of botocore's to read, which take longer than a test."""
    return Aws(Settings(), dict(environ))


def store_at(endpoint: str, *, lean: bool = True, **settings: Any) -> S3Store:
    region = settings.pop("region", "us-east-1")
    aws = aws_in(frozenset((KEYS | settings.pop("environ", {})).items()))
    to = Connection(aws, endpoint, region, True, "", "", "", lean=lean)
    return S3Store("cellar", to, Settings(**settings))


Sent = tuple[str, str, dict[str, str]]


def is_lean(sent: Sent) -> bool:
    """Whether it was sent without the client, which names itself."""
    return "botocore" not in sent[2]["user-agent"].lower()


def ask(store: S3Store) -> list[str]:
    """A put, an upload in parts, a look, a read and two lists, and what came of them."""
    found = []
    upload = S3Upload(store, KEY, len(DATA), UPLOAD_ID, "full", "")
    part = Part(7, 0, len(DATA))
    for call in (
        lambda: store.put(KEY, OID, BytesBody(DATA)),
        lambda: store.begin(KEY, OID, len(DATA)).token,
        lambda: upload.put_part(part, BytesBody(DATA), crc_of(DATA)),
        lambda: upload.complete([SentPart(part, '"<e>&"', crc_of(DATA))], crc_of(DATA)),
        lambda: store.stat(KEY),
        lambda: read(store, KEY, 0, 10),
        lambda: store.listed("models/", after=KEY),
        lambda: store.listed(""),
    ):
        try:
            found.append(str(call()))
        except AgentError as error:
            found.append(f"{type(error).__name__}: {error} {vars(error)}")
    return found


def told(requests: list[Sent]) -> list[Any]:
    """Where each went, as whom, and all that was said but for the moment and for the client's own bookkeeping."""
    found: list[Any] = []
    for method, path, headers in requests:
        authorization = headers.pop("authorization", "")
        signed = re.fullmatch(r"AWS4-HMAC-SHA256 Credential=(.+?)/[0-9]+/(.+), SignedHeaders=(.+), .*", authorization)
        # The length is as good as signed, by the hash.
        names = set(signed[3].split(";")) - BOOKKEEPING - {"content-length"} if signed else set()
        said = {
            name: value for name, value in headers.items() if name not in BOOKKEEPING | {"x-amz-date", "user-agent"}
        }
        found.append((method, path, signed and signed.group(1, 2), sorted(names), said))
    return found


def signed_with(sent: Sent) -> str:
    return sent[2]["authorization"].rpartition("Signature=")[2]


def signature_of(sent: Sent, secret: str) -> str:
    """What botocore would sign the request with, as it was sent."""
    method, path, headers = sent
    signed = re.search(r"Credential=.+?/[0-9]+/(.+?)/.*SignedHeaders=([^,]+)", headers["authorization"])
    assert signed
    said = {name: headers[name] for name in signed[2].split(";")}
    request = AWSRequest(method, f"http://{headers['host']}{path}", said)
    request.context["timestamp"] = headers["x-amz-date"]
    signer: Any = S3SigV4Auth(Credentials("", secret), "s3", signed[1])
    return str(signer.signature(signer.string_to_sign(request, signer.canonical_request(request)), request))


BOOKKEEPING = {"amz-sdk-invocation-id", "amz-sdk-request", "expect"}
"""Of the client: with the last it asks before each part whether to send it, which takes a round trip."""


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"region": "eu-west-3"},
        {"region": "garage"},
        {"environ": {"AWS_SESSION_TOKEN": "token"}},
        {"expected_owner": "123456789012", "requester_pays": True},
        {"storage_class": "STANDARD_IA", "sse": "aws:kms", "sse_kms_key_id": "alias/a  key"},
        {"public": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("base", ["", "/s3/"])
def test_the_same_is_sent_to_the_same_place_with_the_client_and_without_it(
    listener: Listener, base: str, settings: dict[str, Any]
) -> None:
    endpoint = f"http://127.0.0.1:{listener.port}{base}"
    ask(store_at(endpoint, **settings))
    lean, listener.requests = listener.requests, []
    ask(store_at(endpoint, lean=False, **settings))

    assert all(map(is_lean, lean))
    assert not any(map(is_lean, listener.requests))
    if "public" not in settings:
        assert [signature_of(sent, "hush-hush") for sent in lean] == [signed_with(sent) for sent in lean]
    assert told(lean) == told(listener.requests)
    assert {"PUT", "POST", "HEAD", "GET"} <= {method for method, _, _ in lean}


@pytest.mark.parametrize(
    "key, secret",
    [
        ("models/a b+c%2F&=;~'()!*,$@:/\u00fc\U0001f600/x", "hush-hush"),
        ("//models///x/", "hush-hush"),
        ("models/.../.x/..y/z.", "hush-hush"),
        ("key", 'se+/=:c r%20et"\\'),
        ("key", "geh\u00e4im\u20ac"),
    ],
)
def test_any_key_is_signed_as_it_is_sent(listener: Listener, key: str, secret: str) -> None:
    endpoint = f"http://127.0.0.1:{listener.port}"
    for lean in (True, False):
        store = store_at(endpoint, environ={"AWS_SECRET_ACCESS_KEY": secret}, lean=lean)
        store.put(key, OID, BytesBody(DATA))
        store.stat(key)
    put, head, *by_client = listener.requests

    assert [is_lean(put), is_lean(head)] == [True, True]
    assert [path for _, path, _ in (put, head)] == [path for _, path, _ in by_client]
    assert [signature_of(sent, secret) for sent in (put, head)] == [signed_with(put), signed_with(head)]


@pytest.mark.parametrize(
    "key, access_key",
    [("models/../x", ""), ("./models/x", ""), ("models/.", ""), ("..", ""), ("x", "vera@cellar"), ("x", "a:b+c")],
)
def test_what_libcurl_would_send_otherwise_is_left_to_the_client(listener: Listener, key: str, access_key: str) -> None:
    environ = {"AWS_ACCESS_KEY_ID": access_key} if access_key else {}
    store_at(f"http://127.0.0.1:{listener.port}", environ=environ).stat(key)
    (sent,) = listener.requests

    assert (is_lean(sent), sent[1]) == (False, f"/cellar/{key}")
    assert f"Credential={access_key or 'access'}/" in sent[2]["authorization"]


@pytest.mark.parametrize("name", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"])
@pytest.mark.parametrize("behind", ["\n", "\r\nX-Amz-Acl: public-read"])
@pytest.mark.parametrize("lean", [True, False])
def test_a_key_with_a_line_break_is_told_and_in_no_request(
    listener: Listener, name: str, behind: str, lean: bool
) -> None:
    store = store_at(f"http://127.0.0.1:{listener.port}", environ={name: f"Canary{behind}"}, lean=lean)
    with pytest.raises(CredentialsError, match=r"the (access|secret|session) (key|token) has a line break") as raised:
        store.stat(KEY)

    assert "Canary" not in str(raised.value)
    assert listener.requests == []


@pytest.mark.parametrize(
    "behind", ["&#13;&#10;X-Amz-Acl: public-read", "&#10;X-Amz-Acl: public-read", "&#13;&#10;&#13;&#10;"]
)
@pytest.mark.parametrize("lean", [True, False])
def test_a_tag_with_a_line_break_is_told_and_in_no_request(listener: Listener, behind: str, lean: bool) -> None:
    entry = f"<Contents><Key>{KEY}</Key><Size>1000</Size><ETag>a{behind}</ETag></Contents>"
    listener.body = f"<ListBucketResult>{entry}<IsTruncated>false</IsTruncated></ListBucketResult>".encode()
    store = store_at(f"http://127.0.0.1:{listener.port}", lean=lean)
    (found,), _ = store.listed("")
    for call in (lambda: read(store, KEY, 0, 10, found.etag), lambda: store.put(KEY, OID, BytesBody(DATA), found.etag)):
        with pytest.raises(TransientError, match=r"no sane answer|Invalid header value"):
            call()
    assert [(method, path.partition("?")[0]) for method, path, _ in listener.requests] == [("GET", "/cellar")]


@pytest.mark.parametrize("region", ["eu:west", "eu-west-3\r\nX-Amz-Acl: public-read", "eu-west-3\n", ""])
def test_a_region_that_says_more_than_its_name_is_in_no_request(listener: Listener, region: str) -> None:
    with suppress(AgentError):
        store_at(f"http://127.0.0.1:{listener.port}", region=region).stat(KEY)

    assert not any(map(is_lean, listener.requests))


@cache
def session() -> Session:
    session = Session()
    session.set_credentials("access", "hush-hush")
    return session


@pytest.mark.parametrize("path_style", [True, False])
@pytest.mark.parametrize("region", ["us-east-1", "eu-central-1", "cn-north-1", "mars-1"])
@pytest.mark.parametrize(
    "endpoint", ["", "https://s3.example.org:9000", "http://host.example/base", "https://[::1]:1", "http://10.0.0.1"]
)
@pytest.mark.parametrize("bucket", ["cellar", "my.cellar", "cellar--use1-az4--x-s3"])
def test_keys_follow_the_url_that_botocore_resolves_or_boto3_is_used(
    bucket: str, endpoint: str, region: str, path_style: bool
) -> None:
    base = base_of(bucket, endpoint, region, path_style=path_style)
    if base:
        style: Any = {"addressing_style": "path" if path_style else "virtual"}
        client: Any = session().create_client(
            "s3",
            region_name=region,
            endpoint_url=endpoint or None,
            config=Config(s3=style),
        )
        urls: list[str] = []

        def stop(request: Any, **_: Any) -> None:
            urls.append(request.url)
            raise InterruptedError

        client.meta.events.register("before-send.s3", stop)
        with pytest.raises(InterruptedError):
            client.head_object(Bucket=bucket, Key=KEY)
        assert urls == [f"{base}/{KEY}"]
    usual = bucket == "cellar" and (endpoint or region in ("us-east-1", "eu-central-1"))
    named = "10.0" not in endpoint and "[" not in endpoint
    assert bool(base) == bool(usual and (path_style or named))


BODIES = [b"", ACCESS_DENIED_XML, b"<html><p>", b"no XML & none"]
BODIES_OF_403 = [
    b"<Error><Code>InvalidObjectState</Code><Message></Message><StorageClass>GLACIER</StorageClass></Error>",
    b"<Error><Code>NoSuchKey</Code><Message>R&amp;D</Message></Error>",
    b"<Error><Code>NoSuchKey</Message></Error>",
    b'<?xml version="1.0" encoding="UTF-8"?>\n<Error xmlns="urn:s3"><Code>NoSuchKey</Code></Error>',
]


@pytest.mark.parametrize(
    "status, body",
    [
        *product([200, 400, 403, 404, 409, 412, 416, 429, 500, 501, 503], BODIES),
        *product([403], BODIES_OF_403),
    ],
)
def test_a_refusal_is_told_alike(listener: Listener, status: int, body: bytes) -> None:
    listener.status, listener.body = status, body
    endpoint = f"http://127.0.0.1:{listener.port}"
    assert ask(store_at(endpoint)) == ask(store_at(endpoint, lean=False))


PAGE = b"""<?xml version="1.0" encoding="UTF-8"?>
<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>cellar</Name><EncodingType>url</EncodingType>
<Contents><Key>models/a+b%26%C3%BC</Key><LastModified>2026-11-21T10:00:00.000Z</LastModified>
<ETag>&quot;one&quot;</ETag><Size>5000000000</Size><Owner><ID>vera</ID></Owner><StorageClass>STANDARD</StorageClass></Contents>
<Contents><Key>models/b</Key><Size>0</Size><StorageClass>GLACIER</StorageClass></Contents>
<IsTruncated>true</IsTruncated></ListBucketResult>"""


@pytest.mark.parametrize("lean", [True, False])
def test_a_page_of_a_list_is_read_alike(listener: Listener, lean: bool) -> None:
    listener.body = PAGE
    store = store_at(f"http://127.0.0.1:{listener.port}", lean=lean)
    (first, second), after = store.listed("models/")
    listener.body = PAGE.replace(b"<EncodingType>url</EncodingType>", b"").replace(b"true", b"false")
    (as_it_is, _), end = store.listed("models/")

    assert first == ObjectStat("models/a b&\u00fc", 5_000_000_000, etag='"one"')
    assert (second.key, second.size, second.archived[:14]) == ("models/b", 0, "it is archived")
    assert (after, as_it_is.key, end) == ("models/b", "models/a+b%26%C3%BC", "")
    assert is_lean(listener.requests[0]) == lean


@pytest.mark.parametrize(
    "body",
    [b"", PAGE[:-40], b"<html>Log in</html>", PAGE.replace(b"<Size>0</Size>", b""), PAGE.replace(b">0<", b">many<")],
)
@pytest.mark.parametrize("lean", [True, False])
def test_what_is_no_page_of_a_list_is_not_taken_for_an_empty_one(listener: Listener, body: bytes, lean: bool) -> None:
    listener.body = body

    with pytest.raises(TransientError):
        store_at(f"http://127.0.0.1:{listener.port}", lean=lean).listed("models/")


@pytest.mark.parametrize(
    "name", ["AWS_USE_FIPS_ENDPOINT", "AWS_USE_DUALSTACK_ENDPOINT", "AWS_S3_US_EAST_1_REGIONAL_ENDPOINT"]
)
def test_what_only_the_client_knows_is_left_to_it(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    environ = KEYS | {name: "true"}
    for variable, value in environ.items():
        monkeypatch.setenv(variable, value)

    assert not resolved(environ).lean
    assert resolved(KEYS).lean


def not_there(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(sys.modules, "pycurl", None)


def too_old(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(pycurl, "version_info", lambda: (6, "7.88.1", 0x075801))


def built_against_an_old_one(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(pycurl, "COMPILE_LIBCURL_VERSION_NUM", 0x075801)


def without_signatures(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(pycurl, "AWS_SIGV4", pycurl.SSLENGINE)  # which refuses a name like this one, too


@pytest.mark.parametrize("broken", [not_there, too_old, built_against_an_old_one, without_signatures])
def test_where_libcurl_cannot_sign_all_goes_through_the_client(
    listener: Listener, monkeypatch: pytest.MonkeyPatch, broken: Callable[[pytest.MonkeyPatch], None]
) -> None:
    for module in ("lfs_agent.store.s3curl", "lfs_agent.store.s3lean"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    broken(monkeypatch)
    endpoint = f"http://127.0.0.1:{listener.port}"
    assert ask(store_at(endpoint)) == ask(store_at(endpoint, lean=False))
    assert not any(map(is_lean, listener.requests))


def resolved(environ: dict[str, str]) -> Connection:
    return resolve_connection(Aws(Settings(), environ), Settings(), "", lambda *_: "")


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"AWS_DEFAULT_REGION": "eu-west-3"},
        {"AWS_REGION": "eu-west-1", "AWS_DEFAULT_REGION": "eu-west-3", "AWS_SESSION_TOKEN": "token"},
        {"AWS_ENDPOINT_URL": "http://one", "AWS_CA_BUNDLE": "/nowhere/ca.pem", "AWS_ACCOUNT_ID": "123456789012"},
        {"AWS_ENDPOINT_URL": "http://one", "AWS_ENDPOINT_URL_S3": "http://two", "AWS_ENDPOINT_URL_STS": "http://sts"},
        {"AWS_ENDPOINT_URL": "http://one", "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true"},
    ],
    ids=str,
)
def test_a_plain_environment_is_read_as_botocore_reads_it(
    monkeypatch: pytest.MonkeyPatch, environ: dict[str, str]
) -> None:
    environ = KEYS | environ
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    found = []
    for aws in (Aws(Settings(), environ), ByBotocore(Settings(), environ)):
        source = aws.ask_chain()
        assert source is not None
        found.append((aws.said, aws.endpoint_of("sts"), source.get_frozen_credentials()))

    assert found[0] == found[1]


class ByBotocore(Aws):
    is_plain = False


@pytest.mark.parametrize(
    "settings, environ",
    [
        ({"profile": "work"}, {}),
        ({}, {"AWS_PROFILE": "work"}),
        ({}, {"AWS_CREDENTIAL_EXPIRATION": "2027-01-01T00:00:00Z"}),
        ({}, {"AWS_SECRET_ACCESS_KEY": ""}),
        ({}, {"AWS_CONFIG_FILE": __file__}),
        ({}, {"AWS_NEW_VARIABLE": "1"}),
    ],
    ids=str,
)
def test_anything_else_is_left_to_botocore(settings: dict[str, Any], environ: dict[str, str]) -> None:
    assert not Aws(Settings(**settings), KEYS | environ).is_plain
    assert Aws(Settings(), KEYS).is_plain


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_nothing_goes_where_a_redirect_leads(listener: Listener, status: int) -> None:
    page = Listener()
    listener.status, listener.headers = status, {"Location": f"http://127.0.0.1:{page.port}/login"}
    try:
        ask(store_at(f"http://127.0.0.1:{listener.port}"))
    finally:
        page.stop()

    assert page.requests == []
    assert all(map(is_lean, listener.requests))


# Answers, byte by byte

CHECKED = f"x-amz-checksum-sha256: {base64.b64encode(bytes.fromhex(OID)).decode()}"
FOUND = f"x-amz-meta-sha256: {OID}"


def test_what_comes_before_an_answer_or_behind_it_is_no_part_of_it() -> None:
    early = b'HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nETag: "other"\r\nx-amz-meta-sha256: 0\r\n\r\n'
    chunks = b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nETag: "late"\r\n\r\n'
    with Script(early + ok(FOUND), chunks) as server:
        store = store_at(server.endpoint)
        found = store.stat(KEY)
        with pytest.raises(ConflictError, match="no sane answer"):  # there was no ETag in it
            store.put(KEY, OID, BytesBody(DATA))

    assert found is not None
    assert (found.etag, found.recorded) == ("", OID)


def test_a_body_that_head_may_not_have_is_no_part_of_the_next_answer() -> None:
    page = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
    with Script(ok(content=page), ok('ETag: "e"', content=DATA)) as server:
        store = store_at(server.endpoint)
        store.stat(KEY)
        assert read(store, KEY, 0, len(DATA))[1] == DATA


@pytest.mark.parametrize("size", [1000, 3 * MIB])
def test_what_came_before_an_answer_broke_off_is_kept(size: int) -> None:
    data = content(size)
    cut = ok('ETag: "e"', content=data)[: -size // 3]
    got = bytearray()
    with Script(cut + b"bye") as server, pytest.raises(TransientError):
        store_at(server.endpoint).fetch(KEY, 0, size, lambda _, chunk: got.extend(chunk))

    assert got == data[: len(got)]
    assert len(got) == size - -(-size // 3)


def test_what_was_taken_of_an_answer_holds_until_it_is_closed() -> None:
    """Where something still holds, and both are garbage, Python 3.13 complains on the user's terminal."""
    with Script(ok('ETag: "e"', content=DATA)) as server:
        body = store_at(server.endpoint).ask("reading", "get_object", KEY)["Body"]
        taken = body.take(10)
        assert taken == DATA[:10]
        body.close()
        with pytest.raises(ValueError, match="released"):
            bytes(taken)


def test_a_kept_connection_that_ends_meanwhile_is_not_told_and_the_whole_object_is_sent_once_more() -> None:
    with Script(ok('ETag: "e"', CHECKED), b"bye", ok('ETag: "e"', CHECKED)) as server:
        store = store_at(server.endpoint)
        assert store.put(KEY, OID, BytesBody(DATA))
        assert store.put(KEY, OID, BytesBody(DATA))

    assert server.requests == [(1, "PUT", DATA), (1, "PUT", DATA), (2, "PUT", DATA)]


@pytest.mark.parametrize("said", [b"", b"\x15\x03\x01\0\x02\x02F", b"SSH-2.0-OpenSSH_9.6\r\n"])
def test_a_connection_that_ends_without_an_answer_is_told(said: bytes) -> None:
    with Script(said + b"bye") as server, pytest.raises(TransientError, match="hung up without an answer"):
        store_at(server.endpoint).put(KEY, OID, BytesBody(DATA))

    assert server.requests == [(1, "PUT", DATA)]


class Unreadable(BytesBody):
    """Fails in the middle, when it is sent."""

    is_sent = False

    def sending(self) -> None:
        self.is_sent = True

    def read(self, size: int = -1, /) -> bytes:
        if self.is_sent and self.tell():
            raise LocalError("the disk is gone")
        return super().read(size)


def test_why_a_body_cannot_be_read_is_told_and_nothing_is_printed(
    listener: Listener, capfd: pytest.CaptureFixture[str]
) -> None:
    data = content(200_000)
    store = store_at(f"http://127.0.0.1:{listener.port}")
    with pytest.raises(LocalError, match="the disk is gone"):
        store.put(KEY, oid_of(data), Unreadable(data))
    assert store.stat(KEY) is not None  # and it goes on

    assert "the disk is gone" not in "".join(capfd.readouterr())


def test_another_region_is_gone_on_to_by_the_client(listener: Listener) -> None:
    listener.status, listener.headers = 400, {"x-amz-bucket-region": "eu-west-3"}
    with suppress(AgentError):
        store_at(f"http://127.0.0.1:{listener.port}").stat(KEY)

    assert [is_lean(sent) for sent in listener.requests][:2] == [True, False]
    assert "/eu-west-3/s3/" in listener.requests[2][2]["authorization"]


def test_what_the_kernel_has_still_to_send_is_no_silence() -> None:
    """It takes some MiB at once, which over a slow link are on their way for minutes."""
    data = content(MIB)
    with Script(ok(f'ETag: "{hashlib.md5(data).hexdigest()}"'), nap_s=0.1) as script:
        store_at(script.endpoint, read_timeout=1.0).put(KEY, oid_of(data), BytesBody(data))

    assert [(method, body == data) for _, method, body in script.requests] == [("PUT", True)]
