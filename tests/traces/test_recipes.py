"""Every recipe of docs/traces.md is values that the chart takes, and becomes a configuration that the Collector takes."""

import re
from pathlib import Path

import pytest
import yaml

from llmwarden.api.collector import Collector
from llmwarden.api.v1alpha1 import LLMService, parse
from llmwarden.manifests.collector.configuration import configuration
from llmwarden.settings import load
from tests.traces.collecting import Sink, running, validate
from tests.traces.test_collector import BOT, call, deliver
from tools import manifests

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs/traces.md").read_text()
RECIPES = {
    section.partition("\n")[0]: yaml.safe_load(block)
    for section in TEXT.split("\n### ")[1:]
    for block in re.findall(r"```yaml\n(.*?)```", section, re.DOTALL)
}


def rendered(values: Path) -> Collector:
    """What the operator gets of the chart, which checks values against its schema, with these values."""
    found: dict[str, str] = {}
    for item in yaml.safe_load_all(manifests.render([values])):
        if item and item["kind"] == "ConfigMap":
            found |= item["data"]
    assert found["LLMWARDEN_OTLP_ENDPOINT"] == "http://llmwarden-collector.llmwarden-system.svc:4318"
    return load(found).collector


def test_no_backend_is_forgotten() -> None:
    assert set(RECIPES) == {
        *("Tempo", "Jaeger", "Langfuse", "Phoenix", "LangSmith", "Braintrust", "Traceloop", "Helicone", "Arize"),
        *("Datadog", "New Relic"),
    }


@pytest.mark.parametrize("name", RECIPES)
async def test_a_recipe_is_values_and_becomes_a_configuration(name: str, tmp_path: Path) -> None:
    values = tmp_path / "values.yaml"
    values.write_text(yaml.safe_dump(RECIPES[name]))
    settings = rendered(values)
    assert settings.enabled
    written = configuration(settings, [])
    status, said = await validate(written, tmp_path)
    assert status == 0, said
    (exporter,) = settings.exporters
    sent = written["exporters"][f"{'otlp' if exporter.protocol == 'GRPC' else 'otlphttp'}/{exporter.name}"]
    assert set(sent.get("headers", {})) == {header.name for header in exporter.headers}
    for number, header in enumerate(exporter.headers):
        # Nothing secret is in the file.
        assert sent["headers"][header.name] == (header.value or f"{header.prefix}${{env:EXPORTER_0_HEADER_{number}}}")


def test_the_services_example_is_a_service() -> None:
    (block,) = re.findall(r"```yaml\n(apiVersion.*?)```", TEXT, re.DOTALL)
    service = parse(LLMService, yaml.safe_load(block))
    assert service.spec.tracing.keep is not None
    assert service.spec.tracing.browser_origins == ("https://shop.example.com",)


async def test_resource_attributes_are_of_spans_that_have_none(tmp_path: Path) -> None:
    async with Sink.listening() as sink:
        given = {"openinference.project.name": "shop", "deployment.environment.name": "a 'test'"}
        settings = Collector.model_validate(
            {
                "sampling": {"percent": 100, "decisionSeconds": 1},
                "resourceAttributes": given,
                "exporters": [sink.exporter()],
            }
        )
        async with running(settings, tmp_path) as run:
            await deliver(run.http, BOT, call("without"))
            await deliver(run.http, {**BOT, "openinference.project.name": "own"}, call("with its own"))
            await sink.until("without", "with its own")
    found = {span["name"]: span["resource"] for span in sink.spans}
    assert found["without"] == {**BOT, **given}
    assert found["with its own"] == {**BOT, **given, "openinference.project.name": "own"}
