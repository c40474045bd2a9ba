"""The status of an LLMService: snapshot in, status out. Pure; the clock is an argument.

Figures are quantised, so that noise is no write. What is unknown keeps its last figure: unknown is not zero.
"""

import datetime as dt
from collections.abc import Mapping
from typing import Any

from llmwarden.api.v1alpha1 import llmservice as api
from llmwarden.domain import budgets as policy
from llmwarden.domain import money
from llmwarden.domain import objectives as wanted
from llmwarden.errors import InvalidSpecError
from llmwarden.snapshot import Outcome, Problem, Snapshot
from llmwarden.status import budgets, conditions, enforcement, figures, objectives, summary


def build(
    snapshot: Snapshot, outcome: Outcome, injection: api.InjectionStatus, now: dt.datetime
) -> api.LLMServiceStatus:
    """Build the whole status. `injection` is decided elsewhere (`desired.injection`): it has effects."""
    old = snapshot.service.status or api.LLMServiceStatus()
    reported = snapshot.usage if snapshot.ledger.fresh else None
    used = figures.usage(reported) if reported is not None else old.usage
    if used is not None and used.rerated is None and old.usage is not None:
        # The ledger tells of its present life, and each of its replicas of its own.
        used = used.replace(rerated=old.usage.rerated)
    spent = budgets.budget_statuses(snapshot) if snapshot.ledger.fresh else old.budgets
    proof = enforcement.of(snapshot, spent)
    fresh = snapshot.prometheus.fresh and snapshot.figures.scraped
    measured = snapshot.figures
    new = old.replace(
        observed_generation=snapshot.service.metadata.generation,
        as_of=_as_of(snapshot, old),
        usage=used,
        budgets=spent,
        latency=figures.latency(measured) if fresh else old.latency,
        errors=api.ErrorsStatus(rate_percent=figures.percent(measured.error_ratio)) if fresh else old.errors,
        throughput=figures.throughput(measured) if fresh else old.throughput,
        objectives=objectives.statuses(snapshot, old),
        engine=figures.engine(snapshot, old),
        workload=figures.workload(snapshot, old),
        enforcement=proof.state,
        enforcement_against=proof.against,
        enforcement_checks=proof.checks,
        injection=injection,
    )
    new = new.replace(conditions=conditions.build(snapshot, outcome, new, now))
    return new.replace(summary=summary.build(new, reported.last24h if reported is not None else None, old.summary))


def _as_of(snapshot: Snapshot, old: api.LLMServiceStatus) -> dt.datetime | None:
    """Give the time of the oldest figure shown."""
    times = [
        source.as_of if source.fresh else old.as_of
        for source in (snapshot.prometheus, snapshot.ledger)
        if source.configured and (source.fresh or old.as_of)
    ]
    return min((time for time in times if time is not None), default=None)


def problems(snapshot_service: api.LLMService) -> tuple[Problem, ...]:
    """Find what CEL cannot know: budgets and objectives that can never work."""
    invalid = []
    for check, reason in ((policy.of_service, "InvalidBudget"), (wanted.of_service, "InvalidObjective")):
        try:
            check(snapshot_service)
        except InvalidSpecError as error:
            invalid.append(Problem(reason, f"{error}."))
    return tuple(invalid)


def rerated(old: api.LLMServiceStatus, new: api.LLMServiceStatus) -> str:
    """Say in a sentence that history was rated again since the old status; "" where it was not."""
    after = new.usage.rerated if new.usage is not None else None
    before = old.usage.rerated if old.usage is not None else None
    # Not by the time: each replica of the ledger has its own of the same change.
    if after is None or (before is not None and (before.change, before.tokens) == (after.change, after.tokens)):
        return ""
    change = money.parse(after.change.removeprefix("-"))
    by = f"{money.human(change)} {'less' if after.change.startswith('-') else 'more'}"
    tokens = (
        f"{after.tokens:,} tokens that had no price"
        if after.tokens >= 0
        else f"{-after.tokens:,} tokens lost their price"
    )
    return f"A price was added, so past usage was priced again: {by} was spent ({tokens})."


def significant(status: Mapping[str, Any]) -> dict[str, Any]:
    """Return of a status (JSON) what is worth a write at once: states and conditions, and the first figures ever."""
    return {
        "generation": status.get("observedGeneration"),
        "conditions": [
            (item["type"], item["status"], item["reason"], item.get("observedGeneration"))
            for item in status.get("conditions") or []
        ],
        "budgets": [(item["scope"], item["name"], item["state"]) for item in status.get("budgets") or []],
        "injection": (status.get("injection") or {}).get("state"),
        "enforcement": status.get("enforcement"),
        "first": {key: key in status for key in ("usage", "latency")},
    }
