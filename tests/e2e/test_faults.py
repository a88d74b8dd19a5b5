"""Set-ups that cannot work, and links and servers that fail: what git push and clone make of them."""

import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from hashlib import sha1, sha256
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest

from tests.cellar import Cellar
from tests.e2e.dialogue import kill_all, processes_of, wait_for
from tests.machine import Home
from tests.proxy import (
    ACCESS_DENIED,
    CONFLICT,
    ERROR_IN_200,
    EXPIRED_TOKEN,
    INTERNAL_ERROR,
    NOT_IMPLEMENTED,
    SLOW_DOWN,
    Answer,
    BlackHole,
    FaultProxy,
    Faults,
    Flip,
    Reset,
    Rule,
    Seen,
    Stall,
    Throttle,
    Truncate,
    Whitespace,
)
from tests.proxy.tls import TlsFront
from tests.servers import Server

MIB = 1 << 20


def through(cellar: Cellar, server: Server, *rules: Rule, seed: int = 0) -> FaultProxy:
    """A proxy before the server, with these faults; the cellar's user goes through it."""
    proxy = FaultProxy(server.endpoint, Faults(rules, seed=seed))
    cellar.home.environ["LFS_AGENT_PART_SIZE"] = "5MiB"
    return proxy


def use(cellar: Cellar, proxy: FaultProxy | BlackHole) -> None:
    cellar.home.environ["AWS_ENDPOINT_URL_S3"] = proxy.endpoint


def about(proxy: FaultProxy, oid: str, method: str) -> list[Seen]:
    """The requests with this method for an object."""
    return [seen for seen in proxy.requests if seen.method == method and oid in seen.path]


def content_at(cellar: Cellar, oid: str) -> bytes:
    body = cellar.server.client().get_object(Bucket=cellar.bucket, Key=cellar.key(oid))["Body"]
    content: bytes = body.read()
    return content


# Set-ups that cannot work


def no_bucket(cellar: Cellar, _: Any) -> None:
    cellar.git("config", "lfs.url", "s3::nobody-made-this-bucket/cellar")


def no_credentials(cellar: Cellar, _: Any) -> None:
    del cellar.home.environ["AWS_ACCESS_KEY_ID"], cellar.home.environ["AWS_SECRET_ACCESS_KEY"]


def wrong_secret(cellar: Cellar, _: Any) -> None:
    cellar.home.environ["AWS_SECRET_ACCESS_KEY"] = "not-the-secret"


def expired_keys(cellar: Cellar, cleanup: list[Any]) -> None:
    proxy = FaultProxy(cellar.server.endpoint, Faults((Rule(EXPIRED_TOKEN),))).__enter__()
    cleanup.append(proxy)
    use(cellar, proxy)


def expired_login(cellar: Cellar, _: Any) -> None:
    no_credentials(cellar, _)
    start = "https://cellar.awsapps.com/start"
    cache = cellar.home.folder / ".aws" / "sso" / "cache"
    cache.mkdir(parents=True)
    (cellar.home.folder / ".aws" / "config").write_text(
        f"[profile weights]\nsso_start_url = {start}\nsso_region = us-east-1\n"
        "sso_account_id = 123456789012\nsso_role_name = keeper\n"
    )
    login = f'{{"startUrl":"{start}","region":"us-east-1","accessToken":"t","expiresAt":"2020-01-01T00:00:00Z"}}'
    (cache / f"{sha1(start.encode()).hexdigest()}.json").write_text(login)
    cellar.home.environ["AWS_PROFILE"] = "weights"


def no_such_profile(cellar: Cellar, _: Any) -> None:
    no_credentials(cellar, _)
    cellar.home.environ["AWS_PROFILE"] = "nobody"


def one_time_password(cellar: Cellar, _: Any) -> None:
    """A login that asks a person: there is nobody to ask, and the agent's input is not theirs."""
    no_credentials(cellar, _)
    (cellar.home.folder / ".aws").mkdir()
    (cellar.home.folder / ".aws" / "config").write_text(
        "[default]\nrole_arn = arn:aws:iam::123456789012:role/keeper\nsource_profile = source\n"
        "mfa_serial = arn:aws:iam::123456789012:mfa/vera\n"
        "[profile source]\naws_access_key_id = first\naws_secret_access_key = second\n"
    )


def profile(cellar: Cellar, *lines: str) -> None:
    no_credentials(cellar, None)
    (cellar.home.folder / ".aws").mkdir()
    (cellar.home.folder / ".aws" / "config").write_text("[default]\n" + "\n".join(lines) + "\n")


