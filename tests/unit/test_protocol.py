"""The conversation as values: any bytes give a request or a ProtocolError; what may follow what."""

import json
from contextlib import suppress
from typing import Any, get_args

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lfs_agent import protocol
from lfs_agent.errors import MissingError, ProtocolError
from lfs_agent.pointer import Oid
from lfs_agent.protocol import Download, Init, Request, State, Terminate, Unusable, Upload, advance, parse_request

OID = Oid("ab" * 32)
UPLOAD = Upload(OID, 7, "/repo/.git/lfs/objects/ab/ab/abab")
DOWNLOAD = Download(OID, 7)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
fields = ["event", "operation", "oid", "size", "path", "concurrent", "concurrenttransfers", "remote", "action"]
words = st.sampled_from(["init", "upload", "download", "terminate", OID, "/a", 7, True, -1, 1 << 80, "\ud800"])


def line(**message: Any) -> bytes:
    return json.dumps(message).encode() + b"\n"


# Requests


@given(st.binary(max_size=300))
@example(b"")
@example(b"\n")
@example(b"[" * 100_000)
@example(b"9" * 5000)
@example(b"\xff\xfe{\x00}\x00")
@example(b'{"event": {}}')
@example(b'{"event": "init", "operation": []}')
def test_any_bytes_give_a_request_or_a_protocol_error(received: bytes) -> None:
    with suppress(ProtocolError):
        assert isinstance(parse_request(received), get_args(Request))


@given(st.dictionaries(st.sampled_from(fields), words | json_values))
def test_any_object_gives_a_request_that_can_be_answered_or_a_protocol_error(message: dict[str, Any]) -> None:
    try:
        request = parse_request(line(**message))
    except ProtocolError:
        return
    match request:
        case Init():
            assert request.operation in ("upload", "download")
            assert type(request.concurrent_transfers) is int
            assert request.concurrent_transfers >= 1
        case Upload() | Download():
            assert type(request.size) is int
            assert request.size >= 0
            assert set(request.oid) <= set("0123456789abcdef")
        case Unusable():
            answer = protocol.failed(request.oid, MissingError(request.reason))
            assert answer.endswith(b"\n")
            assert answer.count(b"\n") == 1
            assert json.loads(answer)["oid"] == request.oid


@pytest.mark.parametrize(
    "received,request_",
    [
        (
            b'{"event":"init","operation":"upload","remote":"origin","concurrent":true,"concurrenttransfers":8}',
            Init("upload", "origin", 8),
        ),
        (
            b'{"event":"init","operation":"download","remote":"","concurrent":false,"concurrenttransfers":8}',
            Init("download", "", 1),
        ),
        (b'{"event":"init","operation":"upload","concurrenttransfers":true}', Init("upload", "", 1)),
        (
            b'{"event":"upload","oid":"%s","size":7,"path":"/repo/.git/lfs/objects/ab/ab/abab","action":null}'
            % OID.encode(),
            UPLOAD,
        ),
        (b'{"event":"download","oid":"%s","size":7,"action":{"href":"x"},"new":1}' % OID.encode(), DOWNLOAD),
        (b'{"event":"terminate"}', Terminate()),
        (b'  {"event":"terminate"}\r\n', Terminate()),
    ],
)
def test_what_git_lfs_says_is_understood(received: bytes, request_: Request) -> None:
    assert parse_request(received) == request_


@pytest.mark.parametrize(
    "message",
    [
        {"oid": "../../etc/passwd", "size": 7},
        {"oid": OID.upper(), "size": 7},
        {"oid": OID + "\n", "size": 7},
        {"oid": None, "size": 7},
        {"oid": OID, "size": -1},
        {"oid": OID, "size": "7"},
        {"oid": OID, "size": 7.0},
        {"oid": OID, "size": True},
        {"oid": OID},
    ],
)
def test_what_cannot_be_tried_is_still_answered(message: dict[str, Any]) -> None:
    request = parse_request(line(event="download", **message))

    assert isinstance(request, Unusable)
    assert request.oid == str(message["oid"])


@pytest.mark.parametrize("path", [None, "", 7, "a\0b", "/\ud800"])
def test_an_upload_without_a_file_cannot_be_tried(path: object) -> None:
    assert isinstance(parse_request(line(event="upload", oid=OID, size=7, path=path)), Unusable)


@pytest.mark.parametrize("received", [b"", b"null", b"[]", b'"init"', b"{}", b'{"event":"verify"}', b"{'event'}"])
def test_what_is_not_in_the_protocol_is_refused(received: bytes) -> None:
    with pytest.raises(ProtocolError):
        parse_request(received)


# What may follow what


@pytest.mark.parametrize(
    "state,request_,then",
    [
        ("new", Init("upload", "origin", 8), "upload"),
        ("new", Init("download", "origin", 8), "download"),
        ("new", Terminate(), "ended"),
        ("upload", UPLOAD, "upload"),
        ("upload", Unusable("x", "y"), "upload"),
        ("upload", Terminate(), "ended"),
        ("download", DOWNLOAD, "download"),
        ("download", Unusable("x", "y"), "download"),
        ("download", Terminate(), "ended"),
        ("new", UPLOAD, None),
        ("new", DOWNLOAD, None),
        ("new", Unusable("x", "y"), None),
        ("upload", DOWNLOAD, None),
        ("upload", Init("upload", "origin", 8), None),
        ("download", UPLOAD, None),
        ("download", Init("upload", "origin", 8), None),
        ("ended", Init("upload", "origin", 8), None),
        ("ended", UPLOAD, None),
        ("ended", DOWNLOAD, None),
        ("ended", Unusable("x", "y"), None),
        ("ended", Terminate(), None),
    ],
)
def test_what_may_follow_is_a_table(state: State, request_: Request, then: State | None) -> None:
    if then is None:
        with pytest.raises(ProtocolError, match=f"has no place in state '{state}'"):
            advance(state, request_)
    else:
        assert advance(state, request_) == then


# Answers


@pytest.mark.parametrize(
    "answer,expected",
    [
        (protocol.init_accepted(), {}),
        (protocol.init_refused(MissingError("no")), {"error": {"code": 404, "message": "no"}}),
        (
            protocol.progress(OID, 100, 10),
            {"event": "progress", "oid": OID, "bytesSoFar": 100, "bytesSinceLast": 10},
        ),
        (protocol.uploaded(OID), {"event": "complete", "oid": OID}),
        (protocol.downloaded(OID, "/tmp/ü"), {"event": "complete", "oid": OID, "path": "/tmp/ü"}),
        (
            protocol.failed(OID, MissingError("two\nlines \udce9")),
            {"event": "complete", "oid": OID, "error": {"code": 404, "message": "two\nlines \udce9"}},
        ),
    ],
)
def test_an_answer_is_one_line_of_ascii(answer: bytes, expected: dict[str, Any]) -> None:
    assert json.loads(answer) == expected
    assert answer.isascii()
    assert (answer.count(b"\n"), answer[-1:]) == (1, b"\n")
