"""One login for all workers of a push or pull, and what happens when it expires on the way."""

import json
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cellar import Cellar, random_bytes
from tests.conftest import absent
from tests.e2e.dialogue import Agent, seen_by_spy, wait_for
from tests.machine import Home
from tests.proxy import EXPIRED_TOKEN, FaultProxy, Faults, Rule
from tests.proxy.faults import Action, Seen
from tests.servers import Server, Versitygw

MIB = 1 << 20

HELPER = """
import json, os, pathlib, sys, time
asked = pathlib.Path(sys.argv[1])
with asked.open("a") as file:
    file.write(json.dumps({"stdin": sys.stdin.read()}) + "\\n")
number = len(asked.read_text().splitlines())
if number > 1:
    time.sleep(float(sys.argv[3]))
key = pathlib.Path(sys.argv[2]).read_text().split()
print(json.dumps({"Version": 1, "AccessKeyId": key[0], "SecretAccessKey": key[1], "AccountId": f"{number:012d}"}))
"""


class Helper:
    """A `credential_process` that notes each of its calls, and all that it can read from its input.

    `thinks_s`: how long a person takes to log in again, in seconds.
    """

    def __init__(self, home: Home, server: Server, thinks_s: float = 0.0) -> None:
        self._asked = home.folder / "asked"
        self._keys = home.folder / "keys-of-the-helper"
        self._keys.write_text(f"{server.access_key} {server.secret_key}")
        program = home.folder / "helper.py"
        program.write_text(HELPER)
        command = shlex.join([sys.executable, str(program), str(self._asked), str(self._keys), str(thinks_s)])
        (home.folder / ".aws").mkdir(exist_ok=True)
        (home.folder / ".aws" / "config").write_text(f"[default]\ncredential_process = {command}\n")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            home.environ.pop(name, None)

    @property
    def calls(self) -> int:
        return len(self._asked.read_text().splitlines()) if self._asked.exists() else 0

    @property
    def read(self) -> set[str]:
        """What it read from its standard input, in any call."""
        return set(self._asked.read_text().splitlines())


@pytest.fixture
def helper(cellar: Cellar, any_server: Server) -> Helper:
    return Helper(cellar.home, any_server)


def fill(cellar: Cellar, count: int = 24, size: int = 100_000) -> list[str]:
    oids = [cellar.write(f"{number}.bin", size, number) for number in range(count)]
    cellar.commit("Fill the cellar")
    return oids


SLOW_HELPER = """
import os, pathlib, subprocess, sys, time
folder = pathlib.Path(sys.argv[1])
(folder / "pid").write_text(str(os.getpid()))
sessions = pathlib.Path(".git/lfs/lfs-agent/sessions")
while not (folder / "go").exists() and not any('"waiting"' in file.read_text() for file in sessions.glob("*.jsonl")):
    time.sleep(0.1)
(folder / "log").write_text(subprocess.run(["lfs-agent", "log"], capture_output=True, text=True).stdout)
print((folder / "answer").read_text())
"""
WAITING = "waiting for the program that gives credentials (credential_process of profile slow)\n"


@pytest.fixture
def slow_helper(cellar: Cellar, any_server: Server, tmp_path: Path) -> Path:
    """A `credential_process` that answers when it is known to be waited for, or "go" is in its folder."""
    helper = Helper(cellar.home, any_server)
    (tmp_path / "slow.py").write_text(SLOW_HELPER)
    answer = {"Version": 1, "AccessKeyId": any_server.access_key, "SecretAccessKey": any_server.secret_key}
    (tmp_path / "answer").write_text(json.dumps(answer))
    command = shlex.join([sys.executable, str(tmp_path / "slow.py"), str(tmp_path)])
    (cellar.home.folder / ".aws" / "config").write_text(f"[profile slow]\ncredential_process = {command}\n")
    cellar.home.environ["AWS_PROFILE"] = "slow"
    assert helper.calls == 0
    return tmp_path


def test_a_push_that_waits_for_a_helper_says_so_in_its_record(cellar: Cellar, slow_helper: Path) -> None:
    oids = fill(cellar, 3)

    cellar.push()

    assert cellar.keys() == sorted(map(cellar.key, oids))
    assert [event["message"] + "\n" for event in cellar.recorded() if event["event"] == "waiting"] == [WAITING]
    assert (slow_helper / "log").read_text().endswith(f"it is still running, or it was killed\n{WAITING}")
    assert "waiting" not in cellar.home.run("lfs-agent", "log", cwd=cellar.work).stdout


