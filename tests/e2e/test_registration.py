"""`lfs-agent install` and `uninstall`: what git-lfs is told, where, and that it can be taken back (C1, C2)."""

import json
import os
import re
import shlex
import shutil
import stat
import sys
import threading
from collections.abc import Iterator
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import lfs_agent
from tests.cellar import random_bytes
from tests.machine import POWERLESS, Home

WORKER = Path(lfs_agent.__file__).with_name("worker.py")
INTERPRETER = Path(sys.executable)

STARTS = {
    "missing": None,
    "empty": b"",
    "usual": b"[user]\n\tname = Vera\n\temail = vera@example.com\n",
    "no newline at the end": b"[user]\n\tname = Vera",
    "a comment at the end": b"[user]\n\tname = Vera\n# mine\n",
    "a comment without a newline": b"[user]\n\tname = Vera\n; mine",
    "blank lines at the end": b"[user]\n\tname = Vera\n\n\n",
    "carriage returns": b"[user]\r\n\tname = Vera\r\n",
    "spaces and quotes": b'[alias]\n    x = "!f() { echo \\"a # b\\"; }; f" ; c\n',
    "another agent for another scheme": (
        b'[lfs "customtransfer.dal"]\n\tpath = dal\n[lfs "dal::"]\n\tstandalonetransferagent = dal\n'
    ),
    "git-lfs is set up": (
        b'[filter "lfs"]\n\tclean = git-lfs clean -- %f\n\tsmudge = git-lfs smudge -- %f\n'
        b"\tprocess = git-lfs filter-process\n\trequired = true\n"
    ),
    "git-lfs is set up in the user's own way": (
        b'[filter "lfs"]\n\tclean = git-lfs clean -- %f\n\tsmudge = git-lfs smudge --skip -- %f\n'
        b"\tprocess = git-lfs filter-process --skip\n\trequired = true\n"
    ),
    "own keys in our sections": (
        b'[lfs "customtransfer.lfs-agent"]\n\tdirection = both\n'
        b'[lfs "s3::"]\n\taccess = none # mine\n[core]\n\tpager = less'
    ),
}


@pytest.fixture
def config(home: Home) -> Path:
    """The user's git configuration."""
    return home.folder / ".gitconfig"


def start(config: Path, content: bytes | None) -> None:
    if content is None:
        config.unlink()
    else:
        config.write_bytes(content)


def get(home: Home, key: str, *where: str | Path) -> str:
    return home.git("config", *(where or ("--global",)), "--get-all", key, check=False).stdout.rstrip("\n")


def test_git_lfs_is_told_of_two_schemes_and_an_absolute_path(home: Home) -> None:
    said = home.install().stdout

    registered = [get(home, f"lfs.customtransfer.lfs-agent.{name}") for name in ("path", "args")]
    shell, door, interpreter, worker = map(Path, shlex.split(registered[1]))
    assert (registered[0], shell) == ("exec", Path("/bin/sh"))
    assert (door, worker) == (WORKER.with_name("door.sh"), WORKER)
    assert interpreter.parent == INTERPRETER.parent
    assert interpreter.samefile(INTERPRETER)  # an environment has several names for its interpreter
    assert get(home, "lfs.customtransfer.lfs-agent.concurrent") == "true"
    assert get(home, "lfs.s3::.standalonetransferagent") == "lfs-agent"
    assert get(home, "lfs.dir::.standalonetransferagent") == "lfs-agent"
    agents = home.git("config", "--get-regexp", "standalonetransferagent").stdout.splitlines()
    assert len(agents) == 2
    assert str(home.folder / ".gitconfig") in said


def test_the_registered_program_runs_without_a_path(home: Home) -> None:
    home.install()
    path, args = (get(home, f"lfs.customtransfer.lfs-agent.{name}") for name in ("path", "args"))
    init = '{"event":"init","operation":"download","remote":"origin","concurrent":true,"concurrenttransfers":8}\n'

    done = home.run(
        "/bin/sh", "-c", f"'{path}' {args}", env={"PATH": "/nonexistent"}, stdin=init + '{"event":"terminate"}\n'
    )

    assert done.stdout == "{}\n"


