"""The demo's steps: a server, a cellar, a push, a clone by somebody else, and the proof that all is equal."""

import hashlib
import os
import shlex
import signal
import subprocess
from collections import Counter
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.demo.models import makers, texts
from tests.demo.page import Page, in_words
from tests.machine import CommandFailed, Home, describe
from tests.servers import LocalStack, is_ledger
from tests.servers.localstack import VERSION

BUCKET: Final = "cellar"
PREFIX: Final = "models"


@dataclass(frozen=True)
class Stage:
    """What the steps share."""

    page: Page
    folder: Path
    server: LocalStack

    def user(self, name: str) -> Home:
        """Somebody with a home folder of their own, and the keys of the bucket."""
        home = Home(self.folder / name)
        home.environ.update(self.server.environ(), GIT_LFS_FORCE_PROGRESS="1")
        return home

    def run(self, home: Home, *argv: str, cwd: Path | None = None) -> None:
        """Runs a command as a person types it; shows how it goes, and what it said.

        Raises CommandFailed.
        """
        with self.page.step(f"{home.folder.name}$ {shlex.join(argv)}") as step:
            process = subprocess.Popen(
                argv,
                cwd=cwd or home.folder,
                env=home.environ,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            said = b""
            with closing(_read(process)) as chunks:
                for chunk in chunks:
                    said += chunk
                    step.say = _shown(said).rpartition("\n")[2]
            status = process.wait()
        if status:
            raise CommandFailed(describe(subprocess.CompletedProcess(argv, status, _shown(said), "")))
        self.page.lines(_shown(said))


def _read(process: subprocess.Popen[bytes]) -> Generator[bytes]:
    """What it writes, as it comes. Where we are interrupted, it ends too, with all that it has started."""
    assert process.stdout is not None
    with process.stdout as said:
        try:
            while chunk := os.read(said.fileno(), 65536):
                yield chunk
        except BaseException:
            os.killpg(process.pid, signal.SIGTERM)
            said.read()  # until the last of them has closed it
            raise


def _shown(said: bytes) -> str:
    """What stays to be read of it: of a line that was rewritten in place, the last form.

    >>> _shown(b"  0% \\r100%, done.  \\r \\nTo origin\\n")
    '100%, done.\\nTo origin'
    """
    lines = said.decode(errors="replace").rstrip().split("\n")
    forms = [[form.rstrip() for form in line.split("\r") if form.strip()] for line in lines]
    return "\n".join(shown[-1] if shown else "" for shown in forms)


def tell(page: Page, folder: Path, size: int) -> bool:
    """The whole demo, its files in `folder`; `size`: bytes of the largest. Whether everything came back equal."""
    page.heading("A cellar's weights go to S3 and come back, through git alone")
    page.heading("1  An S3 server, for as long as this takes")
    with page.step(f"LocalStack {VERSION}, a process on this machine"):
        server = LocalStack(folder / "server").start()
    with server:
        server.client().create_bucket(Bucket=BUCKET)
        page.line(f'It has the bucket "{BUCKET}" at {server.endpoint}.')
        page.line("It wants no account and keeps nothing: when it ends, with this demo, its bucket is gone.")
        stage = Stage(page, folder, server)
        vera, otto = stage.user("vera"), stage.user("otto")
        cellar, copy = vera.folder / "cellar", otto.folder / "cellar"
        build(stage, cellar, size)
        push(stage, vera, cellar)
        show_bucket(stage, cellar)
        clone(stage, otto)
        equal = compare(stage, cellar, copy)
        look_back(stage, vera, cellar, otto, copy)
    return equal


def build(stage: Stage, cellar: Path, size: int) -> None:
    """Makes the files, not yet committed."""
    stage.page.heading("2  A cellar of real model files, their weights random")
    for name, text in texts().items():
        (cellar / name).parent.mkdir(parents=True, exist_ok=True)
        (cellar / name).write_text(text)
    for name, make in makers(size).items():
        path = cellar / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with stage.page.step(f"{name:<34}") as step:
            holds = make(path)
            step.result = f"{in_words(path.stat().st_size):>9}  {holds}"
    stage.page.note("torch.load reads head.pt; it is written without torch, whose package has 540 MB.")


def push(stage: Stage, vera: Home, cellar: Path) -> None:
    """Vera's way: two commands of ours, the rest is git."""
    stage.page.heading("3  Vera registers the agent once, names the bucket, and pushes")
    vera.git("init", "-q", "--bare", stage.folder / "origin.git")
    vera.git("init", "-q", cellar)
    vera.git("remote", "add", "origin", "../../origin.git", cwd=cellar)
    mark = stage.server.mark()
    stage.run(vera, "lfs-agent", "install")
    stage.run(vera, "lfs-agent", "init", f"s3::{BUCKET}/{PREFIX}", cwd=cellar)
    stage.run(vera, "git", "add", ".", cwd=cellar)
    stage.run(vera, "git", "commit", "-q", "-m", "Lay down the first harvest", cwd=cellar)
    stage.run(vera, "git", "push", "origin", "main", cwd=cellar)
    show_requests(stage, mark)


def show_bucket(stage: Stage, cellar: Path) -> None:
    """Which file is under which key; how little git's own remote has."""
    stage.page.heading("4  What went where")
    listing = stage.server.client().list_objects_v2(Bucket=BUCKET)
    entries = [entry for entry in listing.get("Contents", []) if not is_ledger(entry["Key"])]
    stored = {entry["Key"]: entry["Size"] for entry in entries}
    names = {sha256(cellar / name): name for name in makers(0)}
    for key, size in sorted(stored.items(), key=lambda entry: -entry[1]):
        name = names.get(key.rpartition("/")[2], "?")
        stage.page.line(f"{name:<34}{in_words(size):>9}  →  {key[:47]}…")
    origin = sum(path.stat().st_size for path in (stage.folder / "origin.git").rglob("*") if path.is_file())
    total = in_words(sum(stored.values()))
    stage.page.line(
        f"A key is the file's SHA-256. The bucket has {total}; git's own remote {in_words(origin)}, all told."
    )


def clone(stage: Stage, otto: Home) -> None:
    """Otto's way: the repository says where its objects are."""
    stage.page.heading("5  Otto, in a home folder of his own, registers the agent once, and clones")
    mark = stage.server.mark()
    stage.run(otto, "lfs-agent", "install")
    stage.run(otto, "git", "clone", "../origin.git", "cellar")
    show_requests(stage, mark)


def show_requests(stage: Stage, mark: int) -> None:
    """What the server was asked for since then, by its own log."""
    asked = stage.server.requests(since=mark)
    counted = Counter(entry.operation for entry in asked).most_common()
    names = ", ".join(f"{number} {name}" for name, number in counted)
    stage.page.note(f"{len(asked)} requests to the bucket: {names}")


def compare(stage: Stage, cellar: Path, copy: Path) -> bool:
    """Puts each file beside its copy, by SHA-256."""
    stage.page.heading("6  Is every file equal?")
    names = [path.relative_to(cellar) for path in sorted(cellar.rglob("*")) if path.is_file()]
    names = [name for name in names if name.parts[0] != ".git"]
    verdicts = []
    for name in names:
        ours, theirs = sha256(cellar / name), sha256(copy / name)
        verdicts.append(ours == theirs)
        sign, style = ("equal", "green") if ours == theirs else ("DIFFERS", "red")
        hashes = f"{ours[:20]}…  {theirs[:20]}…"
        stage.page.line(f"{name!s:<34}{hashes}  {stage.page.styled(sign, style)}")
    return all(verdicts)


def look_back(stage: Stage, vera: Home, cellar: Path, otto: Home, copy: Path) -> None:
    """The commands for later."""
    stage.page.heading("7  And later: what happened, and is it all still there?")
    stage.run(vera, "lfs-agent", "log", cwd=cellar)
    stage.run(otto, "lfs-agent", "log", cwd=copy)
    stage.run(otto, "lfs-agent", "verify", "--deep", cwd=copy)


def sha256(path: Path) -> str:
    """Of a file's content; "missing" where there is none."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return "missing"
