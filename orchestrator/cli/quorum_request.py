"""From `user create --username bob …` to the change that a token shall be bound to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from orchestrator.cli import signing_input
from orchestrator.cli.options import DataType
from orchestrator.model import entries as e
from orchestrator.model.errors import UsageError
from orchestrator.model.key_filter import parse_reference
from orchestrator.model.key_spec import HashFunction, SignScheme
from orchestrator.model.roles import Role, parse_user_name
from orchestrator.model.services import Service
from orchestrator.model.state import User

if TYPE_CHECKING:
    from orchestrator.control.changes import Changes


@dataclass(frozen=True, slots=True)
class _Given:
    """The words after an operation's name: options, flags and at most one argument."""

    options: Mapping[str, str]
    argument: str

    def text(self, name: str) -> str:
        if name not in self.options:
            raise UsageError(f"the operation needs --{name}")
        return self.options[name]

    def user(self, name: str = "username") -> str:
        return parse_user_name(self.text(name))

    def role(self) -> Role:
        try:
            return Role(self.text("role"))
        except ValueError as exc:
            raise UsageError("--role is admin or crypto-user") from exc

    def number(self, name: str) -> int:
        try:
            return int(self.text(name))
        except ValueError as exc:
            raise UsageError(f"--{name} is a number") from exc

    def flag(self, name: str) -> bool:
        return name in self.options

    def what(self, name: str) -> str:
        if not self.argument:
            raise UsageError(f"the operation needs {name}")
        return self.argument


Build = Callable[["Changes", _Given], e.Change]


def _value(changes: Changes, given: _Given) -> e.Change:
    try:
        service = Service(given.text("service"))
    except ValueError as exc:
        raise UsageError(f"there is no service {given.text('service')}") from exc
    return e.QuorumValueSet(changes.quorum.actor, service, given.number("value"))


def _password(changes: Changes, given: _Given) -> e.Change:
    flags = (given.flag("deregister-mfa"), given.flag("deregister-quorum"))
    return e.PasswordChanged(changes.quorum.actor, given.user(), given.role(), "", *flags)


def _without_factor(changes: Changes, given: _Given) -> e.Change:
    return e.MfaChanged(
        changes.quorum.actor, given.user(), given.role(), "", b"", b"", b"",
        given.flag("change-quorum"),
    )  # fmt: skip


def _shares(changes: Changes, given: _Given) -> e.Change:
    threshold, shares = given.number("threshold"), given.number("shares")
    return e.RecoveryKeySet(changes.quorum.actor, b"", threshold, shares)


def _admission(changes: Changes, given: _Given) -> e.Change:
    host = given.what("HOST")
    return e.HostAdmitted(changes.quorum.actor, host, changes.host_key(host))


def _replica(changes: Changes, given: _Given) -> e.Change:
    user = e.encode(User(given.user(), given.role(), "", 0))
    replica = e.Replica(given.text("source-cluster-id"), "", "", "", 0, user=user)
    signed = e.SignedReplica(e.encode(replica), b"", e.Credential(b"", b""))
    return e.Replicated(changes.quorum.actor, signed)


def _deletion(changes: Changes, given: _Given) -> e.Change:
    heir = given.user("transfer-to") if given.flag("transfer-to") else ""
    return e.UserDeleted(changes.quorum.actor, given.user(), given.role(), heir)


def _signing(changes: Changes, given: _Given) -> e.Change:
    scheme, hash_function = given.what("SCHEME"), given.text("hash-function")
    try:
        chosen, hashed = SignScheme(scheme), HashFunction(hash_function)
    except ValueError as exc:
        raise UsageError(f"nothing is signed by {scheme} with {hash_function}") from exc
    salt = given.number("salt-length") if given.flag("salt-length") else None
    mechanism = signing_input.mechanism(chosen, hashed, given.options.get("mgf"), salt)
    path, kind = given.options.get("data-path"), given.options.get("data-type")
    digest = signing_input.digest(
        hashed,
        given.options.get("data"),
        Path(path) if path is not None else None,
        is_digest=kind == DataType.DIGEST,
    )
    ref = parse_reference(given.text("key-reference"))
    return changes.quorum.use_draft("sign", ref, mechanism, digest)


OPERATIONS: Final[Mapping[str, Build]] = {
    "user create": lambda c, g: e.UserCreated(c.quorum.actor, g.user(), g.role(), ""),
    "user delete": _deletion,
    "user change-password": _password,
    "user change-mfa": _without_factor,
    "user unlock": lambda c, g: e.UserUnlocked(c.quorum.actor, g.user(), g.role()),
    "user disable": lambda c, g: e.UserDisabled(c.quorum.actor, g.user(), g.role()),
    "user enable": lambda c, g: e.UserEnabled(c.quorum.actor, g.user(), g.role()),
    "user transfer-keys": lambda c, g: e.KeysTransferred(c.quorum.actor, g.user(), g.user("to")),
    "user replicate": _replica,
    "quorum set-value": _value,
    "host admit": _admission,
    "host expel": lambda c, g: e.HostExpelled(c.quorum.actor, g.what("HOST")),
    "recovery create-shares": _shares,
    "key delete": lambda c, g: e.KeyDeleted(
        c.quorum.actor, parse_reference(g.text("key-reference"))
    ),
    "key share": lambda c, g: e.KeyShared(
        c.quorum.actor, parse_reference(g.text("key-reference")), g.user()
    ),
    "key unshare": lambda c, g: e.KeyUnshared(
        c.quorum.actor, parse_reference(g.text("key-reference")), g.user()
    ),
    "key set-attribute": lambda c, g: e.KeyChanged(
        c.quorum.actor, parse_reference(g.text("key-reference")), g.text("name"), g.text("value")
    ),
    "crypto sign": _signing,
    "hsm delete": lambda _, g: e.HsmRemoved(
        g.what("HSM"), e.Rekey(0, ()), compromised=g.flag("compromised")
    ),
    "cluster delete": lambda _c, _g: e.ClusterClosed(),
}
_FLAGS: Final = frozenset({"deregister-mfa", "deregister-quorum", "change-quorum", "compromised",
                           "deregister"})  # fmt: skip


def draft(changes: Changes, words: Sequence[str]) -> e.Change:
    """Return the change that `words` describe.

    Raises:
        UsageError: it is no operation that a quorum guards, or an argument is missing.
    """
    name = " ".join(words[:2])
    build = OPERATIONS.get(name)
    if build is None:
        known = ", ".join(OPERATIONS)
        raise UsageError(f"`{name}` is no operation that tokens are bound to; there are {known}")
    return build(changes, _parse(words[2:]))


def _parse(words: Sequence[str]) -> _Given:
    options: dict[str, str] = {}
    argument, rest = "", list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            if argument:
                raise UsageError(f"{word!r} is one argument too many")
            argument = word
            continue
        name, equals, value = word.removeprefix("--").partition("=")
        if name not in _FLAGS and not equals:
            if not rest:
                raise UsageError(f"--{name} needs a value")
            value = rest.pop(0)
        if name in options:
            raise UsageError(f"--{name} is given twice")
        options[name] = value
    return _Given(options, argument)
