"""What verify says of a store, here one in a dict."""

import hashlib
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lfs_agent.errors import (
    AgentError,
    ArchivedError,
    BucketError,
    CredentialsError,
    DeniedError,
    MissingError,
    ObjectError,
    UsageError,
)
from lfs_agent.parallel import in_parallel
from lfs_agent.pointer import Oid, Pointer
from lfs_agent.selection import Wanted
from lfs_agent.store import Body, MultipartUpload, ObjectStat, Replacing, Store, StoredPart, Write
from lfs_agent.verify import NOT_ASKED, Computed, Depth, Evidence, Finding, Judge


@dataclass
class DictStore:
    """A Store in a dict; `failures` are raised for their keys, "" for connect()."""

    objects: dict[str, bytes] = field(default_factory=dict)
    failures: dict[str, AgentError] = field(default_factory=dict)
    attested: bool = False
    """Whether it computes SHA-256 by itself."""
    block: int = 4
    stats: list[str] = field(default_factory=list)
    reads: list[str] = field(default_factory=list)
    lists: list[str] = field(default_factory=list)

    def address(self, key: str) -> str:
        return f"dict://{key}"

    def identity(self, key: str) -> str:
        return self.address(key)

    def load(self) -> None:
        pass

    def takes_turns(self) -> bool:
        return False

    def connect(self) -> None:
        self._fail("")

    def stat(self, key: str) -> ObjectStat | None:
        self.stats.append(key)
        self._fail(key)
        content = self.objects.get(key)
        return None if content is None else self._stat(key, content)

    def _stat(self, key: str, content: bytes) -> ObjectStat:
        return ObjectStat(key, len(content), "e", sha256=oid_of(content) if self.attested else "")

    def _fail(self, key: str) -> None:
        if key in self.failures:
            raise self.failures[key]

    def listed(self, prefix: str, after: str = "") -> tuple[list[ObjectStat], str]:
        self.lists.append(prefix)
        self._fail("list")
        keys = sorted(key for key in self.objects if key.startswith(prefix) and key > after)
        page = [ObjectStat(key, len(self.objects[key])) for key in keys[:20]]
        return page, page[-1].key if len(keys) > 20 else ""

    def can_replace(self, key: str) -> Replacing:
        return "never"

    def put(self, key: str, oid: Oid, body: Body, replacing: str = "") -> bool:
        raise AssertionError("verify only reads")

    def resume(
        self, key: str, size: int, token: str, replacing: str = ""
    ) -> tuple[MultipartUpload, list[StoredPart]] | None:
        raise AssertionError("verify only reads")

    def begin(self, key: str, oid: Oid, size: int, replacing: str = "") -> MultipartUpload:
        raise AssertionError("verify only reads")

    def fetch(self, key: str, start: int, stop: int, write: Write, etag: str = "") -> ObjectStat:
        self.reads.append(key)
        self._fail(f"read {key}")
        self._fail("read")
        if key not in self.objects:
            raise MissingError(f"404: {key}")
        content = self.objects[key]
        for offset in range(start, min(stop, len(content)), self.block):
            write(offset, content[offset : min(stop, offset + self.block)])
        return self._stat(key, content)


def oid_of(content: bytes) -> Oid:
    return Oid(hashlib.sha256(content).hexdigest())


def wanted(*contents: bytes) -> list[Wanted]:
    return [Wanted(Pointer(oid_of(content), len(content)), [f"{number}.pt"]) for number, content in enumerate(contents)]


def find(store: Store, objects: Sequence[Wanted], *, depth: Depth = "presence", threads: int = 3) -> list[Finding]:
    return list(Judge(store, lambda oid: oid, depth=depth).find(objects, threads=threads))


def one(store: Store, content: bytes, *, depth: Depth = "presence") -> Finding:
    (finding,) = find(store, wanted(content), depth=depth)
    return finding


def test_an_object_of_the_right_size_is_present_but_not_proven() -> None:
    finding = one(DictStore({oid_of(b"weights"): b"weights"}), b"weights")
    assert (finding.status, finding.proven, finding.reason) == ("present", False, "")
    assert finding.paths == ["0.pt"]
    assert finding.address == f"dict://{oid_of(b'weights')}"


