"""etcd, kube-apiserver and kube-controller-manager: no root, loopback only, several at once."""

import json
import os
import secrets
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster import builds, packages, processes
from cluster.errors import ClusterError
from cluster.kubeapi import Api, ApiError, kubeconfig
from cluster.network import SERVICE_RANGE
from cluster.paths import State
from cluster.pki import Authority, Pair, new_key, public_key
from cluster.progress import say

SERVICE_ADDRESS = "10.96.0.1"
COMPONENTS = ("etcd", "kube-apiserver", "kube-controller-manager")

_READY_SECONDS = 180.0  # ten are usual; a machine that compiles at the same time is slow
# Below the kernel's ephemeral ports, and not among NodePorts (30000 to 32767).
_PORTS = range(20000, 30000)


@dataclass(frozen=True)
class Programs:
    """Where the three binaries are."""

    etcd: Path
    apiserver: Path
    controller_manager: Path


@dataclass(frozen=True)
class ControlPlane:
    """A running API server, and the identities with which others come to it."""

    api: Api
    authority: Authority

    def account(self, state: State, name: str, subject: str) -> Path:
        """Write the kubeconfig of a component's own identity and return its path."""
        path = state.pki / f"{name}.conf"
        return write_kubeconfig(path, self.api.server, self.authority, self.authority.issue(name, subject), name)


def programs() -> Programs:
    """Return the binaries: those of KUBEBUILDER_ASSETS where it has them, ours where not. Builds what is missing."""
    assets = os.environ.get("KUBEBUILDER_ASSETS")

    def find(name: str) -> Path | None:
        given = Path(assets) / name if assets else None
        return given if given and os.access(given, os.X_OK) else None

    etcd, apiserver, manager = (find(name) for name in COMPONENTS)
    if not (apiserver and manager):
        builds.build("kube")
    return Programs(
        etcd or packages.ensure_wheel(packages.ETCD),
        apiserver or builds.program("kube", "kube-apiserver"),
        manager or builds.program("kube", "kube-controller-manager"),
    )


def free_port(address: str = "127.0.0.1") -> int:
    """Return a TCP port on which nobody listens."""
    for _ in range(200):
        port = secrets.choice(_PORTS)
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            try:
                probe.bind((address, port))
            except OSError:
                continue
            return port
    message = f"No free port on {address} among {_PORTS.start} to {_PORTS.stop}."
    raise ClusterError(message)


def wait(what: str, state: State, components: tuple[str, ...], done: Callable[[], bool], seconds: float) -> None:
    """Wait until `done()`; raises ClusterError with a log's end if a component dies or the time is over."""
    deadline = time.monotonic() + seconds
    told = time.monotonic()
    while not done():
        living = processes.living(state)
        for component in components:
            if component not in living:
                message = f"{component} ended; the end of its log:\n{processes.tail(state, component)}"
                raise ClusterError(message)
        if time.monotonic() > deadline:
            message = f"{what}: not within {seconds:.0f} s; logs are in {state.logs}, the last lines of one are:\n"
            raise ClusterError(message + processes.tail(state, components[-1]))
        if time.monotonic() - told > 15:  # noqa: PLR2004 - seconds; silence looks like a hang
            told = time.monotonic()
            say(f"still waiting: {what} (at most {deadline - told:.0f} s more)")
        time.sleep(0.1)


# Health checks and leases are noise of the cluster's own making; every other request of anybody is kept.
_AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [
        {"level": "None", "nonResourceURLs": ["/healthz*", "/readyz*", "/livez*", "/version", "/openapi/*"]},
        {"level": "None", "users": ["system:apiserver"]},
        {
            "level": "None",
            "userGroups": ["system:nodes"],
            "resources": [{"group": "coordination.k8s.io", "resources": ["leases"]}],
        },
        {"level": "Metadata"},
    ],
}


def start(state: State, found: Programs, address: str, *, node: bool) -> ControlPlane:
    """Start the three on `address` and return when the API server is ready and accounts are being made."""
    authority = Authority(state.pki)
    authority.make("llmwarden-cluster")
    etcd_authority = Authority(state.pki / "etcd")
    etcd_authority.make("llmwarden-cluster-etcd")

    port = _start_etcd(state, found, etcd_authority)
    api = _start_apiserver(state, found, authority, etcd_authority, port, address, node=node)
    say("waiting for the API server")
    wait("the API server's readiness", state, ("etcd", "kube-apiserver"), api.ready, _READY_SECONDS)
    plane = ControlPlane(api, authority)
    _start_controller_manager(state, found, plane)
    write_kubeconfig(state.kubeconfig, api.server, authority, api.pair, f"llmwarden-{state.name}")
    return plane


def finish(state: State, plane: ControlPlane) -> None:
    """Wait for what a new cluster's first pod or client needs: the default service account and the CA's ConfigMap."""

    def made() -> bool:
        try:
            plane.api.call("GET", "/api/v1/namespaces/default/serviceaccounts/default")
            plane.api.call("GET", "/api/v1/namespaces/default/configmaps/kube-root-ca.crt")
        except (ApiError, OSError):
            return False
        return True

    wait("the default service account", state, COMPONENTS, made, _READY_SECONDS)


def write_kubeconfig(path: Path, server: str, authority: Authority, pair: Pair, name: str) -> Path:
    """Write a kubeconfig that only its owner can read."""
    path.touch(mode=0o600)
    path.write_text(kubeconfig(server, authority.pair.certificate, pair, name))
    return path


