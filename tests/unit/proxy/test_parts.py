"""Small parts: settings, framing, prices, trace context, spans, credentials, metrics' bounds."""

import json
import re
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmwarden import names
from llmwarden.contracts.ledger import Picodollars, Price, Tokens
from llmwarden.contracts.sidecar import Limits, Listen, Route, Thresholds
from llmwarden.errors import InvalidSpecError
from llmwarden.manifests import promql
from llmwarden.proxy.calls.credentials import Credentials
from llmwarden.proxy.dialects.base import Answer, Asked
from llmwarden.proxy.http import http1
from llmwarden.proxy.money import prices
from llmwarden.proxy.record import Record
from llmwarden.proxy.seam import Request
from llmwarden.proxy.settings import Identity, load, parse_origin
from llmwarden.proxy.telemetry import otlp
from llmwarden.proxy.telemetry.metrics import Metrics
from llmwarden.proxy.telemetry.trace import Trace, begin

CONTRACT = {
    "contract": 1,
    "ledger": {
        "url": "https://llmwarden-ledger.llmwarden-system.svc:8443",
        "ca": "PEM",
        "tokenFile": "/var/run/llmwarden/token/token",
    },
    "adminPort": names.ADMIN_PORT,
    "journalDir": "/var/lib/llmwarden",
    "otlpEndpoint": "http://collector.observability.svc:4318",
    "routes": [
        {
            "service": "support-bot",
            "mode": "Env",
            "backend": "OpenAI",
            "listen": {"host": "127.0.0.1", "port": 15100},
            "upstream": "https://api.openai.com",
            "credentialFile": "/var/run/llmwarden/credentials/support-bot/key",
            "thresholdsSeconds": {"duration": [10.0], "ttft": [1.0], "tpot": []},
        },
        {
            "service": "chat",
            "mode": "Port",
            "backend": "VLLM",
            "listen": {"host": "", "port": 15200},
            "upstream": "http://127.0.0.1:8000",
            "thresholdsSeconds": {},
        },
    ],
}


def test_the_sidecar_contract_as_architecture_md_writes_it() -> None:
    settings, identity = load(
        {names.PROXY_ENV: json.dumps(CONTRACT), "LLMWARDEN_POD_NAMESPACE": "shop", "LLMWARDEN_POD_UID": "u"}
    )
    assert [route.service for route in settings.routes] == ["support-bot", "chat"]
    assert settings.routes[0].thresholds_seconds == Thresholds((10.0,), (1.0,), ())
    assert settings.routes[1].credential_file is None
    assert settings.ledger is not None
    assert settings.ledger.token_file == "/var/run/llmwarden/token/token"
    assert (identity.namespace, identity.uid) == ("shop", "u")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"contract": 2}, "contract 2"),
        ({"routes": [{"service": "x"}]}, "mode"),
        ({"ledger": {"url": "http://ledger.example", "tokenFile": "t"}}, "must be https"),
        ({"otlpEndpoint": "ftp://x"}, "not an http or https URL"),
    ],
)
def test_a_contract_that_cannot_work_is_refused_in_a_sentence(change: dict[str, object], words: str) -> None:
    with pytest.raises(InvalidSpecError, match=words):
        load({names.PROXY_ENV: json.dumps({**CONTRACT, **change})})


def test_no_contract_at_all() -> None:
    with pytest.raises(InvalidSpecError, match="webhook"):
        load({})


@pytest.mark.parametrize("url", ["https://user:pw@host", "host:80", "https://", "https://h:99999"])
def test_urls_that_are_no_upstreams(url: str) -> None:
    with pytest.raises(InvalidSpecError):
        parse_origin(url)


def test_an_origin_with_a_prefix() -> None:
    origin = parse_origin("https://gateway.example:8443/openai/")
    assert (origin.host, origin.port, origin.authority, origin.prefix) == (
        "gateway.example",
        8443,
        "gateway.example:8443",
        "/openai",
    )


def request(*headers: tuple[bytes, bytes]) -> Request:
    return Request(b"POST", b"/v1/x", [(name.lower(), name, value) for name, value in ((b"Host", b"h"), *headers)], 0.0)


