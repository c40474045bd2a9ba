"""Packed objects: they come back as they were, equal ones are equal bytes, and they are small."""

import json
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmwarden.kube.packed import pack, unpack

_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | _TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_TEXT, inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(_TEXT, _VALUES, max_size=6))
def test_every_json_object_comes_back_as_it_was(item: dict[str, Any]) -> None:
    assert unpack(pack(item)) == item


def test_the_order_of_keys_does_not_count() -> None:
    one = {"metadata": {"name": "a", "namespace": "shop"}, "spec": {"x": 1}}
    other = {"spec": {"x": 1}, "metadata": {"namespace": "shop", "name": "a"}}
    assert pack(one) == pack(other)
    assert pack(one) != pack({**one, "spec": {"x": 2}})


def test_what_is_unpacked_is_the_callers_own() -> None:
    packed = pack({"spec": {"list": [1]}})
    unpack(packed)["spec"]["list"].append(2)
    assert unpack(packed) == {"spec": {"list": [1]}}


def test_text_that_repeats_is_small() -> None:
    budgets = [{"name": f"budget-{number}", "limit": {"amount": "25.00", "currency": "USD"}} for number in range(16)]
    item = {"kind": "LLMService", "spec": {"budgets": budgets}}
    assert sys.getsizeof(pack(item)) < len(json.dumps(item)) / 4


def test_what_json_does_not_have_is_refused() -> None:
    with pytest.raises(TypeError):
        pack({"spec": object()})
