"""The disk of a clone is full, read-only or another one: what git push and pull make of it."""

import json
import shutil
import time
from hashlib import sha256
from pathlib import Path

import pytest

from tests.cellar import Cellar
from tests.disk import Disk
from tests.e2e.dialogue import files_below, processes_of
from tests.proxy import FaultProxy
from tests.servers import Server

MIB = 1 << 20
FULL = "clone/.git/lfs is full: make room (see lfs-agent prune), and pull again"


@pytest.fixture
def pulled(cellar: Cellar, tmp_path: Path) -> Path:
    """Where a clone with pointers only is made, once the test has pushed; its LFS storage is still empty."""
    cellar.home.environ |= {"LFS_AGENT_PART_SIZE": "5MiB", "LFS_AGENT_STREAMS": "2"}
    return tmp_path / "clone"


def clone_pointers(cellar: Cellar, to: Path) -> None:
    cellar.home.git("clone", "-q", cellar.origin, to, env={"GIT_LFS_SKIP_SMUDGE": "1"})


def kept(disk: Disk) -> list[str]:
    """The files in the LFS storage, apart from the records of sessions and what fills the disk."""
    names = files_below(disk.content)
    return [name for name in names if not name.startswith(("ballast-", "lfs-agent/sessions/"))]


def place(oid: str) -> str:
    """Where an object is in the LFS storage."""
    return f"objects/{oid[:2]}/{oid[2:4]}/{oid}"


# Full


@pytest.mark.parametrize("room", [0, MIB], ids=["full", "nearly full"])
def test_an_object_that_finds_no_room_leaves_none_taken(cellar: Cellar, pulled: Path, room: int) -> None:
    oid = cellar.add("weights.bin", 3 * MIB)
    cellar.push()
    clone_pointers(cellar, pulled)
    with Disk(pulled / ".git" / "lfs", "8m") as disk:
        disk.fill(leave=room)
        first = disk.run(cellar.home, "git", "lfs", "pull", cwd=pulled, check=False)

        assert first.returncode != 0
        assert first.stderr.count(FULL) == 1, first.stderr
        assert "Traceback" not in first.stderr
        assert kept(disk) == []
        assert processes_of(cellar.home) == {}

        disk.remount("size=64m")
        disk.run(cellar.home, "git", "lfs", "pull", cwd=pulled)
        assert kept(disk) == [place(oid)]
    assert sha256((pulled / "weights.bin").read_bytes()).hexdigest() == oid


def test_a_large_object_that_finds_no_room_goes_on_once_there_is(
    git_lfs: Path | None, cellar: Cellar, any_server: Server, pulled: Path
) -> None:
    oid = cellar.add("weights.bin", 24 * MIB)
    cellar.push()
    clone_pointers(cellar, pulled)
    with Disk(pulled / ".git" / "lfs", "16m") as disk, FaultProxy(any_server.endpoint) as proxy:
        through = {"AWS_ENDPOINT_URL_S3": proxy.endpoint}
        first = disk.run(cellar.home, "git", "lfs", "pull", cwd=pulled, check=False, env=through)

        assert first.returncode != 0
        assert first.stderr.count(FULL) == 1, first.stderr
        assert "Traceback" not in first.stderr
        assert kept(disk) == [f"incomplete/lfs-agent/{oid}", f"incomplete/lfs-agent/{oid}.ranges"]
        assert processes_of(cellar.home) == {}

        disk.remount("size=64m")
        before = len(proxy.requests)
        disk.run(cellar.home, "git", "lfs", "pull", cwd=pulled, env=through)
        again = [seen for seen in proxy.requests[before:] if seen.method == "GET" and oid in seen.path]
        assert 1 <= len(again) <= 3  # of five ranges two found room
        assert kept(disk) == [place(oid)]
    assert sha256((pulled / "weights.bin").read_bytes()).hexdigest() == oid


