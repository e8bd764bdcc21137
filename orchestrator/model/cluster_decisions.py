"""What entries about the cluster, its HSMs and their hosts do to state n."""

from __future__ import annotations

import hashlib
from typing import Final

import msgspec

from orchestrator.model import entries as e
from orchestrator.model.errors import RefusedError, TamperedError
from orchestrator.model.roles import APPLIANCE_NAME, Operation, Role, require
from orchestrator.model.rules import authorize, need, need_active
from orchestrator.model.signatures import (
    check_cluster_certificate,
    check_credential,
    check_ecdsa,
    check_ed25519,
    digest_of,
    is_p384_point,
)
from orchestrator.model.state import (
    ONLY,
    Host,
    MemberRow,
    Meta,
    OldTicketSecret,
    Phase,
    Put,
    Secrets,
    State,
    Table,
    User,
    user_row,
)

MEMBERS_MAX: Final = 28
SUCCESSORS: Final = {"hsm1.medium": "hsm2m.medium"}
"""Types of HSM whose backups a newer type takes over."""
_OF_LOGINS: Final = (
    Table.LOGINS,
    Table.TOKENS,
    Table.GRANTS,
    Table.LOGIN_TICKETS,
    Table.SPENT,
)
"""What ends with the logins of the cluster that a backup was made of."""


def _put_meta(state: State, **fields: object) -> Put:
    return Put(Table.META, ONLY, msgspec.structs.replace(state.meta, **fields))


def _checked_secrets(state: State, rekey: e.Rekey, secrets: Secrets | None) -> Secrets:
    if secrets is None or secrets.epoch != rekey.epoch:
        raise TamperedError("this HSM found no box of its own in a rekeying entry")
    if state.tables[Table.SECRETS]:
        need(rekey.epoch == state.secrets.epoch + 1, "epoch", "epochs rise by one")
    return secrets


def cluster_created(
    state: State, header: e.Header, change: e.ClusterCreated, secrets: Secrets | None
) -> tuple[Put, ...]:
    """The first HSM begins a cluster."""
    need(state.seq == 0, "exists", "this HSM already belongs to a cluster")
    member = check_credential(change.credential, header.cluster, change.cluster_public)
    need(member.hsm == header.author, "author", "the first HSM authors the first entry")
    meta = Meta(
        cluster=header.cluster,
        hsm_type=change.hsm_type,
        mode=change.mode,
        phase=Phase.UNINITIALIZED,
        limits=change.limits,
        csr=change.csr,
        cluster_public=change.cluster_public,
        certificate_key=change.certificate_key,
    )
    preco = User("admin", Role.UNACTIVATED_ADMIN, "", 1)
    appliance = User(APPLIANCE_NAME, Role.APPLIANCE_USER, "", 1)
    return (
        Put(Table.META, ONLY, meta),
        Put(Table.SECRETS, ONLY, _checked_secrets(state, change.rekey, secrets)),
        Put(Table.MEMBERS, member.hsm, MemberRow(member, change.credential)),
        Put(Table.USERS, user_row(preco.role, preco.name), preco),
        Put(Table.USERS, user_row(appliance.role, appliance.name), appliance),
    )


def cluster_restored(
    state: State, header: e.Header, change: e.ClusterRestored, secrets: Secrets | None
) -> tuple[Put, ...]:
    """A new cluster goes on from a backup's state."""
    meta = state.meta
    need(meta.phase is Phase.ACTIVE, "not-active", "only an active cluster is restored")
    need(meta.cluster == change.source_cluster, "source", "the backup is of another cluster")
    need(header.cluster != meta.cluster, "source", "a restored cluster has an id of its own")
    if state.digest() != change.source_digest:
        raise TamperedError("the restored state is not the one that the backup names")
    member = check_credential(change.credential, header.cluster, meta.cluster_public)
    need(member.hsm == header.author, "author", "the first HSM authors the first entry")
    _check_host(member.host, change.host_key)
    gone = tuple(Put(Table.MEMBERS, m.hsm, None) for m in state.members() if m.hsm != member.hsm)
    hsm_type, limits = change.hsm_type or meta.hsm_type, change.limits or meta.limits
    check_restorable(meta.hsm_type, hsm_type)
    need(
        len(state.tables[Table.KEYS]) <= limits.keys
        and state.asymmetric_keys <= limits.asymmetric_keys
        and len(state.tables[Table.USERS]) <= limits.users
        and len(state.tables[Table.OBJECTS]) <= limits.objects,
        "limit",
        f"the backup holds more users, keys or objects than a cluster of {hsm_type} may",
    )
    return (
        _put_meta(
            state,
            cluster=header.cluster,
            source_cluster=change.source_cluster,
            closed=False,
            hsm_type=hsm_type,
            limits=limits,
        ),
        Put(Table.SECRETS, ONLY, _checked_secrets(state, change.rekey, secrets)),
        *gone,
        Put(Table.MEMBERS, member.hsm, MemberRow(member, change.credential)),
        Put(Table.HOSTS, member.host, Host(member.host, change.host_key)),
        *(Put(table, name, None) for table in _OF_LOGINS for name in state.tables[table]),
    )


