"""`lfs-agent push-missing` and `lfs-agent repair`: what the store lost or damaged comes back, proven (V9, V12)."""

import shutil
import subprocess
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.cellar import NOBODY_THERE, Cellar, findings, new_share, random_bytes, statuses
from tests.machine import Home
from tests.proxy import Answer, FaultProxy, Faults, Rule, Stall, Throttle
from tests.servers import Server

MIB = 1 << 20
SIZE = 100_000
LARGE = 12 * MIB
FIELDS = {
    "status": str,
    "oid": str,
    "size": int,
    "paths": list,
    "key": str,
    "address": str,
    "source": str,
    "etag": str,
    "reason": str,
}

Done = subprocess.CompletedProcess[str]


def agent(cellar: Cellar, *arguments: str | Path, cwd: Path | None = None, env: dict[str, str] | None = None) -> Done:
    return cellar.home.run("lfs-agent", *arguments, cwd=cwd or cellar.work, env=env or {}, check=False)


def writes(cellar: Cellar, since: int) -> Counter[str]:
    """The requests that change something."""
    operations = (request.operation for request in cellar.server.requests(since))
    return Counter(name for name in operations if not name.startswith(("Head", "Get", "List")))


def record(cellar: Cellar, operation: str) -> list[dict[str, Any]]:
    """The events of all sessions of a command."""
    return [event for event in cellar.recorded() if event["operation"] == operation]


def fill(cellar: Cellar, sizes: dict[str, int]) -> dict[str, str]:
    """Commits and pushes objects; their oids by name."""
    oids = {name: cellar.write(f"{name}.pt", size, seed=n) for n, (name, size) in enumerate(sizes.items())}
    cellar.commit("Fill the cellar")
    cellar.push()
    return oids


def copy_of(cellar: Cellar, oid: str) -> Path:
    """The local object, which can be written."""
    path = cellar.local_object(oid)
    path.chmod(0o644)
    return path


# push-missing


def test_exactly_what_the_store_lost_is_sent_although_git_has_nothing_to_push(cellar: Cellar) -> None:
    oids = fill(cellar, {f"model-{n}": 1000 + n for n in range(200)})
    lost = list(oids.values())[:200:20]
    for oid in lost:
        cellar.delete(oid)
    assert "Everything up-to-date" in cellar.push().stderr
    assert agent(cellar, "verify").returncode == 1

    mark = cellar.server.mark()
    shown = agent(cellar, "push-missing", "--dry-run")
    assert shown.returncode == 0
    assert len(lost) == 10
    assert ": 200 objects, 190 present, 10 missing (" in shown.stdout
    assert shown.stdout.rstrip().endswith("would send 10 objects, 10.6 KiB")
    assert shown.stdout.count("; would come from this clone\n") == 10
    assert writes(cellar, mark) == {}

    mark = cellar.server.mark()
    done = agent(cellar, "push-missing")
    assert done.returncode == 0
    assert writes(cellar, mark) == {"PutObject": 10}
    assert done.stdout.count(" (from this clone)\n") == 10
    assert done.stdout.rstrip().endswith(": 200 objects, 190 present, 10 sent (10.6 KiB)")
    assert agent(cellar, "verify", "--deep").returncode == 0

    mark = cellar.server.mark()
    again = agent(cellar, "push-missing", "--all")
    assert (again.returncode, writes(cellar, mark)) == (0, {})
    recorded = [event["oid"] for event in record(cellar, "push-missing") if event["event"] == "uploaded"]
    assert sorted(recorded) == sorted(lost)
    assert "push-missing to s3::" in agent(cellar, "log", "-n", "1").stdout


def test_history_paths_and_json_are_those_of_verify(cellar: Cellar) -> None:
    old, new = cellar.add("vit-l/model.pt", SIZE, seed=1), cellar.add("vit-l/model.pt", SIZE, seed=2)
    other = cellar.add("bert/model.pt", SIZE, seed=3)
    cellar.push()
    for oid in (old, new, other):
        cellar.delete(oid)

    assert set(statuses(agent(cellar, "push-missing", "--dry-run", "--json", "--", "vit-l"))) == {new}
    assert set(statuses(agent(cellar, "push-missing", "--dry-run", "--json", old))) == {old}
    done = agent(cellar, "push-missing", "--all", "--json")
    assert statuses(done) == dict.fromkeys((old, new, other), "sent")
    for case in findings(done).values():
        assert {name: type(value) for name, value in case.items()} == FIELDS
        assert case["source"] == "this clone"
    assert findings(done)[other]["paths"] == ["bert/model.pt"]
    assert findings(done)[other]["address"] == f"s3://{cellar.bucket}/{cellar.key(other)}"


