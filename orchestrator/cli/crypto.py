"""`cloister crypto`: sign in an HSM, verify here."""

from __future__ import annotations

import base64

from orchestrator.cli import approvals, key_view, signing_input
from orchestrator.cli.approvals import ApprovalOption
from orchestrator.cli.command import LOGIN, command, group
from orchestrator.cli.invocation import Invocation
from orchestrator.cli.options import (
    DataOption,
    DataPathOption,
    DataType,
    DataTypeOption,
    FormatOption,
    HashOption,
    HsmOption,
    KeyFilterOption,
    MgfOption,
    SaltOption,
    SignatureFormat,
    SignatureOption,
    SignaturePathOption,
)
from orchestrator.model.errors import UsageError
from orchestrator.model.key_filter import KeyFilter
from orchestrator.model.key_spec import SignScheme, coordinate_bytes
from orchestrator.model.roles import Role

app = group("crypto", "Use keys: sign and verify.")
sign = group("sign", "Sign with a private key, inside an HSM.", app)
verify = group("verify", "Verify with a public key, on this machine.", app)


def _register_sign(scheme: SignScheme, example: str) -> None:
    def run(
        call: Invocation,
        *,
        key_filter: KeyFilterOption,
        hash_function: HashOption,
        mgf: MgfOption = None,
        salt_length: SaltOption = None,
        data: DataOption = None,
        data_path: DataPathOption = None,
        data_type: DataTypeOption = DataType.RAW,
        signature_format: FormatOption = SignatureFormat.RAW,
        hsm: HsmOption = None,
        approval: ApprovalOption = None,
    ) -> None:
        mechanism = signing_input.mechanism(scheme, hash_function, mgf, salt_length)
        digest = signing_input.digest(
            hash_function, data, data_path, is_digest=data_type is DataType.DIGEST
        )
        wanted = KeyFilter.parse(key_filter)
        chosen = _chosen(call, hsm)
        session = call.session(Role.CRYPTO_USER)
        key = session.find_key(wanted, chosen)
        if (approved := approvals.read(approval)) is not None:
            quorum = call.plane.changes(call.cluster_id, session).quorum
            quorum.approve_sign(key.ref, mechanism, digest, approved)
        signature = session.sign(key.ref, mechanism, digest, chosen)
        if scheme is SignScheme.ECDSA and signature_format is SignatureFormat.DER:
            from orchestrator.client.verify import der_signature

            signature = der_signature(signature)
        encoded = base64.b64encode(signature).decode()
        call.show({"key_reference": key_view.reference(key), "signature": encoded})

    run.__doc__ = f"""Sign inside an HSM with {scheme} (crypto user).

    Example:
      cloister crypto sign {scheme} --key-filter attr.label=web \\
          --hash-function sha256 {example}--data-path contract.pdf
    """
    command(sign, scheme, LOGIN)(run)


def _register_verify(scheme: SignScheme) -> None:
    @command(verify, scheme, LOGIN)
    def run(
        call: Invocation,
        *,
        key_filter: KeyFilterOption,
        hash_function: HashOption,
        mgf: MgfOption = None,
        salt_length: SaltOption = None,
        data: DataOption = None,
        data_path: DataPathOption = None,
        data_type: DataTypeOption = DataType.RAW,
        signature: SignatureOption = None,
        signature_path: SignaturePathOption = None,
        signature_format: FormatOption = SignatureFormat.RAW,
        hsm: HsmOption = None,
    ) -> None:
        """Verify with a public key, on this machine; exits with 1 when it does not hold.

        --hsm takes the public key from that HSM.
        """
        from orchestrator.client.verify import raw_signature, verify_signature

        mechanism = signing_input.mechanism(scheme, hash_function, mgf, salt_length)
        digest = signing_input.digest(
            hash_function, data, data_path, is_digest=data_type is DataType.DIGEST
        )
        shown = signing_input.one_of(signature, signature_path, "signature")
        wanted, chosen = KeyFilter.parse(key_filter), _chosen(call, hsm)
        key = call.session(Role.CRYPTO_USER).find_key(wanted, chosen)
        if not key.public:
            raise UsageError(f"key {key_view.reference(key)} has no public half to verify with")
        if scheme is SignScheme.ECDSA and signature_format is SignatureFormat.DER:
            if key.spec.curve is None:
                raise UsageError(f"key {key_view.reference(key)} cannot verify {scheme}")
            shown = raw_signature(shown, coordinate_bytes(key.spec.curve))
        verify_signature(key.public, mechanism, digest, shown)
        message = "Signature verified successfully"
        call.show({"key_reference": key_view.reference(key), "message": message})


_register_sign(SignScheme.RSA_PKCS, "")
_register_sign(SignScheme.RSA_PSS, "--mgf mgf1-sha256 --salt-length 32 ")
_register_sign(SignScheme.ECDSA, "--signature-format der ")
for _scheme in SignScheme:
    _register_verify(_scheme)


def _chosen(call: Invocation, hsm: str | None) -> str | None:
    return call.plane.records.resolve_hsm(call.cluster_id, hsm)[1] if hsm else None
