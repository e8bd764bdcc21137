"""Every command of both legacy tools, against a real token."""

from __future__ import annotations

import re

import pytest

from orchestrator.cli.legacy.cmu_commands import CMU
from orchestrator.cli.legacy.kmu_commands import KMU
from tests.cli.legacy import transcripts
from tests.cli.legacy.transcripts import SCENES, TRANSCRIPT, Session


@pytest.mark.softhsm
def test_the_transcript_is_what_is_written_down() -> None:
    assert transcripts.transcript() == TRANSCRIPT.read_text()


def test_no_defect_is_in_the_transcript() -> None:
    text = TRANSCRIPT.read_text()
    assert "Traceback" not in text
    assert "defect in cloister" not in text


def test_every_command_that_is_offered_succeeds_somewhere() -> None:
    text = TRANSCRIPT.read_text()
    shown = {
        (scene.tool, line.split()[0])
        for scene in SCENES
        for line in (scene.lines if isinstance(scene, Session) else (scene.line,))
    }
    for tool, dialect in (("cmu", CMU), ("kmu", KMU)):
        for name, command in dialect.commands().items():
            assert (tool, name) in shown
            if command.missing:
                assert f"{name} is not offered: {command.missing}" in text
            elif command.call:
                answer = rf"^Command: {name}\b.*\n +Cfm3{command.call} returned: 0x00 :"
                single = rf"^\$ .*{name}\b.*\n.*\n +Cfm3{command.call} returned: 0x00 :"
                assert re.search(f"{answer}|{single}", text, re.MULTILINE), name
    done = set(re.findall(r"^(\w+) success", text, re.MULTILINE))
    changing = {name for name, command in CMU.commands().items() if command.changes}
    assert changing <= done


def test_each_change_names_the_servers_that_hold_it() -> None:
    text = TRANSCRIPT.read_text()
    assert "createUser success on server 0(hsm-1)" in text
    assert "Node id 0 status: 0x00000000 : HSM Return: SUCCESS" in text
