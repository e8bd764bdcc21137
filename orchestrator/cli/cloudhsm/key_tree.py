"""The part of the command tree that is about keys: `crypto` and `key`."""

from __future__ import annotations

from typing import Final

from orchestrator.cli.cloudhsm import flags as f
from orchestrator.cli.cloudhsm.syntax import Command, Flag, Kind, Words

# --- crypto ---

_KEY: Final = f.filtering("--key-filter", "Which key")
_SIGN: Final = {
    "ecdsa": (_KEY, f.HASH, *f.DATA, f.DATA_TYPE),
    "rsa-pkcs": (_KEY, f.HASH, *f.DATA, f.DATA_TYPE),
    "rsa-pkcs-pss": (_KEY, f.HASH, f.MGF, f.SALT, *f.DATA, f.DATA_TYPE),
    "ed25519": (_KEY, *f.DATA),
    "ed25519ph": (
        _KEY,
        Flag("--hash-function", "Hash function", is_required=True, choices=("sha512",)),
        *f.DATA,
        Flag(
            "--data-type",
            "raw is hashed here before it is signed; digest is hashed already",
            is_required=True,
            choices=("raw", "digest"),
        ),
    ),
    "ml-dsa": (
        _KEY,
        Flag("--hash-function", "Hash function", is_required=True, choices=("shake256",)),
        *f.DATA,
        Flag(
            "--data-type",
            "raw is the message; external-mu its 64-byte representative",
            is_required=True,
            choices=("raw", "external-mu"),
        ),
    ),
}
_TITLES: Final = {
    "ecdsa": "ECDSA",
    "rsa-pkcs": "RSA-PKCS",
    "rsa-pkcs-pss": "RSA-PKCS-PSS",
    "ed25519": "Ed25519",
    "ed25519ph": "HashEdDSA (Ed25519ph)",
    "ml-dsa": "ML-DSA",
}
_MISSING: Final = frozenset({"ed25519", "ed25519ph", "ml-dsa"})


def _sign(name: str) -> Command:
    action = "crypto:missing" if name in _MISSING else "crypto:sign"
    return f.command(
        name, f"Sign with {_TITLES[name]}", action, *_SIGN[name], f.APPROVAL,
        who=f.USER, one_of=f.DATA_OR_PATH,
    )  # fmt: skip


def _verify(name: str) -> Command:
    action = "crypto:missing" if name in _MISSING else "crypto:verify"
    one_of = (*f.DATA_OR_PATH, ("--signature", "--signature-path"))
    return f.command(
        name, f"Verify with {_TITLES[name]}", action, *_SIGN[name], *f.SIGNATURE,
        who=f.USER, one_of=one_of,
    )  # fmt: skip


CRYPTO: Final = f.group(
    "crypto",
    "Sign and verify",
    f.group("sign", "Sign, inside an HSM", *(_sign(name) for name in _SIGN)),
    f.group("verify", "Verify, on this machine", *(_verify(name) for name in _SIGN)),
)

# --- key ---

_SECRET: Final = (
    f.LABEL,
    Flag("--key-length-bytes", "Length of the key in bytes", Kind.NUMBER, is_required=True),
    f.SESSION,
    f.attributes("--attributes", "Attributes of the key"),
    f.SHARE,
    *f.KEY_QUORUM,
    f.REQUEST,
)
_OAEP: Final = (f.HASH, f.MGF)
WRAPS: Final = {
    "aes-gcm": (f.TAG_LENGTH, f.AAD),
    "aes-no-pad": (),
    "aes-pkcs5-pad": (),
    "aes-zero-pad": (),
    "cloudhsm-aes-gcm": (f.TAG_LENGTH, f.AAD),
    "rsa-aes": _OAEP,
    "rsa-oaep": _OAEP,
    "rsa-pkcs": (),
}


def _wrap(name: str) -> Command:
    return f.command(
        name,
        f"Wrap a key with {name}",
        "wrapping:wrap",
        f.filtering("--payload-filter", "Which key to wrap"),
        f.filtering("--wrapping-filter", "Which key to wrap with"),
        Flag(
            "--path", "File to write the wrapped key to, binary; else it is shown, base64",
            words=Words.FILES,
        ),
        Flag("--payload-approval", "File with the signed quorum token of the key to wrap",
             words=Words.FILES),
        Flag("--wrapping-approval", "File with the signed quorum token of the key to wrap with",
             words=Words.FILES),
        *WRAPS[name],
        who=f.OWNER,
    )  # fmt: skip


def _unwrap(name: str) -> Command:
    iv = (f.needed("--iv", "The IV that wrapping showed, hexadecimal"),) * (name == "aes-gcm")
    return f.command(
        name,
        f"Unwrap a key with {name}",
        "wrapping:unwrap",
        f.filtering("--filter", "Which key to unwrap with"),
        Flag("--data", "The wrapped key, base64"),
        Flag("--data-path", "File with the wrapped key, binary", words=Words.FILES),
        Flag(
            "--key-type-class", "Type and class of the new key", is_required=True,
            choices=("aes", "des3", "ec-private", "generic-secret", "rsa-private"),
        ),
        f.LABEL,
        f.SESSION,
        f.attributes("--attributes", "Attributes of the new key"),
        f.SHARE,
        *f.KEY_QUORUM,
        f.APPROVAL,
        *WRAPS[name],
        *iv,
        f.REQUEST,
        who=f.USER,
        one_of=f.DATA_OR_PATH,
    )  # fmt: skip


