"""The store of a repository, assembled from git config, the environment and AWS's own settings."""

import threading
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final

from lfs_agent import log
from lfs_agent.config import OF_FOLDERS, Settings, Value, from_environ, from_git, from_query, resolve
from lfs_agent.errors import TargetError, UsageError
from lfs_agent.gitrepo import LfsUrl, Repository
from lfs_agent.layout import key_of
from lfs_agent.pace import PacedStore
from lfs_agent.parts import Limits
from lfs_agent.pointer import Oid
from lfs_agent.protocol import Operation
from lfs_agent.retry import Lanes, Notice, Patience, RetryingStock, RetryingStore, RetryingUploads
from lfs_agent.session import Bandwidth, Budget, Contact, Handover, SessionFiles, Slots
from lfs_agent.store import Stock, Store, Uploads
from lfs_agent.store.url import FolderTarget, S3Target, Target, is_ours, parse_target
from lfs_agent.trust import Claim, check, check_scheme

if TYPE_CHECKING:
    from lfs_agent.keeper import Keeper
    from lfs_agent.ledger import Ledger
    from lfs_agent.registrar import Registrar
    from lfs_agent.store.aws import Aws
    from lfs_agent.store.connection import Connection
    from lfs_agent.store.folder import FolderStore
    from lfs_agent.store.s3 import S3Store
    from lfs_agent.store.s3bucket import S3Bucket
    from lfs_agent.store.s3control import S3Control
    from lfs_agent.store.s3files import DiskFiles, S3Files

TRUSTED_KEY: Final = "lfs-agent.trusted"
_MAX_CELLAR_FILE: Final = 1 << 13
"""Bytes of a `.mlcellar.toml`; nobody writes a larger one in earnest."""


