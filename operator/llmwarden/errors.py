"""Our errors, by what the person or the loop can do about them. No kopf in here: handlers translate."""


class WardenError(Exception):
    """Base of every error that we raise on purpose; its text is a sentence a person can act on."""


class InvalidSpecError(WardenError):
    """The spec can never work as written: becomes a condition; wait for an edit, do not retry."""


class UnavailableError(WardenError):
    """Something we need did not answer (API server, Prometheus, ledger): retry with backoff."""


class NotInstalledError(WardenError):
    """An optional API (such as the Prometheus Operator's) is not there: a condition; catch up when it appears."""
