"""Writes what the reference says of settings, commands and errors, from the code: `python docs/generate.py`."""

import argparse
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from lfs_agent import errors
from lfs_agent.cli import COMMANDS, EXIT_STATUSES, build_parser
from lfs_agent.config import SETTINGS, Setting
from lfs_agent.parts import GIB, MIB

REFERENCE: Final = Path(__file__).parent / "reference"


def settings() -> Iterator[str]:
    """A section for each setting."""
    for setting in SETTINGS:
        yield f"### `{setting.name}`\n"
        yield f"{setting.help}\n"
        yield f"- value: {setting.kind}; default: {_default(setting)}"
        yield f"- git config `{setting.git_key}`, environment `{setting.variable}`"
        yield f"- in a committed URL: {f'`?{setting.name}=…`' if setting.committed else 'refused'}\n"


def _default(setting: Setting) -> str:
    match setting.default:
        case None:
            return "not set"
        case bool(value):
            return f"`{str(value).lower()}`"
        case int(size) if size % GIB == 0:
            return f"`{size // GIB}GiB`"
        case int(size) if size % MIB == 0:
            return f"`{size // MIB}MiB`"
        case float(seconds):
            return f"`{seconds:g}`"
        case value:
            return f"`{value}`"


def commands() -> Iterator[str]:
    """A section for each command, as its `--help` has it."""
    parsers = next(a for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction)).choices
    for name in COMMANDS:
        yield from _command(name, parsers[name])


def _command(name: str, parser: argparse.ArgumentParser) -> Iterator[str]:
    actions = [action for action in parser._actions if not isinstance(action, argparse._HelpAction)]
    usage = " ".join(parser.format_usage().removeprefix("usage: ").split())
    shown = (parser.usage or "").replace("%%", "%") or usage
    yield f"## `lfs-agent {name}`\n"
    yield f"```text\n{shown.replace(' [-h]', '')}\n```\n"
    yield f"{(parser.description or '').strip()}\n"
    for action in actions:
        yield f"`{_signature(action)}`\n: {_help(action)}\n"
    if examples := (parser.epilog or "").replace(EXIT_STATUSES, "").strip():
        yield f"```text\n{examples}\n```\n"


def _signature(action: argparse.Action) -> str:
    value = _metavar(action)
    if not action.option_strings:
        return value
    return ", ".join(action.option_strings) + (f" {value}" if action.nargs != 0 else "")


def _metavar(action: argparse.Action) -> str:
    if isinstance(action.metavar, tuple):
        return " ".join(action.metavar)
    if action.choices is not None and not action.metavar:
        return "|".join(map(str, action.choices))
    return action.metavar or (action.dest.upper() if action.option_strings else action.dest)


def _help(action: argparse.Action) -> str:
    return (action.help or "") % {**vars(action), "prog": "lfs-agent"}


def statuses() -> Iterator[str]:
    """The exit statuses, as every `--help` has them."""
    yield "| status | meaning |\n| --- | --- |"
    for status, meaning in re.findall(r"^ +(\d+) +(.+)$", EXIT_STATUSES, re.MULTILINE):
        yield f"| {status} | {meaning} |"


def error_classes() -> Iterator[str]:
    """The errors: what git-lfs gets to see, and the shell."""
    yield "| error | a kind of | meaning | code | exit status |\n| --- | --- | --- | --- | --- |"
    for kind in _tree(errors.AgentError):
        meaning = (kind.__doc__ or "").split("`")[0].split("\n")[0].strip()
        parent = kind.__mro__[1]
        above = "" if parent is errors.AgentError else f"`{parent.__name__}`"
        yield f"| `{kind.__name__}` | {above} | {meaning} | {kind.code} | {kind.status} |"


def _tree(kind: type[errors.AgentError]) -> Iterator[type[errors.AgentError]]:
    for child in kind.__subclasses__():
        if child.__module__ == errors.__name__:
            yield child
            yield from _tree(child)


PARTS: Final[dict[str, Callable[[], Iterator[str]]]] = {
    "settings": settings,
    "commands": commands,
    "statuses": statuses,
    "errors": error_classes,
}
"""What a page may ask for, between `<!-- generated: NAME -->` and `<!-- end -->`."""

_GENERATED: Final = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def filled(page: str) -> str:
    """The page, with what it asks for as the code has it now."""

    def fill(match: re.Match[str]) -> str:
        part = "\n".join(PARTS[match[2]]()).strip()
        return f"{match[1]}\n{part}\n\n{match[3]}"

    return _GENERATED.sub(fill, page)


def asked_for(page: str) -> list[str]:
    """The names of what the page asks for."""
    return [match[2] for match in _GENERATED.finditer(page)]


def main(argv: list[str]) -> Any:
    """Writes all pages anew."""
    if argv:
        return __doc__
    for path in sorted(REFERENCE.glob("*.md")):
        path.write_text(filled(path.read_text()))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
