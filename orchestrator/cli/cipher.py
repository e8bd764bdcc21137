"""`cloister crypto`, beyond the original: encrypt, decrypt, MACs, derivation, random bytes."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from orchestrator.cli import approvals, files, key_view, signing_input
from orchestrator.cli.approvals import ApprovalOption
from orchestrator.cli.command import CHANGE, LOGIN, command
from orchestrator.cli.crypto import app
from orchestrator.cli.invocation import Invocation
from orchestrator.cli.key import AttributesOption, LabelOption, LengthOption
from orchestrator.cli.options import KeyFilterOption
from orchestrator.model.errors import UsageError
from orchestrator.model.key_filter import KeyFilter, parse_pairs
from orchestrator.model.key_spec import (
    Agreement,
    CipherMechanism,
    CipherScheme,
    HashFunction,
    Kdf,
    KeyClass,
    KeySpec,
    KeyType,
    MacMechanism,
)
from orchestrator.model.keys import check_label, parse_bytes
from orchestrator.model.roles import Role

if TYPE_CHECKING:
    from orchestrator.client.session import Session
    from orchestrator.model.keys import Key
    from orchestrator.sealed.token_files import TokenFile


class Cipher(StrEnum):
    """Ways to encrypt here."""

    AES_GCM = "aes-gcm"
    AES_CBC_PAD = "aes-cbc-pad"
    AES_CTR = "aes-ctr"
    RSA_OAEP = "rsa-oaep"


class SecretType(StrEnum):
    """What a derivation gives."""

    AES = "aes"
    GENERIC_SECRET = "generic-secret"  # noqa: S105  # a type, no secret


MechanismOption = Annotated[Cipher, typer.Option("--mechanism", help="How.")]
InputOption = Annotated[str | None, typer.Option("--data", metavar="BASE64", help="The data.")]
InputPathOption = Annotated[
    Path | None, typer.Option("--data-path", metavar="FILE", help="The data, of any size.")
]
OutputPathOption = Annotated[
    Path | None,
    typer.Option("--path", metavar="FILE", help="New file for the result; else shown in base64."),
]
AadOption = Annotated[
    str, typer.Option("--aad", metavar="HEX", help="Additional authenticated data (aes-gcm).")
]
OaepHashOption = Annotated[
    HashFunction | None, typer.Option("--hash-function", help="For rsa-oaep, and its MGF.")
]


@command(app, "encrypt", LOGIN)
def encrypt(
    call: Invocation,
    *,
    key_filter: KeyFilterOption,
    mechanism: MechanismOption,
    data: InputOption = None,
    data_path: InputPathOption = None,
    path: OutputPathOption = None,
    aad: AadOption = "",
    hash_function: OaepHashOption = None,
    approval: ApprovalOption = None,
) -> None:
    r"""Encrypt: in an HSM with AES, on this machine with an RSA public key.

    aes-cbc-pad and aes-ctr take files of any size, a request at a time; nothing
    authenticates them. aes-gcm takes one request (512 KiB), rsa-oaep at most
    modulus - 2 * hash - 2 bytes. Nonce or IV come first in the result. With --approval
    the whole plaintext is one request: a token covers one use.

    Example:
      cloister crypto encrypt --key-filter attr.label=data --mechanism aes-cbc-pad \
          --data-path backup.tar --path backup.enc
    """
    from orchestrator.client.streaming import encrypt_stream

    chosen = _mechanism(mechanism, aad, hash_function)
    approved = approvals.read(approval)
    session, key = _key(call, key_filter)

    def run(source: BinaryIO, write: Callable[[bytes], object]) -> None:
        if approved is None and mechanism in {Cipher.AES_CBC_PAD, Cipher.AES_CTR}:
            encrypt_stream(session, key.ref, chosen.scheme, source, write)
            return
        plaintext = _whole(source, mechanism)
        if approved is not None:
            _approve(call, session, "encrypt", key, chosen, plaintext, approved)
        write(session.encrypt(key.ref, plaintext, mechanism=chosen))

    _through(call, key, data, data_path, path, run)


@command(app, "decrypt", LOGIN)
def decrypt(
    call: Invocation,
    *,
    key_filter: KeyFilterOption,
    mechanism: MechanismOption,
    data: InputOption = None,
    data_path: InputPathOption = None,
    path: OutputPathOption = None,
    aad: AadOption = "",
    hash_function: OaepHashOption = None,
    approval: ApprovalOption = None,
) -> None:
    r"""Decrypt inside an HSM what `encrypt` made.

    With --approval the whole ciphertext is one request: a token covers one use.

    Example:
      cloister crypto decrypt --key-filter attr.label=data --mechanism aes-cbc-pad \
          --data-path backup.enc --path backup.tar
    """
    from orchestrator.client.streaming import decrypt_stream

    chosen = _mechanism(mechanism, aad, hash_function)
    approved = approvals.read(approval)
    session, key = _key(call, key_filter)

    def run(source: BinaryIO, write: Callable[[bytes], object]) -> None:
        if approved is None and mechanism in {Cipher.AES_CBC_PAD, Cipher.AES_CTR}:
            decrypt_stream(session, key.ref, chosen.scheme, source, write)
            return
        ciphertext = _whole(source, mechanism)
        if approved is not None:
            _approve(call, session, "decrypt", key, chosen, ciphertext, approved)
        write(session.decrypt(key.ref, ciphertext, mechanism=chosen))

    _through(call, key, data, data_path, path, run)


@command(app, "mac", LOGIN)
def mac(
    call: Invocation,
    *,
    key_filter: KeyFilterOption,
    mechanism: Annotated[MacMechanism, typer.Option(help="How.")],
    data: InputOption = None,
    data_path: InputPathOption = None,
    check: Annotated[
        str | None, typer.Option(metavar="BASE64", help="Have an HSM compare this MAC instead.")
    ] = None,
) -> None:
    """Compute a MAC inside an HSM over at most 512 KiB, or check one.

    Example:
      cloister crypto mac --key-filter attr.label=mac --mechanism hmac-sha256 --data SGVsbG8=
    """
    content = signing_input.one_of(data, data_path, "data")
    expected = signing_input.one_of(check, None, "check") if check is not None else None
    session, key = _key(call, key_filter)
    if expected is None:
        made = base64.b64encode(session.mac(key.ref, mechanism, content)).decode()
        call.show({"key_reference": key_view.reference(key), "mac": made})
        return
    session.verify_mac(key.ref, mechanism, content, expected)
    call.show({"key_reference": key_view.reference(key), "message": "MAC verified successfully"})


@command(app, "derive", CHANGE)
def derive(
    call: Invocation,
    *,
    key_filter: KeyFilterOption,
    peer_path: Annotated[Path, typer.Option(metavar="FILE", help="The peer's public key, PEM.")],
    kdf: Annotated[Kdf, typer.Option(help="Over the shared secret.")],
    key_type: Annotated[SecretType, typer.Option(help="Of the new key.")],
    key_length_bytes: LengthOption,
    label: LabelOption,
    attributes: AttributesOption = None,
) -> None:
    """Derive a token key with ECDH from an EC private key and a peer's public key."""
    from orchestrator.client.verify import public_point
    from orchestrator.wire.messages import KeyDraft

    spec = KeySpec(KeyType(key_type), key_length_bytes * 8).check()
    pairs = tuple(parse_pairs(attributes or ()).items())
    draft = KeyDraft(KeyClass.SECRET, check_label(label), pairs)
    agreement = Agreement(public_point(files.read(peer_path)), kdf)
    session, base = _key(call, key_filter)
    changes = call.plane.changes(call.cluster_id, session)
    change, key = changes.derive_key(base.ref, agreement, spec, draft, request=call.request)
    call.show({"key": key_view.full(key), "change": change}, brief=key_view.brief(key))


