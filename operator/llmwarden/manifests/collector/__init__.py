"""The trace collector: one OpenTelemetry Collector for the cluster, where the platform wants one (docs/traces.md).

The operator makes it, not the chart: its configuration follows the LLMServices (what is slow or dear for each, which web pages send spans),
and a collector reads its configuration only when it starts. So Deployment and configuration are made together, the one marked with the
other's hash. It has no rights in the cluster; keys of backends go from Secrets to its environment and through nobody else's hands.
"""
