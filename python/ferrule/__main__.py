"""The command line: `python -m ferrule demo` and `python -m ferrule compare`."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

INTERRUPTED = 130  # what a shell reports of a program that Ctrl-C ended


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command of ferrule.

    Args:
        argv: The command and its arguments; `None` takes them from the command line.

    Returns:
        The exit status: the command's own, or 2 with a word of help if none is named.

    Raises:
        SystemExit: If the arguments can't be used (status 2), or only ask for help or the version (status 0).
    """
    parser = argparse.ArgumentParser(
        prog="python -m ferrule",
        description="ferrule: the helpers that every Python project writes again, native, fast and right.",
        epilog="python -m ferrule COMMAND --help tells more about a command.",
    )
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    # The arguments after the command are the command's own: they are cut off before argparse would look at them.
    commands = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND")
    commands.add_parser("demo", add_help=False, help="do one job with ferrule and in plain Python, side by side")
    commands.add_parser("compare", add_help=False, help="measure ferrule against pure Python on this machine")
    given = list(sys.argv[1:] if argv is None else argv)
    first = next((index for index, word in enumerate(given) if not word.startswith("-")), len(given))
    options, rest = parser.parse_args(given[: first + 1]), given[first + 1 :]
    if options.version:
        from ferrule import __version__

        sys.stdout.write(f"ferrule {__version__}\n")
        return 0
    if options.command == "demo":
        from ferrule._demo.command import main as demo

        return demo(rest)
    if options.command == "compare":
        from ferrule._compare import main as compare

        return compare(rest)
    parser.print_help(sys.stderr)
    return 2


def run() -> int:
    """Run a command as a program: what cannot be printed is escaped, and a reader who leaves early is no error."""
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="backslashreplace")
    try:
        status = main()
        sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes standard output at exit, too, and would complain there.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return INTERRUPTED
    return status


if __name__ == "__main__":
    raise SystemExit(run())
