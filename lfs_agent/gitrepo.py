"""`Repository`: what it is, how it is configured for git-lfs, and what its history holds."""

import os
import re
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final, Literal, NamedTuple

from lfs_agent.errors import LocalError, UsageError
from lfs_agent.git import ASKED_AT_ONCE, CatFile, git, run_git, said_by, ssh_user, stream
from lfs_agent.gitconfig import LISTED, ConfigFile, Entry, is_yes, lfsconfig_in, read_config, read_plain
from lfs_agent.modes import Modes
from lfs_agent.pointer import MAX_POINTER_SIZE, Oid, Pointer, is_canonical, parse_pointer
from lfs_agent.protocol import Operation

if TYPE_CHECKING:
    from lfs_agent.gto import Tag

Scope = Literal["system", "global", "local"]

_COMMITTED_KEYS = re.compile(r"lfs\.(url|pushurl)|remote\..*\.lfsurl")
"""What we take from `.lfsconfig`: no more than git-lfs itself does."""


class LfsUrl(NamedTuple):
    """Where a remote's LFS objects are; `committed`: the repository says so, not the user."""

    url: str
    origin: str
    committed: bool


def config_file(scope: Scope, cwd: str | Path | None = None, *, dry_run: bool = False) -> ConfigFile:
    """The file that `git config --SCOPE` writes.

    Raises UsageError for "local" outside of a repository, and where git reads no such file.
    """
    path = _file_of(scope, cwd)
    if path.exists() and not path.is_file():  # git would put a file in the place of /dev/null
        raise UsageError(f"git's {scope} configuration is {path} here, which is no file (GIT_CONFIG_{scope.upper()})")
    return ConfigFile(path, dry_run)


def _file_of(scope: Scope, cwd: str | Path | None) -> Path:
    match scope:
        case "local":
            return Repository(Path(cwd or ".")).common_dir / "config"
        case "global":
            return _global_file()
        case "system":
            # The only question that every git answers: which file it would open in an editor.
            done = run_git(["config", "--system", "--edit"], cwd=cwd, environ={**os.environ, "GIT_EDITOR": "echo"})
            return Path(done.stdout.decode(errors="surrogateescape").strip() or "/etc/gitconfig")


def _global_file() -> Path:
    """As git has it: ~/.gitconfig, unless only the other place has a file."""
    said = os.environ.get("GIT_CONFIG_GLOBAL")
    if said:
        return Path(said)
    if said is not None or (os.name == "posix" and not os.environ.get("HOME")):
        name = "GIT_CONFIG_GLOBAL is empty" if said is not None else "HOME is not set"
        raise UsageError(f"{name}, so git reads no configuration of this user: set it, and run this again")
    home = Path.home()
    other = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config") / "git" / "config"
    return other if other.exists() and not (home / ".gitconfig").exists() else home / ".gitconfig"


