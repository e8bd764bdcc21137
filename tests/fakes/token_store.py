"""A token in memory: a fake, which passes the same contract suite as the real ones."""

from __future__ import annotations

import hashlib
import hmac
import os
import threading
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.cmac import CMAC
from cryptography.hazmat.primitives.keywrap import (
    InvalidUnwrap,
    aes_key_unwrap_with_padding,
    aes_key_wrap_with_padding,
)
from cryptography.hazmat.primitives.padding import PKCS7
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
    load_der_public_key,
)

from orchestrator.client.verify import raw_signature
from orchestrator.model.errors import MechanismUnavailableError, RefusedError, UsageError
from orchestrator.model.key_spec import (
    Agreement,
    CipherMechanism,
    CipherScheme,
    Curve,
    HashFunction,
    Kdf,
    KeySpec,
    KeyType,
    MacMechanism,
    SignMechanism,
    SignScheme,
    Usage,
)
from orchestrator.model.profile import WRAP_MECHANISMS
from orchestrator.model.wrap_mechanism import WrapMechanism
from orchestrator.tokens._requests import check_clear_key
from orchestrator.tokens.store import (
    BlobRefusedError,
    GeneratedKey,
    Handle,
    NoMaskingKeyError,
    TokenError,
    TokenFullError,
    Transport,
    UnwrappedKey,
    WrappingKey,
)
from tests.fakes.foreign_keys import load_padded, pkcs8, unwrap_outside, wrap_outside

_HASHES: dict[HashFunction, Callable[[], hashes.HashAlgorithm]] = {
    HashFunction.SHA1: hashes.SHA1,
    HashFunction.SHA224: hashes.SHA224,
    HashFunction.SHA256: hashes.SHA256,
    HashFunction.SHA384: hashes.SHA384,
    HashFunction.SHA512: hashes.SHA512,
}
_CURVES: dict[Curve, ec.EllipticCurve] = {
    Curve.P256: ec.SECP256R1(),
    Curve.P384: ec.SECP384R1(),
    Curve.P521: ec.SECP521R1(),
    Curve.SECP256K1: ec.SECP256K1(),
}
Private = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


@dataclass
class Durable:
    """What survives a crash."""

    identity: ec.EllipticCurvePrivateKey
    box: ec.EllipticCurvePrivateKey
    state: bytes
    masking: bytes | None = None


_POOL: list[rsa.RSAPrivateKey] = []


def _rsa(spec: KeySpec) -> rsa.RSAPrivateKey:
    """RSA keys are slow to make, and no test here needs them to differ for ever."""
    if spec.bits != 2048 or spec.public_exponent != 65537:
        return rsa.generate_private_key(spec.public_exponent, spec.bits)
    if len(_POOL) < 3:
        _POOL.append(rsa.generate_private_key(65537, 2048))
    else:
        _POOL.append(_POOL.pop(0))
    return _POOL[-1]  # never the one of the call before


