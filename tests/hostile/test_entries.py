"""Entries that anybody may offer: an HSM takes the true next one and nothing that resembles it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.agent.core import Core
from orchestrator.model import entries as e
from orchestrator.model.errors import MalformedError, OrchestratorError
from orchestrator.model.key_spec import KeyClass, KeySpec, KeyType
from orchestrator.model.roles import Role
from orchestrator.wire import messages as m
from tests.hostile.wire import examples
from tests.stateful.harness import LocalCluster

AES = KeySpec(KeyType.AES, 256)
Entries = tuple[e.Entry, ...]


class Behind:
    """An HSM that lacks the last changes, and the entries that it lacks."""

    def __init__(self, cluster: LocalCluster) -> None:
        machine = cluster.machines[2]
        machine.stop()
        admin = cluster.login(Role.ADMIN, "admin")
        change = cluster.controller.change
        change(lambda _: m.AdmitHost("host-9", bytes(32)), ticket=admin)  # in clear
        draft = m.KeyDraft(KeyClass.SECRET, "late")
        cluster.change("late", m.GenerateKeys(AES, (draft,)))  # sealed
        change(lambda _: m.ExpelHost("host-9"), ticket=admin)
        machine.start()
        assert machine.hsm is not None
        self.core: Core = machine.hsm.core
        self.lacking: Entries = tuple(cluster.ledger.after(self.core.state.seq, 10))
        self.held: Entries = tuple(cluster.ledger.after(0, self.core.state.seq))

    def refuses(self, offered: Entries) -> str:
        """Offer entries; they must be refused, and nothing may have changed."""
        before, lines = self.core.state.digest(), self.core.vault.audit_lines(0, 10_000)
        with pytest.raises(OrchestratorError) as caught:
            self.core.apply(offered)
        self.unchanged(before)
        assert self.core.vault.audit_lines(0, 10_000) == lines
        return caught.value.code

    def passes_over(self, offered: Entries) -> None:
        """Offer entries that are held already, or that come too early."""
        before = self.core.state.digest()
        self.core.apply(offered)
        self.unchanged(before)

    def cannot_judge(self, entry: e.Entry) -> bool:
        """Tell whether an entry claims a place before this HSM's snapshot, or after a gap."""
        try:
            place = entry.parse_header().seq
        except MalformedError:
            return False
        return place > self.core.state.seq + 1 or (
            place < self.core.state.seq and self.core.vault.entry_hash(place) is None
        )

    def unchanged(self, before: bytes) -> None:
        assert self.core.state.digest() == before
        assert self.core.vault.load().digest() == before


@pytest.fixture(scope="module")
def behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Behind]:
    cluster = LocalCluster(tmp_path_factory.mktemp("behind"))
    made = Behind(cluster)
    yield made
    made.core.apply(made.lacking)  # after everything: the true ones are taken
    assert made.core.state.seq == made.lacking[-1].parse_header().seq
    assert made.core.state.head == made.lacking[-1].hash
    cluster.close()


def changed(entry: e.Entry, **fields: object) -> e.Entry:
    return msgspec.structs.replace(entry, **fields)


def with_header(entry: e.Entry, **fields: object) -> e.Entry:
    header = msgspec.structs.replace(entry.parse_header(), **fields)
    return changed(entry, header=e.encode(header))


@settings(max_examples=examples(150), deadline=None)
@given(data=st.data())
def test_no_mutated_entry_is_taken(behind: Behind, data: st.DataObject) -> None:
    part = data.draw(st.sampled_from(["header", "signature", "body"]))
    true = behind.lacking[0]
    content = bytearray(getattr(true, part))
    match data.draw(st.sampled_from(["flip", "cut", "extend", "swap", "double"])):
        case "flip":
            place = data.draw(st.integers(0, len(content) - 1))
            content[place] ^= 1 << data.draw(st.integers(0, 7))
        case "cut":
            del content[data.draw(st.integers(0, len(content) - 1)) :]
        case "extend":
            content += data.draw(st.binary(min_size=1, max_size=9))
        case "swap":
            middle = data.draw(st.integers(1, len(content) - 1))
            content = content[middle:] + content[:middle]
        case _:
            content *= 2
    if bytes(content) == getattr(true, part):
        return
    mutated = changed(true, **{part: bytes(content)})
    if behind.cannot_judge(mutated):
        behind.passes_over((mutated,))
    else:
        behind.refuses((mutated,))


@pytest.mark.parametrize(
    "forge",
    [
        lambda x: with_header(x, version=2),
        lambda x: with_header(x, cluster="cluster-otherother2"),
        lambda x: with_header(x, prev=bytes(32)),
        lambda x: with_header(x, at=0),
        lambda x: with_header(x, at=1 << 62),
        lambda x: with_header(x, kind="host-expelled"),
        lambda x: with_header(x, kind="key-deleted"),
        lambda x: with_header(x, kind="nothing-known"),
        lambda x: with_header(x, request="other"),
        lambda x: with_header(x, author="hsm-bbbbbbbbbbb"),
        lambda x: with_header(x, author="hsm-nobodynobod"),
        lambda x: with_header(x, body_hash=bytes(32)),
        lambda x: changed(x, body=b""),
        lambda x: changed(x, signature=bytes(64)),
        lambda x: changed(x, signature=b"\xff" * 64),
        lambda x: changed(x, signature=x.signature[:63]),
        lambda x: changed(x, body=bytes(e.ENTRY_BYTES_MAX)),
        lambda x: changed(x, header=bytes(e.ENTRY_BYTES_MAX)),
    ],
    ids=range(18),
)
def test_no_forged_header_is_taken(behind: Behind, forge: Callable[[e.Entry], e.Entry]) -> None:
    assert behind.refuses((forge(behind.lacking[0]),)) in {
        "tampered", "forked", "malformed", "not-found"
    }  # fmt: skip


def test_parts_of_true_entries_make_no_true_entry(behind: Behind) -> None:
    first, second, _ = behind.lacking
    for part in ("header", "signature", "body"):
        forged = changed(first, **{part: getattr(second, part)})
        if part == "header":  # it says that it comes after one that is missing
            behind.passes_over((forged,))
        else:
            behind.refuses((forged,))


def test_entries_come_in_order(behind: Behind) -> None:
    _, second, third = behind.lacking
    behind.passes_over((third, second))
    behind.passes_over((second,))
    behind.passes_over(())
    behind.passes_over(behind.held)
    behind.passes_over(tuple(reversed(behind.held)))
    behind.passes_over(behind.held * 3)


def test_another_past_is_a_fork(behind: Behind) -> None:
    held = behind.held[-1]
    for forged in (
        changed(held, signature=bytes(64)),
        with_header(held, request="another"),
        changed(behind.held[-2], header=held.header),
    ):
        assert behind.refuses((forged,)) == "forked"


def test_a_body_of_another_change_under_a_new_header(behind: Behind) -> None:
    """Its hash is right, its signature is of another header."""
    first = behind.lacking[0]
    body = e.encode(e.HostExpelled(e.Actor("admin", Role.ADMIN), "host-1"))
    digest = hashlib.sha256(body).digest()
    forged = with_header(changed(first, body=body), kind="host-expelled", body_hash=digest)
    assert behind.refuses((forged,)) == "tampered"
