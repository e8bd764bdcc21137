"""Input of commands that ends early, is no text, is too large, or would steer a terminal."""

from __future__ import annotations

import os
import re
import sys
import termios
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.cli.render import printable
from orchestrator.lab import lab
from orchestrator.lab.layout import Layout
from orchestrator.model.errors import RefusedError
from orchestrator.model.key_spec import KeyClass
from tests.cli.conftest import ADMIN, ALICE, Run
from tests.cli.pseudo_terminal import Terminal
from tests.cli.stand_ins import EC_SPEC, HSM, StandIns, make_key
from tests.cli.test_terminal import Start, start
from tests.hostile.wire import examples

__all__ = ["start"]  # a fixture
HARMLESS = {"login", "find", "close", "close-session", "resolve"}


def changes(services: StandIns) -> set[str]:
    return {call[0] for call in services.calls} - HARMLESS


# --- input that ends ---


def press(terminal: Terminal, question: str, typed: bytes = b"\x04") -> None:
    """Wait for a question, then end the input, or type bytes as they are."""
    terminal._read_until(question)
    terminal.seen += "⏎"
    modes = termios.tcgetattr(terminal.master)
    modes[3] &= ~termios.ECHO  # what is no text cannot be read back either
    termios.tcsetattr(terminal.master, termios.TCSANOW, modes)
    os.write(terminal.master, typed)


NEW_USER = ("user", "create", "--username", "bob", "--role", "crypto-user")
QUESTIONS: dict[str, tuple[tuple[str, ...], dict[str, str], list[tuple[str, str]], str]] = {
    "a role": (("login-check",), {}, [], "Role"),
    "a name": (("login-check",), {}, [("Role", "admin")], "User name"),
    "a password": (("login-check",), {}, [("Role", "admin"), ("User name", "")], "Password of"),
    "a new password": (NEW_USER, ADMIN, [], "New password of bob"),
    "its repetition": (NEW_USER, ADMIN, [("New password", "long-enough")], "The same again"),
    "a confirmation": (("hsm", "delete", HSM), {}, [], "(yes/no)"),
    "words": (("recovery", "recover", "backup-c"), {}, [], "Words of share 1"),
    "more words": (
        ("recovery", "recover", "backup-c"), {}, [("Words of share 1", "alpha")], "of share 2"
    ),
}  # fmt: skip


NO_TEXT = b"\xff\xfe\xe9\n"


@pytest.mark.parametrize(
    ("name", "typed", "status"),
    [
        *((name, b"\x04", 1) for name in QUESTIONS),
        *((name, NO_TEXT, 2) for name in ("a role", "a password", "a confirmation")),
    ],
)
def test_input_that_ends_or_is_no_text_does_nothing(
    start: Start, name: str, typed: bytes, status: int
) -> None:
    arguments, login, answers, last = QUESTIONS[name]
    terminal = start(*arguments, **login)
    for question, line in answers:
        terminal.answer(question, line)
    press(terminal, last, typed)
    assert terminal.end() == status
    shown = terminal.seen.rpartition("⏎")[2]
    assert "nothing was done" in shown
    assert "Traceback" not in terminal.seen
    assert "defect" not in terminal.seen
    done = {line.split("'")[1] for line in terminal.notes.read_text().splitlines()}
    assert done <= HARMLESS


@pytest.mark.parametrize(
    "arguments",
    [
        "cluster activate --password-stdin",
        "user create --username bob --role crypto-user --password-stdin",
        "user change-password --username bob --role crypto-user --password-stdin",
    ],
)
@pytest.mark.parametrize("given_", ["", "\n", "\r\n", " \n", "x" * 33, "x" * 5000, "\0" * 7])
def test_a_password_line_that_will_not_do(
    run: Run, services: StandIns, arguments: str, given_: str
) -> None:
    outcome = run(*arguments.split(), "--output", "json", login=ADMIN, stdin=given_)
    assert (outcome.status, outcome.error["code"]) == (1, "password-rule")
    assert "8 to 32 characters" in outcome.error["message"]
    assert not changes(services)


def test_nobody_to_ask_and_nothing_on_stdin(run: Run, services: StandIns) -> None:
    for arguments, code in (
        ("recovery recover backup-c", "usage"),
        ("hsm delete hsm-b", "confirmation-needed"),
        ("cluster activate", "login-needed"),
        ("login-check", "login-needed"),
    ):
        outcome = run(*arguments.split(), "--output", "json")
        assert outcome.error["code"] == code
    assert not changes(services)


# --- arguments ---


