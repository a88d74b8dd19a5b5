"""The names that git-lfs gives to content: `Oid`, and `Pointer`, the small text that git keeps in its place."""

import re
from typing import NamedTuple, NewType

Oid = NewType("Oid", str)
"""64 lower-case hexadecimal digits: the SHA-256 of the object."""

MAX_POINTER_SIZE = 1024
"""Bytes; git-lfs reads nothing larger as a pointer."""

_OID = re.compile(r"[0-9a-f]{64}")
# The other patterns are compiled at their first use: who moves objects reads no pointers.
_POINTER = (
    rb"version (?:https://git-lfs\.github\.com/spec/v1|http://git-media\.io/v/2|https://hawser\.github\.com/spec/v1)\n"
    rb"(?:ext-[^\n]*\n)*"
    rb"oid sha256:(?P<oid>[0-9a-f]{64})\n"
    rb"(?:ext-[^\n]*\n)*"
    rb"size \+?(?P<size>[0-9]+)"
)
_CANONICAL = (
    rb"version https://git-lfs\.github\.com/spec/v1\n"
    rb"(?:ext-[0-9]-[^\s]+ sha256:[0-9a-f]{64}\n)*"
    rb"oid sha256:[0-9a-f]{64}\n"
    rb"size (?:0|[1-9][0-9]*)\n"
)
_MAX_SIZE = 2**63 - 1


class Pointer(NamedTuple):
    """An object as git names it. `size` is in bytes."""

    oid: Oid
    size: int


def parse_oid(text: object) -> Oid:
    """The oid in `text`.

    >>> parse_oid("0" * 64) == "0" * 64
    True

    Raises ValueError for anything but 64 lower-case hexadecimal digits.
    """
    if not isinstance(text, str) or not _OID.fullmatch(text):
        raise ValueError(f"not an object id (64 lower-case hex digits): {str(text)[:80]!r}")
    return Oid(text)


def parse_pointer(blob: bytes) -> Pointer | None:
    """The pointer that git-lfs reads in `blob`, None where it reads none.

    It reads more than it writes (lfs/pointer.go): space around, empty lines, CR at the end of lines.

    >>> parse_pointer(b"not a pointer") is None
    True
    """
    if len(blob) >= MAX_POINTER_SIZE:
        return None
    lines = (line.removesuffix(b"\r") for line in blob.strip().split(b"\n"))
    match = re.fullmatch(_POINTER, b"\n".join(line for line in lines if line))
    if not match or (size := int(match["size"])) > _MAX_SIZE:
        return None
    return Pointer(Oid(match["oid"].decode()), size)


def is_canonical(blob: bytes) -> bool:
    """Whether a pointer is as git-lfs writes it: any other way to write it is another blob for the same object."""
    return bool(re.fullmatch(_CANONICAL, blob))
