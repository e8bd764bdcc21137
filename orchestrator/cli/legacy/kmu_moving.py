"""`key_mgmt_util`: keys that come in and go out, in files."""

from __future__ import annotations

from pathlib import Path

from orchestrator.cli import files
from orchestrator.cli.cloudhsm import keys, wrapping
from orchestrator.cli.cloudhsm.syntax import Given
from orchestrator.cli.legacy import numbers
from orchestrator.cli.legacy.dialect import modern
from orchestrator.cli.legacy.kmu import key_type
from orchestrator.cli.legacy.kmu_making import (
    common,
    id_attribute,
    made_handle,
    secret_attributes,
)
from orchestrator.cli.legacy.tool import Tool, by_handle, handle
from orchestrator.model.errors import RefusedError, UsageError
from orchestrator.model.key_filter import parse_pairs
from orchestrator.model.key_spec import KeyClass, KeySpec, KeyType
from orchestrator.model.keys import check_label
from orchestrator.model.wrap_mechanism import WrapScheme

_GCM = frozenset({WrapScheme.AES_GCM, WrapScheme.CLOUDHSM_AES_GCM})
_HASHED = frozenset({WrapScheme.RSA_AES, WrapScheme.RSA_OAEP})
_GCM_TAG_BYTES = 16
_REFERENCE = b"-----BEGIN PKCS#11 PROVIDER URI-----"
_PRIVATE = b"PRIVATE KEY-----"


# --- keys in clear ---


def import_symmetric(tool: Tool, given: Given) -> list[str]:
    """Make a key of a symmetric key in clear."""
    wanted = KeyType(key_type(given.text("-t")))
    if wanted not in {KeyType.AES, KeyType.GENERIC_SECRET}:
        raise UsageError("a symmetric key has type 16 or 31")
    content = files.read(Path(given.text("-f")))
    attributes = secret_attributes(given, is_aes=wanted is KeyType.AES)
    spec = KeySpec(wanted, len(content) * 8)
    return _import(tool, given, spec, content, KeyClass.SECRET, attributes)


def import_private(tool: Tool, given: Given) -> list[str]:
    """Make a key of a private key in PEM."""
    from orchestrator.client.clear_keys import private_key

    spec, content = private_key(files.read(Path(given.text("-f"))))
    use = "unwrap=true" if given.has("-kek") else "sign=true"
    stays = ("extractable=false",) if given.has("-nex") else ()
    attributes = (use, *id_attribute(given), *stays)
    return _import(tool, given, spec, content, KeyClass.PRIVATE, attributes)


def _import(
    tool: Tool,
    given: Given,
    spec: KeySpec,
    content: bytes,
    key_class: KeyClass,
    attributes: tuple[str, ...],
) -> list[str]:
    from orchestrator.wire.messages import KeyDraft

    draft = KeyDraft(
        key_class,
        check_label(given.text("-l")),
        tuple(parse_pairs(attributes).items()),
        tool.user_names(given.maybe("-u")),
    )
    _, key = tool.console.changes(modern({})).import_clear_key(spec, content, draft)
    return [
        f"Key Imported.  Key Handle: {handle(key)}",
        f"Destroy {given.text('-f')} now: it holds the key in clear",
    ]


# --- public keys ---


def import_public(tool: Tool, given: Given) -> list[str]:
    """Make a key of a public key."""
    from orchestrator.client.verify import public_type

    path = given.text("-f")
    asked = {
        "--path": path,
        "--label": given.text("-l"),
        "--key-type-class": f"{public_type(files.read(Path(path)))}-public",
        "--attributes": (
            "wrap=true" if given.has("-kek") else "verify=true",
            *id_attribute(given),
        ),
    }
    shown = keys.import_pem(tool.console, modern(asked))
    return [f"Public Key Imported.  Key Handle: {made_handle(shown, 'key')}"]


def export_public(tool: Tool, given: Given) -> list[str]:
    """Write a public key."""
    return _file(tool, given, "pem", "PEM formatted public key is written to")


def reference(tool: Tool, given: Given) -> list[str]:
    """Write a stand-in for a private key."""
    return _file(tool, given, "reference-pem", "Private Key Handle is written to")


def _file(tool: Tool, given: Given, encoding: str, said: str) -> list[str]:
    path = given.text("-out")
    selected = by_handle(given.text("-k")).list("--filter")
    asked = {"--encoding": encoding, "--path": path, "--filter": selected}
    keys.generate_file(tool.console, modern(asked))
    return [f"{said} {path}"]


