"""Which HSM a request goes to, decided on nodes whose state the test sets."""

from __future__ import annotations

from collections import Counter

import pytest

from orchestrator.client.balancer import Balancer, Node
from orchestrator.client.channel import Channel
from orchestrator.model.errors import UnavailableError
from tests.stateful.harness import FakeClock


def nobody() -> Channel:
    raise UnavailableError("nobody listens")


class Still(FakeClock):
    """A clock that moves only when it is told to."""

    def now_ms(self) -> int:
        return self.ms


def balancer(**service_s: float) -> tuple[Balancer, Still]:
    clock = Still()
    made = Balancer("cluster-x", b"", lambda: dict.fromkeys(service_s, nobody), clock)
    for node in made.nodes:
        node.service_s, node.asked_at_s = service_s[node.hsm], clock.monotonic_s()
    return made, clock


def fill(made: Balancer, count: int) -> Counter[str]:
    """Send so many requests that stay outstanding."""
    sent: Counter[str] = Counter()
    for _ in range(count):
        node = made._pick(set())
        assert node is not None
        node.outstanding += 1
        sent[node.hsm] += 1
    return sent


def test_equal_hsms_share_and_unlike_ones_by_their_speed() -> None:
    assert fill(balancer(a=0.001, b=0.001)[0], 10) == {"a": 5, "b": 5}
    assert fill(balancer(a=0.0, b=0.0)[0], 10) == {"a": 5, "b": 5}
    assert fill(balancer(fast=0.001, slow=0.004)[0], 10) == {"fast": 8, "slow": 2}


def test_a_slow_hsm_is_tried_again_in_a_while() -> None:
    made, clock = balancer(fast=0.001, slow=0.004)
    assert made.least_busy() == "fast"
    clock.ms += 1100
    for node in made.nodes:
        node.asked_at_s = clock.monotonic_s() - (1.1 if node.hsm == "slow" else 0.0)
    assert made.least_busy() == "slow"


def test_an_hsm_that_failed_lately_is_the_last_resort() -> None:
    made, clock = balancer(a=0.001, b=0.004)
    node = next(n for n in made.nodes if n.hsm == "a")
    node.broken(None, clock.monotonic_s())
    assert fill(made, 10) == {"b": 10}
    assert made._pick({"b"}) is node
    assert made._pick({"a", "b"}) is None
    clock.ms += 100
    assert made.least_busy() == "a"


def test_one_slow_answer_changes_little_and_many_change_it_all() -> None:
    node = Node("a", nobody)
    node.well(0.001)
    assert node.service_s == 0.001
    node.well(10.0)
    assert node.service_s == pytest.approx(0.00115)
    for _ in range(200):
        node.well(0.1)
    assert node.service_s == pytest.approx(0.1, rel=0.1)
    for _ in range(20):
        node.well(0.001)
    assert node.service_s == pytest.approx(0.001, rel=0.1)
