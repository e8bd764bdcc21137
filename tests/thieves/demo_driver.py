"""`python -m tests.thieves.demo_driver DIRECTORY`: the demo, watched after every step.

It says on standard output which step is done and waits for a line. What the client alone knows
(passwords and shares) it leaves in `known.json`, the one file that a search passes over.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from orchestrator.control.membership import Membership
from orchestrator.lab import demo, lab
from orchestrator.model.key_spec import KeyClass, KeySpec, KeyType
from orchestrator.wire.messages import KeyDraft
from tests.thieves.planted import plant


def say(step: str) -> None:
    """Tell the watcher and wait until it has looked."""
    sys.stdout.write(f"{step}\n")
    sys.stdout.flush()
    if not sys.stdin.readline():
        raise EOFError(step)


def main(directory: Path) -> None:
    """Run the demo in `directory`, and a removal that it lacks."""
    demo.PHASE_S = 0.3  # type: ignore[misc]

    def after(step: str) -> None:
        if step == "up":
            with plant(made.home):
                say("planted")
            for path in made.home.glob("lab/planted*"):
                path.unlink()
        if step == "keys":
            changes = made.plane.changes(made.cluster, made._sessions[1])
            draft = KeyDraft(KeyClass.SECRET, "generic")
            changes.generate_keys(KeySpec(KeyType.GENERIC_SECRET, 256), (draft,))
        if step == "back_up":
            known = {"passwords": {n: p.decode() for n, p in made.passwords.items()}}
            (directory / "known.json").write_text(json.dumps(known | {"shares": made.shares}))
            say("before removal")
            gone = made.plane.hsms(made.cluster)[-1].hsm_id
            Membership(made.plane).delete(made.cluster, gone, force=False, compromised=True)
        say(step)

    made = demo.Demo(directory / "home", lambda _: None, after)
    try:
        made.run()
    finally:
        made.close()
        lab.destroy(made.home, include_backups=True)
    say("end")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
