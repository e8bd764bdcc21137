"""Whoever runs the control plane, or owns its database, joins no HSM of his own.

He may send any request to any agent as the appliance user, start agents on hosts of his own, and
change what the control plane believes. He has no admitted host's key and no admin's password.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from orchestrator.control.membership import Membership
from orchestrator.lab import demo, lab
from orchestrator.lab.layout import Layout
from orchestrator.model import entries as e
from orchestrator.model.cluster_decisions import receipt_digest
from orchestrator.model.errors import TamperedError
from orchestrator.model.roles import Role
from orchestrator.model.signatures import digest_of, load_certificate, public_bytes
from orchestrator.sealed.snapshot import open_snapshot, parse_snapshot
from orchestrator.wire import messages as m
from tests.stateful.harness import CLUSTER, LocalCluster
from tests.thieves.harness import (
    FalseHsm,
    ask,
    ask_for,
    challenge,
    code_of,
    is_empty,
    last_audit,
    members,
    new_hsm,
    point_of,
    refusal,
    sign_ecdsa,
    socket_of,
)
from tests.thieves.loot import steal

pytestmark = [pytest.mark.softhsm, pytest.mark.timeout(120)]
ADMITTED: Final = "host-1b"


@dataclass
class Scene:
    """A member, a genuine HSM that wants to join, its request, and the thief's own HSM."""

    job: demo.Demo
    donor: str
    genuine: str
    join: e.SignedJoinRequest
    thief: FalseHsm

    @property
    def request(self) -> e.JoinRequest:
        return e.decode(e.JoinRequest, self.join.request, "join request")

    def edited(self, **fields: object) -> e.SignedJoinRequest:
        """Return the genuine request with other fields and the signatures that it had."""
        data = e.encode(msgspec.structs.replace(self.request, **fields))
        return msgspec.structs.replace(self.join, request=data)

    def resigned(self, *, host: bool, **fields: object) -> e.SignedJoinRequest:
        """Return the same, signed by the thief's identity, and by his host too when `host`."""
        join = self.edited(**fields)
        data = join.request
        identity = sign_ecdsa(self.thief.identity, digest_of("join", data))
        join = msgspec.structs.replace(join, identity_signature=identity)
        if host:
            signature = self.thief.host_key.sign(digest_of("join-host", data))
            join = msgspec.structs.replace(join, host_signature=signature)
        return join

    def own(self, host: str, cluster: str | None = None) -> e.SignedJoinRequest:
        """Return a request of the thief's HSM, which says that it is on this host."""
        self.thief.host = host
        return self.thief.sign(
            self.thief.request(cluster or self.job.cluster, self.request.challenge)
        )

    @property
    def transport(self) -> bytes:
        return point_of(self.thief.transport)


def start(job: demo.Demo, hsm: str, nonce: bytes, cluster: str = "") -> e.SignedJoinRequest:
    """Have an HSM ask to join."""
    asked = m.JoinStart(cluster or job.cluster, nonce)
    join: e.SignedJoinRequest = ask_for(job, hsm, asked, m.SignedJoin).join
    return join


@pytest.fixture(scope="module")
def genuine(active: demo.Demo) -> str:
    """An empty HSM on an admitted host."""
    return new_hsm(active, ADMITTED)


@pytest.fixture
def scene(active: demo.Demo, genuine: str) -> Scene:
    """Everything in order for a join: what a test changes is what is refused."""
    donor = members(active)[0]
    join = start(active, genuine, challenge(active, donor))
    return Scene(active, donor, genuine, join, FalseHsm())


