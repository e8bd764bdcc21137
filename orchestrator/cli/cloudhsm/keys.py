"""`key`: make, list, delete, write to files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from orchestrator.cli import files, key_view
from orchestrator.cli.cloudhsm.console import (
    Console,
    NotOfferedError,
    approval_of,
    is_session_key,
    parse_role,
)
from orchestrator.cli.cloudhsm.syntax import Given
from orchestrator.cli.cloudhsm.views import brief, key_object
from orchestrator.model.errors import MechanismUnavailableError, UsageError
from orchestrator.model.key_filter import KeyFilter, parse_pairs
from orchestrator.model.key_spec import CURVE_BITS, Curve, KeyClass, KeySpec, KeyType
from orchestrator.model.keys import check_label
from orchestrator.model.roles import Role, parse_user_name

if TYPE_CHECKING:
    from orchestrator.model.keys import Key
    from orchestrator.wire.messages import KeyDraft

PAGE_KEYS_MAX: Final = 1000
_TOKEN_DIGITS_MAX: Final = 9


def list_keys(console: Console, given: Given) -> object:
    """List a page of keys; the token of the next page is where it begins."""
    key_filter = KeyFilter.parse(given.list("--filter"))
    offset = _offset(given.maybe("--starting-token"))
    wanted = given.number("--max-items", 10)
    if wanted < 1:
        raise UsageError("--max-items is at least 1")
    # An admin sees that keys are there, and no more.
    is_verbose = given.has("--verbose") and console.session(given).role is not Role.ADMIN
    found: list[Key] = []
    while True:
        limit = min(wanted - len(found), PAGE_KEYS_MAX)
        page = console.list_keys(given, key_filter, offset + len(found), limit)
        found += page.keys
        end = offset + len(found)
        if not page.keys or len(found) >= wanted or end >= page.total:
            break
    data: dict[str, object] = {
        "matched_keys": [key_object(k) if is_verbose else brief(k) for k in found],
        "total_key_count": page.total,
        "returned_key_count": len(found),
    }
    if found and end < page.total:
        data["next_token"] = str(end)
    return data


def delete(console: Console, given: Given) -> object:
    """Delete one key."""
    key = console.find_key(given)
    if is_session_key(key):
        console.session(given).session_keys.drop(key.ref)
    else:
        console.changes(given).delete_key(
            key.ref, approval=approval_of(given), request=given.maybe("--request")
        )
    return {"message": "Key deleted successfully"}


def generate_aes(console: Console, given: Given) -> object:
    """Make an AES key."""
    return _secret(console, given, KeyType.AES)


def generate_secret(console: Console, given: Given) -> object:
    """Make a generic secret."""
    return _secret(console, given, KeyType.GENERIC_SECRET)


def generate_rsa(console: Console, given: Given) -> object:
    """Make an RSA key pair."""
    bits, exponent = given.number("--modulus-size-bits"), given.number("--public-exponent")
    return _pair(console, given, KeySpec(KeyType.RSA, bits, public_exponent=exponent))


def generate_ec(console: Console, given: Given) -> object:
    """Make an EC key pair."""
    name = given.text("--curve")
    if name == "ed25519":
        raise _unavailable(console, given, "CKM_EC_EDWARDS_KEY_PAIR_GEN (ed25519)")
    if name == "secp224r1":
        raise _unavailable(console, given, "CKM_EC_KEY_PAIR_GEN for secp224r1")
    curve = Curve.P256 if name == "prime256v1" else Curve(name)
    return _pair(console, given, KeySpec(KeyType.EC, CURVE_BITS[curve], curve))


def generate_ml_dsa(console: Console, given: Given) -> object:
    """Say what is missing."""
    name = given.text("--mldsa-algorithm")
    raise _unavailable(console, given, f"CKM_ML_DSA_KEY_PAIR_GEN ({name})")


def set_attribute(console: Console, given: Given) -> object:
    """Change an attribute of a key."""
    key = console.find_key(given)
    console.changes(given).set_attribute(
        key.ref,
        given.text("--name"),
        given.text("--value"),
        approval=approval_of(given),
        request=given.maybe("--request"),
    )
    return {"message": "Attribute set successfully"}


def share(console: Console, given: Given) -> object:
    """Let another crypto user use a key."""
    name, ref = _other_user(given), console.find_key(given).ref
    console.changes(given).share_key(
        ref, name, approval=approval_of(given), request=given.maybe("--request")
    )
    return {"message": "Key shared successfully"}


def unshare(console: Console, given: Given) -> object:
    """Let a crypto user use a key no more."""
    name, ref = _other_user(given), console.find_key(given).ref
    console.changes(given).unshare_key(
        ref, name, approval=approval_of(given), request=given.maybe("--request")
    )
    return {"message": "Key unshared successfully"}


def import_pem(console: Console, given: Given) -> object:
    """Make a key of somebody's public key."""
    from orchestrator.client.verify import public_type

    content = files.read(Path(given.text("--path")))
    wanted = given.text("--key-type-class")
    if f"{public_type(content)}-public" != wanted:
        raise UsageError(f"{given.text('--path')} holds another key than {wanted}")
    draft = _draft(given, KeyClass.PUBLIC, "--label", "--attributes")
    changes = console.changes(given)
    _, key = changes.import_public_key(content, draft, request=given.maybe("--request"))
    return {"key": key_object(key), "message": "Successfully imported key"}


