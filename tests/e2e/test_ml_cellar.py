"""The real ml-cellar 0.2.0, which runs git with its output thrown away, works through us unchanged."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cellar import random_bytes
from tests.machine import Home
from tests.servers import Server

KIB = 1 << 10
WEIGHTS = {
    "vit-l/0.1/model.safetensors": 300 * KIB,
    "vit-l/0.1/head.pt": 20 * KIB,
    "vit-l/0.2/model.safetensors": 310 * KIB,
    "vit-l/0.2/result.json": 200,
    "llama/base/1.0/model.onnx": 90 * KIB,
}


@dataclass(frozen=True)
class Keeper:
    """Somebody who keeps a cellar by ml-cellar's commands."""

    home: Home
    program: Path
    server: Server
    bucket: str
    origin: Path

    @property
    def work(self) -> Path:
        return self.home.folder / "cellar"

    def ml_cellar(self, *arguments: str, cwd: Path | None = None, check: bool = True) -> str:
        """Runs ml-cellar; all that it said."""
        done = self.home.run(self.program, *arguments, cwd=cwd or self.work, check=check)
        assert check or done.returncode == 1
        return done.stdout + done.stderr

    def git(self, *arguments: str | Path) -> str:
        return self.home.git(*arguments, cwd=self.work).stdout

    def open(self) -> None:
        """A cellar with two racks, its store named, nothing pushed."""
        self.home.git("init", "-q", "--bare", self.origin)
        self.work.mkdir()
        self.ml_cellar("init")
        self.ml_cellar("rack", "vit-l")
        self.ml_cellar("rack", "llama/base")
        self.home.run("lfs-agent", "init", f"s3::{self.bucket}/models", cwd=self.work)
        self.git("remote", "add", "origin", self.origin)
        for seed, (path, size) in enumerate(WEIGHTS.items()):
            (self.work / path).parent.mkdir(parents=True, exist_ok=True)
            (self.work / path).write_bytes(random_bytes(size, seed))
        self.git("add", "-A")
        self.git("commit", "-q", "-m", "Lay down the harvest")

    def oids(self, under: str = "") -> set[str]:
        """The objects that HEAD names, or those of a folder."""
        listed = self.git("lfs", "ls-files", "--long", *(["--include", under] if under else []))
        return {line.split()[0] for line in listed.splitlines()}


def keeper_of(home: Home, ml_cellar: Path, server: Server, bucket: str, origin: Path) -> Keeper:
    home.environ.update(server.environ())
    home.install()
    return Keeper(home, ml_cellar, server, bucket, origin)


@pytest.fixture
def keeper(home: Home, ml_cellar: Path, any_server: Server, bucket: str, tmp_path: Path) -> Keeper:
    """Has an open cellar."""
    keeper = keeper_of(home, ml_cellar, any_server, bucket, tmp_path / "cellar")
    keeper.open()
    return keeper


@pytest.fixture
def guest(second_home: Home, ml_cellar: Path, any_server: Server, bucket: str, tmp_path: Path) -> Keeper:
    """Has the agent, and nothing yet."""
    return keeper_of(second_home, ml_cellar, any_server, bucket, tmp_path / "cellar")


def is_pointer(path: Path) -> bool:
    return path.read_bytes().startswith(b"version https://git-lfs.github.com/spec/v1\n")


@pytest.mark.usefixtures("git_lfs")
def test_all_of_its_commands_work_unchanged(keeper: Keeper, guest: Keeper) -> None:
    assert "git push origin main" in keeper.ml_cellar("push", "origin", "main")
    stored = {key.rpartition("/")[2] for key in keeper.server.keys(keeper.bucket)}
    assert len(stored) == 5
    assert stored == keeper.oids()

    mark = guest.server.mark()
    assert "git clone done" in guest.ml_cellar("clone", str(guest.origin), cwd=guest.home.folder)
    assert all(is_pointer(guest.work / path) for path in WEIGHTS)
    assert guest.server.requests(since=mark) == []

    assert "git lfs pull -I vit-l/0.2 done" in guest.ml_cellar("download", "vit-l/0.2")
    asked = {entry.key.rpartition("/")[2] for entry in guest.server.requests(since=mark)}
    assert len(asked) == 2
    assert asked == guest.oids("vit-l/0.2")
    assert [path for path in WEIGHTS if not is_pointer(guest.work / path)] == [
        "vit-l/0.2/model.safetensors",
        "vit-l/0.2/result.json",
    ]

    mark = guest.server.mark()
    assert "git lfs pull done" in guest.ml_cellar("download-all")
    asked_later = {entry.key.rpartition("/")[2] for entry in guest.server.requests(since=mark)}
    assert asked_later == guest.oids() - asked
    for path in WEIGHTS:
        assert (guest.work / path).read_bytes() == (keeper.work / path).read_bytes()


