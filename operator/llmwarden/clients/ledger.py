"""The client of the ledger: one set of questions, and two ways to reach it.

- `DirectClient` connects to the ledger's Service with a CA and a projected token. The operator uses it.
- `ApiServerClient` goes through the API server's proxy of that Service with a token made by TokenRequest. People use it: they need no
  port-forward, and nothing but RBAC. `serving/access.py` says why the token is in a header of its own.

Every call has a time-out and reads an answer of at most `MAX_ANSWER` bytes. Errors are the same both ways:

- ForbiddenError: the ledger or the API server does not accept these credentials for this question.
- NotFoundError: there is no ledger where the client looks.
- RefusedError, ConflictError: the question can never be answered as it is; for example, the ledger is of another version.
- UnavailableError: no answer, or one that cannot be read. Ask again later.
"""

import asyncio
import ssl
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, TypeVar

import httpx
import msgspec

from llmwarden import bounded, kube, names, tracing
from llmwarden.contracts import ledger as wire
from llmwarden.contracts.audit import Audit
from llmwarden.contracts.correction import CORRECTIONS_PATH, Correction, Corrections, Order
from llmwarden.contracts.reconciliation import Reconciliation
from llmwarden.contracts.spend import Spend
from llmwarden.errors import UNREADABLE, ForbiddenError, NotFoundError, NotInstalledError, UnavailableError
from llmwarden.kube.errors import error_of

Answer = TypeVar("Answer", wire.Usage, wire.GpuAnswer, Reconciliation, Spend, Audit, Correction, Corrections)

TIMEOUT: Final = 10.0  # seconds without a byte from the ledger
TOTAL_SECONDS: Final = (
    60.0  # a whole answer: a ledger that sends a byte now and then must not hold up the operator's tick
)
MAX_ANSWER: Final = (
    128 * 1024 * 1024
)  # bytes; the usage of ten thousand services with four budgets each is about 30 MiB
MAX_PODS: Final = 1000  # in one report of GPUs: far below the ledger's limit of 1 MiB
TOKEN_SECONDS: Final = 600  # the shortest life of a token that the API server grants


