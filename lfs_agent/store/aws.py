"""`Aws`: what AWS's own environment and files say, by botocore only where the environment alone does not say it all."""

import os
import threading
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

from lfs_agent import log
from lfs_agent.config import Settings
from lfs_agent.errors import CredentialsError
from lfs_agent.session import Handover
from lfs_agent.store.login import FREE, NONSENSE, Given, Keys, Source, as_given, failure_of

if TYPE_CHECKING:
    from botocore.session import Session

_PLAIN: Final = frozenset({
    "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ACCOUNT_ID",
    "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_CA_BUNDLE",
    "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL_STS", "AWS_ENDPOINT_URL_S3_CONTROL",
    "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS",
    # What has no part in where a request goes and as whom.
    "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE", "AWS_EC2_METADATA_DISABLED", "AWS_EXECUTION_ENV", "AWS_PAGER",
    "AWS_DEFAULT_OUTPUT", "AWS_RETRY_MODE", "AWS_MAX_ATTEMPTS",
})  # fmt: skip
"""Variables whose meaning is known here; where there is another one, botocore is asked."""
_FILES: Final = {"AWS_CONFIG_FILE": "~/.aws/config", "AWS_SHARED_CREDENTIALS_FILE": "~/.aws/credentials"}
_ODD: Final = ("AWS_S3_", "AWS_AUTH_SCHEME_PREFERENCE", "AWS_SIGV4A_")


_SECRET: Final = ("aws_secret_access_key", "aws_session_token", "aws_container_authorization_token")
"""Settings and variables that the chain may send, or sign with, before it has credentials; a server may repeat them."""


class Said(NamedTuple):
    """What AWS's own settings come to; "" where they say nothing."""

    region: str
    ca: str
    """A file of certificates to trust."""
    profile: str
    endpoint: str
    """S3's."""
    odd: str
    """What the address of a bucket, or its signatures, follow from, and only botocore knows."""


