"""Looks at what a push and a pull need, one precondition after another; each finding says what mends it."""

import importlib.util
import os
import re
import shlex
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Final, Literal
from urllib.parse import urlsplit

from lfs_agent import __version__
from lfs_agent.cellar import Cellar
from lfs_agent.errors import (
    AgentError,
    CredentialsError,
    DeniedError,
    ObjectError,
    TransientError,
    UnreachableError,
    UnsupportedError,
)
from lfs_agent.git import run_git
from lfs_agent.gitconfig import HIDING, Entry, is_include, is_yes, read_config
from lfs_agent.gitrepo import Repository
from lfs_agent.layout import oid_at
from lfs_agent.pointer import Oid
from lfs_agent.protocol import Operation
from lfs_agent.provision import TAKE_OUT, deleting
from lfs_agent.registration import (
    FILTER,
    GET_GIT_LFS,
    NAME,
    SCHEME_KEYS,
    SECTION,
    registration,
    scheme_of,
    taken_out,
    where,
)
from lfs_agent.store.url import FolderTarget, S3Target, is_ours

Status = Literal["ok", "warning", "problem", "unknown", "skipped"]

OLDEST_GIT_LFS: Final = (3, 3, 0)
SAFE_GIT_LFS: Final = (3, 8, 1)
WARN_SKEW_S: Final = 300
REFUSED_SKEW_S: Final = 900
"""Amazon refuses what is signed at another time than this."""
OLD_UPLOAD_S: Final = 7 * 86400
FETCHED_REFS: Final = 20
_MODULE: Final = ("-P", "-m")
"""To run one of Python's, and none of the same name that the repository has."""


@dataclass(frozen=True, slots=True)
class Line:
    """What one check has found; `mend`: the command that mends it, "" where the text has it or nothing is to mend.

    `unknown`: it could not be asked; `skipped`: it was not asked, and need not be.
    """

    check: str
    status: Status
    text: str
    mend: str = ""


@dataclass(frozen=True)
class Patient:
    """What is looked at: this machine, the repository around the current folder, the store of one remote.

    `write_test`: an upload may be begun, and given up.
    """

    repo: Repository
    environ: Mapping[str, str]
    named_remote: str | None = None
    write_test: bool = False

    @cached_property
    def remote(self) -> str:
        """Whose store; where nobody says so, that of the remote which git-lfs would take."""
        return self.named_remote or self.repo.default_remote()

    @cached_property
    def config(self) -> dict[str, Entry]:
        """The user's git configuration: the last entry of each key."""
        return {entry.key: entry for entry in read_config(self.repo.cwd)}

    def cellar(self, operation: Operation = "download") -> Cellar:
        return Cellar(self.repo, operation, self.remote, self.environ)


Check = Callable[[Patient], Iterable[Line]]


def examine(patient: Patient) -> Iterator[Line]:
    """A line or more for each check. What rests on something that is broken is not looked at."""
    yield from (found := looked_at(git, patient))
    if _broken(found):
        return
    for check in (git_lfs, filters, agent, program, hidden_failures_of_mine):
        yield from looked_at(check, patient)
    if run_git(["rev-parse", "--git-dir"], cwd=patient.repo.cwd).returncode:
        yield from looked_at(repository, patient)
        return
    for check in (hidden_failures, prune, hooks, checkout):
        yield from (found := looked_at(check, patient))
    if _broken(found):
        return
    yield from (found := looked_at(store, patient))
    if _broken(found):
        return
    for check in (lfsconfig, host):
        yield from looked_at(check, patient)
    yield from (found := looked_at(trust, patient))
    if _broken(found):
        return
    yield from (found := looked_at(bucket, patient))
    if _broken(found):
        return
    for check in (libcurl, lifecycle, uploads, writing, abilities):
        yield from looked_at(check, patient)


def looked_at(check: Check, patient: Patient) -> list[Line]:
    """What the check finds, or what kept it from that; never an exception, whatever is broken."""
    name = check.__name__.replace("_", " ")
    found: list[Line] = []
    try:
        found.extend(check(patient))
    except AgentError as error:
        found.append(failed(name, error))
    except OSError as error:  # somebody else's hook, mostly
        at = f"{error.filename}: " if error.filename else ""
        found.append(Line(name, "unknown", f"{at}{error.strerror or error}"))
    except Exception as error:
        found.append(Line(name, "unknown", f"unexpected {type(error).__name__}: {error}; please report it"))
    return found


