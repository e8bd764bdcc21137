"""A password that was right a moment ago is not stretched again; every other one is, and counts."""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orchestrator.agent.passwords import PasswordCheck
from orchestrator.agent.proofs import LIFE_S, PROOFS_MAX, Proofs
from orchestrator.client.trust import seal_password
from orchestrator.model.errors import LoginFailedError, OrchestratorError
from orchestrator.model.roles import Role
from orchestrator.model.state import User
from orchestrator.wire import messages as m
from tests.stateful.harness import PASSWORD, FakeClock, LocalCluster

CU, UID = Role.CRYPTO_USER, 1000
OTHER = b"another-one-1"


class Counted:
    """The first HSM's password check, and how often it stretched a password."""

    def __init__(self, cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch) -> None:
        self.cluster, self.stretched = cluster, 0
        hsm = cluster.machines[0].hsm
        assert hsm is not None
        self.hsm = hsm
        real = PasswordCheck._matches

        def matches(check: PasswordCheck, phc: str, password: bytes) -> bool:
            self.stretched += 1
            return real(check, phc, password)

        monkeypatch.setattr(PasswordCheck, "_matches", matches)
        self.admin = cluster.login(Role.ADMIN, "admin")
        self.stretched = 0

    def check(
        self, password: bytes = PASSWORD, uid: int = UID, role: Role = CU, name: str = "cu"
    ) -> str:
        """Show a password; return the outcome."""
        try:
            self.hsm.passwords.check(self.hsm.core.state, role, name, password, uid)
        except OrchestratorError as exc:
            return exc.code
        return "done"

    def change(self, build: Callable[[str], m.ChangeRequest]) -> None:
        self.cluster.controller.change(build, ticket=self.admin)

    def seal(self, purpose: str, password: bytes) -> Callable[[str], bytes]:
        def sealed(hsm: str) -> bytes:
            link = self.cluster.controller.roster.link(hsm, self.cluster.anchor)
            return seal_password(purpose, link.welcome, link.member, CU, "cu", password)

        return sealed


@pytest.fixture
def counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Counted]:
    cluster = LocalCluster(tmp_path)
    yield Counted(cluster, monkeypatch)
    cluster.close()


def test_a_password_shown_again_is_stretched_once(counted: Counted) -> None:
    assert [counted.check() for _ in range(3)] == ["done"] * 3
    assert counted.stretched == 1


def test_a_real_login_is_remembered_and_gets_a_login_of_its_own(counted: Counted) -> None:
    tickets = {counted.cluster.login(CU, "cu") for _ in range(3)}
    assert len(tickets) == 3
    # The harness has logged `cu` in before: the proof of that is still good.
    assert counted.stretched == 0


@pytest.mark.parametrize("shown", [b"wrong-one-1", b"", PASSWORD[:-1], PASSWORD + b"\0"])
def test_a_wrong_password_takes_the_whole_way_and_ends_the_proof(
    counted: Counted, shown: bytes
) -> None:
    assert counted.check() == "done"
    assert counted.check(shown) == "login-failed"
    assert counted.stretched == 2
    assert counted.check() == "done"  # and sets the count back, as a right one does
    assert counted.stretched == 3
    assert counted.check() == "done"
    assert counted.stretched == 3


def test_a_proof_opens_no_lock(counted: Counted) -> None:
    assert counted.check() == "done"
    assert [counted.check(b"wrong-one-1") for _ in range(6)] == ["login-failed"] * 6
    stretched = counted.stretched
    assert counted.check() == "user-locked"
    assert counted.stretched == stretched


def test_wrong_ones_at_another_hsm_have_the_password_stretched(counted: Counted) -> None:
    assert counted.check() == "done"
    other = counted.cluster.machines[1].hsm
    assert other is not None
    with pytest.raises(LoginFailedError):
        other.passwords.check(other.core.state, CU, "cu", b"wrong-one-1", UID)
    counted.cluster.controller.gossip()
    before = counted.stretched
    assert counted.check() == "done"
    assert counted.stretched == before + 1


def test_another_unix_user_proves_it_himself(counted: Counted) -> None:
    assert counted.check() == "done"
    assert counted.check(uid=UID + 1) == "done"
    assert counted.stretched == 2


def test_a_proof_ends_after_a_while_however_often_it_is_used(counted: Counted) -> None:
    assert counted.check() == "done"
    counted.cluster.clock.ms += int((LIFE_S - 60) * 1000)
    assert counted.check() == "done"
    assert counted.stretched == 1
    counted.cluster.clock.jumped_ms = -86_400_000  # the calendar has no say
    counted.cluster.clock.ms += 60_000
    assert counted.check() == "done"
    assert counted.stretched == 2