def _start_etcd(state: State, found: Programs, authority: Authority) -> int:
    server = authority.issue("etcd", "/CN=etcd", ("127.0.0.1", "localhost"))
    client, peer = free_port(), free_port()
    processes.start(
        state,
        "etcd",
        [
            found.etcd,
            f"--data-dir={state.root / 'etcd'}",
            f"--listen-client-urls=https://127.0.0.1:{client}",
            f"--advertise-client-urls=https://127.0.0.1:{client}",
            f"--listen-peer-urls=http://127.0.0.1:{peer}",
            f"--initial-advertise-peer-urls=http://127.0.0.1:{peer}",
            f"--initial-cluster=default=http://127.0.0.1:{peer}",
            "--client-cert-auth",
            f"--trusted-ca-file={authority.pair.certificate}",
            f"--cert-file={server.certificate}",
            f"--key-file={server.key}",
            # A cluster that dies is made anew: durability would only cost time.
            "--unsafe-no-fsync",
            "--log-level=warn",
        ],
    )
    return client


def _start_apiserver(  # noqa: PLR0917 - each is named at its one call
    state: State, found: Programs, authority: Authority, etcd: Authority, etcd_port: int, address: str, *, node: bool
) -> Api:
    names = ("kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local")
    hosts = tuple(dict.fromkeys((*names, "localhost", SERVICE_ADDRESS, "127.0.0.1", address)))
    serving = authority.issue("apiserver", "/CN=kube-apiserver", hosts)
    to_etcd = etcd.issue("apiserver", "/CN=kube-apiserver")
    to_kubelet = authority.issue("apiserver-kubelet", "/O=system:masters/CN=kube-apiserver-kubelet-client")
    admin = authority.issue("admin", "/O=system:masters/CN=kubernetes-admin")
    # For aggregated API servers, and because the other components look for this authority all the time.
    front = Authority(state.pki / "front-proxy")
    front.make("llmwarden-cluster-front-proxy")
    to_aggregated = front.issue("apiserver", "/CN=front-proxy-client")
    new_key(state.pki / "service-accounts.key")
    public_key(state.pki / "service-accounts.key", state.pki / "service-accounts.pub")
    policy = state.root / "audit-policy.json"
    policy.write_text(json.dumps(_AUDIT_POLICY))
    port = free_port(address)
    processes.start(
        state,
        "kube-apiserver",
        [
            found.apiserver,
            f"--etcd-servers=https://127.0.0.1:{etcd_port}",
            f"--etcd-cafile={etcd.pair.certificate}",
            f"--etcd-certfile={to_etcd.certificate}",
            f"--etcd-keyfile={to_etcd.key}",
            f"--bind-address={address}",
            f"--advertise-address={address}",
            f"--secure-port={port}",
            f"--tls-cert-file={serving.certificate}",
            f"--tls-private-key-file={serving.key}",
            f"--client-ca-file={authority.pair.certificate}",
            f"--kubelet-certificate-authority={authority.pair.certificate}",
            f"--kubelet-client-certificate={to_kubelet.certificate}",
            f"--kubelet-client-key={to_kubelet.key}",
            "--kubelet-preferred-address-types=InternalIP",
            f"--requestheader-client-ca-file={front.pair.certificate}",
            "--requestheader-allowed-names=front-proxy-client",
            "--requestheader-username-headers=X-Remote-User",
            "--requestheader-group-headers=X-Remote-Group",
            "--requestheader-extra-headers-prefix=X-Remote-Extra-",
            f"--proxy-client-cert-file={to_aggregated.certificate}",
            f"--proxy-client-key-file={to_aggregated.key}",
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
            f"--service-account-key-file={state.pki / 'service-accounts.pub'}",
            f"--service-account-signing-key-file={state.pki / 'service-accounts.key'}",
            f"--service-cluster-ip-range={SERVICE_RANGE}",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--allow-privileged=true",
            # Without nodes there is nobody to whom a loopback address could be advertised.
            *([] if node else ["--endpoint-reconciler-type=none"]),
            f"--audit-policy-file={policy}",
            f"--audit-log-path={state.audit_log}",
            # Blocking: when a client has its answer, the line is in the file. Tests count on it.
            "--audit-log-mode=blocking",
            "--audit-log-maxsize=1024",
            "--audit-log-maxbackup=1",
            "--profiling=false",
        ],
    )
    return Api(f"https://{address}:{port}", authority.pair.certificate, admin)


def _start_controller_manager(state: State, found: Programs, plane: ControlPlane) -> None:
    authority = plane.authority
    config = plane.account(state, "controller-manager", "/CN=system:kube-controller-manager")
    processes.start(
        state,
        "kube-controller-manager",
        [
            found.controller_manager,
            f"--kubeconfig={config}",
            f"--authentication-kubeconfig={config}",
            f"--authorization-kubeconfig={config}",
            "--bind-address=127.0.0.1",
            f"--secure-port={free_port()}",
            f"--cert-dir={state.root / 'controller-manager'}",
            # It would be made under /usr/libexec, by whoever is root.
            f"--flex-volume-plugin-dir={state.root / 'volume-plugins'}",
            "--leader-elect=false",
            "--use-service-account-credentials=true",
            f"--service-account-private-key-file={state.pki / 'service-accounts.key'}",
            f"--root-ca-file={authority.pair.certificate}",
            f"--cluster-signing-cert-file={authority.pair.certificate}",
            f"--cluster-signing-key-file={authority.pair.key}",
            f"--service-cluster-ip-range={SERVICE_RANGE}",
            "--profiling=false",
        ],
    )


def client(state: State) -> Api:
    """Return the administrator's way into a cluster that is up; raises ClusterError where there is none."""
    try:
        record: dict[str, Any] = json.loads(state.record.read_text())
    except FileNotFoundError as error:
        message = f"There is no cluster named {state.name}. Make it: python3 -m cluster up --name {state.name}"
        raise ClusterError(message) from error
    return Api(record["server"], state.pki / "ca.crt", Pair(state.pki / "admin.crt", state.pki / "admin.key"))
