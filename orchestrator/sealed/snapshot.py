"""Snapshots: a cluster's state at one seq, sealed. One format for joining and for backups.

File: magic, length (u32) and bytes of a signed manifest, then AES-256-GCM chunks under an
ephemeral key (EBK), which is boxed to the persistent backup key or to a joiner. Chunk nonces
are a counter and a last-chunk flag (STREAM, Hoang et al. 2015), so that no chunk can be moved,
repeated or cut off; the signed manifest names the hash of them all.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import msgspec
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from orchestrator.model.entries import Credential, Envelope, Record, decode, encode
from orchestrator.model.errors import MalformedError, TamperedError
from orchestrator.model.signatures import (
    check_credential,
    check_ecdsa,
    digest_of,
    load_certificate,
    public_bytes,
)
from orchestrator.model.state import MemberRow, State, StoredRow, Table
from orchestrator.sealed.box import Agree, open_box, seal_box

MAGIC: Final = b"cloister-snap\r\n\x1a"
FORMAT_VERSION: Final = 2
READABLE_VERSIONS: Final = frozenset({1, 2})
"""1 lacks the manifest's `reason`."""
CHUNK_BYTES: Final = 64 * 1024
SNAPSHOT_BYTES_MAX: Final = 256 * 1024 * 1024
_MANIFEST_BYTES_MAX: Final = 256 * 1024
_TAG_BYTES: Final = 16


class Manifest(Record):
    """What anyone may know of a snapshot. Times are Unix milliseconds; `reason` says why it is."""

    version: int
    purpose: str
    id: str
    cluster: str
    hsm_type: str
    mode: str
    seq: int
    head: bytes
    created_at: int
    digest: bytes
    counts: tuple[tuple[str, int], ...]
    author: str
    credential: Credential
    cluster_public: bytes
    certificate: bytes
    trust_anchor: bytes
    backup_key: bytes
    backup_public: bytes
    wrapped_ebk: bytes
    body_hash: bytes
    envelope: Envelope | None
    recovery_threshold: int
    recovery_shares: int
    reason: str = ""


class SignedManifest(Record):
    """Manifest bytes and the author HSM's signature over them."""

    manifest: bytes
    signature: bytes


class Body(Record):
    """The plaintext: every row of the state."""

    seq: int
    head: bytes
    at: int
    rows: tuple[StoredRow, ...]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A parsed snapshot: manifest, signature, and sealed chunks as they stand in the file."""

    manifest: Manifest
    signed: SignedManifest
    chunks: memoryview


def ebk_info(purpose: str, snapshot_id: str, cluster: str) -> bytes:
    """Return what binds the EBK's box to its snapshot."""
    return f"cloister/1 ebk {purpose} {snapshot_id} {cluster}".encode()


def seal_snapshot(
    state: State,
    draft: Manifest,
    recipient: bytes,
    ebk: bytes,
    sign: Callable[[bytes], bytes],
) -> bytes:
    """Return the snapshot file of `state`.

    Args:
        state: must not change meanwhile.
        draft: a manifest whose `wrapped_ebk`, `body_hash` and `digest` are filled in here.
        recipient: the P-256 point that may open it.
        ebk: 32 fresh bytes from the HSM, used for this snapshot only.
        sign: the author's identity over a SHA-256 digest.
    """
    rows = tuple(state.rows())
    plain = encode(Body(state.seq, state.head, state.at, rows))
    body = b"".join(_seal_chunks(plain, ebk))
    manifest = encode(
        msgspec.structs.replace(
            draft,
            digest=state.digest(),
            wrapped_ebk=seal_box(recipient, ebk, ebk_info(draft.purpose, draft.id, draft.cluster)),
            body_hash=hashlib.sha256(body).digest(),
        )
    )
    signed = encode(SignedManifest(manifest, sign(digest_of("snapshot", manifest))))
    return MAGIC + len(signed).to_bytes(4, "big") + signed + body


