"""Commands parse, call and render: what they pass on, and what they show."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from orchestrator.cli import next_steps
from orchestrator.cli.command import repeat_flags
from orchestrator.control.views import ClusterState
from orchestrator.model.errors import RefusedError
from orchestrator.model.key_filter import KeyFilter
from orchestrator.model.key_spec import (
    HashFunction,
    KeyClass,
    KeySpec,
    KeyType,
    SignMechanism,
    SignScheme,
)
from orchestrator.wire.messages import KeyDraft
from tests.cli import document
from tests.cli.conftest import ADMIN, ALICE, Run, words
from tests.cli.scenarios import SCENARIOS, environment, prepare, signatures
from tests.cli.stand_ins import CLUSTER, EC_PRIVATE, EC_SPEC, HSM, StandIns, make_key


@pytest.mark.parametrize(
    ("given", "made"),
    [
        ("--filter a", "--filter a"),
        ("--filter a b c", "--filter a --filter b --filter c"),
        ("--filter a --filter b c", "--filter a --filter b --filter c"),
        ("--filter a b --yes c", "--filter a --filter b --yes c"),
        ("x --filter a b -- c d", "x --filter a --filter b -- c d"),
        ("--other a b", "--other a b"),
        ("--filter=a b", "--filter=a b"),
        ("--filter", "--filter"),
        ("", ""),
    ],
)
def test_several_values_after_one_flag(given: str, made: str) -> None:
    assert repeat_flags(given.split(), {"--filter"}) == made.split()


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_command_shows_one_object_or_tables(
    name: str, run: Run, services: StandIns, tmp_path: Path
) -> None:
    for extra in (["--output", "json"], []):
        directory = tmp_path / str(len(extra))
        directory.mkdir()
        scenario = SCENARIOS[name]
        arguments = [*name.split(), *extra, *prepare(scenario, services, directory)]
        outcome = run(*arguments, login=environment(scenario), stdin=scenario.stdin)
        assert outcome.status == 0, outcome.err
        assert "\x1b" not in outcome.out + outcome.err
        if extra:
            assert isinstance(json.loads(outcome.out), dict)
            assert outcome.err == ""
        else:
            assert outcome.out


def test_the_documentation_is_what_commands_show() -> None:
    assert document.DOCUMENT.read_text().endswith(document.generate())


def test_a_key_is_asked_for_as_cloudhsm_asks(run: Run, services: StandIns) -> None:
    outcome = run(
        *words("key generate-symmetric aes --label data --key-length-bytes 32"),
        *words("--attributes encrypt=true id=0x01 --request r1 --output json"),
        login=ALICE,
    )
    spec = KeySpec(KeyType.AES, 256)
    draft = KeyDraft(KeyClass.SECRET, "data", (("encrypt", "true"), ("id", "0x01")))
    assert ("generate_keys", spec, (draft,), "r1") in services.calls
    assert outcome.json["key"]["attributes"]["key_length_bytes"] == 32
    assert outcome.json["key"]["key_reference"] == "0x0000000000070000"
    assert outcome.json["change"]["held"] == 2


@pytest.mark.parametrize("curve", ["secp256r1", "prime256v1"])
def test_a_pair_has_a_public_and_a_private_draft(curve: str, run: Run, services: StandIns) -> None:
    outcome = run(
        *words(f"key generate-asymmetric-pair ec --curve {curve} --public-label p"),
        *words("--private-label k --public-attributes verify=true derive=false"),
        *words("--private-attributes sign=true --output json"),
        login=ALICE,
    )
    public = KeyDraft(KeyClass.PUBLIC, "p", (("verify", "true"), ("derive", "false")))
    private = KeyDraft(KeyClass.PRIVATE, "k", (("sign", "true"),))
    assert ("generate_keys", EC_SPEC, (public, private), None) in services.calls
    point = EC_PRIVATE.public_key().public_numbers()
    expected = f"0x044104{point.x:064x}{point.y:064x}"
    assert outcome.json["private_key"]["attributes"]["ec_point"] == expected


def test_rsa_attributes_are_those_of_the_key(run: Run) -> None:
    outcome = run(
        *words("key generate-asymmetric-pair rsa --public-label p --private-label k"),
        *words("--modulus-size-bits 2048 --public-exponent 65537 --output json"),
        login=ALICE,
    )
    attributes = outcome.json["public_key"]["attributes"]
    assert attributes["public_exponent"] == "0x010001"
    assert attributes["modulus_size_bits"] == 2048
    assert len(attributes["modulus"]) == 2 + 512


def test_a_session_key_ends_with_the_command_and_that_is_said(run: Run, services: StandIns) -> None:
    arguments = words("key generate-symmetric aes --label s --key-length-bytes 16 --session")
    outcome = run(*arguments, "--output", "json", login=ALICE)
    assert outcome.json["change"] is None
    assert "ended with this command" in json.loads(outcome.err)["warning"]
    assert "session-keys" in {call[0] for call in services.calls}
    assert run(*arguments, login=ALICE).err.startswith("warning: ")


def test_pages_of_keys(run: Run, services: StandIns) -> None:
    services.total_keys = 12
    arguments = words("key list --filter attr.label=a attr.class=public-key --max-items 1")
    outcome = run(*arguments, "--starting-token", "3", "--output", "json", login=ALICE)
    wanted = KeyFilter(attributes=(("label", "a"), ("class", "public-key")))
    assert ("list", wanted, 3, 1) in services.calls
    assert outcome.json["next_token"] == "4"
    assert outcome.json["total_key_count"] == 12
    assert outcome.json["matched_keys"][0]["attributes"] == {"label": "web"}
    verbose = run(*arguments, "-v", "--output", "json", login=ALICE).json
    assert verbose["matched_keys"][0]["key_info"]["key_owners"] == [{"username": "alice"}]
    last = run("key", "list", "--starting-token", "11", "--output", "json", login=ALICE)
    assert "next_token" not in last.json


def test_raw_data_is_hashed_here_and_a_digest_is_not(
    run: Run, services: StandIns, tmp_path: Path
) -> None:
    digest = hashlib.sha384(b"Hello").digest()
    raw = tmp_path / "data"
    raw.write_bytes(b"Hello")
    for data in (
        ["--data", base64.b64encode(b"Hello").decode()],
        ["--data-path", str(raw)],
        ["--data", base64.encodebytes(digest).decode(), "--data-type", "digest"],
    ):
        arguments = words("crypto sign rsa-pkcs-pss --hash-function sha384 --mgf mgf1-sha384")
        selector = ["--salt-length", "48", "--hsm", "hsm-b", "--key-filter", "key-reference=0x5"]
        assert run(*arguments, *data, *selector, login=ALICE).status == 0
    mechanism = SignMechanism(SignScheme.RSA_PSS, HashFunction.SHA384, 48)
    assert services.calls.count(("sign", 0x70000, mechanism, digest, HSM)) == 3
    assert services.calls.count(("find", KeyFilter(ref=5))) == 3


def test_ecdsa_signatures_in_both_forms(run: Run, services: StandIns, tmp_path: Path) -> None:
    sign = "crypto sign ecdsa --key-filter attr.label=web --hash-function sha256 --data SGVsbG8="
    raw = run(*sign.split(), "--output", "json", login=ALICE).json["signature"]
    assert base64.b64decode(raw) == (1).to_bytes(32, "big") + (2).to_bytes(32, "big")
    der = run(*sign.split(), "--signature-format", "der", "--output", "json", login=ALICE)
    assert base64.b64decode(der.json["signature"]) == utils.encode_dss_signature(1, 2)
    verify = sign.replace("sign", "verify", 1).split()
    signed = base64.b64encode(EC_PRIVATE.sign(b"Hello", ec.ECDSA(SHA256()))).decode()
    arguments = ["--signature", signed, "--signature-format", "der"]
    assert run(*verify, *arguments, login=ALICE).status == 0
    wrong = base64.b64encode(signatures(b"Other")["ecdsa"]).decode()
    outcome = run(*verify, "--signature", wrong, "--output", "json", login=ALICE)
    assert (outcome.status, outcome.error["code"]) == (1, "signature-invalid")
    assert outcome.error["message"] == "Signature verification failed"


def test_key_files(run: Run, services: StandIns, tmp_path: Path) -> None:
    write = words(f"key generate-file --filter attr.label=web --path {tmp_path}/k --encoding")
    assert run(*write, "pem", login=ALICE).status == 0
    loaded = load_pem_public_key((tmp_path / "k").read_bytes())
    assert loaded == EC_PRIVATE.public_key()
    outcome = run(*write, "pem", "--output", "json", login=ALICE)
    assert (outcome.status, outcome.error["code"]) == (1, "file-exists")
    (tmp_path / "k").unlink()
    assert run(*write, "reference-pem", login=ALICE).status == 1  # a public key
    services.key = make_key(KeyClass.PRIVATE, EC_SPEC, "a b/ü" + "x" * 90)
    assert run(*write, "reference-pem", login=ALICE).status == 0
    lines = (tmp_path / "k").read_text().splitlines()
    der = base64.b64decode("".join(lines[1:-1]))
    assert lines[0] == "-----BEGIN PKCS#11 PROVIDER URI-----"
    assert der[:2] == b"\x30\x81"
    assert b"PKCS#11 Provider URI v1.0" in der
    assert f"pkcs11:token={CLUSTER};object=a%20b%2F%C3%BC".encode() in der
    assert der.endswith(b";id=%01;type=private")
    services.key = make_key(KeyClass.SECRET, KeySpec(KeyType.AES, 128), "s")
    (tmp_path / "k").unlink()
    assert run(*write, "pem", login=ALICE).status == 1
    assert not (tmp_path / "k").exists()


def test_shares_are_files_of_their_custodians_alone(
    run: Run, services: StandIns, tmp_path: Path
) -> None:
    create = words("recovery create-shares --threshold 3 --shares 5 --output-dir")
    shares = tmp_path / "shares"
    outcome = run(*create, str(shares), "--output", "json", login=ADMIN)
    paths = [Path(name) for name in outcome.json["files"]]
    assert [path.stat().st_mode & 0o777 for path in paths] == [0o600] * 5
    assert "alpha beta" not in outcome.out + outcome.err
    recover = run("recovery", "recover", "backup-c", "--share-file", *map(str, paths[:3]))
    assert recover.status == 0
    assert ("recover", "backup-ccccccccccc", ["alpha beta"] * 3, "lab-1a", None, None) in (
        services.calls
    )


def test_no_recovery_key_is_made_whose_shares_cannot_be_kept(
    run: Run, services: StandIns, tmp_path: Path
) -> None:
    (tmp_path / "share-4.txt").write_text("precious")
    create = words(f"recovery create-shares --threshold 3 --shares 5 --output-dir {tmp_path}")
    assert run(*create, login=ADMIN).status == 1
    assert [path.name for path in tmp_path.glob("share-*")] == ["share-4.txt"]
    assert "create_recovery_key" not in {call[0] for call in services.calls}


def test_share_files_of_a_failed_ceremony_are_removed(
    run: Run, services: StandIns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(cluster: str, session: object) -> object:
        raise RefusedError("x", "no")

    monkeypatch.setattr(services, "changes", refuse)
    create = words(f"recovery create-shares --threshold 3 --shares 5 --output-dir {tmp_path}")
    assert run(*create, login=ADMIN).status == 1
    assert not list(tmp_path.glob("share-*"))


def test_csr_is_nothing_but_pem(run: Run) -> None:
    outcome = run("cluster", "csr")
    assert outcome.out == "-----BEGIN CERTIFICATE REQUEST-----\n"
    assert "next: cloister cluster initialize" in outcome.err


def test_the_chosen_cluster_is_passed_on_and_named_in_the_next_step(
    run: Run, services: StandIns, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome = run("cluster", "describe", "--cluster-id", "cluster-a")
    assert ("resolve", "cluster-a") in services.calls
    assert outcome.out.endswith("next: cloister host admit host-1b --cluster-id cluster-a\n")
    monkeypatch.setenv("CLOISTER_CLUSTER", "cluster-aa")
    run("cluster", "describe")
    assert ("resolve", "cluster-aa") in services.calls


def test_adoption_does_not_look_ids_up_in_what_may_be_lost(run: Run, services: StandIns) -> None:
    run("cluster", "adopt", "--hsm", HSM, "--cluster-id", CLUSTER, "--yes")
    assert ("adopt", CLUSTER, HSM) in services.calls
    assert "resolve" not in {call[0] for call in services.calls}


@pytest.mark.parametrize(
    ("state", "step"),
    [
        (ClusterState.UNINITIALIZED, "hsm create --az lab-1a"),
        (ClusterState.INITIALIZED, "cluster activate"),
        (ClusterState.ACTIVE, "host admit host-1b"),
        (ClusterState.DEGRADED, "host admit host-1b"),
        (ClusterState.DELETED, "cluster create"),
    ],
)
def test_next_steps(state: ClusterState, step: str, services: StandIns) -> None:
    services.state = state
    assert next_steps.after(services.view(), services.host_views(CLUSTER)) == step


def test_next_steps_once_hosts_are_admitted(services: StandIns) -> None:
    admitted = services.host_views(CLUSTER)[:1]
    assert next_steps.after(services.view(), admitted) == "hsm create --az lab-1b"


def test_tables_name_what_json_names(run: Run) -> None:
    lines = run("hsm", "list").out.splitlines()
    assert lines[0].split() == ["hsm_id", "availability_zone", "host", "state", "seq", "trouble"]
    assert lines[1].split() == [HSM, "lab-1a", "host-1a", "ACTIVE", "7", "-"]
    text = run("cluster", "describe").out
    assert "2026-09-21 14:13:20Z" in text  # created_at
    assert "warning: no recovery key" in text
