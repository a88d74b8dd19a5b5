"""What boto3 raises, as our errors: one place that says in a sentence what S3 said, and what to do next."""

import re
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from lfs_agent import log
from lfs_agent.errors import (
    AgentError,
    ArchivedError,
    BucketError,
    ConflictError,
    CredentialsError,
    DamagedError,
    DeniedError,
    MissingError,
    ObjectError,
    SessionError,
    TransientError,
    UnreachableError,
    UnsupportedError,
    UsageError,
    out_of_threads,
)
from lfs_agent.parts import MIB

if TYPE_CHECKING:
    from botocore.exceptions import BotoCoreError


class Context(NamedTuple):
    """What was asked, and of whom: `doing` is the verb of the sentence."""

    doing: str
    bucket: str
    key: str
    endpoint: str
    profile: str
    public: bool
    owner: str = ""
    """The account that the bucket has to be of."""
    payer: bool = False
    would_tell: str = ""
    """The right without which the store does not say whether a key is there, where it has named it."""
    own: bool = True
    """Whether it is the bucket that the repository names, and not one of the command line."""
    proxy: str = ""
    """git's; "" where the environment says how to go there."""

    @property
    def address(self) -> str:
        return f"s3://{self.bucket}/{self.key}" if self.key else f"s3://{self.bucket}"

    @property
    def server(self) -> str:
        return self.endpoint or "Amazon S3"


_REFUSED_KEYS: Final = frozenset({
    "InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "ExpiredToken", "TokenRefreshRequired",
    "InvalidClientTokenId", "UnrecognizedClientException", "XAdminUserNotFound",
    "ExpiredTokenException", "InvalidSecurity", "NotSignedUp", "AccountProblem",
})  # fmt: skip
_BUSY: Final = frozenset({
    "SlowDown", "ServiceUnavailable", "Throttling", "ThrottlingException", "ThrottledException",
    "RequestLimitExceeded", "BandwidthLimitExceeded", "RequestThrottled", "TooManyRequests", "Busy",
    "KMS.ThrottlingException", "503", "429",
})  # fmt: skip
_TRY_AGAIN: Final = _BUSY | {
    "InternalError", "InternalServerError", "InternalFailure", "RequestTimeout", "RequestTimeoutException",
    "PriorRequestNotComplete", "IncompleteBody", "KMS.InternalException", "502", "504", "500",
}  # fmt: skip
_CORRUPTED: Final = frozenset({
    "BadDigest", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch", "InvalidDigest", "ChecksumMismatch",
})  # fmt: skip

_LONGEST: Final = 4 * MIB
"""Bytes of an answer that is not an object's content: a list of a thousand things has less."""
_TAGS: Final = 100_000
"""Of such an answer: each is a hundred times as long in memory as on the way."""
_LONGEST_CODE, _LONGEST_MESSAGE = 80, 1000
"""Characters of what a store says that are told; it may say megabytes."""
_LONGEST_READ: Final = 1 << 14
"""Characters in which secrets are looked for, before the rest is cut off: what is left of one, nobody would know."""
_NAMED_ACTION: Final = r"is not authorized to perform: ([a-z0-9-]{2,30}:[A-Za-z]{2,60})\b"
_RIGHTS: Final = {
    "reading": "s3:GetObject is needed (and kms:Decrypt where the bucket uses KMS)",
    "listing": "s3:ListBucket is needed",
    "creating": "s3:CreateBucket is needed",
    "looking at the versioning of": "s3:GetBucketVersioning is needed",
    "setting the versioning of": "s3:PutBucketVersioning is needed",
    "looking at the public access block of": "s3:GetBucketPublicAccessBlock is needed",
    "setting the public access block of": "s3:PutBucketPublicAccessBlock is needed",
    "looking at the lifecycle of": "s3:GetLifecycleConfiguration is needed",
    "setting the lifecycle of": "s3:PutLifecycleConfiguration is needed",
    "looking at the encryption of": "s3:GetEncryptionConfiguration is needed",
    "setting the encryption of": "s3:PutEncryptionConfiguration is needed",
    "listing the unfinished uploads of": "s3:ListBucketMultipartUploads is needed",
    "listing the parts of": "s3:ListMultipartUploadParts is needed",
    "giving up": "s3:AbortMultipartUpload is needed",
    "creating a batch job for": "s3:CreateJob is needed, and iam:PassRole on the job's role",
    "deleting": "s3:DeleteObject is needed",
}
"""What a request needs, by its verb; all others store."""


