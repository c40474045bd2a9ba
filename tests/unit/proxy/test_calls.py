"""Measured calls beside the path: usage, its invisibility, estimates, caps."""

import datetime as dt
import itertools
import json
import time
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmwarden.contracts import ledger as wire
from llmwarden.contracts.sidecar import Limits
from llmwarden.domain.upstream import BACKENDS
from llmwarden.proxy.calls.call import MeteredCall
from llmwarden.proxy.calls.service import MeteredService, normalise
from llmwarden.proxy.clock import LedgerClock
from llmwarden.proxy.seam import Forward, Header, Kept, Request
from tests.unit.proxy.shapes import shape
from tests.unit.proxy.support import JSON, SSE, begin, rows, service, stream, value

ASK = b'{"model":"m","stream":true,"messages":[{"role":"user","content":"hi"}]}'
TOKENS = "gen_ai_client_token_usage_tokens_total"


def sse(*items: object, end: str = "\n", spaced: bool = False) -> bytes:
    separators = (", ", ": ") if spaced else (",", ":")
    texts = [item if isinstance(item, str) else json.dumps(item, separators=separators) for item in items]
    return "".join(f"data: {text}{end}{end}" for text in texts).encode()


def piece(delta: dict[str, Any], finish: str | None = None, **more: Any) -> dict[str, Any]:
    return {"id": "c", "model": "m-2024", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}], **more}


CLIENT_SEES = [
    piece({"role": "assistant", "content": ""}),
    piece({"content": 'he said "usage":null, or \\"usage\\":null'}),
    piece({"content": "ä"}),
    piece({}, "stop"),
]
USAGE = {"id": "c", "model": "m-2024", "choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 2}}
UPSTREAM_SENDS = [*({**item, "usage": None} for item in CLIENT_SEES), USAGE]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 900), max_size=30), st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_injected_usage_is_invisible_however_the_stream_is_cut(
    tmp_path: Path,
    at: list[int],
    end: str,
    spaced: bool,  # noqa: FBT001 - Hypothesis passes it
) -> None:
    metered = service(tmp_path)
    metered.shared.journal.acknowledge(rows(metered), 1e12)
    call, body = begin(metered, ASK)
    assert json.loads(body)["stream_options"] == {"include_usage": True}
    data = sse(*UPSTREAM_SENDS, "[DONE]", end=end, spaced=spaced)
    bounds = [0, *sorted({min(point, len(data)) for point in at}), len(data)]
    pieces = [data[a:b] for a, b in itertools.pairwise(bounds) if b > a]
    assert stream(call, pieces) == sse(*CLIENT_SEES, "[DONE]", end=end, spaced=spaced)
    assert value(metered, TOKENS, gen_ai_token_type="input") == 7
    assert value(metered, TOKENS, gen_ai_token_type="output") == 2


@pytest.mark.parametrize("backend", ["Anthropic", "OpenAICompatible"])
def test_a_backend_that_might_refuse_it_is_not_asked_for_usage(tmp_path: Path, backend: str) -> None:
    metered = service(tmp_path, backend)
    call, body = begin(metered, ASK)
    assert body == ASK
    data = sse(*CLIENT_SEES, "[DONE]")
    assert stream(call, [data]) == data
    [row] = rows(metered)
    assert row.estimated == 1
    assert row.tokens.output == 12  # of 50 bytes of content in two events
    assert row.tokens.input == 5  # the text, and what a message costs by itself
    assert value(metered, "llmwarden_estimated_requests_total") == 1


def test_the_wish_joins_options_that_are_there(tmp_path: Path) -> None:
    body = b'{"model":"m","stream":true, "stream_options": {"x":1}, "n": 1.50}'
    _, sent = begin(service(tmp_path), body)
    assert json.loads(sent)["stream_options"] == {"x": 1, "include_usage": True}
    assert b'"n":1.50' in sent  # values keep their bytes


def test_a_request_without_a_stream_keeps_its_bytes(tmp_path: Path) -> None:
    body = b'{"model":"m", "messages": [] , "stream": false}\n'
    assert begin(service(tmp_path), body)[1] == body


def test_what_is_not_json_passes_and_is_measured_as_far_as_it_goes(tmp_path: Path) -> None:
    metered = service(tmp_path)
    call, body = begin(metered, b"not json")
    assert body == b"not json"
    call.answered(400, JSON)
    assert call.feed(b'{"error":{}}') == b'{"error":{}}'
    call.end()
    [row] = rows(metered)
    assert (row.requests, row.errors, row.estimated, row.tokens) == (1, 1, 0, wire.Tokens())


