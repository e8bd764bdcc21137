"""Whatever comes over a stream, the HSM answers or hangs up, and goes on for everybody else."""

from __future__ import annotations

import errno
import os
import resource
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.agent import server
from orchestrator.agent import stream as stream_module
from orchestrator.agent.hsm import Hsm
from orchestrator.agent.server import Server
from orchestrator.agent.stream import Stream as ServedStream
from orchestrator.agent.turns import Turns
from orchestrator.model.entries import Credential, Entry, Envelope, SignedJoinRequest, encode
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
from orchestrator.model.keys import Attributes, Key
from orchestrator.model.objects import ObjectClass, ObjectDraft, ObjectEdit, ObjectFilter
from orchestrator.model.roles import Role
from orchestrator.model.services import Service
from orchestrator.model.state import Table, key_row
from orchestrator.model.wrap_mechanism import WrapMechanism, WrapScheme
from orchestrator.wire import messages as m
from orchestrator.wire.frames import FRAME_BYTES_MAX, HEADER, pack_frame
from orchestrator.wire.streams import listen
from tests.hostile.wire import Door, Stream, descriptors, eventually, examples, rpc_threads
from tests.stateful.harness import LocalCluster

AES = KeySpec(KeyType.AES, 256)
GCM = CipherMechanism(CipherScheme.AES_GCM, aad=b"aad")
AGREEMENT = Agreement(b"\x04" + bytes(64))
SIGN = SignMechanism(SignScheme.ECDSA, HashFunction.SHA256)
WRAP = WrapMechanism(WrapScheme.RSA_AES, HashFunction.SHA1, 0, b"", b"")
DRAFT = m.KeyDraft(KeyClass.SECRET, "label", (("sign", "true"),))
JOIN = SignedJoinRequest(b"request", bytes(64), bytes(64))
SOME = Credential(b"member", b"signature")
GRANT = m.SignedGrant(b"grant", bytes(64), "cluster", SOME, b"certificate", b"anchor")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    made = LocalCluster(tmp_path_factory.mktemp("stream"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def door(cluster: LocalCluster) -> Door:
    hsm = cluster.machines[0].hsm
    assert hsm is not None
    return Door(hsm)


@pytest.fixture(scope="module")
def witness(door: Door) -> Iterator[Stream]:
    """Another client, who was there before."""
    with door.open() as stream:
        stream.hello()
        yield stream


@pytest.fixture(autouse=True)
def nothing_is_left(door: Door, witness: Stream) -> Iterator[None]:
    witness.hello()
    threads, files = rpc_threads(), descriptors()
    yield
    assert witness.hello().seq  # others go on
    door.wait_until_all_ended(but=1)
    eventually(lambda: rpc_threads() <= threads)
    eventually(lambda: descriptors() <= files)


def every_request(cluster: LocalCluster) -> list[m.Request]:
    """One well-formed request of every kind, and of every change."""
    t = cluster.ticket
    changes: list[m.ChangeRequest] = [
        m.CreateCluster("cluster-aaaaaaaaaaa", "FIPS"),
        m.InitializeCluster(b"certificate", b"anchor"),
        m.ActivateCluster(b"password"),
        m.RestoreCluster("cluster-aaaaaaaaaaa", "blob"),
        m.AdmitHost("host", bytes(32)),
        m.ExpelHost("host"),
        m.JoinHsm(JOIN, bytes(64)),
        m.RemoveHsm("hsm-aaaaaaaaaaa", compromised=True),
        m.CreateUser("name", Role.CRYPTO_USER, b"password"),
        m.DeleteUser("name", Role.CRYPTO_USER),
        m.ChangePassword("name", Role.CRYPTO_USER, b"password"),
        m.EndLogin(),
        m.LockUser("cu", Role.CRYPTO_USER),
        m.GenerateKeys(AES, (DRAFT,)),
        m.DeriveKeys(1 << 16, AGREEMENT, AES, DRAFT),
        m.DeleteKey(1 << 16),
        m.SetRecoveryKey(bytes(97), 3, 5),
        m.ChangeKey(1 << 16, "label", "text"),
        m.ShareKey(1 << 16, "cu"),
        m.UnshareKey(1 << 16, "cu"),
        m.KeepSessionKey(1 << 63),
        m.UnwrapKey(1 << 16, WRAP, bytes(40), KeyType.AES, DRAFT),
        m.ImportPublicKey(b"-----BEGIN", m.KeyDraft(KeyClass.PUBLIC, "label")),
        m.ImportClearKey(AES, DRAFT, b"sealed"),
        m.CopyKey(1 << 16, m.KeyCopy("label", b"id", (("encrypt", "false"),))),
        m.PutObject(ObjectDraft(object_class=ObjectClass.DATA, value=b"value")),
        m.EditObject(1 << 16, ObjectEdit(label="text", value=b"value")),
        m.DeleteObject(1 << 16),
        m.UnlockUser("name", Role.CRYPTO_USER),
        m.DisableUser("name", Role.CRYPTO_USER),
        m.EnableUser("name", Role.CRYPTO_USER),
        m.TransferKeys("name", "cu"),
        m.RegisterApprovalKey(b"public", b"data", b"signature"),
        m.ChangeMfa("cu", Role.CRYPTO_USER, b"password", b"public", b"data", b"signature"),
        m.IssueToken(Service.REGISTRATION),
        m.DeleteTokens(of_all=True),
        m.SetQuorumValue(Service.MFA, 2),
        m.SetQuorumPolicy(False, False, 0, 0),
        m.ApproveKeyUse(1 << 16, "sign", bytes(32)),
        m.IssueLoginTicket(1000, 0),
        m.RevokeLoginTicket("login"),
        m.TakeReplica("cluster-aaaaaaaaaaa", bytes(100), of_user=True),
    ]
    return [
        m.Hello(),
        m.Login("cu", Role.CRYPTO_USER, b"password"),
        m.Renew(t),
        *(m.Prepare(t, f"r{number}", change, 0) for number, change in enumerate(changes)),
        m.Outcome("create"),
        m.Apply((Entry(b"header", bytes(64), b"body"),)),
        m.Entries(0),
        m.Digest(recount=True),
        m.ListUsers(),
        m.ListMembers(),
        m.ListKeys(t, 0, KeyFilter((1 << 16), (("label", "x"),)), 0, 10),
        m.Sign(t, 0, 1 << 16, SIGN, bytes(32)),
        m.Encrypt(t, 0, 1 << 16, GCM, b"plaintext"),
        m.Decrypt(t, 0, 1 << 16, GCM, bytes(40)),
        m.Mac(t, 0, 1 << 16, MacMechanism.AES_CMAC, b"data"),
        m.VerifyMac(t, 0, 1 << 16, MacMechanism.AES_CMAC, b"data", bytes(16)),
        m.Random(t, 8),
        m.MakeSessionKeys(t, AES, (DRAFT,)),
        m.DeriveSessionKey(t, 0, 1 << 16, AGREEMENT, AES, DRAFT),
        m.DropSessionKey(t, 1 << 63),
        m.TakeSnapshot("backup-aaaaaaaaaaa"),
        m.CheckSnapshot("blob"),
        m.Upload("blob", 0, 5, b"piece"),
        m.Download("blob", 0),
        m.JoinChallenge(),
        m.JoinStart("cluster-aaaaaaaaaaa", bytes(32)),
        m.JoinGrant(JOIN),
        m.JoinAccept(GRANT, "blob"),
        m.RecoverStart(),
        m.RecoverAccept(Envelope(b"p", b"w"), Envelope(b"p", b"w")),
        m.Pending(),
        m.EraseBodies(1),
        m.TellTries((m.SignedTries(b"tries", bytes(64)),)),
        m.Zeroize(),
        m.ReadAudit(t, 0),
        m.ChangeSessionKey(t, 1 << 63, "label", "text"),
        m.SealKey(t, 0, 1 << 16, "cluster-aaaaaaaaaaa", Credential(b"member", bytes(256))),
        m.SealUser(
            t, 0, "cu", Role.CRYPTO_USER, "cluster-aaaaaaaaaaa", Credential(b"member", bytes(256))
        ),
        m.WrapKey(t, 0, 1 << 16, 1 << 17, WRAP),
        m.UnwrapSessionKey(t, 0, 1 << 16, WRAP, bytes(40), KeyType.AES, DRAFT),
        m.ImportSessionKey(t, AES, DRAFT, b"sealed"),
        m.CopySessionKey(t, 0, 1 << 16, m.KeyCopy()),
        m.MfaChallenge("cu", Role.CRYPTO_USER),
        m.ListQuorum(),
        m.ListLoginTickets(t),
        m.TakeLoginTicket(t, 0, "login"),
        m.ListObjects(t, 0, ObjectFilter(label="text", id=b"id"), 0, 10),
    ]


@pytest.fixture(scope="module")
def bodies(cluster: LocalCluster) -> list[bytes]:
    requests = every_request(cluster)
    sent = {type(request) for request in requests}
    assert sent == set(m.Request.__args__)
    return [encode(request) for request in requests]


# --- bodies: each whole frame has its reply ---

INTEGERS = st.sampled_from(
    [-(1 << 63), -(1 << 31) - 1, -1, 0, 1, 255, 1 << 31, (1 << 63) - 1, 1 << 63, (1 << 64) - 1]
)
LEAVES = (
    st.none() | st.booleans() | INTEGERS | st.floats() | st.text(max_size=20)
    | st.binary(max_size=40)
)  # fmt: skip
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=12,
)


@settings(max_examples=examples(400), deadline=None)
@given(data=st.data())
def test_values_of_wrong_types_and_sizes_are_answered(
    door: Door, bodies: list[bytes], data: st.DataObject
) -> None:
    fields = msgspec.msgpack.decode(data.draw(st.sampled_from(bodies)))
    for _ in range(data.draw(st.integers(1, 3))):
        where: Any = fields
        while isinstance(where, list) and where:
            place = data.draw(st.integers(0, len(where) - 1))
            if isinstance(where[place], list) and data.draw(st.booleans()):
                where = where[place]
                continue
            action = data.draw(st.sampled_from(["replace", "drop", "repeat", "add"]))
            if action == "replace":
                where[place] = data.draw(VALUES)
            elif action == "drop":
                del where[place]
            else:
                where.insert(place, where[place] if action == "repeat" else data.draw(VALUES))
            break
    with door.open() as stream:
        stream.ask(1, msgspec.msgpack.encode(fields))
        stream.hello()


@settings(max_examples=examples(400), deadline=None)
@given(data=st.data())
def test_mutated_requests_are_answered(
    door: Door, bodies: list[bytes], data: st.DataObject
) -> None:
    body = bytearray(data.draw(st.sampled_from(bodies)))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(body)))
        match data.draw(st.sampled_from(["flip", "cut", "insert", "double"])):
            case "flip" if place < len(body):
                body[place] ^= 1 << data.draw(st.integers(0, 7))
            case "cut":
                del body[place:]
            case "insert":
                body[place:place] = data.draw(st.binary(max_size=8))
            case _:
                body[place:place] = body[:place]
    with door.open() as stream:
        stream.ask(1, bytes(body))
        stream.hello()


