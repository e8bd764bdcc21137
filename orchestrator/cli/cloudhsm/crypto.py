"""`crypto`: sign in an HSM, verify on this machine."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Final

from orchestrator.cli import key_view, signing_input
from orchestrator.cli.cloudhsm.console import Console, approval_of
from orchestrator.cli.cloudhsm.syntax import Given
from orchestrator.model.errors import MechanismUnavailableError, UsageError
from orchestrator.model.key_spec import HashFunction, SignMechanism, SignScheme

_MISSING: Final = {
    "ed25519": "CKM_EDDSA",
    "ed25519ph": "CKM_EDDSA with the pre-hash flag",
    "ml-dsa": "CKM_ML_DSA",
}


def sign(console: Console, given: Given) -> object:
    """Sign with a private key; ECDSA gives r || s."""
    mechanism, digest = asked(given)
    key = console.find_key(given, "--key-filter")
    if (approval := approval_of(given)) is not None:
        console.changes(given).quorum.approve_sign(key.ref, mechanism, digest, approval)
    signature = console.session(given).sign(key.ref, mechanism, digest)
    return {
        "key-reference": key_view.reference(key),
        "signature": base64.b64encode(signature).decode(),
    }


def verify(console: Console, given: Given) -> object:
    """Verify with a public key, which needs no HSM beyond finding it."""
    from orchestrator.client.verify import verify_signature

    console.need_crypto_user(given, "verify")
    mechanism, digest = asked(given)
    path = given.maybe("--signature-path")
    shown = signing_input.one_of(
        given.maybe("--signature"), Path(path) if path is not None else None, "signature"
    )
    key = console.find_key(given, "--key-filter")
    if not key.public:
        raise UsageError(f"key {key_view.reference(key)} has no public half to verify with")
    verify_signature(key.public, mechanism, digest, shown)
    return {"message": "Signature verified successfully"}


def missing(console: Console, given: Given) -> object:
    """Say which mechanism the profile lacks."""
    row = console.plane.records.cluster(console.cluster(given))
    raise MechanismUnavailableError(row.hsm_type, _MISSING[given.path[-1]])


def asked(given: Given) -> tuple[SignMechanism, bytes]:
    """Return mechanism and digest that were asked for."""
    hash_function = HashFunction(given.text("--hash-function"))
    salt = given.number("--salt-length") if given.has("--salt-length") else None
    scheme = SignScheme(given.path[-1])
    mechanism = signing_input.mechanism(scheme, hash_function, given.maybe("--mgf"), salt)
    path = given.maybe("--data-path")
    digest = signing_input.digest(
        hash_function,
        given.maybe("--data"),
        Path(path) if path is not None else None,
        is_digest=given.maybe("--data-type") == "digest",
    )
    return mechanism, digest
