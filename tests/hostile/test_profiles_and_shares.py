"""Files that people write or keep: firmware profiles, and custodians' words."""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Callable
from functools import cache
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.control.profiles import load_profiles, profile_path
from orchestrator.model.errors import NotFoundError, RefusedError
from orchestrator.model.profile import FirmwareProfile, ProfileError
from orchestrator.sealed import recovery
from tests.hostile.wire import examples

TEXT = profile_path("hsm2m.medium").read_text()
KEYS = sorted(tomllib.loads(TEXT))
VALUES = [
    '""', '"x"', '"x\\n"', "'\\u202e'", "0", "-1", "1", "1000001", "99999999999999999999", "0x7f",
    "1.5", "nan", "inf", "-inf", "true", "2027-01-01", "07:00:00", "[]", "[[]]", '[""]', "[1]",
    '["a", "a"]', "{}", "{a = 1}", '{a = {b = "c"}}', '"../../etc/passwd"', '"NaN"', '"-1"',
    '"1e400"', '["relative.so"]', '["/a", 3]', '["FIPS", "OTHER"]', '["CKM_NONE"]', '["secp521r1"]',
]  # fmt: skip


def replaced(key: str, value: str) -> str:
    """The profile with one key's value replaced, wherever it ends."""
    made = []
    for name, old in tomllib.loads(TEXT).items():
        shown = old if isinstance(old, int) else repr(old).replace("'", '"')
        made.append(f"{name} = {value if name == key else shown}")
    return "\n".join(made)


def problem(text: str) -> str:
    """What a profile is refused with; empty when it is one."""
    try:
        profile = FirmwareProfile.parse(text, "some.toml")
    except ProfileError as exc:
        return str(exc)
    assert profile.max_asymmetric_keys <= profile.max_keys
    assert all(module.startswith("/") for module in profile.modules)
    return ""


@pytest.mark.parametrize("key", KEYS)
def test_a_value_that_will_not_do_names_file_and_key(key: str) -> None:
    problems = [problem(replaced(key, value)) for value in VALUES]
    wrong = [found for found in problems if found]
    assert len(wrong) > len(VALUES) / 2
    for found in wrong:
        assert found.startswith("firmware profile some.toml, key ")
        assert f"key {key}:" in found or "key max_asymmetric_keys: above" in found


@settings(max_examples=examples(200), deadline=None)
@given(data=st.data())
def test_a_mutated_profile_is_read_or_refused(data: st.DataObject) -> None:
    text = TEXT
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(text)))
        end = start + data.draw(st.integers(0, 30))
        middle = data.draw(st.text(max_size=6) | st.just(text[start:end] * 2))
        text = text[:start] + middle + text[end:]
    found = problem(text)
    assert not found or found.startswith("firmware profile some.toml, key ")


@pytest.mark.parametrize(
    "text",
    ["", "\0", "[", "= 3", TEXT + TEXT, TEXT.replace("\n", " "),
     TEXT.encode("utf-16").decode("latin-1"), "[profile]\n" + TEXT, TEXT + "\n[more]\nkey = 1\n",
     "name = 'a'\n" * 3],
    ids=range(10),
)  # fmt: skip
def test_what_is_no_profile(text: str) -> None:
    with pytest.raises(ProfileError, match=r"some\.toml"):
        FirmwareProfile.parse(text, "some.toml")


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../pyproject", "/etc/passwd", "hsm9", "hsm2m.medium\n"]
)
def test_a_type_is_no_path(name: str) -> None:
    with pytest.raises(NotFoundError, match=r"hsm1\.medium, hsm2m\.medium"):
        profile_path(name)
    assert "hsm2m.medium" in load_profiles()


# --- custodians' words ---

SEED = hashlib.sha256(b"hostile").digest()


@cache
def words(threshold: int = 3, shares: int = 5, seed: bytes = SEED) -> tuple[str, ...]:
    return tuple(recovery.split_seed(seed, threshold, shares))


