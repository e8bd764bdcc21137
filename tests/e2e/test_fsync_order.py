"""Write, fsync, then answer: what the kernel saw of agents and controller, by strace.

A thread that has written to a file, or renamed one, and then sends on a socket without having
made that durable would answer before it keeps what it says.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

import pytest

from orchestrator.control.backups import Backups
from orchestrator.control.ledger import Ledger
from orchestrator.control.membership import Membership
from orchestrator.control.plane import ControlPlane
from orchestrator.control.recovery import Recovery
from orchestrator.lab import lab
from orchestrator.lab.hosts import LabHosts
from orchestrator.lab.layout import Layout
from orchestrator.model.entries import Change
from orchestrator.model.errors import OrchestratorError
from orchestrator.model.objects import ObjectClass, ObjectDraft, ObjectEdit
from orchestrator.model.roles import Role
from tests.e2e import people
from tests.e2e.crash_driver import ADMIN, USER, initialize, key
from tests.lab.harness import HSM, RUN, eventually
from tests.lab.harness import Lab as StandIns

pytestmark = [pytest.mark.softhsm, pytest.mark.timeout(120)]

CALLS = "write,pwrite64,writev,fsync,fdatasync,rename,sendto,sendmsg"
STRACE = f"strace -D -f -qq -y -s 0 -e trace={CALLS}"
LAZY = (  # a planted bug: the token's files are never made durable
    "import sys; from pathlib import Path; from orchestrator.agent import main; "
    "from orchestrator.tokens._token_directory import TokenDirectory; "
    "TokenDirectory.sync = lambda self: None; sys.exit(main.run(Path(sys.argv[1])))"
)
_CALL = re.compile(r"^(?P<tid>\d+) +(?:<\.\.\. )?(?P<name>\w+)(?P<rest>.*)$")
_FILE = re.compile(r"^\(\d+<(?P<path>/[^>]*)>")
_RENAME = re.compile(r'^\("(?P<old>[^"]*)", "(?P<new>[^"]*)"')


@dataclass
class Seen:
    """What a trace showed. `kept` counts writes that were durable when the thread answered."""

    broken: list[str] = field(default_factory=list)
    kept: dict[str, int] = field(default_factory=lambda: defaultdict(int))


def read(trace: Path, root: Path, *, is_one: bool = False) -> Seen:
    """Follow each thread of a trace; files outside `root`, logs and locks do not count.

    Args:
        trace: of `strace -f`.
        root: of the files that matter.
        is_one: one thread answers for what another one has done.
    """
    seen = Seen()
    dirty: dict[str, set[str]] = defaultdict(set)
    synced: dict[str, set[str]] = defaultdict(set)
    for line in trace.read_text(errors="replace").splitlines():
        call = _CALL.match(line)
        if call is None or "resumed>" in line:
            continue  # what a call is about stands where it began
        tid, name, rest = "" if is_one else call["tid"], call["name"], call["rest"]
        file = _FILE.match(rest)
        path = file["path"] if file else ""
        if name in {"sendto", "sendmsg"}:
            seen.broken += [f"{name} before fsync of {p}" for p in sorted(dirty[tid])]
            for kept in synced[tid]:
                seen.kept[Path(kept).name] += 1
            dirty[tid].clear()
            synced[tid].clear()
        elif name in {"write", "pwrite64", "writev"} and counts(path, root):
            dirty[tid].add(path)
            synced[tid].discard(path)
        elif name == "rename" and (renamed := _RENAME.match(rest)):
            if renamed["old"] in dirty[tid]:
                seen.broken.append(f"rename before fsync of {renamed['old']}")
            if counts(renamed["new"], root):
                dirty[tid].add(str(Path(renamed["new"]).parent))
        elif name in {"fsync", "fdatasync"} and path in dirty[tid]:
            dirty[tid].discard(path)
            synced[tid].add(path)
    return seen


def counts(path: str, root: Path) -> bool:
    """Tell whether a file must be durable before an answer."""
    return path.startswith(f"{root}/") and not path.endswith(
        ("-shm", ".log", ".lock", "/lock", "/trouble")
    )


class Traced:
    """A lab whose agents run under strace."""

    def __init__(self, home: Path, agent: str) -> None:
        self.home, self.layout = home, Layout(home)
        self.layout.prepare(2)
        self._traces = home.with_name("traces")  # of HSMs that are removed, too
        self._traces.mkdir()
        wrapped = f'exec {STRACE} -o {self._traces}/"$(basename "$0")" {agent} "$0"'
        self.supervisor = subprocess.Popen(
            [sys.executable, "-c", RUN, str(home), "sh", "-c", wrapped], stderr=subprocess.DEVNULL
        )
        eventually(lambda: lab.status(home).is_up)
        self.plane = ControlPlane.open(home, LabHosts(home))

    def traces(self) -> dict[str, Seen]:
        hosts = self.layout.hosts_directory
        return {trace.name: read(trace, hosts) for trace in self._traces.iterdir()}

    def close(self) -> None:
        self.plane.close()
        lab.destroy(self.home, include_backups=True)
        self.supervisor.wait(20)


@pytest.fixture
def traced(tmp_path: Path) -> Iterator[Traced]:
    made = Traced(tmp_path / "home", f"{shlex.quote(sys.executable)} -m orchestrator.agent")
    yield made
    made.close()


def live(plane: ControlPlane) -> set[str]:
    """Every kind of change; return those that were seen."""
    cluster = plane.create_cluster("hsm2m.medium", (), None, None).cluster_id
    Membership(plane).create(cluster, "lab-1a")
    initialize(plane, cluster)
    plane.activate(cluster, ADMIN)
    with plane.login(cluster, Role.ADMIN, "admin", ADMIN) as admin:
        changes = plane.changes(cluster, admin)
        changes.create_user("user", Role.CRYPTO_USER, USER)
        changes.create_user("guest", Role.CRYPTO_USER, USER)
        changes.admit_host("host-1b")
        words = changes.create_recovery_key(2, 3)
        second = Membership(plane).create(cluster, "lab-1b").hsm_id
        changes.create_user("other", Role.CRYPTO_USER, USER)
        changes.change_password("other", Role.CRYPTO_USER, ADMIN)
        changes.delete_user("other", Role.CRYPTO_USER)
        changes.expel_host("host-1b")
    made = key(plane, cluster, "kept")
    with plane.login(cluster, Role.CRYPTO_USER, "user", USER) as user:
        changes = plane.changes(cluster, user)
        changes.set_attribute(made, "label", "renamed")
        changes.share_key(made, "guest")
        changes.unshare_key(made, "guest")
        changes.delete_key(made)
        _, ref = changes.put_object(ObjectDraft(object_class=ObjectClass.DATA, value=b"x"))
        changes.change_object(ref, ObjectEdit(value=b"y"))
        changes.delete_object(ref)
        changes.logout()
    for _ in range(6):
        with pytest.raises(OrchestratorError):
            plane.login(cluster, Role.CRYPTO_USER, "user", b"not-this-one")
    ledger = plane.controller(cluster).ledger
    eventually(lambda: "user-locked" in kinds(ledger))
    with plane.login(cluster, Role.ADMIN, "admin", ADMIN) as admin:
        changes = plane.changes(cluster, admin)
        changes.unlock_user("user", Role.CRYPTO_USER)
        changes.disable_user("guest", Role.CRYPTO_USER)
        changes.enable_user("guest", Role.CRYPTO_USER)
        changes.transfer_keys("user", "guest")
    admins = people.govern(plane, cluster)
    backup = Backups(plane).create(cluster).backup_id
    recovered = Recovery(plane).recover(backup, words[1:], "lab-1b").cluster_id
    people.replicate(plane, cluster, key(plane, cluster, "later"), recovered, "user")
    Membership(plane).delete(cluster, second, force=True)
    people.close(plane, recovered, admins)
    return kinds(ledger) | kinds(plane.controller(recovered).ledger)


def kinds(ledger: Ledger) -> set[str]:
    return {entry.parse_header().kind for entry in ledger.after(0, 1000)}


def test_agents_keep_before_they_answer(traced: Traced) -> None:
    changed = live(traced.plane)
    # Whoever adds a kind of entry adds it to `live`.
    known = {str(kind.__struct_config__.tag) for kind in get_args(Change)}
    assert changed == known
    time.sleep(0.5)  # the tracer writes behind
    found = traced.traces()
    assert len(found) == 3
    for seen in found.values():
        assert seen.broken == []
        # 1 log-ins, audit lines and entries; 2 masking keys, made, joined and recovered
        assert seen.kept["state.db-wal"] >= 2, seen.kept
        assert any(name.endswith(".object") for name in seen.kept), seen.kept


def test_a_token_that_is_not_synced_is_found(tmp_path: Path) -> None:
    lazy = Traced(tmp_path / "home", f"{shlex.quote(sys.executable)} -c {shlex.quote(LAZY)}")
    try:
        cluster = lazy.plane.create_cluster("hsm2m.medium", (), None, None).cluster_id
        Membership(lazy.plane).create(cluster, "lab-1a")
        time.sleep(0.5)
        [seen] = lazy.traces().values()
        assert any(".object" in line for line in seen.broken)
    finally:
        lazy.close()


def test_the_controller_keeps_before_it_tells(traced: Traced, tmp_path: Path) -> None:
    plane, home = traced.plane, traced.home
    cluster = plane.create_cluster("hsm2m.medium", (), None, None).cluster_id
    Membership(plane).create(cluster, "lab-1a")
    initialize(plane, cluster)
    plane.activate(cluster, ADMIN)
    with plane.login(cluster, Role.ADMIN, "admin", ADMIN) as admin:
        plane.changes(cluster, admin).create_user("user", Role.CRYPTO_USER, USER)
    driver = Path(__file__).with_name("crash_driver.py")
    kept: dict[str, int] = defaultdict(int)
    for operation in (["key", cluster, "traced"], ["backup", cluster]):
        trace = tmp_path / "trace"
        argv = [*shlex.split(STRACE), "-o", str(trace), sys.executable, str(driver), str(home)]
        subprocess.run([*argv, *operation], check=True, stdout=subprocess.DEVNULL)
        time.sleep(0.3)
        seen = read(trace, home)
        assert seen.broken == []
        for name, count in seen.kept.items():
            kept[name] += count
    assert kept["control.db-wal"] >= 1
    assert kept["backups"] >= 1, "the vault directory was not synced after the rename"


def test_the_supervisor_keeps_before_it_answers(tmp_path: Path) -> None:
    trace, made = tmp_path / "trace", StandIns(tmp_path / "home")
    made.up([*shlex.split(STRACE), "-o", str(trace)])
    made.make()
    lab.kill(made.home, HSM)
    made.hosts.destroy_hsm("host-1a", HSM)
    lab.down(made.home)
    made.supervisors[0].wait(20)
    time.sleep(0.3)
    seen = read(trace, made.layout.hosts_directory, is_one=True)
    by_stand_ins = ("/starts", "/environment")
    assert [line for line in seen.broken if not line.endswith(by_stand_ins)] == []
    assert seen.kept["hsms"] >= 2, "HSMs come and go in a directory that is synced"
    assert seen.kept[HSM] >= 1, "that an HSM is held down is in its directory"
