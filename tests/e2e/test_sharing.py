"""A repository that several users of a machine share (`core.sharedRepository`): each goes on where another was."""

import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from tests.cellar import Cellar, new_share, random_bytes
from tests.e2e.dialogue import BY_DOOR, Agent, keep_local, kill_git, new_repository
from tests.machine import Home
from tests.proxy import FaultProxy, Faults, Rule, Throttle
from tests.servers import Server, is_ledger

MIB = 1 << 20
GROUP = 20009
SLOW = Faults((Rule(Throttle(up=8 * MIB, down=8 * MIB)),))


@pytest.fixture
def hall() -> Iterator[Path]:
    """A folder that all users can enter; pytest's own are root's alone."""
    if os.geteuid() != 0:
        pytest.skip("only root can be several users")
    with tempfile.TemporaryDirectory(prefix="lfs-agent-test-") as folder:
        Path(folder).chmod(0o711)
        yield Path(folder)


UserOf = Callable[[str, int, str], Home]


@pytest.fixture
def user_of(hall: Path, any_server: Server) -> UserOf:
    """Makes a user with a number of its own, of one group with all others, with the agent installed."""

    def user_of(name: str, number: int, umask: str) -> Home:
        home = Home(hall / name)
        home.environ |= any_server.environ() | {"LFS_AGENT_PART_SIZE": "5MiB", "LFS_AGENT_STREAMS": "1"}
        for folder in (home.folder, *home.folder.rglob("*")):
            os.chown(folder, number, GROUP)
        identity = [f"--reuid={number}", f"--regid={GROUP}", "--clear-groups"]
        for rights in ([], ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]):
            home.runs_as = ["setpriv", *identity, *rights, "sh", "-c", f'umask {umask} && exec "$@"', "sh"]
            if home.run(sys.executable, "-c", "import lfs_agent", check=False).returncode == 0:
                break  # else the Python of this test lies in a private folder: with the right to read all, not to write
        else:
            pytest.skip("setpriv can't make us another user here")
        home.git("config", "--global", "safe.directory", "*")
        home.install()
        return home

    return user_of


def ended(proxy: FaultProxy, method: str) -> int:
    of_objects = (seen for seen in proxy.requests if not is_ledger(seen.path))
    return sum(seen.method == method and seen.ended is not None for seen in of_objects)


@pytest.mark.parametrize("shared, umask", [("group", "077"), ("0664", "022")])
def test_one_user_goes_on_where_another_was_killed(
    cellar: Cellar, any_server: Server, hall: Path, user_of: UserOf, shared: str, umask: str
) -> None:
    vera, otto = user_of("vera", 20001, umask), user_of("otto", 20002, umask)
    oid = cellar.add("weights.bin", 20 * MIB)
    cellar.push()
    origin, repository = hall / "origin.git", hall / "shared.git"
    shutil.copytree(cellar.origin, origin)
    hall.chmod(0o777)
    vera.git("init", "-q", "--bare", f"--shared={shared}", repository)
    vera.git("remote", "add", "origin", origin, cwd=repository)
    vera.git("fetch", "-q", "origin", "main:main", cwd=repository)
    stored = repository / "lfs" / "objects" / oid[:2] / oid[2:4] / oid

    with FaultProxy(any_server.endpoint, SLOW) as proxy:
        for home in (vera, otto):
            home.environ["AWS_ENDPOINT_URL_S3"] = proxy.endpoint
        kill_git(vera, repository, ["lfs", "fetch", "origin", "main"], proxy, lambda: ended(proxy, "GET") >= 2)
        before = ended(proxy, "GET")
        otto.git("lfs", "fetch", "origin", "main", cwd=repository)
        assert ended(proxy, "GET") - before <= 3
        assert sha256(stored.read_bytes()).hexdigest() == oid
        assert stored.stat().st_mode & 0o060 == 0o060

        any_server.client().delete_object(Bucket=cellar.bucket, Key=cellar.key(oid))
        kill_git(otto, repository, ["lfs", "push", "--all", "origin"], proxy, lambda: ended(proxy, "PUT") >= 2)
        before = ended(proxy, "PUT")
        vera.git("lfs", "push", "--all", "origin", cwd=repository)
        assert ended(proxy, "PUT") - before <= 3
    assert cellar.keys() == [cellar.key(oid)]
    for home in (vera, otto):
        assert "weights.bin" in home.git("lfs", "ls-files", "--all", cwd=repository).stdout
        assert home.run("lfs-agent", "log", cwd=repository).stdout.count("1 object") == 1
    ours = [repository / "lfs-agent", repository / "lfs" / "lfs-agent", repository / "lfs" / "incomplete" / "lfs-agent"]
    for path in [path for folder in ours for path in (folder, *folder.rglob("*")) if path.suffix not in PRIVATE]:
        wanted = 0o070 if path.is_dir() else 0o060
        assert path.stat().st_mode & wanted == wanted, path
        assert path.stat().st_gid == GROUP