def test_git_lfs_is_set_up_where_it_was_not(home: Home) -> None:
    said = home.install().stdout

    assert "git lfs install, since git-lfs was not set up yet" in said
    assert get(home, "filter.lfs.process") == "git-lfs filter-process"
    assert "git lfs install" not in home.install().stdout


@pytest.mark.parametrize("content", STARTS.values(), ids=STARTS)
def test_twice_is_once(home: Home, config: Path, content: bytes | None) -> None:
    start(config, content)
    home.install()
    once = config.read_bytes()

    said = home.install().stdout

    assert "already" in said
    assert config.read_bytes() == once


@pytest.mark.parametrize("content", STARTS.values(), ids=STARTS)
def test_uninstall_restores_the_file_byte_for_byte(home: Home, config: Path, content: bytes | None) -> None:
    start(config, content)
    home.install()
    home.install()

    home.run("lfs-agent", "uninstall")

    assert (config.read_bytes() if config.exists() else None) == content


@pytest.mark.parametrize("content", STARTS.values(), ids=STARTS)
def test_what_the_user_wrote_since_stays(home: Home, config: Path, content: bytes | None) -> None:
    start(config, content)
    home.install()
    home.git("config", "--global", "lfs-agent.region", "eu-central-1")
    home.git("config", "--global", "lfs.s3::.locksverify", "false")
    with config.open("ab") as file:
        file.write(b"# last words\n")

    home.run("lfs-agent", "uninstall")

    left = config.read_bytes()
    assert all(line in left for line in (content or b"").splitlines())
    assert get(home, "lfs-agent.region") == "eu-central-1"
    assert get(home, "lfs.s3::.locksverify") == "false"
    assert left.endswith(b"# last words\n")
    assert b"lfs-agent.added" not in left
    assert b"worker.py" not in left
    assert b"standalonetransferagent = lfs-agent" not in left


def test_an_interpreter_that_has_moved_is_written_anew(home: Home, config: Path) -> None:
    home.install()
    once = config.read_bytes()
    home.git("config", "--global", "lfs.customtransfer.lfs-agent.path", "/old/python")
    home.git("config", "--global", "lfs.customtransfer.lfs-agent.args", "-I -S /old/worker.py")

    assert "already" not in home.install().stdout

    assert config.read_bytes() == once


def test_the_filter_stays_where_the_user_changed_it_since(home: Home) -> None:
    home.install()
    home.git("lfs", "install", "--skip-smudge", "--force", "--skip-repo")

    home.run("lfs-agent", "uninstall")

    assert get(home, "filter.lfs.process") == "git-lfs filter-process --skip"


def test_the_link_of_a_dotfiles_folder_and_the_mode_stay(home: Home, config: Path) -> None:
    real = home.folder / "dotfiles" / "gitconfig"
    real.parent.mkdir()
    real.write_bytes(b"[user]\n\tname = Vera")
    real.chmod(0o600)
    config.unlink()
    config.symlink_to(real)

    home.install()
    home.run("lfs-agent", "uninstall")

    assert config.is_symlink()
    assert real.read_bytes() == b"[user]\n\tname = Vera"
    assert stat.S_IMODE(real.stat().st_mode) == 0o600


def test_the_other_place_of_the_user_s_configuration(home: Home, config: Path) -> None:
    other = home.folder / ".config" / "git" / "config"
    other.parent.mkdir(parents=True)
    config.rename(other)
    before = other.read_bytes()

    said = home.install().stdout
    assert str(other) in said
    assert not config.exists()
    home.run("lfs-agent", "uninstall")

    assert other.read_bytes() == before


def test_uninstall_without_install_changes_nothing(home: Home, config: Path) -> None:
    before = config.read_bytes()

    said = home.run("lfs-agent", "uninstall").stdout

    assert "is not registered" in said
    assert config.read_bytes() == before


def test_local_is_for_one_repository(home: Home, config: Path) -> None:
    before = config.read_bytes()
    repository = home.folder / "work"
    home.git("init", "-q", repository)
    own = (repository / ".git" / "config").read_bytes()

    home.run("lfs-agent", "install", "--local", cwd=repository)

    assert config.read_bytes() == before
    assert get(home, "lfs.s3::.standalonetransferagent", "--file", repository / ".git" / "config") == "lfs-agent"
    assert (repository / ".git" / "hooks" / "pre-push").exists()

    home.run("lfs-agent", "uninstall", "--local", cwd=repository)

    assert (repository / ".git" / "config").read_bytes() == own
    assert not (repository / ".git" / "hooks" / "pre-push").exists()


