"""`key_mgmt_util`: log-ins, finding keys, attributes, signatures."""

from __future__ import annotations

from pathlib import Path

from orchestrator.cli import files
from orchestrator.cli.cloudhsm import crypto, keys, logins
from orchestrator.cli.cloudhsm.syntax import Given
from orchestrator.cli.legacy import numbers
from orchestrator.cli.legacy.dialect import modern
from orchestrator.cli.legacy.tool import Tool, by_handle, handle
from orchestrator.cli.render import printable
from orchestrator.control.views import HsmState
from orchestrator.model.errors import RefusedError, UnavailableError, UsageError
from orchestrator.model.key_filter import KeyFilter
from orchestrator.model.key_spec import DIGEST_BYTES, SignScheme
from orchestrator.model.keys import Key
from orchestrator.model.roles import parse_user_name


def login(tool: Tool, given: Given) -> list[str]:
    """Log in."""
    asked = {
        "--username": parse_user_name(given.text("-s")),
        "--role": numbers.parse_type(given.text("-u")),
        "--password": given.maybe("--password"),
    }
    logins.login(tool.console, modern(asked))
    return []


def logout(tool: Tool, _given: Given) -> list[str]:
    """Log out."""
    logins.logout(tool.console, modern({}))
    return []


# --- finding and showing ---


def find(tool: Tool, given: Given) -> list[str]:
    """List handles."""
    terms: dict[str, str] = {}
    if (text := given.maybe("-c")) is not None:
        terms["class"] = numbers.chosen(numbers.CLASSES, text, "a class")
    if (text := given.maybe("-t")) is not None:
        terms["key-type"] = key_type(text)
    if (text := given.maybe("-l")) is not None:
        terms["label"] = text
    if (text := given.maybe("-id")) is not None:
        terms["id"] = f"0x{numbers.key_id(text)}"
    if (text := given.maybe("-kcv")) is not None:
        terms["check-value"] = f"0x{text.removeprefix('0x').lower()}"
    if given.has("-sess"):
        text = given.maybe("-sess") or "1"
        terms["token"] = {"1": "false", "0": "true"}.get(text, text)
    shared = tool.user_names(given.maybe("-u"))
    modulus = _modulus(given.maybe("-m"))
    wanted = KeyFilter.parse(f"attr.{name}={value}" for name, value in terms.items())
    found = [
        key
        for key in tool.all_keys(wanted)
        if set(shared) <= set(key.shared) and (modulus is None or _has_modulus(key, modulus))
    ]
    return [
        f"Total number of keys present: {len(found)}",
        "",
        "Handles of matching keys:",
        ", ".join(handle(key) for key in found),
    ]


def _modulus(path: str | None) -> int | None:
    return None if path is None else int.from_bytes(files.read(Path(path)), "big")


def _has_modulus(key: Key, modulus: int) -> bool:
    shown = numbers.modulus(key)
    return shown is not None and shown == modulus


def single(tool: Tool, given: Given) -> list[str]:
    """Ask every HSM for a key; those that are behind or silent are named."""
    key = tool.key(given.text("-k"))
    session = tool.console.session(modern({}))
    missing = []
    for server in tool.servers():
        if server.hsm.state not in {HsmState.ACTIVE, HsmState.DEGRADED}:
            continue
        try:
            page = session.list_keys(KeyFilter(ref=key.ref), 0, 1, server.hsm.hsm_id)
        except UnavailableError:
            missing.append(server.hsm.hsm_id)
            continue
        if not page.keys:
            missing.append(server.hsm.hsm_id)
    if missing:
        raise RefusedError("not-everywhere", f"key {handle(key)} is not on {', '.join(missing)}")
    return [f"Key {handle(key)} is on every HSM"]


def get_attribute(tool: Tool, given: Given) -> list[str]:
    """Write an attribute to a file."""
    number = numbers.parse_number(given.text("-a"), "an attribute")
    lines = numbers.attribute_lines(tool.key(given.text("-o")), number)
    path = given.text("-out")
    files.write_new(Path(path), "".join(f"{line}\n" for line in lines).encode())
    return [f"Attributes dumped into {path} file"]


def set_attribute(tool: Tool, given: Given) -> list[str]:
    """Make a session key a token key; it gets another handle."""
    key = tool.key(given.text("-o"))
    changes = tool.console.changes(modern({}))
    _, ref = changes.set_attribute(key.ref, "token", "true")
    return [f"Key {handle(key)} is a token key now.  Key Handle: {ref}"]


def key_info(tool: Tool, given: Given) -> list[str]:
    """Show whose a key is."""
    return [line.strip() for line in tool.owner_lines(tool.key(given.text("-k")))]


def list_users(tool: Tool, _given: Given) -> list[str]:
    """List users."""
    rows = tool.user_rows()
    return [
        f"Number Of Users found {len(rows) - 1}",
        "",
        *(row.removeprefix("    ") for row in rows),
    ]


def delete(tool: Tool, given: Given) -> list[str]:
    """Delete a key."""
    keys.delete(tool.console, by_handle(given.text("-k")))
    return []


# --- signatures ---


def sign(tool: Tool, given: Given) -> list[str]:
    """Sign a file."""
    key = tool.key(given.text("-k"))
    session = tool.console.session(modern({}))
    mechanism, digest = crypto.asked(_signing(given))
    files.write_new(Path(given.text("-out")), session.sign(key.ref, mechanism, digest))
    return [f"signature is written to file {given.text('-out')}"]


def verify(tool: Tool, given: Given) -> list[str]:
    """Verify a file's signature."""
    asked = _signing(given)
    more = {"--key-filter": by_handle(given.text("-k")).list("--filter")}
    more["--signature-path"] = (given.text("-s"),)
    crypto.verify(tool.console, Given(asked.path, asked.command, {**asked.values, **more}))
    return ["Signature verification successful"]


def _signing(given: Given) -> Given:
    scheme, name = numbers.chosen(numbers.SIGNS, given.text("-m"), "a signature mechanism")
    asked = {"--hash-function": str(name), "--data-path": given.text("-f")}
    if scheme is SignScheme.RSA_PSS:
        asked |= {"--mgf": f"mgf1-{name}", "--salt-length": str(DIGEST_BYTES[name])}
    return modern(asked, str(scheme))


# --- the rest ---


def certificate(tool: Tool, given: Given) -> list[str]:
    """Write a certificate."""
    path = given.text("-f")
    files.write_new(Path(path), tool.certificate(given.text("-s")))
    return [f"Successfully written certificate to {path}"]


def explain(_tool: Tool, given: Given) -> list[str]:
    """Say what a return code means."""
    code = numbers.parse_number(given.text("-r"), "a return code")
    if code not in numbers.CODES:
        raise UsageError(f"0x{code:02x} is no return code of this program")
    text, codes = numbers.CODES[code]
    also = f" (error codes of cloister: {', '.join(codes)})" if codes else ""
    return [f"Error Code: 0x{code:02x} maps to: {printable(text)}{also}"]


def key_type(text: str) -> str:
    """Return the key type that a number stands for."""
    number = numbers.parse_number(text, "a key type")
    numbers.check_lost(number)
    return numbers.chosen(numbers.KEY_TYPES, text, "a key type")
