"""Passwords in a typed line: kept out of the history, and not shown while they are typed. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

# Every flag that begins like --password, misspelt ones too; its value up to the end of the word.
_SECRET: Final = re.compile(
    r"""(?<!\S)-{1,2}(?:change-)?(?!public|private|path|payload)p[\w-]*"""
    r"""(?:\s*=\s*|\s+(?!-))((?:'[^']*(?:'|$)|"[^"]*(?:"|$)|\\.|[^\s'"])+)""",
    re.IGNORECASE,
)


def spans(line: str) -> list[tuple[int, int]]:
    """Return where the secrets of a line stand."""
    return [found.span(1) for found in _SECRET.finditer(line)]


def redact(line: str, found: Sequence[tuple[int, int]]) -> str:
    """Return a line without the secrets that were found in it."""
    for start, end in reversed(found):
        line = line[:start].rstrip(" =") + line[end:]
    return line
