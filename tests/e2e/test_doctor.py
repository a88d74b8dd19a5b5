"""`lfs-agent doctor`: each broken precondition gives its own line, and the command in it mends it (C7, W4, W5, T17)."""

import json
import os
import shlex
import shutil
import sys
import time
from collections.abc import Mapping
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

import lfs_agent
from lfs_agent.parts import MIB
from tests.cellar import NOBODY_THERE, Cellar, random_bytes
from tests.e2e.conftest import with_ages
from tests.machine import POWERLESS, Home
from tests.proxy import EXPIRED_TOKEN, NOT_IMPLEMENTED, Answer, FaultProxy, Faults, Rule
from tests.servers import Server

Lines = list[dict[str, str]]
NO_ENVIRON: Mapping[str, str] = {}

GIT_LFS = """\
#!/bin/sh
[ "$1" = version ] && exec echo "git-lfs/{version} (GitHub; linux amd64; go 1.26)"
exec {real} "$@"
"""


def ask(
    home: Home, cwd: Path, *arguments: str, status: int, env: Mapping[str, str] = NO_ENVIRON, path: Path | None = None
) -> Lines:
    """All lines of `doctor --json`, which ends with `status`; `path`: a folder that comes first on PATH."""
    found = {"PATH": f"{path}{os.pathsep}{home.environ['PATH']}"} if path else {}
    done = home.run("lfs-agent", "doctor", "--json", *arguments, cwd=cwd, check=False, env={**found, **env})
    assert done.stderr == ""
    lines: Lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert all(list(line) == ["check", "status", "text", "mend"] for line in lines)
    assert done.returncode == status, done.stdout
    return lines


@pytest.fixture
def newest(tmp_path: Path) -> Path:
    """A folder with a git-lfs that says it is the newest: what is known of older ones is not in the way."""
    return says_version(tmp_path / "newest", "3.8.1")


def says_version(folder: Path, version: str) -> Path:
    folder.mkdir()
    script = folder / "git-lfs"
    script.write_text(GIT_LFS.format(version=version, real=shutil.which("git-lfs")))
    script.chmod(0o755)
    return folder


@pytest.fixture
def filled(cellar: Cellar) -> Cellar:
    """A cellar with nothing broken, and one object."""
    cellar.add("vit-l/1.0/weights.bin", 20_000, seed=1)
    cellar.push()
    return cellar


class Clinic:
    """Asks for what is wrong in a folder; where a command mends that, it is run."""

    def __init__(self, home: Home, work: Path, newest: Path) -> None:
        self.home = home
        self.work = work
        self.newest = newest

    def wrong(self, *arguments: str, status: int = 1, env: Mapping[str, str] = NO_ENVIRON) -> Lines:
        """What is neither right nor left out."""
        lines = ask(self.home, self.work, *arguments, status=status, env=env, path=self.newest)
        return [line for line in lines if line["status"] not in ("ok", "skipped")]

    def one(self, check: str, said: str, *arguments: str, status: int = 1, env: Mapping[str, str] = NO_ENVIRON) -> str:
        """The command that mends the only thing that is wrong: it is this one."""
        (line,) = self.wrong(*arguments, status=status, env=env)
        assert line["check"] == check
        assert said in line["text"]
        assert line["status"] == {0: "warning", 1: "problem", 3: "unknown"}[status]
        return line["mend"]

    def mend(self, command: str) -> None:
        """Runs it, and nothing is wrong any more."""
        self.home.run("sh", "-c", command, cwd=self.work)
        assert self.wrong(status=0) == []


@pytest.fixture
def machine(home: Home, newest: Path, tmp_path: Path) -> Clinic:
    """A machine with nothing broken, and no repository."""
    home.install()
    return Clinic(home, tmp_path, newest)


@pytest.fixture
def clinic(cellar: Cellar, newest: Path) -> Clinic:
    """A cellar with nothing broken, and nothing in it."""
    return Clinic(cellar.home, cellar.work, newest)


def test_where_nothing_is_broken_all_is_right_and_nothing_is_written(
    server: Server, clinic: Clinic, filled: Cellar
) -> None:
    cellar = filled
    mark = cellar.server.mark()
    lines = ask(clinic.home, cellar.work, status=0, path=clinic.newest)
    assert {line["status"] for line in lines} == {"ok", "skipped"}
    right = {line["check"] for line in lines if line["status"] == "ok"}
    assert right >= {"git", "git-lfs", "filters", "agent", "program", "store", ".lfsconfig", "trust", "credentials"}
    assert right >= {"bucket", "clock", "uploads", "prune"}
    assert {line["check"] for line in lines if line["status"] == "skipped"} <= {"writing", "abilities", "lifecycle"}
    requests = [request for request in cellar.server.requests(mark) if request.bucket == cellar.bucket]
    assert {request.method for request in requests} == {"GET"}
    assert len(requests) == 3


def test_people_read_one_line_each_with_the_command_that_mends_it(clinic: Clinic) -> None:
    (clinic.work / ".lfsconfig").write_bytes(b"[lfs]\n\turl = s3::another\n")
    done = clinic.home.run("lfs-agent", "doctor", cwd=clinic.work, check=False)
    (line,) = [line for line in done.stdout.splitlines() if "\t.lfsconfig\t" in line]
    assert line.startswith("problem\t.lfsconfig\t.lfsconfig is not as HEAD has it: ")
    assert '\tto mend it: git diff HEAD -- :/.lfsconfig; then git commit -m "Name the store" -- :/.lfsconfig' in line


# The machine


