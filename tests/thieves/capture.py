"""What left the processes of a run, as the kernel saw it: files written, messages, arguments.

`strace` follows every process and thread from the first one on. Each writes to a trace of its
own, so that no call is cut in two. What was written and is gone again is in it too.
"""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path
from typing import Final

_CALLS: Final = "execve,write,pwrite64,writev,pwritev,pwritev2,sendto,sendmsg,sendmmsg"
_BYTES_MAX: Final = 2_000_000
_CALL: Final = re.compile(r"^(?P<name>\w+)\((?:\d+<(?P<file>[^>]*)>)?(?P<rest>.*)")
_STRING: Final = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')


def command(directory: Path, argv: list[str]) -> list[str]:
    """Return the command line that runs `argv` and records into `directory`."""
    return [
        "strace", "-ff", "--seccomp-bpf", "-qq", "-y", "-xx", "-v", "-s", str(_BYTES_MAX),
        "-e", "signal=none", "-e", f"trace={_CALLS}", "-o", str(directory / "trace"), *argv,
    ]  # fmt: skip


def read(directory: Path) -> dict[str, bytes]:
    """Return what was sent, written and executed: by thread and file, in order.

    Bytes that one thread put into one file or socket one after the other are joined, so that a
    secret written in pieces is whole here.
    """
    found: dict[str, bytearray] = defaultdict(bytearray)
    for path in directory.glob("trace.*"):
        for line in path.read_text(encoding="ascii").splitlines():
            call = _CALL.match(line)
            if call is None:
                continue  # a thread's end
            assert '"...' not in line, f"a call was recorded in part: {line[:80]}"
            pieces = [bytes.fromhex(s.replace("\\x", "")) for s in _STRING.findall(call["rest"])]
            if call["name"] == "execve":
                found[f"argv and environ of {path.suffix[1:]}"] += b"\0".join(pieces) + b"\0"
            else:
                kind = "sent to" if call["name"].startswith("send") else "written to"
                found[f"{kind} {_name(call['file'] or '?')} by {path.suffix[1:]}"] += b"".join(
                    pieces
                )
    return {place: bytes(content) for place, content in found.items()}


def _name(file: str) -> str:
    """Newer strace escapes names too."""
    return bytes.fromhex(file.replace("\\x", "")).decode() if file.startswith("\\x") else file
