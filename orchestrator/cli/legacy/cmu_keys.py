"""`cloudhsm_mgmt_util`: keys, as their owners and officers see them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from orchestrator.cli import files, key_view
from orchestrator.cli.cloudhsm import keys
from orchestrator.cli.cloudhsm.syntax import Given
from orchestrator.cli.legacy import numbers
from orchestrator.cli.legacy.cmu import succeeded
from orchestrator.cli.legacy.cmu_users import to_clone
from orchestrator.cli.legacy.dialect import modern
from orchestrator.cli.legacy.tool import Tool, by_handle, handle
from orchestrator.model.errors import UsageError
from orchestrator.model.key_filter import KeyFilter
from orchestrator.model.key_spec import KeyClass
from orchestrator.model.keys import Key


def find_all(tool: Tool, given: Given) -> list[str]:
    """List whose keys are a user's, on every server that is up."""
    user = numbers.named_by(tool.console.plane.users(tool.cluster), given.text("--user-id"))
    wants_hash = _bit(given.text("--hash"), "the hash argument")
    found = [
        (key, "o" if key.owner == user.name else "s")
        for key in tool.all_keys(KeyFilter())
        if key.owner == user.name
        or (user.name in key.shared and key.key_class is not KeyClass.PUBLIC)
    ]
    lines = []
    for server in tool.servers():
        if not server.is_up:
            continue
        lines += [
            f"Keys on {server.shown}:",
            f"Number of keys found {len(found)}",
            ",".join(f"{handle(key)}({mark})" for key, mark in found),
        ]
        if wants_hash:
            lines.append(f"Hash of ownership: {_ownership_hash(key for key, _ in found)}")
        lines.append(f"findAllKeys success on {server.shown}")
    return _written(given, lines)


def _ownership_hash(found: Iterable[Key]) -> str:
    rows = sorted(
        f"{key_view.reference(key)} {key.owner} {' '.join(sorted(key.shared))}\n" for key in found
    )
    return hashlib.sha256("".join(rows).encode()).hexdigest()


def get_attribute(tool: Tool, given: Given) -> list[str]:
    """Show an attribute."""
    key = tool.key(given.text("--key-handle"))
    number = numbers.parse_number(given.text("--attribute"), "an attribute")
    shown = numbers.attribute_lines(key, number)
    lines = []
    for server in tool.servers():
        if server.is_up:
            lines += [f"Attribute Value on {server.shown}:", *shown]
    return _written(given, lines)


def set_attribute(tool: Tool, given: Given) -> list[str]:
    """Change an attribute."""
    number = numbers.parse_number(given.text("--attribute"), "an attribute")
    if number not in numbers.ATTRIBUTES:
        raise UsageError(f"attribute {number} is not known; listAttributes lists the numbers")
    value = given.maybe("--value")
    if value is None:
        value = tool.console.ask(f"Value of {numbers.attribute_name(numbers.ATTRIBUTES[number])}")
    asked = {"--name": numbers.ATTRIBUTES[number], "--value": value, "--approval": tool.approval()}
    handle_ = by_handle(given.text("--key-handle"))
    keys.set_attribute(tool.console, modern({**asked, "--filter": handle_.list("--filter")}))
    return succeeded(tool, "setAttribute")


def list_attributes(_tool: Tool, _given: Given) -> list[str]:
    """List the numbers of attributes."""
    return [
        "The following are the attributes and their numbers:",
        "",
        *(
            f"    {numbers.attribute_name(n).ljust(28)} = {i}"
            for i, n in numbers.ATTRIBUTES.items()
        ),
        f"    {'OBJ_ATTR_ALL'.ljust(28)} = {numbers.ALL_ATTRIBUTES}",
    ]


def share(tool: Tool, given: Given) -> list[str]:
    """Share a key, or no more."""
    user = numbers.named_by(tool.console.plane.users(tool.cluster), given.text("--user-id"))
    act = keys.share if _bit(given.text("--share"), "the share argument") else keys.unshare
    selected = by_handle(given.text("--key-handle")).list("--filter")
    asked = {"--username": user.name, "--role": str(user.role), "--approval": tool.approval()}
    act(tool.console, modern({**asked, "--filter": selected}))
    return succeeded(tool, "shareKey")


def key_info(tool: Tool, given: Given) -> list[str]:
    """Show whose a key is."""
    shown = tool.owner_lines(tool.key(given.text("-k")))
    lines = []
    for server in tool.servers():
        if server.is_up:
            lines += [f"Key Info on {server.shown}:", "", *shown, ""]
    return _written(given, lines)


def sync(tool: Tool, given: Given) -> list[str]:
    """Copy a key to a clone."""
    selected = by_handle(given.text("--key-handle")).text("--filter")
    keys.replicate(tool.console, to_clone(tool, {"--filter": selected}, given))
    return [f"syncKey success: the key is on {given.text('--cluster')}"]


def _written(given: Given, lines: list[str]) -> list[str]:
    """Write the lines to the file that was named, too."""
    if (path := given.maybe("--file")) is not None:
        files.write_new(Path(path), "".join(f"{line}\n" for line in lines).encode())
    return lines


def _bit(text: str, what: str) -> bool:
    if text not in {"0", "1"}:
        raise UsageError(f"{what} is 0 or 1")
    return text == "1"
