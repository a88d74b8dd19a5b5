"""`Screen`: what a command says: on a terminal in columns, with a bar that shows how far it is; elsewhere in lines.

A line for a program has its cells between tabs, nothing cut off and no colours; no cell can hold a tab, since `plain`
takes control characters out.
"""

import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self, TextIO

from lfs_agent.commands.wording import plain

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress
    from rich.table import Table
    from rich.text import Text

    from lfs_agent.gitrepo import Repository

_AFTER_S: Final = 1.0
"""What takes no longer shows no bar."""

_STYLES: Final = {
    "red": ("missing", "damaged", "irregular", "failed", "problem"),
    "yellow": ("unproven", "archived", "unknown", "warning", "cannot"),
    "green": ("present", "ok", "sent", "replaced", "pruned", "deleted", "aborted", "done"),
}
_STYLE_OF: Final = {status: style for style, statuses in _STYLES.items() for status in statuses}


@dataclass(frozen=True, slots=True)
class Column:
    """One of a layout. `width` None: as wide as its cell, broken where the terminal ends."""

    width: int | None = None
    right: bool = False


Layout = Sequence[Column]
_LEAST: Final = 12
"""A cell that is broken where the terminal ends has at least so much room."""
OBJECT: Final[Layout] = (Column(8), Column(12), Column(10, right=True), Column())
"""A status, an oid's beginning, a size, and where it is."""


class Screen:
    """Standard output, and the bar. Rows come from one thread; `progress` may be told by any."""

    def __init__(self) -> None:
        # rich is imported for a terminal alone: 50 ms that a pipe does not pay.
        self._out = _console(sys.stdout) if sys.stdout.isatty() else None
        # One console paints rows and bar where both go to a terminal, so that none tears the other.
        self._painter = (self._out or _console(sys.stderr)) if sys.stderr.isatty() else None
        self._bar: Progress | None = None
        self._from_s = time.monotonic() + _AFTER_S
        self._closed = False
        self._told = 0, 0, ""
        self._later: threading.Timer | None = None
        self._painting = threading.Lock()  # of all above: the threads that read tell how far they are

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def row(self, layout: Layout, *cells: str, note: str = "") -> None:
        """A row; its first cell's word may colour it. A note is below the row, whole, so that it can be copied."""
        cells = tuple(plain(cell) for cell in cells)
        if self._out is None:
            print("\t".join((*cells, plain(note)) if note else cells))
            return
        from rich.text import Text

        texts = [Text(cell, style="" if at else _STYLE_OF.get(cell, "")) for at, cell in enumerate(cells)]
        if _fits(layout, [text.cell_len for text in texts], self._out.width):
            self._out.print(_grid(layout, texts))
        else:  # of such columns rich would cut off some, and leave out others
            for text, column in zip(texts[:-1], layout, strict=False):
                text.align("right" if column.right else "left", max(text.cell_len, column.width or 0))
            self._out.print(Text("  ").join(texts), soft_wrap=True)
        if note:
            self._out.print(Text(f"  {plain(note)}", style="dim"), soft_wrap=True)

    def line(self, text: str) -> None:
        """What is no row, as it is: a sentence or JSON. Only a terminal itself breaks it."""
        if self._out is None:
            print(text)
            return
        from rich.text import Text

        self._out.print(Text(text), soft_wrap=True)

    def progress(self, done: int, total: int, told: str) -> None:
        """How far it is; `told` says it in words."""
        if self._painter is None:
            return
        with self._painting:
            self._told = done, total, told
            if (early_s := self._from_s - time.monotonic()) <= 0:
                self._paint()
            elif self._later is None and not self._closed:  # nothing may be told again for long
                self._later = threading.Timer(early_s, self._paint_later)
                self._later.daemon = True
                self._later.start()

    def _paint_later(self) -> None:
        with self._painting:
            self._paint()

    def _paint(self) -> None:
        if self._closed or self._painter is None:
            return
        if self._bar is None:
            self._bar = _bar(self._painter)
            self._bar.add_task("")
        done, total, told = self._told
        self._bar.update(self._bar.task_ids[0], completed=done, total=total or None, description=told)
        self._bar.start()

    def close(self) -> None:
        """Takes the bar from the terminal, for good."""
        with self._painting:
            self._closed = True
            if self._later:
                self._later.cancel()
            if self._bar:
                self._bar.stop()


@contextmanager
def busy(told: str) -> Iterator[None]:
    """Shows a bar without an end where the block takes long: nobody can tell how far it is."""
    with Screen() as screen:
        screen.progress(0, 0, told)
        yield


def waiting(repo: "Repository", told: str = "reading the pointers") -> AbstractContextManager[None]:
    """As `busy`, for git; not in a partial clone, whose git may ask for a password in the bar's place."""
    return nullcontext() if repo.promisor else busy(told)


def _fits(layout: Layout, lengths: Sequence[int], width: int) -> bool:
    """Whether columns of a terminal so wide can show cells of these lengths."""
    pairs = zip(layout, lengths, strict=False)
    needed = [min(length, _LEAST) if column.width is None else max(length, column.width) for column, length in pairs]
    return sum(needed) + 2 * (len(needed) - 1) <= width


def _grid(layout: Layout, cells: "Sequence[Text]") -> "Table":
    from rich.table import Table

    grid = Table.grid(padding=(0, 2), pad_edge=False)
    for column in layout[: len(cells)]:
        grid.add_column(
            min_width=column.width,
            no_wrap=column.width is not None,
            justify="right" if column.right else "left",
            overflow="fold",
        )
    grid.add_row(*cells)
    return grid


def _console(file: TextIO) -> "Console":
    from rich.console import Console

    return Console(file=file, highlight=False, markup=False, emoji=False)


def _bar(console: "Console") -> "Progress":
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = BarColumn(bar_width=24), TextColumn("{task.description}", markup=False), TimeElapsedColumn()
    return Progress(*columns, console=console, transient=True, refresh_per_second=5, redirect_stdout=False)
