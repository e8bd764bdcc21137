"""Certificates and data objects, from a client to the ledger, snapshots and back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.model.entries import decode
from orchestrator.model.errors import OrchestratorError
from orchestrator.model.objects import ObjectClass, ObjectDraft, ObjectEdit, ObjectFilter
from orchestrator.model.roles import Role
from orchestrator.model.state import Table
from orchestrator.wire import messages as m
from tests.agent.used import Used
from tests.stateful.harness import CLUSTER

PUBLIC = ObjectDraft(
    object_class=ObjectClass.CERTIFICATE, label="public", value=b"\x30\x00", private=False
)
PRIVATE = ObjectDraft(object_class=ObjectClass.DATA, label="private", value=b"v")


@pytest.fixture
def used(tmp_path: Path) -> Iterator[Used]:
    made = Used(tmp_path)
    yield made
    made.close()


def seen(used: Used, role: Role | None = None) -> set[str]:
    """Return the labels that an admin sees, or who has not logged in."""
    ticket = used.cluster.login(role, "admin") if role else b""
    page = used.cluster.controller.roster.call(
        used.cluster.machines[0].id, m.ListObjects(ticket, 0, ObjectFilter())
    )
    assert isinstance(page, m.ObjectPage)
    return {each.label for each in page.objects}


def test_objects_are_on_every_hsm(used: Used) -> None:
    for draft in (PUBLIC, PRIVATE):
        used.change(m.PutObject(draft))
    page = used.session.list_objects(ObjectFilter())
    assert page.total == 2
    public, private = page.objects
    used.change(m.EditObject(private.ref, ObjectEdit(label="renamed")))
    assert [each.label for each in used.session.list_objects(ObjectFilter()).objects] == [
        "public",
        "renamed",
    ]
    digests = set()
    for machine in used.cluster.machines:
        reply = used.cluster.controller.roster.call(machine.id, m.Digest(recount=True))
        assert isinstance(reply, m.StateDigest)
        assert dict(reply.counts)["objects"] == 2
        digests.add(reply.digest)
    assert len(digests) == 1
    used.change(m.DeleteObject(public.ref))
    assert used.session.list_objects(ObjectFilter()).total == 1


def test_who_has_not_logged_in_sees_what_is_public(used: Used) -> None:
    for draft in (PUBLIC, PRIVATE):
        used.change(m.PutObject(draft))
    assert seen(used) == {"public"}
    assert seen(used, Role.ADMIN) == {"public"}


def test_pages_and_filters(used: Used) -> None:
    big = bytes(16 * 1024)
    drafts = [
        ObjectDraft(object_class=ObjectClass.CERTIFICATE, label=f"c{number}", value=big)
        for number in range(60)
    ]
    for draft in drafts:
        used.change(m.PutObject(draft))
    page = used.session.list_objects(ObjectFilter(), 0, 100)
    assert page.total == 60
    assert 0 < len(page.objects) < 60  # a frame holds no more
    rest = used.session.list_objects(ObjectFilter(), len(page.objects), 100)
    labels = [each.label for each in (*page.objects, *rest.objects)]
    assert labels == [draft.label for draft in drafts]
    [one] = used.session.list_objects(ObjectFilter(label="c7")).objects
    assert one.value == big
    assert used.session.list_objects(ObjectFilter(ref=one.ref)).objects == (one,)
    for offset, limit in ((0, 0), (0, 1001), (-1, 1)):
        with pytest.raises(OrchestratorError) as caught:
            used.session.list_objects(ObjectFilter(), offset, limit)
        assert caught.value.code == "usage"


def test_a_change_of_an_object_is_audited(used: Used) -> None:
    used.change(m.PutObject(PRIVATE))
    [stored] = used.session.list_objects(ObjectFilter()).objects
    used.change(m.DeleteObject(stored.ref))
    hsm = used.cluster.machines[0].hsm
    assert hsm is not None
    lines, head = hsm.core.vault.audit_lines(0, 1000)
    assert head.count == len(lines)
    events = [(x.event, x.subject) for x in map(_line, lines) if x.event.startswith("object-")]
    subject = f"0x{stored.ref:016x}"
    assert events == [("object-created", subject), ("object-deleted", subject)]


def test_a_request_is_answered_and_not_made_twice(used: Used) -> None:
    first = used.cluster.change("put-1", m.PutObject(PRIVATE))
    again = used.cluster.change("put-1", m.PutObject(PRIVATE))
    assert first.report.seq == again.report.seq
    assert used.session.list_objects(ObjectFilter()).total == 1


def test_a_restarted_hsm_has_its_objects(used: Used) -> None:
    """It reads them from its sealed rows."""
    used.change(m.PutObject(PRIVATE))
    machine = used.cluster.machines[2]
    machine.stop()
    machine.start()
    assert machine.hsm is not None
    state = machine.hsm.core.state
    assert [each.label for each in state.objects()] == ["private"]
    assert len(state.tables[Table.OBJECTS]) == 1
    assert state.meta.cluster == CLUSTER


def _line(record: bytes) -> m.AuditRecord:
    return decode(m.AuditRecord, record, "line")
