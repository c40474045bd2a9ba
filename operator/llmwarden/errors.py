"""Our errors, by what the person or the loop can do about them. No kopf in here: handlers translate."""

from typing import Final

import msgspec

UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What decoding JSON from outside may raise: it is no JSON or of another shape, no UTF-8, or nested without end."""


class WardenError(Exception):
    """Base of every error that we raise on purpose; its text is a sentence a person can act on."""


class InvalidSpecError(WardenError):
    """The spec can never work as written: becomes a condition; wait for an edit, do not retry."""


class UnavailableError(WardenError):
    """Something we need did not answer (API server, Prometheus, ledger): retry with backoff."""


class NotInstalledError(WardenError):
    """An optional API (such as the Prometheus Operator's) is not there: a condition; catch up when it appears."""


class NotFoundError(WardenError):
    """The object is not there (its API is): for a delete that is success, for a read it is an answer."""


class ConflictError(WardenError):
    """Somebody else changed or made the object first: read again and decide anew."""


class ForbiddenError(WardenError):
    """Our credentials may not do this: a fault of the installation's RBAC, not of the request."""


class RefusedError(WardenError):
    """The API server or its admission refused the request as it stands: repeating it unchanged is useless."""
