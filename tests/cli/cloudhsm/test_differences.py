"""docs/moving-from-cloudhsm.md: every row of its table of differences has a test that proves it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[3]
GUIDE: Final = ROOT / "docs" / "moving-from-cloudhsm.md"
PROOFS: Final = {  # the beginning of a row's first cell, and the test
    "one key may have `wrap` and":
        "agent/test_wrapping.py::wrap_then_decrypt_by_any_way_round_is_refused",
    "a wrapping key may be imported":
        "agent/test_wrapping.py::what_came_from_outside_wraps_once_it_is_trusted",
    "an AES key with `wrap=true`":
        "unit/test_attribute_rules.py::a_wrapping_key_stays_unless_asked_otherwise",
    "`trusted` goes on any": "unit/test_attribute_rules.py::no_secret_key_is_both",
    "whom a wrapping key is shared": "agent/test_wrapping.py::the_owner_wraps_and_a_share_does_not",
    "a key replicated to a clone":
        "cli/cloudhsm/test_transcripts.py::the_transcript_is_what_is_written_down",
    "what an attribute changes to": "unit/test_attribute_rules.py::what_has_wrapped_never_decrypts",
    "a quorum token dies with":
        "e2e/test_quorum_flows.py::a_token_outlives_a_new_connection_and_a_lost_hsm",
    "`quorum token-sign set-timeout`": "unit/test_quorum.py::the_policy_is_guarded_as_values_are",
    "`quorum token-sign delete`": "cli/cloudhsm/test_roles.py::where_an_argument_decides",
    "an approved use of a key":
        "e2e/test_quorum_flows.py::a_guarded_key_signs_what_was_approved_and_nothing_else",
    "`key delete` is in no quorum":
        "unit/test_quorum.py::every_guarded_operation_has_its_service_and_words",
    "approvers sign without": "e2e/test_quorum_flows.py::a_bound_token_says_and_does_one_thing",
    "`number-of-approvals` in":
        "cli/cloudhsm/test_transcripts.py::the_transcript_is_what_is_written_down",
    "only RSA-2048 keys approve": "e2e/test_quorum_flows.py::the_flow_of_the_documentation",
    "a second factor is for the CLI": "e2e/test_quorum_flows.py::a_lent_login_for_applications",
    "`user delete` is refused while":
        "unit/test_user_care.py::a_leaving_owner_hands_over_keys_and_objects",
    "a user who is logged in":
        "agent/test_tries.py::no_ticket_outlives_its_user_under_the_same_name",
    "a locked user needs": "unit/test_user_care.py::an_admin_unlocks_and_logins_stay",
    "HSMs can disagree on users":
        "agent/test_tries.py::an_hsm_that_was_down_locks_and_unlocks_as_the_others",
    "each HSM counts wrong": "agent/test_tries.py::tries_at_different_hsms_are_one_count",
    "a key must be on two HSMs":
        "cli/cloudhsm/test_transcripts.py::the_transcript_is_what_is_written_down",
    "`user delete`: drift":
        "cli/cloudhsm/test_published_steps.py::an_hsm_killed_between_approval_and_commit_spends_nothing",
    "a password may stand after":
        "cli/cloudhsm/test_transcripts.py::a_password_on_the_command_line_is_warned_of",
    "exit status not documented": "cli/cloudhsm/test_roles.py::single_commands",
    "`crypto sign` may find session":
        "cli/cloudhsm/test_shell.py::a_session_key_lives_until_log_out",
    "`key generate-file --path`": "cli/test_commands.py::key_files",
    "`reference-pem` is a fake": "cli/test_commands.py::key_files",
    "`key-length-bytes` of asymmetric": "unit/test_key_grammar.py::keys_are_found_by_what_they_are",
    "`hsm-info` shows": "cli/cloudhsm/test_transcripts.py::the_transcript_is_what_is_written_down",
    "`fips-state` 2 is": "unit/test_fips.py::a_hash_is_as_strong_as_its_curve",
}  # fmt: skip


def rows() -> list[str]:
    """Return the first cells of the table of differences."""
    text = GUIDE.read_text().split("## What is different")[1].split("\n## ")[0]
    return re.findall(r"^\| (.+?) \|", text, re.MULTILINE)[2:]


@pytest.mark.parametrize("row", rows())
def test_every_difference_is_proved(row: str) -> None:
    [proof] = [test for beginning, test in PROOFS.items() if row.startswith(beginning)]
    path, _, name = proof.partition("::")
    assert f"def test_{name}(" in (ROOT / "tests" / path).read_text()


def test_no_proof_is_of_a_row_that_went() -> None:
    assert [b for b in PROOFS if not any(row.startswith(b) for row in rows())] == []
