"""Locks, disabled users, ownership, registered keys, second factors, login tickets: the rules."""

from __future__ import annotations

import msgspec
import pytest

from orchestrator.model import entries as e
from orchestrator.model.entries import LOGIN_LIFE_MS
from orchestrator.model.factor_decisions import (
    MFA_ENROLMENT,
    REGISTRATION,
    TICKETS_PER_USER,
)
from orchestrator.model.objects import ObjectClass, ObjectDraft
from orchestrator.model.quorum import ApprovalData, possession_words, token_of
from orchestrator.model.roles import Role
from orchestrator.model.services import Service
from orchestrator.model.state import Put, State, Table, user_row
from tests.unit.approvers import Approver, approver, put_rows
from tests.unit.test_quorum import ANA, BEN, CU, DEE, do, fresh, key, refusal, values

CAI = approver("cai")


@pytest.fixture
def state(grown: State) -> State:
    return fresh(grown)


def is_locked(state: State, name: str) -> bool:
    return state.user(Role.CRYPTO_USER, name).locked


def test_an_admin_unlocks_and_logins_stay(state: State) -> None:
    do(state, e.UserLocked("dee", Role.CRYPTO_USER))
    before = state.user(Role.CRYPTO_USER, "dee")
    unlock = e.UserUnlocked(ANA.actor, "dee", Role.CRYPTO_USER)
    assert refusal(state, msgspec.structs.replace(unlock, actor=CU.actor)).code == (
        "permission-denied"
    )
    do(state, unlock)
    after = state.user(Role.CRYPTO_USER, "dee")
    assert (after.locked, after.version) == (False, before.version)
    assert after.tries_version > before.tries_version
    assert refusal(state, e.UserUnlocked(ANA.actor, "app_user", Role.APPLIANCE_USER)).code == (
        "role-rule"
    )


def test_disabling_ends_logins_and_enabling_lets_new_ones_in(state: State) -> None:
    before = state.user(Role.CRYPTO_USER, "dee").version
    disable = e.UserDisabled(ANA.actor, "dee", Role.CRYPTO_USER)
    do(state, disable)
    user = state.user(Role.CRYPTO_USER, "dee")
    assert (user.disabled, user.version) == (True, before + 1)
    assert refusal(state, disable).code == "exists"
    enable = e.UserEnabled(ANA.actor, "dee", Role.CRYPTO_USER)
    do(state, enable)
    assert not state.user(Role.CRYPTO_USER, "dee").disabled
    assert refusal(state, enable).code == "exists"
    for change in (disable, enable):
        by_user = msgspec.structs.replace(change, actor=CU.actor)
        assert refusal(state, by_user).code == "permission-denied"


def only_ana(state: State) -> None:
    """Of all admins only ana can log in: the others are locked or disabled."""
    rows = (
        BEN.user(locked=True),
        CAI.user(disabled=True),
        msgspec.structs.replace(state.user(Role.ADMIN, "admin"), locked=True),
    )
    put_rows(state, *(Put(Table.USERS, user_row(Role.ADMIN, row.name), row) for row in rows))


def test_the_last_able_admin_stays_one(state: State) -> None:
    only_ana(state)
    words = possession_words(MFA_ENROLMENT, state.meta.cluster, Role.ADMIN, "ana", "hsm-x")
    for change in (
        e.UserDeleted(ANA.actor, "ana", Role.ADMIN),
        e.UserDisabled(ANA.actor, "ana", Role.ADMIN),
        e.UserLocked("ana", Role.ADMIN),
        mfa(state, ANA, words),
    ):
        assert refusal(state, change).code == "last-admin"
    do(state, e.UserDisabled(ANA.actor, "ben", Role.ADMIN))
    do(state, e.UserEnabled(ANA.actor, "cai", Role.ADMIN))
    do(state, e.UserDisabled(ANA.actor, "ana", Role.ADMIN))


def test_a_leaving_owner_hands_over_keys_and_objects(state: State) -> None:
    do(state, e.KeysCreated(CU.actor, (key(shared=("dee",)),)))
    stored = ObjectDraft(object_class=ObjectClass.DATA, value=b"v", shared=("dee",))
    do(state, e.ObjectCreated(CU.actor, stored))
    delete = e.UserDeleted(ANA.actor, "cu", Role.CRYPTO_USER)
    assert refusal(state, delete).code == "user-owns-keys"
    for heir, code in (("cu", "transfer-rule"), ("nobody", "not-found"), ("ben", "not-found")):
        assert refusal(state, msgspec.structs.replace(delete, transfer_to=heir)).code == code
    assert refusal(state, e.UserDeleted(ANA.actor, "ben", Role.ADMIN, "dee")).code == "usage"
    do(state, msgspec.structs.replace(delete, transfer_to="dee"))
    [mine] = state.all_keys()
    [kept] = state.objects()
    assert (mine.owner, mine.shared, kept.owner, kept.shared) == ("dee", (), "dee", ())


