"""What a client checks before it hands an HSM a password: the chain to the customer's anchor.

Invariant: a password is sealed to a key only after the trust anchor was seen to vouch for the
cluster certificate, the cluster certificate's key for the HSM, and the HSM's credential for
that very key.
"""

from __future__ import annotations

import contextlib

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicNumbers
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from orchestrator.model.entries import Member
from orchestrator.model.errors import TamperedError
from orchestrator.model.key_spec import KeySpec
from orchestrator.model.roles import Role
from orchestrator.model.signatures import (
    check_credential,
    check_rsa,
    load_certificate,
    public_bytes,
)
from orchestrator.sealed.box import seal_box
from orchestrator.wire.messages import KeyDraft, Welcome, clear_key_info, password_info


def check_hsm(welcome: Welcome, cluster: str, trust_anchor: bytes) -> Member:
    """Return the member that `welcome` proves to be, or raise TamperedError."""
    if welcome.credential is None or not welcome.certificate:
        raise TamperedError(f"{welcome.hsm} shows no credential of cluster {cluster}")
    anchor = load_certificate(trust_anchor, "the trust anchor")
    certificate = load_certificate(welcome.certificate, "the cluster certificate")
    try:
        certificate.verify_directly_issued_by(anchor)
    except (InvalidSignature, ValueError, TypeError) as exc:
        raise TamperedError(
            f"{welcome.hsm} is not of a cluster under this trust anchor; no password was sent"
        ) from exc
    member = check_credential(welcome.credential, cluster, public_bytes(certificate))
    if (member.hsm, member.box) != (welcome.hsm, welcome.box):
        raise TamperedError(f"{welcome.hsm} shows the credential of another HSM")
    return member


def rehearse(trust_anchor: bytes) -> None:
    """Have OpenSSL load what checking and sealing take: processes forked later need not.

    Nothing is kept, and nothing that this draws or verifies is used.
    """
    anchor = load_certificate(trust_anchor, "the trust anchor")
    with contextlib.suppress(InvalidSignature, ValueError, TypeError):  # it may be another's
        anchor.verify_directly_issued_by(anchor)
    with contextlib.suppress(TamperedError):  # no signature at all, under no real key
        nobody = RSAPublicNumbers(65537, (1 << 2047) + 1).public_key()
        public = nobody.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        check_rsa(public, bytes(32), bytes(256), "a rehearsal")
    point = ec.generate_private_key(ec.SECP256R1()).public_key()
    seal_box(point.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint), b"", b"")


def seal_password(
    purpose: str, welcome: Welcome, member: Member, role: Role, name: str, password: bytes
) -> bytes:
    """Seal a password to a checked HSM, for one connection and one user."""
    info = password_info(purpose, member.hsm, welcome.nonce, role, name)
    return seal_box(member.box, password, info)


def seal_clear_key(
    welcome: Welcome, member: Member, name: str, spec: KeySpec, draft: KeyDraft, value: bytes
) -> bytes:
    """Seal a key's value to a checked HSM, for one connection, one user and one kind of key."""
    info = clear_key_info(member.hsm, welcome.nonce, name, spec, draft)
    return seal_box(member.box, value, info)
