"""A cellar: a work tree that tracks weights with Git LFS, its bare remote, a committed `lfs.url`."""

import hashlib
import json
import random
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.machine import Home
from tests.servers import Server

PATTERNS = ("*.safetensors", "*.bin", "*.pt")

ASKED_TWICE = {"LFS_AGENT_FIRST_DEADLINE": "60", "LFS_AGENT_RETRIES": "1"}
"""An environment in which a store that fails is given up by number, not by time."""
NOBODY_THERE = {**ASKED_TWICE, "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9"}
"""One in which no store can be reached."""


def random_bytes(size: int, seed: int) -> bytes:
    """The same `size` bytes for the same seed, incompressible."""
    return random.Random(seed).randbytes(size)


def new_share(folder: Path) -> Path:
    """A shared folder that is a store, and has no objects yet."""
    (folder / ".lfs-agent").mkdir(parents=True)
    return folder


def findings(done: subprocess.CompletedProcess[str]) -> dict[str, dict[str, Any]]:
    """By oid, what a command said with --json."""
    return {finding["oid"]: finding for finding in map(json.loads, done.stdout.splitlines())}


def statuses(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    """By oid, the statuses of these."""
    return {oid: finding["status"] for oid, finding in findings(done).items()}


@dataclass(frozen=True)
class Cellar:
    """A repository whose weights go to `bucket`/`prefix`: .gitattributes and .lfsconfig are committed."""

    home: Home
    server: Server
    bucket: str
    prefix: str
    origin: Path
    work: Path

    @property
    def url(self) -> str:
        return f"s3::{self.bucket}/{self.prefix}"

    def build(self) -> None:
        """Makes the bare remote and the work tree with its first commit, pushed."""
        self.home.git("init", "-q", "--bare", self.origin)
        self.home.git("init", "-q", self.work)
        self.git("remote", "add", "origin", str(self.origin))
        attributes = "".join(f"{pattern} filter=lfs diff=lfs merge=lfs -text\n" for pattern in PATTERNS)
        (self.work / ".gitattributes").write_text(attributes)
        (self.work / ".lfsconfig").write_text(f"[lfs]\n\turl = {self.url}\n")
        self.commit("Open the cellar")
        self.git("push", "-q", "-u", "origin", "main")

    def git(self, *arguments: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
        """git in the work tree."""
        return self.home.git(*arguments, cwd=self.work, check=check)

    def write(self, path: str, size: int, seed: int = 0) -> str:
        """Writes a file of random bytes; gives its SHA-256, the oid it gets in Git LFS."""
        content = random_bytes(size, seed)
        file = self.work / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        return hashlib.sha256(content).hexdigest()

    def commit(self, message: str) -> str:
        """Commits everything in the work tree; gives the commit."""
        self.git("add", "-A")
        self.git("commit", "-q", "-m", message)
        return self.git("rev-parse", "HEAD").stdout.strip()

    def add(self, path: str, size: int, seed: int = 0) -> str:
        """write() and commit(); gives the oid."""
        oid = self.write(path, size, seed)
        self.commit(f"Add {path}")
        return oid

    def push(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """`git push origin HEAD`, or with other arguments."""
        return self.git("push", *(arguments or ("origin", "HEAD")), check=check)

    def clone(self, to: Path, *arguments: str, home: Home | None = None) -> Path:
        """A clone of the remote, by this or another user; gives its folder."""
        (home or self.home).git("clone", "-q", *arguments, self.origin, to)
        return to

    def key(self, oid: str) -> str:
        """Where an object is in the bucket."""
        return f"{self.prefix}/{oid[:2]}/{oid[2:4]}/{oid}"

    def keys(self) -> list[str]:
        """The keys of all stored objects, in order."""
        return self.server.keys(self.bucket, self.prefix)

    def put(self, oid: str, body: bytes) -> None:
        """Writes into the bucket behind the agent's back."""
        self.server.client().put_object(Bucket=self.bucket, Key=self.key(oid), Body=body)

    def delete(self, oid: str) -> None:
        """Takes an object from the bucket behind the agent's back."""
        self.server.client().delete_object(Bucket=self.bucket, Key=self.key(oid))

    def stored(self, oid: str) -> bytes:
        """What the bucket has."""
        return self.server.client().get_object(Bucket=self.bucket, Key=self.key(oid))["Body"].read()

    def recorded(self) -> list[dict[str, Any]]:
        """The events of all sessions here, in order."""
        sessions = sorted((self.work / ".git" / "lfs" / "lfs-agent" / "sessions").glob("*.jsonl"))
        return [json.loads(line) for session in sessions for line in session.read_text().splitlines()]

    def local_object(self, oid: str, work: Path | None = None) -> Path:
        """Where git-lfs keeps an object locally, in this or another work tree."""
        return (work or self.work) / ".git" / "lfs" / "objects" / oid[:2] / oid[2:4] / oid
