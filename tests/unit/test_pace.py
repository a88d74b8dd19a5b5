"""A bandwidth, over a dict: what is moved is paid for, and stays what it was. Over S3: tests/e2e/test_load.py."""

import threading

from lfs_agent.errors import TransientError
from lfs_agent.pace import PacedStore
from lfs_agent.parts import MIB
from lfs_agent.session import Bandwidth
from lfs_agent.store import Body
from tests.contract.desk import KEY
from tests.contract.stores import BytesBody, DictStore, content, crc_of, oid_of, put_parts, read, retrying

STOP = threading.Event()


class Tally(Bandwidth):
    """A bandwidth that lets everything through, and counts."""

    def __init__(self, rate: int = 1_000_000) -> None:
        super().__init__(rate)
        self.taken: list[int] = []

    def wait(self, size: int, stop: threading.Event) -> None:
        if size:
            self.taken.append(size)


def test_an_object_of_any_size_is_paid_for_once_in_both_directions() -> None:
    for size in (0, 1, 62_499, 62_500, 62_501, 1_000_000):
        store, tally, data = DictStore(), Tally(), content(size)
        paced = PacedStore(store, tally, STOP)

        paced.put(KEY, oid_of(data), BytesBody(data))
        assert (store.objects[KEY], sum(tally.taken)) == (data, size)
        assert read(paced, KEY, 0, size)[1] == data
        assert sum(tally.taken) == 2 * size
        assert max(tally.taken, default=0) <= 65536  # what the other store hands over at once


def test_parts_are_paid_for() -> None:
    store, tally, data = DictStore(), Tally(), content(6 * MIB)
    paced = PacedStore(store, tally, STOP)
    begun = paced.begin(KEY, oid_of(data), len(data))

    resumed = paced.resume(KEY, len(data), begun.token)
    assert resumed is not None
    resumed[0].complete(put_parts(resumed[0], data), crc_of(data))

    assert (store.objects, sum(tally.taken)) == ({KEY: data}, 6 * MIB)


def test_what_is_sent_again_is_paid_for_again() -> None:
    data, tally = content(1_000_000), Tally()
    store = BreakingStore()
    paced = PacedStore(retrying(store), tally, STOP)

    paced.put(KEY, oid_of(data), BytesBody(data))

    assert store.objects == {KEY: data}
    assert sum(tally.taken) == len(data) + store.lost
    assert 0 < store.lost < len(data)


class BreakingStore(DictStore):
    """A connection that breaks in the middle of the first body."""

    lost = 0

    def _received(self, body: Body) -> bytes:
        if not self.lost:
            body.seek(0)
            body.sending()
            while self.lost < len(body) // 2:
                self.lost += len(body.read(65536))
            raise TransientError("reset", heard=True)
        return super()._received(body)


def test_to_look_at_a_body_costs_nothing_also_after_some_of_it_was_sent() -> None:
    """But for the first turn, which is waited for before anything is asked: a first request has only so long."""
    data, tally = content(1_000_000), Tally()

    class Looking(DictStore):
        def _received(self, body: Body) -> bytes:
            assert tally.taken == [62_500]
            body.seek(0)
            body.sending()
            assert body.read() == data[:62_500]
            assert body.tell() == 62_500
            body.seek(0)
            assert b"".join(iter(lambda: body.read(65536), b"")) == data
            assert tally.taken == [62_500]
            return super()._received(body)

    PacedStore(Looking(), tally, STOP).put(KEY, oid_of(data), BytesBody(data))

    assert sum(tally.taken) == 62_500 + len(data)
