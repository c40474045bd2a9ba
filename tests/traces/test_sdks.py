"""Applications instrumented with what the field uses get their spans into the same trace as the proxy's: what each needs for it.

The traceparent must be in the request to the proxy. OpenLLMetry puts it into chat completions by itself; the others leave it to the
instrumentation of the HTTP client (docs/traces.md).
"""

from pathlib import Path

import pytest

from tests.traces import collecting
from tests.traces.applications import check_calls, check_times, check_words, proxied, run_agent
from tests.traces.backends import Jaeger
from tests.traces.collecting import collector

AGENT = "invoke_agent assistant"


@pytest.mark.parametrize(
    ("instrumentations", "call"),
    [
        pytest.param(["openllmetry"], "openai.chat", id="OpenLLMetry"),
        pytest.param(["openllmetry", "http"], "openai.chat / POST", id="OpenLLMetry with HTTP"),
        pytest.param(["openinference", "http"], "ChatCompletion / POST", id="OpenInference with HTTP"),
        pytest.param(["opentelemetry", "http"], "chat gpt-4o-mini / POST", id="OpenTelemetry with HTTP"),
        pytest.param(["http"], "POST", id="HTTP alone"),
    ],
)
async def test_spans_of_application_and_proxy_are_one_trace(
    instrumentations: list[str], call: str, jaeger: Jaeger, tmp_path: Path
) -> None:
    async with collecting.running(collector(jaeger.exporter()), tmp_path) as run, proxied(tmp_path, run.http) as proxy:
        trace = await run_agent(proxy, run.http, *instrumentations)
        tree = await jaeger.tree(trace, 4 + 3 * (2 + call.count("/")))
    assert [path for path in tree.paths() if path.endswith(f"{call} / chat gpt-4o-mini")] == [
        f"{AGENT} / {call} / chat gpt-4o-mini"
    ] * 3
    assert all(path.startswith(AGENT) for path in tree.paths())
    check_calls(tree)
    check_times(tree)
    check_words(tree)


@pytest.mark.parametrize("instrumentation", ["openinference", "opentelemetry"])
async def test_without_an_instrumented_http_client_these_leave_the_proxys_calls_alone(
    instrumentation: str, jaeger: Jaeger, tmp_path: Path
) -> None:
    async with collecting.running(collector(jaeger.exporter()), tmp_path) as run, proxied(tmp_path, run.http) as proxy:
        trace = await run_agent(proxy, run.http, instrumentation)
        tree = await jaeger.tree(trace, 7)
    assert tree.proxys() == []  # when they do it themselves, docs/traces.md can ask for less
