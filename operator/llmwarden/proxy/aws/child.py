"""`python -m llmwarden.proxy.aws.child`: resolves AWS credentials as botocore does, writes them to standard output, and ends.

A process of its own, not a thread: botocore's import takes most of a second of the interpreter lock, for which every stream of the proxy
would stand still, and 27 MiB that the proxy would keep for ever. Here it is paid for a moment, about once an hour.
"""

import json
import sys
from typing import Any, Final

# Where the image has botocore: beside what the other processes import, not among it. Elsewhere it is found as any library.
LIBRARIES: Final = "/opt/llmwarden/bedrock"


def resolve() -> dict[str, Any]:
    """The credentials: `accessKey`, `secretKey`, `token`, `method`, and `expires` in seconds since the epoch (null: never).

    Otherwise `error`: "none" where there are none to be found, else the name of what went wrong. Never a message: it could quote.
    """
    if LIBRARIES not in sys.path:
        sys.path.insert(0, LIBRARIES)
    try:
        import botocore.session  # noqa: PLC0415 - the point of this process
    except ImportError:
        return {"error": "botocore is not installed"}
    try:
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
