"""Names the store of this repository's objects, in .lfsconfig, so that a plain clone finds them.

Writes lfs.url (or, with --remote, remote.NAME.lfsurl), and tracks the usual files of weights with Git LFS, where
.gitattributes tracks nothing yet. Both files are staged: commit them. Without URL, what lfs-dal, lfs-s3 or
git-remote-s3 have been told here is taken over: their objects are found where they are.
"""

import argparse
import re
import shlex
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from lfs_agent import log
from lfs_agent.adopt import PLACEHOLDER, Found, stores
from lfs_agent.cellar import TRUSTED_KEY, Cellar
from lfs_agent.commands import steps
from lfs_agent.commands.wording import plain, spell_count
from lfs_agent.config import OF_FOLDERS, from_query, resolve
from lfs_agent.doctor import Patient, hooks
from lfs_agent.errors import AgentError, TargetError, UsageError
from lfs_agent.git import git, let_write, run_git
from lfs_agent.gitconfig import ConfigFile
from lfs_agent.gitrepo import LfsUrl, Repository, config_file
from lfs_agent.registration import SECTION
from lfs_agent.store.folder import FolderStore
from lfs_agent.store.url import FolderTarget, Target, parse_target
from lfs_agent.trust import Claim, check_scheme

EXAMPLES = """\
examples:
  lfs-agent init 's3::bucket/prefix?region=eu-central-1'
  lfs-agent init dir::/srv/share/weights --remote backup
  lfs-agent init                             in a repository that lfs-dal, lfs-s3 or git-remote-s3 has served
"""

