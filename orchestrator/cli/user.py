"""`cloister user`: flags and roles of the CloudHSM CLI."""

from __future__ import annotations

from typing import Annotated

import typer

from orchestrator.cli import credentials, next_steps
from orchestrator.cli.command import CLUSTER, GUARDED, Needs, command, group
from orchestrator.cli.invocation import Invocation
from orchestrator.cli.offered import offer
from orchestrator.cli.options import LoginRole, PasswordStdinOption, RoleOption, UserOption
from orchestrator.model.roles import Role, parse_user_name

app = group("user", "Users: create, list, delete, unlock; passwords, factors, quorum keys.")
change_mfa = group("change-mfa", "Change a user's second factor.", app)
change_quorum = group("change-quorum", "Change what you approve with.", app)
register_with = group("token-sign", "Approve by signing tokens.", change_quorum)


@command(app, "create", GUARDED)
def create(
    call: Invocation,
    *,
    username: UserOption,
    role: RoleOption,
    password_stdin: PasswordStdinOption = False,
) -> None:
    """Create a user on every HSM (admin).

    Example:
      cloister user create --username alice --role crypto-user
    """
    name = parse_user_name(username)
    changes = call.changes(Role.ADMIN)
    password = credentials.new_password(name, from_stdin=password_stdin)
    change = changes.create_user(
        name, Role(role), password, approval=call.approval, request=call.request
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


@command(app, "delete", Needs(login=True, change=True, guarded=True, confirmation=True))
def delete(
    call: Invocation,
    *,
    username: UserOption,
    role: RoleOption,
    transfer_to: Annotated[
        str | None, typer.Option(metavar="NAME", help="Crypto user who gets the keys.")
    ] = None,
) -> None:
    """Delete a user who owns no keys, or whose keys another gets (admin)."""
    name = parse_user_name(username)
    heir = parse_user_name(transfer_to) if transfer_to is not None else ""
    call.confirm(f"Delete {role} {name}?")
    change = call.changes(Role.ADMIN).delete_user(
        name, Role(role), transfer_to=heir, approval=call.approval, request=call.request
    )
    call.show({"username": name, "role": role, "change": change})


@command(app, "change-password", GUARDED)
def change_password(
    call: Invocation,
    *,
    username: UserOption,
    role: RoleOption,
    password_stdin: PasswordStdinOption = False,
    deregister_mfa: Annotated[
        bool, typer.Option("--deregister-mfa", help="End the user's second factor too.")
    ] = False,
    deregister_quorum: Annotated[
        bool, typer.Option("--deregister-quorum", help="Remove the user's quorum key too.")
    ] = False,
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
        approval=call.approval,
        request=call.request,
    )
    call.show({"username": name, "role": role, "change": change})


@command(app, "unlock", GUARDED)
def unlock(call: Invocation, *, username: UserOption, role: RoleOption) -> None:
    """End a user's lock; the password stays (admin)."""
    _care(call, "unlock_user", username, role)


@command(app, "disable", GUARDED)
def disable(call: Invocation, *, username: UserOption, role: RoleOption) -> None:
    """Let a user log in no more, and end the user's logins; keys stay (admin)."""
    _care(call, "disable_user", username, role)


@command(app, "enable", GUARDED)
def enable(call: Invocation, *, username: UserOption, role: RoleOption) -> None:
    """Let a disabled user log in again (admin)."""
    _care(call, "enable_user", username, role)


@command(app, "transfer-keys", GUARDED)
def transfer_keys(
    call: Invocation,
    *,
    username: UserOption,
    to: Annotated[str, typer.Option(metavar="NAME", help="Crypto user who gets the keys.")],
) -> None:
    """Give all keys of one crypto user to another (admin)."""
    name, heir = parse_user_name(username), parse_user_name(to)
    change = call.changes(Role.ADMIN).transfer_keys(
        name, heir, approval=call.approval, request=call.request
    )
    call.show({"username": name, "to": heir, "change": change})


def _care(call: Invocation, act: str, username: str, role: LoginRole) -> None:
    name = parse_user_name(username)
    run = getattr(call.changes(Role.ADMIN), act)
    change = run(name, Role(role), approval=call.approval, request=call.request)
    call.show({"username": name, "role": role, "change": change})


offer(change_mfa, "user change-mfa token-sign")
offer(register_with, "user change-quorum token-sign register")
offer(app, "user replicate")
