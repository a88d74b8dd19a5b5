"""The documented policies, enforced by versitygw's IAM service: what each right is for, and what is said without it."""

import itertools
import json
import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest

from lfs_agent.parts import MIB
from lfs_agent.policy import Role
from lfs_agent.policy import policy as policy_of
from lfs_agent.store.url import S3Target
from tests.cellar import Cellar, random_bytes
from tests.conftest import absent
from tests.machine import Home
from tests.proxy import SLOW_DOWN, Answer, FaultProxy, Faults, Rule, Seen
from tests.proxy.faults import Action
from tests.servers import Server, VersitygwWithUsers

LARGE = 20 * MIB
Done = subprocess.CompletedProcess[str]
How = Literal["not allowed", "denied"]

_users = itertools.count(1)


@pytest.fixture(scope="module")
def server_with_users(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VersitygwWithUsers]:
    if reason := VersitygwWithUsers.missing():
        absent(reason)
    with VersitygwWithUsers(tmp_path_factory.mktemp("users")) as server:
        yield server


@pytest.fixture
def this_server(server_with_users: VersitygwWithUsers) -> Server:
    return server_with_users


def policy(name: Role, cellar: Cellar, *, without: str = "", how: How = "not allowed") -> str:
    """The policy that `setup-storage` prints for this cellar, with one action not allowed, or denied besides."""
    document = policy_of(name, S3Target(cellar.bucket, cellar.prefix))
    if how == "denied":
        document["Statement"].append({"Effect": "Deny", "Action": without, "Resource": "*"})
        return json.dumps(document)
    for statement in document["Statement"]:
        actions = statement["Action"]
        allowed = [actions] if isinstance(actions, str) else actions
        statement["Action"] = [action for action in allowed if action != without]
    document["Statement"] = [statement for statement in document["Statement"] if statement["Action"]]
    return json.dumps(document)


def become(home: Home, cellar: Cellar, name: Role, *, without: str = "", how: How = "not allowed") -> None:
    """The user of `home` has this documented policy, less one action, and no other right."""
    assert isinstance(cellar.server, VersitygwWithUsers)
    document = policy(name, cellar, without=without, how=how)
    home.environ.update(cellar.server.environ_of(f"{name}-{next(_users)}", document))


def fill(cellar: Cellar) -> tuple[str, str]:
    """A small and a large object, committed; gives their oids."""
    small, large = cellar.write("small.bin", 1000, seed=1), cellar.write("large.bin", LARGE, seed=2)
    cellar.commit("Fill the cellar")
    return small, large


def needed(said: str) -> set[str]:
    """The actions that the agent itself names as the missing ones."""
    return set(re.findall(r"; (?:missing or forbidden: )?(\S+:\S+) (?:is needed|would tell)", said))


def asked(cellar: Cellar, mark: int) -> Counter[str]:
    requests = cellar.server.requests(mark)
    return Counter(request.operation for request in requests if request.bucket == cellar.bucket)


def stored(cellar: Cellar, oid: str) -> bytes:
    answer = cellar.server.client().get_object(Bucket=cellar.bucket, Key=cellar.key(oid))
    return answer["Body"].read()


def unfinished(cellar: Cellar) -> int:
    return len(cellar.server.client().list_multipart_uploads(Bucket=cellar.bucket).get("Uploads", []))


def push_twice(cellar: Cellar) -> Counter[str]:
    """A push whose store is busy for one part until the deadline, then one that succeeds: what that one asked."""
    faults = Faults((Rule(SLOW_DOWN, "PUT", r"partNumber=2\b"),))
    with FaultProxy(cellar.server.endpoint, faults) as proxy:
        cellar.home.environ["AWS_ENDPOINT_URL_S3"] = proxy.endpoint
        broken = cellar.home.git(
            "push", "origin", "HEAD", cwd=cellar.work, check=False, env={"LFS_AGENT_DEADLINE": "1"}
        )
        assert "503 SlowDown" in broken.stderr
        assert unfinished(cellar) == 1
        proxy.faults = Faults()
        mark = cellar.server.mark()
        cellar.push()
    cellar.home.environ["AWS_ENDPOINT_URL_S3"] = cellar.server.endpoint
    return asked(cellar, mark)