def slow_verify(cellar: Cellar) -> subprocess.Popen[str]:
    words = ["lfs-agent", "verify"]
    return subprocess.Popen(words, cwd=cellar.work, env=cellar.home.environ, stderr=subprocess.PIPE, text=True)


def test_a_command_that_waits_for_a_helper_says_so_and_goes_on(cellar: Cellar, slow_helper: Path) -> None:
    cellar.put(cellar.add("weights.bin", 1000), random_bytes(1000, 0))
    with slow_verify(cellar) as verifying:
        assert verifying.stderr is not None
        assert verifying.stderr.readline() == WAITING
        (slow_helper / "go").touch()
        assert verifying.wait(60) == 0
        assert verifying.stderr.read() == ""


def test_a_helper_ends_with_the_command_that_waits_for_it(cellar: Cellar, slow_helper: Path) -> None:
    cellar.add("weights.bin", 1000)
    with slow_verify(cellar) as verifying:
        while not (slow_helper / "pid").exists() or not (slow_helper / "pid").read_text():
            assert verifying.poll() is None
            time.sleep(0.05)
        helper = Path("/proc", (slow_helper / "pid").read_text())
        verifying.send_signal(signal.SIGINT)
        assert verifying.wait(60) == 130
    wait_for(lambda: not (helper.exists() and (helper / "cmdline").read_bytes()), 20)


@pytest.mark.skipif(sys.platform != "linux", reason="a login is handed over on Linux only")
def test_eight_workers_log_in_once(cellar: Cellar, helper: Helper, tmp_path: Path) -> None:
    fill(cellar)

    cellar.push()
    assert (len(cellar.keys()), helper.calls) == (24, 1)

    cellar.clone(tmp_path / "clone")
    assert helper.calls == 2
    assert helper.read == {'{"stdin": ""}'}


def test_the_login_is_in_no_file(cellar: Cellar, helper: Helper, any_server: Server, tmp_path: Path) -> None:
    fill(cellar, 8)
    cellar.push()

    assert files_with(cellar, any_server.secret_key) == []
    assert helper.calls >= 1


def files_with(cellar: Cellar, secret: str) -> list[Path]:
    """Those of the clone that hold a secret."""
    files = [path for path in (cellar.work / ".git").rglob("*") if path.is_file()]
    return [path for path in files if secret.encode() in path.read_bytes()]


def write_down(home: Home, server: Server, account: int) -> None:
    """Leaves the server's keys in AWS's own files alone."""
    (home.folder / ".aws").mkdir(exist_ok=True)
    (home.folder / ".aws" / "credentials").write_text(
        f"[default]\naws_access_key_id = {server.access_key}\naws_secret_access_key = {server.secret_key}\n"
        f"aws_account_id = {account:012d}\n"
    )
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        home.environ.pop(name, None)


@pytest.mark.skipif(sys.platform != "linux", reason="what the files say is handed over on Linux only")
def test_the_files_of_aws_are_read_by_one_worker_and_by_another_only_once_their_keys_are_refused(
    cellar: Cellar, any_server: Server, tmp_path: Path
) -> None:
    oids = fill(cellar, 3)
    write_down(cellar.home, any_server, 1)
    refusals: list[Action] = []
    botocore: list[bool] = []
    with FaultProxy(any_server.endpoint, lambda _: (refusals.pop(),) if refusals else ()) as proxy:
        cellar.home.environ["AWS_ENDPOINT_URL_S3"] = proxy.endpoint
        with (
            Agent(cellar.home, cellar.work) as one,
            Agent(cellar.home, cellar.work, spy=tmp_path / "spy", env={"NOT": "forked"}) as two,
        ):
            for number, agent in enumerate((one, two, two)):
                if number < 2:
                    agent.init("upload")
                agent.upload(oids[number], cellar.local_object(oids[number]))
                assert "error" not in agent.until_complete()[-1]
                loaded = {note["module"] for note in seen_by_spy(tmp_path / "spy", "import")}
                botocore.append("botocore.session" in loaded)
                if number == 1:
                    write_down(cellar.home, any_server, 2)
                    refusals.append(EXPIRED_TOKEN)

    assert [seen.fault for seen in proxy.requests if seen.fault] == ["403 ExpiredToken"]
    assert botocore == [False, False, True]
    assert files_with(cellar, any_server.secret_key) == []
    assert cellar.keys() == sorted(cellar.key(oid) for oid in oids)


