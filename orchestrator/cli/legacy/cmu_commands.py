"""The commands of `cloudhsm_mgmt_util`, as data."""

from __future__ import annotations

import re
from typing import Final

from orchestrator.cli.cloudhsm.syntax import Command, Flag, Kind, Words
from orchestrator.cli.legacy.dialect import Dialect, LegacyCommand, maybe, value

_TYPE = value("--user-type", "CO (crypto officer) or CU (crypto user)")
_NAME = value("--user-name", "Name of the user", words=Words.USERS)
_PASSWORD = (
    maybe("--password", "The password; never on the command line of a process: only typed or read"),
    maybe("-hpswd", "Ask for the password, without echo", Kind.SWITCH),
)
_EITHER = (("--password", "-hpswd"),)
_2FA = maybe("-2fa", "File for the tokens that the second factor signs", words=Words.FILES)
_HANDLE = value("--key-handle", "Handle of the key, decimal or 0x…")
_USER_ID = value("--user-id", "Number of the user, see listUsers")
_FILE = maybe("--file", "File to write the output to as well", words=Words.FILES)
_SERVICE = value("--service", "3 (user management) or 4 (quorum values)")
_ATTRIBUTE = value("--attribute", "Number of the attribute, see listAttributes")
_CLONE = value("--cluster", "Cluster to copy to, a clone of this one", words=Words.CLUSTERS)
ANYBODY, USER, BOTH, OFFICER = "anybody", "CU", "CO, CU", "CO"


def _command(
    name: str,
    text: str,
    who: str,
    *flags: Flag,
    action: str = "",
    one_of: tuple[tuple[str, ...], ...] = (),
    is_critical: bool = False,
    changes: bool = False,
) -> LegacyCommand:
    return LegacyCommand(
        name, text, flags, action, one_of=one_of, who=who, is_critical=is_critical,
        changes=changes or is_critical,
    )  # fmt: skip


