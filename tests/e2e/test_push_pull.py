"""What a person sees of git push, clone and pull: bytes in the bucket, files in the clone, requests at the server."""

import base64
import json
import os
import re
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha1, sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.cellar import Cellar, random_bytes
from tests.conftest import absent
from tests.e2e.dialogue import (
    Agent,
    files_below,
    left_in_tmp,
    listed_by_a_worker,
    processes_of,
    seen_by_spy,
    wait_for,
    watch_agent,
)
from tests.machine import Home
from tests.proxy import SLOW_DOWN, FaultProxy, Faults, Rule
from tests.servers import Server, Tls, Versitygw

MIB = 1 << 20
FILES = {
    "vit-l/base/1.0/weights.safetensors": 12 * MIB,
    "vit-l/base/1.0/head.bin": 300_000,
    "one byte.bin": 1,
    "naïve/モデル ü.pt": 70_000,
    "empty.bin": 0,
}


def fill(cellar: Cellar, files: dict[str, int]) -> dict[str, str]:
    """Commits the files; the oid of each that is not empty."""
    oids = {path: cellar.write(path, size, seed) for seed, (path, size) in enumerate(files.items())}
    cellar.commit("Fill the cellar")
    return {path: oid for path, oid in oids.items() if files[path]}


def visitor(home: Home, server: Server) -> Home:
    """Another user, with credentials and the agent."""
    home.environ.update(server.environ())
    home.install()
    return home


def objects_of(work: Path) -> list[str]:
    return [path.rpartition("/")[2] for path in files_below(work / ".git" / "lfs" / "objects")]


def transfers(server: Server, bucket: str, mark: int) -> Counter[str]:
    """How often each operation was asked of the bucket."""
    return Counter(request.operation for request in server.requests(mark) if request.bucket == bucket)


# There and back


def round_trip(cellar: Cellar, guest: Home, to: Path) -> dict[str, str]:
    """Pushes, clones as another user, and compares; the oids by path."""
    cellar.home.environ["LFS_AGENT_PART_SIZE"] = guest.environ["LFS_AGENT_PART_SIZE"] = "5MiB"
    oids = fill(cellar, FILES)
    cellar.push()
    cellar.clone(to, home=guest)

    assert cellar.keys() == sorted(map(cellar.key, oids.values()))
    client = cellar.server.client()
    for path, oid in oids.items():
        content = (cellar.work / path).read_bytes()
        assert client.get_object(Bucket=cellar.bucket, Key=cellar.key(oid))["Body"].read() == content
        assert (to / path).read_bytes() == content
    assert (to / "empty.bin").read_bytes() == b""
    assert guest.git("status", "--porcelain", cwd=to).stdout == ""
    assert sorted(objects_of(to)) == sorted(oids.values())
    assert left_in_tmp(to / ".git" / "lfs") == []
    assert files_below(to / ".git" / "lfs" / "incomplete") == []
    return oids


def test_what_is_pushed_comes_back(cellar: Cellar, server: Server, second_home: Home, tmp_path: Path) -> None:
    oids = round_trip(cellar, visitor(second_home, server), tmp_path / "clone")

    client = server.client()
    for path, oid in oids.items():
        head = client.head_object(Bucket=cellar.bucket, Key=cellar.key(oid), ChecksumMode="ENABLED")
        assert head["ContentLength"] == FILES[path]
        assert head["ContentType"] == "application/octet-stream"
        assert (head["Metadata"]["sha256"], head["Metadata"]["size"]) == (oid, str(FILES[path]))
        assert re.fullmatch(r"lfs-agent/\d.*", head["Metadata"]["agent"])
        if "checksums" in server.supports and FILES[path] <= 5 * MIB:
            assert base64.b64decode(head["ChecksumSHA256"]).hex() == oid
        elif "checksums" in server.supports:
            assert (head["ChecksumType"], len(base64.b64decode(head["ChecksumCRC32C"]))) == ("FULL_OBJECT", 4)


