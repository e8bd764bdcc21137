"""Whether a change has the approvals that it needs: pure, and the same on every HSM.

Invariants: approvals count for one token, the token for one change, and it is gone with the
change; a person counts once, with the key registered when the change is made; a requester is
no approver without a signature; what is refused spends nothing.
"""

from __future__ import annotations

from typing import Final

from orchestrator.model import entries as e
from orchestrator.model.errors import MalformedError, RefusedError, TamperedError
from orchestrator.model.guards import Guard, approvers, guard_of, words_of
from orchestrator.model.quorum import ApprovalData, Token, token_of
from orchestrator.model.ssh_signature import check_signature
from orchestrator.model.state import Put, SpentToken, State, Table, User, user_row

NAMESPACE: Final = "cloister-quorum"
SIGNATURES_MAX: Final = 32
CLOCK_SLACK_S: Final = 60


def spend(state: State, at: int, change: e.Change, approval: e.Approval | None) -> tuple[Put, ...]:
    """Return the row that goes with the approvals, or raise RefusedError.

    Args:
        state: state n; for a restore, the backup's: whoever made it decides who may restore it.
        at: the entry's time, Unix ms.
        change: what is to be done; that its actor may do it at all was checked.
        approval: what came with it.
    """
    guard = guard_of(state, change)
    if guard is None:
        if approval is not None:
            raise RefusedError("approval-unneeded", "nobody needs to approve this")
        return ()
    if approval is None:
        raise _refusal(guard)
    if isinstance(change, e.ClusterRestored):
        _check_restore(state, at, change, guard, approval)
        return _counted(state, guard, approval, ())
    token = state.tokens().get(approval.token)
    if token is None:
        raise _refusal(guard)
    _check_token(state, at, change, guard, token)
    row = token_row(approval.token)
    # Its data is dated within the slack of its issue, and could be issued within it once more.
    until = token.issued_at + 2 * CLOCK_SLACK_S * 1000
    spent = (Put(Table.TOKENS, row, None), Put(Table.SPENT, row, SpentToken(until)))
    return _counted(state, guard, approval, spent)


def token_row(token: bytes) -> str:
    """Row name of a token."""
    return token.hex()


def _refusal(guard: Guard, why: str = "") -> RefusedError:
    return RefusedError(guard.code, f"{guard.refusal}: {why}" if why else guard.refusal)


def _check_token(state: State, at: int, change: e.Change, guard: Guard, token: Token) -> None:
    if token.service is not guard.service or token.ref != guard.ref:
        raise _refusal(guard, f"the token is for service {token.service}")
    if at > token.expires_at:
        raise _refusal(guard, "the token has expired")
    requester = state.tables[Table.USERS].get(user_row(token.role, token.name))
    if not isinstance(requester, User) or requester.version != token.version:
        raise _refusal(guard, f"the logins of {token.name}, who asked for it, have ended")
    actor: e.Actor | None = getattr(change, "actor", None)
    if actor is not None and (actor.role, actor.name) != (token.role, token.name):
        raise _refusal(guard, f"the token is {token.name}'s")
    if state.quorum.bound_only and not token.words:
        raise _refusal(guard, "the cluster demands tokens that are bound to the operation")
    if token.words and token.words != words_of(change):
        raise _refusal(guard, f"the token is for `{token.words}`")


def _check_restore(
    state: State, at: int, change: e.ClusterRestored, guard: Guard, approval: e.Approval
) -> None:
    """A restore's token is in no ledger: it says itself what it is for, and when it was made."""
    try:
        data = ApprovalData.parse(approval.data)
    except MalformedError as exc:
        raise _refusal(guard, str(exc)) from exc
    if token_of(approval.data) != approval.token or data.service is not guard.service:
        raise _refusal(guard, f"the token is for service {data.service}")
    if data.words != words_of(change):
        raise _refusal(guard, f"the token is for `{data.words}`")
    age_s = at // 1000 - data.issued_at_s
    if not -CLOCK_SLACK_S <= age_s <= state.quorum.generated_s:
        raise _refusal(guard, "the token has expired")


def _counted(
    state: State, guard: Guard, approval: e.Approval, spent: tuple[Put, ...]
) -> tuple[Put, ...]:
    """Return `spent` if enough different people signed; every signature given must hold."""
    if len(approval.signatures) > SIGNATURES_MAX:
        raise _refusal(guard, f"more than {SIGNATURES_MAX} signatures")
    able = approvers(state, guard)
    people = set()
    for signature in approval.signatures:
        who = (signature.role, signature.name)
        if who not in able:
            raise _refusal(guard, f"{signature.role} {signature.name} cannot approve this")
        what = f"approval by {signature.name}"
        public = able[who].quorum_key
        try:
            check_signature(public, approval.token, signature.signature, NAMESPACE, what)
        except TamperedError as exc:
            raise _refusal(guard, str(exc)) from exc
        people.add(who)
    if len(people) < guard.needed:
        raise _refusal(guard, f"{len(people)} of {guard.needed} approvals")
    return spent
