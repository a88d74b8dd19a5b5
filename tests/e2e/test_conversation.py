"""The agent as a child process behind two pipes: what it says to git-lfs, and how it ends."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

import pytest

from lfs_agent.wire import Wire
from tests.cellar import random_bytes
from tests.e2e.dialogue import WORKER, Agent, files_below, keep_local, new_repository, push, seen_by_spy, wait_for
from tests.machine import Home
from tests.proxy import BlackHole, FaultProxy, Faults, Rule, Stall, Throttle
from tests.servers import Server

CONTENT = random_bytes(300_000, 1)
OID = sha256(CONTENT).hexdigest()
MIB = 1 << 20


@pytest.fixture
def work(home: Home, this_server: Server, bucket: str, tmp_path: Path) -> Path:
    """A repository over `bucket`; `home` knows the server."""
    home.environ.update(this_server.environ())
    return new_repository(home, tmp_path / "work", f"s3::{bucket}/cellar")


@pytest.fixture
def local(work: Path) -> Path:
    """The object, as git-lfs keeps it."""
    return keep_local(work, OID, CONTENT)


@pytest.fixture
def stored(any_server: Server, bucket: str) -> str:
    """The object, in the bucket; gives its key."""
    return store(any_server, bucket, CONTENT)


def store(server: Server, bucket: str, content: bytes) -> str:
    oid = sha256(content).hexdigest()
    key = f"cellar/{oid[:2]}/{oid[2:4]}/{oid}"
    server.client().put_object(Bucket=bucket, Key=key, Body=content)
    return key


@pytest.fixture
def slow_link(any_server: Server) -> Iterator[FaultProxy]:
    """A link of 4 MB/s in both directions."""
    with FaultProxy(any_server.endpoint, Faults((Rule(Throttle(up=4_000_000, down=4_000_000)),))) as proxy:
        yield proxy


# What is said


def test_an_upload_is_exactly_these_lines(home: Home, work: Path, local: Path, any_server: Server, bucket: str) -> None:
    with Agent(home, work) as agent:
        assert agent.init("upload") == {}
        agent.upload(OID, local)
        agent.until_complete()
        assert agent.end() == 0

    first, *progress, last = (line.decode() for _, line in agent.heard)
    assert (first, last) == ("{}\n", f'{{"event": "complete", "oid": "{OID}"}}\n')
    line = '{{"event": "progress", "oid": "{}", "bytesSoFar": {}, "bytesSinceLast": {}}}\n'.format
    counts = [(told["bytesSoFar"], told["bytesSinceLast"]) for told in map(json.loads, progress)]
    assert progress == [line(OID, *count) for count in counts]
    assert (counts[0], counts[-1][0], sum(since for _, since in counts)) == ((1, 0), 300_000, 300_000)
    (key,) = any_server.keys(bucket)
    assert key == f"cellar/{OID[:2]}/{OID[2:4]}/{OID}"
    assert any_server.client().get_object(Bucket=bucket, Key=key)["Body"].read() == CONTENT


def test_a_download_is_exactly_these_lines(home: Home, work: Path, stored: str) -> None:
    with Agent(home, work) as agent:
        assert agent.init("download") == {}
        agent.download(OID, 300_000)
        path = Path(agent.until_complete()[-1]["path"])
        assert agent.end() == 0

    first, begun, *progress, last = (json.loads(line) for _, line in agent.heard)
    assert first == {}
    assert begun == {"event": "progress", "oid": OID, "bytesSoFar": 1, "bytesSinceLast": 0}
    assert {(told["event"], told["oid"]) for told in progress} == {("progress", OID)}
    assert (progress[-1]["bytesSoFar"], sum(told["bytesSinceLast"] for told in progress)) == (300_000, 300_000)
    assert last == {"event": "complete", "oid": OID, "path": str(path)}
    assert path.read_bytes() == CONTENT
    assert path.is_relative_to(work / ".git" / "lfs")


def test_a_conversation_may_come_in_one_piece(
    home: Home, work: Path, local: Path, any_server: Server, bucket: str
) -> None:
    """printf … | agent: the end of the input after terminate is no reason to hurry."""
    lines = [
        {"event": "init", "operation": "upload", "remote": "origin", "concurrent": True, "concurrenttransfers": 8},
        {"event": "upload", "oid": OID, "size": 300_000, "path": str(local), "action": None},
        {"event": "terminate"},
    ]
    done = home.run(
        sys.executable, "-I", "-S", WORKER, cwd=work, stdin="".join(f"{json.dumps(line)}\n" for line in lines)
    )

    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert answers[0] == {}
    assert answers[-1] == {"event": "complete", "oid": OID}
    assert len(any_server.keys(bucket)) == 1


def test_stdout_is_pure_json_while_libraries_are_noisy(home: Home, work: Path, local: Path, tmp_path: Path) -> None:
    home.environ["LFS_AGENT_LOG_LEVEL"] = "debug"
    with Agent(home, work, spy=tmp_path / "spy", options=["noise"]) as agent:
        agent.init("upload")
        agent.upload(OID, local)
        agent.until_complete()
        assert agent.end() == 0

    events = [json.loads(line).get("event") for _, line in agent.heard]
    assert events == [None, "progress", "progress", "complete"]
    for noise in ("a library prints", "a library writes", "a library warns"):
        assert noise in agent.stderr
    logged = [
        json.loads(line)
        for line in agent.stderr.splitlines()
        if line.startswith("{") and "oid" in line and "level" in line
    ]
    assert "uploaded" in {line["event"] for line in logged}


def test_a_child_that_reads_stdin_gets_nothing_of_the_protocol(
    home: Home, work: Path, local: Path, any_server: Server, tmp_path: Path
) -> None:
    swallowed = tmp_path / "swallowed"
    keys = {"Version": 1, "AccessKeyId": any_server.access_key, "SecretAccessKey": any_server.secret_key}
    helper = tmp_path / "helper"
    helper.write_text(f"#!/bin/sh\ncat >>{swallowed}\nprintf %s '{json.dumps(keys)}'\n")
    helper.chmod(0o755)
    (home.folder / ".aws").mkdir()
    (home.folder / ".aws" / "config").write_text(f"[default]\ncredential_process = {helper}\n")
    del home.environ["AWS_ACCESS_KEY_ID"], home.environ["AWS_SECRET_ACCESS_KEY"]
    with Agent(home, work) as agent:
        agent.init("upload")
        agent.upload(OID, local)
        agent.say(event="terminate")  # is in the pipe while the helper reads
        last = agent.until_complete()[-1]
        status = agent.process.wait(10)

    assert last == {"event": "complete", "oid": OID}
    assert swallowed.read_bytes() == b""
    assert status == 0


@pytest.mark.parametrize(
    "line",
    [
        b"\n",
        b"garbage\n",
        b"[]\n",
        b'"init"\n',
        b"\xff\xfe\x00\n",
        b"{" * 5000 + b"\n",
        b'{"event":"negotiate","version":2}\n',
        b'{"event":7}\n',
        b"{}\n",
        b'{"event":"init","operation":"upload","remote":"origin","concurrent":true,"concurrenttransfers":8}\n',
    ],
    ids=lambda line: line[:24].decode(errors="replace").strip() or "empty",
)
def test_what_makes_no_sense_is_not_answered_and_disturbs_nothing(
    home: Home, work: Path, local: Path, line: bytes
) -> None:
    with Agent(home, work) as agent:
        agent.init("upload")
        agent.send(line)
        agent.upload(OID, local)
        agent.until_complete()
        agent.send(line)
        assert agent.end() == 0

    events = [json.loads(text).get("event") for _, text in agent.heard]
    assert (events[0], set(events[1:-1])) == (None, {"progress"})
    assert json.loads(agent.heard[-1][1]) == {"event": "complete", "oid": OID}
    assert "Traceback" not in agent.stderr


def test_who_asks_for_an_object_waits_for_an_answer_even_out_of_place(home: Home, work: Path, local: Path) -> None:
    with Agent(home, work) as agent:
        agent.init("upload")
        agent.download(OID, 300_000)
        (refused,) = agent.until_complete()
        agent.upload(OID, local)
        stored = agent.until_complete()[-1]
        assert agent.end() == 0

    assert (refused["oid"], refused["error"]["code"]) == (OID, 2)
    assert "Download has no place in state 'upload'" in refused["error"]["message"]
    assert stored == {"event": "complete", "oid": OID}


def test_an_init_that_is_none_at_a_second_look_is_answered_once(home: Home, work: Path) -> None:
    with Agent(home, work) as agent:
        agent.send(b'{"event":"init","operation":"upload","remote":\xff}\n')
        assert agent.hear() == {}
        agent.send(b'{"event":"upload"}\n')
        agent.process.wait(10)

    assert len(agent.heard) == 1


@pytest.mark.parametrize(
    "fields",
    [
        {"oid": "../../../../etc/passwd", "size": 5},
        {"oid": "A" * 64, "size": 5},
        {"oid": OID + "\n", "size": 5},
        {"oid": OID, "size": -1},
        {"oid": OID, "size": "5"},
        {"oid": OID, "size": 1.5},
    ],
    ids=["path", "capitals", "line end", "negative", "text", "fraction"],
)
def test_what_cannot_be_an_object_is_refused_before_the_store_hears_of_it(
    home: Home, work: Path, any_server: Server, bucket: str, fields: dict[str, object]
) -> None:
    mark = any_server.mark()
    with Agent(home, work) as agent:
        agent.init("download")
        agent.say(event="download", **fields)
        answer = agent.hear()
        assert agent.end() == 0

    assert (answer["event"], answer["oid"]) == ("complete", fields["oid"])
    assert type(answer["error"]["code"]) is int
    assert "\n" not in answer["error"]["message"]
    assert [request for request in any_server.requests(mark) if request.bucket == bucket] == []


def test_a_file_without_an_absolute_path_is_not_sent(
    home: Home, work: Path, local: Path, any_server: Server, bucket: str
) -> None:
    """Where it would be looked for is for whoever has started us to say."""
    (work / "weights.bin").write_bytes(local.read_bytes())
    with Agent(home, work) as agent:
        agent.init("upload")
        agent.say(event="upload", oid=OID, size=300_000, path="weights.bin")
        failed = agent.until_complete()[-1]
        assert agent.end() == 0

    assert failed["error"]["message"].startswith("git-lfs named a file that is not absolute: 'weights.bin'")
    assert any_server.keys(bucket, "") == []


def test_a_newer_git_lfs_may_say_more(home: Home, work: Path, local: Path) -> None:
    with Agent(home, work) as agent:
        init = {"event": "init", "operation": "upload", "remote": "origin", "concurrent": True, "versions": [1, 2]}
        agent.send(json.dumps(init).encode() + b"\r\n")
        assert agent.hear() == {}
        agent.say(event="upload", oid=OID, size=300_000, path=str(local), action={"href": ""}, retry=True)
        assert agent.until_complete()[-1] == {"event": "complete", "oid": OID}
        agent.send(b'{"event":"terminate"}\r\n')
        assert agent.process.wait(10) == 0


@pytest.mark.parametrize("first", [b'{"event":"init","operation":"copy","remote":"origin"}\n', b"hello\n"])
def test_an_init_that_is_none_is_refused_in_one_line(home: Home, work: Path, first: bytes) -> None:
    with Agent(home, work) as agent:
        agent.send(first)
        answer = agent.hear()
        agent.process.wait(10)

    assert list(answer) == ["error"]
    assert type(answer["error"]["code"]) is int
    assert len(agent.heard) == 1
    assert "Traceback" not in agent.stderr


def test_an_object_whose_path_git_lfs_cannot_spell_is_found(home: Home, work: Path, local: Path) -> None:
    with Agent(home, work) as agent:
        agent.init("upload")
        path = f"/srv/caf\ufffd/.git/lfs/objects/{OID[:2]}/{OID[2:4]}/{OID}"
        agent.say(event="upload", oid=OID, size=300_000, path=path, action=None)
        assert agent.until_complete()[-1] == {"event": "complete", "oid": OID}


# Starting is cheap


def test_a_worker_without_work_loads_nothing(home: Home, work: Path, tmp_path: Path) -> None:
    with Agent(home, work, spy=tmp_path / "spy") as agent:
        agent.init("upload")
        assert agent.end() == 0

    loaded = {note["module"].partition(".")[0] for note in seen_by_spy(tmp_path / "spy", "import")}
    assert loaded.isdisjoint(
        {"lfs_agent", "boto3", "botocore", "structlog", "tenacity", "pathlib", "threading", "site"}
    )
    assert {note["path"] for note in seen_by_spy(tmp_path / "spy", "write")} <= {os.devnull}


def test_init_is_answered_before_anything_of_ours_is_loaded(
    home: Home, work: Path, local: Path, tmp_path: Path
) -> None:
    with Agent(home, work, spy=tmp_path / "spy") as agent:
        agent.init("upload")
        before = {note["module"].partition(".")[0] for note in seen_by_spy(tmp_path / "spy", "import")}
        agent.upload(OID, local)
        agent.until_complete()
        agent.upload(OID, local)  # which is there by now
        agent.until_complete()
        after = {note["module"] for note in seen_by_spy(tmp_path / "spy", "import")}
        agent.end()

    assert before.isdisjoint({"lfs_agent", "botocore", "structlog"})
    assert {"lfs_agent", "pycurl"} <= after
    assert {name for name in after if name in SPARED or name.partition(".")[0] in SPARED} == set()


SPARED = {
    *("boto3", "botocore", "structlog", "tenacity", "urllib3", "yaml"),
    *(
        "dataclasses",
        "difflib",
        "email",
        "http",
        "inspect",
        "logging",
        "shlex",
        "ssl",
        "tempfile",
        "tomllib",
        "xml",
    ),
    *("concurrent.futures", "importlib.metadata", "urllib.request"),
    *("lfs_agent.gto", "lfs_agent.store.folder", "lfs_agent.verify"),
    *("lfs_agent.store.botosession", "lfs_agent.store.s3boto"),
    *(("ast",) if sys.version_info < (3, 14) else ()),  # from 3.14 on typing loads it for each NamedTuple
}
"""What takes long to load, and is of use only to a command, for a failure, an uncommon setting or a large object."""
SPARED_A_DOWNLOAD = {
    *SPARED,
    "google_crc32c",
    "lfs_agent.keeper",
    "lfs_agent.ledger",
    "lfs_agent.registrar",
    "lfs_agent.transfer.local",
    "lfs_agent.transfer.upload",
}


def test_a_download_loads_nothing_of_an_upload(home: Home, work: Path, stored: str, tmp_path: Path) -> None:
    with Agent(home, work, spy=tmp_path / "spy") as agent:
        agent.init("download")
        agent.download(OID, len(CONTENT))
        assert "path" in agent.until_complete()[-1]
        agent.end()

    loaded = {note["module"] for note in seen_by_spy(tmp_path / "spy", "import")}
    assert "lfs_agent.transfer.download" in loaded
    assert {
        name for name in loaded if name in SPARED_A_DOWNLOAD or name.partition(".")[0] in SPARED_A_DOWNLOAD
    } == set()


# Progress


def test_the_gate_opens_once_there_are_credentials_and_before_any_answer(home: Home, work: Path) -> None:
    with BlackHole() as nobody:
        home.environ["AWS_ENDPOINT_URL_S3"] = nobody.endpoint
        with Agent(home, work) as agent:
            agent.init("download")
            agent.download(OID, 300_000)
            assert agent.hear() == {"event": "progress", "oid": OID, "bytesSoFar": 1, "bytesSinceLast": 0}


def test_the_gate_stays_shut_without_credentials(home: Home, work: Path) -> None:
    del home.environ["AWS_ACCESS_KEY_ID"], home.environ["AWS_SECRET_ACCESS_KEY"]
    with Agent(home, work) as agent:
        agent.init("download")
        agent.download(OID, 300_000)
        (only,) = agent.until_complete()

    assert "no AWS credentials" in only["error"]["message"]


@pytest.mark.parametrize("operation", ["upload", "download"])
def test_progress_adds_up_never_falls_and_is_bounded(
    home: Home, work: Path, any_server: Server, bucket: str, slow_link: FaultProxy, operation: str
) -> None:
    content = random_bytes(16_000_000, 2)
    oid = sha256(content).hexdigest()
    home.environ["AWS_ENDPOINT_URL_S3"] = slow_link.endpoint
    with Agent(home, work) as agent:
        agent.init(operation)
        if operation == "upload":
            agent.upload(oid, keep_local(work, oid, content))
        else:
            store(any_server, bucket, content)
            agent.download(oid, len(content))
        *progress, last = agent.until_complete()
        agent.end()

    assert "error" not in last
    assert {message["event"] for message in progress} == {"progress"}
    assert (progress[0]["bytesSoFar"], progress[0]["bytesSinceLast"]) == (1, 0)
    assert sum(message["bytesSinceLast"] for message in progress) == len(content)
    so_far = [message["bytesSoFar"] for message in progress]
    assert so_far == sorted(so_far)
    assert so_far[-1] == len(content)
    assert all(type(message["bytesSoFar"]) is type(message["bytesSinceLast"]) is int for message in progress)
    seconds = agent.heard[-1][0] - agent.heard[1][0]
    assert seconds > 1.5  # the link allows 4 MB/s
    assert 5 <= len(progress) <= 10 * seconds + 3


def test_a_fast_transfer_does_not_flood_git_lfs(home: Home, work: Path, any_server: Server, bucket: str) -> None:
    content = random_bytes(64_000_000, 7)
    store(any_server, bucket, content)
    with FaultProxy(any_server.endpoint, Faults((Rule(Throttle(down=40_000_000)),))) as proxy:
        home.environ |= {"AWS_ENDPOINT_URL_S3": proxy.endpoint, "LFS_AGENT_PART_SIZE": "64MiB"}
        with Agent(home, work) as agent:
            agent.init("download")
            agent.download(sha256(content).hexdigest(), len(content))
            *progress, last = agent.until_complete()

    assert "error" not in last
    seconds = agent.heard[-1][0] - agent.heard[1][0]
    assert seconds > 1  # 61 blocks of a MiB: were each told, that would be up to 40 lines a second
    assert len(progress) <= 10 * seconds + 3


def test_finishing_is_not_silence(home: Home, work: Path, any_server: Server) -> None:
    """S3 may take minutes to put parts together: git-lfs and the user go on hearing from us."""
    content = random_bytes(6 * MIB, 3)
    oid = sha256(content).hexdigest()
    stall = Rule(Stall("request-head", seconds=3.5), method="POST", target="uploadId=")
    with FaultProxy(any_server.endpoint, Faults((stall,))) as proxy:
        home.environ |= {"AWS_ENDPOINT_URL_S3": proxy.endpoint, "LFS_AGENT_PART_SIZE": "5MiB"}
        with Agent(home, work) as agent:
            agent.init("upload")
            agent.upload(oid, keep_local(work, oid, content))
            *progress, last = agent.until_complete()

    assert "error" not in last
    still = [message for message in progress if message["bytesSinceLast"] == 0 and message["bytesSoFar"] == 6 * MIB]
    assert len(still) >= 2
    assert sum(message["bytesSinceLast"] for message in progress) == 6 * MIB


def test_a_present_object_counts_as_done_and_is_not_sent(
    home: Home, work: Path, local: Path, stored: str, any_server: Server, bucket: str
) -> None:
    mark = any_server.mark()
    with Agent(home, work) as agent:
        agent.init("upload")
        agent.upload(OID, local)
        messages = agent.until_complete()
        agent.end()

    assert [message.get("bytesSinceLast") for message in messages] == [0, 300_000, None]
    assert messages[1]["bytesSoFar"] == 300_000
    assert [r.operation for r in any_server.requests(mark) if r.bucket == bucket] == ["HeadObject"]


# The end


def close_input(agent: Agent) -> None:
    agent.stdin.close()


def interrupt(agent: Agent) -> None:
    agent.process.send_signal(signal.SIGINT)


def ask_to_end(agent: Agent) -> None:
    agent.process.send_signal(signal.SIGTERM)


def interrupt_many_times(agent: Agent) -> None:
    """Ctrl-C reaches us from the terminal and from git-lfs, at the same moment."""
    for number in [signal.SIGINT, signal.SIGTERM] * 200:
        agent.process.send_signal(number)


def close_output(agent: Agent) -> None:
    agent.close_stdout()


END = [close_input, interrupt, interrupt_many_times, ask_to_end, close_output]
End = Callable[[Agent], None]


def time_to_end(agent: Agent) -> float:
    started = time.monotonic()
    agent.process.wait(20)
    return time.monotonic() - started


@pytest.mark.parametrize("end", END)
@pytest.mark.parametrize("operation", ["upload", "download"])
def test_a_transfer_ends_at_once_and_leaves_nothing_half(
    home: Home, work: Path, any_server: Server, bucket: str, slow_link: FaultProxy, operation: str, end: End
) -> None:
    content = random_bytes(24_000_000, 4)
    oid = sha256(content).hexdigest()
    home.environ |= {"AWS_ENDPOINT_URL_S3": slow_link.endpoint, "LFS_AGENT_PART_SIZE": "5MiB"}
    with Agent(home, work) as agent:
        agent.init(operation)
        if operation == "upload":
            agent.upload(oid, keep_local(work, oid, content))
        else:
            store(any_server, bucket, content)
            agent.download(oid, len(content))
        while agent.hear()["bytesSoFar"] < 2_000_000:
            pass
        end(agent)
        assert time_to_end(agent) < 2.5
        assert agent.left_over() == []

    assert "Traceback" not in agent.stderr
    if operation == "upload":
        assert any_server.keys(bucket) == []
    else:
        assert files_below(work / ".git" / "lfs" / "objects") == []
        assert files_below(work / ".git" / "lfs" / "tmp") == []


@pytest.mark.skipif(sys.platform != "linux", reason="a pipe is opened by its name in /proc")
def test_a_signal_ends_a_worker_that_nobody_reads(
    home: Home, work: Path, any_server: Server, bucket: str, slow_link: FaultProxy
) -> None:
    content = random_bytes(24_000_000, 4)
    store(any_server, bucket, content)
    home.environ["AWS_ENDPOINT_URL_S3"] = slow_link.endpoint
    with Agent(home, work) as agent:
        agent.init("download")
        agent.download(sha256(content).hexdigest(), len(content))
        agent.hear()
        agent.stop_reading()
        pipe = os.open(f"/proc/self/fd/{agent.stdout.fileno()}", os.O_WRONLY | os.O_NONBLOCK)
        for block in (b" " * 4096, b" "):
            with suppress(BlockingIOError):
                while True:
                    os.write(pipe, block)
        with suppress(AssertionError):  # not every kernel tells; the next heartbeat comes in half a second
            wait_for(lambda: "pipe" in Path(f"/proc/{agent.process.pid}/wchan").read_text(), 2)
        ask_to_end(agent)
        agent.process.wait(20)
        os.close(pipe)


@pytest.mark.parametrize("end", END[:3])
def test_it_ends_while_credentials_are_awaited(home: Home, work: Path, end: End) -> None:
    """A login helper may wait for a person who has gone."""
    (home.folder / ".aws").mkdir()
    (home.folder / ".aws" / "config").write_text("[default]\ncredential_process = sleep 30\n")
    del home.environ["AWS_ACCESS_KEY_ID"], home.environ["AWS_SECRET_ACCESS_KEY"]
    with Agent(home, work) as agent:
        agent.init("download")
        agent.download(OID, 300_000)
        deadline = time.monotonic() + 10
        while not any("sleep 30" in line for line in agent.left_over()):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        end(agent)
        assert time_to_end(agent) < 2.5
        assert not any("worker.py" in line for line in agent.left_over())
        wait_for(lambda: not any("sleep 30" in line for line in agent.left_over()), 10)


@pytest.mark.parametrize("end", END)
@pytest.mark.parametrize("moment", ["before init", "after init", "after an object"])
def test_an_idle_worker_ends_at_once(home: Home, work: Path, local: Path, stored: str, moment: str, end: End) -> None:
    with Agent(home, work) as agent:
        if moment == "before init":
            wait_for(agent.has_begun, 10)
        else:
            agent.init("upload")
        if moment == "after an object":
            agent.upload(OID, local)
            agent.until_complete()
        end(agent)
        if end is close_output:  # is only seen by writing
            if moment == "before init":
                agent.say(event="init", operation="upload", remote="origin", concurrent=True, concurrenttransfers=8)
            else:
                agent.upload(OID, local)
        assert time_to_end(agent) < 2.5

    assert "Traceback" not in agent.stderr


def test_a_killed_download_leaves_no_half_object(
    home: Home, work: Path, any_server: Server, bucket: str, slow_link: FaultProxy
) -> None:
    content = random_bytes(8_000_000, 5)
    oid = sha256(content).hexdigest()
    store(any_server, bucket, content)
    home.environ["AWS_ENDPOINT_URL_S3"] = slow_link.endpoint
    with Agent(home, work) as agent:
        agent.init("download")
        agent.download(oid, len(content))
        while agent.hear()["bytesSoFar"] < 2_000_000:
            pass
        agent.process.kill()
        agent.process.wait()

    assert files_below(work / ".git" / "lfs" / "objects") == []
    home.environ["AWS_ENDPOINT_URL_S3"] = any_server.endpoint
    with Agent(home, work) as agent:
        agent.init("download")
        agent.download(oid, len(content))
        done = Path(agent.until_complete()[-1]["path"])
    assert sha256(done.read_bytes()).hexdigest() == oid


# Several workers


@pytest.mark.parametrize("size", [300_000, 12 * MIB])
def test_two_processes_asked_for_one_upload_store_it_once(
    home: Home, work: Path, any_server: Server, bucket: str, size: int
) -> None:
    content = random_bytes(size, 6)
    oid = sha256(content).hexdigest()
    path = keep_local(work, oid, content)
    home.environ["LFS_AGENT_PART_SIZE"] = "5MiB"
    client = any_server.client()
    client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    mark = any_server.mark()
    together = Rule(Stall("request-head", seconds=1), method="PUT|POST", target=oid)  # both have looked before
    with (
        FaultProxy(any_server.endpoint, Faults((together,))) as proxy,
        Agent(home, work, env={"AWS_ENDPOINT_URL_S3": proxy.endpoint}) as one,
        Agent(home, work, env={"AWS_ENDPOINT_URL_S3": proxy.endpoint}) as two,
        ThreadPoolExecutor(2) as pool,
    ):
        for agent in (one, two):
            agent.init("upload")
        for agent in (one, two):
            agent.upload(oid, path)
        ends = [answer[-1] for answer in pool.map(Agent.until_complete, (one, two))]

    assert ends == [{"event": "complete", "oid": oid}] * 2
    requests = [request for request in any_server.requests(mark) if request.bucket == bucket]
    published = [
        request
        for request in requests
        if request.operation in ("PutObject", "CompleteMultipartUpload") and request.status == 200
    ]
    assert len(published) == 1
    assert len(client.list_object_versions(Bucket=bucket, Prefix=published[0].key)["Versions"]) == 1
    assert client.get_object(Bucket=bucket, Key=published[0].key)["Body"].read() == content


def test_two_processes_asked_for_one_download_both_get_it(
    home: Home, work: Path, any_server: Server, bucket: str, slow_link: FaultProxy
) -> None:
    content = random_bytes(4_000_000, 8)
    oid = sha256(content).hexdigest()
    store(any_server, bucket, content)
    home.environ["AWS_ENDPOINT_URL_S3"] = slow_link.endpoint
    with Agent(home, work) as one, Agent(home, work) as two, ThreadPoolExecutor(2) as pool:
        for agent in (one, two):
            agent.init("download")
        for agent in (one, two):
            agent.download(oid, len(content))
        paths = [Path(answer[-1]["path"]) for answer in pool.map(Agent.until_complete, (one, two))]

    assert paths[0] != paths[1]
    assert [path.read_bytes() for path in paths] == [content, content]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells which files a process has open")
def test_of_many_objects_only_the_last_one_is_held_for_git_lfs(home: Home, work: Path) -> None:
    with Agent(home, work) as agent:
        agent.init("upload")
        oids = [push(agent, work, seed) for seed in range(4)]
        assert agent.end() == 0

    with Agent(home, work) as agent:
        agent.init("download")
        for oid in oids:
            agent.download(oid, 20_000)
            agent.until_complete()
        held = [str(fd.readlink()) for fd in Path(f"/proc/{agent.process.pid}/fd").iterdir()]
        assert [oid for oid in oids if any(oid in path for path in held)] == oids[-1:]
        assert agent.end() == 0


def test_two_containers_that_share_a_storage_hand_over_files_of_their_own(
    home: Home, work: Path, any_server: Server, bucket: str
) -> None:
    """In each the worker has the number 1."""
    container = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc"]
    if not shutil.which("unshare") or subprocess.run([*container, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine gives nobody processes of his own (unshare --user --pid)")
    content = random_bytes(30_000, 9)
    oid = sha256(content).hexdigest()
    store(any_server, bucket, content)
    command = [*container, sys.executable, "-I", "-S", str(WORKER)]
    with Agent(home, work, command=command) as one, Agent(home, work, command=command) as two:
        paths = []
        for agent in (one, two):
            agent.init("download")
            agent.download(oid, len(content))
            paths.append(Path(agent.until_complete()[-1]["path"]))

    assert paths[0] != paths[1]
    assert [path.read_bytes() for path in paths] == [content, content]


def test_a_fault_of_ours_in_the_conversation_ends_the_worker() -> None:
    fault = (
        "import sys; from lfs_agent import agent; agent.Worker.serve = lambda *_: 1 / 0\n"
        'init = b\'{"event":"init","operation":"upload"}\'\n'
        "sys.exit(agent.run(init, b'{}', sys.stdin.buffer, 1, 0.0))"
    )
    worker = subprocess.Popen([sys.executable, "-c", fault], stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    with worker:
        try:
            assert worker.wait(20) == 130
        finally:
            worker.kill()
        assert worker.stderr is not None
        assert "ZeroDivisionError" in worker.stderr.read().decode()


@pytest.mark.parametrize("last, broke_off", [(b'{"event":"terminate"}\n', False), (b'{"event":"download"}\n', True)])
def test_whoever_hangs_up_after_the_last_word_has_not_broken_off(last: bytes, broke_off: bool) -> None:
    read, written = os.pipe()
    wire = Wire(read)
    os.write(written, last)
    os.close(written)

    assert (wire.next(), wire.broke_off()) == (last, broke_off)
    os.close(read)


def test_what_was_said_before_a_hang_up_is_heard() -> None:
    """Also while an object is at hand: it is brought to its end, and nothing was broken off."""
    read, written = os.pipe()
    wire, last = Wire(read), b'{"event":"terminate"}\n'
    os.write(written, b'{"event":"download"}\n')
    assert wire.next() == b'{"event":"download"}\n'
    os.write(written, last)
    os.close(written)

    assert not wire.broke_off()
    assert wire.next() == last
    os.close(read)


def test_the_worker_file_runs_alone() -> None:
    """git-lfs starts it by its path: it may not need anything that -I and -S take away."""
    done = subprocess.run(
        [sys.executable, "-I", "-S", WORKER],
        input=b'{"event":"terminate"}\n',
        capture_output=True,
        check=False,
        cwd="/",
    )
    assert (done.stdout, b"Traceback" in done.stderr) == (b"", False)
