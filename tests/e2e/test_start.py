"""How eight workers start: a shell answers for each, one of them loads, and the others are forked from that."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from lfs_agent.zygote import meeting_point, surroundings_of
from tests.cellar import random_bytes
from tests.e2e.dialogue import (
    BY_DOOR,
    DOOR,
    SPY,
    WORKER,
    Agent,
    is_alive,
    new_repository,
    push,
    seen_by_spy,
    wait_for,
    workers_in,
)
from tests.machine import Home
from tests.servers import Server

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or not os.access("/usr/bin/perl", os.X_OK),
    reason="without Linux and Perl each worker loads everything itself",
)

LARGE = 600_000
"""Bytes of an object for which a process of its own is forked."""
INIT = b'{"event":"init","operation":"upload","remote":"origin","concurrent":true,"concurrenttransfers":8}\n'


# The shell


@pytest.fixture
def recorder(tmp_path: Path) -> Path:
    """In the place of the interpreter: keeps how it was started, and what it can still read."""
    program = tmp_path / "interpreter"
    program.write_text(
        f'#!/bin/sh\nprintf "%s|" "$@" >{tmp_path}/words\nprintf %s "$LFS_AGENT_SAID" >{tmp_path}/said\n'
        f"cat >{tmp_path}/rest\n"
    )
    program.chmod(0o755)
    return program


REQUEST = (
    b'{"event":"upload","oid":"ab","size":1,"path":"/tmp/\xc3\x81\x81 \\\\ \\"q\\" $HOME `x` %s\\n","action":null}\n'
)


@pytest.mark.parametrize(
    "written, answer, said",
    [
        (b"", b"", None),
        (INIT + b'{"event":"terminate"}\n', b"{}\n", None),
        (INIT, b"{}\n", None),
        (INIT[:-5], b"", None),
        (INIT + REQUEST + b"more\n", b"{}\n", INIT + REQUEST),
        (b'{"operation":"upload","event":"init"}\nmore\n', b"", b'{"operation":"upload","event":"init"}\n'),
        (INIT[:-1] + b"\r\nmore\n", b"", INIT[:-1] + b"\r\n"),
        (b"nonsense\nmore\n", b"", b"nonsense\n"),
    ],
    ids=["nothing", "no object", "hung up", "half a line", "an object", "odd order", "CR LF", "nonsense"],
)
def test_the_shell_answers_and_hands_all_on_as_it_was(
    recorder: Path, tmp_path: Path, written: bytes, answer: bytes, said: bytes | None
) -> None:
    done = subprocess.run(["/bin/sh", DOOR, recorder, WORKER], input=written, capture_output=True, check=False)

    assert (done.stdout, done.stderr, done.returncode) == (answer, b"", 0)
    assert (tmp_path / "said").exists() == (said is not None)
    if said is not None:
        assert (tmp_path / "said").read_bytes() == said
        assert (tmp_path / "words").read_text() == f"-I|-S|{WORKER}|"
        assert (tmp_path / "rest").read_bytes() == b"more\n"


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash, whose read gives up after $TMOUT seconds")
def test_a_shell_waits_for_an_object_as_long_as_it_takes(recorder: Path, tmp_path: Path) -> None:
    words = ["bash", "--posix", str(DOOR), str(recorder), str(WORKER)]
    with subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, "TMOUT": "0.05"}
    ) as shell:
        assert shell.stdin
        assert shell.stdout
        shell.stdin.write(INIT)
        shell.stdin.flush()
        assert shell.stdout.readline() == b"{}\n"
        time.sleep(0.3)
        shell.communicate(REQUEST)

    assert (tmp_path / "said").read_bytes() == INIT + REQUEST


def test_a_shell_that_cannot_answer_ends(recorder: Path, tmp_path: Path) -> None:
    """git-lfs would wait for the answer, and we for an object; there are shells whose printf is a program."""
    words = ["/bin/sh", "-c", 'exec "$@" >&-', "sh", "/bin/sh", str(DOOR), str(recorder), str(WORKER)]

    done = subprocess.run(words, input=INIT + REQUEST, capture_output=True, check=False)

    assert done.returncode == 1
    assert not (tmp_path / "said").exists()


def test_without_perl_each_worker_loads_by_itself(recorder: Path, tmp_path: Path) -> None:
    door = tmp_path / "door.sh"
    door.write_text(DOOR.read_text().replace("/usr/bin/perl", "/gone/perl"))

    subprocess.run(["/bin/sh", door, recorder, WORKER], input=INIT + REQUEST, capture_output=True, check=True)

    assert (tmp_path / "said").read_bytes() == INIT + REQUEST
    assert (tmp_path / "words").read_text() == f"-I|-S|{WORKER}|"


@pytest.mark.parametrize("name, value", [("PERL5OPT", "-MNoSuch"), ("PERL_UNICODE", "SAD"), ("PERLIO", ":utf8")])
def test_a_perl_of_which_somebody_wants_more_is_left_alone(
    home: Home, work: Path, agents: ExitStack, name: str, value: str
) -> None:
    home.environ[name] = value
    first, second = (agents.enter_context(Agent(home, work, command=BY_DOOR)) for _ in range(2))
    for seed, agent in enumerate((first, second)):
        agent.init("upload")
        push(agent, work, seed)

    assert workers_in(work) == [first.process.pid, second.process.pid]


def test_an_interpreter_that_is_gone_is_told_by_git_lfs(home: Home, tmp_path: Path) -> None:
    with Agent(home, tmp_path, command=("/bin/sh", str(DOOR), "/gone/python", str(WORKER))) as agent:
        answer = agent.init("upload")

        assert "the Python that lfs-agent was installed with is gone" in answer["error"]["message"]
        assert agent.process.wait(10) == 1


def test_what_the_shell_has_read_is_in_no_child_s_environment(home: Home, work: Path, tmp_path: Path) -> None:
    program = tmp_path / "bin" / "git"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nenv >>{tmp_path}/environ\nPATH=${{PATH#*:}} exec git "$@"\n')
    program.chmod(0o755)
    path = {"PATH": f"{program.parent}:{home.environ['PATH']}"}
    with Agent(home, work, command=BY_DOOR, env=path) as agent:
        agent.init("upload")
        push(agent, work, 1)
        agent.end()

    assert "HOME=" in (tmp_path / "environ").read_text()
    assert "LFS_AGENT_SAID" not in (tmp_path / "environ").read_text()


# The other workers


def test_one_worker_of_a_push_loads_and_the_others_are_forked(
    home: Home, work: Path, any_server: Server, bucket: str, tmp_path: Path
) -> None:
    home.install()
    spied = tmp_path / "interpreter"
    spied.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S {SPY} {tmp_path}/spy "$3"\n')
    spied.chmod(0o755)
    home.git("config", "--global", "lfs.customtransfer.lfs-agent.args", f"/bin/sh {DOOR} {spied} {WORKER}")
    home.git("lfs", "track", "*.bin", cwd=work)
    for number in range(60):
        (work / f"{number}.bin").write_bytes(random_bytes(50_000, number))
    home.git("add", ".", cwd=work)
    home.git("commit", "-qm", "sixty", cwd=work)
    home.git("init", "-q", "--bare", tmp_path / "origin.git")
    home.git("remote", "add", "origin", tmp_path / "origin.git", cwd=work)

    home.git("push", "-q", "origin", "HEAD:main", cwd=work)

    loaded = {note["pid"] for note in seen_by_spy(tmp_path / "spy", "import") if note["module"] == "pycurl"}
    assert len(loaded) == 1
    assert len(set(workers_in(work))) > 1
    assert len(any_server.keys(bucket)) == 60


def two_workers(home: Home, work: Path, agents: ExitStack) -> tuple[Agent, Agent, int]:
    """The first, the second, and the process that was forked for that."""
    first, second = (agents.enter_context(Agent(home, work, command=BY_DOOR)) for _ in range(2))
    for agent in (first, second):
        agent.init("upload")
    push(first, work, 1)
    push(second, work, 2)
    *_, forked = workers_in(work)
    assert forked not in (first.process.pid, second.process.pid)
    return first, second, forked


def test_a_forked_worker_outlives_the_one_that_loaded(home: Home, work: Path, agents: ExitStack) -> None:
    first, second, forked = two_workers(home, work, agents)

    assert first.end() == 0
    push(second, work, 3)
    assert is_alive(forked)
    assert second.end() == 0
    wait_for(lambda: not is_alive(forked), 5)


def test_where_the_first_worker_was_killed_the_others_go_on(home: Home, work: Path, agents: ExitStack) -> None:
    first, second, _ = two_workers(home, work, agents)

    first.process.kill()
    first.process.wait()
    push(second, work, 3)
    third = agents.enter_context(Agent(home, work, command=BY_DOOR))
    third.init("upload")
    push(third, work, 4)

    assert (second.end(), third.end()) == (0, 0)
    wait_for(lambda: first.left_over() == [], 5)  # with it went what forks


@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_worker_ends_with_the_process_that_git_lfs_knows(
    home: Home, work: Path, agents: ExitStack, by: signal.Signals
) -> None:
    _, second, forked = two_workers(home, work, agents)

    second.process.send_signal(by)
    second.process.wait(10)

    wait_for(lambda: not is_alive(forked), 5)


def test_a_forked_worker_that_is_killed_is_no_success(home: Home, work: Path, agents: ExitStack) -> None:
    _, second, forked = two_workers(home, work, agents)

    os.kill(forked, signal.SIGKILL)

    assert second.process.wait(10) == 1


def test_nobody_is_forked_into_another_repository(
    home: Home, work: Path, any_server: Server, bucket: str, agents: ExitStack, tmp_path: Path
) -> None:
    """One process may start workers in several folders, or with several environments."""
    other = new_repository(home, tmp_path / "other", f"s3::{bucket}/other")
    first, second, third = (
        agents.enter_context(Agent(home, folder, command=BY_DOOR, env=env))
        for folder, env in ((work, {}), (other, {}), (work, {"LFS_AGENT_LAYOUT": "flat"}))
    )
    for agent in (first, second, third):
        agent.init("upload")

    mine, theirs = push(first, work, 1), push(second, other, 2)
    flat = push(third, work, 7)

    keys = any_server.keys(bucket)
    assert {f"cellar/{mine[:2]}/{mine[2:4]}/{mine}", f"other/{theirs[:2]}/{theirs[2:4]}/{theirs}"} <= {*keys}
    assert f"cellar/{flat}" in keys


ASKS = """
import os, socket, sys
place, user = sys.argv[1:]
told = sys.stdin.buffer.read()
answer, null = os.dup(1), os.open(os.devnull, os.O_RDWR)
for fd in (0, 1, 2):
    os.dup2(null, fd)