def test_malformed_events_pass_byte_for_byte_and_are_counted(tmp_path: Path) -> None:
    metered = service(tmp_path)
    call, _ = begin(metered, ASK)
    data = b"data: {broken\n\n: comment\n\ndata: [1]\n\ndata: \xff\xfe\n\n" + sse(USAGE, "[DONE]")
    assert stream(call, [data]) == data[: data.index(b'data: {"id"')] + sse("[DONE]")
    assert value(metered, "llmwarden_proxy_malformed_events_total") == 3
    assert value(metered, TOKENS, gen_ai_token_type="input") == 7


def test_usage_beside_choices_is_the_clients(tmp_path: Path) -> None:
    metered = service(tmp_path)
    call, _ = begin(metered, ASK)
    data = sse(piece({"content": "x"}, usage={"prompt_tokens": 1, "completion_tokens": 1}), "[DONE]")
    assert stream(call, [data]) == data
    assert value(metered, TOKENS, gen_ai_token_type="output") == 1


def test_a_stream_that_ends_without_a_blank_line_still_counts(tmp_path: Path) -> None:
    metered = service(tmp_path)
    call, _ = begin(metered, ASK)
    assert stream(call, [sse(*CLIENT_SEES), sse(USAGE)[:-2]]) == sse(*CLIENT_SEES)
    assert rows(metered)[0].tokens == wire.Tokens(input=7, output=2)


@pytest.mark.parametrize(
    "delta",
    [
        {"content": "x"},
        {"reasoning_content": "x"},
        {"reasoning": "x"},
        {"tool_calls": [{"index": 0}]},
        {"refusal": "no"},
    ],
)
def test_what_counts_as_the_first_token(tmp_path: Path, delta: dict[str, Any]) -> None:
    metered = service(tmp_path)
    call, _ = begin(metered, ASK)
    stream(call, [sse(piece({"role": "assistant", "content": "", "tool_calls": []}))])
    assert value(metered, "gen_ai_server_time_to_first_token_seconds_count") == 0
    call, _ = begin(metered, ASK)
    stream(call, [sse(piece(delta))])
    assert value(metered, "gen_ai_server_time_to_first_token_seconds_count") == 1


@pytest.mark.parametrize(
    ("item", "kind"),
    [
        ({"error": {"message": "m", "type": "InternalServerError", "code": 500}}, "InternalServerError"),
        ({"error": {"message": "m", "code": 500}}, "500"),
        ({"object": "error", "message": "m", "type": "Bad Type!\n", "code": 400}, "Bad_Type_"),
        ({"error": "text"}, "error"),
    ],
)
def test_an_error_event_is_an_error_whatever_the_status(tmp_path: Path, item: dict[str, Any], kind: str) -> None:
    metered = service(tmp_path)
    call, _ = begin(metered, ASK)
    stream(call, [sse(item, "[DONE]")])
    assert value(metered, "llmwarden_requests_total", error_type=kind, http_status_code="200") == 1
    assert rows(metered)[0].errors == 1
    assert rows(metered)[0].tokens == wire.Tokens()


def test_a_compressed_answer_passes_and_is_estimated(tmp_path: Path) -> None:
    metered = service(tmp_path)
    call, _ = begin(metered, ASK)
    data = b"\x1f\x8b rest"
    assert stream(call, [data], [*SSE, (b"content-encoding", b"Content-Encoding", b"gzip")]) == data
    assert rows(metered)[0].estimated == 1


def test_a_usage_that_cannot_be_is_not_believed(tmp_path: Path) -> None:
    metered = service(tmp_path)
    call, _ = begin(metered, b'{"model":"m","messages":[]}')
    call.answered(200, JSON)
    call.feed(b'{"choices":[],"usage":{"prompt_tokens":99999999999999,"completion_tokens":1}}')
    call.end()
    assert rows(metered)[0].estimated == 1
    call, _ = begin(metered, b'{"model":"m","messages":[]}')
    call.answered(200, JSON)
    call.feed(b'{"usage":{"prompt_tokens":5,"completion_tokens":-3,"prompt_tokens_details":{"cached_tokens":9}}}')
    call.end()
    assert rows(metered)[0].tokens.cached_input == 5


