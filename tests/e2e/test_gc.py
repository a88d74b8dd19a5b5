"""`lfs-agent gc`: what no repository names goes in two runs, and nothing else ever does (L2, L3, L5, S6)."""

import base64
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from lfs_agent.collector import Collector
from lfs_agent.errors import ConflictError, ObjectError
from lfs_agent.keeper import Keeper
from lfs_agent.layout import key_of
from lfs_agent.lease import lease
from lfs_agent.ledger import Ledger, Mark
from lfs_agent.log import Log
from lfs_agent.modes import UMASK
from lfs_agent.pointer import Oid
from lfs_agent.prune import Local, Pruner
from lfs_agent.registrar import Registrar
from lfs_agent.store import ObjectStat, Write
from lfs_agent.store.folder import FolderStore
from lfs_agent.store.folderstock import FolderStock
from tests.cellar import ASKED_TWICE, Cellar, new_share, random_bytes
from tests.e2e.conftest import with_ages
from tests.e2e.dialogue import Agent, keep_local, listed_by_a_worker, wait_for
from tests.e2e.terminal import typed_at
from tests.machine import POWERLESS, Home
from tests.proxy import ACCESS_DENIED, Action, Answer, FaultProxy, Faults, Key, Rule, Seen, Stall, StripHeaders
from tests.proxy.tls import TlsFront, server_side
from tests.servers import Server, Tls

SIZE = 1000
DAY_S = 86400
APPLY = ("lfs-agent", "gc", "--grace", "0s", "--apply")
PROMPT = "to go on: "
Done = subprocess.CompletedProcess[str]
FIELDS = {
    "status": str,
    "oid": str,
    "size": int,
    "key": str,
    "address": str,
    "modified": str,
    "marked": str,
    "reason": str,
}


def gc(cellar: Cellar, *arguments: str, grace: str = "0s", env: dict[str, str] | None = None) -> Done:
    """`lfs-agent gc --json`, whatever its status."""
    words = ["lfs-agent", "gc", "--json", "--grace", grace, *arguments]
    return cellar.home.run(*words, cwd=cellar.work, env=env or {}, check=False)


def found(done: Done) -> dict[str, dict[str, Any]]:
    return {each["oid"]: each for each in map(json.loads, done.stdout.splitlines())}


def statuses(done: Done) -> dict[str, str]:
    """Of a run that has done what it was told."""
    assert done.returncode == 0, done
    return {oid: each["status"] for oid, each in found(done).items()}


def deleting(objects: int, size: int = SIZE) -> list[str]:
    """The words that delete so many objects of that size."""
    return ["--apply", "--expect-objects", str(objects), "--expect-bytes", str(objects * size)]


def forget_branch(cellar: Cellar, name: str) -> None:
    """Takes a branch away here and at the remote, with all memory of it."""
    cellar.git("checkout", "-q", "main")
    cellar.git("branch", "-q", "-D", name)
    cellar.git("push", "-q", "origin", f":{name}")
    cellar.git("reflog", "expire", "--expire=now", "--all")


def orphaned(cellar: Cellar, *seeds: int) -> list[str]:
    """Pushes a branch with an object of each seed, and takes it away; the oids."""
    cellar.git("checkout", "-q", "-b", "topic")
    oids = [cellar.write(f"topic-{seed}.bin", SIZE, seed) for seed in seeds]
    cellar.commit("Try something")
    cellar.push()
    forget_branch(cellar, "topic")
    return oids


def marked(cellar: Cellar, *seeds: int) -> list[str]:
    """Orphans that a first run has marked."""
    oids = orphaned(cellar, *seeds)
    gc(cellar, "--apply")
    return oids


def ledger(cellar: Cellar, part: str = "") -> list[str]:
    """The keys of what is told beside the objects."""
    root = f"{cellar.prefix}/.lfs-agent/{part}"
    return cellar.server.keys(cellar.bucket, root, ledger=True)


def audit(cellar: Cellar) -> list[dict[str, Any]]:
    path = cellar.work / ".git" / "lfs" / "lfs-agent" / "audit.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def second_repository(cellar: Cellar, tmp_path: Path) -> Cellar:
    """Another repository, by the same user, whose objects are in the same place."""
    other = Cellar(
        cellar.home, cellar.server, cellar.bucket, cellar.prefix, tmp_path / "origin-2.git", tmp_path / "work-2"
    )
    other.build()
    return other


# Two runs


def test_an_orphan_is_marked_by_one_run_and_deleted_by_another(server: Server, cellar: Cellar) -> None:
    client = server.client()
    kept = cellar.add("main.bin", SIZE, seed=2)
    cellar.push()
    (orphan,) = orphaned(cellar, 1)
    foreign = ["cellar/notes.txt", f"cellar/zz/zz/{orphan}", f"cellar/{orphan}", f"elsewhere/64/29/{orphan}"]
    for key in foreign:
        client.put_object(Bucket=cellar.bucket, Key=key, Body=b"somebody's")

    mark = server.mark()
    assert found(gc(cellar, grace="1h")) == {}
    shown = gc(cellar)
    assert statuses(shown) == {orphan: "orphan"}
    assert "to mark: lfs-agent gc --grace 0s --apply" in shown.stderr
    written = [asked for asked in server.requests(mark, ledger=True) if asked.method not in ("GET", "HEAD")]
    assert written == []

    assert statuses(gc(cellar, "--apply", grace="1h")) == {}
    assert ledger(cellar, "gc/") == []
    assert statuses(gc(cellar, "--apply")) == {}
    shown = gc(cellar)
    assert statuses(shown) == {orphan: "deletable"}
    assert f"lfs-agent gc --grace 0s --apply --expect-objects 1 --expect-bytes {SIZE}" in shown.stderr
    assert gc(cellar, "--apply").returncode == 2  # nobody can be asked here
    assert gc(cellar, *deleting(2)).returncode == 2
    assert set(cellar.server.keys(cellar.bucket)) == {cellar.key(kept), cellar.key(orphan), *foreign}

    done = gc(cellar, *deleting(1))
    assert statuses(done) == {orphan: "deleted"}
    assert {name: type(value) for name, value in found(done)[orphan].items()} == FIELDS
    assert set(cellar.server.keys(cellar.bucket)) == {cellar.key(kept), *foreign}
    assert statuses(gc(cellar, "--apply")) == {}
    events = [(line["event"], line["oid"], line["size"], line["key"], line["operation"]) for line in audit(cellar)]
    about = (orphan, SIZE, cellar.key(orphan), "gc")
    assert events == [("deleting", *about), ("deleted", *about)]
    assert "@" in audit(cellar)[0]["user"]
    assert "gc of s3::" in cellar.home.run("lfs-agent", "log", "-n", "2", cwd=cellar.work).stdout


def test_a_repository_without_a_remote_is_asked_itself(cellar: Cellar) -> None:
    """Not by the name of a remote, as a folder that is not there: that would stop gc for everybody."""
    cellar.git("remote", "remove", "origin")
    oid = cellar.add("main.bin", SIZE, seed=2)
    cellar.home.run("lfs-agent", "push-missing", cwd=cellar.work)
    assert gc(cellar, "--register").returncode == 0

    (listed,) = gc(cellar, "--repositories").stdout.splitlines()
    assert json.loads(listed)["url"] == str(cellar.work / ".git")
    done = gc(cellar)
    assert (done.returncode, found(done)) == (0, {})
    cellar.git("commit", "-q", "--amend", "-m", "Without it", "--allow-empty")
    cellar.git("reset", "-q", "--hard", "HEAD~1")
    cellar.git("reflog", "expire", "--expire=now", "--all")
    assert statuses(gc(cellar)) == {oid: "orphan"}


def test_a_repository_is_forgotten_as_printed_and_its_path_is_no_command(cellar: Cellar, tmp_path: Path) -> None:
    """Whoever may push has registered it."""
    cellar.add("main.bin", SIZE, seed=2)
    cellar.push()
    folder = tmp_path / "my share;touch was-run;#"
    folder.mkdir()
    other = second_repository(cellar, folder)
    other.add("theirs.bin", SIZE, seed=3)
    other.push()
    other.origin.rename(tmp_path / "away.git")
    refused = gc(cellar)
    assert refused.returncode == 3

    command = refused.stderr.partition("if it is gone for good: ")[2]
    forgotten = cellar.home.run("sh", "-c", command, cwd=cellar.work, check=False)
    assert not (cellar.work / "was-run").exists()
    assert forgotten.returncode == 0, forgotten.stderr
    assert str(other.origin) not in gc(cellar, "--repositories").stdout


def test_the_grace_period_counts_from_the_mark(cellar: Cellar) -> None:
    """An old object is not gone an hour after it was marked for the first time."""
    server = with_ages(cellar.server)
    (orphan,) = orphaned(cellar, 1)
    long_ago = time.time() - 30 * 86400
    os.utime(server.object_file(cellar.bucket, cellar.key(orphan)), (long_ago, long_ago))

    for status in ("orphan", "waiting"):
        assert statuses(gc(cellar, grace="7d")) == {orphan: status}
        done = gc(cellar, "--apply", grace="7d")
        assert (done.returncode, found(done)) == (0, {})
    assert cellar.keys() == [cellar.key(orphan)]


def test_on_a_terminal_the_number_has_to_be_typed(cellar: Cellar) -> None:
    orphans = marked(cellar, 1, 2)
    for typed, status, left in (("1\n", 2, 2), ("2\n", 0, 0)):
        done = typed_at(PROMPT, typed, cellar.home, *APPLY, cwd=cellar.work)
        assert "2 objects (2.0 KiB) of" in done.stderr
        assert done.returncode == status, done
        assert len(cellar.keys()) == left
    assert len(orphans) == 2


# What survives


