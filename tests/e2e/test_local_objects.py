"""Another program at the local object while git pushes it: what is published is the object, or nothing is."""

import os
import subprocess
from hashlib import sha256

import pytest

from tests.cellar import Cellar
from tests.e2e.dialogue import files_below, processes_of, wait_for
from tests.proxy import FaultProxy, Faults, Rule, Throttle
from tests.servers import Server

MIB = 1 << 20
CHANGE = 'printf x | dd of="$1" bs=1 seek="$2" conv=notrunc status=none'
TRUNCATE = 'truncate -s "$2" "$1"'
REPLACE = 'printf weights > "$1.new" && mv -f "$1.new" "$1"'
REMOVE = 'rm -f "$1"'


def push_meanwhile(cellar: Cellar, server: Server, oid: str, script: str, *words: str) -> tuple[int, str]:
    """Pushes over a slow link; `script` ($1: the local object) runs once a megabyte has gone. Status and stderr."""
    local = cellar.local_object(oid)
    local.chmod(0o644)
    with FaultProxy(server.endpoint, Faults((Rule(Throttle(up=12 * MIB)),))) as proxy:
        process = subprocess.Popen(
            ["git", "push", "-q", "origin", "HEAD"],
            cwd=cellar.work,
            env={**cellar.home.environ, "AWS_ENDPOINT_URL_S3": proxy.endpoint, "LFS_AGENT_STREAMS": "2"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        wait_for(lambda: sum(seen.request_bytes for seen in proxy.requests) > MIB, 60)
        subprocess.run(["sh", "-c", script, "sh", str(local), *words], check=True)
        _, said = process.communicate(timeout=180)
    wait_for(lambda: processes_of(cellar.home) == {}, 15)
    return process.returncode, said


@pytest.fixture(params=["32MiB", "6MiB"], ids=["whole", "in parts"])
def oid(request: pytest.FixtureRequest, cellar: Cellar) -> str:
    """An object that waits to be pushed: more than fits into the buffers of the way."""
    cellar.home.environ["LFS_AGENT_PART_SIZE"] = request.param
    return cellar.add("weights.bin", 24 * MIB)


@pytest.mark.parametrize(
    "script, says",
    [(CHANGE, "the local object changed while it was read"), (TRUNCATE, "was truncated while it was read")],
    ids=["changed", "truncated"],
)
def test_what_changes_while_it_is_read_is_not_published(
    cellar: Cellar, any_server: Server, oid: str, script: str, says: str
) -> None:
    content = (cellar.work / "weights.bin").read_bytes()
    status, said = push_meanwhile(cellar, any_server, oid, script, str(len(content) - 1))

    assert status != 0
    assert said.count(f'error transferring "{oid}"') == 1
    assert says in said
    assert "push again" in said
    assert cellar.keys() == []
    assert any_server.client().list_multipart_uploads(Bucket=cellar.bucket).get("Uploads", []) == []
    assert files_below(cellar.work / ".git" / "lfs" / "incomplete") == []

    cellar.local_object(oid).write_bytes(content)
    cellar.push()
    body = any_server.client().get_object(Bucket=cellar.bucket, Key=cellar.key(oid))["Body"]
    assert sha256(body.read()).hexdigest() == oid


def test_a_damaged_local_object_is_mended_as_the_message_says(cellar: Cellar) -> None:
    oid = cellar.write("weights.bin", 20_000)
    os.utime(cellar.work / "weights.bin", (0, 0))  # else git looks into it again, since it is as new as its index
    cellar.commit("Add weights.bin")
    local = cellar.local_object(oid)
    local.chmod(0o644)
    local.write_bytes(bytes(20_000))
    refused = cellar.push(check=False)

    assert refused.returncode != 0
    assert (
        "git lfs fsck moves it away; then run git lfs fetch, or, where the work tree has the file, " in refused.stderr
    )
    assert "git add --renormalize FILE" in refused.stderr
    assert cellar.keys() == []

    cellar.git("lfs", "fsck", check=False)
    assert not local.exists()
    cellar.git("add", "--renormalize", "weights.bin")
    cellar.push()
    assert cellar.keys() == [cellar.key(oid)]


@pytest.mark.parametrize("script", [REPLACE, REMOVE], ids=["replaced", "removed"])
def test_what_is_put_in_its_place_is_not_read(cellar: Cellar, any_server: Server, oid: str, script: str) -> None:
    status, said = push_meanwhile(cellar, any_server, oid, script)

    assert (status, said) == (0, "")
    body = any_server.client().get_object(Bucket=cellar.bucket, Key=cellar.key(oid))["Body"]
    assert sha256(body.read()).hexdigest() == oid