def no_helper(cellar: Cellar, _: Any) -> None:
    profile(cellar, "credential_process = /opt/no-such-helper")


def nonsense_helper(cellar: Cellar, _: Any) -> None:
    profile(cellar, "credential_process = echo nonsense")


def failing_helper(cellar: Cellar, _: Any) -> None:
    profile(cellar, "credential_process = false")


def unclosed_helper(cellar: Cellar, _: Any) -> None:
    profile(cellar, 'credential_process = echo "nonsense')


def helper_of_another_encoding(cellar: Cellar, _: Any) -> None:
    profile(cellar, r"""credential_process = sh -c 'printf "refus\351" >&2; exit 3'""")


def strange_container(cellar: Cellar, _: Any) -> None:
    no_credentials(cellar, _)
    cellar.home.environ["AWS_CONTAINER_CREDENTIALS_FULL_URI"] = "http://10.1.2.3/x"


def no_number(cellar: Cellar, _: Any) -> None:
    no_credentials(cellar, _)
    cellar.home.environ["AWS_METADATA_SERVICE_TIMEOUT"] = "soon"


def role_of_a_portal(cellar: Cellar, cleanup: list[Any]) -> None:
    portal = Answer(200, body=b"<html><body>Welcome</body></html>")
    cleanup.append(FaultProxy(cellar.server.endpoint, Faults((Rule(portal),))).__enter__())
    role(cellar, cleanup[-1].endpoint)


def torn_login(cellar: Cellar, _: Any) -> None:
    """A file of single sign-on that a full disk has cut."""
    expired_login(cellar, _)
    for file in (cellar.home.folder / ".aws" / "sso" / "cache").iterdir():
        file.write_text(file.read_text()[:20])


def aws_login(cellar: Cellar, _: Any) -> None:
    profile(cellar, "login_session = arn:aws:iam::123456789012:user/vera")


def no_token_file(cellar: Cellar, _: Any) -> None:
    profile(cellar, "role_arn = arn:aws:iam::123456789012:role/ci", "web_identity_token_file = /run/no-such-token")


def refused_role(cellar: Cellar, cleanup: list[Any]) -> None:
    refusal = b"<ErrorResponse><Error><Code>AccessDenied</Code><Message>not for you</Message></Error></ErrorResponse>"
    cleanup.append(FaultProxy(cellar.server.endpoint, Faults((Rule(Answer(403, body=refusal)),))).__enter__())
    role(cellar, cleanup[-1].endpoint)


def silent_role(cellar: Cellar, cleanup: list[Any]) -> None:
    cleanup.append(BlackHole())
    role(cellar, cleanup[-1].endpoint)


def unreachable_role(cellar: Cellar, cleanup: list[Any]) -> None:
    cleanup.append(BlackHole(accept=False))
    role(cellar, cleanup[-1].endpoint)


def role(cellar: Cellar, endpoint: str) -> None:
    keys = ("[profile source]", "aws_access_key_id = first", "aws_secret_access_key = second")
    profile(cellar, "role_arn = arn:aws:iam::123456789012:role/keeper", "source_profile = source", *keys)
    cellar.home.environ["AWS_ENDPOINT_URL_STS"] = endpoint


def refused_port(cellar: Cellar, cleanup: list[Any]) -> None:
    cleanup.append(BlackHole(accept=False))
    use(cellar, cleanup[-1])


def silent_port(cellar: Cellar, cleanup: list[Any]) -> None:
    cleanup.append(BlackHole())
    use(cellar, cleanup[-1])


def plain_http(cellar: Cellar, _: Any) -> None:
    cellar.home.environ["AWS_ENDPOINT_URL_S3"] = "http://s3.example.com"


def wrong_clock(cellar: Cellar, cleanup: list[Any]) -> None:
    cleanup.append(FaultProxy(cellar.server.endpoint, Faults((Rule(Answer(403, "RequestTimeTooSkewed")),))).__enter__())
    use(cellar, cleanup[-1])


def another_region(cellar: Cellar, cleanup: list[Any]) -> None:
    moved = Answer(301, "PermanentRedirect", headers=(("x-amz-bucket-region", "eu-west-3"),))
    cleanup.append(FaultProxy(cellar.server.endpoint, Faults((Rule(moved),))).__enter__())
    use(cellar, cleanup[-1])


