"""The sidecar's contract, version 1: what the webhook writes into `LLMWARDEN_PROXY` and the proxy reads once, at its start.

`Settings` is the whole of it: start there. `document` writes it, `decode` reads it. `injection/sidecar.py` makes it from an LLMService;
`proxy/settings.py` refuses what a proxy cannot use (an upstream that is no URL, another version). An example:

    {"contract": 1,
     "ledger": {"url": "https://llmwarden-ledger.llmwarden-system.svc:8443", "ca": "-----BEGIN CERTIFICATE-----...",
                "tokenFile": "/var/run/llmwarden/token/token"},
     "adminPort": 15099, "journalDir": "/var/lib/llmwarden", "otlpEndpoint": "http://collector.observability.svc:4318",
     "routes": [{"service": "support-bot", "mode": "Env", "backend": "OpenAI", "listen": {"host": "127.0.0.1", "port": 15100},
                 "upstream": "https://api.openai.com", "credentialFile": "/var/run/llmwarden/credentials/support-bot/key",
                 "thresholdsSeconds": {"duration": [10.0], "ttft": [1.0], "tpot": []},
                 "budgets": [{"key": "LLMBudget/shop/support", "onLedgerLoss": "Deny"}]}]}

- `host: ""` is every address, IPv4 and IPv6. `upstream` is an origin with an optional prefix, without the API version: the client's
  path (`/v1/...`) is appended.
- Which pod it is comes by the downward API: `LLMWARDEN_POD_NAMESPACE`, `LLMWARDEN_POD_NAME`, `LLMWARDEN_POD_UID`, `LLMWARDEN_NODE_NAME`.
- The webhook adds three volumes: `llmwarden-token` (a service-account token for the ledger, 3600 s), `llmwarden-journal` (an emptyDir of
  64Mi) and `llmwarden-credentials` (Secrets; optional, so that a missing Secret never stops a pod).
- The admin port serves `/metrics`, `/startupz`, `/readyz` and `/livez` over plain HTTP on every address.

A proxy may be older than the webhook or younger, by one minor version. So a reader ignores fields that it does not know, a new field
has a default that means what its absence meant before, and a field is never renamed. `tests/golden/contracts` has a folder for each
minor version with what it wrote: that must be read, and all that is in it must still be written, for as long as there is a version 1.

msgspec, not pydantic: a sidecar's memory is paid once per pod.
"""

from typing import Any, Final, Literal

import msgspec

from llmwarden import names

Mode = Literal["Env", "Port"]

_CAPS: Final = ("unboundedInputTokens", "unboundedOutputTokens")


class Listen(msgspec.Struct, frozen=True):
    """Where a route listens; the empty host is every address, IPv4 and IPv6."""

    host: str
    port: int


class Thresholds(msgspec.Struct, frozen=True):
    """Objectives' thresholds in seconds: each becomes a bucket bound of its histogram."""

    duration: tuple[float, ...] = ()
    ttft: tuple[float, ...] = ()
    tpot: tuple[float, ...] = ()


