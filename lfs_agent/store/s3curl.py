"""`Curl`: requests that libcurl signs, sends and reads; what goes wrong is told in its words."""

import io
import os
import re
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from lfs_agent import __version__
from lfs_agent.parts import KIB, MIB
from lfs_agent.store import Body
from lfs_agent.store.login import Keys
from lfs_agent.store.s3errors import Unanswered, is_too_long
from lfs_agent.turns import pause, turns

_RECEIVED: Final = 64 * KIB
"""Read at once; libcurl takes up to ten times as much before we have a look."""
_SENT: Final = MIB
"""More than a body gives at once: so no block has to be cut."""
_NAP_S: Final = 0.005
_NOT_OURS: Final = (b"Accept:", b"Expect:")
"""What libcurl would send of its own."""
_BLANK: Final = (b"\r\n", b"\n")
_NOTHING: Final = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
"""The SHA-256 of no bytes."""


_OLDEST: Final = 0x080C01
"""Of libcurl: that of the oldest pycurl that we ask for. Before 8.5 some requests were signed wrongly."""


def _import_pycurl() -> Any:
    """Raises ImportError for one that cannot sign, too."""
    # Without what it brings along for asyncio, which would load dataclasses, inspect and ast for 15 ms.
    unused = ModuleType("pycurl.async_multi")
    vars(unused)["AsyncCurlMulti"] = None
    is_new = sys.modules.setdefault(unused.__name__, unused) is unused
    try:
        import pycurl
    finally:
        if is_new:
            del sys.modules[unused.__name__]
    if min(pycurl.version_info()[2], pycurl.COMPILE_LIBCURL_VERSION_NUM) < _OLDEST:
        raise ImportError(f"libcurl {pycurl.version_info()[1]} is too old")
    try:
        pycurl.Curl().setopt(pycurl.AWS_SIGV4, "aws:amz")
    except pycurl.error as error:
        raise ImportError("libcurl was built without signatures for AWS") from error
    return pycurl


pycurl: Final = _import_pycurl()


class Http(NamedTuple):
    """How to go to the store. `ca`, `proxy`: "" for the usual ones, as botocore finds them."""

    ca: str
    proxy: str
    client_cert: str
    client_key: str
    timeout_s: float


class Request(NamedTuple):
    """`sha256`: of the body, in hex; that is what is signed. `streamed`: what it asks for is an object's content."""

    method: str
    url: str
    headers: Mapping[str, str]
    body: Body | None = None
    sha256: str = _NOTHING
    streamed: bool = False


class Incoming:
    """The content of an answer, as it comes. Raises Unanswered."""

    def __init__(self, line: "_Line", idle: "list[_Line]") -> None:
        self._line: _Line | None = line
        self._idle = idle
        self._failure: Exception | None = None

    def take(self, size: int) -> memoryview:
        """The next bytes, at most so many: fewer where that is what has come, none at the end.

        They hold until the next call.
        """
        line = self._line
        if line is None:
            return memoryview(b"")
        try:
            if not line.fresh:  # else more and more would be left over
                while self._failure is None and line.fresh < size and not line.is_over:
                    line.go_on()
        except Exception as failure:  # told when all that came before it is handed over
            self._failure = failure
        if self._failure and size and not line.fresh:
            raise self._failure
        return line.take(size)

    def read(self, size: int | None = None) -> bytes:
        """The next bytes: so many, or all that are left, as smart-open reads them."""
        content = bytearray()
        wanted = sys.maxsize if size is None or size < 0 else size
        try:
            while chunk := self.take(min(_RECEIVED, wanted - len(content))):
                content += chunk
        except Unanswered as failure:
            from botocore.exceptions import HTTPClientError  # after which it asks for the rest

            raise HTTPClientError(error=failure) from failure
        return bytes(content)

    def read_bounded(self) -> bytes:
        """All of it, where that is no longer than an answer may be which is no object's content."""
        content = bytearray()
        while chunk := self.take(_RECEIVED):
            content += chunk
            if is_too_long(content):
                raise Unanswered("broken", "an answer that is too long")
        return bytes(content)

    def close(self) -> None:
        """Hangs up, unless all has come."""
        if self._line:
            self._line.end()
            self._idle.append(self._line)
            self._line = None


