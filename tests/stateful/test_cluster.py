"""Random changes, crashes at any step, lost and repeated pushes: nothing drifts or is lost."""

from __future__ import annotations

import itertools
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from orchestrator.agent.core import Core
from orchestrator.control.controller import Controller, Outcome
from orchestrator.model import entries as e
from orchestrator.model.errors import OrchestratorError, PendingError
from orchestrator.model.key_spec import KeyClass, KeySpec, KeyType
from orchestrator.model.keys import Key
from orchestrator.model.state import Table
from orchestrator.model.steps import Step
from orchestrator.wire import messages as m
from tests.stateful.harness import Crash, LocalCluster

AES = KeySpec(KeyType.AES, 256)
AGENT_STEPS = (
    Step.PREPARE_TOKEN_WORK,
    Step.PREPARE_SIGNED,
    Step.APPLY_VERIFIED,
    Step.APPLY_STORED,
)
CONTROLLER_STEPS = (Step.COMMIT_BEGIN, Step.COMMIT_DONE, Step.PUSH_ONE, Step.BODIES_ERASED)
MISHAPS = ("lose-request", "lose-reply", "repeat", "")
_numbers = itertools.count()


class ClusterMachine(RuleBasedStateMachine):
    """What the model knows: labels that were acknowledged, and those whose fate is open."""

    core_type: ClassVar[type[Core]] = Core
    controller_type: ClassVar[type[Controller]] = Controller

    @initialize()
    def begin(self) -> None:
        self.directory = Path(tempfile.mkdtemp())
        self.cluster = LocalCluster(self.directory, self.core_type, self.controller_type)
        self.present: set[str] = set()
        self.open: dict[str, str] = {}
        self.deleted: set[int] = set()
        self.refs: dict[str, int] = {}
        self.requests: dict[str, str] = {}
        self.ids: dict[int, bytes] = {}

    def _create(self, request: str, label: str) -> Outcome | None:
        draft = m.KeyDraft(KeyClass.SECRET, label)
        self.open[request] = label
        try:
            outcome = self.cluster.change(request, m.GenerateKeys(AES, (draft,)))
        except PendingError:
            self.present.add(label)  # committed: it must be there in the end
        except Crash:
            self.cluster.restart_controller()
        except OrchestratorError:
            pass  # in doubt or refused: it may be there whole, or not at all
        else:
            self.present.add(label)
            for key in outcome.keys:
                self.refs[label] = key.ref
            return outcome
        return None

    @rule()
    def create_key(self) -> None:
        number = next(_numbers)
        self.requests[f"request-{number}"] = f"key-{number}"
        self._create(f"request-{number}", f"key-{number}")

    @rule(step=st.sampled_from(CONTROLLER_STEPS))
    def create_key_while_the_controller_dies(self, step: Step) -> None:
        self.cluster.fault = ("controller", step)
        self.create_key()

    @rule(who=st.integers(0, 2), step=st.sampled_from(AGENT_STEPS))
    def create_key_while_an_agent_dies(self, who: int, step: Step) -> None:
        self.cluster.fault = (self.cluster.machines[who].id, step)
        self.create_key()

    @precondition(lambda self: self.requests)
    @rule(data=st.data())
    def repeat_a_request(self, data: st.DataObject) -> None:
        request = data.draw(st.sampled_from(sorted(self.requests)))
        label = self.requests[request]
        outcome = self._create(request, label)
        if outcome is not None and outcome.keys and label in self.refs:
            assert [key.ref for key in outcome.keys] == [self.refs[label]]

    @precondition(lambda self: self.refs)
    @rule(data=st.data())
    def delete_key(self, data: st.DataObject) -> None:
        label = data.draw(st.sampled_from(sorted(self.refs)))
        ref = self.refs.pop(label)
        self.present.discard(label)
        self.requests = {r: name for r, name in self.requests.items() if name != label}
        try:
            self.cluster.change(f"delete-{next(_numbers)}", m.DeleteKey(ref))
            self.deleted.add(ref)
        except PendingError:
            self.deleted.add(ref)
        except Crash:
            self.cluster.restart_controller()
        except OrchestratorError:
            pass

    @precondition(lambda self: self.refs)
    @rule(data=st.data())
    def change_key(self, data: st.DataObject) -> None:
        label = data.draw(st.sampled_from(sorted(self.refs)))
        number = next(_numbers)
        ref, wanted = self.refs[label], number.to_bytes(4, "big")
        self.ids.pop(ref, None)  # in doubt until it is answered
        try:
            self.cluster.change(f"change-{number}", m.ChangeKey(ref, "id", wanted.hex()))
            self.ids[ref] = wanted
        except PendingError:
            self.ids[ref] = wanted
        except Crash:
            self.cluster.restart_controller()
        except OrchestratorError:
            pass

    @rule(who=st.integers(0, 2), step=st.sampled_from(AGENT_STEPS))
    def plan_agent_crash(self, who: int, step: Step) -> None:
        self.cluster.fault = (self.cluster.machines[who].id, step)

    @rule(step=st.sampled_from(CONTROLLER_STEPS))
    def plan_controller_crash(self, step: Step) -> None:
        self.cluster.fault = ("controller", step)

    @rule(mishaps=st.lists(st.sampled_from(MISHAPS), max_size=12))
    def plan_mishaps(self, mishaps: list[str]) -> None:
        self.cluster.mishaps = mishaps

    @rule(who=st.integers(0, 2))
    def agent_goes(self, who: int) -> None:
        self.cluster.machines[who].stop()

    @rule(who=st.integers(0, 2))
    def agent_returns(self, who: int) -> None:
        self.cluster.machines[who].start()

    @rule()
    def heal_a_little(self) -> None:
        try:
            self.cluster.controller.heal()
        except Crash:
            self.cluster.restart_controller()
        except OrchestratorError:
            pass

    @rule()
    def erase_what_all_have(self) -> None:
        try:
            self.cluster.controller.erase_bodies(self.cluster.ledger.head().seq)
        except Crash:
            self.cluster.restart_controller()
        except OrchestratorError:
            pass

    def teardown(self) -> None:
        if not hasattr(self, "cluster"):
            return
        try:
            self._check()
        finally:
            self.cluster.close()
            shutil.rmtree(self.directory)

    def _check(self) -> None:
        cluster = self.cluster
        cluster.fault, cluster.mishaps = None, []
        cluster.restart_controller()
        for machine in cluster.machines:
            machine.start()
        cluster.controller.heal()
        states = []
        for machine in cluster.machines:
            assert machine.hsm is not None
            core = machine.hsm.core
            assert core.vault.load().digest() == core.state.digest(), "stored and kept state differ"
            states.append(core.state)
        assert len({state.digest() for state in states}) == 1, "the HSMs have drifted"
        assert states[0].seq == cluster.ledger.head().seq, "HSMs and ledger stand at two places"
        cluster.ledger.check()
        for state in states:
            keys = [key for key in state.tables[Table.KEYS].values() if isinstance(key, Key)]
            labels = [key.label for key in keys]
            assert len(labels) == len(set(labels)), "a request was made twice"
            assert self.present <= set(labels), "an acknowledged change is lost"
            assert not self.deleted & {key.ref for key in keys}, "a deleted key lives"
            assert all(key.blob for key in keys), "half a key"
            changed = {key.ref: key.id for key in keys if key.ref in self.ids}
            lost = changed.items() - self.ids.items()
            assert not lost, "an acknowledged attribute is lost"
        head = cluster.ledger.head().seq
        assert cluster.controller.erase_bodies(head) == head
        assert all(entry.is_erased for entry in cluster.ledger.after(0, 10_000))
        for machine in cluster.machines:
            assert machine.hsm is not None
            kept = machine.hsm.core.vault.entries_after(0, 10_000, 1 << 30)
            assert all(entry.is_erased for entry in kept), "an old body lives on"


