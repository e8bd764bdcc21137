"""Quorum: every rule of tokens, values and approvals. Pure: the states are made up."""

from __future__ import annotations

import hashlib

import msgspec
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa, utils
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.model import entries as e
from orchestrator.model.approvals import CLOCK_SLACK_S
from orchestrator.model.decisions import decide
from orchestrator.model.errors import MalformedError, OrchestratorError
from orchestrator.model.guards import guard_of, words_of
from orchestrator.model.key_spec import (
    HashFunction,
    KeyClass,
    KeySpec,
    KeyType,
    SignMechanism,
    SignScheme,
)
from orchestrator.model.keys import Attributes, Key
from orchestrator.model.quorum import (
    TOKENS_MAX,
    TOKENS_PER_USER,
    ApprovalData,
    QuorumPolicy,
    Token,
    token_of,
    use_digest,
)
from orchestrator.model.roles import Role
from orchestrator.model.services import ADMIN_SERVICES, VALUED_SERVICES, Service
from orchestrator.model.state import ONLY, Put, State, Table, User, user_row
from tests.unit.approvers import Approver, approval, approver, data, put_rows, register

CODE, KEY_CODE = "quorum-approval", "quorum-failed"
MESSAGE = "Quorum approval is required for this operation"


ANA, BEN, CAI = (approver(name) for name in ("ana", "ben", "cai"))
CU = approver("cu", Role.CRYPTO_USER)
DEE = approver("dee", Role.CRYPTO_USER)


def fresh(grown: State) -> State:
    copy, _ = State.build(grown.rows(), seq=grown.seq, head=grown.head, at=grown.at)
    register(copy, ANA, BEN, CAI, CU, DEE)
    return copy


@pytest.fixture
def state(grown: State) -> State:
    """Admins ana, ben, cai (and `admin`, unregistered); crypto users cu and dee."""
    return fresh(grown)


def do(
    state: State, change: e.Change, given: e.Approval | None = None, at: int = 0
) -> tuple[Put, ...]:
    header = e.Header(
        1, state.meta.cluster, state.seq + 1, state.head, at or state.at,
        e.kind_of(change), "r", state.members()[0].hsm, b"",
    )  # fmt: skip
    puts = decide(state, header, change, None, given)
    state.advance(puts, seq=header.seq, head=bytes(32), at=header.at)
    return puts


def refusal(
    state: State, change: e.Change, given: e.Approval | None = None, at: int = 0
) -> OrchestratorError:
    before = state.digest()
    with pytest.raises(OrchestratorError) as caught:
        do(state, change, given, at)
    assert state.digest() == before
    return caught.value


def issue(
    state: State, who: Approver, service: Service = Service.USER, ref: int = 0, words: str = ""
) -> bytes:
    made = data(state, who, service, ref, words)
    do(state, e.QuorumTokenIssued(who.actor, f"login-{who.name}", made))
    return made


def values(state: State, **wanted: int) -> None:
    pairs = tuple((Service(name.replace("_", "-")), value) for name, value in wanted.items())
    put_rows(state, Put(Table.QUORUM, ONLY, QuorumPolicy(pairs)))


def new_user(who: Approver = ANA, name: str = "new") -> e.UserCreated:
    return e.UserCreated(who.actor, name, Role.CRYPTO_USER, "hash")


def key(owner: str = "cu", **fields: object) -> Key:
    made = Key(
        0, KeyClass.SECRET, KeySpec(KeyType.AES, 256), "L", b"", owner, (), Attributes(), b"blob",
        b"", b"",
    )  # fmt: skip
    return msgspec.structs.replace(made, **fields)


# --- spending ---


def test_with_a_value_of_one_nobody_approves(state: State) -> None:
    made = issue(state, ANA)
    assert refusal(state, new_user(), approval(made, ANA, BEN)).code == "approval-unneeded"
    do(state, new_user())