class Answer(NamedTuple):
    """The names of `headers` are in lower case. `body`: an object's content, which is not in `content`."""

    status: int
    headers: dict[str, str]
    content: bytes
    body: Incoming | None = None  # not in quotes: to read what is in some takes 3 ms

    @property
    def is_refusal(self) -> bool:
        """Whether nothing was done; a redirect, too, since none is followed."""
        return self.status >= 300


class Curl:
    """Connections to the server of `base`, as many as there are threads that ask."""

    def __init__(self, base: str, region: str, to: Http) -> None:
        proxy = to.proxy or _usual_proxy(base)
        options = _options(base, region, to, proxy)
        self._new_line: Callable[[], _Line] = lambda: _Line(options, proxy, to.timeout_s)
        self._idle: list[_Line] = []

    def send(self, request: Request, keys: Keys | None) -> Answer:
        """The answer. `keys`: None where nobody signs. Raises Unanswered, and what the body does."""
        try:
            line = self._idle.pop()  # the one that was used last: the others may come to their end
        except IndexError:
            line = self._new_line()
        incoming = Incoming(line, self._idle)
        try:
            line.begin(request, keys)
            while not line.is_answered:
                line.go_on()
            answer = Answer(line.status, line.headers(), b"", incoming)
            if request.streamed and not answer.is_refusal:
                return answer
            content = incoming.read_bounded()
        except BaseException:
            incoming.close()
            raise
        incoming.close()
        return Answer(answer.status, answer.headers, content)


