"""Files that people name: never taken in without bounds, and no key of theirs written over."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import pytest

from orchestrator.cli import files, render
from orchestrator.model.errors import RefusedError, UsageError
from orchestrator.wire.streams import listen


def test_a_device_without_an_end_is_not_read_for_ever() -> None:
    with pytest.raises(UsageError, match="exceeds"):
        files.read(Path("/dev/zero"))


def test_a_pipe_of_another_process_is_read(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.write(writer, b"token")
    os.close(writer)
    assert files.read(Path(f"/dev/fd/{reader}")) == b"token"
    os.close(reader)


def test_a_token_is_written_over_tokens_alone(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    for content in (b'{"version": 1}\n', b'{"version": 2}\n'):
        files.renew(path, content)
        assert path.read_bytes() == content
    for precious in (b"-----BEGIN PRIVATE KEY-----\n", b"\x30\x82"):
        path.write_bytes(precious)
        with pytest.raises(RefusedError, match="left as it is"):
            files.renew(path, b"{}")
        assert path.read_bytes() == precious
    with pytest.raises(RefusedError, match="left as it is"):
        files.renew(tmp_path, b"{}")
    path.unlink()
    path.symlink_to(tmp_path / "key")
    (tmp_path / "key").write_bytes(b"-----BEGIN")
    with pytest.raises(RefusedError, match="left as it is"):
        files.renew(path, b"{}")


def test_a_socket_takes_no_files_place(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_bytes(b"precious")
    with pytest.raises(OSError, match=r"exists|in use"):
        listen(path)
    assert path.read_bytes() == b"precious"
    path.unlink()
    for _ in range(2):
        listen(path).close()


def test_json_steers_no_terminal() -> None:
    out = io.StringIO()
    text = "\x9b31m \u202egnp.exe \x1b[2J ünïcödé 鍵 \U000e0041"
    render.write_json({"label": text}, out)
    shown = out.getvalue()
    assert all(c.isprintable() or c == "\n" for c in shown)
    assert "ünïcödé 鍵" in shown
    assert json.loads(shown) == {"label": text}
    line = io.StringIO()
    render.write_json_line({"label": text}, line)
    assert all(c.isprintable() or c == "\n" for c in line.getvalue())
