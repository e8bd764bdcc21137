"""The entry points of `cloudhsm_mgmt_util` and `key_mgmt_util`.

Invariant: a password is never taken from the process's own arguments, which every user of the
machine can read: it is asked for, typed or read as a line, or stands in CLOUDHSM_PIN.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import replace

from orchestrator.cli import credentials
from orchestrator.cli.cloudhsm.console import Console, Environment
from orchestrator.cli.cloudhsm.parser import HelpRequest, ParseError
from orchestrator.cli.credentials import GivenLogin
from orchestrator.cli.errors import EXIT_INTERRUPTED
from orchestrator.cli.invocation import Services
from orchestrator.cli.legacy.cmu_commands import CMU
from orchestrator.cli.legacy.dialect import LEGACY, Dialect, help_text, read
from orchestrator.cli.legacy.kmu_commands import KMU
from orchestrator.cli.legacy.numbers import parse_type
from orchestrator.cli.legacy.shell import run, run_words
from orchestrator.cli.legacy.tool import Tool
from orchestrator.model.errors import UsageError
from orchestrator.model.roles import parse_user_name
from orchestrator.wire.process import leave_no_core

EXIT_USAGE = 2
CLUSTER = "CLOISTER_CLUSTER"


def cmu(arguments: Sequence[str] | None = None, services: Services | None = None) -> int:
    """Run `cloudhsm_mgmt_util`."""
    return _main(CMU, arguments, services)


def kmu(arguments: Sequence[str] | None = None, services: Services | None = None) -> int:
    """Run `key_mgmt_util`."""
    return _main(KMU, arguments, services)


def _main(dialect: Dialect, arguments: Sequence[str] | None, services: Services | None) -> int:
    # First of all: nothing that starts from here on may inherit the credentials.
    login = credentials.take_from_environment(os.environ)
    destination = credentials.take_from_environment(os.environ, "DESTINATION_")
    natural = login.role or dialect.role
    environment = Environment(
        replace(login, role=natural), replace(destination, role=destination.role or natural)
    )
    leave_no_core()
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        status = _run(dialect, given, services or Services(), environment)
        sys.stdout.flush()
    except UsageError as exc:
        sys.stderr.write(f"{exc}\n")
        return EXIT_USAGE
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader is gone. Python's flush at exit must not complain about it once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return status


def _run(dialect: Dialect, words: list[str], services: Services, environment: Environment) -> int:
    prefix = os.environ.get(CLUSTER)
    if words and words[0].endswith(".cfg"):
        path = words.pop(0)
        sys.stderr.write(f"{path} is not read: every HSM of the cluster is known already\n")
    if not words:
        with Console(
            services, environment, cluster_prefix=prefix, is_interactive=True,
            login_hint="loginHSM",
        ) as console:  # fmt: skip
            return run(Tool(dialect, console))
    if words[0] in {"-h", "--help"}:
        sys.stdout.write(help_text(dialect, ()))
        return 0
    if words[0] == "singlecmd":
        words.pop(0)
    if not words:
        raise UsageError("singlecmd takes a command; without it the shell begins")
    first, then = _two(dialect, words)
    if then and environment.login.pin is not None:
        environment = replace(environment, login=_same_user(dialect, first, environment.login))
        first = []
    sys.stderr.write(LEGACY.format(dialect.name) + "\n")
    with Console(services, environment, cluster_prefix=prefix, login_hint="loginHSM") as console:
        tool = Tool(dialect, console)
        status = 0
        for part in (first, then):
            status = status or run_words(tool, part) or 0
        return status


def _same_user(dialect: Dialect, words: list[str], login: GivenLogin) -> GivenLogin:
    """Return what CLOUDHSM_PIN says in the role that `loginHSM` names.

    Raises:
        UsageError: they name two users.
    """
    given = read(dialect, words)
    if isinstance(given, HelpRequest):
        return login
    name = given.maybe("--user-name") or given.text("-s")
    role = parse_type(given.maybe("--user-type") or given.text("-u"))
    if parse_user_name(name) != (login.pin or "").partition(":")[0].lower():
        raise UsageError(f"CLOUDHSM_PIN is that of another user than {name}, whom loginHSM names")
    return replace(login, role=role)


def _two(dialect: Dialect, words: list[str]) -> tuple[list[str], list[str]]:
    """Split `loginHSM … command …` into its two commands, and refuse a password.

    Raises:
        ParseError: a password, or what may be one, is among the arguments.
    """
    names = set(dialect.commands())
    second = next((i for i, w in enumerate(words) if i and words[0] == "loginHSM" and w in names),
                  len(words))  # fmt: skip
    for part in (words[:second], words[second:]):
        if dialect.secrets(" ".join(part)):
            raise ParseError(
                "a password on the command line can be read by every user of this machine, so none "
                "is taken from there: set CLOUDHSM_PIN to user:password and leave loginHSM out, or "
                "give -hpswd to be asked"
            )
    return words[:second], words[second:]
