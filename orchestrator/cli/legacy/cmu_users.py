"""`cloudhsm_mgmt_util`: users."""

from __future__ import annotations

from orchestrator.cli.cloudhsm import mfa, users
from orchestrator.cli.cloudhsm.syntax import Given
from orchestrator.cli.errors import LoginNeededError
from orchestrator.cli.legacy import numbers
from orchestrator.cli.legacy.cmu import succeeded, user_of
from orchestrator.cli.legacy.dialect import modern
from orchestrator.cli.legacy.tool import Tool
from orchestrator.model.errors import UsageError
from orchestrator.model.roles import parse_user_name


def create(tool: Tool, given: Given) -> list[str]:
    """Make a user; a second factor is the user's own to enrol."""
    if given.has("-2fa"):
        raise UsageError(
            "a second factor is enrolled with the password that goes with it, which changePswd "
            "does: createUser without -2fa, then changePswd … -2fa"
        )
    users.create(tool.console, modern({**user_of(given), "--approval": tool.approval()}))
    shown = f"{given.text('--user-name')}({given.text('--user-type').upper()})"
    return [
        f"Creating User {shown} on all nodes",
        *succeeded(tool, "createUser"),
    ]


def delete(tool: Tool, given: Given) -> list[str]:
    """Delete a user."""
    users.delete(tool.console, modern({**user_of(given), "--approval": tool.approval()}))
    shown = f"{given.text('--user-name')}({given.text('--user-type').upper()})"
    return [
        f"Deleting user {shown} on all nodes",
        *succeeded(tool, "deleteUser"),
    ]


def change_password(tool: Tool, given: Given) -> list[str]:
    """Set a password; with -2fa a second factor too; of PRECO it activates the cluster."""
    if given.text("--user-type").upper() == "PRECO":
        return _activate(tool, given)
    asked, token = user_of(given), given.maybe("-2fa")
    if token is None:
        users.change_password(tool.console, modern({**asked, "--approval": tool.approval()}))
    else:
        asked["--change-password"] = asked.pop("--password")
        mfa.change_mfa(
            tool.console, modern({**asked, "--token": token, "--approval": tool.approval()})
        )
    shown = f"{given.text('--user-name')}({given.text('--user-type').upper()})"
    return [
        f"Changing password for {shown} on all nodes",
        *succeeded(tool, "changePswd"),
    ]


def _activate(tool: Tool, given: Given) -> list[str]:
    if parse_user_name(given.text("--user-name")) != "admin":
        raise UsageError("the PRECO user is admin: changePswd PRECO admin -hpswd")
    password = tool.console.new_password(modern({"--password": given.maybe("--password")}))
    tool.console.plane.activate(tool.cluster, password)
    return ["The cluster is activated", *succeeded(tool, "changePswd")]


def list_users(tool: Tool, _given: Given) -> list[str]:
    """List users; every server that is up has the same."""
    rows = tool.user_rows()
    lines = []
    for server in tool.servers():
        lines.append(f"Users on {server.shown}:")
        if server.is_up:
            lines += [f"Number of users found:{len(rows) - 1}", "", *rows, ""]
        else:
            lines += [f"    no answer: {server.hsm.trouble or server.hsm.state}", ""]
    return lines


def sync(tool: Tool, given: Given) -> list[str]:
    """Copy a user to a clone."""
    user = numbers.named_by(tool.console.plane.users(tool.cluster), given.text("--user-id"))
    asked = {"--username": user.name, "--role": str(user.role)}
    users.replicate(tool.console, to_clone(tool, asked, given))
    return [f"syncUser success: {user.name} is on {given.text('--cluster')}"]


def to_clone(tool: Tool, asked: dict[str, str], given: Given) -> Given:
    """Return what the CloudHSM CLI copies with.

    Raises:
        LoginNeededError: only one command alone has log-ins at two clusters.
    """
    if tool.console.is_interactive:
        raise LoginNeededError(
            f"copying takes a login at both clusters, which loginHSM cannot give: set CLOUDHSM_PIN "
            f"and DESTINATION_CLOUDHSM_PIN, and run `{tool.dialect.name} singlecmd {given.path[0]} "
            "…`"
        )
    return modern({**asked, "--destination-cluster-id": given.text("--cluster")})
