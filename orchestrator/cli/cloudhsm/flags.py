"""Flags that several commands of the tree take, and how commands are put together."""

from __future__ import annotations

from typing import Final

from orchestrator.cli.cloudhsm.syntax import Command, Flag, Kind, Words

_FILTER: Final = (
    "key-reference=<REFERENCE>, or attr.<NAME>=<VALUE> terms that must all match, separated by "
    "spaces"
)
HASHES: Final = ("sha1", "sha224", "sha256", "sha384", "sha512")
MGFS: Final = tuple(f"mgf1-{name}" for name in HASHES)
ROLES: Final = ("crypto-user", "admin")


def needed(name: str, text: str, words: Words = Words.NOTHING) -> Flag:
    """Return a flag that must be given."""
    return Flag(name, text, is_required=True, words=words)


def filtering(name: str, what: str) -> Flag:
    """Return a flag that selects one key."""
    return Flag(name, f"{what}: {_FILTER}", Kind.LIST, is_required=True, words=Words.FILTER)


def attributes(name: str, what: str) -> Flag:
    """Return a flag with attributes to set."""
    text = f"{what}, as <NAME>=<VALUE> separated by spaces"
    return Flag(name, text, Kind.LIST, words=Words.ATTRIBUTES)


CLUSTER_ID: Final = Flag(
    "--cluster-id",
    "Which cluster, where several are configured. In interactive mode the default is the one that "
    "the mode began with",
    words=Words.CLUSTERS,
)
REQUEST: Final = Flag(
    "--request", "Fetch the result of a pending change by the request id that its answer named"
)
USERNAME: Final = needed("--username", "Name of the user", Words.USERS)
ROLE: Final = Flag("--role", "Role of the user", is_required=True, choices=ROLES)
PASSWORD: Final = Flag(
    "--password",
    "The password. Without it you are asked, and nothing is echoed; given here, every user of this "
    "machine can read it while the command runs",
    Kind.MAYBE,
)
APPROVAL: Final = Flag(
    "--approval",
    "File with the signed quorum token that approves the operation",
    words=Words.FILES,
)
FILTER: Final = filtering("--filter", "Which key")
OPTIONAL_FILTER: Final = Flag("--filter", f"Which keys: {_FILTER}", Kind.LIST, words=Words.FILTER)
LABEL: Final = needed("--label", "Label of the new key")
SESSION: Final = Flag(
    "--session",
    "Make a session key: it lives on one HSM until log-out, and is in no backup",
    Kind.SWITCH,
)
SHARE: Final = Flag(
    "--share-crypto-users",
    "Crypto users who may use the key too, separated by spaces",
    Kind.LIST,
    words=Words.USERS,
)
MANAGE_QUORUM: Final = "How many approvals managing the key takes (0, or 2 to 8)"
USE_QUORUM: Final = "How many approvals signing with the key takes (0, or 2 to 8)"
KEY_QUORUM: Final = (
    Flag("--manage-key-quorum-value", MANAGE_QUORUM, Kind.NUMBER),
    Flag("--use-key-quorum-value", USE_QUORUM, Kind.NUMBER),
)
PRIVATE_KEY_QUORUM: Final = (
    Flag("--manage-private-key-quorum-value", MANAGE_QUORUM, Kind.NUMBER),
    Flag("--use-private-key-quorum-value", USE_QUORUM, Kind.NUMBER),
)
PUBLIC_LABEL: Final = needed("--public-label", "Label of the public key")
PRIVATE_LABEL: Final = needed("--private-label", "Label of the private key")
PAIR: Final = (
    SESSION,
    attributes("--public-attributes", "Attributes of the public key"),
    attributes("--private-attributes", "Attributes of the private key"),
    SHARE,
    *PRIVATE_KEY_QUORUM,
    REQUEST,
)
HASH: Final = Flag("--hash-function", "Hash function", is_required=True, choices=HASHES)
MGF: Final = Flag(
    "--mgf", "Mask generation function; its hash is that of --hash-function", is_required=True,
    choices=MGFS,
)  # fmt: skip
SALT: Final = Flag("--salt-length", "Length of the salt in bytes", Kind.NUMBER, is_required=True)
DATA: Final = (
    Flag("--data", "The data, base64"),
    Flag("--data-path", "File with the data, binary", words=Words.FILES),
)
DATA_OR_PATH: Final = (("--data", "--data-path"),)
DATA_TYPE: Final = Flag(
    "--data-type",
    "raw is hashed here before it is signed; digest is hashed already",
    choices=("raw", "digest"),
    default="raw",
)
SIGNATURE: Final = (
    Flag("--signature", "The signature, base64"),
    Flag("--signature-path", "File with the signature, binary", words=Words.FILES),
)
TAG_LENGTH: Final = Flag(
    "--tag-length-bits", "Length of the authentication tag in bits", Kind.NUMBER, is_required=True
)
AAD: Final = Flag("--aad", "Additional authenticated data, hexadecimal")
SOURCE: Final = needed("--source-cluster-id", "Cluster to copy from", Words.CLUSTERS)
DESTINATION: Final = needed("--destination-cluster-id", "Clone to copy to", Words.CLUSTERS)
ADMIN, USER, BOTH, ANYBODY = "admin", "crypto-user", "admin, crypto-user", "anybody"
OWNER: Final = "crypto-user (owner)"


def command(
    name: str,
    text: str,
    action: str,
    *own: Flag,
    who: str,
    one_of: tuple[tuple[str, ...], ...] = (),
    children: tuple[Command, ...] = (),
) -> Command:
    """Return a command of one cluster."""
    return Command(name, text, (CLUSTER_ID, *own), action, children, one_of, who)


def group(name: str, text: str, *children: Command) -> Command:
    """Return a group of commands."""
    return Command(name, text, children=children)
