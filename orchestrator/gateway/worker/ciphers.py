"""Encrypting and decrypting: self-contained requests, also where input comes in parts.

CBC and CTR go to an HSM part by part, each with the IV that the part before leaves: any HSM can
take any part. GCM and OAEP take all input at once, so that is gathered.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from orchestrator.gateway.attributes import load_public
from orchestrator.gateway.cryptoki import CKM, CKR, CryptokiError
from orchestrator.gateway.rpc.mechanisms import (
    CtrParameter,
    GcmParameter,
    Mechanism,
    OaepParameter,
)
from orchestrator.gateway.worker.backend import Backend
from orchestrator.gateway.worker.failures import cryptoki_error
from orchestrator.gateway.worker.hashes import BY_MECHANISM, BY_MGF
from orchestrator.gateway.worker.operation import JOURNAL_BYTES_MAX, Journal, Operation, Use
from orchestrator.model.errors import OrchestratorError
from orchestrator.model.fips import check_decryption
from orchestrator.model.key_spec import (
    AES_BLOCK_BYTES,
    DIGEST_BYTES,
    GCM_NONCE_BYTES,
    CipherMechanism,
    CipherScheme,
    HashFunction,
    KeyClass,
    KeyType,
)
from orchestrator.model.keys import Key
from orchestrator.wire import messages as m

_BLOCK: Final = AES_BLOCK_BYTES
_PIECE_BYTES: Final = JOURNAL_BYTES_MAX // _BLOCK * _BLOCK
_PKCS1_BYTES: Final = 11
_RSA: Final = frozenset({CKM.RSA_PKCS, CKM.RSA_PKCS_OAEP})
_AES: Final = frozenset({CKM.AES_ECB, CKM.AES_CBC, CKM.AES_CBC_PAD, CKM.AES_CTR, CKM.AES_GCM})
_HASHES: Final[dict[HashFunction, Callable[[], hashes.HashAlgorithm]]] = {
    HashFunction.SHA1: hashes.SHA1,
    HashFunction.SHA224: hashes.SHA224,
    HashFunction.SHA256: hashes.SHA256,
    HashFunction.SHA384: hashes.SHA384,
    HashFunction.SHA512: hashes.SHA512,
}


def operation(backend: Backend, mechanism: Mechanism, key: Key, *, decrypt: bool) -> Operation:
    """Return an operation, everything checked that needs no data."""
    is_rsa = mechanism.type in _RSA
    if not is_rsa and mechanism.type not in _AES:
        raise CryptokiError(CKR.MECHANISM_INVALID)
    if key.spec.type is not (KeyType.RSA if is_rsa else KeyType.AES):
        raise CryptokiError(CKR.KEY_TYPE_INCONSISTENT)
    if is_rsa and key.key_class is not (KeyClass.PRIVATE if decrypt else KeyClass.PUBLIC):
        raise CryptokiError(CKR.KEY_TYPE_INCONSISTENT)
    if not (key.attributes.decrypt if decrypt else key.attributes.encrypt):
        raise CryptokiError(CKR.KEY_FUNCTION_NOT_PERMITTED)
    request = _Request(backend, key.ref, decrypt=decrypt)
    match mechanism.type, mechanism.parameter:
        case CKM.AES_ECB, None:
            return Ecb(request)
        case CKM.AES_CBC, bytes(iv) if len(iv) == _BLOCK:
            return Cbc(request, iv, padded=False)
        case CKM.AES_CBC_PAD, bytes(iv) if len(iv) == _BLOCK:
            return Cbc(request, iv, padded=True)
        case CKM.AES_CTR, CtrParameter(bits, block) if len(block) == _BLOCK and 1 <= bits <= 128:
            return Ctr(request, bits, block)
        case CKM.AES_GCM, GcmParameter() as given:
            return Gcm(request, given)
        case CKM.RSA_PKCS_OAEP, OaepParameter() as given:
            chosen = oaep(given, backend)
            return RsaDecrypt(request, key, chosen) if decrypt else RsaEncrypt(key, chosen)
        case CKM.RSA_PKCS, None:
            _check_mode(backend.token.mode)
            return RsaDecrypt(request, key, None) if decrypt else RsaEncrypt(key, None)
        case _:
            raise CryptokiError(CKR.MECHANISM_PARAM_INVALID)


def _check_mode(mode: str) -> None:
    try:
        check_decryption(mode, CipherMechanism(CipherScheme.RSA_PKCS))
    except OrchestratorError as exc:
        raise cryptoki_error(exc) from exc


def oaep(given: OaepParameter, backend: Backend) -> HashFunction:
    """Return OAEP's hash function, which the tokens of this cluster have."""
    # Nothing is encrypted here that no HSM of this cluster could decrypt.
    hash_function = BY_MECHANISM.get(given.hash)
    if hash_function is None or BY_MGF.get(given.mgf) is not hash_function or given.label:
        raise CryptokiError(CKR.MECHANISM_PARAM_INVALID, "one hash function, and no label")
    if hash_function not in backend.token.oaep_hashes:
        raise CryptokiError(CKR.MECHANISM_PARAM_INVALID, "no token here has OAEP with it")
    return hash_function


