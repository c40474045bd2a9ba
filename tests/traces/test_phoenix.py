"""The same run in Phoenix, which has its own ideas of spans: an application instrumented with OpenInference, Phoenix's convention."""

from pathlib import Path

from tests.traces import collecting
from tests.traces.applications import check_calls, check_times, check_words, proxied, run_agent
from tests.traces.backends import Phoenix
from tests.traces.collecting import collector


async def test_phoenix_shows_a_run_as_one_tree_with_tokens_and_cost(phoenix: Phoenix, tmp_path: Path) -> None:
    async with collecting.running(collector(phoenix.exporter()), tmp_path) as run, proxied(tmp_path, run.http) as proxy:
        trace = await run_agent(proxy, run.http, "openinference", "http")
        # The run and its three steps; three calls, each as the SDK, its HTTP client and the proxy see it.
        tree = await phoenix.tree(trace, 13)
    agent = "invoke_agent assistant"
    call = f"{agent} / ChatCompletion"
    assert sorted(tree.paths()) == sorted(
        [
            agent,
            *(f"{agent} / {step}" for step in ("retrieval notes", "execute_tool weather", "execute_tool units")),
            *([call, f"{call} / POST", f"{call} / POST / chat gpt-4o-mini"] * 3),
        ]
    )
    check_calls(tree)
    check_times(tree)
    check_words(tree)