class _Line:
    """What keeps one connection, and libcurl's handles that use it in turn: one for each method, signed or not."""

    def __init__(self, options: Mapping[int, Any], proxy: str, timeout_s: float) -> None:
        self._options = options
        self._proxy = proxy
        self._timeout_s = timeout_s
        self._multi: Any = pycurl.CurlMulti()
        self._handles: dict[tuple[str, bool], Any] = {}
        self._handle: Any = None
        """The one that is in use."""
        self._lines: list[bytes] = []
        """What has come beside the content; libcurl calls nothing of Python's for it."""

    def begin(self, request: Request, keys: Keys | None) -> None:
        """Makes the request ready to be sent."""
        self._request = request
        self._raised: BaseException | None = None
        self._broken: tuple[int, str] | None = None
        self._lines.clear()
        self._head: list[bytes] = []
        """Those of the answer that are headers."""
        self._content = io.BytesIO()
        """What has come of the content: libcurl calls nothing of Python's for it, either."""
        self._start = 0
        """Of what was not taken yet."""
        self._taken = memoryview(b"")
        """What was taken last; nothing more can come before that is let go."""
        self.status = 0
        self.is_answered = False
        """Whether status and headers are there."""
        self.is_over = False
        self._idle_s, self._moved = 0.0, 0.0
        self._unsent = b""
        use = request.method, keys is not None
        if (handle := self._handles.get(use)) is None:
            handle = self._handles[use] = self._new_handle(*use)
        headers = [f"{name}: {value}".encode() for name, value in request.headers.items()]
        headers += _NOT_OURS
        if keys:
            handle.setopt(pycurl.USERNAME, keys.access_key)
            handle.setopt(pycurl.PASSWORD, keys.secret_key.encode())  # of a str pycurl takes ASCII only
            headers.append(b"x-amz-content-sha256: " + request.sha256.encode())
            if keys.token:
                headers.append(b"x-amz-security-token: " + keys.token.encode())
        handle.setopt(pycurl.URL, request.url)
        handle.setopt(pycurl.WRITEFUNCTION, self._content.write)
        handle.setopt(pycurl.HTTPHEADER, headers)
        if request.body is not None:
            handle.setopt(pycurl.INFILESIZE_LARGE, len(request.body))
            request.body.sending()
        self._multi.add_handle(handle)
        self._handle = handle

    def _new_handle(self, method: str, signed: bool) -> Any:
        handle: Any = pycurl.Curl()
        for option, value in self._options.items():
            if signed or option != pycurl.AWS_SIGV4:
                handle.setopt(option, value)
        # Where libcurl was built, or pycurl has looked, there may be certificates that would be trusted besides.
        for folder in (pycurl.CAPATH, pycurl.PROXY_CAPATH):
            with suppress(pycurl.error):  # of a TLS library that takes none
                handle.setopt(folder, None)
        handle.setopt({"HEAD": pycurl.NOBODY, "GET": pycurl.HTTPGET}.get(method, pycurl.UPLOAD), 1)
        if method == "POST":
            handle.setopt(pycurl.CUSTOMREQUEST, method)
            # On a connection that was kept it would be sent again where no answer comes: who publishes has to look.
            handle.setopt(pycurl.FRESH_CONNECT, 1)
        handle.setopt(pycurl.HEADERFUNCTION, self._lines.append)
        handle.setopt(pycurl.READFUNCTION, self._give)
        handle.setopt(pycurl.SEEKFUNCTION, self._rewind)
        return handle

    def _look_at_head(self) -> None:
        """Takes note of the answer when all of its head has come. Raises ValueError, LookupError for what is none."""
        while end := next((at for at, line in enumerate(self._lines) if line in _BLANK), 0):
            self.status = int(self._lines[0].split()[1])
            if self.status >= 200:  # before that, there are more to come
                self.is_answered, self._head = True, self._lines[1:end]
                return
            del self._lines[: end + 1]

    def headers(self) -> dict[str, str]:
        """Of the answer; what comes twice, in one."""
        found: dict[str, str] = {}
        for line in b"".join(self._head).decode("latin-1").split("\n")[:-1]:
            name, _, value = line.partition(":")
            name, value = name.strip().lower(), value.strip()
            found[name] = f"{found[name]}, {value}" if name in found else value
        return found

    @property
    def fresh(self) -> int:
        """Bytes of content that have come and were not taken."""
        return self._content.tell() - self._start

    def take(self, size: int) -> memoryview:
        """Some of them, at most so many; they hold until more comes."""
        self._taken.release()
        start, self._start = self._start, min(self._start + size, self._content.tell())
        self._taken = self._content.getbuffer()[start : self._start]
        return self._taken

    def end(self) -> None:
        """Lets go of the request; hangs up where it is not over."""
        if self._handle:
            self._multi.remove_handle(self._handle)
            self._handle = None
        self._taken.release()  # else Python 3.13 complains, aloud, when both are garbage
        del self._request

    def go_on(self) -> None:
        """Sends and reads until something has come, or all has. Raises Unanswered, and what the body does."""
        if not self.fresh:
            self._taken.release()
            self._start = self._content.seek(0)
        before = self.fresh, self.is_answered
        while True:
            if self._broken:
                raise self._failure(*self._broken)
            _, running = self._multi.perform()
            if self._raised:
                raise self._raised
            if not self.is_answered:
                self._look_at_head()
            if not running:
                for _, code, words in self._multi.info_read()[2]:
                    self._broken = (code, words)
                self.is_over = not self._broken
                self.is_answered |= self.is_over
            if self.is_over or (self.fresh, self.is_answered) != before:
                return
            if running:
                self._wait()

    def _wait(self) -> None:
        """Waits for the connection. Raises Unanswered where nothing moves for too long."""
        timer_ms = self._multi.timeout()
        wait_s = max(0.0, self._timeout_s - self._idle_s)
        if timer_ms >= 0:
            wait_s = min(wait_s, timer_ms / 1000)
        began = time.monotonic()
        if self._is_ready(wait_s):
            self._idle_s = 0.0
            return
        if time.monotonic() - began < wait_s / 2:  # there is none to be waited for yet, or its number is above 1023
            pause(min(wait_s, _NAP_S))
        self._idle_s += time.monotonic() - began
        counters = (pycurl.SIZE_UPLOAD_T, pycurl.SIZE_DOWNLOAD_T, pycurl.HEADER_SIZE)
        moved = sum(map(self._handle.getinfo, counters)) - _on_its_way(self._handle.getinfo(pycurl.ACTIVESOCKET))
        if moved != self._moved:
            self._idle_s, self._moved = 0.0, moved
        elif self._idle_s >= self._timeout_s:
            raise self._failure(pycurl.E_OPERATION_TIMEDOUT, f"nothing has come for {self._timeout_s:g} s")

    def _is_ready(self, wait_s: float) -> bool:
        """Whether the connection got ready in that time; who takes turns lets others go on."""
        if (shared := turns()) is None:
            return bool(self._multi.select(wait_s))
        reads, writes, _ = self._multi.fdset()
        return bool(reads or writes) and shared.until_ready(reads, writes, wait_s)

    # What libcurl calls; what they raise would be printed, and lost.

    def _give(self, size: int) -> bytes | int:
        try:
            assert self._request.body is not None
            block = self._unsent or self._request.body.read(size)
            self._unsent = block[size:]
            return block[:size]
        except BaseException as error:
            self._raised = error
            return _ABORT

    def _rewind(self, offset: int, whence: int) -> int:
        """Where a connection that was kept proves to be dead, libcurl sends it once more, on another one."""
        try:
            assert self._request.body is not None
            self._unsent = b""
            self._request.body.seek(offset, whence)
            self._request.body.sending()
            return _DONE
        except BaseException as error:
            self._raised = error
            return _FAILED

    def _failure(self, code: int, words: str) -> Unanswered:
        handle = self._handle
        if code == pycurl.E_COULDNT_CONNECT and (number := handle.getinfo(pycurl.OS_ERRNO)):
            words = f"{words}: {os.strerror(number)}"
        if code in _PROXY or (self._proxy and code in _CONNECT) or handle.getinfo(pycurl.HTTP_CONNECTCODE) >= 300:
            words = f'Failed to connect to proxy URL: "{self._proxy}": {words}'
            user = re.sub(r"^\w+://", "", self._proxy.rpartition("@")[0])
            return Unanswered("unreachable", words.replace(f"{user}@", "***:***@") if user else words)
        if code in _CONNECT or (code == pycurl.E_OPERATION_TIMEDOUT and not handle.getinfo(pycurl.PRETRANSFER_TIME)):
            return Unanswered("unreachable", words)
        in_tls = code in _TLS or "SSL routines" in words  # a client's certificate is refused at the first read
        if in_tls and not re.search(_CUT, words):
            return Unanswered("tls", words)
        return Unanswered("closed" if in_tls or (code in _BROKEN and not self.is_answered) else "broken", words)


