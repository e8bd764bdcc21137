"""The HSM's state and the only ways to move it: sign an entry, apply an entry.

Invariants: one entry is applied at a time, after everything about it was verified; the disk has
it before memory, and memory before the answer; an entry for a place that is filled already is
either the very same one or a fork, which is refused.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from orchestrator.agent.loaded_keys import LoadedKeys
from orchestrator.agent.vault import Vault
from orchestrator.model import entries as e
from orchestrator.model.clock import Clock
from orchestrator.model.decisions import decide
from orchestrator.model.errors import ForkedError, RefusedError, TamperedError
from orchestrator.model.guards import guard_of
from orchestrator.model.keys import Key
from orchestrator.model.profile import FirmwareProfile
from orchestrator.model.quorum import token_of
from orchestrator.model.roles import Role
from orchestrator.model.signatures import check_credential, check_ecdsa, digest_of, low_s
from orchestrator.model.state import ONLY, Phase, Put, Secrets, State, Table
from orchestrator.model.steps import OnStep, Step, no_step
from orchestrator.sealed.box import open_box, seal_box
from orchestrator.tokens.store import TokenStore
from orchestrator.wire.messages import AuditRecord, box_info

CLOCK_SLACK_MS = 60_000
_Body = tuple[e.Change, e.Approval | None]


@dataclass(frozen=True, slots=True)
class HsmConfig:
    """Who this HSM is and where it stands."""

    hsm: str
    host: str
    zone: str


@dataclass(slots=True, eq=False)
class Peer:
    """One connection as the HSM sees it: the kernel's uid, its nonce, its session keys."""

    uid: int
    is_enrolled: bool
    nonce: bytes
    session_keys: dict[int, tuple[Key, str]] = field(default_factory=dict)


class Caller(msgspec.Struct, frozen=True):  # made for every request; a dataclass is slower
    """Who asks: a logged-in user, the appliance user of an enrolled channel, or nobody."""

    role: Role
    name: str
    login: str
    peer: Peer
    has_factor: bool = False
    is_lent: bool = False

    @property
    def actor(self) -> e.Actor:
        """The caller as entries name it."""
        return e.Actor(self.name, self.role)


