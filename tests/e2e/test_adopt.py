"""`lfs-agent init` adopts what other agents stored: it is found, proven, and not sent again (C10)."""

import subprocess
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest

from tests.cellar import Cellar, random_bytes
from tests.conftest import absent
from tests.machine import Home
from tests.servers import Server, cache

SIZES = (1000, 300_000)
Peer = Callable[[Cellar], str]
"""Configures a clone as the other agent's manual says; the part of the keys before the oid."""


def lfs_dal(cellar: Cellar) -> str:
    server = cellar.server
    settings = {"scheme": "s3", "bucket": cellar.bucket, "root": "/old/weights", "region": "us-east-1"}
    for key, value in {**settings, "endpoint": server.endpoint}.items():
        cellar.git("config", "--file", ".lfsdalconfig", f"lfs-dal.{key}", value)
    cellar.git("config", "--file", ".lfsconfig", "lfs.url", "lfs-dal")
    cellar.git("config", "lfs-dal.access-key-id", server.access_key)
    cellar.git("config", "lfs-dal.secret-access-key", server.secret_key)
    cellar.git("config", "lfs.standalonetransferagent", "lfs-dal")
    cellar.git("config", "lfs.customtransfer.lfs-dal.path", cache() / "bin" / "lfs-dal")
    return "old/weights/"


def lfs_s3(cellar: Cellar) -> str:
    server = cellar.server
    arguments = (
        f"--access_key_id={server.access_key} --secret_access_key={server.secret_key} --bucket={cellar.bucket} "
        f"--endpoint={server.endpoint} --region us-east-1 --root_path=old --use_path_style=true --compression=none"
    )
    cellar.git("config", "lfs.customtransfer.lfs-s3.path", "lfs-s3")
    cellar.git("config", "lfs.customtransfer.lfs-s3.args", arguments)
    cellar.git("config", "lfs.standalonetransferagent", "lfs-s3")
    return "old/"


def git_remote_s3(cellar: Cellar) -> str:
    cellar.git("remote", "add", "store", f"s3://{cellar.bucket}/old/cellar")
    cellar.git("config", "lfs.customtransfer.git-lfs-s3.path", cache() / "bin" / "git-lfs-s3")
    cellar.git("config", "lfs.standalonetransferagent", "git-lfs-s3")
    return "old/cellar/lfs/"


@pytest.fixture
def old(cellar: Cellar) -> Cellar:
    """A cellar whose store nobody has named, with objects that were not pushed."""
    cellar.git("rm", "-q", ".lfsconfig")
    for number, size in enumerate(SIZES):
        cellar.write(f"vit-l/{number}.bin", size, seed=number)
    cellar.commit("Fill the cellar")
    return cellar


def init(cellar: Cellar, *arguments: str) -> subprocess.CompletedProcess[str]:
    return cellar.home.run("lfs-agent", "init", *arguments, cwd=cellar.work, check=False)


def adopt(cellar: Cellar, prefix: str) -> None:
    """One command and one commit; the objects are found, proven, and nothing is sent."""
    done = init(cellar)
    assert done.returncode == 0, done.stderr
    assert cellar.server.secret_key not in done.stdout
    cellar.git("commit", "-q", "-m", "Name the store")
    for line in done.stdout.splitlines():
        if line.startswith("  lfs-agent trust "):
            cellar.home.run("sh", "-c", line.split("(")[0], cwd=cellar.work)

    mark = cellar.server.mark()
    verified = cellar.home.run("lfs-agent", "verify", "--deep", cwd=cellar.work)
    assert "2 present (2 proven)" in verified.stdout
    cellar.git("lfs", "push", "--all", "origin")
    requests = [request for request in cellar.server.requests(mark) if request.bucket == cellar.bucket]
    assert {request.method for request in requests if request.status < 300} <= {"GET", "HEAD"}
    oids = [sha256(random_bytes(size, number)).hexdigest() for number, size in enumerate(SIZES)]
    assert {request.key for request in requests if request.key} == {prefix + oid for oid in oids}


