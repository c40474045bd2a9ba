"""ProviderAccount: a provider's account whose figures are compared with the ledger's. The platform team writes it."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from llmwarden.api.v1alpha1.common import (
    SET,
    Conditions,
    Count,
    LabelSelector,
    Metadata,
    Model,
    Percent,
    PositiveAmount,
    Short,
    Status,
    Text,
    Time,
    cut,
    first,
    list_map,
    rule,
    rules,
    short_name,
)
from llmwarden.contracts.reconciliation import Verdict

Provider = Literal["OpenAI", "Anthropic"]
DAYS_SHOWN = 7


class Tolerance(Model):
    """By how much two figures may differ and still agree. They differ only if both percent and amount are exceeded."""

    percent: Percent | None = None
    """Highest difference in percent of the greater figure, in quotes. Default: `2`. Example: `"0.5"`."""
    amount: PositiveAmount | None = None
    """Highest difference in US dollars, as a decimal number in quotes. Default: `1.00`. Example: `"0.01"`."""


class ProviderAccountSpec(Model):
    """The desired state: which account is compared with the ledger, and for which services."""

    provider: Provider
    """Provider that bills the account. Required. Example: `OpenAI`."""
    admin_key: Annotated[str, Field(min_length=1, max_length=253, pattern="^[-._a-zA-Z0-9]+$")]
    """Key, in the Secret llmwarden-provider-keys of LLM Warden's own namespace, that holds the provider's admin API
    key; never the API key itself. Required. Example: `openai`.
    """
    base_url: (
        Annotated[
            str,
            Field(
                max_length=256,
                json_schema_extra=rules(
                    rule(
                        "self.matches('^https://[^/?#@]+(/[^?#]*)?$')",
                        'must be an https URL without user name, query and fragment, such as "https://eu.api.openai.com"',
                    )
                ),
            ),
        ]
        | None
    ) = None
    """Address of the provider's API, to which the admin key is sent. Default: the provider's public address. Example:
    `https://eu.api.openai.com`.
    """
    projects: Annotated[
        tuple[Annotated[str, Field(min_length=1, max_length=128)], ...], Field(max_length=64, json_schema_extra=SET)
    ] = ()
    """Ids of the OpenAI projects or Anthropic workspaces that count; "default" is the workspace without an id. Default:
    none, so that all count. Example: `[proj_abc, default]`.
    """
    namespace_selector: LabelSelector | None = None
    """Labels of the namespaces whose services use this account. Set it where several accounts pay for one cluster.
    Default: all namespaces.
    """
    tolerance: Tolerance = Tolerance()
    """By how much the provider's and the ledger's figures may differ. Set it to be stricter or more lenient. Default: 2
    percent and 1.00 US dollars.
    """


class AccountDay(Model):
    """Figures of the provider and of the ledger for one UTC day. Money is in US dollars, as decimal numbers."""

    day: Annotated[str, Field(max_length=10)]
    """The day, in UTC. Example: `2026-11-20`."""
    provider_cost: Short
    """What the provider charges for tokens, in US dollars. Example: `12.30`."""
    ledger_cost: Short
    """What the ledger counted, in US dollars. Example: `12.28`."""
    other_cost: Short
    """What the provider charges for other things than tokens (searches, storage, sessions), in US dollars; it is not
    compared.
    """
    provider_tokens: Count
    """Number of input and output tokens that the provider counted."""
    ledger_tokens: Count
    """Number of input and output tokens that the ledger counted."""
    verdict: Verdict
    """Result of the comparison: Agrees, ProviderHasMore or LedgerHasMore (tokens differ), ProviderDearer or
    LedgerDearer (costs differ), or Partial where the ledger did not count the whole day.
    """


class ProviderAccountSummary(Model):
    """Figures in the form that `kubectl get` shows."""

    day: Annotated[str, Field(max_length=10)] | None = None
    """The newest day that was compared. Absent before the first comparison. Example: `2026-11-20`."""
    provider: Annotated[str, Field(max_length=32), cut(32)] | None = None
    """What the provider charges for that day's tokens. Absent before the first comparison. Example: `$12.30`."""
    ledger: Annotated[str, Field(max_length=32), cut(32)] | None = None
    """What the ledger counted for that day. Absent before the first comparison. Example: `$12.28`."""
    verdict: Verdict | None = None
    """Result of the comparison for that day. Absent before the first comparison. Example: `Agrees`."""


class ProviderAccountStatus(Status):
    """The observed state. Only the operator writes it."""

    observed_generation: Count = 0
    """The metadata.generation of the spec that this status describes."""
    as_of: Time | None = None
    """When the provider last answered. Absent before its first answer."""
    summary: ProviderAccountSummary | None = None
    """Figures in the form that `kubectl get` shows."""
    days: Annotated[
        tuple[AccountDay, ...], Field(max_length=DAYS_SHOWN, json_schema_extra=list_map("day")), first(DAYS_SHOWN)
    ] = ()
    """The last seven days that were compared, the newest first."""
    problem: Text | None = None
    """Why the last request to the provider failed. Absent where it succeeded."""
    conditions: Conditions = ()
    """Kubernetes conditions, such as Ready, with a reason and a remedy where one does not hold."""


class ProviderAccount(Model):
    """An account with a provider.

    Its own usage and cost are compared with the ledger's day by day, to show whether any calls avoid the proxy.
    """

    model_config = ConfigDict(json_schema_extra=rules(short_name()))

    api_version: Literal["llmwarden.io/v1alpha1"] = "llmwarden.io/v1alpha1"
    kind: Literal["ProviderAccount"] = "ProviderAccount"
    metadata: Metadata
    spec: ProviderAccountSpec
    status: ProviderAccountStatus | None = None
