"""Resource ids in CloudHSM's form: `<kind>-[2-7a-zA-Z]{11,16}` (API model, 2017-04-28)."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, NewType

from orchestrator.model.errors import UsageError

ClusterId = NewType("ClusterId", str)
HsmId = NewType("HsmId", str)
BackupId = NewType("BackupId", str)

_ALPHABET: Final = "abcdefghijklmnopqrstuvwxyz234567"
_FORM: Final = re.compile(r"(cluster|hsm|backup)-[2-7a-zA-Z]{11,16}\Z")

RandomBytes = Callable[[int], bytes]


def new_id(kind: str, random: RandomBytes) -> str:
    """Return a fresh id of `kind` (cluster, hsm, backup): 11 characters, 55 random bits."""
    return f"{kind}-" + "".join(_ALPHABET[byte & 31] for byte in random(11))


def check_id(kind: str, text: str) -> str:
    """Return `text` if it is an id of `kind`, else raise UsageError."""
    match = _FORM.match(text)
    if match is None or match[1] != kind:
        raise UsageError(f"{text!r} is not a {kind} id ({kind}- and 11 to 16 of 2-7, a-z, A-Z)")
    return text
