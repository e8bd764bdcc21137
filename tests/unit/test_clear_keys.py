"""PKCS#11's components of private keys become what an HSM imports."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)
from pkcs11.util.ec import encode_named_curve_parameters

from orchestrator.client.clear_keys import ec_private_key, private_key, rsa_private_key
from orchestrator.model.errors import OrchestratorError, RefusedError, UsageError
from orchestrator.model.key_spec import Curve, KeySpec, KeyType

OIDS = {
    Curve.P256: ("1.2.840.10045.3.1.7", ec.SECP256R1()),
    Curve.P384: ("1.3.132.0.34", ec.SECP384R1()),
    Curve.P521: ("1.3.132.0.35", ec.SECP521R1()),
    Curve.SECP256K1: ("1.3.132.0.10", ec.SECP256K1()),
}
RSA = rsa.generate_private_key(65537, 2048)


def octets(number: int) -> bytes:
    return number.to_bytes((number.bit_length() + 7) // 8, "big")


@pytest.mark.parametrize("with_primes", [True, False])
def test_rsa_of_its_components(with_primes: bool) -> None:  # a parameter
    numbers = RSA.private_numbers()
    n, e, d = numbers.public_numbers.n, 65537, numbers.d
    primes = (octets(numbers.p), octets(numbers.q)) if with_primes else ()
    spec, value = rsa_private_key(octets(n), b"\0" + octets(e), octets(d), *primes)
    assert spec == KeySpec(KeyType.RSA, 2048, None, 65537)
    loaded = load_der_private_key(value, None)
    assert isinstance(loaded, rsa.RSAPrivateKey)
    assert loaded.public_key() == RSA.public_key()


def test_numbers_that_are_no_rsa_key() -> None:
    numbers = RSA.private_numbers()
    n, d = octets(numbers.public_numbers.n), octets(numbers.d)
    p, q, e = octets(numbers.p), octets(numbers.q), b"\1\0\1"
    for wrong in (
        (n, e, d, p, p),
        (n, e, octets(numbers.d + 1), p, q),
        (n, e, d, octets(numbers.p + 2), q),
        (n, b"\3", d, p, q),
        (b"", b"", b"", b"", b""),
        (b"", e, d, p, q),
        (n, e, b"", b"", b""),
        (n, e, d, b"\1", n),
        (n, e, octets(numbers.d + 2)),
        (n, e, n),
        (n, n, d, p, q),
        (b"\1" * 513, e, d),
        (n, e, d, n, q),
    ):
        with pytest.raises(UsageError):
            rsa_private_key(*wrong)
    small = rsa.generate_private_key(65537, 1024).private_numbers()  # noqa: S505  # refused
    with pytest.raises(OrchestratorError) as caught:
        rsa_private_key(octets(small.public_numbers.n), e, octets(small.d))
    assert caught.value.code == "key-spec"


@pytest.mark.parametrize("curve", list(Curve))
def test_ec_of_its_value(curve: Curve) -> None:
    oid, group = OIDS[curve]
    for number in (7, (1 << group.key_size - 2) + 5):
        spec, value = ec_private_key(encode_named_curve_parameters(oid), octets(number))
        assert spec == KeySpec(KeyType.EC, group.key_size, curve)
        loaded = load_der_private_key(value, None)
        assert isinstance(loaded, ec.EllipticCurvePrivateKey)
        assert loaded.private_numbers().private_value == number


def test_numbers_that_are_no_ec_key() -> None:
    params = encode_named_curve_parameters(OIDS[Curve.P256][0])
    for value in (b"", b"\0", b"\xff" * 32, bytes(100)):
        with pytest.raises(UsageError, match="no private key"):
            ec_private_key(params, value)
    for unknown in (b"", encode_named_curve_parameters("1.3.132.0.33")):
        with pytest.raises(UsageError, match="no such curve"):
            ec_private_key(unknown, b"\7")


def _pem(private: PrivateKeyTypes, passphrase: bytes = b"") -> bytes:
    protection = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
    return private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, protection)


@pytest.mark.parametrize(
    ("group", "curve"),
    [
        (ec.SECP256R1(), Curve.P256),
        (ec.SECP384R1(), Curve.P384),
        (ec.SECP521R1(), Curve.P521),
        (ec.SECP256K1(), Curve.SECP256K1),
    ],
)
def test_an_ec_key_in_pem_is_what_it_was(group: ec.EllipticCurve, curve: Curve) -> None:
    private = ec.derive_private_key(7, group)
    spec, content = private_key(_pem(private))
    assert (spec.type, spec.curve) == (KeyType.EC, curve)
    assert content == private.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


def test_an_rsa_key_in_pem_is_what_it_was() -> None:
    spec, content = private_key(_pem(RSA))
    assert (spec.type, spec.bits, spec.public_exponent) == (KeyType.RSA, 2048, 65537)
    assert content == RSA.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


def test_a_pem_that_is_no_usable_private_key_is_refused() -> None:
    usable = ec.derive_private_key(7, ec.SECP256R1())
    wrong = {
        "passphrase": _pem(usable, b"a passphrase"),
        "no such curve": _pem(ec.derive_private_key(7, ec.SECP224R1())),
        "only RSA and EC": _pem(ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32))),
        "no private key in PEM": _pem(usable)[:80],
    }
    for said, pem in wrong.items():
        with pytest.raises(UsageError, match=said) as caught:
            private_key(pem)
        assert pem.splitlines()[1].decode() not in str(caught.value)
    small = rsa.generate_private_key(65537, 1024)  # noqa: S505  # which is the point
    with pytest.raises(RefusedError):
        private_key(_pem(small))
