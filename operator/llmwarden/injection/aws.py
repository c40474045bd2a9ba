"""What a pod's own containers know of AWS credentials, which the proxy must know, too: it signs their calls to Bedrock again.

EKS' webhooks (IRSA, Pod Identity) may have run before ours and will not see our container; what they wrote into the application's is
copied. Secrets travel by reference only: no value of one is ever read here.
"""

import copy
import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from llmwarden import names
from llmwarden.injection.selection import Finding
from llmwarden.injection.variables import readable, refers

Container = Mapping[str, Any]

_FILES: Final = (
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    "AWS_SHARED_CREDENTIALS_FILE",
    "AWS_CONFIG_FILE",
)
# By any of these credentials are found; a program's role session has a name of its own.
_SOURCES: Final = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_ROLE_ARN",
    "AWS_PROFILE",
    "AWS_DEFAULT_PROFILE",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN",
    *_FILES,
)
# How they are asked for.
_DETAILS: Final = (
    "AWS_ROLE_SESSION_NAME",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "AWS_STS_REGIONAL_ENDPOINTS",
    "AWS_ENDPOINT_URL_STS",
    "AWS_USE_FIPS_ENDPOINT",
    "AWS_USE_DUALSTACK_ENDPOINT",
    "AWS_EC2_METADATA_DISABLED",
    "AWS_EC2_METADATA_SERVICE_ENDPOINT",
)
# What people put into a Secret or a ConfigMap as a whole.
_IN_SECRETS: Final = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_ROLE_ARN",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_PROFILE",
    "AWS_DEFAULT_REGION",
    "AWS_REGION",
)
_NAMES: Final = frozenset((*_SOURCES, *_DETAILS))
_HOME: Final = ".aws"  # below a home directory, which is another one in the proxy
_REGION: Final = re.compile(r"(?P<partition>[a-z]{2})(-[a-z]+)+-[0-9]+")
# What the proxy's own image, its key and the kubelet need: nothing of the application's may be mounted over, into or above it. A file in
# /etc could be executed (ld.so.preload) or trusted (ssl/certs).
_OURS: Final = (
    "/opt/llmwarden",
    names.JOURNAL_DIR,
    *(f"{run}/llmwarden" for run in ("/var/run", "/run")),
    *("/bin", "/boot", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/libx32", "/proc", "/sbin", "/sys", "/usr"),
)
_OURS_WHOLE: Final = frozenset({"/tmp"})  # noqa: S108 - compared only
_FREE: Final = "/etc/aws"  # not in the image, and where people keep these files


@dataclass(frozen=True, slots=True)
class Credentials:
    """`env` and `mounts` are for the proxy's container."""

    env: tuple[dict[str, Any], ...] = ()
    mounts: tuple[dict[str, Any], ...] = ()
    findings: tuple[Finding, ...] = ()


def upstream(containers: Iterable[Container]) -> str:
    """Where Bedrock is for these containers, by what they say of their region; empty where they say nothing that can be read."""
    for container in containers:
        region = readable(container, "AWS_DEFAULT_REGION") or readable(container, "AWS_REGION") or ""
        match = _REGION.fullmatch(region)
        if match is not None:
            fips = "-fips" if (readable(container, "AWS_USE_FIPS_ENDPOINT") or "").lower() == "true" else ""
            end = "amazonaws.com.cn" if match["partition"] == "cn" else "amazonaws.com"
            return f"https://bedrock-runtime{fips}.{region}.{end}"
    return ""


def credentials(service: str, containers: Iterable[Container]) -> Credentials:
    """Copy from the first container that has any; say where another one has others, or where something cannot be copied."""
    containers = list(containers)
    findings = [_ignores(service, container) for container in containers if _says_ignore(container)]
    having = [container for container in containers if _identity(container)]
    if not having:
        return Credentials(findings=tuple(findings))  # the node's role, which the proxy finds as the application does
    first = having[0]
    for other in having[1:]:
        if _identity(other) != _identity(first):
            message = (
                f"containers {first.get('name')} and {other.get('name')} have different AWS credentials; calls of both are signed "
                f"with those of {first.get('name')}"
            )
            findings.append(
                Finding(service, "CredentialsDiffer", message, "give both the same role, or run them in separate pods")
            )
    # The later wins where a name stands twice; a reference to a key that is not there does not count.
    env = [*_from_home(first), *_from_sources(first), *_from_env(service, first, findings)]
    return Credentials(tuple(env), tuple(_mounts(service, first, env, findings)), tuple(findings))


def _says_ignore(container: Container) -> bool:
    return any(
        entry.get("name") == "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS" and str(entry.get("value")).lower() == "true"
        for entry in container.get("env") or []
    )


def _ignores(service: str, container: Container) -> Finding:
    message = f"container {container.get('name')} sets AWS_IGNORE_CONFIGURED_ENDPOINT_URLS, so its AWS SDK does not call the proxy"
    return Finding(service, "EndpointIgnored", message, "remove AWS_IGNORE_CONFIGURED_ENDPOINT_URLS")


def _identity(container: Container) -> tuple[Any, ...]:
    """What tells one container's credentials from another's; empty where it has none of its own."""
    env = [entry for entry in container.get("env") or [] if entry.get("name") in _SOURCES]
    sources = [item for item in container.get("envFrom") or [] if "secretRef" in item or "configMapRef" in item]
    homes = [mount["name"] for mount in _homes(container)]
    return (
        *sorted((entry["name"], repr(entry.get("value")), repr(entry.get("valueFrom"))) for entry in env),
        *map(repr, sources),
        *homes,
    )


def _from_sources(container: Container) -> Iterator[dict[str, Any]]:
    """References to the keys that envFrom may bring, each optional: the proxy gets these and nothing else of a Secret."""
    for source in container.get("envFrom") or []:
        for kind, reference in (("secretRef", "secretKeyRef"), ("configMapRef", "configMapKeyRef")):
            if kind not in source:
                continue
            prefix = source.get("prefix") or ""
            for name in _IN_SECRETS:
                key = name.removeprefix(prefix)
                if name.startswith(prefix) and key:
                    where = {"name": source[kind].get("name", ""), "key": key, "optional": True}
                    yield {"name": name, "valueFrom": {reference: where}}


def _from_env(service: str, container: Container, findings: list[Finding]) -> Iterator[dict[str, Any]]:
    for entry in container.get("env") or []:
        name = entry.get("name")
        if name not in _NAMES:
            continue
        if refers(entry.get("value") or ""):
            value = readable(container, name)
            if value is not None:
                yield {"name": name, "value": value.replace("$", "$$")}
                continue
        if refers(entry.get("value") or "") or "resourceFieldRef" in (entry.get("valueFrom") or {}):
            message = (
                f"container {container.get('name')} makes {name} from other variables, which the proxy does not have"
            )
            findings.append(
                Finding(service, "CredentialsNotCopied", message, f"write {name} as a value or a reference")
            )
            continue
        yield copy.deepcopy(dict(entry))


def _homes(container: Container) -> list[Mapping[str, Any]]:
    """Mounts of a home directory's `.aws`, or of a file in it."""
    return [
        mount
        for mount in container.get("volumeMounts") or []
        if re.search(r"/\.aws(/credentials|/config)?/?$", mount.get("mountPath") or "") and "subPathExpr" not in mount
    ]


def _from_home(container: Container) -> Iterator[dict[str, Any]]:
    """Name the files of `~/.aws` by their path: the proxy's home is elsewhere."""
    for mount in _homes(container):
        path = mount["mountPath"].rstrip("/")
        for variable, file in (("AWS_SHARED_CREDENTIALS_FILE", "credentials"), ("AWS_CONFIG_FILE", "config")):
            if path.endswith(f"/{_HOME}"):
                yield {"name": variable, "value": f"{path}/{file}"}
            elif path.endswith(f"/{_HOME}/{file}"):
                yield {"name": variable, "value": path}


def _mounts(
    service: str, container: Container, env: Iterable[Mapping[str, Any]], findings: list[Finding]
) -> Iterator[dict[str, Any]]:
    """The mounts that hold the files, at the same paths: what is in one file may name another."""
    taken: set[str] = set()
    for entry in env:
        path = entry.get("value") or ""
        if entry["name"] not in _FILES or not path.startswith("/"):
            continue
        holding = [item for item in container.get("volumeMounts") or [] if _holds(item, path)]
        if not holding:
            continue  # in the image, or there is none
        mount = max(holding, key=lambda item: len(item["mountPath"].rstrip("/")))
        at = mount["mountPath"].rstrip("/") or "/"
        if at in taken:
            continue
        taken.add(at)
        if _is_ours(at):
            message = f"{entry['name']} lies in a volume at {at}, which the proxy cannot mount over its own files"
            findings.append(Finding(service, "CredentialsNotCopied", message, "mount the file's directory itself"))
            continue
        yield {**copy.deepcopy(dict(mount)), "readOnly": True}


def _is_ours(path: str) -> bool:
    """Whether a mount at a path would hide, or be part of, what the proxy runs and trusts."""
    at = posixpath.normpath(f"/{path.lstrip('/')}")
    if at == _FREE or at.startswith(f"{_FREE}/"):
        return False
    return at in _OURS_WHOLE or any(_within(at, own) or _within(own, at) for own in _OURS)


def _within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(f"{folder.rstrip('/')}/")


def _holds(mount: Mapping[str, Any], path: str) -> bool:
    at = (mount.get("mountPath") or "").rstrip("/")
    return "subPathExpr" not in mount and (path == at or path.startswith(at + "/"))