def test_every_git_lfs_does(
    git_lfs: Path | None, cellar: Cellar, any_server: Server, second_home: Home, tmp_path: Path
) -> None:
    round_trip(cellar, visitor(second_home, any_server), tmp_path / "clone")
    if git_lfs:
        assert f"git-lfs/{git_lfs.name.rpartition('-')[2]}" in cellar.git("lfs", "version").stdout


def test_a_region_is_not_needed_where_there_is_an_endpoint(
    cellar: Cellar, server: Server, second_home: Home, tmp_path: Path
) -> None:
    guest = visitor(second_home, server)
    for home in (cellar.home, guest):
        del home.environ["AWS_DEFAULT_REGION"]
    oid = cellar.add("weights.bin", 300_000)
    cellar.push()
    clone = cellar.clone(tmp_path / "clone", home=guest)

    assert cellar.keys() == [cellar.key(oid)]
    assert sha256((clone / "weights.bin").read_bytes()).hexdigest() == oid


def test_a_bucket_may_be_a_host_name(home: Home, tls: Tls, tmp_path: Path) -> None:
    if reason := Versitygw.missing():
        absent(reason)
    with Versitygw(tmp_path / "server", tls=tls) as server:
        server.client().create_bucket(Bucket="bucket")
        home.environ.update(server.environ())
        home.environ |= {
            "AWS_ENDPOINT_URL_S3": server.virtual_endpoint,
            "LFS_AGENT_PATH_STYLE": "false",
            "LFS_AGENT_CA": str(tls.ca),
            "LFS_AGENT_PART_SIZE": "5MiB",
        }
        home.install()
        watch_agent(home, tmp_path / "spy", "names")
        cellar = Cellar(home, server, "bucket", "cellar", tmp_path / "origin.git", tmp_path / "work")
        cellar.build()
        oids = fill(cellar, {"weights.bin": 12 * MIB, "small.bin": 5})
        cellar.push()
        clone = cellar.clone(tmp_path / "clone")

        assert cellar.keys() == sorted(map(cellar.key, oids.values()))
        assert (clone / "weights.bin").read_bytes() == (cellar.work / "weights.bin").read_bytes()
        assert (clone / "small.bin").read_bytes() == (cellar.work / "small.bin").read_bytes()
        assert {note["host"] for note in seen_by_spy(tmp_path / "spy", "resolve")} == {"bucket.s3.test"}


def test_every_server_takes_a_bucket_as_a_host_name(
    cellar: Cellar, server: Server, second_home: Home, tmp_path: Path
) -> None:
    guest = visitor(second_home, server)
    for home in (cellar.home, guest):
        home.environ |= {
            "AWS_ENDPOINT_URL_S3": server.virtual_endpoint,
            "LFS_AGENT_PATH_STYLE": "false",
            "LFS_AGENT_ALLOW_HTTP": "true",
            "LFS_AGENT_PART_SIZE": "5MiB",
        }
        watch_agent(home, tmp_path / "spy", "names")
    found = round_trip(cellar, guest, tmp_path / "clone")

    assert cellar.keys() == sorted(map(cellar.key, found.values()))
    assert {note["host"] for note in seen_by_spy(tmp_path / "spy", "resolve")} == {f"{cellar.bucket}.s3.test"}


def test_a_bare_clone_a_worktree_and_a_subfolder_fetch_too(cellar: Cellar, any_server: Server, tmp_path: Path) -> None:
    oid = cellar.add("rack/weights.bin", 300_000)
    cellar.push()
    bare = cellar.clone(tmp_path / "bare.git", "--bare")
    cellar.home.git("lfs", "fetch", "origin", "main", cwd=bare)
    skipping = {"GIT_LFS_SKIP_SMUDGE": "1"}
    cellar.home.git("clone", "-q", cellar.origin, tmp_path / "clone", env=skipping)
    cellar.home.git("worktree", "add", "-q", tmp_path / "tree", "-b", "other", cwd=tmp_path / "clone", env=skipping)
    cellar.home.git("lfs", "pull", cwd=tmp_path / "tree" / "rack")

    assert files_below(bare / "lfs" / "objects") == [f"{oid[:2]}/{oid[2:4]}/{oid}"]
    assert sha256((tmp_path / "tree" / "rack" / "weights.bin").read_bytes()).hexdigest() == oid
    assert objects_of(tmp_path / "clone") == [oid]


