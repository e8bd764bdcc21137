"""A genuine HSM on an admitted host, brought up on a masking key and a state of the thief's.

Whoever runs the control plane may create HSMs on admitted hosts and speak to them. The HSM knows
nothing yet, so it takes what a false member grants; were it then a member of the real cluster, it
would sign what the false state's admin asks, and the real HSMs would apply it.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.client.connection import expect
from orchestrator.lab import demo
from orchestrator.model import entries as e
from orchestrator.model.errors import OrchestratorError
from orchestrator.model.roles import Role
from orchestrator.model.signatures import load_certificate, public_bytes
from orchestrator.model.state import MemberRow
from orchestrator.wire import messages as m
from tests.thieves.harness import (
    PASSWORD,
    THIEF_HOST,
    Caller,
    FalseCluster,
    FalseHsm,
    ask,
    ask_for,
    challenge,
    members,
    new_hsm,
)

pytestmark = [pytest.mark.softhsm, pytest.mark.timeout(120)]


class Attack:
    """The steps, each of which needs the one before."""

    def __init__(self, job: demo.Demo, directory: Path) -> None:
        self.job, self.donor = job, members(job)[0]
        self.false = FalseCluster(directory, job.cluster)
        self.thief = FalseHsm()
        self.loot, self.joiner = b"", ""

    def run(self, *, claims_real_key: bool) -> None:
        job, donor = self.job, self.donor
        place: m.Welcome = ask_for(job, donor, m.Hello(), m.Welcome)
        page: m.MemberPage = ask_for(job, donor, m.ListMembers(), m.MemberPage)
        joiner = self.joiner = new_hsm(job, "host-1b")
        start = m.JoinStart(job.cluster, challenge(job, donor))
        join = ask_for(job, joiner, start, m.SignedJoin).join
        box = ask_for(job, joiner, m.Hello(), m.Welcome).box
        # 1 the joiner takes the thief's masking key, and a state in which he is the admin
        assert place.credential is not None
        meta = self.false.meta()
        if claims_real_key:
            certificate = load_certificate(place.certificate, "the real certificate")
            meta = self.false.meta(cluster_public=public_bytes(certificate))
        member = e.decode(e.Member, place.credential.member, "member")
        row = MemberRow(member, place.credential)
        state = self.false.state(meta, place, hosts=page.hosts, others=(row,))
        blob = self.false.snapshot(state, "join", joiner, box)
        ask(job, joiner, m.Upload(joiner, 0, len(blob), blob))
        grant = self.false.grant(join, blob)
        receipt = ask_for(job, joiner, m.JoinAccept(grant, joiner), m.Accepted).receipt
        # 2 a real member makes it a member
        prepared = ask_for(
            job, donor, m.Prepare(b"", f"join-{joiner}", m.JoinHsm(join, receipt), 0), m.Prepared
        )
        for hsm in (donor, joiner):
            ask(job, hsm, m.Apply((prepared.entry,)))
        # 3 it signs that the thief's host is admitted, and the real member believes it
        with Caller(job, joiner) as caller:
            ticket = caller.login(Role.ADMIN, "admin", PASSWORD)
            change = m.AdmitHost(THIEF_HOST, self.thief.host_public)
            admitted = expect(caller.call(m.Prepare(ticket, "admit", change, 0)), m.Prepared)
        ask(job, donor, m.Apply((admitted.entry,)))
        # 4 which hands him the masking key
        request = self.thief.sign(self.thief.request(job.cluster, challenge(job, donor)))
        granted = ask_for(job, donor, m.JoinGrant(request), m.Granted)
        self.loot = self.thief.open_transport(granted.grant)


@pytest.mark.parametrize("claims_real_key", [True, False])
def test_a_joiner_that_was_lied_to_opens_no_door(
    active: demo.Demo, tmp_path: Path, claims_real_key: bool
) -> None:
    attack = Attack(active, tmp_path / "ca")
    with pytest.raises(OrchestratorError) as caught:
        attack.run(claims_real_key=claims_real_key)
    assert caught.value.code == "tampered"
    assert attack.loot == b""
    for hsm in members(active):
        page = ask_for(active, hsm, m.ListMembers(), m.MemberPage)
        assert THIEF_HOST not in [host.name for host in page.hosts]
        # as a member it would at least tell the others that wrong passwords were right ones
        assert attack.joiner not in [member.hsm for member in page.members]
