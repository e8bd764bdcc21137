"""What a thief has who owns the control plane: its database, the appliance user's channel to
every agent, HSM directories of his own, and keys and a cluster of his own making in plain Python.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.keywrap import (
    aes_key_unwrap_with_padding,
    aes_key_wrap_with_padding,
)
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from orchestrator.agent.passwords import hash_password
from orchestrator.client.connection import RpcConnection, expect
from orchestrator.lab import demo
from orchestrator.lab.lab import sign_csr
from orchestrator.model import entries as e
from orchestrator.model.errors import OrchestratorError
from orchestrator.model.ids import new_id
from orchestrator.model.keys import Key
from orchestrator.model.roles import Role
from orchestrator.model.signatures import digest_of, public_bytes
from orchestrator.model.state import (
    ONLY,
    Host,
    MemberRow,
    Meta,
    Phase,
    Row,
    Secrets,
    State,
    StoredRow,
    Table,
    User,
    key_row,
    user_row,
)
from orchestrator.sealed.box import seal_box
from orchestrator.sealed.snapshot import FORMAT_VERSION, Manifest, seal_snapshot
from orchestrator.wire import messages as m

PASSWORD = b"thief-password"
THIEF_HOST = "host-thief"


def code_of(action: Callable[[], object]) -> str:
    """Return the code that an action is refused with."""
    with pytest.raises(OrchestratorError) as caught:
        action()
    return caught.value.code


def socket_of(job: demo.Demo, hsm: str) -> Path:
    """Return where an HSM listens, a member or not."""
    [found] = (job.home / "lab" / "hosts").glob(f"*/hsms/{hsm}")
    return found / "agent.sock"


def ask(job: demo.Demo, hsm: str, request: m.Request) -> m.Reply:
    """Ask an HSM as the appliance user."""
    connection = RpcConnection(socket_of(job, hsm))
    try:
        return connection.call(request, 20)
    finally:
        connection.close()


def ask_for(job: demo.Demo, hsm: str, request: m.Request, kind: type[Any]) -> Any:
    """Ask, and want this kind of answer."""
    return expect(ask(job, hsm, request), kind)


def members(job: demo.Demo) -> list[str]:
    """Return the cluster's HSMs, the one on host-1a first."""
    return [hsm.hsm_id for hsm in job.plane.hsms(job.cluster)]


def challenge(job: demo.Demo, donor: str) -> bytes:
    """Return a member's fresh challenge."""
    return bytes(ask_for(job, donor, m.JoinChallenge(), m.Data).data)


def new_hsm(job: demo.Demo, host: str) -> str:
    """Make an empty HSM on a host, as whoever runs the control plane may."""
    hsm = new_id("hsm", os.urandom)
    job.plane.infrastructure.create_hsm(host, hsm, "hsm2m.medium")
    return hsm


def is_empty(job: demo.Demo, hsm: str) -> bool:
    """Tell whether an HSM's token has no masking key and its state no entry."""
    try:
        ask(job, hsm, m.RecoverStart())
    except OrchestratorError as exc:
        if exc.code == "not-empty":
            return False
        raise
    return True


def refusal(job: demo.Demo, hsm: str, request: m.Request) -> str:
    """Return the code that an HSM refuses a request with."""
    return code_of(lambda: ask(job, hsm, request))


def last_audit(job: demo.Demo, hsm: str) -> tuple[str, str, str]:
    """Return event, subject and outcome of an HSM's last audit line."""
    count = ask_for(job, hsm, m.ReadAudit(b"", 0, 1), m.AuditPage).count
    [record] = ask_for(job, hsm, m.ReadAudit(b"", count - 1, 1), m.AuditPage).records
    line = e.decode(m.AuditRecord, record, "audit line")
    return line.event, line.subject, line.outcome


