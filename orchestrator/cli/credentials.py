"""Who acts, and new passwords: from the environment, a file, stdin or a prompt, never argv."""

from __future__ import annotations

import getpass
import os
import stat
import sys
from collections.abc import MutableMapping
from dataclasses import dataclass
from pathlib import Path

from orchestrator.cli.errors import CancelledError, LoginNeededError
from orchestrator.model.errors import RefusedError, UsageError
from orchestrator.model.roles import LOGIN_ROLES, Role, check_password, parse_user_name

_FILE_BYTES_MAX = 4096


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Login:
    """A user and a password; prints as a bare object."""

    role: Role
    name: str
    password: bytes


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class GivenLogin:
    """What the environment said about who acts; each part may be missing."""

    role: str | None = None
    pin: str | None = None


def take_from_environment(environ: MutableMapping[str, str], prefix: str = "") -> GivenLogin:
    """Remove CLOUDHSM_ROLE and CLOUDHSM_PIN, so that no child process inherits them."""
    names = (f"{prefix}CLOUDHSM_ROLE", f"{prefix}CLOUDHSM_PIN")
    role, pin = (environ.pop(name, None) for name in names)
    return GivenLogin(role, pin)


def is_interactive() -> bool:
    """Tell whether there is a person to ask: prompts go to stderr, answers come from stdin."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def find_login(given: GivenLogin, pin_file: Path | None, natural: Role | None) -> Login:
    """Return who acts.

    Args:
        given: from the environment.
        pin_file: holds `user:password`; wins over the environment.
        natural: the role that the command is for, when none is named.

    Raises:
        LoginNeededError: nothing says who acts, and there is no terminal.
    """
    role = _parse_role(given.role) if given.role is not None else None
    pin = _read_pin_file(pin_file) if pin_file else given.pin
    if pin is not None:
        if (role := role or natural) is None:
            raise LoginNeededError("set CLOUDHSM_ROLE to admin or crypto-user")
        return _split(role, pin)
    if not is_interactive():
        raise LoginNeededError(
            "this command needs a login: set CLOUDHSM_ROLE (admin or crypto-user) and "
            "CLOUDHSM_PIN (user:password), or give --pin-file"
        )
    if role is None:
        role = _parse_role(ask("Role (admin, crypto-user)", natural or Role.CRYPTO_USER))
    name = ask("User name", "admin" if role is Role.ADMIN else "")
    return Login(role, parse_user_name(name), _ask_secret(f"Password of {name}: ").encode())


def new_password(whose: str, *, from_stdin: bool) -> bytes:
    """Read a new password: one line of stdin, or typed twice without echo."""
    if from_stdin:
        line = sys.stdin.buffer.readline(_FILE_BYTES_MAX)
        return check_password(line.removesuffix(b"\n").removesuffix(b"\r"))
    if not is_interactive():
        raise LoginNeededError(
            f"the new password of {whose} is needed: give --password-stdin and one line on stdin"
        )
    return typed_twice(f"New password of {whose}: ", "The same again: ")


def typed_twice(prompt: str, again: str) -> bytes:
    """Return a new password that was typed twice, without echo."""
    first = _ask_secret(prompt)
    check_password(first.encode())
    if _ask_secret(again) != first:
        raise UsageError("the two passwords differ; nothing was changed")
    return first.encode()


def ask(question: str, default: str = "") -> str:
    """Ask on the terminal, on stderr: stdout is for results."""
    hint = f" [{default}]" if default else ""
    sys.stderr.write(f"{question}{hint}: ")
    sys.stderr.flush()
    try:
        line = sys.stdin.readline()
        line.encode()
    except UnicodeError:
        raise UsageError("the answer is not UTF-8 text; nothing was done") from None
    if not line:
        raise CancelledError("input ended; nothing was done")
    return line.strip() or default


def ask_hidden(question: str) -> str:
    """Ask without echo."""
    return _ask_secret(f"{question}: ")


def _ask_secret(prompt: str) -> str:
    try:
        typed = getpass.getpass(prompt)
        typed.encode()
    except EOFError as exc:
        raise CancelledError("input ended; nothing was done") from exc
    except UnicodeError:  # the cause quotes what was typed
        raise UsageError("what was typed is not UTF-8 text; nothing was done") from None
    return typed


def _parse_role(text: str) -> Role:
    if text not in LOGIN_ROLES:
        raise UsageError("CLOUDHSM_ROLE is admin or crypto-user")
    return Role(text)


def _split(role: Role, pin: str) -> Login:
    name, colon, password = pin.partition(":")  # a password may hold colons, a name cannot
    if not colon:
        raise LoginNeededError("CLOUDHSM_PIN and PIN files have the form user:password")
    return Login(role, parse_user_name(name), password.encode(errors="surrogateescape"))


def _read_pin_file(path: Path) -> str:
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise UsageError(f"{path} is not a regular file")
            if status.st_uid != os.geteuid() or status.st_mode & 0o077:
                raise RefusedError(
                    "pin-file-open", f"{path} must be yours alone: chown and chmod 600 it"
                )
            text = file.read(_FILE_BYTES_MAX).decode()
    except OSError as exc:
        raise UsageError(f"cannot read {path}: {exc.strerror}") from exc
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not UTF-8 text") from None  # the cause quotes the bytes
    pin = text.removesuffix("\n").removesuffix("\r")
    if "\n" in pin:
        raise UsageError(f"{path} must hold one line, user:password")
    return pin
