"""Requests for snapshots, and for HSMs that join from one or come back from a backup."""

from __future__ import annotations

from orchestrator.model.entries import Envelope, Record, SignedJoinRequest
from orchestrator.wire.messages.signed import SignedGrant


class TakeSnapshot(Record, tag=True):
    """Seal the state to the backup key; fetch it with Download. `reason` is for people."""

    id: str
    reason: str = ""


class CheckSnapshot(Record, tag=True):
    """Open an uploaded backup, restoring nothing, and compare its digest."""

    blob: str


class Upload(Record, tag=True):
    """Give a piece of a blob; the last piece completes it."""

    blob: str
    offset: int
    total: int
    data: bytes


class Download(Record, tag=True):
    """Fetch a piece of a blob."""

    blob: str
    offset: int


class JoinChallenge(Record, tag=True):
    """To a member: a fresh nonce for one join request."""


class JoinStart(Record, tag=True):
    """To an empty HSM: ask for admission to `cluster`, answering a member's challenge."""

    cluster: str
    challenge: bytes


class JoinGrant(Record, tag=True):
    """To a member: check a join request and encrypt the masking key to it."""

    join: SignedJoinRequest


class JoinAccept(Record, tag=True):
    """To the joiner: take the masking key, and the state from the uploaded snapshot."""

    grant: SignedGrant
    blob: str


class RecoverStart(Record, tag=True):
    """To an empty HSM: open a transport key for the recovery key."""


class RecoverAccept(Record, tag=True):
    """To an empty HSM: take the masking key out of a backup's envelope."""

    recovery_key: Envelope
    envelope: Envelope
