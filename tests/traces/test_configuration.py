"""What the operator generates is what the Collector takes, by the Collector's own word."""

from pathlib import Path
from typing import Any

import pytest

from llmwarden.manifests.collector.configuration import configuration
from tests.traces.collecting import collector, service, validate

TEMPO = {"name": "tempo", "endpoint": "tempo.observability.svc:4317", "insecure": True}
SHOP = service("shop", "support-bot", keep={"slowerThan": "2s", "dearerThan": "1", "percent": 50})
PAGE = service("shop", "pages", browserOrigins=["https://shop.example.com", "https://*.example.com"])


@pytest.mark.parametrize(
    ("exporters", "more", "services"),
    [
        pytest.param([], {}, [], id="spans are only counted"),
        pytest.param([TEMPO], {}, [], id="one backend"),
        pytest.param([TEMPO], {"content": "Keep"}, [SHOP], id="content kept"),
        pytest.param([TEMPO, {**TEMPO, "name": "other"}], {}, [SHOP, PAGE], id="two backends, thresholds, browsers"),
        pytest.param(
            [TEMPO], {}, [service("n", f"s{n}", keep={"slowerThan": f"{n + 1}s"}) for n in range(300)], id="many"
        ),
    ],
)
async def test_what_is_generated_is_valid(
    exporters: list[dict[str, Any]], more: dict[str, Any], services: list[Any], tmp_path: Path
) -> None:
    status, said = await validate(configuration(collector(*exporters, **more), services), tmp_path)
    assert status == 0, said


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("processors", "transform/content", "trace_statements"), ["delete_matching_keys(span.attributes)"]),
        (("receivers", "otlp/browser", "protocols", "http", "cors", "allowed_origin"), ["x"]),
        (("service", "pipelines", "traces/out", "exporters"), ["otlp/nobody"]),
    ],
)
async def test_validation_would_tell(path: tuple[str, ...], value: object, tmp_path: Path) -> None:
    broken = configuration(collector(TEMPO), [PAGE])
    part: Any = broken
    for step in path[:-1]:
        part = part[step]
    part[path[-1]] = value
    status, said = await validate(broken, tmp_path)
    assert status != 0, said


def test_thousand_services_make_no_thousand_policies() -> None:
    services = [service("n", f"s{n}", keep={"slowerThan": "2s", "dearerThan": "0.5"}) for n in range(1000)]
    made = configuration(collector(TEMPO), services)
    assert len(made["processors"]["tail_sampling"]["policies"]) == 6
    assert len(str(made)) < 100_000  # a ConfigMap takes a mebibyte
