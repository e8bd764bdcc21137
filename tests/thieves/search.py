"""Searching for secrets: in every form that a program or a person could have left one in."""

from __future__ import annotations

import base64
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

_WINDOW: Final = 8
_NEEDLE_BYTES_MIN: Final = 2 * _WINDOW - 1
HALVED_FROM: Final = 32


class Hit(NamedTuple):
    """A secret that was found."""

    secret: str
    form: str
    place: str


def needles(secret: bytes) -> dict[str, bytes]:
    """Return what to look for, by form.

    A secret of 32 bytes and more is looked for by its halves, and so found whole, within DER,
    and cut short. Base64 takes three shapes, by where it began in what was encoded.
    """
    middle = len(secret) // 2
    parts = {"whole": secret}
    if len(secret) >= HALVED_FROM:
        parts = {"first half": secret[:middle], "second half": secret[middle:]}
    found = {}
    for part, value in parts.items():
        found[f"{part}, raw"] = value
        found[f"{part}, hex"] = value.hex().encode()
        found[f"{part}, HEX"] = value.hex().upper().encode()
        for shift in range(3):
            found[f"{part}, base64 at {shift}"] = _base64(base64.b64encode, value, shift)
            found[f"{part}, base64url at {shift}"] = _base64(base64.urlsafe_b64encode, value, shift)
    assert min(map(len, found.values())) >= _NEEDLE_BYTES_MIN, "too short to be told from chance"
    return found


def _base64(encode: Callable[[bytes], bytes], value: bytes, shift: int) -> bytes:
    """Return the characters that depend on `value` alone when `shift` bytes went before it."""
    text = encode(bytes(shift) + value)
    begin = (0, 2, 3)[shift]
    rest = (shift + len(value)) % 3
    return text[begin : len(text) - (0, 3, 2)[rest]]


class Searcher:
    """Looks for some secrets in many places.

    Most places hold none, and are passed quickly: a needle of 15 bytes or more holds, wherever
    it stands, eight bytes that begin at a multiple of eight.
    """

    def __init__(self, secrets: Mapping[str, bytes]) -> None:
        self._needles = {
            (name, form): needle
            for name, secret in secrets.items()
            for form, needle in needles(secret).items()
        }
        self._windows = {
            int.from_bytes(needle[i : i + _WINDOW], sys.byteorder)
            for needle in self._needles.values()
            for i in range(len(needle) - _WINDOW + 1)
        }

    def search(self, places: Mapping[str, bytes]) -> list[Hit]:
        """Return every secret found, in whatever form; line breaks hide nothing."""
        return [
            hit
            for place, content in places.items()
            for hit in sorted({*self._in(place, content), *self._in(place, _unbroken(content))})
        ]

    def _in(self, place: str, content: bytes) -> list[Hit]:
        whole = memoryview(content)[: len(content) // _WINDOW * _WINDOW]
        if self._windows.isdisjoint(whole.cast("Q").tolist()):
            return []
        return [Hit(name, form, place) for (name, form), n in self._needles.items() if n in content]


def _unbroken(content: bytes) -> bytes:
    return content.replace(b"\r", b"").replace(b"\n", b"")


def files_below(directory: Path) -> dict[str, bytes]:
    """Return every file below a directory, hidden ones too."""
    found = {}
    for path in directory.rglob("*"):
        try:
            if path.is_file():
                found[str(path)] = path.read_bytes()
        except FileNotFoundError:
            continue  # a journal that was rolled in meanwhile
    return found


def process(pid: int) -> dict[str, bytes]:
    """Return what everybody may read of a process; nothing when it has ended."""
    try:
        return {
            f"/proc/{pid}/{name}": Path(f"/proc/{pid}/{name}").read_bytes()
            for name in ("cmdline", "environ")
        }
    except (FileNotFoundError, ProcessLookupError):
        return {}