class FakeTokenStore:
    """TokenStore on `cryptography`; keys are in this process's memory, in clear."""

    def __init__(self, durable: Durable | None = None) -> None:
        self._durable = durable or Durable(
            ec.generate_private_key(ec.SECP256R1()),
            ec.generate_private_key(ec.SECP256R1()),
            os.urandom(32),
        )
        self._transport: ec.EllipticCurvePrivateKey | None = None
        self._loaded: dict[Handle, tuple[Private | bytes, KeySpec, frozenset[Usage]]] = {}
        self._next = 1
        self._lock = threading.Lock()

    def crashed(self) -> FakeTokenStore:
        """Return the store as it is after a crash: the durable part alone."""
        return FakeTokenStore(self._durable)

    def identity_public(self) -> bytes:
        return _spki(self._durable.identity)

    def identity_sign(self, digest: bytes) -> bytes:
        if len(digest) != 32:
            raise UsageError("an identity signs 32-byte digests")
        algorithm = ec.ECDSA(utils.Prehashed(hashes.SHA256()))
        return raw_signature(self._durable.identity.sign(digest, algorithm), 32)

    def box_public(self) -> bytes:
        return _point(self._durable.box)

    def box_agree(self, point: bytes) -> bytes:
        return _agree(self._durable.box, point, ec.SECP256R1())

    def seal(self, plaintext: bytes, aad: bytes) -> bytes:
        nonce = os.urandom(12)
        return nonce + AESGCM(self._durable.state).encrypt(nonce, plaintext, aad)

    def unseal(self, sealed: bytes, aad: bytes) -> bytes:
        return _open(self._durable.state, sealed, aad)

    def random(self, count: int) -> bytes:
        if not 1 <= count <= 65536:
            raise UsageError("1 to 65536 bytes")
        return os.urandom(count)

    def has_masking_key(self) -> bool:
        return self._durable.masking is not None

    def create_masking_key(self) -> None:
        self._need_none()
        self._durable.masking = os.urandom(32)

    def _need_none(self) -> None:
        if self._durable.masking is not None:
            raise TokenFullError("there is a masking key already")

    def _masking(self) -> bytes:
        if self._durable.masking is None:
            raise NoMaskingKeyError("no masking key")
        return self._durable.masking

    def transport_open(self) -> bytes:
        self._transport = ec.generate_private_key(ec.SECP384R1())
        return _point(self._transport)

    def wrap_masking_key(self, point: bytes) -> Transport:
        masking = self._masking()
        ephemeral = ec.generate_private_key(ec.SECP384R1())
        kek = _agree(ephemeral, point, ec.SECP384R1())[-32:]
        return Transport(_point(ephemeral), aes_key_wrap_with_padding(kek, masking))

    def accept_masking_key(self, transport: Transport) -> None:
        self._need_none()
        masking = self._receive(transport)
        if len(masking) != 32:
            raise BlobRefusedError("not a masking key")
        self._durable.masking, self._transport = masking, None

    def accept_recovered(self, recovery_key: Transport, envelope: Transport) -> None:
        self._need_none()
        private = load_der_private_key(self._receive(recovery_key), None)
        assert isinstance(private, ec.EllipticCurvePrivateKey)
        kek = _agree(private, envelope.point, ec.SECP384R1())[-32:]
        self._durable.masking, self._transport = _unwrap(kek, envelope.wrapped), None

    def _receive(self, transport: Transport) -> bytes:
        if self._transport is None:
            raise BlobRefusedError("no transport pair is open")
        kek = _agree(self._transport, transport.point, ec.SECP384R1())[-32:]
        return _unwrap(kek, transport.wrapped)

    def generate(self, spec: KeySpec) -> GeneratedKey:
        masking = self._masking()
        if spec.type in {KeyType.AES, KeyType.GENERIC_SECRET}:
            return self._wrapped(os.urandom(spec.bits // 8), spec)
        private: Private
        private = _rsa(spec) if spec.curve is None else ec.generate_private_key(_CURVES[spec.curve])
        der = private.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        public = _spki(private)
        check = hashlib.sha1(public, usedforsecurity=False).digest()[:3]
        return GeneratedKey(aes_key_wrap_with_padding(masking, der), public, check)

    def import_key(self, spec: KeySpec, value: bytes) -> GeneratedKey:
        masking, given = self._masking(), check_clear_key(spec, value)
        if isinstance(given, bytes):
            return self._wrapped(given, spec)
        public = _spki(given)
        check = hashlib.sha1(public, usedforsecurity=False).digest()[:3]
        return GeneratedKey(aes_key_wrap_with_padding(masking, value), public, check)

    def _wrapped(self, secret: bytes, spec: KeySpec) -> GeneratedKey:
        check = b""
        if spec.type is KeyType.AES:
            ecb = Cipher(algorithms.AES(secret), modes.ECB()).encryptor()  # noqa: S305  # a check value
            check = ecb.update(bytes(16))[:3]
        return GeneratedKey(aes_key_wrap_with_padding(self._masking(), secret), b"", check)

    def load(self, blob: bytes, spec: KeySpec, usages: AbstractSet[Usage]) -> Handle:
        plain = _unwrap(self._masking(), blob)
        key: Private | bytes = plain
        if spec.type in {KeyType.RSA, KeyType.EC}:
            try:
                loaded = load_der_private_key(plain, None)
            except ValueError as exc:
                raise BlobRefusedError("no private key") from exc
            expected = rsa.RSAPrivateKey if spec.type is KeyType.RSA else ec.EllipticCurvePrivateKey
            if not isinstance(loaded, expected):
                raise BlobRefusedError("a key of another type")
            key = loaded
        elif len(plain) != spec.bits // 8:
            raise BlobRefusedError("a key of another size")
        with self._lock:
            handle = Handle(self._next)
            self._next += 1
        self._loaded[handle] = (key, spec, frozenset(usages))
        return handle

    def unload(self, handle: Handle) -> None:
        self._loaded.pop(handle, None)

    def _use(self, handle: Handle, usage: Usage) -> Private | bytes:
        if handle not in self._loaded:
            raise TokenError("the key is not loaded")
        key, _, usages = self._loaded[handle]
        if usage not in usages:
            raise RefusedError("key-usage", f"this key may not {usage}")
        return key

    def sign(self, handle: Handle, mechanism: SignMechanism, digest: bytes) -> bytes:
        key = self._use(handle, Usage.SIGN)
        mechanism.check(self._loaded[handle][1], digest)
        if mechanism.hash is None:
            return _sign_raw(key, digest)
        algorithm = _HASHES[mechanism.hash]()
        prehashed = utils.Prehashed(algorithm)
        if isinstance(key, rsa.RSAPrivateKey) and mechanism.scheme is SignScheme.RSA_PKCS:
            return key.sign(digest, padding.PKCS1v15(), prehashed)
        if isinstance(key, rsa.RSAPrivateKey) and mechanism.scheme is SignScheme.RSA_PSS:
            pss = padding.PSS(padding.MGF1(algorithm), mechanism.salt_bytes)
            return key.sign(digest, pss, prehashed)
        if isinstance(key, ec.EllipticCurvePrivateKey) and mechanism.scheme is SignScheme.ECDSA:
            half = (key.key_size + 7) // 8
            return raw_signature(key.sign(digest, ec.ECDSA(prehashed)), half)
        raise RefusedError("key-type", "another type of key")

    def encrypt(self, handle: Handle, mechanism: CipherMechanism, plaintext: bytes) -> bytes:
        if mechanism.check().key_type is KeyType.RSA:
            raise UsageError("with the public key")
        key = self._secret(handle, Usage.ENCRYPT, KeyType.AES)
        if mechanism.scheme is CipherScheme.AES_GCM:
            if mechanism.iv:
                raise UsageError("the HSM draws the nonce")
            nonce = os.urandom(12)
            sealed = AESGCM(key).encrypt(nonce, plaintext, mechanism.aad)
            return nonce + sealed[: len(plaintext) + mechanism.tag_bytes]
        drawn = os.urandom(mechanism.drawn_bytes())
        if mechanism.scheme is CipherScheme.AES_CBC_PAD:
            padder = PKCS7(128).padder()
            plaintext = padder.update(plaintext) + padder.finalize()
        blocks = -(-len(plaintext) // 16)
        counts = mechanism.scheme is CipherScheme.AES_CTR
        if counts and int.from_bytes(mechanism.iv, "big") + blocks > 1 << 128:
            raise UsageError("the counter would pass its end")
        encryptor = Cipher(algorithms.AES(key), _mode(mechanism, mechanism.iv or drawn)).encryptor()
        try:
            return drawn + encryptor.update(plaintext) + encryptor.finalize()
        except ValueError as exc:
            raise UsageError("not whole blocks") from exc

    def decrypt(self, handle: Handle, mechanism: CipherMechanism, ciphertext: bytes) -> bytes:
        if mechanism.check().key_type is KeyType.RSA:
            return self._decrypt_rsa(handle, mechanism, ciphertext)
        key = self._secret(handle, Usage.DECRYPT, KeyType.AES)
        if mechanism.scheme is CipherScheme.AES_GCM:
            return _open_gcm(key, mechanism, ciphertext)
        drawn = mechanism.drawn_bytes()
        try:
            mode = _mode(mechanism, mechanism.iv or ciphertext[:drawn])
            decryptor = Cipher(algorithms.AES(key), mode).decryptor()
            plain = decryptor.update(ciphertext[drawn:]) + decryptor.finalize()
            if mechanism.scheme is CipherScheme.AES_CBC_PAD:
                unpadder = PKCS7(128).unpadder()
                plain = unpadder.update(plain) + unpadder.finalize()
        except ValueError as exc:
            raise BlobRefusedError("this does not decrypt") from exc
        return plain

    def _decrypt_rsa(self, handle: Handle, mechanism: CipherMechanism, ciphertext: bytes) -> bytes:
        key = self._use(handle, Usage.DECRYPT)
        if not isinstance(key, rsa.RSAPrivateKey):
            raise RefusedError("key-type", "another type of key")
        try:
            if mechanism.hash is None:
                return _unpadded(key, ciphertext)
            algorithm = _HASHES[mechanism.hash]()
            return key.decrypt(ciphertext, padding.OAEP(padding.MGF1(algorithm), algorithm, None))
        except ValueError as exc:
            raise BlobRefusedError("this does not decrypt") from exc

    def _secret(self, handle: Handle, usage: Usage, key_type: KeyType) -> bytes:
        key = self._use(handle, usage)
        if not isinstance(key, bytes) or self._loaded[handle][1].type is not key_type:
            raise RefusedError("key-type", "another type of key")
        return key

    def mac(self, handle: Handle, mechanism: MacMechanism, data: bytes) -> bytes:
        return _mac(self._secret(handle, Usage.SIGN, mechanism.key_type), mechanism, data)

    def verify_mac(
        self, handle: Handle, mechanism: MacMechanism, data: bytes, mac: bytes, length: int = 0
    ) -> None:
        count = mechanism.check_length(length)
        right = _mac(self._secret(handle, Usage.VERIFY, mechanism.key_type), mechanism, data)
        if not hmac.compare_digest(right[:count], mac):
            raise RefusedError("signature-invalid", "Signature verification failed")

    def derive(self, handle: Handle, agreement: Agreement, spec: KeySpec) -> GeneratedKey:
        key = self._use(handle, Usage.DERIVE)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        spec.check_derived(self._loaded[handle][1])
        if agreement.kdf is not Kdf.NULL:
            raise MechanismUnavailableError("fake", f"CKM_ECDH1_DERIVE with {agreement.kdf}")
        secret = _agree(key, agreement.point, key.curve)[-spec.bits // 8 :]
        return self._wrapped(secret, spec)

    def wrap(
        self, wrapper: WrappingKey, mechanism: WrapMechanism, blob: bytes, spec: KeySpec
    ) -> bytes:
        _check_wrapper(wrapper, mechanism)
        mechanism.check_payload(spec, wrapper.spec)
        plain = _unwrap(self._masking(), blob)
        if wrapper.public:
            public = load_der_public_key(wrapper.public)
            assert isinstance(public, rsa.RSAPublicKey)
            return wrap_outside(public, mechanism, plain)
        return wrap_outside(_unwrap(self._masking(), wrapper.blob), mechanism, plain)

    def unwrap(
        self, unwrapper: WrappingKey, mechanism: WrapMechanism, wrapped: bytes, key_type: KeyType
    ) -> UnwrappedKey:
        _check_wrapper(unwrapper, mechanism)
        outer: bytes | rsa.RSAPrivateKey = _unwrap(self._masking(), unwrapper.blob)
        if isinstance(outer, bytes) and unwrapper.spec.type is KeyType.RSA:
            private = load_der_private_key(outer, None)
            assert isinstance(private, rsa.RSAPrivateKey)
            outer = private
        try:
            plain = unwrap_outside(outer, mechanism, wrapped)
        except ValueError as exc:
            raise BlobRefusedError("this does not unwrap") from exc
        if key_type in {KeyType.AES, KeyType.GENERIC_SECRET}:
            if key_type is KeyType.AES and len(plain) not in {16, 24, 32}:
                raise BlobRefusedError("this does not unwrap")
            spec = KeySpec(key_type, len(plain) * 8).check()
            return UnwrappedKey(spec, self._wrapped(plain, spec))
        return self._unwrapped_private(plain, key_type)

    def _unwrapped_private(self, plain: bytes, key_type: KeyType) -> UnwrappedKey:
        try:
            key = load_padded(plain)
        except (ValueError, UnsupportedAlgorithm, AssertionError, IndexError) as exc:
            raise BlobRefusedError("this does not unwrap") from exc
        if isinstance(key, rsa.RSAPrivateKey) is not (key_type is KeyType.RSA):
            raise BlobRefusedError("this does not unwrap")
        if isinstance(key, rsa.RSAPrivateKey):
            exponent = key.public_key().public_numbers().e
            spec = KeySpec(KeyType.RSA, key.key_size, None, exponent).check()
        else:
            names = {curve.name: name for name, curve in _CURVES.items()}
            if key.curve.name not in names:
                raise RefusedError("key-spec", "no such curve")
            spec = KeySpec(KeyType.EC, key.key_size, names[key.curve.name])
        public = _spki(key)
        check = hashlib.sha1(public, usedforsecurity=False).digest()[:3]
        blob = aes_key_wrap_with_padding(self._masking(), pkcs8(key))
        return UnwrappedKey(spec, GeneratedKey(blob, public, check))

    def agree(self, handle: Handle, point: bytes) -> bytes:
        key = self._use(handle, Usage.AGREE)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        return _agree(key, point, ec.SECP256R1())

    def erase(self) -> None:
        self._durable.masking = None
        self._loaded.clear()

    def close(self) -> None:
        self._loaded.clear()


def _check_wrapper(wrapper: WrappingKey, mechanism: WrapMechanism) -> None:
    if mechanism.check().scheme not in WRAP_MECHANISMS:
        raise MechanismUnavailableError("fake", f"to wrap by {mechanism.scheme}")
    if wrapper.spec.type is not mechanism.key_type:
        raise RefusedError("key-type", "another type of key")


def _spki(key: Private) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _point(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


def _agree(key: ec.EllipticCurvePrivateKey, point: bytes, curve: ec.EllipticCurve) -> bytes:
    try:
        if point[:1] != b"\x04":
            raise ValueError("compressed")
        public = ec.EllipticCurvePublicKey.from_encoded_point(curve, point)
    except ValueError as exc:
        raise BlobRefusedError("no point of the curve") from exc
    return key.exchange(ec.ECDH(), public)


def _sign_raw(key: Private | bytes, data: bytes) -> bytes:
    if isinstance(key, rsa.RSAPrivateKey):
        numbers, size = key.private_numbers(), key.key_size // 8
        padded = b"\0\1" + b"\xff" * (size - len(data) - 3) + b"\0" + data
        modulus = numbers.public_numbers.n
        return pow(int.from_bytes(padded, "big"), numbers.d, modulus).to_bytes(size, "big")
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    order_bytes = min((key.key_size + 7) // 8, 64)
    algorithm = _HASHES[
        {32: HashFunction.SHA256, 48: HashFunction.SHA384}.get(order_bytes, HashFunction.SHA512)
    ]()
    digest = data[:order_bytes].rjust(order_bytes, b"\0")
    made = key.sign(digest, ec.ECDSA(utils.Prehashed(algorithm)))
    return raw_signature(made, (key.key_size + 7) // 8)


def _unpadded(key: rsa.RSAPrivateKey, ciphertext: bytes) -> bytes:
    """PKCS#1 v1.5, by hand: newer OpenSSL answers bad padding with random bytes."""
    numbers, size = key.private_numbers(), key.key_size // 8
    number, modulus = int.from_bytes(ciphertext, "big"), numbers.public_numbers.n
    if len(ciphertext) != size or number >= modulus:
        raise ValueError("no ciphertext of this key")
    padded = pow(number, numbers.d, modulus).to_bytes(size, "big")
    end = padded.find(b"\0", 2)
    if padded[:2] != b"\0\2" or end < 10:
        raise ValueError("no padding")
    return padded[end + 1 :]


def _open_gcm(key: bytes, mechanism: CipherMechanism, ciphertext: bytes) -> bytes:
    drawn = mechanism.drawn_bytes()
    nonce, rest = mechanism.iv or ciphertext[:drawn], ciphertext[drawn:]
    cut = len(rest) - mechanism.tag_bytes
    try:
        mode = modes.GCM(nonce, rest[cut:] if cut >= 0 else b"", mechanism.tag_bytes)
        decryptor = Cipher(algorithms.AES(key), mode).decryptor()
        decryptor.authenticate_additional_data(mechanism.aad)
        return decryptor.update(rest[:cut]) + decryptor.finalize()
    except (InvalidTag, ValueError) as exc:
        raise BlobRefusedError("the tag does not match") from exc


def _mode(mechanism: CipherMechanism, iv: bytes) -> modes.CTR | modes.CBC | modes.ECB:
    if mechanism.scheme is CipherScheme.AES_ECB:
        return modes.ECB()  # noqa: S305  # what the caller asks for
    return modes.CTR(iv) if mechanism.scheme is CipherScheme.AES_CTR else modes.CBC(iv)


def _mac(key: bytes, mechanism: MacMechanism, data: bytes) -> bytes:
    if mechanism is MacMechanism.AES_CMAC:
        cmac = CMAC(algorithms.AES(key))
        cmac.update(data)
        return cmac.finalize()
    return hmac.digest(key, data, mechanism.removeprefix("hmac-"))


def _open(key: bytes, sealed: bytes, aad: bytes) -> bytes:
    try:
        return AESGCM(key).decrypt(sealed[:12], sealed[12:], aad)
    except (InvalidTag, ValueError) as exc:
        raise BlobRefusedError("the tag does not match") from exc


def _unwrap(key: bytes, wrapped: bytes) -> bytes:
    try:
        return aes_key_unwrap_with_padding(key, wrapped)
    except (InvalidUnwrap, ValueError) as exc:
        raise BlobRefusedError("not wrapped under this key") from exc
