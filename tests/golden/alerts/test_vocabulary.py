"""The one vocabulary over every engine's recorded exposition, the short names, and coverage: recorded by `promtool test rules`, with series in."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llmwarden.api.v1alpha1 import LLMService, parse
from llmwarden.control.observe.prometheus import QUESTIONS
from llmwarden.domain import engines
from llmwarden.manifests.alerts import vocabulary
from llmwarden.manifests.params import Params
from llmwarden.settings import Settings
from llmwarden.snapshot import Capabilities
from tests.golden.alerts.promtool import evaluate, rules_for

SAMPLES = Path(__file__).parents[2] / "unit" / "domain" / "engines"
TARGET = 'namespace="models",llmservice="chat",pod="a"'
WHOSE = '{namespace="models", llmservice="chat"}'
CALL = f'{TARGET},gen_ai_provider_name="vllm",gen_ai_operation_name="chat",gen_ai_request_model="m",gen_ai_response_model="m"'
OTHER_POD = CALL.replace('pod="a"', 'pod="b"')
_LINE = re.compile(r"(?P<name>[a-zA-Z_:][\w:]*)(?:\{(?P<labels>[^}]*)\})? (?P<value>\S+)")


def params(type_: str, name: str = "chat", **settings: Any) -> Params:
    service = parse(
        LLMService,
        {
            "metadata": {"name": name, "namespace": "models", "uid": "u", "generation": 1},
            "spec": {
                "backend": {"type": type_},
                "workload": {"selector": {"matchLabels": {"app": "chat"}}, "interception": {"port": {"name": "http"}}},
            },
        },
    )
    return Params(service, Settings(**settings), Capabilities(rules=True))


def scraped(exposition: str) -> dict[str, str]:
    """An exposition as a PodMonitor brings it in: gauges stay, all else grows; a shortened histogram gets its last bucket."""
    found: dict[str, str] = {}
    for line in exposition.splitlines():
        match = _LINE.fullmatch(line)
        if match is None:
            continue
        name, labels = match["name"], match["labels"] or ""
        of = ",".join(part for part in (labels, TARGET) if part)
        grows = re.search(r"_(total|bucket|count|sum|success)$", name)
        found[f"{name}{{{of}}}"] = "0+60x20" if grows else f"{match['value']}x20"
        if name.endswith("_bucket"):
            every = re.sub(r'\ble="[^"]*"', 'le="+Inf"', of)
            found.setdefault(f"{name}{{{every}}}", "0+60x20")
    return found


def recorded_of(engine: engines.Engine, missing: tuple[str, ...]) -> dict[str, bool]:
    """Each record that the engine's table promises, and whether this exposition has what it is made of."""
    found = {}
    for key, metric in engine.metrics.items():
        for item in vocabulary.engine_figures():
            record, expr = item["record"], item["expr"]
            if record == vocabulary.GAUGE_NAMES.get(key) or re.search(f"engine_{key}(_seconds)?:", record):
                assert all(name in expr for name in metric.names), (record, key)
                assert f'engine="{engine.type}"' in expr
                found[record] = key not in missing
    if "prefix_hits" in engine.metrics:
        found["llmservice:engine_prefix_cache_hit:ratio5m"] = not {"prefix_hits", "prefix_queries"} & set(missing)
    return found


@pytest.mark.parametrize("sample", sorted(SAMPLES.glob("*.prom")), ids=lambda path: path.stem)
def test_every_engines_exposition_speaks_it(sample: Path, tmp_path: Path) -> None:
    exposition = sample.read_text(encoding="utf-8")
    found = engines.recognise(exposition)
    assert found is not None
    engine = engines.BY_TYPE[found.type]
    promised = recorded_of(engine, found.missing)
    assert sum(promised.values()) >= 4
    wanted: dict[str, dict[str, float]] = {
        f"count({record})": {"{}": 1} if there else {} for record, there in promised.items()
    }
    assert not evaluate(rules_for(params(engine.type)), scraped(exposition), "15m", wanted, tmp_path)


