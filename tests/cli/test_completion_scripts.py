"""What a wheel carries for shells is what the command generates."""

from __future__ import annotations

import pytest

from orchestrator import __version__
from tests.cli.completion_scripts import DIRECTORY, SHELLS, script
from tests.cli.conftest import Run


@pytest.mark.parametrize("shell", SHELLS)
def test_the_committed_script_is_the_generated_one(shell: str) -> None:
    assert (DIRECTORY / f"cloister.{shell}").read_text() == script(shell)


def test_the_zsh_script_completes_at_the_first_tab() -> None:
    assert "funcstack" in script("zsh")


def test_version(run: Run) -> None:
    assert run("--version").out == f"cloister {__version__}\n"