def failed(check: str, error: AgentError) -> Line:
    """The line for an error: its sentence says what to do. Credentials and the clock have lines of their own."""
    if isinstance(error, CredentialsError):
        check = "clock" if "RequestTimeTooSkewed" in str(error) else "credentials"
    not_asked = isinstance(error, (UnreachableError, TransientError)) or type(error) is ObjectError
    return Line(check, "unknown" if not_asked else "problem", str(error))


def _broken(found: Iterable[Line]) -> bool:
    return any(line.status in ("problem", "unknown") for line in found)


# This machine


def git(patient: Patient) -> Iterator[Line]:
    """git, and whether it can read its own configuration."""
    said = run_git(["--version"]).stdout.decode(errors="replace").strip()
    _ = patient.config
    yield Line("git", "ok", said)


def git_lfs(patient: Patient) -> Iterator[Line]:
    """The program that starts us, and what is known of its version."""
    done = run_git(["lfs", "version"], cwd=patient.repo.cwd)
    said = done.stdout.decode(errors="replace")
    found = re.match(r"git-lfs/(\d+)\.(\d+)\.(\d+)", said)
    newest = "install the newest: https://github.com/git-lfs/git-lfs/releases"
    if done.returncode or not found:
        yield Line("git-lfs", "problem", "git-lfs is not installed", GET_GIT_LFS)
        return
    version = (int(found[1]), int(found[2]), int(found[3]))
    told = ".".join(map(str, version))
    if version < OLDEST_GIT_LFS:
        yield Line("git-lfs", "problem", f"{told} is too old: nothing before 3.3.0 is known to work", newest)
    elif version < SAFE_GIT_LFS:
        hole = "a repository can make it run a program (CVE-2026-105803), which 3.8.1 does not"
        yield Line("git-lfs", "warning", f"{told}: {hole}", newest)
    else:
        yield Line("git-lfs", "ok", told)


def filters(patient: Patient) -> Iterator[Line]:
    """What `git lfs install` writes: without it a clone ends well, with pointers in place of files."""
    if any(key not in patient.config for key in FILTER):
        text = "git lfs install has not been done: files stay pointers, and weights go to git itself"
        yield Line("filters", "problem", text, "git lfs install")
    elif any("--skip" in patient.config[key].value for key in ("filter.lfs.smudge", "filter.lfs.process")):
        text = "git-lfs is set up with --skip-smudge: files stay pointers until git lfs pull"
        yield Line("filters", "warning", text, "git lfs install --force")
    else:
        yield Line("filters", "ok", "git lfs install has been done")


def agent(patient: Patient) -> Iterator[Line]:
    """Whether git-lfs starts us for our schemes, and nobody else: of two it takes one at random."""
    named = [entry for entry in patient.config.values() if scheme_of(entry.key)]
    rivals = [entry for entry in named if entry.value != NAME]
    for entry in rivals:
        scheme = scheme_of(entry.key)
        twice = any(other.value == NAME and scheme_of(other.key) == scheme for other in named)
        text = (
            f"two agents are registered for {scheme} URLs, and git-lfs takes one of them at random: {NAME} and "
            f"{entry.value!r} ({where(entry)}: {entry.key})"
            if twice
            else f"for {scheme} URLs git-lfs starts {entry.value!r} ({where(entry)}: {entry.key})"
        )
        yield Line("agent", "problem", text, f"{taken_out(entry)} && lfs-agent install")
    missing = [key for key in (*SCHEME_KEYS, f"{SECTION}.path", f"{SECTION}.args") if key not in patient.config]
    if missing and not rivals:
        text = f"git-lfs does not know this agent on this machine: {missing[0]} is not set"
        yield Line("agent", "problem", text, "lfs-agent install")
    elif not rivals:
        yield Line("agent", "ok", f"registered for s3:: and dir:: URLs ({where(patient.config[SCHEME_KEYS[0]])})")


