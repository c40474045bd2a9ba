"""The record of one finished call. Every sink gets the same one: the journal, the gate, the metrics, the spans."""

from typing import Final

from llmwarden.contracts.ledger import Labels, ServiceConfig, Tokens
from llmwarden.proxy.dialects.base import Answer, Asked
from llmwarden.proxy.money.busy import NO_TIMES
from llmwarden.proxy.money.lease import Reservations
from llmwarden.proxy.telemetry.trace import Trace

NO_LABELS: Final = Labels()
_NO_TOKENS: Final = Tokens()


class Record:
    """One finished or refused call. Durations are in seconds, None where there is none.

    `calls.settle` fills it in; sinks only read it. `asked` and `answer` are the call's own: what the request asks for and what the
    answer says stands there.
    """

    ended: int = 0  # nanoseconds of the epoch
    status: int = 0  # of HTTP, as the client saw it
    error: str = ""  # "" for success
    duration: float = 0.0
    model: str = ""  # that is charged: after a fallback; the one that answered, where the request named a deployment
    # Usage. `estimated`: the answer brought none.
    tokens: Tokens = _NO_TOKENS
    estimated: bool = False
    price_id: str | None = None  # None: no price is known; "": a provisional one
    picodollars: int | None = None  # None: no price is known
    context_share: float | None = None  # of the model's window that input and output took
    # Times.
    first_token: float | None = None
    per_token: float | None = None
    tokens_per_second: float | None = None  # of output, from its first token on
    times: tuple[int, int, int] = NO_TIMES  # of the pod's own model, in milliseconds: busy, prefill, decode
    labels: Labels = NO_LABELS
    retry: str = ""  # why the call counts as a retry: "header", "idempotency_key", "body"
    # The gate's decision: the budget that refused the call or changed its model, and whether it was refused.
    budget: str = ""
    refused: bool = False
    # For the books. `charge`: picodollars that budgets are charged, also where the cost is not known exactly.
    config: ServiceConfig | None = None  # of the service, when the call began
    charge: int = 0
    reservations: Reservations = ()
    stream: int = 0  # the stream's number in the journal; 0 for a call that was not noted there when it began

    def __init__(  # noqa: PLR0917 - once per call: keywords would cost
        self, service: str, server: str, provider: str, operation: str, trace: Trace, asked: Asked, answer: Answer
    ) -> None:
        self.service: Final = service
        self.server: Final = server  # the upstream, as the text of a span's attributes
        self.provider: Final = provider
        self.operation: Final = operation
        self.trace: Final = trace
        self.asked: Final = asked
        self.answer: Final = answer

    @property
    def failed(self) -> bool:
        """Whether it is an error of the provider's or of ours: not of a client that went away."""
        return bool(self.error) and self.error != "client_disconnected"
