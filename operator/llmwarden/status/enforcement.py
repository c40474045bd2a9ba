"""Whether an application could bypass the budgets, as a list of checks. Pure.

`of` makes what a status says. Each check is about the application: code in a selected pod, which cannot read Secrets (SECURITY.md).
"""

from collections.abc import Iterable
from typing import Final, Literal, NamedTuple

from llmwarden import names
from llmwarden.api.v1alpha1 import llmservice as api
from llmwarden.injection import exposure
from llmwarden.snapshot import Snapshot

_NAMED: Final = 3  # findings that a message names
# Reasons of findings, by the check that they fail.
_EXPOSED: Final[tuple[tuple[api.EnforcementCheckType, str], ...]] = (
    ("KeyOnlyInProxy", exposure.REASONS["Secret"]),
    ("VolumesApart", exposure.REASONS["OurVolume"]),
    ("ProcessesApart", exposure.REASONS["Processes"]),
    ("NodeApart", exposure.REASONS["Node"]),
    ("WayOutApart", exposure.REASONS["Egress"]),
    ("Encrypted", exposure.REASONS["Network"]),
)
_UNMEASURED: Final = "Calls that cannot be measured (docs/dialects.md) pass and are not counted."
_LOSS: Final = "While the ledger does not answer, a budget with onLedgerLoss: Allow admits calls. Set onLedgerLoss: Deny to stop them."


class Enforcement(NamedTuple):
    """What a status says of it."""

    state: Literal["Enforced", "Advisory", "None"]
    checks: tuple[api.EnforcementCheck, ...] = ()
    against: Literal["Application"] | None = None


def of(snapshot: Snapshot, statuses: tuple[api.BudgetStatus, ...]) -> Enforcement:
    """Check a service. `statuses` are those of all its budgets; where none stops calls, there is nothing to check."""
    actions = {budget.on_exceeded.action for budget in snapshot.service.spec.budgets}
    if actions | {budget.action for budget in statuses} <= {"Alert"}:
        return Enforcement("None")
    listed = (
        *_key(snapshot),
        *_pods(snapshot),
        _upstream(snapshot),
        _loss(snapshot),
        _check_not("UnmeasuredRefused", _UNMEASURED),
    )
    failed = any(check.state == "Fails" for check in listed)
    return Enforcement("Advisory" if failed else "Enforced", listed, "Application")


def _key(snapshot: Snapshot) -> Iterable[api.EnforcementCheck]:
    has_key = snapshot.service.spec.backend.credentials_secret_ref is not None
    text = "The application holds the key, or needs none. Name its Secret in backend.credentialsSecretRef."
    yield _check("KeyInProxy", "" if has_key else text)


def _pods(snapshot: Snapshot) -> Iterable[api.EnforcementCheck]:
    around = [f"{pod.name}: {pod.message or pod.reason}" for pod in snapshot.pods if pod.state == "Unmetered"]
    unknown = "" if snapshot.pods_known else "The pods cannot be read."
    yield _check("PodsMetered", unknown or _some(around))
    for kind, reason in _EXPOSED:
        lines = dict.fromkeys(
            f"{pod.name}: {finding.message}"
            for pod in snapshot.pods
            for finding in (*pod.exposed, *(note for note in pod.notes if note.reason == "OwnKey"))
            if finding.reason == reason
        )
        yield _check(kind, _some(list(lines)))


def _upstream(snapshot: Snapshot) -> api.EnforcementCheck:
    problems = [item.message for item in snapshot.problems if item.reason == names.REASON_NOT_IN_CLUSTER]
    return _check("UpstreamInCluster", _some(problems))


def _loss(snapshot: Snapshot) -> api.EnforcementCheck:
    acting = [item for item in snapshot.service.spec.budgets if item.on_exceeded.action != "Alert"]
    if acting and all(item.on_ledger_loss == "Deny" for item in acting):
        return _check("LedgerLossBounded", "")
    return _check_not("LedgerLossBounded", _LOSS)


def _check(kind: api.EnforcementCheckType, failure: str) -> api.EnforcementCheck:
    return api.EnforcementCheck(check=kind, state="Fails" if failure else "Holds", message=failure)


def _check_not(kind: api.EnforcementCheckType, text: str) -> api.EnforcementCheck:
    return api.EnforcementCheck(check=kind, state="NotChecked", message=text)


def _some(lines: list[str]) -> str:
    more = len(lines) - _NAMED
    return "; ".join(lines[:_NAMED]) + (f"; and {more} more" if more > 0 else "")
