"""Where a repository is and what it is: odd names, work trees, submodules, mirrors, a storage that two clones share."""

import os
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import pytest

from tests.cellar import Cellar
from tests.e2e.dialogue import files_below, left_in_tmp
from tests.machine import Home
from tests.servers import Server

MIB = 1 << 20
LATIN_1 = os.fsdecode(b"caf\xe9")
ODD = '-v モデル it\'s "here" $HOME `id` %s a\\b'


def place(oid: str) -> str:
    """Where an object is in the LFS storage."""
    return f"objects/{oid[:2]}/{oid[2:4]}/{oid}"


@pytest.mark.parametrize(
    "git_lfs, name",
    [("system", LATIN_1), ("newest", LATIN_1), ("system", ODD)],
    ids=["latin-1, system", "latin-1, newest", "odd"],
    indirect=["git_lfs"],
)
def test_a_repository_may_be_anywhere(git_lfs: Path | None, cellar: Cellar, tmp_path: Path, name: str) -> None:
    cellar.home.environ["LFS_AGENT_PART_SIZE"] = "5MiB"
    work = cellar.clone(tmp_path / "one" / name)
    odd = Cellar(cellar.home, cellar.server, cellar.bucket, cellar.prefix, cellar.origin, work)
    oids = [odd.write("weights.bin", 12 * MIB, 1), odd.write("head.bin", 30_000, 2)]
    odd.commit("Add")
    odd.push()
    clone = cellar.clone(tmp_path / "two" / name)

    assert cellar.keys() == sorted(map(cellar.key, oids))
    for file in ("weights.bin", "head.bin"):
        assert (clone / file).read_bytes() == (work / file).read_bytes()
    for where in (work, clone):
        storage = where / ".git" / "lfs"
        assert files_below(storage / "objects") == sorted(place(oid).removeprefix("objects/") for oid in oids)
        assert left_in_tmp(storage) == files_below(storage / "incomplete") == []
        home = cellar.home
        assert "2 present" in home.run("lfs-agent", "verify", cwd=where).stdout
        assert "2 objects" in home.run("lfs-agent", "log", cwd=where).stdout
        assert cellar.bucket in home.run("lfs-agent", "config", "--show-origin", cwd=where).stdout
        assert "0 unfinished uploads" in home.run("lfs-agent", "uploads", cwd=where).stdout


def test_a_storage_that_git_lfs_cannot_spell_is_read_from_and_not_written_to(cellar: Cellar, tmp_path: Path) -> None:
    """It knows only UTF-8, and takes no other path from us."""
    storage = tmp_path / LATIN_1
    oid = cellar.write("weights.bin", 30_000)
    cellar.git("config", "lfs.storage", storage)
    cellar.commit("Add")
    cellar.push()
    assert files_below(storage / "objects") == [place(oid).removeprefix("objects/")]
    assert cellar.keys() == [cellar.key(oid)]

    skipping = {"GIT_LFS_SKIP_SMUDGE": "1"}
    cellar.home.git("clone", "-q", "-c", f"lfs.storage={storage}2", cellar.origin, tmp_path / "clone", env=skipping)
    pulled = cellar.home.git("lfs", "pull", cwd=tmp_path / "clone", check=False)
    assert pulled.returncode != 0
    assert "which is not UTF-8: let lfs.storage name another folder" in pulled.stderr
    assert "Traceback" not in pulled.stderr


# Work trees, submodules, mirrors


def test_each_work_tree_and_submodule_pushes_and_pulls(cellar: Cellar, any_server: Server, tmp_path: Path) -> None:
    """All work trees of a clone have one storage; a submodule has its own, in the .git folder of the outer one."""
    home = cellar.home
    home.git("worktree", "add", "-q", tmp_path / "tree", "-b", "tune", cwd=cellar.work)
    tree = Cellar(home, any_server, cellar.bucket, cellar.prefix, cellar.origin, tmp_path / "tree")
    tuned = tree.add("tuned.bin", 30_000, seed=1)
    tree.push("-q", "origin", "tune")
    assert cellar.keys() == [cellar.key(tuned)]
    assert cellar.local_object(tuned).exists()
    assert "sent\t1 object" in home.run("lfs-agent", "log", cwd=cellar.work).stdout

    home.git("init", "-q", "--bare", tmp_path / "outer.git")
    home.git("clone", "-q", tmp_path / "outer.git", tmp_path / "outer")
    outer = tmp_path / "outer"
    home.git("submodule", "--quiet", "add", "-b", "tune", cellar.origin, "models", cwd=outer)
    assert sha256((outer / "models" / "tuned.bin").read_bytes()).hexdigest() == tuned
    inner = Cellar(home, any_server, cellar.bucket, cellar.prefix, cellar.origin, outer / "models")
    head = inner.add("head.bin", 20_000, seed=2)
    inner.push("-q", "origin", "tune")
    home.git("add", "-A", cwd=outer)
    home.git("commit", "-q", "-m", "Add the models", cwd=outer)
    home.git("push", "-q", "origin", "HEAD", cwd=outer)
    assert cellar.keys() == sorted(map(cellar.key, (tuned, head)))
    assert sorted(files_below(outer / ".git" / "modules" / "models" / "lfs" / "objects")) == sorted(
        place(oid).removeprefix("objects/") for oid in (tuned, head)
    )

    home.git("clone", "-q", "--recurse-submodules", tmp_path / "outer.git", tmp_path / "again")
    assert sha256((tmp_path / "again" / "models" / "head.bin").read_bytes()).hexdigest() == head
    assert "2 present" in home.run("lfs-agent", "verify", cwd=tmp_path / "again" / "models").stdout


