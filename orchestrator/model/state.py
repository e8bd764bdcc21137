"""The state of a cluster after n entries: rows in tables, and their digest.

Invariants: two agents with equal rows, seq and head have equal digests; the digest is kept
incrementally as a sum of row hashes modulo 2^2048 (AdHash, Bellare and Micciancio 1997), so
that a change costs the rows it touches and a recount over all rows must give the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum, unique
from typing import Final

from orchestrator.model.entries import NO_HASH, Credential, Limits, Member, Record, decode, encode
from orchestrator.model.errors import NotFoundError
from orchestrator.model.key_spec import KeyClass
from orchestrator.model.keys import Key
from orchestrator.model.objects import StoredObject
from orchestrator.model.quorum import QuorumPolicy, Token, UseGrant
from orchestrator.model.roles import Role

_MODULUS: Final = 1 << 2048


class Phase(StrEnum):
    """How far the ceremony has come."""

    UNINITIALIZED = "UNINITIALIZED"
    INITIALIZED = "INITIALIZED"
    ACTIVE = "ACTIVE"


class Meta(Record):
    """What a cluster is. Keys of the cluster itself are blobs under the masking key."""

    cluster: str
    hsm_type: str
    mode: str
    phase: Phase
    limits: Limits
    csr: bytes
    cluster_public: bytes
    certificate_key: bytes
    certificate: bytes = b""
    trust_anchor: bytes = b""
    backup_public: bytes = b""
    backup_key: bytes = b""
    recovery_point: bytes = b""
    recovery_threshold: int = 0
    recovery_shares: int = 0
    source_cluster: str = ""
    closed: bool = False


class OldTicketSecret(Record):
    """A ticket secret of an earlier epoch, good for tickets until `until` (Unix ms)."""

    epoch: int
    ticket_secret: bytes
    until: int

    def __repr__(self) -> str:
        return f"OldTicketSecret(epoch={self.epoch})"


class Secrets(Record):
    """Cluster secrets that members hold in their sealed state; replaced at every removal."""

    epoch: int
    seal_key: bytes
    ticket_secret: bytes
    old: tuple[OldTicketSecret, ...] = ()

    def __repr__(self) -> str:
        return f"Secrets(epoch={self.epoch})"


class User(Record):
    """A user; `version` rises with everything that ends logins, `unlocks` with every unlocking.

    `quorum_key` and `mfa_key` are public keys in the form of `ssh_signature.parse_public_key`.
    """

    name: str
    role: Role
    password_hash: str
    version: int
    locked: bool = False
    disabled: bool = False
    unlocks: int = 0
    quorum_key: bytes = b""
    mfa_key: bytes = b""

    @property
    def tries_version(self) -> int:
        """What wrong passwords are counted under: each new password or unlocking starts anew."""
        return self.version + self.unlocks

    def __repr__(self) -> str:
        return f"User({self.role}/{self.name})"


class Host(Record):
    """An admitted host and its Ed25519 public key."""

    name: str
    key: bytes


class MemberRow(Record):
    """A member HSM, and the credential that proves it."""

    member: Member
    credential: Credential


class EndedLogin(Record):
    """A login whose tickets are refused until they could no longer be renewed anyway."""

    until: int


class SpentToken(Record):
    """A quorum token that is gone, until nobody could issue its data again (Unix ms)."""

    until: int


class LoginTicket(Record):
    """A login that a user has given to a Unix user, until `until` (Unix ms)."""

    name: str
    role: Role
    version: int
    uid: int
    until: int


Row = (
    Meta | Secrets | User | Host | MemberRow | Key | EndedLogin | QuorumPolicy | Token | UseGrant
    | LoginTicket | StoredObject | SpentToken
)  # fmt: skip


@unique
class Table(StrEnum):
    """Tables of the state."""

    META = "meta"
    SECRETS = "secrets"
    USERS = "users"
    HOSTS = "hosts"
    MEMBERS = "members"
    KEYS = "keys"
    LOGINS = "logins"
    QUORUM = "quorum"
    TOKENS = "tokens"
    GRANTS = "grants"
    LOGIN_TICKETS = "login-tickets"
    OBJECTS = "objects"
    SPENT = "spent-tokens"


ROW_TYPES: Final[Mapping[Table, type[Row]]] = {
    Table.META: Meta,
    Table.SECRETS: Secrets,
    Table.USERS: User,
    Table.HOSTS: Host,
    Table.MEMBERS: MemberRow,
    Table.KEYS: Key,
    Table.LOGINS: EndedLogin,
    Table.QUORUM: QuorumPolicy,
    Table.TOKENS: Token,
    Table.GRANTS: UseGrant,
    Table.LOGIN_TICKETS: LoginTicket,
    Table.OBJECTS: StoredObject,
    Table.SPENT: SpentToken,
}
ONLY: Final = "only"
"""Row name in tables that hold one row."""


@dataclass(frozen=True, slots=True)
class Put:
    """A row to write; `row` None deletes it."""

    table: Table
    name: str
    row: Row | None


class StoredRow(Record):
    """A row as snapshots carry it."""

    table: Table
    name: str
    data: bytes


def row_number(table: Table, name: str, data: bytes) -> int:
    """Return a row's summand in the digest."""
    lengths = len(name.encode()).to_bytes(4, "big")
    hashed = hashlib.shake_256(table.encode() + b"\0" + lengths + name.encode() + data)
    return int.from_bytes(hashed.digest(256), "big")


