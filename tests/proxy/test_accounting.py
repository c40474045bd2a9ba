"""What the proxy measures, refuses, keeps and reports; with the real `openai` client where a client's view counts."""

import asyncio
import datetime as dt
import json
import re
import signal
from pathlib import Path
from typing import Any

import msgspec
import openai
import pytest

from llmwarden.contracts import ledger as wire
from tests.proxy.fakes import (
    BUDGET,
    CHAT,
    PICO,
    RESETS,
    STREAM,
    STREAM_HEAD,
    Proxy,
    Received,
    Server,
    accounted,
    chunk,
    chunk_of,
    event,
    post,
    provider,
    running,
    stream_events,
    talk,
    whole,
)

TIMER_SECONDS = 0.002  # how much too early an event loop's timer may fire: its clock has whole milliseconds
TOKENS = "gen_ai_client_token_usage_tokens_total"
REQUESTS = "llmwarden_requests_total"


def client(proxy: Proxy) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{proxy.url}/v1", api_key="sk-app-dummy")


async def ask(proxy: Proxy, model: str = "m-1", **more: Any) -> Any:
    async with client(proxy) as api:
        return await api.chat.completions.create(model=model, messages=[{"role": "user", "content": "hi"}], **more)


async def test_a_plain_answer_is_measured_priced_and_reported(tmp_path: Path) -> None:
    async with accounted(tmp_path) as ledger:
        ledger.price("m-1", 1_000_000)
        async with running(tmp_path, ledger=ledger) as (server, proxy):
            answer = await ask(proxy)
            assert answer.choices[0].message.content == "Hello!"
            row = await ledger.total(1)
            assert (row.service, row.provider, row.model, row.requests, row.errors) == ("bot", "openai", "m-1", 1, 0)
            assert row.tokens == wire.Tokens(input=9, cached_input=4, output=3, reasoning=1)
            assert server.requests[0].headers["accept-encoding"] == "identity"
            for kind, count in (("input", 9), ("cached_input", 4), ("output", 3), ("reasoning", 1), ("cache_write", 0)):
                assert await proxy.metric(TOKENS, gen_ai_token_type=kind, llmservice="bot") == count
            await ask(proxy)  # the price is there by now
            await ledger.total(2)
            assert {item.price_id for item in ledger.rows.values()} <= {None, "test:m-1"}
            assert "test:m-1" in {item.price_id for item in ledger.rows.values()}
            assert await proxy.metric("llmwarden_cost_usd_total") >= 12e-6
            assert await proxy.metric("llmwarden_proxy_ledger_last_report_timestamp_seconds") > 1.7e9


async def test_a_stream_is_measured_and_the_injected_usage_leaves_no_trace(tmp_path: Path) -> None:
    async with running(tmp_path) as (server, proxy):
        answer = await talk(proxy.port, post(STREAM))
        assert server.requests[0].json()["stream_options"] == {"include_usage": True}
        body = b"".join(answer.partition(b"\r\n\r\n")[2].split(b"\r\n")[1::2])
        assert body == b"".join(stream_events("m-1", ["Hel", "lo", "!"], with_usage=False))
        async with client(proxy) as api:
            stream = await api.chat.completions.create(model="m-1", messages=[], stream=True)
            words = [item.choices[0].delta.content async for item in stream]
        assert words == ["", "Hel", "lo", "!", None]
        assert await proxy.metric(TOKENS, gen_ai_token_type="input") == 18
        assert await proxy.metric(TOKENS, gen_ai_token_type="output") == 6
        assert await proxy.metric("gen_ai_server_time_to_first_token_seconds_count") == 2
        assert await proxy.metric("llmwarden_estimated_requests_total") == 0


async def test_usage_that_the_client_asked_for_passes_byte_for_byte(tmp_path: Path) -> None:
    async with running(tmp_path) as (server, proxy):
        request = b'{"model":"m-1","stream":true,"stream_options":{"include_usage":true},"messages":[]}'
        answer = await talk(proxy.port, post(request))
        assert server.requests[0].body == request
        body = b"".join(answer.partition(b"\r\n\r\n")[2].split(b"\r\n")[1::2])
        assert body == b"".join(stream_events("m-1", ["Hel", "lo", "!"], with_usage=True))
        assert await proxy.metric(TOKENS, gen_ai_token_type="output") == 3