def point_of(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


def sign_ecdsa(key: ec.EllipticCurvePrivateKey, digest: bytes) -> bytes:
    """Sign as tokens do: r || s."""
    r, s = utils.decode_dss_signature(key.sign(digest, ec.ECDSA(utils.Prehashed(hashes.SHA256()))))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def _p256() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@dataclass
class FalseHsm:
    """An HSM of the thief's own, its private keys in his hands."""

    host: str = THIEF_HOST
    hsm: str = field(default_factory=lambda: new_id("hsm", os.urandom))
    host_key: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)
    identity: ec.EllipticCurvePrivateKey = field(default_factory=_p256)
    box: ec.EllipticCurvePrivateKey = field(default_factory=_p256)
    transport: ec.EllipticCurvePrivateKey = field(
        default_factory=lambda: ec.generate_private_key(ec.SECP384R1())
    )

    @property
    def host_public(self) -> bytes:
        return self.host_key.public_key().public_bytes_raw()

    @property
    def identity_public(self) -> bytes:
        return self.identity.public_key().public_bytes(
            Encoding.DER, PublicFormat.SubjectPublicKeyInfo
        )

    def request(self, cluster: str, nonce: bytes) -> e.JoinRequest:
        """Return a join request of this HSM."""
        return e.JoinRequest(
            cluster, self.hsm, self.host, "lab-1b", self.identity_public,
            point_of(self.box), point_of(self.transport), nonce,
        )  # fmt: skip

    def sign(self, request: e.JoinRequest) -> e.SignedJoinRequest:
        """Sign a request with the thief's host key and identity."""
        data = e.encode(request)
        return e.SignedJoinRequest(
            data,
            self.host_key.sign(digest_of("join-host", data)),
            sign_ecdsa(self.identity, digest_of("join", data)),
        )

    def member(self, cluster: str) -> e.Member:
        return e.Member(
            cluster, self.hsm, self.host, "lab-1b", self.identity_public, point_of(self.box)
        )

    def open_transport(self, grant: m.SignedGrant) -> bytes:
        """Return the key that a grant carries to this HSM."""
        body = e.decode(m.Grant, grant.grant, "grant")
        peer = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP384R1(), body.point)
        kek = self.transport.exchange(ec.ECDH(), peer)[-32:]
        return aes_key_unwrap_with_padding(kek, body.wrapped)


