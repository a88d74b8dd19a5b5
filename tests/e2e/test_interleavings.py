"""Push, gc, prune and repair by several clones of two repositories that share a store: what is named is never lost.

A small model decides at random who does what next; after each step every object that a pushed ref names is in the
store, and what a clone has staged, stashed or committed, and not pushed, is in that clone or in the store. At the end
each repository is cloned afresh, with all its branches. A longer search: --hypothesis-profile=long.
"""

import hashlib
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import ClassVar, Protocol

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from tests.cellar import new_share, random_bytes
from tests.machine import Home
from tests.servers import Server

CONTENTS = {hashlib.sha256(content).hexdigest(): content for content in (random_bytes(900 + n, n) for n in range(4))}
OIDS = tuple(CONTENTS)
NAMED = re.compile(rb"^oid sha256:([0-9a-f]{64})$", re.MULTILINE)


class Shelf(Protocol):
    """Where the objects lie, looked at and damaged behind the agent's back."""

    @property
    def url(self) -> str: ...

    def read(self, oid: str) -> bytes | None: ...

    def delete(self, oid: str) -> None: ...

    def damage(self, oid: str) -> None: ...


@dataclass(frozen=True)
class BucketShelf:
    server: Server
    bucket: str
    prefix: str

    @property
    def url(self) -> str:
        return f"s3::{self.bucket}/{self.prefix}"

    def _key(self, oid: str) -> str:
        return f"{self.prefix}/{oid[:2]}/{oid[2:4]}/{oid}"

    def read(self, oid: str) -> bytes | None:
        client = self.server.client()
        try:
            return client.get_object(Bucket=self.bucket, Key=self._key(oid))["Body"].read()
        except client.exceptions.NoSuchKey:
            return None

    def delete(self, oid: str) -> None:
        self.server.client().delete_object(Bucket=self.bucket, Key=self._key(oid))

    def damage(self, oid: str) -> None:
        self.server.client().put_object(Bucket=self.bucket, Key=self._key(oid), Body=b"damaged")


@dataclass(frozen=True)
class FolderShelf:
    folder: Path

    @property
    def url(self) -> str:
        return f"dir::{self.folder}"

    def _at(self, oid: str) -> Path:
        return self.folder / oid[:2] / oid[2:4] / oid

    def read(self, oid: str) -> bytes | None:
        return self._at(oid).read_bytes() if self._at(oid).exists() else None

    def delete(self, oid: str) -> None:
        self._at(oid).unlink()

    def damage(self, oid: str) -> None:
        self._at(oid).chmod(0o644)
        self._at(oid).write_bytes(b"damaged")


def named(home: Home, repository: Path, *which: str) -> set[str]:
    """The oids that a repository names: git's own words, and none of ours."""
    environ = {**home.environ, "GIT_NO_LAZY_FETCH": "1"}
    walk = subprocess.run(
        ["git", "rev-list", "--objects", *which], cwd=repository, env=environ, capture_output=True, check=True
    )
    names = b"\n".join(line[:40] for line in walk.stdout.splitlines())
    read = subprocess.run(
        ["git", "cat-file", "--batch"], input=names, cwd=repository, env=environ, capture_output=True, check=True
    )
    return {oid.decode() for oid in NAMED.findall(read.stdout)}


