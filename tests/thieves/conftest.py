"""Labs that a file of tests shares: they start in two seconds, on real tokens."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from orchestrator.lab import demo, lab


@pytest.fixture(scope="module")
def active(tmp_path_factory: pytest.TempPathFactory) -> Iterator[demo.Demo]:
    """An active cluster of three HSMs on three admitted hosts, with users and keys."""
    home = tmp_path_factory.mktemp("thieves") / "home"
    made = demo.Demo(home, lambda _: None, lambda _: None)
    try:
        for step in (made.up, made.create, made.ceremony, made.join, made.users, made.keys):
            step()
        yield made
    finally:
        made.close()
        lab.destroy(made.home, include_backups=True)