async def test_the_first_token_is_content_not_the_role(tmp_path: Path) -> None:
    passed_on = asyncio.Event()

    async def slow(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD)
        role, *words, stop, done = stream_events("m-1", ["a", "b", "c"], with_usage=False)
        writer.write(chunk(role))
        await asyncio.sleep(0.4)
        for word in words:
            writer.write(chunk(word))
            await passed_on.wait()  # the proxy has noted the first word's time: it can be no later, whatever else runs
            await asyncio.sleep(0.1)
        writer.write(chunk(stop) + chunk(done) + b"0\r\n\r\n")

    async with running(tmp_path, slow) as (_, proxy):
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.write(post(STREAM))
        await reader.readuntil(b'"a"')
        passed_on.set()
        await reader.read()
        writer.close()
        first = await proxy.metric("gen_ai_server_time_to_first_token_seconds_sum")
        assert first >= 0.4 - TIMER_SECONDS
        assert (
            await proxy.metric("gen_ai_server_time_to_first_token_seconds_bucket", le="0.3") == 0
        )  # the objective's bound
        per_token = await proxy.metric("gen_ai_server_time_per_output_token_seconds_sum")
        assert per_token >= 0.1 - TIMER_SECONDS
        # Two gaps of three words after the first word: counted from the request's start, they would be longer than the call.
        assert first + 2 * per_token <= await proxy.metric("gen_ai_client_operation_duration_seconds_sum")


