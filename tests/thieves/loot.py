"""Every secret of a cluster, learnt with the PIN of one HSM that is down."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.keywrap import aes_key_unwrap_with_padding
from cryptography.hazmat.primitives.serialization import load_der_private_key

from orchestrator.model.key_spec import KeyClass
from orchestrator.model.state import State, StoredRow, Table
from tests.conftest import MODULES


@dataclass(frozen=True)
class Loot:
    """What a token's PIN gives. `state` is None, and `masking` empty, before the HSM has joined."""

    pin: bytes
    labels: frozenset[str]
    masking: bytes
    state: State | None


def steal(directory: Path, scratch: Path) -> Loot:
    """Read a copy of an HSM's directory with its PIN."""
    scratch.mkdir(mode=0o700)
    shutil.copytree(directory / "token", scratch / "token")
    for path in directory.glob("state.db*"):
        shutil.copy(path, scratch)
    module = next(str(path) for path in MODULES if path.exists())
    argv = [sys.executable, "-m", "tests.thieves.token_with_pin", str(scratch), module]
    root = Path(__file__).parents[2]
    done = subprocess.run(argv, capture_output=True, check=True, cwd=root, timeout=30)
    found = json.loads(done.stdout)
    state = None
    if "rows" in found:
        stored = [StoredRow(Table(t), name, bytes.fromhex(data)) for t, name, data in found["rows"]]
        state = State.build(stored, seq=0, head=b"", at=0)[0]
    return Loot(
        found["pin"].encode(), frozenset(found["labels"]), bytes.fromhex(found["masking"]), state
    )


def secrets_of(loot: Loot) -> dict[str, bytes]:
    """Return the masking key, the cluster's secrets, and what every blob holds."""
    state = loot.state
    assert state is not None
    epoch = f"{state.meta.cluster}, epoch {state.secrets.epoch}"
    found = {
        "masking key": loot.masking,
        f"seal key of {epoch}": state.secrets.seal_key,
        f"ticket secret of {epoch}": state.secrets.ticket_secret,
    }
    for user in state.users():
        if user.password_hash:
            found[f"password hash of {user.name}"] = user.password_hash.encode()
    blobs = {"certificate key": state.meta.certificate_key, "backup key": state.meta.backup_key}
    for key in state.all_keys():
        if key.key_class is not KeyClass.PUBLIC:
            blobs[f"{key.spec.type} key {key.label}"] = key.blob
    for name, blob in blobs.items():
        found |= _parts(name, aes_key_unwrap_with_padding(loot.masking, blob))
    return found


def _parts(name: str, value: bytes) -> dict[str, bytes]:
    """Return a key's value; of a private key (PKCS#8) the numbers that must not be known."""
    if len(value) <= 64:
        return {name: value}
    key = load_der_private_key(_unpadded(value), password=None)
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return {name: key.private_numbers().private_value.to_bytes(32, "big")}
    assert isinstance(key, rsa.RSAPrivateKey)
    numbers = key.private_numbers()
    parts = {"d": numbers.d, "p": numbers.p, "q": numbers.q, "dmp1": numbers.dmp1,
             "dmq1": numbers.dmq1, "iqmp": numbers.iqmp}  # fmt: skip
    return {
        f"{name} {part}": number.to_bytes((number.bit_length() + 7) // 8, "big")
        for part, number in parts.items()
    }


def _unpadded(der: bytes) -> bytes:
    """Cut off the zeros that SoftHSM fills a private key up with before it wraps it."""
    if der[1] < 0x80:
        return der[: 2 + der[1]]
    count = der[1] & 0x7F
    return der[: 2 + count + int.from_bytes(der[2 : 2 + count], "big")]
