"""Help as clap writes it: `-h` in short, `--help` and `help` at length. Pure."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Final

from orchestrator.cli.cloudhsm.syntax import HELP_FLAG, Command, Flag, Kind

WIDTH: Final = 100
_INDENT: Final = " " * 10


def usage(program: str, path: tuple[str, ...], nodes: Sequence[Command]) -> str:
    """Return the usage line of the command at `path`; `nodes` are the tree and those below it."""
    words = [program] if program else []
    for name, node in zip(("", *path), nodes, strict=True):
        words += [name] if name else []
        if node is nodes[-1]:
            words += _usage_flags(node)
        elif node.flags:
            words += [f.shown for f in node.flags if f.is_required]
    last = nodes[-1]
    if last.children:
        words.append("[COMMAND]" if last.action else "<COMMAND>")
    return "Usage: " + " ".join(words)


def help_text(tree: Command, program: str, path: tuple[str, ...], *, is_long: bool) -> str:
    """Return the help of the command at `path`, with a newline at its end."""
    nodes = [tree]
    for name in path:
        child = nodes[-1].child(name)
        assert child is not None  # noqa: S101  # a parser found it
        nodes.append(child)
    command = nodes[-1]
    parts = [command.help if is_long else command.summary, usage(program, path, nodes)]
    if command.children:
        parts.append("Commands:\n" + "\n".join(_commands(command, is_root=not path)))
    options = _long(command.flags) if is_long else _short(command.flags)
    parts.append("Options:\n" + options)
    return "\n\n".join(parts) + "\n"


def _usage_flags(command: Command) -> list[str]:
    grouped = {name for group in command.one_of for name in group}
    words = []
    if any(not f.is_required and f.name not in grouped for f in command.flags):
        words.append("[OPTIONS]")
    words += [f.shown for f in command.flags if f.is_required]
    for group in command.one_of:
        words.append("<" + "|".join(f.shown for n in group if (f := command.flag(n))) + ">")
    return words


def _commands(command: Command, *, is_root: bool) -> list[str]:
    rows = [(child.name, child.summary) for child in command.children]
    if not is_root:
        rows.append(("help", "Print this message or the help of the given subcommand(s)"))
    width = max(len(name) for name, _ in rows)
    return [f"  {name.ljust(width)}  {text}" for name, text in rows]


def _short(flags: Sequence[Flag]) -> str:
    more = HELP_FLAG if not flags else Flag(
        "--help", "Print help (see more with '--help')", Kind.SWITCH, short="-h"
    )  # fmt: skip
    rows = [(_head(flag), flag.help + _notes(flag)) for flag in (*flags, more)]
    width = max(len(head) for head, _ in rows)
    return "\n".join(f"{head.ljust(width)}  {text}" for head, text in rows)


def _long(flags: Sequence[Flag]) -> str:
    last = Flag("--help", "Print help (see a summary with '-h')", Kind.SWITCH, short="-h")
    blocks = []
    for flag in (*flags, last if flags else HELP_FLAG):
        text = textwrap.wrap(flag.help, WIDTH - len(_INDENT), break_on_hyphens=False)
        lines = [_head(flag), *(_INDENT + line for line in text)]
        if notes := _notes(flag).strip():
            lines += ["", _INDENT + notes]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def _head(flag: Flag) -> str:
    letter = f"{flag.short}, " if flag.short else "    "
    return f"  {letter}{flag.shown}"


def _notes(flag: Flag) -> str:
    default = f" [default: {flag.default}]" if flag.default else ""
    choices = f" [possible values: {', '.join(flag.choices)}]" if flag.choices else ""
    return default + choices
