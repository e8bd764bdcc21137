"""CloudHSM's published quorum and MFA steps, typed as they stand there, on a real terminal.

One person types into `cloudhsm-cli interactive`; the others work in their own shells with openssl,
jq's part done by hand. Two HSMs; tokens are then one record per HSM.
"""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from orchestrator.control.membership import Membership
from orchestrator.lab import lab
from orchestrator.model.roles import Role
from tests.cli.cloudhsm import approvers
from tests.cli.cloudhsm.site import PASSWORDS, ROLES, SiteServices, activate, credentials, site
from tests.cli.pseudo_terminal import ROOT, Terminal, spawn

pytestmark = [pytest.mark.softhsm, pytest.mark.timeout(300)]
CHILD = Path(__file__).with_name("shell_child.py")
PROMPT = "aws-cloudhsm >"
DONE, FAILED = '"error_code": 0', '"error_code": 1'
REQUIRED = "Quorum approval is required for this operation"
USER = "--role crypto-user --password password-of-new"


class Office:
    """A cluster of two HSMs; admin and carol are admins, alice and bob use keys."""

    def __init__(self, services: SiteServices, tmp: Path, fault: Path, hsms: int) -> None:
        self.services, self.tmp, self.fault = services, tmp, fault
        self.terminals: list[Terminal] = []
        plane = services.plane()
        self.cluster = plane.clusters()[0].cluster_id
        session = plane.login(self.cluster, Role.ADMIN, "admin", PASSWORDS["admin"].encode())
        changes = plane.changes(self.cluster, session)
        if hsms > 1:
            changes.admit_host("host-1b")
            Membership(plane).create(self.cluster, "lab-1b")
        changes.create_user("carol", Role.ADMIN, PASSWORDS["carol"].encode())
        session.close()
        plane.close()
        approvers.make_keys(tmp)

    def sit(self, name: str, *login: str) -> Terminal:
        """Let somebody sit down at a terminal and log in."""
        variables = {"CLOISTER_HOME": str(self.services.root), "PROMPT_TOOLKIT_NO_CPR": "1"}
        terminal = spawn([sys.executable, str(CHILD), "interactive"], self.tmp, variables)
        self.terminals.append(terminal)
        terminal.expect(PROMPT)
        if not login:
            terminal.type(f"login --username {name} --role {ROLES[name]}\r")
            terminal.expect("Enter password: ")
            terminal.type(PASSWORDS[name] + "\r")
            terminal.expect(f'"username": "{name}"')
            terminal.expect(PROMPT)
        return terminal

    def start(self, name: str, line: str) -> subprocess.Popen[bytes]:
        """Start a command in a process of its own."""
        main = "from orchestrator.cli.cloudhsm.main import main; raise SystemExit(main())"
        return subprocess.Popen(
            [sys.executable, "-c", main, *line.split()],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, cwd=self.tmp,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT),
                 "CLOISTER_HOME": str(self.services.root), **credentials(name)},
        )  # fmt: skip

    def run(self, name: str, line: str) -> tuple[int, object]:
        """Run a command in a process of its own; return its exit status and `data`."""
        process = self.start(name, line)
        out, err = process.communicate(timeout=90)
        assert out, err
        return process.returncode, json.loads(out)["data"]

    def users(self) -> set[str]:
        plane = self.services.plane()
        names = {user.name for user in plane.users(self.cluster)}
        plane.close()
        return names

    def tokens(self) -> int:
        status, data = self.run("admin", "quorum token-sign list")
        assert status == 0
        assert isinstance(data, dict)
        return len(data["tokens"])

    def approved(self, file: str, *names: str) -> str:
        """Ask for a token of service user and have it signed."""
        path = self.tmp / file
        status, data = self.run(
            "admin", f"quorum token-sign generate --service user --token {path}"
        )
        assert status == 0, data
        for name in names or ("admin", "carol"):
            approvers.approve(path, self.tmp, name)
        return str(path)


def say(terminal: Terminal, line: str, wanted: str = DONE) -> str:
    """Type a command and wait for what it must say, and for the next prompt."""
    terminal.type(f"{line}\r")
    before = terminal.expect(wanted)
    return before + terminal.expect(PROMPT)


@contextmanager
def an_office(directory: Path, hsms: int) -> Iterator[Office]:
    """Open an office whose HSMs die at the step that its fault file names."""
    fault = directory / "fault"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLOISTER_FAULT", str(fault))
        with site(directory / "home", hsms) as services:
            activate(services)
            tmp = directory / "files"
            tmp.mkdir()
            made = Office(services, tmp, fault, hsms)
            try:
                yield made
            finally:
                for terminal in made.terminals:
                    terminal.close()


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Office]:
    with an_office(tmp_path_factory.mktemp("office"), 2) as made:
        yield made


