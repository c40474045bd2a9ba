"""Bedrock's dialect against the shapes that Bedrock sends."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmwarden.contracts.ledger import Tokens
from llmwarden.proxy.calls.service import normalise
from llmwarden.proxy.dialects.base import Answer, Asked, Match, Target
from llmwarden.proxy.dialects.bedrock import DIALECT
from llmwarden.proxy.framing import SPLITTERS, Framing
from llmwarden.proxy.seam import Header
from tests.proxy.bedrock import chunk, event, message

RECORDED = Path(__file__).parents[2] / "proxy" / "recorded" / "bedrock"
EVENTSTREAM = b"application/vnd.amazon.eventstream"


def match(target: str, method: str = "POST") -> Match | None:
    return DIALECT.match(Target(method, normalise(target.encode()), "", "Bedrock"))


def found(target: str) -> Match:
    result = match(target)
    assert result is not None
    return result


CONVERSE = found("/model/m/converse")
INVOKE = found("/model/m/invoke")


def stream(which: Match, data: bytes) -> Answer:
    answer = Answer()
    framing = which.api.framing(EVENTSTREAM, Asked(stream=True))
    assert framing is Framing.EVENTSTREAM
    splitter = SPLITTERS[framing]()
    for number, (_, payload) in enumerate(splitter.feed(data)):
        assert payload is not None
        which.api.event(answer, payload, float(number))
    return answer


def whole(which: Match, body: bytes, headers: dict[str, str] | None = None) -> Answer:
    answer = Answer()
    sent: list[Header] = [
        (name.lower().encode(), name.encode(), value.encode()) for name, value in (headers or {}).items()
    ]
    if which.head is not None:
        which.head(answer, sent)
    assert which.api.framing(b"application/json", Asked()) is None
    which.api.whole(answer, body)
    return answer


CACHED = Tokens(input=1312, cached_input=1000, cache_write=300, output=40, cache_write_1h=200)
CLAUDE = Tokens(input=134, cached_input=100, cache_write=20, output=10, cache_write_1h=5)
STREAMS: list[tuple[str, Tokens, list[str], int, float]] = [
    ("converse_stream", Tokens(input=9, output=3), ["end_turn"], 3, 2.0),
    ("converse_stream_tools", CACHED, ["tool_use"], 4, 1.0),
    ("invoke_anthropic", CLAUDE, ["end_turn"], 2, 2.0),
    ("invoke_nova", Tokens(input=12, cached_input=7, output=10), ["max_tokens"], 2, 1.0),
    ("invoke_titan", Tokens(input=5, output=10), ["LENGTH"], 2, 0.0),
    ("invoke_llama", Tokens(input=5, output=3), ["stop"], 2, 1.0),
    ("invoke_mistral", Tokens(input=6, output=2), ["stop"], 2, 0.0),
    ("invoke_cohere", Tokens(input=5, output=2), ["COMPLETE"], 2, 1.0),
    ("invoke_openai", Tokens(input=70, output=4), ["stop"], 1, 1.0),
]


@pytest.mark.parametrize(("name", "usage", "reasons", "pieces", "first"), STREAMS)
def test_a_stream(name: str, usage: Tokens, reasons: list[str], pieces: int, first: float) -> None:
    which = CONVERSE if name.startswith("converse") else INVOKE
    answer = stream(which, (RECORDED / f"{name}.eventstream").read_bytes())
    assert (answer.usage, answer.finish_reasons, answer.pieces) == (usage, reasons, pieces)
    assert (answer.first_content, answer.done, answer.partial, answer.malformed) == (first, True, False, 0)
    assert answer.error == ""


COUNTS = {"X-Amzn-Bedrock-Input-Token-Count": "5", "X-Amzn-Bedrock-Output-Token-Count": "2"}
WHOLE: list[tuple[str, dict[str, str], Tokens, list[str]]] = [
    ("converse", {}, Tokens(input=9, output=3), ["end_turn"]),
    ("converse_tools", {}, CACHED, ["tool_use"]),
    ("invoke_anthropic", COUNTS, CLAUDE, ["end_turn"]),
    ("invoke_nova", COUNTS, Tokens(input=12, cached_input=7, output=10), ["max_tokens"]),
    ("invoke_titan", COUNTS, Tokens(input=5, output=10), ["LENGTH"]),
    ("invoke_titan_embed", {}, Tokens(input=7), []),
    ("invoke_llama", COUNTS, Tokens(input=5, output=3), ["stop"]),
    ("invoke_mistral", COUNTS, Tokens(input=5, output=2), ["length"]),
    ("invoke_cohere", COUNTS, Tokens(input=5, output=2), ["COMPLETE"]),
    ("invoke_cohere_embed", {"X-Amzn-Bedrock-Input-Token-Count": "4"}, Tokens(input=4), []),
    ("invoke_openai", COUNTS, Tokens(input=70, output=4), ["stop"]),
]


@pytest.mark.parametrize(("name", "headers", "usage", "reasons"), WHOLE)
def test_a_whole_answer(name: str, headers: dict[str, str], usage: Tokens, reasons: list[str]) -> None:
    which = CONVERSE if name.startswith("converse") else INVOKE
    answer = whole(which, (RECORDED / f"{name}.json").read_bytes(), headers)
    assert (answer.usage, answer.finish_reasons, answer.malformed) == (usage, reasons, 0)


def test_the_head_counts_of_a_body_that_says_nothing() -> None:
    headers = COUNTS | {
        "X-Amzn-Bedrock-Cache-Read-Input-Token-Count": "100",
        "X-Amzn-Bedrock-Cache-Write-Input-Token-Count": "20",
        "X-Amzn-Bedrock-Service-Tier": "flex",
    }
    answer = whole(INVOKE, b"{}", headers)
    assert answer.usage == Tokens(input=125, cached_input=100, cache_write=20, output=2)
    assert answer.tier == "flex"
    assert whole(INVOKE, b"{}", {"X-Amzn-Bedrock-Input-Token-Count": "-5"}).usage is None
    assert whole(INVOKE, b"{}", {"X-Amzn-Bedrock-Input-Token-Count": "9" * 11}).malformed == 1


def test_the_time_by_bedrocks_own_clock() -> None:
    assert stream(CONVERSE, (RECORDED / "converse_stream.eventstream").read_bytes()).server_seconds == 0.625
    assert whole(CONVERSE, (RECORDED / "converse.json").read_bytes()).server_seconds == 0.551
    assert stream(INVOKE, (RECORDED / "invoke_titan.eventstream").read_bytes()).server_seconds == 1.321
    answer = whole(INVOKE, b"{}", {"X-Amzn-Bedrock-Invocation-Latency": "186"})
    assert (answer.server_seconds, answer.usage) == (0.186, None)
    assert whole(INVOKE, b"{}", {"X-Amzn-Bedrock-Invocation-Latency": "9" * 12}).server_seconds is None


def test_bedrocks_count_holds_of_a_body_that_nobody_knows() -> None:
    last = {
        "stop_reason": {"new": "shape"},
        "amazon-bedrock-invocationMetrics": {"inputTokenCount": 5, "outputTokenCount": 3},
    }
    answer = stream(INVOKE, chunk({"some": "thing"}) + chunk(last))
    assert (answer.usage, answer.done, answer.malformed) == (Tokens(input=5, output=3), True, 1)
    answer = whole(INVOKE, b'{"stop_reason": {"new": "shape"}}', COUNTS)
    assert (answer.usage, answer.malformed) == (Tokens(input=5, output=2), 1)


def test_more_of_an_answer() -> None:
    answer = stream(CONVERSE, (RECORDED / "converse_stream_tools.eventstream").read_bytes())
    assert answer.tool_call_ids == ["tooluse_AOOBCtPEQ7"]
    assert answer.tier == "priority"
    assert answer.model == "us.anthropic.claude-3-5-sonnet-20240620-v1:0"  # whom the prompt router chose
    answer = whole(CONVERSE, (RECORDED / "converse_tools.json").read_bytes())
    assert (answer.tool_call_ids, answer.tier) == (["tooluse_AOOBCtPEQ7"], "flex")
    answer = stream(INVOKE, (RECORDED / "invoke_anthropic.eventstream").read_bytes())
    assert (answer.model, answer.id) == ("claude-3-5-haiku-20241022", "msg_bdrk_01Wh9w6T")
    assert whole(INVOKE, (RECORDED / "invoke_cohere.json").read_bytes()).id == "2d74c447-266d"


def test_an_exception_in_a_stream_is_an_error() -> None:
    answer = stream(CONVERSE, (RECORDED / "converse_stream_exception.eventstream").read_bytes())
    assert (answer.error, answer.pieces, answer.usage) == ("modelStreamErrorException", 1, None)
    answer = stream(INVOKE, (RECORDED / "invoke_throttled.eventstream").read_bytes())
    assert (answer.error, answer.usage, answer.partial) == ("throttlingException", Tokens(input=5), True)
    assert stream(CONVERSE, message("aNewException", b"{}", kind="exception")).error == "aNewException"
    assert stream(CONVERSE, event("aNewEvent", {"x": 1})).error == ""


def test_damage_is_counted() -> None:
    damaged = bytearray((RECORDED / "converse_stream.eventstream").read_bytes())
    damaged[-3] ^= 1
    answer = stream(CONVERSE, bytes(damaged))
    assert (answer.malformed, answer.usage, answer.pieces) == (1, None, 3)
    assert stream(INVOKE, event("chunk", {"bytes": "no base64 !"})).malformed == 1
    assert stream(INVOKE, event("chunk", {"bytes": "bm8ganNvbg=="})).malformed == 1
    assert whole(CONVERSE, b"<html>").malformed == whole(INVOKE, b"\xff").malformed == 1


ARN = "arn%3Aaws%3Abedrock%3Aus-east-1%3A123456789012%3A"


@pytest.mark.parametrize(
    ("target", "model", "streams", "alias"),
    [
        ("/model/anthropic.claude-v2%3A1/converse", "anthropic.claude-v2:1", False, False),
        ("/model/us.amazon.nova-micro-v1%3a0/converse-stream", "us.amazon.nova-micro-v1:0", True, False),
        ("/model/a:0/invoke?x=1", "a:0", False, False),
        ("/model/a/invoke-with-response-stream", "a", True, False),
        (f"/model/{ARN}inference-profile%2Feu.meta.llama-v1%3A0/invoke", "eu.meta.llama-v1:0", False, False),
        ("/model/arn:aws:bedrock:us-east-1::foundation-model/amazon.t-v1:0/converse", "amazon.t-v1:0", False, False),
        (
            f"/model/{ARN}application-inference-profile%2Fabc1/converse",
            "application-inference-profile/abc1",
            False,
            True,
        ),
        (f"/model/{ARN}provisioned-model%2Fxyz/invoke", "provisioned-model/xyz", False, True),
        (f"/model/{ARN}prompt%2FP1%3A2/converse", "prompt/P1:2", False, True),
        # No spelling walks around a budget.
        ("//%6dodel/A//CONVERSE/", "A", False, False),
        ("/x/../Model/a/./invoke", "a", False, False),
    ],
)
def test_paths(target: str, model: str, streams: bool, alias: bool) -> None:  # noqa: FBT001 - a table's columns
    result = found(target)
    assert (result.model, result.stream, result.alias) == (model, streams, alias)


@pytest.mark.parametrize(
    "target",
    [
        "/model/a/count-tokens",
        "/model/a/invoke-with-bidirectional-stream",
        "/guardrail/g/version/1/apply",
        "/async-invoke",
        "/openai/v1/chat/completions",
        "/model/converse",
    ],
)
def test_what_is_no_call_of_ours(target: str) -> None:
    assert match(target) is None
    assert match("/model/a/converse", "GET") is None


def test_operations() -> None:
    assert found("/model/amazon.titan-embed-text-v2%3A0/invoke").api.operation == "embeddings"
    assert found("/model/cohere.embed-english-v3/invoke").api.operation == "embeddings"
    assert CONVERSE.api.operation == INVOKE.api.operation == "chat"


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (b"/model/anthropic.claude-v2%3A1/converse", b"/model/new.model-v1%3A0/converse"),
        (b"/model/a/invoke-with-response-stream?x=1", b"/model/new.model-v1%3A0/invoke-with-response-stream?x=1"),
        (b"/model/arn%3Aaws%3Abedrock%2Fx/converse-stream", b"/model/new.model-v1%3A0/converse-stream"),
        (b"//%6dodel/A//CONVERSE/", b"/model/new.model-v1%3A0/CONVERSE"),
    ],
)
def test_another_model_in_the_path(target: bytes, expected: bytes) -> None:
    assert CONVERSE.api.write_target(target, "new.model-v1:0") == expected
    assert CONVERSE.api.write_request(b"{}", Asked(), model="new.model-v1:0", usage=False) == b"{}"


def read(which: Match, body: dict[str, Any]) -> Asked:
    asked = which.api.read_request(json.dumps(body).encode(), which)
    assert asked is not None
    return asked


USER = {"role": "user", "content": [{"text": "Say this is a test"}]}


def test_a_converse_request() -> None:
    body = {
        "messages": [USER],
        "system": [{"text": "Be brief."}],
        "inferenceConfig": {"maxTokens": 10, "temperature": 0.8, "topP": 1},
        "toolConfig": {"tools": [{"toolSpec": {"name": "weather"}}, {"cachePoint": {"type": "default"}}]},
    }
    asked = read(found("/model/a%3A0/converse-stream"), body)
    assert (asked.model, asked.stream, asked.wants_usage) == ("a:0", True, True)
    assert (asked.max_tokens, asked.temperature, asked.top_p, asked.unbounded) == (10, 0.8, 1.0, "")
    assert 100 < asked.input_bytes < 200
    longer = read(found("/model/a%3A0/converse"), {**body, "messages": [USER, USER]})
    assert longer.prefixes[0] == asked.prefixes[-1]
    assert found("/model/a/converse").api.read_request(b"[]", CONVERSE) is None


@pytest.mark.parametrize(
    ("target", "change", "why"),
    [
        ("/model/a/converse", {"messages": [{"content": [{"image": {"format": "png"}}]}]}, "media"),
        ("/model/a/converse", {"messages": [{"content": [{"document": {"name": "d"}}]}]}, "media"),
        (
            "/model/a/converse",
            {"messages": [{"content": [{"toolResult": {"content": [{"video": {"f": 1}}]}}]}]},
            "media",
        ),
        ("/model/a/converse", {"messages": [{"content": [{"text": 'an "image" in words'}]}]}, ""),
        ("/model/a/converse", {"toolConfig": {"tools": [{"systemTool": {"name": "nova_grounding"}}]}}, "server_tools"),
        ("/model/a/converse", {"additionalModelRequestFields": {"max_tokens": 9000}}, "additional_fields"),
        ("/model/a/converse", {"additionalModelRequestFields": {"top_k": 5}}, ""),
        (f"/model/{ARN}prompt%2FP1/converse", {"promptVariables": {"a": {"text": "b"}}}, "stored_input"),
        ("/model/a/invoke", {"inputImage": "iVBORw0"}, "media"),
    ],
)
def test_what_cannot_be_bounded(target: str, change: dict[str, Any], why: str) -> None:
    assert read(found(target), {"messages": [USER], **change} if "invoke" not in target else change).unbounded == why


@pytest.mark.parametrize(
    "body",
    [
        {
            "anthropic_version": "bedrock-2023-05-31",
            "max_tokens": 10,
            "temperature": 0.8,
            "top_p": 1,
            "messages": [USER],
        },
        {"messages": [USER], "inferenceConfig": {"max_new_tokens": 10, "temperature": 0.8, "topP": 1}},
        {"messages": [USER], "inferenceConfig": {"maxTokens": 10, "temperature": 0.8, "topP": 1}},
        {"inputText": "Hi", "textGenerationConfig": {"maxTokenCount": 10, "temperature": 0.8, "topP": 1}},
        {"prompt": "Hi", "max_gen_len": 10, "temperature": 0.8, "top_p": 1},
        {"prompt": "Hi", "max_tokens": 10, "temperature": 0.8, "top_p": 1},
        {"message": "Hi", "max_tokens": 10, "temperature": 0.8, "p": 1},
        {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 10, "temperature": 0.8, "top_p": 1},
    ],
)
def test_invoke_requests_of_every_family(body: dict[str, Any]) -> None:
    asked = read(found("/model/a/invoke-with-response-stream"), body)
    assert (asked.model, asked.stream, asked.wants_usage, asked.unbounded) == ("a", True, True, "")
    assert (asked.max_tokens, asked.temperature, asked.top_p) == (10, 0.8, 1.0)
    assert asked.input_bytes >= 2
    asked = read(found("/model/amazon.titan-embed-text-v1/invoke"), {"inputText": "Hi"})
    assert (asked.max_tokens, asked.stream) == (0, False)
    assert INVOKE.api.read_request(b"no", INVOKE) is None


def test_errors_in_aws_shape() -> None:
    assert json.loads(DIALECT.error_body(502, "upstream_connect", "m")) == {
        "__type": "ServiceUnavailableException",
        "message": "m",
    }
    assert json.loads(DIALECT.error_body(400, "x", "m"))["__type"] == "ValidationException"
    refusal = DIALECT.refusal("insufficient_quota", "used up", budget="B", retry_after=None)
    assert (refusal.status, json.loads(refusal.body)) == (400, {"message": "used up"})
    assert dict(refusal.headers)[b"x-amzn-errortype"] == b"ServiceQuotaExceededException"
    assert dict(refusal.headers)[b"x-llmwarden-budget"] == b"B"
    refusal = DIALECT.refusal("throttled", "wait", budget="B", retry_after=3)
    assert (refusal.status, dict(refusal.headers)[b"x-amzn-errortype"]) == (429, b"ThrottlingException")


JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text('ab{"', max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(
            ["messages", "content", "text", "image", "toolResult", "toolConfig", "tools", "inferenceConfig", "maxTokens", "usage", "inputTokens", "output", "message", "metadata", "contentBlockDelta", "delta", "toolUse", "stopReason", "type", "choices", "results", "outputs", "chunk", "bytes", "anthropic_version", "amazon-bedrock-invocationMetrics", "inputTokenCount", "prompt_token_count", "trace", "promptRouter", "invokedModelId"]
        ),
        inner,
        max_size=4,
    ),
    max_leaves=12,
)  # fmt: skip


@given(JSON, st.sampled_from([CONVERSE, INVOKE]))
def test_nothing_raises_on_any_json(value: Any, which: Match) -> None:
    body = json.dumps(value).encode()
    which.api.read_request(body, which)
    which.api.whole(Answer(), body)
    which.api.event(Answer(), body, 1.0)
    stream(which, chunk(value) if isinstance(value, dict) else message("chunk", body))