NESTED = 200_000


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xc1",
        b"\x91" * NESTED + b"\xc0",
        b"\x81\xa1a" * NESTED + b"\xc0",
        b"\x92\xa7ListAll" + b"\x91" * NESTED,
        b"\x94\xa6Random\xc4\x00" + b"\x91" * NESTED + b"\xc0",
        b"\x92\xa5Apply" + b"\x91" * NESTED,
        b"\x92\xa5Hello" + b"\x91" * NESTED + b"\xc0",
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\x92\xa5Apply\xdd\xff\xff\xff\xff",
        b"\x92\xa7Outcome\xdb\xff\xff\xff\xff",
        b"\x92\xa7Outcome\xc6\xff\xff\xff\xff",
        b"\x92\xa7Outcome\xa2\xff\xfe",
        b"\x92\xa2\xff\xfe\xc0",
        b"\x92\xa7Outcome" + b"\xdb\x00\x0e\x00\x00" + b"x" * 0xE0000,
        b"\x92\xa7Outcome" + b"\xdb\x00\x0e\x00\x00" + b"\x00" * 0xE0000,
        b"\x94\xa5Login" + b"\xdb\x00\x0e\x00\x00" + b"\x00" * 0xE0000 + b"\xa5admin\xc4\x00",
        encode(m.Entries(1 << 63)),
        encode(m.Entries((1 << 64) - 1)),
        encode(m.Entries(-(1 << 63))),
        encode(m.Download("blob", (1 << 64) - 1)),
        encode(m.ReadAudit(b"", (1 << 64) - 1)),
    ],
    ids=range(23),
)
def test_bodies_made_to_hurt_are_answered(door: Door, body: bytes) -> None:
    with door.open() as stream:
        assert not isinstance(stream.ask(1, body), m.Welcome)
        stream.hello()


