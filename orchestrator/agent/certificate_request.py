"""The cluster's certificate signing request (PKCS#10, RFC 2986), signed inside the token."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from asn1crypto import algos, core, csr, keys, x509


def signing_request(
    common_name: str, serial: str, public: bytes, sign: Callable[[bytes], bytes]
) -> bytes:
    """Return a DER request.

    Args:
        common_name: the subject's CN.
        serial: of the HSM that holds the key, the subject's serialNumber.
        public: RSA public key, DER SubjectPublicKeyInfo.
        sign: RSA PKCS#1 v1.5 over a SHA-256 digest.
    """
    info = csr.CertificationRequestInfo(
        {
            "version": "v1",
            "subject": x509.Name.build(
                {
                    "organization_name": "Cloister",
                    "organizational_unit_name": "HSM cluster",
                    "common_name": common_name,
                    "serial_number": serial,
                }
            ),
            "subject_pk_info": keys.PublicKeyInfo.load(public),
            "attributes": csr.CRIAttributes([]),
        }
    )
    signature = sign(hashlib.sha256(info.dump()).digest())
    request = csr.CertificationRequest(
        {
            "certification_request_info": info,
            "signature_algorithm": algos.SignedDigestAlgorithm(
                {
                    "algorithm": "sha256_rsa",
                    "parameters": core.Null(),
                }
            ),
            "signature": signature,
        }
    )
    encoded: bytes = request.dump()
    return encoded
