"""No secret where a neighbour could read it: argv, environment, logs, databases, files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.control.backups import Backups
from orchestrator.lab import demo, lab
from orchestrator.lab.layout import Layout
from tests.thieves.search import Hit, Searcher, files_below, process

pytestmark = [pytest.mark.softhsm, pytest.mark.timeout(120)]


@pytest.fixture
def running(tmp_path: Path) -> Iterator[demo.Demo]:
    """A cluster after its everyday work, still running."""
    job = demo.Demo(tmp_path / "home", lambda _: None, lambda _: None)
    try:
        for step in (job.up, job.create, job.ceremony, job.join, job.users, job.keys):
            step()
        changes = job.plane.changes(job.cluster, job._sessions[0])
        job.shares = changes.create_recovery_key(2, 3)
        Backups(job.plane).create(job.cluster)
        yield job
    finally:
        job.close()
        lab.destroy(job.home, include_backups=True)


def places(job: demo.Demo) -> dict[str, bytes]:
    """Return everything that could leak, but the PIN files, whose whole point it is."""
    found = {
        path: content
        for path, content in files_below(job.home).items()
        if Path(path).name not in {"pin", "host_key.pem", "ca.key"}
    }
    for agent in lab.status(job.home).agents:
        assert agent.pid is not None
        found |= process(agent.pid)
    return found


def test_no_secret_is_where_it_could_be_read(running: demo.Demo) -> None:
    secrets = {f"password of {name}": word for name, word in running.passwords.items()}
    secrets |= {f"share {i}": words.encode() for i, words in enumerate(running.shares)}
    for _, directory in Layout(running.home).all_hsms():
        secrets[f"PIN of {directory.name}"] = (directory / "token" / "pin").read_bytes().strip()
    assert len(secrets) == 9
    searcher = Searcher(secrets)
    assert searcher.search(places(running)) == []
    planted = running.home / "lab" / "planted.log"
    planted.write_bytes(b"x" + running.passwords["cu1"] + b"x")
    assert searcher.search(places(running)) == [Hit("password of cu1", "whole, raw", str(planted))]


def test_every_file_is_its_owners_alone(running: demo.Demo) -> None:
    found = [str(p) for p in running.home.rglob("*") if p.lstat().st_mode & 0o077]
    assert found == []
