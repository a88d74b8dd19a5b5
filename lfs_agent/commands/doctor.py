"""Looks at what a push and a pull need, and says what mends what is broken.

The machine, the repository around the current folder, and its store: one request shows whether credentials, bucket and
clock are right, another which uploads are unfinished. Nothing is written, unless you say --write-test, and a store that
is not trusted is not asked. What rests on something that is broken is not looked at: mend it, and ask again.
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Final

from lfs_agent import log
from lfs_agent.commands.place import add_remote, choose_remote
from lfs_agent.commands.screen import Column, Layout, Screen
from lfs_agent.doctor import Patient, examine
from lfs_agent.gitrepo import Repository

EXAMPLES = """\
examples:
  lfs-agent doctor                    what is broken here?
  lfs-agent doctor --write-test       may I push objects, too?
"""

_LINE: Final[Layout] = (Column(7), Column(15), Column())


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_remote(parser)
    parser.add_argument(
        "--write-test",
        action="store_true",
        help="begin an upload in parts, and give it up: no object is stored (in a shared folder, empty folders stay)",
    )
    parser.add_argument("--json", action="store_true", help="print every line as one JSON object")


def run(arguments: argparse.Namespace, environ: Mapping[str, str]) -> int:
    repo = Repository(Path.cwd())
    remote = choose_remote(repo, arguments.remote) if arguments.remote else None
    counts: Counter[str] = Counter()
    screen = Screen()
    for line in examine(Patient(repo, environ, remote, arguments.write_test)):
        counts[line.status] += 1
        if arguments.json:
            screen.line(log.redact(json.dumps(asdict(line))))
        else:
            screen.row(_LINE, line.status, line.check, line.text, note=f"to mend it: {line.mend}" if line.mend else "")
        sys.stdout.flush()
    if counts["problem"]:
        return 1
    return 3 if counts["unknown"] else 0
