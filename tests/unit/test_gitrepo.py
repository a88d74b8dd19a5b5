"""What a repository is and says, asked of real git; and its configuration files, written by git (C3, C9)."""

import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from lfs_agent.errors import DiskError, UsageError
from lfs_agent.gitconfig import ConfigFile, Entry, parse_plain, read_config
from lfs_agent.gitrepo import LfsUrl, Repository, config_file
from lfs_agent.protocol import Operation


def git(cwd: Path, *arguments: str | Path) -> str:
    done = subprocess.run(["git", *arguments], cwd=cwd, check=True, capture_output=True, text=True)
    return done.stdout.rstrip("\n")


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder of its own for git."""
    home = tmp_path / "home"
    home.mkdir()
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_CONFIG_GLOBAL", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    (home / ".gitconfig").write_text("[user]\n\tname = Vera\n\temail = vera@example.com\n")
    return home


@pytest.fixture
def work(tmp_path: Path, machine: Path) -> Path:
    """A work tree."""
    work = tmp_path / "work"
    git(tmp_path, "init", "-q", "-b", "main", work)
    return work


def commit_lfsconfig(work: Path, text: str) -> None:
    (work / ".lfsconfig").write_text(text)
    git(work, "add", ".lfsconfig")
    git(work, "commit", "-qm", "name the store")


def resolved(cwd: Path, operation: Operation = "download", remote: str = "origin") -> tuple[str, bool]:
    found = Repository(cwd).lfs_url(operation, remote)
    return (found.url, found.committed) if found else ("", False)


# Where the objects are


@pytest.mark.parametrize(
    "own, committed, download, upload",
    [
        ([], "", "", ""),
        ([], "[lfs]\nurl = s3::c", "s3::c", "s3::c"),
        ([], "[lfs]\nurl = s3::c\npushurl = s3::p", "s3::c", "s3::p"),
        ([], '[remote "origin"]\nlfsurl = s3::o', "s3::o", "s3::o"),
        ([], '[lfs]\nurl = s3::c\n[remote "origin"]\nlfsurl = s3::o', "s3::c", "s3::c"),
        ([], '[remote "backup"]\nlfsurl = s3::b', "", ""),
        ([], '[remote "origin"]\nlfspushurl = s3::p\nurl = s3::u', "", ""),
        ([], "[LFS]\nURL = s3::c", "s3::c", "s3::c"),
        ([("lfs.url", "s3::own")], "[lfs]\nurl = s3::c\npushurl = s3::p", "s3::own", "s3::p"),
        ([("lfs.pushurl", "s3::own")], "[lfs]\nurl = s3::c\npushurl = s3::p", "s3::c", "s3::own"),
        ([("remote.origin.lfsurl", "s3::own")], "[lfs]\nurl = s3::c", "s3::c", "s3::c"),
        ([("remote.origin.lfsurl", "s3::own")], '[remote "origin"]\nlfsurl = s3::o', "s3::own", "s3::own"),
        ([("remote.origin.lfspushurl", "s3::own")], '[remote "origin"]\nlfsurl = s3::o', "s3::o", "s3::own"),
        ([("remote.origin.url", "s3::r")], "", "s3::r", "s3::r"),
        ([("remote.origin.url", "s3::r"), ("remote.origin.pushurl", "s3::p")], "", "s3::r", "s3::p"),
        ([("remote.origin.url", "s3::r")], "[lfs]\nurl = s3::c", "s3::c", "s3::c"),
        ([("url.s3::.insteadof", "s3://")], "[lfs]\nurl = s3://c/p?x=y", "s3::c/p?x=y", "s3::c/p?x=y"),
        (
            [("url.s3::.insteadof", "s3://"), ("url.s3::mirror/.insteadof", "s3://c/")],
            "[lfs]\nurl = s3://c/p",
            "s3::mirror/p",
            "s3::mirror/p",
        ),
        (
            [("url.s3::read/.insteadof", "s3::c/"), ("url.s3::w/.pushinsteadof", "s3::")],
            "[lfs]\nurl = s3::c/p",
            "s3::read/p",
            "s3::w/c/p",
        ),
    ],
)
def test_the_url_is_resolved_as_git_lfs_does(
    work: Path, own: list[tuple[str, str]], committed: str, download: str, upload: str
) -> None:
    for key, value in own:
        git(work, "config", key, value)
    if committed:
        (work / ".lfsconfig").write_text(committed)

    assert resolved(work)[0] == download
    assert resolved(work, "upload")[0] == upload


def test_who_says_so_is_kept(work: Path) -> None:
    (work / ".lfsconfig").write_text("[lfs]\nurl = s3::c")
    assert Repository(work).lfs_url("download", "origin") == LfsUrl("s3::c", ".lfsconfig: lfs.url", True)

    git(work, "config", "lfs.url", "s3::own")
    found = Repository(work).lfs_url("download", "origin")
    assert found is not None
    assert (found.url, found.committed) == ("s3::own", False)
    assert found.origin.endswith("config: lfs.url")


def test_a_url_in_place_of_a_remote_s_name(work: Path) -> None:
    assert resolved(work, "upload", "s3::c/p") == ("s3::c/p", False)
    assert resolved(work, "upload", "nowhere") == ("", False)


def test_lfsconfig_is_taken_from_the_work_tree_then_the_index_then_head(work: Path) -> None:
    commit_lfsconfig(work, "[lfs]\nurl = s3::in-head")
    (work / ".lfsconfig").write_text("[lfs]\nurl = s3::in-index")
    git(work, "add", ".lfsconfig")
    (work / ".lfsconfig").write_text("[lfs]\nurl = s3::in-tree")

    assert resolved(work) == ("s3::in-tree", True)
    (work / ".lfsconfig").unlink()
    assert resolved(work) == ("s3::in-index", True)
    git(work, "rm", "-q", "--cached", "-f", ".lfsconfig")
    assert resolved(work) == ("s3::in-head", True)


def test_a_bare_repository_has_only_head(work: Path, tmp_path: Path) -> None:
    commit_lfsconfig(work, "[lfs]\nurl = s3::in-head")
    bare = tmp_path / "bare.git"
    git(tmp_path, "clone", "-q", "--bare", work, bare)

    assert Repository(bare).worktree is None
    assert resolved(bare) == ("s3::in-head", True)


def test_what_lfsconfig_may_not_say_is_not_taken(work: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text("[lfs]\nurl = s3::included")
    (work / ".lfsconfig").write_text(
        f'[include]\npath = {other}\n[lfs-agent]\nendpoint = https://evil.example\nallowHttp = true\n'
        '[lfs "customtransfer.lfs-agent"]\npath = /bin/evil\n[remote "origin"]\nlfspushurl = s3::p\nurl = s3::u\n'
        '[url "s3::evil"]\ninsteadOf = s3::c\n[http]\nproxy = http://evil.example\n[lfs]\nstorage = /etc\n'
        '[remote "origin"]\nlfsurl = s3::o\n'
    )  # fmt: skip

    repo = Repository(work)

    assert repo.committed == [Entry("remote.origin.lfsurl", "s3::o", ".lfsconfig")]
    assert not any(entry.key.startswith("lfs-agent.") for entry in repo.config)
    assert repo.storage == work / ".git" / "lfs"


LINES = st.sampled_from(["[lfs]", "[remote]", "\turl = s3::cellar/w?region=eu-west-1", "pushUrl=s3::c", " a-1 =\t2"])
ODD = st.text(alphabet='aB1[].=:/ \t"\\#;\r\n-_é', max_size=8)


@given(st.lists(LINES, max_size=4), st.just("") | ODD)
@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_read_without_git_is_what_git_reads(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], odd: str
) -> None:
    content = "".join(f"{line}\n" for line in ["[lfs]", *lines, odd] if line).encode()
    plain = parse_plain(content)
    event("git" if plain is None else "plain")
    if plain is not None:
        file = tmp_path_factory.mktemp("config") / "config"
        file.write_bytes(content)
        assert plain == [(entry.key, entry.value) for entry in ConfigFile(file).entries()]


def test_a_broken_lfsconfig_is_not_passed_by(work: Path) -> None:
    commit_lfsconfig(work, "[lfs]\nurl = s3::in-head")
    (work / ".lfsconfig").write_text("[lfs\nurl = s3::c")

    with pytest.raises(UsageError, match=r"cannot read \.lfsconfig, and neither can git-lfs: .*bad config line"):
        resolved(work)


# Where things are


def test_a_subfolder_a_work_tree_and_a_bare_repository(work: Path, tmp_path: Path) -> None:
    commit_lfsconfig(work, "[lfs]\nurl = s3::c")
    (work / "a" / "b").mkdir(parents=True)
    git(work, "worktree", "add", "-q", tmp_path / "second", "-b", "second")

    assert Repository(work / "a" / "b").worktree == work
    assert Repository(work / "a" / "b").common_dir == work / ".git"
    assert Repository(tmp_path / "second").worktree == tmp_path / "second"
    assert Repository(tmp_path / "second").common_dir == work / ".git"
    assert Repository(tmp_path / "second").storage == work / ".git" / "lfs"
    assert config_file("local", tmp_path / "second").path == work / ".git" / "config"


def test_a_line_may_break_in_a_folder_s_name(work: Path, tmp_path: Path) -> None:
    commit_lfsconfig(work, "[lfs]\nurl = s3::c")
    moved = work.rename(tmp_path / "one\ntwo\n")
    git(moved, "worktree", "add", "-q", moved / "a\nb", "-b", "second")

    second = Repository(moved / "a\nb")
    assert (second.worktree, second.common_dir) == (moved / "a\nb", moved / ".git")
    assert Repository(moved / ".git").worktree is None
    assert Repository(moved / ".git").common_dir == moved / ".git"


def test_outside_of_a_repository_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a git repository"):
        _ = Repository(tmp_path).common_dir
    assert Repository(tmp_path).worktree is None
    assert Repository(tmp_path).get("user.name") is not None


@pytest.mark.parametrize(
    "value, folder",
    [
        ("", ".git/lfs"),
        ("store", ".git/store"),
        ("/srv/lfs", "/srv/lfs"),
        ("~/lfs", ".git/~/lfs"),  # git-lfs expands none
        ("~nobody-is-called-so/lfs", ".git/~nobody-is-called-so/lfs"),
    ],
)
def test_the_storage_is_where_git_lfs_has_it(work: Path, value: str, folder: str) -> None:
    if value:
        git(work, "config", "lfs.storage", value)

    assert Repository(work).storage == work / folder


@pytest.mark.parametrize(
    "value, mode",
    [("", None), ("umask", None), ("false", None), ("0", None), ("group", 0o660), ("true", 0o660), ("all", 0o664)]
    + [("0640", 0o640), ("660", 0o660), ("1660", 0o660), ("1", 0o660), ("2", 0o664), ("yes", 0o660)]
    + [("01", 0o660), ("0002", 0o664), ("00", None)],
)
def test_the_mode_of_a_shared_repository(work: Path, value: str, mode: int | None) -> None:
    if value:
        git(work, "config", "core.sharedRepository", value)

    assert Repository(work).modes.file == mode


def test_the_remote_that_git_lfs_would_take(work: Path) -> None:
    assert Repository(work).default_remote() == "origin"
    git(work, "remote", "add", "only", "/srv/only.git")
    assert Repository(work).default_remote() == "only"
    git(work, "remote", "add", "my.backup", "/srv/backup.git")
    assert Repository(work).remotes() == ["only", "my.backup"]
    assert Repository(work).default_remote() == "origin"
    git(work, "config", "branch.main.remote", "my.backup")
    assert Repository(work).default_remote() == "my.backup"


def test_git_s_own_http_settings_go_by_the_url(work: Path) -> None:
    git(work, "config", "http.proxy", "http://all:3128")
    git(work, "config", "http.https://s3.example.org.proxy", "http://one:3128")

    assert Repository(work).http_setting("https://s3.example.org/cellar", "proxy") == "http://one:3128"
    assert Repository(work).http_setting("https://other.example.org", "proxy") == "http://all:3128"
    assert Repository(work).http_setting("https://other.example.org", "sslcainfo") == ""


# Configuration


def test_keys_without_a_value_are_true_and_empty_ones_are_not(work: Path) -> None:
    with (work / ".git" / "config").open("a") as file:
        file.write('[lfs-agent]\n\tpublic\n\tpathStyle =\n\tlogFile = "a # b"\n')

    found = {entry.key: entry.value for entry in read_config(work) if entry.key.startswith("lfs-agent.")}

    assert found == {"lfs-agent.public": "true", "lfs-agent.pathstyle": "", "lfs-agent.logfile": "a # b"}


def test_later_files_of_the_configuration_win(work: Path, machine: Path) -> None:
    with (machine / ".gitconfig").open("a") as file:
        file.write("[lfs-agent]\n\tregion = global\n")
    assert Repository(work).value("lfs-agent.region") == "global"

    git(work, "config", "lfs-agent.region", "local")
    assert Repository(work).value("lfs-agent.region") == "local"
    assert Repository(work).value("lfs-agent.profile", "none") == "none"


def test_a_broken_configuration_is_a_sentence(work: Path) -> None:
    with (work / ".git" / "config").open("a") as file:
        file.write("[lfs-agent]\n\tpath_style = true\n")

    with pytest.raises(UsageError, match="bad config line"):
        read_config(work)


def test_which_file_each_scope_is(work: Path, machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = machine / ".config" / "git" / "config"
    assert config_file("local", work).path == work / ".git" / "config"
    assert config_file("global").path == machine / ".gitconfig"
    other.parent.mkdir(parents=True)
    other.touch()
    assert config_file("global").path == machine / ".gitconfig"
    (machine / ".gitconfig").unlink()
    assert config_file("global").path == other
    other.unlink()
    assert config_file("global").path == machine / ".gitconfig"
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(machine / "mine"))
    assert config_file("global").path == machine / "mine"
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", str(machine / "etc"))
    assert config_file("system").path == machine / "etc"


def test_a_file_is_written_by_git_and_only_where_something_changes(tmp_path: Path) -> None:
    file = ConfigFile(tmp_path / "config")
    assert (file.content, file.entries(), file.values("a.b")) == (b"", [], [])

    assert file.set("lfs.s3::.x", 'a "b" # c')
    assert not file.set("lfs.s3::.x", 'a "b" # c')
    assert file.add("lfs-agent.trusted", "[::1]:9000/a.b")
    assert file.add("lfs-agent.trusted", "[::1]:9000/axb")
    assert not file.add("lfs-agent.trusted", "[::1]:9000/a.b")
    assert file.values("lfs-agent.trusted") == ["[::1]:9000/a.b", "[::1]:9000/axb"]
    assert file.unset("lfs-agent.trusted", "[::1]:9000/a.b")
    assert not file.unset("lfs-agent.trusted", "[::1]:9000/a.b")
    assert file.values("lfs-agent.trusted") == ["[::1]:9000/axb"]
    assert file.values("lfs.s3::.x") == ['a "b" # c']


def test_a_file_is_replaced_whole_under_git_s_lock(tmp_path: Path) -> None:
    file = ConfigFile(tmp_path / "config")
    file.path.write_bytes(b"old")
    file.path.chmod(0o640)

    file.replace(b"new")

    assert file.content == b"new"
    assert file.path.stat().st_mode & 0o777 == 0o640
    assert [path.name for path in tmp_path.glob("config*")] == ["config"]
    (tmp_path / "config.lock").touch()
    with pytest.raises(DiskError, match=r"config\.lock exists"):
        file.replace(b"newer")
    assert file.content == b"new"


def test_a_program_that_is_not_there_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(UsageError, match="git is not on PATH"):
        read_config()
