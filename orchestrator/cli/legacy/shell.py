"""Lines into commands, and what the tools print for them."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from functools import partial
from importlib import import_module

from orchestrator.cli.cloudhsm import completion, shell
from orchestrator.cli.cloudhsm.console import NotOfferedError
from orchestrator.cli.cloudhsm.parser import HelpRequest, ParseError, split
from orchestrator.cli.cloudhsm.syntax import Given
from orchestrator.cli.errors import InternalError
from orchestrator.cli.legacy import kmu_status
from orchestrator.cli.legacy.dialect import LEGACY, LegacyCommand, help_text, read
from orchestrator.cli.legacy.tool import Tool
from orchestrator.cli.render import printable
from orchestrator.model.errors import OrchestratorError

_INTERRUPTED = "interrupted; if a change was under way it may have been made: look before repeating"


def run(tool: Tool) -> int:
    """Run lines until `quit`, `exit` or the end of input; return the exit status."""
    sys.stdout.write(LEGACY.format(tool.dialect.name) + "\n")
    sys.stdout.flush()
    return shell.run_in(
        tool.console,
        shell.Manner(
            partial(run_line, tool),
            partial(_prompt, tool),
            partial(complete, tool),
            tool.dialect.secrets,
            f"{tool.dialect.name}.history",
        ),
    )


def _prompt(tool: Tool) -> str:
    return tool.dialect.prompt if tool.selected is None else f"server{tool.selected}> "


def complete(tool: Tool, text: str, lookup: completion.Lookup) -> tuple[list[str], int]:
    """Return what may stand in the place of the last word, and that word's length."""
    words = text.split()
    partial_word = "" if not words or text[-1:].isspace() else words.pop()
    command = tool.dialect.commands().get(words[0]) if words else None
    names = command.positional if command else ()
    if names:  # positional: name the one that stands here
        place = len([w for w in words[1:] if not w.startswith("-")])
        named = "" if partial_word.startswith("-") or place >= len(names) else f"{names[place]} "
        text = f"{words[0]} {named}{partial_word}"
    found, length = completion.complete(tool.dialect.tree, text, lookup)
    return [word for word in found if not word.startswith("--")], length


def run_line(tool: Tool, line: str) -> int | None:
    """Run one line; return 0 or 1, or None when it was the last."""
    try:
        return run_words(tool, split(line))
    except ParseError as exc:
        sys.stdout.write(f"{exc}\n")
        return 1
    except KeyboardInterrupt:
        sys.stdout.write(f"\n{_INTERRUPTED}\n")
        return 1


def run_words(tool: Tool, words: Sequence[str]) -> int | None:
    """Run one command and print what it says.

    Raises:
        ParseError: the words are no command.
    """
    if not words:
        return 0
    given = read(tool.dialect, words)
    if isinstance(given, HelpRequest):
        sys.stdout.write(help_text(tool.dialect, given.path))
        return 0
    name = given.path[0]
    if name == "help":
        sys.stdout.write(help_text(tool.dialect, ()))
        return 0
    if name == "quit" or (name == "exit" and tool.selected is None):
        return None
    command = tool.dialect.commands()[name]
    failure: OrchestratorError | None = None
    lines: list[str] = []
    try:
        lines = _act(tool, command, given)
    except OrchestratorError as exc:
        failure = exc
    except Exception as exc:  # noqa: BLE001  # the last line of defence: the shell goes on
        if os.environ.get("CLOISTER_DEBUG") == "1":
            traceback.print_exception(exc)
        failure = InternalError(exc)
    if command.call:
        lines = kmu_status.framed(tool, command, lines, failure)
    elif failure is not None:
        lines = [f"{name} failed: {printable(str(failure))}"]
    sys.stdout.writelines(f"{line}\n" for line in lines)
    sys.stdout.flush()
    return 0 if failure is None else 1


def _act(tool: Tool, command: LegacyCommand, given: Given) -> list[str]:
    if command.missing:
        raise NotOfferedError(f"{command.name} is not offered: {command.missing}")
    module, _, function = command.action.partition(":")
    act = getattr(import_module(f"orchestrator.cli.legacy.{module}"), function)
    with tool.console.patience():
        tool.check(command)
        made: list[str] = act(tool, given)
    return made
