"""The legacy shells on a real pseudo-terminal, with a real token behind them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orchestrator.cli.legacy.dialect import LEGACY
from tests.cli.cloudhsm.site import PASSWORDS, SiteServices, activate, site
from tests.cli.pseudo_terminal import Terminal, spawn

pytestmark = pytest.mark.softhsm
CHILD = Path(__file__).with_name("shell_child.py")
CMU, KMU = "aws-cloudhsm>", "Command:"  # the space after them is drawn by moving the cursor
UP, TAB, CTRL_C, CTRL_D = "\x1b[A", "\t", "\x03", "\x04"


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SiteServices]:
    with site(tmp_path_factory.mktemp("site") / "home") as made:
        activate(made)
        yield made


Start = Callable[..., Terminal]


@pytest.fixture
def start(services: SiteServices) -> Iterator[Start]:
    started: list[Terminal] = []

    def start_(*arguments: str, **variables: str) -> Terminal:
        known = {"CLOISTER_HOME": str(services.root), "PROMPT_TOOLKIT_NO_CPR": "1"}
        argv = [sys.executable, str(CHILD), *arguments]
        started.append(spawn(argv, services.root, {**known, **variables}))
        return started[-1]

    yield start_
    for terminal in started:
        terminal.close()


def log_in(terminal: Terminal, line: str, name: str, prompt: str, success: str) -> None:
    terminal.expect(prompt)
    terminal.type(f"{line}\r")
    terminal.expect("Enter password: ")
    terminal.type(PASSWORDS[name] + "\r")
    terminal.expect(success)
    terminal.expect(prompt)


def history(services: SiteServices, tool: str) -> Path:
    return services.root / f"{tool}.history"


def test_passwords_are_asked_for_without_echo(start: Start, services: SiteServices) -> None:
    terminal = start("cmu")
    terminal.expect(LEGACY.format("cloudhsm_mgmt_util"))
    log_in(terminal, "loginHSM CO admin -hpswd", "admin", CMU, "loginHSM success on server 0(")
    terminal.type("createUser CU dora -hpswd\r")
    terminal.expect("*CAUTION*")
    terminal.expect("Do you want to continue(y/n)?")
    terminal.type("y\r")
    for question in ("Enter password: ", "Confirm password: "):
        terminal.expect(question)
        terminal.type("password-of-dora\r")
    terminal.expect("createUser success on server 0(")
    terminal.expect(CMU)
    terminal.type("quit\r")
    assert terminal.end() == 0
    assert "password-of" not in terminal.seen
    assert "loginHSM CO admin -hpswd" in history(services, "cloudhsm_mgmt_util").read_text()


def test_a_typed_password_is_neither_shown_nor_kept(start: Start, services: SiteServices) -> None:
    terminal = start("cmu")
    terminal.expect(CMU)
    terminal.type(f"loginHSM CU alice {PASSWORDS['alice']}\r")
    terminal.expect("loginHSM success on server 0(")
    terminal.expect(CMU)
    terminal.type(UP)
    terminal.expect("loginHSM CU alice")
    terminal.type(CTRL_C)
    terminal.expect(CMU)
    terminal.type(CTRL_D)
    assert terminal.end() == 0
    kept = history(services, "cloudhsm_mgmt_util")
    assert PASSWORDS["alice"] not in terminal.seen
    assert "loginHSM CU alice" in kept.read_text()
    assert PASSWORDS["alice"] not in kept.read_text()
    assert kept.stat().st_mode & 0o777 == 0o600


def test_no_and_ctrl_c_at_the_question_change_nothing(start: Start) -> None:
    terminal = start("cmu")
    log_in(terminal, "loginHSM CO admin -hpswd", "admin", CMU, "loginHSM success")
    terminal.type("deleteUser CU bob\r")
    terminal.expect("Do you want to continue(y/n)?")
    terminal.type("n\r")
    terminal.expect("deleteUser failed: not confirmed; nothing was changed")
    terminal.expect(CMU)
    terminal.type("deleteUser CU bob\r")
    terminal.expect("Do you want to continue(y/n)?")
    terminal.type(CTRL_C)
    terminal.expect("interrupted")
    terminal.expect(CMU)
    terminal.type("listUsers\r")
    terminal.expect("CU          bob ")
    terminal.expect(CMU)
    terminal.type("quit\r")
    assert terminal.end() == 0


def test_server_mode_changes_the_prompt(start: Start) -> None:
    terminal = start("cmu")
    terminal.expect(CMU)
    terminal.type("server 0\r")
    terminal.expect("server0>")
    terminal.type("setMValue 3 2\r")
    terminal.expect("a change is made on all HSMs or on none")
    terminal.expect("server0>")
    terminal.type("exit\r")
    terminal.expect(CMU)
    terminal.type("quit\r")
    assert terminal.end() == 0


def test_one_login_serves_many_commands_and_tab_completes(start: Start) -> None:
    terminal = start("kmu")
    terminal.expect(LEGACY.format("key_mgmt_util"))
    log_in(terminal, "loginHSM -u CU -s alice -hpswd", "alice", KMU, "0x00 : HSM Return: SUCCESS")
    terminal.type(f"genSy{TAB}-t 31 -s 16 -l tabbed\r")
    terminal.expect("Symmetric Key Created.  Key Handle: ")
    terminal.expect("Node id 0 status: 0x00000000 : HSM Return: SUCCESS")
    terminal.expect(KMU)
    terminal.type("findKey -l tabbed\r")
    terminal.expect("Total number of keys present: 1")
    terminal.expect(KMU)
    terminal.type("exit\r")
    assert terminal.end() == 0
    assert PASSWORDS["alice"] not in terminal.seen


def test_one_command_asks_for_the_password(start: Start) -> None:
    terminal = start(
        "kmu", "singlecmd", "loginHSM", "-u", "CU", "-s", "alice", "-hpswd", "findKey", "-l", "x"
    )
    terminal.expect("Enter password: ")
    terminal.type(PASSWORDS["alice"] + "\r")
    terminal.expect("Cfm3LoginHSM returned: 0x00")
    terminal.expect("Cfm3FindKey returned: 0x00")
    assert terminal.end() == 0
    assert PASSWORDS["alice"] not in terminal.seen
