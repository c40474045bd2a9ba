"""Read an object's JSON into its model, or raise an error whose sentence names the field."""

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

    Raises InvalidSpecError with a sentence if metadata or spec are invalid, for example stored under an older schema.
    An invalid status is dropped: the operator writes it again, and it must never stop the spec from being read.
    """
    try:
        return _validated(model, value)
    except ValidationError as error:
        if "status" not in value or any(item["loc"][:1] != ("status",) for item in error.errors()):
            raise InvalidSpecError(_sentence(error)) from error
    return _validated(model, {key: item for key, item in value.items() if key != "status"})


def _validated(model: type[Resource], value: Mapping[str, Any]) -> Resource:
    # mypy gives model_validate the type of the whole union, not of the one model.
    validated = model.model_validate(value)
    assert isinstance(validated, model)  # noqa: S101
    return validated


def _sentence(error: ValidationError) -> str:
    parts = []
    for item in error.errors():
        path = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in item["loc"]).lstrip(".")
        parts.append(f"{path}: {item['msg']}")
    return "; ".join(parts)
