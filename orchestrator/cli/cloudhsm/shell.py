"""The interactive mode: commands one after the other, with one login."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from orchestrator.cli import credentials
from orchestrator.cli.cloudhsm.completion import Lookup, complete
from orchestrator.cli.cloudhsm.console import Console
from orchestrator.cli.cloudhsm.help_text import help_text
from orchestrator.cli.cloudhsm.parser import HelpRequest, ParseError, parse, split
from orchestrator.cli.cloudhsm.redaction import redact, spans
from orchestrator.cli.cloudhsm.run import Answer, answer
from orchestrator.cli.cloudhsm.tree import INTERACTIVE
from orchestrator.model.errors import OrchestratorError
from orchestrator.model.key_filter import KeyFilter

if TYPE_CHECKING:
    from prompt_toolkit import PromptSession

PROMPT: Final = "aws-cloudhsm > "
HISTORY: Final = "cloudhsm-cli.history"
LABELS_MAX: Final = 200
_INTERRUPTED: Final = Answer(
    1, "interrupted; if a change was under way it may have been made: look before you repeat it"
)


@dataclass(frozen=True, slots=True)
class Manner:
    """What a shell of another language does otherwise.

    Attributes:
        run_line: runs a line and shows its answer; returns 0 or 1, or None to end.
        prompt: what stands before a line.
        complete: what Tab offers for a line, and how much of its end that replaces.
        spans: where secrets stand in a line.
        history: name of the file of earlier lines.
    """

    run_line: Callable[[str], int | None]
    prompt: Callable[[], str]
    complete: Callable[[str, Lookup], tuple[list[str], int]]
    spans: Callable[[str], list[tuple[int, int]]]
    history: str


def run(console: Console) -> int:
    """Run commands until `quit` or the end of input; return the exit status."""
    manner = Manner(
        partial(_run_line, console),
        partial(_prompt, console),
        partial(complete, INTERACTIVE),
        spans,
        HISTORY,
    )
    return run_in(console, manner)


def run_in(console: Console, manner: Manner) -> int:
    """Run lines of another language until one of them, or the end of input, ends it.

    Returns:
        On a terminal 0; else 1 if any command failed.
    """
    if not credentials.is_interactive():
        return _run_lines(manner, sys.stdin)
    session = _prompt_session(console, manner)
    while True:
        try:
            line = session.prompt(manner.prompt())
        except KeyboardInterrupt:
            continue
        except EOFError:
            return 0
        if manner.run_line(line) is None:
            return 0


def _run_lines(manner: Manner, lines: Iterable[str]) -> int:
    status = 0
    for line in lines:
        made = manner.run_line(line)
        if made is None:
            break
        status = max(status, made)
    return status


def _run_line(console: Console, line: str) -> int | None:
    """Run one line and show its answer; return 0 or 1, or None after `quit`."""
    try:
        words = split(line)
        if not words:
            return 0
        parsed = parse(INTERACTIVE, words, "")
        if isinstance(parsed, HelpRequest):
            sys.stdout.write(help_text(INTERACTIVE, "", parsed.path, is_long=parsed.is_long))
            return 0
        if parsed.path == ("quit",):
            return None
        made = answer(console, parsed)
    except ParseError as exc:
        sys.stderr.write(f"{exc}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("\n")
        made = _INTERRUPTED
    made.show()
    return made.error_code


def _prompt(console: Console) -> str:
    logged_in = console.logged_in()
    if logged_in is None or len(_clusters(console)) < 2:
        return PROMPT
    cluster, session = logged_in
    return f"{session.name}@{cluster} > "


# --- what Tab offers ---


def _clusters(console: Console) -> Sequence[str]:
    try:
        return [row.cluster_id for row in console.plane.records.clusters()]
    except OrchestratorError:
        return ()


def _users(console: Console) -> Sequence[str]:
    try:
        cluster = console.plane.records.resolve_cluster(console.cluster_prefix)
        logged_in = console.logged_in()
        users = console.plane.users(logged_in[0] if logged_in else cluster)
    except OrchestratorError:
        return ()
    return sorted({user.name for user in users})


def _labels(console: Console) -> Sequence[str]:
    logged_in = console.logged_in()
    if logged_in is None:
        return ()
    try:
        page = logged_in[1].list_keys(KeyFilter(), 0, LABELS_MAX)
    except OrchestratorError:
        return ()
    return sorted({key.label for key in page.keys})


# --- the terminal ---


def _prompt_session(console: Console, manner: Manner) -> PromptSession[str]:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import CompleteEvent, Completer, Completion
    from prompt_toolkit.document import Document
    from prompt_toolkit.history import FileHistory, History, InMemoryHistory
    from prompt_toolkit.layout.processors import (
        Processor,
        Transformation,
        TransformationInput,
    )
    from prompt_toolkit.shortcuts import CompleteStyle

    lookup = Lookup(lambda: _clusters(console), lambda: _users(console), lambda: _labels(console))

    class TreeCompleter(Completer):
        """Offers what the tree knows."""

        def get_completions(
            self, document: Document, complete_event: CompleteEvent
        ) -> Iterable[Completion]:
            del complete_event
            found, length = manner.complete(document.text_before_cursor, lookup)
            if len(found) == 1 and not found[0].endswith(("=", "/")):
                found = [found[0] + " "]
            return [Completion(word, -length) for word in found]

    class Masking(Processor):
        """Shows a password on the line as stars."""

        def apply_transformation(self, transformation_input: TransformationInput) -> Transformation:
            line = "".join(fragment[1] for fragment in transformation_input.fragments)
            for start, end in manner.spans(line):
                line = line[:start] + "*" * (end - start) + line[end:]
            return Transformation([("", line)])

    class RedactedFile(FileHistory):
        """A history without passwords."""

        def append_string(self, string: str) -> None:
            super().append_string(redact(string, manner.spans(string)))

    class RedactedMemory(InMemoryHistory):
        """The same, where no file can be kept."""

        def append_string(self, string: str) -> None:
            super().append_string(redact(string, manner.spans(string)))

    path = _history_path(console, manner.history)
    history: History = RedactedMemory() if path is None else RedactedFile(path)
    return PromptSession(
        history=history,
        completer=TreeCompleter(),
        complete_while_typing=False,
        complete_style=CompleteStyle.READLINE_LIKE,
        input_processors=[Masking()],
    )


def _history_path(console: Console, name: str) -> str | None:
    """Return the history's file, mode 0600, or None when there can be none."""
    try:
        path: Path = console.services.home() / name
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
        os.close(os.open(path, flags, 0o600))
    except (OSError, OrchestratorError):
        return None
    return str(path)
