"""Which stores a repository may name by itself, and which ones the user has to trust first."""

import re
from collections.abc import Collection
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from lfs_agent.errors import TargetError, UsageError, excerpt
from lfs_agent.store.url import FolderTarget, Target, parse_target

AMAZON: Final = "amazonaws.com"
LOOPBACK: Final = frozenset({"localhost", "::1"})


class Claim(NamedTuple):
    """What is about to be used, and who says so."""

    target: Target
    endpoint: str
    """The store's address; "" for Amazon's own."""
    url_committed: bool
    """The repository names the store, not the user."""
    endpoint_committed: bool
    """The repository names the endpoint, and the user's AWS settings don't."""

    @property
    def identity(self) -> str:
        """Host, port, path and bucket, or the folder: what is trusted."""
        if isinstance(self.target, FolderTarget):
            return f"dir::{self.target.path}"
        if not self.endpoint:
            return f"{AMAZON}/{self.target.bucket}"
        url = urlsplit(self.endpoint)
        host = f"[{url.hostname}]" if ":" in (url.hostname or "") else url.hostname
        port = url.port or (80 if url.scheme == "http" else 443)
        # With the path: what is one of the endpoint's may be a bucket to the server, and the bucket a part of a key.
        return f"{host}:{port}{url.path.rstrip('/')}/{self.target.bucket}"

    @property
    def said(self) -> str:
        """What of it the repository says: what must not change unnoticed between two pushes.

        An endpoint that the user's own settings name is the user's to change.
        """
        if isinstance(self.target, FolderTarget) or self.endpoint_committed:
            return self.identity
        return self.target.bucket


_SERVER = rf"{re.escape(AMAZON)}|(?:[a-z0-9.-]+|\[[0-9a-f:.]+\]):[0-9]{{1,5}}(?:/[A-Za-z0-9._~-]+)*"


def parse_identity(text: str) -> str:
    """An identity as a refusal prints it.

    >>> parse_identity("s3.example.org:9000/cellar")
    's3.example.org:9000/cellar'

    Raises UsageError.
    """
    server, _, bucket = text.rpartition("/")
    if not text.startswith("dir::") and not re.fullmatch(_SERVER, server, re.ASCII):
        raise UsageError(
            f"not a store: {excerpt(text, 200)}; say HOST:PORT/BUCKET, with the endpoint's path "
            f"before the bucket, {AMAZON}/BUCKET, dir::/FOLDER, or the URL of a store"
        )
    try:
        target = parse_target(text if text.startswith("dir::") else f"s3::{bucket}")
    except TargetError as error:
        raise UsageError(str(error)) from None
    return str(target) if isinstance(target, FolderTarget) else text


def check(claim: Claim, *, trusted: Collection[str], last_push: str = "", cloning: bool = False) -> None:
    """Nothing, where the claim may be used; `last_push`: what the claim of this clone's last push said, for a push.

    `cloning`: nothing has been checked out yet, so the command that finishes a clone takes nothing away.

    Raises TargetError with the command that says yes.
    """
    if claim.identity in trusted:
        return
    finish = "then run the same again"
    if cloning:
        finish = "then finish the clone with: git restore --source=HEAD :/ --staged --worktree"
    if isinstance(claim.target, FolderTarget) and claim.url_committed:
        raise TargetError(
            f"the repository keeps its objects in the folder {claim.target.path}, outside of itself; "
            f"{_yes(claim)}; {finish}"
        )
    if claim.endpoint_committed:
        raise TargetError(
            f"the repository sends you to the server {claim.endpoint}, which you have not trusted with your "
            f"credentials; {_yes(claim)}; {finish}"
        )
    if last_push and claim.url_committed and last_push != claim.said:
        raise TargetError(
            f"the repository wants its objects pushed to {claim.said}, while this clone's last push went to "
            f"{last_push}; {_yes(claim)}"
        )


def _yes(claim: Claim) -> str:
    """The command for a shell: a folder's name is the repository's to choose."""
    import shlex  # 6 ms, of no use where all is trusted

    return f"if that is right, say so once: lfs-agent trust {shlex.quote(claim.identity)}"


def check_scheme(endpoint: str, *, allow_http: bool) -> None:
    """Nothing, where the endpoint is safe to talk to.

    Raises TargetError for plain http to any other host than this one, unless the user allows it.
    """
    url = urlsplit(endpoint)
    host = url.hostname or ""
    if url.scheme == "http" and not allow_http and host not in LOOPBACK and not _is_loopback(host):
        raise TargetError(
            f"{endpoint} is plain http: weights and their names would be readable on the way; use https, "
            "or allow it: git config --global lfs-agent.allowHttp true"
        )


def _is_loopback(host: str) -> bool:
    digits = host.split(".")
    return len(digits) == 4 and digits[0] == "127" and all(d.isdigit() and int(d) < 256 for d in digits)
