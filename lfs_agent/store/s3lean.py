"""`Lean`: the requests that whole objects need, by botocore's signer and its HTTP, without the client around them."""

import os
import re
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, cast
from urllib.parse import quote, urlsplit

from botocore.auth import UNSIGNED_PAYLOAD, S3SigV4Auth
from botocore.awsrequest import AWSRequest, AWSResponse
from botocore.httpsession import URLLib3Session

from lfs_agent import __version__
from lfs_agent.store.login import Keys
from lfs_agent.store.s3http import BoundedSession

if TYPE_CHECKING:
    from botocore.credentials import ReadOnlyCredentials

_METHODS: Final = {"put_object": "PUT", "get_object": "GET", "head_object": "HEAD"}
_SENT: Final = {
    "ChecksumMode": "x-amz-checksum-mode",
    "ChecksumSHA256": "x-amz-checksum-sha256",
    "ContentLength": "Content-Length",
    "ContentMD5": "Content-MD5",
    "ContentType": "Content-Type",
    "ExpectedBucketOwner": "x-amz-expected-bucket-owner",
    "IfMatch": "If-Match",
    "IfNoneMatch": "If-None-Match",
    "Range": "Range",
    "RequestPayer": "x-amz-request-payer",
    "SSEKMSKeyId": "x-amz-server-side-encryption-aws-kms-key-id",
    "ServerSideEncryption": "x-amz-server-side-encryption",
    "StorageClass": "x-amz-storage-class",
}
_TOLD: Final = {
    "content-range": "ContentRange",
    "etag": "ETag",
    "x-amz-archive-status": "ArchiveStatus",
    "x-amz-checksum-crc32c": "ChecksumCRC32C",
    "x-amz-checksum-sha256": "ChecksumSHA256",
    "x-amz-checksum-type": "ChecksumType",
    "x-amz-restore": "Restore",
    "x-amz-server-side-encryption": "ServerSideEncryption",
    "x-amz-storage-class": "StorageClass",
}
_METADATA: Final = "x-amz-meta-"

_PLAIN_BUCKET: Final = re.compile(r"(?!.*--)[a-z0-9][a-z0-9-]{1,61}[a-z0-9]", re.ASCII)
_PLAIN_REGION: Final = re.compile(r"(?:af|ap|ca|eu|il|me|mx|sa|us)-(?!gov|iso)[a-z]+-[0-9]", re.ASCII)
_NO_NAME: Final = re.compile(r"(?:\[.*\]|[0-9.]+)(?::[0-9]+)?")


def base_of(bucket: str, endpoint: str, region: str, *, path_style: bool) -> str:
    """The URL before the keys of a bucket, as botocore resolves it; "" where that follows from more than these.

    >>> base_of("models", "", "eu-west-3", path_style=False)
    'https://models.s3.eu-west-3.amazonaws.com'
    >>> base_of("models", "http://[::1]:9000/s3/", "any", path_style=True)
    'http://[::1]:9000/s3/models'
    >>> base_of("models--use1-az4--x-s3", "", "us-east-1", path_style=False)
    ''
    """
    if not _PLAIN_BUCKET.fullmatch(bucket) or not (endpoint or _PLAIN_REGION.fullmatch(region)):
        return ""
    amazon = "https://s3.amazonaws.com" if region == "us-east-1" else f"https://s3.{region}.amazonaws.com"
    url = urlsplit(endpoint or amazon)
    path = url.path.rstrip("/")
    if path_style:
        return f"{url.scheme}://{url.netloc}{path}/{bucket}"
    if _NO_NAME.fullmatch(url.netloc):  # to put another one before
        return ""
    return f"{url.scheme}://{bucket}.{url.netloc}{path}"


@dataclass(frozen=True, slots=True)
class Http:
    """How botocore's HTTP goes to the store, as its client would have it. `ca`, `proxy`: "" for the usual ones."""

    ca: str
    proxy: str
    client_cert: str | tuple[str, str] | None
    timeout_s: float
    connections: int

    def session(self, url: str) -> BoundedSession:
        """Connections to the server of `url`."""
        new: Any = URLLib3Session  # its stubs know less than it takes
        return BoundedSession(
            new(
                verify=self.ca or os.environ.get("REQUESTS_CA_BUNDLE") or True,
                proxies={"https": self.proxy, "http": self.proxy} if self.proxy else _proxies(url),
                timeout=(self.timeout_s, self.timeout_s),
                max_pool_connections=self.connections,
                socket_options=[
                    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
                    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
                ],
                client_cert=self.client_cert,
            )
        )