# --- streams ---


@settings(max_examples=examples(400), deadline=None)
@given(noise=st.binary(min_size=1, max_size=200), cut=st.booleans())
def test_noise_ends_the_stream_with_a_word(door: Door, *, noise: bytes, cut: bool) -> None:
    with door.open() as stream:
        stream.send(noise)
        if cut:  # gone without listening
            stream.close()
            return
        replies = stream.rest()
        assert [number for number, _ in replies] == [0]
        [(_, refusal)] = replies
        assert isinstance(refusal, m.Refusal)
        assert refusal.code == "malformed"


@settings(max_examples=examples(60), deadline=None)
@given(data=st.data())
def test_a_cut_frame_after_whole_ones(door: Door, bodies: list[bytes], data: st.DataObject) -> None:
    whole = b"".join(
        pack_frame(number, data.draw(st.sampled_from(bodies)))
        for number in range(1, data.draw(st.integers(1, 5)))
    )
    last = pack_frame(99, data.draw(st.sampled_from(bodies)))
    with door.open() as stream:
        stream.send(whole + last[: data.draw(st.integers(1, len(last) - 1))])
        numbers = [number for number, _ in stream.rest()]
        # The end may overtake answers, whose client is gone; none comes twice or unasked.
        assert len(set(numbers)) == len(numbers)
        assert set(numbers) <= {0, *range(1, 5)}