# A writer


def test_a_writer_pushes_goes_on_and_gives_up_with_five_rights(cellar: Cellar) -> None:
    become(cellar.home, cellar, "writer")
    small, large = fill(cellar)
    again = push_twice(cellar)

    assert again["ListParts"] == 1
    assert again["CreateMultipartUpload"] == 0
    assert sorted(cellar.keys()) == sorted([cellar.key(small), cellar.key(large)])
    assert (stored(cellar, small), stored(cellar, large)) == (random_bytes(1000, 1), random_bytes(LARGE, 2))
    assert unfinished(cellar) == 0
    cellar.home.run("lfs-agent", "verify", "--deep", cwd=cellar.work)
    refusals = [request for request in cellar.server.requests(0) if request.status == 403]
    assert [request for request in refusals if request.bucket == cellar.bucket] == []


@pytest.mark.parametrize("how", ["not allowed", "denied"])
def test_a_writer_without_put_is_told_so(cellar: Cellar, how: How) -> None:
    become(cellar.home, cellar, "writer", without="s3:PutObject", how=how)
    fill(cellar)
    refused = cellar.push(check=False)

    assert refused.returncode != 0
    assert needed(refused.stderr) == {"s3:PutObject"}
    assert refused.stderr.count("s3:PutObject is needed") == 2
    assert ("a policy denies it, whatever another one allows" in refused.stderr) is (how == "denied")
    assert (cellar.keys(), unfinished(cellar)) == ([], 0)


@pytest.mark.parametrize("how", ["not allowed", "denied"])
def test_a_writer_who_may_not_read_writes_and_replaces_nothing(cellar: Cellar, how: How) -> None:
    become(cellar.home, cellar, "writer", without="s3:GetObject", how=how)
    small, large = fill(cellar)
    cellar.push()
    before = [stored(cellar, small), stored(cellar, large)]
    again = cellar.git("lfs", "push", "--all", "origin", check=False)

    assert before == [random_bytes(1000, 1), random_bytes(LARGE, 2)]
    assert [stored(cellar, small), stored(cellar, large)] == before
    assert again.returncode != 0  # something is there, and nobody can say what
    assert needed(again.stderr) == {"s3:GetObject"}
    assert unfinished(cellar) == 0


@pytest.mark.parametrize("how", ["not allowed", "denied"])
def test_without_the_right_to_list_parts_a_push_begins_anew_and_leaves_none_behind(cellar: Cellar, how: How) -> None:
    become(cellar.home, cellar, "writer", without="s3:ListMultipartUploadParts", how=how)
    _, large = fill(cellar)
    again = push_twice(cellar)

    assert again["CreateMultipartUpload"] == 1
    assert again["AbortMultipartUpload"] == 1
    assert stored(cellar, large) == random_bytes(LARGE, 2)
    assert unfinished(cellar) == 0


@pytest.mark.parametrize("how", ["not allowed", "denied"])
def test_without_the_right_to_give_up_the_cause_is_told_and_the_next_push_succeeds(cellar: Cellar, how: How) -> None:
    become(cellar.home, cellar, "writer", without="s3:AbortMultipartUpload", how=how)
    _, large = fill(cellar)
    denied = Answer(403, "AccessDenied")
    with FaultProxy(cellar.server.endpoint, Faults((Rule(denied, "PUT", r"partNumber=2\b"),))) as proxy:
        environ = {"AWS_ENDPOINT_URL_S3": proxy.endpoint}
        refused = cellar.home.git("push", "origin", "HEAD", cwd=cellar.work, check=False, env=environ)

    assert refused.returncode != 0
    assert needed(refused.stderr) == {"s3:PutObject"}
    assert "storing part 2 of" in refused.stderr
    assert unfinished(cellar) == 1  # which the lifecycle rule takes
    cellar.push()
    assert stored(cellar, large) == random_bytes(LARGE, 2)


# A reader


