"""`lfs-agent init`, `config` and `trust`, and what a repository may decide by itself (C3-C6, C9, S5)."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from lfs_agent import cellar
from lfs_agent.gitrepo import Repository
from lfs_agent.parts import plan_parts
from tests.cellar import NOBODY_THERE, Cellar, new_share, random_bytes
from tests.machine import Home
from tests.servers import Server

Done = subprocess.CompletedProcess[str]


@pytest.fixture
def work(home: Home, tmp_path: Path) -> Path:
    """A fresh repository without a commit."""
    home.git("init", "-q", tmp_path / "work")
    return tmp_path / "work"


def agent(home: Home, *words: str | Path, cwd: Path | None = None, check: bool = True) -> Done:
    return home.run("lfs-agent", *words, cwd=cwd, check=check)


def said(home: Home, work: Path, key: str) -> str:
    """A value of the work tree's .lfsconfig."""
    return home.git("config", "--file", ".lfsconfig", "--get-all", key, cwd=work, check=False).stdout.rstrip("\n")


def staged(home: Home, work: Path) -> set[str]:
    return set(home.git("diff", "--cached", "--name-only", cwd=work).stdout.split())


def trusted(home: Home) -> list[str]:
    return home.git("config", "--global", "--get-all", "lfs-agent.trusted", check=False).stdout.split()


def sentence(done: Done, status: int) -> str:
    """The one line of a refusal."""
    assert (done.returncode, done.stdout) == (status, ""), done
    [line] = done.stderr.splitlines()
    return line


# init


def test_init_names_the_store_and_tracks_weights(home: Home, work: Path) -> None:
    (work / "a" / "b").mkdir(parents=True)
    home.install()

    done = agent(home, "init", "s3::cellar/weights?region=eu-central-1", cwd=work / "a" / "b")

    assert said(home, work, "lfs.url") == "s3::cellar/weights?region=eu-central-1"
    assert staged(home, work) == {".lfsconfig", ".gitattributes"}
    attributes = home.git("check-attr", "filter", "m.safetensors", "m.pt", "a/b/m.onnx", "m.txt", cwd=work).stdout
    assert [line.rpartition(" ")[2] for line in attributes.splitlines()] == ["lfs", "lfs", "lfs", "unspecified"]
    assert "git commit" in done.stdout
    assert "git push" in done.stdout
    assert done.stderr == ""
    assert trusted(home) == []


def test_init_believes_no_link_to_attributes_which_git_does_not_follow(home: Home, work: Path, tmp_path: Path) -> None:
    """It could lead to a device without an end."""
    (tmp_path / "attributes").write_text("*.pt filter=lfs\n")
    (work / "rack").mkdir()
    (work / "rack" / ".gitattributes").symlink_to(tmp_path / "attributes")
    (work / "rack" / "weights.pt").write_bytes(b"weights")

    agent(home, "init", "s3::cellar/weights", cwd=work)

    assert "filter: lfs" in home.git("check-attr", "filter", "rack/weights.pt", cwd=work).stdout


def test_init_twice_is_once(home: Home, work: Path) -> None:
    agent(home, "init", "s3::cellar/weights", cwd=work)
    home.git("commit", "-qm", "name the store", cwd=work)

    done = agent(home, "init", "s3::cellar/weights/", cwd=work)

    assert home.git("status", "--porcelain", cwd=work).stdout == ""
    assert "git commit" not in done.stdout


def test_an_init_that_broke_off_is_finished_by_the_next(home: Home, work: Path) -> None:
    lock = work / ".git" / "index.lock"
    lock.touch()
    assert agent(home, "init", "s3::cellar/weights", cwd=work, check=False).returncode == 3
    lock.unlink()

    agent(home, "init", "s3::cellar/weights", cwd=work)

    assert staged(home, work) == {".lfsconfig", ".gitattributes"}
    assert (work / ".gitattributes").read_text().count("*.bin ") == 1


def test_what_force_cannot_replace_is_named(home: Home, work: Path) -> None:
    home.install()
    (work / ".lfsconfig").write_text("[lfs]\n\turl = s3::old\n\tpushurl = dir::/srv/share\n")
    home.git("config", "lfs.url", "s3::mine", cwd=work)

    done = agent(home, "init", "s3::cellar", "--force", cwd=work)

    pushurl, mine = done.stderr.splitlines()
    assert pushurl == "not replaced: .lfsconfig sends uploads elsewhere: lfs.pushurl = dir::/srv/share"
    assert "says lfs.url = s3::mine, which git-lfs takes before .lfsconfig" in mine


def test_init_names_a_hook_by_which_a_push_sends_nothing(home: Home, work: Path) -> None:
    home.install()
    hook = work / ".git" / "hooks" / "pre-push"
    hook.write_text("#!/bin/sh\nexit 0\n")
    hook.chmod(0o755)

    assert f"{hook} is not git-lfs's" in agent(home, "init", "s3::cellar", cwd=work).stderr


def test_init_says_what_a_machine_still_needs(home: Home, work: Path) -> None:
    done = agent(home, "init", "s3::cellar", cwd=work)

    assert "lfs-agent install" in done.stderr


def test_init_says_that_a_folder_is_not_there_yet(home: Home, work: Path, tmp_path: Path) -> None:
    home.install()
    share = tmp_path / "share"

    done = agent(home, "init", f"dir::{share}", cwd=work)
    told = (
        f"the first push would fail: there is no folder {share}: mount it, or create it (mkdir -p {share}/.lfs-agent)"
    )
    assert done.stderr == f"{told}\n"
    assert not share.exists()

    (share / ".lfs-agent").mkdir(parents=True)
    assert agent(home, "init", f"dir::{share}", cwd=work).stderr == ""


