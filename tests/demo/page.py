"""What the demo prints: headings, rows, and steps that show that they are alive."""

import os
import shutil
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, TextIO

_WIDTH: Final = 98
_FRAMES: Final = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_STYLES: Final = {"bold": "1", "dim": "2", "green": "32", "red": "31"}


class Step:
    """Something that takes its time: `say` is shown beside its label until it has ended, `result` from then on."""

    say = ""
    result = ""


class Page:
    """Writes to a terminal, with a little colour and movement, or to anything else, without."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._alive = out.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        self._colour = self._alive and not os.environ.get("NO_COLOR")
        self._width = min(_WIDTH, shutil.get_terminal_size().columns - 1) if self._alive else _WIDTH

    def styled(self, text: str, style: str) -> str:
        """`text` in bold, dim, green or red."""
        return f"\x1b[{_STYLES[style]}m{text}\x1b[0m" if self._colour else text

    def heading(self, text: str) -> None:
        self._write(f"\n{self.styled(text, 'bold')}\n")

    def line(self, text: str = "", style: str = "") -> None:
        """One line, below its heading."""
        self._write(f"  {self.styled(text, style) if style else text}".rstrip() + "\n")

    def note(self, text: str) -> None:
        """An aside, of several lines where it is long."""
        for line in textwrap.wrap(text, self._width - 4, subsequent_indent="  "):
            self.line(f"  {line}", "dim")

    def lines(self, text: str) -> None:
        """What a program said, as it said it."""
        for line in text.strip("\n").splitlines():
            self.line(f"  {line}", "dim")

    @contextmanager
    def step(self, label: str) -> Iterator[Step]:
        """Shows `label`, what the step says while it runs, and in the end how long it took."""
        step = Step()
        started = time.monotonic()
        ended = threading.Event()
        painter = threading.Thread(target=self._paint, args=(label, step, started, ended), daemon=True)
        self._write(f"  {label}")
        if self._alive:
            painter.start()
        try:
            yield step
        finally:
            ended.set()
            if self._alive:
                painter.join()
                self._write(f"\r\x1b[K  {label}")
            seconds = time.monotonic() - started
            took = f"{seconds:.1f} s" if seconds >= 0.1 else ""
            gap = max(2, self._width - 2 - len(label) - len(step.result) - len(took))
            self._write(f"{step.result}{' ' * gap}{self.styled(took, 'dim') if took else ''}".rstrip() + "\n")

    def _paint(self, label: str, step: Step, started: float, ended: threading.Event) -> None:
        while not ended.wait(0.1):
            elapsed = time.monotonic() - started
            frame = _FRAMES[int(elapsed * 10) % len(_FRAMES)]
            room = max(0, self._width - len(label) - 12)
            said = self.styled(step.say[:room], "dim")
            self._write(f"\r\x1b[K  {label}  {frame} {elapsed:.0f} s  {said}")

    def _write(self, text: str) -> None:
        self._out.write(text)
        self._out.flush()


def in_words(size: int) -> str:
    """
    A size as people read it.

    >>> in_words(90), in_words(5_817), in_words(228_728_000)
    ('90 B', '5.7 KiB', '218.1 MiB')
    """
    number, unit = float(size), "B"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 1024 or unit == "GiB":
            break
        number /= 1024
    return f"{number:.0f} B" if unit == "B" else f"{number:.1f} {unit}"