class Refusal(Exception):
    """An answer that refuses, read without botocore; its `response` is what botocore's ClientError would have."""

    def __init__(self, response: Mapping[str, Any]) -> None:
        super().__init__()
        self.response = response


class Unanswered(Exception):
    """A request that has had no answer, or not all of it, with what libcurl says of that.

    Its `kind`: the server could not be reached; TLS has failed; the server has hung up without a word; anything else.
    """

    def __init__(self, kind: Literal["unreachable", "tls", "closed", "broken"], said: str) -> None:
        super().__init__(said)
        self.kind = kind


def is_too_long(content: bytes | bytearray) -> bool:
    """Whether it is more than any sane answer that is not an object's content."""
    return len(content) > _LONGEST or content.count(b"<") > _TAGS


def is_from_client(error: BaseException) -> bool:
    """Whether boto3 raised it, or what stands for that; a process that has not loaded botocore need not for this."""
    if isinstance(error, Refusal | Unanswered):
        return True
    if "botocore" not in sys.modules:
        return False
    from botocore.exceptions import BotoCoreError, ClientError
    from botocore.parsers import ResponseParserError
    from urllib3.exceptions import HTTPError

    return isinstance(error, BotoCoreError | ClientError | ResponseParserError | HTTPError)


def translate(error: Exception, context: Context) -> AgentError:
    """Our error for boto3's; a sentence with the address, S3's own words and the next step."""
    response = _response(error)
    return _no_answer(error, context) if response is None else _answer(response, context)


def _response(error: Exception) -> Mapping[str, Any] | None:
    """What the store has answered, as botocore's ClientError has it."""
    response = getattr(error, "response", None)
    if not isinstance(response, Mapping):
        return None
    # What an error says that has a namespace botocore leaves beside an empty one.
    return {**response, "Error": response} if "Code" in response else response


def refuses_keys(error: Exception) -> bool:
    """Whether the store does not take these keys, or no more; others might do."""
    code = (_response(error) or {}).get("Error", {}).get("Code")
    return code in _REFUSED_KEYS and code != "SignatureDoesNotMatch"


def leads_on(error: Exception, region: str) -> bool:
    """Whether boto3's client would sign again, for the region that the answer names in the place of ours."""
    response = _response(error) or {}
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    return status in (301, 302, 307, 400) and named_region(response) not in ("", region)


