"""Versity S3 Gateway: objects as plain files, checksums enforced, a log in Amazon's format."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from tests.servers.access import Request, parse_aws_line
from tests.servers.server import Server, cache, free_port

NSS_WRAPPER = "libnss_wrapper.so"


class Versitygw(Server):
    """versitygw 1.8.0."""

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

    @classmethod
    def missing(cls) -> str | None:
        if _binary().exists():
            return None
        return "versitygw is not installed: run `tests/install/install.sh versitygw` (needs Go)"

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
        names = [self.virtual_host, *(f"{bucket}.{self.virtual_host}" for bucket in buckets)]
        hosts.write_text("".join(f"127.0.0.1 {name}\n" for name in names))
        return {"LD_PRELOAD": NSS_WRAPPER, "NSS_WRAPPER_HOSTS": str(hosts)}

    def object_file(self, bucket: str, key: str) -> Path:
        """The plain file that holds an object: to look into, to truncate, to flip bytes of."""
        return self.folder / "buckets" / bucket / key

    def age_upload(self, bucket: str, upload_id: str, *, begun_s: float, parts_s: float | None = None) -> None:
        """Makes a multipart upload so many seconds old, and its parts; both as old where `parts_s` is None."""
        now = time.time()
        (folder,) = (self.folder / "buckets" / bucket).glob(f".sgwtmp/multipart/*/{upload_id}")
        for part in folder.iterdir():
            os.utime(part, (now, now - (begun_s if parts_s is None else parts_s)))
        os.utime(folder, (now, now - begun_s))

    def _launch(self) -> None:
        for name in ("buckets", "versions"):
            (self.folder / name).mkdir(exist_ok=True)
        options = ["--access-log", str(self._access_log())]
        if self.tls:
            options += ["--cert", str(self.tls.certificate.absolute()), "--key", str(self.tls.key.absolute())]
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


class VersitygwWithUsers(Versitygw):
    """versitygw beside its IAM service, which keeps users, keys and policies."""

    def _launch(self) -> None:
        self._iam_port = free_port()
        self._socket = self.folder / "iam.sock"
        self._socket.unlink(missing_ok=True)
        (self.folder / "iam").mkdir(exist_ok=True)
        super()._launch()

    def _spawn(self, argv: Sequence[str | Path], *, environ: Mapping[str, str] | None = None, log: str) -> None:
        program, *options = argv
        listen = ["--port", f"127.0.0.1:{self._iam_port}", "iam", "--dir", str(self.folder / "iam")]
        super()._spawn([program, *listen, "--private-ports", str(self._socket)], environ=environ, log="iam.log")
        while not self._socket.exists():
            assert self.running, (self.folder / "iam.log").read_text()
            time.sleep(0.05)
        at = options.index("posix")
        of_iam = ["--iam-standalone-endpoint", str(self._socket)]
        super()._spawn([program, *options[:at], *of_iam, *options[at:]], environ=environ, log=log)

    @property
    def iam_endpoint(self) -> str:
        """Of its IAM and STS services."""
        return f"http://127.0.0.1:{self._iam_port}"

    def iam(self) -> Any:
        """boto3's client for them, as root."""
        import boto3

        return boto3.client(
            "iam",
            endpoint_url=self.iam_endpoint,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name=self.region,
        )

    def environ_of(self, name: str, policy: str) -> dict[str, str]:
        """The environment of a new user with this policy and no other right."""
        iam = self.iam()
        iam.create_user(UserName=name)
        iam.put_user_policy(UserName=name, PolicyName="documented", PolicyDocument=policy)
        key = iam.create_access_key(UserName=name)["AccessKey"]
        keys = {"AWS_ACCESS_KEY_ID": key["AccessKeyId"], "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"]}
        return {**self.environ(), **keys}


def _binary() -> Path:
    built = cache() / "versitygw-1.8.0" / "versitygw"
    return built if built.exists() else Path(shutil.which("versitygw") or built)
