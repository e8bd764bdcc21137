"""Using keys: what an application's request comes to. Needs no ledger and no other HSM."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Final

import msgspec

from orchestrator.agent.core import Caller, Core
from orchestrator.agent.preparing import Preparing
from orchestrator.model.entries import encode
from orchestrator.model.errors import NotFoundError, RefusedError, UsageError
from orchestrator.model.key_spec import (
    DIGEST_BYTES,
    KeyClass,
    KeyType,
    SignMechanism,
    SignScheme,
)
from orchestrator.model.keys import SESSION_KEY_BIT, Key, visible_to
from orchestrator.tokens.store import Handle
from orchestrator.wire import messages as m

SESSION_KEYS_MAX: Final = 1024
RANDOM_BYTES_MAX: Final = 64 * 1024
KEY_PAGE_BYTES_MAX: Final = 900 * 1024
_SCHEMES: Final = {
    KeyType.RSA: frozenset({SignScheme.RSA_PKCS, SignScheme.RSA_PSS}),
    KeyType.EC: frozenset({SignScheme.ECDSA}),
}


class Using:
    """Operations with keys, for crypto users."""

    def __init__(self, core: Core, preparing: Preparing) -> None:
        self._core, self._preparing = core, preparing

    def sign(self, asked: m.Sign, caller: Caller) -> m.Data:
        """Sign a digest with a private key."""
        key = self._key(asked.ref, caller)
        _need(key.key_class is KeyClass.PRIVATE and key.attributes.sign, key, "sign")
        _check_mechanism(key, asked.mechanism, asked.digest)
        with self._use(key) as handle:
            return m.Data(self._core.store.sign(handle, asked.mechanism, asked.digest))

    def encrypt(self, asked: m.Encrypt, caller: Caller) -> m.Data:
        """Encrypt with AES-GCM."""
        key = self._key(asked.ref, caller)
        _need(key.spec.type is KeyType.AES and key.attributes.encrypt, key, "encrypt")
        _check_length(asked.plaintext)
        with self._use(key) as handle:
            return m.Data(self._core.store.encrypt(handle, asked.plaintext, asked.aad))

    def decrypt(self, asked: m.Decrypt, caller: Caller) -> m.Data:
        """Open what `encrypt` made."""
        key = self._key(asked.ref, caller)
        _need(key.spec.type is KeyType.AES and key.attributes.decrypt, key, "decrypt")
        _check_length(asked.ciphertext)
        with self._use(key) as handle:
            return m.Data(self._core.store.decrypt(handle, asked.ciphertext, asked.aad))

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
        room = KEY_PAGE_BYTES_MAX
        for number, key in enumerate(page):
            room -= len(encode(key))
            if room < 0:  # the caller goes on from here
                return m.KeyPage(tuple(page[:number]), len(found))
        return m.KeyPage(tuple(page), len(found))

    def make_session_keys(self, asked: m.MakeSessionKeys, caller: Caller) -> m.KeyPage:
        """Make keys that exist here alone, until log-out or the end of this connection."""
        held = caller.peer.session_keys
        if len(held) + len(asked.drafts) > SESSION_KEYS_MAX:
            raise RefusedError("limit", f"a connection has at most {SESSION_KEYS_MAX} session keys")
        keys = self._preparing.make_keys(asked.spec, asked.drafts, caller, token=False)
        held.update({key.ref: (key, caller.login) for key in keys})
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
        key = self._core.state.key(ref)
        if not key.usable_by(caller.name):  # as if it were not there
            raise NotFoundError("key", f"0x{ref:016x}", "see `cloister key list`")
        return key

    def _use(self, key: Key) -> AbstractContextManager[Handle]:
        return self._core.loaded.use(key)


def without_blob(key: Key) -> Key:
    """Return a key as callers see it."""
    return msgspec.structs.replace(key, blob=b"")


def _need(condition: bool, key: Key, operation: str) -> None:  # an assertion
    if not condition:
        raise RefusedError(
            "key-usage",
            f"key 0x{key.ref:016x} ({key.spec.type} {key.key_class}) has {operation}=false",
        )


def _check_mechanism(key: Key, mechanism: SignMechanism, digest: bytes) -> None:
    if mechanism.scheme not in _SCHEMES.get(key.spec.type, frozenset()):
        raise RefusedError("key-usage", f"a key of type {key.spec.type} cannot {mechanism.scheme}")
    expected = DIGEST_BYTES[mechanism.hash]
    if len(digest) != expected:
        raise UsageError(f"a {mechanism.hash} digest has {expected} bytes, not {len(digest)}")
    room = key.spec.bits // 8 - expected - 2
    if mechanism.scheme is SignScheme.RSA_PSS and not 0 <= mechanism.salt_bytes <= room:
        raise UsageError(f"PSS salt: 0 to {room} bytes for this key and hash")


def _check_length(data: bytes) -> None:
    if len(data) > m.PLAINTEXT_BYTES_MAX + 28:
        raise UsageError(f"at most {m.PLAINTEXT_BYTES_MAX} bytes at a time")