PRIVATE = (".stop", ".contact", ".retries", ".login")
"""Of the workers of one session: all of one user."""


def test_who_may_only_read_a_clone_pushes_from_it_all_the_same(
    cellar: Cellar, hall: Path, user_of: UserOf, any_server: Server
) -> None:
    vera, otto = user_of("vera", 20001, "022"), user_of("otto", 20002, "022")
    oids = [cellar.write("weights.bin", 12 * MIB, 1), cellar.write("head.bin", 30_000, 2)]
    cellar.commit("Fill the cellar")
    cellar.push()
    origin, repository = hall / "origin.git", hall / "clone.git"
    shutil.copytree(cellar.origin, origin)
    hall.chmod(0o777)
    vera.git("clone", "-q", "--bare", origin, repository)
    vera.git("lfs", "fetch", "origin", "main", cwd=repository)
    for oid in oids:
        any_server.client().delete_object(Bucket=cellar.bucket, Key=cellar.key(oid))
    otto.git("lfs", "push", "--all", "origin", cwd=repository)

    assert cellar.keys() == sorted(map(cellar.key, oids))
    assert [path for path in repository.rglob("*") if path.stat().st_uid == 20002] == []


@pytest.mark.parametrize("root, umask, file", [(0o2775, "022", 0o444), (0o2775, "077", 0o444), (0o2770, "077", 0o440)])
def test_members_of_a_group_go_on_in_a_share_whatever_their_umask(
    cellar: Cellar, hall: Path, user_of: UserOf, root: int, umask: str, file: int
) -> None:
    """As the share's root lets them, and nobody else."""
    vera, otto = user_of("vera", 20001, umask), user_of("otto", 20002, umask)
    origin, share = hall / "origin.git", new_share(hall / "share")
    shutil.copytree(cellar.origin, origin)
    for path in (origin, *origin.rglob("*"), share, share / ".lfs-agent"):
        os.chown(path, 20001, GROUP)
        path.chmod(root if path.is_dir() else 0o664)
    vera.git("config", "core.sharedRepository", "group", cwd=origin)
    oids = set()
    for number, user in enumerate((vera, otto, vera)):
        work = user.folder / f"clone-{number}"
        user.git("config", "--global", "lfs.url", f"dir::{share}")
        user.git("clone", "-q", origin, work)
        content = random_bytes(30_000, number).hex()
        oids.add(sha256(content.encode()).hexdigest())
        user.run("tee", work / f"{number}.bin", stdin=content)  # another user may not open /dev/stdin
        user.git("add", "-A", cwd=work)
        user.git("commit", "-q", "-m", "Add one", cwd=work)
        user.git("push", "-q", "origin", "HEAD", cwd=work)

    assert {path.name for path in share.glob("??/??/*")} == oids
    for path in share.rglob("*"):
        assert (path, oct(path.stat().st_mode & 0o7777)) == (path, oct(root if path.is_dir() else file))
        assert path.stat().st_gid == GROUP


def test_where_no_thread_is_allowed_git_lfs_hears_why(user_of: UserOf, any_server: Server, bucket: str) -> None:
    """By a limit that root has not."""
    vera = user_of("vera", 20001, "022")
    work = new_repository(vera, vera.folder / "work", f"s3::{bucket}/cellar")
    content = random_bytes(30_000, 1)
    oid = sha256(content).hexdigest()
    path = keep_local(work, oid, content)
    with Agent(vera, work, command=(*vera.runs_as, "prlimit", "--nproc=3", *BY_DOOR)) as agent:
        agent.init("upload")
        agent.upload(oid, path)
        error = agent.until_complete()[-1]["error"]
        agent.end()

    # Which of both is refused first, a thread or git's process, is a matter of moments.
    assert error["code"] == 32
    assert re.match(
        r"no more threads or processes are allowed here|git could not be started: .*ulimit", error["message"]
    )
    assert any_server.keys(bucket, "cellar") == []


