"""The classical API attacks: what p11-kit's server passes to SoftHSM succeeds, ours is refused.

Both are driven by the same calls, byte for byte. `docs/gateway.md` has the table.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

import pytest

from orchestrator.control.application import Application
from orchestrator.gateway.cryptoki import CKA, CKR
from orchestrator.model.errors import OrchestratorError
from orchestrator.model.wrap_mechanism import WrapMechanism, WrapScheme
from tests.gateway import wire as w
from tests.interop import api_attacks as attacks
from tests.interop.address import PASSWORD, PIN, USER, TokenAddress
from tests.interop.api_attacks import Attacker
from tests.interop.sources import LabHsms

pytestmark = [pytest.mark.softhsm, pytest.mark.p11kit, pytest.mark.timeout(240)]
Attack = Callable[[Attacker], bytes]


@pytest.fixture
def attacker(token: TokenAddress) -> Iterator[Attacker]:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(30)
        sock.connect(str(token.socket))
        client = w.Client(sock, 0)
        slots = client.call(4, "yfu", b"\1" + w.u32(8)).ulongs()
        assert isinstance(slots, list)
        session = client.call(10, "uu", w.u64(slots[0]) + w.u64(6)).u()
        client.login(session, PIN.encode())
        made = Attacker(client, session)
        yield made
        made.clean_up()


@pytest.mark.also_stock
@pytest.mark.parametrize(
    ("attack", "step", "rv"),
    [
        (attacks.wrap_then_decrypt, "C_GenerateKey", CKR.TEMPLATE_INCONSISTENT),
        (attacks.wrap_then_decrypt_by_a_pair, "C_GenerateKeyPair", CKR.TEMPLATE_INCONSISTENT),
        (attacks.separation_by_attribute_change, "C_SetAttributeValue", CKR.TEMPLATE_INCONSISTENT),
        (attacks.separation_by_copy, "C_CopyObject", CKR.TEMPLATE_INCONSISTENT),
        # The wire has no AES key wrap; what the HSM itself says is asked below.
        (attacks.separation_by_reimport, "C_WrapKey", CKR.MECHANISM_INVALID),
        (attacks.encrypt_then_unwrap, "C_WrapKey", CKR.MECHANISM_INVALID),
        (attacks.trojan_public_key, "C_WrapKey", CKR.KEY_NOT_WRAPPABLE),
        (attacks.downgrade_by_unwrapping, "C_UnwrapKey", CKR.TEMPLATE_INCONSISTENT),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_an_attack_that_a_token_lets_through_ends_here(
    token: TokenAddress, attacker: Attacker, attack: Attack, step: str, rv: CKR
) -> None:
    if token.source == "stock":
        assert attacker.knows(attack(attacker))
        return
    with pytest.raises(w.Refused) as refusal:
        attack(attacker)
    assert (attacker.step, hex(refusal.value.rv)) == (step, hex(rv))


@pytest.mark.also_stock
@pytest.mark.parametrize("attack", [attacks.sensitive_reset, attacks.sensitive_reset_by_copy])
def test_sensitive_is_never_taken_back(
    token: TokenAddress, attacker: Attacker, attack: Attack
) -> None:
    """SoftHSM 2.6 keeps this rule itself."""
    copies = token.source == "gateway" and attack is attacks.sensitive_reset_by_copy
    with pytest.raises(w.Refused) as refusal:
        attack(attacker)
    expected = CKR.TEMPLATE_INCONSISTENT if copies else CKR.ATTRIBUTE_READ_ONLY
    assert hex(refusal.value.rv) == hex(expected)


@pytest.mark.parametrize("attack", [attacks.separation_by_reimport, attacks.encrypt_then_unwrap])
def test_what_came_from_outside_wraps_nothing(
    token: TokenAddress, attacker: Attacker, attack: Attack
) -> None:
    """The same attacks, continued past the gateway at an HSM, which knows AES key wrap."""
    with pytest.raises(w.Refused):
        attack(attacker)
    wraps = next(
        key for key in attacker.made
        if attacker.client.read(attacker.session, key, CKA.WRAP, CKA.CLASS)[0]
        == {CKA.WRAP: 1, CKA.CLASS: 4}
    )  # fmt: skip
    refs = []
    for handle in (attacker.target, wraps):
        values, _ = attacker.client.read(attacker.session, handle, CKA.UNIQUE_ID)
        refs.append(int(values[CKA.UNIQUE_ID], 16))
    assert isinstance(token.hsms, LabHsms)
    application = Application.open(token.hsms.home)
    with (
        application.login(USER, PASSWORD.encode()) as user,
        pytest.raises(OrchestratorError) as refusal,
    ):
        user.wrap_key(refs[0], refs[1], WrapMechanism(WrapScheme.AES_ZERO_PAD))
    application.close()
    assert refusal.value.code == "not-trusted"
