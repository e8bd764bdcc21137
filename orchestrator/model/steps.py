"""The steps at which a process may die: every one is named, so that tests can stop at each."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum, unique


@unique
class Step(StrEnum):
    """Named after what has just been done when the step is reached."""

    CREATE_MASKING_KEY = "create-masking-key"
    PREPARE_TOKEN_WORK = "prepare-token-work"  # noqa: S105  # a step's name
    PREPARE_SIGNED = "prepare-signed"
    COMMIT_BEGIN = "commit-begin"
    COMMIT_DONE = "commit-done"
    FIRST_COMMITTED = "first-committed"
    APPLY_VERIFIED = "apply-verified"
    APPLY_STORED = "apply-stored"
    PUSH_ONE = "push-one"
    JOIN_GRANTED = "join-granted"
    JOIN_MASKING_KEY = "join-masking-key"
    JOIN_INSTALLED = "join-installed"
    SNAPSHOT_SEALED = "snapshot-sealed"
    BACKUP_RECORDED = "backup-recorded"
    BACKUP_PUBLISHED = "backup-published"
    BODIES_ERASED = "bodies-erased"
    RECOVER_MASKING_KEY = "recover-masking-key"
    ANCHOR_PUBLISHED = "anchor-published"
    HSM_RECORDED = "hsm-recorded"
    HSM_STARTED = "hsm-started"
    HSM_REMOVED = "hsm-removed"
    HSM_DESTROYED = "hsm-destroyed"
    HOST_HSM_MADE = "host-hsm-made"
    HOST_HSM_REMOVED = "host-hsm-removed"


OnStep = Callable[[Step], None]


def no_step(_: Step) -> None:
    """Go on."""
