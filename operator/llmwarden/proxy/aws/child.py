"""`python -m llmwarden.proxy.aws.child`: resolves AWS credentials as botocore does, writes them to standard output, and ends.

Nothing that the application writes is executed here, and no file of the proxy's is read for it: its configuration files may name programs
(`credential_process`) and files that are sent elsewhere (a token's), and the proxy's key may lie beside them. See `confine`.

A process of its own, not a thread: botocore's import takes most of a second of the interpreter lock, for which every stream of the proxy
would stand still, and 27 MiB that the proxy would keep for ever. Here it is paid for a moment, about once an hour.
"""

import builtins
import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

# Where the image has botocore: beside what the other processes import, not among it. Elsewhere it is found as any library.
LIBRARIES: Final = "/opt/llmwarden/bedrock"
CA_FILE: Final = "LLMWARDEN_CA_FILE"  # a variable: PEM to be trusted beside botocore's own authorities


# Events of Python's audit by which a program is started, here or in a child (https://docs.python.org/3/library/audit_events.html).
_STARTS: Final = frozenset(
    {
        "os.exec",
        "os.fork",
        "os.forkpty",
        "os.posix_spawn",
        "os.spawn",
        "os.startfile",
        "os.system",
        "pty.spawn",
        "subprocess.Popen",
    }
)
# Folders with what only the proxy may read: its key, its token, its journal, and the memory of processes.
_PRIVATE: Final = ("/run/llmwarden", "/var/run/llmwarden", "/var/lib/llmwarden", "/proc")


class ProgramRefusedError(PermissionError):
    """The application's configuration names a program (`credential_process`), which must not run beside the proxy's key."""


class FileRefusedError(PermissionError):
    """The application's configuration names a file of the proxy's own."""


def confine(private: tuple[str, ...] = _PRIVATE) -> None:
    """Let this process start no program and open no file in `private` any more, whatever asks for it. It cannot be taken back."""
    sys.addaudithook(_refuse_programs)
    folders = tuple({*private, *(os.path.realpath(folder) for folder in private)})
    guarded = _guarded(io.open, folders)
    builtins.open = io.open = guarded  # before botocore is imported, which binds it


def _refuse_programs(event: str, _arguments: tuple[Any, ...]) -> None:
    if event in _STARTS:
        message = "no program is started here"
        raise ProgramRefusedError(message)


def _guarded(real: Callable[..., Any], folders: tuple[str, ...]) -> Callable[..., Any]:
    """As `open`, but refusing what lies in `folders` by the file that was opened, not by its name: links may change in between."""

    def guarded(*arguments: Any, **options: Any) -> Any:
        file = real(*arguments, **options)
        try:
            place = str(Path(f"/proc/self/fd/{file.fileno()}").readlink())
        except (OSError, AttributeError):
            place = ""
        if not place or any(place == folder or place.startswith(f"{folder}/") for folder in folders):
            file.close()
            message = "this file is not for AWS"
            raise FileRefusedError(message)
        return file

    return guarded


def resolve() -> dict[str, Any]:
    """The credentials: `accessKey`, `secretKey`, `token`, `method`, and `expires` in seconds since the epoch (null: never).

    Otherwise `error`: "none" where there are none to be found, else the name of what went wrong. Never a message: it could quote.
    """
    if LIBRARIES not in sys.path:
        sys.path.insert(0, LIBRARIES)
    try:
        own = Path(os.environ[CA_FILE]).read_bytes() if os.environ.get(CA_FILE) else b""
    except OSError as error:
        return {"error": type(error).__name__}
    confine()
    try:
        import botocore.httpsession  # noqa: PLC0415 - the point of this process
        import botocore.session  # noqa: PLC0415 - the same
    except ImportError:
        return {"error": "botocore is not installed"}
    try:
        if own:
            # One file of both, in memory: the root file system is read-only.
            file = os.memfd_create("authorities")
            os.write(file, Path(botocore.httpsession.get_cert_path(True)).read_bytes() + b"\n" + own)  # noqa: FBT003 - botocore's signature
            os.environ["AWS_CA_BUNDLE"] = f"/proc/self/fd/{file}"
        credentials = botocore.session.get_session().get_credentials()
        if credentials is None:
            return {"error": "none"}
        frozen = credentials.get_frozen_credentials()
    except Exception as error:  # noqa: BLE001 - botocore's, urllib3's, the file system's: all are told by name
        return {"error": type(error).__name__}
    expires = getattr(credentials, "_expiry_time", None)  # there is no public way to ask
    return {
        "accessKey": frozen.access_key,
        "secretKey": frozen.secret_key,
        "token": frozen.token or "",
        "method": str(credentials.method),
        "expires": expires.timestamp() if expires is not None else None,
    }


if __name__ == "__main__":
    json.dump(resolve(), sys.stdout)
