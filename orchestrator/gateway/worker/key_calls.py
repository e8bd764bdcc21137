"""Calls that make keys: generate, derive, import, copy."""

from __future__ import annotations

from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from orchestrator.client.clear_keys import ec_private_key, rsa_private_key
from orchestrator.gateway.attributes import (
    CLASSES,
    CURVES_BY_OID,
    Template,
)
from orchestrator.gateway.cryptoki import CKA, CKK, CKM, CKO, CKR, CryptokiError
from orchestrator.gateway.rpc.attributes import Attribute
from orchestrator.gateway.rpc.mechanisms import EcdhParameter, Mechanism
from orchestrator.gateway.rpc.values import U64
from orchestrator.gateway.worker.application import Application, P11Session
from orchestrator.model.errors import OrchestratorError
from orchestrator.model.key_spec import (
    CURVE_BITS,
    Agreement,
    Curve,
    Kdf,
    KeyClass,
    KeySpec,
    KeyType,
    coordinate_bytes,
)
from orchestrator.model.keys import (
    Attributes,
    Key,
    derived_attributes,
    imported_attributes,
)
from orchestrator.wire.messages import KeyDraft

_KDFS: Final = {
    1: Kdf.NULL,
    2: Kdf.SHA1,
    5: Kdf.SHA224,
    6: Kdf.SHA256,
    7: Kdf.SHA384,
    8: Kdf.SHA512,
}
_SECRETS: Final[dict[int, KeyType]] = {
    CKM.AES_KEY_GEN: KeyType.AES,
    CKM.GENERIC_SECRET_KEY_GEN: KeyType.GENERIC_SECRET,
}
_RSA_EXPONENT: Final = 65537
_DERIVING: Final = {
    "not_found": CKR.KEY_HANDLE_INVALID,
    "blob_refused": CKR.MECHANISM_PARAM_INVALID,
    "key_spec": CKR.TEMPLATE_INCONSISTENT,
}
_IMPORTED: Final = frozenset({
    CKA.VALUE, CKA.VALUE_LEN, CKA.MODULUS, CKA.PRIVATE_EXPONENT, CKA.PRIME_1, CKA.PRIME_2,
    CKA.EXPONENT_1, CKA.EXPONENT_2, CKA.COEFFICIENT, CKA.PUBLIC_KEY_INFO, CKA.EC_POINT,
})  # fmt: skip
_GROUPS: Final[dict[Curve, ec.EllipticCurve]] = {
    Curve.P256: ec.SECP256R1(),
    Curve.P384: ec.SECP384R1(),
    Curve.P521: ec.SECP521R1(),
    Curve.SECP256K1: ec.SECP256K1(),
}


def generate_key(
    app: Application,
    session: P11Session,
    mechanism: Mechanism | None,
    attributes: tuple[Attribute, ...],
) -> bytes:
    """C_GenerateKey."""
    key_type = _SECRETS.get(_offered(app, mechanism))
    if key_type is None:
        raise CryptokiError(CKR.MECHANISM_INVALID)
    template = Template(attributes)
    spec = _secret_spec(template, key_type)
    draft = _draft(template, KeyClass.SECRET, spec)
    handles = _make(app, session, spec, (draft,), token=template.flag(CKA.TOKEN))
    return U64.pack(handles[0])


def generate_pair(
    app: Application,
    session: P11Session,
    mechanism: Mechanism | None,
    public: tuple[Attribute, ...],
    private: tuple[Attribute, ...],
) -> bytes:
    """C_GenerateKeyPair."""
    ours, theirs = Template(private), Template(public)
    match _offered(app, mechanism):
        case CKM.RSA_PKCS_KEY_PAIR_GEN:
            spec = _rsa_spec(theirs)
        case CKM.EC_KEY_PAIR_GEN:
            spec = _ec_spec(theirs)
        case _:
            raise CryptokiError(CKR.MECHANISM_INVALID)
    drafts = (
        _draft(theirs, KeyClass.PUBLIC, spec),
        _draft(ours, KeyClass.PRIVATE, spec),
    )
    token = ours.flag(CKA.TOKEN)
    if token != theirs.flag(CKA.TOKEN):
        # One entry makes both halves, and both stay: a lasting public half costs nothing.
        token = True
    return b"".join(map(U64.pack, _make(app, session, spec, drafts, token=token)))