# What is there is not sent again


def test_two_hundred_present_objects_cost_a_question_each_at_most(cellar: Cellar, any_server: Server) -> None:
    oids = fill(cellar, {f"{number}.bin": 2_000 + number for number in range(200)})
    cellar.push()
    assert cellar.keys() == sorted(map(cellar.key, oids.values()))
    mark = any_server.mark()
    cellar.git("lfs", "push", "--all", "origin")

    requests = [request for request in any_server.requests(mark) if request.bucket == cellar.bucket]
    puts = [request for request in requests if request.method == "PUT"]
    assert {request.status for request in puts} <= {412}
    assert len(puts) <= 8
    asked = transfers(any_server, cellar.bucket, mark)
    assert asked["HeadObject"] <= 200
    assert asked["ListObjectsV2"] >= 1
    assert asked["HeadObject"] + asked["ListObjectsV2"] == len(requests) - len(puts)


def test_what_a_list_shows_is_not_asked_for_and_all_else_is(server: Server, cellar: Cellar) -> None:
    present = list(fill(cellar, {f"{number}.bin": 2_000 + number for number in range(20)}).values())
    cellar.push()
    missing, shorter = (cellar.add(f"{seed}.bin", 500, seed) for seed in (77, 78))
    cellar.put(shorter, b"something else")

    def push(agent: Agent, *oids: str) -> list[str]:
        """What is wrong with each."""
        for oid in oids:
            agent.upload(oid, cellar.local_object(oid))
        return [agent.until_complete()[-1].get("error", {}).get("message", "") for _ in oids]

    busy = Faults((Rule(SLOW_DOWN, "GET", "list-type=2", times=1),))
    with (
        FaultProxy(server.endpoint, busy) as proxy,
        Agent(cellar.home, cellar.work, env={"AWS_ENDPOINT_URL_S3": proxy.endpoint}) as first,
        Agent(cellar.home, cellar.work) as second,
    ):
        assert first.init("upload") == second.init("upload") == {}
        assert push(first, *present[:8]) == [""] * 8
        wait_for(lambda: listed_by_a_worker(cellar.work), 60)
        mark = server.mark()
        assert push(second, *present[8:]) == [""] * 12
        assert transfers(server, cellar.bucket, mark) == {}
        (wrong, none) = push(second, shorter, missing)
        assert (first.end(), second.end()) == (0, 0)

    assert f"s3://{cellar.bucket}/{cellar.key(shorter)} has 14 bytes, not 500: something else is stored" in wrong
    assert (none, cellar.stored(missing)) == ("", random_bytes(500, 77))
    records = cellar.home.run("lfs-agent", "log", "--json", "-n", "9", cwd=cellar.work).stdout.splitlines()
    (told,) = [record for record in map(json.loads, records) if record["failed"]]
    assert (told["skipped"], told["objects"], told["failed"]) == (20, 1, 1)
    assert told["unproven"] >= 12
    record = cellar.work / ".git" / "lfs" / "lfs-agent" / "sessions" / f"{told['session']}.jsonl"
    (again,) = [line for line in map(json.loads, record.read_text().splitlines()) if line["event"] == "retry"]
    assert (again["what"], "oid" in again) == ("list", False)


def test_a_key_with_another_size_is_not_present_and_not_replaced(cellar: Cellar, any_server: Server) -> None:
    oid = cellar.add("weights.bin", 300_000)
    client = any_server.client()
    client.put_object(Bucket=cellar.bucket, Key=cellar.key(oid), Body=b"something else")
    pushed = cellar.push(check=False)

    assert pushed.returncode != 0
    assert f"s3://{cellar.bucket}/{cellar.key(oid)} has 14 bytes, not 300000" in pushed.stderr
    assert client.get_object(Bucket=cellar.bucket, Key=cellar.key(oid))["Body"].read() == b"something else"