def test_init_makes_an_empty_folder_a_store(home: Home, work: Path, tmp_path: Path) -> None:
    """What no init has made one would be taken for a share that is not mounted."""
    home.install()
    (share := tmp_path / "share").mkdir()
    (share / "lost+found").mkdir()
    told = f"{share} is a store now: it was empty"

    assert f"would be done: {told}" in agent(home, "init", f"dir::{share}", "--dry-run", cwd=work).stdout.splitlines()
    assert [path.name for path in share.iterdir()] == ["lost+found"]
    assert told in agent(home, "init", f"dir::{share}", cwd=work).stdout.splitlines()
    assert (share / ".lfs-agent").is_dir()
    assert told not in agent(home, "init", f"dir::{share}", cwd=work).stdout


def test_init_leaves_a_folder_that_is_not_empty_as_it_is(home: Home, work: Path, tmp_path: Path) -> None:
    home.install()
    (share := tmp_path / "share").mkdir()
    (share / "notes.txt").write_text("somebody's")

    assert agent(home, "init", f"dir::{share}", cwd=work).stderr == ""
    assert [path.name for path in share.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    "path, text, added",
    [
        (".gitattributes", "*.safetensors filter=lfs diff=lfs merge=lfs -text\n", False),
        (".gitattributes", "*.tar.gz  filter=lfs -text", False),
        ("vit-l/.gitattributes", "*.safetensors filter=lfs diff=lfs merge=lfs -text\n", False),
        (".gitattributes", "*.png binary", True),
        (".gitattributes", "# *.bin filter=lfs\n*.py text\n", True),
    ],
)
def test_init_tracks_nothing_where_something_is_tracked(
    home: Home, work: Path, path: str, text: str, added: bool
) -> None:
    (work / path).parent.mkdir(exist_ok=True)
    (work / path).write_text(text)

    agent(home, "init", "s3::cellar", cwd=work)

    assert (work / path).read_text().startswith(text)
    assert ("*.gguf filter=lfs" in (work / path).read_text()) is added
    assert staged(home, work) == {".lfsconfig", ".gitattributes"} if added else {".lfsconfig"}
    assert home.git("check-attr", "-a", "x.png", cwd=work).stdout.count("binary") == text.count("png")


@pytest.mark.parametrize("committed", [True, False])
def test_init_says_how_weights_that_git_itself_has_become_pointers(home: Home, work: Path, committed: bool) -> None:
    (work / "vit-l").mkdir()
    for name in ("a.bin", "vit-l/b c.safetensors", "notes.txt"):
        (work / name).write_bytes(random_bytes(3000, seed=1))
    home.git("add", "-A", cwd=work)
    if committed:
        home.git("commit", "-qm", "weights", cwd=work)
    home.install()

    done = agent(home, "init", "s3::cellar/weights", cwd=work / "vit-l")

    mend, commit, *_ = [line.strip().partition("   (")[0] for line in done.stdout.partition("next:\n")[2].splitlines()]
    assert "(2 files are in git itself: " in done.stdout
    home.run("sh", "-c", f"{mend} && {commit}", cwd=work / "vit-l")
    pointers = home.git("lfs", "ls-files", "--name-only", cwd=work).stdout
    assert pointers.splitlines() == ["a.bin", "vit-l/b c.safetensors"]
    assert home.git("status", "--porcelain", cwd=work).stdout == ""
    again = agent(home, "init", "s3::cellar/weights", cwd=work)
    assert "renormalize" not in again.stdout


def test_init_fetches_nothing_for_a_hint(home: Home, work: Path, tmp_path: Path) -> None:
    (work / "vit-l").mkdir()
    (work / "vit-l" / "a.bin").write_bytes(random_bytes(3000, seed=1))
    home.git("add", "-A", cwd=work)
    home.git("commit", "-qm", "weights", cwd=work)
    home.git("config", "uploadpack.allowFilter", "true", cwd=work)
    words = ("clone", "-q", "--filter=blob:none", "--sparse", f"file://{work}", tmp_path / "part")
    home.git(*words)
    home.git("lfs", "update", cwd=tmp_path / "part")  # where that has not been done, its need is looked for in HEAD
    lacking = ("rev-list", "--objects", "--all", "--missing=print")
    before = home.git(*lacking, cwd=tmp_path / "part").stdout
    assert "\n?" in before

    agent(home, "init", "s3::cellar/weights", cwd=tmp_path / "part")

    assert home.git(*lacking, cwd=tmp_path / "part").stdout == before


def test_init_does_not_replace_another_store_unasked(home: Home, work: Path) -> None:
    agent(home, "init", "s3::cellar", cwd=work)

    refused = sentence(agent(home, "init", "s3::elsewhere", cwd=work, check=False), 2)
    assert "s3::cellar" in refused
    assert "--force" in refused
    assert said(home, work, "lfs.url") == "s3::cellar"

    agent(home, "init", "s3::elsewhere", "--force", cwd=work)
    assert said(home, work, "lfs.url") == "s3::elsewhere"


def test_init_tells_of_a_setting_that_would_win(home: Home, work: Path) -> None:
    home.git("config", "lfs.url", "https://lfs.example.org/mine", cwd=work)

    refused = sentence(agent(home, "init", "s3::cellar", cwd=work, check=False), 2)

    assert "https://lfs.example.org/mine" in refused
    assert not (work / ".lfsconfig").exists()


def test_without_a_work_tree_or_a_repository_there_is_a_sentence(home: Home, tmp_path: Path) -> None:
    home.git("init", "-q", "--bare", tmp_path / "bare.git")

    assert "in a clone" in sentence(agent(home, "init", "s3::cellar", cwd=tmp_path / "bare.git", check=False), 2)
    for words in (["init", "s3::cellar"], ["trust"], ["trust", "--remove"]):
        refused = sentence(agent(home, *words, check=False), 2)
        assert "not a git repository" in refused
        assert refused.endswith("; change into one, or: git init")


