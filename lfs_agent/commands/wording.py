"""Sizes, times, paths and foreign text as a person reads them in a terminal."""

from collections.abc import Sequence

from lfs_agent.log import describe

_SHOWN_PATHS = 3


def spell_size(size: float) -> str:
    """Bytes in the unit that suits them.

    >>> [spell_size(n) for n in (0, 999, 1024, 1_500_000, 6 << 30)]
    ['0 bytes', '999 bytes', '1.0 KiB', '1.4 MiB', '6.0 GiB']
    """
    if size < 1024:
        return f"{size:.0f} byte{'' if size == 1 else 's'}"
    for unit in ("KiB", "MiB", "GiB"):
        size /= 1024
        if size < 1023.95:
            return f"{size:.1f} {unit}"
    return f"{size / 1024:.1f} TiB"


def spell_count(count: int, thing: str) -> str:
    """A number of things.

    >>> spell_count(1, "object"), spell_count(1200, "retry")
    ('1 object', '1,200 retries')
    """
    if count != 1:
        thing = f"{thing[:-1]}ies" if thing.endswith("y") else f"{thing}s"
    return f"{count:,} {thing}"


def spell_not_asked(count: int) -> str:
    """Objects that have no row, since one cause has stopped them all.

    >>> spell_not_asked(1200)
    '1,200 not asked: one cause stops them all'
    """
    return f"{count:,} not asked: one cause stops them all"


def spell_seconds(seconds: float) -> str:
    """A duration.

    >>> spell_seconds(0.25), spell_seconds(75), spell_seconds(7300), spell_seconds(200_000)
    ('0.2 s', '1 min 15 s', '2 h 1 min', '2 d 7 h')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def plain(text: object) -> str:
    """Text from elsewhere on one line: no secrets, and nothing that a terminal would obey.

    >>> plain("a\\x1b[2Jb\\nc")
    'a?[2Jb c'
    """
    return " ".join(describe(str(text)).split("\n"))


def spell_paths(paths: Sequence[str]) -> str:
    """The first of some paths.

    >>> spell_paths(["a.pt", "b.pt", "c.pt", "d.pt"])
    'a.pt, b.pt, c.pt and 1 more'
    """
    shown = ", ".join(plain(path) for path in paths[:_SHOWN_PATHS])
    return shown + (f" and {len(paths) - _SHOWN_PATHS} more" if len(paths) > _SHOWN_PATHS else "")