def test_hop_by_hop_headers_stay_behind_but_connection_cannot_strip_what_matters() -> None:
    made = request(
        (b"Connection", b"X-Hop, authorization, Keep-Alive"),
        (b"X-Hop", b"1"),
        (b"Keep-Alive", b"5"),
        (b"Authorization", b"k"),
        (b"TE", b"trailers"),
    )
    http1.check_request(made)
    head = http1.request_head(made, prefix=b"/p", host=b"up", drop=frozenset(), lines=[], body=b"abc")
    assert head == b"POST /p/v1/x HTTP/1.1\r\nHost: up\r\nAuthorization: k\r\nContent-Length: 3\r\n\r\n"


@pytest.mark.parametrize(
    ("came", "goes"),
    [
        (b"HTTP/1.1 200 OK\r\nX-A:  1 \r\nContent-Length: 3", b"HTTP/1.1 200 OK\r\nX-A:  1 \r\nContent-Length: 3"),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-A: 1",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-A: 1",
        ),
        (b"HTTP/1.1 200 OK\r\nConnection: X-A\r\nX-A: 1\r\nContent-Length: 3", b"HTTP/1.1 200 OK\r\nContent-Length: 3"),
        (b"HTTP/1.1 200 OK\r\nKeep-Alive: 5\r\nContent-Length: 3", b"HTTP/1.1 200 OK\r\nContent-Length: 3"),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 3", b"HTTP/1.1 200 OK\r\nContent-Length: 3"),
    ],
)
def test_an_answers_head_goes_on_as_it_came_unless_something_of_it_is_of_its_connection(
    came: bytes, goes: bytes
) -> None:
    head = http1.read_answer(came)
    drop = http1.HOP_BY_HOP | head.drop if head.drop else http1.HOP_BY_HOP
    chunked = head.framing == "chunked"
    told = http1.response_head(head, drop=drop, extra=(), chunked=chunked, close=False)
    assert told == goes + b"\r\n\r\n"
    closing = http1.response_head(head, drop=drop, extra=(), chunked=chunked, close=True)
    assert b"\r\nConnection: close\r\n\r\n" in closing
    for name in (b"Keep-Alive", b"X-A" if head.drop else b"Keep-Alive"):
        assert name not in told


@pytest.mark.parametrize(
    "headers",
    [
        [(b"Content-Length", b"3"), (b"Transfer-Encoding", b"chunked")],
        [(b"Content-Length", b"3"), (b"Content-Length", b"3")],
        [(b"Content-Length", b"-1")],
        [(b"Content-Length", b"1_0")],
        [(b"Transfer-Encoding", b"chunked"), (b"Transfer-Encoding", b"chunked")],
        [(b"Transfer-Encoding", b"identity")],
        [(b"Host", b"other")],
    ],
)
def test_framing_is_checked_without_the_parser_too(headers: list[tuple[bytes, bytes]]) -> None:
    with pytest.raises(http1.BadMessageError):
        http1.check_request(request(*headers))


def test_cost_is_exact_and_parts_are_not_paid_twice() -> None:
    price = Picodollars(input=150_000, output=600_000, cached_input=75_000, cache_write=187_500, request=7)
    tokens = Tokens(input=1000, cached_input=400, cache_write=100, output=50, reasoning=20)
    book = prices.PriceBook()
    book.put("s", "m", "g", Price(1, "p", price))
    known = book.last("s", "m")
    assert known is not None
    assert known.cost(tokens, "") == 500 * 150_000 + 400 * 75_000 + 100 * 187_500 + 50 * 600_000 + 7
    assert known.cost(tokens, "priority") is None
    assert known.at_most(1000, 50) == 1000 * 187_500 + 50 * 600_000 + 7


