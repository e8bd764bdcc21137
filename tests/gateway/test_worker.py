"""A worker driven over its socket by a client of every dialect, on a cluster of three HSMs."""

from __future__ import annotations

import hashlib
import hmac
import socket
import struct
import threading
from collections.abc import Iterator
from math import inf
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.serialization import load_der_public_key

from orchestrator.client.channel import OnReply
from orchestrator.gateway.cryptoki import CKA, CKM, CKO, CKR
from orchestrator.gateway.rpc.calls import CALLS, split
from orchestrator.gateway.worker.application import SESSION_OBJECTS_MAX
from orchestrator.gateway.worker.backend import RANDOM_FIRST_BYTES
from orchestrator.gateway.worker.connection import PENDING_MAX
from orchestrator.wire import messages as m
from tests.gateway import fuzz
from tests.gateway import wire as w
from tests.gateway.cluster import PIN, Gateway
from tests.gateway.wire import Client, Refused
from tests.stateful.harness import PASSWORD, FakeStream, LocalCluster

pytestmark = pytest.mark.timeout(120)
P256 = bytes.fromhex("06082a8648ce3d030107")
SHA256_INFO = bytes.fromhex("3031300d060960864801650304020105000420")
DIALECTS = (0, 1, 2)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    made = LocalCluster(tmp_path_factory.mktemp("cluster"))
    yield made
    made.close()


@pytest.fixture
def gateway(cluster: LocalCluster) -> Iterator[Gateway]:
    made = Gateway(cluster)
    yield made
    made.close()
    for machine in cluster.machines:
        machine.start()


@pytest.fixture(params=DIALECTS)
def client(gateway: Gateway, request: pytest.FixtureRequest) -> Client:
    return gateway.connect(request.param)


@pytest.fixture
def user(client: Client) -> tuple[Client, int]:
    """A logged-in client and a session."""
    session = client.open()
    client.login(session, PIN)
    return client, session


def refused(rv: CKR) -> Any:
    return pytest.raises(Refused, match=f"^{hex(rv)}$")


def rsa_pair(client: Client, session: int, *, token: bool, label: bytes = b"r") -> tuple[int, int]:
    common = [(CKA.TOKEN, int(token)), (CKA.LABEL, label), (CKA.ID, b"\1\2")]
    public = [*common, (CKA.MODULUS_BITS, 2048), (CKA.PUBLIC_EXPONENT, b"\1\0\1")]
    return client.pair(session, w.mechanism(client.offered, 0), public, common)


def ec_pair(client: Client, session: int, *, token: bool = False) -> tuple[int, int]:
    common = [(CKA.TOKEN, int(token)), (CKA.LABEL, b"e")]
    chosen = w.mechanism(client.offered, CKM.EC_KEY_PAIR_GEN)
    return client.pair(session, chosen, [*common, (CKA.EC_PARAMS, P256)], common)


def public_key(client: Client, session: int, handle: int) -> Any:
    values, rv = client.read(session, handle, CKA.PUBLIC_KEY_INFO)
    assert rv == 0
    return load_der_public_key(values[CKA.PUBLIC_KEY_INFO])


# --- library, slot, sessions, login --------------------------------------------------------------


def test_the_token_introduces_itself(client: Client) -> None:
    assert client.call(4, "yfu", b"\1" + w.u32(0)).ulongs() == 1
    assert client.call(4, "yfu", b"\1" + w.u32(8)).ulongs() == [0]
    assert client.call(5, "u", w.u64(0)).signature == "ssuvv"
    info = client.call(6, "u", w.u64(0))
    assert info.take(4 + 32)[4:].rstrip() == b"cluster-statefultst"
    with refused(CKR.SLOT_ID_INVALID):
        client.call(6, "u", w.u64(1))
    with refused(CKR.NO_EVENT):
        client.call(65, "u", w.u64(1))


def test_mechanisms_are_those_that_the_dialect_carries(client: Client) -> None:
    count = client.call(7, "ufu", w.u64(0) + w.u32(0)).ulongs()
    listed = client.call(7, "ufu", w.u64(0) + w.u32(500)).ulongs()
    assert isinstance(listed, list)
    assert len(listed) == count
    assert (CKM.AES_GCM in listed) == (client.offered > 0)
    assert CKM.ECDSA in listed
    assert client.call(8, "uu", w.u64(0) + w.u64(CKM.ECDSA)).u() == 256
    with refused(CKR.MECHANISM_INVALID):
        client.call(8, "uu", w.u64(0) + w.u64(0x110))


def test_login_states(client: Client) -> None:
    session, other = client.open(4), client.open(6)
    for rv, pin, kind in (
        (CKR.PIN_INCORRECT, b"cu:wrong-password", 1),
        (CKR.PIN_INCORRECT, b"cu", 1),
        (CKR.PIN_INCORRECT, b"no such user:x", 1),
        (CKR.USER_TYPE_INVALID, PIN, 0),
        (CKR.USER_TYPE_INVALID, PIN, 7),
        (CKR.OPERATION_NOT_INITIALIZED, PIN, 2),
    ):
        with refused(rv):
            client.login(session, pin, kind)
    state = client.call(13, "u", w.u64(session))
    assert (state.u(), state.u()) == (0, 0)
    client.login(session, PIN)
    states = []
    for handle in (session, other):
        state = client.call(13, "u", w.u64(handle))
        states.append((state.u(), state.u())[1])
    assert states == [1, 3]  # the login is the application's, not the session's
    with refused(CKR.USER_ALREADY_LOGGED_IN):
        client.login(other, PIN)
    with refused(CKR.USER_ANOTHER_ALREADY_LOGGED_IN):
        client.login(other, PIN, 0)
    client.call(19, "u", w.u64(session))
    with refused(CKR.USER_NOT_LOGGED_IN):
        client.call(19, "u", w.u64(session))
    with refused(CKR.USER_NOT_LOGGED_IN):
        client.call(64, "ufy", w.u64(session) + w.u32(8))


def test_the_login_ends_with_the_last_session(user: tuple[Client, int]) -> None:
    client, session = user
    client.call(11, "u", w.u64(session))
    with refused(CKR.SESSION_HANDLE_INVALID):
        client.call(13, "u", w.u64(session))
    again = client.open()
    assert again != session
    client.login(again, PIN)
    client.call(12, "u", w.u64(0))
    client.login(client.open(), PIN)
    client.call(2, "")
    client.initialize()
    with refused(CKR.SESSION_HANDLE_INVALID):
        client.call(13, "u", w.u64(again))
    client.login(client.open(), PIN)


def test_sessions_need_the_serial_flag_and_a_slot(client: Client) -> None:
    with refused(CKR.SESSION_PARALLEL_NOT_SUPPORTED):
        client.open(2)
    with refused(CKR.SLOT_ID_INVALID):
        client.call(10, "uu", w.u64(3) + w.u64(4))