def test_local_leaves_hooks_that_were_there(home: Home) -> None:
    repository = home.folder / "work"
    home.git("init", "-q", repository)
    home.git("lfs", "install", "--local", cwd=repository)
    home.git("config", "--remove-section", "filter.lfs", cwd=repository)

    home.run("lfs-agent", "install", "--local", cwd=repository)
    home.run("lfs-agent", "uninstall", "--local", cwd=repository)

    assert (repository / ".git" / "hooks" / "pre-push").exists()


def test_hooks_stay_while_another_registration_needs_them(home: Home) -> None:
    repository = home.folder / "work"
    home.git("init", "-q", repository)
    home.run("lfs-agent", "install", "--local", cwd=repository)
    home.install()

    home.run("lfs-agent", "uninstall", "--local", cwd=repository)

    assert (repository / ".git" / "hooks" / "pre-push").exists()


def test_a_hook_of_somebody_else_s_is_left_and_named_each_time(home: Home) -> None:
    repository = home.folder / "work"
    home.git("init", "-q", repository)
    hook = repository / ".git" / "hooks" / "pre-push"
    hook.write_text("#!/bin/sh\nexit 0\n")
    hook.chmod(0o755)

    for _ in range(2):
        done = home.run("lfs-agent", "install", "--local", cwd=repository)
        assert f"{hook} is not git-lfs's: unless what it runs does git lfs pre-push, git push sends" in done.stderr

    assert hook.read_text() == "#!/bin/sh\nexit 0\n"
    assert get(home, "filter.lfs.process", "--file", repository / ".git" / "config") == "git-lfs filter-process"


def test_local_outside_of_a_repository_is_a_sentence(home: Home) -> None:
    done = home.run("lfs-agent", "install", "--local", check=False)

    assert done.returncode == 2
    assert "not a git repository" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("content", [None, b"[core]\n\tautocrlf = false", b"# only a comment"])
def test_system_is_for_the_whole_machine(home: Home, config: Path, content: bytes | None) -> None:
    user = config.read_bytes()
    system = home.folder / "etc" / "gitconfig"
    system.parent.mkdir()
    if content is not None:
        system.write_bytes(content)
    del home.environ["GIT_CONFIG_NOSYSTEM"]
    home.environ["GIT_CONFIG_SYSTEM"] = str(system)

    home.install("--system")
    assert get(home, "lfs.s3::.standalonetransferagent", "--system") == "lfs-agent"
    assert get(home, "filter.lfs.process", "--system") == "git-lfs filter-process"
    home.run("lfs-agent", "uninstall", "--system")

    assert (system.read_bytes() if system.exists() else None) == content
    assert config.read_bytes() == user


@pytest.mark.parametrize("key", ["lfs.s3::.standalonetransferagent", "lfs.s3::other.standalonetransferagent"])
def test_another_agent_for_the_scheme_is_not_pushed_aside(home: Home, config: Path, key: str) -> None:
    home.git("config", "--global", key, "their-agent")
    before = config.read_bytes()

    done = home.run("lfs-agent", "install", check=False)

    assert done.returncode == 2
    assert config.read_bytes() == before
    [sentence] = done.stderr.splitlines()
    assert "their-agent" in sentence
    home.run("sh", "-c", sentence[sentence.index("git config --file") :])
    home.install()


def test_without_git_lfs_a_sentence_says_how_to_get_it(home: Home, config: Path, tmp_path: Path) -> None:
    before = config.read_bytes()
    only_git = tmp_path / "bin"
    only_git.mkdir()
    (only_git / "git").symlink_to(next(p for d in os.get_exec_path() if (p := Path(d) / "git").exists()))

    done = home.run(
        INTERPRETER, "-m", "lfs_agent", "install", check=False, env={"PATH": str(only_git), "GIT_EXEC_PATH": ""}
    )

    assert done.returncode == 2
    assert "apt install git-lfs" in done.stderr
    assert config.read_bytes() == before


def test_configuration_that_git_cannot_read_is_no_missing_git_lfs(home: Home, config: Path) -> None:
    config.write_text("[x\n")

    done = home.run("lfs-agent", "install", check=False)

    assert done.returncode == 2
    assert "bad config line 1" in done.stderr
    assert config.read_text() == "[x\n"


