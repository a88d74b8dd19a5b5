"""`Lean`: the requests that a push and a pull need, by libcurl, without boto3's client and what it loads."""

import hashlib
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, unquote_plus, urlsplit

from lfs_agent.store import Content
from lfs_agent.store.login import CONTROL, Keys
from lfs_agent.store.s3curl import Answer, Curl, Http, Request
from lfs_agent.store.s3errors import Refusal

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

_LIST: Final = "list_objects_v2"
_METHODS: Final = {
    "complete_multipart_upload": "POST",
    "create_multipart_upload": "POST",
    "get_object": "GET",
    "head_object": "HEAD",
    _LIST: "GET",
    "put_object": "PUT",
    "upload_part": "PUT",
}
_ASKED: Final = {
    "PartNumber": "partNumber",
    "Prefix": "prefix",
    "StartAfter": "start-after",
    "UploadId": "uploadId",
}
_SENT: Final = {
    "ChecksumAlgorithm": "x-amz-checksum-algorithm",
    "ChecksumCRC32C": "x-amz-checksum-crc32c",
    "ChecksumMode": "x-amz-checksum-mode",
    "ChecksumSHA256": "x-amz-checksum-sha256",
    "ChecksumType": "x-amz-checksum-type",
    "ContentMD5": "Content-MD5",
    "ContentType": "Content-Type",
    "ExpectedBucketOwner": "x-amz-expected-bucket-owner",
    "IfMatch": "If-Match",
    "IfNoneMatch": "If-None-Match",
    "MpuObjectSize": "x-amz-mp-object-size",
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
    "x-amz-checksum-algorithm": "ChecksumAlgorithm",
    "x-amz-checksum-crc32c": "ChecksumCRC32C",
    "x-amz-checksum-sha256": "ChecksumSHA256",
    "x-amz-checksum-type": "ChecksumType",
    "x-amz-restore": "Restore",
    "x-amz-server-side-encryption": "ServerSideEncryption",
    "x-amz-storage-class": "StorageClass",
}
_METADATA: Final = "x-amz-meta-"
_UNSIGNED: Final = "UNSIGNED-PAYLOAD"
_NAMESPACE: Final = "http://s3.amazonaws.com/doc/2006-03-01/"

_PLAIN_BUCKET: Final = re.compile(r"(?!.*--)[a-z0-9][a-z0-9-]{1,61}[a-z0-9]", re.ASCII)
_ANY_REGION: Final = r"[A-Za-z0-9-]+"
"""One with anything else would say another thing to libcurl, which is told it between colons."""
_PLAIN_REGION: Final = r"(?:af|ap|ca|eu|il|me|mx|sa|us)-(?!gov|iso)[a-z]+-[0-9]"
_PLAIN_NAME: Final = re.compile(r"[A-Za-z0-9._~-]+", re.ASCII)
"""An access key with anything else would be quoted."""
_DOTS: Final = re.compile(r"(?:^|/)\.{1,2}(?:/|$)")
"""Such a segment would be resolved."""
_CONTROL: Final = re.compile(CONTROL)
_NO_NAME: Final = r"(?:\[.*\]|[0-9.]+)(?::[0-9]+)?"


def base_of(bucket: str, endpoint: str, region: str, *, path_style: bool) -> str:
    """The URL before the keys of a bucket, as botocore resolves it; "" where that follows from more than these.

    >>> base_of("models", "", "eu-west-3", path_style=False)
    'https://models.s3.eu-west-3.amazonaws.com'
    >>> base_of("models", "http://[::1]:9000/s3/", "any", path_style=True)
    'http://[::1]:9000/s3/models'
    >>> base_of("models--use1-az4--x-s3", "", "us-east-1", path_style=False)
    ''
    """
    if not _PLAIN_BUCKET.fullmatch(bucket) or not re.fullmatch(_ANY_REGION if endpoint else _PLAIN_REGION, region):
        return ""
    amazon = "https://s3.amazonaws.com" if region == "us-east-1" else f"https://s3.{region}.amazonaws.com"
    url = urlsplit(endpoint or amazon)
    path = url.path.rstrip("/")
    if _DOTS.search(path):
        return ""
    if path_style:
        return f"{url.scheme}://{url.netloc}{path}/{bucket}"
    if re.fullmatch(_NO_NAME, url.netloc):  # to put another one before
        return ""
    return f"{url.scheme}://{bucket}.{url.netloc}{path}"


