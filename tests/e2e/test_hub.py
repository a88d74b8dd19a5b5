"""The hub: one process for the small objects of several workers, whose conversations take turns."""

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from hashlib import sha256
from pathlib import Path

import pytest

from tests.e2e.dialogue import (
    BY_DOOR,
    WORKER,
    Agent,
    Message,
    is_alive,
    left_in_tmp,
    new_object,
    push,
    wait_for,
    workers_in,
)
from tests.machine import Home
from tests.proxy import ACCESS_DENIED, SLOW_DOWN, FaultProxy, Faults, Flip, Rule, Stall
from tests.servers import Server

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or not os.access("/usr/bin/perl", os.X_OK),
    reason="without Linux and Perl there is no hub: each worker loads everything itself",
)

LARGE = 600_000
"""Bytes of an object that needs a process of its own."""


Team = Callable[..., Sequence[Agent]]


@pytest.fixture
def team(home: Home, work: Path, agents: ExitStack) -> Team:
    """So many workers that have moved an object each: the first loaded everything, the others are in the hub."""

    def hired(count: int, operation: str = "upload", **env: str) -> Sequence[Agent]:
        workers = [agents.enter_context(Agent(home, work, command=BY_DOOR, env=env)) for _ in range(count)]
        for number, agent in enumerate(workers):
            agent.init(operation)
            if operation == "upload":
                push(agent, work, 1000 + number)
        return workers

    return hired


def proxied(home: Home, server: Server, agents: ExitStack, *rules: Rule) -> FaultProxy:
    """In front of the server, from now on."""
    proxy = agents.enter_context(FaultProxy(server.endpoint, Faults(rules)))
    home.environ["AWS_ENDPOINT_URL_S3"] = proxy.endpoint
    return proxy


def record_of(work: Path) -> list[Message]:
    """What the sessions have written down."""
    sessions = work / ".git" / "lfs" / "lfs-agent" / "sessions"
    return [json.loads(line) for path in sessions.glob("*.jsonl") for line in path.read_text().splitlines()]


@pytest.fixture
def stalled(team: Team, home: Home, work: Path, any_server: Server, agents: ExitStack) -> Sequence[Agent]:
    """Three workers, the second of which uploads an object to which the store does not answer."""
    oid, path = new_object(work, 1)
    proxy = proxied(home, any_server, agents, Rule(Stall("request-head", 30), method="PUT", target=oid))
    workers = team(3)
    workers[1].upload(oid, path)
    wait_for(lambda: any(oid in seen.path for seen in proxy.requests), 10)
    return workers


def test_small_objects_of_all_but_the_first_worker_are_of_one_process(team: Team, work: Path) -> None:
    workers = team(4)

    first, *others = workers_in(work)
    assert first == workers[0].process.pid
    assert len(set(others)) == 1
    assert others[0] not in [worker.process.pid for worker in workers]
    assert [worker.end() for worker in workers] == [0, 0, 0, 0]
    wait_for(lambda: not is_alive(others[0]), 5)
    assert [note["objects"] for note in record_of(work) if note["event"] == "ended"] == [1, 1, 1, 1]


def test_while_one_waits_for_the_store_another_goes_on(
    team: Team, home: Home, work: Path, any_server: Server, agents: ExitStack
) -> None:
    oid, path = new_object(work, 1)
    proxy = proxied(home, any_server, agents, Rule(Stall("answer-head", 3), method="PUT", target=oid))
    _, second, third = team(3)

    second.upload(oid, path)

    def ends() -> list[float | None]:
        return [seen.ended for seen in proxy.requests if oid in seen.path and seen.method == "PUT"]

    wait_for(lambda: bool(ends()), 10)
    for seed in range(2, 7):
        push(third, work, seed)
    assert ends() == [None]

    messages = second.until_complete()
    assert messages[-1] == {"event": "complete", "oid": oid}
    assert len(messages) > 3  # it was said that it lives


def test_a_large_object_gets_a_process_of_its_own(team: Team, work: Path, any_server: Server, bucket: str) -> None:
    first, second, third = team(3)
    hub = workers_in(work)[-1]

    oids = [push(second, work, 1, LARGE), push(second, work, 2), push(third, work, 3)]

    *_, own = workers_in(work)
    assert own not in (hub, first.process.pid, second.process.pid, third.process.pid)
    assert {key.rpartition("/")[2] for key in any_server.keys(bucket)} >= {*oids}
    assert second.end() == 0
    wait_for(lambda: not is_alive(own), 5)
    assert is_alive(hub)
    assert (third.end(), first.end()) == (0, 0)
    wait_for(lambda: not is_alive(hub), 5)