FORGED: Final[dict[str, tuple[Callable[[Scene], e.SignedJoinRequest], str]]] = {
    "a host of his own": (lambda s: s.own("host-thief"), "host-not-admitted"),
    "a host of no name": (lambda s: s.own(""), "host-not-admitted"),
    "an admitted host's name": (lambda s: s.own(ADMITTED), "host-key-changed"),
    "a clone on a host of his own": (
        lambda s: s.own("host-thief", "cluster-aaaaaaaaaaa"),
        "host-not-admitted",
    ),
    "a clone under an admitted host's name": (
        lambda s: s.own(ADMITTED, "cluster-aaaaaaaaaaa"),
        "host-key-changed",
    ),
    "a genuine request made a clone's": (
        lambda s: s.edited(cluster="cluster-aaaaaaaaaaa"),
        "host-key-changed",
    ),
    "another transport key": (lambda s: s.edited(transport=s.transport), "host-key-changed"),
    "another transport key, his identity": (
        lambda s: s.resigned(host=False, transport=s.transport, identity=s.thief.identity_public),
        "host-key-changed",
    ),
    "another transport key, his host key": (
        lambda s: s.resigned(host=True, transport=s.transport),
        "host-key-changed",
    ),
    "another identity": (
        lambda s: s.resigned(host=False, identity=s.thief.identity_public),
        "host-key-changed",
    ),
    "another identity's signature": (lambda s: s.resigned(host=False), "tampered"),
    "another box": (lambda s: s.edited(box=point_of(s.thief.box)), "host-key-changed"),
    "another admitted host": (lambda s: s.edited(host="host-1c"), "host-key-changed"),
    "another HSM's id": (lambda s: s.edited(hsm=s.thief.hsm), "host-key-changed"),
    "another challenge": (
        lambda s: s.edited(challenge=challenge(s.job, s.donor)),
        "host-key-changed",
    ),
    "no host's signature": (
        lambda s: msgspec.structs.replace(s.join, host_signature=b""),
        "host-key-changed",
    ),
    "no identity's signature": (
        lambda s: msgspec.structs.replace(s.join, identity_signature=b""),
        "tampered",
    ),
    "no request at all": (
        lambda s: msgspec.structs.replace(s.join, request=b"\x98"),
        "malformed",
    ),
}


def cluster_key(scene: Scene) -> bytes:
    """Return the public half of the cluster's certificate key."""
    welcome: m.Welcome = ask_for(scene.job, scene.donor, m.Hello(), m.Welcome)
    return public_bytes(load_certificate(welcome.certificate, "the cluster certificate"))


@pytest.mark.parametrize("how", FORGED)
def test_a_forged_request_is_granted_nothing(scene: Scene, how: str) -> None:
    build, code = FORGED[how]
    join = build(scene)
    assert refusal(scene.job, scene.donor, m.JoinGrant(join)) == code
    event, _, outcome = last_audit(scene.job, scene.donor)
    assert (event, outcome) == ("join-grant", code)
    # nor is it made a member without a grant, with whatever receipt
    receipt = sign_ecdsa(scene.thief.identity, receipt_digest(join, cluster_key(scene)))
    change = m.Prepare(b"", secrets.token_hex(8), m.JoinHsm(join, receipt), 0)
    assert refusal(scene.job, scene.donor, change) == code
    assert is_empty(scene.job, scene.genuine)


@pytest.mark.parametrize("cluster", ["", "cluster-aaaaaaaaaaa"])
def test_what_was_not_changed_is_granted(scene: Scene, cluster: str) -> None:
    join = start(scene.job, scene.genuine, scene.request.challenge, cluster)
    granted: m.Granted = ask_for(scene.job, scene.donor, m.JoinGrant(join), m.Granted)
    assert last_audit(scene.job, scene.donor)[2] == "done"
    with pytest.raises(InvalidUnwrap):
        scene.thief.open_transport(granted.grant)  # and yet no use to who recorded it


def test_membership_needs_the_joiners_own_receipt(scene: Scene) -> None:
    ask(scene.job, scene.donor, m.JoinGrant(scene.join))
    receipt = sign_ecdsa(scene.thief.identity, receipt_digest(scene.join, cluster_key(scene)))
    for forged in (receipt, scene.join.identity_signature, b""):
        change = m.Prepare(b"", secrets.token_hex(8), m.JoinHsm(scene.join, forged), 0)
        assert refusal(scene.job, scene.donor, change) == "tampered"


# --- replays ---


def refused_as_replay(scene: Scene, join: e.SignedJoinRequest) -> None:
    assert refusal(scene.job, scene.donor, m.JoinGrant(join)) == "join-replayed"
    assert last_audit(scene.job, scene.donor) == (
        "join-grant",
        f"{scene.genuine} on {ADMITTED}",
        "join-replayed",
    )


