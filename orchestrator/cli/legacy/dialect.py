"""What a legacy tool is made of: its commands as data, parsing, help. Pure.

Positional arguments are flags whose names begin with `--`; people do not write the names.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from orchestrator.cli.cloudhsm.parser import HelpRequest, ParseError, parse
from orchestrator.cli.cloudhsm.syntax import Command, Flag, Given, Kind, Words

LEGACY: Final = "{} is a legacy tool, kept for old scripts: use cloudhsm-cli or cloister instead."


@dataclass(frozen=True, slots=True)
class LegacyCommand(Command):
    """A command of a legacy tool.

    Attributes:
        call: the function whose result `key_mgmt_util` prints, without `Cfm3`.
        missing: why it is not offered, and what to do instead; then it has no action.
        is_critical: asks before it changes who may do what.
        changes: alters the cluster, so it is refused while one server is selected.
    """

    call: str = ""
    missing: str = ""
    is_critical: bool = False
    changes: bool = False

    @property
    def positional(self) -> tuple[str, ...]:
        """Return the names of the arguments that people write without a name."""
        return tuple(f.name for f in self.flags if f.name.startswith("--") and not f.short)


@dataclass(frozen=True, slots=True)
class Dialect:
    """One tool: `role` is whom CLOUDHSM_PIN logs in unless CLOUDHSM_ROLE says otherwise.

    `secrets` tells where in a line a password may stand: better too much than too little.
    """

    name: str
    prompt: str
    role: str
    tree: Command
    secrets: Callable[[str], list[tuple[int, int]]]

    def commands(self) -> dict[str, LegacyCommand]:
        """Return the commands by name."""
        return {c.name: c for c in self.tree.children if isinstance(c, LegacyCommand)}


def value(name: str, text: str, kind: Kind = Kind.TEXT, words: Words = Words.NOTHING) -> Flag:
    """Return an argument that must be given."""
    return Flag(name, text, kind, is_required=True, words=words)


def maybe(name: str, text: str, kind: Kind = Kind.TEXT, words: Words = Words.NOTHING) -> Flag:
    """Return an argument that may be left out."""
    return Flag(name, text, kind, words=words)


def modern(values: Mapping[str, str | int | bool | Sequence[str] | None], *path: str) -> Given:
    """Return the same request as the CloudHSM CLI takes it; None and False are left out."""
    given: dict[str, tuple[str, ...]] = {}
    for name, item in values.items():
        if item is True:
            given[name] = ()
        elif isinstance(item, str | int) and item is not False:
            given[name] = (str(item),)
        elif item is not None and item is not False:
            given[name] = tuple(item)
    return Given(path, Command(path[-1] if path else "", ""), given)


def read(dialect: Dialect, words: Sequence[str]) -> Given | HelpRequest:
    """Return the command that words name.

    Raises:
        ParseError: with the text to show.
    """
    command = dialect.commands().get(words[0]) if words else None
    named = _named(command, words[1:]) if command else ()
    try:
        return parse(dialect.tree, [*words[:1], *named] if command else words, "")
    except ParseError as exc:
        if command is None:
            first = str(exc).partition("\n\nUsage:")[0]
            raise ParseError(f"{first}\n\nhelp lists the commands") from None
        first = re.sub(r"--[\w-]+ (?=\[?<)", "", str(exc).partition("\n\nUsage:")[0])
        raise ParseError(f"{first}\n\nUsage: {syntax(command)}") from None


def _named(command: LegacyCommand, words: Sequence[str]) -> list[str]:
    """Put the names of positional arguments before their values."""
    names = list(command.positional)
    named: list[str] = []
    takes_value = False
    for word in words:
        flag = command.flag(word) if word.startswith("-") else None
        if takes_value or flag is not None or not names or word in {"-h", "--help"}:
            named.append(word)
        else:
            named.append(f"{names.pop(0)}={word}")
        takes_value = flag is not None and flag.kind is not Kind.SWITCH
    return named


def syntax(command: Command) -> str:
    """Return how a command is written."""
    alternatives = {name for group in command.one_of for name in group}
    choices = [
        "{" + " | ".join(_written(f) for n in group if (f := command.flag(n))) + "}"
        for group in command.one_of
    ]
    own = [f for f in command.flags if f.name not in alternatives]
    needed = [_written(f) for f in own if f.is_required]
    optional = [f"[{_written(f)}]" for f in own if not f.is_required]
    # Where alternatives stand in a row of positional arguments they come last.
    return " ".join([command.name, *needed, *choices, *optional])


def _written(flag: Flag) -> str:
    name = flag.short or flag.name
    if flag.kind is Kind.SWITCH:
        return name
    shown = f"<{flag.name.lstrip('-')}>"
    return shown if name.startswith("--") else f"{name} {shown}"


def help_text(dialect: Dialect, path: Sequence[str]) -> str:
    """Return the help of the tool or of one command, with a newline at its end."""
    legacy = LEGACY.format(dialect.name)
    commands = dialect.commands()
    if not path:
        width = max(map(len, commands))
        rows = [f"  {n.ljust(width)}  {c.summary}" for n, c in commands.items()]
        return "\n".join([legacy, "", "Commands:", "", *rows, "", "<command> -h says more."]) + "\n"
    command = commands[path[0]]
    lines = ["Description", "===========", f"{command.help}.", ""]
    if command.missing:
        lines += [f"Not offered: {command.missing}.", ""]
    lines += [f"Syntax: {syntax(command)}"]
    if command.flags:
        width = max(len(_written(flag)) for flag in command.flags)
        lines += ["", "Where:"]
        lines += [f"  {_written(flag).ljust(width)}  {flag.help}" for flag in command.flags]
    return "\n".join([*lines, "", legacy]) + "\n"
