"""`lfs-agent verify` over real repositories and a real store."""

import json
import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.cellar import Cellar, findings, new_share, random_bytes, statuses
from tests.conftest import absent
from tests.e2e.conftest import HomeOf
from tests.machine import Home
from tests.proxy import Answer, FaultProxy, Faults, Rule
from tests.proxy.dead import BlackHole
from tests.servers import Server
from tests.servers.server import cache

SIZE = 100_000
SCHEMA = {
    "status": str,
    "oid": str,
    "size": int,
    "paths": list,
    "key": str,
    "address": str,
    "proof": str,
    "proven": bool,
    "depth": str,
    "as_of": type(None),
    "reason": str,
}


def verify(home: Home, work: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return home.run("lfs-agent", "verify", *arguments, cwd=work, check=False)


@pytest.fixture
def clone(cellar: Cellar, home_of: HomeOf, tmp_path: Path) -> Callable[[], tuple[Home, Path]]:
    """Another user's clone, without any LFS objects, and without an agent installed: verify needs neither."""

    def clone() -> tuple[Home, Path]:
        home = home_of("reader")
        home.environ.update(cellar.server.environ())
        home.environ["GIT_LFS_SKIP_SMUDGE"] = "1"
        work = cellar.clone(tmp_path / "clone", home=home)
        assert not any((work / ".git" / "lfs" / "objects").glob("*"))
        return home, work

    return clone


Clone = Callable[[], tuple[Home, Path]]


def test_a_good_repository_is_all_present(cellar: Cellar, clone: Clone) -> None:
    oids = {cellar.add(f"vit-l/0.{n}/model.pt", SIZE, seed=n) for n in range(3)}
    cellar.push()
    home, work = clone()
    before = cellar.server.mark()
    done = verify(home, work, "--json")
    assert done.returncode == 0, done
    assert {oid: finding["status"] for oid, finding in findings(done).items()} == dict.fromkeys(oids, "present")
    requests = cellar.server.requests(before)
    assert [request.operation for request in requests] == ["HeadObject"] * 3
    done = verify(home, work, "--deep")
    assert done.returncode == 0
    assert done.stdout == f"HEAD at {cellar.url}: 3 objects, 293.0 KiB: 3 present (3 proven)\n"


def test_deletion_truncation_and_a_flipped_byte_are_told_apart(cellar: Cellar, clone: Clone) -> None:
    good, gone, cut, flipped = (cellar.add(f"model-{n}.pt", SIZE, seed=n) for n in range(4))
    cellar.push()
    s3 = cellar.server.client()
    content = cellar.local_object(cut).read_bytes()
    s3.delete_object(Bucket=cellar.bucket, Key=cellar.key(gone))
    s3.put_object(Bucket=cellar.bucket, Key=cellar.key(cut), Body=content[:-1])
    content = cellar.local_object(flipped).read_bytes()
    s3.put_object(Bucket=cellar.bucket, Key=cellar.key(flipped), Body=content[:-1] + bytes([content[-1] ^ 1]))
    home, work = clone()

    done = verify(home, work, "--deep", "--json")
    assert done.returncode == 1
    found = findings(done)
    assert {oid: finding["status"] for oid, finding in found.items()} == {
        good: "present",
        gone: "missing",
        cut: "damaged",
        flipped: "damaged",
    }
    assert found[good]["proven"]
    assert found[cut]["reason"] == "it has 99999 bytes, not 100000"
    assert found[flipped]["reason"].startswith("its SHA-256 is ")
    assert found[gone]["paths"] == ["model-1.pt"]
    for finding in found.values():
        assert {name: type(value) for name, value in finding.items()} == SCHEMA
        assert finding["address"] == f"s3://{cellar.bucket}/{finding['key']}"
    assert "4 objects" in done.stderr
    assert "1 present (1 proven), 1 missing, 2 damaged" in done.stderr

    done = verify(home, work, "--deep")
    *lines, totals = done.stdout.splitlines()
    assert len(lines) == 3
    assert f"missing\t{gone[:12]}\t97.7 KiB\tmodel-1.pt\ts3://{cellar.bucket}/{cellar.key(gone)}: " in done.stdout
    assert "1 missing, 2 damaged" in totals
    assert not done.stderr


def test_a_range_fails_before_its_objects_are_pushed_and_passes_after(cellar: Cellar, clone: Clone) -> None:
    cellar.add("model.pt", SIZE, seed=1)
    cellar.push()
    cellar.git("switch", "-q", "-c", "topic")
    between = cellar.add("model.pt", SIZE, seed=2)
    last = cellar.add("model.pt", SIZE, seed=3)
    cellar.push("--no-verify", "origin", "topic")
    home, work = clone()

    done = verify(home, work, "--json", "origin/main..origin/topic")
    assert done.returncode == 1
    assert {oid: finding["status"] for oid, finding in findings(done).items()} == {between: "missing", last: "missing"}

    cellar.git("lfs", "push", "--all", "origin", "topic")
    cellar.server.client().delete_object(Bucket=cellar.bucket, Key=cellar.key(between))
    assert verify(home, work, "origin/topic").returncode == 0
    assert verify(home, work, "origin/main..origin/topic").returncode == 1

    cellar.git("lfs", "push", "--object-id", "origin", between)
    assert verify(home, work, "origin/main..origin/topic").returncode == 0


def test_what_a_merge_brings_is_in_the_range(cellar: Cellar) -> None:
    cellar.add("model.pt", SIZE, seed=1)
    cellar.push()
    cellar.git("switch", "-q", "-c", "side")
    dropped = cellar.add("model.pt", SIZE, seed=2)
    cellar.git("switch", "-q", "-c", "topic", "main")
    cellar.add("other.pt", SIZE, seed=3)
    cellar.git("merge", "-q", "-s", "ours", "--no-edit", "side")
    mixed = cellar.write("model.pt", SIZE, seed=4)  # in the merge commit itself, on neither side
    cellar.git("add", "-A")
    cellar.git("commit", "-q", "--amend", "--no-edit")
    for limits in ((), ("--", "model.pt")):
        found = findings(verify(cellar.home, cellar.work, "--json", "origin/main..topic", *limits))
        assert {oid: found[oid]["status"] for oid in (dropped, mixed)} == {dropped: "missing", mixed: "missing"}
        assert len(found) == 3 - bool(limits)


def test_paths_limit_what_is_asked(cellar: Cellar) -> None:
    wanted = cellar.add("vit-l/0.2/model.pt", SIZE, seed=1)
    cellar.add("vit-l/0.3/model.pt", SIZE, seed=2)
    cellar.add("vit-s/0.2/model.pt", SIZE, seed=3)
    cellar.push()
    before = cellar.server.mark()
    for work, path in ((cellar.work, "vit-l/0.2"), (cellar.work / "vit-l", "0.2"), (cellar.work, "vit-l/*2/*.pt")):
        found = findings(verify(cellar.home, work, "--json", "--", path))
        assert {oid: finding["paths"] for oid, finding in found.items()} == {wanted: ["vit-l/0.2/model.pt"]}
    assert {request.key for request in cellar.server.requests(before)} == {cellar.key(wanted)}
    done = verify(cellar.home, cellar.work, "--", "vit-l/0.4")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "lfs-agent verify: no file in HEAD matches vit-l/0.4\n"


@pytest.mark.parametrize("commit", [":/Add", "HEAD^{/Add}", "@{0}"])
def test_a_commit_is_what_git_calls_it(cellar: Cellar, commit: str) -> None:
    oid = cellar.add("vit-l/model.pt", SIZE)
    cellar.push()
    assert statuses(verify(cellar.home, cellar.work, "--json", commit)) == {oid: "present"}
    assert statuses(verify(cellar.home, cellar.work, "--json", "HEAD:vit-l")) == {oid: "present"}

    cellar.git("config", "--file", ".lfsconfig", "lfs.skipdownloaderrors", "true")
    cellar.commit("Add what hides failures")
    done = verify(cellar.home, cellar.work, commit)
    assert (done.returncode, ".lfsconfig" in done.stdout) == (1, True)


def test_an_object_is_asked_for_once_whatever_its_paths(cellar: Cellar) -> None:
    oid = cellar.write("a.pt", SIZE)
    cellar.write("b/ç d.pt", SIZE)
    cellar.commit("Twice")
    cellar.push()
    before = cellar.server.mark()
    found = findings(verify(cellar.home, cellar.work, "--json", "HEAD", "main"))
    assert found[oid]["paths"] == ["a.pt", "b/ç d.pt"]
    assert len(cellar.server.requests(before)) == 1


def test_a_bare_repository_can_be_verified(cellar: Cellar) -> None:
    cellar.add("model.pt", SIZE)
    cellar.push()
    done = verify(cellar.home, cellar.origin, "main")
    assert done.returncode == 0, done
    assert "1 object, 97.7 KiB: 1 present" in done.stdout


def test_inside_of_the_git_folder_it_is_as_in_the_work_tree(cellar: Cellar) -> None:
    oid = cellar.add("model.pt", SIZE)
    cellar.push()
    for folder in (".git", ".git/refs"):
        done = verify(cellar.home, cellar.work / folder, "--json")
        assert (done.returncode, statuses(done)) == (0, {oid: "present"}), done


@pytest.mark.parametrize("which", ["--all", "HEAD~1..HEAD", "HEAD"])
@pytest.mark.parametrize("limits", [("a/x.bin", "b/y.bin"), (".", ":!a/y.bin"), ("c",)])
def test_limits_hold_for_each_place_of_a_folder(cellar: Cellar, which: str, limits: tuple[str, ...]) -> None:
    """git walks into one tree that lies at several places once, with the limits of the first."""
    oids = [cellar.write(f"{folder}/{n}.bin", SIZE, n) for folder in "abc" for n in (1, 2)][:2]
    for folder in "abc":
        (cellar.work / folder / "1.bin").rename(cellar.work / folder / "x.bin")
        (cellar.work / folder / "2.bin").rename(cellar.work / folder / "y.bin")
    cellar.commit("Fill three racks alike")
    cellar.push()
    cellar.delete(oids[1])

    done = verify(cellar.home, cellar.work, "--json", which, "--", *limits)

    assert statuses(done) == {oids[0]: "present", oids[1]: "missing"}
    assert done.returncode == 1


def test_a_repository_without_pointers_has_nothing_to_verify(cellar: Cellar) -> None:
    done = verify(cellar.home, cellar.work)
    assert (done.returncode, done.stdout) == (0, "no LFS pointers in HEAD: nothing to verify\n")
    assert verify(cellar.home, cellar.work, "--json").stdout == ""


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["nothing"], "nothing: git knows no such commit here: git fetch --tags may bring it; paths come after --"),
        (["nothing..HEAD"], "nothing..HEAD: git knows no such commit here"),
        (["..HEAD"], "..HEAD: the range has no beginning"),  # of a script whose variable is empty
        (["HEAD^!"], "HEAD^!: git knows no such commit here"),  # more than one, of which diff-tree would tell nothing
        (["^HEAD"], "^HEAD: git knows no such commit here"),
        (["HEAD:.lfsconfig"], "HEAD:.lfsconfig: it is a file: say the commit, and its path after --"),
        (["--all", "--", "vit-l/0.4"], "no file of the whole history matches vit-l/0.4"),
        (["HEAD..main", "0" * 40], f"{'0' * 40}: git knows no such commit here"),
        (["--remote", "upstream"], "there is no remote 'upstream' here (there is: origin)"),
    ],
)
def test_what_is_not_there_is_a_usage_error(cellar: Cellar, arguments: list[str], words: str) -> None:
    done = verify(cellar.home, cellar.work, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("command", ["verify", "push-missing", "repair"])
def test_before_the_first_commit_there_is_nothing_to_look_at(cellar: Cellar, command: str) -> None:
    cellar.git("checkout", "-q", "--orphan", "anew")
    done = cellar.home.run("lfs-agent", command, cwd=cellar.work, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"lfs-agent {command}: there is no commit yet: git commit makes the first one")
    assert len(done.stderr.splitlines()) == 1
    assert cellar.home.run("lfs-agent", command, "main", cwd=cellar.work).returncode == 0


def test_outside_of_a_repository_is_a_usage_error(home: Home) -> None:
    done = verify(home, home.folder)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "not a git repository" in done.stderr


def test_nobody_answers_is_not_missing(cellar: Cellar) -> None:
    for n in range(40):
        cellar.write(f"model-{n}.pt", 1000, seed=n)
    cellar.commit("Many")
    with BlackHole(accept=False) as nobody:
        cellar.home.environ["AWS_ENDPOINT_URL_S3"] = nobody.endpoint
        started = time.monotonic()
        done = verify(cellar.home, cellar.work)
        assert time.monotonic() - started < 20
    assert done.returncode == 3
    assert len(done.stdout.splitlines()) == 2, "the cause once, and the totals"
    assert "cannot be reached" in done.stdout
    assert "0 present (0 proven), 40 unknown (39 not asked: one cause stops them all)" in done.stdout


def test_a_fault_of_the_agent_is_a_sentence_and_not_missing(cellar: Cellar, tmp_path: Path) -> None:
    """As of an installation that is torn: a library that cannot be loaded, and says so as it likes."""
    cellar.add("weights.bin", 1000)
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "pycurl.py").write_text("raise RuntimeError('torn at https://vera:Canary@example.org/')\n")
    torn = {"PYTHONPATH": str(tmp_path / "torn")}

    ended = cellar.home.run("lfs-agent", "verify", cwd=cellar.work, check=False, env=torn)
    sentence = "unexpected RuntimeError: torn at https://***@example.org/; please report it\n"
    assert (ended.returncode, ended.stdout, ended.stderr) == (3, "", f"lfs-agent verify: {sentence}")

    looked = {**torn, "LFS_AGENT_LOG_LEVEL": "debug"}
    ended = cellar.home.run("lfs-agent", "verify", cwd=cellar.work, check=False, env=looked)
    assert ended.returncode == 3
    assert "Traceback" in ended.stderr
    assert ended.stderr.endswith(f"lfs-agent verify: {sentence}")
    assert "Canary" not in ended.stderr


