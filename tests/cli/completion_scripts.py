"""The shells' completion scripts, as a wheel carries them; run this to write `completion/` anew."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

DIRECTORY = Path(__file__).parents[2] / "completion"
SHELLS = ("bash", "zsh", "fish")
_ZSH_END = "compdef _cloister_completion cloister"
# The shell loads the file as the body of a function at the first Tab, which must complete already.
_ZSH_LOADED = f'[ "$funcstack[1]" = _cloister ] && _cloister_completion "$@" || {_ZSH_END}'


def script(shell: str) -> str:
    """Return what `_CLOISTER_COMPLETE=source_SHELL cloister` prints, fit to be loaded lazily."""
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator"],
        env={"PATH": os.environ["PATH"], "_CLOISTER_COMPLETE": f"source_{shell}"},
        check=True, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    text = done.stdout.strip() + "\n"
    if shell == "zsh":
        text = text.replace(_ZSH_END, _ZSH_LOADED)
    return text


if __name__ == "__main__":
    for name in SHELLS:
        (DIRECTORY / f"cloister.{name}").write_text(script(name))
