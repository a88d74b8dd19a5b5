"""`Connection`: where the requests for a bucket go, as whom, and by which certificates and proxy."""

import os
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from lfs_agent.config import Settings
from lfs_agent.errors import UnreachableError
from lfs_agent.store.aws import Aws


class Connection(NamedTuple):
    """Everything that decides where requests go and as whom; resolved once, passed on explicitly."""

    aws: Aws
    endpoint: str
    """"" for Amazon's own."""
    region: str
    path_style: bool
    profile: str
    ca: str
    proxy: str
    client_cert: str = ""
    client_key: str = ""
    """"" where the certificate's file has it, too."""
    lean: bool = True
    """Whether objects may go without boto3's client: nothing is set that only it knows."""

    @property
    def certificate(self) -> str | tuple[str, str] | None:
        """The client's certificate as botocore wants it."""
        return (self.client_cert, self.client_key) if self.client_cert and self.client_key else self.client_cert or None


def resolve_connection(aws: Aws, settings: Settings, endpoint: str, git_http: Callable[[str, str], str]) -> Connection:
    """Where requests go. `endpoint`: "" for Amazon's own; `git_http(url, name)`: git's own `http.<name>` for a URL."""
    url = endpoint or "https://s3.amazonaws.com"
    _spell_no_proxy(url)
    said = aws.said
    ca = settings.ca or said.ca or git_http(url, "sslcainfo")
    proxy = git_http(url, "proxy")
    own = settings.client_cert
    key = settings.client_key or ("" if own else git_http(url, "sslkey"))
    return Connection(
        aws=aws,
        endpoint=endpoint,
        region=settings.region or said.region or "us-east-1",
        path_style=bool(endpoint) if settings.path_style is None else settings.path_style,
        profile=said.profile,
        ca=_file(ca),
        proxy="" if proxy and _environment_proxy(url) else proxy,
        client_cert=_file(own or git_http(url, "sslcert")),
        client_key=_file(key),
        lean=not said.odd,
    )


def _file(named: str) -> str:
    return os.path.expanduser(named)


def _spell_no_proxy(url: str) -> None:
    """Has NO_PROXY say for Python what it says to git and curl: with blanks between names, and ranges of addresses.

    In our own environment: that is where all look, those who ask for credentials, too.
    """
    said = os.environ.get("no_proxy", os.environ.get("NO_PROXY", ""))
    if not re.search(r"[\s/:]", said):  # names, as Python has them
        return
    from ipaddress import ip_address, ip_network  # 5 ms

    names = re.split(r"[,\s]+", said.strip())
    host = urlsplit(url).hostname or ""
    spelled = f"[{host}]" if ":" in host else host
    for name in list(names):
        with suppress(ValueError):  # a name, mostly
            if spelled not in names and ip_address(host) in ip_network(name.strip("[]"), strict=False):
                names.append(spelled)
    os.environ["no_proxy"] = ",".join(names)


def _environment_proxy(url: str) -> bool:
    """Whether the environment says how to go to `url`: through a proxy, or past it."""
    from urllib.request import getproxies_environment, proxy_bypass  # 15 ms, where git has a proxy

    scheme, _, rest = url.partition("://")
    return scheme in getproxies_environment() or bool(proxy_bypass(rest.partition("/")[0]))


def check_certificates(connection: Connection) -> None:
    """Raises UnreachableError for files that hold none: what reads them would report that as the server's fault."""
    if connection.ca and not _has_certificates(Path(connection.ca)):
        raise UnreachableError(
            f"there are no certificates in {connection.ca}: correct lfs-agent.ca, AWS_CA_BUNDLE or http.sslCAInfo"
        )
    if connection.client_cert:
        _check_pair(connection.client_cert, connection.client_key)


def _has_certificates(path: Path) -> bool:
    try:
        return b"CERTIFICATE-----" in path.read_bytes()  # PEM
    except OSError:
        return False


def _check_pair(certificate: str, key: str) -> None:
    """Raises UnreachableError for files that are no certificate with its key: OpenSSL would say less, and later.

    It would ask for a passphrase at the terminal, too, where git-lfs is at work.
    """
    import ssl  # the client loads it anyhow, with the first request

    names = f"{certificate} with {key}" if key else certificate
    correct = "correct lfs-agent.clientCert and lfs-agent.clientKey, or http.sslCert and http.sslKey"

    def passphrase() -> str:
        raise UnreachableError(
            f"the key of the client's certificate in {key or certificate} has a passphrase, and nobody can be asked "
            "here: name a key without one (openssl pkey -in FILE -out PLAIN)"
        )

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(certificate, key or None, passphrase)
    except OSError as error:  # ssl.SSLError is one
        raise UnreachableError(
            f"there is no client's certificate with its key in {names} ({_reason(error)}): {correct}"
        ) from error


def _reason(error: OSError) -> str:
    return error.strerror if error.errno and error.strerror else str(error)
