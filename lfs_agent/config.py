"""Settings from mappings: which keys there are, who may set them, and what follows from several sources."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qsl

from lfs_agent.errors import UsageError, excerpt
from lfs_agent.layout import LAYOUTS, Layout
from lfs_agent.parts import GIB, KIB, MIB, TIB

ENVIRONMENT_PREFIX: Final = "LFS_AGENT_"
GIT_SECTION: Final = "lfs-agent"


class Value(NamedTuple):
    """A setting as somebody wrote it, and where."""

    text: str
    origin: str


class Settings(NamedTuple):
    """What the user, the repository and the defaults come to. None: AWS's own settings decide."""

    endpoint: str | None = None
    region: str | None = None
    profile: str | None = None
    path_style: bool | None = None
    public: bool = False
    ca: str | None = None
    client_cert: str | None = None
    client_key: str | None = None
    allow_http: bool = False
    layout: Layout = "git-lfs"
    storage_class: str | None = None
    sse: str | None = None
    sse_kms_key_id: str | None = None
    expected_owner: str | None = None
    requester_pays: bool = False
    part_size: int = 16 * MIB
    streams: int | None = None
    bandwidth: int | None = None
    concurrency: int | None = None
    read_timeout: float = 60.0
    first_deadline: float = 6.0
    deadline: float = 300.0
    retries: int = 1000
    retention: str | None = None
    log_level: str | None = None
    log_file: str | None = None

    @property
    def logs_from(self) -> str | None:
        """The level from which on there is a log; None: nobody has asked for one."""
        return self.log_level or ("info" if self.log_file else None)


class Setting(NamedTuple):
    """One key: how its text is read, what it is for, and whether a committed URL may set it."""

    name: str
    parse: Callable[[str], Any]
    kind: str
    help: str
    committed: bool = False

    @property
    def git_key(self) -> str:
        """The spelling in git config, where keys have no underscores: `lfs-agent.pathStyle`."""
        head, *rest = self.name.split("_")
        return f"{GIT_SECTION}.{head}{''.join(word.capitalize() for word in rest)}"

    @property
    def variable(self) -> str:
        """The environment variable: `LFS_AGENT_PATH_STYLE`."""
        return ENVIRONMENT_PREFIX + self.name.upper()

    @property
    def default(self) -> Any:
        """The value where nobody says anything."""
        return Settings._field_defaults[self.name]


def _matching(pattern: str, what: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if not re.fullmatch(pattern, text, re.ASCII):
            raise ValueError(f"not {what}")
        return text

    return parse


def _choice(*words: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in words:
            raise ValueError(f"not one of {', '.join(words)}")
        return text

    return parse


def _number(least: int, most: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not re.fullmatch("[0-9]{1,6}", text) or not least <= int(text) <= most:
            raise ValueError(f"not a number from {least} to {most}")
        return int(text)

    return parse


_encryption = _choice("AES256", "aws:kms", "aws:kms:dsse")


def _sse(text: str) -> str:
    if "sse-c" in text.lower() or "customer" in text.lower():
        raise ValueError("SSE-C, which is not supported: for a key of your own take aws:kms, and sse_kms_key_id")
    return _encryption(text)


def _bool(text: str) -> bool:
    """As git reads it, where an empty value is false."""
    match text.lower():
        case "true" | "yes" | "on" | "1":
            return True
        case "false" | "no" | "off" | "0" | "":
            return False
    raise ValueError("not true or false")


_UNITS: Final = {"": 1, "k": KIB, "m": MIB, "g": GIB, "t": TIB}


def parse_size(text: str) -> int:
    """Bytes in `text`; K, M, G and T are powers of 1024, as git has them.

    >>> parse_size("16MiB"), parse_size("5g"), parse_size("7")
    (16777216, 5368709120, 7)

    Raises ValueError.
    """
    match = re.fullmatch(r"([0-9]{1,15})([kmgt]?)(?:ib|b)?", text.strip().lower())
    if not match:
        raise ValueError("not a size such as 16MiB")
    return int(match[1]) * _UNITS[match[2]]


def _part_size(text: str) -> int:
    size = parse_size(text)
    if not 5 * MIB <= size <= 5 * GIB:
        raise ValueError("not between 5MiB and 5GiB")
    return size


def _bandwidth(text: str) -> int:
    try:
        rate = parse_size(text.strip().removesuffix("/s"))
    except ValueError:
        raise ValueError("not bytes a second such as 20MB/s") from None
    if rate < 16 * KIB:
        raise ValueError("less than 16KB/s: no request would come to its end in time")
    return rate


def _seconds(text: str) -> float:
    if not re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,3})?", text) or not float(text):
        raise ValueError("not a number of seconds above 0")
    return float(text)


_AGES_S: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def parse_age(text: str) -> float:
    """Seconds in `text`.

    >>> parse_age("30m"), parse_age("2w")
    (1800.0, 1209600.0)

    Raises ValueError.
    """
    found = re.fullmatch(r"([0-9]{1,6})([smhdw])", text)
    if not found:
        raise ValueError("not an age such as 30m, 12h, 7d or 2w")
    return float(int(found[1]) * _AGES_S[found[2]])


FOREVER: Final = "forever"


def _retention(text: str) -> str:
    if text != FOREVER:
        parse_age(text)
    return text


def _path(text: str) -> str:
    if not text or any(ord(char) < 32 for char in text):
        raise ValueError("not a path")
    return text


_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_HOST = rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9a-fA-F:.]+\])"
_ENDPOINT = rf"https?://{_HOST}(?::([0-9]{{1,5}}))?(?:/[A-Za-z0-9._~-]+)*/?"


