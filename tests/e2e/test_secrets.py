"""What is kept and said holds no secret, and the way to the store is closed to others."""

import json
import os
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from tests.cellar import Cellar
from tests.conftest import absent
from tests.e2e.dialogue import seen_by_spy, watch_agent
from tests.machine import Home
from tests.proxy import Answer, FaultProxy, Faults, Key, Rule, StripHeaders
from tests.servers import Server, Tls, Versitygw

CANARY = "canary-0123456789abcdef"


def places_of(secret: str, *folders: Path) -> list[str]:
    """The files below these folders that hold the secret."""
    files = (Path(where) / name for folder in folders for where, _, names in os.walk(folder) for name in names)
    return [str(file) for file in files if not file.is_symlink() and secret.encode() in file.read_bytes()]


@pytest.fixture
def loud(cellar: Cellar, tmp_path: Path) -> Cellar:
    """A user who logs and traces all there is, with a token besides the keys."""
    cellar.home.environ |= {
        "AWS_SESSION_TOKEN": CANARY,
        "LFS_AGENT_LOG_LEVEL": "debug",
        "LFS_AGENT_LOG_FILE": str(tmp_path / "agent.log"),
        "LFS_AGENT_DEADLINE": "2",
        "GIT_TRACE": "1",
    }
    return cellar


def leak(cellar: Cellar) -> Answer:
    """A refusal that repeats what it was sent, as S3's SignatureDoesNotMatch does, and more."""
    secret = cellar.server.secret_key
    body = (
        f"<Error><Code>AccessDenied</Code><Message>secret {secret} token {CANARY} "
        f"https://user:{CANARY}@host/key?X-Amz-Signature={CANARY}&amp;X-Amz-Security-Token={CANARY}</Message></Error>"
    )
    return Answer(403, body=body.encode())


def test_no_secret_is_in_what_is_said_or_kept(loud: Cellar, any_server: Server, tmp_path: Path) -> None:
    secret = any_server.secret_key
    watch_agent(loud.home, tmp_path / "spy")
    loud.write("good.bin", 10_000, 1)
    bad = loud.write("bad.bin", 10_000, 2)
    loud.commit("Fill the cellar")
    # The server knows no tokens: what reaches it is signed without one.
    rules = (Rule(StripHeaders(request=("x-amz-security-token",))), Rule(leak(loud), method="PUT", target=bad))
    with FaultProxy(any_server.endpoint, Faults(rules), Key(any_server.access_key, secret)) as proxy:
        loud.home.environ["AWS_ENDPOINT_URL_S3"] = proxy.endpoint
        pushed = loud.push(check=False)
        tries = [seen for seen in proxy.requests if seen.method == "PUT"]
    said = pushed.stdout + pushed.stderr

    assert len(tries) == 2, said  # it was signed with these keys, and this token
    assert all(seen.headers["x-amz-security-token"] == CANARY for seen in tries)
    assert "403 AccessDenied" in said
    assert (tmp_path / "agent.log").stat().st_size > 0
    for word in (secret, CANARY):
        assert word not in said
        assert places_of(word, tmp_path) == []
    for note in seen_by_spy(tmp_path / "spy", "run"):
        assert secret not in str(note["argv"])


def test_a_wrong_secret_and_a_proxy_s_password_are_not_told(loud: Cellar, tmp_path: Path) -> None:
    loud.add("weights.bin", 10_000)
    loud.home.environ["AWS_SECRET_ACCESS_KEY"] = CANARY
    refused = loud.push(check=False)
    loud.home.environ |= {"http_proxy": f"http://user:{CANARY}@127.0.0.1:1", "LFS_AGENT_FIRST_DEADLINE": "1"}
    unreachable = loud.push(check=False)

    for pushed in (refused, unreachable):
        assert pushed.returncode != 0
        assert CANARY not in pushed.stdout + pushed.stderr
    assert "127.0.0.1:1" in unreachable.stderr
    assert places_of(CANARY, tmp_path) == []


def test_a_url_with_a_password_is_not_repeated(cellar: Cellar, tmp_path: Path) -> None:
    cellar.add("weights.bin", 10_000)
    cellar.git("config", "lfs.standalonetransferagent", "lfs-agent")
    cellar.git("config", "lfs.url", f"https://user:{CANARY}@lfs.example.com/cellar")
    pushed = cellar.push(check=False)

    assert pushed.returncode != 0
    assert "no store is named" in pushed.stderr
    ours = [line for line in pushed.stderr.splitlines() if "no store is named" in line]
    assert not any(CANARY in line for line in ours)
    assert places_of(CANARY, cellar.work / ".git" / "lfs") == []


