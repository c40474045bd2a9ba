"""Alerts about money: budgets' thresholds and ends, how fast they burn, what is not counted, and spending unlike that of earlier days.

Budgets are judged by the ledger's figures, which are exact; the rest by the proxies' counters. A figure that is compared with earlier days
is recorded, so that a person can see both.
"""

from typing import Any, Final

from llmwarden import names
from llmwarden.desired import promql
from llmwarden.desired.alerting import WINDOW, Rule, alert, title
from llmwarden.desired.params import Params
from llmwarden.domain import budgets
from llmwarden.domain.windows import CALENDAR_SECONDS

HOUR: Final = 3600
# After the Google SRE workbook's alerts on burn rates (slo.py): in its 30 days, 14.4 times the even rate for an hour and 6 times for six
# hours. Of a short window that would be more than all of it: then a quarter of the limit in an hour, and half of it in six.
FAST: Final = (HOUR, 5 * 60, 14.4, 0.25, "critical")
SLOW: Final = (6 * HOUR, 30 * 60, 6.0, 0.5, "warning")

SILENT_SECONDS: Final = 120  # without a report that the ledger took: four of the longest intervals
TIMES: Final = 3  # as much as at the same hour of earlier days
LEAST_PER_HOUR: Final = 1  # US dollars: below that, three times as much is no event
DOUBLE: Final = 2
FEW_CALLS: Final = 20  # an hour: below that one long call changes the average
RISE: Final = 0.2  # of a service's tokens
COSTLIER: Final = 1.5  # times what a token of the service cost the day before

RECORD_SPEND: Final = "llmservice:cost_usd_per_hour:rate1h"
RECORD_SAME_HOUR: Final = "llmservice:cost_usd_per_hour:same_hour"
RECORD_PER_REQUEST: Final = "llmservice:cost_usd_per_request:rate1h"
RECORD_SHARE: Final = "llmservice:model_tokens:share1h"
RECORD_PER_TOKEN: Final = "llmservice:model_cost_usd_per_token:rate1h"  # noqa: S105 - a series
UNUSUAL: Final = {
    "LLMSpendUnusual": "three times as much is spent as at this hour of earlier days",
    "LLMCostPerRequestDoubled": "a call costs twice what it did in the day before",
    "LLMCostlierModelRising": "calls move to a dearer model",
}
"""Alerts about spending unlike that of earlier days, as the status says them while they fire."""
DAYS: Final = 7
_MODEL: Final = names.LABEL_M_REQUEST_MODEL


def alerts(params: Params) -> list[Rule]:
    """Build the alerts of the service and of each budget that holds for it."""
    found = [_uncosted(params), _unreachable(params), _unreported(params)]
    found += [_unlike_earlier(params), _per_request(params), _costlier(params)]
    for budget in params.budgets:
        found += _warnings(params, budget)
        found.append(_exceeded(params, budget))
        found += _burns(params, budget)
    return found


def records(params: Params) -> list[dict[str, Any]]:
    """Record what spending is compared by."""
    of = _of(params)
    calls = promql.rate(names.METRIC_REQUESTS, _of(params, f'{names.LABEL_M_ERROR}=""'), "1h")
    by_model = f"{promql.BY}, {_MODEL}"
    counted = _of(params, f'{names.LABEL_M_TOKEN_TYPE}=~"input|output"')
    tokens = promql.rate(names.METRIC_TOKENS, counted, "1h", by_model)
    # Each day under a label of its own: they are averaged, and a day that is not there counts for nothing.
    days = "\nor ".join(
        f'label_replace({RECORD_SPEND}{{{of}}} offset {day}d, "day", "{day}", "", "")' for day in range(1, DAYS + 1)
    )
    return [
        {"record": RECORD_SPEND, "expr": f"{promql.rate(names.METRIC_COST, of, '1h')} * 3600"},
        {"record": RECORD_SAME_HOUR, "expr": f"avg by ({promql.BY}) ({days})"},
        {
            "record": RECORD_PER_REQUEST,
            "expr": f"{promql.rate(names.METRIC_COST, of, '1h')} / ({calls} * 3600 >= {FEW_CALLS}) * 3600",
        },
        {
            "record": RECORD_SHARE,
            "expr": f"{tokens} / on ({promql.BY}) group_left () ({promql.rate(names.METRIC_TOKENS, counted, '1h')} > 0)",
        },
        {
            "record": RECORD_PER_TOKEN,
            "expr": f"{promql.rate(names.METRIC_COST, of, '1h', by_model)} / ({tokens} > 0)",
        },
    ]


def _of(params: Params, *more: str) -> str:
    return promql.selector(params.service.metadata.namespace, params.service.metadata.name, *more)


# What is not counted.


