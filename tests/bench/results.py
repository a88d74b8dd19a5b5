"""What was measured, as values and as a JSON file."""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

Role = Literal["ours", "peer", "floor", "yardstick"]
Way = Literal["push", "re-push", "pull"]
WAYS: tuple[Way, ...] = ("push", "re-push", "pull")
Metric = Literal["wall_s", "cpu_s", "pss_mib", "processes", "requests"]


@dataclass(frozen=True)
class Run:
    """What one push or pull took; None: not counted on this machine.

    CPU and memory are the agents' alone: of the processes that git-lfs started, or of the yardstick. `pss_mib` is the
    sum of each one's peak.
    """

    wall_s: float
    cpu_s: float | None
    pss_mib: float | None
    processes: int | None
    requests: int


@dataclass
class Outcome:
    """All runs of one contender in one case at one stage, and how it failed where it did."""

    stage: str
    case: str
    contender: str
    role: Role
    runs: dict[Way, list[Run]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def values(self, way: Way, metric: Metric) -> list[float]:
        """All that was counted of it."""
        return [value for run in self.runs.get(way, []) if (value := getattr(run, metric)) is not None]

    def median(self, way: Way, metric: Metric) -> float | None:
        """The median of all runs; None where nothing was counted."""
        values = self.values(way, metric)
        return statistics.median(values) if values else None


@dataclass(frozen=True)
class Results:
    """All of one run of `make bench`; `titles` of stages and cases, in the order of the race."""

    circumstances: Mapping[str, Any]
    stages: Mapping[str, str]
    cases: Mapping[str, str]
    startup_ms: Mapping[str, Sequence[float]]
    outcomes: Sequence[Outcome]

    def of(self, stage: str, case: str, way: Way | None = None) -> list[Outcome]:
        """Everybody's, of those who got there; without a way all."""
        found = [outcome for outcome in self.outcomes if (outcome.stage, outcome.case) == (stage, case)]
        return [outcome for outcome in found if way is None or outcome.runs.get(way)]

    def best(self, stage: str, case: str, way: Way, who: str) -> Outcome | None:
        """The fastest of all who have this role or this name; None if nobody got there."""
        named = [outcome for outcome in self.of(stage, case, way) if who in (outcome.role, outcome.contender)]
        return min(named, key=lambda outcome: outcome.median(way, "wall_s") or 0, default=None)

    def write(self, path: Path) -> None:
        """One line for each outcome, so that a difference can be read."""
        path.parent.mkdir(parents=True, exist_ok=True)
        head = asdict(self) | {"outcomes": None}
        lines = ",\n".join(f"  {json.dumps(_rounded(asdict(outcome)))}" for outcome in self.outcomes)
        text = ",\n".join(f" {json.dumps(name)}: {json.dumps(_rounded(value))}" for name, value in head.items())
        path.write_text("{\n" + text.replace('"outcomes": null', f'"outcomes": [\n{lines}\n ]') + "\n}\n")


def read(path: Path) -> Results:
    """What Results.write wrote."""
    content = json.loads(path.read_text())
    outcomes = [
        Outcome(**{**outcome, "runs": {way: [Run(**run) for run in runs] for way, runs in outcome["runs"].items()}})
        for outcome in content.pop("outcomes")
    ]
    return Results(**content, outcomes=outcomes)


def _rounded(value: Any) -> Any:
    match value:
        case float():
            return round(value, 4)
        case Mapping():
            return {key: _rounded(item) for key, item in value.items()}
        case [*items]:
            return [_rounded(item) for item in items]
        case _:
            return value
