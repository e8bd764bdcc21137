"""The classical attacks on PKCS#11's key management, as an application would run them.

Each takes a login and a key that is sensitive and never readable, and returns that key's value, by
calls that the standard allows. Sources: J. Clulow, CHES 2003; S. Delaune, S. Kremer, G. Steel, CSF
2008; M. Bortolozzo, M. Centenaro, R. Focardi, G. Steel, CCS 2010 (the tool is Tookan).
"""

from __future__ import annotations

from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.keywrap import aes_key_unwrap

from orchestrator.gateway.cryptoki import CKA, CKK, CKM, CKO
from tests.gateway import wire as w

AES_KEY_WRAP: Final = 0x2109
AES_ECB: Final = 0x1081
CREATE_OBJECT, COPY_OBJECT, DESTROY_OBJECT, SET_ATTRIBUTE_VALUE = 20, 21, 22, 25
ENCRYPT_INIT, DECRYPT_INIT, WRAP_KEY, UNWRAP_KEY = 29, 33, 60, 61
Attributes = list[tuple[int, Any]]
SECRET: Final[Attributes] = [(CKA.CLASS, int(CKO.SECRET_KEY)), (CKA.KEY_TYPE, int(CKK.AES))]


class Attacker:
    """A logged-in application, and the key that it may use and must not know."""

    def __init__(self, client: w.Client, session: int) -> None:
        self.client, self.session = client, session
        self.step, self.made = "", list[int]()
        self.target = self.secret((CKA.ENCRYPT, 1), (CKA.EXTRACTABLE, 1))

    def mechanism(self, number: int, parameter: bytes | None = None) -> bytes:
        return w.mechanism(self.client.offered, number, parameter)

    def secret(self, *more: tuple[int, Any]) -> int:
        self.step = "C_GenerateKey"
        template: Attributes = [(CKA.SENSITIVE, 1), (CKA.TOKEN, 1), (CKA.VALUE_LEN, 32), *more]
        key = self.client.key(self.session, self.mechanism(CKM.AES_KEY_GEN), template)
        return self._noted(key)[0]

    def _noted(self, *handles: int) -> tuple[int, ...]:
        self.made += handles
        return handles

    def clean_up(self) -> None:
        for handle in self.made:
            self.client.call(DESTROY_OBJECT, "uu", w.u64(self.session) + w.u64(handle))

    def pair(self, public: Attributes, private: Attributes) -> tuple[int, int]:
        self.step = "C_GenerateKeyPair"
        size: Attributes = [(CKA.MODULUS_BITS, 2048), (CKA.PUBLIC_EXPONENT, b"\1\0\1")]
        made = self.client.pair(
            self.session,
            self.mechanism(CKM.RSA_PKCS_KEY_PAIR_GEN),
            [*size, (CKA.TOKEN, 1), *public],
            [(CKA.SENSITIVE, 1), (CKA.TOKEN, 1), (CKA.EXTRACTABLE, 0), *private],
        )
        self._noted(*made)
        return made

    def create(self, template: Attributes) -> int:
        self.step = "C_CreateObject"
        values = w.u64(self.session) + w.attributes(template)
        return self._noted(self.client.call(CREATE_OBJECT, "uaA", values).u())[0]

    def copy(self, key: int, *template: tuple[int, Any]) -> int:
        self.step = "C_CopyObject"
        values = w.u64(self.session) + w.u64(key) + w.attributes(template)
        return self._noted(self.client.call(COPY_OBJECT, "uuaA", values).u())[0]

    def change(self, key: int, *template: tuple[int, Any]) -> None:
        self.step = "C_SetAttributeValue"
        values = w.u64(self.session) + w.u64(key) + w.attributes(template)
        self.client.call(SET_ATTRIBUTE_VALUE, "uuaA", values)

    def wrap(self, number: int, wrapper: int, key: int) -> bytes:
        self.step = "C_WrapKey"
        keys = w.u64(wrapper) + w.u64(key)
        values = w.u64(self.session) + self.mechanism(number) + keys + w.u32(512)
        wrapped = self.client.call(WRAP_KEY, "uMuufy", values).bytes_()
        assert isinstance(wrapped, bytes)
        return wrapped

    def unwrap(self, key: int, wrapped: bytes, *more: tuple[int, Any]) -> int:
        self.step = "C_UnwrapKey"
        template = w.attributes([*SECRET, (CKA.TOKEN, 1), *more])
        head = w.u64(self.session) + self.mechanism(CKM.RSA_PKCS) + w.u64(key)
        answer = self.client.call(UNWRAP_KEY, "uMuayaA", head + w.ay(wrapped) + template)
        return self._noted(answer.u())[0]

    def cipher(self, init: int, number: int, key: int, data: bytes) -> bytes:
        self.step = "C_DecryptInit" if init == DECRYPT_INIT else "C_EncryptInit"
        self.client.init(init, self.session, self.mechanism(number), key)
        made = self.client.one_step(init + 1, self.session, data)
        assert isinstance(made, bytes)
        return made

    def value(self, key: int) -> bytes:
        self.step = "C_GetAttributeValue"
        values, rv = self.client.read(self.session, key, CKA.VALUE)
        if rv:
            raise w.Refused(rv)
        return bytes(values[CKA.VALUE])

    def unwrap_by_decrypting(self, key: int, wrapped: bytes) -> bytes:
        """RFC 3394 §2.2.2 with an HSM's AES-ECB as the block cipher."""
        a, blocks = wrapped[:8], [wrapped[at : at + 8] for at in range(8, len(wrapped), 8)]
        for t in range(6 * len(blocks), 0, -1):
            i = (t - 1) % len(blocks)
            mixed = (int.from_bytes(a, "big") ^ t).to_bytes(8, "big")
            block = self.cipher(DECRYPT_INIT, AES_ECB, key, mixed + blocks[i])
            a, blocks[i] = block[:8], block[8:]
        assert a == b"\xa6" * 8
        return b"".join(blocks)

    def knows(self, value: bytes) -> bool:
        """Tell whether `value` is the target's, by what the HSM encrypts with it."""
        block = bytes(range(16))
        outside = Cipher(algorithms.AES(value), modes.ECB()).encryptor().update(block)  # noqa: S305
        return self.cipher(ENCRYPT_INIT, AES_ECB, self.target, block) == outside


