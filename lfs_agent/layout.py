"""Where an object lies in a store: oid to key."""

from collections.abc import Callable
from typing import Final, Literal

from lfs_agent.pointer import Oid, parse_oid

Layout = Literal["git-lfs", "flat"]
LAYOUTS: Final[tuple[Layout, ...]] = ("git-lfs", "flat")

RESERVED: Final = ".lfs-agent"
"""Below the prefix, for what is no object; it begins with what no layout of objects has."""


def sharded(oid: Oid) -> str:
    """The path that git-lfs itself uses below `objects/`.

    >>> sharded(Oid("abcd" + "0" * 60))[:10]
    'ab/cd/abcd'
    """
    return f"{oid[:2]}/{oid[2:4]}/{oid}"


def below(prefix: str) -> str:
    """What all keys below a prefix begin with; "" for a store that has none.

    >>> below("weights"), below("")
    ('weights/', '')
    """
    return f"{prefix}/" if prefix else ""


def key_of(prefix: str, layout: Layout) -> Callable[[Oid], str]:
    """A function from oid to key, for a store whose objects lie below `prefix` ("" for none)."""
    head = below(prefix)
    return (lambda oid: head + sharded(oid)) if layout == "git-lfs" else (lambda oid: head + oid)


def oid_at(key: str, where: Callable[[Oid], str]) -> Oid | None:
    """The object whose key this is, by a function from oid to key; None for a key of anything else.

    >>> oid_at("weights/" + "0" * 64, key_of("weights", "flat")) == "0" * 64
    True
    >>> oid_at("weights/00/00/" + "0" * 64, key_of("weights", "flat"))
    """
    try:
        oid = parse_oid(key.rpartition("/")[2])
    except ValueError:
        return None
    return oid if where(oid) == key else None
