"""`S3Store`: objects in a bucket, moved by libcurl, and for all else through boto3's client calls."""

import base64
import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast, get_args

from lfs_agent import __version__
from lfs_agent.config import Settings
from lfs_agent.errors import (
    MENDED_BY,
    AgentError,
    BucketError,
    ConflictError,
    CredentialsError,
    DamagedError,
    DeniedError,
    MissingError,
    ObjectError,
    StoppedError,
    TransientError,
    UnsupportedError,
)
from lfs_agent.modes import UMASK, Modes
from lfs_agent.parts import KIB, Part
from lfs_agent.pointer import Oid
from lfs_agent.session import Handover
from lfs_agent.store import Body, Chunk, ObjectStat, Replacing, SentPart, StoredPart, Write
from lfs_agent.store.abilities import Abilities, AbilitiesFile, MultipartChecksum
from lfs_agent.store.connection import Connection, check_certificates
from lfs_agent.store.login import Keys, Login
from lfs_agent.store.s3errors import (
    FROZEN_TIERS,
    Context,
    how_to_restore,
    is_from_client,
    leads_on,
    named_action,
    nonsense,
    refuses_keys,
    translate,
    translate_login,
)
from lfs_agent.turns import Mutex

if TYPE_CHECKING:
    from lfs_agent.store.s3lean import Lean

T = TypeVar("T")
Call = Callable[[str, Callable[[], dict[str, Any]]], dict[str, Any]]
"""Makes a call again while that may help: what it is for, and the call."""

_FIRST_BLOCK: Final = 16 * KIB
"""Whoever waits for a first answer need not wait on a slow link for more."""
_BLOCK: Final = 512 * KIB
_NO_ETAG: Final = f'"{"0" * 32}"'
"""What no object has."""
_ARCHIVES: Final = frozenset({"GLACIER", "DEEP_ARCHIVE", *FROZEN_TIERS})
_LESS: Final[dict[MultipartChecksum, tuple[MultipartChecksum, ...]]] = {
    "full": ("composite", "none"),
    "composite": ("none",),
    "none": (),
}


def why_no_libcurl() -> str:
    """Why nothing goes by libcurl on this machine; "" where it may."""
    try:
        import lfs_agent.store.s3curl  # noqa: F401
    except ImportError as error:
        return str(error)
    return ""


