"""What an HSM's refusal is in PKCS#11: errors become return values here and nowhere else."""

from __future__ import annotations

from typing import Final

from orchestrator.gateway.cryptoki import CKR, CryptokiError
from orchestrator.model.errors import OrchestratorError

_BY_CODE: Final = {
    "login-failed": CKR.PIN_INCORRECT,
    "user-locked": CKR.PIN_LOCKED,
    "ticket-refused": CKR.USER_NOT_LOGGED_IN,
    "password-rule": CKR.PIN_INVALID,
    "permission-denied": CKR.ACTION_PROHIBITED,
    "user-disabled": CKR.PIN_LOCKED,
    "mfa-required": CKR.PIN_INCORRECT,  # no password alone is right; C_Login has no better
    "quorum-failed": CKR.FUNCTION_REJECTED,
    "quorum": CKR.ACTION_PROHIBITED,
    "not-destroyable": CKR.ACTION_PROHIBITED,
    "not-modifiable": CKR.ACTION_PROHIBITED,
    "key-usage": CKR.KEY_FUNCTION_NOT_PERMITTED,
    "key-type": CKR.KEY_TYPE_INCONSISTENT,
    "key-spec": CKR.KEY_SIZE_RANGE,
    "not-found": CKR.OBJECT_HANDLE_INVALID,
    "not-extractable": CKR.KEY_UNEXTRACTABLE,
    "not-trusted": CKR.KEY_NOT_WRAPPABLE,
    "payload": CKR.KEY_NOT_WRAPPABLE,
    "template-conflict": CKR.TEMPLATE_INCONSISTENT,
    "attribute-conflict": CKR.TEMPLATE_INCONSISTENT,
    "attribute-read-only": CKR.TEMPLATE_INCONSISTENT,
    "attribute-unknown": CKR.ATTRIBUTE_TYPE_INVALID,
    "object-rule": CKR.ATTRIBUTE_VALUE_INVALID,
    "not-owner": CKR.ACTION_PROHIBITED,
    "label-rule": CKR.ATTRIBUTE_VALUE_INVALID,
    "limit": CKR.DEVICE_MEMORY,
    "storage": CKR.DEVICE_MEMORY,
    "token-full": CKR.DEVICE_MEMORY,
    "mechanism-unavailable": CKR.MECHANISM_INVALID,
    "fips-mode": CKR.MECHANISM_INVALID,
    "signature-invalid": CKR.SIGNATURE_INVALID,
    "blob-refused": CKR.ENCRYPTED_DATA_INVALID,
    "unavailable": CKR.DEVICE_ERROR,
    "behind": CKR.DEVICE_ERROR,
    "moved-on": CKR.DEVICE_ERROR,
    "pending": CKR.DEVICE_ERROR,
    "usage": CKR.ARGUMENTS_BAD,
}


def cryptoki_error(error: OrchestratorError, **special: CKR) -> CryptokiError:
    """Return the error that an application sees.

    Args:
        error: the refusal.
        special: codes (`_` for `-`) that this call answers in a way of its own.
    """
    code = error.code
    rv = special.get(code.replace("-", "_")) or _BY_CODE.get(code, CKR.FUNCTION_FAILED)
    return CryptokiError(rv, str(error))
