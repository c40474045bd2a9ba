"""An agent's run, from a click in a browser to what a model's call cost, is one tree in a real backend."""

import time
from pathlib import Path

from tests.traces import collecting
from tests.traces.applications import THINKS, check_calls, check_words, proxied, run_agent
from tests.traces.backends import Jaeger, Node
from tests.traces.collecting import collector, request, service
from tests.traces.test_collector import send, span

PAGES = service("shop", "pages", browserOrigins=["https://shop.example.com"])


async def click(run: collecting.Running) -> str:
    """What a page sends of a click: its traceparent, which its requests carry."""
    sent = span("click ask", seconds=5)
    status, _, said = await send(
        f"{run.browser}/v1/traces", request({"service.name": "page"}, sent), Origin="https://shop.example.com"
    )
    assert status == 200, said
    return f"00-{sent['traceId']}-{sent['spanId']}-01"


async def test_jaeger_shows_a_run_as_one_tree_from_the_click_to_the_cost(jaeger: Jaeger, tmp_path: Path) -> None:
    async with (
        collecting.running(collector(jaeger.exporter()), tmp_path, PAGES) as run,
        proxied(tmp_path, run.http) as proxy,
    ):
        began = time.time()
        traceparent = await click(run)
        trace = await run_agent(proxy, run.http, "openllmetry", environment={"TRACEPARENT": traceparent})
        assert trace == traceparent.split("-")[1]
        # A click, the run and its three steps, three calls as the SDK sees them and three as the proxy does.
        tree = await jaeger.tree(trace, 11)
    assert len(tree) == 11
    agent = "click ask / invoke_agent assistant"
    call = f"{agent} / openai.chat"
    assert tree.paths()[0] == "click ask"
    assert sorted(tree.paths()) == sorted(
        [
            *("click ask", agent),
            *(f"{agent} / {step}" for step in ("retrieval notes", "execute_tool weather", "execute_tool units")),
            *([call, f"{call} / chat gpt-4o-mini"] * 3),
        ]
    )
    check_calls(tree)
    by_name: dict[str, Node] = {node.name: node for node in tree.ordered()}
    assert by_name["click ask"].service == "page"
    assert by_name["openai.chat"].service == "assistant"
    assert by_name["chat gpt-4o-mini"].service == "bot"
    assert by_name["invoke_agent assistant"].seconds >= 3 * THINKS + 0.06
    assert began - 10 < by_name["invoke_agent assistant"].start < time.time()
    check_words(tree)
