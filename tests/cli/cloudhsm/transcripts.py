"""Writes transcripts/: every command of the tree in both modes, on a real token.

`python tests/cli/cloudhsm/transcripts.py` in the project's root; the test beside it fails when the
files are not what this writes. What differs from run to run is replaced: ids, keys, signatures.
"""

from __future__ import annotations

import io
import json
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[3]))

from orchestrator.cli.cloudhsm.main import main
from tests.cli.cloudhsm import approvers
from tests.cli.cloudhsm.site import ROLES, SiteServices, clone, credentials, login_line, site

FOLDER: Final = Path(__file__).parent / "transcripts"
PROMPT: Final = "aws-cloudhsm > "
_SIGN: Final = "--hash-function sha256 --data SGVsbG8="
_PSS: Final = f"{_SIGN} --mgf mgf1-sha256 --salt-length 32"
_FIELDS: Final = re.compile(
    r'"(check-value|ec-point|modulus|signature|serial-number|iv|wrapped_key_data)": "[^"]+"'
)
_SECONDS: Final = re.compile(r'"token-timeout-seconds": \d+')
_IDS: Final = re.compile(r"(?:cluster|hsm|backup)-[2-7a-z]{11,16}(?![a-z0-9-])")
_REFERENCES: Final = re.compile(r"0x[0-9a-f]{16}(?![0-9a-f])")


@dataclass(frozen=True, slots=True)
class Step:
    """A command, and who is logged in when it runs; `{tmp}` and `{signature}` are filled in.

    Lines that begin with `!` are what people do outside: `!approve FILE NAME ...` signs a quorum
    token, `!possess FILE NAME` a registration or a second factor. `answers` are typed when asked;
    such a line among them is done first, and the answer is then an empty line. `at_both` names whom
    the environment logs in at two clusters, in single-command mode; `!clone` makes the second.
    """

    line: str
    who: str = ""
    answers: tuple[str, ...] = ()
    becomes: str = ""
    at_both: str = ""


def _as(who: str, *lines: str) -> list[Step]:
    return [Step(line, who) for line in lines]


_TAG = " --tag-length-bits 128"
_OAEP = " --hash-function sha1 --mgf mgf1-sha1"
WRAPS: Final = {
    "aes-gcm": _TAG, "aes-no-pad": "", "aes-pkcs5-pad": "", "aes-zero-pad": "",
    "cloudhsm-aes-gcm": _TAG, "rsa-aes": _OAEP, "rsa-oaep": _OAEP, "rsa-pkcs": "",
}  # fmt: skip
GUARDED: Final = (
    "key generate-asymmetric-pair ec --curve secp256r1 --public-label guarded-pub "
    "--private-label guarded --private-attributes sign=true"
)
GUARDED_WRAP: Final = (
    "key wrap aes-zero-pad --payload-filter attr.label=guarded-payload "
    "--wrapping-filter attr.label=guarded-kek"
)
GUARDED_UNWRAP: Final = (
    "key unwrap aes-zero-pad --filter attr.label=guarded-kek --data {wrapped_once} "
    "--key-type-class aes --label returned"
)


def _round_trip(name: str, options: str) -> list[str]:
    """Wrap and unwrap; what was not wrapped cannot be unwrapped, for the same reason."""
    kek = ("rsa-kek-pub", "rsa-kek") if name.startswith("rsa") else ("kek", "kek")
    iv = " --iv 0x000102030405060708090a0b" * (name == "aes-gcm")
    return [
        f"key wrap {name} --payload-filter attr.label=payload "
        f"--wrapping-filter attr.label={kek[0]}{options}",
        f"key unwrap {name} --filter attr.label={kek[1]} --data {{wrapped}} --key-type-class aes "
        f"--label {name}{options}{iv}",
    ]


def _at_both(name: str, *lines: str) -> list[Step]:
    return [Step(line, at_both=name) for line in lines]


_CLONES = "--source-cluster-id {source} --destination-cluster-id {destination}"


def _registration(name: str) -> list[Step]:
    return _as(
        name,
        f"quorum token-sign generate --service registration --token {{tmp}}/reg-{name}",
        f"!possess reg-{name} {name}",
        f"user change-quorum token-sign register --public-key {{tmp}}/{name}.pub "
        f"--signed-token {{tmp}}/reg-{name}",
    )


