"""A missing tool skips locally and fails where it is required (`--require=softhsm`)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

MODULES: Final = (
    Path("/usr/lib/softhsm/libsofthsm2.so"),
    Path("/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so"),
    Path("/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so"),
)
PRESENT: Final[dict[str, Callable[[], bool]]] = {
    "softhsm": lambda: any(path.exists() for path in MODULES)
}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--require`."""
    parser.addoption(
        "--require", default="", help="comma-separated tools whose absence fails: softhsm"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip tests whose tool is missing, or end the run when the tool is required."""
    required = set(filter(None, config.getoption("--require").split(",")))
    if unknown := required - PRESENT.keys():
        raise pytest.UsageError(f"--require: no such tool {', '.join(sorted(unknown))}")
    for tool, is_present in PRESENT.items():
        if is_present():
            continue
        if tool in required:
            raise pytest.UsageError(f"{tool} is required and missing")
        for item in items:
            if item.get_closest_marker(tool):
                item.add_marker(pytest.mark.skip(reason=f"{tool} is missing"))
