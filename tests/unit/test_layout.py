"""Where an object lies."""

import pytest

from lfs_agent.layout import Layout, key_of, sharded
from lfs_agent.pointer import Oid

OID = Oid("0123456789abcdef" * 4)


@pytest.mark.parametrize(
    "prefix,layout,key",
    [
        ("", "git-lfs", f"01/23/{OID}"),
        ("weights/v1", "git-lfs", f"weights/v1/01/23/{OID}"),
        ("", "flat", OID),
        ("weights/v1", "flat", f"weights/v1/{OID}"),
    ],
)
def test_a_key_is_made_of_prefix_layout_and_oid(prefix: str, layout: Layout, key: str) -> None:
    assert key_of(prefix, layout)(OID) == key


def test_the_default_layout_is_git_lfs_own() -> None:
    assert sharded(OID) == f"01/23/{OID}"