def test_a_key_that_is_not_there_is_missing() -> None:
    assert one(DictStore(), b"weights").status == "missing"


def test_another_size_is_damage() -> None:
    finding = one(DictStore({oid_of(b"weights"): b"weigh"}), b"weights")
    assert (finding.status, finding.reason) == ("damaged", "it has 5 bytes, not 7")


def test_other_bytes_of_the_same_size_are_damage_only_when_read() -> None:
    store = DictStore({oid_of(b"weights"): b"weighty"})
    assert one(store, b"weights").status == "present"
    finding = one(store, b"weights", depth="deep")
    assert (finding.status, finding.proven) == ("damaged", False)
    assert finding.reason == "its SHA-256 is 0775d5adecb9bf7f822f6de96c47eca3ecb0b5b8f20e9e1e3fb9631973683cec"


def test_what_was_read_and_hashed_is_proven() -> None:
    finding = one(DictStore({oid_of(b"weights"): b"weights"}), b"weights", depth="deep")
    assert (finding.status, finding.proven) == ("present", True)


def test_the_stores_own_hash_proves_without_reading() -> None:
    store = DictStore({oid_of(b"weights"): b"weights", oid_of(b"other 1"): b"other 2"}, attested=True)
    good, bad = find(store, wanted(b"weights", b"other 1"))
    assert (good.status, good.proven) == ("present", True)
    assert bad.status == "damaged"
    assert store.reads == []


def test_a_read_that_was_damaged_on_its_way_is_made_again() -> None:
    class Flaky(DictStore):
        def fetch(self, key: str, start: int, stop: int, write: Write, etag: str = "") -> ObjectStat:
            if not self.reads:
                self.reads.append(key)
                write(0, b"weighty")
                return self._stat(key, b"weighty")
            return super().fetch(key, start, stop, write, etag)

    assert one(Flaky({oid_of(b"weights"): b"weights"}), b"weights", depth="deep").status == "present"


def test_an_object_that_ends_too_soon_while_it_is_read_is_damaged() -> None:
    class Short(DictStore):
        def fetch(self, key: str, start: int, stop: int, write: Write, etag: str = "") -> ObjectStat:
            return super().fetch(key, start, 4, write, etag)

    finding = one(Short({oid_of(b"weights"): b"weights"}), b"weights", depth="deep")
    assert (finding.status, finding.reason) == ("damaged", "it ends at byte 4, not 7")


def test_nobody_could_ask_is_not_missing() -> None:
    oid = oid_of(b"weights")
    for error in (DeniedError("403: no right"), ObjectError("503, asked 5 times")):
        finding = one(DictStore({oid: b"weights"}, {oid: error}), b"weights")
        assert (finding.status, finding.reason) == ("unknown", str(error))


def test_an_archived_object_is_there_but_cannot_be_read() -> None:
    oid = oid_of(b"weights")
    store = DictStore({oid: b"weights"}, {f"read {oid}": ArchivedError("restore it first")})
    assert one(store, b"weights").status == "present"
    finding = one(store, b"weights", depth="deep")
    assert (finding.status, finding.reason) == ("archived", "restore it first")


def test_an_object_that_is_gone_between_question_and_read_is_missing() -> None:
    oid = oid_of(b"weights")
    store = DictStore({oid: b"weights"}, {f"read {oid}": MissingError("404")})
    assert one(store, b"weights", depth="deep").status == "missing"


def test_one_object_that_cannot_be_asked_does_not_stop_the_others() -> None:
    contents = [b"weights 0", b"weights 1", b"weights 2"]
    store = DictStore({oid_of(c): c for c in contents}, {oid_of(contents[1]): DeniedError("403")})
    assert [finding.status for finding in find(store, wanted(*contents))] == ["present", "unknown", "present"]


def test_a_cause_that_ends_all_is_told_once_and_nothing_more_is_asked() -> None:
    contents = [b"weights %d" % number for number in range(500)]
    store = DictStore(failures={oid_of(content): CredentialsError("expired") for content in contents})
    judge = Judge(store, lambda oid: oid)
    findings = list(judge.find(wanted(*contents), threads=4))
    assert {finding.status for finding in findings} == {"unknown"}
    assert [finding.reason for finding in findings].count("expired") == 1
    assert {finding.reason for finding in findings} == {"expired", NOT_ASKED}
    assert str(judge.cause) == "expired"
    assert len(store.stats) <= 4


