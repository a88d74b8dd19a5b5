"""Machines that lack something: a home, a folder for temporary files, descriptors, /proc, a locale, the right time."""

import os
import resource
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import pytest

from tests.cellar import Cellar, random_bytes
from tests.disk import Disk
from tests.e2e.dialogue import Agent, files_below, keep_local, kill_git, left_in_tmp, new_repository
from tests.machine import Home
from tests.proxy import FaultProxy, Faults, Rule, Throttle
from tests.servers import Server

MIB = 1 << 20
Poor = Callable[[Cellar, Path], Iterator[None]]


def without_a_home(cellar: Cellar, _: Path) -> Iterator[None]:
    environ = cellar.home.environ
    environ["GIT_CONFIG_GLOBAL"] = str(cellar.home.folder / ".gitconfig")
    for name in ("HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"):
        del environ[name]
    yield


def as_a_user_whom_nobody_knows(cellar: Cellar, folder: Path) -> Iterator[None]:
    """As a container's number may be: there is no home to be found anywhere."""
    stranger = ["unshare", "--user", "--map-user=54321", "--map-group=54321"]
    if not shutil.which("unshare") or subprocess.run([*stranger, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine lets nobody be another user (unshare --user --map-user)")
    cellar.home.runs_as = stranger
    yield from without_a_home(cellar, folder)


def with_a_home_of_nobody(cellar: Cellar, _: Path) -> Iterator[None]:
    cellar.home.environ["AWS_CONFIG_FILE"] = "~nobody-is-called-so/config"
    yield


def with_a_read_only_home(cellar: Cellar, folder: Path) -> Iterator[None]:
    with Disk(folder / "read-only", "1m") as disk:
        shutil.copy(cellar.home.folder / ".gitconfig", disk.content)
        disk.remount("ro")
        cellar.home.environ |= {"HOME": str(disk.at), "XDG_CONFIG_HOME": str(disk.at), "XDG_CACHE_HOME": str(disk.at)}
        cellar.home.runs_as = disk.inside()
        yield


def without_a_folder_for_temporary_files(cellar: Cellar, folder: Path) -> Iterator[None]:
    cellar.home.environ["TMPDIR"] = str(folder / "missing")
    yield


def without_proc(cellar: Cellar, _: Path) -> Iterator[None]:
    with Disk(Path("/proc"), "1m") as disk:
        cellar.home.runs_as = disk.inside()
        yield


def in_the_posix_locale(cellar: Cellar, _: Path) -> Iterator[None]:
    cellar.home.environ |= {"LC_ALL": "POSIX", "LANG": "C"}
    yield


def with_few_descriptors(cellar: Cellar, _: Path) -> Iterator[None]:
    """As few as git-lfs itself can do with."""
    cellar.home.runs_as = ["sh", "-c", 'ulimit -n 64 && exec "$@"', "sh"]
    yield


@pytest.mark.parametrize(
    "poor",
    [
        without_a_home,
        as_a_user_whom_nobody_knows,
        with_a_home_of_nobody,
        with_a_read_only_home,
        without_a_folder_for_temporary_files,
        without_proc,
        in_the_posix_locale,
        with_few_descriptors,
    ],
)
def test_a_poor_machine_pushes_and_pulls(cellar: Cellar, tmp_path: Path, poor: Poor) -> None:
    cellar.home.environ["LFS_AGENT_PART_SIZE"] = "5MiB"
    oids = [cellar.write("weights.bin", 22 * MIB, 1), cellar.write("naïve/モデル.bin", 30_000, 2)]
    cellar.commit("Fill the cellar")
    with contextmanager(poor)(cellar, tmp_path):
        cellar.push()
        clone = cellar.clone(tmp_path / "clone モデル")
        assert "2 present" in cellar.home.run("lfs-agent", "verify", cwd=clone).stdout
        assert "pull from s3::" in cellar.home.run("lfs-agent", "log", cwd=clone).stdout

    assert cellar.keys() == sorted(map(cellar.key, oids))
    for name in ("weights.bin", "naïve/モデル.bin"):
        assert (clone / name).read_bytes() == (cellar.work / name).read_bytes()
    assert left_in_tmp(clone / ".git" / "lfs") == files_below(clone / ".git" / "lfs" / "incomplete") == []


@pytest.mark.parametrize("operation", ["upload", "download"])
@pytest.mark.parametrize("good, limit", [(0, 8), (1, 3)], ids=["no git can be started", "no file can be opened"])
def test_without_descriptors_there_is_a_sentence(
    home: Home, any_server: Server, bucket: str, tmp_path: Path, operation: str, good: int, limit: int
) -> None:
    """After so many `good` objects no number from `limit` on is left."""
    home.environ |= any_server.environ()
    work = new_repository(home, tmp_path / "work", f"s3::{bucket}/cellar")
    message = ""
    with Agent(home, work) as agent:
        agent.init(operation)
        for number in range(good + 1):
            content = random_bytes(30_000, number)
            oid = sha256(content).hexdigest()
            if number == good:
                resource.prlimit(agent.process.pid, resource.RLIMIT_NOFILE, (limit, limit))
            if operation == "upload":
                agent.upload(oid, keep_local(work, oid, content))
            else:
                key = f"cellar/{oid[:2]}/{oid[2:4]}/{oid}"
                any_server.client().put_object(Bucket=bucket, Key=key, Body=content)
                agent.download(oid, len(content))
            error = agent.until_complete()[-1].get("error")
            assert (error is not None) == (number == good)
            message = error["message"] if error else ""
        agent.end()

    assert "Too many open files" in message
    assert "ulimit" in message
    assert "Traceback" not in agent.stderr
    assert files_below(work / ".git" / "lfs" / "incomplete") == []


def test_a_file_that_is_too_large_for_the_disk_stops_no_other(cellar: Cellar, tmp_path: Path) -> None:
    """As FAT takes no 4 GiB."""
    cellar.write("small.bin", 20_000, 1)
    cellar.write("large.bin", 2 * MIB, 2)
    cellar.commit("Fill the cellar")
    cellar.push()
    clone = cellar.clone(tmp_path / "clone", "--no-checkout")
    cellar.home.git("checkout", "-q", "main", cwd=clone, env={"GIT_LFS_SKIP_SMUDGE": "1"})

    pull = ("sh", "-c", "ulimit -f 2048 && git lfs pull")  # in 512 bytes
    done = cellar.home.run(*pull, cwd=clone, check=False)

    assert done.returncode != 0
    storage = clone / ".git" / "lfs"
    assert f"the file system of {storage} takes no file of {2 * MIB} bytes" in done.stderr
    assert (clone / "small.bin").read_bytes() == random_bytes(20_000, 1)
    assert files_below(storage / "incomplete") == []


def test_a_clock_that_was_set_back_costs_nothing(cellar: Cellar, any_server: Server) -> None:
    """What was kept comes from the future then."""
    cellar.home.environ |= {"LFS_AGENT_PART_SIZE": "5MiB", "LFS_AGENT_STREAMS": "1"}
    oid = cellar.add("weights.bin", 20 * MIB)
    state = cellar.work / ".git" / "lfs"
    with FaultProxy(any_server.endpoint, Faults((Rule(Throttle(up=8 * MIB)),))) as proxy:

        def parts(begun: int = 0) -> int:
            return sum(seen.method == "PUT" for seen in proxy.requests[begun:])

        # The third is on its way when two have been noted.
        kill_git(cellar.home, cellar.work, ["push", "origin", "HEAD"], proxy, lambda: parts() >= 3)
        (state / "lfs-agent" / "sessions").mkdir(exist_ok=True)
        for number in range(30):
            (state / "lfs-agent" / "sessions" / f"20400101T0000{number:02}Z-1.jsonl").touch()
        future = time.time() + 10 * 365 * 24 * 3600
        for path in state.rglob("*"):
            os.utime(path, (future, future))
        cellar.home.environ["AWS_ENDPOINT_URL_S3"] = proxy.endpoint
        begun = len(proxy.requests)
        cellar.push()
        assert parts(begun) == 2
    assert cellar.keys() == [cellar.key(oid)]
    assert files_below(state / "incomplete") == []
    assert cellar.home.run("lfs-agent", "log", cwd=cellar.work).returncode == 0


def killed_at(cellar: Cellar, folder: Path, words: str, said: int) -> dict[str, str]:
    """An environment in which a git with these words is killed for want of memory, when it has said so many bytes."""
    git, real = folder / "killed" / "git", shutil.which("git", path=cellar.home.environ["PATH"])
    git.parent.mkdir()
    git.write_text(
        f'#!/bin/sh\ncase "$*" in "{words}"*) {real} "$@" | {{ head -c {said}; kill -KILL $$; }} ;; esac\n'
        f'exec {real} "$@"\n'
    )
    git.chmod(0o755)
    return {"PATH": f"{git.parent}{os.pathsep}{cellar.home.environ['PATH']}"}


KILLED = "git was killed (signal 9): is there too little memory? Try again"


@pytest.mark.parametrize(
    "words, said",
    [
        ("rev-list", 0),
        ("rev-parse --verify", 0),
        ("diff-tree", 0),
        ("cat-file --batch-check", 0),
        ("cat-file --batch=", 0),
        ("cat-file --batch=", len("blob 130\n")),
        ("cat-file --batch=", 100),
        ("config --blob", 0),
    ],
)
def test_what_a_killed_git_has_said_is_not_taken_for_all(cellar: Cellar, tmp_path: Path, words: str, said: int) -> None:
    """Half a pointer is none, and a commit without a word is as one that nobody knows."""
    oid = cellar.add("weights.bin", 1000)
    cellar.push()
    cellar.delete(oid)
    verify = ("lfs-agent", "verify", "HEAD")
    done = cellar.home.run(*verify, cwd=cellar.work, env=killed_at(cellar, tmp_path, words, said), check=False)

    assert (done.returncode, done.stderr) == (3, f"lfs-agent verify: {KILLED}\n")


def test_half_of_the_last_pointer_is_not_taken_for_none(cellar: Cellar, tmp_path: Path) -> None:
    """Nothing is asked of git after it."""
    oid = cellar.add("weights.bin", 1000)
    cellar.push()
    cellar.delete(oid)
    env = killed_at(cellar, tmp_path, "cat-file --batch=", 100)
    for command in (["verify", "HEAD~1..HEAD"], ["push-missing", "HEAD~1..HEAD"], ["repair", "HEAD~1..HEAD"]):
        done = cellar.home.run("lfs-agent", *command, cwd=cellar.work, env=env, check=False)
        assert (done.returncode, done.stderr) == (3, f"lfs-agent {command[0]}: {KILLED}\n")


def test_a_killed_git_tells_no_secret(cellar: Cellar, tmp_path: Path) -> None:
    """Its configuration may hold a login, as that of a checkout in CI does."""
    cellar.git("config", "http.https://github.com/.extraheader", "AUTHORIZATION: basic dmVyYTpzZWNyZXQ=")
    env = killed_at(cellar, tmp_path, "config --list -z --show-origin", 10_000)

    done = cellar.home.run("lfs-agent", "verify", cwd=cellar.work, env=env, check=False)

    assert (done.returncode, done.stdout, done.stderr) == (3, "", f"lfs-agent verify: {KILLED}\n")
