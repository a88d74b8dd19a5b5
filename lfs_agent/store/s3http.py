"""`BoundedSession`: botocore's HTTP, which keeps the whole of an answer in memory, and here no more than a sane one."""

from typing import Any, Final

from botocore.awsrequest import AWSPreparedRequest, AWSResponse
from botocore.exceptions import HTTPClientError, ReadTimeoutError
from botocore.httpsession import URLLib3Session
from urllib3.exceptions import HTTPError
from urllib3.exceptions import ReadTimeoutError as Urllib3ReadTimeoutError

from lfs_agent.parts import KIB
from lfs_agent.store.s3errors import is_too_long

_BLOCK: Final = 64 * KIB


class BoundedSession:
    """Stands before a client's own session."""

    def __init__(self, session: URLLib3Session) -> None:
        self._session = session

    def send(self, request: AWSPreparedRequest) -> AWSResponse:
        """The answer; but for an object's content it has been read.

        Raises what botocore does; HTTPClientError for an answer that is too long.
        """
        streamed: bool = request.stream_output
        request.stream_output = True
        answer: Any = self._session.send(request)
        if not streamed or answer.status_code >= 300:
            return AWSResponse(answer.url, answer.status_code, answer.headers, _Whole(_read(answer)))
        whole: AWSResponse = answer
        return whole

    def close(self) -> None:
        self._session.close()


class _Whole(bytes):
    """A body as AWSResponse takes it."""

    def stream(self) -> list[bytes]:
        return [self]


def _read(answer: AWSResponse) -> bytes:
    raw: Any = answer.raw
    content = bytearray()
    try:
        while block := raw.read(_BLOCK):
            content += block
            if is_too_long(content):
                raw.close()
                raise HTTPClientError(error="an answer that is too long")
    except Urllib3ReadTimeoutError as error:
        raise ReadTimeoutError(endpoint_url=answer.url, error=error) from error
    except HTTPError as error:
        raise HTTPClientError(error=error) from error
    return bytes(content)
