"""The command line: ``python -m gecaso COMMAND``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

__all__ = ["COMMANDS", "main"]

COMMANDS = {"advise": ("gecaso.advice.command", "choose the size of a memory")}
"""By name: a module with ``add_arguments(parser)`` and ``run(options)``, and a line of help."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return its exit code: 2 for files and options that cannot be used.

    >>> main([])
    usage: python -m gecaso [-h] COMMAND ...
    ...
    0
    """
    given = sys.argv[1:] if arguments is None else list(arguments)
    parser = argparse.ArgumentParser(prog="python -m gecaso")
    commands = parser.add_subparsers(metavar="COMMAND", title="commands")
    for name, (module, line) in COMMANDS.items():
        command = commands.add_parser(name, help=line)
        if name in given[:1]:  # only the command that is run is imported
            found = import_module(module)
            found.add_arguments(command)
            command.set_defaults(run=found.run)
    options = parser.parse_args(given)
    if not hasattr(options, "run"):
        parser.print_help()
        return 0
    try:
        code: int = options.run(options)
        return code
    except (ValueError, OSError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
