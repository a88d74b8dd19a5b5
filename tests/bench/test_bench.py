"""The race is run, counts, and is drawn: the smallest there is. Nothing here is timed."""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bench import page
from tests.bench.__main__ import main
from tests.bench.gateway import RaceGateway
from tests.bench.goals import judged
from tests.bench.results import WAYS, Outcome, Results, Role, Run, read
from tests.bench.sink import Sink
from tests.conftest import absent


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if reason := RaceGateway.missing() or Sink.missing():
        absent(reason)
    if not shutil.which("cc"):
        absent("the meter of CPU and memory is built with a C compiler, which is not here")
    return tmp_path_factory.mktemp("bench")


@pytest.fixture(scope="module")
def file(folder: Path) -> Iterator[Path]:
    options = ["--stages=near,sink-tls", "--cases=tiny", "--agents=lfs-agent,null", "--startup-rounds=1"]
    assert main([*options, f"--folder={folder}", f"--store={folder}", f"--results={folder / 'results'}"]) == 0
    (results,) = (folder / "results").iterdir()
    yield results
    assert {path.name for path in folder.iterdir()} <= {"results", "docs"}


@pytest.mark.parametrize("stage", ["near", "sink-tls"])
def test_a_race_counts_what_each_way_took(file: Path, stage: str) -> None:
    results = read(file)
    ours, null = (_outcome(results, stage, name) for name in ("lfs-agent", "null"))
    assert (ours.failures, null.failures) == ([], [])
    assert all(run.cpu_s and run.processes for outcome in (ours, null) for way in WAYS for run in outcome.runs[way])
    # Three objects: asked for and put, or asked for.
    assert all(3 <= run.requests <= 9 for way in WAYS for run in ours.runs[way])
    assert all(run.requests == 0 for way in WAYS for run in null.runs[way])


def test_results_are_drawn_and_told_on_the_page(file: Path, folder: Path) -> None:
    page.write(file, folder / "docs")
    told = (folder / "docs" / "race.md").read_text()
    assert "3 objects of 10 kB: the sink over https, loopback" in told
    assert "| lfs-agent |" in told
    if sys.platform == "linux":  # elsewhere nobody tells a process's share of memory
        assert "</svg>" in (folder / "docs" / "memory.svg").read_text()
    assert (folder / "docs" / "race.json").read_bytes() == file.read_bytes()


def test_a_goal_is_judged_by_the_fastest_peer_of_the_run() -> None:
    verdicts = [(v.what, v.value, v.wanted) for v in judged(_raced(ours=3.0, slower=6.0, faster=2.0))]
    assert verdicts == [
        ("2,000 objects, push (near), s / lfs-dal, best peer", 1.5, "at most 0.769, MISSED"),
        ("2,000 objects, push (near), CPU s / lfs-dal, best peer", 0.5, "at most 0.5, reached"),
        ("2,000 objects, push (near), MiB", 100.0, "at most 300, reached"),
    ]


@pytest.mark.parametrize("ours, told", [(3.0, "1.50 x lfs-dal"), (2.05, "Nowhere in this run.")])
def test_the_page_says_where_a_peer_is_faster(ours: float, told: str, tmp_path: Path) -> None:
    _raced(ours=ours, slower=6.0, faster=2.0).write(tmp_path / "race.json")
    page.write(tmp_path / "race.json", tmp_path)
    assert told in (tmp_path / "behind.md").read_text()


def _raced(*, ours: float, slower: float, faster: float) -> Results:
    """A push with these medians, of three rounds each; one round of ours met something else on the machine."""

    def outcome(name: str, role: Role, wall_s: float, cpu_s: float) -> Outcome:
        factors = (0.9, 1.0, 9.0 if role == "ours" else 1.1)
        runs = [Run(wall_s * factor, cpu_s, 100.0, 8, 2000) for factor in factors]
        return Outcome("near", "k2000", name, role, {"push": runs})

    outcomes = [
        outcome("object-store", "peer", slower, slower),
        outcome("lfs-dal", "peer", faster, faster),
        outcome("lfs-agent", "ours", ours, 1.0),
        outcome("s5cmd", "yardstick", 0.1, 0.1),
    ]
    told = dict.fromkeys(("at", "machine", "load", "python", "git-lfs", "servers", "absent"), "…")
    return Results(told, {"near": "on loopback"}, {"k2000": "2,000 objects"}, {}, outcomes)


def _outcome(results: Results, stage: str, name: str) -> Outcome:
    (found,) = (outcome for outcome in results.of(stage, "tiny") if outcome.contender == name)
    return found
