"""A user's side of transfers: a file, an LFS storage, what is left in it."""

import threading
from pathlib import Path
from typing import Final

from lfs_agent.modes import UMASK
from lfs_agent.parts import Limits
from lfs_agent.pointer import Oid
from lfs_agent.store import Store
from lfs_agent.transfer.download import Folders, download
from lfs_agent.transfer.meter import Meter
from lfs_agent.transfer.upload import Asking, Sent, upload
from tests.contract.stores import SMALL_PARTS, oid_of

KEY: Final = "weights/key"


class Desk:
    """A user's file and LFS storage, and the transfers between them and a store."""

    def __init__(self, folder: Path) -> None:
        self.storage = folder / "lfs"
        self.path = folder / "object"
        self.modes = UMASK
        self.meter = Meter(0, threading.Event())
        self.stop = threading.Event()

    def write(self, data: bytes) -> Oid:
        self.path.write_bytes(data)
        return oid_of(data)

    def up(
        self,
        store: Store,
        oid: Oid,
        size: int = -1,
        *,
        key: str = KEY,
        limits: Limits = SMALL_PARTS,
        replacing: str = "",
        asking: Asking | None = None,
    ) -> Sent:
        self.meter = Meter(self.path.stat().st_size if size < 0 else size, self.stop)
        return upload(
            store,
            key,
            oid,
            self.path,
            self.meter,
            state=self.state,
            limits=limits,
            streams=2,
            replacing=replacing,
            asking=asking,
        )

    @property
    def state(self) -> Path:
        """For what survives a kill."""
        return Folders(self.storage, self.modes).incomplete

    def down(self, store: Store, oid: Oid, size: int, *, key: str = KEY, limits: Limits = SMALL_PARTS) -> Path:
        self.meter = Meter(size, self.stop)
        folders = Folders(self.storage, self.modes)
        return download(store, key, oid, self.meter, folders, limits=limits, streams=2)

    def left(self) -> list[str]:
        """All files in the LFS storage."""
        return sorted(str(path.relative_to(self.storage)) for path in self.storage.rglob("*") if path.is_file())
