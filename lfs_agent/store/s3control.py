"""`S3Control`: creates jobs of S3 Batch Operations, which have an endpoint of their own."""

from collections.abc import Mapping
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError, ParamValidationError
from botocore.parsers import ResponseParserError

from lfs_agent.errors import UsageError
from lfs_agent.store.s3 import Call, S3Store


class S3Control:
    """The jobs for the bucket of `store`; each request is made by `call`.

    `control` and `sts` are endpoints, "" for Amazon's own.
    """

    def __init__(self, store: S3Store, call: Call, *, control: str, sts: str) -> None:
        self._store = store
        self._call = call
        self._control = control
        self._sts = sts

    @property
    def region(self) -> str:
        """Where a job is created: that of the bucket."""
        return self._store.region

    def account(self) -> str:
        """The account that pays for a job: the login's, as STS says. Raises what a Store raises."""
        self._store.connect()
        return str(self._ask("asking whose login it is for", "sts", self._sts, "get_caller_identity", {})["Account"])

    def create_job(self, request: Mapping[str, Any]) -> str:
        """The id of the new job. Raises what a Store raises; UsageError where boto3 does not know such a job."""
        self._store.connect()
        return str(self._ask("creating a batch job for", "s3control", self._control, "create_job", request)["JobId"])

    def _ask(
        self, doing: str, service: str, endpoint: str, operation: str, parameters: Mapping[str, Any]
    ) -> dict[str, Any]:
        client = self._store.client_of(service, endpoint)
        server = endpoint or f"Amazon's {client.meta.service_model.service_id}"

        def ask() -> dict[str, Any]:
            try:
                answer: dict[str, Any] = getattr(client, operation)(**parameters)
            except ParamValidationError as error:
                raise UsageError(
                    f"this boto3 does not know such a job ({' '.join(str(error).split())[:300]}): "
                    "pip install --upgrade boto3, or create it by the printed command"
                ) from error
            except (BotoCoreError, ClientError, ResponseParserError) as error:
                raise self._store.failure_at(server, error, doing) from error
            return answer

        return self._call(doing, ask)
