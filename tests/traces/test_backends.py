"""An agent's run, from a click in a browser to what a model's call cost, is one tree in real backends, and nobody's words are in it."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest

from tests.proxy.fakes import Ledger, Proxy, Received, accounted, provider, running
from tests.traces import collecting, programs
from tests.traces.backends import Jaeger, Node, Phoenix, Tree
from tests.traces.collecting import collector, request, service
from tests.traces.test_collector import send, span

AGENT = Path(__file__).parent / "apps" / "agent.py"
PAGES = service("shop", "pages", browserOrigins=["https://shop.example.com"])
EACH = 150_000  # picodollars a token
THINKS = 0.12  # seconds that the model takes
# The simulator answers each call alike: 9 tokens of input, 3 of output.
TOKENS = {"gen_ai.usage.input_tokens": 9, "gen_ai.usage.output_tokens": 3}
COST = 12 * EACH / 1e12


async def thinking(asked: Received, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(THINKS)
    await provider(asked, writer)


@contextlib.asynccontextmanager
async def proxied(directory: Path, otlp: str) -> AsyncIterator[tuple[Ledger, Proxy]]:
    """Our proxy as a process between applications and a simulated provider."""
    async with accounted(directory) as ledger:
        ledger.price("gpt-4o-mini", EACH)
        async with running(directory, thinking, ledger=ledger, otlp=otlp) as (_, proxy):
            # Prices are asked for when a model is first seen: after this call ours is known.
            await asyncio.to_thread(lambda: None)
            yield ledger, proxy


async def run_agent(
    proxy: Proxy, otlp: str, *instrumentations: str, environment: Mapping[str, str] | None = None
) -> str:
    """Run the application; its trace's id."""
    interpreter, variables = await asyncio.to_thread(programs.python)
    variables |= {
        "OPENAI_BASE_URL": f"{proxy.url}/v1",
        "OPENAI_API_KEY": "sk-test",
        "OTEL_EXPORTER_OTLP_ENDPOINT": otlp,
        **(environment or {}),
    }
    child = await asyncio.create_subprocess_exec(
        interpreter,
        AGENT,
        *instrumentations,
        env=variables,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    said, complained = await child.communicate()
    assert child.returncode == 0, complained.decode()[-3000:]
    return said.decode().split()[-1]


def check_calls(tree: Tree) -> None:
    """Three calls of a model under their steps, with tokens, cost and time."""
    calls = tree.proxys()
    assert len(calls) == 3
    for call in calls:
        assert call.attributes.items() >= TOKENS.items()
        assert float(call.attributes["gen_ai.usage.cost.amount"]) == pytest.approx(COST)
        assert THINKS <= call.seconds < THINKS + 1
        assert call.attributes["gen_ai.request.model"] == "gpt-4o-mini"


def check_times(tree: Tree) -> None:
    """Nothing lasts longer than what it is a part of."""
    for node in tree.ordered():
        above = tree.nodes.get(node.parent)
        if above is not None:
            assert above.start - 0.002 <= node.start
            assert node.start + node.seconds <= above.start + above.seconds + 0.002


async def click(run: collecting.Running) -> str:
    """What a page sends of a click: its traceparent, which its requests carry."""
    sent = span("click ask", seconds=5)
    status, _, said = await send(
        f"{run.browser}/v1/traces", request({"service.name": "page"}, sent), Origin="https://shop.example.com"
    )
    assert status == 200, said
    return f"00-{sent['traceId']}-{sent['spanId']}-01"


STEPS = [
    "invoke_agent assistant",
    "retrieval notes",
    "chat",
    "execute_tool weather",
    "chat",
    "execute_tool units",
    "chat",
]


async def test_jaeger_shows_a_run_as_one_tree_from_the_click_to_the_cost(jaeger: Jaeger, tmp_path: Path) -> None:
    async with (
        collecting.running(collector(jaeger.exporter()), tmp_path, PAGES) as run,
        proxied(tmp_path, run.http) as (_, proxy),
    ):
        await warm(proxy)
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
    for said in ("weather where I was born", "Ulm", "Hello!"):
        assert [node for node in tree.ordered() if said in str(node)] == []


async def warm(proxy: Proxy) -> None:
    """Let the proxy ask for the model's price: the first call of a model may go before it is known."""
    body = b'{"model":"gpt-4o-mini","messages":[{"role":"user","content":"hi"}]}'
    while not await proxy.metric("llmwarden_cost_usd_total"):
        await send(f"{proxy.url}/v1/chat/completions", body)


async def test_phoenix_shows_the_same_run(phoenix: Phoenix, tmp_path: Path) -> None:
    async with (
        collecting.running(collector(phoenix.exporter()), tmp_path) as run,
        proxied(tmp_path, run.http) as (_, proxy),
    ):
        await warm(proxy)
        trace = await run_agent(proxy, run.http, "openinference", "http")
        tree = await phoenix.tree(trace, 14)
        print(tree.paths(), tree.nodes)
    check_calls(tree)
    check_times(tree)