def _answer(response: Mapping[str, Any], context: Context) -> AgentError:
    meta = response.get("ResponseMetadata", {})
    said = response.get("Error", {})
    status, code = int(meta.get("HTTPStatusCode") or 0), _cut(str(said.get("Code", "")), _LONGEST_CODE)
    message = _cut(str(said.get("Message") or "").strip(), _LONGEST_MESSAGE)
    words = f"{status} {'' if code == str(status) else code}".rstrip()  # what is no S3 has no code
    words += f" ({message})" if message and message not in ("Not Found", "Forbidden") else ""
    sentence = f"{context.doing} {context.address}: {words}"
    headers = meta.get("HTTPHeaders", {})

    if status == 407:  # of a proxy: no store says that
        return _refused_by_proxy(context)
    if code in _TRY_AGAIN or status in (429, 500, 502, 503, 504):
        busy = code in _BUSY or status in (429, 503)
        return TransientError(sentence, retry_after_s=_retry_after(headers), heard=True, busy=busy)
    if code in _CORRUPTED and context.doing == "completing":
        return DamagedError(f"{sentence}; the store put the parts together wrong: nothing was stored, push again")
    if code in _CORRUPTED:
        return TransientError(f"{sentence}; the bytes did not arrive as they were sent", heard=True)
    if code in _REFUSED_KEYS:
        return CredentialsError(f"{sentence}; {_renew(code, context)}")
    if code == "RequestTimeTooSkewed":
        return CredentialsError(f"{sentence}; this machine's clock is wrong: set it (timedatectl set-ntp true)")
    if code == "NoSuchBucket":
        how = " (lfs-agent setup-storage), or correct lfs.url" if context.own else ", or correct the URL"
        return BucketError(f"{sentence}; create the bucket at {context.server}{how}")
    if code in _ELSEWHERE or status in (301, 302, 303, 307, 308):
        return _elsewhere(response, sentence, context)
    if code in ("InvalidObjectState", "ObjectNotInActiveTierError"):
        tier = str(said.get("AccessTier") or said.get("StorageClass") or "an archive")
        return ArchivedError(f"{sentence}; {how_to_restore(tier, context)}")
    if context.doing in ("looking at", "reading") and re.search(_OWN_KEY, f"{code} {message}"):
        import shlex  # of no use where no such key is

        address = shlex.quote(context.address)
        return ObjectError(
            f"{sentence}; it is encrypted with a key that the store does not keep (SSE-C), which is not supported: "
            f"store it otherwise (aws s3 cp {address} {address} --sse AES256 "
            "--sse-c-copy-source AES256 --sse-c-copy-source-key fileb://KEY)"
        )
    if code.startswith("KMS"):
        return ObjectError(
            f"{sentence}; the KMS key can't be used: see aws kms describe-key, or choose another: lfs-agent.sseKmsKeyId"
        )
    if code == "400" and context.doing in ("looking at", "reading"):
        return BucketError(
            f"{sentence}; what answers at {context.server} is not S3: is it http or https, the right port, or does it "
            f"want a client's certificate ({_NAME_ONE})?"
        )
    return _by_status(status, code, message, sentence, context)


_ELSEWHERE: Final = frozenset({
    "PermanentRedirect", "TemporaryRedirect", "Redirect", "AuthorizationHeaderMalformed",
    "IllegalLocationConstraintException", "IncorrectEndpoint",
})  # fmt: skip
_OWN_KEY: Final = "(?i)form of (SSE|server.side encryption)|SSEEncryptedObject|SSECustomer|customer provided key"
FROZEN_TIERS: Final = frozenset({"ARCHIVE_ACCESS", "DEEP_ARCHIVE_ACCESS"})
"""Of INTELLIGENT_TIERING: what is restored from them stays."""


def named_region(response: Mapping[str, Any]) -> str:
    """The region that an answer names, if it may be one; else "".

    >>> named_region({"Error": {"Region": "eu-west-3"}}), named_region({"Error": {"Region": "evil.example/"}})
    ('eu-west-3', '')
    """
    said = response.get("Error", {})
    headers = response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    expected = re.search(r"expecting '([^']+)'", str(said.get("Message") or ""))
    named = headers.get("x-amz-bucket-region") or said.get("Region") or (expected[1] if expected else "")
    return named if re.fullmatch(r"(?=.*[a-z])[a-z0-9](?:[a-z0-9-]{0,30}[a-z0-9])?", named, re.ASCII) else ""


def _elsewhere(response: Mapping[str, Any], sentence: str, context: Context) -> AgentError:
    """The store sends us on. Nothing is sent there: what is signed, or yours, goes where you said."""
    if region := named_region(response):
        return BucketError(f"{sentence}; the bucket is in another region: set lfs-agent.region to {region}")
    code = response.get("Error", {}).get("Code", "")
    if code == "AuthorizationHeaderMalformed":
        return CredentialsError(f"{sentence}; {_renew(code, context)}")
    location = response.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("location", "")
    host = re.match(r"https?://([A-Za-z0-9.-]{1,100})", location)
    return BucketError(
        f"{sentence}; {context.server} sends elsewhere{f', to {host[1]}' if host else ''}, where nothing is sent: set "
        "lfs-agent.region to the bucket's, or correct the endpoint"
    )


