"""The grammars of filters and attributes: whatever is typed, a value or a refusal comes out."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.model.errors import OrchestratorError, UsageError
from orchestrator.model.key_filter import KeyFilter, attribute_text, parse_pairs, parse_reference
from orchestrator.model.key_spec import Curve, KeyClass, KeySpec, KeyType
from orchestrator.model.keys import FILTERABLE, Attributes, Key, new_attributes, parse_bool

NAMES = st.sampled_from(sorted(FILTERABLE))
TEXTS = st.text(max_size=20)
BOOLEANS = st.sampled_from(["true", "false"])
SETTABLE = (
    "encrypt", "decrypt", "sign", "verify", "wrap", "unwrap", "derive", "extractable",
    "modifiable", "destroyable",
)  # fmt: skip


def refusal_of(action: Callable[[], object]) -> OrchestratorError | None:
    try:
        action()
    except OrchestratorError as exc:
        return exc
    return None


@st.composite
def keys(draw: st.DrawFn) -> Key:
    fields = {name: draw(st.booleans()) for name in Attributes.__struct_fields__}
    return Key(
        draw(st.integers(1, (1 << 64) - 1)),
        draw(st.sampled_from(KeyClass)),
        KeySpec(draw(st.sampled_from(KeyType)), 256),
        draw(TEXTS),
        draw(st.binary(max_size=8)),
        "alice",
        (),
        Attributes(**fields),
        b"",
        b"",
        draw(st.binary(max_size=3)),
    )


@given(st.integers(1, (1 << 64) - 1), st.booleans())
def test_a_reference_reads_as_it_is_written(ref: int, is_decimal: bool) -> None:
    text = str(ref) if is_decimal else f"0x{ref:016x}"
    assert KeyFilter.parse([f"key-reference={text}"]) == KeyFilter(ref=ref)


@given(TEXTS)
def test_any_reference_is_in_range_or_refused(text: str) -> None:
    try:
        made = parse_reference(text)
    except UsageError:
        return
    assert 0 < made < 1 << 64


@given(st.dictionaries(NAMES, TEXTS))
def test_terms_read_as_they_are_written(terms: dict[str, str]) -> None:
    made = KeyFilter.parse([f"attr.{name}={value}" for name, value in terms.items()])
    assert made == KeyFilter(attributes=tuple(terms.items()))


@given(keys(), st.sets(NAMES))
def test_a_key_matches_what_it_shows_and_nothing_else(key: Key, names: set[str]) -> None:
    terms = [f"attr.{name}={attribute_text(key, name)}" for name in sorted(names)]
    assert KeyFilter.parse(terms).matches(key)
    assert KeyFilter.parse([f"key-reference=0x{key.ref:016x}"]).matches(key)
    for name in names:
        other = KeyFilter.parse([f"attr.{name}={attribute_text(key, name)}x"])
        assert not other.matches(key)


@given(st.lists(st.one_of(TEXTS, st.builds("attr.{}={}".format, NAMES, TEXTS)), max_size=4))
def test_any_filter_is_read_or_refused_as_usage(items: list[str]) -> None:
    refusal = refusal_of(lambda: KeyFilter.parse(items))
    if refusal is not None:
        assert isinstance(refusal, UsageError)
        return
    made = KeyFilter.parse(items)
    assert len(made.attributes) + bool(made.ref) == len(items)


@given(NAMES, TEXTS, TEXTS)
def test_a_term_counts_once(name: str, one: str, other: str) -> None:
    for items in (
        [f"attr.{name}={one}", f"attr.{name}={other}"],
        ["key-reference=1", f"attr.{name}={one}"],
    ):
        with pytest.raises(UsageError):
            KeyFilter.parse(items)


@given(st.dictionaries(st.text("abc-", min_size=1), TEXTS))
def test_pairs_read_as_they_are_written(pairs: dict[str, str]) -> None:
    assert parse_pairs(f"{name}={value}" for name, value in pairs.items()) == pairs


@given(TEXTS)
def test_a_boolean_is_one_of_four_words(text: str) -> None:
    if text.lower() in {"true", "false", "1", "0"}:
        assert parse_bool("sign", text) is (text.lower() in {"true", "1"})
    else:
        with pytest.raises(UsageError):
            parse_bool("sign", text)


@given(st.dictionaries(st.sampled_from(SETTABLE), BOOLEANS))
def test_a_secret_key_gets_what_was_asked_for_or_the_pair_is_named(asked: dict[str, str]) -> None:
    spec = KeySpec(KeyType.AES, 256)
    refusal = refusal_of(lambda: new_attributes(KeyClass.SECRET, spec, asked, token=True))
    if refusal is not None:
        assert refusal.code == "attribute-conflict"
        assert "wrap" in str(refusal)
        assert asked.get("wrap") == "true"
        return
    made, _ = new_attributes(KeyClass.SECRET, spec, asked, token=True)
    for name, value in asked.items():
        assert getattr(made, name) is (value == "true")
    assert not (made.wrap and made.decrypt)
    assert made.never_extractable is not made.extractable


@given(st.dictionaries(st.one_of(NAMES, TEXTS), TEXTS, max_size=4), st.sampled_from(KeyClass))
def test_any_attributes_are_taken_or_refused(asked: dict[str, str], key_class: KeyClass) -> None:
    spec = KeySpec(KeyType.RSA, 2048)
    if refusal := refusal_of(lambda: new_attributes(key_class, spec, asked, token=True)):
        assert str(refusal)
        return
    made, key_id = new_attributes(key_class, spec, asked, token=True)
    assert made.trusted is False
    assert made.local is True
    assert len(key_id) <= 128


RSA = rsa.generate_private_key(65537, 2048).public_key()
EC = ec.generate_private_key(ec.SECP384R1()).public_key()
MODULUS = RSA.public_numbers().n
POINT = EC.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


def pair(public: rsa.RSAPublicKey | ec.EllipticCurvePublicKey, spec: KeySpec) -> Key:
    der = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return Key(1, KeyClass.PUBLIC, spec, "k", b"", "alice", (), Attributes(), b"", der, b"")


def matching(*terms: str) -> set[str]:
    """Name the keys that a filter finds."""
    made = {
        "rsa": pair(RSA, KeySpec(KeyType.RSA, 2048, None, 65537)),
        "ec": pair(EC, KeySpec(KeyType.EC, 384, Curve.P384)),
        "p256": pair(
            ec.generate_private_key(ec.SECP256R1()).public_key(),
            KeySpec(KeyType.EC, 256, Curve.P256),
        ),
        "aes": Key(
            2, KeyClass.SECRET, KeySpec(KeyType.AES, 256), "k", b"", "alice", (), Attributes(),
            b"blob", b"", b"",
        ),
    }  # fmt: skip
    return {name for name, key in made.items() if KeyFilter.parse(terms).matches(key)}


@pytest.mark.parametrize(
    ("term", "found"),
    [
        (f"modulus=0x{MODULUS:x}", {"rsa"}),
        (f"modulus=0x{MODULUS:X}", {"rsa"}),
        (f"modulus=0x{MODULUS + 2:x}", set()),
        ("modulus-size-bits=2048", {"rsa"}),
        ("modulus-size-bits=4096", set()),
        ("public-exponent=65537", {"rsa"}),
        ("public-exponent=0x010001", {"rsa"}),
        ("public-exponent=3", set()),
        ("curve=secp384r1", {"ec"}),
        ("curve=prime256v1", {"p256"}),
        ("curve=ed25519", set()),
        (f"ec-point=0x0461{POINT.hex()}", {"ec"}),
        (f"ec-point=0x0461{POINT.hex().upper()}", {"ec"}),
        ("ec-point=0x00", set()),
        ("key-length-bytes=32", {"aes", "p256"}),
        ("key-length-bytes=256", {"rsa"}),
    ],
)
def test_keys_are_found_by_what_they_are(term: str, found: set[str]) -> None:
    assert matching(f"attr.{term}") == found


@pytest.mark.parametrize(
    ("name", "near"),
    [("modulus-size", "modulus-size-bits"), ("lable", "label"), ("ec_point", "ec-point")],
)
def test_a_name_that_no_attribute_has_brings_up_near_ones(name: str, near: str) -> None:
    with pytest.raises(UsageError, match=rf"did you mean .*{near}.*\?"):
        KeyFilter.parse([f"attr.{name}=1"])
    with pytest.raises(OrchestratorError, match=rf"did you mean .*{near}.*\?"):
        new_attributes(KeyClass.SECRET, KeySpec(KeyType.AES, 256), {name: "true"}, token=True)


@pytest.mark.parametrize("name", ["__class__", "nonsense", "ref"])
def test_a_filter_from_the_wire_reaches_attributes_alone(name: str) -> None:
    term = KeyFilter(attributes=((name, "true"),))
    with pytest.raises(OrchestratorError, match="there is no attribute"):
        term.matches(pair(RSA, KeySpec(KeyType.RSA, 2048, None, 65537)))
