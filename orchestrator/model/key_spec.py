"""What a key is: its type, size and curve, and the mechanisms it works with.

Key types and sizes follow the CloudHSM user guide; mechanism rules PKCS#11 2.40, RFC 8017 and
SP 800-38A.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final, assert_never

import msgspec

from orchestrator.model.errors import RefusedError, UsageError


class KeyType(StrEnum):
    """CloudHSM CLI names of key types."""

    AES = "aes"
    GENERIC_SECRET = "generic-secret"  # noqa: S105  # a type, no secret
    RSA = "rsa"
    EC = "ec"


class KeyClass(StrEnum):
    """PKCS#11 object classes in CloudHSM CLI spelling."""

    PUBLIC = "public-key"
    PRIVATE = "private-key"
    SECRET = "secret-key"  # noqa: S105  # a class, no secret


class Curve(StrEnum):
    """Curves by their CloudHSM CLI name (`prime256v1` is accepted for `secp256r1`)."""

    P256 = "secp256r1"
    P384 = "secp384r1"
    P521 = "secp521r1"
    SECP256K1 = "secp256k1"


CURVE_BITS: Final = {
    Curve.P256: 256,
    Curve.P384: 384,
    Curve.P521: 521,
    Curve.SECP256K1: 256,
}


def coordinate_bytes(curve: Curve) -> int:
    """Return the length of a coordinate, of r and of s: 32, 48 or 66."""
    return (CURVE_BITS[curve] + 7) // 8


class HashFunction(StrEnum):
    """Hash functions by their CloudHSM CLI name."""

    SHA1 = "sha1"
    SHA224 = "sha224"
    SHA256 = "sha256"
    SHA384 = "sha384"
    SHA512 = "sha512"


DIGEST_BYTES: Final = {
    HashFunction.SHA1: 20,
    HashFunction.SHA224: 28,
    HashFunction.SHA256: 32,
    HashFunction.SHA384: 48,
    HashFunction.SHA512: 64,
}


class SignScheme(StrEnum):
    """Signature schemes by their CloudHSM CLI name."""

    RSA_PKCS = "rsa-pkcs"
    RSA_PSS = "rsa-pkcs-pss"
    ECDSA = "ecdsa"


class SignMechanism(msgspec.Struct, frozen=True, array_like=True):
    """A signature scheme over a digest. `salt_bytes` counts for PSS only (RFC 8017 §9.1)."""

    scheme: SignScheme
    hash: HashFunction
    salt_bytes: int = 0


class CipherScheme(StrEnum):
    """Ways to encrypt, in CloudHSM CLI spelling."""

    AES_GCM = "aes-gcm"
    AES_CBC = "aes-cbc"
    AES_CBC_PAD = "aes-cbc-pad"
    AES_CTR = "aes-ctr"
    RSA_OAEP = "rsa-oaep"


AES_BLOCK_BYTES: Final = 16
_IV_SCHEMES: Final = frozenset(
    {CipherScheme.AES_CBC, CipherScheme.AES_CBC_PAD, CipherScheme.AES_CTR}
)


class CipherMechanism(msgspec.Struct, frozen=True, array_like=True):
    """A way to encrypt, with its parameters.

    One rule for nonce and IV: with `iv` empty the HSM draws it and puts it before the ciphertext,
    where decryption finds it. A caller's own `iv` (16 bytes, for CBC and CTR alone, where AES-CTR
    counts in all 128 bits) is neither put there nor looked for. `aes-gcm` has 12 bytes of nonce
    and 16 of tag; `aes-cbc` takes whole blocks, `aes-cbc-pad` pads them (PKCS#7). `aad` is for
    GCM, `hash` for OAEP, whose mask generation uses the same one and whose label is empty.
    """

    scheme: CipherScheme
    iv: bytes = b""
    aad: bytes = b""
    hash: HashFunction | None = None

    def check(self) -> CipherMechanism:
        """Return self, or raise UsageError for parameters that the scheme does not take."""
        if self.iv and (self.scheme not in _IV_SCHEMES or len(self.iv) != AES_BLOCK_BYTES):
            raise UsageError(f"{self.scheme}: an IV has 16 bytes; aes-gcm and rsa-oaep take none")
        if self.aad and self.scheme is not CipherScheme.AES_GCM:
            raise UsageError(f"{self.scheme} authenticates no additional data; aes-gcm does")
        if (self.hash is None) == (self.scheme is CipherScheme.RSA_OAEP):
            raise UsageError("rsa-oaep needs a hash function, and no other scheme takes one")
        return self


