"""`lfs-agent prune`: a local object goes only after its copy in the store was proven, now (V11)."""

import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.cellar import NOBODY_THERE, Cellar, findings, new_share, random_bytes, statuses
from tests.contract.stores import crc_of
from tests.e2e.conftest import with_ages
from tests.machine import Home
from tests.proxy import FaultProxy, Faults, Rule, Stall
from tests.servers import Server

MIB = 1 << 20
SIZE = 100_000
LARGE = 12 * MIB
FIELDS = {
    "status": str,
    "oid": str,
    "size": int,
    "path": str,
    "key": str,
    "address": str,
    "proof": str,
    "reason": str,
}

Done = subprocess.CompletedProcess[str]


def prune(cellar: Cellar, *arguments: str, env: dict[str, str] | None = None) -> Done:
    return cellar.home.run("lfs-agent", "prune", *arguments, cwd=cellar.work, env=env or {}, check=False)


def here(cellar: Cellar) -> set[str]:
    """The oids of all local objects."""
    return {path.name for path in (cellar.work / ".git" / "lfs" / "objects").glob("??/??/*")}


def pruned_lines(cellar: Cellar) -> list[str]:
    """The oids that the records say went."""
    return sorted(event["oid"] for event in cellar.recorded() if event["event"] == "pruned")


def versions(cellar: Cellar, *sizes: int, path: str = "model.pt") -> list[str]:
    """Pushes so many versions of a file; the oids, the last of which HEAD has."""
    cellar.home.environ["LFS_AGENT_PART_SIZE"] = "5MiB"
    oids = [cellar.add(path, size, seed=100 + n) for n, size in enumerate(sizes)]
    cellar.push()
    return oids


def put_in_parts(cellar: Cellar, oid: str, body: bytes) -> None:
    """As other programs store a large object: without any checksum of the whole."""
    client: Any = cellar.server.client()
    where = {"Bucket": cellar.bucket, "Key": cellar.key(oid)}
    upload_id = client.create_multipart_upload(**where)["UploadId"]
    parts = []
    for number, start in enumerate(range(0, len(body), 6 * MIB), 1):
        piece = body[start : start + 6 * MIB]
        answer = client.upload_part(**where, UploadId=upload_id, PartNumber=number, Body=piece)
        parts.append({"PartNumber": number, "ETag": answer["ETag"]})
    client.complete_multipart_upload(**where, UploadId=upload_id, MultipartUpload={"Parts": parts})


def test_what_the_store_proves_goes_and_comes_back_with_a_checkout(git_lfs: Path | None, cellar: Cellar) -> None:
    small, large, last = versions(cellar, SIZE, LARGE, SIZE + 1)

    for arguments in ([], ["--dry-run"]):
        shown = prune(cellar, *arguments)
        assert shown.returncode == 0
        assert shown.stdout.rstrip().endswith(
            ": 3 local objects, 1 kept by git-lfs's own rules; 2 proven, would go with --apply (12.1 MiB)"
        )
        assert here(cellar) == {small, large, last}
    assert pruned_lines(cellar) == []

    done = prune(cellar, "--apply", "--json")
    assert done.returncode == 0
    assert {oid: (each["status"], each["proof"]) for oid, each in findings(done).items()} == {
        small: ("pruned", "store"),
        large: ("pruned", "crc32c"),
    }
    assert {name: type(value) for name, value in findings(done)[small].items()} == FIELDS
    assert here(cellar) == {last}
    assert pruned_lines(cellar) == sorted((small, large))
    assert "prune against s3::" in cellar.home.run("lfs-agent", "log", cwd=cellar.work).stdout

    cellar.git("checkout", "-q", "HEAD~1")
    assert (cellar.work / "model.pt").read_bytes() == random_bytes(LARGE, 101)
    again = prune(cellar, "--apply")
    assert (again.returncode, pruned_lines(cellar)) == (0, sorted((small, large)))


