"""How failures leave: one line or one JSON object on stderr, and an exit status."""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from orchestrator.cli.render import printable
from orchestrator.model.errors import OrchestratorError, PendingError, UsageError

if TYPE_CHECKING:
    import typer

EXIT_INTERNAL: Final = 70  # sysexits.h EX_SOFTWARE
EXIT_INTERRUPTED: Final = 130


class LoginNeededError(OrchestratorError):
    """No credentials, and nobody to ask."""

    code, exit_status = "login-needed", 4


class ConfirmationNeededError(UsageError):
    """A destructive command without a terminal to ask on, and without `--yes`."""

    code = "confirmation-needed"


class CancelledError(OrchestratorError):
    """The person at the terminal said no."""

    code = "cancelled"


class InternalError(OrchestratorError):
    """A bug. The exception's own text stays out: it may quote what it stumbled on."""

    code, exit_status = "internal", EXIT_INTERNAL

    def __init__(self, cause: BaseException) -> None:
        frames = traceback.extract_tb(cause.__traceback__)
        where = (
            f" in {frames[-1].name} ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
        )
        super().__init__(
            f"a defect in cloister: {type(cause).__name__}{where}; "
            "CLOISTER_DEBUG=1 shows the traceback"
        )


def wants_json(arguments: Sequence[str]) -> bool:
    """Tell from raw arguments whether errors are to be JSON: parsing may be what failed."""
    return "--output=json" in arguments or ("--output", "json") in pairwise(arguments)


def report(error: OrchestratorError, *, as_json: bool) -> int:
    """Write `error` to stderr and return the exit status."""
    if as_json:
        fields: dict[str, object] = {
            "code": error.code,
            "message": str(error),
            "retryable": error.retryable,
        }
        if isinstance(error, PendingError):
            fields["request"] = error.request
        sys.stderr.write(json.dumps(fields) + "\n")
    else:
        sys.stderr.write(f"error: {printable(str(error))}\n")
    return error.exit_status


def report_any(exc: Exception, *, as_json: bool) -> int:
    """Report whatever came out of a command."""
    import typer  # loaded by then

    if isinstance(exc, typer.Abort):
        exc = CancelledError("cancelled")
    elif isinstance(exc, typer.TyperException):
        exc = _usage(exc)
    elif not isinstance(exc, OrchestratorError):
        if os.environ.get("CLOISTER_DEBUG") == "1":
            traceback.print_exception(exc)
        exc = InternalError(exc)
    return report(exc, as_json=as_json)


def _usage(exc: typer.TyperException) -> UsageError:
    context = getattr(exc, "ctx", None)
    hint = f"; see `{context.command_path} --help`" if context else ""
    return UsageError(exc.format_message().rstrip(".").replace("\n\t", " ") + hint)
