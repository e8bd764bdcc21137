"""Firmware profiles: what a type of HSM can do, and how much of it. Data in, value out; no I/O."""

from __future__ import annotations

import difflib
import tomllib
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Final, assert_never

import msgspec

from orchestrator.model.errors import MechanismUnavailableError, OrchestratorError
from orchestrator.model.key_spec import (
    CipherScheme,
    Curve,
    KeySpec,
    KeyType,
    MacMechanism,
    SignScheme,
)
from orchestrator.model.wrap_mechanism import WrapScheme

MODES: Final = frozenset({"FIPS", "NON_FIPS"})
_Count = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
_Name = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9.-]{0,62}$")]
_Text = Annotated[str, msgspec.Meta(max_length=200)]


class Mechanism(StrEnum):
    """Mechanisms that a profile may name, as PKCS#11 2.40 spells them."""

    AES_KEY_GEN = "CKM_AES_KEY_GEN"
    AES_ECB = "CKM_AES_ECB"
    AES_GCM = "CKM_AES_GCM"
    AES_CBC = "CKM_AES_CBC"
    AES_CBC_PAD = "CKM_AES_CBC_PAD"
    AES_CTR = "CKM_AES_CTR"
    AES_CMAC = "CKM_AES_CMAC"
    GENERIC_SECRET_KEY_GEN = "CKM_GENERIC_SECRET_KEY_GEN"  # noqa: S105  # a mechanism, no secret
    SHA1_HMAC = "CKM_SHA_1_HMAC"
    SHA224_HMAC = "CKM_SHA224_HMAC"
    SHA256_HMAC = "CKM_SHA256_HMAC"
    SHA384_HMAC = "CKM_SHA384_HMAC"
    SHA512_HMAC = "CKM_SHA512_HMAC"
    RSA_PKCS_KEY_PAIR_GEN = "CKM_RSA_PKCS_KEY_PAIR_GEN"
    RSA_PKCS = "CKM_RSA_PKCS"
    RSA_PKCS_PSS = "CKM_RSA_PKCS_PSS"
    RSA_PKCS_OAEP = "CKM_RSA_PKCS_OAEP"
    EC_KEY_PAIR_GEN = "CKM_EC_KEY_PAIR_GEN"
    ECDSA = "CKM_ECDSA"
    ECDH1_DERIVE = "CKM_ECDH1_DERIVE"
    AES_KEY_WRAP = "CKM_AES_KEY_WRAP"
    AES_KEY_WRAP_PAD = "CKM_AES_KEY_WRAP_PAD"
    RSA_AES_KEY_WRAP = "CKM_RSA_AES_KEY_WRAP"


SIGN_MECHANISMS: Final = {
    SignScheme.RSA_PKCS: Mechanism.RSA_PKCS,
    SignScheme.RSA_PSS: Mechanism.RSA_PKCS_PSS,
    SignScheme.ECDSA: Mechanism.ECDSA,
}
CIPHER_MECHANISMS: Final = {
    CipherScheme.AES_ECB: Mechanism.AES_ECB,
    CipherScheme.AES_GCM: Mechanism.AES_GCM,
    CipherScheme.AES_CBC: Mechanism.AES_CBC,
    CipherScheme.AES_CBC_PAD: Mechanism.AES_CBC_PAD,
    CipherScheme.AES_CTR: Mechanism.AES_CTR,
    CipherScheme.RSA_OAEP: Mechanism.RSA_PKCS_OAEP,
    CipherScheme.RSA_PKCS: Mechanism.RSA_PKCS,
}
MAC_MECHANISMS: Final = {
    MacMechanism.AES_CMAC: Mechanism.AES_CMAC,
    MacMechanism.HMAC_SHA1: Mechanism.SHA1_HMAC,
    MacMechanism.HMAC_SHA224: Mechanism.SHA224_HMAC,
    MacMechanism.HMAC_SHA256: Mechanism.SHA256_HMAC,
    MacMechanism.HMAC_SHA384: Mechanism.SHA384_HMAC,
    MacMechanism.HMAC_SHA512: Mechanism.SHA512_HMAC,
}


WRAP_MECHANISMS: Final = {
    WrapScheme.AES_NO_PAD: (Mechanism.AES_KEY_WRAP,),
    WrapScheme.AES_ZERO_PAD: (Mechanism.AES_KEY_WRAP_PAD,),
    WrapScheme.RSA_OAEP: (Mechanism.RSA_PKCS_OAEP,),
    WrapScheme.RSA_PKCS: (Mechanism.RSA_PKCS,),
    WrapScheme.RSA_AES: (
        Mechanism.RSA_AES_KEY_WRAP,
        Mechanism.RSA_PKCS_OAEP,
        Mechanism.AES_KEY_WRAP_PAD,
    ),
}
"""What a token needs for each; the schemes that are not here are of no token's yet."""
COMPOSED: Final = frozenset({Mechanism.RSA_AES_KEY_WRAP})
"""Mechanisms that a store makes of others, inside the token."""


