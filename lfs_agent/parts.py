"""How an object is cut: the limits of a store as values, and the plan of parts for a size."""

from collections.abc import Iterator
from typing import Final, NamedTuple

KIB, MIB, GIB, TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40


class Limits(NamedTuple):
    """What a store allows, and what we ask of it; sizes in bytes. The defaults are Amazon's, of 2026."""

    min_part: int = 5 * MIB
    max_part: int = 5 * GIB
    max_parts: int = 10_000
    max_object: int = 10_000 * 5 * GIB
    part_size: int = 16 * MIB
    """The least size of a part; an object up to this size is sent whole."""
    growth: int = 4
    """So many times as large a part may be where there would be more than 64."""


_FEW: Final = 64
"""Parts of which one may be lost without much ado: rather than more there are larger ones, for fewer requests."""


class Part(NamedTuple):
    """Bytes `offset` to `offset + length` of an object; numbers start at 1."""

    number: int
    offset: int
    length: int


class Plan:
    """An object of `size` bytes in `count` parts of `part_size`, the last one shorter or equal."""

    def __init__(self, size: int, part_size: int) -> None:
        self.size: Final = size
        self.part_size: Final = part_size

    @property
    def count(self) -> int:
        return max(1, -(-self.size // self.part_size))

    def parts(self) -> Iterator[Part]:
        """All parts, in order; one empty part for an empty object."""
        for number in range(1, self.count + 1):
            offset = (number - 1) * self.part_size
            yield Part(number, offset, min(self.part_size, self.size - offset))


def plan_parts(size: int, limits: Limits) -> Plan:
    """The plan for an object of `size` bytes: parts of `limits.part_size`, larger where there would be many.

    >>> plan_parts(100, Limits()).count
    1
    >>> plan_parts(2 << 30, Limits()).part_size // MIB
    32
    >>> plan_parts(1 << 40, Limits()).part_size // MIB
    105

    Raises ValueError for an object that no plan fits.
    """
    most = min(limits.max_object, limits.max_parts * limits.max_part)
    if size > most:
        raise ValueError(
            f"{size} bytes is more than an object can have here ({most} bytes: "
            f"{limits.max_parts} parts of {limits.max_part})"
        )
    # In whole MiB, so that offsets stay readable.
    least = max(limits.part_size, limits.min_part)
    part_size = max(least, min(size // _FEW // MIB * MIB, limits.growth * least))
    if size > limits.max_parts * part_size:
        part_size = -(-size // limits.max_parts // MIB) * MIB
    part_size = min(part_size, limits.max_part)
    return Plan(size, part_size)
