"""The agent as git-lfs starts it, spoken to line by line: `Agent(home, work)`; and `watch_agent` for git-lfs's own."""

import json
import os
import queue
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any, Self

import lfs_agent
from tests.cellar import random_bytes
from tests.machine import Home
from tests.proxy import FaultProxy

WORKER = Path(lfs_agent.__file__).with_name("worker.py")
SPY = Path(__file__).with_name("spy.py")
DOOR = WORKER.with_name("door.sh")
BY_DOOR = ("/bin/sh", str(DOOR), sys.executable, str(WORKER))
"""As git-lfs starts a worker on Linux."""

Message = dict[str, Any]


class Agent:
    """A worker of the agent. `heard` is every line so far, with the time of its arrival (time.monotonic)."""

    def __init__(
        self,
        home: Home,
        cwd: Path,
        *,
        env: Mapping[str, str] = {},
        spy: Path | None = None,
        options: Sequence[str] = (),
        command: Sequence[str] = (),
    ) -> None:
        """`spy`: where to keep what it does (see spy.py), with `options` of the spy. `command`: to start it by."""
        words = [str(SPY), str(spy), str(WORKER), *options] if spy else [str(WORKER)]
        self.home = home
        self.stderr_file = home.folder / f"stderr-{time.monotonic_ns()}"
        self.heard: list[tuple[float, bytes]] = []
        self._lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._deaf = threading.Event()
        with self.stderr_file.open("wb") as stderr:
            self.process = subprocess.Popen(
                command or [sys.executable, "-I", "-S", *words],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                cwd=cwd,
                env={**home.environ, **env},
                start_new_session=True,
            )
        assert self.process.stdout is not None
        assert self.process.stdin is not None
        self.stdin = self.process.stdin
        self.stdout = self.process.stdout
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._reader.join(10)

    def _read(self) -> None:
        """By poll: while a read waits, the kernel keeps the pipe open, whatever is closed."""
        fd, rest = self.stdout.fileno(), b""
        while not self._deaf.is_set():
            if not select.select([fd], [], [], 0.02)[0]:
                continue
            if not (chunk := os.read(fd, 65536)):
                break
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                self.heard.append((time.monotonic(), line + b"\n"))
                self._lines.put(line + b"\n")
        if rest:
            self.heard.append((time.monotonic(), rest))
        self._lines.put(rest)

    def close_stdout(self) -> None:
        """Nobody listens any more: what the agent writes from now on fails."""
        self.stop_reading()
        self.stdout.close()

    def stop_reading(self) -> None:
        """Nobody listens any more, and nobody has hung up: what the agent writes from now on waits."""
        self._deaf.set()
        self._reader.join()

    @property
    def stderr(self) -> str:
        """All it said there so far."""
        return self.stderr_file.read_text(errors="replace")

    def send(self, line: bytes) -> None:
        """Any bytes, as they are."""
        self.stdin.write(line)
        self.stdin.flush()

    def say(self, **message: Any) -> None:
        """One message, as git-lfs writes it."""
        self.send(json.dumps(message, separators=(",", ":"), ensure_ascii=False).encode() + b"\n")

    def init(self, operation: str, *, workers: int = 8) -> Message:
        """Says init; the answer."""
        self.say(event="init", operation=operation, remote="origin", concurrent=True, concurrenttransfers=workers)
        return self.hear()

    def upload(self, oid: str, path: Path) -> None:
        """Asks for an upload; `path`: the local object."""
        self.say(event="upload", oid=oid, size=path.stat().st_size, path=str(path), action=None)

    def download(self, oid: str, size: int) -> None:
        """Asks for a download."""
        self.say(event="download", oid=oid, size=size, action=None)

    def hear(self, timeout_s: float = 30) -> Message:
        """The next line, which must be a JSON object."""
        line = self._lines.get(timeout=timeout_s)
        assert line.endswith(b"\n"), f"not a line: {line!r}; stderr: {self.stderr}"
        message = json.loads(line)
        assert isinstance(message, dict)
        return message

    def has_begun(self) -> bool:
        """Whether it has come to its own code, where /proc tells: it has taken its streams."""
        process = Path(f"/proc/{self.process.pid}")
        return not process.exists() or (process / "fd" / "4").exists()

    def until_complete(self, timeout_s: float = 60) -> list[Message]:
        """All messages up to the one that completes an object."""
        messages = [self.hear(timeout_s)]
        while messages[-1].get("event") != "complete":
            messages.append(self.hear(timeout_s))
        return messages

    def end(self, timeout_s: float = 10) -> int:
        """Says terminate; the exit status."""
        self.say(event="terminate")
        status = self.process.wait(timeout_s)
        self._reader.join(timeout_s)
        return status

    def left_over(self) -> list[str]:
        """The command lines of processes that it left behind."""
        return processes_of_session(self.process.pid)


