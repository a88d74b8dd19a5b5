"""What a server's own access log says about a request, in one form for all servers."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote


@dataclass(frozen=True)
class Request:
    """One request as the server saw it: the witness for "was not sent again", "touched only these keys"."""

    operation: str
    """S3's name of it: PutObject, UploadPart, HeadObject, ListObjectsV2 …"""
    method: str
    bucket: str
    key: str
    """Empty where the request is about the bucket."""
    query: Mapping[str, str]
    status: int
    bytes: int | None
    """Body bytes, sent or received; None where this server's log does not say."""


def parse_target(target: str) -> tuple[str, str, dict[str, str]]:
    """Bucket, key and query of a path-style request target.

    >>> parse_target("/bucket/a/b%20c?uploadId=x&partNumber=2")
    ('bucket', 'a/b c', {'uploadId': 'x', 'partNumber': '2'})
    """
    path, _, query = target.partition("?")
    bucket, _, key = path.lstrip("/").partition("/")
    return unquote(bucket), unquote(key), dict(parse_qsl(query, keep_blank_values=True))


def operation_of(method: str, bucket: str, key: str, query: Mapping[str, str]) -> str:
    """S3's name of a request, for logs that only know HTTP. A copy is not told from a put.

    >>> operation_of("PUT", "bucket", "key", {"partNumber": "1", "uploadId": "x"})
    'UploadPart'
    """
    if not bucket:
        return "ListBuckets"
    words = set(query)
    if key:
        named = {
            ("POST", "uploads"): "CreateMultipartUpload",
            ("PUT", "partNumber"): "UploadPart",
            ("POST", "uploadId"): "CompleteMultipartUpload",
            ("DELETE", "uploadId"): "AbortMultipartUpload",
            ("GET", "uploadId"): "ListParts",
        }
        plain = {"PUT": "PutObject", "GET": "GetObject", "HEAD": "HeadObject", "DELETE": "DeleteObject"}
    else:
        named = {
            ("GET", "list-type"): "ListObjectsV2",
            ("GET", "uploads"): "ListMultipartUploads",
            ("GET", "versions"): "ListObjectVersions",
            ("GET", "location"): "GetBucketLocation",
            ("GET", "versioning"): "GetBucketVersioning",
            ("PUT", "versioning"): "PutBucketVersioning",
            ("PUT", "policy"): "PutBucketPolicy",
            ("POST", "delete"): "DeleteObjects",
        }
        plain = {"PUT": "CreateBucket", "GET": "ListObjects", "HEAD": "HeadBucket", "DELETE": "DeleteBucket"}
    for (verb, word), name in named.items():
        if verb == method and word in words:
            return name
    return plain.get(method, method)


def method_of(operation: str) -> str:
    """The HTTP method of an S3 operation, for logs that only know the operation.

    >>> method_of("CompleteMultipartUpload"), method_of("UploadPartCopy"), method_of("ListParts")
    ('POST', 'PUT', 'GET')
    """
    if operation in ("CreateMultipartUpload", "CompleteMultipartUpload", "DeleteObjects", "RestoreObject"):
        return "POST"
    for prefixes, method in (
        (("Get", "List"), "GET"),
        (("Head",), "HEAD"),
        (("Delete", "Abort"), "DELETE"),
    ):
        if operation.startswith(prefixes):
            return method
    return "PUT"


# Amazon's format; versitygw writes keys as they are: the target (encoded, with a slash first) is trusted.
_AWS_LINE = re.compile(
    r"^\S+ (?P<bucket>\S+) \[[^]]*\] \S+ \S+ \S+ (?:s3_)?(?P<operation>\w+) .*? ?(?P<target>/\S*) "
    r"(?P<status>\d{3}) \S+ (?P<sent>\d+) (?P<size>\d+) \d+ \d+ "
)


def parse_aws_line(line: str) -> Request | None:
    """A line of a log in Amazon's server access format, as versitygw writes it.

    >>> parse_aws_line("me bk [21/Nov/2026:07:12:17 +0000] ::1 me 4E s3_PutObject z /bk/z 200 - 0 7 1 1 - B")
    Request(operation='PutObject', method='PUT', bucket='bk', key='z', query={}, status=200, bytes=7)
    """
    found = _AWS_LINE.match(line)
    if found is None:
        return None
    operation, status = found["operation"], int(found["status"])
    bucket, key, query = parse_target(found["target"])
    if bucket != found["bucket"]:  # virtual-hosted: the target is the key alone
        path, _, _ = found["target"].partition("?")
        bucket, key = found["bucket"], unquote(path[1:])
    # The log has 0 for what is streamed: parts, and bodies of gets.
    streamed = operation in ("UploadPart", "GetObject") and status < 300
    size = None if streamed else int(found["sent"]) + int(found["size"])
    return Request(operation, method_of(operation), bucket, key, query, status, size)


_BEAST_LINE = re.compile(
    r' beast: \S+ \S+ - \S+ \[[^]]*\] "(?P<method>[A-Z]+) (?P<target>\S+) HTTP/[\d.]+" '
    r"(?P<status>\d{3}) (?P<bytes>\d+) "
)


def parse_beast_line(line: str) -> Request | None:
    """A line of Ceph RGW's log.

    >>> parse_beast_line(
    ...     '1 beast: 0x7f: ::1 - demo [21/Nov/2026:07:12:33 +0000] "GET /bk/z HTTP/1.1" 206 2 - "B"'
    ... )
    Request(operation='GetObject', method='GET', bucket='bk', key='z', query={}, status=206, bytes=2)
    """
    found = _BEAST_LINE.search(line)
    if found is None:
        return None
    method = found["method"]
    bucket, key, query = parse_target(found["target"])
    operation = operation_of(method, bucket, key, query)
    return Request(operation, method, bucket, key, query, int(found["status"]), int(found["bytes"]))
