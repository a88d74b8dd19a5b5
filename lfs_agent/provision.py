"""What a bucket has to be set to, and what of that is to be done: other people's rules stay as they are."""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from lfs_agent.errors import ObjectError, UnsupportedError
from lfs_agent.layout import RESERVED, below
from lfs_agent.store import Aspect, Configured

Status = Literal["ok", "todo", "done", "cannot", "failed"]
Found = Mapping[str, Any]
"""A configuration as the store has it, in boto3's words; empty where there is none."""

UNFINISHED_DAYS: Final = 7
KEEP_NONCURRENT_DAYS: Final = 30
_TWICE: Final = "aws:kms:dsse"
_BLOCKED: Final = dict.fromkeys(("IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets"), True)
"""Enough to keep strangers out. With BlockPublicAcls, which also refuses what is ignored, Ceph 16 takes no PUT."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What the user wants of the bucket, where there is a choice."""

    prefix: str
    keep_noncurrent_days: int | None = None
    """None: what our rule says already, else 30."""
    kms_key: str = ""
    """The key that new objects are encrypted with by default; "" leaves that as it is."""
    at_amazon: bool = True
    public: bool = False
    """Everybody reads the bucket: that is not to be blocked."""


@dataclass(frozen=True, slots=True)
class Step:
    """What became of one aspect of the bucket.

    `ok`: it was right before; `todo`: it would be done; `cannot`: the store does not know it; `failed`: it refuses,
    mostly for lack of a right.
    """

    step: str
    status: Status
    text: str


@dataclass(frozen=True, slots=True)
class Change:
    """What to send, in boto3's words; what is right already has none."""

    parameters: dict[str, Any] | None
    text: str


def provide(bucket: Configured, wish: Wish, *, dry_run: bool) -> Iterator[Step]:
    """Makes the bucket right, aspect after aspect; with `dry_run` it only looks.

    Raises what the first question raises: where the bucket itself can't be asked, nothing can.
    """
    there = bucket.exists()
    if there:
        yield Step("bucket", "ok", "is there")
    elif dry_run:
        yield Step("bucket", "todo", "create it")
    else:
        bucket.create()
        yield Step("bucket", "done", "created")
    for aspect, plan in PLANS.items():
        if there or not dry_run:
            yield _step(bucket, aspect, wish, dry_run)
        else:
            change = plan({}, wish)
            yield Step(aspect, "todo" if change.parameters else "ok", change.text)


def _step(bucket: Configured, aspect: Aspect, wish: Wish, dry_run: bool) -> Step:
    try:
        change = PLANS[aspect](bucket.configuration(aspect), wish)
        if change.parameters is None:
            return Step(aspect, "ok", change.text)
        if dry_run:
            return Step(aspect, "todo", change.text)
        bucket.configure(aspect, change.parameters)
        return Step(aspect, "done", change.text)
    except UnsupportedError as error:
        return Step(aspect, "cannot", str(error))
    except ObjectError as error:
        return Step(aspect, "failed", str(error))


def versioning(found: Found, wish: Wish) -> Change:
    """A version that was deleted or replaced can be had back."""
    if found.get("Status") == "Enabled":
        return Change(None, "versions are kept")
    return Change({"VersioningConfiguration": {"Status": "Enabled"}}, "keep versions")


def public_access_block(found: Found, wish: Wish) -> Change:
    """No policy and no list lets strangers in."""
    if wish.public:
        return Change(None, "left as it is: the repository says that everybody may read (public)")
    wanted = {**_BLOCKED, "BlockPublicAcls": wish.at_amazon or bool(found.get("BlockPublicAcls"))}
    if {name: found.get(name, False) for name in wanted} == wanted:
        return Change(None, "strangers are kept out")
    return Change({"PublicAccessBlockConfiguration": wanted}, "keep strangers out, whatever a policy says")


def lifecycle(found: Found, wish: Wish) -> Change:
    """Two rules for the keys below the prefix; all others are put back as they were.

    Raises ObjectError where one of them deletes what is below the prefix: noncurrent, it would go for good by ours; and
    where they can't be put back as they were: without its limits, one would delete more.
    """
    rules = list(found.get("Rules", []))
    ours = {rule["ID"]: rule for rule in rules if rule.get("ID") in _ids(wish.prefix)}
    wanted = _rules(wish, ours)
    is_right = all(_same(ours.get(rule["ID"], {}), rule) for rule in wanted)
    if not is_right and (unknown := found.get("Unknown")):
        raise ObjectError(
            f"the rules that are there say what only this store knows ({', '.join(unknown)[:200]}), and could not be "
            "put back as they are: add ours by the store's own tool, and run this again; until then no rule is set: "
            f"{json.dumps(wanted)}"
        )
    others = [rule for rule in rules if rule.get("ID") not in _ids(wish.prefix)]
    for told in deleting({"Rules": others}, wish.prefix):
        raise ObjectError(f"{told}: {TAKE_OUT}, and run this again; until then no rule is set")
    days = wanted[1]["NoncurrentVersionExpiration"]["NoncurrentDays"]
    told = f"unfinished uploads go after {UNFINISHED_DAYS} days, noncurrent versions after {days}"
    if is_right:
        return Change(None, told)
    kept = f" ({len(others)} other rule{'' if len(others) == 1 else 's'} kept)" if others else ""
    parameters: dict[str, Any] = {"LifecycleConfiguration": {"Rules": [*others, *wanted]}}
    if size := found.get("TransitionDefaultMinimumObjectSize"):
        parameters["TransitionDefaultMinimumObjectSize"] = size  # without it the store takes its own default
    return Change(parameters, f"{told}{kept}")


