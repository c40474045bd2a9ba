"""An application behind our proxy, which is a process of its own, before a simulated provider; and what must hold of its traces anywhere."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest

from tests.proxy.fakes import Proxy, Received, accounted, post, provider, running, talk
from tests.traces import programs
from tests.traces.backends import Tree

AGENT = Path(__file__).parent / "apps" / "agent.py"
EACH = 150_000  # picodollars a token
THINKS = 0.12  # seconds that the model takes
# The simulator answers each call alike: 9 tokens of input, 3 of output.
TOKENS = {"gen_ai.usage.input_tokens": 9, "gen_ai.usage.output_tokens": 3}
COST = 12 * EACH / 1e12


async def thinking(asked: Received, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(THINKS)
    await provider(asked, writer)


@contextlib.asynccontextmanager
async def proxied(directory: Path, otlp: str) -> AsyncIterator[Proxy]:
    """Our proxy as a process between applications and a simulated provider."""
    async with accounted(directory) as ledger:
        ledger.price("gpt-4o-mini", EACH)
        async with running(directory, thinking, ledger=ledger, otlp=otlp) as (_, proxy):
            await _know_the_price(proxy)
            yield proxy


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


async def _know_the_price(proxy: Proxy) -> None:
    """Prices are asked for when a model is first seen: its first call may go before they are known."""
    body = b'{"model":"gpt-4o-mini","messages":[{"role":"user","content":"hi"}]}'
    while not await proxy.metric("llmwarden_cost_usd_total"):
        await talk(proxy.port, post(body))


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


def check_words(tree: Tree) -> None:
    """Nobody's words are in it."""
    for said in ("weather where I was born", "Ulm", "Hello!"):
        assert [node for node in tree.ordered() if said in str(node)] == []
