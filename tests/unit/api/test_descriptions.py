"""Every field of a spec says its meaning, its default and an example, and what it says is true."""

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
import yaml
from pydantic import BaseModel, TypeAdapter
from pydantic.fields import FieldInfo

from llmwarden.api import crdgen, resources
from llmwarden.api.v1alpha1.common import Model

# The API server refuses annotations above this size, and `kubectl apply` stores the object in one.
ANNOTATIONS_LIMIT = 256 * 1024

RESOURCES = pytest.mark.parametrize("resource", resources.RESOURCES, ids=lambda item: item.kind)
DEFAULT = re.compile(r"Default: (`(?P<value>[^`]+)`|[A-Za-z0-9])")
EXAMPLE = re.compile(r"Example: `(?P<value>[^`]+)`\.$")
PATTERN = re.compile(r"^self\.matches\(r?'(?P<pattern>[^']+)'\)(?! *\|\|)")


class Field(NamedTuple):
    """A field of a spec: in the CRD, and in the model that the CRD is made from."""

    path: str
    schema: dict[str, Any]
    info: FieldInfo
    required: bool

    @property
    def text(self) -> str:
        return str(self.schema.get("description", ""))

    @property
    def leaf(self) -> bool:
        """Whether it has no fields of its own: what it holds is a value, or a list or map of values."""
        return "properties" not in self.schema.get("items", self.schema)

    @property
    def default(self) -> Any:
        """Return the model's default as JSON; None where that is nothing: None or empty."""
        value = self.info.get_default(call_default_factory=True, validated_data={})
        dumped = value.dump() if isinstance(value, Model) else value
        return None if dumped in (None, "", (), {}) else json.loads(json.dumps(dumped))


def fields(schema: dict[str, Any], model: type[BaseModel], path: str) -> Iterator[Field]:
    by_alias = {info.alias or name: info for name, info in model.model_fields.items()}
    for name, child in schema.get("properties", {}).items():
        field = Field(f"{path}.{name}", child, by_alias[name], name in schema.get("required", ()))
        yield field
        if not field.leaf:
            (inner,) = crdgen._model_arguments(field.info.annotation)
            yield from fields(child.get("items", child), inner, field.path)


def of_spec(resource: resources.Resource) -> list[Field]:
    schema = crdgen.structural(resource.model)["properties"]["spec"]
    found = list(fields(schema, resource.model.model_fields["spec"].annotation, "spec"))  # type: ignore[arg-type]
    assert len(found) > 5
    return found


def value_of(match: re.Match[str]) -> Any:
    return yaml.safe_load(match["value"])


@RESOURCES
def test_a_field_says_whether_it_is_required_or_else_its_default(resource: resources.Resource) -> None:
    for field in of_spec(resource):
        assert field.required == field.info.is_required(), field.path
        assert ("Required." in field.text) == field.required, field.path
        assert bool(DEFAULT.search(field.text)) != field.required, field.path


@RESOURCES
def test_a_default_in_a_text_is_the_one_of_the_model(resource: resources.Resource) -> None:
    for field in of_spec(resource):
        if field.required:
            continue
        told = DEFAULT.search(field.text)
        assert told, field.path
        if "default" in field.schema:
            # An empty text is the one default of nothing that a CRD keeps.
            assert field.schema["default"] == ("" if field.default is None else field.default), field.path
        if field.default is not None:
            assert told["value"], field.path
            assert value_of(told) == field.default, field.path


@RESOURCES
def test_a_leaf_has_an_example_that_its_model_and_its_patterns_take(resource: resources.Resource) -> None:
    for field in of_spec(resource):
        example = EXAMPLE.search(field.text)
        assert field.text.count("Example: ") == bool(example), field.path
        if not field.leaf:
            continue
        assert example, field.path
        value = value_of(example)
        TypeAdapter(field.info.rebuild_annotation()).validate_python(value)
        for item, schema in (
            [(one, field.schema["items"]) for one in value] if isinstance(value, list) else [(value, field.schema)]
        ):
            for rule in schema.get("x-kubernetes-validations", ()):
                if pattern := PATTERN.match(rule["rule"]):
                    assert re.search(pattern["pattern"], item), f"{field.path}: {rule['message']}"


@RESOURCES
def test_a_text_begins_with_its_meaning_and_is_one_paragraph(resource: resources.Resource) -> None:
    for field in of_spec(resource):
        assert re.match(r"(?!Default:|Required|Example:)[A-Z]", field.text), field.path
        assert field.text.endswith("."), field.path
        assert "\n" not in field.text, field.path
        assert len(field.text) <= 400, field.path


@RESOURCES
def test_a_crd_and_its_copy_in_an_annotation_stay_below_the_limit(resource: resources.Resource) -> None:
    text = json.dumps(crdgen.definition(resource), ensure_ascii=False, separators=(",", ":"))
    assert 2 * len(text.encode()) < ANNOTATIONS_LIMIT