# Wrong bytes


@pytest.mark.parametrize("size", [300_000, 12 * MIB])
def test_a_flipped_byte_in_the_bucket_never_arrives(
    cellar: Cellar, any_server: Server, tmp_path: Path, size: int
) -> None:
    cellar.home.environ["LFS_AGENT_PART_SIZE"] = "5MiB"
    oid = cellar.add("weights.bin", size)
    cellar.push()
    content = bytearray((cellar.work / "weights.bin").read_bytes())
    content[size // 2] ^= 1
    any_server.client().put_object(Bucket=cellar.bucket, Key=cellar.key(oid), Body=bytes(content))
    cellar.home.git("clone", "-q", cellar.origin, tmp_path / "clone", env={"GIT_LFS_SKIP_SMUDGE": "1"})
    pulled = cellar.home.git("lfs", "pull", cwd=tmp_path / "clone", check=False)

    assert pulled.returncode != 0
    assert f"s3://{cellar.bucket}/{cellar.key(oid)} is damaged: its SHA-256 is " in pulled.stderr
    assert objects_of(tmp_path / "clone") == []
    assert left_in_tmp(tmp_path / "clone" / ".git" / "lfs") == []
    assert (tmp_path / "clone" / "weights.bin").read_text().startswith("version https://git-lfs")


@pytest.mark.parametrize("size", [300_000, 12 * MIB])
@pytest.mark.parametrize("harm", ["altered", "truncated"])
def test_a_damaged_local_object_is_never_published(cellar: Cellar, any_server: Server, size: int, harm: str) -> None:
    cellar.home.environ["LFS_AGENT_PART_SIZE"] = "5MiB"
    oid = cellar.add("weights.bin", size)
    local = cellar.local_object(oid)
    content = bytearray(local.read_bytes())
    content[-1] ^= 1
    local.chmod(0o644)
    local.write_bytes(content if harm == "altered" else content[:-1])
    mark = any_server.mark()
    pushed = cellar.push(check=False)

    assert pushed.returncode != 0
    assert oid in pushed.stdout + pushed.stderr
    assert cellar.keys() == []
    asked = transfers(any_server, cellar.bucket, mark)
    assert asked["PutObject"] == asked["CompleteMultipartUpload"] == 0
    assert any_server.client().list_multipart_uploads(Bucket=cellar.bucket).get("Uploads", []) == []


def test_one_missing_object_does_not_stop_the_others(
    git_lfs: Path | None, cellar: Cellar, any_server: Server, second_home: Home, tmp_path: Path
) -> None:
    oids = fill(cellar, {f"{number}.bin": 10_000 + number for number in range(10)})
    cellar.push()
    lost, key = oids["6.bin"], cellar.key(oids["6.bin"])
    any_server.client().delete_object(Bucket=cellar.bucket, Key=key)
    guest = visitor(second_home, any_server)
    guest.git("clone", "-q", cellar.origin, tmp_path / "clone", env={"GIT_LFS_SKIP_SMUDGE": "1"})
    pulled = guest.git("lfs", "pull", cwd=tmp_path / "clone", check=False)

    assert pulled.returncode != 0
    arrived = {path for path in oids if (tmp_path / "clone" / path).stat().st_size >= 10_000}
    assert arrived == set(oids) - {"6.bin"}
    (told,) = [line for line in pulled.stderr.splitlines() if lost in line and "[404]" in line]
    assert f"s3://{cellar.bucket}/{key}" in told
    assert "Traceback" not in pulled.stderr


# Files


def test_nothing_is_written_outside_the_git_folder_and_git_lfs_only_renames(
    cellar: Cellar, any_server: Server, second_home: Home, tmp_path: Path
) -> None:
    oids = fill(cellar, {"weights.bin": 12 * MIB, "small.bin": 5})
    cellar.push()
    guest = visitor(second_home, any_server)
    guest.environ |= {"LFS_AGENT_PART_SIZE": "5MiB", "TMPDIR": str(tmp_path / "nowhere")}
    watch_agent(guest, tmp_path / "spy")
    clone = cellar.clone(tmp_path / "clone", home=guest)

    written = {note["path"] for note in seen_by_spy(tmp_path / "spy", "write")}
    git_folder = f"{clone}/.git/"
    strays = {path for path in written if not path.startswith(git_folder) and "__pycache__" not in path}
    assert strays <= {os.devnull}
    handed_over = {Path(note["target"]).name: note for note in seen_by_spy(tmp_path / "spy", "rename")}
    for oid in oids.values():
        (note,) = [note for name, note in handed_over.items() if oid in name]
        assert cellar.local_object(oid, clone).stat().st_ino == note["inode"]
    assert left_in_tmp(clone / ".git" / "lfs") == []
    assert files_below(clone / ".git" / "lfs" / "incomplete") == []


@pytest.mark.parametrize(
    "umask, shared, mode",
    [("022", "umask", 0o644), ("027", "umask", 0o640), ("077", "umask", 0o600), ("077", "group", 0o660)]
    + [("077", "all", 0o664), ("022", "0640", 0o640), ("077", "660", 0o660)],
)
def test_an_object_gets_the_mode_that_git_lfs_would_give(
    cellar: Cellar, tmp_path: Path, umask: str, shared: str, mode: int
) -> None:
    oid = cellar.add("weights.bin", 300_000)
    cellar.push()
    script = f"umask {umask} && git clone -q -c core.sharedRepository={shared} {cellar.origin} {tmp_path}/clone"
    cellar.home.run("sh", "-c", script)

    assert cellar.local_object(oid, tmp_path / "clone").stat().st_mode & 0o777 == mode


# Workers


def test_seven_of_eight_workers_load_no_client_for_one_object(
    cellar: Cellar, any_server: Server, tmp_path: Path
) -> None:
    cellar.add("weights.bin", 300_000)
    watch_agent(cellar.home, tmp_path / "spy")
    cellar.push()

    imports = seen_by_spy(tmp_path / "spy", "import")
    assert len({note["pid"] for note in imports}) == 8
    assert len({note["pid"] for note in imports if note["module"].startswith("pycurl")}) == 1
    assert len({note["pid"] for note in imports if note["module"].startswith("lfs_agent")}) == 1
    assert processes_of(cellar.home) == {}


@pytest.mark.parametrize("concurrent, workers", [("true", 8), ("false", 1)])
def test_many_workers_and_one_give_the_same(
    cellar: Cellar, any_server: Server, second_home: Home, tmp_path: Path, concurrent: str, workers: int
) -> None:
    guest = visitor(second_home, any_server)
    for home, log in ((cellar.home, "up"), (guest, "down")):
        watch_agent(home, tmp_path / log)
        home.git("config", "--global", "lfs.customtransfer.lfs-agent.concurrent", concurrent)
    oids = fill(cellar, {f"{number}.bin": 50_000 + number for number in range(12)})
    mark = any_server.mark()
    cellar.push()
    clone = cellar.clone(tmp_path / "clone", home=guest)

    assert cellar.keys() == sorted(map(cellar.key, oids.values()))
    assert transfers(any_server, cellar.bucket, mark)["PutObject"] == 12
    assert sorted(objects_of(clone)) == sorted(oids.values())
    for path, oid in oids.items():
        assert sha256((clone / path).read_bytes()).hexdigest() == oid
    for log in ("up", "down"):
        assert len({note["pid"] for note in seen_by_spy(tmp_path / log, "import")}) == workers


# Credentials


class Cloud(BaseHTTPRequestHandler):
    """What AWS has beside S3 to give credentials: STS, the container's and the instance's endpoint, SSO."""

    protocol_version = "HTTP/1.1"
    keys: tuple[str, str]

    def do_GET(self) -> None:
        access, secret = self.keys
        until = "2099-01-01T00:00:00Z"
        match self.path.partition("?")[0]:
            case "/container" | "/latest/meta-data/iam/security-credentials/keeper":
                self._answer(
                    {"Code": "Success", "AccessKeyId": access, "SecretAccessKey": secret}
                    | {"Token": "", "Expiration": until}
                )
            case "/latest/meta-data/iam/security-credentials/":
                self._answer("keeper")
            case "/federation/credentials":
                given = {"accessKeyId": access, "secretAccessKey": secret, "sessionToken": ""}
                self._answer({"roleCredentials": given | {"expiration": 4070908800000}})
            case _:
                self._answer({}, status=404)

    def do_PUT(self) -> None:
        self._answer("token")  # IMDSv2

    def do_POST(self) -> None:
        asked = self.rfile.read(int(self.headers["Content-Length"])).decode()
        action = "AssumeRoleWithWebIdentity" if "AssumeRoleWithWebIdentity" in asked else "AssumeRole"
        access, secret = self.keys
        credentials = (
            f"<AccessKeyId>{access}</AccessKeyId><SecretAccessKey>{secret}</SecretAccessKey>"
            "<SessionToken></SessionToken><Expiration>2099-01-01T00:00:00Z</Expiration>"
        )
        result = f"<{action}Result><Credentials>{credentials}</Credentials></{action}Result>"
        self._answer(f'<{action}Response xmlns="https://sts.amazonaws.com/doc/2011-06-15/">{result}</{action}Response>')

    def _answer(self, content: object, status: int = 200) -> None:
        body = (content if isinstance(content, str) else json.dumps(content)).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@contextmanager
def cloud(server: Server) -> Iterator[str]:
    """The endpoint of a cloud that gives the server's keys."""
    handler = type("Keyed", (Cloud,), {"keys": (server.access_key, server.secret_key)})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()


@pytest.fixture
def fresh_cloud(any_server: Server) -> Iterator[str]:
    with cloud(any_server) as endpoint:
        yield endpoint


def aws_file(home: Home, name: str, text: str) -> None:
    folder = home.folder / ".aws"
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text)


