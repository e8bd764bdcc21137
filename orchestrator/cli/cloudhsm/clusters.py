"""`cluster`: activation, and what the HSMs are."""

from __future__ import annotations

from typing import Final

from orchestrator.cli.cloudhsm.console import Console, NotOfferedError
from orchestrator.cli.cloudhsm.syntax import Given

_FIPS_STATES: Final = {
    "FIPS": "2 [FIPS mode with single factor authentication]",
    "NON_FIPS": "0 [non-FIPS mode with single factor authentication]",
}


def activate(console: Console, given: Given) -> object:
    """Set the first password of `admin`."""
    cluster = console.cluster(given)
    console.plane.activate(cluster, console.new_password(given))
    return "Cluster activation successful"


def hsm_info(console: Console, given: Given) -> object:
    """List the HSMs that answer; the original shows an HSM's card, this its profile."""
    cluster = console.plane.cluster(console.cluster(given))
    profile = console.services.profiles()[cluster.hsm_type]
    major, _, minor = profile.firmware_version.partition(".")
    return {
        "hsms": [
            {
                "vendor": "Cloister",
                "model": cluster.hsm_type,
                "serial-number": hsm.hsm_id,
                "hardware-version-major": "0",
                "hardware-version-minor": "0",
                "firmware-version-major": major,
                "firmware-version-minor": minor or "0",
                "firmware-build-number": "0",
                "firmware-id": f"{profile.backend} {profile.firmware_version}",
                "fips-state": _FIPS_STATES[cluster.mode],
            }
            for hsm in cluster.hsms
            if hsm.seq is not None
        ]
    }


def mtls(_console: Console, _given: Given) -> object:
    """Say what is missing."""
    raise NotOfferedError(
        "mTLS is not offered: HSMs are reached over unix sockets and SSH, not over TLS, so there "
        "is no client certificate that a trust anchor could vouch for; who may connect is decided "
        "by the mode of the socket and by the SSH keys that are enrolled on the host"
    )