class Repository:
    """A repository as git sees it from `cwd`, with the environment that this process has."""

    def __init__(self, cwd: Path) -> None:
        self.cwd: Final = cwd

    @cached_property
    def common_dir(self) -> Path:
        """The git folder that all worktrees share.

        Raises UsageError outside of a repository.
        """
        common, _, refusal = self._places
        if not common:
            none_here = "not a git repository" in refusal
            raise UsageError(f"git rev-parse: {refusal}{'; change into one, or: git init' if none_here else ''}")
        return (self.cwd / common).resolve()

    @property
    def has_no_checkout(self) -> bool:
        """Whether this is a clone whose first checkout has not ended, for sure: git writes the index at its end.

        Not so where somebody may be in another work tree than the one that is checked out: that of a superproject, or
        one of several.
        """
        folder = self.common_dir
        return folder.name == ".git" and not any((folder / name).exists() for name in ("index", "worktrees"))

    @cached_property
    def worktree(self) -> Path | None:
        """The top of the work tree; None in a bare repository."""
        _, top, _ = self._places
        return Path(top) if top else None

    @cached_property
    def _places(self) -> tuple[str, str, str]:
        """The common git folder, the top of the work tree, "" for each that is not there, and why git has none."""
        # The second answer is yes or no, and tells the others apart: a line may break in a folder's name.
        done = run_git(["rev-parse", "--git-common-dir", "--is-inside-git-dir", "--show-toplevel"], cwd=self.cwd)
        common, *rest = re.split(r"\n(?:true|false)\n", done.stdout.decode(errors="surrogateescape"), maxsplit=1)
        top = rest[0].removesuffix("\n") if rest else ""
        return common, top, done.stderr.decode(errors="replace").strip()

    @cached_property
    def hooks(self) -> Path:
        """The folder of the hooks that git runs here."""
        said = run_git(["rev-parse", "--git-path", "hooks"], cwd=self.cwd).stdout.decode(errors="surrogateescape")
        return self.cwd / said.removesuffix("\n")

    @cached_property
    def config(self) -> list[Entry]:
        """The user's git configuration, all scopes."""
        return read_config(self.cwd)

    @cached_property
    def committed(self) -> list[Entry]:
        """What we take from `.lfsconfig`."""
        return [entry for entry in self.lfsconfig if _COMMITTED_KEYS.fullmatch(entry.key)]

    @cached_property
    def lfsconfig(self) -> list[Entry]:
        """All of `.lfsconfig`: the work tree's, else the index's, else HEAD's, as git-lfs does.

        Raises UsageError for one that cannot be read: git-lfs takes none then.
        """
        sources = [["--blob", ":.lfsconfig"], ["--blob", "HEAD:.lfsconfig"]]
        is_here = self.worktree is not None and _is_file(file := self.worktree / ".lfsconfig")
        if is_here:
            if (plain := read_plain(file)) is not None:
                return [Entry(key, value, ".lfsconfig") for key, value in plain]
            sources = [["--file", str(file)]]
        for source in sources:
            done = run_git(["config", *source, *LISTED], cwd=self.cwd)
            if done.returncode == 0:
                return lfsconfig_in(done.stdout)
            if is_here:
                raise UsageError(f"git cannot read .lfsconfig, and neither can git-lfs: {said_by(done)}")
        return []

    def get(self, key: str) -> Entry | None:
        """The user's last entry for `key`."""
        return _last(self.config, key)

    def value(self, key: str, default: str = "") -> str:
        """The user's value for `key`."""
        entry = self.get(key)
        return entry.value if entry else default

    @cached_property
    def storage(self) -> Path:
        """The folder in which git-lfs keeps its objects (`lfs.storage`): a tilde is no home to it."""
        return self.common_dir / (self.value("lfs.storage") or "lfs")

    @cached_property
    def modes(self) -> Modes:
        """What `core.sharedRepository` says of new files."""
        value = self.value("core.sharedrepository").lower()
        if re.fullmatch("[0-7]{1,6}", value):  # 1 and 2 are words, too, whatever zeros are before them
            mode = int(value, 8)
            return Modes({1: 0o660, 2: 0o664}.get(mode, mode & 0o666) or None)
        if value == "group" or is_yes(value):
            return Modes(0o660)
        return Modes(0o664 if value in ("all", "world", "everybody") else None)

    def remotes(self) -> list[str]:
        """The names of the remotes that have a URL."""
        return list(dict.fromkeys(e.key[7:-4] for e in self.config if re.fullmatch(r"remote\..+\.url", e.key)))

    @property
    def promisor(self) -> str:
        """The remote that a partial clone gets from what it lacks; "" for a whole one."""
        promisors = (e.key[7:-9] for e in self.config if re.fullmatch(r"remote\..+\.promisor", e.key))
        return self.value("extensions.partialclone") or next(promisors, "")

    def default_remote(self) -> str:
        """The remote that git-lfs would take: the current branch's, else the only one, else origin."""
        # Not --short: that says heads/main where there is a tag main, too.
        head = run_git(["symbolic-ref", "--quiet", "HEAD"], cwd=self.cwd)
        branch = head.stdout.decode(errors="surrogateescape").strip().removeprefix("refs/heads/")
        named = self.value(f"branch.{branch}.remote") or self.value("remote.lfsdefault")
        if named and named != ".":
            return named
        remotes = self.remotes()
        return remotes[0] if len(remotes) == 1 else "origin"

    def lfs_url(self, operation: Operation, remote: str) -> LfsUrl | None:
        """Where git-lfs sends or fetches the objects of `remote` (a name or a URL); None where nothing says.

        The order is git-lfs's own (lfsapi/endpoint_finder.go); `pushInsteadOf`, for an upload, or else `insteadOf` is
        applied to what is found, whatever has named it.
        """
        upload = operation == "upload"
        keys = [*(["lfs.pushurl"] if upload else []), "lfs.url"]
        keys += [*([f"remote.{remote}.lfspushurl"] if upload else []), f"remote.{remote}.lfsurl"]
        for key in keys:
            for entries, committed in ((self.config, False), (self.committed, True)):
                if entry := _last(entries, key):
                    return LfsUrl(self._rewritten(entry.value, operation), f"{entry.origin}: {key}", committed)
        keys = [*([f"remote.{remote}.pushurl"] if upload else []), f"remote.{remote}.url"]
        for key in keys:
            if entry := self.get(key):
                return LfsUrl(self._rewritten(entry.value, operation), f"{entry.origin}: {key}", False)
        return LfsUrl(self._rewritten(remote, operation), "the command line", False) if ":" in remote else None

    def push_urls(self, remote: str) -> list[str]:
        """Where a push to `remote` (a name, a URL or a path) takes commits, as the user's configuration spells it.

        Nowhere for a mere name that nothing has.
        """
        for key in (f"remote.{remote}.pushurl", f"remote.{remote}.url"):
            if found := [entry.value for entry in self.config if entry.key == key]:
                return found
        is_place = {":", "/"} & set(remote) or (remote and (self.worktree or self.common_dir).joinpath(remote).is_dir())
        return [remote] if is_place else []

    def with_login(self, url: str) -> str:
        """The URL with the user as whom ssh goes there, where that decides in whose home the path begins.

        As it is where ssh can't be asked, or where git makes another URL of it.
        """
        found = _AT_HOME.match(url)
        if not found or any(re.fullmatch(_REWRITES, e.key) and url.startswith(e.value) for e in self.config):
            return url
        user = ssh_user(found["host"])
        return f"{found['scheme'] or ''}{user}@{url[found.start('host') :]}" if user else url

    def _rewritten(self, url: str, operation: Operation) -> str:
        for rule in ("pushinsteadof", "insteadof") if operation == "upload" else ("insteadof",):
            matching = (e for e in self.config if re.fullmatch(rf"url\..*\.{rule}", e.key) and url.startswith(e.value))
            if best := max(matching, key=lambda entry: len(entry.value), default=None):
                return best.key.removeprefix("url.").removesuffix(f".{rule}") + url.removeprefix(best.value)
        return url

    def http_setting(self, url: str, name: str) -> str:
        """git's own `http.NAME` for `url`, `http.<url>.NAME` before it; "" where there is none."""
        if not any(e.key.startswith("http.") and e.key.endswith(f".{name}") for e in self.config):
            return ""
        done = run_git(["config", "--get-urlmatch", f"http.{name}", url], cwd=self.cwd)
        return done.stdout.decode(errors="surrogateescape").rstrip("\n")

    @cached_property
    def annotated_tags(self) -> "list[Tag]":
        """All of them, with the commits that they lead to."""
        from lfs_agent.gto import Tag  # 2 ms of patterns that only a command uses

        words = ["for-each-ref", "refs/tags", "--format=%(objecttype) %(creatordate:unix) %(*objectname) %(refname)"]
        lines = [line.split(" ", 3) for line in git(*words, cwd=self.cwd).splitlines()]
        return [
            Tag(name.removeprefix("refs/tags/"), int(created), commit)
            for kind, created, commit, name in lines
            if kind == "tag"
        ]

    @property
    def born(self) -> bool:
        """Whether HEAD names a commit, even one that git cannot read."""
        return run_git(["rev-parse", "--verify", "--quiet", "HEAD"], cwd=self.cwd).returncode == 0

    def knows(self, revision: str) -> bool:
        """Whether git has what a revision, or each end of a range, names; `HEAD^!` is more than one, and no range."""
        words = ["rev-list", "--max-count=0", "--end-of-options", revision, "--"]
        known = run_git(words, cwd=self.cwd).returncode == 0
        if not known or ".." in revision:
            return known
        one = run_git(["rev-parse", "--verify", "--quiet", "--end-of-options", revision], cwd=self.cwd)
        return one.returncode == 0 and not one.stdout.startswith(b"^")

    def has(self, name: str) -> bool:
        """Whether git knows an object by this name, such as `HEAD:path`."""
        return run_git(["cat-file", "-e", name], cwd=self.cwd).returncode == 0

    @property
    def has_long_names(self) -> bool:
        """Whether git's own names are SHA-256, too: as long as an Oid."""
        return self.value("extensions.objectformat") == "sha256"

    def text(self, name: str) -> str:
        """The text of a blob; "" where there is none, or a longer one than people write."""
        size = run_git(["cat-file", "-s", name], cwd=self.cwd).stdout
        if not size or int(size) > _MAX_TEXT:
            return ""
        return run_git(["cat-file", "blob", name], cwd=self.cwd).stdout.decode(errors="replace")

    def prunable(self, remote: str) -> list[Oid]:
        """The local objects that git-lfs's own rules would let go of, were they all on `remote`.

        They keep what HEAD, the work trees, stashes, recent refs and commits that are not on `remote` name.

        Raises UsageError where git-lfs fails, or says what we can't read.
        """
        if not self.born:
            raise UsageError(
                "HEAD has no commit yet, and git lfs prune goes by it: git switch to a branch that has one"
            )
        # Without a terminal it prints the last of the oids only, unless it is told to show its progress.
        environ = {**os.environ, "GIT_LFS_FORCE_PROGRESS": "1", "LC_ALL": "C"}
        checked = ["-c", f"lfs.pruneremotetocheck={remote}"]
        words = [*checked, "lfs", "prune", "--dry-run", "--verbose", "--no-verify-remote"]
        done = run_git(words, cwd=self.cwd, environ=environ)
        said = done.stdout.decode(errors="replace")
        if done.returncode:
            raise UsageError(f"git lfs prune --dry-run: {' '.join(done.stderr.decode(errors='replace').split())}")
        oids = dict.fromkeys(Oid(oid) for oid in re.findall(_PRUNED, said))
        counted = re.search(_PRUNED_COUNT, said)
        if len(oids) != (int(counted[1]) if counted else 0):
            raise UsageError(
                "git lfs prune --dry-run --verbose speaks in another way than 3.3 to 3.8 do: nothing was done"
            )
        return list(oids)

    def pointers(self, revision: str, paths: Sequence[str] = ()) -> Iterator[tuple[Pointer, str]]:
        """Every pointer, with its path, in the tree of `revision`; of a range `A..B`, EVERYTHING and the like in all.

        `paths` are pathspecs as git understands them in `cwd`; the paths that come back begin at the top. A range
        names each version once, by one of its paths.

        Raises UsageError for a revision that git does not know, and where `paths` match no file of it; LocalError
        where git can't read a blob.
        """
        many = ".." in revision or revision in _WITHOUT_END
        self._bring_missing(revision, paths)
        blobs = self._versions(revision, paths) if many else self._files(revision, paths)
        for path, _, content in self._read_small(blobs):
            if content and (pointer := parse_pointer(content)):
                yield pointer, path

    def put_aside(self) -> Iterator[tuple[Pointer, str]]:
        """As `pointers`, of changes that a rebase or a merge brings back at its end: no ref or reflog names them."""
        places = [self.common_dir, *(self.common_dir / "worktrees").glob("*")]
        for file in (place / name for place in places for name in _AUTOSTASHES):
            if commit := _line_of(file):
                yield from self.pointers(commit)
                yield from self.pointers(f"{commit}^2")  # what was staged of it

    def check_whole(self, commits: str) -> None:
        """Raises LocalError where a range, or EVERYTHING, goes past the end of a shallow clone, as git has it."""
        if git("rev-parse", "--is-shallow-repository", cwd=self.cwd).strip() != "true":
            return
        shallow = self.cwd / git("rev-parse", "--git-path", "shallow", cwd=self.cwd).removesuffix("\n")
        ends = set(shallow.read_text().split())
        which = [commits] if commits in _WITHOUT_END else ["--end-of-options", commits]
        with closing(stream(["rev-list", *which, "--"], self.cwd, b"\n")) as walked:
            if end := next((commit for commit in walked if commit in ends), ""):
                raise LocalError(
                    f"this clone is shallow, and the history that was asked for goes on behind {end[:12]}: "
                    "git fetch --unshallow brings it; in CI: fetch-depth: 0"
                )

    def irregular(self, revision: str, paths: Sequence[str] = ()) -> Iterator[tuple[str, str]]:
        """The files of a tree that belong to Git LFS, and are not as it writes them: path, and what they are.

        Raises as `pointers`.
        """
        self._bring_missing(revision, paths)
        files = {path: name for name, path in self._files(revision, paths)}
        tracked = self._tracked(revision, files)
        for path, size, content in self._read_small((files[path], path) for path in tracked):
            if content is None or (size and not parse_pointer(content)):
                yield path, f"it is tracked by Git LFS, and is no pointer, but {size} bytes: git add --renormalize"
            elif size and not is_canonical(content):
                yield path, "its pointer is not as git-lfs writes it: git add --renormalize"

    def lfsconfig_of(self, revision: str) -> list[Entry]:
        """All of a commit's `.lfsconfig`, without what it includes; nothing where git cannot read it."""
        _, name = self._at(revision, ".lfsconfig")
        return lfsconfig_in(run_git(["config", "--blob", name, *LISTED], cwd=self.cwd).stdout) if name else []

    @property
    def stores(self) -> list[Entry]:
        """What we take from HEAD's `.lfsconfig`; from that of all branches, where HEAD names one that is not there."""
        # A host whose first branch has another name than the team's leaves HEAD like that.
        words = ["for-each-ref", "--format=%(refname)", "refs/heads"]
        revisions = ["HEAD"] if self.born else git(*words, cwd=self.cwd).splitlines()
        entries = [entry for revision in revisions for entry in self.lfsconfig_of(revision)]
        return [entry for entry in entries if _COMMITTED_KEYS.fullmatch(entry.key)]

    def is_link(self, revision: str, path: str) -> bool:
        """Whether a commit has a symbolic link there."""
        return self._at(revision, path)[0] == "120000"

    def is_blob(self, name: str) -> bool:
        """Whether that is git's name of a file's content, such as `HEAD:path`."""
        return run_git(["cat-file", "-t", name], cwd=self.cwd).stdout == b"blob\n"

    def _at(self, revision: str, path: str) -> tuple[str, str]:
        """Mode and name of what a commit has there; twice "" for nothing."""
        # Not by REVISION:PATH, which takes the path for a part of what :/TEXT looks for.
        words = ["ls-tree", "--full-tree", "--end-of-options", revision, "--", path]
        fields = run_git(words, cwd=self.cwd).stdout.decode(errors="replace").split(maxsplit=3)
        return (fields[0], fields[2]) if fields else ("", "")

    def _read_small(self, blobs: Generator[tuple[str, str], None, None]) -> Iterator[tuple[str, int, bytes | None]]:
        """Path, size and content of each blob; None for the content of one that is too large for a pointer."""
        with closing(blobs), CatFile(self.cwd, "--batch-check") as sizes, CatFile(self.cwd, "--batch") as contents:
            while asked := list(islice(blobs, ASKED_AT_ONCE)):
                found = list(zip(asked, sizes.ask([name for name, _ in asked]), strict=True))
                read = contents.read([name for (name, _), kind in found if _may_be_pointer(*kind)])
                for (_, path), (kind, size) in found:
                    if kind == "blob":
                        yield path, size, next(read) if _may_be_pointer(kind, size) else None

    def _tracked(self, revision: str, files: Iterable[str]) -> list[str]:
        """Those of `files` that the attributes of the tree give to Git LFS."""
        import tempfile  # 8 ms that a push does not pay

        # Before git 2.40 check-attr reads the attributes of no tree, but of an index.
        with tempfile.TemporaryDirectory() as folder:
            environ = {**os.environ, "GIT_INDEX_FILE": str(Path(folder) / "index")}
            top = self.worktree
            if top is None:  # in a bare repository, or inside of .git, where check-attr wants to be elsewhere
                git_dir = git("rev-parse", "--absolute-git-dir", cwd=self.cwd).removesuffix("\n")
                top, environ = Path(folder), {**environ, "GIT_DIR": git_dir, "GIT_WORK_TREE": folder}
            done = run_git(["read-tree", "--end-of-options", revision], cwd=top, environ=environ)
            if done.returncode == 0:
                asked = "\0".join(files).encode(errors="surrogateescape")
                words = ["check-attr", "--cached", "-z", "--stdin", "filter"]
                done = run_git(words, cwd=top, environ=environ, stdin=asked)
        if done.returncode:
            raise UsageError(f"git {done.args[1]}: {done.stderr.decode(errors='replace').strip()}")
        said = done.stdout.decode(errors="surrogateescape").split("\0")
        return [path for path, value in zip(said[::3], said[2::3], strict=False) if value == "lfs"]

    def _bring_missing(self, revision: str, paths: Sequence[str]) -> None:
        """In a partial clone: brings the blobs that the revision needs by one fetch; git would make one for each.

        Raises LocalError where the fetch fails.
        """
        remote = self.promisor
        if not remote:
            return
        walk = [] if ".." in revision or revision in _WITHOUT_END else ["--no-walk"]
        which = revision.split() if revision in _WITHOUT_END else ["--end-of-options", revision]
        words = ["rev-list", "--objects", "--missing=print", *walk, *which, "--", *paths]
        missing = [line[1:] for line in stream(words, self.cwd, b"\n") if line.startswith("?")]
        if missing:
            options = ["--no-tags", "--no-write-fetch-head", "--recurse-submodules=no", "--filter=blob:none", "--stdin"]
            words = ["-c", "fetch.negotiationAlgorithm=noop", "fetch", "--quiet", remote, *options]
            done = run_git(words, cwd=self.cwd, stdin="\n".join(missing).encode())
            if done.returncode:
                raise LocalError(
                    f"git fetch {remote}: {' '.join(said_by(done).split())}; this clone is partial, and asks its "
                    "remote for what it lacks: where that is gone there, use a clone that was made without --filter"
                )

    def _files(self, revision: str, paths: Sequence[str]) -> Generator[tuple[str, str], None, None]:
        """Name and path of every file's blob in one tree."""
        # Not ls-tree, which knows no pathspecs and leaves out what is above cwd.
        empty = git("hash-object", "-t", "tree", "--stdin", cwd=self.cwd).strip()
        found = False
        for mode, name, path in _changes([empty, "--end-of-options", revision, "--", *paths], self.cwd):
            found = True
            if mode.startswith("100"):
                yield name, path
        if paths and not found:
            raise UsageError(f"no file in {revision} matches {' '.join(paths)}")

    def _versions(self, commits: str, paths: Sequence[str]) -> Generator[tuple[str, str], None, None]:
        """Name and path of every object that a range of commits has brought, merges included."""
        which = commits.split() if commits in _WITHOUT_END else ["--end-of-options", commits]
        if paths:
            yield from self._versions_at(commits, which, paths)
            return
        for line in stream(["rev-list", "--objects", "--full-history", *which, "--"], self.cwd, b"\n"):
            # Only a commit is told without a space. A blob that is tagged itself has no path, and is not told again.
            name, space, path = line.partition(" ")
            if space:
                yield name, path

    def _versions_at(
        self, commits: str, which: Sequence[str], paths: Sequence[str]
    ) -> Generator[tuple[str, str], None, None]:
        """By what commits have changed: into a tree that lies at two paths git looks once, with the limits of one."""
        import tempfile

        seen: set[str] = set()
        with tempfile.TemporaryFile() as changed:
            for commit in stream(["rev-list", "--full-history", *which, "--", *paths], self.cwd, b"\n"):
                changed.write(f"{commit}\n".encode())
            changed.seek(0)
            words = ["--stdin", "-m", "--root", "--no-commit-id", "--", *paths]
            for mode, name, path in _changes(words, self.cwd, changed):
                if mode.startswith("100") and name not in seen:
                    seen.add(name)
                    yield name, path
        if not seen and commits in _WITHOUT_END:
            raise UsageError(f"no file of the whole history matches {' '.join(paths)}")


