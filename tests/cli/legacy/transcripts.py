"""Writes transcripts/session.txt: every command of both legacy tools, on a real token.

`python tests/cli/legacy/transcripts.py` in the project's root; the test beside it fails when the
file is not what this writes. What differs from run to run is replaced: ids of HSMs, moduli, check
values, handles of session keys.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[3]))

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_public_key,
)

from orchestrator.cli.legacy.cmu_commands import CMU
from orchestrator.cli.legacy.kmu_commands import KMU
from orchestrator.cli.legacy.main import cmu, kmu
from orchestrator.cli.legacy.numbers import type_name, user_id
from orchestrator.model.roles import Role
from tests.cli.cloudhsm import approvers
from tests.cli.cloudhsm.site import PASSWORDS, ROLES, SiteServices, clone, credentials, site
from tests.cli.cloudhsm.transcripts import normalise

TRANSCRIPT: Final = Path(__file__).parent / "transcripts" / "session.txt"
_MADE: Final = re.compile(r"Key Handle: (\d+)$", re.MULTILINE)
_PAIR: Final = re.compile(r"public key handle: (\d+)    private key handle: (\d+)")
_LABEL: Final = re.compile(r" -l (\S+)")


@dataclass(frozen=True, slots=True)
class Session:
    """Lines that are read by a tool's shell; `{KEY}` is a handle, `{@USER}` a user's number.

    A line that begins with `= ` answers a question. `!approve FILE NAME …` and `!possess FILE NAME`
    are what people do outside.
    """

    tool: str
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Single:
    """One command as a process of its own, with `who` in the environment, there and at a clone."""

    tool: str
    who: str
    line: str


def _cmu_login(name: str) -> str:
    return f"loginHSM {type_name(Role(ROLES[name]))} {name} {PASSWORDS[name]}"


def _kmu_login(name: str) -> str:
    return f"loginHSM -u {type_name(Role(ROLES[name]))} -s {name} -p {PASSWORDS[name]}"


def _registration(name: str) -> tuple[str, ...]:
    return (
        _cmu_login(name),
        f"getToken registration {name} {{tmp}}/reg-{name}",
        f"!copy reg-{name} signed-{name}",
        f"!possess signed-{name} {name}",
        f"registerQuorumPubKey CO {name} {{tmp}}/reg-{name} {{tmp}}/signed-{name} "
        f"{{tmp}}/{name}.pub",
        "logoutHSM",
    )


SCENES: Final = (
    Session("cmu", (
        "help", "createUser -h", "createUser", "creatUser CU alice x", "info host 0", "nonsense",
        "loginHSM PRECO admin password-of-admin",
        "listUsers", "listAttributes", "getHSMInfo", "info server 0", "info server 9",
        "changePswd PRECO alice password-of-alice", "= y",
        "changePswd PRECO admin short", "= y",
        "changePswd PRECO admin password-of-admin", "= y",
        "createUser CU alice password-of-alice", "= y",
        "loginHSM CO admin wrong-password",
        "loginHSM CO admin -hpswd",
        _cmu_login("admin"),
        "createUser CU alice password-of-alice", "= n",
        "createUser CU alice password-of-alice", "= y",
        "createUser CU bob bob-pass", "= y",
        "createUser CO carol password-of-carol", "= y",
        "createUser AU dave password-of-dave", "= y",
        "createUser CU dave password-of-dave -2fa {tmp}/mfa", "= y",
        "createUser CU alice password-of-alice", "= y",
        "changePswd CU bob bob-pass", "= y",
        "listUsers", "info server 0",
        "server 9", "server 0", "deleteUser CU bob", "getHSMInfo", "exit",
        "getCert {tmp}/root.pem 4", "getCert {tmp}/cluster.pem 8", "getCert {tmp}/x.pem 1",
        "getCert {tmp}/root.pem 4",
        "logoutHSM", "logoutHSM", "quit",
    )),
    Session("kmu", (
        "help", "genSymKey -h", "genSymKey", "genSymKey -t 31 -s x -l data", "nonsense",
        "genSymKey -t 31 -s 32 -l data",
        "loginHSM -u CU -s alice -p wrong-password",
        "loginHSM -u XX -s alice -p password-of-alice",
        _kmu_login("alice"),
        "genSymKey -t 31 -s 32 -l data -id 0x01 -u {@bob}",
        "genSymKey -t 31 -s 32 -l kek -kek",
        "genSymKey -t 16 -s 64 -l mac -nex",
        "genSymKey -t 18 -s 16 -l rc4", "genSymKey -t 21 -s 24 -l des", "genSymKey -t 9 -s 24 -l x",
        "genSymKey -t 31 -s 17 -l odd", "genSymKey -t 31 -s 16 -l many -min_srv 2",
        "genSymKey -t 31 -s 16 -l proved -attest",
        "genSymKey -t 31 -s 16 -l to-nobody -u 1",
        "genSymKey -t 31 -s 16 -l passing -sess",
        "genRSAKeyPair -m 2048 -e 65537 -l web", "genRSAKeyPair -m 1024 -e 65537 -l weak",
        "genRSAKeyPair -m 2048 -e 65537 -l rsa-kek -kek",
        "genECCKeyPair -i 2 -l ca -nex", "genECCKeyPair -i 9 -l ca",
        "genDSAKeyPair -m 2048 -l dsa", "genPBEKey",
        "findKey", "findKey -c 2 -t 3", "findKey -l data", "findKey -id 0x01", "findKey -sess 1",
        "findKey -u {@bob}", "findKey -kcv 0xffffff", "findKey -t 21", "findKey -m {tmp}/hello",
        "findSingleKey -k {data}", "findSingleKey -k 1", "findSingleKey -k x",
        "getKeyInfo -k {data}",
        "getAttribute -o {data} -a 512 -out {tmp}/all", "getAttribute -o {data} -a 7 -out {tmp}/x",
        "setAttribute -o {passing} -a 1", "setAttribute -o {data} -a 3",
        "listAttributes", "listUsers",
        "imSymKey -f {tmp}/sixteen -w {kek} -t 31 -l imported",
        "imSymKey -f {tmp}/hello -w {kek} -t 31 -l imported",
        "importPrivateKey -f {tmp}/private.pem -w {kek} -l brought",
        "importPrivateKey -f {tmp}/hello -w {kek} -l brought",
        "exSymKey -k {data} -w {kek} -out {tmp}/clear",
        "exportPrivateKey -k {web} -w {kek} -out {tmp}/clear",
        "exportPubKey -k {web-pub} -out {tmp}/web.pem", "!modulus web.pem modulus",
        "findKey -m {tmp}/modulus",
        "exportPubKey -k {ca-pub} -out {tmp}/ca.pem", "exportPubKey -k {ca-pub} -out {tmp}/ca.pem",
        "importPubKey -f {tmp}/ca.pem -l theirs", "importPubKey -f {tmp}/hello -l theirs",
        "wrapKey -k {data} -w {kek} -out {tmp}/wrapped -m 6 -noheader",
        "unWrapKey -f {tmp}/wrapped -w {kek} -m 6 -l back -noheader",
        "unWrapKey -f {tmp}/wrapped -w {kek} -m 6 -l back -kt 31 -kc 3",
        "wrapKey -k {data} -w {kek} -out {tmp}/wrapped-5 -m 5",
        "unWrapKey -f {tmp}/wrapped-5 -w {kek} -m 5 -l back-5 -kt 31 -kc 4 -nex",
        "wrapKey -k {data} -w {kek} -out {tmp}/wrapped-4 -m 4",
        "wrapKey -k {data} -w {rsa-kek-pub} -out {tmp}/wrapped-8 -m 8 -t 2",
        "unWrapKey -f {tmp}/wrapped-8 -w {rsa-kek} -m 8 -t 2 -l back-8",
        "exportPubKey -k {rsa-kek-pub} -out {tmp}/rsa-kek.pem",
        "importPubKey -f {tmp}/rsa-kek.pem -l theirs-kek -kek",
        "wrapKey -k {data} -w {theirs-kek} -out {tmp}/for-them -m 8 -t 2",
        "wrapKey -k {data} -w {rsa-kek-pub} -out {tmp}/wrapped-12 -m 12",
        "wrapKey -k {data} -w {kek} -out {tmp}/wrapped-10 -m 10",
        "wrapKey -k {data} -w {kek} -out {tmp}/wrapped-11 -m 11",
        "wrapKey -k {data} -w {kek} -out {tmp}/wrapped-9 -m 9",
        "wrapKey -k {mac} -w {kek} -out {tmp}/wrapped-mac -m 6",
        "aesWrapUnwrap -m 1 -f {tmp}/hello -w {kek}",
        "sign -f {tmp}/hello -k {web} -m 1 -out {tmp}/signature",
        "verify -f {tmp}/hello -s {tmp}/signature -k {web-pub} -m 1",
        "verify -f {tmp}/sixteen -s {tmp}/signature -k {web-pub} -m 1",
        "sign -f {tmp}/hello -k {web} -m 6 -out {tmp}/pss",
        "verify -f {tmp}/hello -s {tmp}/pss -k {web-pub} -m 6",
        "sign -f {tmp}/hello -k {ca} -m 17 -out {tmp}/ecdsa",
        "verify -f {tmp}/hello -s {tmp}/ecdsa -k {ca-pub} -m 17",
        "sign -f {tmp}/hello -k {ca} -m 1 -out {tmp}/x",
        "sign -f {tmp}/hello -k {ca} -m 99 -out x",
        "getCaviumPrivKey -k {ca} -out {tmp}/ca.key",
        "IsValidKeyHandlefile -f {tmp}/ca.key", "IsValidKeyHandlefile -f {tmp}/private.pem",
        "IsValidKeyHandlefile -f {tmp}/hello",
        "extractMaskedObject -o {data} -out {tmp}/masked", "insertMaskedObject -f {tmp}/masked",
        "getCert -f {tmp}/kmu.pem -s 8", "getCert -f {tmp}/kmu-1.pem -t 1",
        "Error2String -r 0xc6", "Error2String -r 0x77",
        "deleteKey -k {mac}", "deleteKey -k {mac}",
        "logoutHSM", "exit",
    )),
    Session("kmu", (
        _kmu_login("bob"), "deleteKey -k {data}", "wrapKey -k {data} -w {kek} -out {tmp}/x -m 6",
        "exit",
    )),
    Session("cmu", (
        _cmu_login("alice"),
        "getAttribute {data} 512 {tmp}/cmu-all", "getAttribute {data} 3", "getAttribute {data} 288",
        "getAttribute {data} 7", "getAttribute 0x50000000 3",
        "setAttribute {data} 3 renamed", "setAttribute {data} 3", "= data",
        "setAttribute {data} 354 1", "setAttribute {data} 134 1", "setAttribute {data} 7 1",
        "getKeyInfo -k {data}",
        "shareKey {data} {@bob} 0", "= y", "shareKey {data} {@bob} 1", "= y",
        "shareKey {data} {@bob} 2", "= y", "shareKey {data} 1 1", "= y",
        "shareKey {data} {@bob} 0", "= n",
        "syncKey {data} cluster-aaaaaaaaaaa", "findAllKeys {@alice} 0", "quit",
    )),
    Single("cmu", "", "!clone"),
    Single("kmu", "alice", "genSymKey -t 31 -s 16 -l new"),
    Single("cmu", "alice", "syncKey {new} {clone}"),
    Single("cmu", "alice", "syncKey {new} {clone}"),
    Single("cmu", "admin", "syncUser {@alice} {clone}"),
    Single("cmu", "admin", "syncUser 1 {clone}"),
    Session("cmu", (
        _cmu_login("bob"),
        "changePswd CU bob bob-pass -2fa {tmp}/mfa", "= y", "!possess mfa bob", "= ",
        "= {tmp}/bob.pub",
        "loginHSM CU bob bob-pass", "loginHSM CU bob bob-pass -2fa {tmp}/login",
        "!possess login bob", "= ", "listUsers", "logoutHSM",
        _cmu_login("admin"),
        "setAttribute {theirs-kek} 134 1", "setAttribute {kek} 134 1", "getAttribute {kek} 134",
        "findAllKeys {@alice} 1 {tmp}/found", "findAllKeys {@bob} 0", "findAllKeys 1 0",
        "findAllKeys {@bob} 2",
        "getMValue 3", "getMValue 5", "getToken 3 carol {tmp}/token", "logoutHSM",
        *_registration("admin"), *_registration("carol"),
        _cmu_login("admin"),
        "registerQuorumPubKey CO carol {tmp}/reg-carol {tmp}/signed-carol {tmp}/carol.pub",
        "registerQuorumPubKey CO admin {tmp}/reg-admin {tmp}/signed-carol {tmp}/carol.pub",
        "setMValue 3 2", "= y", "setMValue 4 2", "= y", "setMValue 3 9", "= y",
        "getMValue 3", "getMValue 4",
        "deleteUser CU bob", "= y",
        "getToken 3 admin {tmp}/token", "listTokens", "approveToken {tmp}/hello",
        "approveToken {tmp}/token", "!approve token admin carol", "approveToken {tmp}/token",
        "deleteUser CU bob", "= y", "deleteUser CU nobody", "= y",
        "getToken 3 admin {tmp}/token", "deleteToken", "listTokens", "quit",
    )),
    Session("kmu", (
        _kmu_login("alice"),
        "wrapKey -k {data} -w {theirs-kek} -out {tmp}/for-them -m 8 -t 2",
        "exit",
    )),
    Single("kmu", "alice", "singlecmd findKey -l data"),
    Single("kmu", "alice", "findKey -c 5"),
    Single("kmu", "alice", "singlecmd loginHSM -u CU -s alice -p password-of-alice findKey"),
    Single("kmu", "alice", "singlecmd loginHSM -u CU -s alice -hpswd findKey -l data"),
    Single("kmu", "alice", "singlecmd loginHSM -u CU -s bob -hpswd findKey -l data"),
    Single("kmu", "", "singlecmd loginHSM -u CU -s alice -hpswd findKey"),
    Single("kmu", "", "findKey"),
    Single("kmu", "", "nonsense"),
    Single("kmu", "", "-h"),
    Single("cmu", "", "/opt/cloudhsm/etc/cloudhsm_mgmt_util.cfg listUsers"),
    Single("cmu", "", "loginHSM CO admin password-of-admin"),
    Single("cmu", "", "loginHSM CO admin -hpswd listUsers"),
    Single("cmu", "admin", "getMValue 3"),
)  # fmt: skip


class Scribe(StringIO):
    """What everything is written to; knows the handles of the keys that were made."""

    def __init__(self, services: SiteServices, tmp: Path) -> None:
        super().__init__()
        self.services, self.tmp = services, tmp
        people = {f"@{name}": user_id(Role(ROLES[name]), name) for name in PASSWORDS}
        self.known = {"tmp": str(tmp), **{name: str(number) for name, number in people.items()}}
        approvers.make_keys(tmp)
        (tmp / "hello").write_text("hello")
        (tmp / "sixteen").write_bytes(bytes(range(16)))
        private = ec.derive_private_key(5, ec.SECP256R1())
        (tmp / "private.pem").write_bytes(
            private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        )

    def fill(self, line: str) -> str:
        """Put in handles and numbers."""
        return re.sub(r"\{([^}]+)\}", lambda found: self.known[found[1]], line)

    def learn(self, line: str, since: int) -> None:
        """Note the handles that a line's answer names."""
        if (label := _LABEL.search(line)) is None:
            return
        said = self.getvalue()[since:]
        if pair := _PAIR.search(said):
            self.known[f"{label[1]}-pub"], self.known[label[1]] = pair[1], pair[2]
        elif made := _MADE.findall(said):
            self.known[label[1]] = made[-1]

    def do(self, line: str) -> None:
        """Do what people do outside."""
        if line == "!clone":
            source, self.known["clone"] = clone(self.services)
            os.environ["CLOISTER_CLUSTER"] = source
            self.write("# a backup is restored as another cluster\n\n")
            return
        verb, file, *names = line.split()
        if verb == "!copy":
            (self.tmp / names[0]).write_bytes((self.tmp / file).read_bytes())
            return
        if verb == "!modulus":
            public = load_pem_public_key((self.tmp / file).read_bytes())
            assert isinstance(public, rsa.RSAPublicKey)
            (self.tmp / names[0]).write_bytes(public.public_numbers().n.to_bytes(256, "big"))
            return
        act = {"!approve": approvers.approve, "!possess": approvers.possess}[verb]
        for name in names:
            act(self.tmp / file, self.tmp, name)
        self.write(f"# {', '.join(names)} signed {file}\n")


