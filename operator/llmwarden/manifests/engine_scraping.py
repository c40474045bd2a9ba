"""How an engine's own metrics get into Prometheus: a PodMonitor of the selected pods, a ServiceMonitor, or a ScrapeConfig for one outside the cluster.

Whatever the spec adds, the series' `namespace` and `llmservice` are the LLMService's own: rules, budgets of attention and people's rights go by them.
"""

from collections.abc import Iterable
from typing import Any, Final

from llmwarden import names
from llmwarden.api.v1alpha1 import BackendType, LLMService
from llmwarden.api.v1alpha1.scraping import Relabeling, Scrape
from llmwarden.domain import engines, upstream
from llmwarden.injection.sidecar import renamed_port
from llmwarden.manifests.manifest import Manifest, beside
from llmwarden.manifests.monitors import limits, pod_limits
from llmwarden.manifests.params import Params
from llmwarden.settings import Settings
from llmwarden.snapshot import Capabilities, Problem

API_VERSION: Final = "monitoring.coreos.com/v1"
SCRAPE_CONFIG: Final = "monitoring.coreos.com/v1alpha1"

# Where engines have metrics on their API port. Ollama has none; llama.cpp only behind a flag, and a target that is down for
# want of it would be a false alarm; Triton's are on another port (below).
PATHS: Final[dict[BackendType, str]] = {
    "VLLM": "/metrics",
    "SGLang": "/metrics",
    "TGI": "/metrics",
    "NIM": "/v1/metrics",
}
TRITON_METRICS_PORT: Final = "metrics"  # the name that Triton's charts give to 8002


def engine(params: Params) -> Manifest | None:
    """Scrape the engine itself, in front of which the proxy may or may not be."""
    scrape = params.service.spec.scrape or Scrape()
    if scrape.targets:
        return _scrape_config(params, scrape) if params.capabilities.scrape_configs else None
    if scrape.service is not None:
        return _service_monitor(params, scrape) if params.capabilities.service_monitors else None
    return _pod_monitor(params, scrape) if params.capabilities.pod_monitors else None


def refusals(service: LLMService, settings: Settings) -> tuple[Problem, ...]:
    """Find the targets that may not be scraped: the spec cannot work as written."""
    targets = service.spec.scrape.targets if service.spec.scrape is not None else ()
    reasons = (upstream.check_target(target, settings.allowed_hosts, settings.cluster_domain) for target in targets)
    return tuple(Problem("TargetNotAllowed", f"{why}.") for why in reasons if why is not None)


def not_installed(service: LLMService, capabilities: Capabilities) -> tuple[Problem, ...]:
    """Find that the kind by which an engine elsewhere is scraped is not there: all but its own metrics works."""
    scrape = service.spec.scrape
    if scrape is None or not scrape.elsewhere:
        return ()
    if capabilities.scrape_configs if scrape.targets else capabilities.service_monitors:
        return ()
    kind = "ScrapeConfig" if scrape.targets else "ServiceMonitor"
    text = f"The Prometheus Operator's {kind} is not installed, so the engine's own metrics are not scraped."
    return (Problem("NotInstalled", text),)


# Kinds --------------------------------------------------------------------------------------------------------------


def _pod_monitor(params: Params, scrape: Scrape) -> Manifest | None:
    """Only under Port interception: with Env the selected pods are the engine's clients.

    The port of the original name is the application's in a pod without the proxy; in a pod with it that name is the proxy's, and the
    application's is the renamed one.
    """
    service = params.service
    interception = service.spec.workload.interception
    if upstream.interception(service) != "Port":
        return None
    if service.spec.backend.type == "TensorRTLLM":
        endpoints = [_pod_endpoint(params, scrape, TRITON_METRICS_PORT, scrape.path or "/metrics")]
    elif interception is not None and interception.port is not None and (path := _path(service, scrape)):
        port = interception.port.name
        if interception.network_policy is not None:
            # The engine's own port is closed to all but the pod itself: the proxy passes the scrape on.
            endpoints = [_pod_endpoint(params, scrape, port, path, through_proxy=True)]
        else:
            endpoints = [_pod_endpoint(params, scrape, name, path) for name in (port, renamed_port(port))]
    else:
        return None
    selector = service.spec.workload.selector.dump()
    return _manifest(params, scrape, "PodMonitor", {"selector": selector, "podMetricsEndpoints": endpoints})


def _service_monitor(params: Params, scrape: Scrape) -> Manifest | None:
    if scrape.service is None:
        return None
    endpoint = {
        "port": scrape.service.port,
        "path": _path(params.service, scrape) or "/metrics",
        "interval": scrape.interval or params.settings.scrape_interval,
        **({"scheme": scrape.scheme} if scrape.scheme else {}),
        **_common(params, scrape, _steps(scrape.relabelings)),
    }
    # Without a namespaceSelector its own namespace: an engine of another team's is not this service's to read.
    return _manifest(
        params, scrape, "ServiceMonitor", {"selector": scrape.service.selector.dump(), "endpoints": [endpoint]}
    )


