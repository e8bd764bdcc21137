"""The cluster as a PKCS#11 token: what is known of it before an application comes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from orchestrator.client.balancer import Source
from orchestrator.control.application import Application
from orchestrator.gateway import cryptoki as ck
from orchestrator.gateway.cryptoki import CKM
from orchestrator.gateway.rpc.mechanisms import is_known_to
from orchestrator.model.fips import FIPS
from orchestrator.model.key_spec import HashFunction
from orchestrator.model.profile import Backend, FirmwareProfile, Mechanism

_PAIR: Final = ck.CKF_HW | ck.CKF_GENERATE_KEY_PAIR
_MAKE: Final = ck.CKF_HW | ck.CKF_GENERATE
_SIGN: Final = ck.CKF_HW | ck.CKF_SIGN | ck.CKF_VERIFY
_CIPHER: Final = ck.CKF_HW | ck.CKF_ENCRYPT | ck.CKF_DECRYPT
_WRAP: Final = ck.CKF_HW | ck.CKF_WRAP | ck.CKF_UNWRAP
_CURVES: Final = ck.CKF_EC_F_P | ck.CKF_EC_NAMEDCURVE | ck.CKF_EC_UNCOMPRESS
_RSA, _EC, _AES, _SECRET = (2048, 4096), (256, 521), (16, 32), (1, 800)
DIGESTS: Final = (CKM.SHA_1, CKM.SHA224, CKM.SHA256, CKM.SHA384, CKM.SHA512)

Info = tuple[int, int, int]
"""Of C_GetMechanismInfo: smallest key, largest key, flags."""

_RSA_PKCS: Final[dict[int, Info]] = {CKM.RSA_PKCS: (*_RSA, _SIGN | _CIPHER | _WRAP)}


def _macs(whole: CKM, cut: CKM, key_bytes: tuple[int, int] = _SECRET) -> Mapping[int, Info]:
    return dict.fromkeys((whole, cut), (*key_bytes, _SIGN))


_OFFERED: Final[Mapping[Mechanism, Mapping[int, Info]]] = {
    Mechanism.RSA_PKCS_KEY_PAIR_GEN: {CKM.RSA_PKCS_KEY_PAIR_GEN: (*_RSA, _PAIR)},
    Mechanism.RSA_PKCS: _RSA_PKCS | dict[int, Info].fromkeys(
        (
            CKM.SHA1_RSA_PKCS, CKM.SHA224_RSA_PKCS, CKM.SHA256_RSA_PKCS,
            CKM.SHA384_RSA_PKCS, CKM.SHA512_RSA_PKCS,
        ),
        (*_RSA, _SIGN),
    ),
    Mechanism.RSA_PKCS_PSS: dict.fromkeys(
        (
            CKM.RSA_PKCS_PSS, CKM.SHA1_RSA_PKCS_PSS, CKM.SHA224_RSA_PKCS_PSS,
            CKM.SHA256_RSA_PKCS_PSS, CKM.SHA384_RSA_PKCS_PSS, CKM.SHA512_RSA_PKCS_PSS,
        ),
        (*_RSA, _SIGN),
    ),
    Mechanism.RSA_PKCS_OAEP: {CKM.RSA_PKCS_OAEP: (*_RSA, _CIPHER | _WRAP)},
    Mechanism.EC_KEY_PAIR_GEN: {CKM.EC_KEY_PAIR_GEN: (*_EC, _PAIR | _CURVES)},
    Mechanism.ECDSA: dict.fromkeys(
        (
            CKM.ECDSA, CKM.ECDSA_SHA1, CKM.ECDSA_SHA224, CKM.ECDSA_SHA256, CKM.ECDSA_SHA384,
            CKM.ECDSA_SHA512,
        ),
        (*_EC, _SIGN | _CURVES),
    ),
    Mechanism.ECDH1_DERIVE: {CKM.ECDH1_DERIVE: (*_EC, ck.CKF_HW | ck.CKF_DERIVE | _CURVES)},
    Mechanism.AES_KEY_GEN: {CKM.AES_KEY_GEN: (*_AES, _MAKE)},
    Mechanism.AES_ECB: {CKM.AES_ECB: (*_AES, _CIPHER)},
    Mechanism.AES_CBC: {CKM.AES_CBC: (*_AES, _CIPHER)},
    Mechanism.AES_CBC_PAD: {CKM.AES_CBC_PAD: (*_AES, _CIPHER)},
    Mechanism.AES_CTR: {CKM.AES_CTR: (*_AES, _CIPHER)},
    Mechanism.AES_GCM: {CKM.AES_GCM: (*_AES, _CIPHER)},
    Mechanism.AES_CMAC: _macs(CKM.AES_CMAC, CKM.AES_CMAC_GENERAL, _AES),
    Mechanism.GENERIC_SECRET_KEY_GEN: {CKM.GENERIC_SECRET_KEY_GEN: (*_SECRET, _MAKE)},
    Mechanism.SHA1_HMAC: _macs(CKM.SHA_1_HMAC, CKM.SHA_1_HMAC_GENERAL),
    Mechanism.SHA224_HMAC: _macs(CKM.SHA224_HMAC, CKM.SHA224_HMAC_GENERAL),
    Mechanism.SHA256_HMAC: _macs(CKM.SHA256_HMAC, CKM.SHA256_HMAC_GENERAL),
    Mechanism.SHA384_HMAC: _macs(CKM.SHA384_HMAC, CKM.SHA384_HMAC_GENERAL),
    Mechanism.SHA512_HMAC: _macs(CKM.SHA512_HMAC, CKM.SHA512_HMAC_GENERAL),
}  # fmt: skip

_OAEP_HASHES: Final = {Backend.SOFTHSM2: frozenset({HashFunction.SHA1})}


@dataclass(frozen=True)
class Token:
    """One cluster. Made once by the listener; every worker inherits it.

    Attributes:
        cluster: id; also the token's label.
        anchor: the customer's trust anchor, PEM.
        source: tells which HSMs there are now.
        profile: what they can do.
        mode: of the cluster, FIPS or NON_FIPS.
        open_application: opens the way to changes, in a worker that needs it.
        patience_s: how long a request waits when every HSM is gone.
    """

    cluster: str
    anchor: bytes
    source: Source
    profile: FirmwareProfile
    mode: str
    open_application: Callable[[], Application]
    patience_s: float

    @cached_property
    def mechanisms(self) -> Mapping[int, Info]:
        """What this token offers, whatever the client knows of it."""
        found: dict[int, Info] = dict.fromkeys(DIGESTS, (0, 0, ck.CKF_DIGEST))
        for mechanism in self.profile.mechanisms:
            found.update(_OFFERED.get(mechanism, {}))
        if self.mode == FIPS and CKM.RSA_PKCS in found:
            found[CKM.RSA_PKCS] = (*_RSA, _SIGN)
        return found

    @property
    def oaep_hashes(self) -> frozenset[HashFunction]:
        """The hash functions of OAEP that this backend's tokens can decrypt with."""
        return _OAEP_HASHES[self.profile.backend]

    def mechanisms_for(self, offered: int) -> list[int]:
        """Return the mechanisms that a client of this dialect can use."""
        return sorted(number for number in self.mechanisms if is_known_to(number, offered))