def _seal_chunks(plain: bytes, ebk: bytes) -> Iterator[bytes]:
    aead = AESGCM(ebk)
    count = max(1, -(-len(plain) // CHUNK_BYTES))
    for index in range(count):
        piece = plain[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES]
        yield aead.encrypt(_nonce(index, last=index == count - 1), piece, None)


def _nonce(index: int, *, last: bool) -> bytes:
    return index.to_bytes(11, "big") + (b"\x01" if last else b"\x00")


def parse_snapshot(data: bytes) -> Snapshot:
    """Parse a file without trusting it; `verify_snapshot` or `open_snapshot` come next."""
    if len(data) > SNAPSHOT_BYTES_MAX:
        raise MalformedError(f"a snapshot has at most {SNAPSHOT_BYTES_MAX} bytes")
    if data[: len(MAGIC)] != MAGIC or len(data) < len(MAGIC) + 4:
        raise MalformedError("this is no Cloister backup (its first bytes are wrong)")
    start = len(MAGIC) + 4
    length = int.from_bytes(data[len(MAGIC) : start], "big")
    if length > _MANIFEST_BYTES_MAX or start + length > len(data):
        raise MalformedError("the backup's manifest is cut off")
    signed = decode(SignedManifest, data[start : start + length], "backup manifest")
    manifest = decode(Manifest, signed.manifest, "backup manifest")
    if manifest.version not in READABLE_VERSIONS:
        raise MalformedError(
            f"backup {manifest.id} has format version {manifest.version}, this software knows "
            f"{', '.join(map(str, sorted(READABLE_VERSIONS)))}; update it"
        )
    return Snapshot(manifest, signed, memoryview(data)[start + length :])


def verify_snapshot(snapshot: Snapshot, trust_anchor: bytes | None = None) -> Manifest:
    """Check everything that needs no key: chain to the anchor, signature, and body hash.

    Args:
        snapshot: parsed.
        trust_anchor: the anchor (PEM or DER) that the caller knows; None takes the manifest's,
            which shows that the file is whole, not whose it is.
    """
    manifest = snapshot.manifest
    what = f"backup {manifest.id}"
    anchor = load_certificate(trust_anchor or manifest.trust_anchor, "the trust anchor")
    certificate = load_certificate(manifest.certificate, "the cluster certificate")
    try:
        certificate.verify_directly_issued_by(anchor)
    except (InvalidSignature, ValueError, TypeError) as exc:
        raise TamperedError(f"{what}: its cluster is not under this trust anchor") from exc
    if public_bytes(certificate) != manifest.cluster_public:
        raise TamperedError(f"{what}: the cluster certificate holds another key")
    member = check_credential(manifest.credential, manifest.cluster, manifest.cluster_public)
    if member.hsm != manifest.author:
        raise TamperedError(f"{what}: author and credential differ")
    digest = digest_of("snapshot", snapshot.signed.manifest)
    check_ecdsa(member.identity, digest, snapshot.signed.signature, what)
    if hashlib.sha256(snapshot.chunks).digest() != manifest.body_hash:
        raise TamperedError(f"{what}: its body is damaged (SHA-256 differs from the manifest's)")
    return manifest


def open_snapshot(snapshot: Snapshot, recipient: bytes, agree: Agree) -> State:
    """Open a snapshot and compare the digest of what it holds with the manifest's.

    Raises:
        TamperedError: not sealed to this key, changed, moved or cut-off chunks, another digest.
    """
    manifest = snapshot.manifest
    info = ebk_info(manifest.purpose, manifest.id, manifest.cluster)
    aead = AESGCM(open_box(recipient, agree, manifest.wrapped_ebk, info))
    pieces = []
    sealed, step = snapshot.chunks, CHUNK_BYTES + _TAG_BYTES
    count = max(1, -(-len(sealed) // step))
    try:
        for index in range(count):
            piece = sealed[index * step : (index + 1) * step]
            pieces.append(aead.decrypt(_nonce(index, last=index == count - 1), piece, None))
    except (InvalidTag, ValueError) as exc:
        raise TamperedError(f"backup {manifest.id}: chunk {len(pieces)} is damaged") from exc
    body = decode(Body, b"".join(pieces), "backup body")
    state, counted = State.build(body.rows, seq=body.seq, head=body.head, at=body.at)
    if counted != manifest.digest:
        raise TamperedError(f"backup {manifest.id}: its state has another digest than its manifest")
    _check_origin(state, manifest)
    return state


def _check_origin(state: State, manifest: Manifest) -> None:
    """Raise TamperedError unless the state is of the very cluster that vouches for the manifest.

    A manifest alone proves itself under any certificate that its maker likes. The cluster key
    that the state goes on with must be the one under which the author's credential stands: who
    holds no HSM of the family can then make no state that a family's masking key would serve.
    """
    meta, author = state.meta, state.tables[Table.MEMBERS].get(manifest.author)
    inside = (meta.cluster, meta.hsm_type, meta.mode, meta.cluster_public, meta.certificate,
              meta.trust_anchor, meta.backup_key, meta.backup_public)  # fmt: skip
    outside = (manifest.cluster, manifest.hsm_type, manifest.mode, manifest.cluster_public,
               manifest.certificate, manifest.trust_anchor, manifest.backup_key,
               manifest.backup_public)  # fmt: skip
    is_member = isinstance(author, MemberRow) and author.credential == manifest.credential
    if inside != outside or not is_member or (state.seq, state.head) != (
        manifest.seq, manifest.head
    ):  # fmt: skip
        raise TamperedError(
            f"backup {manifest.id}: its state is of another cluster than the one that signed it"
        )