def _scrape_config(params: Params, scrape: Scrape) -> Manifest | None:
    settings = params.settings
    if any(upstream.check_target(item, settings.allowed_hosts, settings.cluster_domain) for item in scrape.targets):
        return None  # `refusals` says it
    spec: dict[str, Any] = {
        "jobName": f"{params.service.metadata.namespace}/{names.PREFIX_ENGINE}{params.service.metadata.name}",
        "staticConfigs": [{"targets": list(scrape.targets)}],
        "metricsPath": _path(params.service, scrape) or "/metrics",
        "scrapeInterval": scrape.interval or settings.scrape_interval,
        **({"scheme": scrape.scheme.upper()} if scrape.scheme else {}),
        **_common(params, scrape, _steps(scrape.relabelings)),
    }
    return _manifest(params, scrape, "ScrapeConfig", spec)


# Parts --------------------------------------------------------------------------------------------------------------


def _manifest(params: Params, scrape: Scrape, kind: str, spec: dict[str, Any]) -> Manifest:
    name = names.PREFIX_ENGINE + params.service.metadata.name
    labels = {**params.settings.monitor_labels, **scrape.labels}
    samples = params.settings.sample_limit_engine
    bounds = limits(samples) if kind == "ScrapeConfig" else pod_limits(samples)
    return {
        "apiVersion": SCRAPE_CONFIG if kind == "ScrapeConfig" else API_VERSION,
        "kind": kind,
        "metadata": beside(params.service, name, "engine", labels),
        "spec": {**bounds, **spec},
    }


def _path(service: LLMService, scrape: Scrape) -> str:
    """Where the metrics are; empty where nobody knows."""
    engine = engines.BY_TYPE.get(service.spec.backend.type)
    elsewhere = engine.paths[0] if scrape.elsewhere and engine is not None else ""
    return scrape.path or PATHS.get(service.spec.backend.type, "") or elsewhere


def _pod_endpoint(
    params: Params, scrape: Scrape, port: str, path: str, *, through_proxy: bool = False
) -> dict[str, Any]:
    # The proxy would pass the scrape on: the same series twice.
    not_the_proxy = {
        "action": "drop",
        "sourceLabels": ["__meta_kubernetes_pod_container_name"],
        "regex": names.PROXY_CONTAINER,
    }
    first = [*([] if through_proxy else [not_the_proxy]), *_steps(scrape.relabelings)]
    # The proxy speaks plain HTTP to whoever asks it.
    tls = scrape.scheme if not through_proxy else None
    return {
        "port": port,
        "path": path,
        "interval": scrape.interval or params.settings.scrape_interval,
        **({"scheme": tls} if tls else {}),
        **_common(params, scrape, first, own_namespace=not scrape.relabelings),
    }


def _common(
    params: Params, scrape: Scrape, first: list[dict[str, Any]], *, own_namespace: bool = False
) -> dict[str, Any]:
    """What the three kinds spell alike. `own_namespace`: the target's namespace label is the service's already."""
    metadata = params.service.metadata
    whose = [_set(names.LABEL_M_SERVICE, metadata.name)]
    space = [_set("namespace", metadata.namespace)]
    endpoint: dict[str, Any] = {"relabelings": [*first, *whose, *([] if own_namespace else space)]}
    if scrape.honor_labels:
        endpoint["honorLabels"] = True
    if scrape.honor_labels or scrape.metric_relabelings:
        endpoint["metricRelabelings"] = [*_steps(scrape.metric_relabelings), *whose, *space]
    if scrape.tls is not None:
        endpoint["tlsConfig"] = _tls(scrape)
    if scrape.basic_auth is not None:
        auth = scrape.basic_auth
        endpoint["basicAuth"] = {
            "username": auth.username_secret_ref.dump(),
            "password": auth.password_secret_ref.dump(),
        }
    if scrape.bearer_token_secret_ref is not None:
        endpoint["authorization"] = {"type": "Bearer", "credentials": scrape.bearer_token_secret_ref.dump()}
    return endpoint


def _tls(scrape: Scrape) -> dict[str, Any]:
    tls = scrape.tls
    config: dict[str, Any] = {}
    if tls is None:
        return config
    if tls.ca_secret_ref is not None:
        config["ca"] = {"secret": tls.ca_secret_ref.dump()}
    if tls.cert_secret_ref is not None:
        config["cert"] = {"secret": tls.cert_secret_ref.dump()}
    if tls.key_secret_ref is not None:
        config["keySecret"] = tls.key_secret_ref.dump()
    if tls.server_name is not None:
        config["serverName"] = tls.server_name
    if tls.insecure_skip_verify:
        config["insecureSkipVerify"] = True
    return config


def _steps(steps: Iterable[Relabeling]) -> list[dict[str, Any]]:
    return [{key: value for key, value in step.dump().items() if value not in ([], None)} for step in steps]


def _set(label: str, value: str) -> dict[str, Any]:
    return {"action": "replace", "targetLabel": label, "replacement": value}
