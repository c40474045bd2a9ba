"""The columns of `kubectl get llm`."""

import datetime as dt

from llmwarden.api.v1alpha1 import llmservice as api
from llmwarden.contracts import ledger as wire
from llmwarden.domain import durations, money
from llmwarden.status import budgets, figures


def build(
    status: api.LLMServiceStatus, day: wire.UsageTotals | None, old: api.LLMServiceSummary | None
) -> api.LLMServiceSummary:
    """Write the columns of a status.

    `day` is the ledger's report of the last day. None if it is not fresh: the columns of money then stay as in `old`.
    """
    old = old or api.LLMServiceSummary()
    cost = figures.cost(day) if day is not None else None
    usage, latency, workload = status.usage, status.latency, status.workload
    first = latency.time_to_first_token if latency else None
    whole = latency.request_duration if latency else None
    shown = budgets.nearest(status.budgets)
    ends = [item.forecast_exhausted_at for item in status.budgets if item.forecast_exhausted_at]
    per_second = status.throughput.output_tokens_per_second if status.throughput else None
    return api.LLMServiceSummary(
        pods=f"{workload.metered}/{workload.selected}" if workload else None,
        ttft_p95=_time(first.p95_milliseconds if first else None),
        p95=_time(whole.p95_milliseconds if whole else None),
        errors=f"{status.errors.rate_percent}%" if status.errors and status.errors.rate_percent else None,
        cost_per_request=_money(cost.per_request) if cost is not None else old.cost_per_request,
        spent=_money(cost.total) if cost is not None else old.spent,
        budget=f"{shown.used_percent}% ({shown.name})" if shown else None,
        tokens=figures.human_count(usage.tokens.input + usage.tokens.output) if usage else None,
        throughput=f"{per_second} tok/s" if per_second else None,
        exhausted=_short_time(min(ends)) if ends else None,
    )


def _money(picodollars: int | None) -> str | None:
    return None if picodollars is None else money.human(picodollars)


def _time(milliseconds: int | None) -> str | None:
    return None if milliseconds is None else durations.human(milliseconds / 1000)


def _short_time(at: dt.datetime) -> str:
    return at.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%MZ")