def program(patient: Patient) -> Iterator[Line]:
    """Whether what is registered is there, and is this very program."""
    path, args = (patient.config.get(f"{SECTION}.{name}") for name in ("path", "args"))
    if not path or not args:
        return
    files = [file for file in (path.value, *_files_in(args.value)) if file != "exec"]
    for file in files:
        if not Path(file).is_file():
            text = f"git-lfs would start {file}, which is gone ({where(path)})"
            yield Line("program", "problem", text, "lfs-agent install")
            return
    interpreter, worker = files[-2:][0], Path(files[-1])
    if locked := [program for program in (files[0], interpreter) if not os.access(program, os.X_OK)]:
        yield Line("program", "problem", f"{locked[0]} may not be run", "lfs-agent install")
        return
    version = _version_beside(worker)
    if version != __version__:
        text = f"git-lfs starts version {version or 'unknown'} in {worker.parent}, and this is {__version__}"
        yield Line("program", "warning", text, "lfs-agent install")
        return
    now = registration()[f"{SECTION}.args"]
    if files[-1] == _files_in(now)[-1] and len(files) < len(_files_in(now)):
        text = f"{worker.parent} was registered by an earlier version: its workers could start sooner"
        yield Line("program", "warning", text, "lfs-agent install")
        return
    here = args.value == now
    if here and not Path(importlib.util.cache_from_source(str(worker.with_name("protocol.py")))).exists():
        text = f"{worker.parent} is not compiled: each of eight workers does that anew"
        yield Line("program", "ok", text, shlex.join([interpreter, *_MODULE, "compileall", str(worker.parent)]))
        return
    yield Line("program", "ok", f"version {version} in {worker.parent}")


def _files_in(args: str) -> list[str]:
    """What is started: a shell, its script, an interpreter and a worker, or the worker alone; options apart."""
    try:
        return [word for word in shlex.split(args) if not word.startswith("-")] or [args]
    except ValueError:
        return [args]


def _version_beside(worker: Path) -> str:
    try:
        found = re.search(r'^__version__ = "([^"\n]{1,40})"', worker.with_name("__init__.py").read_text(), re.MULTILINE)
    except (OSError, ValueError):
        return ""
    return found[1] if found else ""


def hidden_failures_of_mine(patient: Patient) -> Iterator[Line]:
    """Settings of the user that turn failures into successes."""
    for key, effect in HIDING.items():
        entry = patient.config.get(key)
        if entry and is_yes(entry.value):
            yield Line("hidden failures", "warning", f"{where(entry)}: {key} is set: {effect}", taken_out(entry))
    if patient.environ.get("GIT_LFS_SKIP_DOWNLOAD_ERRORS", "0") not in ("", "0", "false"):
        text = f"GIT_LFS_SKIP_DOWNLOAD_ERRORS is set: {HIDING['lfs.skipdownloaderrors']}"
        yield Line("hidden failures", "warning", text, "unset GIT_LFS_SKIP_DOWNLOAD_ERRORS")


# The repository


def repository(patient: Patient) -> Iterator[Line]:
    """Why the repository was not looked at."""
    said = run_git(["rev-parse", "--git-dir"], cwd=patient.repo.cwd).stderr.decode(errors="replace").strip()
    if "not a git repository" in said:
        yield Line("repository", "skipped", "there is none here: only the machine was looked at")
    else:
        yield Line("repository", "problem", " ".join(said.split()))


def hidden_failures(patient: Patient) -> Iterator[Line]:
    """Settings of the repository that turn failures into successes, for everybody."""
    top = patient.repo.worktree
    file = shlex.quote(str(top / ".lfsconfig")) if top else ".lfsconfig"  # git config knows no :/, and we may be deeper
    commit = 'git commit -m "Tell failures" -- :/.lfsconfig'
    if top and (top / ".lfsconfig").is_symlink():
        text = ".lfsconfig is a symbolic link: git-lfs follows it, and can be told there to hide failures"
        yield Line("hidden failures", "problem", text, f"cp {file} {file}.new && mv {file}.new {file} && {commit}")
        return
    for key, value in {entry.key: entry.value for entry in patient.repo.lfsconfig}.items():
        mend = f"git config --file {file} --unset-all {shlex.quote(key)} && {commit}"
        if key in HIDING and is_yes(value):
            text = f".lfsconfig sets {key} for everybody: {HIDING[key]}"
            yield Line("hidden failures", "problem", text, mend)
        elif is_include(key):
            text = f".lfsconfig sets {key} for everybody: git-lfs obeys what {value} says, which may hide failures"
            yield Line("hidden failures", "problem", text, mend)


