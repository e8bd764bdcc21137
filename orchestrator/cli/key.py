"""`cloister key`: flags, filters and attributes of the CloudHSM CLI."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli import approvals, files, key_view, next_steps
from orchestrator.cli.approvals import ApprovalOption
from orchestrator.cli.cloudhsm.key_tree import WRAPS
from orchestrator.cli.command import CHANGE, LOGIN, Needs, command, group
from orchestrator.cli.invocation import Invocation
from orchestrator.cli.offered import offer
from orchestrator.cli.options import FilterOption, SessionOption
from orchestrator.model.errors import UsageError
from orchestrator.model.key_filter import KeyFilter, parse_pairs
from orchestrator.model.key_spec import CURVE_BITS, Curve, KeyClass, KeySpec, KeyType
from orchestrator.model.keys import check_label
from orchestrator.model.roles import Role, parse_user_name

if TYPE_CHECKING:
    from orchestrator.wire.messages import KeyDraft

app = group("key", "Keys: generate, share, change, wrap, list, delete, export public halves.")
symmetric = group("generate-symmetric", "Make an AES key or a generic secret.", app)
pair = group("generate-asymmetric-pair", "Make an RSA or EC key pair.", app)
import_ = group("import", "Import a key.", app)
wrap = group("wrap", "Wrap a key: encrypt it under another.", app)
unwrap = group("unwrap", "Unwrap a key into the cluster.", app)

_COLUMNS = ("key_reference", "label", "class", "key_type", "size", "owner")
_ENDED = "the session key ended with this command; use the Python client to work with one"


class CurveName(StrEnum):
    """Curves by CloudHSM's names."""

    SECP256R1 = "secp256r1"
    PRIME256V1 = "prime256v1"
    SECP384R1 = "secp384r1"
    SECP521R1 = "secp521r1"
    SECP256K1 = "secp256k1"


class Encoding(StrEnum):
    """What `generate-file` writes."""

    PEM = "pem"
    REFERENCE_PEM = "reference-pem"


_ATTRIBUTES_HELP = "Attributes, e.g. sign=true extractable=false id=0x01."
ShareOption = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME …", help="Crypto users who may use the key too."),
]
QuorumOption = Annotated[
    int, typer.Option(metavar="N", min=0, max=8, help="Approvals it takes: 0 for none, 2 to 8.")
]
LabelOption = Annotated[str, typer.Option("--label", metavar="LABEL", help="The key's label.")]
LengthOption = Annotated[int, typer.Option("--key-length-bytes", metavar="BYTES", min=1)]
AttributesOption = Annotated[
    list[str] | None,
    typer.Option("--attributes", metavar="NAME=VALUE …", help=_ATTRIBUTES_HELP),
]
PublicLabelOption = Annotated[str, typer.Option("--public-label", metavar="LABEL")]
PrivateLabelOption = Annotated[str, typer.Option("--private-label", metavar="LABEL")]
PublicAttributesOption = Annotated[
    list[str] | None,
    typer.Option("--public-attributes", metavar="NAME=VALUE …", help=_ATTRIBUTES_HELP),
]
PrivateAttributesOption = Annotated[
    list[str] | None,
    typer.Option("--private-attributes", metavar="NAME=VALUE …", help=_ATTRIBUTES_HELP),
]


@command(symmetric, "aes", CHANGE)
def aes(
    call: Invocation,
    *,
    label: LabelOption,
    key_length_bytes: LengthOption,
    attributes: AttributesOption = None,
    session: SessionOption = False,
    share_crypto_users: ShareOption = None,
    manage_key_quorum_value: QuorumOption = 0,
    use_key_quorum_value: QuorumOption = 0,
) -> None:
    r"""Make an AES key of 16, 24 or 32 bytes (crypto user).

    Example:
      cloister key generate-symmetric aes --label data --key-length-bytes 32 \
          --attributes encrypt=true decrypt=true extractable=false
    """
    spec = KeySpec(KeyType.AES, key_length_bytes * 8)
    care = _Care(share_crypto_users, manage_key_quorum_value, use_key_quorum_value)
    _generate(call, spec, [(KeyClass.SECRET, label, attributes)], care, session=session)


