"""What one proxy is told: `LLMWARDEN_PROXY` and its identity (operator/ARCHITECTURE.md, the sidecar contract).

Read once at start; msgspec, because a sidecar's memory is paid once per pod.
"""

from collections.abc import Mapping
from typing import Final, Literal
from urllib.parse import urlsplit

import msgspec

from llmwarden import names
from llmwarden.errors import InvalidSpecError

LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})


class Listen(msgspec.Struct, frozen=True):
    """Where a route listens; the empty host is every address, IPv4 and IPv6."""

    host: str
    port: int


class Thresholds(msgspec.Struct, frozen=True):
    """Objectives' thresholds in seconds: each becomes a bucket bound of its histogram."""

    duration: tuple[float, ...] = ()
    ttft: tuple[float, ...] = ()
    tpot: tuple[float, ...] = ()


class Route(msgspec.Struct, frozen=True, rename="camel"):
    """One LLMService in this pod. `upstream` is an origin with an optional prefix, without the API version."""

    service: str
    mode: Literal["Env", "Port"]
    backend: str
    listen: Listen
    upstream: str
    credential_file: str | None = None
    client_certificate_file: str | None = None  # PEM, shown to the upstream where it asks; with its key, or neither
    client_key_file: str | None = None
    thresholds_seconds: Thresholds = Thresholds()
    context_thresholds: tuple[float, ...] = ()  # the same of the context window's use, 0 to 1


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


class Identity(msgspec.Struct, frozen=True):
    """Which pod this is, by the downward API."""

    namespace: str
    pod: str
    uid: str
    node: str = ""


def load(environ: Mapping[str, str]) -> tuple[Settings, Identity]:
    """Read the environment; raises InvalidSpecError with a sentence that names what is wrong."""
    raw = environ.get(names.PROXY_ENV, "")
    if not raw:
        message = f"{names.PROXY_ENV} is not set: the webhook writes it into the container"
        raise InvalidSpecError(message)
    try:
        settings = msgspec.json.decode(raw, type=Settings)
    except msgspec.MsgspecError as error:
        message = f"{names.PROXY_ENV} does not parse: {error}"
        raise InvalidSpecError(message) from error
    if settings.contract != names.CONTRACT:
        message = f"{names.PROXY_ENV} is of contract {settings.contract}; this proxy speaks {names.CONTRACT}"
        raise InvalidSpecError(message)
    for route in settings.routes:
        parse_origin(route.upstream)
    if settings.ledger is not None:
        origin = parse_origin(settings.ledger.url)
        if not origin.tls and origin.host not in LOOPBACK:
            message = f"the ledger's URL {settings.ledger.url} must be https: our token travels there"
            raise InvalidSpecError(message)
    if settings.otlp_endpoint:
        parse_origin(settings.otlp_endpoint)
    identity = Identity(
        namespace=environ.get("LLMWARDEN_POD_NAMESPACE", "default"),
        pod=environ.get("LLMWARDEN_POD_NAME", ""),
        uid=environ.get("LLMWARDEN_POD_UID", ""),
        node=environ.get("LLMWARDEN_NODE_NAME", ""),
    )
    return settings, identity


class Origin(msgspec.Struct, frozen=True):
    """A parsed base URL; `authority` is what goes into a Host header, `prefix` has no trailing slash."""

    tls: bool
    host: str
    port: int
    authority: str
    prefix: str


def parse_origin(url: str) -> Origin:
    """Parse `http(s)://host[:port][/prefix]`; raises InvalidSpecError."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        message = f"{url!r} is not a URL: {error}"
        raise InvalidSpecError(message) from error
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.username is not None:
        message = f"{url!r} is not an http or https URL without user information"
        raise InvalidSpecError(message)
    tls = parts.scheme == "https"
    return Origin(
        tls=tls,
        host=parts.hostname,
        port=port or (443 if tls else 80),
        authority=parts.netloc,
        prefix=parts.path.rstrip("/"),
    )
