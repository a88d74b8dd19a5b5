"""Certificates and what else can go wrong before a request: each a sentence that names what to do."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import certifi
import pycurl
import pytest

from lfs_agent.config import Settings
from lfs_agent.errors import SessionError, UnreachableError
from lfs_agent.parts import MIB
from lfs_agent.retry import RetryingStore
from lfs_agent.store.connection import Connection
from lfs_agent.store.s3 import S3Store
from tests.contract.conftest import BucketOf, InBucket
from tests.contract.stores import BytesBody, aws_of, content, crc_of, oid_of, put_parts, read, retrying
from tests.proxy import Answer, BlackHole, FaultProxy, Faults, Rule
from tests.proxy.tls import TlsFront, server_side
from tests.servers import Authority, Tls
from tests.servers.authority import lock

KEY = "weights/key"
DATA = content(1000)
OID = oid_of(DATA)


@pytest.fixture(params=["lean", "by boto3"])
def place(bucket_of: BucketOf, request: pytest.FixtureRequest) -> InBucket:
    place = bucket_of("versitygw")
    place.lean = request.param == "lean"
    return place


def store_at(
    place: InBucket,
    endpoint: str,
    *,
    ca: Path | None = None,
    cert: Path | str = "",
    key: Path | str = "",
    proxy: str = "",
) -> S3Store:
    aws = aws_of(place.server.access_key, place.server.secret_key)
    certificates = (str(ca or ""), proxy, str(cert), str(key))
    to = Connection(aws, endpoint, "us-east-1", True, "", *certificates, lean=place.lean)
    return S3Store(place.bucket, to, Settings(read_timeout=5.0))


def asked_thrice(store: S3Store) -> RetryingStore:
    """Gives up after two repetitions, however long they take."""
    return retrying(store, retries=2, first_deadline_s=60.0)


# A client's certificate


@pytest.mark.parametrize("pair", ["one file", "two files"])
def test_a_store_that_demands_a_certificate_gets_it(
    place: InBucket, authority: Authority, tmp_path: Path, pair: str
) -> None:
    own, data = authority.client(), content(6 * MIB)
    ca, both = tmp_path / "autorit\u00e9.pem", tmp_path / "beid\u00e9.pem"  # a folder of a person is named like that
    ca.write_bytes(authority.ca.read_bytes())
    both.write_bytes(own.key.read_bytes() + own.certificate.read_bytes())
    cert, key = (both, "") if pair == "one file" else (own.certificate, own.key)
    with TlsFront(place.server.endpoint, server_side(authority.server(), authority.ca)) as front:
        store = store_at(place, front.endpoint, ca=ca, cert=cert, key=key)
        store.put(KEY, OID, BytesBody(DATA))
        upload = store.begin("parts", oid_of(data), len(data))
        upload.complete(put_parts(upload, data), crc_of(data))

        assert read(store, KEY, 0, 1000)[1] == DATA
        assert read(store, "parts", 0, len(data))[1] == data


@pytest.mark.parametrize("shown", ["none", "a stranger's"])
def test_a_store_that_demands_a_certificate_says_so(
    place: InBucket, authority: Authority, tmp_path: Path, shown: str
) -> None:
    stranger = Authority(tmp_path / "stranger").client() if shown != "none" else None
    own = (stranger.certificate, stranger.key) if stranger else ("", "")
    with TlsFront(place.server.endpoint, server_side(authority.server(), authority.ca)) as front:
        store = retrying(store_at(place, front.endpoint, ca=authority.ca, cert=own[0], key=own[1]))
        with pytest.raises(UnreachableError, match=r"refuses this client's certificate.*lfs-agent\.clientCert"):
            store.stat(KEY)


def nowhere(own: Tls, folder: Path) -> tuple[Path, Path]:
    return folder / "nowhere.pem", own.key


def garbled(own: Tls, folder: Path) -> tuple[Path, Path]:
    (folder / "garbled.pem").write_text("-----BEGIN CERTIFICATE-----\nMIIB\n")
    return folder / "garbled.pem", own.key


def another_key(own: Tls, folder: Path) -> tuple[Path, Path]:
    return own.certificate, Authority(folder / "other").client().key


def no_key(own: Tls, _: Path) -> tuple[Path, str]:
    return own.certificate, ""


def locked(own: Tls, folder: Path) -> tuple[Path, Path]:
    return own.certificate, lock(own.key, folder / "locked.key")


@pytest.mark.parametrize(
    "pair, says",
    [
        (nowhere, r"no client's certificate with its key in .*nowhere\.pem.*No such file"),
        (garbled, r"no client's certificate with its key in .*garbled\.pem"),
        (another_key, r"no client's certificate with its key in .*KEY_VALUES_MISMATCH"),
        (no_key, r"no client's certificate with its key in .*client\.pem "),
        (locked, r"locked\.key has a passphrase, and nobody can be asked"),
    ],
)
def test_a_certificate_that_cannot_be_used_is_named_before_any_request(
    place: InBucket, authority: Authority, tmp_path: Path, pair: Any, says: str
) -> None:
    cert, key = pair(authority.client(), tmp_path)
    with BlackHole() as hole:
        store = retrying(store_at(place, hole.endpoint, cert=cert, key=key))
        with pytest.raises(SessionError, match=says):
            store.stat(KEY)


# A server's certificate, and servers that have none


def wrong_name(authority: Authority, _: Authority) -> Tls:
    return authority.server("wrong-name", names="DNS:elsewhere.example")


def expired(authority: Authority, _: Authority) -> Tls:
    return authority.server("expired", expired=True)


def of_nobody(_: Authority, other: Authority) -> Tls:
    return other.server()


@pytest.mark.parametrize(
    "certificate, says",
    [
        (wrong_name, r"certificate for another name \(.*(elsewhere\.example|no alternative).*correct the endpoint"),
        (expired, r"certificate that is out of date \(.*has expired.*have it renewed"),
        (of_nobody, r"certificate that is not trusted here \(.*name its authority"),
    ],
)
def test_a_server_s_certificate_that_is_not_right_is_told_once_and_as_what_it_is(
    place: InBucket, authority: Authority, tmp_path: Path, certificate: Any, says: str
) -> None:
    shown = certificate(authority, Authority(tmp_path / "other"))
    with TlsFront(place.server.endpoint, server_side(shown)) as front:
        with pytest.raises(UnreachableError, match=says):
            retrying(store_at(place, front.endpoint, ca=authority.ca)).stat(KEY)
        assert front.connections == 1


def test_nobody_is_trusted_besides(
    place: InBucket, authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There are systems where libcurl, or pycurl, comes with a folder of certificates of its own."""
    folder = tmp_path / "found"
    folder.mkdir()
    named = subprocess.run(["openssl", "x509", "-hash", "-noout", "-in", authority.ca], check=True, capture_output=True)
    (folder / f"{named.stdout.decode().strip()}.0").write_bytes(authority.ca.read_bytes())
    new = pycurl.Curl

    def new_with_folder() -> Any:
        handle = new()
        for option in (pycurl.CAPATH, pycurl.PROXY_CAPATH):
            handle.setopt(option, str(folder))
        return handle

    monkeypatch.setattr(pycurl, "Curl", new_with_folder)
    with (
        TlsFront(place.server.endpoint, server_side(authority.server())) as front,
        pytest.raises(UnreachableError, match=r"certificate that is not trusted here"),
    ):
        store_at(place, front.endpoint, ca=Path(certifi.where())).stat(KEY)


