"""A cluster in use by a crypto user's session."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from orchestrator.client.balancer import Balancer
from orchestrator.client.session import Session
from orchestrator.model.errors import OrchestratorError
from orchestrator.model.key_spec import CURVE_BITS, KeyClass, KeySpec, KeyType
from orchestrator.model.keys import Key
from orchestrator.model.roles import Role
from orchestrator.wire import messages as m
from tests.stateful.harness import PASSWORD, FakeStream, LocalCluster

AES = KeySpec(KeyType.AES, 256)
SECRET = KeySpec(KeyType.GENERIC_SECRET, 256)
RSA = KeySpec(KeyType.RSA, 2048, None, 65537)
EC = {curve: KeySpec(KeyType.EC, bits, curve) for curve, bits in CURVE_BITS.items()}


def draft(key_class: KeyClass = KeyClass.SECRET, **attributes: str) -> m.KeyDraft:
    given = tuple((name.replace("_", "-"), value) for name, value in attributes.items())
    return m.KeyDraft(key_class, "key", given)


def pair(public: Mapping[str, str], private: Mapping[str, str]) -> tuple[m.KeyDraft, ...]:
    return draft(KeyClass.PUBLIC, **public), draft(KeyClass.PRIVATE, **private)


class Used:
    """A cluster and the session of a crypto user."""

    def __init__(self, directory: Path, cluster: LocalCluster | None = None) -> None:
        self.cluster = cluster or LocalCluster(directory)
        source = {x.id: (lambda x=x: FakeStream(x)) for x in self.cluster.members}
        balancer = Balancer(
            self.cluster.name, self.cluster.anchor, lambda: source, self.cluster.clock
        )
        clock = self.cluster.clock
        self.session = Session(balancer, clock, Role.CRYPTO_USER, "cu").login(PASSWORD)

    def make(self, spec: KeySpec, *drafts: m.KeyDraft) -> tuple[Key, ...]:
        return self.change(m.GenerateKeys(spec, drafts))

    def change(self, change: m.ChangeRequest) -> tuple[Key, ...]:
        outcome = self.cluster.controller.change(lambda _: change, ticket=self.session.ticket())
        self.session.heard(outcome.report.seq)
        return outcome.keys

    def close(self) -> None:
        self.session.close()
        self.cluster.close()


def code_of(action: Callable[..., object], *given: object, **named: object) -> str:
    """Return the code that a call is refused with."""
    with pytest.raises(OrchestratorError) as caught:
        action(*given, **named)
    return caught.value.code
