"""botocore's session: AWS's files and chain of credentials, with the user's profile."""

from collections.abc import Mapping

from botocore.config import Config
from botocore.loaders import Loader
from botocore.session import Session

from lfs_agent.config import Settings


def open_session(settings: Settings, environ: Mapping[str, str], cellar_profile: str) -> Session:
    """One for the user's profile.

    `cellar_profile`: the one that the repository recommends; used where the user has it, and nothing else of the
    user's chooses an identity.
    """
    session = Session()
    # For the servers that give credentials; the store's own client says otherwise.
    wait_s = max(1.0, settings.first_deadline / 2)
    session.set_default_client_config(
        Config(connect_timeout=wait_s, read_timeout=wait_s, retries={"total_max_attempts": 2, "mode": "standard"})
    )
    session.register_component("data_loader", _Loader())
    if environ.get("AWS_REGION"):  # which the AWS command line and the other SDKs read, and boto3 doesn't
        session.set_config_variable("region", environ["AWS_REGION"])
    if settings.profile:
        session.set_config_variable("profile", settings.profile)
    elif cellar_profile and not _chooses_identity(environ) and cellar_profile in session.available_profiles:
        session.set_config_variable("profile", cellar_profile)
    return session


class _Loader(Loader):
    """botocore's loader, without a look into the folders of all 400 services (20 ms) for the few that we use."""

    def list_available_services(self, type_name: str) -> list[str]:
        return ["s3", "s3control", "sso", "sso-oidc", "sts", "signin"]


def _chooses_identity(environ: Mapping[str, str]) -> bool:
    names = (
        "AWS_PROFILE",
        "AWS_DEFAULT_PROFILE",
        "AWS_ACCESS_KEY_ID",
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    )
    return any(environ.get(name) for name in names)
