"""`python -m tests.bench.page [FILE…]`: takes results over into the docs, and draws what their page shows.

Without a FILE the newest of build/bench is taken. A run with --workers replaces the results about numbers of workers;
any other replaces those of the race.
"""

import argparse
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.bench import plots
from tests.bench.__main__ import RESULTS
from tests.bench.goals import judged
from tests.bench.report import spread
from tests.bench.results import WAYS, Metric, Outcome, Results, Way, read

FOLDER = Path(__file__).parents[2] / "docs" / "explanation" / "benchmarks"
CHARTS = {"time": plots.TIME, "cpu": plots.CPU, "memory": plots.MEMORY}

LEVEL = 1.05


def write(file: Path, folder: Path) -> None:
    """Takes the results in `file` over into `folder`."""
    results = read(file)
    of_workers = any(" x" in outcome.contender for outcome in results.outcomes)
    name = "workers" if of_workers else "race"
    folder.mkdir(parents=True, exist_ok=True)
    kept = folder / f"{name}.json"
    if file.resolve() != kept.resolve():
        shutil.copyfile(file, kept)
    if of_workers:
        plots.draw_workers(results, folder / "workers.svg")
        (folder / "workers.md").write_text("\n".join([*_circumstances(results), *_workers(results)]) + "\n")
        return
    for chart_name, chart in CHARTS.items():
        plots.draw(results, chart, folder / f"{chart_name}.svg")
    (folder / "goals.md").write_text("\n".join([*_circumstances(results), *_goals(results)]) + "\n")
    (folder / "behind.md").write_text("\n".join(_behind(results)) + "\n")
    (folder / "race.md").write_text("\n".join(_tables(results)) + "\n")


def _circumstances(results: Results) -> Iterator[str]:
    told = results.circumstances
    absent = told["absent"] if isinstance(told["absent"], list) else []
    yield f"Measured {told['at']} on {told['machine']} (load {told['load']}), Python {told['python']},"
    yield f"{told['git-lfs'].partition(' ')[0]}, servers {told['servers']}."
    if absent:
        yield f"Not to be had there: {', '.join(absent)}."
    yield ""


def _goals(results: Results) -> Iterator[str]:
    yield f"{'; '.join(f'{name}: {title}' for name, title in results.stages.items())}.\n"
    yield "| what | measured | goal |\n| --- | --- | --- |"
    for verdict in judged(results):
        yield f"| {verdict.what} | {verdict.value:.2f} | {verdict.wanted.replace('MISSED', '**missed**')} |"


def _behind(results: Results) -> Iterator[str]:
    """Where a peer's median is below ours, by more than `LEVEL`."""
    rows = [
        f"| {what}, {way} | {where} | {ours / theirs:.2f} x {best.contender} |"
        for stage, where in results.stages.items()
        for case, what in results.cases.items()
        for way in WAYS
        if (best := results.best(stage, case, way, "peer")) and (mine := results.best(stage, case, way, "ours"))
        if (theirs := best.median(way, "wall_s")) and (ours := mine.median(way, "wall_s"))
        if ours > LEVEL * theirs
    ]
    yield f"By more than {LEVEL - 1:.0%} of the best peer's median:\n" if rows else "Nowhere in this run."
    if rows:
        yield "| what | where | time |\n| --- | --- | --- |"
        yield from rows


def _tables(results: Results) -> Iterator[str]:
    for stage, where in results.stages.items():
        for case, what in results.cases.items():
            if outcomes := results.of(stage, case):
                yield f"\n### {what}: {where}\n"
                yield from _table(outcomes)


def _table(outcomes: Sequence[Outcome]) -> Iterator[str]:
    ways: list[Way] = list(dict.fromkeys(way for outcome in outcomes for way in outcome.runs))
    if ways:
        yield f"| | {' | '.join(f'{way}: s | CPU s | MiB | requests' for way in ways)} |"
        yield "| --- |" + " --- | --- | --- | --- |" * len(ways)
    for outcome in outcomes:
        if outcome.runs:
            yield f"| {outcome.contender} | {' | '.join(cell for way in ways for cell in _cells(outcome, way))} |"
    for outcome in outcomes:
        if outcome.failures:
            yield f"\n{outcome.contender} failed {len(outcome.failures)} x here."


def _cells(outcome: Outcome, way: Way) -> list[str]:
    walls = outcome.values(way, "wall_s")
    metrics: dict[Metric, int] = {"cpu_s": 2, "pss_mib": 0, "requests": 0}
    medians = [(outcome.median(way, metric), digits) for metric, digits in metrics.items()]
    return [
        spread(walls, 2) if walls else "",
        *("" if value is None else f"{value:.{digits}f}" for value, digits in medians),
    ]


def _workers(results: Results) -> Iterator[str]:
    for stage, where in results.stages.items():
        for case, what in results.cases.items():
            if outcomes := sorted(results.of(stage, case), key=plots.workers_of):
                yield f"\n### {what}: {where}, by number of workers\n"
                yield from _table(outcomes)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.page", description=__doc__)
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE")
    files = parser.parse_args(argv).files or sorted(RESULTS.glob("bench-*.json"))[-1:]
    if not files:
        print(f"{RESULTS} has no results: run `make bench` first", file=sys.stderr)
        return 1
    for file in files:
        write(file, FOLDER)
        print(f"{file} -> {FOLDER}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
