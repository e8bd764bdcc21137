"""What a listener says of those whom it turns away."""

from __future__ import annotations

import pytest

from orchestrator.gateway.peers import Peer
from orchestrator.gateway.refusals import SILENCE_S, Refusals
from tests.stateful.harness import FakeClock


def peer(uid: int) -> Peer:
    return Peer(7, uid, frozenset({uid}))


def test_each_user_is_said_once_in_a_while_and_everyone_counts(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = FakeClock()
    refusals = Refusals(clock)
    for _ in range(1000):
        refusals.note(peer(1001), "too many")
    refusals.note(peer(1002), "not named")  # is not hidden behind who is noisy
    assert caplog.messages == [
        "refused uid 1001 (process 7): too many",
        "refused uid 1002 (process 7): not named",
    ]
    clock.sleep(SILENCE_S)
    refusals.note(peer(1001), "too many")
    assert caplog.messages[2:] == [
        "refused uid 1001 (process 7): too many; 999 more since this was last said"
    ]
    clock.sleep(SILENCE_S)
    refusals.note(peer(1001), "too many")
    assert caplog.messages[3:] == ["refused uid 1001 (process 7): too many"]
    assert refusals.count == 1003


def test_who_is_quiet_again_takes_no_memory() -> None:
    clock = FakeClock()
    refusals = Refusals(clock)
    for uid in range(100):
        refusals.note(peer(uid), "not named")
    clock.sleep(SILENCE_S)
    refusals.note(peer(0), "not named")
    assert len(refusals._quiet) == 1