def test_a_reader_clones_and_verifies_and_cannot_push(cellar: Cellar, second_home: Home, tmp_path: Path) -> None:
    small, _ = fill(cellar)
    cellar.push()
    second_home.install()
    become(second_home, cellar, "reader")
    clone = cellar.clone(tmp_path / "clone", home=second_home)

    assert (clone / "large.bin").read_bytes() == random_bytes(LARGE, 2)
    second_home.run("lfs-agent", "verify", cwd=clone)
    deep = second_home.run("lfs-agent", "verify", "--deep", cwd=clone)
    assert "2 present (2 proven)" in deep.stdout

    (clone / "other.bin").write_bytes(b"other")
    second_home.git("add", "other.bin", cwd=clone)
    second_home.git("commit", "-q", "-m", "Add other.bin", cwd=clone)
    refused = second_home.git("push", "origin", "HEAD", cwd=clone, check=False)
    assert refused.returncode != 0
    assert needed(refused.stderr) == {"s3:PutObject"}
    assert len(cellar.keys()) == 2

    cellar.server.client().delete_object(Bucket=cellar.bucket, Key=cellar.key(small))
    missing = second_home.run("lfs-agent", "verify", "HEAD~1", cwd=clone, check=False)
    assert missing.returncode == 1
    assert "missing" in missing.stdout


@pytest.mark.parametrize("how", ["not allowed", "denied"])
def test_a_reader_without_get_is_told_so(cellar: Cellar, second_home: Home, tmp_path: Path, how: How) -> None:
    fill(cellar)
    cellar.push()
    second_home.install()
    become(second_home, cellar, "reader", without="s3:GetObject", how=how)
    refused = second_home.git("clone", "-q", cellar.origin, tmp_path / "clone", check=False)
    second_home.git("reset", "-q", "--hard", cwd=tmp_path / "clone", check=False, env={"GIT_LFS_SKIP_SMUDGE": "1"})

    assert refused.returncode != 0
    assert needed(refused.stderr) == {"s3:GetObject"}
    for deep in ([], ["--deep"]):
        verified = second_home.run("lfs-agent", "verify", *deep, cwd=tmp_path / "clone", check=False)
        assert verified.returncode == 3
        assert "2 unknown" in verified.stdout
        assert "missing or forbidden: s3:GetObject" in verified.stdout


# What the doctor says of rights


def examined(home: Home, cellar: Cellar, *arguments: str) -> dict[str, str]:
    """Status and text of each check."""
    done = home.run("lfs-agent", "doctor", "--json", *arguments, cwd=cellar.work, check=False)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return {line["check"]: f"{line['status']} {line['text']}" for line in lines}


def test_the_doctor_finds_nothing_wrong_with_a_reader_and_a_writer(cellar: Cellar) -> None:
    fill(cellar)
    cellar.push()
    become(cellar.home, cellar, "reader")
    found = examined(cellar.home, cellar)
    assert {check: found[check].split()[0] for check in ("credentials", "bucket", "uploads", "writing")} == {
        "credentials": "ok",
        "bucket": "ok",
        "uploads": "skipped",
        "writing": "skipped",
    }
    assert needed(found["uploads"]) == {"s3:ListBucketMultipartUploads"}
    become(cellar.home, cellar, "writer")
    assert examined(cellar.home, cellar, "--write-test")["writing"].startswith("ok")


@pytest.mark.parametrize("how", ["not allowed", "denied"])
@pytest.mark.parametrize("action, left", [("s3:PutObject", 0), ("s3:AbortMultipartUpload", 1)])
def test_the_doctor_names_the_right_that_a_write_test_lacks(cellar: Cellar, action: str, left: int, how: How) -> None:
    become(cellar.home, cellar, "writer", without=action, how=how)
    found = examined(cellar.home, cellar, "--write-test")["writing"]
    assert found.startswith("problem")
    assert needed(found) == {action}
    assert unfinished(cellar) == left


