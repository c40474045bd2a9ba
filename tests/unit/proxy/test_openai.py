"""OpenAI's shapes, and those of servers that speak like it (tests/proxy/recorded/openai)."""

import json

import pytest

from llmwarden.contracts.ledger import Tokens
from llmwarden.proxy.dialects.base import Answer, Event
from tests.unit.proxy.shapes import api, asked, match, streamed, whole

CHAT = "/v1/chat/completions"
RESPONSES = "/v1/responses"


@pytest.mark.parametrize(
    ("name", "usage", "pieces", "finish"),
    [
        ("chat_text", Tokens(input=79, cached_input=64, output=21, reasoning=8), 2, ["stop"]),
        ("chat_two_choices_logprobs", Tokens(input=9, output=4), 4, ["stop", "length"]),
        ("chat_tools", Tokens(input=149, output=60), 4, ["tool_calls"]),
        ("chat_refusal", Tokens(input=79, output=11), 2, ["stop"]),
        ("azure", Tokens(input=8, output=9), 1, ["stop"]),
        ("vllm_continuous_usage", Tokens(input=15, output=3), 2, ["stop"]),
        ("sglang", Tokens(input=26, cached_input=20, output=3), 1, ["stop"]),
        ("groq", Tokens(input=11, output=2), 1, ["stop"]),
    ],
)
def test_streams_of_chat(name: str, usage: Tokens, pieces: int, finish: list[str]) -> None:
    answer, _ = streamed(CHAT, f"openai/{name}.sse")
    assert answer.usage == usage
    assert (answer.pieces, answer.finish_reasons, answer.done, answer.malformed, answer.error) == (
        pieces,
        finish,
        True,
        0,
        "",
    )
    assert answer.model


def test_only_the_event_that_is_nothing_but_usage_is_withheld() -> None:
    _, events = streamed(CHAT, "openai/azure.sse")
    strip, keep = Event.STRIP, Event.KEEP
    assert events == [*5 * [strip], Event.WITHHOLD, keep]  # Azure's first, without choices, stays
    _, events = streamed(CHAT, "openai/vllm_continuous_usage.sse")
    assert events == [keep, keep, keep, keep, Event.WITHHOLD, keep]


def test_tool_calls_are_named() -> None:
    answer, _ = streamed(CHAT, "openai/chat_tools.sse")
    assert answer.tool_call_ids == ["call_4XzlGBLtUe9dy3GVNV4jhq7h", "call_2PNlfy4F1K2Y3mY3TEGSVtX1"]
    assert answer.first_content == 0.0  # the first call comes with the role


def test_a_queue_is_told_by_groq() -> None:
    assert streamed(CHAT, "openai/groq.sse")[0].queue_seconds == 0.0375


def test_whole_answers() -> None:
    answer = whole(CHAT, "openai/chat.json")
    assert answer.usage == Tokens(input=100, cached_input=20, input_audio=30, output=60, output_audio=40)
    assert (answer.tier, answer.finish_reasons) == ("flex", ["tool_calls"])
    assert answer.tool_call_ids == ["call_CUdUoJpsWWVdxXntucvnol1M"]
    answer = whole("/v1/completions", "openai/completion.json")
    assert (answer.usage, answer.finish_reasons) == (Tokens(input=5, output=7), ["length"])
    answer = whole("/v1/embeddings", "openai/embeddings.json")
    assert (answer.usage, answer.model) == (Tokens(input=8), "text-embedding-ada-002")
    assert whole(CHAT, "openai/error_429.json").error == "tokens"


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        # DeepSeek and Moonshot count the cache's part elsewhere; xAI counts reasoning beside the completion.
        ({"prompt_tokens": 9, "completion_tokens": 2, "prompt_cache_hit_tokens": 4}, Tokens(9, 4, 0, 2)),
        ({"prompt_tokens": 9, "completion_tokens": 2, "cached_tokens": 5}, Tokens(9, 5, 0, 2)),
        (
            {
                "prompt_tokens": 9,
                "completion_tokens": 2,
                "total_tokens": 18,
                "completion_tokens_details": {"reasoning_tokens": 7},
            },
            Tokens(9, 0, 0, 9, 7),
        ),
        # Parts never exceed their whole.
        (
            {"prompt_tokens": 9, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 99}},
            Tokens(9, 9, 0, 2),
        ),
        ({"prompt_tokens": -9, "completion_tokens": None}, Tokens()),
    ],
)
def test_usage_as_others_tell_it(usage: dict[str, object], tokens: Tokens) -> None:
    answer = Answer()
    api(CHAT).whole(answer, json.dumps({"choices": [], "usage": usage}).encode())
    assert answer.usage == tokens


