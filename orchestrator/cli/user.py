"""`cloister user`: flags and roles of the CloudHSM CLI."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli import approvals, credentials, files, next_steps
from orchestrator.cli.approvals import (
    ApprovalOption,
    PublicKeyOption,
    SignedTokenOption,
    TokenOption,
)
from orchestrator.cli.command import CHANGE, CLUSTER, LOGIN, Needs, command, group
from orchestrator.cli.invocation import Invocation
from orchestrator.cli.offered import offer
from orchestrator.cli.options import LoginRole, PasswordStdinOption, RoleOption, UserOption
from orchestrator.model.roles import Role, parse_user_name

app = group("user", "Users: create, list, delete, passwords, locks, second factors.")
login_tickets = group("login-ticket", "Log-ins lent to applications.", app)


@command(app, "create", CHANGE)
def create(
    call: Invocation,
    *,
    username: UserOption,
    role: RoleOption,
    password_stdin: PasswordStdinOption = False,
    approval: ApprovalOption = None,
) -> None:
    """Create a user on every HSM (admin).

    Example:
      cloister user create --username alice --role crypto-user
    """
    name = parse_user_name(username)
    changes = call.changes(Role.ADMIN)
    password = credentials.new_password(name, from_stdin=password_stdin)
    change = changes.create_user(
        name, Role(role), password, approval=approvals.read(approval), request=call.request
    )
    is_crypto = role is LoginRole.CRYPTO_USER
    step = next_steps.GENERATE_KEY if is_crypto else next_steps.CREATE_CRYPTO_USER
    call.show({"username": name, "role": role, "change": change}, next_step=step)


@command(app, "list", CLUSTER)
def list_(call: Invocation) -> None:
    """List users; needs no login."""
    users = [
        {
            "username": user.name,
            "role": user.role,
            "locked": user.locked,
            "disabled": user.disabled,
            "mfa": user.mfa,
            "quorum": user.quorum,
        }
        for user in call.plane.users(call.cluster_id)
    ]
    call.show({"users": users})


@command(app, "delete", Needs(login=True, change=True, confirmation=True))
def delete(
    call: Invocation,
    *,
    username: UserOption,
    role: RoleOption,
    transfer_to: Annotated[
        str, typer.Option(metavar="NAME", help="Crypto user who gets the keys.")
    ] = "",
    approval: ApprovalOption = None,
) -> None:
    """Delete a user who owns no keys, or whose keys another gets (admin)."""
    name = parse_user_name(username)
    call.confirm(f"Delete {role} {name}?")
    change = call.changes(Role.ADMIN).delete_user(
        name,
        Role(role),
        transfer_to=transfer_to,
        approval=approvals.read(approval),
        request=call.request,
    )
    call.show({"username": name, "role": role, "change": change})


@command(app, "change-password", CHANGE)
def change_password(
    call: Invocation,
    *,
    username: UserOption,
    role: RoleOption,
    password_stdin: PasswordStdinOption = False,
    deregister_mfa: Annotated[
        bool, typer.Option("--deregister-mfa", help="Remove the second factor as well.")
    ] = False,
    deregister_quorum: Annotated[
        bool, typer.Option("--deregister-quorum", help="Remove the approval key as well.")
    ] = False,
    approval: ApprovalOption = None,
) -> None:
    """Set a password: your own, or as admin anybody's, which also unlocks.

    Example:
      cloister user change-password --username alice --role crypto-user
    """
    name = parse_user_name(username)
    changes = call.changes(Role.ADMIN)
    password = credentials.new_password(name, from_stdin=password_stdin)
    change = changes.change_password(
        name,
        Role(role),
        password,
        deregister_mfa=deregister_mfa,
        deregister_quorum=deregister_quorum,
        approval=approvals.read(approval),
        request=call.request,
    )
    call.show({"username": name, "role": role, "change": change})


@command(app, "unlock", CHANGE)
def unlock(
    call: Invocation, *, username: UserOption, role: RoleOption, approval: ApprovalOption = None
) -> None:
    """End a lock after too many wrong passwords (admin); the password stays."""
    name = parse_user_name(username)
    change = call.changes(Role.ADMIN).unlock_user(
        name, Role(role), approval=approvals.read(approval), request=call.request
    )
    call.show({"username": name, "role": role, "change": change})


@command(app, "disable", CHANGE)
def disable(
    call: Invocation, *, username: UserOption, role: RoleOption, approval: ApprovalOption = None
) -> None:
    """Let a user log in no more, and end the user's log-ins (admin); keys stay."""
    name = parse_user_name(username)
    change = call.changes(Role.ADMIN).disable_user(
        name, Role(role), approval=approvals.read(approval), request=call.request
    )
    call.show({"username": name, "role": role, "change": change})


