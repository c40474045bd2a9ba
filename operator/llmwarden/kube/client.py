"""A thin client of the Kubernetes API: JSON objects in and out, our errors, any resource by (apiVersion, plural).

Configuration and credentials come from `kubernetes.aio` (in-cluster token rotation, kubeconfig with exec plugins);
requests go through its REST client without the generated models, which would be most of a process's memory.
"""

import asyncio
import contextlib
import datetime as dt
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self, TypedDict, Unpack
from urllib.parse import quote, urlencode
from urllib.request import getproxies_environment

import aiohttp
import msgspec

from llmwarden import __version__, bounded, names, tracing
from llmwarden.errors import NotFoundError, NotInstalledError, UnavailableError
from llmwarden.kube.asynchronous import (
    ApiClient,
    ConfigException,
    Configuration,
    load_incluster_config,
    load_kube_config,
)
from llmwarden.kube.errors import error_of

PAGE = (
    100  # objects in one page of a list: a page is in memory whole, and most of what a small process needs at its start
)
TIMEOUT = 30.0  # seconds for a whole request that is no watch
APPLY = "application/apply-patch+yaml; charset=utf-8"  # JSON is YAML; with a parameter the client's own slow encoder leaves our bytes alone
MERGE = "application/merge-patch+json"
JSON = "application/json"
METADATA = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
FIRST_ERROR_STATUS = 400

Propagation = Literal["Background", "Foreground", "Orphan"]


@dataclass(frozen=True, slots=True)
class Review:
    """What a TokenReview says. `extra` has `authentication.kubernetes.io/pod-name` and `pod-uid` for bound tokens."""

    authenticated: bool
    username: str = ""
    uid: str = ""
    groups: tuple[str, ...] = ()
    extra: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    audiences: tuple[str, ...] = ()
    error: str = ""


class Selectors(TypedDict, total=False):
    """What the server may narrow a list by; None and "" are no narrowing."""

    label_selector: str | None
    field_selector: str | None


@dataclass(frozen=True, slots=True)
class Page:
    """A page of a list."""

    items: list[dict[str, Any]]
    resource_version: str
    continue_token: str


async def connect(kubeconfig: str | None = None, context: str | None = None) -> "Client":
    """Connect with the pod's service account, or with `kubeconfig`, $KUBECONFIG or ~/.kube/config (in this order).

    Nothing is sent yet. Raises UnavailableError where no usable configuration is found.
    """
    configuration = Configuration()
    given = kubeconfig or os.environ.get("KUBECONFIG")
    # The loaders carry no types.
    from_file: Any = load_kube_config
    from_pod: Any = load_incluster_config
    default = os.path.expanduser("~/.kube/config")  # noqa: ASYNC240, PTH111 - reads no disk
    try:
        if not given and "KUBERNETES_SERVICE_HOST" in os.environ:
            from_pod(client_configuration=configuration)
        else:
            await from_file(config_file=given or default, context=context, client_configuration=configuration)
    except (ConfigException, OSError) as error:
        message = (
            f"no connection to Kubernetes: neither a service account nor KUBECONFIG nor {default} is usable: {error}"
        )
        raise UnavailableError(message) from error
    return Client(configuration)


def path_of(
    api_version: str, plural: str, namespace: str | None = None, name: str | None = None, subresource: str | None = None
) -> str:
    """URL path of a collection or an object: `/api/v1/namespaces/shop/pods/x/eviction`."""
    parts = ["api" if "/" not in api_version else "apis", *api_version.split("/")]
    if namespace:
        parts += ["namespaces", namespace]
    parts += [part for part in (plural, name, subresource) if part]
    return "/" + "/".join(quote(part, safe="") for part in parts)