def test_a_services_type_decides_by_which_names_its_engine_is_read(tmp_path: Path) -> None:
    # NVIDIA's containers carry vLLM inside; another service beside it is one.
    other = replace(params("VLLM"), service=params("VLLM", name="other").service)
    series = {
        f"num_requests_running{{{TARGET}}}": "3x20",
        f"vllm:num_requests_running{{{TARGET}}}": "5x20",
        f"vllm:num_requests_running{{{TARGET.replace('chat', 'other')}}}": "7x20",
        # Twice on one page, as a host of engines may have it: counted once.
        f"kserve_vllm:num_requests_running{{{TARGET.replace('chat', 'other')}}}": "7x20",
        f"vllm:prompt_tokens_total{{{TARGET.replace('chat', 'other')}}}": "0+60x20",
        f"kserve_vllm:prompt_tokens_total{{{TARGET.replace('chat', 'other')}}}": "0+60x20",
    }
    wanted = {
        "llmservice:engine_requests_running": {
            f'llmservice:engine_requests_running{{namespace="models", llmservice="{name}"}}': float(value)
            for name, value in (("chat", 3), ("other", 7))
        },
        "llmservice:engine_prompt_tokens:rate5m": {
            'llmservice:engine_prompt_tokens:rate5m{namespace="models", llmservice="other"}': 1.0
        },
    }
    assert not evaluate(rules_for(params("NIM"), other), series, "15m", wanted, tmp_path)


def test_the_names_that_guides_use_are_copies_where_they_are_asked_for(tmp_path: Path) -> None:
    series = {
        f'llmwarden_requests_total{{{CALL},http_status_code="200",error_type=""}}': "0+6x20",
        f'llmwarden_requests_total{{{OTHER_POD},http_status_code="200",error_type=""}}': "0+4x20",
        f'gen_ai_client_token_usage_tokens_total{{{CALL},gen_ai_token_type="output"}}': "0+100x20",
        f"llmwarden_cost_usd_total{{{CALL}}}": "0+0.5x20",
        **{
            f"{metric}_{end}{{{CALL}{more}}}": "0+10x20"
            for metric in ("gen_ai_client_operation_duration_seconds", "gen_ai_server_time_to_first_token_seconds")
            for end, more in (("bucket", ',le="1.0"'), ("bucket", ',le="+Inf"'), ("sum", ""), ("count", ""))
        },
    }
    assert "llm_requests_total" not in str(rules_for(params("VLLM"))), "they are switched on"
    assert not evaluate(
        rules_for(params("VLLM", short_metric_names=True)),
        series,
        "10m",
        {
            "sum by (namespace, llmservice, gen_ai_request_model) (llm_requests_total)": {
                '{namespace="models", llmservice="chat", gen_ai_request_model="m"}': 100
            },
            "sum by (gen_ai_token_type) (llm_tokens_total)": {'{gen_ai_token_type="output"}': 1000},
            "sum by (namespace, llmservice) (llm_cost_usd_total)": {WHOSE: 5},
            "histogram_quantile(0.5, sum by (le) (rate(llm_request_duration_seconds_bucket[5m])))": {"{}": 0.5},
            "histogram_quantile(0.5, sum by (le) (rate(llm_time_to_first_token_seconds_bucket[5m])))": {"{}": 0.5},
            "sum(rate(llm_request_duration_seconds_sum[5m])) / sum(rate(llm_request_duration_seconds_count[5m]))": {
                "{}": 1
            },
        },
        tmp_path,
    )


@pytest.mark.parametrize(("seen", "share"), [(70, 0.7), (100, 1.0)])
def test_coverage_is_what_the_proxies_saw_of_the_engines_own_count(seen: int, share: float, tmp_path: Path) -> None:
    (coverage,) = [question.query for question in QUESTIONS if question.name == "coverage"]
    series = {
        f'llmwarden_requests_total{{{CALL},http_status_code="200",error_type=""}}': f"0+{seen}x100",
        # What the engine refused is in no count of its successes.
        f'llmwarden_requests_total{{{CALL},http_status_code="400",error_type="400"}}': "0+50x100",
        f'vllm:request_success_total{{{TARGET},engine="0",finished_reason="stop",model_name="m"}}': "0+60x100",
        f'vllm:request_success_total{{{TARGET},engine="0",finished_reason="length",model_name="m"}}': "0+40x100",
    }
    records = rules_for(params("VLLM"))
    assert not evaluate(records, series, "90m", {f"round({coverage}, 0.001)": {WHOSE: share}}, tmp_path)
    few = {
        name: re.sub(r"0\+(\d+)x", lambda match: f"0+{int(match[1]) / 100}x", values) for name, values in series.items()
    }
    assert not evaluate(records, few, "90m", {f"round({coverage}, 0.001)": {}}, tmp_path)