WEIGHTS: Final = (
    "bin", "ckpt", "engine", "ggml", "gguf", "h5", "hdf5", "joblib", "keras", "mlmodel", "model", "msgpack", "npy",
    "npz", "onnx", "ot", "pb", "pickle", "pkl", "pt", "pth", "safetensors", "tflite",
)  # fmt: skip
"""The suffixes of files that hold weights."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "url", nargs="?", metavar="URL", help="s3::BUCKET/PREFIX[?region=…], or dir::/FOLDER; default: another agent's"
    )
    parser.add_argument("--remote", metavar="NAME", help="the store of this remote alone")
    parser.add_argument("--force", action="store_true", help="replace another store that is named already")
    steps.add_arguments(parser)


def run(arguments: argparse.Namespace, environ: Mapping[str, str]) -> int:
    told = steps.Steps(arguments.dry_run, arguments.json)
    repo = Repository(Path.cwd())
    top = _top(repo)
    file = ConfigFile(_plain(top / ".lfsconfig"), arguments.dry_run)
    attributes = _plain(top / ".gitattributes")
    theirs = None if arguments.url else adopted(repo, top, arguments.remote, told)
    target, url = checked(theirs.url if theirs else arguments.url)
    remote = arguments.remote or repo.default_remote()
    named = LfsUrl(url, "the URL", committed=True)
    cellar = Cellar(repo, "upload", remote, environ, named)
    replaced = conflicts(repo, file, url, arguments.remote)
    if replaced and not arguments.force:
        raise UsageError(f"{'; '.join(replaced)}; to go ahead all the same: --force")
    identity = trusted_by_this(cellar, target, elsewhere=bool(replaced or arguments.remote))
    named_by_user = theirs is None or not theirs.committed
    trusting = config_file("global", dry_run=arguments.dry_run) if identity and named_by_user else None
    tracked_before = tracks(repo)

    if arguments.remote:
        name_for_remote(repo, file, arguments.remote, url, told)
    else:
        changed = file.set("lfs.url", url)
        told.tell(".lfsconfig", f".lfsconfig: lfs.url = {url}{'' if changed else ' already'}", changed=changed)
    if not tracked_before:
        text = f".gitattributes: {len(WEIGHTS)} kinds of weights go to Git LFS ({', '.join(WEIGHTS)})"
        told.tell(".gitattributes", text, changed=True)
    if trusting and trusting.add(TRUSTED_KEY, identity):
        told.tell("trust", f"{identity} is trusted now, since you named it", changed=True)
    needed = open_folder(Path(target.path), told) if isinstance(target, FolderTarget) else ""
    if arguments.dry_run:
        return 0
    if not tracked_before:
        track(attributes)
    staged = [".lfsconfig", *([".gitattributes"] if is_unstaged(attributes) else [])]
    let_write("add", "--force", "--", *staged, cwd=top)
    if not arguments.json:
        print("next:")
    for command in next_steps(repo, target, remote, earlier_objects=tracked_before, second=bool(arguments.remote)):
        told.advise(command)
    for command in adopted_steps(theirs, "" if named_by_user else identity, arguments.remote) if theirs else ():
        told.advise(command)
    for sentence in conflicts(repo, file, url, arguments.remote):
        print(f"not replaced: {plain(sentence)}", file=sys.stderr)
    steps.warn(hooks(Patient(repo, environ)))
    if needed:
        print(f"the first push would fail: {plain(needed)}", file=sys.stderr)
    if not repo.value(f"{SECTION}.path"):
        print("git-lfs does not know this agent on this machine yet; run: lfs-agent install", file=sys.stderr)
    return 0


def adopted(repo: Repository, top: Path, remote: str | None, told: steps.Steps) -> Found:
    """The store that another agent was told of.

    Raises UsageError where there is none, or more than one.
    """
    found = stores(repo, ConfigFile(_plain(top / ".lfsdalconfig")), remote)
    if len(found) == 1:
        told.tell("store", f"{found[0].origin}: {found[0].url}", changed=False)
        return found[0]
    if not found:
        raise UsageError(
            "say where the objects are to be: lfs-agent init s3::BUCKET/PREFIX (there is nothing here of lfs-dal, "
            "lfs-s3 or git-remote-s3)"
        )
    all_of_them = "; ".join(f"{plain(store.origin)}: {plain(store.url)}" for store in found)
    raise UsageError(f"several agents have been told of stores here, say which is meant: {all_of_them}")


def adopted_steps(theirs: Found, untrusted: str, remote: str | None) -> Iterator[str]:
    """What else there is to do with objects that another agent stored; `untrusted`: the identity, where it is to be."""
    if untrusted:
        yield f"lfs-agent trust {shlex.quote(untrusted)}   (the repository names it: is it right?)"
    yield f"lfs-agent verify --deep{f' --remote {remote}' if remote else ''}   (are the objects whole?)"
    if theirs.profile:
        yield f"git config lfs-agent.profile {shlex.quote(theirs.profile)}   (the remote names it)"


def checked(url: str) -> tuple[Target, str]:
    """The store, and its URL as it is committed.

    Raises UsageError.
    """
    try:
        target = parse_target(url)
    except TargetError as error:
        raise UsageError(str(error)) from None
    settings = from_query(target.query, "the URL")
    resolve(settings)
    if isinstance(target, FolderTarget) and settings.keys() - OF_FOLDERS:
        raise UsageError("of a folder only layout and retention can be set")
    return target, f"{target}?{target.query}" if target.query else str(target)


def conflicts(repo: Repository, file: ConfigFile, url: str, remote: str | None) -> list[str]:
    """What is named already, and would be lost or would make this one unused; a sentence each."""
    key = f"remote.{remote}.lfsurl" if remote else "lfs.url"
    moves = bool(remote) and (remote != "origin" or len(repo.remotes()) > 1)
    found = [f".lfsconfig says {key} = {other}" for other in file.values(key) if other not in (url, PLACEHOLDER)]
    if not moves and remote:
        found += [f".lfsconfig says lfs.url = {other}" for other in file.values("lfs.url") if other != url]
    if not remote:
        others = [entry for entry in file.entries() if re.fullmatch(r"remote\..+\.lfsurl", entry.key)]
        found += [f".lfsconfig names a store for a remote, {e.key} = {e.value}: see --remote" for e in others]
    found += [f".lfsconfig sends uploads elsewhere: lfs.pushurl = {other}" for other in file.values("lfs.pushurl")]
    for name in ("lfs.url", "lfs.pushurl", key):
        entry = repo.get(name)
        if entry and entry.value != url:
            found.append(f"{entry.origin} says {name} = {entry.value}, which git-lfs takes before .lfsconfig")
    return [log.redact(sentence) for sentence in dict.fromkeys(found)]


def name_for_remote(repo: Repository, file: ConfigFile, remote: str, url: str, told: steps.Steps) -> None:
    """Writes `remote.<remote>.lfsurl`; a store for all remotes becomes that of each other one.

    git-lfs looks at no remote's own store where there is one for all.
    """
    others = [name for name in repo.remotes() if name != remote] or ["origin"]
    for common in file.values("lfs.url"):
        for other in others:
            if other != remote and not file.values(f"remote.{other}.lfsurl"):
                file.set(f"remote.{other}.lfsurl", common)
                text = f".lfsconfig: remote.{other}.lfsurl = {common}, which was lfs.url for all remotes"
                told.tell(".lfsconfig", text, changed=True)
        file.unset("lfs.url", common)
    changed = file.set(f"remote.{remote}.lfsurl", url)
    told.tell(".lfsconfig", f".lfsconfig: remote.{remote}.lfsurl = {url}", changed=changed)


def trusted_by_this(cellar: Cellar, target: Target, *, elsewhere: bool) -> str:
    """The identity that the user says yes to by naming this store; "" where none is needed.

    `elsewhere`: pushes of this clone may have gone, or go, to another store as well.

    Raises TargetError for a plain http endpoint that the user's settings don't allow.
    """
    endpoint = from_query(target.query, "").get("endpoint")
    if endpoint:
        check_scheme(endpoint.text, allow_http=cellar.settings.allow_http)
    if endpoint or isinstance(target, FolderTarget):
        text = endpoint.text if endpoint else ""
        return Claim(target, text, url_committed=True, endpoint_committed=bool(text)).identity
    # A push would ask: has the target changed behind the user's back?
    return cellar.claim.identity if elsewhere else ""


def open_folder(folder: Path, told: steps.Steps) -> str:
    """Makes an empty folder a store, which a push would take for an unmounted share; what keeps it from being one."""
    store = FolderStore(folder)
    try:
        if store.is_empty() if told.dry_run else store.create():
            told.tell("store", f"{folder} is a store now: it was empty", changed=True)
    except AgentError as error:
        return str(error)
    return ""


def tracks(repo: Repository) -> bool:
    """Whether some .gitattributes of the work tree sends files to Git LFS."""
    pathspec = ":(top,glob)**/.gitattributes"
    listed = git("ls-files", "-z", "--full-name", "--cached", "--others", "--exclude-standard", "--", pathspec)
    files = (_top(repo) / name for name in {".gitattributes", *listed.split("\0")[:-1]})
    # git follows no link of that name, which a repository could lead to a device without an end.
    plain_files = (file for file in files if file.is_file() and not file.is_symlink())
    return any(_TRACKS.search(ConfigFile(file).content) for file in plain_files)


_TRACKS: Final = re.compile(rb"^[^#\n]*\sfilter=lfs\b", re.MULTILINE)


def is_unstaged(attributes: Path) -> bool:
    """Whether this file sends something to Git LFS, and what is staged of it nothing: made just now, or before."""
    staged = run_git(["cat-file", "blob", ":.gitattributes"], cwd=attributes.parent).stdout
    return bool(_TRACKS.search(ConfigFile(attributes).content)) and not _TRACKS.search(staged)


def track(attributes: Path) -> None:
    """Appends the patterns of weights."""
    before = ConfigFile(attributes).content
    newline = b"\n" if before and not before.endswith(b"\n") else b""
    lines = "".join(f"*.{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in WEIGHTS)
    attributes.write_bytes(before + newline + lines.encode())


def next_steps(repo: Repository, target: Target, remote: str, *, earlier_objects: bool, second: bool) -> Iterator[str]:
    """What to run now; `second`: the store is that of one remote alone, and another one may have what it lacks."""
    if unlike := in_git_itself(repo):
        # Before the commit: whoever clones one between gets files that git calls changed, and cannot pull.
        files = f"{spell_count(unlike, 'file')} {'is' if unlike == 1 else 'are'} in git itself"
        yield f"git add --renormalize :/   ({files}: makes pointers of them, older commits keep them)"
    if unlike or run_git(["diff", "--cached", "--quiet", "--", ":/.lfsconfig", ":/.gitattributes"]).returncode:
        yield f'git commit -m "Keep the weights in {target}"'
    if remote not in repo.remotes():
        yield f"git remote add {remote} URL"
    earlier = earlier_objects and run_git(["rev-parse", "--verify", "--quiet", "HEAD"]).returncode == 0
    others = [name for name in repo.remotes() if name != remote]
    if others and earlier and second:
        source = repo.default_remote() if repo.default_remote() in others else others[0]
        yield f"git lfs fetch --all {source}   (the objects of earlier commits: a push needs them here)"
    yield f"git push {remote} HEAD"
    if earlier:
        named = "" if remote == repo.default_remote() else f" --remote {remote}"
        yield f"lfs-agent push-missing --all{named}   (the objects of earlier commits, and of other branches)"


def in_git_itself(repo: Repository) -> int:
    """How many files belong to Git LFS by what is staged now, and are no pointers: committed before they did.

    0 in a partial clone, which would fetch all that it lacks for that.
    """
    if repo.promisor:
        return 0
    tree = run_git(["write-tree"], cwd=repo.cwd)
    if tree.returncode:  # a merge has conflicts
        return 0
    try:
        return sum(1 for _ in repo.irregular(tree.stdout.decode().strip()))
    except AgentError:  # only a hint: verify tells what cannot be read
        return 0


def _top(repo: Repository) -> Path:
    _ = repo.common_dir  # a sentence outside of any repository
    if repo.worktree is None:
        raise UsageError("there is no work tree here: run init in a clone of this repository, and push .lfsconfig")
    return repo.worktree


def _plain(path: Path) -> Path:
    if path.is_symlink():
        raise UsageError(f"{path} is a symbolic link: git-lfs or git would not follow it; make it a file")
    # git-lfs reads that of the index until there is one here, which hides all that the other says.
    if not path.exists() and git("ls-files", "-t", "--", path.name, cwd=path.parent).startswith("S "):
        raise UsageError(
            f"{path.name} is committed, and left out of this work tree: a new one would hide what it says; run git "
            f"sparse-checkout add /{path.name}, and this again"
        )
    return path
