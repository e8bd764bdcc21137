"""Attributes: what changes on which class of key, and what no sequence of changes may bring."""

from __future__ import annotations

from itertools import product

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.model.attribute_rules import (
    DESCRIPTIVE,
    change_attribute,
    check_policy,
    guards_of,
    joined,
    paired,
)
from orchestrator.model.errors import OrchestratorError, RefusedError
from orchestrator.model.key_spec import KeyClass, KeySpec, KeyType
from orchestrator.model.keys import KNOWN_ATTRIBUTES, Attributes, Guards, Key, new_attributes

AES, RSA = KeySpec(KeyType.AES, 256), KeySpec(KeyType.RSA, 2048, None, 65537)
HSM1, HSM2 = "hsm1.medium", "hsm2m.medium"
SPECS = {KeyClass.PUBLIC: RSA, KeyClass.PRIVATE: RSA, KeyClass.SECRET: AES}


def key(key_class: KeyClass, ref: int = 1, /, **set_: bool) -> Key:
    fields = {"extractable": False} | set_
    public = b"" if key_class is KeyClass.SECRET else b"spki"
    return Key(
        ref, key_class, SPECS[key_class], "l", b"", "cu", (), Attributes(**fields), b"", public,
        b"",
    )  # fmt: skip


def code_of(key_: Key, name: str, value: str, hsm_type: str = HSM2) -> str:
    try:
        change_attribute(key_, name, value, hsm_type)
    except OrchestratorError as exc:
        return exc.code
    return "changed"


# From the CloudHSM CLI's key attribute table and the policy of ADR 0013, typed by hand:
# per attribute, whether false -> true and true -> false are possible, for each class.
B, UP, DOWN, NO = (True, True), (True, False), (False, True), (False, False)
EXPECTED = {
    #                       public  private secret
    "encrypt":             (B, NO, B),
    "decrypt":             (NO, B, B),
    "sign":                (NO, B, B),
    "verify":              (B, NO, B),
    "wrap":                (B, NO, B),
    "unwrap":              (NO, B, B),
    "derive":              (NO, B, B),
    "token":               (UP, UP, UP),
    "private":             (NO, NO, NO),
    "sensitive":           (NO, UP, NO),
    "always-sensitive":    (NO, NO, NO),
    "extractable":         (NO, NO, NO),
    "never-extractable":   (NO, NO, NO),
    "local":               (NO, NO, NO),
    "modifiable":          (NO, DOWN, NO),
    "destroyable":         (B, B, B),
    "trusted":             (B, NO, B),
    "wrap-with-trusted":   (NO, UP, UP),
}  # fmt: skip
EXPECTED["modifiable"] = (DOWN, DOWN, DOWN)
CLASSES = (KeyClass.PUBLIC, KeyClass.PRIVATE, KeyClass.SECRET)


def test_the_expectations_are_complete() -> None:
    assert set(EXPECTED) | {"id", "label", "class", "key-type", "check-value"} == KNOWN_ATTRIBUTES


@pytest.mark.parametrize(
    ("name", "key_class", "value"), list(product(EXPECTED, CLASSES, (True, False)))
)
def test_each_attribute_changes_as_the_table_says(
    name: str, key_class: KeyClass, value: bool
) -> None:
    may = EXPECTED[name][CLASSES.index(key_class)][0 if value else 1]
    field = name.replace("-", "_")
    before = key(key_class, **{"modifiable": True, field: not value})
    if name == "modifiable" and value:  # it is false, so that nothing changes
        assert code_of(before, name, "true") == "not-modifiable"
        return
    found = code_of(before, name, str(value).lower())
    assert found == ("changed" if may else "attribute-read-only")
    if may:
        changed = change_attribute(before, name, str(value).lower(), HSM2)
        assert getattr(changed.attributes, field) is value
        others = msgspec.structs.replace(changed.attributes, **{field: not value})
        assert others == before.attributes
        assert (changed.ref, changed.owner, changed.shared) == (1, "cu", ())


