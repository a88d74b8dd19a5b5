"""How soon a worker answers `init`, beside an interpreter that does nothing."""

import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.bench.contenders import WORKER

_INIT = b'{"event":"init","operation":"upload","remote":"origin","concurrent":true,"concurrenttransfers":8}\n'
_TERMINATE = b'{"event":"terminate"}\n'


def measure(folder: Path, rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each round, in shuffled order: until `init` is answered, the life of an idle worker, `pass`."""
    times: dict[str, list[float]] = {"init answered": [], "idle worker's life": [], "python3 -c pass": []}
    for number in range(-3, rounds):
        samples: dict[str, float] = {}
        steps: list[Callable[[], dict[str, float]]] = [lambda: _worker(folder), lambda: _pass(folder)]
        for step in random.sample(steps, len(steps)):
            samples |= step()
        if number >= 0:
            for name, milliseconds in samples.items():
                times[name].append(milliseconds)
    return times


def _worker(folder: Path) -> dict[str, float]:
    started = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "-I", "-S", WORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=folder
    ) as process:
        assert process.stdin
        assert process.stdout
        process.stdin.write(_INIT)
        process.stdin.flush()
        answer = process.stdout.readline()
        answered = time.perf_counter()
        process.stdin.write(_TERMINATE)
        process.stdin.flush()
        status = process.wait()
        ended = time.perf_counter()
    if answer != b"{}\n" or status != 0:
        raise RuntimeError(f"the worker said {answer!r} and ended with {status}")
    return {"init answered": (answered - started) * 1000, "idle worker's life": (ended - started) * 1000}


def _pass(folder: Path) -> dict[str, float]:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", "pass"], check=True, cwd=folder, stdin=subprocess.DEVNULL)
    return {"python3 -c pass": (time.perf_counter() - started) * 1000}