@pytest.mark.parametrize("peer", [lfs_dal, lfs_s3, git_remote_s3])
def test_what_another_agent_stored_is_found_proven_and_not_sent_again(
    old: Cellar, second_home: Home, tmp_path: Path, peer: Peer
) -> None:
    """Laid out as that agent lays its objects."""
    prefix = peer(old)
    client = old.server.client()
    for number, size in enumerate(SIZES):
        content = random_bytes(size, number)
        client.put_object(Bucket=old.bucket, Key=prefix + sha256(content).hexdigest(), Body=content)
    adopt(old, prefix)

    old.git("push", "-q", "origin", "HEAD")
    second_home.environ.update(old.server.environ())
    second_home.install()
    clone = old.clone(tmp_path / "clone", home=second_home)
    assert (clone / "vit-l/1.bin").read_bytes() == random_bytes(300_000, 1)


@pytest.mark.parametrize("peer, program", [(lfs_dal, "lfs-dal"), (git_remote_s3, "git-lfs-s3")])
def test_what_the_real_agent_stores_is_found(old: Cellar, peer: Peer, program: str) -> None:
    if not (cache() / "bin" / program).exists():
        absent(f"{program} is not installed: run `tests/install/peers.sh`")
    prefix = peer(old)
    old.home.environ["AWS_ENDPOINT_URL"] = old.server.endpoint
    old.git("lfs", "push", "--all", "store" if peer is git_remote_s3 else "origin")
    assert len(old.server.keys(old.bucket, prefix)) == len(SIZES)
    adopt(old, prefix)


def test_an_endpoint_that_only_the_repository_names_is_not_trusted_by_adoption(old: Cellar, any_server: Server) -> None:
    lfs_dal(old)
    del old.home.environ["AWS_ENDPOINT_URL_S3"]
    mark = any_server.mark()
    done = init(old)
    assert f"  lfs-agent trust 127.0.0.1:{any_server.port}/{old.bucket}" in done.stdout
    refused = old.home.run("lfs-agent", "verify", cwd=old.work, check=False)
    assert "which you have not trusted with your credentials" in refused.stderr
    assert [request for request in any_server.requests(mark) if request.bucket == old.bucket] == []


def test_a_bucket_that_only_the_repository_names_is_not_trusted_for_a_second_remote(old: Cellar) -> None:
    lfs_dal(old)
    old.git("remote", "add", "second", str(old.origin))
    done = init(old, "--remote", "second")
    identity = f"127.0.0.1:{old.server.port}/{old.bucket}"
    assert f"  lfs-agent trust {identity}" in done.stdout
    assert "  lfs-agent verify --deep --remote second" in done.stdout
    assert old.home.run("lfs-agent", "trust", "--list", cwd=old.work).stdout == ""


def test_two_agents_with_two_stores_are_a_question(old: Cellar) -> None:
    lfs_s3(old)
    git_remote_s3(old)
    done = init(old)
    assert done.returncode == 2
    assert "several agents have been told of stores here" in done.stderr
    assert old.server.secret_key not in done.stderr
    assert not (old.work / ".lfsconfig").exists()


def test_where_nobody_was_told_anything_a_url_is_needed(old: Cellar) -> None:
    done = init(old)
    assert done.returncode == 2
    assert "say where the objects are to be" in done.stderr


@pytest.mark.parametrize("compression", ["", "--compression=zstd", "--compression gzip"])
def test_compressed_objects_are_not_adopted(old: Cellar, compression: str) -> None:
    old.git("config", "lfs.customtransfer.lfs-s3.args", f"--bucket={old.bucket} {compression}")
    done = init(old)
    assert done.returncode == 2
    assert "lfs-s3 compresses here" in done.stderr


def test_what_lfs_dal_keeps_elsewhere_is_not_adopted(old: Cellar) -> None:
    old.git("config", "--file", ".lfsdalconfig", "lfs-dal.scheme", "gcs")
    old.git("config", "--file", ".lfsdalconfig", "lfs-dal.bucket", old.bucket)
    done = init(old)
    assert done.returncode == 2
    assert "only what lfs-dal keeps in S3 can be adopted" in done.stderr