def test_one_file_can_be_downloaded(keeper: Keeper, guest: Keeper) -> None:
    keeper.ml_cellar("push", "origin", "main")
    guest.ml_cellar("clone", str(guest.origin), cwd=guest.home.folder)
    guest.ml_cellar("download", "llama/base/1.0/model.onnx")

    assert [path for path in WEIGHTS if not is_pointer(guest.work / path)] == ["llama/base/1.0/model.onnx"]


def test_its_own_gitattributes_are_kept(keeper: Keeper, guest: Keeper) -> None:
    guest.work.mkdir()
    guest.ml_cellar("init")

    assert (keeper.work / ".gitattributes").read_bytes() == (guest.work / ".gitattributes").read_bytes()
    assert (keeper.work / ".mlcellar.toml").read_bytes() == (guest.work / ".mlcellar.toml").read_bytes()


def test_the_cause_of_a_failed_push_can_be_read_afterwards(keeper: Keeper) -> None:
    """ml-cellar throws git's output away and says only that it failed."""
    keeper.server.client().delete_bucket(Bucket=keeper.bucket)
    said = keeper.ml_cellar("push", "origin", "main", check=False)
    told = keeper.home.run("lfs-agent", "log", cwd=keeper.work).stdout

    assert "git push failed" in said
    assert keeper.bucket not in said
    assert f"push to s3::{keeper.bucket}/models" in told
    assert "404" in told
    assert "bucket" in told
    assert "vit-l/0.1/model.safetensors" in told

    keeper.server.client().create_bucket(Bucket=keeper.bucket)
    keeper.ml_cellar("push", "origin", "main")
    told = keeper.home.run("lfs-agent", "log", cwd=keeper.work).stdout
    assert "\nfailed" not in told
    assert "5 objects" in told


def test_the_cause_of_a_failed_download_can_be_read_afterwards(keeper: Keeper, guest: Keeper) -> None:
    keeper.ml_cellar("push", "origin", "main")
    guest.ml_cellar("clone", str(guest.origin), cwd=guest.home.folder)
    (lost,) = guest.oids("vit-l/0.1/head.pt")
    key = f"models/{lost[:2]}/{lost[2:4]}/{lost}"
    guest.server.client().delete_object(Bucket=guest.bucket, Key=key)
    said = guest.ml_cellar("download", "vit-l/0.1", check=False)
    told = guest.home.run("lfs-agent", "log", cwd=guest.work).stdout

    assert "git lfs pull failed" in said
    assert f"{guest.bucket}/{key}" in told
    assert "vit-l/0.1/head.pt" in told
    assert not is_pointer(guest.work / "vit-l/0.1/model.safetensors")


def test_a_next_version_sends_only_what_is_new(keeper: Keeper) -> None:
    keeper.ml_cellar("push", "origin", "main")
    before = set(keeper.server.keys(keeper.bucket))
    (keeper.work / "vit-l/0.3").mkdir()
    (keeper.work / "vit-l/0.3/model.safetensors").write_bytes(random_bytes(320 * KIB, 99))
    # The head is the one of 0.1.
    (keeper.work / "vit-l/0.3/head.pt").write_bytes((keeper.work / "vit-l/0.1/head.pt").read_bytes())
    keeper.git("add", "-A")
    keeper.git("commit", "-q", "-m", "Bottle vit-l 0.3")
    mark = keeper.server.mark()
    keeper.ml_cellar("push", "origin", "main")
    sent = [entry.key for entry in keeper.server.requests(since=mark) if entry.method in ("PUT", "POST")]

    assert set(sent) == set(keeper.server.keys(keeper.bucket)) - before
    assert len(set(sent)) == 1
