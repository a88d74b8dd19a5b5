"""Proxies as the AWS tools and git have them; the profile that a cellar recommends."""

import json

import pytest

from tests.cellar import Cellar
from tests.proxy import FaultProxy, Faults


@pytest.mark.parametrize("way", ["http.proxy", "HTTP_PROXY", "NO_PROXY", "both"])
def test_requests_go_through_the_users_proxy(cellar: Cellar, way: str) -> None:
    """git's proxy where the environment names none; past any for a host of NO_PROXY."""
    oid = cellar.add("vit-l/1.0/weights.bin", 1000, seed=1)
    with FaultProxy(cellar.server.endpoint, Faults(())) as proxy, FaultProxy("http://127.0.0.1:1", Faults(())) as other:
        environ = {"HTTP_PROXY": {"http_proxy": proxy.endpoint}, "NO_PROXY": {"no_proxy": "127.0.0.1"}}.get(way, {})
        if way == "both":
            environ = {"http_proxy": proxy.endpoint}
            cellar.home.git("config", "--global", "http.proxy", other.endpoint)
        elif way != "HTTP_PROXY":
            cellar.home.git("config", "--global", "http.proxy", proxy.endpoint)
        cellar.home.git("push", "origin", "main", cwd=cellar.work, env=environ)
        asked = [seen.method for seen in proxy.requests]
        assert other.requests == []

    assert cellar.keys() == [cellar.key(oid)]
    assert asked == ([] if way == "NO_PROXY" else ["HEAD", "PUT"])


def test_a_recommended_profile_that_is_not_here_is_ignored_with_a_line_in_the_record(cellar: Cellar) -> None:
    (cellar.work / ".mlcellar.toml").write_text('[aws]\nprofile = "vineyard"\n')
    oid = cellar.add("vit-l/1.0/weights.bin", 1000, seed=1)

    cellar.push("origin", "main")

    assert cellar.keys() == [cellar.key(oid)]
    (record,) = (cellar.work / ".git/lfs/lfs-agent/sessions").glob("*.jsonl")
    events = [json.loads(line) for line in record.read_text().splitlines()]
    assert [event["profile"] for event in events if event["event"] == "profile passed over"] == ["vineyard"]
