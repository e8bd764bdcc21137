"""Words become commands, or the messages of clap."""

from __future__ import annotations

import shlex

import pytest
from hypothesis import given as examples
from hypothesis import strategies as st

from orchestrator.cli.cloudhsm.parser import HelpRequest, ParseError, parse, split
from orchestrator.cli.cloudhsm.syntax import Command, Flag, Given, Kind
from orchestrator.cli.cloudhsm.tree import PROGRAM, TREE


def parsed(line: str) -> Given:
    made = parse(TREE, split(line), PROGRAM)
    assert isinstance(made, Given)
    return made


def refusal(line: str) -> str:
    with pytest.raises(ParseError) as caught:
        parse(TREE, split(line), PROGRAM)
    return str(caught.value)


def test_a_flag_takes_several_values() -> None:
    given = parsed("key list --filter attr.label=a attr.class=private-key -v --max-items=3")
    assert given.list("--filter") == ("attr.label=a", "attr.class=private-key")
    assert given.has("--verbose")
    assert given.number("--max-items") == 3
    assert given.maybe("--starting-token") is None


def test_a_list_may_be_repeated_and_may_be_empty() -> None:
    line = "key generate-symmetric aes --label a --key-length-bytes 16 --share-crypto-users"
    assert parsed(line).list("--share-crypto-users") == ()
    twice = parsed(f"{line} bob --share-crypto-users carol dora")
    assert twice.list("--share-crypto-users") == ("bob", "carol", "dora")


def test_the_second_factor_comes_after_the_flags_of_login() -> None:
    given = parsed("login --username a --role admin --password mfa-token-sign --token f")
    assert given.path == ("login", "mfa-token-sign")
    assert given.has("--password")
    assert given.maybe("--password") is None
    assert (given.text("--token"), given.text("--username")) == ("f", "a")
    missing = refusal("login mfa-token-sign")
    assert "--username" in missing
    assert "--token" in missing


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("user crate", "error: unrecognized subcommand 'crate'\n\n  tip: a similar subcommand"),
        ("key delete", "error: the following required arguments were not provided:\n  --filter"),
        ("key delete --filter", "error: a value is required for '--filter [<FILTER>...]' but"),
        ("logout --x", "error: unexpected argument '--x' found"),
        ("logout x", "error: unexpected argument 'x' found"),
        ("key list --max-items -1", "error: a value is required for '--max-items <MAX_ITEMS>'"),
        ("key list --max-items 1.5", "error: invalid value '1.5' for '--max-items <MAX_ITEMS>': "),
        ("key list --max-items ٣", "error: invalid value '٣' for '--max-items <MAX_ITEMS>': "),
        ("key list -v -v", "error: the argument '--verbose' cannot be used multiple times"),
        ("key list -v=1", "error: unexpected value '1' for '--verbose'"),
        (
            "login --role Admin",
            "error: invalid value 'Admin' for '--role <ROLE>'\n  [possible values: crypto-user, "
            "admin]\n\n  tip: a similar value exists: 'admin'",
        ),
        (
            "key unwrap rsa-aes --data a --data-path b",
            "error: the argument '--data <DATA>' cannot be used with '--data-path <DATA_PATH>'",
        ),
        ("key list --filter 'a", "error: no closing quotation"),
        ("user '\x1b[2J'", r"error: unrecognized subcommand '\x1b[2J'"),
        ("help user crate", "error: unrecognized subcommand 'crate'"),
    ],
)
def test_refusals(line: str, message: str) -> None:
    assert refusal(line).startswith(message)


@pytest.mark.parametrize("tail", ["of-four words", "--of-four", "-x"])
def test_what_may_be_a_part_of_a_password_is_not_shown(tail: str) -> None:
    text = refusal(f"login --username a --role admin --password one {tail}")
    assert "of-four" not in text
    assert "words" not in text
    assert "'-x'" not in text


def test_groups_and_help_ask_for_help() -> None:
    for line, path, is_missing in [
        ("user", ("user",), True),
        ("", (), True),
        ("help", (), False),
        ("user help create", ("user", "create"), False),
        ("help key unwrap aes-gcm", ("key", "unwrap", "aes-gcm"), False),
        ("key list --filter x -h", ("key", "list"), False),
    ]:
        made = parse(TREE, split(line), PROGRAM)
        assert isinstance(made, HelpRequest)
        assert (made.path, made.is_missing) == (path, is_missing)


COMMANDS = list(TREE.commands())
VALUES = st.text(min_size=1, max_size=12).filter(lambda text: not text.startswith("-"))


def _values(flag: Flag) -> st.SearchStrategy[list[str]]:
    if flag.choices:
        return st.sampled_from(flag.choices).map(lambda choice: [choice])
    match flag.kind:
        case Kind.SWITCH:
            return st.just([])
        case Kind.NUMBER:
            return st.integers(0, 10**9).map(lambda number: [str(number)])
        case Kind.LIST:
            return st.lists(VALUES, min_size=1, max_size=4)
        case _:
            return VALUES.map(lambda text: [text])


@st.composite
def lines(draw: st.DrawFn) -> tuple[tuple[str, ...], dict[str, tuple[str, ...]], str]:
    path, _ = draw(st.sampled_from(COMMANDS))
    nodes: list[Command] = [TREE]
    for name in path:
        child = nodes[-1].child(name)
        assert child is not None
        nodes.append(child)
    words, values = [], {}
    for name, node in zip(("", *path), nodes, strict=True):
        words += [name] if name else []
        chosen = {draw(st.sampled_from(group)) for group in node.one_of}
        grouped = {name for group in node.one_of for name in group}
        for flag in draw(st.permutations(node.flags)):
            is_in = flag.is_required or flag.name in chosen
            if not is_in and (flag.name in grouped or draw(st.booleans())):
                continue
            taken = draw(_values(flag))
            if flag.kind is Kind.MAYBE and node.child(taken[0]):
                continue
            values[flag.name] = tuple(taken)
            words += [flag.name, *taken]
    return path, values, shlex.join(words)


@examples(lines())
def test_what_is_written_is_what_is_read(
    written: tuple[tuple[str, ...], dict[str, tuple[str, ...]], str],
) -> None:
    path, values, line = written
    given = parsed(line)
    assert (given.path, dict(given.values)) == (path, values)


@examples(st.lists(st.one_of(st.sampled_from(["key", "list", "--filter", "-v", "="]), st.text())))
def test_any_words_end_in_a_command_help_or_a_message(words: list[str]) -> None:
    try:
        made: object = parse(TREE, words, PROGRAM)
    except ParseError as exc:
        made = str(exc)
    assert isinstance(made, Given | HelpRequest) or str(made).startswith("error: ")
