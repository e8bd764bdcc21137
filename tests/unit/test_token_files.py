"""The files that approvers pass round: CloudHSM's shapes, and every edit that is refused."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.model.errors import MalformedError, RefusedError
from orchestrator.model.quorum import REGISTRATION_BYTES_MAX, ApprovalData, possession_words
from orchestrator.model.roles import Role
from orchestrator.model.services import Service
from orchestrator.sealed.token_files import (
    FILE_BYTES_MAX,
    LoginTicketFile,
    Possession,
    PossessionFile,
    TokenFile,
)

NONCES = (bytes(16), b"\1" * 16)
ADMIN = TokenFile(ApprovalData(Service.USER, 0, "ana", 1_800_000_000, "", NONCES))
KEY = TokenFile(ApprovalData(Service.KEY_USAGE, 0x680006, "cu", 1_800_000_000, "", NONCES))
BOUND = TokenFile(
    ApprovalData(Service.USER, 0, "ana", 1_800_000_000, "user create username=x", NONCES)
)
PROOF = Possession(ApprovalData(Service.MFA, 0, "ana", 1, "login username=ana hsm=h", NONCES[:1]))


def test_an_admin_token_is_cloudhsms() -> None:
    signed = ADMIN.signed_by("ben", Role.ADMIN, b"s" * 256)
    document = json.loads(signed.pack())
    assert list(document) == ["version", "approval_data", "token", "signatures"]
    assert document["version"] == "2.0"
    assert list(document["signatures"][0]) == ["username", "signature"]
    assert len(base64.b64decode(document["approval_data"])) == 160
    assert TokenFile.parse(signed.pack()) == signed


def test_a_key_token_is_cloudhsms() -> None:
    signed = KEY.signed_by("dee", Role.CRYPTO_USER, b"s" * 256)
    document = json.loads(signed.pack())
    assert (document["service"], document["key_reference"]) == ("key-usage", "0x0000000000680006")
    assert document["signatures"][0]["role"] == "crypto-user"
    assert TokenFile.parse(signed.pack()) == signed


def test_a_bound_token_says_what_it_is_for() -> None:
    parsed = TokenFile.parse(BOUND.pack())
    assert (parsed.words, parsed.requester) == ("user create username=x", "ana")
    assert (parsed.service, parsed.issued_at, parsed.key_reference) == (
        Service.USER, 1_800_000_000, 0
    )  # fmt: skip


def test_a_person_signs_once() -> None:
    twice = ADMIN.signed_by("ben", Role.ADMIN, b"1").signed_by("ben", Role.ADMIN, b"2")
    assert [s.signature for s in twice.signatures] == [b"2"]


def edited(file: TokenFile | PossessionFile, **fields: Any) -> bytes:
    return json.dumps({**json.loads(file.pack()), **fields}).encode()


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        b"\xff",
        b"[" * 100_000,
        b" " * (FILE_BYTES_MAX + 1),
        edited(ADMIN, token=b64(bytes(32))),
        edited(ADMIN, token="!"),
        edited(ADMIN, approval_data=b64(BOUND.approval_data)),
        edited(ADMIN, approval_data=b64(bytes(100_000))),
        edited(ADMIN, service="quorum"),
        edited(ADMIN, signatures=[{"username": "x", "signature": "%"}]),
        edited(ADMIN, signatures=[{"username": "x", "signature": "", "role": "king"}]),
        edited(ADMIN, signatures=[{"username": "x", "signature": ""}] * 33),
        edited(ADMIN, signatures=[{"username": "x", "signature": b64(bytes(9000))}]),
    ],
)
def test_a_token_file_that_is_none(data: bytes) -> None:
    with pytest.raises(MalformedError):
        TokenFile.parse(data)


def test_an_armored_ssh_signature_may_stand_as_text() -> None:
    armored = "-----BEGIN SSH SIGNATURE-----\nAAAA\n-----END SSH SIGNATURE-----\n"
    data = edited(ADMIN, signatures=[{"username": "BEN", "signature": armored}])
    [signature] = TokenFile.parse(data).signatures
    assert (signature.username, signature.role) == ("ben", Role.ADMIN)
    assert signature.signature == armored.encode()


def test_a_registration_fits_cloudhsms_bounds() -> None:
    cluster = "cluster-" + "x" * 16
    words = possession_words("user change-quorum register", cluster, Role.CRYPTO_USER, "u" * 31)
    packed = ApprovalData(Service.REGISTRATION, 0, "u" * 31, 1, words, NONCES[:1]).pack()
    assert len(packed) <= REGISTRATION_BYTES_MAX


def test_proofs_of_possession() -> None:
    file = PossessionFile((PROOF, PROOF))
    document = json.loads(file.pack())
    assert list(document["tokens"][0]) == ["unsigned", "signed", "approval_data"]
    assert document["tokens"][0]["signed"] == ""
    signed = file.signed(lambda digest: b"signed " + digest)
    assert PossessionFile.parse(signed.pack()) == signed.complete()
    with pytest.raises(RefusedError, match="1 of 2 parts are not signed"):
        PossessionFile((PROOF, signed.parts[0])).complete()
    # CloudHSM's files for log-ins have no data: whoever wrote them knows it.
    bare = {k: v for k, v in document["tokens"][0].items() if k != "approval_data"}
    data = json.dumps({"version": "2.0", "tokens": [bare]}).encode()
    assert PossessionFile.parse(data, file).parts == (PROOF,)
    for bad in (
        data,
        json.dumps({"version": "2.0", "tokens": []}).encode(),
        json.dumps({"version": "2.0", "tokens": [document["tokens"][0]] * 29}).encode(),
        edited(file, tokens=[{**document["tokens"][0], "unsigned": b64(bytes(32))}]),
    ):
        with pytest.raises(MalformedError):
            PossessionFile.parse(bad)


def test_a_login_ticket_does_not_print() -> None:
    file = LoginTicketFile("cluster-x", "cu", Role.CRYPTO_USER, 1000, 5, "login", b"secret-ticket")
    read = LoginTicketFile.parse(file.pack())
    assert (read.ticket, read.uid, read.until) == (b"secret-ticket", 1000, 5)
    assert "secret" not in repr(read)
    for wrong in ({"version": "9"}, {"role": "king"}, {"uid": "me"}):
        data = json.dumps({**json.loads(file.pack()), **wrong}).encode()
        with pytest.raises(MalformedError):
            LoginTicketFile.parse(data)


@given(data=st.binary(max_size=300), text=st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["version", "tokens", "token", "approval_data",
                                       "signatures", "unsigned", "signed"]), inner, max_size=4),
    max_leaves=12,
))  # fmt: skip
def test_no_input_gives_another_error(data: bytes, text: object) -> None:
    for candidate in (data, json.dumps(text).encode()):
        for kind in (TokenFile, PossessionFile, LoginTicketFile):
            with pytest.raises(MalformedError):
                kind.parse(candidate)
