"""What the ledger knows: usage of every service and budget, in one question; providers' own figures, in another."""

import asyncio
import ssl
from pathlib import Path
from typing import TypeVar

import httpx
import msgspec

from llmwarden import names, tracing
from llmwarden.contracts import ledger as wire
from llmwarden.contracts.reconciliation import Reconciliation
from llmwarden.errors import UnavailableError

Answer = TypeVar("Answer", wire.Usage, Reconciliation)


class Ledger:
    """Asks the ledger, with the operator's own projected token. Close it."""

    def __init__(
        self, url: str, token_file: Path, timeout: float = 10.0, transport: httpx.AsyncBaseTransport | None = None
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

    async def usage(self) -> wire.Usage:
        """Ask for everything. Raises UnavailableError with a sentence."""
        return await self._get("/v1/usage", wire.Usage)

    async def reconciliation(self) -> Reconciliation:
        """Ask for every ProviderAccount. Raises UnavailableError with a sentence."""
        return await self._get("/v1/reconciliation", Reconciliation)

    async def post(self, path: str, body: bytes) -> None:
        """Post a body. Raises UnavailableError with a sentence."""
        await self._ask("POST", path, body)

    async def _get(self, path: str, kind: type[Answer]) -> Answer:
        response = await self._ask("GET", path)
        try:
            return msgspec.json.decode(response.content, type=kind)
        except msgspec.DecodeError as error:
            message = f"The ledger's answer could not be read: {error}."
            raise UnavailableError(message) from error

    async def _ask(self, method: str, path: str, body: bytes | None = None) -> httpx.Response:
        if self._http is None:
            message = "The ledger cannot be asked yet: there is no certificate authority."
            raise UnavailableError(message)
        try:
            # The kubelet renews the token in place.
            token = await asyncio.to_thread(self._token_file.read_text)
        except OSError as error:
            message = f"The ledger cannot be asked: the token {self._token_file} cannot be read ({error.strerror})."
            raise UnavailableError(message) from error
        try:
            with tracing.step(f"ledger {method} {path}"):
                response = await self._http.request(
                    method,
                    f"{self._url}{path}",
                    content=body,
                    params={"contract": names.CONTRACT},
                    headers={"Authorization": f"Bearer {token.strip()}", **tracing.headers()},
                )
        except httpx.HTTPError as error:
            message = f"The ledger did not answer: {str(error) or type(error).__name__}."
            raise UnavailableError(message) from error
        if response.status_code != httpx.codes.OK:
            message = f"The ledger answered {response.status_code}: {response.text[:200]}."
            raise UnavailableError(message)
        return response
