"""A cellar in daily work: branches, merges, reverts and tags send nothing twice; a part is fetched as a part."""

import os
from hashlib import sha256
from pathlib import Path

import pytest

from tests.cellar import Cellar
from tests.e2e.dialogue import files_below
from tests.machine import Home
from tests.servers import Request, Server


def asked(server: Server, cellar: Cellar, mark: int) -> list[Request]:
    """The requests about the cellar's bucket."""
    return [request for request in server.requests(mark) if request.bucket == cellar.bucket]


def sent(server: Server, cellar: Cellar, mark: int) -> list[str]:
    """The keys that somebody wrote, in order: a small object may be refused, since nobody asked before."""
    wrote = (request for request in asked(server, cellar, mark) if request.method in ("PUT", "POST"))
    return sorted(request.key for request in wrote if request.status < 300)


@pytest.fixture
def otto(second_home: Home, any_server: Server) -> Home:
    """A colleague."""
    second_home.environ.update(any_server.environ())
    second_home.install()
    return second_home


def test_a_pull_request_from_branch_to_revert_sends_each_object_once(
    cellar: Cellar, any_server: Server, otto: Home, tmp_path: Path
) -> None:
    base = cellar.add("vit-l/base/1.0/weights.bin", 40_000, seed=1)
    start = any_server.mark()
    cellar.push()
    assert sent(any_server, cellar, start) == [cellar.key(base)]

    work = cellar.clone(tmp_path / "tree", home=otto)
    colleague = Cellar(otto, any_server, cellar.bucket, cellar.prefix, cellar.origin, work)
    colleague.git("checkout", "-q", "-b", "tune")
    head = colleague.write("vit-l/tuned/1.0/head.bin", 30_000, seed=2)
    tuned = colleague.write("vit-l/base/1.0/weights.bin", 40_000, seed=3)
    colleague.commit("Tune")
    mark = any_server.mark()
    colleague.push("-u", "origin", "tune")
    assert sent(any_server, cellar, mark) == sorted(map(cellar.key, (head, tuned)))

    mark = any_server.mark()
    cellar.git("fetch", "-q", "origin")
    cellar.git("merge", "-q", "--no-ff", "-m", "Merge the pull request", "origin/tune")
    cellar.push()
    cellar.git("tag", "-a", "v1.0", "-m", "First release")
    cellar.push("origin", "v1.0")
    cellar.git("revert", "--no-edit", "-m", "1", "HEAD")
    cellar.push()
    cellar.git("revert", "--no-edit", "HEAD")
    cellar.push()
    cellar.git("checkout", "-q", "-b", "squashed", "v1.0~1")
    cellar.git("merge", "-q", "--squash", "origin/tune")
    cellar.git("commit", "-q", "-m", "Squash")
    cellar.push("origin", "squashed")
    cellar.push("--force", "origin", "squashed:main")
    cellar.push("origin", "--delete", "tune")
    cellar.push("--force", "--all", "origin")
    assert sent(any_server, cellar, mark) == []

    mark = any_server.mark()
    colleague.git("fetch", "-q", "origin")
    colleague.git("checkout", "-q", "-B", "main", "origin/main")
    assert sent(any_server, cellar, mark) == []
    for where in (cellar.work, work):
        assert sha256((where / "vit-l/base/1.0/weights.bin").read_bytes()).hexdigest() == tuned
        assert sha256((where / "vit-l/tuned/1.0/head.bin").read_bytes()).hexdigest() == head
    assert cellar.keys() == sorted(map(cellar.key, (base, head, tuned)))


def test_the_same_weights_from_two_people_are_stored_once(
    cellar: Cellar, any_server: Server, otto: Home, tmp_path: Path
) -> None:
    cellar.push("origin", "main")
    work = cellar.clone(tmp_path / "tree", home=otto)
    colleague = Cellar(otto, any_server, cellar.bucket, cellar.prefix, cellar.origin, work)
    oid = cellar.add("one.bin", 40_000, seed=1)
    cellar.push()
    colleague.git("checkout", "-q", "-b", "other")
    assert colleague.add("two.bin", 40_000, seed=1) == oid
    mark = any_server.mark()
    colleague.push("origin", "other")

    assert [request for request in asked(any_server, cellar, mark) if request.method == "PUT"] == []
    assert cellar.keys() == [cellar.key(oid)]


