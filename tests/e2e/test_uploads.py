"""`lfs-agent uploads` over real pushes that were broken off (L1)."""

import json
import os
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from lfs_agent.commands.wording import spell_size
from lfs_agent.lease import lease
from lfs_agent.pointer import Oid
from lfs_agent.transfer.upload import journals
from tests.cellar import ASKED_TWICE, Cellar, random_bytes
from tests.e2e.conftest import with_ages
from tests.e2e.dialogue import keep_local, kill_git, new_repository
from tests.e2e.terminal import on_terminal
from tests.machine import Home
from tests.proxy import Answer, FaultProxy, Faults, Rule, Stall, Throttle
from tests.servers import Versitygw

MIB = 1 << 20
SIZE = 24 * MIB
PART = 5 * MIB
DAY_S = 86400
OID = "ab" * 32
HASTY = {"LFS_AGENT_DEADLINE": "1", "LFS_AGENT_FIRST_DEADLINE": "1"}
FIELDS = {
    "status": str,
    "oid": str,
    "key": str,
    "address": str,
    "upload_id": str,
    "begun": str,
    "newest": str,
    "age_s": int,
    "parts": int,
    "size": int,
    "reason": str,
}


def uploads(cellar: Cellar, *arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return cellar.home.run("lfs-agent", "uploads", *arguments, cwd=cellar.work, env=env or {}, check=False)


def found(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    """From the output of --json."""
    return [json.loads(line) for line in done.stdout.splitlines()]


def on_their_way(cellar: Cellar) -> set[str]:
    """The keys of all unfinished uploads in the bucket."""
    listed = cellar.server.client().list_multipart_uploads(Bucket=cellar.bucket)
    return {upload["Key"] for upload in listed.get("Uploads", [])}


def begin(cellar: Cellar, key: str, *, parts: int = 1) -> str:
    """An upload of somebody's; gives its id."""
    client = cellar.server.client()
    upload_id = client.create_multipart_upload(Bucket=cellar.bucket, Key=key)["UploadId"]
    for number in range(1, parts + 1):
        client.upload_part(Bucket=cellar.bucket, Key=key, UploadId=upload_id, PartNumber=number, Body=b"part")
    return upload_id


@pytest.fixture
def aging(cellar: Cellar) -> Versitygw:
    """The server of the cellar, whose uploads can be made old."""
    return with_ages(cellar.server)


def kill_a_push(cellar: Cellar) -> tuple[str, int]:
    """A push that ends by kill -9 with some of its parts sent; the oid, and how many parts are there at least."""
    cellar.home.environ["LFS_AGENT_PART_SIZE"] = "5MiB"
    oid = cellar.add("vit-l/1.0/weights.bin", SIZE, seed=1)
    slow = Rule(Throttle(up=20 * MIB), target="partNumber")
    with FaultProxy(cellar.server.endpoint, Faults((slow,))) as proxy:

        def sent() -> int:
            return sum(seen.method == "PUT" and seen.status == 200 for seen in proxy.requests)

        kill_git(cellar.home, cellar.work, ["push", "origin", "main"], proxy, lambda: sent() >= 2)
        return oid, sent()


def test_a_killed_push_is_shown_and_kept_until_it_is_old(cellar: Cellar) -> None:
    oid, sent = kill_a_push(cellar)
    mine = cellar.key(oid)
    others = {"cellar-2/" + mine, "other/" + mine.partition("/")[2], "cellar/notes.txt", f"cellar/sub/ab/ab/{OID}"}
    for key in others:
        begin(cellar, key)

    done = uploads(cellar, "--json")
    (shown,) = found(done)
    assert done.returncode == 0
    assert {name: type(value) for name, value in shown.items()} == FIELDS
    assert (shown["status"], shown["oid"], shown["key"]) == ("unfinished", oid, mine)
    assert shown["address"] == f"s3://{cellar.bucket}/{mine}"
    assert sent <= shown["parts"] < SIZE / PART
    assert shown["size"] == shown["parts"] * PART
    assert 0 <= shown["age_s"] < 600
    assert "; 2 uploads to other keys left alone" in done.stderr

    for kept in (["--abort", "--older-than", "7d"], ["--abort", "--older-than", "0s", "--dry-run"]):
        assert uploads(cellar, *kept).returncode == 0
        assert on_their_way(cellar) == others | {mine}

    done = uploads(cellar, "--abort", "--older-than", "0s")
    assert done.returncode == 0
    assert on_their_way(cellar) == others
    *_, total = done.stdout.splitlines()
    assert f"{cellar.url}: 1 unfinished upload, " in total
    assert "; 1 aborted (" in total
    told = cellar.home.run("lfs-agent", "log", cwd=cellar.work).stdout
    assert f"given up\t1 object, {spell_size(shown['size'])}\n" in told

    # The journal names an upload that is gone: the next push begins another.
    mark = cellar.server.mark()
    cellar.push()
    asked = [request.operation for request in cellar.server.requests(mark)]
    assert asked.count("CreateMultipartUpload") == 1
    assert asked.count("UploadPart") == 5
    content = cellar.server.client().get_object(Bucket=cellar.bucket, Key=mine)["Body"].read()
    assert sha256(content).hexdigest() == oid
    assert on_their_way(cellar) == others
    assert found(uploads(cellar, "--json")) == []


def test_age_is_that_of_the_newest_part_and_not_of_the_beginning(cellar: Cellar, aging: Versitygw) -> None:
    long, old, empty, young = (cellar.key(digit * 64) for digit in "1234")
    for key, parts, begun_s, parts_s in (
        (long, 3, 30 * DAY_S, 3600),
        (old, 2, 30 * DAY_S, 8 * DAY_S),
        (empty, 0, 8 * DAY_S, None),
        (young, 0, DAY_S, None),
    ):
        aging.age_upload(cellar.bucket, begin(cellar, key, parts=parts), begun_s=begun_s, parts_s=parts_s)

    shown = {upload["key"]: upload for upload in found(uploads(cellar, "--json", "--older-than", "1w"))}
    assert {key: (upload["status"], upload["parts"]) for key, upload in shown.items()} == {
        long: ("unfinished", 3),
        old: ("stale", 2),
        empty: ("stale", 0),
        young: ("unfinished", 0),
    }
    assert 3000 < shown[long]["age_s"] < DAY_S

    done = uploads(cellar, "--abort", "--older-than", "7d")
    assert done.returncode == 0
    assert on_their_way(cellar) == {long, young}
    assert [line.split()[0] for line in done.stdout.splitlines()[:-1]] == [
        "unfinished",
        "aborted",
        "aborted",
        "unfinished",
    ]
    assert (
        done.stdout.splitlines()[-1] == f"{cellar.url}: 4 unfinished uploads, 20 bytes in 5 parts; 2 aborted (8 bytes)"
    )


def test_what_this_clone_sends_now_is_left_alone_however_old(cellar: Cellar, aging: Versitygw) -> None:
    """A link may stand still for hours, and go on."""
    oid, _ = kill_a_push(cellar)
    (upload,) = found(uploads(cellar, "--json"))
    aging.age_upload(cellar.bucket, upload["upload_id"], begun_s=30 * DAY_S)
    (journal,) = journals(cellar.work / ".git" / "lfs" / "incomplete" / "lfs-agent", Oid(oid))

    with lease(journal, threading.Event()):  # as the push has it that is at work
        (shown,) = found(uploads(cellar, "--json", "--abort", "--older-than", "7d"))
    assert (shown["status"], shown["reason"]) == ("unfinished", "this clone is sending the object now")
    assert on_their_way(cellar) == {cellar.key(oid)}

    (shown,) = found(uploads(cellar, "--json", "--abort", "--older-than", "7d"))
    assert shown["status"] == "aborted"
    assert on_their_way(cellar) == set()


def test_a_push_that_goes_on_after_the_list_was_made_is_left_alone(cellar: Cellar, aging: Versitygw) -> None:
    """The parts are asked for last."""
    key = cellar.key(OID)
    upload_id = begin(cellar, key)
    aging.age_upload(cellar.bucket, upload_id, begun_s=30 * DAY_S)

    late = Rule(Stall("request-head", seconds=2), "GET", "uploadId=")
    with FaultProxy(aging.endpoint, Faults((late,))) as proxy, ThreadPoolExecutor() as pool:
        environ = {"AWS_ENDPOINT_URL_S3": proxy.endpoint}
        running = pool.submit(uploads, cellar, "--json", "--abort", "--older-than", "7d", env=environ)
        while not any("uploads" in seen.query and seen.ended for seen in proxy.requests):
            assert not running.done()
            time.sleep(0.01)
        aging.client().upload_part(Bucket=cellar.bucket, Key=key, UploadId=upload_id, PartNumber=2, Body=b"another")
        (shown,) = found(running.result())

    assert (shown["status"], shown["parts"]) == ("unfinished", 2)
    assert on_their_way(cellar) == {key}


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--abort"], "--abort needs to know how old: --older-than 7d"),
        (["--dry-run"], "--dry-run is for --abort"),
        (["--abort", "--older-than", "7"], "not an age: '7'; say 30m, 12h, 7d or 2w"),
        (["--abort", "--older-than=-1d"], "not an age: '-1d'"),
        (["--remote", "upstream"], "there is no remote 'upstream' here"),
    ],
)
def test_a_command_line_that_makes_no_sense_changes_nothing(cellar: Cellar, arguments: list[str], words: str) -> None:
    begin(cellar, cellar.key(OID))
    done = uploads(cellar, *arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert done.stdout == ""
    assert on_their_way(cellar) == {cellar.key(OID)}


@pytest.mark.parametrize(
    "status, code, environ", [(403, "AccessDenied", {}), (503, "SlowDown", ASKED_TWICE), (503, "SlowDown", HASTY)]
)
def test_what_could_not_be_given_up_is_in_the_record_and_in_the_audit_log(
    cellar: Cellar, status: int, code: str, environ: dict[str, str]
) -> None:
    upload_id = begin(cellar, cellar.key(OID))
    refused = Rule(Answer(status, code), "DELETE", "uploadId=")
    with FaultProxy(cellar.server.endpoint, Faults((refused,))) as proxy:
        environ = {**environ, "AWS_ENDPOINT_URL_S3": proxy.endpoint}
        done = uploads(cellar, "--json", "--abort", "--older-than", "0s", env=environ)

    assert done.returncode == 3
    assert on_their_way(cellar) == {cellar.key(OID)}
    audit = (cellar.work / ".git/lfs/lfs-agent/audit.jsonl").read_text().splitlines()
    for events in (cellar.recorded(), [json.loads(line) for line in audit]):
        about, failed = [event for event in events if event["event"] in ("giving up", "gave up", "failed")]
        assert (about["event"], failed["event"], failed["upload_id"]) == ("giving up", "failed", upload_id)
        assert code in failed["message"]
    assert f"1 object: giving up s3://{cellar.bucket}/{cellar.key(OID)}: " in told_by_log(cellar)


def told_by_log(cellar: Cellar) -> str:
    return cellar.home.run("lfs-agent", "log", cwd=cellar.work).stdout


def test_a_store_that_lists_no_uploads_is_a_sentence(cellar: Cellar) -> None:
    unknown = Rule(Answer(501, "NotImplemented"), "GET", r"\?uploads")
    with FaultProxy(cellar.server.endpoint, Faults((unknown,))) as proxy:
        done = uploads(cellar, env={"AWS_ENDPOINT_URL_S3": proxy.endpoint})
    assert (done.returncode, done.stdout) == (3, "")
    assert "; this store does not list unfinished uploads" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_server_that_only_the_repository_names_is_asked_nothing(cellar: Cellar) -> None:
    begin(cellar, cellar.key(OID))
    (cellar.work / ".lfsconfig").write_text(f"[lfs]\n\turl = {cellar.url}?endpoint={cellar.server.endpoint}\n")
    del cellar.home.environ["AWS_ENDPOINT_URL_S3"]
    mark = cellar.server.mark()

    done = uploads(cellar, "--abort", "--older-than", "0s")

    assert (done.returncode, done.stdout) == (3, "")
    assert "lfs-agent trust" in done.stderr
    assert cellar.server.requests(mark) == []


def test_without_unfinished_uploads_it_says_so(cellar: Cellar) -> None:
    done = uploads(cellar)
    assert (done.returncode, done.stdout) == (0, f"{cellar.url}: 0 unfinished uploads, 0 bytes in 0 parts\n")
    assert (uploads(cellar, "--json").stdout, done.stderr) == ("", "")


def test_what_a_killed_push_left_in_a_shared_folder_goes_when_it_is_old(home: Home, tmp_path: Path) -> None:
    share = tmp_path / "share"
    share.mkdir()
    work = new_repository(home, tmp_path / "work", f"dir::{share}")
    left = share / "lfs-agent-unfinished"
    left.mkdir()
    content = random_bytes(70_000, 1)
    for name in (f"{OID}-0123456789abcdef", f"{'cd' * 32}-0123456789abcdef", "notes.txt"):
        (left / name).write_bytes(content)
    long_ago = time.time() - 8 * DAY_S
    for name in (f"{OID}-0123456789abcdef", "notes.txt"):
        os.utime(left / name, (long_ago, long_ago))

    done = home.run("lfs-agent", "uploads", "--json", "--abort", "--older-than", "7d", cwd=work)
    shown = {upload["oid"]: upload for upload in found(done)}
    assert {oid: upload["status"] for oid, upload in shown.items()} == {OID: "aborted", "cd" * 32: "unfinished"}
    assert shown[OID]["key"] == f"ab/ab/{OID}"
    assert (shown[OID]["size"], shown[OID]["parts"], shown[OID]["begun"]) == (70_000, 1, None)
    assert "; 1 upload to other keys left alone" in done.stderr
    assert sorted(path.name for path in left.iterdir()) == [f"{'cd' * 32}-0123456789abcdef", "notes.txt"]


def test_a_link_in_the_place_of_what_pushes_left_in_a_share_leads_to_no_file_elsewhere(
    home: Home, tmp_path: Path
) -> None:
    """Objects of git-lfs itself have such names, too; here it is the only copy of one."""
    share = tmp_path / "share"
    (share / ".lfs-agent").mkdir(parents=True)
    work = new_repository(home, tmp_path / "work", f"dir::{share}")
    copy = keep_local(work, OID, random_bytes(70_000, 1))
    os.utime(copy, (0, 0))
    (share / "lfs-agent-unfinished").symlink_to(copy.parent)

    refused = home.run("lfs-agent", "uploads", "--abort", "--older-than", "7d", cwd=work, check=False)

    assert (refused.returncode, refused.stdout) == (3, "")
    assert "lfs-agent-unfinished is a symbolic link, which we never make: look who else" in refused.stderr
    assert copy.exists()


def test_a_terminal_shows_how_far_it_is_when_that_takes_long(cellar: Cellar) -> None:
    for digit in "12":
        begin(cellar, cellar.key(digit * 64))
    late = Rule(Stall("request-head", seconds=1.5), "GET", "uploadId=")
    with FaultProxy(cellar.server.endpoint, Faults((late,))) as proxy:
        environ = {"AWS_ENDPOINT_URL_S3": proxy.endpoint}
        seen = on_terminal(cellar.home, "lfs-agent", "uploads", "--json", cwd=cellar.work, pipe="stdout", env=environ)

    assert " 1 of 2 uploads " in seen.terminal
    assert [json.loads(line)["status"] for line in seen.piped.splitlines()] == ["unfinished"] * 2
