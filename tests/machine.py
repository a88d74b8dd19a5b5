"""A machine of its own for one user: home folder, git config, programs; nothing of the outer environment."""

import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

# What git asks of a user, and what tests need to clone by plain path.
_GIT_CONFIG = """\
[user]
	name = Vera Vintner
	email = vera@example.com
[init]
	defaultBranch = main
[protocol "file"]
	allow = always
[advice]
	detachedHead = false
[gc]
	auto = 0
[maintenance]
	auto = false
"""

# What a child needs of the outer environment; AWS_*, GIT_*, LFS_AGENT_*, PYTHON* and all else stay outside.
_KEPT = ("LANG", "LC_ALL", "LD_LIBRARY_PATH", "SYSTEMROOT", "TZ")


_RIGHTS = "-dac_override,-dac_read_search"
POWERLESS = ["setpriv", f"--bounding-set={_RIGHTS}", f"--inh-caps={_RIGHTS}"]
"""For `Home.runs_as`: as root, without root's right to read and write everything."""


class CommandFailed(AssertionError):
    """A command that had to succeed did not; the message holds all it said."""


class Home:
    """A user on an isolated machine. A test may change `environ`: `home.environ["LFS_AGENT_…"] = …`."""

    def __init__(self, folder: Path, *, git_lfs: Path | None = None) -> None:
        """`git_lfs`: the folder of the git-lfs to use; the system's where None."""
        self.folder = folder
        self.runs_as: list[str] = []
        """Words before each command, which make it another user's."""
        temporary = folder / "tmp"
        temporary.mkdir(parents=True)
        (folder / ".gitconfig").write_text(_GIT_CONFIG)
        first = [Path(sys.executable).parent]
        if git_lfs is not None:
            first.insert(0, git_lfs)
        path = os.pathsep.join([*map(str, first), os.environ.get("PATH", os.defpath)])
        self.environ: dict[str, str] = {
            **{name: os.environ[name] for name in _KEPT if name in os.environ},
            "PATH": path,
            "HOME": str(folder),
            "XDG_CONFIG_HOME": str(folder / ".config"),
            "XDG_CACHE_HOME": str(folder / ".cache"),
            "TMPDIR": str(temporary),
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_TERMINAL_PROMPT": "0",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def run(
        self,
        *argv: str | Path,
        cwd: Path | None = None,
        check: bool = True,
        env: Mapping[str, str] = {},
        stdin: str | None = None,
        timeout_s: float = 180,
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command in `cwd` (the home folder if None), both outputs captured.

        Raises:
            CommandFailed: it ended with another status than 0, and `check` is set.
        """
        source: dict[str, object] = {"stdin": subprocess.DEVNULL} if stdin is None else {"input": stdin}
        done: subprocess.CompletedProcess[str] = subprocess.run(  # type: ignore[call-overload]
            [*self.runs_as, *map(str, argv)],
            cwd=cwd or self.folder,
            env={**self.environ, **env},
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=timeout_s,
            check=False,
            **source,
        )
        if check and done.returncode:
            raise CommandFailed(describe(done))
        return done

    def git(
        self,
        *arguments: str | Path,
        cwd: Path | None = None,
        check: bool = True,
        env: Mapping[str, str] = {},
    ) -> subprocess.CompletedProcess[str]:
        """`run("git", …)`."""
        return self.run("git", *arguments, cwd=cwd, check=check, env=env)

    def install(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`lfs-agent install`."""
        return self.run("lfs-agent", "install", *arguments)


def describe(done: subprocess.CompletedProcess[str]) -> str:
    """A finished command as a person wants to read it in a failed test."""
    argv: Sequence[str] = done.args
    return f"`{shlex.join(argv)}` ended with {done.returncode}\n{done.stdout}\n{done.stderr}".rstrip()
