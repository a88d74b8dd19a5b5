"""How objects are moved in a storm: by the conversation alone, or by real git."""

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol, Self

from tests.e2e.dialogue import keep_local, processes_of_session
from tests.machine import Home
from tests.storm.nursery import Order

_PATIENCE_S = 90.0
"""Nothing in a storm takes as long as this."""
_POLL_S = 0.02
ROOT = Path(__file__).parents[2]

Killer = Callable[[], signal.Signals | None]
"""Asked all the time: the signal that is to end everything now."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a push or a pull ended. `wrong`: what should never be seen, as sentences."""

    well: bool
    killed: bool
    wrong: tuple[str, ...]
    said: str


class Mover(Protocol):
    """Two repositories with a storage each: from the first objects go up, into the other they come down."""

    up: Path
    down: Path

    def push(self, environ: Mapping[str, str], killer: Killer) -> Ended: ...
    def pull(self, environ: Mapping[str, str], killer: Killer) -> Ended: ...


class Nursery:
    """The process of tests/storm/nursery.py, for as many sessions as are wanted, one after another."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.storm.nursery"], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def run(self, order: Order, killer: Killer) -> tuple[bool, list[str]]:
        """Whether it was killed; and what was wrong with how it ended."""
        assert self._process.stdin
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        self._process.stdin.flush()
        pid = int(self._line())
        killed, wrong = _watched(pid, self._has_ended, killer)
        status = int(self._line())
        if status and not killed:
            wrong.append(f"git-lfs's stand-in ended with {status}")
        return killed, wrong

    def _has_ended(self) -> bool:
        assert self._process.stdout
        return bool(select.select([self._process.stdout], [], [], _POLL_S)[0])

    def _line(self) -> bytes:
        assert self._process.stdout
        line = b""
        while not line.endswith(b"\n"):  # unbuffered: select sees all that is left
            got = os.read(self._process.stdout.fileno(), 1)
            assert got, "the nursery has ended"
            line += got
        return line


def _watched(pid: int, has_ended: Callable[[], bool], killer: Killer) -> tuple[bool, list[str]]:
    """Whether the session `pid` was killed before it ended; and what was wrong with it."""
    killed, wrong = False, []
    deadline = time.monotonic() + _PATIENCE_S
    while not has_ended():
        ending = None if killed else killer()
        if time.monotonic() > deadline:
            wrong.append(f"it did not end in {_PATIENCE_S:.0f} s")
            ending = signal.SIGKILL
        if ending:
            killed = True
            os.killpg(pid, ending)
    if killed:
        until = time.monotonic() + 5
        while (left := processes_of_session(pid)) and time.monotonic() < until:
            time.sleep(_POLL_S)
        if left:
            wrong.append(f"processes are left: {left}")
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
    return killed, wrong


class Conversation:
    """Workers, spoken to by a stand-in of git-lfs."""

    def __init__(self, nursery: Nursery, home: Home, folder: Path, url: str, contents: Sequence[bytes], workers: int):
        self._nursery = nursery
        self._home = home
        self._folder = folder
        self._workers = workers
        self.up, self.down = folder / "up", folder / "down"
        for work in (self.up, self.down):
            home.git("init", "-q", "--template=", work)
            home.git("config", "lfs.url", url, cwd=work)
        self._objects = {sha256(content).hexdigest(): content for content in contents}
        self._local = {oid: keep_local(self.up, oid, content) for oid, content in self._objects.items()}

    def push(self, environ: Mapping[str, str], killer: Killer) -> Ended:
        wanted = [{"oid": oid, "size": len(self._objects[oid]), "path": str(at)} for oid, at in self._local.items()]
        return self._talk("upload", self.up, wanted, environ, killer)

    def pull(self, environ: Mapping[str, str], killer: Killer) -> Ended:
        objects = self.down / ".git" / "lfs" / "objects"
        wanted = [
            {"oid": oid, "size": len(content)}
            for oid, content in self._objects.items()
            if not (objects / oid[:2] / oid[2:4] / oid).exists()
        ]
        return self._talk("download", self.down, wanted, environ, killer)

    def _talk(
        self, event: str, work: Path, wanted: list[dict[str, Any]], environ: Mapping[str, str], killer: Killer
    ) -> Ended:
        heard = self._folder / f"heard-{time.monotonic_ns()}"
        heard.mkdir()
        order: Order = {
            "operation": event,
            "workers": self._workers,
            "requests": wanted,
            "cwd": str(work),
            "environ": {**self._home.environ, **environ},
            "objects": str(work / ".git" / "lfs" / "objects"),
            "folder": str(heard),
        }
        killed, wrong = self._nursery.run(order, killer)
        wrong += _impurities(heard, killed)
        answers = [message for message in _messages(heard) if message.get("event") == "complete"]
        errors = [message["error"]["message"] for message in answers if "error" in message]
        done = {message["oid"] for message in answers if "error" not in message}
        if not killed and sorted(message["oid"] for message in answers) != sorted(w["oid"] for w in wanted):
            wrong.append(f"not every object was answered once: {answers}")
        wrong += [f"said: {error}" for error in errors if not _is_sentence(error)]
        return Ended(done == {w["oid"] for w in wanted}, killed, tuple(wrong), "\n".join(errors))


def _is_sentence(text: str) -> bool:
    return bool(text) and "unexpected " not in text and "Traceback" not in text and "\n" not in text


def _impurities(heard: Path, killed: bool) -> list[str]:
    """What is not a line of the protocol, and what was said elsewhere."""
    wrong = [f"stderr: {path.read_text()[-2000:]}" for path in heard.glob("*.stderr") if path.stat().st_size]
    for path in heard.glob("*.stdout"):
        lines = path.read_bytes().split(b"\n")
        if lines.pop() and not killed:
            wrong.append("the last line has no end")
        wrong += [f"not of the protocol: {line!r}" for line in lines if not _is_message(line)]
    statuses = {path.read_text() for path in heard.glob("*.status")}
    if not killed and statuses != {"0"}:
        wrong.append(f"workers ended with {sorted(statuses)}")
    return wrong


def _is_message(line: bytes) -> bool:
    try:
        message = json.loads(line)
    except ValueError:
        return False
    return message == {} or message.get("event") in ("progress", "complete")


def _messages(heard: Path) -> Iterator[dict[str, Any]]:
    for path in heard.glob("*.stdout"):
        for line in path.read_bytes().split(b"\n")[:-1]:
            if _is_message(line):
                yield json.loads(line)


class Git:
    """Real git and git-lfs: a push, and a clone or a pull elsewhere."""

    def __init__(self, home: Home, folder: Path, url: str, contents: Sequence[bytes], *, clones: bool) -> None:
        self._home = home
        self._clones = clones
        self._origin = folder / "origin.git"
        self.up, self.down = folder / "up", folder / "down"
        home.install()
        home.git("init", "-q", "--bare", self._origin)
        home.git("init", "-q", self.up)
        home.git("remote", "add", "origin", self._origin, cwd=self.up)
        (self.up / ".gitattributes").write_text("*.bin filter=lfs diff=lfs merge=lfs -text\n")
        (self.up / ".lfsconfig").write_text(f"[lfs]\n\turl = {url}\n")
        for number, content in enumerate(contents):
            (self.up / f"{number}.bin").write_bytes(content)
        home.git("add", "-A", cwd=self.up)
        home.git("commit", "-q", "-m", "Fill the cellar", cwd=self.up)

    def push(self, environ: Mapping[str, str], killer: Killer) -> Ended:
        return self._run(["push", "-q", "origin", "main"], self.up, environ, killer)

    def pull(self, environ: Mapping[str, str], killer: Killer) -> Ended:
        if self._clones and not self.down.exists():
            return self._run(["clone", "-q", str(self._origin), str(self.down)], self.up, environ, killer)
        if self._clones:  # as git advises where a checkout failed
            return self._run(["restore", "--source=HEAD", ":/"], self.down, environ, killer)
        if not self.down.exists():
            self._home.git("clone", "-q", self._origin, self.down, env={"GIT_LFS_SKIP_SMUDGE": "1"})
        ended = self._run(["lfs", "pull"], self.down, environ, killer)
        if ended.well:  # no pull writes over the half of a file that a killed git-lfs was writing; all objects are here
            self._home.git("restore", ".", cwd=self.down, check=False)
        return ended

    def _run(self, words: Sequence[str], cwd: Path, environ: Mapping[str, str], killer: Killer) -> Ended:
        said_in = self._home.folder / f"said-{time.monotonic_ns()}"
        with said_in.open("wb") as output:
            process = subprocess.Popen(
                ["git", *words],
                cwd=cwd,
                env={**self._home.environ, **environ},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

        def has_ended() -> bool:
            try:
                process.wait(_POLL_S)
            except subprocess.TimeoutExpired:
                return False
            return True

        killed, wrong = _watched(process.pid, has_ended, killer)
        said = said_in.read_text(errors="replace")
        if "Traceback" in said or "unexpected " in said or "panic" in said:
            wrong.append(f"said: {said}")
        return Ended(process.returncode == 0, killed, tuple(wrong), said)
