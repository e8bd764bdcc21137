"""Crypto users of a gateway's cluster who approve, and log in with a second factor."""

from __future__ import annotations

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa, utils
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from orchestrator.client.balancer import Balancer
from orchestrator.client.session import Session
from orchestrator.control.changes import Changes
from orchestrator.model.roles import Role
from orchestrator.sealed.token_files import Possession, PossessionFile, TokenFile
from orchestrator.wire import messages as m
from tests.gateway.cluster import Gateway, OnTheCluster
from tests.stateful.harness import CLUSTER, PASSWORD


class Person:
    """A user of `gateway`'s cluster, with an RSA-2048 key."""

    def __init__(self, gateway: Gateway, name: str, role: Role = Role.CRYPTO_USER) -> None:
        self.gateway, self.name, self.role = gateway, name, role
        self._private = rsa.generate_private_key(65537, 2048)
        self._application = OnTheCluster(gateway)

    @property
    def public(self) -> bytes:
        public = self._private.public_key()
        return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    def sign(self, digest: bytes) -> bytes:
        chosen = utils.Prehashed(hashes.SHA256())
        return self._private.sign(digest, padding.PKCS1v15(), chosen)

    def session(self) -> Session:
        """A session that is not logged in yet."""
        gateway = self.gateway
        clock = gateway.cluster.clock
        balancer = Balancer(CLUSTER, gateway.cluster.anchor, gateway.source, clock)
        return Session(balancer, clock, self.role, self.name)

    def login(self) -> Session:
        return self.session().login(PASSWORD)

    def changes(self, session: Session | None = None) -> Changes:
        return self._application.changes(session or self.login())

    def register(self) -> None:
        changes = self.changes()
        file = changes.quorum.registration()
        changes.quorum.register(self.public, file.signed(self.sign))

    def approve(self, token: TokenFile) -> TokenFile:
        return token.signed_by(self.name, self.role, self.sign(token.token))

    def enrol(self) -> None:
        """Have the key as second factor from now on."""
        changes = self.changes()
        file = changes.factors.enrolment(self.name, self.role).signed(self.sign)
        changes.factors.set(self.name, self.role, PASSWORD, self.public, file)

    def login_mfa(self) -> Session:
        session = self.session()
        asked = tuple(Possession(data) for data in session.mfa_challenges())
        parts = PossessionFile(asked).signed(self.sign).parts
        factors = [m.Factor(part.data.pack(), part.signed) for part in parts]
        return session.login_mfa(PASSWORD, factors)
