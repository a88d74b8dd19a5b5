"""What a repository may name by itself, and what the user has to trust first (S4, S5)."""

import pytest

from lfs_agent.errors import AgentError, TargetError
from lfs_agent.store.url import FolderTarget, S3Target, Target
from lfs_agent.trust import Claim, check, check_scheme, parse_identity

BUCKET = S3Target("cellar", "weights")
FOLDER = FolderTarget("/srv/share")


@pytest.mark.parametrize(
    "target, endpoint, identity",
    [
        (BUCKET, "", "amazonaws.com/cellar"),
        (BUCKET, "https://s3.example.org", "s3.example.org:443/cellar"),
        (BUCKET, "http://s3.example.org", "s3.example.org:80/cellar"),
        (BUCKET, "https://S3.Example.org:9000/", "s3.example.org:9000/cellar"),
        (BUCKET, "https://gateway.example.org/s3", "gateway.example.org:443/s3/cellar"),
        (BUCKET, "https://gateway.example.org/s3/Tenant-1/", "gateway.example.org:443/s3/Tenant-1/cellar"),
        (BUCKET, "http://[::1]:9000", "[::1]:9000/cellar"),
        (BUCKET, "https://amazonaws.com", "amazonaws.com:443/cellar"),
        (FOLDER, "", "dir::/srv/share"),
    ],
)
def test_identities(target: Target, endpoint: str, identity: str) -> None:
    claim = Claim(target, endpoint, url_committed=True, endpoint_committed=True)

    assert claim.identity == identity
    assert parse_identity(identity) == identity


@pytest.mark.parametrize(
    "text",
    [
        "",
        "cellar",
        "amazonaws.com",
        "amazonaws.com/",
        "example.org/cellar",
        "https://s3.example.org:9000/cellar",
        "s3.example.org:9000/Cellar",
        "s3.example.org:9000//cellar",
        "s3.example.org:9000/a b/cellar",
        "s3.example.org:9000/cellar\n",
        "s3.example.org:port/cellar",
        "user@s3.example.org:9000/cellar",
        "dir::share",
        "dir::/srv/../etc",
    ],
)
def test_what_is_no_identity_is_refused(text: str) -> None:
    with pytest.raises(AgentError) as refused:
        parse_identity(text)
    assert str(refused.value).isprintable()


@pytest.mark.parametrize(
    "claim",
    [
        Claim(BUCKET, "", url_committed=True, endpoint_committed=False),
        Claim(BUCKET, "https://s3.example.org", url_committed=True, endpoint_committed=False),
        Claim(BUCKET, "", url_committed=False, endpoint_committed=False),
        Claim(FOLDER, "", url_committed=False, endpoint_committed=False),
    ],
)
def test_what_the_user_names_and_amazon_need_no_word(claim: Claim) -> None:
    check(claim, trusted=())


@pytest.mark.parametrize(
    "claim, named",
    [
        (Claim(BUCKET, "https://s3.evil.example", True, True), "https://s3.evil.example"),
        (Claim(BUCKET, "http://127.0.0.1:9000", True, True), "http://127.0.0.1:9000"),
        (Claim(BUCKET, "http://localhost:9000", True, True), "http://localhost:9000"),
        (Claim(FOLDER, "", True, False), "/srv/share"),
    ],
)
def test_what_only_the_repository_names_is_refused_until_it_is_trusted(claim: Claim, named: str) -> None:
    with pytest.raises(TargetError) as refused:
        check(claim, trusted={"amazonaws.com/cellar", "s3.evil.example:443/other", "s3.evil.example:444/cellar"})
    assert named in str(refused.value)
    assert f"lfs-agent trust {claim.identity}" in str(refused.value)
    assert str(refused.value).endswith("; then run the same again")
    with pytest.raises(TargetError, match="git restore --source=HEAD :/"):
        check(claim, trusted=(), cloning=True)

    check(claim, trusted={claim.identity})


def test_a_push_elsewhere_than_before_is_refused_until_it_is_trusted() -> None:
    claim = Claim(S3Target("elsewhere", ""), "", url_committed=True, endpoint_committed=False)
    with pytest.raises(TargetError, match=r"pushed to elsewhere.*went to cellar.*trust amazonaws\.com/elsewhere"):
        check(claim, trusted=(), last_push="cellar")

    check(claim, trusted={"amazonaws.com/elsewhere"}, last_push="cellar")
    check(claim, trusted=(), last_push="elsewhere")
    check(claim, trusted=())


def test_a_push_elsewhere_that_the_user_names_is_the_user_s() -> None:
    check(Claim(S3Target("elsewhere", ""), "", False, False), trusted=(), last_push="cellar")


def test_a_push_from_the_user_s_server_to_one_of_the_repository_s_is_refused() -> None:
    claim = Claim(BUCKET, "https://s3.evil.example", url_committed=True, endpoint_committed=True)
    with pytest.raises(TargetError):
        check(claim, trusted=(), last_push="cellar")


@pytest.mark.parametrize(
    "endpoint",
    ["https://s3.example.org", "http://localhost:9000", "http://127.0.0.1:9000", "http://127.8.9.10", "http://[::1]:9"],
)
def test_endpoints_that_are_safe_to_talk_to(endpoint: str) -> None:
    check_scheme(endpoint, allow_http=False)


@pytest.mark.parametrize(
    "endpoint",
    [
        "http://s3.example.org",
        "http://10.0.0.1:9000",
        "http://127.0.0.1.evil.example",
        "http://127.evil.example.org",
        "http://127.0.0.256",
        "http://localhost.evil.example",
        "http://[::2]:9000",
    ],
)
def test_plain_http_beyond_this_host_is_the_user_s_to_allow(endpoint: str) -> None:
    with pytest.raises(TargetError, match=r"plain http.*git config --global lfs-agent.allowHttp true"):
        check_scheme(endpoint, allow_http=False)
    check_scheme(endpoint, allow_http=True)