class Lean:
    """Some of boto3's client calls for the bucket whose keys follow `base`: same parameters and answers.

    `keys`: what to sign the next request with; None for requests that nobody signs. Usable from several threads. An
    answer tells no `LastModified`, whose reader takes 15 ms to load; so lists of so many `MaxKeys`, for which that is
    asked, are left to the client.
    """

    def __init__(self, base: str, region: str, keys: Callable[[], Keys | None], http: Http) -> None:
        self._base = base
        self._keys = keys
        self._curl = Curl(base, region, http)

    def takes(self, operation: str, parameters: Mapping[str, Any]) -> bool:
        """Whether it is one of them, and libcurl would send it as it is meant."""
        if operation not in _METHODS or "MaxKeys" in parameters or _DOTS.search(parameters.get("Key", "")):
            return False
        # A body is signed by its hash, for which any other would have to be read once more.
        if operation == "put_object" and "sha256" not in parameters.get("Metadata", {}):
            return False
        if operation == "upload_part" and "ChecksumCRC32C" not in parameters:
            return False
        keys = self._keys()
        return keys is None or self.signs(keys)

    def signs(self, keys: Keys) -> bool:
        """Whether libcurl would sign with them as they are."""
        return bool(_PLAIN_NAME.fullmatch(keys.access_key))

    def ask(self, operation: str, **parameters: Any) -> dict[str, Any]:
        """What boto3's call of that name answers.

        Raises Unanswered, Refusal, what that raises; ValueError for what cannot be in a header, as an ETag in a list
        may be.
        """
        method, body = _METHODS[operation], parameters.pop("Body", None)
        key = parameters.pop("Key", "")
        path = f"/{quote(key, safe='/~')}" if key else ""
        url = f"{self._base}{path}{_query(operation, parameters)}"
        metadata: Mapping[str, str] = parameters.pop("Metadata", {})
        headers = {_SENT[name]: str(value) for name, value in parameters.items() if name in _SENT}
        headers |= {f"{_METADATA}{name}": value for name, value in metadata.items()}
        if _CONTROL.search("".join(headers.values())):
            broken = next(name for name, value in headers.items() if _CONTROL.search(value))
            raise ValueError(f"a line break, or another control character, for {broken}")
        signed = {}
        if method == "POST":
            text = _listing(parameters["MultipartUpload"]["Parts"]) if "MultipartUpload" in parameters else b""
            body, signed = Content(text), {"sha256": hashlib.sha256(text).hexdigest()}
        elif body is not None:
            # A whole object is signed by its name, so that even a store without checksums refuses anything else; a part
            # whose CRC the store checks, by nothing.
            signed = {"sha256": metadata.get("sha256", _UNSIGNED)}
        request = Request(method, url, headers, body, streamed=operation == "get_object", **signed)
        answer = self._curl.send(request, self._keys())
        if answer.is_refusal:
            raise _refused(answer, operation)
        return _told(answer) | _said(answer, operation)


def _query(operation: str, parameters: Mapping[str, Any]) -> str:
    if operation == "create_multipart_upload":
        return "?uploads"
    asked = [f"{_ASKED[name]}={quote(str(value), safe='~')}" for name, value in parameters.items() if name in _ASKED]
    if operation == _LIST:
        asked = ["list-type=2", *asked, "encoding-type=url"]
    return f"?{'&'.join(asked)}" if asked else ""


def _listing(parts: Sequence[Mapping[str, Any]]) -> bytes:
    """The parts of a completion as S3 reads them."""
    from xml.etree import ElementTree  # 3 ms, for large objects only

    root = ElementTree.Element("CompleteMultipartUpload", xmlns=_NAMESPACE)
    for part in parts:
        listed = ElementTree.SubElement(root, "Part")
        for name, value in part.items():
            ElementTree.SubElement(listed, name).text = str(value)
    return ElementTree.tostring(root)