def test_a_checkout_says_that_the_disk_is_full(cellar: Cellar, pulled: Path) -> None:
    """git-lfs asks a second time for what failed in a checkout, and shows only what is said then."""
    cellar.add("weights.bin", 3 * MIB)
    cellar.push()
    clone_pointers(cellar, pulled)
    (pulled / "weights.bin").unlink()
    with Disk(pulled / ".git" / "lfs", "1m") as disk:
        disk.fill()
        done = disk.run(cellar.home, "git", "restore", "weights.bin", cwd=pulled, check=False)

    assert done.returncode != 0
    assert " is full: make room (see lfs-agent prune), and pull again" in done.stderr
    assert "Traceback" not in done.stderr


def test_many_objects_on_a_full_disk_fail_as_fast_as_one(cellar: Cellar, pulled: Path) -> None:
    """Not even the cause can be kept there for the other workers."""
    count = 400
    for number in range(count):
        cellar.write(f"{number}.bin", 1_000 + number, number)
    cellar.commit("Fill the cellar")
    cellar.push()
    clone_pointers(cellar, pulled)
    with Disk(pulled / ".git" / "lfs", "1m") as disk:
        disk.fill()
        started = time.monotonic()
        done = disk.run(cellar.home, "git", "lfs", "pull", cwd=pulled, check=False)

        assert done.returncode != 0
        assert time.monotonic() - started < 30
        told = [line for line in done.stderr.splitlines() if "error transferring" in line]
        assert len(told) == count
        assert 1 <= sum(FULL in line for line in told) <= 8
        assert len(done.stderr.splitlines()) <= count + 10
        assert kept(disk) == []


def test_a_push_needs_no_room(git_lfs: Path | None, cellar: Cellar, any_server: Server) -> None:
    """Neither for the notes of a large object, nor for what is learned of the store, nor for a record."""
    cellar.home.environ["LFS_AGENT_PART_SIZE"] = "5MiB"
    oids = [cellar.write("weights.bin", 12 * MIB, 1), cellar.write("head.bin", 30_000, 2)]
    with Disk(cellar.work / ".git" / "lfs", "40m") as disk:
        disk.run(cellar.home, "git", "add", "-A", cwd=cellar.work)
        disk.run(cellar.home, "git", "commit", "-q", "-m", "Add", cwd=cellar.work)
        disk.fill()
        disk.run(cellar.home, "git", "push", "-q", "origin", "HEAD", cwd=cellar.work)

        assert kept(disk) == sorted(map(place, oids))
    assert cellar.keys() == sorted(map(cellar.key, oids))
    assert any_server.client().list_multipart_uploads(Bucket=cellar.bucket).get("Uploads", []) == []


# Read-only


def test_a_push_from_a_read_only_storage_sends_everything(cellar: Cellar) -> None:
    cellar.home.environ["LFS_AGENT_PART_SIZE"] = "5MiB"
    oids = [cellar.write("weights.bin", 12 * MIB, 1), cellar.write("head.bin", 30_000, 2)]
    with Disk(cellar.work / ".git" / "lfs", "64m") as disk:
        disk.run(cellar.home, "git", "add", "-A", cwd=cellar.work)
        disk.run(cellar.home, "git", "commit", "-q", "-m", "Add", cwd=cellar.work)
        sessions = disk.content / "lfs-agent" / "sessions"
        sessions.mkdir(parents=True)
        for number in range(30):  # more than are kept: old ones want to be swept
            (sessions / f"{number}.jsonl").touch()
        disk.remount("ro")
        disk.run(cellar.home, "git", "push", "-q", "origin", "HEAD", cwd=cellar.work)

        assert kept(disk) == sorted(map(place, oids))
    assert cellar.keys() == sorted(map(cellar.key, oids))


