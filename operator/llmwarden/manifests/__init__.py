"""The objects that the operator owns: monitors, rules, alerts, dashboards, exporters, the collector, the webhook configuration.

Pure: `params` in, objects out; `control.act` applies them. Start at `builder`, which lists all of them.
"""