def test_prices_are_kept_until_their_generation_changes() -> None:
    book = prices.PriceBook()
    assert book.should_ask("s", "m", 100.0)
    assert not book.should_ask("s", "m", 101.0)
    assert book.should_ask("s", "m", 106.0)
    book.put("s", "m", "g1", Price(1, "p", Picodollars(1, 1, 1, 1)))
    known = book.get("s", "m", "g1", 200.0)
    assert known is not None
    assert known.price_id == "p"
    assert book.get("s", "m", "g2", 200.0) is None
    assert book.last("s", "m") == known
    book.put("s", "none", "g1", Price(1))
    unknown = book.get("s", "none", "g1", 200.0)
    assert unknown is not None
    assert unknown.price_id is None


def test_trace_context_is_continued_or_begun() -> None:
    parent = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    trace = begin(parent, 0.0)
    assert (trace.trace_id, trace.parent_id, trace.sampled) == (
        "0af7651916cd43dd8448eb211c80319c",
        "b7ad6b7169203331",
        True,
    )
    assert not begin(parent[:-1] + b"0", 100.0).sampled
    assert begin(b"cc" + parent[2:] + b"-future", 0.0).trace_id == trace.trace_id
    for bad in (
        b"",
        b"ff" + parent[2:],
        parent.upper(),
        parent[:-3],
        b"00-" + b"0" * 32 + parent[35:],
        parent[:36] + b"0" * 16 + b"-01",
    ):
        fresh = begin(bad, 100.0)
        assert fresh.parent_id == ""
        assert fresh.trace_id != trace.trace_id
        assert fresh.sampled
        assert not begin(bad, 0.0).sampled


def test_spans_in_otlp_json() -> None:
    trace = Trace("a" * 32, "b" * 16, "", sampled=True)
    server = otlp.attributes({"i": 1, "b": True, "f": 0.5, "l": ["x"]})
    call = Record("bot", server, "openai", "chat", trace, Asked(model='m"'), Answer())
    call.ended, call.duration, call.status, call.error = 10**18 + 500, 5e-7, 504, "timeout"
    told = json.loads(otlp.encode([call], Identity("shop", "pod", "uid", "node")))
    item = told["resourceSpans"][0]["scopeSpans"][0]["spans"][0]
    assert (item["traceId"], item["spanId"], item["name"], item["kind"]) == ("a" * 32, "b" * 16, 'chat m"', 3)
    assert item["startTimeUnixNano"] == "1000000000000000000"
    assert item["status"] == {"code": 2, "message": "timeout"}
    assert "parentSpanId" not in item
    assert [(entry["key"], entry["value"]) for entry in item["attributes"]] == [
        ("gen_ai.operation.name", {"stringValue": "chat"}),
        ("gen_ai.provider.name", {"stringValue": "openai"}),
        ("gen_ai.request.model", {"stringValue": 'm"'}),
        ("gen_ai.request.stream", {"boolValue": False}),
        ("i", {"intValue": "1"}),
        ("b", {"boolValue": True}),
        ("f", {"doubleValue": 0.5}),
        ("l", {"arrayValue": {"values": [{"stringValue": "x"}]}}),
        ("http.response.status_code", {"intValue": "504"}),
        ("error.type", {"stringValue": "timeout"}),
    ]


@pytest.mark.parametrize(
    ("backend", "line"),
    [
        ("OpenAI", b"Authorization: Bearer k\r\n"),
        ("AzureOpenAI", b"api-key: k\r\n"),
        ("Anthropic", b"x-api-key: k\r\n"),
        ("VLLM", b"Authorization: Bearer k\r\n"),
    ],
)
def test_the_key_goes_where_the_backend_looks(tmp_path: Path, backend: str, line: bytes) -> None:
    path = tmp_path / "key"
    path.write_bytes(b"k\n")
    drop, given = Credentials(str(path), backend, lambda: None).headers()
    assert given == line
    assert {b"authorization", b"api-key", b"x-api-key"} <= drop


def test_a_key_that_cannot_be_used_leaves_the_applications(tmp_path: Path) -> None:
    counted: list[int] = []
    path = tmp_path / "key"
    for content in (b"", b"a\r\nX-Evil: 1"):
        path.write_bytes(content)
        assert Credentials(str(path), "OpenAI", lambda: counted.append(1)).headers() == (frozenset(), b"")
    path.unlink()
    assert Credentials(str(path), "OpenAI", lambda: counted.append(1)).headers() == (frozenset(), b"")
    assert len(counted) == 3
    assert Credentials(None, "OpenAI", lambda: counted.append(1)).headers() == (frozenset(), b"")
    assert len(counted) == 3


