"""One command: find its function, call it, and put the answer into the envelope."""

from __future__ import annotations

import os
import sys
import traceback
from dataclasses import dataclass
from importlib import import_module

from orchestrator.cli import render
from orchestrator.cli.cloudhsm.console import Console
from orchestrator.cli.cloudhsm.syntax import Given
from orchestrator.cli.errors import InternalError
from orchestrator.model.errors import OrchestratorError


@dataclass(frozen=True, slots=True)
class Answer:
    """The envelope: `error_code` is 0 or 1, `data` an object, or a message."""

    error_code: int
    data: object

    def show(self) -> None:
        """Write it to stdout."""
        render.write_json(self, sys.stdout)
        sys.stdout.flush()


def answer(console: Console, given: Given) -> Answer:
    """Run a command; every failure is an answer too."""
    try:
        module, _, function = given.command.action.partition(":")
        act = getattr(import_module(f"orchestrator.cli.cloudhsm.{module}"), function)
        with console.patience():
            return Answer(0, act(console, given))
    except OrchestratorError as exc:
        return Answer(1, str(exc))
    except Exception as exc:  # noqa: BLE001  # the last line of defence: the shell goes on
        if os.environ.get("CLOISTER_DEBUG") == "1":
            traceback.print_exception(exc)
        return Answer(1, str(InternalError(exc)))
