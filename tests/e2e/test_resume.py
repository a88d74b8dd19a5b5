"""A push or pull that was killed goes on where it was (T2, T3)."""

from collections import Counter
from pathlib import Path

from lfs_agent.parts import MIB
from tests.cellar import Cellar
from tests.e2e.dialogue import kill_git
from tests.proxy import FaultProxy, Faults, Rule, Throttle
from tests.servers import Server

SIZE = 96 * MIB
PART = 16 * MIB
SLOW = Throttle(up=48 * MIB, down=48 * MIB)


def test_a_killed_push_sends_only_the_missing_parts(any_server: Server, cellar: Cellar) -> None:
    oid = cellar.add("vit-l/1.0/weights.bin", SIZE, seed=1)

    with FaultProxy(any_server.endpoint, Faults((Rule(SLOW, target="partNumber"),))) as proxy:
        kill_git(cellar.home, cellar.work, ["push", "origin", "main"], proxy, lambda: _done(proxy, "PUT") >= 3)
        before = [seen for seen in proxy.requests if seen.method == "PUT" and seen.status == 200]
        assert cellar.keys() == []
        mark = any_server.mark()
        proxy.faults = Faults(())
        cellar.home.git("push", "origin", "main", cwd=cellar.work, env={"AWS_ENDPOINT_URL_S3": proxy.endpoint})

    asked = Counter(request.operation for request in any_server.requests(mark))
    assert 1 <= asked["UploadPart"] <= SIZE // PART - len(before)
    assert asked["CompleteMultipartUpload"] == 1
    assert asked["CreateMultipartUpload"] == 0
    assert cellar.keys() == [cellar.key(oid)]
    assert any_server.client().head_object(Bucket=cellar.bucket, Key=cellar.key(oid))["ContentLength"] == SIZE
    assert _left(cellar.work) == []


def test_a_killed_pull_asks_only_for_the_missing_bytes(any_server: Server, cellar: Cellar, tmp_path: Path) -> None:
    oid = cellar.add("vit-l/1.0/weights.bin", SIZE, seed=2)
    cellar.push("origin", "main")
    clone = tmp_path / "clone"
    cellar.home.git("clone", "-q", str(cellar.origin), str(clone), env={"GIT_LFS_SKIP_SMUDGE": "1"})

    with FaultProxy(any_server.endpoint, Faults((Rule(SLOW, method="GET"),))) as proxy:
        kill_git(cellar.home, clone, ["lfs", "pull"], proxy, lambda: _done(proxy, "GET") >= 3)
        first = list(proxy.requests)
        assert not cellar.local_object(oid, clone).exists()
        proxy.faults = Faults(())
        cellar.home.git("lfs", "pull", cwd=clone, env={"AWS_ENDPOINT_URL_S3": proxy.endpoint})

    had = {seen.headers["range"] for seen in first if seen.method == "GET" and seen.response_bytes >= PART}
    again = [seen.headers["range"] for seen in proxy.requests[len(first) :] if seen.method == "GET"]
    assert 1 <= len(again) < SIZE // PART
    assert len(set(again) & had) <= 2  # arrived, and not noted yet: one for each stream
    assert (clone / "vit-l/1.0/weights.bin").read_bytes() == (cellar.work / "vit-l/1.0/weights.bin").read_bytes()
    assert _left(clone) == []


def _done(proxy: FaultProxy, method: str) -> int:
    return sum(seen.method == method and seen.ended is not None for seen in proxy.requests)


def _left(work: Path) -> list[Path]:
    storage = work / ".git" / "lfs"
    return [path for folder in ("tmp", "incomplete") for path in (storage / folder).rglob("*") if path.is_file()]