def test_without_credentials_nothing_is_asked() -> None:
    store = DictStore({oid_of(b"weights"): b"weights"}, {"": CredentialsError("no credentials")})
    finding = one(store, b"weights")
    assert (finding.status, finding.reason) == ("unknown", "no credentials")
    assert store.stats == []


def test_a_bucket_that_is_gone_is_not_a_bucket_without_objects() -> None:
    store = DictStore(failures={"read": BucketError("no such bucket")})
    findings = find(store, wanted(b"weights 0", b"weights 1"), threads=1)
    assert [finding.status for finding in findings] == ["unknown", "unknown"]
    assert findings[0].reason == "no such bucket"


def test_the_bucket_is_asked_for_once_however_much_is_missing() -> None:
    store = DictStore()
    findings = find(store, wanted(*(b"weights %d" % number for number in range(50))), threads=1)
    assert {finding.status for finding in findings} == {"missing"}
    assert len(store.reads) == 1


def test_a_setting_that_cannot_work_is_no_finding() -> None:
    store = DictStore(failures={oid_of(b"weights"): UsageError("no such region")})
    with pytest.raises(UsageError):
        find(store, wanted(b"weights"))


def test_an_empty_object_needs_nothing_in_the_store() -> None:
    store = DictStore()
    assert one(store, b"").status == "present"
    assert store.stats == []


def test_objects_are_taken_no_faster_than_they_are_judged() -> None:
    taken: list[int] = []

    def source() -> Iterator[Wanted]:
        for number, item in enumerate(wanted(*(b"weights %d" % number for number in range(1000)))):
            taken.append(number)
            yield item

    judge = Judge(DictStore(), lambda oid: oid)
    findings = in_parallel(judge.judge, source(), threads=1)
    next(findings)
    assert len(taken) <= 64


def many(count: int) -> tuple[DictStore, list[Wanted]]:
    contents = [b"weights %d" % number for number in range(count)]
    return DictStore({oid_of(content): content for content in contents}), wanted(*contents)


def test_many_are_listed_and_only_what_the_list_lacks_is_asked_for() -> None:
    store, objects = many(600)
    gone, cut = objects[5].pointer.oid, objects[6].pointer.oid
    del store.objects[gone]
    store.objects[cut] = b"cut"

    found = {finding.pointer.oid: finding.status for finding in find(store, objects)}

    assert {oid: status for oid, status in found.items() if status != "present"} == {gone: "missing", cut: "damaged"}
    assert store.stats == [gone]
    assert len(set(store.lists)) == 16


class Archive(DictStore):
    """All in it was archived, and is restored by now; a list tells the first, a look both."""

    def listed(self, prefix: str, after: str = "") -> tuple[list[ObjectStat], str]:
        page, following = super().listed(prefix, after)
        return [found._replace(archived="restore it") for found in page], following


def test_what_a_list_calls_archived_is_asked_for_since_it_may_be_restored() -> None:
    store, objects = many(100)
    archive = Archive(store.objects)
    assert {finding.status for finding in find(archive, objects)} == {"present"}
    assert len(archive.stats) == 100


def test_few_are_asked_for_one_by_one() -> None:
    store, objects = many(20)
    assert {finding.status for finding in find(store, objects)} == {"present"}
    assert (len(store.stats), store.lists) == (20, [])


@pytest.mark.parametrize("depth", ["checksum", "deep"])
def test_a_list_proves_nothing(depth: Depth) -> None:
    store, objects = many(100)
    find(store, objects, depth=depth)
    assert store.lists == []


def test_who_may_not_list_asks_one_by_one() -> None:
    store, objects = many(100)
    store.failures["list"] = DeniedError("403: s3:ListBucket is needed")
    assert {finding.status for finding in find(store, objects)} == {"present"}


def test_what_ends_all_ends_the_list_too() -> None:
    store, objects = many(100)
    store.failures["list"] = CredentialsError("expired")
    findings = find(store, objects)
    assert [finding.reason for finding in findings].count("expired") == 1
    assert store.stats == []


