"""The few requests to the API server that bringing a cluster up takes, without starting kubectl for each."""

import base64
import http.client
import json
import ssl
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.errors import ClusterError
from cluster.pki import Pair

_TIMEOUT = 10.0


def kubeconfig(server: str, authority: Path, pair: Pair, name: str) -> str:
    """Return a kubeconfig that carries its certificates within: one file that can be copied. JSON is YAML, too."""

    def inline(path: Path) -> str:
        return base64.b64encode(path.read_bytes()).decode()

    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": name,
        "clusters": [{"name": name, "cluster": {"server": server, "certificate-authority-data": inline(authority)}}],
        "users": [
            {
                "name": name,
                "user": {"client-certificate-data": inline(pair.certificate), "client-key-data": inline(pair.key)},
            }
        ],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
    }
    return json.dumps(config, indent=1) + "\n"


@dataclass(frozen=True)
class Api:
    """An API server and who we are to it."""

    server: str
    authority: Path
    pair: Pair

    def call(self, method: str, path: str, body: Any = None, kind: str = "application/json") -> Any:
        """Return the decoded answer; raises ApiError for a refusal, OSError where nobody answers."""
        context = ssl.create_default_context(cafile=str(self.authority))
        context.load_cert_chain(self.pair.certificate, self.pair.key)
        request = urllib.request.Request(  # noqa: S310 - always https
            self.server + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": kind, "Accept": "application/json"},
        )
        # No proxy from the environment: the server is on this machine.
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
        )
        try:
            with opener.open(request, timeout=_TIMEOUT) as answer:
                text = answer.read()
        except urllib.error.HTTPError as error:
            raise ApiError(error.code, f"{method} {path}: {error.read().decode(errors='replace')[:1000]}") from error
        except http.client.HTTPException as error:
            raise ConnectionError(str(error)) from error
        try:
            return json.loads(text)
        except json.JSONDecodeError:
            return text.decode(errors="replace")

    def ready(self) -> bool:
        """Return whether the server says that it is ready."""
        try:
            return bool(self.call("GET", "/readyz") == "ok")
        except (ApiError, OSError):
            return False

    def apply(self, manifest: dict[str, Any]) -> None:
        """Server-side apply."""
        kinds = {"Service": "services", "ServiceAccount": "serviceaccounts", "ConfigMap": "configmaps"}
        group = manifest["apiVersion"]
        plural = kinds.get(manifest["kind"], manifest["kind"].lower() + ("es" if manifest["kind"][-1] == "s" else "s"))
        namespace = manifest["metadata"].get("namespace")
        path = "/api/v1" if group == "v1" else f"/apis/{group}"
        path += f"/namespaces/{namespace}" if namespace else ""
        query = "?fieldManager=llmwarden-cluster&force=true"
        name = manifest["metadata"]["name"]
        self.call("PATCH", f"{path}/{plural}/{name}{query}", manifest, "application/apply-patch+yaml")


class ApiError(ClusterError):
    """The server refused; `code` is the HTTP status."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