def test_a_disabled_user_inherits_nothing(state: State) -> None:
    do(state, e.UserDisabled(ANA.actor, "dee", Role.CRYPTO_USER))
    assert refusal(state, e.KeysTransferred(ANA.actor, "cu", "dee")).code == "user-disabled"


def test_keys_are_transferred_without_deleting(state: State) -> None:
    do(state, e.KeysCreated(CU.actor, (key(),)))
    do(state, e.KeysCreated(DEE.actor, (key(owner="dee", shared=("cu",)),)))
    assert refusal(state, e.KeysTransferred(CU.actor, "cu", "dee")).code == "permission-denied"
    do(state, e.KeysTransferred(ANA.actor, "cu", "dee"))
    assert {(k.owner, k.shared) for k in state.all_keys()} == {("dee", ()), ("dee", ("cu",))}
    assert not state.user(Role.CRYPTO_USER, "cu").disabled


def test_who_comes_under_an_old_name_finds_no_old_shares(state: State) -> None:
    do(state, e.KeysCreated(CU.actor, (key(shared=("dee",)),)))
    do(state, e.UserDeleted(ANA.actor, "dee", Role.CRYPTO_USER))
    do(state, e.UserCreated(ANA.actor, "dee", Role.CRYPTO_USER, "hash"))
    assert state.all_keys()[0].shared == ()


def test_a_quorum_of_users_guards_them_all(state: State) -> None:
    values(state, user=2)
    do(state, e.UserLocked("dee", Role.CRYPTO_USER))
    for change in (
        e.UserUnlocked(ANA.actor, "dee", Role.CRYPTO_USER),
        e.UserDisabled(ANA.actor, "dee", Role.CRYPTO_USER),
        e.KeysTransferred(ANA.actor, "cu", "dee"),
        e.UserDeleted(ANA.actor, "cu", Role.CRYPTO_USER, "dee"),
    ):
        assert refusal(state, change).code == "quorum-approval"


# --- registered keys and second factors ---


def proof(state: State, who: Approver, service: Service, words: str, age_s: int = 0) -> bytes:
    at = state.at // 1000 - age_s
    return ApprovalData(service, 0, who.name, at, words, (bytes(16),)).pack()


def registration(
    state: State, who: Approver, holder: Approver | None = None, age_s: int = 0
) -> e.ApprovalKeyRegistered:
    words = possession_words(REGISTRATION, state.meta.cluster, who.role, who.name)
    data, holder = proof(state, who, Service.REGISTRATION, words, age_s), holder or who
    return e.ApprovalKeyRegistered(who.actor, holder.public, data, holder.sign(token_of(data)))


def mfa(state: State, who: Approver, words: str = "", **fields: object) -> e.MfaChanged:
    words = words or possession_words(MFA_ENROLMENT, state.meta.cluster, who.role, who.name)
    data = proof(state, who, Service.MFA, words)
    change = e.MfaChanged(
        who.actor, who.name, who.role, "new-hash", who.public, data, who.sign(token_of(data)),
        change_quorum=False,
    )  # fmt: skip
    return msgspec.structs.replace(change, **fields)


def without_key(state: State, who: Approver) -> None:
    put_rows(state, Put(Table.USERS, user_row(who.role, who.name), who.user(quorum_key=b"")))


def test_a_key_is_registered_by_who_holds_it(state: State) -> None:
    without_key(state, BEN)
    good = registration(state, BEN)
    for bad, code in (
        (registration(state, BEN, age_s=601), "possession"),
        (registration(state, BEN, age_s=-61), "possession"),
        (msgspec.structs.replace(good, signature=bytes(256)), "possession"),
        (msgspec.structs.replace(good, public=approver("spare").public), "possession"),
        (msgspec.structs.replace(good, actor=CAI.actor), "possession"),
        (msgspec.structs.replace(good, approval_data=bytes(80)), "public-key"),
        (msgspec.structs.replace(good, public=b"junk"), "public-key"),
        (msgspec.structs.replace(good, public=bytes(5000)), "public-key"),
    ):
        assert refusal(state, bad).code == code
    do(state, good)
    assert state.user(Role.ADMIN, "ben").quorum_key == BEN.public


def test_nobody_registers_anothers_key(state: State) -> None:
    """With one key and two names a person would be a quorum."""
    without_key(state, BEN)
    assert refusal(state, registration(state, BEN, holder=ANA)).code == "key-taken"
    put_rows(state, Put(Table.USERS, user_row(CU.role, "cu"), CU.user(mfa_key=CAI.public)))
    without_key(state, CAI)
    assert refusal(state, registration(state, CAI)).code == "key-taken"