def replicate(console: Console, given: Given) -> object:
    """Copy a key to a clone."""
    key = console.find_key(given)
    replication = console.replication(given)
    if (approval := approval_of(given)) is not None:
        quorum = console.changes(given).quorum
        quorum.approve_use("replicate", key.ref, None, replication.cluster.encode(), approval)
    _, copied = replication.replicate_key(key.ref)
    return {"key": key_object(copied), "message": "Successfully replicated key"}


def generate_file(console: Console, given: Given) -> object:
    """Write a public key, or a stand-in for a private key, to a new file."""
    encoding, path = given.text("--encoding"), Path(given.text("--path"))
    if encoding == "ksp-key-reference":
        raise NotOfferedError(
            "ksp-key-reference is for the Windows key storage provider, which there is none of; "
            "--encoding reference-pem writes a PKCS#11 URI that OpenSSL loads"
        )
    if encoding == "cloudhsm-reference-pem":
        raise NotOfferedError(
            "cloudhsm-reference-pem is for Ed25519 and ML-DSA keys, which no HSM type here has"
        )
    if given.has("--all"):
        raise UsageError("--all is for --encoding ksp-key-reference")
    console.need_crypto_user(given, "generate-file")
    key = console.find_key(given)
    if encoding == "pem":
        content = key_view.public_pem(key)
    else:
        content = key_view.reference_pem(key, console.cluster(given))
    files.write_new(path, content)
    return {"message": "Successfully generated key file"}


def _other_user(given: Given) -> str:
    if parse_role(given) is not Role.CRYPTO_USER:
        raise UsageError("a key is shared with a crypto user: --role crypto-user")
    return parse_user_name(given.text("--username"))


def _offset(token: str | None) -> int:
    if token is None:
        return 0
    if not (token.isascii() and token.isdecimal() and len(token) <= _TOKEN_DIGITS_MAX):
        raise UsageError("--starting-token is the next_token of an earlier page")
    return int(token)


def _unavailable(console: Console, given: Given, what: str) -> MechanismUnavailableError:
    row = console.plane.records.cluster(console.cluster(given))
    return MechanismUnavailableError(row.hsm_type, what)


def _secret(console: Console, given: Given, key_type: KeyType) -> object:
    spec = KeySpec(key_type, given.number("--key-length-bytes") * 8)
    draft = guarded_draft(given, KeyClass.SECRET, "--label", "--attributes", "key")
    return {"key": key_object(_make(console, given, spec, (draft,))[0])}


def _pair(console: Console, given: Given, spec: KeySpec) -> object:
    public = _draft(given, KeyClass.PUBLIC, "--public-label", "--public-attributes")
    private = guarded_draft(
        given, KeyClass.PRIVATE, "--private-label", "--private-attributes", "private-key"
    )
    made = _make(console, given, spec, (public, private))
    return {"public_key": key_object(made[0]), "private_key": key_object(made[1])}


def guarded_draft(
    given: Given, key_class: KeyClass, label: str, attributes: str, which: str
) -> KeyDraft:
    """Return the draft of a key that can be shared, and has quorum values."""
    import msgspec

    return msgspec.structs.replace(
        _draft(given, key_class, label, attributes),
        shared=tuple(parse_user_name(name) for name in given.list("--share-crypto-users")),
        manage_quorum=given.number(f"--manage-{which}-quorum-value"),
        use_quorum=given.number(f"--use-{which}-quorum-value"),
    )


def _draft(given: Given, key_class: KeyClass, label: str, attributes: str) -> KeyDraft:
    from orchestrator.wire.messages import KeyDraft

    pairs = tuple(parse_pairs(given.list(attributes)).items())
    return KeyDraft(key_class, check_label(given.text(label)), pairs)


def _make(
    console: Console, given: Given, spec: KeySpec, drafts: tuple[KeyDraft, ...]
) -> Sequence[Key]:
    spec.check()
    session = console.session(given)
    if given.has("--session"):
        console.warn_unless_interactive("the session key ends with this command")
        return session.session_keys.make(spec, drafts, console.session_home(given))
    changes = console.changes(given)
    return changes.generate_keys(spec, drafts, request=given.maybe("--request"))[1]
