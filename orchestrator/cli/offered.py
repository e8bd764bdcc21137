"""Commands of the CloudHSM CLI's tree under `cloister`: the same acts, shown for people.

Flags, help and functions come from the tree; what differs is the front: log-in, `--output`, and
errors as everywhere in `cloister`.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from enum import StrEnum
from importlib import import_module
from typing import Annotated, Any, Final

import typer

from orchestrator.cli.cloudhsm.console import Console, Environment
from orchestrator.cli.cloudhsm.flags import ADMIN, ANYBODY
from orchestrator.cli.cloudhsm.syntax import Command, Flag, Given, Kind
from orchestrator.cli.cloudhsm.tree import TREE
from orchestrator.cli.command import Needs, command
from orchestrator.cli.credentials import GivenLogin
from orchestrator.cli.invocation import Invocation
from orchestrator.model.errors import UsageError
from orchestrator.model.roles import Role

_SHARED: Final = frozenset({"--cluster-id", "--request"})


def offer(app: typer.Typer, path: str) -> None:
    """Add the command that stands at `path` in the tree to the Typer group `app`."""
    names = tuple(path.split())
    node = TREE
    for name in names:
        child = node.child(name)
        assert child is not None  # noqa: S101  # a path in our own code
        node = child
    flags = [flag for flag in node.flags if flag.name not in _SHARED]
    change = node.flag("--request") is not None

    def run(call: Invocation, /, **values: Any) -> None:  # noqa: ANN401  # Typer fills it
        _act(call, names, node, {flag.name: values[_field(flag)] for flag in flags})

    parameters = [inspect.Parameter("call", inspect.Parameter.POSITIONAL_OR_KEYWORD)]
    parameters += [_parameter(flag, node) for flag in flags]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # read by Typer
    run.__doc__ = f"{node.help} ({node.who})."
    needs = Needs(cluster=True, login=node.who != ANYBODY, change=change)
    command(app, names[-1], needs)(run)


def _act(
    call: Invocation, path: tuple[str, ...], node: Command, values: Mapping[str, object]
) -> None:
    given = Given(path, node, dict(_texts(call, node, values)))
    for group in node.one_of:
        if sum(given.has(name) for name in group) != 1:
            raise UsageError(f"give exactly one of {', '.join(group)}")
    nobody = Environment(GivenLogin(), call.destination_login)
    call.cluster_prefix = given.maybe("--source-cluster-id") or call.cluster_prefix
    console = Console(call.services, nobody, cluster_prefix=call.cluster_prefix)
    console.plane = call.plane
    if node.who != ANYBODY:
        console.keep(call.cluster_id, call.session(_natural(node)))
    module, _, function = node.action.partition(":")
    act = getattr(import_module(f"orchestrator.cli.cloudhsm.{module}"), function)
    made = act(console, given)
    call.show(_snake(made) if isinstance(made, dict) else {"message": made})


def _texts(
    call: Invocation, node: Command, values: Mapping[str, object]
) -> list[tuple[str, tuple[str, ...]]]:
    found: list[tuple[str, tuple[str, ...]]] = []
    if call.request is not None:
        found.append(("--request", (call.request,)))
    for name, value in values.items():
        flag = node.flag(name)
        if value is None or value is False or flag is None:
            continue
        if isinstance(value, list | tuple):
            found.append((name, tuple(str(item) for item in value)))
        else:
            is_bare = flag.kind in {Kind.SWITCH, Kind.MAYBE}
            found.append((name, () if is_bare else (str(value),)))
    return found


def _natural(node: Command) -> Role | None:
    if node.who == ADMIN:
        return Role.ADMIN
    return Role.CRYPTO_USER if node.who.startswith("crypto-user") else None


def _snake(value: object) -> object:
    if isinstance(value, Mapping):
        return {str(name).replace("-", "_"): _snake(item) for name, item in value.items()}
    return [_snake(item) for item in value] if isinstance(value, list) else value


def _field(flag: Flag) -> str:
    return flag.name.lstrip("-").replace("-", "_") + "_"


def _parameter(flag: Flag, node: Command) -> inspect.Parameter:
    kind: Any = str
    default: Any = inspect.Parameter.empty if flag.is_required else None
    metavar: str | None = flag.takes.strip("[]<>.") or None
    if flag.kind in {Kind.SWITCH, Kind.MAYBE}:  # a password is asked for, never taken from argv
        kind, default, metavar = bool, False, None
    elif flag.kind is Kind.NUMBER:
        kind = int
    elif flag.kind is Kind.LIST:
        kind, metavar = list[str], f"{metavar} …"
    elif flag.choices:
        kind, metavar = StrEnum(f"{node.name}{flag.name}", list(flag.choices)), None
    if default is None:
        kind = kind | None
    if flag.default:
        default = flag.default
    names = [flag.name, flag.short] if flag.short else [flag.name]
    option = typer.Option(*names, metavar=metavar, help=flag.help)
    return inspect.Parameter(
        _field(flag),
        inspect.Parameter.KEYWORD_ONLY,
        default=default,
        annotation=Annotated[kind, option],
    )