def test_what_another_repository_names_survives_and_one_that_cannot_be_read_stops_all(
    cellar: Cellar, tmp_path: Path
) -> None:
    other = second_repository(cellar, tmp_path)
    theirs = other.add("theirs.bin", SIZE, seed=3)
    other.git("tag", "-a", "-m", "kept by a tag", "v1")
    other.push("origin", "v1")
    (orphan,) = orphaned(cellar, 1)

    listed = gc(cellar, "--repositories")
    assert [json.loads(line)["url"] for line in listed.stdout.splitlines()] == sorted(
        map(str, (cellar.origin, other.origin))
    )
    rows = cellar.home.run("lfs-agent", "gc", "--repositories", cwd=cellar.work).stdout.splitlines()
    assert [row.partition("\tsince ")[0] for row in rows] == sorted(map(str, (cellar.origin, other.origin)))
    assert statuses(gc(cellar, "--apply")) == {}
    away = other.origin.rename(tmp_path / "away.git")
    for arguments in ([], ["--apply"], deleting(1)):
        refused = gc(cellar, *arguments)
        assert refused.returncode == 3
        assert f"the repository {other.origin}, which shares this store, can't be read" in refused.stderr
        assert "moved or renamed, say lfs-agent gc --register in a clone of it" in refused.stderr
        assert f"lfs-agent gc --forget {other.origin}" in refused.stderr
    assert set(cellar.keys()) == {cellar.key(theirs), cellar.key(orphan)}

    away.rename(other.origin)
    assert statuses(gc(cellar, *deleting(1))) == {orphan: "deleted"}
    assert cellar.keys() == [cellar.key(theirs)]
    assert gc(cellar, "--forget", str(other.origin)).returncode == 0
    assert statuses(gc(cellar)) == {theirs: "orphan"}
    assert gc(cellar, "--forget", str(cellar.origin)).returncode == 0
    alone = gc(cellar, "--apply")
    assert alone.returncode == 2
    assert "is not registered at" in alone.stderr
    assert gc(cellar, "--register").returncode == 0
    assert statuses(gc(cellar)) == {theirs: "orphan"}


SSH = """\
#!/bin/sh
# An ssh that logs in to a folder for each user; the one whose machine this is where none is named.
[ "$1" = -G ] && echo "user $LOGIN" && exit
while [ "${1#-}" != "$1" ]; do shift; case $1 in *=*) shift ;; esac; done
case $1 in *@*) user=${1%%@*} ;; *) user=$LOGIN ;; esac
cd "$HOMES/$user" 2>/dev/null || { echo "$1: Permission denied (publickey)." >&2; exit 255; }
shift
HOME=$PWD exec sh -c "$*"
"""


@pytest.mark.parametrize("url", ["host:cellar.git", "ssh://host/~/cellar.git"])
def test_what_another_user_has_at_the_same_url_survives(
    cellar: Cellar, second_home: Home, installed: str, tmp_path: Path, url: str
) -> None:
    """A path in a home is another repository for each who logs in."""
    ssh = tmp_path / "bin" / "ssh"
    ssh.parent.mkdir()
    ssh.write_text(SSH)
    ssh.chmod(0o755)
    second_home.environ.update(cellar.server.environ())
    (second_home.folder / ".gitconfig").write_text(installed)
    for seed, home in enumerate((cellar.home, second_home), 1):
        name = home.folder.name
        home.environ |= {
            "PATH": f"{ssh.parent}:{home.environ['PATH']}",
            "LOGIN": name,
            "HOMES": str(tmp_path / "homes"),
        }
        work = tmp_path / f"work-{name}"
        home.git("clone", "-q", "--bare", cellar.origin, tmp_path / "homes" / name / "cellar.git")
        home.git("clone", "-q", url, work)
        (work / "weights.bin").write_bytes(random_bytes(SIZE, seed))
        home.git("add", ".", cwd=work)
        home.git("commit", "-q", "-m", "Go my own way", cwd=work)
        home.git("push", "-q", "origin", "main", cwd=work)
    run = ["lfs-agent", "gc", "--grace", "0s"]

    all_read = second_home.run(*run, cwd=tmp_path / "work-otto")
    (tmp_path / "homes" / "vera").rename(tmp_path / "homes" / "closed")
    refused = second_home.run(*run, "--apply", cwd=tmp_path / "work-otto", check=False)

    assert "2 repositories asked, 2 objects stored\n" in all_read.stdout
    assert refused.returncode == 3
    assert (
        f"the repository {url.replace('host', 'vera@host')}, which shares this store, can't be read" in refused.stderr
    )
    assert len(cellar.keys()) == 2


def test_what_this_clone_has_staged_stashed_or_only_remembers_survives(cellar: Cellar, tmp_path: Path) -> None:
    """Each object is in the store by a branch that is gone now."""
    staged, stashed, earlier, amended, elsewhere, orphan = orphaned(cellar, 1, 2, 3, 4, 5, 6)
    for seed in (2, 3):
        cellar.write(f"topic-{seed}.bin", SIZE, seed)
        cellar.git("add", f"topic-{seed}.bin")
        cellar.git("stash", "-q")
    cellar.write("topic-4.bin", SIZE, 4)
    cellar.commit("Amended away")
    cellar.git("reset", "-q", "--hard", "HEAD~1")
    cellar.git("worktree", "add", "-q", "--detach", str(tmp_path / "tree"))
    (tmp_path / "tree" / "topic-5.bin").write_bytes(random_bytes(SIZE, 5))
    cellar.home.git("add", "topic-5.bin", cwd=tmp_path / "tree")
    cellar.write("topic-1.bin", SIZE, 1)
    cellar.git("add", "topic-1.bin")

    assert statuses(gc(cellar)) == {orphan: "orphan"}
    assert len({staged, stashed, earlier, amended, elsewhere}) == 5


@pytest.mark.parametrize("where", ["here", "in another work tree"])
@pytest.mark.parametrize("how", ["--merge", "--apply"])
def test_what_a_rebase_has_put_aside_survives(cellar: Cellar, tmp_path: Path, where: str, how: str) -> None:
    """It is in no ref, reflog or index, and nowhere in the work tree until the rebase has ended."""
    staged, changed, orphan = orphaned(cellar, 1, 2, 3)
    text = cellar.work / "notes.txt"
    text.write_text("one\n")
    cellar.write("weights.bin", SIZE, 9)
    cellar.commit("Begin")
    cellar.git("branch", "topic")
    text.write_text("two\n")
    cellar.commit("Go on")
    tree = cellar.work if where == "here" else tmp_path / "tree"
    if tree == cellar.work:
        cellar.git("checkout", "-q", "topic")
    else:
        cellar.git("worktree", "add", "-q", str(tree), "topic")
    (tree / "notes.txt").write_text("another\n")
    cellar.home.git("commit", "-q", "-a", "-m", "Go another way", cwd=tree)
    (tree / "weights.bin").write_bytes(random_bytes(SIZE, 1))
    cellar.home.git("add", "weights.bin", cwd=tree)
    (tree / "weights.bin").write_bytes(random_bytes(SIZE, 2))
    stopped = cellar.home.git("rebase", "--autostash", how, "main", cwd=tree, check=False)
    assert "Created autostash" in stopped.stdout + stopped.stderr

    assert statuses(gc(cellar)) == {orphan: "orphan"}
    pruned = cellar.home.run("lfs-agent", "prune", "--deep", "--apply", cwd=cellar.work)
    assert "deleted" in pruned.stdout
    assert [cellar.local_object(oid).exists() for oid in (staged, changed, orphan)] == [True, True, False]


def test_what_a_replacement_hides_survives(cellar: Cellar) -> None:
    """refs/replace lets git show another commit in the place of the one that the branch names."""
    kept = cellar.add("main.bin", SIZE, seed=1)
    cellar.push()
    cellar.git("checkout", "-q", "--detach", "HEAD~1")  # the index is asked, too
    cellar.git("reflog", "expire", "--expire=now", "--all")
    other = cellar.git("commit-tree", "-m", "nothing", "HEAD^{tree}").stdout.strip()
    cellar.git("replace", "main", other)
    cellar.push("--no-verify", "origin", "refs/replace/*:refs/replace/*")
    assert cellar.keys() == [cellar.key(kept)]

    assert statuses(gc(cellar)) == {}


def test_what_a_graft_hides_survives(cellar: Cellar) -> None:
    """info/grafts ends the history of this clone, which alone names it, before the commit that does."""
    (kept,) = orphaned(cellar, 1)
    cellar.write("topic-1.bin", SIZE, 1)
    cellar.commit("Not pushed yet")
    cellar.git("rm", "-q", "topic-1.bin")
    last = cellar.commit("Take it away")
    cellar.git("reflog", "expire", "--expire=now", "--all")
    (cellar.work / ".git" / "info" / "grafts").write_text(f"{last}\n")
    assert cellar.git("rev-list", "--count", "HEAD").stdout == "1\n"
    assert cellar.keys() == [cellar.key(kept)]

    assert statuses(gc(cellar)) == {}


def test_where_git_finds_no_bare_repository_all_are_asked(cellar: Cellar) -> None:
    """The setting is advised against repositories that lie in a work tree; what is fetched for gc is a bare one."""
    cellar.add("main.bin", SIZE, seed=1)
    cellar.push()
    (orphan,) = orphaned(cellar, 2)
    cellar.home.git("config", "--global", "safe.bareRepository", "explicit")

    assert statuses(gc(cellar)) == {orphan: "orphan"}


def test_a_url_that_only_its_user_understands_is_read_where_it_is_explained(cellar: Cellar, tmp_path: Path) -> None:
    gc(cellar, "--register")
    other = second_repository(cellar, tmp_path)
    short = f"url.{tmp_path}/.insteadOf"
    other.git("config", short, "gh:")
    other.git("remote", "set-url", "origin", "gh:origin-2.git")
    other.add("theirs.bin", SIZE, seed=1)
    other.push()
    refused = gc(cellar)
    assert refused.returncode == 3
    assert "the repository gh:origin-2.git, which shares this store, can't be read" in refused.stderr

    cellar.git("config", "--global", short, "gh:")
    assert statuses(gc(cellar)) == {}


def test_a_repository_that_names_nothing_any_more_stops_all(cellar: Cellar, tmp_path: Path) -> None:
    """It was made anew, or shows its refs to others only: nobody knows what it needs."""
    other = second_repository(cellar, tmp_path)
    theirs = other.add("theirs.bin", SIZE, seed=3)
    other.push()
    cellar.push()
    gc(cellar, "--register")
    shutil.rmtree(other.origin)
    cellar.home.git("init", "-q", "--bare", other.origin)

    refused = gc(cellar, "--apply")

    assert refused.returncode == 3, refused
    assert f"the repository {other.origin}, which shares this store, can't be read (it has no refs" in refused.stderr
    assert ledger(cellar, "gc/") == []
    other.push()
    assert statuses(gc(cellar)) == {}
    assert cellar.keys() == [cellar.key(theirs)]


