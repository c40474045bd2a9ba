"""From an object's JSON to its model, with a sentence when it cannot be."""

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import ValidationError

from llmwarden.api.v1alpha1.llmbudget import ClusterLLMBudget, LLMBudget
from llmwarden.api.v1alpha1.llmservice import LLMService
from llmwarden.api.v1alpha1.modelprice import ModelPrice
from llmwarden.api.v1alpha1.provideraccount import ProviderAccount
from llmwarden.errors import InvalidSpecError

Resource = TypeVar("Resource", bound=LLMService | LLMBudget | ClusterLLMBudget | ModelPrice | ProviderAccount)


def parse(model: type[Resource], value: Mapping[str, Any]) -> Resource:
    """Return the object as a value.

    Raises InvalidSpecError with a sentence when metadata or spec do not fit (stored under another version of the schema, say).
    A status that does not fit is dropped: it is ours, is written again, and must never stop the spec from being read.
    """
    try:
        return _validated(model, value)
    except ValidationError as error:
        if "status" not in value or any(item["loc"][:1] != ("status",) for item in error.errors()):
            raise InvalidSpecError(_sentence(error)) from error
    return _validated(model, {key: item for key, item in value.items() if key != "status"})


def _validated(model: type[Resource], value: Mapping[str, Any]) -> Resource:
    # TypeVar bound to a union: mypy takes the union's method.
    validated = model.model_validate(value)
    assert isinstance(validated, model)  # noqa: S101
    return validated


def _sentence(error: ValidationError) -> str:
    parts = []
    for item in error.errors():
        path = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in item["loc"]).lstrip(".")
        parts.append(f"{path}: {item['msg']}")
    return "; ".join(parts)