def test_what_is_not_offered_says_so(user: tuple[Client, int]) -> None:
    client, session = user
    for call, signature, values in (
        (16, "ufy", w.u32(64)),
        (46, "uMu", w.mechanism(client.offered, CKM.RSA_PKCS) + w.u64(1)),
        (52, "uMu", w.mechanism(client.offered, CKM.RSA_PKCS) + w.u64(1)),
        (14, "uay", w.ay(b"12345678")),
    ):
        with refused(CKR.FUNCTION_NOT_SUPPORTED):
            client.call(call, signature, w.u64(session) + values)
    with refused(CKR.RANDOM_SEED_NOT_SUPPORTED):
        client.call(63, "uay", w.u64(session) + w.ay(b"seed"))


def test_nonsense_is_answered_and_the_connection_goes_on(client: Client) -> None:
    for call, signature in ((90, ""), (0, ""), (10, "u"), (42, "uMuu")):
        with refused(CKR.DEVICE_ERROR):
            client.call(call, signature)
    assert client.open()


def test_a_frame_of_four_gigabytes_ends_the_connection(gateway: Gateway) -> None:
    client = gateway.connect()
    client.sock.sendall(struct.pack("!III", 99, 0, 0xFFFFFFF0))
    assert client.sock.recv(1) == b""


def test_a_client_without_the_handshake_is_refused(gateway: Gateway) -> None:
    client = gateway.connect(initialized=False)
    with refused(CKR.GENERAL_ERROR):
        client.initialize(b"hello")
    with refused(CKR.CRYPTOKI_NOT_INITIALIZED):
        client.call(3, "")
    client.initialize()
    assert client.open()


@pytest.mark.parametrize("offered", DIALECTS)
def test_before_c_initialize_every_call_is_refused_and_after_it_a_second(
    gateway: Gateway, offered: int
) -> None:
    client = gateway.connect(offered, initialized=False)

    def every_other_call_is_refused() -> None:
        for call in CALLS.values():
            if call.name == "C_Initialize":
                continue
            values = b"".join(fuzz.sample(code, offered) for code in split(call.request))
            with refused(CKR.CRYPTOKI_NOT_INITIALIZED):
                client.call(call.id, call.request, values)

    every_other_call_is_refused()
    client.initialize()
    session = client.open()
    client.login(session, PIN)
    with refused(CKR.CRYPTOKI_ALREADY_INITIALIZED):
        client.initialize()
    assert client.call(13, "u", w.u64(session)).u() == 0  # and nothing was lost by asking
    client.call(2, "")
    every_other_call_is_refused()
    client.initialize()
    with refused(CKR.USER_NOT_LOGGED_IN):
        client.call(19, "u", w.u64(client.open()))


def test_random_numbers_have_the_length_asked_for_and_differ(user: tuple[Client, int]) -> None:
    client, session = user
    drawn = set()
    for size in (1, 32, 32, 32, 5000, 70_000):
        data = client.call(64, "ufy", w.u64(session) + w.u32(size)).bytes_()
        assert isinstance(data, bytes)
        assert len(data) == size
        drawn.add(data[:32])
    assert len(drawn) == 6


# --- objects -------------------------------------------------------------------------------------


def test_pairs_are_found_read_and_destroyed(user: tuple[Client, int]) -> None:
    client, session = user
    label = b"found %d" % client.offered
    public, private = rsa_pair(client, session, token=True, label=label)
    assert sorted(client.find(session, [(CKA.LABEL, label)])) == sorted([public, private])
    wanted = [(CKA.CLASS, int(CKO.PRIVATE_KEY)), (CKA.ID, b"\1\2"), (CKA.LABEL, label)]
    assert client.find(session, wanted) == [private]
    values, rv = client.read(
        session, private, CKA.CLASS, CKA.KEY_TYPE, CKA.SENSITIVE, CKA.TOKEN, CKA.MODULUS, CKA.LABEL
    )
    key = public_key(client, session, public)
    assert isinstance(key, rsa.RSAPublicKey)
    n = key.public_numbers().n
    assert (rv, values) == (
        0,
        {0: 3, 0x100: 0, 0x103: 1, 1: 1, 0x120: n.to_bytes(256, "big"), 3: label},
    )
    assert client.find(session, [(CKA.MODULUS, n.to_bytes(256, "big")), (CKA.CLASS, 2)]) == [public]
    values, rv = client.read(session, private, CKA.PRIVATE_EXPONENT, CKA.LABEL)
    assert (values, rv) == ({0x123: None, 3: label}, CKR.ATTRIBUTE_SENSITIVE)
    values, rv = client.read(session, private, CKA.VALUE_LEN)
    assert (values, rv) == ({0x161: None}, CKR.ATTRIBUTE_TYPE_INVALID)
    probe = client.call(
        24, "uufA", w.u64(session) + w.u64(public) + w.rooms([(CKA.MODULUS, 0), (CKA.LABEL, 2)])
    ).attributes()
    assert probe == ({0x120: 256, 3: len(label)}, CKR.BUFFER_TOO_SMALL)
    with refused(CKR.ARGUMENTS_BAD):  # success would abort the application
        client.read(session, private)
    for handle in (public, private):
        client.call(22, "uu", w.u64(session) + w.u64(handle))
    assert client.find(session, [(CKA.LABEL, label)]) == []
    with refused(CKR.OBJECT_HANDLE_INVALID):
        client.read(session, private, CKA.LABEL)


def test_a_read_only_session_makes_no_token_object(gateway: Gateway) -> None:
    client = gateway.connect()
    session = client.open(4)
    with refused(CKR.USER_NOT_LOGGED_IN):
        rsa_pair(client, session, token=False)
    client.login(session, PIN)
    with refused(CKR.SESSION_READ_ONLY):
        rsa_pair(client, session, token=True)


def test_templates_that_the_policy_refuses(user: tuple[Client, int]) -> None:
    client, session = user
    chosen = w.mechanism(client.offered, CKM.AES_KEY_GEN)
    for rv, extra in (
        (CKR.TEMPLATE_INCOMPLETE, []),
        (CKR.KEY_SIZE_RANGE, [(CKA.VALUE_LEN, 17)]),
        (CKR.TEMPLATE_INCONSISTENT, [(CKA.VALUE_LEN, 32), (CKA.SENSITIVE, 0)]),
        (CKR.TEMPLATE_INCONSISTENT, [(CKA.VALUE_LEN, 32), (CKA.WRAP, 1), (CKA.DECRYPT, 1)]),
        (CKR.TEMPLATE_INCONSISTENT, [(CKA.VALUE_LEN, 32), (CKA.TRUSTED, 1)]),
        (CKR.TEMPLATE_INCONSISTENT, [(CKA.VALUE_LEN, 32), (CKA.KEY_TYPE, 0)]),
        (CKR.TEMPLATE_INCONSISTENT, [(CKA.VALUE_LEN, 32), (CKA.VALUE_LEN, 16)]),
        (CKR.ATTRIBUTE_VALUE_INVALID, [(CKA.VALUE_LEN, 32), (CKA.LABEL, b"\xff")]),
        (CKR.ATTRIBUTE_TYPE_INVALID, [(CKA.VALUE_LEN, 32), (CKA.VALUE, bytes(32))]),
    ):
        with refused(rv):
            client.key(session, chosen, extra)
    curve = [(CKA.EC_PARAMS, bytes.fromhex("06052b81040021"))]
    with refused(CKR.CURVE_NOT_SUPPORTED):
        client.pair(session, w.mechanism(client.offered, CKM.EC_KEY_PAIR_GEN), curve, [])


