"""What `kubectl llm` takes from the kubeconfig and from the cluster: a namespace, an LLMService, and a client of the ledger.

To ask the ledger, a user needs two rights: `get` on the ledger's services/proxy (the Role names.ROLE_ASK, which the chart binds to the groups of
its `rbac.askLedger`), and `create` on the serviceaccounts/token of an account that may list LLMServices.
"""

import os
from pathlib import Path
from typing import Any, Final

import yaml

from llmwarden import kube, names
from llmwarden.clients import ledger
from llmwarden.clients.ledger import ApiServerClient
from llmwarden.errors import (
    ForbiddenError,
    InvalidSpecError,
    NotFoundError,
    NotInstalledError,
    WardenError,
)

VIEWER: Final = "llmwarden-viewer"
LONGEST: Final = 256  # characters of a user's name
LISTED: Final = 10  # names in a message


def default_namespace(kubeconfig: str | None, context: str | None) -> str:
    """Return the namespace of the context in use, by kubectl's own rules; "default" where the context has none."""
    given = kubeconfig or os.environ.get("KUBECONFIG") or str(Path.home() / ".kube" / "config")
    contexts: dict[str, str] = {}
    current = context or ""
    for path in given.split(os.pathsep):
        try:
            config = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except (OSError, yaml.YAMLError):
            continue  # to connect with it will fail with a sentence that says why
        if isinstance(config, dict):
            current = current or str(config.get("current-context") or "")
            for item in config.get("contexts") or ():
                contexts.setdefault(item.get("name", ""), (item.get("context") or {}).get("namespace") or "default")
    return contexts.get(current, "default")


def accounts(given: str, namespace: str, system: str) -> list[tuple[str, str]]:
    """List the service accounts (namespace, name) to ask with, the preferred one first.

    Raises InvalidSpecError if `given` is neither NAMESPACE/NAME nor NAME.
    """
    if given:
        owner, _, name = given.rpartition("/")
        if not name or "/" in owner:
            message = f"--service-account {given!r} is not NAMESPACE/NAME"
            raise InvalidSpecError(message)
        return [(owner or namespace or system, name)]
    return [(system, VIEWER), *([(namespace, "default")] if namespace else [])]


async def ledger_client(client: kube.Client, system: str, candidates: list[tuple[str, str]]) -> ApiServerClient:
    """Make a client of the ledger in namespace `system`, with the rights of the first of these accounts that can be used.

    Raises ForbiddenError with what to do.
    """
    try:
        credential = await ledger.token(client, candidates)
    except ForbiddenError as error:
        message = f"{error}, or name another account with --service-account NAMESPACE/NAME"
        raise ForbiddenError(message) from error
    return ApiServerClient(client, system, credential)


async def whoami(client: kube.Client) -> str:
    """Return the name of the user, as the API server has it; "" where it does not say (Kubernetes below 1.28)."""
    review = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
    try:
        answer = await client.request("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", None, review)
    except WardenError:
        return ""
    return str(((answer.get("status") or {}).get("userInfo") or {}).get("username") or "")[:LONGEST]


def no_ledger(error: NotFoundError) -> NotFoundError:
    """Return the error with the option by which one says where the ledger is."""
    return NotFoundError(f"{error}; say where it is with --ledger-namespace")


async def service(client: kube.Client, namespace: str, name: str) -> dict[str, Any]:
    """Read an LLMService as JSON. Raises WardenError with a sentence that says what to do."""
    try:
        return await client.get(names.API_VERSION, "llmservices", name, namespace)
    except NotInstalledError as error:
        message = "this cluster has no LLMServices: LLM Warden is not installed here, or this is the wrong context"
        raise NotInstalledError(message) from error
    except ForbiddenError as error:
        message = (
            f"you may not read LLMService {name} in namespace {namespace}: ask for a binding of the ClusterRole {names.ROLE_VIEW} "
            f"or view there ({error})"
        )
        raise ForbiddenError(message) from error
    except NotFoundError as error:
        message = f"there is no LLMService {name} in namespace {namespace}{await _others(client, namespace)}"
        raise NotFoundError(message) from error


async def _others(client: kube.Client, namespace: str) -> str:
    """Name the LLMServices of the namespace, if the user may list them."""
    try:
        others = [item["metadata"]["name"] for item in await client.list(names.API_VERSION, "llmservices", namespace)]
    except WardenError:
        return "; name another with -n"
    if not others:
        return ", nor any other; name another namespace with -n"
    return f"; there are {', '.join(sorted(others)[:LISTED])}{', and more' if len(others) > LISTED else ''}"
