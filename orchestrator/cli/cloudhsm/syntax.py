"""What a command tree is made of: commands, flags, and what was given for them. Pure values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Kind(StrEnum):
    """What a flag takes."""

    SWITCH = "switch"
    TEXT = "text"
    NUMBER = "number"
    LIST = "list"
    MAYBE = "maybe"  # a value, or nothing: then it is asked for


class Words(StrEnum):
    """What a value can be completed from."""

    NOTHING = "nothing"
    CLUSTERS = "clusters"
    USERS = "users"
    FILTER = "filter"
    ATTRIBUTES = "attributes"
    ATTRIBUTE_NAMES = "attribute-names"
    FILES = "files"


@dataclass(frozen=True, slots=True)
class Flag:
    """One flag. `choices` are all its values; `default` is what the command takes without it."""

    name: str
    help: str
    kind: Kind = Kind.TEXT
    is_required: bool = False
    choices: tuple[str, ...] = ()
    default: str = ""
    short: str = ""
    words: Words = Words.NOTHING

    @property
    def takes(self) -> str:
        """Return what stands for the value in usage lines."""
        name = self.name.lstrip("-").upper().replace("-", "_")
        match self.kind:
            case Kind.SWITCH:
                return ""
            case Kind.LIST:
                return f"[<{name}>...]"
            case Kind.MAYBE:
                return f"[<{name}>]"
            case _:
                return f"<{name}>"

    @property
    def shown(self) -> str:
        """Return the flag and its value, as messages show them."""
        return f"{self.name} {self.takes}".rstrip()


@dataclass(frozen=True, slots=True)
class Command:
    """A command or a group of them; `login` is both.

    Attributes:
        name: one word.
        help: the first line says what it does.
        flags: in the order of the help.
        action: `module:function` in this package; empty for a group.
        children: commands below.
        one_of: of each of these sets of flags exactly one is given.
        who: who may run it, for the reference.
    """

    name: str
    help: str
    flags: tuple[Flag, ...] = ()
    action: str = ""
    children: tuple[Command, ...] = ()
    one_of: tuple[tuple[str, ...], ...] = ()
    who: str = ""

    @property
    def summary(self) -> str:
        """Return the first line of the help."""
        return self.help.partition("\n")[0]

    def child(self, name: str) -> Command | None:
        """Return the command below with this name."""
        return next((c for c in self.children if c.name == name), None)

    def flag(self, name: str) -> Flag | None:
        """Return the flag with this name or letter."""
        return next((f for f in self.flags if name in {f.name, f.short} and name), None)

    def commands(self, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Command]]:
        """Yield every command that does something, below and with this one, with its path."""
        if self.action:
            yield path, self
        for child in self.children:
            yield from child.commands((*path, child.name))


HELP_FLAG: Final = Flag("--help", "Print help", Kind.SWITCH, short="-h")


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Given:
    """A command that was asked for and the values of its flags; prints as a bare object.

    A parser has checked that required flags are there, numbers are numbers and choices are choices.
    """

    path: tuple[str, ...]
    command: Command
    values: Mapping[str, tuple[str, ...]]

    def has(self, flag: str) -> bool:
        """Tell whether a flag was given."""
        return flag in self.values

    def text(self, flag: str) -> str:
        """Return a required flag's value."""
        return self.values[flag][0]

    def maybe(self, flag: str) -> str | None:
        """Return a flag's value, None where there is none."""
        return next(iter(self.values.get(flag, ())), None)

    def number(self, flag: str, default: int = 0) -> int:
        """Return a flag's number."""
        text = self.maybe(flag)
        return default if text is None else int(text)

    def list(self, flag: str) -> tuple[str, ...]:
        """Return all values of a flag."""
        return self.values.get(flag, ())
