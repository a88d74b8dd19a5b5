"""`S3Store`: objects in a bucket, through boto3's client calls."""

import base64
import hashlib
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError, ProfileNotFound
from botocore.loaders import Loader
from botocore.session import Session

from lfs_agent import __version__
from lfs_agent.config import Settings
from lfs_agent.errors import (
    AgentError,
    ConflictError,
    CredentialsError,
    MissingError,
    TransientError,
    UnsupportedError,
)
from lfs_agent.parts import MIB, Part
from lfs_agent.pointer import Oid
from lfs_agent.store import Body, ObjectStat, SentPart, Write
from lfs_agent.store.abilities import AbilitiesFile
from lfs_agent.store.s3errors import Context, translate

_BLOCK: Final = MIB
_ARCHIVES: Final = frozenset({"GLACIER", "DEEP_ARCHIVE"})


@dataclass(frozen=True, slots=True)
class Connection:
    """Everything that decides where requests go and as whom; resolved once, passed on explicitly."""

    session: Session
    endpoint: str
    """"" for Amazon's own."""
    region: str
    path_style: bool
    profile: str
    ca: str
    proxy: str


def own_endpoint(session: Session, environ: Mapping[str, str]) -> str:
    """The S3 endpoint of AWS's own settings, in their documented order; "" where they name none.

    Raises CredentialsError for a profile that is not there.
    """
    try:
        profile = session.get_scoped_config()
    except ProfileNotFound as error:
        raise CredentialsError(f"{error}; see: aws configure list-profiles") from None
    ignore = environ.get("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS") or profile.get("ignore_configured_endpoint_urls")
    if str(ignore).lower() == "true":
        return ""
    services = session.full_config.get("services", {}).get(profile.get("services"), {})
    return str(
        environ.get("AWS_ENDPOINT_URL_S3")
        or environ.get("AWS_ENDPOINT_URL")
        or services.get("s3", {}).get("endpoint_url")
        or profile.get("endpoint_url")
        or ""
    )


def open_session(settings: Settings, environ: Mapping[str, str], cellar_profile: str) -> Session:
    """AWS's chain of credentials, with the user's profile.

    `cellar_profile`: the one that the repository recommends; used where the user has it, and nothing else of the
    user's chooses an identity.
    """
    session = Session()
    session.register_component("data_loader", _Loader())
    if settings.profile:
        session.set_config_variable("profile", settings.profile)
    elif cellar_profile and not _chooses_identity(environ) and cellar_profile in session.available_profiles:
        session.set_config_variable("profile", cellar_profile)
    return session


class _Loader(Loader):
    """botocore's loader, without a look into the folders of all 400 services (20 ms) for the few that we use."""

    def list_available_services(self, type_name: str) -> list[str]:
        return ["s3", "sso", "sso-oidc", "sts", "signin"]


def _chooses_identity(environ: Mapping[str, str]) -> bool:
    names = (
        "AWS_PROFILE",
        "AWS_DEFAULT_PROFILE",
        "AWS_ACCESS_KEY_ID",
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    )
    return any(environ.get(name) for name in names)


def resolve_connection(
    session: Session, settings: Settings, endpoint: str, git_http: Callable[[str, str], str]
) -> Connection:
    """Where requests go. `endpoint`: "" for Amazon's own; `git_http(url, name)`: git's own `http.<name>` for a URL."""
    url = endpoint or "https://s3.amazonaws.com"
    ca = settings.ca or session.get_config_variable("ca_bundle") or git_http(url, "sslcainfo")
    return Connection(
        session=session,
        endpoint=endpoint,
        region=settings.region or session.get_config_variable("region") or "us-east-1",
        path_style=bool(endpoint) if settings.path_style is None else settings.path_style,
        profile=session.profile or "",
        ca=str(Path(ca).expanduser()) if ca else "",
        proxy=git_http(url, "proxy") if not _environment_proxy(url) else "",
    )


