"""The race is run, counts, and is drawn: the smallest there is. Nothing here is timed."""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bench import page
from tests.bench.__main__ import main
from tests.bench.gateway import RaceGateway
from tests.bench.results import WAYS, Outcome, Results, read
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


def _outcome(results: Results, stage: str, name: str) -> Outcome:
    (found,) = (outcome for outcome in results.of(stage, "tiny") if outcome.contender == name)
    return found
