"""Shows the settings in force, and where each comes from. It never shows a secret: there is none among them."""

import argparse
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from lfs_agent import log
from lfs_agent.cellar import Cellar
from lfs_agent.commands.place import choose_remote
from lfs_agent.commands.screen import Column, Screen
from lfs_agent.config import SETTINGS, Settings, Value, from_environ, from_git, resolve
from lfs_agent.errors import TargetError
from lfs_agent.gitrepo import Repository
from lfs_agent.parts import MIB
from lfs_agent.store.url import FolderTarget

if TYPE_CHECKING:
    from lfs_agent.store.connection import Connection

EXAMPLES = """\
examples:
  lfs-agent config --show-origin
  lfs-agent config --remote backup --push --json
"""

_AWS_VARIABLES = {
    "endpoint": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"),
    "region": ("AWS_REGION", "AWS_DEFAULT_REGION"),
    "profile": ("AWS_DEFAULT_PROFILE", "AWS_PROFILE"),
    "ca": ("AWS_CA_BUNDLE",),
}
_GIT_KEYS = {"ca": "http.sslCAInfo", "client_cert": "http.sslCert", "client_key": "http.sslKey"}


_WIDEST = 30
"""A longer value moves its own origin alone: a URL leaves no room for a column of them."""


class Row(NamedTuple):
    """One setting; `value` None: nothing is set."""

    name: str
    value: Any
    origin: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--show-origin", action="store_true", help="say where each value comes from")
    parser.add_argument("--remote", metavar="NAME", help="the remote whose store is meant")
    parser.add_argument("--push", action="store_true", help="show what holds for a push")
    parser.add_argument("--json", action="store_true", help="print one object a line: name, value, origin")


def run(arguments: argparse.Namespace, environ: Mapping[str, str]) -> int:
    repo = Repository(Path.cwd())
    remote = choose_remote(repo, arguments.remote)
    cellar = Cellar(repo, "upload" if arguments.push else "download", remote, environ)
    screen, rows = Screen(), list(rows_of(cellar))
    layout = Column(16), Column(min(_WIDEST, max(len(text_of(row)) for row in rows))), Column()
    for row in rows:
        if arguments.json:
            screen.line(log.redact(json.dumps(row._asdict())))
        else:
            screen.row(layout, row.name, text_of(row), *([row.origin] if arguments.show_origin else []))
    return 0


def rows_of(cellar: Cellar) -> Iterator[Row]:
    """The store, where one is named, and all settings in their order."""
    try:
        named = cellar.named
    except TargetError:
        settings, chosen = _without_store(cellar)
        yield from _settings(settings, chosen, _from_aws(_own_connection(cellar, settings), cellar.environ))
        return
    query = f"?{cellar.target.query}" if cellar.target.query else ""
    yield Row("store", f"{cellar.target}{query}", named.origin)
    of_folder = isinstance(cellar.target, FolderTarget)
    yield from _settings(*cellar.resolved, {} if of_folder else _from_aws(cellar.connection, cellar.environ))


def text_of(row: Row) -> str:
    """The value as it could be written in a setting; "-" for none.

    >>> text_of(Row("part_size", 16777216, "default")), text_of(Row("public", False, "default"))
    ('16MiB', 'false')
    """
    match row.value:
        case None:
            return "-"
        case bool():
            return str(row.value).lower()
        case int() if row.value and row.value % MIB == 0:
            return f"{row.value // MIB}MiB"
        case float():
            return f"{row.value:g}"
    return str(row.value)


def _settings(settings: Settings, chosen: Mapping[str, Value], aws: Mapping[str, Row]) -> Iterator[Row]:
    for setting in SETTINGS:
        value = getattr(settings, setting.name)
        if setting.name in chosen:
            yield Row(setting.name, value, chosen[setting.name].origin)
        else:
            yield aws.get(setting.name, Row(setting.name, value, "default"))


def _without_store(cellar: Cellar) -> tuple[Settings, dict[str, Value]]:
    entries = ((entry.key, entry.value, entry.origin) for entry in cellar.repo.config)
    return resolve(from_environ(cellar.environ), from_git(entries, bucket=""))


def _own_connection(cellar: Cellar, settings: Settings) -> "Connection":
    """What AWS's and the user's own settings come to, without any store."""
    from lfs_agent.store.aws import Aws
    from lfs_agent.store.connection import resolve_connection

    aws = Aws(settings, cellar.environ)
    return resolve_connection(aws, settings, settings.endpoint or aws.said.endpoint, cellar.repo.http_setting)


def _from_aws(connection: "Connection", environ: Mapping[str, str]) -> dict[str, Row]:
    """What holds where nobody sets it for us: AWS's own settings, and what follows from them."""
    rows = {
        "endpoint": connection.endpoint,
        "region": connection.aws.said.region,
        "profile": connection.profile,
        "ca": connection.ca,
        "client_cert": connection.client_cert,
        "client_key": connection.client_key,
    }
    found = {name: Row(name, value, _origin(name, connection, environ)) for name, value in rows.items() if value}
    return {
        "region": Row("region", connection.region, "default"),
        "path_style": Row("path_style", connection.path_style, "default"),
        **found,
    }


def _origin(name: str, connection: "Connection", environ: Mapping[str, str]) -> str:
    for variable in _AWS_VARIABLES.get(name, ()):
        if environ.get(variable):
            return f"environment: {variable}"
    if name == "profile":
        return ".mlcellar.toml"
    if name in _GIT_KEYS and not (name == "ca" and connection.aws.said.ca):
        return f"git config: {_GIT_KEYS[name]}"
    return f"AWS configuration, profile {connection.profile or 'default'}"