def a_portal(cellar: Cellar, cleanup: list[Any]) -> None:
    moved = Answer(302, headers=(("Location", "http://portal.example.org/login"),))
    cleanup.append(FaultProxy(cellar.server.endpoint, Faults((Rule(moved),))).__enter__())
    use(cellar, cleanup[-1])


def no_such_host(cellar: Cellar, _: Any) -> None:
    cellar.home.environ["AWS_ENDPOINT_URL_S3"] = "https://no-such-host.invalid"


def https_to_http(cellar: Cellar, _: Any) -> None:
    cellar.home.environ["AWS_ENDPOINT_URL_S3"] = cellar.server.endpoint.replace("http:", "https:")


def hung_up(cellar: Cellar, cleanup: list[Any]) -> None:
    cleanup.append(TlsFront(cellar.server.endpoint, None).__enter__())
    cellar.home.environ["AWS_ENDPOINT_URL_S3"] = cleanup[-1].endpoint


def dead_proxy(cellar: Cellar, cleanup: list[Any]) -> None:
    cleanup.append(BlackHole(accept=False))
    cellar.home.git("config", "--global", "http.proxy", cleanup[-1].endpoint)
    cellar.home.environ["AWS_ENDPOINT_URL_S3"] = "https://s3.example.org"


def unknown_setting(cellar: Cellar, _: Any) -> None:
    cellar.home.environ["LFS_AGENT_PART_SISE"] = "5MiB"


def no_store(cellar: Cellar, _: Any) -> None:
    cellar.git("config", "lfs.url", "s3::Not_A_Bucket/cellar")


Setup = Callable[[Cellar, list[Any]], None]
Done = subprocess.CompletedProcess[str]
CANNOT_WORK: list[tuple[Setup, str]] = [
    (no_bucket, "404 NoSuchBucket"),
    (no_bucket, "create the bucket at "),
    (no_bucket, " (lfs-agent setup-storage), or correct lfs.url"),
    (no_credentials, "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or AWS_PROFILE"),
    (wrong_secret, "SignatureDoesNotMatch"),
    (expired_keys, "log in again: aws sso login"),
    (expired_login, "aws sso login --profile weights"),
    (no_such_profile, "see: aws configure list-profiles"),
    (one_time_password, "one-time password"),
    (no_helper, "no-such-helper"),
    (nonsense_helper, "see: aws sts get-caller-identity"),
    (nonsense_helper, "from custom-process: a credential_process gave no JSON (Expecting value"),
    (failing_helper, "see: aws sts get-caller-identity"),
    (unclosed_helper, "from custom-process: No closing quotation; see: aws sts get-caller-identity"),
    (helper_of_another_encoding, "from custom-process: 'utf-8' codec can't decode"),
    (strange_container, "from container-role: Unsupported host '10.1.2.3'"),
    (no_number, "a number that is none (invalid literal for int() with base 10: 'soon')"),
    (no_number, "correct AWS_METADATA_SERVICE_TIMEOUT"),
    (role_of_a_portal, "from assume-role: what answered lacks 'AssumeRoleResult'; see: aws sts"),
    (torn_login, "what is kept of the login lacks '"),
    (torn_login, "log in again: aws sso login --profile weights"),
    (aws_login, "aws configure export-credentials --profile default --format process"),
    (no_token_file, "no-such-token"),
    (refused_role, "not for you"),
    (silent_role, "see: aws sts get-caller-identity"),
    (unreachable_role, "see: aws sts get-caller-identity"),
    (refused_port, " cannot be reached "),
    (silent_port, "has not answered for 6 s"),
    (plain_http, "git config --global lfs-agent.allowHttp true"),
    (wrong_clock, "this machine's clock is wrong: set it (timedatectl set-ntp true)"),
    (another_region, "set lfs-agent.region to eu-west-3"),
    (a_portal, "sends elsewhere, to portal.example.org, where nothing is sent"),
    (no_such_host, "Could not resolve host: no-such-host.invalid"),
    (https_to_http, "is it http, or another port?"),
    (hung_up, "hung up without an answer"),
    (dead_proxy, "Failed to connect to proxy URL"),
    (unknown_setting, "did you mean LFS_AGENT_PART_SIZE?"),
    (no_store, "not a bucket name: 'Not_A_Bucket'"),
]


def in_trouble(cellar: Cellar, setup: Setup, do: Callable[[], Done]) -> tuple[Done, float]:
    """What came of something while that is the trouble, and after how many seconds."""
    cleanup: list[Any] = []
    setup(cellar, cleanup)
    try:
        started = time.monotonic()
        return do(), time.monotonic() - started
    finally:
        for held in cleanup:
            held.__exit__()


