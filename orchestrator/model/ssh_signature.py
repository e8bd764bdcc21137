"""Approvers' public keys and signatures: RSA as openssl makes them, or OpenSSH's SSHSIG.

Invariants: one public key has one stored form, so that a key registered twice is found; an
SSHSIG counts for its namespace alone; a FIDO2 key's signature counts only with its button
pressed. Formats: OpenSSH PROTOCOL.sshsig, PROTOCOL.u2f, RFC 4253 and 5656.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
    load_pem_public_key,
    load_ssh_public_key,
)

from orchestrator.model.errors import MalformedError, RefusedError, TamperedError
from orchestrator.model.signatures import check_rsa

PUBLIC_KEY_BYTES_MAX: Final = 4096
SIGNATURE_BYTES_MAX: Final = 4096
_RSA_BITS: Final = frozenset({2048, 3072, 4096})
_BEGIN, _END = b"-----BEGIN SSH SIGNATURE-----", b"-----END SSH SIGNATURE-----"
_MAGIC: Final = b"SSHSIG"
_ED25519, _ECDSA = b"ssh-ed25519", b"ecdsa-sha2-nistp256"
_SK_ED25519, _SK_ECDSA = b"sk-ssh-ed25519@openssh.com", b"sk-ecdsa-sha2-nistp256@openssh.com"
_CURVE: Final = b"nistp256"
_USER_PRESENT: Final = 1
_HASHES: Final = {b"sha256": hashlib.sha256, b"sha512": hashlib.sha512}
_RSA_HASHES: Final = {b"rsa-sha2-256": hashes.SHA256(), b"rsa-sha2-512": hashes.SHA512()}


class _Reader:
    """Reads SSH's wire format; what is too short is MalformedError."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def take(self, count: int) -> bytes:
        piece = self._data[self._at : self._at + count]
        if len(piece) != count:
            raise MalformedError("an SSH key or signature ends too early")
        self._at += count
        return piece

    def number(self) -> int:
        return int.from_bytes(self.take(4), "big")

    def string(self) -> bytes:
        return self.take(self.number())

    def end(self) -> None:
        if self._at != len(self._data):
            raise MalformedError("an SSH key or signature goes on where it should end")


def _string(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


def parse_public_key(text: bytes) -> bytes:
    """Return an approver's key in its one stored form.

    Args:
        text: PEM (RSA), or a line of an OpenSSH `.pub` file.

    Returns:
        DER SubjectPublicKeyInfo for RSA, and the SSH blob for all others.

    Raises:
        RefusedError: `public-key`, it is of no kind that approves.
    """
    if len(text) > PUBLIC_KEY_BYTES_MAX:
        raise RefusedError("public-key", f"a public key has at most {PUBLIC_KEY_BYTES_MAX} bytes")
    try:
        if b"-----BEGIN" in text:
            return _rsa_form(load_pem_public_key(text.strip()))
        words = text.split()
        if len(words) < 2:
            raise MalformedError("a line of a .pub file has a type and a key")
        blob = base64.b64decode(words[1], validate=True)
        if words[0] == b"ssh-rsa":
            return _rsa_form(load_ssh_public_key(b" ".join(words[:2])))
        check_public_key(blob)
    except (ValueError, UnsupportedAlgorithm, MalformedError) as exc:
        raise RefusedError(
            "public-key",
            "this is no public key that can approve: give an RSA-2048 key in PEM, or a .pub file "
            "of ssh-ed25519, ecdsa-sha2-nistp256, sk-ssh-ed25519, sk-ecdsa or ssh-rsa",
        ) from exc
    return blob


def _rsa_form(key: object) -> bytes:
    if not isinstance(key, rsa.RSAPublicKey) or key.key_size not in _RSA_BITS:
        raise MalformedError("not an RSA key of 2048, 3072 or 4096 bits")
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def check_public_key(public: bytes) -> bytes:
    """Return what identifies the key, whatever else its form says; raise MalformedError.

    Two stored forms of one key pair give the same bytes: who holds it is one person.
    """
    if len(public) > PUBLIC_KEY_BYTES_MAX:
        raise MalformedError("a public key exceeds its bounds")
    if public[:1] == b"\x30":
        try:
            if _rsa_form(load_der_public_key(public)) == public:
                return public
        except (ValueError, UnsupportedAlgorithm) as exc:
            raise MalformedError("not an RSA public key") from exc
        raise MalformedError("not the one form of an RSA public key")
    return _point(public)[1]


def _point(blob: bytes) -> tuple[bytes, bytes, bytes]:
    """Return type, key and application of an SSH key that is not RSA."""
    reader = _Reader(blob)
    kind = reader.string()
    if kind in {_ECDSA, _SK_ECDSA} and reader.string() != _CURVE:
        raise MalformedError("not a key on nistp256")
    point = reader.string()
    application = reader.string() if kind in {_SK_ED25519, _SK_ECDSA} else b""
    reader.end()
    try:
        if kind in {_ED25519, _SK_ED25519}:
            ed25519.Ed25519PublicKey.from_public_bytes(point)
        elif kind in {_ECDSA, _SK_ECDSA} and len(point) == 65:
            ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point)
        else:
            raise MalformedError("an SSH key of this type cannot approve")
    except ValueError as exc:
        raise MalformedError("the SSH key is no point of its curve") from exc
    return kind, point, application