def edited(place: int, change: Callable[[list[str]], list[str]]) -> list[str]:
    given_ = list(words()[:3])
    given_[place] = " ".join(change(given_[place].split()))
    return given_


def test_more_shares_than_needed_in_any_order_do() -> None:
    assert recovery.combine_shares(words()) == SEED
    assert recovery.combine_shares(tuple(reversed(words()))) == SEED
    assert recovery.combine_shares([w.upper() for w in words()[1:4]]) == SEED


WRONG: dict[str, tuple[Callable[[], list[str]], str, str]] = {
    "none": (list, "share-", "empty|few|no share"),
    "one": (lambda: list(words()[:1]), "share-too-few", "1 of the 3"),
    "too few": (lambda: list(words()[:2]), "share-too-few", "2 of the 3"),
    "an empty one": (lambda: edited(1, lambda w: []), "share-mistyped", "share 2"),
    "one twice": (lambda: [*words()[:2], words()[0]], "share-twice", "share 3"),
    "one twice beside enough": (lambda: [*words(), words()[2]], "share-twice", "share 6"),
    "another set": (
        lambda: [*words()[:2], words(seed=bytes(32))[2]], "share-other-set", "share 3"
    ),
    "another set beside enough": (
        lambda: [*words()[:4], words(seed=bytes(32))[4]], "share-other-set", "share 5"
    ),
    "a word too few": (lambda: edited(0, lambda w: w[:-1]), "share-mistyped", "share 1"),
    "a word too many": (lambda: edited(2, lambda w: [*w, w[0]]), "share-mistyped", "share 3"),
    "no word of the list": (
        lambda: edited(1, lambda w: [*w[:9], "cloister", *w[10:]]), "share-mistyped", "share 2"
    ),
    "another script": (
        lambda: edited(1, lambda w: [*w[:9], "п", *w[10:]]), "share-mistyped", "share 2"
    ),
    "words in another order": (
        lambda: edited(1, lambda w: w[::-1]), "share-mistyped", "share 2"
    ),
    "a share of another secret's length": (
        lambda: list(words(2, 3, bytes(16))[:2]), "share-other-set", "Cloister"
    ),
    "ten thousand words": (lambda: ["academic " * 10_000], "share-mistyped", "share 1"),
}  # fmt: skip


@pytest.mark.parametrize(("build", "code", "said"), WRONG.values(), ids=WRONG)
def test_wrong_words_name_the_share(build: Callable[[], list[str]], code: str, said: str) -> None:
    with pytest.raises(RefusedError, match=said) as caught:
        recovery.combine_shares(build())
    assert caught.value.code.startswith(code)
    for share in words():  # which words were typed is not said
        assert not any(" ".join(pair) in str(caught.value) for pair in pairwise(share.split()))


@settings(max_examples=examples(60), deadline=None)
@given(place=st.integers(0, 32), share=st.integers(0, 2), data=st.data())
def test_any_mistyped_word_is_found(place: int, share: int, data: st.DataObject) -> None:
    typed = data.draw(st.sampled_from(sorted({w for x in words() for w in x.split()})))
    before = list(words()[:3])
    after = edited(share, lambda w: [*w[:place], typed, *w[place + 1 :]])
    if after == before:
        return
    with pytest.raises(RefusedError) as caught:
        recovery.combine_shares(after)
    assert caught.value.code in {"share-mistyped", "share-other-set", "share-twice"}


@pytest.mark.parametrize(
    ("threshold", "shares"), [(1, 1), (1, 5), (0, 0), (4, 3), (2, 17), (17, 17), (-1, 3)]
)
def test_thresholds_that_protect_nothing(threshold: int, shares: int) -> None:
    with pytest.raises(RefusedError) as caught:
        recovery.split_seed(SEED, threshold, shares)
    assert caught.value.code == "recovery-rule"
