"""The documentation is true: the commands of its `console` blocks run, as they stand, and say what it shows (D1).

Names stand for what a test provides: `my-cellar` is a bucket, `git@git.example:you/…` are repositories at a host.
"""

import hashlib
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from lfs_agent.policy import Role, text_of
from tests.amazon import Entry, Inventory, JobReport, succeeded
from tests.cellar import Cellar, random_bytes
from tests.e2e.conftest import HomeOf, with_ages
from tests.machine import Home
from tests.servers import Server

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
HOST = "git@git.example:you/"
MODEL = random_bytes(20 << 20, seed=7)


@dataclass(frozen=True)
class Step:
    """A command, and the lines that the page shows of its output; `…` in them stands for anything."""

    command: str
    output: Sequence[str]


def steps_of(page: Path) -> list[Step]:
    """The commands in all `console` blocks of a page, in order."""
    blocks = re.findall(r"^```console\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    return [step for block in blocks for step in _steps(block)]


def _steps(block: str) -> Iterator[Step]:
    for text in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        command, *output = text.splitlines()
        yield Step(command, [line for line in output if line.strip()])


def follow(page: Path, home: Home, **environ: str) -> None:
    """Does what the page says, in one shell that begins in the home folder."""
    steps = steps_of(page)
    script = "exec 2>&1\n" + "".join(f"printf '\\001'\n{step.command} || exit\n" for step in steps)
    done = home.run("bash", "-c", script, check=False, env=environ)
    said = done.stdout.split("\1")[1:]
    assert done.returncode == 0, f"{steps[len(said) - 1].command}\n{said[-1] if said else done.stdout}"
    for step, output in zip(steps, said, strict=True):
        assert _shows(output, step.output), f"{step.command}\n{output}"


def _shows(output: str, lines: Sequence[str]) -> bool:
    """Whether a page's lines are among those of an output; the pages have columns where a pipe gets tabs."""
    output, *lines = (re.sub(r"[ \t]+", " ", text) for text in (output, *lines))
    patterns = (".*".join(map(re.escape, line.split("…"))) for line in lines)
    return re.search(".*^" + ".*^".join(patterns), output, re.DOTALL | re.MULTILINE) is not None


def at_host(home: Home, name: str) -> Path:
    """An empty repository at the host that the pages name."""
    repository = home.folder.parent / "host" / f"{name}.git"
    if not repository.exists():
        home.git("init", "-q", "--bare", repository)
    home.git("config", "--global", f"url.{repository.parent}/.insteadOf", HOST)
    return repository


def make_bucket(server: Server, name: str) -> None:
    """An empty bucket of exactly this name; the pages of one worker use it one after another."""
    client = server.client()
    if name in {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}:
        for key in server.keys(name, ledger=True):
            client.delete_object(Bucket=name, Key=key)
    else:
        client.create_bucket(Bucket=name)


def forget_bucket(server: Server, name: str) -> None:
    """Deletes it, with all versions: the other pages begin with a bucket that keeps none."""
    client = server.client()
    listed = client.list_object_versions(Bucket=name)
    for entry in [*listed.get("Versions", []), *listed.get("DeleteMarkers", [])]:
        client.delete_object(Bucket=name, Key=entry["Key"], VersionId=entry["VersionId"])
    client.delete_bucket(Bucket=name)


@pytest.fixture
def reader(home: Home, any_server: Server) -> Home:
    """Somebody who reads a page: has a bucket, keys, a repository at the host, and a model."""
    home.environ.update(any_server.environ())
    make_bucket(any_server, "my-cellar")
    at_host(home, "cellar")
    (home.folder / "model.safetensors").write_bytes(MODEL)
    return home


@pytest.fixture
def cellar_at_host(reader: Home, any_server: Server) -> Cellar:
    """The cellar that a how-to begins with: in ~/cellar, at the host, one bin pushed."""
    reader.install()
    origin = at_host(reader, "cellar")
    cellar = Cellar(reader, any_server, "my-cellar", "weights", origin, reader.folder / "cellar")
    cellar.build()
    cellar.git("remote", "set-url", "origin", f"{HOST}cellar.git")
    (cellar.work / "vit-l" / "0.1").mkdir(parents=True)
    (cellar.work / "vit-l" / "0.1" / "model.safetensors").write_bytes(MODEL)
    cellar.commit("Add ViT-L 0.1")
    cellar.push()
    return cellar


def test_the_tutorial_takes_at_most_ten_commands_and_brings_the_model_back(reader: Home) -> None:
    page = DOCS / "tutorial.md"
    follow(page, reader)
    assert (reader.folder / "elsewhere" / "vit-l" / "0.1" / "model.safetensors").read_bytes() == MODEL
    assert len(steps_of(page)) <= 10


def test_the_five_commands_of_the_readme_push(reader: Home, any_server: Server) -> None:
    reader.git("clone", "-q", f"{HOST}cellar.git", reader.folder / "work")
    (reader.folder / "work" / "model.safetensors").write_bytes(MODEL)
    block = re.search(r"```console\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert block
    install, *commands = [line.removeprefix("$ ").partition("  #")[0] for line in block[1].splitlines()]
    assert install.startswith("pipx install")  # done: the tests run an installed agent
    assert len(commands) == 4
    for command in commands:
        reader.run("bash", "-c", command.replace("BUCKET/PREFIX", "my-cellar/weights"), cwd=reader.folder / "work")
    assert len(any_server.keys("my-cellar", "weights/")) == 1


def test_plain_git(reader: Home, any_server: Server) -> None:
    """Over a model of which git itself has two versions."""
    origin = at_host(reader, "plain-cellar")
    work = reader.folder / "before"
    reader.git("clone", "-q", f"{HOST}plain-cellar.git", work)
    for content in (MODEL[:1000], MODEL):
        (work / "model.safetensors").write_bytes(content)
        reader.git("add", "model.safetensors", cwd=work)
        reader.git("commit", "-q", "-m", "Add a model", cwd=work)
    reader.git("push", "-q", "origin", "HEAD", cwd=work)
    reader.install()
    follow(DOCS / "how-to" / "plain-git.md", reader)
    assert len(any_server.keys("my-cellar", "weights/")) == 2
    for commit in ("main", "main~2"):
        assert reader.git("show", f"{commit}:model.safetensors", cwd=origin).stdout.startswith(
            "version https://git-lfs"
        )


def test_new_machine(cellar_at_host: Cellar, home_of: HomeOf) -> None:
    other = home_of("otto")
    other.environ.update(cellar_at_host.server.environ())
    at_host(other, "cellar")
    follow(DOCS / "how-to" / "new-machine.md", other)
    for folder in ("cellar", "part"):
        assert (other.folder / folder / "vit-l" / "0.1" / "model.safetensors").read_bytes() == MODEL


@pytest.mark.parametrize("filters", [True, False], ids=["git-lfs install", "nothing"])
def test_a_clone_from_before_the_installation_is_finished(
    cellar_at_host: Cellar, home_of: HomeOf, *, filters: bool
) -> None:
    """With git-lfs's filters its checkout failed; without them files are pointers."""
    other = home_of("otto")
    other.environ.update(cellar_at_host.server.environ())
    at_host(other, "cellar")
    if filters:
        other.git("lfs", "install")
    other.git("clone", "-q", f"{HOST}cellar.git", other.folder / "cellar", check=False)
    other.install()
    part = other.folder / "part.md"
    part.write_text((DOCS / "how-to" / "new-machine.md").read_text().partition("## A clone that stopped")[2])
    follow(part, other)
    assert (other.folder / "cellar" / "vit-l" / "0.1" / "model.safetensors").read_bytes() == MODEL


def test_verify(cellar_at_host: Cellar) -> None:
    follow(DOCS / "how-to" / "verify.md", cellar_at_host.home)


def test_verify_at_rest(cellar_at_host: Cellar) -> None:
    """Over an inventory and a report that were copied from Amazon."""
    cellar, home = cellar_at_host, cellar_at_host.home.folder
    key = cellar.key(hashlib.sha256(MODEL).hexdigest())
    etag = cellar.server.client().head_object(Bucket="my-cellar", Key=key)["ETag"]
    Inventory(home / "my-cellar" / "daily", "my-cellar").write([Entry(key, len(MODEL))])
    JobReport(home / "cellar-job" / "job-1f2e").write([succeeded("my-cellar", key, MODEL, etag)])
    follow(DOCS / "how-to" / "verify-at-rest.md", cellar.home)


def test_repair(cellar_at_host: Cellar) -> None:
    """Over a store that has lost one object; the page's second half finds another one damaged."""
    cellar = cellar_at_host
    client = cellar.server.client()
    oid = hashlib.sha256(MODEL).hexdigest()
    client.delete_object(Bucket="my-cellar", Key=cellar.key(oid))
    page = (DOCS / "how-to" / "repair.md").read_text()
    first, _, second = page.partition("## Replace what is damaged")
    for number, half in enumerate((first, second)):
        part = cellar.home.folder / f"part-{number}.md"
        part.write_text(half if number == 0 else f"```console\n$ cd ~/cellar\n```\n{half}")
        follow(part, cellar.home)
        assert client.get_object(Bucket="my-cellar", Key=cellar.key(oid))["Body"].read() == MODEL
        client.put_object(Bucket="my-cellar", Key=cellar.key(oid), Body=bytes(len(MODEL)))


def test_prune(cellar_at_host: Cellar) -> None:
    """Over an object that a second version has replaced."""
    old = hashlib.sha256(MODEL).hexdigest()
    new = cellar_at_host.add("vit-l/0.1/model.safetensors", 1 << 20, seed=8)
    cellar_at_host.push()
    follow(DOCS / "how-to" / "prune.md", cellar_at_host.home)
    assert not cellar_at_host.local_object(old).exists()
    assert cellar_at_host.local_object(new).exists()


def test_gc(cellar_at_host: Cellar) -> None:
    """Over an object of a branch that is gone, a week older in each part of the page."""
    cellar = cellar_at_host
    server, client = with_ages(cellar.server), cellar.server.client()
    cellar.git("checkout", "-q", "-b", "topic")
    oid = cellar.add("vit-l/0.2/model.safetensors", 1 << 20, seed=8)
    cellar.push()
    cellar.git("checkout", "-q", "main")
    cellar.git("branch", "-q", "-D", "topic")
    cellar.git("push", "-q", "origin", ":topic")
    cellar.git("reflog", "expire", "--expire=now", "--all")
    long_ago = time.time() - 8 * 86400
    os.utime(server.object_file("my-cellar", cellar.key(oid)), (long_ago, long_ago))
    page = (DOCS / "how-to" / "gc.md").read_text()
    first, second = page.split("## A later run deletes")
    part = cellar.home.folder / "part.md"
    part.write_text(first)
    follow(part, cellar.home)
    marks: Any = {"Bucket": "my-cellar", "Key": "weights/.lfs-agent/gc/marks.jsonl"}
    heading, mark = client.get_object(**marks)["Body"].read().decode().splitlines()
    older = {**json.loads(mark), "marked": int(long_ago)}
    client.put_object(**marks, Body=f"{heading}\n{json.dumps(older)}\n".encode())
    part.write_text(f"```console\n$ cd ~/cellar\n```\n{second}")
    follow(part, cellar.home)
    assert cellar.keys() == [cellar.key(sha256(MODEL).hexdigest())]


def test_unfinished_uploads(cellar_at_host: Cellar) -> None:
    """Over an upload that somebody left, older than the page asks for."""
    server = with_ages(cellar_at_host.server)
    client = server.client()
    left = f"weights/ab/ab/{'ab' * 32}"
    upload_id = client.create_multipart_upload(Bucket="my-cellar", Key=left)["UploadId"]
    for number in (1, 2):
        client.upload_part(Bucket="my-cellar", Key=left, UploadId=upload_id, PartNumber=number, Body=b"part")
    server.age_upload("my-cellar", upload_id, begun_s=8 * 86400)
    follow(DOCS / "how-to" / "unfinished-uploads.md", cellar_at_host.home)
    assert client.list_multipart_uploads(Bucket="my-cellar").get("Uploads", []) == []


def push_to_host(home: Home, name: str, seeds: Sequence[int]) -> None:
    """Versions of a model at a host that keeps their objects itself."""
    repository, work = at_host(home, name), home.folder / "hosted"
    home.git("clone", "-q", repository, work)
    home.git("lfs", "track", "*.safetensors", cwd=work)
    for seed in seeds:
        (work / "model.safetensors").write_bytes(random_bytes(1000, seed))
        home.git("add", "-A", cwd=work)
        home.git("commit", "-q", "-m", f"Version {seed}", cwd=work)
    home.git("push", "-q", "origin", "HEAD", cwd=work)


def test_adopt(reader: Home, any_server: Server) -> None:
    """A repository as lfs-dal leaves one."""
    reader.install()
    repository, work = at_host(reader, "old-cellar"), reader.folder / "work"
    reader.git("init", "-q", work)
    for key, value in {"scheme": "s3", "bucket": "my-cellar", "root": "/old"}.items():
        reader.git("config", "--file", ".lfsdalconfig", f"lfs-dal.{key}", value, cwd=work)
    reader.git("lfs", "track", "*.safetensors", cwd=work)
    (work / "model.safetensors").write_bytes(MODEL)
    reader.git("add", "-A", cwd=work)
    reader.git("commit", "-q", "-m", "Add the model", cwd=work)
    reader.git("push", "-q", "--no-verify", repository, "HEAD:main", cwd=work)
    any_server.client().put_object(Bucket="my-cellar", Key=f"old/{sha256(MODEL).hexdigest()}", Body=MODEL)
    push_to_host(reader, "hosted-cellar", seeds=(1, 2))
    follow(DOCS / "how-to" / "adopt.md", reader, GIT_LFS_SKIP_SMUDGE="1")


def test_s3_setup(cellar_at_host: Cellar) -> None:
    try:
        follow(DOCS / "how-to" / "s3-setup.md", cellar_at_host.home)
    finally:
        forget_bucket(cellar_at_host.server, "my-cellar")


def test_doctor(cellar_at_host: Cellar) -> None:
    follow(DOCS / "how-to" / "doctor.md", cellar_at_host.home)


GH008 = """\
#!/bin/sh
# Refuses, as GitHub does, commits with pointers where no lfs.url is committed.
while read -r _ new _; do
    git config --blob "$new:.lfsconfig" --get lfs.url >/dev/null && continue
    if git grep -q '^version https://git-lfs.github.com/spec/v1' "$new"; then
        echo "error: GH008: Your push referenced at least 1 unknown Git LFS object" >&2
        exit 1
    fi
done
"""


def test_a_host_that_refuses_unknown_pointers_takes_those_of_the_recipe(reader: Home, any_server: Server) -> None:
    reader.install()
    hook = at_host(reader, "cellar") / "hooks" / "pre-receive"
    hook.write_text(GH008)
    hook.chmod(0o755)

    naive = reader.folder / "naive"
    reader.git("clone", "-q", f"{HOST}cellar.git", naive)
    reader.git("config", "lfs.url", "s3::my-cellar/weights", cwd=naive)
    (naive / "model.safetensors").write_bytes(MODEL)
    reader.git("lfs", "track", "*.safetensors", cwd=naive)
    reader.git("add", ".gitattributes", "model.safetensors", cwd=naive)
    reader.git("commit", "-q", "-m", "Add the model", cwd=naive)
    assert "GH008" in reader.git("push", "origin", "HEAD", cwd=naive, check=False).stderr
    warned = reader.run("lfs-agent", "doctor", cwd=naive, check=False).stdout
    assert "warning\t.lfsconfig\tonly your configuration names the store" in warned

    follow(DOCS / "how-to" / "host.md", reader)
    assert reader.git("ls-remote", f"{HOST}cellar.git", "main").stdout


def test_ci(cellar_at_host: Cellar, home_of: HomeOf) -> None:
    runner = home_of("runner")
    runner.environ.update(cellar_at_host.server.environ())
    at_host(runner, "cellar")
    follow(DOCS / "how-to" / "ci.md", runner)
    assert (runner.folder / "job" / "vit-l" / "0.1" / "model.safetensors").read_bytes() == MODEL


def test_credentials_and_endpoints(reader: Home) -> None:
    for name in ("work", "wine"):
        config = reader.folder / ".aws" / "config"
        config.parent.mkdir(exist_ok=True)
        with config.open("a") as file:
            file.write(f"[profile {name}]\nregion = us-east-1\n")
    follow(DOCS / "how-to" / "credentials.md", reader)
    follow(DOCS / "how-to" / "s3-compatible.md", reader)


def test_shared_folder(cellar_at_host: Cellar, tmp_path: Path) -> None:
    """As the page has it, but for the place of the share: a test may not write to /srv."""
    page = tmp_path / "page.md"
    share = tmp_path / "share"
    page.write_text((DOCS / "how-to" / "shared-folder.md").read_text().replace("/srv/share", str(share)))
    work = cellar_at_host.work
    (work / ".lfsconfig").unlink()
    cellar_at_host.commit("Begin without a store")
    cellar_at_host.git("push", "-q", "--set-upstream", "origin", "main")
    cellar_at_host.write("vit-l/0.2/model.safetensors", 1 << 20, seed=8)
    cellar_at_host.git("add", "vit-l")
    follow(page, cellar_at_host.home)
    assert len([path for path in (share / "cellar").glob("??/??/*") if path.is_file()]) == 1


def test_two_remotes(cellar_at_host: Cellar, any_server: Server) -> None:
    """In a clone that has the objects of its checkout only."""
    make_bucket(any_server, "my-backup")
    cellar_at_host.add("vit-l/0.1/model.safetensors", 1 << 20, seed=8)
    cellar_at_host.push()
    cellar_at_host.local_object(hashlib.sha256(MODEL).hexdigest()).unlink()
    branch_at_host(cellar_at_host)
    at_host(cellar_at_host.home, "backup")
    follow(DOCS / "how-to" / "two-remotes.md", cellar_at_host.home)
    assert any_server.keys("my-backup") == any_server.keys("my-cellar") != []


def branch_at_host(cellar: Cellar) -> bytes:
    """Pushes a branch that this clone has not checked out then; the content of its only object."""
    cellar.git("checkout", "-q", "-b", "trial")
    cellar.add("vit-l/trial/model.safetensors", 50_000, seed=9)
    cellar.push()
    cellar.git("checkout", "-q", "main")
    cellar.git("branch", "-q", "-D", "trial")
    cellar.git("remote", "set-head", "origin", "main")
    return random_bytes(50_000, 9)


def test_ml_cellar(reader: Home, ml_cellar: Path) -> None:
    path = f"{ml_cellar.parent}:{reader.environ['PATH']}"
    follow(DOCS / "how-to" / "ml-cellar.md", reader, PATH=path)
    assert (reader.folder / "elsewhere" / "cellar" / "vit-l" / "0.1" / "model.safetensors").read_bytes() == MODEL


AWS = """\
#!{python}
import sys, pathlib, boto3
_, _, sync, option, pattern, source, target = sys.argv
assert (sync, option, pattern) == ("sync", "--exclude", ".lfs-agent/*")
bucket, _, prefix = source.removeprefix("s3://").partition("/")
s3 = boto3.client("s3")
for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix + "/"):
    for entry in page["Contents"]:
        if entry["Key"].startswith(prefix + "/.lfs-agent/"):
            continue
        file = pathlib.Path(target, entry["Key"].removeprefix(prefix + "/"))
        file.parent.mkdir(parents=True, exist_ok=True)
        s3.download_file(bucket, entry["Key"], str(file))
"""
"""What the page needs of `aws s3 sync`, for machines without it."""


def test_leave(cellar_at_host: Cellar, tmp_path: Path) -> None:
    """To an ordinary store: for a remote that is a path git-lfs keeps the objects beside the repository itself."""
    home = cellar_at_host.home
    aws = tmp_path / "bin" / "aws"
    aws.parent.mkdir()
    aws.write_text(AWS.format(python=sys.executable))
    aws.chmod(0o755)
    trial = branch_at_host(cellar_at_host)
    shutil.rmtree(cellar_at_host.work / ".git" / "lfs" / "objects")
    follow(DOCS / "how-to" / "leave.md", home, PATH=f"{aws.parent}:{home.environ['PATH']}")
    stored = [path for path in (cellar_at_host.origin / "lfs" / "objects").rglob("*") if path.is_file()]
    assert {path.read_bytes() for path in stored} == {MODEL, trial}


def test_the_policies_allow_what_the_agent_asks_and_no_more() -> None:
    """Which right a call needs: Amazon's service authorization reference."""
    right = {
        "head_object": "s3:GetObject",
        "get_object": "s3:GetObject",
        "put_object": "s3:PutObject",
        "create_multipart_upload": "s3:PutObject",
        "upload_part": "s3:PutObject",
        "complete_multipart_upload": "s3:PutObject",
        "abort_multipart_upload": "s3:AbortMultipartUpload",
        "list_objects_v2": "s3:ListBucket",
        "list_parts": "s3:ListMultipartUploadParts",
        "list_multipart_uploads": "s3:ListBucketMultipartUploads",
        "delete_object": "s3:DeleteObject",
    }
    transfers, clearing_up, collecting = _calls("s3.py"), _calls("s3uploads.py"), _calls("s3stock.py")
    assert transfers | clearing_up | collecting == set(right)
    assert _allowed("repairer") == _allowed("writer") == {right[call] for call in transfers}
    assert _allowed("reader") == {"s3:GetObject", "s3:ListBucket"}
    # What it writes is never in parts; but what a store can do is found out by an upload that is given up.
    assert _allowed("collector") == {right[call] for call in collecting | {"put_object", "abort_multipart_upload"}}
    assert _allowed("caretaker") == {right[call] for call in clearing_up | {"list_parts"}}


def test_the_policies_of_batch_jobs_are_json_and_let_amazon_run_them() -> None:
    """No server that we can run knows them."""
    folder = DOCS / "how-to" / "policies"
    trust, role, creator = (json.loads((folder / f"batch-{name}.json").read_text()) for name in BATCH)
    assert trust["Statement"][0]["Principal"] == {"Service": "batchoperations.s3.amazonaws.com"}
    assert [each["Action"] for each in role["Statement"]] == [["s3:GetObject", "s3:GetObjectVersion"], "s3:PutObject"]
    assert [each["Action"] for each in creator["Statement"]][:2] == ["s3:CreateJob", "iam:PassRole"]


BATCH = ("trust", "role", "creator")


def _calls(module: str) -> set[str]:
    """boto3's calls that a module of the store makes."""
    text = (ROOT / "lfs_agent" / "store" / module).read_text()
    return set(
        re.findall(r'"((?:head|get|put|create|upload|complete|abort|list|delete)_\w*(?:object|upload|part)\w*)"', text)
    )


@pytest.mark.parametrize("server", ["localstack", "ceph"], indirect=True)
def test_the_documented_lifecycle_rule_is_one(server: Server) -> None:
    client = server.client()
    client.create_bucket(Bucket="with-a-rule")
    rule = json.loads((DOCS / "how-to" / "policies" / "lifecycle.json").read_text())
    client.put_bucket_lifecycle_configuration(Bucket="with-a-rule", LifecycleConfiguration=rule)
    kept = client.get_bucket_lifecycle_configuration(Bucket="with-a-rule")["Rules"][0]
    assert kept["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 7}


def _allowed(name: Role) -> set[str]:
    policy = json.loads(text_of(name))
    actions = [statement["Action"] for statement in policy["Statement"]]
    return {word for action in actions for word in ([action] if isinstance(action, str) else action)}