KEYS: Final = f.group(
    "key",
    "Make and manage keys",
    f.command(
        "delete",
        "Delete one key; of a pair the other half stays",
        "keys:delete",
        f.FILTER,
        f.APPROVAL,
        f.REQUEST,
        who=f.OWNER,
    ),
    f.group(
        "generate-asymmetric-pair",
        "Make a key pair",
        f.command(
            "rsa",
            "Make an RSA key pair",
            "keys:generate_rsa",
            f.PUBLIC_LABEL,
            f.PRIVATE_LABEL,
            Flag("--modulus-size-bits", "Length of the modulus in bits, 2048 to 4096",
                 Kind.NUMBER, is_required=True),
            Flag("--public-exponent", "Public exponent, odd and at least 65537",
                 Kind.NUMBER, is_required=True),
            *f.PAIR,
            who=f.USER,
        ),
        f.command(
            "ec",
            "Make an EC key pair",
            "keys:generate_ec",
            f.PUBLIC_LABEL,
            f.PRIVATE_LABEL,
            Flag(
                "--curve",
                "Curve; prime256v1 and secp256r1 are the same",
                is_required=True,
                choices=("prime256v1", "secp256r1", "secp224r1", "secp384r1", "secp256k1",
                         "secp521r1", "ed25519"),
            ),
            *f.PAIR,
            who=f.USER,
        ),
        f.command(
            "ml-dsa",
            "Make an ML-DSA key pair",
            "keys:generate_ml_dsa",
            f.PUBLIC_LABEL,
            f.PRIVATE_LABEL,
            Flag("--mldsa-algorithm", "Parameter set", is_required=True,
                 choices=("ML-DSA-44", "ML-DSA-65", "ML-DSA-87")),
            *f.PAIR,
            who=f.USER,
        ),
    ),
    f.group(
        "generate-symmetric",
        "Make a secret key",
        f.command("aes", "Make an AES key", "keys:generate_aes", *_SECRET, who=f.USER),
        f.command(
            "generic-secret", "Make a generic secret", "keys:generate_secret", *_SECRET, who=f.USER
        ),
    ),
    f.command(
        "generate-file",
        "Write a public key, or a reference to a private key, to a file",
        "keys:generate_file",
        Flag(
            "--encoding",
            "What to write: the public key (pem), or a stand-in that names a private key "
            "(reference-pem)",
            is_required=True,
            choices=("reference-pem", "pem", "cloudhsm-reference-pem", "ksp-key-reference"),
        ),
        f.needed("--path", "File to write; it must not exist yet", Words.FILES),
        f.FILTER,
        Flag("--all", "All keys that match (ksp-key-reference only)", Kind.SWITCH),
        who=f.USER,
    ),
    f.group(
        "import",
        "Import a key",
        f.command(
            "pem",
            "Import a public key from a PEM file",
            "keys:import_pem",
            f.needed("--path", "The PEM file", Words.FILES),
            f.LABEL,
            Flag("--key-type-class", "Type and class of the key", is_required=True,
                 choices=("rsa-public", "ec-public")),
            f.attributes("--attributes", "Attributes of the key"),
            f.REQUEST,
            who=f.USER,
        ),
    ),
    f.command(
        "list",
        "List the keys that you own or that are shared with you, and all public keys",
        "keys:list_keys",
        f.OPTIONAL_FILTER,
        Flag("--max-items", "How many keys to show", Kind.NUMBER, default="10"),
        Flag("--starting-token", "next_token of the page before: where this page begins"),
        Flag("--verbose", "Show owners and attributes too", Kind.SWITCH, short="-v"),
        who=f.BOTH,
    ),
    f.command(
        "replicate",
        "Copy a key to a clone of its cluster",
        "keys:replicate",
        f.FILTER,
        f.SOURCE,
        f.DESTINATION,
        f.APPROVAL,
        who="admin, crypto-user (owner)",
    ),
    f.command(
        "set-attribute",
        "Change an attribute of a key",
        "keys:set_attribute",
        f.FILTER,
        f.needed("--name", "Name of the attribute", Words.ATTRIBUTE_NAMES),
        f.needed("--value", "Its new value"),
        f.APPROVAL,
        f.REQUEST,
        who="crypto-user (owner); admin (trusted only)",
    ),
    f.command("share", "Share a key with a crypto user", "keys:share", f.FILTER, f.USERNAME, f.ROLE,
             f.APPROVAL, f.REQUEST, who=f.OWNER),
    f.command("unshare", "End the sharing of a key with a crypto user", "keys:unshare", f.FILTER,
             f.USERNAME, f.ROLE, f.APPROVAL, f.REQUEST, who=f.OWNER),
    f.group("unwrap", "Unwrap a key into the cluster", *(_unwrap(name) for name in WRAPS)),
    f.group("wrap", "Wrap a key: encrypt it under another", *(_wrap(name) for name in WRAPS)),
)  # fmt: skip
