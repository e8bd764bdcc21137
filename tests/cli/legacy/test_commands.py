"""The tables of commands, their help, and the numbers."""

from __future__ import annotations

import inspect
import subprocess
import sys
from importlib import import_module

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.cli.cloudhsm.completion import Lookup
from orchestrator.cli.cloudhsm.parser import HelpRequest, ParseError
from orchestrator.cli.cloudhsm.redaction import redact
from orchestrator.cli.cloudhsm.syntax import Given
from orchestrator.cli.legacy import cmu, kmu_status, main, numbers, shell
from orchestrator.cli.legacy.cmu_commands import CMU
from orchestrator.cli.legacy.dialect import LEGACY, Dialect, help_text, read
from orchestrator.cli.legacy.kmu_commands import KMU
from orchestrator.cli.legacy.tool import Server, Tool
from orchestrator.model.errors import NotFoundError, RefusedError, UnavailableError, UsageError
from orchestrator.model.roles import Role
from orchestrator.wire.messages import UserView
from tests.cli.legacy import reference

COMMANDS = [(d, name) for d in (CMU, KMU) for name in d.commands()]


@pytest.mark.parametrize(("dialect", "name"), COMMANDS)
def test_every_command_has_a_function_or_says_what_is_missing(dialect: Dialect, name: str) -> None:
    command = dialect.commands()[name]
    assert command.who
    assert bool(command.action) != bool(command.missing)
    if command.action:
        module, _, function = command.action.partition(":")
        act = getattr(import_module(f"orchestrator.cli.legacy.{module}"), function)
        assert len(inspect.signature(act).parameters) == 2


@pytest.mark.parametrize(("dialect", "name"), COMMANDS)
@pytest.mark.parametrize("words", [("{}", "-h"), ("help", "{}")])
def test_every_command_has_help(dialect: Dialect, name: str, words: tuple[str, ...]) -> None:
    asked = read(dialect, [word.format(name) for word in words])
    assert isinstance(asked, HelpRequest)
    text = help_text(dialect, asked.path)
    assert f"Syntax: {name}" in text
    assert LEGACY.format(dialect.name) in text
    assert all(flag.help in text for flag in dialect.commands()[name].flags)


def test_the_tools_say_that_they_are_legacy() -> None:
    for dialect in (CMU, KMU):
        text = help_text(dialect, ())
        assert text.startswith(LEGACY.format(dialect.name))
        assert all(name in text for name in dialect.commands())


def test_the_reference_is_made_from_the_tables() -> None:
    assert reference.DOCUMENT.read_text().endswith(reference.generate())


def test_arguments_are_positional_in_one_tool_and_named_in_the_other() -> None:
    asked = read(CMU, ["createUser", "CU", "alice", "-2fa", "file", "secret"])
    assert isinstance(asked, Given)
    assert asked.text("--user-name") == "alice"
    assert asked.text("-2fa") == "file"
    assert asked.text("--password") == "secret"
    asked = read(KMU, ["loginHSM", "-p", "secret", "-u", "CU", "-s", "alice"])
    assert isinstance(asked, Given)
    assert asked.text("--password") == "secret"


@pytest.mark.parametrize(
    ("dialect", "line"),
    [
        (CMU, "createUser CU alice geheim geheim"),
        (CMU, "loginHSM CU alice geheim -hpswd"),
        (CMU, "changePswd CU alice geheim --geheim"),
        (KMU, "loginHSM -u CU -s alice -p geheim geheim"),
        (KMU, "loginHSM -u CU -s alice -p geheim -hpswd"),
    ],
)
def test_a_mistake_near_a_password_does_not_repeat_it(dialect: Dialect, line: str) -> None:
    with pytest.raises(ParseError) as caught:
        read(dialect, line.split())
    assert "alice geheim" not in str(caught.value)
    if "--geheim" not in line:
        assert "geheim" not in str(caught.value)


@pytest.mark.parametrize(
    ("dialect", "line", "kept"),
    [
        (CMU, "loginHSM CO admin geheim", "loginHSM CO admin"),
        (CMU, "  loginHSM   CO admin 'ge heim'  ", None),
        (CMU, "loginHSM CO admin geheim -2fa file", None),
        (CMU, "loginHSM CO admin -2fa file geheim", None),
        (CMU, "loginHSM -hpswd CO admin", "loginHSM -hpswd CO admin"),
        (CMU, "loginHSM CO admin -hpswd", "loginHSM CO admin -hpswd"),
        (CMU, "loginHSM CO admin -hpswd -2fa file", "loginHSM CO admin -hpswd -2fa file"),
        (CMU, "loginHSM --password=geheim CO admin", None),
        (CMU, "loginHSM CO -2fa admin geheim", None),
        (CMU, "loginHSM CO -2fa file admin geheim", None),
        (CMU, "lgoinHSM CO admin geheim", None),
        (CMU, "createUser CU alice geheim", None),
        (CMU, "changePswd CU alice geheim", None),
        (CMU, "setAttribute 9 3 label", "setAttribute 9 3 label"),
        (KMU, "loginHSM -u CU -s alice -p geheim", None),
        (KMU, "loginHSM -p geheim -u CU -s alice", None),
        (KMU, "loginHSM -p=geheim -u CU -s alice", None),
        (KMU, "loginHSM --password geheim -u CU", None),
        (KMU, "loginHSM -p -geheim -u CU -s alice", None),
        (KMU, "loginHSM -u CU -s alice -pgeheim", "loginHSM -u CU -s alice -p"),
        (KMU, " loginhsm -pge heim -u CU -s alice", None),
        (KMU, "loginHSM -u CU -s alice -hpswd", "loginHSM -u CU -s alice -hpswd"),
        (KMU, "exportPubKey -k 1 -out p", "exportPubKey -k 1 -out p"),
    ],
)
def test_passwords_are_kept_out_of_the_history(
    dialect: Dialect, line: str, kept: str | None
) -> None:
    made = redact(line, dialect.secrets(line))
    assert "geheim" not in made
    assert "heim" not in made
    if kept is not None:
        assert made == kept