class Client:
    """See the module. Close it, or use it as an async context manager. Safe for concurrent use in one event loop.

    Every method raises UnavailableError when the server does not answer, is overloaded (ThrottledError) or answers
    5xx; ForbiddenError, NotFoundError, NotInstalledError, ConflictError and RefusedError as their docstrings say.
    """

    def __init__(self, configuration: Configuration, *, timeout: float = TIMEOUT) -> None:
        # No limit: a watch holds its connection for as long as it lasts, and one that waited for a place in a pool would be blind
        # and silent. How many requests run at once is their callers' to bound.
        configuration.connection_pool_maxsize = 0
        # Else aiohttp looks for ~/.netrc at each request.
        configuration.client_session_kwargs = {"trust_env": bool(getproxies_environment())}
        self._api: Any = ApiClient(configuration)  # the class carries no types
        self._agent = f"llmwarden/{__version__}"
        self._timeout = timeout
        self._kinds: dict[tuple[str, str], tuple[str, bool]] = {}

    @classmethod
    def for_url(cls, url: str, *, token: str | None = None, ca: str | None = None, timeout: float = TIMEOUT) -> Self:
        """Make a client of the API server at `url`; `ca` is PEM text."""
        configuration = Configuration(host=url, ca_cert_data=ca)
        if token:
            configuration.api_key["BearerToken"] = f"Bearer {token}"
        return cls(configuration, timeout=timeout)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections."""
        await self._api.close()

    # Requests -------------------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        *,
        body: object = None,
        content_type: str = JSON,
        more_headers: Mapping[str, str] | None = None,
        limits: aiohttp.ClientTimeout,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send a request and hand out the answer, which is released at the end; raises for a status of 400 and more."""
        headers = {"Accept": JSON, "Content-Type": content_type, "User-Agent": self._agent, **(more_headers or {})}
        what = f"{method} {path}"
        try:
            await self._api.update_params_for_auth(headers, [], ["BearerToken"], path, method, None)
            url = self._api.configuration.host + path + (f"?{urlencode(query)}" if query else "")
            raw = await self._api.rest_client.request(method, url, headers=headers, body=body, _request_timeout=limits)
            response: aiohttp.ClientResponse = raw.response
            try:
                if response.status >= FIRST_ERROR_STATUS:
                    raise error_of(what, response.status, await response.read(), response.headers)
                yield response
            finally:
                # Closing (not releasing) drops the connection of a watch that is left in the middle.
                if response.content.is_eof():
                    response.release()
                else:
                    response.close()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            message = f"{what}: the API server did not answer: {str(error) or type(error).__name__}"
            raise UnavailableError(message) from error

    async def request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: object = None,
        content_type: str = JSON,
        *,
        headers: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """Send one request, with `headers` beside our own; returns the JSON object of the answer."""
        raw = await self.request_bytes(method, path, query, body, content_type, headers=headers)
        try:
            answer = msgspec.json.decode(raw)
        except msgspec.DecodeError as error:
            message = f"{method} {path}: the answer is no JSON: {error}"
            raise UnavailableError(message) from error
        if not isinstance(answer, dict):
            message = f"{method} {path}: the answer is no JSON object"
            raise UnavailableError(message)
        return answer

    async def request_bytes(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: object = None,
        content_type: str = JSON,
        *,
        headers: Mapping[str, str] | None = None,
        max_bytes: int | None = None,
    ) -> bytes:
        """Send one request as `request` does; returns the body of the answer as it is.

        Raises UnavailableError where it is longer than `max_bytes`.
        """
        limits = aiohttp.ClientTimeout(total=self._timeout)
        with tracing.step(f"kubernetes {method}", {"url.path": path}):
            async with self._send(
                method, path, query, body=body, content_type=content_type, more_headers=headers, limits=limits
            ) as response:
                if max_bytes is None:
                    return await response.read()
                try:
                    return await bounded.read(response.content.iter_any(), max_bytes)
                except bounded.TooLongError as error:
                    message = f"{method} {path}: the answer is longer than {max_bytes} bytes"
                    raise UnavailableError(message) from error

    async def stream(
        self, path: str, query: Mapping[str, str], read_timeout: float, opened: Callable[[], None] = lambda: None
    ) -> AsyncGenerator[dict[str, Any]]:
        """Yield the JSON objects of a line-by-line answer (a watch).

        `opened` is called once the server has accepted it, which may be long before the first object. Ends when the server ends it, or
        after `read_timeout` seconds of silence.
        """
        limits = aiohttp.ClientTimeout(total=None, connect=self._timeout, sock_read=read_timeout)
        async with self._send("GET", path, query, limits=limits) as response:
            opened()
            rest = b""
            chunks = response.content.iter_any()
            while True:
                try:
                    # Not readline(): its limit would be a limit on an object's size.
                    chunk = await anext(chunks)
                except (StopAsyncIteration, aiohttp.SocketTimeoutError):
                    # Silence looks the same on a dead connection and on a kind of which nothing has happened yet: the API server
                    # sends no bookmarks then. Neither is an error: whoever watches goes on from the last version.
                    return
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    if line.strip():
                        try:
                            event = msgspec.json.decode(line)
                        except msgspec.DecodeError as error:
                            message = f"GET {path}: an event of the watch is no JSON: {error}"
                            raise UnavailableError(message) from error
                        yield event

    # Reading --------------------------------------------------------------------------------------------------------

    async def get(self, api_version: str, plural: str, name: str, namespace: str | None = None) -> dict[str, Any]:
        """Read one object."""
        return await self.request("GET", path_of(api_version, plural, namespace, name))

    async def get_metadata(
        self, api_version: str, plural: str, name: str, namespace: str | None = None
    ) -> dict[str, Any]:
        """Read the metadata of one object, without its spec and status: the API server leaves them out."""
        return await self.request("GET", path_of(api_version, plural, namespace, name), headers={"Accept": METADATA})

    async def get_raw(self, path: str) -> dict[str, Any]:
        """Read any path that answers a JSON object, such as `/version` or `/apis`."""
        return await self.request("GET", path)

    async def page(
        self,
        api_version: str,
        plural: str,
        namespace: str | None = None,
        *,
        limit: int = PAGE,
        continue_token: str = "",
        **selectors: Unpack[Selectors],
    ) -> Page:
        """Read one page of a list; an expired token raises ExpiredError."""
        query = {"limit": str(limit)}
        if label := selectors.get("label_selector"):
            query["labelSelector"] = label
        if field := selectors.get("field_selector"):
            query["fieldSelector"] = field
        if continue_token:
            query["continue"] = continue_token
        answer = await self.request("GET", path_of(api_version, plural, namespace), query)
        kind = str(answer.get("kind", "List")).removesuffix("List")
        metadata = answer.get("metadata") or {}
        # Items of a list come without apiVersion and kind: put them back, so that an object always says what it is.
        items = [{"apiVersion": api_version, "kind": kind, **item} for item in answer.get("items") or []]
        return Page(items, metadata.get("resourceVersion", ""), metadata.get("continue") or "")

    async def list(
        self, api_version: str, plural: str, namespace: str | None = None, **selectors: Unpack[Selectors]
    ) -> list[dict[str, Any]]:
        """Read all objects of a namespace, or of the cluster, page by page."""
        async with contextlib.aclosing(self.pages(api_version, plural, namespace, **selectors)) as pages:
            return [item async for page in pages for item in page.items]

    async def pages(
        self, api_version: str, plural: str, namespace: str | None = None, **selectors: Unpack[Selectors]
    ) -> AsyncGenerator[Page]:
        """Yield all objects of a namespace, or of the cluster, page by page: whoever needs no more at once keeps no more."""
        token = ""
        while True:
            page = await self.page(api_version, plural, namespace, continue_token=token, **selectors)
            token = page.continue_token
            yield page
            if not token:
                return

    async def has_resource(self, group_version: str, plural: str) -> bool:
        """Whether the server has this resource now (`has_resource("monitoring.coreos.com/v1", "podmonitors")`)."""
        try:
            answer = await self.get_raw(path_of(group_version, ""))
        except (NotFoundError, NotInstalledError):
            return False
        return any(resource.get("name") == plural for resource in answer.get("resources") or [])

    async def _resource(self, api_version: str, kind: str) -> tuple[str, bool]:
        """(plural, namespaced) of a kind, by discovery, remembered. Raises NotInstalledError."""
        cached = self._kinds.get((api_version, kind))
        if cached:
            return cached
        answer = await self.get_raw(path_of(api_version, ""))
        for resource in answer.get("resources") or []:
            if "/" not in resource["name"]:
                self._kinds[api_version, resource["kind"]] = (resource["name"], bool(resource["namespaced"]))
        try:
            return self._kinds[api_version, kind]
        except KeyError:
            message = f"the API server has no kind {kind} in {api_version}"
            raise NotInstalledError(message) from None

    async def _path(self, manifest: Mapping[str, Any], subresource: str | None = None, *, named: bool = True) -> str:
        plural, namespaced = await self._resource(manifest["apiVersion"], manifest["kind"])
        metadata = manifest["metadata"]
        namespace = metadata["namespace"] if namespaced else None
        name = metadata["name"] if named else None
        return path_of(manifest["apiVersion"], plural, namespace, name, subresource)

    # Writing --------------------------------------------------------------------------------------------------------

    async def apply(
        self,
        manifest: Mapping[str, Any],
        *,
        force: bool = True,
        field_manager: str = names.FIELD_MANAGER,
        dry_run: bool = False,
        subresource: str | None = None,
    ) -> dict[str, Any]:
        """Server-side apply; returns the object as stored.

        Raises ConflictError where another manager owns a field and `force` is off, NotInstalledError where the kind is
        unknown, NotFoundError where the namespace (or, for a subresource, the object) is.
        """
        path = await self._path(manifest, subresource)
        query = {"fieldManager": field_manager, "force": "true" if force else "false"}
        if dry_run:
            query["dryRun"] = "All"
        try:
            return await self.request("PATCH", path, query, msgspec.json.encode(manifest), APPLY)
        except NotInstalledError:
            # The kind was removed, or moved, since it was discovered.
            self._kinds.pop((manifest["apiVersion"], manifest["kind"]), None)
            raise

    async def create(self, manifest: Mapping[str, Any], *, field_manager: str = names.FIELD_MANAGER) -> dict[str, Any]:
        """Create an object (`generateName` works). Raises ConflictError where it is there already."""
        path = await self._path(manifest, named=False)
        return await self.request("POST", path, {"fieldManager": field_manager}, manifest)

    async def patch(
        self, api_version: str, plural: str, name: str, namespace: str | None, patch: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Merge-patch an object. With `metadata.resourceVersion` in the patch, ConflictError where it has changed."""
        query = {"fieldManager": names.FIELD_MANAGER}
        return await self.request("PATCH", path_of(api_version, plural, namespace, name), query, patch, MERGE)

    async def patch_status(
        self, api_version: str, plural: str, name: str, namespace: str | None, status: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Merge-patch the status subresource with `{"status": status}`; a None in it deletes that field."""
        path = path_of(api_version, plural, namespace, name, "status")
        return await self.request("PATCH", path, {"fieldManager": names.FIELD_MANAGER}, {"status": status}, MERGE)

    async def apply_status(self, manifest: Mapping[str, Any], *, force: bool = True) -> dict[str, Any]:
        """Server-side apply on the status subresource: fields that we no longer send are removed."""
        return await self.apply(manifest, force=force, subresource="status")

    async def delete(
        self,
        api_version: str,
        plural: str,
        name: str,
        namespace: str | None = None,
        *,
        propagation: Propagation = "Background",
        uid: str | None = None,
        missing_ok: bool = True,
    ) -> bool:
        """Delete one object; returns whether it was there.

        With `uid`, only that very object (ConflictError where the name now belongs to another). An object or an API that
        is not there is an error only where `missing_ok` is off.
        """
        body: dict[str, Any] = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": propagation}
        if uid:
            body["preconditions"] = {"uid": uid}
        try:
            await self.request("DELETE", path_of(api_version, plural, namespace, name), None, body)
        except (NotFoundError, NotInstalledError):
            if not missing_ok:
                raise
            return False
        return True

    async def evict(self, namespace: str, pod: str, *, uid: str | None = None) -> bool:
        """Evict a pod (policy/v1); returns whether it was there. Raises RefusedByBudgetError."""
        body: dict[str, Any] = {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": pod, "namespace": namespace},
        }
        if uid:
            body["deleteOptions"] = {"preconditions": {"uid": uid}}
        try:
            await self.request("POST", path_of("v1", "pods", namespace, pod, "eviction"), None, body)
        except NotFoundError:
            return False
        return True

    async def create_event(
        self,
        regarding: Mapping[str, Any],
        *,
        reason: str,
        message: str,
        now: dt.datetime,
        warning: bool = False,
        component: str = names.OPERATOR,
    ) -> dict[str, Any]:
        """Record an Event about an object (which must carry apiVersion, kind and metadata). No deduplication here."""
        metadata = regarding["metadata"]
        namespace = metadata.get("namespace", "default")  # events about cluster-scoped objects live in `default`
        stamp = now.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        manifest = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"generateName": f"{metadata['name'][:200]}.", "namespace": namespace},
            "involvedObject": {
                "apiVersion": regarding["apiVersion"],
                "kind": regarding["kind"],
                "name": metadata["name"],
                **{key: metadata[key] for key in ("namespace", "uid", "resourceVersion") if metadata.get(key)},
            },
            "type": "Warning" if warning else "Normal",
            "reason": reason,
            "message": message[:1024],  # the API's limit
            "firstTimestamp": stamp,
            "lastTimestamp": stamp,
            "count": 1,
            "source": {"component": component},
            "reportingComponent": component,
            "reportingInstance": "",
        }
        return await self.request("POST", path_of("v1", "events", namespace), None, manifest)

    async def token_review(self, token: str, audiences: tuple[str, ...] = ()) -> Review:
        """Ask the API server whose token this is. A bad token is an answer (`authenticated` is False), not an error."""
        body = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token, **({"audiences": [*audiences]} if audiences else {})},
        }
        answer = await self.request("POST", path_of("authentication.k8s.io/v1", "tokenreviews"), None, body)
        status = answer.get("status") or {}
        user = status.get("user") or {}
        accepted = tuple(status.get("audiences") or ())
        # A server that does not know audiences ignores them: then the token was not checked for ours.
        authenticated = bool(status.get("authenticated")) and (not audiences or bool(set(accepted) & set(audiences)))
        return Review(
            authenticated=authenticated,
            username=user.get("username", ""),
            uid=user.get("uid", ""),
            groups=tuple(user.get("groups") or ()),
            extra={key: tuple(values) for key, values in (user.get("extra") or {}).items()},
            audiences=accepted,
            error=status.get("error", ""),
        )


async def until_available(client: Client, seconds: float = 2.0) -> None:
    """Wait until the API server answers `/version`: at a cluster's start our pods may be there before it is."""
    while True:
        try:
            await client.get_raw("/version")
        except UnavailableError:
            await asyncio.sleep(seconds)
        else:
            return