@pytest.mark.parametrize("command", [("install",), ("trust", "amazonaws.com/cellar"), ("uninstall",)])
@pytest.mark.parametrize("told", ["", "a folder", "no home"])
def test_where_git_reads_no_configuration_of_the_user_nothing_is_written(
    home: Home, config: Path, command: tuple[str, ...], told: str
) -> None:
    before = config.read_bytes()
    if told == "no home":
        env = {"HOME": ""}
    else:
        env = {"GIT_CONFIG_GLOBAL": told and str(home.folder / "tmp")}

    done = home.run("lfs-agent", *command, check=False, env=env)

    assert done.returncode == 2
    [sentence] = done.stderr.splitlines()
    assert {"": "GIT_CONFIG_GLOBAL is empty", "a folder": "which is no file", "no home": "HOME is not"}[
        told
    ] in sentence
    assert config.read_bytes() == before


def test_what_git_writes_in_another_way_is_taken_out_too(home: Home, config: Path) -> None:
    config.write_text('[lfs "s3::"] foo = bar\n[lfs "dir::"]\n\tstandalonetransferagent = "lfs-agent"\n[a]\n\tb = c\n')
    home.install()

    home.run("lfs-agent", "uninstall")

    left = home.git("config", "--file", config, "--list").stdout.splitlines()
    assert left == ["lfs.s3::.foo=bar", "a.b=c"]


def test_the_link_to_a_file_that_install_made_stays(home: Home, config: Path) -> None:
    config.unlink()
    target = home.folder / "dotfiles"
    config.symlink_to(target)
    home.install()

    home.run("lfs-agent", "uninstall")

    assert config.is_symlink()
    assert not target.exists()


def test_a_locked_file_is_a_sentence(home: Home, config: Path) -> None:
    lock = config.with_name(".gitconfig.lock")
    lock.touch()
    installed = home.run("lfs-agent", "install", check=False)
    lock.unlink()
    home.install()
    before = config.read_bytes()
    lock.touch()
    uninstalled = home.run("lfs-agent", "uninstall", check=False)

    for done in (installed, uninstalled):
        assert done.returncode == 3
        [sentence] = done.stderr.splitlines()
        assert ".gitconfig" in sentence
    assert config.read_bytes() == before


@pytest.mark.skipif(not shutil.which("setpriv"), reason="root may write everywhere, unless setpriv takes that right")
def test_a_home_that_cannot_be_written_is_a_sentence(home: Home, config: Path) -> None:
    for command in ("install", "uninstall"):
        before = config.read_bytes()
        home.folder.chmod(0o555)
        home.runs_as = POWERLESS
        done = home.run("lfs-agent", command, check=False)
        home.runs_as = []
        home.folder.chmod(0o755)

        assert done.returncode == 3
        [sentence] = done.stderr.splitlines()
        assert re.search(r"\.gitconfig.*: Permission denied", sentence)
        assert config.read_bytes() == before
        home.install()


# Others on the same machine

CONTENT = random_bytes(5000, 4)
OID = sha256(CONTENT).hexdigest()


