"""`cloister crypto`: sign in an HSM, verify here."""

from __future__ import annotations

import base64
import binascii
import hashlib
from pathlib import Path

from orchestrator.cli import files, key_view
from orchestrator.cli.command import LOGIN, command, group
from orchestrator.cli.invocation import Invocation
from orchestrator.cli.options import (
    DataOption,
    DataPathOption,
    DataType,
    DataTypeOption,
    FormatOption,
    HashOption,
    HsmOption,
    KeyFilterOption,
    Mgf,
    MgfOption,
    SaltOption,
    SignatureFormat,
    SignatureOption,
    SignaturePathOption,
)
from orchestrator.model.errors import UsageError
from orchestrator.model.key_spec import DIGEST_BYTES, HashFunction, SignMechanism, SignScheme
from orchestrator.model.keys import KeyFilter
from orchestrator.model.roles import Role

app = group("crypto", "Use keys: sign and verify.")
sign = group("sign", "Sign with a private key, inside an HSM.", app)
verify = group("verify", "Verify with a public key, on this machine.", app)

_RAW = SignatureFormat.RAW


@command(sign, "rsa-pkcs", LOGIN)
def sign_rsa_pkcs(
    call: Invocation,
    *,
    key_filter: KeyFilterOption,
    hash_function: HashOption,
    data: DataOption = None,
    data_path: DataPathOption = None,
    data_type: DataTypeOption = DataType.RAW,
    signature_format: FormatOption = _RAW,
    hsm: HsmOption = None,
) -> None:
    """Sign with RSA PKCS#1 v1.5 (crypto user).

    Example:
      cloister crypto sign rsa-pkcs --key-filter attr.label=web \\
          --hash-function sha256 --data-path contract.pdf
    """
    mechanism = SignMechanism(SignScheme.RSA_PKCS, hash_function)
    digest = _digest(hash_function, data, data_path, data_type)
    _sign(call, key_filter, mechanism, digest, hsm, signature_format)


@command(sign, "rsa-pkcs-pss", LOGIN)
def sign_rsa_pss(
    call: Invocation,
    *,
    key_filter: KeyFilterOption,
    hash_function: HashOption,
    mgf: MgfOption,
    salt_length: SaltOption,
    data: DataOption = None,
    data_path: DataPathOption = None,
    data_type: DataTypeOption = DataType.RAW,
    signature_format: FormatOption = _RAW,
    hsm: HsmOption = None,
) -> None:
    """Sign with RSA-PSS (crypto user).

    Example:
      cloister crypto sign rsa-pkcs-pss --key-filter attr.label=web \\
          --hash-function sha256 --mgf mgf1-sha256 --salt-length 32 --data SGVsbG8=
    """
    mechanism = _pss(hash_function, mgf, salt_length)
    digest = _digest(hash_function, data, data_path, data_type)
    _sign(call, key_filter, mechanism, digest, hsm, signature_format)


@command(sign, "ecdsa", LOGIN)
def sign_ecdsa(
    call: Invocation,
    *,
    key_filter: KeyFilterOption,
    hash_function: HashOption,
    data: DataOption = None,
    data_path: DataPathOption = None,
    data_type: DataTypeOption = DataType.RAW,
    signature_format: FormatOption = _RAW,
    hsm: HsmOption = None,
) -> None:
    """Sign with ECDSA; the signature is r||s, or DER on request (crypto user).

    Example:
      cloister crypto sign ecdsa --key-filter attr.label=ca \\
          --hash-function sha256 --data-path contract.pdf --signature-format der
    """
    mechanism = SignMechanism(SignScheme.ECDSA, hash_function)
    digest = _digest(hash_function, data, data_path, data_type)
    _sign(call, key_filter, mechanism, digest, hsm, signature_format)


@command(verify, "rsa-pkcs", LOGIN)
def verify_rsa_pkcs(
    call: Invocation,
    *,
    key_filter: KeyFilterOption,
    hash_function: HashOption,
    data: DataOption = None,
    data_path: DataPathOption = None,
    data_type: DataTypeOption = DataType.RAW,
    signature: SignatureOption = None,
    signature_path: SignaturePathOption = None,
    signature_format: FormatOption = _RAW,
) -> None:
    """Verify an RSA PKCS#1 v1.5 signature; exits with 1 when it does not hold."""
    mechanism = SignMechanism(SignScheme.RSA_PKCS, hash_function)
    digest = _digest(hash_function, data, data_path, data_type)
    _verify(call, key_filter, mechanism, digest, _one(signature, signature_path, "signature"),
            signature_format)  # fmt: skip