@pytest.mark.parametrize(("name", "key_class"), list(product(sorted(KNOWN_ATTRIBUTES), CLASSES)))
def test_what_is_not_modifiable_changes_in_nothing(name: str, key_class: KeyClass) -> None:
    frozen = key(key_class, modifiable=False)
    assert code_of(frozen, name, "true") in {"not-modifiable", "attribute-read-only"}


@pytest.mark.parametrize("key_class", CLASSES)
def test_labels_ids_and_what_describes_a_key(key_class: KeyClass) -> None:
    changed = change_attribute(key(key_class), "label", "new", HSM2)
    assert changed.label == "new"
    assert change_attribute(changed, "id", "0x0102", HSM2).id == b"\1\2"
    assert code_of(changed, "label", "x" * 128) == "label-rule"
    assert code_of(changed, "id", "xyz") == "usage"
    assert code_of(changed, "sign" if key_class is not KeyClass.PUBLIC else "wrap", "si") == "usage"
    assert code_of(changed, "colour", "red") == "attribute-unknown"
    for name in DESCRIPTIVE | {"class", "key-type", "check-value"}:
        assert code_of(changed, name, "1") == "attribute-read-only"


def test_the_former_type_keeps_ids_and_what_rsa_keys_derive() -> None:
    for key_class in CLASSES:
        assert code_of(key(key_class), "id", "01", HSM1) == "attribute-read-only"
    assert code_of(key(KeyClass.PRIVATE), "derive", "true", HSM1) == "attribute-read-only"
    assert code_of(key(KeyClass.SECRET), "derive", "true", HSM1) == "changed"


# --- what excludes each other ---


@pytest.mark.parametrize(
    ("has", "wants", "pair"),
    [
        ({"wrap": True}, "decrypt", "wrap and decrypt"),
        ({"decrypt": True}, "wrap", "wrap and decrypt"),
        ({"extractable": True}, "wrap", "wrap and extractable"),
        ({"extractable": True}, "trusted", "trusted and extractable"),
        ({"decrypt": True}, "trusted", "trusted and decrypt"),
        ({"trusted": True}, "decrypt", "trusted and decrypt"),
    ],
)
def test_no_secret_key_is_both(has: dict[str, bool], wants: str, pair: str) -> None:
    with pytest.raises(RefusedError, match=pair) as caught:
        change_attribute(key(KeyClass.SECRET, **has), wants, "true", HSM2)
    assert caught.value.code == "attribute-conflict"


def test_what_has_wrapped_never_decrypts() -> None:
    off = change_attribute(key(KeyClass.SECRET, wrap=True), "wrap", "false", HSM2)
    assert off.guards.has_wrapped
    with pytest.raises(RefusedError, match="one after the other"):
        change_attribute(off, "decrypt", "true", HSM2)
    on = change_attribute(key(KeyClass.SECRET), "wrap", "true", HSM2)
    assert code_of(change_attribute(on, "wrap", "false", HSM2), "decrypt", "true") == (
        "attribute-conflict"
    )


def test_only_aes_and_public_rsa_keys_are_trusted() -> None:
    secret = msgspec.structs.replace(
        key(KeyClass.SECRET), spec=KeySpec(KeyType.GENERIC_SECRET, 256)
    )
    curve = msgspec.structs.replace(key(KeyClass.PUBLIC), spec=KeySpec(KeyType.EC, 256))
    for unfit in (secret, curve):
        assert code_of(unfit, "trusted", "true") == "attribute-read-only"


def test_the_halves_of_a_pair_count_as_one_key() -> None:
    public, private = key(KeyClass.PUBLIC, 1), key(KeyClass.PRIVATE, 2)
    wraps = change_attribute(public, "wrap", "true", HSM2)
    opens = change_attribute(private, "decrypt", "true", HSM2)
    for halves in ((wraps, opens), (opens, wraps)):
        with pytest.raises(RefusedError, match="wrap on the public and decrypt on the private"):
            joined(halves, {1})
    once, marked = joined((wraps, private), {1})
    assert (once.ref, marked.ref, marked.guards.has_wrapped) == (1, 2, True)
    assert code_of(marked, "decrypt", "true") == "attribute-conflict"  # also once `public` is gone
    trusted = change_attribute(public, "trusted", "true", HSM2)
    with pytest.raises(RefusedError, match="trusted on the public and decrypt on the private"):
        joined((trusted, opens), {1})
    assert joined((trusted, private), {1})[1].guards.unwraps_guarded
    assert joined((public, private), {1}) == (public,)  # who gets no mark is not written again