def test_without_credentials_or_a_bucket_nothing_is_missing(cellar: Cellar) -> None:
    cellar.add("model.pt", SIZE)
    environ = dict(cellar.home.environ)
    del cellar.home.environ["AWS_ACCESS_KEY_ID"], cellar.home.environ["AWS_SECRET_ACCESS_KEY"]
    done = verify(cellar.home, cellar.work, "--json")
    assert done.returncode == 3
    assert [finding["status"] for finding in findings(done).values()] == ["unknown"]
    assert "AWS_ACCESS_KEY_ID" in done.stderr
    cellar.home.environ.update(environ)
    cellar.git("config", "lfs.url", f"s3::no-such-{cellar.bucket}"[:60])
    done = verify(cellar.home, cellar.work)
    assert done.returncode == 3
    assert "NoSuchBucket" in done.stdout


def test_missing_ranks_before_unknown(home: Home, tmp_path: Path) -> None:
    folder = Folder(home, tmp_path / "share", tmp_path / "work")
    folder.build()
    gone, closed = folder.commit("gone.pt", b"gone"), folder.commit("closed.pt", b"closed")
    folder.store(closed, b"closed").parent.chmod(0)
    try:
        done = verify(home, folder.work, "--json")
    finally:
        folder.path(closed).parent.chmod(0o755)
    statuses = {oid: finding["status"] for oid, finding in findings(done).items()}
    if os.geteuid() == 0:  # whom no mode keeps out
        assert statuses == {gone: "missing", closed: "present"}
    else:
        assert statuses == {gone: "missing", closed: "unknown"}
    assert done.returncode == 1


