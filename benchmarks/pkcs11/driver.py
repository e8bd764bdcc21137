"""Builds and runs `driver.c`."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path

SOURCE = Path(__file__).with_name("driver.c")


class Driver:
    """The compiled driver."""

    def __init__(self, directory: Path) -> None:
        self.program = directory / "driver"
        words = ["cc", "-O2", "-pthread", "-I/usr/include/p11-kit-1", "-o", str(self.program)]
        subprocess.run([*words, str(SOURCE)], check=True)  # noqa: S603  # our own program

    def make_keys(self, module: Path, env: Mapping[str, str]) -> None:
        """Make the key pairs `rsa` and `p256` in the token."""
        words = [str(self.program), str(module), "make"]
        subprocess.run(words, env=env, check=True, timeout=60)  # noqa: S603

    def start(
        self,
        module: Path,
        action: str,
        seconds: float,
        env: Mapping[str, str],
        *,
        processes: int = 1,
        threads: int = 1,
    ) -> subprocess.Popen[bytes]:
        """Begin to call the module; `read` has the figures."""
        words = [str(module), action, str(processes), str(threads), str(seconds)]
        return subprocess.Popen(  # noqa: S603
            [str(self.program), *words], env=env, stdout=subprocess.PIPE
        )

    @staticmethod
    def read(process: subprocess.Popen[bytes]) -> dict[str, float]:
        """Wait for the end; return ops per second, latencies in µs, failures."""
        out, _ = process.communicate(timeout=300)
        if process.returncode:
            raise RuntimeError(f"{process.args!r} ended with {process.returncode}")
        figures: dict[str, float] = json.loads(out)
        return figures
