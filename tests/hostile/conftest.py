"""Commands run in process, as the CLI's own tests run them."""

from __future__ import annotations

from tests.cli.conftest import run, services

__all__ = ["run", "services"]
