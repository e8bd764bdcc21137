"""What needs people, through the gateway: approvals of a key's use, and second factors.

Real HSMs, the commands of the documentation, OpenSC's tool and p11-kit's client.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.serialization import load_der_public_key

from orchestrator.gateway.cryptoki import CKR
from orchestrator.lab import lab
from orchestrator.model.roles import Role
from tests.e2e.people import Person
from tests.gateway import wire as w
from tests.gateway.lab import PASSWORD, RunningGateway, Site
from tests.gateway.test_worker import refused

pytestmark = [
    *(pytest.mark.softhsm, pytest.mark.p11kit, pytest.mark.opensc),
    pytest.mark.timeout(240),
]
APPROVED_S = 60  # the shortest that a cluster takes
REJECTED = "0x200"  # CKR_FUNCTION_REJECTED; the tool has no name for it


@pytest.fixture(scope="module")
def gateway(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    made = RunningGateway(site, tmp_path_factory.mktemp("g") / "s")
    yield made
    assert made.stop() == 0


def cloister(site: Site, who: str, *words: str, status: int = 0) -> Any:
    """Run a command as `role/user`; return what it says as JSON, or its refusal."""
    role, _, name = who.partition("/")
    login = {"CLOUDHSM_ROLE": role, "CLOUDHSM_PIN": f"{name}:{PASSWORD.decode()}"}
    end = words.index("--") if "--" in words else len(words)
    words = (*words[:end], "--output", "json", *words[end:])
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator", *words],
        input=PASSWORD,
        capture_output=True,
        timeout=60,
        env={**site.environment, **login},
        check=False,
    )
    assert done.returncode == status, done.stderr.decode()
    return json.loads(done.stdout) if status == 0 else done.stderr.decode()


def person(site: Site, name: str) -> Person:
    """A crypto user with a key to approve with."""
    if name != "cu":
        words = ("--username", name, "--role", "crypto-user", "--password-stdin")
        cloister(site, "admin/admin", "user", "create", *words)
    made = Person(name, Role.CRYPTO_USER)
    made.register(site.plane, site.cluster, PASSWORD)
    return made


class Desk:
    """`cu`'s key `guarded`, whose use `cu` and `dee` must both approve, and papers to sign."""

    def __init__(self, site: Site, gateway: RunningGateway, directory: Path) -> None:
        self.site, self.gateway, self.directory = site, gateway, directory
        self.people = [person(site, name) for name in ("cu", "dee")]
        cloister(site, "admin/admin", "quorum", "set-policy", "--approved", str(APPROVED_S))
        labels = ("--public-label", "guarded", "--private-label", "guarded", "--curve", "secp256r1")
        quorum = ("--share-crypto-users", "dee", "--use-private-key-quorum-value", "2")
        halves = ("--public-attributes", "verify=true", "--private-attributes", "sign=true")
        self.cu("key", "generate-asymmetric-pair", "ec", *labels, *quorum, *halves)
        self.filter = ("attr.label=guarded", "attr.class=private-key")
        [key] = self.cu("key", "list", "--filter", *self.filter)["matched_keys"]
        self.reference = ("--key-reference", key["key_reference"])
        self.signature = directory / "signature"

    def cu(self, *words: str, status: int = 0) -> Any:
        return cloister(self.site, "crypto-user/cu", *words, status=status)

    def paper(self, name: str) -> Path:
        """Return a digest in a file."""
        path = self.directory / name
        path.write_bytes(hashlib.sha256(name.encode()).digest())
        return path

    def approve(self, token: Path, approver: Person) -> None:
        document, raw = json.loads(token.read_bytes()), self.directory / "raw"
        raw.write_bytes(approver.sign(base64.b64decode(document["token"])))
        words = ("--username", approver.name, "--signature", str(raw))
        who = f"crypto-user/{approver.name}"
        cloister(self.site, who, "quorum", "approve", str(token), *words)

    def spend(self, token: Path, paper: Path, status: int = 0) -> Any:
        words = ("--hash-function", "sha256", "--data-type", "digest", "--data-path", str(paper))
        wanted = ("--key-filter", *self.filter, "--approval", str(token))
        return self.cu("crypto", "sign", "ecdsa", *wanted, *words, status=status)

    def sign(self, paper: Path, status: int | None = 0) -> str:
        """Sign through the gateway."""
        words = ("--sign", "-m", "ECDSA", "-f", "openssl", "--label", "guarded", "-i", str(paper))
        return self.gateway.tool(*words, "-o", str(self.signature), status=status)

    def is_rejected(self, paper: Path) -> bool:
        return REJECTED in self.sign(paper, 1)


@pytest.fixture(scope="module")
def desk(site: Site, gateway: RunningGateway, tmp_path_factory: pytest.TempPathFactory) -> Desk:
    return Desk(site, gateway, tmp_path_factory.mktemp("desk"))