def test_a_pair_that_wraps_keeps_its_private_half() -> None:
    public, private = key(KeyClass.PUBLIC, wrap=True), key(KeyClass.PRIVATE)
    assert paired(public, private)[0].guards.half_stays
    leaves = key(KeyClass.PRIVATE, extractable=True)
    with pytest.raises(RefusedError, match="wrap on the public and extractable on the private"):
        paired(public, leaves)
    assert not paired(key(KeyClass.PUBLIC), leaves)[0].guards.half_stays


def test_a_wrapping_key_stays_unless_asked_otherwise() -> None:
    made, _ = new_attributes(KeyClass.SECRET, AES, {"wrap": "true"}, token=True)
    assert (made.extractable, made.never_extractable) == (False, True)
    assert new_attributes(KeyClass.SECRET, AES, {}, token=True)[0].extractable
    with pytest.raises(RefusedError, match="wrap and extractable"):
        new_attributes(KeyClass.SECRET, AES, {"wrap": "true", "extractable": "true"}, token=True)
    half, _ = new_attributes(KeyClass.PRIVATE, RSA, {}, token=True, stays=True)
    assert (half.extractable, half.never_extractable) == (False, True)


def test_templates_have_their_place() -> None:
    terms = (("key-type", "aes"), ("extractable", "false"))
    assert guards_of(KeyClass.SECRET, terms, terms) == Guards(
        wrap_template=terms, unwrap_template=terms
    )
    for key_class, wraps, unwraps, code in (
        (KeyClass.PUBLIC, (), terms, "attribute-read-only"),
        (KeyClass.PRIVATE, terms, (), "attribute-read-only"),
        (KeyClass.SECRET, (("colour", "red"),), (), "attribute-unknown"),
    ):
        with pytest.raises(RefusedError) as caught:
            guards_of(key_class, wraps, unwraps)
        assert caught.value.code == code


CHANGES = st.lists(
    st.tuples(st.sampled_from(sorted(EXPECTED)), st.sampled_from(["true", "false"])), max_size=25
)


@given(changes=CHANGES, extractable=st.booleans())
def test_no_sequence_of_changes_makes_a_wrapping_key_decrypt(
    changes: list[tuple[str, str]], extractable: bool
) -> None:
    now = key(KeyClass.SECRET, extractable=extractable)
    wrapped = guarded = False
    for name, value in changes:
        try:
            now = change_attribute(now, name, value, HSM2)
        except OrchestratorError:
            continue
        check_policy(now)
        wrapped |= now.attributes.wrap
        guarded |= now.attributes.wrap_with_trusted
        assert not (wrapped and now.attributes.decrypt)
        assert not (now.attributes.wrap and extractable)
        assert now.attributes.wrap_with_trusted is guarded
        assert now.attributes.extractable is extractable


@given(
    changes=st.lists(
        st.tuples(st.integers(0, 1), st.sampled_from(sorted(EXPECTED)), st.booleans()), max_size=25
    )
)
def test_no_sequence_makes_a_pair_wrap_and_decrypt(changes: list[tuple[int, str, bool]]) -> None:
    halves = [*paired(key(KeyClass.PUBLIC, 0), key(KeyClass.PRIVATE, 1))]
    wrapped = trusted = False
    for which, name, value in changes:
        try:
            changed = change_attribute(halves[which], name, str(value).lower(), HSM2)
            written = joined((changed, halves[1 - which]), {which})
        except OrchestratorError:
            continue
        for each in written:
            halves[each.ref] = each
        wrapped |= halves[0].attributes.wrap
        trusted |= halves[0].attributes.trusted
        assert not ((wrapped or trusted) and halves[1].attributes.decrypt)
        assert halves[1].guards.unwraps_guarded is trusted