def check_restorable(backup_type: str, hsm_type: str) -> None:
    """Raise RefusedError unless backups of one type of HSM go onto another: forward, never back."""
    if hsm_type not in {backup_type, SUCCESSORS.get(backup_type)}:
        raise RefusedError(
            "hsm-type", f"a backup of {backup_type} cannot be restored to {hsm_type}"
        )


def cluster_initialized(
    state: State, header: e.Header, change: e.ClusterInitialized
) -> tuple[Put, ...]:
    """The customer's CA has signed the cluster's certificate."""
    need(
        state.meta.phase is Phase.UNINITIALIZED,
        "not-uninitialized",
        f"cluster {state.meta.cluster} is already {state.meta.phase}",
    )
    check_cluster_certificate(
        change.certificate, change.trust_anchor, state.meta.cluster_public, header.at
    )
    return (
        _put_meta(
            state,
            phase=Phase.INITIALIZED,
            certificate=change.certificate,
            trust_anchor=change.trust_anchor,
        ),
    )


def cluster_activated(state: State, change: e.ClusterActivated) -> tuple[Put, ...]:
    """PRECO becomes the first admin, and the first host is admitted."""
    need(
        state.meta.phase is Phase.INITIALIZED,
        "not-initialized",
        f"cluster {state.meta.cluster} is {state.meta.phase}, not INITIALIZED",
    )
    require(Role.UNACTIVATED_ADMIN, Operation.ACTIVATE)
    preco = state.user(Role.UNACTIVATED_ADMIN, "admin")
    _check_host(change.host, change.host_key)
    admin = User(preco.name, Role.ADMIN, change.password_hash, preco.version + 1)
    return (
        _put_meta(
            state,
            phase=Phase.ACTIVE,
            backup_public=change.backup_public,
            backup_key=change.backup_key,
        ),
        Put(Table.USERS, user_row(preco.role, preco.name), None),
        Put(Table.USERS, user_row(admin.role, admin.name), admin),
        Put(Table.HOSTS, change.host, Host(change.host, change.host_key)),
    )


def host_admitted(state: State, change: e.HostAdmitted) -> tuple[Put, ...]:
    """Let HSMs on a host join."""
    authorize(state, change.actor, Operation.ADMIT_HOST)
    _check_host(change.host, change.key)
    return (Put(Table.HOSTS, change.host, Host(change.host, change.key)),)


def host_expelled(state: State, change: e.HostExpelled) -> tuple[Put, ...]:
    """Let no further HSM of a host join."""
    authorize(state, change.actor, Operation.EXPEL_HOST)
    state.host(change.host)
    return (Put(Table.HOSTS, change.host, None),)


def _check_host(host: str, key: bytes) -> None:
    need(
        0 < len(host) <= 64 and host.isprintable(),
        "host-rule",
        "a host name has 1 to 64 characters",
    )
    need(len(key) == 32, "host-rule", "a host key is an Ed25519 public key of 32 bytes")


def receipt_digest(join: e.SignedJoinRequest, cluster_public: bytes) -> bytes:
    """Return what a joiner signs once it holds the masking key durably.

    Args:
        join: its request.
        cluster_public: the key of the cluster that granted it. A joiner that was lied to by a
            false member names the false cluster, and is no member of the real one.
    """
    return digest_of("join-receipt", hashlib.sha256(join.request).digest() + cluster_public)