class Cellar:
    """A repository's objects for one operation and remote: where they are, by which settings.

    `given`: a store to look at in place of the one that the repository's configuration names. `handover`, `stop`,
    `on_wait`: as Aws has them.
    """

    def __init__(
        self,
        repo: Repository,
        operation: Operation,
        remote: str,
        environ: Mapping[str, str],
        given: LfsUrl | None = None,
        handover: Handover | None = None,
        stop: threading.Event | None = None,
        on_wait: Callable[[str], None] = log.to_stderr,
    ) -> None:
        self.repo: Final = repo
        self.operation: Final = operation
        self.remote: Final = remote
        self.environ: Final = environ
        self.given: Final = given
        self._handover = handover
        self._stop = stop
        self._on_wait = on_wait

    @cached_property
    def named(self) -> LfsUrl:
        """The URL of the store, and who names it.

        Raises TargetError where nobody does.
        """
        found = self.given or self.repo.lfs_url(self.operation, self.remote)
        if found is None or not is_ours(found.url):
            says = f"{found.origin} says {log.redact(found.url)[:200]}" if found else "nothing says"
            raise TargetError(
                f"no store is named for the objects of {self.remote or 'this repository'} ({says}): "
                "run lfs-agent init s3::BUCKET/PREFIX, and commit .lfsconfig"
            )
        return found

    @cached_property
    def target(self) -> Target:
        """The bucket or folder; TargetError for a URL that is none."""
        try:
            return parse_target(self.named.url)
        except TargetError as error:
            raise TargetError(f"{self.named.origin}: {error}") from None

    @cached_property
    def resolved(self) -> tuple[Settings, dict[str, Value]]:
        """The settings, and where each that somebody set came from."""
        bucket = self.target.bucket if isinstance(self.target, S3Target) else ""
        git = from_git(((entry.key, entry.value, entry.origin) for entry in self.repo.config), bucket)
        query = from_query(self.target.query, self.named.origin)
        if isinstance(self.target, FolderTarget) and query.keys() - OF_FOLDERS:
            raise UsageError(f"{self.named.origin}: of a folder only layout and retention can be set")
        return resolve(from_environ(self.environ), git, query)

    @property
    def settings(self) -> Settings:
        return self.resolved[0]

    @property
    def limits(self) -> Limits:
        """How objects are cut; who names the size of a part gets that, however large the object."""
        settings, chosen = self.resolved
        return Limits(part_size=settings.part_size, growth=1 if "part_size" in chosen else Limits().growth)

    @property
    def prefix(self) -> str:
        """Below which its keys are; "" for all of the store."""
        return self.target.prefix if isinstance(self.target, S3Target) else ""

    @cached_property
    def key(self) -> Callable[[Oid], str]:
        """Where an object lies in the store."""
        return key_of(self.prefix, self.settings.layout)

    @cached_property
    def repositories(self) -> list[str]:
        """Where a push to the remote takes commits, as everybody may read it; where it has none, it is the only one."""
        from lfs_agent.registrar import shareable  # here, as below: a download needs no ledger

        top = self.repo.worktree or self.repo.common_dir
        urls = map(self.repo.with_login, self.repo.push_urls(self.remote) or [str(self.repo.common_dir)])
        return list(dict.fromkeys(shareable(url, top) for url in urls))

    def registrar(self, store: Store, ledger: "Ledger", *, looks: bool = False) -> "Registrar":
        """Registers the repository at the store; `looks`: as for Registrar. In a folder that costs nothing."""
        from lfs_agent.registrar import Registrar

        memory = self.repo.common_dir / "lfs-agent" / "registered"
        return Registrar(
            ledger,
            self.repositories,
            memory,
            lambda: store.identity(ledger.root),
            self.repo.modes,
            looks=looks or isinstance(self.target, FolderTarget),
        )

    def keeper(
        self, ledger: "Ledger", stop: threading.Event, on_saved: Callable[[Oid], None] = lambda oid: None
    ) -> "Keeper":
        """Keeps a gc from what is left in the store, since it is there."""
        from lfs_agent.keeper import Keeper

        return Keeper(ledger, self.key, lambda: self.stock(stop=stop, connections=1), stop, on_saved)

    @property
    def state_dir(self) -> Path:
        """Our folder in the LFS storage: records, what stores can do."""
        return self.repo.storage / "lfs-agent"

    def open(
        self,
        *,
        stop: threading.Event | None = None,
        notice: Notice | None = None,
        shared: SessionFiles | None = None,
        connections: int = 16,
    ) -> tuple[Store, Patience]:
        """The store, retrying, checked against what the user trusts; nothing has been sent to it.

        `shared`: where the workers of a session meet; None where there is one process only.

        Raises TargetError, UsageError, CredentialsError.
        """
        stop, target = stop or threading.Event(), self.target
        patience = self._patience(stop, notice, shared)
        handover = Handover(shared.login, stop) if shared else None
        store = (
            self._folder(target)
            if isinstance(target, FolderTarget)
            else self._s3(target, patience, handover, connections)
        )
        patient = RetryingStore(store, patience)
        if rate := self.settings.bandwidth:
            return PacedStore(patient, Bandwidth(rate, shared.bandwidth if shared else None), stop), patience
        return patient, patience

    def uploads(self, *, stop: threading.Event, connections: int) -> Uploads:
        """What nobody has finished in the store; as for `open`, nothing has been asked of it.

        Raises TargetError, UsageError, CredentialsError.
        """
        patience, target = self._patience(stop), self.target
        if isinstance(target, FolderTarget):
            from lfs_agent.store.folderstock import FolderUploads

            return RetryingUploads(FolderUploads(self._folder(target), self.key), patience)
        from lfs_agent.store.s3uploads import S3Uploads

        return RetryingUploads(S3Uploads(self._s3(target, patience, None, connections), target.prefix), patience)

    def stock(self, *, stop: threading.Event, connections: int) -> Stock:
        """All that lies in the store; as for `open`, nothing has been asked of it.

        Raises TargetError, UsageError, CredentialsError.
        """
        patience, target = self._patience(stop), self.target
        if isinstance(target, FolderTarget):
            from lfs_agent.store.folderstock import FolderStock

            return RetryingStock(FolderStock(self._folder(target)), patience)
        from lfs_agent.store.s3stock import S3Stock

        return RetryingStock(S3Stock(self._s3(target, patience, None, connections)), patience)

    def bucket(self, *, stop: threading.Event) -> "S3Bucket":
        """The bucket itself; as for `open`, nothing has been asked of it.

        Raises TargetError, also for a folder; UsageError, CredentialsError.
        """
        target, patience = self.target, self._patience(stop)
        if isinstance(target, FolderTarget):
            raise TargetError(f"{target} is a folder, not a bucket")
        from lfs_agent.store.s3bucket import S3Bucket

        return S3Bucket(self._s3(target, patience, None, 1), patience.call)

    def disk_files(self, first: Path) -> "DiskFiles":
        """A report or an inventory on disk."""
        from lfs_agent.store.s3files import DiskFiles

        return DiskFiles(first)

    def s3_files(self, first: S3Target, *, stop: threading.Event) -> "S3Files":
        """A report or an inventory in some bucket, by the settings of the cellar's; as for `open`, nothing is asked.

        Raises TargetError, UsageError, CredentialsError.
        """
        from lfs_agent.store.s3files import S3Files

        patience = self._patience(stop)
        return S3Files(self._s3(first, patience, None, 1), first.prefix, patience.call)

    def control(self, *, stop: threading.Event) -> "S3Control":
        """What manages jobs at Amazon, for the bucket; as for `open`, nothing has been asked of it.

        Raises TargetError, also where the store is not Amazon's; UsageError, CredentialsError.
        """
        target, patience = self.target, self._patience(stop)
        if isinstance(target, FolderTarget):
            raise TargetError(f"{target} is a folder, not a bucket")
        from lfs_agent.store.s3control import S3Control

        control, sts = self._aws.endpoint_of("s3_control"), self._aws.endpoint_of("sts")
        if self.claim.endpoint and not control:
            raise TargetError(
                f"{self.claim.endpoint} is not Amazon's, and S3 Batch Operations is: run this against Amazon, or name "
                "an endpoint that has it by AWS_ENDPOINT_URL_S3_CONTROL"
            )
        for endpoint in filter(None, (control, sts)):
            check_scheme(endpoint, allow_http=self.settings.allow_http)
        store = self._s3(target, patience, None, 1)
        return S3Control(store, patience.call, control=control, sts=sts)

    def _patience(
        self, stop: threading.Event, notice: Notice | None = None, shared: SessionFiles | None = None
    ) -> Patience:
        most = self.settings.concurrency
        return Patience(
            first_deadline_s=self.settings.first_deadline,
            deadline_s=self.settings.deadline,
            budget=Budget(self.settings.retries, shared.retries if shared else None),
            stop=stop,
            notice=notice,
            lanes=Lanes(most, Slots(most, shared.slot) if shared else None) if most else None,
            contact=Contact(shared.contact if shared else None),
            store=f"{self.claim.endpoint} ({self.target})" if self.claim.endpoint else str(self.target),
        )

    def _folder(self, target: FolderTarget) -> "FolderStore":
        from lfs_agent.store.folder import FolderStore  # here, as S3Store below: only one of them is loaded

        self.check_trust()
        return FolderStore(Path(target.path))

    def _s3(self, target: S3Target, patience: Patience, handover: Handover | None, connections: int) -> "S3Store":
        if self.settings.public and self.operation == "upload":
            raise TargetError(f"{self.target} is public: it is read without credentials, and not written")
        self.check_trust()
        connection = self.connection
        from lfs_agent.store.s3 import S3Store

        own = isinstance(self.target, S3Target) and target.bucket == self.target.bucket
        return S3Store(
            target.bucket,
            connection,
            self.settings if own else self.settings._replace(expected_owner=None),
            abilities=self._abilities,
            modes=self.repo.modes,
            handover=handover,
            connections=connections,
            on_secret=log.keep_secret,
            on_answer=patience.answered,
            own=own and self.given is None,
        )

    @property
    def replaces_nothing(self) -> bool:
        """Whether a put can be left to the store where nobody has asked it for the object before."""
        if isinstance(self.target, FolderTarget):
            return True
        from lfs_agent.store.abilities import obeys_conditions

        return obeys_conditions(self.claim.endpoint, self._abilities)

    @property
    def _abilities(self) -> Path:
        return self.state_dir / "stores.json"

    @cached_property
    def _aws(self) -> "Aws":
        from lfs_agent.store.aws import Aws

        return Aws(self.settings, self.environ, self._cellar_profile, self._handover, self._stop, self._on_wait)

    @cached_property
    def claim(self) -> Claim:
        """What is about to be used, and who says so.

        Raises TargetError, UsageError, CredentialsError.
        """
        if isinstance(self.target, FolderTarget):
            return Claim(self.target, "", self.named.committed, endpoint_committed=False)
        settings, chosen = self.resolved
        own = self._aws.said.endpoint.rstrip("/")
        if own and not settings.endpoint:
            resolve({"endpoint": Value(own, "AWS's own settings")})  # UsageError for one that is none
        endpoint = (settings.endpoint or own).rstrip("/")
        said_by_url = "endpoint" in chosen and chosen["endpoint"].origin == self.named.origin
        foreign = said_by_url and self.named.committed and endpoint != own
        return Claim(self.target, endpoint, self.named.committed, endpoint_committed=foreign)

    @cached_property
    def connection(self) -> "Connection":
        """Where the requests for a bucket go, and as whom."""
        from lfs_agent.store.connection import resolve_connection

        return resolve_connection(self._aws, self.settings, self.claim.endpoint, self.repo.http_setting)

    def check_trust(self) -> None:
        """Nothing, where requests may go to the store.

        Raises TargetError with the command that says yes.
        """
        trusted = {entry.value for entry in self.repo.config if entry.key == TRUSTED_KEY}
        last_push = self._last_push() if self.operation == "upload" else ""
        check(self.claim, trusted=trusted, last_push=last_push, cloning=self.repo.has_no_checkout)
        if self.claim.endpoint:
            check_scheme(self.claim.endpoint, allow_http=self.settings.allow_http)

    def _last_push(self) -> str:
        """What this clone's last push to the remote said, or else its last one to any other; "" where nothing changed.

        A first push to a remote is compared, too: another remote's name must not lead the objects elsewhere unasked.
        """
        if said := _read(self._last_push_file):
            return said
        others = [said for file in _newest_first(self._last_push_file.parent) if (said := _read(file))]
        return others[0] if others and self.claim.said not in others else ""

    @property
    def _last_push_file(self) -> Path:
        # A push may name a URL with a password.
        remote = log.redact(self.remote)
        name = "".join(c if c.isalnum() or c in "-_." else "_" for c in remote)[:100] or "_"
        return self.repo.common_dir / "lfs-agent" / "pushed" / name

    def remember_push(self) -> None:
        """Keeps where this clone's objects went, so that a later push elsewhere is asked about."""
        said = self.claim.said
        if _read(self._last_push_file) != said:
            self.repo.modes.replace(self._last_push_file, said + "\n")

    @property
    def profile_passed_over(self) -> str:
        """The AWS profile that the repository recommends, where it is not the one in use."""
        if isinstance(self.target, FolderTarget) or self._aws.said.profile:
            return ""
        return self._cellar_profile

    @cached_property
    def _cellar_profile(self) -> str:
        """The AWS profile that ml-cellar's own file recommends; "" where there is none."""
        if self.repo.worktree is None:
            return ""
        try:
            text = _committed_text(self.repo.worktree / ".mlcellar.toml")
            import tomllib  # 3 ms that most repositories do not pay: they have no such file

            profile = tomllib.loads(text).get("aws", {}).get("profile", "")
        except (OSError, ValueError, AttributeError, RecursionError):
            return ""
        return profile if isinstance(profile, str) and profile.isprintable() else ""


def _committed_text(path: Path) -> str:
    """A small file of the repository; a link could lead to a device that never ends.

    Raises OSError, ValueError.
    """
    if path.is_symlink():
        raise ValueError("a link")
    with path.open("rb") as file:
        content = file.read(_MAX_CELLAR_FILE + 1)
    if len(content) > _MAX_CELLAR_FILE:
        raise ValueError("too long")
    return content.decode()


def _read(file: Path) -> str:
    try:
        return file.read_text().strip()
    except (OSError, ValueError):
        return ""


def _newest_first(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir(), key=lambda file: file.stat().st_mtime_ns, reverse=True)
    except OSError:
        return []
