"""Measured calls: the seam's other side. It reads beside the path, asks the gate, and settles once per call.

A call's life: `MeteredService.open` finds the dialect by the target. `admission` reads the request and decides. `call` reads the answer as it
passes. `settle` makes one record, which goes to the sinks.
"""

import posixpath
from typing import Final
from urllib.parse import unquote

from llmwarden.contracts.ledger import ServiceConfig
from llmwarden.contracts.sidecar import Route
from llmwarden.proxy.calls import signals
from llmwarden.proxy.calls.call import MeteredCall
from llmwarden.proxy.calls.credentials import Credentials
from llmwarden.proxy.calls.route import MeteredRoute, Opened, Shared
from llmwarden.proxy.dialects import ordered
from llmwarden.proxy.dialects.base import Dialect, Match, Target
from llmwarden.proxy.http.http1 import BadMessageError, origin_form, united
from llmwarden.proxy.record import NO_LABELS
from llmwarden.proxy.seam import Request

_PATHS: Final = 256  # targets whose meaning is remembered


class MeteredService:
    """`seam.Service` of one route. It understands every dialect, its backend's own first: none is a way around a budget."""

    def __init__(self, route: Route, dialects: tuple[Dialect, ...], shared: Shared) -> None:
        self._backend = route.backend
        self._dialects = ordered(dialects, route.backend)
        self.shared = shared
        self.route = MeteredRoute(route, shared)
        self._credentials = Credentials(
            route.credential_file, route.backend, shared.metrics.credential_errors.labels(route.service).inc
        )
        self._targets: dict[bytes, tuple[Match, Dialect] | None] = {}

    def open(self, request: Request) -> MeteredCall | None:
        """A call when the request goes to an endpoint that some dialect knows."""
        ledger_config = self.shared.ledger.config
        config = ledger_config.services.get(self.route.name) if ledger_config is not None else None
        if self.route.hard and config is not None and config.state == "Released":
            config = None  # the ledger knows nothing of the service, and the webhook knew of a budget: the ledger is to say more
        kept = request.kept
        opened = kept.opened if kept is not None else None
        if not isinstance(opened, Opened) or opened.route is not self.route or opened.config is not config:
            opened = self._open(request, config)
            if opened is None:
                return None
            if kept is not None:
                kept.opened = opened
        return MeteredCall(opened, request)

    def _open(self, request: Request, config: ServiceConfig | None) -> Opened | None:
        """What a request's head says; None, and counted, for one that is not measured."""
        if config is not None and config.state == "Released":
            reason = "released"
        elif request.upgrade:
            reason = "upgrade"
        else:
            endpoint = self._find(request)
            if endpoint is not None and (not endpoint[0].poll or endpoint[0].poll in self.route.deferred):
                headers = signals.read(request.headers)
                labels = self.shared.labels.of(headers, config.labels if config is not None else NO_LABELS)
                return Opened(self.route, endpoint[0], endpoint[1], config, headers, labels)
            reason = "path" if request.method == b"POST" else "method"
        self.route.unmeasured(reason)
        return None

    def spliced(self, reason: str) -> None:
        """Count what passes without being understood."""
        self.route.unmeasured(reason)

    def limited(self, reason: str) -> None:
        """Count what a limit of ours turned away."""
        self.shared.metrics.limited.labels(self.route.name, reason).inc()

    def credentials(self) -> tuple[frozenset[bytes], bytes]:
        """The provider's key, when we hold it and the service is still there; headers that are for us go no further."""
        if self.route.name in self.shared.ledger.keyless:
            return signals.LABEL_HEADERS, b""
        drop, line = self._credentials.headers()
        return united(drop, signals.LABEL_HEADERS), line

    def error_body(self, status: int, code: str, message: str) -> bytes:
        """An error of ours, in the backend's own shape, that says whose it is."""
        return self._dialects[0].error_body(status, code, f"LLM Warden: {message}")

    def _find(self, request: Request) -> tuple[Match, Dialect] | None:
        post = request.method == b"POST"
        if post:
            try:
                return self._targets[request.target]
            except KeyError:
                pass
        target = Target(
            request.method.decode("latin-1"),
            normalise(request.target),
            request.target.partition(b"?")[2].decode("latin-1"),
            self._backend,
        )
        endpoint = None
        for dialect in self._dialects:
            match = dialect.match(target)
            if match is not None:
                endpoint = match, dialect
                break
        if post and len(self._targets) < _PATHS:
            self._targets[request.target] = endpoint
        return endpoint


def normalise(target: bytes) -> str:
    """The path as servers read it: decoded, without doubled slashes, dots and a slash at its end. No spelling walks around a budget."""
    try:
        path = origin_form(target).partition(b"?")[0].partition(b"#")[0]
    except BadMessageError:
        return "/"
    return posixpath.normpath("/" + unquote(path.decode("latin-1")).lstrip("/"))
