"""The asynchronous half of the Kubernetes client, without the synchronous one.

`kubernetes/__init__.py` imports both, and the synchronous half brings requests, oauthlib and websocket: 8 MiB of each of our processes. Here the
package is known by its path before `kubernetes.aio` is imported from it, so that its `__init__` never runs.
"""

import sys
from importlib.util import find_spec, module_from_spec

if "kubernetes" not in sys.modules:
    spec = find_spec("kubernetes")
    if spec is None:
        raise ModuleNotFoundError("No module named 'kubernetes'", name="kubernetes")  # noqa: EM101, TRY003 - as Python says it
    sys.modules["kubernetes"] = module_from_spec(spec)

from kubernetes.aio.client import ApiClient, Configuration
from kubernetes.aio.config import ConfigException, load_incluster_config, load_kube_config

__all__ = ["ApiClient", "ConfigException", "Configuration", "load_incluster_config", "load_kube_config"]
