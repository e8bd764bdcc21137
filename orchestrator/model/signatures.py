"""Signatures and certificates: each check raises, none returns False.

ECDSA signatures travel as r || s (64 bytes for P-256), as PKCS#11 returns them.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
)

from orchestrator.model.entries import Credential, Member, decode
from orchestrator.model.errors import RefusedError, TamperedError

RSA_BITS_MIN: Final = 2048
_P256_ORDER: Final = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
CERTIFICATE_BYTES_MAX: Final = 20_000
_UNREADABLE: Final = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)


def digest_of(purpose: str, data: bytes) -> bytes:
    """Return the SHA-256 that is signed for `purpose`: no signature serves two purposes."""
    return hashlib.sha256(b"cloister/1 " + purpose.encode() + b"\0" + data).digest()


def check_ecdsa(public: bytes, digest: bytes, signature: bytes, what: str) -> None:
    """Check a P-256 signature (r || s) over a SHA-256 digest; raise TamperedError naming `what`."""
    try:
        key = load_der_public_key(public)
        if not isinstance(key, ec.EllipticCurvePublicKey) or len(signature) != 64:
            raise TamperedError(f"{what}: not a P-256 signature")
        r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
        der = utils.encode_dss_signature(r, s)
        key.verify(der, digest, ec.ECDSA(utils.Prehashed(hashes.SHA256())))
    except (InvalidSignature, ValueError, UnsupportedAlgorithm) as exc:
        raise TamperedError(f"{what}: the signature does not verify") from exc


def check_ed25519(public: bytes, message: bytes, signature: bytes, what: str) -> None:
    """Check a host's Ed25519 signature; raise TamperedError naming `what`."""
    try:
        ed25519.Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError) as exc:
        raise TamperedError(f"{what}: the signature does not verify") from exc


def is_p384_point(point: bytes) -> bool:
    """Tell whether these are the 97 bytes of an uncompressed point on P-384."""
    try:
        ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP384R1(), point)
    except ValueError:
        return False
    return len(point) == 97


def low_s(signature: bytes) -> bytes:
    """Return the one of an ECDSA P-256 signature's two forms whose s is in the lower half.

    Anybody can turn (r, s) into (r, n - s), which verifies too: what is hashed with its signature
    must have one form (as in Bitcoin's BIP 62, rule 5). Bytes whose s is no number below the
    order are returned as they are: no signature, and for `check_ecdsa` to refuse.
    """
    r, s = signature[:32], int.from_bytes(signature[32:], "big")
    if s >= _P256_ORDER:
        return signature
    return r + min(s, _P256_ORDER - s).to_bytes(32, "big")


def check_rsa(public: bytes, digest: bytes, signature: bytes, what: str) -> None:
    """Check an RSA PKCS#1 v1.5 signature over a SHA-256 digest."""
    try:
        key = load_der_public_key(public)
        if not isinstance(key, rsa.RSAPublicKey):
            raise TamperedError(f"{what}: not an RSA signature")
        key.verify(signature, digest, padding.PKCS1v15(), utils.Prehashed(hashes.SHA256()))
    except (InvalidSignature, ValueError, UnsupportedAlgorithm) as exc:
        raise TamperedError(f"{what}: the signature does not verify") from exc


def check_credential(credential: Credential, cluster: str, cluster_public: bytes) -> Member:
    """Return the member that the cluster's certificate key vouches for."""
    digest = digest_of("credential", credential.member)
    check_rsa(cluster_public, digest, credential.signature, "HSM credential")
    member = decode(Member, credential.member, "HSM credential")
    if member.cluster != cluster:
        raise TamperedError(f"HSM credential is for {member.cluster}, not {cluster}")
    return member


