"""Versity S3 Gateway: objects as plain files, checksums enforced, a log in Amazon's format."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

from tests.servers.access import Request, parse_aws_line
from tests.servers.server import Server, Tls, cache

NSS_WRAPPER = "libnss_wrapper.so"


class Versitygw(Server):
    """versitygw 1.8.0. With `virtual_host="s3.test"` buckets are also host names: BUCKET.s3.test:PORT."""

    name: ClassVar[str] = "versitygw"
    supports: ClassVar[frozenset[str]] = frozenset(
        {
            "access_log",
            "checksums",
            "conditional_complete",
            "conditional_put",
            "files",
            "policies",
            "tls",
            "wrong_secret_refused",
        }
    )

    def __init__(
        self,
        folder: Path,
        *,
        port: int | None = None,
        tls: Tls | None = None,
        virtual_host: str | None = None,
    ) -> None:
        super().__init__(folder, port=port, tls=tls)
        self.virtual_host = virtual_host

    @classmethod
    def missing(cls) -> str | None:
        if _binary().exists():
            return None
        return "versitygw is not installed: run `tests/install/install.sh versitygw` (needs Go)"

    @property
    def virtual_endpoint(self) -> str:
        """The endpoint whose buckets are host names; its names resolve under `names_environ`."""
        return f"{'https' if self.tls else 'http'}://{self.virtual_host}:{self.port}"

    @staticmethod
    def names_missing() -> str | None:
        """Why `names_environ` cannot work here, and what installs it; None where it can."""
        tried = subprocess.run(
            ["true"],
            env={**os.environ, "LD_PRELOAD": NSS_WRAPPER},
            capture_output=True,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        if sys.platform == "linux" and not tried.stderr:
            return None
        return "libnss-wrapper is not installed: run `tests/install/install.sh nss-wrapper` (needs apt-get)"

    def names_environ(self, *buckets: str) -> dict[str, str]:
        """Makes the virtual host and its buckets resolve to 127.0.0.1 in a child process (libnss-wrapper)."""
        hosts = self.folder / "hosts"
        names = [str(self.virtual_host), *(f"{bucket}.{self.virtual_host}" for bucket in buckets)]
        hosts.write_text("".join(f"127.0.0.1 {name}\n" for name in names))
        return {"LD_PRELOAD": NSS_WRAPPER, "NSS_WRAPPER_HOSTS": str(hosts)}

    def object_file(self, bucket: str, key: str) -> Path:
        """The plain file that holds an object: to look into, to truncate, to flip bytes of."""
        return self.folder / "buckets" / bucket / key

    def _launch(self) -> None:
        for name in ("buckets", "versions"):
            (self.folder / name).mkdir(exist_ok=True)
        options = ["--access-log", str(self._access_log())]
        if self.tls:
            options += ["--cert", str(self.tls.certificate.absolute()), "--key", str(self.tls.key.absolute())]
        if self.virtual_host:
            options += ["--virtual-domain", f"{self.virtual_host}:{self.port}"]
        self._spawn(
            [
                str(_binary()),
                "--port",
                f"127.0.0.1:{self.port}",
                "--keep-alive",
                "--quiet",
                "--health",
                "/health",
            ]
            + options
            + ["posix", "--versioning-dir", str(self.folder / "versions"), str(self.folder / "buckets")],
            environ={"ROOT_ACCESS_KEY": self.access_key, "ROOT_SECRET_KEY": self.secret_key},
            log="versitygw.log",
        )

    def _ready(self) -> bool:
        return self._ask("GET", "/health") == 200

    def _access_log(self) -> Path:
        return self.folder / "access.log"

    @staticmethod
    def _parse_line(line: str) -> Request | None:
        return parse_aws_line(line)


def _binary() -> Path:
    built = cache() / "versitygw-1.8.0" / "versitygw"
    return built if built.exists() else Path(shutil.which("versitygw") or built)
