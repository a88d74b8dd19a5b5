"""What is kept and said holds no secret, and the way to the store is closed to others."""

import base64
import json
import os
import threading
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from tests.cellar import ASKED_TWICE, Cellar
from tests.conftest import absent
from tests.e2e.dialogue import processes_of, seen_by_spy, watch_agent
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


def in_profile(cellar: Cellar, folder: Path) -> list[Path]:
    file = folder / "credentials"
    file.write_text(
        f"[default]\naws_access_key_id = {cellar.server.access_key}\n"
        f"aws_secret_access_key = {cellar.server.secret_key}\naws_session_token = {CANARY}\n"
    )
    return [file]


def from_a_helper(cellar: Cellar, folder: Path) -> list[Path]:
    keys = {"AccessKeyId": cellar.server.access_key, "SecretAccessKey": cellar.server.secret_key}
    file = folder / "answer"
    file.write_text(json.dumps({"Version": 1, **keys, "SessionToken": CANARY}))
    (folder / "config").write_text(f"[default]\ncredential_process = cat {file}\n")
    return [file]


@pytest.mark.parametrize("source", [in_profile, from_a_helper])
@pytest.mark.parametrize("log_to", ["file", "stderr"])
def test_a_secret_of_any_source_is_in_nothing_that_is_said_kept_or_started(
    loud: Cellar, any_server: Server, tmp_path: Path, source: Callable[[Cellar, Path], list[Path]], log_to: str
) -> None:
    home, secret = loud.home, any_server.secret_key
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        del home.environ[name]
    (home.folder / ".aws").mkdir()
    holders = source(loud, home.folder / ".aws")
    if log_to == "stderr":
        del home.environ["LFS_AGENT_LOG_FILE"]
    home.environ |= {"GIT_CURL_VERBOSE": "1", "GIT_TRACE_CURL": "1", "AWS_EC2_METADATA_DISABLED": "true"}
    home.git("config", "--global", "http.extraHeader", f"Authorization: Bearer {CANARY}")
    watch_agent(home, tmp_path / "spy")
    loud.write("good.bin", 10_000, 1)
    bad = loud.write("bad.bin", 10_000, 2)
    loud.commit("Fill the cellar")
    started: set[str] = set()
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.02):
            started.update(processes_of(home).values())

    looking = threading.Thread(target=look)
    rules = (Rule(StripHeaders(request=("x-amz-security-token",))), Rule(leak(loud), target=bad))
    with FaultProxy(any_server.endpoint, Faults(rules), Key(any_server.access_key, secret)) as proxy:
        home.environ["AWS_ENDPOINT_URL_S3"] = proxy.endpoint
        looking.start()
        pushed = loud.push(check=False)
        over.set()
        looking.join()
        words = (["verify", "--json"], ["verify", "--deep"], ["log"], ["log", "--json"], ["config", "--show-origin"])
        later = [home.run("lfs-agent", *each, cwd=loud.work, check=False) for each in words]
        tokens = {seen.headers.get("x-amz-security-token") for seen in proxy.requests}
    said = "".join(done.stdout + done.stderr for done in (pushed, *later))

    assert tokens == {CANARY}  # it was signed with these
    assert "403 AccessDenied" in pushed.stderr
    assert ("uploaded" in pushed.stderr) is (log_to == "stderr")  # it was logged there
    kept = [*map(str, holders), str(home.folder / ".gitconfig")]
    for word in (secret, CANARY):
        assert [line for line in said.splitlines() if word in line] == []
        assert [place for place in places_of(word, tmp_path) if place not in kept] == []
        assert [argv for argv in started if word in argv] == []
        assert [note for note in seen_by_spy(tmp_path / "spy", "run") if word in str(note["argv"])] == []
    assert any("git-lfs" in argv or "git lfs" in argv for argv in started)


JWT = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJyZXBvOmNhbmFyeSJ9.Y2FuYXJ5LXNpZ25hdHVyZS0wMTIzNDU2Nzg5"


def test_a_token_for_a_role_that_is_refused_is_not_told(loud: Cellar, tmp_path: Path) -> None:
    """The server of logins repeats it in its refusal."""
    home = loud.home
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        del home.environ[name]
    token = tmp_path / "token"
    token.write_text(JWT)
    message = f"<Message>no provider for {JWT}</Message>"
    body = f"<ErrorResponse><Error><Code>InvalidIdentityToken</Code>{message}</Error></ErrorResponse>".encode()
    loud.add("weights.bin", 10_000)
    with FaultProxy(loud.server.endpoint, Faults((Rule(Answer(400, body=body)),))) as proxy:
        home.environ |= {
            "AWS_WEB_IDENTITY_TOKEN_FILE": str(token),
            "AWS_ROLE_ARN": "arn:aws:iam::123456789012:role/ci",
            "AWS_ENDPOINT_URL_STS": proxy.endpoint,
        }
        refused = loud.push(check=False)
        assert proxy.requests

    assert "InvalidIdentityToken" in refused.stderr
    assert JWT not in refused.stdout + refused.stderr
    assert [place for place in places_of(JWT, tmp_path) if place != str(token)] == []


