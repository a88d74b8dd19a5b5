"""Which hosts of repositories elsewhere a user's git configuration names."""

import pytest

from lfs_agent.elsewhere import _is_named
from lfs_agent.gitconfig import Entry

REMOTE = [Entry("remote.origin.url", "git@git.example:you/cellar.git", "")]


@pytest.mark.parametrize(
    "url",
    [
        "https://git.example/team/cellar.git",
        "https://vera@GIT.example:8443/cellar.git",
        "ssh://git@git.example/cellar.git",
        "git@git.example:cellar.git",
        "https://git.example/team/cellar@2024.git",
        "ssh://git@git.example/cellar@b.example:c.git",
    ],
)
def test_a_host_of_a_remote_is_named(url: str) -> None:
    assert _is_named(url, REMOTE)


@pytest.mark.parametrize(
    "url",
    [
        "https://b.example/git.example/cellar.git",
        "https://git.example@b.example/cellar.git",
        "https://git.example:443@b.example/cellar.git",
        "https://git.example:x/y@b.example/cellar.git",
        "https://git.example?@b.example/cellar.git",
        "https://git.example#@b.example/cellar.git",
        "https://git.example\\@b.example/cellar.git",
        "git.example:x@b.example:cellar.git",
        "https://git.example.b.example/cellar.git",
        "/git.example/cellar.git",
    ],
)
def test_what_may_lead_to_another_host_is_not_named(url: str) -> None:
    assert not _is_named(url, REMOTE)