@pytest.mark.parametrize("setup, says", CANNOT_WORK)
def test_a_push_that_cannot_work_says_so_once_and_soon(
    cellar: Cellar, any_server: Server, setup: Setup, says: str
) -> None:
    for number in range(3):
        cellar.write(f"{number}.bin", 10_000, number)
    cellar.commit("Fill the cellar")
    pushed, seconds = in_trouble(cellar, setup, lambda: cellar.push(check=False))

    assert pushed.returncode != 0
    assert seconds < 15  # under 10 where nothing else runs
    assert pushed.stderr.count(says) == 1, pushed.stderr
    told = [line for line in pushed.stderr.splitlines() if "error transferring" in line]
    assert len(told) == 3
    assert sum("not tried: the whole session was stopped" in line for line in told) == 2
    assert "Traceback" not in pushed.stderr
    assert any_server.keys(cellar.bucket) == []


@pytest.mark.parametrize(
    "setup, says",
    [
        (no_credentials, "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or AWS_PROFILE"),
        (silent_port, "has not answered for 6 s"),
        (refused_port, " cannot be reached "),
    ],
)
def test_a_clone_that_cannot_work_says_so_soon(cellar: Cellar, tmp_path: Path, setup: Setup, says: str) -> None:
    """git-lfs asks a second time for what failed in a checkout, by other workers: that costs no second deadline."""
    for number in range(3):
        cellar.write(f"{number}.bin", 10_000, number)
    cellar.commit("Fill the cellar")
    cellar.push()
    cellar.home.environ["LFS_AGENT_FIRST_DEADLINE"] = "6"
    clone = ("clone", cellar.origin, tmp_path / "clone")
    cloned, seconds = in_trouble(cellar, setup, lambda: cellar.home.git(*clone, check=False))

    assert cloned.returncode != 0
    assert seconds < 12  # a second deadline would make it more
    assert says in cloned.stderr
    assert "Traceback" not in cloned.stderr


def pulled_large(cellar: Cellar, clone: Path, url: str) -> Done:
    """What came of a pull of two objects in parts, from this store."""
    cellar.home.environ["LFS_AGENT_PART_SIZE"] = "5MiB"
    for number in range(2):
        cellar.write(f"{number}.bin", 12 * MIB, number)
    cellar.commit("Fill the cellar")
    cellar.push()
    cellar.home.git("clone", "-q", cellar.origin, clone, env={"GIT_LFS_SKIP_SMUDGE": "1"})
    cellar.home.git("config", "lfs.url", url, cwd=clone)
    return cellar.home.git("lfs", "pull", cwd=clone, check=False)


def test_a_bucket_that_is_gone_is_told_once_for_large_objects_too(cellar: Cellar, tmp_path: Path) -> None:
    pulled = pulled_large(cellar, tmp_path / "clone", "s3::nobody-made-this-bucket/cellar")
    assert pulled.returncode != 0
    assert pulled.stderr.count("404 NoSuchBucket") == 1, pulled.stderr
    assert pulled.stderr.count("; create the bucket at ") == 1
    assert pulled.stderr.count("not tried: the whole session was stopped") == 1
    assert "nobody has pushed it here" not in pulled.stderr


def test_a_large_object_that_is_missing_costs_one_more_question(cellar: Cellar, tmp_path: Path) -> None:
    """In a bucket that is there."""
    elsewhere = f"s3::{cellar.bucket}/elsewhere"
    mark = cellar.server.mark()
    pulled = pulled_large(cellar, tmp_path / "clone", elsewhere)
    assert pulled.returncode != 0
    assert pulled.stderr.count("[404] 404: there is no ") == 2, pulled.stderr
    assert pulled.stderr.count("; nobody has pushed it here, or it was deleted") == 2
    asked = [request for request in cellar.server.requests(mark) if request.key.startswith("elsewhere/")]
    assert Counter(request.operation for request in asked) == {"HeadObject": 2, "GetObject": 2}


