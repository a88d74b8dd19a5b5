"""`python -m tests.bench`: races the agent against the peers that are installed, and measures its start-up.

tests/install/peers.sh installs the peers. Without options it takes 40 minutes, 8 GB of disk, and 4 GB of memory where
there is enough; `--quick` takes three minutes. A choice of cases and stages is raced whole: each case at each stage.
"""

import argparse
import os
import platform
import re
import shutil
import signal
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from tests.bench import far, report, startup
from tests.bench.contenders import CONTENDERS, Contender, program_of, with_workers
from tests.bench.gateway import RaceGateway
from tests.bench.meter import Meter
from tests.bench.race import CASES, STAGES, Case, Stadium, Stage
from tests.bench.results import Outcome, Results
from tests.bench.sink import Sink
from tests.machine import Home
from tests.servers import Authority, cache

RESULTS = Path(__file__).parents[2] / "build" / "bench"
NEWEST_GIT_LFS = cache() / "git-lfs-3.8.1"
GROUPS = {"small": ("one", "k200", "k2000"), "large": ("mid", "big")}
QUICK = {"near": {"one": 3, "k200": 2, "k2000": 1}, "far": {"one": 2, "k200": 1}}
"""Rounds of the cases at the stages."""
MEMORY = Path("/dev/shm")
ROOM = 12 << 30
"""Bytes free, for the servers to keep their objects in memory."""

Heat = tuple[Stage, Case]


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [contender.name for contender in CONTENDERS]
    groups = ", ".join([*CASES, *(f"{name} ({'+'.join(cases)})" for name, cases in GROUPS.items())])
    stages = "\n".join(f"{stage.name}: {stage.title}; {', '.join(stage.cases)}" for stage in STAGES.values())
    parser.epilog = f"stages, with the cases that are raced there where none are named:\n{stages}"
    parser.add_argument("--quick", action="store_true", help="the small cases, near and far, a few rounds")
    parser.add_argument("--cases", type=_names, help=f"all, none, or some of {groups}")
    parser.add_argument("--stages", type=_names, help=f"all, or some of {', '.join(STAGES)}")
    parser.add_argument("--agents", type=_names, default=["all"], help=f"all, or some of {', '.join(names)}")
    parser.add_argument(
        "--workers",
        type=_names,
        default=[],
        metavar="N,…",
        help="each agent with so many of them, as lfs.concurrenttransfers",
    )
    parser.add_argument("--rounds", type=int, help="of each case, instead of its own number")
    parser.add_argument("--startup-rounds", type=int, default=40, metavar="N", help="(default: %(default)s)")
    parser.add_argument("--folder", type=Path, help="where to work (default: the system's temporary folder)")
    parser.add_argument(
        "--store",
        type=Path,
        help=f"where the servers keep their objects (default: {MEMORY} with {ROOM >> 30} GiB free, else --folder)",
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="the folder of the JSON files")
    arguments = parser.parse_args(argv)
    for chosen, known in ((arguments.cases, CASES), (arguments.stages, STAGES), (arguments.agents, names)):
        if unknown := {*(chosen or ())} - {"all", *known}:
            parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    return arguments