def test_a_repository_that_has_not_all_of_its_history_stops_all(cellar: Cellar, tmp_path: Path) -> None:
    """git clones it without a word, and what its history names behind its end looks like nobody's."""
    cellar.add("weights.bin", SIZE, seed=1)
    cellar.add("weights.bin", SIZE, seed=2)
    cellar.push()
    whole = cellar.origin.rename(tmp_path / "whole.git")
    cellar.home.git("clone", "-q", "--bare", "--depth=1", f"file://{whole}", cellar.origin)
    before = cellar.keys()

    refused = gc(cellar, "--apply")

    assert refused.returncode == 3, refused
    assert f"the repository {cellar.origin}, which shares this store, can't be read (" in refused.stderr
    assert "git fetch --unshallow" in refused.stderr
    assert ledger(cellar, "gc/") == []
    assert cellar.keys() == before


def test_a_registration_that_may_not_be_read_stops_all(cellar: Cellar, tmp_path: Path) -> None:
    other = second_repository(cellar, tmp_path)
    other.add("theirs.bin", SIZE, seed=3)
    other.push()
    gc(cellar, "--register")
    entry = registered_at(cellar, str(other.origin))
    denied = Rule(Answer(403, "AccessDenied"), target=entry)
    with FaultProxy(cellar.server.endpoint, Faults((denied,))) as proxy:
        refused = gc(cellar, env={"AWS_ENDPOINT_URL_S3": proxy.endpoint})

    assert refused.returncode == 3, refused
    assert found(refused) == {}


def test_what_a_ref_names_without_a_commit_survives(cellar: Cellar) -> None:
    """A tag may name a file itself; git then tells the file's blob without its path, and once only."""
    tagged, main = cellar.add("tagged.bin", SIZE, seed=1), cellar.add("main.bin", SIZE, seed=2)
    cellar.git("tag", "weights", "HEAD:tagged.bin")
    cellar.git("tag", "-a", "-m", "annotated", "more-weights", "HEAD:main.bin")
    cellar.push("origin", "HEAD", "--tags")
    assert set(cellar.keys()) == {cellar.key(tagged), cellar.key(main)}
    assert statuses(gc(cellar)) == {}
    cellar.git("reset", "-q", "--hard", "HEAD~2")
    cellar.push("-f", "origin", "HEAD")
    cellar.git("reflog", "expire", "--expire=now", "--all")
    assert statuses(gc(cellar)) == {}


def test_what_is_registered_while_gc_waits_for_a_yes_is_asked_too(cellar: Cellar, tmp_path: Path) -> None:
    other = second_repository(cellar, tmp_path)
    theirs = other.add("theirs.bin", SIZE, seed=3)
    other.push()
    gc(cellar, "--register")
    gc(cellar, "--forget", str(other.origin))
    gc(cellar, "--apply")

    def register() -> None:
        assert gc(other, "--register").returncode == 0

    done = typed_at(PROMPT, "1\n", cellar.home, *APPLY, cwd=cellar.work, meanwhile=register)

    assert done.returncode == 0, done
    assert cellar.keys() == [cellar.key(theirs)]
    assert "saved" in done.stdout


def test_a_later_push_asks_for_its_registration_and_makes_it_anew_where_somebody_has_taken_it_out(
    cellar: Cellar,
) -> None:
    cellar.add("first.bin", SIZE, seed=1)
    cellar.push()
    (entry,) = ledger(cellar, "repositories/")
    for seed, there, asked in ((2, True, ["GetObject"]), (3, False, ["GetObject", *2 * ["PutObject"]])):
        if not there:
            cellar.server.client().delete_object(Bucket=cellar.bucket, Key=entry)
        for memory in (cellar.work / ".git" / "lfs-agent" / "registered").iterdir():
            os.utime(memory, (time.time() - 3600,) * 2)
        cellar.add(f"{seed}.bin", SIZE, seed)
        mark = cellar.server.mark()
        cellar.push()
        assert [each.operation for each in cellar.server.requests(mark, ledger=True) if each.key == entry] == asked
        assert ledger(cellar, "repositories/") == [entry]


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_gc_that_is_told_to_end_leaves_no_copy_of_a_history(
    cellar: Cellar, tmp_path: Path, by: signal.Signals
) -> None:
    """By Ctrl-C, by `timeout`, or with the terminal: all of its processes hear that while git fetches."""
    cellar.add("a.bin", SIZE)
    cellar.push()
    begun, hook, config = tmp_path / "begun", tmp_path / "hook", tmp_path / "gitconfig"
    hook.write_text(f"#!/bin/sh\n: > {begun}\nexec sleep 60\n")
    hook.chmod(0o755)
    config.write_text(f"[include]\n\tpath = ~/.gitconfig\n[uploadpack]\n\tpackObjectsHook = {hook}\n")
    collecting = subprocess.Popen(
        ["lfs-agent", "gc"],
        cwd=cellar.work,
        env={**cellar.home.environ, "GIT_CONFIG_GLOBAL": str(config)},
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    temporary = cellar.home.folder / "tmp"
    wait_for(begun.exists, 60)
    assert [path.name[:10] for path in temporary.iterdir()] == ["lfs-agent-"]

    os.killpg(collecting.pid, by)

    assert collecting.communicate(timeout=30) == (b"", b"")
    assert list(temporary.iterdir()) == []
    assert collecting.returncode == 130


@pytest.mark.parametrize("held, other", [("/[0-9a-f]{64}$", ".lfs-agent/"), (".lfs-agent/", "/[0-9a-f]{64}$")])
def test_an_object_and_the_registration_go_beside_each_other(cellar: Cellar, held: str, other: str) -> None:
    """And nothing is stored before both are there."""
    local = keep_local(cellar.work, oid := cellar.write("a.bin", SIZE), (cellar.work / "a.bin").read_bytes())
    with (
        FaultProxy(cellar.server.endpoint, Faults((Rule(Stall("answer-head", 1.5), "PUT", held),))) as proxy,
        Agent(cellar.home, cellar.work, env={"AWS_ENDPOINT_URL_S3": proxy.endpoint}) as agent,
    ):
        agent.init("upload")
        agent.upload(oid, local)
        assert "error" not in agent.until_complete()[-1]
        told = agent.heard[-1][0]
        at = {
            what: next(seen.at for seen in proxy.all_requests if seen.method == "PUT" and re.search(what, seen.path))
            for what in (held, other)
        }

    assert at[other] < at[held] + 1.5 <= told


@pytest.mark.parametrize("ending", ["the object is refused", "a signal"])
def test_a_registration_that_hangs_holds_up_no_other_end_and_is_no_success(cellar: Cellar, ending: str) -> None:
    local = keep_local(cellar.work, oid := cellar.write("a.bin", SIZE), (cellar.work / "a.bin").read_bytes())
    refused = (Rule(ACCESS_DENIED, "PUT", oid),) if ending == "the object is refused" else ()
    hangs = Faults((*refused, Rule(Stall("answer-head", 60), "PUT", ".lfs-agent/")))
    with (
        FaultProxy(cellar.server.endpoint, hangs) as proxy,
        Agent(cellar.home, cellar.work, env={"AWS_ENDPOINT_URL_S3": proxy.endpoint}) as agent,
    ):
        agent.init("upload")
        agent.upload(oid, local)
        if refused:
            assert "AccessDenied" in agent.until_complete(30)[-1]["error"]["message"]
            assert agent.end() == 0
        else:
            wait_for(lambda: cellar.keys() == [cellar.key(oid)], 30)
            agent.process.terminate()
            assert agent.process.wait(10) == 130
            assert not [line for _, line in agent.heard if b'"complete"' in line and b'"error"' not in line]


def test_what_a_transfer_has_outlived_is_registered_anew_before_its_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lfs_agent.registrar._LOOK_EVERY_S", 0.0)
    ledger, stop = Ledger(FolderStore(new_share(tmp_path / "store")), ""), threading.Event()
    registrar = Registrar(ledger, ["https://git.example/a"], tmp_path / "memory", lambda: "here", UMASK)
    entry = tmp_path / "store" / ledger.repository_key("https://git.example/a")
    registrar.begin(stop)
    wait_for(lambda: any(path.stat().st_size for path in (tmp_path / "memory").glob("*")), 30)
    entry.unlink()
    for memory in (tmp_path / "memory").iterdir():
        os.utime(memory, (time.time() - 3600,) * 2)
    registrar.register(stop)
    assert entry.exists()


def test_where_no_thread_can_be_had_it_is_registered_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    ledger, stop = Ledger(FolderStore(new_share(tmp_path / "store")), ""), threading.Event()
    registrar = Registrar(ledger, ["https://git.example/a"], tmp_path / "memory", lambda: "here", UMASK)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError):
            registrar.begin(stop)
    registrar.register(stop)

    assert (tmp_path / "store" / ledger.repository_key("https://git.example/a")).exists()


def test_what_was_begun_beside_an_object_that_has_failed_is_not_left_half_done(tmp_path: Path) -> None:
    class Slow(FolderStore):
        def put(self, *arguments: Any) -> bool:
            time.sleep(0.2)
            return super().put(*arguments)

    ledger = Ledger(Slow(new_share(tmp_path / "store")), "")
    registrar = Registrar(ledger, ["https://git.example/a"], tmp_path / "memory", lambda: "here", UMASK)
    registrar.begin(threading.Event())
    registrar.end()

    assert (tmp_path / "store" / ledger.repository_key("https://git.example/a")).exists()