def _endpoint(text: str) -> str:
    match = re.fullmatch(_ENDPOINT, text, re.ASCII)
    if not match or not 0 < int(match[1] or 443) < 65536:
        raise ValueError("not an endpoint such as https://s3.example.org:9000")
    return text


_region = _matching(r"[a-z0-9](?:[a-z0-9-]{0,30}[a-z0-9])?", "a region such as eu-central-1")
_name = _matching(r"[^\x00-\x1f\x7f]{1,256}", "a name")

SETTINGS: Final[tuple[Setting, ...]] = (
    Setting("endpoint", _endpoint, "URL", "The store's address, where it is not Amazon's.", committed=True),
    Setting("region", _region, "name", "The region that requests are signed for.", committed=True),
    Setting("profile", _name, "name", "The profile of the AWS configuration to use."),
    Setting(
        "path_style",
        _bool,
        "true or false",
        "Put the bucket into the path instead of the host name; true where an endpoint is set.",
        committed=True,
    ),
    Setting("public", _bool, "true or false", "Read without credentials; nothing is uploaded.", committed=True),
    Setting("ca", _path, "file", "Certificates (PEM) to trust instead of the usual ones."),
    Setting("client_cert", _path, "file", "The certificate (PEM) to show to a store that demands one."),
    Setting("client_key", _path, "file", "The certificate's key (PEM), where it is not in the same file."),
    Setting("allow_http", _bool, "true or false", "Permit plain http to hosts other than this one."),
    Setting(
        "layout",
        _choice(*LAYOUTS),
        " or ".join(LAYOUTS),
        "Keys: prefix/aa/bb/oid, or prefix/oid.",
        committed=True,
    ),
    Setting(
        "storage_class",
        _matching(r"[A-Z_]{1,32}", "a storage class"),
        "name",
        "The storage class of new objects.",
    ),
    Setting("sse", _sse, "name", "Server-side encryption of new objects: AES256, aws:kms or aws:kms:dsse."),
    Setting("sse_kms_key_id", _name, "id or ARN", "The KMS key of new objects; with sse = aws:kms."),
    Setting(
        "expected_owner",
        _matching(r"[0-9]{12}", "an account number of 12 digits"),
        "account",
        "Refuse a bucket of any other AWS account.",
    ),
    Setting("requester_pays", _bool, "true or false", "Pay for requests to a bucket whose requesters pay."),
    Setting(
        "part_size",
        _part_size,
        "size",
        "Larger objects are moved in parts of this size; unless it is set, in larger ones from 1 GiB on, up to 64 MiB.",
    ),
    Setting(
        "streams",
        _number(1, 64),
        "number",
        "Parts of one object in flight at once, in each worker; 16 divided by the workers.",
    ),
    Setting(
        "bandwidth",
        _bandwidth,
        "bytes a second",
        "Move no more than that, as 20MB/s: all workers of a push or pull together, each direction on its own.",
    ),
    Setting(
        "concurrency",
        _number(1, 256),
        "number",
        "Have no more requests under way than that: all workers of a push or pull together.",
    ),
    Setting(
        "read_timeout",
        _seconds,
        "seconds",
        "How long the store may be silent, or take to connect. There is no limit on a whole request.",
    ),
    Setting("first_deadline", _seconds, "seconds", "How long to try until the store answers for the first time."),
    Setting("deadline", _seconds, "seconds", "How long to ask again, counted from a request's first failure."),
    Setting(
        "retries",
        _number(0, 999_999),
        "number",
        "How often all workers of a push or pull together may ask again; each success gives one back.",
    ),
    Setting(
        "retention",
        _retention,
        "age such as 28d, or forever",
        "How long `lfs-agent gc` leaves objects in the store that no repository names. The longest holds: the user's, "
        "the URL's in any of the registered repositories, or that of `--grace`.",
        committed=True,
    ),
    Setting(
        "log_level",
        _choice("debug", "info", "warning", "error"),
        "debug, info, warning or error",
        "Log, from this level up.",
    ),
    Setting("log_file", _path, "file", "Log to this file, not to stderr (where GIT_TRACE=1 shows it)."),
)
BY_NAME: Final[Mapping[str, Setting]] = {setting.name: setting for setting in SETTINGS}

