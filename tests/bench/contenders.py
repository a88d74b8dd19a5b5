"""Who races: our agent, its peers, the floor and the yardsticks, and how git-lfs is led to each."""

import shlex
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import lfs_agent
from lfs_agent.registration import SECTION, registration
from tests.bench import null_agent
from tests.bench.results import Role
from tests.servers import Server, cache

WORKER = Path(lfs_agent.__file__).with_name("worker.py")


@dataclass(frozen=True)
class Place:
    """Where one contender's objects go: a prefix of its own."""

    server: Server
    endpoint: str
    """Of the server, or of the link that leads to it."""
    bucket: str
    prefix: str
    origin: Path
    objects: Path


@dataclass(frozen=True)
class Registration:
    """How git-lfs, in one work tree, finds and starts an agent."""

    command: tuple[str, ...]
    remote: str
    """The URL of origin."""
    config: Mapping[str, str] = field(default_factory=dict)
    """Of the work tree, by `git config`."""
    files: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """In the work tree: their keys, by `git config --file`."""
    environ: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Agent:
    """Something that git-lfs starts. `program`: what must be installed; None where it comes with Python."""

    name: str
    role: Role
    program: str | None
    register: Callable[[str, Place], Registration]
    workers: int | None = None
    """Of `lfs.concurrenttransfers`; git-lfs's own number where None."""


@dataclass(frozen=True)
class Yardstick:
    """A tool without git: all objects up, all objects down. The commands are given the place and a folder."""

    name: str
    program: str
    push: Callable[[str, Place, Path], list[str]]
    pull: Callable[[str, Place, Path], list[str]]
    role: Role = "yardstick"


Contender = Agent | Yardstick

_FOR_ALL = {"lfs.standalonetransferagent": "contender"}
"""The agent whatever the URL is."""


def program_of(contender: Contender) -> str | None:
    """The path of what a contender needs, in the cache of tests/install/peers.sh or on PATH; None if it is absent."""
    if contender.program is None:
        return sys.executable
    return shutil.which(contender.program, path=str(cache() / "bin")) or shutil.which(contender.program)


def _lfs_agent(_: str, place: Place) -> Registration:
    keys = registration()
    return Registration(
        tuple(word for word in (keys[f"{SECTION}.path"], *shlex.split(keys[f"{SECTION}.args"])) if word != "exec"),
        str(place.origin),
        {"lfs.s3::.standalonetransferagent": "contender"},
        {".lfsconfig": {"lfs.url": f"s3::{place.bucket}/{place.prefix}"}},
    )


def _null(_: str, place: Place) -> Registration:
    command = (sys.executable, "-I", "-S", str(Path(null_agent.__file__)))
    return Registration(command, str(place.origin), _FOR_ALL, environ={"NULL_AGENT_OBJECTS": str(place.objects)})


def _git_remote_s3(program: str, place: Place) -> Registration:
    return Registration((program,), f"s3://{place.bucket}/{place.prefix}", _FOR_ALL)


def _object_store(program: str, place: Place) -> Registration:
    url = f"s3+{place.endpoint}/{place.bucket}/{place.prefix}"
    return Registration((program,), f"{url}?addressing=path&region={place.server.region}", _FOR_ALL)


def _lfs_s3(program: str, place: Place) -> Registration:
    server = place.server
    options = {
        "access_key_id": server.access_key,
        "secret_access_key": server.secret_key,
        "bucket": place.bucket,
        "endpoint": place.endpoint,
        "region": server.region,
        "root_path": place.prefix,
        "use_path_style": "true",
        "compression": "none",
    }
    command = (program, *(f"--{name}={value}" for name, value in options.items()))
    return Registration(command, str(place.origin), _FOR_ALL)


def _lfs_dal(program: str, place: Place) -> Registration:
    server = place.server
    settings = {
        "lfs-dal.scheme": "s3",
        "lfs-dal.bucket": place.bucket,
        "lfs-dal.root": f"/{place.prefix}",
        "lfs-dal.endpoint": place.endpoint,
        "lfs-dal.region": server.region,
    }
    keys = {"lfs-dal.access-key-id": server.access_key, "lfs-dal.secret-access-key": server.secret_key}
    # It insists on its file, and takes the keys from git config.
    return Registration((program,), str(place.origin), _FOR_ALL | settings | keys, {".lfsdalconfig": settings})


def _prefix_url(place: Place) -> str:
    return f"s3://{place.bucket}/{place.prefix}/"


def with_workers(contender: Contender, numbers: Sequence[int]) -> list[Contender]:
    """An agent once for each number of workers, instead of git-lfs's own; a yardstick as it is."""
    if isinstance(contender, Yardstick) or not numbers:
        return [contender]
    return [replace(contender, name=f"{contender.name} x{number}", workers=number) for number in numbers]


CONTENDERS: tuple[Contender, ...] = (
    Agent("lfs-agent", "ours", None, _lfs_agent),
    Agent("null", "floor", None, _null),
    Agent("lfs-dal", "peer", "lfs-dal", _lfs_dal),
    Agent("object-store", "peer", "git-lfs-object-store", _object_store),
    Agent("lfs-s3", "peer", "lfs-s3", _lfs_s3),
    Agent("git-remote-s3", "peer", "git-lfs-s3", _git_remote_s3),
    Yardstick(
        "s5cmd",
        "s5cmd",
        lambda program, place, source: [program, "--log", "error", "cp", f"{source}/", _prefix_url(place)],
        lambda program, place, target: [program, "--log", "error", "cp", f"{_prefix_url(place)}*", f"{target}/"],
    ),
    Yardstick(
        "aws",
        "aws",
        lambda program, place, source: [
            *(program, "s3", "cp", "--quiet", "--recursive"),
            *(str(source), _prefix_url(place)),
        ],
        lambda program, place, target: [
            *(program, "s3", "cp", "--quiet", "--recursive"),
            *(_prefix_url(place), str(target)),
        ],
    ),
)
