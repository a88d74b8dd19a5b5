"""Signature Version 4 for a request whose signed headers were changed on the way."""

import hashlib
import hmac
import re
from typing import NamedTuple

from tests.proxy.wire import Head


class Key(NamedTuple):
    access: str
    secret: str


def sign_again(head: Head, key: Key) -> Head:
    """The head, signed over those of its signed headers that are left; an unsigned one as it is."""
    old = head.headers.get("authorization", "")
    found = re.search(r"Credential=[^/]+/(?P<scope>[^,]+), *SignedHeaders=(?P<names>[^,]+)", old)
    if not found:
        return head
    scope, names = found["scope"], [name for name in found["names"].split(";") if name in head.headers]
    credential, signature = f"{key.access}/{scope}", _signature(head, names, scope, key.secret)
    value = f"Credential={credential}, SignedHeaders={';'.join(names)}, Signature={signature}"
    return head.with_line("Authorization", f"AWS4-HMAC-SHA256 {value}")


def _signature(head: Head, names: list[str], scope: str, secret: str) -> str:
    headers = head.headers
    request = hashlib.sha256(_canonical_request(head, names).encode()).hexdigest()
    text = f"AWS4-HMAC-SHA256\n{headers['x-amz-date']}\n{scope}\n{request}"
    digest = f"AWS4{secret}".encode()
    for word in (*scope.split("/"), text):
        digest = hmac.digest(digest, word.encode(), "sha256")
    return digest.hex()


def _canonical_request(head: Head, names: list[str]) -> str:
    headers = head.headers
    method, target, _ = head.start.split(" ")
    path, _, query = target.partition("?")
    parameters = sorted(p if "=" in p else f"{p}=" for p in query.split("&") if p)
    lines = [f"{name}:{' '.join(headers[name].split())}" for name in names]
    payload = headers["x-amz-content-sha256"]
    return "\n".join((method, path, "&".join(parameters), *lines, "", ";".join(names), payload))
