"""Using keys: what an application's request comes to. Needs no ledger and no other HSM."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Final, TypeVar

import msgspec

from orchestrator.agent.core import Caller, Core
from orchestrator.agent.making import Making, check_approved, token_key
from orchestrator.agent.wrapping import Wrapping
from orchestrator.model.entries import encode
from orchestrator.model.errors import NotFoundError, RefusedError, UsageError
from orchestrator.model.fips import check_decryption, check_signature
from orchestrator.model.key_spec import KeyClass, KeyType
from orchestrator.model.keys import SESSION_KEY_BIT, Key, visible_to
from orchestrator.tokens.store import Handle
from orchestrator.wire import messages as m

SESSION_KEYS_MAX: Final = 1024
RANDOM_BYTES_MAX: Final = 64 * 1024
PAGE_BYTES_MAX: Final = 900 * 1024
Item = TypeVar("Item", bound=msgspec.Struct)


class Using:
    """Operations with keys, for crypto users."""

    def __init__(self, core: Core, making: Making, wrapping: Wrapping) -> None:
        self._core, self._making, self._wrapping = core, making, wrapping

    def sign(self, asked: m.Sign, caller: Caller) -> m.Data:
        """Sign a digest, or what a raw mechanism takes, with a private key."""
        key = self._key(asked.ref, caller)
        _need(key.key_class is KeyClass.PRIVATE and key.attributes.sign, key, "sign")
        asked.mechanism.check(key.spec, asked.digest)
        check_signature(self._core.state.meta.mode, key.spec, asked.mechanism, asked.digest)
        check_approved(self._core, "sign", key, caller, asked.mechanism, asked.digest)
        with self._use(key) as handle:
            return m.Data(self._core.store.sign(handle, asked.mechanism, asked.digest))

    def encrypt(self, asked: m.Encrypt, caller: Caller) -> m.Data:
        """Encrypt with an AES key."""
        key = self._key(asked.ref, caller)
        _need(key.spec.type is KeyType.AES and key.attributes.encrypt, key, "encrypt")
        _check_length(asked.plaintext)
        check_approved(self._core, "encrypt", key, caller, asked.mechanism, asked.plaintext)
        with self._use(key) as handle:
            return m.Data(self._core.store.encrypt(handle, asked.mechanism, asked.plaintext))

    def decrypt(self, asked: m.Decrypt, caller: Caller) -> m.Data:
        """Decrypt with an AES key or an RSA private key."""
        key = self._key(asked.ref, caller)
        _need(key.key_class is not KeyClass.PUBLIC and key.attributes.decrypt, key, "decrypt")
        _check_length(asked.ciphertext)
        check_decryption(self._core.state.meta.mode, asked.mechanism)
        check_approved(self._core, "decrypt", key, caller, asked.mechanism, asked.ciphertext)
        with self._use(key) as handle:
            return m.Data(self._core.store.decrypt(handle, asked.mechanism, asked.ciphertext))

    def mac(self, asked: m.Mac, caller: Caller) -> m.Data:
        """Make a MAC with an AES key or a generic secret."""
        key = self._key(asked.ref, caller)
        _need(key.key_class is KeyClass.SECRET and key.attributes.sign, key, "sign")
        _check_length(asked.data)
        check_approved(self._core, "mac", key, caller, asked.mechanism, asked.data)
        with self._use(key) as handle:
            return m.Data(self._core.store.mac(handle, asked.mechanism, asked.data))

    def verify_mac(self, asked: m.VerifyMac, caller: Caller) -> m.Done:
        """Compare a MAC, so that the right one never leaves the HSM."""
        key = self._key(asked.ref, caller)
        _need(key.key_class is KeyClass.SECRET and key.attributes.verify, key, "verify")
        _check_length(asked.data)
        with self._use(key) as handle:
            self._core.store.verify_mac(
                handle, asked.mechanism, asked.data, asked.mac, asked.length
            )
        return m.Done()

    def random(self, asked: m.Random) -> m.Data:
        """Draw random bytes from the token."""
        if not 1 <= asked.count <= RANDOM_BYTES_MAX:
            raise UsageError(f"random: 1 to {RANDOM_BYTES_MAX} bytes at a time")
        return m.Data(self._core.store.random(asked.count))

    def list_keys(self, asked: m.ListKeys, caller: Caller) -> m.KeyPage:
        """List visible keys that match: token keys, then this connection's session keys."""
        if not 1 <= asked.limit <= m.KEYS_PER_PAGE_MAX or asked.offset < 0:
            raise UsageError(f"a page has 1 to {m.KEYS_PER_PAGE_MAX} keys")
        if asked.filter.ref and not asked.filter.ref & SESSION_KEY_BIT:
            try:
                keys = [self._core.state.key(asked.filter.ref)]
            except NotFoundError:
                keys = []
        else:
            keys = self._core.state.all_keys()
        own = list(caller.peer.session_keys.values())  # at once: others may add to them meanwhile
        keys += [key for key, login in own if login == caller.login]
        found = [
            key
            for key in keys
            if visible_to(key, caller.name, caller.role) and asked.filter.matches(key)
        ]
        page = [without_blob(key) for key in found[asked.offset : asked.offset + asked.limit]]
        return m.KeyPage(tuple(fitting(page)), len(found))

    def make_session_keys(self, asked: m.MakeSessionKeys, caller: Caller) -> m.KeyPage:
        """Make keys that exist here alone, until log-out or the end of this connection."""
        _check_room(caller, len(asked.drafts))
        keys = self._making.make_keys(asked.spec, asked.drafts, caller, token=False)
        return self._keep(keys, caller)

    def derive_session_key(self, asked: m.DeriveSessionKey, caller: Caller) -> m.KeyPage:
        """Derive a key that exists here alone; the base key may be such a key itself."""
        _check_room(caller, 1)
        base = self._key(asked.base, caller)
        key = self._making.derive_key(
            base, asked.agreement, asked.spec, asked.draft, caller, token=False
        )
        return self._keep((key,), caller)

    def import_session_key(self, asked: m.ImportSessionKey, caller: Caller) -> m.KeyPage:
        """Make a key that exists here alone of a value given in clear."""
        _check_room(caller, 1)
        key = self._making.import_key(asked.spec, asked.draft, asked.sealed, caller, token=False)
        return self._keep((key,), caller)

    def copy_session_key(self, asked: m.CopySessionKey, caller: Caller) -> m.KeyPage:
        """Copy a token key to one that exists here alone."""
        _check_room(caller, 1)
        if asked.ref & SESSION_KEY_BIT:
            raise UsageError("a session key is not copied; make it, or its copy, a token key")
        source = token_key(self._core, asked.ref, caller)
        return self._keep((self._making.copy_key(source, asked.copy, caller, token=False),), caller)

    def unwrap_session_key(self, asked: m.UnwrapSessionKey, caller: Caller) -> m.KeyPage:
        """Unwrap a key that exists here alone."""
        _check_room(caller, 1)
        return self._keep((self._wrapping.unwrap_session(asked, caller),), caller)

    def _keep(self, keys: tuple[Key, ...], caller: Caller) -> m.KeyPage:
        caller.peer.session_keys.update({key.ref: (key, caller.login) for key in keys})
        core, refs = self._core, " ".join(f"0x{key.ref:016x}" for key in keys)
        who = f"{caller.role}/{caller.name}"
        core.vault.audit(core.line("session-keys-created", who, refs, "done"))
        return m.KeyPage(tuple(without_blob(key) for key in keys), len(keys))

    def drop_session_key(self, asked: m.DropSessionKey, caller: Caller) -> m.Done:
        """Delete a session key of this connection."""
        key = self._key(asked.ref, caller)
        if not key.ref & SESSION_KEY_BIT:
            raise UsageError(f"0x{key.ref:016x} is a token key")
        del caller.peer.session_keys[key.ref]
        self._core.loaded.drop(key.ref)
        return m.Done()

    def _key(self, ref: int, caller: Caller) -> Key:
        if ref & SESSION_KEY_BIT:
            held = caller.peer.session_keys.get(ref)
            if held is None or held[1] != caller.login:
                raise NotFoundError(
                    "session key",
                    f"0x{ref:016x} on {self._core.config.hsm}",
                    "a session key lives on the HSM and connection that made it",
                )
            return held[0]
        return token_key(self._core, ref, caller)

    def _use(self, key: Key) -> AbstractContextManager[Handle]:
        return self._core.loaded.use(key)


def fitting(page: list[Item]) -> list[Item]:
    """Return as much of a page as fits a frame; the caller goes on from there."""
    room = PAGE_BYTES_MAX
    for number, item in enumerate(page):
        room -= len(encode(item))
        if room < 0:
            return page[:number]
    return page


def without_blob(key: Key) -> Key:
    """Return a key as callers see it."""
    return msgspec.structs.replace(key, blob=b"")


def _check_room(caller: Caller, count: int) -> None:
    if len(caller.peer.session_keys) + count > SESSION_KEYS_MAX:
        raise RefusedError("limit", f"a connection has at most {SESSION_KEYS_MAX} session keys")


def _need(condition: bool, key: Key, operation: str) -> None:  # an assertion
    if not condition:
        raise RefusedError(
            "key-usage",
            f"key 0x{key.ref:016x} ({key.spec.type} {key.key_class}) has {operation}=false",
        )


def _check_length(data: bytes) -> None:
    if len(data) > m.PLAINTEXT_BYTES_MAX + 32:  # nonce and tag, or IV and padding
        raise UsageError(f"at most {m.PLAINTEXT_BYTES_MAX} bytes at a time")