def test_a_ref_that_was_away_while_its_repository_was_read_is_read_again(cellar: Cellar, tmp_path: Path) -> None:
    """Before and after that the refs were the same."""
    (orphan,) = marked(cellar, 1)
    cellar.write("topic-1.bin", SIZE, 1)
    cellar.commit("Take it up again")
    cellar.push("--no-verify", "origin", "HEAD:back")  # nothing of ours sees it
    commit = cellar.git("rev-parse", "HEAD").stdout.strip()
    cellar.git("reset", "-q", "--hard", "HEAD~1")
    cellar.git("update-ref", "-d", "refs/remotes/origin/back")
    cellar.git("reflog", "expire", "--expire=now", "--all")
    wrapper, real = tmp_path / "bin" / "git", shutil.which("git")
    wrapper.parent.mkdir()
    wrapper.write_text(
        f'#!/bin/sh\nif [ "$1" = clone ] && [ ! -e {tmp_path}/once ]; then\n  touch {tmp_path}/once\n'
        f"  {real} -C {cellar.origin} update-ref -d refs/heads/back\n"
        f'  {real} "$@"; status=$?\n'
        f"  {real} -C {cellar.origin} update-ref refs/heads/back {commit}\n  exit $status\nfi\n"
        f'exec {real} "$@"\n'
    )
    wrapper.chmod(0o755)

    done = gc(cellar, *deleting(1), env={"PATH": f"{wrapper.parent}:{cellar.home.environ['PATH']}"})

    assert (tmp_path / "once").exists()
    assert statuses(done) == {orphan: "saved"}
    assert cellar.keys() == [cellar.key(orphan)]


def test_a_list_that_breaks_off_stops_all(cellar: Cellar) -> None:
    """More is said to follow after nothing: who believes that it is the end misses a repository."""
    orphaned(cellar, 1)
    body = (
        b'<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        b"<IsTruncated>true</IsTruncated><KeyCount>0</KeyCount></ListBucketResult>"
    )
    cut = Rule(Answer(200, body=body), method="GET", target="list-type=2.*repositories")
    with FaultProxy(cellar.server.endpoint, Faults((cut,))) as proxy:
        refused = gc(cellar, env={"AWS_ENDPOINT_URL_S3": proxy.endpoint, **ASKED_TWICE})

    assert refused.returncode == 3, refused
    assert found(refused) == {}


def test_in_a_folder_it_is_the_same(home: Home, any_server: Server, bucket: str, tmp_path: Path) -> None:
    home.install()
    share = new_share(tmp_path / "share")
    cellar = Cellar(home, any_server, bucket, "", tmp_path / "origin.git", tmp_path / "work")
    cellar.build()
    cellar.git("config", "lfs.url", f"dir::{share}")
    kept = cellar.add("main.bin", SIZE, seed=2)
    cellar.push()
    gone, saved = orphaned(cellar, 1, 3)
    (share / "notes.txt").write_text("somebody's")

    assert statuses(gc(cellar)) == {gone: "orphan", saved: "orphan"}
    assert statuses(gc(cellar, "--apply")) == {}
    cellar.write("again.bin", SIZE, 3)
    cellar.commit("Take it up again")
    cellar.push()
    assert statuses(gc(cellar, *deleting(1))) == {gone: "deleted"}
    stored = {path.name for path in share.rglob("*") if path.is_file() and ".lfs-agent" not in path.parts}
    assert stored == {kept, saved, "notes.txt"}
    assert [line["event"] for line in audit(cellar)] == ["deleting", "deleted"]


def in_folder(cellar: Cellar, share: Path) -> Cellar:
    """A new repository whose store is a folder."""
    cellar.build()
    cellar.git("config", "lfs.url", f"dir::{share}")
    return cellar


@pytest.mark.parametrize("how", ["push", "push-missing"])
def test_a_share_that_was_just_made_anew_knows_whose_objects_it_has(
    home: Home, any_server: Server, bucket: str, tmp_path: Path, how: str
) -> None:
    """The clone has registered a moment ago, and that was in the old one."""
    home.install()
    share = new_share(tmp_path / "share")
    first, second = (
        in_folder(Cellar(home, any_server, bucket, "", tmp_path / f"origin-{n}", tmp_path / f"work-{n}"), share)
        for n in (1, 2)
    )
    oids = {first.add("a.bin", SIZE, seed=1)}
    first.push()
    share.rename(tmp_path / "old")
    new_share(share)
    if how == "push-missing":
        home.run("lfs-agent", "push-missing", cwd=first.work)
    else:
        oids = {first.add("b.bin", SIZE, seed=2)}
        first.push()
    second.add("c.bin", SIZE, seed=3)
    second.push()

    assert statuses(gc(second)) == {}
    assert len(list((share / ".lfs-agent" / "repositories").iterdir())) == 2
    assert oids <= {path.name for path in share.glob("??/??/*")}


def test_who_brings_back_what_a_bucket_has_lost_registers_anew(cellar: Cellar) -> None:
    """The clone has registered a moment ago; who empties a bucket takes that away, too."""
    oid = cellar.add("a.bin", SIZE)
    cellar.push()
    client = cellar.server.client()
    for key in [*ledger(cellar), cellar.key(oid)]:
        client.delete_object(Bucket=cellar.bucket, Key=key)

    cellar.home.run("lfs-agent", "push-missing", cwd=cellar.work)

    assert cellar.keys() == [cellar.key(oid)]
    assert len(ledger(cellar, "repositories/")) == 1


@pytest.mark.skipif(not shutil.which("setpriv"), reason="root may read all, unless setpriv takes that right")
def test_of_a_share_all_is_looked_at_but_what_the_file_system_keeps_at_its_root(
    home: Home, any_server: Server, bucket: str, tmp_path: Path
) -> None:
    home.install()
    share = new_share(tmp_path / "share")
    cellar = in_folder(Cellar(home, any_server, bucket, "", tmp_path / "origin", tmp_path / "work"), share)
    kept = cellar.add("main.bin", SIZE, seed=2)
    cellar.push()
    (orphan,) = orphaned(cellar, 1)
    home.runs_as = POWERLESS
    (share / "lost+found").mkdir(mode=0)

    assert statuses(gc(cellar)) == {orphan: "orphan"}
    listed = home.run("lfs-agent", "verify", "--all", cwd=cellar.work)
    assert "unreferenced: 1 object" in listed.stdout

    (share / "vault").mkdir(mode=0)
    refused = gc(cellar, "--apply")
    assert (refused.returncode, refused.stdout) == (3, "")
    assert f"{share}/vault: Permission denied" in refused.stderr
    assert "please report it" not in refused.stderr
    listed = home.run("lfs-agent", "verify", "--all", cwd=cellar.work)
    assert f"the store was not listed: {share}/vault: Permission denied" in listed.stdout
    assert {path.name for path in share.glob("??/??/*")} == {kept, orphan}


def test_a_link_in_a_share_is_nobodys_object_and_stays(tmp_path: Path) -> None:
    """Whoever has put it there keeps what it leads to elsewhere."""
    oid, share = Oid("ab" * 32), new_share(tmp_path / "share")
    (tmp_path / "elsewhere").write_bytes(b"kept")
    (share / oid).symlink_to(tmp_path / "elsewhere")
    store = FolderStore(share)
    collector = Collector(Ledger(store, ""), FolderStock(store), "", key_of("", "flat"), older_than_s=0)

    assert collector.survey(lambda oid: False).objects == 0
    assert FolderStock(store).look(oid) is None


def test_a_link_in_the_place_of_a_folder_of_a_share_leads_to_no_file_elsewhere(
    home: Home, any_server: Server, bucket: str, tmp_path: Path
) -> None:
    """Who may write to the share could have deleted what only the user of gc may delete."""
    home.install()
    share = new_share(tmp_path / "share")
    cellar = in_folder(Cellar(home, any_server, bucket, "", tmp_path / "origin", tmp_path / "work"), share)
    cellar.add("main.bin", SIZE, seed=2)
    cellar.push()
    book = home.folder / "books" / "first.tex"
    book.parent.mkdir()
    book.write_text("the only copy")
    marks = share / ".lfs-agent" / "gc" / "marks.jsonl"
    marks.parent.mkdir()
    marks.write_text('{"version":1,"by":"","at":""}\n')
    for file in (book, marks):
        os.utime(file, (0, 0))
    (marks.parent / "notes").symlink_to(book.parent)

    refused = gc(cellar, "--apply")

    assert refused.returncode == 3
    assert f"{marks.parent}/notes is a symbolic link, which we never make: look who else" in refused.stderr
    assert book.exists()


def test_a_link_that_takes_a_folder_s_place_after_a_look_leads_to_no_file_elsewhere(tmp_path: Path) -> None:
    share, elsewhere = new_share(tmp_path / "share"), tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "object").write_bytes(b"kept")
    (share / "ab").symlink_to(elsewhere)
    stock = FolderStock(FolderStore(share))
    seen = stock.look("ab/object")

    assert seen
    with pytest.raises(ObjectError, match="share/ab is a symbolic link"):
        stock.delete("ab/object", seen.etag)
    assert (elsewhere / "object").exists()


@pytest.mark.parametrize("inner", [True, False], ids=["the inner one", "the outer one"])
def test_of_two_stores_one_inside_of_the_other_none_is_cleaned_up(cellar: Cellar, tmp_path: Path, inner: bool) -> None:
    """The objects of the inner one could be those of the outer one, which its repositories do not name."""
    (orphan,) = orphaned(cellar, 1)
    other = Cellar(
        cellar.home, cellar.server, cellar.bucket, "cellar/ab/cd", tmp_path / "origin-2.git", tmp_path / "work-2"
    )
    other.build()
    kept = other.add("main.bin", SIZE, seed=2)
    other.push()

    refused = gc(other if inner else cellar, "--apply")

    assert (refused.returncode, refused.stdout) == (3, "")
    said = "this store lies inside of another one" if inner else "another store lies inside of this one"
    assert f"{said}; nobody can tell whose objects are whose" in refused.stderr
    assert set(cellar.keys()) == {cellar.key(orphan), other.key(kept)}
    assert ledger(cellar, MARKS) == ledger(other, MARKS) == []


# Pushes between the runs


def test_a_push_saves_what_was_marked(server: Server, cellar: Cellar, tmp_path: Path) -> None:
    """By the clone that marks, by another one, and by push-missing; each before its commits are anywhere."""
    oids = marked(cellar, 1, 2, 3)
    clone = cellar.clone(tmp_path / "clone")
    for number, (work, push) in enumerate(
        [
            (cellar.work, ["lfs-agent", "push-missing"]),
            (cellar.work, ["git", "lfs", "push", "--all", "origin"]),
            (clone, ["git", "lfs", "push", "--all", "origin"]),
        ],
        1,
    ):
        cellar.home.git("checkout", "-q", "-b", f"again-{number}", "origin/main", cwd=work)
        (work / f"{number}.bin").write_bytes(random_bytes(SIZE, number))
        cellar.home.git("add", ".", cwd=work)
        cellar.home.git("commit", "-q", "-m", "Take it up again", cwd=work)
        cellar.home.run(*push, cwd=work)
    assert len(ledger(cellar, "gc/notes/")) == 3
    # The refs are asked for before the commits arrive: nothing but the notes speaks for the objects.
    cellar.git("checkout", "-q", "main")
    cellar.git("branch", "-q", "-D", "again-1", "again-2")
    cellar.git("reflog", "expire", "--expire=now", "--all")

    assert statuses(gc(cellar, *deleting(3))) == dict.fromkeys(oids, "saved")
    assert len(cellar.keys()) == 3
    assert audit(cellar) == []
    # Saved once is not saved for ever: what still nobody names is marked anew.
    assert statuses(gc(cellar)) == dict.fromkeys(oids, "orphan")


