"""`cloister quorum`: asking for approvals, giving them, and setting how many must be."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli import approvals, files
from orchestrator.cli.approvals import (
    ApprovalOption,
    PublicKeyOption,
    SignedTokenOption,
    TokenArgument,
    TokenOption,
)
from orchestrator.cli.command import CHANGE, CLUSTER, LOGIN, NOTHING, command, group
from orchestrator.cli.invocation import Invocation
from orchestrator.cli.options import LoginRole, UserOption
from orchestrator.model.key_filter import parse_reference
from orchestrator.model.roles import Role, parse_user_name
from orchestrator.model.services import ADMIN_SERVICES, KEY_SERVICES, VALUED_SERVICES, Service

if TYPE_CHECKING:
    from orchestrator.sealed.token_files import TokenFile

app = group("quorum", "Quorum: what several people must approve.")

ValuedService = StrEnum("ValuedService", {s.name: s.value for s in VALUED_SERVICES})  # type: ignore[misc]  # built of another
TokenService = StrEnum(  # type: ignore[misc]  # as above
    "TokenService", {s.name: s.value for s in Service if s in ADMIN_SERVICES | KEY_SERVICES}
)


class Scope(StrEnum):
    """Whose tokens."""

    USER = "user"
    ALL = "all"


@command(app, "request", LOGIN)
def request(
    call: Invocation,
    operation: Annotated[
        list[str], typer.Argument(metavar="-- OPERATION", help="A command and its options.")
    ],
    *,
    token: TokenOption,
) -> None:
    r"""Ask others to approve one exact operation: the token is bound to it and its arguments.

    Passwords are no part of it; of a document the digest is. Pass the file round (`quorum show`,
    `quorum approve`), then run the command itself with --approval FILE.

    Example:
      cloister quorum request --token t.json -- user create --username bob --role crypto-user
      cloister quorum request --token t.json -- crypto sign ecdsa --key-reference 0x… \
          --hash-function sha256 --data-path contract.pdf
    """
    from orchestrator.cli.quorum_request import draft

    changes = call.changes(Role.ADMIN)
    _write(call, token, changes.quorum.request(draft(changes, operation)))


@command(app, "generate", LOGIN)
def generate(
    call: Invocation,
    *,
    service: Annotated[TokenService, typer.Option(help="What guards the operation.")],
    token: TokenOption,
    key_reference: Annotated[
        str | None, typer.Option(metavar="0x…", help="The key, for key services.")
    ] = None,
) -> None:
    """Ask others to approve any one operation of a service, as CloudHSM does.

    `quorum request` is better: approvers see the operation and its arguments.
    """
    natural = Role.CRYPTO_USER if Service(service) in KEY_SERVICES else Role.ADMIN
    ref = parse_reference(key_reference) if key_reference else 0
    _write(call, token, call.changes(natural).quorum.generate(Service(service), ref))


def _write(call: Invocation, path: Path, token: TokenFile) -> None:
    files.write_new(path, token.pack())
    call.show({"path": str(path), **approvals.describe(token)}, next_step=f"quorum show {path}")


@command(app, "request-restore", NOTHING)
def request_restore(
    call: Invocation,
    backup: Annotated[str, typer.Argument(metavar="BACKUP", help="Backup id.")],
    *,
    username: UserOption,
    token: TokenOption,
) -> None:
    """Ask the admins of a backup to approve restoring it: needs no HSM and no login."""
    from orchestrator.control.quorum import restore_request

    now_s = call.plane.clock.now_ms() // 1000
    made = restore_request(call.backup(backup), parse_user_name(username), now_s)
    _write(call, token, made)


@command(app, "show", NOTHING)
def show(call: Invocation, file: TokenArgument) -> None:
    """Say in words what a token file asks to approve, who asks, and who has signed.

    The file is checked here, offline: the words are those that a signature covers.
    Whether the signatures hold is for the HSMs to tell.
    """
    token = approvals.read(file)
    assert token is not None  # noqa: S101  # for the type checker
    call.show(approvals.describe(token))


@command(app, "approve", NOTHING)
def approve(
    call: Invocation,
    file: TokenArgument,
    *,
    username: UserOption,
    role: Annotated[LoginRole | None, typer.Option(help="Default: the service's.")] = None,
    signature: Annotated[
        Path, typer.Option(metavar="FILE", help="Of the token, by openssl or ssh-keygen.")
    ],
) -> None:
    r"""Put your signature into a token file. First read `quorum show`.

    The token is 32 bytes, base64 in the file; sign it where your key is:

    \b
      jq -r .token t.json | base64 -d > digest
      openssl pkeyutl -sign -inkey me.key -pkeyopt digest:sha256 -in digest -out sig
    or, with an SSH or FIDO2 key:
      ssh-keygen -Y sign -n cloister-quorum -f ~/.ssh/id_ed25519_sk digest   # digest.sig

    Example:
      cloister quorum approve t.json --username ana --signature sig
    """
    token = approvals.read(file)
    assert token is not None  # noqa: S101  # for the type checker
    usual = Role.CRYPTO_USER if token.service in KEY_SERVICES else Role.ADMIN
    given = Role(role) if role else usual
    signed = token.signed_by(parse_user_name(username), given, files.read(signature))
    files.replace(file, signed.pack())
    call.show(approvals.describe(signed))


@command(app, "list", CLUSTER)
def list_(call: Invocation) -> None:
    """List quorum values (1 is off), the policy, and the tokens that wait; needs no login."""
    page = call.plane.quorum(call.cluster_id)
    tokens = [
        {
            "username": t.name,
            "role": t.role,
            "service": t.service,
            "operation": t.words,
            "key_reference": f"0x{t.ref:016x}" if t.ref else "",
            "approvals_required": t.approvals_required,
            "token_timeout_seconds": max(0, t.expires_at - call.plane.clock.now_ms()) // 1000,
            "token": t.token.hex(),
        }
        for t in page.tokens
    ]
    policy = {
        "bound_only": page.bound_only,
        "guards_use": page.guards_use,
        "generated_seconds": page.generated_s,
        "approved_seconds": page.approved_s,
    }
    values = {str(service): value for service, value in page.values}
    call.show({"values": values, "policy": policy, "tokens": tokens})


@command(app, "set-value", CHANGE)
def set_value(
    call: Invocation,
    *,
    service: Annotated[ValuedService, typer.Option(help="What is guarded.")],
    value: Annotated[int, typer.Option(min=1, max=8, help="Approvals needed; 1 is none.")],
    approval: ApprovalOption = None,
) -> None:
    """Set how many admins must approve (admin).

    Set `user` first: who can change passwords alone can become others.
    """
    quorum = call.changes(Role.ADMIN).quorum
    change = quorum.set_value(
        Service(service), value, approval=approvals.read(approval), request=call.request
    )
    call.show({"service": str(service), "value": value, "change": change})


@command(app, "set-policy", CHANGE)
def set_policy(
    call: Invocation,
    *,
    bound_only: Annotated[
        bool | None, typer.Option(help="Refuse tokens that are bound to no operation.")
    ] = None,
    guards_use: Annotated[
        bool | None,
        typer.Option(help="A key's use value also guards decryption and derivation."),
    ] = None,
    generated: Annotated[
        int | None, typer.Option(metavar="SECONDS", help="Life of a token; default 600.")
    ] = None,
    approved: Annotated[
        int | None, typer.Option(metavar="SECONDS", help="Life of an approved key use.")
    ] = None,
    approval: ApprovalOption = None,
) -> None:
    """Set what tokens must be like and how long they live (admin)."""
    change = call.changes(Role.ADMIN).quorum.set_policy(
        bound_only=bound_only,
        guards_use=guards_use,
        generated_s=generated,
        approved_s=approved,
        approval=approvals.read(approval),
        request=call.request,
    )
    call.show({"change": change})


@command(app, "delete", CHANGE)
def delete(
    call: Invocation,
    *,
    scope: Annotated[Scope, typer.Option(help="Your own tokens, or (admin) everybody's.")],
) -> None:
    """Withdraw quorum tokens."""
    change = call.changes(Role.ADMIN).quorum.delete_tokens(scope, request=call.request)
    call.show({"scope": scope, "change": change})


@command(app, "registration", LOGIN)
def registration(call: Invocation, *, token: TokenOption) -> None:
    """Write what you sign to register your approval key.

    With an SSH key: ssh-keygen -Y sign -n cloister-registration.
    """
    files.write_new(token, call.changes(Role.ADMIN).quorum.registration().pack())
    call.show({"path": str(token)})


@command(app, "register", CHANGE)
def register(
    call: Invocation, *, public_key: PublicKeyOption, signed_token: SignedTokenOption
) -> None:
    """Register your public key for approvals; it is yours alone, on every HSM."""
    quorum = call.changes(Role.ADMIN).quorum
    signed = approvals.read_possession(signed_token)
    change = quorum.register(files.read(public_key), signed, request=call.request)
    call.show({"change": change})
