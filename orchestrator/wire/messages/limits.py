"""Bounds of single requests, in bytes and counts."""

from __future__ import annotations

from typing import Final

BLOB_PIECE_BYTES: Final = 512 * 1024
ENTRIES_PER_FRAME: Final = 512
KEYS_PER_PAGE_MAX: Final = 1000
PLAINTEXT_BYTES_MAX: Final = 512 * 1024
