"""A CI's web identity: keys for an hour from a token of an issuer, which expire half-way. Run in a network of its own.

versitygw asks an issuer by https, at port 443 of an address that is neither private nor local: so there is one here
that nobody else sees. `python -m tests.e2e.web_identity FOLDER` ends with 0 where all is as it should be.
"""

import base64
import fcntl
import hashlib
import json
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from lfs_agent.policy import text_of
from tests.cellar import Cellar, random_bytes
from tests.machine import Home
from tests.proxy import EXPIRED_TOKEN, FaultProxy
from tests.proxy.faults import Action, Seen
from tests.servers import VersitygwWithUsers

ADDRESS = "203.0.113.7"  # TEST-NET-3
AUDIENCE = "sts.amazonaws.com"
MIB = 1 << 20


def bring_up_network() -> None:
    """The loopback interface, with ADDRESS as a second one."""
    set_flags, set_address, up = 0x8914, 0x8916, 1
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as configuring:
        fcntl.ioctl(configuring, set_flags, struct.pack("16sh14x", b"lo", up))
        inet = struct.pack("16sHH4s8x", b"lo:1", socket.AF_INET, 0, socket.inet_aton(ADDRESS))
        fcntl.ioctl(configuring, set_address, inet)


def openssl(*arguments: str | Path, stdin: bytes = b"") -> bytes:
    return subprocess.run(["openssl", *arguments], input=stdin, capture_output=True, check=True).stdout


def base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Issuer:
    """An OpenID Connect issuer at https://ADDRESS."""

    url = f"https://{ADDRESS}"

    def __init__(self, folder: Path) -> None:
        self._key, certificate = folder / "issuer.key", folder / "issuer.pem"
        subject = ["-subj", "/CN=issuer", "-addext", f"subjectAltName=IP:{ADDRESS}"]
        new = ["-newkey", "rsa:2048", "-nodes", "-days", "2", *subject]
        openssl("req", "-x509", *new, "-keyout", self._key, "-out", certificate)
        self.thumbprint = hashlib.sha1(ssl.PEM_cert_to_DER_cert(certificate.read_text())).hexdigest()
        pages = {"/.well-known/openid-configuration": self._configuration(), "/keys": self._keys()}

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = json.dumps(pages[self.path]).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer((ADDRESS, 443), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, self._key)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()

    def _configuration(self) -> dict[str, object]:
        return {"issuer": self.url, "jwks_uri": f"{self.url}/keys", "id_token_signing_alg_values_supported": ["RS256"]}

    def _keys(self) -> dict[str, object]:
        modulus = bytes.fromhex(
            openssl("rsa", "-in", self._key, "-modulus", "-noout").decode().strip().partition("=")[2]
        )
        exponent = base64url((65537).to_bytes(3))
        key = {"kty": "RSA", "kid": "1", "alg": "RS256", "use": "sig", "n": base64url(modulus), "e": exponent}
        return {"keys": [key]}

    def token(self) -> str:
        """That the bearer is the CI of the cellar, for an hour."""
        now = int(time.time())
        claims = {"iss": self.url, "aud": AUDIENCE, "sub": "repo:cellar", "iat": now, "exp": now + 3600}
        parts = [{"alg": "RS256", "kid": "1", "typ": "JWT"}, claims]
        said = ".".join(base64url(json.dumps(part).encode()) for part in parts)
        return f"{said}.{base64url(openssl('dgst', '-sha256', '-sign', self._key, stdin=said.encode()))}"


def make_role(server: VersitygwWithUsers, issuer: Issuer, policy: str) -> str:
    """A role that the issuer's bearers may take; gives its ARN."""
    iam = server.iam()
    provider = iam.create_open_id_connect_provider(
        Url=issuer.url, ClientIDList=[AUDIENCE], ThumbprintList=[issuer.thumbprint]
    )["OpenIDConnectProviderArn"]
    trust = {
        "Effect": "Allow",
        "Principal": {"Federated": provider},
        "Action": "sts:AssumeRoleWithWebIdentity",
        "Condition": {"StringEquals": {f"{ADDRESS}:aud": AUDIENCE}},
    }
    trusted = json.dumps({"Version": "2012-10-17", "Statement": [trust]})
    role: str = iam.create_role(RoleName="ci", AssumeRolePolicyDocument=trusted)["Role"]["Arn"]
    iam.put_role_policy(RoleName="ci", PolicyName="writer", PolicyDocument=policy)
    return role


class Expiring:
    """A plan: after so many requests the first login is answered with "expired" for good."""

    def __init__(self, after: int) -> None:
        self._left = after
        self.logins: list[str] = []

    def __call__(self, seen: Seen) -> tuple[Action, ...]:
        token = seen.headers["x-amz-security-token"]
        if token not in self.logins:
            self.logins.append(token)
        self._left -= 1
        return (EXPIRED_TOKEN,) if self._left < 0 and token == self.logins[0] else ()


def run(folder: Path, policy: str) -> None:
    """Push and clone, each with a login that expires half-way."""
    issuer = Issuer(folder)
    (folder / "server").mkdir()
    with VersitygwWithUsers(folder / "server") as server:
        server.client().create_bucket(Bucket="my-cellar")
        home = Home(folder / "home")
        token = folder / "token"
        token.write_text(issuer.token())
        home.environ.update(server.environ())
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            del home.environ[name]
        home.environ["AWS_WEB_IDENTITY_TOKEN_FILE"] = str(token)
        home.environ["AWS_ROLE_ARN"] = make_role(server, issuer, policy)
        home.environ["LFS_AGENT_PART_SIZE"] = "5MiB"
        home.install()
        cellar = Cellar(home, server, "my-cellar", "weights", folder / "origin.git", folder / "work")
        cellar.build()
        oids = [cellar.write("large.bin", 22 * MIB, 1), *(cellar.write(f"{n}.bin", 1000, n) for n in range(20))]
        cellar.commit("Fill the cellar")

        with FaultProxy(server.iam_endpoint) as sts, FaultProxy(server.endpoint, push := Expiring(6)) as proxy:
            home.environ.update({"AWS_ENDPOINT_URL_S3": proxy.endpoint, "AWS_ENDPOINT_URL_STS": sts.endpoint})
            cellar.push()
            assert "403 ExpiredToken" in [seen.fault for seen in proxy.requests]
            assert len(push.logins) == 2, len(push.logins)
            assert len(sts.requests) == 2, len(sts.requests)  # once for all workers, and once more
        assert cellar.keys() == sorted(cellar.key(oid) for oid in oids)

        with FaultProxy(server.iam_endpoint) as sts, FaultProxy(server.endpoint, pull := Expiring(3)) as proxy:
            home.environ.update({"AWS_ENDPOINT_URL_S3": proxy.endpoint, "AWS_ENDPOINT_URL_STS": sts.endpoint})
            clone = cellar.clone(folder / "clone")
            assert (len(pull.logins), len(sts.requests)) == (2, 2)
        assert (clone / "large.bin").read_bytes() == random_bytes(22 * MIB, 1)


def main(argv: Sequence[str]) -> int:
    folder = Path(argv[0])
    bring_up_network()
    run(folder, text_of("writer"))
    print("as it should be")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
