"""Who may wrap what under what, and what comes out of unwrapping. Pure.

Invariants: only what is extractable leaves, by its owner's will; a wrapping key is unknown outside
or an admin vouches for it (ADR 0013); what comes in is never less guarded than it can have been.
"""

from __future__ import annotations

from collections.abc import Mapping

from orchestrator.model.attribute_rules import check_policy
from orchestrator.model.errors import RefusedError, UsageError
from orchestrator.model.fips import check_wrapping
from orchestrator.model.key_decisions import check_owner
from orchestrator.model.key_filter import attribute_text, norm_attribute
from orchestrator.model.key_spec import KeyClass, KeyType
from orchestrator.model.keys import Attributes, Key, check_usable, unwrapped_attributes
from orchestrator.model.wrap_mechanism import WrapMechanism

Terms = tuple[tuple[str, str], ...]


def check_wrap(payload: Key, wrapper: Key, user: str, mechanism: WrapMechanism, mode: str) -> None:
    """Raise unless `user` may wrap `payload` under `wrapper` so."""
    check_owner(payload, user, "wrap")
    check_usable(wrapper, user)
    mechanism.check()
    check_wrapping(mode, mechanism.scheme)
    _check_shared(wrapper, user, "wrap with", guarded=wrapper.attributes.trusted)
    wrapping_class = KeyClass.PUBLIC if mechanism.key_type is KeyType.RSA else KeyClass.SECRET
    _check_type(wrapper, wrapping_class, mechanism)
    if not wrapper.attributes.wrap:
        raise RefusedError("key-usage", f"key 0x{wrapper.ref:016x} has wrap=false")
    check_policy(wrapper)
    if not (wrapper.attributes.trusted or _is_unknown_outside(wrapper)):
        raise RefusedError(
            "not-trusted",
            f"key 0x{wrapper.ref:016x} may be known outside the HSMs (it came from there, or its "
            "private half may leave), so it wraps once an admin trusts it: `cloister key "
            f"set-attribute --filter key-reference=0x{wrapper.ref:016x} --name trusted --value "
            "true`",
        )
    if payload.key_class is KeyClass.PUBLIC:
        raise RefusedError("key-type", "a public key is not wrapped: `cloister key generate-file`")
    if not payload.attributes.extractable:
        raise RefusedError("not-extractable", f"key 0x{payload.ref:016x} has extractable=false")
    if payload.attributes.wrap_with_trusted and not wrapper.attributes.trusted:
        raise RefusedError(
            "not-trusted",
            f"key 0x{payload.ref:016x} has wrap-with-trusted=true, and key 0x{wrapper.ref:016x} "
            "has trusted=false",
        )
    mechanism.check_payload(payload.spec, wrapper.spec)
    _check_template(wrapper.guards.wrap_template, payload, wrapper, "wrap template")


def _is_unknown_outside(wrapper: Key) -> bool:
    if not wrapper.attributes.local:
        return False
    if wrapper.key_class is KeyClass.PUBLIC:
        return wrapper.guards.half_stays
    return not wrapper.attributes.extractable


def _check_shared(key: Key, user: str, deed: str, *, guarded: bool) -> None:
    """Trusted keys are there to be shared (CloudHSM guide, trusted keys); others only to be used.

    Of a public key, every crypto user has the half that wraps.
    """
    if key.key_class is not KeyClass.PUBLIC and not guarded:
        check_owner(key, user, deed)


def _check_type(key: Key, key_class: KeyClass, mechanism: WrapMechanism) -> None:
    if key.key_class is not key_class or key.spec.type is not mechanism.key_type:
        raise RefusedError(
            "key-type",
            f"{mechanism.scheme} takes a {key_class} of type {mechanism.key_type}, and key "
            f"0x{key.ref:016x} is a {key.key_class} of type {key.spec.type}",
        )


def check_unwrap(unwrapper: Key, user: str, mechanism: WrapMechanism, mode: str) -> None:
    """Raise unless `user` may unwrap with `unwrapper` so."""
    check_usable(unwrapper, user)
    mechanism.check()
    check_wrapping(mode, mechanism.scheme)
    _check_shared(unwrapper, user, "unwrap with", guarded=unwrapper.guards.unwraps_guarded)
    by_rsa = mechanism.key_type is KeyType.RSA
    _check_type(unwrapper, KeyClass.PRIVATE if by_rsa else KeyClass.SECRET, mechanism)
    if not unwrapper.attributes.unwrap:
        raise RefusedError("key-usage", f"key 0x{unwrapper.ref:016x} has unwrap=false")


def unwrapped(
    unwrapper: Key,
    key_type: KeyType,
    key_class: KeyClass,
    requested: Mapping[str, str],
    *,
    token: bool,
) -> tuple[Attributes, bytes]:
    """Return the attributes and `id` of what `unwrapper` unwraps.

    Its unwrap template is joined with what is requested; who was ever trusted may have wrapped
    what trusted keys alone may wrap, and so gives out nothing else.

    Raises:
        RefusedError: `template-conflict` where they contradict each other.
    """
    wanted = KeyClass.SECRET if key_type in _SECRETS else KeyClass.PRIVATE
    if key_class is not wanted:
        raise UsageError(f"{key_type} unwraps to a {wanted}")
    terms = dict(requested)
    template = list(unwrapper.guards.unwrap_template)
    if unwrapper.guards.unwraps_guarded:
        template.append(("wrap-with-trusted", "true"))
    for name, value in template:
        if name in {"class", "key-type", "label"}:
            continue  # `check_unwrapped` compares them
        if norm_attribute(name, terms.setdefault(name, value)) != norm_attribute(name, value):
            raise RefusedError(
                "template-conflict",
                f"{name}={terms[name]} is asked for, and key 0x{unwrapper.ref:016x} unwraps to "
                f"{name}={value}; leave the attribute out",
            )
    return unwrapped_attributes(key_type, key_class, terms, token=token)


def unwrapped_label(unwrapper: Key, label: str) -> str:
    """Return the label that is asked for, or where none is, the template's."""
    return label or dict(unwrapper.guards.unwrap_template).get("label", "")


def check_unwrapped(unwrapper: Key, key: Key) -> None:
    """Raise RefusedError (`template-conflict`) where `key` is not what the template says."""
    _check_template(unwrapper.guards.unwrap_template, key, unwrapper, "unwrap template")


def _check_template(template: Terms, key: Key, holder: Key, what: str) -> None:
    for name, value in template:
        if attribute_text(key, name) != norm_attribute(name, value):
            raise RefusedError(
                "template-conflict",
                f"the {what} of key 0x{holder.ref:016x} demands {name}={value}, and the key has "
                f"{name}={attribute_text(key, name)}",
            )


_SECRETS = frozenset({KeyType.AES, KeyType.GENERIC_SECRET})