def test_checking_out_an_old_version_fetches_that_version_only(
    cellar: Cellar, any_server: Server, otto: Home, tmp_path: Path
) -> None:
    old = cellar.add("weights.bin", 40_000, seed=1)
    cellar.git("tag", "v1")
    new = cellar.add("weights.bin", 40_000, seed=2)
    cellar.push("origin", "main", "v1")
    mark = any_server.mark()
    work = cellar.clone(tmp_path / "tree", home=otto)
    assert {request.key for request in asked(any_server, cellar, mark)} == {cellar.key(new)}
    mark = any_server.mark()
    otto.git("checkout", "-q", "v1", cwd=work)
    assert {request.key for request in asked(any_server, cellar, mark)} == {cellar.key(old)}
    mark = any_server.mark()
    otto.git("checkout", "-q", "main", cwd=work)
    otto.git("checkout", "-q", "v1", cwd=work)
    assert asked(any_server, cellar, mark) == []
    assert sha256((work / "weights.bin").read_bytes()).hexdigest() == old


@pytest.mark.parametrize(
    "command",
    [
        ["lfs", "pull", "--include", "vit-l/0.2"],
        ["lfs", "pull", "-I", "vit-l/0.2", "-X", ""],
        ["-c", "lfs.fetchinclude=vit-l/0.2", "lfs", "pull"],
    ],
    ids=["--include", "-I", "fetchinclude"],
)
def test_one_bin_is_fetched_by_touching_its_keys_only(
    cellar: Cellar, any_server: Server, otto: Home, tmp_path: Path, command: list[str]
) -> None:
    names = [
        f"{rack}/{version}/{part}.bin" for rack in ("vit-l", "vit-s") for version in ("0.1", "0.2") for part in "ab"
    ]
    oids = {name: cellar.write(name, 20_000 + number, number) for number, name in enumerate(names)}
    cellar.commit("Fill the racks")
    cellar.push()
    wanted = {name: oid for name, oid in oids.items() if name.startswith("vit-l/0.2/")}
    work = tmp_path / "tree"
    otto.git("clone", "-q", cellar.origin, work, env={"GIT_LFS_SKIP_SMUDGE": "1"})
    mark = any_server.mark()
    otto.git(*command, cwd=work)

    assert len(wanted) == 2
    assert {request.key for request in asked(any_server, cellar, mark)} == set(map(cellar.key, wanted.values()))
    for name, oid in oids.items():
        is_there = sha256((work / name).read_bytes()).hexdigest() == oid
        assert is_there == (name in wanted)


def test_a_push_without_weights_asks_the_store_nothing(cellar: Cellar, any_server: Server) -> None:
    (cellar.work / "README.md").write_text("A cellar.\n")
    cellar.commit("Say what this is")
    mark = any_server.mark()
    cellar.push()

    assert asked(any_server, cellar, mark) == []


def test_an_interrupted_push_is_finished_by_the_next(cellar: Cellar, any_server: Server) -> None:
    oids = [cellar.write(f"{number}.bin", 20_000 + number, number) for number in range(6)]
    cellar.commit("Fill the cellar")
    client = any_server.client()
    client.put_object(Bucket=cellar.bucket, Key=cellar.key(oids[0]), Body=cellar.local_object(oids[0]).read_bytes())
    mark = any_server.mark()
    cellar.push()

    assert sent(any_server, cellar, mark) == sorted(map(cellar.key, oids[1:]))
    assert cellar.keys() == sorted(map(cellar.key, oids))


def test_paths_that_are_not_utf_8_do(cellar: Cellar, any_server: Server, tmp_path: Path) -> None:
    """git-lfs cannot spell the path of the local object then."""
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    cellar.home.git("clone", "-q", cellar.origin, folder)
    odd = Cellar(cellar.home, any_server, cellar.bucket, cellar.prefix, cellar.origin, folder)
    oid = odd.add("weights.bin", 40_000)
    odd.push()

    assert cellar.keys() == [cellar.key(oid)]
    assert files_below(folder / ".git" / "lfs" / "objects") == [f"{oid[:2]}/{oid[2:4]}/{oid}"]
