"""A repository that means harm: what is committed gets nothing, breaks nothing, and paints no terminal (S5)."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.cellar import Cellar
from tests.e2e.test_hostile_server import Hostile, answer, check_sentence
from tests.machine import Home

OID = "ab" * 32
URL = "s3::cellar/weights"
Done = subprocess.CompletedProcess[str]


ENVIRON = {
    "AWS_ACCESS_KEY_ID": "demoaccess",
    "AWS_SECRET_ACCESS_KEY": "demosecret",
    "LFS_AGENT_FIRST_DEADLINE": "2",
    "LFS_AGENT_DEADLINE": "1",
}


@pytest.fixture
def work(home: Home, tmp_path: Path) -> Path:
    home.environ |= ENVIRON
    home.git("init", "-q", tmp_path / "work")
    return tmp_path / "work"


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory) -> tuple[Home, Path]:
    """Somebody, and a clone with a pointer, whose other files each test writes anew."""
    folder = tmp_path_factory.mktemp("victim")
    home = Home(folder / "vera")
    home.environ |= ENVIRON
    home.git("init", "-q", folder / "work")
    keep(home, folder / "work", {"a.bin": pointer()})
    return home, folder / "work"


def pointer(oid: str = OID, size: int | str = 7) -> str:
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {size}\n"


def keep(home: Home, work: Path, files: dict[str, str | bytes]) -> None:
    """Commits these files, git-lfs apart."""
    for name, content in files.items():
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        (work / name).write_bytes(content.encode(errors="surrogateescape") if isinstance(content, str) else content)
    home.git("add", "-A", cwd=work)
    home.git("commit", "-q", "-m", "mean harm", cwd=work)


def ask(home: Home, work: Path, *words: str) -> Done:
    """A command of ours; it ends soon, in few words, which no terminal obeys."""
    done = home.run("lfs-agent", *words, cwd=work, check=False, timeout_s=30)
    assert done.returncode in (0, 1, 2, 3)
    assert "Traceback" not in done.stderr
    for text in (done.stdout, done.stderr):
        check_sentence(text)
    return done


# .lfsconfig


def config(url: str, *more: str) -> str:
    return "\n".join([f'[lfs]\n\turl = "{url}"', *more, ""])


LONG = "x" * (2 << 20)
REFUSED: dict[str, str | bytes] = {
    "a region that makes a host": config(f"{URL}?region=us-east-1.evil.example/"),
    "a region encoded": config(f"{URL}?region=us-east-1%2eevil%2eexample%2f"),
    "a bucket that makes a host": config("s3::evil.example/#/weights"),
    "a bucket with a port": config("s3::127.0.0.1:PORT/weights"),
    "a user in the endpoint": config(f"{URL}?endpoint=http://amazonaws.com@127.0.0.1:PORT"),
    "a password in the endpoint": config(f"{URL}?endpoint=http://a:b@127.0.0.1:PORT"),
    "a backslash": config(f"{URL}?endpoint=http://127.0.0.1:PORT\\\\@amazonaws.com"),
    "another script": config(f"{URL}?endpoint=https://ѕ3.amazonaws.com"),
    "full width": config(f"{URL}?endpoint=https://ｓ３.amazonaws.com"),
    "a dot that is none": config(f"{URL}?endpoint=https://evil。example"),
    "a zone": config(f"{URL}?endpoint=http://[fe80::1%25eth0]:PORT"),
    "this machine by a number": config(f"{URL}?endpoint=http://2130706433:PORT"),
    "this machine in short": config(f"{URL}?endpoint=http://127.1:PORT"),
    "this machine in hex": config(f"{URL}?endpoint=http://0x7f000001:PORT"),
    "this machine by its name": config(f"{URL}?endpoint=http://localhost:PORT"),
    "this machine, six": config(f"{URL}?endpoint=http://[::ffff:127.0.0.1]:PORT"),
    "a query in the endpoint": config(f"{URL}?endpoint=http://127.0.0.1:PORT%3Fx"),
    "a line in the endpoint": config(f"{URL}?endpoint=http://127.0.0.1:PORT%0d%0aHost:x"),
    "a path upwards": config("s3::cellar/../other"),
    "a path upwards, encoded": config("s3::cellar/%2e%2e/other"),
    "a folder upwards": config("dir::/srv/../etc"),
    "a folder of devices": config("dir::/dev/zero"),
    "somebody's file": config("file:///etc/passwd"),
    "a program": config("ext::sh -c touch% /tmp/x"),
    "escapes": config("s3::cellar\x1b[2J\x1b]0;x\x07"),
    "escapes of eight bits": config("s3::cellar\u009b2J\u202e"),
    "escapes in another scheme": config("https://x/\x1b[2J\u009b31m"),
    "not UTF-8": config("s3::cellar").encode() + b'\turl = "s3::\xff\xfe\x9b"\n',
    "an endless name": config(f"s3::{LONG}"),
    "an endless scheme": config("a." * (1 << 20)),
    "an endless setting": config(f"{URL}?{LONG}=1"),
    "an endless value": config(f"{URL}?region={LONG}"),
    "endless settings": config(f"{URL}?" + "&".join(f"x{n}=1" for n in range(100_000))),
    "a setting that is the user's": config(f"{URL}?profile=admin&endpoint=http://127.0.0.1:PORT"),
}


@pytest.mark.parametrize("text", REFUSED.values(), ids=REFUSED.keys())
def test_a_url_that_may_not_be_said_is_a_sentence_before_any_request(
    victim: tuple[Home, Path], text: str | bytes
) -> None:
    home, work = victim
    content = text.encode() if isinstance(text, str) else text
    with Hostile(answer("200 OK")) as third:
        (work / ".lfsconfig").write_bytes(content.replace(b"PORT", b"%d" % third.port))
        ask(home, work, "config", "--show-origin")
        assert ask(home, work, "verify").returncode in (2, 3)
        assert third.requests == 0


def test_a_file_of_megabytes_is_read_soon_and_says_only_what_it_may(home: Home, work: Path) -> None:
    lines = "".join(f'[core]\n\tpager = "touch x{n}"\n[remote "r{n}"]\n\tlfsurl = s3::other\n' for n in range(60_000))
    include = f"[include]\n\tpath = {home.folder / 'included'}\n"
    (home.folder / "included").write_text(config("s3::included"))
    keep(home, work, {".lfsconfig": lines + include + config(URL), "a.bin": pointer()})

    done = ask(home, work, "config", "--show-origin")

    assert f"{URL}\t" in done.stdout
    assert ".lfsconfig: lfs.url" in done.stdout


@pytest.mark.parametrize("to", ["/dev/zero", "/dev/stdin", "outside", "."])
@pytest.mark.parametrize("name", [".lfsconfig", ".mlcellar.toml"])
def test_a_link_out_of_the_repository_is_not_followed(home: Home, work: Path, name: str, to: str) -> None:
    (home.folder / "outside").write_text('[lfs]\n\turl = s3::outside\n[aws]\n\tprofile = "team"\n')
    (home.folder / ".aws").mkdir()
    (home.folder / ".aws" / "config").write_text("[profile team]\nregion = sa-east-1\n")
    if name != ".lfsconfig":
        keep(home, work, {".lfsconfig": config(URL)})
    (work / name).symlink_to(home.folder / "outside" if to == "outside" else to)

    done = ask(home, work, "config", "--show-origin")

    assert "s3::outside" not in done.stdout
    assert "team" not in done.stdout


def test_settings_that_turn_failures_into_successes_do_not_deceive_verify(home: Home, work: Path) -> None:
    more = ("\tskipdownloaderrors = true", "\tallowincompletepush = true")
    keep(home, work, {".lfsconfig": config(f"s3::cellar/{OID}", *more), "a.bin": pointer()})
    missing = b"<Error><Code>NoSuchKey</Code></Error>"
    with Hostile(answer("404 Not Found", missing)) as store:
        home.environ["AWS_ENDPOINT_URL_S3"] = f"http://127.0.0.1:{store.port}"
        assert ask(home, work, "verify").returncode == 1


# .mlcellar.toml


@pytest.mark.parametrize(
    "text",
    [
        '[aws]\nprofile = "team\\u001b[2J"\n',
        '[aws]\nprofile = "team\\u202e"\n',
        '[aws]\nprofile = ["team"]\n',
        "aws = " + "[" * 8_000,
        "aws = " + "{a=" * 2_700,
        "[aws" + ".a" * 4_000 + "]\n",
        "[" * 8_000,
        '[aws]\nprofile = """' + "\n" * 60_000,
        b'[aws]\nprofile = "\xff\xfe"\n',
        "\0" * 1000,
    ],
    ids=range(10),
)
def test_a_cellar_s_file_that_means_harm_chooses_nothing(victim: tuple[Home, Path], text: str | bytes) -> None:
    home, work = victim
    (work / ".lfsconfig").write_text(config(URL))
    (work / ".mlcellar.toml").write_bytes(text.encode() if isinstance(text, str) else text)

    done = ask(home, work, "config")

    (profile,) = [line.split() for line in done.stdout.splitlines() if line.startswith("profile")]
    assert profile == ["profile", "-"]