@pytest.mark.parametrize(
    "allowed, told",
    [
        (1, "git could not be started: Resource temporarily unavailable; see ulimit -a"),
        (2, "git could not be started: Resource temporarily unavailable; see ulimit -a"),
        (5, "no more threads or processes are allowed here: raise the limit (ulimit -u"),
    ],
)
def test_where_no_thread_is_allowed_a_command_says_so(
    user_of: UserOf, any_server: Server, bucket: str, allowed: int, told: str
) -> None:
    """Two git read pointers at once; of the threads that ask the store there are more."""
    vera = user_of("vera", 20001, "022")
    work = new_repository(vera, vera.folder / "work", f"s3::{bucket}/cellar")
    vera.git("lfs", "track", "*.bin", cwd=work)
    vera.run("sh", "-c", "for n in $(seq 50); do echo $n > $n.bin; done", cwd=work)
    vera.git("add", "-A", cwd=work)
    vera.git("commit", "-q", "-m", "Add fifty", cwd=work)
    done = vera.run("prlimit", f"--nproc={allowed}", "lfs-agent", "verify", cwd=work, check=False)

    assert done.returncode in (2, 3)
    assert done.stderr.count(f"lfs-agent verify: {told}") == 1, done.stderr
    assert "please report it" not in done.stderr


def test_a_link_in_the_place_of_the_audit_log_leads_to_no_file_of_ours(cellar: Cellar, tmp_path: Path) -> None:
    oid = cellar.add("weights.bin", 30_000, seed=1)
    cellar.add("weights.bin", 30_000, seed=2)
    cellar.push()
    own, link = tmp_path / "own", cellar.work / ".git/lfs/lfs-agent/audit.jsonl"
    own.write_text("precious")
    link.symlink_to(own)

    refused = cellar.home.run("lfs-agent", "prune", "--apply", cwd=cellar.work, check=False)

    assert refused.returncode != 0
    assert f"{link} is a symbolic link, which we never make" in refused.stderr
    assert own.read_text() == "precious"
    assert cellar.local_object(oid).is_file()


def test_a_log_file_that_its_user_has_linked_is_written_to(cellar: Cellar, tmp_path: Path) -> None:
    log, link = tmp_path / "log", tmp_path / "link"
    link.symlink_to(log)
    cellar.home.environ |= {"LFS_AGENT_LOG_FILE": str(link)}
    oid = cellar.add("weights.bin", 30_000)
    cellar.push()
    assert oid in log.read_text()


@pytest.mark.parametrize("size, name", [(30_000, "{oid}"), (12 * MIB, "{oid}"), (12 * MIB, "{oid}.ranges")])
def test_a_link_that_another_user_has_put_into_the_storage_leads_to_no_file_of_ours(
    cellar: Cellar, tmp_path: Path, size: int, name: str
) -> None:
    cellar.home.environ["LFS_AGENT_PART_SIZE"] = "5MiB"
    oid = cellar.add("weights.bin", size)
    cellar.push()
    own, link = tmp_path / "own", tmp_path / "storage" / "incomplete" / "lfs-agent" / name.format(oid=oid)
    own.write_text("precious")
    link.parent.mkdir(parents=True)
    link.symlink_to(own)
    skipping = {"GIT_LFS_SKIP_SMUDGE": "1"}
    where = f"lfs.storage={tmp_path / 'storage'}"
    cellar.home.git("clone", "-q", "-c", where, cellar.origin, tmp_path / "clone", env=skipping)

    refused = cellar.home.git("lfs", "pull", cwd=tmp_path / "clone", check=False)
    assert refused.returncode != 0
    assert f"{link} is a symbolic link, which we never make" in refused.stderr
    assert own.read_text() == "precious"
    link.unlink(missing_ok=True)
    cellar.home.git("lfs", "pull", cwd=tmp_path / "clone")
    assert sha256((tmp_path / "clone/weights.bin").read_bytes()).hexdigest() == oid
    assert own.read_text() == "precious"