def wrap_then_decrypt(by: Attacker) -> bytes:
    """Clulow 2003 §3.3, Tookan's a1: one AES key wraps, and decrypts what it has wrapped."""
    key = by.secret((CKA.WRAP, 1), (CKA.DECRYPT, 1))
    return by.unwrap_by_decrypting(key, by.wrap(AES_KEY_WRAP, key, by.target))


def wrap_then_decrypt_by_a_pair(by: Attacker) -> bytes:
    """Tookan's a2: the public half wraps, the private half decrypts."""
    public, private = by.pair([(CKA.WRAP, 1)], [(CKA.DECRYPT, 1)])
    wrapped = by.wrap(CKM.RSA_PKCS, public, by.target)
    return by.cipher(DECRYPT_INIT, CKM.RSA_PKCS, private, wrapped)


def separation_by_attribute_change(by: Attacker) -> bytes:
    """Clulow 2003 §3.3: the roles one after the other, where they cannot be had together."""
    public, private = by.pair([(CKA.WRAP, 1)], [(CKA.UNWRAP, 1), (CKA.DECRYPT, 0)])
    wrapped = by.wrap(CKM.RSA_PKCS, public, by.target)
    by.change(private, (CKA.DECRYPT, 1))
    return by.cipher(DECRYPT_INIT, CKM.RSA_PKCS, private, wrapped)


def separation_by_copy(by: Attacker) -> bytes:
    """The roles on two objects of one value, made by C_CopyObject."""
    public, private = by.pair([(CKA.WRAP, 1)], [(CKA.UNWRAP, 1), (CKA.DECRYPT, 0)])
    wrapped = by.wrap(CKM.RSA_PKCS, public, by.target)
    twin = by.copy(private, (CKA.DECRYPT, 1))
    return by.cipher(DECRYPT_INIT, CKM.RSA_PKCS, twin, wrapped)


def separation_by_reimport(by: Attacker) -> bytes:
    """Delaune, Kremer, Steel 2008, "re-import": one value unwrapped twice, with other roles."""
    public, private = by.pair([(CKA.WRAP, 1)], [(CKA.UNWRAP, 1), (CKA.DECRYPT, 0)])
    key = by.secret((CKA.ENCRYPT, 1), (CKA.EXTRACTABLE, 1))
    blob = by.wrap(CKM.RSA_PKCS, public, key)
    wraps = by.unwrap(private, blob, (CKA.WRAP, 1), (CKA.DECRYPT, 0))
    decrypts = by.unwrap(private, blob, (CKA.DECRYPT, 1), (CKA.WRAP, 0))
    return by.unwrap_by_decrypting(decrypts, by.wrap(AES_KEY_WRAP, wraps, by.target))


def encrypt_then_unwrap(by: Attacker) -> bytes:
    """Delaune, Kremer, Steel 2008, "encrypt/unwrap": a key known outside comes in and wraps."""
    known = bytes(range(32))
    public, private = by.pair([(CKA.ENCRYPT, 1)], [(CKA.UNWRAP, 1), (CKA.DECRYPT, 0)])
    blob = by.cipher(ENCRYPT_INIT, CKM.RSA_PKCS, public, known)
    trojan = by.unwrap(private, blob, (CKA.WRAP, 1))
    return aes_key_unwrap(known, by.wrap(AES_KEY_WRAP, trojan, by.target))


def trojan_public_key(by: Attacker) -> bytes:
    """Clulow 2003 §3.5: the attacker's own public key wraps, and his private half is outside."""
    mine = rsa.generate_private_key(65537, 2048)
    modulus = mine.public_key().public_numbers().n.to_bytes(256, "big")
    template: Attributes = [(CKA.CLASS, int(CKO.PUBLIC_KEY)), (CKA.KEY_TYPE, int(CKK.RSA))]
    template += [(CKA.TOKEN, 1), (CKA.WRAP, 1), (CKA.MODULUS, modulus)]
    trojan = by.create([*template, (CKA.PUBLIC_EXPONENT, b"\1\0\1")])
    return mine.decrypt(by.wrap(CKM.RSA_PKCS, trojan, by.target), padding.PKCS1v15())


def downgrade_by_unwrapping(by: Attacker) -> bytes:
    """Tookan's a5: what was sensitive comes back as what is not, and is read."""
    public, private = by.pair([(CKA.WRAP, 1)], [(CKA.UNWRAP, 1), (CKA.DECRYPT, 0)])
    wrapped = by.wrap(CKM.RSA_PKCS, public, by.target)
    more = ((CKA.SENSITIVE, 0), (CKA.EXTRACTABLE, 1))
    return by.value(by.unwrap(private, wrapped, *more))


def sensitive_reset(by: Attacker) -> bytes:
    """CKA_SENSITIVE is taken back in place (forbidden by PKCS#11 2.40 §4.9)."""
    by.change(by.target, (CKA.SENSITIVE, 0))
    return by.value(by.target)


def sensitive_reset_by_copy(by: Attacker) -> bytes:
    """CKA_SENSITIVE is taken back on a copy."""
    return by.value(by.copy(by.target, (CKA.SENSITIVE, 0)))
