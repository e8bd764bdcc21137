"""Role, command and login state, over a real HSM: who may do what, in both modes.

The expectations are typed from CloudHSM's user permission table and the command reference's
"user type" lines, not from the tree. A command that may be run can still fail for other reasons;
one that may not says so before anything else is looked at, and nothing changes.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from orchestrator.cli.cloudhsm.main import main
from orchestrator.cli.cloudhsm.tree import TREE
from orchestrator.model.key_filter import KeyFilter
from orchestrator.model.key_spec import KeyClass, KeySpec, KeyType
from orchestrator.model.roles import Role
from orchestrator.wire.messages import KeyDraft
from tests.cli import scenarios
from tests.cli.cloudhsm.site import PASSWORDS, SiteServices, activate, clone, credentials
from tests.cli.cloudhsm.site import login_line as login_words
from tests.cli.cloudhsm.site import site as a_site
from tests.cli.cloudhsm.test_login_state import COMMANDS, minimal
from tests.cli.stand_ins import POSSESSION

pytestmark = [pytest.mark.softhsm, pytest.mark.timeout(300)]

ANYBODY: Final = {
    "cluster hsm-info", "login", "login mfa-token-sign", "quorum token-sign list-quorum-values",
    "user list", "interactive", "quorum token-sign list-timeouts",
}  # fmt: skip
ADMIN_ALONE: Final = {
    "quorum token-sign set-quorum-value", "quorum token-sign set-timeout",
    "user create", "user delete", "user replicate",
    "user change-password", "user change-mfa token-sign",  # another's
}  # fmt: skip
BOTH: Final = {
    "key list", "key replicate", "logout", "quorum token-sign generate", "quorum token-sign list",
    "user change-quorum token-sign register",
    "quorum token-sign delete",  # the original's admins alone; here everybody's own tokens
}  # fmt: skip
USER_ALONE: Final = {
    *(f"crypto {verb} {how}" for verb in ("sign", "verify")
      for how in ("ecdsa", "rsa-pkcs", "rsa-pkcs-pss")),
    *(f"key {verb} {how}" for verb in ("wrap", "unwrap")
      for how in ("aes-gcm", "aes-no-pad", "aes-pkcs5-pad", "aes-zero-pad", "cloudhsm-aes-gcm",
                  "rsa-aes", "rsa-oaep", "rsa-pkcs")),
    "key delete", "key generate-asymmetric-pair ec", "key generate-asymmetric-pair rsa",
    "key generate-file", "key generate-symmetric aes", "key generate-symmetric generic-secret",
    "key import pem", "key set-attribute", "key share", "key unshare",
}  # fmt: skip
MISSING: Final = {  # refused for everybody, by name
    *(f"cluster mtls {name}" for name in (
        "register-trust-anchor", "list-trust-anchors", "deregister-trust-anchor",
        "get-enforcement", "set-enforcement")),
    *(f"crypto {verb} {how}" for verb in ("sign", "verify")
      for how in ("ed25519", "ed25519ph", "ml-dsa")),
    "key generate-asymmetric-pair ml-dsa",
}  # fmt: skip
UNACTIVATED: Final = {"cluster activate"}
NAMES: Final = sorted(set(COMMANDS) - {"interactive", "login mfa-token-sign"})
STATES: Final = ("nobody", "admin", "alice")
NEEDS_LOGIN, DENIED = ("needs a login: set ", "log in to cluster-"), "may not do "


def test_every_command_is_in_the_table_once() -> None:
    rows = [*ANYBODY, *ADMIN_ALONE, *BOTH, *USER_ALONE, *MISSING, *UNACTIVATED]
    assert sorted(rows) == sorted(" ".join(path) for path, _ in TREE.commands())


def expected(name: str, who: str) -> str:
    """Return `login`, `denied` or `runs`, from the table."""
    if name in ANYBODY | MISSING | UNACTIVATED:
        return "runs"
    if who == "nobody":
        return "login"
    return "denied" if name in (USER_ALONE if who == "admin" else ADMIN_ALONE) else "runs"


def outcome(answer: dict[str, object]) -> str:
    text = str(answer["data"]) if answer["error_code"] else ""
    if any(part in text for part in NEEDS_LOGIN):
        return "login"
    return "denied" if DENIED in text else "runs"


def words(name: str, tmp: Path, clusters: tuple[str, str]) -> list[str]:
    """Return a line that parses and gets as far as the HSM."""
    source, destination = clusters
    made = [w.replace("label=a", "label=mine") for w in minimal(name, COMMANDS[name], tmp)]
    flags = {flag.name for flag in COMMANDS[name].flags}
    if "--source-cluster-id" in flags:
        made[made.index("--source-cluster-id") + 1] = source
        made[made.index("--destination-cluster-id") + 1] = destination
    elif "--cluster-id" in flags:
        made += ["--cluster-id", source]
    if "--password" in flags and name != "login":
        made += ["--password", "password-of-a"]
    hashes = next((f.choices for f in COMMANDS[name].flags if f.name == "--hash-function"), ())
    if hashes and "sha256" not in hashes and "--hash-function" in made:
        made[made.index("--hash-function") + 1] = hashes[0]
    if name == "key set-attribute":
        made[made.index("--name") + 1], made[made.index("--value") + 1] = "destroyable", "true"
    if name == "user change-mfa token-sign":
        at = made.index("--token")
        made[at : at + 2] = ["--deregister"]
    if name == "login":
        made += ["--password", "wrong-password"]
    if name == "key generate-file":
        made[made.index("--path") + 1] = str(tmp / f"{len(list(tmp.iterdir()))}.out")
    return made


class Site:
    """Two clones, activated, with a key `mine` of alice's."""

    def __init__(self, services: SiteServices, tmp: Path) -> None:
        self.services, self.tmp = services, tmp
        (tmp / "web.pem").write_text(scenarios.PEM)
        (tmp / "reg").write_bytes(POSSESSION.pack())
        self.clusters = clone(services)

    def state(self) -> object:
        """Return users, tokens and what admins see of keys."""
        plane = self.services.plane()
        cluster = plane.records.resolve_cluster(self.clusters[0])
        users, quorum = plane.users(cluster), plane.quorum(cluster).values
        seq = max(hsm.seq or 0 for hsm in plane.cluster(cluster).hsms)
        plane.close()
        return users, quorum, seq

    def key(self) -> None:
        """Make the key `mine` if the command before has deleted it."""
        plane = self.services.plane()
        cluster = plane.records.resolve_cluster(self.clusters[0])
        session = plane.login(cluster, Role.CRYPTO_USER, "alice", PASSWORDS["alice"].encode())
        if not session.list_keys(KeyFilter(attributes=(("label", "mine"),)), 0, 2).total:
            draft = KeyDraft(KeyClass.SECRET, "mine")
            plane.changes(cluster, session).generate_keys(KeySpec(KeyType.AES, 128), (draft,))
        session.close()
        plane.close()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with a_site(tmp_path_factory.mktemp("site") / "home") as services:
        activate(services)
        yield Site(services, tmp_path_factory.mktemp("files"))