class Core:
    """State n of this HSM, and the step to n+1."""

    def __init__(  # the collaborators of an HSM, each given once
        self,
        config: HsmConfig,
        profile: FirmwareProfile,
        store: TokenStore,
        vault: Vault,
        clock: Clock,
        host_key: Ed25519PrivateKey,
        on_step: OnStep = no_step,
    ) -> None:
        self.config, self.profile, self.clock = config, profile, clock
        self.store, self.vault, self.on_step = store, vault, on_step
        self.host_sign = host_key.sign
        self.host_public = host_key.public_key().public_bytes_raw()
        self.loaded = LoadedKeys(store)
        self.lock = threading.RLock()
        self.state = vault.load()
        self.restore_base: State | None = None
        self.on_applied: list[Callable[[e.Change], None]] = []

    @property
    def is_removed(self) -> bool:
        """The cluster has ended this HSM's membership."""
        state = self.state
        return state.seq > 0 and bool(state.tables[Table.META]) and (
            self.config.hsm not in state.tables[Table.MEMBERS]
        )  # fmt: skip

    def line(self, event: str, actor: str, subject: str, outcome: str) -> AuditRecord:
        """Return an audit line; the vault numbers and chains it."""
        return AuditRecord(0, self.clock.now_ms(), event, actor, subject, outcome, b"")

    # --- preparing ---

    def sign_entry(  # the parts of one entry
        self,
        change: e.Change,
        request: str,
        secrets: Secrets | None,
        cluster: str,
        approval: e.Approval | None = None,
    ) -> e.Entry:
        """Check a change against state n and sign its header for n+1. Nothing changes.

        Raises:
            RefusedError: a rule forbids it, or this HSM's clock is behind the ledger's.
        """
        with self.lock:
            state = self._base_for(change)
            now = self.clock.now_ms()
            if state.at > now + CLOCK_SLACK_MS:
                raise RefusedError(
                    "clock-skew",
                    f"the clock of {self.config.hsm} is {(state.at - now) / 1000:.0f} s behind the "
                    "ledger; set it",
                )
            kind = e.kind_of(change)
            if guard_of(state, change) is None:
                approval = None  # nobody needs to approve: a token that was given stays unspent
            body = e.encode_body(change, approval)
            if not isinstance(change, e.CLEAR_CHANGES):
                body = self._seal_body(body, state.secrets, cluster, kind, request)
            header = e.Header(
                version=e.FORMAT_VERSION,
                cluster=cluster,
                seq=state.seq + 1,
                prev=state.head,
                at=max(now, state.at),
                kind=kind,
                request=request,
                author=self.config.hsm,
                body_hash=hashlib.sha256(body).digest(),
            )
            decide(state, header, change, secrets, approval)
            signed = e.encode(header)
            signature = low_s(self.store.identity_sign(digest_of("entry", signed)))
            entry = e.Entry(signed, signature, body)
            self.on_step(Step.PREPARE_SIGNED)
            return entry

    def _base_for(self, change: e.Change) -> State:
        """A restore goes on from the backup's state, which is not this HSM's yet."""
        if isinstance(change, e.ClusterRestored) and self.state.seq == 0:
            if self.restore_base is None:
                raise RefusedError("no-backup", "upload the backup again, then repeat the restore")
            return self.restore_base
        return self.state

    def _seal_body(
        self, plain: bytes, secrets: Secrets, cluster: str, kind: str, request: str
    ) -> bytes:
        nonce = self.store.random(12)
        return nonce + AESGCM(secrets.seal_key).encrypt(nonce, plain, _aad(cluster, kind, request))

    def new_secrets(self, epoch: int) -> Secrets:
        """Draw the secrets of an epoch."""
        return Secrets(epoch, self.store.random(32), self.store.random(32))

    def rekey(self, secrets: Secrets, cluster: str, members: list[e.Member]) -> e.Rekey:
        """Box secrets for each member."""
        plain, info = e.encode(secrets), box_info(secrets.epoch, cluster)
        boxes = tuple((m.hsm, seal_box(m.box, plain, info)) for m in members)
        return e.Rekey(secrets.epoch, boxes)

    # --- applying ---

    def apply(self, entries: tuple[e.Entry, ...]) -> None:
        """Apply entries in order; those already held are passed over, a gap ends the work.

        Raises:
            ForkedError: another entry for a place that is filled, or another predecessor.
            TamperedError: an entry does not verify; this HSM stays where it is.
        """
        for entry in entries:
            with self.lock:
                header = entry.parse_header()
                if header.seq <= self.state.seq:
                    self._check_same(entry, header)
                    continue
                if not self._apply_one(entry, header):
                    return

    def _check_same(self, entry: e.Entry, header: e.Header) -> None:
        held = self.vault.entry_hash(header.seq)
        if header.seq == self.state.seq:
            held = self.state.head
        if held is not None and held != entry.hash:
            raise ForkedError(
                f"{self.config.hsm} holds another entry at {header.seq}; see `cloister cluster "
                "verify` and `cloister cluster adopt`"
            )

    def _apply_one(self, entry: e.Entry, header: e.Header) -> bool:
        (change, approval), state = self._verify(entry, header)
        if state is None:
            return False
        secrets = self._own_secrets(change, header.cluster)
        puts = decide(state, header, change, secrets, approval)
        self.on_step(Step.APPLY_VERIFIED)
        after = State(header.seq, entry.hash, header.at, state.total_after(puts))
        subject = f"{_subject_of(change, puts)}{_approved_by(approval)}"
        line = self.line(header.kind, _actor_of(change), subject, "done")
        base = state if state is not self.state else None  # a restored cluster's first entry
        self.vault.commit(entry, header.request, puts, after, line, base)
        self.on_step(Step.APPLY_STORED)
        state.advance(puts, seq=after.seq, head=after.head, at=after.at)
        self.state, self.restore_base = state, None
        self._forget(puts)
        for listener in self.on_applied:
            listener(change)
        return True

    def _verify(self, entry: e.Entry, header: e.Header) -> tuple[_Body, State | None]:
        """Verify chain, author, signature and body; the state is None when there is a gap."""
        change_is_restore = header.kind == "cluster-restored" and self.state.seq == 0
        state = self.restore_base if change_is_restore else self.state
        what = f"entry {header.seq} of {header.cluster}"
        if state is None or header.seq > state.seq + 1:
            return (e.KeyDeleted(e.Actor("", Role.NONE), 0), None), None
        if header.prev != state.head:
            raise ForkedError(f"{what} follows another entry than the one that this HSM holds")
        if hashlib.sha256(entry.body).digest() != header.body_hash:
            raise TamperedError(f"{what}: its body is not the one that was signed")
        if header.at < state.at:
            raise TamperedError(f"{what} is dated before its predecessor")
        first = state.seq == 0 or change_is_restore
        if not first and header.cluster != state.meta.cluster:
            raise TamperedError(f"{what} is of another cluster than {state.meta.cluster}")
        change, approval = self._open_body(entry, header, state)
        if e.kind_of(change) != header.kind:
            raise TamperedError(f"{what}: its body is of another kind than its header says")
        author = self._author(header, change, state)
        if entry.signature != low_s(entry.signature):
            raise TamperedError(f"{what}: its signature is not in the form that HSMs make")
        digest = digest_of("entry", entry.header)
        check_ecdsa(author.identity, digest, entry.signature, f"{what} by {header.author}")
        return (change, approval), state

    def _author(self, header: e.Header, change: e.Change, state: State) -> e.Member:
        if isinstance(change, e.ClusterCreated):
            return check_credential(change.credential, header.cluster, change.cluster_public)
        if isinstance(change, e.ClusterRestored):
            return check_credential(change.credential, header.cluster, state.meta.cluster_public)
        return state.member(header.author)

    def _open_body(self, entry: e.Entry, header: e.Header, state: State) -> _Body:
        if header.kind in e.CLEAR_KINDS:
            return e.decode_body(entry.body)
        aad = _aad(header.cluster, header.kind, header.request)
        try:
            key = AESGCM(state.secrets.seal_key)
            return e.decode_body(key.decrypt(entry.body[:12], entry.body[12:], aad))
        except (InvalidTag, ValueError) as exc:
            raise TamperedError(f"entry {header.seq}: its body fails its seal") from exc

    def open_entry(self, entry: e.Entry) -> e.Change | None:
        """Open a stored entry's body; None when it is erased or was sealed in an earlier epoch."""
        if entry.is_erased:
            return None
        try:
            return self._open_body(entry, entry.parse_header(), self.state)[0]
        except TamperedError:
            return None

    def _own_secrets(self, change: e.Change, cluster: str) -> Secrets | None:
        if not isinstance(change, e.ClusterCreated | e.ClusterRestored | e.HsmRemoved):
            return None
        rekey = change.rekey
        box = dict(rekey.boxes).get(self.config.hsm)
        if box is None:  # this HSM is the one that leaves: it learns so, and no new secret
            return Secrets(rekey.epoch, b"", b"")
        info = box_info(rekey.epoch, cluster)
        plain = open_box(self.store.box_public(), self.store.box_agree, box, info)
        return e.decode(Secrets, plain, "cluster secrets")

    def _forget(self, puts: tuple[Put, ...]) -> None:
        for put in puts:
            if put.table is Table.KEYS:
                self.loaded.drop(int(put.name, 16))

    @property
    def phase(self) -> Phase | None:
        """The cluster's phase, None before this HSM has one."""
        return self.state.meta.phase if self.state.tables[Table.META].get(ONLY) else None


