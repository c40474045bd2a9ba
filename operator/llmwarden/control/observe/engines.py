"""Asks engines what they are: their own `/metrics` and version endpoint, at the selected pods' addresses and nowhere else.

One pod speaks for its service: pods of one selector run one engine. What was found is asked again when the pod is another, or after
ten minutes; what was not, after one.
"""

import asyncio
import json
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import httpx

from llmwarden import bounded
from llmwarden.domain import engines
from llmwarden.snapshot import EngineIdentity

logger = logging.getLogger(__name__)

Name = tuple[str, str]  # namespace and name of an LLMService

AGAIN_SECONDS: Final = 600.0
RETRY_SECONDS: Final = 60.0
TIMEOUT_SECONDS: Final = 3.0  # for one whole answer: a pod may say what it likes, as slowly as it likes
MOST_BYTES: Final = 4 * 1024 * 1024  # of one answer: an exposition is far less
AT_ONCE: Final = 8
_VERSION_LENGTH: Final = 64
_OLLAMA_VERSION: Final = "/api/version"


@dataclass(frozen=True, slots=True)
class Address:
    """Where a service's engine can be asked: a ready pod of it (by UID), its IP, and the engine's own port."""

    service: Name
    pod: str
    ip: str
    port: int
    type: str  # as the LLMService says


@dataclass(frozen=True, slots=True)
class _Answer:
    address: Address
    asked_at: float
    identity: EngineIdentity | None


class Engines:
    """See the module. `clock` gives monotonic seconds."""

    def __init__(self, clock: Callable[[], float], http: httpx.AsyncClient | None = None) -> None:
        self._clock = clock
        self._answers: dict[Name, _Answer] = {}
        self._gate = asyncio.Semaphore(AT_ONCE)
        # Never through the environment's proxies: these are pods. Without TLS, so without 4 MiB of authorities.
        self._http = http or httpx.AsyncClient(
            timeout=TIMEOUT_SECONDS,
            trust_env=False,
            follow_redirects=False,
            verify=False,  # noqa: S501 - no TLS
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def ask(self, addresses: Iterable[Address]) -> Mapping[Name, EngineIdentity]:
        """Ask those that are due; return what is known of all of them."""
        wanted = {address.service: address for address in addresses}
        self._answers = {name: answer for name, answer in self._answers.items() if name in wanted}
        due = [address for name, address in wanted.items() if self._due(name, address)]
        await asyncio.gather(*(self._ask(address) for address in due))
        return {name: answer.identity for name, answer in self._answers.items() if answer.identity is not None}

    def _due(self, name: Name, address: Address) -> bool:
        last = self._answers.get(name)
        if last is None or last.address != address:
            return True
        return self._clock() - last.asked_at > (RETRY_SECONDS if last.identity is None else AGAIN_SECONDS)

    async def _ask(self, address: Address) -> None:
        async with self._gate:
            identity = await self._identify(address)
        before = self._answers.get(address.service)
        if identity is None and before is not None and before.address.type == address.type:
            identity = before.identity  # a pod that is starting, or too busy to answer: what was known still holds
        self._answers[address.service] = _Answer(address, self._clock(), identity)

    async def _identify(self, address: Address) -> EngineIdentity | None:
        host = f"[{address.ip}]" if ":" in address.ip else address.ip
        origin = f"http://{host}:{address.port}"
        if address.type == "Ollama":
            version = await self._version(origin, _OLLAMA_VERSION, "version")
            text = "Ollama has no metrics, so only what the proxy measures is shown."
            return EngineIdentity("Ollama", version, message=text) if version else None
        paths = dict.fromkeys(path for engine in engines.ENGINES for path in engine.paths)
        answered = False
        for path in paths:
            exposition = await self._get(origin + path)
            if exposition is None:
                continue
            answered = True
            recognised = engines.recognise(exposition)
            if recognised is not None:
                engine = engines.BY_TYPE[recognised.type]
                version = await self._version(origin, engine.version_path, engine.version_field)
                return _identity(address, recognised, version)
        if answered:
            text = "Its metrics belong to no supported engine, so its queue and cache are not shown."
            return EngineIdentity("", "", message=text)
        return None

    async def _version(self, origin: str, path: str, field: str) -> str:
        text = await self._get(origin + path)
        if text is None:
            return ""
        try:
            body: Any = json.loads(text)
        except (ValueError, RecursionError):
            return ""
        value = body.get(field) if isinstance(body, dict) else None
        return str(value)[:_VERSION_LENGTH] if isinstance(value, str | int | float) else ""

    async def _get(self, url: str) -> str | None:
        """Return a page's text; None where there is none."""
        try:
            async with (
                asyncio.timeout(TIMEOUT_SECONDS),
                self._http.stream("GET", url, headers={"Accept-Encoding": "identity"}) as response,
            ):
                # Nothing is unpacked: a few bytes may be a gigabyte.
                if response.status_code != httpx.codes.OK or "content-encoding" in response.headers:
                    return None
                data = await bounded.read(response.aiter_raw(), MOST_BYTES)
        except bounded.TooLongError:
            return None
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as error:
            logger.debug("%s: %s", url, error)
            return None
        return data.decode("utf-8", "replace")


def _identity(address: Address, recognised: engines.Recognised, version: str) -> EngineIdentity:
    identity = EngineIdentity(
        recognised.type, version, missing=recognised.missing, queue_bounds=recognised.queue_bounds
    )
    if address.type not in {recognised.type, "OpenAICompatible"}:
        text = f"Its metrics are those of {recognised.type}, but backend.type is {address.type}. Correct backend.type."
        return replace(identity, message=text)
    if recognised.missing:
        return replace(
            identity, message=f"Missing in this version, or disabled by its flags: {', '.join(recognised.missing)}."
        )
    return identity