SETTINGS = settings(
    max_examples=60,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    print_blob=False,
)
TestCluster = ClusterMachine.TestCase
TestCluster.settings = SETTINGS
setattr(TestCluster, "pytestmark", [pytest.mark.timeout(300)])  # noqa: B010  # unittest's class


class AppliesTwice(Core):
    """A planted bug: an entry that is offered again is taken for the next one."""

    def apply(self, entries: tuple[e.Entry, ...]) -> None:
        held = self.state.seq
        super().apply(entries)
        for entry in entries:
            header = entry.parse_header()
            if header.seq == held == self.state.seq:
                self.state.advance((), seq=held + 1, head=entry.hash, at=header.at)


class AnswersTooEarly(Controller):
    """A planted bug: the answer comes before the commit, which may then never be."""

    def settle(self, entry: e.Entry, within: Iterable[str] | None = None) -> Outcome:
        try:
            return super().settle(entry, within)
        except PendingError:
            raise
        except OrchestratorError:
            raise PendingError(entry.parse_header().request, 0, 2) from None

    def _commit(self, entry: e.Entry, request: str) -> e.Entry:
        try:
            return super()._commit(entry, request)
        except Crash:
            raise PendingError(request, 0, 2) from None


@pytest.mark.timeout(300)
@pytest.mark.parametrize("bug", [{"core_type": AppliesTwice}, {"controller_type": AnswersTooEarly}])
def test_planted_bugs_are_found(bug: dict[str, type]) -> None:
    planted = type("Planted", (ClusterMachine,), bug)
    # No shrinking: that a planted bug is found is all that is asked.
    quick = settings(SETTINGS, max_examples=100, database=None, phases=[Phase.generate])
    with pytest.raises((AssertionError, OrchestratorError, ExceptionGroup)):
        run_state_machine_as_test(planted, settings=quick)
