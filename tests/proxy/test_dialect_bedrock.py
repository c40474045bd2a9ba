"""Bedrock through the real proxy, by AWS' own SDK and Anthropic's, against a simulated Bedrock that checks every signature."""

import asyncio
import contextlib
import datetime as dt
import json
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import anthropic
import boto3
import openai
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.exceptions import ClientError, EventStreamError, InvalidEndpointConfigurationError

from llmwarden.contracts import ledger as wire
from llmwarden.serving import pki
from tests.proxy.bedrock import SECRET, Bedrock, Identity, error, recorded, streamed
from tests.proxy.fakes import BUDGET, PICO, Ledger, Proxy, Received, Server, accounted, post, running, talk

TOKENS = "gen_ai_client_token_usage_tokens_total"
REQUESTS = "llmwarden_requests_total"
CLAUDE = "us.anthropic.claude-3-5-haiku-20241022-v1:0"
NOVA = "amazon.nova-micro-v1:0"
KEY = "AKIAIOSFODNN7EXAMPLE"
MESSAGES = [{"role": "user", "content": [{"text": "hi"}]}]
TOOLS = {"tools": [{"toolSpec": {"name": "weather", "inputSchema": {"json": {"type": "object"}}}}]}
# Nothing of the machine that runs the tests may be found.
NOWHERE = {
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": "/nonexistent",
    "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
}
STATIC = {**NOWHERE, "AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET}


@contextlib.asynccontextmanager
async def bedrock(
    tmp_path: Path, environ: dict[str, str] | None = None, **overrides: Any
) -> AsyncIterator[tuple[Bedrock, Server, Proxy]]:
    cloud = Bedrock()
    environment = {"LLMWARDEN_LOG_LEVEL": "DEBUG", **(STATIC if environ is None else environ)}
    async with running(tmp_path, cloud, route={"backend": "Bedrock"}, environ=environment, **overrides) as (
        server,
        proxy,
    ):
        yield cloud, server, proxy


SESSION = boto3.Session()  # what it has loaded of the service's model serves all clients


def client(proxy: Proxy, **more: Any) -> Any:
    """boto3 as an application has it: pointed to the proxy by its endpoint."""
    return SESSION.client(
        "bedrock-runtime",
        endpoint_url=proxy.url,
        region_name="eu-central-1",
        aws_access_key_id=KEY,
        aws_secret_access_key=SECRET,
        config=Config(read_timeout=60, **more),
    )


async def ask(proxy: Proxy, call: Callable[[Any], Any], **more: Any) -> Any:
    api = client(proxy, **more)  # here: a session is not for several threads
    return await asyncio.to_thread(call, api)


def texts(events: list[dict[str, Any]]) -> str:
    return "".join(item["contentBlockDelta"]["delta"].get("text", "") for item in events if "contentBlockDelta" in item)


async def counted(proxy: Proxy) -> dict[str, float]:
    kinds = ("input", "cached_input", "cache_write", "output")
    return {kind: value for kind in kinds if (value := await proxy.metric(TOKENS, gen_ai_token_type=kind))}


async def test_converse(tmp_path: Path) -> None:
    async with bedrock(tmp_path) as (cloud, server, proxy):
        answer = await ask(proxy, lambda api: api.converse(modelId=CLAUDE, messages=MESSAGES))
        assert answer["output"]["message"]["content"][0]["text"] == "Hello!"
        assert (answer["usage"]["inputTokens"], answer["metrics"]["latencyMs"]) == (9, 551)
        assert cloud.refused == 0
        got = server.requests[0]
        assert got.target == "/model/us.anthropic.claude-3-5-haiku-20241022-v1%3A0/converse"
        assert got.headers["host"] == f"127.0.0.1:{server.port}"  # what it was signed for is what it says
        labels = {"gen_ai_provider_name": "aws.bedrock", "gen_ai_request_model": CLAUDE}
        assert await proxy.metric(TOKENS, gen_ai_token_type="input", **labels) == 9
        assert await proxy.metric(TOKENS, gen_ai_token_type="output", **labels) == 3
        assert await proxy.metric(REQUESTS, http_status_code="200", error_type="") == 1
        assert await proxy.metric("llmwarden_unmeasured_requests_total") == 0


async def test_converse_stream(tmp_path: Path) -> None:
    async with bedrock(tmp_path) as (cloud, _, proxy):
        events = await ask(proxy, lambda api: list(api.converse_stream(modelId=NOVA, messages=MESSAGES)["stream"]))
        assert texts(events) == 'Hello \\"image\\"!'
        assert events[-1]["metadata"]["usage"] == {"inputTokens": 9, "outputTokens": 3, "totalTokens": 12}
        assert cloud.refused == 0
        assert await counted(proxy) == {"input": 9, "output": 3}
        assert await proxy.metric("gen_ai_server_time_to_first_token_seconds_count") == 1
        assert await proxy.metric("llmwarden_estimated_requests_total") == 0
        assert await proxy.metric("llmwarden_proxy_malformed_events_total") == 0


async def test_tools_and_caches_in_both(tmp_path: Path) -> None:
    async with accounted(tmp_path) as ledger, bedrock(tmp_path, ledger=ledger) as (_, _, proxy):
        arguments: dict[str, Any] = {"modelId": CLAUDE, "messages": MESSAGES, "toolConfig": TOOLS}
        answer = await ask(proxy, lambda api: api.converse(**arguments))
        assert answer["stopReason"] == "tool_use"
        assert answer["output"]["message"]["content"][1]["toolUse"]["input"] == {"location": "Seoul"}
        events = await ask(proxy, lambda api: list(api.converse_stream(**arguments)["stream"]))
        usage = events[-1]["metadata"]["usage"]
        inputs = [
            item["contentBlockDelta"]["delta"].get("toolUse", {}) for item in events if "contentBlockDelta" in item
        ]
        assert "".join(item.get("input", "") for item in inputs) == '{"location":"Seoul"}'
        row = await ledger.total(2)
        # What Bedrock calls input is what was not cached; ours is all of it, and what was cached is a part.
        assert row.tokens.input == 2 * (
            usage["inputTokens"] + usage["cacheReadInputTokens"] + usage["cacheWriteInputTokens"]
        )
        assert row.tokens == wire.Tokens(input=2624, cached_input=2000, cache_write=600, output=80, cache_write_1h=400)


@pytest.mark.parametrize(
    ("model", "usage"),
    [
        (CLAUDE, {"input": 134, "cached_input": 100, "cache_write": 20, "output": 10}),
        (NOVA, {"input": 12, "cached_input": 7, "output": 10}),
        ("amazon.titan-text-lite-v1", {"input": 5, "output": 10}),
        ("meta.llama3-1-70b-instruct-v1:0", {"input": 5, "output": 3}),
        ("mistral.mistral-7b-instruct-v0:2", {"input": 11, "output": 4}),
        ("cohere.command-r-v1:0", {"input": 10, "output": 4}),
    ],
)
async def test_invoke_model(tmp_path: Path, model: str, usage: dict[str, int]) -> None:
    body = json.dumps({"prompt": "hi", "max_tokens": 5})
    async with bedrock(tmp_path) as (cloud, _, proxy):
        answer = await ask(proxy, lambda api: api.invoke_model(modelId=model, body=body)["body"].read())
        whole = await counted(proxy)
        assert json.loads(answer)
        stream = await ask(
            proxy,
            lambda api: list(api.invoke_model_with_response_stream(modelId=model, body=body)["body"]),
        )
        assert all(json.loads(item["chunk"]["bytes"]) for item in stream)
        both = await counted(proxy)
        if model.startswith(("mistral", "cohere")):  # whole answers carry their counts in the head: 5 and 2
            assert whole == {"input": 5, "output": 2}
            assert both == usage
        else:
            assert whole == usage
            assert both == {kind: 2 * value for kind, value in usage.items()}
        assert cloud.refused == 0


async def test_embeddings(tmp_path: Path) -> None:
    async with bedrock(tmp_path) as (cloud, _, proxy):
        cloud.replies["titan-embed-text-v2%3A0/invoke"] = _ok(recorded("invoke_titan_embed.json"))
        await ask(
            proxy, lambda api: api.invoke_model(modelId="amazon.titan-embed-text-v2:0", body=b'{"inputText":"hi"}')
        )
        assert await proxy.metric(TOKENS, gen_ai_operation_name="embeddings", gen_ai_token_type="input") == 7


async def test_anthropics_own_client(tmp_path: Path) -> None:
    async with bedrock(tmp_path) as (cloud, server, proxy):
        async with anthropic.AsyncAnthropicBedrock(
            base_url=proxy.url, aws_region="eu-central-1", aws_access_key=KEY, aws_secret_key=SECRET
        ) as api:
            arguments: dict[str, Any] = {
                "model": CLAUDE, "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]
            }  # fmt: skip
            message = await api.messages.create(**arguments)
            assert message.content[0].text == "Hello!"
            async with api.messages.stream(**arguments) as stream:
                assert await stream.get_final_text() == "Hello"
                final = await stream.get_final_message()
        assert [request.target.rpartition("/")[2] for request in server.requests] == [
            "invoke",
            "invoke-with-response-stream",
        ]
        assert cloud.refused == 0
        assert final.usage.output_tokens == message.usage.output_tokens == 10
        assert await counted(proxy) == {"input": 268, "cached_input": 200, "cache_write": 40, "output": 20}
        assert await proxy.metric(REQUESTS, gen_ai_request_model=CLAUDE, error_type="") == 2


async def test_chat_completions_of_bedrock(tmp_path: Path) -> None:
    async with bedrock(tmp_path, NOWHERE) as (cloud, server, proxy):
        async with openai.AsyncOpenAI(base_url=f"{proxy.url}/openai/v1", api_key=cloud.bearer) as api:
            answer = await api.chat.completions.create(model="openai.gpt-oss-20b-1:0", messages=[])
        assert answer.choices[0].message.content == "Hi"
        assert server.requests[0].headers["authorization"] == f"Bearer {cloud.bearer}"
        assert await counted(proxy) == {"input": 70, "output": 4}


async def test_bedrocks_errors_pass_by_name(tmp_path: Path) -> None:
    async with bedrock(tmp_path) as (cloud, server, proxy):
        cloud.replies["bad/converse"] = error(400, "ValidationException", "The provided model identifier is invalid.")
        cloud.replies["slow/converse"] = error(429, "ThrottlingException", "Too many requests")
        with pytest.raises(ClientError) as caught:
            await ask(proxy, lambda api: api.converse(modelId="bad", messages=MESSAGES))
        assert type(caught.value).__name__ == "ValidationException"
        with pytest.raises(ClientError) as caught:
            await ask(
                proxy, lambda api: api.converse(modelId="slow", messages=MESSAGES), retries={"total_max_attempts": 2}
            )
        assert type(caught.value).__name__ == "ThrottlingException"
        assert len(server.requests) == 3
        assert await proxy.metric(REQUESTS, http_status_code="400", error_type="400") == 1
        assert await proxy.metric(REQUESTS, http_status_code="429", error_type="429") == 2
        assert await counted(proxy) == {}


async def test_an_exception_in_a_stream(tmp_path: Path) -> None:
    async with bedrock(tmp_path) as (cloud, server, proxy):
        server.handler = _signed_only(cloud, recorded("converse_stream_exception.eventstream"))
        with pytest.raises(EventStreamError, match="modelStreamErrorException"):
            await ask(proxy, lambda api: list(api.converse_stream(modelId=NOVA, messages=MESSAGES)["stream"]))
        assert await proxy.metric(REQUESTS, http_status_code="200", error_type="modelStreamErrorException") == 1
        assert await proxy.metric("llmwarden_estimated_requests_total") == 1  # a piece came before


def _signed_only(cloud: Bedrock, data: bytes) -> Callable[[Received, asyncio.StreamWriter], Any]:
    async def answer(request: Received, writer: asyncio.StreamWriter) -> None:
        assert cloud._signed(request)
        await streamed(writer, data)

    return answer


def _ok(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


async def test_a_stream_passes_byte_for_byte(tmp_path: Path) -> None:
    async with bedrock(tmp_path, NOWHERE) as (cloud, _, proxy):
        request = post(
            b'{"messages":[]}', f"Authorization: Bearer {cloud.bearer}", path=f"/model/{NOVA}/converse-stream"
        )
        answer = await talk(proxy.port, request)
        head, _, body = answer.partition(b"\r\n\r\n")
        assert b"application/vnd.amazon.eventstream" in head
        assert _dechunked(body) == recorded("converse_stream.eventstream")


def _dechunked(body: bytes) -> bytes:
    out = b""
    while True:
        size, _, body = body.partition(b"\r\n")
        if not int(size, 16):
            return out
        out, body = out + body[: int(size, 16)], body[int(size, 16) + 2 :]


async def test_a_budget_that_is_used_up_refuses_once_and_by_name(tmp_path: Path) -> None:
    async with accounted(tmp_path) as ledger:
        for model in (NOVA, CLAUDE):
            ledger.price(model, PICO)
        ledger.block(PICO, on_unknown_price="Deny")
        async with bedrock(tmp_path, ledger=ledger) as (_, server, proxy):
            await ledger.until_followed()
            await ask(proxy, lambda api: api.converse(modelId=NOVA, messages=MESSAGES))
            for call in (
                lambda api: api.converse(modelId=NOVA, messages=MESSAGES),
                lambda api: api.converse_stream(modelId=NOVA, messages=MESSAGES),
                lambda api: api.invoke_model(modelId=CLAUDE, body=b'{"max_tokens":1}'),
            ):
                with pytest.raises(ClientError) as caught:
                    await ask(proxy, call)
                assert type(caught.value).__name__ == "ServiceQuotaExceededException"
                assert "LLM Warden" in str(caught.value)
            async with anthropic.AsyncAnthropicBedrock(
                base_url=proxy.url, aws_region="eu-central-1", aws_access_key=KEY, aws_secret_key=SECRET
            ) as api:
                with pytest.raises(anthropic.BadRequestError, match="LLM Warden"):
                    await api.messages.create(model=CLAUDE, max_tokens=9, messages=[{"role": "user", "content": "hi"}])
            assert len(server.requests) == 1
            assert await proxy.metric("llmwarden_refused_requests_total", budget=BUDGET) == 4  # one attempt each


async def test_a_fallback_goes_to_another_models_path(tmp_path: Path) -> None:
    async with accounted(tmp_path) as ledger:
        ledger.price(CLAUDE, PICO)
        ledger.price(NOVA, 1)
        ledger.budget(_fallback(ledger))
        async with bedrock(tmp_path, ledger=ledger) as (cloud, server, proxy):
            await ledger.until_followed()
            answer = await ask(proxy, lambda api: api.converse(modelId=CLAUDE, messages=MESSAGES))
            assert answer["ResponseMetadata"]["HTTPHeaders"]["x-llmwarden-fallback"] == NOVA
            assert server.requests[0].target == "/model/amazon.nova-micro-v1%3A0/converse"
            assert cloud.refused == 0  # it was signed for the path that was sent
            assert (await ledger.total(1)).model == NOVA


def _fallback(ledger: Ledger) -> wire.BudgetConfig:
    ledger.block(1)
    blocked = ledger.budgets[BUDGET]
    return wire.BudgetConfig(
        "USD", 1, 2, "Exceeded", "Fallback", blocked.window_start, blocked.resets_at, fallback_model=NOVA
    )


async def test_what_is_not_measured_is_signed_as_well(tmp_path: Path) -> None:
    async with bedrock(tmp_path) as (cloud, server, proxy):
        body = {"converse": {"messages": MESSAGES}}
        assert (await ask(proxy, lambda api: api.count_tokens(modelId=CLAUDE, input=body)))["inputTokens"] == 14
        await ask(proxy, lambda api: api.list_async_invokes(maxResults=5, statusEquals="Completed"))
        assert [request.method for request in server.requests] == ["POST", "GET"]
        assert server.requests[1].target.startswith("/async-invoke?")
        assert "content-length" not in server.requests[1].headers
        assert cloud.refused == 0
        assert await proxy.metric("llmwarden_unmeasured_requests_total") == 2


async def test_a_web_identity_is_used_and_renewed(tmp_path: Path) -> None:
    cloud = Bedrock()
    identity = Identity(
        cloud, seconds=600
    )  # less than a quarter of an hour: renewed beside the traffic from the first call on
    sts = Server(identity)
    await sts.start()
    token = tmp_path / "web-token"
    token.write_text("service-account-token-1")
    environ = {
        **NOWHERE,
        "AWS_WEB_IDENTITY_TOKEN_FILE": str(token),
        "AWS_ROLE_ARN": "arn:aws:iam::123456789012:role/bot",
        "AWS_REGION": "eu-central-1",
        "AWS_ENDPOINT_URL_STS": f"http://127.0.0.1:{sts.port}",
    }
    try:
        async with bedrock(tmp_path, environ) as (_, server, proxy):
            server.handler = cloud
            await ask(proxy, lambda api: api.converse(modelId=NOVA, messages=MESSAGES))
            assert identity.tokens == ["service-account-token-1"]
            token.write_text("service-account-token-2")  # the kubelet replaces it
            await ask(proxy, lambda api: api.converse(modelId=NOVA, messages=MESSAGES))
            async with asyncio.timeout(20):
                while identity.given < 2:
                    await asyncio.sleep(0.05)
            assert identity.tokens[1] == "service-account-token-2"
            async with asyncio.timeout(20):
                while "ASIAEXAMPLE00001" in server.requests[-1].headers["authorization"]:
                    await ask(proxy, lambda api: api.converse(modelId=NOVA, messages=MESSAGES))
            assert cloud.refused == 0
            assert all("x-amz-security-token" in request.headers for request in server.requests)
            await _shows_nothing_of(proxy, ["sEcReT", "tOkEn", "ASIAEXAMPLE", SECRET, KEY, "service-account-token"])
    finally:
        await sts.stop()


async def test_an_authority_that_the_application_brought_holds_for_sts_too(tmp_path: Path) -> None:
    cloud = Bedrock()
    identity = Identity(cloud)
    now = dt.datetime.now(dt.UTC)
    ca = pki.make_ca(now)
    leaf = pki.make_leaf(ca, ["localhost"], now)
    pair, bundle, token = tmp_path / "sts.pem", tmp_path / "ca.pem", tmp_path / "web-token"
    pair.write_text(leaf.certificate + leaf.key)
    bundle.write_text(ca.certificate)
    token.write_text("service-account-token")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(pair)
    sts = Server(identity)
    await sts.start(tls)
    environ = {
        **NOWHERE,
        "AWS_WEB_IDENTITY_TOKEN_FILE": str(token),
        "AWS_ROLE_ARN": "arn:aws:iam::123456789012:role/bot",
        "AWS_REGION": "eu-central-1",
        "AWS_ENDPOINT_URL_STS": f"https://localhost:{sts.port}",
    }
    try:
        async with bedrock(tmp_path, environ, contract={"caFile": str(bundle)}) as (_, server, proxy):
            server.handler = cloud
            await ask(proxy, lambda api: api.converse(modelId=NOVA, messages=MESSAGES))
            assert cloud.refused == 0
        async with bedrock(tmp_path, environ) as (_, _, proxy):
            with pytest.raises(ClientError, match="SSLError"):
                await ask(
                    proxy,
                    lambda api: api.converse(modelId=NOVA, messages=MESSAGES),
                    retries={"total_max_attempts": 1},
                )
    finally:
        await sts.stop()


async def test_pod_identity_and_credentials_that_aws_no_longer_takes(tmp_path: Path) -> None:
    cloud = Bedrock()
    identity = Identity(cloud)
    agent = Server(identity)
    await agent.start()
    token = tmp_path / "pod-token"
    token.write_text("pod-identity-token")
    environ = {
        **NOWHERE,
        "AWS_CONTAINER_CREDENTIALS_FULL_URI": f"http://127.0.0.1:{agent.port}/v1/credentials",
        "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": str(token),
    }
    try:
        async with bedrock(tmp_path, environ) as (_, server, proxy):
            server.handler = cloud
            calls = [ask(proxy, lambda api: api.converse(modelId=NOVA, messages=MESSAGES)) for _ in range(4)]
            await asyncio.gather(*calls)
            assert identity.given == 1  # they waited for the same one
            assert identity.tokens == ["pod-identity-token"]
            cloud.keys.clear()  # revoked
            with pytest.raises(ClientError, match="InvalidSignature"):
                await ask(proxy, lambda api: api.converse(modelId=NOVA, messages=MESSAGES))
            answer = None
            async with asyncio.timeout(30):
                while answer is None:  # until the new ones are there, what AWS says passes
                    with contextlib.suppress(ClientError):
                        answer = await ask(proxy, lambda api: api.converse(modelId=NOVA, messages=MESSAGES))
            assert identity.given == 2
    finally:
        await agent.stop()


async def test_without_credentials_the_client_is_told_so(tmp_path: Path) -> None:
    async with bedrock(tmp_path, NOWHERE) as (_, server, proxy):
        with pytest.raises(ClientError, match="found no AWS credentials") as caught:
            await ask(proxy, lambda api: api.converse(modelId=NOVA, messages=MESSAGES))
        assert caught.value.response["Error"]["Code"] == "UnrecognizedClientException"
        with pytest.raises(ClientError, match="found no AWS credentials"):
            await ask(proxy, lambda api: api.list_async_invokes())
        assert server.requests == []
        assert await proxy.metric(REQUESTS, http_status_code="403", error_type="no_credentials") == 1
        assert await proxy.metric("llmwarden_proxy_credential_errors_total") == 1
        assert await proxy.metric("llmwarden_requests_in_flight") == 0


async def test_a_source_that_fails_is_told_apart_and_asked_again(tmp_path: Path) -> None:
    cloud = Bedrock()
    identity = Identity(cloud)
    identity.broken = True
    agent = Server(identity)
    await agent.start()
    environ = {**NOWHERE, "AWS_CONTAINER_CREDENTIALS_FULL_URI": f"http://127.0.0.1:{agent.port}/v1/credentials"}
    try:
        async with bedrock(tmp_path, environ) as (_, server, proxy):
            server.handler = cloud
            with pytest.raises(ClientError, match="CredentialRetrievalError") as caught:
                await ask(
                    proxy,
                    lambda api: api.converse(modelId=NOVA, messages=MESSAGES),
                    retries={"total_max_attempts": 1},
                )
            assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 503
    finally:
        await agent.stop()


async def test_a_body_that_bedrock_would_refuse_for_its_size_is_refused_here(tmp_path: Path) -> None:
    async with bedrock(tmp_path) as (_, server, proxy):
        large = b'{"inputText":"' + b"a" * (27 * 1024 * 1024) + b'"}'
        with pytest.raises(ClientError, match="at most 25 MB"):
            await ask(proxy, lambda api: api.invoke_model(modelId="amazon.titan-text-lite-v1", body=large))
        assert server.requests == []
        fits = b'{"inputText":"' + b"a" * (20 * 1024 * 1024) + b'"}'
        await ask(proxy, lambda api: api.invoke_model(modelId="amazon.titan-text-lite-v1", body=fits))


async def test_a_key_that_the_proxy_holds_takes_the_place_of_a_signature(tmp_path: Path) -> None:
    cloud = Bedrock()
    key = tmp_path / "key"
    key.write_text(cloud.bearer)
    route = {"backend": "Bedrock", "credentialFile": str(key)}
    async with running(tmp_path, cloud, route=route, environ=NOWHERE) as (server, proxy):
        await ask(proxy, lambda api: api.converse(modelId=NOVA, messages=MESSAGES))
        assert server.requests[0].headers["authorization"] == f"Bearer {cloud.bearer}"
        assert await counted(proxy) == {"input": 9, "output": 3}
        assert not any("AWS credentials" in line for line in proxy.log)


async def test_boto3_sends_a_bearer_key_over_https_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Why injection leaves AWS' SDKs alone in a container that has one (injection/intercept.py)."""
    monkeypatch.setenv("AWS_BEARER_TOKEN_BEDROCK", "bedrock-api-key")
    async with bedrock(tmp_path, NOWHERE) as (cloud, server, proxy):
        api = SESSION.client("bedrock-runtime", endpoint_url=proxy.url, region_name="eu-central-1")
        with pytest.raises(InvalidEndpointConfigurationError):
            await asyncio.to_thread(lambda: api.converse(modelId=NOVA, messages=MESSAGES))
        monkeypatch.setenv("AWS_BEARER_TOKEN_BEDROCK", cloud.bearer)
        async with anthropic.AsyncAnthropicBedrock(base_url=proxy.url, aws_region="eu-central-1") as claude:
            await claude.messages.create(model=CLAUDE, max_tokens=9, messages=[{"role": "user", "content": "hi"}])
        assert [request.headers["authorization"] for request in server.requests] == [f"Bearer {cloud.bearer}"]


async def test_bearer_keys_need_no_credentials_and_no_memory(tmp_path: Path) -> None:
    async with bedrock(tmp_path, STATIC) as (cloud, _, proxy):
        request = post(b'{"messages":[]}', f"Authorization: Bearer {cloud.bearer}", path=f"/model/{NOVA}/converse")
        assert b"200" in (await talk(proxy.port, request)).split(b"\r\n")[0]
        assert not any("credentials from" in line for line in proxy.log)  # nothing was resolved
        before = _rss(proxy)
        assert before <= 48 * 1024
        for _ in range(3):
            await ask(proxy, lambda api: api.converse(modelId=NOVA, messages=MESSAGES))
        assert _rss(proxy) <= 48 * 1024  # botocore was in a process of its own, which has ended
        assert _rss(proxy) - before < 4 * 1024


def _rss(proxy: Proxy) -> int:
    """Resident memory in KiB."""
    status = Path(f"/proc/{proxy.pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1])


async def test_nothing_of_a_credential_is_ever_written(tmp_path: Path) -> None:
    async with bedrock(tmp_path) as (cloud, server, proxy):
        await ask(proxy, lambda api: api.converse(modelId=NOVA, messages=MESSAGES))
        server.handler = _drop
        with pytest.raises(ClientError):
            await ask(
                proxy,
                lambda api: api.converse(modelId=NOVA, messages=MESSAGES),
                retries={"total_max_attempts": 1},
            )
        server.handler = cloud
        signature = server.requests[0].headers["authorization"].rpartition("=")[2]
        await _shows_nothing_of(proxy, [KEY, SECRET, signature])


async def _drop(_: Received, writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


async def _shows_nothing_of(proxy: Proxy, secrets: list[str]) -> None:
    """Neither the log (at DEBUG), nor metrics, nor anything on disk."""
    shown = "".join(proxy.log) + await proxy.admin_get("/metrics")
    assert "credentials from" in shown  # it does say where they are from
    shown += "".join(path.read_bytes().decode("latin-1") for path in proxy.journal.rglob("*") if path.is_file())
    assert [secret for secret in secrets if secret in shown] == []


async def test_a_signature_for_us_is_none_for_bedrock() -> None:
    """What the proxy is there for: as it came, the request is refused."""
    cloud = Bedrock()
    server = Server(cloud)
    await server.start()
    try:
        request = AWSRequest("POST", f"http://127.0.0.1:15100/model/{NOVA}/converse", data=b'{"messages":[]}')
        SigV4Auth(Credentials(KEY, SECRET), "bedrock", "eu-central-1").add_auth(request)
        headers = [f"{name}: {value}" for name, value in request.headers.items()]
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(post(b'{"messages":[]}', *headers, path=f"/model/{NOVA}/converse"))
        assert b"InvalidSignatureException" in await reader.readuntil(b"\r\n\r\n")
        assert cloud.refused == 1
        writer.close()
    finally:
        await server.stop()
