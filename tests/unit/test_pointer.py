"""Oids and pointers: what is one, and that nothing else is."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lfs_agent.pointer import Oid, Pointer, is_canonical, parse_oid, parse_pointer

VERSION = b"version https://git-lfs.github.com/spec/v1\n"
OID = "4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393"

hexadecimal = st.binary(min_size=32, max_size=32).map(bytes.hex)
sizes = st.integers(0, 2**63 - 1)


def written(oid: str, size: int) -> bytes:
    """A pointer as git-lfs writes it."""
    return VERSION + f"oid sha256:{oid}\nsize {size}\n".encode()


@given(hexadecimal, sizes)
def test_what_git_lfs_writes_is_read(oid: str, size: int) -> None:
    assert parse_pointer(written(oid, size)) == Pointer(Oid(oid), size)


@given(st.binary(max_size=1100) | st.binary(max_size=80).map(lambda tail: written(OID, 1)[:-2] + tail))
def test_any_bytes_are_a_pointer_that_git_lfs_would_write_or_none(blob: bytes) -> None:
    pointer = parse_pointer(blob)
    if pointer is not None:
        assert parse_oid(pointer.oid) == pointer.oid
        assert parse_pointer(written(pointer.oid, pointer.size)) == pointer


@given(st.data())
def test_one_letter_more_or_less_never_names_another_object(data: st.DataObject) -> None:
    blob = written(OID, 12345)
    place = data.draw(st.integers(0, len(blob) - 1))
    letter = data.draw(st.binary(min_size=0, max_size=1))
    pointer = parse_pointer(blob[:place] + letter + blob[place + 1 :])
    oid_at, size_at = blob.index(OID.encode()), blob.index(b"size") + 5
    if not (oid_at <= place < oid_at + 64 or place >= size_at):
        assert pointer in (None, Pointer(Oid(OID), 12345))
    if pointer is not None:
        assert re.fullmatch(r"[0-9a-f]{64}", pointer.oid)


@pytest.mark.parametrize(
    "version",
    ["https://git-lfs.github.com/spec/v1", "https://hawser.github.com/spec/v1", "http://git-media.io/v/2"],
)
def test_git_lfs_older_names_are_known(version: str) -> None:
    blob = f"version {version}\noid sha256:{OID}\nsize 5\n".encode()
    assert parse_pointer(blob) == Pointer(Oid(OID), 5)


def test_extensions_are_passed_over() -> None:
    blob = VERSION + f"ext-0-foo sha256:{'0' * 64}\noid sha256:{OID}\nsize 5\n".encode()
    assert parse_pointer(blob) == Pointer(Oid(OID), 5)


@pytest.mark.parametrize(
    "blob",
    [
        written(OID, 5).replace(b"\n", b"\r\n"),
        written(OID, 5).rstrip(),
        b"\n " + written(OID, 5) + b"\n\n",
        written(OID, 5).replace(b"\nsize", b"\n\nsize"),
        written(OID, 5).replace(b" 5", b" +005"),
        written(OID, 5).replace(b"\nsize", b"\next-0-foo bar\nsize"),
    ],
    ids=["crlf", "no end of line", "space around", "empty line", "odd number", "late extension"],
)
def test_what_git_lfs_reads_though_it_does_not_write_it_is_a_pointer(blob: bytes) -> None:
    assert parse_pointer(blob) == Pointer(Oid(OID), 5)


@pytest.mark.parametrize(
    "blob",
    [
        b"",
        b"weights",
        written(OID.upper(), 5),
        written(OID[:-1], 5),
        written(OID + "0", 5),
        written(OID, -5),
        written(OID, 2**63),
        written("../" * 21 + "a", 5),
        written(OID, 5) + b"more\n",
        written(OID, 5) + b"\n" * 1024,
        f"oid sha256:{OID}\nsize 5\n".encode(),
        b"version https://example.com/spec/v1\n" + written(OID, 5).partition(b"\n")[2],
    ],
    ids=lambda blob: repr(blob[:20]),
)
def test_what_git_lfs_does_not_read_is_none(blob: bytes) -> None:
    assert parse_pointer(blob) is None


@given(st.text(max_size=70) | st.integers() | st.none() | hexadecimal)
def test_an_oid_is_64_hexadecimal_digits_and_nothing_else(text: object) -> None:
    if isinstance(text, str) and re.fullmatch(r"[0-9a-f]{64}", text, re.ASCII):
        assert parse_oid(text) == text
    else:
        with pytest.raises(ValueError, match="not an object id"):
            parse_oid(text)


def test_an_oid_with_a_line_break_behind_it_is_none() -> None:
    with pytest.raises(ValueError, match="not an object id"):
        parse_oid(OID + "\n")


@given(hexadecimal, sizes)
def test_what_git_lfs_writes_is_canonical_and_any_other_spelling_is_not(oid: str, size: int) -> None:
    blob = written(oid, size)
    assert is_canonical(blob)
    assert is_canonical(blob.replace(b"oid ", b"ext-0-foo sha256:" + b"0" * 64 + b"\noid ", 1))
    for other in (
        blob + b"\n",
        blob[:-1],
        blob.replace(b"\n", b"\r\n"),
        blob.replace(b"size ", b"size +"),
        b" " + blob,
    ):
        assert not is_canonical(other)
