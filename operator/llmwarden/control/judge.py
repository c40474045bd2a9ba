"""Judges what was seen of a service: which pods are measured, what is wrong, and whether its objects are selected. Pure.

`observe.world` collects what is seen (`Seen`). `judge` makes a `Snapshot` of it. `status` puts the snapshot into words.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llmwarden import status as statuses
from llmwarden.api.v1alpha1 import LLMService
from llmwarden.contracts import ledger as wire
from llmwarden.control import around
from llmwarden.domain import upstream
from llmwarden.domain.objectives import Objective
from llmwarden.injection import pods
from llmwarden.injection.sidecar import services_upstream
from llmwarden.manifests import engine_scraping, gpu_choice
from llmwarden.settings import Settings
from llmwarden.snapshot import Capabilities, EngineIdentity, Figures, Problem, Snapshot, Source, queue_bounds
from llmwarden.status import selected

Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Seen:
    """What is known of a service, before it is judged.

    `pods`: those that it selects and that have not ended. `rivals`: other services that select one of them. `beside`: our objects and who
    may select them. `gpu`: which exporter was chosen, and by which facts. `all_usage`: whether the ledger has reported all services' usage.
    """

    service: LLMService
    object: Object
    namespace_labels: Mapping[str, str]
    rivals: tuple[LLMService, ...]
    pods: tuple[Object, ...]
    kube_services: tuple[Object, ...]
    objectives: tuple[Objective, ...]
    capabilities: Capabilities
    beside: selected.Around
    retention: int | None
    prometheus: Source
    figures: Figures
    engine: EngineIdentity | None
    ledger: Source
    all_usage: bool
    usage: wire.ServiceUsage | None
    budgets: Mapping[str, wire.BudgetUsage]
    unwatched: tuple[str, ...]
    pods_known: bool
    gpu: tuple[gpu_choice.Choice, gpu_choice.Facts]


def judge(seen: Seen, settings: Settings) -> Snapshot:
    """Judge what was seen of one service."""
    service = seen.service
    views = (pods.view(pod, service, seen.rivals, seen.namespace_labels, settings) for pod in seen.pods)
    return Snapshot(
        service=service,
        object=seen.object,
        pods=tuple(sorted(views, key=lambda view: view.name)),
        capabilities=seen.capabilities,
        prometheus=seen.prometheus,
        figures=seen.figures,
        engine=seen.engine,
        ledger=_unread_by(seen.ledger) if seen.all_usage and seen.usage is None else seen.ledger,
        usage=seen.usage,
        budgets=seen.budgets,
        problems=_problems(seen, settings),
        warnings=_warnings(seen),
        selected=selected.verdicts(service, settings, seen.beside),
        retention=selected.retention(service, seen.beside) or seen.retention,
        unwatched=seen.unwatched,
        pods_known=seen.pods_known,
        dashboard_kind=settings.grafana_delivery,
        gpu=gpu_choice.verdict(service, *seen.gpu, settings),
    )


def _problems(seen: Seen, settings: Settings) -> tuple[Problem, ...]:
    """Return why the spec cannot work as it is written."""
    bounds = queue_bounds(seen.engine, seen.figures)
    return (
        *statuses.problems(seen.service),
        *around.unmeasurable(seen.objectives, seen.service, bounds),
        *engine_scraping.refusals(seen.service, settings),
        *_upstream(seen.service, settings),
        *around.not_in_cluster(seen.service, seen.kube_services, settings.cluster_domain),
    )


def _warnings(seen: Seen) -> tuple[Problem, ...]:
    """Return what keeps the service from working completely, though its spec is valid."""
    return (
        *around.past_the_proxy(seen.service, seen.figures, seen.pods, seen.kube_services),
        *around.credentials(seen.service, seen.figures),
        *engine_scraping.not_installed(seen.service, seen.capabilities),
    )


def _upstream(service: LLMService, settings: Settings) -> tuple[Problem, ...]:
    if upstream.interception(service) != "Env":
        return ()
    address = services_upstream(service, settings)
    return () if isinstance(address, str) else (Problem(address.reason, f"{address.message}."),)


def _unread_by(ledger: Source) -> Source:
    """Return the state of a ledger that answers, but has not read the service yet."""
    return Source(
        asked=ledger.asked, fresh=False, reason="NotKnownYet", message="The ledger has not read this service yet."
    )
