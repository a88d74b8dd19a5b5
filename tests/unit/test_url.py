"""Which URL means which store, and which means none."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lfs_agent.errors import TargetError
from lfs_agent.store.url import FolderTarget, S3Target, Target, is_ours, parse_target

BUCKET_OF_63 = "a" * 63


@pytest.mark.parametrize(
    "url, target, written",
    [
        ("s3::cellar", S3Target("cellar", ""), "s3::cellar"),
        ("s3::cellar/", S3Target("cellar", ""), "s3::cellar"),
        ("s3::cellar/weights", S3Target("cellar", "weights"), "s3::cellar/weights"),
        ("s3::cellar/a/b.c/d-e_f/", S3Target("cellar", "a/b.c/d-e_f"), "s3::cellar/a/b.c/d-e_f"),
        ("s3::s3://cellar/weights", S3Target("cellar", "weights"), "s3::cellar/weights"),
        ("s3://cellar/weights", S3Target("cellar", "weights"), "s3::cellar/weights"),
        ("s3::my.cellar-1/(v1)@x", S3Target("my.cellar-1", "(v1)@x"), "s3::my.cellar-1/(v1)@x"),
        (f"s3::{BUCKET_OF_63}", S3Target(BUCKET_OF_63, ""), f"s3::{BUCKET_OF_63}"),
        ("s3::cellar?region=eu-central-1", S3Target("cellar", "", "region=eu-central-1"), "s3::cellar"),
        ("s3::cellar/w?a=b&c=d?e", S3Target("cellar", "w", "a=b&c=d?e"), "s3::cellar/w"),
        ("dir::/srv/share", FolderTarget("/srv/share"), "dir::/srv/share"),
        ("dir::/srv/share/", FolderTarget("/srv/share"), "dir::/srv/share"),
        ("dir:::///srv/share".replace(":::", "::"), FolderTarget("/srv/share"), "dir::/srv/share"),
        ("dir::/srv/My Models ü", FolderTarget("/srv/My Models ü"), "dir::/srv/My Models ü"),
        ("dir::/", FolderTarget("/"), "dir::/"),
        ("dir::C:/models", FolderTarget("C:/models"), "dir::C:/models"),
        ("dir::/srv/share?layout=flat", FolderTarget("/srv/share", "layout=flat"), "dir::/srv/share"),
    ],
)
def test_urls_of_stores(url: str, target: Target, written: str) -> None:
    assert is_ours(url)
    assert parse_target(url) == target
    assert str(target) == written


@pytest.mark.parametrize(
    "url",
    [
        "",
        "https://example.org/repo.git/info/lfs",
        "ssh://git@example.org/repo.git",
        "git@example.org:repo.git",
        "/srv/repo.git",
        "file:///srv/repo.git",
        "S3::cellar",
        "gs::cellar",
        "DIR::/srv",
    ],
)
def test_urls_of_others(url: str) -> None:
    assert not is_ours(url)
    with pytest.raises(TargetError, match="not a store"):
        parse_target(url)


@pytest.mark.parametrize(
    "url",
    [
        "s3::",
        "s3::/prefix",
        "s3::ab",
        "s3::" + "a" * 64,
        "s3::Cellar",
        "s3::cellar_1",
        "s3::-cellar",
        "s3::cellar-",
        "s3::.cellar",
        "s3::cel..lar",
        "s3::cellär",
        "s3::cel lar",
        "s3::cellar:9000/x",
        "s3::user@cellar/x",
        "s3::evil.example#/x",
        "s3::cellar\\x",
        "s3::cellar\n",
        "s3::cellar\x00/x",
        "s3::%2e%2e/x",
        "s3::arn:aws:s3:us-east-1:123456789012:accesspoint/mine",
    ],
)
def test_a_bucket_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(TargetError) as refused:
        parse_target(url)
    assert "bucket" in str(refused.value)
    assert str(refused.value).isprintable()


@pytest.mark.parametrize(
    "prefix",
    [
        "..",
        "../other",
        "a/../b",
        "a/..",
        "./a",
        "a/.",
        "/a",
        "a//b",
        "a b",
        "a\nb",
        "a\x1b[2Jb",
        "a\x7fb",
        "a%2e%2e",
        "a\\b",
        "a#b",
        "ä",
        "a" * 513,
    ],
)
def test_a_prefix_that_is_none_is_refused(prefix: str) -> None:
    with pytest.raises(TargetError, match="not a prefix") as refused:
        parse_target(f"s3::cellar/{prefix}")
    assert str(refused.value).isprintable()


@pytest.mark.parametrize(
    "folder",
    ["", "share", "./share", "../share", "~/share", "/srv/../etc", "/srv/..", "/srv/./x", "/srv/a\nb", "/srv/a\x1bb"]
    + ["/srv/a\x7fb", "/srv/a\u202eb", "C:share", "/srv/\udcff"],
)
def test_a_folder_that_is_none_is_refused(folder: str) -> None:
    with pytest.raises(TargetError) as refused:
        parse_target(f"dir::{folder}")
    assert str(refused.value).isprintable()


@given(st.sampled_from(["s3::", "s3::s3://", "dir::/", "dir::"]), st.text())
def test_any_text_is_a_store_or_refused(scheme: str, text: str) -> None:
    assert written_or_sentence(scheme + text).isprintable()


def written_or_sentence(url: str) -> str:
    try:
        target = parse_target(url)
    except TargetError as error:
        return str(error)
    assert parse_target(str(target)) == target._replace(query="")
    assert ".." not in str(target).split("/")
    return str(target)