class LedgerClient(ABC):
    """What anybody may ask the ledger. Each method raises the errors that this module's docstring lists."""

    async def usage(self) -> wire.Usage:
        """Return what every service and every budget used (GET /v1/usage, for the operator only)."""
        return await self._ask("GET", "/v1/usage", wire.Usage)

    async def spend(self, query: Mapping[str, str]) -> Spend:
        """Return what was spent (GET /v1/spend). `/openapi.json` of the ledger describes the parameters in `query`."""
        return await self._ask("GET", "/v1/spend", Spend, query)

    async def reconciliation(self, days: int | None = None) -> Reconciliation:
        """Return what providers bill beside what was counted, `days` back; None for the ledger's default."""
        return await self._ask("GET", "/v1/reconciliation", Reconciliation, {"days": str(days)} if days else {})

    async def audit(self, query: Mapping[str, str]) -> Audit:
        """Return what happened (GET /v1/audit). `/openapi.json` of the ledger describes the parameters in `query`."""
        return await self._ask("GET", "/v1/audit", Audit, query)

    async def correct(self, order: Order) -> Correction:
        """Write off usage, or release what is quarantined (POST /v1/corrections). An order that is sent again changes nothing."""
        return await self._ask("POST", CORRECTIONS_PATH, Correction, body=msgspec.json.encode(order))

    async def corrections(self, namespace: str = "") -> Corrections:
        """Return what was written off and released, in a namespace or ("") in all, newest first."""
        query = {"namespace": namespace} if namespace else {}
        return await self._ask("GET", CORRECTIONS_PATH, Corrections, query)

    async def report_gpus(self, pods: Sequence[wire.GpuPod]) -> None:
        """Report which pods have GPUs (POST /v1/gpus, for the operator only).

        The ledger merges reports, so it is safe to repeat one. After an error, the pods before it are reported and those after it are not.
        """
        for start in range(0, len(pods), MAX_PODS):
            report = wire.GpuReport(contract=names.CONTRACT, pods=tuple(pods[start : start + MAX_PODS]))
            await self._ask("POST", "/v1/gpus", wire.GpuAnswer, body=msgspec.json.encode(report))

    async def _ask(
        self,
        method: str,
        path: str,
        kind: type[Answer],
        query: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> Answer:
        raw = await self._send(method, path, {"contract": str(names.CONTRACT), **(query or {})}, body)
        try:
            return msgspec.json.decode(raw, type=kind)
        except UNREADABLE as error:
            message = f"The ledger's answer could not be read, it may be of another version: {error}."
            raise UnavailableError(message) from error

    @abstractmethod
    async def _send(self, method: str, path: str, query: Mapping[str, str], body: bytes | None) -> bytes:
        """Send a request and return the body of a 200."""


class DirectClient(LedgerClient):
    """Connects to the ledger itself. It cannot connect before `trust` has a CA. Close it."""

    def __init__(
        self, url: str, token_file: Path, timeout: float = TIMEOUT, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        self._url = url
        self._token_file = token_file
        self._timeout = timeout
        self._transport = transport
        self._http: httpx.AsyncClient | None = None
        self._ca = ""

    async def close(self) -> None:
        """Close connections."""
        if self._http is not None:
            await self._http.aclose()
            self._http = None

    async def trust(self, ca: str) -> None:
        """Trust this PEM bundle from now on."""
        if ca == self._ca and self._http is not None:
            return
        await self.close()
        self._ca = ca
        if ca:
            context = ssl.create_default_context(cadata=ca)
            self._http = httpx.AsyncClient(
                verify=context, timeout=self._timeout, transport=self._transport, trust_env=False
            )

    async def _send(self, method: str, path: str, query: Mapping[str, str], body: bytes | None) -> bytes:
        if self._http is None:
            message = "The ledger cannot be asked yet: there is no certificate authority."
            raise UnavailableError(message)
        try:
            # The kubelet renews the token in place.
            token = await asyncio.to_thread(self._token_file.read_text)
        except OSError as error:
            message = f"The ledger cannot be asked: the token {self._token_file} cannot be read ({error.strerror})."
            raise UnavailableError(message) from error
        headers = {"Authorization": f"Bearer {token.strip()}"}
        try:
            with tracing.step(f"ledger {method} {path}"):
                async with (
                    asyncio.timeout(TOTAL_SECONDS),
                    self._http.stream(
                        method,
                        f"{self._url}{path}",
                        content=body,
                        params=query,
                        headers={**headers, **tracing.headers()},
                    ) as response,
                ):
                    raw = await bounded.read(response.aiter_bytes(), MAX_ANSWER)
        except bounded.TooLongError as error:
            message = f"The ledger's answer is longer than {MAX_ANSWER} bytes."
            raise UnavailableError(message) from error
        except TimeoutError as error:
            message = f"The ledger did not answer completely within {TOTAL_SECONDS:.0f} s."
            raise UnavailableError(message) from error
        except httpx.HTTPError as error:
            message = f"The ledger did not answer: {str(error) or type(error).__name__}."
            raise UnavailableError(message) from error
        if response.status_code != httpx.codes.OK:
            refused = error_of(f"The ledger did not serve {method} {path}", response.status_code, raw, response.headers)
            # A path that is not there is no missing API of Kubernetes, which the same answer would be from the API server.
            kind = NotFoundError if isinstance(refused, NotInstalledError) else type(refused)
            if response.status_code == httpx.codes.REQUEST_TIMEOUT:
                kind = UnavailableError  # the ledger waited for our body in vain: nothing is wrong with the request
            message = f"{refused}."
            raise kind(message)
        return raw


class ApiServerClient(LedgerClient):
    """Asks the ledger in namespace `system` through the API server. `token` makes the credential."""

    def __init__(self, client: kube.Client, system: str, credential: str) -> None:
        self._client = client
        self._system = system
        self._credential = credential

    async def _send(self, method: str, path: str, query: Mapping[str, str], body: bytes | None) -> bytes:
        # The client of Kubernetes encodes bodies itself.
        document = None if body is None else msgspec.json.decode(body)
        proxied = f"/api/v1/namespaces/{self._system}/services/https:{names.LEDGER}:https/proxy{path}"
        try:
            return await self._client.request_bytes(
                method, proxied, query, document, headers={names.HEADER_TOKEN: self._credential}, max_bytes=MAX_ANSWER
            )
        except ForbiddenError as error:
            if "services/proxy" not in str(error):
                raise  # the ledger's own word
            message = (
                f"you may not reach the ledger through the API server: ask for a binding of the Role {names.ROLE_ASK} in namespace "
                f"{self._system} (the chart's rbac.askLedger) ({error})"
            )
            raise ForbiddenError(message) from error
        except (NotFoundError, NotInstalledError) as error:
            message = f"there is no ledger in namespace {self._system} ({error})"
            raise NotFoundError(message) from error


async def token(client: kube.Client, accounts: Sequence[tuple[str, str]]) -> str:
    """Make a token for the ledger, of the first of these service accounts (namespace, name) that the user may make one for.

    Raises ForbiddenError where there is none.
    """
    refused: list[str] = []
    for namespace, name in accounts:
        body = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"audiences": [names.TOKEN_AUDIENCE], "expirationSeconds": TOKEN_SECONDS},
        }
        try:
            answer = await client.request(
                "POST", f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token", None, body
            )
        except (ForbiddenError, NotFoundError):
            refused.append(f"{namespace}/{name}")
            continue
        return str(answer["status"]["token"])
    message = (
        f"you may not make a token for {' or '.join(refused)} (or it does not exist): ask for the right to create "
        "serviceaccounts/token there"
    )
    raise ForbiddenError(message)
