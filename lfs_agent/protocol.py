"""The conversation with git-lfs as values: requests, replies, and which request may follow which.

Source: git-lfs, docs/custom-transfers.md and tq/custom.go. One JSON object a line, lock-step.
"""

import json
from typing import Any, Final, Literal, NamedTuple

from lfs_agent.errors import AgentError, ProtocolError
from lfs_agent.pointer import Oid, parse_oid

Operation = Literal["upload", "download"]


class Init(NamedTuple):
    """The first request: what this process will be asked for."""

    operation: Operation
    remote: str
    concurrent_transfers: int


class Upload(NamedTuple):
    """Send the object whose content is in the file `path`; `size` in bytes."""

    oid: Oid
    size: int
    path: str


class Download(NamedTuple):
    """Fetch the object; `size` in bytes."""

    oid: Oid
    size: int


class Terminate(NamedTuple):
    """No more requests."""


class Unusable(NamedTuple):
    """A transfer that cannot be tried: `oid` is as git-lfs gave it, so that the answer finds its way."""

    oid: str
    reason: str


Request = Init | Upload | Download | Terminate | Unusable

State = Literal["new", "upload", "download", "ended"]
_NEXT: Final[dict[tuple[State, type], State]] = {
    ("new", Terminate): "ended",
    ("upload", Upload): "upload",
    ("upload", Unusable): "upload",
    ("upload", Terminate): "ended",
    ("download", Download): "download",
    ("download", Unusable): "download",
    ("download", Terminate): "ended",
}


def advance(state: State, request: Request) -> State:
    """The state after `request`.

    Raises ProtocolError where the request has no place in this state.
    """
    if state == "new" and isinstance(request, Init):
        return request.operation
    try:
        return _NEXT[state, type(request)]
    except KeyError:
        raise ProtocolError(f"{type(request).__name__} has no place in state {state!r}") from None


def parse_request(line: bytes) -> Request:
    """The request in `line`; unknown fields are ignored.

    Raises ProtocolError for anything that is not one JSON object with a known event.
    """
    try:
        message = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"not JSON: {line[:80]!r}") from error
    if not isinstance(message, dict):
        raise ProtocolError(f"not a JSON object: {line[:80]!r}")
    match message.get("event"):
        case "init":
            return _init(message)
        case "upload" | "download" as event:
            return _transfer(event, message)
        case "terminate":
            return Terminate()
        case event:
            raise ProtocolError(f"unknown event: {str(event)[:80]!r}")


def _init(message: dict[str, Any]) -> Init:
    operation = message.get("operation")
    if operation not in ("upload", "download"):
        raise ProtocolError(f"unknown operation: {str(operation)[:80]!r}")
    workers = message.get("concurrenttransfers")
    if not isinstance(workers, int) or workers < 1 or not message.get("concurrent", True):
        workers = 1
    remote = str(message.get("remote") or "").encode(errors="replace").decode()  # half a character is in no name
    return Init(operation, remote, workers)


def _transfer(event: Operation, message: dict[str, Any]) -> Request:
    try:
        oid, size, path = parse_oid(message.get("oid")), message.get("size"), message.get("path")
        if not isinstance(size, int) or isinstance(size, bool) or size < 0:
            raise ValueError(f"not a size in bytes: {str(size)[:80]!r}")
        if event == "download":
            return Download(oid, size)
        if not isinstance(path, str) or not path or "\0" in path:
            raise ValueError("an upload without a file")
        path.encode(errors="surrogateescape")  # ValueError: half a character is in the name of no file
        return Upload(oid, size, path)
    except ValueError as error:
        return Unusable(str(message.get("oid")), str(error))


def init_accepted() -> bytes:
    """The answer to `Init`."""
    return b"{}\n"


def init_refused(error: AgentError) -> bytes:
    """The other answer to `Init`: nothing will work, and why."""
    return _line({"error": _error(error)})


def progress(oid: str, so_far: int, since_last: int) -> bytes:
    """How far a transfer is, in bytes."""
    return _line({"event": "progress", "oid": oid, "bytesSoFar": so_far, "bytesSinceLast": since_last})


def uploaded(oid: Oid) -> bytes:
    """The object is stored, and proven to be the right one."""
    return _line({"event": "complete", "oid": oid})


def downloaded(oid: Oid, path: str) -> bytes:
    """The object is in the file `path`, which git-lfs renames into its store."""
    return _line({"event": "complete", "oid": oid, "path": path})


def failed(oid: str, error: AgentError) -> bytes:
    """The object was not transferred, and why."""
    return _line({"event": "complete", "oid": oid, "error": _error(error)})


def _error(error: AgentError) -> dict[str, Any]:
    return {"code": error.code, "message": str(error)}


def _line(message: dict[str, Any]) -> bytes:
    return json.dumps(message).encode() + b"\n"  # ASCII only: a line break inside a message is \n