def derive_key(
    app: Application,
    session: P11Session,
    mechanism: Mechanism | None,
    base: int,
    attributes: tuple[Attribute, ...],
) -> bytes:
    """C_DeriveKey: ECDH."""
    if _offered(app, mechanism) != CKM.ECDH1_DERIVE:
        raise CryptokiError(CKR.MECHANISM_INVALID)
    given = mechanism.parameter if mechanism else None
    if not isinstance(given, EcdhParameter) or given.shared_data or given.kdf not in _KDFS:
        raise CryptokiError(CKR.MECHANISM_PARAM_INVALID)
    key, template = app.key(base), Template(attributes)
    if key.spec.type is not KeyType.EC or key.key_class is not KeyClass.PRIVATE:
        raise CryptokiError(CKR.KEY_TYPE_INCONSISTENT)
    token = template.flag(CKA.TOKEN)
    app.check_rw(session, token=token)
    number = template.number(CKA.KEY_TYPE)
    key_type = KeyType.AES if number == CKK.AES else KeyType.GENERIC_SECRET
    if number not in {None, CKK.AES, CKK.GENERIC_SECRET}:
        raise CryptokiError(CKR.TEMPLATE_INCONSISTENT, "CKA_KEY_TYPE")
    spec = _secret_spec(template, key_type, key.spec)
    given_anyway, _ = derived_attributes(key.attributes, {}, token=token)
    draft = _draft(template, KeyClass.SECRET, spec, given_anyway)
    agreement = Agreement(_point(given.public_data, key.spec.curve), _KDFS[given.kdf])
    if token:
        _, made = app.backend.change(
            lambda c, request: c.derive_key(key.ref, agreement, spec, draft, request=request),
            **_DERIVING,
        )
        return U64.pack(app.keep([made])[0])
    made = app.backend.call(
        lambda s: s.session_keys.derive(key.ref, agreement, spec, draft), **_DERIVING
    )
    return U64.pack(app.keep([made], session)[0])


def _point(data: bytes, curve: Curve | None) -> bytes:
    """Return a point that is given as it is, or as DER OCTET STRING (PKCS#11 2.40 §2.3.9).

    Both begin with 4, and of one point in 256 the second byte could be DER's length: that of the
    whole tells.
    """
    if curve is not None and len(data) == 1 + 2 * coordinate_bytes(curve):
        return data
    if len(data) > 2 and data[0] == 4 and data[1] == len(data) - 2:
        return data[2:]
    if len(data) > 3 and data[:2] == b"\x04\x81" and data[2] == len(data) - 3:
        return data[3:]
    return data


def _offered(app: Application, mechanism: Mechanism | None) -> int:
    if mechanism is None or mechanism.type not in app.token.mechanisms:
        raise CryptokiError(CKR.MECHANISM_INVALID)
    return mechanism.type


