"""The main job for real, and that the demo notices when any of it does not hold."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from orchestrator.cli.invocation import Services
from orchestrator.cli.main import main
from orchestrator.lab import demo, lab
from orchestrator.model.errors import OrchestratorError

pytestmark = [pytest.mark.softhsm, pytest.mark.timeout(240)]


def processes() -> set[str]:
    """Return the lab's processes on this machine."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if "orchestrator.lab" in line or "orchestrator.agent" in line:
            found.add(f"{path.parent.name} {line}")
    return found


def leftovers() -> set[Path]:
    """Return directories of demos."""
    return set(Path(tempfile.gettempdir()).glob("cloister-demo-*"))


def test_the_main_job() -> None:
    before = leftovers()
    said: list[str] = []
    rows = demo.run(said.append)
    assert len(rows) == 16
    assert all(row.measured for row in rows)
    assert leftovers() == before


class Saboteur:
    """Breaks something when a step is done."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
        self.how = how
        monkeypatch.setattr(demo, "HEAL_TIMEOUT_S", 2.0)
        monkeypatch.setattr(demo, "PHASE_S", 0.3)
        plain = demo.Demo.__init__
        self.demo: demo.Demo | None = None

        def remember(made: demo.Demo, *args: object) -> None:
            plain(made, *args)  # type: ignore[arg-type]
            self.demo = made

        monkeypatch.setattr(demo.Demo, "__init__", remember)

    def __call__(self, step: str) -> None:
        assert self.demo is not None
        done = self.demo
        match self.how, step:
            case "flipped byte", "back_up":
                content = bytearray(done.export.read_bytes())
                content[-100] ^= 1
                done.export.write_bytes(content)
            case "hidden key", "sign_everywhere":
                session = done._sessions[1]
                key = session.key("demo-ec")
                done.plane.changes(done.cluster, session).delete_key(key.ref)
            case "stays down", "kill":
                lab.kill(done.home, done.victim)
            case "wrong shares", "destroy":
                done.shares = done.shares[:2] * 3
            case _:
                pass


@pytest.mark.parametrize("how", ["flipped byte", "hidden key", "stays down", "wrong shares"])
def test_a_broken_step_is_noticed(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = leftovers()
    saboteur = Saboteur(monkeypatch, how)

    class Sabotaged(Services):
        def demo(self) -> object:  # type: ignore[override]
            return SimpleNamespace(run=lambda say: demo.run(say, saboteur))

    assert main(["demo"], Sabotaged()) != 0
    assert leftovers() == before


def test_each_sabotage_is_what_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OrchestratorError, match="not consistent"):
        demo.run(lambda _: None, Saboteur(monkeypatch, "stays down"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_leaves_nothing(number: signal.Signals) -> None:
    before = leftovers()
    process = subprocess.Popen(
        [sys.executable, "-m", "orchestrator", "demo"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wait_for(lambda: leftovers() - before != set())
    [directory] = leftovers() - before
    time.sleep(2)
    process.send_signal(number)
    assert process.wait(60) == 130
    assert not directory.exists()
    assert not [line for line in processes() if str(directory) in line]


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
