"""`select`: which objects a person asks about, by commits, ranges, oids or GTO references, and where they are."""

import re
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from lfs_agent.errors import UsageError
from lfs_agent.gitrepo import EVERYTHING, Repository
from lfs_agent.gto import Reference, parse_reference, resolve_reference
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

    A word is a commit, a range `A..B`, a GTO reference, or the oid of an object, which any commit may name.

    Raises UsageError for what is none of these, and for an oid that no commit names; LocalError where a shallow clone
    has not all of a range, or of the whole history.
    """
    meant = {word: _oid_of(repo, word) for word in words}
    oids = {oid for oid in meant.values() if oid}
    revisions = [word for word in words if not meant[word]]
    found: dict[Pointer, dict[str, None]] = {}
    for pointer, path in _named(repo, revisions, oids, paths, all_refs=all_refs):
        found.setdefault(pointer, {})[path] = None
    if lacking := oids - {pointer.oid for pointer in found}:
        raise UsageError(f"no commit of this clone names the object {min(lacking)}")
    return [Wanted(pointer, list(paths)) for pointer, paths in found.items()]


def trees(repo: Repository, words: Sequence[str], paths: Sequence[str] = ()) -> Iterator[tuple[str, Sequence[str]]]:
    """The commits that `words` name, ranges as they stand, each with the pathspecs that limit it.

    Raises UsageError for a word that names nothing here, and for a GTO reference that leads nowhere.
    """
    for word in words:
        if _oid_of(repo, word):
            continue
        reference = parse_reference(word)
        commit = resolve_reference(reference, repo.annotated_tags) if reference else None
        if reference and commit:
            yield commit, paths or [_path_of(repo, word, reference, commit)]
        elif reference and (reference.stage or not reference.version.startswith("v")):
            raise UsageError(f"{word}: nothing is registered or assigned so here: see gto show, and git fetch --tags")
        else:
            _check_known(repo, word)
            yield word, paths


def _oid_of(repo: Repository, word: str) -> str:
    """The oid that a word is; "" where it is none, or git's own name of something, which may be as long."""
    match = _OID.fullmatch(word)
    if not match or (match[1] == word and repo.has_long_names and repo.has(word)):
        return ""
    return match[1]


def _check_known(repo: Repository, word: str) -> None:
    if word.startswith(".."):
        raise UsageError(
            f"{word}: the range has no beginning, for which git takes HEAD, so it may well be empty: is a variable "
            "unset? If it is meant so, say HEAD.."
        )
    if repo.is_blob(word):
        raise UsageError(f"{word}: it is a file: say the commit, and its path after --")
    if repo.knows(word):
        return
    if word == "HEAD" and not repo.born:
        raise UsageError("there is no commit yet: git commit makes the first one; or name a branch that has some")
    raise UsageError(f"{word}: git knows no such commit here: git fetch --tags may bring it; paths come after --")


def _named(
    repo: Repository, words: Sequence[str], oids: Set[str], paths: Sequence[str], *, all_refs: bool
) -> Iterator[tuple[Pointer, str]]:
    for revision, limits in trees(repo, words, paths):
        if ".." in revision:
            repo.check_whole(revision)
        yield from repo.pointers(revision, limits)
    if all_refs:
        repo.check_whole(EVERYTHING)
    if all_refs or oids:
        named = repo.pointers(EVERYTHING, paths)
        yield from named if all_refs else (found for found in named if found[0].oid in oids)


def _path_of(repo: Repository, word: str, reference: Reference, commit: str) -> str:
    """The pathspec of an artifact in a commit: as artifacts.yaml has it, or else the path that is its name."""
    folder, _, name = reference.artifact.rpartition(":")
    base = f"{folder}/" if folder else ""
    text = repo.text(f"{commit}:{base}artifacts.yaml")
    path = base + (_annotated(word, text, name) or name)
    if not repo.has(f"{commit}:{path}"):
        raise UsageError(f"{word}: neither artifacts.yaml nor its name says where it is: give its paths after --")
    return f":(top,literal){path}"


def _annotated(word: str, text: str, name: str) -> str:
    """The path that artifacts.yaml gives to an artifact; "" where it gives none."""
    import yaml  # 20 ms that nobody else pays

    try:
        path = (_artifacts(text).get(name) or {}).get("path") or ""
    except (yaml.YAMLError, AttributeError, LookupError, ValueError, RecursionError):
        raise UsageError(f"{word}: artifacts.yaml is not what GTO writes: see gto check-ref") from None
    return str(path).removeprefix("./")


@lru_cache(maxsize=1)  # of thousands of artifacts that takes seconds, and mostly all words lead to the same text
def _artifacts(text: str) -> Any:
    """What artifacts.yaml says, whatever it may be. Raises ValueError, and as PyYAML does."""
    import yaml

    if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.SafeLoader)):
        raise ValueError("an alias")  # of aliases of aliases a few lines make more than any memory holds
    return yaml.safe_load(text) if text else {}