def _aad(cluster: str, kind: str, request: str) -> bytes:
    return f"cloister/1 body {cluster} {kind} {request}".encode()


def _actor_of(change: e.Change) -> str:
    actor = getattr(change, "actor", None)
    return f"{actor.role}/{actor.name}" if isinstance(actor, e.Actor) else ""


def _approved_by(approval: e.Approval | None) -> str:
    """Return who approved, each once, as the audit log names them after the subject."""
    if approval is None:
        return ""
    people = sorted({f"{s.role}/{s.name}" for s in approval.signatures})
    return f" approved by {' '.join(people)}"


def _subject_of(change: e.Change, puts: tuple[Put, ...]) -> str:
    match change:
        case e.Replicated():
            return " ".join(f"{put.table} {put.name}" for put in puts)
        case e.KeysCreated() | e.KeyDeleted():
            return " ".join(f"0x{put.name}" for put in puts if put.table is Table.KEYS)
        case (
            e.UserCreated()
            | e.UserDeleted()
            | e.PasswordChanged()
            | e.UserLocked()
            | e.UserUnlocked()
            | e.UserDisabled()
            | e.UserEnabled()
            | e.MfaChanged()
        ):
            return f"{change.role}/{change.name}"
        case e.ObjectCreated() | e.ObjectEdited() | e.ObjectDeleted():
            return " ".join(f"0x{put.name}" for put in puts if put.table is Table.OBJECTS)
        case e.KeyChanged():
            return f"0x{change.ref:016x} {change.name}"
        case e.KeyShared() | e.KeyUnshared():
            return f"0x{change.ref:016x} {change.user}"
        case e.KeysTransferred():
            return f"{change.name} to {change.to}"
        case e.QuorumValueSet():
            return f"{change.service}={change.value}"
        case e.QuorumTokenIssued():
            return token_of(change.approval_data).hex()
        case e.KeyUseApproved():
            return f"0x{change.ref:016x} {change.operation} {change.request.hex()}"
        case e.LoginTicketIssued():
            return f"{change.login} uid {change.uid}"
        case e.LoginTicketRevoked():
            return change.login
        case e.HostAdmitted() | e.HostExpelled():
            return change.host
        case e.HsmJoined():
            return " ".join(put.name for put in puts if put.table is Table.MEMBERS)
        case e.HsmRemoved():
            return change.hsm
        case _:
            return ""
