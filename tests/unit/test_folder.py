"""What a FolderStore has beyond the contract of all stores: files, modes, kills, file systems with less."""

import errno
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lfs_agent.errors import (
    BucketError,
    ConflictError,
    DamagedError,
    DeniedError,
    DiskError,
    ObjectError,
    TransientError,
)
from lfs_agent.parts import MIB
from lfs_agent.store import folder
from lfs_agent.store.folder import FolderStore
from lfs_agent.store.folderstock import FolderStock, FolderUploads
from tests.contract.stores import BytesBody, content, crc_of, oid_of, put_parts, read, retrying
from tests.disk import make_stale

KEY = "weights/ab/cd/abcd"
OID = oid_of(b"weights")


@pytest.fixture(autouse=True)
def _store(tmp_path: Path) -> None:
    (tmp_path / ".lfs-agent").mkdir()


def files(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def test_an_object_is_a_plain_file_that_nobody_writes(tmp_path: Path) -> None:
    FolderStore(tmp_path).put(KEY, OID, BytesBody(b"weights"))

    assert files(tmp_path) == [KEY]
    assert (tmp_path / KEY).read_bytes() == b"weights"
    assert stat.S_IMODE((tmp_path / KEY).stat().st_mode) & 0o222 == 0


def test_an_address_is_a_path(tmp_path: Path) -> None:
    assert FolderStore(tmp_path).address("a/b") == str(tmp_path / "a" / "b")


def test_an_unmounted_share_is_not_an_empty_store(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "share")

    with pytest.raises(BucketError, match="mount it, or create it"):
        store.connect()
    with pytest.raises(BucketError):
        store.stat(KEY)
    assert not (tmp_path / "share").exists()


def test_nothing_is_stored_below_the_mount_point_of_a_share_that_is_gone(tmp_path: Path) -> None:
    (tmp_path / "share").mkdir()

    with pytest.raises(BucketError, match="is empty: mount the share"):
        FolderStore(tmp_path / "share").put(KEY, OID, BytesBody(b"weights"))

    assert list((tmp_path / "share").iterdir()) == []


def test_a_kill_publishes_nothing(tmp_path: Path) -> None:
    program = """
import os, signal, sys
from pathlib import Path
from lfs_agent.store.folder import FolderStore
from tests.contract.stores import content, oid_of, put_parts

data = content(6 << 20)
upload = FolderStore(Path(sys.argv[1])).begin("key", oid_of(data), len(data))
put_parts(upload, data)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", program, tmp_path], check=False)

    assert done.returncode == -signal.SIGKILL
    assert FolderStore(tmp_path).stat("key") is None
    assert [name.partition("/")[0] for name in files(tmp_path)] == ["lfs-agent-unfinished"]


def test_what_does_not_read_back_as_it_was_written_is_not_published(tmp_path: Path) -> None:
    with pytest.raises(TransientError, match="does not read back"):
        FolderStore(tmp_path).put(KEY, OID, BytesBody(b"weighty"))

    assert files(tmp_path) == []


def test_a_key_whose_folder_is_a_file_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(b"")

    with pytest.raises(ObjectError, match=f"{tmp_path}/weights: Not a directory"):
        FolderStore(tmp_path).put(KEY, OID, BytesBody(b"weights"))
    with pytest.raises(ObjectError, match=f"{tmp_path}/weights/ab"):
        FolderStore(tmp_path).stat(KEY)


@pytest.mark.parametrize(
    "number,error,words",
    [
        (errno.EACCES, DeniedError, "owner can give you the right"),
        (errno.EROFS, BucketError, "can only be read"),
        (errno.ENOSPC, DiskError, "is full"),
        (errno.EDQUOT, DiskError, "is full"),
        (errno.ESTALE, TransientError, "Stale"),
        (errno.EIO, TransientError, "error"),
        (errno.ENAMETOOLONG, DeniedError, "too long"),
    ],
)
def test_what_the_system_says_becomes_a_sentence(
    tmp_path: Path, number: int, error: type[Exception], words: str
) -> None:
    translated = FolderStore(tmp_path).translated(OSError(number, os.strerror(number)), KEY)

    assert type(translated) is error
    assert words in str(translated)


def test_a_file_system_without_links_publishes_by_renaming(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    store = FolderStore(tmp_path)
    store.put(KEY, OID, BytesBody(b"weights"))
    with pytest.raises(ConflictError):
        store.put(KEY, OID, BytesBody(b"weights"))

    assert files(tmp_path) == [KEY]
    assert read(store, KEY, 0, 7)[1] == b"weights"


@pytest.mark.skipif(sys.platform != "linux", reason="a rename that replaces nothing is Linux's")
def test_without_links_what_comes_at_the_same_moment_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a push that saves an object and a gc that deletes it, both would be first."""

    def no_links(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    store = FolderStore(tmp_path)
    store.put(KEY, OID, BytesBody(b"weights"))
    before = (tmp_path / KEY).stat()
    monkeypatch.setattr(os.path, "lexists", lambda path: False)  # who has looked a moment ago
    with pytest.raises(ConflictError):
        store.put(KEY, OID, BytesBody(b"weights"))

    assert (tmp_path / KEY).stat().st_ino == before.st_ino
    assert files(tmp_path) == [KEY]


def test_a_short_write_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = os.pwrite

    def short(fd: int, data: memoryview, offset: int) -> int:
        return whole(fd, data[: max(1, len(data) // 2)], offset)

    monkeypatch.setattr(os, "pwrite", short)
    data = content(3 * MIB)
    upload = FolderStore(tmp_path).begin(KEY, oid_of(data), len(data))
    upload.complete(put_parts(upload, data), crc_of(data))

    assert (tmp_path / KEY).read_bytes() == data


def test_a_failed_sync_is_final_and_publishes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system tells of lost data once: a second sync would succeed."""
    failures = [OSError(errno.EIO, "Input/output error")]
    whole = os.fsync

    def once(fd: int) -> None:
        if failures:
            raise failures.pop()
        whole(fd)

    monkeypatch.setattr(os, "fsync", once)
    data = content(6 * MIB)
    upload = retrying(FolderStore(tmp_path)).begin(KEY, oid_of(data), len(data))
    with pytest.raises(DamagedError, match="was not written: Input/output error; push again"):
        upload.complete(put_parts(upload, data), crc_of(data))
    upload.abort()

    assert files(tmp_path) == []


def test_a_name_is_on_the_disk_before_its_object_is_said_to_be_stored_or_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a folder says of its files is synced by itself, and is lost with the power else."""
    synced: list[tuple[bool, bool]] = []
    whole = os.fsync
    key = tmp_path / KEY

    def watched(fd: int) -> None:
        whole(fd)
        synced.append((os.path.samestat(os.fstat(fd), key.parent.stat()), key.exists()))

    monkeypatch.setattr(os, "fsync", watched)
    store = FolderStore(tmp_path)
    store.put(KEY, OID, BytesBody(b"weights"))
    assert synced[-1] == (True, True)

    found = store.stat(KEY)
    assert found
    synced.clear()
    store.put(KEY, OID, BytesBody(b"weights"), found.etag)
    assert synced[-1] == (True, True)

    stock = FolderStock(store)
    left = stock.look(KEY)
    assert left
    stock.delete(KEY, left.etag)
    assert synced[-1] == (True, False)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_share_that_says_only_at_the_end_that_it_is_full_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """As NFS does: it is no damage, and to push again at once is of no use."""

    def full(fd: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskError, match="is full: make room"):
        retrying(FolderStore(tmp_path)).put(KEY, OID, BytesBody(b"weights"))

    assert files(tmp_path) == []


def test_a_file_that_cannot_be_closed_is_closed_once(tmp_path: Path) -> None:
    """Its number may be another thread's file by then."""
    upload = FolderStore(tmp_path).begin(KEY, OID, 7)
    os.close(upload._fd)
    upload.abort()
    other = os.open(tmp_path / "other", os.O_WRONLY | os.O_CREAT)
    upload.abort()

    os.write(other, b"weights")
    os.close(other)
    assert files(tmp_path) == ["other"]


def test_a_file_that_another_machine_has_just_replaced_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over NFS nothing more can be asked of the one that was opened."""
    store = retrying(FolderStore(tmp_path))
    store.put(KEY, OID, BytesBody(b"weights"))
    stale = make_stale(monkeypatch)

    assert read(store, KEY, 0, 7)[1] == b"weights"
    assert not stale


def test_parts_that_do_not_read_back_are_not_published(tmp_path: Path) -> None:
    data = content(6 * MIB)
    upload = FolderStore(tmp_path).begin(KEY, oid_of(b"another object"), len(data))
    with pytest.raises(DamagedError, match="does not read back"):
        upload.complete(put_parts(upload, data), crc_of(data))
    upload.abort()

    assert files(tmp_path) == []


def test_an_upload_may_be_aborted_twice_and_after_its_end(tmp_path: Path) -> None:
    data = content(6 * MIB)
    upload = FolderStore(tmp_path).begin(KEY, oid_of(data), len(data))
    upload.complete(put_parts(upload, data), crc_of(data))
    upload.abort()
    upload.abort()

    assert files(tmp_path) == [KEY]


def test_large_files_are_read_in_blocks(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(content(3 * MIB))
    lengths: list[int] = []
    FolderStore(tmp_path).fetch("key", 1, 3 * MIB, lambda offset, chunk: lengths.append(len(chunk)))

    assert lengths == [folder._BLOCK, folder._BLOCK, MIB - 1]


@pytest.mark.parametrize("name", ["x" * 300, "loop"])
def test_a_root_that_cannot_be_asked_is_one_cause(tmp_path: Path, name: str) -> None:
    """As that of a share whose server is gone: whatever the system says of it, it is not about one object."""
    (tmp_path / "loop").symlink_to("loop")
    store = FolderStore(tmp_path / name)

    for ask in (store.connect, lambda: store.stat(KEY), lambda: store.put(KEY, OID, BytesBody(b"weights"))):
        with pytest.raises(BucketError, match=f"^the shared folder {tmp_path / name}: .*; mount it anew$"):
            ask()


def test_unfinished_uploads_are_as_old_as_the_share_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not as this machine, which may be days ahead of those that write there."""
    now = time.time
    monkeypatch.setattr("time.time", lambda: now() + 8 * 86400)
    store = FolderStore(tmp_path)
    store.begin(KEY, OID, 7)
    uploads = FolderUploads(store, lambda oid: KEY)
    uploads.connect()
    ((upload,), _) = uploads.listed(None)
    progress = uploads.progress(upload)

    assert progress is not None
    assert progress.age_s < 3600


def test_the_clock_of_a_share_counts_also_where_it_lets_us_delete_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a folder that files may only be added to: by a clock of ours that is ahead, a live gc would be long dead."""

    def denied(self: Path, missing_ok: bool = False) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), str(self))

    now = time.time
    monkeypatch.setattr("time.time", lambda: now() + 8 * 86400)
    monkeypatch.setattr(Path, "unlink", denied)
    stock = FolderStock(FolderStore(tmp_path))
    stock.connect()

    assert abs(stock.now() - now()) < 60


def test_to_give_up_an_upload_whose_folder_is_gone_is_no_failure(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    store.begin(KEY, OID, 7)
    uploads = FolderUploads(store, lambda oid: KEY)
    ((upload,), _) = uploads.listed(None)
    shutil.rmtree(tmp_path / folder.UNFINISHED)

    uploads.abort(upload)