def _proxies(url: str) -> dict[str, str]:
    from botocore.utils import get_environ_proxies

    found: dict[str, str] = get_environ_proxies(url)
    return found


class Lean:
    """Some of boto3's client calls for the bucket whose keys follow `base`: same parameters, answers and errors.

    `keys`: what to sign the next request with; None for requests that nobody signs. Usable from several threads.
    """

    def __init__(self, base: str, region: str, keys: Callable[[], Keys | None], http: Http) -> None:
        self._base = base
        self._region = region
        self._keys = keys
        self._session = http.session(base)

    def takes(self, operation: str, parameters: Mapping[str, Any]) -> bool:
        """Whether it is one of them."""
        return operation in _METHODS and (operation != "put_object" or "sha256" in parameters.get("Metadata", {}))

    def ask(self, operation: str, **parameters: Any) -> dict[str, Any]:
        """What boto3's call of that name answers; raises what that raises."""
        method, body = _METHODS[operation], parameters.pop("Body", None)
        url = f"{self._base}/{quote(parameters.pop('Key'), safe='/~')}"
        metadata: Mapping[str, str] = parameters.pop("Metadata", {})
        headers = {_SENT[name]: str(value) for name, value in parameters.items()}
        headers |= {f"{_METADATA}{name}": value for name, value in metadata.items()}
        headers["User-Agent"] = f"lfs-agent/{__version__}"
        streamed = operation == "get_object"
        request = AWSRequest(method=method, url=url, headers=headers, data=body, stream_output=streamed)
        if keys := self._keys():
            Signer(cast("ReadOnlyCredentials", keys), "s3", self._region).add_auth(request)
        if body is not None:
            body.sending()
        answer = self._session.send(request.prepare())
        if answer.status_code >= HTTPStatus.MOVED_PERMANENTLY:
            raise _refused(answer, operation)
        return _told(answer, streamed)


class Signer(S3SigV4Auth):
    """Signs what is sent by the hash that is known already.

    A whole object by its name, so that even a store without checksums refuses anything else; a part whose CRC the store
    checks by none; any other part by its own.
    """

    def payload(self, request: Any) -> str:
        if oid := request.headers.get("x-amz-meta-sha256"):
            return str(oid)
        if "x-amz-checksum-crc32c" in request.headers:
            return UNSIGNED_PAYLOAD
        return str(super().payload(request))


def _refused(answer: AWSResponse, operation: str) -> Exception:
    """As boto3 raises it: read by its own parser, which has a say only where something goes wrong."""
    from botocore.exceptions import ClientError
    from botocore.parsers import RestXMLParser

    told = {"headers": answer.headers, "status_code": answer.status_code, "body": answer.content, "context": {}}
    parser: Any = RestXMLParser()
    return ClientError(parser.parse(told, None), operation)


def _told(answer: AWSResponse, streamed: bool) -> dict[str, Any]:
    """The fields of an answer. Raises ValueError for a length that is none."""
    headers = {name.lower(): value for name, value in answer.headers.items()}
    told: dict[str, Any] = {field: headers[name] for name, field in _TOLD.items() if name in headers}
    if (length := headers.get("content-length")) is not None:
        told["ContentLength"] = int(length)
    if written := headers.get("last-modified"):
        told["LastModified"] = parsedate_to_datetime(written)
    told["Metadata"] = {
        name.removeprefix(_METADATA): value for name, value in headers.items() if name.startswith(_METADATA)
    }
    told["ResponseMetadata"] = {"HTTPStatusCode": answer.status_code, "HTTPHeaders": headers, "RetryAttempts": 0}
    if streamed:
        from botocore.response import StreamingBody

        told["Body"] = StreamingBody(answer.raw, cast("int", length))  # which may be None, and a str
    return told
