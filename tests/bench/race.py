"""The race: every contender pushes and pulls the same objects, in one run, in shuffled order."""

import math
import random
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from tests.bench.contenders import Agent, Contender, Place, Yardstick, program_of
from tests.bench.far import RATE_KB, ROUND_TRIP_MS, Far
from tests.bench.gateway import RaceGateway
from tests.bench.meter import Meter
from tests.bench.results import WAYS, Outcome, Run, Way
from tests.bench.sink import Sink
from tests.bench.source import Source, make_source, objects_in
from tests.machine import Home, describe
from tests.servers import Tls


@dataclass(frozen=True)
class Case:
    """So many objects of so many bytes, how often all race over them, which ways, and who need not come."""

    name: str
    title: str
    count: int
    size: int
    rounds: int
    ways: tuple[Way, ...] = WAYS
    without: tuple[str, ...] = ()


@dataclass(frozen=True)
class Stage:
    """A server, the link to it, and the cases that are raced there where none are named."""

    name: str
    title: str
    cases: tuple[str, ...]
    sink: bool = False
    tls: bool = False
    far: bool = False


CASES = {
    case.name: case
    for case in (
        Case("tiny", "3 objects of 10 kB", 3, 10_000, 1),
        Case("one", "one object of 10 kB", 1, 10_000, 5),
        Case("k200", "200 objects of 10 kB", 200, 10_000, 8),
        Case("k2000", "2,000 objects of 100 kB", 2000, 100_000, 5),
        Case(
            *("k10000", "10,000 objects of 1 kB", 10_000, 1000, 1),
            ways=("push", "re-push"),
            without=("git-remote-s3", "s5cmd", "aws"),
        ),
        Case("m64", "8 objects of 64 MiB", 8, 64 << 20, 2),
        Case("mid", "8 objects of 512 MiB", 8, 512 << 20, 4, without=("aws",)),
        Case("big", "one object of 4 GiB", 1, 4 << 30, 4, without=("aws",)),
    )
}
FAR = f"{ROUND_TRIP_MS} ms away, {RATE_KB // 1000} MB/s a connection"
STAGES = {
    stage.name: stage
    for stage in (
        Stage("near", "versitygw over http, loopback", ("one", "k200", "k2000", "k10000", "mid", "big")),
        Stage("tls", "versitygw over https, loopback", ("one", "k200"), tls=True),
        Stage("far", f"versitygw over http, {FAR}", ("one", "k200", "m64"), far=True),
        Stage("far-tls", f"versitygw over https, {FAR}", ("one",), far=True, tls=True),
        Stage("sink", "the sink over http, loopback", ("big",), sink=True),
        Stage("sink-tls", "the sink over https, loopback", ("big",), sink=True, tls=True),
    )
}
HOPELESS = 1.5
"""Whose first round takes so many times as long as the best peer's, whichever way, need not race again."""


_FEW = 8
"""Files that may be deleted between two runs."""


class Lost(Exception):
    """A contender did not do what it was there for."""


Say = Callable[[str], None]


@dataclass(frozen=True)
class Stadium:
    """What all races of a run share; `store`: a folder for what the servers keep."""

    folder: Path
    store: Path
    home: Home
    meter: Meter
    tls: Tls
    say: Say

    def race(self, stage: Stage, case: Case, contenders: Sequence[Contender]) -> list[Outcome]:
        """Runs all rounds of a case at a stage; a contender that fails is noted, and the others go on."""
        source = self._source(case)
        tls = self.tls if stage.tls else None
        with ExitStack() as running:
            server: RaceGateway | Sink
            if stage.sink:
                server = running.enter_context(Sink(self.store / "sink", source.objects, tls=tls))
            else:
                server = running.enter_context(RaceGateway(self.store / stage.name, tls=tls))
            server.client().create_bucket(Bucket="race")
            endpoint = running.enter_context(Far(server, self.folder)).endpoint if stage.far else server.endpoint
            track = Track(self.folder / "work", self.home, self.meter, server, endpoint, source, case.ways)
            outcomes = _rounds(track, stage, case, contenders, self.say)
        shutil.rmtree(server.folder)
        return outcomes

    def _source(self, case: Case) -> Source:
        """The case's objects, made at its first stage."""
        folder = self.folder / "sources" / case.name
        if folder.exists():
            return Source(folder / "work", folder / "origin.git", case.count, case.count * case.size)
        source = make_source(self.home, folder, case.count, case.size)
        self.home.git("push", "-q", "--no-verify", "origin", "main", cwd=source.work)
        return source

    def forget(self, case: Case) -> None:
        """The case's objects are needed no more."""
        shutil.rmtree(self.folder / "sources" / case.name, ignore_errors=True)