def test_models_are_capped_in_metrics_and_for_calls_that_made_nothing(tmp_path: Path) -> None:
    metered = service(tmp_path, limits=Limits(models=3))
    for number in range(6):
        call, _ = begin(metered, b'{"model":"model-%d"}' % number)
        call.answered(404, JSON)
        call.feed(b'{"error":{"code":"model_not_found"}}')
        call.end()
    assert value(metered, "llmwarden_requests_total", gen_ai_request_model="other") == 3
    assert {row.model for row in rows(metered)} == {"model-0", "model-1", "model-2", "other"}


def test_an_unknown_price_is_uncosted_not_free(tmp_path: Path) -> None:
    metered = service(tmp_path)
    call, _ = begin(metered, ASK)
    stream(call, [sse(*UPSTREAM_SENDS, "[DONE]")])
    assert value(metered, "llmwarden_uncosted_tokens_total") == 9
    metered.shared.ledger.prices.put("bot", "m", "", wire.Price(1, "p", wire.Picodollars(10, 100, 1, 1)))
    call, _ = begin(metered, ASK)
    stream(call, [sse(*UPSTREAM_SENDS, "[DONE]")])
    assert value(metered, "llmwarden_uncosted_tokens_total") == 9
    assert value(metered, "llmwarden_cost_usd_total") == pytest.approx(270e-12)
    assert {row.price_id for row in rows(metered)} == {None, "p"}


@pytest.mark.parametrize(
    "target",
    [
        "/v1/chat/completions",
        "//v1//chat/completions/",
        "/v1/chat%2fcompletions?x=1",
        "/a/../v1/./chat/completions",
        "http://h/v1/chat/completions#f",
    ],
)
def test_paths_are_read_as_servers_read_them(target: str) -> None:
    assert normalise(target.encode()) == "/v1/chat/completions"


def test_only_posts_to_the_dialects_paths_are_measured(tmp_path: Path) -> None:
    metered = service(tmp_path)
    for method, target in (
        (b"GET", b"/v1/chat/completions"),
        (b"POST", b"/v1/images/generations"),
        (b"POST", b"/v1/chat/completions/x"),
    ):
        assert metered.open(Request(method, target, [], 0.0)) is None
    assert value(metered, "llmwarden_unmeasured_requests_total", reason="path") == 2
    assert value(metered, "llmwarden_unmeasured_requests_total", reason="method") == 1


def test_a_provider_is_called_as_the_ledger_calls_it(tmp_path: Path) -> None:
    for number, (backend, known) in enumerate(BACKENDS.items()):
        directory = tmp_path / str(number)
        directory.mkdir()
        assert service(directory, backend).route.fallback_provider == known.provider


def ask_at(metered: MeteredService, target: bytes, body: bytes, *headers: Header) -> MeteredCall:
    call = metered.open(Request(b"POST", target, list(headers), 0.0, length=len(body)))
    assert isinstance(call, MeteredCall)
    assert isinstance(call.admit(body), Forward)
    return call


def answer(call: MeteredCall, body: bytes, *headers: Header, status: int = 200) -> None:
    call.answered(status, [*JSON, *headers])
    call.feed(body)
    call.end()


def test_what_is_understood_of_a_repeated_head_holds_as_long_as_the_configuration(tmp_path: Path) -> None:
    metered, kept = service(tmp_path), Kept()

    def opened() -> MeteredCall | None:
        return metered.open(Request(b"POST", b"/v1/chat/completions", [], 0.0, length=len(ASK), kept=kept))

    def configure(state: Literal["Active", "Released"], team: str) -> None:
        config = wire.ServiceConfig(state, "openai", labels=wire.Labels(team=team))
        metered.shared.ledger.config = wire.Config(1, team, 5.0, {"bot": config}, {})

    first, second = opened(), opened()
    assert first is not None
    assert second is not None
    assert first.trace.trace_id != second.trace.trace_id
    configure("Active", "web")
    third = opened()
    assert third is not None
    assert (third.opened.labels.team, third.opened.config) == (
        "web",
        metered.shared.ledger.config and metered.shared.ledger.config.services["bot"],
    )
    configure("Released", "none")
    assert opened() is None


def test_a_call_counts_in_the_totals_of_its_own_bucket_and_labels(tmp_path: Path) -> None:
    metered = service(tmp_path)
    now = 9000.0
    metered.shared.ledger.clock = LedgerClock(lambda: now)
    team = (b"x-llmwarden-team", b"X-LLMWarden-Team", b"web")
    whole = b'{"id":"c","model":"m","choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1}}'
    for moment, headers in ((9000.0, []), (9000.0, [team]), (9000.0, []), (9900.0, []), (9000.0, [team])):
        now = moment
        answer(ask_at(metered, b"/v1/chat/completions", b'{"model":"m","messages":[]}', *headers), whole)
    assert {(row.bucket, row.labels.team): row.requests for row in rows(metered)} == {
        (9000, ""): 2,
        (9000, "web"): 2,
        (9900, ""): 1,
    }


