"""What the operator reads: local copies of the cluster, and answers of Prometheus, the ledger and engines.

Nothing here writes to the cluster; `control.act` does. Start at `world`.

Our own kinds and Namespaces come through kopf (`on.event` only), all else through informers (`kube.informer`). Informers select by label at
the server, keep only what is needed of an object, live without an API that is not installed, and notice what was deleted while a watch was
away. Pods and Services are watched once for the whole cluster (`kube.scoped`) and kept of namespaces that hold an LLMService; a namespace
that gets its first LLMService is listed by itself. A watch that fails for half a minute is a condition of every service (`Observed`), and
a kind that cannot be read is not written. Of Prometheus, Alertmanager and Grafana objects only the selectors are kept (`choosers`). The
start does not wait for what may be missing: those conditions are Unknown.
"""
