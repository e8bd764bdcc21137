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


PUBLISHED = [  # CloudHSM's user guide; the others are of log files and of cards
    "Cluster activation successful",
    "Logout successful",
    "Quorum approval is required for this operation",
    "Quorum Failed",
    "Invalid quorum value provided.",
    "Signature verification failed",
    "Key selection criteria matched 2 keys. Refine selection criteria to select a single key.",
    "Set quorum value successful",
    "Deletion of quorum token(s) successful",
    {"message": "Key deleted successfully"},
    {"message": "Successfully generated key file"},
    {"message": "Attribute set successfully"},
    {"message": "Key shared successfully"},
    {"message": "Key unshared successfully"},
    {"message": "Signature verified successfully"},
]


@pytest.mark.parametrize("message", PUBLISHED, ids=str)
def test_published_messages_are_said(message: object) -> None:
    for name in transcripts.MODES:
        text = (transcripts.FOLDER / f"{name}.txt").read_text()
        assert message in [answer["data"] for answer in transcripts.answers(text)]


def test_every_answer_is_an_envelope() -> None:
    for name in transcripts.MODES:
        text = (transcripts.FOLDER / f"{name}.txt").read_text()
        made = list(transcripts.answers(text))
        assert len(made) > 80
        for answer in made:
            assert list(answer) == ["error_code", "data"]
            assert answer["error_code"] in {0, 1}
            assert answer["error_code"] == 0 or isinstance(answer["data"], str)
