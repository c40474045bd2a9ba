"""Write the CustomResourceDefinitions in crds/ from the models: `python -m llmwarden.api.crdgen [--check] [FOLDER]`.

CRDs need a structural schema (Kubernetes' subset of OpenAPI v3), which pydantic's JSON schema is not. This module translates it: it
inlines `$defs`, makes `anyOf` with null an optional field, removes `title`, and makes constants enums. Descriptions come from the
docstrings below the fields.
"""

import argparse
import ast
import difflib
import inspect
import sys
import textwrap
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

import yaml
from pydantic import BaseModel
from pydantic.alias_generators import to_camel

from llmwarden import names
from llmwarden.api import resources

CRDS: Final = Path(__file__).parents[3] / "crds"
_HEADER: Final = "# Generated from operator/llmwarden/api by `make generate`; do not edit.\n"
# Keys of a structural schema that are copied unchanged (KEP: apiextensions v1 JSONSchemaProps).
_KEPT: Final = (
    "type",
    "format",
    "pattern",
    "enum",
    "default",
    "minimum",
    "maximum",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "minProperties",
    "maxProperties",
    "required",
)
_DROPPED: Final = frozenset({"title", "description", "properties", "items", "additionalProperties", "$defs"})
_TIME_LENGTH: Final = 64


def definition(resource: resources.Resource) -> dict[str, Any]:
    """Return the CustomResourceDefinition of a kind."""
    schema = structural(resource.model)
    properties = schema["properties"]
    # The API server defines these fields and allows only their type here.
    properties |= {"apiVersion": {"type": "string"}, "kind": {"type": "string"}, "metadata": {"type": "object"}}
    schema["required"] = ["spec"]
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": resource.name, "labels": {names.LABEL_NAME: names.MANAGED_BY}},
        "spec": {
            "group": names.GROUP,
            "scope": resource.scope,
            "names": {
                "kind": resource.kind,
                "listKind": f"{resource.kind}List",
                "plural": resource.plural,
                "singular": resource.singular,
                "shortNames": list(resource.short),
                "categories": ["llmwarden"],
            },
            "versions": [
                {
                    "name": names.VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": [_column(column) for column in resource.columns],
                    "schema": {"openAPIV3Schema": schema},
                }
            ],
        },
    }


def structural(model: type[BaseModel]) -> dict[str, Any]:
    """Return a model's structural schema.

    Raises ValueError with the path where a structural schema cannot express the model, or a string, list or map has no bound.
    """
    raw = model.model_json_schema(by_alias=True, mode="validation")
    definitions = raw.get("$defs", {})
    models = {item.__name__: item for item in _models(model)}
    return _node({**raw, "$ref": None}, model.__name__, definitions, models, model)


def render(resource: resources.Resource) -> str:
    """Return the text of a kind's file in crds/."""
    body = yaml.dump(definition(resource), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=140)
    return _HEADER + body


def main(arguments: list[str] | None = None) -> int:
    """Write the files. With --check, only compare: return 1 and print a diff if they differ."""
    parser = argparse.ArgumentParser(prog="python -m llmwarden.api.crdgen", description="crds/ from the models")
    parser.add_argument(
        "--check", action="store_true", help="do not write; exit 1 when a file is not what would be written"
    )
    parser.add_argument("folder", nargs="?", type=Path, default=CRDS)
    given = parser.parse_args(arguments)
    wanted = {f"{resource.plural}.yaml": render(resource) for resource in resources.RESOURCES}
    folder: Path = given.folder
    present = {path.name: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.yaml"))}
    if given.check:
        return _check(present, wanted)
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in wanted.items():
        if present.get(name) != text:
            (folder / name).write_text(text, encoding="utf-8")
    for name in present.keys() - wanted.keys():
        (folder / name).unlink()
    return 0


def _check(present: Mapping[str, str], wanted: Mapping[str, str]) -> int:
    drifted = 0
    for name in sorted(present.keys() | wanted.keys()):
        before, after = present.get(name, ""), wanted.get(name, "")
        if before == after:
            continue
        drifted += 1
        diff = difflib.unified_diff(
            before.splitlines(), after.splitlines(), f"crds/{name}", f"crds/{name} (generated)", n=1, lineterm=""
        )
        sys.stderr.write("\n".join(list(diff)[:40]) + "\n")
    if drifted:
        sys.stderr.write(f"{drifted} of crds/ differ from the models: run `make generate` and commit\n")
    return 1 if drifted else 0


def _column(column: resources.Column) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "name": column.name,
        "type": column.type,
        "jsonPath": column.path,
        "description": column.description,
    }
    if column.priority:
        entry["priority"] = column.priority
    return entry