_COMMANDS: Final = (
    _command("loginHSM", "Log in to every HSM", BOTH, _TYPE, _NAME, *_PASSWORD, _2FA,
             action="cmu:login", one_of=_EITHER),
    _command("logoutHSM", "Log out of every HSM", BOTH, action="cmu:logout"),
    _command("createUser", "Make a user on every HSM", OFFICER, _TYPE, _NAME, *_PASSWORD, _2FA,
             action="cmu_users:create", one_of=_EITHER, is_critical=True),
    _command("deleteUser", "Delete a user who owns no keys", OFFICER, _TYPE, _NAME,
             action="cmu_users:delete", is_critical=True),
    _command("changePswd", "Set a password. With type PRECO and user admin: activate the cluster",
             "CO, CU (self), PRECO", _TYPE, _NAME, *_PASSWORD, _2FA,
             action="cmu_users:change_password", one_of=_EITHER, is_critical=True),
    _command("listUsers", "List the users", ANYBODY, action="cmu_users:list_users"),
    _command("findAllKeys", "List the handles of a user's own (o) and shared (s) keys", BOTH,
             _USER_ID, value("--hash", "1 shows a SHA-256 of whose the keys are, 0 does not"),
             _FILE, action="cmu_keys:find_all"),
    _command("getAttribute", "Show an attribute of a key, or with 512 all", BOTH, _HANDLE,
             _ATTRIBUTE, _FILE, action="cmu_keys:get_attribute"),
    _command("setAttribute", "Change an attribute of a key", "CU (owner); CO: 134, trusted",
             _HANDLE, _ATTRIBUTE, maybe("--value", "0 or 1; text for a label, hex for an id"),
             action="cmu_keys:set_attribute", changes=True),
    _command("listAttributes", "List the numbers of attributes", ANYBODY,
             action="cmu_keys:list_attributes"),
    _command("shareKey", "Let another crypto user use a key, or no more", "CU (owner)", _HANDLE,
             _USER_ID, value("--share", "1 to share, 0 to unshare"), action="cmu_keys:share",
             is_critical=True),
    _command("getKeyInfo", "Show whose a key is", BOTH, value("-k", "Handle of the key"), _FILE,
             action="cmu_keys:key_info"),
    _command("getHSMInfo", "Show what the HSMs are", ANYBODY, action="cmu:hsm_info"),
    _command("info", "Show one server: the HSM, its host and who is logged in", ANYBODY,
             Flag("--what", "The word server", is_required=True, choices=("server",)),
             value("--number", "Number of the server", Kind.NUMBER), action="cmu:info"),
    _command("server", "Look at one HSM only, until exit; changes are for all HSMs, and refused",
             ANYBODY, value("--number", "Number of the server", Kind.NUMBER), action="cmu:server"),
    _command("exit", "Leave the mode that server began", ANYBODY, action="cmu:leave_server"),
    _command("getCert", "Write a certificate to a new file", ANYBODY,
             value("--file", "File to write, PEM", words=Words.FILES),
             value("--type", "4: root that the customer trusts, 8: the cluster's certificate"),
             action="cmu:certificate"),
    _command("registerQuorumPubKey", "Register your public key, to approve with", BOTH, _TYPE,
             _NAME, value("--token", "Unsigned token, from getToken registration",
                          words=Words.FILES),
             value("--signed-token", "The token with signatures filled in", words=Words.FILES),
             value("--public-key", "File with the public key, PEM", words=Words.FILES),
             action="cmu_quorum:register", changes=True),
    _command("getToken", "Write a token for others to sign", OFFICER,
             value("--service", "3 (user management), 4 (quorum values) or registration"), _NAME,
             value("--file", "File to write", words=Words.FILES), action="cmu_quorum:get_token",
             changes=True),
    _command("approveToken", "Take a signed token along to the next change that needs approvals",
             OFFICER, value("--file", "The signed token", words=Words.FILES),
             action="cmu_quorum:approve"),
    _command("listTokens", "List the tokens that wait", BOTH, action="cmu_quorum:list_tokens"),
    _command("deleteToken", "Withdraw your tokens", OFFICER, action="cmu_quorum:delete_tokens",
             changes=True),
    _command("setMValue", "Set how many approvals a service takes", OFFICER, _SERVICE,
             value("--value", "How many; 1 is off", Kind.NUMBER), action="cmu_quorum:set_value",
             is_critical=True),
    _command("getMValue", "Show how many approvals a service takes", ANYBODY, _SERVICE,
             action="cmu_quorum:get_value"),
    _command("syncKey", "Copy a key to a clone of the cluster", BOTH, _HANDLE, _CLONE,
             action="cmu_keys:sync", changes=True),
    _command("syncUser", "Copy a user to a clone of the cluster", OFFICER, _USER_ID, _CLONE,
             action="cmu_users:sync", changes=True),
)  # fmt: skip

_OPEN: Final = {c.name for c in _COMMANDS if not c.flag("--password")} | {"help", "quit"}


def _secrets(line: str) -> list[tuple[int, int]]:
    """Return what follows type and name in a command that takes a password, or is none."""
    words = list(re.finditer(r"\S+", line))
    if not words or words[0][0] in _OPEN:
        return []
    found, before, is_path = list[tuple[int, int]](), 0, False
    for word in words[1:]:
        if is_path or word[0] in {"-hpswd", "-2fa", "-h", "--help"}:
            # Before type and name a path may have been forgotten: what follows counts as one.
            is_path = word[0] == "-2fa" and not is_path and before == 2
        elif before < 2 and not word[0].startswith("--"):
            before += 1
        else:
            found.append(word.span())
    return found


CMU: Final = Dialect(
    "cloudhsm_mgmt_util",
    "aws-cloudhsm> ",
    "admin",
    Command(
        "cloudhsm_mgmt_util",
        "Manage the users of a cluster of HSMs",
        children=(
            *_COMMANDS,
            Command("help", "List the commands"),
            Command("quit", "Leave"),
        ),
    ),
    _secrets,
)