@command(symmetric, "generic-secret", CHANGE)
def generic_secret(
    call: Invocation,
    *,
    label: LabelOption,
    key_length_bytes: LengthOption,
    attributes: AttributesOption = None,
    session: SessionOption = False,
    share_crypto_users: ShareOption = None,
    manage_key_quorum_value: QuorumOption = 0,
    use_key_quorum_value: QuorumOption = 0,
) -> None:
    """Make a generic secret of 1 to 800 bytes (crypto user)."""
    spec = KeySpec(KeyType.GENERIC_SECRET, key_length_bytes * 8)
    care = _Care(share_crypto_users, manage_key_quorum_value, use_key_quorum_value)
    _generate(call, spec, [(KeyClass.SECRET, label, attributes)], care, session=session)


@command(pair, "rsa", CHANGE)
def rsa(
    call: Invocation,
    *,
    public_label: PublicLabelOption,
    private_label: PrivateLabelOption,
    modulus_size_bits: Annotated[int, typer.Option(metavar="BITS", help="2048 to 4096.")],
    public_exponent: Annotated[int, typer.Option(metavar="E", help="Odd, at least 65537.")],
    public_attributes: PublicAttributesOption = None,
    private_attributes: PrivateAttributesOption = None,
    session: SessionOption = False,
    share_crypto_users: ShareOption = None,
    manage_private_key_quorum_value: QuorumOption = 0,
    use_private_key_quorum_value: QuorumOption = 0,
) -> None:
    r"""Make an RSA key pair (crypto user).

    Example:
      cloister key generate-asymmetric-pair rsa --public-label web-pub \
          --private-label web --modulus-size-bits 2048 --public-exponent 65537 \
          --public-attributes verify=true --private-attributes sign=true
    """
    spec = KeySpec(KeyType.RSA, modulus_size_bits, public_exponent=public_exponent)
    halves = [
        (KeyClass.PUBLIC, public_label, public_attributes),
        (KeyClass.PRIVATE, private_label, private_attributes),
    ]
    care = _Care(share_crypto_users, manage_private_key_quorum_value, use_private_key_quorum_value)
    _generate(call, spec, halves, care, session=session)


@command(pair, "ec", CHANGE)
def ec(
    call: Invocation,
    *,
    public_label: PublicLabelOption,
    private_label: PrivateLabelOption,
    curve: Annotated[CurveName, typer.Option(help="prime256v1 is secp256r1.")],
    public_attributes: PublicAttributesOption = None,
    private_attributes: PrivateAttributesOption = None,
    session: SessionOption = False,
    share_crypto_users: ShareOption = None,
    manage_private_key_quorum_value: QuorumOption = 0,
    use_private_key_quorum_value: QuorumOption = 0,
) -> None:
    r"""Make an EC key pair (crypto user).

    Example:
      cloister key generate-asymmetric-pair ec --curve secp256r1 \
          --public-label ca-pub --private-label ca \
          --public-attributes verify=true --private-attributes sign=true
    """
    wanted = Curve.P256 if curve is CurveName.PRIME256V1 else Curve(curve)
    spec = KeySpec(KeyType.EC, CURVE_BITS[wanted], wanted)
    halves = [
        (KeyClass.PUBLIC, public_label, public_attributes),
        (KeyClass.PRIVATE, private_label, private_attributes),
    ]
    care = _Care(share_crypto_users, manage_private_key_quorum_value, use_private_key_quorum_value)
    _generate(call, spec, halves, care, session=session)


@command(app, "list", LOGIN)
def list_(
    call: Invocation,
    *,
    filter_: Annotated[
        list[str] | None,
        typer.Option("--filter", metavar="FILTER …", help="Show keys that match all of these."),
    ] = None,
    max_items: Annotated[int, typer.Option(metavar="N", min=1, max=1000)] = 10,
    starting_token: Annotated[
        str, typer.Option(metavar="TOKEN", help="next_token of the page before.")
    ] = "0",  # noqa: S107  # a page, no secret
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Also owners and attributes.")
    ] = False,
) -> None:
    """List the keys you own, those shared with you, and all public keys.

    Example:
      cloister key list --filter attr.class=private-key attr.label=web --verbose
    """
    key_filter = KeyFilter.parse(filter_ or ())
    if not (starting_token.isascii() and starting_token.isdecimal() and len(starting_token) < 10):
        raise UsageError("--starting-token is the next_token of an earlier page")
    offset = int(starting_token)
    page = call.session(Role.CRYPTO_USER).list_keys(key_filter, offset, max_items)
    short = [{"key_reference": key_view.reference(k), "attributes": {"label": k.label}}
             for k in page.keys]  # fmt: skip
    data: dict[str, object] = {
        "matched_keys": [key_view.full(key) for key in page.keys] if verbose else short,
        "total_key_count": page.total,
        "returned_key_count": len(page.keys),
    }
    step = ""
    if (end := offset + len(page.keys)) < page.total and page.keys:
        data["next_token"] = str(end)
        step = f"key list --starting-token {end}"
    tables = {
        "keys": [key_view.brief(key) for key in page.keys],
        "shown": f"{len(page.keys)} of {page.total}",
    }
    call.show(data, brief=tables, columns=() if verbose else _COLUMNS, next_step=step)