def _node(
    raw: Mapping[str, Any],
    path: str,
    definitions: Mapping[str, Any],
    models: Mapping[str, type[BaseModel]],
    model: type[BaseModel] | None = None,
) -> dict[str, Any]:
    raw, model = _resolved(raw, path, definitions, models, model)
    unknown = [key for key in raw if key not in _KEPT and key not in _DROPPED and not key.startswith("x-kubernetes-")]
    if unknown:
        message = f"{path}: a structural schema has no {', '.join(unknown)}"
        raise ValueError(message)
    node: dict[str, Any] = {}
    if description := raw.get("description"):
        node["description"] = " ".join(description.split())
    node |= {key: raw[key] for key in _KEPT if key in raw}
    if "default" in node:
        default = _without_none(node.pop("default"))
        # Null and empty defaults say nothing, so they are left out. A status is observed: the API server must not fill it.
        # Client-side apply and Argo CD compare whole lists: a default filled into an item would show as a lasting difference.
        if default not in (None, [], {}) and ".status" not in path and "[]" not in path:
            node["default"] = default
    if "properties" in raw:
        node["properties"] = {
            name: _node(_described(field, model, name), f"{path}.{name}", definitions, models)
            for name, field in raw["properties"].items()
        }
    if "items" in raw:
        node["items"] = _node(raw["items"], f"{path}[]", definitions, models)
    if isinstance(raw.get("additionalProperties"), dict):
        node["additionalProperties"] = _node(raw["additionalProperties"], f"{path}.*", definitions, models)
    node |= {key: value for key, value in raw.items() if key.startswith("x-kubernetes-")}
    _check_bounds(node, path)
    return node


def _resolved(
    raw: Mapping[str, Any],
    path: str,
    definitions: Mapping[str, Any],
    models: Mapping[str, type[BaseModel]],
    model: type[BaseModel] | None,
) -> tuple[dict[str, Any], type[BaseModel] | None]:
    """Follow `$ref`, take the branch of `anyOf` that is not null, and merge the keys next to them."""
    merged = {key: value for key, value in raw.items() if key not in {"$ref", "anyOf"}}
    branches = [branch for branch in raw.get("anyOf", ()) if branch.get("type") != "null"]
    if "anyOf" in raw and "type" not in merged:
        if len(branches) != 1:
            message = f"{path}: a structural schema has no unions"
            raise ValueError(message)
        inner, model = _resolved(branches[0], path, definitions, models, model)
        merged = _merged(inner, merged)
    if raw.get("$ref"):
        name = raw["$ref"].rpartition("/")[2]
        inner, _ = _resolved(definitions[name], path, definitions, models, None)
        merged, model = _merged(inner, merged), models.get(name)
    if "const" in merged:
        merged["enum"] = [merged.pop("const")]
    if merged.get("format") == "date-time":
        merged.setdefault("maxLength", _TIME_LENGTH)
    return merged, model


def _merged(inner: Mapping[str, Any], outer: Mapping[str, Any]) -> dict[str, Any]:
    rules = "x-kubernetes-validations"
    both = {**inner, **outer}
    if rules in inner and rules in outer:
        both[rules] = [*inner[rules], *outer[rules]]
    return both


def _described(field: Mapping[str, Any], model: type[BaseModel] | None, alias: str) -> dict[str, Any]:
    description = _docstrings(model).get(alias) if model is not None else None
    return {**field, "description": description} if description else dict(field)


def _check_bounds(node: Mapping[str, Any], path: str) -> None:
    kind = node.get("type")
    if kind == "string" and not ({"maxLength", "enum"} & node.keys()) and not path.endswith((".apiVersion", ".kind")):
        bound = "maxLength"
    elif kind == "array" and "maxItems" not in node:
        bound = "maxItems"
    elif kind == "object" and "additionalProperties" in node and "maxProperties" not in node:
        bound = "maxProperties"
    elif kind is None:
        bound = "type"
    else:
        return
    if ".metadata" in path:
        return
    message = f"{path} has no {bound}: the API server could not bound the cost of rules"
    raise ValueError(message)


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    return value


def _models(model: type[BaseModel]) -> set[type[BaseModel]]:
    found: set[type[BaseModel]] = set()
    pending = [model]
    while pending:
        current = pending.pop()
        if current in found:
            continue
        found.add(current)
        for field in current.model_fields.values():
            pending.extend(_model_arguments(field.annotation))
    return found


def _model_arguments(annotation: Any) -> list[type[BaseModel]]:
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in getattr(annotation, "__args__", ()) for model in _model_arguments(argument)]


@cache
def _docstrings(model: type[BaseModel]) -> dict[str, str]:
    """Return the docstrings below a model's fields, by alias; a subclass's docstring replaces that of its base."""
    found: dict[str, str] = {}
    for base in reversed(model.__mro__):
        if not (issubclass(base, BaseModel) and base.__module__.startswith("llmwarden.")):
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        if not isinstance(body, ast.ClassDef):
            continue
        for field, text in zip(body.body, body.body[1:], strict=False):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(text, ast.Expr)
                and isinstance(text.value, ast.Constant)
                and isinstance(text.value.value, str)
            ):
                info = model.model_fields[field.target.id]
                found[info.alias or to_camel(field.target.id)] = inspect.cleandoc(text.value.value)
    return found


class _Dumper(yaml.SafeDumper):
    """Write no YAML anchors: people read these files."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - the base class's signature
        return True


if __name__ == "__main__":
    sys.exit(main())