STEPS: Final = [
    *_as(
        "",
        "help",
        "help user create",
        "user create -h",
        "user",
        "user crate",
        "user create --username alice",
        "user create --username alice --role boss",
        "key list --fliter attr.label=data",
        "key list --max-items ten",
        "crypto sign ecdsa --key-filter attr.label=ca --hash-function sha256",
        "cluster hsm-info",
        "user list",
        "cluster activate --password short",
        "cluster activate --password password-of-admin",
        "cluster activate --password password-of-admin",
        "login --username admin --role admin --password wrong-password",
    ),
    Step("login --username admin --role admin --password password-of-admin", becomes="admin"),
    *_as(
        "admin",
        "user create --username Alice --role crypto-user --password password-of-alice",
        "user create --username bob --role crypto-user --password bob-pass",
        "user create --username alice --role crypto-user --password password-of-alice",
        "user create --username a-b --role crypto-user --password password-of-alice",
        "user create --username carol --role crypto-user --password short",
        "user create --username carol --role admin --password password-of-carol",
        "user change-password --username carol --role admin --password password-of-Carol",
        "user delete --username carol --role admin",
        "user delete --username carol --role admin",
        "user list",
        "key generate-symmetric aes --label data --key-length-bytes 32",
    ),
    *_as(
        "alice",
        "key generate-symmetric aes --label data --key-length-bytes 32 "
        "--attributes encrypt=true decrypt=true extractable=false id=0x01",
        "key generate-symmetric aes --label bad --key-length-bytes 17",
        "key generate-symmetric aes --label bad --key-length-bytes 16 "
        "--attributes wrap=true decrypt=true",
        "key generate-symmetric aes --label bad --key-length-bytes 16 --attributes local=true",
        "key generate-symmetric generic-secret --label mac --key-length-bytes 64",
        "key generate-asymmetric-pair rsa --public-label web-pub --private-label web "
        "--modulus-size-bits 2048 --public-exponent 65537 --public-attributes verify=true "
        "--private-attributes sign=true",
        "key generate-asymmetric-pair rsa --public-label p --private-label k "
        "--modulus-size-bits 1024 --public-exponent 65537",
        "key generate-asymmetric-pair ec --curve prime256v1 --public-label ca-pub "
        "--private-label ca --public-attributes verify=true --private-attributes sign=true",
        "key generate-asymmetric-pair ec --curve ed25519 --public-label p --private-label k",
        "key generate-asymmetric-pair ec --curve secp224r1 --public-label p --private-label k",
        "key generate-asymmetric-pair ml-dsa --mldsa-algorithm ML-DSA-65 --public-label p "
        "--private-label k",
        "key generate-symmetric aes --session --label passing --key-length-bytes 16",
        "key list --max-items 3",
        "key list --max-items 3 --starting-token 3",
        "key list --starting-token x",
        "key list --filter attr.label=data --verbose",
        "key list --filter attr.class=private-key attr.key-type=ec",
        "key list --filter attr.label=nothing",
        "key list --filter label=data",
        "key list --filter key-reference=data",
        f"crypto sign rsa-pkcs --key-filter attr.label=web {_SIGN}",
        f"crypto verify rsa-pkcs --key-filter attr.label=web-pub {_SIGN} --signature {{signature}}",
        f"crypto sign rsa-pkcs-pss --key-filter attr.label=web {_PSS}",
        f"crypto verify rsa-pkcs-pss --key-filter attr.label=web-pub {_PSS} "
        "--signature {signature}",
        "crypto sign rsa-pkcs-pss --key-filter attr.label=web --hash-function sha256 "
        "--data SGVsbG8= --mgf mgf1-sha1 --salt-length 20",
        f"crypto sign ecdsa --key-filter attr.label=ca {_SIGN}",
        f"crypto verify ecdsa --key-filter attr.label=ca-pub {_SIGN} --signature {{signature}}",
        "crypto verify ecdsa --key-filter attr.label=ca-pub --hash-function sha256 "
        "--data SGVsbG8h --signature {signature}",
        f"crypto sign ecdsa --key-filter attr.class=private-key {_SIGN}",
        f"crypto sign ecdsa --key-filter attr.label=web {_SIGN}",
        "crypto sign ecdsa --key-filter attr.label=ca --hash-function sha1 --data SGVsbG8=",
        "key list --filter attr.curve=prime256v1 attr.class=private-key",
        "key list --filter attr.modulus-size-bits=2048 attr.public-exponent=65537",
        "key list --filter attr.modulus-size=2048",
        "crypto sign ecdsa --key-filter attr.label=ca --hash-function sha256 --data-type digest "
        "--data SGVsbG8=",
        "crypto sign ed25519 --key-filter attr.label=ca --data SGVsbG8=",
        "crypto sign ed25519ph --key-filter attr.label=ca --hash-function sha512 --data-type raw "
        "--data SGVsbG8=",
        "crypto sign ml-dsa --key-filter attr.label=ca --hash-function shake256 --data-type raw "
        "--data SGVsbG8=",
        "crypto verify ed25519 --key-filter attr.label=ca --data SGVsbG8= --signature AAAA",
        "crypto verify ed25519ph --key-filter attr.label=ca --hash-function sha512 "
        "--data-type raw --data SGVsbG8= --signature AAAA",
        "crypto verify ml-dsa --key-filter attr.label=ca --hash-function shake256 "
        "--data-type raw --data SGVsbG8= --signature AAAA",
        "key generate-file --encoding pem --path {tmp}/ca.pem --filter attr.label=ca-pub",
        "key generate-file --encoding pem --path {tmp}/ca.pem --filter attr.label=ca-pub",
        "key generate-file --encoding reference-pem --path {tmp}/ca.key --filter attr.label=ca",
        "key generate-file --encoding cloudhsm-reference-pem --path {tmp}/x --filter attr.label=ca",
        "key generate-file --encoding ksp-key-reference --path {tmp}/x --filter attr.label=ca",
        "key delete --filter attr.label=mac",
        "key delete --filter attr.label=mac",
        "key delete --filter attr.private=true",
    ),
    *_as(
        "alice",
        "key share --filter attr.label=data --username bob --role crypto-user",
        "key list --filter attr.label=data --verbose",
        "key share --filter attr.label=data --username nobody --role crypto-user",
        "key share --filter attr.label=data --username bob --role admin",
    ),
    *_as("bob", "key list --filter attr.label=data", "key delete --filter attr.label=data"),
    *_as(
        "alice",
        "key unshare --filter attr.label=data --username bob --role crypto-user",
        "key set-attribute --filter attr.label=data --name label --value data-2",
        "key set-attribute --filter attr.label=data-2 --name label --value data",
        "key set-attribute --filter attr.label=data --name extractable --value true",
        "key set-attribute --filter attr.label=data --name trusted --value true",
        "key set-attribute --filter attr.label=data --name nonsense --value true",
        "key import pem --path {tmp}/ca.pem --label imported --key-type-class ec-public "
        "--attributes verify=true",
        "key import pem --path {tmp}/ca.pem --label imported --key-type-class rsa-public",
        "key import pem --path {tmp}/ca.key --label imported --key-type-class ec-public",
        "key generate-symmetric aes --label kek --key-length-bytes 32 --attributes wrap=true "
        "unwrap=true",
        "key generate-asymmetric-pair rsa --public-label rsa-kek-pub --private-label rsa-kek "
        "--modulus-size-bits 2048 --public-exponent 65537 --public-attributes wrap=true "
        "--private-attributes unwrap=true",
        "key generate-symmetric aes --label payload --key-length-bytes 16",
        *(line for name, options in WRAPS.items() for line in _round_trip(name, options)),
        "key wrap aes-zero-pad --payload-filter attr.label=data --wrapping-filter attr.label=kek",
        "key wrap aes-zero-pad --payload-filter attr.label=payload "
        "--wrapping-filter attr.label=data",
        "key wrap rsa-oaep --payload-filter attr.label=payload "
        "--wrapping-filter attr.label=rsa-kek-pub --hash-function sha1 --mgf mgf1-sha256",
        "key unwrap aes-zero-pad --filter attr.label=kek --data AAAA --key-type-class aes "
        "--label back",
        "key unwrap aes-zero-pad --filter attr.label=kek --data AAAA --key-type-class des3 "
        "--label back",
    ),
    # A second factor.
    Step(
        "user change-mfa token-sign --username bob --role crypto-user --change-password bob-pass "
        "--token {tmp}/mfa",
        "bob",
        ("!possess mfa bob", "{tmp}/bob.pub"),
    ),
    Step("user list"),
    Step("login --username bob --role crypto-user --password bob-pass"),
    Step(
        "login --username bob --role crypto-user --password bob-pass mfa-token-sign "
        "--token {tmp}/login",
        answers=("!possess login alice",),
    ),
    Step(
        "login --username bob --role crypto-user --password bob-pass mfa-token-sign "
        "--token {tmp}/login",
        answers=("!possess login bob",),
        becomes="bob",
    ),
    *_as("admin", "user change-mfa token-sign --username bob --role crypto-user --deregister"),
    # Approvals by admins.
    *_as("admin", "user create --username carol --role admin --password password-of-carol"),
    *_registration("admin"),
    *_registration("carol"),
    *_as(
        "admin",
        "quorum token-sign set-timeout --generated 900",
        "quorum token-sign set-timeout --approved 5",
        "quorum token-sign set-timeout",
        "quorum token-sign list-timeouts",
        "quorum token-sign set-timeout --generated 600",
        "quorum token-sign set-quorum-value --service user --value 2",
        "quorum token-sign set-quorum-value --service quorum --value 2",
        "quorum token-sign set-quorum-value --service user --value 9",
        "quorum token-sign list-quorum-values",
        "user create --username dave --role crypto-user --password password-of-dave",
        "quorum token-sign generate --service user --token {tmp}/user",
        "quorum token-sign list",
        "!approve user admin",
        "user create --username dave --role crypto-user --password password-of-dave "
        "--approval {tmp}/user",
        "!approve user carol",
        "user create --username dave --role crypto-user --password password-of-dave "
        "--approval {tmp}/user",
        "user delete --username dave --role crypto-user --approval {tmp}/user",
        "quorum token-sign generate --service quorum --token {tmp}/quorum",
        "quorum token-sign generate --service key-usage --token {tmp}/usage",
        "quorum token-sign delete --scope all",
        "quorum token-sign list",
    ),
    # Approvals by crypto users.
    *_registration("alice"),
    *_registration("bob"),
    *_as(
        "alice",
        f"{GUARDED} --use-private-key-quorum-value 3 --share-crypto-users bob",
        f"{GUARDED} --use-private-key-quorum-value 2 --manage-private-key-quorum-value 2 "
        "--share-crypto-users bob",
        f"crypto sign ecdsa --key-filter attr.label=guarded {_SIGN}",
        "quorum token-sign generate --service key-usage --token {tmp}/usage "
        "--filter attr.label=guarded",
        "quorum token-sign list",
        "!approve usage alice bob",
        f"crypto sign ecdsa --key-filter attr.label=guarded {_SIGN} --approval {{tmp}}/usage",
        f"crypto sign ecdsa --key-filter attr.label=guarded {_SIGN} --approval {{tmp}}/usage",
        "key unshare --filter attr.label=guarded --username bob --role crypto-user",
        "quorum token-sign generate --service key-management --token {tmp}/manage "
        "--filter attr.label=guarded",
        "!approve manage alice bob",
        "key set-attribute --filter attr.label=guarded --name label --value renamed "
        "--approval {tmp}/manage",
        # Wrapping takes approvals for the key that leaves and for the key that lets it.
        *(
            f"key generate-symmetric aes --label {name} --key-length-bytes 32 --attributes {what} "
            "--manage-key-quorum-value 2 --share-crypto-users bob"
            for name, what in (
                ("guarded-kek", "wrap=true unwrap=true"),
                ("guarded-payload", "encrypt=true decrypt=true"),
            )
        ),
        GUARDED_WRAP,
        *(
            f"quorum token-sign generate --service key-management --token {{tmp}}/{name} "
            f"--filter attr.label=guarded-{name}"
            for name in ("payload", "kek")
        ),
        "!approve payload alice bob",
        "!approve kek alice",
        f"{GUARDED_WRAP} --payload-approval {{tmp}}/payload --wrapping-approval {{tmp}}/kek",
        "!approve kek bob",
        f"{GUARDED_WRAP} --wrapping-approval {{tmp}}/kek",
        f"{GUARDED_UNWRAP}",
        "quorum token-sign generate --service key-management --token {tmp}/kek "
        "--filter attr.label=guarded-kek",
        "!approve kek alice bob",
        f"{GUARDED_UNWRAP} --approval {{tmp}}/payload",
        f"{GUARDED_UNWRAP} --approval {{tmp}}/kek",
        f"{GUARDED_UNWRAP} --approval {{tmp}}/kek",
    ),
    *_as("bob", "key delete --filter attr.label=ca-pub", "key list"),
    *_as(
        "admin",
        "quorum token-sign generate --service user --token {tmp}/user",
        "!approve user admin carol",
        "user delete --username alice --role crypto-user --transfer-to bob --approval {tmp}/user",
        "user create --username erin --role crypto-user --password password-of-erin "
        "--approval {tmp}/user",
    ),
    *_as("bob", "key list --filter attr.label=data"),
    *_as(
        "admin",
        "key list --max-items 1 --verbose",
        "user delete --username alice --role crypto-user",
    ),
    *_as(
        "admin",
        "cluster mtls register-trust-anchor --path {tmp}/ca.pem",
        "cluster mtls list-trust-anchors",
        "cluster mtls deregister-trust-anchor --certificate-reference 0x01",
        "cluster mtls get-enforcement",
        "cluster mtls set-enforcement --level cluster",
        "logout",
    ),
    # A clone.
    Step("!clone"),
    *_at_both(
        "bob",
        "key list",
        "login --cluster-id {source} --username bob --role crypto-user --password bob-pass",
        "login --cluster-id {destination} --username bob --role crypto-user --password bob-pass",
        "key generate-symmetric aes --cluster-id {source} --label new --key-length-bytes 16",
        f"key replicate --filter attr.label=new {_CLONES}",
        f"key replicate --filter attr.label=new {_CLONES}",
        "key list --cluster-id {destination} --filter attr.label=new",
        f"user replicate --username bob --role crypto-user {_CLONES}",
        "logout --cluster-id {destination}",
        # Without a quorum key at the source alone the user is no longer the same at both.
        "user change-password --cluster-id {source} --username bob --role crypto-user "
        "--password bob-pass --deregister-quorum",
    ),
    *_at_both(
        "admin",
        "login --cluster-id {source} --username admin --role admin --password password-of-admin",
        "login --cluster-id {destination} --username admin --role admin "
        "--password password-of-admin",
        "quorum token-sign generate --cluster-id {source} --service user --token {tmp}/user",
        "!approve user admin carol",
        "user create --cluster-id {source} --username zoe --role crypto-user "
        "--password password-of-zoe --approval {tmp}/user",
        f"user replicate --username zoe --role crypto-user {_CLONES}",
        "quorum token-sign generate --cluster-id {destination} --service user --token {tmp}/there",
        "!approve there admin carol",
        f"user replicate --username zoe --role crypto-user {_CLONES} --approval {{tmp}}/there",
        f"user replicate --username nobody --role crypto-user {_CLONES}",
        f"user replicate --username bob --role crypto-user {_CLONES}",
        "user list --cluster-id {destination}",
        "logout --cluster-id {source}",
        "logout --cluster-id {destination}",
    ),
]


