"""What a bucket is told, out of what it says."""

from typing import Any

import pytest

from lfs_agent.provision import Wish, encryption, lifecycle, public_access_block

ALL = {"BlockPublicAcls": True, "IgnorePublicAcls": True, "BlockPublicPolicy": True, "RestrictPublicBuckets": True}


@pytest.mark.parametrize("at_amazon, found, sent", [
    (True, {}, ALL),
    (True, {**ALL, "BlockPublicAcls": False}, ALL),
    (True, ALL, None),
    (False, {}, {**ALL, "BlockPublicAcls": False}),
    (False, {**ALL, "BlockPublicAcls": False}, None),
    (False, ALL, None),
    (False, {"BlockPublicAcls": True}, ALL),
])  # fmt: skip
def test_acls_are_refused_at_amazon_and_ignored_everywhere(
    at_amazon: bool, found: dict[str, bool], sent: dict[str, bool] | None
) -> None:
    parameters = public_access_block(found, Wish("weights", at_amazon=at_amazon)).parameters
    assert (parameters and parameters["PublicAccessBlockConfiguration"]) == sent


def rules_of(wish: Wish, found: dict[str, Any]) -> list[Any]:
    parameters = lifecycle(found, wish).parameters
    assert parameters
    return list(parameters["LifecycleConfiguration"]["Rules"])


def test_a_rule_of_ours_that_somebody_changed_is_made_right() -> None:
    wish = Wish("weights")
    unfinished, noncurrent = rules_of(wish, {})
    for changed in ({**unfinished, "Status": "Disabled"}, {**unfinished, "Expiration": {"Days": 1}}):
        assert rules_of(wish, {"Rules": [changed, noncurrent]}) == [unfinished, noncurrent]
    assert lifecycle({"Rules": [noncurrent, unfinished]}, wish).parameters is None


def test_a_filter_is_the_same_in_each_spelling() -> None:
    unfinished, noncurrent = rules_of(Wish("weights"), {})
    plain = [{**rule, "Prefix": rule["Filter"]["Prefix"]} for rule in (unfinished, noncurrent)]
    for rule in plain:
        del rule["Filter"]
    assert lifecycle({"Rules": plain}, Wish("weights")).parameters is None
    bare = [{**rule, "Filter": {}} for rule in rules_of(Wish(""), {})]
    assert lifecycle({"Rules": bare}, Wish("")).parameters is None


def test_ids_are_no_longer_than_s3_allows_and_differ_by_prefix() -> None:
    ids = {rule["ID"] for end in "ab" for rule in rules_of(Wish("x" * 511 + end), {})}
    assert len(ids) == 4
    assert max(map(len, ids)) <= 255


@pytest.mark.parametrize("key", ["", "another"])
def test_who_encrypts_twice_goes_on_to_do_so_with_another_key(key: str) -> None:
    """Not over LocalStack, which takes no key with aws:kms:dsse."""
    default = {"SSEAlgorithm": "aws:kms:dsse", **({"KMSMasterKeyID": key} if key else {})}
    rule = {"ApplyServerSideEncryptionByDefault": default, "BucketKeyEnabled": False}
    parameters = encryption({"Rules": [rule]}, Wish("weights", kms_key="mine")).parameters
    assert parameters
    (sent,) = parameters["ServerSideEncryptionConfiguration"]["Rules"]
    assert sent["ApplyServerSideEncryptionByDefault"] == {"SSEAlgorithm": "aws:kms:dsse", "KMSMasterKeyID": "mine"}
    assert sent["BucketKeyEnabled"] is False
    assert encryption({"Rules": [sent]}, Wish("weights", kms_key="mine")).parameters is None
    assert encryption({"Rules": [rule]}, Wish("weights")).parameters is None
