"""Keys that are loaded in the token: the busy ones stay, the others go."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from orchestrator.model.key_spec import KeyType, Usage
from orchestrator.model.keys import Attributes, Key
from orchestrator.tokens.store import Handle, TokenStore

CAPACITY: Final = 512
# Only usages that are named as the attribute that grants them.
_USAGES: Final = {
    KeyType.AES: (Usage.ENCRYPT, Usage.DECRYPT, Usage.SIGN, Usage.VERIFY),
    KeyType.GENERIC_SECRET: (Usage.SIGN, Usage.VERIFY),
    KeyType.RSA: (Usage.SIGN, Usage.DECRYPT),
    KeyType.EC: (Usage.SIGN, Usage.DERIVE),
}


@dataclass(slots=True)
class _Loaded:
    handle: Handle
    users: int = 0
    dropped: bool = False


class LoadedKeys:
    """An LRU of loaded keys; none is unloaded while an operation holds it."""

    def __init__(self, store: TokenStore, capacity: int = CAPACITY) -> None:
        self._store, self._capacity = store, capacity
        self._lock = threading.Lock()
        self._loading = threading.Lock()
        self._keys: OrderedDict[int, _Loaded] = OrderedDict()

    def use(self, key: Key) -> _Hold:
        """Hold a key's handle, loading it first when needed."""
        return _Hold(self, key)

    def hold(self, key: Key) -> _Loaded:
        """Return a key, loaded, that stays so until it is given back."""
        loaded = self._take(key.ref)
        if loaded is None:
            with self._loading:  # so that a crowd loads a key once
                loaded = self._take(key.ref)
                if loaded is None:
                    usages = usages_of(key.attributes, key.spec.type)
                    loaded = self._add(key.ref, self._store.load(key.blob, key.spec, usages))
        return loaded

    def drop(self, ref: int) -> None:
        """Unload a key, now or when its last operation ends."""
        with self._lock:
            loaded = self._keys.pop(ref, None)
        if loaded is not None:
            self._retire(loaded)

    def _take(self, ref: int) -> _Loaded | None:
        with self._lock:
            loaded = self._keys.get(ref)
            if loaded is not None:
                loaded.users += 1
                self._keys.move_to_end(ref)
            return loaded

    def _add(self, ref: int, handle: Handle) -> _Loaded:
        loaded = _Loaded(handle, users=1)
        retired = []
        with self._lock:
            self._keys[ref] = loaded
            while len(self._keys) > self._capacity:
                retired.append(self._keys.popitem(last=False)[1])
        for old in retired:
            self._retire(old)
        return loaded

    def _retire(self, loaded: _Loaded) -> None:
        with self._lock:
            loaded.dropped = True
            idle = loaded.users == 0
        if idle:
            self._store.unload(loaded.handle)

    def give_back(self, loaded: _Loaded) -> None:
        """End a hold."""
        with self._lock:
            loaded.users -= 1
            last = loaded.dropped and loaded.users == 0
        if last:
            self._store.unload(loaded.handle)


class _Hold:
    """A hold of a key. A generator's context manager would cost every signature more."""

    __slots__ = ("_key", "_keys", "_loaded")

    def __init__(self, keys: LoadedKeys, key: Key) -> None:
        self._keys, self._key = keys, key

    def __enter__(self) -> Handle:
        self._loaded = self._keys.hold(self._key)
        return self._loaded.handle

    def __exit__(self, *_: object) -> None:
        self._keys.give_back(self._loaded)


def usages_of(attributes: Attributes, key_type: KeyType) -> frozenset[Usage]:
    """Return what the token shall allow: no more than the key's attributes say."""
    return frozenset(usage for usage in _USAGES[key_type] if getattr(attributes, usage))
