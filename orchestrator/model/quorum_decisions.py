"""What entries about quorum do to state n."""

from __future__ import annotations

from typing import Final

import msgspec

from orchestrator.model import entries as e
from orchestrator.model.approvals import CLOCK_SLACK_S, token_row
from orchestrator.model.errors import MalformedError, NotFoundError, RefusedError
from orchestrator.model.guards import MOVING
from orchestrator.model.key_spec import KeyType
from orchestrator.model.keys import Key
from orchestrator.model.quorum import (
    LIFE_S_MAX,
    TOKENS_MAX,
    TOKENS_PER_USER,
    VALUE_MAX,
    ApprovalData,
    Token,
    UseGrant,
    token_of,
)
from orchestrator.model.roles import Operation, Role
from orchestrator.model.rules import authorize, need
from orchestrator.model.services import ADMIN_SERVICES, KEY_SERVICES, Service
from orchestrator.model.state import ONLY, LoginTicket, Put, SpentToken, State, Table

LIFE_S_MIN: Final = 60
HSMS_MAX: Final = 28
SIGNING: Final = frozenset({"sign", "mac"})
CIPHERING: Final = frozenset({"encrypt", "decrypt"})
USE_OPERATIONS: Final = SIGNING | MOVING | CIPHERING | {"derive"}


