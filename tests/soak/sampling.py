"""What our workers and a folder take, sampled while something runs. Memory needs Linux's /proc."""

import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from tests.bench.contenders import WORKER

_INTERVAL_S = 0.1


class Sampler:
    """Peaks, while it is entered: summed PSS of all workers below this process, bytes added to `folders`."""

    def __init__(self, *folders: Path) -> None:
        self.pss = 0
        self.workers = 0
        self.disk = 0
        self._folders = folders
        self._over = threading.Event()

    def __enter__(self) -> Self:
        self._disk_before = self._disk()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(_INTERVAL_S):
            sizes = [_pss(pid) for pid in _workers()]
            self.pss = max(self.pss, sum(sizes))
            self.workers = max(self.workers, len(sizes))
            self.disk = max(self.disk, self._disk() - self._disk_before)

    def _disk(self) -> int:
        return sum(size_on_disk(folder) for folder in self._folders)


def size_on_disk(folder: Path) -> int:
    """Bytes that the files in a folder take; those that vanish meanwhile take none."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(parent, name)).st_blocks * 512  # noqa: PTH118 - ten times a second
            except OSError:
                continue
    return total


def _workers() -> Iterator[int]:
    """The processes that run our worker, below this one: others may run it on this machine, too."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            stat = (entry / "stat").read_text()
        except OSError:
            continue
        parent = int(stat[stat.rindex(")") + 2 :].split()[1])
        children.setdefault(parent, []).append(int(entry.name))
    found = list(children.get(os.getpid(), ()))
    for pid in found:  # grows as it is walked
        found += children.get(pid, ())
        if _runs_worker(pid):
            yield pid


def _runs_worker(pid: int) -> bool:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return os.fsencode(WORKER) in words


def _pss(pid: int) -> int:
    """Bytes: a page that n processes share counts as 1/n."""
    try:
        found = re.search(r"^Pss:\s+(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
    except OSError:
        return 0
    return int(found[1]) * 1024 if found else 0
