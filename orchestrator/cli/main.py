"""The entry point of `cloister`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from orchestrator.cli import credentials, errors
from orchestrator.cli.invocation import Services, Starting
from orchestrator.wire.process import leave_no_core


def main(arguments: Sequence[str] | None = None, services: Services | None = None) -> int:
    """Run one command and return its exit status.

    Args:
        arguments: without the program's name; default: the process's.
        services: what commands call; default: the real ones.
    """
    # First of all: nothing that starts from here on may inherit the credentials.
    login = credentials.take_from_environment(os.environ)
    destination = credentials.take_from_environment(os.environ, "DESTINATION_")
    leave_no_core()
    given = list(sys.argv[1:] if arguments is None else arguments)
    as_json = errors.wants_json(given)

    from orchestrator.cli.app import build  # ~80 ms, after the credentials are safe

    try:
        status = build().main(
            given,
            prog_name="cloister",
            standalone_mode=False,
            obj=Starting(services or Services(), login, destination),
        )
        sys.stdout.flush()
    except KeyboardInterrupt:
        return errors.EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader is gone. Python's flush at exit must not complain about it once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as exc:  # noqa: BLE001  # the last line of defence: no traceback by default
        return errors.report_any(exc, as_json=as_json)
    return status if isinstance(status, int) else 0
