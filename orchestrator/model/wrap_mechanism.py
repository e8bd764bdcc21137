"""Ways to wrap a key, by their CloudHSM CLI names, and what each takes."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import msgspec

from orchestrator.model.errors import RefusedError, UsageError
from orchestrator.model.key_spec import DIGEST_BYTES, HashFunction, KeySpec, KeyType

WRAPPED_BYTES_MAX: Final = 16 * 1024 + 512
_PKCS1_BYTES: Final = 11  # RFC 8017 §7.2.1


class WrapScheme(StrEnum):
    """CloudHSM CLI, `key wrap` and `key unwrap`."""

    AES_GCM = "aes-gcm"
    AES_NO_PAD = "aes-no-pad"
    AES_PKCS5_PAD = "aes-pkcs5-pad"
    AES_ZERO_PAD = "aes-zero-pad"
    CLOUDHSM_AES_GCM = "cloudhsm-aes-gcm"
    RSA_AES = "rsa-aes"
    RSA_OAEP = "rsa-oaep"
    RSA_PKCS = "rsa-pkcs"


_GCM: Final = frozenset({WrapScheme.AES_GCM, WrapScheme.CLOUDHSM_AES_GCM})
_HASHED: Final = frozenset({WrapScheme.RSA_AES, WrapScheme.RSA_OAEP})
_BY_RSA: Final = frozenset({WrapScheme.RSA_AES, WrapScheme.RSA_OAEP, WrapScheme.RSA_PKCS})
_SECRETS: Final = frozenset({KeyType.AES, KeyType.GENERIC_SECRET})


class WrapMechanism(msgspec.Struct, frozen=True, array_like=True):
    """A way to wrap. `hash` is for OAEP, whose mask generation uses the same; the rest for GCM."""

    scheme: WrapScheme
    hash: HashFunction | None = None
    tag_bits: int = 0
    iv: bytes = b""
    aad: bytes = b""

    @property
    def key_type(self) -> KeyType:
        """The type of key that wraps so."""
        return KeyType.RSA if self.scheme in _BY_RSA else KeyType.AES

    def check(self) -> WrapMechanism:
        """Return self, or raise UsageError for parameters that the scheme does not take."""
        if (self.hash is None) == (self.scheme in _HASHED):
            raise UsageError("rsa-oaep and rsa-aes need a hash function, no other mechanism does")
        if (self.tag_bits or self.iv or self.aad) and self.scheme not in _GCM:
            raise UsageError(f"{self.scheme} takes no tag length, IV or additional data")
        return self

    def check_payload(self, payload: KeySpec, wrapper: KeySpec) -> None:
        """Raise RefusedError (`payload`) unless a key of `payload` can be wrapped so."""
        secret = payload.type in _SECRETS
        payload_bytes = payload.bits // 8
        if self.scheme is WrapScheme.AES_NO_PAD:
            good = secret and payload_bytes % 8 == 0 and payload_bytes >= 16
            reason = (
                "takes secret keys of 16 bytes and more, in multiples of 8 (RFC 3394 §2); "
                "aes-zero-pad wraps the others"
            )
        elif self.scheme in {WrapScheme.RSA_OAEP, WrapScheme.RSA_PKCS}:
            padding = _PKCS1_BYTES if self.hash is None else 2 * DIGEST_BYTES[self.hash] + 2
            room = wrapper.bits // 8 - padding
            good = secret and payload_bytes <= room
            reason = f"takes secret keys of at most {room} bytes under this key; rsa-aes wraps all"
        else:
            return
        if not good:
            raise RefusedError("payload", f"{self.scheme} {reason}")
