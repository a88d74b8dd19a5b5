"""Lets git-lfs start this agent for the URLs s3::… and dir::…, and for nothing else.

Does `git lfs install` too, where it has not been done: without it a clone ends well, with pointers in place of files.
"""

import argparse
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from lfs_agent.commands import steps
from lfs_agent.doctor import Patient, hooks
from lfs_agent.errors import UsageError
from lfs_agent.git import git, run_git
from lfs_agent.gitconfig import ConfigFile, Entry, read_config
from lfs_agent.gitrepo import Repository, Scope, config_file
from lfs_agent.registration import FILTER, GET_GIT_LFS, SECTION, another_agent, registration

EXAMPLES = """\
examples:
  lfs-agent install
  lfs-agent install --local --dry-run        what would be written for this repository alone?
"""

ADDED_KEY: Final = f"{SECTION}.added"
"""What came with the installation, for uninstall: the words file, newline, filter, version, hooks.

The file itself, the end of its last line, git-lfs's filter, the version that it notes in a repository, its hooks there.
"""

VERSION: Final = ("lfs.repositoryformatversion", "0")
_HOOKS: Final = ("pre-push", "post-checkout", "post-commit", "post-merge")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_scopes(parser)
    steps.add_arguments(parser)


def add_scopes(parser: argparse.ArgumentParser) -> None:
    """The options that say which file is meant."""
    scopes = parser.add_mutually_exclusive_group()
    for scope, whom in (("global", "this user (default)"), ("local", "this repository"), ("system", "this machine")):
        scopes.add_argument(
            f"--{scope}", dest="scope", action="store_const", const=scope, default="global", help=f"for {whom}"
        )


def run(arguments: argparse.Namespace, environ: Mapping[str, str]) -> int:
    scope: Scope = arguments.scope
    told = steps.Steps(arguments.dry_run, arguments.json)
    file = config_file(scope, dry_run=arguments.dry_run)
    seen = _seen(scope, file)  # first: without its configuration git runs no git-lfs
    if run_git(["lfs", "version"]).returncode:
        raise UsageError(f"git-lfs is not installed: {GET_GIT_LFS}")
    if other := another_agent(seen, file.path):
        raise UsageError(other)
    wants_filter = not any(entry.key in FILTER for entry in seen)
    changed = register(file, [*_before(file), *(_with_filter(scope, file) if wants_filter else [])])
    if wants_filter:
        if not arguments.dry_run:
            set_up_git_lfs(scope)
        told.tell("git lfs install", "git lfs install, since git-lfs was not set up yet", changed=True)
    already = "" if changed else " already"
    told.tell("registration", f"registered{already} for s3:: and dir:: in {file.path}", changed=changed)
    if scope == "local":
        steps.warn(hooks(Patient(Repository(Path.cwd()), environ)))
    return 0


def set_up_git_lfs(scope: Scope) -> None:
    """By `git lfs install`, which fails where there are hooks of others: then without hooks."""
    words = ["lfs", "install", "--skip-repo" if scope == "global" else f"--{scope}"]
    if scope != "local" or run_git(words).returncode:
        git(*words, *(["--skip-repo"] if scope == "local" else []))


def register(file: ConfigFile, added: Iterable[str]) -> bool:
    """Writes the registration; False where it was there.

    What came with it is noted first: an installation that was broken off can be undone, too.
    """
    words = [*" ".join(file.values(ADDED_KEY)).split(), *added]
    changes = [file.set(ADDED_KEY, " ".join(dict.fromkeys(words)))] if words else []
    changes += [file.set(key, value) for key, value in registration().items()]
    return any(changes)


def _seen(scope: Scope, file: ConfigFile) -> list[Entry]:
    """The configuration that holds wherever the installation does."""
    match scope:
        case "system":
            return file.entries()
        case "global":
            return read_config(Path.cwd().anchor)  # outside of any repository
        case "local":
            return read_config()


def _before(file: ConfigFile) -> list[str]:
    """The words for what git will add beside our keys."""
    if file.values(f"{SECTION}.path"):
        return []
    if not file.path.exists():
        return ["file"]
    return ["newline"] if file.content and not file.content.endswith(b"\n") else []


def _with_filter(scope: Scope, file: ConfigFile) -> list[str]:
    """The words for what `git lfs install` will add."""
    words = ["filter"]
    if scope == "local":
        folder = Repository(Path.cwd()).hooks
        words += ["version"] if not file.values(VERSION[0]) else []
        words += ["hooks"] if not any((folder / name).exists() for name in _HOOKS) else []
    return words
