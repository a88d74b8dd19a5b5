"""The server that keeps nothing (sink.go): what is left is the client's own speed."""

import shutil
import subprocess
from pathlib import Path
from typing import ClassVar

from tests.servers import Request, Server, Tls
from tests.servers.access import operation_of, parse_target

SOURCE = Path(__file__).with_name("sink.go")


class Sink(Server):
    """Takes uploads without keeping a byte; answers downloads from a source's folder of objects."""

    name: ClassVar[str] = "sink"
    supports: ClassVar[frozenset[str]] = frozenset({"access_log", "conditional_put", "conditional_complete", "tls"})

    def __init__(self, folder: Path, objects: Path, *, tls: Tls | None = None) -> None:
        """`objects`: git-lfs's folder, of the source whose objects are pushed."""
        super().__init__(folder, tls=tls)
        self._objects = objects

    @classmethod
    def missing(cls) -> str | None:
        return (
            None
            if shutil.which("go")
            else "the sink is built with Go, which is not here: see https://go.dev/doc/install"
        )

    def forget(self, bucket: str, prefix: str) -> None:
        """There is nothing to remove."""

    def _launch(self) -> None:
        program = self.folder / "sink"
        if not program.exists():
            subprocess.run(["go", "build", "-o", program, SOURCE], check=True, capture_output=True)
        options: list[str | Path] = ["-port", str(self.port), "-objects", self._objects, "-log", self._access_log()]
        if self.tls:
            options += ["-cert", self.tls.certificate.absolute(), "-key", self.tls.key.absolute()]
        self._spawn([program, *options], log="sink-said.log")

    def _ready(self) -> bool:
        return self._ask("HEAD", "/") == 404

    def _access_log(self) -> Path:
        return self.folder / "requests.log"

    @staticmethod
    def _parse_line(line: str) -> Request | None:
        method, target, status = line.split()
        bucket, key, query = parse_target(target)
        return Request(operation_of(method, bucket, key, query), method, bucket, key, query, int(status), None)