def _uncosted(params: Params) -> Rule:
    return alert(
        params,
        "LLMUsageUncosted",
        f"sum by ({promql.BY}) (increase({names.METRIC_UNCOSTED}{{{_of(params)}}}[15m])) > 0",
        wait="",
        severity="warning",
        summary=f'{title(params)}: {{{{ printf "%.0f" $value }}}} tokens in 15 minutes have no price',
        description=(
            "No price is known for some model, so its tokens count in no budget in dollars. The condition CostKnown names the models; the "
            "platform adds a ModelPrice, and what was used is rated by it from its date on."
        ),
    )


def _unreachable(params: Params) -> Rule:
    namespace = params.service.metadata.namespace
    pods = f"max by (namespace, pod) ({names.METRIC_IN_FLIGHT}{{{_of(params)}}})"
    last = f'max by (namespace, pod) ({names.METRIC_LAST_REPORT}{{namespace="{namespace}"}})'
    return alert(
        params,
        "LLMLedgerUnreachable",
        f"count by (namespace) ((time() - {last} > {SILENT_SECONDS}) and on (namespace, pod) ({pods}))",
        wait="2m",
        severity="critical",
        summary=f"{title(params)}: {{{{ $value }}}} of its pods cannot report what they use",
        description=(
            "Their proxies go on with the last configuration, and budgets with their leases: then onLedgerLoss decides. Nothing is lost while the "
            "pods live: they report it later. Look at the ledger's pod and database, and at network policies between the namespaces."
        ),
    )


def _unreported(params: Params) -> Rule:
    return alert(
        params,
        "LLMUsageUnreported",
        f"sum by ({promql.BY}) (increase({names.METRIC_LEDGER_UNREPORTED}{{{_of(params)}}}[1h])) > 0",
        wait="",
        severity="warning",
        summary=f'{title(params)}: {{{{ printf "%.0f" $value }}}} of its pods were lost without a last report',
        description=(
            "A node died, or pods were deleted by force. What they used since their last report (at most one reporting interval) is in no figure."
        ),
    )


# Spending unlike that of earlier days.


def _unlike_earlier(params: Params) -> Rule:
    of = _of(params)
    return alert(
        params,
        "LLMSpendUnusual",
        f"({RECORD_SPEND}{{{of}}} > {TIMES} * {RECORD_SAME_HOUR}{{{of}}})\n"
        f"and ({RECORD_SPEND}{{{of}}} - {RECORD_SAME_HOUR}{{{of}}} > {LEAST_PER_HOUR})",
        wait="15m",
        severity="warning",
        summary=f'{title(params)}: spends ${{{{ printf "%.2f" $value }}}} an hour, three times what it did at this hour of earlier days',
        description=(
            f"Compared is the last hour with the same hour of up to {DAYS} days before. Look for the model and the pod that spend more, for "
            "retries, and for longer prompts; kubectl llm cost shows spending by label, model and hour."
        ),
    )


def _per_request(params: Params) -> Rule:
    now = f"{RECORD_PER_REQUEST}{{{_of(params)}}}"
    before = f"avg_over_time({RECORD_PER_REQUEST}{{{_of(params)}}}[1d] offset 1h)"
    return alert(
        params,
        "LLMCostPerRequestDoubled",
        f"{now} > {DOUBLE} * {before}",
        wait="15m",
        severity="warning",
        summary=f'{title(params)}: a call costs ${{{{ printf "%.4f" $value }}}}, twice what it did in the day before',
        description=(
            "Calls became dearer by themselves: longer prompts or answers, a cache that no longer hits, a dearer model or service tier. The "
            "dashboard shows tokens per call by kind and the share of each model."
        ),
    )


def _costlier(params: Params) -> Rule:
    of = _of(params)
    share, each = f"{RECORD_SHARE}{{{of}}}", f"{RECORD_PER_TOKEN}{{{of}}}"
    before = f"sum by ({promql.BY}) ({share} offset 1d * on ({promql.BY}, {_MODEL}) ({each} offset 1d))"
    return alert(
        params,
        "LLMCostlierModelRising",
        f"({share} - (({share} offset 1d) or 0 * {share}) > {RISE})\n"
        f"and on ({promql.BY}, {_MODEL}) ({each} > on ({promql.BY}) group_left () ({COSTLIER} * {before}))",
        wait="15m",
        severity="warning",
        summary=(
            f"{title(params)}: {{{{ $labels.{_MODEL} }}}}, dearer than what it used a day ago, has "
            "{{ $value | humanizePercentage }} more of its tokens"
        ),
        description=(
            "Calls move to a model whose tokens cost at least half as much again as the service's did on average the day before. If nobody "
            "decided so, look for a changed default in the application; a budget with action Fallback would answer with the cheaper one."
        ),
    )


