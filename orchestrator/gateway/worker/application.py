"""What one application holds: sessions and objects under handles of the gateway's own.

Handles are numbers from one counter, never used twice, below 2^32 and not 0; an HSM's numbers
never reach an application, so an HSM's end does not touch them.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final

from orchestrator.gateway import stored_objects
from orchestrator.gateway.attributes import value_of
from orchestrator.gateway.cryptoki import CKF_RW_SESSION, CKR, CKS, CryptokiError
from orchestrator.gateway.rpc.attributes import Value
from orchestrator.gateway.worker.backend import Backend, Later
from orchestrator.gateway.worker.links import Links
from orchestrator.gateway.worker.operation import Operation
from orchestrator.model.key_filter import KeyFilter
from orchestrator.model.keys import SESSION_KEY_BIT, Key
from orchestrator.model.objects import ObjectDraft, ObjectFilter, StoredObject

SLOT: Final = 0
SESSIONS_MAX: Final = 4096
SESSION_OBJECTS_MAX: Final = 1024
FRESH_S: Final = 1.0
"""How long attributes that no place in the ledger vouches for are told from memory."""


class Kind(Enum):
    """Operations that a session has at most one of, each."""

    ENCRYPT = "encrypt"
    DECRYPT = "decrypt"
    DIGEST = "digest"
    SIGN = "sign"
    VERIFY = "verify"


@dataclass(frozen=True, slots=True)
class Heard:
    """When an object was heard of: the place that the ledger had reached before, and the time."""

    place: int = 0
    at_s: float = 0.0


@dataclass(slots=True, eq=False)
class KeyObject:
    """A key in the cluster, as last heard of; a lent one is another handle's to destroy."""

    handle: int
    key: Key
    heard: Heard
    is_lent: bool = False

    def read(self, kind: int) -> Value:
        """Return an attribute."""
        return value_of(self.key, kind)


@dataclass(slots=True, eq=False)
class StoredHandle:
    """A certificate or data object in the cluster, as last heard of."""

    handle: int
    stored: StoredObject
    heard: Heard

    def read(self, kind: int) -> Value:
        """Return an attribute."""
        return stored_objects.value_of(self.stored, kind, token=True)


@dataclass(slots=True, eq=False)
class LocalObject:
    """A session object that needs no HSM: a certificate, data, or somebody's public key."""

    handle: int
    held: ObjectDraft | Key

    @property
    def is_private(self) -> bool:
        """It is there for who is logged in, and ends with the login."""
        return isinstance(self.held, ObjectDraft) and self.held.private

    def read(self, kind: int) -> Value:
        """Return an attribute."""
        if isinstance(self.held, Key):
            return value_of(self.held, kind)
        return stored_objects.value_of(self.held, kind, token=False)


AnyObject = KeyObject | StoredHandle | LocalObject


@dataclass(slots=True, eq=False)
class P11Session:
    """One PKCS#11 session. Its calls are answered in order, one at a time."""

    handle: int
    flags: int
    is_busy: bool = False
    """A call of it waits for an HSM."""
    waiting: deque[Any] = field(default_factory=deque)
    """Calls that came meanwhile."""
    operations: dict[Kind, Operation] = field(default_factory=dict)
    found: list[int] | None = None
    objects: set[int] = field(default_factory=set)
    finished: Kind | None = None
    """What an empty final answer has just ended: the same Final may be asked for once more."""

    @property
    def is_rw(self) -> bool:
        """Token objects may be made in it."""
        return bool(self.flags & CKF_RW_SESSION)

    def begin(self, kind: Kind, operation: Operation) -> None:
        """Start an operation."""
        if kind in self.operations:
            raise CryptokiError(CKR.OPERATION_ACTIVE)
        self.finished = None
        self.operations[kind] = operation

    def active(self, kind: Kind) -> Operation:
        """Return the operation that is under way."""
        if (operation := self.operations.get(kind)) is None:
            raise CryptokiError(CKR.OPERATION_NOT_INITIALIZED)
        return operation


