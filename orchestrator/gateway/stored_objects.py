"""Certificates and data objects as PKCS#11 has them: the table, in both directions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from orchestrator.gateway.attributes import Template
from orchestrator.gateway.cryptoki import CKA, CKO, CKR, CryptokiError
from orchestrator.gateway.rpc.attributes import Attribute, Value
from orchestrator.model.objects import ObjectClass, ObjectDraft, ObjectEdit, ObjectFilter

CKC_X_509: Final = 0
CLASSES: Final[Mapping[int, ObjectClass]] = {
    CKO.DATA: ObjectClass.DATA,
    CKO.CERTIFICATE: ObjectClass.CERTIFICATE,
}
_NUMBERS: Final = {object_class: cko for cko, object_class in CLASSES.items()}
_CATEGORY_UNSPECIFIED: Final = 0

# Attribute, field, and whether the field is text.
_OF_BOTH: Final[Mapping[int, tuple[str, bool]]] = {
    CKA.LABEL: ("label", True),
    CKA.VALUE: ("value", False),
}
_FIELDS: Final[Mapping[ObjectClass, Mapping[int, tuple[str, bool]]]] = {
    ObjectClass.CERTIFICATE: {
        **_OF_BOTH,
        CKA.ID: ("id", False),
        CKA.SUBJECT: ("subject", False),
        CKA.ISSUER: ("issuer", False),
        CKA.SERIAL_NUMBER: ("serial_number", False),
    },
    ObjectClass.DATA: {
        **_OF_BOTH,
        CKA.APPLICATION: ("application", True),
        CKA.OBJECT_ID: ("object_id", False),
    },
}
_FLAGS: Final = {
    CKA.PRIVATE: "private",
    CKA.MODIFIABLE: "modifiable",
    CKA.DESTROYABLE: "destroyable",
}
_SEARCHED: Final[Mapping[int, tuple[str, bool]]] = {
    CKA.LABEL: ("label", True),
    CKA.ID: ("id", False),
    CKA.SUBJECT: ("subject", False),
    CKA.ISSUER: ("issuer", False),
    CKA.SERIAL_NUMBER: ("serial_number", False),
    CKA.APPLICATION: ("application", True),
}
_COMMON: Final[Mapping[int, Callable[[ObjectDraft], Value]]] = {
    CKA.CLASS: lambda held: int(_NUMBERS[held.object_class]),
    CKA.PRIVATE: lambda held: held.private,
    CKA.MODIFIABLE: lambda held: held.modifiable,
    CKA.DESTROYABLE: lambda held: bytes([held.destroyable]),
    CKA.COPYABLE: lambda _: False,
}
_CERTIFICATE: Final[Mapping[int, Value]] = {
    CKA.CERTIFICATE_TYPE: CKC_X_509,
    CKA.CERTIFICATE_CATEGORY: _CATEGORY_UNSPECIFIED,
    CKA.TRUSTED: False,
}
_ACCEPTED: Final = frozenset({CKA.CLASS, CKA.TOKEN, *_FLAGS})


def value_of(held: ObjectDraft, kind: int, *, token: bool) -> Value:
    """Return an attribute; raise ATTRIBUTE_TYPE_INVALID for one that such an object has not."""
    if kind == CKA.TOKEN:
        return token
    if (read := _COMMON.get(kind)) is not None:
        return read(held)
    is_certificate = held.object_class is ObjectClass.CERTIFICATE
    if is_certificate and (fixed := _CERTIFICATE.get(kind)) is not None:
        return fixed
    if (field := _FIELDS[held.object_class].get(kind)) is None:
        raise CryptokiError(CKR.ATTRIBUTE_TYPE_INVALID)
    value = getattr(held, field[0])
    return value.encode() if isinstance(value, str) else bytes(value)


def draft_of(template: Template, object_class: ObjectClass) -> ObjectDraft:
    """Return the object that a template asks for."""
    template.require(CKA.CERTIFICATE_TYPE, CKC_X_509)
    template.require(CKA.CERTIFICATE_CATEGORY, _CATEGORY_UNSPECIFIED)
    if template.flag(CKA.TRUSTED):
        raise CryptokiError(CKR.ATTRIBUTE_READ_ONLY, "nothing is trusted by being stored")
    fields = _fields_of(template, object_class, _ACCEPTED | _CERTIFICATE.keys())
    # PKCS#11 leaves the default to the token: certificates are there to be found by everybody.
    fields["private"] = template.flag(CKA.PRIVATE, default=object_class is ObjectClass.DATA)
    for kind in (CKA.MODIFIABLE, CKA.DESTROYABLE):
        fields[_FLAGS[kind]] = template.flag(kind, default=True)
    return ObjectDraft(object_class=object_class, **fields)


def edit_of(template: Template, object_class: ObjectClass) -> ObjectEdit:
    """Return the change that a template asks for."""
    return ObjectEdit(**_fields_of(template, object_class, frozenset()))


def _fields_of(
    template: Template, object_class: ObjectClass, accepted: frozenset[int]
) -> dict[str, Any]:
    known, fields = _FIELDS[object_class], {}
    for kind in template.types():
        if (field := known.get(kind)) is not None:
            value = template.data(CKA(kind)) or b""
            fields[field[0]] = _text(value) if field[1] else value
        elif kind not in accepted:
            if kind in {CKA.START_DATE, CKA.END_DATE} and not template.data(CKA(kind)):
                continue
            raise CryptokiError(CKR.ATTRIBUTE_TYPE_INVALID, f"attribute 0x{kind:x}")
    return fields


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise CryptokiError(CKR.ATTRIBUTE_VALUE_INVALID, "not UTF-8") from None


def filter_of(template: Iterable[Attribute]) -> ObjectFilter | None:
    """Return what an HSM can look for; None when no such object can match."""
    terms: dict[str, Any] = {}
    for attribute in template:
        kind, value = attribute.type, attribute.value
        if kind == CKA.CLASS:
            if not isinstance(value, int) or (object_class := CLASSES.get(value)) is None:
                return None
            terms["object_class"] = object_class
        elif (kind == CKA.TOKEN and value == 0) or kind == CKA.KEY_TYPE:
            return None
        elif (field := _SEARCHED.get(kind)) is not None:
            if not isinstance(value, bytes):
                return None
            try:
                terms[field[0]] = value.decode() if field[1] else value
            except UnicodeDecodeError:
                return None
    return ObjectFilter(**terms)