@command(app, "random", LOGIN)
def random(
    call: Invocation,
    *,
    count: Annotated[int, typer.Option("--bytes", metavar="N", min=1, help="How many.")],
    path: OutputPathOption = None,
) -> None:
    """Draw random bytes from the HSMs."""
    from orchestrator.client.streaming import random_stream

    session = call.session(Role.CRYPTO_USER)
    with call.progress("Drawing"), _sink(path) as sink:
        random_stream(session, count, sink.write)
        shown = _shown(sink, path)
    call.show(shown)


def _mechanism(mechanism: Cipher, aad: str, hash_function: HashFunction | None) -> CipherMechanism:
    scheme = CipherScheme(mechanism)
    return CipherMechanism(scheme, aad=parse_bytes(aad, "--aad"), hash=hash_function).check()


def _key(call: Invocation, key_filter: list[str]) -> tuple[Session, Key]:
    wanted = KeyFilter.parse(key_filter)
    session = call.session(Role.CRYPTO_USER)
    return session, session.find_key(wanted)


def _approve(  # the parts of one use
    call: Invocation,
    session: Session,
    operation: str,
    key: Key,
    mechanism: CipherMechanism,
    data: bytes,
    approved: TokenFile,
) -> None:
    quorum = call.plane.changes(call.cluster_id, session).quorum
    quorum.approve_use(operation, key.ref, mechanism, data, approved)


def _whole(source: BinaryIO, mechanism: Cipher) -> bytes:
    from orchestrator.wire.messages import PLAINTEXT_BYTES_MAX

    room = PLAINTEXT_BYTES_MAX + 64  # nonce and tag
    content = source.read(room + 1)
    if len(content) > room:
        raise UsageError(
            f"{mechanism} takes at most {PLAINTEXT_BYTES_MAX} bytes here; aes-cbc-pad and aes-ctr "
            "take files of any size"
        )
    return content


def _through(
    call: Invocation,
    key: Key,
    data: str | None,
    data_path: Path | None,
    path: Path | None,
    run: Callable[[BinaryIO, Callable[[bytes], object]], None],
) -> None:
    with call.progress("Working"), _source(data, data_path) as source, _sink(path) as sink:
        run(source, sink.write)
        shown = _shown(sink, path)
    call.show({"key_reference": key_view.reference(key), **shown})


@contextmanager
def _source(data: str | None, path: Path | None) -> Iterator[BinaryIO]:
    if path is None or data is not None:
        yield io.BytesIO(signing_input.one_of(data, path, "data"))
        return
    try:
        with path.open("rb") as file:
            yield file
    except OSError as exc:
        raise UsageError(f"cannot read {path}: {exc.strerror}") from exc


@contextmanager
def _sink(path: Path | None) -> Iterator[BinaryIO]:
    """Give a place to write to: a file appears whole, mode 0600, or not at all."""
    if path is None:
        yield io.BytesIO()
        return
    with files.creating(path) as file:
        yield file


def _shown(sink: BinaryIO, path: Path | None) -> dict[str, object]:
    if path is not None:
        return {"path": path}
    assert isinstance(sink, io.BytesIO)  # noqa: S101  # there is no file
    return {"data": base64.b64encode(sink.getvalue()).decode()}
