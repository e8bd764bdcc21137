"""What entries about registered keys, second factors and login tickets do to state n."""

from __future__ import annotations

from typing import Final

import msgspec

from orchestrator.model import entries as e
from orchestrator.model.approvals import CLOCK_SLACK_S
from orchestrator.model.errors import MalformedError, RefusedError, TamperedError
from orchestrator.model.quorum import ApprovalData, possession_words, token_of
from orchestrator.model.quorum_decisions import tokens_of_login
from orchestrator.model.roles import LOGIN_ROLES, Operation, Role
from orchestrator.model.rules import authorize, need
from orchestrator.model.services import Service
from orchestrator.model.ssh_signature import check_public_key, check_signature
from orchestrator.model.state import LoginTicket, Put, State, Table, User, user_row
from orchestrator.model.user_decisions import has_other_able_admin

REGISTRATION: Final = "user change-quorum register"
MFA_ENROLMENT: Final = "user change-mfa"
MFA_LOGIN: Final = "login"
NAMESPACES: Final = {Service.REGISTRATION: "cloister-registration", Service.MFA: "cloister-mfa"}
PROOF_LIFE_S: Final = 600
TICKETS_PER_USER: Final = 16
_UID_MAX: Final = (1 << 32) - 2


def approval_key_registered(
    state: State, header: e.Header, change: e.ApprovalKeyRegistered
) -> tuple[Put, ...]:
    """Register the actor's quorum key."""
    user = authorize(state, change.actor, Operation.REGISTER_APPROVAL_KEY)
    words = possession_words(REGISTRATION, state.meta.cluster, user.role, user.name)
    proof = (change.approval_data, change.signature)
    _check_possession(state, header.at, user, Service.REGISTRATION, words, change.public, proof)
    changed = msgspec.structs.replace(user, quorum_key=change.public)
    return (Put(Table.USERS, user_row(user.role, user.name), changed),)


def mfa_changed(state: State, header: e.Header, change: e.MfaChanged) -> tuple[Put, ...]:
    """Set or remove a second factor; the user's logins end."""
    own = (change.actor.role, change.actor.name) == (change.role, change.name)
    operation = Operation.CHANGE_OWN_MFA if own else Operation.CHANGE_OTHER_MFA
    authorize(state, change.actor, operation)
    need(change.role in LOGIN_ROLES, "role-rule", f"a {change.role} does not log in")
    user = state.user(change.role, change.name)
    quorum_key = user.quorum_key
    if change.public:
        # A lost key must not end the administration of the cluster.
        need(
            user.role is not Role.ADMIN or has_other_able_admin(state, user),
            "last-admin",
            f"{user.name} is the last admin, whom a lost key would shut out; create another first",
        )
        words = possession_words(MFA_ENROLMENT, state.meta.cluster, user.role, user.name)
        proof = (change.approval_data, change.signature)
        _check_possession(state, header.at, user, Service.MFA, words, change.public, proof)
        if change.change_quorum or not quorum_key:
            quorum_key = change.public
    elif change.change_quorum:
        quorum_key = b""
    changed = msgspec.structs.replace(
        user,
        password_hash=change.password_hash or user.password_hash,
        version=user.version + 1,
        mfa_key=change.public,
        quorum_key=quorum_key,
    )
    return (Put(Table.USERS, user_row(user.role, user.name), changed),)


def _check_possession(
    state: State,
    at: int,
    user: User,
    service: Service,
    words: str,
    public: bytes,
    proof: tuple[bytes, bytes],
) -> None:
    """Check that whoever sends `public` holds its private half, now and for this purpose."""
    approval_data, signature = proof
    try:
        identity = check_public_key(public)
        data = ApprovalData.parse(approval_data)
    except MalformedError as exc:
        raise RefusedError("public-key", str(exc)) from exc
    # One HSM's part of the file has its id at the end of the words.
    for_this = data.words == words or data.words.startswith(f"{words} hsm=")
    need(
        for_this and data.service is service and data.requester == user.name,
        "possession",
        f"the signed data is not for `{words}`; make a new file",
    )
    age_s = at // 1000 - data.issued_at_s
    need(
        -CLOCK_SLACK_S <= age_s <= PROOF_LIFE_S,
        "possession",
        f"the signed data is older than {PROOF_LIFE_S} s; make a new file",
    )
    what = f"proof of possession by {user.name}"
    try:
        check_signature(public, token_of(approval_data), signature, NAMESPACES[service], what)
    except TamperedError as exc:
        raise RefusedError("possession", str(exc)) from exc
    check_not_taken(state, user, identity)


def check_not_taken(state: State, user: User, identity: bytes) -> None:
    """One key is one person: with two names it would be a quorum of its own."""
    for other in state.users():
        if (other.role, other.name) == (user.role, user.name):
            continue
        keys = {key for key in (other.quorum_key, other.mfa_key) if key}
        need(
            identity not in {check_public_key(key) for key in keys},
            "key-taken",
            f"this key is {other.role} {other.name}'s already; every person has a key of their own",
        )


def ticket_issued(state: State, header: e.Header, change: e.LoginTicketIssued) -> tuple[Put, ...]:
    """Let a Unix user log in as the actor for a while."""
    user = authorize(state, change.actor, Operation.ISSUE_LOGIN_TICKET)
    rows = state.tables[Table.LOGIN_TICKETS]
    own = [r for r in rows.values() if isinstance(r, LoginTicket) and r.name == user.name]
    need(change.login not in rows, "exists", "there is a login of this id already")
    need(
        header.at < change.until <= header.at + e.LOGIN_LIFE_MS,
        "ticket-rule",
        "a login ticket ends within 24 hours",
    )
    need(0 <= change.uid <= _UID_MAX, "ticket-rule", "a login ticket is for one Unix user id")
    need(
        len(own) < TICKETS_PER_USER,
        "limit",
        f"{user.name} has {TICKETS_PER_USER} login tickets; revoke some",
    )
    ticket = LoginTicket(user.name, user.role, user.version, change.uid, change.until)
    return (Put(Table.LOGIN_TICKETS, change.login, ticket),)


def ticket_revoked(state: State, change: e.LoginTicketRevoked) -> tuple[Put, ...]:
    """End a login ticket: one's own, or as admin anybody's."""
    user = authorize(state, change.actor, Operation.REVOKE_LOGIN_TICKET)
    row = state.tables[Table.LOGIN_TICKETS].get(change.login)
    own = isinstance(row, LoginTicket) and (row.role, row.name) == (user.role, user.name)
    need(
        isinstance(row, LoginTicket) and (own or user.role is Role.ADMIN),
        "not-found",
        f"login ticket {change.login} does not exist; see `cloister user login-ticket list`",
    )
    return (Put(Table.LOGIN_TICKETS, change.login, None), *tokens_of_login(state, change.login))
