"""What all workers of a push do together: ask again, and fewer at once, where the store has too much to do; limits."""

import os
import signal
import subprocess
import time
from dataclasses import replace

from tests.cellar import Cellar
from tests.e2e.dialogue import processes_of, wait_for
from tests.e2e.test_faults import through, use
from tests.proxy import INTERNAL_ERROR, SLOW_DOWN, Rule, Seen, Stall, Throttle
from tests.servers import Server

MIB = 1 << 20


def test_a_push_has_one_budget_of_repetitions(cellar: Cellar, any_server: Server) -> None:
    for number in range(60):
        cellar.write(f"{number}.bin", 1000, number)
    cellar.commit("Fill the cellar")
    with through(cellar, any_server, Rule(INTERNAL_ERROR, method="PUT")) as proxy:
        use(cellar, proxy)
        cellar.home.environ["LFS_AGENT_RETRIES"] = "20"
        pushed = cellar.push(check=False)
        puts = [seen for seen in proxy.requests if seen.method == "PUT"]
        looks = [seen for seen in proxy.requests if seen.method == "HEAD"]

    assert pushed.returncode != 0
    assert pushed.stderr.count("asked again too often (20 times more than anything succeeded)") == 1, pushed.stderr
    # Each look that succeeded gave one back; and each worker may have been at its last.
    assert len(puts) <= 20 + 2 * len(looks) + 8
    assert len(looks) < 60  # most were not tried at all
    cellar.home.environ["AWS_ENDPOINT_URL_S3"] = any_server.endpoint
    cellar.push()
    assert len(cellar.keys()) == 60


def under_way(requests: list[Seen], at: float) -> int:
    return sum(seen.at <= at < (seen.ended or at) for seen in requests)


def test_a_store_that_asks_for_fewer_requests_gets_fewer_at_once(cellar: Cellar, any_server: Server) -> None:
    oid = cellar.add("model.safetensors", 80 * MIB)  # 16 parts
    busy = Rule(SLOW_DOWN, method="PUT", target="partNumber", nth=9, times=1)
    with through(cellar, any_server, busy, Rule(Throttle(up=60 * MIB))) as proxy:
        use(cellar, proxy)
        cellar.home.environ["LFS_AGENT_STREAMS"] = "8"
        cellar.push()
        parts = [seen for seen in proxy.requests if "partNumber" in seen.query]
        told = next(seen.ended or 0 for seen in parts if seen.fault)

    assert cellar.keys() == [cellar.key(oid)]
    assert max(under_way(parts, seen.at) for seen in parts if seen.at < told) == 8
    assert max(under_way(parts, seen.at) for seen in parts if seen.at > told) < 8  # four, and more after successes


def test_all_workers_together_keep_to_a_bandwidth(cellar: Cellar, any_server: Server) -> None:
    """How near they come to it, both ways: make soak."""
    rate = 100 * 1024
    for number in range(8):
        cellar.write(f"{number}.bin", MIB, number)
    cellar.commit("Fill the cellar")
    with through(cellar, any_server) as proxy:
        use(cellar, proxy)
        environ = cellar.home.environ | {"LFS_AGENT_BANDWIDTH": "100KB/s"}
        with subprocess.Popen(
            ["git", "push", "-q", "origin", "HEAD"], cwd=cellar.work, env=environ, start_new_session=True
        ) as push:
            wait_for(lambda: sum(seen.method == "PUT" for seen in proxy.requests) == 8, 60)
            began, before = time.monotonic(), sum(seen.request_bytes for seen in proxy.requests)
            time.sleep(2.5)
            moved = sum(seen.request_bytes for seen in proxy.requests) - before
            seconds = time.monotonic() - began
            os.killpg(push.pid, signal.SIGTERM)
        wait_for(lambda: processes_of(cellar.home) == {}, 15)

    assert 0 < moved < rate * (seconds + 1)  # what is on its way already is far less than a second's


def test_all_workers_together_have_no_more_requests_under_way_than_they_may(cellar: Cellar, any_server: Server) -> None:
    for number in range(6):
        cellar.write(f"{number}.bin", 1000, number)
    cellar.write("model.safetensors", 20 * MIB)  # four parts
    cellar.commit("Fill the cellar")
    with through(cellar, any_server, Rule(Stall("answer-head", 0.3))) as proxy:
        use(cellar, proxy)
        cellar.home.environ["LFS_AGENT_CONCURRENCY"] = "3"
        cellar.push()
        requests = proxy.requests

    assert len(cellar.keys()) == 7
    # For so long each is under way at least, whenever the proxy finds the time to note its end.
    counted = [replace(seen, ended=seen.at + 0.3) for seen in requests]
    assert max(under_way(counted, seen.at) for seen in counted) == 3
