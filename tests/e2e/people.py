"""People with keys of their own, who do everything that needs them: quorums, factors, clones."""

from __future__ import annotations

import hashlib
import os

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa, utils
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from orchestrator.control.membership import Membership
from orchestrator.control.plane import ControlPlane
from orchestrator.control.replication import Replication
from orchestrator.model.key_spec import HashFunction, KeyClass, KeySpec, KeyType, SignMechanism
from orchestrator.model.key_spec import SignScheme as Scheme
from orchestrator.model.roles import Role
from orchestrator.model.services import Service
from orchestrator.sealed.token_files import TokenFile
from orchestrator.wire import messages as m
from tests.e2e.crash_driver import ADMIN, USER

RSA = KeySpec(KeyType.RSA, 2048, None, 65537)
MECHANISM = SignMechanism(Scheme.RSA_PKCS, HashFunction.SHA256)


class Person:
    """Somebody who approves with an RSA-2048 key."""

    def __init__(self, name: str, role: Role) -> None:
        self.name, self.role = name, role
        self._key = rsa.generate_private_key(65537, 2048)

    @property
    def public(self) -> bytes:
        return self._key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    def sign(self, digest: bytes) -> bytes:
        prehashed = utils.Prehashed(hashes.SHA256())
        return self._key.sign(digest, padding.PKCS1v15(), prehashed)

    def approve(self, token: TokenFile) -> TokenFile:
        return token.signed_by(self.name, self.role, self.sign(token.token))

    def register(self, plane: ControlPlane, cluster: str, password: bytes) -> None:
        with plane.login(cluster, self.role, self.name, password) as session:
            quorum = plane.changes(cluster, session).quorum
            quorum.register(self.public, quorum.registration().signed(self.sign))


def govern(plane: ControlPlane, cluster: str) -> tuple[Person, Person]:
    """Live through every kind of change that quorums and factors bring; two admins come of it."""
    admins = (Person("admin", Role.ADMIN), Person("second", Role.ADMIN))
    users = (Person("signer", Role.CRYPTO_USER), Person("witness", Role.CRYPTO_USER))
    with plane.login(cluster, Role.ADMIN, "admin", ADMIN) as session:
        changes = plane.changes(cluster, session)
        changes.create_user("second", Role.ADMIN, ADMIN)
        for user in users:
            changes.create_user(user.name, user.role, USER)
        for admin in admins:
            admin.register(plane, cluster, ADMIN)
        changes.quorum.set_policy(generated_s=700)
        changes.quorum.generate(Service.CLUSTER_DELETE)
        changes.quorum.delete_tokens("user")
        changes.quorum.set_value(Service.CLUSTER_DELETE, 2)
    for user in users:
        user.register(plane, cluster, USER)
    _use_with_approval(plane, cluster, users)
    _lend_a_login(plane, cluster, users[0])
    return admins


def _use_with_approval(plane: ControlPlane, cluster: str, users: tuple[Person, Person]) -> None:
    with plane.login(cluster, Role.CRYPTO_USER, users[0].name, USER) as session:
        changes = plane.changes(cluster, session)
        private = m.KeyDraft(
            KeyClass.PRIVATE, "q", (("sign", "true"),), (users[1].name,), use_quorum=2
        )
        _, keys = changes.generate_keys(RSA, (m.KeyDraft(KeyClass.PUBLIC, "q"), private))
        token = changes.quorum.generate(Service.KEY_USAGE, keys[1].ref)
        for user in users:
            token = user.approve(token)
        digest = hashlib.sha256(b"contract").digest()
        changes.quorum.approve_sign(keys[1].ref, MECHANISM, digest, token)
        session.sign(keys[1].ref, MECHANISM, digest)


def _lend_a_login(plane: ControlPlane, cluster: str, user: Person) -> None:
    with plane.login(cluster, user.role, user.name, USER) as session:
        changes = plane.changes(cluster, session)
        enrolment = changes.factors.enrolment(user.name, user.role).signed(user.sign)
        changes.factors.set(user.name, user.role, USER, user.public, enrolment)
    factor = plane.mfa_challenges(cluster, user.role, user.name).signed(user.sign)
    with plane.login_mfa(cluster, user.role, user.name, USER, factor) as session:
        changes = plane.changes(cluster, session)
        lent = changes.factors.issue_ticket(os.getuid(), 1)
        changes.factors.revoke_ticket(lent.login)


def replicate(plane: ControlPlane, source: str, ref: int, clone: str, name: str) -> None:
    """Give a clone a token key of `name`'s."""
    with (
        plane.login(source, Role.CRYPTO_USER, name, USER) as here,
        plane.login(clone, Role.CRYPTO_USER, name, USER) as there,
    ):
        Replication(here, plane.controller(clone), there).replicate_key(ref)


def close(plane: ControlPlane, cluster: str, admins: tuple[Person, Person]) -> None:
    """End a cluster, as both admins approve."""
    with plane.login(cluster, Role.ADMIN, "admin", ADMIN) as session:
        token = plane.changes(cluster, session).quorum.generate(Service.CLUSTER_DELETE)
        for admin in admins:
            token = admin.approve(token)
        [last] = plane.hsms(cluster)
        Membership(plane).delete(cluster, last.hsm_id, force=True, approval=token)