os.setresuid(int(user), int(user), 0)
link = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
link.connect(bytes.fromhex(place))
try:
    link.send(told)
    os.write(answer, link.recv(1) or b"-")
except OSError:  # hung up
    os.write(answer, b"-")
"""


@pytest.mark.parametrize(
    "user, told, answer",
    [
        (None, INIT + REQUEST, "+"),
        (65534, INIT + REQUEST, "-"),
        (None, INIT.replace(b"upload", b"download") + REQUEST, "-"),
        (None, INIT + REQUEST[:-1], "-"),
        (None, INIT + b"x" * 70_000 + b"\n", "-"),
        (None, b"", "-"),
    ],
    ids=["one of ours", "another user", "another init", "half a line", "too long", "nothing"],
)
def test_who_is_none_of_the_session_gets_no_worker(
    home: Home, work: Path, agents: ExitStack, user: int | None, told: bytes, answer: str
) -> None:
    """Each asks in the same folder, with the same environment."""
    user = user or os.geteuid()
    if os.geteuid() not in (0, user):
        pytest.skip("only root can be several users")
    first, second, _ = two_workers(home, work, agents)
    entries = Path(f"/proc/{second.process.pid}/environ").read_text().rstrip("\0").split("\0")
    environ = dict(entry.split("=", 1) for entry in entries)
    words = [sys.executable, "-c", ASKS, meeting_point(os.getpid()).hex(), str(user)]

    done = subprocess.run(words, cwd=work, env=environ, input=told, capture_output=True, check=False, timeout=30)

    assert done.stdout.decode() == answer, done.stderr
    push(first, work, 3)


def test_surroundings_are_the_folder_and_the_environment(tmp_path: Path) -> None:
    def surroundings(folder: Path, **environ: str) -> object:
        with subprocess.Popen(["sleep", "100"], cwd=folder, env=environ) as process:
            wait_for(lambda: b"sleep" in Path(f"/proc/{process.pid}/cmdline").read_bytes(), 10)
            found = surroundings_of(process.pid)
            process.kill()
        return found

    other = tmp_path / "other"
    other.mkdir()
    usual = surroundings(tmp_path, A="1", LFS_AGENT_SAID="x")
    assert surroundings(tmp_path, A="1", LFS_AGENT_SAID="y") == usual
    assert surroundings(other, A="1") != usual
    assert surroundings(tmp_path, A="2") != usual
    assert surroundings(tmp_path, A="1", B="1") != usual


def test_who_is_forked_is_waited_for(home: Home, work: Path, agents: ExitStack) -> None:
    """Where process 1 waits for nobody, as in many containers, they would be there for ever."""
    first, second, forked = two_workers(home, work, agents)
    third = agents.enter_context(Agent(home, work, command=BY_DOOR))
    third.init("upload")
    push(third, work, 3, LARGE)
    *_, last = workers_in(work)
    assert last != forked

    assert second.end() == 0
    wait_for(lambda: not Path(f"/proc/{forked}").exists(), 5)

    third.say(event="terminate")
    assert first.end() == 0
    wait_for(lambda: not Path(f"/proc/{last}").exists(), 5)


# Where nothing can be forked


def listening_at(place: bytes) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(place)
    listener.listen(0)
    return listener


def test_a_worker_does_not_queue_where_nobody_answers(home: Home, work: Path, agents: ExitStack) -> None:
    """Anybody may listen there, and let everybody wait."""
    place = meeting_point(os.getpid())
    agents.enter_context(listening_at(place))
    with suppress(BlockingIOError):
        while True:
            waiting = agents.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
            waiting.setblocking(False)
            waiting.connect(place)
    agent = agents.enter_context(Agent(home, work, command=BY_DOOR))
    agent.init("upload")

    push(agent, work, 1)


LISTENS = """
import socket, sys
listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
listener.bind(bytes.fromhex(sys.argv[1]))
listener.listen()
print("listening", flush=True)
link, _ = listener.accept()
link.recvmsg(1 << 16, 64)
link.send(b"+")
"""


def test_nothing_is_handed_to_who_was_not_started_by_git_lfs(home: Home, work: Path, agents: ExitStack) -> None:
    """Containers of a pod share abstract sockets, and root is root in each."""
    words = ["timeout", "60", sys.executable, "-c", LISTENS, meeting_point(os.getpid()).hex()]
    other = agents.enter_context(subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL))
    assert other.stdout
    assert other.stdout.readline() == b"listening\n"
    agent = agents.enter_context(Agent(home, work, command=BY_DOOR))
    agent.init("upload")

    push(agent, work, 1)


def test_what_is_remembered_of_a_registration_is_the_account_s(home: Home, work: Path) -> None:
    """Of the same name there may be another bucket, where nobody has said whose the objects are."""
    accounts = ["111111111111", "222222222222"]
    for seed, account in enumerate(accounts):
        with Agent(home, work, command=BY_DOOR, env={"AWS_ACCOUNT_ID": account}) as agent:
            agent.init("upload")
            push(agent, work, seed)
            agent.end()

    memories = (work / ".git" / "lfs-agent" / "registered").iterdir()
    assert sorted(memory.read_text().split()[1] for memory in memories) == accounts
