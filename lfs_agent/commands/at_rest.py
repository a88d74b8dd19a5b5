"""`verify` by what Amazon writes about a bucket: inventories, and the checksums that a batch job computes at rest."""

import argparse
import json
import re
import shlex
import shutil
import sys
import tempfile
import threading
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

from lfs_agent.batch import Job, manifest_lines, read_report
from lfs_agent.cellar import Cellar
from lfs_agent.commands.screen import busy
from lfs_agent.commands.wording import plain, spell_count
from lfs_agent.errors import AgentError, ConflictError, DeniedError, ReportError, TargetError, UsageError
from lfs_agent.inventory import read_inventory
from lfs_agent.policy import partition_of
from lfs_agent.selection import Wanted
from lfs_agent.sheets import Files
from lfs_agent.store.url import S3Target, parse_target
from lfs_agent.verify import Evidence

_ROLE: Final = re.compile(r"arn:(aws[a-z-]*):iam::([0-9]{12}):role/[\w+=,.@/-]{1,512}", re.ASCII)
_ONLY_WITH_BATCH: Final = ("role", "report", "account", "priority", "dry_run")


def add_arguments(parser: argparse.ArgumentParser, depth: argparse._MutuallyExclusiveGroup) -> None:
    """The options, of which one may be chosen in place of another depth."""
    depth.add_argument(
        "--inventory", metavar="MANIFEST", help="what is in the manifest.json of an S3 Inventory is not asked for"
    )
    depth.add_argument(
        "--batch-report", metavar="REPORT", help="demand the checksum that a batch job computed: its manifest.json"
    )
    depth.add_argument(
        "--batch", metavar="FILE", help="write a batch job's manifest, to be computed at rest, and create that job"
    )
    parser.add_argument("--max-age", metavar="DAYS", type=days, help="refuse an inventory or a report that is older")
    parser.add_argument("--role", metavar="ARN", help="with --batch: as whom the job runs (default: print how)")
    parser.add_argument("--report", metavar="URL", help="with --batch: where the job reports (default: beside FILE)")
    parser.add_argument("--account", metavar="ID", help="with --batch: whose job it is (default: as STS says)")
    parser.add_argument("--priority", metavar="N", type=int, help="with --batch: of the job (default: 10)")
    parser.add_argument("--dry-run", action="store_true", help="with --batch: write and create nothing, print how")


def days(text: str) -> int:
    """A number of days.

    >>> days("90")
    90
    """
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 36500:
        raise argparse.ArgumentTypeError(f"not a number of days: {text!r}")
    return int(text)


def check_arguments(arguments: argparse.Namespace) -> None:
    """Raises UsageError for options that don't go together."""
    if arguments.max_age is not None and not (arguments.inventory or arguments.batch_report):
        raise UsageError("--max-age is for --inventory and --batch-report")
    if not arguments.batch:
        for name in _ONLY_WITH_BATCH:
            value = getattr(arguments, name)
            if value is not None and value is not False:  # a priority of 0 was said, too
                raise UsageError(f"--{name.replace('_', '-')} is for --batch")
        return
    if arguments.json or arguments.junit:
        raise UsageError("--batch verifies nothing yet, and has no findings: see --batch-report")
    if arguments.role and not _ROLE.fullmatch(arguments.role):
        raise UsageError(f"not a role: {arguments.role[:120]!r}; say arn:aws:iam::123456789012:role/NAME")
    if arguments.account and not re.fullmatch("[0-9]{12}", arguments.account):
        raise UsageError(f"not an account: {arguments.account[:80]!r}; it has twelve digits")


# What is known before the store is asked