def test_a_background_answer_is_charged_once_when_it_is_fetched(tmp_path: Path) -> None:
    metered = service(tmp_path)
    queued, done = shape("openai/responses_queued.json"), shape("openai/responses_background_done.json")
    target = b"/v1/responses/resp_67ccd2bed1ec8190b14f964abc0542670bb6a6b452d3795b"
    assert metered.open(Request(b"GET", target, [], 0.0)) is None  # nobody began it here
    answer(ask_at(metered, b"/v1/responses", b'{"model":"gpt-4.1","input":"hi","background":true}'), queued)
    assert rows(metered)[0].tokens == wire.Tokens()
    assert rows(metered)[0].estimated == 0
    for body in (queued, done, done):
        call = metered.open(Request(b"GET", target, [], 0.0))
        if call is not None:
            assert call.admit(b"") == Forward()
            answer(call, body)
    [row] = rows(metered)
    assert (row.model, row.tokens) == ("gpt-4.1", wire.Tokens(input=36, cached_input=12, output=87, reasoning=40))
    assert value(metered, "llmwarden_requests_in_flight") == 0


def test_a_deployment_is_charged_as_what_answers_under_it(tmp_path: Path) -> None:
    metered = service(tmp_path, "AzureOpenAI")
    metered.shared.ledger.prices.put(
        "bot", "gpt-4o-mini-2024-07-18", "", wire.Price(1, "p", wire.Picodollars(10, 100, 1, 1))
    )
    target = b"/openai/deployments/mine/chat/completions?api-version=2025-01-01-preview"
    for _ in range(2):
        call = ask_at(metered, target, b'{"messages":[]}')
        call.answered(200, SSE)
        call.feed(shape("openai/azure.sse"))
        call.end()
    [row] = rows(metered)
    assert (row.model, row.price_id, row.requests) == ("gpt-4o-mini-2024-07-18", "p", 2)
    assert value(metered, "llmwarden_requests_total", gen_ai_request_model="mine") == 2
    # A price of its own wins.
    metered.shared.ledger.prices.put("bot", "mine", "", wire.Price(1, "own", wire.Picodollars(1, 1, 1, 1)))
    call = ask_at(metered, target, b'{"messages":[]}')
    answer(call, b'{"model":"gpt-4o-mini-2024-07-18","choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1}}')
    assert {(item.model, item.price_id) for item in rows(metered)} >= {("mine", "own")}


def test_labels_by_header_go_into_the_row_and_no_further(tmp_path: Path) -> None:
    metered = service(tmp_path)
    call = ask_at(metered, b"/v1/chat/completions", ASK, (b"x-llmwarden-team", b"X-LLMWarden-Team", b"search"))
    assert b"x-llmwarden-team" in call.head(Request(b"POST", b"/", [], 0.0))[0]
    assert b"x-llmwarden-team" in metered.credentials()[0]
    stream(call, [sse(*UPSTREAM_SENDS, "[DONE]")])
    assert rows(metered)[0].labels == wire.Labels(team="search")


def test_retries_rate_limits_queues_and_windows_show(tmp_path: Path) -> None:
    metered = service(tmp_path)
    metered.shared.ledger.prices.put("bot", "m", "", wire.Price(1, "p", wire.Picodollars(1, 1, 1, 1), window=90))
    answer(ask_at(metered, b"/v1/chat/completions", ASK), b"{}", status=500)
    call = ask_at(metered, b"/v1/chat/completions", ASK)
    limits: list[Header] = [
        (b"x-ratelimit-remaining-requests", b"X", b"59"),
        (b"x-ratelimit-reset-tokens", b"X", b"1m"),
        (b"x-ratelimit-remaining-tokens", b"X", b"many"),
    ]
    before = time.time()
    stream(call, [sse(*UPSTREAM_SENDS, "[DONE]")], [*SSE, *limits])
    assert value(metered, "llmwarden_retried_requests_total", by="body") == 1
    assert value(metered, "llmwarden_upstream_rate_limit_remaining", limit="requests", gen_ai_request_model="m") == 59
    assert value(metered, "llmwarden_upstream_rate_limit_remaining", limit="tokens") == 0
    reset = value(metered, "llmwarden_upstream_rate_limit_reset_timestamp_seconds", limit="tokens")
    assert before + 60 <= reset <= time.time() + 60
    assert value(metered, "llmwarden_context_used_ratio_sum") == pytest.approx(0.1)
    assert value(metered, "gen_ai_client_operation_time_per_output_chunk_seconds_count") == 1
    assert value(metered, "llmwarden_output_tokens_per_second_count") == 1
    call = ask_at(metered, b"/v1/chat/completions", ASK)
    answer(call, b'{"usage":{"prompt_tokens":1,"completion_tokens":1}}', (b"x-queue-time", b"X", b"250"))
    assert value(metered, "llmwarden_upstream_queue_seconds_sum") == 0.25