def test_two_approvals_do_it_once(state: State) -> None:
    values(state, user=2)
    refused = refusal(state, new_user())
    assert (refused.code, str(refused)) == (CODE, MESSAGE)
    made = issue(state, ANA)
    few = refusal(state, new_user(), approval(made, ANA))
    assert few.code == CODE
    assert "1 of 2 approvals" in str(few)
    do(state, new_user(), approval(made, ANA, BEN))
    again = refusal(state, new_user(name="more"), approval(made, ANA, BEN))
    assert (again.code, str(again)) == (CODE, MESSAGE)


def test_a_requester_is_an_approver_only_by_signature(state: State) -> None:
    values(state, user=2)
    made = issue(state, ANA)
    assert refusal(state, new_user(), approval(made, BEN)).code == CODE
    do(state, new_user(), approval(made, BEN, CAI))


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.lists(st.sampled_from(["ana", "ben"]), max_size=32))
def test_one_person_is_never_a_quorum(state: State, order: list[str]) -> None:
    copy = fresh(state)
    values(copy, user=2)
    made = issue(copy, ANA)
    given_ = approval(made, *(approver(name) for name in order))
    if set(order) == {"ana", "ben"}:
        do(copy, new_user(), given_)
    else:
        assert refusal(copy, new_user(), given_).code == CODE


def test_what_a_failed_operation_was_approved_for_can_still_be_done(state: State) -> None:
    values(state, user=2)
    made = issue(state, ANA)
    taken = new_user(name="cu")
    assert refusal(state, taken, approval(made, ANA, BEN)).code == "exists"
    do(state, new_user(), approval(made, ANA, BEN))


def test_a_token_is_its_requesters(state: State) -> None:
    values(state, user=2)
    made = issue(state, ANA)
    assert "ana's" in str(refusal(state, new_user(BEN), approval(made, ANA, BEN)))


@pytest.mark.parametrize("edit", ["token", "signature", "name", "role"])
def test_an_edited_approval_is_refused(state: State, edit: str) -> None:
    values(state, user=2)
    made = issue(state, ANA)
    good = approval(made, ANA, BEN)
    first, second = good.signatures
    bad = {
        "token": msgspec.structs.replace(good, token=bytes(32)),
        "signature": _with(good, first, msgspec.structs.replace(second, signature=bytes(256))),
        "name": _with(good, first, msgspec.structs.replace(second, name="cai")),
        "role": _with(good, first, msgspec.structs.replace(second, role=Role.CRYPTO_USER)),
    }[edit]
    assert refusal(state, new_user(), bad).code == CODE
    do(state, new_user(), good)


def _with(good: e.Approval, *signatures: e.ApproverSignature) -> e.Approval:
    return msgspec.structs.replace(good, signatures=signatures)


def test_more_signatures_than_anybody_needs_are_refused_unread(state: State) -> None:
    values(state, user=2)
    made = issue(state, ANA)
    assert "more than 32" in str(refusal(state, new_user(), approval(made, *[ANA] * 33)))


def test_only_enabled_admins_with_registered_keys_approve(state: State) -> None:
    values(state, user=2)
    made = issue(state, ANA)
    token = token_of(made)
    unregistered = e.ApproverSignature("admin", Role.ADMIN, BEN.sign(token))
    given_ = e.Approval(token, (ANA.approval(token), unregistered))
    assert "cannot approve" in str(refusal(state, new_user(), given_))
    assert "cannot approve" in str(refusal(state, new_user(), approval(made, ANA, CU)))
    put_rows(state, Put(Table.USERS, user_row(BEN.role, "ben"), BEN.user(disabled=True)))
    assert "cannot approve" in str(refusal(state, new_user(), approval(made, ANA, BEN)))
    do(state, new_user(), approval(made, ANA, CAI))


def test_an_approvers_old_key_is_worth_nothing(state: State) -> None:
    values(state, user=2)
    made = issue(state, ANA)
    changed = BEN.user(quorum_key=approver("spare").public)
    put_rows(state, Put(Table.USERS, user_row(BEN.role, "ben"), changed))
    assert refusal(state, new_user(), approval(made, ANA, BEN)).code == CODE


def test_a_token_expires(state: State) -> None:
    values(state, user=2)
    made = issue(state, ANA)
    late = state.at + 600_001
    assert "expired" in str(refusal(state, new_user(), approval(made, ANA, BEN), late))
    do(state, new_user(), approval(made, ANA, BEN), state.at + 600_000)