@pytest.mark.parametrize("code, message", [("Odd", f"{'.' * 700} {{}}"), ("Odd.{}", "....")])
def test_a_token_that_a_refusal_s_end_would_cut_in_two_is_not_told(
    loud: Cellar, tmp_path: Path, code: str, message: str
) -> None:
    """The beginning of one is nothing that anybody could know again."""
    token = f"{CANARY}{'x' * 900}"
    loud.home.environ["AWS_SESSION_TOKEN"] = token
    loud.add("weights.bin", 10_000)
    body = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>".format(token).encode()
    with FaultProxy(loud.server.endpoint, Faults((Rule(Answer(403, body=body)),))) as proxy:
        loud.home.environ["AWS_ENDPOINT_URL_S3"] = proxy.endpoint
        pushed = loud.push(check=False)

    assert f"403 {code.format('***')} (...." in pushed.stderr
    assert CANARY not in pushed.stdout + pushed.stderr
    assert places_of(CANARY, tmp_path) == []


def by_another_profile(cellar: Cellar, server: str) -> Path:
    file = cellar.home.folder / ".aws" / "config"
    file.write_text(
        "[profile base]\naws_access_key_id = base\naws_secret_access_key = basesecret\n"
        f"aws_session_token = {CANARY}\n"
        "[default]\nrole_arn = arn:aws:iam::123456789012:role/ci\nsource_profile = base\n"
    )
    cellar.home.environ["AWS_ENDPOINT_URL_STS"] = server
    return file


def in_a_container(cellar: Cellar, server: str) -> None:
    cellar.home.environ["AWS_CONTAINER_CREDENTIALS_FULL_URI"] = f"{server}/login"
    cellar.home.environ["AWS_CONTAINER_AUTHORIZATION_TOKEN"] = CANARY