class Expiring:
    """A plan: from the request `after` on, every one is answered with "expired", until the helper was asked again."""

    def __init__(self, after: int, helper: Helper) -> None:
        self._left = after
        self._helper = helper
        self._calls = helper.calls + 1

    def __call__(self, seen: Seen) -> tuple[Action, ...]:
        self._left -= 1
        return (EXPIRED_TOKEN,) if self._left < 0 and self._helper.calls == self._calls else ()


@pytest.mark.parametrize("size", [300_000, 22 * MIB])
def test_a_login_that_expires_half_way_is_renewed(
    cellar: Cellar, helper: Helper, any_server: Server, tmp_path: Path, size: int
) -> None:
    cellar.home.environ["LFS_AGENT_PART_SIZE"] = "5MiB"
    oids = fill(cellar, 3, size)
    with FaultProxy(any_server.endpoint, Expiring(4, helper)) as proxy:
        cellar.home.environ["AWS_ENDPOINT_URL_S3"] = proxy.endpoint
        cellar.push()
        assert "403 ExpiredToken" in [seen.fault for seen in proxy.requests]
    assert helper.calls == 2
    assert cellar.keys() == sorted(cellar.key(oid) for oid in oids)

    with FaultProxy(any_server.endpoint, Expiring(2, helper)) as proxy:
        cellar.home.environ["AWS_ENDPOINT_URL_S3"] = proxy.endpoint
        clone = cellar.clone(tmp_path / "clone")
        assert "403 ExpiredToken" in [seen.fault for seen in proxy.requests]
    assert helper.calls == 4
    assert [(clone / f"{number}.bin").read_bytes() for number in range(3)] == [random_bytes(size, n) for n in range(3)]


def test_a_person_may_take_longer_to_log_in_again_than_a_store_to_answer(cellar: Cellar, any_server: Server) -> None:
    helper = Helper(cellar.home, any_server, thinks_s=3)
    cellar.home.environ["LFS_AGENT_FIRST_DEADLINE"] = "2"
    oids = fill(cellar, 1)
    with FaultProxy(any_server.endpoint, Expiring(0, helper)) as proxy:
        cellar.home.environ["AWS_ENDPOINT_URL_S3"] = proxy.endpoint
        cellar.push()

    assert (cellar.keys(), helper.calls) == ([cellar.key(oids[0])], 2)


def test_a_login_that_stays_refused_is_asked_for_once_more_by_a_worker_and_never_again(
    cellar: Cellar, helper: Helper, any_server: Server
) -> None:
    fill(cellar)
    with FaultProxy(any_server.endpoint, Faults((Rule(EXPIRED_TOKEN),))) as proxy:
        cellar.home.environ["AWS_ENDPOINT_URL_S3"] = proxy.endpoint
        pushed = cellar.push(check=False)

    assert pushed.returncode != 0
    assert pushed.stderr.count("log in again: aws sso login") == 1
    assert 2 <= helper.calls <= 9


def test_keys_that_are_just_written_down_are_not_tried_again(cellar: Cellar, any_server: Server) -> None:
    fill(cellar, 1)
    with FaultProxy(any_server.endpoint, Faults((Rule(EXPIRED_TOKEN, method="PUT"),))) as proxy:
        cellar.home.environ["AWS_ENDPOINT_URL_S3"] = proxy.endpoint
        pushed = cellar.push(check=False)

        assert pushed.returncode != 0
        assert "log in again" in pushed.stderr
        assert len([seen for seen in proxy.requests if seen.method == "PUT"]) == 1


NETWORK = ["unshare", "--user", "--map-root-user", "--net", "--fork"]


def test_a_ci_that_brings_a_token_gets_new_keys_half_way(tmp_path: Path) -> None:
    if reason := Versitygw.missing():
        absent(reason)
    if not shutil.which("unshare") or subprocess.run([*NETWORK, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine gives nobody a network of his own (unshare --user --net)")
    ended = subprocess.run(
        [*NETWORK, sys.executable, "-m", "tests.e2e.web_identity", tmp_path],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        cwd=Path(__file__).parents[2],
        check=False,
    )

    assert (ended.returncode, ended.stdout) == (0, "as it should be\n"), ended.stderr