def evidence_for(
    arguments: argparse.Namespace, cellar: Cellar, wanted: Sequence[Wanted], stop: threading.Event
) -> Evidence | None:
    """What --inventory or --batch-report says of the objects, and a line about it; None without these."""
    where = arguments.inventory or arguments.batch_report
    if not where:
        return None
    bucket = _bucket(cellar).bucket
    files = _files(cellar, where, stop)
    sizes: dict[str, int] = {}
    doubtful = set()  # two pointers give one object two sizes: only the store's answer can be held against each
    for pointer in (each.pointer for each in wanted if each.pointer.size):
        if sizes.setdefault(cellar.key(pointer.oid), pointer.size) != pointer.size:
            doubtful.add(cellar.key(pointer.oid))
    if arguments.inventory:
        with busy("reading the inventory"):
            inventory = read_inventory(files, bucket, {key: sizes[key] for key in sizes.keys() - doubtful})
        told, date = f"{spell_count(inventory.rows, 'row')} of an inventory", _iso(inventory.date)
        found = Evidence(date, there=inventory.found)
        count = len(inventory.found)
    else:
        with busy("reading the report"):
            report = read_report(files, bucket, sizes)
        told, date = f"{spell_count(report.rows, 'row')} of a job's report", _iso(report.date)
        found = Evidence(date, computed=report.computed)
        count = len(report.computed)
    _check_age(files, date, arguments.max_age)
    dated = f"of {date}" if date else "without a date"
    line = f"{told} {dated}: it has {count:,} of {spell_count(len(sizes), 'object')}"
    print(line, file=sys.stderr if arguments.json else sys.stdout)
    return found


def _iso(date: datetime | None) -> str:
    return date.astimezone(UTC).isoformat(timespec="seconds") if date else ""


def _check_age(files: Files, date: str, max_age: int | None) -> None:
    if max_age is None:
        return
    if not date:
        raise ReportError(f"{files.name}: nothing says how old it is: name the manifest.json of the report")
    if datetime.now(UTC) - datetime.fromisoformat(date) > timedelta(days=max_age):
        raise ReportError(f"{files.name}: it is of {date}, more than {max_age} days old")


def _bucket(cellar: Cellar) -> S3Target:
    if not isinstance(cellar.target, S3Target):
        raise UsageError(f"{cellar.target} is a folder: inventories and batch jobs are Amazon's, of buckets")
    return cellar.target


def _files(cellar: Cellar, where: str, stop: threading.Event) -> Files:
    if where.startswith("s3://"):
        return cellar.s3_files(_object(where), stop=stop)
    return cellar.disk_files(Path(where))


def _object(url: str) -> S3Target:
    """An object by its URL; its key is the "prefix"."""
    try:
        target = parse_target(url)
    except TargetError as error:
        raise UsageError(str(error)) from None
    if not isinstance(target, S3Target) or not target.prefix or target.query:
        raise UsageError(f"not an object: {url[:200]!r}; say s3://BUCKET/KEY")
    return target


# The job


def start_job(arguments: argparse.Namespace, cellar: Cellar, wanted: Sequence[Wanted], stop: threading.Event) -> int:
    """Writes the manifest, and creates the job or prints how; the exit status."""
    bucket = _bucket(cellar).bucket
    keys = [cellar.key(each.pointer.oid) for each in wanted if each.pointer.size]
    if not keys:
        print("no object has a byte: there is nothing to compute")
        return 0
    rows = spell_count(len(keys), "object")
    job = _planned(arguments, cellar)
    if arguments.dry_run:
        print(f"would write a manifest of {rows} to {plain(arguments.batch)}, and create the job:")
        _print_how(arguments, job)
        return 0
    with tempfile.TemporaryFile() as manifest:
        manifest.writelines(manifest_lines(bucket, keys))
        manifest.seek(0)
        job = _written(arguments, cellar, job, cast(BinaryIO, manifest), stop)
    print(f"wrote a manifest of {rows} to {plain(arguments.batch)}")
    if not (arguments.role and arguments.batch.startswith("s3://")):
        print("no job was created; it is by:")
        _print_how(arguments, job)
        return 0
    asked = False
    try:
        control = cellar.control(stop=stop)
        job = replace(job, account=job.account or control.account())
        asked = True
        created = control.create_job(replace(job, report_owner=job.report_owner or job.account).request())
    except AgentError as error:
        print(f"lfs-agent verify: {plain(error)}", file=sys.stderr)
        if asked and not isinstance(error, (DeniedError, UsageError)):
            print("nobody knows whether a job was created; the same request again creates no second one:")
        else:
            print("no job was created; somebody who may do that does it by:")
        _print_how(arguments, job)
        return error.status
    print(f"created the job {plain(created)}; when it has ended:")
    where = "/".join(["s3:/", job.report_bucket, *filter(None, [job.report_prefix]), f"job-{created}", "manifest.json"])
    print(f"lfs-agent verify --batch-report {shlex.quote(plain(where))}")
    return 0


