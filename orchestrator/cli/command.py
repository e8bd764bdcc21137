"""What every command shares: its options, its argument syntax, its help, its completion.

A command is a function `(call: Invocation, ...) -> None`; the `command` decorator adds the
options that `Needs` names and hands them over in the Invocation.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Concatenate, ParamSpec, cast

import typer
from typer.core import TyperCommand, TyperGroup

from orchestrator.cli import completion
from orchestrator.cli.invocation import Invocation, OutputFormat, Starting
from orchestrator.model.errors import UsageError

Parameters = ParamSpec("Parameters")
Body = Callable[Concatenate[Invocation, Parameters], None]

_OPTIONS: dict[str, tuple[Any, object]] = {
    "cluster_id": (
        Annotated[
            str | None,
            typer.Option(
                "--cluster-id",
                metavar="ID",
                envvar="CLOISTER_CLUSTER",
                show_envvar=True,
                help="Which cluster, or the start of its id; default: the only one.",
                autocompletion=completion.clusters,
            ),
        ],
        None,
    ),
    "pin_file": (
        Annotated[
            Path | None,
            typer.Option(
                metavar="FILE",
                help="Log in with this file's user:password (mode 0600) instead of CLOUDHSM_PIN.",
            ),
        ],
        None,
    ),
    "request": (
        Annotated[
            str | None,
            typer.Option(metavar="ID", help="Fetch the result of a pending change by its id."),
        ],
        None,
    ),
    "yes": (Annotated[bool, typer.Option("--yes", help="Do not ask.")], False),
    "output": (
        Annotated[OutputFormat, typer.Option(help="How to show the result.")],
        OutputFormat.TABLE,
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """Which shared options a command takes besides `--output`."""

    cluster: bool = False
    login: bool = False
    change: bool = False
    confirmation: bool = False

    def options(self) -> list[str]:
        """Return the names of the parameters."""
        wanted = {
            "cluster_id": self.cluster or self.login,
            "pin_file": self.login,
            "request": self.change,
            "yes": self.confirmation,
            "output": True,
        }
        return [name for name, is_wanted in wanted.items() if is_wanted]


NOTHING = Needs()
CLUSTER = Needs(cluster=True)
LOGIN = Needs(login=True)
CHANGE = Needs(login=True, change=True)


def command(
    app: typer.Typer, name: str, needs: Needs = NOTHING
) -> Callable[[Body[Parameters]], Body[Parameters]]:
    """Register a function as a command of `app`."""

    def register(body: Body[Parameters]) -> Body[Parameters]:
        own = list(inspect.signature(body, eval_str=True).parameters.values())[1:]
        shared = needs.options()

        def run(ctx: typer.Context, **given: Any) -> None:  # noqa: ANN401  # Typer fills it
            options = {option: given.pop(option) for option in shared}
            with Invocation(cast(Starting, ctx.obj), **options) as call:
                body(call, **given)  # type: ignore[call-arg]  # Typer gives what `own` says

        keyword = inspect.Parameter.KEYWORD_ONLY
        parameters = [
            inspect.Parameter("ctx", keyword, annotation=typer.Context),
            *(parameter.replace(kind=keyword) for parameter in own),
            *(
                inspect.Parameter(option, keyword, annotation=kind, default=default)
                for option, (kind, default) in ((o, _OPTIONS[o]) for o in shared)
            ),
        ]
        cast(Any, run).__signature__ = inspect.Signature(parameters)
        run.__annotations__ = {}
        run.__doc__ = body.__doc__
        app.command(name, cls=Command)(run)
        return body

    return register


def group(name: str, summary: str, parent: typer.Typer | None = None) -> typer.Typer:
    """Make a group of commands."""
    app = typer.Typer(name=name, help=summary, add_completion=False, cls=Group)
    if parent is not None:
        parent.add_typer(app)
    return app


class Command(TyperCommand):
    """A command whose repeatable options also take several values after one flag."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401  # vendored type
        """Refuse secrets in argv, then repeat flags: `--filter a b` is `--filter a --filter b`."""
        for argument in args:
            if not _is_text(argument):
                raise UsageError(f"argument {argument!a} is not UTF-8 text")
            if argument.partition("=")[0] in {"--password", "--pin"}:
                raise UsageError(
                    "passwords are not taken from the command line, where every user of this "
                    "machine can read them: set CLOUDHSM_PIN, or use --pin-file, --password-stdin "
                    "or the prompt; if that was a real password, change it"
                )
        listed = {flag for p in self.params if getattr(p, "multiple", False) for flag in p.opts}
        return super().parse_args(ctx, repeat_flags(args, listed))

    def format_help_text(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401, ARG002  # as above
        """Write the docstring as it is: examples are not to be wrapped."""
        lines = inspect.cleandoc(self.help or "").splitlines()
        formatter.write("\n" + "".join(f"  {line}".rstrip() + "\n" for line in lines))


class Group(TyperGroup):
    """A group that shows its help when no command is given."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401  # vendored type
        """Parse, or show the help on stderr and exit with 2."""
        if not args and not ctx.resilient_parsing:
            typer.echo(ctx.get_help(), err=True)
            raise typer.Exit(2)
        return super().parse_args(ctx, args)


def _is_text(argument: str) -> bool:
    """Python hands over bytes that are no UTF-8 as lone surrogates."""
    try:
        argument.encode()
    except UnicodeEncodeError:
        return False
    return True


def repeat_flags(args: list[str], listed: set[str]) -> list[str]:
    """Put the flag before each of several values that follow one of the flags in `listed`."""
    made: list[str] = []
    flag, is_first = "", False
    for position, argument in enumerate(args):
        if argument == "--":
            return made + args[position:]
        if argument.startswith("-"):
            flag, is_first = (argument if argument in listed else ""), True
        elif flag:
            if not is_first:
                made.append(flag)
            is_first = False
        made.append(argument)
    return made