class LfsServer(ThreadingHTTPServer):
    """An ordinary LFS server: the batch API, and objects by plain PUT and GET."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), LfsHandler)
        self.url = f"http://127.0.0.1:{self.server_port}/lfs"
        self.batches: list[dict[str, Any]] = []
        self.objects: dict[str, bytes] = {}

    def batch(self, asked: dict[str, Any]) -> dict[str, Any]:
        self.batches.append(asked)
        operation = asked["operation"]
        objects = [{**o, "actions": {operation: {"href": f"{self.url}/{o['oid']}"}}} for o in asked["objects"]]
        return {"transfer": "basic", "objects": objects}


class LfsHandler(BaseHTTPRequestHandler):
    server: LfsServer

    def do_POST(self) -> None:
        asked = json.loads(self._body() or b"{}")
        if self.path.endswith("/objects/batch"):
            self._answer(200, json.dumps(self.server.batch(asked)).encode())
        else:
            self._answer(404, b'{"message": "no locks here"}')

    def do_PUT(self) -> None:
        self.server.objects[self.path.rpartition("/")[2]] = self._body()
        self._answer(200, b"")

    def do_GET(self) -> None:
        self._answer(200, self.server.objects[self.path.rpartition("/")[2]], "application/octet-stream")

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _answer(self, status: int, body: bytes, kind: str = "application/vnd.git-lfs+json") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name in the base class
        """Says nothing."""


@pytest.fixture
def lfs_server() -> Iterator[LfsServer]:
    """An ordinary LFS server."""
    with LfsServer() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def work(home: Home, tmp_path: Path) -> Path:
    """A repository with one object, and a bare remote `origin`; the agent is installed, but not meant."""
    home.install()
    work = tmp_path / "work"
    home.git("init", "-q", "--bare", tmp_path / "origin.git")
    home.git("init", "-q", work)
    home.git("remote", "add", "origin", tmp_path / "origin.git", cwd=work)
    (work / ".gitattributes").write_text("*.bin filter=lfs diff=lfs merge=lfs -text\n")
    (work / "weights.bin").write_bytes(CONTENT)
    return work


def commit(home: Home, work: Path) -> None:
    home.git("add", "-A", cwd=work)
    home.git("commit", "-qm", "weights", cwd=work)


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_remote_that_is_a_path_keeps_git_lfs_s_own_store(home: Home, work: Path, tmp_path: Path, scheme: str) -> None:
    home.git("remote", "set-url", "origin", f"{scheme}{tmp_path}/origin.git", cwd=work)
    commit(home, work)

    home.git("push", "-q", "origin", "HEAD", cwd=work)
    assert (tmp_path / "origin.git/lfs/objects" / OID[:2] / OID[2:4] / OID).read_bytes() == CONTENT

    home.git("clone", "-q", f"{scheme}{tmp_path}/origin.git", tmp_path / "clone")
    assert (tmp_path / "clone/weights.bin").read_bytes() == CONTENT


def test_an_ordinary_lfs_server_still_gets_batch_calls(
    home: Home, work: Path, tmp_path: Path, lfs_server: LfsServer
) -> None:
    (work / ".lfsconfig").write_text(f"[lfs]\n\turl = {lfs_server.url}\n\tlocksverify = false\n")
    commit(home, work)

    home.git("push", "-q", "origin", "HEAD", cwd=work)
    assert lfs_server.objects == {OID: CONTENT}
    home.git("clone", "-q", tmp_path / "origin.git", tmp_path / "clone")
    assert (tmp_path / "clone/weights.bin").read_bytes() == CONTENT

    assert [batch["operation"] for batch in lfs_server.batches] == ["upload", "download"]
    assert all("basic" in batch["transfers"] for batch in lfs_server.batches)


THEIR_AGENT = """\
import json, sys
for line in sys.stdin:
    event = json.loads(line)
    if event["event"] == "upload":
        print(event["oid"], file=open(sys.argv[1], "a"))
    if event["event"] != "terminate":
        answer = {} if event["event"] == "init" else {"event": "complete", "oid": event["oid"]}
        print(json.dumps(answer), flush=True)
"""


@pytest.mark.parametrize("url", ["https://lfs.example.org/them", "s3://bucket/prefix", "theirs::bucket"])
def test_a_repository_with_an_agent_of_its_own_keeps_it(home: Home, work: Path, tmp_path: Path, url: str) -> None:
    script, seen = tmp_path / "their_agent.py", tmp_path / "seen"
    script.write_text(THEIR_AGENT)
    home.git("config", "lfs.customtransfer.theirs.path", sys.executable, cwd=work)
    home.git(
        "config", "lfs.customtransfer.theirs.args", f"{shlex.quote(str(script))} {shlex.quote(str(seen))}", cwd=work
    )
    home.git("config", "lfs.standalonetransferagent", "theirs", cwd=work)
    home.git("config", "lfs.url", url, cwd=work)
    commit(home, work)

    home.git("push", "-q", "origin", "HEAD", cwd=work)

    assert seen.read_text() == f"{OID}\n"


def test_no_url_is_rewritten(home: Home) -> None:
    home.install()

    assert home.git("config", "--get-regexp", r"^url\.", check=False).stdout == ""
    assert home.git("ls-remote", "--get-url", "s3://bucket/prefix").stdout == "s3://bucket/prefix\n"
