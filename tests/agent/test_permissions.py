"""Who may do what, over a real socket: the whole role and operation table, and log-ins.

The expectations are typed from CloudHSM's user permission table, not from the code's.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from orchestrator.agent.server import Server
from orchestrator.client.connection import RpcConnection
from orchestrator.model.entries import Credential, SignedJoinRequest, decode
from orchestrator.model.errors import RemoteError
from orchestrator.model.key_filter import KeyFilter
from orchestrator.model.key_spec import (
    Agreement,
    CipherMechanism,
    CipherScheme,
    HashFunction,
    KeyClass,
    KeySpec,
    KeyType,
    MacMechanism,
    SignMechanism,
    SignScheme,
)
from orchestrator.model.objects import ObjectClass, ObjectDraft, ObjectEdit, ObjectFilter
from orchestrator.model.roles import Role
from orchestrator.model.services import Service
from orchestrator.model.wrap_mechanism import WrapMechanism, WrapScheme
from orchestrator.wire import messages as m
from orchestrator.wire.streams import listen
from tests.stateful.harness import CLUSTER, PASSWORD, LocalCluster

NONE, CO, CU = "no login", "admin", "crypto-user"
AES = KeySpec(KeyType.AES, 256)
SIGN = SignMechanism(SignScheme.ECDSA, HashFunction.SHA256)
GCM = CipherMechanism(CipherScheme.AES_GCM)
NOBODY = Credential(b"", b"")
KWP = WrapMechanism(WrapScheme.AES_ZERO_PAD)
PEER = Agreement(b"")
DRAFTS = (m.KeyDraft(KeyClass.SECRET, "new"),)
OBJECT = ObjectDraft(object_class=ObjectClass.DATA)
JOIN = SignedJoinRequest(b"", b"", b"")


class Wired:
    """A cluster whose first HSM also listens on a socket."""

    def __init__(self, directory: Path) -> None:
        self.cluster = LocalCluster(directory)
        hsm = self.cluster.machines[0].hsm
        assert hsm is not None
        self.hsm = hsm
        self.path = directory / "agent.sock"
        self._listener = listen(self.path)
        threading.Thread(target=Server(hsm, self._listener).run, daemon=True).start()
        self.tickets = {
            NONE: b"",
            CO: self.login(Role.ADMIN, "admin"),
            CU: self.login(Role.CRYPTO_USER, "cu"),
        }

    def login(self, role: Role, name: str, password: bytes = PASSWORD) -> bytes:
        from orchestrator.client.trust import check_hsm, seal_password  # noqa: PLC0415

        connection = RpcConnection(self.path)
        try:
            welcome = connection.call(m.Hello(), 5)
            assert isinstance(welcome, m.Welcome)
            member = check_hsm(welcome, CLUSTER, self.cluster.anchor)
            sealed = seal_password("login", welcome, member, role, name, password)
            ticket = connection.call(m.Login(name, role, sealed), 10)
            assert isinstance(ticket, m.Ticket)
            return ticket.ticket
        finally:
            connection.close()

    def close(self) -> None:
        self._listener.close()
        self.cluster.close()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wired]:
    wired = Wired(tmp_path_factory.mktemp("wired"))
    yield wired
    wired.close()


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Wired]:
    wired = Wired(tmp_path)
    yield wired
    wired.close()


def _prepare(change: m.ChangeRequest) -> object:
    return lambda ticket: m.Prepare(ticket, f"table-{type(change).__name__}", change, 0)


# What is asked, and who may: everybody else is refused with `permission-denied`.
TABLE: Final = {
    "cluster info": (lambda _: m.Hello(), {NONE, CO, CU}),
    "list members": (lambda _: m.ListMembers(), {NONE, CO, CU}),
    "list users": (lambda _: m.ListUsers(), {NONE, CO, CU}),
    "list keys": (lambda t: m.ListKeys(t, 0, KeyFilter()), {CO, CU}),
    "create user": (_prepare(m.CreateUser("new", Role.CRYPTO_USER, b"")), {CO}),
    "delete user": (_prepare(m.DeleteUser("nobody", Role.CRYPTO_USER)), {CO}),
    "change another's password": (
        _prepare(m.ChangePassword("other", Role.CRYPTO_USER, b"")),
        {CO},
    ),
    "admit host": (_prepare(m.AdmitHost("host-9", bytes(32))), {CO}),
    "expel host": (_prepare(m.ExpelHost("host-9")), {CO}),
    "set recovery key": (_prepare(m.SetRecoveryKey(bytes(97), 2, 3)), {CO}),
    "log out": (_prepare(m.EndLogin()), {CO, CU}),
    "generate key": (_prepare(m.GenerateKeys(AES, DRAFTS)), {CU}),
    "derive key": (_prepare(m.DeriveKeys(1, PEER, AES, DRAFTS[0])), {CU}),
    "derive session key": (lambda t: m.DeriveSessionKey(t, 0, 1, PEER, AES, DRAFTS[0]), {CU}),
    "delete key": (_prepare(m.DeleteKey(1)), {CU}),
    "generate session key": (lambda t: m.MakeSessionKeys(t, AES, DRAFTS), {CU}),
    "delete session key": (lambda t: m.DropSessionKey(t, 1 << 63), {CU}),
    "sign": (lambda t: m.Sign(t, 0, 1, SIGN, bytes(32)), {CU}),
    "encrypt": (lambda t: m.Encrypt(t, 0, 1, GCM, b""), {CU}),
    "decrypt": (lambda t: m.Decrypt(t, 0, 1, GCM, b""), {CU}),
    "make a MAC": (lambda t: m.Mac(t, 0, 1, MacMechanism.AES_CMAC, b""), {CU}),
    "verify a MAC": (lambda t: m.VerifyMac(t, 0, 1, MacMechanism.AES_CMAC, b"", b""), {CU}),
    "random": (lambda t: m.Random(t, 8), {CU}),
    "close the cluster": (_prepare(m.CloseCluster()), {NONE}),
    "unlock user": (_prepare(m.UnlockUser("nobody", Role.CRYPTO_USER)), {CO}),
    "disable user": (_prepare(m.DisableUser("nobody", Role.CRYPTO_USER)), {CO}),
    "enable user": (_prepare(m.EnableUser("nobody", Role.CRYPTO_USER)), {CO}),
    "transfer keys": (_prepare(m.TransferKeys("nobody", "cu")), {CO}),
    "register an approval key": (_prepare(m.RegisterApprovalKey(b"", b"", b"")), {CO, CU}),
    "change another's second factor": (_prepare(m.ChangeMfa("other", Role.CRYPTO_USER, b"")), {CO}),
    "ask for a second factor's challenge": (
        lambda _: m.MfaChallenge("cu", Role.CRYPTO_USER),
        {NONE, CO, CU},
    ),
    "list quorum values": (lambda _: m.ListQuorum(), {NONE, CO, CU}),
    "generate a quorum token": (_prepare(m.IssueToken(Service.REGISTRATION)), {CO, CU}),
    "delete all quorum tokens": (_prepare(m.DeleteTokens(of_all=True)), {CO}),
    "set a quorum value": (_prepare(m.SetQuorumValue(Service.MFA, 1)), {CO}),
    "set the quorum policy": (
        _prepare(m.SetQuorumPolicy(False, False, 0, 0)),
        {CO},
    ),
    "approve a key's use": (_prepare(m.ApproveKeyUse(1, "sign", b"")), {CU}),
    "issue a login ticket": (_prepare(m.IssueLoginTicket(1, 0)), {CU}),
    "list login tickets": (m.ListLoginTickets, {CO, CU}),
    "take a login ticket": (lambda t: m.TakeLoginTicket(t, 0, "x"), {CU}),
    "revoke a login ticket": (_prepare(m.RevokeLoginTicket("x")), {CO, CU}),
    "import a clear key": (_prepare(m.ImportClearKey(AES, DRAFTS[0], b"")), {CU}),
    "import a session key": (lambda t: m.ImportSessionKey(t, AES, DRAFTS[0], b""), {CU}),
    "copy a key": (_prepare(m.CopyKey(1, m.KeyCopy())), {CU}),
    "copy to a session key": (lambda t: m.CopySessionKey(t, 0, 1, m.KeyCopy()), {CU}),
    "list objects": (lambda t: m.ListObjects(t, 0, ObjectFilter()), {NONE, CO, CU}),
    "store an object": (_prepare(m.PutObject(OBJECT)), {CU}),
    "change an object": (_prepare(m.EditObject(1, ObjectEdit(label="x"))), {CU}),
    "delete an object": (_prepare(m.DeleteObject(1)), {CU}),
    "change a key": (_prepare(m.ChangeKey(1, "label", "x")), {CU}),
    "trust a key": (_prepare(m.ChangeKey(1, "trusted", "true")), {CO}),
    "share a key": (_prepare(m.ShareKey(1, "cu")), {CU}),
    "end a share": (_prepare(m.UnshareKey(1, "cu")), {CU}),
    "keep a session key": (_prepare(m.KeepSessionKey(1 << 63)), {CU}),
    "change a session key": (lambda t: m.ChangeSessionKey(t, 1 << 63, "label", "x"), {CU}),
    "seal a key to a clone": (lambda t: m.SealKey(t, 0, 1, "c", NOBODY), {CO, CU}),
    "seal a user to a clone": (
        lambda t: m.SealUser(t, 0, "cu", Role.CRYPTO_USER, "c", NOBODY),
        {CO},
    ),
    "take a key from a clone": (_prepare(m.TakeReplica("c", b"")), {CO, CU}),
    "take a user from a clone": (_prepare(m.TakeReplica("c", b"", of_user=True)), {CO}),
    "wrap a key": (lambda t: m.WrapKey(t, 0, 1, 2, KWP), {CU}),
    "unwrap a key": (_prepare(m.UnwrapKey(1, KWP, bytes(40), KeyType.AES, DRAFTS[0])), {CU}),
    "unwrap a session key": (
        lambda t: m.UnwrapSessionKey(t, 0, 1, KWP, bytes(40), KeyType.AES, DRAFTS[0]),
        {CU},
    ),
    "import a public key": (_prepare(m.ImportPublicKey(b"", DRAFTS[0])), {CU}),
    "activate": (_prepare(m.ActivateCluster(b"")), {NONE}),
    "initialise": (_prepare(m.InitializeCluster(b"", b"")), {NONE}),
    "remove an HSM": (_prepare(m.RemoveHsm("hsm-x")), {NONE}),
    "join": (_prepare(m.JoinHsm(JOIN, b"")), {NONE}),
    "create a cluster": (_prepare(m.CreateCluster("c", "FIPS")), {NONE}),
    "restore": (_prepare(m.RestoreCluster("c", "b")), {NONE}),
    "lock": (_prepare(m.LockUser("cu", Role.CRYPTO_USER)), {NONE}),
}


@pytest.mark.parametrize("who", [NONE, CO, CU])
@pytest.mark.parametrize("what", sorted(TABLE))
def test_the_table(shared: Wired, what: str, who: str) -> None:
    """`no login` is the enrolled channel: the appliance user, which syncs and reads no secret."""
    build, allowed = TABLE[what]
    connection = RpcConnection(shared.path)
    try:
        connection.call(build(shared.tickets[who]), 20)  # type: ignore[operator]
        code = "done"
    except RemoteError as exc:
        code = exc.code
    finally:
        connection.close()
    assert (code != "permission-denied") == (who in allowed), code


def test_every_request_is_in_the_table_or_syncs() -> None:
    asked = {type(build(b"")) for build, _ in TABLE.values()}  # type: ignore[operator]
    syncs = {
        m.Login, m.Renew, m.Outcome, m.Apply, m.Entries, m.Digest, m.TakeSnapshot,
        m.CheckSnapshot, m.Upload, m.Download, m.JoinChallenge, m.JoinStart, m.JoinGrant,
        m.JoinAccept, m.RecoverStart, m.RecoverAccept, m.Pending, m.Zeroize, m.ReadAudit,
        m.EraseBodies, m.TellTries,
    }  # fmt: skip
    assert asked | syncs == set(m.Request.__args__)
    changes = {
        type(request.change)
        for build, _ in TABLE.values()
        if isinstance(request := build(b""), m.Prepare)  # type: ignore[operator]
    }
    assert changes == set(m.ChangeRequest.__args__)


def test_another_unix_user_syncs_nothing(shared: Wired) -> None:
    stranger = shared.hsm.connect(uid=12345)
    audit = shared.hsm.core.vault
    for request in (m.Entries(0), m.Digest(), m.TakeSnapshot("x"), m.Zeroize(), m.JoinChallenge(),
                    m.EraseBodies(0), m.TellTries(())):  # fmt: skip
        _, before = audit.audit_lines(0, 1)
        reply = shared.hsm.answer(request, stranger)
        assert isinstance(reply, m.Refusal)
        assert reply.code == "permission-denied"
        lines, _ = audit.audit_lines(before.count, 10)
        [line] = [decode(m.AuditRecord, line, "line") for line in lines]
        assert (line.event, line.outcome) == (type(request).__name__, "permission-denied")


@pytest.mark.parametrize(
    ("role", "name"),
    [(Role.APPLIANCE_USER, "app_user"), (Role.UNACTIVATED_ADMIN, "admin"), (Role.NONE, "admin")],
)
def test_nobody_logs_in_as_these(shared: Wired, role: Role, name: str) -> None:
    with pytest.raises(RemoteError) as caught:
        shared.login(role, name, b"")
    assert (caught.value.code, caught.value.exit_status) == ("login-failed", 4)


def test_the_sixth_wrong_password_locks_everywhere(fresh: Wired) -> None:
    for _ in range(6):
        with pytest.raises(RemoteError, match="wrong"):
            fresh.login(Role.CRYPTO_USER, "cu", b"not-this-one")
    with pytest.raises(RemoteError) as caught:
        fresh.login(Role.CRYPTO_USER, "cu")
    assert caught.value.code == "user-locked"
    fresh.cluster.controller.heal()
    for machine in fresh.cluster.machines:
        assert machine.hsm is not None
        assert machine.hsm.core.state.user(Role.CRYPTO_USER, "cu").locked
    # A lock only refuses new logins: the running one goes on.
    connection = RpcConnection(fresh.path)
    assert isinstance(connection.call(m.Random(fresh.tickets[CU], 8), 5), m.Data)
    connection.close()


def test_the_last_admin_is_slowed_and_not_locked(fresh: Wired) -> None:
    for _ in range(6):
        with pytest.raises(RemoteError):
            fresh.login(Role.ADMIN, "admin", b"not-this-one")
    with pytest.raises(RemoteError, match="try again in"):
        fresh.login(Role.ADMIN, "admin")
    fresh.cluster.clock.ms += 120_000
    assert fresh.login(Role.ADMIN, "admin")


def _code(wired: Wired, ticket: bytes) -> str:
    connection = RpcConnection(wired.path)
    try:
        connection.call(m.Random(ticket, 8), 5)
    except RemoteError as exc:
        return exc.code
    finally:
        connection.close()
    return "done"


def test_a_ticket_is_worth_nothing_once_edited_ended_or_old(fresh: Wired) -> None:
    ticket = fresh.login(Role.CRYPTO_USER, "cu")
    assert _code(fresh, ticket) == "done"
    for position in (0, 8, 40, len(ticket) - 1):
        edited = bytearray(ticket)
        edited[position] ^= 1
        assert _code(fresh, bytes(edited)) == "ticket-refused"
    fresh.cluster.controller.change(lambda _: m.EndLogin(), ticket=ticket)
    assert _code(fresh, ticket) == "ticket-refused"
    late = fresh.login(Role.CRYPTO_USER, "cu")
    fresh.cluster.clock.ms += 11 * 60 * 1000
    assert _code(fresh, late) == "ticket-refused"


def test_a_new_password_ends_logins(fresh: Wired) -> None:
    ticket = fresh.login(Role.CRYPTO_USER, "cu")
    change = lambda hsm: m.ChangePassword(  # noqa: E731
        "cu", Role.CRYPTO_USER, fresh.cluster.seal(hsm, "new-password", Role.CRYPTO_USER, "cu")
    )
    fresh.cluster.controller.change(change, ticket=fresh.tickets[CO])
    assert _code(fresh, ticket) == "ticket-refused"


def test_a_ticket_is_for_the_caller_it_was_given_to(fresh: Wired) -> None:
    ticket = fresh.login(Role.CRYPTO_USER, "cu")
    reply = fresh.hsm.answer(m.Random(ticket, 8), fresh.hsm.connect(uid=12345))
    assert isinstance(reply, m.Refusal)
    assert reply.code == "ticket-refused"


def test_a_recorded_login_is_worth_nothing_elsewhere(fresh: Wired) -> None:
    from orchestrator.client.trust import check_hsm, seal_password  # noqa: PLC0415

    first, second = RpcConnection(fresh.path), RpcConnection(fresh.path)
    welcome = first.call(m.Hello(), 5)
    assert isinstance(welcome, m.Welcome)
    member = check_hsm(welcome, CLUSTER, fresh.cluster.anchor)
    sealed = seal_password("login", welcome, member, Role.CRYPTO_USER, "cu", PASSWORD)
    request = m.Login("cu", Role.CRYPTO_USER, sealed)
    assert isinstance(first.call(request, 5), m.Ticket)
    with pytest.raises(RemoteError) as caught:
        second.call(request, 5)
    assert caught.value.code == "tampered"
    first.close()
    second.close()
