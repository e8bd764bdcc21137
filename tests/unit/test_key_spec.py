"""Which keys there are, and which of them ECDH makes."""

from __future__ import annotations

import pytest

from orchestrator.model.errors import RefusedError
from orchestrator.model.key_spec import (
    CURVE_BITS,
    Curve,
    KeyClass,
    KeySpec,
    KeyType,
    MacMechanism,
    coordinate_bytes,
)
from orchestrator.model.keys import Attributes, derived_attributes, new_attributes

EC = {curve: KeySpec(KeyType.EC, bits, curve) for curve, bits in CURVE_BITS.items()}


def test_a_curve_has_its_bits() -> None:
    assert {curve: coordinate_bytes(curve) for curve in Curve} == {
        Curve.P256: 32, Curve.P384: 48, Curve.P521: 66, Curve.SECP256K1: 32,
    }  # fmt: skip
    for curve, spec in EC.items():
        assert spec.check() == spec
        for bits in {256, 384, 512, 521, 528, 0} - {spec.bits}:
            with pytest.raises(RefusedError):
                KeySpec(KeyType.EC, bits, curve).check()


@pytest.mark.parametrize("curve", list(Curve))
def test_ecdh_makes_secrets_no_longer_than_x(curve: Curve) -> None:
    most = coordinate_bytes(curve) * 8
    for good in (KeySpec(KeyType.AES, 256), KeySpec(KeyType.GENERIC_SECRET, most)):
        assert good.check_derived(EC[curve]) == good
    for bad in (
        KeySpec(KeyType.GENERIC_SECRET, most + 8),
        KeySpec(KeyType.AES, 160),
        KeySpec(KeyType.RSA, 2048, None, 65537),
        EC[curve],
    ):
        with pytest.raises(RefusedError) as caught:
            bad.check_derived(EC[curve])
        assert caught.value.code == "key-spec"
    with pytest.raises(RefusedError) as caught:
        KeySpec(KeyType.AES, 128).check_derived(KeySpec(KeyType.RSA, 2048, None, 65537))
    assert caught.value.code == "key-type"


def test_macs_have_their_key_types() -> None:
    assert {m for m in MacMechanism if m.key_type is KeyType.AES} == {MacMechanism.AES_CMAC}


def test_secrets_sign_by_default_and_derived_ones_do_not() -> None:
    for key_type in (KeyType.AES, KeyType.GENERIC_SECRET):
        made, _ = new_attributes(KeyClass.SECRET, KeySpec(key_type, 256), {}, token=True)
        assert (made.sign, made.verify, made.local) == (True, True, True)
    derived, key_id = derived_attributes(Attributes(), {"id": "0x07"}, token=False)
    assert (derived.sign, derived.verify, derived.local, derived.token) == (False,) * 4
    assert key_id == b"\x07"


@pytest.mark.parametrize("always", [True, False])
def test_what_was_once_open_stays_so(always: bool) -> None:
    """What was sensitive always, or extractable never, is so together with its base key."""
    base = Attributes(always_sensitive=always, extractable=False, never_extractable=always)
    derived, _ = derived_attributes(base, {}, token=True)
    assert (derived.always_sensitive, derived.never_extractable) == (always, always)
    assert (derived.sensitive, derived.extractable) == (True, False)