class Backend(StrEnum):
    """The kinds of token there is a store for. A cluster's HSMs are all of one."""

    SOFTHSM2 = "softhsm2"


class Cloning(StrEnum):
    """How the masking key moves to another token."""

    ECDH_P384_KWP = "ecdh-p384-kwp"


class ProfileError(OrchestratorError):
    """A profile file is wrong: the message names file, key and remedy."""

    code, exit_status = "profile", 2

    def __init__(self, source: str, key: str, problem: str) -> None:
        super().__init__(f"firmware profile {source}, key {key}: {problem}")
        self.source, self.key = source, key


class FirmwareProfile(msgspec.Struct, frozen=True, kw_only=True):
    """One type of HSM. Limits are per cluster.

    `modules` are tried in order, the first file that exists is loaded. `deprecated` says why no new
    cluster should be of this type, and is empty otherwise. `price_per_hour` (USD, of one HSM) is
    what the original costs, for comparison.
    """

    name: _Name
    backend: Backend
    cloning: Cloning
    modules: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    firmware_version: _Text
    modes: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    max_keys: _Count
    max_asymmetric_keys: _Count
    max_users: _Count
    max_hsms: _Count
    mechanisms: Annotated[tuple[Mechanism, ...], msgspec.Meta(min_length=1)]
    curves: tuple[Curve, ...]
    price_per_hour: Decimal = Decimal(0)
    deprecated: _Text = ""
    max_objects: _Count = 1024

    @classmethod
    def parse(cls, text: str, source: str) -> FirmwareProfile:
        """Parse a profile's TOML; `source` is how errors name the file.

        Raises:
            ProfileError: it is no TOML, or a key is unknown, missing or out of its range.
        """
        try:
            keys = tomllib.loads(text)
        except (ValueError, RecursionError) as exc:  # TOMLDecodeError, and what it leaves out
            raise ProfileError(source, "(none)", f"not TOML: {exc}; correct the syntax") from exc
        known = {field.name: field for field in msgspec.structs.fields(cls)}
        for key in sorted(keys.keys() - known):
            near = difflib.get_close_matches(key, known, 1)
            hint = f"did you mean {near[0]}?" if near else "known are " + ", ".join(known)
            raise ProfileError(source, key, f"there is no such key; remove it ({hint})")
        for key, field in known.items():
            if field.required and key not in keys:
                raise ProfileError(source, key, "it is missing; add it")
        try:
            profile = msgspec.convert(keys, cls)
        except msgspec.ValidationError as exc:
            problem, _, path = str(exc).partition(" - at `$.")
            key = path.rstrip("`").partition("[")[0] or "(none)"
            raise ProfileError(source, key, f"{problem}; {_remedy(key)}") from exc
        profile.check(source)
        return profile

    def check(self, source: str) -> None:
        """Raise ProfileError for values that do not fit together."""
        if unknown := sorted(set(self.modes) - MODES):
            raise ProfileError(source, "modes", f"no such mode {unknown[0]}; {_remedy('modes')}")
        if self.max_asymmetric_keys > self.max_keys:
            raise ProfileError(source, "max_asymmetric_keys", "above max_keys; lower it")
        if not self.price_per_hour.is_finite() or self.price_per_hour < 0:
            raise ProfileError(source, "price_per_hour", 'no price; write it as "1.50"')
        if relative := [module for module in self.modules if not module.startswith("/")]:
            raise ProfileError(source, "modules", f"{relative[0]} is relative; write a full path")

    def require(self, mechanism: Mechanism) -> None:
        """Raise MechanismUnavailableError unless this profile has `mechanism`."""
        if mechanism not in self.mechanisms:
            raise MechanismUnavailableError(self.name, mechanism)

    def require_spec(self, spec: KeySpec) -> None:
        """Raise MechanismUnavailableError unless keys of `spec` exist on this profile."""
        self.require(generation_mechanism(spec))
        if spec.curve is not None and spec.curve not in self.curves:
            raise MechanismUnavailableError(
                self.name, f"{Mechanism.EC_KEY_PAIR_GEN} on {spec.curve}"
            )


def generation_mechanism(spec: KeySpec) -> Mechanism:
    """Return the mechanism that makes keys of `spec`."""
    match spec.type:
        case KeyType.AES:
            return Mechanism.AES_KEY_GEN
        case KeyType.GENERIC_SECRET:
            return Mechanism.GENERIC_SECRET_KEY_GEN
        case KeyType.RSA:
            return Mechanism.RSA_PKCS_KEY_PAIR_GEN
        case KeyType.EC:
            return Mechanism.EC_KEY_PAIR_GEN
        case _:
            assert_never(spec.type)


def _remedy(key: str) -> str:
    choices: dict[str, list[str]] = {
        "backend": list(Backend),
        "cloning": list(Cloning),
        "modes": sorted(MODES),
        "mechanisms": list(Mechanism),
        "curves": list(Curve),
    }
    return f"choose from {', '.join(choices[key])}" if key in choices else "correct the value"
