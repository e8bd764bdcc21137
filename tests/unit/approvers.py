"""People who approve: their keys, and states in which they are registered."""

from __future__ import annotations

from functools import cache

import msgspec
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa, utils
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from orchestrator.model import entries as e
from orchestrator.model.quorum import ApprovalData, token_of
from orchestrator.model.roles import Role
from orchestrator.model.services import Service
from orchestrator.model.state import Put, State, Table, User, user_row


class Approver:
    """A user with a key of their own."""

    def __init__(self, name: str, role: Role = Role.ADMIN) -> None:
        self.name, self.role = name, role
        self._private = rsa.generate_private_key(65537, 2048)
        self.public = self._private.public_key().public_bytes(
            Encoding.DER, PublicFormat.SubjectPublicKeyInfo
        )
        self.actor = e.Actor(name, role)

    def sign(self, digest: bytes) -> bytes:
        """As `openssl pkeyutl -sign -pkeyopt digest:sha256` does."""
        return self._private.sign(digest, padding.PKCS1v15(), utils.Prehashed(hashes.SHA256()))

    def approval(self, token: bytes) -> e.ApproverSignature:
        return e.ApproverSignature(self.name, self.role, self.sign(token))

    def user(self, **fields: object) -> User:
        made = User(self.name, self.role, "hash", 1, quorum_key=self.public)
        return msgspec.structs.replace(made, **fields)


@cache
def approver(name: str, role: Role = Role.ADMIN) -> Approver:
    """The same person each time: RSA keys are slow to make."""
    return Approver(name, role)


def put_rows(state: State, *puts: Put) -> None:
    state.advance(puts, seq=state.seq, head=state.head, at=state.at)


def register(state: State, *people: Approver) -> None:
    puts = (Put(Table.USERS, user_row(p.role, p.name), p.user()) for p in people)
    put_rows(state, *puts)


def data(state: State, who: Approver, service: Service, ref: int = 0, words: str = "") -> bytes:
    nonces = tuple(bytes([state.seq % 256, i]) * 8 for i in range(len(state.members())))
    return ApprovalData(service, ref, who.name, state.at // 1000, words, nonces, state.seq).pack()


def approval(approval_data: bytes, *people: Approver) -> e.Approval:
    token = token_of(approval_data)
    return e.Approval(token, tuple(p.approval(token) for p in people))
