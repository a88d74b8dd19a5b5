"""git's configuration: what a user's comes to, and what single files say."""

import re
from pathlib import Path
from typing import Final, NamedTuple

from lfs_agent.errors import DiskError, UsageError
from lfs_agent.git import git, let_write, run_git, said_by


class Entry(NamedTuple):
    """A line of git config: `key` in lower case but for its subsection, as `git config --list` prints it."""

    key: str
    value: str
    origin: str


def read_config(cwd: str | Path | None = None) -> list[Entry]:
    """All of the user's git configuration in `cwd`, in git's order: later entries win."""
    done = run_git(["config", "--list", "-z", "--show-origin"], cwd=cwd)
    if done.returncode:
        raise UsageError(f"git config: {said_by(done)}")
    fields = done.stdout.decode(errors="surrogateescape").split("\0")
    return [_entry(text, origin) for origin, text in zip(fields[0::2], fields[1::2], strict=False)]


def _entry(text: str, origin: str) -> Entry:
    key, equals, value = text.partition("\n")
    # A key alone, without "=", is true for git.
    return Entry(key, value if equals else "true", f"git config, {origin}")


LISTED: Final = ("--no-includes", "--list", "-z")
"""What git config is told, to say all of one file."""


def lfsconfig_in(listed: bytes) -> list[Entry]:
    """The entries of a `.lfsconfig` that git has LISTED."""
    lines = listed.decode(errors="surrogateescape").split("\0")[:-1]
    return [_entry(line, ".lfsconfig")._replace(origin=".lfsconfig") for line in lines]


def is_yes(value: str) -> bool:
    """Whether git-lfs takes a value for true; git itself knows no `t`."""
    return value.lower() in ("true", "1", "on", "yes", "t")


HIDING: Final = {
    "lfs.skipdownloaderrors": "a clone ends well with pointers in place of files",
    "lfs.allowincompletepush": "a push ends well without its objects",
}
"""Settings of git-lfs that turn failures into successes, and how."""


def is_include(key: str) -> bool:
    """Whether an Entry includes another file: git-lfs obeys that in `.lfsconfig`, too."""
    return key.startswith(("include.", "includeif."))


_PLAIN: Final = rb"(?:\[[a-z]+\]\n(?:[ \t]*[A-Za-z][A-Za-z0-9-]*[ \t]*=[ \t]*[A-Za-z0-9_./:?=&%+-]+\n)*)*"
_LONGEST_PLAIN: Final = 1 << 12


def parse_plain(content: bytes) -> list[tuple[str, str]] | None:
    """Keys and values of a configuration, as git reads them; None where only git knows, which takes a worker 3 ms.

    >>> parse_plain(b"[lfs]\\n\\turl = s3::cellar/weights\\n")
    [('lfs.url', 's3::cellar/weights')]
    """
    if len(content) > _LONGEST_PLAIN or not re.fullmatch(_PLAIN, content):
        return None
    found, section = [], ""
    for line in content.decode().splitlines():
        key, equals, value = line.partition("=")
        if equals:
            found.append((f"{section}.{key.strip().lower()}", value.strip()))
        else:
            section = line[1:-1]
    return found


def read_plain(file: Path) -> list[tuple[str, str]] | None:
    """As `parse_plain`, of a file; None also where it can't be read."""
    try:
        with file.open("rb") as opened:
            return parse_plain(opened.read(_LONGEST_PLAIN + 1))
    except OSError:
        return None


class ConfigFile(NamedTuple):
    """One file of git configuration, read and written by git itself; it need not exist.

    `dry_run`: it is only read, and what would change is told.
    """

    path: Path
    dry_run: bool = False

    @property
    def content(self) -> bytes:
        """The bytes of the file; b"" where there is none."""
        try:
            return self.path.read_bytes()
        except FileNotFoundError:
            return b""

    def entries(self) -> list[Entry]:
        """What the file itself says, without what it includes."""
        if not self.path.exists():
            return []
        done = git("config", "--file", str(self.path), "--no-includes", "--list", "-z")
        return [_entry(text, f"file:{self.path}") for text in done.split("\0")[:-1]]

    def values(self, key: str) -> list[str]:
        """All values of `key`, which is spelled as in an Entry."""
        return [entry.value for entry in self.entries() if entry.key == key]

    def set(self, key: str, value: str) -> bool:
        """Makes `value` the only one of `key`; False where it was that already."""
        if self.values(key) == [value]:
            return False
        self._write("--replace-all", key, value)
        return True

    def add(self, key: str, value: str) -> bool:
        """Makes `value` one of those of `key`; False where it was that already."""
        if value in self.values(key):
            return False
        self._write("--add", key, value)
        return True

    def unset(self, key: str, value: str) -> bool:
        """Takes `value` from `key`; False where it was not there."""
        if value not in self.values(key):
            return False
        self._write("--fixed-value", "--unset-all", key, value)
        return True

    def clear(self, key: str) -> None:
        """Takes all values from `key`, which has some."""
        self._write("--unset-all", key)

    def _write(self, *words: str) -> None:
        if not self.dry_run:
            let_write("config", "--file", str(self.path), *words)

    def remove(self) -> None:
        """Deletes the file. Raises OSError."""
        if not self.dry_run:
            self.path.resolve().unlink()

    def replace(self, content: bytes) -> None:
        """Writes the file anew, under the lock that git itself takes. Raises DiskError, OSError."""
        if self.dry_run:
            return
        file = self.path.resolve()
        lock = file.with_name(f"{file.name}.lock")
        try:
            new = lock.open("xb")
        except FileExistsError:
            raise DiskError(f"{lock} exists: another git process writes {file}, or one was killed") from None
        try:
            with new:
                new.write(content)
            lock.chmod(file.stat().st_mode & 0o7777)
            lock.replace(file)
        except BaseException:  # a full disk: who comes next finds no lock
            lock.unlink(missing_ok=True)
            raise
