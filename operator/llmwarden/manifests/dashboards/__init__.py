"""Grafana dashboards: one per LLMService (`service`), one over all (`overview`), of the few kinds of panel in `panels`.

A dashboard is plain JSON without what Grafana assumes by itself; tests compare it with Grafana's own types. What most queries share is in
hidden variables (`$of`, `$zero`, `$mine`; in backticks, since Grafana escapes quotes). Panels that differ by a metric's name only are one
panel, repeated. `tests/golden/operator/test_sizes.py` holds a service's rules and dashboard to 15 kB each. Start at `service`.
"""
