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


ECDSA_DIGEST_BYTES_MAX: Final = 64
_DIGEST_INFO: Final = {  # RFC 8017 §9.2, note 1
    HashFunction.SHA1: bytes.fromhex("3021300906052b0e03021a05000414"),
    HashFunction.SHA224: bytes.fromhex("302d300d06096086480165030402040500041c"),
    HashFunction.SHA256: bytes.fromhex("3031300d060960864801650304020105000420"),
    HashFunction.SHA384: bytes.fromhex("3041300d060960864801650304020205000430"),
    HashFunction.SHA512: bytes.fromhex("3051300d060960864801650304020305000440"),
}
_PKCS1_PADDING_BYTES: Final = 11


class SignMechanism(msgspec.Struct, frozen=True, array_like=True):
    """A signature scheme over a digest. `salt_bytes` counts for PSS only (RFC 8017 §9.1).

    Without a `hash` it is raw, as PKCS#11's CKM_RSA_PKCS and CKM_ECDSA are: PKCS#1 v1.5 pads what
    it is given, which the caller has made a DigestInfo of where there shall be one, and ECDSA
    takes a digest of 1 to 64 bytes, of which the leftmost bits count (FIPS 186-4 §6.4).
    """

    scheme: SignScheme
    hash: HashFunction | None
    salt_bytes: int = 0

    def check(self, spec: KeySpec, data: bytes) -> None:
        """Raise unless a key of `spec` can sign `data` so."""
        takes = KeyType.EC if self.scheme is SignScheme.ECDSA else KeyType.RSA
        if spec.type is not takes:
            raise RefusedError("key-type", f"{self.scheme} takes a key of type {takes}")
        if self.hash is None:
            self._check_raw(spec, len(data))
            return
        expected = DIGEST_BYTES[self.hash]
        if len(data) != expected:
            raise UsageError(f"a {self.hash} digest has {expected} bytes, not {len(data)}")
        salt_max = spec.bits // 8 - expected - 2  # RFC 8017 §9.1.1 step 3
        if self.scheme is SignScheme.RSA_PSS and not 0 <= self.salt_bytes <= salt_max:
            raise UsageError(f"a PSS salt has 0 to {salt_max} bytes for this key and hash")

    def raw(self, data: bytes) -> tuple[SignMechanism, bytes]:
        """Return the raw mechanism and data of which the same signature comes; PSS has none."""
        if self.scheme is SignScheme.RSA_PSS or self.hash is None:
            return self, data
        prefix = _DIGEST_INFO[self.hash] if self.scheme is SignScheme.RSA_PKCS else b""
        return SignMechanism(self.scheme, None), prefix + data

    def _check_raw(self, spec: KeySpec, length: int) -> None:
        match self.scheme:
            case SignScheme.RSA_PKCS:
                room = spec.bits // 8 - _PKCS1_PADDING_BYTES
                if length > room:
                    raise UsageError(f"this key pads at most {room} bytes, not {length}")
            case SignScheme.ECDSA:
                if not 1 <= length <= ECDSA_DIGEST_BYTES_MAX:
                    raise UsageError(
                        f"ecdsa signs a digest of 1 to {ECDSA_DIGEST_BYTES_MAX} bytes, not {length}"
                    )
            case SignScheme.RSA_PSS:
                raise UsageError("rsa-pkcs-pss needs its hash function")
            case _:
                assert_never(self.scheme)


class CipherScheme(StrEnum):
    """Ways to encrypt, in CloudHSM CLI spelling."""

    AES_ECB = "aes-ecb"
    AES_GCM = "aes-gcm"
    AES_CBC = "aes-cbc"
    AES_CBC_PAD = "aes-cbc-pad"
    AES_CTR = "aes-ctr"
    RSA_OAEP = "rsa-oaep"
    RSA_PKCS = "rsa-pkcs"