@dataclass
class Clone:
    """A work tree, and what only its owner knows of."""

    work: Path
    origin: Path
    home: Home
    mine: set[str] = field(default_factory=set)
    """Added here, and in no push that succeeded since."""

    def git(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.home.git(*words, cwd=self.work, check=check)

    def agent(self, *words: str, env: Mapping[str, str] = {}) -> subprocess.CompletedProcess[str]:
        return self.home.run("lfs-agent", *words, cwd=self.work, env=env, check=False)

    def knows(self, ref: str) -> bool:
        return self.git("rev-parse", "-q", "--verify", ref, check=False).returncode == 0

    def head(self) -> str:
        return self.git("rev-parse", "HEAD").stdout.strip()

    @cached_property
    def root(self) -> str:
        """The commit that all branches have begun with."""
        return self.git("rev-list", "--max-parents=0", "origin/main").stdout.strip()

    def has(self, oid: str) -> bool:
        path = self.work / ".git" / "lfs" / "objects" / oid[:2] / oid[2:4] / oid
        return path.exists() and path.read_bytes() == CONTENTS[oid]

    def add(self, name: str, oid: str) -> None:
        (self.work / name).write_bytes(CONTENTS[oid])
        self.git("add", name)
        self.mine.add(oid)

    def still_names(self) -> set[str]:
        """What its branches, its stash and its index need."""
        stash = ["refs/stash"] if (self.work / ".git" / "refs" / "stash").exists() else []
        return named(self.home, self.work, "--branches", "--indexed-objects", *stash)


clones = st.integers(0, 2)
collectors = st.sampled_from([3, 3, 3, 0, 2])
"""The fourth clone remembers nothing, neither in reflogs nor in an index: what it deletes, nobody named."""
branches = st.sampled_from(["main", "topic"])
contents = st.sampled_from([0, 0, 0, 1, 2, 3])
"""Which object, of those that the store has and nothing names first: whoever takes up one of these is in danger."""


class Interleavings(RuleBasedStateMachine):
    """Three clones of one repository, one of which only cleans up, and one of another, over one store."""

    home: ClassVar[Home]
    shelves: ClassVar[Iterator[Shelf]]
    folder: ClassVar[Path]
    numbers: ClassVar[Iterator[int]]

    @initialize()
    def build(self) -> None:
        self.shelf = next(self.shelves)
        self.base = self.folder / str(next(self.numbers))
        self.origins = [self.base / f"{name}.git" for name in ("one", "two")]
        for origin in self.origins:
            self.home.git("init", "-q", "--bare", origin)
        self.clones: list[Clone] = []
        self.names = count(1)
        for name, origin in zip(("vera", "otto", "nina"), (*self.origins[:1] * 2, self.origins[1]), strict=True):
            work = self.base / name
            self.home.git("clone", "-q", origin, work)
            clone = Clone(work, origin, self.home)
            self.clones.append(clone)
            if name == "otto":
                continue
            (work / ".gitattributes").write_text("*.bin filter=lfs diff=lfs merge=lfs -text\n")
            (work / ".lfsconfig").write_text(f"[lfs]\n\turl = {self.shelf.url}\n")
            clone.add("model.bin", OIDS[0])
            clone.git("add", ".")
            clone.git("commit", "-q", "-m", "Open the cellar")
            self._pushed(clone, "main")
        self.clones[1].git("pull", "-q", "origin", "main")
        self.home.git("clone", "-q", self.origins[0], self.base / "gus")
        self.clones.append(Clone(self.base / "gus", self.origins[0], self.home))
        assert all(clone.root for clone in self.clones)

    # What people do

    @rule(who=clones, branch=branches, nth=contents, how=st.sampled_from(["anew", "amend", "go on", "join"]))
    def push(self, who: int, branch: str, nth: int, how: str) -> None:
        """A commit goes to the remote, by force where it has to: what it takes the place of is named no more."""
        self._push(self.clones[who], branch, self.nth(nth), how)
        self.check(self.clones[who])

    def _push(self, clone: Clone, branch: str, oid: str, how: str) -> None:
        clone.git("fetch", "-q", "--prune")
        base = {"anew": [clone.root], "join": [f"origin/{branch}"]}.get(how, [])
        if how == "join" and not clone.knows(f"refs/remotes/origin/{branch}"):
            base = []
        clone.git("checkout", "-q", "--no-track", "--force", "-B", branch, *base)
        clone.add("model.bin", oid)
        amend = ["--amend"] if how == "amend" and clone.head() != clone.root else []
        clone.git("commit", "-q", "--allow-empty", *amend, "-m", f"Version {next(self.names)}")
        self._pushed(clone, branch)

    @rule(who=clones, branch=branches, onto=branches, fetch=st.booleans())
    def push_what_is_there(self, who: int, branch: str, onto: str, fetch: bool) -> None:
        """A branch goes to the remote, perhaps by another name, with nothing new in it.

        Who does not ask first what the remote has is believed by git-lfs, and then sends nothing: that is well as long
        as the store has it all.
        """
        clone = self.clones[who]
        if clone.knows(f"refs/heads/{branch}"):
            if fetch or not named(self.home, clone.work, f"refs/heads/{branch}") <= self.stored():
                clone.git("fetch", "-q", "--prune")
            self._pushed(clone, branch, onto)
            self.check(clone)

    def _pushed(self, clone: Clone, branch: str, onto: str = "") -> None:
        done = clone.git("push", "-q", "--force", "origin", f"{branch}:{onto or branch}", check=False)
        wanted = named(self.home, clone.work, f"refs/heads/{branch}")
        if done.returncode == 0:
            clone.mine -= wanted
        else:
            assert not all(map(clone.has, wanted)), done.stderr  # git-lfs sends only what the clone has

    @rule(who=clones, nth=contents, how=st.sampled_from(["stage", "commit", "stash"]))
    def keep(self, who: int, nth: int, how: str) -> None:
        """Something is added, and not pushed."""
        oid = self.nth(nth)
        clone = self.clones[who]
        if how == "stash":
            clone.git("stash", "drop", "-q", check=False)
        clone.add({"stage": "staged.bin", "commit": "model.bin", "stash": "stashed.bin"}[how], oid)
        if how == "stash":
            clone.git("stash", "-q")
        elif how == "commit":
            clone.git("commit", "-q", "--allow-empty", "-m", f"Version {next(self.names)}")
        self.check(clone)

    @rule(who=clones)
    def delete_branch(self, who: int) -> None:
        self.clones[who].git("push", "-q", "origin", ":topic", check=False)
        self.check(self.clones[who])

    # What the agent does

    @rule(who=clones)
    def prune(self, who: int) -> None:
        done = self.clones[who].agent("prune", "--apply")
        assert done.returncode in (0, 1, 3), done
        self.check(self.clones[who])

    @rule(who=collectors)
    def gc(self, who: int) -> None:
        """It marks what nothing names, and deletes what was marked before and nothing names still."""
        self._collect(self.clones[who])
        self.check(self.clones[who])

    @rule(who=collectors, other=clones, nth=contents)
    def push_during_gc(self, who: int, other: int, nth: int) -> None:
        """The push comes when the repositories have been asked, and before something is deleted."""
        clone, oid = self.clones[other], self.nth(nth)
        clone.git("fetch", "-q", "--prune")
        clone.git("checkout", "-q", "--no-track", "--force", "-B", "during", clone.root)
        clone.add("model.bin", oid)
        clone.git("commit", "-q", "--allow-empty", "-m", f"Version {next(self.names)}")
        hook, done = self.base / "hook", self.base / "hook-has-run"
        done.unlink(missing_ok=True)
        push = shlex.join(["git", "-C", str(clone.work), "push", "-q", "--force", "origin", "during:topic"])
        environ = shlex.join(["env", "-i", *(f"{name}={value}" for name, value in self.home.environ.items())])
        hook.write_text(
            f'#!/bin/sh\n"$@" || exit\n[ -e {done} ] || {{ : > {done}; {environ} {push} >&2 2> {done}; }}\n'
        )
        hook.chmod(0o755)
        # git runs it when somebody clones, after it has told them of the refs.
        (self.base / "gitconfig").write_text(
            f"[include]\n\tpath = ~/.gitconfig\n[uploadpack]\n\tpackObjectsHook = {hook}\n"
        )
        self._collect(self.clones[who], str(self.base / "gitconfig"))
        if done.exists():
            assert done.read_text() == ""
            clone.mine -= named(self.home, clone.work, "refs/heads/during")
        self.check(clone)

    def _collect(self, clone: Clone, config: str = "") -> None:
        words = ["gc", "--grace", "0s", "--apply"]
        done = clone.agent(*words)
        if confirm := re.search(r"--expect-objects \d+ --expect-bytes \d+", done.stderr):
            done = clone.agent(*words, *confirm[0].split(), env={"GIT_CONFIG_GLOBAL": config} if config else {})
        assert done.returncode == 0, done

    @rule(who=clones, nth=contents, damaged=st.booleans())
    def repair(self, who: int, nth: int, damaged: bool) -> None:
        """The store loses or damages an object; a clone that has it mends that."""
        clone, oid = self.clones[who], OIDS[nth]
        if oid in self.stored() and clone.has(oid) and oid in named(self.home, clone.work, "--all"):
            (self.shelf.damage if damaged else self.shelf.delete)(oid)
            done = clone.agent(*(["repair", "--deep"] if damaged else ["push-missing"]), oid)
            assert done.returncode == 0, done
            assert self.shelf.read(oid) == CONTENTS[oid]
        self.check(clone)

    # What holds

    def check(self, clone: Clone) -> None:
        """After a step of that clone."""
        stored = self.stored()
        for origin in self.origins:
            assert named(self.home, origin, "--all") <= stored, f"{origin.name} names what is not in the store"
        for each in (clone, *(other for other in self.clones if other is not clone and other.mine - stored)):
            alone = {oid for oid in each.mine - stored if not each.has(oid)}
            assert not alone & each.still_names(), f"{each.work.name} has added what is nowhere now"

    def nth(self, number: int) -> str:
        """The object that is meant."""
        orphans = self.stored().difference(*(named(self.home, origin, "--all") for origin in self.origins))
        return sorted(OIDS, key=lambda oid: oid not in orphans)[number]

    def stored(self) -> set[str]:
        """What the store has, whole."""
        return {oid for oid, content in CONTENTS.items() if self.shelf.read(oid) == content}

    def teardown(self) -> None:
        for origin in getattr(self, "origins", []):
            fresh = self.base / f"fresh-{origin.stem}"
            self.home.git("clone", "-q", "--no-checkout", origin, fresh)
            for branch in self.home.git("branch", "-r", "--format=%(refname)", cwd=fresh).stdout.split():
                if not branch.endswith("/HEAD"):
                    words = ["checkout", "-q", "--detach", "--force", branch]
                    self.home.git(*words, cwd=fresh, env={"GIT_LFS_SKIP_SMUDGE": "0"})
                    for file in fresh.glob("*.bin"):
                        assert file.read_bytes() in CONTENTS.values()
        shutil.rmtree(getattr(self, "base", self.folder / "nothing"), ignore_errors=True)


def try_the_most_dangerous_order(machine: Interleavings) -> None:
    """What the other repository names is not gc's; what was marked is named again between a gc's look and its end.

    And what somebody has staged is pruned there, while the store still has it.
    """
    machine.build()
    machine.push(2, "topic", 1, "anew")
    machine.push(0, "topic", 2, "anew")
    machine.push(0, "topic", 3, "amend")
    machine.gc(3)
    machine.push_during_gc(3, 1, 0)
    machine.keep(2, 0, "stage")  # what the store has, and nobody else names
    machine.prune(2)
    machine.gc(3)
    machine.gc(3)
    machine.teardown()


def explore(machine: type[Interleavings], *, examples: int, steps: int) -> None:
    long = settings().max_examples > 1000
    chosen = settings(
        max_examples=examples * (50 if long else 1),
        stateful_step_count=steps * (3 if long else 1),
        derandomize=not long,
        database=None,
        deadline=None,
        phases=[Phase.generate],  # a smaller example takes as long to find as the machine runs in all
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )
    run_state_machine_as_test(machine, settings=chosen)


@pytest.mark.parametrize("where", ["bucket", "folder"])
def test_in_every_order_what_is_named_is_never_lost(
    home: Home, any_server: Server, bucket: str, tmp_path: Path, where: str
) -> None:
    home.environ |= any_server.environ() | {"GIT_LFS_SKIP_SMUDGE": "1"}
    home.install()
    home.git("config", "--global", "lfs.concurrenttransfers", "1")

    def shelves() -> Iterator[Shelf]:
        for number in count(1):
            if where == "bucket":
                yield BucketShelf(any_server, bucket, f"shelf-{number}")
            else:
                folder = new_share(tmp_path / f"shelf-{number}")
                home.git("config", "--global", "--add", "lfs-agent.trusted", f"dir::{folder}")
                yield FolderShelf(folder)

    class Here(Interleavings):
        pass

    Here.home, Here.shelves, Here.folder, Here.numbers = home, shelves(), tmp_path, count(1)
    try_the_most_dangerous_order(Here())
    explore(Here, examples=3, steps=20)