def test_admins_are_not_remembered(counted: Counted) -> None:
    for _ in range(2):
        assert counted.check(role=Role.ADMIN, name="admin") == "done"
    assert counted.stretched == 2


def test_a_new_password_ends_the_old_ones_proof(counted: Counted) -> None:
    assert counted.check() == "done"
    sealed = counted.seal("new-password", OTHER)
    counted.change(lambda hsm: m.ChangePassword("cu", CU, sealed(hsm)))
    assert not _kept(counted)
    assert counted.check() == "login-failed"
    assert counted.check(OTHER) == "done"
    before = counted.stretched
    assert counted.check(OTHER) == "done"
    assert counted.check() == "login-failed"
    assert counted.stretched == before + 1


def test_the_same_password_set_again_must_be_proved_again(counted: Counted) -> None:
    assert counted.check() == "done"
    sealed = counted.seal("new-password", PASSWORD)
    counted.change(lambda hsm: m.ChangePassword("cu", CU, sealed(hsm)))
    before = counted.stretched
    assert counted.check() == "done"
    assert counted.stretched == before + 1


def test_a_disabled_user_has_no_proof_and_none_when_enabled_again(counted: Counted) -> None:
    assert counted.check() == "done"
    counted.change(lambda _: m.DisableUser("cu", CU))
    assert not _kept(counted)
    assert counted.check() == "user-disabled"
    counted.change(lambda _: m.EnableUser("cu", CU))
    before = counted.stretched
    assert counted.check() == "done"
    assert counted.stretched == before + 1


def test_a_lock_and_its_end_leave_no_proof(counted: Counted) -> None:
    assert counted.check() == "done"
    for _ in range(6):
        counted.check(b"wrong-one-1")
    with contextlib.suppress(OrchestratorError):
        counted.cluster.controller.heal()
    assert not _kept(counted)
    counted.change(lambda _: m.UnlockUser("cu", CU))
    before = counted.stretched
    assert counted.check() == "done"
    assert counted.stretched == before + 1


def test_a_deleted_user_of_the_same_name_is_another(counted: Counted) -> None:
    assert counted.check() == "done"
    counted.change(lambda _: m.DeleteUser("cu", CU))
    assert not _kept(counted)
    assert counted.check() == "login-failed"
    sealed = counted.seal("new-password", PASSWORD)
    counted.change(lambda hsm: m.CreateUser("cu", CU, sealed(hsm)))
    before = counted.stretched
    assert counted.check() == "done"
    assert counted.stretched == before + 1


def test_a_proof_dies_with_the_process(counted: Counted) -> None:
    assert counted.check() == "done"
    machine = counted.cluster.machines[0]
    machine.stop()
    machine.start()
    assert machine.hsm is not None
    counted.hsm = machine.hsm
    before = counted.stretched
    assert counted.check() == "done"
    assert counted.stretched == before + 1


@pytest.mark.parametrize(
    "user",
    [
        User("cu", CU, "hash-2", 1),
        User("cu", CU, "hash-1", 2),
        User("cu", CU, "hash-1", 1, unlocks=1),
        User("other", CU, "hash-1", 1),
        User("cu", Role.ADMIN, "hash-1", 1),
    ],
)
def test_a_proof_is_of_one_user_as_he_is_now(user: User) -> None:
    proofs = Proofs(os.urandom(32), FakeClock())
    known = User("cu", CU, "hash-1", 1)
    proofs.keep(known, UID, PASSWORD)
    assert proofs.holds(known, UID, PASSWORD)
    assert not proofs.holds(user, UID, PASSWORD)


def test_what_is_kept_is_bounded_and_holds_no_password() -> None:
    proofs = Proofs(os.urandom(32), FakeClock())
    for uid in range(PROOFS_MAX + 1):
        proofs.keep(User("cu", CU, "hash", 1), uid, b"planted-password")
    assert len(proofs._kept) == PROOFS_MAX
    assert not proofs.holds(User("cu", CU, "hash", 1), 0, b"planted-password")
    for proof in proofs._kept.values():
        assert b"planted" not in b"".join(x for x in gc.get_referents(proof) if type(x) is bytes)
        assert "mac" not in repr(proof)


def _kept(counted: Counted) -> list[tuple[str, int]]:
    return [place for place in counted.hsm.passwords.proofs._kept if place[0] == "cu"]
