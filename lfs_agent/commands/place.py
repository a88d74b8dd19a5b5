"""Which repository a command is about, and the store of which remote."""

import argparse
from pathlib import Path

from lfs_agent.errors import UsageError
from lfs_agent.gitrepo import Repository


def add_remote(parser: argparse.ArgumentParser) -> None:
    """The option for `choose_remote`."""
    parser.add_argument("--remote", metavar="NAME", help="whose store (default: the branch's remote, or origin)")


def current_repository() -> Repository:
    """The one around the current folder. Raises UsageError where there is none: once, and not each git for itself."""
    repo = Repository(Path.cwd())
    _ = repo.common_dir
    return repo


def choose_remote(repo: Repository, named: str | None) -> str:
    """The remote `named`, or else the one that git-lfs would take.

    Raises UsageError for one that there is not.
    """
    if named is None:
        return repo.default_remote()
    remotes = repo.remotes()
    if named not in remotes and not {":", "/"} & set(named):
        raise UsageError(f"there is no remote {named!r} here (there is: {', '.join(remotes) or 'none'})")
    return named
