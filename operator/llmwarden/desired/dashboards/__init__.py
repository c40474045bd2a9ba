"""Grafana dashboards, built with Grafana's own typed SDK: one per LLMService (`service`), one over all (`overview`)."""