def test_a_push_pays_for_it_with_a_question_a_worker_and_one_registration(cellar: Cellar) -> None:
    """Which is put once more: whether the store refuses that is known then."""
    for number in range(40):
        cellar.write(f"{number}.bin", SIZE, number)
    cellar.commit("Fill the cellar")
    for questions in (0, 8):
        mark = cellar.server.mark()
        cellar.git("lfs", "push", "--all", "origin")
        asked = [each for each in cellar.server.requests(mark, ledger=True) if ".lfs-agent/" in each.key]
        told = Counter(each.operation for each in asked)
        assert told["GetObject"] <= questions
        assert told["PutObject"] == (0 if questions else 2)
        assert sum(told.values()) == told["GetObject"] + told["PutObject"]
    assert len(ledger(cellar)) == 1


def test_a_push_waits_for_a_deletion_that_was_begun_and_reports_no_success_before(cellar: Cellar) -> None:
    """Whoever was first decides: here a gc that goes on no further."""
    server = with_ages(cellar.server)
    client = server.client()
    blocked, late, stale = marked(cellar, 1, 2, 3)
    (run,) = {json.loads(line)["run"] for line in marks_of(cellar)[1:]}
    notes = {oid: f"cellar/.lfs-agent/gc/notes/{run}/{oid}.1" for oid in (blocked, late, stale)}
    for key in notes.values():
        client.put_object(Bucket=cellar.bucket, Key=key, Body=b'{"state":"deleting","by":"otto@far","at":"now"}')
    two_hours_ago = time.time() - 7200
    os.utime(server.object_file(cellar.bucket, notes[stale]), (two_hours_ago, two_hours_ago))
    for seed in (1, 2, 3):
        cellar.write(f"topic-{seed}.bin", SIZE, seed)
    cellar.commit("Take them up again")
    later = threading.Timer(2, lambda: client.delete_object(Bucket=cellar.bucket, Key=cellar.key(late)))
    later.start()

    refused = cellar.push(check=False)

    later.join()
    assert refused.returncode != 0
    assert "is just being deleted by lfs-agent gc (by otto@far, now): push again" in refused.stderr
    assert refused.stderr.count("is just being deleted") == 1
    assert blocked in refused.stderr
    keys = cellar.keys()
    there = {oid for oid in (blocked, late, stale) if cellar.key(oid) in keys}
    assert there == {blocked, late, stale} or (there == {blocked, stale} and late in refused.stderr)  # told if not sent
    assert f"cellar/.lfs-agent/gc/notes/{run}/{stale}.2" in ledger(cellar)
    # Nobody has come back for it within the hour: it is still there, and may be saved.
    os.utime(server.object_file(cellar.bucket, notes[blocked]), (two_hours_ago, two_hours_ago))
    cellar.push()
    assert set(cellar.keys()) == set(map(cellar.key, (blocked, late, stale)))


def test_what_a_gc_deletes_after_a_push_has_listed_it_is_sent_again(cellar: Cellar) -> None:
    """By a worker that has read the marks before the list, and by one that reads them when all is over."""
    gone = marked(cellar, 101, 102)
    present = [cellar.write(f"{seed}.bin", SIZE, seed) for seed in range(8)]
    cellar.commit("Fill the cellar")
    cellar.push()
    with Agent(cellar.home, cellar.work) as first, Agent(cellar.home, cellar.work) as second:

        def push(agent: Agent, oid: str) -> None:
            agent.upload(oid, cellar.local_object(oid))
            assert agent.until_complete()[-1] == {"event": "complete", "oid": oid}

        assert first.init("upload") == second.init("upload") == {}
        for oid in present:
            push(first, oid)
        wait_for(lambda: listed_by_a_worker(cellar.work), 60)
        assert statuses(gc(cellar, *deleting(2))) == dict.fromkeys(gone, "deleted")
        assert len(cellar.keys()) == 8

        push(first, gone[0])
        push(second, present[0])
        push(second, gone[1])
        assert first.end() == second.end() == 0

    assert set(cellar.keys()) == set(map(cellar.key, [*present, *gone]))


def marks_of(cellar: Cellar) -> list[str]:
    key = "cellar/.lfs-agent/gc/marks.jsonl"
    answer = cellar.server.client().get_object(Bucket=cellar.bucket, Key=key)
    return answer["Body"].read().decode().splitlines()


def test_what_was_stored_anew_after_the_mark_survives(server: Server, cellar: Cellar) -> None:
    (orphan,) = marked(cellar, 1)
    client = server.client()
    client.delete_object(Bucket=cellar.bucket, Key=cellar.key(orphan))
    time.sleep(1.1)  # stores tell whole seconds
    client.put_object(Bucket=cellar.bucket, Key=cellar.key(orphan), Body=random_bytes(SIZE, 1))

    assert statuses(gc(cellar)) == {orphan: "changed"}
    assert statuses(gc(cellar, "--apply")) == {}
    assert cellar.keys() == [cellar.key(orphan)]
    assert audit(cellar) == []


def test_what_is_stored_anew_while_gc_waits_for_a_yes_survives(cellar: Cellar) -> None:
    """With the same bytes, and so with the same ETag: no condition tells the store that it is another one."""
    (orphan,) = marked(cellar, 1)
    client = cellar.server.client()

    def store_anew() -> None:
        client.delete_object(Bucket=cellar.bucket, Key=cellar.key(orphan))
        time.sleep(1.1)  # stores tell whole seconds
        client.put_object(Bucket=cellar.bucket, Key=cellar.key(orphan), Body=random_bytes(SIZE, 1))

    done = typed_at(PROMPT, "1\n", cellar.home, *APPLY, cwd=cellar.work, meanwhile=store_anew)

    assert done.returncode == 0, done
    assert "it was stored anew since" in done.stdout
    assert cellar.keys() == [cellar.key(orphan)]
    assert audit(cellar) == []


NO_MARKS = Rule(ACCESS_DENIED, "GET", r"marks\.jsonl$")
NO_LISTS = Rule(ACCESS_DENIED, "GET", r"list-type=2")


def test_a_push_that_may_not_read_the_marks_is_no_success(cellar: Cellar) -> None:
    """By rights that are those of the objects alone; and the only local copy stays."""
    (oid,) = marked(cellar, 1)
    cellar.write("topic-1.bin", SIZE, 1)
    cellar.commit("Take it up again")
    with FaultProxy(cellar.server.endpoint, Faults((NO_MARKS,))) as proxy:
        env = {"AWS_ENDPOINT_URL_S3": proxy.endpoint}
        refused = cellar.home.git("push", "origin", "HEAD:refs/heads/again", cwd=cellar.work, check=False, env=env)
        cellar.git("reset", "-q", "--hard", "origin/main")
        kept = cellar.home.run("lfs-agent", "prune", "--deep", "--apply", cwd=cellar.work, check=False, env=env)

    assert refused.returncode != 0
    assert "cellar/.lfs-agent/gc/marks.jsonl: 403 AccessDenied" in refused.stderr
    assert kept.returncode == 3
    assert "marks.jsonl: 403 AccessDenied" in kept.stdout
    assert cellar.local_object(oid).exists()


def test_who_may_not_list_is_told_nothing_of_marks_and_pushes(cellar: Cellar) -> None:
    """What is missing is forbidden then: no gc was ever here."""
    cellar.add("main.bin", SIZE, seed=1)
    cellar.push()
    with FaultProxy(cellar.server.endpoint, Faults((NO_MARKS, NO_LISTS))) as proxy:
        env = {"AWS_ENDPOINT_URL_S3": proxy.endpoint}
        cellar.home.git("lfs", "push", "--all", "origin", cwd=cellar.work, env=env)


def test_prune_keeps_the_local_copy_of_what_is_marked(cellar: Cellar) -> None:
    old = cellar.add("model.bin", SIZE, seed=1)
    cellar.add("model.bin", SIZE, seed=2)
    cellar.push()
    other = cellar.home.run("lfs-agent", "prune", "--json", cwd=cellar.work)
    assert json.loads(other.stdout)["status"] == "prunable"
    mark = {"oid": old, "size": SIZE, "etag": "x", "modified": 1, "run": "0" * 16, "marked": 1}
    body = "\n".join(map(json.dumps, ({"version": 1}, mark)))
    key = "cellar/.lfs-agent/gc/marks.jsonl"
    cellar.server.client().put_object(Bucket=cellar.bucket, Key=key, Body=body.encode())

    kept = cellar.home.run("lfs-agent", "prune", "--apply", cwd=cellar.work, check=False)

    assert kept.returncode == 3
    assert "a gc has marked the store's copy, and may delete it" in kept.stdout
    assert cellar.local_object(old).exists()


class Once:
    """A plan that fails nothing: at the first request that fits, something else is done before it goes on."""

    def __init__(self, method: str, target: str, meanwhile: Callable[[], object]) -> None:
        self._method = method
        self._target = target
        self._meanwhile = meanwhile
        self.done = False

    def __call__(self, seen: Seen) -> tuple[Action, ...]:
        if not self.done and seen.method == self._method and re.search(self._target, seen.target):
            self.done = True
            self._meanwhile()
        return ()


def test_prune_keeps_the_local_copy_of_what_a_gc_deletes_while_prune_reads_the_marks(cellar: Cellar) -> None:
    """After that it is marked no more: whoever had looked for it before would take it for kept."""
    (old,) = marked(cellar, 1)
    meanwhile = Once("GET", r"marks\.jsonl$", lambda: gc(cellar, *deleting(1)))
    with FaultProxy(cellar.server.endpoint, meanwhile) as proxy:
        env = {"AWS_ENDPOINT_URL_S3": proxy.endpoint}
        kept = cellar.home.run("lfs-agent", "prune", "--apply", cwd=cellar.work, check=False, env=env)

    assert meanwhile.done
    assert cellar.keys() == []
    assert kept.returncode == 1
    assert "kept because not proven (1 missing)" in kept.stdout
    assert cellar.local_object(old).exists()


