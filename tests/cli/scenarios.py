"""One successful call of every command: the source of the table in docs/cli.md."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import typer.core
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, utils

from orchestrator.cli import key_view
from orchestrator.cli.app import build
from orchestrator.model.key_spec import KeyClass, KeySpec, KeyType
from orchestrator.model.keys import Key
from tests.cli.stand_ins import (
    BACKUP,
    EC_PRIVATE,
    EC_SPEC,
    HSM,
    PASSWORD,
    POSSESSION,
    RSA_PRIVATE,
    TOKEN,
    StandIns,
    make_key,
)


@dataclass(frozen=True)
class Scenario:
    """`argv` without `--output`; `{tmp}` is a scratch directory."""

    argv: str
    needs_login: bool = False
    stdin: str = ""
    files: Mapping[str, str] = field(default_factory=dict)
    key: Key = field(default_factory=lambda: make_key(KeyClass.PUBLIC, EC_SPEC, "web"))


_AES: Final = make_key(KeyClass.SECRET, KeySpec(KeyType.AES, 256), "data")
_RSA: Final = make_key(KeyClass.PUBLIC, KeySpec(KeyType.RSA, 2048), "web")
_SIGN: Final = "--key-filter attr.label=web --hash-function sha256 --data SGVsbG8="
_DATA: Final = "--key-filter attr.label=data"
_FILTER: Final = "--filter attr.label=data"
_CLONES: Final = "--source-cluster-id cluster-a --destination-cluster-id cluster-a"
PEM: Final = key_view.public_pem(make_key(KeyClass.PUBLIC, EC_SPEC, "web")).decode()
_WRAPS: Final = {
    "aes-gcm": " --tag-length-bits 128", "aes-no-pad": "", "aes-pkcs5-pad": "", "aes-zero-pad": "",
    "cloudhsm-aes-gcm": " --tag-length-bits 128",
    "rsa-aes": " --hash-function sha1 --mgf mgf1-sha1",
    "rsa-oaep": " --hash-function sha1 --mgf mgf1-sha1",
    "rsa-pkcs": "",
}  # fmt: skip
SCENARIOS: Final = {
    "lab up": Scenario("--azs 2"),
    "lab status": Scenario(""),
    "lab down": Scenario(""),
    "lab destroy": Scenario("--yes"),
    "lab kill": Scenario(HSM),
    "lab start": Scenario(HSM),
    "lab sign-csr": Scenario(""),
    "cluster create": Scenario("--az lab-1a lab-1b"),
    "cluster list": Scenario(""),
    "cluster describe": Scenario(""),
    "cluster csr": Scenario(""),
    "cluster initialize": Scenario(
        "--signed-cert {tmp}/c.crt --trust-anchor {tmp}/ca.crt", files={"c.crt": "1", "ca.crt": "2"}
    ),
    "cluster activate": Scenario("--password-stdin", stdin="new-password\n"),
    "cluster verify": Scenario(""),
    "cluster adopt": Scenario("--yes"),
    "cluster delete": Scenario("--yes"),
    "gateway run": Scenario("--socket /run/g/s --group users --allow-user 33 --patience 5"),
    "gateway env": Scenario("--socket /run/g/s"),
    "gateway status": Scenario("--socket /run/g/s"),
    "host list": Scenario(""),
    "host admit": Scenario("host-1b", needs_login=True),
    "host expel": Scenario("host-1b --yes", needs_login=True),
    "hsm create": Scenario("--az lab-1a"),
    "hsm list": Scenario(""),
    "hsm delete": Scenario(f"{HSM} --yes"),
    "user create": Scenario(
        "--username alice --role crypto-user --password-stdin", True, "new-password\n"
    ),
    "user list": Scenario(""),
    "user delete": Scenario("--username alice --role crypto-user --yes", needs_login=True),
    "user change-password": Scenario(
        "--username alice --role crypto-user --password-stdin", True, "new-password\n"
    ),
    **{
        f"user {what}": Scenario("--username alice --role crypto-user", needs_login=True)
        for what in ("unlock", "disable", "enable", "remove-mfa")
    },
    "user transfer-keys": Scenario("--username alice --to bob --yes", needs_login=True),
    "user mfa-token": Scenario(
        "--username alice --role crypto-user --token {tmp}/mfa.json", needs_login=True
    ),
    "user set-mfa": Scenario(
        "--username bob --role crypto-user --public-key {tmp}/k.pem --signed-token {tmp}/mfa.json",
        needs_login=True,
        files={"k.pem": "key", "mfa.json": POSSESSION.pack().decode()},
    ),
    "user login-ticket issue": Scenario("--uid 7 --path {tmp}/ticket.json", needs_login=True),
    "user login-ticket list": Scenario("", needs_login=True),
    "user login-ticket revoke": Scenario("login-1", needs_login=True),
    "quorum request": Scenario(
        "--token {tmp}/t.json -- user create --username bob --role crypto-user",
        needs_login=True,
    ),
    "quorum generate": Scenario("--service user --token {tmp}/t.json", needs_login=True),
    "quorum request-restore": Scenario(f"{BACKUP} --username ana --token {{tmp}}/t.json"),
    "quorum show": Scenario("{tmp}/t.json", files={"t.json": TOKEN.pack().decode()}),
    "quorum approve": Scenario(
        "{tmp}/t.json --username ben --signature {tmp}/sig",
        files={"t.json": TOKEN.pack().decode(), "sig": "signature"},
    ),
    "quorum list": Scenario(""),
    "quorum set-value": Scenario("--service user --value 2", needs_login=True),
    "quorum set-policy": Scenario("--bound-only", needs_login=True),
    "quorum delete": Scenario("--scope user", needs_login=True),
    "quorum registration": Scenario("--token {tmp}/r.json", needs_login=True),
    "quorum register": Scenario(
        "--public-key {tmp}/k.pem --signed-token {tmp}/r.json",
        needs_login=True,
        files={"k.pem": "key", "r.json": POSSESSION.pack().decode()},
    ),
    "key generate-symmetric aes": Scenario("--label data --key-length-bytes 32", True),
    "key generate-symmetric generic-secret": Scenario("--label mac --key-length-bytes 64", True),
    "key generate-asymmetric-pair rsa": Scenario(
        "--public-label web-pub --private-label web --modulus-size-bits 2048 "
        "--public-exponent 65537",
        needs_login=True,
    ),
    "key generate-asymmetric-pair ec": Scenario(
        "--public-label ca-pub --private-label ca --curve secp256r1", needs_login=True
    ),
    "user replicate": Scenario(f"--username alice --role crypto-user {_CLONES}", True),
    "key share": Scenario(f"{_FILTER} --username bob --role crypto-user", needs_login=True),
    "key unshare": Scenario(f"{_FILTER} --username bob --role crypto-user", needs_login=True),
    "key set-attribute": Scenario(f"{_FILTER} --name label --value new", needs_login=True),
    "key replicate": Scenario(f"{_FILTER} {_CLONES}", needs_login=True),
    "key import pem": Scenario(
        "--path {tmp}/web.pem --label web --key-type-class ec-public", True, files={"web.pem": PEM}
    ),
    **{
        f"key wrap {name}": Scenario(
            f"--payload-filter attr.label=data --wrapping-filter attr.label=kek{options}", True
        )
        for name, options in _WRAPS.items()
    },
    **{
        f"key unwrap {name}": Scenario(
            "--filter attr.label=kek --data AAAA --key-type-class aes --label back"
            + options
            + " --iv 00" * (name == "aes-gcm"),
            needs_login=True,
        )
        for name, options in _WRAPS.items()
    },
    "key list": Scenario("", needs_login=True),
    "key delete": Scenario("--filter attr.label=data --yes", needs_login=True, key=_AES),
    "key generate-file": Scenario(
        "--encoding pem --path {tmp}/web.pem --filter attr.label=web", needs_login=True
    ),
    "crypto encrypt": Scenario(f"{_DATA} --mechanism aes-gcm --data SGVsbG8=", True),
    "crypto decrypt": Scenario(f"{_DATA} --mechanism aes-gcm --data SGVsbG8=", True),
    "crypto mac": Scenario(f"{_DATA} --mechanism hmac-sha256 --data SGVsbG8=", True),
    "crypto derive": Scenario(
        f"{_DATA} --peer-path {{tmp}}/web.pem --kdf CKD_SHA256_KDF --key-type aes "
        "--key-length-bytes 32 --label shared",
        needs_login=True,
        files={"web.pem": PEM},
    ),
    "crypto random": Scenario("--bytes 8", needs_login=True),
    "crypto sign rsa-pkcs": Scenario(_SIGN, needs_login=True),
    "crypto sign rsa-pkcs-pss": Scenario(
        f"{_SIGN} --mgf mgf1-sha256 --salt-length 32", needs_login=True
    ),
    "crypto sign ecdsa": Scenario(_SIGN, needs_login=True),
    "crypto verify rsa-pkcs": Scenario(
        f"{_SIGN} --signature-path {{tmp}}/rsa-pkcs", True, key=_RSA
    ),
    "crypto verify rsa-pkcs-pss": Scenario(
        f"{_SIGN} --mgf mgf1-sha256 --salt-length 32 --signature-path {{tmp}}/rsa-pkcs-pss",
        True,
        key=_RSA,
    ),
    "crypto verify ecdsa": Scenario(f"{_SIGN} --signature-path {{tmp}}/ecdsa", needs_login=True),
    "backup create": Scenario(""),
    "backup list": Scenario(""),
    "backup describe": Scenario(BACKUP),
    "backup verify": Scenario(BACKUP),
    "backup export": Scenario(f"{BACKUP} {{tmp}}/copy.backup"),
    "backup import": Scenario("{tmp}/copy.backup"),
    "backup delete": Scenario(f"{BACKUP} --yes"),
    "recovery create-shares": Scenario(
        "--threshold 3 --shares 5 --output-dir {tmp}/shares", needs_login=True
    ),
    "recovery recover": Scenario(
        f"{BACKUP} --share-file {{tmp}}/1 {{tmp}}/2", files={"1": "alpha", "2": "beta"}
    ),
    "audit list": Scenario(""),
    "audit verify": Scenario(""),
    "profile list": Scenario(""),
    "login-check": Scenario("", needs_login=True),
    "doctor": Scenario(""),
    "demo": Scenario(""),
}


def prepare(scenario: Scenario, services: StandIns, directory: Path) -> list[str]:
    """Write what the command reads, set what it meets, and return its arguments."""
    services.key = scenario.key
    for name, text in scenario.files.items():
        (directory / name).write_text(text)
    for name, signature in signatures().items():
        (directory / name).write_bytes(signature)
    return scenario.argv.format(tmp=directory).split()


def signatures(data: bytes = b"Hello") -> dict[str, bytes]:
    """Sign with the stand-ins' keys; ECDSA as r || s."""
    sha256 = hashes.SHA256()
    pss = padding.PSS(padding.MGF1(sha256), 32)
    r, s = utils.decode_dss_signature(EC_PRIVATE.sign(data, ec.ECDSA(sha256)))
    return {
        "rsa-pkcs": RSA_PRIVATE.sign(data, padding.PKCS1v15(), sha256),
        "rsa-pkcs-pss": RSA_PRIVATE.sign(data, pss, sha256),
        "ecdsa": r.to_bytes(32, "big") + s.to_bytes(32, "big"),
    }


def environment(scenario: Scenario) -> dict[str, str]:
    """Return who acts."""
    if not scenario.needs_login:
        return {}
    return {"CLOUDHSM_ROLE": "admin", "CLOUDHSM_PIN": f"admin:{PASSWORD}"}


def all_commands() -> dict[str, typer.core.TyperCommand]:
    """Return every command of the tree by its full name."""
    found: dict[str, typer.core.TyperCommand] = {}

    def walk(node: object, path: str) -> None:
        if isinstance(node, typer.core.TyperGroup):
            for name, child in node.commands.items():
                walk(child, f"{path} {name}".strip())
        elif isinstance(node, typer.core.TyperCommand):
            found[path] = node

    walk(build(), "")
    return found
