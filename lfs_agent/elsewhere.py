"""`mirror`: the history of a repository elsewhere; nothing is trusted that a stranger may have written to its URL."""

import os
import re
import tempfile
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from shlex import quote
from typing import Final

from lfs_agent.errors import LocalError
from lfs_agent.git import run_git
from lfs_agent.gitconfig import Entry, read_config
from lfs_agent.gitrepo import EVERYTHING, Repository

_AT_HOST: Final = re.compile(
    r"(?:(?:https|ssh)://)?(?:[\w.+-]+@)?([\w.-]+)(?::[0-9]{1,5})?(?:/.*|:(?![:/])[^@]*)", re.ASCII
)
"""A URL whose host is the same to everybody, also where git writes another beginning in its place."""
_WITHOUT_LOGIN: Final = ("-c", "credential.helper=", "-c", "http.extraHeader=")


def refs_at(url: str, *, own: Collection[str]) -> str:
    """All refs of a repository elsewhere, and what they point to, as git prints them. As `mirror` fetches them."""
    return _asked_elsewhere(["ls-remote", "--quiet", "--", url], url, own)


@contextmanager
def mirror(url: str, *, own: Collection[str]) -> Iterator[Repository]:
    """All refs of a repository elsewhere with their history, in a folder that goes at the end of the block.

    What is not among the `own` URLs of a user is fetched by https, ssh or from a path only, and with a password only
    where the user's git configuration names the host. Nobody is asked anything.

    Raises LocalError with what git said, where it can't be had, and where it has not all of its history.
    """
    with tempfile.TemporaryDirectory(prefix="lfs-agent-") as folder:
        # Not --local: from a path, too, the other side decides what it gives. By the name .git it is found also where
        # safe.bareRepository lets git find no bare repository.
        words = ["clone", "--quiet", "--mirror", "--no-local", "--template=", "--", url, str(Path(folder) / ".git")]
        _asked_elsewhere(words, url, own)
        other = Repository(Path(folder))
        other.check_whole(EVERYTHING)  # of a shallow repository git makes a shallow one, and says nothing
        yield other


def _asked_elsewhere(words: Sequence[str], url: str, own: Collection[str]) -> str:
    if url.startswith("-") or not url.isprintable():
        raise LocalError("that is no URL of a repository")
    scheme = re.match(r"([A-Za-z0-9+.-]+)(?:::|://)", url)
    allowed = ["https", "ssh", "file", *([scheme[1]] if scheme and url in own and scheme[1] != "ext" else [])]
    environ = {**os.environ, "GIT_ALLOW_PROTOCOL": ":".join(allowed), "GIT_TERMINAL_PROMPT": "0"}
    if not ({"GIT_SSH", "GIT_SSH_COMMAND"} & os.environ.keys() or run_git(["config", "core.sshCommand"]).stdout):
        environ["GIT_SSH_COMMAND"] = "ssh -o BatchMode=yes"
    is_strange = url not in own and not _is_named(url, read_config())
    if is_strange:
        environ["GIT_ASKPASS"] = ""  # what asks for any host's password, and what is sent to any host
    done = run_git([*(_WITHOUT_LOGIN if is_strange else []), *words], environ=environ)
    if done.returncode:
        said = " ".join(done.stderr.decode(errors="replace").split())[-500:]
        raise LocalError(f"git {words[0]}: {said}{_how_to_name(url) if is_strange else ''}")
    return done.stdout.decode(errors="surrogateescape")


def _is_named(url: str, config: Iterable[Entry]) -> bool:
    """Whether the user's git configuration names the host of a repository that a stranger may have registered."""
    found = _AT_HOST.fullmatch(url)
    named: list[str] = []
    for key, value, _ in config:
        if re.fullmatch(r"remote\..+\.(?:push)?url|url\..+\.(?:push)?insteadof", key):
            named.append(value)
        if of_url := re.fullmatch(r"(?:credential|http|url)\.(.+)\.[a-z]+", key):
            named.append(of_url[1])
    hosts = (re.match(r"(?:[^/@]*@)?([^/:@]+)", re.sub(r"^[A-Za-z0-9+.-]+://", "", each)) for each in named)
    return found is not None and found[1].lower() in {host[1].lower() for host in hosts if host}


def _how_to_name(url: str) -> str:
    """What to do where https may want a password that was not sent."""
    scheme, _, rest = url.partition("://")
    if scheme != "https":
        return ""
    key = quote(f"credential.https://{rest.partition('/')[0]}.username")
    return (
        "; it was asked without your passwords, since your git configuration does not name its host; if it may have "
        f"them: git config --global {key} NAME"
    )