def test_prune_keeps_the_local_copy_of_what_a_gc_has_deleted_while_the_machine_slept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was closed when prune had just read the store's copy."""
    data, now = random_bytes(SIZE, 1), time.time
    oid = Oid(hashlib.sha256(data).hexdigest())
    share = new_share(tmp_path / "share")
    for path in (share / oid, tmp_path / "local"):
        path.write_bytes(data)

    class Sleepy(FolderStore):
        def fetch(self, key: str, start: int, stop: int, write: Write, etag: str = "") -> ObjectStat:
            found = super().fetch(key, start, stop, write, etag)
            (share / key).unlink()
            monkeypatch.setattr("time.time", lambda: now() + 8 * DAY_S)
            return found

    pruner = Pruner(
        Sleepy(share),
        key_of("", "flat"),
        deep=True,
        marked=lambda oid: False,
        stop=threading.Event(),
        log=Log(None, None, None),
    )
    judged = pruner.look(Local(oid, tmp_path / "local", SIZE))

    assert (judged.status, (tmp_path / "local").read_bytes()) == ("missing", data)


def test_repair_saves_what_is_marked_and_is_there_only_when_it_is_sent(cellar: Cellar, tmp_path: Path) -> None:
    """By a store whose first answer is that of a while ago, as copies far away give it."""
    other = second_repository(cellar, tmp_path)
    (oid,) = marked(other, 1)
    assert cellar.add("model.bin", SIZE, seed=1) == oid
    stale = Faults((Rule(Answer(404, "NoSuchKey"), "HEAD", oid, times=1),))
    with FaultProxy(cellar.server.endpoint, stale) as proxy:
        env = {"AWS_ENDPOINT_URL_S3": proxy.endpoint}
        repaired = cellar.home.run("lfs-agent", "repair", "--json", cwd=cellar.work, env=env)

    assert found(repaired)[oid]["status"] == "present"
    assert [seen.method for seen in proxy.requests if seen.path.endswith(oid)].count("PUT") <= 1
    assert statuses(gc(other, *deleting(1))) == {oid: "saved"}
    assert cellar.keys() == [cellar.key(oid)]


# Kills, and two at once

NOTES, MARKS = "gc/notes/", "gc/marks"


