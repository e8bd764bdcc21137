"""The commands of `key_mgmt_util`, as data."""

from __future__ import annotations

import re
from typing import Final

from orchestrator.cli.cloudhsm.syntax import Command, Flag, Kind, Words
from orchestrator.cli.legacy.dialect import Dialect, LegacyCommand, maybe, value

_LABEL = value("-l", "Label of the key")
_ID = maybe("-id", "Id of the key")
_MAKING = (
    _ID,
    maybe("-min_srv", "Refuse unless that many HSMs answer", Kind.NUMBER),
    maybe("-m_value", "How many must approve uses and changes, 0 or 2 to 8", Kind.NUMBER),
    maybe("-nex", "Make a key that never leaves", Kind.SWITCH),
    maybe("-sess", "Make a session key", Kind.SWITCH),
    maybe("-timeout", "Taken and not used: a change has a deadline of its own", Kind.NUMBER),
    maybe("-u", "Numbers of users to share with, separated by commas, see listUsers"),
    maybe("-attest", "Not offered: no token here attests keys", Kind.SWITCH),
)
_KEK = maybe("-kek", "For wrapping and unwrapping, instead of encrypting, decrypting and signing; "
             "no key may do both. AWS's key_mgmt_util has no such option", Kind.SWITCH)  # fmt: skip
_IMPORT = (_ID, maybe("-nex", "It never leaves", Kind.SWITCH),
           maybe("-u", "Numbers of users to share with, separated by commas"))  # fmt: skip
_KEY = value("-k", "Handle of the key, decimal or 0x…")
_WRAPPER = value("-w", "Handle of the wrapping key")
_UNUSED_WRAPPER = maybe("-w", "Taken and not used: the key goes sealed to an HSM")
_OUT = value("-out", "New file to write", words=Words.FILES)
_IN = value("-f", "File to read", words=Words.FILES)
_CIPHER = (
    maybe("-t", "Hash of RSA-AES and RSA-OAEP: 2 SHA-1, 3 SHA-256, 4 SHA-384, 5 SHA-512, "
          "6 SHA-224"),
    maybe("-aad", "File with additional data, of the GCM mechanisms", words=Words.FILES),
    maybe("-i", "IV, hexadecimal, for unwrapping with mechanism 10"),
    maybe("-iv_file", "File of the IV: written when wrapping, read when unwrapping",
          words=Words.FILES),
    maybe("-tag_size", "Bytes of the authentication tag of the GCM mechanisms", Kind.NUMBER),
    maybe("-noheader", "Taken; a header is never written or read", Kind.SWITCH),
)  # fmt: skip
_WRAP = value("-m", "4 AES PKCS#5 pad, 5 AES no pad, 6 AES zero pad, 7 RSA-AES, 8 RSA-OAEP, "
              "10 AES-GCM, 11 CloudHSM AES-GCM, 12 RSA PKCS#1 v1.5")  # fmt: skip
_SIGN = value("-m", "RSA PKCS#1 v1.5 with SHA-1, -256, -384, -512, -224: 0 to 4; RSA-PSS with the "
              "same: 5 to 9; ECDSA with SHA-1, -224, -256, -384, -512: 15 to 19")  # fmt: skip
_TYPE = value("-t", "Type: 16 generic secret, 31 AES")
_NEVER = ("a key in clear never leaves an HSM. Wrap it with wrapKey for whoever shall have it, "
          "under a key of theirs that importPubKey -kek brought in and an officer trusts "
          "(cloudhsm_mgmt_util: setAttribute HANDLE 134 1)")  # fmt: skip
_MASKED = ("what leaves an HSM here is sealed to one HSM of one clone, which a file for any HSM "
           "would undo. `cloudhsm-cli key replicate` copies a key to a clone")  # fmt: skip
ANYBODY, USER, OWNER = "anybody", "CU", "CU (owner)"


def _command(
    name: str,
    text: str,
    who: str,
    *flags: Flag,
    action: str = "",
    call: str = "",
    missing: str = "",
    one_of: tuple[tuple[str, ...], ...] = (),
) -> LegacyCommand:
    return LegacyCommand(
        name, text, flags, action, one_of=one_of, who=who, call=call, missing=missing
    )


