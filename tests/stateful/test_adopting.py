"""Adopting what HSMs hold, some of whom lie: a forged entry is no entry, however long its chain."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from orchestrator.agent.core import Peer
from orchestrator.model import entries as e
from orchestrator.model.errors import OrchestratorError, TamperedError
from orchestrator.model.key_spec import KeyClass, KeySpec, KeyType
from orchestrator.wire import messages as m
from tests.stateful.harness import LocalCluster, Machine

AES = KeySpec(KeyType.AES, 256)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[LocalCluster]:
    made = LocalCluster(tmp_path)
    yield made
    made.close()


def prepared(cluster: LocalCluster, machine: Machine, label: str) -> e.Entry:
    change = m.GenerateKeys(AES, (m.KeyDraft(KeyClass.SECRET, label),))
    asked = m.Prepare(cluster.ticket, f"request-{label}", change, 0)
    reply = cluster.controller.roster.call(machine.id, asked)
    assert isinstance(reply, m.Prepared)
    return reply.entry


def lie(machine: Machine, more: list[e.Entry]) -> None:
    """Have an HSM tell of entries that it does not hold, behind those that it does."""
    assert machine.hsm is not None
    genuine = machine.hsm.answer
    head = machine.hsm.core.state.seq

    def answer(
        request: m.Request, peer: Peer, on_judged: Callable[[], None] = lambda: None
    ) -> m.Reply:
        if isinstance(request, m.Entries) and request.after >= head:
            return m.EntryPage(0, tuple(more[request.after - head :]))
        reply = genuine(request, peer, on_judged)
        if isinstance(reply, m.Welcome):
            return msgspec.structs.replace(reply, seq=head + len(more), head=more[-1].hash)
        return reply

    machine.hsm.answer = answer  # type: ignore[method-assign]


def forged(entry: e.Entry) -> e.Entry:
    return msgspec.structs.replace(entry, signature=bytes(64))


def rows(cluster: LocalCluster) -> list[bytes]:
    return [entry.hash for entry in cluster.ledger.after(0, 1000)]


def test_a_true_entry_that_one_alone_holds_is_adopted(cluster: LocalCluster) -> None:
    first, second, third = cluster.machines
    entry = prepared(cluster, first, "true")
    cluster.controller.roster.call(first.id, m.Apply((entry,)))
    assert cluster.controller.adopt(None) == entry.parse_header().seq
    for machine in (second, third):
        assert machine.hsm is not None
        assert machine.hsm.core.state.head == entry.hash
    cluster.change("after", m.GenerateKeys(AES, (m.KeyDraft(KeyClass.SECRET, "after"),)))


@pytest.mark.parametrize("chosen", [False, True])
def test_a_forged_entry_is_not(cluster: LocalCluster, chosen: bool) -> None:
    liar, honest = cluster.machines[1], cluster.machines[2]
    before = rows(cluster)
    lie(liar, [forged(prepared(cluster, liar, "never"))])
    with pytest.raises(TamperedError, match=f"refuses what {liar.id} holds after") as caught:
        cluster.controller.adopt(liar.id if chosen else None)
    assert "--hsm ID" in str(caught.value)
    assert rows(cluster) == before
    for machine in cluster.machines:
        assert machine.hsm is not None
        assert machine.hsm.core.state.seq == len(before)
    # The way out that it names works, and the liar can be removed.
    cluster.controller.adopt(honest.id)
    assert rows(cluster) == before
    change = m.RemoveHsm(liar.id)
    cluster.members = [cluster.machines[0], honest]
    done = cluster.controller.change(lambda _: change, author=honest.id, leaving=liar.id)
    assert (done.report.held, done.report.members) == (2, 2)


def test_a_chain_that_is_none_names_its_hsm_and_stops_nobody_else(cluster: LocalCluster) -> None:
    liar, honest = cluster.machines[1], cluster.machines[2]
    entry = prepared(cluster, liar, "never")
    header = msgspec.structs.replace(entry.parse_header(), prev=bytes(32))
    before = rows(cluster)
    for more in ([msgspec.structs.replace(entry, header=e.encode(header))], [entry, entry]):
        lie(liar, more)
        with pytest.raises(OrchestratorError, match=f"the chain of {liar.id} breaks") as caught:
            cluster.controller.adopt(None)
        assert caught.value.code == "tampered"
        assert cluster.controller.adopt(honest.id) == len(before)
        liar.stop()
        liar.start()
    assert rows(cluster) == before