def _rounds(track: "Track", stage: Stage, case: Case, contenders: Sequence[Contender], say: Say) -> list[Outcome]:
    raced = [contender for contender in contenders if contender.name not in case.without]
    outcomes = {one.name: Outcome(stage.name, case.name, one.name, one.role) for one in raced}
    for number in range(-1 if case.name == "one" else 0, case.rounds):
        for contender in random.sample(raced, len(raced)):
            # Round -1 fills the caches: programs read for the first time, modules compiled.
            outcome = outcomes[contender.name] if number >= 0 else Outcome("", "", "", contender.role)
            track.run(contender, f"{contender.name.replace(' ', '-')}-{case.name}-{number}", outcome)
            say(_progress(stage, case, number, contender, outcome))
        if number == 0:
            raced = _worth_another(raced, outcomes)
    return list(outcomes.values())


def _worth_another(contenders: Sequence[Contender], outcomes: Mapping[str, Outcome]) -> list[Contender]:
    """Those that were not hopeless in every way of the first round; ours, the floor, and who failed, always."""
    took = {one.name: {way: runs[0].wall_s for way, runs in outcomes[one.name].runs.items()} for one in contenders}
    peers = [one.name for one in contenders if one.role == "peer" and not outcomes[one.name].failures]
    best = {way: min(took[name][way] for name in peers) for name in peers for way in took[name]}
    return [
        one
        for one in contenders
        if one.role in ("ours", "floor")
        or outcomes[one.name].failures
        or any(took[one.name][way] <= HOPELESS * best.get(way, math.inf) for way in took[one.name])
    ]


