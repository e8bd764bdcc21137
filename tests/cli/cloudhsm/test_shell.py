"""The interactive mode on a real pseudo-terminal, with a real token behind it."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orchestrator.cli.cloudhsm.shell import HISTORY
from orchestrator.lab import lab
from tests.cli.cloudhsm.site import PASSWORDS, SiteServices, activate, site
from tests.cli.pseudo_terminal import Terminal, spawn

pytestmark = pytest.mark.softhsm
CHILD = Path(__file__).with_name("shell_child.py")
PROMPT = "aws-cloudhsm >"  # the space after it is drawn by moving the cursor
DONE = '"error_code": 0'
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

    def start_(*arguments: str) -> Terminal:
        variables = {"CLOISTER_HOME": str(services.root), "PROMPT_TOOLKIT_NO_CPR": "1"}
        argv = [sys.executable, str(CHILD), "interactive", *arguments]
        started.append(spawn(argv, services.root, variables))
        started[-1].expect(PROMPT)
        return started[-1]

    yield start_
    for terminal in started:
        terminal.close()


def log_in(terminal: Terminal, name: str, role: str = "crypto-user") -> None:
    terminal.type(f"login --username {name} --role {role}\r")
    terminal.expect("Enter password: ")
    terminal.type(PASSWORDS[name] + "\r")
    terminal.expect(f'"username": "{name}"')
    terminal.expect(PROMPT)


def leave(terminal: Terminal) -> None:
    terminal.type("quit\r")
    assert terminal.end() == 0
    assert "Traceback" not in terminal.seen


def test_one_login_serves_many_commands(start: Start) -> None:
    terminal = start()
    log_in(terminal, "alice")
    for label in ("one", "two"):
        terminal.type(f"key generate-symmetric aes --label {label} --key-length-bytes 16\r")
        terminal.expect(DONE)
        terminal.expect(PROMPT)
    terminal.type("logout\r")
    terminal.expect("Logout successful")
    terminal.type("key list\r")
    terminal.expect("log in to cluster-")
    leave(terminal)
    assert PASSWORDS["alice"] not in terminal.seen


def test_a_new_password_is_typed_twice(start: Start) -> None:
    terminal = start()
    log_in(terminal, "admin", "admin")
    terminal.type("user create --username dora --role crypto-user\r")
    terminal.expect("Enter password: ")
    terminal.type("hunter2222\r")
    terminal.expect("Confirm password: ")
    terminal.type("hunter3333\r")
    terminal.expect("the two passwords differ")
    terminal.expect(PROMPT)
    terminal.type("user create --username dora --role crypto-user --password\r")
    for question in ("Enter password: ", "Confirm password: "):
        terminal.expect(question)
        terminal.type("hunter2222\r")
    terminal.expect('"username": "dora"')
    leave(terminal)
    assert "hunter" not in terminal.seen


def test_history_is_kept_over_runs_without_passwords(start: Start, services: SiteServices) -> None:
    terminal = start()
    terminal.type("cluster hsm-info\r")
    terminal.expect('"hsms"')
    terminal.expect(PROMPT)
    terminal.type(UP + "\r")
    terminal.expect('"hsms"')
    terminal.expect(PROMPT)
    secret = PASSWORDS["bob"]
    terminal.type(f"login --username bob --role crypto-user --password {secret}\r")
    terminal.expect('"username": "bob"')
    leave(terminal)
    assert secret not in terminal.seen
    history = services.root / HISTORY
    assert history.stat().st_mode & 0o777 == 0o600
    assert secret not in history.read_text()
    again = start()
    again.type(UP + UP + "\r")  # past `quit`
    again.expect("Enter password: ")  # the line came back without its password
    again.type(CTRL_C)
    again.expect("interrupted")
    leave(again)


def test_tab_completes_commands_flags_labels_and_names(start: Start) -> None:
    terminal = start()
    log_in(terminal, "alice")
    terminal.type(f"us{TAB}li{TAB}\r")
    terminal.expect('"users"')
    terminal.expect(PROMPT)
    terminal.type("key generate-symmetric aes --label unlike-others --key-length-bytes 16\r")
    terminal.expect(DONE)
    terminal.expect(PROMPT)
    terminal.type(f"key list --verb{TAB}--fil{TAB}attr.label=unl{TAB}\r")
    terminal.expect('"total_key_count": 1')
    terminal.expect(PROMPT)
    terminal.type(f"key delete --filter attr.label=unl{TAB}\r")
    terminal.expect("Key deleted successfully")
    terminal.expect(PROMPT)
    terminal.type(f"user delete --username bo{TAB}--role crypto-u{TAB}\r")
    terminal.expect("role crypto-user may not do delete-user")
    leave(terminal)


def test_ctrl_c_drops_a_line_and_a_question(start: Start) -> None:
    terminal = start()
    terminal.type("cluster hsm-info --nonsense" + CTRL_C)
    terminal.expect(PROMPT)
    terminal.type("login --username alice --role crypto-user\r")
    terminal.expect("Enter password: ")
    terminal.type("half-a-pass" + CTRL_C)
    terminal.expect("interrupted")
    terminal.expect(PROMPT)
    log_in(terminal, "alice")
    assert "half-a-pass" not in terminal.seen
    terminal.type(CTRL_D)
    assert terminal.end() == 0


def test_help_and_what_is_no_command(start: Start) -> None:
    terminal = start()
    terminal.type("help user create\r")
    terminal.expect("Usage: user create [OPTIONS] --username <USERNAME> --role <ROLE>")
    terminal.expect(PROMPT)
    terminal.type("usr\r")
    terminal.expect("a similar subcommand exists: 'user'")
    terminal.expect(PROMPT)
    terminal.type("   \r")
    terminal.expect(PROMPT)
    leave(terminal)


def test_a_session_key_lives_until_log_out(start: Start) -> None:
    terminal = start()
    log_in(terminal, "alice")
    terminal.type("key generate-symmetric aes --label brief --key-length-bytes 16 --session\r")
    terminal.expect('"key-reference": "')
    reference = terminal.expect('"')
    terminal.expect(PROMPT)
    terminal.type(f"key list --filter key-reference={reference}\r")
    terminal.expect('"label": "brief"')
    terminal.expect(PROMPT)
    terminal.type("logout\r")
    terminal.expect("Logout successful")
    log_in(terminal, "alice")
    terminal.type("key list --filter attr.label=brief\r")
    terminal.expect('"total_key_count": 0')
    leave(terminal)


def test_a_connection_lost_in_a_command_is_an_error_and_the_shell_goes_on(
    start: Start, services: SiteServices
) -> None:
    terminal = start()
    log_in(terminal, "admin", "admin")
    agent = lab.status(services.root).agents[0]
    assert agent.pid
    os.kill(agent.pid, signal.SIGSTOP)
    terminal.type("user delete --username nobody --role crypto-user\r")
    terminal.expect("crypto-user")
    lab.kill(services.root, agent.hsm_id)
    terminal.expect('"error_code": 1')
    terminal.expect(PROMPT)
    terminal.type("key list\r")  # which waits for an HSM to come back, until Ctrl-C
    terminal.expect("waiting for the cluster")
    terminal.type(CTRL_C)
    terminal.expect("interrupted")
    terminal.expect(PROMPT)
    lab.start(services.root, agent.hsm_id)
    terminal.type("key list\r")
    terminal.expect(DONE)
    terminal.expect(PROMPT)
    leave(terminal)
