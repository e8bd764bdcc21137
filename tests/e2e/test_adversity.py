"""Full and read-only disks, a hung HSM: what the world does to a cluster that has done no wrong."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.control.inspection import Inspection
from orchestrator.lab import demo, lab
from orchestrator.model.errors import OrchestratorError
from orchestrator.model.key_spec import HashFunction, SignMechanism, SignScheme
from orchestrator.model.roles import Role
from tests.lab.harness import eventually

pytestmark = [pytest.mark.softhsm, pytest.mark.timeout(180)]
HANG_S = 60


def test_full_and_read_only_disks(tmp_path: Path) -> None:
    own = ["unshare", "--mount"] if os.getuid() == 0 else ["unshare", "-rm"]
    script = Path(__file__).with_name("disk_scenario.py")
    done = subprocess.run(
        [*own, sys.executable, str(script), str(tmp_path)],
        check=False, capture_output=True, text=True, timeout=150,
        env={**os.environ, "PYTHONPATH": str(script.parents[2])},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    # 1 one HSM
    assert told["one-full-states"] == {"false": "ACTIVE", "true": "DEGRADED"}
    assert told["one-full-use"] == told["all-full-use"] == told["read-only-use"] == "kept"
    assert told["one-full-use-there"] == 1
    assert told["one-full-create"].endswith("retryable")
    assert (told["one-full-left"], told["one-full-created"]) == ([], "done")
    # 2 all of them: a clear error that is worth repeating, and nothing half made
    assert told["all-full-change"].endswith("retryable")
    assert told["all-full-backup"].endswith("retryable")
    assert told["all-full-after"] == "done"
    # 3 read-only
    assert told["read-only-start"] == "host final"  # it names the file that cannot be removed
    assert told["read-only-change"] == "done"
    for phase in ("one-full", "all-full", "read-only"):
        assert told[f"{phase}-healed"] is True
    # 4 the directory of backups
    assert told["vault-create"] == "storage retryable"
    assert (told["vault-change"], told["vault-use"], told["vault-kept"]) == ("done", "kept", True)
    assert told["vault-after"] == "done"
    assert told["labels"] == [
        "after", "before", "while-one-is-full", "while-read-only", "while-the-vault-is-read-only",
    ]  # fmt: skip
    assert told["drafts"] == []
    assert set(told["backups"]) <= {"done"}


@pytest.fixture
def job(tmp_path: Path) -> Iterator[demo.Demo]:
    made = demo.Demo(tmp_path / "home", lambda _: None, lambda _: None)
    try:
        for step in (made.up, made.create, made.ceremony, made.join, made.users, made.keys):
            step()
        yield made
    finally:
        made.close()
        lab.destroy(made.home, include_backups=True)


def test_an_hsm_that_hangs_for_a_minute_is_felt_by_nobody_for_long(job: demo.Demo) -> None:
    session = job._login(Role.CRYPTO_USER, "cu1")
    key, digest = session.key("demo-ec"), hashlib.sha256(b"hung").digest()
    mechanism = SignMechanism(SignScheme.ECDSA, HashFunction.SHA256)
    failures: list[OrchestratorError] = []
    over = threading.Event()
    done = [0] * 4

    def sign(number: int) -> None:
        while not over.is_set():
            try:
                session.sign(key.ref, mechanism, digest)
                done[number] += 1
            except OrchestratorError as exc:
                failures.append(exc)
            time.sleep(0.01)

    threads = [threading.Thread(target=sign, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    victim = lab.status(job.home).agents[1]
    assert victim.pid is not None
    os.kill(victim.pid, signal.SIGSTOP)
    stopped = time.monotonic()
    try:
        changes = job.plane.changes(job.cluster, job._login(Role.ADMIN, "admin"))
        report = changes.create_user("while_hung", Role.CRYPTO_USER, b"password-1")
        assert (report.held, report.missing) == (2, (victim.hsm_id,))
        before = list(done)
        time.sleep(max(0, HANG_S - (time.monotonic() - stopped)))
        assert all(now > then for now, then in zip(done, before, strict=True))
    finally:
        os.kill(victim.pid, signal.SIGCONT)
    eventually(lambda: Inspection(job.plane).verify(job.cluster).is_consistent, 20)
    over.set()
    for thread in threads:
        thread.join()
    assert failures == []
