"""Commands as somebody starts them who sits before a terminal: `on_terminal` reads along, `typed_at` answers."""

import fcntl
import os
import pty
import struct
import subprocess
import termios
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.machine import Home


@dataclass(frozen=True)
class Seen:
    """How it ended, all that the terminal was sent, and what went into the pipe."""

    returncode: int
    terminal: str
    piped: str


def on_terminal(
    home: Home, *argv: str, cwd: Path, columns: int = 80, pipe: str = "", env: Mapping[str, str] = {}
) -> Seen:
    """Runs a command. `pipe` "stdout" or "stderr": that one does not go to the terminal."""
    here, there = pty.openpty()
    fcntl.ioctl(there, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    streams = {"stdin": there, "stdout": there, "stderr": there} | ({pipe: subprocess.PIPE} if pipe else {})
    environ = {**home.environ, "TERM": "xterm-256color", **env}
    with subprocess.Popen([*home.runs_as, *argv], cwd=cwd, env=environ, **streams) as process:  # type: ignore[call-overload]
        os.close(there)
        terminal = _read_all(here)
        stream = getattr(process, pipe) if pipe else None
        piped = stream.read().decode() if stream else ""
    os.close(here)
    return Seen(process.returncode, terminal.replace("\r\n", "\n"), piped)


def typed_at(
    prompt: str, typed: str, home: Home, *argv: str, cwd: Path, meanwhile: Callable[[], object] = lambda: None
) -> subprocess.CompletedProcess[str]:
    """Runs a command whose input is a terminal: once it has said `prompt` on stderr, `meanwhile()`, then `typed`."""
    here, there = pty.openpty()
    environ, pipe = {**home.environ, "TERM": "xterm-256color"}, subprocess.PIPE
    with subprocess.Popen([*home.runs_as, *argv], cwd=cwd, env=environ, stdin=there, stdout=pipe, stderr=pipe) as run:
        os.close(there)
        try:
            assert run.stderr
            said = b""
            while not said.endswith(prompt.encode()):
                block = os.read(run.stderr.fileno(), 1 << 16)
                assert block, said
                said += block
            meanwhile()
            os.write(here, typed.encode())
            stdout, more = run.communicate(timeout=120)
        finally:
            os.close(here)  # ends who still waits for an answer
    return subprocess.CompletedProcess(argv, run.returncode, stdout.decode(), (said + more).decode())


def _read_all(terminal: int) -> str:
    """Until nobody has it open any more."""
    chunks: list[bytes] = []
    while True:
        try:
            chunks.append(os.read(terminal, 1 << 16))
        except OSError:  # EIO is how a terminal's end is told
            return b"".join(chunks).decode()
