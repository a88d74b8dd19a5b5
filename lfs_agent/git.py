"""The only module that runs git, and asks the ssh that git would start: to its end, or read while it speaks."""

import os
import re
import subprocess
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Final, Literal, Self

from lfs_agent.errors import DiskError, LocalError, SessionError, UsageError

ASKED_AT_ONCE: Final = 60
"""Objects: their names fit into the smallest pipe there is (4 KiB), so that neither side ever waits for the other."""


def run_git(
    arguments: Sequence[str],
    *,
    cwd: str | Path | None = None,
    stdin: bytes = b"",
    environ: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[bytes]:
    """Runs git, whatever its exit status; its output is captured, and it never reads our input.

    Raises UsageError where there is no git, or none can be started; SessionError where it was killed.
    """
    try:
        done = subprocess.run(
            ["git", *arguments],
            cwd=cwd,
            env=environ,
            check=False,
            capture_output=True,
            input=stdin,
        )
    except OSError as error:
        raise _unstarted(error) from error
    _check_unkilled(done.returncode)
    return done


def _unstarted(error: OSError) -> UsageError:
    if isinstance(error, FileNotFoundError):
        return UsageError("git is not on PATH: install it first")
    return UsageError(f"git could not be started: {error.strerror}; see ulimit -a")


def _begun(
    arguments: Sequence[str], cwd: Path, stdin: IO[bytes] | int, said: IO[bytes] | None
) -> subprocess.Popen[bytes]:
    """A git whose output is read while it comes. Raises UsageError as `run_git`."""
    try:
        return subprocess.Popen(["git", *arguments], cwd=cwd, stdin=stdin, stdout=subprocess.PIPE, stderr=said)
    except OSError as error:
        raise _unstarted(error) from error


def _check_unkilled(status: int) -> None:
    """Raises SessionError where a signal has ended git: what it said until then is not all, and passes for it."""
    if status < 0:
        raise SessionError(f"git was killed (signal {-status}): is there too little memory? Try again")


def git(*arguments: str, cwd: str | Path | None = None) -> str:
    """The output of git.

    Raises UsageError with what git said, where it fails.
    """
    done = run_git(arguments, cwd=cwd)
    if done.returncode:
        raise UsageError(f"git {arguments[0]}: {said_by(done)}")
    return done.stdout.decode(errors="surrogateescape")


def said_by(done: subprocess.CompletedProcess[bytes]) -> str:
    """Why it failed; git-lfs says that on its standard output at times."""
    return (done.stderr.strip() or done.stdout.strip()).decode(errors="replace")


def let_write(*arguments: str, cwd: str | Path | None = None) -> None:
    """Runs a git that writes files. Raises DiskError with what git said, where it fails."""
    try:
        git(*arguments, cwd=cwd)
    except UsageError as error:
        raise DiskError(str(error)) from error


def ssh_user(host: str) -> str:
    """As whom the ssh that git starts goes to a host; "" where it can't be asked."""
    try:
        done = subprocess.run(["ssh", "-G", "--", host], check=False, capture_output=True, stdin=subprocess.DEVNULL)
    except OSError:
        return ""
    user = re.search(r"(?m)^user (\S+)$", done.stdout.decode(errors="surrogateescape"))
    return user[1] if user else ""


def show_originals() -> None:
    """Lets every git that is run from now on show all that was committed: a replacement or a graft hides some of it."""
    os.environ.update(GIT_NO_REPLACE_OBJECTS="1", GIT_GRAFT_FILE="")


def stream(
    arguments: Sequence[str], cwd: Path, end: bytes, stdin: IO[bytes] | None = None
) -> Generator[str, None, None]:
    """The output of git while it comes, cut at each `end`.

    Raises UsageError with what git said, where it fails.
    """
    import tempfile  # 8 ms that a push does not pay

    with (
        tempfile.TemporaryFile() as said,
        _begun(arguments, cwd, stdin or subprocess.DEVNULL, said) as process,
    ):
        assert process.stdout
        rest = b""
        try:
            while block := process.stdout.read(1 << 16):
                *whole, rest = (rest + block).split(end)
                for text in whole:
                    yield text.decode(errors="surrogateescape")
        except BaseException:  # nobody wants the rest
            process.kill()
            raise
        if status := process.wait():
            _check_unkilled(status)
            said.seek(0)
            words = said.read(10_000).decode(errors="replace").removeprefix("fatal: ")
            raise UsageError(f"git {arguments[0]}: {' '.join(words.split())}")


class CatFile:
    """One `git cat-file` that is asked about many objects; no more than ASKED_AT_ONCE together."""

    def __init__(self, cwd: Path, how: Literal["--batch", "--batch-check"]) -> None:
        self._process = _begun(["cat-file", f"{how}=%(objecttype) %(objectsize)"], cwd, subprocess.PIPE, None)
        assert self._process.stdin
        assert self._process.stdout
        self._requests, self._answers = self._process.stdin, self._process.stdout

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        with suppress(OSError):  # a request that it never read
            self._process.__exit__(None, None, None)

    def ask(self, names: Sequence[str]) -> Iterator[tuple[str, int]]:
        """Kind and size of each object."""
        self._send(names)
        for name in names:
            yield self._header(name)

    def read(self, names: Sequence[str]) -> Iterator[bytes]:
        """The content of each object."""
        self._send(names)
        for name in names:
            _, size = self._header(name)
            content = self._answers.read(size + 1)
            if len(content) <= size:  # less than all of a pointer would be taken for none
                self._check_alive()
                raise _unreadable(name)
            yield content[:size]

    def _send(self, names: Sequence[str]) -> None:
        with suppress(OSError):  # its answer, or none, says more
            self._requests.write("".join(f"{name}\n" for name in names).encode())
            self._requests.flush()

    def _header(self, name: str) -> tuple[str, int]:
        line = self._answers.readline()
        if not line:
            self._check_alive()
        kind, _, size = line.decode().strip().partition(" ")
        if not size.isdigit():
            raise _unreadable(name)
        return kind, int(size)

    def _check_alive(self) -> None:
        """After its last word: raises SessionError where it was killed."""
        _check_unkilled(self._process.wait())


def _unreadable(name: str) -> LocalError:
    return LocalError(f"git cannot read its object {name}: see git fsck")