def test_who_comes_later_waits_as_long_for_the_store_as_those_whom_it_has_answered(
    team: Team, home: Home, work: Path, any_server: Server, agents: ExitStack
) -> None:
    oid, _ = new_object(work, 1, LARGE)
    proxied(home, any_server, agents, Rule(Stall("answer-head", 7), target=oid, times=1))
    _, second, _ = team(3, LFS_AGENT_FIRST_DEADLINE="5")

    push(second, work, 1, LARGE)  # in a process of its own, which has asked the store for nothing yet


def test_where_nobody_forks_any_more_a_worker_does_a_large_object_itself(team: Team, work: Path) -> None:
    first, second, third = team(3)
    first.process.kill()
    first.process.wait()

    push(second, work, 1, LARGE)
    push(third, work, 2)
    push(second, work, 3)

    assert second.process.pid in workers_in(work)
    assert (second.end(), third.end()) == (0, 0)


def test_no_conversation_is_lost_between_a_hub_that_ends_and_the_next(
    team: Team, work: Path, agents: ExitStack
) -> None:
    """It hands back its last conversation, and ends, while somebody asks for a new one."""
    first = team(1)[0]
    for seed in range(30):
        last, new = (agents.enter_context(Agent(first.home, work, command=BY_DOOR)) for _ in range(2))
        for agent in (last, new):
            agent.init("upload")
        push(last, work, 5000 + seed)
        objects = [new_object(work, 6000 + seed), new_object(work, 7000 + seed, LARGE)]
        new.upload(*objects[0])
        time.sleep(seed * 0.0004)
        last.upload(*objects[1])
        assert [agent.until_complete()[-1]["oid"] for agent in (new, last)] == [oid for oid, _ in objects]
        assert (last.end(), new.end()) == (0, 0)


@pytest.mark.parametrize("descriptors", [32, 64])
def test_where_no_descriptor_is_left_nobody_waits_for_ever(
    home: Home, work: Path, agents: ExitStack, descriptors: int
) -> None:
    command = ("/bin/sh", "-c", f'ulimit -n {descriptors}; exec "$@"', "sh", *BY_DOOR)
    workers = [agents.enter_context(Agent(home, work, command=command)) for _ in range(8)]
    for agent in workers:
        agent.init("upload")
    push(workers[0], work, 1)
    objects = [new_object(work, seed) for seed in range(2, 9)]

    for agent, (oid, path) in zip(workers[1:], objects, strict=True):
        agent.upload(oid, path)

    for agent, (oid, _) in zip(workers[1:], objects, strict=True):
        assert agent.until_complete()[-1] == {"event": "complete", "oid": oid}


def test_what_comes_for_who_has_gone_is_written_to_nobody_s_file(
    team: Team, home: Home, work: Path, any_server: Server, agents: ExitStack
) -> None:
    """A first answer is waited for in a thread, which may outlive the conversation, and the number of its file."""
    (uploader,) = team(1)
    plain, held, gone, other = (push(uploader, work, seed, 400_000) for seed in range(4))
    uploader.end()
    proxied(
        home,
        any_server,
        agents,
        Rule(Stall("answer-head", 3.5), method="GET", target=held),
        Rule(Stall("answer-head", 2.5), method="GET", target=gone),
        Rule(Stall("answer-body", 3, at=0.9), method="GET", target=other),
    )
    first, second, third, fourth = team(4, "download")
    first.download(plain, 400_000)
    first.until_complete()  # it has loaded all
    second.download(held, 400_000)
    third.download(gone, 400_000)
    time.sleep(0.3)
    third.process.kill()
    time.sleep(0.4)
    fourth.download(other, 400_000)

    for agent, oid in ((second, held), (fourth, other)):
        path = Path(agent.until_complete()[-1]["path"])
        assert sha256(path.read_bytes()).hexdigest() == oid


def test_what_was_said_ahead_is_answered_by_the_hub(team: Team, work: Path) -> None:
    """git-lfs says nothing before it has an answer; another one may."""
    _, second = team(2)
    before = workers_in(work)
    (large, path), (small, other) = new_object(work, 1, LARGE), new_object(work, 2)

    lines = [
        {"event": "upload", "oid": oid, "size": file.stat().st_size, "path": str(file), "action": None}
        for oid, file in ((large, path), (small, other))
    ]
    second.send(b"".join(json.dumps(line).encode() + b"\n" for line in lines))

    assert [second.until_complete()[-1] for _ in lines] == [{"event": "complete", "oid": o} for o in (large, small)]
    assert workers_in(work) == before
    assert second.end() == 0


