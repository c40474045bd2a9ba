"""`python -m llmwarden.proxy.aws.child`: resolves AWS credentials as botocore does, writes them to standard output, and ends.

A process of its own, not a thread: botocore's import takes most of a second of the interpreter lock, for which every stream of the proxy
would stand still, and 27 MiB that the proxy would keep for ever. Here it is paid for a moment, about once an hour.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any, Final

# Where the image has botocore: beside what the other processes import, not among it. Elsewhere it is found as any library.
LIBRARIES: Final = "/opt/llmwarden/bedrock"
CA_FILE: Final = "LLMWARDEN_CA_FILE"  # a variable: PEM to be trusted beside botocore's own authorities


def resolve() -> dict[str, Any]:
    """The credentials: `accessKey`, `secretKey`, `token`, `method`, and `expires` in seconds since the epoch (null: never).

    Otherwise `error`: "none" where there are none to be found, else the name of what went wrong. Never a message: it could quote.
    """
    if LIBRARIES not in sys.path:
        sys.path.insert(0, LIBRARIES)
    try:
        import botocore.httpsession  # noqa: PLC0415 - the point of this process
        import botocore.session  # noqa: PLC0415 - the same
    except ImportError:
        return {"error": "botocore is not installed"}
    try:
        if os.environ.get(CA_FILE):
            # One file of both, in memory: the root file system is read-only.
            file = os.memfd_create("authorities")
            for path in (botocore.httpsession.get_cert_path(True), os.environ[CA_FILE]):  # noqa: FBT003 - botocore's signature
                os.write(file, Path(path).read_bytes() + b"\n")
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
