"""A token store on SoftHSM v2, through python-pkcs11. One process serves one token.

The token keeps identity, box and state key (made once, never leaving) and the masking key, which
alone is extractable, because it moves to joiners. Application keys are session objects.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import ec
from pkcs11 import (
    Attribute,
    MechanismFlag,
    ObjectClass,
    PKCS11Error,
)
from pkcs11 import (
    KeyType as CkKeyType,
)
from pkcs11 import (
    Mechanism as Ck,
)

from orchestrator.model.errors import MechanismUnavailableError
from orchestrator.model.key_spec import (
    CipherMechanism,
    CipherScheme,
    Curve,
    KeySpec,
    KeyType,
)
from orchestrator.model.profile import (
    FirmwareProfile,
)
from orchestrator.tokens import _operations as operations
from orchestrator.tokens import _requests as requests
from orchestrator.tokens._blob_keys import MASKING, BlobKeys
from orchestrator.tokens._objects import (
    LEAVES_WRAPPED,
    NOT_FOR_US,
    P256,
    P384,
    STAYS,
    destroyed,
    ec_pair,
    kek,
    load_library,
    point_of,
    raw,
    spki,
    undone,
    unwrap,
)
from orchestrator.tokens._pkcs11_library import (
    Library,
    Pin,
    Sessions,
    key_on,
)
from orchestrator.tokens._token_directory import TokenDirectory
from orchestrator.tokens.store import (
    BlobRefusedError,
    TokenError,
    TokenFullError,
    Transport,
)

_LABEL: Final = "cloister"
_IDENTITY, _BOX, _STATE = "identity", "box", "state"
_PUBLIC: Final = " public"
_DRAFT: Final = "draft"  # a masking key under way; found at `open`, it is destroyed
_MADE_ONCE: Final = frozenset({_IDENTITY, _IDENTITY + _PUBLIC, _BOX, _BOX + _PUBLIC, _STATE})
_OWN_MECHANISMS: Final = (
    Ck.AES_KEY_GEN,
    Ck.AES_ECB,
    Ck.AES_GCM,
    Ck.AES_KEY_WRAP_PAD,
    Ck.EC_KEY_PAIR_GEN,
    Ck.ECDSA,
    Ck.ECDH1_DERIVE,
)


class SoftHsmStore(BlobKeys):
    """TokenStore over one SoftHSM token in a directory of its own."""

    def __init__(
        self, place: TokenDirectory, library: Library, pin: Pin, profile: FirmwareProfile
    ) -> None:
        """Use `create` or `open`."""
        self._place, self._library = place, library
        token = library.token(_LABEL)
        offered = set(token.slot.get_mechanisms())
        for needed in _OWN_MECHANISMS:
            if needed not in offered:
                raise MechanismUnavailableError(profile.name, f"CKM_{needed.name}")
        super().__init__(Sessions(token, pin), profile, offered)
        self._lock = threading.Lock()  # changes of masking and transport key
        self._transport: Any = None
        self._identity_public = self._box_public = b""
        self._is_closed = False

    @classmethod
    def create(cls, directory: Path, profile: FirmwareProfile) -> SoftHsmStore:
        """Make a token with its identity, box and state key; durable on return.

        A directory that an earlier call left half made is started again.

        Raises:
            RefusedError: `directory` holds a whole token.
        """
        place = TokenDirectory(directory)
        with undone(place.unlock):
            pin = place.make()
            library = load_library(place.conf, profile)
            with undone(library.close):
                library.init_token(_LABEL, pin)
                store = cls(place, library, pin, profile)
                store._make_own_keys()
                place.mark_ready()
                store._find_own_keys()
                return store

    @classmethod
    def open(cls, directory: Path, profile: FirmwareProfile) -> SoftHsmStore:
        """Open a token that `create` made; what a crash left in it is destroyed.

        Raises:
            TokenError: it is not whole, or another process has it open.
        """
        place = TokenDirectory(directory)
        if not place.path.is_dir():
            raise TokenError(f"{place.path} holds no token; create it")
        with undone(place.unlock):
            place.lock()
            pin = place.reopen()
            library = load_library(place.conf, profile)
            with undone(library.close):
                store = cls(place, library, pin, profile)
                store._find_own_keys()
                return store

    # --- long-lived keys ---

    def _make_own_keys(self) -> None:
        with self._sessions.borrow() as session:
            for label, flag in ((_IDENTITY, MechanismFlag.SIGN), (_BOX, MechanismFlag.DERIVE)):
                ec_pair(session, P256, flag, STAYS, label)
            session.generate_key(
                CkKeyType.AES,
                256,
                label=_STATE,
                store=True,
                capabilities=MechanismFlag.ENCRYPT | MechanismFlag.DECRYPT,
                template=STAYS,
            )

    def _find_own_keys(self) -> None:
        self._objects = {}
        with self._sessions.borrow() as session:
            for item in list(session.get_objects({Attribute.TOKEN: True})):
                try:
                    label = item[Attribute.LABEL]
                except (PKCS11Error, UnicodeDecodeError):
                    label = ""
                if label in self._objects or label not in _MADE_ONCE | {MASKING}:
                    item.destroy()  # kill -9 while SoftHSM wrote it
                    continue
                self._objects[label] = item.handle
                if label in {_IDENTITY + _PUBLIC, _BOX + _PUBLIC}:
                    self._keep_public(label, point_of(item))
        if missing := sorted(_MADE_ONCE - self._objects.keys()):
            raise TokenError(
                f"the token in {self._place.path} has lost its key {missing[0]!r}: remove the HSM "
                "from its cluster and create another"
            )

    def _keep_public(self, label: str, point: bytes) -> None:
        if label == _IDENTITY + _PUBLIC:
            self._identity_public = spki(requests.check_point(point, ec.SECP256R1()))
        else:
            self._box_public = point

    def identity_public(self) -> bytes:
        return self._identity_public

    def identity_sign(self, digest: bytes) -> bytes:
        requests.check_identity_digest(digest)
        with self._sessions.borrow() as session:
            key = key_on(session, self._objects[_IDENTITY])
            return raw(key.sign(digest, mechanism=Ck.ECDSA))

    def box_public(self) -> bytes:
        return self._box_public

    def box_agree(self, point: bytes) -> bytes:
        return self._agree(self._objects[_BOX], point)

    def seal(self, plaintext: bytes, aad: bytes) -> bytes:
        requests.check_plaintext(plaintext, aad)
        gcm = CipherMechanism(CipherScheme.AES_GCM, aad=aad)
        return operations.encrypt(self._sessions, self._objects[_STATE], gcm, plaintext)

    def unseal(self, sealed: bytes, aad: bytes) -> bytes:
        gcm = CipherMechanism(CipherScheme.AES_GCM, aad=aad)
        requests.check_ciphertext(sealed, gcm)
        return operations.decrypt(self._sessions, self._objects[_STATE], gcm, sealed)

    def random(self, count: int) -> bytes:
        requests.check_random(count)
        with self._sessions.borrow() as session:
            return raw(session.generate_random(count * 8))

    # --- masking key ---

    def has_masking_key(self) -> bool:
        return MASKING in self._objects

    def create_masking_key(self) -> None:
        with self._lock, self._sessions.borrow() as session:
            self._require_no_masking_key()
            key = session.generate_key(
                CkKeyType.AES,
                256,
                label=_DRAFT,
                store=True,
                capabilities=MechanismFlag.WRAP | MechanismFlag.UNWRAP,
                template=LEAVES_WRAPPED,
            )
            self._keep_masking_key(key)

    def transport_open(self) -> bytes:
        with self._lock, self._sessions.borrow() as session:
            self._drop_transport()
            point, self._transport = ec_pair(session, P384, MechanismFlag.DERIVE, STAYS)
            return point

    def wrap_masking_key(self, point: bytes) -> Transport:
        requests.check_point(point, ec.SECP384R1())
        masking = self._masking_key()
        with self._sessions.borrow() as session:
            own_point, private = ec_pair(session, P384, MechanismFlag.DERIVE, STAYS)
            with (
                destroyed(private),
                kek(session, private.handle, point, MechanismFlag.WRAP) as wrapper,
            ):
                wrapped = wrapper.wrap_key(key_on(session, masking), mechanism=Ck.AES_KEY_WRAP_PAD)
        return Transport(own_point, wrapped)

    def accept_masking_key(self, transport: Transport) -> None:
        requests.check_point(transport.point, ec.SECP384R1())
        with self._lock, self._sessions.borrow(refused=NOT_FOR_US) as session:
            self._require_no_masking_key()
            own = self._require_transport()
            with kek(session, own, transport.point, MechanismFlag.UNWRAP) as wrapper:
                self._unwrap_masking_key(wrapper, transport.wrapped)
            self._drop_transport()

    def accept_recovered(self, recovery_key: Transport, envelope: Transport) -> None:
        requests.check_point(recovery_key.point, ec.SECP384R1())
        requests.check_point(envelope.point, ec.SECP384R1())
        with self._lock, self._sessions.borrow(refused=NOT_FOR_US) as session:
            self._require_no_masking_key()
            own = self._require_transport()
            with kek(session, own, recovery_key.point, MechanismFlag.UNWRAP) as wrapper:
                spec = KeySpec(KeyType.EC, 384, Curve.P384)
                private = unwrap(wrapper, recovery_key.wrapped, spec, MechanismFlag.DERIVE)
            with (
                destroyed(private),
                kek(session, private.handle, envelope.point, MechanismFlag.UNWRAP) as wrapper,
            ):
                self._unwrap_masking_key(wrapper, envelope.wrapped)
            self._drop_transport()

    def _require_no_masking_key(self) -> None:
        if MASKING in self._objects:
            raise TokenFullError(f"the token in {self._place.path} has a masking key already")

    def _require_transport(self) -> int:
        if self._transport is None:
            raise BlobRefusedError("no transport pair is open: ask this HSM for a new point")
        return int(self._transport.handle)

    def _drop_transport(self) -> None:
        if self._transport is not None:
            pair, self._transport = self._transport, None
            pair.destroy()

    def _unwrap_masking_key(self, kek: Any, wrapped: bytes) -> None:  # noqa: ANN401
        requests.check_blob_length(wrapped, KeySpec(KeyType.AES, 256))
        key = kek.unwrap_key(
            ObjectClass.SECRET_KEY,
            CkKeyType.AES,
            wrapped,
            mechanism=Ck.AES_KEY_WRAP_PAD,
            label=_DRAFT,
            store=True,
            capabilities=MechanismFlag.WRAP | MechanismFlag.UNWRAP,
            template=LEAVES_WRAPPED,
        )
        self._keep_masking_key(key)

    def _keep_masking_key(self, key: Any) -> None:  # noqa: ANN401  # pkcs11.SecretKey
        try:
            key[Attribute.LABEL] = MASKING  # last: a labelled key is a whole one
            self._place.sync()
        except BaseException:
            key.destroy()
            raise
        self._objects[MASKING] = key.handle

    # --- end ---

    def erase(self) -> None:
        with self._lock:
            labels = sorted(self._objects, key=lambda label: label != MASKING)
            for label in labels:  # 1 the masking key: with it go all the blobs
                with self._sessions.borrow() as session:
                    for item in list(session.get_objects({Attribute.LABEL: label})):
                        item.destroy()
                del self._objects[label]
                self._place.sync()
                self._place.forget()  # 2 from here `create` would start again
        self.close(is_erased=True)  # 3 files

    def close(self, *, is_erased: bool = False) -> None:
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
        try:
            if not self._sessions.close():
                raise TokenError("operations on this token did not end; it stays loaded")
            self._library.close()
            if is_erased:
                self._place.remove()
        finally:
            self._place.unlock()