def check_signature(
    public: bytes, digest: bytes, signature: bytes, namespace: str, what: str
) -> None:
    """Check an approver's signature over a 32-byte digest; raise TamperedError naming `what`.

    Args:
        public: in the form of `parse_public_key`.
        digest: RSA signs it as a SHA-256 digest; SSHSIG takes it as the message.
        signature: RSA PKCS#1 v1.5, or an SSHSIG, armored or not.
        namespace: what an SSHSIG must have been made for.
        what: it is, for messages.
    """
    if len(signature) > SIGNATURE_BYTES_MAX:
        raise TamperedError(f"{what}: not a signature")
    if _is_ssh(signature):
        try:
            _check_ssh(public, digest, _unarmored(signature), namespace.encode())
        except (MalformedError, ValueError, InvalidSignature, UnsupportedAlgorithm) as exc:
            raise TamperedError(f"{what}: the SSH signature does not verify ({exc})") from exc
    elif public[:1] == b"\x30":
        check_rsa(public, digest, signature, what)
    else:
        raise TamperedError(f"{what}: an SSH key signs with `ssh-keygen -Y sign -n {namespace}`")


def _is_ssh(signature: bytes) -> bool:
    return signature.startswith(_MAGIC) or signature.lstrip().startswith(_BEGIN)


def _unarmored(signature: bytes) -> bytes:
    if signature.startswith(_MAGIC):
        return signature
    text = signature.strip()
    if not text.endswith(_END):
        raise MalformedError("an armored SSH signature has an end line")
    try:
        body = b"".join(text[len(_BEGIN) : -len(_END)].split())
        return base64.b64decode(body, validate=True)
    except binascii.Error as exc:
        raise MalformedError("an armored SSH signature is base64") from exc


def _check_ssh(public: bytes, message: bytes, blob: bytes, namespace: bytes) -> None:
    reader = _Reader(blob)
    if reader.take(len(_MAGIC)) != _MAGIC or reader.number() != 1:
        raise MalformedError("not an SSHSIG of version 1")
    key, made_for, reserved, hash_name = (reader.string() for _ in range(4))
    signature = reader.string()
    reader.end()
    if made_for != namespace:
        raise MalformedError(f"it was not made with -n {namespace.decode()}")
    if hash_name not in _HASHES or reserved:
        raise MalformedError("it uses an unknown hash")
    hashed = _HASHES[hash_name](message).digest()
    signed = _MAGIC + b"".join(map(_string, (namespace, reserved, hash_name, hashed)))
    parts = _Reader(signature)
    kind, value = parts.string(), parts.string()
    if public[:1] == b"\x30":
        parts.end()
        _check_ssh_rsa(public, key, kind, value, signed)
        return
    if key != public:
        raise MalformedError("it was made with another key than the registered one")
    own_kind, point, application = _point(public)
    if kind != own_kind:
        raise MalformedError("it is of another type than the key")
    if application or kind in {_SK_ED25519, _SK_ECDSA}:
        flags, counter = parts.take(1), parts.take(4)
        if not flags[0] & _USER_PRESENT:
            raise MalformedError("nobody touched the security key")
        digests = hashlib.sha256(application).digest(), hashlib.sha256(signed).digest()
        signed = digests[0] + flags + counter + digests[1]
    parts.end()
    if kind in {_ED25519, _SK_ED25519}:
        ed25519.Ed25519PublicKey.from_public_bytes(point).verify(value, signed)
        return
    numbers = _Reader(value)
    r, s = (int.from_bytes(numbers.string(), "big") for _ in range(2))
    numbers.end()
    der = utils.encode_dss_signature(r, s)
    curve = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point)
    curve.verify(der, signed, ec.ECDSA(hashes.SHA256()))


def _check_ssh_rsa(public: bytes, key: bytes, kind: bytes, value: bytes, signed: bytes) -> None:
    loaded = load_der_public_key(public)
    if not isinstance(loaded, rsa.RSAPublicKey) or kind not in _RSA_HASHES:
        raise MalformedError("it uses an unknown hash")
    line = loaded.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    if base64.b64decode(line.split()[1]) != key:
        raise MalformedError("it was made with another key than the registered one")
    loaded.verify(value, signed, padding.PKCS1v15(), _RSA_HASHES[kind])