def test_what_nobody_here_has_is_listed_and_the_others_are_sent(cellar: Cellar) -> None:
    oids = fill(cellar, {"gone": SIZE, "here": SIZE, "bad": SIZE, "flipped": SIZE})
    for name in ("gone", "here", "bad"):
        cellar.delete(oids[name])
    cellar.put(oids["flipped"], b"short")
    copy_of(cellar, oids["gone"]).unlink()
    copy_of(cellar, oids["bad"]).write_bytes(random_bytes(SIZE, 99))

    done = agent(cellar, "push-missing", "--json")

    assert done.returncode == 1
    assert statuses(done) == {
        oids["gone"]: "missing",
        oids["here"]: "sent",
        oids["bad"]: "missing",
        oids["flipped"]: "damaged",
    }
    reasons = {name: findings(done)[oid]["reason"] for name, oid in oids.items()}
    assert reasons["gone"].endswith("; not in this clone either")
    assert "holds something else" in reasons["bad"]
    assert reasons["flipped"].endswith(": lfs-agent repair replaces it")
    assert sorted(cellar.keys()) == sorted(cellar.key(oids[name]) for name in ("here", "flipped"))
    assert cellar.stored(oids["flipped"]) == b"short"
    text = agent(cellar, "push-missing")
    assert text.returncode == 1
    assert "gone.pt" in text.stdout


def test_a_store_that_cannot_be_asked_is_told_once_and_nothing_is_sent(cellar: Cellar) -> None:
    fill(cellar, {"one": SIZE, "two": SIZE, "three": SIZE})
    done = agent(cellar, "push-missing", env=NOBODY_THERE)

    assert done.returncode == 3
    assert done.stdout.count("cannot be reached") == 1
    assert done.stdout.rstrip().endswith("3 unknown (293.0 KiB; 2 not asked: one cause stops them all)")


def test_what_ends_the_sending_is_told_once_and_nothing_is_said_to_have_come(cellar: Cellar) -> None:
    for oid in fill(cellar, {"one": SIZE, "two": SIZE}).values():
        cellar.delete(oid)
    refused = Rule(Answer(403, "InvalidAccessKeyId"), "PUT")
    with FaultProxy(cellar.server.endpoint, Faults((refused,))) as proxy:
        done = agent(cellar, "push-missing", env={"AWS_ENDPOINT_URL_S3": proxy.endpoint})

    row, totals = done.stdout.splitlines()
    assert done.returncode == 3
    assert row.startswith("failed\t")
    assert "from this clone" not in row
    assert totals.endswith("2 failed (195.3 KiB; 1 not asked: one cause stops them all)")


# repair


