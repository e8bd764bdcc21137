"""Wrong passwords count as one row over all HSMs in reach, and nobody can forge the count."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.client.trust import seal_password
from orchestrator.model.entries import decode, encode
from orchestrator.model.errors import OrchestratorError, RemoteError
from orchestrator.model.roles import Role
from orchestrator.wire import messages as m
from tests.stateful.harness import PASSWORD, LocalCluster, Machine

CU = Role.CRYPTO_USER


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[LocalCluster]:
    made = LocalCluster(tmp_path)
    yield made
    made.close()


def attempt(
    cluster: LocalCluster, machine: Machine, password: bytes, role: Role = CU, name: str = "cu"
) -> str:
    """Try to log in; return the outcome."""
    link = cluster.controller.roster.link(machine.id, cluster.anchor)
    sealed = seal_password("login", link.welcome, link.member, role, name, password)
    try:
        cluster.controller.roster.call(machine.id, m.Login(name, role, sealed))
    except RemoteError as exc:
        return exc.code
    return "done"


def counted(machine: Machine) -> bool:
    assert machine.hsm is not None
    state = machine.hsm.core.state
    return machine.hsm.passwords.wants_lock(state, state.user(CU, "cu"))


def test_tries_at_different_hsms_are_one_count(cluster: LocalCluster) -> None:
    for number in range(6):
        machine = cluster.machines[number % 3]
        assert attempt(cluster, machine, b"wrong-one-1") == "login-failed"
        cluster.controller.gossip()
    assert all(counted(machine) for machine in cluster.machines)
    assert [attempt(cluster, x, PASSWORD) for x in cluster.machines] == ["user-locked"] * 3
    cluster.controller.heal()
    for machine in cluster.machines:
        assert machine.hsm is not None
        assert machine.hsm.core.state.user(CU, "cu").locked


def locks(cluster: LocalCluster) -> list[bool]:
    """Tell at every HSM whether `cu` is locked; their states are one and the same."""
    states = [machine.hsm.core.state for machine in cluster.machines if machine.hsm is not None]
    assert len({state.digest() for state in states}) == 1
    return [state.user(CU, "cu").locked for state in states]


def test_an_hsm_that_was_down_locks_and_unlocks_as_the_others(cluster: LocalCluster) -> None:
    first, second, third = cluster.machines
    third.stop()
    for _ in range(6):
        attempt(cluster, first, b"wrong-one-1")
    cluster.controller.gossip()
    cluster.controller.heal()
    assert locks(cluster) == [True, True]
    third.start()
    cluster.controller.heal()
    assert locks(cluster) == [True, True, True]
    assert [attempt(cluster, x, PASSWORD) for x in cluster.machines] == ["user-locked"] * 3
    admin = cluster.login(Role.ADMIN, "admin")
    second.stop()
    cluster.controller.change(lambda _: m.UnlockUser("cu", CU), ticket=admin)
    second.start()
    cluster.controller.heal()
    assert locks(cluster) == [False, False, False]
    assert [attempt(cluster, x, PASSWORD) for x in cluster.machines] == ["done"] * 3


def test_hsms_that_are_cut_off_give_five_tries_each(cluster: LocalCluster) -> None:
    for machine in cluster.machines:
        outcomes = [attempt(cluster, machine, b"wrong-one-1") for _ in range(7)]
        assert outcomes == ["login-failed"] * 6 + ["user-locked"]


def test_a_count_outlives_the_hsm_that_made_it(cluster: LocalCluster) -> None:
    first, second, _ = cluster.machines
    for _ in range(5):
        attempt(cluster, first, b"wrong-one-1")
    cluster.controller.gossip()
    first.stop()
    second.stop()
    second.start()
    assert attempt(cluster, second, b"wrong-one-1") == "login-failed"
    assert attempt(cluster, second, PASSWORD) == "user-locked"


def test_a_right_password_ends_the_count_everywhere(cluster: LocalCluster) -> None:
    first, second, third = cluster.machines
    for _ in range(4):
        attempt(cluster, first, b"wrong-one-1")
    cluster.controller.gossip()
    assert attempt(cluster, second, PASSWORD) == "done"
    cluster.controller.gossip()
    for machine in (first, third):
        for _ in range(5):
            assert attempt(cluster, machine, b"wrong-one-1") == "login-failed"
        assert attempt(cluster, machine, PASSWORD) == "done"
        cluster.controller.gossip()


def test_an_answer_waits_until_the_others_have_heard(cluster: LocalCluster) -> None:
    before = cluster.clock.monotonic_s()
    attempt(cluster, cluster.machines[0], b"wrong-one-1")  # nobody tells: it waits its full time
    assert cluster.clock.monotonic_s() - before >= 1.5
    assert cluster.machines[0].hsm is not None
    assert len(cluster.machines[0].hsm.passwords.untold()) == 1
    cluster.controller.gossip()
    assert cluster.machines[0].hsm.passwords.untold() == ()


def test_counts_and_resets_are_their_hsms_word_alone(cluster: LocalCluster) -> None:
    first, second, _ = cluster.machines
    attempt(cluster, first, b"wrong-one-1")
    assert first.hsm is not None
    [genuine] = first.hsm.passwords.untold()
    told = decode(m.Tries, genuine.tries, "tries")
    for resets, count in ((0, 99), (7, 0)):
        forged = encode(m.Tries(told.hsm, told.role, told.name, told.version, resets, count, 0))
        with pytest.raises(RemoteError) as caught:
            cluster.controller.roster.call(
                second.id, m.TellTries((m.SignedTries(forged, genuine.signature),))
            )
        assert caught.value.code == "tampered"
    assert not counted(second)
    # An older report in place of a newer one changes nothing.
    for _ in range(5):
        attempt(cluster, first, b"wrong-one-1")
    cluster.controller.gossip()
    cluster.controller.roster.call(second.id, m.TellTries((genuine,)))
    assert counted(second)


def test_no_ticket_outlives_its_user_under_the_same_name(cluster: LocalCluster) -> None:
    admin = cluster.login(Role.ADMIN, "admin")

    def create(hsm: str) -> m.ChangeRequest:
        return m.CreateUser("eve", CU, cluster.seal(hsm, "new-password", CU, "eve"))

    cluster.controller.change(create, ticket=admin)
    old = cluster.login(CU, "eve")
    cluster.controller.change(lambda _: m.DeleteUser("eve", CU), ticket=admin)
    cluster.controller.change(create, ticket=admin)
    with pytest.raises(OrchestratorError) as caught:
        cluster.controller.roster.call(cluster.machines[0].id, m.Random(old, 8))
    assert caught.value.code == "ticket-refused"
    assert cluster.login(CU, "eve")


def test_of_two_admins_one_is_locked_and_the_last_one_slowed(cluster: LocalCluster) -> None:
    admin = cluster.login(Role.ADMIN, "admin")
    cluster.controller.change(
        lambda hsm: m.CreateUser(
            "second", Role.ADMIN, cluster.seal(hsm, "new-password", Role.ADMIN, "second")
        ),
        ticket=admin,
    )
    names = ("admin", "second")
    for _ in range(6):
        for number, name in enumerate(names):
            machine = cluster.machines[number]
            attempt(cluster, machine, b"wrong-one-1", Role.ADMIN, name)
        cluster.controller.gossip()
    for _ in range(2):  # the first pass may have asked for both
        with contextlib.suppress(RemoteError):
            cluster.controller.heal()
    assert cluster.machines[2].hsm is not None
    state = cluster.machines[2].hsm.core.state
    locked = {name: state.user(Role.ADMIN, name).locked for name in names}
    assert sorted(locked.values()) == [False, True]
    [last] = [name for name in names if not locked[name]]
    assert attempt(cluster, cluster.machines[2], PASSWORD, Role.ADMIN, last) == "user-locked"
    cluster.clock.ms += 61_000
    assert attempt(cluster, cluster.machines[2], PASSWORD, Role.ADMIN, last) == "done"


@pytest.mark.parametrize("jump_s", [-2 * 86_400, 2 * 86_400])
def test_a_wait_is_as_long_whatever_the_clock_does(cluster: LocalCluster, jump_s: int) -> None:
    first, second, _ = cluster.machines
    for _ in range(6):
        attempt(cluster, first, b"wrong-one-1", Role.ADMIN, "admin")
        cluster.controller.gossip()
    cluster.clock.jumped_ms = jump_s * 1000
    for machine in (first, second):
        assert attempt(cluster, machine, PASSWORD, Role.ADMIN, "admin") == "user-locked"
    first.stop()
    first.start()  # no way round the wait
    assert attempt(cluster, first, PASSWORD, Role.ADMIN, "admin") == "user-locked"
    cluster.clock.ms += 61_000
    for machine in (first, second):
        assert attempt(cluster, machine, PASSWORD, Role.ADMIN, "admin") == "done"


def test_a_locked_user_goes_on_with_the_login_that_runs(cluster: LocalCluster) -> None:
    for _ in range(6):
        attempt(cluster, cluster.machines[0], b"wrong-one-1")
    cluster.controller.heal()
    cluster.clock.ms += 11 * 60 * 1000
    renewed = cluster.controller.roster.call(cluster.machines[1].id, m.Renew(cluster.ticket))
    assert isinstance(renewed, m.Ticket)
    asked = m.Random(renewed.ticket, 8)
    assert isinstance(cluster.controller.roster.call(cluster.machines[2].id, asked), m.Data)
    assert attempt(cluster, cluster.machines[2], PASSWORD) == "user-locked"
