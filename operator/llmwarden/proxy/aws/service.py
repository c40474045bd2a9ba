"""A route to Bedrock: what clients signed for our address is signed again for the upstream's. Wraps a `seam.Service`.

A signature covers the body's hash, so every signed request is held until it is whole, measured or not. Bedrock itself takes at most
25 MB (InvokeModel; less elsewhere) and no `UNSIGNED-PAYLOAD`, so nothing it would take is refused here.
"""

import datetime as dt
import hashlib
import re
from collections.abc import Awaitable
from typing import Final

import msgspec

from llmwarden.proxy.aws import sigv4
from llmwarden.proxy.aws.keyring import Keyring, NoKeysError
from llmwarden.proxy.aws.sigv4 import Keys, Signer
from llmwarden.proxy.http.http1 import HOP_BY_HOP, BadMessageError, origin_form
from llmwarden.proxy.seam import Call, Decision, Forward, Header, Refusal, Request, Service

BODY_BYTES: Final = 26 * 1024 * 1024  # above Bedrock's own 25 MB: what is larger it would refuse as well
_SHA256: Final = re.compile(rb"[0-9a-f]{64}")
_EMPTY: Final = hashlib.sha256(b"").hexdigest().encode()
_HOST: Final = frozenset({b"host"})
# By which AWS says that the credentials are not (or no longer) good.
_REJECTED: Final = (b"ExpiredToken", b"UnrecognizedClient", b"InvalidClientTokenId", b"InvalidSignature")
_REFUSED: Final = frozenset({400, 401, 403})


def refusal(status: int, kind: str, message: str) -> Refusal:
    """An error in the shape by which AWS' SDKs name their exceptions."""
    body = msgspec.json.encode({"message": f"LLM Warden: {message}"})
    return Refusal(status, body, ((b"x-amzn-errortype", kind.encode()),))


class SignedService:
    """`seam.Service`. `host` is the Host header that is sent (the client's own where it is empty), `prefix` what comes before every path."""

    def __init__(self, inner: Service, ring: Keyring, *, host: str, prefix: bytes) -> None:
        self.inner = inner
        self.host = host
        self.prefix = prefix
        self.ring = ring
        self.signer = Signer()
        # These go straight through.
        self.spliced = inner.spliced
        self.limited = inner.limited
        self.credentials = inner.credentials
        self.error_body = inner.error_body

    def open(self, request: Request) -> Call | None:
        """A call for everything that is signed; what brings a bearer key, or gets ours, needs no signature."""
        call = self.inner.open(request)
        if not sigv4.is_signed(request.headers) or self.inner.credentials()[1]:
            return call
        return SignedCall(self, call, request)


class SignedCall:
    """`seam.Call`: signs, and lets the measured call beneath it do all the rest; there is none where nothing is measured."""

    __slots__ = ("_call", "_hash", "_keys", "_request", "_service", "_target")

    def __init__(self, service: SignedService, call: Call | None, request: Request) -> None:
        self._service = service
        self._call = call
        self._request = request
        self._target = request.target
        self._hash = _EMPTY
        self._keys: Keys | None = None

    def admit(self, body: bytes | None) -> Decision | Awaitable[Decision]:
        """Let the measured call decide; then have credentials at hand."""
        decision = self._call.admit(body) if self._call is not None else Forward(body or None)
        if not isinstance(decision, Forward | Refusal):
            return self._wait(decision, body)
        return self._decided(decision, body)

    async def _wait(self, decision: Awaitable[Decision], body: bytes | None) -> Decision:
        outcome = self._decided(await decision, body)
        return outcome if isinstance(outcome, Forward | Refusal) else await outcome

    def _decided(self, decision: Decision, body: bytes | None) -> Decision | Awaitable[Decision]:
        if isinstance(decision, Refusal):
            return decision
        sent = decision.body if decision.body is not None else body
        if sent is not None:
            self._hash = hashlib.sha256(sent).hexdigest().encode() if sent else _EMPTY
        else:
            # It is too large to hold, or encoded: only a client that has said the hash can be signed for.
            known = _said_hash(self._request.headers)
            if known is None:
                message = "a request that is signed must be plain and at most 25 MB, as Bedrock's own limit is"
                return self._refuse(413, "ValidationException", message, "too_large")
            self._hash = known
        self._target = decision.target or self._target
        self._keys = self._service.ring.current()
        return decision if self._keys is not None else self._resolve(decision)

    async def _resolve(self, decision: Decision) -> Decision:
        try:
            self._keys = await self._service.ring.get()
        except NoKeysError as error:
            if error.lasting:
                return self._refuse(403, "UnrecognizedClientException", str(error), "no_credentials")
            return self._refuse(503, "ServiceUnavailableException", str(error), "no_credentials")
        return decision

    def _refuse(self, status: int, kind: str, message: str, error: str) -> Refusal:
        if self._call is not None:
            self._call.fail(error, status)
        return refusal(status, kind, message)

    def head(self, request: Request) -> tuple[frozenset[bytes], list[bytes]]:
        """What the measured call changes, and the signature over what is then sent."""
        drop, lines = self._call.head(request) if self._call is not None else (frozenset[bytes](), [])
        drop |= sigv4.SIGNATURE_HEADERS
        service = self._service
        gone = drop | HOP_BY_HOP | request.drop
        if service.host:
            gone |= _HOST
        sent: list[Header] = [item for item in request.headers if item[0] not in gone]
        if service.host:
            sent.append((b"host", b"Host", service.host.encode()))
        try:
            target = service.prefix + origin_form(self._target)
        except BadMessageError:
            target = b"/"  # it goes nowhere: writing its head fails for the same reason
        if self._keys is not None:
            lines = lines + service.signer.sign(
                self._keys,
                sigv4.scope(request.headers, service.host),
                method=request.method,
                target=target,
                headers=sent,
                payload_hash=self._hash,
                now=dt.datetime.now(dt.UTC),
            )
        return drop, lines

    def answered(self, status: int, headers: list[Header]) -> bool:
        """Note a rejection of our signature: the credentials may have changed."""
        if status in _REFUSED and any(
            low == b"x-amzn-errortype" and value.startswith(_REJECTED) for low, _, value in headers
        ):
            self._service.ring.reject()
        return self._call.answered(status, headers) if self._call is not None else False

    def feed(self, data: bytes) -> bytes:
        """A piece of the answer."""
        return self._call.feed(data) if self._call is not None else data

    def end(self) -> bytes:
        """The answer is complete."""
        return self._call.end() if self._call is not None else b""

    def fail(self, error: str, status: int | None = None) -> bytes:
        """The answer broke."""
        return self._call.fail(error, status) if self._call is not None else b""

    def error_body(self, status: int, code: str, message: str) -> bytes:
        """An error of ours, as the measured call's dialect words it."""
        inner = self._call if self._call is not None else self._service
        return inner.error_body(status, code, message)


def _said_hash(headers: list[Header]) -> bytes | None:
    for low, _, value in headers:
        if low == b"x-amz-content-sha256" and _SHA256.fullmatch(value.strip()):
            return value.strip()
    return None