def test_the_doctor_tells_a_missing_right_to_list_from_none_at_all(cellar: Cellar) -> None:
    fill(cellar)
    cellar.push()
    become(cellar.home, cellar, "reader", without="s3:ListBucket")
    found = examined(cellar.home, cellar)
    assert found["bucket"].startswith("warning")
    assert needed(found["bucket"]) == {"s3:ListBucket"}
    assert found["credentials"].startswith("ok")
    become(cellar.home, cellar, "caretaker")
    assert examined(cellar.home, cellar)["bucket"].startswith("problem")


# Who repairs


def break_some(cellar: Cellar) -> None:
    """The small object is gone, the large one damaged."""
    small, large = fill(cellar)
    cellar.push()
    client = cellar.server.client()
    client.delete_object(Bucket=cellar.bucket, Key=cellar.key(small))
    client.put_object(Bucket=cellar.bucket, Key=cellar.key(large), Body=b"damaged")


def test_a_repairer_sends_and_replaces_with_a_writers_rights(cellar: Cellar) -> None:
    break_some(cellar)
    become(cellar.home, cellar, "repairer")
    mark = cellar.server.mark()
    done = cellar.home.run("lfs-agent", "repair", "--deep", cwd=cellar.work)

    assert "1 sent (1000 bytes), 1 replaced (20.0 MiB)" in done.stdout
    cellar.home.run("lfs-agent", "verify", "--deep", cwd=cellar.work)
    assert "DeleteObject" not in asked(cellar, mark)
    assert 403 not in {request.status for request in cellar.server.requests(mark)}
    assert len(cellar.keys()) == 2
    assert unfinished(cellar) == 0


@pytest.mark.parametrize("how", ["not allowed", "denied"])
@pytest.mark.parametrize("action", ["s3:PutObject", "s3:GetObject"])
def test_a_repairer_without_one_of_them_changes_nothing_and_is_told_which(
    cellar: Cellar, action: str, how: How
) -> None:
    break_some(cellar)
    become(cellar.home, cellar, "repairer", without=action, how=how)
    done = cellar.home.run("lfs-agent", "repair", cwd=cellar.work, check=False)

    assert done.returncode == 3
    assert action in needed(done.stdout) or f"missing or forbidden: {action}" in done.stdout
    (key,) = cellar.keys()
    answer = cellar.server.client().get_object(Bucket=cellar.bucket, Key=key)
    assert answer["Body"].read() == b"damaged"
    assert unfinished(cellar) == 0


# Who sets up


def set_up(cellar: Cellar) -> Done:
    return cellar.home.run("lfs-agent", "setup-storage", cwd=cellar.work, check=False)


def test_a_founder_sets_the_bucket_up(cellar: Cellar) -> None:
    become(cellar.home, cellar, "founder")
    done = set_up(cellar)

    assert done.returncode == 0
    assert cellar.server.client().get_bucket_versioning(Bucket=cellar.bucket)["Status"] == "Enabled"


@pytest.mark.parametrize("how", ["not allowed", "denied"])
@pytest.mark.parametrize("action", ["s3:PutBucketVersioning", "s3:GetBucketVersioning", "s3:ListBucket"])
def test_a_founder_without_one_right_is_told_which(cellar: Cellar, action: str, how: How) -> None:
    become(cellar.home, cellar, "founder", without=action, how=how)
    done = set_up(cellar)

    assert done.returncode == 3
    assert needed(done.stdout + done.stderr) == {action}
    assert "Status" not in cellar.server.client().get_bucket_versioning(Bucket=cellar.bucket)
    # The rest is done all the same, as far as this server can; without any access there is no rest.
    assert ("the policy of a writer" in done.stdout) is (action != "s3:ListBucket")


# Who cleans up


def abandon(cellar: Cellar) -> str:
    """An object that no branch names any more; its oid."""
    cellar.git("checkout", "-q", "-b", "topic")
    oid = cellar.add("topic.bin", 1000, seed=1)
    cellar.push()
    cellar.git("checkout", "-q", "main")
    cellar.git("branch", "-q", "-D", "topic")
    cellar.git("push", "-q", "origin", ":topic")
    cellar.git("reflog", "expire", "--expire=now", "--all")
    return oid


