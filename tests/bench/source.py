"""Repositories of any number of objects, made quickly: written into git-lfs's store, their pointers committed."""

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.machine import Home

_BLOCK = 4 << 20


@dataclass(frozen=True)
class Source:
    """A work tree with a bare `origin` that has its commits; its LFS objects exist nowhere but in `objects`."""

    work: Path
    origin: Path
    count: int
    size: int

    @property
    def objects(self) -> Path:
        """git-lfs's folder of objects."""
        return objects_in(self.work)

    @property
    def object_size(self) -> int:
        return self.size // self.count


def objects_in(work: Path) -> Path:
    """git-lfs's folder of objects in a work tree."""
    return work / ".git" / "lfs" / "objects"


def make_source(home: Home, folder: Path, count: int, object_size: int, lfsconfig: str = "") -> Source:
    """A repository of `count` random objects of `object_size` bytes each; `home` has no git-lfs filters yet."""
    source = Source(folder / "work", folder / "origin.git", count, count * object_size)
    home.git("init", "-q", "--bare", source.origin)
    home.git("init", "-q", source.work)
    (source.work / ".gitattributes").write_text("*.bin filter=lfs diff=lfs merge=lfs -text\n")
    if lfsconfig:
        (source.work / ".lfsconfig").write_text(lfsconfig)
    for number in range(count):
        oid = _store(source.objects, object_size, random.Random(f"{count}/{object_size}/{number}"))
        path = source.work / f"rack-{number % 10}" / f"{number}.bin"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {object_size}\n")
    home.git("add", "-A", cwd=source.work)
    home.git("commit", "-q", "-m", f"{count} objects", cwd=source.work)
    home.git("remote", "add", "origin", source.origin, cwd=source.work)
    return source


def _store(objects: Path, size: int, generator: random.Random) -> str:
    """Writes an object; gives its oid."""
    objects.mkdir(parents=True, exist_ok=True)
    temporary = objects / "incoming"
    digest = hashlib.sha256()
    with temporary.open("wb", buffering=0) as file:
        for length in _blocks(size):
            block = generator.randbytes(length)
            digest.update(block)
            file.write(block)
    oid = digest.hexdigest()
    final = objects / oid[:2] / oid[2:4] / oid
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary.rename(final)
    return oid


def _blocks(size: int) -> Iterator[int]:
    while size:
        length = min(size, _BLOCK)
        yield length
        size -= length