@pytest.mark.parametrize(
    "version, status, said",
    [
        ("3.10.0", "ok", "3.10.0"),
        ("3.8.1", "ok", "3.8.1"),
        ("3.8.0", "warning", "CVE-2026-105803"),
        ("3.3.0", "warning", "CVE-2026-105803"),
        ("3.2.9", "problem", "too old"),
        ("2.13.3", "problem", "too old"),
    ],
)
def test_a_git_lfs_with_a_known_hole_is_a_warning_and_one_too_old_a_problem(
    home: Home, tmp_path: Path, version: str, status: str, said: str
) -> None:
    home.install()
    lines = ask(home, tmp_path, status=status == "problem", path=says_version(tmp_path / "bin", version))
    (line,) = [line for line in lines if line["check"] == "git-lfs"]
    assert line["status"] == status
    assert said in line["text"]
    assert ("https://github.com/git-lfs" in line["mend"]) is (status != "ok")


def only(*programs: str, folder: Path) -> dict[str, str]:
    """The environment of a machine that has these programs, and no more."""
    folder.mkdir()
    for name in programs:
        (folder / name).symlink_to(str(shutil.which(name)))
    return {"PATH": str(folder), "GIT_EXEC_PATH": ""}


def python_doctor(home: Home, cwd: Path, env: Mapping[str, str]) -> Lines:
    interpreter = Path(home.environ["PATH"].split(os.pathsep)[0]) / "python"
    done = home.run(interpreter, "-m", "lfs_agent", "doctor", "--json", cwd=cwd, check=False, env=env)
    assert (done.returncode, done.stderr) == (1, "")
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_without_git_lfs_a_line_says_how_to_get_it(home: Home, tmp_path: Path) -> None:
    home.install()
    lines = python_doctor(home, tmp_path, only("git", folder=tmp_path / "bin"))
    wrong = [line for line in lines if line["status"] == "problem"]
    assert [line["check"] for line in wrong] == ["git-lfs"]
    assert "apt install git-lfs" in wrong[0]["mend"]


def test_without_git_there_is_one_line_and_nothing_more(home: Home, tmp_path: Path) -> None:
    (line,) = python_doctor(home, tmp_path, only(folder=tmp_path / "bin"))
    assert (line["check"], line["text"]) == ("git", "git is not on PATH: install it first")


def test_filters_that_are_not_set_up(machine: Clinic) -> None:
    machine.home.git("config", "--global", "--remove-section", "filter.lfs")
    mend = machine.one("filters", "git lfs install has not been done")
    machine.home.run("sh", "-c", mend)
    assert machine.wrong(status=0) == []


def test_filters_that_leave_pointers(machine: Clinic) -> None:
    machine.home.git("lfs", "install", "--skip-smudge", "--force", "--skip-repo")
    machine.mend(machine.one("filters", "files stay pointers", status=0))


def test_an_agent_that_is_not_registered(machine: Clinic) -> None:
    machine.home.run("lfs-agent", "uninstall")
    machine.home.git("lfs", "install", "--skip-repo")
    machine.mend(machine.one("agent", "git-lfs does not know this agent on this machine"))


def test_an_agent_that_is_registered_twice(machine: Clinic) -> None:
    machine.home.git("config", "--global", "lfs.s3::other.standalonetransferagent", "their-agent")
    machine.mend(machine.one("agent", "two agents are registered for s3:: URLs"))


def test_another_agent_in_our_place(machine: Clinic) -> None:
    machine.home.git("config", "--global", "lfs.s3::.standalonetransferagent", "their-agent")
    machine.mend(machine.one("agent", "for s3:: URLs git-lfs starts 'their-agent'"))


def test_an_agent_of_the_repository_s_own_in_our_place(clinic: Clinic, cellar: Cellar) -> None:
    cellar.git("config", "lfs.dir::.standalonetransferagent", "their-agent")
    clinic.work = cellar.work / "vit-l"
    clinic.work.mkdir()
    clinic.mend(clinic.one("agent", "for dir:: URLs git-lfs starts 'their-agent'"))


@pytest.mark.parametrize("key, value", [("path", "/gone/python"), ("args", "-I -S '/gone for ever/worker.py'")])
def test_a_registered_program_that_is_gone(machine: Clinic, key: str, value: str) -> None:
    machine.home.git("config", "--global", f"lfs.customtransfer.lfs-agent.{key}", value)
    machine.mend(machine.one("program", f"would start {shlex.split(value)[-1]}, which is gone"))


@pytest.mark.parametrize("key, value", [("path", "{}"), ("args", "/bin/sh '{}' worker.py")])
def test_a_registered_interpreter_that_may_not_be_run(machine: Clinic, tmp_path: Path, key: str, value: str) -> None:
    (tmp_path / "python").touch(0o644)
    (machine.work / "worker.py").touch()
    machine.home.git("config", "--global", f"lfs.customtransfer.lfs-agent.{key}", value.format(tmp_path / "python"))
    machine.mend(machine.one("program", "may not be run"))


def copied_package(to: Path, *, version: str) -> Path:
    """Another installation; gives its worker."""
    package = Path(lfs_agent.__file__).parent
    shutil.copytree(package, to, ignore=shutil.ignore_patterns("__pycache__"))
    text = (to / "__init__.py").read_text().replace(lfs_agent.__version__, version)
    (to / "__init__.py").write_text(text)
    return to / "worker.py"


def test_a_registered_program_of_another_version(machine: Clinic, tmp_path: Path) -> None:
    worker = copied_package(tmp_path / "old", version="0.0.1")
    machine.home.git("config", "--global", "lfs.customtransfer.lfs-agent.path", sys.executable)
    machine.home.git("config", "--global", "lfs.customtransfer.lfs-agent.args", f"-I -S {worker}")
    machine.mend(machine.one("program", f"starts version 0.0.1 in {worker.parent}", status=0))


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it is registered as ever")
def test_a_registration_of_an_earlier_version_is_noticed(machine: Clinic) -> None:
    worker = Path(lfs_agent.__file__).with_name("worker.py")
    machine.home.git("config", "--global", "lfs.customtransfer.lfs-agent.path", sys.executable)
    machine.home.git("config", "--global", "lfs.customtransfer.lfs-agent.args", f"-I -S {worker}")
    machine.mend(machine.one("program", "its workers could start sooner", status=0))