@pytest.mark.parametrize("size", [30_000, 12 * MIB], ids=["whole", "in parts"])
def test_a_pull_into_a_read_only_storage_says_so(cellar: Cellar, pulled: Path, size: int) -> None:
    oid = cellar.add("weights.bin", size)
    cellar.push()
    clone_pointers(cellar, pulled)
    with Disk(pulled / ".git" / "lfs", "64m") as disk:
        (disk.content / place(oid)).parent.mkdir(parents=True)  # else git-lfs itself ends there
        (disk.content / "tmp").mkdir()
        disk.remount("ro")
        done = disk.run(cellar.home, "git", "lfs", "pull", cwd=pulled, check=False)

        assert done.returncode != 0
        assert "/incomplete/lfs-agent: Read-only file system; the LFS storage must be writable" in done.stderr
        assert "Traceback" not in done.stderr
        assert processes_of(cellar.home) == {}
        assert (pulled / "weights.bin").read_text().startswith("version https://git-lfs")

        disk.remount("rw")
        disk.run(cellar.home, "git", "lfs", "pull", cwd=pulled)
        assert kept(disk) == [place(oid)]
    assert sha256((pulled / "weights.bin").read_bytes()).hexdigest() == oid


# Another one


@pytest.mark.parametrize("relative", [False, True], ids=["absolute", "relative"])
def test_the_storage_may_be_on_another_disk(cellar: Cellar, tmp_path: Path, relative: bool) -> None:
    """A file made anywhere else could not be renamed to where it belongs."""
    cellar.home.environ["LFS_AGENT_PART_SIZE"] = "5MiB"
    oids = [cellar.write("weights.bin", 12 * MIB, 1), cellar.write("head.bin", 30_000, 2)]
    home, clone = cellar.home, tmp_path / "clone"
    with Disk(tmp_path / "big disk", "64m") as disk, Disk(tmp_path / "other disk", "64m") as other:
        cellar.git("config", "lfs.storage", "../../big disk" if relative else disk.at)
        disk.run(home, "git", "add", "-A", cwd=cellar.work)
        disk.run(home, "git", "commit", "-q", "-m", "Add", cwd=cellar.work)
        disk.run(home, "git", "push", "-q", "origin", "HEAD", cwd=cellar.work)
        storage = f"lfs.storage={'../../other disk' if relative else other.at}"
        other.run(home, "git", "clone", "-q", "-c", storage, cellar.origin, clone, cwd=tmp_path)

        assert [name for name in kept(disk) if name.startswith("objects/")] == sorted(map(place, oids))
        assert kept(other) == sorted(map(place, oids))
        assert "lfs-agent/sessions" in {str(path.relative_to(other.content)) for path in other.content.rglob("*")}
    assert not (clone / ".git" / "lfs").exists()
    assert cellar.keys() == sorted(map(cellar.key, oids))
    for name in ("weights.bin", "head.bin"):
        assert (clone / name).read_bytes() == (cellar.work / name).read_bytes()


def test_nothing_goes_from_a_full_disk_without_a_whole_line(cellar: Cellar) -> None:
    """prune makes room; the line about it needs some, of which the last block has a part."""
    gone = [cellar.add("model.bin", 3 * MIB, seed) for seed in (1, 2)]
    cellar.add("model.bin", 1000)
    cellar.push()
    storage = cellar.work / ".git" / "lfs"
    shutil.copytree(storage, cellar.home.folder / "storage")
    with Disk(storage, "16m") as disk:
        shutil.copytree(cellar.home.folder / "storage", disk.content, dirs_exist_ok=True)
        audit = disk.content / "lfs-agent" / "audit.jsonl"
        audit.write_text(json.dumps({"padding": "x" * 4000}) + "\n")
        disk.fill()
        words = ("lfs-agent", "prune", "--deep", "--apply")
        full = disk.run(cellar.home, *words, cwd=cellar.work, check=False)

        assert full.returncode == 3
        cause = "audit.jsonl cannot be written: No space left on device; nothing is deleted or replaced without a line"
        assert full.stderr.count(cause) == 1, full.stderr
        assert all((disk.content / place(oid)).exists() for oid in gone)

        disk.remount("size=64m")
        disk.run(cellar.home, *words, cwd=cellar.work)
        lines = [json.loads(line) for line in audit.read_text().splitlines() if line.endswith("}")]
        assert sorted(line["oid"] for line in lines if "oid" in line) == sorted(gone)
        assert not any((disk.content / place(oid)).exists() for oid in gone)
