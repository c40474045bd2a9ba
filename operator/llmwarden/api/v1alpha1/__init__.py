"""The custom resources of `llmwarden.io/v1alpha1`, as frozen values.

`parse(LLMService, json)` reads an object from the API server's JSON, and `value.dump()` returns that JSON.
"""

from llmwarden.api.v1alpha1.common import BackendType, Condition, LabelSelector, Metadata, Model
from llmwarden.api.v1alpha1.llmbudget import ClusterLLMBudget, LLMBudget, SharedBudgetStatus
from llmwarden.api.v1alpha1.llmservice import Budget, LLMService, LLMServiceSpec, LLMServiceStatus, Objective
from llmwarden.api.v1alpha1.modelprice import ModelPrice, PriceEntry
from llmwarden.api.v1alpha1.parse import parse
from llmwarden.api.v1alpha1.provideraccount import ProviderAccount, ProviderAccountStatus

__all__ = [
    "BackendType",
    "Budget",
    "ClusterLLMBudget",
    "Condition",
    "LLMBudget",
    "LLMService",
    "LLMServiceSpec",
    "LLMServiceStatus",
    "LabelSelector",
    "Metadata",
    "Model",
    "ModelPrice",
    "Objective",
    "PriceEntry",
    "ProviderAccount",
    "ProviderAccountStatus",
    "SharedBudgetStatus",
    "parse",
]
