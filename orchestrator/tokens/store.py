"""The TokenStore protocol: one token, its long-lived keys, and the blobs it makes and loads.

A token keeps few objects: identity, box, state key and the cluster's masking key. Every other
key is a blob, wrapped under the masking key by the token that made it and kept by the caller.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import NewType, Protocol

from orchestrator.model.errors import OrchestratorError
from orchestrator.model.key_spec import (
    Agreement,
    CipherMechanism,
    KeySpec,
    KeyType,
    MacMechanism,
    SignMechanism,
    Usage,
)
from orchestrator.model.wrap_mechanism import WrapMechanism

Handle = NewType("Handle", int)
"""A loaded key. Opaque, usable from any thread, dead after `unload` or `close`."""


class TokenError(OrchestratorError):
    """The token failed in a way that no other error names; the operation may work elsewhere."""

    code, exit_status, retryable = "token-error", 5, True


class TokenFullError(OrchestratorError):
    """The token holds as much as it can."""

    code = "token-full"


class BlobRefusedError(OrchestratorError):
    """The bytes were not wrapped under this token's masking or transport key."""

    code = "blob-refused"


class NoMaskingKeyError(OrchestratorError):
    """The token has no masking key yet: the HSM must join or be recovered first."""

    code = "no-masking-key"


@dataclass(frozen=True, slots=True)
class GeneratedKey:
    """A key as a blob; `public` is DER SubjectPublicKeyInfo, empty for secret keys.

    `check_value` is 3 bytes: of AES the first of an encrypted zero block, of a pair the first of
    the SHA-1 of `public`; empty for generic secrets.
    """

    blob: bytes
    public: bytes
    check_value: bytes


@dataclass(frozen=True, slots=True)
class Transport:
    """A key under way to another token.

    `point` is the sender's ephemeral P-384 point (97 bytes, uncompressed). `wrapped` is the key
    in AES-KWP (RFC 5649) under the AES-256 key that both sides derive from ECDH: the last 32
    bytes of the 48-byte x coordinate, as PKCS#11's CKD_NULL truncates.
    """

    point: bytes
    wrapped: bytes


@dataclass(frozen=True, slots=True)
class WrappingKey:
    """A key that wraps or unwraps: a blob, or an RSA public half (DER SubjectPublicKeyInfo)."""

    spec: KeySpec
    blob: bytes = b""
    public: bytes = b""


@dataclass(frozen=True, slots=True)
class UnwrappedKey:
    """What came out of a wrapped key, as a blob, and what the token says that it is."""

    spec: KeySpec
    key: GeneratedKey


