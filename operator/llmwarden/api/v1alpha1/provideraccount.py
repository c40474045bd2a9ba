"""ProviderAccount: an account with a provider, whose own figures are compared with the ledger's. The platform's to say."""

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
    """By how much two figures may differ and still agree: both must be passed."""

    percent: Percent | None = None
    """Of the greater figure; 2 unless set."""
    amount: PositiveAmount | None = None
    """US dollars; 1.00 unless set."""


class ProviderAccountSpec(Model):
    """Whose account, and what it pays for."""

    provider: Provider
    """Who bills it."""
    admin_key: Annotated[str, Field(min_length=1, max_length=253, pattern="^[-._a-zA-Z0-9]+$")]
    """The key of the Secret llmwarden-provider-keys, in LLM Warden's own namespace, that holds the provider's admin API key."""
    base_url: (
        Annotated[
            str,
            Field(
                max_length=256,
                json_schema_extra=rules(
                    rule(
                        "self.matches('^https://[^/?#@]+(/[^?#]*)?$')",
                        'must be an https URL without user, query and fragment, such as "https://eu.api.openai.com"',
                    )
                ),
            ),
        ]
        | None
    ) = None
    """Where its API is; the provider's own host unless set. The admin key is sent there."""
    projects: Annotated[
        tuple[Annotated[str, Field(min_length=1, max_length=128)], ...], Field(max_length=64, json_schema_extra=SET)
    ] = ()
    """Ids of OpenAI's projects, or of Anthropic's workspaces ("default" is the one without an id), that count; all unless set."""
    namespace_selector: LabelSelector | None = None
    """Namespaces, by their labels, whose services use this account; all unless set."""
    tolerance: Tolerance = Tolerance()
    """By how much both figures may differ."""


class AccountDay(Model):
    """One UTC day, as the provider and as the ledger has it. Money is decimal US dollars."""

    day: Annotated[str, Field(max_length=10)]
    """Such as 2026-11-20."""
    provider_cost: Short
    """What the provider charges for tokens."""
    ledger_cost: Short
    """What the ledger counted."""
    other_cost: Short
    """What the provider charges beside tokens (searches, storage, sessions): compared with nothing."""
    provider_tokens: Count
    """Input and output tokens, by the provider."""
    ledger_tokens: Count
    """Input and output tokens, by the ledger."""
    verdict: Verdict
    """Agrees, ProviderHasMore, LedgerHasMore, ProviderDearer, LedgerDearer; Partial where the ledger did not count the whole day."""


class ProviderAccountSummary(Model):
    """Figures as `kubectl get` shows them."""

    day: Annotated[str, Field(max_length=10)] | None = None
    """The newest day that is compared."""
    provider: Annotated[str, Field(max_length=32), cut(32)] | None = None
    """What the provider charges for its tokens."""
    ledger: Annotated[str, Field(max_length=32), cut(32)] | None = None
    """What the ledger counted."""
    verdict: Verdict | None = None
    """How they compare."""


class ProviderAccountStatus(Status):
    """What is."""

    observed_generation: Count = 0
    """The generation of the spec that this status is of."""
    as_of: Time | None = None
    """When the provider last answered."""
    summary: ProviderAccountSummary | None = None
    """Figures as `kubectl get` shows them."""
    days: Annotated[
        tuple[AccountDay, ...], Field(max_length=DAYS_SHOWN, json_schema_extra=list_map("day")), first(DAYS_SHOWN)
    ] = ()
    """The last days, the newest first."""
    problem: Text | None = None
    """What the provider, or the way to it, said against the last question."""
    conditions: Conditions = ()
    """What holds and what does not."""


class ProviderAccount(Model):
    """An account with a provider: its own usage and cost, day by day, beside the ledger's, to show that no traffic goes around."""

    model_config = ConfigDict(json_schema_extra=rules(short_name()))

    api_version: Literal["llmwarden.io/v1alpha1"] = "llmwarden.io/v1alpha1"
    kind: Literal["ProviderAccount"] = "ProviderAccount"
    metadata: Metadata
    spec: ProviderAccountSpec
    status: ProviderAccountStatus | None = None