def test_a_request_is_granted_once(scene: Scene) -> None:
    ask(scene.job, scene.donor, m.JoinGrant(scene.join))
    refused_as_replay(scene, scene.join)
    challenge(scene.job, scene.donor)
    refused_as_replay(scene, scene.join)


def test_a_request_answers_the_member_that_asked(scene: Scene) -> None:
    other = members(scene.job)[1]
    refused_as_replay(scene, start(scene.job, scene.genuine, challenge(scene.job, other)))


@pytest.mark.parametrize("nonce", [b"", bytes(32), b"\x07" * 32])
def test_a_request_answers_a_challenge(scene: Scene, nonce: bytes) -> None:
    refused_as_replay(scene, start(scene.job, scene.genuine, nonce))


def test_a_request_is_worth_nothing_after_a_restart(scene: Scene) -> None:
    lab.kill(scene.job.home, scene.donor)
    lab.start(scene.job.home, scene.donor)
    refused_as_replay(scene, scene.join)


def test_a_challenge_lives_a_minute(tmp_path: Path) -> None:
    cluster = LocalCluster(tmp_path)
    try:
        donor = cluster.machines[0].hsm
        assert donor is not None
        thief = FalseHsm("host-1")
        thief.host_key = cluster.machines[1].host_key  # what he would have to have
        peer = donor.connect(0)
        codes = []
        for seconds in (59, 61):
            nonce = donor.answer(m.JoinChallenge(), peer)
            assert isinstance(nonce, m.Data)
            cluster.clock.sleep(seconds)
            join = thief.sign(thief.request(CLUSTER, nonce.data))
            reply = donor.answer(m.JoinGrant(join), peer)
            codes.append(reply.code if isinstance(reply, m.Refusal) else "")
        assert codes == ["", "join-replayed"]
    finally:
        cluster.close()


# --- hosts ---


@pytest.fixture(scope="module")
def fourth(active: demo.Demo) -> str:
    """A prepared host that nobody has admitted."""
    Layout(active.home).prepare(4)
    return "host-1d"


def test_a_real_hsm_on_a_host_that_was_not_admitted(
    active: demo.Demo, fourth: str, tmp_path: Path
) -> None:
    donor = members(active)[0]
    rogue = new_hsm(active, fourth)
    for cluster in ("", "cluster-aaaaaaaaaaa"):
        join = start(active, rogue, challenge(active, donor), cluster)
        assert refusal(active, donor, m.JoinGrant(join)) == "host-not-admitted"
    token = steal(socket_of(active, rogue).parent, tmp_path / "copy")
    assert token.labels == {"identity", "identity public", "box", "box public", "state"}
    assert token.masking == b""


def test_a_host_that_was_expelled(active: demo.Demo, fourth: str) -> None:
    donor = members(active)[0]
    with active.plane.login(active.cluster, Role.ADMIN, "admin", active.passwords["admin"]) as co:
        changes = active.plane.changes(active.cluster, co)
        changes.admit_host(fourth)
        hsm = new_hsm(active, fourth)
        before = start(active, hsm, challenge(active, donor))
        ask(active, donor, m.JoinGrant(before))
        open_ = start(active, hsm, challenge(active, donor))
        changes.expel_host(fourth)
    # neither a request of before that is still open, nor a new one
    for join in (open_, start(active, hsm, challenge(active, donor))):
        assert refusal(active, donor, m.JoinGrant(join)) == "host-not-admitted"
        assert last_audit(active, donor) == (
            "join-grant",
            f"{hsm} on {fourth}",
            "host-not-admitted",
        )
    assert is_empty(active, hsm)