_COMMANDS: Final = (
    _command("loginHSM", "Log in to every HSM", "CU, CO", value("-u", "User type: CU or CO"),
             value("-s", "Name of the user", words=Words.USERS),
             Flag("--password", "The password; never on the command line of a process: only typed "
                  "or read", short="-p"),
             maybe("-hpswd", "Ask for the password, without echo", Kind.SWITCH),
             action="kmu:login", call="LoginHSM", one_of=(("--password", "-hpswd"),)),
    _command("logoutHSM", "Log out of every HSM", "CU, CO", action="kmu:logout", call="LogoutHSM"),
    _command("genSymKey", "Make a symmetric key", USER,
             value("-t", "Type: 16 generic secret, 31 AES; 18 (RC4) and 21 (3DES) are refused"),
             value("-s", "Size in bytes", Kind.NUMBER), _LABEL, *_MAKING, _KEK,
             action="kmu_making:symmetric", call="GenerateSymmetricKey"),
    _command("genRSAKeyPair", "Make an RSA key pair", USER,
             value("-m", "Bits of the modulus", Kind.NUMBER),
             value("-e", "Public exponent, odd and at least 65537", Kind.NUMBER), _LABEL, *_MAKING,
             _KEK, action="kmu_making:rsa", call="GenerateKeyPair"),
    _command("genECCKeyPair", "Make an EC key pair", USER,
             value("-i", "Curve: 2 P-256, 14 P-384, 15 P-521, 16 secp256k1"), _LABEL, *_MAKING,
             action="kmu_making:ec", call="GenerateKeyPair"),
    _command("genDSAKeyPair", "Make a DSA key pair", USER, value("-m", "Bits"), _LABEL, *_MAKING,
             call="GenerateKeyPair", missing="no HSM type here has CKM_DSA_KEY_PAIR_GEN; "
             "genECCKeyPair makes keys for signatures"),
    _command("genPBEKey", "Make a key from a password", USER, call="GeneratePBEKey",
             missing="no HSM type here has PBE mechanisms; genSymKey makes a random key"),
    _command("imSymKey", "Make a key of a symmetric key in clear", USER, _IN, _UNUSED_WRAPPER,
             _TYPE, _LABEL, *_IMPORT, _KEK, action="kmu_moving:import_symmetric",
             call="UnWrapKey"),
    _command("exSymKey", "Write a symmetric key in clear", OWNER, _KEY, _WRAPPER, _OUT,
             maybe("-m", "Mechanism"), maybe("-wk", "File of the wrapped key"),
             call="ExportKey", missing=_NEVER),
    _command("importPrivateKey", "Make a key of a private key in PEM", USER, _IN, _UNUSED_WRAPPER,
             _LABEL, *_IMPORT, _KEK, action="kmu_moving:import_private", call="ImportPrivateKey"),
    _command("exportPrivateKey", "Write a private key in clear", OWNER, _KEY, _WRAPPER, _OUT,
             maybe("-m", "Mechanism"), maybe("-wk", "File of the wrapped key"),
             call="ExportPrivateKey", missing=_NEVER),
    _command("importPubKey", "Make a key of a public key in PEM", USER, _IN, _LABEL, _ID, _KEK,
             action="kmu_moving:import_public", call="CreatePublicKey"),
    _command("exportPubKey", "Write a public key, PEM", USER, _KEY, _OUT,
             action="kmu_moving:export_public", call="ExportPubKey"),
    _command("wrapKey", "Write a key, wrapped under another", OWNER, _KEY, _WRAPPER, _OUT, _WRAP,
             *_CIPHER, action="kmu_moving:wrap", call="WrapKey"),
    _command("unWrapKey", "Make a key of one that was wrapped", USER, _IN, _WRAPPER, _WRAP,
             *_CIPHER, _LABEL, *_MAKING,
             maybe("-kt", "Type: 0 RSA, 3 EC, 16 generic secret, 31 AES (when left out)"),
             maybe("-kc", "Class: 3 private, 4 secret; it follows from the type"),
             action="kmu_moving:unwrap", call="UnWrapKey"),
    _command("aesWrapUnwrap", "Wrap or unwrap a file", USER, value("-m", "0 or 1"), _IN, _WRAPPER,
             maybe("-i", "IV"), maybe("-out", "File"), call="WrapUnwrap",
             missing="an HSM here wraps keys, and never bytes that a user gives, nor gives out "
             "what it unwraps. wrapKey and unWrapKey are for keys, `cloister crypto encrypt` for "
             "files"),
    _command("sign", "Sign a file", USER, _IN, _KEY, _SIGN, _OUT, action="kmu:sign", call="Sign"),
    _command("verify", "Verify the signature of a file", USER, _IN,
             value("-s", "File with the signature", words=Words.FILES), _KEY, _SIGN,
             action="kmu:verify", call="Verify"),
    _command("findKey", "List the handles of keys", USER,
             maybe("-c", "Class: 2 public, 3 private, 4 secret"),
             maybe("-t", "Type: 0 RSA, 3 EC, 16 generic secret, 31 AES"),
             maybe("-l", "Label"), maybe("-id", "Id"),
             maybe("-sess", "1: session keys only, 0: token keys only", Kind.MAYBE),
             maybe("-u", "Numbers of users with whom the key is shared, separated by commas"),
             maybe("-m", "File with the modulus, binary", words=Words.FILES),
             maybe("-kcv", "Check value, hexadecimal"), action="kmu:find", call="FindKey"),
    _command("findSingleKey", "Tell whether every HSM has a key", USER, _KEY, action="kmu:single",
             call="FindSingleKey"),
    _command("getAttribute", "Write an attribute of a key, or with 512 all, to a new file", USER,
             value("-o", "Handle of the key"), value("-a", "Number, see listAttributes"), _OUT,
             action="kmu:get_attribute", call="GetAttribute"),
    _command("setAttribute", "Make a session key a token key", OWNER,
             value("-o", "Handle of the key"),
             Flag("-a", "1 (token)", is_required=True, choices=("1",)),
             action="kmu:set_attribute", call="SetAttribute"),
    _command("listAttributes", "List the numbers of attributes", ANYBODY,
             action="cmu_keys:list_attributes"),
    _command("getKeyInfo", "Show whose a key is", USER, _KEY, action="kmu:key_info",
             call="GetKeyInfo"),
    _command("listUsers", "List the users", ANYBODY, action="kmu:list_users", call="ListUsers"),
    _command("deleteKey", "Delete a key from every HSM; backups still hold it", OWNER, _KEY,
             action="kmu:delete", call="DeleteKey"),
    _command("extractMaskedObject", "Write a key for a clone", OWNER,
             value("-o", "Handle of the key"), _OUT, call="ExtractMaskedObject", missing=_MASKED),
    _command("insertMaskedObject", "Make a key of a clone's", OWNER, _IN,
             maybe("-min_srv", "How many HSMs"), maybe("-timeout", "Seconds"),
             call="InsertMaskedObject", missing=_MASKED),
    _command("getCaviumPrivKey", "Write a stand-in for a private key, which names it, PEM", USER,
             _KEY, _OUT, action="kmu_moving:reference", call="GetCaviumPrivKey"),
    _command("IsValidKeyHandlefile", "Tell a stand-in from a private key", ANYBODY, _IN,
             action="kmu_moving:is_reference"),
    _command("getCert", "Write a certificate to a new file", ANYBODY,
             value("-f", "File to write, PEM", words=Words.FILES),
             Flag("-s", "4: root that the customer trusts, 8: the cluster's certificate",
                  is_required=True, short="-t"),
             action="kmu:certificate", call="GetCert"),
    _command("Error2String", "Explain a return code", ANYBODY,
             value("-r", "The code, decimal or 0x…"), action="kmu:explain"),
)  # fmt: skip

_SECRET: Final = re.compile(
    r"\s--?p(?:assword)?(?:\s*=\s*|\s+)(\S.*?)(?=\s+-(?:u|s|hpswd)\b|\s*$)", re.IGNORECASE
)

_ATTACHED: Final = re.compile(r"\s-p(\S.*?)(?=\s+-(?:u|s|hpswd)\b|\s*$)", re.IGNORECASE)
"""No flag, and a habit of other tools: it is refused, and stood in the history."""


def _secrets(line: str) -> list[tuple[int, int]]:
    """Return what follows -p, up to the next flag of loginHSM."""
    found = [each.span(1) for each in _SECRET.finditer(line)]
    if not found and line.split()[:1] and line.split(maxsplit=1)[0].lower() == "loginhsm":
        return [each.span(1) for each in _ATTACHED.finditer(line)]
    return found


KMU: Final = Dialect(
    "key_mgmt_util",
    "Command: ",
    "crypto-user",
    Command(
        "key_mgmt_util",
        "Manage the keys of a cluster of HSMs",
        children=(
            *_COMMANDS,
            Command("help", "List the commands"),
            Command("exit", "Leave"),
        ),
    ),
    _secrets,
)
