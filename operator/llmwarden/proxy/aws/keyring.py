"""The application's own AWS credentials, resolved in a child process and renewed before they end. Nothing of them is ever logged."""

import asyncio
import logging
import os
import sys
import time
from collections.abc import Callable
from typing import Final

import msgspec

from llmwarden import names
from llmwarden.proxy.aws.child import CA_FILE, ProgramRefusedError
from llmwarden.proxy.aws.sigv4 import Keys

_LOG: Final = logging.getLogger("llmwarden.proxy")
_CHILD: Final = (sys.executable, "-P", "-m", "llmwarden.proxy.aws.child")
_CHILD_SECONDS: Final = 30.0
_RENEW_SECONDS: Final = 900.0  # before their end credentials are renewed beside the traffic (botocore's own figure)
_MARGIN_SECONDS: Final = 60.0  # before their end credentials are not used any more
_PAUSE_SECONDS: Final = 5.0  # after a failure, before the next attempt
_REJECTED_SECONDS: Final = 60.0  # how often AWS' rejection makes us ask anew


class _Resolved(msgspec.Struct, rename="camel"):
    access_key: str = ""
    secret_key: str = ""
    token: str = ""
    method: str = ""
    expires: float | None = None
    error: str = ""

    def __repr__(self) -> str:
        return "_Resolved(...)"


class NoKeysError(Exception):
    """There is nothing to sign with. `lasting`: it will not help to try again."""

    def __init__(self, message: str, *, lasting: bool) -> None:
        super().__init__(message)
        self.lasting = lasting


class Keyring:
    """One pod's credentials. `failed` counts attempts that failed; `ca_file` is trusted beside the usual authorities."""

    def __init__(self, failed: Callable[[], None], ca_file: str | None = None) -> None:
        self._failed = failed
        self._ca_file = ca_file
        self._keys: Keys | None = None
        self._expires: float | None = None
        self._task: asyncio.Task[None] | None = None
        self._error = NoKeysError("", lasting=False)
        self._pause_until = 0.0
        self._rejected = -_REJECTED_SECONDS

    def current(self) -> Keys | None:
        """What signs at once; None where it must be waited for."""
        if self._keys is None or self._expires is None:
            return self._keys
        left = self._expires - time.time()
        if left < _RENEW_SECONDS and self._task is None and time.monotonic() >= self._pause_until:
            self._begin()
        return self._keys if left > _MARGIN_SECONDS else None

    async def get(self) -> Keys:
        """What signs, waiting for it where it must be resolved. Raises NoKeysError."""
        keys = self.current()
        if keys is not None:
            return keys
        if self._task is None and time.monotonic() < self._pause_until:
            raise self._error
        # Shielded: a client that leaves must not end what others wait for.
        await asyncio.shield(self._task or self._begin())
        keys = self.current()
        if keys is None:
            raise self._error
        return keys

    def reject(self) -> None:
        """AWS did not accept what we signed: the credentials may have been replaced. They stay in use until there are others."""
        now = time.monotonic()
        if now - self._rejected >= _REJECTED_SECONDS and self._task is None:
            self._rejected = now
            self._begin()

    def _begin(self) -> asyncio.Task[None]:
        self._task = asyncio.get_running_loop().create_task(self._renew())
        return self._task

    async def _renew(self) -> None:
        try:
            resolved = await _ask(self._ca_file)
        finally:
            self._task = None
        if not resolved.error:
            if self._keys is None:
                _LOG.info("calls to Bedrock are signed with credentials from %s", resolved.method)
            self._keys = Keys(resolved.access_key, resolved.secret_key, resolved.token)
            self._expires = resolved.expires
            return
        self._failed()
        self._pause_until = time.monotonic() + _PAUSE_SECONDS
        lasting = resolved.error == "none"
        if lasting:
            message = (
                "the proxy found no AWS credentials to sign this call with; it looks where boto3 looks, in the variables and "
                "mounts of this pod. Credentials that a program gives to its client itself are not seen"
            )
        elif resolved.error == ProgramRefusedError.__name__:
            message = (
                "the proxy could not get AWS credentials to sign this call with: the configuration of this pod names a "
                "credential_process, and the proxy runs no program of the application's. Give the pod a role or keys"
            )
        else:
            message = f"the proxy could not get AWS credentials to sign this call with ({resolved.error})"
        self._error = NoKeysError(message, lasting=lasting)
        _LOG.warning("%s", message)


async def _ask(ca_file: str | None) -> _Resolved:
    environment = {name: value for name, value in os.environ.items() if name != names.PROXY_ENV}
    if ca_file:
        environment[CA_FILE] = ca_file
    try:
        process = await asyncio.create_subprocess_exec(
            *_CHILD,
            env=environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,  # what libraries print could quote a credential
        )
    except OSError as error:
        return _Resolved(error=type(error).__name__)
    try:
        async with asyncio.timeout(_CHILD_SECONDS):
            output, _ = await process.communicate()
        return msgspec.json.decode(output, type=_Resolved)
    except TimeoutError:
        return _Resolved(error="Timeout")
    except msgspec.MsgspecError:
        return _Resolved(error=f"exit status {process.returncode}")
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
