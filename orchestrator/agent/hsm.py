"""One pipeline per request: bounds, caller, authority, act.

Invariants: authority is decided before the token is touched; a refusal is a reply; management
events are in the audit log before their answer is.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Final

from orchestrator.agent.core import Caller, Core, Peer
from orchestrator.agent.joining import Joining
from orchestrator.agent.listing import Listing
from orchestrator.agent.logins import Logins
from orchestrator.agent.objects import list_objects
from orchestrator.agent.passwords import PasswordCheck
from orchestrator.agent.preparing import Preparing, operation_of
from orchestrator.agent.using import Using, without_blob
from orchestrator.model import entries as e
from orchestrator.model.errors import (
    BehindError,
    NotFoundError,
    OrchestratorError,
    PermissionDeniedError,
    RefusedError,
    TamperedError,
    UnavailableError,
    UsageError,
)
from orchestrator.model.key_decisions import KEYS_PER_ENTRY
from orchestrator.model.keys import Key
from orchestrator.model.roles import APPLIANCE_NAME, NOT_WHEN_LENT, Operation, Role, require
from orchestrator.model.signatures import digest_of
from orchestrator.model.state import MemberRow, State, Table, key_row
from orchestrator.wire import messages as m

_FRAME_ROOM: Final = 900 * 1024
Handler = Callable[["Hsm", Any, Caller], m.Reply]
"""The request is of the type that the table below lists the handler under."""


class Hsm:
    """An HSM: answers typed requests. Thread-safe."""

    def __init__(self, core: Core) -> None:
        self.core = core
        self.passwords = PasswordCheck(core.config.hsm, core.store, core.vault, core.clock)
        self.preparing = Preparing(core, self.passwords)
        self.joining = Joining(core, self.preparing.cluster_changes)
        self.using = Using(core, self.preparing.making, self.preparing.wrapping)
        self.session_keys = self.preparing.session_keys
        self.logins = Logins(core, self.passwords)
        self.listing = Listing(core, self.passwords)
        core.on_applied.append(self._end_sessions)
        core.on_applied.append(self.passwords.proofs.follow)

    def connect(self, uid: int) -> Peer:
        """Return a new connection's peer. The owner of this process is the enrolled channel."""
        peer = Peer(uid, uid == os.getuid(), self.core.store.random(32))
        self.session_keys.peers.add(peer)
        return peer

    def disconnect(self, peer: Peer) -> None:
        """End a connection: its session keys die."""
        self.session_keys.peers.discard(peer)
        self.session_keys.drop_where(peer, lambda _key, _login: True)

    def _end_sessions(self, change: e.Change) -> None:
        """Session keys end with their login, and with everything that ends it."""
        match change:
            case e.LoginEnded() | e.LoginTicketRevoked():
                ended = change.login
                for peer in list(self.session_keys.peers):
                    self.session_keys.drop_where(peer, lambda _, login: login == ended)
            case e.KeyChanged() if blob := self.core.state.key(change.ref).blob:
                for peer in list(self.session_keys.peers):  # copies of it as it was
                    self.session_keys.drop_where(peer, lambda key, _: key.blob == blob)
            case e.KeyChanged():
                self.session_keys.follow(self.core.state.key(change.ref))
            case e.KeyDeleted() | e.KeysTransferred():
                for peer in list(self.session_keys.peers):
                    self.session_keys.drop_where(peer, lambda key, _: self._is_orphan(key))
            case e.PasswordChanged() | e.UserDeleted() | e.UserDisabled() | e.MfaChanged() if (
                change.role is Role.CRYPTO_USER
            ):
                name = change.name
                for peer in list(self.session_keys.peers):
                    self.session_keys.drop_where(peer, lambda key, _: key.owner == name)
            case _:
                pass

    def _is_orphan(self, key: Key) -> bool:
        """Tell whether this is a copy whose owner has no token key of its value any more."""
        return key.guards.is_copy and not any(
            (each.owner, each.blob, each.public) == (key.owner, key.blob, key.public)
            for each in self.core.state.all_keys()
        )

    def answer(
        self, request: m.Request, peer: Peer, on_judged: Callable[[], None] = lambda: None
    ) -> m.Reply:
        """Answer a request; errors that Cloister raises on purpose become a Refusal.

        `on_judged` is called after caller and authority were judged, before the act.
        """
        try:
            caller = self._caller(request, peer)
            self._authorize(request, caller)
            on_judged()
            return _HANDLERS[type(request)][1](self, request, caller)
        except OrchestratorError as exc:
            return m.refusal_of(exc)

    def _authorize(self, request: m.Request, caller: Caller) -> None:
        """Ask the permission table; a refusal is audited before it is answered."""
        try:
            operation = _operation(request, caller)
            require(_role_for(request, caller, self.core.state), operation)
            if caller.is_lent and operation in NOT_WHEN_LENT:
                raise RefusedError(
                    "second-factor-needed", f"a login ticket may not {operation}; log in"
                )
        except (PermissionDeniedError, RefusedError) as exc:
            who = f"{caller.role}/{caller.name}"
            self.core.vault.audit(self.core.line(type(request).__name__, who, "", exc.code))
            raise

    def _caller(self, request: m.Request, peer: Peer) -> Caller:
        ticket: bytes = getattr(request, "ticket", b"")
        if not ticket or isinstance(request, m.Renew):
            role = Role.APPLIANCE_USER if peer.is_enrolled else Role.NONE
            return Caller(role, APPLIANCE_NAME if peer.is_enrolled else "", "", peer)
        state = self.core.state
        if self.core.is_removed:
            raise UnavailableError(f"{self.core.config.hsm} has left the cluster")
        body = self.logins.check(ticket, peer)
        if (seen := getattr(request, "seen", 0)) > state.seq:
            raise BehindError(state.seq, seen)
        return Caller(body.role, body.name, body.login, peer, body.has_factor, body.ends_at > 0)

    # --- who is there ---

    def hello(self, _: m.Hello, caller: Caller) -> m.Welcome:
        """Introduce this HSM."""
        core, state = self.core, self.core.state
        phase = core.phase
        meta = state.meta if phase else None
        member = state.tables[Table.MEMBERS].get(core.config.hsm)
        return m.Welcome(
            hsm=core.config.hsm,
            host=core.config.host,
            zone=core.config.zone,
            profile=core.profile.name,
            nonce=caller.peer.nonce,
            identity=core.store.identity_public(),
            box=core.store.box_public(),
            cluster=meta.cluster if meta else "",
            mode=meta.mode if meta else "",
            phase=phase,
            seq=state.seq,
            head=state.head,
            credential=member.credential if isinstance(member, MemberRow) else None,
            certificate=meta.certificate if meta else b"",
            csr=meta.csr if meta else b"",
            removed=core.is_removed,
            trouble="",
            at=core.clock.now_ms(),
            erased=core.vault.erased,
        )

    # --- the ledger ---

    def prepare(self, asked: m.Prepare, caller: Caller) -> m.Prepared:
        """Do the token work of a change and sign it for the next place."""
        core = self.core
        if core.is_removed:
            raise RefusedError("removed", f"{core.config.hsm} has left the cluster")
        if isinstance(asked.change, m.RestoreCluster):
            self.joining.take_backup(asked.change.blob)
        try:
            return self.preparing.prepare(asked, caller)
        except OrchestratorError as exc:
            if not isinstance(asked.change, m.LockUser) and not exc.retryable:
                event = type(asked.change).__name__
                core.vault.audit(core.line(event, f"{caller.role}/{caller.name}", "", exc.code))
            raise

    def outcome(self, asked: m.Outcome, _: Caller) -> m.Committed:
        """Tell what a request id that this HSM has applied led to."""
        entry = self.core.vault.entry_by_request(asked.request)
        if entry is None:
            raise NotFoundError("request", asked.request)
        header = entry.parse_header()
        rows = self.core.state.tables[Table.KEYS]
        found = [rows.get(key_row(header.seq << 16 | i)) for i in range(KEYS_PER_ENTRY)]
        keys = [without_blob(key) for key in found if isinstance(key, Key)]
        return m.Committed(header.seq, header.kind, tuple(keys), self._made(entry))

    def _made(self, entry: e.Entry) -> bytes:
        match self.core.open_entry(entry):
            case e.QuorumTokenIssued() as issued:
                return issued.approval_data
            case e.LoginTicketIssued() as issued:
                return issued.login.encode()
            case _:
                return b""

    def apply(self, asked: m.Apply, _: Caller) -> m.Applied:
        """Apply entries that anybody offers; each proves itself."""
        try:
            self.core.apply(asked.entries)
        except OrchestratorError as exc:
            self.core.vault.audit(self.core.line("apply", "", "", exc.code))
            raise
        for entry in asked.entries:
            self.preparing.forget(entry.parse_header().request)
        return m.Applied(self.core.state.seq, self.core.state.head)

    def entries(self, asked: m.Entries, _: Caller) -> m.EntryPage:
        """Give entries, as many as fit a frame."""
        core = self.core
        page = core.vault.entries_after(asked.after, m.ENTRIES_PER_FRAME, _FRAME_ROOM)
        first = core.vault.first_seq()
        return m.EntryPage(core.state.seq if first is None else first - 1, tuple(page))

    def erase_bodies(self, asked: m.EraseBodies, _: Caller) -> m.Applied:
        """Forget what old entries said; their headers, and the chain, stay."""
        core = self.core
        with core.lock:
            if not 0 <= asked.upto <= core.state.seq:
                raise RefusedError("not-there-yet", f"{core.config.hsm} is at {core.state.seq}")
            if asked.upto > core.vault.erased:
                core.vault.erase_bodies(asked.upto)
        return m.Applied(core.state.seq, core.state.head)

    def digest(self, asked: m.Digest, _: Caller) -> m.StateDigest:
        """Tell the state digest; counted again from the stored rows, it must be the same."""
        core = self.core
        with core.lock:
            state = core.state
            if asked.recount and core.vault.load().digest() != state.digest():
                raise TamperedError(f"the stored state of {core.config.hsm} has another digest")
            counts = tuple((str(table), len(rows)) for table, rows in state.tables.items())
            return m.StateDigest(state.seq, state.head, state.digest(), counts)

    def pending(self, _: m.Pending, _caller: Caller) -> m.PendingChanges:
        """Tell which locks this HSM has counted, and which wrong passwords nobody else knows of."""
        state = self.core.state
        if self.core.phase is None or self.core.is_removed:
            return m.PendingChanges(())
        locks = tuple(
            (f"lock-{user.role}-{user.name}-{user.tries_version}", m.LockUser(user.name, user.role))
            for user in self.passwords.tried_users(state)
            if self.passwords.wants_lock(state, user)
        )
        return m.PendingChanges(locks, self.passwords.untold())

    def tell_tries(self, asked: m.TellTries, _: Caller) -> m.Done:
        """Learn what other HSMs have counted, or that they know what this one has."""
        self.passwords.learn(self.core.state, asked.reports)
        self.passwords.told(asked.known)
        return m.Done()

    def read_audit(self, asked: m.ReadAudit, _: Caller) -> m.AuditPage:
        """Give audit lines and the signed head."""
        if not 1 <= asked.limit <= 2000 or asked.start < 0:
            raise UsageError("an audit page has 1 to 2000 lines")
        core = self.core
        lines, head = core.vault.audit_lines(asked.start, asked.limit)
        digest = digest_of("audit-head", head.count.to_bytes(8, "big") + head.hash)
        signature = core.store.identity_sign(digest)
        return m.AuditPage(tuple(lines), head.count, head.hash, signature)

    def zeroize(self, _: m.Zeroize, _caller: Caller) -> m.Done:
        """Destroy all keys of an HSM that has left, or was never a member."""
        core = self.core
        if core.state.seq and not core.is_removed and not core.state.meta.closed:
            raise RefusedError("member", f"{core.config.hsm} is a member: remove it first")
        core.vault.audit(core.line("zeroize", "", core.config.hsm, "done"))
        with core.lock:
            core.store.erase()
        return m.Done()