@dataclass(frozen=True)
class Track:
    """A case at a stage: what all contenders share there."""

    work: Path
    home: Home
    meter: Meter
    server: RaceGateway | Sink
    endpoint: str
    source: Source
    ways: tuple[Way, ...]
    bucket: str = "race"
    timeout_s: float = 600

    def run(self, contender: Contender, prefix: str, outcome: Outcome) -> None:
        """One round of one contender: pushes, and what it pushed is pulled."""
        place = Place(self.server, self.endpoint, self.bucket, prefix, self.source.origin, self.source.objects)
        try:
            for way, run in self._runs(contender, place):
                outcome.runs.setdefault(way, []).append(run)
        except Lost as error:
            outcome.failures.append(str(error))
        finally:
            self._leave(prefix)
            self.server.forget(self.bucket, prefix)

    def _leave(self, prefix: str) -> None:
        """Makes room for the next one; many files stay until all is over.

        ext4 passes by each inode that was deleted in the last minutes before it makes a file: the next one would pay.
        """
        if self.source.count > _FEW and self.work.exists():
            self.work.rename(self.work.with_name(f"left-{prefix}-{time.monotonic_ns()}"))
        shutil.rmtree(self.work, ignore_errors=True)

    def _runs(self, contender: Contender, place: Place) -> Iterator[tuple[Way, Run]]:
        match contender:
            case Agent():
                return self._runs_of_agent(contender, place)
            case Yardstick():
                return self._runs_of_yardstick(contender, place)

    def _runs_of_agent(self, agent: Agent, place: Place) -> Iterator[tuple[Way, Run]]:
        environ = self._register(agent, place)
        objects = objects_in(self.work)
        objects.parent.mkdir()
        objects.symlink_to(self.source.objects)
        run = self._timed(["git", "lfs", "push", "origin", "main"], environ)
        if agent.role != "floor":
            self._expect("the bucket", self._stored(place.prefix))
        yield "push", run
        if "re-push" in self.ways:
            yield "re-push", self._timed(["git", "lfs", "push", "--all", "origin", "main"], environ)
        objects.unlink()
        if "pull" in self.ways:
            run = self._timed(["git", "lfs", "fetch", "origin", "main"], environ)
            self._expect("the clone", _files(objects))
            yield "pull", run

    def _runs_of_yardstick(self, tool: Yardstick, place: Place) -> Iterator[tuple[Way, Run]]:
        program = str(program_of(tool))
        self.work.mkdir()
        run = self._timed(self.meter.command(tool.push(program, place, self.source.objects)), self._environ)
        self._expect("the bucket", self._stored(place.prefix))
        yield "push", run
        if "pull" in self.ways:
            run = self._timed(self.meter.command(tool.pull(program, place, self.work)), self._environ)
            self._expect("the folder", _files(self.work))
            yield "pull", run

    def _register(self, agent: Agent, place: Place) -> Mapping[str, str]:
        """A clone that has no objects and knows no remote but the agent's; gives its environment."""
        self.home.git("clone", "-q", "--no-checkout", "--origin", "stock", place.origin, self.work)
        self.home.git("remote", "remove", "stock", cwd=self.work)
        registration = agent.register(str(program_of(agent)), place)
        self.home.git("remote", "add", "origin", registration.remote, cwd=self.work)
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
            **({"lfs.concurrenttransfers": str(agent.workers)} if agent.workers else {}),
        }
        for key, value in config.items():
            self.home.git("config", key, value, cwd=self.work)
        for name, entries in registration.files.items():
            for key, value in entries.items():
                self.home.git("config", "--file", name, key, value, cwd=self.work)
        return {**self._environ, **registration.environ}

    def _timed(self, command: Sequence[str], environ: Mapping[str, str]) -> Run:
        """Runs a command that has to succeed."""
        mark = self.server.mark()
        started = time.perf_counter()
        try:
            done = self.home.run(*command, cwd=self.work, check=False, env=environ, timeout_s=self.timeout_s)
        except subprocess.TimeoutExpired:
            raise Lost(f"`{shlex.join(command[:3])} …` took more than {self.timeout_s:.0f} s") from None
        wall_s = time.perf_counter() - started
        used = self.meter.take()
        if done.returncode:
            raise Lost(describe(done).replace(str(self.work.parent), "…")[-300:])
        requests = len(self.server.requests(mark))
        return Run(
            wall_s,
            used.cpu_s if used else None,
            used.pss_mib if used else None,
            used.processes if used else None,
            requests,
        )

    @property
    def _environ(self) -> dict[str, str]:
        """The server by every name that one of them knows it by, and whom to trust."""
        server = self.server
        certificates = {"AWS_CA_BUNDLE": str(server.tls.ca), "SSL_CERT_FILE": str(server.tls.ca)} if server.tls else {}
        return {
            **server.environ(),
            "AWS_ENDPOINT_URL_S3": self.endpoint,
            "AWS_ENDPOINT_URL": self.endpoint,
            "S3_ENDPOINT_URL": self.endpoint,
            "AWS_REGION": server.region,
            **certificates,
        }

    def _stored(self, prefix: str) -> list[int]:
        """The sizes of the source's objects there; an agent may keep other things beside them."""
        pages = self.server.client().get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=f"{prefix}/")
        sizes = {Path(entry["Key"]).name: entry["Size"] for page in pages for entry in page.get("Contents", [])}
        return [sizes[path.name] for path in self.source.objects.glob("*/*/*") if path.name in sizes]

    def _expect(self, where: str, sizes: Sequence[int]) -> None:
        source = self.source
        if (len(sizes), sum(sizes)) != (source.count, source.size):
            found, wanted = f"{len(sizes)} objects, {sum(sizes)} bytes", f"{source.count}, {source.size}"
            raise Lost(f"in {where} are {found}, not {wanted}")


def _files(folder: Path) -> list[int]:
    """The sizes of all files in a folder."""
    return [path.stat().st_size for path in folder.rglob("*") if path.is_file()]


def _progress(stage: Stage, case: Case, number: int, contender: Contender, outcome: Outcome) -> str:
    times = ", ".join(f"{way} {runs[-1].wall_s:.2f} s" for way, runs in outcome.runs.items())
    what = f"FAILED: {outcome.failures[-1]}" if outcome.failures else times
    return f"{stage.name:8} {case.name:6} {'warm-up' if number < 0 else number + 1:>7}  {contender.name:14} {what}"