def clean_up(cellar: Cellar) -> list[Done]:
    """Both runs."""
    words = ["lfs-agent", "gc", "--grace", "0s", "--apply"]
    runs = [words, [*words, "--expect-objects", "1", "--expect-bytes", "1000"]]
    return [cellar.home.run(*run, cwd=cellar.work, check=False) for run in runs]


def test_a_collector_marks_and_deletes(cellar: Cellar) -> None:
    abandon(cellar)
    become(cellar.home, cellar, "collector")
    mark = cellar.server.mark()
    assert [done.returncode for done in clean_up(cellar)] == [0, 0]
    assert cellar.keys() == []
    assert 403 not in {request.status for request in cellar.server.requests(mark, ledger=True)}


@pytest.mark.parametrize("how", ["not allowed", "denied"])
@pytest.mark.parametrize("action", ["s3:DeleteObject", "s3:PutObject", "s3:ListBucket"])
def test_a_collector_without_one_right_deletes_nothing_and_is_told_which(cellar: Cellar, action: str, how: How) -> None:
    oid = abandon(cellar)
    become(cellar.home, cellar, "collector", without=action, how=how)
    last = clean_up(cellar)[-1 if action == "s3:DeleteObject" else 0]
    assert last.returncode == 3
    assert needed(last.stdout + last.stderr) == {action}
    assert cellar.keys() == [cellar.key(oid)]


def test_a_writer_who_may_not_register_the_repository_has_pushed_nothing(cellar: Cellar) -> None:
    """Unregistered, it could lose what it has pushed."""
    assert isinstance(cellar.server, VersitygwWithUsers)
    document = policy_of("writer", S3Target(cellar.bucket, cellar.prefix))
    where = f"arn:aws:s3:::{cellar.bucket}/{cellar.prefix}/.lfs-agent/*"
    document["Statement"].append({"Effect": "Deny", "Action": "s3:PutObject", "Resource": where})
    cellar.home.environ.update(cellar.server.environ_of(f"writer-{next(_users)}", json.dumps(document)))
    cellar.add("small.bin", 1000, seed=1)
    refused = cellar.push(check=False)
    assert refused.returncode != 0
    assert "this repository could not be registered beside its objects" in refused.stderr
    assert "s3:PutObject is needed" in refused.stderr


# Who clears up


def left_behind(cellar: Cellar) -> None:
    """An upload that nobody will finish."""
    client = cellar.server.client()
    client.create_multipart_upload(Bucket=cellar.bucket, Key=cellar.key("ab" * 32))


def clear_up(cellar: Cellar) -> Done:
    arguments = ["uploads", "--abort", "--older-than", "0s"]
    return cellar.home.run("lfs-agent", *arguments, cwd=cellar.work, check=False)


def test_a_caretaker_clears_up_with_three_rights(cellar: Cellar) -> None:
    become(cellar.home, cellar, "caretaker")
    left_behind(cellar)
    done = clear_up(cellar)

    assert done.returncode == 0
    assert done.stdout.startswith("aborted")
    assert unfinished(cellar) == 0
    fill(cellar)
    assert cellar.push(check=False).returncode != 0


@pytest.mark.parametrize("how", ["not allowed", "denied"])
@pytest.mark.parametrize(
    "action", ["s3:ListBucketMultipartUploads", "s3:ListMultipartUploadParts", "s3:AbortMultipartUpload"]
)
def test_a_caretaker_without_one_of_them_is_told_which(cellar: Cellar, action: str, how: How) -> None:
    become(cellar.home, cellar, "caretaker", without=action, how=how)
    left_behind(cellar)
    done = clear_up(cellar)

    assert done.returncode == 3
    assert needed(done.stdout + done.stderr) == {action}
    assert unfinished(cellar) == 1


@pytest.mark.parametrize("name", ["reader", "writer"])
def test_neither_a_reader_nor_a_writer_lists_what_is_unfinished(cellar: Cellar, name: Role) -> None:
    become(cellar.home, cellar, name)
    left_behind(cellar)
    done = clear_up(cellar)

    assert done.returncode == 3
    assert needed(done.stderr) == {"s3:ListBucketMultipartUploads"}
    assert unfinished(cellar) == 1


