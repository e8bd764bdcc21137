"""Objects that are no keys: X.509 certificates and data of crypto users (PKCS#11 2.40 §4.5, §4.6).

Invariants: an object fits its bounds and has only what its class has; nobody but its owner
changes or deletes it; a private one is seen by owner and those it is shared with, logged in.
There is no CKA_TRUSTED: no certificate is made a trust anchor by being stored.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import msgspec

from orchestrator.model.errors import RefusedError
from orchestrator.model.keys import check_label

CERTIFICATE_BYTES_MAX: Final = 16 * 1024
DATA_BYTES_MAX: Final = 4 * 1024
NAME_BYTES_MAX: Final = 4 * 1024
SERIAL_BYTES_MAX: Final = 64
ID_BYTES_MAX: Final = 128
SHARES_MAX: Final = 1024


class ObjectClass(StrEnum):
    """What is stored beside keys; a certificate is X.509 (CKC_X_509)."""

    DATA = "data"
    CERTIFICATE = "certificate"


class ObjectDraft(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, kw_only=True
):
    """An object to store, with PKCS#11's attributes.

    `subject`, `issuer` and `serial_number` (DER) are a certificate's, `application` and
    `object_id` (DER) a data object's. Any crypto user sees one that is not `private`, and so does
    who has not logged in.
    """

    object_class: ObjectClass
    label: str = ""
    id: bytes = b""
    value: bytes = b""
    private: bool = True
    modifiable: bool = True
    destroyable: bool = True
    shared: tuple[str, ...] = ()
    subject: bytes = b""
    issuer: bytes = b""
    serial_number: bytes = b""
    application: str = ""
    object_id: bytes = b""

    def check(self) -> None:
        """Raise RefusedError (`object-rule`, `label-rule`) unless bounds and class allow it."""
        check_label(self.label)
        check_label(self.application)
        is_certificate = self.object_class is ObjectClass.CERTIFICATE
        value_max = CERTIFICATE_BYTES_MAX if is_certificate else DATA_BYTES_MAX
        if is_certificate and not self.value:
            raise RefusedError("object-rule", "a certificate has a value (DER)")
        for name, value, most in (
            ("value", self.value, value_max),
            ("id", self.id, ID_BYTES_MAX),
            ("subject", self.subject, NAME_BYTES_MAX),
            ("issuer", self.issuer, NAME_BYTES_MAX),
            ("serial number", self.serial_number, SERIAL_BYTES_MAX),
            ("object id", self.object_id, ID_BYTES_MAX),
        ):
            if len(value) > most:
                raise RefusedError("object-rule", f"its {name} has at most {most} bytes")
        foreign = (
            (self.application or self.object_id)
            if is_certificate
            else (self.id or self.subject or self.issuer or self.serial_number)
        )
        if foreign:
            raise RefusedError(
                "object-rule",
                "a certificate has id, subject, issuer and serial number; data has application "
                "and object id",
            )
        if len(self.shared) > SHARES_MAX or len(set(self.shared)) != len(self.shared):
            raise RefusedError("object-rule", "an object is shared with a user once")


class StoredObject(ObjectDraft, frozen=True, kw_only=True):
    """An object in its place; `ref` is 0 until an entry gives it one."""

    ref: int
    owner: str

    def visible_to(self, user: str) -> bool:
        """Tell whether a crypto user sees it; `user` is empty for everybody else."""
        return not self.private or (bool(user) and (self.owner == user or user in self.shared))


class ObjectEdit(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, kw_only=True
):
    """What is to change of an object; None leaves it."""

    label: str | None = None
    id: bytes | None = None
    value: bytes | None = None
    shared: tuple[str, ...] | None = None
    subject: bytes | None = None
    issuer: bytes | None = None
    serial_number: bytes | None = None
    application: str | None = None
    object_id: bytes | None = None

    def apply(self, stored: StoredObject) -> StoredObject:
        """Return the changed object; a certificate's value and subject are for ever (§4.6.3)."""
        fields = {
            name: value for name, value in msgspec.structs.asdict(self).items() if value is not None
        }
        fixed = {"value", "subject"} & fields.keys()
        if fixed and stored.object_class is ObjectClass.CERTIFICATE:
            raise RefusedError(
                "attribute-read-only",
                "value and subject of a certificate never change; store another",
            )
        return msgspec.structs.replace(stored, **fields)


class ObjectFilter(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, kw_only=True
):
    """One reference, or attributes that must all match; empty matches every object."""

    ref: int = 0
    object_class: ObjectClass | None = None
    label: str | None = None
    id: bytes | None = None
    subject: bytes | None = None
    issuer: bytes | None = None
    serial_number: bytes | None = None
    application: str | None = None

    def matches(self, stored: StoredObject) -> bool:
        """Tell whether `stored` satisfies every term."""
        if self.ref and stored.ref != self.ref:
            return False
        terms = msgspec.structs.asdict(self)
        del terms["ref"]
        return all(v is None or getattr(stored, name) == v for name, v in terms.items())
