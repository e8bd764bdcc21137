"""How a masking key and a state reach an HSM: joining, cloning, recovery, backups.

Invariants: a member hands the masking key only to an HSM on a host that an admin admitted,
whose request answers a fresh challenge of this member and is signed by host and HSM; the
joiner's token has it durably before the joiner signs its receipt, which names the key of the
cluster that granted it; a snapshot is opened by its recipient's token alone, and its digest is
compared before anything is stored.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from typing import Final

import msgspec

from orchestrator.agent.cluster_changes import BACKUP_KEY, ClusterChanges
from orchestrator.agent.core import Core
from orchestrator.model import entries as e
from orchestrator.model.cluster_decisions import check_join, receipt_digest
from orchestrator.model.errors import (
    NotFoundError,
    OrchestratorError,
    RefusedError,
    TamperedError,
    UsageError,
)
from orchestrator.model.key_spec import Usage
from orchestrator.model.rules import need_active
from orchestrator.model.signatures import (
    check_credential,
    check_ecdsa,
    digest_of,
    load_certificate,
    public_bytes,
)
from orchestrator.model.state import State, Table
from orchestrator.model.steps import Step
from orchestrator.sealed.snapshot import (
    FORMAT_VERSION,
    SNAPSHOT_BYTES_MAX,
    Manifest,
    Snapshot,
    open_snapshot,
    parse_snapshot,
    seal_snapshot,
    verify_snapshot,
)
from orchestrator.tokens.store import Transport
from orchestrator.wire import messages as m

_CHALLENGES_KEPT: Final = 64
_CHALLENGE_LIFE_S: Final = 60.0
_BLOBS_KEPT: Final = 2
_REASON_CHARACTERS: Final = 64


class Joining:
    """The HSM's part in moving masking keys and states."""

    def __init__(self, core: Core, cluster_changes: ClusterChanges) -> None:
        self._core, self._cluster_changes = core, cluster_changes
        self._challenges: OrderedDict[bytes, float] = OrderedDict()
        self._blobs: OrderedDict[str, bytearray | bytes] = OrderedDict()
        self._asked: bytes = b""

    # --- blobs: what is larger than a frame ---

    def upload(self, piece: m.Upload) -> m.Reply:
        """Take a piece of a blob; pieces come in order."""
        if not 0 < piece.total <= SNAPSHOT_BYTES_MAX:
            raise UsageError(f"a blob has 1 to {SNAPSHOT_BYTES_MAX} bytes")
        if piece.offset == 0:
            self._keep(piece.blob, bytearray())
        blob = self._blobs.get(piece.blob)
        if not isinstance(blob, bytearray) or piece.offset != len(blob):
            raise UsageError("pieces of a blob come in order; begin again at 0")
        if len(blob) + len(piece.data) > piece.total:
            raise UsageError("a blob's pieces exceed its announced size")
        blob += piece.data
        if len(blob) == piece.total:
            self._blobs[piece.blob] = bytes(blob)
        return m.BlobReady(piece.blob, len(blob))

    def download(self, asked: m.Download) -> m.Data:
        """Give a piece of a blob."""
        return m.Data(self._blob(asked.blob)[asked.offset : asked.offset + m.BLOB_PIECE_BYTES])

    def _keep(self, name: str, blob: bytearray | bytes) -> None:
        self._blobs.pop(name, None)
        self._blobs[name] = blob
        while len(self._blobs) > _BLOBS_KEPT:
            self._blobs.popitem(last=False)

    def _blob(self, name: str) -> bytes:
        blob = self._blobs.get(name)
        if not isinstance(blob, bytes):
            raise NotFoundError("blob", name, "upload it whole first")
        return blob

    # --- member's side ---

    def challenge(self) -> m.Data:
        """Return a nonce that one join request may answer within a minute."""
        nonce = self._core.store.random(32)
        self._challenges[nonce] = self._core.clock.monotonic_s() + _CHALLENGE_LIFE_S
        while len(self._challenges) > _CHALLENGES_KEPT:
            self._challenges.popitem(last=False)
        return m.Data(nonce)

    def grant(self, asked: m.JoinGrant) -> m.Granted:
        """Check a join request; encrypt the masking key, and the state, to the joiner.

        A request for another cluster id is a clone's: it gets the masking key alone, and its
        state from a backup of the family.
        """
        core = self._core
        state = core.state
        need_active(state)
        state.member(core.config.hsm)  # one that was removed grants nothing
        try:
            # 1 the host is admitted, and both signatures are over these very bytes
            request = check_join(state, asked.join)
            # 2 the request is an answer to this member, now: a recorded one is worth nothing
            deadline = self._challenges.pop(request.challenge, None)
            if deadline is None or core.clock.monotonic_s() > deadline:
                raise RefusedError("join-replayed", "the join request answers no open challenge")
        except OrchestratorError as exc:
            core.vault.audit(core.line("join-grant", "", _asking_host(asked.join), exc.code))
            raise
        # 3 only now is the token touched
        transport = core.store.wrap_masking_key(request.transport)
        is_clone = request.cluster != state.meta.cluster
        blob = b""
        if not is_clone:
            with core.lock:
                blob = self._seal("join", request.hsm, request.box)
            self._keep(request.hsm, blob)
        grant = e.encode(
            m.Grant(
                hashlib.sha256(asked.join.request).digest(),
                transport.point,
                transport.wrapped,
                hashlib.sha256(blob).digest(),
            )
        )
        meta = state.meta
        signed = m.SignedGrant(
            grant,
            core.store.identity_sign(digest_of("join-grant", grant)),
            meta.cluster,
            self._own_credential(),
            meta.certificate,
            meta.trust_anchor,
        )
        core.vault.audit(core.line("join-grant", "", f"{request.hsm} on {request.host}", "done"))
        core.on_step(Step.JOIN_GRANTED)
        return m.Granted(signed, "" if is_clone else request.hsm)

    def snapshot(self, asked: m.TakeSnapshot) -> m.BlobReady:
        """Seal the state to the backup key."""
        core = self._core
        need_active(core.state)
        core.state.member(core.config.hsm)
        if len(asked.reason) > _REASON_CHARACTERS or not asked.reason.isprintable():
            raise UsageError(f"a reason has at most {_REASON_CHARACTERS} printable characters")
        with core.lock:
            backup_public = core.state.meta.backup_public
            blob = self._seal("backup", asked.id, backup_public, asked.reason)
        core.on_step(Step.SNAPSHOT_SEALED)
        self._keep(asked.id, blob)
        core.vault.audit(core.line("backup", "", asked.id, "done"))
        return m.BlobReady(asked.id, len(blob))

    def _seal(self, purpose: str, snapshot_id: str, recipient: bytes, reason: str = "") -> bytes:
        core, state = self._core, self._core.state
        meta, envelope = state.meta, None
        if meta.recovery_point and purpose == "backup":
            transport = core.store.wrap_masking_key(meta.recovery_point)
            envelope = e.Envelope(transport.point, transport.wrapped)
        counts = tuple((str(table), len(rows)) for table, rows in state.tables.items())
        draft = Manifest(
            version=FORMAT_VERSION,
            purpose=purpose,
            id=snapshot_id,
            cluster=meta.cluster,
            hsm_type=meta.hsm_type,
            mode=meta.mode,
            seq=state.seq,
            head=state.head,
            created_at=core.clock.now_ms(),
            digest=b"",
            counts=counts,
            author=core.config.hsm,
            credential=self._own_credential(),
            cluster_public=meta.cluster_public,
            certificate=meta.certificate,
            trust_anchor=meta.trust_anchor,
            backup_key=meta.backup_key,
            backup_public=meta.backup_public,
            wrapped_ebk=b"",
            body_hash=b"",
            envelope=envelope,
            recovery_threshold=meta.recovery_threshold,
            recovery_shares=meta.recovery_shares,
            reason=reason,
        )
        ebk = core.store.random(32)
        return seal_snapshot(state, draft, recipient, ebk, core.store.identity_sign)

    def _own_credential(self) -> e.Credential:
        return self._core.state.tables[Table.MEMBERS][self._core.config.hsm].credential  # type: ignore[union-attr]  # rows of MEMBERS are MemberRow

    # --- joiner's side ---

    def start(self, asked: m.JoinStart) -> m.SignedJoin:
        """Ask to join: the request carries a transport key that lives in the token alone."""
        core, config = self._core, self._core.config
        self._need_empty()
        request = e.encode(
            e.JoinRequest(
                cluster=asked.cluster,
                hsm=config.hsm,
                host=config.host,
                zone=config.zone,
                identity=core.store.identity_public(),
                box=core.store.box_public(),
                transport=core.store.transport_open(),
                challenge=asked.challenge,
            )
        )
        self._asked = request
        return m.SignedJoin(
            e.SignedJoinRequest(
                request,
                core.host_sign(digest_of("join-host", request)),
                core.store.identity_sign(digest_of("join", request)),
            )
        )

    def accept(self, asked: m.JoinAccept) -> m.Accepted:
        """Take masking key and state from a member; sign the receipt once both are durable."""
        core = self._core
        self._need_empty()
        grant = self._check_grant(asked.grant)
        snapshot: Snapshot | None = None
        if asked.blob:
            data = self._blob(asked.blob)
            if hashlib.sha256(data).digest() != grant.snapshot:
                raise TamperedError("the snapshot is not the one that the member granted")
            snapshot = parse_snapshot(data)
            verify_snapshot(snapshot, asked.grant.trust_anchor)
            if (snapshot.manifest.purpose, snapshot.manifest.cluster) != (
                "join", asked.grant.cluster
            ):  # fmt: skip
                raise TamperedError("a joiner takes a snapshot that was made for it, and no backup")
        # 1 the masking key, durable in the token
        core.store.accept_masking_key(Transport(grant.point, grant.wrapped))
        core.on_step(Step.JOIN_MASKING_KEY)
        # 2 the state, durable beside it
        if snapshot is not None:
            state = open_snapshot(snapshot, core.store.box_public(), core.store.box_agree)
            with core.lock:
                line = core.line("join", "", state.meta.cluster, "done")
                core.vault.install(state, line)
                core.state = state
            core.on_step(Step.JOIN_INSTALLED)
        # 3 only then the receipt, for the cluster that granted it
        join = e.SignedJoinRequest(self._asked, b"", b"")
        granting = load_certificate(asked.grant.certificate, "the cluster certificate")
        receipt = core.store.identity_sign(receipt_digest(join, public_bytes(granting)))
        return m.Accepted(receipt, core.state.seq, core.state.digest())

    def _check_grant(self, signed: m.SignedGrant) -> m.Grant:
        certificate = load_certificate(signed.certificate, "the cluster certificate")
        anchor = load_certificate(signed.trust_anchor, "the trust anchor")
        try:
            certificate.verify_directly_issued_by(anchor)
        except Exception as exc:  # whatever the library says, it is no chain
            raise TamperedError("the member's cluster is not under its trust anchor") from exc
        member = check_credential(signed.credential, signed.cluster, public_bytes(certificate))
        digest = digest_of("join-grant", signed.grant)
        check_ecdsa(member.identity, digest, signed.signature, "join grant")
        grant = e.decode(m.Grant, signed.grant, "join grant")
        if not self._asked or hashlib.sha256(self._asked).digest() != grant.request:
            raise TamperedError("the grant answers another request than this HSM made")
        return grant

    def _need_empty(self) -> None:
        core = self._core
        if core.state.seq or core.store.has_masking_key():
            raise RefusedError("not-empty", f"{core.config.hsm} is not empty; zeroize it first")

    # --- recovery and restore ---

    def recover_start(self) -> m.Data:
        """Open a transport key for the recovery key."""
        self._need_empty()
        return m.Data(self._core.store.transport_open())

    def recover_accept(self, asked: m.RecoverAccept) -> m.Done:
        """Take the masking key out of a backup's envelope, inside the token."""
        core = self._core
        self._need_empty()
        core.store.accept_recovered(
            Transport(asked.recovery_key.point, asked.recovery_key.wrapped),
            Transport(asked.envelope.point, asked.envelope.wrapped),
        )
        core.on_step(Step.RECOVER_MASKING_KEY)
        core.vault.audit(core.line("recover", "", "masking key", "done"))
        return m.Done()

    def take_backup(self, blob: str) -> None:
        """Open an uploaded backup and make its state the base of a restore; store nothing."""
        core = self._core
        if core.state.seq:
            raise RefusedError("not-empty", f"{core.config.hsm} belongs to a cluster already")
        snapshot, state = self._open(blob)
        with core.lock:
            core.restore_base = state
            self._cluster_changes.restoring = snapshot

    def check_snapshot(self, asked: m.CheckSnapshot) -> m.SnapshotChecked:
        """Open an uploaded backup, restoring nothing."""
        snapshot, state = self._open(asked.blob)
        return m.SnapshotChecked(state.seq, snapshot.manifest.digest)

    def _open(self, blob: str) -> tuple[Snapshot, State]:
        store = self._core.store
        snapshot = parse_snapshot(self._blob(blob))
        manifest = verify_snapshot(snapshot)
        if manifest.purpose != "backup":
            raise TamperedError("this snapshot was made for one joining HSM, not as a backup")
        handle = store.load(manifest.backup_key, BACKUP_KEY, frozenset({Usage.AGREE}))
        try:
            public = manifest.backup_public
            state = open_snapshot(snapshot, public, lambda peer: store.agree(handle, peer))
        finally:
            store.unload(handle)
        return snapshot, state


def _asking_host(join: e.SignedJoinRequest) -> str:
    try:
        request = msgspec.msgpack.decode(join.request, type=e.JoinRequest)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return "?"
    return f"{request.hsm[:64]} on {request.host[:64]}"
