"""Curves beside P-256: made by name, shown with their points, verified in both forms."""

from __future__ import annotations

import base64

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.hashes import SHA512
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from orchestrator.cli import key_view
from orchestrator.model.key_spec import (
    CURVE_BITS,
    Curve,
    KeyClass,
    KeySpec,
    KeyType,
    coordinate_bytes,
)
from tests.cli.conftest import ALICE, Run, words
from tests.cli.stand_ins import StandIns, make_key

PRIVATE = {
    Curve.P256: ec.derive_private_key(5, ec.SECP256R1()),
    Curve.P384: ec.derive_private_key(5, ec.SECP384R1()),
    Curve.P521: ec.derive_private_key(5, ec.SECP521R1()),
    Curve.SECP256K1: ec.derive_private_key(5, ec.SECP256K1()),
}


@pytest.mark.parametrize("curve", list(Curve))
def test_a_key_of_each_curve(curve: Curve, run: Run, services: StandIns) -> None:
    private, half = PRIVATE[curve], coordinate_bytes(curve)
    spec = KeySpec(KeyType.EC, CURVE_BITS[curve], curve)
    public = private.public_key()
    spki = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    services.key = msgspec.structs.replace(make_key(KeyClass.PUBLIC, spec, "web"), public=spki)

    arguments = words("--public-label p --private-label k --curve")
    outcome = run("key", "generate-asymmetric-pair", "ec", *arguments, curve, login=ALICE)
    assert outcome.status == 0
    assert [call[1] for call in services.calls if call[0] == "generate_keys"] == [spec]

    shown = key_view.full(services.key)["attributes"]
    assert isinstance(shown, dict)
    point = public.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    header = "0x0441" if half == 32 else "0x0461" if half == 48 else "0x048185"
    assert (shown["curve"], shown["ec_point"]) == (curve, header + point.hex())

    der = private.sign(b"Hello", ec.ECDSA(SHA512()))
    r, s = utils.decode_dss_signature(der)
    verify = words("crypto verify ecdsa --key-filter attr.label=web --hash-function sha512 --data")
    for form, signature in (
        ("der", der),
        ("raw", r.to_bytes(half, "big") + s.to_bytes(half, "big")),
    ):
        given = ("SGVsbG8=", "--signature", base64.b64encode(signature).decode())
        assert run(*verify, *given, "--signature-format", form, login=ALICE).status == 0


def test_a_der_signature_needs_a_curve(run: Run, services: StandIns) -> None:
    services.key = make_key(KeyClass.PUBLIC, KeySpec(KeyType.RSA, 2048, None, 65537), "web")
    outcome = run(
        *words("crypto verify ecdsa --key-filter attr.label=web --hash-function sha512"),
        *words("--data SGVsbG8= --signature AAAA --signature-format der --output json"),
        login=ALICE,
    )
    assert (outcome.status, outcome.error["code"]) == (2, "usage")
