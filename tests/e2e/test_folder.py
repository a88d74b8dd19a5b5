"""A shared folder as the store, `dir::/srv/share`: a whole push and clone without any server."""

import hashlib
import os
import re
import shutil
import signal
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest

from tests.cellar import PATTERNS, new_share, random_bytes
from tests.disk import Disk
from tests.e2e.dialogue import Agent, files_below, keep_local, new_repository
from tests.machine import POWERLESS, Home
from tests.servers import is_ledger

MIB = 1 << 20
FILES = {"rack/1.0/weights.bin": 12 * MIB, "rack/1.0/head.bin": 300_000, "one byte.bin": 1, "モデル.pt": 70_000}


class Shelf:
    """A cellar on a shared folder: `share`, named by a committed `.lfsconfig` that its users trust."""

    def __init__(self, home: Home, folder: Path) -> None:
        self.home = home
        self.share = new_share(folder / "share of all")
        self.origin = folder / "origin.git"
        self.work = folder / "work"
        self.join(home)
        home.git("init", "-q", "--bare", self.origin)
        home.git("init", "-q", self.work)
        self.git("remote", "add", "origin", str(self.origin))
        attributes = "".join(f"{pattern} filter=lfs diff=lfs merge=lfs -text\n" for pattern in PATTERNS)
        (self.work / ".gitattributes").write_text(attributes)
        (self.work / ".lfsconfig").write_text(f"[lfs]\n\turl = dir::{self.share}\n")
        self.oids = {path: self.write(path, size, seed) for seed, (path, size) in enumerate(FILES.items())}
        self.git("add", "-A")
        self.git("commit", "-q", "-m", "Open the cellar")

    def join(self, home: Home) -> Home:
        """A user with the agent, who trusts the folder."""
        home.environ["LFS_AGENT_PART_SIZE"] = "5MiB"
        home.install()
        home.run("lfs-agent", "trust", f"dir::{self.share}")
        return home

    def git(self, *arguments: str | Path, check: bool = True) -> str:
        done = self.home.git(*arguments, cwd=self.work, check=check)
        return done.stdout + done.stderr

    def write(self, path: str, size: int, seed: int) -> str:
        content = random_bytes(size, seed)
        (self.work / path).parent.mkdir(parents=True, exist_ok=True)
        (self.work / path).write_bytes(content)
        return sha256(content).hexdigest()

    def at(self, path: str) -> Path:
        """The file in the share that holds the object of a path."""
        oid = self.oids[path]
        return self.share / oid[:2] / oid[2:4] / oid

    def stored(self) -> list[str]:
        """The files in the share that are objects."""
        return [
            name for name in files_below(self.share) if not name.startswith(("lfs-agent-unfinished/", ".lfs-agent/"))
        ]


@pytest.fixture
def shelf(home: Home, tmp_path: Path) -> Shelf:
    return Shelf(home, tmp_path)


def test_what_is_pushed_comes_back_without_a_server(shelf: Shelf, second_home: Home, tmp_path: Path) -> None:
    shelf.git("push", "-q", "origin", "HEAD")
    guest = shelf.join(second_home)
    guest.git("clone", "-q", shelf.origin, tmp_path / "clone")

    assert shelf.stored() == sorted(f"{oid[:2]}/{oid[2:4]}/{oid}" for oid in shelf.oids.values())
    assert files_below(shelf.share / "lfs-agent-unfinished") == []
    for path, oid in shelf.oids.items():
        assert sha256(shelf.at(path).read_bytes()).hexdigest() == oid
        assert sha256((tmp_path / "clone" / path).read_bytes()).hexdigest() == oid
    assert guest.git("status", "--porcelain", cwd=tmp_path / "clone").stdout == ""


def test_the_share_is_a_git_lfs_store(shelf: Shelf, second_home: Home, tmp_path: Path) -> None:
    """Nobody is locked in: its folders are git-lfs's own."""
    shelf.git("push", "-q", "origin", "HEAD")
    shelf.join(second_home)
    clone = tmp_path / "clone"
    second_home.git("clone", "-q", shelf.origin, clone, env={"GIT_LFS_SKIP_SMUDGE": "1"})
    for name in shelf.stored():
        target = clone / ".git" / "lfs" / "objects" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((shelf.share / name).read_bytes())
    second_home.git("lfs", "checkout", cwd=clone)

    for path, oid in shelf.oids.items():
        assert sha256((clone / path).read_bytes()).hexdigest() == oid


