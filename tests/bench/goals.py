"""What the project wants to reach, as ratios within one run."""

import statistics
from collections.abc import Iterator
from dataclasses import dataclass

from tests.bench.results import Metric, Results, Way


@dataclass(frozen=True)
class Goal:
    """Our median of `metric`, divided by that of `base`, is at most `limit`.

    `base`: the best of a role, a contender, or several added up by "+"; "" for no ratio, and then `per` says of how
    much the limit is told. Without a limit it is there to be seen.
    """

    stage: str
    case: str
    way: Way
    metric: Metric
    base: str
    limit: float | None
    per: float = 1


GOALS = (
    Goal("near", "one", "push", "wall_s", "null", 1.25),
    Goal("near", "one", "pull", "wall_s", "null", 1.25),
    Goal("far", "one", "push", "wall_s", "lfs-dal", 2.5),
    Goal("far", "one", "pull", "wall_s", "lfs-dal", 2.5),
    Goal("near", "k200", "push", "wall_s", "peer", 1),
    Goal("near", "k200", "pull", "wall_s", "peer", 1),
    Goal("far", "k200", "push", "wall_s", "peer", 1),
    Goal("far", "k200", "push", "requests", "", 1.1, per=200),
    Goal("far", "k200", "pull", "wall_s", "peer", 1),
    Goal("near", "k2000", "push", "wall_s", "peer", 1 / 1.3),
    Goal("near", "k2000", "push", "cpu_s", "peer", 0.5),
    Goal("near", "k2000", "re-push", "wall_s", "peer", 1),
    Goal("near", "k2000", "pull", "wall_s", "peer", 1),
    Goal("near", "k2000", "push", "pss_mib", "", 300),
    Goal("near", "k2000", "pull", "pss_mib", "", 300),
    Goal("near", "k10000", "re-push", "wall_s", "", 10),
    Goal("near", "mid", "push", "wall_s", "peer", 1),
    Goal("near", "mid", "pull", "wall_s", "peer", 1),
    Goal("near", "mid", "push", "pss_mib", "", 500),
    Goal("near", "mid", "pull", "pss_mib", "", 500),
    Goal("near", "big", "push", "wall_s", "peer", 1),
    Goal("near", "big", "pull", "wall_s", "peer", 1 / 1.2),
    Goal("near", "big", "pull", "wall_s", "s5cmd+null", None),
    Goal("near", "big", "push", "pss_mib", "", 300),
    Goal("near", "big", "pull", "pss_mib", "", 300),
    Goal("sink", "big", "push", "wall_s", "lfs-s3", 1.1),
    Goal("sink", "big", "push", "wall_s", "peer", 1.1),
    Goal("sink", "big", "push", "cpu_s", "", 1.3, per=4),
    Goal("sink-tls", "big", "push", "wall_s", "peer", 1.1),
)
_METRICS: dict[Metric, str] = {"wall_s": "s", "cpu_s": "CPU s", "pss_mib": "MiB", "requests": "requests"}
_PER = {1: "", 4: " a GiB", 200: " an object"}


@dataclass(frozen=True)
class Verdict:
    """What became of a goal."""

    goal: Goal
    what: str
    value: float

    @property
    def wanted(self) -> str:
        """What the value is to be, and whether it is."""
        if self.goal.limit is None:
            return ""
        return f"at most {self.goal.limit:.3g}, {'reached' if self.value <= self.goal.limit else 'MISSED'}"


def judged(results: Results) -> Iterator[Verdict]:
    """Every goal that this run can say something about."""
    if results.startup_ms:
        init, nothing = (statistics.median(results.startup_ms[name]) for name in ("init answered", "python3 -c pass"))
        goal = Goal("", "", "push", "wall_s", "", 2)
        yield Verdict(goal, "`init` answered / python3 -c pass", init / nothing)
    for goal in GOALS:
        ours = _value(results, goal, "ours")
        base = _value(results, goal, goal.base) if goal.base else goal.per
        if ours is None or not base:
            continue
        what = f"{results.cases[goal.case]}, {goal.way} ({goal.stage}), {_METRICS[goal.metric]}"
        what += f" / {_named(results, goal)}" if goal.base else _PER[int(goal.per)]
        yield Verdict(goal, what, ours / base)


def _value(results: Results, goal: Goal, who: str) -> float | None:
    bests = [results.best(goal.stage, goal.case, goal.way, name) for name in who.split("+")]
    values = [value for best in bests if best and (value := best.median(goal.way, goal.metric)) is not None]
    return sum(values) if len(values) == len(bests) else None


def _named(results: Results, goal: Goal) -> str:
    """The base, by the name of who it was."""
    if goal.base == "peer" and (best := results.best(goal.stage, goal.case, goal.way, "peer")):
        return f"{best.contender}, best peer"
    return goal.base
