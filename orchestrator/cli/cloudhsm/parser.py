"""Words into a command and its flags, with the messages of clap, the original's parser. Pure."""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from orchestrator.cli.cloudhsm.help_text import usage
from orchestrator.cli.cloudhsm.syntax import Command, Flag, Given, Kind
from orchestrator.cli.render import printable
from orchestrator.model.errors import UsageError

_NUMBER_DIGITS_MAX: Final = 20


class ParseError(UsageError):
    """The words are no command. The message is the whole text for stderr, without a newline."""


@dataclass(frozen=True, slots=True)
class HelpRequest:
    """Help was asked for, or (`is_missing`) a group was named without one of its commands."""

    path: tuple[str, ...]
    command: Command
    is_long: bool = True
    is_missing: bool = False


def split(line: str) -> list[str]:
    """Split a line as a shell does, without expanding anything.

    Raises:
        ParseError: a quote is not closed.
    """
    try:
        return shlex.split(line)
    except ValueError as exc:
        raise ParseError(f"error: {str(exc).lower()}") from None


def parse(tree: Command, words: Sequence[str], program: str) -> Given | HelpRequest:
    """Return the command that `words` name, and the values of its flags.

    Args:
        tree: where names start.
        words: without the program's name.
        program: stands before the command in usage lines; empty in interactive mode.

    Raises:
        ParseError: with the text that the original's parser would write.
    """
    return _Parser(tree, program).parse(list(words))


def find(tree: Command, path: Sequence[str]) -> HelpRequest:
    """Return the request for the help of the command at `path`."""
    command, done = tree, list[str]()
    for name in path:
        child = command.child(name)
        if child is None:
            raise ParseError(_unrecognized(command, name))
        command = child
        done.append(name)
    return HelpRequest(tuple(done), command)


class _Parser:
    """One line's way through the tree."""

    def __init__(self, tree: Command, program: str) -> None:
        self._tree, self._program = tree, program
        self._path: list[str] = []
        self._nodes = [tree]
        self._values: dict[str, list[str]] = {}

    def parse(self, words: list[str]) -> Given | HelpRequest:
        while words:
            word = words.pop(0)
            node = self._nodes[-1]
            if word in {"-h", "--help"}:
                return HelpRequest(tuple(self._path), node, is_long=word == "--help")
            if word == "help" and node.children and not self._values:
                return find(self._tree, [*self._path, *words])
            if word.startswith("-"):
                self._take_flag(word, words)
                continue
            child = node.child(word)
            if child is None:
                if node.children:
                    self._fail(_unrecognized(node, self._quoted(word)))
                self._fail(f"error: unexpected argument '{self._quoted(word)}' found")
            assert child is not None  # noqa: S101  # _fail raises
            self._nodes.append(child)
            self._path.append(word)
        node = self._nodes[-1]
        if node.children and not node.action:
            return HelpRequest(tuple(self._path), node, is_long=False, is_missing=True)
        self._check()
        values = {name: tuple(value) for name, value in self._values.items()}
        return Given(tuple(self._path), node, values)

    def _quoted(self, word: str) -> str:
        """What follows --password may be the rest of one."""
        is_near = any(name.endswith("password") for name in self._values)
        return "…" if is_near else printable(word)

    def _take_flag(self, word: str, words: list[str]) -> None:
        name, equals, attached = word.partition("=")
        flag = next((f for n in reversed(self._nodes) if (f := n.flag(name))), None)
        if flag is None:
            known = [f.name for node in self._nodes for f in node.flags]
            close = difflib.get_close_matches(name, known, 1)
            tip = f"\n\n  tip: a similar argument exists: '{close[0]}'" if close else ""
            self._fail(f"error: unexpected argument '{self._quoted(name)}' found{tip}")
            return
        if flag.name in self._values and flag.kind is not Kind.LIST:
            self._fail(f"error: the argument '{flag.shown}' cannot be used multiple times")
        if flag.kind is Kind.SWITCH:
            if equals:
                self._fail(f"error: unexpected value '{printable(attached)}' for '{flag.name}'")
            self._values[flag.name] = []
            return
        taken = [attached] if equals else self._following(flag, words)
        may_be_empty = flag.kind is Kind.MAYBE or (flag.kind is Kind.LIST and not flag.is_required)
        if not taken and not may_be_empty:
            self._fail(f"error: a value is required for '{flag.shown}' but none was supplied")
        for value in taken:
            self._check_value(flag, value)
        self._values.setdefault(flag.name, []).extend(taken)

    def _following(self, flag: Flag, words: list[str]) -> list[str]:
        """Take the words that are the flag's values: all up to the next flag for a list."""
        taken: list[str] = []
        while words and not words[0].startswith("-"):
            if flag.kind is not Kind.LIST and taken:
                break
            if flag.kind is Kind.MAYBE and self._nodes[-1].child(words[0]):
                break
            taken.append(words.pop(0))
        return taken

    def _check_value(self, flag: Flag, value: str) -> None:
        if flag.choices and value not in flag.choices:
            close = difflib.get_close_matches(value, flag.choices, 1)
            tip = f"\n\n  tip: a similar value exists: '{close[0]}'" if close else ""
            known = ", ".join(flag.choices)
            self._fail(
                f"error: invalid value '{printable(value)}' for '{flag.shown}'\n"
                f"  [possible values: {known}]{tip}"
            )
        is_number = value.isascii() and value.isdecimal() and len(value) <= _NUMBER_DIGITS_MAX
        if flag.kind is Kind.NUMBER and not is_number:
            self._fail(
                f"error: invalid value '{printable(value)}' for '{flag.shown}': "
                "invalid digit found in string"
            )

    def _check(self) -> None:
        missing = []
        for node in self._nodes:
            missing += [f.shown for f in node.flags if f.is_required and f.name not in self._values]
            for group in node.one_of:
                flags = [f for name in group if (f := node.flag(name))]
                given = [f for f in flags if f.name in self._values]
                if len(given) > 1:
                    self._fail(
                        f"error: the argument '{given[0].shown}' cannot be used with "
                        f"'{given[1].shown}'"
                    )
                if not given:
                    missing.append("<" + "|".join(f.shown for f in flags) + ">")
        if missing:
            listed = "".join(f"\n  {shown}" for shown in missing)
            self._fail(f"error: the following required arguments were not provided:{listed}")

    def _fail(self, message: str) -> None:
        line = usage(self._program, tuple(self._path), self._nodes)
        raise ParseError(f"{message}\n\n{line}\n\nFor more information, try '--help'.")


def _unrecognized(command: Command, word: str) -> str:
    close = difflib.get_close_matches(word, [child.name for child in command.children], 1)
    tip = f"\n\n  tip: a similar subcommand exists: '{close[0]}'" if close else ""
    return f"error: unrecognized subcommand '{printable(word)}'{tip}"