def test_a_program_that_is_not_compiled_is_a_hint(machine: Clinic, tmp_path: Path) -> None:
    worker = copied_package(tmp_path / "lib" / "lfs_agent", version=lfs_agent.__version__)
    interpreter = Path(machine.home.environ["PATH"].split(os.pathsep)[0]) / "python"
    fresh = {"PYTHONPATH": str(worker.parent.parent), "PYTHONDONTWRITEBYTECODE": "1"}
    command = (interpreter, "-m", "lfs_agent")
    machine.home.run(*command, "install", env=fresh)

    def line() -> dict[str, str]:
        done = machine.home.run(*command, "doctor", "--json", cwd=machine.work, env=fresh)
        return next(found for found in map(json.loads, done.stdout.splitlines()) if found["check"] == "program")

    before = line()
    assert (before["status"], "is not compiled" in before["text"]) == ("ok", True)
    machine.home.run("sh", "-c", before["mend"])
    assert line()["mend"] == ""


# The repository


def test_outside_of_a_repository_the_machine_alone_is_looked_at(home: Home, tmp_path: Path, newest: Path) -> None:
    home.install()
    *_, last = ask(home, tmp_path, status=0, path=newest)
    assert (last["check"], last["status"]) == ("repository", "skipped")


def test_a_repository_of_somebody_else(clinic: Clinic) -> None:
    """git refuses to read it."""
    environ = {"GIT_TEST_ASSUME_DIFFERENT_OWNER": "1"}
    assert clinic.one("repository", "safe.directory", env=environ) == ""


def test_configuration_that_git_cannot_read_is_told_in_git_s_words(clinic: Clinic, cellar: Cellar) -> None:
    with (cellar.work / ".git" / "config").open("a") as file:
        file.write("[broken\n")
    (line,) = clinic.wrong()
    assert (line["check"], line["status"]) == ("git", "problem")
    assert "bad config line" in line["text"]


def test_a_repository_without_a_store(clinic: Clinic, cellar: Cellar) -> None:
    cellar.git("rm", "-q", ".lfsconfig")
    cellar.commit("Forget the store")
    cellar.push("--no-verify", "origin", "HEAD")
    clinic.one("store", "run lfs-agent init s3::BUCKET/PREFIX, and commit .lfsconfig")


def test_a_setting_that_does_not_exist(clinic: Clinic) -> None:
    clinic.home.git("config", "--global", "lfs-agent.regoin", "eu-central-1")
    clinic.one("store", "did you mean lfs-agent.region?")


def test_an_lfsconfig_that_is_not_committed(clinic: Clinic, cellar: Cellar) -> None:
    content = (cellar.work / ".lfsconfig").read_bytes()
    cellar.git("rm", "-q", ".lfsconfig")
    cellar.git("commit", "-q", "-m", "Forget the store")
    (cellar.work / ".lfsconfig").write_bytes(content)
    mend = clinic.one(".lfsconfig", ".lfsconfig is not committed: nobody else finds the store")

    (cellar.work / ".gitignore").write_text(".lfsconfig\n")
    cellar.git("add", ".gitignore")
    cellar.git("commit", "-q", "-m", "Ignore it")
    clinic.mend(clinic.one(".lfsconfig", ".lfsconfig is ignored by git"))
    assert "--force" not in mend
    cellar.git("reset", "-q", "--hard", "HEAD~2")

    (cellar.work / ".lfsconfig").write_bytes(content)
    clinic.mend(mend)
    cellar.git("reset", "-q", "--soft", "HEAD~1")
    clinic.mend(clinic.one(".lfsconfig", "is staged, and not committed yet"))


def test_an_lfsconfig_that_git_cannot_read_is_not_passed_by(clinic: Clinic, filled: Cellar) -> None:
    (filled.work / ".lfsconfig").write_text("<<<<<<< HEAD\n[lfs]\n")
    for line in clinic.wrong():
        assert line["text"].startswith("git cannot read .lfsconfig, and neither can git-lfs: ")
    done = clinic.home.run("lfs-agent", "verify", cwd=filled.work, check=False)
    assert done.returncode == 2
    assert "git cannot read .lfsconfig" in done.stderr


def test_an_lfsconfig_that_differs_from_the_committed_one(clinic: Clinic, cellar: Cellar) -> None:
    file = cellar.work / ".lfsconfig"
    file.write_text(f"# mine\n{file.read_text()}")
    clinic.one(".lfsconfig", "is not as HEAD has it")
    cellar.commit("Mine")
    assert clinic.wrong(status=0) == []


