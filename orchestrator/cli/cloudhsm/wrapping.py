"""`key wrap` and `key unwrap`."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Final

from orchestrator.cli import files, key_view, signing_input
from orchestrator.cli.cloudhsm.console import Console, approval_of
from orchestrator.cli.cloudhsm.keys import guarded_draft
from orchestrator.cli.cloudhsm.syntax import Given
from orchestrator.cli.cloudhsm.views import key_object
from orchestrator.model.errors import MechanismUnavailableError
from orchestrator.model.key_spec import HashFunction, KeyClass, KeyType
from orchestrator.model.keys import parse_bytes
from orchestrator.model.wrap_mechanism import WrapMechanism, WrapScheme

GCM_IV_BYTES: Final = 12
_KINDS: Final = {
    "aes": (KeyType.AES, KeyClass.SECRET),
    "generic-secret": (KeyType.GENERIC_SECRET, KeyClass.SECRET),
    "rsa-private": (KeyType.RSA, KeyClass.PRIVATE),
    "ec-private": (KeyType.EC, KeyClass.PRIVATE),
}


def wrap(console: Console, given: Given) -> object:
    """Wrap a key; show it in base64, or write it to a new file."""
    mechanism = _mechanism(given)
    payload = console.find_key(given, "--payload-filter")
    wrapper = console.find_key(given, "--wrapping-filter")
    session = console.session(given)
    for key, other, flag in (
        (payload, wrapper, "--payload-approval"),
        (wrapper, payload, "--wrapping-approval"),
    ):
        if (approval := approval_of(given, flag)) is not None:
            quorum = console.changes(given).quorum
            quorum.approve_use("wrap", key.ref, mechanism, other.ref.to_bytes(8, "big"), approval)
    wrapped = session.wrap_key(payload.ref, wrapper.ref, mechanism)
    shown = {
        "payload_key_reference": key_view.reference(payload),
        "wrapping_key_reference": key_view.reference(wrapper),
    }
    if mechanism.scheme is WrapScheme.AES_GCM:
        iv, wrapped = wrapped[:GCM_IV_BYTES], wrapped[GCM_IV_BYTES:]
        shown["iv"] = f"0x{iv.hex()}"
    path = given.maybe("--path")
    if path is None:
        return shown | {"wrapped_key_data": base64.b64encode(wrapped).decode()}
    files.write_new(Path(path), wrapped)
    return shown


def unwrap(console: Console, given: Given) -> object:
    """Make a key of one that was wrapped outside."""
    mechanism = _mechanism(given)
    path, kind = given.maybe("--data-path"), given.text("--key-type-class")
    wrapped = signing_input.one_of(
        given.maybe("--data"), Path(path) if path is not None else None, "data"
    )
    if kind not in _KINDS:
        row = console.plane.records.cluster(console.cluster(given))
        raise MechanismUnavailableError(row.hsm_type, f"for {kind} keys")
    key_type, key_class = _KINDS[kind]
    draft = guarded_draft(given, key_class, "--label", "--attributes", "key")
    unwrapper = console.find_key(given)
    changes = console.changes(given)
    if (approval := approval_of(given)) is not None:
        changes.quorum.approve_use("unwrap", unwrapper.ref, mechanism, wrapped, approval)
    if given.has("--session"):
        console.warn_unless_interactive("the session key ends with this command")
        session = console.session(given)
        key = session.session_keys.unwrap(unwrapper.ref, mechanism, wrapped, key_type, draft)
        console.keep_home(given, key)
    else:
        _, key = changes.unwrap_key(
            unwrapper.ref, mechanism, wrapped, key_type, draft, request=given.maybe("--request")
        )
    return {"key": key_object(key)}


def _mechanism(given: Given) -> WrapMechanism:
    hash_function = None
    if (name := given.maybe("--hash-function")) is not None:
        hash_function = HashFunction(name)
        signing_input.check_mgf(hash_function, given.text("--mgf"))
    return WrapMechanism(
        WrapScheme(given.path[-1]),
        hash_function,
        given.number("--tag-length-bits"),
        parse_bytes(given.maybe("--iv") or "", "--iv"),
        parse_bytes(given.maybe("--aad") or "", "--aad"),
    ).check()
