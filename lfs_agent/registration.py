"""What makes git-lfs start this agent: keys of git config, and who else claims them."""

import os
import re
import shlex
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

import lfs_agent
from lfs_agent.gitconfig import Entry

NAME: Final = "lfs-agent"
SECTION: Final = f"lfs.customtransfer.{NAME}"
SCHEME_KEYS: Final = ("lfs.s3::.standalonetransferagent", "lfs.dir::.standalonetransferagent")

FILTER: Final[Mapping[str, str]] = {
    "filter.lfs.clean": "git-lfs clean -- %f",
    "filter.lfs.smudge": "git-lfs smudge -- %f",
    "filter.lfs.process": "git-lfs filter-process",
    "filter.lfs.required": "true",
}
"""As `git lfs install` writes it."""

GET_GIT_LFS: Final = "apt install git-lfs (Debian, Ubuntu), brew install git-lfs (macOS), or see https://git-lfs.com"

_SHELL: Final = "/bin/sh"
_AGENT_KEY: Final = re.compile(r"lfs\.(s3::|dir::).*\.standalonetransferagent")
_ORIGIN: Final = "git config, file:"
_ENVIRONMENT: Final = "git config, command line"


def registration() -> dict[str, str]:
    """The keys that make git-lfs start this agent: on Linux by a shell, else by Python itself.

    The interpreter is named as it was started, by an absolute path: a graphical client has no PATH, and behind the
    link of a virtual environment is an interpreter without our packages.
    """
    interpreter = os.path.abspath(sys.executable)  # noqa: PTH100 - no link is followed
    worker = Path(lfs_agent.__file__).absolute().with_name("worker.py")
    path, *args = (
        # In the place of the shell that git-lfs starts, and that would wait for ours.
        ("exec", _SHELL, str(worker.with_name("door.sh")), interpreter, str(worker))
        if sys.platform == "linux" and os.access(_SHELL, os.X_OK)
        else (interpreter, "-I", "-S", str(worker))
    )
    return {
        f"{SECTION}.path": path,
        f"{SECTION}.args": shlex.join(args),
        f"{SECTION}.concurrent": "true",
        **dict.fromkeys(SCHEME_KEYS, NAME),
    }


def scheme_of(key: str) -> str:
    """The scheme for whose URLs the key names an agent; "" where it is none of ours.

    >>> scheme_of("lfs.s3::.standalonetransferagent"), scheme_of("lfs.url")
    ('s3::', '')
    """
    found = _AGENT_KEY.fullmatch(key)
    return found[1] if found else ""


def another_agent(entries: Iterable[Entry], path: Path) -> str:
    """Why we cannot be the agent for our schemes, and what to do; "" where we can.

    git-lfs looks at the scheme alone, and takes any of several such keys. The same key in another file is overridden.
    """
    for entry in entries:
        scheme = scheme_of(entry.key)
        if not scheme or entry.value == NAME or (entry.key in SCHEME_KEYS and where(entry) != str(path)):
            continue
        return (
            f"{where(entry)}: {entry.key} names another agent, {entry.value!r}, and git-lfs takes only one for all "
            f"{scheme} URLs; to let {NAME} take its place: {taken_out(entry)}"
        )
    return ""


def where(entry: Entry) -> str:
    """The file that an entry stands in, or what else it comes from."""
    return entry.origin.removeprefix(_ORIGIN).removesuffix(":")


def taken_out(entry: Entry) -> str:
    """The command that takes the entry out of its file, or out of the environment, which git calls its command line."""
    file = where(entry)
    if file == _ENVIRONMENT:
        return "unset GIT_CONFIG_COUNT GIT_CONFIG_PARAMETERS"
    # git names the repository's own file as seen from the top, wherever we are.
    which = f"--file {shlex.quote(file)}" if Path(file).is_absolute() else "--local"
    return f"git config {which} --unset-all {shlex.quote(entry.key)}"