def test_a_request_that_is_too_long_to_be_handed_over_is_answered_by_the_hub(team: Team, work: Path) -> None:
    """What an LFS server says beside it (`action`) may be as long as it likes."""
    _, second = team(2)
    before = workers_in(work)
    oid, path = new_object(work, 1, LARGE)

    second.say(event="upload", oid=oid, size=LARGE, path=str(path), action={"header": {"X": "x" * 200_000}})

    assert second.until_complete()[-1] == {"event": "complete", "oid": oid}
    assert workers_in(work) == before


@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGKILL])
def test_one_conversation_ends_with_its_process_and_the_others_go_on(
    stalled: Sequence[Agent], work: Path, by: signal.Signals
) -> None:
    _, second, third = stalled

    second.process.send_signal(by)
    second.process.wait(10)

    wait_for(lambda: any(note["event"] == "failed" for note in record_of(work)), 5)
    push(third, work, 2)
    assert third.end() == 0


def test_a_hub_that_is_told_to_stop_stops_all(stalled: Sequence[Agent], work: Path) -> None:
    first, second, third = stalled

    os.kill(workers_in(work)[-1], signal.SIGTERM)

    assert [agent.process.wait(5) for agent in (second, third)] == [130, 130]
    push(first, work, 2)
    assert first.end() == 0


def test_a_hub_that_is_killed_is_no_success(team: Team, work: Path) -> None:
    first, second, third = team(3)

    os.kill(workers_in(work)[-1], signal.SIGKILL)

    assert [agent.process.wait(10) for agent in (second, third)] == [1, 1]
    push(first, work, 1)
    fourth = team(1)[0]
    assert (fourth.end(), first.end()) == (0, 0)


def test_a_hang_up_in_the_midst_of_an_object_ends_that_conversation(stalled: Sequence[Agent], work: Path) -> None:
    _, second, third = stalled

    second.stdin.close()

    assert second.process.wait(5) == 130
    push(third, work, 2)


def test_who_has_to_wait_before_it_asks_again_lets_others_go_on(
    team: Team, home: Home, work: Path, any_server: Server, agents: ExitStack
) -> None:
    oid, path = new_object(work, 1)
    proxied(home, any_server, agents, Rule(SLOW_DOWN, method="PUT", target=oid, times=4))
    _, second, third = team(3)

    second.upload(oid, path)
    pushed = [push(third, work, seed) for seed in range(2, 5)]
    assert second.until_complete()[-1] == {"event": "complete", "oid": oid}
    second.end()
    third.end()

    retried = [note for note in record_of(work) if note["event"] == "retry"]
    assert [note["oid"] for note in retried] == [oid] * 4
    ended = [note for note in record_of(work) if note["event"] == "ended"]
    assert {(note["objects"], note["retries"]) for note in ended} == {(2, 4), (1 + len(pushed), 0)}


def test_an_object_that_fails_is_one(team: Team, home: Home, work: Path, any_server: Server, agents: ExitStack) -> None:
    oid, path = new_object(work, 1)
    proxy = proxied(home, any_server, agents, Rule(ACCESS_DENIED, method="PUT", target=oid))
    _, second, third = team(3)

    second.upload(oid, path)
    answer = second.until_complete()[-1]

    assert "403" in answer["error"]["message"]
    assert len([seen for seen in proxy.requests if oid in seen.path and seen.method == "PUT"]) == 1
    push(third, work, 2)
    push(second, work, 3)
    assert (second.end(), third.end()) == (0, 0)


def test_one_request_at_a_time_where_the_user_wants_that(team: Team, work: Path) -> None:
    """Who waits for a lane lets the one go on that is in it."""
    first, *others = team(4, LFS_AGENT_CONCURRENCY="1")
    objects = [new_object(work, seed) for seed in range(4)]

    for agent, (oid, path) in zip((first, *others), objects, strict=True):
        agent.upload(oid, path)

    for agent, (oid, _) in zip((first, *others), objects, strict=True):
        assert agent.until_complete()[-1] == {"event": "complete", "oid": oid}


def test_a_bandwidth_is_kept_to_outside_of_the_hub(team: Team, work: Path) -> None:
    team(3, LFS_AGENT_BANDWIDTH="10MB/s")

    assert len(set(workers_in(work))) == 3