def default_profile(home: Home, keys: tuple[str, str], _: str) -> None:
    aws_file(home, "credentials", f"[default]\naws_access_key_id = {keys[0]}\naws_secret_access_key = {keys[1]}\n")


def named_profile(home: Home, keys: tuple[str, str], _: str) -> None:
    aws_file(home, "config", f"[profile cellar]\naws_access_key_id = {keys[0]}\naws_secret_access_key = {keys[1]}\n")
    home.environ["AWS_PROFILE"] = "cellar"


def own_setting(home: Home, keys: tuple[str, str], _: str) -> None:
    aws_file(home, "config", f"[profile cellar]\naws_access_key_id = {keys[0]}\naws_secret_access_key = {keys[1]}\n")
    home.git("config", "--global", "lfs-agent.profile", "cellar")


def credential_process(home: Home, keys: tuple[str, str], _: str) -> None:
    helper = home.folder / "helper"
    answer = {"Version": 1, "AccessKeyId": keys[0], "SecretAccessKey": keys[1]}
    helper.write_text(f"#!{sys.executable}\nprint('''{json.dumps(answer)}''')\n")
    helper.chmod(0o755)
    aws_file(home, "config", f"[default]\ncredential_process = {helper}\n")


def role(home: Home, keys: tuple[str, str], endpoint: str) -> None:
    aws_file(home, "credentials", "[source]\naws_access_key_id = first\naws_secret_access_key = first-secret\n")
    aws_file(home, "config", "[default]\nrole_arn = arn:aws:iam::123456789012:role/keeper\nsource_profile = source\n")
    home.environ["AWS_ENDPOINT_URL_STS"] = endpoint