# Pointers, and names


POINTERS: dict[str, str | bytes] = {
    "upwards": pointer("../" * 21 + "x"),
    "capitals": pointer(OID.upper()),
    "short": pointer("ab" * 31),
    "twice": pointer() + f"oid sha256:{'cd' * 32}\n",
    "two sizes": pointer() + "size 8\n",
    "below zero": pointer(size=-1),
    "beyond reason": pointer(size=1 << 70),
    "a number of megabytes": pointer(size="9" * 900),
    "lines": pointer() + "ext-0-x sha256:y\n" * 5000,
    "large": pointer() + "x" * (2 << 20),
    "binary": b"version https://git-lfs.github.com/spec/v1\noid sha256:" + bytes(range(256)),
    "zeros": bytes(4 << 20),
}


def test_pointers_that_are_none_are_asked_for_nowhere(home: Home, work: Path) -> None:
    files = {f"{number}.bin": content for number, content in enumerate(POINTERS.values())}
    keep(home, work, {".lfsconfig": config(URL), **files})
    with Hostile(answer("404 Not Found")) as store:
        home.environ["AWS_ENDPOINT_URL_S3"] = f"http://127.0.0.1:{store.port}"
        done = ask(home, work, "verify", "--deep")
        assert store.requests == 0
    assert done.returncode == 0
    assert "no LFS pointers in HEAD" in done.stdout


