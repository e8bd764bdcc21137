"""How a process ends: with its parent, or at a step where a test wants it dead."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
from pathlib import Path
from typing import Final

from orchestrator.model.steps import OnStep, Step, no_step

PARENT_VARIABLE: Final = "CLOISTER_PARENT"
FAULT_VARIABLE: Final = "CLOISTER_FAULT"
_PR_SET_PDEATHSIG: Final = 1
_M_MMAP_THRESHOLD: Final = -3


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


def leave_no_core() -> None:
    """Have a crash write no core of this process and its children: it would hold passwords."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def return_freed_memory() -> None:
    """Have large blocks go back to the system when freed.

    glibc raises its threshold with the first 19 MiB of an Argon2 check, and then keeps such
    blocks in every thread's arena for good: 60 MB in an HSM that checks a few passwords.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # glibc
        mallopt(_M_MMAP_THRESHOLD, 1 << 20)


def fault_from_environment() -> OnStep:
    """Return what dies, as `kill -9` would have it, at the step that a test has chosen.

    CLOISTER_FAULT names a file. The process that reaches the step written there takes the file
    away and dies: one process, once, and only while the file is there. After `STEP PID` another
    process dies at that moment; `record FILE` has the steps that are passed written down there.
    """
    file = os.environ.get(FAULT_VARIABLE)
    if not file:
        return no_step
    marker = Path(file)

    def die(step: Step) -> None:
        try:
            wanted, _, more = marker.read_text().partition(" ")
            if wanted == "record":
                with Path(more).open("a") as passed:
                    passed.write(f"{step}\n")
            if wanted != step:
                return
            marker.unlink()
        except FileNotFoundError:
            return
        os.kill(int(more or os.getpid()), signal.SIGKILL)

    return die