def prune(patient: Patient) -> Iterator[Line]:
    """Whether something runs git-lfs's own prune, which deletes without having asked the store."""
    harm = "git lfs prune deletes local objects without having asked the store"
    found = 0
    for key in ("lfs.pruneverifyremotealways", "lfs.pruneverifyunreachablealways"):
        entry = patient.config.get(key)
        if entry and is_yes(entry.value):
            found += 1
            text = f"{where(entry)}: {key} is set, and protects nothing here: {harm}"
            yield Line("prune", "warning", text, taken_out(entry))
    for entry in patient.config.values():
        if entry.key.startswith("alias.") and _prunes(entry.value):
            found += 1
            yield Line("prune", "warning", f"{where(entry)}: {entry.key} runs it: {harm}", taken_out(entry))
    for hook in _pruning(patient):
        found += 1
        yield Line(
            "prune",
            "warning",
            f"the hook {hook} runs it: {harm}",
            f"in {hook}, call lfs-agent prune in place of git lfs prune",
        )
    if not found:
        yield Line("prune", "ok", "nothing here runs git lfs prune")


def _prunes(command: str) -> bool:
    return re.search(r"\blfs\s+(prune\b|(fetch|pull)\b[^\n;&|]*--prune\b)", command) is not None


def _pruning(patient: Patient) -> Iterator[Path]:
    folder = patient.repo.hooks
    for hook in sorted(folder.iterdir()) if folder.is_dir() else []:
        if hook.is_file() and not hook.name.endswith(".sample") and any(map(_prunes, _commands(hook))):
            yield hook


def _commands(hook: Path) -> Iterator[str]:
    lines = hook.read_bytes()[: 1 << 20].decode(errors="replace").splitlines()
    return (line for line in lines if not line.lstrip().startswith("#"))


def hooks(patient: Patient) -> Iterator[Line]:
    """Whether `git push` sends objects: that is git-lfs's hook, without which it ends well, and sends none."""
    hook = patient.repo.hooks / "pre-push"
    if patient.repo.worktree is None and not patient.repo.remotes():  # others push to it, and it to nobody
        return
    if not hook.exists():
        if _is_there(patient, "HEAD^{commit}") and any(islice(patient.repo.pointers("HEAD"), 1)):
            yield Line("hooks", "warning", f"there is no {hook}: git push sends no objects", "git lfs update")
    elif not os.access(hook, os.X_OK):
        text = f"{hook} may not be run: git push sends no objects"
        yield Line("hooks", "problem", text, f"chmod +x {shlex.quote(str(hook))}")
    elif not any(re.search(r"\bgit[ -]lfs\s+pre-push\b", line) for line in _commands(hook)):
        text = f"{hook} is not git-lfs's: unless what it runs does git lfs pre-push, git push sends no objects"
        yield Line("hooks", "warning", text, "git lfs update --manual   (it says what to add)")
    else:
        yield Line("hooks", "ok", "git push sends objects first")


def checkout(patient: Patient) -> Iterator[Line]:
    """Whether git-lfs can see `.lfsconfig` yet: before the first checkout it asks the host's own LFS server."""
    repo = patient.repo
    named = repo.lfs_url("download", patient.remote)
    if repo.lfsconfig or repo.worktree is None or "lfs.url" in patient.config or (named and is_ours(named.url)):
        return
    born = _is_there(patient, "HEAD^{commit}")
    ref = next((ref for ref in _fetched(patient) if _is_there(patient, f"{ref}:.lfsconfig")), "")
    told = shlex.quote(ref) if ref else ""  # whoever may push has named it
    in_ci = patient.environ.get("CI", "").lower() not in ("", "0", "false")
    if not born and (ref or in_ci):
        text = (
            "nothing is checked out yet, so git-lfs does not see .lfsconfig: git lfs fetch would ask the host, "
            "not the store"
        )
        yield Line("checkout", "problem", text, f"GIT_LFS_SKIP_SMUDGE=1 git checkout {told or 'REF'} && git lfs pull")
    elif ref:
        text = f"this checkout has no .lfsconfig, and {ref} has one: git-lfs does not see it"
        yield Line("checkout", "problem", text, f"git merge {told} (or check it out), then git lfs pull")


def _is_there(patient: Patient, name: str) -> bool:
    return run_git(["rev-parse", "--verify", "--quiet", name], cwd=patient.repo.cwd).returncode == 0


