"""The command tree of the CloudHSM CLI, as data.

Parser, help, completion, the reference in docs/cloudhsm-cli.md and the transcripts are made from
it. Names, flags and value syntax are those of Client SDK 5.18.
"""

from __future__ import annotations

from typing import Final

from orchestrator.cli.cloudhsm import flags as f
from orchestrator.cli.cloudhsm.syntax import Command, Flag, Kind, Words

PROGRAM: Final = "cloudhsm-cli"
ADMIN, USER, BOTH, ANYBODY = "admin", "crypto-user", "admin, crypto-user", "anybody"
OWNER: Final = "crypto-user (owner)"


def _command(
    name: str,
    text: str,
    action: str,
    *own: Flag,
    who: str,
    one_of: tuple[tuple[str, ...], ...] = (),
    children: tuple[Command, ...] = (),
) -> Command:
    return Command(name, text, (f.CLUSTER_ID, *own), action, children, one_of, who)


def _group(name: str, text: str, *children: Command) -> Command:
    return Command(name, text, children=children)


# --- cluster ---

_CLUSTER: Final = _group(
    "cluster",
    "Activate the cluster, and look at it",
    _command(
        "activate",
        "Activate the cluster: set the first password of the user admin",
        "clusters:activate",
        f.PASSWORD,
        who="unactivated-admin",
    ),
    _command("hsm-info", "List the HSMs of the cluster", "clusters:hsm_info", who=ANYBODY),
    _group(
        "mtls",
        "Client certificates for connections to the HSMs",
        _command(
            "register-trust-anchor",
            "Register a trust anchor for client certificates",
            "clusters:mtls",
            f.needed("--path", "File with the certificate chain, PEM", Words.FILES),
            f.APPROVAL,
            who=ADMIN,
        ),
        _command("list-trust-anchors", "List the trust anchors", "clusters:mtls", who=ANYBODY),
        _command(
            "deregister-trust-anchor",
            "Remove a trust anchor",
            "clusters:mtls",
            f.needed("--certificate-reference", "Its reference, hexadecimal or decimal"),
            f.APPROVAL,
            who=ADMIN,
        ),
        _command("get-enforcement", "Show the enforcement level", "clusters:mtls", who=BOTH),
        _command(
            "set-enforcement",
            "Set the enforcement level",
            "clusters:mtls",
            Flag("--level", "The level", is_required=True, choices=("none", "cluster")),
            f.APPROVAL,
            who=ADMIN,
        ),
    ),
)

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
    return _command(
        name, f"Sign with {_TITLES[name]}", action, *_SIGN[name], f.APPROVAL,
        who=USER, one_of=f.DATA_OR_PATH,
    )  # fmt: skip


def _verify(name: str) -> Command:
    action = "crypto:missing" if name in _MISSING else "crypto:verify"
    one_of = (*f.DATA_OR_PATH, ("--signature", "--signature-path"))
    return _command(
        name, f"Verify with {_TITLES[name]}", action, *_SIGN[name], *f.SIGNATURE,
        who=USER, one_of=one_of,
    )  # fmt: skip


