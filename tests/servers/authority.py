"""A certificate authority of the tests' own: certificates for servers and clients. Needs openssl."""

import subprocess
from pathlib import Path

from tests.servers.server import Tls


class Authority:
    """Makes certificates that `ca` vouches for, all in one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.ca, self._key = folder / "ca.pem", folder / "ca.key"
        folder.mkdir(parents=True, exist_ok=True)
        _openssl("req", "-x509", *_NEW_KEY, *_DAYS, "-subj", "/CN=Tests", "-keyout", self._key, "-out", self.ca)

    def server(self, name: str = "server", *, names: str = "DNS:localhost,IP:127.0.0.1", expired: bool = False) -> Tls:
        """A server's certificate for `names`."""
        return self._signed(name, f"subjectAltName={names}", *(_past() if expired else _DAYS))

    def client(self, name: str = "client") -> Tls:
        """A client's certificate."""
        return self._signed(name, "extendedKeyUsage=clientAuth", *_DAYS)

    def _signed(self, name: str, extension: str, *validity: str) -> Tls:
        certificate, key, request, extensions = (
            self._folder / f"{name}.{suffix}" for suffix in ("pem", "key", "csr", "ext")
        )
        extensions.write_text(extension + "\n")
        _openssl("req", *_NEW_KEY, "-subj", f"/CN={name}", "-keyout", key, "-out", request)
        by = ("-CA", self.ca, "-CAkey", self._key, "-CAcreateserial", "-extfile", extensions)
        _openssl("x509", "-req", "-in", request, *by, *validity, "-out", certificate)
        return Tls(certificate, key, self.ca)


def lock(key: Path, to: Path) -> Path:
    """The same key under a passphrase."""
    _openssl("pkey", "-in", key, "-aes256", "-passout", "pass:word", "-out", to)
    return to


_NEW_KEY = ("-newkey", "rsa:2048", "-nodes")
_DAYS = ("-days", "2")


def _past() -> tuple[str, ...]:
    """How openssl is told of a validity in the past: older ones know no dates, newer ones no such days."""
    told = subprocess.run(["openssl", "x509", "-help"], capture_output=True, check=False, stdin=subprocess.DEVNULL)
    dates = ("-not_before", "20200101000000Z", "-not_after", "20200102000000Z")
    return dates if b"-not_after" in told.stderr + told.stdout else ("-days", "-1")


def _openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True, stdin=subprocess.DEVNULL)
