"""What every `Uploads` promises: which uploads are unfinished, how far and how old they are, and that they can go."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lfs_agent.errors import BucketError, ConflictError, TransientError
from lfs_agent.layout import key_of
from lfs_agent.lease import lease
from lfs_agent.parts import Part
from lfs_agent.pointer import Oid
from lfs_agent.retry import RetryingUploads
from lfs_agent.store import Marker, Unfinished, Uploads
from lfs_agent.store.folder import FolderStore
from lfs_agent.store.folderstock import FolderUploads
from lfs_agent.store.s3uploads import S3Uploads
from lfs_agent.transfer.upload import journals
from lfs_agent.unfinished import Janitor
from tests.contract.conftest import BucketOf, InBucket, InFolder, Place
from tests.contract.desk import KEY, Desk
from tests.contract.stores import BytesBody, content, crc_of, oid_of, patience, put_parts, retrying, s3_store
from tests.proxy import SLOW_DOWN, Answer, Reset, Rule
from tests.servers import KINDS

PREFIX = "weights"
OIDS = sorted(oid_of(bytes([number])) for number in range(3))

# Over a folder and each server; a dict keeps no times.
pytestmark = pytest.mark.parametrize("server", ["folder", *KINDS], indirect=True)


def key(place: Place) -> Callable[[Oid], str]:
    return key_of("" if isinstance(place, InFolder) else PREFIX, "git-lfs")


def uploads_of(place: Place, page_size: int = 1000) -> Uploads:
    if isinstance(place, InBucket):
        return S3Uploads(place.s3, PREFIX, page_size=page_size)
    assert isinstance(place.store, FolderStore)
    return FolderUploads(place.store, key(place))


@pytest.fixture(params=["plain", "retrying"])
def uploads(request: pytest.FixtureRequest, place: Place) -> Uploads:
    plain = uploads_of(place)
    return plain if request.param == "plain" else RetryingUploads(plain, patience(deadline_s=0.5))


def begin(place: Place, oid: Oid, parts: int = 0) -> None:
    """An upload of the object, and some of its parts, ten bytes each."""
    upload = place.store.begin(key(place)(oid), oid, 100)
    for number in range(1, parts + 1):
        data = content(10, seed=number)
        upload.put_part(Part(number, (number - 1) * 10, 10), BytesBody(data), crc_of(data))


def pages(uploads: Uploads) -> list[list[Unfinished]]:
    found: list[list[Unfinished]] = []
    after: Marker | None = None
    while not found or after:
        page, after = uploads.listed(after)
        found.append(page)
    return found


def test_uploads_are_listed_with_their_parts_and_their_age(place: Place, uploads: Uploads) -> None:
    began = time.time()
    for oid, parts in zip(OIDS, (0, 1, 3), strict=True):
        begin(place, oid, parts)

    (found,) = pages(uploads)

    assert [upload.key for upload in found] == [key(place)(oid) for oid in OIDS]
    assert len({upload.upload_id for upload in found}) == 3
    progress = [uploads.progress(upload) for upload in found]
    sizes = [(far.parts, far.size) for far in progress if far]
    assert sizes == ([(0, 0), (1, 10), (1, 30)] if isinstance(place, InFolder) else [(0, 0), (1, 10), (3, 30)])
    for upload, far in zip(found, progress, strict=True):
        assert far is not None
        assert abs(far.newest - began) < 60
        assert 0 <= far.age_s < 60
        assert uploads.address(upload.key) == place.store.address(upload.key)
        if isinstance(place, InFolder):
            assert upload.begun is None
        else:
            assert upload.begun is not None
            assert far.newest >= upload.begun


def test_what_is_given_up_is_gone_and_nothing_else(place: Place, uploads: Uploads) -> None:
    for oid in OIDS:
        begin(place, oid, 1)
    ((first, second, third),) = pages(uploads)

    uploads.abort(second)
    uploads.abort(second)  # somebody has been there before

    assert uploads.progress(second) is None
    assert pages(uploads) == [[first, third]]
    assert uploads.progress(first) is not None


def test_what_is_given_up_under_a_push_is_a_conflict_that_a_look_decides(place: Place, uploads: Uploads) -> None:
    data = content(6 << 20)
    upload = place.store.begin(key(place)(oid_of(data)), oid_of(data), len(data))
    sent = put_parts(upload, data)
    ((found,),) = pages(uploads)
    uploads.abort(found)

    # Ceph says 500 to this, that the completion is in progress.
    ceph = isinstance(place, InBucket) and place.server.name == "ceph"
    with pytest.raises((ConflictError, TransientError) if ceph else ConflictError):
        upload.complete(sent, crc_of(data))
    assert place.objects() == {}


def test_a_finished_object_is_no_unfinished_upload(place: Place, uploads: Uploads) -> None:
    data = content(6 << 20)
    upload = place.store.begin(key(place)(oid_of(data)), oid_of(data), len(data))
    upload.complete(put_parts(upload, data), crc_of(data))

    assert pages(uploads) == [[]]


def test_a_store_without_uploads_has_none_and_one_that_is_missing_says_so(place: Place, uploads: Uploads) -> None:
    assert pages(uploads) == [[]]

    nowhere: Uploads
    if isinstance(place, InBucket):
        nowhere = S3Uploads(s3_store(place.server, "there-is-no-such-bucket"), PREFIX)
    else:
        missing = place.without_bucket()
        assert isinstance(missing, FolderStore)
        nowhere = FolderUploads(missing, key(place))
    with pytest.raises(BucketError):
        nowhere.listed(None)


def test_lists_go_on_from_page_to_page(place: Place) -> None:
    if not isinstance(place, InBucket):
        pytest.skip("a folder is one page")
    for oid in OIDS:
        begin(place, oid, 3)

    found = pages(uploads_of(place, page_size=2))

    assert [len(page) for page in found] == [2, 1]
    assert [upload.key for page in found for upload in page] == [key(place)(oid) for oid in OIDS]
    far = uploads_of(place, page_size=2).progress(found[1][0])
    assert far is not None
    assert (far.parts, far.size) == (3, 30)


def test_other_prefixes_are_not_listed_and_other_keys_are_left_alone(
    place: Place, uploads: Uploads, tmp_path: Path
) -> None:
    mine = OIDS[0]
    begin(place, mine, 1)
    if isinstance(place, InBucket):
        strange = [f"{PREFIX}/notes", f"{PREFIX}/{OIDS[1]}", f"{PREFIX}/sub/{key(place)(mine)}"]
        for name in (*strange, f"{PREFIX}-2/x", f"other/{mine}", mine):
            place.client.create_multipart_upload(Bucket=place.bucket, Key=name)
    else:
        assert isinstance(place, InFolder)
        strange = ["notes", f"x{mine}-0123", "-0123"]
        for name in strange:
            (place.root / "lfs-agent-unfinished" / name).touch()
    before = place.unfinished()
    janitor = Janitor(uploads, key(place), tmp_path, older_than_s=0, abort=True)

    found = [found for group in janitor.look(janitor.listed(), threads=2) for found in group]

    assert [(upload.status, upload.oid) for upload in found] == [("aborted", mine)]
    assert janitor.others == len(strange)
    assert place.unfinished() == before - 1


def test_several_uploads_of_one_object_are_all_looked_at(place: Place, uploads: Uploads, tmp_path: Path) -> None:
    for _ in range(3):
        begin(place, OIDS[0], 1)
    janitor = Janitor(uploads, key(place), tmp_path, older_than_s=0, abort=True)
    (journal := tmp_path / f"{OIDS[0]}.0123.upload").touch()
    assert journals(tmp_path, OIDS[0]) == [journal]

    (found,) = janitor.look(janitor.listed(), threads=2)

    assert [upload.status for upload in found] == ["aborted"] * 3
    assert place.unfinished() == 0


def test_what_somebody_here_is_sending_is_left_alone(place: Place, uploads: Uploads, desk: Desk) -> None:
    for oid in OIDS[:2]:
        begin(place, oid, 1)
    janitor = Janitor(uploads, key(place), desk.state, older_than_s=0, abort=True)
    with lease(desk.state / f"{OIDS[0]}.0123.upload", desk.stop):
        found = [found for group in janitor.look(janitor.listed(), threads=2) for found in group]

    assert [(upload.status, upload.reason) for upload in found] == [
        ("unfinished", "this clone is sending the object now"),
        ("aborted", ""),
    ]
    assert place.unfinished() == 1


def test_an_upload_that_ends_after_the_list_was_made_is_gone(place: Place, uploads: Uploads, tmp_path: Path) -> None:
    begin(place, OIDS[0], 1)
    janitor = Janitor(uploads, key(place), tmp_path, older_than_s=0, abort=True)
    listed = janitor.listed()
    place.forget_uploads()

    ((found,),) = janitor.look(listed, threads=2)

    assert (found.status, found.progress) == ("gone", None)


def test_a_busy_store_is_asked_again(place: Place, bucket_of: BucketOf) -> None:
    if not isinstance(place, InBucket):
        pytest.skip("a folder is never busy")
    begin(place, OIDS[0], 1)
    lost_and_busy = (
        Rule(SLOW_DOWN, "GET", r"\?uploads", times=1),
        Rule(SLOW_DOWN, "GET", "uploadId=", times=1),
        Rule(Reset("answer-head"), "DELETE", "uploadId=", times=1),
    )
    with place.through(*lost_and_busy) as proxy:
        through = S3Uploads(place.store_with(endpoint=proxy.endpoint), PREFIX)
        uploads = RetryingUploads(through, patience())
        ((found,),) = pages(uploads)
        far = uploads.progress(found)
        uploads.abort(found)
        faults = [seen.fault for seen in proxy.requests if seen.fault]

    assert far is not None
    assert len(faults) == 3
    assert place.unfinished() == 0


@pytest.mark.parametrize("answer", [b"<html>Log in</html>", b""])
@pytest.mark.parametrize("target", [r"\?uploads", "uploadId="])
def test_an_answer_that_is_no_list_is_asked_for_again(place: Place, target: str, answer: bytes) -> None:
    if not isinstance(place, InBucket):
        pytest.skip("a folder answers nothing else")
    begin(place, OIDS[0], 2)
    with place.through(Rule(Answer(200, body=answer), "GET", target, times=1)) as proxy:
        uploads = RetryingUploads(S3Uploads(place.store_with(endpoint=proxy.endpoint), PREFIX), patience())
        ((found,),) = pages(uploads)
        far = uploads.progress(found)

    assert far is not None
    assert (far.parts, far.size) == (2, 20)


def test_a_list_that_leads_back_to_itself_ends(place: Place) -> None:
    if not isinstance(place, InBucket):
        pytest.skip("a folder is one page")
    after = f"<NextKeyMarker>{PREFIX}/a</NextKeyMarker><NextUploadIdMarker>1</NextUploadIdMarker>"
    page = f"<ListMultipartUploadsResult><IsTruncated>true</IsTruncated>{after}</ListMultipartUploadsResult>"
    with place.through(Rule(Answer(200, body=page.encode()), "GET", r"\?uploads")) as proxy:
        assert pages(S3Uploads(place.store_with(endpoint=proxy.endpoint), PREFIX)) == [[], []]


def test_an_upload_without_a_name_is_not_begun_or_given_up(place: Place, desk: Desk) -> None:
    """A part of it would be published as the object, and to give it up would delete the object: at Ceph, at least."""
    if not isinstance(place, InBucket):
        pytest.skip("a folder answers nothing else")
    listed = b"<ListMultipartUploadsResult><IsTruncated>false</IsTruncated><Upload><Key>weights/%s</Key><UploadId/>"
    listed = (
        listed % OIDS[0].encode() + b"<Initiated>2020-01-01T00:00:00Z</Initiated></Upload></ListMultipartUploadsResult>"
    )
    begun = b"<InitiateMultipartUploadResult><UploadId/></InitiateMultipartUploadResult>"
    rules = (
        Rule(Answer(200, body=listed), "GET", r"\?uploads", times=1),
        Rule(Answer(200, body=begun), "POST", r"\?uploads", times=1),
    )
    with place.through(*rules) as proxy:
        store = place.store_with(endpoint=proxy.endpoint)
        assert pages(RetryingUploads(S3Uploads(store, PREFIX), patience())) == [[]]
        oid = desk.write(content(12 << 20))
        assert desk.up(retrying(store), oid).how == "uploaded"
        assert "uploadId=" not in [seen.target[-9:] for seen in proxy.requests]
    assert (place.objects(), place.unfinished()) == ({KEY: content(12 << 20)}, 0)


def test_age_is_that_of_the_newest_write(place: Place, uploads: Uploads) -> None:
    if not isinstance(place, InFolder):
        pytest.skip("of S3 see tests/e2e/test_uploads.py")
    begin(place, OIDS[0], 1)
    ((found,),) = pages(uploads)
    os.utime(place.root / "lfs-agent-unfinished" / found.upload_id, (0, time.time() - 8 * 86400))

    far = uploads.progress(found)

    assert far is not None
    assert 8 * 86400 <= far.age_s < 8 * 86400 + 60