def _environment_proxy(url: str) -> bool:
    """Whether the environment says how to go to `url`: through a proxy, or past it."""
    from urllib.request import getproxies_environment, proxy_bypass

    scheme, _, rest = url.partition("://")
    return scheme in getproxies_environment() or bool(proxy_bypass(rest.partition("/")[0]))


class S3Store:
    """A Store in `bucket`. `on_secret` is told every secret as soon as it is known, so that logs can leave it out."""

    def __init__(
        self,
        bucket: str,
        connection: Connection,
        settings: Settings,
        *,
        abilities: Path | None = None,
        connections: int = 16,
        on_secret: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._bucket = bucket
        self._connection = connection
        self._settings = settings
        self._connections = connections
        self._on_secret = on_secret
        self._making = threading.Lock()  # of the client: the first requests may come from several threads
        self._made: Any = None
        self.abilities = AbilitiesFile(abilities, connection.endpoint or "amazonaws.com")

    def address(self, key: str) -> str:
        return f"s3://{self._bucket}/{key}"

    def connect(self) -> None:
        _ = self._client
        if self._settings.public:
            return
        try:
            credentials = self._connection.session.get_credentials()
            frozen = credentials.get_frozen_credentials() if credentials else None
        except BotoCoreError as error:
            raise translate(error, self._context("")) from error
        if frozen is None or not frozen.access_key:
            raise CredentialsError(
                f"no AWS credentials for s3://{self._bucket}: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or "
                "AWS_PROFILE, or run: aws configure (or: aws sso login --profile NAME)"
            )
        for secret in (frozen.secret_key, frozen.token):
            if secret:
                self._on_secret(secret)

    @property
    def _client(self) -> Any:
        with self._making:
            if self._made is None:
                self._made = self._new_client()
            return self._made

    def _new_client(self) -> Any:
        settings, connection = self._settings, self._connection
        config = Config(
            connect_timeout=settings.connect_timeout,
            read_timeout=settings.read_timeout,
            retries={"total_max_attempts": 1, "mode": "standard"},
            max_pool_connections=self._connections,
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            user_agent_extra=f"lfs-agent/{__version__}",
            tcp_keepalive=True,
            proxies={"https": connection.proxy, "http": connection.proxy} if connection.proxy else None,
            s3={"addressing_style": "path" if connection.path_style else "virtual"},
            **({"signature_version": UNSIGNED} if settings.public else {}),
        )
        try:
            client = connection.session.create_client(
                "s3",
                region_name=connection.region,
                endpoint_url=connection.endpoint or None,
                verify=connection.ca or None,
                config=config,
            )
        except (BotoCoreError, ValueError) as error:
            raise translate(error, self._context("")) from error
        events = client.meta.events
        events.register_last("before-call.s3.PutObject", _without_expect)
        events.register("before-sign.s3.PutObject", _payload_signing(True))
        events.register("before-sign.s3.UploadPart", self._sign_part)
        events.register("before-send.s3", _note_sending)
        return client

    def _sign_part(self, request: Any, **_: Any) -> None:
        # A part whose CRC the store checks need not be hashed again for its signature; any other part must be.
        _payload_signing(self.abilities.now.multipart_checksum == "none")(request)

    @cached_property
    def new_object(self) -> dict[str, Any]:
        """The parameters of every object that is created."""
        settings = self._settings
        wanted = {
            "StorageClass": settings.storage_class,
            "ServerSideEncryption": settings.sse,
            "SSEKMSKeyId": settings.sse_kms_key_id,
        }
        return {
            "ContentType": "application/octet-stream",
            **{name: value for name, value in wanted.items() if value},
        }

    def _context(self, key: str, doing: str = "") -> Context:
        connection = self._connection
        return Context(
            doing=doing,
            bucket=self._bucket,
            key=key,
            endpoint=connection.endpoint,
            profile=connection.profile,
            public=self._settings.public,
        )

    def ask(self, doing: str, operation: str, key: str, **parameters: Any) -> dict[str, Any]:
        """The answer to one of boto3's client calls, for the object at `key`.

        Raises our errors, with `doing` as the verb of their sentence.
        """
        owner = self._settings.expected_owner
        try:
            answer: dict[str, Any] = getattr(self._client, operation)(
                Bucket=self._bucket,
                Key=key,
                **({"ExpectedBucketOwner": owner} if owner else {}),
                **{name: value for name, value in parameters.items() if value is not None},
            )
            return answer
        except (BotoCoreError, ClientError) as error:
            raise self._translated(error, key, doing) from error

    def _translated(self, error: Exception, key: str, doing: str) -> AgentError:
        cause = error.kwargs.get("error") if isinstance(error, HTTPClientError) else None
        if isinstance(cause, AgentError):  # raised by a body while it was sent
            return cause
        return translate(error, self._context(key, doing))

    def stat(self, key: str) -> ObjectStat | None:
        try:
            head = self.ask("looking at", "head_object", key, ChecksumMode="ENABLED")
        except MissingError:
            return None
        return _stat(key, head, head["ContentLength"])

    def put(self, key: str, oid: Oid, body: Body) -> None:
        now = self.abilities.now
        body.seek(0)
        try:
            self.ask(
                "storing",
                "put_object",
                key,
                Body=body,
                ContentLength=len(body),
                Metadata=_metadata(oid, len(body)),
                ChecksumSHA256=base64.b64encode(bytes.fromhex(oid)).decode() if now.put_checksum else None,
                IfNoneMatch="*" if now.conditional_put else None,
                **self.new_object,
            )
        except UnsupportedError as error:
            if now.conditional_put:
                self.abilities.learn(conditional_put=False)
            elif now.put_checksum:
                self.abilities.learn(put_checksum=False)
            else:
                raise
            raise TransientError(str(error)) from error

    def begin(self, key: str, oid: Oid, size: int) -> "S3Upload":
        wanted = self.abilities.now.multipart_checksum
        try:
            made = self.ask(
                "starting",
                "create_multipart_upload",
                key,
                Metadata=_metadata(oid, size),
                ChecksumAlgorithm="CRC32C" if wanted != "none" else None,
                ChecksumType="FULL_OBJECT" if wanted == "full" else None,
                **self.new_object,
            )
        except UnsupportedError as error:
            if wanted == "none":
                raise
            self.abilities.learn(multipart_checksum="composite" if wanted == "full" else "none")
            raise TransientError(str(error)) from error
        if wanted != "none" and not made.get("ChecksumAlgorithm"):
            self.abilities.learn(multipart_checksum="none")  # taken without a word: nothing will be checked
        elif wanted == "full" and made.get("ChecksumType") == "COMPOSITE":
            self.abilities.learn(multipart_checksum="composite")
        return S3Upload(self, key, size, made["UploadId"])

    def fetch(self, key: str, start: int, stop: int, write: Write, etag: str = "") -> ObjectStat:
        span = f"bytes={start}-{stop - 1}"
        got = self.ask("reading", "get_object", key, Range=span, IfMatch=etag or None)
        first, size = _range(got)
        if first != start:
            raise TransientError(f"{self.address(key)}: the store sent bytes from {first}, not from {start}")
        position = start
        with closing(got["Body"]) as body:
            while position < stop and (chunk := self._read(body, key, min(_BLOCK, stop - position))):
                write(position, chunk)
                position += len(chunk)
        if position < min(stop, size):
            raise TransientError(f"{self.address(key)}: the store broke off at byte {position}")
        return _stat(key, got, size)

    def _read(self, body: Any, key: str, length: int) -> bytes:
        try:
            chunk: bytes = body.read(length)
            return chunk
        except (BotoCoreError, ClientError) as error:
            raise self._translated(error, key, "reading") from error


class S3Upload:
    """A MultipartUpload in S3."""

    def __init__(self, store: S3Store, key: str, size: int, upload_id: str) -> None:
        self._store = store
        self._key = key
        self._size = size
        self._upload_id = upload_id
        self._checksum = store.abilities.now.multipart_checksum

    def put_part(self, part: Part, body: Body, crc32c: str) -> SentPart:
        md5 = self._checksum == "none" and self._store.abilities.now.part_md5
        content_md5 = _md5(body) if md5 else None
        body.seek(0)
        try:
            sent = self._store.ask(
                f"storing part {part.number} of",
                "upload_part",
                self._key,
                UploadId=self._upload_id,
                PartNumber=part.number,
                Body=body,
                ContentLength=part.length,
                ChecksumCRC32C=crc32c if self._checksum != "none" else None,
                ContentMD5=content_md5,
            )
        except UnsupportedError as error:
            if md5 or "md5" not in str(error).lower():
                raise
            self._store.abilities.learn(part_md5=True)
            raise TransientError(str(error)) from error
        return SentPart(part, sent["ETag"], crc32c)

    def complete(self, parts: Sequence[SentPart], crc32c: str) -> None:
        conditional = self._store.abilities.now.conditional_complete
        ordered = sorted(parts, key=lambda sent: sent.part.number)
        try:
            self._store.ask(
                "completing",
                "complete_multipart_upload",
                self._key,
                UploadId=self._upload_id,
                MultipartUpload={"Parts": [self._listed(sent) for sent in ordered]},
                MpuObjectSize=self._size,
                IfNoneMatch="*" if conditional else None,
                ChecksumCRC32C=crc32c if self._checksum == "full" else None,
                ChecksumType="FULL_OBJECT" if self._checksum == "full" else None,
            )
        except MissingError as error:  # NoSuchUpload: perhaps a first Complete whose answer was lost
            raise ConflictError(str(error)) from error
        except UnsupportedError as error:
            if not conditional:
                raise
            self._store.abilities.learn(conditional_complete=False)
            raise TransientError(str(error)) from error

    def _listed(self, sent: SentPart) -> dict[str, Any]:
        checksum = {} if self._checksum == "none" else {"ChecksumCRC32C": sent.crc32c}
        return {"PartNumber": sent.part.number, "ETag": sent.etag, **checksum}

    def abort(self) -> None:
        # What led here is what the user has to know; if this fails, a lifecycle rule sweeps the parts.
        with suppress(AgentError):
            self._store.ask("giving up", "abort_multipart_upload", self._key, UploadId=self._upload_id)


def _metadata(oid: Oid, size: int) -> dict[str, str]:
    return {"sha256": oid, "size": str(size), "agent": f"lfs-agent/{__version__}"}


def _payload_signing(enabled: bool) -> Callable[..., None]:
    config = Config(s3={"payload_signing_enabled": enabled})

    def sign(request: Any, **_: Any) -> None:
        request.context["client_config"] = config

    return sign


def _without_expect(params: dict[str, Any], **_: Any) -> None:
    params["headers"].pop("Expect", None)  # a small body is sent sooner than an answer to the question comes


def _note_sending(request: Any, **_: Any) -> None:
    if hasattr(request.body, "sending"):
        request.body.sending()


def _md5(body: Body) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    body.seek(0)
    while block := body.read():
        digest.update(block)
    return base64.b64encode(digest.digest()).decode()


def _range(got: Mapping[str, Any]) -> tuple[int, int]:
    """The first byte and the size of the whole object, from Content-Range; a store may ignore the range."""
    answered = got.get("ContentRange") or ""
    if not answered:
        return 0, int(got["ContentLength"])
    span, _, size = answered.removeprefix("bytes ").partition("/")
    return int(span.partition("-")[0]), int(size)


def _stat(key: str, got: Mapping[str, Any], size: int) -> ObjectStat:
    whole = got.get("ChecksumType", "FULL_OBJECT") == "FULL_OBJECT"
    sha256 = got.get("ChecksumSHA256", "") if whole else ""
    archived = got.get("StorageClass", "")
    restored = 'ongoing-request="false"' in got.get("Restore", "")
    return ObjectStat(
        key,
        size,
        etag=got.get("ETag", ""),
        sha256=base64.b64decode(sha256).hex() if sha256 and "-" not in sha256 else "",
        crc32c=got.get("ChecksumCRC32C", "") if whole else "",
        archived=archived if archived in _ARCHIVES and not restored else "",
    )