TAKE_OUT: Final = "take it out, or limit it to other keys"


def deleting(found: Found, prefix: str) -> Iterator[str]:
    """Which of the lifecycle rules delete what is current below the prefix, in words."""
    for rule in found.get("Rules", []):
        if _deletes_below(rule, below(prefix)):
            yield (
                f"the rule {rule.get('ID', '')!r} deletes objects of this store ({_spell_expiration(rule)}), "
                "whoever needs them"
            )


def _ids(prefix: str) -> tuple[str, str]:
    # An ID has 255 characters at most.
    name = prefix if len(prefix) <= 150 else hashlib.sha256(prefix.encode()).hexdigest()
    where = f"below {name}" if name else "in the bucket"
    return f"lfs-agent: unfinished uploads {where}", f"lfs-agent: noncurrent versions {where}"


def _rules(wish: Wish, ours: Mapping[str, Found]) -> list[dict[str, Any]]:
    unfinished, noncurrent = _ids(wish.prefix)
    said = ours.get(noncurrent, {}).get("NoncurrentVersionExpiration", {}).get("NoncurrentDays")
    days = wish.keep_noncurrent_days or said or KEEP_NONCURRENT_DAYS
    common = {"Status": "Enabled", "Filter": {"Prefix": below(wish.prefix)}}
    return [
        {"ID": unfinished, **common, "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": UNFINISHED_DAYS}},
        {"ID": noncurrent, **common, "NoncurrentVersionExpiration": {"NoncurrentDays": days}},
    ]


_OURS: Final = re.compile(
    r"[0-9a-f]{0,64}|[0-9a-f]{2}/[0-9a-f]{0,2}|[0-9a-f]{2}/[0-9a-f]{2}/[0-9a-f]{0,64}"
    rf"|{re.escape(RESERVED)}(?:/.*)?"
)
"""How a key may begin, behind the prefix: an object's in either layout, or that of what is told beside them."""


def _deletes_below(rule: Found, head: str) -> bool:
    """Whether it deletes objects whose keys begin with `head`, and that have no tags."""
    where = rule.get("Filter", {})
    both = where.get("And", {})
    if rule.get("Status") != "Enabled" or "Tag" in where or both.get("Tags") or not _spell_expiration(rule):
        return False
    prefix: str = both.get("Prefix") or where.get("Prefix") or rule.get("Prefix") or ""
    if not prefix.startswith(head):
        return head.startswith(prefix)
    return bool(_OURS.fullmatch(prefix.removeprefix(head)))


def _spell_expiration(rule: Found) -> str:
    """When objects go that are current; "" for never."""
    expires = rule.get("Expiration", {})
    if "Date" in expires:
        return f"on {expires['Date']:%Y-%m-%d}"
    return f"after {expires['Days']} days" if expires.get("Days") else ""


def _same(rule: Found, wanted: Found) -> bool:
    """Whether the store's rule says no more and no less; a filter comes back in several spellings."""
    spelled = {name: value for name, value in rule.items() if name not in ("Filter", "Prefix")}
    prefix = rule.get("Filter", {}).get("Prefix", rule.get("Prefix", ""))
    return {**spelled, "Filter": {"Prefix": prefix}} == wanted


def encryption(found: Found, wish: Wish) -> Change:
    """With a KMS key of one's own a bucket key saves most of the requests to KMS."""
    rules = found.get("Rules") or [{}]
    default = rules[0].get("ApplyServerSideEncryptionByDefault", {})
    algorithm, key = default.get("SSEAlgorithm", ""), default.get("KMSMasterKeyID", "")
    wanted = wish.kms_key or key
    if not wish.kms_key and algorithm != "aws:kms":
        return Change(None, f"{algorithm or 'the store decides'}; a bucket key is for KMS only")
    if algorithm == "aws:kms" and key == wanted and rules[0].get("BucketKeyEnabled"):
        return Change(None, f"KMS, with a bucket key ({key or 'aws/s3'})")
    if algorithm == _TWICE:  # stays: who chose it has to encrypt twice, and of bucket keys it knows nothing
        told = f"KMS, twice ({_TWICE}), with {wanted}"
        if key == wanted:
            return Change(None, told)
        rule = {**rules[0], "ApplyServerSideEncryptionByDefault": {**default, "KMSMasterKeyID": wanted}}
    else:
        told = f"KMS, with a bucket key ({wanted or 'aws/s3'})"
        by_default = {"SSEAlgorithm": "aws:kms", **({"KMSMasterKeyID": wanted} if wanted else {})}
        rule = {**rules[0], "ApplyServerSideEncryptionByDefault": by_default, "BucketKeyEnabled": True}
    return Change({"ServerSideEncryptionConfiguration": {"Rules": [rule]}}, told)


PLANS: Final[dict[Aspect, Callable[[Found, Wish], Change]]] = {
    "versioning": versioning,
    "public access block": public_access_block,
    "lifecycle": lifecycle,
    "encryption": encryption,
}