def test_a_checkout_that_did_not_finish_is_no_other_lfsconfig(clinic: Clinic, filled: Cellar, tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    cloned = clinic.home.git("clone", "-q", filled.origin, clone, env=NOBODY_THERE, check=False)
    assert cloned.returncode != 0
    clinic.work = clone / "vit-l"
    clinic.work.mkdir(exist_ok=True)
    lines = clinic.wrong(env=NOBODY_THERE)
    assert [(line["check"], line["status"]) for line in lines] == [(".lfsconfig", "problem"), ("bucket", "unknown")]
    clinic.mend(clinic.one(".lfsconfig", "the checkout did not finish"))
    assert (clone / "vit-l/1.0/weights.bin").read_bytes() == random_bytes(20_000, 1)
    assert clinic.home.git("status", "--porcelain", cwd=clone).stdout == ""


@pytest.mark.parametrize("how", ["--cached", "--force"])
def test_an_lfsconfig_that_is_about_to_be_deleted(clinic: Clinic, cellar: Cellar, how: str) -> None:
    mine = cellar.work / ".gitattributes"
    mine.write_text(f"# mine\n{mine.read_text()}")
    cellar.git("rm", "-q", how, ".lfsconfig")
    clinic.mend(clinic.one(".lfsconfig", ".lfsconfig is staged to be deleted"))
    assert mine.read_text().startswith("# mine\n")


def test_an_lfsconfig_that_is_gone_from_the_work_tree_comes_back(clinic: Clinic, filled: Cellar) -> None:
    mine = filled.work / "mine.txt"
    mine.write_text("mine")
    (filled.work / ".lfsconfig").unlink()
    clinic.work = filled.work / "vit-l"
    mend = clinic.one(".lfsconfig", ".lfsconfig is deleted here: after a commit of all changes nobody")
    before = filled.git("rev-parse", "HEAD").stdout
    clinic.mend(mend)
    assert filled.git("rev-parse", "HEAD").stdout == before
    assert filled.git("status", "--porcelain").stdout == "?? mine.txt\n"


def test_a_sparse_checkout_without_lfsconfig_is_healthy(clinic: Clinic, filled: Cellar) -> None:
    filled.git("sparse-checkout", "set", "--no-cone", "/vit-l/")
    assert not (filled.work / ".lfsconfig").exists()
    assert clinic.wrong(status=0) == []


def test_a_store_that_only_the_user_names(clinic: Clinic, cellar: Cellar) -> None:
    cellar.git("config", "lfs.url", cellar.url)
    mend = clinic.one(".lfsconfig", "only your configuration names the store", status=0)
    assert mend == f"lfs-agent init {cellar.url} --force"


@pytest.mark.parametrize("key", ["lfs.skipdownloaderrors", "lfs.allowincompletepush"])
def test_failures_that_the_repository_hides(clinic: Clinic, cellar: Cellar, key: str) -> None:
    cellar.git("config", "--file", ".lfsconfig", key, "true")
    cellar.commit("Hide failures")
    clinic.mend(clinic.one("hidden failures", f".lfsconfig sets {key} for everybody"))
    cellar.git("config", "--file", ".lfsconfig", key, "false")
    cellar.commit("Say that they are not hidden")
    assert clinic.wrong(status=0) == []


@pytest.mark.parametrize("key, value", [("lfs.skipdownloaderrors", "t"), ("include.path", "conf/it's")])
def test_what_only_git_lfs_takes_for_true_is_found_and_mended_from_a_subfolder(
    clinic: Clinic, filled: Cellar, key: str, value: str
) -> None:
    filled.git("config", "--file", ".lfsconfig", key, value)
    filled.commit("Hide failures")
    clinic.work = filled.work / "vit-l"
    clinic.mend(clinic.one("hidden failures", f".lfsconfig sets {key} for everybody"))
    assert filled.git("status", "--porcelain").stdout == ""


def test_an_lfsconfig_that_is_a_link_is_a_problem_and_becomes_a_file(clinic: Clinic, filled: Cellar) -> None:
    filled.git("config", "lfs.url", filled.url)
    content = (filled.work / ".lfsconfig").read_bytes()
    (filled.work / ".lfsconfig").rename(filled.work / "vit-l/settings")
    (filled.work / ".lfsconfig").symlink_to("vit-l/settings")
    filled.commit("Link")
    clinic.work = filled.work / "vit-l"
    (line, _) = clinic.wrong()
    assert (line["check"], line["status"]) == ("hidden failures", "problem")
    assert ".lfsconfig is a symbolic link: git-lfs follows it" in line["text"]
    clinic.home.run("sh", "-c", line["mend"], cwd=clinic.work)
    filled.git("config", "--unset", "lfs.url")
    assert clinic.wrong(status=0) == []
    assert (filled.work / ".lfsconfig").read_bytes() == content


def test_failures_that_the_user_hides(clinic: Clinic) -> None:
    clinic.home.git("config", "--global", "lfs.skipdownloaderrors", "t")
    clinic.mend(clinic.one("hidden failures", "lfs.skipdownloaderrors is set", status=0))
    environ = {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": "lfs.skipdownloaderrors",
        "GIT_CONFIG_VALUE_0": "true",
    }
    said = "git config, command line: lfs.skipdownloaderrors is set"
    mend = clinic.one("hidden failures", said, status=0, env=environ)
    told = clinic.home.run("sh", "-c", f"{mend}; git config lfs.skipdownloaderrors", env=environ, check=False)
    assert (told.returncode, told.stdout) == (1, "")
    environ = {"GIT_LFS_SKIP_DOWNLOAD_ERRORS": "1"}
    clinic.one("hidden failures", "GIT_LFS_SKIP_DOWNLOAD_ERRORS is set", status=0, env=environ)


@pytest.mark.parametrize(
    "key, value",
    [
        ("lfs.pruneverifyremotealways", "true"),
        ("alias.tidy", "!git fetch && git lfs prune"),
        ("alias.up", "lfs fetch --recent --prune"),
    ],
)
def test_a_setting_that_runs_prune(clinic: Clinic, key: str, value: str) -> None:
    clinic.home.git("config", "--global", key, value)
    clinic.mend(clinic.one("prune", "git lfs prune deletes local objects without having asked", status=0))


def test_a_hook_that_runs_prune(clinic: Clinic, cellar: Cellar) -> None:
    hook = cellar.work / ".git" / "hooks" / "post-merge"
    before = "#!/bin/sh\ngit lfs post-merge\n"
    hook.write_text(f"{before}# not git lfs prune\n")
    assert clinic.wrong(status=0) == []
    hook.write_text(f"{before}git lfs prune --verify-remote\n")
    mend = clinic.one("prune", "the hook", status=0)
    assert mend == f"in {hook}, call lfs-agent prune in place of git lfs prune"


def test_a_push_that_would_send_no_objects(clinic: Clinic, filled: Cellar) -> None:
    hook = filled.work / ".git" / "hooks" / "pre-push"
    theirs = hook.read_text()
    hook.write_text("#!/bin/sh\n# not git lfs pre-push\nexit 0\n")
    mend = clinic.one("hooks", "is not git-lfs's: unless what it runs does git lfs pre-push, git push", status=0)
    assert "pre-push" in clinic.home.run("sh", "-c", mend.partition("   (")[0], cwd=filled.work).stdout

    hook.write_text(theirs)
    hook.chmod(0o644)
    mend = clinic.one("hooks", "may not be run: git push sends no objects")
    clinic.home.run("sh", "-c", mend, cwd=filled.work)
    assert clinic.wrong(status=0) == []

    hook.unlink()
    mend = clinic.one("hooks", f"there is no {hook}: git push sends no objects", status=0)
    clinic.home.run("sh", "-c", mend, cwd=filled.work)
    assert hook.read_text() == theirs


def test_a_mirror_that_would_push_no_objects(clinic: Clinic, filled: Cellar, tmp_path: Path) -> None:
    """git-lfs's hooks come with the first checkout, of which a bare clone has none."""
    mirror = tmp_path / "mirror.git"
    clinic.home.git("clone", "-q", "--mirror", str(filled.origin), str(mirror), cwd=tmp_path)
    bare = Clinic(clinic.home, mirror, clinic.newest)
    mend = bare.one("hooks", "pre-push: git push sends no objects", status=0)
    bare.mend(mend)
    assert Clinic(clinic.home, filled.origin, clinic.newest).wrong(status=0) == []  # to which others push


def test_a_fetch_before_the_checkout_in_ci_is_named_and_its_remedy_works(
    clinic: Clinic, filled: Cellar, tmp_path: Path
) -> None:
    """As some checkout actions do it: init, fetch, `git lfs fetch`, and only then the checkout (W5)."""
    home, job = clinic.home, tmp_path / "job"
    home.git("init", "-q", job)
    home.git("remote", "add", "origin", filled.origin, cwd=job)
    lines = ask(home, job, status=1, path=clinic.newest, env={"CI": "true"})
    assert [line["text"] for line in lines if line["check"] == "checkout"] != []  # nothing is fetched, either

    home.git("fetch", "-q", "origin", cwd=job)
    naive = home.git("lfs", "fetch", "origin", "refs/remotes/origin/main", cwd=job, check=False)
    assert naive.returncode != 0
    lines = ask(home, job, status=1, path=clinic.newest)
    (line,) = [line for line in lines if line["status"] == "problem"]
    assert line["check"] == "checkout"
    assert "git lfs fetch would ask the host, not the store" in line["text"]
    home.run("sh", "-c", line["mend"], cwd=job)
    assert (job / "vit-l/1.0/weights.bin").read_bytes() == random_bytes(20_000, 1)
    lines = ask(home, job, status=0, path=clinic.newest, env={"CI": "true"})
    assert [line for line in lines if line["status"] not in ("ok", "skipped")] == []


def test_a_branch_without_lfsconfig_beside_one_that_has_it(clinic: Clinic, cellar: Cellar) -> None:
    cellar.git("checkout", "-q", "--orphan", "early")
    cellar.git("rm", "-q", "-f", ".lfsconfig")
    cellar.git("commit", "-q", "-m", "Begin")
    mend = clinic.one("checkout", "this checkout has no .lfsconfig, and origin/main has one")
    assert "origin/main" in mend
    cellar.git("update-ref", "refs/remotes/origin/x;touch${IFS}ran", "origin/main")
    cellar.git("update-ref", "-d", "refs/remotes/origin/main")
    mend = clinic.one("checkout", "this checkout has no .lfsconfig, and origin/x;touch${IFS}ran has one")
    clinic.home.run("sh", "-c", mend.replace("git merge", "git log").partition(" (or")[0], cwd=cellar.work)
    assert not (cellar.work / "ran").exists()


def test_a_store_that_the_user_names_for_the_remote_needs_no_lfsconfig(clinic: Clinic, cellar: Cellar) -> None:
    cellar.git("checkout", "-q", "--orphan", "early")
    cellar.git("rm", "-q", "-f", ".lfsconfig")
    cellar.git("commit", "-q", "-m", "Begin")
    cellar.git("config", "remote.origin.lfsurl", cellar.url)
    clinic.one(".lfsconfig", "only your configuration names the store", status=0)


@pytest.mark.parametrize(
    "url", ["git@gitlab.com:you/cellar.git", "https://gitlab.example.org/you/cellar", "ssh://git@gitlab.com:22/you/c"]
)
def test_gitlab_refuses_pointers_until_lfs_is_switched_off(clinic: Clinic, cellar: Cellar, url: str) -> None:
    cellar.git("remote", "set-url", "origin", url)
    assert clinic.one("host", "LFS objects are missing", status=0) == "Settings, General, Visibility, Git LFS: off"


def test_github_refuses_pointers_where_no_lfs_url_is_committed(clinic: Clinic, cellar: Cellar) -> None:
    cellar.git("remote", "set-url", "origin", "git@github.com:you/cellar.git")
    assert clinic.wrong(status=0) == []
    cellar.git("config", "--file", ".lfsconfig", "remote.origin.lfsurl", cellar.url)
    cellar.git("config", "--file", ".lfsconfig", "--unset", "lfs.url")
    cellar.commit("Name the store for one remote")
    clinic.one("host", "refuses pointers that it does not know (GH008)", status=0)


# The store


def test_a_store_that_is_not_trusted_is_not_asked(clinic: Clinic, cellar: Cellar) -> None:
    del clinic.home.environ["AWS_ENDPOINT_URL_S3"]
    cellar.git("config", "--file", ".lfsconfig", "lfs.url", f"{cellar.url}?endpoint={cellar.server.endpoint}")
    cellar.commit("Name the server")
    mark = cellar.server.mark()
    clinic.one("trust", "which you have not trusted with your credentials")
    assert [request for request in cellar.server.requests(mark) if request.bucket == cellar.bucket] == []
    clinic.home.run("lfs-agent", "trust", cwd=cellar.work)
    assert clinic.wrong(status=0) == []


def test_no_credentials(clinic: Clinic) -> None:
    clinic.one("credentials", "no AWS credentials for", env={"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""})


def test_a_profile_that_does_not_exist(clinic: Clinic) -> None:
    clinic.one("credentials", "profile (nope) could not be found", env={"AWS_PROFILE": "nope"})


@pytest.mark.parametrize("name", ["config", "credentials"])
@pytest.mark.parametrize("content", [b"nonsense[", b"[default]\nregion = \xff\xfe\n"])
def test_a_file_of_aws_that_cannot_be_read(clinic: Clinic, filled: Cellar, name: str, content: bytes) -> None:
    file = clinic.home.folder / ".aws" / name
    file.parent.mkdir()
    file.write_bytes(content)
    clinic.one("credentials", f"{file} is not as AWS's configuration is written: mend it")
    for words in (["config"], ["verify"], ["prune"], ["init", "--force", "s3::other"], ["setup-storage"]):
        done = clinic.home.run("lfs-agent", *words, cwd=filled.work, check=False)
        assert done.returncode not in (0, 1), words
        assert [str(file) in sentence for sentence in done.stderr.splitlines()] == [True]


def test_a_certificate_that_is_not_there(clinic: Clinic) -> None:
    env = {"LFS_AGENT_CLIENT_CERT": "/nowhere.pem"}
    clinic.one("bucket", "there is no client's certificate", status=3, env=env)


def test_wrong_keys(clinic: Clinic, cellar: Cellar) -> None:
    if "wrong_secret_refused" not in cellar.server.supports:
        pytest.skip("needs a server that checks signatures: tests/install/install.sh versitygw")
    clinic.one("credentials", "the keys are not right for", env={"AWS_SECRET_ACCESS_KEY": "another"})


def through(proxy: FaultProxy) -> dict[str, str]:
    return {"AWS_ENDPOINT_URL_S3": proxy.endpoint}


def test_an_expired_login(clinic: Clinic, cellar: Cellar) -> None:
    with FaultProxy(cellar.server.endpoint, Faults((Rule(EXPIRED_TOKEN),))) as proxy:
        clinic.one("credentials", "log in again: aws sso login", env=through(proxy))


def test_a_bucket_that_is_not_there(clinic: Clinic, cellar: Cellar) -> None:
    cellar.git("config", "--file", ".lfsconfig", "lfs.url", "s3::not-there-at-all/cellar")
    cellar.commit("Misspell the bucket")
    shutil.rmtree(cellar.work / ".git" / "lfs-agent", ignore_errors=True)  # where the last push went
    clinic.one("bucket", "create the bucket at")


def test_a_bucket_in_another_region(clinic: Clinic, cellar: Cellar) -> None:
    elsewhere = Answer(400, "AuthorizationHeaderMalformed", headers=(("x-amz-bucket-region", "eu-west-3"),))
    with FaultProxy(cellar.server.endpoint, Faults((Rule(elsewhere),))) as proxy:
        clinic.one("bucket", "set lfs-agent.region to eu-west-3", env=through(proxy))


LISTED = b"<ListBucketResult><Name>b</Name><KeyCount>0</KeyCount><IsTruncated>false</IsTruncated></ListBucketResult>"


def listed(**headers: str) -> Faults:
    """An answer to a list, with these headers."""
    answer = Answer(200, headers=tuple((name.replace("_", "-"), value) for name, value in headers.items()), body=LISTED)
    return Faults((Rule(answer, "GET", "list-type=2"),))


def test_a_region_that_each_request_is_redirected_to(clinic: Clinic, cellar: Cellar) -> None:
    with FaultProxy(cellar.server.endpoint, listed(x_amz_bucket_region="eu-west-3")) as proxy:
        mend = clinic.one("bucket", "is in eu-west-3, and requests are signed for", status=0, env=through(proxy))
        assert mend == "git config --global lfs-agent.region eu-west-3"


def test_a_store_that_does_not_answer_could_not_be_asked(clinic: Clinic) -> None:
    clinic.one("bucket", "cannot be reached for", status=3, env=NOBODY_THERE)


def test_a_store_that_only_fails_could_not_be_asked(clinic: Clinic, cellar: Cellar) -> None:
    with FaultProxy(cellar.server.endpoint, Faults((Rule(Answer(500, "InternalError")),))) as proxy:
        clinic.one("bucket", "500 InternalError", status=3, env={**through(proxy), "LFS_AGENT_DEADLINE": "1"})


@pytest.mark.parametrize(
    "ahead_s, status, said",
    [
        (3600, 1, "behind the store's"),
        (-3600, 1, "ahead of the store's"),
        (600, 0, "at 900 s S3 refuses every request"),
        (-600, 0, "at 900 s S3 refuses every request"),
    ],
)
def test_a_clock_that_is_wrong(clinic: Clinic, cellar: Cellar, ahead_s: int, status: int, said: str) -> None:
    date = formatdate(time.time() + ahead_s, usegmt=True)
    with FaultProxy(cellar.server.endpoint, listed(Date=date)) as proxy:
        assert clinic.one("clock", said, status=status, env=through(proxy)) == "timedatectl set-ntp true"


def test_a_clock_that_the_store_refuses(clinic: Clinic, cellar: Cellar) -> None:
    with FaultProxy(cellar.server.endpoint, Faults((Rule(Answer(403, "RequestTimeTooSkewed")),))) as proxy:
        clinic.one("clock", "this machine's clock is wrong", env=through(proxy))


def test_a_libcurl_that_cannot_be_loaded_makes_it_slower_and_no_more(
    clinic: Clinic, cellar: Cellar, tmp_path: Path
) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "pycurl.py").write_text('raise ImportError("libcurl.so.4: cannot open shared object file")')
    env = {"PYTHONPATH": str(tmp_path / "broken")}
    mend = clinic.one("libcurl", "libcurl.so.4: cannot open shared object file", status=0, env=env)
    assert mend.endswith(" -P -m pip install --upgrade pycurl")  # nothing of the repository
    oid = cellar.add("weights.bin", 20_000)
    clinic.home.run("lfs-agent", "push-missing", cwd=clinic.work, env=env)
    assert cellar.keys() == [cellar.key(oid)]


@pytest.mark.parametrize("server", ["localstack", "ceph"], indirect=True)
def test_a_rule_that_deletes_what_is_stored_is_named(server: Server, clinic: Clinic, cellar: Cellar) -> None:
    lines = ask(clinic.home, cellar.work, status=0, path=clinic.newest)
    assert [line["status"] for line in lines if line["check"] == "lifecycle"] == ["ok"]
    others: Any = {"ID": "logs", "Status": "Enabled", "Filter": {"Prefix": "logs/"}, "Expiration": {"Days": 1}}
    tidy: Any = {"ID": "tidy", "Status": "Enabled", "Filter": {"Prefix": ""}, "Expiration": {"Days": 90}}
    server.client().put_bucket_lifecycle_configuration(
        Bucket=cellar.bucket, LifecycleConfiguration={"Rules": [others, tidy]}
    )
    told = "the rule 'tidy' deletes objects of this store (after 90 days), whoever needs them: take it out"
    clinic.one("lifecycle", told, status=1)


def test_uploads_that_nobody_finished(clinic: Clinic, cellar: Cellar) -> None:
    server = with_ages(cellar.server)
    client = server.client()
    key = cellar.key("ab" * 32)
    young, old = (client.create_multipart_upload(Bucket=cellar.bucket, Key=key)["UploadId"] for _ in range(2))
    lines = ask(clinic.home, cellar.work, status=0, path=clinic.newest)
    assert [line["text"] for line in lines if line["check"] == "uploads"] == ["2 unfinished"]
    server.age_upload(cellar.bucket, old, begun_s=8 * 86400)
    others = client.create_multipart_upload(Bucket=cellar.bucket, Key=f"{cellar.prefix}/notes.txt")["UploadId"]
    server.age_upload(cellar.bucket, others, begun_s=8 * 86400)
    clinic.mend(clinic.one("uploads", "2 unfinished, 1 of them begun more than a week ago", status=0))
    left = {upload["UploadId"] for upload in client.list_multipart_uploads(Bucket=cellar.bucket)["Uploads"]}
    assert left == {young, others}


@pytest.mark.parametrize(
    "answer, status, word",
    [
        (Answer(503, body=b"<Error><Code>SlowDown</Code><Message>later</Message></Error>"), 3, "unknown"),
        (Answer(403, body=b"<Error><Code>AccessDenied</Code><Message>no</Message></Error>"), 0, "skipped"),
        (NOT_IMPLEMENTED, 0, "skipped"),
    ],
)
def test_uploads_that_cannot_be_listed_now_are_unknown(
    clinic: Clinic, cellar: Cellar, answer: Answer, status: int, word: str
) -> None:
    with FaultProxy(cellar.server.endpoint, Faults((Rule(answer, "GET", r"\?uploads"),))) as proxy:
        environ = {"LFS_AGENT_DEADLINE": "5", "LFS_AGENT_FIRST_DEADLINE": "5", **through(proxy)}
        lines = ask(clinic.home, cellar.work, status=status, env=environ, path=clinic.newest)
    assert [line["status"] for line in lines if line["check"] == "uploads"] == [word]


def test_the_write_test_begins_one_upload_and_gives_it_up(clinic: Clinic, cellar: Cellar) -> None:
    before, mark = cellar.keys(), cellar.server.mark()
    lines = ask(clinic.home, cellar.work, "--write-test", status=0, path=clinic.newest)
    assert [line["status"] for line in lines if line["check"] == "writing"] == ["ok"]
    asked = [request for request in cellar.server.requests(mark) if request.bucket == cellar.bucket]
    written = [request.operation for request in asked if request.method != "GET"]
    assert written == ["CreateMultipartUpload", "AbortMultipartUpload"]
    assert {request.key.split("/")[0] for request in asked if request.key} == {"cellar"}
    assert cellar.keys() == before
    assert cellar.server.client().list_multipart_uploads(Bucket=cellar.bucket).get("Uploads", []) == []


def test_what_the_store_can_and_cannot_do_is_told_as_this_clone_has_learned_it(clinic: Clinic, cellar: Cellar) -> None:
    refuses = Faults((Rule(NOT_IMPLEMENTED, header="If-None-Match"),))

    def table(env: Mapping[str, str]) -> dict[str, str]:
        lines = ask(clinic.home, cellar.work, status=0, path=clinic.newest, env=env)
        told = [line["text"] for line in lines if line["check"] == "abilities"]
        return dict(text.rsplit(": ", 1) for text in told)

    with FaultProxy(cellar.server.endpoint, refuses) as proxy:
        assert table(through(proxy)) == {"nothing learned yet": "pushes from this clone find out"}
        for name, size in (("small.bin", 1000), ("large.bin", 20 * MIB)):  # of two workers the last one's word stays
            cellar.add(name, size)
            clinic.home.git("push", "-q", "origin", "HEAD", cwd=cellar.work, env=through(proxy))
        assert table(through(proxy)) == {
            "only if nothing is there, one PUT": "no",
            "only if nothing is there, in parts": "no",
            "SHA-256 of one PUT": "checked and told",
            "CRC-32C of parts": "of the whole object",
            "checksum in an answer to HEAD": "not refused yet",
            "replaces exactly what was judged": "not asked yet",
        }


@pytest.fixture
def share_and_work(home: Home, tmp_path: Path) -> tuple[Path, Path]:
    """A shared folder, and a repository that names it."""
    share, work = tmp_path / "share", tmp_path / "work"
    share.mkdir()
    home.install()
    home.git("init", "-q", work)
    home.run("lfs-agent", "init", f"dir::{share}", cwd=work)
    home.git("commit", "-q", "-m", "Name the store", cwd=work)
    return share, work


def test_a_shared_folder_is_looked_at_too(
    home: Home, share_and_work: tuple[Path, Path], tmp_path: Path, newest: Path
) -> None:
    share, work = share_and_work
    lines = ask(home, work, "--write-test", status=0, path=newest)
    assert {line["status"] for line in lines} == {"ok"}
    share.rename(tmp_path / "unmounted")
    lines = ask(home, work, status=1, path=newest)
    (line,) = [line for line in lines if line["status"] == "problem"]
    assert (line["check"], f"there is no folder {share}" in line["text"]) == ("bucket", True)


@pytest.mark.skipif(not shutil.which("setpriv"), reason="root may enter any folder, unless setpriv takes that right")
def test_a_shared_folder_that_may_not_be_entered_is_a_problem(
    home: Home, share_and_work: tuple[Path, Path], newest: Path
) -> None:
    share, work = share_and_work
    home.runs_as = POWERLESS
    share.chmod(0)

    lines = ask(home, work, status=1, path=newest)

    (line,) = [line for line in lines if line["status"] == "problem"]
    assert (line["check"], "Permission denied" in line["text"]) == ("bucket", True)


# Whatever is broken


@pytest.mark.skipif(not shutil.which("setpriv"), reason="root may read any file, unless setpriv takes that right")
def test_a_hook_that_may_not_be_read_is_named(clinic: Clinic) -> None:
    hook = clinic.work / ".git" / "hooks" / "post-merge"
    hook.write_text("#!/bin/sh\n")
    hook.chmod(0)
    clinic.home.runs_as = POWERLESS
    clinic.one("prune", f"{hook}: Permission denied", status=3)


def break_head(work: Path) -> None:
    (work / ".git" / "HEAD").write_text("nonsense\n")


def break_refs(work: Path) -> None:
    (work / ".git" / "refs" / "heads" / "main").write_text("f" * 40 + "\n")


def break_index(work: Path) -> None:
    (work / ".git" / "index").write_bytes(b"nonsense")


def break_lfsconfig(work: Path) -> None:
    (work / ".lfsconfig").write_bytes(b"[lfs\n\xff\x00")


def break_records(work: Path) -> None:
    folder = work / ".git" / "lfs" / "lfs-agent"
    folder.mkdir(parents=True)
    (folder / "stores.json").write_bytes(b"\xff[")
    (work / ".git" / "lfs-agent").write_text("a file")


def break_hook(work: Path) -> None:
    hook = work / ".git" / "hooks" / "pre-push"
    hook.write_bytes(b"\xff\xfe" * 1000)
    hook.with_name("loop").symlink_to("loop")


def break_registration(work: Path) -> None:
    config = work.parent / "vera" / ".gitconfig"
    config.write_text(f'{config.read_text()}[lfs "customtransfer.lfs-agent"]\n\targs = "\'unclosed"\n\tpath = \n')


@pytest.mark.parametrize(
    "do", [break_head, break_refs, break_index, break_lfsconfig, break_records, break_hook, break_registration]
)
def test_whatever_is_broken_it_is_told_in_lines(clinic: Clinic, cellar: Cellar, do: Any) -> None:
    do(cellar.work)
    done = clinic.home.run("lfs-agent", "doctor", "--json", cwd=cellar.work, check=False)
    assert done.stderr == ""
    assert done.returncode in (0, 1, 3)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) >= 6
    assert "Traceback" not in done.stdout
    assert "please report it" not in done.stdout


def test_a_folder_that_is_gone_is_told(clinic: Clinic) -> None:
    done = clinic.home.run("sh", "-c", "mkdir x && cd x && rmdir ../x && lfs-agent doctor", check=False)
    assert done.returncode == 3
    assert done.stderr.splitlines() == [
        "lfs-agent: the current folder cannot be read (No such file or directory): change to another"
    ]


def test_an_unknown_remote_is_a_matter_of_usage(clinic: Clinic, cellar: Cellar) -> None:
    done = clinic.home.run("lfs-agent", "doctor", "--remote", "nowhere", cwd=cellar.work, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "there is no remote 'nowhere' here" in done.stderr


def test_no_secret_is_printed(clinic: Clinic, cellar: Cellar, any_server: Server) -> None:
    secret = any_server.secret_key
    done = clinic.home.run("lfs-agent", "doctor", "--write-test", cwd=cellar.work, check=False)
    assert secret not in done.stdout + done.stderr
