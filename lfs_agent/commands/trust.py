"""Allows a store that a repository names.

A server or a folder that only the repository names, and a bucket other than the one that this clone pushed to before,
are used once you have said so. It is kept in the global git configuration, as lfs-agent.trusted.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path

from lfs_agent.cellar import TRUSTED_KEY, Cellar
from lfs_agent.commands import steps
from lfs_agent.commands.init import checked
from lfs_agent.errors import UsageError
from lfs_agent.gitconfig import Entry, read_config
from lfs_agent.gitrepo import LfsUrl, Repository, config_file
from lfs_agent.protocol import Operation
from lfs_agent.registration import where
from lfs_agent.store.url import FolderTarget
from lfs_agent.trust import Claim, parse_identity

EXAMPLES = """\
examples:
  lfs-agent trust
  lfs-agent trust s3.example.org:9000/weights --dry-run
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "identity",
        nargs="?",
        metavar="STORE",
        help="HOST:PORT/BUCKET (with the endpoint's path before the bucket), amazonaws.com/BUCKET, dir::/FOLDER, or a "
        "URL; default: what this repository names",
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--list", action="store_true", help="show what is trusted, and change nothing")
    what.add_argument("--remove", action="store_true", help="trust it no longer")
    steps.add_arguments(parser)


def run(arguments: argparse.Namespace, environ: Mapping[str, str]) -> int:
    told = steps.Steps(arguments.dry_run, arguments.json)
    file = config_file("global", dry_run=arguments.dry_run)
    repo = Repository(Path.cwd())
    if arguments.list:
        if arguments.identity:
            raise UsageError("--list shows everything: leave the store out")
        for identity in dict.fromkeys(entry.value for entry in trusting()):
            told.tell("trust", identity, changed=False)
        return 0
    identities = [identity_of(arguments.identity, repo, environ)] if arguments.identity else named(repo, environ, told)
    for identity in identities:
        if arguments.remove:
            removed = file.unset(TRUSTED_KEY, identity)
            left = [entry for entry in trusting() if entry.value == identity]
            if left and not arguments.dry_run:
                raise UsageError(f"{identity} is still trusted: take it out of {where(left[0])}")
            text = f"{identity} is no longer trusted" if removed else f"{identity} was not trusted"
            told.tell("trust", text, changed=removed)
        else:
            added = file.add(TRUSTED_KEY, identity)
            text = f"{identity} is trusted now" if added else f"{identity} was trusted already"
            told.tell("trust", text, changed=added)
    return 0


def trusting() -> list[Entry]:
    """What says so, in whichever file git reads."""
    return [entry for entry in read_config() if entry.key == TRUSTED_KEY]


def identity_of(text: str, repo: Repository, environ: Mapping[str, str]) -> str:
    """What `text` stands for: an identity, or the URL of a store."""
    if text.startswith(("s3::", "s3://", "dir::")):
        url = LfsUrl(checked(text)[1], "the command line", committed=False)
        return Cellar(repo, "upload", "", environ, url).claim.identity
    return parse_identity(text)


def named(repo: Repository, environ: Mapping[str, str], told: steps.Steps) -> list[str]:
    """The identities of the stores that the repository itself names, for downloads and uploads; each is shown.

    Raises UsageError outside of a repository.
    """
    _ = repo.common_dir  # which raises that
    remote = repo.default_remote()
    operations: tuple[Operation, ...] = ("download", "upload")
    cellars = {cellar.named: cellar for cellar in (Cellar(repo, op, remote, environ) for op in operations)}
    identities = []
    for url, cellar in cellars.items():
        told.tell("store", f"{url.origin}: {described(cellar.claim)}", changed=False)
        if url.committed:
            identities.append(cellar.claim.identity)
        else:
            text = "this one is named by you, not by the repository: nothing to trust"
            told.tell("trust", text, changed=False)
    return list(dict.fromkeys(identities))


def described(claim: Claim) -> str:
    """A store, and where it is, for a person."""
    if isinstance(claim.target, FolderTarget):
        return str(claim.target)
    return f"{claim.target} at {claim.endpoint or 'Amazon S3'}"
