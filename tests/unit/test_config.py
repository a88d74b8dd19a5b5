"""Settings: every key from every source, who wins, and what is refused (C4)."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lfs_agent.config import BY_NAME, SETTINGS, Settings, Value, from_environ, from_git, from_query, parse_size, resolve
from lfs_agent.errors import UsageError

# name: the text, what it means, its variable, its key in git config
SAMPLES: dict[str, tuple[str, Any, str, str]] = {
    "endpoint": ("https://s3.example.org:9000", "https://s3.example.org:9000", "LFS_AGENT_ENDPOINT", "endpoint"),
    "region": ("eu-central-1", "eu-central-1", "LFS_AGENT_REGION", "region"),
    "profile": ("Team Red", "Team Red", "LFS_AGENT_PROFILE", "profile"),
    "path_style": ("no", False, "LFS_AGENT_PATH_STYLE", "pathStyle"),
    "public": ("true", True, "LFS_AGENT_PUBLIC", "public"),
    "ca": ("~/ca.pem", "~/ca.pem", "LFS_AGENT_CA", "ca"),
    "client_cert": ("~/me.pem", "~/me.pem", "LFS_AGENT_CLIENT_CERT", "clientCert"),
    "client_key": ("~/me.key", "~/me.key", "LFS_AGENT_CLIENT_KEY", "clientKey"),
    "allow_http": ("on", True, "LFS_AGENT_ALLOW_HTTP", "allowHttp"),
    "layout": ("flat", "flat", "LFS_AGENT_LAYOUT", "layout"),
    "storage_class": ("STANDARD_IA", "STANDARD_IA", "LFS_AGENT_STORAGE_CLASS", "storageClass"),
    "sse": ("aws:kms", "aws:kms", "LFS_AGENT_SSE", "sse"),
    "sse_kms_key_id": ("alias/weights", "alias/weights", "LFS_AGENT_SSE_KMS_KEY_ID", "sseKmsKeyId"),
    "expected_owner": ("123456789012", "123456789012", "LFS_AGENT_EXPECTED_OWNER", "expectedOwner"),
    "requester_pays": ("true", True, "LFS_AGENT_REQUESTER_PAYS", "requesterPays"),
    "part_size": ("64m", 67108864, "LFS_AGENT_PART_SIZE", "partSize"),
    "streams": ("4", 4, "LFS_AGENT_STREAMS", "streams"),
    "bandwidth": ("20MB/s", 20 * 1024 * 1024, "LFS_AGENT_BANDWIDTH", "bandwidth"),
    "concurrency": ("12", 12, "LFS_AGENT_CONCURRENCY", "concurrency"),
    "read_timeout": ("30", 30.0, "LFS_AGENT_READ_TIMEOUT", "readTimeout"),
    "first_deadline": ("5", 5.0, "LFS_AGENT_FIRST_DEADLINE", "firstDeadline"),
    "deadline": ("600", 600.0, "LFS_AGENT_DEADLINE", "deadline"),
    "retries": ("50", 50, "LFS_AGENT_RETRIES", "retries"),
    "retention": ("28d", "28d", "LFS_AGENT_RETENTION", "retention"),
    "log_level": ("debug", "debug", "LFS_AGENT_LOG_LEVEL", "logLevel"),
    "log_file": ("/var/log/lfs-agent.jsonl", "/var/log/lfs-agent.jsonl", "LFS_AGENT_LOG_FILE", "logFile"),
}
COMMITTED = {"endpoint", "region", "path_style", "public", "layout", "retention"}
EVERY = [pytest.param(name, *sample, id=name) for name, sample in SAMPLES.items()]


def test_every_setting_is_in_these_tables() -> None:
    assert [setting.name for setting in SETTINGS] == list(SAMPLES) == list(Settings._fields)
    assert {setting.name for setting in SETTINGS if setting.committed} == COMMITTED


@pytest.mark.parametrize("name, text, meaning, variable, key", EVERY)
def test_from_the_environment(name: str, text: str, meaning: Any, variable: str, key: str) -> None:
    settings, chosen = resolve(from_environ({variable: text, "PATH": "/bin", "AWS_REGION": "x"}))

    assert getattr(settings, name) == meaning
    assert chosen == {name: Value(text, f"environment: {variable}")}


@pytest.mark.parametrize("name, text, meaning, variable, key", EVERY)
def test_from_git_config(name: str, text: str, meaning: Any, variable: str, key: str) -> None:
    entries = [("core.bare", "false", "file:a"), (f"lfs-agent.{key.lower()}", text, "file:b")]

    settings, chosen = resolve(from_git(entries, "cellar"))

    assert BY_NAME[name].git_key == f"lfs-agent.{key}"
    assert getattr(settings, name) == meaning
    assert chosen == {name: Value(text, "file:b")}


@pytest.mark.parametrize("name, text, meaning, variable, key", EVERY)
def test_from_git_config_for_one_bucket(name: str, text: str, meaning: Any, variable: str, key: str) -> None:
    entries = [(f"lfs-agent.my.cellar.{key.lower()}", text, "file:b")]

    assert getattr(resolve(from_git(entries, "my.cellar"))[0], name) == meaning
    assert from_git(entries, "another") == {}


@pytest.mark.parametrize("name, text, meaning, variable, key", EVERY)
def test_from_the_committed_url(name: str, text: str, meaning: Any, variable: str, key: str) -> None:
    if name in COMMITTED:
        settings, chosen = resolve(from_query(f"{name}={text}", ".lfsconfig"))
        assert getattr(settings, name) == meaning
        assert chosen == {name: Value(text, ".lfsconfig")}
    else:
        with pytest.raises(UsageError, match=rf"\.lfsconfig: a URL may not set {name}: .*lfs-agent\.{key}.*{variable}"):
            from_query(f"{name}={text}", ".lfsconfig")


@pytest.mark.parametrize("name, text, meaning, variable, key", EVERY)
def test_the_default(name: str, text: str, meaning: Any, variable: str, key: str) -> None:
    assert resolve({}) == (Settings(), {})
    assert BY_NAME[name].default == getattr(Settings(), name) != meaning or name == "path_style"


def test_who_wins() -> None:
    environ = {"LFS_AGENT_REGION": "from-environ"}
    bucket = [("lfs-agent.cellar.region", "from-bucket", "")]
    general = [("lfs-agent.region", "from-early", ""), ("lfs-agent.region", "from-git", "")]
    query = "region=from-url"

    def region(environ: dict[str, str], entries: list[tuple[str, str, str]], query: str) -> str | None:
        return resolve(from_environ(environ), from_git(entries, "cellar"), from_query(query, ""))[0].region

    assert region(environ, bucket + general, query) == "from-environ"
    assert region({}, bucket + general, query) == "from-bucket"
    assert region({}, general, query) == "from-git"
    assert region({}, [], query) == "from-url"
    assert region({}, [], "") is None


def test_an_empty_variable_says_nothing() -> None:
    assert from_environ({"LFS_AGENT_PUBLIC": "", "LFS_AGENT_ENDPOINT": ""}) == {}


def test_what_trust_keeps_is_no_setting() -> None:
    assert from_git([("lfs-agent.trusted", "amazonaws.com/cellar", "")], "cellar") == {}


@pytest.mark.parametrize(
    "name, nearest",
    [
        ("LFS_AGENT_REGOIN", "LFS_AGENT_REGION"),
        ("LFS_AGENT_PATHSTYLE", "LFS_AGENT_PATH_STYLE"),
        ("LFS_AGENT_region", "LFS_AGENT_REGION"),
        ("LFS_AGENT_TRUSTED", "LFS_AGENT_"),
        ("LFS_AGENT_", "LFS_AGENT_"),
    ],
)
def test_an_unknown_variable_is_refused_with_the_nearest_known(name: str, nearest: str) -> None:
    with pytest.raises(UsageError, match=rf"unknown setting '{name}'; did you mean {nearest}"):
        from_environ({name: "x"})


@pytest.mark.parametrize(
    "key, nearest",
    [
        ("lfs-agent.regoin", "lfs-agent.region"),
        ("lfs-agent.cellar.parts", "lfs-agent."),
        ("lfs-agent.another.bucket.storageclas", "lfs-agent.storageClass"),
        ("lfs-agent.bucket", "lfs-agent."),
        ("lfs-agent.cellar.trusted", "lfs-agent."),
    ],
)
def test_an_unknown_git_key_is_refused_with_the_nearest_known(key: str, nearest: str) -> None:
    with pytest.raises(UsageError, match=rf"^file:x: unknown setting '{key}'; did you mean {nearest}"):
        from_git([(key, "x", "file:x")], "cellar")


@pytest.mark.parametrize(
    "query, nearest",
    [("regoin=x", "region"), ("pathStyle=true", "path_style"), ("Region=x", "region"), ("bucket=b", "public")],
)
def test_an_unknown_key_of_a_url_is_refused_with_the_nearest_known(query: str, nearest: str) -> None:
    with pytest.raises(UsageError, match=rf"^\.lfsconfig: unknown setting .*; did you mean {nearest}\?"):
        from_query(query, ".lfsconfig")


@pytest.mark.parametrize(
    "query",
    ["region", "=x", "region=a&", "&", "a=b=c&&", "region=a&region=b", "region=a;layout=flat", "?region=a"],
)
def test_a_query_that_is_not_a_list_of_settings_is_refused(query: str) -> None:
    with pytest.raises(UsageError):
        resolve(from_query(query, ".lfsconfig"))


EVIL = {
    "region": [
        "us-east-1.evil.example/",
        "us-east-1.evil.example",
        "us-east-1/",
        "us-east-1#",
        "us-east-1@evil",
        "-us",
        "us-",
        "US-EAST-1",
        "us_east_1",
        "us-east-1\n",
        "us-east-1\x00",
        "us-east-1%0a",
        "",
        "a" * 40,
    ],
    "endpoint": [
        "s3.example.org",
        "ftp://s3.example.org",
        "file:///etc/passwd",
        "https://",
        "https://user@s3.example.org",
        "https://user:word@s3.example.org",
        "https://s3.example.org@evil.example",
        "https://s3.example.org#@evil.example",
        "https://s3.example.org?x=y",
        "https://s3.example.org\\@evil.example",
        "https://s3.example.org:0",
        "https://s3.example.org:99999",
        "https://s3.example.org:port",
        "https://s3.example.org\nHost: evil",
        "https://s3.example.org\x00",
        "https://s3 .example.org",
        "https://-s3.example.org",
        "https://s3..example.org",
        "https://s3.exampl\u0435.org",
        "HTTPS://s3.example.org",
        "",
    ],
    "path_style": ["maybe", "2", "true\n"],
    "public": ["maybe", "-1"],
    "allow_http": ["http"],
    "layout": ["nested", "../", "", "git-lfs\n"],
    "profile": ["", "a\nb", "a\x1bb"],
    "ca": ["", "a\nb", "a\x00b"],
    "client_cert": ["", "a\nb"],
    "client_key": ["", "a\x00b"],
    "storage_class": ["standard", "", "STANDARD\n"],
    "sse": ["aes256", "none", ""],
    "sse_kms_key_id": ["", "a\nb"],
    "expected_owner": ["12345678901", "1234567890123", "12345678901x", ""],
    "requester_pays": ["requester", "2"],
    "part_size": ["1MiB", "6g", "", "-5m", "5.5m", "5x", "5m5m", "١٦m"],
    "streams": ["0", "65", "-1", "", "many", "1.5"],
    "bandwidth": ["0", "", "fast", "15KB/s", "20MB/m", "20Mbit/s", "-1M"],
    "concurrency": ["0", "257", "-1", "", "many", "1.5"],
    "read_timeout": ["0", "-1", "", "1e3", "inf", "nan", "1s"],
    "first_deadline": ["0"],
    "deadline": ["0"],
    "retries": ["-1", "", "1.5", "1000000", "many"],
    "retention": ["28", "1y", "never", "-1d", ""],
    "log_level": ["DEBUG", "trace", ""],
    "log_file": ["", "a\nb"],
}


@pytest.mark.parametrize("text", ["SSE-C", "sse-c", "customer"])
def test_keys_that_would_go_along_with_every_request_are_refused_with_what_takes_their_place(text: str) -> None:
    with pytest.raises(UsageError, match=r"SSE-C, which is not supported: for a key of your own take aws:kms"):
        resolve({"sse": Value(text, "somewhere")})


@pytest.mark.parametrize("name, text", [(name, text) for name, texts in EVIL.items() for text in texts])
def test_a_value_of_another_form_is_refused(name: str, text: str) -> None:
    with pytest.raises(UsageError, match=rf"^somewhere: {name} = ") as refused:
        resolve({name: Value(text, "somewhere")})
    assert str(refused.value).isprintable()


@pytest.mark.parametrize(
    "endpoint",
    [
        "http://localhost:4566",
        "http://127.0.0.1:9000/",
        "https://[::1]:9000",
        "https://s3.eu-central-003.backblazeb2.com",
        "https://account.r2.cloudflarestorage.com",
        "https://gateway.example.org/s3/tenant-1",
        "https://minio",
    ],
)
def test_usual_endpoints_are_taken(endpoint: str) -> None:
    assert resolve({"endpoint": Value(endpoint, "")})[0].endpoint == endpoint


@pytest.mark.parametrize(
    "text, meaning",
    [("true", True), ("Yes", True), ("on", True), ("1", True), ("FALSE", False), ("no", False), ("off", False)]
    + [("0", False), ("", False)],
)
def test_truth_is_as_git_has_it(text: str, meaning: bool) -> None:
    assert resolve({"public": Value(text, "")})[0].public is meaning


@pytest.mark.parametrize(
    "text, size",
    [("0", 0), ("1023", 1023), ("1k", 1024), ("16MiB", 16777216), ("16 MiB".replace(" ", ""), 16777216)]
    + [("5GB", 5368709120), ("48t", 52776558133248), (" 7b ", 7)],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@given(st.text())
def test_any_query_gives_settings_or_a_printable_sentence(query: str) -> None:
    assert outcome(lambda: resolve(from_query(query, ".lfsconfig"))).isprintable()


@given(st.dictionaries(st.sampled_from([s.variable for s in SETTINGS]), st.text()))
def test_any_environment_gives_settings_or_a_printable_sentence(environ: dict[str, str]) -> None:
    assert outcome(lambda: resolve(from_environ(environ))).isprintable()


def outcome(ask: Callable[[], object]) -> str:
    """ "" for settings, and the sentence of a refusal."""
    try:
        ask()
    except UsageError as error:
        return str(error)
    return ""
