"""What HSMs sign for each other outside the ledger: counts of tries, grants to joiners."""

from __future__ import annotations

from orchestrator.model.entries import Credential, Record
from orchestrator.model.roles import Role


class Tries(Record):
    """Wrong passwords that one HSM has counted for one version of a user; `last_at` in Unix ms.

    `resets` rises with a right password that ends a count; only reports of the highest count.
    """

    hsm: str
    role: Role
    name: str
    version: int
    resets: int
    count: int
    last_at: int


class SignedTries(Record):
    """A Tries as bytes, and its HSM's signature: nobody else can lock a user, or unlock one."""

    tries: bytes
    signature: bytes


class Grant(Record):
    """A member's answer to one join request, signed by its identity."""

    request: bytes
    point: bytes
    wrapped: bytes
    snapshot: bytes


class SignedGrant(Record):
    """A Grant as bytes, its signature, and the chain from the member to the trust anchor."""

    grant: bytes
    signature: bytes
    cluster: str
    credential: Credential
    certificate: bytes
    trust_anchor: bytes
