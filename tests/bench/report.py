"""The results, as a table that a person likes to read and as JSON."""

import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.bench.contenders import Contender
from tests.bench.race import DIRECTIONS, Case, Direction, Outcome, Outcomes, Run

GOALS = {"init": 2.0, "one": 2.2}
"""What `init` may take of `python3 -c pass`, and one object of the null agent."""


@dataclass(frozen=True)
class Report:
    """All that was measured, and under what circumstances."""

    circumstances: Mapping[str, object]
    cases: Sequence[Case]
    contenders: Sequence[Contender]
    startup: Mapping[str, Sequence[float]]
    outcomes: Outcomes

    def text(self) -> str:
        """The tables."""
        return "\n".join([*self._head(), *self._startup_lines(), *self._case_lines(), *self._goal_lines()])

    def write_json(self, path: Path) -> None:
        """Every single run, for other programs."""
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {
            "circumstances": self.circumstances,
            "startup_ms": self.startup,
            "goals": [{"what": what, "ratio": ratio, "goal": goal} for what, ratio, goal in self._goals()],
            "cases": [
                {
                    "case": case.name,
                    "contender": contender.name,
                    "role": contender.role,
                    "failures": outcome.failures,
                    "runs": {way: [asdict(run) for run in runs] for way, runs in outcome.runs.items()},
                }
                for case in self.cases
                for contender in self.contenders
                if (outcome := self.outcomes.get((case.name, contender.name)))
            ],
        }
        path.write_text(json.dumps(content, indent=2) + "\n")

    def _head(self) -> list[str]:
        width = max(len(name) for name in self.circumstances)
        return [f"{name:{width}}  {_flat(value)}" for name, value in self.circumstances.items()]

    def _startup_lines(self) -> Iterator[str]:
        if not self.startup:
            return
        base = statistics.median(self.startup["python3 -c pass"])
        yield f"\nstart-up{'median ms [min-max]':>37}{'x pass':>9}"
        for name, times in self.startup.items():
            yield f"  {name:22}{_spread(times, 1):>21}{statistics.median(times) / base:9.2f}"

    def _case_lines(self) -> Iterator[str]:
        for case in self.cases:
            for direction in DIRECTIONS:
                yield from self._table(case, direction)
            for contender in self.contenders:
                outcome = self.outcomes.get((case.name, contender.name), Outcome())
                if outcome.failures:
                    yield f"  {contender.name} FAILED {len(outcome.failures)} x: {outcome.failures[0]}"

    def _table(self, case: Case, direction: Direction) -> Iterator[str]:
        raced = [
            (contender, runs)
            for contender in self.contenders
            if (runs := self.outcomes.get((case.name, contender.name), Outcome()).runs.get(direction))
        ]
        if not raced:
            return
        null = self._wall(case, direction, "floor")
        peer = self._wall(case, direction, "peer")
        yield (
            f"\n{case.title + ', ' + direction:34}{'wall s [min-max]':>19}{'x null':>8}{'x peer':>8}"
            f"{'CPU s':>8}{'RSS MiB':>9}{'procs':>7}{'requests':>10}"
        )
        for contender, runs in sorted(raced, key=lambda row: _median_wall(row[1])):
            wall = _median_wall(runs)
            mark = {"ours": "*", "floor": "-", "yardstick": "|", "peer": " "}[contender.role]
            yield (
                f"{mark} {contender.name:28}{_spread([run.wall_s for run in runs], 2):>23}"
                f"{_ratio(wall, null):>8}{_ratio(wall, peer):>8}"
                f"{_median(runs, 'cpu_s', 2):>8}{_median(runs, 'rss_mib', 0):>9}"
                f"{_median(runs, 'processes', 0):>7}{_median(runs, 'requests', 0):>10}"
            )

    def _wall(self, case: Case, direction: Direction, role: str) -> float | None:
        """The best median of all who have this role."""
        names = [contender.name for contender in self.contenders if contender.role == role]
        outcomes = [self.outcomes.get((case.name, name), Outcome()) for name in names]
        return min((_median_wall(runs) for outcome in outcomes if (runs := outcome.runs.get(direction))), default=None)

    def _goals(self) -> Iterator[tuple[str, float, float]]:
        if self.startup:
            init, base = (statistics.median(self.startup[name]) for name in ("init answered", "python3 -c pass"))
            yield "`init` answered / python3 -c pass", init / base, GOALS["init"]
        for case in self.cases:
            for direction in DIRECTIONS:
                ours, null = (self._wall(case, direction, role) for role in ("ours", "floor"))
                if case.name == "one" and direction != "re-push" and ours and null:
                    yield f"one object, {direction} / null agent", ours / null, GOALS["one"]

    def _goal_lines(self) -> Iterator[str]:
        yield "\ngoals"
        for what, ratio, goal in self._goals():
            yield f"  {what:34}{ratio:6.2f}  goal {goal:.1f}  {'reached' if ratio <= goal else 'MISSED'}"
        yield "\n* this agent   - floor: a Python agent that moves nothing   | yardstick: no git"
        yield "x peer: of the best peer's median. CPU, RSS (sum of each one's peak), procs: of the agents alone."


def _flat(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _spread(values: Sequence[float], digits: int) -> str:
    """The median, with the least and the most.

    >>> _spread([3.0, 1.0, 1.5], 1)
    '1.5 [1.0-3.0]'
    """
    return f"{statistics.median(values):.{digits}f} [{min(values):.{digits}f}-{max(values):.{digits}f}]"


def _median_wall(runs: Sequence[Run]) -> float:
    return statistics.median(run.wall_s for run in runs)


def _median(runs: Sequence[Run], name: str, digits: int) -> str:
    values = [value for run in runs if (value := getattr(run, name)) is not None]
    return f"{statistics.median(values):.{digits}f}" if values else "?"


def _ratio(value: float, base: float | None) -> str:
    return f"{value / base:.2f}" if base else "-"
