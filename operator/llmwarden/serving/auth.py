"""Who calls: bearer tokens checked by TokenReview, with the answer remembered for a while.

Tokens are remembered by their hash only. A deleted pod's token is therefore good for up to `GOOD_SECONDS` more: it can
only add to what its pod has used.
"""

import asyncio
import hashlib
import logging
import re
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from llmwarden import names
from llmwarden.kube import Client, Review

logger = logging.getLogger(__name__)

GOOD_SECONDS: Final = 300.0  # ten thousand proxies are some thirty reviews a second
BAD_SECONDS: Final = 5.0
REMEMBERED: Final = 20_000  # tokens: two per pod of the largest cluster there is time for
LONGEST_TOKEN: Final = 8192  # characters
MOST_REVIEWS: Final = 16  # at a time: many unknown tokens must not flood the API server

_POD_NAME: Final = "authentication.kubernetes.io/pod-name"
_POD_UID: Final = "authentication.kubernetes.io/pod-uid"
_ACCOUNT: Final = re.compile(r"system:serviceaccount:([a-z0-9-]+):([a-z0-9.-]+)")


@dataclass(frozen=True, slots=True)
class Caller:
    """A service account, and the pod that its token is bound to ("" where it is bound to none)."""

    namespace: str
    account: str
    pod_name: str = ""
    pod_uid: str = ""


class Authenticator(Protocol):
    """Tells whose a token is."""

    async def caller(self, token: str) -> Caller | None:
        """Return None for a token that is not good. Raises UnavailableError when that cannot be found out now."""
        ...


class TokenReviewer:
    """The Authenticator of production. `monotonic` is in seconds."""

    def __init__(self, client: Client, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._client = client
        self._monotonic = monotonic
        self._known: OrderedDict[bytes, tuple[float, Caller | None]] = OrderedDict()
        self._asked: dict[bytes, asyncio.Task[Caller | None]] = {}
        self._gate = asyncio.Semaphore(MOST_REVIEWS)

    async def caller(self, token: str) -> Caller | None:
        """See Authenticator. Many calls with one token ask the API server once."""
        if len(token) > LONGEST_TOKEN:
            return None
        digest = hashlib.sha256(token.encode()).digest()
        cached = self._known.get(digest)
        if cached is not None and self._monotonic() < cached[0]:
            return cached[1]
        review = self._asked.get(digest)
        if review is None:
            review = asyncio.create_task(self._review(digest, token))
            self._asked[digest] = review
            review.add_done_callback(lambda _: self._asked.pop(digest, None))
        # Shielded: a client that goes away must not take the answer from the others.
        return await asyncio.shield(review)

    async def _review(self, digest: bytes, token: str) -> Caller | None:
        async with self._gate:
            review = await self._client.token_review(token, (names.TOKEN_AUDIENCE,))
        caller = caller_of(review)
        if caller is None:
            logger.info("a token was refused: %s", review.error or "it is not a service account's, or not for us")
        until = self._monotonic() + (GOOD_SECONDS if caller else BAD_SECONDS)
        self._known[digest] = (until, caller)
        self._known.move_to_end(digest)
        while len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        return caller


def caller_of(review: Review) -> Caller | None:
    """Return who a review is about; None unless it is a service account's good token with our audience."""
    if not review.authenticated or names.TOKEN_AUDIENCE not in review.audiences:
        return None
    account = _ACCOUNT.fullmatch(review.username)
    if account is None:
        return None
    return Caller(account[1], account[2], _one(review.extra.get(_POD_NAME, ())), _one(review.extra.get(_POD_UID, ())))


def is_operator(caller: Caller, namespace: str) -> bool:
    """Whether the caller is our own operator, which runs in `namespace`."""
    return caller.namespace == namespace and caller.account == names.OPERATOR


def is_pod(caller: Caller, namespace: str, name: str, uid: str) -> bool:
    """Whether the caller's token is bound to this very pod."""
    return bool(caller.pod_uid) and (caller.namespace, caller.pod_name, caller.pod_uid) == (namespace, name, uid)


def _one(values: tuple[str, ...]) -> str:
    # The API server gives one; anything else is not for us to interpret.
    return values[0] if len(values) == 1 else ""
