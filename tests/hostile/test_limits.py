"""Limits at their edges: the last one that fits, and the first one that does not."""

from __future__ import annotations

import os
from collections.abc import Iterator
from types import SimpleNamespace
from typing import cast

import msgspec
import pytest

from orchestrator.agent.preparing import WORKS_BYTES_MAX
from orchestrator.agent.using import SESSION_KEYS_MAX
from orchestrator.control.membership import HSMS_MAX, Membership
from orchestrator.control.plane import ControlPlane
from orchestrator.control.profiles import load_profiles
from orchestrator.control.records import ClusterRow
from orchestrator.model import entries as e
from orchestrator.model.cluster_decisions import MEMBERS_MAX
from orchestrator.model.decisions import decide
from orchestrator.model.errors import OrchestratorError, RefusedError, RemoteError, UsageError
from orchestrator.model.key_filter import KeyFilter
from orchestrator.model.key_spec import KeyClass, KeySpec, KeyType
from orchestrator.model.keys import Attributes, Key, check_label, parse_hex
from orchestrator.model.objects import ObjectClass, ObjectDraft
from orchestrator.model.roles import APPLIANCE_NAME, Role, parse_user_name
from orchestrator.model.services import Service
from orchestrator.model.state import ONLY, Put, State, Table, User, key_row, user_row
from orchestrator.wire import messages as m
from tests.stateful.harness import LocalCluster, Machine

CO, CU = e.Actor("admin", Role.ADMIN), e.Actor("cu", Role.CRYPTO_USER)
AES, RSA = KeySpec(KeyType.AES, 256), KeySpec(KeyType.RSA, 2048, None, 65537)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    made = LocalCluster(tmp_path_factory.mktemp("limits"))
    yield made
    made.close()


@pytest.fixture
def state(cluster: LocalCluster) -> State:
    """A copy that a test may fill."""
    hsm = cluster.machines[0].hsm
    assert hsm is not None
    grown = hsm.core.state
    return State.build(grown.rows(), seq=grown.seq, head=grown.head, at=grown.at)[0]


def fill(state: State, *puts: Put) -> None:
    state.advance(puts, seq=state.seq, head=state.head, at=state.at)


def do(state: State, change: e.Change) -> None:
    header = e.Header(
        1, state.meta.cluster, state.seq + 1, state.head, state.at, e.kind_of(change), "r",
        state.members()[0].hsm, b"",
    )  # fmt: skip
    puts = decide(state, header, change, None)
    state.advance(puts, seq=header.seq, head=bytes(32), at=header.at)


def refused(state: State, change: e.Change) -> str:
    before = state.digest()
    with pytest.raises(OrchestratorError) as caught:
        do(state, change)
    assert state.digest() == before
    return f"{caught.value.code}: {caught.value}"


def key(key_class: KeyClass = KeyClass.SECRET, **fields: object) -> Key:
    spec = AES if key_class is KeyClass.SECRET else RSA
    made = Key(0, key_class, spec, "L", b"", "cu", (), Attributes(), b"blob", b"", b"")
    return msgspec.structs.replace(made, **fields)


PAIR = (key(KeyClass.PUBLIC), key(KeyClass.PRIVATE))

# --- quotas of the profiles ---


@pytest.mark.parametrize(
    ("name", "keys", "asymmetric"), [("hsm1.medium", 3300, 3300), ("hsm2m.medium", 16666, 3333)]
)
def test_the_profiles_state_the_services_quotas(name: str, keys: int, asymmetric: int) -> None:
    """CloudHSM user guide, quotas: users 1,024, HSMs of a cluster 28, keys by type."""
    profile = load_profiles()[name]
    assert (profile.max_users, profile.max_hsms) == (1024, 28)
    assert (profile.max_keys, profile.max_asymmetric_keys) == (keys, asymmetric)


def test_the_cluster_has_its_profiles_limits(state: State) -> None:
    profile = load_profiles()["hsm2m.medium"]
    assert state.meta.limits == e.Limits(
        profile.max_users, profile.max_keys, profile.max_asymmetric_keys, profile.max_objects
    )
    assert profile.max_hsms == MEMBERS_MAX == HSMS_MAX


# --- users ---