@pytest.mark.parametrize(
    "header",
    [
        HEADER.pack(1, 0, FRAME_BYTES_MAX + 1, 1),
        HEADER.pack(1, 0, (1 << 32) - 1, 1),
        HEADER.pack(0, 0, 1, 1),
        HEADER.pack(2, 0, 1, 1),
        HEADER.pack(1, 1, 1, 1),
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(40),
    ],
)
def test_headers_are_refused_before_their_bodies_come(door: Door, header: bytes) -> None:
    with door.open() as stream:
        stream.send(header)
        refusal = stream.reply(0)  # now: nothing waits for what the header announces
        assert isinstance(refusal, m.Refusal)
        assert stream.rest() == []


def test_frames_may_come_a_byte_at_a_time(door: Door, witness: Stream) -> None:
    with door.open() as stream:
        frame = pack_frame(3, encode(m.Outcome("create")))
        for byte in frame:
            stream.send(bytes([byte]))
        assert isinstance(stream.reply(3), m.Committed)
        stream.send(frame[:-1])
        witness.hello()  # one who dawdles holds nobody up
        stream.send(frame[-1:])
        assert isinstance(stream.reply(3), m.Committed)


def test_numbers_are_the_clients_own(door: Door) -> None:
    with door.open() as stream:
        for number in (0, 5, 5, (1 << 64) - 1):
            assert isinstance(stream.ask(number, encode(m.Hello())), m.Welcome)


def test_one_who_never_reads_is_let_go(
    cluster: LocalCluster, door: Door, witness: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_module, "SEND_TIMEOUT_S", 1)
    with door.open() as stream:
        stream.sock.settimeout(0.2)
        ask = pack_frame(1, encode(m.Random(cluster.ticket, 65536)))
        with pytest.raises(TimeoutError):  # it takes no more of them
            stream.sock.sendall(ask * 10_000)
        witness.hello()
        door.wait_until_all_ended(but=1)  # while the client is still there


def test_connections_come_and_go(door: Door) -> None:
    streams = [door.open() for _ in range(100)]
    for number, stream in enumerate(streams):
        if number % 3 == 0:
            stream.send(pack_frame(1, encode(m.Digest(recount=True))))
        elif number % 3 == 1:
            stream.send(HEADER.pack(1, 0, 1000, 1) + bytes(10))
    for stream in streams:
        stream.close()


