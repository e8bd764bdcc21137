"""The way to a cluster's HSMs, and the public Python API.

    from orchestrator.client import connect

`connect` is looked up when it is first asked for, so that a program that only needs one module
of this room does not load them all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orchestrator.client.api import connect

__all__ = ["connect"]


def __getattr__(name: str) -> object:
    if name == "connect":
        from orchestrator.client.api import connect  # noqa: PLC0415  # on first use

        return connect
    raise AttributeError(name)
