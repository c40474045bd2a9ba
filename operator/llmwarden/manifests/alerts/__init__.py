"""PrometheusRules: what is recorded of every service and every objective, and all alerts.

Dashboards and status read the same recorded series. Start at `shared_rules` (once for all services) and `rules` (beside each service).
"""