@command(app, "enable", CHANGE)
def enable(
    call: Invocation, *, username: UserOption, role: RoleOption, approval: ApprovalOption = None
) -> None:
    """Let a disabled user log in again (admin)."""
    name = parse_user_name(username)
    change = call.changes(Role.ADMIN).enable_user(
        name, Role(role), approval=approvals.read(approval), request=call.request
    )
    call.show({"username": name, "role": role, "change": change})


@command(app, "transfer-keys", Needs(login=True, change=True, confirmation=True))
def transfer_keys(
    call: Invocation,
    *,
    username: UserOption,
    to: Annotated[str, typer.Option(metavar="NAME", help="Crypto user who gets them.")],
    approval: ApprovalOption = None,
) -> None:
    """Give all keys and objects of one crypto user to another (admin)."""
    name, heir = parse_user_name(username), parse_user_name(to)
    call.confirm(f"Give all keys of {name} to {heir}?")
    change = call.changes(Role.ADMIN).transfer_keys(
        name, heir, approval=approvals.read(approval), request=call.request
    )
    call.show({"username": name, "to": heir, "change": change})


# --- second factors ---


@command(app, "mfa-token", LOGIN)
def mfa_token(
    call: Invocation, *, username: UserOption, role: RoleOption, token: TokenOption
) -> None:
    """Write what the key signs that shall be a second factor, one part for each HSM.

    With an SSH key: ssh-keygen -Y sign -n cloister-mfa.
    """
    enrolment = call.changes(Role(role)).factors.enrolment(username, Role(role))
    files.write_new(token, enrolment.pack())
    call.show({"path": str(token), "parts": len(enrolment.parts)})


@command(app, "set-mfa", CHANGE)
def set_mfa(
    call: Invocation,
    *,
    username: UserOption,
    role: RoleOption,
    public_key: PublicKeyOption,
    signed_token: SignedTokenOption,
    change_quorum: Annotated[
        bool, typer.Option("--change-quorum", help="Make it the approval key as well.")
    ] = False,
    approval: ApprovalOption = None,
) -> None:
    """Set or replace a second factor; the user's log-ins end."""
    name = parse_user_name(username)
    change = call.changes(Role(role)).factors.set(
        name,
        Role(role),
        None,
        files.read(public_key),
        approvals.read_possession(signed_token),
        change_quorum=change_quorum,
        approval=approvals.read(approval),
        request=call.request,
    )
    call.show({"username": name, "role": role, "change": change})


@command(app, "remove-mfa", CHANGE)
def remove_mfa(
    call: Invocation,
    *,
    username: UserOption,
    role: RoleOption,
    change_quorum: Annotated[
        bool, typer.Option("--change-quorum", help="Remove the approval key as well.")
    ] = False,
    approval: ApprovalOption = None,
) -> None:
    """Remove a second factor; the user's log-ins end."""
    name = parse_user_name(username)
    change = call.changes(Role(role)).factors.remove(
        name,
        Role(role),
        change_quorum=change_quorum,
        approval=approvals.read(approval),
        request=call.request,
    )
    call.show({"username": name, "role": role, "change": change})


@command(login_tickets, "issue", CHANGE)
def issue_ticket(
    call: Invocation,
    *,
    uid: Annotated[int, typer.Option(min=0, help="Unix user that may log in with it.")],
    hours: Annotated[float, typer.Option(min=0.01, max=24, help="How long.")] = 8.0,
    path: Annotated[Path, typer.Option(metavar="FILE", help="Must not exist yet; a secret.")],
) -> None:
    """Let an application log in as you for a while, without your second factor.

    You must have logged in with the second factor. Give the file to that Unix
    user alone (chown); it is worth nothing to another.
    """
    changes = call.changes(Role.CRYPTO_USER)
    descriptor = files.create(path, mode=0o600)
    try:
        ticket = changes.factors.issue_ticket(uid, hours)
        files.write_and_close(descriptor, ticket.pack())
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    call.show({"path": str(path), "login": ticket.login, "uid": uid})


@command(login_tickets, "list", LOGIN)
def list_tickets(call: Invocation) -> None:
    """List log-ins that you have lent; as admin, everybody's."""
    call.show({"login_tickets": call.changes(Role.CRYPTO_USER).factors.tickets()})


@command(login_tickets, "revoke", CHANGE)
def revoke_ticket(
    call: Invocation, login: Annotated[str, typer.Argument(metavar="LOGIN", help="Its id.")]
) -> None:
    """End a log-in that was lent, on every HSM."""
    change = call.changes(Role.CRYPTO_USER).factors.revoke_ticket(login, request=call.request)
    call.show({"login": login, "change": change})


offer(app, "user replicate")