@pytest.mark.parametrize(
    "method, path, where, left, then",
    [
        ("PUT", NOTES, "request-head", 1, "deleted"),
        ("PUT", NOTES, "answer-head", 1, "waiting"),
        ("DELETE", "", "request-head", 1, "waiting"),
        ("DELETE", "", "answer-head", 0, "gone"),
        ("PUT", MARKS, "request-head", 0, "gone"),
    ],
)
def test_after_a_kill_the_next_run_goes_on(
    cellar: Cellar, method: str, path: str, where: Any, left: int, then: str
) -> None:
    server = with_ages(cellar.server)
    (orphan,) = marked(cellar, 1)
    stalled = Rule(Stall(where, seconds=120), method=method, target=path or orphan)
    with FaultProxy(cellar.server.endpoint, Faults((stalled,))) as proxy:
        process = subprocess.Popen(
            ["lfs-agent", "gc", "--grace", "0s", *deleting(1)],
            cwd=cellar.work,
            env={**cellar.home.environ, "AWS_ENDPOINT_URL_S3": proxy.endpoint},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_until(lambda: any(map(stalled.matches, proxy.all_requests)), process)
        if where == "answer-head":  # the store has done it, and the one who asked does not know
            wait_until(lambda: bool(ledger(cellar, NOTES)) and len(cellar.keys()) == left, process)
        process.kill()
        process.wait()

    assert len(cellar.keys()) == left
    assert [line["event"] for line in audit(cellar)][:1] == ([] if path == NOTES else ["deleting"])
    again = gc(cellar, *deleting(left))
    assert [each["status"] for each in found(again).values()] == ([then] if left else [])
    if then == "waiting":
        assert again.returncode == 3
        assert "another gc is at it" in found(again)[orphan]["reason"]
        (note,) = ledger(cellar, NOTES)
        os.utime(server.object_file(cellar.bucket, note), (time.time() - 7200,) * 2)
        assert statuses(gc(cellar, *deleting(1))) == {orphan: "deleted"}
    assert cellar.keys() == []
    assert len(marks_of(cellar)) == 1
    if then != "gone":
        assert [line["event"] for line in audit(cellar)][-2:] == ["deleting", "deleted"]


def wait_until(true: Callable[[], bool], process: subprocess.Popen[Any]) -> None:
    until = time.monotonic() + 120
    while not true():
        assert process.poll() is None, "it ended before it was killed"
        assert time.monotonic() < until
        time.sleep(0.02)


def test_an_answer_that_is_lost_is_looked_after_and_not_asked_for_again(cellar: Cellar) -> None:
    done, undone = marked(cellar, 1, 2)
    rules = (
        Rule(Answer(500, "InternalError", forward=True), method="DELETE", target=done),
        Rule(Answer(500, "InternalError"), method="DELETE", target=undone),
    )
    with FaultProxy(cellar.server.endpoint, Faults(rules)) as proxy:
        ended = gc(cellar, *deleting(2), env={"AWS_ENDPOINT_URL_S3": proxy.endpoint})
        sent = [seen for seen in proxy.requests if seen.method == "DELETE"]
        assert len(sent) == 2, ended

    assert ended.returncode == 3
    assert {oid: each["status"] for oid, each in found(ended).items()} == {done: "deleted", undone: "failed"}
    assert "it is not asked for again now: the next gc goes on in an hour" in found(ended)[undone]["reason"]
    assert cellar.keys() == [cellar.key(undone)]
    assert Counter(line["event"] for line in audit(cellar)) == {"deleting": 2, "deleted": 1, "failed": 1}


def test_a_deletion_that_a_login_has_held_back_is_not_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A person may come back to it the next day: then a push may have counted on it that nobody deletes any more."""

    class Slow(FolderStock):
        def connect(self) -> None:
            time.sleep(1.5)

    monkeypatch.setattr("lfs_agent.collector._SEND_WITHIN_S", 1.0)
    oid = Oid("ab" * 32)
    (tmp_path / oid).write_bytes(b"kept")
    store = FolderStore(tmp_path)
    collector = Collector(Ledger(store, ""), Slow(store), "", key_of("", "flat"), older_than_s=0)
    (orphan,) = collector.survey(lambda oid: False).orphans
    (left,) = collector.collect([orphan], Log(None, None, None), threading.Event(), threads=1)
    assert (left.status, (tmp_path / oid).read_bytes()) == ("failed", b"kept")


@pytest.mark.parametrize("how", ["another holds it on", "the machine slept"])
def test_a_deletion_that_a_lock_of_a_share_has_held_back_is_not_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Who holds it may be suspended for hours; by then a push counts on it that nobody deletes any more."""
    oid, now = Oid("ab" * 32), time.time

    class Sleepy(FolderStore):
        def stat(self, key: str) -> ObjectStat | None:
            if how == "the machine slept" and key == oid:  # asked for with the lock held
                monkeypatch.setattr("time.time", lambda: now() + 2 * 3600)
            return super().stat(key)

    share = new_share(tmp_path / "share")
    (share / oid).write_bytes(b"kept")
    store = Sleepy(share)
    collector = Collector(Ledger(store, ""), FolderStock(store), "", key_of("", "flat"), older_than_s=0)
    (orphan,) = collector.survey(lambda oid: False).orphans
    lock = share / "lfs-agent-unfinished" / f"{oid}-replacing"
    lock.parent.mkdir()
    with ExitStack() as stack:
        if how == "another holds it on":
            stack.enter_context(lease(lock, threading.Event()))
            monkeypatch.setattr("lfs_agent.store.folder._HELD_FOR_S", 0.3)
        (left,) = collector.collect([orphan], Log(None, None, None), threading.Event(), threads=1)

    assert (left.status, (share / oid).read_bytes()) == ("failed", b"kept")
    assert f"{lock}: it took too long to get this lock" in left.reason


def test_who_has_read_the_marks_long_ago_deletes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody may have thought about it overnight: by then the notes of pushes may have been swept."""
    oid, now = Oid("ab" * 32), time.time()
    (tmp_path / oid).write_bytes(b"kept")
    store = FolderStore(tmp_path)
    collector = Collector(Ledger(store, ""), FolderStock(store), "", key_of("", "flat"), older_than_s=0)
    collector.read_marks()
    (orphan,) = collector.survey(lambda oid: False).orphans
    monkeypatch.setattr("time.time", lambda: now + 7 * 3600)

    (left,) = collector.collect([orphan], Log(None, None, None), threading.Event(), threads=1)

    assert (left.status, left.reason) == ("waiting", "this gc has been at work for too long: the next goes on")
    assert (tmp_path / oid).read_bytes() == b"kept"


def test_what_the_store_says_to_have_deleted_and_still_has_is_no_success(cellar: Cellar) -> None:
    (orphan,) = marked(cellar, 1)
    liar = Rule(Answer(204), method="DELETE", target=orphan)
    with FaultProxy(cellar.server.endpoint, Faults((liar,))) as proxy:
        done = gc(cellar, *deleting(1), env={"AWS_ENDPOINT_URL_S3": proxy.endpoint})

    assert done.returncode == 3
    assert found(done)[orphan]["status"] == "failed"
    assert "was deleted, and is still there" in found(done)[orphan]["reason"]
    assert len(marks_of(cellar)) == 2  # the next one tries again


@pytest.mark.parametrize(
    "note_age_s, marks_age_s, stays_marked, kept",
    [
        pytest.param(DAY_S, DAY_S, False, False, id="old"),
        pytest.param(0, DAY_S, False, True, id="young"),
        pytest.param(DAY_S, 0, False, True, id="a gc has written marks lately"),
        pytest.param(DAY_S, DAY_S, True, True, id="its mark is there"),
    ],
)
def test_what_a_push_has_noted_stays_while_a_gc_could_need_it(
    tmp_path: Path, note_age_s: int, marks_age_s: int, stays_marked: bool, kept: bool
) -> None:
    oid, run, now = Oid("ab" * 32), "0" * 16, time.time()
    store = FolderStore(new_share(tmp_path / "share"))
    ledger, stock = Ledger(store, ""), FolderStock(store)
    ledger.decide((run, oid), "saved", lambda key: None)
    ledger.replace_marks([Mark(oid, SIZE, "etag", int(now), run, int(now))] if stays_marked else [], ledger.marks())
    note = Path(store.address(ledger.note_key(run, oid, 1)))
    os.utime(note, (now - note_age_s,) * 2)
    os.utime(store.address(ledger.marks_key), (now - marks_age_s,) * 2)
    collector = Collector(ledger, stock, "", key_of("", "flat"), older_than_s=0)
    collector.read_marks()

    assert collector.sweep() == int(not kept)
    assert note.exists() == kept


def test_marks_that_another_gc_has_written_meanwhile_are_not_replaced(tmp_path: Path) -> None:
    store = FolderStore(new_share(tmp_path / "share"))
    ledger, marks = Ledger(store, ""), [Mark(Oid(digit * 64), SIZE, "etag", 1, "0" * 16, 1) for digit in "abc"]
    ledger.replace_marks(marks[:1], ledger.marks())
    read = ledger.marks()
    ledger.replace_marks(marks[1:2], read)

    with pytest.raises(ConflictError):
        ledger.replace_marks(marks[2:], read)

    assert ledger.marks().marks == marks[1:2]


def test_a_note_that_nobody_understands_keeps_the_object(tmp_path: Path) -> None:
    """However old it is: it is no promise to delete."""
    oid, run = Oid("ab" * 32), "0" * 16
    share = new_share(tmp_path / "share")
    ledger = Ledger(FolderStore(share), "")
    note = share / ledger.note_key(run, oid, 1)
    note.parent.mkdir(parents=True)
    note.write_text('{"state":"pinned"}')

    decided = ledger.decide((run, oid), "deleting", lambda key: 2.0 * DAY_S)

    assert decided
    assert decided.state == "saved"


def test_a_gc_that_has_not_read_the_marks_that_are_there_sweeps_nothing(tmp_path: Path) -> None:
    """Another one has written them meanwhile."""
    oid, run, long_ago = Oid("ab" * 32), "0" * 16, time.time() - DAY_S
    store = FolderStore(new_share(tmp_path / "share"))
    ledger = Ledger(store, "")
    collector = Collector(ledger, FolderStock(store), "", key_of("", "flat"), older_than_s=0)
    collector.read_marks()
    ledger.decide((run, oid), "saved", lambda key: None)
    ledger.replace_marks([Mark(oid, SIZE, "etag", 1, run, 1)], ledger.marks())
    for key in (ledger.marks_key, ledger.note_key(run, oid, 1)):
        os.utime(store.address(key), (long_ago, long_ago))

    assert collector.sweep() == 0
    assert Path(store.address(ledger.note_key(run, oid, 1))).exists()


def test_the_grace_period_begins_when_a_mark_is_written(tmp_path: Path) -> None:
    """Not when the object was looked at: nobody sees the mark while somebody is asked, or other objects are deleted."""
    oid, store = Oid("ab" * 32), FolderStore(tmp_path)
    (tmp_path / oid).write_bytes(b"kept")
    collector = Collector(Ledger(store, ""), FolderStock(store), "", key_of("", "flat"), older_than_s=0)
    collector.read_marks()
    survey = collector.survey(lambda oid: False)
    time.sleep(1.1)
    asked = int(FolderStock(store).now())

    assert collector.write(survey, []) == 1

    (mark,) = Ledger(store, "").marks().marks
    assert mark.marked >= asked


@pytest.mark.parametrize("was_ahead_s", [10 * DAY_S, -10 * DAY_S])
def test_a_clock_that_is_set_while_gc_looks_at_a_share_shortens_no_grace_period(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, was_ahead_s: int
) -> None:
    """As that of a machine that was just started, and hears only then what time it is."""
    week_s, now = 7 * DAY_S, time.time
    store = FolderStore(new_share(tmp_path / "share"))
    new, waiting = Oid("ab" * 32), Oid("cd" * 32)
    for oid in (new, waiting):
        path = Path(store.address(oid))
        path.write_bytes(b"kept")
        os.utime(path, (now() - 30 * DAY_S,) * 2)
    ledger, stock, key = Ledger(store, ""), FolderStock(store), key_of("", "flat")
    seen = stock.look(waiting)
    assert seen
    ledger.replace_marks([Mark(waiting, 4, seen.etag, seen.modified, "0" * 16, int(now()) - 60)], ledger.marks())
    with monkeypatch.context() as wrong:
        wrong.setattr("time.time", lambda: now() + was_ahead_s)
        stock.connect()
    collector = Collector(ledger, stock, "", key, older_than_s=week_s)
    collector.read_marks()
    survey = collector.survey(lambda oid: False)
    collector.write(survey, [])

    assert {orphan.oid: orphan.status for orphan in survey.orphans} == {new: "orphan", waiting: "waiting"}
    (mark,) = (mark for mark in ledger.marks().marks if mark.oid == new)
    assert abs(mark.marked - now()) < 3600


def test_a_mark_that_is_written_after_a_sleep_is_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock by which a share's goes on stood still meanwhile."""
    store, monotonic = FolderStore(new_share(tmp_path / "share")), time.monotonic
    Path(store.address("ab" * 32)).write_bytes(b"kept")
    stock = FolderStock(store)
    with monkeypatch.context() as before:
        before.setattr("time.monotonic", lambda: monotonic() + 8 * DAY_S)
        stock.connect()
    collector = Collector(Ledger(store, ""), stock, "", key_of("", "flat"), older_than_s=0)
    collector.read_marks()
    survey = collector.survey(lambda oid: False)
    asked = int(time.time())
    collector.write(survey, [])

    (mark,) = Ledger(store, "").marks().marks
    assert mark.marked >= asked - 1


def test_marks_are_read_anew_after_a_machine_has_slept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its monotonic clock stood still meanwhile, and a gc elsewhere did not."""
    oid, now = Oid("ab" * 32), time.time()
    store = FolderStore(new_share(tmp_path / "store"))
    ledger = Ledger(store, "")
    keeper = Keeper(ledger, key_of("", "flat"), lambda: FolderStock(store), threading.Event())
    assert not keeper.marked(oid)
    ledger.replace_marks([Mark(oid, SIZE, "etag", int(now), "0" * 16, int(now))], ledger.marks())
    assert not keeper.marked(oid)
    monkeypatch.setattr("time.time", lambda: now + 3600)
    assert keeper.marked(oid)


def test_two_at_once_delete_each_object_once(cellar: Cellar, tmp_path: Path) -> None:
    oids = marked(cellar, *range(1, 13))
    clone = cellar.clone(tmp_path / "clone")
    words = ["lfs-agent", "gc", "--json", "--grace", "0s", *deleting(12)]
    quiet = subprocess.DEVNULL
    mark = cellar.server.mark()
    runs = [
        subprocess.Popen(words, cwd=work, env=cellar.home.environ, stdout=subprocess.PIPE, stderr=quiet, text=True)
        for work in (cellar.work, clone)
    ]
    said = [json.loads(line) for run in runs for line in run.communicate(timeout=180)[0].splitlines()]

    assert cellar.keys() == []
    assert Counter(each["oid"] for each in said if each["status"] == "deleted") == Counter(oids)
    deletions = [each.key for each in cellar.server.requests(mark) if each.operation == "DeleteObject"]
    assert sorted(deletions) == sorted(map(cellar.key, oids))
    assert statuses(gc(cellar, "--apply")) == {}


def test_on_a_store_that_obeys_no_conditions_nothing_is_deleted(cellar: Cellar) -> None:
    (orphan,) = marked(cellar, 1)
    key = Key(cellar.server.access_key, cellar.server.secret_key)
    deaf = Rule(StripHeaders(request=("if-none-match",)))
    with FaultProxy(cellar.server.endpoint, Faults((deaf,)), key) as proxy:
        done = gc(cellar, *deleting(1), env={"AWS_ENDPOINT_URL_S3": proxy.endpoint})

    assert done.returncode == 3
    assert "obeys no condition" in found(done)[orphan]["reason"]
    assert cellar.keys() == [cellar.key(orphan)]


# Retention


def test_a_bucket_that_keeps_forever_is_not_touched_whoever_says_less(cellar: Cellar) -> None:
    (orphan,) = orphaned(cellar, 1)
    cellar.git("config", f"lfs-agent.{cellar.bucket}.retention", "forever")
    refused = gc(cellar, "--apply")
    assert refused.returncode == 2
    assert "keeps its objects forever (lfs-agent.retention)" in refused.stderr

    cellar.git("config", f"lfs-agent.{cellar.bucket}.retention", "28d")
    assert statuses(gc(cellar)) == {}
    cellar.git("config", f"lfs-agent.{cellar.bucket}.retention", "0s")
    assert statuses(gc(cellar)) == {orphan: "orphan"}
    (cellar.work / ".lfsconfig").write_text(f"[lfs]\n\turl = {cellar.url}?retention=28d\n")
    assert statuses(gc(cellar)) == {}
    cellar.git("config", f"lfs-agent.{cellar.bucket}.retention", "forever")
    assert gc(cellar).returncode == 2


def test_a_folder_keeps_as_long_as_its_url_says(home: Home, any_server: Server, bucket: str, tmp_path: Path) -> None:
    home.install()
    share = new_share(tmp_path / "share")
    cellar = in_folder(Cellar(home, any_server, bucket, "", tmp_path / "origin.git", tmp_path / "work"), share)
    (orphan,) = orphaned(cellar, 1)
    cellar.git("config", "--unset", "lfs.url")
    home.run("lfs-agent", "init", "--force", f"dir::{share}?retention=forever", cwd=cellar.work)

    refused = gc(cellar, "--apply")
    assert (refused.returncode, "keeps its objects forever" in refused.stderr) == (2, True)
    home.run("lfs-agent", "init", "--force", f"dir::{share}?retention=0s", cwd=cellar.work)
    assert statuses(gc(cellar)) == {orphan: "orphan"}


def test_what_another_repository_wants_to_be_kept_is_kept(cellar: Cellar, tmp_path: Path) -> None:
    """Nobody can shorten what another one has committed, neither here nor by settings of one's own."""
    other = second_repository(cellar, tmp_path)

    def say(retention: str) -> None:
        (other.work / ".lfsconfig").write_text(f"[lfs]\n\turl = {other.url}?retention={retention}\n")
        other.commit(f"Keep {retention}")
        other.push()

    gc(cellar, "--register")
    (orphan,) = orphaned(other, 1)
    say("0s")
    assert statuses(gc(cellar, "--apply")) == {}
    assert statuses(gc(cellar)) == {orphan: "deletable"}
    say("28d")
    assert statuses(gc(cellar)) == {orphan: "waiting"}
    say("forever")
    other.git("config", "lfs.url", other.url)
    for each, head in ((cellar, "main"), (other, "main"), (cellar, "master")):
        cellar.home.git("symbolic-ref", "HEAD", f"refs/heads/{head}", cwd=other.origin)  # the second one is not there
        refused = gc(each, *deleting(1))
        assert refused.returncode == 2
        named = f"keeps its objects forever (lfs.url in .lfsconfig of {other.origin}): nothing is marked"
        assert named in refused.stderr
    assert cellar.keys() == [cellar.key(orphan)]


def test_a_share_keeps_as_long_as_its_repository_says_wherever_it_is_mounted(
    home: Home, any_server: Server, bucket: str, tmp_path: Path
) -> None:
    home.install()
    share = new_share(tmp_path / "share")
    cellar = in_folder(Cellar(home, any_server, bucket, "", tmp_path / "origin.git", tmp_path / "work"), share)
    orphaned(cellar, 1)
    (cellar.work / ".lfsconfig").write_text("[lfs]\n\turl = dir::/srv/share?retention=forever\n")
    cellar.commit("Keep all")
    cellar.push()

    refused = gc(cellar, "--apply")
    assert (refused.returncode, "keeps its objects forever (lfs.url in .lfsconfig of" in refused.stderr) == (2, True)


# Versions and locks


@pytest.mark.parametrize("locked", [False, True])
def test_a_bucket_that_keeps_versions_keeps_the_bytes_and_says_so(cellar: Cellar, locked: bool) -> None:
    client = cellar.server.client()
    bucket = f"{cellar.bucket}-v"[-60:]
    client.create_bucket(Bucket=bucket, ObjectLockEnabledForBucket=locked)
    client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    if locked:
        rule: Any = {"DefaultRetention": {"Mode": "COMPLIANCE", "Days": 1}}
        client.put_object_lock_configuration(
            Bucket=bucket, ObjectLockConfiguration={"ObjectLockEnabled": "Enabled", "Rule": rule}
        )
    kept = Cellar(cellar.home, cellar.server, bucket, "cellar", cellar.origin, cellar.work)
    kept.git("config", "lfs.url", f"s3::{bucket}/cellar")
    (orphan,) = marked(kept, 1)

    done = gc(kept, *deleting(1))

    assert statuses(done) == {orphan: "deleted"}
    assert "the bucket keeps versions" in done.stderr
    assert kept.keys() == []
    (version,) = client.list_object_versions(Bucket=bucket, Prefix=kept.key(orphan))["Versions"]
    answer = client.get_object(Bucket=bucket, Key=kept.key(orphan), VersionId=version["VersionId"])
    assert answer["Body"].read() == random_bytes(SIZE, 1)


# What strangers write


def registered_at(cellar: Cellar, url: str) -> str:
    """The key at which a repository is registered; no store is asked for that."""
    return Ledger(None, cellar.prefix).repository_key(url)  # type: ignore[arg-type]


def register_by_a_stranger(cellar: Cellar, url: str) -> None:
    where = registered_at(cellar, url)
    body = json.dumps({"url": url, "since": "", "by": ""}).encode()
    cellar.server.client().put_object(Bucket=cellar.bucket, Key=where, Body=body)


@pytest.mark.parametrize(
    "url, reason",
    [
        ("ext::sh -c touch% {witness}", "can't be read (git ls-remote: "),
        ("--upload-pack=touch {witness}", "that is no URL of a repository"),
        ("http://127.0.0.1:9/cellar.git", "transport 'http' not allowed"),
        ("git://127.0.0.1:9/cellar.git", "transport 'git' not allowed"),
        ("ssh://-oProxyCommand=touch%20{witness}/x", "can't be read (git ls-remote: "),
        ("/absent;touch $(touch {witness}) it's", "can't be read (git ls-remote: "),
    ],
)
def test_a_repository_that_a_stranger_registers_runs_nothing_and_stops_all(
    cellar: Cellar, tmp_path: Path, url: str, reason: str
) -> None:
    orphaned(cellar, 1)
    witness = tmp_path / "witness"
    register_by_a_stranger(cellar, url.format(witness=witness))

    refused = gc(cellar, "--apply")

    assert refused.returncode == 3
    assert reason in refused.stderr
    assert ledger(cellar, "gc/") == []
    advised = refused.stderr.strip().partition("if it is gone for good: ")[2]
    cellar.home.run("sh", "-c", advised, cwd=cellar.work)
    assert len(ledger(cellar, "repositories/")) == 1
    assert not witness.exists()


ASKING = Rule(Answer(401, headers=(("WWW-Authenticate", 'Basic realm="git"'),), body=b""))
"""A host that wants a password."""


def known(header: str) -> bytes:
    """What is in the header of a login."""
    return base64.b64decode(header.removeprefix("Basic ")) if header.startswith("Basic ") else b""


@pytest.fixture
def knows_a_password(cellar: Cellar, tls: Tls, tmp_path: Path) -> Cellar:
    """A user, as in CI, who gives one to whoever asks for it, by all that git has for that."""
    program = tmp_path / "password"
    program.write_text("#!/bin/sh\necho hunter2\n")
    program.chmod(0o755)
    cellar.home.environ |= {"GIT_ASKPASS": str(program), "SSH_ASKPASS": str(program)}
    for key, value in (
        ("core.askPass", str(program)),
        ("credential.helper", "!echo username=vera; echo password=hunter2; :"),
        ("http.extraHeader", "X-Token: hunter2"),
        ("http.sslCAInfo", str(tls.ca)),
        ("url.https://.insteadOf", "git://"),
        ("credential.https://git.example.username", "vera"),
    ):
        cellar.home.git("config", "--global", key, value)
    orphaned(cellar, 1)
    return cellar


@pytest.mark.parametrize(
    "url",
    [
        "https://{host}/cellar.git",
        "https::https://{host}/cellar.git",
        "git://{host}/cellar.git",
        "https://git.example@{host}/cellar.git",
        "https://git.example:x@{host}/cellar.git",
    ],
)
def test_a_host_that_a_stranger_names_is_sent_no_password(knows_a_password: Cellar, tls: Tls, url: str) -> None:
    with FaultProxy("http://127.0.0.1:9", Faults((ASKING,))) as asking:
        with TlsFront(asking.endpoint, server_side(tls)) as front:
            register_by_a_stranger(knows_a_password, url.format(host=front.endpoint.removeprefix("https://")))
            refused = gc(knows_a_password, "--apply")
        seen = [request.headers for request in asking.all_requests]

    assert refused.returncode == 3
    assert ledger(knows_a_password, "gc/") == []
    assert seen
    if "@" not in url:
        assert not any("authorization" in headers for headers in seen)
    assert not any("hunter2" in value or b"hunter2" in known(value) for headers in seen for value in headers.values())


def test_a_host_that_the_user_names_as_printed_is_sent_the_password(knows_a_password: Cellar, tls: Tls) -> None:
    with FaultProxy("http://127.0.0.1:9", Faults((ASKING,))) as asking:
        with TlsFront(asking.endpoint, server_side(tls)) as front:
            register_by_a_stranger(knows_a_password, f"{front.endpoint}/cellar.git")
            refused = gc(knows_a_password)
            assert "it was asked without your passwords, since your git configuration does not name" in refused.stderr
            advised = refused.stderr.partition("if it may have them: ")[2].partition(")")[0]
            knows_a_password.home.run("sh", "-c", advised, cwd=knows_a_password.work)
            refused = gc(knows_a_password)
        seen = [request.headers.get("authorization", "") for request in asking.all_requests]

    assert "Authentication failed" in refused.stderr
    assert b"hunter2" in known(seen[-1])


def test_what_is_no_registration_and_no_list_of_marks_stops_all(cellar: Cellar) -> None:
    orphaned(cellar, 1)
    client = cellar.server.client()
    for key, words in (
        ("cellar/.lfs-agent/repositories/x.json", "registers no repository: look at it"),
        ("cellar/.lfs-agent/gc/marks.jsonl", "is no list of marks that this version can read"),
    ):
        client.put_object(Bucket=cellar.bucket, Key=key, Body=b'{"url": "/srv", "version": 2}')
        refused = gc(cellar, "--apply")
        assert refused.returncode == 3
        assert words in refused.stderr
        client.delete_object(Bucket=cellar.bucket, Key=key)
    assert len(cellar.keys()) == 1


def test_no_password_of_a_url_gets_into_the_store(cellar: Cellar) -> None:
    cellar.add("main.bin", SIZE, seed=1)
    cellar.git("config", "remote.origin.pushurl", "https://vera:hunter2hunter2@host.example/cellar.git?token=t0ken")
    cellar.git("lfs", "push", "--all", "origin")
    (key,) = ledger(cellar, "repositories/")
    entry = cellar.server.client().get_object(Bucket=cellar.bucket, Key=key)["Body"].read()
    assert json.loads(entry)["url"] == "https://host.example/cellar.git"
    assert b"hunter2" not in entry


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--expect-objects", "1"], "are for --apply"),
        (["--apply", "--expect-objects", "1"], "go together"),
        (["--apply", "--register"], "not allowed with argument"),
        (["--forget", "https://nowhere.example/x.git"], "is not registered: see lfs-agent gc --repositories"),
    ],
)
def test_a_command_line_that_makes_no_sense_changes_nothing(cellar: Cellar, arguments: list[str], words: str) -> None:
    done = gc(cellar, *arguments)
    assert done.returncode == 2
    assert words in done.stderr
    with suppress(KeyError):
        assert gc(cellar, env={"GIT_DIR": str(cellar.work / ".git")}).returncode == 2
