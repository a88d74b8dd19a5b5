"""`lfs-agent`, or `python -m lfs_agent`: the command line, from its first moment on."""

import sys


def main() -> int:
    """Runs one command; the exit status."""
    try:
        from lfs_agent.cli import main as run  # here: a Ctrl-C may come while a command is loaded, which takes a while

        return run()
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
