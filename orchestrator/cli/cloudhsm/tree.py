"""The command tree of the CloudHSM CLI, as data.

Parser, help, completion, the reference in docs/cloudhsm-cli.md and the transcripts are made from
it. Names, flags and value syntax are those of Client SDK 5.18.
"""

from __future__ import annotations

from typing import Final

from orchestrator.cli.cloudhsm import flags as f
from orchestrator.cli.cloudhsm.key_tree import CRYPTO, KEYS
from orchestrator.cli.cloudhsm.syntax import Command, Flag, Kind, Words

PROGRAM: Final = "cloudhsm-cli"

# --- cluster ---

_CLUSTER: Final = f.group(
    "cluster",
    "Activate the cluster, and look at it",
    f.command(
        "activate",
        "Activate the cluster: set the first password of the user admin",
        "clusters:activate",
        f.PASSWORD,
        who="unactivated-admin",
    ),
    f.command("hsm-info", "List the HSMs of the cluster", "clusters:hsm_info", who=f.ANYBODY),
    f.group(
        "mtls",
        "Client certificates for connections to the HSMs",
        f.command(
            "register-trust-anchor",
            "Register a trust anchor for client certificates",
            "clusters:mtls",
            f.needed("--path", "File with the certificate chain, PEM", Words.FILES),
            f.APPROVAL,
            who=f.ADMIN,
        ),
        f.command("list-trust-anchors", "List the trust anchors", "clusters:mtls", who=f.ANYBODY),
        f.command(
            "deregister-trust-anchor",
            "Remove a trust anchor",
            "clusters:mtls",
            f.needed("--certificate-reference", "Its reference, hexadecimal or decimal"),
            f.APPROVAL,
            who=f.ADMIN,
        ),
        f.command("get-enforcement", "Show the enforcement level", "clusters:mtls", who=f.BOTH),
        f.command(
            "set-enforcement",
            "Set the enforcement level",
            "clusters:mtls",
            Flag("--level", "The level", is_required=True, choices=("none", "cluster")),
            f.APPROVAL,
            who=f.ADMIN,
        ),
    ),
)

# --- login, quorum, user ---

_LOGIN: Final = f.command(
    "login",
    "Log in to the cluster",
    "logins:login",
    f.USERNAME,
    f.ROLE,
    f.PASSWORD,
    who=f.ANYBODY,
    children=(
        Command(
            "mfa-token-sign",
            "Log in with a second factor: sign tokens with your private key",
            (f.needed("--token", "File to write the unsigned tokens to", Words.FILES),),
            "logins:login_mfa",
            who=f.BOTH,
        ),
    ),
)
_LOGOUT: Final = f.command("logout", "Log out of the cluster", "logins:logout", who=f.BOTH)
_SERVICE: Final = "Quorum service that the token is for"
_QUORUM: Final = f.group(
    "quorum",
    "Approvals by several people",
    f.group(
        "token-sign",
        "Approvals by signed tokens",
        f.command(
            "delete",
            "Delete quorum tokens",
            "quorums:delete",
            Flag("--scope", "Your own tokens, or everybody's", is_required=True,
                 choices=("user", "all")),
            f.REQUEST,
            who="admin, crypto-user (own tokens)",
        ),
        f.command(
            "generate",
            "Make a quorum token, to be signed by approvers",
            "quorums:generate",
            Flag("--service", _SERVICE, is_required=True,
                 choices=("user", "quorum", "cluster", "registration", "key-usage",
                          "key-management")),
            f.needed("--token", "File to write the token to", Words.FILES),
            f.OPTIONAL_FILTER,
            who=f.BOTH,
        ),
        f.command("list", "List the quorum tokens", "quorums:list_tokens", who=f.BOTH),
        f.command("list-quorum-values", "List the quorum values", "quorums:list_values",
                 who=f.ANYBODY),
        f.command("list-timeouts", "List how long tokens live, in seconds",
                 "quorums:list_timeouts", who=f.ANYBODY),
        f.command(
            "set-timeout",
            "Set how long tokens live",
            "quorums:set_timeout",
            Flag("--generated", "Seconds from making a token to its use", Kind.NUMBER),
            Flag("--approved", "Seconds for which an approved use of a key can be asked for",
                 Kind.NUMBER),
            f.APPROVAL,
            f.REQUEST,
            who=f.ADMIN,
            one_of=(("--generated", "--approved"),),
        ),
        f.command(
            "set-quorum-value",
            "Set how many approvals a service takes",
            "quorums:set_value",
            Flag("--service", "Quorum service", is_required=True,
                 choices=("user", "quorum", "cluster")),
            Flag("--value", "How many approvals, 2 to 8", Kind.NUMBER, is_required=True),
            f.APPROVAL,
            f.REQUEST,
            who=f.ADMIN,
        ),
    ),
)  # fmt: skip
_USERS: Final = f.group(
    "user",
    "Make and manage users",
    f.group(
        "change-mfa",
        "Change how a user proves a second factor",
        f.command(
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
    f.command(
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
    f.group(
        "change-quorum",
        "Change how a user approves",
        f.group(
            "token-sign",
            "Approve by signing tokens",
            f.command(
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
    f.command("create", "Make a user", "users:create", f.USERNAME, f.ROLE, f.PASSWORD, f.APPROVAL,
             f.REQUEST, who=f.ADMIN),
    f.command(
        "delete",
        "Delete a user who owns no keys, or whose keys another gets",
        "users:delete",
        f.USERNAME,
        f.ROLE,
        Flag("--transfer-to", "Crypto user who gets the keys", words=Words.USERS),
        f.APPROVAL,
        f.REQUEST,
        who=f.ADMIN,
    ),
    f.command("list", "List the users", "users:list_users", who=f.ANYBODY),
    f.command("replicate", "Copy a user to a clone of the cluster", "users:replicate", f.USERNAME,
             f.ROLE, f.SOURCE, f.DESTINATION, f.APPROVAL, who=f.ADMIN),
)  # fmt: skip

TREE: Final = f.group(
    PROGRAM,
    "Manage the users and keys of a cluster of HSMs",
    _CLUSTER,
    CRYPTO,
    KEYS,
    _LOGIN,
    _LOGOUT,
    _QUORUM,
    _USERS,
    f.command("interactive", "Run commands one after the other, with one login", "shell:run",
             who=f.ANYBODY),
    Command("help", "Print help, or that of the command whose path follows"),
    Command("quit", "Leave interactive mode"),
)  # fmt: skip
INTERACTIVE: Final = Command(
    TREE.name, TREE.help, children=tuple(c for c in TREE.children if c.name != "interactive")
)
SINGLE: Final = Command(
    TREE.name, TREE.help, children=tuple(c for c in TREE.children if c.name != "quit")
)
