"""Undoes install: takes out what it wrote, and leaves all else as it was."""

import argparse
import re
from collections.abc import Iterable, Mapping

from lfs_agent.commands import steps
from lfs_agent.commands.install import ADDED_KEY, VERSION, add_scopes
from lfs_agent.git import run_git
from lfs_agent.gitconfig import ConfigFile, Entry, read_config
from lfs_agent.gitrepo import config_file
from lfs_agent.registration import FILTER, NAME, SCHEME_KEYS, SECTION

EXAMPLES = """\
examples:
  lfs-agent uninstall
  lfs-agent uninstall --local --dry-run      what would be taken out of this repository's configuration?
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_scopes(parser)
    steps.add_arguments(parser)


def run(arguments: argparse.Namespace, environ: Mapping[str, str]) -> int:
    told = steps.Steps(arguments.dry_run, arguments.json)
    file = config_file(arguments.scope, dry_run=arguments.dry_run)
    added = " ".join(file.values(ADDED_KEY)).split()
    content = file.content
    if "hooks" in added and not arguments.dry_run and not is_registered_elsewhere(file):
        run_git(["lfs", "uninstall", "--local"])  # removes hooks that are as git-lfs wrote them, no others
    if not unregister(file, content, added):
        told.tell("registration", f"{NAME} is not registered in {file.path}", changed=False)
        return 0
    told.tell("registration", f"{NAME} is no longer registered in {file.path}", changed=True)
    if "filter" in added:
        text = "git lfs install came with it and is undone as well; if you need Git LFS elsewhere: git lfs install"
        told.tell("git lfs install", text, changed=True)
    return 0


def is_registered_elsewhere(file: ConfigFile) -> bool:
    """Whether another file of git's registers us, too: then a push still needs the hooks."""
    return len(_registrations(read_config())) > len(_registrations(file.entries()))


def _registrations(entries: Iterable[Entry]) -> list[Entry]:
    return [entry for entry in entries if entry.key in SCHEME_KEYS and entry.value == NAME]


def unregister(file: ConfigFile, before: bytes, added: list[str]) -> bool:
    """Writes `before` without the registration and what was `added` with it; False where there was none."""
    unwanted: dict[str, str | None] = {
        **{f"{SECTION}.{name}": None for name in ("path", "args", "concurrent", "added")},
        **dict.fromkeys(SCHEME_KEYS, NAME),
        **(FILTER if "filter" in added and without(before, dict.fromkeys(FILTER)) == without(before, FILTER) else {}),
        **(dict([VERSION]) if "version" in added else {}),
    }
    after = without(before, unwanted)
    if after == before:
        return _unset(file, unwanted)
    if "newline" in added and _last_line(before) != _last_line(after):  # nothing was written below ours since
        after = after.removesuffix(b"\n")
    if "file" in added and not after:
        file.remove()
    else:
        file.replace(after)
        _unset(file, unwanted)
    return True


def _unset(file: ConfigFile, unwanted: Mapping[str, str | None]) -> bool:
    """Has git take out what is written in other ways than git writes; whether there was anything."""
    left = {entry.key for entry in file.entries() if unwanted.get(entry.key, "") in (None, entry.value)}
    for key in left:
        file.clear(key)
    return bool(left)


def without(content: bytes, unwanted: Mapping[str, str | None]) -> bytes:
    """The text of a git configuration without the keys of `unwanted` that have the given value (None: any).

    Not by `git config --unset`, which takes blank lines with it and leaves headers where comments stand above.

    >>> without(b'[user]\\n\\n[lfs "s3::"]\\n\\tx = 1\\n[lfs "dir::"]\\n\\tx = 1\\n', {"lfs.s3::.x": "1"})
    b'[user]\\n\\n[lfs "dir::"]\\n\\tx = 1\\n'
    """
    return b"".join(_without(section, unwanted) for section in _SECTIONS.split(content))


_SECTIONS = re.compile(rb"^(?=[ \t]*\[)", re.MULTILINE)
_KEY = re.compile(
    rb"^[ \t]*([a-z][a-z0-9-]*)[ \t]*=[ \t]*((?:[^\\\n]|\\(?:.|\n))*)(?:\n|\Z)", re.MULTILINE | re.IGNORECASE
)


def _without(section: bytes, unwanted: Mapping[str, str | None]) -> bytes:
    header, newline, body = section.partition(b"\n")
    here = {key.rpartition(".")[2]: value for key, value in unwanted.items() if _is_header(header, key)}

    def kept(line: re.Match[bytes]) -> bytes:
        name = line[1].decode().lower()
        value = here.get(name)
        unwanted_value = value is None or re.fullmatch(re.escape(value.encode()) + rb"\s*([#;].*)?", line[2])
        return b"" if name in here and unwanted_value else line[0]

    rest = _KEY.sub(kept, body)
    return b"" if rest != body and not rest else header + newline + rest


def _is_header(line: bytes, key: str) -> bool:
    name, _, subsection = key.rpartition(".")[0].partition(".")
    quoted = rf'\s+"{re.escape(subsection)}"' if subsection else ""
    return re.fullmatch(rf"\s*\[(?i:{re.escape(name)}){quoted}\]\s*".encode(), line) is not None


def _last_line(content: bytes) -> bytes:
    return content.rstrip(b"\n").rpartition(b"\n")[2]
