"""PrometheusRules: what is recorded of every service and every objective, and all alerts.

Start at `shared_rules`, the PrometheusRule `llmwarden-services` in our namespace. It records and judges what is the same of every service,
`by (namespace, llmservice)`. Beside each service (`rules`) is only what its own spec can say, and nothing but records: its objectives'
rates, shares and burn rates, GPUs whose figures are too high, and constants with labels that the alerts read:

- `llmservice:spec:info`: `dashboard` (UID), `engine`, `alerts` (default alerts that are on: `,A,B,`)
- `llmwarden:objective:error_budget_ratio`: `objective`, `over`, `target`, `bad` (words), `indicator`, `threshold`
- `llmwarden:objective:spend_limit_usd_per_hour`: `objective`, `limit` (words)
- `llmwarden:budget:info`: `budget`, `kind`, `action`, `consequence`, `window` (words), `calendar`
- `llmwarden:budget:warn_ratio`: `budget`, `kind`, `threshold` (percent)

Rules to keep:

- An alert holds only where `llmservice:spec:info` is: a service that is switched off or deleted has none, while its pods run on.
- A join in a rule for all services must not be able to fail over one service: the "one" side is an aggregation or `topk(1)`, and engines'
  names are spelled out (`rate` over a regular expression fails where one target has a metric under two names).
- A service's type decides by which names its engine is read: NVIDIA's containers have vLLM's names, too.
- Shares of up to six hours are recorded every 30 s, longer ones every 4 min: a sum over four weeks reads 80,000 samples of each series.
- Both PrometheusRules must be evaluated by one Prometheus; `status.selected` reports where they are not.

`tests/golden/alerts/test_all.py` compares every alert's labels, figure, links and cases.
"""
