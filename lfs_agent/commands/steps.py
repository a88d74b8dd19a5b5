"""What a command changes on this machine, step by step: for people, or as JSON; with --dry-run, what it would."""

import argparse
import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass

from lfs_agent.commands.wording import plain
from lfs_agent.doctor import Line


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that `Steps` is made of."""
    parser.add_argument("--dry-run", action="store_true", help="show what would be done, and change nothing")
    parser.add_argument("--json", action="store_true", help="print every step as one JSON object on a line")


def warn(lines: Iterable[Line]) -> None:
    """Tells on standard error what a check of doctor's has found, unless all is well."""
    for line in lines:
        if line.status != "ok":
            print(f"{plain(line.text)}; to mend it: {line.mend}", file=sys.stderr)


def to_json(step: str, status: str, text: str) -> dict[str, str]:
    """The line of docs/reference/json.md."""
    return {"step": step, "status": status, "text": text}


@dataclass(frozen=True, slots=True)
class Steps:
    """Tells of each step on standard output."""

    dry_run: bool
    as_json: bool

    def tell(self, step: str, text: str, *, changed: bool) -> None:
        """`changed`: something was done, or would be; False where all was right already."""
        self._print(step, "ok" if not changed else "todo" if self.dry_run else "done", text)

    def advise(self, text: str) -> None:
        """What the user does next: a command, and perhaps why, in brackets."""
        self._print("next", "next", text)

    def _print(self, step: str, status: str, text: str) -> None:
        if self.as_json:
            print(json.dumps(to_json(step, status, text)))
        else:
            before = {"todo": "would be done: ", "next": "  "}.get(status, "")
            print(f"{before}{plain(text)}")
