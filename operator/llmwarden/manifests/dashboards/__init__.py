"""Grafana dashboards: one per LLMService (`service`), one over all (`overview`), of the few kinds of panel in `panels`."""