def test_an_admitted_host_whose_key_was_replaced(active: demo.Demo) -> None:
    """The control plane lists the thief's machine under the name of an admitted one."""
    directory = active.home / "lab" / "hosts" / "host-1c"
    genuine = {n: (directory / n).read_bytes() for n in ("host_key.pem", "host_key.pub")}
    before = [hsm.hsm_id for hsm in active.plane.hsms(active.cluster)]
    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    public = msgspec.json.encode(key.public_key().public_bytes_raw())[1:-1]  # base64
    try:
        (directory / "host_key.pem").write_bytes(pem)
        (directory / "host_key.pub").write_bytes(public)
        listed = {view.host: view.is_admitted for view in active.plane.host_views(active.cluster)}
        assert (listed["host-1b"], listed["host-1c"]) == (True, False)
        assert code_of(lambda: Membership(active.plane).create(active.cluster, "lab-1c")) == (
            "host-key-changed"
        )
    finally:
        for name, content in genuine.items():
            (directory / name).write_bytes(content)
    assert [hsm.hsm_id for hsm in active.plane.hsms(active.cluster)] == before
    audited = [last_audit(active, hsm) for hsm in before]
    assert ("join-grant", "host-key-changed") in [(event, code) for event, _, code in audited]


# --- grants and snapshots ---


@dataclass
class Granted:
    """What the control plane carries from a member to a joiner."""

    grant: m.SignedGrant
    snapshot: bytes


def granted(job: demo.Demo, donor: str, join: e.SignedJoinRequest) -> Granted:
    answer: m.Granted = ask_for(job, donor, m.JoinGrant(join), m.Granted)
    snapshot = job.plane.controller(job.cluster).roster.download(donor, answer.blob)
    return Granted(answer.grant, snapshot)


def accept(job: demo.Demo, hsm: str, given: Granted) -> m.Reply:
    ask(job, hsm, m.Upload(hsm, 0, len(given.snapshot), given.snapshot))
    return ask(job, hsm, m.JoinAccept(given.grant, hsm))


def test_a_grant_is_for_one_request(scene: Scene) -> None:
    job = scene.job
    first = granted(job, scene.donor, scene.join)
    other = new_hsm(job, ADMITTED)
    assert code_of(lambda: accept(job, other, first)) == "tampered"  # it never asked
    mine = granted(job, scene.donor, start(job, other, challenge(job, scene.donor)))
    assert code_of(lambda: accept(job, other, first)) == "tampered"
    # its own grant, with the snapshot that was made for the other
    assert code_of(lambda: accept(job, other, Granted(mine.grant, first.snapshot))) == "tampered"
    # and one's own again, once another request was made
    start(job, scene.genuine, challenge(job, scene.donor))
    assert code_of(lambda: accept(job, scene.genuine, first)) == "tampered"
    assert is_empty(job, other)
    assert is_empty(job, scene.genuine)


@pytest.mark.parametrize("part", ["request", "point", "wrapped", "snapshot", "signature", "chain"])
def test_a_grant_is_taken_as_it_was_signed(scene: Scene, part: str) -> None:
    given = granted(scene.job, scene.donor, scene.join)
    signed, body = given.grant, e.decode(m.Grant, given.grant.grant, "grant")
    match part:
        case "signature":
            signed = msgspec.structs.replace(signed, signature=bytes(64))
        case "chain":
            signed = msgspec.structs.replace(signed, trust_anchor=signed.certificate)
        case _:
            field = bytearray(getattr(body, part))
            field[-1] ^= 1
            grant = e.encode(msgspec.structs.replace(body, **{part: bytes(field)}))
            signed = msgspec.structs.replace(signed, grant=grant)
    forged = Granted(signed, given.snapshot)
    assert code_of(lambda: accept(scene.job, scene.genuine, forged)) == "tampered"
    assert is_empty(scene.job, scene.genuine)


def test_a_joiners_snapshot_is_closed_to_others(scene: Scene) -> None:
    given = granted(scene.job, scene.donor, scene.join)
    snapshot = parse_snapshot(given.snapshot)
    body = e.decode(m.Grant, given.grant.grant, "grant")
    assert body.snapshot == hashlib.sha256(given.snapshot).digest()

    def agree(point: bytes) -> bytes:
        peer = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point)
        return scene.thief.box.exchange(ec.ECDH(), peer)

    for recipient in (point_of(scene.thief.box), scene.request.box):
        with pytest.raises(TamperedError):
            open_snapshot(snapshot, recipient, agree)
    # nor does a member open it for him, as a backup
    other = members(scene.job)[1]
    ask(scene.job, other, m.Upload("it", 0, len(given.snapshot), given.snapshot))
    assert refusal(scene.job, other, m.CheckSnapshot("it")) == "tampered"