def test_the_appliance_user_counts_and_the_1025th_is_refused(state: State) -> None:
    present = len(state.tables[Table.USERS])
    assert user_row(Role.APPLIANCE_USER, APPLIANCE_NAME) in state.tables[Table.USERS]
    extra = (User(f"u{number}", Role.CRYPTO_USER, "h", 1) for number in range(1023 - present))
    fill(state, *(Put(Table.USERS, user_row(u.role, u.name), u) for u in extra))
    do(state, e.UserCreated(CO, "last", Role.CRYPTO_USER, "h"))
    assert len(state.users()) == 1024
    for role in (Role.CRYPTO_USER, Role.ADMIN):
        assert "has its 1024 users" in refused(state, e.UserCreated(CO, "more", role, "h"))
    do(state, e.PasswordChanged(CO, "last", Role.CRYPTO_USER, "other"))  # not one more
    do(state, e.UserDeleted(CO, "last", Role.CRYPTO_USER))
    do(state, e.UserCreated(CO, "more", Role.CRYPTO_USER, "h"))


# --- keys ---


def put_keys(state: State, count: int, key_class: KeyClass) -> None:
    made = [key(key_class, ref=(1 << 40) + number) for number in range(count)]
    fill(state, *(Put(Table.KEYS, key_row(k.ref), k) for k in made))


def test_the_last_pair_that_fits(state: State) -> None:
    limit = state.meta.limits.asymmetric_keys
    put_keys(state, limit - 2, KeyClass.PRIVATE)
    do(state, e.KeysCreated(CU, PAIR))
    assert f"room for {limit} asymmetric keys" in refused(state, e.KeysCreated(CU, PAIR))
    do(state, e.KeysCreated(CU, (key(),)))  # a secret key still fits
    do(state, e.KeyDeleted(CU, state.all_keys()[0].ref))
    assert "asymmetric keys" in refused(state, e.KeysCreated(CU, PAIR))  # half a pair of room


def test_the_last_key_that_fits(state: State) -> None:
    limits = e.Limits(1024, 40, 40)
    fill(state, Put(Table.META, ONLY, msgspec.structs.replace(state.meta, limits=limits)))
    put_keys(state, 39, KeyClass.SECRET)
    assert "room for 40 keys and holds 39" in refused(state, e.KeysCreated(CU, PAIR))
    do(state, e.KeysCreated(CU, (key(),)))
    assert "holds 40" in refused(state, e.KeysCreated(CU, (key(),)))


def test_a_refused_label_costs_neither_the_request_id_nor_a_place(cluster: LocalCluster) -> None:
    hsm = cluster.machines[0].hsm
    assert hsm is not None
    before = hsm.core.state.digest()
    draft = m.KeyDraft(KeyClass.SECRET, "x" * 128)
    with pytest.raises(RemoteError) as caught:
        cluster.change("limit-label", m.GenerateKeys(AES, (draft,)))
    assert caught.value.code == "label-rule"
    assert hsm.core.state.digest() == before
    good = msgspec.structs.replace(draft, label="x" * 127)
    assert cluster.change("limit-label", m.GenerateKeys(AES, (good,))).keys


# --- HSMs ---


def test_the_28th_hsm_joins_and_the_29th_does_not(cluster: LocalCluster, state: State) -> None:
    *_, change = [c for c in _changes(cluster) if isinstance(c, e.HsmJoined)]
    name = e.decode(e.JoinRequest, change.join.request, "join request").hsm
    rows = state.tables[Table.MEMBERS]
    some = rows.pop(name)
    for number in range(len(rows), 27):
        rows[f"hsm-{number:011}"] = some
    header = e.Header(
        1, state.meta.cluster, state.seq + 1, state.head, state.at, "hsm-joined", "r", name, b""
    )
    [put] = decide(state, header, change, None)
    assert put.name == name
    rows["hsm-the-28th"] = some
    with pytest.raises(RefusedError, match="at most 28 HSMs"):
        decide(state, header, change, None)


def _changes(cluster: LocalCluster) -> list[e.Change]:
    entries = cluster.ledger.after(0, 100)
    return [e.decode_body(x.body)[0] for x in entries if x.parse_header().kind in e.CLEAR_KINDS]


