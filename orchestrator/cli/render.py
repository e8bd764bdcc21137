"""Results as one JSON object, or as tables.

Whatever a command returns is first made plain (`plain`), so tables and JSON name fields alike.
Rich is loaded only on a terminal; elsewhere tables are aligned text.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import Enum
from typing import Final, TextIO

_STYLES: Final = {
    **dict.fromkeys(("ACTIVE", "READY", "ok", "running"), "green"),
    **dict.fromkeys(("DEGRADED", "fail", "down"), "red"),
    "warn": "yellow",
}
Plain = None | bool | int | float | str | list["Plain"] | dict[str, "Plain"]


def plain(value: object) -> Plain:
    """Return `value` as JSON has it: dataclasses and structs by field name, bytes in hex."""
    if isinstance(value, Enum):
        value = value.value
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    names = getattr(value, "__struct_fields__", None)  # msgspec.Struct
    if dataclasses.is_dataclass(value):
        names = [field.name for field in dataclasses.fields(value)]
    if names is not None:
        return {name: plain(getattr(value, name)) for name in names}
    return [plain(item) for item in value] if isinstance(value, Iterable) else str(value)  # paths


def printable(text: str) -> str:
    """Return `text` with what steers a terminal, or turns its lines around, as escapes."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def write_json(data: object, out: TextIO) -> None:
    """Write one object and a newline."""
    out.write(_escaped(json.dumps(plain(data), indent=2, ensure_ascii=False)) + "\n")


def write_json_line(data: object, out: TextIO) -> None:
    """Write one object on one line."""
    out.write(_escaped(json.dumps(plain(data), ensure_ascii=False)) + "\n")


def _escaped(text: str) -> str:
    """Return JSON with what steers a terminal as JSON's own escapes; it says the same."""
    if text.replace("\n", "").isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)


def write_tables(data: object, columns: Sequence[str], out: TextIO) -> None:
    """Write scalars as a list of fields, every list of objects as a table, sentences as lines.

    Args:
        data: a mapping, dataclass or struct.
        columns: which fields of a list's objects to show, dotted when nested; empty for all.
        out: where to.
    """
    made = plain(data)
    assert isinstance(made, dict)  # noqa: S101  # results are objects
    flat = dict(_flatten(made))
    fields = [(n, _cell(n, v)) for n, v in flat.items() if not _is_block(v)]
    if fields:
        _write_table(("", ""), fields, out)
    for name, value in flat.items():
        if not (_is_block(value) and isinstance(value, list)):
            continue
        rows = [dict(_flatten(item)) for item in value if isinstance(item, dict)]
        if len(rows) < len(value):
            out.writelines(f"{name.removesuffix('s')}: {printable(str(line))}\n" for line in value)
        elif rows:
            heads = tuple(columns) or tuple(dict.fromkeys(head for row in rows for head in row))
            body = [tuple(_cell(head, row.get(head)) for head in heads) for row in rows]
            _write_table(tuple(head.rpartition(".")[2] for head in heads), body, out)
        elif not fields:
            out.write(f"no {name.rpartition('.')[2].replace('_', ' ')}\n")


def _is_block(value: Plain) -> bool:
    """Lists of objects, and of sentences; lists of words fit in a cell."""
    return isinstance(value, list) and (
        not value or any(isinstance(i, dict) or (isinstance(i, str) and " " in i) for i in value)
    )


def _flatten(fields: Mapping[str, Plain], prefix: str = "") -> Iterator[tuple[str, Plain]]:
    for name, value in fields.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _cell(name: str, value: Plain) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return printable(", ".join(str(item) for item in value)) or "-"
    if isinstance(value, float):
        return f"{value:.1f}"
    if isinstance(value, int) and (name == "at" or name.endswith("_at")):
        return f"{datetime.fromtimestamp(value / 1000, UTC):%Y-%m-%d %H:%M:%SZ}"
    return printable(str(value))


def _write_table(heads: tuple[str, ...], rows: Sequence[tuple[str, ...]], out: TextIO) -> None:
    has_heads = any(heads)
    if out.isatty():
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(show_header=has_heads, box=None, pad_edge=False, header_style="bold")
        for head in heads:
            table.add_column(head, overflow="fold")
        for row in rows:
            # Text: names that people chose are no markup.
            table.add_row(*(Text(cell, _STYLES.get(cell, "")) for cell in row))
        Console(file=out).print(table)
        return
    lines = ([heads] if has_heads else []) + list(rows)
    widths = [max(len(line[i]) for line in lines) for i in range(len(heads))]
    for line in lines:
        padded = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        out.write("  ".join(padded).rstrip() + "\n")


@contextmanager
def progress(what: str) -> Iterator[None]:
    """Show that something is going on, on stderr, and only on a terminal."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(f"{what} …"):
        yield