def test_with_an_emptied_bucket_nothing_goes_and_git_lfs_would_delete_all(git_lfs: Path | None, cellar: Cellar) -> None:
    oids = versions(cellar, SIZE, LARGE, SIZE + 1)
    for oid in oids:
        cellar.server.client().delete_object(Bucket=cellar.bucket, Key=cellar.key(oid))

    done = prune(cellar, "--apply", "--deep")

    assert done.returncode == 1
    assert here(cellar) == set(oids)
    assert done.stdout.count("kept: ") == 2
    assert done.stdout.count("nobody has pushed it here, or it was deleted") == 2
    assert "2 kept because not proven (2 missing)" in done.stdout
    theirs = cellar.git("lfs", "prune", "--verify-remote")
    assert "2 verified with remote" in theirs.stdout
    assert here(cellar) == {oids[-1]}


@pytest.mark.parametrize("deep", [False, True])
def test_what_is_damaged_in_the_store_stays_here(cellar: Cellar, deep: bool) -> None:
    short, flipped, wrong, parts, last = versions(cellar, SIZE, SIZE + 1, SIZE + 2, LARGE, 1000)
    cellar.put(short, cellar.stored(short)[:-1])
    cellar.put(flipped, bytes(SIZE + 1))
    client, other = cellar.server.client(), bytes(SIZE + 2)
    client.put_object(Bucket=cellar.bucket, Key=cellar.key(wrong), Body=other, ChecksumAlgorithm="SHA256")
    client.delete_object(Bucket=cellar.bucket, Key=cellar.key(parts))
    client.put_object(
        Bucket=cellar.bucket, Key=cellar.key(parts), Body=bytes(LARGE), ChecksumCRC32C=crc_of(bytes(LARGE))
    )

    done = prune(cellar, "--apply", "--json", *(["--deep"] if deep else []))

    assert done.returncode == 1
    assert statuses(done) == {
        short: "damaged",
        flipped: "damaged" if deep else "unproven",
        wrong: "damaged",
        parts: "damaged",
    }
    assert ("its SHA-256 is " if deep else "its CRC-32C is ") in findings(done)[parts]["reason"]
    assert here(cellar) == {short, flipped, wrong, parts, last}
    assert pruned_lines(cellar) == []


