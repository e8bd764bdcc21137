"""C_CopyObject and C_SetAttributeValue of keys: what may change is the HSM's to say."""

from __future__ import annotations

from typing import Final

from orchestrator.gateway.attributes import BOOLEANS, CLASSES, KEY_TYPES, Template
from orchestrator.gateway.cryptoki import CKA, CKR, CryptokiError
from orchestrator.gateway.worker.application import Application, Heard, KeyObject, P11Session
from orchestrator.model.key_filter import KeyFilter, attribute_text
from orchestrator.model.keys import SESSION_KEY_BIT, Key, parse_hex
from orchestrator.wire.messages import KeyCopy

_PASSED_OVER: Final = frozenset({CKA.TOKEN, CKA.SUBJECT})


def copy(app: Application, session: P11Session, found: KeyObject, template: Template) -> int:
    """C_CopyObject of a key; return the handle."""
    source = found.key
    token = template.flag(CKA.TOKEN, default=source.attributes.token)
    app.check_rw(session, token=token)
    if source.ref & SESSION_KEY_BIT:
        return _keep(app, found, _changes(template, source), token=token)
    given = dict(_changes(template, source))
    key_id = given.pop("id", None)
    asked = KeyCopy(
        label=given.pop("label", None),
        id=None if key_id is None else parse_hex(key_id),
        attributes=tuple(given.items()),
    )
    if not token:
        made = app.backend.call(lambda s: s.session_keys.copy(source.ref, asked))
        return app.keep([made], session)[0]
    _, made = app.backend.change(lambda c, request: c.copy_key(source.ref, asked, request=request))
    return app.keep([made])[0]


def _keep(
    app: Application, found: KeyObject, changes: tuple[tuple[str, str], ...], *, token: bool
) -> int:
    """Make a session key a token key, as key stores copy it; return the handle.

    The HSM makes no second key of it: the old handle goes on to name it, and no longer owns it.
    """
    if not token:
        raise CryptokiError(CKR.ACTION_PROHIBITED, "a session key is copied to a token key alone")
    old = found.key.ref
    _, ref = app.backend.change(
        lambda c, request: c.set_attribute(old, "token", "true", request=request)
    )
    for name, value in changes:
        app.backend.change(
            lambda c, request, n=name, v=value: c.set_attribute(ref, n, v, request=request)  # type: ignore[misc]
        )
    kept = app.backend.call(lambda s: s.find_key(KeyFilter(ref=ref)))
    app.lend(found, kept)
    return app.keep([kept])[0]


def change(app: Application, found: KeyObject, template: Template) -> None:
    """C_SetAttributeValue of a key: an attribute at a time, as the ledger has them."""
    ref = found.key.ref
    for name, value in _changes(template, found.key):
        app.backend.change(
            lambda c, request, n=name, v=value: c.set_attribute(ref, n, v, request=request),  # type: ignore[misc]
            attribute_read_only=CKR.ATTRIBUTE_READ_ONLY,
        )
    found.heard = Heard()  # who reads next asks an HSM


def _changes(template: Template, key: Key) -> tuple[tuple[str, str], ...]:
    """Return what a template wants other than a key has it, by CLI names and values."""
    wanted: list[tuple[str, str]] = []
    for kind in template.types() - _PASSED_OVER:
        match kind:
            case CKA.LABEL:
                wanted.append(("label", template.label()))
            case CKA.CLASS:
                template.require(CKA.CLASS, CLASSES[key.key_class])
            case CKA.KEY_TYPE:
                template.require(CKA.KEY_TYPE, KEY_TYPES[key.spec.type])
            case CKA.ID:
                wanted.append(("id", "0x" + (template.data(CKA.ID) or b"").hex()))
            case _ if kind in BOOLEANS:
                wanted.append((BOOLEANS[kind], str(template.flag(CKA(kind))).lower()))
            case _:
                raise CryptokiError(CKR.ATTRIBUTE_READ_ONLY, f"attribute 0x{kind:x}")
    return tuple((name, value) for name, value in wanted if attribute_text(key, name) != value)