def test_streams_of_responses() -> None:
    answer, events = streamed(RESPONSES, "openai/responses.sse")
    assert answer.usage == Tokens(input=36, cached_input=12, output=87, reasoning=40)
    assert (answer.pieces, answer.done, answer.finish_reasons, answer.error) == (4, True, ["completed"], "")
    assert answer.first_content == 3.0  # reasoning counts as content
    assert answer.tool_call_ids == ["call_unLAR8MvFNptuiZK6K6HCy5k"]
    assert set(events) == {Event.KEEP}
    answer, _ = streamed(RESPONSES, "openai/responses_failed.sse")
    assert (answer.error, answer.done, answer.usage) == ("server_error", True, Tokens(input=36, output=1))
    answer, _ = streamed(RESPONSES, "openai/responses_incomplete.sse")
    assert (answer.finish_reasons, answer.tier, answer.error) == (["max_output_tokens"], "priority", "")


def test_responses_made_in_the_background() -> None:
    answer = whole(RESPONSES, "openai/responses_queued.json")
    assert (answer.usage, answer.deferred) == (None, "resp_67ccd2bed1ec8190b14f964abc0542670bb6a6b452d3795b")
    answer = whole(RESPONSES, "openai/responses_background_done.json")
    assert (answer.usage, answer.deferred) == (Tokens(input=36, cached_input=12, output=87, reasoning=40), "")


@pytest.mark.parametrize("payload", [b"", b"[]", b"7", b'{"choices":7}', b'{"usage":[]}', b"\xff\xfe", b'{"type":9}'])
@pytest.mark.parametrize("path", [CHAT, RESPONSES])
def test_what_is_no_event_breaks_nothing(path: str, payload: bytes) -> None:
    answer = Answer()
    assert api(path).event(answer, payload, 0.0) is Event.KEEP
    assert answer.usage is None
    api(path).whole(answer, payload)
    assert answer.usage is None


def test_what_a_chat_asks_for() -> None:
    request = asked(
        CHAT,
        b'{"model":"m","stream":true,"n":3,"max_tokens":10,"max_completion_tokens":20,"temperature":0,"top_p":0.5,"seed":7,'
        b'"messages":[{"role":"user","content":"hi"},{"role":"user","content":[{"type":"text","text":"ho"}]}],'
        b'"tools":[{"type":"function","function":{"name":"f"}}]}',
    )
    assert (request.model, request.stream, request.choices, request.max_tokens) == ("m", True, 3, 20)
    assert (request.temperature, request.top_p, request.seed, request.unbounded) == (0.0, 0.5, 7, "")
    assert len(request.prefixes) == 2


def test_a_request_that_goes_on_has_the_earlier_ones_prefix() -> None:
    first = [{"role": "user", "content": "hi"}]
    more = [*first, {"role": "assistant", "content": "yes?"}, {"role": "user", "content": "x" * 5000}]
    begun = asked(CHAT, json.dumps({"messages": first}).encode())
    further = asked(CHAT, json.dumps({"messages": more}).encode())
    other = asked(CHAT, json.dumps({"messages": [{"role": "user", "content": "ho"}, *more[1:]]}).encode())
    assert begun.prefixes[-1] in further.prefixes
    assert begun.prefixes[-1] not in other.prefixes