def _role_for(request: m.Request, caller: Caller, state: State) -> Role:
    """PRECO has no password: on an enrolled channel the first to come acts as it."""
    activates = isinstance(request, m.Prepare) and isinstance(request.change, m.ActivateCluster)
    if activates and caller.role is Role.APPLIANCE_USER and state.seq:
        return Role.UNACTIVATED_ADMIN
    return caller.role


def _operation(request: m.Request, caller: Caller) -> Operation:
    if isinstance(request, m.Prepare):
        return operation_of(request.change, caller)
    return _HANDLERS[type(request)][0]


_HANDLERS: Final[dict[type, tuple[Operation, Handler]]] = {
    m.Hello: (Operation.CLUSTER_INFO, Hsm.hello),
    m.ListUsers: (Operation.LIST_USERS, lambda h, _r, _c: h.listing.users()),
    m.ListMembers: (Operation.CLUSTER_INFO, lambda h, _r, _c: h.listing.members()),
    m.ListQuorum: (Operation.LIST_QUORUM, lambda h, _r, _c: h.listing.quorum()),
    m.ListLoginTickets: (
        Operation.LIST_LOGIN_TICKETS,
        lambda h, _, c: h.listing.login_tickets(c),
    ),
    m.TakeLoginTicket: (Operation.ISSUE_LOGIN_TICKET, lambda h, r, c: h.logins.take_ticket(r, c)),
    m.MfaChallenge: (Operation.LOGIN, lambda h, r, _: h.logins.factors.challenge(r)),
    m.Login: (Operation.LOGIN, lambda h, r, c: h.logins.login(r, c)),
    m.Renew: (Operation.LOGIN, lambda h, r, c: h.logins.renew(r, c)),
    m.Prepare: (Operation.SYNC, Hsm.prepare),  # see operation_of
    m.Outcome: (Operation.SYNC, Hsm.outcome),
    m.Apply: (Operation.SYNC, Hsm.apply),
    m.Entries: (Operation.SYNC, Hsm.entries),
    m.Digest: (Operation.SYNC, Hsm.digest),
    m.EraseBodies: (Operation.SYNC, Hsm.erase_bodies),
    m.TellTries: (Operation.SYNC, Hsm.tell_tries),
    m.Pending: (Operation.SYNC, Hsm.pending),
    m.ReadAudit: (Operation.READ_AUDIT, Hsm.read_audit),
    m.Zeroize: (Operation.ZEROIZE, Hsm.zeroize),
    m.ListKeys: (Operation.LIST_KEYS, lambda h, r, c: h.using.list_keys(r, c)),
    m.Sign: (Operation.SIGN, lambda h, r, c: h.using.sign(r, c)),
    m.Encrypt: (Operation.ENCRYPT, lambda h, r, c: h.using.encrypt(r, c)),
    m.Decrypt: (Operation.DECRYPT, lambda h, r, c: h.using.decrypt(r, c)),
    m.Mac: (Operation.MAC, lambda h, r, c: h.using.mac(r, c)),
    m.VerifyMac: (Operation.VERIFY_MAC, lambda h, r, c: h.using.verify_mac(r, c)),
    m.Random: (Operation.RANDOM, lambda h, r, _: h.using.random(r)),
    m.MakeSessionKeys: (
        Operation.GENERATE_KEY,
        lambda h, r, c: h.using.make_session_keys(r, c),
    ),
    m.DeriveSessionKey: (
        Operation.DERIVE_KEY,
        lambda h, r, c: h.using.derive_session_key(r, c),
    ),
    m.DropSessionKey: (Operation.DELETE_KEY, lambda h, r, c: h.using.drop_session_key(r, c)),
    m.SealKey: (Operation.REPLICATE_KEY, lambda h, r, c: h.preparing.replicating.seal_key(r, c)),
    m.SealUser: (
        Operation.REPLICATE_USER,
        lambda h, r, c: h.preparing.replicating.seal_user(r, c),
    ),
    m.WrapKey: (Operation.WRAP_KEY, lambda h, r, c: h.preparing.wrapping.wrap(r, c)),
    m.UnwrapSessionKey: (
        Operation.UNWRAP_KEY,
        lambda h, r, c: h.using.unwrap_session_key(r, c),
    ),
    m.ImportSessionKey: (
        Operation.IMPORT_CLEAR_KEY,
        lambda h, r, c: h.using.import_session_key(r, c),
    ),
    m.CopySessionKey: (Operation.COPY_KEY, lambda h, r, c: h.using.copy_session_key(r, c)),
    m.ListObjects: (Operation.LIST_OBJECTS, lambda h, r, c: list_objects(h.core, r, c)),
    m.ChangeSessionKey: (Operation.CHANGE_KEY, lambda h, r, c: h.session_keys.change(r, c)),
    m.TakeSnapshot: (Operation.BACKUP, lambda h, r, _: h.joining.snapshot(r)),
    m.CheckSnapshot: (Operation.BACKUP, lambda h, r, _: h.joining.check_snapshot(r)),
    m.Upload: (Operation.JOIN, lambda h, r, _: h.joining.upload(r)),
    m.Download: (Operation.BACKUP, lambda h, r, _: h.joining.download(r)),
    m.JoinChallenge: (Operation.JOIN, lambda h, _r, _c: h.joining.challenge()),
    m.JoinStart: (Operation.JOIN, lambda h, r, _: h.joining.start(r)),
    m.JoinGrant: (Operation.JOIN, lambda h, r, _: h.joining.grant(r)),
    m.JoinAccept: (Operation.JOIN, lambda h, r, _: h.joining.accept(r)),
    m.RecoverStart: (Operation.RESTORE, lambda h, _r, _c: h.joining.recover_start()),
    m.RecoverAccept: (Operation.RESTORE, lambda h, r, _: h.joining.recover_accept(r)),
}
assert frozenset(_HANDLERS) == frozenset(m.Request.__args__)  # noqa: S101  # a new request has a handler
