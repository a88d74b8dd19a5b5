"""Fixtures for all tests: servers and buckets. What is absent is a named skip, a failure in CI."""

import itertools
import os
import re
import signal
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import pytest
from hypothesis import settings

from tests.servers import KINDS, Authority, Server, Tls, make_certificate
from tests.servers.server import program

settings.register_profile("here", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.register_profile("long", deadline=None, max_examples=10_000)


def in_ci() -> bool:
    return os.environ.get("CI", "").lower() in ("1", "true")


settings.load_profile("ci" if in_ci() else "here")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # started in the background: children would ignore Ctrl-C, too
    signal.signal(signal.SIGINT, signal.default_int_handler)


def absent(reason: str) -> NoReturn:
    """Skips a test whose means are not on this machine; in CI they have to be."""
    if in_ci():
        pytest.fail(f"missing where CI=true: {reason}", pytrace=False)
    pytest.skip(reason)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Three workers for two cores: a third of a test's time is waiting, for deadlines, pauses and quiet in a log."""
    return (os.cpu_count() or 2) * 3 // 2


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A file's tests stay on one worker, for each server that they run over; Ceph takes long to start: all on one.

    By test ids, so a test over Ceph alone has it as a parameter: of pytest 9.2 xdist's own groups are unknown
    (pytest-xdist 3.8 sets a field that is gone).
    """
    from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

    class ByServer(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            file, _, test = nodeid.partition("::")
            kinds = KINDS.keys() & re.split(r"[\[\]-]", test.partition("[")[2])
            return "ceph" if "ceph" in kinds else "-".join([file, *sorted(kinds)])

    return ByServer(config, log)


# Servers

ServerOf = Callable[[str], Server]


@pytest.fixture(scope="session")
def server_of(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerOf]:
    """The running server of a kind ("localstack", "versitygw", "ceph"), started when first asked for."""
    running: dict[str, Server] = {}

    def server_of(kind: str) -> Server:
        if kind not in running:
            if reason := KINDS[kind].missing():
                absent(reason)
            running[kind] = KINDS[kind](tmp_path_factory.mktemp(kind)).start()
        return running[kind]

    yield server_of
    for server in running.values():
        server.stop()


@pytest.fixture(scope="session", params=list(KINDS))
def server(request: pytest.FixtureRequest, server_of: ServerOf) -> Server:
    """Each S3 server in turn: a test that asks for it runs over LocalStack, versitygw and Ceph."""
    return server_of(request.param)


@pytest.fixture(scope="session")
def any_server(server_of: ServerOf) -> Server:
    """One server, for tests that are about something else: versitygw where it is, else LocalStack."""
    return server_of("versitygw" if in_ci() or KINDS["versitygw"].missing() is None else "localstack")


@pytest.fixture
def this_server(request: pytest.FixtureRequest) -> Server:
    """The test's own server: `server` where the test asks for that, else `any_server`."""
    chosen: Server = request.getfixturevalue("server" if "server" in request.fixturenames else "any_server")
    return chosen


_numbers = itertools.count(1)


@pytest.fixture
def bucket(request: pytest.FixtureRequest, this_server: Server) -> str:
    """The name of a fresh bucket on the test's server."""
    test = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower())[:40].strip("-")
    name = f"{test}-{os.getpid()}-{next(_numbers)}"
    this_server.client().create_bucket(Bucket=name)
    return name


@pytest.fixture(scope="session")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    """A self-signed certificate for 127.0.0.1, localhost and s3.test."""
    if program("openssl") is None:
        absent("openssl is not installed: it makes the tests' certificate")
    return make_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Makes certificates that its own `ca` vouches for."""
    if program("openssl") is None:
        absent("openssl is not installed: it makes the tests' certificates")
    return Authority(tmp_path_factory.mktemp("authority"))
