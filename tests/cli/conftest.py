"""Commands run in process, with stand-ins for what they call."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli.main import main
from tests.cli.stand_ins import PASSWORD, StandIns

ADMIN = {"CLOUDHSM_ROLE": "admin", "CLOUDHSM_PIN": f"admin:{PASSWORD}"}
ALICE = {"CLOUDHSM_ROLE": "crypto-user", "CLOUDHSM_PIN": f"alice:{PASSWORD}"}


@dataclass(frozen=True)
class Outcome:
    """What a command left: exit status, stdout, stderr."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def error(self) -> Any:
        return json.loads(self.err.splitlines()[-1])


Run = Callable[..., Outcome]


def words(text: str) -> list[str]:
    """Return the arguments that a shell would make of this."""
    return text.split()


@pytest.fixture
def services(tmp_path: Path) -> StandIns:
    return StandIns(tmp_path)


@pytest.fixture
def run(
    services: StandIns, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Run:
    for name in ("CLOUDHSM_ROLE", "CLOUDHSM_PIN", "CLOISTER_CLUSTER", "CLOISTER_DEBUG"):
        monkeypatch.delenv(name, raising=False)

    def run_(*arguments: str, login: dict[str, str] | None = None, stdin: str = "") -> Outcome:
        for name, value in (login or {}).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        capsys.readouterr()
        status = main(arguments, services)
        captured = capsys.readouterr()
        return Outcome(status, captured.out, captured.err)

    return run_
