"""Order under a storm: no key is made twice, no clock spoils the ledger, no place fills twice."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orchestrator.control.controller import Controller
from orchestrator.control.roster import Roster
from orchestrator.model import entries as e
from orchestrator.model.errors import OrchestratorError, RemoteError, UnavailableError
from orchestrator.model.key_filter import KeyFilter
from orchestrator.model.key_spec import KeyClass, KeySpec, KeyType
from orchestrator.model.keys import Key
from orchestrator.model.roles import Role
from orchestrator.model.state import Table
from orchestrator.tokens.store import GeneratedKey
from orchestrator.wire import messages as m
from tests.stateful.harness import CLUSTER, FakeClock, FakeStream, LocalCluster

AES = KeySpec(KeyType.AES, 256)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[LocalCluster]:
    made = LocalCluster(tmp_path)
    yield made
    made.close()


def another_controller(cluster: LocalCluster) -> Controller:
    roster = Roster(CLUSTER, lambda: {x.id: (lambda x=x: FakeStream(x)) for x in cluster.members})  # type: ignore[misc]
    return Controller(CLUSTER, cluster.ledger, roster, cluster.clock)


def keys_of(cluster: LocalCluster) -> list[list[str]]:
    found = []
    for machine in cluster.machines:
        assert machine.hsm is not None
        rows = machine.hsm.core.state.tables[Table.KEYS].values()
        found.append(sorted(row.label for row in rows if isinstance(row, Key)))
    return found


def test_a_slow_key_is_made_once_under_a_storm_of_changes(
    cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[KeySpec] = []
    for machine in cluster.machines:
        assert machine.hsm is not None
        store = machine.hsm.core.store
        generate = store.generate

        def slow(
            spec: KeySpec, generate: Callable[[KeySpec], GeneratedKey] = generate
        ) -> GeneratedKey:
            if spec.type is KeyType.GENERIC_SECRET:
                made.append(spec)
                time.sleep(3)
            return generate(spec)

        monkeypatch.setattr(store, "generate", slow)
    slow_one, over = another_controller(cluster), threading.Event()
    outcomes: list[object] = []

    def create() -> None:
        draft = (m.KeyDraft(KeyClass.SECRET, "slow"),)
        change = m.GenerateKeys(KeySpec(KeyType.GENERIC_SECRET, 256), draft)
        try:
            outcomes.append(slow_one.change(lambda _: change, ticket=cluster.ticket))
        except OrchestratorError as exc:
            outcomes.append(exc)
        over.set()

    thread = threading.Thread(target=create)
    thread.start()
    storm = 0
    while not over.is_set():
        draft = (m.KeyDraft(KeyClass.SECRET, f"storm-{storm}"),)
        cluster.change(f"storm-{storm}", m.GenerateKeys(AES, draft))
        storm += 1
    thread.join()
    assert not isinstance(outcomes[0], Exception), outcomes
    assert storm > 20
    assert len(made) == 1, "the key was made again for a lost race"
    cluster.controller.heal()
    assert all(keys.count("slow") == 1 for keys in keys_of(cluster))


def test_sixteen_creators_all_finish(cluster: LocalCluster) -> None:
    failures: list[OrchestratorError] = []

    def create(number: int) -> None:
        controller = another_controller(cluster)
        for turn in range(4):
            draft = (m.KeyDraft(KeyClass.SECRET, f"{number}-{turn}"),)
            try:
                controller.change(lambda _: m.GenerateKeys(AES, draft), ticket=cluster.ticket)  # noqa: B023
            except OrchestratorError as exc:
                failures.append(exc)
        controller.roster.close()

    threads = [threading.Thread(target=create, args=(n,)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    cluster.controller.heal()
    expected = sorted(f"{n}-{t}" for n in range(16) for t in range(4))
    assert keys_of(cluster) == [expected] * 3


class OwnClock(FakeClock):
    """One machine's clock, off by so much from everybody's."""

    def __init__(self, base: FakeClock, off_ms: int) -> None:
        self.base, self.off_ms = base, off_ms

    def now_ms(self) -> int:
        return self.base.now_ms() + self.off_ms

    def monotonic_s(self) -> float:
        return self.base.monotonic_s()


@pytest.mark.parametrize("off_s", [3600, -3600, 61 * 2, -61 * 2])
def test_a_clock_that_is_off_prepares_nothing(cluster: LocalCluster, off_s: int) -> None:
    victim = cluster.machines[0]
    assert victim.hsm is not None
    victim.hsm.core.clock = OwnClock(cluster.clock, off_s * 1000)
    for number in range(3):
        draft = (m.KeyDraft(KeyClass.SECRET, f"key-{number}"),)
        cluster.change(f"request-{number}", m.GenerateKeys(AES, draft))
    headers = [entry.parse_header() for entry in cluster.ledger.after(0, 1000)[-3:]]
    assert all(header.author != victim.id for header in headers)
    assert all(abs(header.at - cluster.clock.ms) < 60_000 for header in headers)
    heard = cluster.controller.roster.hear()
    assert abs(cluster.controller.clock_error_s(heard, victim.id) - off_s) <= 1
    with pytest.raises(UnavailableError, match=f"clock of {victim.id} is off"):
        cluster.controller.change(lambda _: m.RemoveHsm(cluster.machines[2].id), author=victim.id)
    cluster.controller.heal()  # it still applies what others write
    assert len({tuple(keys) for keys in keys_of(cluster)}) == 1


def test_a_small_jump_is_no_trouble(cluster: LocalCluster) -> None:
    for off_ms in (30_000, -30_000):
        assert cluster.machines[1].hsm is not None
        cluster.machines[1].hsm.core.clock = OwnClock(cluster.clock, off_ms)
        outcome = cluster.controller.change(
            lambda _: m.GenerateKeys(AES, (m.KeyDraft(KeyClass.SECRET, "k"),)),
            ticket=cluster.ticket, author=cluster.machines[1].id,
        )  # fmt: skip
        assert outcome.report.held == 3
    times = [entry.parse_header().at for entry in cluster.ledger.after(0, 1000)]
    assert times == sorted(times)


def offer(cluster: LocalCluster, hsm: str, entry: e.Entry) -> str:
    try:
        cluster.controller.roster.call(hsm, m.Apply((entry,)))
    except RemoteError as exc:
        return exc.code
    return "applied"


def prepare(cluster: LocalCluster, hsm: str, label: str) -> e.Entry:
    change = m.GenerateKeys(AES, (m.KeyDraft(KeyClass.SECRET, label),))
    reply = cluster.controller.roster.call(hsm, m.Prepare(cluster.ticket, f"r-{label}", change, 0))
    assert isinstance(reply, m.Prepared)
    return reply.entry


def test_no_place_is_filled_twice(cluster: LocalCluster) -> None:
    first, second, third = (machine.id for machine in cluster.machines)
    one, other = prepare(cluster, first, "one"), prepare(cluster, second, "other")
    cluster.ledger.commit(one)
    assert offer(cluster, third, one) == "applied"
    assert offer(cluster, third, one) == "applied"  # the very same again
    assert offer(cluster, third, other) == "forked"
    with pytest.raises(OrchestratorError):
        cluster.ledger.commit(other)
    # another predecessor: an entry that follows `other`, offered to those who hold `one`
    assert offer(cluster, second, other) == "applied"  # a member that somebody misled
    child = prepare(cluster, second, "child")
    assert offer(cluster, third, child) == "forked"
    # it is reported, changes freeze, use does not
    with pytest.raises(OrchestratorError, match=f"FORKED: {second}"):
        cluster.change("r-more", m.GenerateKeys(AES, (m.KeyDraft(KeyClass.SECRET, "more"),)))
    assert isinstance(cluster.controller.roster.call(second, m.Random(cluster.ticket, 8)), m.Data)
    with pytest.raises(OrchestratorError, match="different entries"):
        cluster.controller.adopt(None)
    cluster.controller.adopt(first if offer(cluster, first, one) == "applied" else None)
    assert cluster.ledger.head().hash == one.hash
    # the one that was misled is removed, though it answers, and is on no chain of ours
    change = m.RemoveHsm(second)
    outcome = cluster.controller.change(lambda _: change, author=first, leaving=second)
    assert (outcome.report.held, outcome.report.members) == (2, 2)
    cluster.members = [cluster.machines[0], cluster.machines[2]]
    cluster.change("r-more", m.GenerateKeys(AES, (m.KeyDraft(KeyClass.SECRET, "more"),)))


def test_a_user_of_the_wrong_hsm_learns_that_it_is_behind(cluster: LocalCluster) -> None:
    late = cluster.machines[2]
    late.stop()
    cluster.change("r1", m.GenerateKeys(AES, (m.KeyDraft(KeyClass.SECRET, "k"),)))
    late.start()
    seen = cluster.ledger.head().seq
    asked = m.ListKeys(cluster.ticket, seen, KeyFilter())
    with pytest.raises(RemoteError) as caught:
        cluster.controller.roster.call(late.id, asked)
    assert caught.value.code == "behind"


def test_all_clocks_jump_together(cluster: LocalCluster) -> None:
    two_days_ms = 2 * 86_400_000

    def make(label: str) -> None:
        ticket = cluster.login(Role.CRYPTO_USER, "cu")
        change = m.GenerateKeys(AES, (m.KeyDraft(KeyClass.SECRET, label),))
        outcome = cluster.controller.change(lambda _: change, ticket=ticket)
        assert outcome.report.held == 3

    cluster.clock.jumped_ms = two_days_ms
    make("in-two-days")
    # Back again: the ledger's times may not decrease, so changes wait, and nothing else does.
    cluster.clock.jumped_ms = 0
    head = cluster.ledger.head()
    with pytest.raises(RemoteError, match="behind the ledger; set it") as caught:
        make("too-early")
    assert caught.value.code == "clock-skew"
    assert cluster.ledger.head() == head
    ticket = cluster.login(Role.CRYPTO_USER, "cu")
    assert isinstance(
        cluster.controller.roster.call(cluster.machines[1].id, m.Random(ticket, 8)), m.Data
    )
    for machine in cluster.machines:  # a start under a wrong clock harms nothing that is kept
        machine.stop()
        machine.start()
    cluster.clock.jumped_ms = two_days_ms
    make("in-time")
    times = [entry.parse_header().at for entry in cluster.ledger.after(0, 1000)]
    assert times == sorted(times)
    assert keys_of(cluster) == [["in-time", "in-two-days"]] * 3