EVERYTHING: Final = "--all"
"""In place of a revision: the whole history of all refs."""
STAGED: Final = "--indexed-objects"
"""All that indexes name, of all work trees."""
KNOWN: Final = f"--all --reflog {STAGED}"
"""The history of all refs, with all that reflogs (stashes, too) and indexes name."""
_WITHOUT_END: Final = (EVERYTHING, STAGED, KNOWN)
"""What is no revision, and read as options."""

_AUTOSTASHES: Final = ("rebase-merge/autostash", "rebase-apply/autostash", "MERGE_AUTOSTASH")

_AT_HOME: Final = re.compile(
    r"(?P<scheme>(?:git\+ssh|ssh\+git|ssh)://(?=[^/@]+/~/))?"  # ssh://host/~/cellar.git
    r"(?P<host>[^][/:@\s]{2,})"  # not the C of C:\cellar.git
    r"(?(scheme)|:(?!:|/|~[^/])\S)"  # host:cellar.git, host:~/cellar.git
)

_REWRITES: Final = r"url\..*\.(?:push)?insteadof"

_MAX_TEXT: Final = 1 << 20

_PRUNED: Final = r"(?m)^ \* ([0-9a-f]{64}) \("
_PRUNED_COUNT: Final = r"\b([0-9]+) files? would be pruned"


def _may_be_pointer(kind: str, size: int) -> bool:
    return kind == "blob" and size < MAX_POINTER_SIZE


def _changes(words: Sequence[str], cwd: Path, stdin: IO[bytes] | None = None) -> Iterator[tuple[str, str, str]]:
    """Mode, name and path of each blob that git's diff-tree tells, as they are afterwards. Raises as `stream`."""
    told = stream(["diff-tree", "-r", "-z", "--raw", "--no-renames", *words], cwd, b"\0", stdin)
    for change, path in zip(told, told, strict=True):
        _, mode, _, name, _ = change.split(" ")
        yield mode, name, path


def _is_file(path: Path) -> bool:
    """Whether it is one itself: a link that is committed could lead out of the repository."""
    return path.is_file() and not path.is_symlink()


def _line_of(file: Path) -> str:
    """The line in a small file of git's; "" where there is none."""
    try:
        return file.read_text().strip()
    except FileNotFoundError:
        return ""


def _last(entries: Sequence[Entry], key: str) -> Entry | None:
    return next((entry for entry in reversed(entries) if entry.key == key), None)
