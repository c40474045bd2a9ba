"""The guard itself."""

from llmwarden.contracts.ledger import Tokens
from tests.golden.contracts.promise import lost, unsaid


def test_a_reader_misses_what_is_gone_renamed_or_of_another_type() -> None:
    old = {"a": 1, "b": [{"c": "x"}]}
    assert lost(old, {**old, "new": 1}) == []
    assert lost(old, {"a": 1, "b": [{"d": "x"}]}) == [".b[0].c is gone"]
    assert lost(old, {"a": 1.0, "b": [{"c": "x"}]}) == [".a was 1 and is 1.0"]
    assert lost(old, {"a": 1, "b": []}) == [".b was [{'c': 'x'}] and is []"]


def test_an_example_with_a_default_guards_nothing() -> None:
    assert unsaid({"one": (Tokens(1, 2, 3, 4, 5, 6, 7),)}) == ["[one][0].output_audio"]