def web_identity(home: Home, keys: tuple[str, str], endpoint: str) -> None:
    (home.folder / "token").write_text("a token of the CI")
    home.environ |= {
        "AWS_ENDPOINT_URL_STS": endpoint,
        "AWS_WEB_IDENTITY_TOKEN_FILE": str(home.folder / "token"),
        "AWS_ROLE_ARN": "arn:aws:iam::123456789012:role/ci",
    }


def container(home: Home, keys: tuple[str, str], endpoint: str) -> None:
    home.environ["AWS_CONTAINER_CREDENTIALS_FULL_URI"] = f"{endpoint}/container"


def instance(home: Home, keys: tuple[str, str], endpoint: str) -> None:
    del home.environ["AWS_EC2_METADATA_DISABLED"]
    home.environ["AWS_EC2_METADATA_SERVICE_ENDPOINT"] = endpoint


def sso(home: Home, keys: tuple[str, str], endpoint: str) -> None:
    start = "https://cellar.awsapps.com/start"
    aws_file(
        home,
        "config",
        f"[default]\nsso_start_url = {start}\nsso_region = us-east-1\n"
        "sso_account_id = 123456789012\nsso_role_name = keeper\n",
    )
    cache = home.folder / ".aws" / "sso" / "cache"
    cache.mkdir(parents=True)
    login = {"startUrl": start, "region": "us-east-1", "accessToken": "login", "expiresAt": "2099-01-01T00:00:00Z"}
    (cache / f"{sha1(start.encode()).hexdigest()}.json").write_text(json.dumps(login))
    home.environ["AWS_ENDPOINT_URL_SSO"] = endpoint


