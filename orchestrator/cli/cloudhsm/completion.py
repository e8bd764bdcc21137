"""What Tab offers in interactive mode: commands, flags, values; names come from a `Lookup`."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from orchestrator.cli.cloudhsm.syntax import HELP_FLAG, Command, Flag, Kind, Words
from orchestrator.model.key_details import DETAILS
from orchestrator.model.key_spec import KeyClass, KeyType
from orchestrator.model.keys import FILTERABLE, KNOWN_ATTRIBUTES

_TEXTS: Final = frozenset({"label", "id", "class", "key-type", "check-value"})
_FIXED: Final = frozenset({"class", "key-type", "check-value", "label"})
_ENTRIES_MAX: Final = 500


@dataclass(frozen=True, slots=True)
class Lookup:
    """Names of what is there; none of it may raise."""

    clusters: Callable[[], Sequence[str]]
    users: Callable[[], Sequence[str]]
    labels: Callable[[], Sequence[str]]


def complete(tree: Command, text: str, lookup: Lookup) -> tuple[list[str], int]:
    """Return what may stand in the place of the last word of `text`, and that word's length."""
    words = text.split()
    partial = "" if not words or text[-1:].isspace() else words.pop()
    if words[:1] == ["help"]:
        return _starting(partial, _below(tree, words[1:])), len(partial)
    nodes, given, flag, count = [tree], set[str](), None, 0
    for word in words:
        if word.startswith("-"):
            flag, count = next((f for n in nodes if (f := n.flag(word))), None), 0
            given.add(flag.name if flag else word)
        elif flag is not None and _takes(flag, count):
            count += 1
        elif (child := nodes[-1].child(word)) is not None:
            nodes.append(child)
            flag = None
        else:
            return [], len(partial)
    found: list[str] = []
    is_open = flag is not None and _takes(flag, count)
    if flag is not None and is_open and not partial.startswith("-"):
        found = _values(flag, partial, lookup)
    if flag is None or not is_open or count or partial.startswith("-") or flag.kind is Kind.MAYBE:
        found += [child.name for child in nodes[-1].children]
        if nodes[-1].children and len(nodes) > 1:
            found.append("help")
        known = [*(f for n in nodes for f in n.flags), HELP_FLAG]
        found += [f.name for f in known if f.name not in given or f.kind is Kind.LIST]
    return _starting(partial, found), len(partial)


def _below(tree: Command, path: Iterable[str]) -> list[str]:
    command = tree
    for name in path:
        child = command.child(name)
        if child is None:
            return []
        command = child
    return [child.name for child in command.children]


def _takes(flag: Flag, count: int) -> bool:
    return flag.kind is Kind.LIST or (flag.kind is not Kind.SWITCH and not count)


def _starting(partial: str, found: Iterable[str]) -> list[str]:
    return [shlex.quote(word) for word in dict.fromkeys(found) if word.startswith(partial)]


def _values(flag: Flag, partial: str, lookup: Lookup) -> list[str]:
    if flag.choices:
        return list(flag.choices)
    match flag.words:
        case Words.CLUSTERS:
            return list(lookup.clusters())
        case Words.USERS:
            return list(lookup.users())
        case Words.FILES:
            return _files(partial)
        case Words.FILTER:
            return _filter_terms(partial, lookup)
        case Words.ATTRIBUTES:
            return _terms("", partial, KNOWN_ATTRIBUTES - _FIXED)
        case Words.ATTRIBUTE_NAMES:
            return sorted(KNOWN_ATTRIBUTES)
        case _:
            return []


def _filter_terms(partial: str, lookup: Lookup) -> list[str]:
    if partial.startswith("attr.label="):
        return [f"attr.label={label}" for label in lookup.labels()]
    return [*_terms("attr.", partial, FILTERABLE), "key-reference="]


def _terms(prefix: str, partial: str, names: Iterable[str]) -> list[str]:
    """Offer names first, and after `=` what they can be."""
    name, equals, _ = partial.removeprefix(prefix).partition("=")
    if not equals:
        return [f"{prefix}{known}=" for known in sorted(names)]
    values: Iterable[str] = ("true", "false")
    if name in _TEXTS | DETAILS:
        values = {"class": tuple(KeyClass), "key-type": tuple(KeyType)}.get(name, ())
    return [f"{prefix}{name}={value}" for value in values]


def _files(partial: str) -> list[str]:
    folder, slash, _ = partial.rpartition("/")
    with suppress(OSError, ValueError):
        entries = sorted(Path(folder + slash or ".").iterdir())[:_ENTRIES_MAX]
        return [folder + slash + entry.name + ("/" if entry.is_dir() else "") for entry in entries]
    return []
