"""Calls about objects: find, read, make, destroy."""

from __future__ import annotations

from typing import Final

from orchestrator.gateway.attributes import CURVES_BY_OID, Template, filter_of, matches
from orchestrator.gateway.cryptoki import CKA, CKK, CKM, CKO, CKR, CryptokiError
from orchestrator.gateway.rpc.attributes import (
    Attribute,
    length_of,
    pack_length,
    pack_unavailable,
    pack_value,
)
from orchestrator.gateway.rpc.mechanisms import EcdhParameter, Mechanism
from orchestrator.gateway.rpc.values import U32, U64, pack_ulongs
from orchestrator.gateway.worker.application import Application, P11Session
from orchestrator.model.errors import OrchestratorError
from orchestrator.model.key_spec import CURVE_BITS, Agreement, Kdf, KeyClass, KeySpec, KeyType
from orchestrator.model.keys import Attributes, Key, derived_attributes
from orchestrator.wire.messages import KEYS_PER_PAGE_MAX, KeyDraft

FIND_MAX: Final = 4096
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


def attribute_values(
    app: Application, _: P11Session, handle: int, asked: tuple[tuple[int, int], ...]
) -> bytes:
    """C_GetAttributeValue."""
    if not asked:  # success for none makes clients abort their application
        raise CryptokiError(CKR.ARGUMENTS_BAD)
    found = app.fresh(handle)
    rv, made = CKR.OK, [U32.pack(len(asked))]
    for kind, room in asked:
        try:
            value = found.read(kind)
        except CryptokiError as exc:
            rv = exc.rv
            made.append(pack_unavailable(kind))
            continue
        length = length_of(value)
        if room == 0:
            made.append(pack_length(kind, length))
        elif length > room:
            rv = rv or CKR.BUFFER_TOO_SMALL
            made.append(pack_length(kind, length))
        else:
            made.append(pack_value(kind, value))
    return b"".join(made) + U64.pack(rv)


def find_init(app: Application, session: P11Session, template: tuple[Attribute, ...]) -> bytes:
    """C_FindObjectsInit: the search is done here, at once."""
    if session.found is not None:
        raise CryptokiError(CKR.OPERATION_ACTIVE)
    found = [o.handle for o in app.local_objects() if matches(o.read, template)]
    wanted = filter_of(template)
    if app.backend.user and wanted is not None:
        keys: list[Key] = []
        while True:
            offset = len(keys)
            page = app.backend.call(lambda s, n=offset: s.list_keys(wanted, n, KEYS_PER_PAGE_MAX))  # type: ignore[misc]
            keys += page.keys
            if not page.keys or len(keys) >= page.total:
                break
        handles = app.keep(keys)
        objects = (app.object(handle) for handle in handles)
        found += [o.handle for o in objects if matches(o.read, template)]
    session.found = found
    return b""


def find(_: Application, session: P11Session, room: int) -> bytes:
    """C_FindObjects."""
    if session.found is None:
        raise CryptokiError(CKR.OPERATION_NOT_INITIALIZED)
    count = min(room, FIND_MAX)
    given, session.found = session.found[:count], session.found[count:]
    return pack_ulongs(given)


def find_final(_: Application, session: P11Session) -> bytes:
    """C_FindObjectsFinal."""
    if session.found is None:
        raise CryptokiError(CKR.OPERATION_NOT_INITIALIZED)
    session.found = None
    return b""


def object_size(app: Application, _: P11Session, handle: int) -> bytes:
    """C_GetObjectSize: not told."""
    app.object(handle)
    return U64.pack(0xFFFF_FFFF_FFFF_FFFF)


def destroy(app: Application, session: P11Session, handle: int) -> bytes:
    """C_DestroyObject."""
    app.destroy(session, app.object(handle))
    return b""


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
    if token:
        raise CryptokiError(CKR.FUNCTION_NOT_SUPPORTED, "derived keys are session keys")
    number = template.number(CKA.KEY_TYPE)
    key_type = KeyType.AES if number == CKK.AES else KeyType.GENERIC_SECRET
    if number not in {None, CKK.AES, CKK.GENERIC_SECRET}:
        raise CryptokiError(CKR.TEMPLATE_INCONSISTENT, "CKA_KEY_TYPE")
    spec = _secret_spec(template, key_type, key.spec)
    given_anyway, _ = derived_attributes(key.attributes, {}, token=token)
    draft = _draft(template, KeyClass.SECRET, spec, given_anyway)
    agreement = Agreement(_point(given.public_data), _KDFS[given.kdf])
    made = app.backend.call(
        lambda s: s.derive_session_key(key.ref, agreement, spec, draft),
        not_found=CKR.KEY_HANDLE_INVALID,
        blob_refused=CKR.MECHANISM_PARAM_INVALID,
        key_spec=CKR.TEMPLATE_INCONSISTENT,
    )
    return U64.pack(app.keep([made], session)[0])


def _point(data: bytes) -> bytes:
    """Return a point that is given as it is, or as DER OCTET STRING (PKCS#11 2.40 §2.3.9)."""
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


_CLASSES: Final = {
    KeyClass.PUBLIC: CKO.PUBLIC_KEY,
    KeyClass.PRIVATE: CKO.PRIVATE_KEY,
    KeyClass.SECRET: CKO.SECRET_KEY,
}


def _draft(
    template: Template, key_class: KeyClass, spec: KeySpec, given: Attributes | None = None
) -> KeyDraft:
    template.require(CKA.CLASS, _CLASSES[key_class])
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
        made = app.backend.call(lambda s: s.make_session_keys(spec, drafts))
        return app.keep(made, session)
    _, made = app.backend.change(
        lambda changes, request: changes.generate_keys(spec, drafts, request=request)
    )
    return app.keep(made)
