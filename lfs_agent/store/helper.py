"""`Helper`: a `credential_process`, told to be waited for where it takes long, and ended with who waits."""

import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from botocore.credentials import AssumeRoleProvider, ProcessProvider

from lfs_agent.errors import StoppedError

if TYPE_CHECKING:
    from botocore.credentials import CredentialResolver
    from botocore.session import Session

_POLL_S: Final = 0.1
_LONG_S: Final = 10.0


def attend(
    resolver: "CredentialResolver", session: "Session", stop: threading.Event, on_wait: Callable[[str], None]
) -> None:
    """Has the chain's helpers started by `Helper`.

    There is no public way in: where a botocore has other names for what is looked for here, they are started as ever.
    """

    def attended(profile: str) -> Any:
        starts: Any = partial(Helper, profile, stop, on_wait)
        return ProcessProvider(profile, lambda: session.full_config, popen=starts)

    sources: list[Any] = resolver.providers
    for at, source in enumerate(sources):
        known = vars(source)
        if isinstance(source, ProcessProvider) and "_profile_name" in known:
            sources[at] = attended(known["_profile_name"])
        if isinstance(source, AssumeRoleProvider) and "_profile_provider_builder" in known:  # asks another profile's
            known["_profile_provider_builder"]._create_process_provider = attended


class Helper:
    """As much of a Popen as botocore uses. Nobody is hurried: it may be asking a person."""

    def __init__(
        self,
        profile: str,
        stop: threading.Event,
        on_wait: Callable[[str], None],
        words: Sequence[str],
        *,
        stdout: int,
        stderr: int,
    ) -> None:
        self._profile = profile
        self._stop = stop
        self._on_wait = on_wait
        # In our own group: in one of its own it could not ask at the terminal.
        self._process = subprocess.Popen(words, stdout=stdout, stderr=stderr)

    @property
    def returncode(self) -> int | None:
        code: int | None = self._process.returncode
        return code

    def communicate(self) -> tuple[bytes, bytes]:
        """What it says. Raises StoppedError."""
        began = time.monotonic()
        is_told = False
        try:
            while True:
                with suppress(subprocess.TimeoutExpired):
                    said: tuple[bytes, bytes] = self._process.communicate(timeout=_POLL_S)
                    return said
                if self._stop.is_set():
                    raise StoppedError("stopped")
                if not is_told and time.monotonic() - began > _LONG_S:
                    is_told = True
                    program = f"(credential_process of profile {self._profile})"
                    self._on_wait(f"waiting for the program that gives credentials {program}")
        except BaseException:  # Ctrl-C may have reached us alone
            self._process.terminate()
            raise
