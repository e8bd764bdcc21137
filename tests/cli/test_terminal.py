"""Prompts, confirmations and colours on a real pseudo-terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import ADMIN, ALICE
from tests.cli.pseudo_terminal import Terminal, spawn
from tests.cli.stand_ins import HSM, PASSWORD

CHILD = Path(__file__).with_name("terminal_child.py")


Start = Callable[..., Terminal]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    started: list[Terminal] = []

    def start_(*arguments: str, **variables: str) -> Terminal:
        notes = tmp_path / "notes"
        child = [sys.executable, str(CHILD), str(notes), *arguments]
        started.append(spawn(child, notes, variables))
        return started[-1]

    yield start_
    for terminal in started:
        terminal.close()


def test_a_new_password_is_typed_twice_without_echo(start: Start) -> None:
    terminal = start("cluster", "activate")
    terminal.answer("New password of admin: ", "hunter2222")
    terminal.answer("The same again: ", "hunter2222")
    assert terminal.end() == 0
    assert "b'hunter2222'" in terminal.notes.read_text()
    assert "hunter2222" not in terminal.seen


def test_two_different_passwords_change_nothing(start: Start) -> None:
    terminal = start("cluster", "activate")
    terminal.answer("New password of admin: ", "hunter2222")
    terminal.answer("The same again: ", "hunter3333")
    assert terminal.end() == 2
    assert "'activate'" not in terminal.notes.read_text()
    assert "hunter" not in terminal.seen


def test_role_name_and_password_are_asked_for(start: Start) -> None:
    terminal = start("login-check")
    terminal.answer("Role (admin, crypto-user) [crypto-user]: ", "")
    terminal.answer("User name: ", "alice")
    terminal.answer("Password of alice: ", PASSWORD)
    assert terminal.end() == 0
    assert "alice" in terminal.seen
    assert PASSWORD not in terminal.seen


@pytest.mark.parametrize(("answer", "status"), [("yes", 0), ("no", 1), ("", 1)])
def test_destruction_is_asked_about(answer: str, status: int, start: Start) -> None:
    terminal = start("hsm", "delete", HSM)
    terminal.answer("destroy its token? (yes/no) [no]: ", answer)
    assert terminal.end() == status
    assert ("'delete-hsm'" in terminal.notes.read_text()) is (status == 0)


def test_interrupting_a_prompt(start: Start) -> None:
    terminal = start("cluster", "delete")
    terminal.interrupt_at("(yes/no)")
    assert terminal.end() == 130
    assert "Traceback" not in terminal.seen


def test_shares_are_shown_one_by_one_and_wiped(start: Start) -> None:
    create = ("recovery", "create-shares", "--threshold", "3", "--shares", "5")
    terminal = start(*create, **ADMIN)
    for number in range(1, 6):
        terminal.answer(f"share {number} of 5", "")
    assert terminal.end() == 0
    assert terminal.seen.count("\x1b[2J") == 5
    assert "next: cloister backup create" in terminal.seen


def test_words_are_typed_without_echo(start: Start) -> None:
    terminal = start("recovery", "recover", "backup-c")
    terminal.answer("Words of share 1", "alpha  beta")
    terminal.answer("Words of share 2", "gamma delta")
    terminal.answer("Words of share 3", "")
    assert terminal.end() == 0
    assert "['alpha beta', 'gamma delta']" in terminal.notes.read_text()
    assert "alpha" not in terminal.seen


@pytest.mark.parametrize(("variables", "has_colour"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_colours_only_on_a_terminal_that_wants_them(
    variables: dict[str, str], has_colour: bool, start: Start
) -> None:
    terminal = start("hsm", "list", **ALICE, **variables)
    assert terminal.end() == 0
    assert HSM in terminal.seen
    assert ("\x1b[32m" in terminal.seen) is has_colour  # ACTIVE, green
