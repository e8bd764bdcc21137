"""`key_mgmt_util`: keys that are made."""

from __future__ import annotations

from orchestrator.cli.cloudhsm import keys
from orchestrator.cli.cloudhsm.console import NotOfferedError
from orchestrator.cli.cloudhsm.syntax import Given
from orchestrator.cli.legacy import numbers
from orchestrator.cli.legacy.dialect import modern
from orchestrator.cli.legacy.kmu import key_type
from orchestrator.cli.legacy.tool import Tool
from orchestrator.model.errors import RefusedError, UsageError

Asked = dict[str, str | bool | tuple[str, ...]]


def symmetric(tool: Tool, given: Given) -> list[str]:
    """Make a symmetric key."""
    wanted = key_type(given.text("-t"))
    if wanted not in {"aes", "generic-secret"}:
        raise UsageError("a symmetric key has type 16 or 31")
    asked = common(tool, given, "key")
    asked["--label"], asked["--key-length-bytes"] = given.text("-l"), given.text("-s")
    asked["--attributes"] = secret_attributes(given, is_aes=wanted == "aes")
    make = keys.generate_aes if wanted == "aes" else keys.generate_secret
    shown = make(tool.console, modern(asked))
    return [f"Symmetric Key Created.  Key Handle: {made_handle(shown, 'key')}"]


def rsa(tool: Tool, given: Given) -> list[str]:
    """Make an RSA pair."""
    is_kek = given.has("-kek")
    asked = _pair(tool, given, ("wrap", "unwrap") if is_kek else ("verify", "sign"))
    asked["--modulus-size-bits"], asked["--public-exponent"] = given.text("-m"), given.text("-e")
    return _both(keys.generate_rsa(tool.console, modern(asked)))


def ec(tool: Tool, given: Given) -> list[str]:
    """Make an EC pair."""
    asked = _pair(tool, given, ("verify", "sign"))
    asked["--curve"] = numbers.chosen(numbers.CURVES, given.text("-i"), "a curve")
    return _both(keys.generate_ec(tool.console, modern(asked)))


def _pair(tool: Tool, given: Given, uses: tuple[str, str]) -> Asked:
    asked = common(tool, given, "private-key")
    asked["--public-label"] = asked["--private-label"] = given.text("-l")
    key_id = id_attribute(given)
    stays = ("extractable=false",) if given.has("-nex") else ()
    asked["--public-attributes"] = (f"{uses[0]}=true", *key_id)
    asked["--private-attributes"] = (f"{uses[1]}=true", *key_id, *stays)
    return asked


def common(tool: Tool, given: Given, which: str) -> Asked:
    """Return what all ways to make a key take, and refuse what none can do."""
    if given.has("-attest"):
        raise NotOfferedError("-attest is not offered: no token here attests what it has made")
    up = sum(server.is_up for server in tool.servers())
    if up < given.number("-min_srv"):
        raise RefusedError(
            "too-few-hsms", f"{up} HSMs are up, fewer than -min_srv; no key was made"
        )
    quorum = str(given.number("-m_value"))
    return {
        "--session": given.has("-sess"),
        "--share-crypto-users": tool.user_names(given.maybe("-u")),
        f"--manage-{which}-quorum-value": quorum,
        f"--use-{which}-quorum-value": quorum,
    }


def secret_attributes(given: Given, *, is_aes: bool) -> tuple[str, ...]:
    """Return the attributes of a secret key: to encrypt and decrypt, or to wrap and unwrap."""
    if given.has("-kek"):
        uses: tuple[str, ...] = ("wrap=true", "unwrap=true", "sign=false", "verify=false")
    else:
        uses = ("encrypt=true", "decrypt=true") if is_aes else ()
    stays = ("extractable=false",) if given.has("-nex") else ()
    return (*uses, *id_attribute(given), *stays)


def id_attribute(given: Given) -> tuple[str, ...]:
    """Return -id as an attribute."""
    text = given.maybe("-id")
    return () if text is None else (f"id=0x{numbers.key_id(text)}",)


def made_handle(shown: object, which: str) -> int:
    """Return the handle of a key in an answer of the CloudHSM CLI."""
    assert isinstance(shown, dict)  # noqa: S101  # that is its form
    return int(shown[which]["key-reference"], 16)


def _both(shown: object) -> list[str]:
    public, private = made_handle(shown, "public_key"), made_handle(shown, "private_key")
    return [f"Cfm3GenerateKeyPair:    public key handle: {public}    private key handle: {private}"]
