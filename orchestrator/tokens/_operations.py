"""What a SoftHSM token does with one key, whether it is loaded or its own.

The caller has checked what it asks for (`_requests`); here it becomes PKCS#11 mechanisms.
"""

from __future__ import annotations

import struct
from typing import Any, Final, assert_never

from pkcs11 import MGF, GCMParams
from pkcs11 import Mechanism as Ck

from orchestrator.model.errors import MechanismUnavailableError
from orchestrator.model.key_spec import (
    AES_BLOCK_BYTES,
    DIGEST_BYTES,
    Agreement,
    CipherMechanism,
    CipherScheme,
    HashFunction,
    Kdf,
    KeySpec,
    KeyType,
    MacMechanism,
    SignMechanism,
    SignScheme,
)
from orchestrator.model.profile import MAC_MECHANISMS, Mechanism
from orchestrator.tokens._objects import raw
from orchestrator.tokens._pkcs11_library import Sessions, key_on

_REFUSED: Final = "another key, other parameters, or changed bytes: this does not decrypt"
_PSS_HASHES: Final = {
    HashFunction.SHA1: (Ck.SHA_1, MGF.SHA1),
    HashFunction.SHA224: (Ck.SHA224, MGF.SHA224),
    HashFunction.SHA256: (Ck.SHA256, MGF.SHA256),
    HashFunction.SHA384: (Ck.SHA384, MGF.SHA384),
    HashFunction.SHA512: (Ck.SHA512, MGF.SHA512),
}
_HMAC_BLOCK_BITS: Final = 512
_MACS: Final = {
    MacMechanism.AES_CMAC: (Ck.AES_CMAC, None),
    MacMechanism.HMAC_SHA1: (Ck.SHA_1_HMAC, HashFunction.SHA1),
    MacMechanism.HMAC_SHA224: (Ck.SHA224_HMAC, HashFunction.SHA224),
    MacMechanism.HMAC_SHA256: (Ck.SHA256_HMAC, HashFunction.SHA256),
    MacMechanism.HMAC_SHA384: (Ck.SHA384_HMAC, HashFunction.SHA384),
    MacMechanism.HMAC_SHA512: (Ck.SHA512_HMAC, HashFunction.SHA512),
}


def sign(sessions: Sessions, key: int, mechanism: SignMechanism, digest: bytes) -> bytes:
    """Sign a digest."""
    parameter = None
    match mechanism.scheme:
        case SignScheme.RSA_PKCS:
            ck, digest = Ck.RSA_PKCS, mechanism.raw(digest)[1]
        case SignScheme.RSA_PSS:
            ck = Ck.RSA_PKCS_PSS
            ck_hash, mgf = _PSS_HASHES[mechanism.hash or HashFunction.SHA256]  # it has one: checked
            parameter = (ck_hash, mgf, mechanism.salt_bytes)
        case SignScheme.ECDSA:
            ck = Ck.ECDSA
        case _:
            assert_never(mechanism.scheme)
    with sessions.borrow() as session:
        return raw(key_on(session, key).sign(digest, mechanism=ck, mechanism_param=parameter))


def encrypt(sessions: Sessions, key: int, mechanism: CipherMechanism, plaintext: bytes) -> bytes:
    """Encrypt under an AES key; what is drawn here comes first."""
    with sessions.borrow() as session:
        drawn, count = b"", mechanism.drawn_bytes()
        if count:
            drawn = raw(session.generate_random(count * 8))
        ck, parameter = _cipher(mechanism, mechanism.iv or drawn)
        made = key_on(session, key).encrypt(
            plaintext,
            mechanism=ck,
            mechanism_param=parameter,
            buffer_size=len(plaintext) + AES_BLOCK_BYTES,  # a tag or a block of padding
        )
    return drawn + raw(made)


def decrypt(sessions: Sessions, key: int, mechanism: CipherMechanism, ciphertext: bytes) -> bytes:
    """Decrypt; every failure has the one message, whatever the token found."""
    drawn = mechanism.drawn_bytes()
    ck, parameter = _cipher(mechanism, mechanism.iv or ciphertext[:drawn])
    with sessions.borrow(refused=_REFUSED) as session:
        return raw(
            key_on(session, key).decrypt(
                ciphertext[drawn:],
                mechanism=ck,
                mechanism_param=parameter,
                buffer_size=len(ciphertext),
            )
        )