def load_certificate(data: bytes, what: str) -> x509.Certificate:
    """Load one certificate from PEM or DER."""
    if len(data) > CERTIFICATE_BYTES_MAX:
        raise RefusedError(
            "certificate-unreadable", f"{what} exceeds {CERTIFICATE_BYTES_MAX} bytes"
        )
    try:
        if b"-----BEGIN" in data:
            certificate = x509.load_pem_x509_certificate(data)
        else:
            certificate = x509.load_der_x509_certificate(data)
        # These are parsed late, and nobody after us expects them to fail.
        certificate.public_key()
        _ = (certificate.extensions, certificate.signature_hash_algorithm, certificate.version)
    except _UNREADABLE as exc:
        raise RefusedError(
            "certificate-unreadable", f"{what} is no X.509 certificate in PEM or DER"
        ) from exc
    return certificate


def public_bytes(certificate: x509.Certificate | x509.CertificateSigningRequest) -> bytes:
    """Return DER SubjectPublicKeyInfo."""
    key = certificate.public_key()
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _check_strength(certificate: x509.Certificate, what: str) -> None:
    key = certificate.public_key()
    if isinstance(key, rsa.RSAPublicKey) and key.key_size < RSA_BITS_MIN:
        raise RefusedError(
            "certificate-weak-key",
            f"{what} has an RSA key of {key.key_size} bits; at least {RSA_BITS_MIN} are needed",
        )
    if isinstance(key, ec.EllipticCurvePublicKey) and key.key_size < 256:
        raise RefusedError("certificate-weak-key", f"{what} has a key on {key.curve.name}")
    if not isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey):
        raise RefusedError("certificate-weak-key", f"{what}: use an RSA or EC key")
    algorithm = certificate.signature_hash_algorithm
    if algorithm is None or isinstance(algorithm, hashes.SHA1 | hashes.MD5):
        name = algorithm.name if algorithm else "no hash"
        raise RefusedError("certificate-weak-hash", f"{what} is signed with {name}; use SHA-256")


def _check_time(certificate: x509.Certificate, at_ms: int, what: str) -> None:
    at = datetime.fromtimestamp(at_ms / 1000, UTC)
    if not certificate.not_valid_before_utc <= at <= certificate.not_valid_after_utc:
        raise RefusedError(
            "certificate-expired",
            f"{what} is valid from {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} to "
            f"{certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC, and it is {at:%Y-%m-%d %H:%M}",
        )


def check_trust_anchor(anchor: x509.Certificate, at_ms: int) -> None:
    """Check that `anchor` is a self-signed CA certificate of today's strength, valid now."""
    _check_strength(anchor, "the trust anchor")
    try:
        constraints = anchor.extensions.get_extension_for_class(x509.BasicConstraints).value
        is_ca = constraints.ca
    except (x509.ExtensionNotFound, ValueError):
        is_ca = False
    if not is_ca:
        raise RefusedError(
            "anchor-not-ca", "the trust anchor is no CA certificate (basicConstraints CA:TRUE)"
        )
    try:
        anchor.verify_directly_issued_by(anchor)
    except (InvalidSignature, ValueError, TypeError) as exc:
        raise RefusedError("anchor-not-ca", "the trust anchor is not self-signed") from exc
    _check_time(anchor, at_ms, "the trust anchor")


def check_cluster_certificate(
    certificate: bytes, anchor: bytes, cluster_public: bytes, at_ms: int
) -> None:
    """Check the customer's signature over the cluster's key; each failure is its own error.

    Raises:
        RefusedError: `certificate-unreadable`, `-weak-key`, `-weak-hash`, `-key-mismatch`,
            `-not-under-anchor`, `-expired`, `anchor-not-ca`.
    """
    signed = load_certificate(certificate, "the signed certificate")
    root = load_certificate(anchor, "the trust anchor")
    check_trust_anchor(root, at_ms)
    _check_strength(signed, "the signed certificate")
    if public_bytes(signed) != cluster_public:
        raise RefusedError(
            "certificate-key-mismatch",
            "the signed certificate holds another key than this cluster's CSR; sign the CSR of "
            "`cloister cluster csr`",
        )
    try:
        signed.verify_directly_issued_by(root)
    except (InvalidSignature, ValueError, TypeError) as exc:
        raise RefusedError(
            "certificate-not-under-anchor", "the trust anchor did not sign this certificate"
        ) from exc
    _check_time(signed, at_ms, "the signed certificate")
