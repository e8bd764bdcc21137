"""`cloudhsm_mgmt_util`: log-ins, servers, certificates."""

from __future__ import annotations

from pathlib import Path

from orchestrator.cli import files
from orchestrator.cli.cloudhsm import clusters, logins
from orchestrator.cli.cloudhsm.syntax import Given
from orchestrator.cli.legacy import numbers
from orchestrator.cli.legacy.dialect import modern
from orchestrator.cli.legacy.tool import Tool
from orchestrator.model.errors import OrchestratorError, UsageError
from orchestrator.model.roles import parse_user_name


def succeeded(tool: Tool, name: str) -> list[str]:
    """Say on which servers a command's result stands, and on which it does not yet."""
    try:
        servers = tool.servers()
    except OrchestratorError as exc:  # what was done is done, and must not look as if it were not
        return [f"{name} success; on which servers is not known: {exc}"]
    return [
        f"{name} success on {server.shown}"
        if server.is_up
        else f"{name} not yet on {server.shown}: {server.hsm.trouble or server.hsm.state}"
        for server in servers
    ]


def user_of(given: Given) -> dict[str, str | None]:
    """Return --username, --role and --password as the CloudHSM CLI takes them."""
    return {
        "--username": parse_user_name(given.text("--user-name")),
        "--role": numbers.parse_type(given.text("--user-type")),
        "--password": given.maybe("--password"),
    }


def login(tool: Tool, given: Given) -> list[str]:
    """Log in, with -2fa by password and second factor."""
    if given.text("--user-type").upper() == "PRECO":
        raise UsageError(
            "nobody logs in before the cluster is activated: changePswd PRECO admin -hpswd does it"
        )
    token = given.maybe("-2fa")
    act = logins.login if token is None else logins.login_mfa
    act(tool.console, modern({**user_of(given), "--token": token}))
    return succeeded(tool, "loginHSM")


def logout(tool: Tool, _given: Given) -> list[str]:
    """Log out."""
    logins.logout(tool.console, modern({}))
    return succeeded(tool, "logoutHSM")


def hsm_info(tool: Tool, _given: Given) -> list[str]:
    """Show what the HSMs are."""
    shown = clusters.hsm_info(tool.console, modern({}))
    assert isinstance(shown, dict)  # noqa: S101  # that is its form
    by_id = {hsm["serial-number"]: hsm for hsm in shown["hsms"]}
    lines = []
    for server in tool.servers():
        lines.append(f"Getting HSM Info on {server.shown}")
        if (hsm := by_id.get(server.hsm.hsm_id)) is None:
            lines.append(f"        no answer: {server.hsm.trouble or server.hsm.state}")
            continue
        lines += [f"        {n.ljust(24)}: {text}" for n, text in hsm.items()]
        lines += [f"        {'availability-zone'.ljust(24)}: {server.hsm.availability_zone}", ""]
    return lines


def info(tool: Tool, given: Given) -> list[str]:
    """Show one server. There is no port: HSMs are reached over unix sockets and SSH."""
    server = tool.server(given.number("--number"))
    who = "Not logged in"
    if (logged_in := tool.console.logged_in()) is not None:
        session = logged_in[1]
        who = f"Logged in as '{session.name}({numbers.type_name(session.role)})'"
    state = "Connected" if server.is_up else "Disconnected"
    head = ("Id", "Name", "Hostname", "Port", "State", "Partition", "LoginState")
    hsm = server.hsm
    row = (str(server.number), hsm.hsm_id, hsm.host, "-", state, hsm.hsm_id, who)
    widths = [max(len(a), len(b)) for a, b in zip(head, row, strict=True)]
    return [
        "   ".join(c.ljust(w) for c, w in zip(cells, widths, strict=True)).rstrip()
        for cells in (head, row)
    ]


def server(tool: Tool, given: Given) -> list[str]:
    """Look at one server only."""
    chosen = tool.server(given.number("--number"))
    tool.selected = chosen.number
    return [f"Looking at {chosen.shown} only; exit leaves this mode"]


def leave_server(tool: Tool, _given: Given) -> list[str]:
    """Look at all servers again."""
    tool.selected = None
    return []


def certificate(tool: Tool, given: Given) -> list[str]:
    """Write a certificate."""
    path = given.text("--file")
    files.write_new(Path(path), tool.certificate(given.text("--type")))
    return [f"Successfully written certificate to {path}"]
