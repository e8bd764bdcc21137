"""Keys and users on their way between clones: sealed from HSM to HSM.

Invariant: what passes through the control plane is sealed to one HSM that this one has checked;
the rows inside are those of the ledger, blob and password hash included, and are signed.
"""

from __future__ import annotations

from orchestrator.agent.core import Caller, Core
from orchestrator.agent.making import check_approved
from orchestrator.model import entries as e
from orchestrator.model.errors import NotFoundError, RefusedError, TamperedError
from orchestrator.model.key_decisions import check_owner
from orchestrator.model.replication import open_replica, replica_digest
from orchestrator.model.roles import LOGIN_ROLES, Role, parse_user_name
from orchestrator.model.signatures import check_credential, low_s
from orchestrator.model.state import MemberRow, Table
from orchestrator.sealed.box import open_box, seal_box
from orchestrator.wire import messages as m


class Replicating:
    """Gives keys and users to clones, and takes them."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def seal_key(self, asked: m.SealKey, caller: Caller) -> m.Data:
        """Seal a key to an HSM of a clone: one's own, or for an admin any that no quorum guards."""
        key = self._core.state.key(asked.ref)
        if caller.role is Role.CRYPTO_USER:
            check_owner(key, caller.name, "replicate")
        elif key.quorum_of("replicate"):
            raise RefusedError(
                "quorum-key",
                f"key 0x{key.ref:016x} has quorum values: its owner replicates it, with approvals",
            )
        check_approved(self._core, "replicate", key, caller, None, asked.cluster.encode())
        subject = f"0x{key.ref:016x}"
        return self._seal(asked, caller, subject, key=e.encode(key))

    def seal_user(self, asked: m.SealUser, caller: Caller) -> m.Data:
        """Seal a user to an HSM of a clone."""
        if asked.role not in LOGIN_ROLES:
            raise RefusedError("role-rule", f"no {asked.role} is replicated")
        user = self._core.state.user(asked.role, parse_user_name(asked.name))
        return self._seal(asked, caller, f"{user.role}/{user.name}", user=e.encode(user))

    def _seal(
        self,
        asked: m.SealKey | m.SealUser,
        caller: Caller,
        subject: str,
        *,
        key: bytes = b"",
        user: bytes = b"",
    ) -> m.Data:
        core, meta, cluster = self._core, self._core.state.meta, asked.cluster
        if cluster == meta.cluster:
            raise RefusedError("same-cluster", f"{cluster} has it already: name a clone")
        try:
            member = check_credential(asked.credential, cluster, meta.cluster_public)
        except TamperedError as exc:
            raise RefusedError("not-a-clone", f"{cluster} is no clone of {meta.cluster}") from exc
        own = core.state.tables[Table.MEMBERS].get(core.config.hsm)
        if not isinstance(own, MemberRow):
            raise NotFoundError("member HSM", core.config.hsm)
        now = core.clock.now_ms()
        replica = e.encode(
            e.Replica(meta.cluster, core.config.hsm, cluster, member.hsm, now, key, user)
        )
        signature = low_s(core.store.identity_sign(replica_digest(replica)))
        signed = e.encode(e.SignedReplica(replica, signature, own.credential))
        sealed = seal_box(member.box, signed, m.replica_info(meta.cluster, cluster, member.hsm))
        who = f"{caller.role}/{caller.name}"
        core.vault.audit(core.line("replica-sealed", who, f"{subject} to {cluster}", "done"))
        return m.Data(sealed)

    def take(self, asked: m.TakeReplica, caller: Caller) -> e.Replicated:
        """Open what an HSM of a clone has sealed to this one; the entry carries its signature."""
        core = self._core
        info = m.replica_info(asked.source, core.state.meta.cluster, core.config.hsm)
        plain = open_box(core.store.box_public(), core.store.box_agree, asked.sealed, info)
        signed = e.decode(e.SignedReplica, plain, "replica")
        replica = open_replica(core.state, signed)
        if bool(replica.user) is not asked.of_user:  # authority was checked for this
            raise TamperedError("this replica holds something else than was asked for")
        return e.Replicated(caller.actor, signed)