def _fetched(patient: Patient) -> list[str]:
    words = ["for-each-ref", f"--count={FETCHED_REFS}", "--sort=-committerdate", "--format=%(refname:short)"]
    said = run_git([*words, "refs/remotes"], cwd=patient.repo.cwd).stdout.decode(errors="surrogateescape")
    return said.split() or ["FETCH_HEAD"]


def store(patient: Patient) -> Iterator[Line]:
    """Whether a store is named, and the settings for it can be read."""
    cellar = patient.cellar()
    named = cellar.named
    _ = cellar.resolved
    query = f"?{cellar.target.query}" if cellar.target.query else ""
    yield Line("store", "ok", f"{cellar.target}{query} ({named.origin})")


def lfsconfig(patient: Patient) -> Iterator[Line]:
    """Whether everybody finds the store: `.lfsconfig` is as HEAD has it."""
    cellar = patient.cellar()
    named = cellar.named
    if not named.committed:
        text = f"only your configuration names the store ({named.origin}): a clone does not find it"
        yield Line(".lfsconfig", "warning", text, f"lfs-agent init {shlex.quote(named.url)} --force")
        return
    commit = 'git commit -m "Name the store" -- :/.lfsconfig'
    match _state_of_lfsconfig(patient):
        case "committed":
            yield Line(".lfsconfig", "ok", "committed")
        case "ignored":
            text = ".lfsconfig is ignored by git, and not committed: nobody else finds the store"
            yield Line(".lfsconfig", "problem", text, f"git add --force :/.lfsconfig && {commit}")
        case "untracked":
            text = ".lfsconfig is not committed: nobody else finds the store"
            yield Line(".lfsconfig", "problem", text, f"git add :/.lfsconfig && {commit}")
        case "staged":
            yield Line(".lfsconfig", "problem", ".lfsconfig is staged, and not committed yet", commit)
        case "not checked out":
            text = "the checkout did not finish (git's index is empty); what mends it overwrites changes made since"
            yield Line(".lfsconfig", "problem", text, "git restore --source=HEAD --staged --worktree :/")
        case "taken out":
            text = ".lfsconfig is staged to be deleted: after a commit nobody finds the store"
            yield Line(".lfsconfig", "problem", text, "git restore --source=HEAD --staged --worktree :/.lfsconfig")
        case "gone":
            text = ".lfsconfig is deleted here: after a commit of all changes nobody finds the store"
            yield Line(".lfsconfig", "problem", text, "git restore :/.lfsconfig")
        case "other":
            text = ".lfsconfig is not as HEAD has it: you and everybody else may use two stores"
            yield Line(".lfsconfig", "problem", text, f"git diff HEAD -- :/.lfsconfig; then {commit}")


_State = Literal["committed", "ignored", "untracked", "staged", "not checked out", "taken out", "gone", "other"]


def _state_of_lfsconfig(patient: Patient) -> _State:
    """Not by `git status`, which asks git-lfs about other files, and fails with it."""

    def name_of(*words: str) -> str:
        return run_git(words, cwd=patient.repo.worktree).stdout.decode(errors="replace").strip()

    if patient.repo.worktree is None:
        return "committed"
    head, index = (name_of("rev-parse", "--verify", "--quiet", f"{tree}:.lfsconfig") for tree in ("HEAD", ""))
    here = name_of("hash-object", "--", ".lfsconfig")
    if head and head == index == here:
        return "committed"
    if head and not index and here in (head, ""):
        return "taken out" if name_of("ls-files") else "not checked out"
    if head and head == index and not here:
        return "committed" if name_of("ls-files", "-t", "--", ".lfsconfig").startswith("S ") else "gone"
    if head:
        return "other"
    if index:
        return "staged"
    return "ignored" if name_of("check-ignore", "--", ".lfsconfig") else "untracked"


def host(patient: Patient) -> Iterator[Line]:
    """Whether the remote's host refuses pointers that its own LFS does not know."""
    url = run_git(["ls-remote", "--get-url", patient.remote], cwd=patient.repo.cwd).stdout.decode(errors="replace")
    name = host_of(url.strip())
    if "gitlab" in name:
        text = f'{name} refuses a push ("LFS objects are missing") while Git LFS is switched on in the project'
        yield Line("host", "warning", text, "Settings, General, Visibility, Git LFS: off")
    elif "github" in name and not _says_lfs_url(patient):
        text = f"{name} refuses pointers that it does not know (GH008) where HEAD has no .lfsconfig with lfs.url"
        yield Line("host", "warning", text, "lfs-agent init s3::BUCKET/PREFIX, then commit .lfsconfig first")
    elif name:
        yield Line("host", "ok", f"{name} takes the pointers, as far as is known")


