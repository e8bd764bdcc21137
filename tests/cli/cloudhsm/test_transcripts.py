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


PUBLISHED = [  # CloudHSM's user guide, as far as a command of this tree says it
    "Cluster activation successful",
    "Logout successful",
    "Quorum approval is required for this operation",
    "Quorum Failed",
    "Invalid quorum value provided.",
    "Signature verification failed",
    "Key selection criteria matched 2 keys. Refine selection criteria to select a single key.",
    "Specified user is inconsistent across the cluster",
    "Set quorum value successful",
    "Set token timeout successful",
    "Deletion of quorum token(s) successful",
    {"message": "Key deleted successfully"},
    {"message": "Successfully generated key file"},
    {"message": "Attribute set successfully"},
    {"message": "Key shared successfully"},
    {"message": "Key unshared successfully"},
    {"message": "Signature verified successfully"},
]
PUBLISHED_BESIDE_AN_OBJECT = [
    "Successfully imported key",
    "Successfully replicated key",
    "Successfully replicated user",
]
NEVER_SAID = {  # published, and why no command here comes to say it
    "User replicate failed on 1 of 3 connections": "a user is on every HSM or none",
    "User type should be CO or CU": "that was a fault of SDK 5.12 and before",
    "UX000: Ephemeral key is not expected because we cannot build it without HSM Connection":
        "session keys are found by reference, too",
    "does not meet the availability requirements": "a change is made on enough HSMs or refused",
    "Received error response code from Server. Response Code: 187": "no HSM throttles",
    "CA certificate key too weak": "there is no TLS to the HSMs",
    "Config key hostname has invalid value": "there is no configuration file",
}  # fmt: skip


@pytest.mark.parametrize("message", PUBLISHED, ids=str)
def test_published_messages_are_said(message: object) -> None:
    for name in transcripts.MODES:
        text = (transcripts.FOLDER / f"{name}.txt").read_text()
        assert message in [answer["data"] for answer in transcripts.answers(text)]


@pytest.mark.parametrize("message", PUBLISHED_BESIDE_AN_OBJECT)
def test_published_messages_beside_an_object_are_said(message: str) -> None:
    for name in transcripts.MODES:
        text = (transcripts.FOLDER / f"{name}.txt").read_text()
        answers = [a["data"] for a in transcripts.answers(text) if isinstance(a["data"], dict)]
        assert message in [data.get("message") for data in answers]


@pytest.mark.parametrize("message", NEVER_SAID)
def test_what_cannot_happen_is_never_said(message: str) -> None:
    for path in (transcripts.FOLDER.parents[3] / "orchestrator").rglob("*.py"):
        assert message not in path.read_text(), path


def test_a_weak_digest_is_refused_as_published() -> None:
    published = "Digest security strength (80) is weaker than the key security strength (128)"
    for name in transcripts.MODES:
        text = (transcripts.FOLDER / f"{name}.txt").read_text()
        said = [str(answer["data"]) for answer in transcripts.answers(text)]
        assert [text for text in said if text.startswith(f"{published}: in FIPS mode")]


def test_a_refusal_for_want_of_approvals_begins_as_published() -> None:
    """What is missing may follow; scripts that look for the published words still find them."""
    for name in transcripts.MODES:
        text = (transcripts.FOLDER / f"{name}.txt").read_text()
        said = {str(a["data"]) for a in transcripts.answers(text) if "1 of 2 approvals" in str(a)}
        assert said == {
            "Quorum approval is required for this operation: 1 of 2 approvals",
            "Quorum Failed: 1 of 2 approvals",
        }


def test_a_password_on_the_command_line_is_warned_of() -> None:
    """In single commands, where others can read the command line; the shell's lines are private."""
    warning = "warning: every user of this machine can read a password on the command line"
    single, interactive = ((transcripts.FOLDER / f"{n}.txt").read_text() for n in transcripts.MODES)
    lines = [line for line in single.splitlines() if " --password p" in line]
    assert single.count(warning) >= len([line for line in lines if "login" not in line]) > 10
    assert warning not in interactive


def test_every_answer_is_an_envelope() -> None:
    for name in transcripts.MODES:
        text = (transcripts.FOLDER / f"{name}.txt").read_text()
        made = list(transcripts.answers(text))
        assert len(made) > 80
        for answer in made:
            assert list(answer) == ["error_code", "data"]
            assert answer["error_code"] in {0, 1}
            assert answer["error_code"] == 0 or isinstance(answer["data"], str)