class Aws:
    """AWS's own settings, and its chain of credentials, with the user's profile.

    `cellar_profile`: the one that the repository recommends; used where the user has it, and nothing else of the
    user's chooses an identity. `handover`: where the workers of a session tell each other what the files say. `stop`:
    nobody waits for credentials any more. `on_wait` is told in a sentence what is waited for, where that takes long.
    """

    def __init__(
        self,
        settings: Settings,
        environ: Mapping[str, str],
        cellar_profile: str = "",
        handover: Handover | None = None,
        stop: threading.Event | None = None,
        on_wait: Callable[[str], None] = log.to_stderr,
    ) -> None:
        self._settings = settings
        self._environ = environ
        self._cellar_profile = cellar_profile
        self._handover = handover
        self._stop = stop or threading.Event()
        self._on_wait = on_wait
        self._spare: Source | None = None
        """What another worker has read, until it was asked for."""

    @cached_property
    def session(self) -> "Session":
        """botocore's, which takes 110 ms to import. Raises CredentialsError for a file that cannot be read."""
        # awscrt beside botocore takes its signers over and makes them four times slower: keep it out.
        os.environ.setdefault("BOTO_DISABLE_CRT", "true")
        from botocore.exceptions import ConfigParseError

        from lfs_agent.store.botosession import open_session

        try:
            session = open_session(self._settings, self._environ, self._cellar_profile)
            # Kept there: whoever asks it first would hear of a file that is broken.
            _keep_secrets(session.full_config.get("profiles", {}).values(), self._environ)
        except ConfigParseError as error:
            raise CredentialsError(
                f"{error.kwargs['path']} is not as AWS's configuration is written: mend it"
            ) from None
        return session

    @cached_property
    def is_plain(self) -> bool:
        """Whether the environment says it all, and names keys that last."""
        environ = self._environ
        if self._settings.profile or not (environ.get("AWS_ACCESS_KEY_ID") and environ.get("AWS_SECRET_ACCESS_KEY")):
            return False
        if any(name.startswith("AWS_") and environ[name] and name not in _PLAIN for name in environ):
            return False
        files = (os.path.expandvars(environ.get(name) or usual) for name, usual in _FILES.items())
        return not any(Path(os.path.expanduser(file)).exists() for file in files)

    @cached_property
    def said(self) -> Said:
        """Raises CredentialsError for a profile that is not there."""
        environ = self._environ
        if self.is_plain:
            region = environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION") or ""
            return Said(region, environ.get("AWS_CA_BUNDLE") or "", "", self.endpoint_of("s3"), "")
        return self._taken_over() or self._read()

    def _read(self) -> Said:
        endpoint, session = self.endpoint_of("s3"), self.session
        region, ca = (str(session.get_config_variable(name) or "") for name in ("region", "ca_bundle"))
        said = Said(region, ca, session.profile or "", endpoint, self._odd())
        self._leave(said)
        return said

    def _leave(self, said: Said, keys: Mapping[str, str] = {}) -> None:
        """For the other workers, which need not load botocore then."""
        if self._handover:
            self._handover.leave({"of": self._wanted, **said._asdict(), **keys})

    def _taken_over(self) -> Said | None:
        """What another worker has left of the same profile; None where none has."""
        given = self._handover.given() if self._handover else None
        if not given or given.pop("of", None) != self._wanted:
            return None
        said = Said(*(given.pop(name) for name in Said._fields))
        if method := given.pop("method", None):
            self._spare = Given(Keys(**given), method)
        return said

    @property
    def _wanted(self) -> str:
        """Which profile; one bucket may have another than the next."""
        return f"{self._settings.profile or ''} {self._cellar_profile}"

    def endpoint_of(self, service: str) -> str:
        """The endpoint of AWS's own settings for a service, in their documented order; "" where they name none.

        Raises CredentialsError for a profile that is not there.
        """
        profile, services = ({}, {}) if self.is_plain else self._configured
        environ = self._environ
        ignore = environ.get("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS") or profile.get("ignore_configured_endpoint_urls")
        if str(ignore).lower() == "true":
            return ""
        return str(
            environ.get(f"AWS_ENDPOINT_URL_{service.upper()}")
            or environ.get("AWS_ENDPOINT_URL")
            or services.get(service, {}).get("endpoint_url")
            or profile.get("endpoint_url")
            or ""
        )

    @property
    def _configured(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The profile, and the section of services that it names."""
        from botocore.exceptions import ProfileNotFound

        session = self.session
        try:
            profile = session.get_scoped_config()
        except ProfileNotFound as error:
            raise CredentialsError(f"{error}; see: aws configure list-profiles") from None
        return profile, session.full_config.get("services", {}).get(profile.get("services"), {})

    def _odd(self) -> str:
        profile, _ = self._configured
        wanted = ("use_fips_endpoint", "use_dualstack_endpoint")
        said = [name for name in wanted if self.session.get_config_variable(name)]
        said += {"s3", "auth_scheme_preference", "sigv4a_signing_region_set"} & profile.keys()
        return " ".join([*said, *(name for name in self._environ if name.startswith(_ODD))])

    def ask_chain(self) -> Source | None:
        """What AWS's chain gives now, asked from its beginning: what it gave before may have been renewed."""
        if self.is_plain:
            environ = self._environ
            token, account_id = environ.get("AWS_SESSION_TOKEN"), environ.get("AWS_ACCOUNT_ID")
            lasting = (environ["AWS_ACCESS_KEY_ID"], environ["AWS_SECRET_ACCESS_KEY"])
            return Given(Keys(*lasting, token or None, account_id or None), "env")
        if spare := self._spare:
            self._spare = None
            return spare
        found = self._asked()
        if self._handover and found and found.method in FREE:
            self._leave(self.said, {"method": found.method, **as_given(found.get_frozen_credentials())})
        return found

    def _asked(self) -> Source | None:
        """As botocore's own resolver asks, from source to source; what one says nonsense of is told as its."""
        from botocore.credentials import create_credential_resolver

        from lfs_agent.store.helper import attend

        try:
            resolver = create_credential_resolver(self.session)
        except ValueError as error:
            raise CredentialsError(
                f"AWS's own settings have a number that is none ({error}): correct AWS_METADATA_SERVICE_TIMEOUT or "
                "AWS_METADATA_SERVICE_NUM_ATTEMPTS, or the profile's metadata_service_…"
            ) from None
        attend(resolver, self.session, self._stop, self._on_wait)
        for source in resolver.providers:
            try:
                found = cast("Source | None", source.load())
            except NONSENSE as error:
                raise failure_of(str(source.METHOD), error) from error
            if found is not None:
                return found
        return None


def _keep_secrets(profiles: Iterable[Mapping[str, Any]], environ: Mapping[str, str]) -> None:
    """Of all profiles: one may ask another one's keys to be taken for its role."""
    for settings in (*profiles, {name.lower(): value for name, value in environ.items()}):
        for name in _SECRET:
            if secret := settings.get(name):
                log.keep_secret(str(secret))