class Typist:
    """Stands in for stdin: types one line after the other, and writes down what it types."""

    def __init__(self, scribe: Scribe, session: Session) -> None:
        self._scribe, self._prompt = scribe, {"cmu": CMU, "kmu": KMU}[session.tool].prompt
        self._lines = list(session.lines)
        self._typed, self._since = "", 0

    def isatty(self) -> bool:
        return False

    def __iter__(self) -> Iterator[str]:
        while self._lines:
            self._scribe.learn(self._typed, self._since)
            self._do()
            line = self._lines.pop(0)
            assert not line.startswith("= "), f"nothing asked for {line!r}"
            self._typed, self._since = line, len(self._scribe.getvalue())
            self._scribe.write(f"{self._prompt}{self._scribe.fill(line)}\n")
            yield self._scribe.fill(line) + "\n"

    def readline(self) -> str:
        """Answer a question."""
        self._do()
        if not self._lines or not self._lines[0].startswith("= "):
            return ""
        answer = self._scribe.fill(self._lines.pop(0).removeprefix("= "))
        self._scribe.write(f"{answer}\n")
        return answer + "\n"

    def _do(self) -> None:
        while self._lines and self._lines[0].startswith("!"):
            self._scribe.do(self._lines.pop(0))


@contextmanager
def _at(scribe: Scribe, stdin: object) -> Iterator[None]:
    before, sys.stdin = sys.stdin, stdin
    try:
        with redirect_stdout(scribe), redirect_stderr(scribe):
            yield
    finally:
        sys.stdin = before


