"""`Outgoing`: a worker's objects on their way to the store, with what sees to it that they stay there."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

from lfs_agent.cellar import Cellar
from lfs_agent.errors import ObjectError
from lfs_agent.ledger import Ledger
from lfs_agent.modes import StrPath
from lfs_agent.parts import Limits
from lfs_agent.pointer import Oid
from lfs_agent.store import Store
from lfs_agent.transfer.download import Folders
from lfs_agent.transfer.listing import Listing
from lfs_agent.transfer.meter import Meter
from lfs_agent.transfer.upload import Asking, Sent, upload


class Outgoing:
    """`listing`: where the workers of a session keep what the store has listed. `on_saved`: as for Keeper."""

    def __init__(
        self,
        cellar: Cellar,
        store: Store,
        listing: Path | None,
        stop: threading.Event,
        on_saved: Callable[[Oid], None],
    ) -> None:
        ledger = Ledger(store, cellar.prefix)
        listed = Listing(store, cellar.prefix, cellar.key, listing) if listing else None
        self._store = store
        self._key = cellar.key
        self._stop = stop
        self._keeper = cellar.keeper(ledger, stop, on_saved)
        self._registrar = cellar.registrar(store, ledger)
        self._asking = Asking(lambda: cellar.replaces_nothing, listed)

    def send(self, oid: Oid, path: StrPath, meter: Meter, folders: Folders, limits: Limits, streams: int) -> Sent:
        """Brings the object to the store, and says whose it is. Raises as `upload`."""
        key = self._key(oid)
        self._registrar.begin(self._stop)  # far away it would be a second round trip
        for asking in (self._asking, None):  # what was seen and is gone is asked for
            seen_at = time.monotonic()
            sent = upload(
                self._store,
                key,
                oid,
                path,
                meter,
                state=folders.incomplete,
                modes=folders.modes,
                limits=limits,
                streams=streams,
                asking=asking,
            )
            if sent.how != "skipped" or self._keeper.keep(oid, min(seen_at, sent.seen_at)):
                self._asking.count(sent)
                self._registrar.register(self._stop)
                return sent
        raise ObjectError(f"{self._store.address(key)} comes and goes: push again")

    def end(self) -> None:
        """Nothing more will be sent."""
        self._registrar.end()
