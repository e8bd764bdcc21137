"""What a key is: its type, size and curve, and the mechanisms it works with.

Key types and sizes follow the CloudHSM user guide; mechanism rules PKCS#11 2.40 and RFC 8017.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final, assert_never

import msgspec

from orchestrator.model.errors import RefusedError


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


class Usage(StrEnum):
    """What a loaded key may do in the token, beyond what its type implies."""

    SIGN = "sign"
    ENCRYPT = "encrypt"
    DECRYPT = "decrypt"
    AGREE = "derive"


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
                good = self.curve is not None
            case _:
                assert_never(self.type)
        if not good:
            raise RefusedError(
                "key-spec",
                f"no such key: type {self.type}, {self.bits} bits, curve {self.curve}, public "
                f"exponent {self.public_exponent}; AES takes 16, 24 or 32 bytes, a generic secret "
                "1 to 800 bytes, RSA 2048 to 4096 bits in steps of 256 with an odd exponent from "
                "65537 on",
            )
        return self