def test_the_29th_hsm_is_refused_before_a_host_is_asked() -> None:
    row = ClusterRow("cluster-aaaaaaaaaaa", "hsm2m.medium", "FIPS", "lab-1a", "ACTIVE", 0, "")
    plane = SimpleNamespace(records=SimpleNamespace(hsms=lambda _: [None] * 28))
    with pytest.raises(RefusedError, match="at most 28 HSMs"):
        Membership(cast(ControlPlane, plane)).check_room(row)


# --- texts ---


@pytest.mark.parametrize("name", ["a", "A_9", "x" * 31])
def test_names_that_are(name: str) -> None:
    assert parse_user_name(name) == name.lower()


@pytest.mark.parametrize(
    "name",
    ["", " ", "x" * 32, "a b", "a-b", "a.b", "a/b", "..", "a\n", "a\0", "ü", "\N{KELVIN SIGN}",
     "\N{ARABIC-INDIC DIGIT ONE}", "\N{CYRILLIC SMALL LETTER A}", "\N{LATIN SMALL LIGATURE FI}",
     "a\u200b", "\u202ea", "\ud800"],
)  # fmt: skip
def test_names_that_are_none(name: str, cluster: LocalCluster, state: State) -> None:
    with pytest.raises(UsageError, match="1 to 31 letters, digits and underscores"):
        parse_user_name(name)
    with pytest.raises(UsageError):
        do(state, e.UserCreated(CO, name, Role.CRYPTO_USER, "h"))


@pytest.mark.parametrize("label", ["", "x" * 127, "ключ 鍵 🔑", "\N{SNOWMAN}" * 127])
def test_labels_that_are(label: str) -> None:
    assert check_label(label) == label


@pytest.mark.parametrize("label", ["x" * 128, "a\nb", "a\rb", "a\tb", "\0", "\x1b[2J", "\x7f"])
def test_labels_that_are_none(label: str, state: State) -> None:
    with pytest.raises(RefusedError, match="at most 127 printable"):
        check_label(label)
    assert "label-rule" in refused(state, e.KeysCreated(CU, (key(label=label),)))


def test_key_ids() -> None:
    assert parse_hex("0x" + "ab" * 128) == b"\xab" * 128
    assert parse_hex("0x") == parse_hex("") == b""
    for text in (
        "0x" + "ab" * 129,
        "0xa",
        "0xzz",
        "0x0x",
        "-1",
        "ab\0",
        "\N{FULLWIDTH DIGIT ONE}2",
    ):
        with pytest.raises(UsageError):
            parse_hex(text)


@pytest.mark.parametrize("request_id", ["", "x" * 65, "é", "\N{FULLWIDTH DIGIT ONE}"])
def test_request_ids_that_are_none(cluster: LocalCluster, request_id: str) -> None:
    head = cluster.ledger.head()
    asked = m.Prepare(cluster.ticket, request_id, m.DeleteKey(1), 0)
    with pytest.raises(RemoteError, match="1 to 64 printable ASCII") as caught:
        cluster.controller.roster.call(cluster.machines[0].id, asked)
    assert caught.value.exit_status == 2
    assert cluster.ledger.head() == head


def test_a_request_id_of_64_characters_is_one(cluster: LocalCluster) -> None:
    draft = m.KeyDraft(KeyClass.SECRET, "")
    assert cluster.change("x" * 64, m.GenerateKeys(AES, (draft,))).keys


@pytest.mark.parametrize("role", [Role.NONE, Role.APPLIANCE_USER, Role.UNACTIVATED_ADMIN])
def test_roles_that_nobody_is_given(state: State, role: Role) -> None:
    assert "role-rule" in refused(state, e.UserCreated(CO, "name", role, "h"))


@pytest.mark.parametrize("role", ["", "ADMIN", "admin ", "root", "crypto user", "none\0"])
def test_role_names_that_are_none_are_not_even_read(role: str) -> None:
    def body(name: str) -> bytes:
        return msgspec.msgpack.encode(["Prepare", b"", "r", ["DeleteUser", "name", name], 0])

    with pytest.raises(OrchestratorError, match="not a request"):
        m.decode_request(body(role))
    assert isinstance(m.decode_request(body("admin")), m.Prepare)


