"""Session keys of all connections: changed in place, or made token keys.

They are in no ledger and on this HSM alone; the same rules hold for them as for token keys.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from orchestrator.agent.core import Caller, Core, Peer
from orchestrator.agent.making import token_key
from orchestrator.model.attribute_rules import change_attribute, joined, operation_to_change
from orchestrator.model.errors import NotFoundError, RefusedError, UsageError
from orchestrator.model.key_spec import KeyClass
from orchestrator.model.keys import SESSION_KEY_BIT, Key
from orchestrator.model.roles import Operation
from orchestrator.wire import messages as m

TOKEN: Final = "token"  # noqa: S105  # an attribute's name


class SessionKeys:
    """The session keys of every connection of this HSM."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self.peers: set[Peer] = set()

    def drop_where(self, peer: Peer, ends: Callable[[Key, str], bool]) -> None:
        """Drop those of a connection that end."""
        for ref, (key, login) in list(peer.session_keys.items()):
            if ends(key, login):
                peer.session_keys.pop(ref, None)
                self._core.loaded.drop(ref)

    def drop(self, ref: int) -> None:
        """Drop one, wherever it is."""
        for peer in list(self.peers):
            self.drop_where(peer, lambda key, _: key.ref == ref)

    def find(self, ref: int, caller: Caller) -> Key:
        """Return a session key of the caller's login, whatever connection made it."""
        for peer in list(self.peers):
            held = peer.session_keys.get(ref)
            if held is not None and held[1] == caller.login:
                return held[0]
        raise NotFoundError(
            "session key",
            f"0x{ref:016x} on {self._core.config.hsm}",
            "a session key lives on the HSM and in the login that made it",
        )

    def any_key(self, ref: int, caller: Caller) -> Key:
        """Return a session key of the caller's login, or a token key that the caller may use."""
        if ref & SESSION_KEY_BIT:
            return self.find(ref, caller)
        return token_key(self._core, ref, caller)

    def kept(self, ref: int, caller: Caller) -> Key:
        """Return a session key as the token key that it is to become."""
        if not ref & SESSION_KEY_BIT:
            raise UsageError(f"0x{ref:016x} is a token key already")
        key = self.find(ref, caller)
        changed = change_attribute(key, TOKEN, "true", self._core.state.meta.hsm_type)
        return msgspec.structs.replace(changed, ref=0)

    def change(self, asked: m.ChangeSessionKey, caller: Caller) -> m.Done:
        """Change an attribute of a session key of this connection."""
        held = caller.peer.session_keys
        key = self.find(asked.ref, caller)
        if key.ref not in held:
            raise NotFoundError("session key", f"0x{asked.ref:016x} on this connection")
        if operation_to_change(asked.name) is Operation.TRUST_KEY:
            raise RefusedError(
                "attribute-read-only", "an admin trusts token keys: make this one a token key first"
            )
        if asked.name == TOKEN:
            raise UsageError("to make a session key a token key is a change of the cluster")
        changed = change_attribute(key, asked.name, asked.value, self._core.state.meta.hsm_type)
        for each in self.joined(changed, caller):
            if each.ref in held:
                held[each.ref] = (each, held[each.ref][1])
                self._core.loaded.drop(each.ref)
        return m.Done()

    def joined(self, key: Key, caller: Caller) -> tuple[Key, ...]:
        """Return `key` and those of its other halves that change with it.

        Raises:
            RefusedError: `attribute-conflict` with one of them, here or in the ledger; or a half
                in the ledger would have to note it, which it does for token keys alone.
        """
        held = caller.peer.session_keys
        own = [each for each, _ in list(held.values())]
        halves = [
            each
            for each in (*own, *(self._core.state.all_keys() if key.public else ()))
            if each.public and each.public == key.public and each.ref != key.ref
        ]
        changed = joined((key, *halves), {key.ref})
        if any(each.ref not in held for each in changed[1:]):
            raise RefusedError(
                "attribute-conflict",
                "its other half is a token key, which must note this for good: make this one a "
                "token key first",
            )
        return changed

    def follow(self, public: Key) -> None:
        """Have the private halves among all session keys note how a token public key changed."""
        for peer in list(self.peers):
            for ref, (key, login) in list(peer.session_keys.items()):
                if key.key_class is KeyClass.PRIVATE and key.public == public.public:
                    try:
                        peer.session_keys[ref] = (joined((key, public), {ref})[0], login)
                    except RefusedError:  # it decrypts, and the public half may wrap from now on
                        self.drop(ref)
