"""OpenAPI of what people and programs may ask the ledger; the schemas of answers are made from the contracts' types."""

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from llmwarden import __version__
from llmwarden.contracts import ledger as wire
from llmwarden.contracts.audit import KINDS, Audit
from llmwarden.contracts.correction import Correction, Corrections, Order
from llmwarden.contracts.reconciliation import Reconciliation
from llmwarden.contracts.spend import DIMENSIONS, Spend
from llmwarden.ledger.http.query_api import MOST_DIMENSIONS
from llmwarden.ledger.providers.reconciliation import MOST_DAYS, SHOWN_DAYS
from llmwarden.serving.guard import Endpoint, describe

(_answer, _accounts, _audit, _error, _order, _correction, _corrections), _COMPONENTS = msgspec.json.schema_components(
    [Spend, Reconciliation, Audit, wire.ErrorAnswer, Order, Correction, Corrections],
    ref_template="#/components/schemas/{name}",
)


def _parameter(name: str, about: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": False, "description": about, "schema": schema}


_REFUSALS: Final = {"400": "The question is malformed.", "401": "No token, or no good one.", "403": "Not yours to see.", "413": "The answer is too large.", "503": "It cannot be known now."}  # fmt: skip
_REFUSED: Final = {
    status: {"description": about, "content": {"application/json": {"schema": _error}}}
    for status, about in _REFUSALS.items()
}
_TIME: Final = {"type": "string", "examples": ["24h", "7d", "2026-11-20T00:00:00Z"]}
SPEND: Final[dict[str, Any]] = {
    "operationId": "getSpend",
    "summary": "What was spent, by service, model, token kind, label, pod, hour or day.",
    "parameters": [
        _parameter(
            "from", "An instant, or how long ago; rounded down to a quarter of an hour.", {**_TIME, "default": "24h"}
        ),
        _parameter("to", "An instant, or how long ago; rounded up to a quarter of an hour. Now, unless set.", _TIME),
        {
            **_parameter(
                "by",
                "What rows are of, in this order.",
                {
                    "type": "array",
                    "items": {"type": "string", "enum": [*DIMENSIONS]},
                    "minItems": 1,
                    "maxItems": MOST_DIMENSIONS,
                    "uniqueItems": True,
                    "default": ["service"],
                },
            ),
            "style": "form",
            "explode": False,
        },
        _parameter(
            "namespace", "Only this namespace; unset, all, which the caller must be allowed.", {"type": "string"}
        ),
        _parameter("service", "Only this service, as NAMESPACE/NAME.", {"type": "string"}),
        _parameter(
            "format", "How the answer is written.", {"type": "string", "enum": ["json", "csv"], "default": "json"}
        ),
    ],
    "responses": {
        "200": {
            "description": "The spend.",
            "content": {"application/json": {"schema": _answer}, "text/csv": {"schema": {"type": "string"}}},
        },
        **_REFUSED,
    },
}
RECONCILIATION: Final[dict[str, Any]] = {
    "operationId": "getReconciliation",
    "summary": "What providers bill by UTC day, beside what was counted.",
    "parameters": [
        _parameter(
            "days",
            "How many days back.",
            {"type": "integer", "minimum": 1, "maximum": MOST_DAYS, "default": SHOWN_DAYS},
        )
    ],
    "responses": {
        "200": {"description": "Every account.", "content": {"application/json": {"schema": _accounts}}},
        **_REFUSED,
    },
}
CORRECT: Final[dict[str, Any]] = {
    "operationId": "correct",
    "summary": "Write off usage that was reported, or release what is quarantined. For the platform team.",
    "requestBody": {"required": True, "content": {"application/json": {"schema": _order}}},
    "responses": {
        "200": {
            "description": "What was moved, or would be (dryRun).",
            "content": {"application/json": {"schema": _correction}},
        },
        "409": {
            "description": "Another order was done by this id.",
            "content": {"application/json": {"schema": _error}},
        },
        **_REFUSED,
    },
}
CORRECTIONS: Final[dict[str, Any]] = {
    "operationId": "getCorrections",
    "summary": "What was written off and released, by whom and why, newest first.",
    "parameters": [
        _parameter(
            "namespace", "Only this namespace; unset, all, which the caller must be allowed.", {"type": "string"}
        )
    ],
    "responses": {
        "200": {"description": "The orders.", "content": {"application/json": {"schema": _corrections}}},
        **_REFUSED,
    },
}

AUDIT: Final[dict[str, Any]] = {
    "operationId": "getAudit",
    "summary": "What happened: changes of budgets and prices, refused callers, usage held back or written off; newest first.",
    "parameters": [
        _parameter("from", "An instant, or how long ago.", {**_TIME, "default": "24h"}),
        _parameter("to", "An instant, or how long ago. Now, unless set.", _TIME),
        _parameter("namespace", "Only this namespace; unset, all and the platform's own entries.", {"type": "string"}),
        _parameter("kind", "Only this kind.", {"type": "string", "enum": [*KINDS]}),
        _parameter("limit", "How many at most.", {"type": "integer", "minimum": 1, "maximum": 10000, "default": 1000}),
    ],
    "responses": {
        "200": {"description": "Entries.", "content": {"application/json": {"schema": _audit}}},
        **_REFUSED,
    },
}


def description(endpoints: Sequence[Endpoint]) -> dict[str, Any]:
    """Describe those of the ledger's endpoints that people and programs may ask."""
    return describe(
        endpoints,
        title="LLM Warden's ledger",
        version=__version__,
        about="Exact usage and money of LLM services. Money is whole picodollars (1e-12 US dollars).",
        components=_COMPONENTS,
    )