@pytest.fixture(scope="module")
def guarded(office: Office) -> Office:
    return guard(office)


def guard(office: Office) -> Office:
    """Let both admins register their keys, and two approve what is done about users."""
    tmp = office.tmp
    for name in ("admin", "carol"):
        terminal = office.sit(name)
        token = f"{tmp}/{name}.registration"
        say(terminal, f"quorum token-sign generate --service registration --token {token}", token)
        approvers.possess(Path(token), tmp, name)
        register = "user change-quorum token-sign register"
        say(terminal, f"{register} --public-key {tmp}/{name}.pub --signed-token {token}")
        assert '"strategy": "token-sign"' in say(terminal, "user list")
    admin, set_value = office.terminals[-2], "quorum token-sign set-quorum-value --service"
    say(admin, f"{set_value} quorum --value 2", "Set quorum value successful")
    say(admin, f"{set_value} user --value 2", REQUIRED)
    token = f"{tmp}/quorum.token"
    say(admin, f"quorum token-sign generate --service quorum --token {token}")
    for name in ("admin", "carol"):
        approvers.approve(Path(token), tmp, name)
    say(admin, f"{set_value} user --value 2 --approval {token}", "Set quorum value successful")
    assert '"quorum": 2' in say(admin, "quorum token-sign list-quorum-values")
    return office


def test_quorum_as_published(guarded: Office) -> None:
    tmp, admin = guarded.tmp, guarded.sit("admin")
    say(admin, f"user create --username officer1 {USER}", REQUIRED)
    token = tmp / "user.token"
    say(admin, f"quorum token-sign generate --service user --token {token}", str(token))
    document = json.loads(token.read_text())
    assert len(base64.b64decode(document["approval_data"])) == 2 * 80
    approvers.approve(token, tmp, "admin")
    create = f"user create --username officer1 {USER} --approval {token}"
    say(admin, create, f"{REQUIRED}: 1 of 2 approvals")
    approvers.approve(token, tmp, "carol")
    assert '"officer1"' in say(admin, create)
    delete = f"user delete --username officer1 --role crypto-user --approval {token}"
    say(admin, delete, f'"{REQUIRED}"')  # spent
    assert '"tokens": []' in say(admin, "quorum token-sign list")
    say(admin, "logout", "Logout successful")


def test_a_second_factor_as_published(office: Office) -> None:
    tmp, terminal = office.tmp, office.sit("alice")
    signed = "press enter if same as the unsigned token file"

    def change(key: str) -> None:
        """Enrol, or rotate to, a key."""
        token = tmp / f"{key}.mfa"
        terminal.type(
            f"user change-mfa token-sign --username alice --role crypto-user --token {token}\r"
        )
        for question in ("Enter password: ", "Confirm password: "):
            terminal.expect(question)
            terminal.type(PASSWORDS["alice"] + "\r")
        terminal.expect(signed)
        assert len(json.loads(token.read_text())["tokens"]) == 2  # one for every HSM
        approvers.possess(token, tmp, key)
        terminal.type("\r")
        terminal.expect("public key PEM file path")
        terminal.type(f"{tmp}/{key}.pub\r")
        terminal.expect(DONE)
        terminal.expect(PROMPT)

    def log_in(key: str, wanted: str) -> None:
        token = tmp / f"{key}.login"
        terminal.type(f"login --username alice --role crypto-user mfa-token-sign --token {token}\r")
        terminal.expect("Enter password: ")
        terminal.type(PASSWORDS["alice"] + "\r")
        terminal.expect(signed)
        approvers.possess(token, tmp, key)
        terminal.type("\r")
        terminal.expect(wanted)
        terminal.expect(PROMPT)

    change("alice")
    plain = f"login --username alice --role crypto-user --password {PASSWORDS['alice']}"
    say(terminal, plain, FAILED)
    log_in("bob", FAILED)
    log_in("alice", DONE)
    change("bob")  # another key from now on
    log_in("alice", FAILED)
    log_in("bob", DONE)
    deregister = "user change-mfa token-sign --username alice --role crypto-user --deregister"
    say(terminal, deregister)
    say(terminal, plain)
    assert PASSWORDS["alice"] not in terminal.seen


def test_two_processes_race_for_one_token(guarded: Office) -> None:
    for number in range(3):
        token = guarded.approved("race.token")
        names = [f"race{number}a", f"race{number}b"]
        started = [
            guarded.start("admin", f"user create --username {name} {USER} --approval {token}")
            for name in names
        ]
        answers = [json.loads(process.communicate(timeout=90)[0]) for process in started]
        assert sorted(answer["error_code"] for answer in answers) == [0, 1]
        [lost] = [answer["data"] for answer in answers if answer["error_code"]]
        assert lost == REQUIRED
        assert len(guarded.users() & set(names)) == 1
        assert guarded.tokens() == 0