def check_join(state: State, join: e.SignedJoinRequest) -> e.JoinRequest:
    """Check that an admitted host and the HSM itself ask to join; return the request."""
    request = e.decode(e.JoinRequest, join.request, "join request")
    name = request.host
    if name not in state.tables[Table.HOSTS]:
        raise RefusedError(
            "host-not-admitted",
            f"{name} is not admitted; an admin does: `cloister host admit {name}`",
        )
    host_digest = digest_of("join-host", join.request)
    try:
        check_ed25519(state.host(name).key, host_digest, join.host_signature, f"host {name}")
    except TamperedError as exc:
        raise RefusedError(
            "host-key-changed",
            f"{name} signs with another key than the one that was admitted; if the host was made "
            f"anew, an admin admits it again: `cloister host admit {name}`",
        ) from exc
    check_ecdsa(request.identity, digest_of("join", join.request), join.identity_signature,
                f"join request of {request.hsm}")  # fmt: skip
    return request


def hsm_joined(state: State, change: e.HsmJoined) -> tuple[Put, ...]:
    """An HSM on an admitted host becomes a member."""
    need_active(state)
    request = check_join(state, change.join)
    meta = state.meta
    member = check_credential(change.credential, meta.cluster, meta.cluster_public)
    expected = e.Member(
        meta.cluster, request.hsm, request.host, request.zone, request.identity, request.box
    )
    if member != expected or request.cluster != meta.cluster:
        raise TamperedError(f"the credential of {request.hsm} is not for the HSM that asked")
    check_ecdsa(
        member.identity,
        receipt_digest(change.join, meta.cluster_public),
        change.receipt,
        f"receipt of {member.hsm}",
    )
    members = state.tables[Table.MEMBERS]
    need(member.hsm not in members, "exists", f"{member.hsm} is a member already")
    need(len(members) < MEMBERS_MAX, "limit", f"a cluster has at most {MEMBERS_MAX} HSMs")
    return (Put(Table.MEMBERS, member.hsm, MemberRow(member, change.credential)),)


def hsm_removed(
    state: State, header: e.Header, change: e.HsmRemoved, secrets: Secrets | None
) -> tuple[Put, ...]:
    """A member leaves, and those who stay get new secrets."""
    require(Role.APPLIANCE_USER, Operation.REMOVE_HSM)
    state.member(change.hsm)
    staying = {m.hsm for m in state.members()} - {change.hsm}
    need(bool(staying), "last-hsm", f"{change.hsm} is the last HSM of the cluster")
    need(
        {name for name, _ in change.rekey.boxes} == staying,
        "rekey",
        "a removal gives new secrets to exactly those who stay",
    )
    new = _checked_secrets(state, change.rekey, secrets)
    if not change.compromised:
        # Running logins outlive an orderly removal: their tickets are good for a day at most.
        now = state.secrets
        kept = tuple(old for old in now.old if old.until > header.at)
        last = OldTicketSecret(now.epoch, now.ticket_secret, header.at + e.LOGIN_LIFE_MS)
        new = msgspec.structs.replace(new, old=(*kept, last))
    return (
        Put(Table.SECRETS, ONLY, new),
        Put(Table.MEMBERS, change.hsm, None),
    )


def cluster_closed(state: State) -> tuple[Put, ...]:
    """Let the last HSM go, and the cluster with it."""
    need_active(state)
    require(Role.APPLIANCE_USER, Operation.REMOVE_HSM)
    need(len(state.tables[Table.MEMBERS]) == 1, "has-hsms", "delete the other HSMs first")
    return (_put_meta(state, closed=True),)


def recovery_key_set(state: State, change: e.RecoveryKeySet) -> tuple[Put, ...]:
    """Backups carry the masking key encrypted to another recovery key."""
    authorize(state, change.actor, Operation.SET_RECOVERY_KEY)
    need(is_p384_point(change.point), "recovery-rule", "a recovery key is a P-384 point")
    need(
        2 <= change.threshold <= change.shares <= 16,
        "recovery-rule",
        "custodian shares: a threshold from 2 to the number of shares, at most 16",
    )
    return (
        _put_meta(
            state,
            recovery_point=change.point,
            recovery_threshold=change.threshold,
            recovery_shares=change.shares,
        ),
    )
