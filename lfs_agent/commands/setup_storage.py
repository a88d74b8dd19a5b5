"""Makes the bucket of this repository right.

Creates it where it is missing; keeps versions; keeps strangers out; lets unfinished uploads go after 7 days and
noncurrent versions after 30, below this repository's prefix alone; with --kms, encrypts with your key, and has a bucket
key. Rules that others have made stay. Then prints the policies for who reads and who writes. What the store does not
know is said, and the rest is done. A second run changes nothing.
"""

import argparse
import json
import sys
import threading
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

from lfs_agent.cellar import Cellar
from lfs_agent.commands.at_rest import days
from lfs_agent.commands.place import add_remote, choose_remote, current_repository
from lfs_agent.commands.screen import Column, Layout, Screen
from lfs_agent.config import from_query, resolve
from lfs_agent.errors import UsageError
from lfs_agent.policy import Role, policy
from lfs_agent.provision import Wish, provide
from lfs_agent.store.url import S3Target

EXAMPLES = """\
examples:
  lfs-agent setup-storage --dry-run                     what would be changed?
  lfs-agent setup-storage --keep-noncurrent 90          do it; what was deleted can be had back for 90 days
"""

_STEP: Final[Layout] = (Column(6), Column(19), Column())


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_remote(parser)
    parser.add_argument("--dry-run", action="store_true", help="show what would be done, and change nothing")
    parser.add_argument(
        "--keep-noncurrent",
        type=days,
        metavar="DAYS",
        help="how long what was deleted or replaced is kept (default: as it is, else 30)",
    )
    parser.add_argument(
        "--kms", metavar="KEY", help="encrypt with this KMS key by default, all of the bucket: its ARN, id or alias"
    )
    parser.add_argument("--json", action="store_true", help="print every step and policy as one JSON object on a line")


def run(arguments: argparse.Namespace, environ: Mapping[str, str]) -> int:
    repo = current_repository()
    cellar = Cellar(repo, "upload", choose_remote(repo, arguments.remote), environ)
    target = cellar.target
    if not isinstance(target, S3Target):
        raise UsageError(f"{target} is a folder, and needs no setting up: see that its disk is backed up")
    bucket = cellar.bucket(stop=threading.Event())
    bucket.connect()
    committed, _ = resolve(from_query(target.query, cellar.named.origin))
    wish = Wish(
        target.prefix,
        arguments.keep_noncurrent,
        arguments.kms or "",
        at_amazon=not cellar.connection.endpoint,
        public=committed.public,
    )
    asked_for = {"lifecycle": arguments.keep_noncurrent, "encryption": arguments.kms}
    failed = []
    screen = Screen()
    for step in provide(bucket, wish, dry_run=arguments.dry_run):
        if step.status == "failed" or (step.status == "cannot" and asked_for.get(step.step)):
            failed.append(step.step)
        if arguments.json:
            screen.line(json.dumps({**asdict(step), "document": None}))
        else:
            screen.row(_STEP, step.status, step.step, step.text)
        sys.stdout.flush()
    settings = cellar.settings
    key = arguments.kms or ((settings.sse_kms_key_id or "") if (settings.sse or "").startswith("aws:kms") else "")
    roles: tuple[Role, ...] = ("reader", "writer")
    for role in roles:
        print_policy(role, policy(role, target, region=_region(cellar), kms_key=key), as_json=arguments.json)
    if failed:
        print(f"lfs-agent setup-storage: not done, see above: {', '.join(failed)}", file=sys.stderr)
    return 3 if failed else 0


def _region(cellar: Cellar) -> str:
    return "" if cellar.connection.endpoint else cellar.connection.region


def print_policy(role: str, document: Mapping[str, Any], *, as_json: bool) -> None:
    """The policy: on a line, or as it is pasted."""
    if as_json:
        print(json.dumps({"step": role, "status": "policy", "text": "", "document": document}))
    else:
        print(f"\nthe policy of a {role}:\n{json.dumps(document, indent=2)}")
