"""The Kubernetes API: a thin typed client and informers. The only package that imports the `kubernetes` client."""

from llmwarden.kube.client import Client, Review, connect
from llmwarden.kube.errors import ExpiredError, RefusedByBudgetError, ThrottledError
from llmwarden.kube.informer import Informer, ObjectName, version_of
from llmwarden.kube.scoped import ScopedInformer

__all__ = [
    "Client",
    "ExpiredError",
    "Informer",
    "ObjectName",
    "RefusedByBudgetError",
    "Review",
    "ScopedInformer",
    "ThrottledError",
    "connect",
    "version_of",
]
