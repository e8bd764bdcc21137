"""Tab offers what may come next; passwords are found wherever a line hides them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given as examples
from hypothesis import strategies as st

from orchestrator.cli.cloudhsm.completion import Lookup, complete
from orchestrator.cli.cloudhsm.redaction import redact, spans
from orchestrator.cli.cloudhsm.tree import INTERACTIVE

LOOKUP = Lookup(
    lambda: ["cluster-aaaaaaaaaaa"], lambda: ["admin", "alice"], lambda: ["data", "my key"]
)


def offered(text: str) -> list[str]:
    found, length = complete(INTERACTIVE, text, LOOKUP)
    assert length == (0 if not text or text.endswith(" ") else len(text.rsplit(maxsplit=1)[-1]))
    return found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("k", ["key"]),
        ("qu", ["quorum", "quit"]),
        ("key g", ["generate-asymmetric-pair", "generate-symmetric", "generate-file"]),
        ("key wrap rsa", ["rsa-aes", "rsa-oaep", "rsa-pkcs"]),
        ("help user cr", ["create"]),
        ("help nothing ", []),
        ("nothing ", []),
        ("logout nothing ", []),
        ("user create --user", ["--username"]),
        ("user create --username ", ["admin", "alice"]),
        ("user create --username al", ["alice"]),
        ("user create --role c", ["crypto-user"]),
        ("user create --username alice --username", []),
        ("login --cluster-id c", ["cluster-aaaaaaaaaaa"]),
        ("login --username alice --role admin m", ["mfa-token-sign"]),
        ("key list --filter attr.label=d", ["attr.label=data"]),
        ("key list --filter attr.label=data attr.tok", ["attr.token="]),
        ("key list --filter attr.token=t", ["attr.token=true"]),
        ("key list --filter attr.class=s", ["attr.class=secret-key"]),
        ("key list --filter attr.id=", []),
        ("key list --filter k", ["key-reference="]),
        ("key generate-symmetric aes --attributes enc", ["encrypt="]),
        ("key generate-symmetric aes --attributes encrypt=f", ["encrypt=false"]),
        ("key set-attribute --name tr", ["trusted"]),
        ("key list --filter attr.token=true --fil", ["--filter"]),
        ("key list --max-items ", []),
    ],
)
def test_what_is_offered(text: str, expected: list[str]) -> None:
    assert offered(text) == expected


def test_flags_are_offered_once_all_values_are_there() -> None:
    assert "--role" in offered("user create --username alice ")
    assert "--username" not in offered("user create --username alice ")
    assert "--session" in offered("key generate-symmetric aes --attributes sign=true ")


def test_a_label_with_a_space_is_quoted() -> None:
    assert offered("key list --filter attr.label=m") == ["'attr.label=my key'"]


def test_files_are_offered(tmp_path: Path) -> None:
    (tmp_path / "one.pem").touch()
    (tmp_path / "folder").mkdir()
    text = f"key import pem --path {tmp_path}/"
    assert offered(text) == [f"{tmp_path}/folder/", f"{tmp_path}/one.pem"]
    assert offered(f"{text}none/") == []


@examples(st.text())
def test_no_text_breaks_completion(text: str) -> None:
    complete(INTERACTIVE, text, LOOKUP)


@pytest.mark.parametrize(
    ("line", "kept"),
    [
        ("login --username a --password geheim", "login --username a --password"),
        ("login --password geheim --username a", "login --password --username a"),
        ("login --password=geheim", "login --password"),
        ("login --password 'ge heim' --role admin", "login --password --role admin"),
        ('login --password "ge heim', "login --password"),
        ("login --password ge\\ heim", "login --password"),
        ("login --password 'ge'\"heim\"", "login --password"),
        ("login --pasword geheim", "login --pasword"),
        ("login --PASSWORD geheim", "login --PASSWORD"),
        ("login -p geheim", "login -p"),
        ("user change-mfa --change-password geheim", "user change-mfa --change-password"),
        ("login --password --username a", "login --password --username a"),
        ("key list --path x --payload-filter y", "key list --path x --payload-filter y"),
        ("key generate --public-label p --private-label k", None),
        ("user change-password --username a", None),
    ],
)
def test_passwords_are_left_out(line: str, kept: str | None) -> None:
    assert redact(line, spans(line)) == (line if kept is None else kept)
    assert "geheim" not in redact(line, spans(line))
    if kept is not None and "geheim" in line:
        (start, end), *_ = spans(line)
        assert "geheim" in line[start:end]