def test_replies_that_exceed_a_frame_are_refused_and_the_stream_goes_on() -> None:
    """A stand-in HSM: how large a real one's replies can get is the business of each operation."""
    replies: list[m.Reply] = [m.Data(bytes(FRAME_BYTES_MAX)), m.Done()]
    hsm = SimpleNamespace(
        connect=lambda _: None, disconnect=lambda _: None, answer=lambda *_: replies.pop(0)
    )
    near, far = socket.socketpair()
    ended = threading.Event()
    served = cast(Hsm, hsm)
    turns = Turns(served)
    turns.add(ServedStream(served, far, ended.set))
    turns.finish()  # when the stream has ended
    stream = Stream(near)
    refusal = stream.ask(1, encode(m.Hello()))
    assert isinstance(refusal, m.Refusal)
    assert refusal.code == "reply-too-large"
    assert str(FRAME_BYTES_MAX) in refusal.message
    assert not refusal.retryable
    assert stream.ask(2, encode(m.Hello())) == m.Done()
    stream.close()
    assert ended.wait(10)


def test_a_page_of_the_largest_keys_is_answered(cluster: LocalCluster, door: Door) -> None:
    keys = door.hsm.core.state.tables[Table.KEYS]
    spec = KeySpec(KeyType.RSA, 4096, None, 65537)
    refs = range(1 << 32, (1 << 32) + 1000)
    for ref in refs:
        keys[key_row(ref)] = Key(
            ref, KeyClass.PUBLIC, spec, "\N{SNOWMAN}" * 127, bytes(128), "cu", (), Attributes(),
            b"", bytes(550), b"",
        )  # fmt: skip
    try:
        with door.open() as stream:
            request = m.ListKeys(cluster.ticket, 0, KeyFilter(), 0, m.KEYS_PER_PAGE_MAX)
            reply = stream.ask(1, encode(request))
            if isinstance(reply, m.Refusal):
                assert reply.code == "reply-too-large"
            else:
                assert isinstance(reply, m.KeyPage)
                assert reply.total >= 1000
            few = stream.ask(2, encode(msgspec.structs.replace(request, limit=100)))
            assert isinstance(few, m.KeyPage)
            assert len(few.keys) == 100
    finally:
        for ref in refs:
            del keys[key_row(ref)]


# --- the listener ---


@pytest.fixture
def served(tmp_path: Path, door: Door) -> Iterator[Path]:
    """A listening server's socket."""
    path = tmp_path / "agent.sock"
    listener = listen(path)
    thread = threading.Thread(target=Server(door.hsm, listener).run)
    thread.start()
    yield path
    listener.shutdown(socket.SHUT_RDWR)
    thread.join(10)
    listener.close()
    assert not thread.is_alive()


def dial(path: Path) -> Stream:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.connect(os.fspath(path))
    return Stream(sock)


def take_descriptors(taken: list[int]) -> None:
    while True:
        taken.append(os.dup(0))


def test_the_listener_outlives_a_lack_of_descriptors(served: Path) -> None:
    # The kernel has put a descriptor by for the first; it is the second that there is none for.
    sockets = [socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) for _ in range(2)]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (sockets[-1].fileno() + 20, hard))
    try:
        with pytest.raises(OSError, match=os.strerror(errno.EMFILE)):
            take_descriptors(taken)
        for sock in sockets:
            sock.connect(os.fspath(served))
        threading.Event().wait(2 * server.ACCEPT_PAUSE_S)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in taken:
            os.close(descriptor)
    for sock in sockets:
        with Stream(sock) as stream:
            stream.hello()


def test_a_connection_without_a_thread_is_closed_and_its_place_given_back(
    served: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        for _ in range(3):
            with dial(served) as stream:
                assert stream.rest() == []
    with dial(served) as stream:
        stream.hello()


def test_a_connection_that_cannot_be_begun_ends_alone(
    served: Path, door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    def random(count: int) -> bytes:
        raise OSError("the token is gone")

    with monkeypatch.context() as patch:
        patch.setattr(door.hsm.core.store, "random", random)
        with dial(served) as stream:
            assert stream.rest() == []
    with dial(served) as stream:
        stream.hello()


def test_there_is_room_for_so_many_and_places_are_given_back(
    tmp_path: Path, door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "CONNECTIONS_MAX", 3)
    path = tmp_path / "agent.sock"
    listener = listen(path)
    served = Server(door.hsm, listener)
    thread = threading.Thread(target=served.run)
    thread.start()
    for _ in range(3):
        streams = [dial(path) for _ in range(3)]
        for stream in streams:
            stream.hello()
        surplus = dial(path)
        assert surplus.rest() == []
        for stream in (*streams, surplus):
            stream.close()
        eventually(lambda: served._room._value == 3)
    listener.shutdown(socket.SHUT_RDWR)
    thread.join(10)
    listener.close()