def how_to_restore(tier: str, context: Context) -> str:
    """What to do for an object in an archive, as the command that does it."""
    import shlex  # of no use where nothing is archived

    words = ["aws", "s3api", "restore-object", "--bucket", context.bucket, "--key", context.key, "--restore-request"]
    words.append("{}" if tier in FROZEN_TIERS else "Days=7")
    words += ["--endpoint-url", context.endpoint] if context.endpoint else []
    words += ["--profile", context.profile] if context.profile else []
    words += ["--request-payer", "requester"] if context.payer else []
    return f"it is archived ({tier}); restore it, and pull when that is done: {shlex.join(words)}"


def _by_status(status: int, code: str, message: str, sentence: str, context: Context) -> AgentError:
    match status:
        case 404:
            return MissingError(f"{sentence}; nobody has pushed it here, or it was deleted: see lfs-agent verify")
        case 409 | 412 if code not in ("BucketAlreadyExists", "InvalidBucketState"):
            if context.doing == "reading":
                return DamagedError(f"{sentence}; the object was replaced while it was read")
            return ConflictError(sentence)
        case 416:
            return DamagedError(f"{sentence}; the store has fewer bytes than the object")
        case 413:
            return ObjectError(
                f"{sentence}; what stands before the store takes no body of this size: raise its limit (nginx: "
                "client_max_body_size), or lower lfs-agent.partSize"
            )
        case 403 if "Quota" in code:
            return ObjectError(
                f"{sentence}; make room in {context.bucket} (lfs-agent uploads, lfs-agent gc), or have the quota raised"
            )
        case 401 | 403:
            return DeniedError(f"{sentence}; {_right(message, context)}{_owner(context)}")
        case 501 | 405:
            return UnsupportedError(sentence)
        case 400 if code in (
            "NotImplemented",
            "InvalidArgument",
            "InvalidRequest",
            "MalformedXML",
        ):
            return UnsupportedError(sentence)
    return ObjectError(sentence)


def named_action(said: str) -> str:
    """The action that a store's refusal names as the missing one; "" where it names none.

    >>> named_action("User: arn:aws:iam::1:user/v is not authorized to perform: s3:PutObject on resource: …")
    's3:PutObject'
    """
    found = re.search(_NAMED_ACTION, said)
    return found[1] if found else ""


def _right(said: str, context: Context) -> str:
    """Which right is missing: the one that the store `said`, else as far as the request tells."""
    if context.public:
        return "nothing is there, or the bucket does not let everybody read it; unset public to use your credentials"
    action = named_action(said)
    if context.doing == "looking at":
        action = action or context.would_tell or "s3:GetObject on the key, with s3:ListBucket on the bucket,"
        return f"missing or forbidden: {action} would tell"
    if action:
        denied = ", and a policy denies it, whatever another one allows" if "explicit deny" in said else ""
        return f"{action} is needed{denied}"
    return _RIGHTS.get(
        context.doing, "s3:PutObject is needed (and kms:GenerateDataKey, kms:Decrypt where the bucket uses KMS)"
    )


def _owner(context: Context) -> str:
    return f", or the bucket is not of {context.owner} (lfs-agent.expectedOwner)" if context.owner else ""


def _renew(code: str, context: Context) -> str:
    profile = f" --profile {context.profile}" if context.profile else ""
    if "Expired" in code or code == "TokenRefreshRequired":
        return f"log in again: aws sso login{profile}, or renew AWS_SESSION_TOKEN"
    return f"the keys are not right for {context.server}: see aws configure list{profile}"


