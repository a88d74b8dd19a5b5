"""Reads what Amazon writes about a bucket, manifests and their rows, within bounds: nothing in them is trusted."""

import csv
import gzip
import hashlib
import io
import json
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, Final, Protocol, cast
from urllib.parse import unquote_plus

from lfs_agent.errors import ReportError

_MAX_MANIFEST: Final = 1 << 24
"""Bytes of a manifest: the names of 100,000 files."""
_MAX_LINE: Final = 1 << 17
"""Characters of a line; a key has at most 1,024 bytes, what a job says of it a few hundred."""
_BLOCK: Final = 1 << 20


class Files(Protocol):
    """A file that a person has named, and those that belong to it."""

    @property
    def name(self) -> str:
        """The file that was named, for messages."""

    def open(self, key: str = "") -> tuple[BinaryIO, bool]:
        """That file, or the one that it calls `key`; and whether it was compressed since it got that name.

        Raises ReportError, and what a Store raises.
        """


class _Hashed(io.RawIOBase):
    """Another file's bytes; keeps their MD5."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.md5 = hashlib.md5(usedforsecurity=False)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        chunk = self._file.read(len(buffer))
        buffer[: len(chunk)] = chunk
        self.md5.update(chunk)
        return len(chunk)


@contextmanager
def reading(files: Files, key: str = "") -> Iterator[None]:
    """Takes a file apart.

    Raises ReportError where it is not what it should be.
    """
    named = key or files.name
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ReportError(f"{named}: the compressed file is broken, or cut off ({error})") from error
    except (
        LookupError, ValueError, TypeError, AttributeError, OverflowError, RecursionError, csv.Error, OSError
    ) as error:  # fmt: skip
        said = " ".join(str(error).split())[:200]
        raise ReportError(f"{named}: it is not what Amazon writes, or cannot be read ({said})") from error


def read_manifest(files: Files) -> dict[str, Any]:
    """The manifest that a person has named. Raises ReportError."""
    with reading(files):
        file, compressed = files.open()
        with file, gzip.GzipFile(fileobj=file) if compressed else file as plain:
            content = plain.read(_MAX_MANIFEST + 1)
        if len(content) > _MAX_MANIFEST:
            raise ValueError(f"more than {_MAX_MANIFEST} bytes")
        manifest = json.loads(content)
        if not isinstance(manifest, dict):
            raise TypeError("no JSON object")
        return manifest


@contextmanager
def proven(files: Files, key: str, md5: str) -> Iterator[BinaryIO]:
    """The file `key`, as it was written, to be read to its end; with md5 "" whatever it holds.

    Raises ReportError at the end where its MD5 (in hex) is another one.
    """
    file, compressed = files.open(key)
    with file, cast(BinaryIO, gzip.GzipFile(fileobj=file)) if compressed else file as written:
        hashed = _Hashed(written)
        with io.BufferedReader(hashed, _BLOCK) as buffered:
            yield cast(BinaryIO, buffered)
            while buffered.read(_BLOCK):
                pass
        if md5 and hashed.md5.hexdigest() != md5.lower():
            raise ReportError(f"{key}: its MD5 is not the one in {files.name}: it is damaged, cut off, or another file")


def rows(files: Files, key: str, md5: str, width: int) -> Iterator[list[str]]:
    """The rows of a CSV file of so many columns, plain or `.gz`.

    Raises ReportError, after the last row at the latest.
    """
    with reading(files, key), proven(files, key, md5) as file:
        plain = gzip.GzipFile(fileobj=file) if (key or files.name).endswith(".gz") else file
        text = io.TextIOWrapper(cast(BinaryIO, plain), "utf-8", newline="")
        for row in csv.reader(_lines(text.readline), strict=True, skipinitialspace=True):
            if len(row) != width:
                raise ValueError(f"a row has {len(row)} columns, not {width}")
            yield row


def _lines(readline: Callable[[int], str]) -> Iterator[str]:
    """Lines; ValueError for one that is longer than any that Amazon writes, before it fills the memory."""
    while line := readline(_MAX_LINE):
        if len(line) == _MAX_LINE:
            raise ValueError(f"a line of more than {_MAX_LINE} characters")
        yield line


def key_in(cell: str) -> str:
    """A key as Amazon writes it into CSV: URL-encoded, a space as a plus.

    >>> key_in("weights/a%2Bb%20c+d")
    'weights/a+b c d'
    """
    return unquote_plus(cell, errors="strict") if "%" in cell or "+" in cell else cell
