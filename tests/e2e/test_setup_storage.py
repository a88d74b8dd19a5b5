"""`lfs-agent setup-storage` makes a bucket right, as far as the server can, and breaks nobody's rules (C8)."""

import itertools
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from lfs_agent.policy import policy
from lfs_agent.store.url import S3Target
from tests.cellar import Cellar
from tests.machine import Home
from tests.proxy import ACCESS_DENIED, Answer, FaultProxy, Faults, Rule
from tests.servers import Server

KEY = "arn:aws:kms:us-east-1:123456789012:key/0b5a2c1e-0000-4000-8000-000000000000"
UNKNOWN_TO = {
    "localstack": set[str](),
    "ceph": set[str](),
    "versitygw": {"public access block", "lifecycle", "encryption"},
}
_numbers = itertools.count(1)

with_rules = pytest.mark.parametrize("server", ["localstack", "ceph"], indirect=True)
on_localstack = pytest.mark.parametrize("server", ["localstack"], indirect=True)


@pytest.fixture
def unmade(home: Home, this_server: Server, tmp_path: Path) -> Cellar:
    """A cellar whose bucket is not there yet."""
    home.environ.update(this_server.environ())
    home.install()
    bucket = f"unmade-{os.getpid()}-{next(_numbers)}"
    cellar = Cellar(home, this_server, bucket, "weights", tmp_path / "origin.git", tmp_path / "work")
    cellar.build()
    return cellar


def run(cellar: Cellar, *arguments: str) -> subprocess.CompletedProcess[str]:
    return cellar.home.run("lfs-agent", "setup-storage", *arguments, cwd=cellar.work, check=False)


def setup(cellar: Cellar, *arguments: str, status: int = 0) -> dict[str, dict[str, Any]]:
    """The lines of `--json`, by step."""
    done = run(cellar, "--json", *arguments)
    assert done.returncode == status, done.stdout + done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert all(list(line) == ["step", "status", "text", "document"] for line in lines)
    assert [line["step"] for line in lines] == [
        *("bucket", "versioning", "public access block", "lifecycle", "encryption", "reader", "writer")
    ]
    return {line["step"]: line for line in lines}


def statuses(steps: dict[str, dict[str, Any]]) -> dict[str, str]:
    return {name: step["status"] for name, step in steps.items() if step["status"] != "policy"}


def written(cellar: Cellar, mark: int) -> list[str]:
    """The requests that could have changed something."""
    requests = cellar.server.requests(mark)
    return [f"{request.method} {request.operation}" for request in requests if request.method not in ("GET", "HEAD")]


def rules(cellar: Cellar) -> list[Any]:
    """In an order of their own: that for unfinished uploads before the other one."""
    found = cellar.server.client().get_bucket_lifecycle_configuration(Bucket=cellar.bucket)
    return sorted(found["Rules"], key=lambda rule: "AbortIncompleteMultipartUpload" not in rule)