async def test_fault_37_an_error_event_under_200_is_an_error(tmp_path: Path) -> None:
    async def failing(_: Received, writer: asyncio.StreamWriter) -> None:
        error = event({"error": {"message": "boom", "type": "InternalServerError", "code": 500}})
        writer.write(STREAM_HEAD + chunk(error) + chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")

    async with running(tmp_path, failing) as (_, proxy):
        await talk(proxy.port, post(STREAM))
        assert await proxy.metric(REQUESTS, http_status_code="200", error_type="InternalServerError") == 1
        assert await proxy.metric("llmwarden_estimated_requests_total") == 0


async def test_fault_22_a_providers_429_passes_and_is_no_retry_of_ours(tmp_path: Path) -> None:
    body = b'{"error":{"message":"slow down","type":"requests","code":"rate_limit_exceeded"}}'

    async def limited(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(whole(429, body, "Retry-After: 7"))

    async with running(tmp_path, limited) as (server, proxy):
        answer = await talk(proxy.port, post(CHAT))
        assert b"Retry-After: 7" in answer
        assert answer.endswith(body)
        assert len(server.requests) == 1
        assert await proxy.metric(REQUESTS, http_status_code="429", error_type="429") == 1


async def test_a_budget_that_is_used_up_refuses_once_by_its_name(tmp_path: Path) -> None:
    async with accounted(tmp_path) as ledger:
        ledger.price("m-1", PICO)  # a dollar a token
        ledger.block(25 * PICO, on_unknown_price="Deny")  # so that the first call waits for its price
        async with running(tmp_path, ledger=ledger) as (server, proxy):
            await ledger.until_followed()
            for _ in range(3):  # 12 dollars each: the third begins below the limit
                await ask(proxy)
            with pytest.raises(openai.RateLimitError) as caught:
                await ask(proxy)
            assert caught.value.code == "insufficient_quota"
            assert "budget 'daily' of shop/bot is used up: $36.00 of $25.00" in str(caught.value)
            assert caught.value.response.headers["x-llmwarden-budget"] == BUDGET
            assert "retry-after" not in caught.value.response.headers
            assert len(server.requests) == 3
            assert await proxy.metric("llmwarden_refused_requests_total", budget=BUDGET) == 1
            assert await proxy.metric(REQUESTS, http_status_code="429", error_type="insufficient_quota") == 1
            assert await proxy.metric("llmwarden_requests_in_flight") == 0
            assert (await ledger.total(3)).requests == 3  # a refusal is not a use


async def test_a_spelling_of_the_path_is_no_way_around_a_budget(tmp_path: Path) -> None:
    async with accounted(tmp_path) as ledger:
        ledger.block(0)
        async with running(tmp_path, ledger=ledger) as (server, proxy):
            await ledger.until_followed()
            for path in (
                "//v1//chat/completions",
                "/v1/chat/completions/",
                "/v1/chat%2Fcompletions",
                "/v1/x/../chat/completions?a",
            ):
                answer = await talk(proxy.port, post(CHAT, path=path))
                assert answer.startswith(b"HTTP/1.1 429 "), path
            absolute = post(CHAT, path="http://elsewhere/v1/chat/completions")
            assert (await talk(proxy.port, absolute)).startswith(b"HTTP/1.1 429 ")
            encoded = post(CHAT, "Content-Encoding: gzip")
            assert (await talk(proxy.port, encoded)).startswith(b"HTTP/1.1 429 ")
            assert not server.requests


async def test_an_unknown_price_under_block_is_refused_with_the_remedy(tmp_path: Path) -> None:
    async with accounted(tmp_path) as ledger:
        ledger.price("m-1", 1)
        ledger.block(25 * PICO, on_unknown_price="Deny")
        async with running(tmp_path, ledger=ledger) as (server, proxy):
            await ledger.until_followed()
            await ask(proxy)  # resolved at first sight
            with pytest.raises(openai.RateLimitError) as caught:
                await ask(proxy, model="weird")
            assert caught.value.code == "unknown_price"
            assert "ModelPrice" in str(caught.value)
            assert len(server.requests) == 1


async def test_throttle_asks_to_come_back(tmp_path: Path) -> None:
    async with accounted(tmp_path) as ledger:
        ledger.budget(wire.BudgetConfig("tokens", 10, 11, "Exceeded", "Throttle", RESETS, RESETS))
        async with running(tmp_path, ledger=ledger) as (_, proxy):
            await ledger.until_followed()
            answer = await talk(proxy.port, post(CHAT))
            assert b'"code":"rate_limit_exceeded"' in answer
            assert b"Retry-After: 60\r\n" in answer
            assert b"x-should-retry" not in answer


async def test_fallback_changes_the_model_until_the_ceiling(tmp_path: Path) -> None:
    async with accounted(tmp_path) as ledger:
        ledger.price("m-1", PICO)
        ledger.price("small", PICO)
        window = wire.BudgetConfig("USD", 10 * PICO, 0, "Open", "Fallback", RESETS, RESETS, on_unknown_price="Deny")
        ledger.budget(msgspec.structs.replace(window, fallback_model="small", ceiling=20 * PICO))
        async with running(tmp_path, ledger=ledger) as (server, proxy):
            await ledger.until_followed()
            answers = [await talk(proxy.port, post(CHAT)) for _ in range(3)]
            assert [answer.split(b" ", 2)[1] for answer in answers] == [b"200", b"200", b"429"]
            assert [b"x-llmwarden-fallback: small" in answer for answer in answers] == [False, True, False]
            assert [item.json()["model"] for item in server.requests] == ["m-1", "small"]
            assert server.requests[1].json()["messages"] == [{"role": "user", "content": "hi"}]


async def test_a_released_service_passes_ungated_and_unreported(tmp_path: Path) -> None:
    async with accounted(tmp_path) as ledger:
        ledger.block(0)
        async with running(tmp_path, ledger=ledger) as (_, proxy):
            await ledger.until_followed()
            assert (await talk(proxy.port, post(CHAT))).startswith(b"HTTP/1.1 429 ")
            del ledger.services["bot"]
            ledger.budgets.clear()
            ledger.change()
            async with asyncio.timeout(10):
                while not (await talk(proxy.port, post(CHAT))).startswith(b"HTTP/1.1 200 "):
                    await asyncio.sleep(0.02)
            assert await proxy.metric("llmwarden_unmeasured_requests_total", reason="released") == 1
            assert not ledger.rows


async def test_fault_06_sigkill_in_the_middle_of_a_stream_charges_it_once(tmp_path: Path) -> None:
    async def endless(request: Received, writer: asyncio.StreamWriter) -> None:
        if not request.json().get("stream"):
            await provider(request, writer)
            return
        writer.write(STREAM_HEAD)
        while True:
            writer.write(chunk(event(chunk_of("m-1", {"content": "x"}))))
            await writer.drain()
            await asyncio.sleep(0.01)

    async with accounted(tmp_path) as ledger:
        ledger.interval = 30.0  # nothing is reported before the kill
        async with running(tmp_path, endless, ledger=ledger) as (_, proxy):
            await ledger.until_followed()
            await ask(proxy)
            reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
            writer.write(post(STREAM))
            await reader.readuntil(b'"x"')
            await asyncio.sleep(1.3)  # long enough for one note of progress
            proxy.send(signal.SIGKILL)
            await proxy.wait()
            writer.close()
            ledger.interval = 0.1
            ledger.change()
            await proxy.start()
            row = await ledger.total(2)
            journals = {report.journal for report in ledger.reports}
            await ask(proxy)
            row = await ledger.total(3)
            assert journals == {report.journal for report in ledger.reports}
            assert (row.requests, row.errors, row.estimated) == (3, 1, 1)
            assert row.tokens.output > 6 + 20  # two whole answers, and what had come in a second
            assert await proxy.metric("llmwarden_proxy_journal_orphaned_calls_total") == 1
            assert await proxy.metric("llmwarden_proxy_journal_skipped_lines_total") == 0


async def test_fault_07_sigterm_lets_streams_end_and_reports_them(tmp_path: Path) -> None:
    begun = asyncio.Event()

    async def slow(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD)
        for item in stream_events("m-1", ["a", "b"], with_usage=True):
            writer.write(chunk(item))
            await writer.drain()
            begun.set()
            await asyncio.sleep(0.15)
        writer.write(b"0\r\n\r\n")

    async with accounted(tmp_path) as ledger:
        ledger.interval = 30.0
        async with running(tmp_path, slow, ledger=ledger) as (_, proxy):
            await ledger.until_followed()
            call = asyncio.create_task(talk(proxy.port, post(STREAM, close=False)))
            await begun.wait()
            proxy.send(signal.SIGTERM)
            answer = await call
            assert answer.endswith(chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")
            assert await proxy.wait() == 0
            assert ledger.reports[-1].final
            assert ledger.sum().tokens.output == 3
            with pytest.raises(OSError, match="Connect call failed"):
                await talk(proxy.port, post(CHAT))


async def test_fault_04_without_a_ledger_calls_are_served_and_caught_up_later(tmp_path: Path) -> None:
    async with accounted(tmp_path) as ledger:
        ledger.refuse = True
        async with running(tmp_path, ledger=ledger) as (_, proxy):
            for _ in range(3):
                assert (await ask(proxy)).usage.total_tokens == 12
            await proxy.until("llmwarden_proxy_ledger_errors_total", 1, reason="401")
            ledger.refuse = False
            assert (await ledger.total(3)).tokens.input == 27


async def test_fault_05_a_lost_ledger_refuses_where_the_budget_says_so(tmp_path: Path) -> None:
    async with accounted(tmp_path) as ledger:
        ledger.budget(wire.BudgetConfig("USD", 25 * PICO, 0, "Open", "Block", RESETS, RESETS, on_ledger_loss="Deny"))
        async with running(tmp_path, ledger=ledger) as (_, proxy):
            await ledger.until_followed()
            await ask(proxy)
            ledger.refuse = True
            ledger.change()
            async with asyncio.timeout(10):
                while b"ledger_unavailable" not in (answer := await talk(proxy.port, post(CHAT))):
                    await asyncio.sleep(0.05)
            assert answer.startswith(b"HTTP/1.1 429 ")
            ledger.refuse = False
            async with asyncio.timeout(20):
                while not (await talk(proxy.port, post(CHAT))).startswith(b"HTTP/1.1 200 "):
                    await asyncio.sleep(0.1)


async def test_fault_05_a_restart_without_a_ledger_keeps_the_budget(tmp_path: Path) -> None:
    async with accounted(tmp_path) as ledger:
        ledger.block(0)
        async with running(tmp_path, ledger=ledger) as (server, proxy):
            await ledger.until_followed()
            assert (await talk(proxy.port, post(CHAT))).startswith(b"HTTP/1.1 429 ")
            ledger.refuse = True
            proxy.send(signal.SIGKILL)
            await proxy.wait()
            await proxy.start()
            assert (await talk(proxy.port, post(CHAT))).startswith(b"HTTP/1.1 429 ")
            assert not server.requests


async def test_our_key_replaces_the_applications_and_is_told_to_nobody_else(tmp_path: Path) -> None:
    spans: list[bytes] = []

    async def collect(request: Received, writer: asyncio.StreamWriter) -> None:
        spans.append(request.body)
        writer.write(whole(200, b"{}"))

    collector = Server(collect)
    await collector.start()
    key = tmp_path / "key"
    try:
        async with running(tmp_path, route={"credentialFile": str(key)}, otlp=f"http://127.0.0.1:{collector.port}") as (
            server,
            proxy,
        ):
            await ask(proxy)  # no file yet: the application's own key
            key.write_text("sk-real-1\n")
            await asyncio.sleep(1.1)  # looked at once a second
            await ask(proxy)
            key.write_text("sk-real-22\n")
            await asyncio.sleep(1.1)
            await talk(
                proxy.port, b"GET /v1/models HTTP/1.1\r\nHost: a\r\nauthorization: x\r\nConnection: close\r\n\r\n"
            )
            assert [item.headers["authorization"] for item in server.requests] == [
                "Bearer sk-app-dummy",
                "Bearer sk-real-1",
                "Bearer sk-real-22",
            ]
            assert await proxy.metric("llmwarden_proxy_credential_errors_total") == 1
            async with asyncio.timeout(10):
                while b"".join(spans).count(b'"spanId"') < 2:
                    await asyncio.sleep(0.05)
            text = await proxy.admin_get("/metrics") + "".join(proxy.log) + b"".join(spans).decode()
            proxy.send(signal.SIGTERM)
            await proxy.wait()
            assert "sk-" not in text + "".join(proxy.log)
            assert b"sk-" not in (proxy.journal / "journal").read_bytes()
    finally:
        await collector.stop()


async def test_the_trace_is_continued_and_a_span_tells_of_the_call(tmp_path: Path) -> None:
    spans: list[bytes] = []

    async def collect(request: Received, writer: asyncio.StreamWriter) -> None:
        assert request.target == "/v1/traces"
        spans.append(request.body)
        writer.write(whole(200, b"{}"))

    collector = Server(collect)
    await collector.start()
    try:
        async with running(tmp_path, otlp=f"http://127.0.0.1:{collector.port}") as (server, proxy):
            parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
            await ask(proxy, extra_headers={"traceparent": parent, "tracestate": "a=b"}, max_tokens=5)
            await talk(proxy.port, post(CHAT, f"traceparent: {parent[:-1]}0"))  # the caller does not sample: nor do we
            seen = server.requests[0].headers
            assert seen["tracestate"] == "a=b"
            version, trace, span, flags = seen["traceparent"].split("-")
            assert (version, trace, flags) == ("00", "0af7651916cd43dd8448eb211c80319c", "01")
            assert span != "b7ad6b7169203331"
            assert server.requests[1].headers["traceparent"].endswith("-00")
            async with asyncio.timeout(10):
                while not spans:
                    await asyncio.sleep(0.05)
            [resource] = json.loads(spans[0])["resourceSpans"]
            [told] = resource["scopeSpans"][0]["spans"]
            assert (told["traceId"], told["spanId"], told["parentSpanId"], told["kind"]) == (
                trace,
                span,
                "b7ad6b7169203331",
                3,
            )
            assert told["name"] == "chat m-1"
            values = {item["key"]: next(iter(item["value"].values())) for item in told["attributes"]}
            assert values["gen_ai.usage.input_tokens"] == "9"
            assert values["gen_ai.request.max_tokens"] == "5"
            assert values["gen_ai.response.finish_reasons"] == {"values": [{"stringValue": "stop"}]}
            assert {"key": "service.name", "value": {"stringValue": "bot"}} in resource["resource"]["attributes"]
            openmetrics = await talk(
                proxy.admin, b"GET /metrics HTTP/1.1\r\nHost: a\r\nAccept: application/openmetrics-text\r\n\r\n"
            )
            assert f'# {{trace_id="{trace}"}}'.encode() in openmetrics
            assert openmetrics.endswith(b"# EOF\n")
    finally:
        await collector.stop()


async def test_fault_27_a_journal_that_cannot_be_written_is_counted_and_calls_go_on(tmp_path: Path) -> None:
    async with accounted(tmp_path) as ledger:
        server = Server(provider)
        await server.start()
        proxy = Proxy(tmp_path, f"http://127.0.0.1:{server.port}", ledger=ledger)
        proxy.journal.rmdir()
        proxy.journal.write_text("a file where the directory should be")
        await proxy.start()
        try:
            await ask(proxy)
            assert (await ledger.total(1)).tokens.input == 9
            await proxy.until("llmwarden_proxy_journal_errors_total", 1)
        finally:
            await proxy.stop()
            await server.stop()


async def test_fault_28_a_configuration_that_changes_reaches_the_next_call_not_the_running_one(tmp_path: Path) -> None:
    go = asyncio.Event()

    async def slow(request: Received, writer: asyncio.StreamWriter) -> None:
        await go.wait()
        await provider(request, writer)

    async with accounted(tmp_path) as ledger, running(tmp_path, slow, ledger=ledger) as (server, proxy):
        await ledger.until_followed()
        call = asyncio.create_task(ask(proxy))
        async with asyncio.timeout(10):
            while not server.requests:
                await asyncio.sleep(0.02)
        ledger.budget(wire.BudgetConfig("tokens", 1, 1, "Exceeded", "Block", RESETS, RESETS))
        await ledger.until_followed()
        with pytest.raises(openai.RateLimitError):
            await ask(proxy)
        go.set()
        assert (await call).usage.total_tokens == 12


async def test_the_end_of_a_window_opens_the_budget_at_once(tmp_path: Path) -> None:
    async with accounted(tmp_path) as ledger:
        ledger.interval = 30.0
        soon = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=3)
        ledger.budget(wire.BudgetConfig("tokens", 10, 10, "Exceeded", "Block", soon, soon))
        async with running(tmp_path, ledger=ledger) as (_, proxy):
            await ledger.until_followed()
            assert (await talk(proxy.port, post(CHAT))).startswith(b"HTTP/1.1 429 ")
            ledger.budgets[BUDGET] = wire.BudgetConfig("tokens", 10, 0, "Open", "Block", RESETS, RESETS)
            async with asyncio.timeout(8):  # the proxy asks when the window ends, not 30 s later
                while not (await talk(proxy.port, post(CHAT))).startswith(b"HTTP/1.1 200 "):
                    await asyncio.sleep(0.1)


async def test_probes_tell_the_state(tmp_path: Path) -> None:
    async with running(tmp_path) as (_, proxy):
        for path in ("/startupz", "/readyz", "/livez"):
            assert (await proxy.admin_get(path)).startswith("HTTP/1.1 200 ")
        assert (await proxy.admin_get("/nothing")).startswith("HTTP/1.1 404 ")


async def test_a_priced_model_and_a_fallback_have_their_labels_after_names_that_clients_made_up(tmp_path: Path) -> None:
    async with accounted(tmp_path) as ledger:
        ledger.price("m-1", 1)
        ledger.budget(wire.BudgetConfig("USD", PICO, 0, "Open", "Fallback", RESETS, RESETS, fallback_model="small"))
        async with running(tmp_path, ledger=ledger, limits={"models": 2}) as (_, proxy):
            await ledger.until_followed()

            async def labels() -> set[str]:
                return set(
                    re.findall(REQUESTS + r'{.*gen_ai_request_model="([^"]*)"', await proxy.admin_get("/metrics"))
                )

            for name in ("made-up-1", "made-up-2", "made-up-3", "small"):
                await ask(proxy, model=name)
            assert await labels() == {"made-up-1", "made-up-2", "other", "small"}
            async with asyncio.timeout(10):
                while "m-1" not in await labels():  # its price is asked for with its first call
                    await ask(proxy)