def test_a_proof_serves_one_purpose(state: State) -> None:
    without_key(state, BEN)
    other = mfa(state, BEN)
    crossed = e.ApprovalKeyRegistered(BEN.actor, other.public, other.approval_data, other.signature)
    assert refusal(state, crossed).code == "possession"
    good = registration(state, BEN)
    back = mfa(state, BEN, approval_data=good.approval_data, signature=good.signature)
    assert refusal(state, back).code == "possession"


def test_a_second_factor_comes_changes_and_goes(state: State) -> None:
    spare = approver("spare")
    before = state.user(Role.ADMIN, "ben")
    do(state, mfa(state, BEN))
    user = state.user(Role.ADMIN, "ben")
    assert (user.mfa_key, user.quorum_key) == (BEN.public, BEN.public)
    assert (user.password_hash, user.version) == ("new-hash", before.version + 1)
    change = mfa(state, BEN)
    rotated = msgspec.structs.replace(
        change, public=spare.public, signature=spare.sign(token_of(change.approval_data)),
        password_hash="",
    )  # fmt: skip
    do(state, rotated)
    user = state.user(Role.ADMIN, "ben")
    assert (user.mfa_key, user.quorum_key) == (spare.public, BEN.public)
    assert user.password_hash == "new-hash"
    do(state, msgspec.structs.replace(rotated, change_quorum=True))
    assert state.user(Role.ADMIN, "ben").quorum_key == spare.public
    gone = msgspec.structs.replace(rotated, public=b"", approval_data=b"", signature=b"")
    do(state, gone)
    user = state.user(Role.ADMIN, "ben")
    assert (user.mfa_key, user.quorum_key) == (b"", spare.public)
    do(state, msgspec.structs.replace(gone, change_quorum=True))
    assert state.user(Role.ADMIN, "ben").quorum_key == b""


def test_who_has_no_quorum_key_gets_one_with_the_factor(state: State) -> None:
    without_key(state, BEN)
    do(state, mfa(state, BEN))
    assert state.user(Role.ADMIN, "ben").quorum_key == BEN.public


def test_only_admins_change_anothers_factor(state: State) -> None:
    change = mfa(state, DEE, public=b"")
    assert refusal(state, msgspec.structs.replace(change, actor=CU.actor)).code == (
        "permission-denied"
    )
    do(state, msgspec.structs.replace(change, actor=ANA.actor))
    app = msgspec.structs.replace(
        change, actor=ANA.actor, name="app_user", role=Role.APPLIANCE_USER
    )
    assert refusal(state, app).code == "role-rule"


def test_a_new_password_keeps_or_drops_factor_and_key(state: State) -> None:
    do(state, mfa(state, BEN))
    plain = e.PasswordChanged(ANA.actor, "ben", Role.ADMIN, "h")
    do(state, plain)
    assert state.user(Role.ADMIN, "ben").mfa_key == BEN.public
    do(state, msgspec.structs.replace(plain, deregister_mfa=True, deregister_quorum=True))
    user = state.user(Role.ADMIN, "ben")
    assert (user.mfa_key, user.quorum_key) == (b"", b"")


# --- login tickets ---


def test_login_tickets_have_bounds(state: State) -> None:
    hour = 3_600_000

    def lend(number: int = 0, until: int = 0, uid: int = 7) -> e.LoginTicketIssued:
        return e.LoginTicketIssued(CU.actor, f"login-{number}", uid, until or state.at + hour)

    assert refusal(state, lend(until=state.at)).code == "ticket-rule"
    assert refusal(state, lend(until=state.at + LOGIN_LIFE_MS + 1)).code == "ticket-rule"
    for uid in (-1, (1 << 32) - 1):
        assert refusal(state, lend(uid=uid)).code == "ticket-rule"
    by_admin = msgspec.structs.replace(lend(), actor=ANA.actor)
    assert refusal(state, by_admin).code == "permission-denied"
    do(state, lend())
    assert refusal(state, lend()).code == "exists"
    for number in range(1, TICKETS_PER_USER):
        do(state, lend(number))
    assert refusal(state, lend(99)).code == "limit"
    for who, code in ((DEE, "not-found"), (CU, None), (CU, "not-found")):
        revoke = e.LoginTicketRevoked(who.actor, "login-1")
        if code is None:
            do(state, revoke)
        else:
            assert refusal(state, revoke).code == code
    do(state, e.LoginTicketRevoked(ANA.actor, "login-2"))
    do(state, e.UserUnlocked(ANA.actor, "dee", Role.CRYPTO_USER), at=state.at + 2 * hour)
    assert not state.tables[Table.LOGIN_TICKETS]
