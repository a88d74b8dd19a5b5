"""A long storm: thousands of seeds over several calls, their results in a file, and a table of what came of them."""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.servers import KINDS
from tests.storm.crew import Crew
from tests.storm.plan import KINDS as FAULTS
from tests.storm.plan import case_of
from tests.storm.run import Run

Tell = Callable[[str], None]


class Campaign:
    """The results in `folder`, which an earlier call may have begun; what a change has made of them, nobody knows."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = folder / "results.jsonl"
        lines = self._file.read_bytes().split(b"\n")[:-1] if self._file.exists() else []
        self._results: list[dict[str, Any]] = [json.loads(line) for line in lines]

    @property
    def done(self) -> set[int]:
        """The seeds that were run."""
        return {result["seed"] for result in self._results}

    @property
    def broken(self) -> list[int]:
        """The seeds after which something was wrong."""
        return [result["seed"] for result in self._results if result["wrong"]]

    def go_on(self, seeds: Iterable[int], minutes: float, crew: Crew, tell: Tell) -> None:
        """Runs those that are left, where their server is installed, as long as there is time."""
        done, missing = self.done, {name for name, kind in KINDS.items() if kind.missing()}
        left = [seed for seed in seeds if seed not in done and case_of(seed).server not in missing]
        for run in crew.run(left, until=time.monotonic() + 60 * minutes):
            self._add(run)
            if run.wrong:
                tell(run.report)

    def _add(self, run: Run) -> None:
        result = {
            "seed": run.case.seed,
            "server": run.case.server,
            "through": run.case.through,
            "seconds": round(run.seconds, 2),
            "passages": [asdict(passage) for passage in run.passages],
            "wrong": run.wrong,
        }
        self._results.append(result)
        with self._file.open("a") as file:
            file.write(json.dumps(result) + "\n")

    def tell(self, tell: Tell) -> None:
        """The table: what was met in how many pushes and pulls, and how those ended."""
        outcomes: dict[str, Counter[str]] = {kind.name: Counter() for kind in FAULTS}
        for result in self._results:
            for passage in result["passages"]:
                for kind in set(passage["met"]):
                    outcomes[kind]["runs"] += 1
                    outcomes[kind][passage["outcome"]] += 1
                    outcomes[kind]["wrong"] += bool(result["wrong"])
        tell(f"{'fault':36}{'met in':>8}{'succeeded':>12}{'failed, then mended':>22}{'wrong':>8}")
        for kind, counts in outcomes.items():
            tell(
                f"{kind:36}{counts['runs']:8}{counts['succeeded']:12}{counts['failed, then mended']:22}"
                f"{counts['wrong']:8}"
            )
        places = Counter((result["server"], result["through"]) for result in self._results)
        for (server, through), count in sorted(places.items()):
            tell(f"{count:6} seeds over {server}, {'by ' if through == 'git' else 'in '}{through}")