def test_expired_tokens_go_with_the_next_entry(state: State) -> None:
    issue(state, ANA)
    do(state, new_user(), at=state.at + 600_001)
    assert not state.tokens()


def test_a_token_ends_with_its_requesters_logins(state: State) -> None:
    values(state, user=2)
    made = issue(state, ANA)
    put_rows(state, Put(Table.USERS, user_row(ANA.role, "ana"), ANA.user(version=2)))
    assert "logins of ana" in str(refusal(state, new_user(), approval(made, ANA, BEN)))
    again = issue(state, BEN)
    do(state, e.LoginEnded(BEN.actor, "login-ben", state.at + 1))
    assert str(refusal(state, new_user(BEN), approval(again, ANA, BEN))) == MESSAGE


def test_a_token_is_for_one_service(state: State) -> None:
    values(state, user=2, quorum=2)
    made = issue(state, ANA, Service.QUORUM)
    assert "service quorum" in str(refusal(state, new_user(), approval(made, ANA, BEN)))


def test_one_active_token_per_user_and_admin_service(state: State) -> None:
    values(state, user=2)
    first, second = issue(state, ANA), issue(state, ANA)
    issue(state, BEN)
    issue(state, ANA, Service.QUORUM)
    assert len(state.tokens()) == 3
    assert str(refusal(state, new_user(), approval(first, ANA, BEN))) == MESSAGE
    do(state, new_user(), approval(second, ANA, BEN))


def test_tokens_are_bounded(state: State) -> None:
    token = Token(Service.KEY_USAGE, 1, "cu", Role.CRYPTO_USER, 1, "", 0, state.at + 1, "")
    rows = (Put(Table.TOKENS, f"{n:064x}", token) for n in range(TOKENS_MAX))
    put_rows(state, *rows)
    made = data(state, ANA, Service.USER)
    change = e.QuorumTokenIssued(ANA.actor, "l", made)
    assert refusal(state, change).code == "limit"
    made = data(state, ANA, Service.USER)
    do(state, change, at=state.at + 2)  # the others have expired
    assert len(state.tokens()) == 1


def test_no_user_takes_the_tokens_of_all(state: State) -> None:
    """A crypto user could stop what the admins decide by asking for approvals of a key's use."""
    guarded = quorum_key(state)
    token = Token(
        Service.KEY_USAGE, guarded.ref, "cu", Role.CRYPTO_USER, 1, "", 0, state.at + 1, ""
    )
    put_rows(state, *(Put(Table.TOKENS, f"{n:064x}", token) for n in range(TOKENS_PER_USER)))
    made = data(state, CU, Service.KEY_USAGE, guarded.ref)
    assert refusal(state, e.QuorumTokenIssued(CU.actor, "l", made)).code == "limit"
    issue(state, DEE, Service.KEY_USAGE, guarded.ref)
    issue(state, ANA)


def test_a_token_ends_with_the_login_that_was_lent(state: State) -> None:
    guarded = quorum_key(state)
    do(state, e.LoginTicketIssued(CU.actor, "lent", 7, state.at + 60_000))
    made = data(state, CU, Service.KEY_USAGE, guarded.ref)
    do(state, e.QuorumTokenIssued(CU.actor, "lent", made))
    kept = issue(state, CU, Service.KEY_USAGE, guarded.ref)
    do(state, e.LoginTicketRevoked(ANA.actor, "lent"))
    assert set(state.tokens()) == {token_of(kept)}


def test_a_spent_token_is_not_issued_once_more(state: State) -> None:
    """A hostile HSM would write down the same data again, for which the approvals are there."""
    values(state, user=2)
    made = issue(state, ANA)
    again = e.QuorumTokenIssued(ANA.actor, "login-ana", made)
    do(state, new_user(), approval(made, ANA, BEN))
    assert refusal(state, again).code == "exists"
    late = state.at + CLOCK_SLACK_S * 1000
    assert refusal(state, again, at=late).code in {"exists", "token-rule"}
    do(state, e.QuorumTokensDeleted(ANA.actor, of_all=False), at=late + 2 * CLOCK_SLACK_S * 1000)
    assert not state.tables[Table.SPENT]
    assert refusal(state, again).code == "token-rule"  # too old by then