NAMES = [
    "a\x1b[2J.bin",
    "b\nnext line.bin",
    "c\u009b31m\u202e.bin",
    "d\udcff\udc9b.bin",
    "e'$(touch x)`.bin",
    "-rf.bin",
    "ü.bin",
]


def test_names_of_files_and_branches_paint_no_terminal(home: Home, work: Path) -> None:
    """Not by verify, nor by the record of what failed."""
    home.git("checkout", "-q", "-b", "x\u009b31m\u202ey", cwd=work)
    files = {name: pointer(f"{number:064x}") for number, name in enumerate(NAMES)}
    # A newer git-lfs pulls only what it is told to filter.
    keep(home, work, {".lfsconfig": config(URL), ".gitattributes": "*.bin filter=lfs -text\n", **files})
    missing = b"<Error><Code>NoSuchKey</Code></Error>"
    home.install()
    with Hostile(answer("404 Not Found", missing)) as store:
        home.environ["AWS_ENDPOINT_URL_S3"] = f"http://127.0.0.1:{store.port}"
        verified = ask(home, work, "verify")
        listed = ask(home, work, "verify", "--json")
        poor = home.run("lfs-agent", "verify", cwd=work, check=False, env={"PYTHONIOENCODING": "ascii"})
        branch = ask(home, work, "verify", "x\u009b31m\u202ey")
        home.git("lfs", "pull", cwd=work, check=False)
        logged = ask(home, work, "log")

    assert verified.returncode == branch.returncode == 1
    assert "a?[2J.bin" in verified.stdout
    assert "b next line.bin" in verified.stdout
    paths = {path for line in listed.stdout.splitlines() for path in json.loads(line)["paths"]}
    assert paths == set(NAMES)
    assert len(verified.stdout.splitlines()) == len(NAMES) + 1
    assert "a?[2J.bin" in logged.stdout
    assert (poor.returncode, poor.stderr) == (1, "")
    assert r"\xfc.bin" in poor.stdout
    assert not (work / "x").exists()


def test_a_tag_that_is_called_like_an_option_of_git_writes_no_file(home: Home, work: Path) -> None:
    """A clone brings tags of any name, and `git tag` prints them as they are."""
    book = home.folder / "book.tex"
    book.write_text("the only copy")
    keep(home, work, {".lfsconfig": config(URL), "a.bin": pointer()})
    home.git("update-ref", f"refs/tags/--index-output={book}", "HEAD", cwd=work)
    tags = home.git("tag", cwd=work).stdout
    with Hostile(answer("404 Not Found", b"<Error><Code>NoSuchKey</Code></Error>")) as store:
        home.environ["AWS_ENDPOINT_URL_S3"] = f"http://127.0.0.1:{store.port}"
        done = home.run("lfs-agent", "verify", "--stdin", cwd=work, stdin=tags, check=False)

    assert done.returncode == 1
    assert "1 object, 7 bytes: 0 present (0 proven), 1 missing" in done.stdout
    assert book.read_bytes() == b"the only copy"


# artifacts.yaml


def grown(line: str) -> str:
    """Six lines, each of which is ten times the one before."""
    lines = (f"a{n}: &a{n} {line.replace('…', ', '.join([f'*a{n - 1}'] * 10))}" for n in range(1, 6))
    return "\n".join(["a0: &a0 {x: y}", *lines, "churn: {path: *a5}\n"])


