"""A real single-node Kubernetes without Docker: etcd to kubelet from packages and one Go build.

from cluster import Cluster
kubeconfig = Cluster("api-tests", "control-plane").up()
"""

from cluster.errors import ClusterError
from cluster.lifecycle import Cluster, Shape

__all__ = ["Cluster", "ClusterError", "Shape"]