def _retry_after(headers: Mapping[str, str]) -> float | None:
    text = headers.get("retry-after", "")
    if re.fullmatch("[0-9]{1,9}", text):
        return float(text)
    if not text:
        return None
    from datetime import UTC, datetime
    from email.utils import parsedate_to_datetime  # 8 ms for what hardly any store sends

    try:
        return max(0.0, (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds())
    except (TypeError, ValueError, OverflowError):
        return None


def _refused_by_proxy(context: Context) -> UnreachableError:
    """Nothing has come to the store; asked again, the proxy says the same."""
    proxy, named_by = context.proxy, "git's http.proxy"
    if not proxy:
        from urllib.request import getproxies  # 15 ms

        scheme = (context.endpoint or "https:").partition(":")[0]
        proxy, named_by = getproxies().get(scheme, ""), f"{scheme.upper()}_PROXY"
    host = re.sub(r"^\w+://", "", proxy).rpartition("@")[2].rstrip("/")
    return UnreachableError(
        f"the proxy {host} wants a name and a password, or other ones, before it lets a request for {context.address} "
        f"through (407 Proxy Authentication Required); name them in {named_by}: NAME:PASSWORD@{host}"
    )


def _unanswered(error: Unanswered, context: Context) -> AgentError:
    said = _one_line(error)
    match error.kind:
        case "tls":
            return _tls_failure(said, context)
        case "unreachable" if re.search(_NO_TUNNEL, said):
            return _refused_by_proxy(context)
        case "unreachable":
            unreachable = UnreachableError(
                f"{context.server} cannot be reached for {context.address} ({said}); "
                "check the network, the proxy, and the endpoint: lfs-agent config --show-origin"
            )
            return TransientError(str(unreachable), last=unreachable)
        case "closed":
            return TransientError(
                f"{context.server} hung up without an answer to a request for {context.address}; if that remains: "
                "is it http or https, and the right port? See: lfs-agent config --show-origin"
            )
        case "broken":
            return TransientError(f"{context.address}: {said}")


_NO_TUNNEL: Final = r"CONNECT tunnel failed, response 407|Tunnel connection failed: 407"
"""libcurl's words, or Python's."""


def _no_answer(error: Exception, context: Context) -> AgentError:
    if isinstance(error, Unanswered):
        return _unanswered(error, context)
    from botocore import exceptions as boto
    from botocore.parsers import ResponseParserError
    from urllib3.exceptions import HTTPError, LocationParseError

    profile = context.profile or "NAME"
    sentence = f"{context.address}: {_one_line(error)}"
    match error:
        case boto.NoCredentialsError() | boto.PartialCredentialsError():
            return CredentialsError(
                f"{sentence}; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or AWS_PROFILE, or run aws configure"
            )
        case boto.SSOError() | boto.TokenRetrievalError() | boto.NoAuthTokenError():
            return CredentialsError(f"{sentence}; log in again: aws sso login --profile {profile}")
        case boto.MissingDependencyException() if not context.doing:  # while logging in: as only aws login does
            name = context.profile or "default"
            return CredentialsError(
                f"no AWS credentials for {context.address}: profile {name} is one of aws login, which cannot be used "
                "here; choose another one, that asks the AWS command line for them: credential_process = "
                f"aws configure export-credentials --profile {name} --format process"
            )
        case boto.ProfileNotFound():
            return CredentialsError(f"{sentence}; see: aws configure list-profiles")
        case boto.CredentialRetrievalError() | boto.MetadataRetrievalError() | boto.RefreshWithMFAUnsupportedError():
            return CredentialsError(f"{sentence}; see: aws sts get-caller-identity --profile {profile}")
        case boto.SSLError():
            return _unanswered(Unanswered("tls", str(error.kwargs["error"])), context)
        case boto.ParamValidationError() | boto.InvalidRegionError() | boto.InvalidProxiesConfigError():
            return UsageError(sentence)
        case boto.ProxyConnectionError() if re.search(_NO_TUNNEL, str(error.kwargs.get("error"))):
            return _refused_by_proxy(context)
        case boto.HTTPClientError() if isinstance(error.kwargs.get("error"), LocationParseError):
            # It repeats what it takes for a port: the beginning of the password.
            return UsageError(
                "the proxy's address is no URL: write special characters of its password as in one (%2F for /, %3F for "
                "?, %23 for #); see git's http.proxy, and HTTPS_PROXY or HTTP_PROXY"
            )
        case boto.EndpointConnectionError() | boto.ConnectTimeoutError() | boto.ProxyConnectionError():
            return _unanswered(Unanswered("unreachable", _why(error)), context)
        case boto.ConnectionClosedError():
            return _unanswered(Unanswered("closed", ""), context)
        case (
            boto.HTTPClientError()
            | boto.IncompleteReadError()
            | boto.ReadTimeoutError()
            | boto.ResponseStreamingError()
            | boto.ConnectionError()
            | HTTPError()  # from within an answer's body, where botocore lets some of them through
            | ResponseParserError()  # not S3: something on the way has answered
        ):
            return TransientError(sentence)
    return ObjectError(sentence)


def _why(error: "BotoCoreError") -> str:
    """What the library below said, where botocore says only that it failed: no such name, refused."""
    from botocore import exceptions as boto

    if isinstance(error, boto.ProxyConnectionError):
        return _one_line(error)  # which names the proxy
    found = re.search(r"Failed to (resolve|establish) .*", _one_line(error.kwargs.get("error", error)))
    return found[0] if found else _one_line(error)


def _tls_failure(said: str, context: Context) -> AgentError:
    """What is wrong with certificates stays so; anything else may have come of a connection that broke."""
    server = context.server
    words = said.lower().replace("_", " ")  # libcurl's, or Python's
    if "has expired" in words or "not yet valid" in words:
        return UnreachableError(
            f"{server} shows a certificate that is out of date ({said}); have it renewed, or set this machine's clock"
        )
    if re.search(_OTHER_NAME, words):
        return UnreachableError(
            f"{server} shows a certificate for another name ({said}); correct the endpoint, or the server"
        )
    if "certificate verify failed" in words or words.startswith("ssl certificate "):
        return UnreachableError(
            f"{server} shows a certificate that is not trusted here ({said}); "
            "name its authority: git config --global lfs-agent.ca FILE, or AWS_CA_BUNDLE"
        )
    if "wrong version number" in words or "packet length too long" in words:
        return UnreachableError(
            f"{server} does not speak TLS ({said}); is it http, or another port? See: lfs-agent config --show-origin"
        )
    if re.search(_REFUSED_CERTIFICATE, words):
        return UnreachableError(f"{server} refuses this client's certificate, or wants one ({said}); {_NAME_ONE}")
    broken = UnreachableError(f"{server} broke TLS off ({said}); check the network, the proxy, and the endpoint")
    return TransientError(str(broken), last=broken)


_OTHER_NAME: Final = "doesn't match|mismatch|no alternative certificate subject name|does not match target"
_REFUSED_CERTIFICATE: Final = "alert .*(certificate|unknown ca|handshake failure|access denied)"
_NAME_ONE: Final = "name one that it accepts: git config --global lfs-agent.clientCert FILE, or http.sslCert"


def translate_login(error: Exception, context: Context) -> SessionError:
    """Our error for what came of asking AWS's chain for credentials: a helper, a file, a server may have failed."""
    if told := out_of_threads(error):
        return told
    if is_from_client(error) and isinstance(known := translate(error, context), CredentialsError):
        return known
    profile = f" --profile {context.profile}" if context.profile else ""
    reason = _one_line(error)
    if isinstance(error, EOFError):
        reason = "the profile asks for a one-time password, and nobody can be asked here"
    return CredentialsError(
        f"no AWS credentials for {context.address}: {reason}; see: aws sts get-caller-identity{profile}"
    )


def nonsense(error: Exception, context: Context) -> TransientError:
    """Our error for an answer that holds a number, a date or a checksum that is none, or lacks what it must have."""
    return TransientError(
        f"{context.doing} {context.address}: {context.server} gave no sane answer ({_one_line(error)})"
    )


def _one_line(error: Exception) -> str:
    return _cut(" ".join(str(error).split()), 500)


def _cut(text: str, longest: int) -> str:
    """The beginning of it, without secrets."""
    return log.redact(text[:_LONGEST_READ])[:longest]
