"""`python -m tests.storm --seeds 17`: seeds alone, with what was planned; `python -m tests.soak` runs thousands.

Ends with 1 where something was wrong.
"""

import argparse
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.storm.crew import Crew, running_servers


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.storm", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", nargs="+", type=int, required=True, help="which")
    parser.add_argument("--keep", action="store_true", help="leave their folders, and say where they are")
    parser.add_argument("--at-once", type=int, default=1, metavar="N", help="how many (default: %(default)s)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse_arguments(argv)
    base = Path(tempfile.mkdtemp(prefix="lfs-agent-storm-"))
    broken = 0
    try:
        with running_servers(base) as server_of, Crew(server_of, base, arguments.at_once, keep=arguments.keep) as crew:
            for done in crew.run(arguments.seeds):
                broken += bool(done.wrong)
                print(f"{done.report}\n{done.seconds:.2f} s", flush=True)
    finally:
        if arguments.keep:
            print(base)
        else:
            shutil.rmtree(base, ignore_errors=True)
    return bool(broken)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that all is cleaned up
    sys.exit(main())