@pytest.mark.parametrize(
    ("run", "line"),
    [
        (main.cmu, "loginHSM CO admin geheim"),
        (main.cmu, "singlecmd loginHSM CO admin geheim listUsers"),
        (main.cmu, "createUser CU alice geheim"),
        (main.cmu, "tool.cfg loginHSM CO admin geheim"),
        (main.kmu, "singlecmd loginHSM -u CU -s alice -p geheim findKey"),
        (main.kmu, "loginHSM -p geheim"),
    ],
)
def test_a_password_in_argv_is_refused_before_anything_happens(
    run: object, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert callable(run)
    assert run(line.split(), None) == main.EXIT_USAGE
    said = capsys.readouterr()
    assert "CLOUDHSM_PIN" in said.err
    assert "geheim" not in said.out + said.err


def test_help_loads_nothing_heavy() -> None:
    heavy = ("cryptography", "sqlalchemy", "typer", "rich", "prompt_toolkit", "asyncio", "pkcs11")
    code = (
        "import sys; from orchestrator.cli.legacy.main import kmu; kmu(['-h']);"
        f"print('loaded:', *(n for n in {heavy} if n in sys.modules), file=sys.stderr)"
    )
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert made.stderr.strip() == "loaded:"


def test_singlecmd_alone_is_no_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.kmu(["singlecmd"]) == main.EXIT_USAGE
    assert "takes a command" in capsys.readouterr().err


def test_a_users_number_depends_on_role_and_name_alone() -> None:
    assert numbers.user_id(Role.ADMIN, "admin") == 1188088219
    assert numbers.user_id(Role.UNACTIVATED_ADMIN, "admin") == 1188088219
    assert numbers.user_id(Role.CRYPTO_USER, "admin") != 1188088219
    made = {numbers.user_id(Role.CRYPTO_USER, f"user{i}") for i in range(1024)}
    assert all(0 <= number < 1 << 31 for number in made)


def test_a_number_that_two_users_have_is_refused() -> None:
    user = UserView("alice", Role.CRYPTO_USER, locked=False)
    number = str(numbers.user_id(user.role, user.name))
    assert numbers.named_by((user,), number) is user
    with pytest.raises(RefusedError, match="name the user"):
        numbers.named_by((user, user), number)
    with pytest.raises(NotFoundError):
        numbers.named_by((user,), "7")
    with pytest.raises(UsageError):
        numbers.named_by((user,), "alice")


def test_numbers_are_decimal_or_hexadecimal_and_bounded() -> None:
    assert numbers.parse_number("0x10", "it") == numbers.parse_number("16", "it") == 16
    for wrong in ("", "x", "-1", str(1 << 64), "1.5"):
        with pytest.raises(UsageError):
            numbers.parse_number(wrong, "it")


def test_return_codes_are_told_apart() -> None:
    codes = [code for _, listed in numbers.CODES.values() for code in listed]
    assert len(codes) == len(set(codes))
    assert numbers.return_code("permission-denied") == numbers.DENIED
    assert numbers.return_code("not-found") == numbers.INVALID_HANDLE
    assert numbers.return_code("anything else") == numbers.FAILED


class _Unheard(Tool):
    def servers(self) -> list[Server]:
        raise UnavailableError("no HSM answers")


def test_what_was_done_is_not_called_failed_when_no_server_tells_of_it() -> None:
    tool = _Unheard(CMU, None)  # type: ignore[arg-type]  # unused
    said = cmu.succeeded(tool, "createUser")
    assert said == ["createUser success; on which servers is not known: no HSM answers"]
    command = KMU.commands()["deleteKey"]
    said = kmu_status.framed(tool, command, [], None)
    assert "Cfm3DeleteKey returned: 0x00 : HSM Return: SUCCESS" in said[0]
    assert "        not known: no HSM answers" in said


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Z", "C"]), min_size=8))
def test_no_password_is_kept_whatever_it_is(password: str) -> None:
    lines = {
        CMU: f"createUser CU a {password}",
        KMU: f"loginHSM -u CU -s a -p {password}",
    }
    for dialect, line in lines.items():
        made = redact(line, dialect.secrets(line))
        assert made == line.removesuffix(password).rstrip(" =")


def _offered(dialect: Dialect, text: str) -> list[str]:
    lookup = Lookup(lambda: ["cluster-a"], lambda: ["alice", "bob"], list)
    return shell.complete(Tool(dialect, None), text, lookup)[0]  # type: ignore[arg-type]  # unused


def test_completion_offers_commands_flags_and_names() -> None:
    assert "createUser" in _offered(CMU, "creat")
    assert _offered(CMU, "deleteUser CU a") == ["alice"]
    assert _offered(CMU, "syncKey 9 ") == ["cluster-a"]
    assert "-hpswd" in _offered(CMU, "loginHSM CO admin -")
    assert "-sess" in _offered(KMU, "genSymKey -t 31 -")
    assert _offered(KMU, "loginHSM -u CU -s b") == ["bob"]
