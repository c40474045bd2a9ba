"""What is said about finished calls: Prometheus metrics and spans. Start at `metrics`."""
