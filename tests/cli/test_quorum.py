"""`cloister quorum`: what a request binds a token to, and what approvers see and add."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path

import pytest

from orchestrator.cli.quorum_request import OPERATIONS
from orchestrator.model import entries as e
from orchestrator.model.guards import service_of, words_of
from orchestrator.model.key_spec import HashFunction, SignMechanism, SignScheme
from orchestrator.model.quorum import QuorumPolicy, use_digest
from orchestrator.model.roles import Role
from tests.cli.conftest import ADMIN, ALICE, Run
from tests.cli.stand_ins import TOKEN, StandIns

KEY = "--key-reference 0x70000"
SIGNED = use_digest(
    *("sign", 0x70000, "alice", SignMechanism(SignScheme.ECDSA, HashFunction.SHA256)),
    hashlib.sha256(b"hello").digest(),
)
DIGEST = base64.b64encode(hashlib.sha256(b"hello").digest()).decode()
USE = f"key use operation=sign request={SIGNED.hex()} key-reference=0x0000000000070000"
USER = "--username bob --role crypto-user"
REQUESTS = {
    f"user create {USER}": "user create username=bob role=crypto-user",
    "user create --username=Bob --role=admin": "user create username=bob role=admin",
    f"user delete {USER}": "user delete username=bob role=crypto-user",
    f"user delete {USER} --transfer-to eve": (
        "user delete username=bob role=crypto-user transfer-to=eve"
    ),
    f"user change-password {USER} --deregister-mfa": (
        "user change-password username=bob role=crypto-user deregister-mfa=true "
        "deregister-quorum=false"
    ),
    f"user change-mfa {USER} --deregister": (
        "user change-mfa deregister username=bob role=crypto-user change-quorum=false"
    ),
    f"user unlock {USER}": "user unlock username=bob role=crypto-user",
    f"user disable {USER}": "user disable username=bob role=crypto-user",
    f"user enable {USER}": "user enable username=bob role=crypto-user",
    "user transfer-keys --username bob --to eve": "user transfer-keys username=bob to=eve",
    f"user replicate {USER} --source-cluster-id cluster-a": (
        "user replicate username=bob role=crypto-user source=cluster-a"
    ),
    "quorum set-value --service user --value 2": "quorum set-value service=user value=2",
    "host expel host-1b": "host expel host=host-1b",
    "recovery create-shares --threshold 2 --shares 3": (
        "recovery create-shares shares=3 threshold=2"
    ),
    "key delete --key-reference 0x70000": "key delete key-reference=0x0000000000070000",
    "key share --key-reference 0x70000 --username bob": (
        "key share username=bob key-reference=0x0000000000070000"
    ),
    "key unshare --key-reference 0x70000 --username bob": (
        "key unshare username=bob key-reference=0x0000000000070000"
    ),
    "key set-attribute --key-reference 0x70000 --name label --value x": (
        "key set-attribute name=label value=x key-reference=0x0000000000070000"
    ),
    f"crypto sign ecdsa {KEY} --hash-function sha256 --data aGVsbG8=": USE,
    f"crypto sign ecdsa {KEY} --hash-function sha256 --data {DIGEST} --data-type digest": USE,
    "hsm delete hsm-b --compromised": "hsm delete hsm=hsm-b compromised=true",
    "cluster delete": "cluster delete",
}


def requested(services: StandIns) -> e.Change:
    [call] = [call for call in services.calls if call[0] == "request"]
    change = call[1]
    assert not isinstance(change, str)
    return change  # type: ignore[no-any-return]  # as the stand-in noted it


@pytest.mark.parametrize("words", REQUESTS)
def test_a_request_is_bound_to_operation_and_arguments(
    words: str, run: Run, services: StandIns, tmp_path: Path
) -> None:
    path = tmp_path / "t.json"
    login = ALICE if words.startswith(("key ", "crypto ")) else ADMIN
    outcome = run(*f"quorum request --token {path} -- {words}".split(), login=login)
    assert outcome.status == 0, outcome.err
    change = requested(services)
    assert words_of(change) == REQUESTS[words]
    assert service_of(change, QuorumPolicy())[0] is not None


def test_every_operation_has_an_example() -> None:
    examples = {" ".join(words.split()[:2]) for words in REQUESTS}
    assert examples == set(OPERATIONS) - {"host admit"}  # whose words hold the host's key


@pytest.mark.parametrize(
    "words",
    [
        "user explode",
        "user create --username bob",
        "user create --username bob --role king",
        "user create --username bob --username eve --role admin",
        "user create --username",
        "quorum set-value --service nothing --value 2",
        "quorum set-value --service user --value two",
        "hsm delete",
        "hsm delete a b",
        "key delete --key-reference nothing",
        f"crypto sign {KEY} --hash-function sha256 --data aGVsbG8=",
        f"crypto sign ecdsa {KEY} --hash-function md5 --data aGVsbG8=",
        f"crypto sign ecdsa {KEY} --hash-function sha256",
        f"crypto sign ecdsa {KEY} --hash-function sha256 --data aGVsbG8= --data-type digest",
        "crypto sign ecdsa --hash-function sha256 --data aGVsbG8=",
    ],
)
def test_what_no_token_is_bound_to(
    words: str, run: Run, services: StandIns, tmp_path: Path
) -> None:
    path = tmp_path / "t.json"
    outcome = run(*f"quorum request --token {path} -- {words}".split(), login=ADMIN)
    assert outcome.status == 2
    assert not path.exists()
    assert "request" not in {call[0] for call in services.calls}


def test_approvers_read_in_words_and_sign(run: Run, tmp_path: Path) -> None:
    path, signature = tmp_path / "t.json", tmp_path / "sig"
    path.write_bytes(TOKEN.pack())
    signature.write_bytes(b"s" * 256)
    shown = run("quorum", "show", str(path), "--output", "json").json
    assert shown["operation"] == "user create username=bob role=crypto-user"
    assert (shown["requester"], shown["signed_by"]) == ("ana", [])
    for _ in range(2):  # signing again is no second approval
        run("quorum", "approve", str(path), "--username", "Ben", "--signature", str(signature))
    shown = run("quorum", "show", str(path), "--output", "json").json
    assert shown["signed_by"] == [f"{Role.ADMIN}/ben"]
    [written] = json.loads(path.read_bytes())["signatures"]
    assert base64.b64decode(written["signature"]) == b"s" * 256


def test_an_edited_token_file_is_not_shown(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    document = json.loads(TOKEN.pack())
    data = base64.b64decode(document["approval_data"]).replace(b"bob", b"eve")
    document["approval_data"] = base64.b64encode(data).decode()
    path.write_text(json.dumps(document))
    outcome = run("quorum", "show", str(path))
    assert outcome.status == 1
    assert "edited" in outcome.err
