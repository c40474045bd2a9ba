"""Anthropic's shapes (tests/proxy/recorded/anthropic)."""

import json

import pytest

from llmwarden.contracts.ledger import Tokens
from llmwarden.proxy.dialects.anthropic import DIALECT
from llmwarden.proxy.dialects.base import Answer, Event
from tests.unit.proxy.shapes import api, asked, match, streamed, whole

MESSAGES = "/v1/messages"


def test_input_is_what_the_cache_gave_and_took_besides() -> None:
    answer, events = streamed(MESSAGES, "anthropic/text.sse")
    assert answer.usage == Tokens(
        input=21 + 188 + 2051, cached_input=2051, cache_write=188, cache_write_1h=88, output=12
    )
    assert (answer.model, answer.finish_reasons, answer.done, answer.partial) == (
        "claude-sonnet-4-5-20250929",
        ["end_turn"],
        True,
        False,
    )
    assert (answer.pieces, answer.first_content, answer.last_content) == (3, 3.0, 5.0)
    assert set(events) == {Event.KEEP}


def test_thinking_and_tool_input_are_content_signatures_and_empty_deltas_are_not() -> None:
    answer, _ = streamed(MESSAGES, "anthropic/thinking_tool.sse")
    assert answer.usage == Tokens(input=377, output=65, reasoning=20)
    assert answer.pieces == 4
    assert answer.first_content == 2.0
    assert answer.tool_call_ids == ["toolu_01T1x1fJ34qAmk2tNTrN7Up6"]
    assert answer.tier == "priority"
    assert sum(answer.gaps) == 3


def test_an_error_event_leaves_what_was_counted_so_far() -> None:
    answer, _ = streamed(MESSAGES, "anthropic/overloaded.sse")
    assert (answer.error, answer.done, answer.partial, answer.usage) == (
        "overloaded_error",
        False,
        True,
        Tokens(input=9, output=1),
    )


def test_whole_answers() -> None:
    answer = whole(MESSAGES, "anthropic/message.json")
    assert answer.usage == Tokens(input=3145, cached_input=1000, cache_write=50, output=503, reasoning=100)
    assert (answer.tier, answer.finish_reasons) == ("batch", ["tool_use"])
    assert answer.tool_call_ids == ["toolu_01A09q90qw90lq917835lq9"]
    assert answer.content_bytes == len('"Hm."') + len('"Sunny."') + len('{"location":"Paris"}')
    assert whole(MESSAGES, "anthropic/rate_limit.json").error == "rate_limit_error"
    # What a compaction took is not in the totals, but is paid for.
    assert whole(MESSAGES, "anthropic/compaction.json").usage == Tokens(input=1230, cached_input=200, output=108)


@pytest.mark.parametrize("payload", [b"", b"[]", b"1", b'{"type":1}', b'{"type":"message_start","message":7}', b"\xff"])
def test_what_is_no_event_is_counted_and_kept(payload: bytes) -> None:
    answer = Answer()
    assert api(MESSAGES).event(answer, payload, 0.0) is Event.KEEP
    assert answer.malformed == 1


def test_what_a_request_asks_for() -> None:
    request = asked(
        MESSAGES,
        b'{"model":"claude","max_tokens":5,"stream":true,"temperature":0.5,"system":"Be kind",'
        b'"messages":[{"role":"user","content":"hi"},{"role":"assistant","content":[{"type":"text","text":"ho"}]}],'
        b'"tools":[{"name":"f","input_schema":{}},{"type":"bash_20250124","name":"bash"}]}',
    )
    assert (request.model, request.stream, request.max_tokens, request.temperature) == ("claude", True, 5, 0.5)
    assert request.wants_usage
    assert request.unbounded == ""
    assert len(request.prefixes) == 3


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "server_tools"),
        ({"mcp_servers": [{"type": "url", "url": "https://x"}]}, "server_tools"),
        ({"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]}, "media"),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "tool_result", "content": [{"type": "image", "source": {}}]}]}
                ]
            },
            "media",
        ),
        ({"messages": "no list"}, "unreadable"),
        ({"tools": [{"type": {}}]}, "unreadable"),
    ],
)
def test_what_max_tokens_does_not_bound(more: dict[str, object], why: str) -> None:
    assert asked(MESSAGES, json.dumps({"model": "m", "max_tokens": 5, **more}).encode()).unbounded == why


def test_its_paths() -> None:
    assert match("/anthropic/V1/messages") is not None
    for path in ("/v1/messages/count_tokens", "/v1/messages/batches", "/v1/threads/t/messages"):
        assert match(path, backend="Anthropic") is None
    vertex = "/v1/projects/p/locations/l/publishers/anthropic/models/claude-sonnet-4@20250514:streamRawPredict"
    hit = match(vertex, backend="Anthropic")
    assert hit is not None
    assert (hit.model, hit.stream) == ("claude-sonnet-4@20250514", True)
    assert (
        hit.api.write_target(vertex.encode() + b"?x=1", "haiku@1").decode()
        == vertex.replace("claude-sonnet-4@20250514", "haiku@1") + "?x=1"
    )
    body = b'{"anthropic_version":"vertex-2023-10-16","messages":[]}'
    request = hit.api.read_request(body, hit)
    assert request is not None
    assert (request.model, request.stream) == ("claude-sonnet-4@20250514", True)
    assert hit.api.write_request(body, request, model="haiku@1", usage=False) == body


def test_another_model_changes_nothing_else() -> None:
    body = b'{"max_tokens": 1.0, "model": "a","messages":[ ]}'
    written = api(MESSAGES).write_request(body, asked(MESSAGES, body), model="b", usage=False)
    assert written == b'{"max_tokens":1.0,"model":"b","messages":[ ]}'


def test_refusals_take_its_own_shape() -> None:
    spent = DIALECT.refusal("insufficient_quota", "used up", budget="B", retry_after=None)
    assert spent.status == 402
    assert json.loads(spent.body) == {"type": "error", "error": {"type": "billing_error", "message": "used up"}}
    assert dict(spent.headers)[b"x-should-retry"] == b"false"
    slow = DIALECT.refusal("rate_limit_exceeded", "wait", budget="B", retry_after=7)
    assert (slow.status, dict(slow.headers)[b"Retry-After"]) == (429, b"7")
    unpriced = DIALECT.refusal("unknown_price", "no price", budget="B", retry_after=None)
    assert (unpriced.status, json.loads(unpriced.body)["error"]["type"]) == (429, "rate_limit_error")
    assert json.loads(DIALECT.error_body(504, "timeout", "slow"))["error"]["type"] == "timeout_error"
