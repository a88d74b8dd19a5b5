"""GTO references, beside the real GTO in tests/e2e/test_verify.py."""

import pytest

from lfs_agent.gto import Tag, parse_reference, resolve_reference

TAGS = [
    Tag("model@deprecated#1", 0, "x"),  # and something was registered later
    Tag("model@v0.9.0", 1, "a"),
    Tag("model@v0.10.0", 2, "b"),
    Tag("model@v0.11.0-rc.2", 3, "c"),
    Tag("model@v0.11.0-rc.10", 4, "d"),
    Tag("model@v0.12.0", 5, "e"),
    Tag("model@v0.12.0!#1", 6, "e"),
    Tag("model#prod#2", 7, "a"),
    Tag("model#prod#3", 7, "b"),
    Tag("model#prod#4", 8, "c"),
    Tag("model#prod!#5", 9, "c"),
    Tag("model#dev#6", 10, "a"),
    Tag("model#dev!#7", 11, "a"),
    Tag("model#next#8", 12, "d"),
    Tag("model#next#9", 13, "e"),
    Tag("model#old#10", 13, "e"),
    Tag("model", 14, "x"),
    Tag("gone@v1.0.0", 14, "a"),
    Tag("gone#prod#1", 15, "a"),
    Tag("gone@deprecated#2", 16, "a"),
    Tag("model/other@v9.0.0", 14, "y"),
    Tag("sub/dir=model@v1.0.0", 15, "z"),
]


@pytest.mark.parametrize(
    "word, commit",
    [
        ("model@v0.9.0", "a"),
        ("model@latest", "d"),  # 0.12.0 was taken back; rc.10 comes after rc.2, and not as text
        ("model@greatest", "d"),
        ("model@v0.12.0", None),
        ("model@v7.0.0", None),
        ("model#prod", "b"),  # the last assignment was taken back; of one second the counter decides
        ("model#dev", None),
        ("model#none", None),
        ("model#next", "d"),  # the version that was assigned last was taken back
        ("model#old", None),
        ("gone#prod", None),
        ("gone@latest", None),
        ("model/other@latest", "y"),
        ("sub/dir:model@latest", "z"),
        ("nothing@latest", None),
    ],
)
def test_a_reference_leads_to_what_is_registered_or_assigned_now(word: str, commit: str | None) -> None:
    reference = parse_reference(word)
    assert reference is not None
    assert resolve_reference(reference, TAGS) == commit


@pytest.mark.parametrize(
    "word",
    ["HEAD", "main..topic", "model", "model@1.0.0", "@latest", "-model@latest", "model#prod#1", "model@v1", "a b#c"],
)
def test_what_has_another_form_is_no_reference(word: str) -> None:
    assert parse_reference(word) is None


def test_a_release_comes_after_its_candidates() -> None:
    tags = [Tag("model@v1.0.0", 1, "release"), Tag("model@v1.0.0-rc.1", 2, "candidate")]
    reference = parse_reference("model@latest")
    assert reference
    assert resolve_reference(reference, tags) == "release"


def test_numbers_of_any_length_are_compared() -> None:
    """A server's packed-refs may have names that are longer than those of files; int() takes 4,300 digits."""
    nines, more = "9" * 5000, "1" + "0" * 5000
    tags = [Tag(f"model@v{more}.0.0-rc.{more}#{nines}", 1, "most"), Tag(f"model@v{more}.0.0-rc.{nines}", 2, "less")]
    reference = parse_reference("model@latest")
    assert reference
    assert resolve_reference(reference, [*tags, Tag(f"model@v{nines}.0.0", 3, "least")]) == "most"
