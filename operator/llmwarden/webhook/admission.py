"""One AdmissionReview in, one out. Never refuses a pod: what cannot be injected is admitted as it is, with a warning."""

import base64
import datetime as dt
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import msgspec

from llmwarden.api.v1alpha1 import LLMService
from llmwarden.domain.budgets import Budget
from llmwarden.errors import WardenError
from llmwarden.injection.limits import NONE, Limits
from llmwarden.injection.selection import Finding
from llmwarden.injection.sidecar import decide
from llmwarden.serving import audit
from llmwarden.settings import Settings
from llmwarden.webhook.patch import diff

Result = Literal["injected", "skipped", "unselected", "unready", "error"]
_MAX_WARNINGS: Final = 10
_MAX_WARNING: Final = 250  # characters: the API server drops what is longer than 256


@dataclass(frozen=True, slots=True)
class World:
    """What the webhook knows of the cluster at one moment. `ready` is None, or says what is missing."""

    ready: str | None
    services: Callable[
        [str, Mapping[str, str]], Iterable[LLMService]
    ]  # that may select a pod, by namespace and its labels
    namespace_labels: Callable[[str], Mapping[str, str] | None]  # None: not known
    ca_pem: str
    limits: Callable[[str], Limits] = lambda _namespace: NONE  # of a namespace, by its name
    budgets: Callable[[LLMService], Iterable[Budget]] = lambda _: ()  # shared ones that hold for a service


@dataclass(frozen=True, slots=True)
class Answer:
    """The AdmissionReview to send, and how it went."""

    review: dict[str, Any]
    result: Result


class BadReviewError(WardenError):
    """The request is no AdmissionReview v1 of a pod: the caller's mistake."""


def review(body: bytes, world: World, settings: Settings) -> Answer:
    """Answer one AdmissionReview (admission.k8s.io/v1). Raises BadReviewError where it is none."""
    request = _request(body)
    uid, namespace = str(request["uid"]), str(request.get("namespace") or "")
    pod = request.get("object")
    if not isinstance(pod, dict) or (request.get("kind") or {}).get("kind") != "Pod" or request.get("subResource"):
        return _answer(uid, "unselected")
    if world.ready is not None:
        return _answer(uid, "unready", [f"LLM Warden did not look at this pod: {world.ready}"])
    labels = world.namespace_labels(namespace)
    if labels is None:
        # The namespace is newer than our copy: only its opt-out could be missed, and its services would be new as well.
        labels = {}
    try:
        injection = decide(
            pod,
            world.services(namespace, (pod.get("metadata") or {}).get("labels") or {}),
            settings,
            namespace=namespace,
            namespace_labels=labels,
            ca_pem=world.ca_pem,
            limits=world.limits(namespace),
            shared=world.budgets,
        )
    except WardenError as error:
        return _answer(uid, "error", [f"LLM Warden left this pod as it is: {error}"])
    warnings = [
        f"LLM Warden: {finding.service}: {finding.message}" + (f"; {finding.remedy}" if finding.remedy else "")
        for finding in injection.findings
    ]
    if not request.get("dryRun"):
        _audit(namespace, pod, injection.findings)
    if not injection.services:
        result: Result = "skipped" if injection.findings else "unselected"
        return _answer(uid, result, warnings, diff(pod, injection.pod))
    return _answer(uid, "injected", warnings, diff(pod, injection.pod))


def _audit(namespace: str, pod: Mapping[str, Any], findings: Iterable[Finding]) -> None:
    """Write down which selected pods get no proxy: what they spend is not measured."""
    metadata = pod.get("metadata") or {}
    for finding in findings:
        if finding.blocking:
            audit.write(
                {
                    "at": dt.datetime.now(dt.UTC),
                    "kind": "OptedOut" if finding.reason == "OptedOut" else "Unmetered",
                    "text": f"LLMService {finding.service}: {finding.reason}: {finding.message}",
                    "namespace": namespace,
                    "object": f"Pod/{namespace}/{metadata.get('name') or metadata.get('generateName', '')}",
                }
            )


def _request(body: bytes) -> dict[str, Any]:
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        message = f"the body is no JSON: {error}"
        raise BadReviewError(message) from error
    request = value.get("request") if isinstance(value, dict) else None
    if not isinstance(request, dict) or not request.get("uid") or value.get("apiVersion") != "admission.k8s.io/v1":
        message = "the body is no AdmissionReview of admission.k8s.io/v1 with a request"
        raise BadReviewError(message)
    return request


def _answer(
    uid: str, result: Result, warnings: Iterable[str] = (), patch: list[dict[str, Any]] | None = None
) -> Answer:
    response: dict[str, Any] = {"uid": uid, "allowed": True}
    if patch:
        response["patchType"] = "JSONPatch"
        response["patch"] = base64.b64encode(msgspec.json.encode(patch)).decode()
    shown = [_ascii(text) for text in warnings][:_MAX_WARNINGS]
    if shown:
        response["warnings"] = shown
    return Answer({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response}, result)


def _ascii(text: str) -> str:
    """Make a text fit for a Warning header: one line, short."""
    line = " ".join(text.split())
    return line if len(line) <= _MAX_WARNING else line[: _MAX_WARNING - 3] + "..."