_ERRORS: Final = {
    "not_found": CKR.KEY_HANDLE_INVALID,
    "usage": CKR.DATA_LEN_RANGE,
    "key_type": CKR.KEY_TYPE_INCONSISTENT,
}


class _Request:
    """One self-contained request to whichever HSM."""

    def __init__(self, backend: Backend, ref: int, *, decrypt: bool) -> None:
        self._backend, self._ref, self.is_decrypt = backend, ref, decrypt

    def length_error(self) -> CryptokiError:
        """Return the error for input that is not a whole number of blocks."""
        if self.is_decrypt:
            return CryptokiError(CKR.ENCRYPTED_DATA_LEN_RANGE)
        return CryptokiError(CKR.DATA_LEN_RANGE)

    def use(self, mechanism: CipherMechanism, data: bytes) -> Use:
        """Return the use of the key."""
        ref, request = self._ref, m.Decrypt if self.is_decrypt else m.Encrypt
        mechanism = mechanism.check()
        return Use(ref, lambda t, seen: request(t, seen, ref, mechanism, data), _ERRORS)

    def __call__(self, mechanism: CipherMechanism, data: bytes) -> bytes:
        """Wait for the use of the key."""
        return self._backend.use(self.use(mechanism, data))


class Ecb(Operation):
    """AES-ECB: whole blocks, each by itself."""

    def __init__(self, request: _Request) -> None:
        self._request, self._rest = request, b""

    def needed(self, more: int) -> int:
        """Return the length."""
        return len(self._rest) + more

    def ready(self, more: int) -> int:
        """Return the whole blocks."""
        return (len(self._rest) + more) // _BLOCK * _BLOCK

    def update(self, data: bytes) -> bytes:
        """Send whole blocks."""
        ready = self.ready(len(data))
        data = self._rest + data
        self._rest = data[ready:]
        mechanism = CipherMechanism(CipherScheme.AES_ECB)
        return b"".join(
            self._request(mechanism, data[at : min(at + _PIECE_BYTES, ready)])
            for at in range(0, ready, _PIECE_BYTES)
        )

    def finish(self, data: bytes) -> bytes:
        """Send the last blocks."""
        made = self.update(data)
        if self._rest:
            raise self._request.length_error()
        return made


