"""`on_terminal`: a command as somebody starts it who sits before a terminal of so many columns."""

import fcntl
import os
import pty
import struct
import subprocess
import termios
from collections.abc import Mapping
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


def _read_all(terminal: int) -> str:
    """Until nobody has it open any more."""
    chunks: list[bytes] = []
    while True:
        try:
            chunks.append(os.read(terminal, 1 << 16))
        except OSError:  # EIO is how a terminal's end is told
            return b"".join(chunks).decode()
