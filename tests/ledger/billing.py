"""A simulator of the providers' billing APIs on loopback: no account with a provider is to be had here, and it says so.

It speaks the recorded protocol. The shapes are those of the providers' own references, read on 2026-11-21:
- OpenAI: platform.openai.com/docs/api-reference/usage (costs, completions, embeddings), and the types of its SDK 3.52
  (openai/types/admin/organization), with which the tests read this simulator, too;
- Anthropic: platform.claude.com/docs/en/api/admin/{cost_report,usage_report}; its amounts are decimal strings of cents.
"""

import asyncio
import datetime as dt
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.proxy.fakes import Received, Server, whole

KEY = "sk-admin-0123456789abcdef"


@dataclass
class Used:
    """What one project used on one day. `other` are dollars beside tokens."""

    input: int = 0
    cached: int = 0
    output: int = 0
    dollars: str = "0"
    other: str = "0"
    project: str | None = None


@dataclass
class Billing:
    """Answers by day; `fault` answers in its place."""

    days: dict[dt.date, list[Used]] = field(default_factory=dict)
    page: int = 31  # buckets of one page at most, whatever is asked for
    fault: Callable[[Received], bytes | None] = lambda _request: None

    def __post_init__(self) -> None:
        self.server = Server(self._answer)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.port}"

    @property
    def asked(self) -> list[str]:
        return [urlsplit(request.target).path for request in self.server.requests]

    def use(self, day: str, **used: Any) -> None:
        self.days.setdefault(dt.date.fromisoformat(day), []).append(Used(**used))

    async def _answer(self, request: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(self.fault(request) or self._whole(request))

    def _whole(self, request: Received) -> bytes:
        target = urlsplit(request.target)
        query = parse_qs(target.query)
        anthropic = target.path.startswith("/v1/organizations/")
        given = request.headers.get("x-api-key" if anthropic else "authorization", "").removeprefix("Bearer ")
        if given != KEY:
            return unauthorized(anthropic=anthropic)
        if anthropic and request.headers.get("anthropic-version") != "2023-06-01":
            return whole(
                400,
                b'{"type":"error","error":{"type":"invalid_request_error","message":"anthropic-version: required"}}',
            )
        if query["bucket_width"] != ["1d"]:
            return whole(400, b"{}")
        first, last = _span(query, anthropic=anthropic)
        wanted = [first + dt.timedelta(days=number) for number in range((last - first).days)]
        at = int(query.get("page", ["page_0"])[0].removeprefix("page_"))
        size = min(self.page, int(query.get("limit", ["7"])[0]))
        chosen, more = wanted[at : at + size], at + size < len(wanted)
        make = {
            "/v1/organization/costs": self._openai_costs,
            "/v1/organization/usage/completions": self._openai_usage,
            "/v1/organization/usage/embeddings": self._openai_embeddings,
            "/v1/organizations/cost_report": self._anthropic_costs,
            "/v1/organizations/usage_report/messages": self._anthropic_usage,
        }[target.path]
        body: dict[str, Any] = {
            "data": [make(day, self._of(day, query)) for day in chosen],
            "has_more": more,
            "next_page": f"page_{at + size}" if more else None,
        }
        if not anthropic:
            body = {"object": "page", **body}
        return whole(200, json.dumps(body).encode())

    def _of(self, day: dt.date, query: dict[str, list[str]]) -> list[Used]:
        projects = query.get("project_ids[]")
        return [used for used in self.days.get(day, []) if projects is None or used.project in projects]

    def _bucket(self, day: dt.date, results: list[dict[str, Any]]) -> dict[str, Any]:
        start = int(dt.datetime.combine(day, dt.time(), dt.UTC).timestamp())
        return {"object": "bucket", "start_time": start, "end_time": start + 86_400, "results": results}

    def _openai_costs(self, day: dt.date, found: list[Used]) -> dict[str, Any]:
        def line(item: str, value: str, unit: str, quantity: float) -> dict[str, Any]:
            return {
                "object": "organization.costs.result",
                "amount": {"value": float(value), "currency": "usd"},
                "line_item": item,
                "project_id": None,
                "quantity": quantity,
                "quantity_unit": unit,
            }

        lines = []
        for used in found:
            lines.append(line("gpt-4o-mini-2024-07-18, input", used.dollars, "tokens", used.input + used.output))
            if used.other != "0":
                lines.append(line("file storage", used.other, "gibibyte_hours", 1.5))
        return self._bucket(day, lines)

    def _openai_usage(self, day: dt.date, found: list[Used]) -> dict[str, Any]:
        results = [
            {
                "object": "organization.usage.completions.result",
                "input_tokens": used.input,
                "output_tokens": used.output,
                "input_cached_tokens": used.cached,
                "input_audio_tokens": 0,
                "output_audio_tokens": 0,
                "num_model_requests": 5,
                "project_id": None,
                "user_id": None,
                "api_key_id": None,
                "model": None,
                "batch": None,
                "service_tier": None,
            }
            for used in found
        ]
        return self._bucket(day, results)

    def _openai_embeddings(self, day: dt.date, _found: list[Used]) -> dict[str, Any]:
        return self._bucket(day, [])

    def _anthropic_costs(self, day: dt.date, found: list[Used]) -> dict[str, Any]:
        def item(used: Used, dollars: str, kind: str, about: str) -> dict[str, Any]:
            return {
                "amount": f"{float(dollars) * 100:.6f}",  # cents
                "context_window": "0-200k",
                "cost_type": kind,
                "currency": "USD",
                "description": about,
                "model": "claude-sonnet-4-20250514" if kind == "tokens" else None,
                "service_tier": "standard",
                "token_type": "uncached_input_tokens" if kind == "tokens" else None,
                "workspace_id": used.project,
            }

        results = []
        for used in found:
            results.append(item(used, used.dollars, "tokens", "Claude Sonnet 4 Usage - Input Tokens"))
            if used.other != "0":
                results.append(item(used, used.other, "web_search", "Web Search Usage"))
        return _anthropic_bucket(day, results)

    def _anthropic_usage(self, day: dt.date, found: list[Used]) -> dict[str, Any]:
        results = [
            {
                "api_key_id": None,
                "cache_creation": {"ephemeral_1h_input_tokens": 1, "ephemeral_5m_input_tokens": 2},
                "cache_read_input_tokens": used.cached,
                "context_window": None,
                "model": None,
                "output_tokens": used.output,
                "server_tool_use": {"web_search_requests": 10},
                "service_tier": None,
                "uncached_input_tokens": used.input - used.cached - 3,
                "workspace_id": used.project,
            }
            for used in found
        ]
        return _anthropic_bucket(day, results)


def _anthropic_bucket(day: dt.date, results: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "starting_at": f"{day}T00:00:00Z",
        "ending_at": f"{day + dt.timedelta(days=1)}T00:00:00Z",
        "results": results,
    }


def _span(query: dict[str, list[str]], *, anthropic: bool) -> tuple[dt.date, dt.date]:
    if anthropic:
        first, last = (dt.datetime.fromisoformat(query[name][0]) for name in ("starting_at", "ending_at"))
    else:
        first, last = (dt.datetime.fromtimestamp(int(query[name][0]), dt.UTC) for name in ("start_time", "end_time"))
    return first.date(), last.date()


def unauthorized(*, anthropic: bool) -> bytes:
    """As each of them refuses a key."""
    if anthropic:
        error = {"type": "error", "error": {"type": "authentication_error", "message": "invalid x-api-key"}}
        return whole(401, json.dumps(error).encode())
    message = "Incorrect API key provided: sk-wrong. You can find your API key at https://platform.openai.com/account/api-keys."
    error = {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": "invalid_api_key"}}
    return whole(401, json.dumps(error).encode())


def refusing(
    status: int, *headers: str, body: bytes = b'{"error":{"message":"not now"}}'
) -> Callable[[Received], bytes]:
    """Every question is answered so."""
    return lambda _request: whole(status, body, *headers)