def test_an_answer_that_breaks_before_its_count_is_estimated_from_what_came(tmp_path: Path) -> None:
    metered = service(tmp_path, "Anthropic")
    call = ask_at(metered, b"/v1/messages", b'{"model":"claude","max_tokens":9,"stream":true,"messages":[]}')
    call.answered(200, SSE)
    call.feed(shape("anthropic/overloaded.sse"))
    call.end()
    [row] = rows(metered)
    assert (row.tokens, row.estimated, row.errors) == (wire.Tokens(input=9, output=2), 1, 1)
    assert value(metered, "llmwarden_requests_total", error_type="overloaded_error") == 1


def test_a_whole_answer_without_usage_is_estimated(tmp_path: Path) -> None:
    metered = service(tmp_path)
    text = "The quick brown fox jumps over the lazy dog. " * 20
    body = json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]}).encode()
    answer(ask_at(metered, b"/v1/chat/completions", ASK), body)
    [row] = rows(metered)
    assert row.estimated == 1
    assert 150 <= row.tokens.output <= 260  # 201 by o200k_base


def test_a_fallback_of_a_deployment_goes_into_the_path(tmp_path: Path) -> None:
    metered = service(tmp_path, "AzureOpenAI")
    ends = dt.datetime(2100, 1, 1, tzinfo=dt.UTC)
    budget = wire.BudgetConfig("USD", 1, 2, "Exceeded", "Fallback", ends, ends, fallback_model="cheap one")
    services = {"bot": wire.ServiceConfig("Active", "azure.ai.openai", 100.0, ("B",))}
    metered.shared.ledger.config = wire.Config(1, "g", 5.0, services, {"B": budget})
    metered.shared.gate.configure(metered.shared.ledger.config)
    target = b"/openai/deployments/dear/chat/completions?api-version=2024-06-01"
    call = metered.open(Request(b"POST", target, [], 0.0))
    assert call is not None
    decision = call.admit(b'{"model":"dear","messages":[]}')
    assert isinstance(decision, Forward)
    assert decision.target == target.replace(b"dear", b"cheap%20one")
    assert decision.body == b'{"model":"cheap one","messages":[]}'
    assert decision.answer_headers == ((b"x-llmwarden-fallback", b"cheap one"),)


def test_large_answers_at_once_are_kept_up_to_an_allowance(tmp_path: Path) -> None:
    metered = service(tmp_path)
    metered.shared.limits = Limits(held_bytes=1000)
    whole = json.dumps({"model": "m", "choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 4}}).encode()
    first, second, third = (begin(metered, ASK)[0] for _ in range(3))
    for call in (first, second, third):
        call.answered(200, JSON)
    assert first.feed(b" " * 600) == b" " * 600
    assert second.feed(b" " * 600) == b" " * 600  # passes on, unread
    first.feed(whole)
    first.end()
    assert metered.route.kept_bytes == 0
    third.feed(b" " * 600 + whole)
    third.end()
    second.feed(whole)
    second.end()
    assert metered.route.kept_bytes == 0
    [row] = rows(metered)
    assert (row.requests, row.estimated, row.tokens.output) == (3, 1, 8)


def test_a_request_that_cannot_be_read_has_an_input_all_the_same(tmp_path: Path) -> None:
    metered = service(tmp_path)
    call = metered.open(Request(b"POST", b"/v1/chat/completions", [], 0.0, length=4000, encoded=True))
    assert call is not None
    call.admit(None)
    stream(call, [sse(piece({"content": "a"}), piece({}, "stop"), "[DONE]")])
    [row] = rows(metered)
    assert (row.estimated, row.tokens.input) == (1, 1000)