@command(verify, "rsa-pkcs-pss", LOGIN)
def verify_rsa_pss(
    call: Invocation,
    *,
    key_filter: KeyFilterOption,
    hash_function: HashOption,
    mgf: MgfOption,
    salt_length: SaltOption,
    data: DataOption = None,
    data_path: DataPathOption = None,
    data_type: DataTypeOption = DataType.RAW,
    signature: SignatureOption = None,
    signature_path: SignaturePathOption = None,
    signature_format: FormatOption = _RAW,
) -> None:
    """Verify an RSA-PSS signature; exits with 1 when it does not hold."""
    mechanism = _pss(hash_function, mgf, salt_length)
    digest = _digest(hash_function, data, data_path, data_type)
    _verify(call, key_filter, mechanism, digest, _one(signature, signature_path, "signature"),
            signature_format)  # fmt: skip


@command(verify, "ecdsa", LOGIN)
def verify_ecdsa(
    call: Invocation,
    *,
    key_filter: KeyFilterOption,
    hash_function: HashOption,
    data: DataOption = None,
    data_path: DataPathOption = None,
    data_type: DataTypeOption = DataType.RAW,
    signature: SignatureOption = None,
    signature_path: SignaturePathOption = None,
    signature_format: FormatOption = _RAW,
) -> None:
    """Verify an ECDSA signature, r||s or DER; exits with 1 when it does not hold."""
    mechanism = SignMechanism(SignScheme.ECDSA, hash_function)
    digest = _digest(hash_function, data, data_path, data_type)
    _verify(call, key_filter, mechanism, digest, _one(signature, signature_path, "signature"),
            signature_format)  # fmt: skip


def _pss(hash_function: HashFunction, mgf: Mgf, salt_length: int) -> SignMechanism:
    if mgf != f"mgf1-{hash_function}":
        raise UsageError(f"--mgf must have the same hash as --hash-function: mgf1-{hash_function}")
    return SignMechanism(SignScheme.RSA_PSS, hash_function, salt_length)


def _one(given: str | None, path: Path | None, what: str) -> bytes:
    if (given is None) == (path is None):
        raise UsageError(f"give either --{what} (base64) or --{what}-path")
    if path is not None:
        return files.read(path)
    try:
        return base64.b64decode(given or "", validate=True)
    except (binascii.Error, ValueError) as exc:
        raise UsageError(f"--{what} is not base64; --{what}-path takes a file as it is") from exc


def _digest(
    hash_function: HashFunction, data: str | None, path: Path | None, data_type: DataType
) -> bytes:
    content = _one(data, path, "data")
    if data_type is DataType.RAW:
        return hashlib.new(hash_function, content).digest()
    if len(content) != DIGEST_BYTES[hash_function]:
        raise UsageError(
            f"a {hash_function} digest has {DIGEST_BYTES[hash_function]} bytes, not {len(content)}"
        )
    return content


def _sign(
    call: Invocation,
    key_filter: list[str],
    mechanism: SignMechanism,
    digest: bytes,
    hsm: str | None,
    signature_format: SignatureFormat,
) -> None:
    wanted = KeyFilter.parse(key_filter)
    chosen = call.plane.records.resolve_hsm(call.cluster_id, hsm)[1] if hsm else None
    session = call.session(Role.CRYPTO_USER)
    key = session.find_key(wanted)
    signature = session.sign(key.ref, mechanism, digest, chosen)
    if mechanism.scheme is SignScheme.ECDSA and signature_format is SignatureFormat.DER:
        from orchestrator.client.verify import der_signature

        signature = der_signature(signature)
    encoded = base64.b64encode(signature).decode()
    call.show({"key_reference": key_view.reference(key), "signature": encoded})


def _verify(
    call: Invocation,
    key_filter: list[str],
    mechanism: SignMechanism,
    digest: bytes,
    signature: bytes,
    signature_format: SignatureFormat,
) -> None:
    from orchestrator.client.verify import raw_signature, verify_signature

    key = call.session(Role.CRYPTO_USER).find_key(KeyFilter.parse(key_filter))
    if not key.public:
        raise UsageError(f"key {key_view.reference(key)} has no public half to verify with")
    if mechanism.scheme is SignScheme.ECDSA and signature_format is SignatureFormat.DER:
        signature = raw_signature(signature)
    verify_signature(key.public, mechanism, digest, signature)
    call.show(
        {
            "key_reference": key_view.reference(key),
            "message": "Signature verified successfully",
        }
    )