class Budget(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """A budget over a route's service, as far as it matters to a proxy whose ledger has never answered.

    `Deny`: until there is a configuration, measured calls are answered 503 with `Retry-After`. A budget that would stop no call is left out.
    """

    key: str
    on_ledger_loss: Literal["Allow", "Deny"]


class Route(msgspec.Struct, frozen=True, rename="camel"):
    """One LLMService in this pod. `upstream` is an origin with an optional prefix, without the API version.

    `budgets` are those that held for the service when the pod was created, by key. Once the ledger has answered, its configuration counts.
    """

    service: str
    mode: Mode
    backend: str
    listen: Listen
    upstream: str
    credential_file: str | None = None
    client_certificate_file: str | None = None  # PEM, shown to the upstream where it asks; with its key, or neither
    client_key_file: str | None = None
    thresholds_seconds: Thresholds = Thresholds()
    # What the upstream's name must resolve to, without aliases; anything where it is absent. Set where a key goes without TLS: only a
    # Service of the cluster may get it, and one of type ExternalName is an alias of another name.
    resolves_to: str | None = None
    context_thresholds: tuple[float, ...] = ()  # the same of the context window's use, 0 to 1
    budgets: tuple[Budget, ...] = ()


class Ledger(msgspec.Struct, frozen=True, rename="camel"):
    """The ledger's address, the CA that its certificate is checked against (PEM), and our token's file."""

    url: str
    token_file: str
    ca: str = ""


class Limits(msgspec.Struct, frozen=True, rename="camel"):
    """Bounds of the data path; seconds and bytes. The defaults suit; a test or a person may narrow them.

    `response_seconds` bounds each silence of an upstream (before the head, and between two pieces of a body): the
    SDKs' own default of ten minutes. `plain_idle_seconds` is how long an idle connection to a plain-HTTP upstream is kept:
    below the five seconds after which uvicorn, and so vLLM, closes it under us.
    `connections` and `concurrency` (requests being answered) are per route; `body_bytes` is of one request that is held to be
    read, `held_bytes` of all of a route's together. docs/limits.md says what happens at each.
    """

    connect_seconds: float = 10.0
    head_seconds: float = 10.0
    body_seconds: float = 60.0
    idle_seconds: float = 120.0
    response_seconds: float = 600.0
    drain_seconds: float = 25.0
    plain_idle_seconds: float = 4.0
    tls_idle_seconds: float = 50.0
    head_bytes: int = 64 * 1024
    body_bytes: int = 16 * 1024 * 1024
    held_bytes: int = 64 * 1024 * 1024
    event_bytes: int = 4 * 1024 * 1024
    connections: int = 2048
    concurrency: int = 1024
    models: int = 100
    # What a call reserves under a budget with a lease where nothing of it says how much it may use, and the model's window is not
    # known or larger (docs/money.md): 0 refuses such calls.
    unbounded_input_tokens: int = names.UNBOUNDED_INPUT_TOKENS
    unbounded_output_tokens: int = names.UNBOUNDED_OUTPUT_TOKENS


class Settings(msgspec.Struct, frozen=True, rename="camel"):
    """All of `LLMWARDEN_PROXY`. Without `ledger` the proxy measures only."""

    contract: int
    routes: tuple[Route, ...]
    ledger: Ledger | None = None
    admin_port: int = names.ADMIN_PORT
    journal_dir: str = names.JOURNAL_DIR
    otlp_endpoint: str | None = None
    ca_file: str | None = None  # PEM, trusted beside the image's own authorities
    limits: Limits = Limits()


def document(settings: Settings) -> dict[str, Any]:
    """Give the contract as JSON objects, by the names that it has on its way.

    What is absent (None, no context thresholds, no budgets) is left out. Of `limits` only what is not the default is written, so that a proxy of
    another version keeps its own; the two caps are written both where either is not.
    """
    written: dict[str, Any] = _present(msgspec.to_builtins(settings))
    written["routes"] = [_present(route) for route in written["routes"]]
    for route in written["routes"]:
        for field in ("contextThresholds", "budgets"):
            if not route[field]:
                del route[field]
    limits, default = written.pop("limits"), msgspec.to_builtins(Limits())
    changed = {field: value for field, value in limits.items() if value != default[field]}
    if not changed.keys().isdisjoint(_CAPS):
        changed |= {cap: limits[cap] for cap in _CAPS}
    if changed:
        written["limits"] = changed
    return written


def decode(text: str) -> Settings:
    """Read the contract. Raises msgspec.MsgspecError where it is none, and ValueError or RecursionError where it is no JSON by far."""
    return msgspec.json.decode(text, type=Settings)


def _present(fields: dict[str, Any]) -> dict[str, Any]:
    return {field: value for field, value in fields.items() if value is not None}
