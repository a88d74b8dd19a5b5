"""The race: every contender pushes and pulls the same objects, in one run, in shuffled order."""

import random
import shlex
import shutil
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tests.bench.contenders import Agent, Contender, Place, Yardstick, program_of
from tests.bench.gateway import RaceGateway
from tests.bench.meter import Meter
from tests.bench.source import Source, make_source, objects_in
from tests.machine import Home, describe

Direction = Literal["push", "re-push", "pull"]
DIRECTIONS: tuple[Direction, ...] = ("push", "re-push", "pull")


@dataclass(frozen=True)
class Case:
    """So many objects of so many bytes, and how often all race over them."""

    name: str
    title: str
    count: int
    size: int
    rounds: int


CASES = {
    case.name: case
    for case in (
        Case("one", "one object of 10 kB", 1, 10_000, 7),
        Case("k200", "200 objects of 10 kB", 200, 10_000, 3),
        Case("k2000", "2,000 objects of 100 kB", 2000, 100_000, 2),
        Case("mid", "8 objects of 512 MiB", 8, 512 << 20, 2),
        Case("big", "one object of 4 GiB", 1, 4 << 30, 2),
    )
}
SMALL = ("one", "k200", "k2000")


@dataclass(frozen=True)
class Run:
    """What one push or pull took; None: not counted on this machine."""

    wall_s: float
    cpu_s: float | None
    rss_mib: float | None
    processes: int | None
    requests: int


@dataclass
class Outcome:
    """All runs of one contender in one case, and how it failed where it did."""

    runs: dict[Direction, list[Run]] = field(default_factory=lambda: defaultdict(list))
    failures: list[str] = field(default_factory=list)


class Lost(Exception):
    """A contender did not do what it was there for."""


Outcomes = dict[tuple[str, str], Outcome]
Say = Callable[[str], None]