@pytest.mark.parametrize("setup", [no_credentials, refused_port, silent_port, no_bucket])
def test_many_objects_fail_as_fast_as_one(cellar: Cellar, any_server: Server, setup: Setup) -> None:
    count = 400
    cellar.home.environ["LFS_AGENT_FIRST_DEADLINE"] = "3"
    for number in range(count):
        cellar.write(f"{number}.bin", 1_000 + number, number)
    cellar.commit("Fill the cellar")
    pushed, seconds = in_trouble(cellar, setup, lambda: cellar.push(check=False))

    assert pushed.returncode != 0
    assert seconds < 30
    told = [line for line in pushed.stderr.splitlines() if "error transferring" in line]
    full = [line for line in told if "not tried: the whole session was stopped" not in line]
    assert len(told) == count
    assert len(full) == 1
    assert len(pushed.stderr.splitlines()) <= count + 10


def test_a_wrong_clock_is_not_asked_about_again_and_again(cellar: Cellar) -> None:
    for number in range(40):
        cellar.write(f"{number}.bin", 1_000 + number, number)
    cellar.commit("Fill the cellar")
    cleanup: list[Any] = []
    wrong_clock(cellar, cleanup)
    pushed = cellar.push(check=False)
    cleanup[0].__exit__()

    assert pushed.stderr.count("clock is wrong") == 1
    assert len(cleanup[0].requests) <= 16  # a HEAD and the GET that hears why, of each worker


def whole_group(process: subprocess.Popen[bytes], _: Home) -> None:
    """Ctrl-C."""
    os.killpg(process.pid, signal.SIGINT)


def git_lfs_alone(_: subprocess.Popen[bytes], home: Home) -> None:
    """What the kernel does where memory is short."""
    kill_all(home, signal.SIGKILL, "git-lfs")