_CRYPTO: Final = _group(
    "crypto",
    "Sign and verify",
    _group("sign", "Sign, inside an HSM", *(_sign(name) for name in _SIGN)),
    _group("verify", "Verify, on this machine", *(_verify(name) for name in _SIGN)),
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
    return _command(
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
        who=OWNER,
    )  # fmt: skip


def _unwrap(name: str) -> Command:
    iv = (f.needed("--iv", "The IV that wrapping showed, hexadecimal"),) * (name == "aes-gcm")
    return _command(
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
        who=USER,
        one_of=f.DATA_OR_PATH,
    )  # fmt: skip


_KEYS: Final = _group(
    "key",
    "Make and manage keys",
    _command(
        "delete",
        "Delete one key; of a pair the other half stays",
        "keys:delete",
        f.FILTER,
        f.APPROVAL,
        f.REQUEST,
        who=OWNER,
    ),
    _group(
        "generate-asymmetric-pair",
        "Make a key pair",
        _command(
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
            who=USER,
        ),
        _command(
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
            who=USER,
        ),
        _command(
            "ml-dsa",
            "Make an ML-DSA key pair",
            "keys:generate_ml_dsa",
            f.PUBLIC_LABEL,
            f.PRIVATE_LABEL,
            Flag("--mldsa-algorithm", "Parameter set", is_required=True,
                 choices=("ML-DSA-44", "ML-DSA-65", "ML-DSA-87")),
            *f.PAIR,
            who=USER,
        ),
    ),
    _group(
        "generate-symmetric",
        "Make a secret key",
        _command("aes", "Make an AES key", "keys:generate_aes", *_SECRET, who=USER),
        _command(
            "generic-secret", "Make a generic secret", "keys:generate_secret", *_SECRET, who=USER
        ),
    ),
    _command(
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
        who=USER,
    ),
    _group(
        "import",
        "Import a key",
        _command(
            "pem",
            "Import a public key from a PEM file",
            "keys:import_pem",
            f.needed("--path", "The PEM file", Words.FILES),
            f.LABEL,
            Flag("--key-type-class", "Type and class of the key", is_required=True,
                 choices=("rsa-public", "ec-public")),
            f.attributes("--attributes", "Attributes of the key"),
            f.REQUEST,
            who=USER,
        ),
    ),
    _command(
        "list",
        "List the keys that you own or that are shared with you, and all public keys",
        "keys:list_keys",
        f.OPTIONAL_FILTER,
        Flag("--max-items", "How many keys to show", Kind.NUMBER, default="10"),
        Flag("--starting-token", "next_token of the page before: where this page begins"),
        Flag("--verbose", "Show owners and attributes too", Kind.SWITCH, short="-v"),
        who=BOTH,
    ),
    _command(
        "replicate",
        "Copy a key to a clone of its cluster",
        "keys:replicate",
        f.FILTER,
        f.SOURCE,
        f.DESTINATION,
        f.APPROVAL,
        who="admin, crypto-user (owner)",
    ),
    _command(
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
    _command("share", "Share a key with a crypto user", "keys:share", f.FILTER, f.USERNAME, f.ROLE,
             f.APPROVAL, f.REQUEST, who=OWNER),
    _command("unshare", "End the sharing of a key with a crypto user", "keys:unshare", f.FILTER,
             f.USERNAME, f.ROLE, f.APPROVAL, f.REQUEST, who=OWNER),
    _group("unwrap", "Unwrap a key into the cluster", *(_unwrap(name) for name in WRAPS)),
    _group("wrap", "Wrap a key: encrypt it under another", *(_wrap(name) for name in WRAPS)),
)  # fmt: skip

# --- login, quorum, user ---

_LOGIN: Final = _command(
    "login",
    "Log in to the cluster",
    "logins:login",
    f.USERNAME,
    f.ROLE,
    f.PASSWORD,
    who=ANYBODY,
    children=(
        Command(
            "mfa-token-sign",
            "Log in with a second factor: sign tokens with your private key",
            (f.needed("--token", "File to write the unsigned tokens to", Words.FILES),),
            "logins:login_mfa",
            who=BOTH,
        ),
    ),
)
_LOGOUT: Final = _command("logout", "Log out of the cluster", "logins:logout", who=BOTH)
_SERVICE: Final = "Quorum service that the token is for"
_QUORUM: Final = _group(
    "quorum",
    "Approvals by several people",
    _group(
        "token-sign",
        "Approvals by signed tokens",
        _command(
            "delete",
            "Delete quorum tokens",
            "quorums:delete",
            Flag("--scope", "Your own tokens, or everybody's", is_required=True,
                 choices=("user", "all")),
            f.REQUEST,
            who=ADMIN,
        ),
        _command(
            "generate",
            "Make a quorum token, to be signed by approvers",
            "quorums:generate",
            Flag("--service", _SERVICE, is_required=True,
                 choices=("user", "quorum", "cluster", "registration", "key-usage",
                          "key-management")),
            f.needed("--token", "File to write the token to", Words.FILES),
            f.OPTIONAL_FILTER,
            who=BOTH,
        ),
        _command("list", "List the quorum tokens", "quorums:list_tokens", who=BOTH),
        _command("list-quorum-values", "List the quorum values", "quorums:list_values",
                 who=ANYBODY),
        _command(
            "set-quorum-value",
            "Set how many approvals a service takes",
            "quorums:set_value",
            Flag("--service", "Quorum service", is_required=True,
                 choices=("user", "quorum", "cluster")),
            Flag("--value", "How many approvals, 2 to 8", Kind.NUMBER, is_required=True),
            f.APPROVAL,
            f.REQUEST,
            who=ADMIN,
        ),
    ),
)  # fmt: skip
_USERS: Final = _group(
    "user",
    "Make and manage users",
    _group(
        "change-mfa",
        "Change how a user proves a second factor",
        _command(
            "token-sign",
            "Enrol, change or end signing tokens as second factor",
            "mfa:change_mfa",
            f.USERNAME,
            f.ROLE,
            Flag("--token", "File to write the unsigned tokens to", words=Words.FILES),
            Flag("--deregister", "End the second factor", Kind.SWITCH),
            Flag(
                "--change-password",
                "The user's new password. With --token and without this you are asked for one",
                Kind.MAYBE,
            ),
            Flag("--change-quorum", "Make the same public key the quorum key", Kind.SWITCH),
            f.APPROVAL,
            f.REQUEST,
            who="admin, crypto-user (self)",
            one_of=(("--token", "--deregister"),),
        ),
    ),
    _command(
        "change-password",
        "Set a password: your own, or as admin anybody's, which also unlocks",
        "users:change_password",
        f.USERNAME,
        f.ROLE,
        f.PASSWORD,
        f.APPROVAL,
        Flag("--deregister-mfa", "End the user's second factor", Kind.SWITCH),
        Flag("--deregister-quorum", "Remove the user's quorum key", Kind.SWITCH),
        f.REQUEST,
        who="admin, crypto-user (self)",
    ),
    _group(
        "change-quorum",
        "Change how a user approves",
        _group(
            "token-sign",
            "Approve by signing tokens",
            _command(
                "register",
                "Register your public key, to approve with",
                "mfa:register",
                f.needed("--public-key", "File with the public key, PEM", Words.FILES),
                f.needed("--signed-token", "File with the signed registration token", Words.FILES),
                f.REQUEST,
                who="admin, crypto-user (self)",
            ),
        ),
    ),
    _command("create", "Make a user", "users:create", f.USERNAME, f.ROLE, f.PASSWORD, f.APPROVAL,
             f.REQUEST, who=ADMIN),
    _command(
        "delete",
        "Delete a user who owns no keys, or whose keys another gets",
        "users:delete",
        f.USERNAME,
        f.ROLE,
        Flag("--transfer-to", "Crypto user who gets the keys", words=Words.USERS),
        f.APPROVAL,
        f.REQUEST,
        who=ADMIN,
    ),
    _command("list", "List the users", "users:list_users", who=ANYBODY),
    _command("replicate", "Copy a user to a clone of the cluster", "users:replicate", f.USERNAME,
             f.ROLE, f.SOURCE, f.DESTINATION, f.APPROVAL, who=ADMIN),
)  # fmt: skip

TREE: Final = _group(
    PROGRAM,
    "Manage the users and keys of a cluster of HSMs",
    _CLUSTER,
    _CRYPTO,
    _KEYS,
    _LOGIN,
    _LOGOUT,
    _QUORUM,
    _USERS,
    _command("interactive", "Run commands one after the other, with one login", "shell:run",
             who=ANYBODY),
    Command("help", "Print help, or that of the command whose path follows"),
    Command("quit", "Leave interactive mode"),
)  # fmt: skip
INTERACTIVE: Final = Command(
    TREE.name, TREE.help, children=tuple(c for c in TREE.children if c.name != "interactive")
)
SINGLE: Final = Command(
    TREE.name, TREE.help, children=tuple(c for c in TREE.children if c.name != "quit")
)