# --- issuing ---


def test_what_a_token_may_say(state: State) -> None:
    def code(who: Approver, **fields: object) -> str:
        good = ApprovalData(Service.USER, 0, who.name, state.at // 1000, "", (bytes(16),))
        changed = ApprovalData(**{**{f: getattr(good, f) for f in good.__slots__}, **fields})
        return refusal(state, e.QuorumTokenIssued(who.actor, "", changed.pack())).code

    assert code(ANA, requester="ben") == "token-rule"
    assert code(ANA, issued_at_s=state.at // 1000 - 100) == "token-rule"
    assert code(ANA, issued_at_s=state.at // 1000 + 100) == "token-rule"
    assert code(ANA, service=Service.REGISTRATION) == "token-rule"
    assert code(ANA, service=Service.MFA) == "token-rule"
    assert code(ANA, nonces=(bytes(16),) * 2) == "token-rule"
    assert code(ANA, ref=1) == "token-rule"
    assert code(CU) == "token-rule"
    assert code(ANA, service=Service.KEY_DELETE) == "token-rule"
    assert code(CU, service=Service.KEY_USAGE, ref=9) == "not-found"
    for junk in (b"", bytes(80), bytes(5000), b"x" * 80):
        assert refusal(state, e.QuorumTokenIssued(ANA.actor, "", junk)).code == "token-rule"
    made = issue(state, ANA)
    twice = e.QuorumTokenIssued(ANA.actor, "", made)
    assert refusal(state, twice).code == "exists"


def test_withdrawing_tokens(state: State) -> None:
    issue(state, ANA)
    issue(state, BEN)
    do(state, e.QuorumTokensDeleted(ANA.actor, of_all=False))
    assert [t.name for t in state.tokens().values()] == ["ben"]
    assert refusal(state, e.QuorumTokensDeleted(CU.actor, of_all=True)).code == "permission-denied"
    do(state, e.QuorumTokensDeleted(ANA.actor, of_all=True))
    assert not state.tokens()


# --- values ---


def setting(service: Service, value: int, who: Approver = ANA) -> e.QuorumValueSet:
    return e.QuorumValueSet(who.actor, service, value)


def test_the_rules_of_quorum_values(state: State) -> None:
    for value in (-1, 0, 5, 9):  # four admins
        assert refusal(state, setting(Service.USER, value)).code == "quorum-value"
    for service in (Service.KEY_USAGE, Service.REGISTRATION, Service.MFA):
        assert refusal(state, setting(service, 2)).code == "quorum-value"
    assert refusal(state, setting(Service.USER, 2, CU)).code == "permission-denied"
    do(state, setting(Service.USER, 3))
    # Lowering it needs a quorum value as high, so that nobody does it alone.
    assert refusal(state, setting(Service.USER, 1)).code == "quorum-value"
    do(state, setting(Service.QUORUM, 2))
    made = issue(state, ANA, Service.QUORUM)
    assert refusal(state, setting(Service.USER, 1), approval(made, ANA, BEN)).code == "quorum-value"
    assert str(refusal(state, setting(Service.QUORUM, 3))) == MESSAGE
    do(state, setting(Service.QUORUM, 3), approval(made, ANA, BEN))
    made = issue(state, ANA, Service.QUORUM)
    assert refusal(state, setting(Service.USER, 1), approval(made, ANA, BEN)).code == CODE
    do(state, setting(Service.USER, 1), approval(made, ANA, BEN, CAI))
    assert state.quorum.value(Service.USER) == 1
    assert state.quorum.values == ((Service.QUORUM, 3),)


def test_a_disabled_admin_is_none_for_a_value(state: State) -> None:
    put_rows(state, Put(Table.USERS, user_row(BEN.role, "ben"), BEN.user(disabled=True)))
    assert refusal(state, setting(Service.USER, 4)).code == "quorum-value"
    do(state, setting(Service.USER, 3))


def test_no_admin_leaves_whom_a_quorum_needs(state: State) -> None:
    do(state, setting(Service.CLUSTER, 4))
    for change in (
        e.UserDeleted(ANA.actor, "ben", Role.ADMIN),
        e.UserDisabled(ANA.actor, "ben", Role.ADMIN),
    ):
        assert refusal(state, change).code == "quorum-strands"


def policy(who: Approver = ANA, **fields: object) -> e.QuorumPolicySet:
    change = e.QuorumPolicySet(who.actor, False, False, 600, 600)
    return msgspec.structs.replace(change, **fields)


def test_the_policy_is_guarded_as_values_are(state: State) -> None:
    assert refusal(state, policy(generated_s=59)).code == "quorum-policy"
    assert refusal(state, policy(approved_s=86_401)).code == "quorum-policy"
    assert refusal(state, policy(CU)).code == "permission-denied"
    do(state, policy(generated_s=3600))
    values(state, user=2)
    assert refusal(state, policy()).code == "quorum-value"
    values(state, user=2, quorum=2)
    assert str(refusal(state, policy())) == MESSAGE
    made = issue(state, ANA, Service.QUORUM)
    do(state, policy(bound_only=True), approval(made, ANA, BEN))
    assert state.quorum.bound_only


# --- bound tokens ---


def test_a_bound_token_is_for_one_operation_and_its_arguments(state: State) -> None:
    values(state, user=2)
    made = issue(state, ANA, words=words_of(new_user()))
    other = refusal(state, new_user(name="mallory"), approval(made, ANA, BEN))
    assert "`user create username=new role=crypto-user`" in str(other)
    as_admin = e.UserCreated(ANA.actor, "new", Role.ADMIN, "hash")
    assert refusal(state, as_admin, approval(made, ANA, BEN)).code == CODE
    do(state, new_user(), approval(made, ANA, BEN))


def test_policy_may_demand_bound_tokens(state: State) -> None:
    values(state, user=2)
    made = issue(state, ANA)
    row = QuorumPolicy(((Service.USER, 2),), bound_only=True)
    put_rows(state, Put(Table.QUORUM, ONLY, row))
    assert "bound" in str(refusal(state, new_user(), approval(made, ANA, BEN)))
    plain = e.QuorumTokenIssued(ANA.actor, "", data(state, ANA, Service.USER))
    assert refusal(state, plain).code == "bound-only"
    made = issue(state, ANA, words=words_of(new_user()))
    do(state, new_user(), approval(made, ANA, BEN))


def user_replica(who: Approver = ANA, **fields: bytes) -> e.Replicated:
    user = e.encode(User("new", Role.ADMIN, "h", 1))
    replica = msgspec.structs.replace(
        e.Replica("cluster-clone", "hsm-x", "cluster-here", "hsm-y", 0, user=user), **fields
    )
    return e.Replicated(who.actor, e.SignedReplica(e.encode(replica), b"", e.Credential(b"", b"")))


GUARDED: dict[str, tuple[Service, e.Change]] = {
    "user create": (Service.USER, new_user()),
    "user replicate": (Service.USER, user_replica()),
    "user delete": (Service.USER, e.UserDeleted(ANA.actor, "dee", Role.CRYPTO_USER)),
    "user unlock": (Service.USER, e.UserUnlocked(ANA.actor, "dee", Role.CRYPTO_USER)),
    "user disable": (Service.USER, e.UserDisabled(ANA.actor, "dee", Role.CRYPTO_USER)),
    "user enable": (Service.USER, e.UserEnabled(ANA.actor, "dee", Role.CRYPTO_USER)),
    "user transfer-keys": (Service.USER, e.KeysTransferred(ANA.actor, "dee", "cu")),
    "user change-password": (
        Service.USER,
        e.PasswordChanged(ANA.actor, "dee", Role.CRYPTO_USER, "h"),
    ),
    "user change-mfa deregister": (
        Service.USER,
        e.MfaChanged(ANA.actor, "dee", Role.CRYPTO_USER, "", b"", b"", b"", change_quorum=False),
    ),
    "quorum set-value": (Service.QUORUM, setting(Service.USER, 2)),
    "quorum set-policy": (Service.QUORUM, policy()),
    "host admit": (Service.CLUSTER, e.HostAdmitted(ANA.actor, "h", bytes(32))),
    "host expel": (Service.CLUSTER, e.HostExpelled(ANA.actor, "h")),
    "recovery create-shares": (Service.SHARE_EXPORT, e.RecoveryKeySet(ANA.actor, b"", 2, 3)),
    "key delete": (Service.KEY_DELETE, e.KeyDeleted(CU.actor, 1)),
    "hsm delete": (Service.HSM_DELETE, e.HsmRemoved("hsm-x", e.Rekey(1, ()), compromised=False)),
    "cluster delete": (Service.CLUSTER_DELETE, e.ClusterClosed()),
    "backup restore": (
        Service.BACKUP_RESTORE,
        e.ClusterRestored("c", "backup-b", b"", e.Credential(b"", b""), b"", e.Rekey(1, ())),
    ),
}


@pytest.mark.parametrize("what", sorted(GUARDED))
def test_every_guarded_operation_has_its_service_and_words(state: State, what: str) -> None:
    service, change = GUARDED[what]
    assert guard_of(state, change) is None
    values(state, **{service.replace("-", "_"): 2})
    guard = guard_of(state, change)
    assert guard is not None
    assert (guard.service, guard.needed, guard.ref) == (service, 2, 0)
    assert f"{words_of(change)} ".startswith(f"{what} ")


def test_every_service_with_a_value_guards_something() -> None:
    guarding = {service for service, _ in GUARDED.values()}
    assert guarding == ADMIN_SERVICES == set(VALUED_SERVICES)


@pytest.mark.parametrize("values_", [(2, 3), (3, 2)])
def test_a_recovery_key_is_guarded_by_the_stricter_of_two(
    state: State, values_: tuple[int, int]
) -> None:
    values(state, share_export=values_[0], cluster=values_[1])
    guard = guard_of(state, e.RecoveryKeySet(ANA.actor, b"", 2, 3))
    assert guard is not None
    assert guard.needed == 3


def test_ones_own_password_is_ones_own(state: State) -> None:
    values(state, user=2)
    own = e.PasswordChanged(ANA.actor, "ana", Role.ADMIN, "h")
    assert guard_of(state, own) is None
    weaker = msgspec.structs.replace(own, deregister_mfa=True)
    assert guard_of(state, weaker) is not None
    cu = e.PasswordChanged(CU.actor, "cu", Role.CRYPTO_USER, "h", deregister_mfa=True)
    assert guard_of(state, cu) is None


def test_other_changes_have_other_words() -> None:
    words = [words_of(change) for _, change in GUARDED.values()]
    assert len(set(words)) == len(words)
    spaced = e.HostAdmitted(ANA.actor, "a key=b", bytes(32))
    assert words_of(spaced).startswith("host admit host='a key=b' key=0000")


def test_a_key_that_comes_from_a_clone_is_no_user(state: State) -> None:
    values(state, user=2)
    of_key = user_replica(user=b"", key=e.encode(key()))
    assert guard_of(state, of_key) is None
    assert words_of(of_key) == ""


# --- keys ---


def test_a_keys_values_fit_its_users(state: State) -> None:
    for bad in (
        key(use_quorum=2),
        key(use_quorum=1),
        key(use_quorum=3, shared=("dee",)),
        key(manage_quorum=9, shared=("dee",)),
        key(manage_quorum=2, shared=("dee",), key_class=KeyClass.PUBLIC),
    ):
        refused = refusal(state, e.KeysCreated(CU.actor, (bad,)))
        assert (refused.code, str(refused)) == ("quorum-value", "Invalid quorum value provided.")
    for bad, code in (
        (key(shared=("cu",)), "share-rule"),
        (key(shared=("dee", "dee")), "share-rule"),
        (key(shared=("nobody",)), "not-found"),
        (key(shared=("ana",)), "not-found"),
    ):
        assert refusal(state, e.KeysCreated(CU.actor, (bad,))).code == code
    do(state, e.KeysCreated(CU.actor, (key(use_quorum=2, manage_quorum=2, shared=("dee",)),)))


def quorum_key(state: State) -> Key:
    do(state, e.KeysCreated(CU.actor, (key(use_quorum=2, shared=("dee",)),)))
    return state.all_keys()[-1]


def test_the_use_of_a_key_is_approved_by_owner_and_shared_users(state: State) -> None:
    guarded = quorum_key(state)
    request = use_digest("sign", guarded.ref, "cu", "ecdsa", b"digest")
    use = e.KeyUseApproved(CU.actor, guarded.ref, "sign", request)
    refused = refusal(state, use)
    assert (refused.code, str(refused)) == (KEY_CODE, "Quorum Failed")
    made = issue(state, CU, Service.KEY_USAGE, guarded.ref)
    assert refusal(state, use, approval(made, CU, ANA)).code == KEY_CODE
    do(state, use, approval(made, CU, DEE))
    assert request.hex() in state.tables[Table.GRANTS]
    assert refusal(state, use, approval(made, CU, DEE)).code == KEY_CODE
    do(state, new_user(), at=state.at + 600_001)
    assert not state.tables[Table.GRANTS]


def test_a_signature_has_one_name_raw_or_hashed() -> None:
    key = rsa.generate_private_key(65537, 2048)

    def name(scheme: SignScheme, hash_: HashFunction | None, data: bytes, salt: int = 0) -> bytes:
        return use_digest("sign", 7, "cu", SignMechanism(scheme, hash_, salt), data)

    pkcs1, ecdsa, pss = SignScheme.RSA_PKCS, SignScheme.ECDSA, SignScheme.RSA_PSS
    seen = set()
    for hash_ in HashFunction:
        digest = hashlib.new(hash_, b"contract").digest()
        prehashed = utils.Prehashed(getattr(hashes, hash_.upper())())
        signature = key.sign(digest, padding.PKCS1v15(), prehashed)
        info = key.public_key().recover_data_from_signature(signature, padding.PKCS1v15(), None)
        assert name(pkcs1, hash_, digest) == name(pkcs1, None, info)
        assert name(ecdsa, hash_, digest) == name(ecdsa, None, digest)
        seen |= {name(pkcs1, hash_, digest), name(pkcs1, None, digest), name(ecdsa, hash_, digest)}
        seen |= {name(pss, hash_, digest), name(pss, hash_, digest, 20)}
    assert len(seen) == 5 * 5


def test_a_key_token_is_for_its_key(state: State) -> None:
    one, two = quorum_key(state), quorum_key(state)
    made = issue(state, CU, Service.KEY_USAGE, one.ref)
    use = e.KeyUseApproved(CU.actor, two.ref, "sign", bytes(32))
    assert refusal(state, use, approval(made, CU, DEE)).code == KEY_CODE


def test_many_tokens_for_key_services(state: State) -> None:
    guarded = quorum_key(state)
    for _ in range(3):
        issue(state, CU, Service.KEY_USAGE, guarded.ref)
    assert len(state.tokens()) == 3


def test_what_key_use_cannot_be_approved(state: State) -> None:
    guarded = quorum_key(state)
    do(state, e.KeysCreated(CU.actor, (key(),)))
    free = state.all_keys()[-1]
    for change, code in (
        (e.KeyUseApproved(CU.actor, free.ref, "sign", bytes(32)), "approval-unneeded"),
        (e.KeyUseApproved(CU.actor, guarded.ref, "explode", bytes(32)), "token-rule"),
        (e.KeyUseApproved(CU.actor, guarded.ref, "sign", b""), "token-rule"),
        (e.KeyUseApproved(ANA.actor, guarded.ref, "sign", bytes(32)), "permission-denied"),
    ):
        assert refusal(state, change).code == code
    do(state, new_user(name="eve"))
    eve = e.Actor("eve", Role.CRYPTO_USER)
    change = e.KeyUseApproved(eve, guarded.ref, "sign", bytes(32))
    assert refusal(state, change).code == "not-found"


# --- the bytes ---


@given(
    service=st.sampled_from(Service),
    ref=st.integers(0, (1 << 64) - 1),
    requester=st.from_regex(r"[a-z0-9_]{1,31}", fullmatch=True),
    issued=st.integers(0, 1 << 40),
    words=st.text(
        st.characters(codec="utf-8", exclude_categories=["C", "Zl", "Zp", "Zs"]), max_size=200
    ),
    nonces=st.lists(st.binary(min_size=16, max_size=16), min_size=1, max_size=28),
    number=st.integers(0, (1 << 32) - 1),
)
def test_approval_data_says_what_was_packed(  # its parts
    service: Service,
    ref: int,
    requester: str,
    issued: int,
    words: str,
    nonces: list[bytes],
    number: int,
) -> None:
    made = ApprovalData(service, ref, requester, issued, words, tuple(nonces), number)
    assert ApprovalData.parse(made.pack()) == made


@given(junk=st.binary(max_size=400), place=st.integers(0, 10_000), flip=st.integers(1, 255))
def test_other_bytes_are_refused_or_mean_something_else(junk: bytes, place: int, flip: int) -> None:
    made = ApprovalData(Service.USER, 0, "ana", 1, "user create", (bytes(16), b"1" * 16))
    edited = bytearray(made.pack())
    edited[place % len(edited)] ^= flip
    for candidate in (junk, bytes(edited), made.pack()[:-1], made.pack() + b"x"):
        try:
            parsed = ApprovalData.parse(candidate)
        except MalformedError:
            continue
        assert parsed != made
        assert parsed.pack() == candidate


def test_the_published_layout() -> None:
    """CloudHSM's: 80 bytes an HSM, big-endian; form 1 for services, 2 for keys."""
    made = ApprovalData(Service.USER, 0, "admin", 0x0102030405, "", (b"n" * 16, b"m" * 16), 24)
    record = bytes.fromhex("0001 0003 00000018 0000000000000000") + b"n" * 16
    record += b"admin".ljust(32, b"\0") + bytes.fromhex("0000000102030405") + bytes(8)
    assert made.pack()[:80] == record
    assert made.pack()[80:88] == bytes.fromhex("0001 0003 00000019")
    key_token = ApprovalData(Service.KEY_USAGE, 0x680006, "crypto_user", 1, "", (bytes(16),), 25)
    assert key_token.pack()[:16] == bytes.fromhex("0002 0005 00000019 0000000000680006")


def managed(state: State) -> Key:
    do(state, new_user(name="fay"))
    made = key(manage_quorum=2, shared=("dee",))
    do(state, e.KeysCreated(CU.actor, (made,)))
    return state.all_keys()[-1]


def test_managing_a_key_is_approved_by_its_users(state: State) -> None:
    guarded = managed(state)
    changes = (
        e.KeyShared(CU.actor, guarded.ref, "fay"),
        e.KeyChanged(CU.actor, guarded.ref, "label", "new"),
        e.KeyUnshared(CU.actor, guarded.ref, "fay"),
        e.KeyUseApproved(CU.actor, guarded.ref, "wrap", bytes(32)),
    )
    for change in changes:
        assert refusal(state, change).code in {CODE, KEY_CODE}
        made = issue(state, CU, Service.KEY_MANAGEMENT, guarded.ref)
        assert refusal(state, change, approval(made, CU)).code in {CODE, KEY_CODE}
        do(state, change, approval(made, CU, DEE))
    # Fewer users than the value needs: nobody could ever approve again.
    made = issue(state, CU, Service.KEY_MANAGEMENT, guarded.ref)
    last = e.KeyUnshared(CU.actor, guarded.ref, "dee")
    assert refusal(state, last, approval(made, CU, DEE)).code == "quorum-strands"
    delete = e.UserDeleted(ANA.actor, "dee", Role.CRYPTO_USER)
    assert refusal(state, delete).code == "quorum-strands"


def test_an_admins_word_on_a_key_is_the_admins(state: State) -> None:
    guarded = managed(state)
    assert guard_of(state, e.KeyChanged(ANA.actor, guarded.ref, "trusted", "true")) is None


def test_key_use_and_key_management_are_two_services(state: State) -> None:
    guarded = managed(state)
    made = issue(state, CU, Service.KEY_USAGE, guarded.ref)
    change = e.KeyShared(CU.actor, guarded.ref, "fay")
    assert "service key-usage" in str(refusal(state, change, approval(made, CU, DEE)))
