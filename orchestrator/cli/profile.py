"""`cloister profile`: types of HSM."""

from __future__ import annotations

from orchestrator.cli.command import command, group
from orchestrator.cli.invocation import Invocation

app = group("profile", "Firmware profiles: which types of HSM there are.")

_COLUMNS = ("hsm_type", "backend", "modes", "max_keys", "max_users", "max_hsms", "deprecated")


@command(app, "list")
def list_(call: Invocation) -> None:
    """List firmware profiles, and what HSMs of each can do."""
    profiles = [
        {
            "hsm_type": profile.name,
            "backend": profile.backend,
            "firmware_version": profile.firmware_version,
            "modes": profile.modes,
            "max_keys": profile.max_keys,
            "max_asymmetric_keys": profile.max_asymmetric_keys,
            "max_users": profile.max_users,
            "max_hsms": profile.max_hsms,
            "max_objects": profile.max_objects,
            "mechanisms": profile.mechanisms,
            "curves": profile.curves,
            "price_per_hour": str(profile.price_per_hour),
            "deprecated": profile.deprecated,
        }
        for profile in call.services.profiles().values()
    ]
    call.show({"profiles": profiles}, columns=_COLUMNS)