class Desk(io.StringIO):
    """What both modes write to, read answers from, and sign at."""

    def __init__(self, services: SiteServices, tmp: Path) -> None:
        super().__init__()
        self._services, self._tmp = services, tmp
        self._clusters = ("", "")
        self._answers: list[str] = []
        approvers.make_keys(tmp)

    def fill(self, line: str) -> str:
        """Fill a line in; signature and wrapped key are what was said last."""

        def last(field: str, default: str) -> str:
            made = [*answers(self.getvalue())][-1:]
            data = made[0]["data"] if made else ""
            return str(data.get(field, default)) if isinstance(data, dict) else default

        return line.format(
            tmp=self._tmp,
            signature=self._last("signature"),
            wrapped=last("wrapped_key_data", "AAAA"),
            wrapped_once=self._last("wrapped_key_data"),
            source=self._clusters[0],
            destination=self._clusters[1],
        )

    def _last(self, field: str) -> str:
        found = re.findall(rf'"{field}": "([^"]+)"', self.getvalue())
        return found[-1] if found else ""

    def do(self, line: str) -> None:
        """Sign outside, with openssl; or restore a backup as a clone."""
        if line == "!clone":
            self._clusters = clone(self._services)
            self.write("# a backup is restored as another cluster\n")
            return
        verb, file, *names = line.split()
        act = {"!approve": approvers.approve, "!possess": approvers.possess}[verb]
        for name in names:
            act(self._tmp / file, self._tmp, name)
        self.write(f"# {', '.join(names)} signed {file}\n")

    def put(self, answers: tuple[str, ...]) -> None:
        """Lay out what will be typed when something is asked."""
        self._answers = list(answers)

    def isatty(self) -> bool:
        return False

    def readline(self, size: int | None = -1, /) -> str:  # type: ignore[override]  # typeshed: bytes
        """Type an answer."""
        if not self._answers:
            return ""
        answer = self._answers.pop(0)
        if answer.startswith("!"):
            self.write("\n")
            self.do(answer)
            return "\n"
        answer = self.fill(answer)
        self.write(f"{answer}\n")
        return f"{answer}\n"


