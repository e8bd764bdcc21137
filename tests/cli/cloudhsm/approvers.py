"""People who sign token files outside, as CloudHSM's guide tells them to: with openssl."""

from __future__ import annotations

import base64
import json
import subprocess
from pathlib import Path

from tests.cli.cloudhsm.site import PASSWORDS, ROLES


def make_keys(tmp: Path) -> None:
    """Make a key pair for everybody: NAME.key and NAME.pub."""
    for name in PASSWORDS:
        key, public = tmp / f"{name}.key", tmp / f"{name}.pub"
        _openssl("genrsa", "-out", str(key), "2048")
        _openssl("rsa", "-in", str(key), "-pubout", "-out", str(public))


def approve(file: Path, tmp: Path, name: str) -> None:
    """Add a signature to a quorum token file."""
    made = json.loads(file.read_text())
    signature = {
        "username": name,
        "role": ROLES[name],
        "signature": _sign(made["token"], tmp, name),
    }
    made["signatures"].append(signature)
    file.write_text(json.dumps(made))


def possess(file: Path, tmp: Path, name: str) -> None:
    """Sign a registration, or the tokens of a second factor."""
    made = json.loads(file.read_text())
    for part in made["tokens"]:
        part["signed"] = _sign(part["unsigned"], tmp, name)
    file.write_text(json.dumps(made))


def _sign(token: str, tmp: Path, name: str) -> str:
    digest, signature = tmp / "token.bin", tmp / "token.sig"
    digest.write_bytes(base64.b64decode(token))
    _openssl(
        *("pkeyutl", "-sign", "-pkeyopt", "digest:sha256"),
        *("-inkey", str(tmp / f"{name}.key"), "-in", str(digest), "-out", str(signature)),
    )
    return base64.b64encode(signature.read_bytes()).decode()


def _openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)
