"""How `kubectl llm` reaches the ledger: through the API server, with a token that is good for the ledger only.

See `serving/access.py` for why. No port-forward, and nothing but RBAC: `get` on the ledger's services/proxy (the chart gives it
to all who are authenticated), and `create` on the serviceaccounts/token of an account that may list LLMServices.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
import yaml

from llmwarden import kube, names
from llmwarden.contracts.reconciliation import Reconciliation
from llmwarden.contracts.spend import Spend
from llmwarden.errors import (
    ForbiddenError,
    InvalidSpecError,
    NotFoundError,
    NotInstalledError,
    UnavailableError,
    WardenError,
)

Answer = TypeVar("Answer", Spend, Reconciliation)

HEADER: Final = "X-LLMWarden-Token"
VIEWER: Final = "llmwarden-viewer"
LISTED: Final = 10  # names in a message
TOKEN_SECONDS: Final = 600  # the shortest that the API server gives


def default_namespace(kubeconfig: str | None, context: str | None) -> str:
    """Namespace of the context in use, as kubectl takes it; "default" where none is said."""
    given = kubeconfig or os.environ.get("KUBECONFIG") or str(Path.home() / ".kube" / "config")
    contexts: dict[str, str] = {}
    current = context or ""
    for path in given.split(os.pathsep):
        try:
            found = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except (OSError, yaml.YAMLError):
            continue  # the connection says what is wrong with it
        if isinstance(found, dict):
            current = current or str(found.get("current-context") or "")
            for item in found.get("contexts") or ():
                contexts.setdefault(item.get("name", ""), (item.get("context") or {}).get("namespace") or "default")
    return contexts.get(current, "default")


def accounts(given: str, namespace: str, system: str) -> list[tuple[str, str]]:
    """Service accounts (namespace, name) whose token may be tried, in this order.

    Raises InvalidSpecError where what was given is not NAMESPACE/NAME or NAME.
    """
    if given:
        owner, _, name = given.rpartition("/")
        if not name or "/" in owner:
            message = f"--service-account {given!r} is not NAMESPACE/NAME"
            raise InvalidSpecError(message)
        return [(owner or namespace or system, name)]
    return [(system, VIEWER), *([(namespace, "default")] if namespace else [])]


async def service(client: kube.Client, namespace: str, name: str) -> dict[str, Any]:
    """Read an LLMService as JSON. Raises WardenError with a sentence that says what to do."""
    try:
        return await client.get(names.API_VERSION, "llmservices", name, namespace)
    except NotInstalledError as error:
        message = "this cluster has no LLMServices: LLM Warden is not installed here, or this is the wrong context"
        raise NotInstalledError(message) from error
    except ForbiddenError as error:
        message = (
            f"you may not read LLMService {name} in namespace {namespace}: ask for a binding of the ClusterRole llmwarden-view "
            f"or view there ({error})"
        )
        raise ForbiddenError(message) from error
    except NotFoundError as error:
        message = f"there is no LLMService {name} in namespace {namespace}{await _others(client, namespace)}"
        raise NotFoundError(message) from error


async def _others(client: kube.Client, namespace: str) -> str:
    """Name what there is instead, as far as one may see it."""
    try:
        found = [item["metadata"]["name"] for item in await client.list(names.API_VERSION, "llmservices", namespace)]
    except WardenError:
        return "; name another with -n"
    if not found:
        return ", nor any other; name another namespace with -n"
    return f"; there are {', '.join(sorted(found)[:LISTED])}{', and more' if len(found) > LISTED else ''}"


async def token(client: kube.Client, candidates: list[tuple[str, str]]) -> str:
    """Make a token for the first of these accounts that we may make one for. Raises ForbiddenError with what to do."""
    refused: list[str] = []
    for namespace, name in candidates:
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
        "serviceaccounts/token there, or name another account with --service-account NAMESPACE/NAME"
    )
    raise ForbiddenError(message)


async def spend(client: kube.Client, system: str, credential: str, query: Mapping[str, str]) -> Spend:
    """Ask the ledger in namespace `system`. Raises WardenError with a sentence."""
    return await _asked(client, system, credential, "spend", query, kind=Spend)


async def reconciliation(client: kube.Client, system: str, credential: str, days: int) -> Reconciliation:
    """The same, of providers' own figures."""
    return await _asked(client, system, credential, "reconciliation", {"days": str(days)}, kind=Reconciliation)


async def _asked(
    client: kube.Client, system: str, credential: str, what: str, query: Mapping[str, str], *, kind: type[Answer]
) -> Answer:
    path = f"/api/v1/namespaces/{system}/services/https:{names.LEDGER}:https/proxy/v1/{what}"
    try:
        answer: dict[str, Any] = await client.request("GET", path, query, headers={HEADER: credential})
    except (NotFoundError, NotInstalledError) as error:
        message = f"there is no ledger in namespace {system}; say where it is with --ledger-namespace ({error})"
        raise NotFoundError(message) from error
    try:
        return msgspec.convert(answer, kind, strict=False)
    except msgspec.ValidationError as error:
        message = f"the ledger's answer is not understood, it may be of another version: {error}"
        raise UnavailableError(message) from error