def test_a_distribution_may_say_where_the_usual_certificates_are(
    bucket_of: BucketOf, authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "certifi.py").write_text(f"def where(): return {str(authority.ca)!r}")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "certifi")
    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
    place = bucket_of("versitygw")
    with TlsFront(place.server.endpoint, server_side(authority.server())) as front:
        assert store_at(place, front.endpoint).stat(KEY) is None


def test_https_to_a_port_of_http_is_told(place: InBucket, authority: Authority) -> None:
    endpoint = place.server.endpoint.replace("http:", "https:")
    with pytest.raises(UnreachableError, match=r"does not speak TLS.*is it http, or another port"):
        retrying(store_at(place, endpoint, ca=authority.ca)).stat(KEY)


@pytest.mark.parametrize("spoken", ["http", "https"])
def test_a_handshake_that_is_cut_is_tried_again_and_told(place: InBucket, authority: Authority, spoken: str) -> None:
    """Plain http to a port of https looks like that, too: most servers hang up without a word."""
    context = server_side(authority.server()) if spoken == "http" else None
    with TlsFront(place.server.endpoint, context) as front:
        endpoint = front.endpoint.replace("https:", f"{spoken}:")
        store = asked_thrice(store_at(place, endpoint, ca=authority.ca))
        with pytest.raises(UnreachableError, match=r"hung up.*is it http or https"):
            store.stat(KEY)
        assert front.connections == 3