def environment(monkeypatch: pytest.MonkeyPatch, who: str) -> None:
    for prefix in ("", "DESTINATION_"):
        for variable in ("CLOUDHSM_ROLE", "CLOUDHSM_PIN"):
            monkeypatch.delenv(prefix + variable, raising=False)
        if who != "nobody":
            for variable, value in credentials(who, prefix).items():
                monkeypatch.setenv(variable, value)


def answers(text: str) -> list[dict[str, object]]:
    decoder, position, made = json.JSONDecoder(), 0, []
    while (start := text.find('{\n  "error_code"', position)) >= 0:
        answer, position = decoder.raw_decode(text, start)
        made.append(answer)
    return made


@pytest.mark.parametrize("who", STATES)
def test_single_commands(
    who: str, site: Site, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found, wanted = {}, {name: expected(name, who) for name in NAMES}
    for name in NAMES:
        if name == "key delete":
            site.key()
        line = words(name, site.tmp, site.clusters)
        before = site.state() if wanted[name] != "runs" else None
        environment(monkeypatch, who)
        capsys.readouterr()
        status = main(line, site.services)
        [answer] = answers(capsys.readouterr().out)
        found[name] = outcome(answer)
        assert status == answer["error_code"], name
        if before is not None:
            assert site.state() == before, name
        if name in MISSING:
            assert "not offered" in str(answer["data"]) or "mechanism" in str(answer["data"]), name
    assert found == wanted


@pytest.mark.parametrize("who", STATES)
def test_interactive_commands(
    who: str, site: Site, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [name for name in NAMES if name not in {"login", "logout"}]
    site.key()
    logins = [f"{login_words(who)} --cluster-id {c}" for c in site.clusters if who != "nobody"]
    lines = [*logins, *(" ".join(words(name, site.tmp, site.clusters)) for name in names)]
    lines += [
        f"logout --cluster-id {site.clusters[0]}",
        f"key list --cluster-id {site.clusters[0]}",
    ]
    environment(monkeypatch, "nobody")
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(lines) + "\n"))
    capsys.readouterr()
    main(["interactive"], site.services)
    made = answers(capsys.readouterr().out)
    assert len(made) == len(lines)
    assert all(answer["error_code"] == 0 for answer in made[: len(logins)])
    found = dict(zip(names, map(outcome, made[len(logins) : -2]), strict=True))
    assert found == {name: expected(name, who) for name in names}
    assert outcome(made[-2]) == ("login" if who == "nobody" else "runs")
    assert outcome(made[-1]) == "login"  # logged out


