"""The state of a cluster that has grown by real entries, and copies to advance."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from orchestrator.model.state import State
from tests.stateful.harness import LocalCluster


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[State]:
    cluster = LocalCluster(tmp_path_factory.mktemp("grown"))
    hsm = cluster.machines[0].hsm
    assert hsm is not None
    yield hsm.core.state
    cluster.close()


@pytest.fixture
def state(grown: State) -> State:
    """A copy that a test may advance."""
    return State.build(grown.rows(), seq=grown.seq, head=grown.head, at=grown.at)[0]