@contextmanager
def _at(desk: Desk, stdin: object) -> Iterator[None]:
    before, sys.stdin = sys.stdin, stdin
    try:
        with redirect_stdout(desk), redirect_stderr(desk):
            yield
    finally:
        sys.stdin = before


def single(services: SiteServices, tmp: Path) -> str:
    """Run every step as a command of its own."""
    desk = Desk(services, tmp)
    for step in STEPS:
        if step.line.startswith("!"):
            desk.do(step.line)
            continue
        line = desk.fill(step.line)
        who, shown = step.who or step.at_both, ""
        if who:
            os.environ.update(credentials(who))
            shown = f"CLOUDHSM_ROLE={ROLES[who]} CLOUDHSM_PIN={who}:… "
        if step.at_both:
            os.environ.update(credentials(who, "DESTINATION_"))
            shown += f"DESTINATION_{shown.replace(' ', ' DESTINATION_', 1)}"
        desk.write(f"$ {shown}cloudhsm-cli {line}\n")
        desk.put(step.answers)
        with _at(desk, desk):
            status = main(line.split(), services)
        desk.write(f"[exit status {status}]\n\n")
    return desk.getvalue()


class _Typist:
    """Stands in for stdin: types one line after the other, and writes down what it types."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self.isatty, self.readline = desk.isatty, desk.readline

    def __iter__(self) -> Iterator[str]:
        who = ""
        for step in STEPS:
            if step.line.startswith("!"):
                self._desk.do(step.line)
                continue
            if step.who != who:
                if who:
                    yield from self._type("logout")
                if step.who:
                    yield from self._type(login_line(step.who))
            self._desk.put(step.answers)
            yield from self._type(step.line)
            who = "" if step.line == "logout" else step.becomes or step.who
        yield from self._type("key list")
        yield from self._type("quit")

    def _type(self, line: str) -> Iterator[str]:
        line = self._desk.fill(line)
        self._desk.write(f"{PROMPT}{line}\n")
        yield line + "\n"
        self._desk.write("\n")


def interactive(services: SiteServices, tmp: Path) -> str:
    """Type every step into one interactive mode."""
    desk = Desk(services, tmp)
    with _at(desk, _Typist(desk)):
        main(["interactive"], services)
    return desk.getvalue()


def normalise(text: str, tmp: Path) -> str:
    """Replace what differs from run to run."""
    text = _FIELDS.sub(r'"\1": "…"', text.replace(str(tmp), "DIRECTORY"))
    text = re.sub(r"--signature (?!AAAA)\S+", "--signature …", text)
    text = re.sub(r"--data [A-Za-z0-9+/=]{24,}", "--data …", text)
    text = _SECONDS.sub('"token-timeout-seconds": 600', text)
    numbers: dict[str, int] = {}

    def name(found: re.Match[str]) -> str:
        kind = found[0].partition("-")[0]
        return f"{kind}-{numbers.setdefault(found[0], len(numbers) + 1)}"

    text = _IDS.sub(name, text)
    references: dict[str, str] = {}
    return _REFERENCES.sub(lambda f: references.setdefault(f[0], f"0x…{len(references) + 1}"), text)


MODES: Final = {"single": single, "interactive": interactive}


def transcript(mode: str) -> str:
    """Make a site and return the transcript of one mode."""
    with TemporaryDirectory() as directory, site(Path(directory) / "home") as services:
        tmp = Path(directory) / "files"
        tmp.mkdir()
        return normalise(MODES[mode](services, tmp), tmp)


def answers(text: str) -> Iterator[dict[str, object]]:
    """Yield the envelopes of a transcript."""
    decoder, position = json.JSONDecoder(), 0
    while (start := text.find('{\n  "error_code"', position)) >= 0:
        made, position = decoder.raw_decode(text, start)
        yield made


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for chosen in MODES:
        (FOLDER / f"{chosen}.txt").write_text(transcript(chosen))
