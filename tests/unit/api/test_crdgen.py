from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import BaseModel, Field

from llmwarden.api import crdgen, resources
from llmwarden.api.v1alpha1.common import Model


def nodes(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, schema
    for name, child in schema.get("properties", {}).items():
        yield from nodes(child, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if key in schema:
            yield from nodes(schema[key], f"{path}[]")


def schema(kind: str) -> dict[str, Any]:
    resource = next(item for item in resources.RESOURCES if item.kind == kind)
    version = crdgen.definition(resource)["spec"]["versions"][0]
    found: dict[str, Any] = version["schema"]["openAPIV3Schema"]
    return found


def at(kind: str, path: str) -> dict[str, Any]:
    return dict(nodes(schema(kind)))[path]


KINDS = [resource.kind for resource in resources.RESOURCES]


def test_crds_in_the_repository_are_what_the_models_say() -> None:
    assert crdgen.main(["--check"]) == 0


def test_drift_fails_and_shows_the_difference(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert crdgen.main([str(tmp_path)]) == 0
    assert crdgen.main(["--check", str(tmp_path)]) == 0
    edited = tmp_path / "modelprices.yaml"
    edited.write_text(edited.read_text().replace("scope: Cluster", "scope: Namespaced"))
    (tmp_path / "stale.yaml").write_text("old: true\n")
    assert crdgen.main(["--check", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert "-  scope: Namespaced" in error
    assert "+  scope: Cluster" in error
    assert "2 of crds/ differ from the models: run `make generate`" in error
    assert crdgen.main([str(tmp_path)]) == 0
    assert not (tmp_path / "stale.yaml").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_schemas_are_structural_and_bounded(kind: str) -> None:
    for path, node in nodes(schema(kind)):
        assert not {"$ref", "$defs", "anyOf", "allOf", "title", "const", "exclusiveMinimum"} & node.keys(), path
        assert not ("properties" in node and "additionalProperties" in node), path
        if path not in {".apiVersion", ".kind"}:
            assert node["type"] != "string" or {"maxLength", "enum"} & node.keys(), path
        assert node["type"] != "array" or {"maxItems", "x-kubernetes-list-type"} <= node.keys(), path
        for rule in node.get("x-kubernetes-validations", ()):
            assert rule["message"], path
            assert len(rule["message"]) <= 300, path
            assert "\n" not in rule["message"], path


@pytest.mark.parametrize("kind", KINDS)
def test_every_field_is_explained(kind: str) -> None:
    outside = {"", ".apiVersion", ".kind", ".metadata"}
    for path, node in nodes(schema(kind)):
        if path not in outside and not path.endswith("[]"):
            assert node.get("description"), path


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_filled_into_a_status_or_an_item_of_a_list(kind: str) -> None:
    for path, node in nodes(schema(kind)):
        assert "default" not in node or not (path.startswith(".status") or "[]" in path), path


def test_defaults_lists_and_keys() -> None:
    tracing = {"samplePercent": 100, "captureContent": False, "browserOrigins": []}
    assert at("LLMService", ".spec.tracing")["default"] == tracing
    assert at("LLMBudget", ".spec.onExceeded")["default"] == {"action": "Alert"}
    assert "default" not in at("LLMService", ".spec.workload.interception")
    assert at("LLMService", ".spec.budgets")["x-kubernetes-list-map-keys"] == ["name"]
    assert at("LLMService", ".status.budgets")["x-kubernetes-list-map-keys"] == ["scope", "name"]
    assert at("ModelPrice", ".spec.prices[].perGPUHour")["type"] == "string"
    assert at("ModelPrice", ".spec.prices[].from")["format"] == "date-time"


def test_rules_beside_a_field_and_in_its_type_add_up() -> None:
    selector = at("LLMService", ".spec.workload.selector")
    assert selector["x-kubernetes-map-type"] == "atomic"
    assert "must not be empty" in selector["x-kubernetes-validations"][0]["message"]
    assert "x-kubernetes-validations" not in at("LLMBudget", ".spec.selector")


def test_columns_are_in_the_order_that_people_know() -> None:
    resource = resources.RESOURCES[0]
    narrow = [column.name for column in resource.columns if not column.priority]
    wide = [column.name for column in resource.columns if column.priority]
    assert narrow == "READY BACKEND PODS TTFT-P95 P95 ERRORS $/REQ SPENT BUDGET AGE".split()  # noqa: SIM905
    assert wide == ["TOKENS", "THROUGHPUT", "EXHAUSTED"]


@pytest.mark.parametrize("resource", resources.RESOURCES, ids=lambda item: item.kind)
def test_columns_show_fields_that_exist(resource: resources.Resource) -> None:
    known = {path for path, _ in nodes(schema(resource.kind))} | {".metadata.creationTimestamp"}
    for column in resource.columns:
        assert column.path.partition("[?")[0] in known, column.name


class Unbounded(Model):
    text: str


class Union(Model):
    either: Annotated[str, Field(max_length=1)] | int


class Fancy(BaseModel):
    number: Annotated[int, Field(gt=1)]


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (Unbounded, r"Unbounded\.text has no maxLength"),
        (Union, r"Union\.either: a structural schema has no unions"),
        (Fancy, r"Fancy\.number: a structural schema has no exclusiveMinimum"),
    ],
)
def test_what_the_api_server_would_refuse_is_refused_here_with_its_path(model: type[BaseModel], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        crdgen.structural(model)
