"""Certificates and data objects: bounds, what belongs to which class, filters, every refusal."""

from __future__ import annotations

import msgspec
import pytest

from orchestrator.model import entries as e
from orchestrator.model.errors import RefusedError
from orchestrator.model.objects import (
    ObjectClass,
    ObjectDraft,
    ObjectEdit,
    ObjectFilter,
    StoredObject,
)
from orchestrator.model.roles import Role
from orchestrator.model.state import ONLY, State, Table
from tests.unit.test_decisions import CO, CU, do, refused, user

FRIEND = e.Actor("friend", Role.CRYPTO_USER)
CERTIFICATE = ObjectDraft(
    object_class=ObjectClass.CERTIFICATE,
    label="web",
    id=b"\x01",
    value=b"\x30\x00",
    subject=b"s",
    issuer=b"i",
    serial_number=b"n",
)
DATA = ObjectDraft(
    object_class=ObjectClass.DATA, label="notes", value=b"v", application="app", object_id=b"o"
)


def with_(draft: ObjectDraft, **fields: object) -> ObjectDraft:
    return msgspec.structs.replace(draft, **fields)


@pytest.mark.parametrize(
    ("draft", "field", "most"),
    [
        (CERTIFICATE, "value", 16 * 1024),
        (CERTIFICATE, "id", 128),
        (CERTIFICATE, "subject", 4096),
        (CERTIFICATE, "issuer", 4096),
        (CERTIFICATE, "serial_number", 64),
        (DATA, "value", 4096),
        (DATA, "object_id", 128),
    ],
)
def test_bounds(draft: ObjectDraft, field: str, most: int) -> None:
    with_(draft, **{field: bytes(most)}).check()
    with pytest.raises(RefusedError, match=f"at most {most} bytes") as caught:
        with_(draft, **{field: bytes(most + 1)}).check()
    assert caught.value.code == "object-rule"


@pytest.mark.parametrize(
    ("draft", "code"),
    [
        (with_(CERTIFICATE, value=b""), "object-rule"),
        (with_(CERTIFICATE, application="app"), "object-rule"),
        (with_(CERTIFICATE, object_id=b"o"), "object-rule"),
        (with_(DATA, id=b"i"), "object-rule"),
        (with_(DATA, subject=b"s"), "object-rule"),
        (with_(DATA, issuer=b"s"), "object-rule"),
        (with_(DATA, serial_number=b"s"), "object-rule"),
        (with_(DATA, label="x" * 128), "label-rule"),
        (with_(DATA, application="x" * 128), "label-rule"),
        (with_(DATA, label="a\x1b[31m"), "label-rule"),
        (with_(DATA, shared=("friend", "friend")), "object-rule"),
        (with_(DATA, shared=tuple(f"u{n}" for n in range(1025))), "object-rule"),
        (with_(DATA, shared=("nobody",)), "not-found"),
        (with_(DATA, shared=("cu",)), "share-rule"),
    ],
)
def test_what_is_no_object(state: State, draft: ObjectDraft, code: str) -> None:
    assert refused(state, e.ObjectCreated(CU, draft)) == code
    assert state.objects() == []


def test_objects_come_change_and_go(state: State) -> None:
    do(state, e.ObjectCreated(CU, CERTIFICATE))
    [stored] = state.objects()
    assert (stored.ref, stored.owner) == (state.seq << 16, "cu")
    for name in ObjectDraft.__struct_fields__:
        assert getattr(stored, name) == getattr(CERTIFICATE, name)
    edit = ObjectEdit(label="new", id=b"", issuer=b"j", serial_number=b"m")
    do(state, e.ObjectEdited(CU, stored.ref, edit))
    changed = state.object(stored.ref)
    assert changed == msgspec.structs.replace(
        stored, label="new", id=b"", issuer=b"j", serial_number=b"m"
    )
    for bad, code in (
        (ObjectEdit(value=b"other"), "attribute-read-only"),
        (ObjectEdit(subject=b"other"), "attribute-read-only"),
        (ObjectEdit(label="\n"), "label-rule"),
        (ObjectEdit(application="app"), "object-rule"),
        (ObjectEdit(shared=("nobody",)), "not-found"),
    ):
        assert refused(state, e.ObjectEdited(CU, stored.ref, bad)) == code
    do(state, e.ObjectDeleted(CU, stored.ref))
    assert refused(state, e.ObjectDeleted(CU, stored.ref)) == "not-found"
    assert refused(state, e.ObjectEdited(CU, stored.ref, edit)) == "not-found"
    assert state.objects() == []