@pytest.mark.parametrize(
    ("path", "more", "why"),
    [
        (CHAT, {"web_search_options": {}}, "server_tools"),
        (CHAT, {"tools": [{"type": "web_search"}]}, "server_tools"),
        (CHAT, {"messages": [{"content": [{"type": "image_url", "image_url": {"url": "u"}}]}]}, "media"),
        (CHAT, {"prediction": {"type": "content"}}, "prediction"),
        (CHAT, {"n": "100"}, "unreadable"),
        (CHAT, {"best_of": 2.0}, "unreadable"),
        (CHAT, {"messages": {"role": "user"}}, "unreadable"),
        (RESPONSES, {"previous_response_id": "resp_1"}, "stored_input"),
        (RESPONSES, {"conversation": {"id": "conv_1"}}, "stored_input"),
        (RESPONSES, {"background": True}, "background"),
        (RESPONSES, {"tools": [{"type": "code_interpreter"}]}, "server_tools"),
        (RESPONSES, {"input": [{"content": [{"type": "input_image"}]}]}, "media"),
        (RESPONSES, {"input": [{"type": "item_reference", "id": "x"}]}, "stored_input"),
        (RESPONSES, {"input": "hi", "tools": [{"type": "function"}]}, ""),
        ("/v1/embeddings", {"input": ["a"]}, ""),
    ],
)
def test_what_limits_do_not_bound(path: str, more: dict[str, object], why: str) -> None:
    assert asked(path, json.dumps({"model": "m", **more}).encode()).unbounded == why


@pytest.mark.parametrize(
    ("prompt", "choices"), [("a", 2), (["a", "b", "c"], 6), ([1, 2, 3], 2), ([[1, 2], [3]], 4), ([], 2)]
)
def test_each_prompt_of_a_completion_has_its_choices(prompt: object, choices: int) -> None:
    assert asked("/v1/completions", json.dumps({"prompt": prompt, "n": 2}).encode()).choices == choices


def test_conversations() -> None:
    assert asked(RESPONSES, b'{"conversation":"conv_1"}').conversation == "conv_1"
    assert asked(RESPONSES, b'{"previous_response_id":"resp_1"}').conversation == "resp_1"


def test_azure_names_deployments_in_the_path_and_takes_usage_from_a_version_on() -> None:
    path = "/openai/deployments/My-Gpt/chat/completions"
    for query, takes in (
        ("api-version=2024-06-01", False),
        ("api-version=2024-09-01-preview", True),
        ("api-version=2025-01-01-preview", True),
        ("", False),
    ):
        hit = match(path, backend="AzureOpenAI", query=query)
        assert hit is not None
        assert (hit.model, hit.alias, hit.takes_usage) == ("My-Gpt", True, takes)
    assert hit is not None
    request = hit.api.read_request(b'{"model":"else","messages":[]}', hit)
    assert request is not None
    assert request.model == "My-Gpt"
    target = hit.api.write_target(b"/openai/Deployments/My-Gpt/chat/completions?api-version=1&x=/deployments/y/", "a b")
    assert target == b"/openai/Deployments/a%20b/chat/completions?api-version=1&x=/deployments/y/"
    cased = match("/openai/Deployments/My-Gpt/Chat/Completions", backend="AzureOpenAI")
    assert cased is not None
    assert cased.model == "My-Gpt"
    newest = match("/openai/v1/responses", backend="AzureOpenAI")
    assert newest is not None
    assert (newest.model, newest.alias, newest.takes_usage) == ("", True, True)


def test_which_paths_are_calls() -> None:
    for path in ("/audio/speech", "/images/generations", "/files", "/batches", "/responses/resp_1/cancel", "/realtime"):
        assert match(f"/v1{path}", backend="OpenAI") is None
    poll = match("/v1/responses/resp_Ab1", method="GET")
    assert poll is not None
    assert poll.poll == "resp_Ab1"
    assert match("/v1/responses/resp_Ab1/input_items", method="GET") is None
    assert match("/v1/chat/completions", method="GET") is None
