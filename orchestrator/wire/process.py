"""A child that must not outlive its parent."""

from __future__ import annotations

import ctypes
import os
import signal
from typing import Final

PARENT_VARIABLE: Final = "CLOISTER_PARENT"
_PR_SET_PDEATHSIG: Final = 1


def given_parent() -> int:
    """Return the process that started us, as it said itself in CLOISTER_PARENT.

    Who asks only `getppid()` learns of a parent that died before the question the pid of init.
    """
    given = os.environ.get(PARENT_VARIABLE, "")
    return int(given) if given.isdecimal() else os.getppid()


def die_with_parent(parent: int) -> None:
    """Have the kernel send SIGKILL when the parent's thread that started us ends.

    SIGKILL, because nothing may delay it, neither a blocked signal nor a hung token library: an
    orphan still holds its lock, and its successor waits for that.

    Args:
        parent: the process id that started us; if it is gone already, the signal comes at once.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)