@command(app, "delete", Needs(login=True, change=True, confirmation=True))
def delete(call: Invocation, *, filter_: FilterOption, approval: ApprovalOption = None) -> None:
    """Delete the one key that matches; of a pair the other half stays (owner).

    Backups that hold it still do.

    Example:
      cloister key delete --filter attr.label=old attr.class=private-key
    """
    session = call.session(Role.CRYPTO_USER)
    key = session.find_key(KeyFilter.parse(filter_))
    name = key_view.reference(key)
    call.confirm(f"Delete {key.key_class} {name} ({key.label}) from every HSM?")
    change = call.plane.changes(call.cluster_id, session).delete_key(
        key.ref, approval=approvals.read(approval), request=call.request
    )
    call.show({"key_reference": name, "message": "Key deleted successfully", "change": change})


@command(app, "generate-file", LOGIN)
def generate_file(
    call: Invocation,
    *,
    encoding: Annotated[
        Encoding,
        typer.Option(help="The public half, or a stand-in that names the private one."),
    ],
    path: Annotated[Path, typer.Option(metavar="FILE", help="Must not exist yet.")],
    filter_: FilterOption,
) -> None:
    r"""Write a key's public half, or a reference to its private half, to a file.

    Example:
      cloister key generate-file --encoding pem --path web.pem \
          --filter attr.label=web-pub
    """
    key = call.session(Role.CRYPTO_USER).find_key(KeyFilter.parse(filter_))
    if encoding is Encoding.PEM:
        content = key_view.public_pem(key)
    else:
        content = key_view.reference_pem(key, call.cluster_id)
    files.write_new(path, content)
    call.show(
        {
            "key_reference": key_view.reference(key),
            "path": path,
            "message": "Successfully generated key file",
        }
    )


@dataclass(frozen=True, slots=True)
class _Care:
    """Who may use a new key besides its owner, and how many must approve."""

    shared: list[str] | None
    manage_quorum: int
    use_quorum: int

    def of(self, draft: KeyDraft) -> KeyDraft:
        """Return the draft with this care."""
        import msgspec

        return msgspec.structs.replace(
            draft,
            shared=tuple(parse_user_name(name) for name in self.shared or ()),
            manage_quorum=self.manage_quorum,
            use_quorum=self.use_quorum,
        )


def _generate(
    call: Invocation,
    spec: KeySpec,
    halves: list[tuple[KeyClass, str, list[str] | None]],
    care: _Care,
    *,
    session: bool,
) -> None:
    from orchestrator.wire.messages import KeyDraft

    spec.check()
    drafts = []
    for key_class, label, attributes in halves:
        pairs = tuple(parse_pairs(attributes or ()).items())
        draft = KeyDraft(key_class, check_label(label), pairs)
        drafts.append(draft if key_class is KeyClass.PUBLIC else care.of(draft))
    login = call.session(Role.CRYPTO_USER)
    change = None
    if session:
        keys = login.session_keys.make(spec, tuple(drafts))
        call.warn(_ENDED)
    else:
        changes = call.plane.changes(call.cluster_id, login)
        with call.progress("Making the key"):
            change, keys = changes.generate_keys(spec, tuple(drafts), request=call.request)
    names = ("key",) if len(keys) == 1 else ("public_key", "private_key")
    data = dict(zip(names, map(key_view.full, keys), strict=True)) | {"change": change}
    tables: dict[str, object] = {"keys": [key_view.brief(key) for key in keys]}
    if change is not None:
        tables["held_by"] = f"{change.held} of {change.members} HSMs"
    step = "" if session else next_steps.CREATE_SHARES
    call.show(data, brief=tables, columns=_COLUMNS, next_step=step)


for _name in ("share", "unshare", "set-attribute", "replicate"):
    offer(app, f"key {_name}")
offer(import_, "key import pem")
for _name in WRAPS:
    offer(wrap, f"key wrap {_name}")
    offer(unwrap, f"key unwrap {_name}")
