"""Token files on the command line: read them, write them, and say what they are for."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli import files

if TYPE_CHECKING:
    from orchestrator.sealed.token_files import PossessionFile, TokenFile

ApprovalOption = Annotated[
    Path | None,
    typer.Option(
        "--approval", metavar="FILE", help="Token file with the approvals that a quorum asks for."
    ),
]
TokenOption = Annotated[Path, typer.Option("--token", metavar="FILE", help="Must not exist yet.")]
TokenArgument = Annotated[Path, typer.Argument(metavar="FILE", help="Token file.")]
SignedTokenOption = Annotated[
    Path, typer.Option("--signed-token", metavar="FILE", help="The token file, signed.")
]
PublicKeyOption = Annotated[
    Path, typer.Option("--public-key", metavar="FILE", help="RSA-2048 in PEM, or an SSH .pub file.")
]


def read(path: Path | None) -> TokenFile | None:
    """Read a token file that `--approval` named."""
    from orchestrator.sealed.token_files import TokenFile

    return TokenFile.parse(files.read(path)) if path is not None else None


def read_possession(path: Path) -> PossessionFile:
    """Read a signed registration or second factor."""
    from orchestrator.sealed.token_files import PossessionFile

    return PossessionFile.parse(files.read(path))


def describe(token: TokenFile) -> dict[str, object]:
    """Return what a token file asks people to approve."""
    operation = token.words or f"any one operation of service {token.service}"
    key = f"0x{token.key_reference:016x}" if token.key_reference else ""
    return {
        "operation": operation,
        "is_bound": bool(token.words),
        "service": str(token.service),
        "key_reference": key,
        "requester": token.requester,
        "issued_at": _time(token.issued_at * 1000),
        "token": token.token.hex(),
        "signed_by": [f"{s.role}/{s.username}" for s in token.signatures],
    }


def _time(at_ms: int) -> str:
    with contextlib.suppress(ValueError, OverflowError, OSError):
        return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return "out of range"