def test_session_keys_end_with_their_session(user: tuple[Client, int]) -> None:
    client, session = user
    other = client.open()
    public, private = ec_pair(client, session)
    assert client.read(other, private, CKA.TOKEN)[0] == {1: 0}
    client.call(11, "u", w.u64(session))
    for handle in (public, private):
        with refused(CKR.OBJECT_HANDLE_INVALID):
            client.read(other, handle, CKA.TOKEN)


CERTIFICATE = [(CKA.CLASS, 1), (0x80, 0), (CKA.VALUE, b"0\1x"), (CKA.SUBJECT, b"0\0")]


@pytest.mark.parametrize("token", [0, 1])
def test_certificates_are_stored_found_changed_and_destroyed(
    user: tuple[Client, int], token: int
) -> None:
    client, session = user
    label = b"certificate %d %d" % (client.offered, token)
    template = [*CERTIFICATE, (CKA.TOKEN, token), (CKA.LABEL, label), (CKA.ID, b"\7")]
    made = client.call(20, "uaA", w.u64(session) + w.attributes(template)).u()
    assert client.find(session, [(CKA.CLASS, 1), (CKA.LABEL, label)]) == [made]
    assert client.find(session, [(CKA.CLASS, 3), (CKA.LABEL, label)]) == []
    values, rv = client.read(session, made, CKA.TOKEN, CKA.VALUE, CKA.ID, 0x80)
    assert (values[CKA.TOKEN], values[CKA.VALUE], rv) == (token, b"0\1x", 0)
    assert client.read(session, made, CKA.MODULUS)[1] == CKR.ATTRIBUTE_TYPE_INVALID
    if token:
        stranger = w.u64(session) + w.u64(made) + w.attributes([(CKA.ID, b"\x08")])
        client.call(25, "uuaA", stranger)
        assert client.read(session, made, CKA.ID)[0] == {CKA.ID: b"\x08"}
        with refused(CKR.TEMPLATE_INCONSISTENT):  # attribute-read-only
            value = w.attributes([(CKA.VALUE, b"0\1y")])
            client.call(25, "uuaA", w.u64(session) + w.u64(made) + value)
    client.call(22, "uu", w.u64(session) + w.u64(made))
    assert client.find(session, [(CKA.CLASS, 1), (CKA.LABEL, label)]) == []
    with refused(CKR.ATTRIBUTE_READ_ONLY):
        trusted = w.attributes([*template, (CKA.TRUSTED, 1)])
        client.call(20, "uaA", w.u64(session) + trusted)


def test_public_certificates_are_seen_without_a_login(gateway: Gateway) -> None:
    ours = gateway.connect()
    session = ours.open()
    ours.login(session, PIN)
    for label, private in ((b"seen", 0), (b"hidden", 1)):
        template = [*CERTIFICATE, (CKA.TOKEN, 1), (CKA.LABEL, label), (CKA.PRIVATE, private)]
        ours.call(20, "uaA", w.u64(session) + w.attributes(template))
    other = gateway.connect()
    anonymous = other.open()
    assert len(other.find(anonymous, [(CKA.LABEL, b"seen")])) == 1
    assert other.find(anonymous, [(CKA.LABEL, b"hidden")]) == []


def test_private_objects_of_a_session_are_the_users(gateway: Gateway) -> None:
    client = gateway.connect()
    session = client.open()
    data = [(CKA.CLASS, 0), (CKA.TOKEN, 0), (CKA.VALUE, b"v")]

    def create(private: int) -> int:
        template = w.attributes([*data, (CKA.PRIVATE, private)])
        return client.call(20, "uaA", w.u64(session) + template).u()

    with refused(CKR.USER_NOT_LOGGED_IN):
        create(1)
    shown = create(0)
    client.login(session, PIN)
    hidden = create(1)
    assert client.find(session, [(CKA.CLASS, 0), (CKA.VALUE, b"v")]) == [shown, hidden]
    client.call(19, "u", w.u64(session))
    assert client.find(session, [(CKA.CLASS, 0), (CKA.VALUE, b"v")]) == [shown]
    client.login(session, PIN)
    assert client.find(session, [(CKA.CLASS, 0), (CKA.VALUE, b"v")]) == [shown]


def test_session_objects_are_bounded_over_all_sessions(gateway: Gateway) -> None:
    client = gateway.connect()
    sessions = [client.open() for _ in range(3)]
    template = [(CKA.CLASS, 0), (CKA.TOKEN, 0), (CKA.PRIVATE, 0), (CKA.VALUE, b"v")]

    def create(session: int) -> None:
        client.call(20, "uaA", w.u64(session) + w.attributes(template))

    for number in range(SESSION_OBJECTS_MAX):
        create(sessions[number % 2])
    with refused(CKR.DEVICE_MEMORY):
        create(sessions[2])
    client.call(11, "u", w.u64(sessions[0]))
    create(sessions[2])


def test_given_keys_are_imported_and_never_read(user: tuple[Client, int]) -> None:
    client, session = user
    secret = bytes(range(32))
    template = [(CKA.CLASS, 4), (CKA.KEY_TYPE, 0x10), (CKA.VALUE, secret), (CKA.SIGN, 1)]
    for token in (0, 1):
        given_ = w.attributes([*template, (CKA.TOKEN, token)])
        key = client.call(20, "uaA", w.u64(session) + given_).u()
        client.init(42, session, w.mechanism(client.offered, CKM.SHA256_HMAC), key)
        assert client.one_step(43, session, b"x") == hmac.digest(secret, b"x", "sha256")
        values, rv = client.read(session, key, CKA.VALUE, CKA.LOCAL, CKA.SENSITIVE)
        assert values == {CKA.VALUE: None, CKA.LOCAL: 0, CKA.SENSITIVE: 1}
        assert rv == CKR.ATTRIBUTE_SENSITIVE
    with refused(CKR.TEMPLATE_INCONSISTENT):
        open_ = w.attributes([*template, (CKA.SENSITIVE, 0)])
        client.call(20, "uaA", w.u64(session) + open_)