_SUPPRESS_CONNECT_HEADERS: Final = 265  # for which pycurl has no name, as for CURLE_PROXY below
_DONE: Final[int] = pycurl.SEEKFUNC_OK
_FAILED: Final[int] = pycurl.SEEKFUNC_FAIL
_ABORT: Final[int] = pycurl.READFUNC_ABORT

_PROXY: Final = {pycurl.E_COULDNT_RESOLVE_PROXY, 97}
_CONNECT: Final = {pycurl.E_COULDNT_RESOLVE_HOST, pycurl.E_COULDNT_CONNECT}
_BROKEN: Final = {
    pycurl.E_GOT_NOTHING, pycurl.E_SEND_ERROR, pycurl.E_RECV_ERROR,
    pycurl.E_UNSUPPORTED_PROTOCOL,  # what has come is no answer of HTTP: of 0.9, libcurl says
}  # fmt: skip
_TLS: Final = {
    pycurl.E_SSL_CONNECT_ERROR, pycurl.E_PEER_FAILED_VERIFICATION, pycurl.E_SSL_CERTPROBLEM, pycurl.E_SSL_CIPHER,
    pycurl.E_SSL_CACERT_BADFILE, pycurl.E_SSL_ISSUER_ERROR, pycurl.E_SSL_ENGINE_INITFAILED,
}  # fmt: skip
_CUT: Final = "(?i)unexpected eof|reset by peer|SSL_ERROR_SYSCALL"


