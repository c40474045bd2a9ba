"""The patch is checked by an application of it that knows nothing of how it was made (RFC 6902)."""

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmwarden.webhook.patch import diff


def apply(document: Any, operations: list[dict[str, Any]]) -> Any:
    """RFC 6902's add, remove and replace."""
    root = {"": copy.deepcopy(document)}
    for operation in operations:
        tokens = ["", *(part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:])]
        place: Any = root
        for token in tokens[:-1]:
            place = place[int(token)] if isinstance(place, list) else place[token]
        last, value = tokens[-1], copy.deepcopy(operation.get("value"))
        if isinstance(place, list):
            if operation["op"] == "add":
                place.insert(len(place) if last == "-" else int(last), value)
            else:
                assert operation["op"] == "replace"
                assert int(last) < len(place)
                place[int(last)] = value
        elif operation["op"] == "remove":
            del place[last]
        else:
            assert operation["op"] == "add" or last in place
            place[last] = value
    return root[""]


values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from(["a", "b/c", "~"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["name", "a/b", "~x", "c"]), inner, max_size=4)
        | st.lists(st.fixed_dictionaries({"name": st.sampled_from("xyz"), "v": inner}), max_size=4)
    ),
    max_leaves=12,
)


@given(values, values)
def test_applying_the_difference_gives_the_other(old: Any, new: Any) -> None:
    assert apply(old, diff(old, new)) == new


@pytest.mark.parametrize(
    ("old", "new", "paths"),
    [
        ({"a": 1}, {"a": 1}, []),
        ({}, {"a/b": {"~": 1}}, ["/a~1b"]),
        ({"c": [{"name": "app"}]}, {"c": [{"name": "ours"}, {"name": "app", "env": []}]}, ["/c/0", "/c/1/env"]),
        ({"c": [{"name": "app"}]}, {"c": [{"name": "app"}, {"name": "more"}]}, ["/c/-"]),
    ],
)
def test_lists_that_grew_at_an_end_are_not_rewritten(old: Any, new: Any, paths: list[str]) -> None:
    assert [operation["path"] for operation in diff(old, new)] == paths