def test_others_public_keys_verify_here(client: Client) -> None:
    session = client.open()
    key = ec.generate_private_key(ec.SECP256R1())
    numbers = key.public_key().public_numbers()
    point = b"\4\x41\4" + numbers.x.to_bytes(32, "big") + numbers.y.to_bytes(32, "big")
    template = [(CKA.CLASS, 2), (CKA.KEY_TYPE, 3), (CKA.EC_PARAMS, P256), (CKA.EC_POINT, point)]
    handle = client.call(20, "uaA", w.u64(session) + w.attributes(template)).u()
    assert client.find(session, [(CKA.CLASS, 2)]) == [handle]
    bad = w.attributes([*template[:-1], (CKA.EC_POINT, point[:-1] + b"\0")])
    with refused(CKR.ATTRIBUTE_VALUE_INVALID):
        client.call(20, "uaA", w.u64(session) + bad)


def test_copies_and_changes_only_tighten(user: tuple[Client, int]) -> None:
    client, session = user
    chosen = w.mechanism(client.offered, CKM.AES_KEY_GEN)
    key = client.key(session, chosen, [(CKA.VALUE_LEN, 32), (CKA.TOKEN, 1)])

    def copy(*template: tuple[int, Any]) -> int:
        return client.call(21, "uuaA", w.u64(session) + w.u64(key) + w.attributes(template)).u()

    tighter = copy((CKA.LABEL, b"tighter"), (CKA.EXTRACTABLE, 0))
    assert client.read(session, tighter, CKA.EXTRACTABLE)[0] == {CKA.EXTRACTABLE: 0}
    for other in ((CKA.WRAP, 1), (CKA.SENSITIVE, 0), (CKA.KEY_TYPE, 0x10), (CKA.CLASS, 3)):
        with refused(CKR.TEMPLATE_INCONSISTENT):
            copy(other)
    assert copy((CKA.KEY_TYPE, 0x1F), (CKA.CLASS, 4))
    values = w.u64(session) + w.u64(key)
    client.call(25, "uuaA", values + w.attributes([(CKA.LABEL, b"new"), (CKA.ID, b"\5")]))
    assert client.read(session, key, CKA.LABEL)[0] == {CKA.LABEL: b"new"}
    for kind, value in ((CKA.SENSITIVE, 0), (CKA.VALUE, b"x")):
        with refused(CKR.ATTRIBUTE_READ_ONLY):
            client.call(25, "uuaA", values + w.attributes([(kind, value)]))