class TokenStore(Protocol):
    """One token. Methods may be called from any thread; each leaves the token whole on failure.

    Blobs outlive everything; a handle dies with `unload` or `close`. No method returns a private
    or secret key in clear.
    """

    def identity_public(self) -> bytes:
        """Return the HSM identity's public half (P-256) as DER SubjectPublicKeyInfo."""

    def identity_sign(self, digest: bytes) -> bytes:
        """Sign a 32-byte SHA-256 digest as this HSM; return r || s, 64 bytes."""

    def box_public(self) -> bytes:
        """Return the point (65 bytes, uncompressed P-256) that others seal messages to."""

    def box_agree(self, point: bytes) -> bytes:
        """Return the 32-byte x coordinate of ECDH between the box key and `point`.

        Raises:
            BlobRefusedError: `point` is not a point of P-256 (checked before the token sees it).
        """

    def seal(self, plaintext: bytes, aad: bytes) -> bytes:
        """Encrypt under the state key with AES-256-GCM: 12-byte random nonce, ciphertext, tag."""

    def unseal(self, sealed: bytes, aad: bytes) -> bytes:
        """Open what `seal` made on this very token.

        Raises:
            BlobRefusedError: another token, another `aad`, or changed bytes.
        """

    def random(self, count: int) -> bytes:
        """Return `count` (1 to 65536) bytes from the token's generator."""

    def has_masking_key(self) -> bool:
        """Tell whether the cluster's masking key is in this token."""

    def create_masking_key(self) -> None:
        """Make the masking key of a new cluster; durable on return.

        Raises:
            TokenFullError: there is one already.
        """

    def transport_open(self) -> bytes:
        """Make a new P-384 pair to receive one key with; return its point (97 bytes).

        The private half never leaves the token, and replaces the one of an earlier call.
        """

    def wrap_masking_key(self, point: bytes) -> Transport:
        """Encrypt the masking key to the token (or recovery key) that `point` belongs to.

        The caller has authenticated `point`. The ephemeral half lives for this call only.
        """

    def accept_masking_key(self, transport: Transport) -> None:
        """Take the masking key from a member; durable on return, and the transport pair is gone.

        Raises:
            BlobRefusedError: not encrypted to the pair of the last `transport_open`.
            TokenFullError: there is a masking key already.
        """

    def accept_recovered(self, recovery_key: Transport, envelope: Transport) -> None:
        """Take the masking key from a recovery envelope; durable on return.

        Args:
            recovery_key: the P-384 recovery private key (PKCS#8) on its way to `transport_open`.
            envelope: what `wrap_masking_key` made for that recovery key's point.
        """

    def generate(self, spec: KeySpec) -> GeneratedKey:
        """Make a key and wrap it under the masking key; nothing stays in the token.

        Raises:
            MechanismUnavailableError, NoMaskingKeyError, TokenFullError.
        """

    def import_key(self, spec: KeySpec, value: bytes) -> GeneratedKey:
        """Wrap a key given in clear, as `generate` does one that it made; nothing stays.

        Args:
            spec: what it is.
            value: the bytes of a secret key, or a private key's PKCS#8 (DER).

        Raises:
            UsageError: `value` is no such key.
            MechanismUnavailableError: the token would keep another value.
        """

    def load(self, blob: bytes, spec: KeySpec, usages: AbstractSet[Usage]) -> Handle:
        """Unwrap `blob` into volatile, non-extractable form that can do `usages` only.

        Raises:
            BlobRefusedError: it was not wrapped under this cluster's masking key.
        """

    def unload(self, handle: Handle) -> None:
        """Forget a loaded key. Operations under way on it may still finish or fail cleanly."""

    def sign(self, handle: Handle, mechanism: SignMechanism, digest: bytes) -> bytes:
        """Sign a digest whose length is that of `mechanism.hash`, or what a raw mechanism takes.

        ECDSA returns r || s.
        """

    def encrypt(self, handle: Handle, mechanism: CipherMechanism, plaintext: bytes) -> bytes:
        """Encrypt under an AES key; what the token draws, nonce or IV, comes first.

        The nonce of AES-GCM is always drawn.
        """

    def decrypt(self, handle: Handle, mechanism: CipherMechanism, ciphertext: bytes) -> bytes:
        """Open what `encrypt` made, or what was encrypted to an RSA key's public half.

        Raises:
            BlobRefusedError: wrong key, parameters or bytes; one message for all of them, so that
                it tells no more than that (padding oracles of CBC and of PKCS#1 v1.5).
            MechanismUnavailableError: the token has no such OAEP hash.
        """

    def mac(self, handle: Handle, mechanism: MacMechanism, data: bytes) -> bytes:
        """Return the MAC of `data`, as long as the block or digest of the mechanism.

        Raises:
            MechanismUnavailableError: also where the token takes no key as short as this one.
        """

    def verify_mac(
        self, handle: Handle, mechanism: MacMechanism, data: bytes, mac: bytes, length: int = 0
    ) -> None:
        """Raise RefusedError (`signature-invalid`) unless `mac` is that of `data`.

        Of a MAC that is cut, `length` bytes (10 at least) count, and `mac` has as many.
        The comparison takes as long for every wrong `mac` of one length.
        """

    def derive(self, handle: Handle, agreement: Agreement, spec: KeySpec) -> GeneratedKey:
        """Make a secret key of an EC key and a peer's point, and wrap it as `generate` does.

        The secret never leaves the token in clear, and nothing stays in it.

        Raises:
            BlobRefusedError: the point is not on the key's curve.
            MechanismUnavailableError: the token has no such key derivation function.
        """

    def wrap(
        self, wrapper: WrappingKey, mechanism: WrapMechanism, blob: bytes, spec: KeySpec
    ) -> bytes:
        """Wrap the key in `blob` under another, inside the token.

        Secret keys are wrapped as their bytes, private ones as PKCS#8 (RFC 5208).

        Raises:
            BlobRefusedError: a blob was not wrapped under this cluster's masking key.
            MechanismUnavailableError: the token cannot do it inside.
            RefusedError: the mechanism takes no such key.
        """

    def unwrap(
        self, unwrapper: WrappingKey, mechanism: WrapMechanism, wrapped: bytes, key_type: KeyType
    ) -> UnwrappedKey:
        """Unwrap a key and wrap it under the masking key as `generate` does; nothing stays.

        Raises:
            BlobRefusedError: wrong key, mechanism or bytes, or it holds no `key_type` key; one
                message for all of them.
            MechanismUnavailableError: the token cannot do it inside, or keeps no such key whole.
            RefusedError: `key-spec`, no HSM here holds such a key.
        """

    def agree(self, handle: Handle, point: bytes) -> bytes:
        """Return the 32-byte x coordinate of ECDH between a loaded P-256 key and `point`.

        For the cluster's own keys: users' keys are loaded for `derive`, which shows no secret.
        """

    def erase(self) -> None:
        """Destroy every key of this token, the masking key first; durable on return."""

    def close(self) -> None:
        """Release the token. Idempotent."""