def test_before_activation_there_is_nobody_to_be(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "web.pem").write_text(scenarios.PEM)
    (tmp_path / "reg").write_bytes(POSSESSION.pack())
    with a_site(tmp_path / "home") as services:
        plane = services.plane()
        cluster = plane.clusters()[0].cluster_id
        plane.close()
        names = [name for name in NAMES if name not in {"cluster activate", "login"}]
        lines = [words(name, tmp_path, (cluster, cluster)) for name in names]
        for name, line in zip(names, lines, strict=True):
            environment(monkeypatch, "admin")
            capsys.readouterr()
            main(line, services)
            [answer] = answers(capsys.readouterr().out)
            if name not in ANYBODY | MISSING:
                assert answer["error_code"] == 1, name
                assert answer["data"] == "user, role or password is wrong", name
        environment(monkeypatch, "nobody")
        typed = [" ".join(line) for line in lines]
        monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(typed) + "\n"))
        main(["interactive"], services)
        made = answers(capsys.readouterr().out)
        for name, answer in zip(names, made, strict=True):
            wanted = "runs" if name in ANYBODY | MISSING else "login"
            assert outcome(answer) == wanted, name
        assert main(["user", "list"], services) == 0
        assert '"unactivated-admin"' in capsys.readouterr().out
        assert main(["cluster", "activate", "--password", "password-of-admin"], services) == 0
        capsys.readouterr()
        assert main(["cluster", "activate", "--password", "password-of-admin"], services) == 1


LINES: Final = {
    "trust": "key set-attribute --filter attr.label=mine --name trusted --value true",
    "change": "user change-password --username bob --role crypto-user "
    f"--password {PASSWORDS['bob']}",
    "change_alice": "user change-password --username alice --role crypto-user --password Password1",
    "end_mfa": "user change-mfa token-sign --username bob --role crypto-user --deregister",
}


@pytest.mark.parametrize(
    ("line", "who", "wanted"),
    [
        ("quorum token-sign delete --scope all", "admin", "runs"),
        ("quorum token-sign delete --scope all", "alice", "denied"),
        ("{trust}", "alice", "denied"),
        ("{trust}", "admin", "runs"),
        ("{change_alice}", "bob", "denied"),
        ("{change}", "bob", "runs"),
        ("{change}", "admin", "runs"),
        ("{end_mfa}", "bob", "runs"),
        ("{end_mfa}", "alice", "denied"),
    ],
)  # fmt: skip
def test_where_an_argument_decides(
    line: str,
    who: str,
    wanted: str,
    site: Site,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    site.key()
    environment(monkeypatch, who)
    line = f"{line.format(**LINES)} --cluster-id {site.clusters[0]}"
    capsys.readouterr()
    main(line.split(), site.services)
    [answer] = answers(capsys.readouterr().out)
    assert outcome(answer) == wanted, answer