def is_reference(_tool: Tool, given: Given) -> list[str]:
    """Tell a stand-in from a private key, by the file's first line."""
    content = files.read(Path(given.text("-f"))).lstrip()
    first = content.partition(b"\n")[0].strip()
    if first == _REFERENCE:
        return ["Input key file has a key handle: it names a key and holds none"]
    if first.startswith(b"-----BEGIN") and first.endswith(_PRIVATE):
        return ["Input key file has real private key"]
    raise UsageError(f"{given.text('-f')} is neither a key handle nor a private key in PEM")


# --- wrapping ---


def wrap(tool: Tool, given: Given) -> list[str]:
    """Wrap a key into a file."""
    scheme, path = _scheme(given), given.text("-out")
    iv_path = given.maybe("-iv_file")
    if scheme is WrapScheme.AES_GCM and iv_path is None:
        raise UsageError("the HSM makes the IV of mechanism 10: -iv_file names a file for it")
    if iv_path is not None and Path(iv_path).exists():
        raise RefusedError("file-exists", f"{iv_path} exists already; it is left as it is")
    if given.has("-i"):
        raise UsageError("an HSM makes the IV itself; -i is for unWrapKey")
    asked = {
        **_cipher(given, scheme),
        "--payload-filter": by_handle(given.text("-k")).list("--filter"),
        "--wrapping-filter": by_handle(given.text("-w")).list("--filter"),
        "--path": path,
    }
    shown = wrapping.wrap(tool.console, modern(asked, str(scheme)))
    assert isinstance(shown, dict)  # noqa: S101  # that is its form
    if iv_path is not None and "iv" in shown:
        files.write_new(Path(iv_path), bytes.fromhex(shown["iv"].removeprefix("0x")))
    length = Path(path).stat().st_size
    return ["Key Wrapped.", "", f'Wrapped Key written to file "{path}" length {length}']


def unwrap(tool: Tool, given: Given) -> list[str]:
    """Make a key of a wrapped one."""
    scheme = _scheme(given)
    wanted = key_type(given.maybe("-kt") or "31")
    is_private = wanted in {"rsa", "ec"}
    if (text := given.maybe("-kc")) is not None:
        named = numbers.chosen(numbers.CLASSES, text, "a class")
        if named != ("private-key" if is_private else "secret-key"):
            raise UsageError(f"-kt and -kc differ: a wrapped {wanted} key is no {named}")
    if is_private:
        stays = ("extractable=false",) if given.has("-nex") else ()
        attributes: tuple[str, ...] = ("sign=true", *id_attribute(given), *stays)
    else:
        attributes = secret_attributes(given, is_aes=wanted == "aes")
    asked = {
        **common(tool, given, "key"),
        **_cipher(given, scheme),
        "--filter": by_handle(given.text("-w")).list("--filter"),
        "--data-path": given.text("-f"),
        "--key-type-class": f"{wanted}-private" if is_private else wanted,
        "--label": given.text("-l"),
        "--attributes": attributes,
        "--iv": _iv(given, scheme),
    }
    shown = wrapping.unwrap(tool.console, modern(asked, str(scheme)))
    return [f"Key Unwrapped.  Key Handle: {made_handle(shown, 'key')}"]


def _scheme(given: Given) -> WrapScheme:
    return WrapScheme(numbers.chosen(numbers.WRAPS, given.text("-m"), "a wrapping mechanism"))


def _cipher(given: Given, scheme: WrapScheme) -> dict[str, str | None]:
    asked: dict[str, str | None] = {}
    if scheme in _HASHED:
        name = numbers.chosen(numbers.HASHES, given.maybe("-t") or "3", "a hash")
        asked = {"--hash-function": str(name), "--mgf": f"mgf1-{name}"}
    if scheme in _GCM:
        bits = given.number("-tag_size", _GCM_TAG_BYTES) * 8
        path = given.maybe("-aad")
        asked["--tag-length-bits"] = str(bits)
        asked["--aad"] = None if path is None else files.read(Path(path)).hex()
    return asked


def _iv(given: Given, scheme: WrapScheme) -> str | None:
    if scheme is not WrapScheme.AES_GCM:
        return None
    if (text := given.maybe("-i")) is not None:
        return text
    path = given.maybe("-iv_file")
    return None if path is None else files.read(Path(path)).hex()
