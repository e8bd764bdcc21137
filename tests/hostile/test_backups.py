"""Backups that were cut, mixed, edited or forged: none is opened, none enters the vault."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.control.backups import Backups
from orchestrator.control.plane import ControlPlane
from orchestrator.lab.hosts import LabHosts
from orchestrator.lab.layout import Layout
from orchestrator.model.entries import decode, encode
from orchestrator.model.errors import OrchestratorError, RemoteError
from orchestrator.model.key_spec import KeyClass, KeySpec, KeyType
from orchestrator.model.keys import Attributes, Key
from orchestrator.model.signatures import digest_of
from orchestrator.model.state import Put, Table, key_row
from orchestrator.sealed.snapshot import (
    CHUNK_BYTES,
    MAGIC,
    SNAPSHOT_BYTES_MAX,
    Manifest,
    SignedManifest,
    parse_snapshot,
    verify_snapshot,
)
from orchestrator.wire import messages as m
from tests.hostile.wire import examples
from tests.stateful.harness import LocalCluster

START = len(MAGIC) + 4
SEALED = CHUNK_BYTES + 16
AES = KeySpec(KeyType.AES, 256)


class Made:
    """Two backups of one cluster, of several chunks each, and the HSM that opens them."""

    def __init__(self, directory: Path) -> None:
        self.cluster = LocalCluster(directory)
        self.hsm = self.cluster.machines[0]
        assert self.hsm.hsm is not None
        state = self.hsm.hsm.core.state
        rows = [(ref << 16, _key(ref << 16)) for ref in range(1 << 20, (1 << 20) + 700)]
        puts = [Put(Table.KEYS, key_row(ref), key) for ref, key in rows]
        state.advance(puts, seq=state.seq, head=state.head, at=state.at)
        self.data, self.other = self._take("backup-aaaaaaaaaaa"), self._take("backup-bbbbbbbbbbb")

    def _take(self, name: str) -> bytes:
        roster = self.cluster.controller.roster
        roster.call(self.hsm.id, m.TakeSnapshot(name))
        return roster.download(self.hsm.id, name)

    def opened(self, content: bytes) -> m.Reply:
        roster = self.cluster.controller.roster
        roster.upload(self.hsm.id, "b", content)
        return roster.call(self.hsm.id, m.CheckSnapshot("b"))


def _key(ref: int) -> Key:
    return Key(
        ref, KeyClass.SECRET, AES, "x" * 127, b"", "cu", (), Attributes(), bytes(48), b"", b""
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    made = Made(tmp_path_factory.mktemp("made"))
    yield made
    made.cluster.close()


@pytest.fixture(scope="module")
def backups(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backups]:
    """A vault directory in which nothing is."""
    home = tmp_path_factory.mktemp("vault") / "home"
    Layout(home).prepare(1)
    plane = ControlPlane.open(home, LabHosts(home))
    yield Backups(plane)
    plane.close()


def refused(made: Made, backups: Backups, content: bytes) -> str:
    """Neither the vault nor an HSM takes it, and neither keeps anything."""
    vault = backups.path("x").parent
    file = vault.parent / "offered.backup"
    file.write_bytes(content)
    with pytest.raises(OrchestratorError) as caught:
        backups.import_(file)
    assert list(vault.iterdir()) == []
    assert backups.list() == []
    if content:  # a blob has at least one byte
        with pytest.raises(RemoteError):
            made.opened(content)
    return caught.value.code


def split(content: bytes) -> tuple[SignedManifest, bytes]:
    end = START + int.from_bytes(content[len(MAGIC) : START], "big")
    return decode(SignedManifest, content[START:end], "manifest"), content[end:]


def join(signed: SignedManifest, chunks: bytes) -> bytes:
    packed = encode(signed)
    return MAGIC + len(packed).to_bytes(4, "big") + packed + chunks


def edited(content: bytes, **fields: object) -> bytes:
    signed, chunks = split(content)
    manifest = msgspec.structs.replace(decode(Manifest, signed.manifest, "manifest"), **fields)
    return join(msgspec.structs.replace(signed, manifest=encode(manifest)), chunks)


def chunked(content: bytes) -> tuple[bytes, list[bytes]]:
    _, chunks = split(content)
    head = content[: len(content) - len(chunks)]
    return head, [chunks[i : i + SEALED] for i in range(0, len(chunks), SEALED)]


def reordered(order: Callable[[list[bytes]], list[bytes]]) -> Callable[[bytes, bytes], bytes]:
    def change(data: bytes, _: bytes) -> bytes:
        head, chunks = chunked(data)
        assert len(chunks) >= 3
        return head + b"".join(order(chunks))

    return change


def length(new: Callable[[int], int]) -> Callable[[bytes, bytes], bytes]:
    def change(data: bytes, _: bytes) -> bytes:
        old = int.from_bytes(data[len(MAGIC) : START], "big")
        return data[: len(MAGIC)] + (new(old) & 0xFFFFFFFF).to_bytes(4, "big") + data[START:]

    return change


STRUCTURE: dict[str, Callable[[bytes, bytes], bytes]] = {
    "nothing": lambda d, o: b"",
    "magic alone": lambda d, o: MAGIC,
    "magic and length": lambda d, o: d[:START],
    "no magic": lambda d, o: d[len(MAGIC) :],
    "magic twice": lambda d, o: MAGIC + d,
    "magic in text mode": lambda d, o: d.replace(b"\r\n", b"\n", 1),
    "length 0": length(lambda n: 0),
    "length less one": length(lambda n: n - 1),
    "length and one": length(lambda n: n + 1),
    "length of all": length(lambda n: 1 << 17),
    "length of more than all": length(lambda n: (1 << 32) - 1),
    "no body": lambda d, o: join(split(d)[0], b""),
    "one byte more": lambda d, o: d + b"\0",
    "one byte less": lambda d, o: d[:-1],
    "twice": lambda d, o: d + d,
    "a chunk more": lambda d, o: d + bytes(SEALED),
    "body of another backup": lambda d, o: join(split(d)[0], split(o)[1]),
    "signature of another backup": lambda d, o: join(
        SignedManifest(split(d)[0].manifest, split(o)[0].signature), split(d)[1]
    ),
    "manifest of another backup": lambda d, o: join(
        SignedManifest(split(o)[0].manifest, split(d)[0].signature), split(d)[1]
    ),
    "no signature": lambda d, o: join(SignedManifest(split(d)[0].manifest, b""), split(d)[1]),
    "no manifest": lambda d, o: join(SignedManifest(b"", split(d)[0].signature), split(d)[1]),
    "first chunks swapped": reordered(lambda c: [c[1], c[0], *c[2:]]),
    "last chunk first": reordered(lambda c: [c[-1], *c[:-1]]),
    "last chunk gone": reordered(lambda c: c[:-1]),
    "first chunk gone": reordered(lambda c: c[1:]),
    "middle chunk gone": reordered(lambda c: [c[0], *c[2:]]),
    "a chunk twice": reordered(lambda c: [c[0], c[0], *c[1:]]),
    "a chunk cut": reordered(lambda c: [c[0][:-1], *c[1:]]),
    "a chunk emptied": reordered(lambda c: [c[0], b"", *c[2:], bytes(SEALED)]),
}  # fmt: skip


@pytest.mark.parametrize("change", STRUCTURE.values(), ids=STRUCTURE)
def test_no_changed_structure_is_taken(
    made: Made, backups: Backups, change: Callable[[bytes, bytes], bytes]
) -> None:
    code = refused(made, backups, change(made.data, made.other))
    assert code in {"malformed", "tampered"}


@pytest.mark.parametrize("order", [n for n in STRUCTURE if "chunk" in n or "body" in n])
def test_the_seals_hold_even_where_the_hash_was_made_right(made: Made, order: str) -> None:
    """A body whose hash the manifest names, as its author alone could: the HSM opens no mix."""
    assert made.hsm.hsm is not None
    changed = STRUCTURE[order](made.data, made.other)
    signed, chunks = split(changed)
    manifest = decode(Manifest, signed.manifest, "manifest")
    again = encode(msgspec.structs.replace(manifest, body_hash=hashlib.sha256(chunks).digest()))
    signature = made.hsm.store.identity_sign(digest_of("snapshot", again))
    content = join(SignedManifest(again, signature), chunks)
    verify_snapshot(parse_snapshot(content))  # all that needs no key is right
    with pytest.raises(RemoteError) as caught:
        made.opened(content)
    assert caught.value.code in {"tampered", "malformed"}


FIELDS: dict[str, object] = {
    "version": 3, "purpose": "join", "id": "backup-ccccccccccc", "cluster": "cluster-ccccccccccc",
    "hsm_type": "hsm1.medium", "mode": "NON_FIPS", "seq": 1, "head": bytes(32), "created_at": 0,
    "digest": bytes(32), "counts": (), "author": "hsm-bbbbbbbbbbb", "cluster_public": b"",
    "certificate": b"", "trust_anchor": b"", "backup_key": b"", "backup_public": b"",
    "wrapped_ebk": b"", "body_hash": bytes(32), "recovery_threshold": 1, "recovery_shares": 1,
}  # fmt: skip


@pytest.mark.parametrize("field", FIELDS)
def test_no_field_of_the_manifest_can_be_edited(made: Made, backups: Backups, field: str) -> None:
    content = edited(made.data, **{field: FIELDS[field]})
    assert refused(made, backups, content)


@pytest.mark.parametrize("name", ["../../escape", "", "backup-", "/etc/passwd", "backup-a/../b"])
def test_a_manifest_cannot_choose_a_path(made: Made, backups: Backups, name: str) -> None:
    """Even from a cluster that is trusted: who signs is asked to sign such an id."""
    assert made.hsm.hsm is not None
    roster = made.cluster.controller.roster
    roster.call(made.hsm.id, m.TakeSnapshot(name))
    file = backups.path("x").parent.parent / "offered.backup"
    file.write_bytes(roster.download(made.hsm.id, name))
    before = sorted(file.parent.rglob("*"))
    with pytest.raises(OrchestratorError, match="is not a backup id"):
        backups.import_(file)
    assert sorted(file.parent.rglob("*")) == before


@settings(max_examples=examples(100), deadline=None)
@given(data=st.data())
def test_no_cut_or_flip_of_the_manifest_is_taken(
    made: Made, backups: Backups, data: st.DataObject
) -> None:
    content = bytearray(made.data)
    end = len(content) - len(split(made.data)[1])
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    else:
        place = data.draw(st.integers(0, end - 1))
        content[place] ^= 1 << data.draw(st.integers(0, 7))
    refused(made, backups, bytes(content))


def test_what_is_no_file_of_ours(backups: Backups, tmp_path: Path) -> None:
    fifo, link = tmp_path / "fifo", tmp_path / "link"
    os.mkfifo(fifo)
    link.symlink_to(tmp_path / "none")
    for path in (tmp_path, fifo, link, tmp_path / "none", Path("/dev/zero")):
        with pytest.raises(OrchestratorError) as caught:
            backups.import_(path)
        assert caught.value.code == "not-found"
    huge = tmp_path / "huge"
    with huge.open("wb") as file:
        file.truncate(SNAPSHOT_BYTES_MAX + 1)
    with pytest.raises(OrchestratorError) as caught:
        backups.import_(huge)
    assert caught.value.code == "too-large"


def test_the_whole_one_is_taken_after_all(made: Made, backups: Backups) -> None:
    file = backups.path("x").parent.parent / "offered.backup"
    file.write_bytes(made.data)
    assert backups.import_(file).backup_id == "backup-aaaaaaaaaaa"
    assert isinstance(made.opened(made.data), m.SnapshotChecked)
    # Another one in its place, though true, is not it.
    backups.path("backup-aaaaaaaaaaa").write_bytes(made.other)
    with pytest.raises(OrchestratorError, match="holds backup-bbbbbbbbbbb"):
        backups.read("backup-aaaaaaaaaaa")
    backups.path("backup-aaaaaaaaaaa").unlink()
    with pytest.raises(OrchestratorError, match="moved away or deleted"):
        backups.read("backup-aaaaaaaaaaa")
    [view] = backups.list()
    assert "damaged" in view.recovery