class S3Store:
    """A Store in `bucket`.

    `handover`: where the workers of a session leave a login to each other. `on_secret` is told every secret as soon as
    it is known, so that logs can leave it out; `on_answer` that the store has answered, before it is asked again under
    a new login, which may take a person's time. `own`: the repository names the bucket, not the command line.
    """

    def __init__(
        self,
        bucket: str,
        connection: Connection,
        settings: Settings,
        *,
        abilities: Path | None = None,
        modes: Modes = UMASK,
        handover: Handover | None = None,
        connections: int = 16,
        on_secret: Callable[[str], None] = lambda _: None,
        on_answer: Callable[[], None] = lambda: None,
        own: bool = True,
    ) -> None:
        self._bucket = bucket
        self._own = own
        self._connection = connection
        self._settings = settings
        self._connections = connections
        # Under a limit whoever waits for their turn has little of it, and no connection rests for long.
        self._block = max(_FIRST_BLOCK, min(_BLOCK, settings.bandwidth // 16)) if settings.bandwidth else _BLOCK
        self._on_answer = on_answer
        self._login = Login(connection.aws.ask_chain, None if connection.aws.is_plain else handover, on_secret)
        self._making = Mutex()  # of what is below: the first requests may come from several threads
        self._made: Any = None
        self._lean: Lean | None = None
        self._is_plain = connection.lean
        """Nothing has come up yet that only boto3's client can do."""
        self._hides_missing = False
        """A missing key is forbidden here, not missing: there is no right to list the bucket."""
        self._would_tell = ""
        """The right that is lacking for that, where the store has named it."""
        self.abilities = AbilitiesFile(abilities, connection.endpoint, modes)

    @property
    def region(self) -> str:
        """That requests are signed for."""
        return self._connection.region

    @property
    def has_endpoint(self) -> bool:
        """Whether it is not Amazon's."""
        return bool(self._connection.endpoint)

    def address(self, key: str) -> str:
        return f"s3://{self._bucket}/{key}"

    def identity(self, key: str) -> str:
        return f"{self._connection.endpoint or 'amazonaws.com'} {self._account} {self.address(key)}"

    @property
    def _account(self) -> str:
        """As whom the store is used, the same after a login was renewed.

        The account, where the login tells it; else a key that lasts stands for it; else, of keys that are renewed, the
        profile.
        """
        login = self._login.known
        if login is None:  # nothing is signed
            return ""
        account = login._asdict().get("account_id")  # which older ones of botocore don't know
        lasting = login.access_key if not login.token else ""
        return account or lasting or self._connection.profile

    def load(self) -> None:
        self._without_client()

    def takes_turns(self) -> bool:
        lean = self._without_client()
        return lean is not None and (self._login.known is None or lean.signs(self._login.known))

    def connect(self) -> None:
        if not self._settings.public:
            self._log_in()
        _ = self._without_client() or self._client

    def _log_in(self) -> None:
        """Asks AWS's chain for credentials, before a client does, whose sentences are worse."""
        try:
            login = self._login.load_credentials()
            frozen = login.get_frozen_credentials() if login else None
        except StoppedError:
            raise
        except Exception as error:
            raise translate_login(error, self._context("")) from error
        if frozen is None or not frozen.access_key:
            raise CredentialsError(
                f"no AWS credentials for s3://{self._bucket}: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or "
                "AWS_PROFILE, or run: aws configure (or: aws sso login --profile NAME)"
            )

    @property
    def _client(self) -> Any:
        with self._making:
            if self._made is None:
                from lfs_agent.store.s3boto import new_client

                with self._connecting():
                    self._made = new_client(self._connection, self._settings, self._login, self._connections)
            return self._made

    def client_of(self, service: str, endpoint: str) -> Any:
        """boto3's client of a service of AWS, with the settings of this store; `endpoint`: "" for Amazon's own.

        Raises UsageError, UnreachableError.
        """
        from lfs_agent.store.s3boto import client_of

        with self._connecting():
            return client_of(service, endpoint, self._connection, self._settings, self._login, self._connections)

    @contextmanager
    def _connecting(self) -> Iterator[None]:
        check_certificates(self._connection)
        try:
            yield
        except Exception as error:
            if is_from_client(error) or isinstance(error, ValueError):
                raise translate(error, self._context("")) from error
            raise

    def _without_client(self) -> "Lean | None":
        """None where only boto3's client can do what is wanted."""
        with self._making:
            if self._is_plain and self._lean is None:
                self._lean = self._new_lean()
                self._is_plain = self._lean is not None
            return self._lean if self._is_plain else None

    def _new_lean(self) -> "Lean | None":
        to = self._connection
        if why_no_libcurl():
            return None
        from lfs_agent.store.s3curl import Http
        from lfs_agent.store.s3lean import Lean, base_of

        if not (base := base_of(self._bucket, to.endpoint, to.region, path_style=to.path_style)):
            return None
        with self._connecting():
            http = Http(to.ca, to.proxy, to.client_cert, to.client_key, self._settings.read_timeout)
            return Lean(base, to.region, self._keys, http)

    def _keys(self) -> Keys | None:
        """What the next request is signed with."""
        if self._settings.public:
            return None
        if self._login.known is None:
            with self._making:
                self._log_in()
        return self._login.get_frozen_credentials()

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

    @cached_property
    def manner(self) -> str:
        """What the user has chosen of these, in a word; "" for nothing."""
        chosen = {name: value for name, value in self.new_object.items() if name != "ContentType"}
        return hashlib.sha256(repr(chosen).encode()).hexdigest()[:8] if chosen else ""

    @cached_property
    def _always(self) -> dict[str, Any]:
        """The parameters of every call."""
        settings = self._settings
        owner = {"ExpectedBucketOwner": settings.expected_owner} if settings.expected_owner else {}
        return owner | ({"RequestPayer": "requester"} if settings.requester_pays else {})

    def _context(self, key: str, doing: str = "") -> Context:
        connection = self._connection
        return Context(
            doing=doing,
            bucket=self._bucket,
            key=key,
            endpoint=connection.endpoint,
            profile=connection.profile,
            public=self._settings.public,
            owner=self._settings.expected_owner or "",
            payer=self._settings.requester_pays,
            would_tell=self._would_tell,
            own=self._own,
            proxy=connection.proxy,
        )

    def ask(self, doing: str, operation: str, key: str, **parameters: Any) -> dict[str, Any]:
        """The answer to one of boto3's client calls, for the object at `key`; for the bucket where that is "".

        Raises our errors, with `doing` as the verb of their sentence.
        """
        of_key = {"Key": key} if key else {}
        given = {name: value for name, value in parameters.items() if value is not None}
        signed = None if self._settings.public else self._login.known
        try:
            answer = self._answer(operation, of_key | self._always | given)
        except (LookupError, ValueError) as error:  # a number that is none, a date …
            raise nonsense(error, self._context(key, doing)) from error
        except Exception as error:
            if not is_from_client(error):
                raise
            told = self._translated(error, key, doing)
            if signed and refuses_keys(error):
                self._on_answer()
                if self._renewed(signed, key):
                    raise TransientError(str(told), heard=True) from error
            raise told from error
        self._login.accepted()
        return answer

    def _answer(self, operation: str, parameters: dict[str, Any]) -> dict[str, Any]:
        """The answer to one of boto3's client calls; raises what that does."""
        lean = self._without_client()
        if lean and lean.takes(operation, parameters):
            try:
                return lean.ask(operation, **parameters)
            except Exception as error:
                if not leads_on(error, self._connection.region):
                    raise
            self._is_plain = False  # the client knows how to go on to another region
            if body := parameters.get("Body"):
                body.seek(0)
        answer: dict[str, Any] = getattr(self._client, operation)(Bucket=self._bucket, **parameters)
        return answer

    @contextmanager
    def understanding(self, key: str, doing: str) -> Iterator[None]:
        """Takes an answer apart.

        Raises TransientError where it is not one.
        """
        try:
            yield
        except (LookupError, ValueError) as error:
            raise nonsense(error, self._context(key, doing)) from error

    def _renewed(self, refused: Keys, key: str) -> bool:
        """Whether the chain had others to give than the refused ones, which have served so far."""
        try:
            return self._login.renewed(refused)
        except StoppedError:
            raise
        except Exception as error:
            raise translate_login(error, self._context(key)) from error

    def asked(self, ask: Callable[[Abilities], T], *simpler: dict[str, Any]) -> T:
        """The answer to `ask`, in simpler ways where the store does not know what it is asked.

        The way that it takes is remembered: nobody has to find it out again.
        """
        now = self.abilities.now
        try:
            return ask(now)
        except UnsupportedError as error:
            refusal = error
        if not self._connection.endpoint:  # Amazon knows all of it: it refuses something else
            raise refusal
        for way in simpler:
            if (can := now._replace(**way)) != now:
                with suppress(UnsupportedError):
                    answer = ask(can)
                    self.abilities.learn(**way)
                    return answer
        raise refusal

    def failure_at(self, server: str, error: Exception, doing: str) -> AgentError:
        """Our error for boto3's, of a request for the bucket that another service than S3 was asked."""
        return translate(error, self._context("", doing)._replace(endpoint=server))

    def _translated(self, error: Exception, key: str, doing: str) -> AgentError:
        cause = getattr(error, "kwargs", {}).get("error")  # of botocore's HTTPClientError
        if isinstance(cause, AgentError):  # raised by a body while it was sent
            return cause
        return translate(error, self._context(key, doing))

    def stat(self, key: str) -> ObjectStat | None:
        try:
            return self._head(key)
        except DeniedError:
            if self._hides_missing:
                raise
        except (ObjectError, BucketError):  # of a login that has expired Amazon says 400
            pass
        self._hear_reason(key)
        try:
            return self._head(key)  # GET was told where the bucket is, which HEAD could not be
        except (BucketError, UnsupportedError):
            if not (self._connection.endpoint and self.abilities.now.shown_checksum):
                raise
        found = self._head(key, shown_checksum=False)  # GET was answered: it is what only HEAD was asked
        self.abilities.learn(shown_checksum=False)
        return found

    def _head(self, key: str, *, shown_checksum: bool = True) -> ObjectStat | None:
        mode = "ENABLED" if shown_checksum and self.abilities.now.shown_checksum else None
        try:
            head = self.ask("looking at", "head_object", key, ChecksumMode=mode)
        except MissingError:
            return None
        with self.understanding(key, "looking at"):
            return _stat(self._context(key), head, head["ContentLength"])

    def listed(self, prefix: str, after: str = "") -> tuple[list[ObjectStat], str]:
        page = self.ask("listing", "list_objects_v2", "", Prefix=prefix, StartAfter=after or None)
        with self.understanding("", "listing"):
            found = [_stat(self._context(each["Key"]), each, each["Size"]) for each in page.get("Contents", [])]
            last = found[-1].key if page["IsTruncated"] and found else ""
            if last and last <= after:
                raise ValueError(f"after {after} comes {last}")  # and so on without an end
        return found, last

    def _hear_reason(self, key: str) -> None:
        """Raises the reason of a refusal, which an answer to HEAD has no room for: wrong keys, an expired login …

        Once it was that nobody says whether the key is there, it is that every time a right is lacking.
        """
        try:
            self.ask("looking at", "get_object", key, Range="bytes=0-0")["Body"].close()
        except (MissingError, DamagedError):  # nothing is there, or nothing is in it
            pass
        except DeniedError as error:
            self._hides_missing, self._would_tell = True, named_action(str(error))
            raise

    def can_replace(self, key: str) -> Replacing:
        if not self._connection.endpoint:  # Amazon documents If-Match for both
            return "parts"
        known = self.abilities.now.replacing
        if known == "unasked":
            known = "never" if self._ignores_condition(key) else "parts" if self._guards_parts(key) else "whole"
            self.abilities.learn(replacing=known)
        return known

    def _ignores_condition(self, key: str) -> bool:
        """Whether the store takes an empty object in the place of something that is not there. Only then it remains."""
        try:
            self.ask("storing", "put_object", f"{key}.probe", Body=b"", IfMatch=_NO_ETAG)
        except (ConflictError, MissingError):
            return False
        except UnsupportedError:
            pass
        return True

    def _guards_parts(self, key: str) -> bool:
        """Whether the store looks at the condition of a completion. This one has no parts: it can't succeed anyhow."""
        made = self.ask("starting", "create_multipart_upload", key)
        with self.understanding(key, "starting"):
            upload_id = upload_id_of(made)
        nothing = {"Parts": [{"PartNumber": 1, "ETag": _NO_ETAG}]}
        try:
            self.ask(
                "completing",
                "complete_multipart_upload",
                key,
                UploadId=upload_id,
                MultipartUpload=nothing,
                IfMatch=_NO_ETAG,
            )
        except (ConflictError, MissingError):
            return True
        except ObjectError:
            pass
        finally:
            with suppress(AgentError):
                self.ask("giving up", "abort_multipart_upload", key, UploadId=upload_id)
        return False

    def put(self, key: str, oid: Oid, body: Body, replacing: str = "") -> bool:
        bare = replacing.strip('"')
        if not replacing or self.abilities.now.bare_etag:
            return self._put(key, oid, body, bare)
        try:
            return self._put(key, oid, body, replacing)
        except ConflictError:
            found = self.stat(key)
            if found is None or found.etag != replacing:
                raise
        proven = self._put(key, oid, body, bare)  # Ceph compares the quotes, too
        self.abilities.learn(bare_etag=True)
        return proven

    def check_visible(self, key: str) -> None:
        """Raises DeniedError where a put without a condition could replace what nobody is allowed to see."""
        if self._hides_missing:
            raise DeniedError(
                f"{self.address(key)} was not stored: you may not see whether something is there, and this store can't "
                "be held to replace nothing; s3:ListBucket and s3:GetObject are needed"
            )

    def _put(self, key: str, oid: Oid, body: Body, replacing: str) -> bool:
        digest = base64.b64encode(bytes.fromhex(oid)).decode()

        def put(can: Abilities) -> tuple[dict[str, Any], str | None]:
            md5 = None if can.put_confirmed else _md5(body)
            if not (replacing or can.conditional_put):
                self.check_visible(key)
            body.seek(0)
            answer = self.ask(
                "storing",
                "put_object",
                key,
                Body=body,
                ContentLength=len(body),
                ContentMD5=md5,
                Metadata=_metadata(oid, len(body)),
                ChecksumSHA256=digest if can.put_checksum else None,
                IfNoneMatch="*" if can.conditional_put and not replacing else None,
                IfMatch=replacing or None,
                **self.new_object,
            )
            return answer, md5

        simpler: list[dict[str, Any]] = [
            {"conditional_put": False},
            {"put_checksum": False},
            {"conditional_put": False, "put_checksum": False},
        ]
        try:
            answer, md5 = self.asked(put, *([{"put_checksum": False}] if replacing else simpler))
        except MissingError as error:
            if not replacing:
                raise
            raise ConflictError(str(error)) from error  # what was to be replaced is gone
        except ConflictError:
            if not (replacing or self.abilities.now.obeyed):
                self.abilities.learn(obeyed=True)
            raise
        if answer.get("ChecksumSHA256") == digest:
            if not self.abilities.now.put_confirmed:
                self.abilities.learn(put_confirmed=True)
            return True
        if not answer.get("ETag"):  # whoever has said so, only a look at the store can tell what came of it
            raise ConflictError(str(nonsense(KeyError("ETag"), self._context(key, "storing"))))
        md5 = md5 or _md5(body)
        if self.abilities.now.md5_etag and _is_other_md5(answer, md5):
            self._check_taken(key, oid, len(body))
            self.abilities.learn(md5_etag=False)
        elif not _is_md5(answer, md5):
            self._check_arrived(key, len(body))
        return False

    def _check_taken(self, key: str, oid: Oid, size: int) -> None:
        """Raises DamagedError where what is there can't be shown to be what was sent, whatever its ETag says."""
        digest, found = hashlib.sha256(), None
        with suppress(ObjectError, TransientError):
            found = self.fetch(key, 0, size, lambda offset, chunk: digest.update(chunk))
        if found is None or found.size != size or digest.hexdigest() != oid:
            raise DamagedError(
                f"{self.address(key)}: the store took something else than was sent, and checks nothing. {MENDED_BY}"
            )

    def _check_arrived(self, key: str, size: int) -> None:
        """Raises ConflictError where an answer that says nothing of what was sent was perhaps not the store's."""
        with suppress(DeniedError):  # there is a right to write, and none to read
            found = self.stat(key)
            if found is None or found.size != size:
                raise ConflictError(f"{self.address(key)}: the answer says that it is stored, and it is not there")

    def begin(self, key: str, oid: Oid, size: int, replacing: str = "") -> "S3Upload":
        def begin(can: Abilities) -> S3Upload:
            wanted = can.multipart_checksum
            made = self.ask(
                "starting",
                "create_multipart_upload",
                key,
                Metadata=_metadata(oid, size),
                ChecksumAlgorithm="CRC32C" if wanted != "none" else None,
                ChecksumType="FULL_OBJECT" if wanted == "full" else None,
                **self.new_object,
            )
            with self.understanding(key, "starting"):
                return S3Upload(self, key, size, upload_id_of(made), _taken(wanted, made), replacing)

        wanted = self.abilities.now.multipart_checksum
        upload = self.asked(begin, *({"multipart_checksum": less} for less in _LESS[wanted]))
        if upload.checksum != self.abilities.now.multipart_checksum:
            self.abilities.learn(multipart_checksum=upload.checksum)
        return upload

    def resume(
        self, key: str, size: int, token: str, replacing: str = ""
    ) -> tuple["S3Upload", list[StoredPart]] | None:
        promised, _, upload_id = token.partition(" ")
        checksum = promised.partition("-")[0]
        if checksum not in get_args(MultipartChecksum) or not upload_id:
            return None
        upload = S3Upload(self, key, size, upload_id, cast(MultipartChecksum, checksum), replacing)
        try:
            if token == upload.token:  # else the user has chosen another storage class meanwhile, or another key
                return upload, list(upload.listed())
        except MissingError:
            return None
        except ObjectError:
            pass
        with suppress(AgentError):  # nobody can go on with its parts, which would be billed
            upload.abort()
        return None

    def pages_of_parts(
        self, key: str, upload_id: str, page_size: int = 1000, after: int = 0
    ) -> Iterator[dict[str, Any]]:
        """The answers to ListParts: so many parts at a time, or as many as the store likes, `after` the one named."""
        doing = "listing the parts of"
        while True:
            page = self.ask(
                doing, "list_parts", key, UploadId=upload_id, MaxParts=page_size, PartNumberMarker=after or None
            )
            yield page
            if not page.get("IsTruncated"):
                return
            with self.understanding(key, doing):
                if (last := page["NextPartNumberMarker"]) <= after:
                    raise ValueError(f"after part {after} comes part {last}")  # and so on without an end
            after = last

    def fetch(self, key: str, start: int, stop: int, write: Write, etag: str = "") -> ObjectStat:
        span = f"bytes={start}-{stop - 1}" if stop > start else None  # of nothing there is no range
        got = self.ask("reading", "get_object", key, Range=span, IfMatch=etag or None)
        with closing(got["Body"]) as body:
            with self.understanding(key, "reading"):
                first, size = _range(got)
                found = _stat(self._context(key), got, size)
                if etag and not found.etag:
                    raise LookupError("no ETag")  # a page of somebody else's
            if first != start:
                raise TransientError(f"{self.address(key)}: the store sent bytes from {first}, not from {start}")
            position, block, take = start, _FIRST_BLOCK, _taker(body, min(self._block, stop - start))
            while position < stop and (chunk := self._took(take, key, min(block, stop - position))):
                block = min(self._block, 2 * block)  # where silence breaks it off, most of what came is kept
                write(position, chunk)
                position += len(chunk)
        if position < min(stop, size):
            raise TransientError(f"{self.address(key)}: the store broke off at byte {position}")
        return found

    def _took(self, take: Callable[[int], Chunk], key: str, size: int) -> Chunk:
        try:
            return take(size)
        except Exception as error:
            if not is_from_client(error):
                raise
            raise self._translated(error, key, "reading") from error


class S3Upload:
    """A MultipartUpload in S3."""

    def __init__(
        self, store: S3Store, key: str, size: int, upload_id: str, checksum: MultipartChecksum, replacing: str
    ) -> None:
        self._store = store
        self._replacing = replacing
        self._key = key
        self._size = size
        self._upload_id = upload_id
        self.checksum: Final = checksum
        """What the store has promised to check."""
        promised = f"{checksum}-{store.manner}" if store.manner else checksum
        self.token: Final = f"{promised} {upload_id}"

    def listed(self) -> Iterator[StoredPart]:
        """The parts that the store has.

        Raises MissingError where the upload is gone, UnsupportedError where the store can't tell.
        """
        for page in self._store.pages_of_parts(self._key, self._upload_id):
            with self._store.understanding(self._key, "listing the parts of"):
                yield from _stored(page)

    def put_part(self, part: Part, body: Body, crc32c: str) -> SentPart:
        doing = f"storing part {part.number} of"

        def put(can: Abilities) -> tuple[dict[str, Any], str | None]:
            md5 = _md5(body) if self.checksum == "none" else None
            body.seek(0)
            answer = self._store.ask(
                doing,
                "upload_part",
                self._key,
                UploadId=self._upload_id,
                PartNumber=part.number,
                Body=body,
                ContentLength=part.length,
                ContentMD5=md5,
                ChecksumCRC32C=crc32c if self.checksum != "none" else None,
            )
            return answer, md5

        try:
            answer, md5 = self._store.asked(put)
            if md5 and self._store.abilities.now.md5_etag and _is_other_md5(answer, md5):
                said = f"{self._store.address(self._key)}: part {part.number} did not arrive as it was sent"
                refusal = ObjectError(
                    f"{said}, or its ETag is no MD5; a partSize above the object's size sends it in one piece, which "
                    "finds out"
                )
                raise TransientError(said, heard=True, last=refusal)
            return SentPart(part, answer.get("ETag") or self._listed_etag(part, crc32c, md5), crc32c)
        except MissingError as error:  # NoSuchUpload: somebody has cleaned up
            raise ConflictError(str(error)) from error
        except UnsupportedError as error:
            if self.checksum == "none":
                raise
            # The checksum was promised, and is refused now: the next upload does without.
            self._store.abilities.learn(multipart_checksum="none")
            raise ConflictError(str(error)) from error

    def _listed_etag(self, part: Part, crc32c: str, md5: str | None) -> str:
        """The ETag of a part that was answered without one, where the store's list has it and agrees."""
        refusal = ObjectError(
            f"{self._store.address(self._key)}: part {part.number} was answered without an ETag, and the list of parts "
            "has none that agrees; a partSize above the object's size sends it in one piece"
        )
        try:
            page = next(self._store.pages_of_parts(self._key, self._upload_id, 1, part.number - 1))
        except (UnsupportedError, DeniedError) as error:
            raise refusal from error
        with self._store.understanding(self._key, "listing the parts of"):
            for there in _stored(page):
                same = there.crc32c == crc32c or (md5 and there.etag.strip('"') == base64.b64decode(md5).hex())
                if (there.number, there.length) == (part.number, part.length) and same:
                    return there.etag
        raise TransientError(str(refusal), heard=True, last=refusal)  # perhaps it was not the store that answered

    def complete(self, parts: Sequence[SentPart], crc32c: str) -> None:
        ordered = sorted(parts, key=lambda sent: sent.part.number)

        def complete(can: Abilities) -> None:
            if not (self._replacing or can.conditional_complete):
                self._store.check_visible(self._key)
            answer = self._store.ask(
                "completing",
                "complete_multipart_upload",
                self._key,
                UploadId=self._upload_id,
                MultipartUpload={"Parts": [self._listed(sent) for sent in ordered]},
                MpuObjectSize=self._size,
                IfNoneMatch="*" if can.conditional_complete and not self._replacing else None,
                IfMatch=self._replacing or None,
                ChecksumCRC32C=crc32c if self.checksum == "full" else None,
                ChecksumType="FULL_OBJECT" if self.checksum == "full" else None,
            )
            with self._store.understanding(self._key, "completing"):
                if "Key" not in answer:  # Ceph's ETag is empty here
                    raise LookupError("no Key")

        try:
            self._store.asked(complete, *([] if self._replacing else [{"conditional_complete": False}]))
        except MissingError as error:  # NoSuchUpload: perhaps a first Complete whose answer was lost
            raise ConflictError(str(error)) from error
        except UnsupportedError as error:  # so versitygw puts it where an upload was given up while a part came
            if not self._has_all(parts):
                raise ConflictError(str(error)) from error
            raise
        except TransientError as error:
            with suppress(DeniedError):
                found = self._store.stat(self._key)
                if found and found.etag != self._replacing:  # perhaps the answer alone was lost: asking won't tell
                    raise ConflictError(str(error)) from error
            raise

    def _has_all(self, parts: Sequence[SentPart]) -> bool:
        """Whether the store still has what was sent, as it was sent; yes where it does not tell."""
        try:
            there = {(part.number, part.crc32c) for part in self.listed()}
        except MissingError:
            return False
        except ObjectError:
            return True
        return there >= {(sent.part.number, "" if self.checksum == "none" else sent.crc32c) for sent in parts}

    def _listed(self, sent: SentPart) -> dict[str, Any]:
        checksum = {} if self.checksum == "none" else {"ChecksumCRC32C": sent.crc32c}
        return {"PartNumber": sent.part.number, "ETag": sent.etag, **checksum}

    def abort(self) -> None:
        self._store.ask("giving up", "abort_multipart_upload", self._key, UploadId=self._upload_id)


def _stored(page: Mapping[str, Any]) -> list[StoredPart]:
    """The parts in an answer to ListParts that a completion can name."""
    return [
        StoredPart(part["PartNumber"], part["Size"], part["ETag"], part.get("ChecksumCRC32C", ""))
        for part in page.get("Parts", [])
        if part.get("ETag")
    ]


def upload_id_of(answer: Mapping[str, Any]) -> str:
    """Which upload an answer is about.

    Raises LookupError where it names none: to give up an upload without a name is, to Ceph, to delete the object.
    """
    if not (upload_id := str(answer["UploadId"])):
        raise LookupError("no UploadId")
    return upload_id


def _metadata(oid: Oid, size: int) -> dict[str, str]:
    return {"sha256": oid, "size": str(size), "agent": f"lfs-agent/{__version__}"}


def _taken(wanted: MultipartChecksum, made: Mapping[str, Any]) -> MultipartChecksum:
    """Which checksum a new upload has; what a store doesn't confirm, it doesn't check."""
    if wanted == "none" or not made.get("ChecksumAlgorithm"):
        return "none"
    return wanted if made.get("ChecksumType") == "FULL_OBJECT" else "composite"


def _md5(body: Body) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    body.seek(0)
    while block := body.read():
        digest.update(block)
    return base64.b64encode(digest.digest()).decode()


def _is_other_md5(answer: Mapping[str, Any], md5: str) -> bool:
    """Whether the ETag is an MD5, and not that one (in base64).

    At some stores it is something else; under KMS it looks like an MD5, and is none.
    """
    kms = "kms" in answer.get("ServerSideEncryption", "")
    return bool(re.fullmatch(r"[0-9a-f]{32}", _bare_etag(answer))) and not kms and not _is_md5(answer, md5)


def _is_md5(answer: Mapping[str, Any], md5: str) -> bool:
    """Whether the ETag is that MD5 (in base64)."""
    return _bare_etag(answer) == base64.b64decode(md5).hex()


def _bare_etag(answer: Mapping[str, Any]) -> str:
    return str(answer.get("ETag", "")).strip('"').lower()


def _taker(body: Any, most: int) -> Callable[[int], Chunk]:
    """Gives the next bytes of an answer's content, at most so many, which hold until it is called again."""
    if take := getattr(body, "take", None):
        return cast("Callable[[int], Chunk]", take)
    buffer = memoryview(bytearray(most))  # boto3's has none
    return lambda size: buffer[: body.readinto(buffer[:size])]


def _range(got: Mapping[str, Any]) -> tuple[int, int]:
    """The first byte and the size of the whole object, from Content-Range; a store may ignore the range."""
    answered = got.get("ContentRange") or ""
    if not answered:
        return 0, int(got["ContentLength"])
    span, _, size = answered.removeprefix("bytes ").partition("/")
    return int(span.partition("-")[0]), int(size)


def _stat(context: Context, got: Mapping[str, Any], size: int) -> ObjectStat:
    whole = got.get("ChecksumType", "FULL_OBJECT") == "FULL_OBJECT"
    sha256 = got.get("ChecksumSHA256", "") if whole else ""
    crc32c = got.get("ChecksumCRC32C", "")
    return ObjectStat(
        context.key,
        size,
        etag=got.get("ETag", ""),
        sha256=base64.b64decode(sha256).hex() if sha256 and "-" not in sha256 else "",
        crc32c=crc32c if whole and "-" not in crc32c else "",
        recorded=got.get("Metadata", {}).get("sha256", ""),
        archived=_archived(context, got),
    )


def _archived(context: Context, got: Mapping[str, Any]) -> str:
    tier = got.get("ArchiveStatus", "") or got.get("StorageClass", "")
    restored = got.get("Restore", "")
    if tier not in _ARCHIVES or 'ongoing-request="false"' in restored:
        return ""
    return f"it is being restored from {tier}: pull later" if restored else how_to_restore(tier, context)
