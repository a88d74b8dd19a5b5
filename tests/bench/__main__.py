"""`python -m tests.bench`: races the agent against the peers that are installed, and measures its start-up.

tests/install/peers.sh installs the peers. The default takes about five minutes; `--cases all` moves gigabytes.
"""

import argparse
import os
import platform
import shlex
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tests.bench import startup
from tests.bench.contenders import CONTENDERS, Contender, program_of
from tests.bench.gateway import RaceGateway
from tests.bench.meter import Meter
from tests.bench.race import CASES, SMALL, Case, Outcomes, Track
from tests.bench.report import Report
from tests.machine import Home
from tests.servers import cache

RESULTS = Path(__file__).parents[2] / "build" / "bench"
NEWEST_GIT_LFS = cache() / "git-lfs-3.8.1"


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [contender.name for contender in CONTENDERS]
    parser.add_argument(
        "--cases", default=",".join(SMALL), help=f"all, none, or some of {', '.join(CASES)} (default: %(default)s)"
    )
    parser.add_argument("--agents", default="all", help=f"all, or some of {', '.join(names)}")
    parser.add_argument("--rounds", type=int, help="of each case, instead of its own number")
    parser.add_argument("--startup-rounds", type=int, default=40, metavar="N", help="(default: %(default)s)")
    parser.add_argument("--folder", type=Path, help="where to work: up to 13 GB for the large cases")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the folder of the JSON files")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse_arguments(argv)
    cases = [case for case in CASES.values() if _chosen(case.name, arguments.cases)]
    if arguments.rounds:
        cases = [replace(case, rounds=arguments.rounds) for case in cases]
    wanted = [contender for contender in CONTENDERS if _chosen(contender.name, arguments.agents)]
    contenders = [contender for contender in wanted if program_of(contender)]
    if cases and (reason := RaceGateway.missing()):
        print(reason, file=sys.stderr)
        return 1
    load_before = _load()
    folder = Path(tempfile.mkdtemp(prefix="lfs-agent-bench-", dir=arguments.folder))
    try:
        home = Home(folder / "home", git_lfs=NEWEST_GIT_LFS if NEWEST_GIT_LFS.exists() else None)
        times = startup.measure(folder, arguments.startup_rounds) if arguments.startup_rounds else {}
        outcomes = _race(folder, home, cases, contenders) if cases else {}
        circumstances = {
            "command": shlex.join(["python", "-m", "tests.bench", *(sys.argv[1:] if argv is None else argv)]),
            "at": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
            "machine": f"{os.cpu_count()} cores, {platform.system()} {platform.release()} {platform.machine()}",
            "load": f"{load_before} before, {_load()} after",
            "python": platform.python_version(),
            "git-lfs": home.run("git", "lfs", "version").stdout.strip(),
            "server": "versitygw 1.8.0 --data-integrity-etag, on the same cores",
            "raced": [contender.name for contender in contenders],
            "absent": [contender.name for contender in wanted if contender not in contenders] or "nobody",
        }
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    report = Report(circumstances, cases, contenders, times, outcomes)
    print(f"\n{report.text()}")
    file = arguments.results / time.strftime("bench-%Y%m%dT%H%M%SZ.json", time.gmtime())
    report.write_json(file)
    print(f"\nevery run: {file}")
    return 0


def _chosen(name: str, words: str) -> bool:
    return words == "all" or name in words.split(",")


def _race(folder: Path, home: Home, cases: Sequence[Case], contenders: Sequence[Contender]) -> Outcomes:
    home.environ["PATH"] = f"{home.environ['PATH']}{os.pathsep}{cache() / 'bin'}"  # remote helpers of the peers
    with RaceGateway(folder / "server") as server:
        server.client().create_bucket(Bucket="race")
        track = Track(folder, home, server, Meter.build(folder), "race")
        return track.race(cases, contenders, say=lambda line: print(line, file=sys.stderr, flush=True))


def _load() -> str:
    return f"{os.getloadavg()[0]:.2f}"


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that all is cleaned up
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
