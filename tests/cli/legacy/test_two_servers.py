"""Two HSMs, one of which is killed: what the tools say of each, and that nothing drifts."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.cli.legacy.main import cmu, kmu
from orchestrator.lab import lab
from tests.cli.cloudhsm.site import SiteServices
from tests.interop.address import PASSWORD, USER
from tests.interop.sources import LabHsms, make_lab

pytestmark = pytest.mark.softhsm


class Place:
    """A cluster of two, and who types."""

    def __init__(self, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.services, self._capsys = SiteServices(home), capsys
        self.hsms: LabHsms = make_lab(home, 2)[1]

    def kmu(self, *lines: str) -> str:
        return self._run(kmu, lines)

    def cmu(self, *lines: str) -> str:
        return self._run(cmu, lines)

    def _run(self, main: object, lines: tuple[str, ...]) -> str:
        assert callable(main)
        before, sys.stdin = sys.stdin, io.StringIO("".join(f"{line}\n" for line in lines))
        try:
            main([], self.services)
        finally:
            sys.stdin = before
        return self._capsys.readouterr().out


@pytest.fixture
def place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Place]:
    yield Place(tmp_path / "home", capsys)
    lab.destroy(tmp_path / "home", include_backups=True)


def test_each_server_is_named_with_what_it_holds(place: Place) -> None:
    login = f"loginHSM -u CU -s {USER} -p {PASSWORD}"
    names = place.hsms.hsms
    said = place.cmu(f"loginHSM CU {USER} {PASSWORD}", "server 1", "getHSMInfo", "exit", "quit")
    assert f"loginHSM success on server 0({names[0]})" in said
    assert f"loginHSM success on server 1({names[1]})" in said
    assert said.count("Getting HSM Info on") == 1

    said = place.kmu(login, "genSymKey -t 31 -s 16 -l both -min_srv 2", "exit")
    assert "Node id 1 status: 0x00000000 : HSM Return: SUCCESS" in said
    handle = said.rpartition("Key Handle: ")[2].split()[0]
    assert f"Key {handle} is on every HSM" in place.kmu(login, f"findSingleKey -k {handle}")

    place.hsms.kill(1)
    said = place.kmu(login, f"findSingleKey -k {handle}")
    assert f"is not on {names[1]}" in said
    said = place.kmu(login, "genSymKey -t 31 -s 16 -l one -min_srv 2")
    assert "1 HSMs are up, fewer than -min_srv; no key was made" in said
    said = place.kmu(login, f"getKeyInfo -k {handle}")
    assert f"Node id 1 status: 0x000000f0 : HSM Error: {names[1]}" in said
    assert "Node id 0 status: 0x00000000 : HSM Return: SUCCESS" in said
    said = place.cmu(f"loginHSM CU {USER} {PASSWORD}", "getHSMInfo", "info server 1", "listUsers")
    assert f"loginHSM success on server 0({names[0]})" in said
    assert f"loginHSM not yet on server 1({names[1]}): " in said
    assert "Disconnected" in said
    assert said.count("no answer: ") == 2