STEPS = ["prepare-token-work", "prepare-signed"]


@pytest.fixture(scope="module")
def lone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Office]:
    """The same, with one HSM: nobody takes over when it dies."""
    with an_office(tmp_path_factory.mktemp("lone"), 1) as made:
        yield guard(made)


def kill_while(office: Office, step: str, line: str) -> tuple[int, object]:
    """Run a command, and let the agent that reaches a step die by SIGKILL there."""
    office.fault.write_text(step)
    answer = office.run("admin", line)
    assert not office.fault.exists(), "nobody reached the step"
    for agent in lab.status(office.services.root).agents:
        lab.start(office.services.root, agent.hsm_id)
    return answer


@pytest.mark.parametrize("step", STEPS)
def test_an_hsm_killed_between_approval_and_commit_spends_nothing(lone: Office, step: str) -> None:
    token, name = lone.approved(f"{step}.token"), step.replace("-", "_")
    create = f"user create --username {name} {USER} --approval {token}"
    status, data = kill_while(lone, step, create)
    assert status == 1, data
    assert name not in lone.users()
    assert lone.tokens() == 1
    assert lone.run("admin", create)[0] == 0
    assert name in lone.users()
    assert lone.tokens() == 0
    assert lone.run("admin", create.replace(name, "another")) == (1, REQUIRED)


@pytest.mark.parametrize("step", STEPS)
def test_another_hsm_takes_over_and_the_token_is_spent_once(guarded: Office, step: str) -> None:
    token, name = guarded.approved(f"{step}.token"), step.replace("-", "_")
    create = f"user create --username {name} {USER} --approval {token}"
    status, data = kill_while(guarded, step, create)
    assert status == 1
    found = re.search(r"request (\w+) is committed, 1 of at least 2 HSMs hold it", str(data))
    assert found, data
    status, data = guarded.run("admin", f"{create} --request {found[1]}")
    assert (status, data) == (0, {"username": name, "role": "crypto-user"})
    assert guarded.tokens() == 0
    assert guarded.run("admin", create.replace(name, "another")) == (1, REQUIRED)


def _edited(path: str, tmp: Path, edit: Callable[[dict[str, object]], None]) -> str:
    document = json.loads(Path(path).read_text())
    edit(document)
    made = tmp / "edited.token"
    made.write_text(json.dumps(document))
    return str(made)


def test_what_a_token_does_not_do(guarded: Office) -> None:
    """Another's, edited, for another service or out of date: refused in words; then it works."""
    tmp, token = guarded.tmp, guarded.approved("good.token")
    create = f"user create --username wanted {USER} --approval "

    def forged(document: dict[str, object]) -> None:
        data = base64.b64decode(str(document["approval_data"]))
        document["approval_data"] = base64.b64encode(data.replace(b"admin", b"carol")).decode()

    def swapped(document: dict[str, object]) -> None:
        signatures = document["signatures"]
        assert isinstance(signatures, list)
        names = [s["username"] for s in signatures]
        for signature, name in zip(signatures, reversed(names), strict=True):
            signature["username"] = name

    def twice(document: dict[str, object]) -> None:
        signatures = document["signatures"]
        assert isinstance(signatures, list)
        document["signatures"] = [signatures[0], signatures[0]]

    cases = {
        create + _edited(token, tmp, forged): "edited",
        f"quorum token-sign set-quorum-value --service user --value 1 --approval {token}":
            f"{REQUIRED}: the token is for service user",
    }  # fmt: skip
    for line, wanted in cases.items():
        status, data = guarded.run("admin", line)
        assert status == 1
        assert wanted in str(data)
    assert guarded.run("admin", create + _edited(token, tmp, swapped))[0] == 1
    status, data = guarded.run("admin", create + _edited(token, tmp, twice))
    assert (status, data) == (1, f"{REQUIRED}: 1 of 2 approvals")
    status, data = guarded.run("carol", create + token)
    assert (status, data) == (1, f"{REQUIRED}: the token is admin's")
    assert "wanted" not in guarded.users()
    assert guarded.run("admin", create + token)[0] == 0
    assert guarded.run("admin", create.replace("wanted", "more") + token)[1] == REQUIRED


def test_log_out_ends_what_was_asked_for(guarded: Office) -> None:
    tmp, admin = guarded.tmp, guarded.sit("admin")
    token = tmp / "left.token"
    say(admin, f"quorum token-sign generate --service user --token {token}")
    for name in ("admin", "carol"):
        approvers.approve(token, tmp, name)
    say(admin, "logout", "Logout successful")
    line = f"user create --username late {USER} --approval {token}"
    assert guarded.run("admin", line) == (1, REQUIRED)
