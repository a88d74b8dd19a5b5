"""The command line: arguments and environment in, exit status out."""

import argparse
import io
import os
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TextIO

from lfs_agent import __version__
from lfs_agent.errors import AgentError, out_of_threads

COMMANDS = {
    "install": "let git-lfs start this agent for s3:: and dir:: URLs",
    "uninstall": "undo install",
    "init": "name the store of this repository, in .lfsconfig",
    "config": "show the settings in force, and where each comes from",
    "trust": "allow a store that a repository names",
    "setup-storage": "make the bucket right: versions, no strangers, rules for what is left behind",
    "verify": "prove that the store has what the pointers name",
    "push-missing": "send what the pointers name and the store lacks",
    "repair": "send what the store lacks, and replace what is damaged there",
    "doctor": "look at what a push and a pull need, and say what mends it",
    "prune": "delete local objects whose copies in the store are proven",
    "gc": "delete from the store what no repository names any more",
    "uploads": "list uploads that nobody has finished, and give them up",
    "log": "show what the last push or pull did",
}
"""Each is a module of `lfs_agent.commands`, `_` for `-`: `add_arguments(parser)`, `run(arguments, environ) -> int`."""

EXAMPLES = """\
examples:
  lfs-agent init s3::BUCKET/PREFIX      in a repository, once
  lfs-agent verify --deep               is all that HEAD needs in the store, and whole?
"""

EXIT_STATUSES = """\
exit status:
  0  done; for verify: everything is present; for doctor: nothing is broken
  1  objects are missing or damaged; for doctor: something is broken
  2  usage: the command line or a setting is wrong
  3  could not be done, or could not be asked
  130  interrupted
"""


def module_of(name: str) -> str:
    """Where a command is.

    >>> module_of("push-missing")
    'lfs_agent.commands.push_missing'
    """
    return f"lfs_agent.commands.{name.replace('-', '_')}"


def build_parser(names: Sequence[str] = tuple(COMMANDS)) -> argparse.ArgumentParser:
    """The parser, with the subcommands `names`."""
    parser = argparse.ArgumentParser(
        prog="lfs-agent",
        description="Git LFS objects in S3, or in a shared folder.",
        epilog=f"{EXAMPLES}\n{EXIT_STATUSES}",
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"lfs-agent {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name in names:
        module = import_module(module_of(name))
        command = commands.add_parser(
            name,
            help=COMMANDS[name],
            description=module.__doc__,
            epilog=f"{module.EXAMPLES}\n{EXIT_STATUSES}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        module.add_arguments(command)
    return parser


def parse(parser: argparse.ArgumentParser, words: Sequence[str]) -> argparse.Namespace:
    """The arguments; for a command that has `paths`, these are what comes after `--`, which argparse only drops."""
    end = words.index("--") if "--" in words else len(words)
    arguments = parser.parse_args(words[:end])
    if paths := words[end + 1 :]:
        if not hasattr(arguments, "paths"):
            parser.error(f"{arguments.command} takes no paths: {' '.join(paths)}")
        arguments.paths = list(paths)
    return arguments


def _end_as_by_ctrl_c() -> None:
    """Also by `timeout`, or with the terminal: a copy of a whole history in the temporary folder goes, too."""
    for name in (signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):
        if signal.getsignal(name) is signal.SIG_DFL:  # not so under nohup
            signal.signal(name, signal.default_int_handler)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; the exit status."""
    _end_as_by_ctrl_c()
    words = list(sys.argv[1:] if argv is None else argv)
    sys.stdout = sys.stdout or _nowhere()  # both are None where the shell has closed them
    sys.stderr = sys.stderr or _nowhere()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files that the terminal's encoding does not have
    known = [words[0]] if words and words[0] in COMMANDS else list(COMMANDS)
    arguments = parse(build_parser(known), words)
    try:
        Path.cwd()
    except OSError as error:
        print(f"lfs-agent: the current folder cannot be read ({error.strerror}): change to another", file=sys.stderr)
        return 3
    try:
        status: int = import_module(module_of(arguments.command)).run(arguments, os.environ)
        print(end="", flush=True)  # a full disk is told here: Python's own end has no sentence for it
    except AgentError as error:
        from lfs_agent.log import describe

        print(f"lfs-agent {arguments.command}: {describe(error)}", file=sys.stderr)
        return error.status
    except BrokenPipeError:
        return 3
    except OSError as error:  # a home that cannot be written, a full disk …
        where = f"{error.filename}: " if error.filename else ""
        print(f"lfs-agent {arguments.command}: {where}{error.strerror or error}", file=sys.stderr)
        return 3
    except Exception as error:  # a fault of ours: as Python ends, with 1, it would say that objects are missing
        if limit := out_of_threads(error):
            print(f"lfs-agent {arguments.command}: {limit}", file=sys.stderr)
        else:
            _tell_fault(arguments.command, error)
        return 3
    except KeyboardInterrupt:
        return 130
    finally:
        _drop_unwritten()
    return status


def _tell_fault(command: str, error: Exception) -> None:
    """In a sentence; for who looks for faults, with where it was."""
    from lfs_agent.log import describe

    if os.environ.get("LFS_AGENT_LOG_LEVEL") == "debug":
        import traceback  # 10 ms, for nobody else

        print(describe("".join(traceback.format_exception(error))), end="", file=sys.stderr)
    print(
        f"lfs-agent {command}: {describe(f'unexpected {type(error).__name__}: {error}')}; please report it",
        file=sys.stderr,
    )


def _nowhere() -> TextIO:
    return Path(os.devnull).open("w")


def _drop_unwritten() -> None:
    """What cannot be written goes nowhere, quietly: at its end Python would complain, and end with another status."""
    try:
        print(end="", flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


if __name__ == "__main__":
    sys.exit(main())
