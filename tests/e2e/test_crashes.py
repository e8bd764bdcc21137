"""`kill -9` of whoever gets there, agent, controller or supervisor, at every step there is.

After each the same operation is repeated until it is done, and then nothing is half made, double
or lost: every HSM at one place with one digest, every record a fact, every draft cleared away.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.control.backups import Backups
from orchestrator.model.steps import Step
from tests.e2e.crash_site import (
    IN_BACKGROUND,
    OPERATIONS,
    PAIRS,
    PLAN,
    Site,
    begin,
    die,
    end,
    has_backup_of_all,
    site_in,
)
from tests.lab.harness import eventually

pytestmark = [pytest.mark.softhsm, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with site_in(tmp_path_factory.mktemp("site")) as made:
        yield made


def test_no_step_is_forgotten() -> None:
    assert set(PLAN) == set(Step)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_the_plan_is_what_operations_pass(site: Site, operation: str, tmp_path: Path) -> None:
    site.mend()
    eventually(lambda: has_backup_of_all(site))  # it would leave `backup` nothing to erase
    arguments = begin(site, operation, "recorded")
    passed = tmp_path / "passed"
    site.fault.write_text(f"record {passed}")
    status, told = site.run(operation, *arguments)
    site.fault.unlink()
    assert status == 0, told
    seen = {Step(line) for line in passed.read_text().split()}
    planned = {step for step, operations in PLAN.items() if operation in operations}
    assert seen - (IN_BACKGROUND - planned) == planned
    end(site, operation, told)


@pytest.mark.parametrize(("operation", "step"), PAIRS, ids=str)
def test_a_death_leaves_nothing_half_made(site: Site, operation: str, step: Step) -> None:
    die(site, operation, step)


@pytest.mark.parametrize(
    "step", [Step.SNAPSHOT_SEALED, Step.BACKUP_RECORDED, Step.BACKUP_PUBLISHED]
)
def test_a_backup_that_is_due_is_made_after_a_death(site: Site, step: Step) -> None:
    site.mend()
    eventually(lambda: has_backup_of_all(site))
    known = {view.backup_id for view in Backups(site.plane).list()}
    site.fault.write_text(step)
    hsm = json.loads(site.until_done("join", site.cluster, "lab-1c"))
    eventually(lambda: not site.fault.exists())  # the supervisor's own backup, or its HSM, is hit
    site.mend()
    eventually(lambda: has_backup_of_all(site))
    new = [v for v in Backups(site.plane).list() if v.backup_id not in known]
    assert {v.reason for v in new} == {"automatic: hsm-joined"}
    site.until_done("remove", site.cluster, hsm)
    eventually(lambda: has_backup_of_all(site))
    site.check()
