"""What a process used, CPU and memory, as a small C program in front of it counts."""

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).with_name("meter.c")


@dataclass(frozen=True)
class Used:
    """By all processes of a run: CPU seconds, the sum of each one's peak PSS (None: not told), how many they were."""

    cpu_s: float
    pss_mib: float | None
    processes: int


@dataclass(frozen=True)
class Meter:
    """Counts what commands use that run under `command`; without a C compiler nothing is counted."""

    program: Path | None
    log: Path

    @classmethod
    def build(cls, folder: Path) -> "Meter":
        """A meter compiled into `folder`."""
        compiler = shutil.which("cc")
        if compiler is None:
            return cls(None, folder / "meter.log")
        # Named like the shell in whose place it stands, see Track._register.
        program = folder / "meter" / "sh"
        program.parent.mkdir()
        subprocess.run([compiler, "-O2", "-o", program, SOURCE], check=True)
        return cls(program, folder / "meter.log")

    def command(self, command: Sequence[str]) -> list[str]:
        """`command`, counted."""
        return list(command) if self.program is None else [str(self.program), str(self.log), *command]

    def take(self) -> Used | None:
        """What was used since the last call; None where nothing was counted."""
        if self.program is None or not self.log.exists():
            return None
        lines = [line.split() for line in self.log.read_text().splitlines()]
        self.log.unlink()
        cpu_s = sum(float(user) + float(system) for user, system, _ in lines)
        peaks = [int(peak) for _, _, peak in lines if peak != "-1"]
        return Used(cpu_s, sum(peaks) / 1024 if peaks else None, len(lines))
