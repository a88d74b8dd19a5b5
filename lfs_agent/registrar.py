"""`Registrar`: says at the store, in its ledger, whose the objects are that a clone pushes."""

import hashlib
import math
import os
import re
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit, urlunsplit

from lfs_agent import log
from lfs_agent.errors import ObjectError
from lfs_agent.lease import lease_if_possible
from lfs_agent.ledger import Ledger
from lfs_agent.modes import Modes
from lfs_agent.session import Moment
from lfs_agent.turns import Flag

_REGISTERED_FOR_S: Final = 600.0
"""So long a clone believes that it is registered; then it says so again: somebody may have taken it out, or made the
bucket anew, and what is pushed after that would be nobody's."""
_LOOK_EVERY_S: Final = 10.0
"""So often whoever pushes many objects looks whether it is time."""
_ENDS_FOR_S: Final = 0.5


class Registrar:
    """Registers the repositories that a clone pushes to, before a push has succeeded.

    `memory`: a folder of the clone for what has been said; `place`: which store, with all that decides that, which
    is known when there are credentials. `looks`: the memory is believed only where the store has it, too: somebody may
    have made it anew a moment ago, and brings back what it had.
    """

    def __init__(
        self,
        ledger: Ledger,
        urls: Sequence[str],
        memory: Path,
        place: Callable[[], str],
        modes: Modes,
        *,
        looks: bool = False,
    ) -> None:
        self._ledger = ledger
        self._urls = urls
        self._memory = memory
        self._of = place
        self._modes = modes
        self._looks = looks
        self._looked: Moment | None = None
        self._beside: Flag | None = None
        """Set when the thread that was begun has ended."""
        self._failure: BaseException | None = None
        """What has ended that thread."""

    @cached_property
    def _place(self) -> str:
        return self._of()

    @cached_property
    def _memories(self) -> dict[str, Path]:
        names = {url: f"{self._place}\n{url}".encode(errors="surrogateescape") for url in self._urls}
        return {url: self._memory / hashlib.sha256(name).hexdigest()[:32] for url, name in names.items()}

    def begin(self, stop: threading.Event) -> None:
        """Lets a thread do what `register` would, which waits for it: beside what is done until then.

        For one thread, as is `register` where this is used.
        """
        if self._beside and not self._beside.is_set():  # it was begun beside another object
            return
        self._beside = self._failure = None
        if not self._has_looked() and (self._looks or not all(map(_is_fresh, self._memories.values()))):
            over = Flag()
            threading.Thread(target=self._try, args=(stop, over), daemon=True).start()
            self._beside = over  # only now: where no thread can be had, nobody would ever set it

    def _try(self, stop: threading.Event, over: Flag) -> None:
        try:
            self._register(stop)
        except BaseException as error:
            self._failure = error
        over.set()

    def register(self, stop: threading.Event) -> None:
        """Nothing, where that was done a moment ago.

        Raises ObjectError where it can't be said: then nothing may count as stored.
        """
        if self._beside:
            self._beside.wait()
            self._beside = None
            if self._failure:
                raise self._failure
        self._register(stop)  # what it was done beside may have taken an hour

    def end(self) -> None:
        """Waits for what was begun beside an object that has failed: a moment, so that it leaves nothing half done."""
        if self._beside:
            self._beside.wait(_ENDS_FOR_S)

    def _has_looked(self) -> bool:
        return self._looked is not None and self._looked.is_within(_LOOK_EVERY_S)

    def _register(self, stop: threading.Event) -> None:
        if self._has_looked():
            return
        for url, file in self._memories.items():
            if self._is_known(url, file):
                continue
            with lease_if_possible(file, stop, self._modes):  # without a memory it is said again
                if not self._is_known(url, file):  # else another worker was faster
                    self._say(url, again=_said_s(file) < math.inf)
                    with suppress(OSError):
                        file.write_text(f"{self._place}\n{url}\n", errors="surrogateescape")
        self._looked = Moment.now()

    def _is_known(self, url: str, memory: Path) -> bool:
        return _is_fresh(memory) and (not self._looks or self._ledger.is_registered(url))

    def _say(self, url: str, *, again: bool) -> None:
        try:
            self._ledger.register(url, again=again)
        except ObjectError as error:
            raise ObjectError(
                f"this repository could not be registered beside its objects ({error}); unregistered, it could lose "
                "them when another repository that shares the store cleans up (lfs-agent gc)"
            ) from error


def _is_fresh(memory: Path) -> bool:
    return _said_s(memory) < _REGISTERED_FOR_S


def _said_s(memory: Path) -> float:
    """How long ago that was said; endless where it never was."""
    try:
        found = memory.stat()
    except OSError:
        return math.inf
    return abs(time.time() - found.st_mtime) if found.st_size else math.inf


_ADDRESS: Final = re.compile(r"[A-Za-z0-9]+::")
_SCP: Final = re.compile(r"(?:[^/@:\s]+@)?[A-Za-z0-9[][^/:\s]*:(?!:)\S")


def shareable(url: str, top: Path) -> str:
    """A repository's URL as everybody may read it: without a password or a token; a path begins at the root.

    >>> shareable("https://vera:secret@host.example:8443/cellar.git?token=x", Path("/work"))
    'https://host.example:8443/cellar.git'
    >>> shareable("ssh://git:secret@host.example/cellar.git", Path("/work"))
    'ssh://git@host.example/cellar.git'
    >>> shareable("git@host.example:cellar.git", Path("/work")), shareable("../cellar.git", Path("/work"))
    ('git@host.example:cellar.git', '/cellar.git')
    """
    if _ADDRESS.match(url):
        return log.redact(url)
    if "://" in url:
        scheme, netloc, path, _, _ = urlsplit(url)
        login, at, host = netloc.rpartition("@")
        user = login.partition(":")[0] + at if scheme in ("ssh", "git+ssh", "ssh+git") else ""
        return log.redact(urlunsplit((scheme, user + host, path, "", "")))
    if _SCP.match(url):
        return url
    return os.path.normpath(top / url)  # not resolved: a link may lead elsewhere tomorrow