class MacMechanism(StrEnum):
    """Message authentication codes, never truncated: CMAC (SP 800-38B), HMAC (RFC 2104)."""

    AES_CMAC = "aes-cmac"
    HMAC_SHA1 = "hmac-sha1"
    HMAC_SHA224 = "hmac-sha224"
    HMAC_SHA256 = "hmac-sha256"
    HMAC_SHA384 = "hmac-sha384"
    HMAC_SHA512 = "hmac-sha512"

    @property
    def key_type(self) -> KeyType:
        """The type of key that it takes."""
        return KeyType.AES if self is MacMechanism.AES_CMAC else KeyType.GENERIC_SECRET


class Kdf(StrEnum):
    """Key derivation functions over an ECDH secret, as PKCS#11 spells them."""

    NULL = "CKD_NULL"
    SHA1 = "CKD_SHA1_KDF"
    SHA224 = "CKD_SHA224_KDF"
    SHA256 = "CKD_SHA256_KDF"
    SHA384 = "CKD_SHA384_KDF"
    SHA512 = "CKD_SHA512_KDF"


class Agreement(msgspec.Struct, frozen=True, array_like=True):
    """ECDH with a peer: `point` is uncompressed, on the curve of one's own key.

    `CKD_NULL` takes the x coordinate as it is; a shorter key is its last bytes (PKCS#11 2.40
    §2.3.7: truncation "removes bytes from the leading end").
    """

    point: bytes
    kdf: Kdf = Kdf.NULL


class Usage(StrEnum):
    """What a loaded key may do in the token, beyond what its type implies."""

    SIGN = "sign"
    VERIFY = "verify"
    ENCRYPT = "encrypt"
    DECRYPT = "decrypt"
    DERIVE = "derive"
    AGREE = "agree"


class KeySpec(msgspec.Struct, frozen=True, array_like=True):
    """Type and size of a key to make or to load; `parse` is the way to one that cannot be wrong."""

    type: KeyType
    bits: int
    curve: Curve | None = None
    public_exponent: int = 0

    def check(self) -> KeySpec:
        """Return self, or raise RefusedError (`key-spec`) naming what no HSM here would make."""
        match self.type:
            case KeyType.AES:
                good = self.bits in {128, 192, 256} and self.curve is None
            case KeyType.GENERIC_SECRET:
                good = 8 <= self.bits <= 6400 and self.bits % 8 == 0 and self.curve is None
            case KeyType.RSA:
                exponent = self.public_exponent
                good = (
                    2048 <= self.bits <= 4096
                    and self.bits % 256 == 0
                    and self.curve is None
                    and 65537 <= exponent < 1 << 64
                    and exponent % 2 == 1
                )
            case KeyType.EC:
                good = self.curve is not None and self.bits == CURVE_BITS[self.curve]
            case _:
                assert_never(self.type)
        if not good:
            raise RefusedError(
                "key-spec",
                f"no such key: type {self.type}, {self.bits} bits, curve {self.curve}, public "
                f"exponent {self.public_exponent}; AES takes 16, 24 or 32 bytes, a generic secret "
                "1 to 800 bytes, RSA 2048 to 4096 bits in steps of 256 with an odd exponent from "
                "65537 on, EC a curve and its bits",
            )
        return self

    def check_derived(self, base: KeySpec) -> KeySpec:
        """Return self, or raise RefusedError unless ECDH with a `base` key gives such a key."""
        self.check()
        curve = base.curve
        if base.type is not KeyType.EC or curve is None:
            raise RefusedError("key-type", f"ECDH takes a key of type ec, not {base.type}")
        if self.type not in {KeyType.AES, KeyType.GENERIC_SECRET}:
            raise RefusedError("key-spec", f"ECDH gives aes or generic-secret, not {self.type}")
        if self.bits > coordinate_bytes(curve) * 8:
            raise RefusedError(
                "key-spec", f"ECDH on {curve} gives at most {coordinate_bytes(curve)} bytes"
            )
        return self
