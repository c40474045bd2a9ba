import json

import pytest

from llmwarden.errors import (
    ConflictError,
    ForbiddenError,
    NotFoundError,
    NotInstalledError,
    RefusedError,
    UnavailableError,
    WardenError,
)
from llmwarden.kube.client import path_of
from llmwarden.kube.errors import ExpiredError, RefusedByBudgetError, ThrottledError, error_of


def status(code: int, message: str = "no", **details: object) -> bytes:
    return json.dumps({"kind": "Status", "code": code, "message": message, "details": details}).encode()


@pytest.mark.parametrize(
    ("code", "body", "kind"),
    [
        (401, status(401), ForbiddenError),
        (403, status(403), ForbiddenError),
        (404, status(404, name="one", kind="configmaps"), NotFoundError),
        (404, b"404 page not found\n", NotInstalledError),
        (404, status(404), NotInstalledError),
        (409, status(409), ConflictError),
        (410, status(410), ExpiredError),
        (422, status(422), RefusedError),
        (429, status(429), ThrottledError),
        (429, status(429, causes=[{"reason": "DisruptionBudget"}]), RefusedByBudgetError),
        (500, b"", UnavailableError),
        (503, b"\xff\xfe", UnavailableError),
    ],
)
def test_each_answer_is_an_error_that_says_what_to_do(code: int, body: bytes, kind: type[WardenError]) -> None:
    error = error_of("GET /x", code, body, {})
    assert type(error) is kind
    assert "GET /x" in str(error)


@pytest.mark.parametrize(("header", "seconds"), [("3", 3.0), ("soon", None), (None, None)])
def test_throttling_says_how_long(header: str | None, seconds: float | None) -> None:
    error = error_of("GET /x", 429, status(429), {"Retry-After": header} if header else {})
    assert isinstance(error, ThrottledError)
    assert error.retry_after == seconds


def test_paths() -> None:
    assert path_of("v1", "pods", "shop", "one", "eviction") == "/api/v1/namespaces/shop/pods/one/eviction"
    assert path_of("apps/v1", "deployments") == "/apis/apps/v1/deployments"
    assert path_of("v1", "configmaps", "a/b", "c d") == "/api/v1/namespaces/a%2Fb/configmaps/c%20d"
