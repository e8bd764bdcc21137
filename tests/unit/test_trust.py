"""A rehearsal draws and verifies with nobody's keys, and takes any anchor that a cluster has."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.client.trust import rehearse
from orchestrator.model.errors import RefusedError
from tests.stateful.harness import LocalCluster


def test_a_rehearsal_takes_a_real_anchor_and_a_certificate_that_another_issued(
    tmp_path: Path,
) -> None:
    cluster = LocalCluster(tmp_path)
    hsm = cluster.machines[0].hsm
    assert hsm is not None
    rehearse(cluster.anchor)
    rehearse(hsm.core.state.meta.certificate)
    cluster.close()


def test_what_is_no_certificate_is_refused_before_anybody_is_served() -> None:
    with pytest.raises(RefusedError) as caught:
        rehearse(b"-----BEGIN CERTIFICATE-----\nnone\n")
    assert caught.value.code == "certificate-unreadable"
