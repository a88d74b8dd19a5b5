"""LocalStack (S3 only): needs nothing but Python; accepts any keys, forgets its objects when it ends."""

import json
import shutil
import tempfile
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from tests.servers.access import Request, operation_of, parse_target
from tests.servers.server import Server, Tls, cache

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

VERSION = "4.13.1"
# What a first start computes for seconds and later ones only read.
_CATALOGUE = (".cache/plux", f"var/lib/localstack/cache/service-catalog-{VERSION.replace('.', '_')}-*.dill")


class LocalStack(Server):
    """LocalStack 4.13.1 from its own virtual environment. The test's own client is pytest-localstack's."""

    name: ClassVar[str] = "localstack"
    supports: ClassVar[frozenset[str]] = frozenset(
        {"access_log", "checksums", "conditional_complete", "conditional_put", "stored_headers", "tls"}
    )

    def __init__(self, folder: Path, *, port: int | None = None, tls: Tls | None = None) -> None:
        super().__init__(folder, port=port, tls=tls)

    @classmethod
    def missing(cls) -> str | None:
        if _python().exists():
            return None
        return "LocalStack is not installed: run `tests/install/install.sh localstack`"

    def client(self) -> "S3Client":
        if self.tls:  # pytest-localstack passes no CA
            return super().client()
        client: S3Client = self._session.boto3.client("s3")
        return client

    @cached_property
    def _session(self) -> Any:
        from pytest_localstack.session import RunningSession

        return RunningSession("127.0.0.1", services={"s3": self.port}, region_name=self.region)

    def _launch(self) -> None:
        self.__dict__.pop("_session", None)
        self._copy_catalogue(_state(), self.folder)
        (self.folder / "tmp").mkdir(exist_ok=True)
        environ = {"ACCESS_LOG": str(self._access_log()), "TMPDIR": str(self.folder / "tmp")}
        if self.tls:
            pem = self.folder / "tls.pem"
            pem.write_bytes(self.tls.key.read_bytes() + self.tls.certificate.read_bytes())
            environ["CUSTOM_SSL_CERT_PATH"] = str(pem)
        main = Path(__file__).with_name("localstack_main.py")
        self._spawn([_python(), "-I", main, self.folder, str(self.port)], environ=environ, log="localstack.log")

    def _wait_until_ready(self) -> None:
        super()._wait_until_ready()
        if not _state().exists():
            self._keep_catalogue()

    def _ready(self) -> bool:
        return self._ask("GET", "/_localstack/health") == 200

    def _access_log(self) -> Path:
        return self.folder / "access.log"

    @staticmethod
    def _parse_line(line: str) -> Request | None:
        if not line.startswith("{"):
            return None
        entry = json.loads(line)
        bucket, key, query = parse_target(entry["target"])
        method = entry["method"]
        operation = entry["operation"] or operation_of(method, bucket, key, query)
        return Request(operation, method, bucket, key, query, entry["status"], entry["bytes"])

    def _keep_catalogue(self) -> None:
        temporary = Path(tempfile.mkdtemp(prefix=".state.", dir=_state().parent))
        self._copy_catalogue(self.folder, temporary)
        try:
            temporary.rename(_state())
        except OSError:  # another one was first
            shutil.rmtree(temporary)

    @staticmethod
    def _copy_catalogue(source: Path, target: Path) -> None:
        for pattern in _CATALOGUE:
            for found in source.glob(pattern):
                place = target / found.relative_to(source)
                if not place.exists():
                    place.parent.mkdir(parents=True, exist_ok=True)
                    (shutil.copytree if found.is_dir() else shutil.copy2)(found, place)


def _python() -> Path:
    return cache() / f"localstack-{VERSION}" / "bin" / "python"


def _state() -> Path:
    return cache() / f"localstack-{VERSION}" / "state"