def test_data_may_change_its_value(state: State) -> None:
    do(state, e.ObjectCreated(CU, DATA))
    ref = state.seq << 16
    do(state, e.ObjectEdited(CU, ref, ObjectEdit(value=b"", application="other")))
    assert (state.object(ref).value, state.object(ref).application) == (b"", "other")
    assert refused(state, e.ObjectEdited(CU, ref, ObjectEdit(value=bytes(4097)))) == "object-rule"


def test_only_the_owner_changes_an_object(state: State) -> None:
    do(state, user("friend"))
    do(state, user("stranger"))
    do(state, e.ObjectCreated(CU, with_(DATA, shared=("friend",))))
    ref = state.seq << 16
    stranger = e.Actor("stranger", Role.CRYPTO_USER)
    edit = ObjectEdit(label="mine")
    for actor, code in (
        (FRIEND, "not-owner"),
        (stranger, "not-found"),
        (CO, "permission-denied"),
        (e.Actor("gone", Role.CRYPTO_USER), "not-found"),
    ):
        assert refused(state, e.ObjectEdited(actor, ref, edit)) == code
        assert refused(state, e.ObjectDeleted(actor, ref)) == code
    assert refused(state, e.ObjectCreated(CO, DATA)) == "permission-denied"
    do(state, e.ObjectEdited(CU, ref, ObjectEdit(shared=())))
    assert refused(state, e.ObjectDeleted(FRIEND, ref)) == "not-found"


def test_some_objects_stay_as_they_are(state: State) -> None:
    do(state, e.ObjectCreated(CU, with_(DATA, modifiable=False)))
    fixed = state.seq << 16
    assert refused(state, e.ObjectEdited(CU, fixed, ObjectEdit(label="x"))) == "not-modifiable"
    do(state, e.ObjectDeleted(CU, fixed))
    do(state, e.ObjectCreated(CU, with_(DATA, destroyable=False)))
    lasting = state.seq << 16
    do(state, e.ObjectEdited(CU, lasting, ObjectEdit(label="x")))
    assert refused(state, e.ObjectDeleted(CU, lasting)) == "not-destroyable"


def test_the_cluster_has_a_limit_of_objects(state: State) -> None:
    assert state.meta.limits.objects == 1024
    limits = msgspec.structs.replace(state.meta.limits, objects=2)
    state.tables[Table.META][ONLY] = msgspec.structs.replace(state.meta, limits=limits)
    do(state, e.ObjectCreated(CU, DATA))
    do(state, e.ObjectCreated(CU, CERTIFICATE))
    assert refused(state, e.ObjectCreated(CU, DATA)) == "limit"
    do(state, e.ObjectDeleted(CU, state.objects()[0].ref))
    do(state, e.ObjectCreated(CU, DATA))


def test_who_leaves_owns_nothing_and_shares_nothing(state: State) -> None:
    do(state, user("friend"))
    do(state, e.ObjectCreated(FRIEND, DATA))
    theirs = state.seq << 16
    do(state, e.ObjectCreated(CU, with_(DATA, shared=("friend",))))
    shared = state.seq << 16
    gone = e.UserDeleted(CO, "friend", Role.CRYPTO_USER)
    assert refused(state, gone) == "user-owns-objects"
    do(state, e.ObjectDeleted(FRIEND, theirs))
    do(state, gone)
    assert state.object(shared).shared == ()


def test_who_sees_what() -> None:
    fields = msgspec.structs.asdict(with_(DATA, shared=("friend",)))
    private = StoredObject(ref=1, owner="cu", **fields)
    for name, sees in (("cu", True), ("friend", True), ("other", False), ("", False)):
        assert private.visible_to(name) is sees
    public = msgspec.structs.replace(private, private=False)
    assert all(public.visible_to(name) for name in ("cu", "friend", "other", ""))


def test_filters_match_every_term() -> None:
    stored = StoredObject(ref=7, owner="cu", **msgspec.structs.asdict(CERTIFICATE))
    for good in (
        ObjectFilter(),
        ObjectFilter(ref=7),
        ObjectFilter(object_class=ObjectClass.CERTIFICATE, label="web"),
        ObjectFilter(id=b"\x01", subject=b"s", issuer=b"i", serial_number=b"n"),
        ObjectFilter(application=""),
    ):
        assert good.matches(stored)
    for bad in (
        ObjectFilter(ref=8),
        ObjectFilter(object_class=ObjectClass.DATA, label="web"),
        ObjectFilter(label=""),
        ObjectFilter(id=b""),
        ObjectFilter(label="web", serial_number=b"m"),
    ):
        assert not bad.matches(stored)
