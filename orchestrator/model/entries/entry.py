"""An entry of the ledger as it is signed, stored and sent."""

from __future__ import annotations

import hashlib
from typing import Final

from orchestrator.model.entries.record import Record, decode
from orchestrator.model.errors import MalformedError

FORMAT_VERSION: Final = 1
ENTRY_BYTES_MAX: Final = 256 * 1024
NO_HASH: Final = bytes(32)


class Header(Record):
    """Place and authorship of a change. `at` is Unix time in milliseconds, never decreasing."""

    version: int
    cluster: str
    seq: int
    prev: bytes
    at: int
    kind: str
    request: str
    author: str
    body_hash: bytes


class Entry(Record):
    """A signed header and its body as bytes. The signature is ECDSA P-256, r || s."""

    header: bytes
    signature: bytes
    body: bytes

    @property
    def hash(self) -> bytes:
        """SHA-256 of header and signature: what the next header names as `prev`."""
        return hashlib.sha256(self.header + self.signature).digest()

    @property
    def is_erased(self) -> bool:
        """Its body was erased after a snapshot; the header keeps the chain."""
        return not self.body

    def is_whole(self, header: Header) -> bool:
        """Tell whether the body is the one that was signed, or erased."""
        return self.is_erased or hashlib.sha256(self.body).digest() == header.body_hash

    def parse_header(self) -> Header:
        """Return the header; raise MalformedError for bytes that are none, or another version."""
        if len(self.header) + len(self.body) > ENTRY_BYTES_MAX or len(self.signature) != 64:
            raise MalformedError("ledger entry exceeds its bounds")
        header = decode(Header, self.header, "ledger header")
        if header.version != FORMAT_VERSION:
            raise MalformedError(
                f"ledger entry {header.seq} has format version {header.version}, this software "
                f"knows {FORMAT_VERSION}; update it"
            )
        return header
