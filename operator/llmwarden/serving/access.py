"""Whose spend a caller may see: that of the namespaces in which it may list LLMServices, by the API server's own word.

A person does not send us the token of their cluster account, which we could use as they can. `kubectl llm` asks the API
server for a token of a service account (TokenRequest: RBAC says who may) that is good for the ledger only, and comes
through the API server's proxy of our Service, which drops `Authorization`: so the token is in a header of our own. We
ask whose it is (TokenReview) and what that account may list (SubjectAccessReview). Plain RBAC throughout, and no port-forward.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, Protocol

from llmwarden import names
from llmwarden.kube import Client
from llmwarden.serving.auth import Caller

GOOD_SECONDS: Final = 10.0  # a right that was taken away ends so soon
REMEMBERED: Final = 4096


class Access(Protocol):
    """Tells whether a caller may list the LLMServices (or what else is said) of a namespace; "" is all namespaces."""

    async def may_list(self, caller: Caller, namespace: str, resource: str = "llmservices") -> bool:
        """Raises UnavailableError when that cannot be found out now."""
        ...

    async def may(self, caller: Caller, verb: str) -> bool:
        """Whether the caller has a verb on the LLMServices of all namespaces. Raises UnavailableError as above."""
        ...


class Reviewer:
    """The Access of production. `monotonic` is in seconds."""

    def __init__(self, client: Client, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._client = client
        self._monotonic = monotonic
        self._known: OrderedDict[tuple[str, str, str, str, str], tuple[float, bool]] = OrderedDict()

    async def may_list(self, caller: Caller, namespace: str, resource: str = "llmservices") -> bool:
        """See Access."""
        return await self._may(caller, namespace, resource, "list")

    async def may(self, caller: Caller, verb: str) -> bool:
        """See Access."""
        return await self._may(caller, "", "llmservices", verb)

    async def _may(self, caller: Caller, namespace: str, resource: str, verb: str) -> bool:
        key = (caller.namespace, caller.account, namespace, resource, verb)
        cached = self._known.get(key)
        if cached is not None and self._monotonic() < cached[0]:
            return cached[1]
        allowed = await self._ask(caller, namespace, resource, verb)
        self._known[key] = (self._monotonic() + GOOD_SECONDS, allowed)
        self._known.move_to_end(key)
        while len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        return allowed

    async def _ask(self, caller: Caller, namespace: str, resource: str, verb: str) -> bool:
        attributes = {
            "group": names.GROUP,
            "resource": resource,
            "verb": verb,
            **({"namespace": namespace} if namespace else {}),
        }
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {
                "user": f"system:serviceaccount:{caller.namespace}:{caller.account}",
                "groups": [
                    "system:serviceaccounts",
                    f"system:serviceaccounts:{caller.namespace}",
                    "system:authenticated",
                ],
                "resourceAttributes": attributes,
            },
        }
        answer = await self._client.request("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", None, review)
        return bool((answer.get("status") or {}).get("allowed"))
