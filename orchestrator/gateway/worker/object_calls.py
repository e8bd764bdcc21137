"""Calls about objects: find, read, store, copy, change, destroy."""

from __future__ import annotations

from typing import Final

from orchestrator.gateway import stored_objects
from orchestrator.gateway.attributes import Template, filter_of, matches
from orchestrator.gateway.cryptoki import CKA, CKR, UNAVAILABLE, CryptokiError
from orchestrator.gateway.rpc.attributes import (
    Attribute,
    length_of,
    pack_length,
    pack_unavailable,
    pack_value,
)
from orchestrator.gateway.rpc.values import U32, U64, pack_ulongs
from orchestrator.gateway.worker import key_calls, key_changes
from orchestrator.gateway.worker.application import (
    Application,
    Heard,
    KeyObject,
    LocalObject,
    P11Session,
    StoredHandle,
)
from orchestrator.gateway.worker.failures import cryptoki_error
from orchestrator.model.errors import OrchestratorError
from orchestrator.model.key_filter import KeyFilter
from orchestrator.model.keys import Key
from orchestrator.model.objects import ObjectFilter
from orchestrator.wire.messages import KEYS_PER_PAGE_MAX

FIND_MAX: Final = 4096


def attribute_values(
    app: Application, _: P11Session, handle: int, asked: tuple[tuple[int, int], ...]
) -> bytes:
    """C_GetAttributeValue."""
    if not asked:  # success for none makes clients abort their application
        raise CryptokiError(CKR.ARGUMENTS_BAD)
    found = app.fresh(handle)
    rv, made = CKR.OK, [U32.pack(len(asked))]
    for kind, room in asked:
        try:
            value = found.read(kind)
        except CryptokiError as exc:
            rv = exc.rv
            made.append(pack_unavailable(kind))
            continue
        length = length_of(value)
        if room == 0:
            made.append(pack_length(kind, length))
        elif length > room:
            rv = rv or CKR.BUFFER_TOO_SMALL
            made.append(pack_length(kind, length))
        else:
            made.append(pack_value(kind, value))
    return b"".join(made) + U64.pack(rv)


def find_init(app: Application, session: P11Session, template: tuple[Attribute, ...]) -> bytes:
    """C_FindObjectsInit: the search is done here, at once."""
    if session.found is not None:
        raise CryptokiError(CKR.OPERATION_ACTIVE)
    handles = [o.handle for o in app.local_objects()]
    keys, stored = filter_of(template), stored_objects.filter_of(template)
    if app.backend.user and keys is not None:
        handles += app.keep(_all_keys(app, keys))
    if stored is not None:
        handles += app.keep_stored(app.backend.objects(stored))
    session.found = [h for h in handles if matches(app.object(h).read, template)]
    return b""


def _all_keys(app: Application, wanted: KeyFilter) -> list[Key]:
    keys: list[Key] = []
    while True:
        offset = len(keys)
        page = app.backend.call(lambda s, n=offset: s.list_keys(wanted, n, KEYS_PER_PAGE_MAX))  # type: ignore[misc]
        keys += page.keys
        if not page.keys or len(keys) >= page.total:
            return keys


def waits(app: Application, _: P11Session, __: object, handle: int) -> bool:
    """Tell whether C_GetAttributeValue has to ask an HSM."""
    return not app.is_at_hand(handle)


def find(_: Application, session: P11Session, room: int) -> bytes:
    """C_FindObjects."""
    if session.found is None:
        raise CryptokiError(CKR.OPERATION_NOT_INITIALIZED)
    count = min(room, FIND_MAX)
    given, session.found = session.found[:count], session.found[count:]
    return pack_ulongs(given)


def find_final(_: Application, session: P11Session) -> bytes:
    """C_FindObjectsFinal."""
    if session.found is None:
        raise CryptokiError(CKR.OPERATION_NOT_INITIALIZED)
    session.found = None
    return b""


def object_size(app: Application, _: P11Session, handle: int) -> bytes:
    """C_GetObjectSize: not told."""
    app.object(handle)
    return U64.pack(UNAVAILABLE)


def destroy(app: Application, session: P11Session, handle: int) -> bytes:
    """C_DestroyObject."""
    app.destroy(session, app.object(handle))
    return b""


def create(app: Application, session: P11Session, attributes: tuple[Attribute, ...]) -> bytes:
    """C_CreateObject."""
    template = Template(attributes)
    number = template.number(CKA.CLASS)
    if number is None:
        raise CryptokiError(CKR.TEMPLATE_INCOMPLETE, "CKA_CLASS")
    if (object_class := stored_objects.CLASSES.get(number)) is None:
        return U64.pack(key_calls.create(app, session, template, number))
    draft = stored_objects.draft_of(template, object_class)
    try:
        draft.check()
    except OrchestratorError as exc:
        raise cryptoki_error(exc) from exc
    if not template.flag(CKA.TOKEN):
        if draft.private:
            app.check_rw(session, token=False)
        return U64.pack(app.keep_local(session, draft))
    app.check_rw(session, token=True)
    _, ref = app.backend.change(lambda c, request: c.put_object(draft, request=request))
    return U64.pack(app.keep_stored(app.backend.objects(ObjectFilter(ref=ref)))[0])


def copy(
    app: Application, session: P11Session, handle: int, attributes: tuple[Attribute, ...]
) -> bytes:
    """C_CopyObject: keys alone, and no copy does more than its source."""
    found = app.fresh(handle)
    if not isinstance(found, KeyObject):
        raise CryptokiError(CKR.ACTION_PROHIBITED, "keys are copied, other objects stored again")
    return U64.pack(key_changes.copy(app, session, found, Template(attributes)))


def set_attributes(
    app: Application, session: P11Session, handle: int, attributes: tuple[Attribute, ...]
) -> bytes:
    """C_SetAttributeValue."""
    found, template = app.fresh(handle), Template(attributes)
    if isinstance(found, LocalObject):
        raise CryptokiError(CKR.ACTION_PROHIBITED)
    app.check_rw(session, token=bool(found.read(CKA.TOKEN)))
    if isinstance(found, StoredHandle):
        stored = found.stored
        edit = stored_objects.edit_of(template, stored.object_class)
        app.backend.change(lambda c, request: c.change_object(stored.ref, edit, request=request))
        found.heard = Heard()  # who reads next asks an HSM
    else:
        key_changes.change(app, found, template)
    return b""