class FalseCluster:
    """A cluster of the thief's own under a real one's id: CA, cluster key and HSM in Python."""

    def __init__(self, directory: Path, cluster: str) -> None:
        self.cluster, self.hsm = cluster, FalseHsm()
        self.key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.masking_key = secrets.token_bytes(32)
        csr = (
            x509.CertificateSigningRequestBuilder()
            .subject_name(x509.Name([]))
            .sign(self.key, hashes.SHA256())
        )
        directory.mkdir()
        signed = sign_csr(directory, csr.public_bytes(Encoding.PEM))
        certificate, anchor = (x509.load_pem_x509_certificate(p.read_bytes()) for p in signed)
        self.certificate = certificate.public_bytes(Encoding.DER)
        self.anchor = anchor.public_bytes(Encoding.DER)
        self.public = public_bytes(certificate)
        self.credential = self.certify(self.hsm.member(cluster))

    def certify(self, member: e.Member) -> e.Credential:
        """Vouch for a member with the false cluster's key."""
        data = e.encode(member)
        digest = utils.Prehashed(hashes.SHA256())
        return e.Credential(
            data, self.key.sign(digest_of("credential", data), padding.PKCS1v15(), digest)
        )

    def meta(self, **fields: object) -> Meta:
        """Return a row that says what the thief wants it to say."""
        meta = Meta(
            cluster=self.cluster,
            hsm_type="hsm2m.medium",
            mode="FIPS",
            phase=Phase.ACTIVE,
            limits=e.Limits(100, 100, 100),
            csr=b"",
            cluster_public=self.public,
            certificate_key=b"",
            certificate=self.certificate,
            trust_anchor=self.anchor,
        )
        return msgspec.structs.replace(meta, **fields)

    def state(
        self,
        meta: Meta,
        place: m.Welcome,
        *,
        keys: tuple[Key, ...] = (),
        hosts: tuple[m.HostView, ...] = (),
        others: tuple[MemberRow, ...] = (),
    ) -> State:
        """Return a state at a real place, in which the thief is admin and crypto user."""
        hashed = hash_password(PASSWORD)
        rows: list[tuple[Table, str, Row]] = [
            (Table.META, ONLY, meta),
            (Table.SECRETS, ONLY, Secrets(1, secrets.token_bytes(32), secrets.token_bytes(32))),
            (
                Table.MEMBERS,
                self.hsm.hsm,
                MemberRow(self.hsm.member(self.cluster), self.credential),
            ),
        ]
        for role, name in ((Role.ADMIN, "admin"), (Role.CRYPTO_USER, "cu1")):
            rows.append((Table.USERS, user_row(role, name), User(name, role, hashed, 1)))
        rows += [(Table.MEMBERS, row.member.hsm, row) for row in others]
        rows += [(Table.HOSTS, host.name, Host(host.name, host.key)) for host in hosts]
        rows += [(Table.KEYS, key_row(key.ref), key) for key in keys]
        stored = [StoredRow(table, name, e.encode(row)) for table, name, row in rows]
        return State.build(stored, seq=place.seq, head=place.head, at=place.at)[0]

    def snapshot(
        self, state: State, purpose: str, name: str, recipient: bytes, **fields: object
    ) -> bytes:
        """Seal a state as an HSM would; `fields` replace those of the manifest."""
        draft = Manifest(
            version=FORMAT_VERSION,
            purpose=purpose,
            id=name,
            cluster=self.cluster,
            hsm_type="hsm2m.medium",
            mode="FIPS",
            seq=state.seq,
            head=state.head,
            created_at=state.at,
            digest=b"",
            counts=(),
            author=self.hsm.hsm,
            credential=self.credential,
            cluster_public=self.public,
            certificate=self.certificate,
            trust_anchor=self.anchor,
            backup_key=b"",
            backup_public=b"",
            wrapped_ebk=b"",
            body_hash=b"",
            envelope=None,
            recovery_threshold=0,
            recovery_shares=0,
        )
        draft = msgspec.structs.replace(draft, **fields)
        return seal_snapshot(
            state,
            draft,
            recipient,
            secrets.token_bytes(32),
            lambda digest: sign_ecdsa(self.hsm.identity, digest),
        )

    def grant(self, join: e.SignedJoinRequest, snapshot: bytes) -> m.SignedGrant:
        """Answer a join request with a masking key that the thief knows."""
        request = e.decode(e.JoinRequest, join.request, "join request")
        ephemeral = ec.generate_private_key(ec.SECP384R1())
        peer = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP384R1(), request.transport)
        wrapped = aes_key_wrap_with_padding(
            ephemeral.exchange(ec.ECDH(), peer)[-32:], self.masking_key
        )
        grant = e.encode(
            m.Grant(
                hashlib.sha256(join.request).digest(),
                point_of(ephemeral),
                wrapped,
                hashlib.sha256(snapshot).digest(),
            )
        )
        signature = sign_ecdsa(self.hsm.identity, digest_of("join-grant", grant))
        return m.SignedGrant(
            grant, signature, self.cluster, self.credential, self.certificate, self.anchor
        )


class Caller:
    """One connection of the thief's, over which he also logs in."""

    def __init__(self, job: demo.Demo, hsm: str) -> None:
        self._connection = RpcConnection(socket_of(job, hsm))

    def call(self, request: m.Request) -> m.Reply:
        return self._connection.call(request, 20)

    def outcome(self, request: m.Request) -> str:
        """Return the code of a refusal, empty when there was none."""
        try:
            self.call(request)
        except OrchestratorError as exc:
            return exc.code
        return ""

    def sealed(self, purpose: str, role: Role, name: str, password: bytes) -> bytes:
        """Seal a password to whoever answers: a thief asks for no certificate."""
        welcome = expect(self.call(m.Hello()), m.Welcome)
        info = m.password_info(purpose, welcome.hsm, welcome.nonce, role, name)
        return seal_box(welcome.box, password, info)

    def login(self, role: Role, name: str, password: bytes) -> bytes:
        request = m.Login(name, role, self.sealed("login", role, name, password))
        return expect(self.call(request), m.Ticket).ticket

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()