def token_issued(state: State, header: e.Header, change: e.QuorumTokenIssued) -> tuple[Put, ...]:
    """Let a token wait for its operation; one of the same user and admin service goes."""
    actor = change.actor
    user = authorize(state, actor, Operation.GENERATE_TOKEN)
    try:
        data = ApprovalData.parse(change.approval_data)
    except MalformedError as exc:
        raise RefusedError("token-rule", str(exc)) from exc
    need(data.requester == actor.name, "token-rule", "a token is its requester's own")
    need(
        abs(header.at // 1000 - data.issued_at_s) <= CLOCK_SLACK_S,
        "token-rule",
        "a token is dated when it is issued",
    )
    need(len(set(data.nonces)) == len(data.nonces) <= HSMS_MAX, "token-rule", "one record an HSM")
    _check_service(state, actor, data)
    policy = state.quorum
    need(
        bool(data.words) or not policy.bound_only,
        "bound-only",
        "this cluster demands tokens that are bound to their operation: `cloister quorum request`",
    )
    tokens = {k: t for k, t in state.tokens().items() if t.expires_at >= header.at}
    replaced = {
        k
        for k, t in tokens.items()
        if data.service in ADMIN_SERVICES
        and (t.service, t.role, t.name) == (data.service, actor.role, actor.name)
    }
    need(
        len(tokens) - len(replaced) < TOKENS_MAX,
        "limit",
        f"the cluster has its {TOKENS_MAX} quorum tokens; delete some, or wait until they expire",
    )
    own = sum(1 for t in tokens.values() if (t.role, t.name) == (actor.role, actor.name))
    need(
        own - len(replaced) < TOKENS_PER_USER,  # else a crypto user could stop the admins
        "limit",
        f"{actor.name} has {TOKENS_PER_USER} quorum tokens; delete some, or wait until they expire",
    )
    token = Token(
        service=data.service,
        ref=data.ref,
        name=actor.name,
        role=actor.role,
        version=user.version,
        login=change.login,
        issued_at=header.at,
        expires_at=header.at + policy.generated_s * 1000,
        words=data.words,
    )
    name = token_of(change.approval_data)
    is_spent = token_row(name) in state.tables[Table.SPENT]
    need(name not in tokens and not is_spent, "exists", "there is, or was, this very token already")
    return (
        *(Put(Table.TOKENS, token_row(k), None) for k in replaced),
        Put(Table.TOKENS, token_row(name), token),
    )


def _check_service(state: State, actor: e.Actor, data: ApprovalData) -> None:
    service = data.service
    if service in KEY_SERVICES:
        key = state.key(data.ref)
        if actor.role is not Role.CRYPTO_USER or actor.name not in {key.owner, *key.shared}:
            raise NotFoundError("key", f"0x{data.ref:016x}", "see `cloister key list`")
        return
    need(
        service in ADMIN_SERVICES and data.ref == 0,
        "token-rule",
        f"there are no tokens for {service} here",
    )
    # Keys are their owners' to delete, so an owner asks; all else that admins approve they do.
    wanted = Role.CRYPTO_USER if service is Service.KEY_DELETE else Role.ADMIN
    need(actor.role is wanted, "token-rule", f"service {service} is for a {wanted} to ask")


def tokens_deleted(state: State, change: e.QuorumTokensDeleted) -> tuple[Put, ...]:
    """Withdraw tokens."""
    of_all = change.of_all
    operation = Operation.DELETE_ALL_TOKENS if of_all else Operation.DELETE_OWN_TOKENS
    authorize(state, change.actor, operation)
    own = (change.actor.role, change.actor.name)
    return tuple(
        Put(Table.TOKENS, token_row(name), None)
        for name, token in state.tokens().items()
        if of_all or (token.role, token.name) == own
    )


def value_set(state: State, change: e.QuorumValueSet) -> tuple[Put, ...]:
    """Set how many approvals a service needs (CloudHSM's rules)."""
    authorize(state, change.actor, Operation.SET_QUORUM)
    service, value, policy = change.service, change.value, state.quorum
    need(service in ADMIN_SERVICES, "quorum-value", f"{service} has no value; keys have their own")
    admins = sum(1 for u in state.users() if u.role is Role.ADMIN and not u.disabled)
    need(1 <= value <= VALUE_MAX, "quorum-value", f"a quorum value is 1 (off) to {VALUE_MAX}")
    need(
        value <= admins,
        "quorum-value",
        f"{value} approvals need as many admins, and there are {admins}; create more first",
    )
    # Else one admin alone could lower what several set.
    now, quorum = policy.value(service), policy.value(Service.QUORUM)
    need(
        service is Service.QUORUM or now <= quorum,
        "quorum-value",
        f"to change the value of service {service}, the value of service quorum must be at least "
        f"{now}, and it is {quorum}; raise that first",
    )
    changed = msgspec.structs.replace(policy, values=policy.with_value(service, value))
    return (Put(Table.QUORUM, ONLY, changed),)


def policy_set(state: State, change: e.QuorumPolicySet) -> tuple[Put, ...]:
    """Set what tokens must be like and how long they live."""
    authorize(state, change.actor, Operation.SET_QUORUM)
    quorum, highest = state.quorum.value(Service.QUORUM), state.quorum.highest()
    need(
        highest <= quorum,
        "quorum-value",
        f"to change the quorum policy, the value of service quorum must be at least {highest}, and "
        f"it is {quorum}; raise that first",
    )
    need(
        all(LIFE_S_MIN <= s <= LIFE_S_MAX for s in (change.generated_s, change.approved_s)),
        "quorum-policy",
        f"a token lives {LIFE_S_MIN} to {LIFE_S_MAX} s",
    )
    changed = msgspec.structs.replace(
        state.quorum,
        bound_only=change.bound_only,
        guards_use=change.guards_use,
        generated_s=change.generated_s,
        approved_s=change.approved_s,
    )
    return (Put(Table.QUORUM, ONLY, changed),)


def key_use_approved(state: State, header: e.Header, change: e.KeyUseApproved) -> tuple[Put, ...]:
    """Let one exact request be performed, also sent again."""
    authorize(state, change.actor, Operation.APPROVE_KEY_USE)
    key, name = state.key(change.ref), change.actor.name
    if not key.usable_by(name):
        raise NotFoundError("key", f"0x{change.ref:016x}", "see `cloister key list`")
    need(
        key.quorum_of(change.operation) > 1, "approval-unneeded", "nobody needs to approve this use"
    )
    need(change.operation in USE_OPERATIONS, "token-rule", f"no key use is {change.operation!r}")
    need(len(change.request) == 32, "token-rule", "a use is named by 32 bytes")
    grant = UseGrant(change.ref, name, header.at + state.quorum.approved_s * 1000)
    return (Put(Table.GRANTS, change.request.hex(), grant),)


def check_use(state: State, at: int, key: Key, operation: str, request: bytes) -> None:
    """Raise RefusedError unless this exact use of a quorum key was approved.

    Args:
        state: of the HSM that is asked.
        at: now, Unix ms.
        key: to be used.
        operation: of USE_OPERATIONS.
        request: `quorum.use_digest` of what is asked.
    """
    # CMAC is AES over a few blocks, and AES-CTR is the same both ways: who may do that unasked
    # makes MACs unasked, and decrypts what CTR and GCM encrypted.
    makes_macs = key.spec.type is KeyType.AES and operation in CIPHERING
    guarded = operation in SIGNING | MOVING or makes_macs or state.quorum.guards_use
    if not guarded or key.quorum_of(operation) <= 1:
        return
    grant = state.tables[Table.GRANTS].get(request.hex())
    if not isinstance(grant, UseGrant) or grant.ref != key.ref or at > grant.until:
        raise RefusedError("quorum-failed", "Quorum Failed")


def expired(state: State, at: int) -> list[Put]:
    """Return the removal of every token, spent or not, grant and login ticket that is over."""
    old = [name for name, token in state.tokens().items() if token.expires_at < at]
    puts = [Put(Table.TOKENS, token_row(name), None) for name in old]
    for table in (Table.GRANTS, Table.LOGIN_TICKETS, Table.SPENT):
        puts += [
            Put(table, name, None)
            for name, row in state.tables[table].items()
            if isinstance(row, UseGrant | LoginTicket | SpentToken) and row.until < at
        ]
    return puts


def tokens_of_login(state: State, login: str) -> list[Put]:
    """Return the removal of what was asked for under a login that ends."""
    rows = state.tokens().items()
    return [Put(Table.TOKENS, token_row(n), None) for n, t in rows if t.login == login]


def check_not_stranded(state: State, admins_left: int) -> None:
    """Raise RefusedError when fewer admins would be left than a quorum value needs."""
    highest = state.quorum.highest()
    need(
        admins_left >= highest,
        "quorum-strands",
        f"a quorum value of {highest} needs as many admins, and {admins_left} would be left; "
        "create another or lower the value first",
    )