@pytest.mark.parametrize(
    "url, word",
    [
        ("https://example.org/repo.git/info/lfs", "not a store"),
        ("s3::Cellar", "bucket"),
        ("s3::cellar/../other", "prefix"),
        ("s3::cellar/a\x1b[2J", "prefix"),
        ("s3::cellar?region=us-east-1.evil.example/", "region"),
        ("s3::cellar?endpoint=https://a@evil.example", "endpoint"),
        ("s3::cellar?regoin=eu-central-1", "did you mean region"),
        ("s3::cellar?profile=admin", "lfs-agent.profile"),
        ("s3::cellar?ca=/tmp/ca.pem", "lfs-agent.ca"),
        ("s3::cellar?storage_class=GLACIER", "lfs-agent.storageClass"),
        ("s3::cellar?region", "key=value"),
        ("dir::share", "absolute"),
        ("dir::/srv/share?region=eu-central-1", "layout"),
    ],
)
def test_init_takes_only_what_may_be_committed(home: Home, work: Path, url: str, word: str) -> None:
    refused = sentence(agent(home, "init", url, cwd=work, check=False), 2)

    assert word in refused
    assert refused.isprintable()
    assert not (work / ".lfsconfig").exists()
    assert not (work / ".gitattributes").exists()


@pytest.mark.parametrize("name", [".lfsconfig", ".gitattributes"])
def test_init_hides_no_committed_file_behind_a_new_one(home: Home, work: Path, tmp_path: Path, name: str) -> None:
    """A sparse checkout may leave out what git-lfs and git read all the same, from the index, until there is a file."""
    (work / "notes.txt").touch()
    agent(home, "init", "s3::cellar/weights", cwd=work)
    home.git("add", "-A", cwd=work)
    home.git("commit", "-qm", "name the store", cwd=work)
    home.git("sparse-checkout", "set", "--no-cone", "/*", f"!/{name}", cwd=work)

    words = ("init", f"dir::{tmp_path}/backup", "--remote", "backup")
    refused = sentence(agent(home, *words, cwd=work, check=False), 2)
    assert refused == (
        f"lfs-agent init: {name} is committed, and left out of this work tree: a new one would hide what it says; "
        f"run git sparse-checkout add /{name}, and this again"
    )
    assert (home.git("status", "--porcelain", cwd=work).stdout, trusted(home)) == ("", [])

    home.git("sparse-checkout", "add", f"/{name}", cwd=work)
    agent(home, *words, cwd=work)
    assert said(home, work, "remote.origin.lfsurl") == "s3::cellar/weights"


def test_init_follows_no_link_out_of_the_repository(home: Home, work: Path) -> None:
    victim = home.folder / "victim"
    victim.write_text("mine")
    (work / ".lfsconfig").symlink_to(victim)

    assert "symbolic link" in sentence(agent(home, "init", "s3::cellar", cwd=work, check=False), 2)
    assert victim.read_text() == "mine"


@pytest.mark.parametrize(
    "url, identity",
    [
        ("s3::cellar?endpoint=https://S3.example.org", "s3.example.org:443/cellar"),
        ("s3::cellar/w?endpoint=http://127.0.0.1:9000&region=us-east-1", "127.0.0.1:9000/cellar"),
        ("dir::/srv/share", "dir::/srv/share"),
    ],
)
def test_who_names_a_store_trusts_it(home: Home, work: Path, url: str, identity: str) -> None:
    done = agent(home, "init", url, cwd=work)

    assert trusted(home) == [identity]
    assert f"{identity} is trusted now" in done.stdout
    agent(home, "init", url, cwd=work)
    assert trusted(home) == [identity]


def test_plain_http_beyond_this_host_is_not_committed_unless_the_user_allows_it(home: Home, work: Path) -> None:
    url = "s3::cellar?endpoint=http://s3.example.org"

    refused = agent(home, "init", url, cwd=work, check=False)
    assert "plain http" in refused.stderr
    assert refused.returncode == 3
    assert not (work / ".lfsconfig").exists()

    home.git("config", "--global", "lfs-agent.allowHttp", "true")
    agent(home, "init", url, cwd=work)


def test_a_second_remote_gets_a_store_of_its_own(home: Home, work: Path) -> None:
    for remote in ("origin", "mirror", "backup"):
        home.git("remote", "add", remote, f"/srv/{remote}.git", cwd=work)
    agent(home, "init", "s3::cellar/weights", cwd=work)

    done = agent(home, "init", "s3::backup", "--remote", "backup", cwd=work)

    assert said(home, work, "lfs.url") == ""
    assert said(home, work, "remote.origin.lfsurl") == "s3::cellar/weights"
    assert said(home, work, "remote.mirror.lfsurl") == "s3::cellar/weights"
    assert said(home, work, "remote.backup.lfsurl") == "s3::backup"
    assert "remote.origin.lfsurl = s3::cellar/weights, which was lfs.url" in done.stdout

    assert trusted(home) == ["amazonaws.com/backup"]  # no push to it asks: the user has named it

    before = (work / ".lfsconfig").read_bytes()
    agent(home, "init", "s3::backup", "--remote", "backup", cwd=work)
    assert (work / ".lfsconfig").read_bytes() == before

    assert "s3::backup" in sentence(agent(home, "init", "s3::x-1", "--remote", "backup", cwd=work, check=False), 2)
    assert "--remote" in sentence(agent(home, "init", "s3::for-all", cwd=work, check=False), 2)


def test_a_second_remote_s_next_steps_bring_the_objects_that_are_not_here(cellar: Cellar, tmp_path: Path) -> None:
    share, backup = tmp_path / "share", tmp_path / "backup.git"
    share.mkdir()
    cellar.home.git("init", "-q", "--bare", backup)
    old = cellar.add("model.pt", 1000, seed=1)
    new = cellar.add("model.pt", 1000, seed=2)
    cellar.push()
    cellar.local_object(old).unlink()
    cellar.git("remote", "add", "backup", str(backup))

    done = agent(cellar.home, "init", f"dir::{share}", "--remote", "backup", cwd=cellar.work)

    steps = [line.partition("   (")[0] for line in done.stdout.partition("next:\n")[2].splitlines()]
    assert "  git lfs fetch --all origin" in steps
    for step in steps:
        cellar.home.run("sh", "-c", step, cwd=cellar.work)
    assert {file.name for file in share.glob("??/??/*")} == {old, new}