def test_what_a_disk_has_damaged_since_it_was_stored_stays_here_when_it_was_read(cellar: Cellar) -> None:
    server = with_ages(cellar.server)
    whole, parts, last = versions(cellar, SIZE, LARGE, 1000)
    for oid in (whole, parts):
        file = server.object_file(cellar.bucket, cellar.key(oid))
        with file.open("r+b") as opened:
            opened.seek(SIZE // 2)
            flipped = bytes([opened.read(1)[0] ^ 1])
            opened.seek(SIZE // 2)
            opened.write(flipped)

    assert statuses(prune(cellar, "--json")) == {whole: "prunable", parts: "prunable"}
    done = prune(cellar, "--deep", "--apply", "--json")

    assert (done.returncode, statuses(done)) == (1, {whole: "damaged", parts: "damaged"})
    assert here(cellar) == {whole, parts, last}


def test_parts_without_a_checksum_go_only_when_they_were_read(server: Server, cellar: Cellar) -> None:
    parts, last = versions(cellar, LARGE, 1000)
    cellar.server.client().delete_object(Bucket=cellar.bucket, Key=cellar.key(parts))
    put_in_parts(cellar, parts, random_bytes(LARGE, 100))

    kept = prune(cellar, "--apply", "--json")
    assert (kept.returncode, statuses(kept)) == (3, {parts: "unproven"})
    assert "--deep reads it" in findings(kept)[parts]["reason"]
    assert here(cellar) == {parts, last}
    done = prune(cellar, "--apply", "--deep", "--json")
    assert (done.returncode, findings(done)[parts]["proof"]) == (0, "read")
    assert here(cellar) == {last}


def test_without_a_network_nothing_goes_and_the_cause_is_told_once(cellar: Cellar) -> None:
    oids = versions(cellar, *range(1000, 1010))

    done = prune(cellar, "--apply", "--deep", env=NOBODY_THERE)

    assert done.returncode == 3
    assert done.stdout.count("cannot be reached") == 1
    assert "9 kept because not proven (9 unknown)" in done.stdout
    assert here(cellar) == set(oids)


def test_git_lfs_rules_are_kept_and_what_was_never_pushed_stays(
    git_lfs: Path | None, cellar: Cellar, tmp_path: Path
) -> None:
    old, in_worktree, last = versions(cellar, SIZE, SIZE + 1, SIZE + 2)
    cellar.git("worktree", "add", "-q", str(tmp_path / "tree"), "HEAD~1")
    stashed = cellar.write("stashed.pt", SIZE, seed=7)
    cellar.git("add", "stashed.pt")
    cellar.git("stash", "-q")
    cellar.git("checkout", "-q", "-b", "topic")
    unpushed = [cellar.add("topic.pt", SIZE, seed=8 + n) for n in range(2)]
    amended = cellar.add("amended.pt", SIZE, seed=20)
    cellar.git("reset", "-q", "--hard", "HEAD~1")
    staged = cellar.write("staged.pt", SIZE, seed=21)
    cellar.git("add", "staged.pt")

    done = prune(cellar, "--apply", "--json")

    assert done.returncode == 1
    assert statuses(done)[old] == "pruned"
    assert statuses(done)[amended] == "missing"
    assert set(statuses(done)) <= {old, amended}
    assert here(cellar) == {in_worktree, last, stashed, *unpushed, amended, staged}


def test_a_local_copy_that_is_damaged_proves_nothing(cellar: Cellar) -> None:
    small, large, cut, last = versions(cellar, SIZE, LARGE, LARGE + 1, 1000)
    for oid, content in ((large, random_bytes(LARGE, 99)), (cut, b"cut"), (small, b"cut")):
        path = cellar.local_object(oid)
        path.chmod(0o644)
        path.write_bytes(content)

    done = prune(cellar, "--apply", "--json")

    assert done.returncode == 3
    assert statuses(done) == dict.fromkeys((small, large, cut), "unproven")
    assert all("it is damaged" in each["reason"] for each in findings(done).values())
    assert here(cellar) == {small, large, cut, last}


@pytest.mark.parametrize("how", [[], ["--deep"]], ids=["by checksum", "by a read"])
def test_a_local_copy_that_was_emptied_proves_nothing(cellar: Cellar, how: list[str]) -> None:
    emptied, last = versions(cellar, SIZE, 1000)
    path = cellar.local_object(emptied)
    path.chmod(0o644)
    path.write_bytes(b"")
    cellar.delete(emptied)

    done = prune(cellar, "--apply", "--json", *how)

    assert done.returncode == 3
    assert statuses(done) == {emptied: "unproven"}
    assert here(cellar) == {emptied, last}


def test_the_store_that_a_pull_would_ask_is_the_one_that_counts(cellar: Cellar) -> None:
    """What was pushed elsewhere can't be fetched from here."""
    elsewhere = f"{cellar.bucket}-e"[-60:]
    cellar.server.client().create_bucket(Bucket=elsewhere)
    cellar.git("config", "lfs.pushurl", f"s3::{elsewhere}/weights")
    oids = versions(cellar, SIZE, SIZE + 1)
    assert len(cellar.server.keys(elsewhere)) == 2

    done = prune(cellar, "--apply", "--json")

    assert (done.returncode, statuses(done)) == (1, {oids[0]: "missing"})
    assert here(cellar) == set(oids)


def test_a_kill_in_the_middle_deletes_nothing_unproven_and_nothing_without_a_line(cellar: Cellar) -> None:
    oids = [cellar.write(f"old/{n}.pt", 1000 + n, seed=n) for n in range(60)]
    cellar.commit("Add many")
    cellar.git("rm", "-q", "-r", "old")
    cellar.commit("Take them out again")
    cellar.push()
    gone = oids[10:50:5]
    for oid in gone:
        cellar.server.client().delete_object(Bucket=cellar.bucket, Key=cellar.key(oid))
    slow = Rule(Stall("answer-head", seconds=0.3), "HEAD")
    with FaultProxy(cellar.server.endpoint, Faults((slow,))) as proxy:
        process = subprocess.Popen(
            ["lfs-agent", "prune", "--apply"],
            cwd=cellar.work,
            env={**cellar.home.environ, "AWS_ENDPOINT_URL_S3": proxy.endpoint},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        while len(here(cellar)) > 45:
            assert process.poll() is None, process.communicate()
            time.sleep(0.005)
        process.kill()
        process.communicate()

    deleted = set(oids) - here(cellar)
    assert 0 < len(deleted) < 52
    assert not deleted & set(gone)
    assert deleted <= set(pruned_lines(cellar))
    assert all(cellar.stored(oid) for oid in deleted)
    done = prune(cellar, "--apply")
    assert done.returncode == 1
    assert here(cellar) == set(gone)


# Folders


@pytest.fixture
def share(home: Home, any_server: Server, bucket: str, tmp_path: Path) -> Cellar:
    """A cellar whose store is the folder `share`."""
    home.install()
    cellar = Cellar(home, any_server, bucket, "unused", tmp_path / "origin.git", tmp_path / "work")
    cellar.build()
    new_share(tmp_path / "share")
    cellar.git("config", "lfs.url", f"dir::{tmp_path / 'share'}")
    return cellar


def test_a_shared_folder_is_read(share: Cellar) -> None:
    old, last = versions(share, SIZE, SIZE + 1)
    assert statuses(prune(share, "--apply", "--json")) == {old: "unproven"}
    assert here(share) == {old, last}
    assert prune(share, "--apply", "--deep").returncode == 0
    assert here(share) == {last}


def test_a_store_that_is_the_lfs_storage_itself_loses_nothing(share: Cellar) -> None:
    oids = versions(share, SIZE, SIZE + 1)
    share.git("config", "lfs.url", f"dir::{share.work}/.git/lfs/objects")

    done = prune(share, "--apply", "--deep", "--json")

    assert (done.returncode, statuses(done)) == (3, {oids[0]: "unproven"})
    assert findings(done)[oids[0]]["reason"] == "the store's copy and the local one are one file"
    assert here(share) == set(oids)


# The command line


@pytest.mark.parametrize(
    "config, arguments, words",
    [
        ("lfs.storage=/nowhere", ["--apply"], "lfs.storage is set: "),
        ("", ["--apply", "--dry-run"], "not allowed with argument"),
        ("", ["--apply", "--remote", "upstream"], "there is no remote 'upstream' here"),
    ],
)
def test_a_command_line_that_makes_no_sense_deletes_nothing(
    cellar: Cellar, config: str, arguments: list[str], words: str
) -> None:
    oids = versions(cellar, SIZE, SIZE + 1)
    if config:
        cellar.git("config", *config.split("="))

    done = prune(cellar, *arguments)

    assert done.returncode == 2
    assert words in done.stderr
    assert here(cellar) == set(oids)


@pytest.mark.parametrize("folder", ["lfs", "lfs/objects"])
def test_a_storage_that_is_a_link_is_refused_as_one_that_is_set(cellar: Cellar, tmp_path: Path, folder: str) -> None:
    """What the clone to which it leads has staged or committed nobody sees here."""
    other = cellar.clone(tmp_path / "other")
    cellar.write("weights.pt", SIZE, 1)
    cellar.git("add", ".")
    there = cellar.work / ".git" / folder
    here = other / ".git" / folder
    shutil.rmtree(here, ignore_errors=True)
    here.parent.mkdir(exist_ok=True)
    here.symlink_to(there)

    done = cellar.home.run("lfs-agent", "prune", "--apply", cwd=other, check=False)

    assert done.returncode == 2
    assert f"leads to {cellar.work}/.git/lfs/objects, out of this repository" in done.stderr


def test_on_a_branch_without_a_commit_nothing_goes(cellar: Cellar) -> None:
    oid = cellar.add("model.pt", SIZE)
    cellar.push()
    cellar.git("checkout", "-q", "--orphan", "anew")

    done = prune(cellar)

    assert (done.returncode, done.stdout) == (2, "")
    told = "HEAD has no commit yet, and git lfs prune goes by it: git switch to a branch that has one\n"
    assert done.stderr == f"lfs-agent prune: {told}"
    assert cellar.local_object(oid).is_file()


def test_a_git_lfs_that_speaks_otherwise_is_not_believed(cellar: Cellar, tmp_path: Path) -> None:
    oids = versions(cellar, SIZE, SIZE + 1)
    real = shutil.which("git-lfs", path=cellar.home.environ["PATH"])
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "git-lfs").write_text(
        f'#!/bin/sh\nenv -u GIT_LFS_FORCE_PROGRESS "{real}" "$@"\necho 2 files would be pruned\n'
    )
    (tmp_path / "bin" / "git-lfs").chmod(0o755)

    done = prune(cellar, "--apply", env={"PATH": f"{tmp_path}/bin:{cellar.home.environ['PATH']}"})

    assert done.returncode == 2
    assert "speaks in another way" in done.stderr
    assert here(cellar) == set(oids)
