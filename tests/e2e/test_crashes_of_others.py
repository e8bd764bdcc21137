"""`kill -9` of one process at the moment when another one reaches a step.

The supervisor takes all its agents with it; the controller leaves them in the middle of its call.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from orchestrator.model.steps import Step
from tests.e2e.crash_site import PLAN, Site, die, site_in

pytestmark = [pytest.mark.softhsm, pytest.mark.timeout(120)]

REACHED_BY_THE_CONTROLLER = {
    Step.COMMIT_BEGIN,
    Step.COMMIT_DONE,
    Step.FIRST_COMMITTED,
    Step.PUSH_ONE,
    Step.BACKUP_RECORDED,
    Step.BACKUP_PUBLISHED,
    Step.BODIES_ERASED,
    Step.ANCHOR_PUBLISHED,
    Step.HSM_RECORDED,
    Step.HSM_STARTED,
    Step.HSM_REMOVED,
    Step.HSM_DESTROYED,
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with site_in(tmp_path_factory.mktemp("site")) as made:
        yield made


@pytest.mark.parametrize("step", PLAN)
def test_the_supervisor_dies(site: Site, step: Step) -> None:
    die(site, PLAN[step][-1], step, "supervisor")


@pytest.mark.parametrize("step", sorted(set(PLAN) - REACHED_BY_THE_CONTROLLER))
def test_the_controller_dies(site: Site, step: Step) -> None:
    die(site, PLAN[step][-1], step, "controller")
