"""Opens, by smart-open, what Amazon writes about a bucket: files on disk, or objects in whatever bucket has them."""

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final

from lfs_agent.errors import DamagedError, MissingError, ReportError
from lfs_agent.store.s3 import Call, S3Store

_NAME: Final = re.compile(r"[A-Za-z0-9_][\w.-]{0,254}", re.ASCII)
_KEY: Final = re.compile(r"[\w!.*'()=@+/ -]{1,1024}", re.ASCII)
_NEAR: Final = ("", "results", "data", "../data")
"""Where the files of a manifest are, seen from it: as Amazon lays them out, or all in one folder."""


def _open(where: str, params: Mapping[str, Any]) -> BinaryIO:
    import smart_open  # 0.2 s, for this command alone

    logging.getLogger("smart_open").addHandler(logging.NullHandler())  # what it has to say comes as an error
    file: BinaryIO = smart_open.open(where, "rb", compression="disable", transport_params=dict(params))
    return file


class DiskFiles:
    """A file on disk, and those near it that a manifest calls by keys: only their last part counts."""

    def __init__(self, first: Path) -> None:
        self._first = first.absolute()

    @property
    def name(self) -> str:
        return str(self._first)

    def open(self, key: str = "") -> tuple[BinaryIO, bool]:
        path, compressed = self._near(key) if key else (self._first, False)
        try:
            return _open(str(path), {}), compressed
        except OSError as error:
            raise ReportError(f"cannot read {path}: {error.strerror}") from None

    def _near(self, key: str) -> tuple[Path, bool]:
        last = key.rpartition("/")[2]
        if not _NAME.fullmatch(last):
            raise ReportError(f"{self.name}: it names a file {key[:80]!r}, which is none of Amazon's")
        for folder in _NEAR:
            for name in (last, f"{last}.gz"):
                if (path := self._first.parent / folder / name).is_file():
                    return path, name != last
        raise ReportError(
            f"{self.name}: it names the file {last}, which is not beside it, nor in results, data or ../data"
        )


class S3Files:
    """An object, and those of its bucket that it calls by their keys. `store` is of that bucket."""

    def __init__(self, store: S3Store, first: str, call: Call) -> None:
        self._store = store
        self._first = first
        self._call = call

    @property
    def name(self) -> str:
        return self._store.address(self._first)

    def open(self, key: str = "") -> tuple[BinaryIO, bool]:
        if key and (not _KEY.fullmatch(key) or {".", ".."} & set(key.split("/"))):
            raise ReportError(f"{self.name}: it names an object {key[:80]!r}, which is none of Amazon's")
        address = self._store.address(key or self._first)
        return _open(address, {"client": self}), False

    def get_object(self, *, Bucket: str, Key: str, Range: str) -> dict[str, Any]:
        """As the client that smart-open is given: our own, with our settings, errors and patience."""
        try:
            return self._call("reading", lambda: self._store.ask("reading", "get_object", Key, Range=Range))
        except MissingError as error:
            raise ReportError(f"{self._store.address(Key)}: nothing is there, or it was deleted") from error
        except DamagedError as error:
            raise ReportError(f"{self._store.address(Key)}: it is empty, or was cut off while it was read") from error

    def put(self, body: BinaryIO) -> tuple[str, str]:
        """Stores a new object; its ETag and version, "" without one.

        Raises ConflictError where something is there.
        """
        doing = "storing"

        def ask() -> dict[str, Any]:
            body.seek(0)
            return self._store.ask(doing, "put_object", self._first, Body=body, IfNoneMatch="*", ContentType="text/csv")

        answer = self._call(doing, ask)
        with self._store.understanding(self._first, doing):
            return str(answer["ETag"]).strip('"'), str(answer.get("VersionId", ""))