def host_of(url: str) -> str:
    """The host of a remote's URL; "" for a folder.

    >>> host_of("git@github.com:you/cellar.git"), host_of("https://gitlab.example.org/you/cellar"), host_of("/srv/git")
    ('github.com', 'gitlab.example.org', '')
    """
    if "://" in url:
        try:
            return (urlsplit(url).hostname or "").lower()
        except ValueError:
            return ""
    found = re.match(r"(?:[^/@:]+@)?([^/@:]+):(?!:)", url)
    return found[1].lower() if found else ""


def _says_lfs_url(patient: Patient) -> bool:
    words = ["config", "--blob", "HEAD:.lfsconfig", "--get", "lfs.url"]
    return run_git(words, cwd=patient.repo.cwd).returncode == 0


# The store


def trust(patient: Patient) -> Iterator[Line]:
    """Whether requests may go there at all: what only the repository names has to be trusted first."""
    operations: tuple[Operation, ...] = ("download", "upload")
    for operation in operations:
        patient.cellar(operation).check_trust()
    claim = patient.cellar().claim
    yield Line("trust", "ok", f"requests may go to {claim.identity}")


def bucket(patient: Patient) -> Iterator[Line]:
    """Credentials, bucket and clock: all are told by the first answer."""
    cellar = patient.cellar()
    if isinstance(cellar.target, FolderTarget):
        store, _ = cellar.open()
        store.connect()
        store.stat(cellar.key(Oid("0" * 64)))  # of nothing; but who may not enter hears it
        yield Line("bucket", "ok", f"{cellar.target} is there")
        return
    opened = cellar.bucket(stop=threading.Event())
    try:
        opened.connect()
        greeting = opened.greet(cellar.target.prefix)
    except DeniedError as error:
        yield from _without_list(patient, error)
        return
    yield _credentials(cellar)
    yield _region(cellar, greeting.region)
    yield _clock(greeting.skew_s)


def _without_list(patient: Patient, refusal: DeniedError) -> Iterator[Line]:
    """Whether more is denied than the list: an object that is there can be seen without that right."""
    cellar = patient.cellar()
    opened, _ = cellar.open()
    pointers = islice(patient.repo.pointers("HEAD"), 1) if _is_there(patient, "HEAD^{commit}") else iter(())
    seen = "no object could be looked at"
    for pointer, path in pointers:
        try:
            if opened.stat(cellar.key(pointer.oid)):
                yield _credentials(cellar)
                text = f"{refusal}: a missing object cannot be told from a forbidden one ({path} can be seen)"
                yield Line("bucket", "warning", text)
                return
        except DeniedError as error:
            seen = str(error)
    yield Line("bucket", "problem", f"{refusal}; {seen}")


def _credentials(cellar: Cellar) -> Line:
    if cellar.settings.public:
        return Line("credentials", "ok", "public: none are used")
    profile = cellar.connection.profile
    whose = f"profile {profile}" if profile else "the default chain"
    return Line("credentials", "ok", f"the store takes those of {whose}")


def _region(cellar: Cellar, region: str) -> Line:
    used = cellar.connection.region
    if region and region != used:
        text = f"{cellar.target} is in {region}, and requests are signed for {used}: each is sent twice"
        return Line("bucket", "warning", text, f"git config --global lfs-agent.region {shlex.quote(region)}")
    return Line("bucket", "ok", f"{cellar.target} is there{f', in {region}' if region else ''}")


def _clock(skew_s: float | None) -> Line:
    if skew_s is None:
        return Line("clock", "skipped", "the store's answer has no date")
    if abs(skew_s) < WARN_SKEW_S:
        return Line("clock", "ok", "as the store's")
    told = f"{abs(skew_s):.0f} s {'ahead of' if skew_s > 0 else 'behind'} the store's"
    if abs(skew_s) < REFUSED_SKEW_S:
        text = f"this machine's clock is {told}; at {REFUSED_SKEW_S} s S3 refuses every request"
        return Line("clock", "warning", text, "timedatectl set-ntp true")
    return Line("clock", "problem", f"this machine's clock is wrong: {told}", "timedatectl set-ntp true")