@pytest.mark.parametrize("size", [SIZE, LARGE], ids=["whole", "parts"])
def test_deleted_truncated_and_flipped_objects_come_back(server: Server, cellar: Cellar, size: int) -> None:
    cellar.home.environ["LFS_AGENT_PART_SIZE"] = "5MiB"
    oids = fill(cellar, dict.fromkeys(("good", "deleted", "truncated", "flipped"), size))
    cellar.delete(oids["deleted"])
    cellar.put(oids["truncated"], cellar.stored(oids["truncated"])[:-1])
    content = bytearray(cellar.stored(oids["flipped"]))
    content[size // 2] ^= 1
    cellar.put(oids["flipped"], bytes(content))

    mark = cellar.server.mark()
    shown = agent(cellar, "repair", "--deep", "--dry-run", "--json")
    assert shown.returncode == 0
    assert statuses(shown) == {
        oids["deleted"]: "missing",
        oids["truncated"]: "damaged",
        oids["flipped"]: "damaged",
    }
    assert "would send 1 object and replace 2 objects" in shown.stderr
    assert writes(cellar, mark) == {}

    done = agent(cellar, "repair", "--deep", "--json")
    assert done.returncode == 0
    assert statuses(done) == {
        oids["deleted"]: "sent",
        oids["truncated"]: "replaced",
        oids["flipped"]: "replaced",
    }
    assert sorted(cellar.keys()) == sorted(cellar.key(oid) for oid in oids.values())
    deep = agent(cellar, "verify", "--deep")
    assert deep.returncode == 0
    assert "4 present (4 proven)" in deep.stdout

    assert "replaced\t2 objects of these" in agent(cellar, "log").stdout
    replaced = {event["oid"]: event for event in record(cellar, "repair") if event["event"] == "replaced"}
    assert set(replaced) == {oids["truncated"], oids["flipped"]}
    assert replaced[oids["flipped"]]["etag"] == findings(shown)[oids["flipped"]]["etag"]
    assert replaced[oids["flipped"]]["key"] == cellar.key(oids["flipped"])
    (started,) = (event for event in record(cellar, "repair") if event["event"] == "started")
    assert "@" in started["user"]


def test_a_push_that_meets_a_damaged_object_says_what_replaces_it(cellar: Cellar) -> None:
    oid = cellar.add("model.pt", SIZE)
    cellar.put(oid, b"damaged")
    refused = cellar.push(check=False)
    assert refused.returncode != 0
    assert "it was not replaced. lfs-agent repair --deep replaces it, then push again" in refused.stderr

    assert agent(cellar, "repair", "--deep").returncode == 0
    cellar.push()
    assert cellar.stored(oid) == random_bytes(SIZE, 0)


def test_what_the_store_itself_knows_to_be_wrong_needs_no_reading(cellar: Cellar) -> None:
    oids = fill(cellar, {"good": SIZE, "wrong": SIZE})
    client = cellar.server.client()
    other = random_bytes(SIZE, 99)
    client.put_object(Bucket=cellar.bucket, Key=cellar.key(oids["wrong"]), Body=other, ChecksumAlgorithm="SHA256")
    mark = cellar.server.mark()
    done = agent(cellar, "repair", "--json")

    assert statuses(done) == {oids["wrong"]: "replaced"}
    assert not [request for request in cellar.server.requests(mark) if request.operation == "GetObject"]
    assert agent(cellar, "verify", "--deep").returncode == 0


def test_a_damaged_copy_is_never_sent(cellar: Cellar) -> None:
    cellar.home.environ["LFS_AGENT_PART_SIZE"] = "5MiB"
    oids = fill(cellar, {"small": SIZE, "large": LARGE, "short": SIZE})
    for oid in oids.values():
        cellar.put(oid, b"damaged")
    copy_of(cellar, oids["small"]).write_bytes(random_bytes(SIZE, 99))
    copy_of(cellar, oids["large"]).write_bytes(random_bytes(LARGE, 99))
    copy_of(cellar, oids["short"]).write_bytes(b"short")

    done = agent(cellar, "repair", "--json")

    assert done.returncode == 1
    assert statuses(done) == dict.fromkeys(oids.values(), "damaged")
    assert {cellar.stored(oid) for oid in oids.values()} == {b"damaged"}
    assert cellar.server.client().list_multipart_uploads(Bucket=cellar.bucket).get("Uploads", []) == []
    assert {event["event"] for event in record(cellar, "repair")} >= {"failed", "started", "ended"}


@pytest.mark.parametrize("by", [b"somebody else's", b"right"], ids=["wrong again", "right"])
def test_what_somebody_replaced_meanwhile_is_not_touched(cellar: Cellar, by: bytes) -> None:
    """Between the judgement and the upload."""
    oids = fill(cellar, {"model": SIZE})
    oid = oids["model"]
    content = cellar.stored(oid)
    cellar.put(oid, b"damaged")
    theirs = content if by == b"right" else by
    late = Rule(Stall("request-head", seconds=2), "PUT", cellar.key(oid))
    with FaultProxy(cellar.server.endpoint, Faults((late,))) as proxy:
        results: list[Done] = []
        environ = {"AWS_ENDPOINT_URL_S3": proxy.endpoint}
        running = threading.Thread(target=lambda: results.append(agent(cellar, "repair", "--json", env=environ)))
        running.start()
        while not any(seen.method == "PUT" and not seen.path.endswith(".probe") for seen in proxy.requests):
            assert running.is_alive()
            time.sleep(0.01)
        cellar.put(oid, theirs)
        running.join()

    (done,) = results
    assert cellar.stored(oid) == theirs
    if by == b"right":
        assert (done.returncode, statuses(done)) == (0, {oid: "present"})
    else:
        assert (done.returncode, statuses(done)) == (1, {oid: "damaged"})
        assert "it was not replaced" in findings(done)[oid]["reason"]


def test_a_kill_in_the_middle_leaves_the_damaged_object_and_the_next_repair_ends_well(cellar: Cellar) -> None:
    cellar.home.environ["LFS_AGENT_PART_SIZE"] = "5MiB"
    oids = fill(cellar, {"one": LARGE, "two": LARGE})
    cellar.put(oids["one"], b"damaged")
    cellar.delete(oids["two"])
    with FaultProxy(cellar.server.endpoint, Faults((Rule(Throttle(up=4 * MIB), "PUT", "partNumber"),))) as proxy:
        process = subprocess.Popen(
            ["lfs-agent", "repair"],
            cwd=cellar.work,
            env={**cellar.home.environ, "AWS_ENDPOINT_URL_S3": proxy.endpoint},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        while sum(seen.method == "PUT" and seen.status == 200 for seen in proxy.requests) < 2:
            assert process.poll() is None
            time.sleep(0.01)
        process.kill()
        process.communicate()

    assert cellar.keys() == [cellar.key(oids["one"])]
    assert cellar.stored(oids["one"]) == b"damaged"
    assert "replacing" in {event["event"] for event in record(cellar, "repair")}
    done = agent(cellar, "repair")
    assert done.returncode == 0
    assert "1 sent (12.0 MiB), 1 replaced (12.0 MiB)" in done.stdout
    assert agent(cellar, "verify", "--deep").returncode == 0


def test_a_shared_folder_is_repaired(home: Home, tmp_path: Path, any_server: Server, bucket: str) -> None:
    home.install()
    cellar = Cellar(home, any_server, bucket, "unused", tmp_path / "origin.git", tmp_path / "work")
    cellar.build()
    share = new_share(tmp_path / "share")
    cellar.git("config", "lfs.url", f"dir::{share}")
    oids = fill(cellar, dict.fromkeys(("good", "deleted", "truncated", "flipped"), SIZE))
    files = {name: share / oid[:2] / oid[2:4] / oid for name, oid in oids.items()}
    whole = {name: file.read_bytes() for name, file in files.items()}
    files["deleted"].unlink()
    for name, content in (("truncated", whole["truncated"][:-1]), ("flipped", bytes(SIZE))):
        files[name].chmod(0o644)
        files[name].write_bytes(content)

    assert agent(cellar, "repair").returncode == 0  # whose bytes nobody has read
    assert files["flipped"].read_bytes() == bytes(SIZE)
    done = agent(cellar, "repair", "--deep", "--json")

    assert statuses(done) == {oids["flipped"]: "replaced"}
    assert {name: file.read_bytes() for name, file in files.items()} == whole
    assert list((share / "lfs-agent-unfinished").iterdir()) == []


# --from


@pytest.fixture
def lost(cellar: Cellar) -> dict[str, str]:
    """Objects that are missing or damaged in the store, and not in this clone any more."""
    cellar.home.environ["LFS_AGENT_PART_SIZE"] = "5MiB"
    oids = fill(cellar, {"small": SIZE, "large": LARGE})
    cellar.delete(oids["small"])
    cellar.put(oids["large"], b"damaged")
    return oids


def forget(cellar: Cellar) -> None:
    shutil.rmtree(cellar.work / ".git" / "lfs" / "objects")


@pytest.mark.parametrize("where", ["work", "bare", "storage", "objects"])
def test_another_clone_gives_what_this_one_lacks(
    cellar: Cellar, lost: dict[str, str], tmp_path: Path, where: str
) -> None:
    other = tmp_path / "other"
    match where:
        case "work":
            shutil.copytree(cellar.work, other)
        case "bare":
            shutil.copytree(cellar.work / ".git", other)
        case "storage":
            shutil.copytree(cellar.work / ".git" / "lfs", other)
        case _:
            shutil.copytree(cellar.work / ".git" / "lfs" / "objects", other)
    forget(cellar)
    assert agent(cellar, "repair").returncode == 1

    done = agent(cellar, "repair", "--from", other, "--json")

    assert done.returncode == 0
    assert statuses(done) == {lost["small"]: "sent", lost["large"]: "replaced"}
    assert {case["source"] for case in findings(done).values()} == {str(other)}
    assert agent(cellar, "verify", "--deep").returncode == 0


@pytest.mark.parametrize("how", ["remote", "s3", "dir"])
def test_another_store_gives_what_this_clone_lacks(
    cellar: Cellar, lost: dict[str, str], tmp_path: Path, how: str
) -> None:
    backup = f"{cellar.bucket}-b"[-60:]
    cellar.server.client().create_bucket(Bucket=backup)
    new_share(tmp_path / "share")
    url = f"dir::{tmp_path}/share" if how == "dir" else f"s3::{backup}/copies"
    cellar.git("config", "remote.backup.url", str(tmp_path / "backup.git"))
    cellar.git("-c", f"lfs.url={url}", "lfs", "push", "--all", "backup")
    cellar.git("rm", "-q", ".lfsconfig")
    cellar.git("commit", "-q", "-m", "Name a store for each remote")
    cellar.git("config", "remote.origin.lfsurl", cellar.url)
    cellar.git("config", "remote.backup.lfsurl", url)
    forget(cellar)

    source = "backup" if how == "remote" else url
    done = agent(cellar, "repair", "--from", source, "--json")

    assert done.returncode == 0, done.stderr
    assert statuses(done) == {lost["small"]: "sent", lost["large"]: "replaced"}
    assert agent(cellar, "verify", "--deep").returncode == 0
    left = [path for path in (cellar.work / ".git" / "lfs").rglob("*") if path.is_file() and path.stat().st_size > SIZE]
    assert left == [], "what was fetched is not kept"


@pytest.mark.parametrize("how", ["prefix", "layout", "folder"])
def test_another_place_in_the_same_store_gives_what_this_clone_lacks(
    cellar: Cellar, lost: dict[str, str], tmp_path: Path, how: str
) -> None:
    """As after a change of the prefix or the layout."""
    share = new_share(tmp_path / "share")
    old = {"prefix": f"s3::{cellar.bucket}/old", "layout": f"{cellar.url}?layout=flat", "folder": f"dir::{share}"}[how]
    if how == "folder":
        cellar.git("config", "lfs.url", f"dir::{share}?layout=flat")
    cellar.git("-c", f"lfs.url={old}", "lfs", "push", "--all", "origin")
    forget(cellar)

    done = agent(cellar, "repair", "--from", old, "--json")

    assert done.returncode == 0, done.stderr
    assert set(statuses(done)) >= set(lost.values())
    assert agent(cellar, "verify", "--deep").returncode == 0


def test_a_source_that_is_damaged_too_gives_nothing_and_the_next_one_is_asked(
    cellar: Cellar, lost: dict[str, str], tmp_path: Path
) -> None:
    bad, good = tmp_path / "bad", tmp_path / "good"
    for other in (bad, good):
        shutil.copytree(cellar.work / ".git" / "lfs", other)
    wrong = bad / "objects" / lost["small"][:2] / lost["small"][2:4] / lost["small"]
    wrong.chmod(0o644)
    wrong.write_bytes(random_bytes(SIZE, 99))
    forget(cellar)

    alone = agent(cellar, "repair", "--from", bad, "--json", lost["small"])
    assert (alone.returncode, statuses(alone)) == (1, {lost["small"]: "missing"})
    assert f"{bad}: the local object" in findings(alone)[lost["small"]]["reason"]
    done = agent(cellar, "repair", "--from", bad, "--from", good, "--json", lost["small"])
    assert statuses(done) == {lost["small"]: "sent"}
    assert findings(done)[lost["small"]]["source"] == str(good)


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--from", "nowhere"], "--from nowhere: that is no remote of this repository (there is: origin), no folder"),
        (["--from", "origin"], "--from origin: that is the store that is to be mended"),
        (["--remote", "upstream"], "there is no remote 'upstream' here"),
        (["no-such-branch"], "no-such-branch"),
    ],
)
def test_a_command_line_that_makes_no_sense_changes_nothing(
    cellar: Cellar, lost: dict[str, str], arguments: list[str], words: str
) -> None:
    mark = cellar.server.mark()
    done = agent(cellar, "repair", *arguments)

    assert done.returncode == 2
    assert words in done.stderr
    assert writes(cellar, mark) == {}
