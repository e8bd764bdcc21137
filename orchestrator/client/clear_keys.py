"""Keys that an application gives in clear, from PKCS#11's components to what an HSM imports."""

from __future__ import annotations

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from orchestrator.model.errors import UsageError
from orchestrator.model.key_spec import CURVE_BITS, Curve, KeySpec, KeyType

_RSA_BITS_MAX = 4096
_CURVES: dict[bytes, tuple[Curve, ec.EllipticCurve]] = {  # CKA_EC_PARAMS: DER of the OID
    bytes.fromhex("06082a8648ce3d030107"): (Curve.P256, ec.SECP256R1()),
    bytes.fromhex("06052b81040022"): (Curve.P384, ec.SECP384R1()),
    bytes.fromhex("06052b81040023"): (Curve.P521, ec.SECP521R1()),
    bytes.fromhex("06052b8104000a"): (Curve.SECP256K1, ec.SECP256K1()),
}


def rsa_private_key(
    modulus: bytes,
    public_exponent: bytes,
    private_exponent: bytes,
    prime_1: bytes = b"",
    prime_2: bytes = b"",
) -> tuple[KeySpec, bytes]:
    """Return spec and PKCS#8 of an RSA key of big-endian components; primes may be left out.

    Raises:
        UsageError: these numbers are no RSA key.
    """
    n, e, d = (int.from_bytes(x, "big") for x in (modulus, public_exponent, private_exponent))
    p, q = (int.from_bytes(x, "big") for x in (prime_1, prime_2))
    wrong = "these numbers are no RSA private key"
    if not 0 < n.bit_length() <= _RSA_BITS_MAX or not max(e, d, p, q) < n:
        raise UsageError(wrong)  # before what takes long with long numbers
    try:
        if not (p and q):
            if pow(pow(2, e, n), d, n) != 2:  # as it was
                raise UsageError(wrong)
            p, q = rsa.rsa_recover_prime_factors(n, e, d)
        numbers = rsa.RSAPrivateNumbers(
            p,
            q,
            d,
            rsa.rsa_crt_dmp1(d, p),
            rsa.rsa_crt_dmq1(d, q),
            rsa.rsa_crt_iqmp(p, q),
            rsa.RSAPublicNumbers(e, n),
        )
        private = numbers.private_key()
    except (ValueError, ZeroDivisionError, UnsupportedAlgorithm) as exc:
        raise UsageError(wrong) from exc
    spec = KeySpec(KeyType.RSA, private.key_size, None, e)
    return spec.check(), _pkcs8(private)


def ec_private_key(ec_params: bytes, value: bytes) -> tuple[KeySpec, bytes]:
    """Return spec and PKCS#8 of an EC key.

    Args:
        ec_params: DER of the curve's OID, as CKA_EC_PARAMS has it.
        value: the private number, big-endian.

    Raises:
        UsageError: the curve is none that HSMs here have, or the number is not below its order.
    """
    if ec_params not in _CURVES:
        raise UsageError(f"there is no such curve here; there are {', '.join(Curve)}")
    curve, group = _CURVES[ec_params]
    try:
        private = ec.derive_private_key(int.from_bytes(value, "big"), group)
    except ValueError as exc:
        raise UsageError(f"this number is no private key on {curve}") from exc
    return KeySpec(KeyType.EC, CURVE_BITS[curve], curve), _pkcs8(private)


def private_key(pem: bytes) -> tuple[KeySpec, bytes]:
    """Return spec and PKCS#8 of a private key in PEM, which no passphrase protects.

    Raises:
        UsageError: it is none, or none that HSMs here have. The file's bytes are not quoted.
    """
    try:
        private = load_pem_private_key(pem, password=None)
    except TypeError:
        raise UsageError(
            "the private key is protected by a passphrase; decrypt it first, into memory: "
            "`openssl pkey -in FILE -out /dev/shm/FILE`"
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise UsageError("this is no private key in PEM") from None
    if isinstance(private, rsa.RSAPrivateKey):
        exponent = private.public_key().public_numbers().e
        spec = KeySpec(KeyType.RSA, private.key_size, None, exponent)
        return spec.check(), _pkcs8(private)
    if isinstance(private, ec.EllipticCurvePrivateKey):
        for curve, group in _CURVES.values():
            if group.name == private.curve.name:
                return KeySpec(KeyType.EC, CURVE_BITS[curve], curve), _pkcs8(private)
        raise UsageError(f"there is no such curve here; there are {', '.join(Curve)}")
    raise UsageError("only RSA and EC private keys can be imported")


def _pkcs8(private: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    return private.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
