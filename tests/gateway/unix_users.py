"""Being another Unix user for a while; root alone can."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def as_user(uid: int) -> Iterator[None]:
    """What connects here is of another Unix user, as the kernel tells it; so is what is made."""
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)
