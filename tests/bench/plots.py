"""The plots of the docs' page: every contender as a dot beside the best peer, and what a number of workers brings."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from tests.bench.goals import GOALS
from tests.bench.results import WAYS, Metric, Outcome, Results, Way

OURS = "lfs-agent"
# Colours that the colour-blind tell apart (Okabe, Ito).
LOOKS = {
    OURS: ("o", "#d55e00"),
    "lfs-dal": ("s", "#0072b2"),
    "object-store": ("^", "#009e73"),
    "lfs-s3": ("D", "#cc79a7"),
    "git-remote-s3": ("v", "#e69f00"),
    "null": ("|", "#000000"),
    "s5cmd": ("P", "#999999"),
    "aws": ("X", "#999999"),
}
WAY_LOOKS: dict[Way, tuple[str, str]] = {
    "push": ("o", "#d55e00"),
    "re-push": ("s", "#999999"),
    "pull": ("^", "#0072b2"),
}
GOAL_COLOUR = "#7b3294"
ROW_INCHES = 0.27
mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "lfs-agent", "font.size": 9, "axes.axisbelow": True})


@dataclass(frozen=True)
class Chart:
    """A metric of all cases: divided by the best peer's, or, where `base` is None, as it is."""

    metric: Metric
    base: Literal["peer"] | None
    label: str
    ticks: tuple[float, ...]
    without: tuple[str, ...] = ()
    stages: tuple[str, ...] | None = None
    """The only ones that differ; all where None."""


TIME = Chart("wall_s", "peer", "time ÷ best peer's (log)", (0.25, 0.5, 1, 2, 4, 8, 16))
CPU = Chart("cpu_s", "peer", "CPU time ÷ that of the fastest peer (log)", (0.25, 0.5, 1, 2, 4, 8, 16, 32), ("null",))
MEMORY = Chart(
    "pss_mib", None, "memory of all workers together, MiB (log)", (10, 30, 100, 300, 1000, 3000), stages=("near",)
)
Row = tuple[str, str, Way]


def draw(results: Results, chart: Chart, file: Path) -> None:
    """A panel for each stage, a line for each case and way; nothing where there is none."""
    stages = [stage for stage in results.stages if chart.stages is None or stage in chart.stages]
    panels = {stage: list(_rows(results, chart, stage)) for stage in stages}
    panels = {stage: rows for stage, rows in panels.items() if rows}
    if not panels:
        return
    heights = [len(rows) for rows in panels.values()]
    figure = Figure(figsize=(8, sum(heights) * ROW_INCHES + len(heights) * 0.55 + 1.1), layout="constrained")
    axes: list[Axes] = [*figure.subplots(len(panels), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]]
    for panel, (stage, rows) in zip(axes, panels.items(), strict=True):
        _panel(panel, results, chart, rows)
        panel.set_title(results.stages[stage], loc="left", fontsize=9, fontweight="bold")
    axes[-1].set_xlabel(chart.label)
    shown = [name for name in LOOKS if name not in chart.without and _raced(results, name)]
    handles = [Line2D([], [], ls="", marker=LOOKS[name][0], color=LOOKS[name][1], label=name) for name in shown]
    handles.append(Line2D([], [], color=GOAL_COLOUR, linewidth=2, label="goal: here or left of it"))
    figure.legend(handles=handles, loc="outside upper center", ncols=5, frameon=False, handletextpad=0.4)
    _save(figure, file)


def _rows(results: Results, chart: Chart, stage: str) -> Iterator[Row]:
    for case in results.cases:
        for way in WAYS:
            if not chart.base or results.best(stage, case, way, chart.base):
                outcomes = results.of(stage, case, way)
                if any(outcome.role == "ours" and outcome.values(way, chart.metric) for outcome in outcomes):
                    yield stage, case, way


