"""A push or pull that was killed goes on where it was (T2, T3)."""

import uuid
from collections import Counter
from hashlib import sha256
from pathlib import Path

import pytest

from lfs_agent.parts import MIB
from tests.cellar import Cellar, random_bytes
from tests.conftest import ServerOf
from tests.e2e.dialogue import Agent, kill_git, new_repository
from tests.machine import Home
from tests.proxy import SLOW_DOWN, FaultProxy, Faults, Rule, Throttle
from tests.servers import Server, is_ledger

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


RENEWED = {"AWS_SESSION_TOKEN": "renewed", "AWS_ACCOUNT_ID": "111111111111"}
ANOTHER = {"AWS_SESSION_TOKEN": "another", "AWS_ACCOUNT_ID": "222222222222"}


@pytest.mark.parametrize("after, goes_on", [(RENEWED, True), (ANOTHER, False)], ids=["renewed keys", "another account"])
def test_an_upload_is_taken_up_by_the_same_account_only(
    server_of: ServerOf, home: Home, tmp_path: Path, after: dict[str, str], goes_on: bool
) -> None:
    """Over LocalStack, which takes any keys. Who is the same is told by tests/contract/test_transfer.py."""
    server = server_of("localstack")
    bucket = f"by-account-{uuid.uuid4().hex[:12]}"
    client = server.client()
    client.create_bucket(Bucket=bucket)
    home.environ |= server.environ() | {"LFS_AGENT_PART_SIZE": "5MiB"}
    home.environ |= {"AWS_SESSION_TOKEN": "first", "AWS_ACCOUNT_ID": "111111111111"}
    home.install()
    cellar = Cellar(home, server, bucket, "cellar", tmp_path / "origin.git", tmp_path / "work")
    cellar.build()
    oid = cellar.add("weights.bin", 12 * MIB)
    with FaultProxy(server.endpoint, Faults((Rule(SLOW_DOWN, "PUT", "partNumber=2"),))) as proxy:
        home.environ["AWS_ENDPOINT_URL_S3"] = proxy.endpoint
        stopped = home.git("push", "origin", "HEAD", cwd=cellar.work, check=False, env={"LFS_AGENT_DEADLINE": "1"})
        (first,) = client.list_multipart_uploads(Bucket=bucket)["Uploads"]
        proxy.faults = Faults()
        mark = server.mark()
        home.git("push", "origin", "HEAD", cwd=cellar.work, env=after | {"AWS_ACCESS_KEY_ID": "other"})

    assert stopped.returncode != 0
    asked = Counter(request.operation for request in server.requests(mark) if request.bucket == bucket)
    assert asked["CreateMultipartUpload"] == (0 if goes_on else 1)
    assert client.get_object(Bucket=bucket, Key=cellar.key(oid))["Body"].read() == random_bytes(12 * MIB, 0)
    left = client.list_multipart_uploads(Bucket=bucket).get("Uploads", [])
    assert [upload["UploadId"] for upload in left] == ([] if goes_on else [first["UploadId"]])


def test_an_upload_is_taken_up_in_the_same_storage_class_only(server_of: ServerOf, home: Home, tmp_path: Path) -> None:
    """Over LocalStack, which shows it."""
    server = server_of("localstack")
    bucket = f"by-class-{uuid.uuid4().hex[:12]}"
    client = server.client()
    client.create_bucket(Bucket=bucket)
    home.environ |= server.environ() | {"LFS_AGENT_PART_SIZE": "5MiB"}
    home.install()
    cellar = Cellar(home, server, bucket, "cellar", tmp_path / "origin.git", tmp_path / "work")
    cellar.build()
    oid = cellar.add("weights.bin", 12 * MIB)

    def begun(env: dict[str, str]) -> int:
        """How many uploads a push begins."""
        mark = server.mark()
        home.git("push", "origin", "HEAD", cwd=cellar.work, check=False, env=env)
        asked = Counter(request.operation for request in server.requests(mark) if request.bucket == bucket)
        return asked["CreateMultipartUpload"]

    rarely = {"LFS_AGENT_STORAGE_CLASS": "STANDARD_IA"}
    with FaultProxy(server.endpoint, Faults((Rule(SLOW_DOWN, "PUT", "partNumber=2"),))) as proxy:
        home.environ |= {"AWS_ENDPOINT_URL_S3": proxy.endpoint, "LFS_AGENT_DEADLINE": "1"}
        assert [begun({}), begun(rarely)] == [1, 1]
        proxy.faults = Faults()
        assert begun(rarely) == 0

    assert client.head_object(Bucket=bucket, Key=cellar.key(oid))["StorageClass"] == "STANDARD_IA"
    assert "Uploads" not in client.list_multipart_uploads(Bucket=bucket)


def _done(proxy: FaultProxy, method: str) -> int:
    of_objects = (seen for seen in proxy.requests if not is_ledger(seen.path))
    return sum(seen.method == method and seen.ended is not None for seen in of_objects)


def _left(work: Path) -> list[Path]:
    storage = work / ".git" / "lfs"
    return [path for folder in ("tmp", "incomplete") for path in (storage / folder).rglob("*") if path.is_file()]


def test_what_arrived_and_git_lfs_was_killed_before_it_took_it_is_not_fetched_again(
    any_server: Server, home: Home, bucket: str, tmp_path: Path
) -> None:
    home.environ |= any_server.environ() | {"LFS_AGENT_PART_SIZE": "5MiB"}
    work = new_repository(home, tmp_path / "work", f"s3::{bucket}/cellar")
    content = random_bytes(12 * MIB, 3)
    oid = sha256(content).hexdigest()
    any_server.client().put_object(Bucket=bucket, Key=f"cellar/{oid[:2]}/{oid[2:4]}/{oid}", Body=content)
    with Agent(home, work) as agent:
        agent.init("download")
        agent.download(oid, len(content))
        agent.until_complete()
        agent.process.kill()
        agent.process.wait()
    mark = any_server.mark()
    with Agent(home, work) as agent:
        agent.init("download")
        agent.download(oid, len(content))
        path = Path(agent.until_complete()[-1]["path"])

    assert path.read_bytes() == content
    assert [request for request in any_server.requests(mark) if request.bucket == bucket] == []
    assert _left(work) == [path]
