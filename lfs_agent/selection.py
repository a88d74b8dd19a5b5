"""`select`: which objects a person asks about, by commits, ranges, oids or registered versions, and where they are."""

import re
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass

from lfs_agent.errors import UsageError
from lfs_agent.gitrepo import EVERYTHING, Repository
from lfs_agent.pointer import Pointer

_OID = re.compile(r"(?:sha256:)?([0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class Wanted:
    """An object that the history names, and the paths where it does."""

    pointer: Pointer
    paths: Sequence[str]


def select(
    repo: Repository, words: Sequence[str], paths: Sequence[str] = (), *, all_refs: bool = False
) -> list[Wanted]:
    """Each object that one of `words` names, once, with all of its paths there; with `all_refs`, of the whole history.

    A word is a commit, a range `A..B`, or the oid of an object, which any commit may name.

    Raises UsageError for what is none of these, and for an oid that no commit names.
    """
    oids = {match[1]: word for word in words if (match := _OID.fullmatch(word))}
    revisions = [word for word in words if not _OID.fullmatch(word)]
    found: dict[Pointer, dict[str, None]] = {}
    for pointer, path in _named(repo, revisions, oids.keys(), paths, all_refs=all_refs):
        found.setdefault(pointer, {})[path] = None
    if lacking := oids.keys() - {pointer.oid for pointer in found}:
        raise UsageError(f"no commit of this clone names the object {min(lacking)}")
    return [Wanted(pointer, list(paths)) for pointer, paths in found.items()]


def _named(
    repo: Repository, revisions: Sequence[str], oids: Set[str], paths: Sequence[str], *, all_refs: bool
) -> Iterator[tuple[Pointer, str]]:
    for revision in revisions:
        yield from repo.pointers(revision, paths)
    if all_refs or oids:
        named = repo.pointers(EVERYTHING, paths)
        yield from named if all_refs else (found for found in named if found[0].oid in oids)
