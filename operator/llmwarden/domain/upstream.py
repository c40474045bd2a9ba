"""What follows from `backend.type`, and where `backend.url` may point.

A backend's URL decides where an application's key goes. So hosts are limited to the type's own, the cluster's Services and the
platform's allow-list; HTTPS everywhere but inside the cluster.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final

from llmwarden.api.v1alpha1.common import BackendType, InterceptionType
from llmwarden.api.v1alpha1.llmservice import LLMService
from llmwarden.domain import engines


@dataclass(frozen=True, slots=True)
class Backend:
    """What we know of a type.

    `provider`: value of `gen_ai.provider.name`, from the OpenTelemetry GenAI conventions where they have one. `url`: where SDKs go by
    default; None where that depends on the account. `hosts`: where its keys may go; a `*` stands for one or more characters
    within one label.
    """

    provider: str
    url: str | None = None
    hosts: tuple[str, ...] = ()
    engine: bool = False


BACKENDS: Final[dict[BackendType, Backend]] = {
    "OpenAI": Backend("openai", "https://api.openai.com", ("api.openai.com", "*.api.openai.com")),
    "AzureOpenAI": Backend(
        "azure.ai.openai",
        None,
        (
            "*.openai.azure.com",
            "*.openai.azure.us",
            "*.openai.azure.cn",
            "*.cognitiveservices.azure.com",
            "*.services.ai.azure.com",
        ),
    ),
    "Anthropic": Backend("anthropic", "https://api.anthropic.com", ("api.anthropic.com",)),
    "Bedrock": Backend(
        "aws.bedrock",
        None,
        (
            "bedrock-runtime.*.amazonaws.com",
            "bedrock-runtime-fips.*.amazonaws.com",
            "bedrock-runtime.*.amazonaws.com.cn",
            "bedrock-runtime.*.api.aws",
            "bedrock-runtime-fips.*.api.aws",
            "*.bedrock-runtime.*.vpce.amazonaws.com",
        ),
    ),
    "Gemini": Backend(
        "gcp.gemini",
        "https://generativelanguage.googleapis.com",
        ("generativelanguage.googleapis.com", "aiplatform.googleapis.com", "*-aiplatform.googleapis.com"),
    ),
    "VLLM": Backend("vllm", engine=True),
    "SGLang": Backend("sglang", engine=True),
    "TGI": Backend("tgi", engine=True),
    "Ollama": Backend("ollama", engine=True),
    "NIM": Backend("nvidia.nim", engine=True),
    "TensorRTLLM": Backend("tensorrt_llm", engine=True),
    "LlamaCpp": Backend("llama_cpp", engine=True),
    "OpenAICompatible": Backend("openai_compatible"),
}

_URL: Final = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<authority>[^/?#]*)(?P<path>/[^?#]*)?(?P<rest>[?#].*)?",
    re.ASCII | re.DOTALL,
)
_AUTHORITY: Final = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^:\[\]]+)(?::(?P<port>[0-9]{1,5}))?", re.ASCII)
_HOST: Final = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)(\.(?!-)[a-z0-9_-]{1,63}(?<!-))*", re.ASCII)
_PATH: Final = re.compile(r"[A-Za-z0-9._~%!$&'()*+,;=:@/-]*", re.ASCII)
_VERSION: Final = re.compile(r"/v[0-9]+[a-z0-9]*/?", re.ASCII)
_NUMBER: Final = re.compile(r"[0-9]+|0x[0-9a-f]*", re.ASCII)
_MAX_HOST: Final = 253
_MAX_PORT: Final = 65535


def backend_provider(backend: BackendType) -> str:
    """Return the `gen_ai.provider.name` of a type."""
    return BACKENDS[backend].provider


def default_url(backend: BackendType) -> str | None:
    """Return where calls go if `backend.url` is not set; None where the type has no default address."""
    return BACKENDS[backend].url


def is_engine(backend: BackendType) -> bool:
    """Whether the type is an inference engine, which runs in the selected pods themselves unless interception says otherwise."""
    return BACKENDS[backend].engine


def default_interception(backend: BackendType) -> InterceptionType:
    """Return Port for engines, Env for providers."""
    return "Port" if is_engine(backend) else "Env"


def interception(service: LLMService) -> InterceptionType:
    """Return the interception that holds for a service: its own, else its type's default."""
    wanted = service.spec.workload.interception
    if wanted is not None and wanted.type is not None:
        return wanted.type
    return default_interception(service.spec.backend.type)


