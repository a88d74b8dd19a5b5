"""`python -m tests.demo [--size MIB]`: the demo, in a folder of its own in the temporary folder (TMPDIR)."""

import argparse
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from tests.demo.page import Page, in_words
from tests.demo.story import tell
from tests.machine import CommandFailed
from tests.servers import LocalStack, ServerError
from tests.servers.server import program

MIB = 1 << 20
# Work tree and LFS storage of two people, and the server's own copy; while a part is put together, one more.
_COPIES = 6


def main(argv: list[str]) -> int:
    """Whether everything came back equal, as an exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.demo", description=__doc__)
    parser.add_argument("--size", type=int, default=200, metavar="MIB", help="at least so large is the largest file")
    size = parser.parse_args(argv).size * MIB
    if reason := unable(size):
        print(f"demo: {reason}", file=sys.stderr)
        return 1
    for ending in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, signal.default_int_handler)
    page, started = Page(sys.stdout), time.monotonic()
    try:
        with tempfile.TemporaryDirectory(prefix="lfs-agent-demo-") as folder:
            equal = tell(page, Path(folder).resolve(), size)
    except KeyboardInterrupt:
        print("\ndemo: interrupted; the server has ended, and its folder is removed", file=sys.stderr)
        return 130
    except (CommandFailed, ServerError) as error:
        print(f"\ndemo: {error}", file=sys.stderr)
        return 1
    verdict, style = ("Every file came back equal.", "green") if equal else ("Not every file came back equal.", "red")
    page.line()
    page.line(f"{page.styled(verdict, style)} It took {time.monotonic() - started:.0f} s.")
    page.line("The server and its bucket are gone, and so is the demo's folder.")
    page.line("Your own git and AWS settings were neither read nor changed.")
    return 0 if equal else 1


def unable(size: int) -> str | None:
    """Why the demo cannot run here, and what helps; None where it can."""
    folder = tempfile.gettempdir()
    needed, free = size * _COPIES + 100 * MIB, shutil.disk_usage(folder).free
    if free < needed:
        return f"it needs {in_words(needed)} in {folder}, and {in_words(free)} is free; TMPDIR names another folder"
    if program("git-lfs") is None:
        return "git-lfs is not installed: run `tests/install/install.sh git-lfs`"
    return LocalStack.missing()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
