"""Where other agents of git-lfs have put a repository's objects: their configuration as a URL of ours.

lfs-dal, lfs-s3 and git-remote-s3 keep each object as it is, under its oid: the layout `flat`.
"""

import argparse
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlencode

from lfs_agent.errors import UsageError
from lfs_agent.gitconfig import ConfigFile
from lfs_agent.gitrepo import Repository
from lfs_agent.registration import where

PLACEHOLDER: Final = "lfs-dal"
"""What lfs-dal's own manual puts into lfs.url: it names no store."""
_DAL: Final = "lfs-dal."
_S3_ARGS: Final = "lfs.customtransfer.lfs-s3.args"
_REMOTE: Final = re.compile(r"s3(?:\+zip)?://(?:(?P<profile>[^@/]+)@)?(?P<bucket>[^/]+)/(?P<prefix>.+?)/*")


@dataclass(frozen=True, slots=True)
class Found:
    """A store of another agent; `committed`: the repository itself names it, or its endpoint, not the user."""

    url: str
    origin: str
    committed: bool = False
    profile: str = ""


def stores(repo: Repository, dal_file: ConfigFile, remote: str | None) -> list[Found]:
    """What the agents are told here, each store once; `remote` limits git-remote-s3's.

    Raises UsageError for what can't be adopted.
    """
    found = [*_lfs_dal(repo, dal_file), *_lfs_s3(repo), *_git_remote_s3(repo, remote)]
    return list({store.url: store for store in reversed(found)}.values())[::-1]


def _lfs_dal(repo: Repository, file: ConfigFile) -> Iterator[Found]:
    committed = {e.key.removeprefix(_DAL): e.value for e in file.entries() if e.key.startswith(_DAL)}
    own = {e.key.removeprefix(_DAL): e.value for e in repo.config if e.key.startswith(_DAL)}
    says = committed | own
    if not says:
        return
    origin = ".lfsdalconfig" if committed else "git config, lfs-dal"
    if says.get("scheme") != "s3" or not says.get("bucket"):
        raise UsageError(f"{origin}: scheme = {says.get('scheme', '')!r}: only what lfs-dal keeps in S3 can be adopted")
    virtual = says.get("enable-virtual-host-style", "").lower() in ("true", "on", "1")
    url = _url(says["bucket"], says.get("root", ""), says, path_style=not virtual)
    yield Found(url, origin, committed=any(name in committed and name not in own for name in ("bucket", "endpoint")))


def _lfs_s3(repo: Repository) -> Iterator[Found]:
    entry = repo.get(_S3_ARGS)
    if not entry:
        return
    says = _arguments(entry.value)
    if not says.get("bucket"):
        return
    if says.get("compression", "zstd") != "none":
        raise UsageError(
            f"{where(entry)}: lfs-s3 compresses here (without --compression=none it does): what it stored are not the "
            "objects themselves; let lfs-s3 fetch them, and push them to a store of ours"
        )
    path_style = says.get("use_path_style", "").lower() in ("true", "1", "t")
    yield Found(_url(says["bucket"], says.get("root_path", ""), says, path_style=path_style), f"{where(entry)}: lfs-s3")


def _arguments(text: str) -> dict[str, str]:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for name in ("bucket", "endpoint", "region", "root_path", "use_path_style", "compression"):
        parser.add_argument(f"--{name}", nargs="?", const="true", default="")
    try:
        known, _ = parser.parse_known_args(shlex.split(text))
    except (ValueError, argparse.ArgumentError):
        return {}
    return {name: value for name, value in vars(known).items() if value}


def _git_remote_s3(repo: Repository, remote: str | None) -> Iterator[Found]:
    for name in [remote] if remote else repo.remotes():
        found = _REMOTE.fullmatch(repo.value(f"remote.{name}.url"))
        if found:
            url = _url(found["bucket"], f"{found['prefix']}/lfs", {})
            yield Found(url, f"remote {name}, of git-remote-s3", profile=found["profile"] or "")


def _url(bucket: str, prefix: str, says: Mapping[str, str], *, path_style: bool | None = None) -> str:
    """The URL; of the addressing only what differs from what we would do ourselves.

    >>> _url("wine", "/cellar/", {"region": "eu-central-1"}, path_style=True)
    's3::wine/cellar?layout=flat&region=eu-central-1&path_style=true'
    """
    endpoint = says.get("endpoint", "").rstrip("/")
    query = {"layout": "flat", "region": says.get("region", ""), "endpoint": endpoint}
    if path_style is not None and path_style != bool(endpoint):
        query["path_style"] = str(path_style).lower()
    chosen = {name: value for name, value in query.items() if value}
    where_to = "/".join(word for word in (bucket, prefix.strip("/")) if word)
    return f"s3::{where_to}?{urlencode(chosen, safe=':/')}"