def test_one_object_that_two_ask_for_is_handed_to_each(
    team: Team, home: Home, work: Path, any_server: Server, bucket: str, agents: ExitStack
) -> None:
    (uploader,) = team(1)
    oid = push(uploader, work, 1)
    uploader.end()
    content = (work / ".git/lfs/objects" / oid[:2] / oid[2:4] / oid).read_bytes()
    first, second, third = team(3, "download")
    first.download(oid, len(content))
    paths = [Path(first.until_complete()[-1]["path"])]

    for agent in (second, third):
        agent.download(oid, len(content))
    paths += [Path(agent.until_complete()[-1]["path"]) for agent in (second,)]
    paths[1].rename(work / "second")  # as git-lfs does, before it says more
    second.end()
    paths += [Path(agent.until_complete()[-1]["path"]) for agent in (third,)]

    assert len({*paths}) == 3
    assert [path.read_bytes() for path in (paths[0], work / "second", paths[2])] == [content] * 3


def test_a_byte_that_flips_on_the_way_down_is_found(
    team: Team, home: Home, work: Path, any_server: Server, agents: ExitStack
) -> None:
    (uploader,) = team(1)
    oids = [push(uploader, work, seed) for seed in (1, 2, 3)]
    uploader.end()
    proxied(home, any_server, agents, Rule(Flip("answer-body"), method="GET", target=oids[1]))
    first, second, third = team(3, "download")

    answers = []
    for agent, oid in zip((first, second, third), oids, strict=True):
        agent.download(oid, 20_000)
        answers.append(agent.until_complete()[-1])

    assert len({*workers_in(work)[-2:]}) == 1
    assert ["path" in answer for answer in answers] == [True, False, True]
    assert "is damaged" in answers[1]["error"]["message"]
    assert not [name for name in left_in_tmp(work / ".git/lfs") if oids[1] in name]


def faulty(folder: Path, method: str) -> tuple[str, ...]:
    """The command of a worker with a fault of ours in this method, where an object has 4321 bytes."""
    fault = folder / "worker.py"
    fault.write_text(
        f"import sys; sys.path[:0] = [{str(WORKER.parent.parent)!r}]\n"
        "import site; site.main()\n"
        "from lfs_agent import worker, agent\n"
        f"whole = agent.Worker.{method}\n"
        "def fault(self, *arguments):\n"
        "    if any(getattr(each, 'size', 0) == 4321 for each in arguments): 1 / 0\n"
        "    return whole(self, *arguments)\n"
        f"agent.Worker.{method} = fault\n"
        "sys.exit(worker.main())\n"
    )
    (folder / "door.pl").write_bytes(WORKER.with_name("door.pl").read_bytes())
    return "/bin/sh", str(WORKER.with_name("door.sh")), sys.executable, str(fault)


def test_a_fault_of_ours_fails_one_object_with_a_sentence(
    home: Home, work: Path, agents: ExitStack, tmp_path: Path
) -> None:
    command = faulty(tmp_path, "_transfer")
    sentence = "unexpected ZeroDivisionError: division by zero; please report it"
    workers = [agents.enter_context(Agent(home, work, command=command)) for _ in range(2)]
    for seed, agent in enumerate(workers):
        agent.init("upload")
        push(agent, work, seed)

    for seed, agent in enumerate(workers):  # the first in a process of its own, the second in the hub
        oid, path = new_object(work, 9, 4321)
        agent.upload(oid, path)
        failed = agent.until_complete()[-1]
        assert (failed["oid"], failed["error"]["message"]) == (oid, sentence)
        push(agent, work, 10 + seed)
        assert agent.end() == 0


def test_a_fault_of_ours_ends_one_conversation(home: Home, work: Path, agents: ExitStack, tmp_path: Path) -> None:
    command = faulty(tmp_path, "_object")
    first, second, third = (agents.enter_context(Agent(home, work, command=command)) for _ in range(3))
    for seed, agent in enumerate((first, second, third)):
        agent.init("upload")
        push(agent, work, seed)

    second.upload(*new_object(work, 9, 4321))

    assert second.process.wait(10) == 130
    assert "ZeroDivisionError" in second.stderr
    push(third, work, 10)
    assert third.end() == 0


def test_what_ends_all_is_told_once(team: Team, home: Home, work: Path, any_server: Server, agents: ExitStack) -> None:
    """A bucket that is gone, as the hub meets it: the others are not tried."""
    with ExitStack() as server:
        proxied(home, any_server, server)
        workers = team(4, LFS_AGENT_DEADLINE="2")
    began = time.monotonic()

    for seed, agent in enumerate(workers):
        agent.upload(*new_object(work, seed))
    told = [agent.until_complete()[-1]["error"]["message"] for agent in workers]

    assert len([message for message in told if "not tried" not in message]) == 1
    assert time.monotonic() - began < 60