class Cbc(Operation):
    """AES-CBC, with or without PKCS#7 padding."""

    def __init__(self, request: _Request, iv: bytes, *, padded: bool) -> None:
        self._request, self._iv, self._padded = request, iv, padded
        self._rest = b""

    def needed(self, more: int) -> int:
        """Return the length, a block more for padding."""
        total = len(self._rest) + more
        if not self._padded or self._request.is_decrypt:
            return total
        return total // _BLOCK * _BLOCK + _BLOCK

    def ready(self, more: int) -> int:
        """Return the whole blocks; the last one waits where it may hold padding."""
        total = len(self._rest) + more
        held_back = self._padded and self._request.is_decrypt and total % _BLOCK == 0
        return max(0, total // _BLOCK - held_back) * _BLOCK

    def update(self, data: bytes) -> bytes:
        """Send whole blocks."""
        ready = self.ready(len(data))
        data = self._rest + data
        made = b"".join(
            self._send(data[at : min(at + _PIECE_BYTES, ready)])
            for at in range(0, ready, _PIECE_BYTES)
        )
        self._rest = data[ready:]
        return made

    def _send(self, blocks: bytes) -> bytes:
        made = self._request(CipherMechanism(CipherScheme.AES_CBC, self._iv), blocks)
        self._iv = (blocks if self._request.is_decrypt else made)[-_BLOCK:]
        return made

    def finish(self, data: bytes) -> bytes:
        """Send the rest."""
        if self._padded and len(self._rest) + len(data) < _PIECE_BYTES:
            made, data = b"", self._rest + data  # one request is enough
        else:
            made, data = self.update(data), b""
            data = self._rest
        if self._padded:
            if self._request.is_decrypt and (not data or len(data) % _BLOCK):
                raise CryptokiError(CKR.ENCRYPTED_DATA_LEN_RANGE)
            return made + self._request(CipherMechanism(CipherScheme.AES_CBC_PAD, self._iv), data)
        if data:
            raise self._request.length_error()
        return made


class Ctr(Operation):
    """AES-CTR. The HSM counts in all 128 bits: a narrower counter must not reach its end."""

    def __init__(self, request: _Request, counter_bits: int, block: bytes) -> None:
        self._request = request
        self._counter = int.from_bytes(block, "big")
        self._end = (self._counter >> counter_bits) + 1 << counter_bits
        self._rest = b""

    def needed(self, more: int) -> int:
        """Return the length."""
        return len(self._rest) + more

    def ready(self, more: int) -> int:
        """Return the whole blocks."""
        return (len(self._rest) + more) // _BLOCK * _BLOCK

    def update(self, data: bytes) -> bytes:
        """Send whole blocks."""
        ready = self.ready(len(data))
        data = self._rest + data
        self._rest = data[ready:]
        return self._send(data[:ready])

    def _send(self, data: bytes) -> bytes:
        made = []
        for at in range(0, len(data), _PIECE_BYTES):
            piece = data[at : at + _PIECE_BYTES]
            after = self._counter - (-len(piece) // _BLOCK)
            if after > self._end:
                raise CryptokiError(CKR.DATA_LEN_RANGE, "the counter would pass its end")
            iv = self._counter.to_bytes(_BLOCK, "big")
            made.append(self._request(CipherMechanism(CipherScheme.AES_CTR, iv), piece))
            self._counter = after
        return b"".join(made)

    def finish(self, data: bytes) -> bytes:
        """Send the rest."""
        return self._send(self._rest + data)


class Gcm(Operation):
    """AES-GCM with a tag of 12 to 16 bytes.

    The HSM draws nonces itself, for one used twice gives the key away. So encryption takes no IV:
    length 0, or 12 zeros as a buffer for CloudHSM's, which this wire cannot fill. It returns the
    nonce before the ciphertext; decryption takes it there, or as parameter.
    """

    waits = False

    def __init__(self, request: _Request, given: GcmParameter) -> None:
        iv = given.iv
        if not request.is_decrypt and iv == bytes(GCM_NONCE_BYTES):
            iv = b""
        sizes = {0, GCM_NONCE_BYTES} if request.is_decrypt else {0}
        if given.tag_bits % 8 or len(iv) not in sizes:
            raise CryptokiError(
                CKR.MECHANISM_PARAM_INVALID, "the HSM draws the IV itself, of 12 bytes"
            )
        asked = CipherMechanism(CipherScheme.AES_GCM, iv, given.aad, tag_bytes=given.tag_bits // 8)
        try:
            self._mechanism = asked.check()
        except OrchestratorError as exc:
            raise CryptokiError(CKR.MECHANISM_PARAM_INVALID, str(exc)) from exc
        self._request = request
        self._journal = Journal()

    def needed(self, more: int) -> int:
        """Return the length with nonce and tag, or without."""
        total = len(self._journal) + more
        extra = self._mechanism.drawn_bytes() + self._mechanism.tag_bytes
        return max(0, total - extra) if self._request.is_decrypt else total + extra

    def update(self, data: bytes) -> bytes:
        """Gather."""
        self._journal.add(data)
        return b""

    def finish(self, data: bytes) -> Use:
        """Send all."""
        return self._request.use(self._mechanism, self._journal.whole(data))


class RsaDecrypt(Operation):
    """RSA in an HSM: OAEP, or PKCS#1 v1.5 where no hash is given."""

    waits = False

    def __init__(self, request: _Request, key: Key, hash_function: HashFunction | None) -> None:
        self._request, self._key = request, key
        if hash_function is None:
            self._mechanism = CipherMechanism(CipherScheme.RSA_PKCS)
            self._room = key.spec.bits // 8 - _PKCS1_BYTES
        else:
            self._mechanism = CipherMechanism(CipherScheme.RSA_OAEP, hash=hash_function)
            self._room = key.spec.bits // 8 - 2 * DIGEST_BYTES[hash_function] - 2
        self._journal = Journal()

    def needed(self, more: int) -> int:  # noqa: ARG002  # the Protocol's
        """Return the longest plaintext (RFC 8017 §7.1.1)."""
        return self._room

    def update(self, data: bytes) -> bytes:
        """Gather."""
        self._journal.add(data)
        return b""

    def finish(self, data: bytes) -> Use:
        """Decrypt."""
        whole = self._journal.whole(data)
        if len(whole) != self._key.spec.bits // 8:
            raise CryptokiError(CKR.ENCRYPTED_DATA_LEN_RANGE)
        return self._request.use(self._mechanism, whole)


class RsaEncrypt(Operation):
    """RSA with the public half, which needs no HSM: OAEP, or PKCS#1 v1.5 where no hash is given."""

    waits = False

    def __init__(self, key: Key, hash_function: HashFunction | None) -> None:
        public = load_public(key.public)
        if not isinstance(public, rsa.RSAPublicKey):
            raise CryptokiError(CKR.KEY_TYPE_INCONSISTENT)
        self._public, self._size = public, key.spec.bits // 8
        self._padding: padding.AsymmetricPadding = padding.PKCS1v15()
        self._room = self._size - _PKCS1_BYTES
        if hash_function is not None:
            algorithm = _HASHES[hash_function]()
            self._padding = padding.OAEP(padding.MGF1(algorithm), algorithm, None)
            self._room = self._size - 2 * DIGEST_BYTES[hash_function] - 2
        self._journal = Journal()

    def needed(self, more: int) -> int:  # noqa: ARG002  # the Protocol's
        """Return the length of the modulus."""
        return self._size

    def update(self, data: bytes) -> bytes:
        """Gather."""
        self._journal.add(data)
        return b""

    def finish(self, data: bytes) -> bytes:
        """Encrypt."""
        whole = self._journal.whole(data)
        if len(whole) > self._room:
            raise CryptokiError(CKR.DATA_LEN_RANGE)
        return self._public.encrypt(whole, self._padding)