@pytest.mark.parametrize(
    "arguments",
    [
        ("key", "generate-symmetric", "aes", "--key-length-bytes", "32", "--label", "\udcff"),
        ("key", "list", "--filter", "attr.label=\udce9"),
        ("user", "create", "--role", "admin", "--username", "\udc80"),
        ("user", "create", "--role", "admin", "--username", "a", "--request", "\udc80"),
        ("host", "admit", "\udc80"),
        ("hsm", "create", "--az", "\udc80"),
        ("cluster", "describe", "--cluster-id", "\udc80"),
        ("backup", "describe", "\udc80"),
        ("key", "list", "--starting-token", "9" * 10),
        ("key", "list", "--starting-token", "9" * 30),
        ("key", "list", "--starting-token", "9" * 5000),
        ("key", "list", "--starting-token", "\N{ARABIC-INDIC DIGIT ONE}"),
        ("key", "list", "--max-items", "9" * 30),
        ("key", "list", "--filter", "key-reference=" + "9" * 5000),
        ("key", "list", "--filter", f"key-reference=0x{1 << 64:x}"),
        ("crypto", "sign", "rsa-pkcs-pss", "--key-filter", "attr.label=a", "--hash-function",
         "sha256", "--mgf", "mgf1-sha256", "--salt-length", "9" * 30, "--data", "AA=="),
        ("user", "create", "--role", "admin", "--username", "a" * 32),
        ("user", "create", "--role", "admin", "--username", ""),
        ("user", "create", "--role", "admin", "--username", "ädmin"),
        ("user", "create", "--role", "admin", "--username", "a/../b"),
        ("user", "create", "--role", "internal(APPLIANCE_USER)", "--username", "a"),
        ("user", "create", "--role", "none", "--username", "a"),
        ("user", "create", "--role", "", "--username", "a"),
    ],
    ids=range(23),
)  # fmt: skip
def test_arguments_that_no_hsm_should_see(
    run: Run, services: StandIns, arguments: tuple[str, ...]
) -> None:
    outcome = run(*arguments, "--output", "json", login=ALICE)
    assert (outcome.status, outcome.error["code"]) == (2, "usage")
    assert not changes(services)


@pytest.mark.parametrize("label", ["x" * 128, "a\nb", "a\0b", "\x7f", "\x1b[2J", "tab\there"])
def test_labels_that_will_not_do(run: Run, services: StandIns, label: str) -> None:
    make = ["key", "generate-symmetric", "aes", "--key-length-bytes", "32", "--label", label]
    outcome = run(*make, "--output", "json", login=ALICE)
    assert (outcome.status, outcome.error["code"]) == (1, "label-rule")
    assert "127 printable characters" in outcome.error["message"]
    assert not changes(services)


@settings(
    max_examples=examples(60),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    command=st.sampled_from(
        ["key list --filter", "key list --starting-token", "hsm delete --yes", "backup describe",
         "crypto verify ecdsa --hash-function sha256 --signature AA== --data AA== --key-filter",
         "user delete --yes --role admin --username", "host admit", "key list --max-items",
         "key generate-symmetric generic-secret --label l --key-length-bytes"]
    ),
    argument=st.text(max_size=30),
)  # fmt: skip
def test_no_argument_is_a_defect(run: Run, command: str, argument: str) -> None:
    outcome = run(*command.split(), argument, login=ALICE)
    assert outcome.status in {0, 1, 2, 3, 4}
    assert "Traceback" not in outcome.err


# --- what others chose, on our terminal ---

STEERING = "\x1b[2J\x9b31m\u202eevil\u2066\u2028line\r\nhsm \x07\ufeff\u200b"


@pytest.mark.parametrize("terminal", [True, False])
def test_names_steer_no_terminal(
    run: Run, services: StandIns, monkeypatch: pytest.MonkeyPatch, *, terminal: bool
) -> None:
    services.key = make_key(KeyClass.PUBLIC, EC_SPEC, STEERING)
    if terminal:
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    for extra in ((), ("--verbose",)):
        outcome = run("key", "list", *extra, login=ALICE)
        assert outcome.status == 0
        shown = re.sub(r"\x1b\[\d*m|\n", "", outcome.out)  # bold heads are our own
        assert "evil" in shown
        assert shown.isprintable()
    services.raises = RefusedError("some-code", f"key {STEERING}")
    outcome = run("cluster", "list")
    assert outcome.err.count("\n") == 1
    assert outcome.err.rstrip("\n").isprintable()


def test_json_keeps_names_as_they_are(run: Run, services: StandIns) -> None:
    services.key = make_key(KeyClass.PUBLIC, EC_SPEC, STEERING)
    outcome = run("key", "list", "--output", "json", login=ALICE)
    assert outcome.json["matched_keys"][0]["attributes"]["label"] == STEERING


@given(st.text())
def test_printable_text_stays_and_the_rest_is_named(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    assert (shown == text) is text.isprintable()


# --- files that are named ---


def test_files_that_are_no_input(run: Run, services: StandIns, tmp_path: Path) -> None:
    loop, huge = tmp_path / "loop", tmp_path / "huge"
    loop.symlink_to(loop)
    with huge.open("wb") as file:
        file.truncate(65 * 1024 * 1024)
    good = tmp_path / "good"
    good.write_bytes(b"certificate")
    for path in (tmp_path, loop, huge, tmp_path / "none", tmp_path / "good" / "below"):
        initialize = ["cluster", "initialize", "--signed-cert", str(path), "--trust-anchor"]
        outcome = run(*initialize, str(good), "--output", "json")
        assert (outcome.status, outcome.error["code"]) == (2, "usage")
        assert str(path) in outcome.error["message"]
    assert not changes(services)


def test_the_doctor_names_a_damaged_host(run: Run, services: StandIns, tmp_path: Path) -> None:
    """The doctor is asked when something is wrong: it must not stumble over it."""
    home = tmp_path / "home"
    Layout(home).prepare(1)
    (Layout(home).hosts_directory / "host-1a" / "zone").unlink()
    services.root = home
    services.lab = lambda: lab  # type: ignore[method-assign]  # the real one
    outcome = run("doctor", "--output", "json")
    [found] = [check for check in outcome.json["checks"] if check["check"] == "lab"]
    assert found["result"] == "fail"
    assert "host-1a is no host of the lab" in found["detail"]
    assert outcome.status == 1