def _cipher(mechanism: CipherMechanism, iv: bytes) -> tuple[Ck, Any]:
    match mechanism.scheme:
        case CipherScheme.AES_ECB:
            return Ck.AES_ECB, None
        case CipherScheme.AES_GCM:
            return Ck.AES_GCM, GCMParams(iv, mechanism.aad, mechanism.tag_bytes * 8)
        case CipherScheme.AES_CBC:
            return Ck.AES_CBC, iv
        case CipherScheme.AES_CBC_PAD:
            return Ck.AES_CBC_PAD, iv
        case CipherScheme.AES_CTR:
            # CK_AES_CTR_PARAMS. python-pkcs11's own form always starts counting at 1.
            return Ck.AES_CTR, struct.pack("@L16s", 128, iv)
        case CipherScheme.RSA_OAEP:
            return Ck.RSA_PKCS_OAEP, (Ck.SHA_1, MGF.SHA1, None)
        case CipherScheme.RSA_PKCS:
            return Ck.RSA_PKCS, None
        case _:
            assert_never(mechanism.scheme)


def mac(sessions: Sessions, key: int, mechanism: MacMechanism, data: bytes) -> bytes:
    """Return the MAC of `data`."""
    ck, _ = _MACS[mechanism]
    with sessions.borrow() as session:
        return raw(key_on(session, key).sign(data, mechanism=ck))


def check_offered_cipher(profile: str, mechanism: CipherMechanism) -> None:
    """Raise MechanismUnavailableError for what SoftHSM's OAEP leaves out: all hashes but SHA-1."""
    if mechanism.hash not in {None, HashFunction.SHA1}:
        raise MechanismUnavailableError(profile, f"{Mechanism.RSA_PKCS_OAEP} with {mechanism.hash}")


def check_offered_mac(profile: str, mechanism: MacMechanism, spec: KeySpec) -> None:
    """Raise MechanismUnavailableError for an HMAC key shorter than the digest."""
    _, hash_function = _MACS[mechanism]
    if hash_function is not None and spec.bits < DIGEST_BYTES[hash_function] * 8:
        raise MechanismUnavailableError(
            profile,
            f"{MAC_MECHANISMS[mechanism]} with a key of {spec.bits // 8} bytes; it takes "
            f"{DIGEST_BYTES[hash_function]} bytes and more",
        )


def check_offered_import(profile: str, spec: KeySpec) -> None:
    """Raise MechanismUnavailableError where zeros behind a value would make it another one.

    CKM_AES_KEY_WRAP_PAD wraps them along (see `check_offered_derivation`). HMAC puts zeros there
    itself, up to its block of at least 64 bytes.
    """
    if spec.type is KeyType.GENERIC_SECRET and spec.bits > _HMAC_BLOCK_BITS and spec.bits % 64:
        raise MechanismUnavailableError(
            profile,
            f"{Mechanism.GENERIC_SECRET_KEY_GEN} for a given value of {spec.bits // 8} bytes; it "
            "takes up to 64, and from there on multiples of 8",
        )


def check_offered_derivation(profile: str, agreement: Agreement, spec: KeySpec) -> None:
    """Raise MechanismUnavailableError for what SoftHSM's ECDH leaves out.

    It has CKD_NULL alone. And its CKM_AES_KEY_WRAP_PAD (2.6.1) fills a value up with zeros to
    8 bytes before wrapping it, and wraps those zeros too. A generated key is then what its blob
    says, but a derived one would no longer be its peer's: HMAC differs from 65 bytes on.
    """
    if agreement.kdf is not Kdf.NULL:
        raise MechanismUnavailableError(profile, f"{Mechanism.ECDH1_DERIVE} with {agreement.kdf}")
    if spec.bits % 64:
        raise MechanismUnavailableError(
            profile,
            f"{Mechanism.ECDH1_DERIVE} to {spec.bits // 8} bytes; it takes multiples of 8",
        )
