"""`POST /v1/gpus`: the operator reports which pods have GPUs. Each replica then follows those reports from the database into `core`."""

import asyncio
import datetime as dt
import logging
from typing import Final

import anyio.to_thread
import msgspec
from starlette.responses import Response

from llmwarden import names
from llmwarden.contracts import ledger as wire
from llmwarden.domain.spans import Span
from llmwarden.errors import UNREADABLE, UnavailableError
from llmwarden.ledger.core import Core
from llmwarden.ledger.http import intake
from llmwarden.ledger.rating.aggregate import DAY, HORIZON_SECONDS
from llmwarden.ledger.store import PodKey, PodSpan, Store
from llmwarden.ledger.writer import Writer
from llmwarden.serving import answers, auth
from llmwarden.serving.answers import Refusal
from llmwarden.serving.guard import Visit

logger = logging.getLogger(__name__)

FOLLOW_SECONDS: Final = 5.0  # how soon other replicas know
LOST_SECONDS: Final = 600  # a pod that the operator, which tells of all, has not told of for so long is gone
STEADY_SECONDS: Final = 300.0  # for so long the operator must have told by then: it may just have come back
PAUSE_SECONDS: Final = 120.0  # between two reports: more is a pause
MOST_GPUS: Final = 1024  # of one pod
MOST_RATE: Final = 10**17  # picodollars an hour
LONGEST: Final = 128  # characters of a product
MAX_BODY: Final = 1024 * 1024


class GpuApi:
    """See the module. It holds the only copy of how far `core` has followed the database."""

    def __init__(self, core: Core, store: Store, writer: Writer, *, namespace: str) -> None:
        """`namespace` is our own: its operator alone may report."""
        self._core = core
        self._store = store
        self._writer = writer
        self._namespace = namespace
        self._number = -1
        self._following = asyncio.Lock()  # an older answer must not be applied after a newer one
        self._steady_since = 0.0
        self._last = 0.0

    async def gpus(self, visit: Visit) -> Response:
        """POST /v1/gpus."""
        if not auth.is_operator(visit.who(), self._namespace):
            raise Refusal(
                403, "forbidden", f"only the service account {names.OPERATOR} may report which pods have GPUs"
            )
        report = _report(visit.body)
        now = self._core.clock()
        told = [span for pod in report.pods if (span := self._span(pod, now)) is not None]
        if len(told) < len(report.pods):
            logger.warning("%d of %d pods with GPUs cannot be meant", len(report.pods) - len(told), len(report.pods))
        await self._writer.alone(lambda: self._store.hold(told))
        seconds = now.timestamp()
        if not 0 <= seconds - self._last <= PAUSE_SECONDS:
            self._steady_since = seconds
        self._last = seconds
        await self.follow()
        return answers.as_json(wire.GpuAnswer(contract=names.CONTRACT, accepted=len(told)))

    async def follow(self) -> None:
        """Bring `core` up to date with the database. Raises UnavailableError."""
        now = int(self._core.clock().timestamp())
        async with self._following:
            after = self._number
            sums, number = await anyio.to_thread.run_sync(lambda: self._store.held(after, now - HORIZON_SECONDS))
            lost = await anyio.to_thread.run_sync(lambda: self._store.lost((now - DAY) * 1000))
            self._core.hold(sums, lost)
            self._number = number

    async def lose(self) -> None:
        """Notice pods that vanished while nobody looked: they count until they were last seen. Raises UnavailableError."""
        now = self._core.clock().timestamp()
        if now - self._last > PAUSE_SECONDS or now - self._steady_since < STEADY_SECONDS:
            return
        before = int(now - LOST_SECONDS) * 1000
        for pod in await self._writer.alone(lambda: self._store.lose(before)):
            logger.warning(
                "pod %s/%s of %s held GPUs and vanished unseen; they count until %s, when it was last seen",
                pod.key.namespace,
                pod.name,
                pod.key.service,
                dt.datetime.fromtimestamp(pod.until / 1000, dt.UTC).isoformat(timespec="seconds"),
            )

    async def run(self) -> None:
        """Follow for ever; ends by cancellation only."""
        while True:
            try:
                await self.follow()
                await self.lose()
            except UnavailableError as error:
                logger.warning("the database does not answer, trying again: %s", error)
            await asyncio.sleep(FOLLOW_SECONDS)

    def _span(self, pod: wire.GpuPod, now: dt.datetime) -> PodSpan | None:
        namespace, _, service = pod.service.partition("/")
        named = all(intake.NAME.fullmatch(name) for name in (namespace, service, pod.name))
        texts = (pod.uid, pod.resource, pod.product)
        if not named or not all(0 < len(text) <= LONGEST and "\0" not in text for text in texts):
            return None
        if not 0 < pod.gpus <= MOST_GPUS or not 0 <= pod.rate < MOST_RATE:
            return None
        if pod.since.tzinfo is None or pod.until.tzinfo is None:
            return None
        latest = int(now.timestamp() * 1000)
        told = Span(int(pod.since.timestamp() * 1000), int(pod.until.timestamp() * 1000), pod.ended)
        return PodSpan(
            PodKey(namespace, service, pod.uid, pod.resource),
            pod.name,
            pod.product,
            pod.gpus,
            pod.serves,
            told.within(latest - HORIZON_SECONDS * 1000, latest),
            pod.rate,
        )


def _report(raw: bytes) -> wire.GpuReport:
    try:
        report = msgspec.json.decode(raw, type=wire.GpuReport)
    except UNREADABLE as error:
        raise Refusal(400, "malformed", f"the report does not match the contract: {error}") from error
    if report.contract != names.CONTRACT:
        message = f"this ledger speaks contract {names.CONTRACT}, not {report.contract}"
        raise Refusal(409, "unsupported_contract", message)
    return report
