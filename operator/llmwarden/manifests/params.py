"""What builders get: one frozen value for a service's children, one for what exists once in the cluster."""

from dataclasses import dataclass

from llmwarden import names
from llmwarden.api.v1alpha1 import LLMService
from llmwarden.domain.budgets import Budget
from llmwarden.domain.objectives import Objective
from llmwarden.manifests.gpu_choice import NO_EXPORTER, Choice
from llmwarden.settings import Settings
from llmwarden.snapshot import Capabilities


@dataclass(frozen=True, slots=True)
class Params:
    """For the objects beside one LLMService.

    `objectives` and `budgets` are what can work of its spec, the shared budgets that hold for it included.
    """

    service: LLMService
    settings: Settings
    capabilities: Capabilities
    objectives: tuple[Objective, ...] = ()
    budgets: tuple[Budget, ...] = ()


@dataclass(frozen=True, slots=True)
class Owner:
    """A ConfigMap in our namespace. Kubernetes deletes what it owns when it is deleted."""

    name: str
    uid: str

    def reference(self) -> dict[str, object]:
        """Make the entry of an object's ownerReferences."""
        return {"apiVersion": "v1", "kind": "ConfigMap", "name": self.name, "uid": self.uid}


@dataclass(frozen=True, slots=True)
class ClusterParams:
    """For what exists once.

    `services` are those that say something of their traces, `namespaces` those that hold a service, in order. `ca_bundle` is PEM, empty while
    there is none; `webhook_path`: under which the webhook is called, with a secret segment; `gpu`: which GPU exporter is ours to run.
    `owner` is an object of the chart with which those in our own namespace go; None where there is none.
    """

    services: tuple[LLMService, ...]
    settings: Settings
    capabilities: Capabilities
    ca_bundle: str = ""
    webhook_path: str = names.WEBHOOK_PATH
    accounts: bool = False  # whether there is a ProviderAccount
    gpu: Choice = NO_EXPORTER
    namespaces: tuple[str, ...] = ()
    owner: Owner | None = None