def _names(words: str) -> list[str]:
    return [name for word in words.split(",") if word != "none" for name in GROUPS.get(word, (word,))]


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse_arguments(argv)
    wanted = list(_heats(arguments))
    heats = [heat for heat in wanted if _missing(heat[0]) is None]
    for reason in sorted({reason for stage, _ in wanted if (reason := _missing(stage))}):
        print(reason, file=sys.stderr)
    if wanted and not heats:
        return 1
    invited = [contender for contender in CONTENDERS if _chosen(contender.name, arguments.agents)]
    contenders = [contender for contender in invited if program_of(contender)]
    raced = [each for one in contenders for each in with_workers(one, [int(number) for number in arguments.workers])]
    load_before = _load()
    base = tempfile.mkdtemp(prefix="lfs-agent-bench-", dir=arguments.folder)
    store = tempfile.mkdtemp(prefix="lfs-agent-bench-", dir=arguments.store or _roomy(arguments.folder))
    folder = Path(base)
    try:
        home = Home(folder / "home", git_lfs=NEWEST_GIT_LFS if NEWEST_GIT_LFS.exists() else None)
        times = startup.measure(folder, arguments.startup_rounds) if arguments.startup_rounds else {}
        outcomes = list(_race(folder, Path(store), home, heats, raced)) if heats else []
        circumstances = {
            "options": ", ".join(f"{name} {value}" for name, value in _told(arguments)),
            "at": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
            "machine": f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}",
            "load": f"{load_before} before, {_load()} after",
            "python": f"{platform.python_version()} ({_compiled()})",
            "git-lfs": home.run("git", "lfs", "version").stdout.strip(),
            "servers": "on the same cores: versitygw 1.8.0 --data-integrity-etag; a sink that keeps nothing",
            "raced": [contender.name for contender in raced],
            "absent": [contender.name for contender in invited if contender not in contenders] or "nobody",
        }
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(store, ignore_errors=True)
    stages = {stage.name: stage.title for stage, _ in heats}
    cases = {case.name: case.title for _, case in heats}
    results = Results(circumstances, stages, cases, times, outcomes)
    file = arguments.results / time.strftime("bench-%Y%m%dT%H%M%SZ.json", time.gmtime())
    results.write(file)
    print(f"\n{report.text(results)}\n\nevery run: {file}")
    return 0


def _told(arguments: argparse.Namespace) -> Iterator[tuple[str, object]]:
    """What was chosen; folders are nobody else's business."""
    for name, value in vars(arguments).items():
        if value and not isinstance(value, Path):
            yield name, "+".join(value) if isinstance(value, list) else value


def _heats(arguments: argparse.Namespace) -> Iterator[Heat]:
    """What is raced, case by case, so that one case's objects are on disk at a time."""
    for case in CASES.values():
        for stage in STAGES.values():
            if arguments.quick:
                rounds = QUICK.get(stage.name, {}).get(case.name, 0)
            else:
                cases = stage.cases if arguments.cases is None else arguments.cases
                rounds = case.rounds if _chosen(case.name, cases) and _chosen(stage.name, arguments.stages) else 0
            if rounds:
                yield stage, replace(case, rounds=arguments.rounds or rounds)


def _chosen(name: str, words: Sequence[str] | None) -> bool:
    return words is None or "all" in words or name in words


def _missing(stage: Stage) -> str | None:
    """Why a stage cannot be had here."""
    return (Sink.missing() if stage.sink else RaceGateway.missing()) or (far.missing() if stage.far else None)


def _roomy(folder: Path | None) -> Path | None:
    """Memory, where there is enough: the servers' disk would be a part of what is measured."""
    told = Path("/proc/meminfo")
    found = re.search(r"^MemAvailable: +(\d+) kB", told.read_text(), re.MULTILINE) if told.exists() else None
    return MEMORY if found and int(found[1]) * 1024 > ROOM and shutil.disk_usage(MEMORY).free > ROOM else folder


def _race(
    folder: Path, store: Path, home: Home, heats: Sequence[Heat], contenders: Sequence[Contender]
) -> Iterator[Outcome]:
    home.environ["PATH"] = f"{home.environ['PATH']}{os.pathsep}{cache() / 'bin'}"  # remote helpers of the peers
    tls = Authority(folder / "authority").server()
    stadium = Stadium(
        folder, store, home, Meter.build(folder), tls, lambda line: print(line, file=sys.stderr, flush=True)
    )
    for number, (stage, case) in enumerate(heats):
        yield from stadium.race(stage, case, contenders)
        if case.name not in {later.name for _, later in heats[number + 1 :]}:
            stadium.forget(case)


def _compiled() -> str:
    """How this Python was. That of a system always is optimized; of Debian's, the options tell nothing."""
    options = sysconfig.get_config_var("CONFIG_ARGS") or ""
    return "optimized" if sys.base_prefix == "/usr" or "--enable-optimizations" in options else "not optimized"


def _load() -> str:
    return f"{os.getloadavg()[0]:.2f}"


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that all is cleaned up
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
