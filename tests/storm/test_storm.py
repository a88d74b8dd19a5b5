"""Seeded storms: whatever meets a push or a pull, right objects, and right ones only, are there at the end."""

import re
from collections.abc import Iterator

import pytest

from tests.conftest import ServerOf, absent
from tests.servers.server import program
from tests.storm.crew import Crew, open_bucket
from tests.storm.plan import KINDS, case_of
from tests.storm.ways import ROOT

SEEDS = range(300)
_BATCH = 30


def batches() -> Iterator[object]:
    """The seeds by server and way, thirty at a time: at each end some wait for the slowest."""
    groups: dict[tuple[str, str], list[int]] = {}
    for seed in SEEDS:
        case = case_of(seed)
        groups.setdefault((case.server, case.through), []).append(seed)
    for (server, through), seeds in sorted(groups.items()):
        for batch in (seeds[at : at + _BATCH] for at in range(0, len(seeds), _BATCH)):
            yield pytest.param(batch, id=f"{server}-{through}-{batch[0]}")


@pytest.fixture(scope="module")
def crew(server_of: ServerOf, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crew]:
    if program("git-lfs") is None:
        absent("git-lfs is not installed: run `tests/install/install.sh git-lfs`")
    with Crew(server_of, tmp_path_factory.mktemp("storm"), 4) as crew:
        yield crew


@pytest.mark.parametrize("seeds", list(batches()))
def test_storms_end_with_right_objects_and_nothing_else(crew: Crew, server_of: ServerOf, seeds: list[int]) -> None:
    open_bucket(server_of(case_of(seeds[0]).server))  # skips where it is absent
    broken = [done.report for done in crew.run(seeds) if done.wrong]
    assert not broken, "\n" + "\n".join(broken)


def test_a_seed_always_means_the_same() -> None:
    assert case_of(7) == case_of(7)
    assert case_of(7) != case_of(8)
    assert len([seed for seed in SEEDS if case_of(seed).through == "git"]) == 30


def test_the_documentation_names_every_kind_of_fault() -> None:
    page = (ROOT / "docs" / "explanation" / "checks.md").read_text().partition("## What is tried")[2]
    assert re.findall(r"^\| ([^|]+) \|", page, re.MULTILINE)[2:] == [kind.name for kind in KINDS]