@pytest.mark.parametrize("host", ["", "h" * 65, "a\nb", "a\0b", "\u202eh"])
def test_host_names_that_are_none(state: State, host: str) -> None:
    assert "host-rule" in refused(state, e.HostAdmitted(CO, host, bytes(32)))
    do(state, e.HostAdmitted(CO, "h" * 64, bytes(32)))


def test_session_keys_of_a_connection(cluster: LocalCluster) -> None:
    machine: Machine = cluster.machines[0]
    assert machine.hsm is not None
    peer = machine.hsm.connect(0)
    asked = m.MakeSessionKeys(cluster.ticket, AES, (m.KeyDraft(KeyClass.SECRET, "s"),))
    filler = {(1 << 63) + n: (key(), "login") for n in range(SESSION_KEYS_MAX - 1)}
    peer.session_keys.update(filler)
    assert isinstance(machine.hsm.answer(asked, peer), m.KeyPage)
    reply = machine.hsm.answer(asked, peer)
    assert isinstance(reply, m.Refusal)
    assert (reply.code, len(peer.session_keys)) == ("limit", SESSION_KEYS_MAX)
    machine.hsm.disconnect(peer)


def test_refused_work_is_not_kept_without_bounds(cluster: LocalCluster) -> None:
    """A request may have nearly a frame, and be refused only by the rules: after it was noted."""
    hsm = cluster.machines[0].hsm
    assert hsm is not None
    peer = hsm.connect(os.getuid())
    draft = ObjectDraft(object_class=ObjectClass.DATA, value=bytes(900 * 1024))
    for number in range(24):
        asked = m.Prepare(cluster.ticket, f"huge-{number}", m.PutObject(draft), 0)
        reply = hsm.answer(asked, peer)
        assert isinstance(reply, m.Refusal)
        assert reply.code == "object-rule"
    assert sum(len(work.asked) for work in hsm.preparing._works.values()) <= WORKS_BYTES_MAX


def test_a_token_belongs_to_the_login_that_asks_for_it_last(cluster: LocalCluster) -> None:
    """The same request id from a new login must not make one that no log-out would end."""
    hsm = cluster.machines[0].hsm
    assert hsm is not None
    peer = hsm.connect(os.getuid())
    issued = []
    for _ in range(2):
        ticket = cluster.login(Role.ADMIN, "admin")
        reply = hsm.answer(m.Prepare(ticket, "token-again", m.IssueToken(Service.USER), 0), peer)
        assert isinstance(reply, m.Prepared)
        change = hsm.core.open_entry(reply.entry)
        assert isinstance(change, e.QuorumTokenIssued)
        issued.append(change.login)
        assert hsm.logins.check(ticket, peer).login == change.login
    assert issued[0] != issued[1]


def test_a_filter_names_attributes_that_are_some(cluster: LocalCluster) -> None:
    hsm = cluster.machines[0].hsm
    assert hsm is not None
    peer = hsm.connect(os.getuid())
    drafts = (m.KeyDraft(KeyClass.SECRET, "one"),)
    made = m.MakeSessionKeys(ticket=cluster.ticket, spec=AES, drafts=drafts)
    assert isinstance(hsm.answer(made, peer), m.KeyPage)
    for name in ("nothing", "__class__", "__dict__"):
        asked = m.ListKeys(cluster.ticket, 0, KeyFilter(attributes=((name, "true"),)), 0, 10)
        reply = hsm.answer(asked, peer)
        assert isinstance(reply, m.Refusal)
        assert reply.code == "attribute-unknown"


def test_a_template_is_no_place_to_store_things(cluster: LocalCluster) -> None:
    hsm = cluster.machines[0].hsm
    assert hsm is not None
    peer = hsm.connect(os.getuid())
    for number, template in enumerate(((("label", "x" * 300),), (("label", "x"),) * 2)):
        draft = m.KeyDraft(KeyClass.SECRET, "k", unwrap_template=template)
        change = m.GenerateKeys(AES, (draft,))
        reply = hsm.answer(m.Prepare(cluster.ticket, f"template-{number}", change, 0), peer)
        assert isinstance(reply, m.Refusal)
        assert reply.code == "usage"
