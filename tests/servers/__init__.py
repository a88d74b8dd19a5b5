"""S3 servers as plain processes on free loopback ports, each with all its state in one folder.

LocalStack is there wherever Python is; versitygw (Go) logs and proves the most; Ceph RGW is the independent,
older implementation. None needs Docker, and none outlives the process that started it, however that one ends.
"""

from tests.servers.access import Request
from tests.servers.authority import Authority
from tests.servers.ceph import Ceph
from tests.servers.localstack import LocalStack
from tests.servers.server import Server, ServerError, Tls, cache, is_ledger, make_certificate
from tests.servers.versitygw import Versitygw, VersitygwWithUsers

KINDS: dict[str, type[Server]] = {kind.name: kind for kind in (LocalStack, Versitygw, Ceph)}

__all__ = [
    "KINDS",
    "Authority",
    "Ceph",
    "LocalStack",
    "Request",
    "Server",
    "ServerError",
    "Tls",
    "Versitygw",
    "VersitygwWithUsers",
    "cache",
    "is_ledger",
    "make_certificate",
]