def _secret_spec(template: Template, key_type: KeyType, base: KeySpec | None = None) -> KeySpec:
    size = template.number(CKA.VALUE_LEN)
    if size is None:
        if base is None:
            raise CryptokiError(CKR.TEMPLATE_INCOMPLETE, "CKA_VALUE_LEN")
        size = min(32, base.bits // 8) if key_type is KeyType.AES else (base.bits + 7) // 8
    template.require(CKA.KEY_TYPE, CKK.AES if key_type is KeyType.AES else CKK.GENERIC_SECRET)
    return _checked(KeySpec(key_type, min(size, 1 << 16) * 8))


def _rsa_spec(template: Template) -> KeySpec:
    bits = template.number(CKA.MODULUS_BITS)
    if bits is None:
        raise CryptokiError(CKR.TEMPLATE_INCOMPLETE, "CKA_MODULUS_BITS")
    exponent = template.data(CKA.PUBLIC_EXPONENT)
    number = int.from_bytes(exponent, "big") if exponent else _RSA_EXPONENT
    return _checked(KeySpec(KeyType.RSA, min(bits, 1 << 16), None, min(number, 1 << 64)))


def _ec_spec(template: Template) -> KeySpec:
    oid = template.data(CKA.EC_PARAMS)
    if oid is None:
        raise CryptokiError(CKR.TEMPLATE_INCOMPLETE, "CKA_EC_PARAMS")
    if (curve := CURVES_BY_OID.get(oid)) is None:
        raise CryptokiError(CKR.CURVE_NOT_SUPPORTED)
    return KeySpec(KeyType.EC, CURVE_BITS[curve], curve)


def _checked(spec: KeySpec) -> KeySpec:
    try:
        return spec.check()
    except OrchestratorError as exc:
        raise CryptokiError(CKR.KEY_SIZE_RANGE, str(exc)) from exc


def _draft(
    template: Template, key_class: KeyClass, spec: KeySpec, given: Attributes | None = None
) -> KeyDraft:
    template.require(CKA.CLASS, CLASSES[key_class])
    if key_class is not KeyClass.SECRET:
        template.require(CKA.KEY_TYPE, CKK.RSA if spec.type is KeyType.RSA else CKK.EC)
    return KeyDraft(key_class, template.label(), template.requested(key_class, spec, given))


def _make(
    app: Application,
    session: P11Session,
    spec: KeySpec,
    drafts: tuple[KeyDraft, ...],
    *,
    token: bool,
) -> list[int]:
    app.check_rw(session, token=token)
    if not token:
        made = app.backend.call(lambda s: s.session_keys.make(spec, drafts))
        return app.keep(made, session)
    _, made = app.backend.change(
        lambda changes, request: changes.generate_keys(spec, drafts, request=request)
    )
    return app.keep(made)


def create(app: Application, session: P11Session, template: Template, number: int) -> int:
    """C_CreateObject with a key: its value goes sealed to an HSM; return the handle."""
    token = template.flag(CKA.TOKEN)
    if number == CKO.PUBLIC_KEY:
        held = _public(template)
        if not token:
            return app.keep_local(session, held)
        app.check_rw(session, token=True)
        wanted = template.requested(KeyClass.PUBLIC, held.spec, passed_over=_IMPORTED)
        draft = KeyDraft(KeyClass.PUBLIC, template.label(), wanted)
        _, made = app.backend.change(
            lambda c, request: c.import_public_key(held.public, draft, request=request)
        )
        return app.keep([made])[0]
    app.check_rw(session, token=token)
    try:
        key_class, spec, value = _given_key(template, number)
    except OrchestratorError as exc:
        raise CryptokiError(CKR.ATTRIBUTE_VALUE_INVALID, str(exc)) from exc
    given, _ = imported_attributes(key_class, spec, {}, token=token)
    wanted = template.requested(key_class, spec, given, passed_over=_IMPORTED)
    draft = KeyDraft(key_class, template.label(), wanted)
    if not token:
        made = app.backend.call(lambda s: s.session_keys.import_clear(spec, value, draft))
        return app.keep([made], session)[0]
    _, made = app.backend.change(
        lambda c, request: c.import_clear_key(spec, value, draft, request=request)
    )
    return app.keep([made])[0]


def _given_key(template: Template, number: int) -> tuple[KeyClass, KeySpec, bytes]:
    key_type = template.number(CKA.KEY_TYPE)
    match number, key_type:
        case CKO.SECRET_KEY, CKK.AES | CKK.GENERIC_SECRET:
            value = _needed(template, CKA.VALUE)
            chosen = KeyType.AES if key_type == CKK.AES else KeyType.GENERIC_SECRET
            template.require(CKA.VALUE_LEN, len(value))
            return KeyClass.SECRET, KeySpec(chosen, 8 * len(value)).check(), value
        case CKO.PRIVATE_KEY, CKK.RSA:
            n, d = _needed(template, CKA.MODULUS), _needed(template, CKA.PRIVATE_EXPONENT)
            e = _needed(template, CKA.PUBLIC_EXPONENT)
            p, q = template.data(CKA.PRIME_1) or b"", template.data(CKA.PRIME_2) or b""
            return KeyClass.PRIVATE, *rsa_private_key(n, e, d, p, q)
        case CKO.PRIVATE_KEY, CKK.EC:
            params = _needed(template, CKA.EC_PARAMS)
            return KeyClass.PRIVATE, *ec_private_key(params, _needed(template, CKA.VALUE))
        case _, None:
            raise CryptokiError(CKR.TEMPLATE_INCOMPLETE, "CKA_KEY_TYPE")
        case _:
            raise CryptokiError(CKR.ATTRIBUTE_VALUE_INVALID, "CKA_KEY_TYPE")


def _needed(template: Template, kind: CKA) -> bytes:
    if not (value := template.data(kind)):
        raise CryptokiError(CKR.TEMPLATE_INCOMPLETE, f"CKA_{kind.name}")
    return value


def _public(template: Template) -> Key:
    """Return a public key to verify with and to encrypt to, which needs no HSM."""
    spec: KeySpec
    public: rsa.RSAPublicKey | ec.EllipticCurvePublicKey
    try:
        match template.number(CKA.KEY_TYPE):
            case CKK.RSA:
                n = int.from_bytes(_needed(template, CKA.MODULUS), "big")
                e = int.from_bytes(_needed(template, CKA.PUBLIC_EXPONENT), "big")
                public = rsa.RSAPublicNumbers(e, n).public_key()
                spec = KeySpec(KeyType.RSA, public.key_size, None, e)
            case CKK.EC:
                spec = _ec_spec(template)
                point = _point(_needed(template, CKA.EC_POINT), spec.curve)
                group = _GROUPS[spec.curve or Curve.P256]
                public = ec.EllipticCurvePublicKey.from_encoded_point(group, point)
            case _:
                raise CryptokiError(CKR.ATTRIBUTE_VALUE_INVALID, "CKA_KEY_TYPE")
    except ValueError as exc:
        raise CryptokiError(CKR.ATTRIBUTE_VALUE_INVALID, "no public key") from exc
    is_rsa = spec.type is KeyType.RSA
    return Key(
        ref=0,
        key_class=KeyClass.PUBLIC,
        spec=spec,
        label=template.label(),
        id=template.data(CKA.ID) or b"",
        owner="",
        shared=(),
        attributes=Attributes(
            token=False,
            private=False,
            sensitive=False,
            always_sensitive=False,
            local=False,
            verify=template.flag(CKA.VERIFY, default=True),
            encrypt=template.flag(CKA.ENCRYPT, default=is_rsa) and is_rsa,
        ),
        blob=b"",
        public=public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        check_value=b"",
    )