GCM_NONCE_BYTES: Final = 12
GCM_TAG_BYTES: Final = 16
GCM_TAG_BYTES_MIN: Final = 12
AES_BLOCK_BYTES: Final = 16
_IV_BYTES: Final = {
    CipherScheme.AES_GCM: GCM_NONCE_BYTES,
    CipherScheme.AES_CBC: AES_BLOCK_BYTES,
    CipherScheme.AES_CBC_PAD: AES_BLOCK_BYTES,
    CipherScheme.AES_CTR: AES_BLOCK_BYTES,
}


class CipherMechanism(msgspec.Struct, frozen=True, array_like=True):
    """A way to encrypt, with its parameters.

    One rule for nonce and IV: with `iv` empty the HSM draws it and puts it before the ciphertext,
    where decryption finds it. A caller's own `iv` is neither put there nor looked for: 16 bytes
    for CBC and CTR, where AES-CTR counts in all 128 bits, and 12 for decrypting with GCM, whose
    nonce the HSM alone draws, because one used twice gives the key's authenticity away.
    `aes-ecb` and `aes-cbc` take whole blocks, `aes-cbc-pad` pads them (PKCS#7). `aad` and
    `tag_bytes` (12 to 16, SP 800-38D §5.2.1.2) are for GCM, `hash` for OAEP, whose mask
    generation uses the same one and whose label is empty.
    """

    scheme: CipherScheme
    iv: bytes = b""
    aad: bytes = b""
    hash: HashFunction | None = None
    tag_bytes: int = GCM_TAG_BYTES

    def check(self) -> CipherMechanism:
        """Return self, or raise UsageError for parameters that the scheme does not take."""
        takes = _IV_BYTES.get(self.scheme, 0)
        if self.iv and len(self.iv) != takes:
            has = f"an IV has {takes} bytes" if takes else "it takes no IV"
            raise UsageError(f"{self.scheme}: {has}")
        is_gcm = self.scheme is CipherScheme.AES_GCM
        if self.aad and not is_gcm:
            raise UsageError(f"{self.scheme} authenticates no additional data; aes-gcm does")
        if self.tag_bytes != GCM_TAG_BYTES and not (
            is_gcm and GCM_TAG_BYTES_MIN <= self.tag_bytes <= GCM_TAG_BYTES
        ):
            raise UsageError("a tag is aes-gcm's alone, and has 12 to 16 bytes")
        if (self.hash is None) == (self.scheme is CipherScheme.RSA_OAEP):
            raise UsageError("rsa-oaep needs a hash function, and no other scheme takes one")
        return self

    def drawn_bytes(self) -> int:
        """Return how much the HSM draws and puts first: nothing where the caller gives the IV."""
        return 0 if self.iv else _IV_BYTES.get(self.scheme, 0)

    @property
    def key_type(self) -> KeyType:
        """The type of key that it takes."""
        is_rsa = self.scheme in {CipherScheme.RSA_OAEP, CipherScheme.RSA_PKCS}
        return KeyType.RSA if is_rsa else KeyType.AES


MAC_BYTES_MIN: Final = 10
"""Where one is truncated: RFC 2104 §5."""


class MacMechanism(StrEnum):
    """Message authentication codes: CMAC (SP 800-38B), HMAC (RFC 2104)."""

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

    @property
    def mac_bytes(self) -> int:
        """The length of the whole MAC."""
        if self is MacMechanism.AES_CMAC:
            return AES_BLOCK_BYTES
        return DIGEST_BYTES[HashFunction(self.removeprefix("hmac-"))]

    def check_length(self, length: int) -> int:
        """Return how many bytes of the MAC count: `length`, or all when it is 0."""
        if length and not MAC_BYTES_MIN <= length <= self.mac_bytes:
            raise UsageError(
                f"{self} is cut to {MAC_BYTES_MIN} bytes at least, of {self.mac_bytes}"
            )
        return length or self.mac_bytes


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