SOURCES = [
    default_profile, named_profile, own_setting, credential_process, role, web_identity, container, instance, sso,
]  # fmt: skip


@pytest.mark.parametrize("source", SOURCES)
def test_each_source_of_credentials_will_do(
    cellar: Cellar,
    any_server: Server,
    fresh_cloud: str,
    tmp_path: Path,
    source: Callable[[Home, tuple[str, str], str], None],
) -> None:
    """The environment's own keys are what all other tests use."""
    oid = cellar.add("weights.bin", 300_000)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        del cellar.home.environ[name]
    assert cellar.push(check=False).returncode != 0
    assert cellar.keys() == []

    source(cellar.home, (any_server.access_key, any_server.secret_key), fresh_cloud)
    cellar.push()
    assert cellar.keys() == [cellar.key(oid)]


def test_a_public_bucket_is_read_without_credentials(
    cellar: Cellar, any_server: Server, second_home: Home, tmp_path: Path
) -> None:
    oid = cellar.add("weights.bin", 12 * MIB)
    cellar.push()
    everyone = {"Effect": "Allow", "Principal": "*", "Action": "s3:GetObject"}
    policy = {"Version": "2012-10-17", "Statement": [{**everyone, "Resource": f"arn:aws:s3:::{cellar.bucket}/*"}]}
    any_server.client().put_bucket_policy(Bucket=cellar.bucket, Policy=json.dumps(policy))
    second_home.install()
    second_home.environ |= {
        "AWS_ENDPOINT_URL_S3": any_server.endpoint,
        "LFS_AGENT_PUBLIC": "true",
        "LFS_AGENT_PART_SIZE": "5MiB",
    }
    clone = cellar.clone(tmp_path / "clone", home=second_home)

    assert sha256((clone / "weights.bin").read_bytes()).hexdigest() == oid
    second_home.environ["LFS_AGENT_PUBLIC"] = "false"
    refused = second_home.git("clone", cellar.origin, tmp_path / "other", check=False)
    assert refused.returncode != 0
    assert "no AWS credentials" in refused.stderr, refused.stderr


def test_nothing_is_pushed_to_a_public_bucket(cellar: Cellar, any_server: Server) -> None:
    cellar.add("weights.bin", 300_000)
    cellar.home.environ["LFS_AGENT_PUBLIC"] = "true"
    pushed = cellar.push(check=False)

    assert pushed.returncode != 0
    assert "is public" in pushed.stderr
    assert cellar.keys() == []
