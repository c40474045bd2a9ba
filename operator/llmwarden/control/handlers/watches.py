"""kopf's watches: each event is told to the world, which marks what it makes dirty. No policy, no patches, no annotations.

`on.event` alone: handlers of create, update and resume keep state in annotations, and timers and daemons add finalizers.
"""

from collections.abc import Callable
from typing import Any

import kopf

from llmwarden import names
from llmwarden.control.observe.resources import KINDS, NAMESPACE
from llmwarden.kube.client import PAGE

Take = Callable[[str, dict[str, Any] | None, tuple[str, str]], None]  # as observe.world.World.take


def registry(take: Take) -> kopf.OperatorRegistry:
    """Make the handlers of one operator, which call `take`."""
    made = kopf.OperatorRegistry()

    def watch(kind: str, *resource: str) -> None:
        async def seen(event: kopf.RawEvent, name: str | None, namespace: str | None, **_: Any) -> None:
            gone = event["type"] == "DELETED"
            # kopf's own views of the body would be kept as long as the object: take the plain one.
            item: dict[str, Any] = {"kind": kind, **event["object"]}
            take(kind, None if gone else item, (namespace or "", name or ""))

        kopf.on.event(*resource, id=f"seen-{kind.lower()}", registry=made)(seen)

    for kind, plural in KINDS.items():
        watch(kind, names.GROUP, names.VERSION, plural)
    watch(NAMESPACE, "", "v1", "namespaces")

    kopf.on.login(registry=made)(_login)
    return made


def _login(**arguments: Any) -> kopf.ConnectionInfo | None:
    """Without the `kubernetes` client's own login: its synchronous half would be most of our memory."""
    return kopf.login_with_service_account(**arguments) or kopf.login_with_kubeconfig(**arguments)


def settings() -> kopf.OperatorSettings:
    """How kopf is to behave: alone, without Events of its own, without a limit that would cap throughput."""
    made = kopf.OperatorSettings()
    made.peering.standalone = True
    made.posting.enabled = False
    made.watching.chunk_size = PAGE  # else a list is in memory whole, and each of its objects in a task of its own
    made.watching.server_timeout = 300
    made.watching.client_timeout = 330
    made.watching.connect_timeout = 10
    made.networking.request_timeout = 30
    # An object's worker need not outlive its event: nothing is batched.
    made.queueing.idle_timeout = 1.0
    # It would kill the process where kopf does not end in time: that is ours to decide.
    made.process.ultimate_exiting_timeout = None
    return made
