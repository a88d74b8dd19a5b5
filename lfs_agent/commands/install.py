"""Lets git-lfs start this agent for the URLs s3::… and dir::…, and for nothing else.

Does `git lfs install` too, where it has not been done: without it a clone ends well, with pointers in place of files.
"""

import argparse
import os
import re
import shlex
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

import lfs_agent
from lfs_agent.errors import UsageError
from lfs_agent.gitrepo import ConfigFile, Entry, Scope, config_file, git, read_config, run_git

EXAMPLES = """\
examples:
  lfs-agent install
  lfs-agent install --local
"""

NAME: Final = "lfs-agent"
SECTION: Final = f"lfs.customtransfer.{NAME}"
SCHEME_KEYS: Final = ("lfs.s3::.standalonetransferagent", "lfs.dir::.standalonetransferagent")

ADDED_KEY: Final = f"{SECTION}.added"
"""What came with the installation, for uninstall: the words file, newline, filter, version, hooks.

The file itself, the end of its last line, git-lfs's filter, the version that it notes in a repository, its hooks there.
"""

FILTER: Final[Mapping[str, str]] = {
    "filter.lfs.clean": "git-lfs clean -- %f",
    "filter.lfs.smudge": "git-lfs smudge -- %f",
    "filter.lfs.process": "git-lfs filter-process",
    "filter.lfs.required": "true",
}
"""As `git lfs install` writes it."""
VERSION: Final = ("lfs.repositoryformatversion", "0")
_HOOKS: Final = ("pre-push", "post-checkout", "post-commit", "post-merge")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_scopes(parser)


def add_scopes(parser: argparse.ArgumentParser) -> None:
    """The options that say which file is meant."""
    scopes = parser.add_mutually_exclusive_group()
    for scope, whom in (("global", "this user (default)"), ("local", "this repository"), ("system", "this machine")):
        scopes.add_argument(
            f"--{scope}", dest="scope", action="store_const", const=scope, default="global", help=f"for {whom}"
        )


def run(arguments: argparse.Namespace, environ: Mapping[str, str]) -> int:
    scope: Scope = arguments.scope
    if run_git(["lfs", "version"]).returncode:
        raise UsageError(
            "git-lfs is not installed: apt install git-lfs (Debian, Ubuntu), brew install git-lfs (macOS), "
            "or see https://git-lfs.com"
        )
    file = config_file(scope)
    seen = _seen(scope, file)
    if other := another_agent(seen, file.path):
        raise UsageError(other)
    wants_filter = not any(entry.key in FILTER for entry in seen)
    changed = register(file, [*_before(file), *(_with_filter(scope, file) if wants_filter else [])])
    if wants_filter:
        git("lfs", "install", "--skip-repo" if scope == "global" else f"--{scope}")
        print("git lfs install: done, since git-lfs was not set up yet")
    print(f"{'registered' if changed else 'registered already'} for s3:: and dir:: in {file.path}")
    return 0


def registration() -> dict[str, str]:
    """The keys that make git-lfs start this agent.

    The interpreter is named as it was started, by an absolute path: a graphical client has no PATH, and behind the
    link of a virtual environment is an interpreter without our packages.
    """
    worker = Path(lfs_agent.__file__).absolute().with_name("worker.py")
    return {
        f"{SECTION}.path": os.path.abspath(sys.executable),  # noqa: PTH100 - no link is followed
        f"{SECTION}.args": f"-I -S {shlex.quote(str(worker))}",
        f"{SECTION}.concurrent": "true",
        **dict.fromkeys(SCHEME_KEYS, NAME),
    }


def register(file: ConfigFile, added: Iterable[str]) -> bool:
    """Writes the registration; False where it was there.

    What came with it is noted first: an installation that was broken off can be undone, too.
    """
    words = [*" ".join(file.values(ADDED_KEY)).split(), *added]
    changes = [file.set(ADDED_KEY, " ".join(dict.fromkeys(words)))] if words else []
    changes += [file.set(key, value) for key, value in registration().items()]
    return any(changes)


def another_agent(entries: Iterable[Entry], path: Path) -> str:
    """Why we cannot be the agent for our schemes, and what to do; "" where we can.

    git-lfs looks at the scheme alone, and takes any of several such keys. The same key in another file is overridden.
    """
    for key, value, origin in entries:
        ours = re.fullmatch(r"lfs\.(s3::|dir::).*\.standalonetransferagent", key)
        where = origin.removeprefix("git config, file:")
        if not ours or value == NAME or (key in SCHEME_KEYS and where != str(path)):
            continue
        return (
            f"{where}: {key} names another agent, {value!r}, and git-lfs takes only one for all {ours[1]} URLs; to let "
            f"{NAME} take its place: git config --file {shlex.quote(where)} --unset-all {shlex.quote(key)}"
        )
    return ""


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
        hooks = Path(git("rev-parse", "--git-path", "hooks").rstrip("\n"))
        words += ["version"] if not file.values(VERSION[0]) else []
        words += ["hooks"] if not any((hooks / name).exists() for name in _HOOKS) else []
    return words
