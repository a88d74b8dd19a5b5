"""Which URL means which store: `s3::bucket/prefix?key=value` and `dir::/srv/share`."""

import re
from typing import Final, NamedTuple

from lfs_agent.errors import TargetError, excerpt

SCHEMES: Final = ("s3::", "dir::")

_BUCKET = re.compile(r"[a-z0-9](?:[a-z0-9.-]{1,61})[a-z0-9]", re.ASCII)
_PREFIX = re.compile(r"[A-Za-z0-9!_.*'()=@+-]+(?:/[A-Za-z0-9!_.*'()=@+-]+)*", re.ASCII)


class S3Target(NamedTuple):
    """A bucket, the prefix of its keys ("" for none), and the settings that the URL carries."""

    bucket: str
    prefix: str
    query: str = ""

    def __str__(self) -> str:
        return f"s3::{self.bucket}" + (f"/{self.prefix}" if self.prefix else "")


class FolderTarget(NamedTuple):
    """An absolute folder, and the settings that the URL carries."""

    path: str
    query: str = ""

    def __str__(self) -> str:
        return f"dir::{self.path}"


Target = S3Target | FolderTarget


def is_ours(url: str) -> bool:
    """Whether this agent is the one for the URL.

    >>> is_ours("s3::cellar/weights"), is_ours("https://example.org/repo.git/info/lfs")
    (True, False)
    """
    return url.startswith((*SCHEMES, "s3://"))


def parse_target(url: str) -> Target:
    """The store that `url` names; `s3::s3://bucket/prefix` and `s3://bucket/prefix` are the same.

    >>> parse_target("s3::cellar/weights?region=eu-central-1")
    S3Target(bucket='cellar', prefix='weights', query='region=eu-central-1')

    Raises TargetError.
    """
    bare, _, query = url.partition("?")
    if bare.startswith("dir::"):
        return FolderTarget(_folder(bare.removeprefix("dir::")), query)
    if bare.startswith(("s3::", "s3://")):
        bucket, _, prefix = bare.removeprefix("s3::").removeprefix("s3://").partition("/")
        return S3Target(_bucket(bucket), _prefix(prefix.rstrip("/")), query)
    raise TargetError(f"not a store: {excerpt(bare, 200)}; one is named s3::bucket/prefix or dir::/folder")


def _bucket(text: str) -> str:
    if text.startswith("arn:"):
        raise TargetError("a bucket is named by its name or an access point's alias, not by an ARN")
    if {":", "@"} & set(text):  # it is not shown: there may be a password
        raise TargetError("a bucket is named without a user, a password or a port")
    if not _BUCKET.fullmatch(text) or ".." in text:
        raise TargetError(
            f"not a bucket name: {text[:80]!r}; it has 3 to 63 lower-case letters, digits, dots and hyphens"
        )
    return text


def _prefix(text: str) -> str:
    if not text:
        return ""
    if len(text) > 512 or not _PREFIX.fullmatch(text) or any(word in (".", "..") for word in text.split("/")):
        raise TargetError(f"not a prefix: {text[:80]!r}; letters, digits and !_.*'()=@+- between single slashes")
    return text


def _folder(text: str) -> str:
    path = text.removeprefix("//")
    path = path.rstrip("/") or path[:1]
    if not path.isprintable() or any(word in (".", "..") for word in path.split("/")):
        raise TargetError(f"not a folder: {text[:80]!r}")
    if not (path.startswith("/") or re.match(r"[A-Za-z]:[/\\]", path)):
        raise TargetError(f"not an absolute folder: {text[:80]!r}; say dir::/srv/share")
    return path
