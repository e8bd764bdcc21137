"""A missing tool skips locally and fails where it is required (`--require=softhsm`)."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

MODULES: Final = (
    Path("/usr/lib/softhsm/libsofthsm2.so"),
    Path("/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so"),
    Path("/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so"),
)


def _installs(*programs: str) -> Callable[[], bool]:
    """Tell whether all these programs are there."""
    return lambda: all(shutil.which(program, path=PATH) for program in programs)


PATH: Final = f"/usr/sbin:/usr/bin:/sbin:/bin:{os.environ.get('PATH', '')}"
PRESENT: Final[dict[str, Callable[[], bool]]] = {
    "softhsm": lambda: any(path.exists() for path in MODULES),
    "p11kit": lambda: (
        any(Path("/usr/lib").glob("*-linux-gnu*/pkcs11/p11-kit-client.so"))
        and Path("/usr/libexec/p11-kit/p11-kit-server").exists()
    ),
    "engine": lambda: any(Path("/usr/lib").glob("*-linux-gnu*/engines-3/pkcs11.so")),
    "opensc": _installs("pkcs11-tool"),
    "nginx": _installs("nginx"),
    "apache": _installs("apache2"),
    "java": _installs("java", "javac", "keytool", "jarsigner"),
    "ssh": _installs("ssh", "sshd", "ssh-agent", "ssh-add", "ssh-keygen"),
    "gnutls": _installs("p11tool", "certtool"),
    "trixie": _installs("apt-get", "dpkg-deb"),
    "cc": lambda: _installs("cc")() and Path("/usr/include/p11-kit-1/p11-kit/pkcs11.h").exists(),
}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--require`."""
    parser.addoption(
        "--require",
        default="",
        help=f"comma-separated tools whose absence fails: {', '.join(PRESENT)}",
    )
    parser.addoption(
        "--interop",
        default="gateway",
        choices=("gateway", "stock"),
        help="what tests/interop run through: the gateway, or p11-kit's server to prove the tests",
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
