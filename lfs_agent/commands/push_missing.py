"""Sends what the pointers name and the store lacks.

git offers an object once, with the commit that brings it: what the store lost later, no `git push` sends again. Looks
at the pointers of HEAD, of each REV, at those in every commit of a range A..B, or at each OID that some commit names;
PATH limits them. What the store lacks is sent from this clone's own objects, each proven by its SHA-256 while it is
sent. Nothing is replaced: what is damaged in the store is listed, and repair replaces it.
"""

import argparse
from collections.abc import Mapping

from lfs_agent.commands.repair import add_common_arguments, mend

EXAMPLES = """\
examples:
  lfs-agent push-missing --dry-run             what does the store lack of HEAD, and who has it?
  lfs-agent push-missing --all                 send what it lacks of the whole history of all refs
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = (
        "lfs-agent push-missing [-h] [--remote NAME] [--dry-run] [--json] [--all] [REV | A..B | OID]... [-- PATH...]"
    )
    add_common_arguments(parser)
    parser.set_defaults(deep=False, sources=[])


def run(arguments: argparse.Namespace, environ: Mapping[str, str]) -> int:
    return mend(arguments, environ, replaces=False)