def _planned(arguments: argparse.Namespace, cellar: Cellar) -> Job:
    """The job as far as it is known before its manifest is written."""
    manifest = _object(arguments.batch) if arguments.batch.startswith("s3://") else S3Target("BUCKET", "manifest.csv")
    report = S3Target(manifest.bucket, manifest.prefix.rpartition("/")[0])
    if arguments.report:
        try:
            named = parse_target(arguments.report)
        except TargetError as error:
            raise UsageError(str(error)) from None
        if not isinstance(named, S3Target) or named.query:
            raise UsageError(f"not a place in a bucket: {arguments.report[:200]!r}; say s3://BUCKET/PREFIX")
        report = named
    return Job(
        account=arguments.account or "",
        role=arguments.role or "",
        token=str(uuid.uuid4()),
        manifest_bucket=manifest.bucket,
        manifest_key=manifest.prefix,
        manifest_etag="",
        manifest_version="",
        report_bucket=report.bucket,
        report_prefix=report.prefix,
        report_owner=cellar.settings.expected_owner or arguments.account or "",
        priority=10 if arguments.priority is None else arguments.priority,
        partition=partition_of(cellar.connection.region),
    )


def _written(arguments: argparse.Namespace, cellar: Cellar, job: Job, manifest: BinaryIO, stop: threading.Event) -> Job:
    """The job, once its manifest is where it belongs: a new object, or a file."""
    if arguments.batch.startswith("s3://"):
        writer = Cellar(cellar.repo, "upload", cellar.remote, cellar.environ, cellar.given)
        try:
            etag, version = writer.s3_files(_object(arguments.batch), stop=stop).put(manifest)
        except ConflictError as error:
            raise ConflictError(f"{error}; each job needs a manifest of its own: name another key") from error
        return replace(job, manifest_etag=etag, manifest_version=version)
    try:
        with Path(arguments.batch).open("xb") as file:
            shutil.copyfileobj(manifest, file)
    except FileExistsError:
        raise UsageError(f"{arguments.batch} exists, and is not replaced: name another file") from None
    except OSError as error:
        raise UsageError(f"cannot write {arguments.batch}: {error.strerror}") from None
    return job


def _print_how(arguments: argparse.Namespace, job: Job) -> None:
    """The commands that create the job; words in capitals stand for what nobody has said."""
    if not job.manifest_etag:
        job = replace(job, manifest_etag="ETAG")
        place = f"s3://{job.manifest_bucket}/{job.manifest_key}"
        if place != arguments.batch:
            print(shlex.join(["aws", "s3", "cp", plain(arguments.batch), place]))
        where = ["--bucket", job.manifest_bucket, "--key", job.manifest_key]
        print(shlex.join(["aws", "s3api", "head-object", *where, "--query", "ETag"]))
    account = job.account or "ACCOUNT"
    role = job.role or f"arn:{job.partition}:iam::{account}:role/ROLE"
    named = replace(job, account=account, role=role, report_owner=job.report_owner or account)
    print(shlex.join(["aws", "s3control", "create-job", *_options(named.request())]))


def _options(request: Mapping[str, Any]) -> list[str]:
    """A request as the AWS command line takes it.

    >>> _options({"AccountId": "1", "ConfirmationRequired": False, "Operation": {"A": {}}})
    ['--account-id', '1', '--no-confirmation-required', '--operation', '{"A": {}}']
    """
    words = []
    for name, value in request.items():
        option = re.sub("(?<!^)(?=[A-Z])", "-", name).lower()
        if isinstance(value, bool):
            words.append(f"--{'' if value else 'no-'}{option}")
        else:
            words += [f"--{option}", json.dumps(value) if isinstance(value, dict) else str(value)]
    return words
