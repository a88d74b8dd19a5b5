"""What processes of a session hand over to each other."""

import _socket as socket
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

if sys.platform != "linux":
    pytest.skip("what is forked is Linux's alone", allow_module_level=True)

from lfs_agent.worker import started_at
from lfs_agent.zygote import Asked, hand_over, receive

Link = socket.socket


@pytest.fixture
def link() -> Iterator[tuple[Link, Link]]:
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    yield here, there
    here.close()
    there.close()


def asked(request: bytes) -> Asked:
    """With streams of its own, all of which are an end of a pipe."""
    mine, _ = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    read, write = os.pipe()
    return Asked(request, 17, mine, read, write, os.dup(write))


def open_descriptors() -> int:
    return len([*Path("/proc/self/fd").iterdir()])


def test_what_is_handed_over_comes_whole_and_is_here_no_more(link: tuple[Link, Link]) -> None:
    here, there = link
    before = open_descriptors()
    assert hand_over(here, asked(b"a request\nof two lines\n"))
    assert open_descriptors() == before

    found = receive(there)

    assert found is not None
    assert (found.request, found.pid, found.taken) == (b"a request\nof two lines\n", 17, False)
    os.write(found.answers, b"x")
    assert os.read(found.requests, 1) == b"x"
    found.close()
    assert open_descriptors() == before


def test_what_was_handed_over_before_an_end_is_received(link: tuple[Link, Link]) -> None:
    """The kernel tells first that the other end had not read all."""
    here, there = link
    here.send(b"unread")
    assert hand_over(there, asked(b"the last\n"))
    there.close()

    found = receive(here)

    assert found is not None
    assert found.request == b"the last\n"
    found.close()
    assert receive(here) is None


def test_what_is_too_long_or_for_nobody_stays(link: tuple[Link, Link]) -> None:
    here, there = link
    too_long, late = asked(b"x" * 70_000), asked(b"late\n")
    assert not hand_over(here, too_long)
    there.close()
    assert not hand_over(here, late)

    for one in (too_long, late):
        os.write(one.answers, b"x")
        assert os.read(one.requests, 1) == b"x"
        one.close()


def test_of_half_of_the_descriptors_none_stays_open(link: tuple[Link, Link], monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = link
    before = open_descriptors()
    assert hand_over(here, asked(b"a request\n"))
    monkeypatch.setattr("lfs_agent.zygote.socket.CMSG_SPACE", lambda size: socket.CMSG_LEN(size // 2))

    assert receive(there) is None
    assert open_descriptors() == before


def test_no_process_is_taken_for_older_than_it_is() -> None:
    """Also by one that stood still after a look at the clock: who was started after a cause has to tell it."""
    before = time.time()
    with subprocess.Popen(["sleep", "60"]) as process:
        started = started_at(process.pid, before - 60)
        process.kill()

    assert started >= before