def test_a_checksum_is_the_stores_own_or_its_uploads_or_nothing() -> None:
    store = DictStore({oid_of(b"weights"): b"weights"})
    assert (one(store, b"weights", depth="checksum").status, one(store, b"weights").status) == ("unproven", "present")
    store.attested = True
    assert one(store, b"weights", depth="checksum").proof == "store"


@dataclass
class Told(DictStore):
    """One that tells this of an object."""

    etag: str = "e"
    crc32c: str = ""
    recorded: str = ""

    def _stat(self, key: str, content: bytes) -> ObjectStat:
        return super()._stat(key, content)._replace(etag=self.etag, crc32c=self.crc32c, recorded=self.recorded)


@pytest.mark.parametrize(
    "crc32c, recorded, proof",
    [
        ("uTja5A==", oid_of(b"weights"), "upload"),
        ("", oid_of(b"weights"), ""),
        ("uTja5A==", "", ""),
        ("uTja5A==", oid_of(b"another"), ""),
    ],
)
def test_an_upload_proves_what_it_recorded_where_the_store_has_kept_a_checksum_since(
    crc32c: str, recorded: str, proof: str
) -> None:
    store = Told({oid_of(b"weights"): b"weights"}, crc32c=crc32c, recorded=recorded)
    finding = one(store, b"weights", depth="checksum")
    assert (finding.proof, finding.status) == (proof, "present" if proof else "unproven")


@pytest.mark.parametrize(
    "etag, computed, status, reason",
    [
        ('"e"', Computed(oid_of(b"weights"), "e"), "present", ""),
        ('"e"', Computed(oid_of(b"another"), "e"), "damaged", "its SHA-256 is ae448ac8"),
        ('"e"', None, "unproven", "the report has nothing of it"),
        ('"e"', Computed(oid_of(b"weights"), "e", "the job failed for it"), "unproven", "the job failed for it"),
        ('"e"', Computed(oid_of(b"weights"), "f"), "unproven", "it was replaced since"),
        ('"e"', Computed(oid_of(b"weights"), ""), "unproven", "no ETag is told"),
        ("", Computed(oid_of(b"weights"), "e"), "unproven", "no ETag is told"),
        ("", Computed(oid_of(b"weights"), ""), "unproven", "no ETag is told"),
    ],
)
def test_a_report_proves_what_its_etag_ties_to_what_is_there(
    etag: str, computed: Computed | None, status: str, reason: str
) -> None:
    store = Told({oid_of(b"weights"): b"weights"}, etag=etag)
    evidence = Evidence(computed={oid_of(b"weights"): computed} if computed else {})
    judge = Judge(store, lambda oid: oid, depth="report", evidence=evidence)
    (finding,) = judge.find(wanted(b"weights"), threads=1)
    assert (finding.status, finding.proven) == (status, status == "present")
    assert reason in finding.reason


def test_who_stops_listening_stops_the_asking() -> None:
    running = threading.active_count()
    findings = Judge(DictStore(), lambda oid: oid).find(wanted(*(b"%d" % n for n in range(500))), threads=8)
    next(findings)
    findings.close()
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and thread.daemon and "serve" in thread.name:
            thread.join(5)
    assert threading.active_count() <= running


@given(
    st.lists(
        st.tuples(st.binary(min_size=1, max_size=20), st.sampled_from(["kept", "gone", "cut", "flipped"])),
        unique_by=lambda entry: entry[0],
        max_size=30,
    ),
    st.integers(1, 5),
)
def test_findings_are_right_and_in_order(entries: list[tuple[bytes, str]], threads: int) -> None:
    store = DictStore()
    for content, fate in entries:
        if fate != "gone":
            flipped = bytes([content[0] ^ 1]) + content[1:]
            store.objects[oid_of(content)] = {"kept": content, "cut": content[:-1], "flipped": flipped}[fate]
    contents = [content for content, _ in entries]
    told = {"kept": "present", "gone": "missing", "cut": "damaged", "flipped": "damaged"}
    findings = find(store, wanted(*contents), depth="deep", threads=threads)
    assert [finding.status for finding in findings] == [told[fate] for _, fate in entries]
    assert [finding.pointer.oid for finding in findings] == [oid_of(content) for content in contents]