def test_attributes_are_asked_for_again_when_the_ledger_has_moved(
    gateway: Gateway, cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    answered = FakeStream.call

    def call(stream: FakeStream, request: Any, timeout_s: float) -> Any:
        asked.append(type(request).__name__)
        return answered(stream, request, timeout_s)

    monkeypatch.setattr(FakeStream, "call", call)
    client = gateway.connect()
    session = client.open()
    client.login(session, PIN)
    chosen = w.mechanism(0, CKM.AES_KEY_GEN)
    names = [b"cached %d" % number for number in range(3)]
    keys = [
        client.key(session, chosen, [(CKA.VALUE_LEN, 32), (CKA.TOKEN, 1), (CKA.LABEL, name)])
        for name in names
    ]
    app = gateway.connections[-1][0].app
    assert app is not None

    def read() -> list[bytes]:
        app.backend._looked_at_s = 0.0  # as later
        return [client.read(session, key, CKA.LABEL)[0][CKA.LABEL] for key in keys]

    assert read() == names  # from now on the place that the ledger has reached is known
    asked.clear()
    assert [read() for _ in range(3)] == [names] * 3
    assert "ListKeys" not in asked
    assert 1 <= asked.count("Hello") <= 3 + len(cluster.machines)  # some of them to new connections
    refs = [client.read(session, key, CKA.UNIQUE_ID)[0][CKA.UNIQUE_ID] for key in keys]
    cluster.change("from-elsewhere", m.ChangeKey(int(refs[1], 16), "label", "renamed"))
    assert read() == [names[0], b"renamed", names[2]]
    cluster.change("gone-elsewhere", m.DeleteKey(int(refs[2], 16)))
    with refused(CKR.OBJECT_HANDLE_INVALID):
        read()


def test_a_session_key_that_is_copied_to_the_token_stays(user: tuple[Client, int]) -> None:
    """What Java's key store does with a key that it has generated."""
    client, session = user
    other = client.open()
    _, private = ec_pair(client, other)
    label = b"kept %d" % client.offered
    wanted = [(CKA.TOKEN, 1), (CKA.PRIVATE, 1), (CKA.LABEL, label), (CKA.ID, b"\x09")]
    template = w.attributes(wanted)
    kept = client.call(21, "uuaA", w.u64(session) + w.u64(private) + template).u()
    client.init(42, other, w.mechanism(client.offered, CKM.ECDSA), private)
    assert len(client.one_step(43, other, bytes(32))) == 64  # type: ignore[arg-type]
    client.call(22, "uu", w.u64(session) + w.u64(private))
    client.call(11, "u", w.u64(other))
    assert client.find(session, [(CKA.LABEL, label)]) == [kept]
    assert client.read(session, kept, CKA.ID, CKA.TOKEN)[0] == {CKA.ID: b"\x09", CKA.TOKEN: 1}


def test_secrets_are_wrapped_for_a_key_that_stays_and_come_back(
    user: tuple[Client, int],
) -> None:
    client, session = user
    common = [(CKA.TOKEN, 1), (CKA.LABEL, b"wrapper")]
    public, private = client.pair(
        session,
        w.mechanism(client.offered, 0),
        [*common, (CKA.MODULUS_BITS, 2048), (CKA.WRAP, 1)],
        [*common, (CKA.UNWRAP, 1), (CKA.EXTRACTABLE, 0)],
    )
    secret = bytes(range(32))
    template = [(CKA.CLASS, 4), (CKA.KEY_TYPE, 0x10), (CKA.VALUE, secret), (CKA.SIGN, 1)]
    given_ = w.attributes([*template, (CKA.TOKEN, 1)])
    payload = client.call(20, "uaA", w.u64(session) + given_).u()
    oaep = w.mechanism(
        client.offered, CKM.RSA_PKCS_OAEP, w.u64(0x220) + w.u64(1) + w.u64(1) + w.counted(b"")
    )
    asked = w.u64(session) + oaep + w.u64(public) + w.u64(payload)
    assert client.call(60, "uMuufy", asked + w.u32(0)).bytes_() == 256
    wrapped = client.call(60, "uMuufy", asked + w.u32(256)).bytes_()
    assert isinstance(wrapped, bytes)
    for token in (0, 1):
        wanted = w.attributes([*template[:2], (CKA.TOKEN, token), (CKA.SIGN, 1)])
        values = w.u64(session) + oaep + w.u64(private) + w.ay(wrapped)
        key = client.call(61, "uMuayaA", values + wanted).u()
        client.init(42, session, w.mechanism(client.offered, CKM.SHA256_HMAC), key)
        assert client.one_step(43, session, b"x") == hmac.digest(secret, b"x", "sha256")
    bad = w.u64(session) + oaep + w.u64(private) + w.ay(wrapped[:-1] + bytes([wrapped[-1] ^ 1]))
    with refused(CKR.WRAPPED_KEY_INVALID):
        client.call(61, "uMuayaA", bad + w.attributes(template[:2]))
    stays = client.key(
        session,
        w.mechanism(client.offered, CKM.GENERIC_SECRET_KEY_GEN),
        [(CKA.TOKEN, 1), (CKA.VALUE_LEN, 32), (CKA.EXTRACTABLE, 0)],
    )
    with refused(CKR.KEY_UNEXTRACTABLE):
        values = w.u64(session) + oaep + w.u64(public) + w.u64(stays)
        client.call(60, "uMuufy", values + w.u32(256))
    outsider = rsa.generate_private_key(65537, 2048).public_key().public_numbers()
    theirs = [(CKA.CLASS, 2), (CKA.KEY_TYPE, 0), (CKA.MODULUS, outsider.n.to_bytes(256, "big")),
              (CKA.PUBLIC_EXPONENT, b"\1\0\1"), (CKA.TOKEN, 1), (CKA.WRAP, 1)]  # fmt: skip
    stranger = client.call(20, "uaA", w.u64(session) + w.attributes(theirs)).u()
    with refused(CKR.KEY_NOT_WRAPPABLE):  # the key would be anybody's who has the other half
        values = w.u64(session) + oaep + w.u64(stranger) + w.u64(payload)
        client.call(60, "uMuufy", values + w.u32(256))


def test_fips_mode_has_no_pkcs1_encryption(user: tuple[Client, int]) -> None:
    client, session = user
    public, private = rsa_pair(client, session, token=False)
    for call, key in ((29, public), (33, private)):
        with refused(CKR.MECHANISM_INVALID):
            client.init(call, session, w.mechanism(client.offered, CKM.RSA_PKCS), key)


# --- signing -------------------------------------------------------------------------------------


def test_rsa_signatures_verify_elsewhere_and_here(user: tuple[Client, int]) -> None:
    client, session = user
    public, private = rsa_pair(client, session, token=False)
    key, data = public_key(client, session, public), b"data"
    digest = hashlib.sha256(data).digest()
    plain = w.mechanism(client.offered, CKM.RSA_PKCS)
    client.init(42, session, plain, private)
    signature = client.one_step(43, session, SHA256_INFO + digest)
    key.verify(signature, data, padding.PKCS1v15(), hashes.SHA256())
    client.init(42, session, w.mechanism(client.offered, CKM.SHA256_RSA_PKCS), private)
    client.call(44, "uay", w.u64(session) + w.ay(b"da"))
    client.call(44, "uay", w.u64(session) + w.ay(b"ta"))
    assert client.final(45, session) == signature
    pss = w.mechanism(client.offered, CKM.RSA_PKCS_PSS, w.u64(0x250) + w.u64(2) + w.u64(32))
    client.init(42, session, pss, private)
    salted = client.one_step(43, session, digest)
    key.verify(salted, data, padding.PSS(padding.MGF1(hashes.SHA256()), 32), hashes.SHA256())
    for chosen, signed, shown in (
        (plain, SHA256_INFO + digest, signature),
        (w.mechanism(client.offered, CKM.SHA256_RSA_PKCS), data, signature),
        (pss, digest, salted),
    ):
        assert isinstance(shown, bytes)
        client.init(48, session, chosen, public)
        client.call(49, "uayay", w.u64(session) + w.ay(signed) + w.ay(shown))
        wrong = shown[:-1] + bytes([shown[-1] ^ 1])
        for rv, bad in (
            (CKR.SIGNATURE_INVALID, wrong),
            (CKR.SIGNATURE_LEN_RANGE, shown[1:]),
        ):
            client.init(48, session, chosen, public)
            with refused(rv):
                client.call(49, "uayay", w.u64(session) + w.ay(signed) + w.ay(bad))
            with refused(CKR.OPERATION_NOT_INITIALIZED):
                client.call(49, "uayay", w.u64(session) + w.ay(signed) + w.ay(bad))


def test_ecdsa_signs_and_verifies(user: tuple[Client, int]) -> None:
    client, session = user
    public, private = ec_pair(client, session)
    digest = hashlib.sha256(b"data").digest()
    chosen = w.mechanism(client.offered, CKM.ECDSA)
    client.init(42, session, chosen, private)
    raw = client.one_step(43, session, digest)
    assert isinstance(raw, bytes)
    r, s = int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big")
    key = public_key(client, session, public)
    key.verify(utils.encode_dss_signature(r, s), b"data", ec.ECDSA(hashes.SHA256()))
    client.init(48, session, chosen, public)
    client.call(50, "uay", w.u64(session) + w.ay(digest))
    client.call(51, "uay", w.u64(session) + w.ay(raw))
    point = client.read(session, public, CKA.EC_POINT, CKA.EC_PARAMS)[0]
    assert (len(point[CKA.EC_POINT]), point[CKA.EC_PARAMS]) == (67, P256)


def test_room_is_compared_before_an_operation_is_finished(user: tuple[Client, int]) -> None:
    client, session = user
    _, private = ec_pair(client, session)
    digest = hashlib.sha256(b"data").digest()
    client.init(42, session, w.mechanism(client.offered, CKM.ECDSA), private)
    for room in (0, 63, 0xFFFFFFFF):
        assert client.one_step(43, session, digest, room) == 64
    assert len(client.one_step(43, session, digest, 64)) == 64  # type: ignore[arg-type]
    with refused(CKR.OPERATION_NOT_INITIALIZED):
        client.one_step(43, session, digest, 64)


def test_operations_that_cannot_begin(user: tuple[Client, int]) -> None:
    client, session = user
    public, private = ec_pair(client, session)
    chosen = w.mechanism(client.offered, CKM.ECDSA)
    with refused(CKR.KEY_HANDLE_INVALID):
        client.init(42, session, chosen, 999_999)
    with refused(CKR.KEY_TYPE_INCONSISTENT):
        client.init(42, session, w.mechanism(client.offered, CKM.RSA_PKCS), private)
    with refused(CKR.KEY_TYPE_INCONSISTENT):
        client.init(42, session, chosen, public)
    with refused(CKR.MECHANISM_INVALID):
        client.init(42, session, w.mechanism(client.offered, 0x121), private)
    client.init(42, session, chosen, private)
    with refused(CKR.OPERATION_ACTIVE):
        client.init(42, session, chosen, private)
    with refused(CKR.DATA_LEN_RANGE):
        client.one_step(43, session, bytes(65))
    with refused(CKR.OPERATION_NOT_INITIALIZED):
        client.one_step(43, session, bytes(32))
    template = [(CKA.VALUE_LEN, 32), (CKA.SIGN, 0), (CKA.VERIFY, 1)]
    mac = client.key(session, w.mechanism(client.offered, CKM.GENERIC_SECRET_KEY_GEN), template)
    with refused(CKR.KEY_FUNCTION_NOT_PERMITTED):
        client.init(42, session, w.mechanism(client.offered, CKM.SHA256_HMAC), mac)
    with refused(CKR.MECHANISM_INVALID):
        client.init(29, session, w.mechanism(client.offered, CKM.SHA256_HMAC), mac)


def test_macs_are_made_and_compared_in_the_hsm(user: tuple[Client, int]) -> None:
    client, session = user
    chosen = w.mechanism(client.offered, CKM.GENERIC_SECRET_KEY_GEN)
    key = client.key(session, chosen, [(CKA.VALUE_LEN, 32)])
    hmac_ = w.mechanism(client.offered, CKM.SHA256_HMAC)
    client.init(42, session, hmac_, key)
    client.call(44, "uay", w.u64(session) + w.ay(b"da"))
    client.call(44, "uay", w.u64(session) + w.ay(b"ta"))
    mac = client.final(45, session)
    assert isinstance(mac, bytes)
    client.init(48, session, hmac_, key)
    client.call(49, "uayay", w.u64(session) + w.ay(b"data") + w.ay(mac))
    client.init(48, session, hmac_, key)
    with refused(CKR.SIGNATURE_INVALID):
        client.call(49, "uayay", w.u64(session) + w.ay(b"date") + w.ay(mac))


def test_digests_need_no_login(client: Client) -> None:
    session = client.open()
    client.call(37, "uM", w.u64(session) + w.mechanism(client.offered, CKM.SHA256))
    assert client.one_step(38, session, b"data", 0) == 32
    assert client.one_step(38, session, b"data") == hashlib.sha256(b"data").digest()
    client.call(37, "uM", w.u64(session) + w.mechanism(client.offered, CKM.SHA512))
    client.call(39, "uay", w.u64(session) + w.ay(b"da"))
    client.call(39, "uay", w.u64(session) + w.ay(b"ta"))
    assert client.final(41, session) == hashlib.sha512(b"data").digest()


# --- encrypting ----------------------------------------------------------------------------------


def aes_key(client: Client, session: int) -> int:
    chosen = w.mechanism(client.offered, CKM.AES_KEY_GEN)
    return client.key(session, chosen, [(CKA.VALUE_LEN, 32)])


@pytest.mark.parametrize("offered", [1, 2])
def test_aes_in_parts_is_aes_at_once(gateway: Gateway, offered: int) -> None:
    client = gateway.connect(offered)
    session = client.open()
    client.login(session, PIN)
    key, iv = aes_key(client, session), bytes(range(16))
    for number, parameter in (
        (CKM.AES_CBC_PAD, w.counted(iv)),
        (CKM.AES_CTR, w.u64(128) + w.counted(iv)),
    ):
        chosen = w.mechanism(offered, number, parameter)
        for size in (0, 1, 15, 16, 17, 32, 70):
            plain = bytes(range(size))
            client.init(29, session, chosen, key)
            whole = client.one_step(30, session, plain)
            assert isinstance(whole, bytes)
            for call, data, expected in ((29, plain, whole), (33, whole, plain)):
                client.init(call, session, chosen, key)
                made = b""
                for at in range(0, len(data), 7):
                    part = client.one_step(call + 2, session, data[at : at + 7], 64)
                    assert isinstance(part, bytes)
                    made += part
                last = client.final(call + 3, session, 64)
                assert isinstance(last, bytes)
                assert made + last == expected
    block = w.mechanism(offered, CKM.AES_CBC, w.counted(iv))
    client.init(29, session, block, key)
    with refused(CKR.DATA_LEN_RANGE):
        client.one_step(30, session, b"no block")
    bad = w.mechanism(offered, CKM.AES_CBC, w.counted(b"short"))
    with refused(CKR.MECHANISM_PARAM_INVALID):
        client.init(29, session, bad, key)


@pytest.mark.parametrize("offered", [1, 2])
def test_gcm_has_its_nonce_from_the_hsm(gateway: Gateway, offered: int) -> None:
    client = gateway.connect(offered)
    session = client.open()
    client.login(session, PIN)
    key = aes_key(client, session)

    def gcm(iv: bytes) -> bytes:
        parameter = w.counted(iv) + w.u64(8 * len(iv)) + w.counted(b"aad") + w.u64(128)
        return w.mechanism(offered, CKM.AES_GCM, parameter)

    for its_own in (bytes(11) + b"\1", bytes(16), bytes(11)):
        with refused(CKR.MECHANISM_PARAM_INVALID):
            client.init(29, session, gcm(its_own), key)
    nonces = set()
    for nothing in (b"", bytes(12), bytes(12)):  # zeros as programs for CloudHSM give them
        client.init(29, session, gcm(nothing), key)
        sealed = client.one_step(30, session, b"plain")
        assert isinstance(sealed, bytes)
        nonces.add(sealed[:12])
        for iv, data in ((b"", sealed), (sealed[:12], sealed[12:])):
            client.init(33, session, gcm(iv), key)
            assert client.one_step(34, session, data) == b"plain"
        client.init(33, session, gcm(b""), key)
        with refused(CKR.ENCRYPTED_DATA_INVALID):
            client.one_step(34, session, sealed[:-1] + bytes([sealed[-1] ^ 1]))
    assert len(nonces) == 3
    assert bytes(12) not in nonces


def test_oaep_is_encrypted_here_and_decrypted_there(user: tuple[Client, int]) -> None:
    client, session = user
    public, private = rsa_pair(client, session, token=False)
    oaep = w.mechanism(
        client.offered, CKM.RSA_PKCS_OAEP, w.u64(0x220) + w.u64(1) + w.u64(1) + w.counted(b"")
    )
    client.init(29, session, oaep, public)
    sealed = client.one_step(30, session, b"plain")
    assert isinstance(sealed, bytes)
    client.init(33, session, oaep, private)
    assert client.one_step(34, session, sealed) == b"plain"
    client.init(33, session, oaep, private)
    with refused(CKR.ENCRYPTED_DATA_INVALID):
        client.one_step(34, session, bytes(len(sealed)))
    client.init(29, session, oaep, public)
    with refused(CKR.DATA_LEN_RANGE):
        client.one_step(30, session, bytes(256))


@pytest.mark.parametrize("offered", [1, 2])
def test_ecdh_gives_what_the_peer_computes(gateway: Gateway, offered: int) -> None:
    client = gateway.connect(offered)
    session = client.open()
    client.login(session, PIN)
    public, private = ec_pair(client, session)
    peer = ec.generate_private_key(ec.SECP256R1())
    while peer.public_key().public_numbers().x >> 248 != 0x3F:  # as DER of so many bytes begins
        peer = ec.generate_private_key(ec.SECP256R1())
    numbers = peer.public_key().public_numbers()
    point = b"\4" + numbers.x.to_bytes(32, "big") + numbers.y.to_bytes(32, "big")
    secret = peer.exchange(ec.ECDH(), public_key(client, session, public))
    for data in (point, b"\4\x41" + point):
        parameter = w.u64(1) + w.counted(None) + w.counted(data)
        chosen = w.mechanism(offered, CKM.ECDH1_DERIVE, parameter)
        template = [(CKA.CLASS, 4), (CKA.KEY_TYPE, 0x10), (CKA.VALUE_LEN, 32), (CKA.SIGN, 1)]
        values = w.u64(session) + chosen + w.u64(private) + w.attributes(template)
        derived = client.call(62, "uMuaA", values).u()
        client.init(42, session, w.mechanism(offered, CKM.SHA256_HMAC), derived)
        expected = hmac.digest(secret, b"data", "sha256")
        assert client.one_step(43, session, b"data") == expected


# --- when HSMs fail ------------------------------------------------------------------------------


def test_signing_outlives_hsms_and_their_absence(gateway: Gateway, cluster: LocalCluster) -> None:
    client = gateway.connect()
    session = client.open()
    client.login(session, PIN)
    _, private = ec_pair(client, session, token=True)
    chosen, digest = w.mechanism(0, CKM.ECDSA), bytes(32)

    def sign() -> int:
        client.init(42, session, chosen, private)
        return len(client.one_step(43, session, digest))  # type: ignore[arg-type]

    assert sign() == 64
    for machine in cluster.machines[:2]:
        machine.stop()
        assert sign() == 64
    cluster.machines[2].stop()
    client.init(42, session, chosen, private)
    with refused(CKR.DEVICE_ERROR):
        client.one_step(43, session, digest)
    cluster.machines[1].start()
    assert sign() == 64  # without a new login, session or search
    cluster.machines[1].stop()
    with refused(CKR.DEVICE_ERROR):
        other = gateway.connect()
        other.login(other.open(), PIN)


def test_an_hsm_that_hangs_is_given_up_and_another_signs(
    gateway: Gateway, cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = gateway.connect()
    sessions = [client.open() for _ in range(4)]
    client.login(sessions[0], PIN)
    _, private = ec_pair(client, sessions[0], token=True)
    hanging: dict[FakeStream, list[OnReply]] = {}
    begin, close = FakeStream.begin, FakeStream.close

    def hang(stream: FakeStream, request: m.Request, on_reply: OnReply) -> bool:
        if hanging and stream not in hanging:  # one does, and all others are well
            return begin(stream, request, on_reply)
        hanging.setdefault(stream, []).append(on_reply)
        return True

    def ended(stream: FakeStream) -> None:
        close(stream)
        owed = hanging.get(stream, [])
        while owed:
            owed.pop()(None)

    monkeypatch.setattr(FakeStream, "begin", hang)
    monkeypatch.setattr(FakeStream, "close", ended)
    monkeypatch.setattr(FakeStream, "oldest_begun_s", lambda s: 0.0 if s in hanging else inf)
    for session in sessions:
        client.init(42, session, w.mechanism(0, CKM.ECDSA), private)
    sent = [client.send(43, "uayfy", w.u64(s) + w.ay(bytes(32)) + w.u32(64)) for s in sessions]
    # Behind its session's signature, and answered after it.
    sent.append(client.send(13, "u", w.u64(sessions[0])))
    answers = dict(client.receive() for _ in sent)
    assert set(answers) == set(sent)
    assert all(answer.call in {13, 43} for answer in answers.values())
    assert hanging


def test_a_client_that_does_not_wait_is_answered_in_full(gateway: Gateway) -> None:
    client = gateway.connect()
    session = client.open()
    client.login(session, PIN)
    _, private = ec_pair(client, session, token=True)
    chosen = w.mechanism(0, CKM.ECDSA_SHA256)
    sender = threading.Thread(
        target=lambda: [
            (
                client.send(42, "uMu", w.u64(session) + chosen + w.u64(private)),
                client.send(43, "uayfy", w.u64(session) + w.ay(bytes([n % 256])) + w.u32(64)),
                client.send(26, "uaA", w.u64(session) + w.attributes([])),  # asks an HSM
                client.send(28, "u", w.u64(session)),
            )
            for n in range(2 * PENDING_MAX // 3)
        ]
    )
    before = client.code
    sender.start()
    count = 2 * PENDING_MAX // 3 * 4
    answers = [client.receive() for _ in range(count)]
    sender.join(10)
    assert [code for code, _ in answers] == list(range(before + 1, before + 1 + count))  # in order
    assert [answer.call for _, answer in answers] == [42, 43, 26, 28] * (count // 4)


def test_random_bytes_at_hand_do_not_wait_for_those_that_are_drawn(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = gateway.connect()
    first, second = client.open(), client.open()
    client.login(first, PIN)
    size = RANDOM_FIRST_BYTES
    client.call(64, "ufy", w.u64(first) + w.u32(size // 4))  # the pool is made
    drawing, call = threading.Event(), FakeStream.call

    def slow(stream: FakeStream, request: m.Request, timeout_s: float) -> m.Reply:
        if isinstance(request, m.Random):
            assert drawing.wait(60)
        return call(stream, request, timeout_s)

    monkeypatch.setattr(FakeStream, "call", slow)
    left = size - size // 4
    client.call(64, "ufy", w.u64(first) + w.u32(left // 2))  # and is low
    waits = client.send(64, "ufy", w.u64(first) + w.u32(size))
    at_hand = client.send(64, "ufy", w.u64(second) + w.u32(16))
    client.sock.settimeout(20)  # it came never, while the one thread waited for the other's lock
    try:
        assert client.receive()[0] == at_hand
    finally:
        drawing.set()
    assert client.receive()[0] == waits


def test_what_came_before_a_broken_frame_is_answered(gateway: Gateway) -> None:
    client = gateway.connect()
    good = w.u32(4) + w.counted(b"yfu") + b"\1" + w.u32(0)
    frames = [struct.pack("!III", code, 0, len(good)) + good for code in (100, 0)]
    client.sock.sendall(b"".join(frames))
    assert client.receive()[0] == 100
    assert client.sock.recv(1) == b""


def test_requests_sent_twice_or_lost_make_one_key(gateway: Gateway, cluster: LocalCluster) -> None:
    client = gateway.connect()
    session = client.open()
    client.login(session, PIN)
    for mishap in ("lose-reply", "lose-request", "repeat"):
        label = b"once " + mishap.encode()
        cluster.mishaps = [mishap]
        template = [(CKA.TOKEN, 1), (CKA.VALUE_LEN, 32), (CKA.LABEL, label)]
        made = client.key(session, w.mechanism(0, CKM.AES_KEY_GEN), template)
        cluster.mishaps = []
        assert client.find(session, [(CKA.LABEL, label)]) == [made]


# --- many at once --------------------------------------------------------------------------------


def test_answers_of_many_sessions_overlap_and_stay_in_order_within_one(
    gateway: Gateway,
) -> None:
    client = gateway.connect()
    sessions = [client.open() for _ in range(4)]
    client.login(sessions[0], PIN)
    _, private = ec_pair(client, sessions[0], token=True)
    chosen = w.mechanism(0, CKM.ECDSA)
    sent: dict[int, int] = {}
    for _ in range(25):
        for session in sessions:  # Init and Sign of one session at once, unanswered
            values = w.u64(session) + chosen + w.u64(private)
            sent[client.send(42, "uMu", values)] = 42
            data = w.u64(session) + w.ay(bytes(32)) + w.u32(64)
            sent[client.send(43, "uayfy", data)] = 43
    while sent:
        code, answer = client.receive()
        assert answer.call == sent.pop(code)


def test_a_client_that_leaves_in_mid_call_ends_its_worker(gateway: Gateway) -> None:
    client = gateway.connect()
    session = client.open()
    client.login(session, PIN)
    _, private = ec_pair(client, session)
    client.send(42, "uMu", w.u64(session) + w.mechanism(0, CKM.ECDSA) + w.u64(private))
    client.send(43, "uayfy", w.u64(session) + w.ay(bytes(32)) + w.u32(64))
    client.sock.close()  # the fixture sees that the worker ends


def test_half_a_frame_is_waited_for(gateway: Gateway) -> None:
    client = gateway.connect()
    body = w.u32(3) + w.counted(b"")
    frame = struct.pack("!III", 77, 0, len(body)) + body
    for byte in frame:
        client.sock.sendall(bytes([byte]))
    assert client.receive()[0] == 77


def test_threads_of_one_application(gateway: Gateway) -> None:
    ours = gateway.connect()
    first = ours.open()
    ours.login(first, PIN)
    _, private = ec_pair(ours, first, token=True)
    failures: list[BaseException] = []

    def work() -> None:
        try:
            client = gateway.connect()
            session = client.open()
            client.login(session, PIN)
            label = [(CKA.LABEL, b"e"), (CKA.CLASS, 3), (CKA.TOKEN, 1)]
            handle = client.find(session, label)[-1]
            for _ in range(10):
                client.init(42, session, w.mechanism(0, CKM.ECDSA), handle)
                assert len(client.one_step(43, session, bytes(32))) == 64  # type: ignore[arg-type]
        except BaseException as exc:  # noqa: BLE001  # told by the test
            failures.append(exc)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []
    assert private


def test_the_version_byte_is_answered_before_anything_else(gateway: Gateway) -> None:
    for offered, answered in ((0, 0), (1, 1), (2, 2), (7, 2)):
        client = gateway.connect(offered)
        assert min(offered, 2) == answered
        assert isinstance(client.sock, socket.socket)


def test_no_secret_stands_in_a_backend_s_repr(gateway: Gateway, tmp_path: Path) -> None:
    client = gateway.connect()
    client.login(client.open(), PIN)
    app = gateway.connections[-1][0].app
    assert app is not None
    assert PIN.decode().partition(":")[2] not in repr((app, app.backend, app.sessions))


def test_cbc_matches_the_standard(gateway: Gateway) -> None:
    """ECDH gives both sides the AES key: the HSM's ciphertext is then anybody's to check."""
    client = gateway.connect(2)
    session = client.open()
    client.login(session, PIN)
    public, private = ec_pair(client, session)
    peer = ec.generate_private_key(ec.SECP256R1())
    numbers = peer.public_key().public_numbers()
    point = b"\4" + numbers.x.to_bytes(32, "big") + numbers.y.to_bytes(32, "big")
    secret = peer.exchange(ec.ECDH(), public_key(client, session, public))
    parameter = w.u64(1) + w.counted(None) + w.counted(point)
    template = [(CKA.CLASS, 4), (CKA.KEY_TYPE, 0x1F), (CKA.VALUE_LEN, 32), (CKA.ENCRYPT, 1)]
    values = w.u64(session) + w.mechanism(2, CKM.ECDH1_DERIVE, parameter)
    key = client.call(62, "uMuaA", values + w.u64(private) + w.attributes(template)).u()
    iv = bytes(range(16))
    client.init(29, session, w.mechanism(2, CKM.AES_CBC, w.counted(iv)), key)
    made = b""
    for _ in range(2):
        part = client.one_step(31, session, bytes(16), 64)
        assert isinstance(part, bytes)
        made += part
    expected = Cipher(algorithms.AES(secret), modes.CBC(iv)).encryptor().update(bytes(32))
    assert made == expected


def test_a_login_that_is_over_is_made_again(gateway: Gateway, cluster: LocalCluster) -> None:
    """A ticket is renewed for 24 hours; applications run for months."""
    client = gateway.connect()
    session = client.open()
    client.login(session, PIN)
    _, private = ec_pair(client, session, token=True)
    app = gateway.connections[-1][0].app
    assert app is not None
    for machine in cluster.machines:
        machine.start()
    cluster.clock.ms += 25 * 3_600_000
    client.init(42, session, w.mechanism(0, CKM.ECDSA), private)
    assert len(client.one_step(43, session, bytes(32))) == 64  # type: ignore[arg-type]
    client.call(19, "u", w.u64(session))
    with refused(CKR.USER_NOT_LOGGED_IN):
        client.call(64, "ufy", w.u64(session) + w.u32(4))
    assert PASSWORD not in repr(vars(app.backend)).encode()


def test_set_pin_changes_the_password_and_goes_on(gateway: Gateway, cluster: LocalCluster) -> None:
    client = gateway.connect()
    session = client.open()
    client.login(session, PIN)
    new, old = b"cu:another-password", PIN

    def set_pin(before: bytes, after: bytes) -> None:
        client.call(15, "uayay", w.u64(session) + w.ay(before) + w.ay(after))

    with refused(CKR.PIN_INCORRECT):
        set_pin(b"cu:not-the-password", new)
    with refused(CKR.PIN_LEN_RANGE):
        set_pin(old, b"cu:short")
    set_pin(old, new)
    assert client.call(64, "ufy", w.u64(session) + w.u32(4)).bytes_()
    other = gateway.connect()
    with refused(CKR.PIN_INCORRECT):
        other.login(other.open(), old)
    other.login(other.open(), new)
    set_pin(new, old)