def test_the_only_remote_s_store_is_not_replaced_unasked(home: Home, work: Path) -> None:
    agent(home, "init", "s3::cellar", cwd=work)

    sentence(agent(home, "init", "s3::elsewhere", "--remote", "origin", cwd=work, check=False), 2)
    agent(home, "init", "s3::cellar", "--remote", "origin", cwd=work)

    assert (work / ".lfsconfig").read_text() == '[remote "origin"]\n\tlfsurl = s3::cellar\n'


def test_what_the_repository_says_cannot_paint_the_terminal(home: Home, work: Path) -> None:
    (work / ".lfsconfig").write_text('[lfs]\n\turl = "s3::cellar\x1b[2J"\n')

    done = agent(home, "init", "dir::/srv/share", "--remote", "backup", cwd=work)

    assert "remote.origin.lfsurl = s3::cellar?[2J" in done.stdout
    assert "\x1b" not in done.stdout + done.stderr


# config


def origins(home: Home, *words: str, cwd: Path | None = None) -> dict[str, tuple[object, str]]:
    """`lfs-agent config --json`: value and origin by name."""
    rows = [json.loads(line) for line in agent(home, "config", "--json", *words, cwd=cwd).stdout.splitlines()]
    return {row["name"]: (row["value"], row["origin"]) for row in rows}


