"""The results as tables that a person likes to read."""

import statistics
from collections.abc import Iterator, Sequence

from tests.bench.goals import judged
from tests.bench.results import WAYS, Metric, Outcome, Results, Way

MARKS = {"ours": "*", "floor": "-", "yardstick": "|", "peer": " "}


def text(results: Results) -> str:
    """All of them."""
    return "\n".join([*_head(results), *_startup(results), *_cases(results), *_goals(results)])


def _head(results: Results) -> Iterator[str]:
    width = max(map(len, results.circumstances))
    for name, value in results.circumstances.items():
        yield f"{name:{width}}  {', '.join(map(str, value)) if isinstance(value, list) else value}"


def _startup(results: Results) -> Iterator[str]:
    if not results.startup_ms:
        return
    base = statistics.median(results.startup_ms["python3 -c pass"])
    yield f"\nstart-up{'median ms [min-max]':>37}{'x pass':>9}"
    for name, times in results.startup_ms.items():
        yield f"  {name:22}{spread(times, 1):>21}{statistics.median(times) / base:9.2f}"


def _cases(results: Results) -> Iterator[str]:
    for stage, where in results.stages.items():
        for case, what in results.cases.items():
            if results.of(stage, case):
                yield f"\n{what}; {where}"
            for way in WAYS:
                yield from _table(results, stage, case, way)
            for outcome in results.of(stage, case):
                if outcome.failures:
                    yield f"  {outcome.contender} FAILED {len(outcome.failures)} x: {outcome.failures[0]}"


def _table(results: Results, stage: str, case: str, way: Way) -> Iterator[str]:
    outcomes = results.of(stage, case, way)
    if not outcomes:
        return
    yield (
        f"  {way:18}{'wall s [min-max]':>25}{'x null':>8}{'x peer':>8}"
        f"{'CPU s':>8}{'PSS MiB':>9}{'procs':>7}{'requests':>10}"
    )
    for outcome in sorted(outcomes, key=lambda outcome: outcome.median(way, "wall_s") or 0):
        yield (
            f"{MARKS[outcome.role]}   {outcome.contender:16}{spread(outcome.values(way, 'wall_s'), 2):>25}"
            f"{_ratio(results, outcome, way, 'floor'):>8}{_ratio(results, outcome, way, 'peer'):>8}"
            f"{_median(outcome, way, 'cpu_s', 2):>8}{_median(outcome, way, 'pss_mib', 0):>9}"
            f"{_median(outcome, way, 'processes', 0):>7}{_median(outcome, way, 'requests', 0):>10}"
        )


def _ratio(results: Results, outcome: Outcome, way: Way, role: str) -> str:
    best = results.best(outcome.stage, outcome.case, way, role)
    base, value = best and best.median(way, "wall_s"), outcome.median(way, "wall_s")
    return f"{value / base:.2f}" if base and value else "-"


def _goals(results: Results) -> Iterator[str]:
    yield "\ngoals"
    for verdict in judged(results):
        yield f"  {verdict.what:70}{verdict.value:8.2f}  {verdict.wanted}".rstrip()
    yield "\n* this agent   - floor: a Python agent that moves nothing   | yardstick: no git"
    yield "x peer: of the best peer's median. CPU, PSS (sum of each one's peak), procs: of the agents alone."


def spread(values: Sequence[float], digits: int) -> str:
    """The median, with the least and the most.

    >>> spread([3.0, 1.0, 1.5], 1)
    '1.5 [1.0-3.0]'
    """
    return f"{statistics.median(values):.{digits}f} [{min(values):.{digits}f}-{max(values):.{digits}f}]"


def _median(outcome: Outcome, way: Way, metric: Metric, digits: int) -> str:
    value = outcome.median(way, metric)
    return "?" if value is None else f"{value:.{digits}f}"
