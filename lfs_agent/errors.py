"""What can go wrong: one tree; each class knows its code for git-lfs and its exit status for the shell.

AgentError
├── UsageError            the command line, or a setting, is wrong
├── SessionError          no object of this session can survive it: all workers stop
│   ├── TargetError       no store is named, or the named one may not be used
│   ├── CredentialsError  none, expired, or refused
│   ├── UnreachableError  the endpoint does not answer
│   ├── BucketError       the bucket (or the folder) is not there, or is not ours to use
│   └── DiskError         the local disk is full or cannot be written
├── ObjectError           one object; the others go on
│   ├── MissingError      the store has nothing at the key
│   ├── DamagedError      what the store has is not the object
│   ├── LocalError        what the local file holds is not the object
│   ├── DeniedError       the store refuses this request
│   ├── ArchivedError     there, but not readable now
│   ├── ConflictError     another writer was first
│   └── UnsupportedError  the store does not know what was asked of it
├── ReportError           what Amazon wrote about a bucket can't be used
├── TransientError        worth asking again
├── ProtocolError         git-lfs said something that is not in the protocol
└── StoppedError          we were told to stop
"""

from typing import Any, ClassVar, Final


class AgentError(Exception):
    """A sentence for the user. `code` goes to git-lfs, `status` to the shell."""

    code: ClassVar[int] = 1
    status: ClassVar[int] = 3

    def details(self) -> dict[str, Any]:
        """What the log keeps beside the sentence."""
        return {"error": type(self).__name__, "message": str(self)}


class UsageError(AgentError):
    """The command line, or a setting, is wrong."""

    code = 22
    status = 2


class SessionError(AgentError):
    """No object of this session can survive this cause."""

    code = 32


class TargetError(SessionError):
    """No store is named, or the named one may not be used."""


class CredentialsError(SessionError):
    """There are no credentials, or they are expired or refused."""


class UnreachableError(SessionError):
    """The endpoint does not answer."""


class BucketError(SessionError):
    """The bucket or folder is not there, or is not the expected one."""


class DiskError(SessionError):
    """The local disk is full or cannot be written."""


class ObjectError(AgentError):
    """One object fails; the others go on."""

    code = 2


class MissingError(ObjectError):
    """The store has nothing at the key."""

    code = 404
    status = 1


class DamagedError(ObjectError):
    """What the store holds at the key is not the object."""

    code = 422
    status = 1


MENDED_BY: Final = "lfs-agent repair --deep replaces it, then push again"
"""What a push that meets a DamagedError says to do."""


class LocalError(ObjectError):
    """What the local file holds is not the object, or it cannot be read."""


class DeniedError(ObjectError):
    """The store refuses this request."""

    code = 403


class ArchivedError(ObjectError):
    """The object is there, but has to be restored before it can be read."""

    code = 403


class ConflictError(ObjectError):
    """Another writer was first: only a look at the store can tell what is there now."""

    code = 409


class UnsupportedError(ObjectError):
    """The store does not know what was asked of it: there may be a simpler way to ask."""

    code = 501


class ReportError(AgentError):
    """A report or an inventory is broken, of another bucket, or not what it should be."""


class TransientError(AgentError):
    """Worth asking again. `retry_after_s`: how long the store wants to be left alone, in seconds.

    `heard`: the store itself said so; else nothing was heard of it. `busy`: it asks for fewer requests.
    """

    def __init__(
        self,
        message: str,
        *,
        retry_after_s: float | None = None,
        heard: bool = False,
        busy: bool = False,
        last: AgentError | None = None,
    ) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.heard = heard
        self.busy = busy
        self.last = last
        """What to raise when there is no time left to ask again; None: an ObjectError with this message."""


class ProtocolError(AgentError):
    """git-lfs said something that is not in the protocol."""

    code = 22


class StoppedError(AgentError):
    """We were told to stop: end of input, a signal, or a cause that another worker met."""

    code = 130
    status = 130


def out_of_threads(error: BaseException) -> SessionError | None:
    """What the user can do where the system allows no more threads, which Python says as a RuntimeError; else None."""
    if not isinstance(error, RuntimeError) or "can't start new thread" not in str(error):
        return None
    return SessionError(
        "no more threads or processes are allowed here: raise the limit (ulimit -u, or the container's limit of pids), "
        "or have fewer workers: git config lfs.concurrenttransfers 2"
    )


def excerpt(text: str, longest: int) -> str:
    """The beginning of what was given, quoted for a sentence.

    Without the login of a URL: once it is cut, nobody knows it for one.

    >>> excerpt("https://vera:secret@host.example", 20)
    "'https://***@host.exa'"
    """
    start, slashes, rest = text.partition("//")
    _, login, place = rest.rpartition("@")
    return repr((f"{start}{slashes}***@{place}" if login else text)[:longest])