def _options(base: str, region: str, to: Http, proxy: str) -> dict[int, Any]:
    """All that is the same for each request; what libcurl would take from elsewhere is said explicitly."""
    options: dict[int, Any] = {
        pycurl.AWS_SIGV4: f"aws:amz:{region}:s3",
        pycurl.USERAGENT: f"lfs-agent/{__version__}",
        pycurl.HTTP_VERSION: pycurl.CURL_HTTP_VERSION_1_1,
        pycurl.PROTOCOLS: pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS,
        pycurl.FOLLOWLOCATION: 0,
        # Not by a header of ours: these are signed, and there are proxies that change this one.
        pycurl.ACCEPT_ENCODING: "identity",
        pycurl.HTTP_CONTENT_DECODING: 0,
        pycurl.NETRC: pycurl.NETRC_IGNORED,
        pycurl.PROXY: proxy.encode(),
        pycurl.NOPROXY: "",
        _SUPPRESS_CONNECT_HEADERS: 1,
        pycurl.NOSIGNAL: 1,
        pycurl.TCP_NODELAY: 1,
        pycurl.TCP_KEEPALIVE: 1,
        pycurl.CONNECTTIMEOUT_MS: int(1000 * to.timeout_s),
        pycurl.BUFFERSIZE: _RECEIVED,
        pycurl.UPLOAD_BUFFERSIZE: _SENT,
    }
    if "https:" in (base[:6], proxy[:6]):
        options[pycurl.CAINFO] = options[pycurl.PROXY_CAINFO] = os.fsencode(to.ca or _usual_ca())
    if to.client_cert:
        options[pycurl.SSLCERT] = os.fsencode(to.client_cert)
        options[pycurl.SSLKEY] = os.fsencode(to.client_key or to.client_cert)
    return options


def _on_its_way(fd: int) -> int:
    """Bytes, up to some MiB, that the kernel has taken and the other end has not; 0 where it doesn't tell."""
    try:
        from fcntl import ioctl
        from termios import TIOCOUTQ

        return int.from_bytes(ioctl(fd, TIOCOUTQ, bytes(4)), sys.byteorder)
    except (ImportError, OSError, ValueError):  # another system, or no connection
        return 0


def _usual_ca() -> str:
    """The certificates that botocore trusts, without loading it."""
    if named := os.environ.get("REQUESTS_CA_BUNDLE"):
        return named
    from importlib.util import find_spec  # 1 ms, over https

    packages = (find_spec(name) for name in ("certifi", "botocore"))
    first = next(Path(package.origin) for package in packages if package and package.origin)
    if (usual := first.with_name("cacert.pem")).exists():
        return str(usual)
    import certifi  # which a Linux distribution has made to name the system's

    return str(certifi.where())


def _usual_proxy(url: str) -> str:
    """The proxy to `url` that the environment names, or the system; "" for none."""
    if sys.platform == "linux" and not any(name.lower().endswith("_proxy") for name in os.environ):
        return ""
    from urllib.request import getproxies, proxy_bypass  # 15 ms

    to = urlsplit(url)
    return "" if proxy_bypass(to.netloc) else getproxies().get(to.scheme, "")