def test_thresholds_become_bounds_in_prometheus_spelling() -> None:
    route = Route(
        "bot", "Env", "OpenAI", Listen("", 0), "http://u", thresholds_seconds=Thresholds((10.0, 2.0), (1.0,), (0.06,))
    )
    metrics = Metrics([route], 10)
    metrics.duration.labels("bot", "p", "chat", "m", "m", "").observe(3)
    kind, text = metrics.expose("text/plain")
    assert kind.startswith("text/plain")
    assert b'le="10.0"' in text
    assert b'le="2.0"' in text
    assert b"_created" not in text


def test_a_share_of_the_context_window_becomes_a_bound_as_rules_spell_it() -> None:
    raw = b'{"service":"bot","mode":"Env","backend":"OpenAI","listen":{"host":"","port":0},"upstream":"http://u","contextThresholds":[0.85]}'
    metrics = Metrics([msgspec.json.decode(raw, type=Route)], 10)
    metrics.context.labels("bot", "p", "chat", "m", "m").observe(0.8)
    text = metrics.expose("text/plain")[1].decode()
    assert f"{promql.bound(0.85)}" in text


def test_metrics_are_called_as_names_py_says() -> None:
    text = Metrics([], 10).expose("")[1].decode()
    for name in (
        names.METRIC_DURATION, names.METRIC_TTFT, names.METRIC_TPOT, names.METRIC_TOKENS, names.METRIC_REQUESTS, names.METRIC_COST,
        names.METRIC_UNCOSTED, names.METRIC_REFUSED, names.METRIC_UNMEASURED, names.METRIC_IN_FLIGHT, names.METRIC_LAST_REPORT,
        names.METRIC_SPANS_DROPPED, names.METRIC_JOURNAL_ERRORS, names.METRIC_LEDGER_ERRORS, names.METRIC_CREDENTIAL_ERRORS,
        names.METRIC_MALFORMED_EVENTS, names.METRIC_ESTIMATED, names.METRIC_LIMITED, names.METRIC_COMPILED,
    ):  # fmt: skip
        assert f"# HELP {name} " in text


def test_docs_limits_md_has_every_limit_with_its_default() -> None:
    text = (Path(__file__).parents[3] / "docs" / "limits.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \| ([0-9]+) \|", text, re.MULTILINE))
    defaults = msgspec.to_builtins(Limits())
    assert rows == {name: f"{value:g}" if isinstance(value, float) else str(value) for name, value in defaults.items()}


@given(st.binary(max_size=30), st.integers(0, 200), st.integers(0, 10**20))
def test_a_repeated_head_is_read_as_a_new_one_would_be(noise: bytes, at: int, length: int) -> None:
    head = b"POST /v1/x HTTP/1.1\r\nHost: a\r\nContent-length:  12 \r\nX-Length: 12\r\nConnection: x-hop\r\nX-Hop: 1"
    first = http1.read_request(head, 0.0)
    repeated = http1.repeated(head, first)
    assert repeated is not None
    for other in (head.replace(b"  12 ", b"  %d " % length), head[:at] + noise + head[at:], head[:at] + noise):
        known = repeated.read(other, 1.0)
        if known is None:
            continue
        fresh = http1.read_request(other, 1.0)
        assert (known.length, known.headers, known.drop, known.keep, known.target) == (
            fresh.length,
            fresh.headers,
            fresh.drop,
            fresh.keep,
            fresh.target,
        )
        for body in (b"abc", None):
            heads = [
                http1.request_head(item, prefix=b"/p", host=b"up", drop=frozenset(), lines=[b"a: b\r\n"], body=body)
                for item in (known, fresh, known)
            ]
            assert heads[0] == heads[1] == heads[2]
    assert repeated.read(head, 1.0) is not None