def _panel(panel: Axes, results: Results, chart: Chart, rows: Sequence[Row]) -> None:
    panel.set_xscale("log")
    panel.set_xlim(chart.ticks[0] / 1.5, chart.ticks[-1] * 1.5)
    panel.xaxis.set_major_locator(FixedLocator(chart.ticks))
    panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    panel.xaxis.set_minor_locator(NullLocator())
    panel.set_yticks(range(len(rows)), [f"{results.cases[case]}, {way}" for _, case, way in rows])
    panel.set_ylim(len(rows) - 0.5, -0.5)
    panel.grid(color="#e5e5e5")
    panel.tick_params(length=0)
    for side in ("top", "right", "left"):
        panel.spines[side].set_visible(False)
    if chart.base:
        panel.axvline(1, color="#444444", linewidth=0.8)
    for name in reversed(LOOKS):  # ours on top
        if name not in chart.without:
            _dots(panel, name, [_spread_of(results, chart, row, name) for row in rows])
    marks = [(limit, number) for number, row in enumerate(rows) for limit in _goals(chart, row)]
    panel.vlines(
        [limit for limit, _ in marks],
        [number - 0.4 for _, number in marks],
        [number + 0.4 for _, number in marks],
        color=GOAL_COLOUR,
        linewidth=2,
    )


def _goals(chart: Chart, row: Row) -> Iterator[float]:
    for goal in GOALS:
        told_so = goal.metric == chart.metric and goal.base == (chart.base or "") and goal.per == 1
        if told_so and goal.limit and (goal.stage, goal.case, goal.way) == row:
            yield goal.limit


Spread = tuple[float, float, float]
"""Least, median, most."""


def _spread_of(results: Results, chart: Chart, row: Row, name: str) -> Spread | None:
    stage, case, way = row
    outcome = results.best(stage, case, way, name)
    value = outcome.median(way, chart.metric) if outcome else None
    if outcome is None or not value:
        return None
    best = results.best(stage, case, way, chart.base) if chart.base else None
    base = (best.median(way, chart.metric) if best else None) or 1
    values = outcome.values(way, chart.metric)
    return min(values) / base, value / base, max(values) / base


def _dots(panel: Axes, name: str, spreads: Sequence[Spread | None]) -> None:
    """A contender's, each at the height of its row."""
    marker, colour = LOOKS[name]
    there = [(number, spread) for number, spread in enumerate(spreads) if spread]
    heights = [number for number, _ in there]
    panel.hlines(
        heights, [low for _, (low, _, _) in there], [high for _, (_, _, high) in there], color=colour, linewidth=1
    )
    size = 7.5 if name == OURS else 5
    panel.plot([middle for _, (_, middle, _) in there], heights, ls="", marker=marker, color=colour, markersize=size)


def _raced(results: Results, name: str) -> bool:
    return any(outcome.contender == name and outcome.runs for outcome in results.outcomes)


def draw_workers(results: Results, file: Path) -> None:
    """A panel for each case: what a push, a re-push and a pull take with so many workers."""
    cases = list(results.cases)
    stage = next(iter(results.stages))
    figure = Figure(figsize=(8, 3), layout="constrained")
    for panel, case in zip(figure.subplots(1, len(cases), squeeze=False)[0], cases, strict=True):
        outcomes = sorted(results.of(stage, case), key=workers_of)
        numbers = [workers_of(outcome) for outcome in outcomes]
        for way, (marker, colour) in WAY_LOOKS.items():
            values = [outcome.values(way, "wall_s") for outcome in outcomes]
            medians = [outcome.median(way, "wall_s") or 0 for outcome in outcomes]
            panel.plot(numbers, medians, marker=marker, color=colour, label=way, markersize=5)
            panel.fill_between(numbers, [min(v) for v in values], [max(v) for v in values], color=colour, alpha=0.15)
        panel.set_xscale("log", base=2)
        panel.xaxis.set_major_locator(FixedLocator(numbers))
        panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        panel.set_ylim(0)
        panel.set_title(results.cases[case], loc="left", fontsize=9, fontweight="bold")
        panel.set_xlabel("lfs.concurrenttransfers")
        panel.set_ylabel("seconds")
        panel.grid(color="#e5e5e5")
        for side in ("top", "right"):
            panel.spines[side].set_visible(False)
    panel.legend(frameon=False)
    _save(figure, file)


def workers_of(outcome: Outcome) -> int:
    """Of a contender that was given a number of them.

    >>> workers_of(Outcome("far", "one", "lfs-agent x16", "ours"))
    16
    """
    return int(outcome.contender.rpartition(" x")[2])


def _save(figure: Figure, file: Path) -> None:
    figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None, dpi=80)