# Without the right to list, S3 says of a missing key that it is forbidden; versitygw does not


def hiding(cellar: Cellar) -> FaultProxy:
    """The server as S3 is for who may not list the bucket."""
    server = cellar.server
    assert isinstance(server, VersitygwWithUsers)
    message = (
        'User: arn:aws:iam::123456789012:user/vera is not authorized to perform: s3:ListBucket on resource: "arn:aws'
        f':s3:::{cellar.bucket}" because no identity-based policy allows the s3:ListBucket action'
    )
    body = f"<Error><Code>AccessDenied</Code><Message>{message}</Message></Error>".encode()

    def plan(seen: Seen) -> tuple[Action, ...]:
        _, bucket, *key = seen.path.split("/", 2)
        hidden = seen.method in ("HEAD", "GET") and any(key) and not server.object_file(bucket, key[0]).exists()
        return (Answer(403, body=body),) if hidden and "uploadId" not in seen.query else ()

    return FaultProxy(server.endpoint, plan)


def test_without_the_right_to_list_a_push_goes_on_and_verify_says_which_right_would_tell(cellar: Cellar) -> None:
    become(cellar.home, cellar, "writer", without="s3:ListBucket")
    small, large = fill(cellar)
    with hiding(cellar) as proxy:
        cellar.home.environ["AWS_ENDPOINT_URL_S3"] = proxy.endpoint
        unknown = cellar.home.run("lfs-agent", "verify", cwd=cellar.work, check=False)
        cellar.push()
        puts = [seen for seen in proxy.requests if seen.method == "PUT" and "partNumber" not in seen.query]
        present = cellar.home.run("lfs-agent", "verify", cwd=cellar.work)
        mark = cellar.server.mark()
        cellar.git("lfs", "push", "--all", "origin")
        again = asked(cellar, mark)

    assert unknown.returncode == 3
    assert "2 unknown" in unknown.stdout
    assert needed(unknown.stdout) == {"s3:ListBucket"}
    assert "missing" not in unknown.stdout.replace("missing or forbidden", "")
    assert [seen.headers["if-none-match"] for seen in puts] == ["*"]
    assert (stored(cellar, small), stored(cellar, large)) == (random_bytes(1000, 1), random_bytes(LARGE, 2))
    assert "2 present" in present.stdout
    # The small one is sent in vain, once; and each worker asks for a list that would have the marks.
    assert again - Counter(PutObject=1, ListObjectsV2=2) == {"HeadObject": 2}


def test_without_the_right_to_list_a_push_of_what_is_there_is_refused_a_list_once(cellar: Cellar) -> None:
    for number in range(80):
        cellar.write(f"{number}.bin", 1000, number)
    cellar.commit("Fill the cellar")
    cellar.push()
    become(cellar.home, cellar, "writer", without="s3:ListBucket")
    mark = cellar.server.mark()
    cellar.git("lfs", "push", "--all", "origin")

    requests = [request for request in cellar.server.requests(mark) if request.bucket == cellar.bucket]
    assert [request.status for request in requests if request.operation == "ListObjectsV2"] == [403]
    assert len([request for request in requests if request.operation == "HeadObject"]) == 80


def test_without_the_right_to_list_a_pull_of_what_is_missing_says_which_right_would_tell(
    cellar: Cellar, second_home: Home, tmp_path: Path
) -> None:
    small, _ = fill(cellar)
    cellar.push()
    cellar.server.client().delete_object(Bucket=cellar.bucket, Key=cellar.key(small))
    second_home.install()
    become(second_home, cellar, "reader", without="s3:ListBucket")
    with hiding(cellar) as proxy:
        second_home.environ["AWS_ENDPOINT_URL_S3"] = proxy.endpoint
        refused = second_home.git("clone", "-q", cellar.origin, tmp_path / "clone", check=False)

    assert refused.returncode != 0
    assert needed(refused.stderr) == {"s3:ListBucket"}
