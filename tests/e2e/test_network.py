"""Proxies and certificates as the AWS tools and git have them; the profile that a cellar recommends."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cellar import Cellar
from tests.conftest import absent
from tests.machine import Home
from tests.proxy import Answer, FaultProxy, Faults, Rule
from tests.proxy.tls import TlsFront, server_side
from tests.servers import KINDS, Authority, Server, Tls, is_ledger


@pytest.mark.parametrize("way", ["http.proxy", "HTTP_PROXY", "NO_PROXY", "both"])
def test_requests_go_through_the_users_proxy(cellar: Cellar, way: str) -> None:
    """git's proxy where the environment names none; past any for a host of NO_PROXY."""
    oid = cellar.add("vit-l/1.0/weights.bin", 1000, seed=1)
    with FaultProxy(cellar.server.endpoint, Faults(())) as proxy, FaultProxy("http://127.0.0.1:1", Faults(())) as other:
        environ = {"HTTP_PROXY": {"http_proxy": proxy.endpoint}, "NO_PROXY": {"no_proxy": "127.0.0.1"}}.get(way, {})
        if way == "both":
            environ = {"http_proxy": proxy.endpoint}
            cellar.home.git("config", "--global", "http.proxy", other.endpoint)
        elif way != "HTTP_PROXY":
            cellar.home.git("config", "--global", "http.proxy", proxy.endpoint)
        cellar.home.git("push", "origin", "main", cwd=cellar.work, env=environ)
        asked = [seen.method for seen in proxy.requests if not is_ledger(seen.path)]
        assert other.requests == []

    assert cellar.keys() == [cellar.key(oid)]
    # The registration beside it may have shown already that the store obeys conditions: then nobody asks first.
    assert asked in ([[]] if way == "NO_PROXY" else [["HEAD", "PUT"], ["PUT"]])


@pytest.mark.parametrize("names", ["10.0.0.0/8,127.0.0.0/8", "localhost 127.0.0.1", ".example.org, 127.0.0.1/32"])
def test_no_proxy_is_understood_as_git_and_curl_do(cellar: Cellar, names: str) -> None:
    oid = cellar.add("weights.bin", 1000)
    with FaultProxy("http://127.0.0.1:1", Faults(())) as proxy:
        cellar.home.environ |= {"http_proxy": proxy.endpoint, "NO_PROXY": names}
        cellar.push()
        listed = cellar.home.run("lfs-agent", "uploads", cwd=cellar.work)  # which goes by boto3
        assert proxy.all_requests == []

    assert cellar.keys() == [cellar.key(oid)]
    assert "0 unfinished uploads" in listed.stdout


def test_a_range_of_no_proxy_is_no_other_one(cellar: Cellar) -> None:
    oid = cellar.add("weights.bin", 1000)
    with FaultProxy(cellar.server.endpoint, Faults(())) as proxy:
        cellar.home.environ |= {"http_proxy": proxy.endpoint, "NO_PROXY": "10.0.0.0/8 ::1 127.0.0.2"}
        cellar.push()
        assert "PUT" in [seen.method for seen in proxy.requests]

    assert cellar.keys() == [cellar.key(oid)]


def test_a_proxy_that_wants_another_password_ends_the_push_once_and_is_named(cellar: Cellar) -> None:
    for number in range(20):
        cellar.write(f"{number}.bin", 1000, number)
    cellar.commit("Fill the cellar")
    with FaultProxy("http://127.0.0.1:1", Faults((Rule(Answer(407)),))) as proxy:
        environ = {"http_proxy": proxy.endpoint.replace("http://", "http://vera:Canary@")}
        pushed = cellar.home.git("push", "origin", "main", cwd=cellar.work, check=False, env=environ)
        asked = len(proxy.requests)
        examined = cellar.home.run("lfs-agent", "doctor", cwd=cellar.work, check=False, env=environ)

    says = f"{proxy.endpoint.removeprefix('http://')} wants a name and a password, or other ones"
    assert pushed.returncode != 0
    assert pushed.stderr.count(says) == 1
    assert "name them in HTTP_PROXY: NAME:PASSWORD@" in pushed.stderr
    assert asked <= 8
    assert examined.returncode == 3
    assert says in examined.stdout
    assert "Canary" not in pushed.stderr + examined.stdout + examined.stderr
    assert cellar.keys() == []


def test_a_recommended_profile_that_is_not_here_is_ignored_with_a_line_in_the_record(cellar: Cellar) -> None:
    (cellar.work / ".mlcellar.toml").write_text('[aws]\nprofile = "vineyard"\n')
    oid = cellar.add("vit-l/1.0/weights.bin", 1000, seed=1)

    cellar.push("origin", "main")

    assert cellar.keys() == [cellar.key(oid)]
    assert [event["profile"] for event in cellar.recorded() if event["event"] == "profile passed over"] == ["vineyard"]


