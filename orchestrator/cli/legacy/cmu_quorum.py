"""`cloudhsm_mgmt_util`: approvals by several officers."""

from __future__ import annotations

from pathlib import Path

from orchestrator.cli import files
from orchestrator.cli.cloudhsm import mfa, quorums
from orchestrator.cli.cloudhsm.syntax import Given
from orchestrator.cli.legacy import numbers
from orchestrator.cli.legacy.cmu import succeeded, user_of
from orchestrator.cli.legacy.dialect import modern
from orchestrator.cli.legacy.tool import Tool
from orchestrator.model.errors import RefusedError
from orchestrator.model.roles import parse_user_name
from orchestrator.model.services import Service


def _be_oneself(tool: Tool, name: str) -> None:
    session = tool.console.session(modern({}))
    if parse_user_name(name) != session.name:
        raise RefusedError(
            "not-yourself", f"{session.name} is logged in, and a token is for whoever asks for it"
        )


def register(tool: Tool, given: Given) -> list[str]:
    """Register one's own key. The signed token repeats the unsigned one, which must be the same."""
    from orchestrator.sealed.token_files import PossessionFile

    user_of(given)  # refuses types that are none
    _be_oneself(tool, given.text("--user-name"))
    paths = (given.text("--token"), given.text("--signed-token"))
    parts = [PossessionFile.parse(files.read(Path(path))).parts for path in paths]
    if [p.data for p in parts[0]] != [p.data for p in parts[1]]:
        raise RefusedError("another-token", f"{paths[1]} is no signature of {paths[0]}")
    asked = {"--public-key": given.text("--public-key"), "--signed-token": paths[1]}
    mfa.register(tool.console, modern(asked))
    return succeeded(tool, "registerQuorumPubKey")


def get_token(tool: Tool, given: Given) -> list[str]:
    """Write a token."""
    text = given.text("--service")
    service = Service.REGISTRATION if text == Service.REGISTRATION else _service(text)
    _be_oneself(tool, given.text("--user-name"))
    asked = {"--service": str(service), "--token": given.text("--file")}
    quorums.generate(tool.console, modern(asked))
    return [*succeeded(tool, "getToken"), f"Token written to {given.text('--file')}"]


def approve(tool: Tool, given: Given) -> list[str]:
    """Keep a signed token for the next change: approvals are spent together with it."""
    from orchestrator.sealed.token_files import TokenFile

    path = Path(given.text("--file"))
    token = TokenFile.parse(files.read(path))
    tool.approve_with(path)
    names = ", ".join(s.username for s in token.signatures) or "nobody"
    return [
        f"Token of service {token.service}, signed by: {names}",
        "It goes with the next change that can take approvals, and is checked there",
    ]


def list_tokens(tool: Tool, _given: Given) -> list[str]:
    """List tokens."""
    shown = quorums.list_tokens(tool.console, modern({}))
    assert isinstance(shown, dict)  # noqa: S101  # that is its form
    lines = [f"Number of tokens: {len(shown['tokens'])}"]
    for number, token in enumerate(shown["tokens"]):
        lines += ["", f"=====Token {number}====="]
        lines += [f"    {name.ljust(24)}: {text}" for name, text in token.items()]
    return lines


def delete_tokens(tool: Tool, _given: Given) -> list[str]:
    """Withdraw one's own tokens."""
    quorums.delete(tool.console, modern({"--scope": "user"}))
    return succeeded(tool, "deleteToken")


def set_value(tool: Tool, given: Given) -> list[str]:
    """Set how many must approve."""
    asked = {
        "--service": str(_service(given.text("--service"))),
        "--value": given.text("--value"),
        "--approval": tool.approval(),
    }
    quorums.set_value(tool.console, modern(asked))
    return succeeded(tool, "setMValue")


def get_value(tool: Tool, given: Given) -> list[str]:
    """Show how many must approve."""
    service = _service(given.text("--service"))
    shown = quorums.list_values(tool.console, modern({}))
    assert isinstance(shown, dict)  # noqa: S101  # that is its form
    number = given.text("--service")
    return [
        f"MValue of service {number}[{service}] on {server.shown}: {shown[service]}"
        for server in tool.servers()
        if server.is_up
    ]


def _service(text: str) -> Service:
    return numbers.chosen(numbers.SERVICES, text, "a service")
