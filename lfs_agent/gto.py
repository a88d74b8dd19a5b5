"""What a GTO reference such as `model@latest` means: the tags that GTO makes, read as `gto show` reads them."""

import re
from collections.abc import Iterable, Set
from dataclasses import dataclass
from typing import Final, NamedTuple

_NAME = r"[a-zA-Z0-9](?:[a-zA-Z0-9/_-]*[a-zA-Z0-9])?"
_SEMVER = (
    r"v(?P<major>0|[1-9][0-9]*)\.(?P<minor>0|[1-9][0-9]*)\.(?P<patch>0|[1-9][0-9]*)"
    r"(?:-(?P<pre>[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*))?(?:\+[0-9A-Za-z.-]+)?"
)
_TAG: Final = re.compile(
    rf"(?P<artifact>(?:[a-zA-Z0-9-_./]+=)?{_NAME})"
    rf"(?:(?:#(?P<stage>{_NAME})|@(?P<version>{_SEMVER}))(?P<cancel>!?)|@(?P<deprecated>deprecated))"
    r"(?:#(?P<counter>[0-9]+))?"
)
_REFERENCE: Final = re.compile(
    rf"(?P<artifact>(?:[a-zA-Z0-9-_./]+:)?{_NAME})(?:#(?P<stage>{_NAME})|@(?P<version>latest|greatest|{_SEMVER}))"
)


@dataclass(frozen=True, slots=True)
class Tag:
    """An annotated tag of git: `created` in seconds since the epoch, `commit` what it leads to."""

    name: str
    created: int
    commit: str


class Reference(NamedTuple):
    """A version of an artifact, by its number (or `latest`), or by the stage that it is assigned to."""

    artifact: str
    version: str
    stage: str


def parse_reference(word: str) -> Reference | None:
    """The reference in `word`; None where it has not the form of one.

    >>> parse_reference("vit-l/base@latest")
    Reference(artifact='vit-l/base', version='latest', stage='')
    >>> parse_reference("vit-l/base#prod").stage
    'prod'
    """
    match = _REFERENCE.fullmatch(word)
    return Reference(match["artifact"], match["version"] or "", match["stage"] or "") if match else None


def resolve_reference(reference: Reference, tags: Iterable[Tag]) -> str | None:
    """The commit that `reference` leads to; None where nothing is registered or assigned so.

    What was registered or assigned, and not taken back later, counts; of versions the greatest is the latest, of a
    stage's assignments the last one holds, to a version that was not taken back. Of an artifact that was deprecated
    nothing counts until something is registered or assigned anew.
    """
    events = [
        (tag, match)
        for tag in tags
        if (match := _TAG.fullmatch(tag.name)) and match["artifact"].replace("=", ":") == reference.artifact
    ]
    events.sort(key=lambda event: (event[0].created, _number(event[1]["counter"] or "")))
    if events and events[-1][1]["deprecated"]:
        return None
    versions: dict[str, str] = {}
    ranks: dict[str, tuple[object, ...]] = {}
    for tag, match in events:
        if version := match["version"]:
            versions.pop(version, None)
            ranks[version] = _rank(match)
            if not match["cancel"]:
                versions[version] = tag.commit
    if reference.stage:
        withdrawn = {tag.commit for tag, match in events if match["version"]} - set(versions.values())
        return _assigned(reference.stage, events, withdrawn)
    if reference.version in ("latest", "greatest"):
        return versions[max(versions, key=ranks.__getitem__)] if versions else None
    return versions.get(reference.version)


def _assigned(stage: str, events: Iterable[tuple[Tag, re.Match[str]]], withdrawn: Set[str]) -> str | None:
    assigned: dict[str, None] = {}  # by commit, in the order of assignment
    for tag, match in events:
        if match["stage"] == stage:
            assigned.pop(tag.commit, None)
            if not match["cancel"]:
                assigned[tag.commit] = None
    return next((commit for commit in reversed(assigned) if commit not in withdrawn), None)


def _rank(match: re.Match[str]) -> tuple[object, ...]:
    """By which versions are compared (semver.org, 11): a pre-release comes before its release."""
    numbers = tuple(_number(match[name]) for name in ("major", "minor", "patch"))
    words = (match["pre"] or "").split(".")
    identifiers = tuple((0, _number(word)) if word.isdigit() else (1, word) for word in words)
    return *numbers, not match["pre"], identifiers


def _number(digits: str) -> tuple[int, str]:
    """As numbers are compared; int() takes no more than 4,300 digits, and a name in packed-refs may have more."""
    digits = digits.lstrip("0")
    return len(digits), digits
