"""The plan of parts, by properties: sizes up to 48.8 TiB, and the limits of other stores."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lfs_agent.parts import GIB, KIB, MIB, TIB, Limits, Part, plan_parts

AMAZON = Limits()
MOST = 10_000 * 5 * GIB


@given(st.integers(0, MOST))
@example(0)
@example(1)
@example(16 * MIB)
@example(16 * MIB + 1)
@example(156 * GIB + 256 * MIB)
@example(156 * GIB + 256 * MIB + 1)
@example(5 * TIB)
@example(MOST - 1)
@example(MOST)
def test_amazon_takes_every_plan(size: int) -> None:
    plan = plan_parts(size, AMAZON)

    assert 1 <= plan.count <= 10_000
    assert 5 * MIB <= plan.part_size <= 5 * GIB
    assert (plan.count - 1) * plan.part_size < size <= plan.count * plan.part_size or size == 0


limits = st.builds(
    lambda smallest, most, times, parts, wanted: Limits(
        min_part=smallest,
        max_part=smallest + most,
        max_parts=parts,
        max_object=parts * (smallest + most) // times,
        part_size=min(smallest + wanted, smallest + most),
    ),
    st.integers(1, 8 * MIB),
    st.integers(0, 64 * MIB),
    st.integers(1, 3),
    st.integers(1, 200),
    st.integers(0, 64 * MIB),
)


@given(limits, st.data())
def test_parts_cover_an_object_without_a_gap_within_any_limits(limits: Limits, data: st.DataObject) -> None:
    size = data.draw(st.integers(0, limits.max_object))

    parts = list(plan_parts(size, limits).parts())

    assert len(parts) <= limits.max_parts
    assert [part.number for part in parts] == list(range(1, len(parts) + 1))
    assert [part.offset for part in parts] == [sum(p.length for p in parts[:n]) for n in range(len(parts))]
    assert sum(part.length for part in parts) == size
    assert all(limits.min_part <= part.length <= limits.max_part for part in parts[:-1])
    assert 0 <= parts[-1].length <= limits.max_part
    assert parts[-1].length > 0 or size == 0


@given(limits, st.integers(1, TIB))
def test_what_is_larger_than_the_limits_is_refused(limits: Limits, more: int) -> None:
    with pytest.raises(ValueError, match=f"{limits.max_object + more} bytes is more than an object can have here"):
        plan_parts(limits.max_object + more, limits)


def test_what_no_number_of_parts_can_hold_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(100 bytes: 10 parts of 10\)"):
        plan_parts(101, Limits(min_part=1, max_part=10, max_parts=10, part_size=10))


@pytest.mark.parametrize(
    "size,part_size,count",
    [
        (0, 16 * MIB, 1),
        (16 * MIB, 16 * MIB, 1),
        (16 * MIB + 1, 16 * MIB, 2),
        (GIB + 64 * MIB - 1, 16 * MIB, 68),
        (GIB + 64 * MIB, 17 * MIB, 64),
        (4 * GIB, 64 * MIB, 64),
        (6 * GIB, 64 * MIB, 96),
        (625 * GIB, 64 * MIB, 10_000),
        (TIB, 105 * MIB, 9987),
        (MOST, 5 * GIB, 10_000),
    ],
)
def test_parts_grow_only_where_there_would_be_many(size: int, part_size: int, count: int) -> None:
    plan = plan_parts(size, AMAZON)

    assert (plan.part_size, plan.count) == (part_size, count)


def test_parts_of_a_size_that_somebody_has_set_do_not_grow() -> None:
    assert plan_parts(6 * GIB, Limits(part_size=5 * MIB, growth=1)).part_size == 5 * MIB
    assert plan_parts(TIB, Limits(part_size=5 * MIB, growth=1)).part_size == 105 * MIB


def test_one_byte_over_a_border_is_a_part_of_its_own() -> None:
    assert list(plan_parts(20 * KIB + 1, Limits(min_part=1, part_size=10 * KIB)).parts()) == [
        Part(1, 0, 10 * KIB),
        Part(2, 10 * KIB, 10 * KIB),
        Part(3, 20 * KIB, 1),
    ]
