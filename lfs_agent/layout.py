"""Where an object lies in a store: oid to key."""

from collections.abc import Callable
from typing import Final, Literal

from lfs_agent.pointer import Oid

Layout = Literal["git-lfs", "flat"]
LAYOUTS: Final[tuple[Layout, ...]] = ("git-lfs", "flat")


def sharded(oid: Oid) -> str:
    """The path that git-lfs itself uses below `objects/`.

    >>> sharded(Oid("abcd" + "0" * 60))[:10]
    'ab/cd/abcd'
    """
    return f"{oid[:2]}/{oid[2:4]}/{oid}"


def key_of(prefix: str, layout: Layout) -> Callable[[Oid], str]:
    """A function from oid to key, for a store whose objects lie below `prefix` ("" for none)."""
    head = f"{prefix}/" if prefix else ""
    return (lambda oid: head + sharded(oid)) if layout == "git-lfs" else (lambda oid: head + oid)
