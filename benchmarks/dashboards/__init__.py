"""Both dashboards over a thousand services: a real Prometheus with hours of simulated series, asked as Grafana asks."""