# Certificates


@pytest.fixture(scope="module", params=["localstack", "versitygw"])
def https_server(
    request: pytest.FixtureRequest, authority: Authority, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """Servers that speak https, with a certificate of an authority that nobody knows."""
    kind = KINDS[request.param]
    if reason := kind.missing():
        absent(reason)
    with kind(tmp_path_factory.mktemp("https"), tls=authority.server()) as server:
        yield server


def as_setting(home: Home, ca: Path) -> None:
    home.environ["LFS_AGENT_CA"] = str(ca)


def as_bundle(home: Home, ca: Path) -> None:
    home.environ["AWS_CA_BUNDLE"] = str(ca)


def as_git_has_it(home: Home, ca: Path) -> None:
    home.git("config", "--global", f"http.{home.environ['AWS_ENDPOINT_URL_S3']}.sslCAInfo", ca)


def by_home(home: Home, ca: Path) -> None:
    """git expands a tilde."""
    (home.folder / "ca.pem").write_bytes(ca.read_bytes())
    home.git("config", "--global", "http.sslCAInfo", "~/ca.pem")


def https_cellar(home: Home, server: Server, bucket: str, folder: Path) -> Cellar:
    server.client().create_bucket(Bucket=bucket)
    home.environ.update(server.environ())
    home.install()
    cellar = Cellar(home, server, bucket, "cellar", folder / "origin.git", folder / "work")
    cellar.build()
    return cellar


@pytest.mark.parametrize("name_it", [as_setting, as_bundle, as_git_has_it, by_home])
def test_an_authority_of_ones_own_is_refused_until_it_is_named(
    home: Home, https_server: Server, authority: Authority, tmp_path: Path, name_it: Callable[[Home, Path], None]
) -> None:
    bucket = name_it.__name__.replace("_", "-")
    cellar = https_cellar(home, https_server, bucket, tmp_path)
    home.environ["LFS_AGENT_PART_SIZE"] = "5MiB"
    home.git("config", "--global", "http.sslVerify", "false")  # which holds for git, and not for what we sign
    oid = cellar.add("weights.bin", 6_000_000)

    refused = cellar.push(check=False)
    assert refused.returncode != 0
    assert refused.stderr.count("shows a certificate that is not trusted here") == 1
    assert "git config --global lfs-agent.ca FILE" in refused.stderr

    name_it(home, authority.ca)
    cellar.push()
    clone = cellar.clone(tmp_path / "clone")
    assert cellar.keys() == [cellar.key(oid)]
    assert (clone / "weights.bin").read_bytes() == (cellar.work / "weights.bin").read_bytes()


def one_file(home: Home, own: Tls) -> None:
    (home.folder / "me.pem").write_bytes(own.key.read_bytes() + own.certificate.read_bytes())
    home.environ["LFS_AGENT_CLIENT_CERT"] = "~/me.pem"


def two_files(home: Home, own: Tls) -> None:
    home.git("config", "--global", "lfs-agent.clientCert", own.certificate)
    home.git("config", "--global", "lfs-agent.clientKey", own.key)


def as_git_shows_it(home: Home, own: Tls) -> None:
    for name, value in {"sslCert": own.certificate, "sslKey": own.key}.items():
        home.git("config", "--global", f"http.{home.environ['AWS_ENDPOINT_URL_S3']}.{name}", value)


@pytest.mark.parametrize("name_it", [one_file, two_files, as_git_shows_it])
def test_a_certificate_of_ones_own_opens_a_store_that_demands_one(
    cellar: Cellar, any_server: Server, authority: Authority, tmp_path: Path, name_it: Callable[[Home, Tls], None]
) -> None:
    home = cellar.home
    oid = cellar.add("weights.bin", 300_000)
    with TlsFront(any_server.endpoint, server_side(authority.server(), authority.ca)) as front:
        home.environ |= {"AWS_ENDPOINT_URL_S3": front.endpoint, "LFS_AGENT_CA": str(authority.ca)}
        refused = cellar.push(check=False)
        assert refused.returncode != 0
        assert refused.stderr.count("refuses this client's certificate, or wants one") == 1

        name_it(home, authority.client())
        cellar.push()
        clone = cellar.clone(tmp_path / "clone")
        told = home.run("lfs-agent", "config", "--show-origin", cwd=cellar.work).stdout

    assert cellar.keys() == [cellar.key(oid)]
    assert (clone / "weights.bin").read_bytes() == (cellar.work / "weights.bin").read_bytes()
    assert ("git config: http.sslCert" in told) == (name_it is as_git_shows_it)
