"""Fixtures for real git and git-lfs: users on isolated machines, and a cellar."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.cellar import Cellar
from tests.conftest import absent
from tests.e2e.dialogue import new_repository
from tests.machine import Home
from tests.servers import Server, Versitygw, cache
from tests.servers.server import program

NEWEST = "3.8.1"


@pytest.fixture(params=["system", "newest"])
def git_lfs(request: pytest.FixtureRequest) -> Path | None:
    """Runs a test twice: with the system's git-lfs (None) and with the newest (its folder, first on PATH)."""
    return newest_git_lfs() if request.param == "newest" else None


def newest_git_lfs() -> Path:
    folder = cache() / f"git-lfs-{NEWEST}"
    if not (folder / "git-lfs").exists():
        absent(f"git-lfs {NEWEST} is not installed: run `tests/install/install.sh git-lfs-newest` (needs Go)")
    return folder


def need_git_lfs() -> None:
    if program("git-lfs") is None:
        absent("git-lfs is not installed: run `tests/install/install.sh git-lfs`")


HomeOf = Callable[[str], Home]


@pytest.fixture
def home_of(request: pytest.FixtureRequest, tmp_path: Path) -> HomeOf:
    """Makes a user on a fresh isolated machine, of this name, with the test's git-lfs."""
    need_git_lfs()
    git_lfs = request.getfixturevalue("git_lfs") if "git_lfs" in request.fixturenames else None
    return lambda name: Home(tmp_path / name, git_lfs=git_lfs)


@pytest.fixture
def home(home_of: HomeOf) -> Home:
    """A user on an isolated machine; knows no server yet, and `lfs-agent install` has not run."""
    return home_of("vera")


@pytest.fixture
def second_home(home_of: HomeOf) -> Home:
    """Another user on another machine."""
    return home_of("otto")


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The git config of a user for whom `lfs-agent install` has run: the same for everybody."""
    need_git_lfs()
    home = Home(tmp_path_factory.mktemp("installed"))
    home.install()
    return (home.folder / ".gitconfig").read_text()


@pytest.fixture
def cellar(home: Home, installed: str, this_server: Server, bucket: str, tmp_path: Path) -> Cellar:
    """A cellar in `bucket`, by `home`: agent installed, server in the environment, first commit pushed."""
    home.environ.update(this_server.environ())
    (home.folder / ".gitconfig").write_text(installed)
    cellar = Cellar(home, this_server, bucket, "cellar", tmp_path / "origin.git", tmp_path / "work")
    cellar.build()
    return cellar


@pytest.fixture
def ml_cellar() -> Path:
    """The real ml-cellar program."""
    program = cache() / "ml-cellar-0.2.0" / "ml-cellar"
    if not program.exists():
        absent("ml-cellar is not installed: run `tests/install/install.sh ml-cellar` (needs cargo)")
    return program


def with_ages(server: Server) -> Versitygw:
    """This server, whose uploads can be made old; a test over any other one is skipped."""
    if not isinstance(server, Versitygw):
        absent("needs versitygw, whose uploads are files: run `tests/install/install.sh versitygw` (needs Go)")
    return server


@pytest.fixture
def work(home: Home, any_server: Server, bucket: str, tmp_path: Path) -> Path:
    """A repository over `bucket`; `home` knows the server."""
    home.environ.update(any_server.environ())
    return new_repository(home, tmp_path / "work", f"s3::{bucket}/cellar")


@pytest.fixture
def agents() -> Iterator[ExitStack]:
    """Holds workers; they are of one session, since one process starts them all."""
    with ExitStack() as stack:
        yield stack
