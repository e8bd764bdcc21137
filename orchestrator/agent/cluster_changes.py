"""The token work of changes to a cluster: its masking key, certificate key and secrets."""

from __future__ import annotations

from typing import Final

from orchestrator.agent.certificate_request import signing_request
from orchestrator.agent.core import Caller, Core
from orchestrator.agent.passwords import new_password
from orchestrator.model import entries as e
from orchestrator.model.errors import RefusedError, UsageError
from orchestrator.model.key_spec import (
    Curve,
    HashFunction,
    KeySpec,
    KeyType,
    SignMechanism,
    SignScheme,
    Usage,
)
from orchestrator.model.roles import Role
from orchestrator.model.signatures import digest_of
from orchestrator.model.state import Phase, Secrets
from orchestrator.model.steps import Step
from orchestrator.sealed.box import POINT_BYTES
from orchestrator.sealed.snapshot import Snapshot
from orchestrator.wire import messages as m

CERTIFICATE_KEY: Final = KeySpec(KeyType.RSA, 2048, None, 65537)
BACKUP_KEY: Final = KeySpec(KeyType.EC, 256, Curve.P256)


class ClusterChanges:
    """Founds a cluster, restores it, certifies who joins and renews secrets when one leaves."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self.restoring: Snapshot | None = None

    def create(self, asked: m.CreateCluster) -> tuple[e.ClusterCreated, Secrets]:
        """Make the masking key and the certificate key of a new cluster."""
        core, profile = self._core, self._core.profile
        if core.state.seq:
            raise RefusedError("exists", f"{core.config.hsm} belongs to a cluster already")
        if asked.mode not in profile.modes:
            raise RefusedError(
                "mode", f"{profile.name} offers mode {' or '.join(profile.modes)}, not {asked.mode}"
            )
        if core.store.has_masking_key():
            # A family's key, say, that came by cloning: a stranger's new cluster must not have it,
            # because its admin could have it handed to any host that he admits.
            raise RefusedError(
                "not-empty", f"{core.config.hsm} holds a masking key already; make the HSM anew"
            )
        core.store.create_masking_key()
        core.on_step(Step.CREATE_MASKING_KEY)
        pair = core.store.generate(CERTIFICATE_KEY)
        cluster = asked.cluster
        csr = signing_request(
            f"Cloister cluster {cluster}",
            core.config.hsm,
            pair.public,
            lambda digest: self._cluster_sign(pair.blob, digest),
        )
        member = self._own_member(cluster)
        secrets = core.new_secrets(1)
        change = e.ClusterCreated(
            hsm_type=profile.name,
            mode=asked.mode,
            limits=self._limits(),
            csr=csr,
            cluster_public=pair.public,
            certificate_key=pair.blob,
            credential=self._credential(member, pair.blob),
            rekey=core.rekey(secrets, cluster, [member]),
        )
        return change, secrets

    def activate(self, asked: m.ActivateCluster, caller: Caller) -> e.ClusterActivated:
        """Make the backup key, and hash the first admin's password."""
        core = self._core
        if core.state.meta.phase is not Phase.INITIALIZED:
            raise RefusedError(
                "not-initialized",
                f"cluster {core.state.meta.cluster} is {core.state.meta.phase}, not INITIALIZED",
            )
        hashed = new_password(core, asked.password, caller, Role.ADMIN, "admin")
        pair = core.store.generate(BACKUP_KEY)
        point = pair.public[-POINT_BYTES:]  # a P-256 SubjectPublicKeyInfo ends with its point
        return e.ClusterActivated(hashed, core.config.host, core.host_public, point, pair.blob)

    def restore(self, asked: m.RestoreCluster) -> tuple[e.ClusterRestored, Secrets]:
        """Go on from the backup that was uploaded."""
        core, snapshot = self._core, self.restoring
        if snapshot is None or core.restore_base is None:
            raise RefusedError("no-backup", "upload a backup first")
        base = core.restore_base
        member = self._own_member(asked.cluster)
        secrets = core.new_secrets(base.secrets.epoch + 1)
        change = e.ClusterRestored(
            source_cluster=base.meta.cluster,
            source_backup=snapshot.manifest.id,
            source_digest=base.digest(),
            credential=self._credential(member, base.meta.certificate_key),
            host_key=core.host_public,
            rekey=core.rekey(secrets, asked.cluster, [member]),
            hsm_type=core.profile.name,
            limits=self._limits(),
        )
        return change, secrets

    def _limits(self) -> e.Limits:
        profile = self._core.profile
        return e.Limits(
            profile.max_users,
            profile.max_keys,
            profile.max_asymmetric_keys,
            profile.max_objects,
        )

    def removal(
        self,
        asked: m.ChangeRequest,
        compromised: bool,  # a field of the entry
    ) -> tuple[e.HsmRemoved, Secrets]:
        """Draw new secrets for those who stay."""
        core = self._core
        if not isinstance(asked, m.RemoveHsm):
            raise UsageError("not a removal")
        state = core.state
        state.member(asked.hsm)
        staying = [member for member in state.members() if member.hsm != asked.hsm]
        secrets = core.new_secrets(state.secrets.epoch + 1)
        rekey = core.rekey(secrets, state.meta.cluster, staying)
        return e.HsmRemoved(asked.hsm, rekey, compromised), secrets

    def _own_member(self, cluster: str) -> e.Member:
        core, config = self._core, self._core.config
        return e.Member(
            cluster,
            config.hsm,
            config.host,
            config.zone,
            core.store.identity_public(),
            core.store.box_public(),
        )

    def certify(self, request: e.JoinRequest, certificate_key: bytes) -> e.Credential:
        """Certify a joiner as a member."""
        member = e.Member(
            request.cluster,
            request.hsm,
            request.host,
            request.zone,
            request.identity,
            request.box,
        )
        return self._credential(member, certificate_key)

    def _credential(self, member: e.Member, certificate_key: bytes) -> e.Credential:
        signed = e.encode(member)
        digest = digest_of("credential", signed)
        return e.Credential(signed, self._cluster_sign(certificate_key, digest))

    def _cluster_sign(self, certificate_key: bytes, digest: bytes) -> bytes:
        store = self._core.store
        handle = store.load(certificate_key, CERTIFICATE_KEY, frozenset({Usage.SIGN}))
        try:
            mechanism = SignMechanism(SignScheme.RSA_PKCS, HashFunction.SHA256)
            return store.sign(handle, mechanism, digest)
        finally:
            store.unload(handle)