def scraped_engine(service: LLMService) -> engines.Engine | None:
    """Return the engine whose metrics are scraped beside a service; None for applications, and for engines without metrics."""
    elsewhere = service.spec.scrape is not None and service.spec.scrape.elsewhere
    if interception(service) != "Port" and not elsewhere:
        return None
    return engines.BY_TYPE.get(service.spec.backend.type)


def check_url(
    url: str, backend: BackendType, allowed_hosts: Iterable[str] = (), cluster_domain: str = "cluster.local"
) -> str | None:
    """Return why a `backend.url` is refused, as a sentence with the remedy; None where it is good.

    `allowed_hosts` are hosts or IP addresses, exact, or `*.suffix` for every host below a suffix.
    """
    match = _URL.fullmatch(url)
    if match is None or not url.isascii():
        return (
            f"backend.url {url!r} is not a URL: write scheme and host, such as https://api.openai.com "
            "(an international host name in its ASCII form, xn--…)"
        )
    scheme, path = match["scheme"].lower(), match["path"] or ""
    last_segment = path[path.rstrip("/").rfind("/") :] if path else ""
    if scheme not in {"http", "https"}:
        problem = f"must begin with https:// (or http:// for a Service of the cluster), not {scheme}://"
    elif "@" in match["authority"]:
        problem = "must not contain a user name or password: put the key into a Secret and name it in backend.credentialsSecretRef"
    elif match["rest"]:
        problem = "must not have a query or a fragment: remove the text from '?' or '#' on"
    elif not _PATH.fullmatch(path) or "//" in path or any(part in {".", ".."} for part in path.split("/")):
        problem = f"has a path that cannot be a prefix, {path!r}: write plain path segments, or none"
    elif _VERSION.fullmatch(last_segment):
        problem = "must not end in the API version, which clients add themselves: remove it (such as /v1)"
    else:
        return _check_authority(match["authority"], scheme, backend, tuple(allowed_hosts), cluster_domain)
    return f"backend.url {problem}"


def check_target(target: str, allowed_hosts: Iterable[str] = (), cluster_domain: str = "cluster.local") -> str | None:
    """Return why a `scrape.targets[]` (HOST:PORT) is refused, as a sentence with the remedy; None where it is good.

    Prometheus reaches more than an application team may: so hosts are the cluster's Services and the platform's allow-list, as for `backend.url`.
    """
    parts = _AUTHORITY.fullmatch(target)
    if parts is None or parts["port"] is None or not 0 < int(parts["port"]) <= _MAX_PORT:
        return f"scrape.targets has no valid host and port ({target!r}); write one such as gpu1.example.com:8000"
    host = _normal(parts["host"])
    address = _address(host)
    if address is None and (len(host) > _MAX_HOST or not _HOST.fullmatch(host)):
        return f"scrape.targets has no valid host ({parts['host']!r}); write one such as gpu1.example.com:8000"
    if address is None and is_cluster_host(host, cluster_domain):
        return None
    if any(_allows(pattern, host) for pattern in allowed_hosts):
        return None
    return (
        f"scrape.targets names {host}, which is not allowed: the platform team can add it to the chart's allowedHosts"
    )


def is_encrypted(url: str) -> bool:
    """Whether calls to a URL go over TLS: a key that goes without it is read by whoever controls the network, a pod's own containers included."""
    return url.lower().startswith("https://")


