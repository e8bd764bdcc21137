"""Keys wrapped as the standards say, by `cryptography`: the world outside the HSMs."""

from __future__ import annotations

import os
from collections.abc import Callable

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.keywrap import (
    InvalidUnwrap,
    aes_key_unwrap,
    aes_key_unwrap_with_padding,
    aes_key_wrap,
    aes_key_wrap_with_padding,
)
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)

from orchestrator.model.key_spec import HashFunction
from orchestrator.model.wrap_mechanism import WrapMechanism, WrapScheme

Private = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
_HASHES: dict[HashFunction, Callable[[], hashes.HashAlgorithm]] = {
    HashFunction.SHA1: hashes.SHA1,
    HashFunction.SHA224: hashes.SHA224,
    HashFunction.SHA256: hashes.SHA256,
    HashFunction.SHA384: hashes.SHA384,
    HashFunction.SHA512: hashes.SHA512,
}


def pkcs8(key: Private) -> bytes:
    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


def load_padded(plain: bytes) -> Private:
    """Load PKCS#8 that may have up to 7 zeros behind it: DER tells its own length."""
    length = 4 + int.from_bytes(plain[2:4], "big") if plain[1] == 0x82 else 2 + plain[1]
    if plain[1] == 0x81:
        length = 3 + plain[2]
    assert not any(plain[length:])
    assert len(plain) - length < 8
    key = load_der_private_key(plain[:length], None)
    assert isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey)
    return key


def _padding(mechanism: WrapMechanism) -> padding.AsymmetricPadding:
    if mechanism.hash is None:
        return padding.PKCS1v15()
    algorithm = _HASHES[mechanism.hash]()
    return padding.OAEP(padding.MGF1(algorithm), algorithm, None)


def wrap_outside(key: bytes | rsa.RSAPublicKey, mechanism: WrapMechanism, plain: bytes) -> bytes:
    """Wrap `plain` under an AES key's bytes or an RSA public key."""
    if isinstance(key, rsa.RSAPublicKey):
        if mechanism.scheme is not WrapScheme.RSA_AES:
            return key.encrypt(plain, _padding(mechanism))
        inner = os.urandom(32)
        return key.encrypt(inner, _padding(mechanism)) + aes_key_wrap_with_padding(inner, plain)
    if mechanism.scheme is WrapScheme.AES_NO_PAD:
        return aes_key_wrap(key, plain)
    return aes_key_wrap_with_padding(key, plain)


def unwrap_outside(
    key: bytes | rsa.RSAPrivateKey, mechanism: WrapMechanism, wrapped: bytes
) -> bytes:
    """Undo `wrap_outside`; raise ValueError for what does not unwrap."""
    try:
        if isinstance(key, rsa.RSAPrivateKey):
            if mechanism.scheme is not WrapScheme.RSA_AES:
                return key.decrypt(wrapped, _padding(mechanism))
            size = key.key_size // 8
            inner = key.decrypt(wrapped[:size], _padding(mechanism))
            return aes_key_unwrap_with_padding(inner, wrapped[size:])
        if mechanism.scheme is WrapScheme.AES_NO_PAD:
            return aes_key_unwrap(key, wrapped)
        return aes_key_unwrap_with_padding(key, wrapped)
    except InvalidUnwrap as exc:
        raise ValueError("this does not unwrap") from exc