def libcurl(patient: Patient) -> Iterator[Line]:
    """Whether objects can go by libcurl; boto3's client does the same, more slowly."""
    if not isinstance(patient.cellar().target, S3Target):
        return
    from lfs_agent.store.s3 import why_no_libcurl

    if why := why_no_libcurl():
        text = f"objects go by boto3 alone, which takes more time and memory: {why}"
        yield Line(
            "libcurl", "warning", text, shlex.join([sys.executable, *_MODULE, "pip", "install", "--upgrade", "pycurl"])
        )
    else:
        yield Line("libcurl", "ok", "signs and sends what is moved")


def lifecycle(patient: Patient) -> Iterator[Line]:
    """Whether a rule of the bucket deletes what somebody needs, as far as its rules may be read."""
    cellar = patient.cellar()
    target = cellar.target
    if not isinstance(target, S3Target) or cellar.settings.public:
        return
    try:
        found = cellar.bucket(stop=threading.Event()).configuration("lifecycle")
    except ObjectError as error:
        yield Line("lifecycle", "skipped", str(error))
        return
    if unknown := found.get("Unknown"):
        yield Line("lifecycle", "skipped", f"its rules say what only this store knows: {', '.join(unknown)[:200]}")
        return
    rules = list(deleting(found, target.prefix))
    for rule in rules:
        yield Line("lifecycle", "problem", f"{rule}: {TAKE_OUT}")
    if not rules:
        yield Line("lifecycle", "ok", "no rule of the bucket deletes objects of this store")


def uploads(patient: Patient) -> Iterator[Line]:
    """How many uploads nobody has finished, as far as one answer tells."""
    cellar = patient.cellar("upload")
    if cellar.settings.public:
        return
    try:
        listed, more = cellar.uploads(stop=threading.Event(), connections=1).listed(None)
    except (DeniedError, UnsupportedError) as error:
        yield Line("uploads", "skipped", str(error))
        return
    found = [upload for upload in listed if oid_at(upload.key, cellar.key)]  # all others its mend leaves alone
    old = sum(time.time() - (upload.begun or time.time()) > OLD_UPLOAD_S for upload in found)
    told = f"{len(found):,}{' or more' if more else ''} unfinished"
    if old:
        text = f"{told}, {old:,} of them begun more than a week ago: their parts are billed, and no list shows them"
        yield Line("uploads", "warning", text, "lfs-agent uploads --abort --older-than 7d")
    else:
        yield Line("uploads", "ok", told)


def writing(patient: Patient) -> Iterator[Line]:
    """Whether an upload in parts can be begun and given up; tried only where the user says so."""
    if not patient.write_test:
        yield Line("writing", "skipped", "not tried: nothing is written", "lfs-agent doctor --write-test")
        return
    cellar = patient.cellar("upload")
    opened, _ = cellar.open()
    nobodys = Oid(sha256(os.urandom(32)).hexdigest())
    opened.connect()
    upload = opened.begin(cellar.key(nobodys), nobodys, 1)
    upload.abort()
    yield Line("writing", "ok", "an upload was begun, and given up")


def abilities(patient: Patient) -> Iterator[Line]:
    """What the store can do beyond plain S3, as far as this clone has asked it."""
    cellar = patient.cellar()
    if not isinstance(cellar.target, S3Target):
        return
    can = cellar.bucket(stop=threading.Event()).abilities
    if can is None:
        yield Line("abilities", "skipped", "nothing learned yet: pushes from this clone find out")
        return
    replaces = {"never": "no", "whole": "in one PUT", "parts": "in parts, too", "unasked": "not asked yet"}
    checks = {"full": "of the whole object", "composite": "of each part", "none": "none"}
    table = {
        "only if nothing is there, one PUT": _yes(can.conditional_put),
        "only if nothing is there, in parts": _yes(can.conditional_complete),
        "SHA-256 of one PUT": "checked and told" if can.put_confirmed else _yes(can.put_checksum),
        "CRC-32C of parts": checks[can.multipart_checksum],
        "checksum in an answer to HEAD": _yes(can.shown_checksum),
        "replaces exactly what was judged": replaces[can.replacing],
    }
    for ability, value in table.items():
        yield Line("abilities", "ok", f"{ability}: {value}")


def _yes(can: bool) -> str:
    return "not refused yet" if can else "no"
