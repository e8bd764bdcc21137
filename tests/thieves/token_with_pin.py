"""`python -m tests.thieves.token_with_pin DIRECTORY MODULE`: what the PIN of a token gives.

The tests' own tool, to learn what must be found nowhere. It knows the documented formats and
nothing of the product's code, and reads a copy of a HSM's directory: its token and its state.
"""

from __future__ import annotations

import json
import os
import secrets
import sqlite3
import sys
from pathlib import Path
from typing import Any

import pkcs11
from cryptography.hazmat.primitives.keywrap import aes_key_unwrap_with_padding
from pkcs11 import Attribute, GCMParams, KeyType, Mechanism, ObjectClass


def masking_key(session: Any, key: Any) -> bytes:
    """Wrap the masking key under a key whose value is known."""
    value = secrets.token_bytes(32)
    known = session.create_object(
        {
            Attribute.CLASS: ObjectClass.SECRET_KEY,
            Attribute.KEY_TYPE: KeyType.AES,
            Attribute.TOKEN: False,
            Attribute.WRAP: True,
            Attribute.VALUE: value,
        }
    )
    return aes_key_unwrap_with_padding(
        value, known.wrap_key(key, mechanism=Mechanism.AES_KEY_WRAP_PAD)
    )


def rows(state: Path, key: Any) -> list[tuple[str, str, str]]:
    """Unseal every row of a state, in the token."""
    found = []
    with sqlite3.connect(state) as db:
        for table, name, seq, sealed in db.execute("SELECT tab, name, seq, sealed FROM rows"):
            place = f"{table}/{name}/{seq}".encode()
            data = key.decrypt(
                sealed[12:],
                mechanism=Mechanism.AES_GCM,
                mechanism_param=GCMParams(sealed[:12], place),
                buffer_size=len(sealed),
            )
            found.append((table, name, data.hex()))
    return found


def main(directory: Path, module: str) -> None:
    """Print what there is as JSON."""
    token = directory / "token"
    conf = token / "softhsm2.conf"
    lines = [line for line in conf.read_text().splitlines() if "tokendir" not in line]
    conf.write_text("\n".join([f"directories.tokendir = {token / 'tokens'}", *lines, ""]))
    os.environ["SOFTHSM2_CONF"] = str(conf)
    pin = (token / "pin").read_text()
    with (
        pkcs11.lib(module).get_token(token_label="cloister").open(user_pin=pin, rw=True) as session
    ):
        objects = {item[Attribute.LABEL]: item for item in session.get_objects()}
        found: dict[str, object] = {"pin": pin, "labels": sorted(objects), "masking": ""}
        if "masking" in objects:
            found["masking"] = masking_key(session, objects["masking"]).hex()
            found["rows"] = rows(directory / "state.db", objects["state"])
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
