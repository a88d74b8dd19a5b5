"""What a store can do beyond plain S3, learned by asking once, and remembered per endpoint in a file."""

import json
import threading
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, get_args

from lfs_agent.errors import DiskError, StoppedError
from lfs_agent.lease import lease
from lfs_agent.modes import UMASK, Modes
from lfs_agent.store import Replacing

MultipartChecksum = Literal["full", "composite", "none"]

_LONGEST_S: Final = 1.0
"""To wait for others who learn; each does no more than write the file."""


class Abilities(NamedTuple):
    """The optimistic start is Amazon; a store takes away what it refuses."""

    conditional_put: bool = True
    """PutObject with If-None-Match."""
    obeyed: bool = False
    """A put was refused for that: the condition is obeyed, not only taken."""
    conditional_complete: bool = True
    """CompleteMultipartUpload with If-None-Match."""
    put_checksum: bool = True
    """PutObject with x-amz-checksum-sha256."""
    shown_checksum: bool = True
    """HeadObject with x-amz-checksum-mode."""
    put_confirmed: bool = False
    """An answer to PutObject has shown that checksum; until then Content-MD5 guards the body, too."""
    md5_etag: bool = True
    """An ETag that looks like an MD5 is that of what was sent; encrypted with a key of one's own, it may be none."""
    replacing: Replacing | Literal["unasked"] = "unasked"
    """Whether PutObject and CompleteMultipartUpload obey If-Match."""
    bare_etag: bool = False
    """If-Match takes an ETag without its quotes only."""
    conditional_delete: bool = True
    """DeleteObject with If-Match is answered; whether it is obeyed, too, nobody knows."""
    multipart_checksum: MultipartChecksum = "full"
    """CRC-32C of a multipart upload: of the whole object, of its parts, or none."""


class AbilitiesFile:
    """The abilities of one endpoint, kept in `path` among those of others; without a path, for this process only."""

    def __init__(self, path: Path | None, endpoint: str, modes: Modes = UMASK) -> None:
        """`endpoint`: "" for Amazon's own."""
        self._path = path
        self._modes = modes
        self._endpoint = endpoint or "amazonaws.com"
        self._learning = threading.Lock()  # one thread at a time changes `now` and the file
        self.now = self._load(Abilities())

    @property
    def asked(self) -> bool:
        """Whether the endpoint has been asked before, by a process that kept what it learned."""
        return isinstance(self._read().get(self._endpoint), dict)

    def learn(self, **abilities: Any) -> None:
        """Takes the new values over, and keeps them for the next process."""
        with self._learning, ExitStack() as stack:
            if self._path is not None:
                # On a full disk it is not kept, either; who holds it for so long was suspended: nobody waits for that.
                with suppress(DiskError, StoppedError):
                    stack.enter_context(lease(self._path, threading.Event(), self._modes, _LONGEST_S))
            self.now = self._load(self.now)._replace(**abilities)  # others have learned meanwhile
            if self._path is not None:
                self._keep(self._path)

    def _keep(self, path: Path) -> None:
        try:
            self._modes.replace(path, json.dumps(self._read() | {self._endpoint: self.now._asdict()}, indent=1))
        except OSError:  # it is asked again next time
            with suppress(OSError):
                if not path.stat().st_size:  # made by the lease, on a full disk
                    path.unlink()

    def _load(self, start: Abilities) -> Abilities:
        """What is kept that differs from Amazon's, which nobody has to learn; all else as it is in `start`."""
        known = self._read().get(self._endpoint)
        if not isinstance(known, dict):
            return start
        amazon = Abilities()._asdict()
        learned = {k: v for k, v in known.items() if k in amazon and v != amazon[k]}
        kept: dict[str, Any] = {k: v for k, v in learned.items() if type(v) is type(amazon[k])}
        for name, words in (("multipart_checksum", MultipartChecksum), ("replacing", Replacing)):
            if kept.get(name) not in get_args(words):
                kept.pop(name, None)
        return start._replace(**kept)

    def _read(self) -> dict[str, Any]:
        if self._path is None:
            return {}
        try:
            content = json.loads(self._path.read_bytes())
        except (OSError, ValueError, RecursionError):
            return {}
        return content if isinstance(content, dict) else {}


def obeys_conditions(endpoint: str, abilities: Path) -> bool:
    """Whether the store puts nothing in the place of something: Amazon's, and one that has refused to do so before.

    Some take the condition, and overwrite.
    """
    known = AbilitiesFile(abilities, endpoint).now
    return not endpoint or (known.obeyed and known.conditional_put)