OF_FOLDERS: Final = frozenset({"layout", "retention"})
"""What the URL of a folder may set: all else is about requests."""

RESERVED: Final = frozenset({"trusted"})
"""Keys of the git section that are not settings: `trusted` is what `lfs-agent trust` keeps."""


def from_environ(environ: Mapping[str, str]) -> dict[str, Value]:
    """The settings in `LFS_AGENT_*`; an empty variable says nothing.

    Raises UsageError for a variable that is no setting.
    """
    names = (name for name in environ if name.startswith(ENVIRONMENT_PREFIX))
    found = {name: name.removeprefix(ENVIRONMENT_PREFIX).lower() for name in names}
    for name, key in found.items():
        if key not in BY_NAME or name != BY_NAME[key].variable:
            raise _unknown(name, (setting.variable for setting in SETTINGS))
    return {key: Value(environ[name], f"environment: {name}") for name, key in found.items() if environ[name]}


def from_git(entries: Iterable[tuple[str, str, str]], bucket: str) -> dict[str, Value]:
    """The settings of `[lfs-agent]`, and of `[lfs-agent "BUCKET"]` above them.

    `entries`: (key as `git config --list` prints it, value, origin), later ones above earlier ones.

    Raises UsageError for a key that is no setting, in the section of any bucket.
    """
    names = {setting.git_key.lower().removeprefix(f"{GIT_SECTION}."): setting.name for setting in SETTINGS}
    general: dict[str, Value] = {}
    special: dict[str, Value] = {}
    for key, text, origin in entries:
        section, _, rest = key.partition(".")
        if section != GIT_SECTION:
            continue
        subsection, _, variable = rest.rpartition(".")
        if variable in RESERVED and not subsection:
            continue
        if variable not in names:
            raise _unknown(key, (setting.git_key for setting in SETTINGS), origin)
        if not subsection:
            general[names[variable]] = Value(text, origin)
        elif subsection == bucket:
            special[names[variable]] = Value(text, origin)
    return general | special


def from_query(query: str, origin: str) -> dict[str, Value]:
    """The settings in the query of the store's URL.

    Raises UsageError for a key that is no setting, or that a URL may not set.
    """
    found: dict[str, Value] = {}
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True) if query else []
    except ValueError:
        raise UsageError(f"{origin}: not a list of key=value: {excerpt(query, 80)}") from None
    for key, text in pairs:
        if key in found:
            raise UsageError(f"{origin}: {key} is said twice")
        if key not in BY_NAME:
            raise _unknown(key, (setting.name for setting in SETTINGS if setting.committed), origin)
        if not BY_NAME[key].committed:
            raise UsageError(
                f"{origin}: a URL may not set {key}: it is the user's to choose "
                f"(git config {BY_NAME[key].git_key}, or {BY_NAME[key].variable})"
            )
        found[key] = Value(text, origin)
    return found


def resolve(*sources: Mapping[str, Value]) -> tuple[Settings, dict[str, Value]]:
    """The settings, and which value each came from; earlier sources win.

    Raises UsageError for a value that cannot be read.
    """
    chosen: dict[str, Value] = {}
    for source in sources:
        for name, value in source.items():
            chosen.setdefault(name, value)
    parsed = {name: _parse(BY_NAME[name], value) for name, value in chosen.items()}
    return Settings(**parsed), chosen


def _parse(setting: Setting, value: Value) -> Any:
    try:
        return setting.parse(value.text)
    except ValueError as error:
        raise UsageError(f"{value.origin}: {setting.name} = {excerpt(value.text, 80)} is {error}") from None


def _unknown(key: str, known: Iterable[str], origin: str = "") -> UsageError:
    import difflib  # of no use where all is well

    spelled = {name.lower(): name for name in known}
    close = difflib.get_close_matches(key[:80].lower(), spelled, n=1, cutoff=0.0)[0]
    return UsageError(f"{origin + ': ' if origin else ''}unknown setting {key[:80]!r}; did you mean {spelled[close]}?")
