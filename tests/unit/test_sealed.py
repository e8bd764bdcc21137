"""Boxes against another HPKE, snapshots under every kind of damage, custodians' shares."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st
from pyhpke import AEADId, CipherSuite, KDFId, KEMId, KEMKey

from orchestrator.model.errors import MalformedError, OrchestratorError, RefusedError, TamperedError
from orchestrator.model.key_spec import KeyClass, KeySpec, KeyType
from orchestrator.sealed import recovery
from orchestrator.sealed.box import open_box, seal_box
from orchestrator.sealed.snapshot import (
    CHUNK_BYTES,
    MAGIC,
    open_snapshot,
    parse_snapshot,
    verify_snapshot,
)
from orchestrator.wire import messages as m
from tests.stateful.harness import LocalCluster

SUITE = CipherSuite.new(KEMId.DHKEM_P256_HKDF_SHA256, KDFId.HKDF_SHA256, AEADId.AES256_GCM)
KEY = ec.generate_private_key(ec.SECP256R1())
POINT = KEY.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


def agree(point: bytes) -> bytes:
    public = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point)
    return KEY.exchange(ec.ECDH(), public)


def test_another_hpke_opens_our_box() -> None:
    box = seal_box(POINT, b"secret", b"info")
    context = SUITE.create_recipient_context(
        box[:65], KEMKey.from_pyca_cryptography_key(KEY), info=b"info"
    )
    assert context.open(box[65:]) == b"secret"


def test_we_open_another_hpkes_box() -> None:
    public = KEMKey.from_pyca_cryptography_key(KEY.public_key())
    enc, context = SUITE.create_sender_context(public, info=b"info")
    assert open_box(POINT, agree, enc + context.seal(b"secret"), b"info") == b"secret"


@given(position=st.integers(65, 86))
def test_a_changed_box_is_refused(position: int) -> None:
    box = bytearray(seal_box(POINT, b"secret", b"info"))
    box[position] ^= 1
    with pytest.raises(TamperedError):
        open_box(POINT, agree, bytes(box), b"info")


def test_a_box_is_for_one_purpose() -> None:
    with pytest.raises(TamperedError):
        open_box(POINT, agree, seal_box(POINT, b"secret", b"info"), b"other")
    with pytest.raises(MalformedError):
        open_box(POINT, agree, b"short", b"info")


# --- snapshots ---


@pytest.fixture(scope="module")
def backup(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, Callable[[bytes], object]]:
    """A backup of a real cluster of more than one chunk, and how its HSM opens it."""
    cluster = LocalCluster(tmp_path_factory.mktemp("backup"))
    aes = KeySpec(KeyType.AES, 256)
    for number in range(400):
        draft = m.KeyDraft(KeyClass.SECRET, f"{number:0127}")
        cluster.change(f"r{number}", m.GenerateKeys(aes, (draft,)))
    roster, hsm = cluster.controller.roster, cluster.machines[0].id
    roster.call(hsm, m.TakeSnapshot("backup-aaaaaaaaaaa"))
    data = roster.download(hsm, "backup-aaaaaaaaaaa")

    def check(content: bytes) -> object:
        roster.upload(hsm, "b", content)
        return roster.call(hsm, m.CheckSnapshot("b"))

    return data, check


Backup = tuple[bytes, Callable[[bytes], object]]


def test_a_backup_opens_where_its_key_is(backup: Backup) -> None:
    data, check = backup
    assert len(data) > CHUNK_BYTES * 1.5
    snapshot = parse_snapshot(data)
    manifest = verify_snapshot(snapshot)
    checked = check(data)
    assert isinstance(checked, m.SnapshotChecked)
    assert checked.digest == manifest.digest
    with pytest.raises(OrchestratorError):
        open_snapshot(snapshot, POINT, agree)


@pytest.mark.filterwarnings("ignore:Parsed a serial number")  # a flip in the serial, say
@settings(max_examples=200, deadline=None)
@given(place=st.integers(0, 1 << 40), bit=st.integers(0, 7))
def test_any_flipped_byte_is_found(backup: Backup, place: int, bit: int) -> None:
    content = bytearray(backup[0])
    content[place % len(content)] ^= 1 << bit
    with pytest.raises(OrchestratorError):
        verify_snapshot(parse_snapshot(bytes(content)))


def test_chunks_cannot_be_moved_cut_or_repeated(backup: Backup) -> None:
    content, check = backup
    start = content.index(MAGIC) + len(MAGIC)
    body = start + 4 + int.from_bytes(content[start : start + 4], "big")
    step = CHUNK_BYTES + 16
    first, rest = content[body : body + step], content[body + step :]
    for changed in (rest + first, first, first + first + rest):
        with pytest.raises(OrchestratorError):
            check(content[:body] + changed)


def test_a_backup_of_another_format_is_named(backup: Backup) -> None:
    with pytest.raises(MalformedError, match="no Cloister backup"):
        parse_snapshot(b"PK\x03\x04" + bytes(100))
    with pytest.raises(MalformedError, match="cut off"):
        parse_snapshot(backup[0][:100])


# --- custodians ---

SEED = hashlib.sha256(b"seed").digest()


@pytest.fixture(scope="module")
def words() -> list[str]:
    return recovery.split_seed(SEED, 3, 5)


@pytest.mark.parametrize("chosen", [(0, 1, 2), (4, 2, 0), (1, 3, 4)])
def test_any_three_of_five_give_the_seed(words: list[str], chosen: tuple[int, ...]) -> None:
    assert recovery.combine_shares([words[number] for number in chosen]) == SEED


@pytest.mark.parametrize(
    ("choose", "code"),
    [
        (lambda w: w[:2], "share-too-few"),
        (lambda w: [w[0], w[0], w[1]], "share-twice"),
        (lambda w: [w[0], w[1], w[2].replace(w[2].split()[5], "academic", 1)], "share-mistyped"),
        (lambda w: [w[0], w[1], "not even words"], "share-mistyped"),
        (lambda w: [*w[:2], recovery.split_seed(os.urandom(32), 3, 5)[2]], "share-other-set"),
    ],
)
def test_wrong_shares_say_what_is_wrong(
    words: list[str], choose: Callable[[list[str]], list[str]], code: str
) -> None:
    with pytest.raises(RefusedError) as caught:
        recovery.combine_shares(choose(words))
    assert caught.value.code == code
