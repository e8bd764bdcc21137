"""The entry point of `cloudhsm-cli`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from orchestrator.cli import credentials
from orchestrator.cli.cloudhsm.console import Console, Environment
from orchestrator.cli.cloudhsm.help_text import help_text
from orchestrator.cli.cloudhsm.parser import HelpRequest, ParseError, parse
from orchestrator.cli.cloudhsm.run import answer
from orchestrator.cli.cloudhsm.tree import PROGRAM, SINGLE
from orchestrator.cli.errors import EXIT_INTERRUPTED
from orchestrator.cli.invocation import Services
from orchestrator.wire.process import leave_no_core

EXIT_USAGE = 2
COMPLETE = "_CLOUDHSM_CLI_COMPLETE"


def main(arguments: Sequence[str] | None = None, services: Services | None = None) -> int:
    """Run one command, or the interactive mode, and return the exit status.

    Args:
        arguments: without the program's name; default: the process's.
        services: what commands call; default: the real ones.
    """
    # First of all: nothing that starts from here on may inherit the credentials.
    environment = Environment(
        credentials.take_from_environment(os.environ),
        credentials.take_from_environment(os.environ, "DESTINATION_"),
    )
    leave_no_core()
    if os.environ.pop(COMPLETE, ""):
        return _complete(sys.stdin.read())
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        status = _run(given, services or Services(), environment)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader is gone. Python's flush at exit must not complain about it once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return status


def _complete(line: str) -> int:
    """Print what may follow, for the shells' scripts in completion/.

    The line comes on stdin: it can hold a password, and a child's environment can be read.
    Names of users and labels are not offered, for nobody is logged in.
    """
    from orchestrator.cli import completion
    from orchestrator.cli.cloudhsm.completion import Lookup, complete

    lookup = Lookup(completion.clusters, lambda: (), lambda: ())
    found, _ = complete(SINGLE, line.lstrip().partition(" ")[2], lookup)
    sys.stdout.write("".join(f"{word}\n" for word in found))
    return 0


def _run(words: list[str], services: Services, environment: Environment) -> int:
    try:
        parsed = parse(SINGLE, words, PROGRAM)
    except ParseError as exc:
        sys.stderr.write(f"{exc}\n")
        return EXIT_USAGE
    if isinstance(parsed, HelpRequest):
        out = sys.stderr if parsed.is_missing else sys.stdout
        out.write(help_text(SINGLE, PROGRAM, parsed.path, is_long=parsed.is_long))
        return EXIT_USAGE if parsed.is_missing else 0
    if parsed.path == ("interactive",):
        from orchestrator.cli.cloudhsm import shell  # prompt_toolkit, for this alone

        prefix = parsed.maybe("--cluster-id")
        with Console(services, environment, cluster_prefix=prefix, is_interactive=True) as console:
            return shell.run(console)
    with Console(services, environment) as console:
        made = answer(console, parsed)
    made.show()
    return made.error_code