def play(services: SiteServices, tmp: Path) -> str:
    """Play every scene."""
    scribe = Scribe(services, tmp)
    tools = {"cmu": (CMU.name, cmu), "kmu": (KMU.name, kmu)}
    try:
        for scene in SCENES:
            name, main = tools[scene.tool]
            if isinstance(scene, Session):
                scribe.write(f"$ {name}\n")
                with _at(scribe, Typist(scribe, scene)):
                    status = main([], services)
            elif scene.line.startswith("!"):
                scribe.do(scene.line)
                continue
            else:
                shown = ""
                if scene.who:
                    os.environ.update(credentials(scene.who))
                    os.environ.update(credentials(scene.who, "DESTINATION_"))
                    shown = f"CLOUDHSM_PIN={scene.who}:… "
                line, since = scribe.fill(scene.line), len(scribe.getvalue())
                scribe.write(f"$ {shown}{name} {line}\n")
                with _at(scribe, Typist(scribe, Session(scene.tool, ()))):
                    status = main(line.split(), services)
                scribe.learn(line, since)
            scribe.write(f"[exit status {status}]\n\n")
    finally:
        os.environ.pop("CLOISTER_CLUSTER", None)
    return scribe.getvalue()


def transcript() -> str:
    """Make a site and return the transcript."""
    with TemporaryDirectory() as directory, site(Path(directory) / "home") as services:
        tmp = Path(directory) / "files"
        tmp.mkdir()
        text = normalise(play(services, tmp), tmp)
    text = re.sub(r"(OBJ_ATTR_(?:KCV|MODULUS)\n\s*)0x[0-9a-f]+", r"\1…", text)
    text = re.sub(r"(token-timeout-seconds +: )\d+", r"\g<1>600", text)
    text = re.sub(r"\b\d{19,20}\b", "SESSION-HANDLE", text)
    return re.sub(r"[ \t]+$", "", text, flags=re.MULTILINE)


if __name__ == "__main__":
    TRANSCRIPT.write_text(transcript())