def user_row(role: Role, name: str) -> str:
    """Users are addressed by name and role."""
    return f"{role}/{name}"


def key_row(ref: int) -> str:
    """Row name of a key, or of an object: their references share one space of numbers."""
    return f"{ref:016x}"


@dataclass(slots=True)
class State:
    """State n. Readers may look while one writer `advance`s: rows are replaced, never edited.

    `asymmetric_keys` is counted along, because a creation must not cost a look at every key.
    """

    seq: int = 0
    head: bytes = NO_HASH
    at: int = 0
    total: int = 0
    asymmetric_keys: int = 0
    tables: dict[Table, dict[str, Row]] = field(default_factory=lambda: {t: {} for t in Table})

    @property
    def meta(self) -> Meta:
        """The cluster's own row; raises NotFoundError before the first entry."""
        row = self.tables[Table.META].get(ONLY)
        if not isinstance(row, Meta):
            raise NotFoundError("cluster", "on this HSM", "it has not joined one yet")
        return row

    @property
    def secrets(self) -> Secrets:
        """The current epoch's secrets."""
        row = self.tables[Table.SECRETS].get(ONLY)
        if not isinstance(row, Secrets):
            raise NotFoundError("cluster", "on this HSM", "it has not joined one yet")
        return row

    def user(self, role: Role, name: str) -> User:
        """Return a user or raise NotFoundError."""
        row = self.tables[Table.USERS].get(user_row(role, name))
        if not isinstance(row, User):
            raise NotFoundError(str(role), name, "see `cloister user list`")
        return row

    def users(self) -> list[User]:
        """Return all users in the order of their names."""
        rows = self.tables[Table.USERS].copy().values()
        return sorted((r for r in rows if isinstance(r, User)), key=lambda u: (u.name, u.role))

    def key(self, ref: int) -> Key:
        """Return a token key or raise NotFoundError."""
        row = self.tables[Table.KEYS].get(key_row(ref))
        if not isinstance(row, Key):
            raise NotFoundError("key", f"0x{ref:016x}", "see `cloister key list`")
        return row

    def all_keys(self) -> list[Key]:
        """Return all token keys, oldest first."""
        return [r for r in self.tables[Table.KEYS].copy().values() if isinstance(r, Key)]

    @property
    def quorum(self) -> QuorumPolicy:
        """The cluster's quorum values; all off before the first is set."""
        row = self.tables[Table.QUORUM].get(ONLY)
        return row if isinstance(row, QuorumPolicy) else QuorumPolicy()

    def tokens(self) -> dict[bytes, Token]:
        """Return the tokens that wait for their operations."""
        rows = self.tables[Table.TOKENS].copy().items()
        return {bytes.fromhex(name): row for name, row in rows if isinstance(row, Token)}

    def object(self, ref: int) -> StoredObject:
        """Return a certificate or data object, or raise NotFoundError."""
        row = self.tables[Table.OBJECTS].get(key_row(ref))
        if not isinstance(row, StoredObject):
            raise NotFoundError("object", f"0x{ref:016x}")
        return row

    def objects(self) -> list[StoredObject]:
        """Return all certificates and data objects, oldest first."""
        rows = sorted(self.tables[Table.OBJECTS].copy().items())
        return [row for _, row in rows if isinstance(row, StoredObject)]

    def host(self, name: str) -> Host:
        """Return an admitted host or raise NotFoundError."""
        row = self.tables[Table.HOSTS].get(name)
        if not isinstance(row, Host):
            raise NotFoundError(
                "admitted host", name, f"an admin admits it: `cloister host admit {name}`"
            )
        return row

    def member(self, hsm: str) -> Member:
        """Return a member or raise NotFoundError."""
        row = self.tables[Table.MEMBERS].get(hsm)
        if not isinstance(row, MemberRow):
            raise NotFoundError("member HSM", hsm)
        return row.member

    def members(self) -> list[Member]:
        """Return all members by id."""
        rows = sorted(self.tables[Table.MEMBERS].copy().items())
        return [row.member for _, row in rows if isinstance(row, MemberRow)]

    def advance(self, puts: Iterable[Put], *, seq: int, head: bytes, at: int) -> None:
        """Replace rows in memory and count them into the digest; the caller has stored them."""
        self.total = self.total_after(puts)
        for put in puts:
            table = self.tables[put.table]
            self.asymmetric_keys += _asymmetric(put.row) - _asymmetric(table.get(put.name))
            if put.row is None:
                table.pop(put.name, None)
            else:
                table[put.name] = put.row
        self.seq, self.head, self.at = seq, head, at

    def total_after(self, puts: Iterable[Put]) -> int:
        """Return the sum of row hashes as it will be; each row may be named once."""
        total = self.total
        for put in puts:
            if (old := self.tables[put.table].get(put.name)) is not None:
                total -= row_number(put.table, put.name, encode(old))
            if put.row is not None:
                total += row_number(put.table, put.name, encode(put.row))
        return total % _MODULUS

    def rows(self) -> Iterator[StoredRow]:
        """Yield every row in a fixed order."""
        for table in Table:
            for name, row in sorted(self.tables[table].copy().items()):
                yield StoredRow(table, name, encode(row))

    def digest(self) -> bytes:
        """Return the digest of seq, head and all rows."""
        return digest(self.seq, self.head, self.total)

    @classmethod
    def build(
        cls, rows: Iterable[StoredRow], *, seq: int, head: bytes, at: int
    ) -> tuple[State, bytes]:
        """Return the state that stored rows make, and the digest of the rows as they are stored.

        That digest is the state's own, unless earlier software wrote the rows: those are read with
        defaults for what they lack, and counted as this software would write them.
        """
        state, stored_total = cls(seq=seq, head=head, at=at), 0
        for stored in rows:
            row = decode(ROW_TYPES[stored.table], stored.data, f"row of {stored.table}")
            state.tables[stored.table][stored.name] = row
            state.asymmetric_keys += _asymmetric(row)
            number = row_number(stored.table, stored.name, stored.data)
            stored_total += number
            if (data := encode(row)) != stored.data:
                number = row_number(stored.table, stored.name, data)
            state.total += number
        state.total %= _MODULUS
        return state, digest(seq, head, stored_total % _MODULUS)


def _asymmetric(row: Row | None) -> int:
    return isinstance(row, Key) and row.key_class is not KeyClass.SECRET


def digest(seq: int, head: bytes, total: int) -> bytes:
    """Return the state digest (32 bytes)."""
    counted = total.to_bytes(256, "big")
    return hashlib.sha256(b"cloister/1 state\0" + seq.to_bytes(8, "big") + head + counted).digest()
