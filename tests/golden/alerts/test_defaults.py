"""Every default alert on a real `promtool test rules`: it fires, it does not, it clears; and each can be switched."""

from pathlib import Path
from typing import Any, get_args

import pytest

from llmwarden.api.v1alpha1 import LLMService, parse
from llmwarden.api.v1alpha1.llmservice import OptionalAlert
from llmwarden.domain import objectives
from llmwarden.manifests.alerts.defaults import APPLIES, OFF, wanted
from llmwarden.manifests.params import Params
from llmwarden.settings import Settings
from llmwarden.snapshot import Capabilities
from tests.golden.alerts.promtool import Case, check, rules_for

WHOSE = 'namespace="models",llmservice="chat",pod="a"'
UP = 'up{namespace="models",pod="a",job="llmwarden-system/llmwarden-proxies"}'
ENGINE_UP = f'up{{{WHOSE},job="models/llmwarden-engine-chat"}}'
JOURNAL = 'llmwarden_proxy_journal_errors_total{namespace="models",pod="a"}'
IN_FLIGHT = f"llmwarden_requests_in_flight{{{WHOSE}}}"
OK = f'llmwarden_requests_total{{{WHOSE},http_status_code="200",error_type=""}}'
FAILED = f'llmwarden_requests_total{{{WHOSE},http_status_code="500",error_type="500"}}'
COST = f"llmwarden_cost_usd_total{{{WHOSE}}}"
DURATION = "gen_ai_client_operation_duration_seconds"
GPU = 'namespace="models",pod="a",container="engine",gpu="0",UUID="GPU-1"'
OTHER_GPU = 'namespace="models",pod="stranger",container="x",gpu="1",UUID="GPU-2"'


def params(**alerts: Any) -> Params:
    service = parse(
        LLMService,
        {
            "metadata": {"name": "chat", "namespace": "models", "uid": "u", "generation": 1},
            "spec": {
                "backend": {"type": "VLLM"},
                "workload": {"selector": {"matchLabels": {"app": "chat"}}, "interception": {"port": {"name": "http"}}},
                "gpu": {"exporter": "Auto"},
                "alerts": alerts,
            },
        },
    )
    return Params(service, Settings(), Capabilities(rules=True), objectives.of_service(service))


def fired(severity: str = "warning", **more: str) -> dict[str, str]:
    return {"namespace": "models", "llmservice": "chat", "severity": severity, **more}


def durations(fast: int, slow: int, minutes: int, after: int = 0) -> dict[str, str]:
    """Calls a minute below a second, and of 15 s; then for `after` minutes fast ones only."""

    def series(each: int) -> str:
        return f"0+{each}x{minutes}" + (f" {each * minutes}+{fast}x{after}" if after else "")

    return {
        f'{DURATION}_bucket{{{WHOSE},le="1.0"}}': series(fast),
        f'{DURATION}_bucket{{{WHOSE},le="12.8"}}': series(fast),
        f'{DURATION}_bucket{{{WHOSE},le="20.48"}}': series(fast + slow),
        f'{DURATION}_bucket{{{WHOSE},le="+Inf"}}': series(fast + slow),
        OK: series(fast + slow),
    }