class Application:
    """One connection's state. Calls of different sessions come from different threads."""

    def __init__(self, links: Links, offered: int, peer_uid: int, later: Later) -> None:
        self.token, self.offered = links.token, offered
        self.backend = Backend(links, peer_uid, later)
        self.is_initialized = False
        self.sessions: dict[int, P11Session] = {}
        self._objects: dict[int, AnyObject] = {}
        self._handles: dict[int, int] = {}
        self._numbers = itertools.count(1)
        self._guard = threading.Lock()

    # --- sessions ---

    def session(self, handle: int) -> P11Session:
        """Return an open session."""
        if (session := self.sessions.get(handle)) is None:
            raise CryptokiError(CKR.SESSION_HANDLE_INVALID)
        return session

    def open_session(self, flags: int) -> P11Session:
        """Open a session."""
        if len(self.sessions) >= SESSIONS_MAX:
            raise CryptokiError(CKR.SESSION_COUNT)
        session = P11Session(next(self._numbers), flags)
        self.sessions[session.handle] = session
        return session

    def close_session(self, session: P11Session) -> None:
        """Close a session: its objects end, and with the last session the login."""
        self.sessions.pop(session.handle, None)
        for handle in session.objects:
            if (found := self._objects.get(handle)) is not None:
                self.destroy(session, found)
        if not self.sessions:
            self.logout()

    def close_all(self) -> None:
        """Close every session, and end the login."""
        self.sessions.clear()
        self._objects.clear()
        self._handles.clear()
        self.logout()

    def logout(self) -> None:
        """End the login: private objects, and handles to them, end with it."""
        self.backend.logout()
        with self._guard:
            all_ = self._objects.values()
            gone = [o for o in all_ if not isinstance(o, LocalObject) or o.is_private]
            for found in gone:
                self._objects.pop(found.handle, None)
            self._handles.clear()
        for session in self.sessions.values():
            session.operations.clear()
            session.found = None

    def state(self, session: P11Session) -> CKS:
        """Return a session's state."""
        if self.backend.user:
            return CKS.RW_USER if session.is_rw else CKS.RO_USER
        return CKS.RW_PUBLIC if session.is_rw else CKS.RO_PUBLIC

    # --- objects ---

    def keep(self, keys: Iterable[Key], session: P11Session | None = None) -> list[int]:
        """Return handles for keys; `session` owns those that shall end with it."""
        heard, handles = self._now(), []
        with self._guard:
            for key in keys:
                handle = self._handles.get(key.ref)
                if handle is None:
                    handle = self._handles[key.ref] = next(self._numbers)
                    if session is not None:
                        session.objects.add(handle)
                self._objects[handle] = KeyObject(handle, key, heard)
                handles.append(handle)
        return handles

    def keep_stored(self, stored: Iterable[StoredObject]) -> list[int]:
        """Return handles for certificates and data objects."""
        heard, handles = self._now(), []
        with self._guard:
            for item in stored:
                handle = self._handles.get(item.ref)
                if handle is None:
                    handle = self._handles[item.ref] = next(self._numbers)
                self._objects[handle] = StoredHandle(handle, item, heard)
                handles.append(handle)
        return handles

    def keep_local(self, session: P11Session, held: ObjectDraft | Key) -> int:
        """Return a handle for a session object that is kept here."""
        if len(self.local_objects()) >= SESSION_OBJECTS_MAX:
            raise CryptokiError(CKR.DEVICE_MEMORY)
        handle = next(self._numbers)
        self._objects[handle] = LocalObject(handle, held)
        session.objects.add(handle)
        return handle

    def local_objects(self) -> list[LocalObject]:
        """Return what is kept here."""
        return [o for o in list(self._objects.values()) if isinstance(o, LocalObject)]

    def object(self, handle: int, error: CKR = CKR.OBJECT_HANDLE_INVALID) -> AnyObject:
        """Return an object as it was last heard of."""
        if (found := self._objects.get(handle)) is None:
            raise CryptokiError(error)
        return found

    def key(self, handle: int) -> Key:
        """Return a key."""
        match self.object(handle, CKR.KEY_HANDLE_INVALID):
            case KeyObject(key=key) | LocalObject(held=Key() as key):
                return key
            case _:
                raise CryptokiError(CKR.KEY_HANDLE_INVALID)

    def _now(self) -> Heard:
        return Heard(self.backend.place, time.monotonic())

    def _is_current(self, found: KeyObject | StoredHandle) -> bool:
        """Tell whether an object is as it was last heard of.

        What is in the ledger changes with the ledger alone. A session key can also be gone with
        its HSM, and without a login nothing tells the place: there the time counts.
        """
        if isinstance(found, KeyObject) and found.key.ref & SESSION_KEY_BIT:
            return time.monotonic() - found.heard.at_s < FRESH_S
        if (place := self.backend.look()) == 0:
            return time.monotonic() - found.heard.at_s < FRESH_S
        return found.heard.place == place

    def is_at_hand(self, handle: int) -> bool:
        """Tell whether `fresh` asks no HSM."""
        found = self._objects.get(handle)
        if found is None or isinstance(found, LocalObject):
            return True
        return not self.backend.has_to_look() and self._is_current(found)

    def fresh(self, handle: int) -> AnyObject:
        """Return an object as the HSMs know it, by the place that the ledger has reached."""
        found = self.object(handle)
        if isinstance(found, LocalObject) or self._is_current(found):
            return found
        heard = self._now()
        if isinstance(found, KeyObject):
            ref = found.key.ref
            page = self.backend.call(lambda s: s.list_keys(KeyFilter(ref=ref), 0, 1))
            if page.keys:
                found.key, found.heard = page.keys[0], heard
                return found
        elif held := self.backend.objects(ObjectFilter(ref=found.stored.ref)):
            found.stored, found.heard = held[0], heard
            return found
        self.forget(found)
        raise CryptokiError(CKR.OBJECT_HANDLE_INVALID)

    def destroy(self, session: P11Session, found: AnyObject) -> None:
        """Destroy an object."""
        if isinstance(found, KeyObject) and not found.is_lent:
            ref = found.key.ref
            if ref & SESSION_KEY_BIT:
                self.backend.call(lambda s: s.session_keys.drop(ref))
            else:
                self.check_rw(session, token=True)
                self.backend.change(lambda c, request: c.delete_key(ref, request=request))
        elif isinstance(found, StoredHandle):
            self.check_rw(session, token=True)
            stored = found.stored.ref
            self.backend.change(lambda c, request: c.delete_object(stored, request=request))
        self.forget(found)

    def lend(self, found: KeyObject, key: Key) -> None:
        """Have a handle name a key that another handle owns."""
        with self._guard:
            self._handles.pop(found.key.ref, None)
        found.key, found.is_lent = key, True

    def forget(self, found: AnyObject) -> None:
        """Drop an object's handle."""
        with self._guard:
            self._objects.pop(found.handle, None)
            if isinstance(found, KeyObject) and not found.is_lent:
                self._handles.pop(found.key.ref, None)
            elif isinstance(found, StoredHandle):
                self._handles.pop(found.stored.ref, None)

    def check_rw(self, session: P11Session, *, token: bool) -> None:
        """Raise unless such an object may be made in this session now."""
        if not self.backend.user:
            raise CryptokiError(CKR.USER_NOT_LOGGED_IN)
        if token and not session.is_rw:
            raise CryptokiError(CKR.SESSION_READ_ONLY)