def test_what_is_there_is_not_written_again(shelf: Shelf) -> None:
    shelf.git("push", "-q", "origin", "HEAD")
    before = {name: (shelf.share / name).stat() for name in shelf.stored()}
    shelf.git("lfs", "push", "--all", "origin")

    after = {name: (shelf.share / name).stat() for name in shelf.stored()}
    assert [(s.st_ino, s.st_mtime_ns) for s in after.values()] == [(s.st_ino, s.st_mtime_ns) for s in before.values()]


def test_another_size_under_the_name_is_not_replaced(shelf: Shelf) -> None:
    path = "rack/1.0/head.bin"
    shelf.at(path).parent.mkdir(parents=True)
    shelf.at(path).write_bytes(b"something else")
    pushed = shelf.home.git("push", "origin", "HEAD", cwd=shelf.work, check=False)

    assert pushed.returncode != 0
    assert f"{shelf.at(path)} has 14 bytes, not 300000" in pushed.stderr
    assert shelf.at(path).read_bytes() == b"something else"
    assert len(shelf.stored()) == len(FILES)


@pytest.mark.parametrize("path", ["rack/1.0/weights.bin", "rack/1.0/head.bin"])
@pytest.mark.parametrize("harm", ["flipped", "truncated", "deleted"])
def test_a_bad_object_is_named_and_the_others_arrive(
    shelf: Shelf, second_home: Home, tmp_path: Path, path: str, harm: str
) -> None:
    shelf.git("push", "-q", "origin", "HEAD")
    content = bytearray(shelf.at(path).read_bytes())
    content[len(content) // 2] ^= 1
    shelf.at(path).unlink()
    if harm != "deleted":
        shelf.at(path).write_bytes(content if harm == "flipped" else content[:-1])
    guest = shelf.join(second_home)
    clone = tmp_path / "clone"
    guest.git("clone", "-q", shelf.origin, clone, env={"GIT_LFS_SKIP_SMUDGE": "1"})
    pulled = guest.git("lfs", "pull", cwd=clone, check=False)

    says = {"flipped": "is damaged: its SHA-256 is ", "truncated": " bytes, not ", "deleted": "[404]"}
    (told,) = [line for line in pulled.stderr.splitlines() if "error transferring" in line]
    assert pulled.returncode != 0
    assert says[harm] in told
    assert shelf.oids[path] in told
    assert str(shelf.at(path)) in told
    arrived = {name for name, size in FILES.items() if (clone / name).stat().st_size == size}
    assert arrived == set(FILES) - {path}
    assert len(files_below(clone / ".git" / "lfs" / "objects")) == len(FILES) - 1


def test_a_share_that_is_not_mounted_is_not_an_empty_one(shelf: Shelf, second_home: Home, tmp_path: Path) -> None:
    shutil.rmtree(shelf.share)
    pushed = shelf.home.git("push", "origin", "HEAD", cwd=shelf.work, check=False)

    assert pushed.returncode != 0
    assert pushed.stderr.count(f"there is no folder {shelf.share}: mount it, or create it") == 1
    assert not shelf.share.exists()


ASKING = [
    ("verify",),
    ("push-missing",),
    ("repair", "--deep"),
    ("prune", "--deep", "--apply"),
    ("gc", "--apply"),
    ("uploads", "--abort", "--older-than", "0s"),
    ("doctor",),
]


@pytest.mark.parametrize("left", [[], ["lost+found"]])
def test_the_empty_mount_point_of_a_share_is_no_store(shelf: Shelf, tmp_path: Path, left: list[str]) -> None:
    """Else a push lies below it, on the local disk, and counts as proof until the share is mounted again."""
    shelf.git("push", "-q", "-u", "origin", "HEAD")
    shelf.oids["z.bin"] = shelf.write("z.bin", 5000, 9)
    shelf.git("add", "-A")
    shelf.git("commit", "-q", "-m", "Add z")
    away = shelf.share.rename(shelf.share.with_name("not mounted"))
    for name in [".", *left]:
        (shelf.share / name).mkdir()
    says = f"{shelf.share} is empty: mount the share; or, where it is to be a new store: mkdir -p "

    pushed = shelf.home.git("push", "origin", "HEAD", cwd=shelf.work, check=False)
    assert pushed.returncode != 0
    assert pushed.stderr.count(says) == 1
    for words in ASKING:
        done = shelf.home.run("lfs-agent", *words, cwd=shelf.work, check=False)
        assert done.returncode in (1, 3), words
        assert says in done.stdout + done.stderr, words
    pulled = shelf.home.git("clone", shelf.origin, tmp_path / "clone", check=False)
    assert says in pulled.stderr

    assert sorted(path.name for path in shelf.share.rglob("*")) == left
    shutil.rmtree(shelf.share)
    away.rename(shelf.share)
    shelf.git("push", "-q", "origin", "HEAD")
    assert shelf.home.run("lfs-agent", "verify", "--deep", cwd=shelf.work).returncode == 0


@pytest.mark.skipif(not shutil.which("setpriv"), reason="root may enter any folder, unless setpriv takes that right")
def test_a_share_in_a_folder_that_is_closed_is_told_once(shelf: Shelf) -> None:
    shelf.home.runs_as = POWERLESS
    closed = shelf.share.with_name("closed")
    closed.mkdir()
    shelf.share.rename(closed / "share")
    shelf.home.git("config", "lfs.url", f"dir::{closed}/share", cwd=shelf.work)
    closed.chmod(0)
    pushed = shelf.home.git("push", "origin", "HEAD", cwd=shelf.work, check=False)
    closed.chmod(0o755)

    assert pushed.returncode != 0
    assert pushed.stderr.count(f"the shared folder {closed}/share: Permission denied; its owner") == 1
    assert "please report it" not in pushed.stderr


def test_a_share_that_can_only_be_read_is_told_once(shelf: Shelf) -> None:
    with Disk(shelf.share, "1m") as disk:
        (disk.content / ".lfs-agent").mkdir()
        disk.remount("ro")
        pushed = disk.run(shelf.home, "git", "push", "origin", "HEAD", cwd=shelf.work, check=False)

    assert pushed.returncode != 0
    assert pushed.stderr.count(f"the shared folder {shelf.share} can only be read: Read-only file system") == 1


def test_a_full_share_says_how_to_make_room(shelf: Shelf) -> None:
    """By what a killed push has left: that goes, though not even a clock can be looked at there."""
    with Disk(shelf.share, "16m") as disk:
        left = disk.content / "lfs-agent-unfinished" / f"{'ab' * 32}-0123456789abcdef"
        left.parent.mkdir()
        left.write_bytes(bytes(14 * MIB))
        disk.fill()
        pushed = disk.run(shelf.home, "git", "push", "origin", "HEAD", cwd=shelf.work, check=False)
        assert pushed.returncode != 0
        assert f"the shared folder {shelf.share} is full: make room; " in pushed.stderr
        assert "lfs-agent uploads --abort --older-than 7d" in pushed.stderr

        words = ("lfs-agent", "uploads", "--abort", "--older-than", "0s")
        assert "1 aborted (14.0 MiB)" in disk.run(shelf.home, *words, cwd=shelf.work).stdout
        disk.run(shelf.home, "git", "push", "-q", "origin", "HEAD", cwd=shelf.work)


def make_folder(path: Path) -> None:
    path.mkdir(parents=True)


def make_pipe(path: Path) -> None:
    path.parent.mkdir(parents=True)
    os.mkfifo(path)


def make_link(path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.symlink_to("nowhere")


@pytest.mark.parametrize(
    "make, says",
    [
        (make_folder, "is a folder, and no file: look at it, and move it away"),
        (make_pipe, "is a pipe, and no file: look at it, and move it away"),
        (make_link, "is a link that leads nowhere: look at it, and move it away"),
    ],
)
def test_what_is_no_file_is_no_object(shelf: Shelf, tmp_path: Path, make: Callable[[Path], None], says: str) -> None:
    (probe := tmp_path / "probe").mkdir()  # as large as the folder that will be in the way
    for name, size in (("odd.bin", probe.stat().st_size or 1), ("odd large.bin", 6 * MIB)):
        shelf.oids[name] = shelf.write(name, size, 7)
        make(shelf.at(name))
    shelf.git("add", "-A")
    shelf.git("commit", "-q", "-m", "Add what is in the way")
    odd = {shelf.at(name) for name in ("odd.bin", "odd large.bin")}

    pushed = shelf.home.git("push", "origin", "HEAD", cwd=shelf.work, check=False)
    verified = shelf.home.run("lfs-agent", "verify", "--deep", cwd=shelf.work, check=False)
    shelf.git("push", "-q", "--no-verify", "origin", "HEAD")
    clone = tmp_path / "clone"
    shelf.home.git("clone", "-q", shelf.origin, clone, env={"GIT_LFS_SKIP_SMUDGE": "1"})
    pulled = shelf.home.run("git", "lfs", "pull", cwd=clone, check=False, timeout_s=60)

    assert (pushed.returncode != 0, verified.returncode, pulled.returncode != 0) == (True, 3, True)
    for path in odd:
        assert pushed.stderr.count(f"{path} {says}") == 1
        assert verified.stdout.count(f"{path} {says}") == 1
        assert pulled.stderr.count(f"{path} {says}") == 1
    assert len(shelf.stored()) == len(FILES)


@pytest.mark.skipif(not shutil.which("setpriv"), reason="root may write everything, unless setpriv takes that right")
@pytest.mark.parametrize(
    "harm, says",
    [("a file", "lfs-agent-unfinished: Not a directory"), ("somebody else's", "lfs-agent-unfinished/")],
)
def test_what_keeps_a_push_from_writing_is_named(shelf: Shelf, harm: str, says: str) -> None:
    shelf.home.runs_as = POWERLESS
    unfinished = shelf.share / "lfs-agent-unfinished"
    if harm == "a file":
        unfinished.touch()
    else:
        unfinished.mkdir(mode=0o555)
    pushed = shelf.home.git("push", "origin", "HEAD", cwd=shelf.work, check=False)

    told = [line for line in pushed.stderr.splitlines() if "error transferring" in line]
    assert len(told) == len(FILES)
    assert all(f"{shelf.share}/{says}" in line for line in told)


@pytest.mark.skipif(not shutil.which("setpriv"), reason="root may write everything, unless setpriv takes that right")
def test_a_lock_that_another_user_has_left_is_named(shelf: Shelf) -> None:
    shelf.git("push", "-q", "origin", "HEAD")
    path = "rack/1.0/head.bin"
    shelf.at(path).chmod(0o644)
    shelf.at(path).write_bytes(bytes(FILES[path]))
    lock = shelf.share / "lfs-agent-unfinished" / f"{shelf.oids[path]}-replacing"
    lock.touch(mode=0o444)
    shelf.home.runs_as = POWERLESS
    refused = shelf.home.run("lfs-agent", "repair", "--deep", cwd=shelf.work, check=False)

    assert refused.returncode == 3
    assert f"{lock}: Permission denied; another user's repair or gc is at work there, or was killed" in refused.stdout
    assert "lfs-agent uploads --abort --older-than 1h" in refused.stdout
    shelf.home.run("lfs-agent", "uploads", "--abort", "--older-than", "0s", cwd=shelf.work)
    assert shelf.home.run("lfs-agent", "repair", "--deep", cwd=shelf.work).returncode == 0
    assert sha256(shelf.at(path).read_bytes()).hexdigest() == shelf.oids[path]


def test_a_damaged_local_object_is_never_published(shelf: Shelf) -> None:
    oid = shelf.oids["rack/1.0/weights.bin"]
    local = shelf.work / ".git" / "lfs" / "objects" / oid[:2] / oid[2:4] / oid
    content = bytearray(local.read_bytes())
    content[7 * MIB] ^= 1
    local.chmod(0o644)
    local.write_bytes(content)
    pushed = shelf.home.git("push", "origin", "HEAD", cwd=shelf.work, check=False)

    assert pushed.returncode != 0
    assert oid in pushed.stderr
    assert not shelf.at("rack/1.0/weights.bin").exists()
    assert files_below(shelf.share / "lfs-agent-unfinished") == []


def test_a_kill_publishes_no_half_object(home: Home, tmp_path: Path) -> None:
    share = new_share(tmp_path / "share")
    work = new_repository(home, tmp_path / "work", f"dir::{share}")
    size = 256 * MIB
    digest = hashlib.sha256()
    for _ in range(256):
        digest.update(bytes(MIB))
    oid = digest.hexdigest()
    local = keep_local(work, oid, b"")
    with local.open("r+b") as file:
        file.truncate(size)  # holes: nothing but zeros, and no room taken
    with Agent(home, work) as agent:
        agent.init("upload")
        agent.upload(oid, local)
        deadline = time.monotonic() + 20
        while not (
            # The registration, which goes beside it, is done, and leaves nothing.
            any(path.stat().st_size for path in (work / ".git" / "lfs-agent" / "registered").glob("*"))
            and any(path.stat().st_size for path in share.glob(f"lfs-agent-unfinished/{oid}*"))
        ):
            assert time.monotonic() < deadline
        agent.process.send_signal(signal.SIGKILL)
        agent.process.wait()

    left = [name for name in files_below(share) if not is_ledger(name)]
    assert [name for name in left if not name.startswith("lfs-agent-unfinished/")] == []
    with Agent(home, work) as agent:
        agent.init("upload")
        agent.upload(oid, local)
        last = agent.until_complete()[-1]
    assert last == {"event": "complete", "oid": oid}
    stored = share / oid[:2] / oid[2:4] / oid
    assert stored.stat().st_size == size
    with stored.open("rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == oid

    assert len(files_below(share / "lfs-agent-unfinished")) == 1
    done = home.run("lfs-agent", "uploads", "--abort", "--older-than", "0s", cwd=work)
    assert re.match(rf"aborted\t{oid[:12]}\t.*\t1 part\t.*{re.escape(str(stored))}$", done.stdout.splitlines()[0])
    assert [name for name in files_below(share) if not is_ledger(name)] == [str(stored.relative_to(share))]