def processes_of_session(leader: int) -> list[str]:
    """The command lines of the living processes of a session (setsid), zombies apart."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(") ")[2].split()
            if int(fields[3]) == leader and fields[0] != "Z":
                found.append((stat.parent / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue  # it has just ended
    return found


def processes_of(home: Home) -> dict[int, str]:
    """The command lines of all living processes of a user, by number."""
    mine = f"\0HOME={home.folder}\0".encode()
    found = {}
    for environ in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mine in b"\0" + environ.read_bytes():
                found[int(environ.parent.name)] = (environ.parent / "cmdline").read_text().replace("\0", " ")
        except OSError:
            continue  # it has just ended
    return found


def kill_all(home: Home, by: signal.Signals, name: str = "") -> None:
    """A signal for all processes of a user; with `name`, for those of this program."""
    for number, line in processes_of(home).items():
        if any(word.endswith(name) for word in line.split(" ")[:4]):
            with suppress(ProcessLookupError):  # it has just ended
                os.kill(number, by)


def wait_for(condition: Callable[[], bool], seconds: float) -> None:
    """Looks often; AssertionError when the time is over."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def new_repository(home: Home, folder: Path, url: str) -> Path:
    """An empty repository whose `lfs.url` the user has set; nothing is registered."""
    home.git("init", "-q", folder)
    home.git("config", "lfs.url", url, cwd=folder)
    return folder


def keep_local(work: Path, oid: str, content: bytes) -> Path:
    """Puts an object where git-lfs keeps it."""
    path = work / ".git" / "lfs" / "objects" / oid[:2] / oid[2:4] / oid
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def listed_by_a_worker(work: Path) -> bool:
    """Whether one has got a list from the store, for all workers of its session to look at."""
    sessions = work / ".git" / "lfs" / "lfs-agent" / "sessions"
    return any(path.stat().st_size for path in sessions.glob("*.listing"))


def files_below(folder: Path) -> list[str]:
    """The files there, relative, in order."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def left_in_tmp(storage: Path) -> list[str]:
    """The files where an LFS storage has those that git-lfs renames; but for those of its own filters.

    These have numbers for names, and stay where git does not wait for a filter that it started to look for changes.
    """
    return [name for name in files_below(storage / "tmp") if not name.isdigit()]


def watch_agent(home: Home, log: Path, *options: str) -> None:
    """Lets git-lfs start the agent under the spy; after `lfs-agent install`."""
    words = ["-I", "-S", SPY, log, WORKER, *options]
    home.git("config", "--global", "lfs.customtransfer.lfs-agent.path", sys.executable)
    home.git("config", "--global", "lfs.customtransfer.lfs-agent.args", " ".join(f"'{word}'" for word in words))


def seen_by_spy(log: Path, event: str) -> list[Message]:
    """What the spy noted of one kind."""
    lines = log.read_text().splitlines() if log.exists() else []
    return [note for note in map(json.loads, lines) if note["event"] == event]


def kill_git(home: Home, work: Path, command: list[str], proxy: FaultProxy, when: Callable[[], bool]) -> None:
    """Runs git through the proxy, and kills all of it, the workers too, when it is time to."""
    environ = {**home.environ, "AWS_ENDPOINT_URL_S3": proxy.endpoint}
    quiet = subprocess.DEVNULL
    words = [*home.runs_as, "git", *command]
    process = subprocess.Popen(
        words, cwd=work, env=environ, start_new_session=True, stdin=quiet, stdout=quiet, stderr=quiet
    )
    patience = time.monotonic() + 60
    while not when():
        assert process.poll() is None, "it ended before it was killed"
        assert time.monotonic() < patience
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def new_object(work: Path, seed: int, size: int = 20_000) -> tuple[str, Path]:
    """Oid and file of a local object."""
    content = random_bytes(size, seed)
    oid = sha256(content).hexdigest()
    return oid, keep_local(work, oid, content)


def push(agent: Agent, work: Path, seed: int, size: int = 20_000) -> str:
    """Lets a worker upload an object; its oid."""
    oid, path = new_object(work, seed, size)
    agent.upload(oid, path)
    answer = agent.until_complete()[-1]
    assert answer == {"event": "complete", "oid": oid}, answer
    return oid


def workers_in(work: Path) -> list[int]:
    """The processes that have begun to move objects, in order."""
    found = []
    for record in (work / ".git" / "lfs" / "lfs-agent" / "sessions").glob("*.jsonl"):
        lines = map(json.loads, record.read_text().splitlines())
        found += [line["pid"] for line in lines if line["event"] == "started"]
    return found


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except OSError:
        return False