def test_objects_are_sent_where_git_lfs_would_send_them(git_lfs: Path | None, cellar: Cellar) -> None:
    """pushInsteadOf is for what is sent alone, and before insteadOf."""
    cellar.git("config", f"url.s3::{cellar.bucket}/staging.pushInsteadOf", cellar.url)
    cellar.git("config", f"url.s3::{cellar.bucket}/near.insteadOf", cellar.url)
    oid = cellar.add("model.bin", 1000)
    cellar.push()

    assert cellar.server.keys(cellar.bucket, "") == [f"staging/{oid[:2]}/{oid[2:4]}/{oid}"]
    sent = cellar.home.run("lfs-agent", "push-missing", cwd=cellar.work)
    assert f"HEAD at s3::{cellar.bucket}/staging: 1 object, 1 present" in sent.stdout
    asked = cellar.home.run("lfs-agent", "verify", cwd=cellar.work, check=False)
    assert f"HEAD at s3::{cellar.bucket}/near: 1 object, 1000 bytes: 0 present" in asked.stdout

    cellar.git("config", "url.http://127.0.0.1:9/.pushInsteadOf", f"{cellar.url[:-1]}")  # git-lfs's own word for it
    cellar.git("config", "--unset", f"url.s3::{cellar.bucket}/staging.pushInsteadOf")
    cellar.add("other.bin", 1001)
    assert "http://127.0.0.1:9/" in cellar.push(check=False).stderr


def test_a_bare_mirror_sends_all_versions_of_all_branches(cellar: Cellar, any_server: Server, tmp_path: Path) -> None:
    oids = [cellar.add("weights.bin", 20_000 + number, number) for number in range(3)]
    cellar.git("checkout", "-q", "-b", "tune", "HEAD~1")
    oids.append(cellar.add("weights.bin", 30_000, 9))
    cellar.push("--all", "origin")
    mirror = cellar.clone(tmp_path / "mirror.git", "--mirror")
    cellar.home.git("lfs", "fetch", "--all", "origin", cwd=mirror)
    assert files_below(mirror / "lfs" / "objects") == sorted(place(oid).removeprefix("objects/") for oid in oids)

    client = any_server.client()
    for oid in oids:
        client.delete_object(Bucket=cellar.bucket, Key=cellar.key(oid))
    cellar.home.git("lfs", "push", "--all", "origin", cwd=mirror)
    assert cellar.keys() == sorted(map(cellar.key, oids))
    assert left_in_tmp(mirror / "lfs") == files_below(mirror / "lfs" / "incomplete") == []


# A storage that two clones share


def test_two_clones_with_one_storage_push_and_pull_at_the_same_time(
    git_lfs: Path | None, cellar: Cellar, any_server: Server, tmp_path: Path
) -> None:
    cellar.home.environ["LFS_AGENT_PART_SIZE"] = "5MiB"
    home, storage = cellar.home, tmp_path / "storage"
    cellar.git("config", "lfs.storage", storage)
    oids = [cellar.write("weights.bin", 12 * MIB, 1), *(cellar.write(f"{n}.bin", 50_000 + n, n) for n in range(2, 6))]
    cellar.commit("Fill the cellar")
    twin = tmp_path / "twin"
    home.git("clone", "-q", "-c", f"lfs.storage={storage}", cellar.work, twin)
    home.git("remote", "set-url", "origin", cellar.origin, cwd=twin)
    both(home, ["push", "-q", "origin", "HEAD:main"], cellar.work, ["push", "-q", "origin", "HEAD:twin"], twin)

    assert cellar.keys() == sorted(map(cellar.key, oids))
    assert any_server.client().list_multipart_uploads(Bucket=cellar.bucket).get("Uploads", []) == []
    assert files_below(storage / "incomplete") == []

    empty, clones = tmp_path / "empty", [tmp_path / "first", tmp_path / "second"]
    for clone in clones:
        skipping = {"GIT_LFS_SKIP_SMUDGE": "1"}
        home.git("clone", "-q", "-c", f"lfs.storage={empty}", cellar.origin, clone, env=skipping)
    both(home, ["lfs", "pull"], clones[0], ["lfs", "pull"], clones[1])

    assert files_below(empty / "objects") == sorted(place(oid).removeprefix("objects/") for oid in oids)
    assert [name for name in files_below(empty / "tmp") if "lfs-agent" in name] == []  # git-lfs leaves some of its own
    assert files_below(empty / "incomplete") == []
    for clone in clones:
        for name in ("weights.bin", "2.bin", "5.bin"):
            assert (clone / name).read_bytes() == (cellar.work / name).read_bytes()


def both(home: Home, first: list[str], here: Path, second: list[str], there: Path) -> None:
    """Runs two git commands at the same time."""
    with ThreadPoolExecutor(2) as pool:
        running = [pool.submit(home.git, *words, cwd=work) for words, work in ((first, here), (second, there))]
        for done in running:
            done.result()
