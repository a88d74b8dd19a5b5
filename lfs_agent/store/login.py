"""`Login`: what AWS's chain of credentials gives, once for all workers of a session, and anew when it is refused."""

import json
import re
from collections.abc import Callable
from typing import Any, Final, NamedTuple, Protocol

from lfs_agent.session import Handover
from lfs_agent.store.s3errors import is_from_client
from lfs_agent.turns import Mutex, beside

FREE: Final = frozenset({"env", "shared-credentials-file", "config-file"})
"""Methods of sources that ask nobody: each worker may read them for itself."""


CONTROL: Final = r"[\x00-\x1f\x7f]"
"""In a header, what follows a line break would be another one."""


class Keys(NamedTuple):
    """What requests are signed with, as botocore has it."""

    access_key: str
    secret_key: str
    token: str | None = None
    account_id: str | None = None


class Source(Protocol):
    """Whatever gives keys: one of botocore's credentials, mostly, which renews what ends."""

    method: str

    def get_frozen_credentials(self) -> Keys:
        """What the next request is signed with."""


class Given:
    """Keys as they are, from `method`."""

    def __init__(self, keys: Keys, method: str) -> None:
        self._keys = keys
        self.method = method

    def get_frozen_credentials(self) -> Keys:
        return self._keys


class Login:
    """Credentials as botocore takes them, and the provider that its session asks for them.

    `chain`: AWS's chain, asked from the beginning at each call. `handover`: where the workers of a session leave a
    login to each other; a helper that asks a person is started by one of them only. `on_secret` is told every secret
    before it is used.
    """

    method = "lfs-agent"

    def __init__(
        self,
        chain: Callable[[], Source | None],
        handover: Handover | None = None,
        on_secret: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._chain = chain
        self._handover = handover
        self._on_secret = on_secret
        self._renewing = Mutex()  # requests of several threads are refused at once, and one login is enough
        self._source: Source | None = None
        self.known: Keys | None = None
        """What a request was signed with last."""
        self._spent = False
        """These were taken in place of refused ones, and no request has succeeded with them."""

    def load_credentials(self) -> "Login | None":
        """Logs in, once; None where nothing in the chain has credentials. Raises what the chain raises."""
        if self._source is None:
            self._source = self._logged_in(None)
        return self if self._source else None

    def get_frozen_credentials(self) -> Keys:
        """What the next request is signed with; botocore renews in time what says when it ends."""
        assert self._source is not None, "load_credentials comes first"
        try:
            frozen = _frozen(self._source)
        except Exception as error:
            if self.known is None or is_from_client(error):  # whoever logs in for the first time tells it better
                raise
            raise failure_of(self._source.method, error) from error  # of a helper that is gone
        if frozen != self.known:
            for secret in (frozen.secret_key, frozen.token):
                if secret:
                    self._on_secret(secret)
            _check(frozen, self._source.method)
            self.known = frozen
        return frozen

    @property
    def account_id(self) -> str | None:
        """Of whom they are, where the chain says so; botocore asks."""
        return self.get_frozen_credentials().account_id

    def get_deferred_property(self, name: str) -> Callable[[], Any]:
        """What botocore asks for only where it needs it."""
        return lambda: getattr(self, name, None)

    def accepted(self) -> None:
        """A request has succeeded."""
        self._spent = False

    def renewed(self, refused: Keys) -> bool:
        """Whether there are others now than those that the store has refused; not where these were new, too.

        Raises what the chain raises.
        """
        with self._renewing:
            if self.get_frozen_credentials() != refused:
                return True
            if self._spent:
                return False
            self._spent = True
            if (found := self._logged_in(refused)) is None:
                return False  # other requests go on with what there is, and are told what is wrong with it
            self._source = found
            return self.get_frozen_credentials() != refused

    def _logged_in(self, refused: Keys | None) -> Source | None:
        if self._handover is None:
            return beside(self._chain)
        of_no_use = (None, as_given(refused) if refused else None)
        given = self._handover.given()
        if given in of_no_use:
            with self._handover.held():
                given = self._handover.given()  # somebody may have logged in meanwhile
                if given in of_no_use:
                    found = beside(self._chain)
                    spare = found if found and found.method not in FREE else None
                    self._handover.leave(as_given(_frozen(spare)) if spare else {})
                    return found
        return Given(Keys(**given), "handed over") if given else beside(self._chain)


NONSENSE: Final = (LookupError, ValueError)
"""What comes of a source that says nonsense, where botocore does not look."""


def failure_of(method: str, error: Exception) -> Exception:
    """What botocore raises for a source that fails, for what it has let through: that names no source."""
    from botocore.exceptions import CredentialRetrievalError, SSOTokenLoadError

    match error:
        case json.JSONDecodeError():  # nobody else's answer is parsed without a look
            words = f"a credential_process gave no JSON ({error})"
        case LookupError() if method == "sso":  # its file was cut, mostly
            return SSOTokenLoadError(error_msg=f"what is kept of the login lacks {error}")
        case LookupError():
            words = f"what answered lacks {error}"
        case _:
            words = str(error) or type(error).__name__
    return CredentialRetrievalError(provider=method, error_msg=words)


def _frozen(source: Source) -> Keys:
    try:
        return source.get_frozen_credentials()
    except NONSENSE as error:
        raise failure_of(source.method, error) from error


def _check(keys: Keys, method: str) -> None:
    """Raises what botocore does for keys with a line break, as a file that was read whole ends in one."""
    named = {"access key": keys.access_key, "secret key": keys.secret_key, "session token": keys.token}
    for name, value in named.items():
        if value and re.search(CONTROL, value):
            from botocore.exceptions import CredentialRetrievalError

            words = f"the {name} has a line break in it, or another control character: set it without"
            raise CredentialRetrievalError(provider=method, error_msg=words)


def as_given(credentials: Keys) -> dict[str, str]:
    """Keys as they are handed over."""
    return {name: value for name, value in credentials._asdict().items() if value}