def test_tls_that_breaks_in_the_middle_is_asked_again(place: InBucket, authority: Authority) -> None:
    with TlsFront(place.server.endpoint, server_side(authority.server()), broken=2) as front:
        store = retrying(store_at(place, front.endpoint, ca=authority.ca))
        assert store.stat(KEY) is None
        assert front.connections == 3


@pytest.mark.parametrize("content_", [b"", b"garbage", b"\x30\x82\x03\x01"])
def test_a_file_that_holds_no_certificates_is_named(place: InBucket, tmp_path: Path, content_: bytes) -> None:
    (tmp_path / "ca.der").write_bytes(content_)
    with pytest.raises(UnreachableError, match=r"there are no certificates in .*ca\.der"):
        store_at(place, "https://127.0.0.1:1", ca=tmp_path / "ca.der").stat(KEY)


# Before TLS


def test_a_host_that_nobody_knows_is_named(place: InBucket) -> None:
    store = asked_thrice(store_at(place, "https://no-such-host.invalid"))
    with pytest.raises(
        UnreachableError, match=r"https://no-such-host\.invalid cannot be reached.*(Failed to|Could not) resolve"
    ):
        store.stat(KEY)


@pytest.mark.parametrize("scheme, before", [("http", "http://"), ("https", "http://"), ("https", "")])
def test_a_proxy_that_nobody_runs_is_named_without_its_password(place: InBucket, scheme: str, before: str) -> None:
    with BlackHole(accept=False) as hole:
        proxy = hole.endpoint.replace("http://", f"{before}vera:Canary@")
        store = asked_thrice(store_at(place, f"{scheme}://s3.example.org", proxy=proxy))
        with pytest.raises(UnreachableError, match=r"cannot be reached.*proxy URL: .*127\.0\.0\.1") as raised:
            store.stat(KEY)
    assert "Canary" not in str(raised.value)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_wants_a_password_is_asked_once_and_told_as_what_it_is(place: InBucket, scheme: str) -> None:
    with FaultProxy("http://127.0.0.1:1", Faults((Rule(Answer(407, "ERR_CACHE_ACCESS_DENIED")),))) as refusing:
        proxy = refusing.endpoint.replace("http://", "http://vera:Canary@")
        store = retrying(store_at(place, f"{scheme}://s3.example.org", proxy=proxy))
        with pytest.raises(UnreachableError) as raised:
            store.put(KEY, OID, BytesBody(DATA))
        assert len(refusing.requests) == 1

    host = refusing.endpoint.removeprefix("http://")
    assert str(raised.value) == (
        f"the proxy {host} wants a name and a password, or other ones, before it lets a request for "
        f"s3://{place.bucket}/{KEY} through (407 Proxy Authentication Required); name them in git's http.proxy: "
        f"NAME:PASSWORD@{host}"
    )
