"""File systems that fail: `Disk(folder, "16m")`, to be filled and made read-only; `make_stale`, as NFS does."""

import errno
import itertools
import os
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Self

import pytest

from tests.machine import Home


def make_stale(monkeypatch: pytest.MonkeyPatch) -> list[OSError]:
    """Lets the next fstat fail, as over NFS where another machine has the file replaced; gives what is to be raised."""
    stale = [OSError(errno.ESTALE, os.strerror(errno.ESTALE))]
    whole = os.fstat

    def once(fd: int) -> os.stat_result:
        if stale:
            raise stale.pop()
        return whole(fd)

    monkeypatch.setattr(os, "fstat", once)
    return stale


class Disk:
    """A tmpfs at `at`, in a mount namespace of its own: nothing of it is left when the test ends, however it ends."""

    def __init__(self, at: Path, size: str) -> None:
        """`size`: as tmpfs wants it, "16m"; skips the test where nobody lets us mount anything."""
        if not (shutil.which("unshare") and shutil.which("nsenter")):
            pytest.skip(
                "there is no unshare or no nsenter (util-linux, Linux): no file system can be mounted for a test"
            )
        at.mkdir(parents=True, exist_ok=True)
        self.at = at
        self._user = [] if os.geteuid() == 0 else ["--user"]
        script = 'mount -t tmpfs -o "size=$1" lfs-agent-test "$2" && echo mounted && read -r _'
        self._holder = subprocess.Popen(
            ["unshare", "--mount", *self._user, *(["--map-root-user"] if self._user else [])]
            + ["sh", "-c", script, "sh", size, str(at)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert self._holder.stdout
        if (said := self._holder.stdout.readline()) != "mounted\n":
            self.__exit__()
            pytest.skip(f"no file system can be mounted here, neither as root nor in a user namespace: {said.strip()}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._holder.communicate("")

    @property
    def content(self) -> Path:
        """What is on it, for who stands outside."""
        return Path(f"/proc/{self._holder.pid}/root{self.at}")

    def inside(self) -> list[str]:
        """The words that let a command see the disk."""
        keep = ["--preserve-credentials"] if self._user else []
        enter = ["nsenter", f"--target={self._holder.pid}", "--mount", *self._user, *keep]
        again = 'cd "$0" && exec "$@"'  # a namespace is entered at its root
        return ["sh", "-c", f'exec {shlex.join(enter)} sh -c {shlex.quote(again)} "$(pwd -P)" "$@"', "sh"]

    def run(
        self, home: Home, *argv: str | Path, cwd: Path, check: bool = True, env: Mapping[str, str] = {}
    ) -> subprocess.CompletedProcess[str]:
        """`home.run` with the disk mounted."""
        return home.run(*self.inside(), *argv, cwd=cwd, check=check, env=env)

    def remount(self, options: str) -> None:
        """With other options: "ro", or a larger "size=64m"."""
        both = ["lfs-agent-test", str(self.at)]  # with one name only, mount repeats options that a user may not give
        subprocess.run([*self.inside(), "mount", "-o", f"remount,{options}", *both], check=True)

    def fill(self, leave: int = 0) -> None:
        """Leaves room for `leave` bytes, about; where that is nothing, for not a byte."""
        keeps = self.content / "ballast-leave"
        keeps.write_bytes(b"\0" * leave)
        for size in (1 << 20, 1 << 12):
            with suppress(OSError):
                for number in itertools.count():
                    (self.content / f"ballast-{size}-{number}").write_bytes(b"\0" * size)
        keeps.unlink()
