"""The IAM policies of who reads, writes, clears up and sets up, for one bucket and prefix."""

import json
import re
from importlib.resources import files
from typing import Any, Final, Literal

from lfs_agent.layout import below
from lfs_agent.store.url import S3Target

Role = Literal["reader", "writer", "repairer", "caretaker", "collector", "founder"]

_KMS: Final[dict[str, list[str]]] = {
    "reader": ["kms:Decrypt"],
    "writer": ["kms:Decrypt", "kms:GenerateDataKey"],
    "repairer": ["kms:Decrypt", "kms:GenerateDataKey"],
    "collector": ["kms:Decrypt", "kms:GenerateDataKey"],
}


def text_of(role: Role) -> str:
    """The policy as the documentation shows it: of the bucket my-cellar, with the prefix weights."""
    return files("lfs_agent").joinpath("policies", f"{role}.json").read_text("utf-8")


def policy(role: Role, target: S3Target, *, region: str = "", kms_key: str = "") -> dict[str, Any]:
    """The policy document; `kms_key`: the key's ARN, id or alias, "" where S3 itself has the key.

    >>> policy("reader", S3Target("wine", ""))["Statement"][1]["Resource"]
    'arn:aws:s3:::wine'
    """
    partition = partition_of(region)
    bucket = f"arn:{partition}:s3:::{target.bucket}"
    objects = f"{bucket}/{below(target.prefix)}*"
    document: dict[str, Any] = json.loads(text_of(role))
    for statement in document["Statement"]:
        statement["Resource"] = objects if statement["Resource"].endswith("/*") else bucket
    if kms_key and role in _KMS:
        document["Statement"].append({"Effect": "Allow", "Action": _KMS[role], **_key(kms_key, partition, region)})
    return document


def partition_of(region: str) -> str:
    """The part of Amazon that a region belongs to.

    >>> partition_of("eu-central-1"), partition_of("cn-north-1"), partition_of("us-gov-west-1")
    ('aws', 'aws-cn', 'aws-us-gov')
    """
    found = re.match(r"cn-|us-gov-", region)
    return f"aws-{found[0].rstrip('-')}" if found else "aws"


def _key(key: str, partition: str, region: str) -> dict[str, Any]:
    """A policy names a key by its ARN; of an alias only a condition can speak."""
    alias = key.rpartition(":")[2]
    if alias.startswith("alias/"):
        return {"Resource": "*", "Condition": {"ForAnyValue:StringEquals": {"kms:ResourceAliases": alias}}}
    return {"Resource": key if key.startswith("arn:") else f"arn:{partition}:kms:{region or '*'}:*:key/{key}"}