def _said(answer: Answer, operation: str) -> dict[str, Any]:
    """What the content of an answer says; raises what it says has failed although all began well, as boto3 does."""
    if not answer.content:
        return {}
    from xml.etree import ElementTree

    try:
        root = ElementTree.fromstring(answer.content)
    except ElementTree.ParseError:  # it broke off
        root = ElementTree.Element("Error")
    if root.tag.rpartition("}")[2] == "Error":
        raise _refused(answer._replace(status=500), operation)
    if operation == _LIST:
        return _page(root)
    return {child.tag.rpartition("}")[2]: child.text for child in root if child.text}


def _refused(answer: Answer, operation: str) -> Exception:
    """As boto3 raises it; its own parser reads what is not as S3 writes it."""
    said = _plain_error(answer.content) if answer.content else {"Code": str(answer.status), "Message": _phrase(answer)}
    if said is not None:
        return Refusal({"Error": said, "ResponseMetadata": _metadata(answer)})
    from botocore.exceptions import ClientError
    from botocore.parsers import RestXMLParser

    told = {"headers": answer.headers, "status_code": answer.status, "body": answer.content, "context": {}}
    parser: Any = RestXMLParser()
    with _parsing:
        return ClientError(parser.parse(told, None), operation)


_parsing: Final = threading.Lock()  # of errors: some grow in memory, a hundredfold, before they are found to be none


_FIELD: Final = rb"<(?P<name>[A-Za-z]+)>([ -%'-;=?-~]*)</(?P=name)>\s*"
_ERROR: Final = (
    rb'(?:<\?xml version="1\.0" encoding="(?:UTF|utf)-8"\?>)?\s*<Error>\s*((?:' + _FIELD + rb")*)</Error>\s*"
)


def _plain_error(content: bytes) -> dict[str, str | None] | None:
    """What an error says that S3 has written as it usually does; None for any other: only that takes a parser."""
    if not (error := re.fullmatch(_ERROR, content)):
        return None
    fields = re.findall(_FIELD, error[1])
    said = {name.decode(): text.decode() or None for name, text in fields}
    return said if len(said) == len(fields) else None


def _phrase(answer: Answer) -> str:
    if answer.status == 404:  # to a HEAD, mostly
        return "Not Found"
    from http import HTTPStatus  # 2 ms

    try:
        return HTTPStatus(answer.status).phrase
    except ValueError:
        return ""


def _told(answer: Answer) -> dict[str, Any]:
    """The fields of an answer. Raises ValueError for a length that is none."""
    headers = answer.headers
    told: dict[str, Any] = {_TOLD[name]: headers[name] for name in _TOLD.keys() & headers}
    if (length := headers.get("content-length")) is not None:
        told["ContentLength"] = int(length)
    told["Metadata"] = {
        name.removeprefix(_METADATA): value for name, value in headers.items() if name.startswith(_METADATA)
    }
    told["ResponseMetadata"] = _metadata(answer)
    if answer.body:
        told["Body"] = answer.body
    return told


def _page(page: "Element") -> dict[str, Any]:
    """The fields of a page of a list. Raises ValueError, LookupError where it is none."""
    if page.tag.rpartition("}")[2] != "ListBucketResult":
        raise ValueError(f"no list, but {page.tag}")
    is_quoted = page.findtext("{*}EncodingType") == "url"
    entries = [
        {field.tag.rpartition("}")[2]: field.text or "" for field in each} for each in page.findall("{*}Contents")
    ]
    return {
        "Contents": [
            {**each, "Key": unquote_plus(each["Key"]) if is_quoted else each["Key"], "Size": int(each["Size"])}
            for each in entries
        ],
        "IsTruncated": page.findtext("{*}IsTruncated") == "true",
    }


def _metadata(answer: Answer) -> dict[str, Any]:
    return {"HTTPStatusCode": answer.status, "HTTPHeaders": answer.headers, "RetryAttempts": 0}
