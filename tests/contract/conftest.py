"""Each kind of store in turn, with another way to look into it."""

import re
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from lfs_agent.store import Store
from lfs_agent.store.folder import FolderStore
from lfs_agent.store.s3 import S3Store
from tests.cellar import new_share
from tests.conftest import ServerOf
from tests.contract.desk import Desk
from tests.contract.stores import DictStore, retrying, s3_store
from tests.proxy import FaultProxy, Faults, Key, Rule
from tests.servers import KINDS, Server


class Place(ABC):
    """A store under test. `can`: what it promises beyond the least, in the words of `Server.supports`."""

    store: Store
    can: frozenset[str] = frozenset({"checksums", "conditional_put", "conditional_complete"})

    @abstractmethod
    def without_bucket(self) -> Store:
        """A store whose bucket is not there."""

    @abstractmethod
    def objects(self) -> dict[str, bytes]:
        """All that others can see."""

    @abstractmethod
    def replace(self, key: str, data: bytes) -> None:
        """Writes behind the store's back."""

    @abstractmethod
    def remove(self, key: str) -> None:
        """Deletes behind the store's back."""

    @abstractmethod
    def unfinished(self) -> int:
        """How many objects are on their way."""

    @abstractmethod
    def forget_uploads(self) -> None:
        """Drops them, as a lifecycle rule does."""


class InDict(Place):
    def __init__(self) -> None:
        self.store = self._store = DictStore()

    def without_bucket(self) -> Store:
        return DictStore(missing=True)

    def objects(self) -> dict[str, bytes]:
        return dict(self._store.objects)

    def replace(self, key: str, data: bytes) -> None:
        self._store.objects[key] = data

    def remove(self, key: str) -> None:
        del self._store.objects[key]

    def unfinished(self) -> int:
        return len(self._store.uploads)

    def forget_uploads(self) -> None:
        self._store.uploads.clear()


class InFolder(Place):
    can = frozenset({"conditional_put", "conditional_complete"})

    def __init__(self, root: Path) -> None:
        self.root = new_share(root)
        self.store = FolderStore(root)

    def without_bucket(self) -> Store:
        return FolderStore(self.root / "missing")

    def objects(self) -> dict[str, bytes]:
        return {name: path.read_bytes() for name, path in self._files() if not name.startswith("lfs-agent-unfinished")}

    def replace(self, key: str, data: bytes) -> None:
        path = self.root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_bytes(data)

    def remove(self, key: str) -> None:
        (self.root / key).unlink()

    def unfinished(self) -> int:
        return len(list(self._files())) - len(self.objects())

    def forget_uploads(self) -> None:
        shutil.rmtree(self.root / "lfs-agent-unfinished", ignore_errors=True)

    def _files(self) -> list[tuple[str, Path]]:
        return [(str(path.relative_to(self.root)), path) for path in self.root.rglob("*") if path.is_file()]


class InBucket(Place):
    def __init__(self, server: Server, bucket: str, *, lean: bool = True) -> None:
        self.server = server
        self.bucket = bucket
        self.lean = lean
        """Whether whole objects go without boto3's client."""
        self.can = server.supports
        self.client = server.client()
        self.store = self.s3 = s3_store(server, bucket, lean=lean)

    def store_with(self, **settings: Any) -> S3Store:
        return s3_store(self.server, self.bucket, lean=self.lean, **settings)

    def through(self, *rules: Rule) -> FaultProxy:
        """A proxy before the server that does what the rules say."""
        key = Key(self.server.access_key, self.server.secret_key)
        return FaultProxy(self.server.endpoint, Faults(rules, seed=7), key=key)

    def without_bucket(self) -> Store:
        return s3_store(self.server, "there-is-no-such-bucket", lean=self.lean)

    def objects(self) -> dict[str, bytes]:
        keys = self.server.keys(self.bucket)
        return {key: self.client.get_object(Bucket=self.bucket, Key=key)["Body"].read() for key in keys}

    def replace(self, key: str, data: bytes) -> None:
        self.client.put_object(Bucket=self.bucket, Key=key, Body=data)

    def remove(self, key: str) -> None:
        self.client.delete_object(Bucket=self.bucket, Key=key)

    def unfinished(self) -> int:
        return len(self._uploads())

    def forget_uploads(self) -> None:
        for upload in self._uploads():
            self.client.abort_multipart_upload(Bucket=self.bucket, Key=upload["Key"], UploadId=upload["UploadId"])

    def _uploads(self) -> list[Any]:
        return list(self.client.list_multipart_uploads(Bucket=self.bucket).get("Uploads", []))


BY_BOTO3 = "versitygw, by boto3"
"""Where whole objects, too, go by boto3's client, as they do wherever only that can do what is wanted."""

_numbers = count(1)


def new_bucket(server: Server, test: str) -> str:
    """A fresh bucket, named after the test."""
    name = f"{re.sub(r'[^a-z0-9]+', '-', test.lower())[:50].strip('-')}-{next(_numbers)}"
    server.client().create_bucket(Bucket=name)
    return name


# Named "server" although two of them are none: by this parameter tests/conftest.py keeps a server's tests together.
@pytest.fixture(params=["dict", "folder", *KINDS, BY_BOTO3])
def server(request: pytest.FixtureRequest) -> str:
    kind: str = request.param
    return kind


@pytest.fixture
def place(request: pytest.FixtureRequest, server: str, server_of: ServerOf, tmp_path: Path) -> Place:
    """Each kind of store, empty."""
    match server:
        case "dict":
            return InDict()
        case "folder":
            (tmp_path / "share").mkdir()
            return InFolder(tmp_path / "share")
        case "versitygw, by boto3":
            gateway = server_of("versitygw")
            return InBucket(gateway, new_bucket(gateway, request.node.name), lean=False)
    return InBucket(server_of(server), new_bucket(server_of(server), request.node.name))


BucketOf = Callable[..., InBucket]


@pytest.fixture
def bucket_of(request: pytest.FixtureRequest, server_of: ServerOf) -> BucketOf:
    """A fresh bucket on a server of the kind that is named."""
    return lambda kind: InBucket(server_of(kind), new_bucket(server_of(kind), request.node.name))


@pytest.fixture(params=["plain", "retrying"])
def store(request: pytest.FixtureRequest, place: Place) -> Store:
    """The store of the place, as it is and inside a RetryingStore."""
    return place.store if request.param == "plain" else retrying(place.store, deadline_s=0.5)


# Transfers


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    folder = tmp_path / "desk"
    folder.mkdir()
    return Desk(folder)
