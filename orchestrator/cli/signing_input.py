"""What signing and verifying are given: data, signature and mechanism, checked."""

from __future__ import annotations

import base64
import binascii
import hashlib
from pathlib import Path

from orchestrator.cli import files
from orchestrator.model.errors import UsageError
from orchestrator.model.key_spec import DIGEST_BYTES, HashFunction, SignMechanism, SignScheme


def mechanism(
    scheme: SignScheme, hash_function: HashFunction, mgf: str | None, salt_length: int | None
) -> SignMechanism:
    """Return the mechanism of a scheme and its options, which must fit each other."""
    if scheme is not SignScheme.RSA_PSS:
        if mgf is not None or salt_length is not None:
            raise UsageError("--mgf and --salt-length are for rsa-pkcs-pss")
        return SignMechanism(scheme, hash_function)
    if mgf is None or salt_length is None:
        raise UsageError("rsa-pkcs-pss needs --mgf and --salt-length")
    check_mgf(hash_function, mgf)
    return SignMechanism(scheme, hash_function, salt_length)


def check_mgf(hash_function: HashFunction, mgf: str) -> None:
    """Raise UsageError unless the mask generation function has the same hash."""
    if mgf != f"mgf1-{hash_function}":
        raise UsageError(f"--mgf must have the same hash as --hash-function: mgf1-{hash_function}")


def one_of(given: str | None, path: Path | None, what: str) -> bytes:
    """Return what was given in base64, or in a file, but not both."""
    if (given is None) == (path is None):
        raise UsageError(f"give either --{what} (base64) or --{what}-path")
    if path is not None:
        return files.read(path)
    text = "".join((given or "").split())  # base64 programs break lines
    try:
        content = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        content = b""
    if base64.b64encode(content).decode() != text:  # also: stray bits after the last byte
        raise UsageError(f"--{what} is not base64; --{what}-path takes a file as it is")
    return content


def digest(
    hash_function: HashFunction, data: str | None, path: Path | None, *, is_digest: bool
) -> bytes:
    """Return the digest to sign or to verify: of the data, or the data itself."""
    content = one_of(data, path, "data")
    if not is_digest:
        return hashlib.new(hash_function, content).digest()
    if len(content) != DIGEST_BYTES[hash_function]:
        raise UsageError(
            f"a {hash_function} digest has {DIGEST_BYTES[hash_function]} bytes, not {len(content)}"
        )
    return content
