"""The server of the race: versitygw, told to hash less, so that the agents' own time shows."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.servers import Versitygw


class RaceGateway(Versitygw):
    """versitygw whose ETags are its checksums: without an MD5 of everything."""

    def _spawn(self, argv: Sequence[str | Path], *, environ: Mapping[str, str] | None = None, log: str) -> None:
        *options, folder = argv
        super()._spawn([*options, "--data-integrity-etag", folder], environ=environ, log=log)

    def forget(self, bucket: str, prefix: str) -> None:
        """Removes what is under a prefix, without asking for each."""
        shutil.rmtree(self.object_file(bucket, prefix), ignore_errors=True)