# Budgets.


def _ratio(params: Params, budget: budgets.Budget, metric: str = names.METRIC_BUDGET_USED) -> str:
    matchers = _of(params, f'budget="{budget.name}"', f'kind="{budget.scope}"')
    # max: during a restart two ledgers may be scraped at once.
    return f"max by ({promql.BY}, budget, kind) ({metric}{{{matchers}}})"


def _burns(params: Params, budget: budgets.Budget) -> list[Rule]:
    """Build the burn-rate alerts of a calendar window that is long enough for them.

    The used share is read as a counter: its fall at a window's end is a reset. A rolling window's share falls with every quarter of an
    hour that leaves it, so there is no such alert for one.
    """
    length = CALENDAR_SECONDS.get(budget.window.calendar) if budget.window.calendar else None
    matchers = _of(params, f'budget="{budget.name}"', f'kind="{budget.scope}"')
    found: list[Rule] = []
    for long, short, times, most, severity in (FAST, SLOW):
        if length is None or length <= long:
            continue
        share = min(times * long / length, most)
        spans = (f"{long // HOUR}h", f"{short // 60}m")
        expr = "\nand ".join(
            f"(max by ({promql.BY}, budget, kind) (increase({names.METRIC_BUDGET_USED}{{{matchers}}}[{span}])) > {limit:.6g})"
            for span, limit in zip(spans, (share, share * short / long), strict=True)
        )
        found.append(
            alert(
                params,
                "LLMBudgetBurn",
                expr,
                wait="2m",
                severity=severity,
                labels={**_of_budget(budget), "window": spans[0]},
                summary=f"{title(params)}: {{{{ $value | humanizePercentage }}}} of {_budget(budget)} went in {spans[0]}",
                description=(
                    f"At an even pace {long / length:.1%} of the window would have. The last {spans[1]} still spend so fast. "
                    f"When all is used: {_consequence(budget)} kubectl get llm -o wide says when that will be at the present rate."
                ),
            )
        )
    return found


def _warnings(params: Params, budget: budgets.Budget) -> list[dict[str, Any]]:
    found = []
    for percent, following in zip(budget.warn_at, (*budget.warn_at, 100)[1:], strict=True):
        if percent >= 100:  # noqa: PLR2004 - percent; at 100 it is exceeded, which is the next alert
            continue
        ratio = _ratio(params, budget)
        found.append(
            alert(
                params,
                "LLMBudgetWarning",
                f"{ratio} >= {percent / 100} < {following / 100}",
                wait="",
                severity="warning",
                labels={**_of_budget(budget), "threshold": str(percent)},
                summary=f"{title(params)}: {{{{ $value | humanizePercentage }}}} of {_budget(budget)} is used",
                description=(
                    f"At least {percent} % of the budget's present window is used. When it is used up: {_consequence(budget)} "
                    "kubectl get llm -o wide says when that will be at the present rate."
                ),
            )
        )
    return found


def _exceeded(params: Params, budget: budgets.Budget) -> dict[str, Any]:
    return alert(
        params,
        "LLMBudgetExceeded",
        # Not a ratio of 1: calls reserve what they can cost at most, so the last of a budget is seldom spent.
        f"{_ratio(params, budget)} and {_ratio(params, budget, names.METRIC_BUDGET_EXCEEDED)} == 1",
        wait="",
        # The errors that it made are in their alerts' windows for so long after it, and a ledger that starts anew is not scraped for a moment:
        # either would page for what this alert has explained.
        keep=WINDOW,
        severity="warning" if budget.action == "Alert" else "critical",
        labels={**_of_budget(budget), "action": budget.action},  # the route asks for it
        summary=f"{title(params)}: {_budget(budget)} is at its end ({{{{ $value | humanizePercentage }}}} spent)",
        description=(
            f"{_consequence(budget)} The budget opens again when its window ({budget.window}) ends; raise its limit if the "
            "spending is wanted."
        ),
    )


def _of_budget(budget: budgets.Budget) -> dict[str, str]:
    """Labels that tell the alerts of several budgets apart; the series has the same."""
    return {"budget": budget.name, "kind": budget.scope}


def _budget(budget: budgets.Budget) -> str:
    whose = {"LLMService": "budget", "LLMBudget": "the namespace's budget", "ClusterLLMBudget": "the platform's budget"}
    return f"{whose[budget.scope]} {budget.name}"


def _consequence(budget: budgets.Budget) -> str:
    match budget.action:
        case "Block":
            return "Calls are refused."
        case "Throttle":
            return "Calls are held to a pace, and refused from the limit on."
        case "Fallback":
            return f"Calls are sent to {budget.fallback_model}."
        case "Alert":
            return "Calls go on; this alert is all that happens."
