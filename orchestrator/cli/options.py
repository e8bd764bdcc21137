"""Options and arguments that several commands take."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli import completion
from orchestrator.model.key_spec import HashFunction
from orchestrator.model.roles import Role


class LoginRole(StrEnum):
    """Roles that a person can have."""

    ADMIN = Role.ADMIN.value
    CRYPTO_USER = Role.CRYPTO_USER.value


class DataType(StrEnum):
    """Whether data is hashed before it is signed."""

    RAW = "raw"
    DIGEST = "digest"


class SignatureFormat(StrEnum):
    """ECDSA signatures as `r || s`, or as the DER SEQUENCE that openssl expects."""

    RAW = "raw"
    DER = "der"


class Mgf(StrEnum):
    """Mask generation functions of PSS."""

    SHA1 = "mgf1-sha1"
    SHA224 = "mgf1-sha224"
    SHA256 = "mgf1-sha256"
    SHA384 = "mgf1-sha384"
    SHA512 = "mgf1-sha512"


_FILTER_HELP = "key-reference=0x… or attr.NAME=VALUE …; all must match."

ZoneOption = Annotated[
    str,
    typer.Option("--az", metavar="AZ", help="Availability zone.", autocompletion=completion.zones),
]
UserOption = Annotated[str, typer.Option(metavar="NAME", help="User name.")]
RoleOption = Annotated[LoginRole, typer.Option(help="The user's role.")]
PasswordStdinOption = Annotated[
    bool, typer.Option("--password-stdin", help="Read the new password from stdin, one line.")
]
FilterOption = Annotated[list[str], typer.Option("--filter", metavar="FILTER …", help=_FILTER_HELP)]
KeyFilterOption = Annotated[
    list[str], typer.Option("--key-filter", metavar="FILTER …", help=_FILTER_HELP)
]
SessionOption = Annotated[
    bool,
    typer.Option("--session", help="Make a session key: on one HSM, gone when this command ends."),
]
HsmArgument = Annotated[
    str, typer.Argument(metavar="HSM", help="HSM id.", autocompletion=completion.hsms)
]
HsmOption = Annotated[
    str | None,
    typer.Option("--hsm", metavar="HSM", help="HSM id.", autocompletion=completion.hsms),
]
HostArgument = Annotated[
    str, typer.Argument(metavar="HOST", help="Host name.", autocompletion=completion.hosts)
]
BackupArgument = Annotated[
    str, typer.Argument(metavar="BACKUP", help="Backup id.", autocompletion=completion.backups)
]
HashOption = Annotated[HashFunction, typer.Option("--hash-function", help="Hash function.")]
MgfOption = Annotated[
    Mgf | None, typer.Option(help="rsa-pkcs-pss only, required there; the hash of --hash-function.")
]
SaltOption = Annotated[
    int | None,
    typer.Option(
        "--salt-length", metavar="BYTES", min=0, max=512, help="rsa-pkcs-pss only, required there."
    ),
]
DataOption = Annotated[
    str | None, typer.Option("--data", metavar="BASE64", help="What to sign or verify.")
]
DataPathOption = Annotated[
    Path | None, typer.Option("--data-path", metavar="FILE", help="What to sign or verify.")
]
DataTypeOption = Annotated[
    DataType, typer.Option("--data-type", help="raw is hashed here; digest is hashed already.")
]
FormatOption = Annotated[
    SignatureFormat,
    typer.Option("--signature-format", help="ECDSA only: r||s as CloudHSM, or DER as openssl."),
]
SignatureOption = Annotated[
    str | None, typer.Option("--signature", metavar="BASE64", help="The signature.")
]
SignaturePathOption = Annotated[
    Path | None, typer.Option("--signature-path", metavar="FILE", help="The signature, binary.")
]