@pytest.mark.parametrize("end", [whole_group, git_lfs_alone])
def test_no_process_is_left_of_a_push_that_is_broken_off(
    git_lfs: Path | None, cellar: Cellar, any_server: Server, end: Callable[[subprocess.Popen[bytes], Home], None]
) -> None:
    oid = cellar.add("weights.bin", 16_000_000)
    with through(cellar, any_server, Rule(Throttle(up=2_000_000))) as proxy:
        use(cellar, proxy)
        process = subprocess.Popen(
            ["git", "push", "-q", "origin", "HEAD"],
            cwd=cellar.work,
            env=cellar.home.environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        wait_for(lambda: any(seen.request_bytes > 1_000_000 for seen in about(proxy, oid, "PUT")), 20)
        end(process, cellar.home)
        assert process.wait(10) != 0
        wait_for(lambda: processes_of(cellar.home) == {}, 3)

    assert cellar.keys() == []
    cellar.home.environ["AWS_ENDPOINT_URL_S3"] = any_server.endpoint
    cellar.push()
    assert cellar.keys() == [cellar.key(oid)]


# Links and servers that fail


def test_a_tenth_of_all_requests_may_fail(cellar: Cellar, any_server: Server, tmp_path: Path) -> None:
    oids = {f"{number}.bin": cellar.write(f"{number}.bin", 20_000 + number, number) for number in range(24)}
    oids["large.bin"] = cellar.write("large.bin", 12 * MIB, 99)
    cellar.commit("Fill the cellar")
    rules = (
        Rule(SLOW_DOWN, probability=0.04),
        Rule(INTERNAL_ERROR, probability=0.02),
        Rule(Reset("request-head"), probability=0.02),
        Rule(Reset("request-body"), probability=0.04),
        Rule(Reset("answer-head"), probability=0.02),
        Rule(Reset("answer-body"), probability=0.04),
        Rule(Truncate(), probability=0.02),
        Rule(Stall("answer-head", seconds=0.5), probability=0.02),
    )
    with through(cellar, any_server, *rules, seed=3) as proxy:
        use(cellar, proxy)
        cellar.push()
        clone = cellar.clone(tmp_path / "clone")
        met = [seen for seen in proxy.requests if seen.fault]

    assert met
    assert cellar.keys() == sorted(map(cellar.key, oids.values()))
    for path, oid in oids.items():
        assert sha256(content_at(cellar, oid)).hexdigest() == oid
        assert sha256((clone / path).read_bytes()).hexdigest() == oid


def test_small_objects_go_over_a_slow_link(cellar: Cellar, any_server: Server) -> None:
    """What is sent before the store has answered for the first time is little enough for such a link."""
    cellar.add("first.bin", 5_000)
    with through(cellar, any_server) as proxy:
        use(cellar, proxy)
        cellar.push()  # what the store can do is known: objects may be put without a question
        for number in range(3):
            cellar.write(f"{number}.bin", 120_000 + number, number)
        cellar.commit("Fill the cellar")
        cellar.home.environ["LFS_AGENT_FIRST_DEADLINE"] = "2"
        proxy.faults = Faults((Rule(Throttle(up=50_000)),))
        cellar.push()

    assert len(cellar.keys()) == 4


def test_when_a_part_has_failed_no_other_is_begun(cellar: Cellar, any_server: Server) -> None:
    """Each would wait as long again for a store that is gone."""
    oid = cellar.add("weights.bin", 40 * MIB)
    cellar.home.environ |= {"LFS_AGENT_STREAMS": "2", "LFS_AGENT_DEADLINE": "2"}
    with through(cellar, any_server, Rule(INTERNAL_ERROR, "PUT", "partNumber")) as proxy:
        use(cellar, proxy)
        pushed = cellar.push(check=False)
        asked = {parse_qs(seen.query)["partNumber"][0] for seen in about(proxy, oid, "PUT")}

    assert pushed.returncode != 0
    assert asked <= {"1", "2"}


def test_when_a_range_has_failed_no_other_is_begun(cellar: Cellar, any_server: Server, tmp_path: Path) -> None:
    oid = cellar.add("weights.bin", 40 * MIB)
    cellar.push()
    cellar.home.environ |= {"LFS_AGENT_STREAMS": "2", "LFS_AGENT_DEADLINE": "2"}
    with through(cellar, any_server, Rule(INTERNAL_ERROR, "GET", oid)) as proxy:
        use(cellar, proxy)
        cloned = cellar.home.git("clone", cellar.origin, tmp_path / "clone", check=False)
        asked = {seen.headers["range"].partition("-")[0] for seen in about(proxy, oid, "GET")}

    assert cloned.returncode != 0
    assert asked <= {"bytes=0", f"bytes={5 * MIB}"}


def test_a_refusal_is_not_asked_again(cellar: Cellar, any_server: Server) -> None:
    oid = cellar.add("weights.bin", 10_000)
    with through(cellar, any_server, Rule(ACCESS_DENIED, method="PUT")) as proxy:
        use(cellar, proxy)
        pushed = cellar.push(check=False)
        puts = about(proxy, oid, "PUT")

    assert pushed.returncode != 0
    assert len(puts) == 1
    assert f"s3://{cellar.bucket}/{cellar.key(oid)}: 403 AccessDenied" in pushed.stderr
    assert "s3:PutObject is needed" in pushed.stderr
    assert "could not be registered" not in pushed.stderr  # that was refused, too


def test_one_refused_object_does_not_stop_the_others(cellar: Cellar, any_server: Server) -> None:
    oids = [cellar.write(f"{number}.bin", 10_000 + number, number) for number in range(10)]
    cellar.commit("Fill the cellar")
    with through(cellar, any_server, Rule(ACCESS_DENIED, method="PUT", target=oids[4])) as proxy:
        use(cellar, proxy)
        pushed = cellar.push(check=False)

    assert pushed.returncode != 0
    assert cellar.keys() == sorted(cellar.key(oid) for oid in oids if oid != oids[4])
    assert [oids[4]] == [oid for oid in oids if f'error transferring "{oid}"' in pushed.stderr]


UNSUPPORTED = Answer(400, "InvalidArgument")


@pytest.mark.parametrize("size", [10_000, 12 * MIB])
def test_a_store_that_refuses_every_word_of_checksums_and_conditions_is_used(
    cellar: Cellar, any_server: Server, tmp_path: Path, size: int
) -> None:
    """As Backblaze B2 does, in answers to HEAD, too, which have no room for a reason."""
    oid = cellar.add("weights.bin", size)
    headers = [f"x-amz-checksum-{name}" for name in ("mode", "sha256", "crc32c", "algorithm", "type")]
    rules = [Rule(UNSUPPORTED, header=name) for name in headers]
    with through(cellar, any_server, Rule(NOT_IMPLEMENTED, method="P.*", header="if-none-match"), *rules) as proxy:
        use(cellar, proxy)
        cellar.push()
        verified = cellar.home.run("lfs-agent", "verify", "--deep", cwd=cellar.work)
        clone = cellar.clone(tmp_path / "clone")
        (cellar.work / ".git" / "lfs" / "lfs-agent" / "stores.json").unlink()
        cellar.delete(oid)
        missing = cellar.home.run("lfs-agent", "verify", cwd=cellar.work, check=False)
        learned = cellar.home.run("lfs-agent", "doctor", cwd=cellar.work, check=False)

    assert "1 present (1 proven)" in verified.stdout
    assert sha256((clone / "weights.bin").read_bytes()).hexdigest() == oid
    assert missing.returncode == 1
    assert "1 missing" in missing.stdout
    assert "checksum in an answer to HEAD: no" in learned.stdout


def test_a_server_that_wants_to_be_left_alone_is(cellar: Cellar, any_server: Server) -> None:
    oid = cellar.add("weights.bin", 10_000)
    busy = Answer(503, "SlowDown", headers=(("Retry-After", "2"),))
    with through(cellar, any_server, Rule(busy, method="PUT", target=oid, times=1)) as proxy:
        use(cellar, proxy)
        cellar.push()
        first, second = about(proxy, oid, "PUT")

    assert second.at - first.at >= 2
    assert len(content_at(cellar, oid)) == 10_000


def test_there_is_an_end_to_asking_again(cellar: Cellar, any_server: Server) -> None:
    oid = cellar.add("weights.bin", 10_000)
    cellar.home.environ["LFS_AGENT_DEADLINE"] = "2"
    with through(cellar, any_server, Rule(SLOW_DOWN, method="PUT")) as proxy:
        use(cellar, proxy)
        started = time.monotonic()
        pushed = cellar.push(check=False)
        seconds = time.monotonic() - started
        puts = about(proxy, oid, "PUT")

    assert pushed.returncode != 0
    assert seconds < 10
    assert len(puts) > 1
    assert "503 SlowDown" in pushed.stderr
    assert f"(asked {len(puts)} times)" in pushed.stderr


@pytest.mark.parametrize("size, puts", [(300_000, 2), (12 * MIB, 4)])
def test_a_part_that_arrives_corrupted_is_sent_again(cellar: Cellar, any_server: Server, size: int, puts: int) -> None:
    oid = cellar.add("weights.bin", size)
    with through(cellar, any_server, Rule(Flip("request-body"), method="PUT", target=oid, times=1)) as proxy:
        use(cellar, proxy)
        cellar.push()
        sent = about(proxy, oid, "PUT")

    assert [seen.fault for seen in sent if seen.fault] == ["flip request-body"]
    assert len(sent) == puts
    assert sha256(content_at(cellar, oid)).hexdigest() == oid


@pytest.mark.parametrize("size", [300_000, 12 * MIB])
@pytest.mark.parametrize("fault", [Flip("answer-body"), Truncate(), Reset("answer-body")])
def test_a_download_that_arrives_damaged_is_mended(
    cellar: Cellar, any_server: Server, tmp_path: Path, size: int, fault: Flip | Truncate | Reset
) -> None:
    oid = cellar.add("weights.bin", size)
    cellar.push()
    with through(cellar, any_server, Rule(fault, method="GET", times=1)) as proxy:
        use(cellar, proxy)
        clone = cellar.clone(tmp_path / "clone")
        met = [seen for seen in proxy.requests if seen.fault]

    assert len(met) == 1
    assert sha256((clone / "weights.bin").read_bytes()).hexdigest() == oid


PUT, COMPLETE = ("PUT", r"/[0-9a-f]{64}$", 300_000), ("POST", r"\?uploadId=", 12 * MIB)
LAST_ANSWERS = {
    "lost answer": Reset("answer-head"),
    "500 after success": Answer(500, "InternalError", forward=True),
    "409 without an object": CONFLICT,
    "500": INTERNAL_ERROR,
}


@pytest.mark.parametrize(
    "step, fault",
    [
        *(pytest.param(PUT, fault, id=f"put, {name}") for name, fault in LAST_ANSWERS.items()),
        *(pytest.param(COMPLETE, fault, id=f"complete, {name}") for name, fault in LAST_ANSWERS.items()),
        pytest.param(COMPLETE, ERROR_IN_200, id="complete, error in a 200"),
    ],
)
def test_no_answer_to_the_last_step_is_believed_without_a_look(
    cellar: Cellar, any_server: Server, step: tuple[str, str, int], fault: Answer | Reset
) -> None:
    method, target, size = step
    oid = cellar.add("weights.bin", size)
    client = any_server.client()
    client.put_bucket_versioning(Bucket=cellar.bucket, VersioningConfiguration={"Status": "Enabled"})
    with through(cellar, any_server, Rule(fault, method=method, target=target, times=1)) as proxy:
        use(cellar, proxy)
        pushed = cellar.push(check=False)
        met = [seen for seen in proxy.requests if seen.fault]

    assert pushed.returncode == 0, pushed.stderr
    assert len(met) == 1
    assert sha256(content_at(cellar, oid)).hexdigest() == oid
    versions = client.list_object_versions(Bucket=cellar.bucket, Prefix=cellar.key(oid))
    assert len(versions["Versions"]) == 1


def test_a_precondition_that_fails_for_nothing_is_no_success(cellar: Cellar, any_server: Server) -> None:
    oid = cellar.add("weights.bin", 10_000)
    with through(cellar, any_server, Rule(Answer(412, "PreconditionFailed"), method="PUT")) as proxy:
        use(cellar, proxy)
        pushed = cellar.push(check=False)

    assert pushed.returncode != 0
    assert "and yet nothing is there" in pushed.stderr
    assert oid in pushed.stderr
    assert cellar.keys() == []


def test_there_is_no_deadline_on_a_slow_transfer(cellar: Cellar, any_server: Server, tmp_path: Path) -> None:
    """Six seconds a request, where five of silence are too many; two of them for what the kernel took of the body."""
    oid = cellar.add("weights.bin", 24_000_000)
    with through(cellar, any_server, Rule(Throttle(up=4_000_000, down=4_000_000))) as proxy:
        use(cellar, proxy)
        cellar.home.environ |= {"LFS_AGENT_READ_TIMEOUT": "5", "LFS_AGENT_PART_SIZE": "64MiB"}
        cellar.push()
        clone = cellar.clone(tmp_path / "clone")
        moved = [seen for seen in proxy.requests if seen.method in ("PUT", "GET") and oid in seen.path]

    assert [seen.method for seen in moved] == ["PUT", "GET"]
    assert all((seen.ended or 0) - seen.at > 5 for seen in moved)
    assert sha256((clone / "weights.bin").read_bytes()).hexdigest() == oid


@pytest.mark.parametrize("after_declaration", [True, False])
def test_blanks_before_an_answer_are_no_silence(cellar: Cellar, any_server: Server, after_declaration: bool) -> None:
    """As Amazon has it while it puts parts together: blanks as long as that takes, here three times the deadline."""
    blanks = Rule(Whitespace(3, after_declaration=after_declaration), method="POST", target="uploadId")
    oid = cellar.add("model.bin", 12 * MIB)
    with through(cellar, any_server, blanks) as proxy:
        use(cellar, proxy)
        cellar.home.environ["LFS_AGENT_READ_TIMEOUT"] = "1"
        cellar.push()
        completions = [seen for seen in proxy.requests if seen.method == "POST" and "uploadId" in seen.query]

    assert cellar.keys() == [cellar.key(oid)]
    assert [seen.status for seen in completions] == [200]


@pytest.mark.parametrize("where", ["request-head", "answer-head", "answer-body"])
def test_silence_has_a_deadline(cellar: Cellar, any_server: Server, tmp_path: Path, where: Any) -> None:
    oid = cellar.add("weights.bin", 12 * MIB)
    cellar.push()
    stall = Rule(Stall(where, seconds=20), method="GET", target=oid, times=1)
    with through(cellar, any_server, stall) as proxy:
        use(cellar, proxy)
        cellar.home.environ["LFS_AGENT_READ_TIMEOUT"] = "1"
        started = time.monotonic()
        clone = cellar.clone(tmp_path / "clone")
        seconds = time.monotonic() - started

    assert seconds < 15
    assert sha256((clone / "weights.bin").read_bytes()).hexdigest() == oid


def test_a_clone_by_someone_without_a_target_is_told_what_to_do(home: Home, tmp_path: Path) -> None:
    """The agent is registered, and nothing names a store."""
    home.install()
    home.git("init", "-q", tmp_path / "work")
    home.git("config", "--global", "lfs.standalonetransferagent", "lfs-agent")
    (tmp_path / "work" / ".gitattributes").write_text("*.bin filter=lfs diff=lfs merge=lfs -text\n")
    (tmp_path / "work" / "weights.bin").write_text("weights")
    home.git("init", "-q", "--bare", tmp_path / "origin.git")
    home.git("remote", "add", "origin", tmp_path / "origin.git", cwd=tmp_path / "work")
    home.git("add", "-A", cwd=tmp_path / "work")
    home.git("commit", "-q", "-m", "Add", cwd=tmp_path / "work")
    pushed = home.git("push", "-q", "origin", "HEAD", cwd=tmp_path / "work", check=False)

    assert pushed.returncode != 0
    assert "run lfs-agent init s3::BUCKET/PREFIX, and commit .lfsconfig" in pushed.stderr