def test_parts_grow_where_nobody_has_set_their_size(home: Home, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home.git("config", "lfs.url", "s3::cellar/w", cwd=work)
    for name, value in home.environ.items():
        monkeypatch.setenv(name, value)

    def size_of_parts() -> int:
        return plan_parts(6 << 30, cellar.Cellar(Repository(work), "upload", "origin", {}).limits).part_size

    assert size_of_parts() == 64 << 20
    home.git("config", "lfs-agent.partSize", "16MiB", cwd=work)
    assert size_of_parts() == 16 << 20


def test_every_source_is_named(home: Home, work: Path) -> None:
    url = "s3::cellar/w?region=eu-west-1&layout=flat&path_style=true"
    agent(home, "init", url, cwd=work)
    (home.folder / ".aws").mkdir()
    (home.folder / ".aws" / "config").write_text(
        "[profile red]\nregion = ap-south-1\nendpoint_url = https://red.example.org\nca_bundle = /etc/red.pem\n"
    )
    home.environ |= {"AWS_PROFILE": "red", "LFS_AGENT_STREAMS": "4"}
    for key, value in {
        "lfs-agent.partSize": "64m",
        "lfs-agent.layout": "git-lfs",
        "lfs-agent.cellar.deadline": "60",
        "lfs-agent.deadline": "70",
        "lfs-agent.other.readTimeout": "1",
    }.items():
        home.git("config", "--global", key, value)
    file = f"git config, file:{home.folder / '.gitconfig'}"

    found = origins(home, cwd=work)

    assert found["store"] == (url, ".lfsconfig: lfs.url")
    assert found["streams"] == (4, "environment: LFS_AGENT_STREAMS")
    assert found["part_size"] == (67108864, file)
    assert found["layout"] == ("git-lfs", file)
    assert found["deadline"] == (60.0, file)
    assert found["read_timeout"] == (60.0, "default")
    assert found["region"] == ("eu-west-1", ".lfsconfig: lfs.url")
    assert found["path_style"] == (True, ".lfsconfig: lfs.url")
    assert found["endpoint"] == ("https://red.example.org", "AWS configuration, profile red")
    assert found["profile"] == ("red", "environment: AWS_PROFILE")
    assert found["ca"] == ("/etc/red.pem", "AWS configuration, profile red")
    assert found["storage_class"] == (None, "default")


def test_what_a_person_reads(home: Home, work: Path) -> None:
    agent(home, "init", "s3::cellar/w", cwd=work)
    home.environ |= {"AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9000", "AWS_DEFAULT_REGION": "eu-north-1"}

    lines = agent(home, "config", "--show-origin", cwd=work).stdout.splitlines()
    table = {name: cells for name, *cells in (line.split("\t") for line in lines)}

    assert table["store"] == ["s3::cellar/w", ".lfsconfig: lfs.url"]
    assert table["endpoint"] == ["http://127.0.0.1:9000", "environment: AWS_ENDPOINT_URL_S3"]
    assert table["region"] == ["eu-north-1", "environment: AWS_DEFAULT_REGION"]
    assert table["path_style"] == ["true", "default"]
    assert table["part_size"] == ["16MiB", "default"]
    assert table["deadline"] == ["300", "default"]
    plain = agent(home, "config", cwd=work).stdout
    assert ".lfsconfig" not in plain
    assert "part_size\t16MiB\n" in plain


def test_outside_of_a_repository_and_without_a_store(home: Home, work: Path) -> None:
    home.git("remote", "add", "origin", "https://example.org/repo.git", cwd=work)
    home.environ["LFS_AGENT_ENDPOINT"] = "https://s3.example.org"

    for cwd in (None, work):
        found = origins(home, cwd=cwd)
        assert "store" not in found
        assert found["endpoint"] == ("https://s3.example.org", "environment: LFS_AGENT_ENDPOINT")
        assert found["path_style"] == (True, "default")
        assert found["region"] == ("us-east-1", "default")
    refused = sentence(agent(home, "config", "--remote", "nix", cwd=work, check=False), 2)
    assert "there is no remote 'nix' here (there is: origin)" in refused


def test_the_store_of_a_remote_and_of_a_push(home: Home, work: Path) -> None:
    for remote, url in (("origin", "s3::cellar"), ("backup", "s3::backup")):
        home.git("remote", "add", remote, f"/srv/{remote}.git", cwd=work)
        agent(home, "init", url, "--remote", remote, cwd=work)
    home.git("config", "remote.backup.lfspushurl", "dir::/srv/share?layout=flat", cwd=work)

    assert origins(home, cwd=work)["store"] == ("s3::cellar", ".lfsconfig: remote.origin.lfsurl")
    assert origins(home, "--remote", "backup", cwd=work)["store"][0] == "s3::backup"
    found = origins(home, "--remote", "backup", "--push", cwd=work)
    assert found["store"][0] == "dir::/srv/share?layout=flat"
    assert found["layout"][0] == "flat"


def test_the_cellar_s_profile_is_used_where_the_user_has_it_and_chooses_none(home: Home, work: Path) -> None:
    agent(home, "init", "s3::cellar", cwd=work)
    (work / ".mlcellar.toml").write_text('[aws]\nprofile = "team"\n')
    assert origins(home, cwd=work)["profile"] == (None, "default")

    (home.folder / ".aws").mkdir()
    (home.folder / ".aws" / "config").write_text("[profile team]\nregion = sa-east-1\n[profile own]\n")
    assert origins(home, cwd=work)["profile"] == ("team", ".mlcellar.toml")
    assert origins(home, cwd=work)["region"] == ("sa-east-1", "AWS configuration, profile team")

    home.environ["AWS_PROFILE"] = "own"
    assert origins(home, cwd=work)["profile"] == ("own", "environment: AWS_PROFILE")


def test_no_secret_is_shown(home: Home, work: Path) -> None:
    canary = "Canary/Secret+0123456789"
    agent(home, "init", "s3::cellar", cwd=work)
    home.environ |= {"AWS_ACCESS_KEY_ID": "AKIACANARY", "AWS_SECRET_ACCESS_KEY": canary, "AWS_SESSION_TOKEN": canary}
    (home.folder / ".aws").mkdir()
    (home.folder / ".aws" / "credentials").write_text(
        f"[default]\naws_access_key_id = AKIACANARY\naws_secret_access_key = {canary}\n"
    )
    home.git("config", "--global", "http.proxy", f"http://user:{canary}@proxy.example.org")

    for words in (["--json"], ["--show-origin"], ["--push"]):
        done = agent(home, "config", *words, cwd=work)
        assert "Canary" not in done.stdout + done.stderr
        assert "AKIA" not in done.stdout + done.stderr


@pytest.mark.parametrize("committed", ["link", "long"])
def test_a_cellar_s_file_without_an_end_is_not_read(home: Home, work: Path, committed: str) -> None:
    agent(home, "init", "s3::cellar", cwd=work)
    (home.folder / ".aws").mkdir()
    (home.folder / ".aws" / "config").write_text("[profile team]\n")
    text = '[aws]\nprofile = "team"\n'
    if committed == "link":
        (home.folder / "file.toml").write_text(text)
        (work / ".mlcellar.toml").symlink_to(home.folder / "file.toml")
    else:
        (work / ".mlcellar.toml").write_text(text + "#" * (1 << 16))

    assert origins(home, cwd=work)["profile"] == (None, "default")


@pytest.mark.parametrize(
    "environ, git, committed, words",
    [
        ({"AWS_ENDPOINT_URL": "localhost:9000"}, {}, "", ["AWS's own settings", "localhost:9000", "https://"]),
        ({"AWS_ENDPOINT_URL_S3": "http://host:99999"}, {}, "", ["AWS's own settings", "http://host:99999"]),
        ({"LFS_AGENT_REGOIN": "x"}, {}, "", ["LFS_AGENT_REGOIN", "LFS_AGENT_REGION"]),
        ({"LFS_AGENT_REGION": "a.b/"}, {}, "", ["environment: LFS_AGENT_REGION", "a.b/"]),
        ({}, {"lfs-agent.storagClass": "x"}, "", [".gitconfig", "lfs-agent.storagclass", "lfs-agent.storageClass"]),
        ({}, {"lfs-agent.cellar.bucket": "x"}, "", [".gitconfig", "lfs-agent.cellar.bucket"]),
        ({}, {"lfs-agent.streams": "0"}, "", [".gitconfig", "streams"]),
        ({}, {}, "profile=admin", [".lfsconfig", "profile", "lfs-agent.profile"]),
        ({}, {}, "sse_kms_key_id=x", [".lfsconfig", "sse_kms_key_id"]),
        ({}, {}, "region=us-east-1.evil.example/", [".lfsconfig", "region"]),
    ],
)
def test_what_is_wrong_is_named(
    home: Home, work: Path, environ: dict[str, str], git: dict[str, str], committed: str, words: list[str]
) -> None:
    (work / ".lfsconfig").write_text(f"[lfs]\n\turl = s3::cellar?{committed}\n")
    home.environ |= environ
    for key, value in git.items():
        home.git("config", "--global", key, value)

    refused = sentence(agent(home, "config", cwd=work, check=False), 2)

    assert all(word in refused for word in words), refused


# trust


def test_trust_shows_and_keeps_what_the_repository_names(home: Home, work: Path) -> None:
    (work / ".lfsconfig").write_text(
        "[lfs]\n\turl = s3::cellar?endpoint=https://s3.example.org:9000\n\tpushurl = dir::/srv/share\n"
    )

    done = agent(home, "trust", cwd=work)

    assert ".lfsconfig: lfs.url: s3::cellar at https://s3.example.org:9000" in done.stdout
    assert ".lfsconfig: lfs.pushurl: dir::/srv/share" in done.stdout
    assert trusted(home) == ["s3.example.org:9000/cellar", "dir::/srv/share"]
    assert "already" in agent(home, "trust", cwd=work).stdout
    assert trusted(home) == agent(home, "trust", "--list").stdout.split()

    agent(home, "trust", "--remove", cwd=work)
    assert trusted(home) == []
    assert agent(home, "trust", "--list").stdout == ""


def test_what_another_file_trusts_is_not_called_untrusted(home: Home) -> None:
    other = home.folder / "other"
    home.git("config", "--file", other, "lfs-agent.trusted", "amazonaws.com/cellar")
    home.git("config", "--global", "include.path", other)

    assert agent(home, "trust", "--list").stdout.split() == ["amazonaws.com/cellar"]
    refused = sentence(agent(home, "trust", "--remove", "amazonaws.com/cellar", check=False), 2)
    assert f"is still trusted: take it out of {other}" in refused


def test_what_the_user_names_needs_no_trust(home: Home, work: Path) -> None:
    home.git("config", "lfs.url", "dir::/srv/share", cwd=work)

    assert "named by you" in agent(home, "trust", cwd=work).stdout
    assert trusted(home) == []


@pytest.mark.parametrize(
    "words, identity",
    [
        ("s3.example.org:9000/cellar", "s3.example.org:9000/cellar"),
        ("amazonaws.com/cellar", "amazonaws.com/cellar"),
        ("dir::/srv/share/", "dir::/srv/share"),
        ("s3::cellar/weights", "amazonaws.com/cellar"),
        ("s3::cellar/weights?endpoint=https://s3.example.org", "s3.example.org:443/cellar"),
        ("s3::cellar?endpoint=https://s3.example.org/tenant/", "s3.example.org:443/tenant/cellar"),
        ("dir::/srv/share?layout=flat", "dir::/srv/share"),
    ],
)
def test_trust_takes_identities_and_urls(home: Home, words: str, identity: str) -> None:
    home.git("config", "--global", "--add", "lfs-agent.trusted", "other.example.org:443/x-1")

    agent(home, "trust", words)
    agent(home, "trust", words)
    assert trusted(home) == ["other.example.org:443/x-1", identity]

    agent(home, "trust", "--remove", words)
    assert trusted(home) == ["other.example.org:443/x-1"]
    assert "was not trusted" in agent(home, "trust", "--remove", words).stdout


@pytest.mark.parametrize(
    "words", ["cellar", "https://s3.example.org/cellar", "a:b/cellar", "dir::share", "s3.example.org"]
)
def test_trust_takes_nothing_else(home: Home, words: str) -> None:
    sentence(agent(home, "trust", words, check=False), 2)
    assert trusted(home) == []


def test_trust_where_nothing_is_named_is_a_sentence(home: Home, work: Path) -> None:
    assert "lfs-agent init" in sentence(agent(home, "trust", cwd=work, check=False), 3)


# A cellar's life


def name_store(cellar: Cellar, url: str) -> None:
    """Commits another `lfs.url`, and an object; git-lfs is not asked."""
    (cellar.work / ".lfsconfig").write_text(f"[lfs]\n\turl = {url}\n")
    cellar.add("weights.bin", 1000, seed=7)


def clone(home: Home, origin: Path, to: Path) -> Done:
    return home.git("clone", "-q", origin, to, check=False)


def log_in(home: Home, server: Server, *, endpoint: bool) -> None:
    """Credentials of the server; its address only where `endpoint`."""
    known = server.environ()
    home.environ |= known if endpoint else {name: known[name] for name in known if "ENDPOINT" not in name}


def allow(home: Home, refusal: str) -> None:
    """Runs the command that a refusal names."""
    found = re.search(r"lfs-agent trust ([^\s;]+)", refusal)
    assert found is not None, refusal
    agent(home, "trust", found[1])


def test_a_plain_clone_has_the_weights(cellar: Cellar, any_server: Server, second_home: Home, tmp_path: Path) -> None:
    cellar.add("vit-l/model.safetensors", 300_000, seed=1)
    cellar.push()
    log_in(second_home, any_server, endpoint=True)
    second_home.install()

    second_home.git("clone", "-q", cellar.origin, tmp_path / "clone")

    assert (tmp_path / "clone" / "vit-l/model.safetensors").read_bytes() == random_bytes(300_000, 1)
    local = second_home.git("config", "--local", "--list", cwd=tmp_path / "clone").stdout
    assert "agent" not in local


def test_one_command_and_one_commit_in_an_existing_cellar(
    home: Home, any_server: Server, bucket: str, tmp_path: Path
) -> None:
    work, origin = tmp_path / "work", tmp_path / "origin.git"
    log_in(home, any_server, endpoint=True)
    home.install()
    home.git("init", "-q", "--bare", origin)
    home.git("init", "-q", work)
    home.git("remote", "add", "origin", origin, cwd=work)
    attributes = "".join(f"*.{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in ("bin", "onnx", "pth"))
    (work / ".gitattributes").write_text(attributes)
    (work / ".mlcellar.toml").write_text('[ml_cellar]\nuse_custom_transfer_agent = true\n[aws]\nprofile = "absent"\n')
    (work / "vit-l").mkdir()
    (work / "vit-l" / "model.pth").write_bytes(random_bytes(5000, 3))

    agent(home, "init", f"s3::{bucket}/cellar", cwd=work)
    home.git("add", "-A", cwd=work)
    home.git("commit", "-qm", "open the cellar", cwd=work)
    home.git("push", "-q", "origin", "HEAD", cwd=work)

    [key] = any_server.keys(bucket)
    assert key.startswith("cellar/")
    assert (work / ".gitattributes").read_text() == attributes


def test_two_remotes_have_two_buckets(cellar: Cellar, any_server: Server, second_home: Home, tmp_path: Path) -> None:
    backup = f"{cellar.bucket[:50]}-b"
    any_server.client().create_bucket(Bucket=backup)
    cellar.home.git("init", "-q", "--bare", tmp_path / "backup.git")
    cellar.git("remote", "add", "backup", tmp_path / "backup.git")
    agent(cellar.home, "init", f"s3::{backup}/weights", "--remote", "backup", cwd=cellar.work)
    oid = cellar.add("model.pt", 4000, seed=2)

    cellar.push("-q", "origin", "HEAD")
    assert (any_server.keys(cellar.bucket), any_server.keys(backup)) == ([cellar.key(oid)], [])
    cellar.push("-q", "backup", "HEAD")
    assert any_server.keys(backup) == [f"weights/{oid[:2]}/{oid[2:4]}/{oid}"]

    log_in(second_home, any_server, endpoint=True)
    second_home.install()
    before = any_server.mark()
    second_home.git("clone", "-q", cellar.origin, tmp_path / "a")
    second_home.git("clone", "-q", "-o", "backup", tmp_path / "backup.git", tmp_path / "b")
    asked = [request.bucket for request in any_server.requests(before) if request.operation == "GetObject"]
    assert sorted(set(asked)) == sorted({cellar.bucket, backup})
    assert (tmp_path / "a/model.pt").read_bytes() == (tmp_path / "b/model.pt").read_bytes() == random_bytes(4000, 2)


def test_where_git_lfs_asks_all_remotes_one_that_is_out_of_order_does_not_answer_for_the_next(
    cellar: Cellar, tmp_path: Path
) -> None:
    cellar.home.git("init", "-q", "--bare", tmp_path / "backup.git")
    cellar.git("remote", "add", "backup", tmp_path / "backup.git")
    agent(cellar.home, "init", f"dir::{new_share(tmp_path / 'share')}", "--remote", "backup", cwd=cellar.work)
    oid = cellar.add("model.pt", 4000, seed=2)
    cellar.push("-q", "backup", "HEAD")
    cellar.local_object(oid).unlink()
    (cellar.work / "model.pt").unlink()
    cellar.git("config", "lfs.remote.searchall", "true")

    cellar.home.git("checkout", "model.pt", cwd=cellar.work, env=NOBODY_THERE)

    assert (cellar.work / "model.pt").read_bytes() == random_bytes(4000, 2)


# A hostile repository


def test_a_clone_sends_nothing_to_a_server_that_only_the_repository_names(
    cellar: Cellar, any_server: Server, second_home: Home, tmp_path: Path
) -> None:
    name_store(cellar, f"{cellar.url}?endpoint={any_server.endpoint}")
    cellar.push()
    log_in(second_home, any_server, endpoint=False)
    second_home.install()
    before = any_server.mark()

    refused = clone(second_home, cellar.origin, tmp_path / "clone")

    assert refused.returncode != 0
    assert any_server.requests(before) == []
    assert f"lfs-agent trust 127.0.0.1:{any_server.port}/{cellar.bucket}" in refused.stderr
    finish = re.search(r"git restore --source=HEAD :/ [ a-z-]+", refused.stderr)
    assert finish is not None
    allow(second_home, refused.stderr)
    second_home.run(*finish[0].split(), cwd=tmp_path / "clone")
    assert (tmp_path / "clone/weights.bin").read_bytes() == random_bytes(1000, 7)
    assert second_home.git("status", "--porcelain", cwd=tmp_path / "clone").stdout == ""


def test_a_refused_pull_names_no_command_that_takes_away_what_is_not_committed(
    cellar: Cellar, any_server: Server, second_home: Home, tmp_path: Path
) -> None:
    name_store(cellar, f"{cellar.url}?endpoint={any_server.endpoint}")
    cellar.push()
    log_in(second_home, any_server, endpoint=True)
    second_home.install()
    work = cellar.clone(tmp_path / "clone", home=second_home)
    (work / "notes.txt").write_text("not committed")
    second_home.git("add", "notes.txt", cwd=work)
    cellar.add("weights.bin", 1000, seed=8)
    cellar.push()
    log_in(second_home, any_server, endpoint=False)
    for name in [name for name in second_home.environ if "ENDPOINT" in name]:  # as in a program that no shell started
        del second_home.environ[name]

    refused = second_home.git("pull", "-q", cwd=work, check=False)
    refusals = [
        refused.stderr,
        second_home.git("worktree", "add", tmp_path / "other", "origin/main", cwd=work, check=False).stderr,
        agent(second_home, "verify", cwd=work, check=False).stderr,
        agent(second_home, "doctor", cwd=work, check=False).stdout,
    ]

    assert refused.returncode != 0
    for refusal in refusals:
        assert f"lfs-agent trust 127.0.0.1:{any_server.port}/{cellar.bucket}; then run the same again" in refusal
        assert "git restore --source" not in refusal
    allow(second_home, refused.stderr)
    second_home.git("pull", "-q", cwd=work)
    assert (work / "weights.bin").read_bytes() == random_bytes(1000, 8)
    assert (work / "notes.txt").read_text() == "not committed"


def test_a_clone_reads_no_folder_that_only_the_repository_names(home: Home, second_home: Home, tmp_path: Path) -> None:
    share, work, origin = tmp_path / "share", tmp_path / "work", tmp_path / "origin.git"
    share.mkdir()
    home.install()
    home.git("init", "-q", "--bare", origin)
    home.git("init", "-q", work)
    home.git("remote", "add", "origin", origin, cwd=work)
    agent(home, "init", f"dir::{share}", cwd=work)
    (work / "weights.bin").write_bytes(random_bytes(1000, 7))
    home.git("add", "-A", cwd=work)
    home.git("commit", "-qm", "weights", cwd=work)
    home.git("push", "-q", "origin", "HEAD", cwd=work)
    assert len(list(share.glob("??/??/*"))) == 1
    second_home.install()

    refused = clone(second_home, origin, tmp_path / "clone")

    assert refused.returncode != 0
    allow(second_home, refused.stderr)
    second_home.git("restore", "--source=HEAD", ":/", "--staged", "--worktree", cwd=tmp_path / "clone")
    assert (tmp_path / "clone/weights.bin").read_bytes() == random_bytes(1000, 7)


@pytest.mark.parametrize(
    "url, word",
    [
        ("s3::{bucket}/cellar?region=us-east-1.evil.example/", "region"),
        ("s3::{bucket}/cellar?endpoint=http://evil@127.0.0.1:1", "endpoint"),
        ("s3::{bucket}/../other", "prefix"),
        ("s3::{bucket}/cellar?profile=admin", "lfs-agent.profile"),
        ("s3::{bucket}/cellar?endpoint=http://198.51.100.1", "trust"),
        ("dir::../share", "not a folder"),
    ],
)
def test_what_a_repository_may_not_say_stops_a_clone_before_any_request(
    cellar: Cellar, any_server: Server, second_home: Home, tmp_path: Path, url: str, word: str
) -> None:
    name_store(cellar, url.format(bucket=cellar.bucket))
    cellar.push("--no-verify", "-q", "origin", "HEAD")
    log_in(second_home, any_server, endpoint=True)
    second_home.environ.pop("AWS_ENDPOINT_URL_S3")
    second_home.install()
    before = any_server.mark()

    refused = clone(second_home, cellar.origin, tmp_path / "clone")

    assert refused.returncode != 0
    assert word in refused.stderr
    assert "Traceback" not in refused.stderr
    assert any_server.requests(before) == []


def test_a_push_elsewhere_than_before_asks_first(cellar: Cellar, any_server: Server) -> None:
    elsewhere = f"{cellar.bucket[:50]}-e"
    any_server.client().create_bucket(Bucket=elsewhere)
    cellar.add("first.bin", 1000, seed=1)
    cellar.push()
    name_store(cellar, f"s3::{elsewhere}/cellar")

    refused = cellar.push(check=False)

    assert refused.returncode != 0
    assert any_server.keys(elsewhere) == []
    allow(cellar.home, refused.stderr)
    cellar.push()
    assert len(any_server.keys(elsewhere)) == 1


def test_a_path_at_a_trusted_server_leads_no_push_into_another_bucket_unasked(
    cellar: Cellar, any_server: Server
) -> None:
    """What the client takes for a path is the bucket to the server, and what it takes for that begins the key."""
    elsewhere = f"{cellar.bucket[:50]}-e"
    any_server.client().create_bucket(Bucket=elsewhere)
    cellar.home.environ.pop("AWS_ENDPOINT_URL_S3")
    name_store(cellar, f"{cellar.url}?endpoint={any_server.endpoint}")
    agent(cellar.home, "trust", cwd=cellar.work)
    cellar.push()
    name_store(cellar, f"{cellar.url}?endpoint={any_server.endpoint}/{elsewhere}")
    cellar.add("second.bin", 1000, seed=2)

    refused = cellar.push(check=False)

    assert refused.returncode != 0
    assert f"lfs-agent trust 127.0.0.1:{any_server.port}/{elsewhere}/{cellar.bucket};" in refused.stderr
    assert any_server.keys(elsewhere) == []


def test_another_remote_s_name_leads_no_push_elsewhere_unasked(
    cellar: Cellar, any_server: Server, tmp_path: Path
) -> None:
    elsewhere = f"{cellar.bucket[:50]}-e"
    any_server.client().create_bucket(Bucket=elsewhere)
    for remote in ("fork", "third"):
        cellar.home.git("init", "-q", "--bare", tmp_path / f"{remote}.git")
        cellar.git("remote", "add", remote, tmp_path / f"{remote}.git")
    oid = cellar.add("first.bin", 1000, seed=1)
    cellar.push()
    cellar.push("fork", "HEAD")  # the same store by another remote: nothing has changed
    name_store(cellar, f"s3::{elsewhere}/cellar")

    refused = cellar.push("third", "HEAD", check=False)

    assert refused.returncode != 0
    assert f"this clone's last push went to {cellar.bucket}" in refused.stderr
    assert any_server.keys(elsewhere) == []
    assert cellar.keys() == [cellar.key(oid)]


def test_a_push_elsewhere_by_the_user_s_own_word_does_not_ask(cellar: Cellar, any_server: Server) -> None:
    elsewhere = f"{cellar.bucket[:50]}-e"
    any_server.client().create_bucket(Bucket=elsewhere)
    cellar.add("first.bin", 1000, seed=1)
    cellar.push()

    agent(cellar.home, "init", f"s3::{elsewhere}/cellar", "--force", cwd=cellar.work)
    cellar.add("second.bin", 1000, seed=2)
    cellar.push()

    assert len(any_server.keys(elsewhere)) == 1


# What a command would do


@pytest.mark.parametrize(
    "before, words",
    [
        ([], ["install"]),
        ([], ["install", "--local"]),
        (["install"], ["uninstall"]),
        (["install --local"], ["uninstall", "--local"]),
        ([], ["init", "dir::/srv/share"]),
        (["init s3::cellar"], ["init", "s3::backup", "--remote", "backup"]),
        ([], ["trust", "dir::/srv/share"]),
        (["trust dir::/srv/share"], ["trust", "--remove", "dir::/srv/share"]),
    ],
    ids=" ".join,
)
def test_a_dry_run_changes_nothing_and_tells_what_the_run_then_does(
    home: Home, work: Path, before: list[str], words: list[str]
) -> None:
    home.git("remote", "add", "origin", "/srv/origin.git", cwd=work)
    for earlier in before:
        agent(home, *earlier.split(), cwd=work)
    was = files(home, work)

    would = agent(home, *words, "--dry-run", cwd=work)
    told = [json.loads(line) for line in agent(home, *words, "--dry-run", "--json", cwd=work).stdout.splitlines()]

    assert files(home, work) == was
    assert [line["status"] for line in told].count("todo") == would.stdout.count("would be done: ") > 0
    done = [json.loads(line) for line in agent(home, *words, "--json", cwd=work).stdout.splitlines()]
    assert files(home, work) != was
    expected = [{**line, "status": "done" if line["status"] == "todo" else line["status"]} for line in told]
    assert [line for line in done if line["status"] != "next"] == expected
    again = [json.loads(line) for line in agent(home, *words, "--json", cwd=work).stdout.splitlines()]
    assert {line["status"] for line in again} <= {"ok", "next"}


def files(home: Home, work: Path) -> dict[Path, bytes]:
    """What install, init and trust write to."""
    found = [path for folder in (home.folder, work) for path in folder.rglob("*")]
    return {path: path.read_bytes() for path in found if path.is_file()}
