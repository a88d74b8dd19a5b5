"""Several seeds at once: `Crew(server_of, folder, size)`, each hand with a nursery and clients of its own."""

import math
import queue
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Self

from tests.servers import KINDS, Server
from tests.storm.plan import case_of
from tests.storm.run import BUCKET, Run, run
from tests.storm.ways import Nursery

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


class Hand:
    """What runs one seed after another."""

    def __init__(self, server_of: Callable[[str], Server], nursery: Nursery) -> None:
        self._server_of = server_of
        self._nursery = nursery
        self._clients: dict[str, S3Client] = {}

    def run(self, seed: int, folder: Path) -> Run:
        case = case_of(seed)
        server = self._server_of(case.server)
        if case.server not in self._clients:
            self._clients[case.server] = server.client()
        return run(case, server, self._clients[case.server], self._nursery, folder)


class Crew:
    """Runs seeds, `size` at a time, over running servers. Folders of what went wrong are left, or all with `keep`."""

    def __init__(self, server_of: Callable[[str], Server], folder: Path, size: int, *, keep: bool = False) -> None:
        self._server_of = server_of
        self._folder = folder
        self._size = size
        self._keep = keep

    def __enter__(self) -> Self:
        self._stack = ExitStack()
        self._hands: queue.SimpleQueue[Hand] = queue.SimpleQueue()
        for _ in range(self._size):
            self._hands.put(Hand(self._server_of, self._stack.enter_context(Nursery())))
        self._pool = self._stack.enter_context(ThreadPoolExecutor(self._size))
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)
        self._stack.close()

    def run(self, seeds: Iterable[int], *, until: float = math.inf) -> Iterator[Run]:
        """How each went, in the order of the seeds; none is begun after `until` (time.monotonic())."""
        runs = self._pool.map(lambda seed: self._run(seed) if time.monotonic() < until else None, seeds)
        return (run for run in runs if run)

    def _run(self, seed: int) -> Run:
        folder = self._folder / str(seed)
        hand = self._hands.get()
        try:
            done = hand.run(seed, folder)
        finally:
            self._hands.put(hand)
        if not self._keep and not done.wrong:
            shutil.rmtree(folder, ignore_errors=True)
        return done


@contextmanager
def running_servers(base: Path) -> Iterator[Callable[[str], Server]]:
    """The server of a kind, with the storms' bucket, started when first asked for."""
    running: dict[str, Server] = {}
    starting = threading.Lock()  # several hands may ask for the same one

    def server_of(kind: str) -> Server:
        with starting:
            if kind not in running:
                running[kind] = KINDS[kind](base / kind).start()
                open_bucket(running[kind])
            return running[kind]

    try:
        yield server_of
    finally:
        for server in running.values():
            server.stop()


def open_bucket(server: Server) -> Server:
    """The server, with the storms' bucket."""
    client = server.client()
    if BUCKET not in {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}:
        client.create_bucket(Bucket=BUCKET)
    return server
