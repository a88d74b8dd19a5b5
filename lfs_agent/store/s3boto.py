"""boto3's client, as we want it: no retries of its own, no surprises in what it sends or keeps."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from botocore import UNSIGNED
from botocore.auth import AUTH_TYPE_MAPS, UNSIGNED_PAYLOAD, S3SigV4Auth
from botocore.config import Config

from lfs_agent import __version__
from lfs_agent.config import Settings
from lfs_agent.store.s3errors import named_region
from lfs_agent.store.s3http import BoundedSession

if TYPE_CHECKING:
    from lfs_agent.store.connection import Connection
    from lfs_agent.store.login import Login


def new_client(connection: "Connection", settings: Settings, login: "Login", connections: int) -> Any:
    """boto3's client of S3. Raises what `client_of` does."""
    client = client_of("s3", connection.endpoint, connection, settings, login, connections)
    client._endpoint.http_session = BoundedSession(client._endpoint.http_session)  # there is no other way in
    events = client.meta.events
    events.register("before-send.s3.PutObject", _without_expect)
    events.register_first("choose-signer.s3.PutObject", _choose_signer)
    events.register_first("choose-signer.s3.UploadPart", _choose_signer)
    events.register("before-send.s3", _note_sending)
    events.register_first("needs-retry.s3", _follow_only_a_name)
    events.register("after-call.s3.GetBucketLifecycleConfiguration", _note_unknown)
    return client


def client_of(
    service: str, endpoint: str, connection: "Connection", settings: Settings, login: "Login", connections: int
) -> Any:
    """boto3's client of a service of AWS, with so many `connections` at most; `endpoint`: "" for Amazon's own.

    Raises what botocore does; ValueError for an address that is none.
    """
    config = Config(
        # urllib3 has one timeout for connecting and for each block that is sent, however slow the link.
        connect_timeout=settings.read_timeout,
        read_timeout=settings.read_timeout,
        retries={"total_max_attempts": 1, "mode": "standard"},
        max_pool_connections=connections,
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        user_agent_extra=f"lfs-agent/{__version__}",
        tcp_keepalive=True,
        client_cert=connection.certificate,
        proxies={"https": connection.proxy, "http": connection.proxy} if connection.proxy else None,
        s3={"addressing_style": "path" if connection.path_style else "virtual"},
        **({"signature_version": UNSIGNED} if settings.public else {}),
    )
    connection.aws.session.register_component("credential_provider", login)
    return connection.aws.session.create_client(
        service,
        region_name=connection.region,
        endpoint_url=endpoint or None,
        verify=connection.ca or None,
        config=config,
    )


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


_SIGNER: Final = "lfs-agent-s3v4"
AUTH_TYPE_MAPS[_SIGNER] = Signer  # botocore finds signers by name, here only


def _choose_signer(signature_version: object, **_: Any) -> Any:
    return _SIGNER if signature_version in ("v4", "s3v4") else None


def _without_expect(request: Any, **_: Any) -> None:
    request.headers.pop("Expect", None)  # a small body is sent sooner than an answer to the question comes


def _note_sending(request: Any, **_: Any) -> None:
    if hasattr(request.body, "sending"):
        request.body.sending()


def _follow_only_a_name(request_dict: dict[str, Any], response: Any, **_: Any) -> None:
    """Lets botocore sign again for the region that an answer names; it knows no other redirect.

    Where none is named botocore would ask HeadBucket for it, which is redirected as well: without an end.
    """
    if response is not None and not named_region(response[1]):
        request_dict["context"].setdefault("s3_redirect", {})["redirected"] = True


def _note_unknown(http_response: Any, parsed: dict[str, Any], model: Any, **_: Any) -> None:
    """Tells as "Unknown" what rules say that botocore leaves out, as a store's own words: put back, they lack it."""
    if parsed.get("Rules"):
        from xml.etree import ElementTree

        rules = ElementTree.fromstring(http_response.content).findall("{*}Rule")
        said = {element.tag.rpartition("}")[2] for rule in rules for element in rule.iter()}
        parsed["Unknown"] = sorted(said - set(_names(model.output_shape)))


def _names(shape: Any) -> Iterator[str]:
    """Those of the elements in which a shape is written."""
    if shape.type_name == "list":
        yield from _names(shape.member)
    for name, member in getattr(shape, "members", {}).items():
        yield str(member.serialization.get("name", name))
        yield from _names(member)