def test_a_shared_folder_can_be_verified(home: Home, tmp_path: Path) -> None:
    folder = Folder(home, tmp_path / "share", tmp_path / "work")
    folder.build()
    good, bad = folder.commit("good.pt", b"good"), folder.commit("bad.pt", b"bad")
    folder.store(good, b"good")
    folder.store(bad, b"bat")
    assert verify(home, folder.work).returncode == 0
    done = verify(home, folder.work, "--deep", "--json")
    assert done.returncode == 1
    assert {oid: finding["status"] for oid, finding in findings(done).items()} == {good: "present", bad: "damaged"}
    folder.path(good).unlink()
    folder.path(bad).unlink()
    folder.share.rename(folder.share.with_name("unmounted"))
    assert verify(home, folder.work).returncode == 3, "a share that is not mounted is not an empty one"


def test_an_interrupt_ends_it_at_once(cellar: Cellar) -> None:
    for n in range(40):
        cellar.write(f"model-{n}.pt", 1000, seed=n)
    cellar.commit("Many")
    with BlackHole() as silent:
        process = subprocess.Popen(
            ["lfs-agent", "verify"],
            cwd=cellar.work,
            env={**cellar.home.environ, "AWS_ENDPOINT_URL_S3": silent.endpoint},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        time.sleep(2)
        process.send_signal(signal.SIGINT)
        started = time.monotonic()
        _, said = process.communicate(timeout=20)
        assert time.monotonic() - started < 2
    assert process.returncode == 130
    assert "Traceback" not in said


def test_only_head_and_get_are_asked(cellar: Cellar) -> None:
    good, gone = cellar.add("model.pt", SIZE, seed=1), cellar.add("gone.pt", SIZE, seed=2)
    cellar.push()
    cellar.server.client().delete_object(Bucket=cellar.bucket, Key=cellar.key(gone))
    before = cellar.server.mark()
    verify(cellar.home, cellar.work, "--deep")
    operations = {(request.operation, request.key) for request in cellar.server.requests(before)}
    # Whether the bucket is there at all is asked by a GET, unless the other object has answered that first.
    assert operations - {("GetObject", cellar.key(gone))} == {
        ("HeadObject", cellar.key(good)),
        ("HeadObject", cellar.key(gone)),
        ("GetObject", cellar.key(good)),
    }


def test_every_server_tells_damage_apart(server: Server, cellar: Cellar) -> None:
    good, gone, flipped = (cellar.add(f"model-{n}.pt", SIZE, seed=n) for n in range(3))
    cellar.push()
    s3 = server.client()
    s3.delete_object(Bucket=cellar.bucket, Key=cellar.key(gone))
    s3.put_object(Bucket=cellar.bucket, Key=cellar.key(flipped), Body=bytes(SIZE))
    done = verify(cellar.home, cellar.work, "--deep", "--json")
    assert {oid: finding["status"] for oid, finding in findings(done).items()} == {
        good: "present",
        gone: "missing",
        flipped: "damaged",
    }


@dataclass(frozen=True)
class Folder:
    """A repository whose store is a folder, filled by hand."""

    home: Home
    share: Path
    work: Path

    def build(self) -> None:
        new_share(self.share)
        self.home.git("init", "-q", self.work)
        self.home.git("config", "lfs.url", f"dir::{self.share}", cwd=self.work)

    def commit(self, path: str, content: bytes) -> str:
        """Commits a pointer; gives its oid."""
        pointer = self.home.run("git-lfs", "pointer", "--file", self._file(content), cwd=self.work).stdout
        (self.work / path).write_text(pointer)
        self.home.git("add", path, cwd=self.work)
        self.home.git("commit", "-q", "-m", f"Add {path}", cwd=self.work)
        return pointer.split("sha256:")[1][:64]

    def _file(self, content: bytes) -> Path:
        file = self.home.folder / "content"
        file.write_bytes(content)
        return file

    def path(self, oid: str) -> Path:
        return self.share / oid[:2] / oid[2:4] / oid

    def store(self, oid: str, content: bytes) -> Path:
        self.path(oid).parent.mkdir(parents=True)
        self.path(oid).write_bytes(content)
        return self.path(oid)


def test_all_refs_are_all_versions_of_all_branches(cellar: Cellar, clone: Clone) -> None:
    first = cellar.add("model.pt", SIZE, seed=1)
    second = cellar.add("model.pt", SIZE, seed=2)
    cellar.git("switch", "-q", "-c", "topic")
    third = cellar.add("other.pt", SIZE, seed=3)
    cellar.push("--all", "origin")
    home, work = clone()

    assert statuses(verify(home, work, "--json")).keys() == {second}  # the default branch alone
    assert statuses(verify(home, work, "--json", "--all")).keys() == {first, second, third}
    assert statuses(verify(home, work, "--json", "--all", "--", "other.pt")).keys() == {third}
    assert verify(home, work, "--all").stdout.startswith(f"all refs at {cellar.url}: 3 objects")


@pytest.mark.parametrize("words", ["verify", "verify --all", "verify HEAD -- weights.bin", "push-missing --all", "gc"])
def test_a_pointer_that_git_cannot_unpack_is_not_passed_over(cellar: Cellar, words: str) -> None:
    """Its disk has lost the end of the file: git sees that when it has told the size, and here it is the last one."""
    cellar.add("model.pt", SIZE)
    cellar.add("weights.bin", SIZE, seed=1)
    cellar.push()
    name = cellar.git("rev-parse", "HEAD:weights.bin").stdout.strip()
    packed = cellar.work / ".git" / "objects" / name[:2] / name[2:]
    packed.chmod(0o644)
    packed.write_bytes(packed.read_bytes()[:-30])

    done = cellar.home.run("lfs-agent", *words.split(), cwd=cellar.work, check=False)

    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.endswith(f"lfs-agent {words.split()[0]}: git cannot read its object {name}: see git fsck\n")


@pytest.mark.parametrize("how", ["replacement", "graft"])
def test_all_refs_are_the_history_that_others_have(cellar: Cellar, how: str) -> None:
    """Here git shows none of what is before the second commit; a clone has it."""
    first = cellar.add("model.pt", SIZE, seed=1)
    second = cellar.add("model.pt", SIZE, seed=2)
    third = cellar.add("model.pt", SIZE, seed=3)
    cellar.push()
    cellar.delete(first)
    if how == "replacement":
        cellar.git("replace", "--graft", "HEAD~1")
    else:
        (cellar.work / ".git" / "info" / "grafts").write_text(cellar.git("rev-parse", "HEAD~1").stdout)
    assert cellar.git("rev-list", "--count", "HEAD").stdout == "2\n"

    done = verify(cellar.home, cellar.work, "--json", "--all")
    assert (done.returncode, statuses(done)) == (1, {first: "missing", second: "present", third: "present"})
    sent = cellar.home.run("lfs-agent", "push-missing", "--all", cwd=cellar.work)
    assert "3 objects, 2 present, 1 sent" in sent.stdout
    assert cellar.stored(first) == random_bytes(SIZE, 1)


def test_a_commit_is_no_oid_where_its_name_is_as_long(
    home: Home, installed: str, this_server: Server, bucket: str, tmp_path: Path
) -> None:
    home.environ |= this_server.environ() | {"GIT_DEFAULT_HASH": "sha256"}
    (home.folder / ".gitconfig").write_text(installed)
    cellar = Cellar(home, this_server, bucket, "cellar", tmp_path / "origin.git", tmp_path / "work")
    cellar.build()
    first, second = cellar.add("model.pt", SIZE, seed=1), cellar.add("model.pt", SIZE, seed=2)
    cellar.push()
    commit, tree = cellar.git("rev-parse", "HEAD~1", "HEAD^{tree}").stdout.split()

    assert statuses(verify(home, cellar.work, "--json", commit)) == {first: "present"}
    assert statuses(verify(home, cellar.work, "--json", tree)) == {second: "present"}
    assert statuses(verify(home, cellar.work, "--json", first, f"sha256:{second}")).keys() == {first, second}
    unknown = verify(home, cellar.work, f"sha256:{commit}")
    assert f"no commit of this clone names the object {commit}" in unknown.stderr


def test_the_remote_of_a_branch_counts_also_where_a_tag_is_called_like_it(cellar: Cellar, tmp_path: Path) -> None:
    cellar.git("rm", "-q", ".lfsconfig")
    cellar.git("config", "remote.origin.lfsurl", cellar.url)
    oid = cellar.add("model.pt", SIZE)
    cellar.push()
    cellar.git("remote", "add", "upstream", str(tmp_path / "upstream.git"))
    cellar.git("config", "remote.upstream.lfsurl", f"{cellar.url}-2")
    cellar.git("config", "branch.main.remote", "upstream")
    cellar.git("tag", "main")
    cellar.local_object(oid).unlink()
    assert f"failed to fetch some objects from '{cellar.url}-2'" in cellar.git("lfs", "fetch", check=False).stderr

    done = verify(cellar.home, cellar.work, "--json")
    assert (done.returncode, statuses(done)) == (1, {oid: "missing"})


def test_an_object_can_be_named_by_its_oid_and_by_standard_input(cellar: Cellar, clone: Clone) -> None:
    first = cellar.add("model.pt", SIZE, seed=1)
    cellar.add("model.pt", SIZE, seed=2)
    third = cellar.add("other.pt", SIZE, seed=3)
    cellar.push()
    home, work = clone()

    assert statuses(verify(home, work, "--json", first)).keys() == {first}
    words = f"{first}\nsha256:{third}\n"
    done = home.run("lfs-agent", "verify", "--stdin", "--json", cwd=work, stdin=words)
    assert statuses(done).keys() == {first, third}
    nothing = home.run("lfs-agent", "verify", "--stdin", cwd=work, stdin="")
    assert nothing.stdout == "no LFS pointers in standard input, which is empty: nothing to verify\n"
    unknown = verify(home, work, "0" * 64)
    assert (unknown.returncode, unknown.stdout) == (2, "")
    assert f"no commit of this clone names the object {'0' * 64}" in unknown.stderr


@pytest.mark.parametrize("server", ["localstack", "versitygw", "ceph"], indirect=True)
def test_a_checksum_is_demanded_of_the_store_and_said_as_what_it_is(
    server: Server, cellar: Cellar, clone: Clone
) -> None:
    cellar.home.environ["LFS_AGENT_PART_SIZE"] = "5MiB"
    small, large = cellar.add("small.pt", SIZE, seed=1), cellar.add("large.pt", 12 << 20, seed=2)
    foreign = cellar.add("foreign.pt", SIZE, seed=3)
    server.client().put_object(
        Bucket=cellar.bucket, Key=cellar.key(foreign), Body=cellar.local_object(foreign).read_bytes()
    )
    cellar.push()
    home, work = clone()
    before = server.mark()

    done = verify(home, work, "--json", "--checksum")

    found = findings(done)
    proofs = {oid: (found[oid]["status"], found[oid]["proof"]) for oid in (small, large, foreign)}
    nothing = ("unproven", "")
    if "checksums" in server.supports:
        assert proofs == {small: ("present", "store"), large: ("present", "upload"), foreign: nothing}
    else:
        assert proofs == dict.fromkeys((small, large, foreign), nothing)
    assert done.returncode == 3
    assert found[foreign]["reason"].endswith("see --deep")
    assert {request.operation for request in server.requests(before)} == {"HeadObject"}


def test_a_sample_is_read_and_the_rest_is_looked_at(cellar: Cellar, clone: Clone) -> None:
    for number in range(20):
        cellar.write(f"{number}.pt", 1000, seed=number)
    cellar.commit("Fill the cellar")
    cellar.push()
    home, work = clone()

    done = verify(home, work, "--json", "--deep", "--sample", "20%")

    assert done.returncode == 0
    assert [finding["proof"] for finding in findings(done).values()].count("read") == 4
    refused = verify(home, work, "--sample", "20%")
    assert (refused.returncode, "--sample is for --deep" in refused.stderr) == (2, True)


def test_findings_are_written_as_junit_xml(cellar: Cellar, clone: Clone, tmp_path: Path) -> None:
    good, gone = cellar.add("good.pt", SIZE, seed=1), cellar.add("gone.pt", SIZE, seed=2)
    cellar.push()
    cellar.server.client().delete_object(Bucket=cellar.bucket, Key=cellar.key(gone))
    home, work = clone()

    assert verify(home, work, "--junit", str(tmp_path / "report.xml")).returncode == 1

    suite = ElementTree.parse(tmp_path / "report.xml").getroot()
    assert (suite.tag, suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("testsuite", "2", "1", "0")
    cases = {case.get("name"): [child.tag for child in case] for case in suite}
    assert cases == {f"good.pt {good}": [], f"gone.pt {gone}": ["failure"]}
    nowhere = verify(home, work, "--junit", str(tmp_path / "no" / "report.xml"))
    assert nowhere.returncode == 2
    assert "cannot write" in nowhere.stderr
    assert "1 present (1 proven), 1 missing" in nowhere.stdout  # what was found is not lost with it


def test_a_range_without_pointers_has_a_report_of_its_own(cellar: Cellar, clone: Clone, tmp_path: Path) -> None:
    """CI servers want one, and would show an earlier one for it."""
    (cellar.work / "README").write_text("no weights")
    cellar.commit("Say what this is")
    cellar.push()
    home, work = clone()
    report = tmp_path / "report.xml"
    report.write_text("<testsuite failures='1'/>")

    assert verify(home, work, "HEAD~1..HEAD", "--junit", str(report)).returncode == 0

    suite = ElementTree.parse(report).getroot()
    assert (suite.get("tests"), suite.get("failures"), len(suite)) == ("0", "0", 0)


def test_many_objects_are_listed_and_what_the_list_lacks_is_asked_for(cellar: Cellar, clone: Clone) -> None:
    oids = [cellar.write(f"{number}.pt", 500, seed=number) for number in range(300)]
    cellar.commit("Fill the cellar")
    cellar.push()
    s3 = cellar.server.client()
    s3.delete_object(Bucket=cellar.bucket, Key=cellar.key(oids[7]))
    s3.put_object(Bucket=cellar.bucket, Key=cellar.key(oids[8]), Body=b"short")
    home, work = clone()
    before = cellar.server.mark()

    done = verify(home, work, "--json")

    assert done.returncode == 1
    wrong = {oid: status for oid, status in statuses(done).items() if status != "present"}
    assert wrong == {oids[7]: "missing", oids[8]: "damaged"}
    asked = Counter(request.operation for request in cellar.server.requests(before))
    assert asked["HeadObject"] == 1
    assert asked["ListObjectsV2"] <= 16


@pytest.mark.parametrize("server", ["localstack"], indirect=True)
def test_an_archived_object_is_a_finding_of_its_own_with_the_command_that_restores_it(
    server: Server, cellar: Cellar, clone: Clone
) -> None:
    cellar.home.environ["LFS_AGENT_STORAGE_CLASS"] = "DEEP_ARCHIVE"
    oid = cellar.add("model.pt", SIZE)
    cellar.push()
    home, work = clone()
    command = (
        f"aws s3api restore-object --bucket {cellar.bucket} --key {cellar.key(oid)} --restore-request Days=7 "
        f"--endpoint-url {server.endpoint}"
    )

    for how in ([], ["--checksum"], ["--deep"]):
        done = verify(home, work, "--json", *how)
        assert (done.returncode, statuses(done)) == (3, {oid: "archived"})
        assert findings(done)[oid]["reason"] == (
            f"it is archived (DEEP_ARCHIVE); restore it, and pull when that is done: {command}"
        )
    assert verify(home, work).stdout.startswith(f"archived\t{oid[:12]}\t")
    home.install()
    pulled = home.git("lfs", "pull", cwd=work, check=False)
    assert pulled.returncode != 0
    assert command in pulled.stderr

    server.client().restore_object(Bucket=cellar.bucket, Key=cellar.key(oid), RestoreRequest={"Days": 7})
    assert verify(home, work, "--deep").returncode == 0
    home.git("lfs", "pull", cwd=work)
    assert (work / "model.pt").read_bytes() == (cellar.work / "model.pt").read_bytes()


def test_files_that_are_no_pointers_as_git_lfs_writes_them_are_findings(cellar: Cellar, clone: Clone) -> None:
    oid = cellar.add("good.pt", SIZE)
    cellar.push()
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {SIZE}\n"
    for name, content in (("raw.pt", "weights"), ("cr.pt", pointer.replace("\n", "\r\n")), ("empty.pt", "")):
        (cellar.work / name).write_bytes(content.encode())
    past_the_filter = ("-c", "filter.lfs.clean=", "-c", "filter.lfs.process=", "-c", "filter.lfs.required=false")
    cellar.git(*past_the_filter, "add", "raw.pt", "cr.pt", "empty.pt")
    cellar.git(*past_the_filter, "commit", "-q", "-m", "Past the filter")
    cellar.git("push", "-q", "origin", "HEAD")
    home, work = clone()

    done = verify(home, work, "--json")
    assert done.returncode == 1
    found = [json.loads(line) for line in done.stdout.splitlines()]
    irregular = {finding["paths"][0]: finding["reason"] for finding in found if finding["status"] == "irregular"}
    assert irregular.keys() == {"raw.pt", "cr.pt"}
    assert "is no pointer, but 7 bytes" in irregular["raw.pt"]
    assert "not as git-lfs writes it" in irregular["cr.pt"]
    assert all(finding.keys() == SCHEMA.keys() for finding in found)
    assert "2 irregular" in verify(home, work).stdout
    assert verify(home, work, "--", "good.pt").returncode == 0
    (work / "deep").mkdir()
    assert verify(home, work / "deep").returncode == 1


def test_a_clone_without_blobs_is_completed_by_one_fetch(cellar: Cellar, home_of: HomeOf, tmp_path: Path) -> None:
    oids = {cellar.write(f"{number}.pt", 100, seed=number) for number in range(20)}
    cellar.commit("Fill the cellar")
    oids.add(cellar.add("0.pt", 100, seed=100))
    cellar.push()
    for name in ("allowFilter", "allowAnySHA1InWant"):
        cellar.home.git("config", f"uploadpack.{name}", "true", cwd=cellar.origin)
    home = home_of("reader")
    home.environ.update(cellar.server.environ())
    work = tmp_path / "clone"
    home.git("clone", "-q", "--filter=blob:none", "--no-checkout", f"file://{cellar.origin}", work)
    trace = tmp_path / "trace"

    done = home.run("lfs-agent", "verify", "--json", "--all", cwd=work, env={"GIT_TRACE": str(trace)})

    assert statuses(done) == dict.fromkeys(oids, "present")
    assert trace.read_text().count("built-in: git fetch ") == 1


def test_a_clone_without_blobs_says_why_what_its_remote_has_dropped_is_not_to_be_had(
    cellar: Cellar, home: Home, tmp_path: Path
) -> None:
    """As a machine for gc may have it, whose reflog remembers a branch from before a force push."""
    cellar.add("model.pt", SIZE, seed=1)
    cellar.push()
    cellar.home.git("config", "uploadpack.allowFilter", "true", cwd=cellar.origin)
    work = tmp_path / "clone"
    home.git("clone", "-q", "--filter=blob:none", "--no-checkout", f"file://{cellar.origin}", work)
    cellar.write("model.pt", SIZE, seed=2)
    cellar.git("commit", "-q", "-a", "--amend", "-m", "Another one")
    cellar.push("-f", "origin", "main")
    home.git("fetch", "-q", cwd=work)
    cellar.home.git("gc", "-q", "--prune=now", cwd=cellar.origin)

    done = home.run("lfs-agent", "verify", "main", cwd=work, check=False)
    assert (done.returncode, done.stdout) == (3, "")
    (said,) = done.stderr.splitlines()
    assert "not our ref" in said
    assert said.endswith("where that is gone there, use a clone that was made without --filter")
    assert verify(home, work, "origin/main").returncode == 0


def test_a_shallow_clone_is_not_taken_for_the_whole_history(cellar: Cellar, home: Home, tmp_path: Path) -> None:
    """As a CI job has it that fetches the merge of a pull request: the base is there, as a parent."""
    base = cellar.git("rev-parse", "HEAD").stdout.strip()
    cellar.git("switch", "-q", "-c", "topic")
    between = cellar.add("model.pt", SIZE, seed=1)
    last = cellar.add("model.pt", SIZE, seed=2)
    cellar.git("switch", "-q", "-c", "merged", "main")
    cellar.git("merge", "-q", "--no-ff", "--no-edit", "topic")
    cellar.push("--no-verify", "origin", "merged")
    cellar.git("lfs", "push", "--object-id", "origin", last)
    work = tmp_path / "job"
    home.git("init", "-q", work)
    home.git("remote", "add", "origin", f"file://{cellar.origin}", cwd=work)
    home.git("fetch", "-q", "--depth=2", "origin", "merged", cwd=work)
    home.environ["GIT_LFS_SKIP_SMUDGE"] = "1"
    home.git("checkout", "-q", "FETCH_HEAD", cwd=work)
    home.git("branch", "merged", cwd=work)

    for command in ("verify", "push-missing", "repair"):
        for words in ([f"{base}..HEAD"], [f"{base}...HEAD", "--", "model.pt"], ["--all"]):
            done = home.run("lfs-agent", command, *words, cwd=work, check=False)
            assert (done.returncode, done.stdout) == (3, ""), words
            assert "this clone is shallow, and the history that was asked for goes on behind " in done.stderr
            assert "git fetch --unshallow brings it; in CI: fetch-depth: 0" in done.stderr
    assert statuses(verify(home, work, "--json")) == {last: "present"}
    assert statuses(verify(home, work, "--json", last)) == {last: "present"}
    home.git("commit", "-q", "--allow-empty", "-m", "Go on", cwd=work)
    assert verify(home, work, "HEAD~1..HEAD").returncode == 0  # does not go so far

    home.git("fetch", "-q", "--unshallow", "origin", "merged", cwd=work)
    for words in ([f"{base}..HEAD"], ["--all"]):
        done = verify(home, work, "--json", *words)
        assert (done.returncode, statuses(done)) == (1, {between: "missing", last: "present"})


@pytest.fixture
def gto(cellar: Cellar) -> Callable[..., str]:
    """GTO itself, in the work tree."""
    program = cache() / "gto-1.10.1" / "bin" / "python"
    if not program.exists():
        absent("GTO is not installed: run `tests/install/install.sh gto`")
    return lambda *words: cellar.home.run(program, "-m", "gto.cli", *words, cwd=cellar.work).stdout.strip()


def test_many_references_take_no_longer_for_a_large_artifacts_yaml(cellar: Cellar) -> None:
    """To read this one takes seconds: for each word anew it would take longer than `Home.run` waits."""
    artifacts = (f"model{n}:\n  type: model\n  path: models/{n}.pt\n  labels: [pt, base]\n" for n in range(6000))
    (cellar.work / "artifacts.yaml").write_text("".join(artifacts))
    oid = cellar.add("models/7.pt", SIZE)
    cellar.push()
    names = [f"model7@v1.0.{n}" for n in range(60)]
    for name in names:
        cellar.git("tag", "-a", "-m", "", name)

    done = verify(cellar.home, cellar.work, "--json", *names)

    assert (done.returncode, statuses(done)) == (0, {oid: "present"})


def test_gto_references_are_what_gto_says(cellar: Cellar, gto: Callable[..., str], clone: Clone) -> None:
    first = cellar.add("vit-l/base/model.pt", SIZE, seed=1)
    cellar.add("other/model.pt", SIZE, seed=2)
    gto("register", "vit-l/base", "--version", "v1.0.9")
    gto("assign", "vit-l/base", "--stage", "prod", "--version", "v1.0.9")
    second = cellar.add("vit-l/base/model.pt", SIZE, seed=3)
    gto("register", "vit-l/base", "--version", "v1.0.10")
    gto("assign", "vit-l/base", "--stage", "prod", "--version", "v1.0.10")
    (cellar.work / "artifacts.yaml").write_text("churn:\n  path: ./models/churn.pt\n  type: model\n")
    third = cellar.add("models/churn.pt", SIZE, seed=4)
    gto("register", "churn", "--version", "v0.1.0")
    cellar.push()
    cellar.git("push", "-q", "--tags")
    home, work = clone()
    commit_of = {"v1.0.9": first, "v1.0.10": second}

    def objects(reference: str) -> set[str]:
        done = verify(home, work, "--json", reference)
        assert done.returncode == 0, done
        return set(statuses(done))

    assert objects("vit-l/base@v1.0.9") == {first}
    assert objects("vit-l/base@latest") == {commit_of[gto("show", "vit-l/base@latest", "--version")]} == {second}
    assert objects("vit-l/base#prod") == {commit_of[gto("show", "vit-l/base#prod", "--version")]} == {second}
    assert objects("churn@latest") == {third}
    time.sleep(1.1)  # GTO orders by the second in which a tag was made
    gto("assign", "vit-l/base", "--stage", "prod", "--version", "v1.0.9", "--force")  # back to the first
    cellar.git("push", "-q", "--tags")
    home.git("fetch", "-q", "--tags", cwd=work)
    assert objects("vit-l/base#prod") == {commit_of[gto("show", "vit-l/base#prod", "--version")]} == {first}
    nothing = verify(home, work, "vit-l/base#dev")
    assert (nothing.returncode, "nothing is registered or assigned so here" in nothing.stderr) == (2, True)


def test_a_stage_leads_to_no_version_that_was_taken_back(cellar: Cellar, gto: Callable[..., str]) -> None:
    first = cellar.add("base/model.pt", SIZE, seed=1)
    gto("register", "base", "--version", "v1.0.0")
    gto("assign", "base", "--stage", "prod", "--version", "v1.0.0")
    cellar.add("base/model.pt", SIZE, seed=2)
    gto("register", "base", "--version", "v2.0.0")
    for stage in ("prod", "dev"):
        gto("assign", "base", "--stage", stage, "--version", "v2.0.0")
    gto("deprecate", "base", "v2.0.0")
    cellar.push()

    assert gto("show", "base#prod", "--version") == "v1.0.0"
    assert statuses(verify(cellar.home, cellar.work, "--json", "base#prod")).keys() == {first}
    assert gto("show", "base#dev", "--version") == ""
    nothing = verify(cellar.home, cellar.work, "base#dev")
    assert (nothing.returncode, "nothing is registered or assigned so here" in nothing.stderr) == (2, True)

    time.sleep(1.1)  # GTO orders by the second in which a tag was made
    gto("deprecate", "base")
    assert gto("show", "base#prod", "--version") == ""
    assert verify(cellar.home, cellar.work, "base#prod").returncode == 2


@pytest.mark.parametrize("key", ["skipdownloaderrors", "allowincompletepush"])
def test_a_committed_setting_that_hides_failures_fails(cellar: Cellar, key: str) -> None:
    cellar.add("model.pt", SIZE)
    cellar.push()
    base = cellar.git("rev-parse", "HEAD").stdout.strip()
    assert verify(cellar.home, cellar.work, "HEAD~1..HEAD").returncode == 0
    with (cellar.work / ".lfsconfig").open("a") as file:
        file.write(f"\t{key} = true\n")
    cellar.commit("Look away")

    for words in ([f"{base}..HEAD"], [f"{base}.."], [f"{base}...HEAD"], ["HEAD"], []):
        done = verify(cellar.home, cellar.work, *words)
        assert done.returncode == 1, words
        assert f"irregular\t.lfsconfig\tit sets lfs.{key}: " in done.stdout
    assert verify(cellar.home, cellar.work, base).returncode == 0


@pytest.mark.parametrize(
    "content, said",
    [
        ("[lfs]\n\tskipdownloaderrors = t\n", "it sets lfs.skipdownloaderrors: "),
        ("[lfs]\n\tallowincompletepush = ON\n", "it sets lfs.allowincompletepush: "),
        ("[include]\n\tpath = conf/more\n", "it sets include.path, and git-lfs obeys what that file says"),
        ('[includeIf "onbranch:main"]\n\tpath = conf/more\n', "it sets includeif.onbranch:main.path, and git-lfs"),
    ],
)
def test_a_setting_that_git_lfs_reads_in_another_way_is_found_too(cellar: Cellar, content: str, said: str) -> None:
    cellar.add("model.pt", SIZE)
    cellar.push()
    (cellar.work / "conf").mkdir()
    (cellar.work / "conf/more").write_text("[lfs]\n\tskipdownloaderrors = true\n")
    with (cellar.work / ".lfsconfig").open("a") as file:
        file.write(content)
    cellar.commit("Look away")
    for words in (["HEAD~1..HEAD"], []):
        done = verify(cellar.home, cellar.work, *words)
        assert done.returncode == 1, words
        assert f"irregular\t.lfsconfig\t{said}" in done.stdout


def test_an_lfsconfig_that_is_a_link_fails(cellar: Cellar) -> None:
    cellar.add("model.pt", SIZE)
    cellar.git("config", "lfs.url", cellar.url)
    cellar.push()
    (cellar.work / ".lfsconfig").rename(cellar.work / "settings")
    (cellar.work / ".lfsconfig").symlink_to("settings")
    cellar.commit("Link")
    (cellar.work / "deep").mkdir()
    for words in (["HEAD~1..HEAD"], []):
        done = verify(cellar.home, cellar.work / "deep", *words)
        assert done.returncode == 1, words
        assert "irregular\t.lfsconfig\tit is a symbolic link, which git-lfs follows" in done.stdout


# What no ref names


def test_all_lists_what_no_ref_names_and_that_is_no_failure(server: Server, cellar: Cellar) -> None:
    cellar.add("model.pt", SIZE, seed=1)
    cellar.push()
    cellar.git("checkout", "-q", "-b", "topic")
    left = [cellar.add(f"model-{n}.pt", SIZE, seed=n) for n in (2, 3)]
    cellar.push()
    for name in (".lfs-agent/note", "readme.txt", f"{left[0][:2]}/{left[0]}"):  # none of them is an object's
        cellar.server.client().put_object(Bucket=cellar.bucket, Key=f"{cellar.prefix}/{name}", Body=b"mine")
    assert verify(cellar.home, cellar.work, "--all").stdout.endswith("\nunreferenced: nothing\n")
    cellar.git("checkout", "-q", "main")
    cellar.git("branch", "-D", "topic")
    cellar.git("push", "-q", "origin", ":topic")

    done = verify(cellar.home, cellar.work, "--all", "--json")
    assert done.returncode == 0
    found = findings(done)
    assert sorted(oid for oid, each in found.items() if each["status"] == "unreferenced") == sorted(left)
    assert {name: type(value) for name, value in found[left[0]].items()} == SCHEMA
    assert (found[left[0]]["key"], found[left[0]]["size"]) == (cellar.key(left[0]), SIZE)
    assert found[left[0]]["address"] == f"s3://{cellar.bucket}/{cellar.key(left[0])}"
    totals = "unreferenced: 2 objects, 195.3 KiB: no ref of this clone names them, another repository that shares the"
    assert f"\n{totals} store may; see lfs-agent gc\n" in done.stderr
    text = verify(cellar.home, cellar.work, "--all")
    assert f"unreferenced\t{left[0][:12]}\t97.7 KiB\ts3://{cellar.bucket}/{cellar.key(left[0])}\n" in text.stdout
    assert totals in text.stdout
    for words in ([], ["--all", "--", "model.pt"]):
        assert "unreferenced" not in verify(cellar.home, cellar.work, *words).stdout


def test_without_the_right_to_list_all_of_the_rest_holds(cellar: Cellar) -> None:
    cellar.add("model.pt", SIZE)
    cellar.push()
    denied = Answer(403, body=b"<Error><Code>AccessDenied</Code><Message>no</Message></Error>")
    with FaultProxy(cellar.server.endpoint, Faults((Rule(denied, "GET", "list-type=2"),))) as proxy:
        cellar.home.environ["AWS_ENDPOINT_URL_S3"] = proxy.endpoint
        done = verify(cellar.home, cellar.work, "--all")
    assert done.returncode == 0
    assert "1 present (1 proven)\nunreferenced: the store was not listed: " in done.stdout
    assert "AccessDenied" in done.stdout


def test_a_folder_is_looked_through_too(home: Home, tmp_path: Path) -> None:
    folder = Folder(home, tmp_path / "share", tmp_path / "work")
    folder.build()
    folder.store(folder.commit("model.pt", b"model"), b"model")
    other = "ab" * 32
    folder.store(other, b"somebody else's")
    done = verify(home, folder.work, "--all", "--json")
    assert (done.returncode, findings(done)[other]["status"]) == (0, "unreferenced")
    assert "unreferenced: 1 object, 15 bytes: " in done.stderr
