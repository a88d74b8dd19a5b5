"""The GitHub Action and the GitLab template: what they run refuses a change whose objects are not in the bucket."""

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cellar import Cellar
from tests.e2e.conftest import HomeOf
from tests.machine import Home

PACKAGING = Path(__file__).parents[2] / "packaging"
Done = subprocess.CompletedProcess[str]
Check = Callable[[str], Done]


class Runner:
    """A CI job: a checkout with its history and without objects, an environment, and what was installed into it."""

    def __init__(self, cellar: Cellar, home: Home, work: Path) -> None:
        self.home, self.work = home, work
        home.environ.update(cellar.server.environ())
        home.environ["GIT_LFS_SKIP_SMUDGE"] = "1"
        home.environ["RUNNER_TEMP"] = str(home.folder / "tmp")
        home.environ["GITHUB_STEP_SUMMARY"] = str(home.folder / "summary")
        cellar.clone(work, home=home)

    def checkout(self, branch: str) -> None:
        self.home.git("fetch", "-q", "origin", cwd=self.work)
        self.home.git("checkout", "-q", f"origin/{branch}", cwd=self.work)

    def on_github(self, base: str, **environ: str) -> Done:
        """The one step of the action, with the environment that it asks for."""
        (step,) = yaml.safe_load((PACKAGING / "github" / "action.yml").read_text())["runs"]["steps"]
        assert step["run"] == '"$GITHUB_ACTION_PATH/verify.sh"'
        env = {
            **dict.fromkeys(step["env"], ""),
            "BASE": base,
            "GITHUB_ACTION_PATH": str(PACKAGING / "github"),
            **environ,
        }
        return self.home.run("bash", "-c", step["run"], cwd=self.work, check=False, env=env)

    def on_gitlab(self, base: str, **environ: str) -> Done:
        """The lines of the job but the first, which installs the package."""
        job: Any = yaml.safe_load((PACKAGING / "gitlab" / "lfs-objects.yml").read_text())["lfs-objects"]
        install, *lines = job["script"]
        assert install.startswith("pip install")
        head = self.home.git("rev-parse", "HEAD", cwd=self.work).stdout.strip()
        env = {"CI_MERGE_REQUEST_DIFF_BASE_SHA": base, "CI_COMMIT_SHA": head, **environ}
        return self.home.run("bash", "-ec", "\n".join(lines), cwd=self.work, check=False, env=env)


@pytest.fixture
def runner(cellar: Cellar, home_of: HomeOf, tmp_path: Path) -> Runner:
    cellar.add("model.pt", 1000, seed=1)
    cellar.push()
    return Runner(cellar, home_of("runner"), tmp_path / "job")


def propose(cellar: Cellar, *, with_objects: bool) -> tuple[str, str]:
    """A branch with one more object; the commit that it begins at, and the oid."""
    base = cellar.git("rev-parse", "HEAD").stdout.strip()
    cellar.git("switch", "-q", "-c", "topic")
    oid = cellar.add("next.pt", 1000, seed=2)
    cellar.git("push", "-q", *([] if with_objects else ["--no-verify"]), "origin", "topic")
    return base, oid


@pytest.mark.parametrize("host", ["on_github", "on_gitlab"])
def test_a_change_without_its_objects_is_refused_and_passes_once_they_are_there(
    cellar: Cellar, runner: Runner, host: str
) -> None:
    base, oid = propose(cellar, with_objects=False)
    runner.checkout("topic")

    refused = getattr(runner, host)(base)
    assert refused.returncode == 1
    assert re.search(rf"missing\t{oid[:12]}\t.*\tnext\.pt\t", refused.stdout)

    cellar.home.git("lfs", "push", "--object-id", "origin", oid, cwd=cellar.work)
    passed = getattr(runner, host)(base)
    assert passed.returncode == 0, passed
    assert "1 object" in passed.stdout
    assert not any((runner.work / ".git" / "lfs" / "objects").glob("*"))


@pytest.mark.parametrize("host", ["on_github", "on_gitlab"])
def test_a_change_of_where_the_objects_are_is_refused_unless_it_was_allowed(
    cellar: Cellar, runner: Runner, host: str
) -> None:
    base, _ = propose(cellar, with_objects=True)
    with (cellar.work / ".lfsconfig").open("a") as file:
        file.write("\tfetchexclude = none\n")
    cellar.commit("Lead elsewhere")
    cellar.git("push", "-q", "origin", "topic")
    runner.checkout("topic")

    refused = getattr(runner, host)(base)
    assert (refused.returncode, "touches .lfsconfig" in refused.stdout) == (1, True)
    assert getattr(runner, host)(base, LFSCONFIG_MAY_CHANGE="true").returncode == 0


@pytest.mark.parametrize("host", ["on_github", "on_gitlab"])
def test_a_checkout_that_git_does_not_look_into_is_called_so(cellar: Cellar, runner: Runner, host: str) -> None:
    """In a container git may find that the files belong to somebody else."""
    base, _ = propose(cellar, with_objects=True)
    runner.checkout("topic")

    refused = getattr(runner, host)(base, GIT_TEST_ASSUME_DIFFERENT_OWNER="1")
    assert (refused.returncode, "see above" in refused.stdout, "safe.directory" in refused.stderr) == (3, True, True)
    assert "fetch-depth" not in refused.stdout
    assert "touches .lfsconfig" not in refused.stdout


def test_gitlab_is_told_that_a_checkout_has_not_the_whole_history(runner: Runner) -> None:
    no_history = runner.on_gitlab("1" * 40)

    assert (no_history.returncode, "GIT_DEPTH: 0" in no_history.stdout) == (3, True)
    assert "touches .lfsconfig" not in no_history.stdout