def test_an_empty_server_gets_a_bucket_that_is_right_and_a_second_run_changes_nothing(
    server: Server, unmade: Cellar
) -> None:
    client, unknown = server.client(), UNKNOWN_TO[server.name]
    mark = server.mark()
    planned = setup(unmade, "--dry-run")
    assert written(unmade, mark) == []
    assert unmade.bucket not in {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}
    todo = {"bucket": "todo", "versioning": "todo", "public access block": "todo", "lifecycle": "todo"}
    assert statuses(planned) == {**todo, "encryption": "ok"}

    done = setup(unmade)
    assert client.get_bucket_versioning(Bucket=unmade.bucket)["Status"] == "Enabled"
    for step in unknown:
        assert done[step]["status"] == "cannot"
        assert "501 NotImplemented" in done[step]["text"]
    if not unknown:
        block = client.get_public_access_block(Bucket=unmade.bucket)["PublicAccessBlockConfiguration"]
        assert [
            name for name in ("BlockPublicPolicy", "IgnorePublicAcls", "RestrictPublicBuckets") if not block[name]
        ] == []
        unfinished, noncurrent = rules(unmade)
        assert unfinished["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 7}
        assert noncurrent["NoncurrentVersionExpiration"] == {"NoncurrentDays": 30}
        assert [rule["Filter"] for rule in (unfinished, noncurrent)] == [{"Prefix": "weights/"}] * 2
        assert {rule["Status"] for rule in (unfinished, noncurrent)} == {"Enabled"}

    mark = server.mark()
    again = setup(unmade)
    assert written(unmade, mark) == []
    assert set(statuses(again).values()) == ({"ok", "cannot"} if unknown else {"ok"})

    oid = unmade.add("weights.bin", 1000)
    unmade.push()
    assert unmade.keys() == [unmade.key(oid)]


def test_a_dry_run_over_a_bucket_that_is_there_writes_nothing(server: Server, cellar: Cellar) -> None:
    mark = server.mark()
    planned = statuses(setup(cellar, "--dry-run"))
    assert written(cellar, mark) == []
    assert (planned["bucket"], planned["versioning"]) == ("ok", "todo")
    assert "Status" not in server.client().get_bucket_versioning(Bucket=cellar.bucket)


def test_versioning_that_was_suspended_is_enabled_again(cellar: Cellar) -> None:
    client = cellar.server.client()
    client.put_bucket_versioning(Bucket=cellar.bucket, VersioningConfiguration={"Status": "Suspended"})
    assert setup(cellar)["versioning"]["status"] == "done"
    assert client.get_bucket_versioning(Bucket=cellar.bucket)["Status"] == "Enabled"


@with_rules
def test_rules_of_others_stay_as_they_are(server: Server, cellar: Cellar) -> None:
    client = server.client()
    foreign: list[Any] = [
        {
            "ID": "theirs",
            "Status": "Enabled",
            "Filter": {"And": {"Prefix": "logs/", "Tags": [{"Key": "kind", "Value": "trace"}]}},
            "Expiration": {"Days": 5},
        },
        {"ID": "off", "Status": "Disabled", "Filter": {"Prefix": "cellar/"}, "Expiration": {"Days": 1}},
    ]
    client.put_bucket_lifecycle_configuration(Bucket=cellar.bucket, LifecycleConfiguration={"Rules": foreign})
    before = {rule["ID"]: rule for rule in rules(cellar)}
    assert "2 other rules kept" in setup(cellar)["lifecycle"]["text"]
    first = {rule["ID"]: rule for rule in rules(cellar)}
    assert {name: first[name] for name in before} == before
    assert len(first) == 4

    other = "lfs.url", f"s3::{cellar.bucket}/another"
    cellar.git("config", "--file", ".lfsconfig", *other)
    setup(cellar)
    both = {rule["ID"]: rule for rule in rules(cellar)}
    assert {name: both[name] for name in first} == first
    assert len(both) == 6

    setup(cellar, "--keep-noncurrent", "90")
    longer = {rule["ID"]: rule for rule in rules(cellar)}
    changed = [name for name in both if both[name] != longer[name]]
    assert len(changed) == 1
    assert longer[changed[0]]["NoncurrentVersionExpiration"] == {"NoncurrentDays": 90}
    mark = server.mark()
    assert "noncurrent versions after 90" in setup(cellar)["lifecycle"]["text"]
    assert written(cellar, mark) == []


@with_rules
@pytest.mark.parametrize(
    "limits, deletes",
    [
        ({"Filter": {"Prefix": ""}}, True),
        ({"Filter": {"Prefix": "cel"}}, True),
        ({"Filter": {"Prefix": "cellar/ab/"}}, True),
        ({"Filter": {"Prefix": "cellar/.lfs-agent/"}}, True),
        ({"Filter": {"Prefix": "cellar/logs/"}}, False),
        ({"Filter": {"Prefix": "cellar-2/"}}, False),
        ({"Filter": {"And": {"Prefix": "cellar/", "Tags": [{"Key": "kind", "Value": "trace"}]}}}, False),
    ],
)
def test_a_rule_that_deletes_what_is_stored_is_named_and_none_is_set(
    server: Server, cellar: Cellar, limits: dict[str, Any], deletes: bool
) -> None:
    rule: Any = {"ID": "tidy", "Status": "Enabled", "Expiration": {"Days": 90}, **limits}
    server.client().put_bucket_lifecycle_configuration(Bucket=cellar.bucket, LifecycleConfiguration={"Rules": [rule]})
    before = rules(cellar)
    done = cellar.home.run("lfs-agent", "setup-storage", cwd=cellar.work, check=False)

    told = "the rule 'tidy' deletes objects of this store (after 90 days), whoever needs them: take it out"
    assert (told in done.stdout) == deletes
    assert done.returncode == (3 if deletes else 0)
    assert (rules(cellar) == before) == deletes


ARCHIVE = b"""\
<LifecycleConfiguration xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Rule>
<ID>archive</ID><Status>Enabled</Status><Filter><Prefix>logs/</Prefix><ArchiveZone /></Filter>
<Expiration><Days>1</Days></Expiration>
</Rule></LifecycleConfiguration>
"""
"""As newer Ceph has it: in all other zones that rule deletes nothing."""


@on_localstack
def test_rules_that_only_the_store_understands_are_not_put_back_without_what_they_say(
    server: Server, cellar: Cellar
) -> None:
    with FaultProxy(server.endpoint, Faults((Rule(Answer(200, body=ARCHIVE), "GET", r"\?lifecycle"),))) as proxy:
        cellar.home.environ["AWS_ENDPOINT_URL_S3"] = proxy.endpoint
        step = setup(cellar, status=3)["lifecycle"]
        assert [seen.method for seen in proxy.requests if "lifecycle" in seen.query] == ["GET"]
    assert step["status"] == "failed"
    told, _, ours = step["text"].partition("until then no rule is set: ")
    assert "say what only this store knows (ArchiveZone)" in told

    cellar.home.environ |= server.environ()
    server.client().put_bucket_lifecycle_configuration(
        Bucket=cellar.bucket, LifecycleConfiguration={"Rules": json.loads(ours)}
    )
    assert setup(cellar)["lifecycle"]["status"] == "ok"


@on_localstack
def test_what_the_bucket_says_of_small_objects_stays(server: Server, cellar: Cellar) -> None:
    client = server.client()
    client.put_bucket_lifecycle_configuration(
        Bucket=cellar.bucket,
        LifecycleConfiguration={
            "Rules": [{"ID": "x", "Status": "Enabled", "Filter": {"Prefix": "x/"}, "Expiration": {"Days": 5}}]
        },
        TransitionDefaultMinimumObjectSize="varies_by_storage_class",
    )
    setup(cellar)
    found = client.get_bucket_lifecycle_configuration(Bucket=cellar.bucket)
    assert found["TransitionDefaultMinimumObjectSize"] == "varies_by_storage_class"


@with_rules
def test_without_a_prefix_the_rules_are_for_all_of_the_bucket(server: Server, cellar: Cellar) -> None:
    cellar.git("config", "--file", ".lfsconfig", "lfs.url", f"s3::{cellar.bucket}")
    steps = setup(cellar)
    assert [rule.get("Filter", {}).get("Prefix", rule.get("Prefix", "")) for rule in rules(cellar)] == ["", ""]
    assert steps["reader"]["document"]["Statement"][0]["Resource"] == f"arn:aws:s3:::{cellar.bucket}/*"
    mark = server.mark()
    setup(cellar)
    assert written(cellar, mark) == []


@on_localstack
def test_with_a_kms_key_the_bucket_has_a_bucket_key_and_the_policies_name_it(server: Server, cellar: Cellar) -> None:
    client = server.client()
    steps = setup(cellar, "--kms", KEY)
    (rule,) = client.get_bucket_encryption(Bucket=cellar.bucket)["ServerSideEncryptionConfiguration"]["Rules"]
    assert rule["ApplyServerSideEncryptionByDefault"] == {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": KEY}
    assert rule["BucketKeyEnabled"] is True
    reader, writer = (steps[role]["document"]["Statement"][-1] for role in ("reader", "writer"))
    assert reader == {"Effect": "Allow", "Action": ["kms:Decrypt"], "Resource": KEY}
    assert writer == {"Effect": "Allow", "Action": ["kms:Decrypt", "kms:GenerateDataKey"], "Resource": KEY}

    mark = server.mark()
    setup(cellar, "--kms", KEY)
    setup(cellar)
    assert written(cellar, mark) == []


@on_localstack
def test_a_bucket_with_kms_gets_a_bucket_key_and_keeps_its_own(server: Server, cellar: Cellar) -> None:
    client = server.client()
    default: Any = {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": KEY}
    client.put_bucket_encryption(
        Bucket=cellar.bucket,
        ServerSideEncryptionConfiguration={
            "Rules": [{"ApplyServerSideEncryptionByDefault": default, "BucketKeyEnabled": False}]
        },
    )
    assert setup(cellar)["encryption"]["status"] == "done"
    (rule,) = client.get_bucket_encryption(Bucket=cellar.bucket)["ServerSideEncryptionConfiguration"]["Rules"]
    assert rule["ApplyServerSideEncryptionByDefault"] == default
    assert rule["BucketKeyEnabled"] is True


@on_localstack
@pytest.mark.parametrize("method, verb", [("GET", "Get"), ("PUT", "Put")])
def test_each_right_that_is_lacking_is_named_where_the_store_does_not(
    server: Server, cellar: Cellar, method: str, verb: str
) -> None:
    server.client().delete_public_access_block(Bucket=cellar.bucket)
    config = r"\?(versioning|publicAccessBlock|lifecycle|encryption)"
    with FaultProxy(server.endpoint, Faults((Rule(ACCESS_DENIED, method, config),))) as proxy:
        cellar.home.environ["AWS_ENDPOINT_URL_S3"] = proxy.endpoint
        steps = setup(cellar, "--kms", KEY, status=3)
    assert statuses(steps) == {"bucket": "ok", **dict.fromkeys(list(steps)[1:5], "failed")}
    assert [step["text"].rpartition("; ")[2] for step in list(steps.values())[1:5]] == [
        f"s3:{verb}BucketVersioning is needed",
        f"s3:{verb}BucketPublicAccessBlock is needed",
        f"s3:{verb}LifecycleConfiguration is needed",
        f"s3:{verb}EncryptionConfiguration is needed",
    ]


@on_localstack
def test_the_right_to_create_is_named(server: Server, unmade: Cellar) -> None:
    with FaultProxy(server.endpoint, Faults((Rule(ACCESS_DENIED, "PUT"),))) as proxy:
        unmade.home.environ["AWS_ENDPOINT_URL_S3"] = proxy.endpoint
        done = run(unmade)
    assert done.returncode == 3
    assert done.stderr.rstrip().endswith("; s3:CreateBucket is needed")


@pytest.mark.parametrize("server", ["versitygw", "ceph"], indirect=True)
def test_a_key_that_was_asked_for_and_cannot_be_set_is_a_failure(server: Server, cellar: Cellar) -> None:
    steps = setup(cellar, "--kms", KEY, status=3)
    assert steps["encryption"]["status"] == "cannot"
    assert steps["versioning"]["status"] == "done"


@on_localstack
def test_a_bucket_is_made_in_the_region_that_is_set(server: Server, unmade: Cellar) -> None:
    unmade.home.environ["AWS_DEFAULT_REGION"] = "eu-central-1"
    setup(unmade)
    assert server.client().get_bucket_location(Bucket=unmade.bucket)["LocationConstraint"] == "eu-central-1"


@pytest.mark.parametrize("server", ["ceph"], indirect=True)
def test_a_store_with_one_region_makes_it_there(server: Server, unmade: Cellar) -> None:
    unmade.home.environ["AWS_DEFAULT_REGION"] = "eu-central-1"
    assert setup(unmade)["bucket"]["status"] == "done"


@on_localstack
def test_a_bucket_that_everybody_reads_is_not_closed(server: Server, cellar: Cellar) -> None:
    server.client().delete_public_access_block(Bucket=cellar.bucket)
    cellar.git("config", "--file", ".lfsconfig", "lfs.url", f"{cellar.url}?public=true")
    refused = run(cellar)
    assert refused.returncode == 3
    assert "is public: it is read without credentials, and not written" in refused.stderr
    cellar.home.git("config", "--global", f"lfs-agent.{cellar.bucket}.public", "false")
    assert "left as it is" in setup(cellar)["public access block"]["text"]
    with pytest.raises(ClientError, match="NoSuchPublicAccessBlockConfiguration"):
        server.client().get_public_access_block(Bucket=cellar.bucket)


def test_people_get_a_line_for_each_step_and_policies_to_paste(cellar: Cellar) -> None:
    done = run(cellar)
    assert done.returncode == 0
    assert "\ndone\tversioning\tkeep versions\n" in f"\n{done.stdout}"
    _, reader, writer = done.stdout.split("\nthe policy of a ")
    target = S3Target(cellar.bucket, cellar.prefix)
    assert json.loads(reader.partition("\n")[2]) == policy("reader", target)
    assert json.loads(writer.partition("\n")[2]) == policy("writer", target)


def test_a_store_that_is_not_trusted_is_not_touched(cellar: Cellar) -> None:
    endpoint = cellar.home.environ.pop("AWS_ENDPOINT_URL_S3")
    cellar.git("config", "--file", ".lfsconfig", "lfs.url", f"{cellar.url}?endpoint={endpoint}")
    mark = cellar.server.mark()
    refused = run(cellar)
    assert refused.returncode == 3
    assert "which you have not trusted with your credentials" in refused.stderr
    assert [request for request in cellar.server.requests(mark) if request.bucket == cellar.bucket] == []


def test_a_folder_needs_no_setting_up(home: Home, tmp_path: Path) -> None:
    work = tmp_path / "work"
    home.git("init", "-q", work)
    home.git("config", "lfs.url", f"dir::{tmp_path}", cwd=work)
    done = home.run("lfs-agent", "setup-storage", cwd=work, check=False)
    assert done.returncode == 2
    assert "is a folder, and needs no setting up" in done.stderr


@pytest.mark.parametrize("days", ["0", "-1", "a week", "1e3"])
def test_days_that_are_none_are_a_matter_of_usage(cellar: Cellar, days: str) -> None:
    assert run(cellar, f"--keep-noncurrent={days}").returncode == 2