@dataclass(frozen=True)
class Track:
    """What all contenders share."""

    folder: Path
    home: Home
    server: RaceGateway
    meter: Meter
    bucket: str
    timeout_s: float = 600

    def race(self, cases: Iterable[Case], contenders: Sequence[Contender], say: Say) -> Outcomes:
        """Runs all rounds of all cases; a contender that fails is noted, and the others go on."""
        outcomes: Outcomes = defaultdict(Outcome)
        for case in cases:
            source = make_source(self.home, self.folder / case.name, case.count, case.size)
            self.home.git("push", "-q", "--no-verify", "origin", "main", cwd=source.work)
            for number in range(-1 if case.name == "one" else 0, case.rounds):
                for contender in random.sample(contenders, len(contenders)):
                    # Round -1 fills the caches: programs read for the first time, modules compiled.
                    outcome = Outcome() if number < 0 else outcomes[case.name, contender.name]
                    self._run(contender, source, f"{contender.name}-{case.name}-{number}", outcome)
                    say(_progress(case, number, contender, outcome))
            shutil.rmtree(self.folder / case.name)
        return outcomes

    def _run(self, contender: Contender, source: Source, prefix: str, outcome: Outcome) -> None:
        """One round of one contender: pushes, and what it pushed is pulled."""
        place = Place(self.server, self.bucket, prefix, source.origin, source.objects)
        try:
            for direction, run in self._runs(contender, place, source):
                outcome.runs[direction].append(run)
        except Lost as error:
            outcome.failures.append(str(error))
        finally:
            shutil.rmtree(self._work, ignore_errors=True)
            self.server.forget(self.bucket, prefix)

    def _runs(self, contender: Contender, place: Place, source: Source) -> Iterator[tuple[Direction, Run]]:
        match contender:
            case Agent():
                return self._runs_of_agent(contender, place, source)
            case Yardstick():
                return self._runs_of_yardstick(contender, place, source)

    def _runs_of_agent(self, agent: Agent, place: Place, source: Source) -> Iterator[tuple[Direction, Run]]:
        environ = self._register(agent, place)
        objects = objects_in(self._work)
        objects.parent.mkdir()
        objects.symlink_to(source.objects)
        run = self._timed(["git", "lfs", "push", "origin", "main"], environ)
        if agent.role != "floor":
            self._expect(source, "the bucket", self._stored(place.prefix))
        yield "push", run
        yield "re-push", self._timed(["git", "lfs", "push", "--all", "origin", "main"], environ)
        objects.unlink()
        run = self._timed(["git", "lfs", "fetch", "origin", "main"], environ)
        self._expect(source, "the clone", _files(objects))
        yield "pull", run

    def _runs_of_yardstick(self, tool: Yardstick, place: Place, source: Source) -> Iterator[tuple[Direction, Run]]:
        program = str(program_of(tool))
        self._work.mkdir()
        run = self._timed(self.meter.command(tool.push(program, place, source.objects)), self._environ)
        self._expect(source, "the bucket", self._stored(place.prefix))
        yield "push", run
        run = self._timed(self.meter.command(tool.pull(program, place, self._work)), self._environ)
        self._expect(source, "the folder", _files(self._work))
        yield "pull", run

    def _register(self, agent: Agent, place: Place) -> Mapping[str, str]:
        """A clone that has no objects and knows no remote but the agent's; gives its environment."""
        self.home.git("clone", "-q", "--no-checkout", "--origin", "stock", place.origin, self._work)
        self.home.git("remote", "remove", "stock", cwd=self._work)
        registration = agent.register(str(program_of(agent)), place)
        self.home.git("remote", "add", "origin", registration.remote, cwd=self._work)
        program, *arguments = registration.command
        if self.meter.program:
            # The meter in the place of the shell that git-lfs puts before an agent: workers look past that for git-lfs.
            program, arguments = "exec", self.meter.command(registration.command)
        config = {
            "lfs.customtransfer.contender.path": program,
            "lfs.customtransfer.contender.args": shlex.join(arguments),
            "lfs.customtransfer.contender.concurrent": "true",
            "lfs.locksverify": "false",
            **registration.config,
        }
        for key, value in config.items():
            self.home.git("config", key, value, cwd=self._work)
        for name, entries in registration.files.items():
            for key, value in entries.items():
                self.home.git("config", "--file", name, key, value, cwd=self._work)
        return {**self._environ, **registration.environ}

    def _timed(self, command: Sequence[str], environ: Mapping[str, str]) -> Run:
        """Runs a command that has to succeed."""
        mark = self.server.mark()
        started = time.perf_counter()
        try:
            done = self.home.run(*command, cwd=self._work, check=False, env=environ, timeout_s=self.timeout_s)
        except subprocess.TimeoutExpired:
            raise Lost(f"`{shlex.join(command[:3])} …` took more than {self.timeout_s:.0f} s") from None
        wall_s = time.perf_counter() - started
        used = self.meter.take()
        if done.returncode:
            raise Lost(describe(done)[-500:])
        requests = len(self.server.requests(mark))
        return Run(
            wall_s,
            used.cpu_s if used else None,
            used.rss_mib if used else None,
            used.processes if used else None,
            requests,
        )

    @property
    def _work(self) -> Path:
        return self.folder / "work"

    @property
    def _environ(self) -> dict[str, str]:
        """The server by every name that one of them knows it by."""
        server = self.server
        return {
            **server.environ(),
            "AWS_ENDPOINT_URL": server.endpoint,
            "S3_ENDPOINT_URL": server.endpoint,
            "AWS_REGION": server.region,
        }

    def _stored(self, prefix: str) -> list[int]:
        pages = self.server.client().get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=f"{prefix}/")
        return [entry["Size"] for page in pages for entry in page.get("Contents", [])]

    def _expect(self, source: Source, where: str, sizes: Sequence[int]) -> None:
        if (len(sizes), sum(sizes)) != (source.count, source.size):
            found, wanted = f"{len(sizes)} objects, {sum(sizes)} bytes", f"{source.count}, {source.size}"
            raise Lost(f"in {where} are {found}, not {wanted}")


def _files(folder: Path) -> list[int]:
    """The sizes of all files in a folder."""
    return [path.stat().st_size for path in folder.rglob("*") if path.is_file()]


def _progress(case: Case, number: int, contender: Contender, outcome: Outcome) -> str:
    times = ", ".join(f"{direction} {runs[-1].wall_s:.2f} s" for direction, runs in outcome.runs.items())
    what = f"FAILED: {outcome.failures[-1]}" if outcome.failures else times
    return f"{case.name:6} {'warm-up' if number < 0 else number + 1:>7}  {contender.name:14} {what}"