GPU_LABELS = {"pod": "a", "container": "engine", "gpu": "0", "UUID": "GPU-1"}
CASES: dict[OptionalAlert, list[tuple[dict[str, str], dict[str, list[dict[str, str]]]]]] = {
    "LLMLatencyP95High": [
        (durations(90, 10, 30, 30), {"1m": [], "15m": [fired()], "50m": []}),
        (durations(99, 1, 30), {"15m": []}),
    ],
    "LLMLatencyP99High": [
        (durations(90, 10, 30, 30), {"15m": [fired()], "50m": []}),
        (durations(100, 0, 30), {"15m": []}),
    ],
    "LLMErrorRateHigh": [
        ({OK: "0+90x60", FAILED: "0+10x20 200+0x40"}, {"4m": [], "15m": [fired()], "40m": []}),
        ({OK: "0+97x60", FAILED: "0+3x60"}, {"15m": []}),
        ({FAILED: "0+10x60"}, {"15m": [fired()]}),
        # A single failed call in five minutes is nobody's alarm.
        ({FAILED: "0x5 1x50"}, {"7m": [], "15m": []}),
    ],
    "LLMSpendHigh": [
        ({COST: "0+1x60 60x60"}, {"3m": [], "30m": [fired()], "100m": []}),
        ({COST: "0+0.5x60"}, {"30m": []}),
    ],
    "LLMNoTraffic": [
        (
            {IN_FLIGHT: "0x400", OK: "0+10x120 1200x180 1210+10x100"},
            {"150m": [], "240m": [fired()], "320m": []},
        ),
        ({IN_FLIGHT: "0x400", OK: "0+10x400"}, {"240m": []}),
        # Without pods it is no riddle.
        ({OK: "0+10x120 1200x280"}, {"240m": []}),
    ],
    "LLMProxyDown": [
        ({IN_FLIGHT: "0x10 _x40", UP: "1x10 0x20 1x20"}, {"12m": [], "20m": [fired()], "40m": []}),
        ({IN_FLIGHT: "0x40", UP: "1x40"}, {"20m": []}),
        # Another service's proxy.
        ({IN_FLIGHT.replace('"chat"', '"other"'): "0x10 _x40", UP: "1x10 0x40"}, {"20m": []}),
    ],
    "LLMJournalFailing": [
        ({IN_FLIGHT: "0x60", JOURNAL: "0x10 1+1x10 11x40"}, {"9m": [], "18m": [fired()], "40m": []}),
        ({IN_FLIGHT: "0x40", JOURNAL: "0x40"}, {"20m": []}),
        # Another service's proxy.
        ({IN_FLIGHT.replace('"chat"', '"other"'): "0x40", JOURNAL: "0x10 1+1x30"}, {"20m": []}),
    ],
    "LLMKVCacheFull": [
        ({f"vllm:kv_cache_usage_perc{{{WHOSE}}}": "0.95x20 0.5x20"}, {"3m": [], "10m": [fired()], "30m": []}),
        ({f"ray_vllm_kv_cache_usage_perc{{{WHOSE}}}": "0.95x20"}, {"10m": [fired()]}),
        ({f"vllm:gpu_cache_usage_perc{{{WHOSE}}}": "0.89x20"}, {"10m": []}),
    ],
    "LLMEngineQueueGrowing": [
        ({f"vllm:num_requests_waiting{{{WHOSE}}}": "0+1x40 40-2x19 0x40"}, {"10m": [], "30m": [fired()], "70m": []}),
        ({f"vllm:num_requests_waiting{{{WHOSE}}}": "7x60"}, {"40m": []}),
    ],
    "LLMEngineNotScraped": [
        ({ENGINE_UP: "1x10 0x20 1x20"}, {"9m": [], "20m": [fired()], "45m": []}),
        ({ENGINE_UP: "1x40"}, {"30m": []}),
        # A moment without an answer, and another target of the namespace.
        ({ENGINE_UP: "1x10 0x3 1x40", UP: "0x50"}, {"14m": [], "40m": []}),
    ],
    "LLMGPUMemoryHigh": [
        (
            {
                IN_FLIGHT: "0x40",
                f"DCGM_FI_DEV_FB_USED{{{GPU}}}": "78000x30 40000x10",
                f"DCGM_FI_DEV_FB_FREE{{{GPU}}}": "2000x30 40000x10",
                f"DCGM_FI_DEV_FB_USED{{{OTHER_GPU}}}": "80000x40",
                f"DCGM_FI_DEV_FB_FREE{{{OTHER_GPU}}}": "0x40",
            },
            {"5m": [], "20m": [fired(**GPU_LABELS)], "40m": []},
        ),
    ],
    "LLMGPUXid": [
        (
            {IN_FLIGHT: "0x40", f"DCGM_FI_DEV_XID_ERRORS{{{GPU}}}": "0x10 79x10 0x20"},
            {"5m": [], "12m": [fired("critical", **GPU_LABELS)], "30m": []},
        ),
    ],
    "LLMGPUHot": [
        (
            {IN_FLIGHT: "0x40", f"DCGM_FI_DEV_GPU_TEMP{{{GPU}}}": "70x10 90x10 70x20"},
            {"12m": [], "18m": [fired(**GPU_LABELS)], "30m": []},
        ),
    ],
}


@pytest.mark.parametrize(
    ("name", "series", "fires"),
    [(name, series, fires) for name, cases in CASES.items() for series, fires in cases],
    ids=[f"{name}-{number}" for name, cases in CASES.items() for number, _ in enumerate(cases)],
)
def test_it_fires_and_clears_and_is_silent_otherwise(
    name: OptionalAlert, series: dict[str, str], fires: dict[str, list[dict[str, str]]], tmp_path: Path
) -> None:
    of = params(enable=[name]) if name in OFF else params()
    assert not check(rules_for(of), Case(name, series, fires), tmp_path)


@pytest.mark.parametrize("name", [name for name in get_args(OptionalAlert) if name not in OFF])
def test_it_is_silent_where_it_is_switched_off_and_where_the_service_is_gone(
    name: OptionalAlert, tmp_path: Path
) -> None:
    series, fires = CASES[name][0]
    silent: dict[str, list[dict[str, str]]] = {at: [] for at in fires}
    assert not check(rules_for(params(disable=[name])), Case(name, series, silent), tmp_path)
    # Pods of a deleted service run on with their proxies.
    gone = {"spec": {"groups": [*rules_for(params())["spec"]["groups"]]}}
    gone["spec"]["groups"] = [item for item in gone["spec"]["groups"] if item["name"].startswith("llmwarden/all/")]
    assert not check(gone, Case(name, series, silent), tmp_path)


def test_every_default_has_its_cases() -> None:
    assert set(CASES) == set(APPLIES) == set(get_args(OptionalAlert))


def test_each_can_be_switched() -> None:
    def held(**alerts: Any) -> set[str]:
        return set(wanted(params(**alerts)))

    assert held() == set(APPLIES) - OFF
    assert held(disable=["LLMGPUHot", "LLMNoTraffic"]) == set(APPLIES) - OFF - {"LLMGPUHot", "LLMNoTraffic"}
    assert held(enable=["LLMLatencyP99High"]) == set(APPLIES)
    assert held(enable=["LLMLatencyP99High"], disable=["LLMLatencyP99High"]) == set(APPLIES) - OFF