@pytest.mark.parametrize("source", [by_another_profile, in_a_container])
def test_a_token_that_a_login_is_asked_for_with_is_not_told(
    loud: Cellar, tmp_path: Path, source: Callable[[Cellar, str], Path | None]
) -> None:
    """The server of logins repeats it in its refusal."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        del loud.home.environ[name]
    (loud.home.folder / ".aws").mkdir()
    loud.add("weights.bin", 10_000)
    body = f"<ErrorResponse><Error><Code>Odd</Code><Message>not {CANARY}</Message></Error></ErrorResponse>".encode()
    with FaultProxy(loud.server.endpoint, Faults((Rule(Answer(403, body=body)),))) as proxy:
        holder = source(loud, proxy.endpoint)
        refused = loud.push(check=False)
        assert any(CANARY in seen.headers.values() for seen in proxy.requests)

    assert "not ***" in refused.stderr
    assert CANARY not in refused.stdout + refused.stderr
    assert [place for place in places_of(CANARY, tmp_path) if place != str(holder)] == []


@pytest.mark.parametrize(
    "url",
    [
        "s3::demo:{canary}@bucket/cellar",
        "s3::s3://demo:{canary}/+x@bucket/cellar",
        "s3://demo:{canary}@bucket/cellar",
        "s3::bucket/cellar?endpoint=https://demo:{canary}@s3.example.org",
        "s3::bucket/cellar?secret_access_key={canary}",
        "s3::bucket/cellar?region=eu-central-1&X-Amz-Signature={canary}",
        "s3::bucket/cellar?X-Amz-Security-Token={canary}&region",
        "https://demo:{canary}@lfs.example.org/cellar",
        f"https://demo:{{canary}}{'x' * 300}@lfs.example.org/cellar",
        f"s3::bucket/cellar?endpoint=https://demo:{{canary}}{'x' * 300}@s3.example.org",
    ],
)
def test_a_secret_in_a_url_is_not_repeated_by_us(cellar: Cellar, url: str) -> None:
    cellar.add("weights.bin", 10_000)
    cellar.git("config", "lfs.url", url.format(canary=CANARY))
    words = [["verify"], ["verify", "--json"], ["config", "--show-origin"], ["config", "--json"], ["trust"]]
    words += [[command, url.format(canary=CANARY)] for command in ("init", "trust")]
    done = [cellar.home.run("lfs-agent", *each, cwd=cellar.work, check=False) for each in words]

    assert done[0].returncode != 0
    assert [each.args for each in done if CANARY in each.stdout + each.stderr] == []
    pushed = cellar.push(check=False)
    ours = [line for line in pushed.stderr.splitlines() if "[" in line]
    assert [line for line in ours if CANARY in line] == []
    assert places_of(CANARY, cellar.work / ".git" / "lfs") == []


def test_a_wrong_secret_and_a_proxy_s_password_are_not_told(loud: Cellar, tmp_path: Path) -> None:
    loud.add("weights.bin", 10_000)
    loud.home.environ["AWS_SECRET_ACCESS_KEY"] = CANARY
    refused = loud.push(check=False)
    loud.home.environ |= {"http_proxy": f"http://user:{CANARY}@127.0.0.1:1", **ASKED_TWICE}
    unreachable = loud.push(check=False)

    for pushed in (refused, unreachable):
        assert pushed.returncode != 0
        assert CANARY not in pushed.stdout + pushed.stderr
    assert "127.0.0.1:1" in unreachable.stderr
    assert places_of(CANARY, tmp_path) == []


@pytest.mark.parametrize("said", ["Proxy-Authorization: {}", "{{'proxy-authorization': '{}'}}"])
def test_the_login_of_a_proxy_that_repeats_it_is_not_told(loud: Cellar, tmp_path: Path, said: str) -> None:
    """As it is sent: in another writing."""
    login = base64.b64encode(f"user:{CANARY}".encode()).decode()
    loud.add("weights.bin", 10_000)
    body = f"<Error><Code>Odd</Code><Message>{said.format(f'Basic {login}')}</Message></Error>".encode()
    with FaultProxy(loud.server.endpoint, Faults((Rule(Answer(403, body=body)),))) as proxy:
        loud.home.environ["http_proxy"] = proxy.endpoint.replace("//", f"//user:{CANARY}@")
        refused = loud.push(check=False)
        assert all(seen.headers["proxy-authorization"] == f"Basic {login}" for seen in proxy.requests)

    assert "Basic ***" in refused.stderr
    assert login not in refused.stdout + refused.stderr
    assert places_of(login, tmp_path) == []


@pytest.mark.parametrize("mark", "/?#")
def test_a_password_of_a_proxy_that_is_not_written_as_in_a_url_is_not_told(cellar: Cellar, mark: str) -> None:
    cellar.home.environ |= {"http_proxy": f"http://user:{CANARY}{mark}x@127.0.0.1:1", **ASKED_TWICE}
    done = cellar.home.run("lfs-agent", "doctor", cwd=cellar.work, check=False)

    assert CANARY not in done.stdout + done.stderr
    assert "the proxy's address is no URL: write special characters of its password as in one" in done.stdout


LOGINS = [f"user:{CANARY}", CANARY, f"oauth2:{CANARY * 25}", f"user:it's{CANARY}", f"user:p@{CANARY}"]


@pytest.mark.parametrize("login", LOGINS)
def test_a_url_with_a_password_is_not_repeated(cellar: Cellar, tmp_path: Path, login: str) -> None:
    cellar.add("weights.bin", 10_000)
    cellar.git("config", "lfs.standalonetransferagent", "lfs-agent")
    cellar.git("config", "lfs.url", f"https://{login}@lfs.example.com/cellar")
    pushed = cellar.push(check=False)

    assert pushed.returncode != 0
    assert "no store is named" in pushed.stderr
    ours = [line for line in pushed.stderr.splitlines() if "no store is named" in line]
    assert not any(CANARY in line for line in ours)
    assert places_of(CANARY, cellar.work / ".git" / "lfs") == []


@pytest.mark.parametrize("login", LOGINS)
def test_a_password_in_the_url_that_is_pushed_to_is_in_no_file_and_no_name(
    cellar: Cellar, tmp_path: Path, login: str
) -> None:
    cellar.add("weights.bin", 10_000)
    cellar.git("lfs", "push", "--all", f"https://{login}@git.example.com/cellar.git")

    assert len(cellar.keys()) == 1
    ours = [cellar.work / ".git" / "lfs", cellar.work / ".git" / "lfs-agent"]
    assert places_of(CANARY, *ours) == []
    assert [path for folder in ours for path in folder.rglob("*") if CANARY in path.name] == []
    told = cellar.home.run("lfs-agent", "log", "--json", cwd=cellar.work).stdout
    assert CANARY not in told
    assert "git.example.com" in told


def test_a_secret_that_is_written_otherwise_in_the_record_is_not_in_it(loud: Cellar, tmp_path: Path) -> None:
    secret = 'another"secret\\0123456789'
    loud.home.environ["AWS_SECRET_ACCESS_KEY"] = secret
    loud.add("weights.bin", 10_000)
    body = f"<Error><Code>AccessDenied</Code><Message>no {secret}</Message></Error>".encode()
    with FaultProxy(loud.server.endpoint, Faults((Rule(Answer(403, body=body)),))) as proxy:
        loud.home.environ["AWS_ENDPOINT_URL_S3"] = proxy.endpoint
        pushed = loud.push(check=False)

    assert "403 AccessDenied (no ***)" in pushed.stderr
    for word in (secret, json.dumps(secret)[1:-1]):
        assert places_of(word, tmp_path) == []


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
    assert seen_by_spy(tmp_path / "spy", "connect") == seen_by_spy(tmp_path / "spy", "resolve") == []
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