def test_a_guarded_key_signs_what_was_approved_until_that_is_over(desk: Desk) -> None:
    contract, other, token = desk.paper("contract"), desk.paper("other"), desk.directory / "t.json"
    assert desk.is_rejected(contract)
    said = desk.gateway.log.read_text()
    assert "cu: Quorum Failed; this use of the key needs approvals" in said
    service = ("--service", "key-usage", *desk.reference)
    desk.cu("quorum", "generate", *service, "--token", str(token))
    for number, approver in enumerate(desk.people):
        assert desk.is_rejected(contract)
        assert f"{number} of 2 approvals" in desk.spend(token, contract, 1)
        desk.approve(token, approver)
    desk.spend(token, contract)
    public = desk.directory / "public"
    words = ("--read-object", "--type", "pubkey", "--label", "guarded", "-o", str(public))
    desk.gateway.tool(*words)
    verifier = load_der_public_key(public.read_bytes())
    assert isinstance(verifier, ec.EllipticCurvePublicKey)
    chosen = ec.ECDSA(utils.Prehashed(hashes.SHA256()))
    for hsm in desk.site.hsms:  # what was approved is on every HSM, and outlives each
        lab.kill(desk.site.home, hsm)
        desk.sign(contract)
        verifier.verify(desk.signature.read_bytes(), contract.read_bytes(), chosen)
        lab.start(desk.site.home, hsm)
    assert desk.is_rejected(other)
    assert "Quorum Failed" in desk.spend(token, other, 1)
    assert desk.is_rejected(other)
    deadline = time.monotonic() + APPROVED_S + 60
    while REJECTED not in desk.sign(contract, None):
        assert time.monotonic() < deadline, "what was approved has no end"
        time.sleep(2)


def test_a_request_is_bound_to_one_signature(desk: Desk) -> None:
    wanted, swapped, token = desk.paper("wanted"), desk.paper("swapped"), desk.directory / "b.json"
    given = ("--hash-function", "sha256", "--data-type", "digest", "--data-path", str(wanted))
    operation = ("crypto", "sign", "ecdsa", *desk.reference, *given)
    desk.cu("quorum", "request", "--token", str(token), "--", *operation)
    for approver in desk.people:
        desk.approve(token, approver)
    assert "the token is for `key use" in desk.spend(token, swapped, 1)
    desk.spend(token, wanted)
    desk.sign(wanted)
    assert desk.is_rejected(swapped)


def test_a_second_factor_is_asked_for_and_a_lent_log_in_serves(
    site: Site, gateway: RunningGateway, tmp_path: Path
) -> None:
    eve = person(site, "eve")
    with site.plane.login(site.cluster, eve.role, eve.name, PASSWORD) as session:
        changes = site.plane.changes(site.cluster, session)
        enrolment = changes.factors.enrolment(eve.name, eve.role).signed(eve.sign)
        changes.factors.set(eve.name, eve.role, PASSWORD, eve.public, enrolment)
    assert "CKR_PIN_INCORRECT" in gateway.tool("--pin", "eve:password-1", "-O", status=1)
    assert "crypto-user eve logs in with a second factor" in gateway.log.read_text()
    assert "an application needs a login ticket" in gateway.log.read_text()
    factor = site.plane.mfa_challenges(site.cluster, eve.role, eve.name).signed(eve.sign)
    ticket = tmp_path / "app.ticket"
    with site.plane.login_mfa(site.cluster, eve.role, eve.name, PASSWORD, factor) as session:
        factors = site.plane.changes(site.cluster, session).factors
        file = factors.issue_ticket(os.getuid(), 1)
        ticket.touch(0o600)
        ticket.write_bytes(file.pack())
        pin = f"eve:@{ticket}"
        words = ("--keypairgen", "--key-type", "EC:prime256v1", "--label", "of-eve")
        gateway.tool("--pin", pin, *words)
        for hsm in site.hsms:
            lab.kill(site.home, hsm)
            assert "of-eve" in gateway.tool("--pin", pin, "-O")
            assert "of-eve" in gateway.tool("--pin", ticket.read_text(), "-O")
            lab.start(site.home, hsm)
        client = gateway.connect()
        held = client.open()
        client.login(held, pin.encode())
        draws_anew = w.u64(held) + w.u32(30_000)  # more than is pooled
        client.call(64, "ufy", draws_anew)
        factors.revoke_ticket(file.login)
    with refused(CKR.USER_NOT_LOGGED_IN):
        client.call(64, "ufy", draws_anew)
    assert "CKR_PIN_INCORRECT" in gateway.tool("--pin", pin, "-O", status=1)
    assert "CKR_PIN_INCORRECT" in gateway.tool("--pin", "eve:password-1", "-O", status=1)
    said = gateway.log.read_text()
    assert PASSWORD.decode() not in said
    assert json.loads(ticket.read_bytes())["ticket"] not in said
