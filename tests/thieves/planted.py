"""Secrets that are left lying about on purpose: the search must find each of them."""

from __future__ import annotations

import base64
import hashlib
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat


def value(place: str, form: str) -> bytes:
    """Return the 32 bytes that are planted in this place and form; none is zero, as in argv."""
    return hashlib.sha256(f"planted {place} {form}".encode()).digest().replace(b"\0", b"\1")


def _key(secret: bytes, encoding: Encoding) -> bytes:
    key = ec.derive_private_key(int.from_bytes(secret, "big"), ec.SECP256R1())
    return key.private_bytes(encoding, PrivateFormat.PKCS8, NoEncryption())


FORMS: Final[dict[str, Callable[[bytes], bytes]]] = {
    "raw": lambda s: b"<" + s + b">",
    "hex": lambda s: s.hex().encode(),
    "HEX": lambda s: s.hex().upper().encode(),
    "base64": base64.b64encode,
    "base64 after one byte": lambda s: base64.b64encode(b"x" + s + b"yz"),
    "base64 after two bytes": lambda s: base64.b64encode(b"xy" + s + b"z"),
    "base64url": base64.urlsafe_b64encode,
    "base64url after one byte": lambda s: base64.urlsafe_b64encode(b"x" + s + b"yz"),
    "base64url after two bytes": lambda s: base64.urlsafe_b64encode(b"xy" + s + b"z"),
    "broken hex lines": lambda s: s.hex()[:21].encode() + b"\n" + s.hex()[21:].encode(),
    "DER": lambda s: _key(s, Encoding.DER),
    "PEM": lambda s: _key(s, Encoding.PEM),
    "first half": lambda s: s[:16],
    "second half": lambda s: s[16:],
}
PLACES: Final = {
    "file": "home/lab/planted",
    "deleted file": "written to ",
    "log": "home/lab/supervisor.log",
    "cmdline": "/cmdline",
    "environ": "/environ",
    "short process": "argv and environ of ",
    "socket": "sent to ",
}
"""Places to plant in, and what the place is called when it is found there."""
CASES: Final = [
    (place, form)
    for place in PLACES
    for form in FORMS
    if form != "DER" or place not in {"cmdline", "environ", "short process"}  # it has zero bytes
]


def plant(home: Path) -> AbstractContextManager[object]:
    """Leave every secret in its place; those of living processes go at the end."""
    texts = {(place, form): FORMS[form](value(place, form)) for place, form in CASES}
    stack = ExitStack()
    for (place, form), text in texts.items():
        match place:
            case "file":
                (home / "lab" / f"planted {form}").write_bytes(text)
            case "deleted file":
                path = home / "lab" / "gone"
                path.write_bytes(text)
                path.unlink()
            case "log":
                with (home / "lab" / "supervisor.log").open("ab") as log:
                    log.write(b"INFO " + text + b"\n")
            case "socket":
                one, other = socket.socketpair()
                with one, other:
                    one.sendall(text)
            case "short process":
                subprocess.run([b"/bin/true", text], check=True)
            case _:
                pass  # the living process, below
    waits = [sys.executable, "-c", "import sys; sys.stdin.read()"]
    arguments = [text for (place, _), text in texts.items() if place == "cmdline"]
    variables = {
        f"PLANTED_{number}".encode(): text
        for number, ((place, _), text) in enumerate(texts.items())
        if place == "environ"
    }
    child = subprocess.Popen([*waits, *arguments], stdin=subprocess.PIPE, env=variables)
    stack.callback(child.wait, 10)
    assert child.stdin is not None
    stack.callback(child.stdin.close)
    return stack
