"""Approvals over whole clusters: spent once whoever races or dies; locks and factors everywhere."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule

from orchestrator.agent.hsm import Hsm
from orchestrator.control.controller import Outcome
from orchestrator.model import entries as e
from orchestrator.model.errors import OrchestratorError, PendingError, UnavailableError
from orchestrator.model.factor_decisions import MFA_ENROLMENT, REGISTRATION
from orchestrator.model.quorum import ApprovalData, possession_words, token_of
from orchestrator.model.roles import Role
from orchestrator.model.services import Service
from orchestrator.model.steps import Step
from orchestrator.wire import messages as m
from tests.stateful.harness import CLUSTER, PASSWORD, Crash, LocalCluster
from tests.stateful.test_cluster import SETTINGS, ClusterMachine
from tests.stateful.test_order import another_controller
from tests.unit.approvers import Approver, approver

ANA, BEN = approver("ana"), approver("ben")


class Office:
    """A cluster whose admins ana and ben must both approve what is done about users."""

    def __init__(self, directory: Path, cluster: LocalCluster | None = None) -> None:
        self.cluster = cluster or LocalCluster(directory)
        root = self.cluster.login(Role.ADMIN, "admin")
        for person in (ANA, BEN):
            self.create(root, person.name, Role.ADMIN)
            self.register(person)
        self.ana = self.cluster.login(Role.ADMIN, "ana")
        for service in (Service.USER, Service.QUORUM):
            self.do(self.ana, m.SetQuorumValue(service, 2))

    def do(
        self, ticket: bytes, change: m.ChangeRequest, approval: e.Approval | None = None
    ) -> Outcome:
        return self.cluster.controller.change(lambda _: change, ticket=ticket, approval=approval)

    def creation(self, name: str, role: Role = Role.CRYPTO_USER) -> Callable[[str], m.CreateUser]:
        seal = self.cluster.seal
        return lambda hsm: m.CreateUser(name, role, seal(hsm, "new-password", role, name))

    def create(
        self,
        ticket: bytes,
        name: str,
        role: Role = Role.CRYPTO_USER,
        approval: e.Approval | None = None,
    ) -> Outcome:
        ask = self.creation(name, role)
        return self.cluster.controller.change(ask, ticket=ticket, approval=approval)

    def register(self, person: Approver) -> None:
        words = possession_words(REGISTRATION, CLUSTER, person.role, person.name)
        now_s = self.cluster.clock.now_ms() // 1000
        data = ApprovalData(Service.REGISTRATION, 0, person.name, now_s, words, (bytes(16),)).pack()
        change = m.RegisterApprovalKey(person.public, data, person.sign(token_of(data)))
        self.do(self.cluster.login(person.role, person.name), change)

    def token(self) -> bytes:
        data = self.do(self.ana, m.IssueToken(Service.USER)).data
        assert ApprovalData.parse(data).requester == "ana"
        return data

    def approval(self, *people: Approver) -> e.Approval:
        token = token_of(self.token())
        return e.Approval(token, tuple(p.approval(token) for p in people))

    def names(self) -> list[set[str]]:
        return [{user.name for user in hsm.core.state.users()} for hsm in self.hsms()]

    def hsms(self) -> list[Hsm]:
        return [machine.hsm for machine in self.cluster.machines if machine.hsm is not None]

    def tokens(self) -> list[int]:
        return [len(hsm.core.state.tokens()) for hsm in self.hsms()]


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    made = Office(tmp_path)
    yield made
    made.cluster.close()


def refusal(action: Callable[[], object]) -> OrchestratorError:
    with pytest.raises(OrchestratorError) as caught:
        action()
    return caught.value


def race(office: Office, approval: e.Approval) -> list[object]:
    """Unlock `cu` twice with the same approvals, through two controllers at once."""
    controllers = [office.cluster.controller, another_controller(office.cluster)]
    outcomes: list[object] = []
    start = threading.Barrier(2)
    change = m.UnlockUser("cu", Role.CRYPTO_USER)

    def run(number: int) -> None:
        start.wait()
        try:
            outcomes.append(
                controllers[number].change(lambda _: change, ticket=office.ana, approval=approval)
            )
        except OrchestratorError as exc:
            outcomes.append(exc)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    controllers[1].roster.close()
    return outcomes


def test_two_controllers_race_for_one_token(office: Office) -> None:
    for number in range(1, 5):
        outcomes = race(office, office.approval(ANA, BEN))
        assert sum(isinstance(o, Outcome) for o in outcomes) == 1
        [lost] = [o for o in outcomes if isinstance(o, OrchestratorError)]
        assert (lost.code, str(lost)) == (
            "quorum-approval",
            "Quorum approval is required for this operation",
        )
        office.cluster.controller.heal()
        users = [hsm.core.state.user(Role.CRYPTO_USER, "cu") for hsm in office.hsms()]
        assert [user.unlocks for user in users] == [number] * 3
        assert office.tokens() == [0, 0, 0]


@pytest.mark.parametrize("step", [Step.PREPARE_TOKEN_WORK, Step.PREPARE_SIGNED])
def test_an_hsm_that_dies_before_the_commit_spends_nothing(office: Office, step: Step) -> None:
    approval = office.approval(ANA, BEN)
    for machine in office.cluster.machines:
        office.cluster.fault = (machine.id, step)
        break
    author = office.cluster.machines[0]
    refused = refusal(
        lambda: office.cluster.controller.change(
            office.creation("late"), ticket=office.ana, approval=approval, author=author.id
        )
    )
    assert isinstance(refused, UnavailableError)
    assert author.hsm is None
    author.start()
    assert office.tokens() == [1, 1, 1]
    office.create(office.ana, "late", approval=approval)
    assert all("late" in names for names in office.names())
    assert office.tokens() == [0, 0, 0]


def test_a_controller_that_dies_before_the_commit_spends_nothing(office: Office) -> None:
    approval = office.approval(ANA, BEN)
    office.cluster.fault = ("controller", Step.COMMIT_BEGIN)
    with pytest.raises(Crash):
        office.create(office.ana, "late", approval=approval)
    office.cluster.restart_controller()
    assert office.tokens() == [1, 1, 1]
    office.create(office.ana, "late", approval=approval)
    assert office.tokens() == [0, 0, 0]


def test_a_controller_that_dies_after_the_commit_has_spent_it(office: Office) -> None:
    approval = office.approval(ANA, BEN)
    ask = office.creation("late")

    def change() -> None:
        office.cluster.controller.change(ask, ticket=office.ana, approval=approval, request="once")

    office.cluster.fault = ("controller", Step.COMMIT_DONE)
    with pytest.raises(Crash):
        change()
    office.cluster.restart_controller()
    change()  # the same request fetches the answer
    assert all("late" in names for names in office.names())
    assert office.tokens() == [0, 0, 0]
    again = refusal(lambda: office.create(office.ana, "more", approval=approval))
    assert again.code == "quorum-approval"


def test_no_hsm_and_no_database_can_make_an_approval_up(office: Office) -> None:
    """A hostile member signs an entry whose approvals do not hold: no other HSM applies it."""
    token = token_of(office.token())
    forged = e.Approval(token, (ANA.approval(token), e.ApproverSignature(
        "ben", Role.ADMIN, ANA.sign(token))))  # fmt: skip
    change = e.UserCreated(ANA.actor, "mallory", Role.CRYPTO_USER, "hash")
    hostile, honest = office.hsms()[0].core, office.hsms()[1].core
    import orchestrator.agent.core as core_module  # noqa: PLC0415

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(core_module, "decide", lambda *_: ())  # its own rules do not bind it
        entry = hostile.sign_entry(change, "forged", None, CLUSTER, forged)
        without = hostile.sign_entry(change, "bare", None, CLUSTER, None)
    for bad in (entry, without):
        before = honest.state.digest()
        assert refusal(lambda bad=bad: honest.apply((bad,))).code == "quorum-approval"  # type: ignore[misc]
        assert honest.state.digest() == before


def test_unlocking_starts_the_count_anew_everywhere(office: Office) -> None:
    for _ in range(6):
        refusal(lambda: _login(office, "cu", b"not-this-one"))
    office.cluster.controller.heal()
    assert refusal(lambda: _login(office, "cu")).code == "user-locked"
    office.do(office.ana, m.UnlockUser("cu", Role.CRYPTO_USER), office.approval(ANA, BEN))
    assert isinstance(_login(office, "cu"), m.Ticket)
    for _ in range(5):
        refusal(lambda: _login(office, "cu", b"not-this-one"))
    assert isinstance(_login(office, "cu"), m.Ticket)


def test_a_disabled_user_is_out_everywhere(office: Office) -> None:
    ticket = office.cluster.ticket
    office.do(office.ana, m.DisableUser("cu", Role.CRYPTO_USER), office.approval(ANA, BEN))
    roster = office.cluster.controller.roster
    for machine in office.cluster.machines:
        refused = refusal(lambda hsm=machine.id: roster.call(hsm, m.Random(ticket, 8)))  # type: ignore[misc]
        assert refused.code == "ticket-refused"
    assert refusal(lambda: _login(office, "cu")).code == "user-disabled"
    office.do(office.ana, m.EnableUser("cu", Role.CRYPTO_USER), office.approval(ANA, BEN))
    assert isinstance(_login(office, "cu"), m.Ticket)


def _login(
    office: Office, name: str, password: bytes = PASSWORD, factor: m.Factor | None = None,
    machine: int = 0,
) -> m.Reply:  # fmt: skip
    from orchestrator.client.trust import seal_password  # noqa: PLC0415

    roster, hsm = office.cluster.controller.roster, office.cluster.machines[machine].id
    link = roster.link(hsm, office.cluster.anchor)
    role = Role.CRYPTO_USER
    sealed = seal_password("login", link.welcome, link.member, role, name, password)
    return roster.call(hsm, m.Login(name, role, sealed, factor))


DEE = approver("dee", Role.CRYPTO_USER)


@pytest.fixture
def dee(office: Office) -> Office:
    """A crypto user with a second factor."""
    office.create(office.ana, "dee", approval=office.approval(ANA, BEN))
    words = possession_words(MFA_ENROLMENT, CLUSTER, DEE.role, "dee", "hsm-x")
    now_s = office.cluster.clock.now_ms() // 1000
    data = ApprovalData(Service.MFA, 0, "dee", now_s, words, (bytes(16),)).pack()
    ticket = office.cluster.login(DEE.role, "dee")
    office.do(
        ticket,
        m.ChangeMfa("dee", DEE.role, b"", DEE.public, data, DEE.sign(token_of(data))),
    )
    return office


def challenge(office: Office, machine: int = 0, name: str = "dee") -> bytes:
    roster = office.cluster.controller.roster
    asked = m.MfaChallenge(name, Role.CRYPTO_USER)
    reply = roster.call(office.cluster.machines[machine].id, asked)
    assert isinstance(reply, m.Data)
    return reply.data


def signed(data: bytes, who: Approver = DEE) -> m.Factor:
    return m.Factor(data, who.sign(token_of(data)))


def test_a_factor_is_for_one_hsm_one_user_one_time_and_ten_minutes(dee: Office) -> None:
    factor = signed(challenge(dee))
    assert isinstance(_login(dee, "dee", factor=factor), m.Ticket)
    for bad in (
        factor,  # once
        signed(challenge(dee, machine=1)),  # for another HSM
        signed(challenge(dee, name="cu")),  # for another user
        signed(challenge(dee), ANA),  # by somebody else
        m.Factor(challenge(dee), bytes(256)),
        m.Factor(bytes(80), DEE.sign(token_of(bytes(80)))),
    ):
        assert refusal(lambda bad=bad: _login(dee, "dee", factor=bad)).code == "login-failed"  # type: ignore[misc]
    late = signed(challenge(dee))
    dee.cluster.clock.ms += 602_000
    assert refusal(lambda: _login(dee, "dee", factor=late)).code == "login-failed"
    restarted = signed(challenge(dee))
    machine = dee.cluster.machines[0]
    machine.stop()
    machine.start()
    assert refusal(lambda: _login(dee, "dee", factor=restarted)).code == "login-failed"


def test_no_one_without_the_factor_guesses_a_password_or_locks_its_user(dee: Office) -> None:
    for password in [PASSWORD, b"not-this-one"] * 10:
        assert refusal(lambda p=password: _login(dee, "dee", p)).code == "mfa-required"  # type: ignore[misc]
        wrong = m.Factor(challenge(dee), bytes(256))
        refused = refusal(lambda p=password, f=wrong: _login(dee, "dee", p, f))  # type: ignore[misc]
        assert refused.code == "login-failed"
    assert isinstance(_login(dee, "dee", factor=signed(challenge(dee))), m.Ticket)
    audit = dee.hsms()[0].core.vault.audit_lines(0, 2000)[0]
    assert sum(b"mfa-required" in line for line in audit) == 20
    # With the factor, wrong passwords count and lock as everybody's do.
    for _ in range(6):
        refusal(lambda: _login(dee, "dee", b"not-this-one", signed(challenge(dee))))
    assert refusal(lambda: _login(dee, "dee", factor=signed(challenge(dee)))).code == "user-locked"


def test_challenges_say_nothing_about_who_exists(dee: Office) -> None:
    shapes = set()
    for name in ("dee", "cu", "nob"):
        data = ApprovalData.parse(challenge(dee, name=name))
        shapes.add((data.service, len(data.words) - len(name)))
    assert len(shapes) == 1


class ApprovalMachine(ClusterMachine):
    """Beside the random changes: tokens are asked for and spent, again and again, as all breaks."""

    @initialize()
    def begin(self) -> None:
        super().begin()
        self.office = Office(self.directory, self.cluster)
        self.approvals: list[e.Approval] = []
        self.spent: Counter[bytes] = Counter()

    @rule()
    def ask(self) -> None:
        try:
            self.approvals.append(self.office.approval(ANA, BEN))
        except Crash:
            self.cluster.restart_controller()
        except (OrchestratorError, AssertionError):
            pass  # refused or in doubt; its approval_data was not answered

    @precondition(lambda self: self.approvals)
    @rule(data=st.data())
    def spend(self, data: st.DataObject) -> None:
        approval = data.draw(st.sampled_from(self.approvals))
        change = m.UnlockUser("cu", Role.CRYPTO_USER)
        try:
            self.office.do(self.office.ana, change, approval)
        except PendingError:
            self.spent[approval.token] += 1
        except Crash:
            self.cluster.restart_controller()
        except OrchestratorError:
            pass
        else:
            self.spent[approval.token] += 1

    def _check(self) -> None:
        super()._check()
        unlocks = {
            hsm.core.state.user(Role.CRYPTO_USER, "cu").unlocks for hsm in self.office.hsms()
        }
        assert len(unlocks) == 1
        assert all(count == 1 for count in self.spent.values()), "an approval was spent twice"
        assert len(self.spent) <= unlocks.pop() <= len(self.approvals)


TestApprovals = ApprovalMachine.TestCase
TestApprovals.settings = settings(SETTINGS, max_examples=20)
setattr(TestApprovals, "pytestmark", [pytest.mark.timeout(300)])  # noqa: B010  # unittest's class


def test_an_erased_token_entry_is_still_answered(office: Office) -> None:
    """Who repeats a request late hears that it was done; what was said in it is gone."""
    change = m.IssueToken(Service.USER)
    outcome = office.cluster.controller.change(
        lambda _: change, ticket=office.ana, request="asked-once"
    )
    assert ApprovalData.parse(outcome.data).requester == "ana"
    head = office.cluster.ledger.head().seq
    assert office.cluster.controller.erase_bodies(head) == head
    again = office.cluster.controller.change(
        lambda _: change, ticket=office.ana, request="asked-once"
    )
    assert (again.report.seq, again.data) == (outcome.report.seq, b"")