@pytest.mark.parametrize(
    "text",
    [
        grown("[…]"),
        grown("{<<: […]}"),
        "churn:\n  path: &a [*a]\n",
        "churn:\n  path: a.bin\n  at: 2026-13-45\n",
        f"churn:\n  path: a.bin\n  size: {'9' * 5000}\n",
        "churn:\n  path: a.bin\n  size: !!int ''\n",
        "churn: " + "[" * 8_000,
    ],
    ids=range(7),
)
def test_artifacts_that_mean_harm_take_no_memory_and_are_a_sentence(victim: tuple[Home, Path], text: str) -> None:
    home, work = victim
    keep(home, work, {".lfsconfig": config(URL), "artifacts.yaml": text})
    home.git("tag", "--force", "-a", "-m", "", "churn@v1.0.0", cwd=work)

    done = ask(home, work, "verify", "churn@v1.0.0")

    assert (done.returncode, "artifacts.yaml is not what GTO writes: see gto check-ref" in done.stderr) == (2, True)


# What is printed to be run


COMMANDS = ";touch$IFS$0.was-run;#"
"""What a shell would run that is given this as it is: it makes a file in the current folder."""


def run_as_printed(home: Home, work: Path, said: str, command: str) -> None:
    """Runs in a shell the command that begins so, with all that follows it in what was said."""
    (start,) = {said.index(command)}
    home.run("sh", "-c", said[start:].splitlines()[0].partition("; then ")[0], cwd=work, check=False)
    assert list(work.glob("*.was-run*")) == []


def test_a_folder_s_name_is_no_command_when_it_is_trusted_as_printed(home: Home, work: Path) -> None:
    """Nor one with spaces: what is pasted does what it says."""
    for folder in (f"/srv/share{COMMANDS}", "/srv/my share"):
        keep(home, work, {".lfsconfig": config(f"dir::{folder}"), "a.bin": pointer()})
        refused = ask(home, work, "verify")

        run_as_printed(home, work, refused.stderr, "lfs-agent trust ")
        assert f"dir::{folder}" in ask(home, work, "trust", "--list").stdout.splitlines()


def test_a_branch_s_name_is_no_command_when_it_is_checked_out_as_printed(home: Home, work: Path) -> None:
    keep(home, work, {".lfsconfig": config(URL), "a.bin": pointer()})
    branch = f"x{COMMANDS}"
    home.git("update-ref", f"refs/remotes/origin/{branch}", "HEAD", cwd=work)
    home.git("checkout", "-q", "--orphan", "empty", cwd=work)
    home.git("rm", "-rfq", ".", cwd=work)
    home.install()
    found = ask(home, work, "doctor")

    run_as_printed(home, work, found.stdout, "GIT_LFS_SKIP_SMUDGE=1 git checkout ")
    assert (work / "a.bin").read_text() == pointer()


# Remotes


@pytest.mark.parametrize("name", ["../../../x", "..", ".", "a\x1b[2J", "/absolute", "a\nb", "ü" * 300])
def test_a_remote_s_name_leads_to_no_file_outside(cellar: Cellar, tmp_path: Path, name: str) -> None:
    """git has no such remotes of its own, but takes a path or a URL in place of a name."""
    oid = cellar.add("weights.bin", 1000)
    before = {path for path in tmp_path.rglob("*") if ".git/" not in str(path)}
    origin = cellar.origin
    cellar.git("config", f"url.{origin}.insteadOf", name)
    pushed = cellar.push(name, "HEAD", check=False)

    assert "Traceback" not in pushed.stderr
    if pushed.returncode == 0:
        assert cellar.keys() == [cellar.key(oid)]
    folder = cellar.work / ".git" / "lfs-agent" / "pushed"
    assert all(path.is_file() for path in folder.glob("*"))
    after = {path for path in tmp_path.rglob("*") if ".git/" not in str(path)}
    assert [path for path in after - before if cellar.origin not in path.parents and "server" not in str(path)] == []


def test_a_note_of_the_last_push_that_is_garbage_stops_no_push(cellar: Cellar) -> None:
    cellar.add("first.bin", 1000)
    cellar.push()
    (note,) = (cellar.work / ".git" / "lfs-agent" / "pushed").iterdir()
    said = note.read_bytes()
    note.write_bytes(b"\xff\x00")

    oid = cellar.add("second.bin", 2000)
    cellar.push()
    assert {cellar.key(oid)} < set(cellar.keys())
    assert note.read_bytes() == said
