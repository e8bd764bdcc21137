"""Every command of the tree, in both modes, against a real token."""

from __future__ import annotations

import pytest

from tests.cli.cloudhsm import transcripts

pytestmark = pytest.mark.softhsm


@pytest.fixture(scope="module", params=transcripts.MODES)
def mode(request: pytest.FixtureRequest) -> tuple[str, str]:
    return request.param, transcripts.transcript(request.param)


def test_the_transcript_is_what_is_written_down(mode: tuple[str, str]) -> None:
    name, made = mode
    assert made == (transcripts.FOLDER / f"{name}.txt").read_text()


def test_no_password_and_no_defect_is_in_a_transcript() -> None:
    for name in transcripts.MODES:
        text = (transcripts.FOLDER / f"{name}.txt").read_text()
        assert "Traceback" not in text
        assert "defect in cloister" not in text


def test_every_answer_is_an_envelope() -> None:
    for name in transcripts.MODES:
        text = (transcripts.FOLDER / f"{name}.txt").read_text()
        made = list(transcripts.answers(text))
        assert len(made) > 80
        for answer in made:
            assert list(answer) == ["error_code", "data"]
            assert answer["error_code"] in {0, 1}
            assert answer["error_code"] == 0 or isinstance(answer["data"], str)
