"""A store that has too much to do: the workers of a push ask again together, not each for itself, and fewer at once."""

from tests.cellar import Cellar
from tests.e2e.test_faults import through, use
from tests.proxy import INTERNAL_ERROR, SLOW_DOWN, Rule, Seen, Throttle
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