def test_every_line_of_the_log_parses_and_says_whose_it_is(cellar: Cellar, any_server: Server, tmp_path: Path) -> None:
    log = tmp_path / "agent.log"
    cellar.home.environ |= {"LFS_AGENT_LOG_LEVEL": "debug", "LFS_AGENT_LOG_FILE": str(log)}
    oids = {cellar.write(f"{number}.bin", 10_000 + number, number) for number in range(20)}
    cellar.commit("Fill the cellar")
    busy = Rule(Answer(503, "SlowDown"), method="PUT", times=2)
    with FaultProxy(any_server.endpoint, Faults((busy,))) as proxy:
        cellar.home.environ["AWS_ENDPOINT_URL_S3"] = proxy.endpoint
        cellar.push()
    (record,) = (cellar.work / ".git" / "lfs" / "lfs-agent" / "sessions").glob("*.jsonl")

    for file in (log, record):
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        assert len({line["session"] for line in lines}) == 1
        assert all({"at", "level", "event", "operation", "remote"} <= line.keys() for line in lines)
        by_event: dict[str, list[dict[str, object]]] = {}
        for line in lines:
            by_event.setdefault(line["event"], []).append(line)
        assert {line["oid"] for line in by_event["uploaded"]} == oids
        assert len(by_event["uploaded"]) == 20
        assert sum(int(str(line["size"])) for line in by_event["uploaded"]) == sum(range(10_000, 10_020))
        assert len(by_event["retry"]) == 2
        assert all("oid" in line for line in by_event["retry"])


@pytest.fixture
def closed(tls: Tls, tmp_path: Path) -> Iterator[Server]:
    """A server with a certificate that nobody trusts yet, and a bucket."""
    if reason := Versitygw.missing():
        absent(reason)
    with Versitygw(tmp_path / "server", tls=tls) as server:
        server.client().create_bucket(Bucket="bucket")
        yield server


@pytest.mark.parametrize("way", ["ca", "AWS_CA_BUNDLE", "http.sslCAInfo"])
def test_a_certificate_must_be_trusted(closed: Server, tls: Tls, home: Home, tmp_path: Path, way: str) -> None:
    home.environ |= closed.environ()
    home.environ.pop("AWS_CA_BUNDLE", None)
    home.install()
    cellar = Cellar(home, closed, "bucket", "cellar", tmp_path / "origin.git", tmp_path / "work")
    cellar.build()
    oid = cellar.add("weights.bin", 300_000)
    pushed = cellar.push(check=False)

    assert pushed.returncode != 0
    assert "shows a certificate that is not trusted here" in pushed.stderr
    assert "git config --global lfs-agent.ca FILE" in pushed.stderr
    assert "Traceback" not in pushed.stderr
    assert cellar.keys() == []
    match way:
        case "ca":
            home.git("config", "--global", "lfs-agent.ca", tls.ca)
        case "AWS_CA_BUNDLE":
            home.environ["AWS_CA_BUNDLE"] = str(tls.ca)
        case _:
            home.git("config", "--global", f"http.{closed.endpoint}.sslCAInfo", tls.ca)
    cellar.push()
    clone = cellar.clone(tmp_path / "clone")
    assert cellar.keys() == [cellar.key(oid)]
    assert sha256((clone / "weights.bin").read_bytes()).hexdigest() == oid


def test_plain_http_beyond_this_machine_needs_a_word_of_the_user(cellar: Cellar, tmp_path: Path) -> None:
    """127.0.0.1 by a name that is not loopback's: what would be sent stays here."""
    oid = cellar.add("weights.bin", 300_000)
    watch_agent(cellar.home, tmp_path / "spy", "names")
    cellar.home.environ["AWS_ENDPOINT_URL_S3"] = cellar.server.endpoint.replace("127.0.0.1", "s3.test")
    refused = cellar.push(check=False)

    assert refused.returncode != 0
    assert "git config --global lfs-agent.allowHttp true" in refused.stderr
    assert seen_by_spy(tmp_path / "spy", "connect") == []
    assert cellar.keys() == []
    cellar.home.git("config", "--global", "lfs-agent.allowHttp", "true")
    cellar.push()
    assert cellar.keys() == [cellar.key(oid)]


def test_old_records_are_let_go_of(cellar: Cellar) -> None:
    sessions = cellar.work / ".git" / "lfs" / "lfs-agent" / "sessions"
    sessions.mkdir(parents=True)
    for number in range(60):
        (sessions / f"20200101T0000{number:02}Z-{number}.jsonl").write_text("{}\n")
    cellar.add("weights.bin", 10_000)
    cellar.push()

    kept = sorted(path.name for path in sessions.glob("*.jsonl"))
    assert len(kept) <= 21
    assert not kept[-1].startswith("2020")
    assert "uploaded" in (sessions / kept[-1]).read_text()