def test_github_is_told_in_its_own_words(cellar: Cellar, runner: Runner) -> None:
    base, _ = propose(cellar, with_objects=False)
    runner.checkout("topic")

    assert "::error title=LFS objects::objects that this change names" in runner.on_github(base).stdout
    assert "1 missing" in (runner.home.folder / "summary").read_text()
    new_branch = runner.on_github("0" * 40)
    assert (new_branch.returncode, "HEAD at" in new_branch.stdout) == (1, True)
    no_history = runner.on_github("1" * 40)
    assert (no_history.returncode, "fetch-depth: 0" in no_history.stdout) == (3, True)
    no_end = runner.on_github("", RANGE=f"{base}..{'1' * 40}")
    assert (no_end.returncode, "cannot compare the ends" in no_end.stdout) == (3, True)
    assert "touches .lfsconfig" not in no_end.stdout
    nobody = runner.on_github(base, AWS_ENDPOINT_URL_S3="http://127.0.0.1:1")
    assert (
        nobody.returncode,
        "::error title=LFS objects::history or bucket could not be looked at" in nobody.stdout,
    ) == (3, True)


def test_github_is_told_that_a_checkout_has_not_the_whole_history(cellar: Cellar, runner: Runner) -> None:
    base, _ = propose(cellar, with_objects=False)
    last = cellar.add("next.pt", 1000, seed=3)
    cellar.git("switch", "-q", "-c", "merged", "main")
    cellar.git("merge", "-q", "--no-ff", "--no-edit", "topic")
    cellar.push("--no-verify", "origin", "merged")
    cellar.git("lfs", "push", "--object-id", "origin", last)
    shutil.rmtree(runner.work)
    runner.home.git("clone", "-q", "--depth=2", "-b", "merged", f"file://{cellar.origin}", runner.work)

    shallow = runner.on_github(base)
    assert shallow.returncode == 3
    assert "in CI: fetch-depth: 0" in shallow.stdout
    assert "::error title=LFS objects::history or bucket could not be looked at, see above" in shallow.stdout
    runner.home.git("fetch", "-q", "--unshallow", cwd=runner.work)
    assert runner.on_github(base).returncode == 1


def obeyed(done: Done) -> list[str]:
    """The commands that GitHub's runner takes from what a step says, each stream for itself, as its source has them."""
    found = []
    for stream in (done.stdout, done.stderr):
        token = ""
        for line in stream.splitlines():
            command = re.match(r"\s*::([a-z0-9-]+)[^:]*::(.*)", line) or re.search(r"##\[([a-z0-9-]+)[^]]*](.*)", line)
            if command and token:
                token = "" if command[1] == token else token
            elif command and command[1] == "stop-commands":
                token = command[2]
            elif command:
                found.append(command[1])
    return found


def test_github_s_runner_obeys_nothing_that_a_change_names(cellar: Cellar, runner: Runner) -> None:
    base, _ = propose(cellar, with_objects=False)
    names = ("##[add-mask]a", "##[stop-commands]b", "::error::c", "\n::error::d", "##[warning]e")
    for seed, name in enumerate(names, 10):
        cellar.write(f"{name}.pt", 1000, seed)
    cellar.commit("Add")
    cellar.push("--no-verify", "origin", "topic")
    runner.checkout("topic")

    refused = runner.on_github(base)
    assert refused.returncode == 1
    assert "##[add-mask]a.pt" in refused.stdout
    assert obeyed(refused) == ["error"]
    nobody = runner.on_github(base, OPTIONS="##[warning]x")
    assert (nobody.returncode, obeyed(nobody)) == (2, ["error"])


def test_github_s_runner_runs_no_module_of_a_change(cellar: Cellar, runner: Runner) -> None:
    base, _ = propose(cellar, with_objects=True)
    witness = runner.home.folder / "witness"
    for module in ("venv", "logging", "pip", "ensurepip"):
        (cellar.work / f"{module}.py").write_text(f"open({str(witness)!r}, 'w')\n")
    cellar.commit("Add")
    cellar.push("origin", "topic")
    runner.checkout("topic")

    installed = runner.on_github(base, PACKAGE=str(runner.work / "absent.whl"))
    assert installed.returncode != 0  # there is no such package
    assert not witness.exists()


def test_gitlab_gets_a_report(cellar: Cellar, runner: Runner) -> None:
    base, oid = propose(cellar, with_objects=False)
    runner.checkout("topic")
    runner.on_gitlab(base)
    job: Any = yaml.safe_load((PACKAGING / "gitlab" / "lfs-objects.yml").read_text())["lfs-objects"]

    assert oid in (runner.work / job["artifacts"]["reports"]["junit"]).read_text()


def test_gitlab_s_report_is_written_nowhere_else(cellar: Cellar, runner: Runner) -> None:
    base, oid = propose(cellar, with_objects=False)
    outside = runner.home.folder / ".profile"
    outside.write_text("precious")
    (cellar.work / "lfs-objects.xml").symlink_to(outside)
    cellar.commit("Report elsewhere")
    cellar.push("--no-verify", "origin", "topic")
    runner.checkout("topic")

    assert runner.on_gitlab(base).returncode == 1
    assert outside.read_text() == "precious"
    assert oid in (runner.work / "lfs-objects.xml").read_text()


def test_the_action_hands_every_input_to_its_script() -> None:
    action: Any = yaml.safe_load((PACKAGING / "github" / "action.yml").read_text())
    (step,) = action["runs"]["steps"]
    script = (PACKAGING / "github" / "verify.sh").read_text()

    assert {name for value in step["env"].values() for name in re.findall(r"inputs\.([a-z-]+)", value)} == set(
        action["inputs"]
    )
    assert all(re.search(rf"\$\{{?{name}\b", script) for name in step["env"])