def is_cluster_host(host: str, cluster_domain: str = "cluster.local") -> bool:
    """Whether a host names a Service of the cluster: `name`, `name.namespace.svc`, with or without the cluster's domain.

    `name.namespace` is not among them: it could as well be a public domain, and resolves to one where there is no such Service.
    """
    host = _normal(host)
    if "." not in host:
        return bool(host) and host != "localhost" and not _NUMBER.fullmatch(host)
    return bool(re.fullmatch(r"([^.]+\.)+[^.]+\.svc", host.removesuffix(f".{_normal(cluster_domain)}")))


def cluster_name(host: str, namespace: str, cluster_domain: str = "cluster.local") -> str:
    """Return the full DNS name of a Service's host (`is_cluster_host`), as a pod in `namespace` resolves it."""
    domain, host = _normal(cluster_domain), _normal(host)
    if "." not in host:
        return f"{host}.{namespace}.svc.{domain}"
    return host if host.endswith(f".svc.{domain}") else f"{host}.{domain}"


def _check_authority(
    authority: str, scheme: str, backend: BackendType, allowed_hosts: tuple[str, ...], cluster_domain: str
) -> str | None:
    parts = _AUTHORITY.fullmatch(authority)
    if parts is None or (parts["port"] is not None and not 0 < int(parts["port"]) <= _MAX_PORT):
        return f"backend.url has no valid host and port ({authority!r}); write a host such as api.openai.com"
    host = _normal(parts["host"])
    address = _address(host)
    if address is None and (len(host) > _MAX_HOST or not _HOST.fullmatch(host)):
        return f"backend.url has no valid host ({parts['host']!r}); write a host such as api.openai.com"
    if address is None and is_cluster_host(host, cluster_domain):
        return None
    listed = any(_allows(pattern, host) for pattern in allowed_hosts)
    own = address is None and any(_is_own(pattern, host) for pattern in BACKENDS[backend].hosts)
    if not listed and not own:
        return _refusal(host, backend, is_address=address is not None)
    if scheme != "https":
        return f"backend.url must begin with https://: {host} is outside the cluster, and keys must not be sent unencrypted"
    return None


def _refusal(host: str, backend: BackendType, *, is_address: bool) -> str:
    if is_address:
        return (
            f"backend.url must not name an address ({host}); name a host, or ask the platform team to add the address "
            "to the chart's allowedHosts"
        )
    own = ", ".join(BACKENDS[backend].hosts)
    places = f"{own} (hosts of {backend})" if own else f"{backend} has no public hosts"
    return (
        f"backend.url names {host}, which is not allowed: {places}; a Service of the cluster is written NAME.NAMESPACE.svc; "
        "the platform team can add other hosts to the chart's allowedHosts"
    )


def _normal(host: str) -> str:
    return host.lower().removesuffix(".")


def _address(host: str) -> str | None:
    """Return an IP literal's normal form, or the host itself where resolvers read it as an address (2130706433, 0x7f.1); else None."""
    try:
        return str(ip_address(host.removeprefix("[").removesuffix("]")))
    except ValueError:
        return host if _NUMBER.fullmatch(host.rpartition(".")[2]) else None


def _allows(pattern: str, host: str) -> bool:
    pattern = _normal(pattern.strip())
    if pattern.startswith("*."):
        return _address(host) is None and host.endswith(pattern[1:]) and len(host) > len(pattern) - 1
    address = _address(host)
    return host == pattern if address is None else address == _address(pattern)


def _is_own(pattern: str, host: str) -> bool:
    wanted, given = pattern.split("."), host.split(".")
    return len(wanted) == len(given) and all(
        re.fullmatch(re.escape(part).replace(r"\*", "[^.]+"), label) is not None
        for part, label in zip(wanted, given, strict=True)
    )
